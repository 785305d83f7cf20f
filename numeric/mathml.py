"""Mathematics for a page that needs no network: formulas as MathML, and the symbols of running text.

Exported: `formula_mathml`, `prose_html`, `prose_latex`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Any

from sympy.printing.mathml import MathMLPresentationPrinter

from icltheory.symbols import lam, noise_var

_BEFORE_FUNCTION = r"<mo>&InvisibleTimes;</mo>(?=(<mrow>)*<mi>[a-z]{2,}</mi>)"

_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "eta": "η", "theta": "θ", "kappa": "κ", "lambda": "λ",
    "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "Gamma": "Γ", "Sigma": "Σ",
}  # fmt: skip
_RELATIONS = {"<=": r"\le", ">=": r"\ge"}
_INNER = r"\((?:[^()]|\([^()]*\))*\)"
_NAME = rf"(?:{'|'.join(_GREEK)}|[A-Za-z]+|\d+)"
# A name with an index or an exponent, an exponent of a bracket, or a Greek letter by itself.
_MATH = re.compile(
    rf"(?<![A-Za-z_\\])(?P<base>{_NAME})?"
    rf"(?:_(?P<index>[A-Za-z0-9]))?(?![A-Za-z_])"
    rf"(?:\^(?P<power>\{{[^{{}}]*\}}|{_INNER}|-?\d+|-?{_NAME}(?:{_INNER})?))?"
)


def formula_mathml(expr: Any, display: str = "block") -> str:
    """A SymPy expression as a MathML element, in the canonical notation (sigma^2 for noise_var).

    `display` is "block" (a line of its own) or "inline".

    >>> formula_mathml(1 + noise_var, "inline")
    '<math display="inline"><mrow><msup><mi>&#963;</mi><mn>2</mn></msup><mo>+</mo><mn>1</mn></mrow></math>'
    """
    # The printer leaves the sign of "less than" as it is, which would open a tag.
    text = _Printer().doprint(expr).replace("<mo><</mo>", "<mo>&lt;</mo>")
    # "d arctanh(x)", not "darctanh(x)".
    text = re.sub(_BEFORE_FUNCTION, r'\g<0><mspace width="0.2em"></mspace>', text)
    return f'<math display="{display}">{text}</math>'


def prose_html(text: str) -> str:
    """Running text with its exponents, indices and Greek letters, as HTML.

    >>> prose_html("a bias like n^(-2/3) at sigma_y^2 < 1")
    'a bias like n<sup>−2/3</sup> at σ<sub>y</sub><sup>2</sup> &lt; 1'
    """

    def show(base: str, index: str, power: str) -> str:
        out = _GREEK.get(base, base)
        out += f"<sub>{index}</sub>" if index else ""
        return out + (f"<sup>{prose_html(power).replace('-', '−')}</sup>" if power else "")

    def plain(part: str) -> str:
        return escape(part.replace("<=", "≤").replace(">=", "≥"), quote=False)

    return _replaced(text, show, plain)


def prose_latex(text: str) -> str:
    """The same as LaTeX.

    >>> prose_latex("a bias like n^(-2/3), 5 % at sigma_y^2 = 1")
    'a bias like $n^{-2/3}$, 5 \\\\% at $\\\\sigma_{y}^{2}$ = 1'
    """

    def inside(base: str, index: str, power: str) -> str:
        out = rf"\{base}" if base in _GREEK else base
        out += f"_{{{index}}}" if index else ""
        if not power:
            return out
        exponent = re.sub(rf"\b({'|'.join(_GREEK)})\b", r"\\\1", power)
        return f"{out}^{{{exponent}}}"

    def plain(part: str) -> str:
        part = re.sub(r"[%&#_$]", r"\\\g<0>", part)
        return re.sub(r" (<=|>=|<|>) ", lambda m: f" ${_RELATIONS.get(m[1], m[1])}$ ", part)

    return _replaced(text, lambda *parts: f"${inside(*parts)}$", plain)


def _replaced(text: str, show: Callable[[str, str, str], str], plain: Callable[[str], str]) -> str:
    out, last = [], 0
    for match in _MATH.finditer(text):
        base, index, power = (match[name] or "" for name in ("base", "index", "power"))
        if not (power or index or base in _GREEK):
            continue
        if power[0:1] in ("{", "("):
            power = power[1:-1]
        out += [plain(text[last : match.start()]), show(base, index, power)]
        last = match.end()
    return "".join([*out, plain(text[last:])])


class _Printer(MathMLPresentationPrinter):
    """SymPy's presentation printer, with the toolkit's own signs for two of the symbols."""

    def _print_Symbol(self, sym: Any, style: str = "plain") -> Any:
        if sym == noise_var:
            return self._sigma_power(self._number(2))
        if sym == lam:
            return self._tag("mi", "λ")
        return super()._print_Symbol(sym, style)

    def _print_Pow(self, expr: Any) -> Any:
        # (sigma^2)^p is sigma^(2p): a power of a sign that is a power itself would read ambiguously.
        if expr.base == noise_var and expr.exp.is_positive:
            return self._sigma_power(self._print(2 * expr.exp))
        return super()._print_Pow(expr)

    def _sigma_power(self, exponent: Any) -> Any:
        power = self.dom.createElement("msup")
        power.appendChild(self._tag("mi", "σ"))
        power.appendChild(exponent)
        return power

    def _number(self, value: int) -> Any:
        return self._tag("mn", str(value))

    def _tag(self, name: str, text: str) -> Any:
        element = self.dom.createElement(name)
        element.appendChild(self.dom.createTextNode(text))
        return element
