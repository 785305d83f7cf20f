"""What a reader sees: letters that are introduced, conditions in one form, short results."""

import re

import pytest
import sympy as sp

import icltheory as icl
from icltheory.conditions import condition_text, isolated
from icltheory.formula import Derivation, Formula, Step
from icltheory.latex_lines import to_latex
from icltheory.laws.special import bessel_quotient, log_bessel
from icltheory.readable import collected, joined, positive
from icltheory.symbols import MATRICES, TABLE, b, d, eta, g, k, n, noise_var, t, v

TASK = icl.LinearRegression(dim=d, noise_var=noise_var)
ONE, PAIR = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
GIVEN = icl.SoftmaxAttention(scores=[k], values=[v])
LINEAR = icl.LinearAttention()
LOCAL = icl.LinearRegression(dim=d, noise_var=noise_var, local=(icl.symbols.rho, 1))
CUMULANTS = icl.CoordinateCumulants([1, icl.symbols.kappa_4, icl.symbols.kappa_6])
TIGHT = icl.LinearRegression(dim=3, noise_var=noise_var, coef_mean=[1, 0, 0])
READING = icl.SoftmaxAttention(heads=2, feature_values=True)
DESCENT, NEWTON = icl.GradientDescent(eta), icl.IterativeNewton(icl.symbols.alpha)

FORMULAS = {
    "loss constant": lambda: icl.loss_constant(TASK, PAIR),
    "optimum": lambda: icl.optimal_loss_constant(TASK, ONE),
    "infimum": lambda: icl.optimal_loss_constant(TASK, PAIR),
    "gain": lambda: icl.multihead_gain(TASK),
    "gain bounds": lambda: icl.gain_bounds(TASK)[0],
    "consistency": lambda: icl.consistency_condition(TASK, PAIR),
    "values": lambda: icl.optimal_values(TASK, icl.SoftmaxAttention(scores=[k, -k]).scores),
    "floor": lambda: icl.head_floor(TASK, GIVEN),
    "blocks": lambda: icl.equal_block_constant(TASK, icl.symbols.H),
    "finite prompt": lambda: icl.optimal_finite_prompt_risk(TASK, PAIR),
    "linear": lambda: icl.optimal_finite_prompt_risk(TASK, LINEAR),
    "small pair": lambda: icl.small_pair_risk(TASK, PAIR),
    "pair slope": lambda: icl.pair_slope(TASK, PAIR),
    "pair scale": lambda: icl.pair_scale(TASK),
    "Bayes": lambda: icl.bayes_risk_expansion(TASK),
    "exponent": icl.correction_exponent,
    "decay": icl.slow_decay_law,
    "phase": icl.phase_exponent,
    "proportional": lambda: icl.proportional_gain(TASK),
    "local": lambda: icl.local_stationarity(LOCAL),
    "local sum": lambda: icl.local_value_sum(LOCAL),
    "tight prior": lambda: icl.tight_prior_threshold(TIGHT, READING),
    "approximate": lambda: icl.approximate_risk(TASK, GIVEN),
    "product": lambda: icl.optimal_product_risk(TASK, CUMULANTS, ONE),
    "product, exact": lambda: icl.optimal_product_risk(TASK, CUMULANTS, PAIR),
    "infinite prompt": lambda: icl.infinite_prompt_risk(TASK),
    "linear attention": lambda: icl.optimal_linear_attention(TASK),
    "flow": lambda: icl.closed_form(TASK).risk,
    "tied": lambda: icl.tied_time(TASK),
    "valley": lambda: icl.optimal_valley_constant(TASK),
    "drift": lambda: icl.valley_drift(TASK),
    "expansion": lambda: icl.head_expansion(icl.LinearRegression(dim=2), [0.25], [4]),
    "solver": lambda: icl.solver_risk(NEWTON, 1, noise_var=noise_var),
    "late solver": lambda: icl.late_solver_risk(DESCENT, icl.symbols.steps),
    "matched": lambda: icl.matched_steps(NEWTON, DESCENT),
    "contraction": lambda: icl.contraction_moment(4),
    "generating": icl.contraction_generating_function,
    "maximum": icl.normal_maximum_mean,
    "oracle": icl.oracle_selection_risk,
    "verified": icl.verified_success,
    "state": lambda: icl.state_evolution_map(icl.Round()),
    "clip": icl.clip_floor,
}


def words(text):
    return set(re.findall(r"[A-Za-z]\w*", text))


def strangers(formula):
    """Letters of steps that no title, no left side and no table introduces, in order."""
    known = set(TABLE) | {s.symbol for s in formula.symbols}
    known |= set(formula.where) | set(formula.abbreviations)
    for key, value in (formula.minimizer or {}).items():
        known |= {key} | value.free_symbols
    told, out = set(), []
    for step in formula.steps:
        told |= words(step.title)
        left = getattr(step.equation, "lhs", None)
        if isinstance(left, (sp.Symbol, sp.Pow, sp.MatrixSymbol)):
            told |= {s.name for s in left.free_symbols}
        for letter in step.equation.free_symbols - known:
            stem, _, number = letter.name.rpartition("_")
            indexed = number.isdecimal() and any(f"{stem}_{i}" in told for i in "hijkl")
            matrix = isinstance(letter, sp.MatrixSymbol) and letter.name in MATRICES
            named = letter.name in told or words(letter.name) <= told
            spelled = named and not isinstance(letter, sp.Dummy)
            if not (indexed or matrix or spelled):
                out.append((step.title, letter))
    return out


@pytest.mark.parametrize("name", FORMULAS)
def test_every_letter_of_a_derivation_is_introduced(name):
    formula = FORMULAS[name]()
    assert strangers(formula) == []
    shown = " ".join(step.latex() for step in formula.steps)
    # No raw names of compound letters in LaTeX, no Python equations in text.
    assert not re.search(r"(?<!\\)Sigma|theta\}|oo\b", shown.replace(r"\theta", ""))
    assert "Eq(" not in str(formula.steps)


def test_a_letter_out_of_nowhere_is_seen():
    x, stranger = sp.symbols("x stranger")
    bad = Formula("bad", x, steps=(Step("a sum", sp.Eq(sp.Symbol("S"), x + stranger)),))
    assert strangers(bad) == [("a sum", stranger)]
    good = Formula("good", x, steps=(Step("a sum with a stranger", bad.steps[0].equation),))
    assert strangers(good) == []
    hidden = Formula("hidden", x, steps=(Step("mean m", sp.Eq(x, sp.Dummy("m"))),))
    assert len(strangers(hidden)) == 1


def test_a_derivation_says_nothing_twice():
    steps = icl.multihead_gain(TASK).steps
    assert len(set(steps)) == len(steps)
    assert isinstance(steps, Derivation)


def test_letters_of_derivations_have_latex():
    assert to_latex(sp.Symbol("q_h'Sigma theta", real=True)) == r"q_h^{\top} \Sigma \theta"
    assert to_latex(sp.Symbol("slope")) == r"\mathrm{slope}"
    assert to_latex(sp.Symbol("r_oo")) == r"r_{\infty}"
    assert to_latex(sp.Symbol("omega")) == r"\omega"
    powers = [noise_var**2, sp.sqrt(noise_var), noise_var, 1 / noise_var, noise_var**d]
    assert [to_latex(x) for x in powers] == [
        r"\sigma^{4}",
        r"\sigma",
        r"\sigma^{2}",
        r"\frac{1}{\sigma^{2}}",
        r"\left(\sigma^{2}\right)^{d}",
    ]


# -- conditions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (1 - 2 * t > 0, "t < 1/2"),
        (2 * t < 1, "t < 1/2"),
        (-t < -sp.Rational(1, 3), "t > 1/3"),
        (2 * g**2 < 1, "g < sqrt(2)/2"),
        (1 - 2 / b**2 > 0, "b**2 > 2"),
        (1 - 2 / sp.sqrt(d) > 0, "d > 4"),
        (2 * abs(b) <= 3, "Abs(b) <= 3/2"),
        (n - 2 >= 0, "n >= 2"),
        (n > d + 1, "n > d + 1"),
        (sp.And(2 * t < 1, sp.Ne(b, 0)), "t < 1/2 and b != 0"),
        (sp.Or(sp.And(b > 1, t < 1), b < -1), "(b > 1 and t < 1) or b < -1"),
    ],
)
def test_conditions_have_one_form(given, text):
    found = isolated(given)
    assert sorted(condition_text(found).split(" and ")) == sorted(text.split(" and "))
    points = [sp.Rational(p, 4) for p in (1, 2, 3, 5, 6, 8, 11, 17, 20)]
    for x in points:
        at = dict.fromkeys(given.free_symbols - {d, n}, x) | {d: int(4 * x), n: int(4 * x) + 1}
        assert found.subs(at) == given.subs(at)


def test_conditions_of_formulas_are_isolated():
    formula = Formula("example", t, validity=1 - 2 * t > 0)
    assert formula.validity == (t < sp.S.Half)
    assert formula.condition == "t < 1/2"
    assert str(formula).endswith("for t < 1/2")
    assert icl.optimal_values(TASK, [k, -k]).condition == "t < 1/2"
    assert icl.valley_constant(TASK).condition == "b**2 > 2"
    assert icl.endpoint_constant(TASK).condition == "d > 4"
    with pytest.raises(icl.OutOfDomain, match="outside t < 1/2"):
        formula.subs(t=1)


# -- results -------------------------------------------------------------------------------------


def test_long_results_are_short():
    lengths = {
        "optimum": 80,
        "valley": 80,
        "drift": 140,
        "late solver": 220,
        "solver": 140,
        "generating": 130,
        "verified": 260,
        "local": 250,
    }
    for name, limit in lengths.items():
        assert len(str(FORMULAS[name]().abbreviated())) <= limit, name


def test_abbreviations_stand_for_parts():
    best = icl.optimal_loss_constant(TASK, ONE)
    (name, part), *rest = best.abbreviations.items()
    assert not rest
    assert best.abbreviated().xreplace({name: part}) == best.expr
    assert float(best.subs(d=5, noise_var=1)) == pytest.approx(35.52603020520253, rel=1e-13)
    # At numbers nothing is left to abbreviate, and no number is taken for the part.
    assert not best.subs(d=5, noise_var=1).abbreviations
    assert not icl.solver_risk(NEWTON, 1).subs(n=20, d=10).abbreviations


def test_moments_are_the_parts_of_a_solver_risk():
    risk = icl.solver_risk(NEWTON, 1, noise_var=noise_var)
    m = {j: sp.Symbol(f"m_{j}") for j in range(2, 9)}
    assert set(risk.abbreviations) == set(m.values())
    for j, name in m.items():
        assert sp.expand(d * risk.abbreviations[name] - icl.wishart_trace_moment(j)) == 0
    alpha = icl.symbols.alpha
    assert risk.abbreviated().coeff(alpha, 2) == 6 * m[4]
    at = {"alpha": 1e-4, "n": 20, "d": 10, "noise_var": 0.3}
    exact = icl.solver_risk(icl.IterativeNewton(1e-4), 1, n=20, d=10, noise_var=0.3)
    assert risk.subs(at).expr == exact.expr


def test_own_symbols_give_the_form_of_the_canonical_ones():
    s = sp.Symbol("s", positive=True)
    own = icl.LinearRegression(dim=d, noise_var=s**2)
    for function in (
        icl.optimal_valley_constant,
        lambda task: icl.optimal_loss_constant(task, ONE),
    ):
        first, after = function(own), function(TASK).subs(noise_var=s**2)
        assert len(str(first)) <= len(str(after)) + 5
        at = {d: 7, s: sp.Rational(2, 3)}
        assert float(first.expr.subs(at)) == pytest.approx(float(after.expr.subs(at)), rel=1e-14)


def test_the_square_root_of_the_product_bias_is_positive_by_construction():
    best = icl.optimal_product_risk(TASK, CUMULANTS, ONE)
    assert "-1/" not in str(best.expr)
    values = {"kappa_4": sp.Rational(-6, 5), "kappa_6": sp.Rational(48, 7), "noise_var": 1, "n": 50}
    uniform = icl.UniformCube(dim=1, half_width=sp.sqrt(3))
    law = icl.optimal_product_risk(icl.LinearRegression(dim=1, noise_var=1), uniform, ONE)
    assert float(best.subs(values)) == pytest.approx(float(law.subs(n=50)), rel=1e-14)
    for name, value in best.minimizer.items():
        there = value.subs({best.symbol(key): x for key, x in values.items()})
        assert float(there) == pytest.approx(float(law.minimizer[name].subs(n, 50)), rel=1e-13)
    assert "kappa_4 != 0" in best.condition


def test_numbers_show_their_size():
    x = sp.Symbol("x")
    long = sp.Rational(123456789012, 987654321987)
    assert str(Formula("long", long)).endswith("329218107329 (= 0.1249999987...)")
    assert r"\approx 0.1249999987" in Formula("long", long)._repr_latex_()
    for short in (sp.Rational(3, 5), sp.Integer(6), x / 123456789012, sp.Float("0.66286645911")):
        assert "..." not in str(Formula("short", short))
        assert "approx" not in Formula("short", short)._repr_latex_()


def test_functions_at_one_half_show_as_hyperbolic():
    u = sp.Symbol("u", real=True)
    quotient, log = bessel_quotient(sp.S.Half, u**2), log_bessel(sp.S.Half, u**2)
    assert (str(quotient), str(log)) == ("(coth(u)/u - 1/u**2)", "(log(sinh(u)/u))")
    assert r"\coth{\left(u \right)}" in sp.latex(quotient**2)
    assert sp.latex(bessel_quotient(1, u) ** 2) == r"{q_{1}\left(u\right)}^{2}"
    shown = (sp.coth(u) / u - 1 / u**2).subs(u, 0.7)
    assert float(quotient.subs(u, 0.7)) == pytest.approx(float(shown), rel=1e-12)


def test_rewritings_keep_their_value():
    x, y = sp.symbols("x y", positive=True)
    expr = -y * (x**2 - 9 * x - 6) / (x - 3)
    for form in (positive, collected, joined):
        found = form(expr)
        assert sp.cancel(found - expr) == 0
    assert collected(x * y + x * y**2 - 2 * x**2 * y, x) == x * y * (y + 1) - 2 * x**2 * y
    assert joined(x ** (y + 1) * x**2) == x ** (y + 3)
