"""Time of exact risk curves and optimal heads, with cold caches; run with

pytest -o addopts= tests/benchmarks/bench_risk.py

Besides generous absolute limits, ratios within one run show what makes the curves fast: lengths
share the transforms of a scale, and score scales share the lattice on which they are evaluated.
"""

import time

import numpy as np
import pytest

import icltheory as icl
from numeric import exact_risk, monte_carlo_risk, optimal_risk
from numeric.prompt_moments import _transforms

ONE = icl.SoftmaxAttention(heads=1)
TASK = icl.LinearRegression(dim=5, noise_var=0.25)
CURVE = np.unique(np.geomspace(10, 1e4, 64).round())
LENGTHS = np.unique(np.geomspace(10, 1e4, 10).round())


def single_point():
    return exact_risk(TASK, ONE, 1000, score_scale=0.35, value_scale=2.8)


def curve():
    return exact_risk(TASK, ONE, CURVE, score_scale=0.35, value_scale=2.8)


def optima():
    return optimal_risk(TASK, ONE, LENGTHS)


def seconds(function, repeats=5):
    """Best time with an empty cache of transforms; everything derived once is warm."""
    function()
    times = []
    for _ in range(repeats):
        _transforms.cache_clear()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize("function", [single_point, curve, optima])
def test_time(benchmark, function):
    function()
    benchmark.pedantic(function, setup=_transforms.cache_clear, rounds=5)


def test_limits():
    assert CURVE.size == 64
    assert LENGTHS.size == 10
    assert seconds(curve) < 2
    assert seconds(optima) < 5


def test_lengths_share_their_work():
    assert seconds(curve) < 8 * seconds(single_point)  # 64 points


def test_scales_share_their_work():
    assert seconds(optima) < 20 * seconds(single_point)  # 10 lengths, some 40 score scales each


def test_curve_against_monte_carlo_at_a_relative_error_of_one_in_a_thousand(benchmark):
    # Time and standard error of 4,000 prompts a point, scaled to the standard error asked for:
    # the time of a mean grows like its inverse square.
    sampled = 0.0
    for n in CURVE:
        start = time.perf_counter()
        estimate = monte_carlo_risk(
            TASK, ONE, int(n), score_scale=0.35, value_scale=2.8, prompts=4_000, seed=int(n)
        )
        sampled += (time.perf_counter() - start) * (estimate.relative_error / 1e-3) ** 2
    exact = seconds(curve)
    benchmark.extra_info.update(exact_seconds=exact, monte_carlo_seconds=sampled)
    benchmark.pedantic(curve, rounds=1)
    print(f"exact {exact:.3f} s, Monte Carlo at 1e-3 {sampled:.0f} s, ratio {sampled / exact:.0f}")
    assert sampled > 100 * exact
