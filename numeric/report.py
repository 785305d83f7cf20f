"""The report of a reproduction: one HTML file that needs no network, no scripts and no other file.

Exported: `build`, which writes it, and `formula_mathml`, a formula as MathML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import sympy as sp
from sympy.printing.mathml import MathMLPresentationPrinter

from icltheory.formula import Formula, Reference
from icltheory.symbols import lam, noise_var
from numeric.claims.base import Claim, Part
from numeric.claims.runner import (
    CONFIRMED,
    ERROR,
    NOT_RUN,
    REFUTED,
    UNDECIDED,
    Outcome,
)
from numeric.plot import to_svg, write_atomically

_LEGEND = {
    CONFIRMED: "every row agrees and every negative control is rejected",
    REFUTED: "at least one row deviates from its prediction",
    UNDECIDED: "nothing deviates, but a check had too little resolution to see a deviation",
    ERROR: "the experiment ended with an error",
    NOT_RUN: "not computed yet",
}

_BEFORE_FUNCTION = r"<mo>&InvisibleTimes;</mo>(?=(<mrow>)*<mi>[a-z]{2,}</mi>)"

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1c1d; --soft: #5c6066; --paper: #ffffff; --card: #f5f6f7;
  --rule: #d7dadd; --good: #00694a; --bad: #a83c00; --open: #6b5200; --link: #0062a3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e7e8; --soft: #a3a8ae; --paper: #15171a;
  --card: #1e2125; --rule: #383d43; --good: #4ccf9f; --bad: #ff9d66; --open: #e3c04d; --link: #7cc0f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 74rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.3rem; margin: 0 0 .3rem; }
h3 { font-size: 1.05rem; margin: 1.4rem 0 .4rem; }
a { color: var(--link); }
p { max-width: 50rem; }
section { border-top: 1px solid var(--rule); margin-top: 2rem; padding-top: 1.4rem; }
.soft { color: var(--soft); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; overflow-wrap: normal; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; } .wide th { white-space: nowrap; }
.wide table { min-width: 48rem; font-size: .82rem; } .wide td:last-child { min-width: 14rem; }
.verdict { font-weight: 600; white-space: nowrap; }
.confirmed, .ok { color: var(--good); } .refuted, .error, .no { color: var(--bad); }
.undecided { color: var(--open); } .not-run { color: var(--soft); }
.formula { overflow-x: auto; background: var(--card); border-radius: 6px; padding: .7rem .9rem;
  margin: .6rem 0; }
.formula p { margin: 0 0 .3rem; } math { font-size: 1.1rem; }
math[display="block"] { margin: .5rem 0; }
/* Fractions within fractions at full size: the optima nest three of them. */
mfrac > * { math-depth: inherit; math-style: normal; }
figure { margin: 1rem 0; } figure svg { display: block; width: 100%; min-width: 26rem;
  max-width: 44rem; height: auto; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 44rem; }
pre { overflow-x: auto; background: var(--card); border-radius: 6px; padding: .7rem .9rem; }
code { font-size: .9rem; }
"""


def build(
    results: Mapping[str, Outcome], claims: Mapping[str, Claim], path: str | os.PathLike[str]
) -> Path:
    """Write the report of `results` (outcomes by claim id) and return its path.

    One self-contained HTML page: an overview, and for every claim its statement, source, formulas,
    tables, negative controls and figure. It loads nothing and runs nothing, and shows in light and
    dark. `claims` holds at least the claims of `results`.

    Errors: `InvalidInput` for a place that cannot be written.
    """
    path = Path(path)
    sections = "\n".join(_section(claims[name], outcome) for name, outcome in results.items())
    write_atomically(path, _page(_overview(results, claims), sections))
    return path


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


# -- the parts of the page -----------------------------------------------------------------------


def _page(overview: str, sections: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>icltheory: reproduction</title>
<style>{_STYLE}</style>
</head>
<body>
{overview}
{sections}
</body>
</html>
"""


def _overview(results: Mapping[str, Outcome], claims: Mapping[str, Claim]) -> str:
    confirmed = sum(outcome.verdict == CONFIRMED for outcome in results.values())
    efforts = sorted({o.result.effort for o in results.values() if o.result is not None})
    effort = f", effort: {escape(', '.join(efforts))}" if efforts else ""
    rows = "".join(
        f'<tr><td><a href="#{_anchor(name)}">{escape(claims[name].title)}</a></td>'
        f"<td>{_verdict(outcome)}</td><td>{_checks(outcome)}</td><td>{_time(outcome)}</td></tr>"
        for name, outcome in results.items()
    )
    shown = {outcome.verdict for outcome in results.values()}
    legend = "; ".join(
        f"<b>{verdict}</b>: {text}" for verdict, text in _LEGEND.items() if verdict in shown
    )
    return f"""<h1>Claims held against theory, simulation and training</h1>
<p>{confirmed} of {len(results)} claims confirmed{effort}. Predictions are derived by icltheory; a row
agrees if the estimate lies within five standard errors (plus the stated allowance) of the prediction
and a deviation that matters would have been seen. Risk is the mean squared excess error, without a
factor 1/2.</p>
<div class="scroll"><table><thead><tr><th>claim</th><th>verdict</th><th>rows that agree</th>
<th>time</th></tr></thead><tbody>{rows}</tbody></table></div>
<p class="soft">{legend}.</p>"""


def _section(claim: Claim, outcome: Outcome) -> str:
    body = ""
    if outcome.result is not None:
        result = outcome.result
        body = "".join(_part(part) for part in result.parts)
        body += (
            f"<figure>{to_svg(result.figure, _anchor(claim.id) + '-')}"
            f"<figcaption>{escape(result.figure.caption)}</figcaption></figure>"
        )
    elif outcome.error:
        body = f'<p class="no">The experiment ended with an error: {escape(outcome.error)}</p>'
        if outcome.details:
            body += f"<details><summary>Traceback</summary><pre>{escape(outcome.details)}</pre></details>"
    else:
        body = '<p class="soft">Not computed yet.</p>'
    effort = " --quick" if outcome.result is not None and outcome.result.effort == "quick" else ""
    return f"""<section id="{_anchor(claim.id)}">
<h2>{escape(claim.title)}</h2>
<p>{_verdict(outcome)} <span class="soft">{_time(outcome)}</span></p>
<p>{escape(claim.statement)}</p>
<p class="soft">{_source(claim.source)}</p>
{_formulas(claim)}
{body}
<p class="soft">To compute this claim again (with the same <code>--out</code>):</p>
<pre><code>icltheory reproduce{effort} --claim {escape(claim.id)} --fresh</code></pre>
</section>"""


def _part(part: Part) -> str:
    verdict = "rejected" if part.control_rejected else "not rejected"
    mark = "ok" if part.control_rejected else "no"
    table = part.comparison._repr_html_()
    return (
        f"<h3>{escape(part.title)}</h3>"
        f'<div class="scroll wide">{table}</div>'
        f'<p class="soft">Negative control, predictions × {part.control:g}: '
        f'<span class="{mark}">{verdict}</span></p>'
    )


def _formulas(claim: Claim) -> str:
    try:
        return "".join(_formula(formula) for formula in claim.formulas())
    except Exception as error:  # hours of results must not be lost for one derivation
        return f'<p class="no">The formulas could not be derived: {escape(str(error))}</p>'


def _formula(formula: Formula) -> str:
    notes = ", an infimum that is not attained" if formula.attained is False else ""
    holds = "" if formula.validity == sp.true else f"Holds for {_inline(formula.validity)}. "
    for key, value in (formula.minimizer or {}).items():
        holds += f"Attained at {_inline(sp.Eq(key, value, evaluate=False))}. "
    sources = "; ".join(_short_source(reference) for reference in formula.references)
    return (
        f'<div class="formula"><p>{escape(formula.name)}{notes}</p>{formula_mathml(formula.expr)}'
        f'<p>{holds}<span class="soft">Source: {sources}</span></p></div>'
    )


def _inline(expr: Any) -> str:
    return formula_mathml(expr, "inline")


def _source(reference: Reference) -> str:
    authors = reference.authors.replace(" and ", "; ")
    where = f", {_arxiv(reference)}" if reference.arxiv else ""
    what = f": {reference.statement}" if reference.statement else ""
    return f"{escape(authors)} ({reference.year}), {escape(reference.title)}{where}{escape(what)}"


def _short_source(reference: Reference) -> str:
    """A paper by its number; the toolkit itself by what it did."""
    if not reference.arxiv:
        return escape(reference.statement or reference.title)
    return _arxiv(reference) + (f" ({escape(reference.statement)})" if reference.statement else "")


def _arxiv(reference: Reference) -> str:
    number = escape(reference.arxiv)
    return f'<a href="https://arxiv.org/abs/{number}">arXiv {number}</a>'


def _verdict(outcome: Outcome) -> str:
    return f'<span class="verdict {_anchor(outcome.verdict)}">{outcome.verdict}</span>'


def _checks(outcome: Outcome) -> str:
    if outcome.result is None:
        return ""
    return "{} of {}".format(*outcome.agreeing)


def _time(outcome: Outcome) -> str:
    return "" if outcome.result is None else f"{outcome.result.seconds:.1f}\N{NO-BREAK SPACE}s"


def _anchor(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)
