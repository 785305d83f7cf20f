"""Heads: best values, floors, bounds and exponents, against typed forms and other routes."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import icltheory as icl
from icltheory.exponents import tau
from icltheory.symbols import d, k, noise_var, t

ONE, TWO = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
GENERAL = icl.LinearRegression(dim=d, noise_var=noise_var)
S = 1 + noise_var
F = (1 + 2 / d) ** (d / 2 + 1)
WRONG = 1.03

# noise_var: (d, t*, optimal one-head constant, multi-head constant, ratio), to the printed digits.
TABLE = {
    0: [
        (1, 0.232408, 8.43577, 2, 4.2179),
        (2, 0.190983, 11.09017, 3, 3.6967),
        (3, 0.161484, 13.76762, 4, 3.4419),
        (5, 0.122849, 19.15554, 6, 3.1926),
        (10, 0.076436, 32.69451, 11, 2.9722),
        (20, 0.043393, 59.84332, 21, 2.8497),
        (100, 0.009708, 277.27363, 101, 2.7453),
    ],
    0.25: [
        (1, 0.242255, 9.88856, 2.25, 4.3949),
        (2, 0.198044, 13.19331, 3.5, 3.7695),
        (3, 0.166667, 16.53406, 4.75, 3.4809),
        (5, 0.125907, 23.26425, 7.25, 3.2089),
        (10, 0.077627, 40.18599, 13.5, 2.9767),
        (20, 0.043774, 74.12240, 26, 2.8509),
        (100, 0.009727, 345.91184, 126, 2.7453),
    ],
    1: [
        (1, 0.261583, 14.10931, 3, 4.7031),
        (2, 0.211325, 19.39230, 5, 3.8785),
        (3, 0.176073, 24.74330, 7, 3.5348),
        (5, 0.131191, 35.52603, 11, 3.2296),
        (10, 0.079569, 62.62379, 21, 2.9821),
        (20, 0.044374, 116.94022, 41, 2.8522),
        (100, 0.009755, 551.82244, 201, 2.7454),
    ],
}
ROWS = [(noise, *row) for noise, rows in TABLE.items() for row in rows]


def close(value, reference, tolerance):
    """Equal to `tolerance` (relative), which three per cent more would not be."""
    value, reference = float(value), float(reference)
    good = abs(value - reference) <= tolerance * abs(reference)
    return good and abs(WRONG * value - reference) > tolerance * abs(reference)


def at(formula, **values):
    """A formula at numbers, 30 digits."""
    return sp.N(formula.subs(**values).expr, 30)


# -- the bounds --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "dim", "best_t", "constant", "several", "ratio"), ROWS)
def test_table_and_bounds(noise, dim, best_t, constant, several, ratio):
    task = icl.LinearRegression(dim=dim, noise_var=noise)
    best = icl.optimal_loss_constant(task, ONE)
    assert best.minimizer is not None
    assert abs(float(best.minimizer[t]) - best_t) <= 0.6e-6
    assert abs(float(best) - constant) <= 0.6e-5
    assert abs(WRONG * float(best) - constant) > 0.6e-5
    assert float(icl.lower_bound(task)) == several
    assert abs(float(icl.multihead_gain(task)) - ratio) <= 0.6e-4
    low, high = (float(bound) for bound in icl.one_head_bounds(task))
    assert low <= float(best) <= high
    assert dim < 5 or high < 1.02 * float(best)
    low, high = (float(bound) for bound in icl.gain_bounds(task))
    assert math.e < low <= float(icl.multihead_gain(task)) <= high <= 3 * math.sqrt(3) + 1e-12


def test_bounds_equal_the_typed_forms():
    low, high = icl.one_head_bounds(GENERAL)
    gain_low, gain_high = icl.gain_bounds(GENERAL)
    typed = [F * S * d + 1, F * (S * d + 1), (F * S * d + 1) / (S * d + 1), F]
    for dim, noise in [(1, 0), (4, sp.Rational(1, 3)), (31, 2)]:
        values = {d: dim, noise_var: noise}
        for formula, form in zip((low, high, gain_low, gain_high), typed, strict=True):
            assert close(sp.N(formula.expr.subs(values), 30), sp.N(form.subs(values), 30), 1e-15)


def test_gain_at_small_dimension_and_large_noise():
    gain = icl.multihead_gain(GENERAL)
    for dim, limit in [(1, 5.196), (2, 4), (5, 3.247)]:
        assert abs(float(gain.subs(d=dim, noise_var=10**9)) - limit) < 6e-4
        assert abs(float(icl.gain_bounds(GENERAL)[1].subs(d=dim)) - limit) < 6e-4


def test_lower_bound_of_any_second_moment():
    big = sp.Matrix([[2, sp.Rational(1, 2)], [sp.Rational(1, 2), 1]])
    task = icl.LinearRegression(2, sp.Rational(3, 10), feature_cov=big, coef_cov=[[1, 0], [0, 3]])
    signal = (big * sp.diag(1, 3)).trace()
    assert icl.lower_bound(task).expr == (signal + sp.Rational(3, 10)) * 2 + signal
    assert icl.lower_bound(task).attained is False
    around = icl.LinearRegression(
        2, sp.Rational(3, 10), feature_cov=big, coef_cov=[[1, 0], [0, 2]], coef_mean=[0, 1]
    )
    assert icl.lower_bound(around).expr == icl.lower_bound(task).expr
    row = icl.LinearRegression(3, 0.3, feature_cov=[2, 1, 0.5], coef_cov=sp.Rational(1, 3))
    assert close(icl.lower_bound(row), 5.5666667, 1e-8)
    assert close(icl.optimal_loss_constant(row, ONE), 19.38157888, 1e-9)


def test_noise_enters_affinely_so_that_the_optimum_is_concave_and_the_gain_grows():
    assert sp.expand(sp.diff(icl.loss_constant(GENERAL, ONE).expr, noise_var, 2)) == 0
    assert sp.diff(icl.lower_bound(GENERAL).expr, noise_var, 2) == 0
    noises = [sp.Rational(i, 2) for i in range(5)]
    best, gain = icl.optimal_loss_constant(GENERAL, ONE), icl.multihead_gain(GENERAL)
    assert best.minimizer is not None
    for dim in (1, 3, 40):
        row = [at(best, d=dim, noise_var=x) for x in noises]
        assert all(row[i - 1] + row[i + 1] < 2 * row[i] for i in range(1, 4))
        gains = [at(gain, d=dim, noise_var=x) for x in noises]
        assert all(a < b for a, b in itertools.pairwise(gains))
        scales = [best.minimizer[t].subs({d: dim, noise_var: x}).evalf(30) for x in noises]
        edge = sp.Rational(1, dim + 2)
        assert all(a < b < edge for a, b in itertools.pairwise(scales))
        far = best.minimizer[t].subs({d: dim, noise_var: 10**8}).evalf(30)
        assert close(far, edge, 1e-7)


# -- floors ------------------------------------------------------------------------------------------


def limiting_risk(sigma, moment, combined):
    error = sigma @ combined.T - np.eye(len(sigma))
    return float(np.trace(moment @ error @ sigma @ error.T))


def test_floor_of_scores_proportional_to_the_identity():
    sigma = np.diag([2, 1, 0.5])
    task = icl.LinearRegression(3, 0.3, feature_cov=[2, 1, 0.5], coef_cov=sp.Rational(1, 3))
    floor = icl.head_floor(task, icl.SoftmaxAttention(scores=[sp.eye(3)]))
    assert close(floor, 0.15981735, 1e-7)
    assert floor.minimizer is not None
    (value,) = floor.minimizer.values()
    assert value == sp.Rational(21, 4) / sp.Rational(73, 8)  # tr Sigma^2 / tr Sigma^3
    result = optimize.minimize_scalar(lambda a: limiting_risk(sigma, np.eye(3) / 3, a * np.eye(3)))
    assert close(floor, result.fun, 1e-8)
    two = icl.head_floor(task, icl.SoftmaxAttention(scores=[sp.eye(3), -2 * sp.eye(3)]))
    assert two.expr == floor.expr
    assert icl.head_floor(task, icl.SoftmaxAttention(scores=[1, 2])).expr == 0
    a, b = sp.symbols("a b", positive=True)
    symbolic = icl.head_floor(
        icl.LinearRegression(2, feature_cov=[a, b]), icl.SoftmaxAttention(scores=[sp.eye(2)])
    )
    typed = (a + b - (a**2 + b**2) ** 2 / (a**3 + b**3)) / 2
    assert sp.cancel(symbolic.expr - typed) == 0
    given_values = icl.SoftmaxAttention(scores=[sp.eye(3)], values=[sp.Rational(1, 2)])
    at_values = icl.head_floor(task, given_values)
    assert at_values.expr == icl.limit_risk(task, given_values).expr > floor.expr
    assert "more examples do not lower" in at_values.explain()


@given(st.integers(0, 10**6))
@settings(max_examples=8)
def test_floor_of_random_matrices_against_least_squares(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-3, 4, (2, 3, 3))
    root = rng.integers(-2, 3, (3, 3)) + 3 * np.eye(3, dtype=int)
    sigma, moment = root @ root.T, np.diag([1, 2, 0])
    task = icl.LinearRegression(3, feature_cov=sigma, coef_cov=moment)
    floor = icl.head_floor(task, icl.SoftmaxAttention(scores=[a.tolist() for a in scores]))
    result = optimize.minimize(
        lambda v: limiting_risk(sigma, moment, np.einsum("h,hij->ij", v, scores)), np.zeros(2)
    )
    assert abs(float(floor) - result.fun) < 1e-6 * max(1.0, result.fun)


def test_rank_floor():
    p = sp.Symbol("p", integer=True, positive=True)
    assert sp.expand(icl.rank_floor(icl.LinearRegression(dim=d), p).expr - (1 - p / d)) == 0
    assert icl.rank_floor(icl.LinearRegression(dim=4), 7).expr == 0
    with pytest.raises(icl.OutOfDomain):
        icl.rank_floor(icl.LinearRegression(dim=d), 3).subs(d=2)
    sigma = np.array([[2, 1, 0], [1, 2, 0.5], [0, 0.5, 1]])
    moment = np.array([[1, 0.2, 0], [0.2, 0.5, 0.1], [0, 0.1, 0.7]])
    task = icl.LinearRegression(3, feature_cov=sigma, coef_cov=moment)
    left = np.sort(np.linalg.eigvals(sigma @ moment).real)
    for rank in (1, 2):
        floor = icl.rank_floor(task, rank)
        assert close(floor, left[: 3 - rank].sum(), 1e-12)
        # scores of this rank that reach it: the largest right singular directions of M~^{1/2}
        values, vectors = np.linalg.eigh(sigma)
        root = (vectors * values**0.5) @ vectors.T
        _, axes = np.linalg.eigh(root @ moment @ root)
        top = axes[:, -rank:]
        best = np.linalg.inv(root) @ top @ top.T @ np.linalg.inv(root)
        assert close(limiting_risk(sigma, moment, best), floor, 1e-12)
        rng = np.random.default_rng(rank)
        for _ in range(20):
            other = best + 0.1 * (rng.standard_normal((3, rank)) @ rng.standard_normal((rank, 3)))
            other = np.linalg.svd(other)
            cut = (other[0][:, :rank] * other[1][:rank]) @ other[2][:rank]
            assert limiting_risk(sigma, moment, cut) > float(floor)


def test_rank_floor_of_irrational_covariances():
    cov = sp.Matrix([[sp.sqrt(2), sp.Rational(1, 3)], [sp.Rational(1, 3), 1]])
    left = np.linalg.eigvalsh(np.array(cov.tolist(), dtype=float))[0] / 2
    floor = icl.rank_floor(icl.LinearRegression(2, feature_cov=cov), 1)
    assert close(floor, left, 1e-12)
    assert not close(floor, WRONG * left, 1e-12)
    repeated = icl.LinearRegression(3, feature_cov=[sp.pi, 1, 1])
    assert close(icl.rank_floor(repeated, 1), 2 / 3, 1e-12)


# -- values for given scores -------------------------------------------------------------------------


def test_symmetric_pair_has_opposite_values_and_one_head_none_to_choose():
    best = icl.optimal_values(GENERAL, [k, -k])
    assert best.minimizer is not None
    assert list(best.minimizer.values()) == [1 / (2 * k), -1 / (2 * k)]
    pair = icl.loss_constant(GENERAL, TWO)
    values = {"d": 7, "noise_var": 0.3, "t": 0.07}
    assert close(best.subs(**values), pair.subs(**values), 1e-13)
    alone = icl.optimal_values(GENERAL, [k])
    assert close(alone.subs(**values), icl.loss_constant(GENERAL, ONE).subs(**values), 1e-13)


def test_three_scalar_heads_against_a_search():
    task, scores = icl.LinearRegression(5, 0.5), [0.2, -0.2, 0.4]
    best = icl.optimal_values(task, scores)
    assert best.minimizer is not None
    values = [float(x) for x in best.minimizer.values()]
    assert abs(np.dot(values, scores) - 1) < 1e-12

    def constant(free):
        last = (1 - np.dot(free, scores[:2])) / scores[2]
        return float(icl.head_constant(task, scores, [*free, last]))

    assert close(constant(values[:2]), best, 1e-12)
    for shift in [(0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05), (0.03, 0.03)]:
        assert constant(np.add(values[:2], shift)) > float(best)
    assert float(icl.pair_constant(task).subs(t=0.04)) > float(best) > float(icl.lower_bound(task))


def test_five_heads_to_thirty_digits():
    task, scores = icl.LinearRegression(5, 0.5), [0.1, 0.2, -0.3, 0.4, 0.5]
    best, four = icl.optimal_values(task, scores), icl.optimal_values(task, scores[:4])
    assert best.minimizer is not None
    values = list(best.minimizer.values())
    assert close(icl.head_constant(task, scores, values), best, 1e-14)
    assert float(icl.lower_bound(task)) < float(best) < float(four)
    for free in itertools.combinations(range(5), 2):  # stationary along v_i/k_i against v_j/k_j
        step = np.zeros(5)
        step[list(free)] = 0.05 / scores[free[0]], -0.05 / scores[free[1]]
        for sign in (1, -1):
            moved = [float(v) + sign * x for v, x in zip(values, step, strict=True)]
            assert float(icl.head_constant(task, scores, moved)) > float(best)
    with pytest.raises(icl.InvalidInput, match="at most 4 heads"):
        icl.optimal_values(GENERAL, scores)


def test_matrix_heads():
    first, second = sp.diag(1, 0) / 5, sp.diag(0, 1) / 4
    task = icl.LinearRegression(2, sp.Rational(1, 5))
    forced = icl.optimal_values(task, [first, second])
    assert forced.minimizer is not None
    assert list(forced.minimizer.values()) == [5, 4]
    free = icl.optimal_values(task, [first, second, sp.zeros(2)])
    assert free.minimizer is not None
    weights = list(free.minimizer.values())
    assert weights[:2] == [5, 4]
    assert close(weights[2], -9, 1e-12)  # the plain average of the labels makes the values sum to 0
    assert float(free) < float(forced)
    symbol = icl.optimal_values(task, [k * sp.diag(1, 0), -k * sp.diag(0, 1)])
    assert close(symbol.subs(t=0.04), icl.block_constant(task, [1, 1], [1, -1]).subs(t=0.04), 1e-13)


# -- exponents ---------------------------------------------------------------------------------------


def test_exponents():
    nu, law = icl.correction_exponent(), icl.risk_exponent()
    typed = sp.sqrt(sp.Rational(1, 4) + 1 / t) - sp.S.Half
    for x in ("0.2", "0.3", "0.49"):
        assert close(nu.subs(t=sp.Rational(x)).evalf(30), typed.subs(t, x).evalf(30), 1e-14)
        assert law.subs(t=sp.Rational(x)).expr == 1
    for x in (1, 5, 1000):
        assert close(law.subs(t=x).evalf(30), typed.subs(t, x).evalf(30), 1e-15)
        local = icl.concentration_exponent().expr.subs(tau, sp.sqrt(x))
        assert close(law.subs(t=x).expr, local, 1e-14)  # the same law, from one-dimensional tokens
    assert nu.subs(t=sp.Rational(1, 6)).expr == 2 == nu.subs(t=sp.Rational(1, 10)).expr
    assert law.subs(t=sp.Rational(1, 2)).expr == 1
    assert sp.limit(law.expr.args[1][0], t, sp.oo) == 0
    with pytest.raises(icl.OutOfDomain):
        nu.subs(t=0.6)


# -- bad input ---------------------------------------------------------------------------------------

NO_TASK: Any = 3
THREE = icl.LinearRegression(3)
SKEW = icl.LinearRegression(3, feature_cov=[2, 1, 0.5])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: icl.optimal_values(SKEW, [sp.eye(3), 2 * sp.eye(3)]), "at least 0.159817"),
        (lambda: icl.optimal_values(THREE, [0.2, 0.2]), "heads 0 and 1 have the same scores"),
        (lambda: icl.optimal_values(THREE, [0]), "no values make these heads consistent"),
        (lambda: icl.optimal_values(icl.LinearRegression(3, local=(1, 1)), [0.2]), "local"),
        (lambda: icl.head_floor(THREE, ONE), "icl.rank_floor"),
        (lambda: icl.head_floor(THREE, icl.LinearAttention()), "icl.rank_floor"),
        (lambda: icl.rank_floor(NO_TASK, 1), "task has type int"),
        (lambda: icl.block_constant(NO_TASK, [1, 2]), "task has type int"),
        (lambda: icl.rank_floor(THREE, 0), "positive integer"),
        (lambda: icl.rank_floor(SKEW, sp.Symbol("p", positive=True)), "only for numbers"),
        (lambda: icl.block_constant(THREE, [1, 1]), "2 dimensions, the task has 3"),
        (lambda: icl.block_constant(THREE, [1, 2], [1]), "1 signs for 2 blocks"),
        (lambda: icl.block_constant(THREE, [1, 2], [1, 0]), "leaves its block unseen"),
        (lambda: icl.block_constant(THREE, []), "dims is empty"),
        (lambda: icl.block_constant(SKEW, [1, 2]), "icl.head_constant"),
        (lambda: icl.block_heads([d, 2]), "icl.block_constant"),
        (lambda: icl.equal_block_constant(THREE, 3, 2), "cannot add up to 2"),
        (lambda: icl.pair_constant(THREE, "opposite"), "symmetric, one-sided, block"),
        (lambda: icl.small_score_expansion(icl.loss_constant(THREE, ONE)), "infinite at t = 0"),
        (lambda: icl.width_constant(icl.LinearRegression(d), 2, 4), "is a symbol"),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()


def test_scores_beyond_the_bound():
    with pytest.raises(icl.OutOfDomain, match="head 1"):
        icl.optimal_values(THREE, [0.2, 0.8])
    with pytest.raises(icl.OutOfDomain, match="t < 1/2"):
        icl.block_constant(THREE, [1, 2]).subs(t=0.5)
