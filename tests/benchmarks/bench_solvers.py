"""40 step counts of six solvers on the paper's evaluation: 320 prompts, 41 prefixes, d = 20.

The counts are those over which such solvers are scanned: 0, ..., 39 for Newton and conjugate
gradients, 40 from 1 to 4096 for first-order methods. The comparison is what an evaluation loop does:
for every prompt, prefix, solver and number of steps the solver is started again and stepped with
NumPy. A loop over all of them takes an hour, so it runs on a few prompts and prefixes; its time is
proportional to their number, as the matrices have the same shape at every prefix, so the
extrapolation is a factor. With counts 0, ..., 39 for all six the loop is short, and the ratio is near
140; it is printed beside. Ratios are taken within one run.
"""

import time
from functools import partial

import numpy as np

import icltheory as icl
import numeric
from icltheory.symbols import frobenius, lam_max, trace

PROMPTS, PREFIXES = 320, range(41)
FEW, MANY = list(range(40)), sorted({round(2 ** (12 * j / 44)) for j in range(45)})[-40:]
SOLVERS = {
    icl.GradientDescent(1 / lam_max): MANY,
    icl.IterativeNewton(1 / frobenius): FEW,
    icl.IterativeNewton(1 / trace, start="I"): FEW,
    icl.Chebyshev(): MANY,
    icl.HeavyBall(): MANY,
    icl.ConjugateGradient(): FEW,
}
DATA = numeric.solver_prompts(20, 41, PROMPTS)


def run(solvers=SOLVERS):
    return numeric.run_solvers(DATA.features, DATA.labels, solvers, prefixes=PREFIXES)


def stepped_alone(prompts, prefixes, counts):
    """The weights of the same solvers and steps, every one started afresh; (b, p, 240, d)."""
    out = np.empty((len(prompts), len(prefixes), 240, 20))
    for i, b in enumerate(prompts):
        for j, n in enumerate(prefixes):
            X, y = DATA.features[b, :n], DATA.labels[b, :n]
            for column, call in enumerate(calls(X.T @ X, X.T @ y, counts)):
                out[i, j, column] = call()
    return out


def calls(gram, target, counts):
    """One call a solver and number of steps, in the order of `run`."""
    values = np.linalg.eigvalsh(gram)
    low, high = values[values > 1e-9 * values[-1]][0], values[-1]
    methods = (
        partial(descent, gram, target, 1 / high),
        partial(newton, gram, target, gram / np.sqrt((values**4).sum())),
        partial(newton, gram, target, np.eye(20) / values.sum()),
        partial(chebyshev, gram, target, low, high),
        partial(heavy_ball, gram, target, low, high),
        partial(conjugate, gram, target),
    )
    pairs = zip(methods, counts, strict=True)
    return [partial(method, steps) for method, each in pairs for steps in each]


def descent(gram, target, rate, steps):
    w = np.zeros(20)
    for _ in range(steps):
        w = w - rate * (gram @ w - target)
    return w


def newton(gram, target, matrix, steps):
    for _ in range(steps):
        matrix = 2 * matrix - matrix @ gram @ matrix
    return matrix @ target


def chebyshev(gram, target, low, high, steps):
    mean, half = (high + low) / 2, (high - low) / 2
    w, residual, ratio = np.zeros(20), target, half / mean
    move = residual / mean
    for _ in range(steps):
        w, residual = w + move, residual - gram @ move
        old, ratio = ratio, half / (2 * mean - half * ratio)
        move = ratio * old * move + 2 / (2 * mean - half * old) * residual
    return w


def heavy_ball(gram, target, low, high, steps):
    rate = 4 / (np.sqrt(high) + np.sqrt(low)) ** 2
    momentum = ((np.sqrt(high) - np.sqrt(low)) / (np.sqrt(high) + np.sqrt(low))) ** 2
    w = old = np.zeros(20)
    for _ in range(steps):
        w, old = w + momentum * (w - old) - rate * (gram @ w - target), w
    return w


def conjugate(gram, target, steps):
    w, residual, direction = np.zeros(20), target, target
    square = residual @ residual
    first = square
    for _ in range(steps):
        if square <= 1e-26 * first:
            break
        image = gram @ direction
        size = square / (direction @ image)
        w, residual = w + size * direction, residual - size * image
        new = residual @ residual
        direction, square = residual + new / square * direction, new
    return w


def test_all_steps_from_one_eigendecomposition(benchmark):
    """Held to: under 5 s, and at least 500 times faster than stepping each solver in a loop."""
    prompts, prefixes = [0, 1], [25, 40]
    factor = PROMPTS * len(PREFIXES) / (len(prompts) * len(prefixes))

    def loop(counts):
        start = time.perf_counter()
        weights = stepped_alone(prompts, prefixes, counts)
        return weights, time.perf_counter() - start

    short = dict.fromkeys(SOLVERS, FEW)
    start = time.perf_counter()
    run(short)
    taken = time.perf_counter() - start
    short_ratio = loop(short.values())[1] * factor / taken

    result = benchmark.pedantic(run, rounds=5, warmup_rounds=1)
    weights, part = loop(SOLVERS.values())
    gap = np.abs(result.weights[np.ix_(prompts, prefixes)] - weights)
    assert gap[:, :, :200].max() < 1e-9
    assert gap[:, :, 200:].max() < 1e-4  # plain conjugate gradients lose orthogonality
    seconds = benchmark.stats["min"]
    ratio = part * factor / seconds
    benchmark.extra_info.update(ratio=round(ratio), ratio_of_few_steps=round(short_ratio))
    print(
        f"all: {seconds:.2f} s; loop: {part:.2f} s for {len(prompts)} prompts at {len(prefixes)} "
        f"prefixes, {part * factor / 60:.0f} min extrapolated to {PROMPTS} at 41; ratio "
        f"{ratio:.0f} (counts 0, ..., 39 for all: {short_ratio:.0f})"
    )
    assert ratio > 500
    assert seconds < 5


def test_errors_without_weights(benchmark):
    """The similarity tables need errors only: no 500 MB of weights."""

    def call():
        return numeric.solver_errors(DATA.features, DATA.labels, SOLVERS, prefixes=PREFIXES)

    table = benchmark.pedantic(call, rounds=3, warmup_rounds=1)
    assert table.errors.shape == (PROMPTS, 41, 240)
    assert benchmark.stats["min"] < 5
