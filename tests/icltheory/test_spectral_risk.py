"""Exact expected risks, optima, limits and late laws: statements and reference values."""

from typing import Any, cast

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.symbols import d, frobenius, lam_max, n, noise_var, steps

ETA = sp.Symbol("eta", positive=True)
C = sp.Symbol("c", positive=True)
G = sp.Symbol("gamma", positive=True)
P = [icl.wishart_trace_moment(k) for k in range(9)]
SIGMA2 = d * noise_var  # the reference noise, whose coefficients are N(0, I)


def same(a, b):
    return sp.cancel(sp.together(a - b)) == 0


# -- V6: polynomial filters ----------------------------------------------------------------------


def test_one_step_of_gradient_descent():
    risk = icl.solver_risk(icl.GradientDescent(ETA), 1, noise_var=noise_var).expr
    closed = d - 2 * ETA * n * d + ETA**2 * n * d * (n + d + 1 + SIGMA2)
    assert same(d * risk, closed)
    assert not same(d * risk, closed + ETA**2)
    best = icl.optimal_solver_risk(icl.GradientDescent(ETA), 1, noise_var=noise_var)
    assert same(best.minimizer[ETA], 1 / (n + d + 1 + SIGMA2))
    assert same(d * best.expr, d * (d + 1 + SIGMA2) / (n + d + 1 + SIGMA2))
    assert best.attained


def test_two_steps_and_newton():
    risk = icl.solver_risk(icl.GradientDescent(ETA), 2).expr
    binomial = sum(sp.binomial(4, j) * (-ETA) ** j * P[j] for j in range(5))
    assert same(d * risk, binomial)
    newton = icl.optimal_solver_risk(icl.IterativeNewton(ETA), 0)
    assert same(d * newton.expr, d - P[2] ** 2 / P[4])
    assert same(newton.minimizer[ETA], P[2] / P[4])
    # k Newton steps from beta I are 2^k steps of gradient descent.
    for k in (0, 1, 2):
        descent = icl.solver_risk(icl.GradientDescent(ETA), 2**k, noise_var=noise_var)
        identity = icl.solver_risk(icl.IterativeNewton(ETA, start="I"), k, noise_var=noise_var)
        assert same(descent.expr, identity.expr)


def test_best_polynomials():
    assert same(icl.best_polynomial_risk(1).expr, (d + 1) / (n + d + 1))
    top = d**3 * n + d**3 + 4 * d**2 * n + 10 * d**2 + 7 * d * n + 17 * d + 4 * n + 4
    bottom = d**3 * n + d**3 + d**2 * n**2 + 5 * d**2 * n + 10 * d**2 + d * n**3
    bottom += 5 * d * n**2 + 17 * d * n + 17 * d + n**3 + 10 * n**2 + 17 * n + 4
    assert same(icl.best_polynomial_risk(2).expr, top / bottom)
    # 1/(H^{-1})_00 with the moment matrix H.
    hankel = sp.Matrix(4, 4, lambda i, j: icl.wishart_trace_moment(i + j, 9, 4))
    assert icl.best_polynomial_risk(3, 9, 4).expr == 1 / hankel.inv()[0, 0] / 4


def test_the_best_polynomial_is_a_filter_with_this_risk_and_none_is_better():
    best = icl.best_polynomial_risk(3, 9, 4, sp.Rational(1, 5))
    q = [best.minimizer[sp.Symbol(f"q_{i}")] for i in range(3)]

    def risk(weights):
        r = [sp.Integer(1), *(-x for x in weights)]
        moment = [icl.wishart_trace_moment(k, 9, 4) for k in range(8)]
        signal = sum(a * b * moment[i + j] for i, a in enumerate(r) for j, b in enumerate(r))
        noise = sum(
            a * b * moment[i + j + 1] for i, a in enumerate(weights) for j, b in enumerate(weights)
        )
        return signal / 4 + noise / 5

    assert risk(q) == best.expr
    for i in range(3):
        for factor in (sp.Rational(101, 100), sp.Rational(99, 100)):
            assert risk([x * (factor if j == i else 1) for j, x in enumerate(q)]) > best.expr
    descent = icl.optimal_solver_risk(icl.GradientDescent(ETA), 3, 9, 4, sp.Rational(1, 5))
    assert float(best) < float(descent)


# -- Section 8 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "count", "best", "risk"),
    [
        (icl.GradientDescent(ETA), 1, 1 / 61, 0.344262295082),
        (icl.GradientDescent(ETA), 2, 0.0161915154473, 0.19773124884778),
        (icl.GradientDescent(ETA), 4, 0.0158144897359, 0.095331063644754),
        (icl.IterativeNewton(ETA), 0, 1.57671629446e-4, 0.61528122415219),
        (icl.IterativeNewton(ETA), 1, 1.45194663714e-4, 0.50377632046014),
        (icl.IterativeNewton(ETA), 2, 1.27864951284e-4, 0.40618829699917),
    ],
)
def test_best_parameters_of_the_reference(solver, count, best, risk):
    found = icl.optimal_solver_risk(solver, count, 40, 20)
    assert float(found.minimizer[ETA]) == pytest.approx(best, rel=2e-12)
    assert float(found) == pytest.approx(risk, rel=2e-13)
    nearby = icl.solver_risk(solver, count, 40, 20).expr
    for factor in (sp.Rational(101, 100), sp.Rational(99, 100)):
        assert nearby.subs(ETA, found.minimizer[ETA] * factor) > found.expr


@pytest.mark.parametrize(
    ("degree", "length", "risk"),
    [
        (2, 40, 0.155455141528),
        (4, 40, 0.0423063800891),
        (2, 20, 0.35034590961),
        (4, 20, 0.222599752335),
    ],
)
def test_best_polynomials_of_the_reference(degree, length, risk):
    assert float(icl.best_polynomial_risk(degree, length, 20)) == pytest.approx(risk, rel=5e-12)


def test_literal_risk_and_forgetting_of_the_reference():
    literal = icl.solver_risk(icl.GradientDescent(0.01), 50, 20, 20)
    assert float(literal) == pytest.approx(0.1351659496279, rel=1e-12)
    forgetting = icl.solver_forgetting(icl.GradientDescent(0.01), 1, 20, 20)
    assert forgetting.expr == sp.Rational(3924, 10000)
    # E tr[S (1 - eta S)^2]/(n d) by hand.
    symbolic = icl.solver_forgetting(icl.GradientDescent(ETA), 1).expr
    assert same(symbolic * n * d, P[1] - 2 * ETA * P[2] + ETA**2 * P[3])


# -- V1, V17, V18 ----------------------------------------------------------------------------------


def test_random_start_and_scaled_features():
    solver = icl.GradientDescent(sp.Rational(1, 50))
    one = icl.solver_risk(solver, 3, 8, 5).expr
    start = icl.solver_risk(solver, 3, 8, 5, start=sp.Rational(1, 3)).expr
    assert start == one * sp.Rational(4, 3)
    # Features N(0, 4 I) with a quarter of the step: the signal is four times as large.
    quarter = icl.GradientDescent(sp.Rational(1, 200))
    assert icl.solver_risk(quarter, 3, 8, 5, cov=4).expr == 4 * one
    noisy = icl.solver_risk(solver, 3, 8, 5, 1).expr - one
    assert icl.solver_risk(quarter, 3, 8, 5, 1, cov=4).expr - 4 * one == noisy


def test_covariance():
    s = {j: sp.Integer(1 + 2**j + 4**j) for j in (1, 2, 3)}
    risk = icl.solver_risk(icl.GradientDescent(ETA), 1, n, cov=[1, 2, 4]).expr
    closed = s[1] - 2 * ETA * n * s[2] + ETA**2 * (n * (n + 1) * s[3] + n * s[1] * s[2])
    assert same(3 * risk, closed)
    flat = icl.solver_risk(icl.GradientDescent(ETA), 3, 7, noise_var=2, cov=[1, 1, 1])
    assert same(flat.expr, icl.solver_risk(icl.GradientDescent(ETA), 3, 7, 3, 2).expr)
    rotated = icl.solver_risk(icl.GradientDescent(ETA), 2, 7, cov=[[2, 1], [1, 2]])
    assert same(rotated.expr, icl.solver_risk(icl.GradientDescent(ETA), 2, 7, cov=[1, 3]).expr)


def test_least_squares():
    formula = icl.solver_risk(icl.OrdinaryLeastSquares(), noise_var=noise_var)
    assert formula.subs(n=30, d=20, noise_var=1).expr == sp.Rational(20, 9)
    assert formula.subs(n=10, d=20, noise_var=1).expr == sp.Rational(1, 2) + sp.Rational(10, 9)
    task = icl.LinearRegression(dim=d, noise_var=noise_var)
    assert same(formula.expr.args[0][0], icl.least_squares_risk(task).expr)
    noiseless = icl.solver_risk(icl.OrdinaryLeastSquares())
    assert [noiseless.subs(n=x, d=20).expr for x in (5, 20, 40)] == [sp.Rational(3, 4), 0, 0]
    for length in (19, 20, 21):
        with pytest.raises(OutOfDomain, match="infinite"):
            icl.solver_risk(icl.OrdinaryLeastSquares(), n=length, d=20, noise_var=1)
        with pytest.raises(OutOfDomain):
            formula.subs(n=length, d=20)
    general = icl.solver_risk(icl.OrdinaryLeastSquares(), n=9, noise_var=1, cov=[1, 2, 3])
    assert general.expr == sp.Rational(3, 5)


def test_ridge_is_the_best_filter():
    assert icl.optimal_ridge(20, sp.Rational(1, 20)) == icl.Ridge(1)
    assert same(icl.optimal_ridge(d, noise_var + 1).penalty, d * (noise_var + 1))
    assert icl.optimal_ridge(5, 2, coef_var=4) == icl.Ridge(sp.Rational(1, 2))


# -- V10: limits -----------------------------------------------------------------------------------


def test_limits_are_those_of_the_exact_risk():
    for solver, count in ((icl.GradientDescent(C / n), 2), (icl.IterativeNewton(C / n**2), 0)):
        finite = icl.solver_risk(solver, count, noise_var=noise_var).expr.subs(d, G * n)
        limit = icl.solver_risk_limit(solver, count, noise_var=noise_var).expr
        assert same(sp.limit(sp.expand(finite), n, sp.oo), limit)
    # A parameter that scales only in the limit.
    mixed = icl.solver_risk_limit(icl.GradientDescent(C / (n + 1)), 2, noise_var=noise_var)
    pure = icl.solver_risk_limit(icl.GradientDescent(C / n), 2, noise_var=noise_var)
    assert same(mixed.expr, pure.expr)


def test_limit_with_covariance():
    # Half of the eigenvalues 1 and 3, d = 2 m; the finite formula at large m.
    limit = icl.solver_risk_limit(
        icl.GradientDescent(C / n),
        2,
        G,
        noise_var,
        cov_moments=[sp.Rational(1 + 3**j, 2) for j in range(1, 6)],
    ).expr
    moments = {C: sp.Rational(1, 10), G: 1, noise_var: sp.Rational(1, 2)}
    cov = [1, 3] * 60
    solver = icl.GradientDescent(sp.Rational(1, 10) / 120)
    finite = icl.solver_risk(solver, 2, 120, noise_var=sp.Rational(1, 2), cov=cov)
    assert float(finite) == pytest.approx(float(limit.subs(moments)), rel=0.01)
    assert float(finite) != pytest.approx(1.03 * float(limit.subs(moments)), rel=0.01)
    one = icl.solver_risk_limit(icl.GradientDescent(C / n), 2, G, noise_var, cov_moments=[1] * 5)
    assert same(one.expr, icl.solver_risk_limit(icl.GradientDescent(C / n), 2, G, noise_var).expr)


def test_square_limits_of_the_reference():
    half = sp.Rational(1, 2)
    descent = icl.solver_risk_limit(icl.GradientDescent(C / n), steps, 1).expr
    assert descent == sp.hyper([half, -2 * steps], [2], 4 * C)
    newton = icl.solver_risk_limit(icl.IterativeNewton(C / n**2), steps, 1).expr
    quarter = sp.Rational(1, 4)
    assert newton == sp.hyper([quarter, 3 * quarter, -2 * 2**steps], [1, 3 * half], 16 * C)
    flow = icl.solver_risk_limit(icl.GradientFlow(), C / n, 1).expr
    bessel = sp.exp(-4 * C) * (sp.besseli(0, 4 * C) + sp.besseli(1, 4 * C))
    assert sp.expand(flow - bessel) == 0
    values = (
        (icl.solver_risk_limit(icl.GradientFlow(), 1 / n, 1).expr, 0.385752760726),
        (descent.subs({C: quarter, steps: 10}), 0.24477134249537),
        (newton.subs({C: sp.Rational(1, 16), steps: 2}), 0.6326494156383),
        (newton.subs({C: sp.Rational(1, 16), steps: 5}), 0.39829310727703),
    )
    for expr, value in values:
        assert float(expr.evalf(20)) == pytest.approx(
            value, rel=5e-6 if value == 0.52378 else 1e-12
        )
    # Integer steps are summed from the moments instead.
    for k in (0, 1, 2):
        direct = icl.solver_risk_limit(icl.IterativeNewton(C / n**2), k, 1).expr
        series = sp.hyperexpand(newton.subs(steps, k))
        assert sp.expand(sp.expand_func(series) - direct) == 0


def test_ridge_limit():
    z = sp.Rational(1, 3)
    # r^2 and q^2 lam against the density, by the trapezoidal rule in the angle.
    theta = (np.arange(20_000) + 0.5) * np.pi / 20_000
    for gamma, noise in ((0.5, 0.7), (2.0, 0.0), (1.0, 0.3)):
        limit = icl.solver_risk_limit(icl.Ridge(z * n), gamma=gamma, noise_var=noise)
        x = 1 + gamma - 2 * np.sqrt(gamma) * np.cos(theta)
        weights = 2 * np.sin(theta) ** 2 / x / len(theta)
        left = weights @ (float(z) / (x + float(z))) ** 2 + max(0, 1 - 1 / gamma)
        right = noise * gamma * weights @ (x / (x + float(z)) ** 2)
        assert float(limit) == pytest.approx(left + right, rel=1e-6)
        assert float(limit) != pytest.approx(1.01 * (left + right), rel=1e-6)


def test_least_squares_limit():
    formula = icl.solver_risk_limit(icl.OrdinaryLeastSquares(), noise_var=noise_var)
    for gamma, value in ((sp.Rational(1, 2), noise_var), (2, sp.Rational(1, 2) + noise_var)):
        assert same(formula.subs(gamma=gamma).expr, value)
    small = icl.solver_risk_limit(icl.Ridge(C * n), gamma=2, noise_var=1).expr
    assert sp.limit(small, C, 0) == sp.Rational(3, 2)
    with pytest.raises(OutOfDomain, match="infinite"):
        icl.solver_risk_limit(icl.OrdinaryLeastSquares(), gamma=1, noise_var=1)


# -- V11: late times -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "count", "leading", "second"),
    [
        (20, 10**5, 4.37611e-3, 4.35477e-3),
        (22, 10**4, 3.63260e-4, 3.44609e-4),
        (25, 10**5, 5.50000e-10, 5.46959e-10),
    ],
)
def test_late_descent(length, count, leading, second):
    law = [
        float(icl.late_solver_risk(icl.GradientDescent(0.01), count, length, 20, order=order))
        for order in (1, 2)
    ]
    # Six digits are printed; the last of the third row is rounded up there.
    np.testing.assert_allclose(law, [leading, second], rtol=3e-6)


@pytest.mark.parametrize("order", [1, 2])
def test_late_laws_need_many_steps(order):
    with pytest.raises(icl.OutOfDomain, match="steps = 30 is too few"):
        icl.late_solver_risk(icl.GradientDescent(0.01), 30, 20, 18, order=order)
    law = icl.late_solver_risk(icl.GradientDescent(0.01), steps, 20, 18, order=order)
    assert law.validity == (steps > sp.Rational(7415, 16))
    with pytest.raises(icl.OutOfDomain, match="outside steps > 7415/16"):
        law.subs(steps=463)
    assert law.subs(steps=464).expr > 0
    general = icl.late_solver_risk(icl.GradientDescent(ETA), steps, order=order)
    assert general.condition == "(nu + 1)*(nu + 3)/(16*steps) + (2*m + nu - 1)/(8*eta*steps) < 1"
    assert general.subs(n=20, d=18, eta=0.01).validity.subs(steps, 464) == sp.true


def test_late_laws_as_printed():
    nu = 2
    a, m, most = sp.Rational(nu - 1, 2), sp.Integer(20), sp.Integer(22)
    density = icl.edge_density(22, 20).expr
    constant = sp.limit(density / icl.symbols.lam**a, icl.symbols.lam, 0)
    b = sp.Rational(1, 2) + (m - 1) / sp.Integer(nu + 1)
    assert most - m == nu
    tau = ETA * steps
    bracket = 1 - (a + 1) * (b + ETA * (a + 2) / 2) / (2 * tau)
    printed = constant * sp.gamma(a + 1) * (2 * tau) ** (-a - 1) * bracket / 20
    law = icl.late_solver_risk(icl.GradientDescent(ETA), steps, 22, 20).expr
    point = {ETA: sp.Rational(1, 100), steps: 5000}
    assert float(law.subs(point)) == pytest.approx(float(printed.subs(point)), rel=1e-13)
    c = 2 ** (steps + 1) * ETA
    ratio = sp.gamma((a + 2) / 2) / sp.gamma((a + 1) / 2)
    printed = (
        constant / 2 * sp.gamma((a + 1) / 2) * c ** (-(a + 1) / 2) * (1 - b * ratio / sp.sqrt(c))
    )
    newton = icl.late_solver_risk(icl.IterativeNewton(ETA), steps, 22, 20).expr
    point = {ETA: sp.Rational(1, 7000), steps: 24}
    assert float(newton.subs(point)) == pytest.approx(float(printed.subs(point) / 20), rel=1e-13)


def test_late_floor_flow_and_rates():
    # V12: geometric in Newton steps with ratio 2^{-(nu+1)/4}, polynomial in those of descent.
    newton = icl.late_solver_risk(icl.IterativeNewton(ETA), steps, 40, 20, order=1).expr
    assert sp.powsimp(newton.subs(steps, 8) / newton.subs(steps, 7)) == 2 ** sp.Rational(-21, 4)
    identity = icl.late_solver_risk(
        icl.IterativeNewton(ETA, start="I"), steps, 20, 20, order=1
    ).expr
    assert sp.powsimp(identity.subs(steps, 8) / identity.subs(steps, 7)) == 1 / sp.sqrt(2)
    descent = icl.late_solver_risk(icl.GradientDescent(ETA), steps, 40, 20, order=1).expr
    flow = icl.late_solver_risk(icl.GradientFlow(), ETA * steps, 40, 20, order=1).expr
    assert sp.powsimp(sp.cancel(descent.subs(steps, 9) / flow.subs(steps, 9))) == 1
    short = icl.late_solver_risk(icl.GradientDescent(ETA), steps, 17, 20).expr
    assert sp.limit(short, steps, sp.oo) == sp.Rational(3, 20)
    floor = 0.15 + 3.216807e-5
    value = float(short.subs({ETA: sp.Rational(1, 100), steps: 10**4}))
    assert value == pytest.approx(floor, rel=1e-6)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: icl.solver_risk(cast(Any, "gd"), 1), InvalidInput, "solver has type str"),
        (lambda: icl.solver_risk(icl.GradientDescent(0.1)), InvalidInput, "steps is missing"),
        (lambda: icl.solver_risk(icl.GradientDescent(0.1), -1), InvalidInput, "no number of steps"),
        (lambda: icl.solver_risk(icl.GradientDescent(0.1), steps), InvalidInput, "symbolic"),
        (lambda: icl.solver_risk(icl.GradientDescent(0.1), 300), InvalidInput, "above 100"),
        (lambda: icl.solver_risk(icl.Ridge(1)), InvalidInput, "no polynomial"),
        (lambda: icl.solver_risk(icl.GradientDescent(), 1), InvalidInput, "depend on the prompt"),
        (lambda: icl.solver_risk(icl.IterativeNewton(1 / frobenius), 1), InvalidInput, "frobenius"),
        (lambda: icl.solver_risk(icl.GradientDescent(1 / lam_max), 1), InvalidInput, "lam_max"),
        (lambda: icl.solver_risk(icl.GradientDescent(0.1), 1, 0, 5), InvalidInput, "n = 0"),
        (lambda: icl.solver_risk(icl.GradientDescent(0.1), 1, 5, 5, -1), InvalidInput, "negative"),
        (
            lambda: icl.solver_risk(icl.GradientDescent(0.1), 1, 5, 5, cov=[1, 2]),
            InvalidInput,
            "cov is 2 x 2, but d = 5",
        ),
        (
            lambda: icl.solver_risk(icl.OrdinaryLeastSquares(), n=2, cov=[1, 2, 3]),
            InvalidInput,
            "no closed form",
        ),
        (lambda: icl.best_polynomial_risk(-1), InvalidInput, "degree = -1"),
        (lambda: icl.best_polynomial_risk(41), InvalidInput, "from 0 to 40"),
        (lambda: icl.optimal_solver_risk(icl.GradientDescent(0.1), 2), InvalidInput, "none"),
        (
            lambda: icl.optimal_solver_risk(icl.HeavyBall(ETA, C), 2, 5, 5),
            InvalidInput,
            "exactly one",
        ),
        (lambda: icl.optimal_solver_risk(icl.GradientDescent(ETA), 2), InvalidInput, "degree 3"),
        (
            lambda: icl.optimal_solver_risk(icl.GradientDescent(ETA), 0, 5, 5),
            InvalidInput,
            "does not depend on eta: take at least one step",
        ),
        (lambda: icl.optimal_ridge(5, 0), InvalidInput, "least squares"),
        (lambda: icl.optimal_ridge(5, -1), InvalidInput, "noise_var = -1 is negative"),
        (lambda: icl.optimal_ridge(5, 1, 0), InvalidInput, "coef_var = 0 is not positive"),
        (lambda: icl.solver_risk(icl.ConjugateGradient(), 1), InvalidInput, "depends on the lab"),
        (
            lambda: icl.solver_risk(icl.GradientDescent(0.1), 1, n=2, cov=[1, -2]),
            InvalidInput,
            "cov is not positive semi-definite",
        ),
        (
            lambda: icl.solver_risk(icl.GradientDescent(0.1), 1, n=2, cov=[[1, 2], [0, 1]]),
            InvalidInput,
            "cov is not symmetric",
        ),
        (lambda: icl.solver_risk_limit(icl.GradientDescent(C / n)), InvalidInput, "is missing"),
        (
            lambda: icl.late_solver_risk(icl.GradientDescent(0.1), 0, 5, 5),
            InvalidInput,
            "for many steps",
        ),
        (lambda: icl.solver_risk_limit(icl.GradientDescent(0.1), 2), InvalidInput, "no limit"),
        (lambda: icl.solver_risk_limit(icl.Ridge(1)), InvalidInput, "more slowly"),
        (lambda: icl.solver_risk_limit(icl.GradientFlow(), C / n), InvalidInput, "gamma = 1"),
        (
            lambda: icl.solver_risk_limit(icl.GradientDescent(C / n), 2, cov_moments=[1]),
            InvalidInput,
            "up to j = 5",
        ),
        (lambda: icl.late_solver_risk(icl.Ridge(1), 2), InvalidInput, "no power"),
        (
            lambda: icl.late_solver_risk(icl.GradientDescent(0.1), 9, order=3),
            InvalidInput,
            "order = 3",
        ),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
