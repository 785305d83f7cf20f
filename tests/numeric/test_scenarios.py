"""Prior knowledge and local examples: exact risks against simulated layers, at every level.

Every comparison with a simulation is a row of `numeric.compare`: five standard errors, a resolution
below 3 % (6 % where said), and rejection of the prediction changed by twice that.
"""

import math
from typing import Any

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
import numeric
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.symbols import k, share, t
from numeric.arrays import SCENARIOS, task_arrays
from numeric.compare import Comparison, compare
from numeric.montecarlo import Estimate, monte_carlo_constant, monte_carlo_risk, sample_prompts
from numeric.risk import exact_risk, optimal_risk

ONE, TWO = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
LINEAR, CENTRED = icl.LinearAttention(), icl.LinearAttention(centered=True)
SKIP, READ, BOTH = (
    {"skip": True},
    {"feature_values": True},
    {"skip": True, "feature_values": True},
)
MEAN = [0.7, -0.3, 1.0]
COVARIANCE = [[2, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 0.5]]
PRIOR = icl.LinearRegression(dim=3, noise_var=0.4, coef_cov=0.3, coef_mean=MEAN)
LOCAL = icl.LinearRegression(dim=3, noise_var=0.2, local=(0.9, 0.8))
SMALL = 1e-3
EVERYTHING = PRIOR.replaced(feature_cov=COVARIANCE, local=(0.9, 0.8))


def heads(count: int, options: dict) -> icl.SoftmaxAttention:
    return icl.SoftmaxAttention(heads=count, **options)


def agrees(prediction: float, estimate: Estimate, required: float = 0.03) -> None:
    row = compare({}, prediction, estimate.value, estimate.standard_error, required=required)
    table = Comparison.from_rows([row])
    assert table.passed, str(table)
    assert table.scaled(1 + 2 * required).rows[0].verdict == "deviates"
    assert table.scaled(1 - 2 * required).rows[0].verdict == "deviates"


def pair(slope: float, total: float = 0.0, options: dict | None = None) -> icl.SoftmaxAttention:
    """Heads of scores +-1e-3 with sum_h v_h = total, sum_h v_h k_h = slope."""
    values = [total / 2 + slope / (2 * SMALL), total / 2 - slope / (2 * SMALL)]
    return icl.SoftmaxAttention(scores=[SMALL, -SMALL], values=values, **(options or {}))


def readings(vector, slope: float) -> list[list[float]]:
    """u_h of such a pair, with sum_h u_h k_h = slope times the vector."""
    return [[s * slope / (2 * SMALL) * x for x in vector] for s in (1, -1)]


# -- prompts ---------------------------------------------------------------------------------------


def test_prompts_have_the_moments_of_the_task():
    arrays = task_arrays(EVERYTHING, SCENARIOS)
    X, y, query, target = sample_prompts(arrays, 2, 200_000, np.random.default_rng(0))
    sigma, rho, tau = np.array(COVARIANCE), 0.9, 0.8
    count = len(X)

    def close(samples: np.ndarray, exact) -> None:
        error = samples.std(axis=0) / math.sqrt(count)
        assert np.all(np.abs(samples.mean(axis=0) - exact) < 5 * error)

    x = X[:, 0]
    close(np.einsum("bi,bj->bij", x, query), rho * sigma)
    close(np.einsum("bi,bj->bij", X[:, 0], X[:, 1]), rho**2 * sigma)
    close(np.einsum("bi,bj->bij", x, x), (rho**2 + tau**2) * sigma)
    close(query * target[:, None], sigma @ MEAN)
    close(target**2, float(EVERYTHING.signal))
    close(y[:, 0] ** 2, (rho**2 + tau**2) * float(EVERYTHING.signal) + 0.4)
    with pytest.raises(AssertionError):
        close(np.einsum("bi,bj->bij", x, query), 1.05 * rho * sigma)


# -- one head ----------------------------------------------------------------------------------------


GIVEN = {
    "plain": {},
    "skip": {"skip": [0.3, 0.1, -0.2]},
    "readings": {"feature_values": [[0.2, 0.5, -0.1]]},
    "both": {"skip": [0.3, 0.1, -0.2], "feature_values": [[0.2, 0.5, -0.1]]},
}


@pytest.mark.parametrize("options", GIVEN.values(), ids=GIVEN)
@pytest.mark.parametrize("local", [None, (0.9, 0.8)], ids=["base", "local"])
def test_one_head_exactly(options, local):
    task = EVERYTHING.replaced(local=local)
    layer = icl.SoftmaxAttention(scores=[0.45], values=[1.1], **options)
    risk = exact_risk(task, layer, 12)
    agrees(risk, monte_carlo_risk(task, layer, 12, prompts=80_000, seed=1))
    plain = monte_carlo_risk(task, layer, 12, prompts=220_000, seed=2, sampler="plain")
    agrees(risk, plain)


def test_references_of_one_head():
    near = icl.LinearRegression(dim=5, local=(1, 1))
    assert optimal_risk(near, ONE, 40).risk == pytest.approx(0.0212801, abs=5e-8)
    assert optimal_risk(near, TWO, 40).risk == pytest.approx(0.0210526, abs=5e-8)
    # rho -> 0 is the base task (reference row 9).
    almost = icl.LinearRegression(dim=5, noise_var=0.25, local=(0, 1 + 1e-9))
    best = optimal_risk(almost, ONE, 40)
    assert best.risk == pytest.approx(0.32903472, rel=1e-7)
    assert best.score_scale == pytest.approx(0.51759, abs=5e-6)


def test_a_small_score_is_the_plain_average():
    """k = 0: f = v mean(y), by hand."""
    value = 0.8
    expected = (1 - value * 0.9) ** 2 + value**2 * (0.64 + 0.2) / 12
    assert exact_risk(LOCAL, ONE, 12, score_scale=0, value_scale=value) == pytest.approx(expected)
    assert exact_risk(LOCAL, ONE, 12, score_scale=1e-5, value_scale=value) == pytest.approx(
        expected, rel=1e-4
    )
    # A negative score is another layer.
    layer = icl.SoftmaxAttention(scores=[-0.4], values=[1.2])
    agrees(exact_risk(LOCAL, layer, 12), monte_carlo_risk(LOCAL, layer, 12, prompts=40_000, seed=3))


@pytest.mark.parametrize("options", [{}, SKIP, READ, BOTH], ids=str)
def test_free_readings_are_at_their_best(options):
    """The skip path and the reading of the optimum, by minimising over numbers along theta_0."""
    n, scale, value = 9, 0.5, 1.2
    risk = exact_risk(PRIOR, heads(1, options), n, score_scale=scale, value_scale=value)
    grid = np.linspace(-2.5, 2.5, 101)

    def layer(reading: float, path: float) -> float:
        given = {}
        if "skip" in options:
            given["skip"] = [path * x for x in MEAN]
        if "feature_values" in options:
            given["feature_values"] = [[reading * x for x in MEAN]]
        attention = icl.SoftmaxAttention(scores=[scale], values=[value], **given)
        return exact_risk(PRIOR, attention, n)

    if len(options) == 2:
        assert risk == pytest.approx(layer(-value, 1.0), rel=1e-12)
        assert layer(-value, 0.97) > risk < layer(-value * 1.03, 1.0)
        return
    found = [layer(x, x) for x in grid]
    coarse = np.polynomial.polynomial.polyfit(grid, found, 2)  # a quadratic function
    minimum = coarse[0] - coarse[1] ** 2 / (4 * coarse[2]) if options else found[0]
    assert risk == pytest.approx(minimum, rel=1e-10)
    assert risk <= min(found) + 1e-12


@pytest.mark.parametrize("options", [{}, SKIP, READ, BOTH], ids=str)
@pytest.mark.parametrize("task", [PRIOR, LOCAL.replaced(coef_mean=MEAN)], ids=["base", "local"])
def test_the_best_head_is_a_minimum(options, task):
    best = optimal_risk(task, heads(1, options), [6, 30])
    for i, n in enumerate((6, 30)):
        for factor in (0.97, 1.03):
            for scale, value in ((factor, 1), (1, factor)):
                risk = exact_risk(
                    task,
                    heads(1, options),
                    n,
                    score_scale=best.score_scale[i] * scale,
                    value_scale=best.value_scale[i] * value,
                )
                assert risk > best.risk[i]
        again = exact_risk(task, heads(1, options), n, score_scale=best.score_scale[i])
        assert again == pytest.approx(best.risk[i], rel=1e-12)


def test_best_head_on_a_grid():
    """The search finds the global minimum for small and large rho."""
    scales = np.concatenate([[0.0], np.geomspace(1e-3, 4, 300)])
    for local in ((0.1, 1), (1, 1), (6, 0.5), (0.9, 3)):
        task = icl.LinearRegression(dim=3, noise_var=0.3, local=local)
        for n in (3, 50):
            best = optimal_risk(task, ONE, n)
            grid = exact_risk(task, ONE, n, score_scale=scales / float(local[1]))
            assert grid.min() * (1 - 5e-4) < best.risk <= grid.min() * (1 + 1e-12)


def test_constants_are_the_limits():
    for task, best in ((LOCAL, icl.optimal_loss_constant(LOCAL, ONE)),):
        assert best.minimizer is not None
        scale = math.sqrt(float(best.minimizer[t]))
        value = 1 / (0.9 + 0.64 * scale)
        risk = exact_risk(task, ONE, 1e8, score_scale=scale, value_scale=value)
        assert 1e8 * risk == pytest.approx(float(best), rel=1e-6)
        assert 1e8 * optimal_risk(task, ONE, 1e8).risk == pytest.approx(float(best), rel=1e-5)
    for options in ({}, BOTH):
        best = icl.optimal_loss_constant(PRIOR, heads(1, options))
        assert 1e9 * optimal_risk(PRIOR, heads(1, options), 1e9).risk == pytest.approx(
            float(best), rel=1e-3
        )


# -- simulated constants and pairs -------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, SKIP, READ, BOTH], ids=str)
def test_pairs_with_a_prior(options):
    """M18(d): the layers of the exact pairs, simulated with numbers for what is free."""
    n = 9
    best = optimal_risk(PRIOR, heads(2, options), n, small_scores=True)
    slope, given = best.value_scale, {}
    if options == BOTH:
        given = {"skip": MEAN, "feature_values": readings(MEAN, -slope)}
    elif options == SKIP:  # the bias z^2 - 2 z p + ... is least at z = p
        given = {"skip": [(1 - slope * (n - 1) / n) * x for x in MEAN]}
    elif options == READ:  # and at p = (n - 1)/(n - 1 + d + 1) for z = 1
        given = {"feature_values": readings(MEAN, n / (n + 3) - slope)}
    layer = pair(slope, options=given)
    agrees(best.risk, monte_carlo_risk(PRIOR, layer, n, prompts=40_000, seed=4))


def test_pairs_on_local_examples():
    """M21 at n = 15: the heads with S_0 of the optimum, simulated."""
    n, c = 15, 4.9375
    best = optimal_risk(LOCAL, TWO, n)
    alpha, beta = 0.84 / n, c / (n - 1 + c)
    total = 0.9 * beta / (alpha + 0.81 * beta)
    layer = pair(best.value_scale, total)
    agrees(best.risk, monte_carlo_risk(LOCAL, layer, n, prompts=20_000, seed=5))
    plain = monte_carlo_risk(LOCAL, layer, n, prompts=200_000, seed=6, sampler="plain")
    agrees(best.risk, plain)
    assert exact_risk(LOCAL, layer, n) == pytest.approx(best.risk, rel=1e-5)  # any scalar heads


def test_several_heads_on_local_examples():
    layer = icl.SoftmaxAttention(scores=[0.4, -0.3, 0.0], values=[1.1, 0.2, -0.4])
    agrees(exact_risk(LOCAL, layer, 15), monte_carlo_risk(LOCAL, layer, 15, prompts=40_000))


@pytest.mark.parametrize("layer", [LINEAR, CENTRED], ids=["uncentred", "centred"])
@pytest.mark.parametrize("kind", ["plain", "reduced"])
def test_linear_attention_on_local_examples(layer, kind):
    task = EVERYTHING
    best = optimal_risk(task, layer, 8)
    estimate = monte_carlo_risk(
        task, layer, 8, value_scale=best.value_scale, prompts=200_000, seed=7, sampler=kind
    )
    agrees(best.risk, estimate, 0.06)
    assert exact_risk(task, layer, 8, value_scale=best.value_scale) == pytest.approx(best.risk)
    assert exact_risk(task, layer, 8, value_scale=1.05 * best.value_scale) > best.risk


@pytest.mark.parametrize("layer", [LINEAR, CENTRED], ids=["uncentred", "centred"])
def test_linear_attention_with_a_prior(layer):
    """A mean of the coefficients counts with its second moment."""
    best = optimal_risk(PRIOR, layer, 8)
    estimate = monte_carlo_risk(
        PRIOR, layer, 8, value_scale=best.value_scale, prompts=200_000, seed=17, sampler="plain"
    )
    agrees(best.risk, estimate)
    assert best.risk > 1.1 * optimal_risk(PRIOR.replaced(coef_mean=None), layer, 8).risk


def test_tight_prior_in_long_prompts():
    """M19: Cov(theta) = 6/(3n) I at n = 2000, one head and the pair, against the constants."""
    n = 2000
    limit = icl.LinearRegression(dim=3, noise_var=0.3, coef_cov=2, coef_mean=[0, 0, 1])
    task = limit.replaced(coef_cov=2 / n)
    best = numeric.optimal_tight_prior(limit, heads(1, READ))
    a, scale = best.share, math.sqrt(best.t)
    one = icl.SoftmaxAttention(
        scores=[scale], values=[a / scale], feature_values=[[0, 0, (1 - a) / scale]]
    )
    exact = n * exact_risk(task, one, n)
    assert exact == pytest.approx(best.constant, rel=0.06)  # the correction of order n^-0.1 or so
    far = 10**9
    long = limit.replaced(coef_cov=sp.Rational(2, far))
    assert far * exact_risk(long, one, far) == pytest.approx(best.constant, rel=1e-4)
    agrees(exact / n, monte_carlo_risk(task, one, n, prompts=30_000, seed=8), 0.06)
    a = 20 / 23
    two = pair(a, options={"feature_values": readings([0, 0, 1], 1 - a)})
    agrees(110 / 23 / n, monte_carlo_risk(task, two, n, prompts=25_000, seed=9), 0.06)


@pytest.mark.parametrize("count", [4, 6])
def test_families_of_the_prior_simulated(count):
    """M18(c) in d = 2: constants of four and of 2d + 2 heads, n = 250."""
    task = icl.LinearRegression(dim=2, noise_var=0.3, coef_cov=0.5, coef_mean=[1, 0.5])
    layer: Any = icl.prior_heads(task, count)
    numbers = icl.SoftmaxAttention(
        scores=[a.subs(k, sp.Rational(1, 10)) for a in layer.scores],
        values=[w.subs(k, sp.Rational(1, 10)) for w in layer.values],
        feature_values=[[x.subs(k, sp.Rational(1, 10)) for x in u] for u in layer.feature_values],
    )
    constant = float(icl.loss_constant(task, numbers))
    estimate = monte_carlo_risk(task, numbers, 250, prompts=80_000, seed=10, sampler="plain")
    agrees(constant / 250, estimate, 0.06)
    assert constant > float(icl.optimal_loss_constant(task, heads(6, READ)))


def test_shifted_prompts():
    """M22, first row: layers of the base task on local prompts, n = 2000."""
    base, near = icl.LinearRegression(dim=3), icl.LinearRegression(dim=3, local=(0.9, 0.8))
    best = icl.optimal_loss_constant(base, ONE)
    assert best.minimizer is not None
    scale = math.sqrt(float(best.minimizer[t]))
    layer = icl.SoftmaxAttention(scores=[scale], values=[1 / scale])
    floor = float(icl.shift_floor(base, near, ONE))
    assert exact_risk(near, layer, 1e9) == pytest.approx(floor, rel=1e-6)
    agrees(exact_risk(near, layer, 2000), monte_carlo_risk(near, layer, 2000, prompts=10_000), 0.06)
    two = monte_carlo_risk(near, pair(1.0), 2000, prompts=10_000, seed=12)
    assert two.value == pytest.approx(0.36**2, abs=5 * two.standard_error + 10 / 2000)
    assert abs(two.value - 0.45**2) > 5 * two.standard_error + 10 / 2000


def test_query_token_simulated():
    """Reference row 8: the query token inside the softmax; the two samplers agree with it."""
    task = icl.LinearRegression(dim=3, noise_var=0.3)
    layer = icl.SoftmaxAttention(scores=[0.45], values=[1.7], include_query=True)
    for kind, prompts in (("reduced", 60_000), ("plain", 250_000)):
        estimate = monte_carlo_risk(task, layer, 40, prompts=prompts, seed=13, sampler=kind)
        agrees(0.328577691, estimate)


def test_sampled_constants_with_a_prior():
    exact = float(icl.loss_constant(PRIOR, ONE).subs(t=0.09))
    agrees(exact, monte_carlo_constant(PRIOR, ONE, score_scale=0.3, prompts=100_000, seed=14))


# -- trained models ------------------------------------------------------------------------------------


def test_model_is_the_layer_of_its_specification():
    import torch

    from numeric import finite

    task = EVERYTHING
    model = finite.SoftmaxAttention(
        dim=3, heads=2, include_query=True, skip=True, feature_values=True, seed=3
    )
    with torch.no_grad():
        assert model.skip is not None
        assert model.u is not None
        model.skip.add_(torch.tensor([0.3, -0.2, 0.1]))
        model.u.add_(torch.tensor([[0.3, 0, 1.0], [-0.5, 0.2, 0.1]]))
        model.v.div_(4)
    layer = model.specification()
    assert layer.options == ("include_query", "skip", "feature_values")
    assert model.attention == heads(2, {"include_query": True, **BOTH})
    estimate = monte_carlo_risk(task, layer, 6, prompts=2_000, seed=15, sampler="plain")
    same = numeric.measure_risk(model, task, 6, prompts=2_000, seed=15)
    assert same.value == pytest.approx(estimate.value, rel=1e-12)
    assert finite.SoftmaxAttention(**model.config).config == model.config


def test_training_finds_the_optimum_with_a_prior():
    """Two heads with a skip path and readings: theta_0 is learned and costs nothing."""
    from numeric import finite

    task = icl.LinearRegression(dim=2, noise_var=0.1, coef_mean=[1.5, -1])
    model = finite.SoftmaxAttention(dim=2, heads=2, skip=True, feature_values=True)
    finite.train(model, task, 10, steps=500, batch_size=128, learning_rate=0.05, progress=False)
    best = optimal_risk(task, heads(2, BOTH), 10).risk
    without = optimal_risk(task, TWO, 10).risk
    risk = numeric.measure_risk(model, task, 10, prompts=60_000, seed=16)
    assert risk.value < 1.05 * best + 5 * risk.standard_error
    assert risk.value > best - 5 * risk.standard_error - 0.02 * best
    assert without > 2 * best
    assert model.skip is not None
    np.testing.assert_allclose(model.skip.detach().numpy(), [1.5, -1], atol=0.1)


# -- refusals ------------------------------------------------------------------------------------------


def test_functions_without_the_scenarios_refuse_them():
    for task in (PRIOR, LOCAL):
        for call in (
            lambda task=task: numeric.block_risk(task, np.eye(3), 1.0, 10),
            lambda task=task: numeric.optimal_block_risk(task, 10),
            lambda task=task: numeric.prompt_length_for(task, 0.1),
        ):
            with pytest.raises(InvalidInput, match="is not supported here"):
                call()
    with pytest.raises(InvalidInput, match="local is not supported"):
        monte_carlo_constant(LOCAL, ONE, score_scale=0.3)
    layer = icl.SoftmaxAttention(scores=[0.3], values=[1 / 0.3], skip=[0, 0, 0])
    with pytest.raises(InvalidInput, match="skip is not supported"):
        monte_carlo_constant(PRIOR, layer)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact_risk(LOCAL, ONE, 9, value_scale=1), "does not fix the head"),
        (lambda: exact_risk(LOCAL, TWO, 9, score_scale=0.1), "limit of small scores"),
        (lambda: exact_risk(LOCAL, TWO, 1), "not an integer of at least 2"),
        (lambda: exact_risk(LOCAL, LINEAR, 9, score_scale=1), "no score_scale"),
        (lambda: exact_risk(PRIOR, heads(1, {"skip": [1, 2]}), 9), "pass skip=True"),
        (
            lambda: exact_risk(PRIOR, icl.SoftmaxAttention(scores=[1], values=[1], skip=[1, 2]), 9),
            "length 2",
        ),
        (
            lambda: exact_risk(PRIOR, icl.SoftmaxAttention(scores=[k], values=[1], skip=True), 9),
            "still contains symbols",
        ),
        (
            lambda: optimal_risk(PRIOR, heads(1, {"include_query": True, **SKIP}), 9),
            "include_query",
        ),
        (
            lambda: monte_carlo_risk(PRIOR, heads(1, SKIP), 9, score_scale=1, value_scale=1),
            "free to choose",
        ),
        (lambda: numeric.optimal_tight_prior(PRIOR, TWO), "only one softmax head"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()


def test_scale_beyond_the_quadrature():
    with pytest.raises(OutOfDomain, match="loses accuracy"):
        exact_risk(LOCAL, ONE, 9, score_scale=1e4, value_scale=1)


def test_best_tight_head_on_a_grid():
    limit = icl.LinearRegression(dim=3, noise_var=0.3, coef_cov=2, coef_mean=[0, 0, 1])
    best = numeric.optimal_tight_prior(limit, heads(1, READ))
    formula = icl.tight_prior_constant(limit, heads(1, READ))
    constant = sp.lambdify((t, share), formula.expr)
    a, x = np.meshgrid(np.linspace(0, 1, 401), np.linspace(0.05, 0.4, 701))
    assert constant(x, a).min() == pytest.approx(best.constant, rel=1e-5)
    assert constant(best.t, best.share) == pytest.approx(best.constant, rel=1e-12)
    no_options = numeric.optimal_tight_prior(limit, ONE)
    assert no_options.share == 1
    assert no_options.constant > best.constant


@pytest.mark.parametrize("options", [READ, {**READ, **SKIP}])
def test_best_tight_head_without_noise_reads_everything(options):
    task = icl.LinearRegression(dim=3, coef_cov=2, coef_mean=[0, 0, 1])
    best = numeric.optimal_tight_prior(task, heads(1, options))
    expected = (
        0 if len(options) == 2 else float(icl.optimal_loss_constant(icl.LinearRegression(3), ONE))
    )
    assert best.share == 1
    assert best.constant == pytest.approx(expected, rel=1e-9)
