"""The report of a reproduction: one HTML file that needs no network, no scripts and no other file.

Exported: `build`, which writes it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import sympy as sp

from icltheory.formula import Formula, Reference
from numeric.claims.base import Claim, Part
from numeric.claims.runner import Outcome
from numeric.compare import AGREES, NOT_TESTABLE
from numeric.display import duration
from numeric.mathml import formula_mathml, prose_html, prose_latex
from numeric.plot import to_svg, write_atomically
from numeric.report_overview import anchor, citation, overview, verdict
from numeric.report_style import STYLE

_SHORT = 8  # rows of a table that is shown at once; longer ones are folded


def build(
    results: Mapping[str, Outcome], claims: Mapping[str, Claim], path: str | os.PathLike[str]
) -> Path:
    """Write the report of `results` (outcomes by claim id) and return its path.

    One self-contained HTML page: an overview of the papers, the audit findings and all claims; then
    for every claim its statement (also as LaTeX), source, formulas, tables, negative controls, figure
    and the command that repeats it. It loads nothing and runs nothing, and shows in light and dark,
    from a phone to a desk. `claims` holds at least the claims of `results`.

    Errors: `InvalidInput` for a place that cannot be written.
    """
    path, body, paper = Path(path), [], ""
    for name, outcome in results.items():
        claim = claims[name]
        if claim.paper != paper:
            paper = claim.paper
            body.append(f'<h2 id="paper-{anchor(paper)}">{escape(claim.source.title)}</h2>')
        body.append(_section(claim, outcome))
    write_atomically(path, _page(overview(results, claims), "\n".join(body)))
    return path


def _page(head: str, sections: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>icltheory: reproduction</title>
<style>{STYLE}</style>
</head>
<body>
<header>
{head}
</header>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(claim: Claim, outcome: Outcome) -> str:
    if outcome.result is not None:
        result = outcome.result
        body = "".join(_part(part) for part in result.parts)
        body += (
            f'<figure><div class="scroll">{to_svg(result.figure, anchor(claim.id) + "-")}</div>'
            f"<figcaption>{prose_html(result.figure.caption)}</figcaption></figure>"
        )
    elif outcome.error:
        body = f'<p class="no">The experiment ended with an error: {escape(outcome.error)}</p>'
        if outcome.details:
            body += f"<details><summary>Traceback</summary><pre>{escape(outcome.details)}</pre></details>"
    else:
        body = '<p class="soft">Not computed yet.</p>'
    effort = " --quick" if outcome.result is not None and outcome.result.effort == "quick" else ""
    time = f" in {duration(outcome.result.seconds)}" if outcome.result is not None else ""
    return f"""<section id="{anchor(claim.id)}">
<h3>{escape(claim.title)}</h3>
<p>{verdict(outcome)}<span class="soft">{time}</span></p>
<p>{prose_html(claim.statement)}</p>
<p class="soft">{_source(claim.source)}</p>
{_formulas(claim)}
{body}
<p class="soft">To compute this claim again (with the same <code>--out</code>):</p>
<pre class="command"><code>icltheory reproduce{effort} --claim {escape(claim.id)} --fresh</code></pre>
</section>"""


# -- experiments ---------------------------------------------------------------------------------


def _part(part: Part) -> str:
    rejecting, testable = part.control_rejections
    mark, control = ("ok", "rejected") if part.control_rejected else ("no", "not rejected")
    control += f" by {rejecting} of {testable} row" + "s" * (testable != 1)
    rows = part.comparison.rows
    table = f'<div class="scroll wide">{part.comparison.to_html()}</div>'
    if len(rows) > _SHORT and part.passed:
        table = f"<details><summary>All {len(rows)} rows</summary>{table}</details>"
    return (
        f"<h4>{prose_html(part.title)}</h4><p>{_told(part)}</p>{table}"
        f'<p class="soft">Negative control, predictions × {part.control:g}: '
        f'<span class="{mark}">{control}</span></p>'
    )


def _told(part: Part) -> str:
    """How the rows of an experiment came out, in a sentence."""
    verdicts = [row.verdict for row in part.comparison]
    agree = verdicts.count(AGREES)
    testable = [row for row in part.comparison if row.testable]
    mark = "ok" if part.comparison.passed else "no"
    text = f'<span class="{mark}">{agree} of {len(testable)} rows agree</span>'
    if untestable := verdicts.count(NOT_TESTABLE):
        text += f", {untestable} not testable this way"
    if testable:
        row = max(testable, key=lambda row: abs(row.z))
        text += (
            f"; farthest: measured {row.estimate:.4g} against {row.prediction:.4g} predicted, "
            f"{abs(row.z):.1f} standard errors"
        )
        if row.allowance:
            text += f" (allowance {row.allowance:.2g})"
    return f"{text}."


# -- formulas ------------------------------------------------------------------------------------


def _formulas(claim: Claim) -> str:
    try:
        formulas = claim.formulas()
        shown = "".join(_formula(formula) for formula in formulas)
    except Exception as error:  # hours of results must not be lost for one derivation
        return f'<p class="no">The formulas could not be derived: {escape(str(error))}</p>'
    source = escape(claim_latex(claim, formulas))
    return (
        f"{shown}<details><summary>Statement and formulas as LaTeX</summary>"
        f'<pre class="source"><code>{source}</code></pre></details>'
    )


def claim_latex(claim: Claim, formulas: tuple[Formula, ...]) -> str:
    """A claim with its formulas as LaTeX source (amsmath), to paste into a paper."""
    lines = [rf"\paragraph{{{prose_latex(claim.title)}.}} {prose_latex(claim.statement)}"]
    for formula in formulas:
        lines += [f"% {formula.name}", r"\begin{equation}", f"  {formula.latex()}"]
        if formula.validity != sp.true:
            lines.append(rf"  \qquad\text{{for }} {sp.latex(formula.validity)}")
        lines.append(r"\end{equation}")
    return "\n".join(lines)


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
    where = f", {citation(reference)}" if reference.arxiv else ""
    what = f": {reference.statement}" if reference.statement else ""
    return f"{escape(authors)} ({reference.year}), {escape(reference.title)}{where}{escape(what)}"


def _short_source(reference: Reference) -> str:
    """A paper by its number; the toolkit itself by what it did."""
    if not reference.arxiv:
        return escape(reference.statement or reference.title)
    return citation(reference) + (
        f" ({escape(reference.statement)})" if reference.statement else ""
    )
