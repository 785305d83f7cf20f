"""How results show themselves: LaTeX that fits, derivations step by step, evaluators with meanings."""

import copy
import pickle
import re

import pytest
import sympy as sp

import icltheory as icl
import numeric
from icltheory.formula import Derivation, Formula, Step
from icltheory.latex_lines import broken, in_lines, stacked, visible_width
from icltheory.symbols import d, noise_var

x, y, z = sp.symbols("x y z")
LONG = sp.Add(*(sp.Symbol(f"a{i}") * x**i / (i + 1) for i in range(40)))
HEAD = icl.SoftmaxAttention(heads=1)
CONSTANT = icl.loss_constant(icl.LinearRegression(dim=d, noise_var=noise_var), HEAD)


def joined(lines):
    return re.sub(r"\s", "", " ".join(lines)).lstrip("+")


# -- lines ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latex", "width"),
    [
        ("x", 1),
        (r"\frac{a + b}{c d e f g}", 5),
        (r"\frac{\frac{a + b + c}{2}}{x} + 1", 7),
        (r"x^{2 n} y", 3),
        (r"\left(\alpha + \beta\right)", 5),
        (r"\operatorname{tr}\left(A\right)", 5),
    ],
)
def test_width_is_what_is_seen(latex, width):
    assert visible_width(latex) == width


def test_a_sum_is_broken_between_its_terms_and_nothing_is_lost():
    lines = broken(LONG, 60)
    assert 3 <= len(lines) <= 8
    assert all(visible_width(line) <= 60 for line in lines)
    # Nearly equal lines: no orphan at the end.
    assert min(map(visible_width, lines)) > 0.5 * max(map(visible_width, lines))
    assert joined(lines) == re.sub(r"\s", "", sp.latex(LONG))
    assert all(line.startswith(("+ ", "- ")) for line in lines[1:])


@pytest.mark.parametrize("sign", [1, -1])
def test_signs_survive(sign):
    terms = [sign * x * (-1) ** i / (i + 1) ** 9 * sp.Symbol(f"b{i}") for i in range(20)]
    total = sp.Add(*terms)
    assert joined(broken(total, 30)) == re.sub(r"\s", "", sp.latex(total))


def test_products_and_equations_are_broken_at_their_sum():
    lines = broken(y**2 / (3 * z) * LONG, 60)
    assert len(lines) > 2
    assert r"\Bigl[" in lines[0]
    assert lines[0].startswith(r"\frac{y^{2}}{3 z}")
    assert lines[-1].endswith(r"\Bigr]")
    assert broken(-LONG * y, 60)[0].startswith(r"y \Bigl[ - a_{0} - ")
    lines = broken(sp.Eq(y, LONG, evaluate=False), 60)
    assert lines[0].startswith("y = ")
    assert len(lines) > 2
    matrices = [sp.MatrixSymbol(f"M{i}", 3, 3) for i in range(40)]
    assert len(broken(sp.MatAdd(*matrices), 60)) > 1


def test_what_cannot_be_broken_stays_whole():
    assert broken(x + y) == ["x + y"]
    assert broken(sp.exp(LONG), 60) == [sp.latex(sp.exp(LONG))]
    assert in_lines(["a"]) == "a"
    assert stacked([["a"], ["b"]]) == r"\begin{aligned} & a \\ & b \end{aligned}"


@pytest.mark.parametrize("factor", [1, y / z])
def test_a_long_formula_shows_in_lines_with_its_notes_below(factor):
    formula = Formula("long", factor * LONG, validity=x < 1, attained=False)
    shown = formula._repr_latex_()
    assert shown.count(r"\begin{aligned}") == shown.count(r"\end{aligned}") == 1
    assert r"\\ & \text{(infimum, not attained)}\quad \text{for } x < 1" in shown
    assert shown.count(r"\left") == shown.count(r"\right")
    assert shown.count("{") == shown.count("}")
    assert "aligned" not in formula.latex()  # the source to copy is one expression
    assert "aligned" not in CONSTANT._repr_latex_()
    assert CONSTANT._repr_latex_().endswith(r"\quad \text{for } t < \frac{1}{2}$")


def test_flows_and_closed_forms_show_one_equation_a_line():
    flow = icl.gradient_flow(icl.LinearRegression(dim=5, coef_cov=1), ("A", "u", "v", "b"))
    shown = flow._repr_latex_()
    assert all(rf"\dot{{{name}}} & =" in shown for name in "Auvb")
    assert shown.count("conserved") == len(flow.conserved)
    form = icl.closed_form(icl.LinearRegression(dim=d, coef_cov=1))._repr_latex_()
    for start in ("a(t) = ", "b(t) = ", "q = "):
        assert form.count(f"& {start}") == 1


# -- derivations ---------------------------------------------------------------------------------


def test_steps_show_as_titled_equations():
    steps = CONSTANT.steps
    assert isinstance(steps, Derivation)
    assert isinstance(steps, tuple)
    assert str(steps) == repr(steps) == CONSTANT.explain()
    shown = steps._repr_markdown_()
    assert CONSTANT.explain()._repr_markdown_() == shown
    assert shown.count("**") == 2 * len(steps)
    assert shown.count("$$") == 2 * len(steps)
    assert shown.startswith("**1. ")
    # Markdown must not read a mark in a title as its own.
    assert Step("w* of k_1", x)._repr_markdown_().startswith(r"**w\* of k\_1**")


def test_formulas_with_steps_stay_hashable_and_travel():
    for again in (pickle.loads(pickle.dumps(CONSTANT)), copy.deepcopy(CONSTANT)):
        assert again == CONSTANT
        assert hash(again) == hash(CONSTANT)
        assert isinstance(again.steps, Derivation)
        assert again.steps == CONSTANT.steps
    told = CONSTANT.explain()
    assert pickle.loads(pickle.dumps(told)) == told
    assert isinstance(CONSTANT.subs(d=5).steps, Derivation)
    assert Formula("none", x).explain() == ""


def test_sympy_prints_a_formula_as_the_formula_does():
    assert sp.latex(CONSTANT) == CONSTANT.latex()
    assert CONSTANT.latex() in sp.latex([CONSTANT])


# -- evaluators ----------------------------------------------------------------------------------


def test_an_evaluator_says_what_its_arguments_mean():
    shown = numeric.compile(CONSTANT)._repr_markdown_()
    assert "| `noise_var` | label noise variance | >= 0 |" in shown
    assert "function of d, noise_var, t (numpy)" in shown
    assert CONSTANT._repr_latex_() in shown
    flow = icl.gradient_flow(icl.LinearRegression(dim=5, coef_cov=1))
    shown = numeric.compile(flow.velocities)._repr_markdown_()
    assert "| `A` | " in shown
    assert all(formula._repr_latex_() in shown for formula in flow.velocities.values())
    table = [line for line in shown.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in table)
