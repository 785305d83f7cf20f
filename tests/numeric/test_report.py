"""The report: one page that is whole, loads nothing, and says what was found."""

import math
import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import sympy as sp
import test_runner as fakes

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.symbols import d, lam, noise_var, t
from numeric.claims.base import Part
from numeric.claims.rows import inside
from numeric.claims.runner import Outcome, load_claims, run
from numeric.compare import compare
from numeric.findings import FINDINGS
from numeric.mathml import formula_mathml, prose_html, prose_latex
from numeric.report import _part, build, claim_latex
from numeric.report_overview import overview

VOID = {"meta", "br", "hr", "img", "link"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects what a browser would look at."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.ids, self.text = [], set(), [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


KINDS = {
    "first": fakes.agreeing,
    "second": fakes.deviating,
    "third": fakes.blurred,
    "fourth": fakes.raising,
}


@pytest.fixture
def made(tmp_path):
    claims = {name: fakes.fake(name, kind, tmp_path) for name, kind in KINDS.items()}
    outcomes = run(claims.values(), fakes.EFFORT, tmp_path / "out", jobs=1).outcomes
    claims["fifth"] = fakes.fake("fifth", fakes.agreeing, tmp_path)
    outcomes["fifth"] = Outcome("fifth")
    return outcomes, claims


def test_the_page_is_balanced_and_loads_nothing(made, tmp_path):
    path = build(*made, tmp_path / "report.html")
    text = path.read_text()
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>")
    assert len(page.ids) == len(set(page.ids))
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    for tag, name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            outside = not value.startswith("#")
            assert not outside or (tag == "a" and value.startswith("https://arxiv.org/abs/"))
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    assert "width=device-width" in text
    assert "prefers-color-scheme: dark" in text
    # Links within the page lead somewhere.
    inner = {value[1:] for tag, name, value in page.attributes if value and value.startswith("#")}
    assert inner <= set(page.ids)
    assert set(KINDS) <= inner


def test_a_page_with_an_open_tag_would_be_seen():
    with pytest.raises(AssertionError):
        Page("<div><p></div>")


def test_everything_asked_for_is_on_the_page(made, tmp_path):
    text = build(*made, tmp_path / "report.html").read_text()
    shown = Page(text).text
    assert "1 of 5 claims confirmed, effort: quick" in shown
    # The tile of the paper counts all verdicts and the rows of three results.
    for fact in ("1 confirmed", "1 refuted", "1 undecided", "1 error", "1 not run"):
        assert fact in shown
    assert "rows not testable this way" in shown
    for verdict in ("confirmed", "refuted", "undecided", "error", "not run"):
        assert f">{verdict}</span>" in text
    for piece in (
        "A statement <in words>.",
        "Superiority of Multi-Head Attention",
        "arXiv 2401.17426",
        "loss constant, one softmax head",
        "Holds for",
        "ValueError: no such\nluck",
        "Traceback",
        "Not computed yet.",
        "Caption.",
        "icltheory reproduce --quick --claim first --fresh",
    ):
        assert piece in shown
    assert shown.count("Negative control, predictions × 1.03: rejected by ") == 2
    assert shown.count("Negative control, predictions × 1.03: not rejected by 0 of ") == 1
    # A row a comparison, all of them.
    rows = re.findall(r"<tr><td>(?:10|20)</td>", text)
    assert len(rows) == 6
    assert text.count("<svg") == 3


def test_a_formula_that_cannot_be_derived_does_not_lose_the_report(made, tmp_path):
    outcomes, claims = made
    broken = replace(claims["first"], formulas=partial(sp.Symbol, 1))
    shown = Page(build(outcomes, {**claims, "first": broken}, tmp_path / "r.html").read_text()).text
    assert "The formulas could not be derived" in shown


def test_the_real_claims_have_a_page_before_they_are_run(tmp_path):
    claims = load_claims()
    path = build({name: Outcome(name) for name in claims}, claims, tmp_path / "report.html")
    page = Page(path.read_text())
    assert page.text.count("Not computed yet.") == len(claims)
    assert "could not be derived" not in page.text
    assert "math" in page.tags


def test_mathml_writes_the_canonical_signs():
    assert "noise" not in formula_mathml(noise_var)
    assert formula_mathml(noise_var) == (
        '<math display="block"><msup><mi>&#963;</mi><mn>2</mn></msup></math>'
    )
    assert "<mn>4</mn>" in formula_mathml(noise_var**2)
    assert "&#955;" in formula_mathml(lam)
    assert "<mo>&lt;</mo>" in formula_mathml(t < sp.S.Half, "inline")
    assert '<mspace width="0.2em"></mspace><mrow><mi>arctanh' in formula_mathml(d * sp.atanh(t))
    assert "mspace" not in formula_mathml(2 * t * noise_var)
    for expr in (
        1 / noise_var,
        sp.sqrt(noise_var),
        sp.And(d >= 2, t < 1),
        icl.multihead_gain(fakes.GENERAL).expr,
        icl.consistency_condition(icl.LinearRegression(dim=2), icl.SoftmaxAttention(heads=2)).expr,
    ):
        Page(formula_mathml(expr))


def test_a_place_that_cannot_be_written_is_refused(made, tmp_path):
    Path(tmp_path, "report.html").mkdir()
    with pytest.raises(InvalidInput, match="cannot be written"):
        build(*made, tmp_path / "report.html")


def test_the_statement_is_there_as_latex(made, tmp_path):
    outcomes, claims = made
    claim = replace(claims["first"], statement="The risk falls like n^{-1/2}, by 5 %.")
    source = claim_latex(claim, claim.formulas())
    assert source.startswith(r"\paragraph{")
    assert r"falls like $n^{-1/2}$, by 5 \%." in source
    assert source.count(r"\begin{equation}") == source.count(r"\end{equation}") > 0
    page = build(outcomes, {**claims, "first": claim}, tmp_path / "r.html").read_text()
    assert r"falls like $n^{-1/2}$" in Page(page).text
    assert "falls like n<sup>−1/2</sup>" in page


@pytest.mark.parametrize(
    ("text", "html", "latex"),
    [
        ("plain words_with_bars", "plain words_with_bars", r"plain words\_with\_bars"),
        ("S^-1 <= w*", "S<sup>−1</sup> ≤ w*", r"$S^{-1}$ $\le$ w*"),
        ("((n - d)/2)^2", "((n - d)/2)<sup>2</sup>", r"((n - d)/2)$^{2}$"),
        (
            "n^(-c2/sigma^2)",
            "n<sup>−c2/σ<sup>2</sup></sup>",
            r"$n^{-c2/\sigma^2}$",
        ),
        ("a <b> & tau", "a &lt;b&gt; &amp; τ", r"a <b> \& $\tau$"),
    ],
)
def test_mathematics_in_running_text(text, html, latex):
    assert prose_html(text) == html
    assert prose_latex(text) == latex


def test_every_statement_of_a_claim_is_valid_html_and_balanced_latex():
    for claim in load_claims().values():
        for text in (claim.statement, claim.title):
            Page(prose_html(text))
            latex = prose_latex(text)
            assert latex.count("$") % 2 == 0
            assert latex.count("{") == latex.count("}")
            assert "^" not in re.sub(r"\$[^$]*\$", "", latex)


def test_findings_belong_to_claims_and_say_something():
    claims = load_claims()
    assert {claims[finding.claim].paper for finding in FINDINGS} == {
        claim.paper for claim in claims.values()
    }
    assert len({(f.claim, f.published) for f in FINDINGS}) == len(FINDINGS)
    for finding in FINDINGS:
        assert finding.published.endswith(".")
        assert finding.found.endswith(".")


def test_findings_are_listed_with_the_verdict_of_their_claim():
    claims = load_claims()
    text = overview({name: Outcome(name) for name in claims}, claims)
    listed = text[text.index("<h2>Audit findings") : text.index("<h2>Claims")]
    assert listed.count("<li>") == listed.count("not run") == len(FINDINGS)
    for name, finding in ((f.claim, f) for f in FINDINGS):
        assert f'href="#{name}"' in listed
        assert prose_html(finding.found) in listed


def test_headings_are_in_order(made, tmp_path):
    text = build(*made, tmp_path / "report.html").read_text()
    levels = [int(level) for level in re.findall(r"<h([1-6])", text)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))


def test_long_tables_that_pass_are_folded(made, tmp_path):
    outcomes, claims = made
    part = outcomes["first"].result.parts[0]
    long = replace(part, comparison=type(part.comparison)(part.comparison.rows * 10))
    result = replace(outcomes["first"].result, parts=(long,))
    outcomes = {**outcomes, "first": replace(outcomes["first"], result=result)}
    text = build(outcomes, claims, tmp_path / "report.html").read_text()
    assert text.count("<summary>All 20 rows</summary>") == 1
    assert "20 of 20 rows agree" in Page(text).text


def test_the_control_tells_how_many_rows_reject_it():
    rows = [
        compare({"n": 1}, 1, 1, 1e-3),
        compare({"n": 2}, 1, 1, 1e-3, 0.1),  # its allowance hides 3 %
        compare({"n": 3}, 1, 1, None),
    ]
    part = Part.of("some", rows)
    assert part.control_rejections == (1, 2)
    assert part.control_rejected
    assert "rejected</span>" not in _part(part)
    assert ">rejected by 1 of 2 rows</span>" in _part(part)
    alone = Part.of("one", rows[1:2])
    assert not alone.control_rejected
    assert ">not rejected by 0 of 1 row</span>" in _part(alone)


def test_a_bound_is_kept_by_five_standard_errors():
    def kept(value, error, *bounds):
        row = inside({"n": 1, "quantity": "share"}, value, error, *bounds)
        return row.verdict == "agrees", row.setting["quantity"]

    assert kept(0.5, 0.01, 0.4, 0.6) == (True, "share: 0.5000 +- 0.0100, above 0.4 and below 0.6")
    assert kept(0.5, 0.021, 0.4) == (False, "share: 0.5000 +- 0.0210, above 0.4")
    assert not kept(0.5, 0.021, -math.inf, 0.6)[0]
    assert not kept(math.nan, 0.01, 0.4)[0]
