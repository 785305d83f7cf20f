"""exact_risk and optimal_risk against published digits, a second quadrature, limits and sampling."""

import math

import numpy as np
import pytest
from scipy import special

import icltheory as icl
import numeric
from icltheory import symbols
from icltheory.errors import InvalidInput, OutOfDomain
from numeric import exact_risk, optimal_risk, prompt_moments

ONE, TWO = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
LINEAR, CENTERED = icl.LinearAttention(), icl.LinearAttention(centered=True)
WRONG = 1.03  # every check must reject a value that is 3 % off


def base(dim, noise_var=0.0):
    return icl.LinearRegression(dim=dim, noise_var=noise_var)


def assert_agrees(value, reference, error):
    value, reference = np.asarray(value), np.asarray(reference)
    assert np.all(np.abs(value - reference) <= error), np.max(np.abs(value - reference))
    assert np.all(np.abs(WRONG * value - reference) > error)


# -- published digits --------------------------------------------------------------------------------


def test_reference_risks_of_one_head():
    n, k = np.array([50, 200, 1000]), math.sqrt(0.12285)
    risk = exact_risk(base(5), ONE, n, k, 1 / k)
    assert_agrees(n * risk, [16.589059, 18.001385, 18.774317], 1e-6)
    assert_agrees(exact_risk(base(3, 0.3), ONE, 40, 0.45, 1.7), 0.272193563, 1e-9)


# dim, noise, n; k, v, risk of one head; risk of two heads in the limit of small scores; linear
TABLE = [
    (1, 0.0, 10, 1.7304, 0.7813, 0.293743, 0.181818, 0.166667),
    (5, 0.0, 10, 0.8643, 0.8195, 0.586497, 0.400000, 0.375000),
    (5, 0.0, 20, 0.6488, 1.1368, 0.426647, 0.240000, 0.230769),
    (5, 0.0, 40, 0.5182, 1.5347, 0.286181, 0.133333, 0.130435),
    (5, 0.5, 20, 0.6339, 0.9626, 0.521556, 0.309091, 0.298246),
    (5, 0.0, 100, 0.4288, 2.0586, 0.147873, 0.057143, 0.056604),
    (5, 0.25, 40, 0.5176, 1.4439, 0.329035, 0.156757, 0.153439),
    (5, 1.0, 40, 0.5168, 1.2251, 0.431434, 0.220000, 0.215686),
    (20, 0.0, 40, 0.2618, 1.7458, 0.581267, 0.350000, 0.344262),
    (20, 0.0, 1000, 0.2113, 4.4788, 0.056177, 0.020588, 0.020568),
]


@pytest.mark.parametrize(("dim", "noise", "n", "k", "v", "one", "two", "linear"), TABLE)
def test_reference_optima(dim, noise, n, k, v, one, two, linear):
    task = base(dim, noise)
    best = optimal_risk(task, ONE, n)
    assert_agrees(best.score_scale, k, 0.6e-4)
    assert_agrees(best.value_scale, v, 0.6e-4)
    assert_agrees(best.risk, one, 0.6e-6)
    assert_agrees(optimal_risk(task, TWO, n, small_scores=True).risk, two, 0.6e-6)
    assert_agrees(optimal_risk(task, LINEAR, n).risk, linear, 0.6e-6)


def test_reference_optimum_to_all_digits():
    best = optimal_risk(base(5, 0.25), ONE, 40)
    assert_agrees(best.risk, 0.32903472, 0.6e-8)
    assert_agrees(best.score_scale, 0.51759, 0.6e-5)
    assert_agrees(best.value_scale, 1.44386, 0.6e-5)


def test_reference_optima_of_the_large_prompt_paper():
    # There Sigma = S = I, so the signal is d = 5, and the risk has a factor 1/2.
    task = icl.LinearRegression(dim=5, coef_cov=1)
    best = optimal_risk(task, ONE, [100, 1000, 10_000])
    assert_agrees(best.risk / 2, [0.3696824, 0.0461579, 0.00476646], [1e-7, 1e-7, 1e-8])
    assert_agrees([best.score_scale[0], best.value_scale[0]], [0.42884, 2.05861], 1e-5)


def test_scaled_risk_of_the_best_head():
    n = np.array([1e2, 1e3, 1e4, 1e5])
    assert_agrees(
        n * optimal_risk(base(5), ONE, n).risk, [14.79, 18.46, 19.07, 19.145], [6e-3] * 3 + [6e-4]
    )


# -- a second quadrature -------------------------------------------------------------------------------


def gauss_legendre(dim, highest, panels=16, nodes=16):
    """Nodes and probabilities of chi_dim on [0, highest], on equal panels."""
    y, w = np.polynomial.legendre.leggauss(nodes)
    edges = np.linspace(max(0.0, math.sqrt(dim) - 8), highest, panels + 1)
    half = np.diff(edges)[:, None] / 2
    r = (edges[:-1, None] + half * (y + 1)).ravel()
    log_density = (
        (dim - 1) * np.log(r) - r * r / 2 - (dim / 2 - 1) * math.log(2) - special.gammaln(dim / 2)
    )
    return r, (half * w).ravel() * np.exp(log_density)


def slow_risk(dim, noise, n, k, v):
    """Mean squared bias plus variance, given |x_q|, in the original form of the problem."""
    r, p = gauss_legendre(dim, math.sqrt(dim) + 9 + math.sqrt(2 * math.log(n)))
    moments = prompt_moments(n, k * r)
    # r - v m has mean r (1 - v k (1 - g)); the coordinates orthogonal to x_q see independent noise.
    along = (r * (1 - v * k * (1 - moments.g))) ** 2 + v**2 * moments.variance
    return p @ (along / dim + v**2 * ((dim - 1) / dim + noise) * moments.g)


@pytest.mark.parametrize("n", [1, 2, 30, 1e4, 1e12])
@pytest.mark.parametrize(
    ("dim", "k"),
    [
        (1, 0.3),
        (1, 1.7),
        (2, 0.7),
        (5, 0.35),
        (5, 0.49),
        (5, 0.69),
        (5, 0.9),
        (60, 0.13),
        (60, 0.6),
    ],
)
def test_average_over_the_query(dim, k, n):
    for noise, v in ((0.0, 1 / k), (0.5, 0.8 / k)):
        slow = slow_risk(dim, noise, n, k, v)
        assert_agrees(exact_risk(base(dim, noise), ONE, n, k, v), slow, 1e-9 * slow)


def test_high_dimension():
    # The density of |x_q| in `slow_risk` rounds at 1e-12, from a difference of terms of order 1e3.
    task, k = base(300, 0.25), 1 / math.sqrt(302)
    for n in (10, 1000, 1e6, 1e12):
        slow = slow_risk(300, 0.25, n, k, 1 / k)
        assert_agrees(exact_risk(task, ONE, n, k, 1 / k), slow, 1e-8 * slow)


# -- limits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "noise", "t"), [(1, 0.0, 0.1), (5, 0.3, 0.12), (30, 1.0, 0.03)])
def test_long_prompts_reach_the_loss_constant(dim, noise, t):
    # For t < 1/6 the relative correction is of order 1/n.
    constant = numeric.compile(icl.loss_constant(base(dim, noise), ONE))(t=t)
    k = math.sqrt(t)
    assert_agrees(
        1e12 * exact_risk(base(dim, noise), ONE, 1e12, k, 1 / k), constant, 1e-8 * constant
    )


@pytest.mark.parametrize(("dim", "noise"), [(2, 0.0), (5, 0.5), (40, 2.0)])
def test_long_prompts_reach_the_optimal_constants(dim, noise):
    task, n = base(dim, noise), 1e12
    limit = icl.optimal_loss_constant(task, ONE)
    best = optimal_risk(task, ONE, n)
    assert_agrees(n * best.risk, float(limit), 1e-4 * float(limit))
    assert_agrees(best.score_scale**2, float(limit.minimizer[symbols.t]), 1e-4)
    assert_agrees(best.score_scale * best.value_scale, 1, 1e-6)
    for attention in (TWO, LINEAR, CENTERED):
        constant = float(icl.optimal_loss_constant(task, attention))
        assert_agrees(n * optimal_risk(task, attention, n).risk, constant, 1e-9 * constant)


@pytest.mark.parametrize("t", [0.55, 0.81, 2.0])
def test_rare_large_weights_slow_the_decay(t):
    # Above t = 1/2 the risk decays like n^-nu up to powers of log n: the local slope is
    # -nu + c / log n + ..., here extrapolated from two slopes.
    nu, k = math.sqrt(0.25 + 1 / t) - 0.5, math.sqrt(t)
    n = np.array([1e45, 1e50, 1e95, 1e100])
    log_n = np.log(n)
    log_risk = np.log(exact_risk(base(5), ONE, n, k, 1 / k))
    middle = np.array([log_n[:2].mean(), log_n[2:].mean()])
    slope = np.array(
        [np.diff(log_risk[:2]) / np.diff(log_n[:2]), np.diff(log_risk[2:]) / np.diff(log_n[2:])]
    )
    extrapolated = np.diff(slope[:, 0] * middle)[0] / np.diff(middle)[0]
    assert_agrees(extrapolated, -nu, 0.01 * nu)


def test_one_token_reads_one_label():
    # All weight is on the only token: prediction v y_1, for any score.
    for k in (0.0, 0.5, 4.0):
        risk = exact_risk(base(4, 0.5), ONE, 1, k, 0.7)
        assert_agrees(risk, 1 + 0.7**2 * 1.5, 1e-12)
    best = optimal_risk(base(4, 0.5), ONE, [1, 2])
    assert best.risk[0] == 1
    assert best.value_scale[0] == 0
    assert np.isnan(best.score_scale[0])
    assert best.score_scale[1] > 0


def test_score_zero_reads_the_mean_label():
    assert_agrees(exact_risk(base(4, 0.5), ONE, 20, 0, 0.7), 1 + 0.7**2 * 1.5 / 20, 1e-14)
    assert exact_risk(base(4, 0.5), ONE, 20, 0) == 1  # the best value is 0
    tiny = exact_risk(base(4, 0.5), ONE, 20, 1e-9, 0.7)
    assert_agrees(tiny, exact_risk(base(4, 0.5), ONE, 20, 0, 0.7), 1e-8)


# -- optimality ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "noise"), [(1, 0.0), (1, 5.0), (3, 0.2), (200, 0.0)])
def test_nearby_scales_are_worse(dim, noise):
    task, n = base(dim, noise), np.array([2, 3, 5, 10, 30, 1000, 1e6])
    best = optimal_risk(task, ONE, n)
    k, v = best.score_scale, best.value_scale
    assert_agrees(exact_risk(task, ONE, n, k, v), best.risk, 1e-12 * best.risk)
    for factor in (1 / WRONG, WRONG):
        assert np.all(exact_risk(task, ONE, n, factor * k) > best.risk)
        assert np.all(exact_risk(task, ONE, n, k, factor * v) > best.risk)
    coarse = np.geomspace(0.1, 10, 40)[:, None] * k
    inside = coarse < 15
    assert np.all(exact_risk(task, ONE, n, np.where(inside, coarse, k))[inside] > best.risk.min())
    values = exact_risk(task, ONE, n, np.where(inside, coarse, 1.0))
    assert np.all(np.where(inside, values, np.inf) >= best.risk * (1 - 1e-12))


def test_few_examples_in_one_dimension_need_large_scores():
    best = optimal_risk(base(1), ONE, [2, 3, 5, 9])
    assert np.all(best.score_scale > 1.8)
    assert np.all(np.diff(best.score_scale) < 0)
    assert np.all(np.diff(best.risk) < 0)


@pytest.mark.parametrize("attention", [LINEAR, CENTERED, TWO])
def test_optimum_of_the_closed_forms(attention):
    task, n = base(4, 0.5), np.array([2, 10, 1000])
    best = optimal_risk(task, attention, n, small_scores=True)
    at = exact_risk(task, attention, n, value_scale=best.value_scale)
    assert_agrees(at, best.risk, 1e-13)
    assert np.all(exact_risk(task, attention, n, value_scale=WRONG * best.value_scale) > best.risk)
    if attention is TWO:
        assert np.array_equal(best.score_scale, np.zeros(3))
        assert np.array_equal(exact_risk(task, attention, n, 0), best.risk)
    else:
        assert np.array_equal(exact_risk(task, attention, n), best.risk)
        assert np.all(np.isnan(best.score_scale))


# -- scaling, forms of input, shapes -----------------------------------------------------------------------


GENERAL = icl.LinearRegression(
    dim=3,
    noise_var=0.6,
    feature_cov=[[2, 0.5, 0], [0.5, 1, 0.25], [0, 0.25, 0.75]],
    coef_cov=[[1, -0.25, 0], [-0.25, 0.5, 0], [0, 0, 2]],
)


@pytest.mark.parametrize(
    ("attention", "k", "v"),
    [(ONE, 0.5, 1.6), (LINEAR, None, 0.8), (CENTERED, None, 0.8), (TWO, None, 0.8)],
)
def test_scaling_lemma(attention, k, v):
    signal = float(GENERAL.signal)
    scaled = base(3, 0.6 / signal)
    got = exact_risk(GENERAL, attention, 17, k, v)
    assert_agrees(got, signal * exact_risk(scaled, attention, 17, k, v), 1e-13 * got)
    best, other = (optimal_risk(task, attention, 17) for task in (GENERAL, scaled))
    assert_agrees(best.risk, signal * other.risk, 1e-13 * best.risk)
    assert_agrees(best.value_scale, other.value_scale, 1e-7)


@pytest.mark.parametrize("attention", [LINEAR, CENTERED, TWO])
def test_closed_forms_of_a_general_task(attention):
    derived = numeric.compile(icl.finite_prompt_risk(GENERAL, attention))(n=17, v=0.8)
    assert_agrees(exact_risk(GENERAL, attention, 17, value_scale=0.8), derived, 1e-13 * derived)


def test_scores_inside_the_attention():
    risk = exact_risk(base(3, 0.3), ONE, 40, 0.45, 1.7)
    for k, v in ((0.45, 1.7), (-0.45, -1.7)):
        assert exact_risk(base(3, 0.3), icl.SoftmaxAttention(scores=[k], values=[v]), 40) == risk
    head = icl.SoftmaxAttention(scores=[0.45])
    assert exact_risk(base(3, 0.3), head, 40, value_scale=1.7) == risk
    assert exact_risk(base(3, 0.3), head, 40) == exact_risk(base(3, 0.3), ONE, 40, 0.45)
    reflected = icl.SoftmaxAttention(scores=[-0.45])
    assert exact_risk(base(3, 0.3), reflected, 40, value_scale=-1.7) == risk


def test_broadcasting():
    n, k, v = np.array([[5], [50], [50]]), np.array([0.3, 0.6]), 1.5
    table = exact_risk(base(3), ONE, n, k, v)
    assert table.shape == (3, 2)
    for i, length in enumerate(n[:, 0]):
        for j, scale in enumerate(k):
            single = exact_risk(base(3), ONE, length, scale, v)
            assert isinstance(single, float)
            assert table[i, j] == pytest.approx(single, rel=1e-12)
    assert exact_risk(base(3), ONE, n, k).shape == (3, 2)
    assert exact_risk(base(3), ONE, n).shape == (3, 1)
    assert exact_risk(base(3), LINEAR, n, value_scale=[0.5, 1.0]).shape == (3, 2)
    for attention in (ONE, TWO, LINEAR):
        best = optimal_risk(base(3), attention, n)
        assert best.risk.shape == best.score_scale.shape == best.value_scale.shape == (3, 1)
        best = optimal_risk(base(3), attention, 7)
        assert all(isinstance(x, float) for x in (best.risk, best.score_scale, best.value_scale))


# -- sampling ---------------------------------------------------------------------------------------------


def sampled_losses(task, layer, n, prompts, seed):
    """Squared excess errors of `layer(X, y, query)` on drawn prompts of a whole task."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    feature_root = np.linalg.cholesky(np.array(task.feature_cov.to_matrix().tolist(), dtype=float))
    coef_root = np.linalg.cholesky(np.array(task.coef_cov.to_matrix().tolist(), dtype=float))
    dim = int(task.dim)
    X = rng.standard_normal((prompts, n, dim)) @ feature_root.T
    query = rng.standard_normal((prompts, dim)) @ feature_root.T
    theta = rng.standard_normal((prompts, dim)) @ coef_root.T
    noise = math.sqrt(float(task.noise_var)) * rng.standard_normal((prompts, n))
    y = np.einsum("bni,bi->bn", X, theta) + noise
    return (layer(X, y, query) - np.einsum("bi,bi->b", query, theta)) ** 2


def softmax_layer(inverse, k, v):
    def layer(X, y, query):
        score = k * np.einsum("bni,ij,bj->bn", X, inverse, query)
        w = np.exp(score - score.max(axis=1, keepdims=True))
        return v * (w * y).sum(axis=1) / w.sum(axis=1)

    return layer


def linear_layer(inverse, a, centered):
    def layer(X, y, query):
        count = X.shape[1]
        if centered:
            X, y = X - X.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
            count -= 1
        return a / count * np.einsum("bn,bni,ij,bj->b", y, X, inverse, query)

    return layer


N, PROMPTS = 12, 300_000
INVERSE = np.linalg.inv(np.array(GENERAL.feature_cov.to_matrix().tolist(), dtype=float))


@pytest.mark.parametrize(
    ("attention", "layer", "arguments"),
    [
        (ONE, softmax_layer(INVERSE, 0.45, 1.3), {"score_scale": 0.45, "value_scale": 1.3}),
        (LINEAR, linear_layer(INVERSE, 0.7, False), {"value_scale": 0.7}),
        (CENTERED, linear_layer(INVERSE, 0.7, True), {"value_scale": 0.7}),
        # Small opposite scores: (a/n) sum (y - mean)(x - mean)' x_q, with n where n - 1 stood.
        (TWO, linear_layer(INVERSE, 0.7 * (N - 1) / N, True), {"value_scale": 0.7}),
    ],
)
def test_against_simulated_layers(attention, layer, arguments):
    losses = sampled_losses(GENERAL, layer, N, PROMPTS, seed=11)
    exact = exact_risk(GENERAL, attention, N, **arguments)
    error = losses.std(ddof=1) / math.sqrt(PROMPTS)
    assert 5 * error < 0.03 * exact  # resolution
    assert_agrees(losses.mean(), exact, 5 * error)


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "attention", "n", "arguments", "error", "words"),
    [
        (base(3), ONE, 0, {}, InvalidInput, "prompt_length = 0 is not an integer"),
        (base(3), ONE, 2.5, {}, InvalidInput, "prompt_length = 2.5 is not an integer"),
        (base(3), ONE, [10, np.nan], {}, InvalidInput, "prompt_length contains"),
        (base(3), ONE, 1e101, {}, OutOfDomain, "limit constants"),
        (
            base(3),
            CENTERED,
            1,
            {},
            InvalidInput,
            "prompt_length = 1 is not an integer of at least 2",
        ),
        (base(3), TWO, 1, {}, InvalidInput, "at least 2; opposite heads"),
        (base(3), ONE, 9, {"score_scale": -0.2}, InvalidInput, "change the sign of both"),
        (base(3), ONE, 9, {"score_scale": np.inf}, InvalidInput, "score_scale contains"),
        (base(3), ONE, 9, {"score_scale": 50.0}, OutOfDomain, "Use a smaller score_scale"),
        (
            base(3),
            ONE,
            9,
            {"score_scale": 1, "value_scale": np.nan},
            InvalidInput,
            "value_scale contains",
        ),
        (base(3), ONE, 9, {"value_scale": 1}, InvalidInput, "give both, or neither"),
        (
            base(3),
            LINEAR,
            9,
            {"score_scale": 1},
            InvalidInput,
            "linear attention has no score_scale",
        ),
        (base(3), TWO, 9, {"score_scale": -0.1}, InvalidInput, "change the sign of both"),
        (base(3), "softmax", 9, {}, InvalidInput, "attention has type str"),
        ("task", ONE, 9, {}, InvalidInput, "task has type str"),
        (icl.LinearRegression(dim=symbols.d), ONE, 9, {}, InvalidInput, "still contains d"),
        (
            base(2),
            icl.SoftmaxAttention(scores=[[[1, 0], [0, 1]]], values=[1]),
            9,
            {},
            InvalidInput,
            "scalar heads",
        ),
        (
            base(2),
            icl.SoftmaxAttention(scores=[symbols.k], values=[1]),
            9,
            {},
            InvalidInput,
            "still contains symbols",
        ),
        (
            base(2),
            icl.SoftmaxAttention(scores=[0.1]),
            9,
            {"score_scale": 1},
            InvalidInput,
            "already",
        ),
        (
            base(2),
            icl.SoftmaxAttention(scores=[0.1], values=[2]),
            9,
            {"value_scale": 1},
            InvalidInput,
            "already",
        ),
    ],
)
def test_refusals(task, attention, n, arguments, error, words):
    with pytest.raises(error, match=words):
        exact_risk(task, attention, n, **arguments)


@pytest.mark.parametrize(
    ("attention", "n", "words"),
    [
        (icl.SoftmaxAttention(scores=[0.3]), 9, "numeric.exact_risk"),
        (ONE, 1.5, "not an integer"),
        (CENTERED, [1, 2], "at least 2"),
    ],
)
def test_refusals_of_the_optimum(attention, n, words):
    with pytest.raises(InvalidInput, match=words):
        optimal_risk(base(3), attention, n)


def test_results_are_frozen():
    with pytest.raises(AttributeError):
        optimal_risk(base(3), LINEAR, 9).risk = 0


# -- the query token in long prompts ---------------------------------------------------------------


def token_cost(dim, k):
    """lim n^2 (risk with the token - risk without), v = 1/k: by hand, to second order in 1/n.

    The token multiplies the prediction by 1 - e^{(k - k^2/2) r^2}/n. Its squared bias is the last
    term; the others come from the bias, the variance and the normaliser of the head itself.
    """
    around, squared = k + k**2 / 2, 2 * k - k**2
    power = -dim / 2
    return (
        2 * (1 - 2 * around) ** (power - 1)
        - 2 / k**2 * (1 - 2 * around) ** power
        + (1 - 2 * squared) ** (power - 1)
    )


@pytest.mark.parametrize(("dim", "k"), [(3, 0.1), (3, 0.15), (9, 0.08)])
def test_cost_of_the_query_token_in_long_prompts(dim, k):
    lengths = np.array([1e5, 1e6])
    scales = {"score_scale": k, "value_scale": 1 / k}
    token = icl.SoftmaxAttention(heads=1, include_query=True)
    cost = lengths**2 * (
        exact_risk(base(dim), token, lengths, **scales)
        - exact_risk(base(dim), ONE, lengths, **scales)
    )
    far, error = cost[1], abs(cost[1] - cost[0])
    assert abs(far - token_cost(dim, k)) < error
    squared_bias_only = (1 - 2 * (2 * k - k**2)) ** (-dim / 2 - 1)
    assert abs(far - squared_bias_only) > 100 * error
