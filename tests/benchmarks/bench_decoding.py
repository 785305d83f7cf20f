"""Chains of 1,000 prompts x 64 chains x 32 steps at d = 32, and the predictions of a planner.

The comparison steps one chain after another with NumPy; it runs on a few prompts and its time is
extrapolated by their number. Ratios are taken within one run.
"""

import time
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

import icltheory as icl
import numeric
from icltheory.laws.wishart import _isotropic

PROMPTS, CHAINS, STEPS, LENGTH, DIM = 1000, 64, 32, 64, 32
CHAIN = icl.NoisyDecoding(0.4, 0.3, STEPS, samples=CHAINS)
RULES = ("mean", "prompt_loss", "oracle")


def processor_seconds(call):
    """The least of two runs; other work on the machine changes it little."""
    times = []
    for _ in range(2):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def compare(what, seconds, alternative, other, least):
    """Print both times and hold their ratio to more than `least`."""
    print(f"{what}: {seconds:.4f} s; {alternative}: {other:.4f} s; ratio {other / seconds:.1f}")
    assert other > least * seconds


def looped(prompts, rng):
    """Squared error per coordinate of one chain, a chain at a time, (prompts,)."""
    out = np.empty(prompts)
    for p in range(prompts):
        X, truth = rng.standard_normal((LENGTH, DIM)), rng.standard_normal(DIM)
        gram = X.T @ X / LENGTH
        target = gram @ truth
        total = 0.0
        for _ in range(CHAINS):
            w = np.zeros(DIM)
            for _ in range(STEPS):
                w = w - 0.4 * (gram @ w - target) + 0.3 * rng.standard_normal(DIM)
            total += np.square(w - truth).mean()
        out[p] = total / CHAINS
    return out


@pytest.mark.parametrize("method", ["recursion", "eigenbasis"])
def test_simulated_chains(benchmark, method):
    """Held to: at least 10 times faster than a loop over chains, for the fast method; both are shown."""

    def call():
        return numeric.simulate_chains(CHAIN, LENGTH, DIM, prompts=PROMPTS, seed=1, method=method)

    result = benchmark.pedantic(call, rounds=3, warmup_rounds=1)
    few = 20
    start = time.perf_counter()
    values = looped(few, np.random.default_rng(2))
    loop = (time.perf_counter() - start) * PROMPTS / few
    risk = result.risk(1)
    error = np.hypot(float(risk.standard_error), values.std() / np.sqrt(few))
    assert abs(values.mean() - float(risk.value)) < 5 * error
    ratio = loop / benchmark.stats["min"]
    benchmark.extra_info.update(ratio=round(ratio))
    print(f"{method}: {benchmark.stats['min']:.3f} s; loop: {loop:.1f} s; ratio {ratio:.0f}")
    assert ratio > (10 if method == "eigenbasis" else 4)


def test_predictions_for_ten_thousand_settings(benchmark):
    """Limit: 10^4 settings in 5 s, by the saddlepoint on 32 prompts; beside it one call a setting."""
    data = numeric.decoding_prompts(LENGTH, DIM, 32, reduced=True, seed=3)
    counts, steps = 2.0 ** np.arange(12), np.arange(1, 25)[:, None]
    levels = np.geomspace(0.02, 1, 12)

    def call():
        return [
            numeric.selection_risk(data, CHAIN, counts, rule=rule, steps=steps, noise_std=levels)
            for rule in RULES
        ]

    results = benchmark.pedantic(call, rounds=2, warmup_rounds=1)
    size = sum(result.value.size for result in results)
    assert size > 10_000
    some = [(rule, *at) for rule in RULES for at in ((3, 2, 5), (9, 20, 11))]
    start = time.perf_counter()
    for rule, i, j, k in some:
        one = numeric.selection_risk(
            data, CHAIN, counts[i], rule=rule, steps=int(steps[j, 0]), noise_std=levels[k]
        )
        assert np.isclose(one.value, results[RULES.index(rule)].value[j, k, i], rtol=1e-9)
    loop = (time.perf_counter() - start) * size / len(some)
    compare(f"{size} settings", benchmark.stats["min"], "one call a setting", loop, 5)
    assert processor_seconds(call) < 5


@pytest.mark.parametrize("prior", [None, icl.Signs()])
def test_planner(benchmark, prior):
    """Limit: a plan over 10^4 settings in 5 s, prompts and all; beside it simulated techniques."""
    n, d, budget = (40, 20, 2000) if prior is None else (24, 12, 800)
    steps = np.linspace(0.5, 1.0, 8 if prior is None else 4) * n / (n + d)

    def call():
        return numeric.plan(
            n, d, budget, noise_std=0.2, prior=prior, verifier="oracle", step_size=steps
        )

    plan = benchmark.pedantic(call, rounds=2)
    assert len(plan) > 10_000
    start = time.perf_counter()
    seen = plan.confirm(400, seed=1)
    simulated = (time.perf_counter() - start) * len(plan) / len(seen.rows)
    compare(f"{len(plan)} settings", benchmark.stats["min"], "400 prompts each", simulated, 5)
    assert processor_seconds(call) < 5


def test_exact_contraction_moments(benchmark):
    """Limit: beta_0, ..., beta_24 at n and d in 1 s; the other route is the recursion of traces."""
    from icltheory import contraction

    def call():
        contraction.path_moments.cache_clear()
        return contraction.contraction_moments(24, 40, 60, icl.NoisyDecoding(0.37, 0, 0).step_size)

    values = benchmark.pedantic(call, rounds=5)
    _isotropic.cache_clear()
    start = time.perf_counter()
    moments = [icl.wishart_trace_moment(k, 40, 60) for k in range(25)]
    other = time.perf_counter() - start
    assert contraction.path_moments(40, 60, 24)[24] * 60 == moments[24]
    assert values[1] == 1 - icl.NoisyDecoding(0.37, 0, 0).step_size
    compare("paths", benchmark.stats["min"], "cold recursion of traces", other, 1)
    assert benchmark.stats["min"] < 1


def test_limits_of_contraction_moments(benchmark):
    """Limit: beta_0, ..., beta_10000 of the limit in 50 ms; beside it SciPy's quad, power by power."""
    powers = np.arange(10_001)
    values = benchmark(numeric.contraction_moments_limit, powers, 1.0, 0.5)
    assert abs(values[-1] / (np.pi * 5000) ** -0.5 - 1) < 1e-4
    start = time.perf_counter()
    for k in range(1, 10_001, 1000):
        other = 0.0  # in x = 4 sin^2 t, in pieces about the two ends on which the integrand lives
        for low, high in pairwise(
            (0, 8 / (k + 16) ** 0.5, np.pi / 2 - 8 / (k + 16) ** 0.5, np.pi / 2)
        ):
            other += quad(lambda t, k: np.cos(2 * t) ** k * np.cos(t) ** 2, low, high, args=(k,))[0]
        assert abs(4 / np.pi * other / values[k] - 1) < 1e-6
    quads = (time.perf_counter() - start) * 1000
    compare("all powers", benchmark.stats["min"], "quad", quads, 5)
    assert processor_seconds(lambda: numeric.contraction_moments_limit(powers, 1.0, 0.5)) < 0.05
