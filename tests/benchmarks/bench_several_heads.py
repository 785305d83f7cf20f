"""Time of the exact risk of several heads and of their optima, with cold caches; run with

pytest -o addopts= tests/benchmarks/bench_several_heads.py

Ratios within one run: quadratures and searches against sampling in one dimension at equal precision
(1e-4; searches at one evaluation in place of the dozens that they need), and the search for the best
scale of a pair against one evaluation, which shows that all scales share one lattice.
"""

import sys
import time

import pytest

import icltheory as icl
from numeric import exact_risk, monte_carlo_risk, optimal_heads, optimal_risk, pair_moments

TASK = icl.LinearRegression(dim=5, noise_var=0.25)
TWO, FOUR = icl.SoftmaxAttention(heads=2), icl.SoftmaxAttention(heads=4)
LAYER = icl.SoftmaxAttention(scores=[0.35, -0.35], values=[1.2, -1.2])
SCORES = [0.1 * h for h in (1, 2, 3, 4, -1, -2, -3, -4)]
EIGHT = icl.SoftmaxAttention(scores=SCORES)
EIGHT_VALUED = icl.SoftmaxAttention(scores=SCORES, values=[s / 0.6 for s in SCORES])
FOUR_HEADS = icl.SoftmaxAttention(scores=[0.2, 0.4, -0.2, -0.4], values=[1, 1, -1, -1])


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


def sampled(layer, n, prompts=20_000, error=1e-4):
    """Seconds of Monte Carlo to a relative error: the time of a mean grows like its inverse square."""
    start = time.perf_counter()
    estimate = monte_carlo_risk(TASK, layer, n, prompts=prompts, seed=0)
    return (time.perf_counter() - start) * (estimate.relative_error / error) ** 2


# Prompts of 1e4 examples stand for those of 1e6, which take a hundred times as long.
OTHERS = {
    joint_moments: (lambda: sampled(LAYER, 40), 1000),
    one_pair: (lambda: sampled(LAYER, 40), 10),
    best_pair: (lambda: sampled(LAYER, 40), 10),
    best_pair_long: (lambda: sampled(LAYER, 10_000, 400), 10),
    eight_heads: (lambda: sampled(EIGHT_VALUED, 40), 2),
    best_four: (lambda: sampled(FOUR_HEADS, 40), 2),
}


@pytest.mark.parametrize("function", OTHERS)
def test_time(benchmark, function):
    function()
    benchmark.pedantic(function, setup=forget, rounds=2)
    alternative, least = OTHERS[function]
    ratio = alternative() / benchmark.stats["min"]
    benchmark.extra_info["ratio"] = round(ratio, 1)
    print(f"{function.__name__}: {benchmark.stats['min']:.4f} s, ratio {ratio:.1f}")
    assert ratio > least


def test_limits():
    assert seconds(joint_moments) < 0.01
    assert seconds(one_pair) < 0.3
    assert seconds(best_pair) < 3
    assert seconds(best_four, 1) < 30


def test_scales_share_their_work():
    assert seconds(best_pair) < 20 * seconds(one_pair)  # some 25 scales


def test_pair_against_monte_carlo_at_a_relative_error_of_one_in_a_thousand():
    other, exact = sampled(LAYER, 40, 50_000, 1e-3), seconds(one_pair)
    print(f"exact {exact:.4f} s, Monte Carlo at 1e-3 {other:.2f} s, ratio {other / exact:.0f}")
    assert other > 5 * exact
