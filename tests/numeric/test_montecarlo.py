"""Sampled risks and constants against reference values, closed forms and each other.

Every comparison is a row of `numeric.compare`: five standard errors, resolution below 2 %, and as
negative control the same estimate against a prediction changed by 3 %.
"""

import math
import tracemalloc

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from icltheory.errors import InfiniteVariance, InvalidInput
from icltheory.symbols import n as length
from icltheory.symbols import t, v
from numeric.arrays import task_arrays
from numeric.compare import Comparison, compare
from numeric.montecarlo import (
    Estimate,
    Streaming,
    child_seed,
    monte_carlo_constant,
    monte_carlo_risk,
    sample_prompts,
    seed_sequence,
    stream,
)

ONE, PAIR = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
SKEWED = icl.LinearRegression(
    dim=3,
    noise_var=0.3,
    feature_cov=[[2, 0.5, 0], [0.5, 1, 0.2], [0, 0.2, 0.5]],
    coef_cov=[[0.5, 0.2, 0], [0.2, 0.4, 0], [0, 0, 0.1]],
)


def agrees(prediction: float, estimate: Estimate, error: float = 0.0) -> None:
    """Five standard errors, resolution 2 %, and rejection of the prediction changed by 3 %.

    `error` is the standard error of the prediction where it is itself an estimate.
    """
    total = math.hypot(estimate.standard_error, error)
    table = Comparison.from_rows([compare({}, prediction, estimate.value, total, required=0.02)])
    assert table.passed, str(table)
    assert table.scaled(1.03).rows[0].verdict == "deviates"
    assert table.scaled(0.97).rows[0].verdict == "deviates"


# -- reference values ----------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "times_n"), [(50, 16.589059), (200, 18.001385), (1000, 18.774317)])
def test_one_head_reference(n, times_n):
    k = math.sqrt(0.12285)
    estimate = monte_carlo_risk(
        icl.LinearRegression(dim=5),
        ONE,
        n,
        score_scale=k,
        value_scale=1 / k,
        prompts=100_000,
        seed=7,
    )
    agrees(times_n / n, estimate)


@pytest.mark.parametrize(("sampler", "prompts"), [("reduced", 150_000), ("plain", 500_000)])
def test_one_head_with_noise_reference(sampler, prompts):
    estimate = monte_carlo_risk(
        icl.LinearRegression(dim=3, noise_var=0.3),
        ONE,
        40,
        score_scale=0.45,
        value_scale=1.7,
        prompts=prompts,
        seed=8,
        sampler=sampler,
    )
    agrees(0.272193563, estimate)


# The values v minimise the exact risk (joint Laplace transform of the two heads).
@pytest.mark.parametrize(
    ("d", "noise", "n", "k", "value", "risk"),
    [(3, 0.4, 15, 0.35, 1.17219492, 0.27000702), (5, 0.0, 20, 0.1, 4.01595639, 0.23972154)],
)
def test_pair_reference(d, noise, n, k, value, risk):
    estimate = monte_carlo_risk(
        icl.LinearRegression(dim=d, noise_var=noise),
        PAIR,
        n,
        score_scale=k,
        value_scale=value,
        prompts=200_000,
        seed=10,
    )
    agrees(risk, estimate)


@pytest.mark.parametrize("k", [1e-3, 1e-7])
def test_small_opposite_scores_do_not_cancel(k):
    # k -> 0: centred linear attention with (n-1)/n of the value; its risk is exact at every n.
    d, n, c = 3, 12, 1.4 * 3 + 1
    alpha = n / (n - 1 + c)
    estimate = monte_carlo_risk(
        icl.LinearRegression(dim=d, noise_var=0.4),
        PAIR,
        n,
        score_scale=k,
        value_scale=alpha / (2 * k),
        prompts=200_000,
    )
    agrees(c / (n - 1 + c), estimate)


# -- one sampler against the other ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("attention", "scales"),
    [
        (icl.SoftmaxAttention(scores=[0.4, -0.3, 0.1], values=[0.8, -0.9, 0.5]), {}),
        (PAIR, {"score_scale": 0.3, "value_scale": 1.2}),
        (icl.LinearAttention(), {"value_scale": 0.7}),
        (icl.LinearAttention(centered=True), {"value_scale": 0.7}),
    ],
)
def test_reduced_equals_plain_with_covariances(attention, scales):
    reduced, plain = (
        monte_carlo_risk(SKEWED, attention, 6, prompts=count, seed=3, sampler=sampler, **scales)
        for sampler, count in (("reduced", 500_000), ("plain", 900_000))
    )
    agrees(reduced.value, plain, reduced.standard_error)
    assert reduced.relative_error * math.sqrt(reduced.prompts) < plain.relative_error * math.sqrt(
        plain.prompts
    )


@pytest.mark.parametrize("centered", [False, True])
def test_linear_attention_against_its_closed_form(centered):
    n, a, attention = 15, 0.7, icl.LinearAttention(centered=centered)
    formula = icl.finite_prompt_risk(SKEWED, attention)
    exact = float(formula.expr.subs({length: n, v: a}))
    agrees(exact, monte_carlo_risk(SKEWED, attention, n, value_scale=a, prompts=200_000))


def test_matrix_head_that_is_scalar_equals_the_scalar_head():
    inverse = SKEWED.feature_cov.inverse() * 0.35
    matrix = icl.SoftmaxAttention(scores=[inverse.to_matrix()], values=[1.5])
    scalar = icl.SoftmaxAttention(scores=[0.35], values=[1.5])
    first, second = (
        monte_carlo_risk(SKEWED, heads, 10, prompts=500, seed=1, sampler="plain")
        for heads in (matrix, scalar)
    )
    assert first.value == pytest.approx(second.value, rel=1e-12)


def test_layer_acts_as_written():
    # x_q'A x_i with nonsymmetric A, token by token, on the prompts that the estimate has seen.
    a = np.array([[0.3, 0.8, 0.0], [0.0, 0.2, 0.0], [0.0, 0.0, 0.4]])
    heads = icl.SoftmaxAttention(scores=[a, 0.3 * a.T], values=[1.0, -0.5])
    estimate = monte_carlo_risk(SKEWED, heads, 4, prompts=50, seed=2, sampler="plain")
    rng = np.random.default_rng(child_seed(seed_sequence(2), 0))
    errors = []
    for x, y, query, target in zip(*sample_prompts(task_arrays(SKEWED), 4, 50, rng), strict=True):
        prediction = 0.0
        for matrix, value in ((a, 1.0), (0.3 * a.T, -0.5)):
            w = [math.exp(query @ matrix @ token) for token in x]
            prediction += value * sum(p * label for p, label in zip(w, y, strict=True)) / sum(w)
        errors.append((prediction - target) ** 2)
    assert estimate.value == pytest.approx(np.mean(errors), rel=1e-12)
    assert estimate.standard_error == pytest.approx(np.std(errors, ddof=1) / math.sqrt(50))
    assert estimate.prompts == 50


@pytest.mark.parametrize(
    ("product", "exact", "prompts"),
    [
        (lambda x, y, query, target: x[:, 0, 0] * x[:, 0, 1], 0.5, 600_000),
        (lambda x, y, query, target: query[:, 1] ** 2, 1.0, 300_000),
        # tr(Sigma M) + noise_var, and (Sigma M Sigma)_00, added up by hand
        (lambda x, y, query, target: y[:, 0] ** 2, 1.65 + 0.3, 500_000),
        (lambda x, y, query, target: y[:, 0] * target * x[:, 0, 0] * query[:, 0], 2.5, 2_000_000),
    ],
)
def test_prompts_have_the_covariances_of_the_task(product, exact, prompts):
    estimate = stream(
        lambda rng, size: product(*sample_prompts(task_arrays(SKEWED), 1, size, rng)),
        40,
        prompts=prompts,
        seed=4,
    )
    agrees(exact, estimate)


# -- the constant --------------------------------------------------------------------------------


@pytest.mark.parametrize(("attention", "k"), [(ONE, 0.25), (PAIR, 0.25), (PAIR, 1e-6)])
def test_constant_of_scalar_heads(attention, k):
    task = icl.LinearRegression(dim=4, noise_var=0.5)
    exact = icl.loss_constant(task, attention).expr.subs(t, sp.Rational(str(k)) ** 2)
    estimate = monte_carlo_constant(task, attention, score_scale=k, prompts=200_000)
    agrees(float(exact.evalf(30)), estimate)


def test_constant_of_matrix_heads_with_covariances():
    inverse = np.array(SKEWED.feature_cov.inverse().to_matrix().tolist(), dtype=float)
    a, b = 0.1 * inverse, np.array([[0.1, 0.05, 0], [0, -0.1, 0.02], [0.03, 0, 0.1]])
    heads, values = [a, b, (inverse - 2 * a - 1.5 * b) / 4], [2.0, 1.5, 4.0]
    attention = icl.SoftmaxAttention(scores=heads, values=values)
    exact = float(icl.head_constant(SKEWED, heads, values).expr)
    agrees(exact, monte_carlo_constant(SKEWED, attention, prompts=400_000))


def test_infinite_variance_message():
    task = icl.LinearRegression(dim=5)
    with pytest.raises(InfiniteVariance) as caught:
        monte_carlo_constant(task, ONE, score_scale=0.6)
    assert str(caught.value) == (
        "t = k^2 = 0.36 of head 0 is not below 1/4, where the variance of the sampled constant "
        "becomes infinite. Use the closed form icl.head_constant, or the quadrature "
        "numeric.exact_risk at finite n."
    )
    matrix = icl.SoftmaxAttention(
        scores=[[[0.6, 0], [0, 0.1]], [[0.4, 0], [0, 0.9]]], values=[1, 1]
    )
    with pytest.raises(InfiniteVariance) as caught:
        monte_carlo_constant(icl.LinearRegression(dim=2), matrix)
    assert str(caught.value) == (
        "the largest eigenvalue 0.36 of Sigma^(1/2) sym(A_0 Sigma A_0') Sigma^(1/2) is not below "
        "1/4, where the variance of the sampled constant becomes infinite. Use the closed form "
        "icl.head_constant, or the quadrature numeric.exact_risk at finite n."
    )


def test_variance_bound_is_sharp_and_ignores_heads_without_value():
    task = icl.LinearRegression(dim=2, feature_cov=[3, 0.5])
    with pytest.raises(InfiniteVariance):
        monte_carlo_constant(task, ONE, score_scale=0.5, prompts=10)
    assert monte_carlo_constant(task, ONE, score_scale=0.499, prompts=10).value > 0
    idle = icl.SoftmaxAttention(scores=[0.25, 3], values=[4, 0])
    assert monte_carlo_constant(task, idle, prompts=10).value > 0
    # At finite n the risk has finite variance at every scale.
    assert monte_carlo_risk(task, idle, 10, prompts=10).value > 0


def test_inconsistent_heads_have_no_constant():
    task = icl.LinearRegression(dim=2)
    with pytest.raises(InvalidInput, match=r"not consistent: .* \(by 0\.03 in whitened"):
        monte_carlo_constant(task, ONE, score_scale=0.25, value_scale=4.12)
    with pytest.raises(InvalidInput, match=r"not consistent: .* \(by 1 in whitened"):
        monte_carlo_constant(task, PAIR, score_scale=0)
    with pytest.raises(InvalidInput, match="score_scale and value_scale missing"):
        monte_carlo_constant(task, ONE)
    with pytest.raises(InvalidInput, match=r"a polynomial, icl\.loss_constant"):
        monte_carlo_constant(task, icl.LinearAttention())


# -- streams, seeds, memory ------------------------------------------------------------------------


def test_streaming_equals_numpy_and_merges():
    values = 1e8 + np.random.default_rng(0).standard_normal(1001)
    left, right = Streaming(), Streaming()
    for part in np.split(values[:600], [1, 50, 50, 300]):
        left.add(part)
    right.add(values[600:])
    left.merge(right)
    left.merge(Streaming())
    assert left.count == 1001
    assert left.mean == pytest.approx(values.mean(), rel=1e-15)
    assert left.variance == pytest.approx(values.var(ddof=1), rel=1e-9)
    assert left.estimate().standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(1001))


def test_few_numbers_have_no_error():
    single = Streaming()
    single.add(2.0)
    assert math.isnan(single.estimate().standard_error)
    assert math.isnan(Streaming().variance)
    assert Estimate(0.0, 1.0, 5).relative_error == math.inf
    assert Estimate(-4.0, 1.0, 5).relative_error == 0.25


def _risk(**changes):
    arguments = {"score_scale": 0.3, "value_scale": 2, "prompts": 3000, "seed": 5} | changes
    return monte_carlo_risk(icl.LinearRegression(dim=3), ONE, 10, **arguments)


@pytest.mark.parametrize("sampler", ["reduced", "plain"])
def test_seeds(sampler):
    first = _risk(sampler=sampler, batch=700)
    assert first == _risk(sampler=sampler, batch=700)
    assert first == _risk(sampler=sampler, batch=700, seed=np.random.SeedSequence(5))
    assert first.value != _risk(sampler=sampler, batch=700, seed=6).value


def test_seed_sequences_are_left_untouched_and_children_are_those_of_spawn():
    root = np.random.SeedSequence(9)
    assert _risk(seed=root) == _risk(seed=root)
    state = child_seed(root, 0).generate_state(4)
    assert np.array_equal(state, root.spawn(1)[0].generate_state(4))
    assert seed_sequence(np.int64(3)).entropy == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", ["reduced", "plain"])
def test_memory_does_not_grow_with_prompts(sampler):
    def peak(prompts: int) -> int:
        tracemalloc.start()
        monte_carlo_risk(
            icl.LinearRegression(dim=5),
            PAIR,
            400,
            score_scale=0.2,
            value_scale=2.5,
            prompts=prompts,
            sampler=sampler,
        )
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    few = peak(3_000)
    assert peak(30_000) < 1.1 * few
    assert few < 1.2 * 2**25


def test_progress_goes_to_standard_error(capsys):
    _risk(progress=True, batch=1000)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "3000/3000" in captured.err


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attention", "n", "options", "message"),
    [
        (ONE, 10, {}, r"score_scale and value_scale missing: .* v = 1/k"),
        (PAIR, 10, {"score_scale": 0.3}, r"value_scale missing: .* v = 1/\(2k\)"),
        (icl.SoftmaxAttention(heads=3), 10, {}, "3 heads have no canonical family"),
        (icl.SoftmaxAttention(scores=[1]), 10, {}, "scores but no values"),
        (icl.SoftmaxAttention(scores=[1], values=[1]), 10, {"value_scale": 1}, "must stay None"),
        (icl.SoftmaxAttention(scores=[t], values=[1]), 10, {}, "still contain"),
        (
            icl.SoftmaxAttention(scores=[[[1, 0], [0, 1]]], values=[1]),
            10,
            {},
            "Pass sampler='plain'",
        ),
        (icl.LinearAttention(), 10, {}, "value_scale missing"),
        (icl.LinearAttention(), 10, {"score_scale": 1, "value_scale": 1}, "has no score_scale"),
        (icl.LinearAttention(centered=True), 1, {"value_scale": 1}, "pass n >= 2"),
        ("softmax", 10, {}, "attention has type str"),
        (ONE, 0, {}, "prompt_length = 0 is not an integer of at least 1"),
        (ONE, [10, 20], {}, "loop over the lengths, or hand the grid to numeric.sweep"),
        (ONE, [10, 20], {}, r"prompt_length has shape \(2,\)"),
        (ONE, 10, {"score_scale": 1, "value_scale": math.nan}, "value_scale contains NaN"),
        (ONE, 10, {"score_scale": [1], "value_scale": 1}, "score_scale has shape"),
        (ONE, 10, {"score_scale": 1, "value_scale": 1, "sampler": "fast"}, "sampler = 'fast'"),
        (ONE, 10, {"score_scale": 1, "value_scale": 1, "prompts": 1}, "prompts = 1"),
        (ONE, 10, {"score_scale": 1, "value_scale": 1, "batch": 0}, "batch = 0"),
        (ONE, 10, {"score_scale": 1, "value_scale": 1, "seed": -1}, "seed = -1"),
        (ONE, 10, {"score_scale": 1, "value_scale": 1, "seed": 1.5}, "seed = 1.5"),
        (ONE, 10**12, {"score_scale": 1, "value_scale": 1}, "use numeric.exact_risk"),
    ],
)
def test_bad_input(attention, n, options, message):
    with pytest.raises(InvalidInput, match=message):
        monte_carlo_risk(icl.LinearRegression(dim=2), attention, n, **options)


def test_overflow_is_refused():
    with pytest.raises(InvalidInput, match="NaN or infinite"):
        stream(lambda rng, size: np.full(size, math.inf), 1, prompts=10, seed=0)
