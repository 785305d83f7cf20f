"""Time of the exact risk over score matrices, its gradient, optimum and flow; run with

pytest -o addopts= tests/benchmarks/bench_finite_prompt.py

Monte Carlo at equal precision is the named alternative of the risk, differences that of the
gradient, SciPy's BFGS on the risk that of the optimum, and SciPy's RK45 on the gradients that of the
flows. Ratios are taken within one run.
"""

import time

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import minimize

import icltheory as icl
from numeric import (
    block_risk,
    block_risk_gradient,
    finite_prompt_flow,
    monte_carlo_risk,
    optimal_block_risk,
    valley_drift,
)
from numeric.finite_prompt import _table

COV = [[0.5 ** abs(i - j) for j in range(5)] for i in range(5)]
TASK = icl.LinearRegression(dim=5, noise_var=0.25, feature_cov=COV)
A = 0.3 * np.eye(5) + 0.02 * np.arange(25).reshape(5, 5) % 0.17
LARGE = icl.LinearRegression(dim=10, noise_var=0.25, feature_cov=np.linspace(0.2, 2, 10))
LARGE_A = 0.2 * np.eye(10) + 0.003 * np.arange(100).reshape(10, 10) % 0.05


def risk():
    return block_risk(TASK, A, 2.0, 40)


def gradient():
    return block_risk_gradient(TASK, A, 2.0, 40)


def large_gradient():
    return block_risk_gradient(LARGE, LARGE_A, 2.0, 40)


def optimum():
    return optimal_block_risk(TASK, 40)


def flow():
    return finite_prompt_flow(TASK, 100, initial={"A": 0.1, "b": 0.3}, times=[1.0, 100.0])


def isotropic_flow():
    task = icl.LinearRegression(dim=5, coef_cov=1)
    return finite_prompt_flow(task, 100, initial={"A": 0.1, "b": 0.3}, times=[1.0, 1e4])


def drift():
    return valley_drift(TASK, 100, 1.0, [1.0, 1e4])


def seconds(function, repeats=5):
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def once(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def search():
    """The optimum by BFGS with differences of the risk."""

    def loss(z):
        return block_risk(TASK, z[:25].reshape(5, 5), z[25], 40)

    found = minimize(loss, np.append(0.3 * np.eye(5).ravel(), 1), method="BFGS")
    assert abs(found.fun / optimum().risk - 1) < 1e-6


def stepped(task, end):
    """The flow of all entries by RK45 up to a time."""

    def velocity(_, z):
        slope = block_risk_gradient(task, z[:25].reshape(5, 5), z[25], 100)
        return -np.append(np.ravel(slope["A"]), slope["b"]) / 2

    start = np.append(0.1 * np.eye(5).ravel(), 0.3)
    assert solve_ivp(velocity, (0, end), start, rtol=1e-8, atol=1e-10).success


def large_risk():
    return block_risk(LARGE, LARGE_A, 2.0, 40)


# RK45 takes about as many steps in every unit of time, as its stability asks.
OTHERS = {
    large_gradient: (lambda: 2 * 101 * seconds(large_risk), 10),
    optimum: (lambda: once(search), 4),
    isotropic_flow: (lambda: once(stepped, icl.LinearRegression(dim=5, coef_cov=1), 20) * 500, 10),
    flow: (lambda: once(stepped, TASK, 20) * 5, 2),
    drift: (lambda: once(stepped, TASK, 20) * 500, 20),
}


@pytest.mark.parametrize("function", OTHERS)
def test_time(benchmark, function):
    function()
    benchmark.pedantic(function, rounds=3)
    alternative, least = OTHERS[function]
    ratio = alternative() / benchmark.stats["min"]
    benchmark.extra_info["ratio"] = round(ratio, 1)
    print(f"{function.__name__}: {benchmark.stats['min']:.4f} s, ratio {ratio:.1f}")
    assert ratio > least


def test_limits():
    assert seconds(risk) < 0.05
    assert seconds(gradient) < 0.05
    assert seconds(large_gradient) < 0.05
    _table.cache_clear()
    start = time.perf_counter()
    risk()
    assert time.perf_counter() - start < 2  # with a cold table of softmax moments


def test_gradient_against_differences():
    # Central differences of the risk take two evaluations for every entry of A and b.
    ratio = 2 * (A.size + 1) * seconds(risk) / seconds(gradient)
    print(f"gradient {seconds(gradient) * 1e3:.2f} ms, differences {ratio:.0f} times that")
    assert ratio > 10


def test_risk_against_monte_carlo_at_equal_precision(benchmark):
    # The exact risk is good to 1e-8; Monte Carlo's time to a relative error of 1e-3 is scaled from
    # a short run by the inverse square of its standard error.
    attention = icl.SoftmaxAttention(scores=[A.T], values=[2.0])
    start = time.perf_counter()
    estimate = monte_carlo_risk(TASK, attention, 40, prompts=20_000, sampler="plain", seed=1)
    sampled = (time.perf_counter() - start) * (estimate.relative_error / 1e-3) ** 2
    exact = seconds(risk)
    assert abs(estimate.value - risk()) < 5 * estimate.standard_error
    benchmark.extra_info.update(exact_seconds=exact, monte_carlo_seconds=sampled)
    benchmark.pedantic(risk, rounds=3)
    ratio = sampled / exact
    print(f"exact {exact * 1e3:.2f} ms, Monte Carlo at 1e-3 {sampled:.1f} s, ratio {ratio:.0f}")
    assert ratio > 1000
