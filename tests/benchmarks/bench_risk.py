"""Time of exact risk curves and optimal heads, with cold caches; run with

pytest -o addopts= tests/benchmarks/bench_risk.py

Besides generous absolute limits, ratios within one run show what makes the curves fast: lengths
share the transforms of a scale, and score scales share the lattice on which they are evaluated.
"""

import time

import numpy as np
import pytest

import icltheory as icl
from numeric import exact_risk, optimal_risk
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
