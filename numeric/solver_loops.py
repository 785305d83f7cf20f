"""Solvers as they are written down: one matrix product after the other, in any precision.

The slow and obvious counterpart of `numeric.run_solvers`, kept as its oracle, and the only one of the
two that shows what rounding does to a recursion: Newton's doubles it every step where the residual is
-1 and in null spaces. Exported: `step_solver`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import singledispatch
from itertools import islice
from typing import Any

import numpy as np

from icltheory.chebyshev import Chebyshev
from icltheory.errors import InvalidInput
from icltheory.gd_plus_plus import GDPlusPlus
from icltheory.krylov import ConjugateGradient
from icltheory.momentum import HeavyBall, Nesterov
from icltheory.online_descent import OnlineGradientDescent
from icltheory.solvers import (
    GradientDescent,
    HyperPower,
    IterativeNewton,
    RidgeNewton,
    Solver,
)
from numeric.arrays import finite, positive_integers
from numeric.eigenbasis import checked_prompts, prompt_spectra

_Value = Callable[[Any], np.ndarray]  # a parameter of the solver on every prompt, (B, 1)


def step_solver(
    solver: Solver, X: Any, y: Any, steps: Any, *, w0: Any = None, dtype: Any = np.float64
) -> np.ndarray:
    """Weights after 0 to max(steps) literal steps of a solver on all examples, (B, K, d).

    Parameters
    ----------
    solver: with numbers or rules of the spectrum as parameters (rules are evaluated in float64).
    X: examples (B, n, d), n >= 1. y: (B, n). steps: integers >= 0, (K,).
    w0: start, (d,) or (B, d); `None` is 0. Not for GD++ and online descent.
    dtype: of every number in the recursion, e.g. numpy.float32.

    Nothing is checked for stability: an unstable recursion grows until it overflows. Errors:
    `InvalidInput` for methods that are no recursion.

    >>> import icltheory as icl
    >>> X = np.array([[[1.0, 0.0], [0.0, 2.0]]])
    >>> step_solver(icl.GradientDescent(0.1), X, [[1.0, 4.0]], [1, 2])
    array([[[0.1 , 0.8 ],
            [0.19, 1.28]]])
    """
    X, y, _ = checked_prompts(X, y, None)
    counts = np.atleast_1d(positive_integers(steps, "steps", 0)).astype(int)
    spectra = prompt_spectra(X, y, [X.shape[1]])

    def value(expr: Any) -> np.ndarray:
        return np.asarray(spectra.evaluate(expr)[:, 0], dtype)

    X, y = X.astype(dtype), y.astype(dtype)
    if isinstance(solver, (GDPlusPlus, OnlineGradientDescent)):
        if w0 is not None:
            raise InvalidInput(f"{solver.description} starts at 0 here; leave w0 out.")
        rows = _by_examples(solver, X, y, value)
    else:
        start = np.zeros(X.shape[::2]) if w0 is None else finite(w0, "w0")
        start = np.broadcast_to(start, X.shape[::2]).astype(dtype)
        gram = np.matmul(np.swapaxes(X, 1, 2), X)
        target = np.matmul(np.swapaxes(X, 1, 2), y[:, :, None])[:, :, 0]
        # From w_0 a method acts on what w_0 leaves: w = w_0 + method(S, X'y - S w_0).
        rows = (start + w for w in _steps(solver, gram, target - _times(gram, start), value))
    out = np.empty((len(X), len(counts), X.shape[2]), dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        for t, row in enumerate(islice(rows, int(counts.max()) + 1)):
            out[:, counts == t] = row[:, None]
    return out


@singledispatch
def _steps(solver: Any, gram: Any, target: Any, value: _Value) -> Iterator[np.ndarray]:
    """Iterates w_0 = 0, w_1, ... of S w = b."""
    raise InvalidInput(f"{type(solver).__name__} is not a recursion in steps.")


def _times(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return np.matmul(matrix, vector[:, :, None])[:, :, 0]


def _inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("bi,bi->b", a, b)[:, None]


@_steps.register
def _descent(
    solver: GradientDescent, gram: Any, target: Any, value: _Value
) -> Iterator[np.ndarray]:
    w, step = np.zeros_like(target), value(solver.step_size)
    while True:
        yield w
        w = w - step * (_times(gram, w) - target)


@_steps.register
def _heavy_ball(solver: HeavyBall, gram: Any, target: Any, value: _Value) -> Iterator[np.ndarray]:
    w = old = np.zeros_like(target)
    step, momentum = value(solver.step_size), value(solver.momentum)
    while True:
        yield w
        w, old = w + momentum * (w - old) - step * (_times(gram, w) - target), w


@_steps.register
def _nesterov(solver: Nesterov, gram: Any, target: Any, value: _Value) -> Iterator[np.ndarray]:
    w = old = np.zeros_like(target)
    step, momentum = value(solver.step_size), value(solver.momentum)
    while True:
        yield w
        ahead = w + momentum * (w - old)
        w, old = ahead - step * (_times(gram, ahead) - target), w


@_steps.register
def _chebyshev(solver: Chebyshev, gram: Any, target: Any, value: _Value) -> Iterator[np.ndarray]:
    lower, upper = value(solver.lower), value(solver.upper)
    mean, half = (upper + lower) / 2, (upper - lower) / 2
    w, residual, ratio = np.zeros_like(target), target, half / mean
    move = residual / mean
    while True:
        yield w
        w, residual = w + move, residual - _times(gram, move)
        old, ratio = ratio, half / (2 * mean - half * ratio)
        move = ratio * old * move + 2 / (2 * mean - half * old) * residual


@_steps.register
def _conjugate(
    solver: ConjugateGradient, gram: Any, target: Any, value: _Value
) -> Iterator[np.ndarray]:
    w, residual = np.zeros_like(target), target
    direction, square = residual, _inner(residual, residual)
    while True:
        yield w
        image = _times(gram, direction)
        curvature = _inner(direction, image)
        live = (square > 1e-26 * _inner(target, target)) & (curvature > 0)
        step = np.where(live, square / np.where(live, curvature, 1), 0)
        w, residual = w + step * direction, residual - step * image
        new = _inner(residual, residual)
        direction = residual + np.where(live, new / np.where(live, square, 1), 0) * direction
        square = new


@_steps.register(IterativeNewton)
@_steps.register(HyperPower)
def _newton(solver: Any, gram: Any, target: Any, value: _Value) -> Iterator[np.ndarray]:
    identity = np.broadcast_to(np.eye(gram.shape[-1], dtype=gram.dtype), gram.shape)
    scale = value(solver.scale)[:, :, None]
    matrix = scale * (identity if solver.start == "I" else gram)
    order = getattr(solver, "order", 2)
    while True:
        yield _times(matrix, target)
        matrix = _improved(matrix, gram, order)


@_steps.register
def _ridge_newton(
    solver: RidgeNewton, gram: Any, target: Any, value: _Value
) -> Iterator[np.ndarray]:
    identity = np.eye(gram.shape[-1], dtype=gram.dtype)
    shifted = gram + value(solver.penalty)[:, :, None] * identity
    matrix = value(solver.scale)[:, :, None] * shifted
    while True:
        yield _times(matrix, target)
        matrix = _improved(matrix, shifted, 2)


def _improved(matrix: np.ndarray, gram: np.ndarray, order: int) -> np.ndarray:
    """M (1 + E + ... + E^{p-1}) with E = 1 - S M; 2 M - M S M for p = 2."""
    if order == 2:
        return 2 * matrix - matrix @ gram @ matrix
    error = np.eye(gram.shape[-1], dtype=gram.dtype) - gram @ matrix
    total = term = matrix
    for _ in range(order - 1):
        term = term @ error
        total = total + term
    return total


# -- methods that transform or order the examples ------------------------------------------------------


def _by_examples(solver: Any, X: np.ndarray, y: np.ndarray, value: _Value) -> Iterator[np.ndarray]:
    if isinstance(solver, OnlineGradientDescent):
        return _one_by_one(solver, X, y, value)
    return _layers(solver, X, y, value)


def _layers(
    solver: GDPlusPlus, X: np.ndarray, y: np.ndarray, value: _Value
) -> Iterator[np.ndarray]:
    """GD++: every layer predicts with its features, subtracts that from the targets, and contracts
    the features of examples and query."""
    identity = np.eye(X.shape[2], dtype=X.dtype)
    w, path = np.zeros(X.shape[::2], X.dtype), np.broadcast_to(identity, (len(X), *identity.shape))
    yield w
    for step, contraction in zip(solver.step_sizes, solver.contractions, strict=True):
        gram = np.matmul(np.swapaxes(X, 1, 2), X)
        move = value(step) * np.matmul(np.swapaxes(X, 1, 2), y[:, :, None])[:, :, 0]
        w = w + _times(path, move)
        yield w
        y = y - np.matmul(X, move[:, :, None])[:, :, 0]
        shrink = identity - value(contraction)[:, :, None] * gram
        X, path = X @ shrink, path @ shrink


def _one_by_one(
    solver: OnlineGradientDescent, X: np.ndarray, y: np.ndarray, value: _Value
) -> Iterator[np.ndarray]:
    """Step t reads example t."""
    w = np.zeros(X.shape[::2], X.dtype)
    yield w
    for x, label in zip(np.swapaxes(X, 0, 1), y.T, strict=True):
        size = _inner(x, x)
        rate = 1 / size if solver.step_size is None else value(solver.step_size)
        w = w + rate * (label[:, None] - _inner(x, w)) * x
        yield w
