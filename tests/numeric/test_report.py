"""The report: one page that is whole, loads nothing, and says what was found."""

import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sympy as sp
import test_runner as fakes

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.symbols import d, lam, noise_var, t
from numeric.claims.runner import Outcome, load_claims, run
from numeric.report import build, formula_mathml

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
    assert shown.count("Negative control, predictions × 1.03: rejected") == 2
    assert shown.count("Negative control, predictions × 1.03: not rejected") == 1
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
