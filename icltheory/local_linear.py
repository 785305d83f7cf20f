"""Linear attention on local examples, x_i | x_q ~ N(rho x_q, tau^2 Sigma), centred or not.

The centred part of a prompt is a prompt of another noise; the uncentred layer is a mean of terms
that are independent given the query, and not consistent. The question is that of Cui et al. (arXiv
2401.17426); everything is derived here.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from icltheory.attention import LinearAttention
from icltheory.errors import InvalidInput
from icltheory.formula import CUI, DERIVED_HERE, Formula, Step
from icltheory.laws.gaussian import isotropic_expectation, wick_moment
from icltheory.standard_risk import standard_constant
from icltheory.symbols import n, v
from icltheory.task import LinearRegression

_SOURCES = (CUI.at("the scenario; the closed form is derived here"), DERIVED_HERE)


def shift_of(task: LinearRegression) -> tuple[sp.Expr, sp.Expr]:
    """(rho, tau); (0, 1) for examples independent of the query."""
    return task.local or (sp.S.Zero, sp.S.One)


def centred_task(task: LinearRegression) -> LinearRegression:
    """What the centred part of a prompt is: features of scale tau, so noise of variance
    noise_var/tau^2 at features of covariance Sigma, and scores tau^2 as large."""
    noise = task.noise_var / shift_of(task)[1] ** 2
    moment = task.coef_moment
    return task.replaced(local=None, noise_var=noise, coef_cov=moment, coef_mean=None)


def linear_constant(task: LinearRegression, attention: LinearAttention) -> Formula:
    rho, tau = shift_of(task)
    if rho != 0 and not attention.centered:
        floor = linear_limit(task, attention).subs(v, consistent_scale(task, attention))
        raise InvalidInput(
            f"uncentred linear attention has no 1/n constant on local examples: its prediction is "
            f"not linear in the query, and its risk tends to {sp.N(floor, 6)} at best. Use "
            f"LinearAttention(centered=True), or icl.finite_prompt_risk."
        )
    base = standard_constant(centred_task(task), attention)
    return Formula(
        f"loss constant, {attention.description}, local examples",
        base.expr,
        validity=base.validity,
        references=_SOURCES,
        steps=base.steps,
        minimizer=sp.Dict({v: 1 / tau**2}),
        attained=True,
    )


@lru_cache(maxsize=1)
def _one_term() -> tuple[sp.Expr, sp.Expr, tuple[sp.Symbol, ...]]:
    """Mean and mean square of y_i x_i'Sigma^{-1} x_q given theta and the query.

    In r2 = x_q'Sigma^{-1} x_q, w = theta.x_q, T = theta'Sigma theta, the noise, rho and tau.
    """
    score, signal, noise = sp.symbols("score signal noise", real=True)
    r2, w, size, noise_var, rho, tau = sp.symbols("r2 w T noise_var rho tau")
    term = (rho * r2 + tau * score) * (rho * w + tau * signal + noise)
    cov = [[r2, w, 0], [w, size, 0], [0, 0, noise_var]]
    forms = [score, signal, noise]
    mean, square = (wick_moment(sp.expand(x), forms, [0, 0, 0], cov) for x in (term, term**2))
    return mean, square, (r2, w, size, noise_var, rho, tau)


def _uncentred(task: LinearRegression, count: sp.Expr | None) -> sp.Expr:
    """Risk of f = (v/n) sum_i y_i x_i'Sigma^{-1} x_q with n = `count`; None is its limit."""
    mean, square, (r2, w, size, noise_var, rho, tau) = _one_term()
    expr = (v * mean - w) ** 2
    if count is not None:
        expr += v**2 * (square - mean**2) / count
    poly = sp.Poly(sp.expand(expr), w, size)
    # Over theta: T -> R, and w^2 -> R r2/d under the average over directions of the query.
    table = {(0, 0): sp.S.One, (0, 1): task.signal, (2, 0): task.signal * r2 / task.dim}
    averaged = sp.Add(*(c * table[powers] for powers, c in poly.terms()))
    local = dict(zip((rho, tau), shift_of(task), strict=True))
    averaged = sp.expand(averaged.subs({noise_var: task.noise_var, **local}, simultaneous=True))
    return sp.expand(isotropic_expectation(averaged, r2, dim=task.dim).expr)


def uncentred_risk(task: LinearRegression, attention: LinearAttention) -> Formula:
    mean, square, _ = _one_term()
    limit = linear_limit(task, attention)
    variance = sp.factor(sp.expand(n * (_uncentred(task, n) - limit)))
    return Formula(
        f"exact risk, {attention.description}, local examples",
        sp.collect(limit, v, sp.factor) + variance / n,
        validity=task.validity,
        references=_SOURCES,
        steps=(
            Step("mean of one term given theta and the query", sp.Eq(sp.Symbol("m_1"), mean)),
            Step("mean square of one term", sp.Eq(sp.Symbol("m_2"), square)),
        ),
    )


def linear_limit(task: LinearRegression, attention: LinearAttention) -> sp.Expr:
    if attention.centered:
        return task.signal * (v * shift_of(task)[1] ** 2 - 1) ** 2
    return _uncentred(task, None)


def consistent_scale(task: LinearRegression, attention: LinearAttention) -> sp.Expr:
    """The scale at which the limit of the risk is smallest."""
    (best,) = sp.solve(sp.diff(linear_limit(task, attention), v), v)
    return sp.factor(best)
