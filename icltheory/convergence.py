"""Where the gradient flow of A and b ends, and how fast: limits, growth and convergence rates.

With u = v = 0, half the risk is R = tr(Sigma_q M S M')/2, M' = b Sigma A - I. Its zeros are
b Sigma A = I, and b^2 - |A|_F^2 is conserved, which fixes the scale of the limit. The start must
lead there: either the risk starts below its value at zero, or all diagonal entries of A in a
common eigenbasis have the sign of b.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.commuting import A_EIGENVALUE
from icltheory.errors import InvalidInput
from icltheory.flow import commuting_flow, query_matrix
from icltheory.formula import BOURSIER, DERIVED_HERE, Formula, Step
from icltheory.matrices import Square
from icltheory.symbols import a0, b0, level
from icltheory.symbols import b as B
from icltheory.task import LinearRegression
from icltheory.trajectories import ClosedForm, closed_form, normal_form

_SOURCES = (
    BOURSIER.at("the limit of the balanced start; general starts derived here"),
    DERIVED_HERE,
)


def limit_point(
    task: LinearRegression, initial: Mapping[str, Any], query_cov: Any = None
) -> dict[str, Formula]:
    """Limit {"A", "b"} of the flow of A and b (infinite prompt) from `initial` = {"A": .., "b": ..}.

    `initial["A"]` is a number (times I), d eigenvalues, or d x d; numbers or expressions. The
    coefficients must have a positive definite covariance. Covered starts:

    - the risk at the start is below tr(Sigma_q S), its value at A = 0 or b = 0 (any task);
    - all covariances commute, b > 0 and A + A' is positive semi-definite, or both reversed in sign;
      for diagonal covariances the diagonal of A decides (the case of arXiv 2512.11784 and
      arXiv 2306.09927, Theorem 4);
    - isotropic covariances and A = a I: every start with b + sqrt(d) a != 0.

    Others raise `InvalidInput`: they may end at the saddle; integrate them. Symbolic starts of the
    isotropic case carry their condition as validity.

    >>> end = limit_point(LinearRegression(dim=2, feature_cov=[1, 2]), {"A": 1, "b": sp.sqrt(2)})
    >>> end["b"].expr, end["A"].expr[1, 1]
    (sqrt(2)*5**(1/4)/2, sqrt(2)*5**(3/4)/10)
    """
    if not isinstance(initial, Mapping) or set(initial) != {"A", "b"}:
        raise InvalidInput(f'initial = {initial!r} must have the keys "A" and "b".')
    scores = Square.coerce(initial["A"], task.dim, "A").reduced()
    value = checks.scalar(initial["b"], "b")
    query = query_matrix(task, query_cov, definite=True) or task.feature_cov
    definite = sp.S(task.coef_cov.positive_definite())
    if definite == sp.false:
        raise InvalidInput(
            "coef_cov is singular: directions without signal do not move and the limit depends on "
            "all of the start; integrate the flow."
        )
    condition, sign = _basin(task, query, scores, value)
    inverse = task.feature_cov.inverse()
    invariant = value**2 - (scores.T @ scores).trace()
    size = (inverse @ inverse).trace()
    square = sp.Symbol("b_squared", positive=True)
    # b Sigma A = I puts |A|^2 = tr Sigma^-2 / b^2 into b^2 - |A|^2 = invariant.
    equation = sp.Eq(square - size / square, invariant)
    root = balance_root(invariant, size)
    end = sign * sp.sqrt(root)
    scale = inverse * (1 / end)
    steps = (
        Step("zero risk and the conserved balance, for b_squared = b^2", equation),
        Step("positive root", sp.Eq(square, root)),
    )
    matrix = scale.scale * sp.Identity(task.dim) if scale.is_isotropic else scale.to_matrix()
    validity = sp.And(condition, definite, task.validity)
    return {
        "A": Formula("limit of A", matrix, validity, _SOURCES, steps),
        "b": Formula("limit of b", end, validity, _SOURCES, steps),
    }


def balance_root(invariant: sp.Expr, size: sp.Expr) -> sp.Expr:
    """The positive root x of x - size/x = invariant, for size > 0."""
    x, s, i = sp.symbols("x s i")
    c2, c1, c0 = sp.Poly(sp.expand(x * (x - i) - s), x).all_coeffs()
    # Opposite signs of c2 and c0: the larger root is positive, the other one negative.
    values = {s: size, i: invariant}
    square = sp.factor_terms((c1**2 - 4 * c2 * c0).subs(values))
    return (sp.sqrt(square) - c1.subs(values)) / (2 * c2)


def _basin(
    task: LinearRegression, query: Square, scores: Square, value: sp.Expr
) -> tuple[sp.Basic, Any]:
    """Condition under which the start leads to zero risk, and the sign of b there."""
    isotropic = task.is_isotropic and query.is_isotropic and scores.is_isotropic
    if isotropic:
        growing = value + sp.sqrt(task.dim) * scores.scale
        if growing.is_zero:
            raise InvalidInput(
                "b + sqrt(d) a = 0: the start lies on the stable manifold of the saddle "
                "A = 0, b = 0 and ends there."
            )
        return sp.Ne(growing, 0), sp.sign(growing)
    if scores.free_symbols() or value.free_symbols:
        raise InvalidInput("symbolic starts are covered for isotropic tasks with A = a I only.")
    if _below_zero(task, query, scores, value):
        return sp.true, sp.sign(value)
    for sign in (1, -1):
        entries = _signed_parts(task, query, scores * sign)
        # b = 0 is left at once by b' > 0 when A is not zero on the diagonal.
        if entries and sign * value >= 0 and (value != 0 or scores.trace() != 0):
            return sp.true, sp.Integer(sign)
    raise InvalidInput(
        "the start is not covered: its risk is at least that of A = 0, b = 0, and A has no "
        "eigenbasis diagonal of the sign of b; it may end at the saddle. Use numeric.integrate."
    )


def _below_zero(task: LinearRegression, query: Square, scores: Square, value: sp.Expr) -> bool:
    """Whether the start's risk is below tr(Sigma_q S): the risk then stays below, and b away from 0."""
    if any(m.free_symbols() for m in (task.feature_cov, task.coef_cov, query)):
        return False
    error = task.feature_cov @ scores * value - Square.identity(1, task.dim)
    risk = (task.coef_cov @ error @ query @ error.T).trace()
    return bool(risk < (query @ task.coef_cov).trace())


def _signed_parts(task: LinearRegression, query: Square, scores: Square) -> bool:
    """Whether the covariances commute and A has a non-negative diagonal in a common eigenbasis.

    Decided without eigenvectors: for diagonal covariances by the diagonal itself, else by
    x'Ax >= 0 for every x, which is enough.
    """
    commuting_flow(task, query)  # raises if they do not commute
    covariances = (task.feature_cov, task.coef_cov, query)
    if all(_is_diagonal(m) for m in covariances):
        diagonal = [scores.scale] if scores.is_isotropic else scores.to_matrix().diagonal()
        return all(entry >= 0 for entry in diagonal)
    symmetric = scores + scores.T
    return all(e >= 0 for e in symmetric.elementary_symmetric())


def _is_diagonal(matrix: Square) -> bool:
    return matrix.is_isotropic or matrix.to_matrix().is_diagonal()


# -- rates -----------------------------------------------------------------------------------------


def convergence_rates(task: LinearRegression, query_cov: Any = None) -> dict[str, Formula]:
    """Growth, escape and convergence of the flow of A and b (infinite prompt, half the risk).

    Any task: "early", the rate at which a small start grows, |Sigma S Sigma_q|_F. Isotropic tasks
    with A = a0 I, b = b0, in the symbols a0 and b0, also

    - "escape_time": when a b reaches the fraction `level` of its limit, 0 < level < 1;
    - "local": slowest rate of the remaining error near the limit for a general matrix start (the
      risk decays twice as fast); "local_scale": the same within A = a I;
    - "global": risk(time) <= risk(0) exp(-global time) at all times, if the risk starts below its
      value at A = 0 (validity of the formula).

    Unequal eigenvalues: `numeric.flow_rates`. Not covered: finite prompts, singular coefficients.
    Source: derived here, after arXiv 2512.11784.

    >>> rates = convergence_rates(LinearRegression(dim=4, coef_cov=1))
    >>> rates["early"].expr, rates["local_scale"].subs(a0=0.1, b0=0.2).expr
    (2, 4)
    """
    return dict(_rates(task, query_matrix(task, query_cov, definite=True)))


@lru_cache(maxsize=128)
def _rates(task: LinearRegression, query_cov: Square | None) -> dict[str, Formula]:
    sigma, s = task.feature_cov, task.coef_cov
    query = sigma if query_cov is None else query_cov
    drive = sigma @ s @ query
    early = sp.sqrt(sp.factor((drive @ drive.T).trace()))
    square = Step(
        "squared norm of the drive D = Sigma S Sigma_q", sp.Eq(sp.Symbol("tr(D D')"), early**2)
    )
    out = {"early": Formula("early growth rate", early, task.validity, _SOURCES, (square,))}
    if not (task.is_isotropic and query.is_isotropic):
        return out
    flow = commuting_flow(task, query)
    _, stop, ratio, risk = normal_form(flow)
    form, invariant = closed_form(task, query), b0**2 - ratio * a0**2
    contraction = sp.factor(flow.decay / B**2)
    depth = (query @ s).trace() - risk.subs({A_EIGENVALUE: a0, B: b0}, simultaneous=True)
    # b |A|_F early >= b tr(A' Sigma S Sigma_q) >= depth/2 at all times bounds b from below.
    lowest = balance_root(invariant, (depth / (2 * early)) ** 2)
    entries = {
        "escape_time": ("time at which a b reaches a level", _escape_time(form, stop, ratio)),
        "local": ("local rate", contraction * balance_root(invariant, ratio / stop**2)),
        "local_scale": ("local rate within A = a I", form.growth.expr),
        "global": ("global rate of the risk", 2 * contraction * lowest),
    }
    validity = {
        "escape_time": sp.And(
            level < 1, stop * a0 * b0 < level, sp.Ne(b0 + sp.sqrt(ratio) * a0, 0)
        ),
        # depth is a multiple of x (2 - x) in x = stop a0 b0.
        "global": sp.And(a0 * b0 > 0, a0 * b0 < 2 / stop),
    }
    told = (
        Step("conserved Delta of the flow", sp.Eq(sp.Symbol("Delta"), invariant)),
        Step("limit p of the product a b", sp.Eq(sp.Symbol("p"), 1 / stop)),
        Step("contraction rate c of the error over b^2", sp.Eq(sp.Symbol("c"), contraction)),
    )
    for key, (name, expr) in entries.items():
        holds = sp.And(validity.get(key, sp.true), task.validity)
        names = sp.Dict({sp.Symbol("Delta"): invariant} if key == "escape_time" else {})
        steps = (
            *(told[:2] if key == "escape_time" else told),
            *(
                (Step("least value m of b^2", sp.Eq(sp.Symbol("m"), lowest)),)
                if key == "global"
                else ()
            ),
        )
        out[key] = Formula(name, expr, holds, _SOURCES, steps, abbreviations=names)
    return out


def _escape_time(form: ClosedForm, stop: sp.Expr, ratio: sp.Expr) -> sp.Expr:
    """The time at which 1 - stop a b is 1 - level.

    In z = (b + sqrt(r) a)^2, (z - z_-)/(z_+ - z) is an exponential of known rate, z_- <= 0 < z_+
    being the rest points, and a b = (z - (p m)^2/z)/(4 sqrt(r)) is solved for z.
    """
    root = sp.sqrt(ratio)
    invariant = b0**2 - ratio * a0**2
    upper, at_level = (
        balance_root(4 * root * share / stop, invariant**2) for share in (sp.S.One, level)
    )
    lower, start = invariant**2 / upper, (b0 + root * a0) ** 2
    moved = (at_level + lower) * (upper - start) / ((upper - at_level) * (start + lower))
    return sp.log(moved) / form.growth.expr
