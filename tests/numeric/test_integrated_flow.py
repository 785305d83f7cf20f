"""Integrated flows against closed forms and reference values; the integrator."""

import math
import pickle
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp
from flow_tasks import LINEAR, toeplitz, unit
from hypothesis import given, settings
from hypothesis import strategies as st

import icltheory as icl
import numeric
from icltheory.symbols import d

# -- reference values ----------------------------------------------------------------------------


def test_reference_trajectories():
    balanced = numeric.closed_trajectory(unit(6, 0.7), 1, alpha=0.2)
    assert abs(balanced["product"] - 0.161575167) < 1e-9
    path = numeric.closed_trajectory(unit(4, 1.3), 0.3, a0=0.2, b0=0.9)
    assert abs(path["a"] - 0.46579274) < 1e-8
    assert abs(path["b"] - 1.23201116) < 1e-8
    tied = numeric.tied_trajectory(unit(4), 1, kappa0=0.3)
    assert abs(tied["kappa"] - 0.59555024) < 1e-8
    assert abs(tied["b"] - 1.19110049) < 1e-8
    wrong = numeric.closed_trajectory(unit(6, 0.714), 1, alpha=0.2)  # 2 per cent off
    assert abs(wrong["product"] - 0.161575167) > 1e-3


def test_reference_limits_and_rates():
    start: Any
    task = unit(3, [0.5, 1, 2])
    for delta, limit, rate in ((0, 1.51370005, 0.45601414), (1, 1.68677440, 0.50436041)):
        start = {"A": np.diag([0.1, 0.2, 0.0]), "b": math.sqrt(0.05 + delta)}
        assert abs(numeric.flow_limit(task, **start)["b"] - limit) < 1e-8
        rates: Any = numeric.flow_rates(task, **start)
        assert abs(rates.diagonal - rate) < 1e-8
    start = {"A": 0.1, "b": 0.1 * math.sqrt(5)}
    rates = numeric.flow_rates(unit(5, toeplitz(5)), **start)
    assert abs(numeric.flow_limit(unit(5, toeplitz(5)), **start)["b"] ** 2 - 3.92994204) < 1e-8
    assert abs(rates.diagonal - 0.22916307) < 1e-8
    assert abs(rates.off_diagonal - 0.23316244) < 1e-8
    assert rates.local == min(rates.diagonal, rates.off_diagonal)
    assert abs(1.01 * rates.diagonal - 0.22916307) > 1e-3


def test_published_linear_attention_trajectory():
    """Balanced start, Sigma = I: e(t) = (1/g)/(1 + (sqrt(d)/(g alpha^2) - 1) exp(-2 sqrt(d) t))."""
    task = icl.LinearRegression(dim=5, noise_var=0.3, coef_cov=1)
    g, times = 1 + (5 + 1 + 0.3) / 20, np.linspace(0, 4, 30)
    typed = 1 / g / (1 + (math.sqrt(5) / (g * 0.09) - 1) * np.exp(-2 * math.sqrt(5) * times))
    path = numeric.closed_trajectory(task, times, alpha=0.3, attention=LINEAR, prompt_length=20)
    np.testing.assert_allclose(path["product"], typed, rtol=1e-13)
    assert np.abs(path["product"] / (1.02 * typed) - 1).max() > 0.01
    # The risk it ends at is d (1 - 1/g), twice the reference value.
    assert abs(path["risk"][-1] / (5 * (1 - 1 / g)) - 1) < 1e-6


# -- closed forms against integration ------------------------------------------------------------


@pytest.mark.parametrize(
    ("a0", "b0"),
    [
        (0.05, 0.1),
        (0.2, 0.9),
        (0.6, 0.1),
        (-0.3, 0.9),
        (0.3, -0.2),
        (-0.1, -1.5),
        (2, 3),
        (0, 1),
        (1, 0),
    ],
)
@pytest.mark.parametrize("finite", [False, True])
def test_closed_form_against_the_integrator(a0, b0, finite):
    task = icl.LinearRegression(dim=4, noise_var=0.2, feature_cov=1.3, coef_cov=0.8)
    options: dict[str, Any] = {"attention": LINEAR, "prompt_length": 7} if finite else {}
    times = np.linspace(0, 4, 40)
    flow = icl.gradient_flow(task, query_cov=0.9, **options)
    run = numeric.integrate(
        flow, initial={"A": a0, "b": b0}, times=times, rtol=1e-12, atol=1e-14, events={}
    )
    path = numeric.closed_trajectory(task, times, a0=a0, b0=b0, query_cov=0.9, **options)
    scale = np.abs(path["b"]) + np.abs(path["a"])
    assert np.abs(run["b"] - path["b"]).max() < 1e-8 * scale.min()
    assert np.abs(run["A"] - path["a"][:, None, None] * np.eye(4)).max() < 1e-8 * scale.min()
    np.testing.assert_allclose(run["risk"], path["risk"], rtol=1e-8, atol=1e-13)
    wrong = numeric.closed_trajectory(task, times, a0=a0, b0=b0, query_cov=0.92, **options)
    assert np.abs(run["b"] - wrong["b"]).max() > 1e-4


def test_saddle_is_reached_only_from_its_stable_manifold():
    on = numeric.closed_trajectory(unit(4), [0, 1, 5, 1e12], a0=-0.5, b0=1)
    assert np.all(np.diff(on["b"]) < 0)
    assert abs(on["b"][-1]) < 1e-60
    assert abs(on["risk"][-1] - 4) < 1e-12
    run = numeric.integrate(icl.gradient_flow(unit(4)), initial={"A": -0.5, "b": 1}, times=[1, 3])
    np.testing.assert_allclose(
        run["b"], numeric.closed_trajectory(unit(4), [1, 3], a0=-0.5, b0=1)["b"], rtol=1e-7
    )
    above = numeric.closed_trajectory(unit(4), 1e12, a0=-0.5, b0=1 + 1e-12)
    below = numeric.closed_trajectory(unit(4), 1e12, a0=-0.5, b0=1 - 1e-12)
    assert abs(above["b"] - math.sqrt(2)) < 1e-9
    assert abs(below["b"] + math.sqrt(2)) < 1e-9
    still = numeric.integrate(icl.gradient_flow(unit(4)), initial={"A": 0, "b": 0}, times=[1])
    assert still["b"][-1] == 0
    assert still.events == {"escape": None}


@settings(max_examples=40, deadline=None)
@given(
    dim=st.integers(1, 30),
    lam=st.floats(0.1, 5),
    c=st.floats(0.1, 3),
    exponent=st.floats(-12, 0.5),
    angle=st.floats(0.0, 1.5),
    t=st.floats(0, 30),
)
def test_closed_form_is_accurate_for_small_starts(dim, lam, c, exponent, angle, t):
    """Against 50-digit arithmetic, for starts from 1e-12 on."""
    a, b = 10**exponent * math.sin(angle), 10**exponent * math.cos(angle)
    path = numeric.closed_trajectory(
        icl.LinearRegression(dim=dim, feature_cov=lam, coef_cov=c), t, a0=a, b0=b
    )
    with mpmath.workdps(50):
        root, a, b, lam, c = (mpmath.mpf(x) for x in (0, a, b, lam, c))
        root = mpmath.sqrt(dim)
        z0, invariant = (b + root * a) ** 2, b**2 - dim * a**2
        k = mpmath.sqrt(4 * dim + (lam * invariant) ** 2)
        high, low = (2 * root + k) / lam, (2 * root - k) / lam
        W = (z0 - low) / (high - z0) * mpmath.exp(c * lam**2 * k * t)
        z = (low + high * W) / (1 + W)
        p = mpmath.sqrt(z)
        exact = (p - invariant / p) / (2 * root), (p + invariant / p) / 2
        assert abs(path["a"] - exact[0]) < 1e-12 * max(exact[0], 1e-30)
        assert abs(path["b"] - exact[1]) < 1e-12 * exact[1]


def test_tied_keys_and_queries_against_the_factored_flow():
    task = icl.LinearRegression(dim=3, feature_cov=1.2, coef_cov=0.7)
    flow = icl.gradient_flow(task, parametrisation="factored")
    times = np.linspace(0, 12, 25)
    for kappa in (0.25, 1.4):
        start = {"K": kappa * np.eye(3), "Q": kappa * np.eye(3), "b": math.sqrt(3) * kappa}
        run = numeric.integrate(flow, initial=start, times=times, rtol=1e-12, atol=1e-14)
        path = numeric.tied_trajectory(task, times, kappa0=kappa)
        np.testing.assert_allclose(run["K"][:, 0, 0], path["kappa"], rtol=1e-8)
        np.testing.assert_allclose(run["b"], path["b"], rtol=1e-8)
    end = (1.2 * math.sqrt(3)) ** (-1 / 3)
    np.testing.assert_allclose(numeric.tied_trajectory(task, [0, 9], kappa0=end)["kappa"], end)
    assert abs(numeric.tied_trajectory(task, 1e15, kappa0=0.1)["kappa"] - end) < 1e-14


def test_linear_attention_risk_by_simulation():
    """All blocks in two dimensions, three examples: five standard errors, resolution below 2 per cent."""
    sigma, coefs, query = (
        np.array(m)
        for m in ([[1, 0.3], [0.3, 0.8]], [[0.9, -0.2], [-0.2, 0.5]], [[0.5, 0.1], [0.1, 0.7]])
    )
    task = icl.LinearRegression(dim=2, noise_var=0.25, feature_cov=sigma, coef_cov=coefs)
    A, u, v, b = (
        np.array([[0.3, 0.1], [-0.2, 0.4]]),
        np.array([0.1, -0.05]),
        np.array([0.2, 0.1]),
        0.5,
    )
    rng, count, length = np.random.default_rng(0), 400_000, 3
    w, x = (rng.multivariate_normal(np.zeros(2), c, size=count) for c in (coefs, query))
    features = rng.multivariate_normal(np.zeros(2), sigma, size=(count, length))
    labels = np.einsum("pli,pi->pl", features, w) + 0.5 * rng.normal(size=(count, length))
    scores = features @ A @ x[:, :, None] + labels[..., None] * (x @ u)[:, None, None]
    values = features @ v + b * labels
    errors = (np.mean(scores[..., 0] * values, axis=1) - np.sum(w * x, axis=1)) ** 2
    estimate, error = errors.mean(), errors.std() / math.sqrt(count)
    exact = numeric.compile(icl.linear_attention_risk(task, length, query_cov=query))(
        A=A, u=u, v=v, b=b
    )
    assert abs(estimate - exact) < 5 * error
    assert 5 * error < 0.02 * exact
    assert abs(estimate - 1.05 * exact) > 5 * error
    infinite = numeric.compile(icl.infinite_prompt_risk(task, query))(A=A, u=u, v=v, b=b)
    assert abs(estimate - infinite) > 5 * error


# -- integrator ----------------------------------------------------------------------------------


def test_events_dense_output_and_plateaus():
    flow = icl.gradient_flow(unit(4))
    levels = {"half": 0.5, "small": 1e-6, "never": 1e-300, "unit": lambda s: s["b"] - 1.0}
    run = numeric.integrate(flow, initial=flow.initial(1e-4), times=[0, 2, 20], events=levels)
    moments: Any = run.events
    assert run.at(run.events["half"])["risk"] == pytest.approx(0.5 * run["risk"][0], rel=1e-9)
    assert run.at(run.events["unit"])["b"] == pytest.approx(1, rel=1e-8)
    assert run.events["never"] is None
    assert moments["half"] < moments["small"]
    symbolic = icl.convergence_rates(unit(4))["escape_time"]
    share = 1 - math.sqrt(0.5 * float(run["risk"][0]) / 4)
    expected = symbolic.subs({"level": share}, a0=0.5e-4, b0=1e-4).evalf()
    assert abs(run.events["half"] - expected) < 1e-6
    [(first, last)] = run.plateaus()
    assert first == 0
    assert 0.6 * moments["half"] < last < moments["half"]
    dense = run.at([[0.0, 2.0], [5.0, 20.0]])
    assert dense["A"].shape == (2, 2, 4, 4)
    np.testing.assert_allclose(dense["b"][0], run["b"][:2])
    assert "DOP853" in repr(run)


def test_stiff_flow_turns_to_an_implicit_method():
    task = unit(2, [0.05, 8])
    flow = icl.gradient_flow(task)
    start: Any = {"A": 0.3, "b": 0.4}
    run = numeric.integrate(flow, initial=start, times=[0, 5e3], rtol=1e-8)
    assert run.method == "LSODA"
    end = numeric.flow_limit(task, **start)
    assert abs(run["b"][-1] / end["b"] - 1) < 1e-4
    assert max(run.drift.values()) < 1e-4


def test_dimension_may_stay_a_symbol():
    flow = icl.gradient_flow(icl.LinearRegression(dim=d))
    run = numeric.integrate(flow, initial={"A": 0.05 * np.eye(4), "b": 0.1}, times=[4])
    path = numeric.closed_trajectory(icl.LinearRegression(dim=4), 4, a0=0.05, b0=0.1)
    assert abs(run["b"][0] - path["b"]) < 1e-9


def test_bad_input_is_refused():
    flow = icl.gradient_flow(unit(2))
    good = {"A": 0.1, "b": 0.1}
    for change, message in (
        ({"times": [1, 0.5]}, "sorted"),
        ({"times": [-1, 2]}, "non-negative"),
        ({"times": []}, "non-empty"),
        ({"times": [math.nan]}, "NaN"),
        ({"initial": {"A": 0.1}}, "missing b"),
        ({"initial": {**good, "u": 1}}, "unknown u"),
        ({"initial": {"A": np.eye(3), "b": 1}}, r"shape \(3, 3\)"),
        ({"initial": {"A": np.ones(2), "b": 1}}, r"\(2, 2\) is needed"),
        ({"initial": {"A": 1, "b": [1, 2]}}, "one number"),
        ({"initial": {"A": 1, "b": "x"}}, "not numeric"),
        ({"initial": 3}, "type int"),
        ({"events": {"e": 2}}, "fraction"),
        ({"rtol": 0}, "rtol"),
        ({"method": "Euler"}, "DOP853"),
        ({"flow": 3}, "type int"),
        (
            {
                "flow": icl.gradient_flow(
                    icl.LinearRegression(
                        dim=2, noise_var=0, feature_cov=sp.Symbol("c", positive=True)
                    )
                )
            },
            "still contains c",
        ),
    ):
        arguments = {"flow": flow, "initial": good, "times": [1], **change}
        with pytest.raises(icl.InvalidInput, match=message):
            numeric.integrate(arguments.pop("flow"), **arguments)
    run = numeric.integrate(flow, initial=good, times=[1])
    with pytest.raises(icl.InvalidInput, match="times from 0 to 1"):
        run.at(2)
    with pytest.raises(icl.InvalidInput, match="not recorded"):
        run["u"]
    with pytest.raises(icl.InvalidInput, match="slowness"):
        run.plateaus(2)
    with pytest.raises(icl.TrainingDiverged, match="floats"):
        numeric.integrate(flow, initial={"A": 1e200, "b": 1e200}, times=[1])


def test_bad_closed_form_input_is_refused():
    cases: Any = (
        ({"times": -1, "alpha": 1}, "non-negative"),
        ({"times": 1}, "a0 and b0"),
        ({"times": 1, "alpha": 1, "a0": 1, "b0": 1}, "a0 and b0"),
        ({"times": 1, "a0": 1}, "a0 and b0"),
        ({"times": 1, "alpha": 0}, "positive"),
    )
    for arguments, message in cases:
        with pytest.raises(icl.InvalidInput, match=message):
            numeric.closed_trajectory(unit(2), **arguments)
    with pytest.raises(icl.OutOfDomain, match="saddle"):
        numeric.closed_trajectory(unit(2), 1, a0=0, b0=1e-80)
    with pytest.raises(icl.InvalidInput, match="still contains d"):
        numeric.closed_trajectory(icl.LinearRegression(dim=d), 1, alpha=1)
    with pytest.raises(icl.InvalidInput, match="positive"):
        numeric.tied_trajectory(unit(2), 1, kappa0=-1)
    starts: Any = (
        ({"A": np.eye(3), "b": 1}, "2 x 2"),
        ({"A": np.diag([1, -1]), "b": -1}, "saddle"),
    )
    for start, message in starts:
        with pytest.raises(icl.InvalidInput, match=message):
            numeric.flow_limit(unit(2), **start)
    singular = icl.LinearRegression(dim=2, coef_cov=[1, 0])
    with pytest.raises(icl.InvalidInput, match="singular"):
        numeric.flow_limit(singular, 1, 1)
    rates: Any = numeric.flow_rates(unit(2), 0.1, 0.2)
    assert pickle.loads(pickle.dumps(rates)) == rates
