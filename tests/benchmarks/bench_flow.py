"""Speed of trajectories: the compiled closed form against integration, the integrator against hand code."""

import time

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import icltheory as icl
import numeric

TIMES = np.linspace(0, 10, 1000)


def fastest(call, repeat):
    """Shortest of `repeat` timings in seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def matrix_flow(sigma):
    """Hand-written velocity of A and b for coefficients N(0, I)."""
    dim = len(sigma)
    eye = np.eye(dim)

    def velocity(_, y):
        A, b = y[:-1].reshape(dim, dim), y[-1]
        slope = sigma @ (eye - b * sigma @ A) @ sigma
        return np.append(b * slope, np.sum(slope * A))

    return velocity


@pytest.mark.parametrize("dim", [5, 20])
def test_closed_form_at_least_100_times_faster_than_scipy(benchmark, dim):
    """Hand-written matrix flow by DOP853 at tolerance 1e-10; the reduced (a, b) flow is recorded too."""
    task = icl.LinearRegression(dim=dim, coef_cov=1)
    options = {"t_eval": TIMES, "method": "DOP853", "rtol": 1e-10, "atol": 1e-12}
    first = np.append(0.1 / dim**0.5 * np.eye(dim), 0.1)

    def reduced_velocity(_, y):
        slope = 1 - y[0] * y[1]
        return np.array([y[1] * slope, dim * y[0] * slope])

    def matrix():
        return solve_ivp(matrix_flow(np.eye(dim)), (0, 10), first, **options)

    def reduced():
        return solve_ivp(reduced_velocity, (0, 10), [0.1 / dim**0.5, 0.1], **options)

    def ours():
        return numeric.closed_trajectory(task, TIMES, alpha=0.1)

    np.testing.assert_allclose(ours()["b"], matrix().y[-1], rtol=1e-7)
    np.testing.assert_allclose(ours()["b"], reduced().y[-1], rtol=1e-7)
    quick = fastest(ours, 50)
    benchmark.extra_info["ratio"] = fastest(matrix, 5) / quick
    benchmark.extra_info["ratio to the reduced flow"] = fastest(reduced, 5) / quick
    benchmark.pedantic(ours, rounds=3)
    assert benchmark.extra_info["ratio"] >= 100
    assert benchmark.extra_info["ratio to the reduced flow"] >= 20


@pytest.mark.parametrize("dim", [5, 20])
def test_integration_of_the_matrix_flow_against_hand_written_code(benchmark, dim):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(dim, dim))
    sigma = np.round(root @ root.T / dim + np.eye(dim), 2)
    flow = icl.gradient_flow(icl.LinearRegression(dim=dim, feature_cov=sigma, coef_cov=1))
    start = flow.initial(0.1)

    first = np.append(0.1 / dim**0.5 * np.eye(dim), 0.1)

    def by_hand():
        return solve_ivp(
            matrix_flow(sigma),
            (0, 5),
            first,
            dense_output=True,
            method="DOP853",
            rtol=1e-10,
            atol=1e-12,
        )

    def ours():
        return numeric.integrate(flow, initial=start, times=[5], events={})

    np.testing.assert_allclose(ours()["b"][-1], by_hand().y[-1, -1], rtol=1e-8)
    reference, spent = fastest(by_hand, 3), fastest(ours, 3)
    benchmark.extra_info["ratio"] = spent / reference
    benchmark.pedantic(ours, rounds=1)
    assert spent <= 3 * reference


def test_derivation_of_flows(benchmark):
    """A new task's flow in all blocks with its symmetry checks, below one second."""

    def derive():
        task = icl.LinearRegression(dim=4, noise_var=np.random.default_rng().integers(1, 10**9))
        return icl.gradient_flow(task, blocks=("A", "u", "v", "b"), parametrisation="factored")

    assert fastest(derive, 3) < 1
    benchmark.pedantic(derive, rounds=1)
