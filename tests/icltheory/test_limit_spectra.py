"""Limit spectra and the density near zero: moments, resolvents, Stieltjes equation, known constants."""

import math

import mpmath
import pytest
import sympy as sp

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.symbols import d, lam, n

G = sp.Symbol("gamma", positive=True)


@pytest.mark.parametrize("power", range(8))
def test_moments_are_narayana_sums_and_limits_of_the_finite_ones(power):
    narayana = (
        sp.Integer(1)
        if power == 0
        else sp.Add(
            *(
                sp.binomial(power, k) * sp.binomial(power - 1, k) * G**k / (k + 1)
                for k in range(power)
            )
        )
    )
    moment = icl.limit_trace_moment(power)
    assert sp.expand(moment - narayana) == 0
    finite = sp.expand(icl.wishart_trace_moment(power).subs(d, G * n) / (G * n ** (power + 1)))
    assert sp.expand(sp.limit(finite, n, sp.oo) - moment) == 0
    assert icl.limit_trace_moment(power, 1) == sp.catalan(power)


def test_many_moments():
    """Order 60 in gamma against Narayana's numbers; the recursion runs in a polynomial ring."""
    found = sp.Poly(icl.limit_trace_moment(60), sp.Symbol("gamma", positive=True))
    numbers = [math.comb(60, j + 1) * math.comb(60, j) // 60 for j in range(60)]
    assert found.all_coeffs() == numbers[::-1]


def test_general_covariance_solves_the_stieltjes_equation():
    # Sigma with eigenvalues 1 and 3, half each. m(z) = E 1/(sigma g - z), g = 1 - gamma - gamma z m,
    # and m = -sum_k m_k z^{-k-1} for large z.
    w = sp.Symbol("w")  # 1/z
    order = 6
    moments = [
        icl.limit_trace_moment(k, G, [sp.Rational(1 + 3**j, 2) for j in range(1, order + 1)])
        for k in range(order + 1)
    ]
    scaled = sp.Add(*(m * w**k for k, m in enumerate(moments)))  # -z m
    g = 1 - G + G * scaled
    right = sum(sp.Rational(1, 2) / (1 - sigma * g * w) for sigma in (1, 3))
    numerator = sp.numer(sp.together(right - scaled))
    series = sp.Poly(sp.expand(numerator), w)
    assert all(sp.expand(series.coeff_monomial(w**k)) == 0 for k in range(order + 1))
    assert sp.expand(series.coeff_monomial(w ** (order + 1))) != 0


@pytest.mark.parametrize("weight", [0, 1, 2])
def test_general_covariance_is_the_limit_of_the_finite_moments(weight):
    # d = 2 m with half of the eigenvalues 1 and 3, n = d/gamma.
    size = sp.Symbol("m", positive=True, integer=True)
    for power in (1, 2, 3, 4):
        traces = {sp.Symbol(f"s_{j}", positive=True): size * (1 + 3**j) for j in range(1, 8)}
        finite = icl.wishart_covariance_moment(power, weight=weight).subs(traces)
        finite = sp.expand(finite.subs(n, 2 * size / G) / (2 * size) / (2 * size / G) ** power)
        moments = [sp.Rational(1 + 3**j, 2) for j in range(1, 8)]
        limit = icl.limit_trace_moment(power, G, moments, weight=weight)
        assert sp.expand(sp.limit(finite, size, sp.oo) - limit) == 0


@pytest.mark.parametrize("gamma", [0.3, 1, 2.5])
def test_density_and_resolvent(gamma):
    formula = icl.marchenko_pastur_density(gamma)
    density = sp.lambdify(sp.Symbol("x", positive=True), formula.expr, "mpmath")
    low, high = (1 - mpmath.sqrt(gamma)) ** 2, (1 + mpmath.sqrt(gamma)) ** 2

    def average(f):
        return mpmath.quad(lambda x: f(x) * density(x).real, [low, (low + high) / 2, high])

    atom = max(0, 1 - 1 / gamma)
    assert average(lambda x: 1) + atom == pytest.approx(1, abs=1e-8)
    for power in (1, 2, 3):
        exact = float(icl.limit_trace_moment(power, gamma))
        assert float(average(lambda x, p=power: x**p)) == pytest.approx(exact, rel=1e-8)
    resolvent = icl.marchenko_pastur_resolvent(gamma=gamma)
    z = resolvent.symbols[0].symbol
    for value in (0.2, 1.0):
        expected = float(average(lambda x, v=value: 1 / (x + v)) + atom / value)
        assert float(resolvent.expr.subs(z, value)) == pytest.approx(expected, rel=1e-8)
        slope = float(average(lambda x, v=value: -1 / (x + v) ** 2) - atom / value**2)
        assert float(sp.diff(resolvent.expr, z).subs(z, value)) == pytest.approx(slope, rel=1e-7)


def test_edge_constants_of_the_reference():
    values = {20: 2.20830256227, 21: 10, 22: 23.1871769039, 25: 44}
    for length, constant in values.items():
        nu, m, most = length - 20, sp.Integer(20), sp.Integer(length)
        density = icl.edge_density(length, 20).expr
        exponent = sp.Rational(nu - 1, 2)
        leading = sp.limit(density / lam**exponent, lam, 0)
        assert float(leading) == pytest.approx(constant, rel=1e-11)
        half = sp.Rational(1, 2)
        closed = 2**exponent * sp.gamma((most + 1) * half) / sp.factorial(nu) / sp.gamma(m * half)
        assert sp.gammasimp(leading / closed) == 1
        slope = sp.Rational(1, 2) + sp.Rational(19, nu + 1)
        assert sp.cancel(density / (leading * lam**exponent)) == 1 - slope * lam
    assert float(icl.edge_density(20, 20).expr.subs(lam, 0.01)) == pytest.approx(
        float(icl.edge_density().subs(n=20, d=20, lam=0.01)), rel=1e-12
    )


def test_edge_of_one_eigenvalue_is_a_chi_square():
    # d = 1: density x^{n/2 - 1} e^{-x/2} / (2^{n/2} Gamma(n/2)), hence b = 1/2.
    for length in (1, 2, 5):
        half = sp.Rational(length, 2)
        exact = lam ** (half - 1) / (2**half * sp.gamma(half)) * (1 - lam / 2)
        assert sp.gammasimp(sp.powsimp(icl.edge_density(length, 1).expr / exact)) == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: icl.limit_trace_moment(-1), "power = -1"),
        (lambda: icl.limit_trace_moment(3, cov_moments=[1, 2]), "needed up to j"),
        (lambda: icl.limit_trace_moment(2, gamma=0), "not positive"),
        (lambda: icl.marchenko_pastur_resolvent(-1), "z = -1 is not positive"),
        (lambda: icl.edge_density(0, 3), "not a positive integer"),
        (lambda: icl.marchenko_pastur_density("gamma"), "text is never parsed"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(InvalidInput, match=words):
        call()
