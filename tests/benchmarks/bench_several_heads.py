"""Time of the exact risk of several heads and of their optima, with cold caches; run with

pytest -o addopts= tests/benchmarks/bench_several_heads.py

Ratios within one run: the quadrature of a pair against sampling in one dimension, and the search for
its best scale against one evaluation, which shows that all scales share one lattice.
"""

import sys
import time

import pytest

import icltheory as icl
from numeric import exact_risk, monte_carlo_risk, optimal_heads, optimal_risk, pair_moments

TASK = icl.LinearRegression(dim=5, noise_var=0.25)
TWO, FOUR = icl.SoftmaxAttention(heads=2), icl.SoftmaxAttention(heads=4)
LAYER = icl.SoftmaxAttention(scores=[0.35, -0.35], values=[1.2, -1.2])
EIGHT = icl.SoftmaxAttention(scores=[0.1 * h for h in (1, 2, 3, 4, -1, -2, -3, -4)])


def forget():
    """Empty every cache of numbers; formulas stay derived."""
    for name in ("pair_moments", "several_heads", "optimal_heads"):
        own = [
            f for f in vars(sys.modules[f"numeric.{name}"]).values() if hasattr(f, "cache_clear")
        ]
        for function in own:
            if function.__name__ != "_pair_expansion":
                function.cache_clear()


def joint_moments():
    return pair_moments(40, 0.5, -0.5)


def one_pair():
    return exact_risk(TASK, LAYER, 40)


def best_pair():
    return optimal_risk(TASK, TWO, 40)


def best_pair_long():
    return optimal_risk(TASK, TWO, 1e6)


def eight_heads():
    return exact_risk(TASK, EIGHT, 40)


def best_four():
    return optimal_heads(TASK, FOUR, 40)


def seconds(function, repeats=3):
    function()
    times = []
    for _ in range(repeats):
        forget()
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


@pytest.mark.parametrize(
    "function", [joint_moments, one_pair, best_pair, best_pair_long, eight_heads, best_four]
)
def test_time(benchmark, function):
    function()
    benchmark.pedantic(function, setup=forget, rounds=3)


def test_limits():
    assert seconds(joint_moments) < 0.01
    assert seconds(one_pair) < 0.3
    assert seconds(best_pair) < 3
    assert seconds(best_four, 1) < 30


def test_scales_share_their_work():
    assert seconds(best_pair) < 20 * seconds(one_pair)  # some 25 scales


def test_pair_against_monte_carlo_at_a_relative_error_of_one_in_a_thousand():
    start = time.perf_counter()
    estimate = monte_carlo_risk(TASK, LAYER, 40, prompts=50_000, seed=0)
    # The time of a mean grows like the inverse square of its error.
    sampled = (time.perf_counter() - start) * (estimate.relative_error / 1e-3) ** 2
    exact = seconds(one_pair)
    print(f"exact {exact:.4f} s, Monte Carlo at 1e-3 {sampled:.2f} s, ratio {sampled / exact:.0f}")
    assert sampled > 5 * exact
