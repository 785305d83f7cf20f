"""Proportional regime, approximate losses and product features against exact risks and simulation."""

import math
from itertools import pairwise, product

import mpmath
import numpy as np
import pytest
import sympy as sp

import icltheory as icl
import numeric
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.proportional import a, gamma, kappa
from icltheory.symbols import d, k, n, noise_var, v

R = sp.Rational
WRONG = 1.03
TASK = icl.LinearRegression(dim=d, noise_var=noise_var)
ONE, TWO = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
UNIFORM = icl.UniformCube(dim=1, half_width=math.sqrt(3))
SIGNS, LAPLACE = icl.Rademacher(dim=1), icl.Laplace(dim=1, scale=math.sqrt(0.5))
GAUSSIAN = icl.Gaussian([0], [[1]])


def assert_sampled(estimate, value, resolution):
    """Within 5 standard errors, at the stated resolution; 3 % off is rejected where it resolves 3 %."""
    error = 5 * estimate.standard_error
    assert error < resolution * estimate.value
    assert abs(estimate.value - value) < error
    if resolution <= 0.03:
        assert abs(estimate.value - WRONG * value) > error


# -- proportional regime ----------------------------------------------------------------------------


def limit_at(ratio, noise, inverse_temperature, total):
    expr = icl.proportional_risk(TASK, ONE).expr
    return float(expr.subs({gamma: ratio, noise_var: noise, kappa: inverse_temperature, a: total}))


def test_exact_risk_of_the_reference():
    task, scale = icl.LinearRegression(dim=1000), 1000**-0.5
    risk = numeric.exact_risk(task, ONE, 2000, scale)
    assert risk == pytest.approx(0.57634, abs=6e-6)
    limit = float(icl.optimal_proportional_risk(TASK, ONE).subs(gamma=R(1, 2), noise_var=0))
    assert limit == pytest.approx(0.57612, abs=6e-6)
    assert abs(risk / limit - 1) < 1e-3 < abs(WRONG * risk / limit - 1)


@pytest.mark.parametrize(
    ("ratio", "noise", "scale", "total"), [(0.5, 0.0, 1.0, 0.4), (2.0, 0.3, 0.7, 0.2)]
)
def test_distance_from_the_limit_is_of_order_one_over_n(ratio, noise, scale, total):
    limit, gaps = limit_at(ratio, noise, scale, total), []
    for length in (400, 800, 1600):
        dim = round(ratio * length)
        task = icl.LinearRegression(dim=dim, noise_var=noise)
        k_n = scale / math.sqrt(dim)
        gaps.append(numeric.exact_risk(task, ONE, length, k_n, total / k_n) - limit)
    rates = [math.log2(x / y) for x, y in pairwise(gaps)]
    assert rates == pytest.approx([1, 1], abs=0.02)
    assert gaps[-1] < 3e-3 * limit


def test_optimum_approaches_its_limit():
    for length, bound in ((400, 4e-3), (1600, 1e-3)):
        task = icl.LinearRegression(dim=length // 2, noise_var=0.25)
        best = numeric.optimal_risk(task, ONE, length)
        limit = icl.optimal_proportional_risk(TASK, ONE).subs(gamma=R(1, 2), noise_var=R(1, 4))
        assert abs(best.risk / float(limit) - 1) < bound < abs(WRONG * best.risk / float(limit) - 1)
        assert best.score_scale * math.sqrt(length / 2) == pytest.approx(1, abs=20 / length)


def test_several_heads_by_simulation():
    dim, length, noise = 400, 800, 0.3
    c, w = (0.3, -0.7, 1.1), (0.5, -0.3, 0.2)
    root = sp.sqrt(d)
    symbolic = icl.SoftmaxAttention(scores=[x / root for x in c], values=[x * root for x in w])
    limit = icl.proportional_risk(TASK, symbolic).subs(gamma=R(1, 2), noise_var=noise)
    heads = icl.SoftmaxAttention(
        scores=[x / math.sqrt(dim) for x in c], values=[x * math.sqrt(dim) for x in w]
    )
    task = icl.LinearRegression(dim=dim, noise_var=noise)
    risk = numeric.monte_carlo_risk(task, heads, length, prompts=4000, seed=1)
    assert_sampled(risk, float(limit.expr), 0.02)


def test_linear_attention_and_small_heads_share_the_limit():
    task = icl.LinearRegression(dim=1000, noise_var=0.5)
    limit = float(icl.optimal_proportional_risk(TASK, TWO).subs(gamma=R(1, 2), noise_var=R(1, 2)))
    for layer in (icl.LinearAttention(), icl.LinearAttention(centered=True)):
        risk = numeric.optimal_risk(task, layer, 2000).risk
        assert risk == pytest.approx(limit, rel=1e-3)
        assert WRONG * risk != pytest.approx(limit, rel=1e-3)


# -- the approximate loss of He et al. --------------------------------------------------------------

# dim, n: relative error at the approximation's own optimum, and what that optimum costs.
ERRORS = [
    (5, 40, -0.126, 0.014),
    (5, 200, -0.2454, 0.0199),
    (20, 200, -0.056, 0.0002),
    (100, 200, -0.0038, 0.0005),
    (100, 10_000, -0.0192, 0.0004),
    (1000, 2000, -0.0004, 0.0),
]


@pytest.mark.parametrize(("dim", "length", "error", "cost"), ERRORS)
def test_size_of_the_approximation_error(dim, length, error, cost):
    task, scale = icl.LinearRegression(dim=dim), dim**-0.5
    value = 1 / (scale * (1 + math.e * dim / length))
    measured = numeric.approximation_error(task, ONE, length, scale, value)
    assert measured == pytest.approx(error, abs=6e-5)
    risk = numeric.exact_risk(task, ONE, length, scale, value)
    best = numeric.optimal_risk(task, ONE, length).risk
    assert risk / best - 1 == pytest.approx(cost, abs=6e-5)
    # The number from its definition, the loss typed.
    typed = (1 - scale * value) ** 2 + value**2 / length * math.exp(dim * scale**2)
    assert typed / risk - 1 == pytest.approx(measured, rel=1e-9)


def test_approximation_error_of_a_scaled_task_and_of_given_heads():
    base, scaled = icl.LinearRegression(dim=5, noise_var=0.1), icl.LinearRegression(5, 0.5, None, 1)
    one = numeric.approximation_error(base, ONE, [40, 100], 0.4, 1.5)
    assert numeric.approximation_error(scaled, ONE, [40, 100], 0.4, 1.5) == pytest.approx(one)
    head = icl.SoftmaxAttention(scores=[0.4], values=[1.5])
    assert numeric.approximation_error(base, head, [40, 100]) == pytest.approx(one, rel=1e-9)
    for arguments in ((TWO, 40, 0.4, 1.5), (ONE, 40), (icl.LinearAttention(), 40)):
        with pytest.raises(InvalidInput, match="heads"):
            numeric.approximation_error(base, *arguments)


def test_approximation_of_a_small_pair_misses_one_part_in_d_plus_one():
    dim, length, scale = 5, 2000, 0.05
    value = 1 / (2 * scale)
    pair = icl.SoftmaxAttention(scores=[scale, -scale], values=[value, -value])
    approximate = icl.approximate_risk(icl.LinearRegression(dim=dim), pair).subs(n=length)
    risk = numeric.monte_carlo_risk(icl.LinearRegression(dim=dim), pair, length, prompts=30_000)
    assert_sampled(risk, float(approximate) * (dim + 1) / dim, 0.03)


# -- product features: infinite prompts -------------------------------------------------------------


def test_infinite_prompt_against_mpmath():
    task, scale, value = icl.LinearRegression(dim=4), 0.8, 1.3

    def integrand(x):
        u = scale * x * mpmath.sqrt(3)
        read = mpmath.sqrt(3) * (mpmath.coth(u) - 1 / u)
        return (value * read - x) ** 2 / mpmath.sqrt(3)

    exact = float(mpmath.quad(integrand, [mpmath.mpf(10) ** -30, mpmath.sqrt(3)]))
    assert numeric.product_limit_risk(task, UNIFORM, scale, value) == pytest.approx(
        exact, rel=1e-11
    )
    best = numeric.product_limit_risk(task, UNIFORM, scale)
    others = numeric.product_limit_risk(task, UNIFORM, scale, np.linspace(0.5, 3, 4001))
    assert best <= others.min() <= best * (1 + 1e-4)


@pytest.mark.parametrize("law", [UNIFORM, icl.Empirical([[-3], [-1], [1], [3]])])
def test_bias_law_for_small_scores(law):
    variance = icl.CoordinateCumulants.of(law).variance
    task = icl.LinearRegression(dim=2, feature_cov=variance)
    bias = icl.product_bias(task, law)
    ratios = [numeric.product_limit_risk(task, law, x) / float(bias.subs(k=x)) for x in (0.1, 0.05)]
    assert abs(ratios[1] - 1) < 0.005
    assert (1 - ratios[0]) / (1 - ratios[1]) == pytest.approx(4, abs=0.1)  # corrections in k^2
    assert abs(WRONG * ratios[1] - 1) > 0.005


def test_signs_have_no_bias():
    task = icl.LinearRegression(dim=3)
    assert numeric.product_limit_risk(task, SIGNS, 0.7) < 1e-30
    assert numeric.product_limit_risk(task, SIGNS, 0.7, 1.0) == pytest.approx(
        (math.tanh(0.7) - 1) ** 2
    )


def test_laplace_queries_leave_the_domain():
    task = icl.LinearRegression(dim=1)
    for call in (numeric.product_limit_risk, numeric.product_expansion):
        with pytest.raises(OutOfDomain, match="no limit"):
            call(task, LAPLACE, 0.3)


# -- product features: finite prompts ---------------------------------------------------------------


def test_exact_risk_of_gaussian_features_is_the_known_one():
    task = icl.LinearRegression(dim=1, noise_var=0.3)
    for length, scale in ((2, 0.5), (40, 1.1), (3000, 0.4), (10**6, 0.3)):
        for value in (None, 1.2):
            mine = numeric.exact_product_risk(task, GAUSSIAN, length, scale, value)
            known = numeric.exact_risk(task, ONE, length, scale, value)
            assert mine == pytest.approx(known, rel=1e-8)
            assert WRONG * mine != pytest.approx(known, rel=1e-8)


@pytest.mark.parametrize(("length", "scale"), [(1, 0.9), (2, 0.9), (5, 0.4), (7, 1.7)])
def test_exact_risk_of_signs_by_enumeration(length, scale):
    # k copies of the query's sign among n: weights are e^c and e^-c.
    value, noise = 1.1, 0.3
    total = 0.0
    for same in range(length + 1):
        up, down = same * math.exp(scale), (length - same) * math.exp(-scale)
        read = (up - down) / (up + down)
        square = (same * math.exp(2 * scale) + (length - same) * math.exp(-2 * scale)) / (
            up + down
        ) ** 2
        probability = math.comb(length, same) / 2**length
        total += probability * ((1 - value * read) ** 2 + noise * value**2 * square)
    task = icl.LinearRegression(dim=1, noise_var=noise)
    mine = numeric.exact_product_risk(task, SIGNS, length, scale, value)
    assert mine == pytest.approx(total, rel=1e-10)
    assert WRONG * mine != pytest.approx(total, rel=1e-10)


def test_exact_risk_of_three_points_by_enumeration():
    points = icl.Empirical([[-1], [0], [1]], weights=[0.25, 0.5, 0.25])
    task = icl.LinearRegression(dim=1, noise_var=0.2, feature_cov=0.5)
    length, scale, value, total = 4, 0.6, 1.4, 0.0
    chance = {-1: 0.25, 0: 0.5, 1: 0.25}
    for query, *prompt in product((-1, 0, 1), repeat=length + 1):
        x = np.array(prompt)
        w = np.exp(scale * query * x / 0.5)
        w /= w.sum()
        probability = math.prod(chance[z] for z in (query, *prompt))
        total += probability * ((query - value * w @ x) ** 2 + 0.2 * value**2 * w @ w)
    assert numeric.exact_product_risk(task, points, length, scale, value) == pytest.approx(total)


def test_one_head_law_of_the_reference():
    # Uniform features, d = 1, no noise; the published values are .522, .545, .551 and the limit .550.
    task = icl.LinearRegression(dim=1)
    lengths = np.array([1e3, 1e5, 1e7])
    best = numeric.best_product_head(task, UNIFORM, lengths)
    scaled = best.risk * lengths ** (2 / 3)
    assert scaled == pytest.approx([0.522, 0.545, 0.551], abs=2.1e-3)
    assert scaled == pytest.approx([0.5216, 0.5443, 0.5490], abs=6e-5)
    # Independently, from the expansion in 1/n at fixed k, minimised on a grid around the optimum.
    for length, risk, at in zip(lengths, best.risk, best.score_scale, strict=True):
        grid = [
            numeric.product_expansion(task, UNIFORM, at * x) for x in np.linspace(0.97, 1.03, 7)
        ]
        assert min(x + c / length for x, c in grid) == pytest.approx(
            risk, rel=0.3 / length**0.5 / at
        )
    law = icl.optimal_product_risk(task, UNIFORM, ONE)
    predicted = numeric.compile(law)(n=lengths)
    assert np.all(np.abs(best.risk / predicted - 1)[1:] < [0.012, 0.003])
    assert np.all(np.abs(WRONG * best.risk / predicted - 1)[1:] > 0.015)
    scale = float(law.minimizer[k].subs(n, 10**7))
    assert best.score_scale[2] == pytest.approx(scale, rel=0.03)
    value = float(law.minimizer[v].subs(n, 10**7))
    assert best.value_scale[2] * best.score_scale[2] == pytest.approx(value * scale, rel=1e-3)
    # The value matters: with v = 1/k the linear part of the cubic term stays in the bias.
    naive = numeric.exact_product_risk(
        task, UNIFORM, 10**7, best.score_scale[2], 1 / best.score_scale[2]
    )
    assert naive > 1.7 * best.risk[2]


def test_rates_of_one_head():
    lengths, task = np.array([1e5, 1e7]), icl.LinearRegression(dim=1, noise_var=1)
    risks = {
        UNIFORM: numeric.best_product_head(task, UNIFORM, lengths).risk,
        GAUSSIAN: numeric.optimal_risk(task, ONE, lengths).risk,
    }
    slopes = {law: math.log10(x[0] / x[1]) / 2 for law, x in risks.items()}
    assert slopes[UNIFORM] == pytest.approx(2 / 3, abs=0.01)
    assert slopes[GAUSSIAN] == pytest.approx(1, abs=0.02)


def test_expansion_against_exact_quadrature():
    task = icl.LinearRegression(dim=1, noise_var=0.4)
    for law, scale, value in ((UNIFORM, 0.5, 2.3), (SIGNS, 0.8, 1.7)):
        limit, coefficient = numeric.product_expansion(task, law, scale, value)
        gaps = [
            length * (numeric.exact_product_risk(task, law, length, scale, value) - limit)
            for length in (10**4, 2 * 10**4)
        ]
        extrapolated = 2 * gaps[1] - gaps[0]
        assert extrapolated == pytest.approx(coefficient, rel=1e-5)
        assert WRONG * extrapolated != pytest.approx(coefficient, rel=1e-5)


def test_expansion_in_two_dimensions_against_the_vector_law():
    # Query by query from the law in R^2, summed over a product lattice of queries.
    noise, scale, value = 0.3, 0.5, 2.2
    y, w = np.polynomial.legendre.leggauss(12)
    queries = math.sqrt(3) * np.stack(np.meshgrid(y, y), axis=-1)
    weights = np.outer(w, w) / 4
    vector = numeric.feature_expansion(
        icl.UniformCube(dim=2, half_width=math.sqrt(3)), queries, scale, value, 0.5, noise
    )
    task = icl.LinearRegression(dim=2, noise_var=noise)
    mine = numeric.product_expansion(task, UNIFORM, scale, value)
    other = np.sum(weights * vector.limit), np.sum(weights * vector.first_order)
    assert mine == pytest.approx(other, rel=1e-9)
    assert WRONG * mine[1] != pytest.approx(other[1], rel=1e-9)


def test_expansion_of_signs_is_the_symbolic_constant():
    task = icl.LinearRegression(dim=4, noise_var=0.3)
    limit, coefficient = numeric.product_expansion(task, SIGNS, 0.6)
    assert limit < 1e-28
    constant = float(icl.product_head_constant(task, SIGNS).subs(k=0.6))
    assert coefficient == pytest.approx(constant, rel=1e-12)


def test_layer_in_three_dimensions_by_simulation():
    task = icl.LinearRegression(dim=3, noise_var=0.3)
    scale, value, length = 0.45, 1.9, 400
    limit, coefficient = numeric.product_expansion(task, UNIFORM, scale, value)
    head = icl.SoftmaxAttention(scores=[scale], values=[value])
    risk = numeric.simulate_product_risk(task, UNIFORM, head, length, prompts=20_000, seed=2)
    assert_sampled(risk, limit + coefficient / length, 0.04)
    # The exact risk in one dimension, at a length where no expansion holds.
    line = icl.LinearRegression(dim=1, noise_var=0.3)
    exact = numeric.exact_product_risk(line, LAPLACE, 12, 0.3, 1.4)
    head = icl.SoftmaxAttention(scores=[0.3], values=[1.4])
    risk = numeric.simulate_product_risk(line, LAPLACE, head, 12, prompts=300_000, seed=3)
    assert_sampled(risk, exact, 0.02)


def test_two_heads_keep_the_rate():
    # Small opposite heads at every n, for a law with kurtosis 3; and how far one head is behind.
    task = icl.LinearRegression(dim=3, noise_var=0.25)
    length, scale = 12, 0.01
    formula = icl.product_risk(task, LAPLACE, TWO)
    total = float(icl.optimal_product_risk(task, LAPLACE, TWO).minimizer[v].subs(n, length))
    value = total / (2 * scale)
    pair = icl.SoftmaxAttention(scores=[scale, -scale], values=[value, -value])
    risk = numeric.simulate_product_risk(task, LAPLACE, pair, length, prompts=300_000, seed=4)
    exact = float(formula.subs(n=length, v=total).expr)
    assert_sampled(risk, exact, 0.02)
    gaussian = float(icl.finite_prompt_risk(task, TWO).subs(n=length, v=total).expr)
    assert abs(risk.value - gaussian) > 5 * risk.standard_error
    centred = numeric.simulate_product_risk(
        task, LAPLACE, icl.LinearAttention(centered=True), length, value_scale=0.5, prompts=120_000
    )
    typed = icl.product_risk(task, LAPLACE, icl.LinearAttention(centered=True))
    assert_sampled(centred, float(typed.subs(n=length, v=0.5).expr), 0.03)


def test_scaled_features_and_coefficients():
    wide = icl.UniformCube(dim=1, half_width=3)
    task = icl.LinearRegression(dim=1, noise_var=0.6, feature_cov=3, coef_cov=2)
    base = icl.LinearRegression(dim=1, noise_var=0.1)
    mine = numeric.exact_product_risk(task, wide, [5, 50], 0.6, 1.2)
    assert mine == pytest.approx(6 * numeric.exact_product_risk(base, UNIFORM, [5, 50], 0.6, 1.2))
    limits = (
        numeric.product_limit_risk(task, wide, 0.6),
        numeric.product_limit_risk(base, UNIFORM, 0.6),
    )
    assert limits[0] == pytest.approx(6 * limits[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: numeric.exact_product_risk(t, SIGNS, 10, 0.5), "available in dimension 1"),
        (lambda t: numeric.best_product_head(t, SIGNS, 10), "available in dimension 1"),
        (lambda t: numeric.product_limit_risk(t, SIGNS, -0.5), "is negative"),
        (lambda t: numeric.product_limit_risk(t, icl.CoordinateCumulants([1]), 1), "are not a law"),
        (lambda t: numeric.product_expansion(t, SIGNS, [1, 2]), "one number each"),
        (lambda t: numeric.product_limit_risk(t, icl.UniformCube(dim=1), 1), "feature_cov=1/3"),
        (lambda t: numeric.simulate_product_risk(t, SIGNS, ONE, 10), "scores=..., values=..."),
        (lambda t: numeric.simulate_product_risk(t, SIGNS, icl.LinearAttention(), 10), "missing"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InvalidInput, match=message):
        call(icl.LinearRegression(dim=3))


def test_scores_beyond_the_quadrature():
    with pytest.raises(OutOfDomain, match="scores reach 400"):
        numeric.exact_product_risk(icl.LinearRegression(dim=1), SIGNS, 10, 500.0)


@pytest.mark.parametrize("k_value", [0.2, 0.35, 0.45])
def test_expansion_of_gaussian_features_is_the_head_constant(k_value):
    task = icl.LinearRegression(dim=4, noise_var=0.3)
    _, found = numeric.product_expansion(task, GAUSSIAN, k_value, 1 / k_value)
    expected = float(icl.head_constant(task, [k_value], [1 / k_value]))
    assert found == pytest.approx(expected, rel=1e-8) != WRONG * expected


@pytest.mark.parametrize("k_value", [0.6, 0.7, 0.75, 2.0])
def test_expansion_refuses_averages_beyond_its_nodes(k_value):
    with pytest.raises(OutOfDomain, match="infinite, or decided by queries too large"):
        numeric.product_expansion(icl.LinearRegression(dim=4), GAUSSIAN, k_value, 1 / k_value)


@pytest.mark.parametrize("prompt", [2, 3])
def test_simulation_takes_laws_without_quadrature(prompt):
    task = icl.LinearRegression(dim=1, noise_var=0.5)
    mixture = icl.GaussianMixture([0.5, 0.5], [[-0.6], [0.6]], [[[0.64]], [[0.64]]])
    layer = icl.LinearAttention()
    estimate = numeric.simulate_product_risk(task, mixture, layer, prompt, value_scale=0.5)
    exact = float(icl.product_risk(task, mixture, layer).subs(n=prompt, v=R(1, 2)).expr)
    assert_sampled(estimate, exact, 0.05)
    with pytest.raises(InvalidInput, match="no quadrature"):
        numeric.product_limit_risk(task, mixture, 0.3)


def test_approximation_error_refuses_the_query_token():
    head = icl.SoftmaxAttention(heads=1, include_query=True)
    with pytest.raises(InvalidInput, match="include_query"):
        numeric.approximation_error(icl.LinearRegression(dim=5), head, 40, 0.4, 1.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": 3}, "pass a token law"),
        ({"b": [1, 2]}, "b has shape"),
        ({"noise_var": [1, 2]}, "noise_var has shape"),
        ({"noise_var": -1}, "is negative"),
        ({"coef_cov": -1}, "no second moment"),
        ({"coef_cov": [[1, 2], [0, 1]]}, "no second moment"),
        ({"coef_cov": [1, 2, 3]}, "pass a number or d x d"),
        ({"queries": [1, 2, 3]}, "queries has shape"),
    ],
)
def test_refused_feature_expansions(change, message):
    given = {"features": icl.Rademacher(dim=2), "queries": [1, 1], "A": 0.5, "b": 2.0, **change}
    with pytest.raises(InvalidInput, match=message):
        numeric.feature_expansion(**given)


def test_feature_expansion_needs_a_prompt():
    found = numeric.feature_expansion(icl.Rademacher(dim=2), [1, 1], 0.5, 2.0)
    with pytest.raises(InvalidInput, match="at least 1"):
        found.risk(0)


def test_simulated_risk_of_a_head_on_features_of_any_law():
    cov, A, b, length = (
        np.array([[1, 0.3], [0.3, 0.8]]),
        np.array([[0.5, 0.1], [-0.2, 0.4]]),
        1.2,
        12,
    )
    task = icl.LinearRegression(dim=2, noise_var=0.25, feature_cov=cov)
    law = icl.Gaussian([0, 0], cov)
    exact = float(numeric.block_risk(task, A, b, length))
    sample = numeric.simulate_feature_risk(
        law, A, b, length, coef_cov=0.5, noise_var=0.25, prompts=100_000, seed=1
    )
    assert abs(sample.value - exact) < 5 * sample.standard_error < 0.02 * exact
    assert abs(sample.value - 1.03 * exact) > 5 * sample.standard_error
    with pytest.raises(InvalidInput, match="pass a token law"):
        numeric.simulate_feature_risk(task, A, b, length)
    with pytest.raises(InvalidInput, match="pass 0 or more"):
        numeric.simulate_feature_risk(law, A, b, length, noise_var=-1)
