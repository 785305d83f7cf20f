"""Contraction moments: exact, in the limit, their closed forms and what follows from them."""

from fractions import Fraction
from itertools import pairwise
from math import comb

import pytest
import sympy as sp

import icltheory as icl
from icltheory import contraction as module
from icltheory.symbols import d, eta, gamma, n, noise_std, steps, z

R = sp.Rational


def beta(j, *args):
    return icl.contraction_moment(j, *args).expr


def limit_beta(j, *args):
    return icl.contraction_moment_limit(j, *args).expr


@pytest.mark.parametrize(
    ("n", "d", "step", "values"),
    [
        (20, 10, R(1, 2), (R(1, 2), R(31, 80), R(463, 1600), R(3061, 12800))),
        (20, 40, R(1, 3), (R(2, 3), R(121, 180), R(533, 900), R(809, 1350))),
        (5, 2, R(5, 8), (R(3, 8), R(3, 8), R(23, 128), R(137, 512))),
    ],
)
def test_exact_moments_are_the_reference_values(n, d, step, values):
    assert tuple(beta(j, n, d, step) for j in range(1, 5)) == values
    assert tuple(beta(j, n, d, R(103, 100) * step) for j in range(1, 5)) != values
    assert beta(0, n, d, step) == 1
    assert beta(1, n, d, step) == 1 - step


TABLE = {
    2: n + d + 1,
    3: n**2 + d**2 + 3 * n * d + 3 * n + 3 * d + 4,
    4: n**3
    + d**3
    + 6 * n**2 * d
    + 6 * n * d**2
    + 6 * n**2
    + 6 * d**2
    + 17 * n * d
    + 21 * n
    + 21 * d
    + 20,
}


@pytest.mark.parametrize("k", TABLE)
def test_paths_and_the_recursion_give_the_printed_moments(k):
    for rows in range(1, 7):
        for dim in range(1, 7):
            printed = rows * TABLE[k].subs({n: rows, d: dim})
            assert module.path_moments(rows, dim, k)[k] == printed
            assert icl.wishart_trace_moment(k, rows, dim) == dim * printed


@pytest.mark.parametrize(("rows", "dim"), [(1, 1), (1, 7), (7, 1), (4, 9), (20, 10), (3, 40)])
def test_paths_against_zonal_polynomials_and_the_stein_recursion(rows, dim):
    paths = module.path_moments(rows, dim, 30)
    assert [dim * x for x in paths] == [icl.wishart_trace_moment(k, rows, dim) for k in range(31)]


def test_paths_need_their_degrees_of_freedom(monkeypatch):
    right, rising = module.path_moments(6, 5, 8), module._rising
    module.path_moments.cache_clear()
    monkeypatch.setattr(module, "_rising", lambda n, d, h, top: rising(n, d + (h == 3), h, top))
    shifted = module.path_moments(6, 5, 8)
    assert shifted == right  # edge 3 belongs to n
    module.path_moments.cache_clear()
    monkeypatch.setattr(module, "_rising", lambda n, d, h, top: rising(n + (h == 3), d, h, top))
    assert module.path_moments(6, 5, 8) != right
    module.path_moments.cache_clear()


def test_symbols_and_numbers_agree():
    general = icl.contraction_moment(6)
    for rows, dim, step in ((9, 4, R(2, 5)), (3, 8, R(1, 7))):
        assert general.subs(n=rows, d=dim, eta=step).expr == beta(6, rows, dim, step)
    mixed = beta(5, n, 4, R(2, 5))
    assert mixed.free_symbols == {n}
    assert mixed.subs(n, 9) == beta(5, 9, 4, R(2, 5))
    assert icl.contraction_moment(3, 20, 10, 0.1).expr == beta(3, 20, 10, R(1, 10))


def test_many_moments_are_those_of_the_binomial_sum():
    values = module.contraction_moments(12, 9, 14, R(3, 7))
    moments = module.path_moments(9, 14, 12)
    for j, value in enumerate(values):
        terms = (comb(j, k) * Fraction(-3, 63) ** k * moments[k] for k in range(j + 1))
        assert value == sum(terms)


def test_the_limit_is_the_limit_of_the_exact_moments():
    for j in (2, 5, 6):
        exact = beta(j).subs(d, gamma * n)
        assert sp.expand(sp.limit(sp.expand(exact), n, sp.oo) - limit_beta(j)) == 0
    values = [limit_beta(j, 0.3, 0.5).evalf(10) for j in (1, 2, 5, 8, 12)]
    printed = [0.5, 0.325, 0.124746875, 0.0599653387, 0.0262089013]
    assert [float(x) for x in values] == pytest.approx(printed, abs=1e-10, rel=0)
    assert [1.03 * float(x) for x in values] != pytest.approx(printed, abs=1e-10, rel=0)


def test_the_generating_function_has_the_limits_as_coefficients():
    f = icl.contraction_generating_function()
    series = sp.series(f.expr, z, 0, 6).removeO()
    for j in range(6):
        assert sp.expand(series.coeff(z, j) - limit_beta(j)) == 0
    with pytest.raises(icl.OutOfDomain):
        icl.contraction_generating_function(0.5, 0.5).subs(z=1)
    # The printed reference form.
    ends = [1 - eta * (1 + s * sp.sqrt(gamma)) ** 2 for s in (1, -1)]
    root = sp.sqrt((1 - ends[0] * z) * (1 - ends[1] * z))
    printed = (root - (1 - z + (1 - gamma) * eta * z)) / (2 * gamma * eta * z * (1 - z))
    place = {gamma: R(7, 10), eta: R(2, 5), z: R(3, 10)}
    assert abs(sp.N((f.expr - printed).subs(place), 30)) < 1e-28
    assert abs(sp.N((1.03 * f.expr - printed).subs(place), 30)) > 1e-3


BEST = {
    R(1, 2): (R(1, 3), R(5, 27), R(29, 243), R(181, 2187), R(1181, 19683)),
    R(1): (R(1, 2), R(3, 8), R(5, 16), R(35, 128), R(63, 256)),
    R(2): (R(2, 3), R(16, 27), R(136, 243), R(1184, 2187), R(10432, 19683)),
}


@pytest.mark.parametrize("ratio", BEST)
def test_best_moments_are_the_reference_values(ratio):
    for t, value in enumerate(BEST[ratio], start=1):
        best = icl.best_contraction(t, ratio)
        assert best.expr == value
        assert limit_beta(2 * t, ratio, best.minimizer[eta]) == value
        assert limit_beta(2 * t, ratio, R(103, 100) * best.minimizer[eta]) > value
        assert icl.best_contraction(gamma=ratio).expr.subs(steps, t).doit() == value


def test_one_step_is_best_for_every_number_of_steps():
    assert icl.best_contraction().minimizer == {eta: 1 / (gamma + 1)}
    for t in (1, 2, 3, 5):
        moment = sp.Poly(limit_beta(2 * t), eta)
        assert sp.cancel(moment.diff(eta).eval(1 / (1 + gamma))) == 0
        assert sp.cancel(moment.diff(eta).eval(R(103, 100) / (1 + gamma))) != 0
        assert sp.cancel(moment.eval(1 / (1 + gamma)) - icl.best_contraction(t).expr) == 0
    assert icl.best_contraction(0).expr == 1


def test_the_exact_best_step():
    once = icl.best_step_condition(1)
    (step,) = sp.solve(once.expr, eta)
    assert sp.cancel(step - n / (n + d + 1)) == 0
    assert sp.cancel(beta(2).subs(eta, step) - (d + 1) / (n + d + 1)) == 0
    for t in (2, 3):
        slope = sp.expand(-2 * t * icl.best_step_condition(t, 9, 4).expr)
        assert sp.expand(sp.diff(beta(2 * t, 9, 4), eta) - slope) == 0
    with pytest.raises(icl.InvalidInput, match="steps = 0"):
        icl.best_step_condition(0)


def test_late_moments():
    law = icl.late_contraction(0.5)
    ratios = [float(law.subs(steps=t).expr / icl.best_contraction(t, 0.5).expr) for t in (20, 80)]
    assert ratios == pytest.approx([1.54, 1.15], abs=0.01)
    far = float(law.subs(steps=400).expr / icl.best_contraction(400, 0.5).expr)
    assert far == pytest.approx(1, abs=0.05)
    above = icl.late_contraction(3).subs(steps=300).expr - R(2, 3)
    assert float(above / (icl.best_contraction(300, 3).expr - R(2, 3))) == pytest.approx(
        1, abs=0.02
    )
    hard = icl.late_contraction(1, 0.25).subs(steps=100).expr
    assert float(hard / limit_beta(200, 1, 0.25)) == pytest.approx(1, abs=0.01)
    with pytest.raises(icl.OutOfDomain, match="above 1/2"):
        icl.late_contraction(1, 0.6)
    with pytest.raises(icl.InvalidInput, match="at the best step"):
        icl.late_contraction(0.5, 0.6)


def test_the_late_law_needs_its_next_term_small():
    with pytest.raises(icl.OutOfDomain, match=r"steps = 1 is not above 541\.1"):
        icl.late_contraction(0.9, steps=1)
    with pytest.raises(icl.OutOfDomain, match="above 31"):
        icl.late_contraction(1, 0.001, steps=3)
    law = icl.late_contraction(0.9)
    with pytest.raises(icl.OutOfDomain, match="outside steps > 4329/8"):
        law.subs(steps=541)
    assert law.subs(steps=542).validity == sp.true
    # The bound is the relative size of the next term: law/value - 1 = bound/steps + O(1/steps^2).
    for ratio in (R(1, 5), R(4)):
        bound = icl.late_contraction(ratio).validity.rhs
        part, floor = sp.Integer(400), sp.Max(0, 1 - 1 / ratio)
        exact = icl.best_contraction(400, ratio).expr - floor
        over = (icl.late_contraction(ratio, steps=part).expr - floor) / exact - 1
        assert float(over * part / bound) == pytest.approx(1, abs=0.02)
    # At gamma = 1 and a step below the best one the upper edge is exponentially small.
    bound = float(icl.late_contraction(1, R(1, 4)).validity.rhs)
    over = icl.late_contraction(1, R(1, 4), steps=200).expr / limit_beta(400, 1, R(1, 4)) - 1
    assert float(over * 200 / bound) == pytest.approx(1, abs=0.02)


# -- noise, lengths and splits -------------------------------------------------------------------


def test_noise_gain():
    assert icl.noise_gain_limit(gamma=0.3).evalf(11) == R(10, 7).evalf(11)
    assert float(icl.noise_gain_limit(gamma=0.3, step_size=0.4).expr) == pytest.approx(
        2.1048311985, abs=1e-10
    )
    for step in (R(10, 13), R(2, 5)):
        partial = icl.noise_gain_limit(60, R(3, 10), step).expr
        assert float(partial) == pytest.approx(
            float(icl.noise_gain_limit(gamma=R(3, 10), step_size=step).expr), rel=1e-3
        )
    for ratio in (R(1, 2), R(1), R(2)):
        total = sum(icl.best_contraction(s, ratio).expr for s in range(5))
        assert icl.noise_gain_limit(5, ratio).expr == total
        assert icl.noise_gain_limit(steps, ratio).expr.subs(steps, 5).doit() == total
        assert icl.noise_gain_limit(5, ratio, 1 / (1 + ratio)).expr == total
    assert (
        sp.cancel(
            icl.noise_gain_limit(3).expr - icl.noise_gain_limit(3, gamma, 1 / (1 + gamma)).expr
        )
        == 0
    )
    with pytest.raises(icl.OutOfDomain, match="not below 1"):
        icl.noise_gain_limit(gamma=1)
    with pytest.raises(icl.OutOfDomain, match="chain diverges"):
        icl.noise_gain_limit(gamma=0.5, step_size=0.7)
    with pytest.raises(icl.OutOfDomain):
        icl.noise_gain_limit(step_size=eta).subs(gamma=0.5, eta=0.7)


def test_overthinking_threshold():
    assert sp.cancel(icl.overthinking_threshold().expr - ((1 - gamma) / (1 + gamma)) ** 2) == 0
    assert icl.overthinking_threshold(2).expr == 0
    for step in (0.3, 0.6):
        value = float(icl.overthinking_threshold(0.5, step).expr)
        spectrum = [(1 + s * 0.5**0.5) ** 2 for s in (-1, -0.5, 0, 0.5, 1)]
        assert value == pytest.approx(min(step * x * (2 - step * x) for x in spectrum))
    with pytest.raises(icl.OutOfDomain, match="chain diverges"):
        icl.overthinking_threshold(0.5, 0.7)


def test_the_risk_rises_only_above_the_threshold():
    threshold = icl.overthinking_threshold(0.5).expr
    values = [icl.best_contraction(t, R(1, 2)).expr for t in range(61)]
    gains = [1 - after / before for before, after in pairwise(values)]
    assert gains == sorted(gains, reverse=True)
    assert threshold < gains[-1] < 1.5 * threshold
    assert not threshold > R(103, 100) * gains[-1]


@pytest.mark.parametrize("noise", [R(1, 100), R(7, 100), R(1, 3), R(1, 2), R(3, 4)])
def test_the_best_length_at_equal_sizes(noise):
    values = [icl.best_contraction(t, 1).expr for t in range(70)]
    best = next(t for t in range(69) if values[t] - values[t + 1] <= noise * values[t])
    assert icl.optimal_chain_length(noise).expr == best
    assert icl.optimal_chain_length().subs(sample_noise=noise).expr == best


@pytest.mark.parametrize(("ratio", "best"), [(1, 129), (0.25, 15)])
def test_the_best_split_of_a_budget(ratio, best):
    law = icl.split_law(ratio, 10**4, sp.sqrt(R(1, 10)))
    assert float(law.minimizer[steps]) == pytest.approx(best, abs=0.6)

    def risk(t):
        return icl.split_risk(t, ratio, 10**4, sp.sqrt(R(1, 10))).expr

    assert risk(best) < risk(best - 1)
    assert risk(best) < risk(best + 1)
    printed = {1: 0.0661425421, 0.25: 2.2166851e-4}[ratio]
    assert float(risk(best)) == pytest.approx(printed, abs=1e-10)
    assert float(law.expr) == pytest.approx(printed, rel=0.03)


def test_the_law_of_splits_falls_like_the_fourth_root_at_equal_sizes():
    law = icl.split_law(1)
    assert sp.simplify(law.minimizer[steps] ** 2 * 6 * noise_std**2) == icl.symbols.budget
    assert sp.cancel(law.expr**4 / law.expr.subs(icl.symbols.budget, 16).expand() ** 4).has(
        icl.symbols.budget
    )
    ratio = law.expr.subs(icl.symbols.budget, 16 * 10**6) / law.expr.subs(icl.symbols.budget, 10**6)
    assert float(ratio.subs(noise_std, 1)) == pytest.approx(0.5)


def test_the_law_of_splits_with_more_dimensions_than_examples():
    law = icl.split_law(2, 10**4, 0.3)
    values = [float(icl.split_risk(t, 2, 10**4, 0.3).expr) for t in range(5, 40)]
    assert float(law.expr) == pytest.approx(min(values), rel=0.01)
    assert float(law.minimizer[steps]) == pytest.approx(5 + values.index(min(values)), abs=2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: icl.contraction_moment(-1), "from 0 to 40"),
        (lambda: icl.contraction_moment(500, 20, 10, 0.5), "from 0 to 122"),
        (lambda: icl.contraction_moment(2, 0, 10), "not a positive integer"),
        (lambda: icl.contraction_moment(2, 20, 10, 0), "step_size = 0 is not positive"),
        (lambda: icl.contraction_moment(2.5, 20, 10, 0.1), "pass an integer"),
        (lambda: icl.contraction_moment_limit(2, -1), "gamma = -1 is not positive"),
        (lambda: icl.best_contraction(-1), "steps = -1"),
        (lambda: icl.best_contraction(401), "up to 400"),
        (lambda: icl.split_law(), "pass a number"),
        (lambda: icl.split_law(1, 10, 0), "noise_std > 0"),
        (lambda: icl.split_risk(0, 1), "spends no thought"),
        (lambda: icl.split_risk(1, 1, 0), "not a positive integer"),
        (lambda: icl.optimal_chain_length(0), "not positive"),
        (lambda: icl.noise_gain_limit(steps, 0.5, 0.1), "at the best step"),
        (lambda: icl.contraction_moment("2"), "pass an integer"),
        (lambda: icl.contraction_moment(2, step_size="eta"), "text is never parsed"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()
