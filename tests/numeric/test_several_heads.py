"""Several heads, the query token and the optima, against the reference digits, sampling and closed forms."""

import math

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import icltheory as icl
import numeric
from icltheory import symbols
from icltheory.errors import InvalidInput, OutOfDomain
from numeric import exact_risk, monte_carlo_risk, optimal_heads, optimal_risk

ONE, TWO = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
FOUR = icl.SoftmaxAttention(heads=4)
ONE_Q = icl.SoftmaxAttention(heads=1, include_query=True)
TWO_Q = icl.SoftmaxAttention(heads=2, include_query=True)
WRONG = 1.03


def base(dim, noise=0.0):
    return icl.LinearRegression(dim=dim, noise_var=noise)


def heads(scores, values=None, **options):
    return icl.SoftmaxAttention(scores=scores, values=values, **options)


GENERAL = icl.LinearRegression(
    dim=3,
    noise_var=0.6,
    feature_cov=[[2, 0.5, 0], [0.5, 1, 0.25], [0, 0.25, 0.75]],
    coef_cov=[[1, -0.25, 0], [-0.25, 0.5, 0], [0, 0, 2]],
)


# -- reference values --------------------------------------------------------------------------------


def test_reference_risks():
    query = exact_risk(base(3, 0.3), ONE_Q, 40, score_scale=0.45, value_scale=1.7)
    assert query == pytest.approx(0.328577691, abs=6e-10)
    for k, dim, n, noise, risk in [(0.35, 3, 15, 0.4, 0.27000702), (0.1, 5, 20, 0, 0.23972154)]:
        got = exact_risk(base(dim, noise), TWO, n, score_scale=k)
        assert got == pytest.approx(risk, abs=6e-9)
        assert exact_risk(base(dim, noise), heads([k, -k]), n) == pytest.approx(got, rel=1e-12)
    # Flat in k.
    assert exact_risk(base(5), TWO, 40, [0.0, 0.12]).max() == pytest.approx(0.13339, abs=6e-6)


# dim, noise, n; k and risk of the best pair; risk as k -> 0
PAIRS = [
    (1, 0.0, 10, 0.8156, 0.162786, 0.181818),
    (5, 0.0, 10, 0.3923, 0.394443, 0.400000),
    (5, 0.0, 20, 0.1295, 0.239674, 0.240000),
    (5, 0.0, 40, 0.0737, 0.133297, 0.133333),
    (5, 0.5, 20, 0.1059, 0.308904, 0.309091),
]


@pytest.mark.parametrize(("dim", "noise", "n", "k", "risk", "small"), PAIRS)
def test_reference_pairs(dim, noise, n, k, risk, small):
    task = base(dim, noise)
    best = optimal_risk(task, TWO, n)
    assert best.score_scale == pytest.approx(k, abs=0.6e-4)
    assert best.risk == pytest.approx(risk, abs=0.6e-6)
    limit = optimal_risk(task, TWO, n, small_scores=True)
    assert limit.risk == pytest.approx(small, abs=0.6e-6)
    assert abs(WRONG * best.risk - risk) > 1e-3
    at = exact_risk(task, TWO, n, best.score_scale, best.value_scale)
    assert at == pytest.approx(best.risk, rel=1e-13)


@pytest.mark.parametrize(
    ("dim", "n", "risk", "k"),
    [(5, 10, 0.38943, 1.17), (5, 20, 0.23588, 1.5), (1, 10, 0.15897, 1.66)],
)
def test_reference_four_heads(dim, n, risk, k):
    best = optimal_heads(base(dim), FOUR, n)
    assert best.risk == pytest.approx(risk, abs=0.6e-5)
    assert best.scores[2] == pytest.approx(k, abs=0.03)
    assert best.risk < optimal_risk(base(dim), TWO, n).risk
    # A small first pair costs little, and nothing else is better.
    small, large = 1e-4, best.scores[2]
    layer = heads([small, -small, large, -large])
    again = optimal_heads(base(dim), layer, n)
    assert again.risk == pytest.approx(best.risk, abs=1e-8)
    np.testing.assert_allclose(again.products.sum(), best.products.sum(), rtol=1e-6)
    for factor in (0.8, 1.25):
        wider = heads([small, -small, factor * large, -factor * large])
        assert exact_risk(base(dim), wider, n) > again.risk
    apart = heads([0.1, -0.1, large, -large])
    assert exact_risk(base(dim), apart, n) > again.risk


def test_gain_of_a_second_pair():
    """n^2 times the gain over k -> 0 at d = 2; it grows like log n."""
    n = np.array([20, 40])
    small = optimal_risk(base(2), TWO, n, small_scores=True).risk
    gain = n**2 * (small - optimal_heads(base(2), FOUR, n).risk)
    np.testing.assert_allclose(gain, [2.70, 3.24], atol=6e-3)


@pytest.mark.slow
def test_gain_of_a_second_pair_in_long_prompts():
    n = np.array([80, 640])
    small = optimal_risk(base(2), TWO, n, small_scores=True).risk
    gain = n**2 * (small - optimal_heads(base(2), FOUR, n).risk)
    np.testing.assert_allclose(gain, [3.68, 4.655], atol=6e-3)


# n * risk of one head at k = sqrt(t*), v = 1/k, with and without the query token
QUERY = [
    (5, 1e2, 18.10, 17.40), (5, 1e3, 20.18, 18.77), (5, 1e4, 19.85, 19.09),
    (20, 1e2, 46.91, 55.62), (20, 1e3, 75.32, 59.23), (20, 1e4, 72.18, 59.78),
]  # fmt: skip


@pytest.mark.parametrize(("dim", "n", "inside", "outside"), QUERY)
def test_reference_query_token(dim, n, inside, outside):
    best = icl.optimal_loss_constant(base(dim), ONE).minimizer
    k = math.sqrt(float(best[symbols.t]))
    assert n * exact_risk(base(dim), ONE_Q, n, k, 1 / k) == pytest.approx(inside, abs=6e-3)
    assert n * exact_risk(base(dim), ONE, n, k, 1 / k) == pytest.approx(outside, abs=6e-3)


def test_reference_optima_with_the_query_token():
    best = optimal_risk(base(5), ONE_Q, [20, 100])
    np.testing.assert_allclose(best.risk, [0.546653, 0.177563], atol=6e-7)
    assert best.score_scale[0] == pytest.approx(0.3934, abs=6e-5)
    assert best.value_scale[0] == pytest.approx(1.9062, abs=6e-5)
    best = optimal_risk(base(20), ONE_Q, [100, 1000])
    np.testing.assert_allclose(best.risk, [0.444230, 0.065917], atol=6e-7)
    small = exact_risk(base(5), TWO_Q, 20, score_scale=0)
    assert small == pytest.approx(0.241634, abs=6e-7)
    closed = icl.small_pair_risk(base(5), TWO_Q).subs(n=20)
    assert small == pytest.approx(float(closed), rel=1e-13)
    assert exact_risk(base(5), TWO_Q, 20, score_scale=1e-4) == pytest.approx(small, rel=1e-6)


# -- against sampling -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "scores", "values", "n"),
    [
        (base(5), [0.0737, -0.0737], [6.03, -6.03], 40),
        (base(5), [0.8, -0.8], [0.4, -0.4], 10),
        (base(3, 0.3), [0.5, 0.2, -0.6], [1.1, 0.4, -0.7], 15),
        (GENERAL, [0.4, -0.3], [1.3, -0.8], 12),
        (base(1, 0.5), [1.2, 0.0, -0.4, -1.5], [0.3, -0.5, -0.6, 0.2], 8),
    ],
)
def test_against_the_reduced_simulation(task, scores, values, n):
    layer = heads(scores, values)
    prompts = 1_000_000 if task.dim == 1 else 300_000
    estimate = monte_carlo_risk(task, layer, n, prompts=prompts, seed=3)
    exact = exact_risk(task, layer, n)
    assert 4 * estimate.standard_error < 0.01 * exact  # resolution
    assert abs(estimate.value - exact) < 4 * estimate.standard_error
    assert abs(estimate.value - WRONG * exact) > 4 * estimate.standard_error


@pytest.mark.parametrize(
    ("scores", "values", "n"),
    [([0.45], [1.7], 40), ([0.4, -0.3], [1.2, -0.8], 12), ([0.02, -0.02], [19.0, -19.0], 15)],
)
def test_query_token_against_simulated_layers(scores, values, n):
    layer = heads(scores, values, include_query=True)
    estimate = monte_carlo_risk(base(3, 0.3), layer, n, sampler="plain", prompts=200_000, seed=5)
    exact = exact_risk(base(3, 0.3), layer, n)
    assert 5 * estimate.standard_error < 0.03 * exact
    assert abs(estimate.value - exact) < 5 * estimate.standard_error
    assert abs(exact_risk(base(3, 0.3), heads(scores, values), n) - exact) > 0.01 * exact or n == 15


def test_correlated_features_with_the_query_token():
    signal = float(GENERAL.signal)
    for layer in (heads([0.4, -0.2], [1.0, -0.5], include_query=True), heads([0.4, -0.2])):
        got = exact_risk(GENERAL, layer, 11)
        assert got == pytest.approx(
            signal * exact_risk(base(3, 0.6 / signal), layer, 11), rel=1e-12
        )


def test_prior_mean_counts_with_its_second_moment():
    prior = icl.LinearRegression(dim=2, noise_var=0.2, coef_cov=[1, 0.5], coef_mean=[0.5, -1])
    plain = icl.LinearRegression(dim=2, noise_var=0.2, coef_cov=[[1.25, -0.5], [-0.5, 1.5]])
    for layer in (heads([0.4, -0.2], [1.0, -0.5]), TWO, ONE):
        assert exact_risk(prior, layer, 9) == pytest.approx(exact_risk(plain, layer, 9), rel=1e-13)


def test_local_examples():
    """M21: best values of a small head and one of scale 0, in parallel with the plain average."""
    for rho, tau, noise, n, risk in [(1, 1, 0, 40, 0.0210526), (0.9, 0.8, 0.2, 30, 0.02961797)]:
        task = icl.LinearRegression(dim=5, noise_var=noise, local=(rho, tau))
        assert exact_risk(task, heads([1e-5, 0]), n) == pytest.approx(risk, abs=6e-8)
    layer = heads([0.3, -0.2], [0.7, 0.3])
    task = icl.LinearRegression(dim=3, noise_var=0.2, local=(0.9, 0.8))
    estimate = monte_carlo_risk(task, layer, 15, sampler="plain", prompts=200_000, seed=1)
    exact = exact_risk(task, layer, 15)
    assert abs(estimate.value - exact) < 5 * estimate.standard_error < 0.03 * exact


# -- properties ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "noise", "n"), [(5, 0.0, 20), (2, 1.0, 7), (20, 0.3, 300)])
def test_slope_at_zero_is_the_derived_one(dim, noise, n):
    slope = float(icl.pair_slope(base(dim, noise), TWO).subs(n=n))
    k = 0.02 / math.sqrt(dim)
    at = [exact_risk(base(dim, noise), TWO, n, score_scale=x * k) for x in (0.0, 1.0, math.sqrt(2))]
    # Second order in t from two steps.
    numeric_slope = (4 * (at[1] - at[0]) - (at[2] - at[0])) / (2 * k * k)
    assert numeric_slope == pytest.approx(slope, rel=1e-4)
    assert abs(WRONG * numeric_slope / slope - 1) > 1e-2
    assert at[0] == pytest.approx(optimal_risk(base(dim, noise), TWO, n, small_scores=True).risk)


def test_joint_scaling_of_the_best_pair():
    n = np.array([1e3, 1e4, 1e6, 1e8, 1e12])
    best = optimal_risk(base(5, 0.5), TWO, n)
    leading = float(icl.pair_scale(base(5, 0.5)).expr.subs(symbols.n, 1))
    ratio = n * (best.score_scale / leading) ** 2
    assert np.all(np.abs(ratio - 1) < 20 / n + 1e-7)
    small = optimal_risk(base(5, 0.5), TWO, n, small_scores=True).risk
    gain = float(icl.pair_gain(base(5, 0.5)).expr.subs(symbols.n, 1))
    np.testing.assert_allclose((n**3 * (small - best.risk))[:1] / gain, 1, atol=0.02)
    np.testing.assert_allclose(best.risk[2:], small[2:], rtol=1e-11)


@pytest.mark.parametrize(("dim", "n"), [(5, 30), (5, 200), (1, 2000)])
def test_best_scale_by_a_direct_search(dim, n):
    best = optimal_risk(base(dim), TWO, n)
    log_k = math.log(best.score_scale)
    found = optimize.minimize_scalar(
        lambda s: exact_risk(base(dim), TWO, n, score_scale=math.exp(s)),
        bounds=(log_k - 0.5, log_k + 0.5),
        method="bounded",
        options={"xatol": 1e-7, "maxiter": 25},
    )
    assert found.fun >= best.risk * (1 - 1e-12)
    # The minimum is flat: rounding of the risk allows this distance.
    assert found.x == pytest.approx(log_k, abs=1e-5 + 3e-7 * n)


@pytest.mark.parametrize(
    ("dim", "noise", "scores", "values"),
    [(5, 0.5, [0.3, -0.2], [2.0, -2.0]), (3, 0.0, [0.4, 0.25, -0.3], [1.3, 0.9, -0.85])],
)
def test_long_prompts_reach_the_head_constant(dim, noise, scores, values):
    constant = float(icl.head_constant(base(dim, noise), scores, values))
    n = 1e8
    risk = exact_risk(base(dim, noise), heads(scores, values), n)
    assert n * risk == pytest.approx(constant, rel=1e-5)
    assert abs(WRONG * n * risk - constant) > 1e-2


@settings(max_examples=6, deadline=None)
@given(
    st.integers(1, 8),
    st.just(0.0) | st.floats(1e-3, 2),
    st.integers(2, 300),
    st.lists(st.floats(-0.8, 0.8), min_size=1, max_size=3),
)
def test_best_values_beat_others(dim, noise, n, scores):
    best = optimal_heads(base(dim, noise), heads(scores), n)
    assert best.risk == pytest.approx(exact_risk(base(dim, noise), heads(scores), n))
    assert -1e-12 < best.risk <= 1 + 1e-12
    assert best.values.shape == best.scores.shape == (len(scores),)
    for factor in (0.9, 1.1):
        layer = heads(scores, (factor * best.values).tolist())
        assert exact_risk(base(dim, noise), layer, n) >= best.risk * (1 - 1e-9)
    # One head more is never worse, and the Bayes predictor never beaten.
    more = exact_risk(base(dim, noise), heads([*scores, 0.37]), n)
    assert more <= best.risk * (1 + 1e-9)
    assert numeric.bayes_risk(base(dim, noise), n) <= best.risk * (1 + 1e-9)


def test_idle_and_repeated_heads_change_nothing():
    pair = exact_risk(base(3), heads([0.3, -0.3], [1.5, -1.5]), 12)
    for scores, values in (
        ([0.3, -0.3, 0.9], [1.5, -1.5, 0.0]),
        ([0.3, 0.3, -0.3], [0.5, 1.0, -1.5]),
        ([-0.3, 0.3], [-1.5, 1.5]),
    ):
        assert exact_risk(base(3), heads(scores, values), 12) == pytest.approx(pair, rel=1e-12)
    assert exact_risk(base(3), TWO, 12, 0.3, 1.5) == pytest.approx(pair, rel=1e-12)
    one = exact_risk(base(3), heads([0.3, 0.3], [0.5, 1.0]), 12)
    assert one == pytest.approx(exact_risk(base(3), ONE, 12, 0.3, 1.5), rel=1e-12)
    assert exact_risk(base(3), heads([0.3, 0.3]), 12) == pytest.approx(
        exact_risk(base(3), ONE, 12, 0.3), rel=1e-12
    )


def test_one_token():
    # The weight is 1 whatever the scores: f = sum v y_1.
    risk = exact_risk(base(4, 0.5), heads([0.3, -0.5], [0.4, 0.3]), 1)
    assert risk == pytest.approx(1 + 0.7**2 * 1.5, rel=1e-12)
    query = exact_risk(base(4, 0.5), ONE_Q, 1, 0.0, 0.7)
    assert query == pytest.approx(1 + 0.35**2 * 1.5, rel=1e-12)


def test_heads_of_four_kinds():
    for attention, count in ((ONE, 1), (TWO, 2)):
        best = optimal_heads(base(5), attention, [10, 20])
        same = optimal_risk(base(5), attention, [10, 20])
        np.testing.assert_array_equal(best.risk, same.risk)
        assert best.scores.shape == best.values.shape == (2, count)
        np.testing.assert_allclose(best.values[:, 0], same.value_scale)
    best = optimal_heads(base(5), TWO, 20)
    assert exact_risk(base(5), heads(best.scores.tolist(), best.values.tolist()), 20) == (
        pytest.approx(best.risk, rel=1e-12)
    )
    np.testing.assert_allclose(best.products, best.scores * best.values)
    query = optimal_heads(base(5), TWO_Q, 20)
    assert query.scores.tolist() == [0, 0]
    assert query.values.tolist() == [np.inf, -np.inf]
    assert query.products.sum() == pytest.approx(optimal_risk(base(5), TWO_Q, 20).value_scale)


def test_broadcasting_of_pairs():
    risk = exact_risk(base(3), TWO, [[5], [9]], [0.2, 0.4], 1.0)
    assert risk.shape == (2, 2)
    assert risk[1, 0] == exact_risk(base(3), TWO, 9, 0.2, 1.0)
    assert exact_risk(base(3), heads([0.2, 0.1], [1, 2]), [5, 9]).shape == (2,)
    best = optimal_risk(base(3), TWO, [[5], [9]])
    assert best.risk.shape == best.score_scale.shape == (2, 1)
    assert isinstance(optimal_risk(base(3), TWO, 9).risk, float)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: exact_risk(base(3), FOUR, 9, 0.3, 1.0), InvalidInput, "no canonical family"),
        (lambda: exact_risk(base(3), TWO, 1, 0.3, 1.0), InvalidInput, "at least 2"),
        (lambda: exact_risk(base(3), ONE_Q, 9, None, 1.0), InvalidInput, "give both"),
        (lambda: exact_risk(base(3), heads([0.1, 0.2]), 9, 0.3), InvalidInput, "already"),
        (lambda: exact_risk(base(3), TWO, 9, 30.0, 1.0), OutOfDomain, "largest score"),
        (
            lambda: exact_risk(base(3), heads([symbols.k, 0.2]), 9),
            InvalidInput,
            "still contains symbols",
        ),
        (lambda: optimal_risk(base(3), heads([0.1, 0.2]), 9), InvalidInput, "exact_risk"),
        (
            lambda: optimal_heads(base(3), icl.LinearAttention(), 9),
            InvalidInput,
            "SoftmaxAttention",
        ),
        (
            lambda: optimal_heads(base(3), icl.SoftmaxAttention(heads=3), 9),
            InvalidInput,
            "1, 2 and 4",
        ),
        (lambda: optimal_heads(base(3), heads([0.1], [1]), 9), InvalidInput, "values already"),
        (
            lambda: exact_risk(
                icl.LinearRegression(dim=2, local=(1, 1)), heads([0.1, 0], include_query=True), 9
            ),
            InvalidInput,
            "include_query",
        ),
        (lambda: exact_risk(base(2), heads([0.1, 0], skip=True), 9), InvalidInput, "skip"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("n", [1e6, 1e12, 1e50])
def test_best_values_in_the_longest_prompts(n):
    scores = [0.3, -0.2, 0.1]
    best = optimal_heads(base(3, 0.4), heads(scores), n)
    limit = icl.optimal_values(base(3, 0.4), scores)
    assert n * best.risk == pytest.approx(float(limit), rel=1e-4)
    assert limit.minimizer is not None
    for h, value in enumerate(best.values, start=1):
        assert value == pytest.approx(
            float(limit.minimizer[sp.Symbol(f"v_{h}", real=True)]), rel=1e-3
        )
