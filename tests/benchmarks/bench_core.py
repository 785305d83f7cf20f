"""Speeds of the symbolic side and of compiled formulas; run with `pytest -o addopts= tests/benchmarks`.

Each benchmark measures a named alternative in the same run and asserts the ratio.
"""

import subprocess
import sys
import time

import numpy as np
import pytest

import icltheory as icl
import numeric
from icltheory.symbols import d, noise_var

GENERAL = icl.LinearRegression(dim=d, noise_var=noise_var)
ONE = icl.SoftmaxAttention(heads=1)


def fastest(call, repeat):
    """Shortest of `repeat` timings in seconds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def test_import_costs_at_most_1_3_times_sympy(benchmark):
    def seconds(module):
        code = (
            f"import time; s = time.perf_counter(); import {module}; print(time.perf_counter() - s)"
        )
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        return float(out.stdout)

    seconds("icltheory")  # byte code and file cache
    # Taken in turns, so that a busy machine slows both alike.
    pairs = [(seconds("sympy"), seconds("icltheory")) for _ in range(9)]
    reference, ours = (min(column) for column in zip(*pairs, strict=True))
    benchmark.extra_info["ratio"] = ours / reference
    benchmark.pedantic(seconds, args=("icltheory",), rounds=1)
    assert ours <= 1.3 * reference


def test_compiled_constant_against_handwritten_numpy(benchmark):
    rng = np.random.default_rng(0)
    values = {
        "d": np.full(10**6, 5.0),
        "noise_var": rng.uniform(0, 1, 10**6),
        "t": rng.uniform(0.01, 0.49, 10**6),
    }
    evaluator = numeric.compile(icl.loss_constant(GENERAL, ONE))

    def by_hand(d, noise_var, t):
        return (1 - 2 * t) ** (-d / 2) * (1 / (1 - 2 * t) + (1 + noise_var) / t)

    np.testing.assert_allclose(evaluator(**values), by_hand(**values), rtol=1e-14)
    reference = fastest(lambda: by_hand(**values), 20)
    ours = fastest(lambda: evaluator(**values), 20)
    benchmark.extra_info["ratio"] = ours / reference
    benchmark.pedantic(lambda: evaluator(**values), rounds=3)
    assert ours <= 1.2 * reference


CODE = """
import time, icltheory as icl
from icltheory.symbols import d, noise_var
task = icl.LinearRegression(dim=d, noise_var=noise_var)
one, two, linear = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2), icl.LinearAttention()
call = lambda: {call}
start = time.perf_counter(); call(); cold = time.perf_counter() - start
start = time.perf_counter(); call(); print(cold, time.perf_counter() - start)
"""


@pytest.mark.parametrize(
    "call",
    [
        "icl.loss_constant(task, one)",
        "icl.loss_constant(task, two)",
        "icl.loss_constant(task, linear)",
        "icl.optimal_loss_constant(task, one)",
        "icl.optimal_loss_constant(task, two)",
        "icl.multihead_gain(task)",
        "icl.finite_prompt_risk(task, two)",
        "icl.optimal_finite_prompt_risk(task, linear)",
        "icl.consistency_condition(task, two)",
    ],
)
def test_derivations_cold_under_two_seconds_and_warm_under_a_millisecond(benchmark, call):
    def run():
        out = subprocess.run(
            [sys.executable, "-c", CODE.format(call=call)],
            capture_output=True,
            text=True,
            check=True,
        )
        return tuple(map(float, out.stdout.split()))

    cold, warm = benchmark.pedantic(run, rounds=1)
    benchmark.extra_info.update(cold=cold, warm=warm)
    assert cold < 2
    assert warm < 1e-3
