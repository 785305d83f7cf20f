"""Stability ranges, optimal parameters and step counts of solvers, from their filters.

A contraction b(lam) falls from 1: it is stable while b(lam_max) > -1, and its parameter is optimal
on an interval where the ends have opposite values. Step counts are exact integers; the Formulas are
in the condition number of the interval. Source: derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.formula import DERIVED_HERE, FU, Formula, Step
from icltheory.symbols import accuracy as ACCURACY
from icltheory.symbols import condition, lam, lam_max

_RATE = sp.Symbol("rate", positive=True)
MOST_CERTIFIED = 200
_MOST_STEPS = 100_000
_DIGITS = 60  # decimal digits, so that no power is decided by rounding


# -- arguments -----------------------------------------------------------------------------------


def set_positive(owner: Any, name: str, example: str) -> None:
    """Make the field `name` of a frozen object an exact positive expression, or refuse it."""
    object.__setattr__(owner, name, checks.positive(getattr(owner, name), name, example))


def sequence(values: Any, name: str) -> list[Any]:
    """`values` as a list; `InvalidInput` for text and single numbers."""
    values = checks.plain(values)
    if not isinstance(values, (list, tuple, sp.Tuple)):
        raise InvalidInput(f"{name} = {values!r} is no sequence; pass numbers such as [1, 2].")
    return list(values)


def number_of_steps(value: Any) -> sp.Expr:
    """`value` as an integer >= 0 or an integer symbol."""
    if value is None:
        raise InvalidInput("the number of steps is missing; pass an integer >= 0 or a symbol.")
    expr = checks.scalar(value, "steps")
    unfit = expr.is_integer is False or expr.is_negative or (expr.is_number and not expr.is_Integer)
    if unfit:
        raise InvalidInput(f"steps = {value} is no number of steps; pass an integer >= 0.")
    return expr


def flow_time(value: Any) -> sp.Expr:
    """`value` as a time >= 0."""
    if value is None:
        raise InvalidInput("the time of the flow is missing; pass a number >= 0 or a symbol.")
    expr = checks.scalar(value, "steps")
    if expr.is_negative:
        raise InvalidInput(f"steps = {value}: the time of a flow is at least 0.")
    return expr


def interval(lower: Any, upper: Any) -> tuple[sp.Expr, sp.Expr]:
    """0 < lower <= upper, exact."""
    lower, upper = checks.positive(lower, "lower", "1"), checks.positive(upper, "upper", "10")
    if (upper - lower).is_negative:
        raise InvalidInput(f"lower = {lower} exceeds upper = {upper}; exchange them.")
    return lower, upper


def accuracy_below_one(value: Any) -> sp.Expr:
    """0 < accuracy < 1, exact."""
    expr = checks.positive(value, "accuracy", "1e-6")
    if (1 - expr).is_positive is False or (expr.is_number and not expr < 1):
        raise InvalidInput(
            f"accuracy = {value} needs no step, the residual starts at 1; pass 0 < accuracy < 1."
        )
    return expr


# -- conditions and optima -----------------------------------------------------------------------


def contraction_condition(contraction: sp.Expr) -> Any:
    """|contraction| < 1 on (0, lam_max] for one that falls from 1 at lam = 0."""
    reached = (1 - contraction).subs(lam, lam_max)
    return decided(sp.factor_terms(sp.expand(reached)) if reached.is_polynomial() else reached, 2)


def decided(left: sp.Expr, right: Any) -> Any:
    """left < right, as true or false where the signs of the symbols settle it."""
    gap = sp.factor(right - left)
    if gap.is_positive:
        return sp.true
    return sp.false if gap.is_nonpositive else sp.StrictLessThan(left, right)


def equalised(contraction: sp.Expr, parameter: sp.Expr, lower: Any, upper: Any) -> sp.Expr:
    """The parameter, which the contraction is linear in, with opposite values at both ends.

    A contraction that falls has its extrema there, and moving the parameter raises one of them.
    """
    ends = sp.expand(contraction.subs(lam, lower) + contraction.subs(lam, upper))
    return sp.factor(sp.cancel(-ends.coeff(parameter, 0) / ends.coeff(parameter, 1)))


def largest(contraction: sp.Expr, lower: Any, upper: Any) -> sp.Expr:
    """max |contraction| over the interval: it is monotone."""
    ends = [contraction.subs(lam, x) for x in (lower, upper)]
    if sp.cancel(sum(ends)) == 0:
        return sp.factor(sp.cancel(ends[0]))
    return sp.Max(*(sp.Abs(x) for x in ends))


def recursion_condition(first: sp.Expr, second: sp.Expr, step_size: sp.Expr) -> tuple[Any, Any]:
    """Left and right of the inequality that keeps both roots of z^2 = A z + B inside the unit circle.

    Jury's conditions 1 - B > |A|, B > -1 are affine in lam; those that fall with lam bound it.
    """
    bounds = []
    for value in (1 - first - second, 1 + first - second, 1 + second):
        line = sp.Poly(value, lam)
        if line.coeff_monomial(lam).is_negative:
            bounds.append(-line.coeff_monomial(1) / line.coeff_monomial(lam) * step_size)
    return step_size * lam_max, sp.Min(*(sp.factor(x) for x in bounds))


# -- exact numbers of steps ----------------------------------------------------------------------


def numbers_only(**values: Any) -> None:
    """Refuse symbols where integers are counted."""
    for name, value in values.items():
        if value.free_symbols:
            free = ", ".join(sorted(s.name for s in value.free_symbols))
            raise InvalidInput(
                f"{name} contains {free}; the number of steps needs numbers (steps_formula() is "
                f"for symbols)."
            )


def least_power(ratio: sp.Expr, accuracy: Any, description: str) -> int:
    """The least N with ratio^N <= accuracy, exact also where the logarithms are near an integer."""
    accuracy = accuracy_below_one(accuracy)
    numbers_only(parameters=ratio, accuracy=accuracy)
    if not ratio < 1:
        raise OutOfDomain(
            f"{description} does not converge: the largest |contraction| on the interval is "
            f"{ratio.evalf(6)}, it must be below 1. Use the parameters of optimal(lower, upper)."
        )
    if ratio == 0:
        return 1
    value = (sp.log(accuracy) / sp.log(ratio)).evalf(_DIGITS)
    nearest = int(value.round())
    if abs(value - nearest) > sp.Float(10) ** (-_DIGITS // 2):
        return int(sp.ceiling(value))
    return nearest if ratio**nearest <= accuracy else nearest + 1


def many_digits(value: sp.Expr) -> sp.Expr:
    """The number with so many digits that `at_most` is decided, or asks for the exact value."""
    return value.evalf(_DIGITS)


def at_most(value: sp.Expr, bound: sp.Expr, exact: Callable[[], sp.Expr]) -> bool:
    """value <= bound for a value with many digits; where they agree to half of these, exactly."""
    if abs(value - bound) > bound * sp.Float(10) ** (-_DIGITS // 2):
        return bool(value < bound)
    return bool(exact() <= bound)


def first(accept: Callable[[int, Any], bool], values: Iterable[Any]) -> int:
    """The first index with accept(index, value): residuals with memory need not fall at first."""
    for step, value in zip(range(_MOST_STEPS), values, strict=False):
        if accept(step, value):
            return step
    raise OutOfDomain(
        f"the accuracy is not reached after {_MOST_STEPS} steps ({MOST_CERTIFIED} with parameters "
        f"that are not optimal on the interval)."
    )


def stays_within(residual: sp.Poly, bound: sp.Expr, lower: sp.Expr, upper: sp.Expr) -> bool:
    """Whether |r| <= bound on [lower, upper], for a polynomial with rational coefficients: exact.

    bound - r and bound + r are >= 0 there iff they are at the ends and no root of odd multiplicity
    lies between; roots are counted by Sturm's theorem.
    """
    for sign in (1, -1):
        gap = sp.Poly(bound - sign * residual.as_expr(), lam, domain="QQ")
        if gap.eval(lower) < 0 or gap.eval(upper) < 0:
            return False
        for factor, multiplicity in gap.sqf_list()[1]:
            inside = factor.count_roots(lower, upper)
            inside -= sum(factor.eval(x) == 0 for x in {lower, upper})
            if multiplicity % 2 and inside:
                return False
    return True


# -- formulas in the condition number ------------------------------------------------------------


@lru_cache(maxsize=64)
def steps_formula(solver: Any, *, law: bool = False) -> Formula:
    """Steps to an accuracy with optimal parameters; with `law`, for a large condition number.

    The solver gives its rate of decay per step in the condition number and how steps follow from it.
    """
    rate, growth = solver._decay_rate(), solver._growth()
    steps = [Step("decay rate of the residual per step", sp.Eq(_RATE, rate))]
    if law:
        rate, growth = leading(rate), leading(growth)
        steps.append(Step("rate for a large condition number", sp.Eq(_RATE, rate)))
    expr = solver._steps_at_rate(rate, growth)
    kind = "for a large condition number" if law else "before rounding up"
    return Formula(
        f"steps of {solver.description} to an accuracy, {kind}",
        expr,
        validity=sp.And(condition > 1, ACCURACY < 1),
        references=(FU.at("convergence rates"), DERIVED_HERE),
        steps=(*steps, Step("steps T", sp.Eq(sp.Symbol("T"), expr))),
    )


def leading(expr: sp.Expr) -> sp.Expr:
    """The leading term, for a large condition number, of a rational function of its root, or its log.

    A rate is the log of what tends to 1, so that the log leads like the difference from 1.
    """
    value = expr.args[0] - 1 if isinstance(expr, sp.log) else expr
    small = sp.Symbol("x", positive=True)  # condition^(-1/2)
    rational = sp.cancel(value.subs(condition, small**-2))
    return rational.as_leading_term(small).subs(small, condition ** sp.Rational(-1, 2))


def contraction_rate(solver: Any) -> sp.Expr:
    """-log of the largest |contraction| on [1, condition] with optimal parameters."""
    best = solver.optimal(1, condition).contraction.subs(lam, 1)
    return sp.log(1 / sp.factor(sp.cancel(best)))
