"""Product features: cumulants, the bias of one head, its law in n, exact risks of the other layers."""

import math
import pickle
from itertools import product

import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.symbols import d, k, n, noise_var, v

R = sp.Rational
WRONG = R(103, 100)
ONE, TWO = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
LINEAR, CENTERED = icl.LinearAttention(), icl.LinearAttention(centered=True)
TASK = icl.LinearRegression(dim=d, noise_var=noise_var)
UNIFORM = icl.UniformCube(dim=1, half_width=sp.sqrt(3))
SIGNS, LAPLACE = icl.Rademacher(dim=1), icl.Laplace(dim=1, scale=1 / sp.sqrt(2))
K4, K6 = sp.symbols("kappa_4 kappa_6", real=True)
GENERAL = icl.CoordinateCumulants([1, K4, K6])


def assert_same(value, typed):
    assert sp.simplify(value - typed) == 0
    assert sp.simplify(value * WRONG - typed) != 0


# -- cumulants --------------------------------------------------------------------------------------


def density_moment(law, p):
    x = sp.Symbol("x", positive=True)
    if law is UNIFORM:
        return sp.integrate(x**p, (x, 0, sp.sqrt(3))) / sp.sqrt(3)
    if law is LAPLACE:
        return sp.integrate(x**p * sp.exp(-sp.sqrt(2) * x) * sp.sqrt(2), (x, 0, sp.oo))
    return sp.S.One


@pytest.mark.parametrize("law", [UNIFORM, SIGNS, LAPLACE])
def test_moments_of_the_laws(law):
    coordinate = icl.CoordinateCumulants.of(law, 10)
    for p in (2, 4, 6, 8, 10):
        assert sp.simplify(coordinate.moment(p) - density_moment(law, p)) == 0
    wide = type(law)(1, 7 * law.scales[0])
    scaled = icl.CoordinateCumulants.of(wide, 10)
    assert scaled.variance == 49
    assert all(scaled.moment(p) == coordinate.moment(p) for p in (4, 6, 10))


def test_cumulants_of_other_symmetric_laws():
    mixture = icl.GaussianMixture([R(1, 2), R(1, 2)], [[2], [-2]], [[[1]], [[1]]])
    coordinate = icl.CoordinateCumulants.of(mixture)
    assert coordinate.variance == 5
    assert coordinate.moment(4) == R(3 + 6 * 4 + 16, 25)
    points = icl.Empirical([[-2], [0], [2]], weights=[R(1, 8), R(3, 4), R(1, 8)])
    assert icl.CoordinateCumulants.of(points).moment(6) == 16
    with pytest.raises(InvalidInput, match="not symmetric"):
        icl.CoordinateCumulants.of(icl.Empirical([[0], [1]]))


def test_cumulants_are_values():
    coordinate = icl.CoordinateCumulants([2, 1, 0])
    assert pickle.loads(pickle.dumps(coordinate)) == coordinate
    assert {coordinate: 1}[icl.CoordinateCumulants([2, 1, 0])] == 1
    assert coordinate.cumulant(4) == R(1, 4)
    with pytest.raises(AttributeError, match="immutable"):
        coordinate.even = ()


@pytest.mark.parametrize(
    ("even", "message"),
    [
        ([], "must list"),
        ("1", "must list"),
        ([0], "must be positive"),
        ([1, -3], "no law has the cumulants"),
        ([1, 0, -9], "no law has the cumulants"),
        ([1, math.nan], "not finite"),
    ],
)
def test_bad_cumulants(even, message):
    with pytest.raises(InvalidInput, match=message):
        icl.CoordinateCumulants(even)


# -- one head ---------------------------------------------------------------------------------------


def test_bias_and_law_of_the_reference():
    factor = (K4 / 6) ** 2 * (15 + 15 * K4 + K6 - (3 + K4) ** 2)
    bias = icl.product_bias(TASK, GENERAL)
    assert_same(bias.expr, factor * k**4)
    law = icl.optimal_product_risk(TASK, GENERAL, ONE)
    at = {K4: R(-6, 5), K6: R(48, 7), noise_var: R(1, 4), n: 1000}
    typed = 3 * factor ** R(1, 3) * ((1 + noise_var) / 2) ** R(2, 3) * n ** R(-2, 3)
    scale = ((1 + noise_var) / (2 * factor * n)) ** R(1, 6)
    assert float(law.expr.subs(at)) == pytest.approx(float(typed.subs(at)), rel=1e-12)
    assert float(law.minimizer[k].subs(at)) == pytest.approx(float(scale.subs(at)), rel=1e-12)
    assert law.validity.subs(at) == sp.true
    same = icl.optimal_product_risk(TASK, UNIFORM, ONE)
    assert float(same.subs(noise_var=R(1, 4), n=1000)) == pytest.approx(float(typed.subs(at)))
    assert float(icl.product_bias(TASK, UNIFORM).expr.subs(k, 1)) == pytest.approx(
        0.024686, abs=5e-7
    )
    assert float(same.subs(noise_var=0, n=1)) == pytest.approx(0.550, abs=5e-4)


def best_bias(power_series, moment, scale):
    """min over v of E (v f - xi)^2 for an odd polynomial f, by its moments; power -> coefficient."""
    cross = sum(c * scale**p * moment(p + 1) for p, c in power_series.items())
    square = sum(
        a * b * scale ** (p + q) * moment(p + q)
        for (p, a), (q, b) in product(power_series.items(), repeat=2)
    )
    return 1 - cross**2 / square


@pytest.mark.parametrize("law", [UNIFORM, LAPLACE])
def test_bias_against_the_whole_series(law):
    coordinate = icl.CoordinateCumulants.of(law, 10)
    series = {p - 1: coordinate.cumulant(p) / sp.factorial(p - 1) for p in range(2, 8, 2)}
    scale = R(1, 1000)
    ratio = best_bias(series, coordinate.moment, scale) / icl.product_bias(TASK, law).expr.subs(
        k, scale
    )
    assert float(ratio) == pytest.approx(1, abs=1e-4)


def test_vanishing_fourth_cumulant_gives_the_next_rate():
    c6, c8, c10 = sp.symbols("c6 c8 c10", real=True)
    coordinate = icl.CoordinateCumulants([1, 0, c6, c8, c10])
    bias = icl.product_bias(TASK, coordinate)
    mu6 = 15 + c6
    mu10 = 945 + 210 * 6 * c6 / 2 + 45 * c8 + c10  # 945 + 10!/(6! 4!) 3 c6 + 10!/(8! 2!) c8 + c10
    assert_same(bias.expr, (c6 / 120) ** 2 * (mu10 - mu6**2) * k**8)
    law = icl.optimal_product_risk(TASK, coordinate, ONE)
    at = {c6: 1, c8: 0, c10: 0, noise_var: 0}
    ratio = law.expr.subs(at).subs(n, 32000) / law.expr.subs(at).subs(n, 1000)
    assert float(ratio) == pytest.approx(32 ** (-0.8), rel=1e-12)


def test_the_law_is_the_minimum_of_bias_and_variance():
    law = icl.optimal_product_risk(TASK, LAPLACE, ONE).subs(noise_var=R(1, 2), n=10**8)
    bias = icl.product_bias(TASK, LAPLACE).expr

    def risk(scale):
        return float(bias.subs(k, scale) + R(3, 2) / (scale**2 * 10**8))

    best = float(law.minimizer[k])
    assert risk(best) == pytest.approx(float(law.expr), rel=1e-12)
    assert min(risk(1.01 * best), risk(best / 1.01)) > risk(best)


@pytest.mark.parametrize("features", [icl.Gaussian([0], [[1]]), icl.CoordinateCumulants([1, 0, 0])])
def test_gaussian_features_are_sent_elsewhere(features):
    with pytest.raises(InvalidInput, match="optimal_loss_constant"):
        icl.product_bias(TASK, features)


# -- coordinates with values -c, 0, c ---------------------------------------------------------------

THREE = icl.Empirical([[-2], [0], [2]], weights=[R(1, 8), R(3, 4), R(1, 8)])


@pytest.mark.parametrize("law", [SIGNS, THREE])
def test_no_bias_on_three_points(law):
    with pytest.raises(InvalidInput, match="product_head_constant"):
        icl.product_bias(TASK, law)
    constant = icl.product_head_constant(TASK, law)
    u = sp.Symbol("u", real=True)
    slope = sp.diff(law.cgf([u]), u)
    point = 1 if law is SIGNS else 2
    read = slope.subs(u, k * point)
    assert float((constant.minimizer[v] * read).subs(k, 0.4)) == pytest.approx(point, rel=1e-12)


def test_constant_of_signs_against_the_token_expansion():
    # Independently from the vector law in d = 2: lim n Cov and the label noise, summed over queries.
    scale, noise = R(3, 5), R(1, 4)
    law, best = icl.Rademacher(dim=2), 1 / sp.tanh(R(3, 5))
    total = 0
    for query in product((-1, 1), repeat=2):
        u = [scale * x for x in query]
        cov = icl.leading_covariance(law, u).expr
        rho = icl.weight_moment(law, u).expr
        total += best**2 * (cov.trace() / 2 + noise * rho) / 4
    constant = icl.product_head_constant(icl.LinearRegression(dim=2, noise_var=noise), SIGNS)
    value = float(constant.subs(k=scale).expr)
    assert value == pytest.approx(float(total), rel=1e-12)
    assert value != pytest.approx(1.03 * float(total), rel=1e-3)


def test_signs_may_favour_one_head():
    # sum over d, no noise: the pair's constant is d - 1; one head goes below it at k = 0.9, d = 5.
    task = icl.LinearRegression(dim=5)
    pair = sp.limit(n * icl.optimal_product_risk(task, SIGNS, TWO).expr, n, sp.oo)
    assert pair == 4
    assert float(icl.product_head_constant(task, SIGNS).subs(k=R(9, 10)).expr) < 4
    with pytest.raises(InvalidInput, match="more values"):
        icl.product_head_constant(task, UNIFORM)


# -- linear attention and small opposite heads ------------------------------------------------------


@pytest.mark.parametrize("layer", [TWO, LINEAR, CENTERED, icl.SoftmaxAttention(heads=4)])
def test_gaussian_features_return_the_gaussian_risks(layer):
    gaussian = icl.Gaussian([0], [[1]])
    assert (
        sp.simplify(
            icl.product_risk(TASK, gaussian, layer).expr - icl.finite_prompt_risk(TASK, layer).expr
        )
        == 0
    )
    best, known = (
        icl.optimal_product_risk(TASK, gaussian, layer),
        icl.optimal_finite_prompt_risk(TASK, layer),
    )
    assert sp.simplify(best.expr - known.expr) == 0
    assert best.attained is known.attained


def test_exact_forms_and_the_reference_constant():
    s = 1 + noise_var
    along = (s * d + 1) / (n - 1) + K4 / n
    assert_same(icl.product_risk(TASK, GENERAL, CENTERED).expr, (1 - v) ** 2 + v**2 * along)
    best = icl.optimal_product_risk(TASK, GENERAL, TWO)
    assert_same(best.expr, along / (1 + along))
    assert_same(sp.limit(n * best.expr, n, sp.oo), s * d + 1 + K4)
    assert_same(
        icl.product_risk(TASK, GENERAL, LINEAR).expr, (1 - v) ** 2 + v**2 * (s * d + 1 + K4) / n
    )


def enumerated(prompt, dim, noise, scale, centered):
    """Exact risk of linear attention on +-1 features, over all prompts and queries; theta by trace."""
    total, count = sp.S.Zero, 0
    shift = 1 if centered else 0
    for bits in product((-1, 1), repeat=prompt * dim):
        x = sp.Matrix(prompt, dim, bits)
        mean = sp.ones(1, prompt) * x / prompt
        y = x - shift * sp.ones(prompt, 1) * mean
        moment = y.T * y / (prompt - shift)
        error = sp.eye(dim) - scale * moment
        total += (error * error.T).trace() / dim
        total += noise * scale**2 * (y * y.T / (prompt - shift) ** 2).trace()
        count += 1
    return total / count


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize(("prompt", "dim"), [(2, 1), (3, 2), (4, 2)])
def test_exact_risk_by_enumeration(prompt, dim, centered):
    scale, noise = R(2, 3), R(1, 5)
    task = icl.LinearRegression(dim=dim, noise_var=noise)
    formula = icl.product_risk(task, SIGNS, icl.LinearAttention(centered=centered))
    assert_same(
        formula.subs(n=prompt, v=scale).expr, enumerated(prompt, dim, noise, scale, centered)
    )


def test_scale_of_the_features_and_of_the_coefficients():
    wide = icl.LinearRegression(dim=d, noise_var=noise_var, feature_cov=R(1, 3), coef_cov=2 / d)
    base = icl.optimal_product_risk(TASK, UNIFORM, TWO).expr
    scaled = icl.optimal_product_risk(wide, icl.UniformCube(dim=1), TWO).expr
    signal = R(2, 3)
    assert_same(scaled, signal * base.subs(noise_var, noise_var / signal))
    one, other = (
        icl.optimal_product_risk(TASK, UNIFORM, ONE).expr,
        icl.optimal_product_risk(wide, icl.UniformCube(dim=1), ONE).expr,
    )
    at = {noise_var: R(1, 5), n: 100}
    moved = signal * one.subs(noise_var, noise_var / signal)
    assert float(other.subs(at)) == pytest.approx(float(moved.subs(at)), rel=1e-12)


@settings(max_examples=3, deadline=None)
@given(st.integers(1, 6), st.integers(0, 14), st.integers(2, 40))
def test_general_coefficients_matter_through_their_trace(dim, noise, length):
    moments, noise = [R(i + 1, 3) for i in range(dim)], R(noise, 7)
    task = icl.LinearRegression(dim=dim, noise_var=noise, coef_cov=moments)
    signal = sum(moments)
    base = icl.LinearRegression(dim=dim, noise_var=noise / signal)
    for layer in (TWO, LINEAR):
        given_task, scaled = (
            icl.optimal_product_risk(x, UNIFORM, layer).subs(n=length).expr for x in (task, base)
        )
        assert given_task == signal * scaled


@pytest.mark.parametrize(
    ("task", "features", "message"),
    [
        (TASK, icl.UniformCube(dim=1), "pass feature_cov=1/3"),
        (icl.LinearRegression(dim=2), icl.Rademacher(dim=3), "dimension 3, the task 2"),
        (icl.LinearRegression(dim=2), icl.Rademacher(dim=2, scale=[1, 2]), "identical coordinates"),
        (icl.LinearRegression(dim=2), icl.Sphere(dim=2), "identical coordinates"),
        (icl.LinearRegression(dim=2, feature_cov=[1, 2]), SIGNS, "rescale the law"),
        (icl.LinearRegression(dim=2, coef_mean=[1, 0]), SIGNS, "coef_mean is not supported"),
        (TASK, "signs", "features has type str"),
        ("task", SIGNS, "task has type str"),
    ],
)
def test_refusals(task, features, message):
    with pytest.raises(InvalidInput, match=message):
        icl.product_risk(task, features, TWO)


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        (ONE, "no closed form"),
        (icl.SoftmaxAttention(scores=[1], values=[1]), "leave the scores out"),
        (icl.SoftmaxAttention(heads=2, skip=True), "skip is not supported"),
        (5, "attention has type int"),
    ],
)
def test_refused_layers(attention, message):
    with pytest.raises(InvalidInput, match=message):
        icl.product_risk(TASK, SIGNS, attention)


def test_missing_cumulants():
    with pytest.raises(InvalidInput, match="up to kappa_6"):
        icl.product_bias(TASK, icl.CoordinateCumulants([1, -1]))
    with pytest.raises(InvalidInput, match="list kappa_6"):
        icl.product_bias(TASK, icl.CoordinateCumulants([1, 0]))
    assert icl.product_risk(TASK, icl.CoordinateCumulants([1, -1]), LINEAR).expr.has(v)
