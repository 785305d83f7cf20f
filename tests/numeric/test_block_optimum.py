"""optimal_block_risk and prompt_length_for: published digits, scalar heads, random restarts."""

import math

import numpy as np
import pytest
from scipy import optimize

import icltheory as icl
from icltheory import symbols
from icltheory.errors import InvalidInput, OutOfDomain
from numeric import (
    block_risk,
    block_risk_gradient,
    optimal_block_risk,
    optimal_risk,
    prompt_length_for,
)

ONE = icl.SoftmaxAttention(heads=1)
DECAY = [[0.5 ** abs(i - j) for j in range(5)] for i in range(5)]


def reference(dim, noise_var=0.0, **covariances):
    """The large-prompt paper's task: S = I. Its risk has a factor 1/2."""
    return icl.LinearRegression(dim=dim, noise_var=noise_var, coef_cov=1, **covariances)


# -- published digits ----------------------------------------------------------------------------------


def test_reference_minima():
    best = optimal_block_risk(reference(5), [100, 1000, 10_000])
    assert best.risk / 2 == pytest.approx([0.3696824, 0.0461579, 0.00476646], rel=2e-6)
    assert best.risk * 1.03 / 2 != pytest.approx([0.3696824, 0.0461579, 0.00476646], rel=1e-2)
    assert best.A[0] == pytest.approx(0.42884 * np.eye(5), abs=1e-5)
    assert best.b[0] == pytest.approx(2.05861, abs=1e-5)
    # The balanced end of infinite-prompt training.
    b = 5**0.25
    values = block_risk(reference(5), 1 / b, b, [100, 1000, 10_000]) / 2
    assert values == pytest.approx([0.445181, 0.094836, 0.017903], abs=1e-6)
    for n, risk, square in ((20, 0.26326, 0.9763), (50, 0.14305, 1.6906)):
        best = optimal_block_risk(reference(2), n)
        assert best.risk / 2 == pytest.approx(risk, abs=1e-5)
        assert best.b**2 == pytest.approx(square, abs=1e-4)
    best = optimal_block_risk(reference(25), [100, 1000, 10_000])
    assert best.risk / 2 == pytest.approx([5.1867, 0.85133, 0.09107], rel=1e-4)


def test_reference_excess_errors_of_the_released_experiments():
    # S = I/5 and noise 0.1; the linear optimum is 6.5/(n + 6.5).
    task = icl.LinearRegression(dim=5, noise_var=0.1)
    n = np.array([10, 30, 100, 300, 1000])
    best = optimal_block_risk(task, n)
    assert best.risk == pytest.approx([0.6089, 0.3612, 0.1587, 0.0622, 0.0200], abs=6e-5)
    assert best.b**2 == pytest.approx([0.607, 1.754, 4.100, 6.031, 7.209], abs=6e-4)
    linear = icl.optimal_linear_attention(task)
    values = [float(linear.subs(n=int(length))) for length in n]
    assert values == pytest.approx([0.3939, 0.1781, 0.0610, 0.0212, 0.0065], abs=6e-5)


def test_correlated_features_gain_over_multiples_of_the_inverse():
    cov = 1.5 * np.array(DECAY)
    task = icl.LinearRegression(dim=5, feature_cov=cov)
    best = optimal_block_risk(task, 40)
    signal = float(task.signal)
    assert best.risk / signal == pytest.approx(0.266, abs=5e-4)
    assert optimal_risk(task, ONE, 40).risk / signal == pytest.approx(0.286, abs=5e-4)
    assert best.A @ cov == pytest.approx(cov @ best.A, abs=1e-9)  # in the eigenbasis of Sigma
    assert block_risk(task, best.A, best.b, 40) == pytest.approx(best.risk, rel=1e-12)
    # In long prompts the gain disappears: both tend to the constant of the valley.
    constant = float(icl.optimal_valley_constant(task))
    assert 1e6 * optimal_block_risk(task, 10**6).risk == pytest.approx(constant, rel=2e-3)


# -- the optimum is one --------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [1, 3, 12])
def test_isotropic_tasks_agree_with_the_scalar_search(dim):
    task = icl.LinearRegression(dim=dim, noise_var=0.2, feature_cov=1.7, coef_cov=0.6)
    n = [2, 10, 100, 10_000]
    best, scalar = optimal_block_risk(task, n), optimal_risk(task, ONE, n)
    assert best.risk == pytest.approx(scalar.risk, rel=1e-9)
    assert best.A[:, 0, 0] == pytest.approx(scalar.score_scale / 1.7, rel=1e-5)
    assert best.b == pytest.approx(scalar.value_scale, rel=1e-5)


GENERAL = {
    "commuting": icl.LinearRegression(
        dim=3, noise_var=0.2, feature_cov=[0.4, 1.0, 2.5], coef_cov=[1.0, 0.3, 0.1]
    ),
    "general": icl.LinearRegression(
        dim=3,
        noise_var=0.2,
        feature_cov=[[1, 0.4, 0.1], [0.4, 0.8, 0], [0.1, 0, 1.6]],
        coef_cov=[[0.5, 0.2, 0], [0.2, 0.9, -0.3], [0, -0.3, 0.4]],
    ),
}


@pytest.mark.parametrize("name", GENERAL)
def test_no_random_start_ends_lower(name):
    task, n = GENERAL[name], 25
    best = optimal_block_risk(task, n)
    slope = block_risk_gradient(task, best.A, best.b, n)
    assert np.abs(slope["A"]).max() < 1e-9
    assert abs(slope["b"]) < 1e-9

    def value(y):
        matrix = y[:9].reshape(3, 3)
        if np.abs(matrix).max() > 4:  # a line search that left the domain
            return 1e6, np.zeros(10)
        slope = block_risk_gradient(task, matrix, y[9], n)
        return block_risk(task, matrix, y[9], n), np.append(slope["A"].ravel(), slope["b"])

    rng = np.random.default_rng(3)
    for _ in range(3):
        start = np.append(0.6 * rng.standard_normal(9), rng.standard_normal())
        found = optimize.minimize(value, start, jac=True, method="BFGS", options={"maxiter": 300})
        assert found.fun > best.risk * (1 - 1e-9)
    # A wrong optimum would be seen: 3 % off in any direction is worse than the search's error.
    assert block_risk(task, 1.03 * best.A, best.b, n) > best.risk * (1 + 1e-6)


def test_another_query_covariance():
    task = GENERAL["general"]
    query = [[0.5, 0.1, 0], [0.1, 0.7, 0.2], [0, 0.2, 2.0]]
    best = optimal_block_risk(task, 60, query_cov=query)
    slope = block_risk_gradient(task, best.A, best.b, 60, query_cov=query)
    assert np.abs(slope["A"]).max() < 1e-9
    default = optimal_block_risk(task, 60)
    assert best.risk < block_risk(task, default.A, default.b, 60, query_cov=query)


def test_ill_conditioned_features_and_a_query_without_variance():
    cov = np.array([1e-4, 0.01, 0.1, 1, 10])
    task = icl.LinearRegression(dim=5, feature_cov=cov)
    best = optimal_block_risk(task, 10)
    slope = block_risk_gradient(task, best.A, best.b, 10)["A"] / np.sqrt(cov[:, None] * cov)
    assert np.abs(slope).max() < 1e-6
    assert best.risk < 0.7 * optimal_risk(task, ONE, 10).risk
    flat = optimal_block_risk(icl.LinearRegression(dim=2), 30, query_cov=[1, 0])
    assert flat.A[:, 1] == pytest.approx([0, 0], abs=1e-12)
    values = [
        block_risk(icl.LinearRegression(dim=2), flat.A * f, flat.b, 30, [1, 0])
        for f in (0.97, 1, 1.03)
    ]
    assert values[0] > values[1] < values[2]


def test_one_example():
    best = optimal_block_risk(GENERAL["general"], 1)
    assert best.risk == pytest.approx(float(GENERAL["general"].signal))
    assert best.b == 0
    assert np.isnan(best.A).all()


# -- prompt lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "eps"),
    [
        (icl.LinearRegression(dim=5), 0.1),
        (icl.LinearRegression(dim=2, noise_var=0.5), 0.3),
        (icl.LinearRegression(dim=2, feature_cov=[0.5, 2.0], coef_cov=1), 0.2),
    ],
)
def test_smallest_prompt(task, eps):
    found = prompt_length_for(task, eps)
    n = found.prompt_length
    risk = optimal_block_risk(task, [n - 1, n]).risk
    assert risk[0] > eps >= risk[1]
    assert found.risk == pytest.approx(risk[1], rel=1e-9)


def test_leading_law_of_the_prompt_length():
    task = icl.LinearRegression(dim=5)
    found = [prompt_length_for(task, eps) for eps in (1e-1, 1e-2, 1e-3)]
    gaps = [each.leading / each.prompt_length - 1 for each in found]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.02
    at_once = prompt_length_for(task, 1.0)
    assert (at_once.prompt_length, at_once.risk) == (1, 1.0)


@pytest.mark.parametrize("eps", [0, -0.1, math.nan, [0.1, 0.2], "small"])
def test_bad_targets(eps):
    with pytest.raises(InvalidInput):
        prompt_length_for(icl.LinearRegression(dim=5), eps)


def test_bad_input():
    with pytest.raises(OutOfDomain, match="1e7"):
        optimal_block_risk(icl.LinearRegression(dim=5), 10**8)
    with pytest.raises(InvalidInput, match="at least 1"):
        optimal_block_risk(icl.LinearRegression(dim=5), 0)
    with pytest.raises(InvalidInput, match="still contains"):
        optimal_block_risk(icl.LinearRegression(dim=symbols.d), 10)
