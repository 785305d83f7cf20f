"""Exact risk at every prompt length of softmax heads and of linear attention, and the best scales.

One scalar head: given |x_q|, the bias and the variance of the prediction are the moments of softmax
weights of `numeric.prompt_moments`; the average over |x_q| ~ chi_d is a trapezoidal sum in its
logarithm. Several heads, a query token inside the softmax, and local examples: the quadratic forms
of `numeric.several_heads`. Linear attention and the pair of heads in the limit of small opposite
scores: the formulas that `icltheory.finite_prompt_risk` derives. The problem is that of Cui et al.
(arXiv 2401.17426); the exact risks are derived here. Exported: `exact_risk`, `optimal_risk`,
`OptimalRisk`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeGuard

import numpy as np

from icltheory.attention import Attention, LinearAttention, SoftmaxAttention
from icltheory.errors import InvalidInput
from icltheory.formula import Formula
from icltheory.risk import finite_prompt_risk, optimal_finite_prompt_risk
from icltheory.symbols import d, noise_var, v
from icltheory.task import LinearRegression, refuse_options
from numeric.arrays import TaskArrays, finite, task_arrays
from numeric.compile import Evaluator, compile
from numeric.decoding_display import Shown
from numeric.one_head import one_head_risk, optimal_head
from numeric.progress import progress_bar
from numeric.prompt_moments import checked_lengths
from numeric.scenarios import concerns, scenario_optimum, scenario_risk
from numeric.several_heads import Setting, best_head, best_pair, family_risk, given_heads_risk

_BASE = LinearRegression(dim=d, noise_var=noise_var)  # signal 1
# Prior means act through E theta theta' alone; local examples are those of `numeric.scenarios`, or
# of heads with given scores.
_TASKS = ("coef_mean",)


@dataclass(frozen=True, eq=False, repr=False)
class OptimalRisk(Shown):
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
    task: coefficients with a `coef_mean` count with their second moment; `local` examples need one
        head, or heads with scores and values.
    attention: `SoftmaxAttention(heads=1)` with score_scale k >= 0 (A = k Sigma^{-1}) and
        value_scale v; two heads with k > 0 and v, the pair of scores +-k and values +-v; two or
        more heads with score_scale 0 or None, the limit of small opposite scores, value_scale being
        sum_h v_h k_h; any number of scalar heads with scores and values inside the attention;
        `LinearAttention(...)` with value_scale a and no score_scale. `include_query=True` puts the
        query token into the softmax.
    prompt_length: integers n >= 1 (>= 2 for the centred layer and for opposite heads), up to 1e100.
    score_scale, value_scale: numbers that broadcast with prompt_length. Values that are not given,
        here or inside the attention, are the best ones for these scores; without any scales the
        result is that of `optimal_risk`.

    Returns a float, or an array of the broadcast shape. The relative error is below 1e-8; k may
    exceed 1/sqrt(2), where only the loss constant is infinite. Several heads and the query token
    are refused where scores above 60 would matter. Errors: `InvalidInput`, `OutOfDomain`. Source:
    derived here.

    >>> import icltheory as icl
    >>> task = icl.LinearRegression(dim=3, noise_var=0.3)
    >>> risk = exact_risk(task, icl.SoftmaxAttention(heads=1), 40, score_scale=0.45, value_scale=1.7)
    >>> round(risk, 9)
    0.272193563
    >>> heads = icl.SoftmaxAttention(scores=[0.35, -0.35])
    >>> round(exact_risk(icl.LinearRegression(dim=3, noise_var=0.4), heads, 15), 8)
    0.27000702
    >>> exact_risk(task, icl.LinearAttention(), [40, 100], value_scale=1).round(4)
    array([0.1225, 0.049 ])
    """
    _check_attention(attention)
    if _has_forms(attention):
        _refuse_scales(score_scale, value_scale)
        return given_heads(task, attention, prompt_length)[0]
    if concerns(task, attention):
        return scenario_risk(task, attention, prompt_length, score_scale, value_scale)
    if isinstance(attention, SoftmaxAttention) and attention.scores is not None:
        attention, score_scale, value_scale = _explicit_head(attention, score_scale, value_scale)
    if score_scale is None and value_scale is None:
        return optimal_risk(task, attention, prompt_length).risk
    arrays = task_arrays(task, _TASKS)
    if isinstance(attention, SoftmaxAttention):
        small = score_scale is None or bool(np.all(finite(score_scale, "score_scale") == 0))
        if attention.include_query or (attention.heads > 1 and not small):
            return _family(arrays, attention, prompt_length, score_scale, value_scale)
        if attention.heads == 1:
            return _one_head(arrays, prompt_length, score_scale, value_scale)
    elif score_scale is not None:
        raise InvalidInput(
            "linear attention has no score_scale: its scores are x_q' Sigma^{-1} x_i. Leave "
            "score_scale out; value_scale is its factor a."
        )
    lengths = _closed_form_lengths(attention, prompt_length)
    if value_scale is None:
        return _closed_form_optimum(arrays, attention, lengths).risk
    values = finite(value_scale, "value_scale")
    return arrays.signal * _closed_form(attention)(n=lengths, v=values, **_base(arrays))


def optimal_risk(
    task: LinearRegression,
    attention: Attention,
    prompt_length: Any,
    *,
    small_scores: bool = False,
) -> OptimalRisk:
    """Smallest risk of an attention layer at prompt length n, and the scales that attain it.

    Parameters
    ----------
    attention: `SoftmaxAttention(heads=1)` (over k and v), `LinearAttention(...)` (over a; its
        score_scale is NaN), or two or more heads: over the pair of scores +-k and values +-v, k of
        order n^{-1/2}. What further heads could add is of order log(n)/n^2 (`optimal_heads`).
        `include_query=True` puts the query token into the softmax; the best pair may then have
        score_scale 0, with value_scale as for small scores. Scores given inside the attention are
        refused.
    prompt_length: as in `exact_risk`. At n = 1 a softmax head has all its weight on the one token:
        its best value is 0 and its score_scale NaN.
    small_scores: of two or more heads the limit of small opposite scores instead, a closed form and
        the best to order 1/n: score_scale 0, and value_scale is sum_h v_h k_h.

    The scales of one head are those of the global minimum over k on a search interval that extends
    until the risk rises, with relative errors below 1e-6 (1e-5 for a pair) unless the noise drowns
    the signal (the risk is then flat in them); the risk's is below 1e-8. Ctrl-C in a search over several lengths
    raises `Interrupted` with those finished, in increasing order. Errors as in `exact_risk`.
    Source: derived here.

    >>> import icltheory as icl
    >>> task, pair = icl.LinearRegression(dim=5), icl.SoftmaxAttention(heads=2)
    >>> best = optimal_risk(task, icl.SoftmaxAttention(heads=1), [20, 100])
    >>> best.risk.round(6), best.score_scale.round(4), best.value_scale.round(4)
    (array([0.426647, 0.147873]), array([0.6488, 0.4288]), array([1.1368, 2.0586]))
    >>> best = optimal_risk(task, pair, 20)
    >>> round(best.risk, 6), round(best.score_scale, 4)
    (0.239674, 0.1295)
    >>> round(optimal_risk(task, pair, 20, small_scores=True).risk, 6)
    0.24
    """
    _check_attention(attention)
    softmax = isinstance(attention, SoftmaxAttention)
    if softmax and attention.scores is not None:
        raise InvalidInput(
            "the attention has its scores already; evaluate it with numeric.exact_risk, or leave "
            "the scores out."
        )
    if concerns(task, attention):
        return OptimalRisk(*scenario_optimum(task, attention, prompt_length))
    arrays = task_arrays(task, _TASKS)
    if softmax and not (small_scores and attention.heads > 1):
        return _optimal_family(arrays, attention, prompt_length)
    return _closed_form_optimum(arrays, attention, _closed_form_lengths(attention, prompt_length))


# -- quadratic forms -----------------------------------------------------------------------------


def _has_forms(attention: Attention) -> TypeGuard[SoftmaxAttention]:
    """Whether the scores are given, of more than one plain head."""
    if not isinstance(attention, SoftmaxAttention) or attention.scores is None:
        return False
    return attention.heads > 1 or attention.include_query


def given_heads(
    task: LinearRegression, attention: SoftmaxAttention, prompt_length: Any
) -> tuple[Any, np.ndarray]:
    """Risk of heads with scores inside, and their values (the best ones if not given), (.., H)."""
    scores, values = _numbers(attention)
    arrays = task_arrays(task, (*_TASKS, "local"))
    refuse_options(attention.options, ("include_query",) if task.local is None else ())
    setting = Setting.of(arrays, attention.include_query)
    lengths = checked_lengths(prompt_length)
    risk, best = np.empty(lengths.shape), np.empty((*lengths.shape, len(scores)))
    for index in np.ndindex(lengths.shape):
        n = float(lengths[index])
        risk[index], best[index] = given_heads_risk(setting, n, scores, values)
    return _plain(arrays.signal * risk), best


def _family(
    arrays: TaskArrays, attention: SoftmaxAttention, prompt_length: Any, score: Any, value: Any
) -> Any:
    """Risk of one head, or of opposite heads, whose moments are not those of `_one_head`."""
    signs = _signs(attention)
    if score is None:
        if attention.heads == 1:
            raise InvalidInput(_UNFIXED)
        score = 0.0
    scales = finite(score, "score_scale")
    _refuse_negative(scales)
    if attention.heads > 2 and np.any(scales != 0):
        raise InvalidInput(
            f"{attention.heads} heads have no canonical family; pass "
            f"icl.SoftmaxAttention(scores=..., values=...)."
        )
    values = np.nan if value is None else finite(value, "value_scale")
    lengths = checked_lengths(prompt_length, len(signs))
    lengths, scales, values = np.broadcast_arrays(lengths, scales, values)
    setting, risk = Setting.of(arrays, attention.include_query), np.empty(lengths.shape)
    for index in np.ndindex(lengths.shape):
        v = None if value is None else float(values[index])
        n, k = float(lengths[index]), float(scales[index])
        risk[index] = family_risk(setting, n, signs, k, v)[0]
    return _plain(arrays.signal * risk)


def _optimal_family(
    arrays: TaskArrays, attention: SoftmaxAttention, prompt_length: Any
) -> OptimalRisk:
    lengths = checked_lengths(prompt_length, len(_signs(attention)))
    setting = Setting.of(arrays, attention.include_query)
    if attention.heads == 1 and not attention.include_query:
        found = optimal_head(arrays.dim, setting.noise, lengths)
    else:
        found = _searched(attention, setting, lengths, arrays.signal)
    return _as_optimum(lengths, found, arrays.signal)


def _searched(
    attention: SoftmaxAttention, setting: Setting, lengths: np.ndarray, signal: float
) -> np.ndarray:
    """Rows risk, k and v of the base task at each length, by a search at every distinct one."""
    search = best_head if attention.heads == 1 else best_pair
    distinct, found = np.unique(lengths), []

    def finished() -> OptimalRisk | None:
        rows = np.array(found).T
        return _as_optimum(distinct[: len(found)], rows, signal) if found else None

    options = {"partial": finished, "unit": " lengths"}
    with progress_bar(distinct.size, 0, None, "best heads", **options) as bar:
        for n in distinct:
            found.append(search(setting, float(n)))
            bar.update()
    return np.array(found).T[:, np.searchsorted(distinct, lengths)]


def _as_optimum(lengths: np.ndarray, found: np.ndarray, signal: float) -> OptimalRisk:
    risk, k, value = (_plain(row) for row in found)
    return OptimalRisk(_plain(lengths), signal * risk, k, value)


def _signs(attention: SoftmaxAttention) -> tuple[int, ...]:
    return (1,) if attention.heads == 1 else (1, -1)


def _one_head(arrays: TaskArrays, prompt_length: Any, score_scale: Any, value_scale: Any) -> Any:
    if score_scale is None:
        raise InvalidInput(_UNFIXED)
    scales = finite(score_scale, "score_scale")
    _refuse_negative(scales)
    values = np.nan if value_scale is None else finite(value_scale, "value_scale")
    lengths, scales, values = np.broadcast_arrays(checked_lengths(prompt_length), scales, values)
    noise = arrays.noise_var / arrays.signal
    given = None if value_scale is None else values
    return _plain(arrays.signal * one_head_risk(arrays.dim, noise, lengths, scales, given))


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


def _closed_form_lengths(attention: Attention, prompt_length: Any) -> np.ndarray:
    plain = isinstance(attention, LinearAttention) and not attention.centered
    return checked_lengths(prompt_length, 1 if plain else 2)


# -- arguments -----------------------------------------------------------------------------------

_UNFIXED = (
    "value_scale without score_scale does not fix the head; give both, or neither for the optimal "
    "head."
)


def _check_attention(attention: Any) -> None:
    if not isinstance(attention, Attention):
        raise InvalidInput(
            f"attention has type {type(attention).__name__}; pass icl.SoftmaxAttention(heads=1) "
            f"or icl.LinearAttention()."
        )


def _refuse_negative(scales: np.ndarray) -> None:
    if np.any(scales < 0):
        raise InvalidInput(
            f"score_scale = {scales.min():g} is negative; change the sign of both score_scale and "
            f"value_scale, which leaves the risk as it is."
        )


def _refuse_scales(score_scale: Any, value_scale: Any) -> None:
    if score_scale is not None or value_scale is not None:
        raise InvalidInput(
            "the attention has its scores already; leave score_scale and value_scale out, its "
            "values stand beside its scores."
        )


def _explicit_head(
    attention: SoftmaxAttention, score_scale: Any, value_scale: Any
) -> tuple[SoftmaxAttention, Any, Any]:
    """One scalar head without its score, and its scales."""
    if score_scale is not None:
        raise InvalidInput("the attention has its score already; leave score_scale out.")
    if attention.values is not None and value_scale is not None:
        raise InvalidInput("the attention has its value already; leave value_scale out.")
    (k,), values = _numbers(attention)
    if values is not None:
        (value_scale,) = values
    # Reflecting x_i turns (k, v) into (-k, -v).
    if k < 0 and value_scale is not None:
        value_scale = -finite(value_scale, "value_scale")
    return SoftmaxAttention(heads=1), abs(k), value_scale


def _numbers(attention: SoftmaxAttention) -> tuple[list[float], list[float] | None]:
    """Scores and values inside an attention of scalar heads, as floats."""
    if not attention.has_scalar_scores:
        raise InvalidInput(
            "with scores given, the exact risk is implemented for scalar heads (a number as a "
            "score); for one matrix head use numeric.block_risk, or sample the heads with "
            "numeric.monte_carlo_risk."
        )
    assert attention.scores is not None
    given = (*attention.scores, *(attention.values or ()))
    if any(entry.free_symbols for entry in given):
        raise InvalidInput("the attention still contains symbols; numbers are needed here.")
    scores = [float(k) for k in attention.scores]
    return scores, None if attention.values is None else [float(v) for v in attention.values]


def _plain(array: Any) -> Any:
    """A float for a single number, else the array."""
    return float(array) if np.ndim(array) == 0 else array
