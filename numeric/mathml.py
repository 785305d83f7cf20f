"""Mathematics for a page that needs no network: formulas as MathML, and the symbols of running text.

Exported: `formula_mathml`, `prose_html`, `prose_latex`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Any

from sympy.printing.mathml import MathMLPresentationPrinter

from icltheory.symbols import LATEX_NAMES

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
    """A SymPy expression as a MathML element, in the notation of `icltheory.symbols`.

    `display` is "block" (a line of its own) or "inline".

    >>> from icltheory.symbols import noise_var
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


_LETTERS = {
    **_GREEK, "delta": "δ", "epsilon": "ϵ", "nu": "ν", "omega": "ω", "varsigma": "ς", "ell": "ℓ",
    "L": "ℒ", "V": "𝒱", "-": "−",
}  # fmt: skip
_SIGN = re.compile(
    r"(?:\\(?:mathrm|operatorname)\{(?P<word>\w+)\}(?P<of>\w?)|\\mathcal\{(?P<script>\w)\}|"
    r"\\(?P<greek>[a-z]+)|(?P<letter>[A-Za-z]))(?:_(?P<index>[\w+-]))?(?P<square>\^\{2\})?"
)


class _Printer(MathMLPresentationPrinter):
    """SymPy's presentation printer, with the toolkit's own signs for its symbols."""

    def _print_Symbol(self, sym: Any, style: str = "plain") -> Any:
        sign = _SIGN.fullmatch(LATEX_NAMES.get(sym, ""))
        if sign is None:
            return super()._print_Symbol(sym, style)
        return self._sign(sign, self._tag("mn", "2") if sign["square"] else None)

    def _print_Pow(self, expr: Any) -> Any:
        # (sigma^2)^p is sigma^(2p): a power of a sign that is a power itself would read ambiguously.
        sign = _SIGN.fullmatch(LATEX_NAMES.get(expr.base, ""))
        if sign is not None and sign["square"] and expr.exp.is_positive:
            return self._sign(sign, self._print(2 * expr.exp))
        return super()._print_Pow(expr)

    def _sign(self, sign: re.Match[str], power: Any) -> Any:
        """A letter or word with its index and exponent."""
        if sign["word"]:
            base = self._tag("mi", f"{sign['word']} {sign['of']}".strip())
        else:
            name = sign["script"] or sign["greek"] or sign["letter"]
            base = self._tag("mi", name if sign["letter"] else _LETTERS[name])
        index = sign["index"]
        parts = [base]
        if index:
            kind = "mi" if index.isalpha() else "mn" if index.isdigit() else "mo"
            parts.append(self._tag(kind, _LETTERS["-"] if index == "-" else index))
        if power is not None:
            parts.append(power)
        if len(parts) == 1:
            return base
        name = {(True, False): "msub", (False, True): "msup", (True, True): "msubsup"}
        element = self.dom.createElement(name[bool(index), power is not None])
        for part in parts:
            element.appendChild(part)
        return element

    def _tag(self, name: str, text: str) -> Any:
        element = self.dom.createElement(name)
        element.appendChild(self.dom.createTextNode(text))
        return element
