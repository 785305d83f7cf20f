"""Time of exact risk curves and optimal heads, with cold caches; run with

pytest -o addopts= tests/benchmarks/bench_risk.py

Besides generous absolute limits, ratios within one run: to Monte Carlo at equal precision and to
SciPy's bounded search over the score scale, and what makes the curves fast: lengths share the
transforms of a scale, and score scales share the lattice on which they are evaluated.
"""

import time

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

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


def sampled(n):
    """Seconds of Monte Carlo to a relative error of 1e-3 at length n.

    Time and standard error of 4,000 prompts, scaled: the time of a mean grows like the inverse
    square of its error.
    """
    start = time.perf_counter()
    estimate = monte_carlo_risk(
        TASK, ONE, int(n), score_scale=0.35, value_scale=2.8, prompts=4_000, seed=int(n)
    )
    return (time.perf_counter() - start) * (estimate.relative_error / 1e-3) ** 2


def searched():
    """Seconds of a search at one length over the scale, consistent value, times the lengths."""

    def loss(scale):
        _transforms.cache_clear()
        return exact_risk(TASK, ONE, LENGTHS[3], score_scale=scale, value_scale=1 / scale)

    start = time.perf_counter()
    minimize_scalar(loss, bounds=(0.05, 0.9), method="bounded")
    return (time.perf_counter() - start) * len(LENGTHS)


OTHERS = {single_point: (lambda: sampled(1000), 50), optima: (searched, 5)}


@pytest.mark.parametrize("function", OTHERS)
def test_time(benchmark, function):
    function()
    benchmark.pedantic(function, setup=_transforms.cache_clear, rounds=5)
    alternative, least = OTHERS[function]
    ratio = alternative() / benchmark.stats["min"]
    benchmark.extra_info["ratio"] = round(ratio, 1)
    print(f"{function.__name__}: {benchmark.stats['min']:.4f} s, ratio {ratio:.1f}")
    assert ratio > least


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
    total = sum(map(sampled, CURVE))
    exact = seconds(curve)
    benchmark.extra_info.update(exact_seconds=exact, monte_carlo_seconds=total)
    benchmark.pedantic(curve, rounds=1)
    print(f"exact {exact:.3f} s, Monte Carlo at 1e-3 {total:.0f} s, ratio {total / exact:.0f}")
    assert total > 100 * exact
