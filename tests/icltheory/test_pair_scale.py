"""Expansion of small opposite heads at every n, against printed results, sampling and enumeration."""

import math

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.pair_scales import _odd_weight, _prompt_average
from icltheory.symbols import d, k, n, noise_var, t, v

TASK = icl.LinearRegression(dim=d, noise_var=noise_var)
TWO = icl.SoftmaxAttention(heads=2)
QUERY = icl.SoftmaxAttention(heads=2, include_query=True)
S = 1 + noise_var
C = S * d + 1


def same(formula, expected):
    return sp.cancel(sp.together(formula.expr - expected)) == 0


def test_risk_without_query_token_is_debiased_gradient_descent():
    risk = icl.small_pair_risk(TASK, TWO)
    assert same(risk, C / (n - 1 + C))
    assert same(risk, icl.optimal_finite_prompt_risk(TASK, TWO).expr)
    assert sp.cancel(risk.minimizer[v] - n / (n - 1 + C)) == 0
    assert risk.attained is False
    assert not same(risk, C / (n + C))


def test_risk_with_query_token():
    m = n - 1
    bias = m + 1 / (n + 1)
    square = m * (m + C) + 2 * m / (n + 1) + (S * d + 2) / (n + 1) ** 2
    square += S * d * (d + 2) * n / (n + 1) ** 2
    assert same(icl.small_pair_risk(TASK, QUERY), 1 - bias**2 / square)
    without = icl.small_pair_risk(TASK, TWO).expr
    extra = sp.factor(icl.small_pair_risk(TASK, QUERY).expr - without)
    # The token costs a term of order n^-3.
    assert sp.limit(n**2 * extra.subs({d: 5, noise_var: 0}), n, sp.oo) == 0
    assert sp.limit(n**3 * extra.subs({d: 5, noise_var: 0}), n, sp.oo) > 0


def test_slope_scale_and_gain():
    assert same(icl.pair_slope(TASK, TWO), -4 * (d + 2) * (n - 1) / (n * (n - 1 + C) ** 2))
    square = icl.pair_scale(TASK).expr ** 2
    assert sp.cancel(square - 12 / ((d + 4) * (S * d + 3) * n)) == 0
    assert float(icl.pair_scale(TASK).subs(d=5, noise_var=0, n=24)) == pytest.approx(1 / 12)
    assert same(icl.pair_gain(TASK), 24 * (d + 2) / ((d + 4) * (S * d + 3) * n**3))
    assert sp.cancel(square - 12 / ((d + 4) * (S * d + 2) * n)) != 0


def test_scaling_lemma():
    general = icl.LinearRegression(
        dim=2, noise_var=sp.Rational(3, 5), feature_cov=[[2, 1], [1, 2]], coef_cov=[1, 3]
    )
    signal = general.signal
    scaled = icl.LinearRegression(dim=2, noise_var=sp.Rational(3, 5) / signal)
    for function, attention in (
        (icl.small_pair_risk, TWO),
        (icl.small_pair_risk, QUERY),
        (icl.pair_slope, TWO),
    ):
        assert same(function(general, attention), signal * function(scaled, attention).expr)
    assert same(icl.pair_scale(general), icl.pair_scale(scaled).expr)


def test_averages_of_power_sums_by_sampling():
    p1, p2, p3 = sp.symbols("P_1 P_2 P_3")
    rng = np.random.default_rng(0)
    z = rng.standard_normal((400_000, 5))
    sums = [(z**a).sum(axis=1) for a in (1, 2, 3)]
    for expr, sample in (
        (p1**2 * p2, sums[0] ** 2 * sums[1]),
        (p1 * p3, sums[0] * sums[2]),
        (p1**4, sums[0] ** 4),
        (p2**2, sums[1] ** 2),
    ):
        exact = float(_prompt_average(expr).subs(n, 5))
        assert abs(sample.mean() - exact) < 5 * sample.std() / math.sqrt(len(z)) < 0.1 * exact
    assert sp.expand(_prompt_average(p2**2) - n * (n + 2)) == 0


def test_odd_part_of_a_weight():
    z = np.array([0.3, -1.1, 0.7, 0.2])
    kappa = 1e-2
    exact = (
        np.exp(kappa * z) / np.exp(kappa * z).sum() - np.exp(-kappa * z) / np.exp(-kappa * z).sum()
    )
    values = {sp.Symbol(f"P_{a}"): float((z**a).sum()) for a in (1, 2, 3)}
    formula = _odd_weight().subs({**values, k: kappa, n: 4})
    (token,) = formula.free_symbols
    for x, want in zip(z, exact / (2 * kappa), strict=True):
        assert float(formula.subs(token, x)) == pytest.approx(want, abs=1e-9)


def test_steps_and_validity():
    slope = icl.pair_slope(TASK, TWO)
    assert len(slope.steps) == 3
    assert t in slope.steps[1].equation.free_symbols
    with pytest.raises(icl.OutOfDomain):
        slope.subs(n=1)


@pytest.mark.parametrize(
    "attention",
    [icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(scores=[1, 2]), icl.LinearAttention()],
)
def test_refusals(attention):
    for function in (icl.small_pair_risk, icl.pair_slope):
        with pytest.raises(InvalidInput, match="no pair of opposite heads"):
            function(TASK, attention)
    with pytest.raises(InvalidInput, match="include_query"):
        icl.pair_slope(TASK, QUERY)
    with pytest.raises(InvalidInput, match="skip"):
        icl.small_pair_risk(TASK, icl.SoftmaxAttention(heads=2, skip=True))
