"""Loss constants of explicit heads; run with `pytest -o addopts= tests/benchmarks/bench_heads.py`.

The value is held against batched NumPy linear algebra written by hand for the same sum, which has
neither checks nor protection against cancellation; the ratio is taken within one run.
"""

import time

import numpy as np

import icltheory as icl
import numeric


def fastest(call, repeat):
    """Shortest of `repeat` timings in seconds."""
    call()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def layer(heads, dim, seed=0):
    """Random consistent heads inside the domain."""
    rng = np.random.default_rng(seed)
    scores = 0.3 * rng.standard_normal((heads, dim, dim)) / np.sqrt(dim)
    values = rng.uniform(0.5, 2, heads)
    scores[-1] = (np.eye(dim) - np.tensordot(values[:-1], scores[:-1], 1)) / values[-1]
    shrink = min(1.0, 0.6 / max(np.linalg.norm(a, 2) for a in scores))
    return shrink * scores, values / shrink


def direct_batched(scores, values, label_var):
    """The sum over pairs h <= l, all determinants and inverses in one call each."""
    first, second = np.triu_indices(len(values))
    product = scores[first] @ scores[second].transpose(0, 2, 1)
    form = (product + product.transpose(0, 2, 1)) / 2
    dim = scores.shape[-1]
    gap = np.eye(dim) - 2 * form
    mean = np.einsum("pij,pji->p", form, np.linalg.inv(gap)) / dim
    weights = values[first] * values[second] * np.where(first == second, 1, 2)
    return weights @ ((mean + label_var) / np.sqrt(np.linalg.det(gap)))


def test_value_against_handwritten_numpy(benchmark):
    dim, noise = 20, 0.5
    scores, values = layer(8, dim)
    task = icl.LinearRegression(dim, noise)

    def ours():
        return numeric.head_constant(task, scores, values)

    def by_hand():
        return direct_batched(scores, values, 1 + noise)

    assert abs(ours() - by_hand()) < 1e-10 * by_hand()
    # In turns, so that a busy machine slows both alike.
    times = [(fastest(ours, 10), fastest(by_hand, 10)) for _ in range(10)]
    seconds, reference = (min(column) for column in zip(*times, strict=True))
    benchmark.extra_info.update(ratio=seconds / reference)
    print(f"H = 8, d = 20: {1e3 * seconds:.3f} ms, by hand {1e3 * reference:.3f} ms")
    benchmark(ours)
    assert seconds <= 2 * reference


def test_gradient_takes_less_than_five_milliseconds(benchmark):
    scores, values = layer(4, 5)
    scores = 0.6 * scores  # whitened by the covariance they stay inside the domain
    task = icl.LinearRegression(5, 0.5, feature_cov=[2, 1, 0.5, 1, 1.5])
    call = benchmark(
        lambda: numeric.head_constant(task, scores, values, gradient=True, consistent=False)
    )
    assert np.isfinite(call.value)
    seconds = fastest(
        lambda: numeric.head_constant(task, scores, values, gradient=True, consistent=False), 50
    )
    print(f"H = 4, d = 5 with gradient: {1e3 * seconds:.3f} ms")
    assert seconds < 5e-3


def test_best_values_and_symbolic_blocks_are_fast(benchmark):
    scores, _ = layer(8, 5)
    scores = np.concatenate([scores, np.eye(5)[None] * 0.3, -np.eye(5)[None] * 0.3])
    task = icl.LinearRegression(5, 0.5)
    seconds = fastest(lambda: numeric.optimal_values(task, scores), 20)
    print(f"best values of {len(scores)} heads, d = 5: {1e3 * seconds:.3f} ms")
    benchmark.pedantic(lambda: numeric.optimal_values(task, scores), rounds=5)
    assert seconds < 20e-3
