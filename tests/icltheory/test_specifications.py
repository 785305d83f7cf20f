"""Tasks, attention, formulas, limits: identity, pickling, refusals, and the import budget."""

import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from icltheory.symbols import d, noise_var, t

SPECIFICATIONS = [
    icl.LinearRegression(dim=5),
    icl.LinearRegression(dim=d, noise_var=noise_var),
    icl.LinearRegression(dim=2, feature_cov=[[2, 0.5], [0.5, 1]], coef_cov=[1, 0]),
    icl.SoftmaxAttention(heads=3),
    icl.SoftmaxAttention(scores=[np.eye(2), -np.eye(2)], values=[1, -1]),
    icl.LinearAttention(centered=True),
    icl.Gaussian([0, 1], [[1, 0.5], [0.5, 2]]),
    icl.loss_constant(
        icl.LinearRegression(dim=d, noise_var=noise_var), icl.SoftmaxAttention(heads=1)
    ),
    icl.optimal_loss_constant(icl.LinearRegression(dim=5), icl.SoftmaxAttention(heads=1)),
]


@pytest.mark.parametrize("thing", SPECIFICATIONS, ids=lambda x: type(x).__name__)
def test_frozen_hashable_picklable(thing):
    copy = pickle.loads(pickle.dumps(thing))
    assert copy == thing
    assert hash(copy) == hash(thing)
    with pytest.raises(AttributeError):
        thing.name = "changed"


def test_equal_tasks_are_one_cache_key():
    a = icl.LinearRegression(dim=2, feature_cov=np.array([[2.0, 0.5], [0.5, 1.0]]))
    b = icl.LinearRegression(dim=2, feature_cov=sp.Matrix([[2, sp.S.Half], [sp.S.Half, 1]]))
    assert a == b
    assert hash(a) == hash(b)
    assert a != icl.LinearRegression(dim=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim = 0 is not a positive integer"),
        ({"dim": 2.5}, "not a positive integer"),
        ({"dim": -3}, "not a positive integer"),
        ({"dim": "5"}, "text is never parsed"),
        ({"dim": True}, "not a number"),
        ({"dim": sp.Symbol("q", negative=True)}, "not a positive integer"),
        ({"dim": 3, "noise_var": -1}, "noise_var = -1 is negative"),
        ({"dim": 3, "noise_var": float("nan")}, "not finite"),
        ({"dim": 3, "noise_var": float("inf")}, "not finite"),
        ({"dim": 2, "feature_cov": [[1, 2], [2, 1]]}, "not positive definite"),
        ({"dim": 2, "feature_cov": [[1, 0.5], [0.4, 1]]}, "not symmetric"),
        ({"dim": 2, "feature_cov": [1, 0]}, "not positive definite"),
        ({"dim": 3, "feature_cov": np.eye(2)}, "shape 2 x 2; dim = 3 needs 3 x 3"),
        ({"dim": 3, "feature_cov": [1, 2]}, "lists 2 eigenvalues"),
        ({"dim": 2, "feature_cov": [[1, 0], [0, float("nan")]]}, "not finite"),
        ({"dim": 2, "feature_cov": [[1, 0], [0]]}, "equal rows"),
        ({"dim": d, "feature_cov": [1, 2]}, "dimension is the symbol d"),
        ({"dim": 2, "coef_cov": [1, -1]}, "coef_cov is not positive semi-definite"),
        ({"dim": 2, "coef_cov": 0}, "nothing to learn"),
    ],
)
def test_impossible_tasks_are_refused(arguments, message):
    with pytest.raises(icl.InvalidInput, match=message):
        icl.LinearRegression(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 0}, "not a positive integer"),
        ({"heads": d}, "symbolic"),
        ({"heads": 2, "scores": [1]}, "1 scores for 2 heads"),
        ({"values": [1]}, "values without scores"),
        ({"scores": [1, 2], "values": [1]}, "1 values for 2 heads"),
        ({"scores": 3}, "one entry a head"),
        ({"scores": ["k"]}, "text is never parsed"),
        ({"scores": [float("inf")]}, "not finite"),
    ],
)
def test_impossible_heads_are_refused(arguments, message):
    with pytest.raises(icl.InvalidInput, match=message):
        icl.SoftmaxAttention(**arguments)


def test_rank_deficient_coefficients_from_floats_are_accepted():
    u = np.array([0.3, -1.7, 0.9])
    task = icl.LinearRegression(dim=3, coef_cov=np.outer(u, u))
    assert abs(float(task.signal) - u @ u) < 1e-12


def test_limit_output_is_the_tilted_mean():
    gamma = sp.Matrix([[1, sp.Rational(3, 10)], [sp.Rational(3, 10), sp.Rational(4, 5)]])
    law, u = icl.Gaussian([1, -2], gamma), sp.Matrix([sp.Rational(7, 10), sp.Rational(-2, 5)])
    assert icl.limit_output(law, u).expr == sp.Matrix([1, -2]) + gamma * u
    assert icl.limit_jacobian(law, u).expr == gamma
    with pytest.raises(icl.InvalidInput, match="3 entries"):
        icl.limit_output(law, [1, 2, 3])


def test_consistency_is_where_the_limiting_risk_vanishes():
    sigma = sp.Matrix([[2, 1], [1, 3]])
    task = icl.LinearRegression(dim=2, feature_cov=sigma, coef_cov=[1, 2])
    condition = icl.consistency_condition(task, icl.SoftmaxAttention(heads=2)).expr
    assert condition.rhs == sp.ImmutableMatrix(sigma.inv())
    first = sp.Matrix([[1, 2], [0, 1]])
    heads = icl.SoftmaxAttention(scores=[first, sigma.inv() - first], values=[1, 1])
    assert icl.limit_risk(task, heads).expr == 0
    off = icl.SoftmaxAttention(
        scores=[first, sigma.inv() - first], values=[1, sp.Rational(103, 100)]
    )
    assert icl.limit_risk(task, off).expr > 0
    k1, k2, w1, w2 = sp.symbols("k1 k2 w1 w2", real=True)
    scalar = icl.limit_risk(task, icl.SoftmaxAttention(scores=[k1, k2], values=[w1, w2]))
    assert sp.expand(scalar.expr - task.signal * (k1 * w1 + k2 * w2 - 1) ** 2) == 0


def test_formula_shows_validity_source_and_steps():
    formula = icl.loss_constant(
        icl.LinearRegression(dim=d, noise_var=noise_var), icl.SoftmaxAttention()
    )
    latex = formula._repr_latex_()
    assert r"\sigma^{2}" in latex
    assert r"\text{for }" in latex
    assert "2401.17426" in formula.citation()
    assert len(formula.steps) >= 3
    assert [s.name for s in formula.symbols] == ["d", "noise_var", "t"]
    assert formula.symbol("t") is t
    with pytest.raises(icl.InvalidInput, match="its symbols: d, noise_var, t"):
        formula.subs(sigma=1)
    with pytest.raises(icl.InvalidInput, match="still contains"):
        float(formula)
    derivative = formula.diff("t").subs(d=5, noise_var=0)
    best = icl.optimal_loss_constant(icl.LinearRegression(dim=5), icl.SoftmaxAttention(heads=1))
    assert abs(derivative.expr.subs(t, best.minimizer[t]).evalf(30)) < 1e-25


def test_a_formula_is_a_name_and_an_expression():
    x = sp.Symbol("x")
    with pytest.raises(icl.InvalidInput, match=r"name = x.*not text"):
        icl.Formula(x, "name")
    with pytest.raises(icl.InvalidInput, match="never parsed"):
        icl.Formula("name", "x**2")
    with pytest.raises(icl.InvalidInput, match="never parsed"):
        icl.Formula("name", x, "x < 1")
    assert icl.Formula("name", 0.1).expr == sp.Rational(1, 10)


def test_another_symbol_of_one_name_is_no_symbol_of_the_formula():
    formula = icl.loss_constant(icl.LinearRegression(dim=5), icl.SoftmaxAttention(heads=1))
    with pytest.raises(icl.InvalidInput, match=r"use icltheory.symbols.t, or the name 't'"):
        formula.subs({sp.Symbol("t"): 0.1})
    own = icl.Formula("own", sp.Symbol("x", positive=True))
    with pytest.raises(icl.InvalidInput, match=r"another symbol called x .*: use the name 'x'"):
        own.diff(sp.Symbol("x"))


@pytest.mark.parametrize("dim", [5, d])
def test_limits_are_taken_from_inside_the_validity(dim):
    constant = icl.loss_constant(icl.LinearRegression(dim=dim), icl.SoftmaxAttention(heads=1))
    assert constant.limit(t, 0.5) == sp.oo
    assert constant.limit("t", 0) == sp.oo
    quarter = sp.Rational(1, 4)
    assert sp.expand(constant.limit(t, quarter) / constant.expr.subs(t, quarter)) == 1
    for point in (sp.Rational(3, 4), sp.oo):
        with pytest.raises(icl.OutOfDomain, match=f"t = {point} is outside t < 1/2"):
            constant.limit(t, point)
    with pytest.raises(icl.OutOfDomain, match="t = -1 is outside its domain > 0"):
        constant.limit(t, -1)


def test_limits_at_ends_from_above_and_below():
    x, a = sp.Symbol("x", real=True), sp.Symbol("a", positive=True)
    outside = sp.Or(x > 2, x < -2)
    assert icl.Formula("above", 1 / (x - 2), outside).limit(x, 2) == sp.oo
    assert icl.Formula("below", 1 / (x + 2), outside).limit(x, -2) == -sp.oo
    assert icl.Formula("above", 1 / x).limit(x, 0) == sp.oo
    assert icl.Formula("symbol", 1 / (a - x), x < a).limit(x, a) == sp.oo
    root = icl.Formula("root", 1 / x, sp.sqrt(x) > 0)
    assert root.limit(x, 0) == sp.oo
    for formula, point in ((icl.Formula("symbol", 1 / (a - x), x < a), 2 * a), (root, -1)):
        with pytest.raises(icl.OutOfDomain):
            formula.limit(x, point)


def test_an_undecided_limit_asks_for_numbers():
    constant = icl.loss_constant(icl.LinearRegression(dim=d), icl.SoftmaxAttention(heads=1))
    with pytest.raises(icl.InvalidInput, match=r"put numbers in for the other symbols first \(t\)"):
        constant.limit(d, sp.oo)
    assert constant.subs(t=0.1).limit(d, sp.oo) == sp.oo


def test_import_is_light():
    code = (
        "import sys, icltheory; "
        "print([m for m in ('numpy', 'torch', 'scipy', 'numeric', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "call",
    [
        lambda: icl.loss_constant(icl.SoftmaxAttention(), icl.LinearRegression(dim=2)),
        lambda: icl.loss_constant(icl.LinearRegression(dim=2), "softmax"),
        lambda: icl.loss_constant(icl.LinearRegression(dim=2), [1]),
        lambda: icl.optimal_loss_constant(icl.LinearRegression(dim=2), None),
        lambda: icl.multihead_gain(icl.SoftmaxAttention()),
        lambda: icl.finite_prompt_risk(5, icl.LinearAttention()),
        lambda: icl.limit_risk([5], icl.LinearAttention()),
    ],
)
def test_other_types_are_refused(call):
    with pytest.raises(icl.InvalidInput, match=r"has type \w+; pass icl\."):
        call()


@pytest.mark.parametrize("symbol", [icl.symbols.t, icl.symbols.k, icl.symbols.v, icl.symbols.n])
def test_symbols_of_the_layer_are_refused_in_a_task(symbol):
    with pytest.raises(icl.InvalidInput, match="another name"):
        icl.LinearRegression(dim=3, coef_cov=symbol**2)


def test_a_symbol_called_m_is_not_the_number_of_terms():
    m = sp.Symbol("m", positive=True)
    risk = icl.finite_prompt_risk(icl.LinearRegression(dim=5, noise_var=m), icl.LinearAttention())
    n, v = icl.symbols.n, icl.symbols.v
    assert sp.expand(risk.expr - (v - 1) ** 2 - v**2 * (6 + 5 * m) / n) == 0


def test_a_symbol_without_sign_is_refused_where_the_sign_decides():
    with pytest.raises(icl.InvalidInput, match="declare the symbols"):
        icl.optimal_loss_constant(
            icl.LinearRegression(dim=3, noise_var=sp.Symbol("s")), icl.SoftmaxAttention()
        )


def test_an_explicit_multiple_of_the_identity_is_the_isotropic_task():
    explicit = icl.LinearRegression(
        dim=2, feature_cov=[[1, 0], [0, 1]], coef_cov=[sp.S.Half, sp.S.Half]
    )
    assert explicit == icl.LinearRegression(dim=2)
    assert explicit.is_isotropic


def test_names_are_loaded_when_asked_for_and_match_the_stub():
    code = (
        "import icltheory, sys; print(sorted(m for m in sys.modules if m.startswith('icltheory')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "['icltheory']"
    stub = (Path(icl.__file__).parent / "__init__.pyi").read_text()
    listed = set(re.findall(r"^from \S+ import \w+ as (\w+)$", stub, re.M))
    assert listed == {*icl._HOMES, *icl._SUBMODULES}
    assert all(getattr(icl, name) is not None for name in listed)
    # A module of the same name would take the place of the function once it is imported.
    modules = {path.stem for path in Path(icl.__file__).parent.glob("*.py")}
    assert not modules & set(icl._HOMES)
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        _ = icl.nothing
    with pytest.raises(AttributeError, match=r"'SoftMaxAttention'; meant SoftmaxAttention\?"):
        _ = icl.SoftMaxAttention
