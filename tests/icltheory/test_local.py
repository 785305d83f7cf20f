"""Local examples: constants, exact pairs, linear attention and shifts, against brute force."""

import math

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

import icltheory as icl
from icltheory.symbols import d, g, k, n, noise_var, t, v

ONE, TWO = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
LINEAR, CENTRED = icl.LinearAttention(), icl.LinearAttention(centered=True)
Q = sp.Rational
RHO, TAU = sp.Symbol("rho", positive=True), sp.Symbol("tau_x", positive=True)
GENERAL = icl.LinearRegression(dim=d, noise_var=noise_var, local=(RHO, TAU))
A = TAU**2 + noise_var
C = (A * d + TAU**2) / TAU**2


def same(left, right) -> bool:
    return sp.simplify(sp.sympify(left) - right) == 0


# -- the task ------------------------------------------------------------------------------------


def test_examples_independent_of_the_query_are_the_base_task():
    assert icl.LinearRegression(dim=3, local=(0, 1)) == icl.LinearRegression(dim=3)
    assert icl.LinearRegression(dim=3, local=(1, 1)) != icl.LinearRegression(dim=3)
    assert icl.LinearRegression(dim=3, local=(1.0, 0.5)).local == (1, Q(1, 2))


@pytest.mark.parametrize(
    ("local", "message"),
    [
        ((1, 0), "tau = 0 is not positive"),
        ((1, -1), "tau = -1 is not positive"),
        ((-1, 1), "rho = -1 is negative"),
        ((1,), "must be a pair"),
        (1, "must be a pair"),
        (("a", 1), "text is never parsed"),
        ((1, float("inf")), "not finite"),
        ((1, None), "not a number"),
        ((t, 1), "use a symbol of another name"),
    ],
)
def test_impossible_locality_is_refused(local, message):
    with pytest.raises(icl.InvalidInput, match=message):
        icl.LinearRegression(dim=3, local=local)


def test_unsupported_options_are_refused():
    task = icl.LinearRegression(dim=3, local=(1, 1))
    for call in (
        lambda: icl.gradient_flow(task),
        lambda: icl.valley_constant(task),
        lambda: icl.infinite_prompt_risk(task),
        lambda: icl.consistency_condition(task, ONE),
    ):
        with pytest.raises(icl.InvalidInput, match="option local is not supported"):
            call()
    for layer in (
        icl.SoftmaxAttention(heads=1, skip=True),
        icl.SoftmaxAttention(heads=1, feature_values=True),
    ):
        with pytest.raises(icl.InvalidInput, match="is not supported"):
            icl.loss_constant(task, layer)


# -- constants -----------------------------------------------------------------------------------


def test_reference_values():
    task = icl.LinearRegression(dim=5, noise_var=0.2, local=(0.9, 0.8))
    one = icl.optimal_loss_constant(task, ONE)
    assert one.minimizer is not None
    assert 0.8 * math.sqrt(float(one.minimizer[t])) == pytest.approx(0.132735, abs=5e-7)
    assert float(one) == pytest.approx(0.92017559, rel=1e-8)
    assert float(icl.optimal_loss_constant(task, TWO)) == pytest.approx(0.91197847, rel=1e-8)
    pair = icl.optimal_finite_prompt_risk(task, TWO).subs(n=30)
    assert float(pair) == pytest.approx(0.02961797, abs=5e-9)


@pytest.mark.parametrize(
    ("dim", "one", "scale", "many"),
    [(1, 0.72516, 0.30030, 2 / 3), (5, 0.86772, 0.14000, 6 / 7)],
)
def test_unit_spread_table(dim, one, scale, many):
    task = icl.LinearRegression(dim=dim, local=(1, 1))
    best = icl.optimal_loss_constant(task, ONE)
    assert best.minimizer is not None
    assert float(best) == pytest.approx(one, abs=5e-6)
    assert math.sqrt(float(best.minimizer[t])) == pytest.approx(scale, abs=5e-6)
    assert float(icl.optimal_loss_constant(task, TWO)) == pytest.approx(many, rel=1e-14)


@pytest.mark.parametrize(("dim", "ratio"), [(5, 1.0123), (20, 1.0011)])
def test_the_gap_closes_on_local_examples(dim, ratio):
    gain = float(icl.multihead_gain(icl.LinearRegression(dim=dim, local=(1, 1))))
    assert gain == pytest.approx(ratio, abs=5e-5)


def test_closed_forms():
    bracket = TAU**2 * g**2 / (1 - 2 * g**2) + A
    expected = (1 - 2 * g**2) ** (-d / 2) / (RHO + TAU * g) ** 2 * bracket
    assert same(icl.local_constant(GENERAL).expr, expected)
    in_t = icl.loss_constant(GENERAL, ONE)
    assert same(in_t.expr, expected.subs(g, TAU * sp.sqrt(t)))
    many = A * C / (A + RHO**2 * C)
    assert same(icl.optimal_loss_constant(GENERAL, TWO).expr, many)
    assert same(icl.local_value_sum(GENERAL).expr, RHO * C / (A + RHO**2 * C))
    alpha, beta = A / n, C / (n - 1 + C)
    pair = icl.optimal_finite_prompt_risk(GENERAL, TWO)
    assert same(pair.expr, alpha * beta / (alpha + RHO**2 * beta))
    # The control: the same with the spread a few percent off.
    assert not same(pair.expr, (alpha * beta / (alpha + RHO**2 * beta)).subs(TAU, TAU * Q(21, 20)))


def test_the_derivation_arrives_at_the_formula():
    task = icl.LinearRegression(dim=5, local=(1, 2))
    constant = icl.local_constant(task)
    told = {str(s.equation.lhs): s.equation.rhs for s in constant.steps}
    assert told["V"] == constant.expr
    assert sp.expand(told["v"] ** 2 * told["W"] / told["V"] - 1) == 0
    best = icl.optimal_loss_constant(task, icl.SoftmaxAttention(heads=1))
    stationary = next(s for s in best.steps if s.title.endswith("a polynomial in g"))
    assert stationary.equation.free_symbols == {g}


def test_stationarity_is_the_quartic():
    a = 1 - 2 * g**2
    quartic = TAU * a * (TAU**2 * g**2 + A * a)
    quartic -= g * (RHO + TAU * g) * (d * (TAU**2 * g**2 + A * a) + TAU**2)
    found = icl.local_stationarity(GENERAL).expr
    ratio = sp.cancel(quartic / found)
    assert ratio.is_constant()
    best = icl.optimal_loss_constant(icl.LinearRegression(dim=7, local=(2, 0.5)), ONE)
    assert best.minimizer is not None
    # Golden section on the constant itself.
    constant = sp.lambdify(
        t, icl.loss_constant(icl.LinearRegression(dim=7, local=(2, 0.5)), ONE).expr
    )
    grid = np.linspace(1e-6, 1.9, 200_000)
    assert float(best) == pytest.approx(constant(grid).min(), rel=1e-9)
    assert float(best.minimizer[t]) == pytest.approx(grid[np.argmin(constant(grid))], abs=2e-5)
    with pytest.raises(icl.InvalidInput, match="polynomial of degree 4"):
        icl.optimal_loss_constant(GENERAL, ONE)


def test_limits():
    # g = 0 is the plain average of the labels.
    assert same(icl.local_constant(GENERAL).expr.subs(g, 0), A / RHO**2)
    # rho = 0: a rescaling of the base task, features of scale tau and noise sigma^2/tau^2.
    task = icl.LinearRegression(dim=4, noise_var=0.3, local=(0, 0.5))
    base = icl.LinearRegression(dim=4, noise_var=1.2)
    for attention in (ONE, TWO):
        best, other = (icl.optimal_loss_constant(x, attention) for x in (task, base))
        assert float(best) == pytest.approx(float(other), rel=1e-12)
        risks = [icl.optimal_finite_prompt_risk(x, TWO).expr for x in (task, base)]
        assert same(*risks)
    # The gap closes like 1/d^2.
    for attention, sign in ((ONE, 1), (TWO, 0)):
        task = icl.LinearRegression(dim=400, noise_var=0.2, local=(0.9, 0.8))
        constant = float(icl.optimal_loss_constant(task, attention))
        leading = 0.84 / 0.81 * (1 - 0.64 / (0.81 * 400))
        assert constant == pytest.approx(leading, rel=2e-5), sign


def quadrature_constant(dim_one_scores, values, rho, tau, spread, noise) -> float:
    """E phi^2 for d = 1 by Gauss-Hermite sums over the query and one example."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / math.sqrt(2 * math.pi)
    q, xi = np.meshgrid(nodes, nodes, indexing="ij")
    signal = label = 0.0
    for a, w in zip(dim_one_scores, values, strict=True):
        x, b = rho * q + tau * xi, a * q
        factor = np.exp(b * x - rho * b * q - (tau * b) ** 2 / 2)
        signal = signal + w * factor * (x - rho * q - tau**2 * b)
        label = label + w * factor
    return float(weights @ (spread * signal**2 + noise * label**2) @ weights)


@pytest.mark.parametrize("mean", [None, [0.5]])
def test_given_heads_against_quadrature(mean):
    rho, tau, noise = 0.9, 0.7, 0.3
    scores, values = [0.4, -0.2, 0.0], [1.3, 0.5]
    values = [
        *values,
        (1 - sum(w * (rho + tau**2 * a) for a, w in zip(scores, values, strict=False))) / rho,
    ]
    task = icl.LinearRegression(
        dim=1, noise_var=noise, coef_cov=2, local=(rho, tau), coef_mean=mean
    )
    found = float(icl.loss_constant(task, icl.SoftmaxAttention(scores=scores, values=values)))
    spread = 2 + (0.25 if mean else 0)
    assert found == pytest.approx(
        quadrature_constant(scores, values, rho, tau, spread, noise), rel=1e-9
    )
    changed = icl.SoftmaxAttention(scores=scores, values=[values[0] * 1.03, *values[1:]])
    with pytest.raises(icl.InvalidInput, match="not consistent"):
        icl.loss_constant(task, changed)


def test_one_head_against_quadrature():
    task = icl.LinearRegression(dim=1, noise_var=0.3, local=(0.9, 0.7))
    for scale in (0.0, 0.25, 0.5):
        a = scale / 0.7
        expected = quadrature_constant([a], [1 / (0.9 + 0.49 * a)], 0.9, 0.7, 1.0, 0.3)
        assert float(icl.local_constant(task).subs(g=scale)) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(icl.OutOfDomain):
        icl.local_constant(task).subs(g=0.8)


def test_two_heads_approach_the_infimum():
    """Heads (k Sigma^{-1}, 0) with v_1 = (1 - rho S_0)/(tau^2 k), v_2 = S_0 - v_1."""
    task = icl.LinearRegression(
        dim=2, noise_var=0.2, local=(0.9, 0.8), feature_cov=[[2, 0.5], [0.5, 1]], coef_cov=[1, 2]
    )
    total, best = icl.local_value_sum(task).expr, icl.optimal_loss_constant(task, TWO).expr
    first = (1 - Q(9, 10) * total) / (Q(16, 25) * k)
    layer = icl.SoftmaxAttention(scores=[k, 0], values=[first, total - first])
    constant = icl.loss_constant(task, layer)
    for small, tolerance in ((Q(1, 10**2), 1e-1), (Q(1, 10**4), 1e-3)):
        gap = float(constant.subs(t=small**2).evalf(30) - best) / float(best)
        assert 0 < gap < tolerance
    # The control: another sum of values is worse.
    worse = total * Q(21, 20)
    first = (1 - Q(9, 10) * worse) / (Q(16, 25) * k)
    layer = icl.SoftmaxAttention(scores=[k, 0], values=[first, worse - first])
    constant = icl.loss_constant(task, layer).subs(t=Q(1, 10**8))
    assert float(constant.evalf(30)) > float(best) * 1.001


@given(
    st.lists(st.integers(-9, 9), min_size=2, max_size=3),
    st.lists(st.integers(-9, 9), min_size=2, max_size=3),
    st.integers(0, 8),
    st.integers(2, 8),
)
def test_no_heads_are_below_the_infimum(scales, values, rho, tau):
    rho, tau, dim = Q(rho, 5), Q(tau, 5), 3
    count = min(len(scales), len(values))
    scores = [Q(x, 20) / tau for x in scales[:count]]
    weights = [Q(x, 4) for x in values[:count]]
    gain = sum(w * (rho + tau**2 * a) for w, a in zip(weights, scores, strict=True))
    if gain == 0:
        return
    task = icl.LinearRegression(dim=dim, noise_var=Q(1, 3), local=(rho, tau))
    layer = icl.SoftmaxAttention(scores=scores, values=[w / gain for w in weights])
    assert float(icl.loss_constant(task, layer)) >= float(icl.optimal_loss_constant(task, TWO)) * (
        1 - 1e-12
    )


# -- linear attention ------------------------------------------------------------------------------


def test_linear_attention_against_exact_averages():
    """Risk of (a/n) sum y_i x_i x_q for d = 1 by Gauss-Hermite sums over the query."""
    rho, tau, noise, length, a = 0.9, 0.7, 0.3, 4, 0.6
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    weights = weights / math.sqrt(2 * math.pi)
    q, xi = np.meshgrid(nodes, nodes, indexing="ij")
    term = (rho * q + tau * xi) ** 2 * q  # of theta; the noise adds x q
    noise_part = ((rho * q + tau * xi) * q) ** 2 * noise
    mean = term @ weights
    square = (term**2 + noise_part) @ weights
    risk = float(weights @ ((a * mean - nodes) ** 2 + a**2 * (square - mean**2) / length))
    task = icl.LinearRegression(dim=1, noise_var=noise, local=(rho, tau))
    found = icl.finite_prompt_risk(task, LINEAR).subs(n=length, v=a)
    assert float(found) == pytest.approx(risk, rel=1e-12)
    assert float(icl.finite_prompt_risk(task, LINEAR).subs(n=length, v=a * 1.03)) != pytest.approx(
        risk, rel=1e-4
    )


def test_linear_attention_in_general():
    floor = 2 * RHO**4 * (d + 2) / ((RHO**2 * (d + 2) + TAU**2) ** 2 + 2 * RHO**4 * (d + 2))
    assert same(icl.shift_floor(GENERAL, GENERAL, LINEAR).expr, floor)
    best = icl.optimal_finite_prompt_risk(GENERAL, LINEAR)
    assert same(
        sp.limit(best.expr.subs({d: 3, RHO: 1, TAU: 2, noise_var: 1}), n, sp.oo),
        floor.subs({d: 3, RHO: 1, TAU: 2}),
    )
    with pytest.raises(icl.InvalidInput, match="tends to"):
        icl.loss_constant(icl.LinearRegression(dim=3, local=(1, 1)), LINEAR)
    centred = icl.optimal_loss_constant(GENERAL, CENTRED)
    assert same(centred.expr, C)
    assert centred.minimizer == sp.Dict({v: 1 / TAU**2})
    exact = icl.optimal_finite_prompt_risk(GENERAL, CENTRED)
    assert same(exact.expr, C / (n - 1 + C))
    # Without a shift the uncentred layer is the base one.
    unshifted = GENERAL.replaced(local=(0, TAU))
    assert same(icl.optimal_finite_prompt_risk(unshifted, LINEAR).expr, C / (n + C))
    assert same(icl.optimal_loss_constant(unshifted, LINEAR).expr, C)


def test_correlated_features_and_general_coefficients_scale():
    """Signal R: R times the risk at noise/R (whitening), for every layer."""
    task = icl.LinearRegression(
        dim=2, noise_var=0.6, local=(0.9, 0.8), feature_cov=[[2, 0.5], [0.5, 1]], coef_cov=[1, 2]
    )
    signal = task.signal
    base = icl.LinearRegression(dim=2, noise_var=Q(3, 5) / signal, local=(0.9, 0.8))
    for attention in (ONE, TWO):
        scaled = float(signal) * float(icl.optimal_loss_constant(base, attention))
        assert float(icl.optimal_loss_constant(task, attention)) == pytest.approx(scaled, rel=1e-12)
    for attention in (TWO, LINEAR, CENTRED):
        left, right = (icl.finite_prompt_risk(x, attention).expr for x in (task, base))
        assert same(left, signal * right)


# -- shifts ----------------------------------------------------------------------------------------


def test_shift_table():
    base, near = icl.LinearRegression(dim=5), icl.LinearRegression(dim=5, local=(0.9, 0.8))
    best = icl.optimal_loss_constant(base, ONE).minimizer
    assert best is not None
    scale = math.sqrt(float(best[t]))
    total = float(icl.local_value_sum(near).expr)
    local_best = icl.optimal_loss_constant(near, ONE).minimizer
    assert local_best is not None
    local_scale = math.sqrt(float(local_best[t]))
    expected = {
        (base, near, ONE): (0.9 / scale + 0.64 - 1) ** 2,
        (base, near, TWO): (0.64 - 1) ** 2,
        (near, base, ONE): (local_scale / (0.9 + 0.64 * local_scale) - 1) ** 2,
        (near, base, TWO): ((1 - 0.9 * total) / 0.64 - 1) ** 2,
    }
    for (trained, tested, attention), value in expected.items():
        assert float(icl.shift_floor(trained, tested, attention)) == pytest.approx(value, rel=1e-9)
        assert float(icl.shift_floor(trained, trained, attention)) == pytest.approx(0, abs=1e-20)
    # Numbers by hand are taken as they are.
    given_heads = icl.SoftmaxAttention(scores=[0.3, -0.1], values=[2, 0.5])
    gain = 0.9 * 2.5 + 0.64 * 0.55
    found = float(icl.shift_floor(base, near, given_heads))
    assert found == pytest.approx((gain - 1) ** 2, rel=1e-12)
    assert found == pytest.approx(float(icl.limit_risk(near, given_heads)), rel=1e-12)
    # Centred linear attention does not see the shift.
    assert float(icl.shift_floor(base, near, CENTRED)) == pytest.approx(0.36**2)
    # Uncentred: E (a (rho^2 r^2 + tau^2) - 1)^2 r^2/d at a = 1, with chi-square moments.
    r2, r4, r6 = 5, 35, 315
    uncentred = (0.81**2 * r6 - 2 * 0.81 * 0.36 * r4 + 0.36**2 * r2) / 5
    assert float(icl.shift_floor(base, near, LINEAR)) == pytest.approx(uncentred, rel=1e-12)


def test_bad_shifts_are_refused():
    base = icl.LinearRegression(dim=5)
    for call, message in (
        (lambda: icl.shift_floor(base, icl.LinearRegression(dim=4), TWO), "differ in dim"),
        (lambda: icl.shift_floor(base, 3, TWO), "type int"),  # type: ignore[arg-type]
        (lambda: icl.shift_floor(base, base, icl.SoftmaxAttention(scores=[1])), "with values"),
        (lambda: icl.shift_floor(base, base, icl.SoftmaxAttention(heads=1, skip=True)), "skip"),
    ):
        with pytest.raises(icl.InvalidInput, match=message):
            call()
    with pytest.raises(icl.InvalidInput, match="type NoneType"):
        icl.shift_floor(base, base, None)  # type: ignore[arg-type]


def test_the_plain_average_needs_a_shift():
    assert icl.local_constant(icl.LinearRegression(dim=5, local=(1, 1))).subs(g=0).expr == 1
    for task in (icl.LinearRegression(dim=5), icl.LinearRegression(dim=5, local=(0, 2))):
        with pytest.raises(icl.OutOfDomain, match="g > 0"):
            icl.local_constant(task).subs(g=0)
