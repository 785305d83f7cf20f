"""Exact risks with prior knowledge and on local examples: one softmax head, small opposite heads.

One scalar head of value v leaves the prompt through e = x_q - v sum_i w_i x_i: the risk needs E e.x_q,
E |e|^2 and E sum w^2, which are averages of the moments of softmax weights at the scale tau k |x_q|
(`numeric.prompt_moments`). The parts in theta - theta_0, in theta_0 and in the noise add up; a skip
path and values that read features are along theta_0 and at their best unless they are given. Several
heads in the limit of small scores, and linear attention: the formulas of `icl.finite_prompt_risk`.
Derived here; the scenarios are those of Cui et al. (arXiv 2401.17426). Exported:
`optimal_tight_prior`; `scenario_risk` and `scenario_optimum` serve `numeric.risk`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import optimize

from icltheory.attention import Attention, LinearAttention, SoftmaxAttention
from icltheory.errors import InvalidInput
from icltheory.formula import Formula
from icltheory.risk import finite_prompt_risk, optimal_finite_prompt_risk
from icltheory.symbols import share, t, v
from icltheory.task import LinearRegression, refuse_options
from icltheory.tight_prior import optimal_tight_prior_constant
from numeric.arrays import SCENARIOS, TaskArrays, finite, task_arrays
from numeric.compile import Evaluator, compile
from numeric.decoding_display import Shown
from numeric.one_head import QueryAverages
from numeric.prompt_moments import checked_lengths

_OPTIONS = ("skip", "feature_values")


def concerns(task: Any, attention: Any) -> bool:
    """Whether a risk belongs here: local examples, a skip path, or values that read features.

    A prior mean alone acts through E theta theta' and needs nothing else.
    """
    if set(_OPTIONS) & set(getattr(attention, "options", ())):
        return True
    local = isinstance(task, LinearRegression) and task.local is not None
    several = isinstance(attention, SoftmaxAttention) and attention.heads > 1
    return local and not (several and attention.scores is not None)


def scenario_risk(
    task: LinearRegression,
    attention: Attention,
    prompt_length: Any,
    score_scale: Any = None,
    value_scale: Any = None,
) -> Any:
    """`numeric.exact_risk` of these scenarios.

    >>> import icltheory as icl
    >>> near = icl.LinearRegression(dim=5, local=(1, 1))
    >>> round(scenario_risk(near, icl.SoftmaxAttention(heads=2), 40), 7)
    0.0210526
    """
    arrays = _checked(task, attention)
    if isinstance(attention, SoftmaxAttention) and attention.heads == 1:
        head, score_scale, value_scale = _head(arrays, attention, score_scale, value_scale)
        lengths = checked_lengths(prompt_length)
        if score_scale is None:
            if value_scale is not None:
                raise InvalidInput(
                    "value_scale without score_scale does not fix the head; give both, or neither "
                    "for the optimal head."
                )
            return _optimal_head(head, lengths)[1]
        scales = finite(score_scale, "score_scale")
        values = np.nan if value_scale is None else finite(value_scale, "value_scale")
        return _plain(_evaluated(head, *np.broadcast_arrays(lengths, scales, values)))
    lengths = _small_score_lengths(attention, prompt_length, score_scale)
    risk, minimum, _ = _closed_form(task, attention)
    if value_scale is None:
        return _plain(np.asarray(minimum(n=lengths)))
    return _plain(np.asarray(risk(n=lengths, v=finite(value_scale, "value_scale"))))


def scenario_optimum(
    task: LinearRegression, attention: Attention, prompt_length: Any
) -> tuple[Any, Any, Any, Any]:
    """The fields of `numeric.optimal_risk` in these scenarios: lengths, risks, score and value scales.

    >>> import icltheory as icl
    >>> near = icl.LinearRegression(dim=5, local=(1, 1))
    >>> round(scenario_optimum(near, icl.SoftmaxAttention(heads=1), 40)[1], 7)
    0.0212801
    """
    arrays = _checked(task, attention)
    if isinstance(attention, SoftmaxAttention) and attention.heads == 1:
        return _optimal_head(
            _head(arrays, attention, None, None)[0], checked_lengths(prompt_length)
        )
    lengths = _small_score_lengths(attention, prompt_length, None)
    score = 0.0 if isinstance(attention, SoftmaxAttention) else np.nan
    _, minimum, value = _closed_form(task, attention)
    found = (minimum(n=lengths), np.full(lengths.shape, score), value(n=lengths))
    return _plain(lengths), *(_plain(np.broadcast_to(x, lengths.shape)) for x in found)


@dataclass(frozen=True, repr=False)
class TightPrior(Shown):
    """The best single head under a tight prior: n * risk, its t = k^2 and the share that it reads."""

    constant: float
    t: float
    share: float


def optimal_tight_prior(task: LinearRegression, attention: SoftmaxAttention) -> TightPrior:
    """Minimum over t and share of `icl.tight_prior_constant` of one head (`coef_cov` is n Cov(theta)).

    >>> import icltheory as icl
    >>> task = icl.LinearRegression(dim=3, noise_var=0.3, coef_cov=2, coef_mean=[1, 0, 0])
    >>> best = optimal_tight_prior(task, icl.SoftmaxAttention(heads=1, feature_values=True))
    >>> round(best.constant, 7), round(best.t, 5), round(best.share, 5)
    (15.9077483, 0.16426, 0.64383)
    """
    task_arrays(task, ("coef_mean",))
    if not isinstance(attention, SoftmaxAttention) or attention.heads != 1:
        raise InvalidInput(
            "only one softmax head has a best scale t; several heads have "
            "icl.optimal_tight_prior_constant."
        )
    formula = optimal_tight_prior_constant(task, attention)
    constant = compile(formula)
    grid = np.linspace(0.0, 0.5, 402)[1:-1]
    best = int(np.argmin(constant(t=grid)))
    bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = optimize.minimize_scalar(
        lambda x: float(constant(t=x)), bounds=bounds, method="bounded", options={"xatol": 1e-12}
    )
    part = 1.0
    if formula.minimizer is not None:
        part = float(formula.minimizer[share].subs(t, found.x))
    return TightPrior(float(found.fun), float(found.x), part)


# -- one head ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Head:
    """What the risk of a scalar head of given scale and value depends on, in whitened coordinates.

    `spread` and `noise` are the variances of (theta - theta_0).x and of the label noise, `mean` is
    theta_0. The head reads v theta_0 + u of `reader` u for the part `target` theta_0 - theta_s; None
    stands for the best ones.
    """

    dim: int
    local: tuple[float, float]
    spread: float
    noise: float
    mean: np.ndarray
    target: np.ndarray | None
    reader: np.ndarray | None

    def functionals(self, k: float, averages: tuple) -> tuple[np.ndarray, ...]:
        """b = E x_q.m / d, E |m|^2 / d - b^2 and E sum w^2, of m = sum w_i x_i at the scale k."""
        (rho, tau), (weight, radial, cubic) = self.local, averages
        a = tau**2 * k
        excess = a**2 * (radial * (1 - radial) - 6 * cubic) + tau**2 * weight
        return rho + a * (1 - radial), excess, weight

    def risk(self, value: np.ndarray, b: Any, excess: Any, weight: Any) -> np.ndarray:
        """The risk at a value; sums of squares, in which nothing cancels."""
        around = self.spread * ((1 - value * b) ** 2 + value**2 * excess)
        return around + self.noise * value**2 * weight + self._known(value, b, excess)

    def _known(self, value: np.ndarray, b: Any, excess: Any) -> Any:
        """The part of theta_0: |target - reading b|^2 + |reading|^2 excess."""
        if self.reader is None:  # the best reading is a multiple of the target
            return 0.0 if self.target is None else _square(self.target) * excess / (b**2 + excess)
        reading = value[..., None] * self.mean + self.reader
        missed = 0.0
        if self.target is not None:
            missed = _square(self.target - reading * np.asarray(b)[..., None])
        return missed + _square(reading) * excess

    def best(self, b: Any, excess: Any, weight: Any) -> np.ndarray:
        """The value of smallest risk: minimum of a quadratic function."""
        slope = self.spread * b
        curvature = self.spread * (b**2 + excess) + self.noise * weight
        if self.reader is not None:
            size, along = _square(self.mean), self.mean @ self.reader
            slope, curvature = slope - along * excess, curvature + size * excess
            if self.target is not None:
                slope = slope + (self.mean @ self.target - along * b) * b
                curvature = curvature + size * b**2
        return slope / curvature


def _square(x: np.ndarray) -> Any:
    return np.sum(x * x, axis=-1)


def _head(
    arrays: TaskArrays, attention: SoftmaxAttention, score_scale: Any, value_scale: Any
) -> tuple[_Head, Any, Any]:
    """The head, and its scales; numbers inside the attention are read off."""
    skip, readers = attention.skip, attention.feature_values
    plain = skip is False and readers is False
    mean = arrays.coef_mean @ arrays.feature_root
    if attention.scores is not None:
        twice = attention.values is not None and value_scale is not None
        if score_scale is not None or twice or not attention.has_scalar_scores:
            raise InvalidInput(
                "a head with a score is evaluated as it is, and its score must be a number k "
                "(A = k Sigma^{-1}): leave score_scale and, with values, value_scale out."
            )
        score_scale = _float(attention.scores[0])
        value_scale = value_scale if attention.values is None else _float(attention.values[0])
    zero = np.zeros(arrays.dim)
    path = _whitened(arrays, skip) if isinstance(skip, tuple) else zero
    read = _whitened(arrays, readers[0]) if isinstance(readers, tuple) else zero
    head = _Head(
        arrays.dim,
        arrays.local,
        arrays.signal if plain else arrays.signal - float(_square(mean)),
        arrays.noise_var,
        zero if plain else mean,
        None if skip is True else (zero if plain else mean - path),
        None if readers is True else read,
    )
    return head, score_scale, value_scale


def _whitened(arrays: TaskArrays, vector: tuple) -> np.ndarray:
    if len(vector) != arrays.dim:
        raise InvalidInput(
            f"a vector of skip or feature_values has length {len(vector)}; the task has "
            f"dim = {arrays.dim}."
        )
    return np.array([_float(x) for x in vector]) @ arrays.feature_root


def _float(entry: Any) -> float:
    if entry.free_symbols:
        raise InvalidInput("the attention still contains symbols; numbers are needed here.")
    return float(entry)


def _evaluated(
    head: _Head, lengths: np.ndarray, scales: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Risks at every length and scale; a value that is NaN is the best one."""
    distinct, index = np.unique(lengths, return_inverse=True)
    index, averages = index.reshape(lengths.shape), QueryAverages(head.dim, distinct)
    risk = np.empty(lengths.shape)
    for k in np.unique(scales):
        here = scales == k
        at = [x[index[here]] for x in averages(head.local[1] * abs(float(k)))]
        parts = head.functionals(float(k), tuple(at))
        value = np.where(np.isnan(values[here]), head.best(*parts), values[here])
        risk[here] = head.risk(value, *parts)
    return risk


def _optimal_head(head: _Head, lengths: np.ndarray) -> tuple[Any, Any, Any, Any]:
    distinct, index = np.unique(lengths, return_inverse=True)
    # Short prompts need large scales and long prompts wide quadratures: each its own group.
    groups = np.ceil(np.log(distinct) / 10)
    found = np.concatenate(
        [_search(head, distinct[groups == group]) for group in np.unique(groups)], axis=1
    )
    rows = (_plain(row[index.reshape(lengths.shape)]) for row in found)
    return _plain(lengths), *rows


def _search(head: _Head, lengths: np.ndarray) -> np.ndarray:
    """Rows risk, k and v of the best head at each length, over scales k >= 0."""
    (rho, tau), dim = head.local, head.dim
    averages = QueryAverages(dim, lengths)

    def profile(g: float) -> tuple[np.ndarray, np.ndarray]:
        parts = head.functionals(g / tau, averages(g))
        value = head.best(*parts)
        return head.risk(value, *parts), value

    # In long prompts the best g = tau k is near 1/sqrt(d + 2) for rho = 0, and of order
    # tau/(rho d) for large rho; in shorter ones it is larger.
    usual = 0.5 / math.sqrt(dim + 2)
    first = min(usual, 0.1 * tau / (rho * (dim + 1))) if rho else usual
    step = 0.15
    grid = [
        math.log(first) + step * i for i in range(math.ceil(math.log(usual / first) / step) + 12)
    ]
    table = [profile(math.exp(x))[0] for x in grid]
    while (
        np.any(np.argmin(table, axis=0)[lengths > 1] > len(grid) - 3)
        and math.exp(grid[-1] + step) < averages.largest_scale
    ):
        grid.append(grid[-1] + step)
        table.append(profile(math.exp(grid[-1]))[0])
    found = np.empty((3, lengths.size))
    flat = profile(0.0)
    for j, best in enumerate(np.argmin(table, axis=0)):
        if lengths[j] == 1:  # one token has all the weight at every scale
            found[:, j] = flat[0][j], np.nan, flat[1][j]
            continue
        bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
        result = optimize.minimize_scalar(
            lambda x, j=j: profile(math.exp(x))[0][j],
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-8},
        )
        g = math.exp(result.x)
        risk, value = profile(g)
        found[:, j] = risk[j], g / tau, value[j]
        if flat[0][j] <= risk[j]:
            found[:, j] = flat[0][j], 0.0, flat[1][j]
    return found


# -- closed forms and arguments ------------------------------------------------------------------


@lru_cache(maxsize=64)
def _closed_form(
    task: LinearRegression, attention: Attention
) -> tuple[Evaluator, Evaluator, Evaluator]:
    """The derived risk in n and v, its minimum over v, and the minimiser."""
    formula = optimal_finite_prompt_risk(task, attention)
    assert formula.minimizer is not None
    value = Formula("best value scale", formula.minimizer[v], validity=formula.validity)
    return compile(finite_prompt_risk(task, attention)), compile(formula), compile(value)


def _checked(task: LinearRegression, attention: Attention) -> TaskArrays:
    if not isinstance(attention, (SoftmaxAttention, LinearAttention)):
        raise InvalidInput(
            f"attention has type {type(attention).__name__}; pass icl.SoftmaxAttention(heads=1) "
            f"or icl.LinearAttention()."
        )
    refuse_options(attention.options, _OPTIONS)
    return task_arrays(task, SCENARIOS)


def _small_score_lengths(attention: Attention, prompt_length: Any, score_scale: Any) -> np.ndarray:
    if isinstance(attention, LinearAttention):
        if score_scale is not None:
            raise InvalidInput("linear attention has no score_scale; value_scale is its factor a.")
        return checked_lengths(prompt_length, 2 if attention.centered else 1)
    if attention.scores is not None or (
        score_scale is not None and np.any(finite(score_scale, "score_scale") != 0)
    ):
        raise InvalidInput(
            "several heads are exact here in the limit of small scores: leave scores and "
            "score_scale out, or sample with numeric.monte_carlo_risk."
        )
    return checked_lengths(prompt_length, 2)


def _plain(array: Any) -> Any:
    """A float for a single number, else the array."""
    return float(array) if np.ndim(array) == 0 else np.asarray(array)
