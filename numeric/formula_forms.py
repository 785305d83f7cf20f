"""A formula as text, LaTeX, a Python function or BibTeX, with validity, minimiser and sources.

Exported: `FORMS` (the four, by name), `described`, the symbols that a text explains, and `sources`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from icltheory.errors import InvalidInput


def _notes(formula: Any) -> list[str]:
    """Validity, minimiser and sources, as lines."""
    lines = [] if formula.validity == True else [f"holds for {formula.condition}"]  # noqa: E712
    lines += [f"minimiser: {key} = {value}" for key, value in (formula.minimizer or {}).items()]
    return [*lines, f"source: {sources(formula.references)}"]


def sources(references: Iterable[Any]) -> str:
    """Sources in one line, e.g. Cui et al. 2024, arXiv 2401.17426 (the question); derived here.

    >>> from icltheory.formula import CUI, DERIVED_HERE
    >>> sources((CUI.at("Theorem 2"), CUI.at("the question"), DERIVED_HERE))
    'Cui et al. 2024, arXiv 2401.17426 (Theorem 2; the question); derived here'
    """
    from icltheory.formula import DERIVED_HERE

    statements: dict[str, list[str]] = {}
    for reference in references:
        names = [author.partition(",")[0] for author in reference.authors.split(" and ")]
        who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        where = f", arXiv {reference.arxiv}" if reference.arxiv else ""
        here = reference.key == DERIVED_HERE.key
        told = statements.setdefault(
            "derived here" if here else f"{who} {reference.year}{where}", []
        )
        if reference.statement not in ("", DERIVED_HERE.statement, *told):
            told.append(reference.statement)
    said = [f"{name} ({'; '.join(told)})" if told else name for name, told in statements.items()]
    # A statement that says so has said it.
    others = [text for text in said if text != "derived here"]
    return "; ".join(others if "derived here" in "".join(others) else said)


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
    """The symbols of a formula, those of its minimiser, and the canonical ones of its derivation."""
    from icltheory.symbols import TABLE, describe

    found = {info.name: info for info in formula.symbols}
    for key, value in (formula.minimizer or {}).items():
        for symbol in sorted({key} | value.free_symbols, key=lambda s: s.name):
            found.setdefault(symbol.name, describe(symbol))
    told = set().union(*(step.equation.free_symbols for step in formula.steps))
    for symbol in sorted(told & set(TABLE), key=lambda s: s.name):
        found.setdefault(symbol.name, TABLE[symbol])
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

    from numeric.backend_code import with_numeric_roots

    if not isinstance(formula.expr, sympy.Expr) or formula.expr.has(sympy.MatrixSymbol):
        raise InvalidInput(
            f"'{formula.name}' is about matrices, not a function of numbers; use --text or --latex, "
            f"or numeric.compile."
        )
    title = formula.name.split(",")[0]
    name = re.sub(r"\W+", "_", title)
    names = ", ".join(sorted(symbol.name for symbol in formula.free_symbols))
    try:
        body = sympy.pycode(with_numeric_roots(formula.expr))
    except PrintMethodNotImplementedError as error:
        raise InvalidInput(
            f"'{formula.name}' has functions that Python's math module lacks; use --text or --latex, "
            f"or numeric.compile."
        ) from error
    guard = []
    if formula.validity != True:  # noqa: E712
        message = f"outside {formula.condition}, where this holds"
        guard = [
            f"    if not ({sympy.pycode(with_numeric_roots(formula.validity))}):",
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


def as_bibtex(formula: Any) -> str:
    """BibTeX of the sources."""
    return formula.citation()


FORMS = {"text": as_text, "latex": as_latex, "python": as_python, "cite": as_bibtex}
