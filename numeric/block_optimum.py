"""The best softmax head of a finite prompt among all score matrices, and prompt lengths for a risk.

Minimises the exact risk of `numeric.finite_prompt` (the setting is that of Boursier and Boyer,
arXiv 2512.11784; derived here). Exported: `optimal_block_risk`, `BlockOptimum`,
`prompt_length_for`, `PromptLength`; `Coordinates` and the functions below it
serve `numeric.drift`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize

from icltheory.attention import SoftmaxAttention
from icltheory.errors import OutOfDomain
from icltheory.risk import optimal_loss_constant
from icltheory.task import LinearRegression
from numeric.arrays import TaskArrays, positive, task_arrays
from numeric.decoding_display import Shown
from numeric.finite_prompt import FiniteRisk
from numeric.prompt_moments import LARGEST_LENGTH, checked_lengths
from numeric.risk import optimal_risk

_ONE_HEAD = SoftmaxAttention(heads=1)


@dataclass(frozen=True, eq=False, repr=False)
class BlockOptimum(Shown):
    """The best head at each prompt length: risk (...), A (..., d, d), b (...)."""

    prompt_length: Any
    risk: Any
    A: Any
    b: Any


def optimal_block_risk(
    task: LinearRegression, prompt_length: Any, query_cov: Any = None
) -> BlockOptimum:
    """Smallest `block_risk` over all score matrices A and values b, and where it is attained.

    b is eliminated (the risk is quadratic in it) and A found by Newton's method from the best
    multiple of Sigma^{-1}, with exact gradients. If the covariances commute, A is diagonal in their
    common eigenbasis, which is a critical point among all matrices; for an isotropic task it is a
    multiple of I and the risk equals that of `numeric.optimal_risk`. The minimum is a local one,
    below every multiple of Sigma^{-1}. At n = 1 the best value is 0 and A is NaN. (A, b) and
    (-A, -b) are the same head; b > 0 is returned.

    For n up to 1e7; relative error 1e-8 of the risk, about 1e-6 of A and b. Errors: `InvalidInput`,
    `OutOfDomain`. Source: derived here.

    >>> import icltheory as icl
    >>> cov = [[1.5 * 0.5 ** abs(i - j) for j in range(5)] for i in range(5)]
    >>> task = icl.LinearRegression(dim=5, feature_cov=cov)
    >>> best = optimal_block_risk(task, 40)
    >>> multiple = optimal_risk(task, icl.SoftmaxAttention(heads=1), 40)
    >>> round(best.risk / float(task.signal), 3), round(multiple.risk / float(task.signal), 3)
    (0.266, 0.286)
    """
    arrays = task_arrays(task)
    lengths = checked_lengths(prompt_length)
    if np.any(lengths > 1e7):
        raise OutOfDomain(
            f"prompt_length = {lengths.max():g} is above 1e7, where the valley of good heads is too "
            f"flat for the search; use the leading law (icl.valley_constant) there."
        )
    found = [_optimum(task, float(n), query_cov) for n in lengths.ravel()]
    risk, matrix, value = (np.array(part) for part in zip(*found, strict=True))
    shape = lengths.shape
    matrix = matrix.reshape(*shape, arrays.dim, arrays.dim)
    if not shape:
        return BlockOptimum(float(lengths), float(risk[0]), matrix, float(value[0]))
    return BlockOptimum(lengths, risk.reshape(shape), matrix, value.reshape(shape))


@dataclass(frozen=True, repr=False)
class PromptLength(Shown):
    """Smallest prompt length for a risk `eps`, the risk there, and the leading law constant/eps."""

    prompt_length: int
    risk: float
    leading: float


def prompt_length_for(task: LinearRegression, eps: float) -> PromptLength:
    """How many examples the best softmax head needs for a risk of at most `eps`.

    Inverts the exact curve of `numeric.optimal_risk` (heads A = k Sigma^{-1}) if the task is
    isotropic, that of `optimal_block_risk` (any A, n up to 1e7) otherwise. `leading` is the leading
    law icl.optimal_loss_constant / eps, which holds for small eps.

    `eps` > 0; one of at least the risk tr(Sigma M) of the zero prediction needs n = 1. Lengths above
    2^53 are exact to the accuracy of floats. Errors: `InvalidInput`, `OutOfDomain`. Source: derived
    here.

    >>> import icltheory as icl
    >>> found = prompt_length_for(icl.LinearRegression(dim=5), 0.1)
    >>> found.prompt_length, round(found.risk, 5), round(found.leading, 1)
    (161, 0.09977, 191.6)
    """
    arrays = task_arrays(task)
    target = positive(eps, "eps", "0.1")
    leading = float(optimal_loss_constant(task, _ONE_HEAD)) / float(target)

    def risk(length: float) -> float:
        if length == 1:
            return arrays.signal
        if task.is_isotropic:
            return optimal_risk(task, _ONE_HEAD, length).risk
        return optimal_block_risk(task, length).risk

    below, above = 1.0, max(2.0, math.ceil(leading))
    if risk(below) <= target:
        return PromptLength(1, risk(below), leading)
    while risk(above) > target:
        below, above = above, math.ceil(1.3 * above)
        if above > LARGEST_LENGTH:
            raise OutOfDomain(f"eps = {eps} needs a prompt longer than {LARGEST_LENGTH:g}.")
    while above - below > max(1.0, 1e-15 * above):
        middle = math.floor(math.sqrt(below * above)) if below < 0.8 * above else 0
        middle = middle if below < middle < above else math.floor((below + above) / 2)
        if risk(middle) <= target:
            above = middle
        else:
            below = middle
    return PromptLength(int(above), risk(above), leading)


# -- coordinates and the search --------------------------------------------------------------------


@dataclass(frozen=True)
class Coordinates:
    """A family of score matrices A = W (sum_k c_k E_k) W that the gradient does not leave.

    `basis` (K, d, d) has orthogonal E_k: multiples of I for isotropic covariances, matrices that
    are diagonal in the common eigenbasis for commuting ones, all matrices otherwise. `whitener` is
    W = Sigma^{-1/2}, for searches in units that the covariance does not stretch, or `None` for I,
    for the flow, whose speed the units would change.
    """

    basis: np.ndarray
    whitener: np.ndarray | None = None

    def matrix(self, coordinates: np.ndarray) -> np.ndarray:
        """A of the coordinates."""
        plain = np.tensordot(coordinates, self.basis, axes=1)
        return plain if self.whitener is None else self.whitener @ plain @ self.whitener

    def of(self, matrix: np.ndarray) -> np.ndarray:
        """Coordinates of a matrix of the family (without whitener: of its projection)."""
        if self.whitener is not None:
            root = np.linalg.inv(self.whitener)
            matrix = root @ matrix @ root
        return np.tensordot(self.basis, matrix, axes=2) / self.squares

    def derivative(self, gradient: np.ndarray) -> np.ndarray:
        """Derivative in the coordinates from the gradient in A."""
        if self.whitener is not None:
            gradient = self.whitener @ gradient @ self.whitener
        return np.tensordot(self.basis, gradient, axes=2)

    @property
    def squares(self) -> np.ndarray:
        """|E_k|^2 (Frobenius)."""
        return np.sum(self.basis**2, axis=(1, 2))


def invariant_coordinates(
    arrays: TaskArrays, query: np.ndarray, start: np.ndarray | None = None
) -> Coordinates:
    """The smallest of the three families that holds for these covariances (and contains `start`)."""
    dim = arrays.dim
    matrices = [m / np.trace(m) for m in (arrays.feature_cov, arrays.coef_cov, query)]
    # A generic combination has the common eigenvectors of all three.
    _, vectors = np.linalg.eigh(matrices[0] + 0.713 * matrices[1] + 0.309 * matrices[2])
    held = [*matrices, *([] if start is None else [start])]
    rotated = [vectors.T @ m @ vectors for m in held]
    if not all(_is_diagonal(m) for m in rotated):
        return Coordinates(np.eye(dim * dim).reshape(dim * dim, dim, dim))
    if all(np.ptp(np.diag(m)) <= 1e-13 * np.abs(m).max() for m in rotated):
        return Coordinates(np.eye(dim)[None])
    return Coordinates(np.einsum("ik,jk->kij", vectors, vectors))


def whitened_coordinates(arrays: TaskArrays, query: np.ndarray) -> Coordinates:
    """The same family with W = Sigma^{-1/2}."""
    family = invariant_coordinates(arrays, query)
    return Coordinates(family.basis, np.linalg.inv(arrays.feature_root))


def _is_diagonal(matrix: np.ndarray) -> bool:
    size = np.abs(matrix).max()
    return bool(np.all(np.abs(matrix - np.diag(np.diag(matrix))) <= 1e-13 * size))


def _optimum(task: LinearRegression, n: float, query_cov: Any) -> tuple[float, np.ndarray, float]:
    arrays = task_arrays(task)
    risk = FiniteRisk(task, np.array([n]), query_cov)
    if n == 1:
        zero = float(np.sum(arrays.coef_cov * risk.query))
        return zero, np.full_like(arrays.coef_cov, np.nan), 0.0
    family = whitened_coordinates(arrays, risk.query)
    # In units of the start, the best multiple of Sigma^{-1}, where Newton's trust region is round.
    unit = optimal_risk(task, _ONE_HEAD, n).score_scale
    origin = family.of(unit * np.linalg.inv(arrays.feature_cov))

    def value(y: np.ndarray) -> tuple[float, np.ndarray]:
        matrix = family.matrix(origin + unit * y)
        quadratic = risk.coefficients(matrix)
        b = float(quadratic.best()[0])
        slope = unit * family.derivative(risk.gradient(matrix, b)[0])
        return float(quadratic.at(b)[0]) / arrays.signal, slope / arrays.signal

    y = minimise(value, np.zeros(origin.size))
    matrix = family.matrix(origin + unit * y)
    quadratic = risk.coefficients(matrix)
    b = float(quadratic.best()[0])
    sign = 1.0 if b >= 0 else -1.0
    # Where the query has no variance A acts on nothing.
    values, vectors = np.linalg.eigh(risk.query)
    seen = vectors[:, values > 1e-12 * values[-1]]
    if seen.shape[1] < arrays.dim:
        matrix = matrix @ seen @ seen.T
    return float(quadratic.at(b)[0]), sign * matrix, sign * b


def minimise(value: Any, start: np.ndarray) -> np.ndarray:
    """Newton's method in a trust region; `value` returns a function value and its exact gradient."""

    def hessian(y: np.ndarray) -> np.ndarray:
        return differences(lambda p: value(p)[1], y)

    def guarded(y: np.ndarray) -> tuple[float, np.ndarray]:
        try:
            return value(y)
        except OutOfDomain:  # a step too far: the trust region shrinks
            return math.inf, np.zeros(y.size)

    result = optimize.minimize(
        guarded, start, jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-12}
    )
    y = result.x
    for _ in range(2):  # down to the rounding of the gradient
        step = np.linalg.lstsq(hessian(y), value(y)[1], rcond=1e-12)[0]
        if np.abs(step).max() > 1e-2:
            break
        y = y - step
    return y


def differences(gradient: Any, y: np.ndarray, step: float = 1e-4) -> np.ndarray:
    """Symmetrised central differences of a gradient."""
    rows = []
    for k in range(y.size):
        shift = np.zeros(y.size)
        shift[k] = step
        rows.append((gradient(y + shift) - gradient(y - shift)) / (2 * step))
    matrix = np.array(rows)
    return (matrix + matrix.T) / 2
