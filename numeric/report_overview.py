"""The first part of the report: what became of every paper, the audit findings, and all claims.

Exported: `overview`; `anchor`, `citation` and `verdict`, which the other parts use too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from html import escape

from icltheory.formula import Reference
from numeric.claims.base import Claim
from numeric.claims.runner import CONFIRMED, ERROR, NOT_RUN, REFUTED, UNDECIDED, Outcome
from numeric.compare import NOT_TESTABLE
from numeric.display import agreement, duration
from numeric.findings import FINDINGS, Finding
from numeric.mathml import prose_html

_LEGEND = {
    CONFIRMED: "every row agrees and every negative control is rejected by a row or more",
    REFUTED: "at least one row deviates from its prediction",
    UNDECIDED: "nothing deviates, but a check had too little resolution to see a deviation",
    ERROR: "the experiment ended with an error",
    NOT_RUN: "not computed yet",
}


def overview(results: Mapping[str, Outcome], claims: Mapping[str, Claim]) -> str:
    """Papers, audit findings and claims as HTML."""
    confirmed = sum(outcome.verdict == CONFIRMED for outcome in results.values())
    efforts = sorted({o.result.effort for o in results.values() if o.result is not None})
    effort = f", effort: {escape(', '.join(efforts))}" if efforts else ""
    papers: dict[str, list[Outcome]] = {}
    for name, outcome in results.items():
        papers.setdefault(claims[name].paper, []).append(outcome)
    found = [finding for finding in FINDINGS if finding.claim in results]
    tiles = "".join(
        _paper(paper, outcomes, claims, [f for f in found if claims[f.claim].paper == paper])
        for paper, outcomes in papers.items()
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
<h2>Papers</h2>
<div class="papers">{tiles}</div>
<p class="soft">{legend}. A row is <b>not testable this way</b> where the estimator has no finite
standard error; it neither passes nor fails.</p>
{_findings(found, results, claims)}
<h2>Claims</h2>
<div class="scroll"><table><thead><tr><th>claim</th><th>verdict</th><th>rows that agree</th>
<th>time</th></tr></thead><tbody>{_rows(results, claims)}</tbody></table></div>"""


def _paper(
    paper: str, outcomes: list[Outcome], claims: Mapping[str, Claim], found: list[Finding]
) -> str:
    source = claims[outcomes[0].claim].source
    counts = Counter(outcome.verdict for outcome in outcomes)
    rows = [row for o in outcomes if o.result for part in o.result.parts for row in part.comparison]
    agreeing = sum(outcome.agreeing[0] for outcome in outcomes)
    untestable = sum(row.verdict == NOT_TESTABLE for row in rows)
    seconds = sum(o.result.seconds for o in outcomes if o.result is not None)
    always = (CONFIRMED, REFUTED)
    facts = [
        (name, str(counts[name]), anchor(name) if counts[name] else "")
        for name in _LEGEND
        if counts[name] or name in always
    ]
    facts += [
        ("rows agree", f"{agreeing} of {len(rows) - untestable}", ""),
        (_counted("row", untestable) + " not testable this way", str(untestable), ""),
        (_counted("audit finding", len(found)), str(len(found)), ""),
        ("of computing", duration(seconds), ""),
    ]
    listed = "".join(
        f'<li><b class="{kind}">{value}</b> {name}</li>' for name, value, kind in facts
    )
    link = f" {citation(source)}" if source.arxiv else ""
    return (
        f'<article class="paper"><h3><a href="#paper-{anchor(paper)}">{escape(source.title)}</a></h3>'
        f'<p class="soft">{escape(_authors(source))} ({source.year}).{link}</p>'
        f"<ul>{listed}</ul></article>"
    )


def _counted(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _findings(
    found: list[Finding], results: Mapping[str, Outcome], claims: Mapping[str, Claim]
) -> str:
    if not found:
        return ""
    items = "".join(
        f"<li><b>{prose_html(finding.published)}</b> {prose_html(finding.found)} "
        f'<a href="#{anchor(finding.claim)}">{escape(claims[finding.claim].title)}</a>: '
        f"{verdict(results[finding.claim])}</li>"
        for finding in found
    )
    return f"""<h2>Audit findings</h2>
<p class="soft">Where what comes out here differs from what a paper says (in bold, in our words), or
says more, and the claim whose experiments show it.</p>
<ul class="findings">{items}</ul>"""


def _rows(results: Mapping[str, Outcome], claims: Mapping[str, Claim]) -> str:
    return "".join(
        f'<tr><td><a href="#{anchor(name)}">{escape(claims[name].title)}</a></td>'
        f"<td>{verdict(outcome)}</td><td>{_checks(outcome)}</td><td>{_time(outcome)}</td></tr>"
        for name, outcome in results.items()
    )


def verdict(outcome: Outcome) -> str:
    """The verdict of a claim in its colour."""
    return f'<span class="verdict {anchor(outcome.verdict)}">{outcome.verdict}</span>'


def citation(reference: Reference) -> str:
    """A paper by its number, as a link."""
    number = escape(reference.arxiv)
    return f'<a class="arxiv" href="https://arxiv.org/abs/{number}">arXiv {number}</a>'


def anchor(text: str) -> str:
    """An id for HTML."""
    return "".join(c if c.isalnum() else "-" for c in text)


def _authors(reference: Reference) -> str:
    names = [name.split(",")[0] for name in reference.authors.split(" and ")]
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)


def _checks(outcome: Outcome) -> str:
    return "" if outcome.result is None else agreement(outcome)


def _time(outcome: Outcome) -> str:
    return "" if outcome.result is None else duration(outcome.result.seconds)
