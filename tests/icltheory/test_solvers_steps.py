"""Stability ranges, optimal parameters and numbers of steps; the reference table and V4."""

import itertools
import math

import pytest
import sympy as sp

import icltheory as icl
from icltheory import solver_steps
from icltheory.symbols import accuracy, condition, lam, lam_max, lam_min, steps

R = sp.Rational
ETA, MU, ALPHA = sp.symbols("eta mu alpha", positive=True)
L, U = sp.symbols("l u", positive=True)


def affine_rule(solver):
    """A and B of the recursion as pairs (value at 0, slope), floats."""
    rule = (sp.Poly(x, lam) for x in solver.recursion)
    return [[float(x.coeff_monomial(m)) for m in (1, lam)] for x in rule]


def largest_root(solver, value, rule=None):
    """Modulus of the slowest root of the recursion at an eigenvalue, as a float."""
    first, second = (complex(a + b * value) for a, b in rule or affine_rule(solver))
    gap = (first**2 + 4 * second) ** 0.5
    return max(abs(first + gap), abs(first - gap)) / 2


def worst_root(solver, lower, upper, points=400):
    rule = affine_rule(solver)
    grid = (lower + (upper - lower) * i / points for i in range(points + 1))
    return max(largest_root(solver, float(x), rule) for x in grid)


# -- stability -----------------------------------------------------------------------------------


def test_stability_ranges_of_the_reference():
    assert icl.GradientDescent(ETA).stability == (ETA * lam_max < 2)
    assert icl.IterativeNewton(ALPHA).stability == (ALPHA * lam_max**2 < 2)
    assert icl.IterativeNewton(ALPHA, start="I").stability == (ALPHA * lam_max < 2)
    assert icl.HyperPower(3, ALPHA).stability == (ALPHA * lam_max < 2)
    ridge = icl.RidgeNewton(R(1, 2), ALPHA).stability
    assert sp.expand(ridge.lhs - ALPHA * (lam_max + R(1, 2)) ** 2) == 0
    assert ridge.rhs == 2
    heavy, nesterov = icl.HeavyBall(ETA, MU).stability, icl.Nesterov(ETA, MU).stability
    assert sp.cancel(heavy.rhs / heavy.lhs - 2 * (1 + MU) / (ETA * lam_max)) == 0
    assert (
        sp.cancel(nesterov.rhs / nesterov.lhs - 2 * (1 + MU) / (1 + 2 * MU) / (ETA * lam_max)) == 0
    )
    # It must only cover the spectrum to be optimal; it converges below lower + upper.
    assert icl.Chebyshev(1, 3).stability == (lam_max < 4)


@pytest.mark.parametrize("kind", [icl.HeavyBall, icl.Nesterov])
@pytest.mark.parametrize("momentum", [0, R(1, 5), R(9, 10)])
def test_the_roots_leave_the_unit_circle_at_the_bound(kind, momentum):
    solver = kind(R(1, 10), momentum)
    bound = 10 * solver.stability.rhs
    assert solver.stability.lhs == lam_max / 10
    assert worst_root(solver, 0.01, float(bound) * 0.999) < 1
    assert largest_root(solver, float(bound) * 1.001) > 1
    assert abs(largest_root(solver, float(bound)) - 1) < 1e-9


def test_chebyshev_converges_below_the_sum_of_its_ends():
    solver = icl.Chebyshev(1, 3)
    inside = [abs(solver.residual_filter(12).subs(lam, x)) for x in (R(1, 10), R(39, 10))]
    assert max(inside) < 1
    assert abs(solver.residual_filter(12).subs(lam, R(41, 10))) > 1


def test_optimal_parameters_are_stable_on_their_spectrum():
    for solver in (
        *(icl.GradientDescent(), icl.IterativeNewton(), icl.HeavyBall(), icl.Chebyshev()),
        *(icl.RidgeNewton(1), icl.HyperPower(5)),
    ):
        assert solver.stability is sp.true
    condition_of_nesterov = icl.Nesterov().stability
    for top in (2, 50):
        assert condition_of_nesterov.subs({lam_min: 1, lam_max: top}) is sp.true


def test_stability_of_layers():
    solver = icl.GDPlusPlus([R(1, 10)], [0])
    assert solver.stability.subs(lam, 19) is sp.true
    assert solver.stability.subs(lam, 21) is sp.false


# -- optimal parameters --------------------------------------------------------------------------


def test_optimal_parameters_of_the_reference():
    assert icl.GradientDescent().optimal(L, U).step_size == 2 / (L + U)
    assert icl.IterativeNewton(1).optimal(L, U).scale == 2 / (L**2 + U**2)
    assert icl.IterativeNewton(1, start="I").optimal(L, U) == icl.IterativeNewton(
        2 / (L + U), start="I"
    )
    assert icl.HyperPower(4).optimal(L, U) == icl.HyperPower(4, 2 / (L + U))
    assert icl.RidgeNewton(1).optimal(2, 3).scale == R(2, 9 + 16)
    heavy = icl.HeavyBall().optimal(L, U)
    assert sp.simplify(heavy.step_size - 4 / (sp.sqrt(L) + sp.sqrt(U)) ** 2) == 0
    rho = (sp.sqrt(U / L) - 1) / (sp.sqrt(U / L) + 1)
    assert sp.simplify(heavy.momentum - rho**2) == 0
    standard = icl.Nesterov().standard(L, U)
    assert standard.step_size == 1 / U
    assert sp.simplify(standard.momentum - rho) == 0


@pytest.mark.parametrize(
    "solver",
    [
        icl.GradientDescent(),
        icl.IterativeNewton(),
        icl.IterativeNewton(start="I"),
        icl.HyperPower(3),
        icl.RidgeNewton(1),
    ],
    ids=repr,
)
def test_other_parameters_are_worse(solver):
    best = solver.optimal(2, 7)
    name = best._scale_name
    at_best = best.worst_residual(1, 2, 7)
    low, high = (abs(best.contraction.subs(lam, x)) for x in (2, 7))
    assert low == high
    for factor in (R(97, 100), R(103, 100)):
        changed = type(best)(**{**vars(best), name: factor * getattr(best, name)})
        assert changed.worst_residual(1, 2, 7) > at_best


@pytest.mark.parametrize("kind", [icl.HeavyBall, icl.Nesterov])
def test_momentum_parameters_have_the_smallest_roots(kind):
    best = kind().optimal(1, 30)
    step, momentum = float(best.step_size), float(best.momentum)
    at_best = worst_root(best, 1, 30)
    expected = {
        icl.HeavyBall: (math.sqrt(30) - 1) / (math.sqrt(30) + 1),
        icl.Nesterov: 1 - 2 / math.sqrt(91),
    }[kind]
    assert abs(at_best - expected) < 1e-6
    for a, b in itertools.product((0.97, 1, 1.03), repeat=2):
        if (a, b) != (1, 1):
            assert worst_root(kind(a * step, b * momentum), 1, 30) > at_best + 1e-4
    assert worst_root(icl.Nesterov().standard(1, 30), 1, 30) == pytest.approx(1 - 1 / math.sqrt(30))


def test_chebyshev_is_the_smallest_polynomial():
    """It takes its maximum with alternating signs at t + 1 points (de la Vallee Poussin)."""
    for count in (1, 2, 5):
        solver = icl.Chebyshev(1, 9)
        height = solver.worst_residual(count, 1, 9)
        points = [5 - 4 * sp.cos(sp.pi * j / count) for j in range(count + 1)]
        values = [sp.nsimplify(solver.residual_filter(count).subs(lam, x)) for x in points]
        assert [sp.simplify(v - height * (-1) ** j) for j, v in enumerate(values)] == [0] * (
            count + 1
        )
        assert height <= icl.HeavyBall().worst_residual(count, 1, 9)
        assert height <= icl.GradientDescent().worst_residual(count, 1, 9)


# -- exact numbers of steps ----------------------------------------------------------------------


TABLE = {
    (10, R(1, 10**6)): (10, 7, 69, 23),
    (100, R(1, 10**4)): (16, 9, 461, 50),
    (1000, R(1, 10**4)): (23, 13, 4606, 157),
}


@pytest.mark.parametrize(("kappa", "epsilon"), TABLE)
def test_steps_of_the_reference(kappa, epsilon):
    solvers = (
        *(icl.IterativeNewton(), icl.IterativeNewton(start="I")),
        *(icl.GradientDescent(), icl.Chebyshev()),
    )
    found = tuple(s.steps_to(epsilon, 1, kappa) for s in solvers)
    assert found == TABLE[kappa, epsilon]
    for solver, count in zip(solvers, found, strict=True):
        assert solver.worst_residual(count, 1, kappa).evalf(30) <= epsilon
        assert solver.worst_residual(count - 1, 1, kappa).evalf(30) > epsilon
        # Optimal for the interval, whatever its scale; and the formula rounds up to the same.
        assert solver.optimal(3, 3 * kappa).steps_to(epsilon, 3, 3 * kappa) == count
        formula = solver.steps_formula().subs(condition=kappa, accuracy=epsilon)
        assert math.ceil(float(formula)) == count
    # Parameters 5 % off need more steps.
    changed = icl.GradientDescent(R(105, 100) * 2 / (1 + sp.Integer(kappa)))
    if changed.stability.subs(lam_max, kappa) is sp.true:
        assert changed.steps_to(epsilon, 1, kappa) > found[2]
    else:
        with pytest.raises(icl.OutOfDomain, match="does not converge"):
            changed.steps_to(epsilon, 1, kappa)


def test_a_scale_by_the_largest_eigenvalue_costs_one_step():
    """alpha = 1/lam_max^2 replaces 2 log2(kappa) - 1 by 2 log2(kappa)."""
    for kappa, epsilon in ((100, 1e-4), (1000, 1e-4)):
        ruled = icl.IterativeNewton(1 / lam_max**2).steps_to(epsilon, 1, kappa)
        assert ruled == icl.IterativeNewton().steps_to(epsilon, 1, kappa) + 1


@pytest.mark.parametrize("kappa", [10, 100, 1000])
def test_momentum_against_the_worst_cases_of_the_reference(kappa):
    root = math.sqrt(kappa)
    rho, z = (root - 1) / (root + 1), 1 - 1 / root
    cases = (
        (icl.HeavyBall(), lambda t: rho**t * (1 + t * (1 + rho))),
        (icl.Nesterov().standard(1, kappa), lambda t: z**t * (1 + t / root)),
        (
            icl.Nesterov(),
            lambda t: (w := 1 - 2 / math.sqrt(3 * kappa + 1)) ** t * (1 + t * (1 - w)),
        ),
    )
    for solver, worst in cases:
        count = solver.steps_to(1e-4, 1, kappa)
        assert count == next(t for t in range(10**4) if worst(t) <= 1e-4)
        for t in (0, 1, 5):
            assert float(solver.worst_residual(t, 1, kappa)) == pytest.approx(worst(t))
        assert solver.optimal(2, 2 * kappa).steps_to(1e-4, 2, 2 * kappa) <= count


CERTIFIED = {
    "heavy ball": (icl.HeavyBall(R(4, 9), R(1, 9)), 1, 4),
    "Nesterov, standard": (icl.Nesterov(R(1, 4), R(1, 3)), 1, 4),
    "Nesterov, fastest": (icl.Nesterov(R(1, 4), R(1, 3)), 1, 5),
    "Chebyshev": (icl.Chebyshev(1, 4), 1, 4),
}


@pytest.mark.parametrize("name", CERTIFIED)
def test_the_ends_decide_as_sturm_counts_roots(name):
    """At optimal parameters that are rational: max |r| at the ends is the maximum, and not 1 % less."""
    solver, lower, upper = CERTIFIED[name]
    for count in range(1, 16):
        worst = solver.worst_residual(count, lower, upper)
        polynomial = sp.Poly(list(reversed(solver.residual_polynomial(count))), lam)
        assert solver_steps.stays_within(polynomial, worst, lower, upper)
        assert not solver_steps.stays_within(polynomial, worst * R(99, 100), lower, upper)


@pytest.mark.parametrize(
    ("solver", "lower", "upper"),
    [
        (icl.HeavyBall(R(1, 10), R(1, 2)), 1, 10),
        (icl.Nesterov(R(1, 10), R(1, 2)), 1, 10),
        (icl.Chebyshev(1, 9), 2, R(19, 2)),
        (icl.HeavyBall(R(1, 10), 0), 1, 10),
    ],
)
def test_certified_steps_against_a_grid(solver, lower, upper):
    count = solver.steps_to(0.05, lower, upper)

    def on_grid(t):
        polynomial = sp.Poly(list(reversed(solver.residual_polynomial(t))), lam)
        grid = (lower + R(upper - lower, 2000) * i for i in range(2001))
        return max(abs(polynomial.eval(x)) for x in grid)

    assert on_grid(count) <= R(1, 20) < on_grid(count - 1)
    if getattr(solver, "momentum", 1) == 0:
        assert count == icl.GradientDescent(R(1, 10)).steps_to(0.05, lower, upper)


def test_layers_to_an_accuracy():
    solver = icl.GDPlusPlus([R(2, 11)] * 4, [R(1, 30)] * 4)
    count = solver.steps_to(0.6, 1, 10)
    assert 1 < count < 4
    plain = icl.GDPlusPlus([R(2, 11)] * 6, [0] * 6)
    assert plain.steps_to(0.4, 1, 10) == icl.GradientDescent().steps_to(0.4, 1, 10)
    with pytest.raises(icl.OutOfDomain, match="do not reach"):
        plain.steps_to(1e-6, 1, 10)


def test_integers_at_the_edge_of_rounding():
    """|r| equal to the accuracy, exactly: rounding must not add a step."""
    solver = icl.GradientDescent(R(2, 11))  # contraction 9/11 on [1, 10]
    assert solver.steps_to(R(9, 11) ** 12, 1, 10) == 12
    assert solver.steps_to(R(9, 11) ** 12 * (1 - R(1, 10**40)), 1, 10) == 13
    assert solver.steps_to(R(9, 11) ** 12 * (1 + R(1, 10**40)), 1, 10) == 12
    heavy = icl.HeavyBall().optimal(1, 4)
    exact = heavy.worst_residual(7, 1, 4)
    assert heavy.steps_to(exact, 1, 4) == 7
    assert heavy.steps_to(exact * (1 - R(1, 10**40)), 1, 4) == 8


def test_conjugate_gradients_need_chebyshevs_steps():
    assert icl.ConjugateGradient().steps_to(1e-4, 1, 100) == 50
    bound = icl.ConjugateGradient().worst_residual(20, 1, 100)
    rho = R(9, 11)
    assert bound < 2 * rho**20
    assert bound > R(97, 100) * 2 * rho**20


def test_ridge_newton_counts_towards_ridge():
    solver = icl.RidgeNewton(1)
    assert solver.steps_to(1e-4, 1, 10) == icl.IterativeNewton().steps_to(1e-4, 2, 11)
    with pytest.raises(icl.InvalidInput, match="penalty"):
        solver.steps_formula()


# -- formulas ------------------------------------------------------------------------------------


LAWS = {
    "descent": (icl.GradientDescent(), condition / 2 * sp.log(1 / accuracy)),
    "Newton from I": (
        icl.IterativeNewton(start="I"),
        (sp.log(condition) + sp.log(sp.log(1 / accuracy))) / sp.log(2) - 1,
    ),
    "Newton from S": (
        icl.IterativeNewton(),
        (2 * sp.log(condition) + sp.log(sp.log(1 / accuracy))) / sp.log(2) - 1,
    ),
    "cubic": (icl.HyperPower(3), sp.log(condition / 2 * sp.log(1 / accuracy)) / sp.log(3)),
    "Chebyshev": (icl.Chebyshev(), sp.sqrt(condition) / 2 * sp.acosh(1 / accuracy)),
}


@pytest.mark.parametrize("name", LAWS)
def test_laws_for_large_condition_numbers(name):
    solver, expected = LAWS[name]
    law, exact = solver.steps_law(), solver.steps_formula()
    point = {condition: R(10**6), accuracy: R(1, 10**5)}
    assert abs(sp.N((law.expr - expected).subs(point), 30)) < 1e-20
    assert abs(sp.N((law.expr / exact.expr).subs(point), 30) - 1) < 1e-5
    assert abs(sp.N((law.expr * R(103, 100) / exact.expr).subs(point), 30) - 1) > 1e-2
    assert exact.steps
    assert "fu2024" in exact.citation()


def test_acosh_is_the_log_of_the_reference_at_high_accuracy():
    ratio = sp.acosh(1 / accuracy) / sp.log(2 / accuracy)
    assert abs(sp.N(ratio.subs(accuracy, R(1, 10**5)), 20) - 1) < 1e-10


@pytest.mark.parametrize("kind", [icl.HeavyBall, icl.Nesterov])
def test_lambert_w_inverts_the_growth(kind):
    for kappa in (10, 1000):
        value = float(kind().steps_formula().subs(condition=kappa, accuracy=1e-4))
        assert math.ceil(value) == kind().steps_to(1e-4, 1, kappa)
    ratio = float(kind().steps_law().subs(condition=10**8, accuracy=1e-4)) / float(
        kind().steps_formula().subs(condition=10**8, accuracy=1e-4)
    )
    assert abs(ratio - 1) < 2e-4


def test_the_flow_is_a_time():
    flow = icl.GradientFlow()
    assert flow.steps_to(R(1, 100), L, U) == sp.log(100) / L
    assert flow.worst_residual(3, 2, 5) == sp.exp(-6)


REFUSED = {
    "accuracy": (
        lambda: icl.GradientDescent().steps_to(1, 1, 10),
        icl.InvalidInput,
        "0 < accuracy < 1",
    ),
    "symbol": (lambda: icl.GradientDescent().steps_to(0.1, 1, U), icl.InvalidInput, "contains u"),
    "norm rule": (
        lambda: icl.IterativeNewton(1 / icl.symbols.frobenius).steps_to(0.1, 1, 2),
        *(icl.InvalidInput, "contains frobenius"),
    ),
    "diverges": (
        lambda: icl.GradientDescent(1).steps_to(0.1, 1, 10),
        *(icl.OutOfDomain, "it must be below 1"),
    ),
    "momentum diverges": (
        lambda: icl.HeavyBall(1, 0.5).steps_to(0.1, 1, 10),
        *(icl.OutOfDomain, "does not converge at lam = 10"),
    ),
    "irrational": (
        lambda: icl.HeavyBall(sp.sqrt(2) / 10, 0.5).steps_to(0.1, 1, 10),
        *(icl.InvalidInput, "needs rational ones"),
    ),
    "no closed form": (
        lambda: icl.HeavyBall(0.1, 0.5).worst_residual(3, 1, 10),
        *(icl.InvalidInput, "closed form only"),
    ),
    "ridge": (lambda: icl.Ridge(1).steps_to(0.1, 1, 2), icl.InvalidInput, "no number of steps"),
    "ridge formula": (lambda: icl.Ridge(1).steps_formula(), icl.InvalidInput, "no number of steps"),
    "schedule": (lambda: icl.Chebyshev(1, 2).schedule(steps), icl.InvalidInput, "needs an integer"),
    "worst of symbol": (
        lambda: icl.HeavyBall().worst_residual(steps, 1, 2),
        *(icl.InvalidInput, "needs an integer"),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()
