"""Time of exact Wishart moments and of expected risks of solvers; run with

pytest -o addopts= tests/benchmarks/bench_wishart.py

Sampling at equal precision is the named alternative of the integral over the exact density; the
recursion is that of the zonal sum. Ratios are taken within one run.
"""

import subprocess
import sys
import time

import numpy as np
import sympy as sp

import icltheory as icl
import numeric
from icltheory.laws.wishart import _isotropic

GD = icl.GradientDescent(0.01)
COLD = """
import time
import icltheory as icl
icl.wishart_trace_moment(1)  # imports
start = time.perf_counter()
for power in range(13):
    icl.wishart_trace_moment(power)
print(time.perf_counter() - start)
"""


def seconds(function, repeats=5):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def test_symbolic_moments_to_order_12_cold(benchmark):
    def run():
        out = subprocess.run(
            [sys.executable, "-c", COLD], capture_output=True, text=True, check=True
        )
        return float(out.stdout)

    cold = benchmark.pedantic(run, rounds=1)
    print(f"symbolic moments to order 12: {cold:.3f} s cold")
    assert cold < 2


def test_risk_of_16_steps_at_numeric_sizes(benchmark):
    sizes = iter(range(30, 1000))

    def risk():
        return icl.solver_risk(GD, 16, next(sizes), 20, 0.1).expr

    risk()
    ours = seconds(risk)  # new sizes in every call
    benchmark.pedantic(risk, rounds=3)
    print(f"exact risk of 16 steps {ours * 1e3:.1f} ms")
    assert ours < 0.05


def test_zonal_sum_against_recursion(benchmark):
    power = 28

    def recursion():
        _isotropic.cache_clear()
        _, moment = _isotropic(sp.Integer(40), sp.Integer(20))
        return moment((power,))

    def zonal():
        from icltheory.laws.zonal import zonal_trace_moment

        return zonal_trace_moment(power, sp.Integer(40), sp.Integer(20))

    assert zonal() == recursion()
    ratio = seconds(recursion, 3) / seconds(zonal)
    benchmark.pedantic(zonal, rounds=3)
    print(f"recursion takes {ratio:.0f} times as long as the zonal sum at power {power}")
    assert ratio > 10


def test_integral_against_sampling_at_equal_precision(benchmark):
    # The integral is good to 1e-12; the time of sampling is scaled to a relative error of 1e-4.
    steps = [1, 10, 100, 1000]

    def exact():
        numeric.spectra.wishart_quadrature.cache_clear()
        return numeric.solver_risk(GD, steps, n=40, d=20)

    values = numeric.wishart_eigenvalues(40, 20, 2000, seed=0)
    start = time.perf_counter()
    values = numeric.wishart_eigenvalues(40, 20, 2000, seed=0)
    sample = ((1 - 0.01 * values) ** 20).sum(axis=1) / 20
    sampled = time.perf_counter() - start
    error = sample.std() / np.sqrt(len(sample))
    assert abs(sample.mean() - exact().value[1]) < 5 * error
    sampled *= (error / sample.mean() / 1e-4) ** 2
    ratio = sampled / seconds(exact)
    benchmark.pedantic(exact, rounds=3)
    print(f"sampling to 1e-4 takes {ratio:.0f} times as long as the integral")
    assert ratio > 100
