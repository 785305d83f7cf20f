"""The loss constant of any softmax heads on arrays: value, gradient, best values for given scores.

With B_h = Sigma^{1/2} A_h Sigma^{1/2}, S = Sigma^{1/2} M Sigma^{1/2} and c = tr S + noise_var, a pair
of heads contributes v_h v_l F_hl,

    F_hl = det(I - 2N)^{-1/2} (tr(P (I - 2N)^{-1}) + c),   N = sym(B_h B_l'),   P = sym(B_h S B_l')

(`icltheory.head_constant` derives it). Written as F = c + (tr P + c tr N) + rest, the first two parts
sum to c (sum v)^2 + tr(B (S + c) B'), B = sum_h v_h B_h, and only the rest, of second order in the
scores, is summed over pairs: opposite heads with small scores and large values lose no digits.
Exported: `head_constant`, `HeadGradient`, `optimal_values`, `OptimalValues`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, overload

import numpy as np

from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.lower_bounds import second_moment_task
from icltheory.task import LinearRegression
from numeric.arrays import finite, task_arrays
from numeric.decoding_display import Shown

_ROUNDING = 1e-12  # relative size of a gap that rounding of scores and values may leave


class HeadGradient(NamedTuple):
    """A loss constant and its derivatives in the scores and in the values."""

    value: Any
    score_matrices: np.ndarray
    values: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class OptimalValues(Shown):
    """The values (H,) that minimise the loss constant for given scores, and this constant."""

    values: np.ndarray
    constant: float


@overload
def head_constant(
    task: LinearRegression,
    score_matrices: Any,
    values: Any,
    gradient: Literal[False] = False,
    *,
    consistent: bool = True,
) -> Any: ...
@overload
def head_constant(
    task: LinearRegression,
    score_matrices: Any,
    values: Any,
    gradient: Literal[True],
    *,
    consistent: bool = True,
) -> HeadGradient: ...
def head_constant(
    task: LinearRegression,
    score_matrices: Any,
    values: Any,
    gradient: bool = False,
    *,
    consistent: bool = True,
) -> Any:
    """lim n * risk of softmax heads with scores x_q'A_h x_i and values v_h, in float64.

    Parameters
    ----------
    score_matrices: A, shape (..., H, d, d); or H numbers k_h, meaning A_h = k_h Sigma^{-1}.
    values: v, shape (..., H); leading axes broadcast.
    gradient: True returns a `HeadGradient` with the derivatives in A (or in the k_h) and in v,
        taken without regard to consistency.
    consistent: True demands sum_h v_h A_h = Sigma^{-1} up to rounding (else `InvalidInput` with the
        limiting risk). False takes any heads: the result is then n times the variance of the
        prediction given query and coefficients, as n tends to infinity, which is the loss constant
        where the heads are consistent.

    Returns a float, or an array of the leading shape. The relative error is about 1e-14 times
    sum |v_h| |B_h|, also for opposite scores near zero. Infinite (`OutOfDomain`) unless the
    eigenvalues of B_h B_h', B_h = Sigma^{1/2} A_h Sigma^{1/2}, are below 1/2 for every head with
    v_h != 0 (for every head, with the gradient). A task with `coef_mean` counts with its second
    moment. Source: derived here (delta method and exponential tilting).

    >>> import icltheory as icl
    >>> task = icl.LinearRegression(dim=5)
    >>> round(head_constant(task, [0.35], [1 / 0.35]), 4)
    19.1556
    >>> scores = 1e-6 * np.array([np.eye(5), -np.eye(5)])
    >>> pair = head_constant(task, scores, [5e5, -5e5], gradient=True)
    >>> round(pair.value, 9), pair.values.round(6)
    (6.0, array([ 1.2e-05, -1.2e-05]))
    """
    setting = _setting(task)
    weights = finite(values, "values")
    given = finite(score_matrices, "score_matrices")
    scalar = given.ndim == 1
    scores = _scores(setting, given)
    if weights.ndim < 1 or weights.shape[-1] != scores.shape[-3]:
        raise InvalidInput(
            f"{weights.shape[-1] if weights.ndim else 1} values for {scores.shape[-3]} heads; give "
            f"one value a head."
        )
    heads = setting.whitened(scores)
    if not gradient:  # a head that is not read may have any scores
        heads = np.where(weights[..., None, None] == 0, 0.0, heads)
    combined = np.einsum("...h,...hij->...ij", weights, heads)
    if consistent:
        _require_consistent(setting, heads, weights, combined)
    pairs = _Pairs(heads, setting)
    value = _total(pairs, combined, weights)
    if not gradient:
        return value
    by_score, by_value = _gradient(pairs, combined, weights)
    by_score = setting.whitened(by_score)
    if scalar:  # A_h = k_h Sigma^{-1}
        by_score = np.einsum("...hij,ij->...h", by_score, setting.inverse)
    return HeadGradient(value, by_score, by_value)


def optimal_values(task: LinearRegression, score_matrices: Any) -> OptimalValues:
    """The values of heads with given scores that minimise the loss constant, consistency included.

    Parameters
    ----------
    score_matrices: A, shape (H, d, d); or H numbers k_h, meaning A_h = k_h Sigma^{-1}.

    A quadratic minimum under the linear constraint sum_h v_h A_h = Sigma^{-1} (one equation for
    scalar heads). If no values satisfy it, `InvalidInput` names the smallest limiting risk. Heads
    of equal scores share their value. `icltheory.optimal_values` is the exact counterpart. Errors:
    `OutOfDomain` as in `head_constant`. Source: derived here.

    >>> import icltheory as icl
    >>> best = optimal_values(icl.LinearRegression(dim=5), [0.2, -0.2, 0.4])
    >>> best.values.round(3), round(best.constant, 4)
    (array([ 2.835, -2.594, -0.215]), 6.0991)
    """
    setting = _setting(task)
    scores = _scores(setting, finite(score_matrices, "score_matrices"))
    if scores.ndim != 3:
        raise InvalidInput(
            f"score_matrices has shape {scores.shape}; pass one layer, shape (H, d, d)."
        )
    heads = setting.whitened(scores)
    pairs = _Pairs(heads, setting)
    # In units of 1/|B_h|, so that small scores weigh as much as large ones.
    norms = np.linalg.norm(heads, axis=(1, 2))
    unit = 1 / np.where(norms > 0, norms, 1.0)
    columns = (heads * unit[:, None, None]).reshape(len(heads), -1).T
    target = np.eye(setting.dim).ravel()
    left, sizes, right = np.linalg.svd(columns)
    rank = int(np.sum(sizes > 1e-11 * sizes.max(initial=0.0)))
    solution = right[:rank].T @ (left[:, :rank].T @ target / sizes[:rank])
    if np.abs(columns @ solution - target).max() > 1e-9:
        raise InvalidInput(_floor_message(setting, heads))
    # Free directions minimise c (sum v)^2 + v' rest v; the part of first order is pinned.
    rest = pairs.square(pairs.rest) * np.outer(unit, unit)
    powers, axes = np.linalg.eigh(rest)
    factor = np.vstack(
        [setting.label_var**0.5 * unit, np.sqrt(np.maximum(powers, 0.0))[:, None] * axes.T]
    )
    free = right[rank:].T
    if free.shape[1]:
        solution += free @ np.linalg.lstsq(factor @ free, -factor @ solution, rcond=None)[0]
    values = unit * solution
    return OptimalValues(values, _total(pairs, np.tensordot(values, heads, 1), values))


# -- the setting -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Setting:
    """A task as the constants need it; `moment` is S, a float where it is a multiple of I."""

    dim: int
    root: Any  # Sigma^{1/2}, or its factor of I
    moment: Any
    signal: float
    label_var: float
    inverse: np.ndarray

    def whitened(self, matrices: np.ndarray) -> np.ndarray:
        """Sigma^{1/2} X Sigma^{1/2} of every matrix."""
        if isinstance(self.root, float):
            return self.root**2 * matrices
        return self.root @ matrices @ self.root

    def read(self, matrices: np.ndarray) -> np.ndarray:
        """X S of every matrix."""
        return matrices * self.moment if isinstance(self.moment, float) else matrices @ self.moment

    def limit_risk(self, combined: np.ndarray) -> np.ndarray:
        """tr((B - I) S (B - I)')."""
        error = combined - np.eye(self.dim)
        return (self.read(error) * error).sum((-2, -1))


@lru_cache(maxsize=64)
def _setting(task: LinearRegression) -> _Setting:
    task_arrays(task, supports=("coef_mean",))  # refuses what is no task
    arrays = task_arrays(second_moment_task(task))
    sigma = arrays.task.feature_cov
    root: Any = float(sigma.scale) ** 0.5 if sigma.is_isotropic else arrays.feature_root
    if arrays.task.is_isotropic:
        moment: Any = float(sigma.scale * arrays.task.coef_cov.scale)
    else:
        moment = arrays.feature_root @ arrays.coef_cov @ arrays.feature_root
    inverse = np.linalg.inv(arrays.feature_cov)
    label_var = arrays.signal + arrays.noise_var
    return _Setting(arrays.dim, root, moment, arrays.signal, label_var, inverse)


def _scores(setting: _Setting, scores: np.ndarray) -> np.ndarray:
    if scores.ndim == 1:
        scores = scores[:, None, None] * setting.inverse
    d = setting.dim
    if scores.ndim < 3 or scores.shape[-2:] != (d, d) or scores.shape[-3] == 0:
        raise InvalidInput(
            f"score_matrices has shape {scores.shape}; the task needs (..., H, {d}, {d}), or H "
            f"numbers for scalar heads."
        )
    return scores


def _require_consistent(
    setting: _Setting, heads: np.ndarray, weights: np.ndarray, combined: np.ndarray
) -> None:
    gap = np.abs(combined - np.eye(setting.dim)).max((-2, -1))
    size = 1 + (np.abs(weights) * np.abs(heads).max((-2, -1))).sum(-1)
    bad = gap > _ROUNDING * setting.dim * size
    if np.any(bad):
        floor = float(setting.limit_risk(combined)[bad].flat[0])
        raise InvalidInput(
            f"the heads are not consistent: sum_h v_h A_h differs from Sigma^{{-1}}, so the risk "
            f"tends to {floor:.6g} instead of 0 and no 1/n constant exists. Rescale the values, or "
            f"pass consistent=False for n times the variance of the prediction."
        )


def _floor_message(setting: _Setting, heads: np.ndarray) -> str:
    columns = setting.read(heads).reshape(len(heads), -1)
    form = columns @ heads.reshape(len(heads), -1).T
    slope = columns @ np.eye(setting.dim).ravel()
    values = np.linalg.lstsq(form, slope, rcond=None)[0]
    floor = float(setting.limit_risk(np.tensordot(values, heads, 1)))
    return (
        f"no values make these heads consistent: Sigma^{{-1}} is no combination of the score "
        f"matrices, so the risk tends to at least {max(floor, 0.0):.6g} (icl.head_floor) and no 1/n "
        f"constant exists. Change the scores."
    )


# -- the sum over pairs ------------------------------------------------------------------------------


@lru_cache(maxsize=32)
def _pair_index(heads: int) -> tuple[np.ndarray, ...]:
    """Heads of every pair h <= l, how often it counts, and the pair of every (h, l)."""
    first, second = np.triu_indices(heads)
    of = np.zeros((heads, heads), dtype=int)
    of[first, second] = of[second, first] = np.arange(len(first))
    return first, second, np.where(first == second, 1.0, 2.0), of


class _Pairs:
    """N, P, their resolvent and the rest of F for every pair of heads, shape (..., pairs, d, d)."""

    def __init__(self, heads: np.ndarray, setting: _Setting) -> None:
        self.heads, self.setting = heads, setting
        self.first, self.second, self.count, self.of = _pair_index(heads.shape[-3])
        eye = np.eye(setting.dim)
        left = heads[..., self.first, :, :]
        right = heads.swapaxes(-1, -2)[..., self.second, :, :]
        product = left @ right
        double = product + product.swapaxes(-1, -2)  # 2N
        try:
            factor = np.linalg.cholesky(eye - double)
        except np.linalg.LinAlgError:
            raise self._infinite() from None
        # log det(I - 2N) from what the factor takes off its diagonal of ones.
        below = factor * _strictly_below(setting.dim)
        taken = np.einsum("...ij,...ij->...i", below, below)
        diagonal = np.einsum("...ii->...i", double)
        removed = diagonal + taken
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            second_order = -0.5 * (np.log1p(-removed) + removed - taken).sum(-1)
            trace = 0.5 * diagonal.sum(-1)
            self.growth = np.expm1(trace + second_order)  # det^{-1/2} - 1
        if not np.all(np.isfinite(self.growth)):
            raise self._infinite()
        self.resolvent = np.linalg.inv(eye - double)
        self.excess = double @ self.resolvent  # (I - 2N)^{-1} - I
        isotropic = isinstance(setting.moment, float)
        self.form = product * setting.moment if isotropic else setting.read(left) @ right
        plain = np.einsum("...ii->...", self.form)
        cubic = np.einsum("...ij,...ij->...", self.form, self.excess)
        self.mean = plain + cubic  # tr(P (I - 2N)^{-1})
        self.rest = setting.label_var * (self.growth - trace) + self.growth * self.mean + cubic

    def square(self, per_pair: np.ndarray) -> np.ndarray:
        """Values of pairs as a symmetric H x H table."""
        return per_pair[..., self.of]

    def _infinite(self) -> OutOfDomain:
        norms = np.linalg.norm(self.heads, ord=2, axis=(-2, -1)) ** 2
        where = np.unravel_index(np.argmax(norms), norms.shape)
        return OutOfDomain(
            f"head {where[-1]}: Sigma^(1/2) A Sigma A' Sigma^(1/2) has the eigenvalue "
            f"{norms[where]:.6g}; the loss constant is finite below 1/2 only (one scalar head: "
            f"t = k^2 < 1/2). Scale the scores down and the values up."
        )


@lru_cache(maxsize=32)
def _strictly_below(dim: int) -> np.ndarray:
    return np.tril(np.ones((dim, dim)), -1)


def _total(pairs: _Pairs, combined: np.ndarray, weights: np.ndarray) -> Any:
    setting = pairs.setting
    pinned = (setting.read(combined) + setting.label_var * combined) * combined
    products = weights[..., pairs.first] * weights[..., pairs.second] * pairs.count
    total = setting.label_var * weights.sum(-1) ** 2 + pinned.sum((-2, -1))
    total = total + (products * pairs.rest).sum(-1)
    return float(total) if np.ndim(total) == 0 else total


def _gradient(
    pairs: _Pairs, combined: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Derivatives in the whitened B_h and in v_h, decomposed like the constant itself.

    With G = (I - 2N)^{-1} and D = det^{-1/2}: dF = D tr((tr(P G) + c) G dN + 2 G P G dN + G dP).
    """
    setting, heads = pairs.setting, pairs.heads
    c = setting.label_var
    pinned = setting.read(combined) + c * combined
    by_value = c * weights.sum(-1)[..., None]
    by_value = by_value + np.einsum("...hij,...ij->...h", heads, pinned)
    by_value = by_value + np.einsum("...hl,...l->...h", pairs.square(pairs.rest), weights)
    growth, mean = pairs.growth[..., None, None], pairs.mean[..., None, None]
    form = 0.5 * (pairs.form + pairs.form.swapaxes(-1, -2))
    loose = growth * pairs.resolvent + pairs.excess  # D G - I
    tilted = pairs.resolvent @ form @ pairs.resolvent
    weight = c * loose + (1 + growth) * (mean * pairs.resolvent + 2 * tilted)  # D W - c I
    scaled = weights[..., None, None] * heads
    # sum over l, as one product of H d x H d blocks
    through = _contract(weight, pairs.of, scaled) + _contract(loose, pairs.of, setting.read(scaled))
    by_score = weights[..., None, None] * (pinned[..., None, :, :] + through)
    return 2 * by_score, 2 * by_value


def _contract(matrices: np.ndarray, of: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """sum_l X_hl Y_l."""
    return (matrices[..., of, :, :] @ heads[..., None, :, :, :]).sum(-3)
