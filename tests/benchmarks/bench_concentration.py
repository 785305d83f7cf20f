"""Time of weight moments, output moments and query averages; run with

pytest -o addopts= tests/benchmarks/bench_concentration.py

Absolute limits are generous. The ratios compare, within one run, with what one would do instead:
the Laplace integrals on a fixed grid, point by point, sampled prompts, and sampled queries.
"""

import math
import time

import numpy as np
import pytest

import icltheory as icl
import numeric
from numeric.concentration import _weights_at
from numeric.long_prompts import long_prompt_moments
from numeric.prompt_moments import _tilted_transforms, _transforms, prompt_moments

RNG = np.random.default_rng(0)
PAIRS = (np.unique(np.geomspace(2, 1e12, 1400).round())[-1000:], RNG.uniform(0.05, 6, 1000))
LAW = icl.Gaussian([0, 0, 0], [[1, 0.2, 0], [0.2, 0.7, 0.1], [0, 0.1, 0.4]])
CURVE = np.unique(np.geomspace(1, 1e4, 64).round())


def clear():
    for cache in (_transforms, _tilted_transforms, _weights_at, long_prompt_moments):
        cache.cache_clear()


def seconds(function, repeats=3):
    """Best time with empty caches; everything derived once is warm."""
    function()
    times = []
    for _ in range(repeats):
        clear()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def single():
    return prompt_moments(1000, 3.0)


def single_with_slopes():
    return prompt_moments(1000, 3.0).eta_slope


def pairs():
    return prompt_moments(*PAIRS)


def pairs_with_slopes():
    return prompt_moments(*PAIRS).eta_slope


def moments_curve():
    return numeric.output_moments(LAW, [0.8, 0.5, -1], CURVE)


def query_curve():
    return numeric.expected_error(LAW, 0.7, CURVE)


def exponent():
    return numeric.local_exponent(1.0, (20, 28, 36, 50, 64))


def test_limits():
    assert np.unique(PAIRS[0]).size == np.unique(PAIRS[1]).size == 1000
    assert seconds(single) < 0.02
    assert seconds(single_with_slopes) < 0.02
    assert seconds(pairs) < 3
    assert seconds(pairs_with_slopes) < 3
    assert seconds(query_curve) < 1


def fixed_grid(n, s):
    """g, g3, g22 by trapezoids on 500 x 1600 nodes, each point by itself."""
    x = np.linspace(-13, 13 + min(4 * s, math.sqrt(2 * math.log(n)) + 9), 1600)
    weight = (x[1] - x[0]) * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    low = -max(math.log(n), s * (math.sqrt(2 * math.log(n)) + 9) - s * s / 2) - 20
    u = np.linspace(low, 10 * s + s * s / 2 + 8, 500)
    score = np.minimum(u[:, None] + s * x - s * s / 2, 30.0)
    w = np.exp(score)
    decay = np.exp(-w)
    log_phi = np.log1p(-np.minimum((-np.expm1(-w)) @ weight, 1 - 1e-15))
    a2, a3, a4 = ((np.exp(k * score) * decay) @ weight for k in (2, 3, 4))
    one, two = np.exp((n - 1) * log_phi), np.exp((n - 2) * log_phi)
    h = u[1] - u[0]
    pair = n * a4 * one + n * (n - 1) * a2**2 * two
    return h * n * (a2 @ one), h * n * (a3 @ one) / 2, h * pair.sum() / 6


def grids(count, n=1000.0):
    """Seconds of `count` fixed grids, from three."""
    start = time.perf_counter()
    for _ in range(3):
        fixed_grid(n, 3.0)
    return (time.perf_counter() - start) * count / 3


def sampled_queries():
    """Seconds of the query average over sampled queries, each with its exact error, to 1e-3."""
    queries = np.random.default_rng(1).multivariate_normal(
        np.zeros(3), np.array(LAW.cov.tolist(), float), 200
    )
    start = time.perf_counter()
    errors = np.array([numeric.output_moments(LAW, 0.7 * q, CURVE).error for q in queries])
    spent = time.perf_counter() - start
    scatter = errors.std(axis=0) / np.sqrt(len(errors))
    assert np.all(np.abs(errors.mean(axis=0) - query_curve())[:20] < 5 * scatter[:20])
    return spent * (np.median(scatter / errors.mean(axis=0)) / 1e-3) ** 2


# Slopes by differences take two grids. The lengths of `exponent` are averaged over some 1500 scales.
OTHERS = {
    single: (lambda: grids(1), 5),
    single_with_slopes: (lambda: grids(2), 5),
    pairs_with_slopes: (lambda: grids(2000), 20),
    query_curve: (sampled_queries, 20),
    exponent: (lambda: grids(1500, 1e40), 5),
}


@pytest.mark.parametrize("function", OTHERS)
def test_time(benchmark, function):
    function()
    benchmark.pedantic(function, setup=clear, rounds=3)
    alternative, least = OTHERS[function]
    ratio = alternative() / benchmark.stats["min"]
    benchmark.extra_info["ratio"] = round(ratio, 1)
    print(f"{function.__name__}: {benchmark.stats['min']:.4f} s, ratio {ratio:.1f}")
    assert ratio > least


def test_pairs_against_a_fixed_grid(benchmark):
    lengths, scales = PAIRS
    exact, some = prompt_moments(lengths, scales), range(0, 1000, 100)
    start = time.perf_counter()
    for i in some:
        g = fixed_grid(lengths[i], scales[i])[0]
        assert abs(g / exact.g[i] - 1) < 1e-6
    grid = (time.perf_counter() - start) * 100
    ours = seconds(pairs)
    benchmark.extra_info.update(seconds=ours, fixed_grid_seconds=grid)
    benchmark.pedantic(pairs, setup=clear, rounds=1)
    print(f"1000 pairs {ours:.3f} s, fixed grid {grid:.1f} s, ratio {grid / ours:.0f}")
    assert grid > 20 * ours


def test_error_curve_against_simulation_at_a_relative_error_of_one_in_a_thousand(benchmark):
    sampled = 0.0
    for n in CURVE[::8]:
        start = time.perf_counter()
        estimate = numeric.simulated_error(LAW, [0.8, 0.5, -1], int(n), prompts=1_000, seed=int(n))
        spent = time.perf_counter() - start
        sampled += 8 * spent * (estimate.relative_error / 1e-3) ** 2
    ours = seconds(moments_curve)
    benchmark.extra_info.update(seconds=ours, simulation_seconds=sampled)
    benchmark.pedantic(moments_curve, setup=clear, rounds=1)
    print(f"exact {ours:.4f} s, simulation at 1e-3 {sampled:.0f} s, ratio {sampled / ours:.0f}")
    assert sampled > 1000 * ours
