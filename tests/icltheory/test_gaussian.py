"""Gaussian calculus against quadrature, classical identities and symbolic limits."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

import icltheory as icl
from icltheory.laws.gaussian import tilted_mean

x, y = sp.symbols("x y", real=True)
r2, c = sp.symbols("r2 c")
d = sp.Symbol("d", integer=True, positive=True)


def quadrature(p, cov, mean, quadratic, linear):
    """E p exp(x'Mx + b'x) in the plane: trapezoidal sum, geometrically convergent here."""
    axis, step = np.linspace(-20, 20, 801, retstep=True)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1)
    gap = z - mean
    exponent = np.einsum("...i,ij,...j", z, quadratic, z) + z @ linear
    exponent -= np.einsum("...i,ij,...j", gap, np.linalg.inv(cov), gap) / 2
    values = sp.lambdify((x, y), p, "numpy")(z[..., 0], z[..., 1])
    return (values * np.exp(exponent)).sum() * step**2 / (2 * np.pi * np.sqrt(np.linalg.det(cov)))


@pytest.mark.parametrize("p", [sp.S.One, x * y, x**2 * y**2 + 3 * x, x**4 - y])
def test_explicit_expectation_against_quadrature(p):
    cov, mean = (
        [[1, sp.Rational(3, 10)], [sp.Rational(3, 10), sp.Rational(4, 5)]],
        [sp.Rational(1, 5), -1],
    )
    quadratic = [[sp.Rational(1, 10), sp.Rational(1, 20)], [sp.Rational(1, 20), -sp.Rational(1, 4)]]
    linear = [sp.Rational(1, 2), sp.Rational(-1, 3)]
    formula = icl.gaussian_expectation(
        p, [x, y], cov=cov, mean=mean, quadratic=quadratic, linear=linear
    )
    value = quadrature(p, *(np.array(a, dtype=float) for a in (cov, mean, quadratic, linear)))
    assert formula.validity == sp.true
    error = abs(float(formula.expr.evalf(20)) - value)
    assert error < 1e-12 * abs(value)
    assert abs(1.03 * float(formula.expr) - value) > 1e-12 * abs(value)


def test_singular_covariance_and_its_limit():
    # x = y almost surely: E x y e^{t x y} is the one-dimensional E x^2 e^{t x^2}.
    t = sp.Symbol("t", real=True)
    half = [[0, t / 2], [t / 2, 0]]
    plane = icl.gaussian_expectation(x * y, [x, y], cov=[[1, 1], [1, 1]], quadratic=half)
    line = icl.gaussian_expectation(x**2, [x], cov=1, quadratic=t)
    assert sp.simplify(plane.expr / line.expr) == 1
    assert line.validity == (t < sp.Rational(1, 2))
    with pytest.raises(icl.OutOfDomain, match="outside"):
        line.subs(t=sp.Rational(3, 5))


@pytest.mark.parametrize("power", [0, 1, 2, 3, 4])
def test_isotropic_moments_are_the_chi_square_ones(power):
    expected = sp.prod(d + 2 * j for j in range(power))
    assert sp.expand(icl.isotropic_expectation(r2**power, r2, dim=d).expr - expected) == 0
    assert sp.expand(icl.isotropic_expectation(r2**power, r2, dim=d).expr - expected - d) != 0


@given(
    st.integers(1, 3),
    st.fractions(-1, "1/5", max_denominator=20),
    st.fractions("1/10", 2, max_denominator=10),
    st.integers(0, 2),
    st.integers(0, 2),
)
def test_symbolic_dimension_equals_explicit_coordinates(dim, rate, variance, power, degree):
    rate, variance = (
        sp.Rational(rate.numerator, rate.denominator),
        sp.Rational(variance.numerator, variance.denominator),
    )
    coordinates = sp.symbols(f"x1:{dim + 1}", real=True)
    a = sp.Matrix([sp.Rational(j + 1, 3) for j in range(dim)])
    mean, linear = sp.Rational(1, 4) * a, sp.Rational(-1, 2) * a
    s = sp.Symbol("s", real=True)
    short = icl.isotropic_expectation(
        r2**power * s**degree,
        r2,
        dim=dim,
        variance=variance,
        quadratic=rate,
        forms=[s],
        gram=[[a.dot(a)]],
        mean=[sp.Rational(1, 4)],
        linear=[sp.Rational(-1, 2)],
    )
    vector = sp.Matrix(coordinates)
    p = sp.expand(vector.dot(vector) ** power * a.dot(vector) ** degree)
    long = icl.gaussian_expectation(
        p, coordinates, cov=variance, mean=list(mean), quadratic=rate, linear=list(linear)
    )
    assert sp.S(short.validity) == sp.S(long.validity)
    if short.validity == sp.true:
        assert sp.N(short.expr - long.expr, 30, chop=True).is_zero or abs(
            sp.N(short.expr - long.expr, 40)
        ) < 1e-25 * abs(sp.N(long.expr, 20))


def test_tilting_completes_the_square():
    mean, log_normaliser = tilted_mean([1, 0], [[2, 1], [1, 3]], [c, 0])
    assert list(mean) == [1 + 2 * c, c]
    assert sp.expand(log_normaliser - (c + c**2)) == 0


def test_wick_moments_count_pairings():
    s = sp.Symbol("s")
    names = sp.symbols("a b g h")
    cov = [[sp.Symbol(f"c{min(i, j)}{max(i, j)}") for j in range(4)] for i in range(4)]
    moment = icl.wick_moment(sp.prod(names), names, [0] * 4, cov)
    pairings = cov[0][1] * cov[2][3] + cov[0][2] * cov[1][3] + cov[0][3] * cov[1][2]
    assert sp.expand(moment - pairings) == 0
    assert icl.wick_moment(x**6, [x], [0], [[s]]) == 15 * s**3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: icl.gaussian_expectation(x, [x, y], cov=[[1, 2], [2, 1]]),
            "positive semi-definite",
        ),
        (lambda: icl.gaussian_expectation(x, [x, y], cov=[[1, 0]]), "shape 1 x 2"),
        (lambda: icl.gaussian_expectation(x, [x], cov=1, mean=[1, 2]), "mean has 2 entries"),
        (lambda: icl.gaussian_expectation(x, [x], cov=float("nan")), "not finite"),
        (
            lambda: icl.gaussian_expectation(x, [x, y], cov=1, quadratic=[[0, 1], [0, 0]]),
            "symmetric",
        ),
        (lambda: icl.isotropic_expectation(r2, r2, dim=0), "not a positive integer"),
        (lambda: icl.wick_moment(x, [x], [0, 0], [[1]]), "mean has 2 entries; 1 are needed"),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()


@pytest.mark.parametrize("quadratic", [sp.Rational(1, 2), 0.6, 3])
def test_infinite_expectations_are_refused(quadratic):
    x, r2 = sp.symbols("x r2")
    with pytest.raises(icl.OutOfDomain, match="infinite"):
        icl.gaussian_expectation(x**2, [x], cov=1, quadratic=quadratic)
    with pytest.raises(icl.OutOfDomain, match="infinite"):
        icl.isotropic_expectation(1, r2, dim=3, quadratic=quadratic)


def test_no_polynomial_is_refused():
    x = sp.Symbol("x")
    with pytest.raises(icl.InvalidInput, match="no polynomial in x"):
        icl.wick_moment(sp.exp(x), [x], [0], [[1]])
