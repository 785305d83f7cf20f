"""Finite-prompt flow and the drift along the valley: published values, limits, identities."""

import math

import numpy as np
import pytest

import icltheory as icl
from icltheory.errors import InvalidInput, OutOfDomain
from numeric import (
    block_risk,
    block_risk_gradient,
    exact_risk,
    finite_prompt_flow,
    optimal_block_risk,
    valley_drift,
)

CHAPTER = icl.LinearRegression(dim=5, coef_cov=1)  # the paper's S = I; its risk is half of ours
ALPHA = 0.3
BALANCED = {"A": ALPHA / math.sqrt(5), "b": ALPHA}
GENERAL = icl.LinearRegression(
    dim=2, noise_var=0.3, feature_cov=[[1, 0.3], [0.3, 0.8]], coef_cov=[[0.9, -0.2], [-0.2, 0.5]]
)
START = {"A": np.array([[0.4, 0.2], [-0.1, 0.3]]), "b": 0.5}


# -- published values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "square", "scaled"),
    [
        (30, 1.856, 51.2),
        (100, 4.238, 73.9),
        (1000, 7.314, 92.3),
        (10**5, 8.121, 95.7),
    ],
)
def test_reference_ends(n, square, scaled):
    path = finite_prompt_flow(CHAPTER, n, initial=BALANCED, times=[20 * n + 500], rtol=1e-7)
    assert path["b"][-1] ** 2 == pytest.approx(square, abs=6e-4)
    assert n * path["risk"][-1] == pytest.approx(scaled, abs=6e-2)
    best = optimal_block_risk(CHAPTER, n)
    assert path["risk"][-1] == pytest.approx(best.risk, rel=1e-6)


def test_reference_slow_phase():
    n = 10**6
    path = finite_prompt_flow(CHAPTER, n, initial=BALANCED, times=[3e3, 1e4, 3e4, 1e5])
    squares = path["b"] ** 2
    assert squares[1:] == pytest.approx([5.761, 7.076, 8.021], abs=6e-4)
    later = [0, 7e3, 2.7e4, 9.7e4]
    leading = valley_drift(CHAPTER, n, path["b"][0], later, method="leading")["b"] ** 2
    assert leading[1:] == pytest.approx([5.790, 7.092, 8.026], abs=6e-4)
    exact = valley_drift(CHAPTER, n, path["b"][0], later)["b"] ** 2
    assert exact == pytest.approx(squares, rel=2e-6)
    assert leading[1:] != pytest.approx(squares[1:], rel=2e-4)


def test_two_phases_at_ten_thousand_examples():
    path = finite_prompt_flow(CHAPTER, 10**4, initial=BALANCED, times=[3, 30, 1e3], rtol=1e-6)
    assert path["b"] ** 2 == pytest.approx([2.34, 3.54, 7.84], abs=5e-3)
    # The risk is slow before the escape, and again from the arrival at the valley on.
    (start, escape), (arrival, end) = path.plateaus(0.1)
    assert start == 0
    assert escape < 0.2
    assert 1.4 < arrival < 1.7
    assert end == 1e3


def balanced_limit(t):
    """Infinite prompt, Sigma = S = I, balanced start: the logistic solution for e = a b."""
    root = math.sqrt(5)
    e = 1 / (1 + (root / ALPHA**2 - 1) * np.exp(-2 * root * t))
    return np.sqrt(e / root), np.sqrt(root * e)


@pytest.mark.parametrize(("n", "gap"), [(1000, 0.339), (10**4, 0.132), (10**5, 0.037)])
def test_reference_distance_to_the_infinite_prompt(n, gap):
    times = np.linspace(0, 6, 241)
    path = finite_prompt_flow(CHAPTER, n, initial=BALANCED, times=times)
    a, b = balanced_limit(times)
    # Frobenius distance in A and b.
    distance = np.sqrt(5 * (path["A"][:, 0, 0] - a) ** 2 + (path["b"] - b) ** 2)
    assert distance.max() == pytest.approx(gap, abs=2e-3)


# -- the flow is one -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "start"),
    [
        (GENERAL, START),
        (icl.LinearRegression(dim=2, feature_cov=[0.5, 2]), {"A": np.diag([0.3, 0.1]), "b": 0.4}),
        (icl.LinearRegression(dim=2, feature_cov=[0.5, 2]), START),
        (icl.LinearRegression(dim=2), {"A": 0.2, "b": 0.4}),
        (icl.LinearRegression(dim=2), START),
    ],
)
def test_velocity_is_minus_half_the_gradient(task, start):
    # Every family of score matrices: general, commuting, isotropic, and starts outside of them.
    n, t, h = 20, 1.5, 1e-3
    path = finite_prompt_flow(task, n, initial=start, times=[0, 3.0], rtol=1e-11)
    steps = np.array([-2, -1, 1, 2]) * h
    weights = np.array([1, -8, 8, -1]) / (12 * h)
    near, here = path.at(t + steps), path.at(t)
    slope = block_risk_gradient(task, here["A"], here["b"], n)
    velocity = np.tensordot(weights, near["A"], axes=1)
    assert velocity == pytest.approx(-slope["A"] / 2, rel=1e-5, abs=1e-7)
    assert weights @ near["b"] == pytest.approx(-slope["b"] / 2, rel=1e-5)
    assert velocity != pytest.approx(-1.03 * slope["A"] / 2, rel=1e-3)
    assert here["risk"] == pytest.approx(block_risk(task, here["A"], here["b"], n), rel=1e-12)
    assert path["A"][0] == pytest.approx(
        start["A"] * np.eye(2) if np.ndim(start["A"]) == 0 else start["A"]
    )


def test_isotropic_flow_from_the_scalar_risk():
    # Euler's method extrapolated to step 0, on differences of numeric.exact_risk: another risk,
    # another gradient, another integrator.
    task, n, time = icl.LinearRegression(dim=3, noise_var=0.2, coef_cov=1), 15, 0.4
    one = icl.SoftmaxAttention(heads=1)

    def euler(count):
        k, v, h, step = 0.4, 0.5, 1e-5, time / count
        for _ in range(count):
            r = exact_risk(task, one, n, [k + h, k - h, k, k], [v, v, v + h, v - h])
            k, v = k - step / 3 * (r[0] - r[1]) / (4 * h), v - step * (r[2] - r[3]) / (4 * h)
        return np.array([k, v])

    first, second, third = euler(8), euler(16), euler(32)
    reference = (first - 6 * second + 8 * third) / 3
    path = finite_prompt_flow(task, n, initial={"A": 0.4, "b": 0.5}, times=[time])
    found = np.array([path["A"][0, 0, 0], path["b"][0]])
    assert found == pytest.approx(reference, abs=2e-4)
    assert np.abs(found - [0.4, 0.5]).min() > 0.05


def test_general_flow_ends_at_the_best_head():
    path = finite_prompt_flow(GENERAL, 40, initial=START, times=[0, 1, 5, 1000], rtol=1e-7)
    best = optimal_block_risk(GENERAL, 40)
    assert path["risk"][-1] == pytest.approx(best.risk, rel=1e-9)
    assert path["A"][-1] == pytest.approx(best.A, abs=1e-5)
    assert np.all(np.diff(path["risk"]) < 0)
    # The balance, conserved in the infinite prompt, is not.
    assert abs(path["balance"][-1] - path["balance"][0]) > 0.1


def test_negative_and_zero_starts():
    mirrored = finite_prompt_flow(CHAPTER, 30, initial={"A": -0.1, "b": -0.3}, times=[2.0])
    straight = finite_prompt_flow(CHAPTER, 30, initial={"A": 0.1, "b": 0.3}, times=[2.0])
    assert mirrored["b"] == pytest.approx(-straight["b"])
    still = finite_prompt_flow(CHAPTER, 30, initial={"A": 0.0, "b": 0.0}, times=[0, 5.0])
    assert np.all(still["b"] == 0)
    assert still["risk"] == pytest.approx([5, 5])
    # From opposite signs the flow leaves the saddle side and still finds a best head.
    crossed = finite_prompt_flow(
        CHAPTER, 30, initial={"A": -0.1, "b": 0.3}, times=[200.0], rtol=1e-6
    )
    assert crossed["risk"][-1] == pytest.approx(optimal_block_risk(CHAPTER, 30).risk, rel=1e-6)


# -- the drift -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task",
    [
        icl.LinearRegression(dim=3, feature_cov=[0.7, 1.0, 1.5], coef_cov=1),
        GENERAL,
    ],
)
def test_drift_follows_the_flow(task):
    # After the fast phase, with an error of order 1/n.
    errors = []
    for n in (200, 2000):
        times = np.array([0.1, 0.3, 1.0]) * n
        path = finite_prompt_flow(task, n, initial={"A": 0.2, "b": 0.4}, times=times, rtol=1e-6)
        drift = valley_drift(task, n, path["b"][0], times - times[0])
        errors.append(np.abs(drift["b"] / path["b"] - 1).max())
    assert errors[0] < 0.02
    assert errors[1] < errors[0] / 4


def test_drift_ends_at_the_best_head_from_both_sides():
    best = optimal_block_risk(GENERAL, 50)
    for b0 in (0.5 * best.b, best.b, 2 * best.b):
        path = valley_drift(GENERAL, 50, b0, [0, 1e4])
        assert path["b"][-1] == pytest.approx(best.b, rel=1e-6)
        assert path["A"][-1] == pytest.approx(best.A, abs=1e-6)
        assert path["risk"][-1] == pytest.approx(best.risk, rel=1e-9)
        # At every b the score matrix is the best one.
        slope = block_risk_gradient(GENERAL, path["A"][0], path["b"][0], 50)
        assert np.abs(slope["A"]).max() < 1e-6
        assert path["b"][0] == pytest.approx(b0)


# -- arguments -----------------------------------------------------------------------------------------


def test_result():
    path = finite_prompt_flow(GENERAL, 20, initial=START, times=[0, 1.0, 2.0])
    assert path["A"].shape == (3, 2, 2)
    assert path["b"].shape == path["risk"].shape == (3,)
    assert path.at([[0.5, 1.0]])["A"].shape == (1, 2, 2, 2)
    assert path.at(1.0)["b"] == pytest.approx(path["b"][1], rel=1e-7)
    assert "3 times up to 2" in repr(path)
    assert finite_prompt_flow(GENERAL, 20, initial=START, times=0)["b"] == [0.5]
    with pytest.raises(InvalidInput, match="not recorded"):
        path["u"]
    with pytest.raises(InvalidInput, match="from 0 to 2"):
        path.at(3.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"initial": {"A": 0.2}}, "pass"),
        ({"initial": [0.2, 0.3]}, "pass"),
        ({"initial": {"A": np.eye(3), "b": 0.3}}, "shape"),
        ({"initial": {"A": 0.2, "b": [0.3, 0.4]}}, "one number"),
        ({"times": [1.0, 0.5]}, "sorted"),
        ({"times": [-1.0]}, "non-negative"),
        ({"times": []}, "non-empty"),
        ({"prompt_length": [10, 20]}, "one prompt length"),
        ({"prompt_length": 0}, "at least 1"),
    ],
)
def test_bad_flows(change, message):
    given = {"prompt_length": 20, "initial": START, "times": [1.0], **change}
    with pytest.raises(InvalidInput, match=message):
        finite_prompt_flow(GENERAL, **given)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b0": 0}, InvalidInput, "is not positive"),
        ({"b0": -1.0}, InvalidInput, "is not positive"),
        ({"method": "fast"}, InvalidInput, "unknown"),
        ({"prompt_length": 1}, InvalidInput, "no valley"),
        ({"method": "leading", "b0": 1.2}, OutOfDomain, "larger b0"),
    ],
)
def test_bad_drifts(change, error, message):
    given = {"prompt_length": 20, "b0": 1.5, "times": [1.0], **change}
    with pytest.raises(error, match=message):
        valley_drift(GENERAL, **given)
