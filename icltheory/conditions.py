"""Conditions in one form: the variable alone on the left, and a number on the right, where it can be.

`1 - 2*t > 0` and `2*t < 1` both become `t < 1/2`. Exported: `isolated`, `condition_text`, `required`,
`sides`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.core.relational import Relational

from icltheory.errors import OutOfDomain

_NEAR = sp.Rational(1, 10**12)
_LONG = 100  # operations of an inequality that is left as it is
_TURNED = {sp.Gt: sp.Lt, sp.Lt: sp.Gt, sp.Ge: sp.Le, sp.Le: sp.Ge}


def isolated(condition: Any) -> Any:
    """The condition with every inequality of the form `number + factor * term` solved for its term.

    A power of one symbol is solved for the symbol if its sign is known, else for an even power.
    What has another form stays as it is; what is true or false by the signs of its symbols says so.

    >>> from icltheory.symbols import b, d, g, t
    >>> isolated(1 - 2 * t > 0), isolated(2 * g**2 < 1)
    (t < 1/2, g < sqrt(2)/2)
    >>> isolated(1 - 2 / b**2 > 0), isolated(1 - 2 / sp.sqrt(d) > 0)
    (b**2 > 2, d > 4)
    """
    condition = sp.sympify(condition)
    if isinstance(condition, (sp.And, sp.Or)):
        return condition.func(*map(isolated, condition.args))
    if type(condition) in _TURNED and condition.count_ops() < _LONG:
        return _solved(condition)
    return condition


def required(condition: Any, what: str, instead: str) -> Any:
    """The condition, which numbers must meet: `OutOfDomain` says `what` fails and what to pass.

    >>> x = sp.Symbol("x")
    >>> required(x > 2, "", ""), required(sp.Integer(3) > 2, "", "")
    (x > 2, True)
    """
    if condition == sp.false:
        raise OutOfDomain(f"{what}; {instead}.")
    return condition


def condition_text(condition: Any) -> str:
    """A condition in words and signs.

    >>> x, y = sp.symbols("x y")
    >>> condition_text(sp.And(x < 1, sp.Ne(y, 0)))
    'x < 1 and y != 0'
    """
    if isinstance(condition, (sp.And, sp.Or)):
        word = " and " if isinstance(condition, sp.And) else " or "
        parts = sorted(condition.args, key=sp.default_sort_key)
        return word.join(_bracketed(part) for part in parts)
    if isinstance(condition, (sp.Eq, sp.Ne)):
        sign = "=" if isinstance(condition, sp.Eq) else "!="
        return f"{condition.lhs} {sign} {condition.rhs}"
    return str(condition)


def sides(condition: Any, variable: Any, point: Any) -> list[int]:
    """The sides of a point, 1 above and -1 below, next to which the condition may hold.

    Those count that the sign of the variable allows; an infinite point has one.

    >>> from icltheory.symbols import t
    >>> sides(t < 1, t, sp.S.One), sides(t < 1, t, sp.Integer(2)), sides(t < 1, t, sp.oo)
    ([-1], [], [])
    >>> sides(t < 1, t, sp.S.Zero), sides(t < 1, t, sp.S.Half)
    ([1], [1, -1])
    """
    if point.is_infinite:
        places = {-1 if point.is_positive else 1: sp.sign(point) / _NEAR}
    else:
        places = {1: point + _NEAR, -1: point - _NEAR}
    return [
        side
        for side, place in places.items()
        if not (place.is_negative and variable.is_nonnegative)
        and _beside(condition, variable, point, place) != sp.false
    ]


def _beside(condition: Any, variable: Any, point: Any, place: Any) -> Any:
    """The condition next to a point: a relation whose sides differ there at the point itself."""
    decided = {}
    for relation in condition.atoms(Relational):
        difference = relation.lhs - relation.rhs
        gap = sp.expand(difference.subs(variable, point))
        if gap.is_zero or gap.has(sp.nan, sp.zoo, sp.oo, -sp.oo):
            gap = sp.expand(difference.subs(variable, place))
        complex_gap = gap.is_extended_real is False
        decided[relation] = sp.false if complex_gap else relation.func(gap, 0)
    return condition.xreplace(decided)


def _bracketed(part: Any) -> str:
    text = condition_text(part)
    return f"({text})" if isinstance(part, (sp.And, sp.Or)) else text


def _solved(relation: Any) -> Any:
    gap = sp.expand(relation.lhs - relation.rhs)
    number, rest = gap.as_independent(*gap.free_symbols, as_Add=True)
    factor, term = rest.as_coeff_Mul()
    if term.is_Add or not term.free_symbols or not number.is_number:
        return relation
    sign = type(relation) if factor.is_positive else _TURNED[type(relation)]
    bound = -number / factor
    base, power = term.as_base_exp()
    if not (base.is_Symbol and power.is_Rational and bound.is_positive):
        return sign(term, bound)
    if power.is_negative and (base.is_nonnegative or power.is_even):
        sign, bound, power = _TURNED[sign], 1 / bound, -power
    if base.is_nonnegative:
        return sign(base, bound ** (1 / power))
    return sign(base**power, bound)
