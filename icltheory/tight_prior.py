"""A prior that tightens with the prompt: Cov(theta) = Lambda/n around a known mean theta_0.

Then reading theta - theta_0 from the context gains as much as the noise costs, and the part that is
read is a parameter, `share`; the prior alone competes with attention. Follows from the superposition
of `prior`. The scenario is that of Cui et al. (arXiv 2401.17426), the results are derived here.
"""

from __future__ import annotations

import sympy as sp

from icltheory import risk
from icltheory.attention import Attention, LinearAttention, SoftmaxAttention, on_specifications
from icltheory.errors import InvalidInput
from icltheory.formula import Formula, Step
from icltheory.limit import limit_risk
from icltheory.prior import PAIR, READINGS, SOURCES, largest_root, reading_bound, spread
from icltheory.symbols import k, share, t
from icltheory.task import LinearRegression


@on_specifications(supports=READINGS)
def tight_prior_constant(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """lim n * risk when the prior tightens like 1/n: Cov(theta) = `task.coef_cov`/n around coef_mean.

    A Formula in t and `share`, the part a of theta - theta_0 that the heads read: one head has
    v = a/k, the symmetric pair v = +-a/(2k). Values that read features have u = (1 - a)/k theta_0
    (or +-(1 - a)/(2k) theta_0), a skip path alone is (1 - a) theta_0, both together leave theta_0
    out; without either the share is 1. Holds for 0 < t < 1/2. The prior alone has the constant
    tr(Sigma coef_cov). Source: derived here.

    >>> task = LinearRegression(dim=3, noise_var=0.3, coef_cov=2, coef_mean=[1, 0, 0])
    >>> constant = tight_prior_constant(task, SoftmaxAttention(heads=1, feature_values=True))
    >>> round(float(constant.subs(t=0.16426, share=0.64383)), 7)
    15.9077483
    """
    _no_scores(attention)
    noise = sp.Dummy("noise", nonnegative=True)
    constant = risk.loss_constant(
        LinearRegression(dim=task.dim, noise_var=noise), SoftmaxAttention(heads=attention.heads)
    )
    expr, steps = _tight(task, attention, constant.expr, noise)
    return Formula(
        f"loss constant under a tight prior, {attention.description}",
        expr,
        validity=sp.And(t < sp.S.Half, task.validity),
        references=SOURCES,
        steps=steps,
    )


@on_specifications(supports=READINGS)
def optimal_tight_prior_constant(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """Minimum of `tight_prior_constant` over the share, which is `minimizer[share]`.

    Two or more heads: also over the scale, the limit t -> 0 of the symmetric pair (of the 2d + 2
    heads of `prior_heads` where there are as many), not attained. One head: a Formula in t, whose
    minimum over t is numeric (`numeric.optimal_tight_prior`). Source: derived here.

    >>> task = LinearRegression(dim=3, noise_var=0.3, coef_cov=2, coef_mean=[1, 0, 0])
    >>> optimal_tight_prior_constant(task, SoftmaxAttention(heads=2, feature_values=True)).expr
    110/23
    """
    _no_scores(attention)
    one = attention.heads == 1
    expr, steps, validity = _tight_over_t(task, attention)
    if not expr.has(share):
        return Formula(
            f"optimal loss constant under a tight prior, {attention.description}",
            expr,
            validity=validity,
            references=SOURCES,
            steps=steps,
            attained=one,
        )
    (best,) = sp.solve(sp.diff(expr, share), share)
    return Formula(
        f"optimal loss constant under a tight prior, {attention.description}",
        expr.subs(share, best) if one else sp.factor(sp.cancel(expr.subs(share, best))),
        validity=validity,
        references=SOURCES,
        steps=(*steps, Step("best share", sp.Eq(share, best))),
        minimizer=sp.Dict({share: best}),
        attained=one,
    )


@on_specifications(supports=READINGS)
def tight_prior_threshold(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """n tr(Sigma Cov(theta)) below which the prior alone beats several heads with small scores.

    The size of `task.coef_cov` does not enter. With a skip path the context always helps:
    `InvalidInput`. Source: derived here.

    >>> task = LinearRegression(dim=3, noise_var=0.3, coef_mean=[1, 0, 0])
    >>> float(tight_prior_threshold(task, SoftmaxAttention(heads=2, feature_values=True)))
    4.756809750418045
    """
    _no_scores(attention)
    if attention.heads == 1:
        raise InvalidInput(
            "the threshold of one head has no closed form; compare numeric.optimal_tight_prior "
            "with icl.prior_risk."
        )
    if "skip" in attention.options:
        raise InvalidInput("with a skip path the context always helps; there is no threshold.")
    size = sp.Dummy("lambda", positive=True)
    scaled = task.replaced(coef_cov=task.coef_cov * (size / spread(task)))
    best = optimal_tight_prior_constant(scaled, attention)
    return Formula(
        f"threshold of the tight prior, {attention.description}",
        largest_root(best.expr - size, size),
        validity=task.validity,
        references=SOURCES,
        steps=_named_size(best, size),
    )


def _named_size(best: Formula, size: sp.Symbol) -> tuple[Step, ...]:
    """The derivation of the threshold, where the size of the prior has a name."""
    shown = sp.Symbol("size", positive=True)
    steps = (*best.steps, Step("equal to the prior alone", sp.Eq(best.expr, size, evaluate=False)))
    return (
        Step("prior alone, size the n tr(Sigma Cov(theta))", sp.Eq(sp.Symbol("V"), shown)),
        *(Step(s.title, s.equation.xreplace({size: shown})) for s in steps),
    )


def _tight_over_t(
    task: LinearRegression, attention: SoftmaxAttention
) -> tuple[sp.Expr, tuple[Step, ...], sp.Basic]:
    """The constant as a function of the share: at given t for one head, as t -> 0 for several."""
    if attention.heads == 1:
        formula = tight_prior_constant(task, attention)
        return formula.expr, formula.steps, formula.validity
    noise = sp.Dummy("noise", nonnegative=True)
    unit = LinearRegression(dim=task.dim, noise_var=noise)
    infimum = risk.optimal_loss_constant(unit, PAIR).expr
    reads = "feature_values" in attention.options and "skip" not in attention.options
    many = reads and task.coef_mean is not None and attention.heads >= 2 * task.dim + 2
    known = reading_bound(task) if many else None
    expr, steps = _tight(task, attention, infimum, noise, known)
    return expr, steps, task.validity


def _tight(
    task: LinearRegression,
    attention: SoftmaxAttention,
    constant: sp.Expr,
    noise: sp.Symbol,
    known: sp.Expr | None = None,
) -> tuple[sp.Expr, tuple[Step, ...]]:
    """Superposition with Cov(theta) of order 1/n: the deviation counts by its limit, theta_0 and the
    noise by their 1/n constants, which are the parts of `constant` without and with the noise."""
    single = SoftmaxAttention(scores=[k], values=[share / k])
    missed = limit_risk(LinearRegression(dim=task.dim), single).expr
    bias, variance = constant.subs(noise, 0), sp.diff(constant, noise)
    known = task.mean_signal * bias if known is None else known
    options = set(attention.options)
    if "skip" in options:
        known = sp.S.Zero if "feature_values" in options else share**2 * known
    parts = (spread(task) * missed, known, share**2 * task.noise_var * variance)
    expr = sp.Add(*parts)
    if not options:
        expr = expr.subs(share, 1)
    steps = (
        Step("part V_1 of the deviation from the prior mean", sp.Eq(sp.Symbol("V_1"), parts[0])),
        Step("part V_0 of the prior mean", sp.Eq(sp.Symbol("V_0"), parts[1])),
        Step("part V_2 of the noise", sp.Eq(sp.Symbol("V_2"), parts[2])),
    )
    return expr, steps


def _no_scores(attention: Attention) -> None:
    if (
        isinstance(attention, LinearAttention)
        or attention.scores is not None
        or attention.heads < 1
    ):
        raise InvalidInput(
            "pass softmax heads without scores, e.g. "
            "icl.SoftmaxAttention(heads=2, feature_values=True); their scale is the symbol t."
        )
