"""One place where arguments become exact SymPy objects, or are refused with a reason.

Floats become the rational number that their shortest decimal form denotes (0.1 becomes 1/10), so
that derivations stay exact. Text is never parsed: a string is refused. NumPy scalars, arrays and
torch tensors are read through `.tolist()`, so none of these packages is imported here. Calls with
wrong names of arguments are refused with the right ones (`named`).
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import wraps
from inspect import Parameter, signature
from typing import Any, TypeVar

import sympy as sp

from icltheory.errors import InvalidInput

F = TypeVar("F", bound=Callable[..., Any])

# What users write for the letters of the papers.
_LETTERS = {
    "d": "dim",
    "n": "prompt_length",
    "L": "prompt_length",
    "k": "score_scale",
    "v": "value_scale",
    "eta": "step_size",
    "sigma": "noise_std",
    "lr": "learning_rate",
}


def named(function: F) -> F:
    """A function or `__init__` whose wrong calls are refused with the names of its arguments.

    Python's own message names the wrong argument alone. Only calls that failed are looked at.

    >>> @named
    ... def risk(dim, *, noise_var=0): ...
    >>> risk(5, noise=1)
    Traceback (most recent call last):
    icltheory.errors.InvalidInput: risk has no argument 'noise'; meant noise_var? It takes: dim, noise_var.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except TypeError:
            if _fits(function, args, kwargs):  # it was raised inside the function
                raise
            raise wrong_call(function, args, kwargs) from None

    return call  # type: ignore[return-value]


def _fits(function: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> bool:
    try:
        signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def wrong_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> InvalidInput:
    """The refusal of a call that does not fit the signature."""
    # An `__init__` may be that of a base.
    name = type(args[0]).__name__ if function.__name__ == "__init__" else function.__qualname__
    known = signature(function).parameters
    first = len(known) - len(known := {k: p for k, p in known.items() if k != "self"})
    places = [k for k, p in known.items() if p.kind is not Parameter.KEYWORD_ONLY]
    given = places[: len(args) - first]
    said, meant = [], set()
    for wrong in (k for k in kwargs if k not in known):
        free = [k for k in known if k not in given and k not in kwargs]
        near = [_LETTERS[wrong]] if wrong in _LETTERS else get_close_matches(wrong, free, 1)
        meant.update(near)
        hint = f"; meant {near[0]}?" if near and near[0] in free else "."
        said.append(f"{name} has no argument {wrong!r}{hint}")
    if twice := [k for k in given if k in kwargs]:
        said.append(f"{name} got {', '.join(twice)} twice, by position and by name.")
    if (count := len(args) - first) > len(places):
        said.append(
            f"{name} takes {len(places)} arguments by position, not {count}: name the others."
        )
    needed = [k for k, p in known.items() if p.default is Parameter.empty]
    if missing := [k for k in needed if k not in {*given, *kwargs, *meant}]:
        said.append(f"{name} needs {' and '.join(missing)}.")
    return InvalidInput(f"{' '.join(said)} It takes: {', '.join(known)}.")


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


def counted(count: Any, noun: str) -> str:
    """A number with its noun.

    >>> counted(1, "step"), counted(2, "step")
    ('1 step', '2 steps')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
