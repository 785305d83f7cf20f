"""The reduced sampler against plain simulation: time * variance at d = 20, n = 100.

Run with `pytest -o addopts= tests/benchmarks/bench_montecarlo.py`.
"""

import math
import time

import icltheory as icl
from numeric.montecarlo import Estimate, monte_carlo_risk

K = math.sqrt(0.0434)  # near the best constant of one head at d = 20
COUNTS = {"reduced": 100_000, "plain": 20_000}


def _estimate(sampler: str) -> Estimate:
    return monte_carlo_risk(
        icl.LinearRegression(dim=20),
        icl.SoftmaxAttention(heads=1),
        100,
        score_scale=K,
        value_scale=1 / K,
        prompts=COUNTS[sampler],
        sampler=sampler,
    )


def test_reduced_is_at_least_twice_as_fast_at_equal_standard_error(benchmark):
    def cost(sampler: str) -> float:
        _estimate(sampler)
        times = []
        for _ in range(3):
            start = time.perf_counter()
            estimate = _estimate(sampler)
            times.append(time.perf_counter() - start)
        return min(times) * estimate.standard_error**2

    ratio = cost("plain") / cost("reduced")
    benchmark.extra_info["ratio"] = ratio
    benchmark.pedantic(_estimate, args=("reduced",), rounds=3)
    assert ratio > 2, f"time * variance of plain over reduced is {ratio:.2f}"
