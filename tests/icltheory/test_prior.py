"""Prior knowledge: constants, exact pairs, tight priors, against closed forms and brute force."""

import math
import pickle

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import icltheory as icl
from icltheory.symbols import k, n, noise_var, share, t, v

ONE, TWO = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
SKIP, READ, BOTH = (
    {"skip": True},
    {"feature_values": True},
    {"skip": True, "feature_values": True},
)
Q = sp.Rational


def heads(count: int, options: dict) -> icl.SoftmaxAttention:
    return icl.SoftmaxAttention(heads=count, **options)


def same(left, right) -> bool:
    return sp.simplify(sp.sympify(left) - right) == 0


def task_of(dim: int = 3, mean=(1, -2, 0), **more) -> icl.LinearRegression:
    """Cov(theta) = 1/(2d) I around `mean`, symbolic label noise."""
    given = {"noise_var": noise_var, "coef_cov": Q(1, 2) / dim, "coef_mean": mean, **more}
    return icl.LinearRegression(dim=dim, **given)


# -- the task ------------------------------------------------------------------------------------


def test_moments_of_the_task():
    task = task_of(feature_cov=[[2, 1, 0], [1, 3, 0], [0, 0, 1]])
    theta = sp.Matrix([1, -2, 0])
    assert task.coef_mean == theta
    assert task.coef_moment.to_matrix() == sp.eye(3) / 6 + theta * theta.T
    assert task.mean_signal == 2 - 4 + 12
    assert task.signal == Q(1, 6) * 6 + task.mean_signal
    assert task.scenario == ("coef_mean",)
    assert not task.is_isotropic
    assert icl.prior_risk(task).expr == 1
    # A zero mean is no mean.
    assert task_of(mean=(0, 0, 0)) == task_of(mean=None)
    assert hash(task_of(mean=(0, 0, 0))) == hash(task_of(mean=None))
    assert task != task.replaced(coef_mean=(1, 2, 0))


@pytest.mark.parametrize(
    "thing",
    [
        task_of(local=(1, 0.5)),
        icl.SoftmaxAttention(heads=2, include_query=True, skip=True, feature_values=True),
        icl.SoftmaxAttention(scores=[1], values=[1], skip=[1, 2], feature_values=[[0, 1.5]]),
    ],
    ids=["task", "free", "given"],
)
def test_options_survive_pickling_and_printing(thing):
    copy = pickle.loads(pickle.dumps(thing))
    assert copy == thing
    assert hash(copy) == hash(thing)
    for name in (*getattr(thing, "scenario", ()), *getattr(thing, "options", ())):
        assert f"{name}=" in repr(thing)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 3, "coef_mean": [1, 2]}, "2 entries; dim = 3"),
        ({"dim": 3, "coef_mean": 1.0}, "1 entries; dim = 3"),
        ({"dim": 2, "coef_mean": [[1, 0], [0, 1]]}, "pass one number"),
        ({"dim": 4, "coef_mean": sp.eye(2)}, "a vector of 4"),
        ({"dim": sp.Symbol("d", positive=True), "coef_mean": [1]}, "give dim as an integer"),
        ({"dim": 2, "coef_mean": ["a", 1]}, "text is never parsed"),
        ({"dim": 2, "coef_mean": [1, float("nan")]}, "not finite"),
        ({"dim": 2, "coef_mean": [k, 1]}, "use a symbol of another name"),
        ({"dim": 2, "coef_mean": [1, 0], "coef_cov": 0}, "nothing to learn"),
    ],
)
def test_impossible_priors_are_refused(arguments, message):
    with pytest.raises(icl.InvalidInput, match=message):
        icl.LinearRegression(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 2, "skip": [1, 0]}, "pass skip=True"),
        ({"scores": [1], "feature_values": [[1, 0]]}, "without values"),
        ({"scores": [1], "values": [1], "feature_values": [[1], [2]]}, "2 vectors for 1 heads"),
        ({"scores": [1], "values": [1], "skip": ["x"]}, "text is never parsed"),
        ({"heads": 1, "include_query": 1}, "must be True or False"),
    ],
)
def test_impossible_options_are_refused(arguments, message):
    with pytest.raises(icl.InvalidInput, match=message):
        icl.SoftmaxAttention(**arguments)


# -- constants -----------------------------------------------------------------------------------


def test_reference_values():
    task = icl.LinearRegression(dim=5, coef_mean=[1, 0, 0, 0, 0])
    assert float(icl.optimal_loss_constant(task, ONE)) == pytest.approx(38.3110739, rel=1e-8)
    assert icl.optimal_loss_constant(task, TWO).expr == 12


@pytest.mark.parametrize("options", [{}, SKIP, READ, BOTH], ids=str)
@pytest.mark.parametrize("count", [1, 2])
def test_constants_are_those_of_a_scaled_task(options, count):
    """R c(t; noise/R): R is the whole signal, or omega^2 where theta_0 leaves the problem."""
    task = task_of()
    effective = Q(1, 2) if options == BOTH else Q(1, 2) + 5
    base = icl.loss_constant(
        icl.LinearRegression(dim=3, noise_var=noise_var / effective), heads(count, {})
    )
    found = icl.loss_constant(task, heads(count, options))
    values = {t: Q(1, 7), noise_var: Q(3, 10)}
    expected = (effective * base.expr).subs(values).evalf(30)
    assert abs(found.expr.subs(values).evalf(30) / expected - 1) < 1e-25
    # The control: the mean counted with a few percent too much.
    other = icl.loss_constant(task_of(mean=(1.02, -2.04, 0)), heads(count, options))
    moved = other.expr.subs(values).evalf(30) / expected - 1
    assert (abs(moved) < 1e-25) == (options == BOTH)


def test_best_constants():
    task = task_of()
    whole, around = Q(11, 2), Q(1, 2)
    for options, signal in (({}, whole), (SKIP, whole), (BOTH, around)):
        best = icl.optimal_loss_constant(task, heads(2, options))
        assert same(best.expr, (signal + noise_var) * 3 + signal)
        assert best.attained is False
    for count in (8, 9):
        best = icl.optimal_loss_constant(task, heads(count, READ))
        assert same(best.expr, (around + noise_var) * 3 + around + Q(2, 3) * 5)
    assert same(
        icl.optimal_loss_constant(task, heads(1, READ)).expr,
        icl.optimal_loss_constant(task, ONE).expr,
    )
    with pytest.raises(icl.InvalidInput, match="2d \\+ 2 = 8"):
        icl.optimal_loss_constant(task, heads(2, READ))
    # Options without a prior mean are useless and accepted.
    plain = task.replaced(coef_mean=None)
    assert same(
        icl.optimal_loss_constant(plain, heads(2, READ)).expr,
        icl.optimal_loss_constant(plain, TWO).expr,
    )


@pytest.mark.parametrize(
    "cov", [None, [[2, Q(1, 2)], [Q(1, 2), 1]]], ids=["identity", "correlated"]
)
def test_families_approach_the_infimum(cov):
    """2d + 2 heads tend to the infimum, four heads to the same with 2 n_0 in place of 2 n_0/d."""
    task = task_of(dim=2, mean=(1, 2), feature_cov=cov).replaced(noise_var=Q(3, 10))
    infimum = icl.optimal_loss_constant(task, heads(6, READ)).expr
    many = icl.loss_constant(task, icl.prior_heads(task, 6))
    four = icl.loss_constant(task, icl.prior_heads(task, 4))
    for small, tolerance in ((Q(1, 10**4), 1e-2), (Q(1, 10**6), 1e-4)):
        gap = float((many.expr.subs(t, small) - infimum).evalf(30))
        assert 0 < gap < tolerance * float(infimum)
        rest = float((four.expr.subs(t, small) - infimum - task.mean_signal).evalf(30))
        assert 0 < rest < tolerance * float(infimum)
    # The control: the value of the pair alone is far above both.
    pair = float(icl.optimal_loss_constant(task, TWO).expr)
    assert pair > float(infimum) + float(task.mean_signal)


def quadrature_constant(scores, values, readers, mean, spread, noise, rho, tau) -> float:
    """E phi^2 in dimension 1, by Gauss-Hermite sums over the query, one example and theta."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / math.sqrt(2 * math.pi)
    q, xi = np.meshgrid(nodes, nodes, indexing="ij")
    total = 0.0
    grid, masses = np.polynomial.hermite_e.hermegauss(6)
    for z, mass in zip(grid, masses / math.sqrt(2 * math.pi), strict=True):
        theta = mean + math.sqrt(spread) * z
        signal, label = 0.0, 0.0
        for a, w, u in zip(scores, values, readers, strict=True):
            factor = np.exp(a * q * tau * xi - (tau * a * q) ** 2 / 2)
            signal = signal + factor * (w * theta + u) * (tau * xi - tau**2 * a * q)
            label = label + factor * w
        square = signal**2 + noise * label**2
        total += mass * float(weights @ square @ weights)
    return total


@pytest.mark.parametrize("local", [(0, 1), (0.9, 0.7)], ids=["base", "local"])
def test_heads_that_read_features_against_quadrature(local):
    (rho, tau), mean, spread, noise = local, 0.8, 0.6, 0.3
    scores, readers = [0.3, -0.25, 0.1], [0.4, -0.7, 1.1]
    gains = [rho + tau**2 * a for a in scores]
    values = [2.0, -1.0]
    values.append((1 - 2.0 * gains[0] + gains[1]) / gains[2])

    def constant(values, readers) -> float:
        read = sum(x * (w * mean + u) for x, w, u in zip(gains, values, readers, strict=True))
        layer = icl.SoftmaxAttention(
            scores=scores,
            values=values,
            feature_values=[[u] for u in readers],
            skip=[mean - read],
        )
        return float(icl.loss_constant(task, layer))

    task = icl.LinearRegression(
        dim=1, noise_var=noise, coef_cov=spread, coef_mean=[mean], local=local
    )
    expected = quadrature_constant(scores, values, readers, mean, spread, noise, rho, tau)
    assert constant(values, readers) == pytest.approx(expected, rel=1e-9)
    assert constant(values, [0.42, -0.7, 1.1]) != pytest.approx(expected, rel=1e-3)
    with pytest.raises(icl.InvalidInput, match="not consistent"):
        constant([2.06, *values[1:]], readers)


def test_limit_with_skip_and_readings():
    """Risk of an infinite prompt, heads by hand: theta'E x + g'x."""
    task = task_of(dim=2, mean=(1, 2), feature_cov=[[2, Q(1, 2)], [Q(1, 2), 1]])
    sigma = sp.Matrix([[2, Q(1, 2)], [Q(1, 2), 1]])
    a, w, u, s = sp.Matrix([[1, 2], [0, 1]]) / 5, Q(3, 2), sp.Matrix([1, -1]), sp.Matrix([2, 3])
    layer = icl.SoftmaxAttention(scores=[a], values=[w], feature_values=[list(u)], skip=list(s))
    error = w * sigma * a.T - sp.eye(2)
    known = error.T * sp.Matrix([1, 2]) + a * sigma * u + s
    expected = (error * sigma * error.T).trace() / 4 + (known.T * sigma * known)[0]
    assert icl.limit_risk(task, layer).expr == expected
    with pytest.raises(icl.InvalidInput, match="free to choose"):
        icl.limit_risk(task, icl.SoftmaxAttention(scores=[1], values=[1], skip=True))
    with pytest.raises(icl.InvalidInput, match="length 3"):
        icl.limit_risk(task, icl.SoftmaxAttention(scores=[1], values=[1], skip=[1, 2, 3]))


# -- exact pairs -----------------------------------------------------------------------------------


def test_small_scores_at_every_length():
    task, m, w2, n0 = task_of(), n - 1, Q(1, 2), 5
    whole = (1 + noise_var / (w2 + n0)) * 3 + 1
    around = (1 + noise_var / w2) * 3 + 1
    expected = {
        "": (w2 + n0) * whole / (m + whole),
        "read": w2 * around / (m + around) + Q(n0) * 4 / (m + 4),
        "both": w2 * around / (m + around),
    }
    for key, options in (("", {}), ("read", READ), ("both", BOTH)):
        found = icl.optimal_finite_prompt_risk(task, heads(2, options))
        assert same(found.expr, expected[key])
    # A skip path without readings: minimise over the value and the path by brute force.
    risk = icl.optimal_finite_prompt_risk(task.replaced(noise_var=Q(3, 10)), heads(2, SKIP)).subs(
        n=9
    )
    a, z = np.meshgrid(np.linspace(0, 1, 801), np.linspace(0, 1, 801))
    bias = lambda target: target**2 - 2 * target * a + a**2 * (1 + 4 / 8)  # noqa: E731
    brute = (0.5 * bias(1.0) + n0 * bias(z) + 0.3 * a**2 * 3 / 8).min()
    assert float(risk) == pytest.approx(brute, rel=1e-5)
    assert float(risk) < float(
        (w2 + n0) * whole.subs(noise_var, 0.3) / (8 + whole.subs(noise_var, 0.3))
    )


def test_readings_gain_only_with_noise():
    """M18(d): best readings equal values of labels iff there is no noise."""
    for noise, equal in ((0, True), (Q(1, 10), False)):
        task = task_of().replaced(noise_var=noise)
        plain = icl.optimal_finite_prompt_risk(task, TWO).expr.subs(n, 12)
        read = icl.optimal_finite_prompt_risk(task, heads(2, READ)).expr.subs(n, 12)
        assert (plain == read) == equal
        assert plain >= read


def test_finite_risk_at_a_given_value_is_above_its_minimum():
    task = task_of().replaced(noise_var=Q(3, 10))
    for options in (SKIP, READ, BOTH):
        risk = icl.finite_prompt_risk(task, heads(2, options))
        best = icl.optimal_finite_prompt_risk(task, heads(2, options))
        assert best.minimizer is not None
        at = {n: 15, v: best.minimizer[v].subs(n, 15)}
        assert sp.simplify(risk.expr.subs(at) - best.expr.subs(n, 15)) == 0
        assert risk.expr.subs({n: 15, v: at[v] * Q(21, 20)}) > best.expr.subs(n, 15)


def test_crossing_with_the_prior_alone():
    task = task_of()
    whole = (1 + noise_var / Q(11, 2)) * 3 + 1
    crossing = icl.prior_crossing(task, TWO)
    assert same(crossing.expr - 1, whole * 5 / Q(1, 2))
    for options in ({}, READ):
        numeric = task.replaced(noise_var=Q(3, 10))
        at = icl.prior_crossing(numeric, heads(2, options)).expr
        risk = icl.optimal_finite_prompt_risk(numeric, heads(2, options)).expr
        assert sp.nsimplify(risk.subs(n, at) - Q(1, 2)).evalf(30) == pytest.approx(0, abs=1e-20)
        assert risk.subs(n, math.floor(at)) > Q(1, 2) > risk.subs(n, math.ceil(at) + 1)
    with pytest.raises(icl.InvalidInput, match="always helps"):
        icl.prior_crossing(task, heads(2, BOTH))


# -- tight prior -----------------------------------------------------------------------------------


TIGHT = icl.LinearRegression(dim=3, noise_var=0.3, coef_cov=2, coef_mean=[0, 1, 0])  # lambda = 6


def test_tight_prior_reference_values():
    one = icl.optimal_tight_prior_constant(TIGHT, heads(1, READ))
    assert one.minimizer is not None
    assert float(one.subs(t=0.16426)) == pytest.approx(15.9077483, rel=1e-8)
    assert float(one.minimizer[share].subs(t, 0.16426)) == pytest.approx(0.64383, abs=5e-6)
    two = icl.optimal_tight_prior_constant(TIGHT, heads(2, READ))
    assert two.expr == Q(110, 23)
    assert two.minimizer is not None
    assert two.minimizer[share] == Q(6) / (6 + Q(9, 10))


def test_tight_prior_closed_forms():
    lam, n0, s2, d = 6, 1, noise_var, 3
    task = TIGHT.replaced(noise_var=noise_var)
    normaliser = (1 - 2 * t) ** Q(-d, 2)
    one = lam * (1 - share) ** 2 + normaliser * (n0 / (1 - 2 * t) + (n0 + share**2 * s2) / t)
    assert same(icl.tight_prior_constant(task, heads(1, READ)).expr, one)
    parallel = lam * s2 * d / (lam + s2 * d)
    expected = {
        "read": n0 * (d + 1) + parallel,
        "both": parallel,
        "none": n0 * (d + 1) + s2 * d,
    }
    for key, options in (("read", READ), ("both", BOTH), ("none", {})):
        assert same(icl.optimal_tight_prior_constant(task, heads(2, options)).expr, expected[key])
    many = icl.optimal_tight_prior_constant(task, heads(8, READ)).expr
    assert same(many, Q(2, 3) + parallel)
    # A skip path alone: minimise over the share by brute force.
    skip = float(icl.optimal_tight_prior_constant(TIGHT, heads(2, SKIP)))
    a = np.linspace(0, 1, 100_001)
    brute = (6 * (1 - a) ** 2 + a**2 * (4 + 0.9)).min()
    assert skip == pytest.approx(brute, rel=1e-8)
    assert skip < 6


def test_tight_prior_is_the_pair_at_small_scores():
    pair = icl.tight_prior_constant(TIGHT, heads(2, READ))
    limit = pair.expr.subs(share, Q(20, 23))
    assert float(limit.subs(t, Q(1, 10**5)).evalf(30)) == pytest.approx(110 / 23, rel=1e-6)


def test_wide_prior_is_the_ordinary_constant():
    """lambda -> oo: the share tends to 1, and the constant to that of the readings n_0 alone."""
    wide = TIGHT.replaced(coef_cov=10**9)
    best = icl.optimal_tight_prior_constant(wide, heads(2, READ))
    assert best.minimizer is not None
    assert float(best.minimizer[share]) == pytest.approx(1, abs=1e-8)
    assert float(best) == pytest.approx(4 + 0.9, rel=1e-8)


@pytest.mark.parametrize("options", [{}, READ], ids=str)
def test_threshold_of_the_tight_prior(options):
    threshold = icl.tight_prior_threshold(TIGHT, heads(2, options)).expr
    for factor, prior_wins in ((Q(99, 100), True), (Q(101, 100), False)):
        lam = threshold * factor
        task = TIGHT.replaced(coef_cov=lam / 3)
        constant = icl.optimal_tight_prior_constant(task, heads(2, options)).expr
        assert bool(constant > lam) == prior_wins
    if options:
        assert float(threshold) == pytest.approx((4 + math.sqrt(16 + 4 * 4 * 0.9)) / 2, rel=1e-12)
    with pytest.raises(icl.InvalidInput, match="always helps"):
        icl.tight_prior_threshold(TIGHT, heads(2, BOTH))
    with pytest.raises(icl.InvalidInput, match="no closed form"):
        icl.tight_prior_threshold(TIGHT, heads(1, READ))


# -- properties ------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(
    st.lists(st.integers(-6, 6), min_size=2, max_size=2).filter(any),
    st.integers(1, 9),
    st.integers(0, 9),
)
def test_more_knowledge_is_never_worse(mean, omega, noise):
    task = icl.LinearRegression(dim=2, noise_var=Q(noise, 5), coef_cov=Q(omega, 4), coef_mean=mean)
    constants = [
        icl.optimal_loss_constant(task, heads(6, options)).expr for options in ({}, READ, BOTH)
    ]
    assert constants[0] > constants[1] > constants[2]
    risks = [
        icl.optimal_finite_prompt_risk(task, heads(2, options)).expr.subs(n, 7)
        for options in ({}, SKIP, READ, BOTH)
    ]
    assert risks[0] >= max(risks[1], risks[2])
    assert min(risks[1], risks[2]) > risks[3]
    # With a skip path the prior alone is one of the layers.
    assert max(risks[1], risks[3]) <= icl.prior_risk(task).expr


def test_families_need_a_prior_and_a_count():
    with pytest.raises(icl.InvalidInput, match="no coef_mean"):
        icl.prior_heads(icl.LinearRegression(dim=3), 4)
    with pytest.raises(icl.InvalidInput, match="4 heads or 2d"):
        icl.prior_heads(TIGHT, 5)


def test_unsupported_options_are_refused():
    task = task_of()
    for call in (
        lambda: icl.gradient_flow(task),
        lambda: icl.valley_constant(task),
        lambda: icl.infinite_prompt_risk(task),
        lambda: icl.linear_attention_risk(task, 10),
        lambda: icl.optimal_linear_attention(task),
        lambda: icl.convergence_rates(task),
        lambda: icl.closed_form(task),
    ):
        with pytest.raises(icl.InvalidInput, match=r"coef_cov=task\.coef_moment"):
            call()
    with pytest.raises(icl.InvalidInput, match="option skip is not supported"):
        icl.consistency_condition(icl.LinearRegression(dim=3), heads(2, SKIP))
    with pytest.raises(icl.InvalidInput, match="softmax heads without scores"):
        icl.tight_prior_threshold(TIGHT, icl.LinearAttention())


@pytest.mark.parametrize(("count", "size"), [(4, 2), (8, Q(2, 3))])
def test_families_expand_at_small_scores(count, size):
    task = icl.LinearRegression(dim=3, noise_var=Q(1, 5), coef_mean=[1, 0, 0])
    constant = icl.loss_constant(task, icl.prior_heads(task, count))
    expansion = icl.small_score_expansion(constant, 2)
    # (omega^2 + noise) d + omega^2 with omega = 1, and 2 |theta_0|^2 or 2 |theta_0|^2 / d
    assert expansion.subs(t=sp.Rational(1, 10**30)).expr == pytest.approx(
        float(Q(23, 5) + size), rel=1e-14
    )
    exact = float(constant.expr.subs(t, Q(1, 100)).evalf(30))
    assert float(expansion.subs(t=Q(1, 100))) == pytest.approx(exact, rel=1e-5)
    assert float(icl.small_score_expansion(constant, 0)) != pytest.approx(exact, rel=1e-5)
