"""Speed of compiled matrix formulas against hand-written NumPy; run with `pytest -o addopts= tests/benchmarks`."""

import time

import numpy as np
import pytest

import icltheory as icl
import numeric

DIM = 20


def fastest(pairs, repeat):
    """Shortest times in seconds of several calls, taken in turns so that load hits all alike."""
    best = [np.inf] * len(pairs)
    for _ in range(repeat):
        for i, call in enumerate(pairs):
            start = time.perf_counter()
            call()
            best[i] = min(best[i], time.perf_counter() - start)
    return best


@pytest.fixture(scope="module")
def setting():
    rng = np.random.default_rng(0)
    lags = np.abs(np.subtract.outer(np.arange(DIM), np.arange(DIM)))
    sigma, s = 0.5**lags, np.diag(np.linspace(0.5, 1.5, DIM)) / DIM
    task = icl.LinearRegression(dim=DIM, noise_var=0.25, feature_cov=sigma, coef_cov=s)
    return task, sigma, s, rng


def block_values(rng, *leading):
    return {
        "A": 0.3 * rng.normal(size=(*leading, DIM, DIM)),
        "u": 0.3 * rng.normal(size=(*leading, DIM)),
        "v": 0.3 * rng.normal(size=(*leading, DIM)),
        "b": rng.uniform(0.5, 1.5, size=leading) if leading else 1.1,
    }


def by_hand(sigma, s, noise):
    q0 = np.trace(sigma @ s) + noise
    t2 = np.trace(sigma @ s @ sigma @ s)
    identity = np.eye(DIM)

    def gradients(A, u, v, b):
        sv, su = sigma @ v, sigma @ u
        m = b * A.T @ sigma + np.outer(u, sv) - identity
        c0 = A.T @ sv + b * q0 * u
        gm, gc = sigma @ m @ s, sigma @ c0
        return {
            "A": 2 * (b * sigma @ gm.T + np.outer(sv, gc)),
            "u": 2 * (gm @ sv + b * q0 * gc + 2 * b**2 * t2 * su),
            "v": 2 * sigma @ (gm.T @ u + A @ gc),
            "b": 2 * (np.sum(gm * (A.T @ sigma)) + q0 * u @ gc + 2 * b * t2 * u @ su),
        }

    return gradients


def test_risk_gradients_against_handwritten_numpy(benchmark, setting):
    task, sigma, s, rng = setting
    values = block_values(rng)
    compiled = numeric.compile(icl.risk_gradients(task))
    hand = by_hand(sigma, s, 0.25)
    expected = hand(**values)
    for name, value in compiled(**values).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-11, atol=1e-12)
    reference, ours = fastest([lambda: hand(**values), lambda: compiled(**values)], 3000)
    benchmark.extra_info.update(ratio=ours / reference, hand=reference, compiled=ours)
    benchmark.pedantic(lambda: compiled(**values), rounds=20)
    assert ours <= 2 * reference


def test_shared_products_are_cheaper_than_four_evaluators(benchmark, setting):
    task, _, _, rng = setting
    values = block_values(rng)
    together = numeric.compile(icl.risk_gradients(task))
    alone = [numeric.compile(f) for f in icl.risk_gradients(task).values()]

    def one_by_one():
        return [f(**{k: values[k] for k in f.arguments}) for f in alone]

    separate, shared = fastest([one_by_one, lambda: together(**values)], 1000)
    benchmark.extra_info.update(ratio=shared / separate)
    benchmark.pedantic(lambda: together(**values), rounds=20)
    assert shared <= 0.7 * separate


def test_a_batch_costs_less_than_a_loop(benchmark, setting):
    task, sigma, s, rng = setting
    batch = block_values(rng, 500)
    compiled = numeric.compile(icl.risk_gradients(task))
    hand = by_hand(sigma, s, 0.25)

    def loop():
        return [hand(**{k: x[i] for k, x in batch.items()}) for i in range(500)]

    reference, ours = fastest([loop, lambda: compiled(**batch)], 5)
    benchmark.extra_info.update(ratio=ours / reference)
    benchmark.pedantic(lambda: compiled(**batch), rounds=3)
    assert ours <= 0.8 * reference
