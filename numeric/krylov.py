"""Conjugate gradients in the eigenbasis, and the quasi-Newton methods that coincide with it.

On a quadratic, with exact line searches, conjugate gradients, BFGS, DFP, every member of Broyden's
family and L-BFGS make the same iterates (Dixon 1972). Conjugate gradients
run here on eigenvalues, with every residual orthogonalised twice against all earlier ones, so that
they end at the least-squares solution after as many steps as the rank says; the quasi-Newton methods
run on matrices, as they are written down. Exported: `conjugate_gradient_solutions`, `ritz_values`,
`quasi_newton_weights`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from numeric.arrays import integer, number, positive_integers
from numeric.eigenbasis import checked_prompts

_STOP = 1e-13  # a prompt is finished when its residual falls to this part of the first one


def conjugate_gradient_solutions(
    values: np.ndarray, moments: np.ndarray, steps: np.ndarray
) -> np.ndarray:
    """Iterates of conjugate gradients on diag(values) z = moments, from zero.

    Parameters
    ----------
    values: eigenvalues >= 0, (..., d); null directions must be exactly 0.
    moments: right-hand sides, (..., d); what stands at null directions is ignored.
    steps: integers >= 0, (K,); beyond the rank an iterate is the minimum-norm solution.

    Returns the solutions, (..., K, d).

    >>> conjugate_gradient_solutions(np.array([1.0, 4.0]), np.array([1.0, 1.0]), np.array([0, 1, 2]))
    array([[0.  , 0.  ],
           [0.4 , 0.4 ],
           [1.  , 0.25]])
    """
    solutions, _, _ = _run(values, moments, steps)
    return solutions


def ritz_values(values: np.ndarray, moments: np.ndarray, step: int) -> np.ndarray:
    """Ritz values of diag(values) on the Krylov space of `moments` after `step` steps.

    They are the zeros theta_j of the residual filter prod_j (1 - lambda / theta_j) of conjugate
    gradients. values, moments: (d,); returned in increasing order, as many as the steps that were
    needed (at most the rank).

    >>> ritz_values(np.array([1.0, 4.0]), np.array([1.0, 1.0]), 2)
    array([1., 4.])
    """
    values, moments = np.atleast_2d(values), np.atleast_2d(moments)
    _, sizes, ratios = _run(values, moments, np.array([step]))
    used = int(np.count_nonzero(sizes[0]))
    if used == 0:
        return np.zeros(0)
    # The Lanczos matrix in terms of the step sizes and direction ratios of conjugate gradients.
    diagonal = 1 / sizes[0, :used]
    diagonal[1:] += ratios[0, : used - 1] / sizes[0, : used - 1]
    off = np.sqrt(ratios[0, : used - 1]) / sizes[0, : used - 1]
    return np.linalg.eigvalsh(np.diag(diagonal) + np.diag(off, 1) + np.diag(off, -1))


def _run(
    values: np.ndarray, moments: np.ndarray, steps: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solutions (..., K, d), and of every step its size and direction ratio (M, T); 0 once ended."""
    shape, dim = values.shape[:-1], values.shape[-1]
    lam = values.reshape(-1, dim)
    residual = np.where(lam > 0, moments.reshape(-1, dim), 0.0)
    rank = np.count_nonzero(residual, axis=1)
    last = min(int(steps.max(initial=0)), int(rank.max(initial=0)))
    first = np.sqrt(_square(residual))
    stop = max(_STOP, 100 * float(np.finfo(lam.dtype).eps)) * first
    active = first > 0
    basis = np.zeros((len(lam), last, dim), lam.dtype)
    sizes, ratios = np.zeros((len(lam), last)), np.zeros((len(lam), last))
    z, direction, square = np.zeros_like(residual), residual.copy(), _square(residual)
    out = np.zeros((len(lam), len(steps), dim), lam.dtype)
    for t in range(1, last + 1):
        curvature = np.where(active, np.einsum("md,md->m", direction, lam * direction), 1.0)
        size = np.where(active, square / curvature, 0.0)
        sizes[:, t - 1] = size
        z += size[:, None] * direction
        basis[:, t - 1] = residual / np.where(active, np.sqrt(square), 1.0)[:, None]
        residual = np.where(active[:, None], residual - size[:, None] * lam * direction, 0.0)
        for _ in range(2):
            past = basis[:, :t]
            overlap = np.matmul(past, residual[:, :, None])
            residual -= np.matmul(np.swapaxes(past, 1, 2), overlap)[:, :, 0]
        new = _square(residual)
        active &= (np.sqrt(new) > stop) & (t < rank)
        ratio = np.where(active, new / np.where(square > 0, square, 1.0), 0.0)
        ratios[:, t - 1] = ratio
        direction = residual + ratio[:, None] * direction
        square = new
        out[:, steps == t] = z[:, None]
    out[:, steps > last] = z[:, None]
    return out.reshape(*shape, len(steps), dim), sizes, ratios


def _square(vectors: np.ndarray) -> np.ndarray:
    return np.einsum("md,md->m", vectors, vectors)


# -- quasi-Newton --------------------------------------------------------------------------------------


def quasi_newton_weights(
    X: Any, y: Any, steps: Any, *, update: Any = "bfgs", memory: int | None = None
) -> np.ndarray:
    """Quasi-Newton iterates on |X w - y|^2 / 2 from 0, with B_0 = I and exact line searches.

    Parameters
    ----------
    X: (B, n, d). y: (B, n). steps: integers >= 0, (K,).
    update: "bfgs", "dfp", or the share phi of BFGS in Broyden's family (0 is DFP, 1 is BFGS).
    memory: number of pairs that L-BFGS keeps (>= 1, with update="bfgs"); `None` keeps all in a
        matrix.

    Returns the weights, (B, K, d). A prompt whose gradient has fallen to 1e-13 of the first one
    stays where it is. Errors: `InvalidInput`. Source: derived here.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((1, 8, 3))
    >>> weights = quasi_newton_weights(X, X @ [1.0, 2.0, 3.0], [3])
    >>> weights.round(10)
    array([[[1., 2., 3.]]])
    """
    X, y, _ = checked_prompts(X, y, None)
    counts = np.atleast_1d(positive_integers(steps, "steps", 0)).astype(int)
    share = {"bfgs": 1.0, "dfp": 0.0}.get(update) if isinstance(update, str) else None
    if share is None:
        if isinstance(update, str):
            raise InvalidInput(f"update = {update!r} is not 'bfgs', 'dfp' or a number.")
        share = number(update, "update")
    if memory is not None:
        memory = integer(memory, "memory")
        if share != 1:
            raise InvalidInput("memory belongs to L-BFGS; pass update='bfgs' with it.")
    gram = np.matmul(np.swapaxes(X, 1, 2), X)
    target = np.matmul(np.swapaxes(X, 1, 2), y[:, :, None])[:, :, 0]
    model = _Pairs(memory) if memory is not None else _Inverse(len(X), X.shape[2], share)
    return _descend(gram, target, counts, model)


def _descend(gram: np.ndarray, target: np.ndarray, steps: np.ndarray, model: Any) -> np.ndarray:
    w, gradient = np.zeros_like(target), -target
    first = np.sqrt(_square(gradient))
    out = np.zeros((len(w), len(steps), w.shape[1]))
    for t in range(1, int(steps.max(initial=0)) + 1):
        active = np.sqrt(_square(gradient)) > _STOP * first
        if not active.any():
            out[:, steps >= t] = w[:, None]
            break
        direction = np.where(active[:, None], -model.apply(gradient), 0.0)
        image = np.matmul(gram, direction[:, :, None])[:, :, 0]
        slope = -np.einsum("md,md->m", gradient, direction)
        size = slope / np.where(active, np.einsum("md,md->m", direction, image), 1.0)
        move, change = size[:, None] * direction, size[:, None] * image
        w, gradient = w + move, gradient + change
        model.update(move, change, active)
        out[:, steps == t] = w[:, None]
    return out


class _Inverse:
    """Inverse Hessians H (B, d, d), updated in Broyden's family with the share phi of BFGS."""

    def __init__(self, count: int, dim: int, share: float) -> None:
        self.h, self.share = np.tile(np.eye(dim), (count, 1, 1)), share

    def apply(self, gradient: np.ndarray) -> np.ndarray:
        return np.matmul(self.h, gradient[:, :, None])[:, :, 0]

    def update(self, move: np.ndarray, change: np.ndarray, active: np.ndarray) -> None:
        image = self.apply(change)
        inner = np.where(active, np.einsum("md,md->m", move, change), 1.0)
        energy = np.where(active, np.einsum("md,md->m", change, image), 1.0)
        gap = move / inner[:, None] - image / energy[:, None]
        self.h += _outer(move, 1 / inner) - _outer(image, 1 / energy)
        self.h += _outer(gap, self.share * np.where(active, energy, 0.0))


class _Pairs:
    """The last `memory` pairs of L-BFGS, applied by the two-loop recursion to B_0 = I."""

    def __init__(self, memory: int) -> None:
        self.memory, self.pairs = memory, []

    def apply(self, gradient: np.ndarray) -> np.ndarray:
        q, shares = gradient.copy(), []
        for move, change, inverse in reversed(self.pairs):
            shares.append(inverse * np.einsum("md,md->m", move, q))
            q -= shares[-1][:, None] * change
        for (move, change, inverse), share in zip(self.pairs, reversed(shares), strict=True):
            back = inverse * np.einsum("md,md->m", change, q)
            q += (share - back)[:, None] * move
        return q

    def update(self, move: np.ndarray, change: np.ndarray, active: np.ndarray) -> None:
        inner = np.einsum("md,md->m", move, change)
        inverse = np.where(active, 1 / np.where(active, inner, 1.0), 0.0)
        self.pairs = [*self.pairs, (move, change, inverse)][-self.memory :]


def _outer(vectors: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (scale[:, None] * vectors)[:, :, None] * vectors[:, None, :]
