"""Exact risk at every prompt length of one softmax head, of small opposite heads and of linear attention.

One scalar head: given |x_q|, the bias and the variance of the prediction are the moments of softmax
weights of `numeric.prompt_moments`; the average over |x_q| ~ chi_d is a trapezoidal sum in its
logarithm. Linear attention and the pair of heads in the limit of small opposite scores: the
formulas that `icltheory.finite_prompt_risk` derives. The problem is that of Cui et al.
(arXiv 2401.17426); the exact risks are derived here. Exported: `exact_risk`, `optimal_risk`,
`OptimalRisk`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import optimize, special

from icltheory.attention import Attention, LinearAttention, SoftmaxAttention
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.formula import Formula
from icltheory.risk import finite_prompt_risk, optimal_finite_prompt_risk
from icltheory.symbols import d, noise_var, v
from icltheory.task import LinearRegression
from numeric.arrays import TaskArrays, finite, task_arrays
from numeric.compile import Evaluator, compile
from numeric.prompt_moments import LARGEST_SCALE, checked_lengths, weight_moments

_LEFT_OUT = 1e-16  # mass of the law of |x_q| that is left out on each side
_BASE = LinearRegression(dim=d, noise_var=noise_var)  # signal 1


@dataclass(frozen=True, eq=False)
class OptimalRisk:
    """Smallest risk at each prompt length and where it is attained (arrays like `prompt_length`)."""

    prompt_length: Any
    risk: Any
    score_scale: Any
    value_scale: Any


def exact_risk(
    task: LinearRegression,
    attention: Attention,
    prompt_length: Any,
    score_scale: Any = None,
    value_scale: Any = None,
) -> Any:
    """Risk E (f - theta.x_q)^2 of an attention layer at prompt length n, without sampling.

    Parameters
    ----------
    attention: `SoftmaxAttention(heads=1)` with score_scale k >= 0 (A = k Sigma^{-1}) and
        value_scale v, or one scalar head with scores and values inside; `LinearAttention(...)` with
        value_scale a and no score_scale; two or more heads: the limit of small opposite scores,
        value_scale being sum_h v_h k_h.
    prompt_length: integers n >= 1 (>= 2 for the centred layer and for two heads), up to 1e100.
    score_scale, value_scale: numbers that broadcast with prompt_length. A value_scale of `None` is
        the best one at this score scale; both `None` give `optimal_risk`.

    Returns a float, or an array of the broadcast shape. The relative error is below 1e-8; k may
    exceed 1/sqrt(2), where only the loss constant is infinite. Errors: `InvalidInput`,
    `OutOfDomain`. Source: derived here.

    >>> import icltheory as icl
    >>> task = icl.LinearRegression(dim=3, noise_var=0.3)
    >>> risk = exact_risk(task, icl.SoftmaxAttention(heads=1), 40, score_scale=0.45, value_scale=1.7)
    >>> round(risk, 9)
    0.272193563
    >>> exact_risk(task, icl.LinearAttention(), [40, 100], value_scale=1).round(4)
    array([0.1225, 0.049 ])
    """
    arrays = task_arrays(task)
    attention, score_scale, value_scale = _explicit_head(attention, score_scale, value_scale)
    if isinstance(attention, SoftmaxAttention) and attention.heads == 1:
        return _one_head(arrays, prompt_length, score_scale, value_scale)
    lengths = _closed_form_lengths(attention, prompt_length, score_scale)
    if value_scale is None:
        return _closed_form_optimum(arrays, attention, lengths).risk
    values = finite(value_scale, "value_scale")
    return arrays.signal * _closed_form(attention)(n=lengths, v=values, **_base(arrays))


def optimal_risk(task: LinearRegression, attention: Attention, prompt_length: Any) -> OptimalRisk:
    """Smallest risk of an attention layer at prompt length n, and the scales that attain it.

    Parameters
    ----------
    attention: `SoftmaxAttention(heads=1)` (over k and v), `LinearAttention(...)` (over a; its
        score_scale is NaN) or two or more heads, in the limit of small opposite scores (score_scale
        0, value_scale sum_h v_h k_h): the best to order 1/n, though in prompts as short as d finite
        scores do better (0.394 against 0.400 at d = 5, n = 10; 0.2393 against 0.2400 at n = 20).
        Scores given inside the attention are refused.
    prompt_length: as in `exact_risk`. At n = 1 a softmax head has all its weight on the one token:
        its best value is 0 and its score_scale NaN.

    The scales of one head are those of the global minimum over k on a search interval that extends
    until the risk rises, with relative errors below 1e-6 unless the noise drowns the signal (the
    risk is then flat in them); the risk's is below 1e-8. Errors as in
    `exact_risk`. Source: derived here.

    >>> import icltheory as icl
    >>> best = optimal_risk(icl.LinearRegression(dim=5), icl.SoftmaxAttention(heads=1), [20, 100])
    >>> best.risk.round(6), best.score_scale.round(4), best.value_scale.round(4)
    (array([0.426647, 0.147873]), array([0.6488, 0.4288]), array([1.1368, 2.0586]))
    """
    arrays = task_arrays(task)
    if isinstance(attention, SoftmaxAttention) and attention.scores is not None:
        raise InvalidInput(
            "the attention has its scores already; evaluate it with numeric.exact_risk, or leave "
            "the scores out."
        )
    attention, _, _ = _explicit_head(attention, None, None)
    if isinstance(attention, SoftmaxAttention) and attention.heads == 1:
        return _optimal_head(arrays, checked_lengths(prompt_length))
    return _closed_form_optimum(
        arrays, attention, _closed_form_lengths(attention, prompt_length, None)
    )


# -- one softmax head ----------------------------------------------------------------------------


class _QueryAverages:
    """E Q, E r^2 Q / d and E r^2 Delta / d over r = |x_q| ~ chi_d, for any score scale k.

    Q = g and Delta = g3 - g22 of `weight_moments` at the scale k r. Every k uses the same lattice
    of scales, exp(i step), on which only the density of r depends on k: the moments are computed
    once for all k. In log r the integrands are analytic and decay on both sides, so the trapezoidal
    sum converges geometrically.
    """

    def __init__(self, dim: int, lengths: np.ndarray) -> None:
        self.dim, self.lengths = dim, lengths
        # r^d exp(-r^2/2) as a function of log r has the width 1/sqrt(2 d), and r up to
        # r^2 = d + 2 log n matter, where Q may still grow.
        spread = dim + 2 * math.log(lengths.max())
        self._step = min(0.12, 0.5 / math.sqrt(spread))
        # Window of r under the weight r^2. The risk is at least about 1/n and Q is at most 1, so
        # the mass above has to be small against 1/n, whatever the growth exp(k^2 r^2) of Q below.
        half = dim / 2 + 1
        above = max(_LEFT_OUT / float(lengths.max()), 1e-300)
        self._window = (
            math.sqrt(2 * special.gammaincinv(half, _LEFT_OUT)),
            math.sqrt(2 * special.gammainccinv(half, above)),
        )
        self.largest_scale = LARGEST_SCALE / self._window[1]
        self._moments: dict[int, np.ndarray] = {}

    def __call__(self, k: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if k == 0:
            return 1 / self.lengths, 1 / self.lengths, np.zeros_like(self.lengths)
        if k > self.largest_scale:
            raise OutOfDomain(
                f"score_scale = {k:g} is above {self.largest_scale:.4g}: for dim = {self.dim} the "
                f"softmax would be needed at scales k |x_q| above {LARGEST_SCALE:g}, where its "
                f"quadrature loses accuracy. Use a smaller score_scale."
            )
        low, high = (math.log(k * r) / self._step for r in self._window)
        points = range(math.ceil(low), math.floor(high) + 1)
        weight_sum, difference = np.stack([self._at(i) for i in points], axis=1)
        # r^d exp(-r^2/2) d(log r), with r = sqrt(d) z; the exponent is stationary at z = 1, so
        # that rounding does not grow with d.
        z = np.exp(self._step * np.array(points)) / (k * math.sqrt(self.dim))
        density = z * z * np.exp(self.dim * (np.log(z) - (z - 1) * (z + 1) / 2))
        density /= density.sum()  # E r^2 = d fixes the normalisation
        # Q - 1/n is of order r^2 at small r: with the constant taken out, the same window serves.
        base = 1 / self.lengths
        excess = weight_sum - base
        return base + (density / z**2) @ excess, density @ weight_sum, density @ difference

    def _at(self, i: int) -> np.ndarray:
        if i not in self._moments:
            g, g3, g22 = weight_moments(self.lengths, math.exp(i * self._step))
            self._moments[i] = np.stack([g, g3 - g22])
        return self._moments[i]


def _head_risk(k: Any, value: Any, noise: float, averages: tuple) -> np.ndarray:
    """Risk of one head in the base task; `averages` as returned by `_QueryAverages`.

    With a = k v: bias and variance of the prediction given x_q, by Gaussian integration by parts,
    summed so that no large terms cancel (the risk is of order 1/n).
    """
    weight, radial, cubic = averages
    a = k * value
    return (1 - a) ** 2 + a * (2 - a) * radial - 6 * a**2 * cubic + value**2 * (1 + noise) * weight


def _best_value(k: Any, noise: float, averages: tuple) -> tuple[np.ndarray, np.ndarray]:
    """The value that minimises `_head_risk` at this k, and the minimum, again without cancellation."""
    weight, radial, cubic = averages
    variance = (1 + noise) * weight - 6 * k**2 * cubic
    curvature = variance + k**2 * (1 - radial)
    return k * (1 - radial) / curvature, (variance + k**2 * radial * (1 - radial)) / curvature


def _one_head(arrays: TaskArrays, prompt_length: Any, score_scale: Any, value_scale: Any) -> Any:
    lengths = checked_lengths(prompt_length)
    if score_scale is None:
        if value_scale is not None:
            raise InvalidInput(
                "value_scale without score_scale does not fix the head; give both, or neither for "
                "the optimal head."
            )
        return _optimal_head(arrays, lengths).risk
    scales = finite(score_scale, "score_scale")
    if np.any(scales < 0):
        raise InvalidInput(
            f"score_scale = {scales.min():g} is negative; change the sign of both score_scale and "
            f"value_scale, which leaves the risk as it is."
        )
    values = np.nan if value_scale is None else finite(value_scale, "value_scale")
    lengths, scales, values = np.broadcast_arrays(lengths, scales, values)
    noise = arrays.noise_var / arrays.signal
    distinct, index = np.unique(lengths, return_inverse=True)
    index = index.reshape(lengths.shape)
    averages = _QueryAverages(arrays.dim, distinct)
    risk = np.empty(lengths.shape)
    for k in np.unique(scales):
        here = scales == k
        at = tuple(average[index[here]] for average in averages(float(k)))
        risk[here] = (
            _best_value(k, noise, at)[1]
            if value_scale is None
            else _head_risk(k, values[here], noise, at)
        )
    return _plain(arrays.signal * risk)


def _optimal_head(arrays: TaskArrays, lengths: np.ndarray) -> OptimalRisk:
    noise = arrays.noise_var / arrays.signal
    distinct, index = np.unique(lengths, return_inverse=True)
    # Short prompts need large scales and long prompts wide quadratures; together they would cost
    # the product. The groups are those whose transforms are shared anyway.
    groups = np.ceil(np.log(distinct) / 10)
    found = np.concatenate(
        [_search(arrays.dim, noise, distinct[groups == group]) for group in np.unique(groups)],
        axis=1,
    )
    risk, k, value = (_plain(row[index.reshape(lengths.shape)]) for row in found)
    return OptimalRisk(_plain(lengths), arrays.signal * risk, k, value)


def _search(dim: int, noise: float, lengths: np.ndarray) -> np.ndarray:
    """Rows risk, k and v of the best head at each length, in the base task."""
    averages = _QueryAverages(dim, lengths)

    def profile(log_k: float) -> np.ndarray:
        k = math.exp(log_k)
        return _best_value(k, noise, averages(k))[1]

    # The optimum tends to about k^2 = 1/(d + 2) in long prompts and lies above it in shorter ones.
    step = 0.15
    grid = [math.log(0.5 / math.sqrt(dim + 2)) + step * i for i in range(12)]
    table = [profile(x) for x in grid]
    while (
        np.any(np.argmin(table, axis=0)[lengths > 1] > len(grid) - 3)
        and math.exp(grid[-1] + step) < averages.largest_scale
    ):
        grid.append(grid[-1] + step)
        table.append(profile(grid[-1]))
    found = np.empty((3, lengths.size))
    for j, best in enumerate(np.argmin(table, axis=0)):
        if lengths[j] == 1:
            found[:, j] = 1.0, np.nan, 0.0
            continue
        bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
        result = optimize.minimize_scalar(
            lambda x, j=j: profile(x)[j], bounds=bounds, method="bounded", options={"xatol": 1e-8}
        )
        k = math.exp(result.x)
        value, risk = _best_value(k, noise, averages(k))
        found[:, j] = risk[j], k, value[j]
    return found


# -- closed forms --------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _closed_form(attention: Attention) -> Evaluator:
    """The derived risk as a function of n, v, d and noise_var, for signal tr(Sigma M) = 1."""
    return compile(finite_prompt_risk(_BASE, attention))


@lru_cache(maxsize=8)
def _closed_form_minimum(attention: Attention) -> tuple[Evaluator, Evaluator]:
    """Its minimum over v and the minimiser."""
    formula = optimal_finite_prompt_risk(_BASE, attention)
    assert formula.minimizer is not None
    value = Formula(
        f"best value scale, {formula.name}",
        formula.minimizer[v],
        validity=formula.validity,
        references=formula.references,
        steps=formula.steps,
    )
    return compile(formula), compile(value)


def _base(arrays: TaskArrays) -> dict[str, Any]:
    """Arguments of the base task: a task of signal R and noise variance s2 has R times the risk of
    signal 1 and noise variance s2 / R, exactly."""
    return {"d": arrays.dim, "noise_var": arrays.noise_var / arrays.signal}


def _closed_form_optimum(
    arrays: TaskArrays, attention: Attention, lengths: np.ndarray
) -> OptimalRisk:
    risk, value = (
        _plain(np.asarray(f(n=lengths, **_base(arrays)))) for f in _closed_form_minimum(attention)
    )
    score = 0.0 if isinstance(attention, SoftmaxAttention) else np.nan
    return OptimalRisk(
        _plain(lengths), arrays.signal * risk, _plain(np.full(lengths.shape, score)), value
    )


def _closed_form_lengths(attention: Attention, prompt_length: Any, score_scale: Any) -> np.ndarray:
    if isinstance(attention, LinearAttention):
        if score_scale is not None:
            raise InvalidInput(
                "linear attention has no score_scale: its scores are x_q' Sigma^{-1} x_i. Leave "
                "score_scale out; value_scale is its factor a."
            )
        return checked_lengths(prompt_length, 2 if attention.centered else 1)
    if score_scale is not None and np.any(finite(score_scale, "score_scale") != 0):
        raise InvalidInput(
            "the risk of two heads is exact here only in the limit of small opposite scores; leave "
            "score_scale out (or 0), or sample with numeric.monte_carlo_risk."
        )
    return checked_lengths(prompt_length, 2)


# -- arguments -----------------------------------------------------------------------------------


def _explicit_head(
    attention: Attention, score_scale: Any, value_scale: Any
) -> tuple[Attention, Any, Any]:
    """The attention without scores, and the scales; one scalar head is read off its scores."""
    if isinstance(attention, LinearAttention):
        return attention, score_scale, value_scale
    if not isinstance(attention, SoftmaxAttention):
        raise InvalidInput(
            f"attention has type {type(attention).__name__}; pass icl.SoftmaxAttention(heads=1) "
            f"or icl.LinearAttention()."
        )
    if attention.scores is None:
        return attention, score_scale, value_scale
    if attention.heads > 1 or not attention.has_scalar_scores:
        raise InvalidInput(
            "with scores given, the exact risk is implemented for one scalar head (a number as its "
            "score); sample other heads with numeric.monte_carlo_risk."
        )
    if score_scale is not None:
        raise InvalidInput("the attention has its score already; leave score_scale out.")
    if attention.values is not None and value_scale is not None:
        raise InvalidInput("the attention has its value already; leave value_scale out.")
    given = (attention.scores[0], *(attention.values or ()))
    if any(entry.free_symbols for entry in given):
        raise InvalidInput("the attention still contains symbols; numbers are needed here.")
    k, *value = (float(entry) for entry in given)
    if value:
        value_scale = value[0]
    # Reflecting x_i turns (k, v) into (-k, -v).
    if k < 0 and value_scale is not None:
        value_scale = -finite(value_scale, "value_scale")
    return SoftmaxAttention(heads=1), abs(k), value_scale


def _plain(array: Any) -> Any:
    """A float for a single number, else the array."""
    return float(array) if np.ndim(array) == 0 else array
