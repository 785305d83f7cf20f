"""LaTeX that fits on a page: long sums and products broken over the lines of an `aligned` block.

Exported: `to_latex`, `broken`, `in_lines`, `stacked`, `visible_width`.
"""

from __future__ import annotations

import math
import re
from typing import Any

import sympy as sp
from sympy.printing.latex import LatexPrinter

from icltheory.symbols import LATEX_NAMES

LINE = 80  # letters that fit on a line of a notebook

_MARKS = re.compile(r"\\(?:left|right|quad|,|;|!|displaystyle|mathrm|text|operatorname)\b|[{}^_&]")
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|.)")


class _Printer(LatexPrinter):
    """SymPy's printer: words upright, r_oo with its sign, sigma^4 for the square of sigma^2."""

    def _print_Symbol(self, expr: Any, style: str = "plain") -> str:
        if expr in LATEX_NAMES:
            return LATEX_NAMES[expr]
        shown = super()._print_Symbol(expr, style)
        if shown.isalpha() and len(shown) > 1:
            return rf"\mathrm{{{shown}}}"
        return shown.replace("_{oo}", r"_{\infty}")

    _print_Dummy = _print_Symbol

    def _print_Pow(self, expr: Any) -> str:
        name = LATEX_NAMES.get(expr.base, "")
        double = 2 * expr.exp
        if name.endswith("^{2}") and double.is_Integer and double.is_positive:
            root = name.removesuffix("^{2}")
            return root if double == 1 else f"{root}^{{{double}}}"
        return super()._print_Pow(expr)


def to_latex(expr: Any) -> str:
    """LaTeX of an expression in the letters of the canonical symbols.

    >>> from icltheory.symbols import noise_var
    >>> to_latex(noise_var**2)
    '\\\\sigma^{4}'
    """
    return _Printer({"symbol_names": LATEX_NAMES}).doprint(expr)


def visible_width(latex: str) -> int:
    """Letters that a formula is wide: a fraction counts once, an exponent half.

    >>> visible_width(r"\\frac{a + b}{c} + \\sigma^{2}")
    6
    """
    out, rest = 0.0, latex
    while match := re.search(r"\\(?:t|d)?frac(?=\{)|\^(?=\{)", rest):
        out += _letters(rest[: match.start()])
        first, rest = _group(rest[match.end() :])
        if match[0] == "^":
            out += visible_width(first) / 2
        else:
            second, rest = _group(rest)
            out += max(visible_width(first), visible_width(second))
    return round(out + _letters(rest))


def broken(expr: Any, width: int = LINE) -> list[str]:
    """An expression as lines of LaTeX of about `width` letters, broken between terms of its sum.

    A product is broken at its longest factor that is a sum. What has no sum outside fractions and
    functions stays one line.

    >>> x, y = sp.symbols("x y")
    >>> broken(x**2 + 2*x*y - y**3, 6)
    ['x^{2}', '+ 2 x y', '- y^{3}']
    """
    whole = to_latex(expr)
    if visible_width(whole) <= width:
        return [whole]
    if isinstance(expr, (sp.Equality, sp.Rel)):
        return _relation(expr, width)
    if isinstance(expr, (sp.Add, sp.MatAdd)):
        return _filled(_terms(expr), width)
    if isinstance(expr, (sp.Mul, sp.MatMul)):
        return _product(expr, width) or [whole]
    return [whole]


def in_lines(lines: list[str]) -> str:
    """Lines as one block of LaTeX, the later ones set in; a single line as it is.

    >>> in_lines(["a", "+ b"])
    '\\\\begin{aligned} & a \\\\\\\\ & \\\\quad + b \\\\end{aligned}'
    """
    return lines[0] if len(lines) == 1 else stacked([lines])


def stacked(parts: list[list[str]]) -> str:
    """Formulas, each as its lines, one below the other.

    >>> stacked([["a"], ["b", "+ c"]])
    '\\\\begin{aligned} & a \\\\\\\\ & b \\\\\\\\ & \\\\quad + c \\\\end{aligned}'
    """
    rows = r" \\ & ".join(r" \\ & \quad ".join(lines) for lines in parts)
    return rf"\begin{{aligned}} & {rows} \end{{aligned}}"


def _relation(expr: Any, width: int) -> list[str]:
    sign = {"==": "=", "<=": r"\leq", ">=": r"\geq", "!=": r"\neq"}.get(expr.rel_op, expr.rel_op)
    left = to_latex(expr.lhs)
    room = width - visible_width(left) - 1
    if room >= width / 2:
        first, *more = broken(expr.rhs, room)
        return [f"{left} {sign} {first}", *more]
    first, *more = broken(expr.rhs, width)
    return [*broken(expr.lhs, width), f"{sign} {first}", *more]


def _terms(expr: Any) -> list[str]:
    """The terms of a sum with their signs, in the order in which SymPy prints them."""
    ordered = expr.args if isinstance(expr, sp.MatAdd) else expr.as_ordered_terms()
    out = []
    for i, term in enumerate(ordered):
        text = to_latex(term)
        if text.startswith("-"):
            out.append(f"- {text[1:].lstrip()}")
        else:
            out.append(text if i == 0 else f"+ {text}")
    return out


def _filled(terms: list[str], width: int) -> list[str]:
    """Terms in lines of nearly equal width."""
    sizes = [visible_width(term) for term in terms]
    total = sum(sizes)
    limit = min(width, 1.1 * total / math.ceil(total / width))
    lines, size = [terms[0]], sizes[0]
    for term, wide in zip(terms[1:], sizes[1:], strict=True):
        if size + wide > limit:
            lines.append(term)
            size = wide
        else:
            lines[-1] += f" {term}"
            size += wide
    return lines


def _product(expr: Any, width: int) -> list[str]:
    """A numerator broken at its widest sum, over a short denominator."""
    if isinstance(expr, sp.MatMul):
        return []
    top, bottom = sp.fraction(expr)
    sums = [f for f in sp.Mul.make_args(top) if isinstance(f, sp.Add)]
    if not sums:
        return []
    widest = max(sums, key=lambda f: visible_width(to_latex(f)))
    factor = sp.Mul(*(f for f in sp.Mul.make_args(top) if f != widest)) / bottom
    front = {1: "", -1: "-"}.get(factor, to_latex(factor))
    if visible_width(front) > width / 2:
        return []
    lines = _filled(_terms(widest), width - visible_width(front))
    if len(lines) == 1:
        return []
    lines[0] = rf"{front} \Bigl[ {lines[0]}".lstrip()
    lines[-1] += r" \Bigr]"
    return lines


def _group(text: str) -> tuple[str, str]:
    """The content of the braces that `text` starts with, and the rest."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "{") - (letter == "}")
        if depth == 0:
            return text[1:i], text[i + 1 :]
    return text[1:], ""


def _letters(text: str) -> int:
    text = re.sub(r"\\(?:sinh|cosh|tanh|log|exp|det)\b", "xxx", text)
    text = re.sub(r"\\(?:quad|qquad)\b", "xx", text)
    text = _COMMAND.sub("x", _MARKS.sub("", text))
    return len(re.sub(r"\s", "", text))
