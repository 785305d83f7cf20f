"""What users get wrong is refused in one message, and what looks degenerate is computed."""

import pickle

import numpy as np
import pytest

import icltheory as icl
import numeric

GAUSSIAN = icl.Gaussian([0, 0], [[1, 0], [0, 1]])
UNIT = icl.LinearRegression(dim=4, coef_cov=1)
FLOW = icl.gradient_flow(UNIT)
START = {"A": 0.1, "b": 0.2}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: numeric.simulated_error(GAUSSIAN, [[1.0, 2], [1, 1]], 2), "one dual point"),
        (lambda: numeric.simulated_error(GAUSSIAN, 1.0, 2), "one dual point"),
        (
            lambda: numeric.prompt_moments([1, 2], [1, 2, 3]),
            r"prompt_length: \(2,\), scale: \(3,\)",
        ),
        (lambda: numeric.block_risk(UNIT, 0.4, [1, 2, 3], [10, 20]), r"b: \(3,\)"),
        (
            lambda: numeric.closed_trajectory(UNIT, [0, 1, 2], a0=[0.1, 0.2], b0=0.3),
            r"times: \(3,\), a0: \(2,\)",
        ),
        (lambda: numeric.tied_trajectory(UNIT, [0, 1], kappa0=[0.1, 0.2, 0.3]), "kappa0"),
        (lambda: numeric.local_exponent([1, 2]), "one number"),
        (
            lambda: numeric.output_gradients(
                GAUSSIAN, [1, 1], [1.0], [[1, 0]], U=np.eye(2), score_scale=[1, 2]
            ),
            "one number",
        ),
        (lambda: numeric.integrate(FLOW, initial=START, times=[1], rtol=[1e-8]), "one number"),
        (lambda: numeric.integrate(FLOW, initial=START, times=[1], events=[0.5]), "pass a dict"),
        (
            lambda: numeric.integrate(FLOW, initial=START, times=[1]).plateaus("a"),
            "not numeric",
        ),
        (lambda: icl.gradient_flow(UNIT, blocks=None), "choose from"),
        (
            lambda: numeric.finite_prompt_flow(UNIT, 10, initial=START, times=[1], rtol=-1),
            "between 0 and 1",
        ),
        (lambda: numeric.block_risk(UNIT, 0.4, None, 10), "not numeric"),
        (lambda: numeric.block_risk(UNIT, [[1], [1, 2]], 1, 10), "not numeric"),
        (lambda: numeric.concentration_bound(GAUSSIAN, [1.0], 10), "one dual point"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()


@pytest.mark.parametrize("size", [1e16, 1e90, 1e200])
def test_starts_beyond_the_range_of_floats(size):
    with pytest.raises(icl.OutOfDomain, match="start nearer to 0"):
        numeric.closed_trajectory(UNIT, [0, 1], a0=size, b0=size)
    with pytest.raises(icl.OutOfDomain, match="start nearer to 0"):
        numeric.tied_trajectory(UNIT, [0, 1], kappa0=size)
    assert np.isfinite(numeric.closed_trajectory(UNIT, [0, 1, 1e9], a0=1e12, b0=1e14)["b"]).all()


def test_the_start_alone_is_a_trajectory():
    for path in (
        numeric.integrate(FLOW, initial=START, times=[0]),
        numeric.finite_prompt_flow(UNIT, 10, initial=START, times=[0]),
    ):
        assert path["b"].tolist() == [0.2]


def test_a_trajectory_is_pickled_with_what_was_recorded():
    path = numeric.integrate(FLOW, initial=START, times=[0, 1])
    other = pickle.loads(pickle.dumps(path))
    assert np.array_equal(other["A"], path["A"])
    assert path.at(0.5)["b"] > 0.2
    with pytest.raises(icl.InvalidInput, match="recorded times only"):
        other.at(0.5)


def test_a_stationary_start_has_no_plateaus():
    still = {"A": 0.0, "b": 0.0}
    path = numeric.finite_prompt_flow(UNIT, 10, initial=still, times=[0, 40])
    assert path.plateaus() == []


def test_tokens_without_spread_have_a_figure():
    law = icl.Gaussian([0], [[0]])
    figure = numeric.concentration_figure(law, [1.0], [3, 30], prompts=50)
    assert all(y == 0 for line in figure.lines for y in line.y)


@pytest.mark.parametrize("size", [15, 300])
def test_the_bound_of_data_dominates_its_simulated_error(size):
    rng = np.random.default_rng(size)
    data = rng.standard_normal((size, 2))
    law, u = icl.Empirical(data), [0.3, -0.2]
    bounds = numeric.concentration_bound(law, u, [5, 50, 500])
    assert np.all(np.diff(bounds) < 0)
    sample = numeric.simulate_output(law, u, 50, prompts=4000, seed=1)
    centre = numeric.limit_output(law, u)
    error = np.trace(sample.covariance) + np.sum((sample.mean - centre) ** 2)
    assert error < bounds[1]
    if size == 15:
        exact = icl.concentration_bound(law, u).subs(n=50)
        assert bounds[1] == pytest.approx(float(exact), rel=1e-12)
        assert bounds[1] != pytest.approx(1.03 * float(exact), rel=1e-3)
    else:
        with pytest.raises(icl.InvalidInput, match=r"numeric\.concentration_bound|too large"):
            icl.concentration_bound(law, u)
