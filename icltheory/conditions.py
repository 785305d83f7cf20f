"""Conditions in one form: the variable alone on the left, and a number on the right, where it can be.

`1 - 2*t > 0` and `2*t < 1` both become `t < 1/2`. Exported: `isolated`, `condition_text`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

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
