"""Loss constants and their optima, and risks at finite n: softmax heads and linear attention.

The public functions: they refuse what has no answer, and hand a task with local examples to
`icltheory.local`, a layer that reads features to `icltheory.prior`, all others to
`icltheory.standard_risk`. The problem is that of Cui et al. (arXiv 2401.17426); the closed forms are
derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from icltheory import local, prior
from icltheory.attention import (
    OPTIONS,
    Attention,
    SoftmaxAttention,
    on_specifications,
)
from icltheory.errors import InvalidInput
from icltheory.formula import Formula
from icltheory.standard_risk import (
    at_best_value,
    standard_constant,
    standard_optimum,
    standard_risk,
)
from icltheory.task import LinearRegression


def head_constant(
    task: LinearRegression, score_matrices: Sequence[Any], values: Sequence[Any]
) -> Formula:
    """lim n * risk of any consistent softmax heads with scores x_q'A_h x_i and values v_h.

    Parameters
    ----------
    score_matrices: one entry a head: a d x d matrix A_h, or a number k_h meaning k_h Sigma^{-1}.
    values: one number a head, with sum_h v_h A_h = Sigma^{-1} (up to rounding, for floats).

    Exact: floats are read as decimals and the result is an expression. It is finite iff
    Sigma^{1/2} A_h Sigma A_h' Sigma^{1/2} has eigenvalues below 1/2 for every head; else
    `OutOfDomain`. Inconsistent heads have no constant: `InvalidInput` with the limiting risk, which
    `head_floor` derives. Source: derived here (delta method and exponential tilting).

    >>> task = LinearRegression(dim=5)
    >>> float(head_constant(task, [0.35], [1 / 0.35])).__round__(4)
    19.1556
    """
    return loss_constant(task, SoftmaxAttention(scores=score_matrices, values=values))


@on_specifications(supports=OPTIONS)
def loss_constant(task: LinearRegression, attention: Attention) -> Formula:
    """lim n * risk on the consistent manifold, as a Formula in (d, noise_var, t), scores k = sqrt(t).

    One head: A = k Sigma^{-1}, v = 1/k. Two heads: the symmetric pair +-k with values +-1/(2k).
    Linear attention: no t. An attention with explicit scores and values is evaluated as it is.
    Holds for 0 < t < 1/2. More heads without scores have no canonical family: `InvalidInput`.
    Prior knowledge and local examples are in `icltheory.prior` and `icltheory.local`; the query
    token inside the softmax changes no constant.
    Source: arXiv 2401.17426 (the question); derived here.

    >>> from icltheory.symbols import d, noise_var
    >>> loss_constant(LinearRegression(dim=d, noise_var=noise_var), SoftmaxAttention(heads=1)).expr
    (1/(1 - 2*t) + (noise_var + 1)/t)/(1 - 2*t)**(d/2)
    """
    if (scenario := _scenario(task, attention)) is not None:
        return scenario.loss_constant(task, attention)
    return standard_constant(task, attention)


@on_specifications(supports=OPTIONS)
def optimal_loss_constant(task: LinearRegression, attention: Attention) -> Formula:
    """Infimum of lim n * risk over scores and values, for any number of heads.

    One head: attained at a finite t, `minimizer[t]`. Two or more heads: approached by small
    opposite scores, never attained. Linear attention: attained at the consistent matrix. Prior
    knowledge and local examples as in `loss_constant`.
    Source: arXiv 2401.17426 (the question); derived here.

    >>> from icltheory.symbols import t
    >>> best = optimal_loss_constant(LinearRegression(dim=5), SoftmaxAttention(heads=1))
    >>> round(float(best), 4), round(float(best.minimizer[t]), 5)
    (19.1555, 0.12285)
    >>> best = optimal_loss_constant(LinearRegression(dim=5), SoftmaxAttention(heads=2))
    >>> best.expr, best.attained
    (6, False)
    """
    if isinstance(attention, SoftmaxAttention) and attention.scores is not None:
        raise InvalidInput(
            "the scores are given, nothing is left to optimise; use icl.loss_constant, or leave "
            "the scores out."
        )
    if (scenario := _scenario(task, attention)) is not None:
        return scenario.optimal_loss_constant(task, attention)
    return standard_optimum(task, attention)


@on_specifications(supports=("coef_mean", "local", "skip", "feature_values"))
def finite_prompt_risk(task: LinearRegression, attention: Attention) -> Formula:
    """Exact risk at every prompt length n, as a Formula in n and the value scale v.

    Linear attention: prediction (v/n) sum_i y_i x_i' Sigma^{-1} x_q; centred, the same with the
    prompt means removed and n - 1. Two or more softmax heads: the limit of small opposite scores
    with sum_h v_h k_h = v, which is the centred layer with v (n-1)/n. What else is free is at its
    best: on local examples sum_h v_h, with a prior mean the skip path and the values that read
    features. One softmax head has no closed form: use `numeric.exact_risk`. Source: derived here.

    >>> from icltheory.attention import LinearAttention
    >>> finite_prompt_risk(LinearRegression(dim=5), LinearAttention()).expr
    (v - 1)**2 + 6*v**2/n
    """
    if (scenario := _scenario(task, attention)) is not None:
        return scenario.finite_prompt_risk(task, attention)
    return standard_risk(task, attention)


@on_specifications(supports=("coef_mean", "local", "skip", "feature_values"))
def optimal_finite_prompt_risk(task: LinearRegression, attention: Attention) -> Formula:
    """Minimum over v of `finite_prompt_risk`; the minimiser is `minimizer[v]`.

    For heads this is a limit, of small opposite scores: best to order 1/n, not attained, and not
    the smallest risk of heads in prompts as short as d.
    Source: arXiv 2401.17426 (the question); derived here.

    >>> from icltheory.attention import LinearAttention
    >>> optimal_finite_prompt_risk(LinearRegression(dim=5), LinearAttention()).expr
    6/(n + 6)
    """
    return at_best_value(finite_prompt_risk(task, attention), attention)


def _scenario(task: LinearRegression, attention: Attention) -> Any:
    """The module of local examples or of prior knowledge where it has the answer, else None.

    Values that read labels only see a prior mean through E theta theta', which is in every formula
    here already.
    """
    explicit = isinstance(attention, SoftmaxAttention) and attention.scores is not None
    if {"skip", "feature_values"} & set(attention.options):
        return prior
    return local if task.local is not None and not explicit else None
