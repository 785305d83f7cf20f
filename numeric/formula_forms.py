"""A formula as text, LaTeX or a Python function, with validity, minimiser and sources.

Exported: `FORMS` (the three, by name) and `described`, the symbols that a text explains.
"""

from __future__ import annotations

import re
from typing import Any

from icltheory.errors import InvalidInput


def _notes(formula: Any) -> list[str]:
    """Validity, minimiser and sources, as lines."""
    lines = [] if formula.validity == True else [f"holds for {formula.validity}"]  # noqa: E712
    lines += [f"minimiser: {key} = {value}" for key, value in (formula.minimizer or {}).items()]
    return lines + [f"source: {reference}" for reference in formula.references]


def _titled(formula: Any) -> str:
    return formula.name + (" (infimum, not attained)" if formula.attained is False else "")


def _decimals(formula: Any) -> list[str]:
    """A number that is written exactly, in decimals as well."""
    value = formula.expr
    if not getattr(value, "is_number", False) or value.is_Integer or value.is_Float:
        return []
    return [f"    = {value.evalf(6)}"]


def as_text(formula: Any) -> str:
    """Name, expression, validity, sources, symbols with their meanings, and the derivation."""
    parts = [f"    {name} = {part}" for name, part in formula.abbreviations.items()]
    parts += [f"    {name} = {value}" for name, value in formula.where.items()]
    lines = [
        f"{_titled(formula)}:",
        "",
        f"    {formula.abbreviated()}",
        *_decimals(formula),
        *parts,
        "",
        *_notes(formula),
    ]
    symbols = [f"    {s.name}: {s.meaning}, {s.domain}" for s in described(formula)]
    if symbols:
        lines += ["", "symbols:", *symbols]
    if formula.steps:
        steps = [f"    {line}" for line in formula.explain().splitlines()]
        lines += ["", "derivation:", *steps]
    return "\n".join(lines)


def described(formula: Any) -> tuple[Any, ...]:
    """The symbols of a formula, and those of its minimiser."""
    from icltheory.symbols import describe

    found = {info.name: info for info in formula.symbols}
    for key, value in (formula.minimizer or {}).items():
        for symbol in sorted({key} | value.free_symbols, key=lambda s: s.name):
            found.setdefault(symbol.name, describe(symbol))
    return tuple(found.values())


def as_latex(formula: Any) -> str:
    """LaTeX of the expression; the notes follow as comments.

    >>> from icltheory.formula import Formula
    >>> from icltheory.symbols import noise_var
    >>> print(as_latex(Formula("example", 2 * noise_var)).splitlines()[0])
    2 \\sigma^{2}
    """
    return "\n".join([formula.latex(), *(f"% {x}" for x in (_titled(formula), *_notes(formula)))])


def as_python(formula: Any) -> str:
    """A function of the symbols that needs nothing but Python's math module.

    `InvalidInput` for matrices and for functions that module lacks.
    """
    import sympy
    from sympy.printing.codeprinter import PrintMethodNotImplementedError

    if not isinstance(formula.expr, sympy.Expr) or formula.expr.has(sympy.MatrixSymbol):
        raise InvalidInput(
            f"'{formula.name}' is about matrices, not a function of numbers; use --text or --latex, "
            f"or numeric.compile."
        )
    title = formula.name.split(",")[0]
    name = re.sub(r"\W+", "_", title)
    names = ", ".join(sorted(symbol.name for symbol in formula.free_symbols))
    try:
        body = sympy.pycode(formula.expr)
    except PrintMethodNotImplementedError as error:
        raise InvalidInput(
            f"'{formula.name}' has functions that Python's math module lacks; use --text or --latex, "
            f"or numeric.compile."
        ) from error
    guard = []
    if formula.validity != True:  # noqa: E712
        message = f"outside {formula.validity}, where this holds"
        guard = [
            f"    if not ({sympy.pycode(formula.validity)}):",
            f"        raise ValueError({message!r})",
        ]
    return "\n".join(
        [
            *(f"# {line}" for line in (_titled(formula), *_notes(formula))),
            "import math",
            "",
            "",
            f"def {name}({f'*, {names}' if names else ''}):",
            *guard,
            f"    return {body}",
        ]
    )


FORMS = {"text": as_text, "latex": as_latex, "python": as_python}
