"""One place where arguments become exact SymPy objects, or are refused with a reason.

Floats become the rational number that their shortest decimal form denotes (0.1 becomes 1/10), so
that derivations stay exact. Text is never parsed: a string is refused. NumPy scalars, arrays and
torch tensors are read through `.tolist()`, so none of these packages is imported here.
"""

from collections.abc import Iterable
from typing import Any

import sympy as sp

from icltheory.errors import InvalidInput


def plain(value: Any) -> Any:
    """A NumPy scalar, array or torch tensor as Python numbers and nested lists; others unchanged."""
    if not isinstance(value, (sp.Basic, sp.MatrixBase)) and hasattr(value, "tolist"):
        return value.tolist()
    return value


def scalar(value: Any, name: str) -> sp.Expr:
    """`value` as an exact SymPy expression.

    Raises `InvalidInput` for text, booleans, NaN, infinities and anything that is not one number
    or scalar expression.
    """
    value = plain(value)
    if isinstance(value, (str, bytes, bool)) or value is None:
        raise InvalidInput(
            f"{name} = {value!r} is not a number or a SymPy expression; text is never parsed. "
            f"Pass a number, or build the expression with SymPy symbols."
        )
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise InvalidInput(f"{name} = {value!r} is not finite; pass a finite number.")
        return sp.Rational(repr(value))
    if isinstance(value, int):
        return sp.Integer(value)
    if isinstance(value, sp.Expr) and not value.is_Matrix:
        if value.has(sp.nan, sp.oo, sp.zoo, -sp.oo) or value.is_finite is False:
            raise InvalidInput(f"{name} = {value} is not finite; pass a finite expression.")
        if value.has(sp.Float):
            value = value.xreplace({x: sp.Rational(str(x)) for x in value.atoms(sp.Float)})
        if value.is_real is False:
            raise InvalidInput(f"{name} = {value} is not real; pass a real number or expression.")
        return value
    raise InvalidInput(f"{name} has type {type(value).__name__}; pass one number or expression.")


def integer(value: Any, name: str, minimum: int, example: str) -> int:
    """`value` as an int of at least `minimum`, no symbol; `example` shows a right value."""
    given = plain(value)
    given = int(given) if isinstance(given, sp.Integer) else given
    if isinstance(given, bool) or not isinstance(given, int) or given < minimum:
        raise InvalidInput(
            f"{name} = {value!r} is not an integer of at least {minimum}; pass for example "
            f"{name}={example}."
        )
    return given


def positive_integer(value: Any, name: str, example: str) -> sp.Expr:
    """`value` as a positive integer or a symbol that can be one; `example` shows a right value."""
    expr = scalar(value, name)
    good = (
        bool(expr.is_integer and expr.is_positive)
        if expr.is_number
        else not (expr.is_integer is False or expr.is_positive is False)
    )
    if not good:
        raise InvalidInput(
            f"{name} = {value} is not a positive integer; pass one such as {example}, "
            f"or a positive integer symbol."
        )
    return expr


def positive(value: Any, name: str, example: str = "1") -> sp.Expr:
    """`value` as an exact expression that can be positive; `example` shows a right value."""
    expr = scalar(value, name)
    if expr.is_positive is False or (expr.is_number and not expr.is_positive):
        raise InvalidInput(f"{name} = {value} is not positive; pass for example {name}={example}.")
    return expr


def nonnegative(value: Any, name: str) -> sp.Expr:
    """`value` as an exact expression that is not known to be negative."""
    expr = scalar(value, name)
    if expr.is_negative:
        raise InvalidInput(f"{name} = {value} is negative; pass 0 or more.")
    return expr


def rows(value: Any, name: str) -> list[list[sp.Expr]]:
    """A matrix given as SymPy matrix, array or nested sequences, as exact rows of equal length."""
    value = plain(value)
    if isinstance(value, sp.MatrixBase):
        value = value.tolist()
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise InvalidInput(f"{name} has type {type(value).__name__}; pass a matrix.")
    out = []
    for i, row in enumerate(value):
        row = plain(row)
        if not isinstance(row, Iterable) or isinstance(row, (str, bytes)):
            raise InvalidInput(f"{name}, row {i}: not a sequence; pass a matrix as nested rows.")
        out.append([scalar(entry, f"{name}[{i}][{j}]") for j, entry in enumerate(row)])
    if not out or any(len(row) != len(out[0]) for row in out) or not out[0]:
        raise InvalidInput(f"{name} has rows of lengths {[len(r) for r in out]}; pass equal rows.")
    return out
