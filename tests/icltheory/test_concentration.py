"""Weight moments, exact output moments, bounds and exponents against brute force and typed values."""

import math
import pickle

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import icltheory as icl
from icltheory.concentration import delta
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.exponents import beta, tau
from icltheory.laws.weights import moment_symbol, power_sum, s, score_sum
from icltheory.symbols import n

WRONG = 1.03  # every comparison must reject a value that is 3 % off
G, G3, G22 = moment_symbol(2), moment_symbol(3), moment_symbol(2, 2)
CORRELATED = icl.Gaussian([0.5, -1], [[1, 0.3], [0.3, 0.8]])
DUAL = [sp.Rational(7, 10), sp.Rational(-2, 5)]


def assert_close(value, reference, relative):
    value, reference = float(value), float(reference)
    assert abs(value - reference) <= relative * abs(reference), (value, reference)
    assert abs(WRONG * value - reference) > relative * abs(reference)


# -- moments of the weights --------------------------------------------------------------------------


def gauss_hermite_average(polynomial, scale, nodes=80):
    """E of a polynomial in P_k and Q_k for two tokens, by a product rule."""
    x, weight = np.polynomial.hermite_e.hermegauss(nodes)
    weight = np.outer(weight, weight) / weight.sum() ** 2
    xi = np.stack(np.meshgrid(x, x, indexing="ij"))
    p = np.exp(scale * xi - np.logaddexp(scale * xi[0], scale * xi[1]))
    variables = sorted(sp.sympify(polynomial).free_symbols - {s}, key=str)
    values = []
    for v in variables:
        k = int(v.name[2:])
        values.append((p**k * (xi if v.name[0] == "Q" else 1)).sum(axis=0))
    f = sp.lambdify([s, *variables], polynomial)
    return float(np.sum(weight * f(scale, *values)))


def moments_in(expr, scale):
    """Values of the weight moments in `expr` for two tokens, by the same rule."""
    table = {s: scale}
    for symbol in expr.free_symbols - {s}:
        digits = symbol.name[1:] or "2"
        product = sp.Mul(*(power_sum(int(k)) for k in digits))
        table[symbol] = gauss_hermite_average(product, scale)
    return table


@pytest.mark.parametrize(
    "polynomial",
    [
        score_sum(1),
        score_sum(1) ** 2,
        score_sum(2) * power_sum(2),
        score_sum(1) * score_sum(2) * power_sum(3),
        score_sum(1) ** 4,
        score_sum(3) ** 2 + s * score_sum(1) * power_sum(2) - 2,
    ],
)
def test_integration_by_parts_on_two_tokens(polynomial):
    scale = 0.8
    reduced = icl.softmax_expectation(polynomial)
    assert not any(x.name.startswith(("P", "Q")) for x in reduced.free_symbols)
    assert_close(
        reduced.subs(moments_in(reduced, scale)), gauss_hermite_average(polynomial, scale), 1e-9
    )


def test_slopes_as_printed():
    typed = {
        (2,): 2 * s * (G - 4 * G3 + 3 * G22),
        (3,): 6 * s * (G3 - 3 * moment_symbol(4) + 2 * moment_symbol(3, 2)),
        (2, 2): 4
        * s
        * (G22 + 2 * moment_symbol(4) - 8 * moment_symbol(3, 2) + 5 * moment_symbol(2, 2, 2)),
    }
    for parts, expected in typed.items():
        assert sp.expand(icl.softmax_moment_slope(*parts).expr - expected) == 0
        assert sp.expand(icl.softmax_moment_slope(*parts).expr * WRONG - expected) != 0


@pytest.mark.parametrize("parts", [(2,), (4,), (2, 2), (3, 2)])
def test_slopes_are_differences(parts):
    product = sp.Mul(*(power_sum(k) for k in parts))
    h, scale = 1e-3, 0.8
    values = [gauss_hermite_average(product, scale + j * h) for j in (-2, -1, 1, 2)]
    slope = icl.softmax_moment_slope(*parts).expr
    exact = slope.subs(moments_in(slope, scale))
    assert_close(exact, (8 * (values[2] - values[1]) - values[3] + values[0]) / (12 * h), 1e-8)


def test_expansions_as_printed():
    w = sp.exp(s**2)
    assert icl.softmax_moment_expansion(2).expr.equals(w / n + (3 * w**2 - 2 * w**3 - w) / n**2)
    assert icl.softmax_moment_expansion(3, order=1).expr == sp.exp(3 * s**2) / n**2
    assert icl.softmax_moment_expansion(2, 2, order=1).expr == sp.exp(2 * s**2) / n**2


def test_expansions_at_scale_zero_are_exact():
    # p = 1/n there: every coefficient beyond the first vanishes.
    for parts in ((2,), (3,), (2, 2), (4, 2), (3, 2, 2)):
        power = sum(parts) - len(parts)
        assert icl.softmax_moment_expansion(*parts, order=4).expr.subs(s, 0) == n**-power


# -- exact output moments ----------------------------------------------------------------------------


def test_output_moments_as_printed():
    gamma, m, a = CORRELATED.cov, CORRELATED.mean, sp.Matrix(DUAL)
    shift, value = gamma * a, sp.Matrix([[1, 2], [0, -1], [3, 1]])
    eta = 1 - G - 6 * (G3 - G22)
    pairs = [
        (icl.mean_output(CORRELATED, DUAL), m + (1 - G) * shift),
        (
            icl.output_covariance(CORRELATED, DUAL),
            G * gamma + (eta - (1 - G) ** 2) * shift * shift.T,
        ),
        (
            icl.mean_jacobian(CORRELATED, DUAL),
            (1 - G) * gamma - 2 * (G - 4 * G3 + 3 * G22) * shift * shift.T,
        ),
        (
            icl.output_error(CORRELATED, DUAL, value.tolist()),
            sp.Matrix(
                [
                    G * (value * gamma * value.T).trace()
                    + (G - 6 * (G3 - G22)) * ((value * shift).T * (value * shift))[0]
                ]
            ),
        ),
    ]
    for formula, typed in pairs:
        expr = sp.Matrix([formula.expr]) if not formula.expr.is_Matrix else formula.expr
        assert (expr - typed).applyfunc(sp.expand).is_zero_matrix
        assert not (expr * sp.Rational(103, 100) - typed).applyfunc(sp.expand).is_zero_matrix


def test_one_token_has_no_attention():
    one = {G: 1, G3: 1, G22: 1}
    assert icl.mean_output(CORRELATED, DUAL).expr.subs(one) == CORRELATED.mean
    assert icl.output_covariance(CORRELATED, DUAL).expr.subs(one) == CORRELATED.cov
    assert icl.mean_jacobian(CORRELATED, DUAL).expr.subs(one).is_zero_matrix
    error = icl.output_error(CORRELATED, DUAL).expr.subs(one)
    shift = CORRELATED.cov * sp.Matrix(DUAL)
    assert error == CORRELATED.cov.trace() + (shift.T * shift)[0]


def test_error_expansion_and_where_it_starts_to_hold():
    law, u = icl.Gaussian([0], [[1]]), [sp.Integer(1)]
    w = sp.exp(1)
    f = icl.output_error_expansion(law, u)
    second = 3 * w**2 - 2 * w**3 - w
    typed = 2 * w / n + (2 * second - 6 * (w**3 - w**2)) / n**2
    assert sp.expand(f.expr - typed) == 0
    ratio = f.steps[0].equation.rhs
    assert sp.simplify(ratio - (2 * second - 6 * (w**3 - w**2)) / (2 * w) / n) == 0


def test_singular_covariance_and_symbols():
    k = sp.Symbol("k", positive=True)
    flat = icl.Gaussian([0, 0], [[k, k], [k, k]])
    f = icl.output_error(flat, [1, 0])
    assert sp.expand(f.expr - (2 * k * G + 2 * k**2 * (G - 6 * G3 + 6 * G22))) == 0
    assert icl.mean_output(flat, [1, -1]).expr.is_zero_matrix  # scores do not vary
    assert pickle.loads(pickle.dumps(f)) == f


def test_query_averaged_constant_reference():
    law = icl.Gaussian([0, 0], [[1, 0], [0, 0.5]])
    f = icl.query_averaged_error(law, [[0.4, 0.1], [0, 0.5]], [[1, 0], [0, 0.8]], value=[1, -0.5])
    assert_close(f.expr, 1.87273311, 3e-9)
    with pytest.raises(OutOfDomain):
        icl.query_averaged_error(icl.Gaussian([0], [[1]]), sp.Symbol("k", real=True), 1).subs(k=0.8)


# -- bounds ------------------------------------------------------------------------------------------


def rademacher_error(length, u):
    """E (T_n - tanh u)^2 for signs, by enumerating the number of + signs."""
    total = 0.0
    for plus in range(length + 1):
        up, down = plus * math.exp(u), (length - plus) * math.exp(-u)
        output = (up - down) / (up + down)
        total += math.comb(length, plus) / 2**length * (output - math.tanh(u)) ** 2
    return total


@pytest.mark.parametrize("u", [0.0, 0.7, 2.0])
def test_bounds_hold_for_signs_at_every_length(u):
    law, dual = icl.Rademacher(1), [sp.Rational(str(u))]
    for cut in (sp.Rational(1, 2), sp.Rational(4, 5)):
        f = icl.concentration_bound(law, dual, threshold=cut)
        for length in (1, 2, 3, 10, 30, 100, 300):
            assert rademacher_error(length, u) <= float(f.subs(n=length).expr)
    # Signs are 1-sub-Gaussian, and |z - tanh u| <= 2.
    wide = icl.subgaussian_bound(1, sp.Rational(str(u)), 16)
    assert float(wide.subs(n=50).expr) >= float(icl.concentration_bound(law, dual).subs(n=50).expr)


def test_bound_is_sharp_up_to_its_constant():
    # A larger threshold brings the constant down to that of the leading term.
    law = icl.Rademacher(1)
    cut = sp.Rational(95, 100)
    bound = icl.concentration_bound(law, [0.7], threshold=cut).subs(n=10**6).expr
    leading = icl.leading_covariance(law, [0.7]).expr[0, 0] / 10**6
    assert_close(bound * cut**2, leading, 1e-9)


def test_gaussian_bound_as_printed():
    gamma, a = CORRELATED.cov, sp.Matrix(DUAL)
    shift = gamma * a
    rho, norm2 = sp.exp((a.T * shift)[0]), (shift.T * shift)[0]
    size = gamma.trace() + norm2
    fourth = size**2 + 2 * (gamma**2).trace() + 4 * (shift.T * gamma * shift)[0]
    typed = 4 * rho / n * size + sp.sqrt(n * fourth) * sp.exp(-n / (16 * rho))
    bound = icl.concentration_bound(CORRELATED, DUAL)
    high = icl.high_probability_bound(CORRELATED, DUAL)
    for length in (1, 40, 1000):
        assert_close(bound.expr.subs(n, length), typed.subs(n, length), 1e-12)
    radius = 2 * sp.sqrt(2 * rho * size / (delta * n))
    at = {n: 1000, delta: sp.Rational(1, 20)}
    assert_close(high.expr.subs(at), radius.subs(at), 1e-12)
    start = 8 * rho * sp.log(40)
    assert high.validity.subs({delta: sp.Rational(1, 20), n: math.ceil(start)}) == sp.true
    assert high.validity.subs({delta: sp.Rational(1, 20), n: math.floor(start)}) == sp.false
    with pytest.raises(OutOfDomain):
        high.subs(delta=sp.Rational(1, 20), n=10)


def test_gradient_error_as_printed():
    gamma, a = CORRELATED.cov, sp.Matrix(DUAL)
    shift, z = gamma * a, [2, -1]
    w2 = sp.exp((a.T * shift)[0])
    table = icl.leading_gradient_error(CORRELATED, DUAL, z)
    size = gamma.trace() + (shift.T * shift)[0]
    jacobian = size**2 + (gamma**2).trace() + 2 * (shift.T * gamma * shift)[0]
    assert_close(table["V"].expr, 2 * w2 * size, 1e-12)
    assert_close(table["U"].expr, 5 * w2 * jacobian, 1e-12)
    assert_close(table["U"].expr, 5 * icl.leading_jacobian_error(CORRELATED, DUAL).expr, 1e-12)


def test_gradient_error_of_signs_by_enumeration():
    u, value, length = 0.7, 3, 1000
    exact = 0.0
    for plus in range(length + 1):
        up, down = plus * math.exp(u), (length - plus) * math.exp(-u)
        mean = (up - down) / (up + down)
        log_weight = (
            math.lgamma(length + 1) - math.lgamma(plus + 1) - math.lgamma(length - plus + 1)
        )
        weight = math.exp(log_weight - length * math.log(2))
        exact += weight * (value * ((1 - mean**2) - (1 - math.tanh(u) ** 2))) ** 2
    predicted = icl.leading_gradient_error(icl.Rademacher(1), [u], [2], value=[value])["U"].expr
    assert_close(float(predicted) / length, 4 * exact, 0.01)  # the next term is of order 1/n


# -- exponents ---------------------------------------------------------------------------------------


def counted_phase(b):
    """The exponent of the squared error by a search over levels."""
    x = np.linspace(0, 3, 300_001)
    normaliser = np.max(np.where(x <= 1, 1 - x**2 + 2 * b * x, -np.inf))
    return np.max(1 - x**2 + np.minimum(0, 2 * (2 * b * x - normaliser)))


@pytest.mark.parametrize("b", [0.01, 0.3, 0.57, 0.6, 0.85, 0.99, 1.0, 1.7])
def test_phase_exponent_against_a_search(b):
    value = float(icl.phase_exponent().subs(beta=b).expr)
    # The search has steps of 1e-5.
    assert abs(value - counted_phase(b)) < 5e-5
    if abs(value) > 0.01:
        assert abs(WRONG * value - counted_phase(b)) > 2e-4


@given(st.floats(0.2, 4))
@settings(max_examples=15, deadline=None)
def test_concentration_exponent_against_a_search(width):
    scales = np.linspace(1e-6, 1.2, 4001)
    phi = sp.lambdify(beta, icl.phase_exponent().expr)(scales)
    best = np.min(scales**2 / width**2 - phi)
    kappa = float(icl.concentration_exponent().subs(tau=width).expr)
    assert abs(kappa - best) < 1e-6
    assert abs(WRONG * kappa - best) > 1e-4


def test_exponent_references():
    kappa, phi = icl.concentration_exponent(), icl.phase_exponent()
    for square, value in ((1, 0.618034), (2, 0.366025), (4, 0.207107)):
        assert_close(kappa.subs(tau=sp.sqrt(square)).expr, value, 3e-6)
        y = sp.sqrt(1 + sp.Rational(4, square))
        assert sp.simplify(kappa.subs(tau=sp.sqrt(square)).expr - (y - 1) / 2) == 0
        assert sp.simplify(kappa.minimizer[beta].subs(tau, sp.sqrt(square)) ** 2 - 1 / y) == 0
    for b, value in ((0.5, -0.5), (0.65, -0.197341), (0.75, -0.085069)):
        assert_close(phi.subs(beta=b).expr, value, 6e-6)
    assert kappa.subs(tau=0.3).expr == 1
    assert kappa.attained


def test_phases_meet():
    phi = icl.phase_exponent().expr
    for edge in (1 / math.sqrt(3), 1.0):
        below, above = (float(phi.subs(beta, edge + h)) for h in (-1e-9, 1e-9))
        assert abs(below - above) < 1e-8


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: icl.mean_output(icl.Rademacher(1), [1]), InvalidInput, "Gaussian tokens"),
        (lambda: icl.output_error(CORRELATED, [1]), InvalidInput, "1 entries"),
        (lambda: icl.output_error(CORRELATED, DUAL, value=[1]), InvalidInput, "rows of length 1"),
        (lambda: icl.output_error_expansion(CORRELATED, DUAL, order=0), InvalidInput, "order = 0"),
        (lambda: icl.concentration_bound(1, [1]), InvalidInput, "has type int"),
        (lambda: icl.concentration_bound(CORRELATED, DUAL, 1), InvalidInput, "between 0 and 1"),
        (lambda: icl.concentration_bound(icl.Laplace(1), [0.6]), OutOfDomain, "outside"),
        (lambda: icl.subgaussian_bound(-1, 1, 1), InvalidInput, "negative"),
        (lambda: icl.leading_gradient_error(CORRELATED, DUAL, [1]), InvalidInput, "query has 1"),
        (lambda: moment_symbol(1), InvalidInput, "at least 2"),
        (lambda: icl.phase_exponent().subs(beta=-1), OutOfDomain, "beta = -1"),
        (lambda: icl.slow_decay_law().subs(tau=0.5), OutOfDomain, "outside"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_partitions_of_blocks():
    # The expansion sums over all ways to share tokens: E P_2 P_2 = n E w^4/S^4 + n(n-1) E w^2 v^2/S^4.
    terms = icl.softmax_moment_expansion(2, 2, order=2).expr
    w = sp.exp(s**2)
    assert sp.expand(terms.coeff(n, -3) - (w**6 - 8 * w**4 + 10 * w**3 - 3 * w**2)) == 0
