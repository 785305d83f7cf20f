"""The proportional regime: the limit from two routes, its optimum, the gain, refusals."""

import pytest
import sympy as sp

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.laws.weights import (
    moment_symbol,
    power_sum,
    s,
    score_sum,
    softmax_expectation,
    softmax_moment_expansion,
)
from icltheory.proportional import a, gamma, kappa
from icltheory.symbols import d, n, noise_var

R = sp.Rational
WRONG = R(103, 100)
TASK = icl.LinearRegression(dim=d, noise_var=noise_var)
ONE, TWO = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
LINEAR, CENTERED = icl.LinearAttention(), icl.LinearAttention(centered=True)
SIGNAL = 1 + noise_var


def assert_same(value, typed):
    assert sp.simplify(value - typed) == 0
    assert sp.simplify(value * WRONG - typed) != 0


def test_reference_limits():
    one = (1 - a) ** 2 + a**2 * gamma * SIGNAL * sp.exp(kappa**2) / kappa**2
    assert_same(icl.proportional_risk(TASK, ONE).expr, one)
    pair = (1 - a) ** 2 + a**2 * gamma * SIGNAL * sp.sinh(kappa**2) / kappa**2
    assert_same(icl.proportional_risk(TASK, TWO).expr.rewrite(sp.exp), pair.rewrite(sp.exp))
    for layer in (LINEAR, CENTERED):
        assert_same(icl.proportional_risk(TASK, layer).expr, (1 - a) ** 2 + a**2 * gamma * SIGNAL)


def test_reference_optima():
    best = icl.optimal_proportional_risk(TASK, ONE)
    e = sp.E * gamma * SIGNAL
    assert_same(best.expr, e / (1 + e))
    assert best.minimizer[kappa] == 1
    assert_same(best.minimizer[a], 1 / (1 + e))
    assert best.attained is True
    many = gamma * SIGNAL / (1 + gamma * SIGNAL)
    for layer, attained in ((TWO, False), (icl.SoftmaxAttention(heads=5), False), (LINEAR, True)):
        formula = icl.optimal_proportional_risk(TASK, layer)
        assert_same(formula.expr, many)
        assert formula.attained is attained
        assert (formula.minimizer is None) is not attained
    assert abs(float(best.subs(gamma=R(1, 2), noise_var=0)) - 0.57612) < 5e-6


def test_gain_is_the_limit_of_the_gain_at_fixed_dimension():
    gain = icl.proportional_gain(TASK)
    assert gain.expr == sp.E
    assert icl.multihead_gain(icl.LinearRegression(dim=d)).limit(d, sp.oo) == sp.E
    one, many = (icl.optimal_proportional_risk(TASK, layer).expr for layer in (ONE, TWO))
    assert sp.simplify(one - many.subs(gamma, gain.expr * gamma)) == 0


def test_one_head_from_the_exact_functional_at_every_prompt_length():
    # Given |x_q| = r the risk is exact in the weight moments at scale kappa r/sqrt(d); r^2 = d here.
    v, m = sp.symbols("v m", positive=True)
    read, square = score_sum(1), power_sum(2)
    along = sp.expand((sp.sqrt(d) - v * read) ** 2) / d
    exact = softmax_expectation(along) + ((d - 1) / d + noise_var) * v**2 * softmax_expectation(
        square
    )
    moments = {
        moment_symbol(2): softmax_moment_expansion(2, order=2).expr,
        moment_symbol(3): softmax_moment_expansion(3, order=1).expr,
        moment_symbol(2, 2): softmax_moment_expansion(2, 2, order=1).expr,
    }
    risk = sp.expand(exact).subs(moments).subs({s: kappa, v: a * sp.sqrt(d) / kappa})
    risk = sp.expand(risk.subs({d: gamma * n}))
    limit = sp.Add(*(t for t in risk.args if sp.degree(sp.Mul(t, n**5), n) >= 5))
    assert_same(limit.subs(m, 1), icl.proportional_risk(TASK, ONE).expr)


def test_small_gamma_is_the_large_dimension_form_of_the_constants():
    # gamma -> 0: optimal constants e s d and s d of the fixed-dimension theory, per dimension.
    for layer, slope in ((ONE, sp.E * SIGNAL), (TWO, SIGNAL)):
        expr = icl.optimal_proportional_risk(TASK, layer).expr
        assert_same(sp.diff(expr, gamma).subs(gamma, 0), slope)
        constant = icl.optimal_loss_constant(icl.LinearRegression(dim=10**7, noise_var=1), layer)
        assert float(constant) / 10**7 == pytest.approx(float(slope.subs(noise_var, 1)), rel=1e-6)


def test_several_heads_and_the_bound():
    c = (R(3, 10), R(-7, 10), R(6, 5))
    w = (2, R(-1, 2), R(1, 3))
    root = sp.sqrt(d)
    heads = icl.SoftmaxAttention(scores=[x / root for x in c], values=[x * root for x in w])
    expr = icl.proportional_risk(TASK, heads).expr
    total = sum(x * y for x, y in zip(c, w, strict=True))
    pairs = sum(
        p * q * sp.exp(x * y) for p, x in zip(w, c, strict=True) for q, y in zip(w, c, strict=True)
    )
    typed = (1 - total) ** 2 + gamma * SIGNAL * pairs
    assert sp.expand(expr - typed) == 0
    assert sp.expand(WRONG * expr - typed) != 0
    bound = (1 - total) ** 2 + gamma * SIGNAL * total**2
    assert float((expr - bound).subs({gamma: 1, noise_var: 0})) > 0
    infimum = icl.optimal_proportional_risk(TASK, TWO).expr
    assert float((expr - infimum).subs({gamma: R(1, 2), noise_var: R(1, 4)})) > 0
    # Only the orders matter: lower-order parts of scores and values disappear.
    shifted = icl.SoftmaxAttention(scores=[1 / root + 1 / d], values=[root + 3])
    assert icl.proportional_risk(TASK, shifted).expr == gamma * SIGNAL * sp.E


def test_signal_scales_as_at_finite_prompts():
    scaled = icl.LinearRegression(dim=d, noise_var=noise_var, feature_cov=3)
    base = icl.proportional_risk(TASK, ONE).expr.subs(noise_var, noise_var / 3)
    assert_same(icl.proportional_risk(scaled, ONE).expr, 3 * base)
    assert_same(
        icl.proportional_risk(scaled, LINEAR).expr,
        3 * icl.proportional_risk(TASK, LINEAR).expr.subs(noise_var, noise_var / 3),
    )


@pytest.mark.parametrize(
    ("task", "attention", "message"),
    [
        (icl.LinearRegression(dim=5), ONE, "d tends to infinity"),
        (icl.LinearRegression(dim=d, coef_cov=1), ONE, "depends on d"),
        (TASK, icl.SoftmaxAttention(heads=3), "no canonical family"),
        (TASK, icl.SoftmaxAttention(scores=[1]), "scalar heads with values"),
        (TASK, icl.SoftmaxAttention(scores=[1], values=[1]), "no finite limit"),
        (TASK, icl.SoftmaxAttention(heads=1, include_query=True), "include_query is not supported"),
        (TASK, "softmax", "attention has type str"),
    ],
)
def test_refusals(task, attention, message):
    with pytest.raises(InvalidInput, match=message):
        icl.proportional_risk(task, attention)


def test_refusals_of_the_optimum_and_the_approximation():
    heads = icl.SoftmaxAttention(scores=[1 / sp.sqrt(d)], values=[sp.sqrt(d)])
    with pytest.raises(InvalidInput, match="nothing is left to optimise"):
        icl.optimal_proportional_risk(TASK, heads)
    with pytest.raises(InvalidInput, match=r"pass icl\.SoftmaxAttention"):
        icl.approximate_risk(TASK, LINEAR)
    with pytest.raises(InvalidInput, match=r"pass icl\.SoftmaxAttention"):
        icl.approximate_risk(TASK, ONE)
    local = icl.LinearRegression(dim=3, local=(1, R(1, 2)))
    with pytest.raises(InvalidInput, match="is not approximated"):
        icl.approximation_error(TASK, LINEAR)
    with pytest.raises(InvalidInput, match="local is not supported"):
        icl.approximate_risk(local, icl.SoftmaxAttention(scores=[1], values=[1]))
