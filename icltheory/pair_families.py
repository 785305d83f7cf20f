"""Families of two heads that tend to the lower bound as their scores tend to 0, and how fast.

The question is that of Cui et al. (arXiv 2401.17426); everything is derived here. Exported:
`pair_constant`, `small_score_expansion`, `FAMILIES`.
"""

from __future__ import annotations

import sympy as sp

from icltheory import checks
from icltheory.attention import SoftmaxAttention
from icltheory.constant_algebra import distribute
from icltheory.embedding import block_constant
from icltheory.errors import InvalidInput
from icltheory.formula import Formula
from icltheory.heads import require_task
from icltheory.risk import loss_constant
from icltheory.symbols import t
from icltheory.task import LinearRegression

FAMILIES = ("symmetric", "one-sided", "block")


def pair_constant(task: LinearRegression, family: str = "symmetric") -> Formula:
    """Loss constant of a family of two heads that tends to the lower bound as t = k^2 -> 0.

    `family`: "symmetric", scores +-k and values +-1/(2k); "one-sided", scores k and 0 with values
    +-1/k; "block", scores k and -k on the two halves of the coordinates with values +-1/k. The
    first converges with t^2, the others with t (`small_score_expansion`). The last two need Sigma
    and M to be multiples of the identity. Source: derived here.

    >>> from icltheory.symbols import d
    >>> formula = pair_constant(LinearRegression(dim=d), "one-sided")
    >>> sp.factor(small_score_expansion(formula, 1).expr.coeff(t, 1))
    (d + 2)**2/2
    """
    if family == "symmetric":
        return loss_constant(task, SoftmaxAttention(heads=2))
    if family == "one-sided":
        require_task(task)
        return block_constant(task, [task.dim], zero_head=True)
    if family == "block":
        require_task(task)
        return block_constant(task, [task.dim / 2, task.dim / 2], [1, -1])
    raise InvalidInput(f"family = {family!r} is not one of {', '.join(FAMILIES)}.")


def small_score_expansion(formula: Formula, order: int = 1) -> Formula:
    """Taylor polynomial in t of a loss constant that stays finite as t -> 0, also of explicit heads in k.

    `formula`: of `loss_constant`, say. `order`: highest power of t. `InvalidInput` if the constant is
    infinite at t = 0 (heads whose values do not add up to 0).
    Source: arXiv 2401.17426 (the question); derived here.

    >>> from icltheory.symbols import d, noise_var
    >>> task = LinearRegression(dim=d, noise_var=noise_var)
    >>> small_score_expansion(pair_constant(task), 0).expr
    d*noise_var + d + 1
    """
    order = checks.integer(order, "order", 0, "1")
    if not isinstance(formula, Formula):
        raise InvalidInput(
            f"formula has type {type(formula).__name__}; pass a loss constant, e.g. "
            f"icl.pair_constant(task)."
        )
    times_t = sp.Add(*map(_times_t, sp.Add.make_args(distribute(formula.expr))))
    if sp.expand(times_t.subs(t, 0)) != 0:
        raise InvalidInput(
            f"'{formula.name}' is infinite at t = 0: the values do not add up to 0, so the mean label "
            f"enters. Only families with sum v_h = 0 have this expansion."
        )
    terms = []
    for power in range(order + 1):
        times_t = sp.diff(times_t, t)
        terms.append(sp.factor(times_t.subs(t, 0)) / sp.factorial(power + 1) * t**power)
    return Formula(
        f"{formula.name}, to order t^{order}",
        sp.Add(*terms),
        validity=formula.validity,
        references=formula.references,
        steps=formula.steps,
    )


def _times_t(term: sp.Expr) -> sp.Expr:
    """t times a term of a constant, whose rational part may hide its pole at t = 0."""
    powers = sp.Mul(*(x for x in sp.Mul.make_args(term) if not x.is_rational_function(t)))
    return powers * sp.cancel(t * term / powers)
