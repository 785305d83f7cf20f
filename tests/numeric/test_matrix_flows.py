"""Flows of matrices against hand-written equations, limits and rates."""

import math
from typing import Any

import numpy as np
import pytest
from flow_tasks import LINEAR, toeplitz, unit
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import icltheory as icl
import numeric
from icltheory.flow import BLOCKS


def random_cov(rng, dim):
    root = rng.normal(size=(dim, dim))
    cov = root @ root.T / dim + 0.4 * np.eye(dim)
    return np.round((cov + cov.T) / 2, 2)


def by_hand(sigma, coefs, query, noise):
    """The gradients of half the risk in all blocks, written out as published."""
    dim = len(sigma)
    q0 = np.trace(sigma @ coefs) + noise
    t2 = np.trace(sigma @ coefs @ sigma @ coefs)

    def velocity(_, y):
        A, u, v, b = y[: dim**2].reshape(dim, dim), y[dim**2 : -dim - 1], y[-dim - 1 : -1], y[-1]
        c0 = A.T @ sigma @ v + b * q0 * u
        M = b * A.T @ sigma + np.outer(u, v) @ sigma - np.eye(dim)
        gm, gc = query @ M @ coefs, query @ c0
        dA = b * sigma @ gm.T + sigma @ np.outer(v, gc)
        du = gm @ sigma @ v + b * q0 * gc + 2 * b**2 * t2 * query @ u
        dv = sigma @ gm.T @ u + sigma @ A @ gc
        db = np.trace(gm.T @ A.T @ sigma) + q0 * u @ gc + 2 * b * t2 * u @ query @ u
        return -np.concatenate([dA.ravel(), du, dv, [db]])

    return velocity


@pytest.mark.parametrize("seed", [0])
def test_all_blocks_from_random_starts_against_hand_written_equations(seed):
    rng = np.random.default_rng(seed)
    dim = 3
    sigma, coefs, query = (random_cov(rng, dim) for _ in range(3))
    task = icl.LinearRegression(dim=dim, noise_var=0.25, feature_cov=sigma, coef_cov=coefs)
    flow = icl.gradient_flow(task, blocks=BLOCKS, query_cov=query)
    start = {
        "A": rng.normal(size=(dim, dim)),
        "u": rng.normal(size=dim),
        "v": rng.normal(size=dim),
        "b": 0.4,
    }
    start = {name: 0.4 * np.asarray(x) for name, x in start.items()}
    times = np.array([0.0, 0.5, 3.0, 20.0])
    run = numeric.integrate(flow, initial=start, times=times, rtol=1e-12, atol=1e-14)
    assert max(run.drift.values()) < 1e-9
    assert np.all(np.diff(run["risk"]) < 0)

    def hand(noise):
        flat = np.concatenate([np.ravel(start[name]) for name in BLOCKS])
        out = solve_ivp(
            by_hand(sigma, coefs, query, noise),
            (0, 20),
            flat,
            t_eval=times,
            method="DOP853",
            rtol=1e-12,
            atol=1e-14,
        )
        return out.y

    typed = hand(0.25)
    ours = np.stack(
        [np.concatenate([np.ravel(run[name][i]) for name in BLOCKS]) for i in range(4)], 1
    )
    np.testing.assert_allclose(ours, typed, rtol=1e-7, atol=1e-9)
    assert np.abs(ours - hand(0.26)).max() > 1e-4


def test_blocks_u_and_v_stay_zero_and_balance_holds_for_keys_and_queries():
    rng = np.random.default_rng(3)
    task = icl.LinearRegression(dim=3, noise_var=0.1, feature_cov=random_cov(rng, 3))
    flow = icl.gradient_flow(task, blocks=BLOCKS, parametrisation="factored", key_dim=2)
    start = {
        "K": rng.normal(size=(2, 3)),
        "Q": rng.normal(size=(2, 3)),
        "k": np.zeros(2),
        "v": np.zeros(3),
        "b": 0.5,
    }
    run = numeric.integrate(flow, initial=start, times=[0, 1, 10], rtol=1e-11)
    assert np.all(run["k"] == 0)
    assert np.all(run["v"] == 0)
    assert max(run.drift.values()) < 1e-9
    start |= {"k": rng.normal(size=2), "v": rng.normal(size=3)}
    run = numeric.integrate(flow, initial=start, times=[0, 1, 10], rtol=1e-12)
    assert np.abs(run["k"]).min() > 0
    assert max(run.drift.values()) < 1e-9


@pytest.mark.parametrize("finite", [False, True])
def test_limits_of_matrix_flows(finite):
    """Starts of the published form, of negative sign, and with the risk below that of zero."""
    options: dict[str, Any] = {"attention": LINEAR, "prompt_length": 30} if finite else {}
    task = icl.LinearRegression(dim=3, noise_var=0.2, feature_cov=toeplitz(3), coef_cov=1)
    flow = icl.gradient_flow(task, **options)
    rng = np.random.default_rng(5)
    start = flow.initial(0.3, theta=rng.integers(-3, 4, size=(3, 2)).tolist())
    first = {"A": np.array(start["A"].evalf().tolist(), dtype=float), "b": 0.3}
    for sign in (1, -1):
        begin: Any = {"A": sign * first["A"], "b": sign * first["b"]}
        run = numeric.integrate(flow, initial=begin, times=[150])
        end = numeric.flow_limit(task, **begin, **options)
        np.testing.assert_allclose(run["A"][-1], end["A"], atol=1e-9)
        assert abs(run["b"][-1] - end["b"]) < 1e-9
        assert abs(run["b"][-1] - 1.001 * end["b"]) > 1e-4


def test_limit_and_local_rate_without_commuting_covariances():
    rng = np.random.default_rng(8)
    sigma, coefs, query = (random_cov(rng, 3) for _ in range(3))
    task = icl.LinearRegression(dim=3, feature_cov=sigma, coef_cov=coefs)
    A = np.linalg.inv(sigma) * 0.5 + 0.02 * rng.normal(size=(3, 3))
    flow = icl.gradient_flow(task, query_cov=query)
    rates: Any = numeric.flow_rates(task, A, 0.6, query_cov=query)
    assert rates.diagonal is None
    late = 8 / rates.local
    run = numeric.integrate(
        flow,
        initial={"A": A, "b": 0.6},
        times=[0, late, 1.25 * late, 2.5 * late],
        rtol=1e-12,
        atol=1e-15,
    )
    end = numeric.flow_limit(task, A, 0.6, query_cov=query)
    np.testing.assert_allclose(run["A"][-1], end["A"], atol=1e-7)
    slope = math.log(run["risk"][1] / run["risk"][2]) / (0.25 * late)
    assert abs(slope / (2 * rates.local) - 1) < 0.02
    assert abs(slope / (2 * 1.05 * rates.local) - 1) > 0.02
    with pytest.raises(icl.InvalidInput, match="finite prompt"):
        numeric.flow_rates(task, A, 0.6, query_cov=query, attention=LINEAR, prompt_length=5)
    with pytest.raises(icl.InvalidInput, match="saddle"):
        numeric.flow_limit(task, -A, 0.6, query_cov=query)


@pytest.mark.parametrize("diagonal", [True, False])
def test_rates_measured_on_trajectories(diagonal):
    task = unit(3, toeplitz(3))
    values, basis = np.linalg.eigh(np.array(toeplitz(3)))
    inner = np.diag([1.0, 2.0, 1.5]) * 1e-4
    if not diagonal:
        inner = inner + 1e-4 * np.array([[0, 1, -1], [0.5, 0, 1], [1, 1, 0]])
    A, b = basis @ inner @ basis.T, 2e-4
    flow = icl.gradient_flow(task)
    rates: Any = numeric.flow_rates(task, A, b)
    assert abs(rates.early - np.linalg.norm(values**2)) < 1e-12
    run = numeric.integrate(flow, initial={"A": A, "b": b}, times=[0, 60], rtol=1e-12, atol=1e-16)
    t = 0.5 * rates.escape_time
    grown = run.at(t)["b"] / (rates.amplitude * math.exp(rates.early * t))
    assert abs(grown - 1) < 0.02
    moments: Any = run.events
    # The logarithmic estimate of the escape holds up to a constant time.
    assert abs(moments["escape"] - rates.escape_time) < 0.2 * rates.escape_time
    slowest = rates.diagonal if diagonal else rates.local
    if not diagonal:
        assert rates.local == min(rates.diagonal, rates.off_diagonal)
    start = 12 / rates.local
    risks = run.at([start, start + 4])["risk"]
    measured = math.log(risks[0] / risks[1]) / 8
    assert abs(measured / slowest - 1) < 0.02


def test_isotropic_rates_agree_with_the_symbolic_ones():
    task = icl.LinearRegression(dim=4, feature_cov=1.3, coef_cov=0.8)
    symbolic = icl.convergence_rates(task, query_cov=0.9)
    rates: Any = numeric.flow_rates(task, 0.2, 0.5, query_cov=0.9)
    at = {"a0": 0.2, "b0": 0.5}
    assert math.isclose(rates.early, float(symbolic["early"]))
    assert math.isclose(rates.local, float(symbolic["local"].subs(**at)))
    assert math.isclose(rates.contraction, float(symbolic["global"].subs(**at)))
    path = numeric.closed_trajectory(task, [6, 7], a0=0.2, b0=0.5, query_cov=0.9)
    slope = math.log(path["residual"][0] / path["residual"][1])
    assert math.isclose(slope, float(symbolic["local_scale"].subs(**at)), rel_tol=1e-6)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), dim=st.integers(1, 3), commuting=st.booleans())
def test_contraction_bounds_the_risk_and_balance_is_kept(seed, dim, commuting):
    rng = np.random.default_rng(seed)
    sigma = random_cov(rng, dim)
    coefs = 0.7 if commuting else random_cov(rng, dim)
    task = icl.LinearRegression(dim=dim, feature_cov=sigma, coef_cov=coefs)
    A = np.linalg.inv(sigma) * 0.4 + 0.02 * rng.normal(size=(dim, dim))
    rates: Any = numeric.flow_rates(task, A, 0.5)
    times = np.linspace(0, 10, 20)
    run = numeric.integrate(icl.gradient_flow(task), initial={"A": A, "b": 0.5}, times=times)
    bound = run["risk"][0] * np.exp(-rates.contraction * times)
    assert np.all(run["risk"] <= bound * (1 + 1e-8) + 1e-15)
    assert max(run.drift.values()) < 1e-9
    assert np.all(np.diff(run["risk"]) < 1e-15)
    assert rates.contraction <= 2 * rates.local * (1 + 1e-9)
