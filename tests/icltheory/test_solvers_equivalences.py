"""Averaged rates (V12), the map between Newton and gradient descent (V13), by two routes each."""

import math

import mpmath
import pytest
import sympy as sp

import icltheory as icl
from icltheory.symbols import steps

R = sp.Rational
ALPHA, ETA, MU = sp.symbols("alpha eta mu", positive=True)

# The reference table: nu, C_risk, C_cos, maximal cosine.
TABLE = [
    (0, "0.67598", "1.10716", "0.99083"),
    (1, "0.79788", "1.30867", "0.98595"),
    (2, "0.90437", "1.48464", "0.98295"),
    (3, "1", "1.64264", "0.98094"),
    (5, "1.16858", "1.92112", "0.97840"),
    (10, "1.51082", "2.48630", "0.97550"),
    (20, "2.02981", "3.34294", "0.97351"),
]


def overlap(half, x):
    return mpmath.quad(lambda u: u ** (half - 1) * mpmath.exp(-x * u - u * u), [0, 0.1, 1, 4, 12])


def edge_cosine(nu, x):
    half = mpmath.mpf(nu + 1) / 2
    first = mpmath.quad(lambda u: u ** (half - 1) * mpmath.exp(-2 * x * u), [0, 0.1, 1, 4, 40])
    second = mpmath.quad(lambda u: u ** (half - 1) * mpmath.exp(-2 * u * u), [0, 0.1, 1, 4, 12])
    return overlap(half, x) / mpmath.sqrt(first * second)


# -- V12 -----------------------------------------------------------------------------------------


def test_average_rates():
    newton, other = icl.IterativeNewton(ALPHA), icl.IterativeNewton(ALPHA, start="I")
    nu = icl.symbols.nu
    assert icl.late_decay(icl.GradientDescent(ETA)).expr == steps ** (-(nu + 1) / 2)
    for solver, exponent in ((newton, (nu + 1) / 4), (other, (nu + 1) / 2)):
        decay = icl.late_decay(solver).expr
        per_step = sp.powsimp(decay.subs(steps, steps + 1) / decay)
        assert sp.simplify(per_step - 2**-exponent) == 0
    cubic = icl.late_decay(icl.HyperPower(3, ALPHA), nu=1, steps=4)
    assert cubic.expr == R(1, 3**4)
    at_equal_sizes = icl.late_decay(newton, nu=0, steps=1).expr
    assert float(at_equal_sizes) == pytest.approx(0.8409, abs=5e-5)
    assert float(icl.late_decay(newton, nu=20, steps=1).expr) == pytest.approx(0.026, abs=5e-4)


@pytest.mark.parametrize("solver", [icl.GradientDescent(ETA), icl.GradientFlow()])
def test_laws_of_many_steps_refuse_none(solver):
    newton = icl.IterativeNewton(ALPHA)
    for law in (
        icl.late_decay,
        icl.late_solver_risk,
        lambda solver, steps: icl.matched_steps(solver, newton, steps=steps),
    ):
        with pytest.raises(icl.InvalidInput, match=r"steps = 0 leaves.* positive number of steps"):
            law(solver, steps=0)
        assert law(solver, steps=1)


def test_per_prompt_newton_is_quadratic_and_descent_geometric():
    newton, descent = icl.IterativeNewton(), icl.GradientDescent()
    for k in range(4):
        assert newton.worst_residual(k + 1, 1, 5) == newton.worst_residual(k, 1, 5) ** 2
        factor = descent.worst_residual(k + 1, 1, 5) / descent.worst_residual(k, 1, 5)
        assert factor == descent.worst_residual(1, 1, 5)


@pytest.mark.parametrize("nu", [0, 1, 3])
def test_average_rates_against_quadrature(nu):
    """The edge integral of r^2 with 64 and 128 times as many powers, not in the late limit."""

    def mean(solver, count):
        log_r = sp.lambdify(icl.symbols.lam, sp.log(solver.contraction), "mpmath")
        power = int(solver.power(count))
        width = 1 / mpmath.sqrt(power)
        grid = [0, width / 10, width, 4 * width, min(1, 12 * width)]
        return mpmath.quad(
            lambda x: x ** (mpmath.mpf(nu - 1) / 2) * mpmath.exp(2 * power * log_r(x)), grid
        )

    newton = icl.IterativeNewton(R(1, 4))
    found = mean(newton, 13) / mean(newton, 12)
    expected = float(icl.late_decay(newton, nu=nu, steps=1).expr)
    assert abs(found / expected - 1) < 1e-3
    assert abs(found / (1.03 * expected) - 1) > 1e-2


# -- V13 -----------------------------------------------------------------------------------------


def test_exact_map_from_the_identity():
    for criterion in ("half", "risk", "cosine"):
        newton = icl.IterativeNewton(ETA, start="I")
        assert icl.matched_steps(newton, icl.GradientDescent(ETA), criterion).expr == 2**steps


def test_map_from_s_and_its_slope():
    newton, descent = icl.IterativeNewton(ALPHA), icl.GradientDescent(ETA)
    found = icl.matched_steps(newton, descent).expr
    assert sp.simplify(found - sp.sqrt(sp.log(2)) * sp.sqrt(ALPHA * 2**steps) / ETA) == 0
    slope = sp.log(found.subs(steps, steps + 1) / found) / sp.log(2)
    assert sp.simplify(slope) == R(1, 2)
    # Both residuals are 1/2 at one eigenvalue, late.
    k, values = 30, {ALPHA: R(1, 100), ETA: R(1, 100)}
    t = int(sp.ceiling(found.subs(values).subs(steps, k)))
    at = sp.sqrt(sp.log(2) / (R(1, 100) * 2**k)).evalf(40)
    first = sp.exp(2**k * sp.log(1 - R(1, 100) * at**2)).evalf(30)
    second = sp.exp(t * sp.log(1 - R(1, 100) * at)).evalf(30)
    assert abs(first - R(1, 2)) < 1e-6
    assert abs(second - R(1, 2)) < 1e-4


@pytest.mark.parametrize(("nu", "risk", "cosine", "maximum"), TABLE)
def test_constants_of_the_reference(nu, risk, cosine, maximum):
    found = icl.matching_constant("risk", nu).expr
    assert abs(sp.N(found, 20) - sp.Rational(risk)) < 6e-6
    printed = 2 ** (R(nu + 5, 4)) * sp.gamma(R(nu + 1, 2)) / sp.gamma(R(nu + 1, 4))
    assert abs(sp.N(found - printed ** R(2, nu + 1) / 2, 20)) < 1e-15
    x = icl.cosine_constant(nu)
    assert abs(x - sp.Rational(cosine)) < 1.1e-5
    value = icl.edge_cosine(nu).subs(ratio=x).expr
    assert abs(sp.N(value, 15) - sp.Rational(maximum)) < 6e-6
    # Second route: quadrature, and no better neighbour.
    assert abs(edge_cosine(nu, mpmath.mpf(str(x))) - mpmath.mpf(str(sp.N(value, 15)))) < 1e-9
    best = edge_cosine(nu, mpmath.mpf(str(x)))
    assert all(edge_cosine(nu, mpmath.mpf(str(x)) * f) < best for f in (0.97, 1.03))


def test_digits_of_the_constants_at_equal_sizes():
    assert abs(sp.N(icl.matching_constant("risk", 0).expr, 20) - R("0.6759782400673")) < 1e-13
    # The reference value 1.1071633 is 1e-7 low: the root of the derivative, by quadrature.
    with mpmath.workdps(25):
        half = mpmath.mpf(1) / 2

        def slope(x):  # after u = s^2, without the singularity
            def moment(p):
                return mpmath.quad(
                    lambda s: 2 * s**p * mpmath.exp(-x * s**2 - s**4), [0, 0.5, 1, 2, 4]
                )

            return half * moment(0) - 2 * x * moment(2)

        root = mpmath.findroot(slope, 1.1)
    assert abs(icl.cosine_constant(0) - sp.Float(str(root), 20)) < 1e-14
    assert abs(icl.cosine_constant(0) - R("1.1071633")) < 2e-7


def test_equal_late_risk_by_quadrature():
    """t = C sqrt(alpha 2^k)/eta gives both edge integrals the same value."""
    for nu in (0, 2, 5):
        half = mpmath.mpf(nu + 1) / 2
        constant = mpmath.mpf(str(sp.N(icl.matching_constant("risk", nu).expr, 20)))

        def mass(rate, power, half=half):
            return mpmath.quad(
                lambda u: u ** (half - 1) * mpmath.exp(-rate * u**power), [0, 0.1, 1, 4, 40]
            )

        assert abs(mass(2 * constant, 1) / mass(2, 2) - 1) < 1e-8
        assert abs(mass(2 * 1.03 * constant, 1) / mass(2, 2) - 1) > 1e-2


def test_maps_between_other_solvers():
    """They compose: heavy ball is descent with step eta/(1 - mu), and flow is descent in time."""
    descent, ball = icl.GradientDescent(ETA), icl.HeavyBall(ETA, MU)
    assert sp.cancel(icl.matched_steps(ball, descent).expr - steps / (1 - MU)) == 0
    nesterov = icl.Nesterov(ETA, MU)
    assert sp.cancel(icl.matched_steps(nesterov, descent).expr - steps / (1 - MU)) == 0
    assert icl.matched_steps(descent, icl.GradientFlow()).expr == ETA * steps
    newton = icl.IterativeNewton(ALPHA)
    back = icl.matched_steps(descent, newton).expr
    forth = icl.matched_steps(newton, descent).expr
    assert sp.simplify(sp.expand_log(back.subs(steps, forth), force=True) - steps) == 0
    risk = icl.matched_steps(newton, descent, "risk", nu=0, steps=10).subs(alpha=1e-4, eta=0.01)
    assert float(risk.expr) == pytest.approx(0.6759782 * math.sqrt(1e-4 * 1024) / 0.01, rel=1e-6)


@pytest.mark.parametrize("nu", [0, 20, 200])
def test_the_cosine_constant_by_another_special_function(nu):
    """J_h(x) = 2^-h Gamma(h) U(h/2, 1/2, x^2/4), without the cancellation of its two parts."""
    half = mpmath.mpf(nu + 1) / 2

    def overlap(h, x):
        return 2**-h * mpmath.gamma(h) * mpmath.hyperu(h / 2, 0.5, x * x / 4)

    def slope(x):
        return half - 2 * x * overlap(half + 1, x) / overlap(half, x)

    with mpmath.workdps(40):
        found = mpmath.mpf(str(icl.cosine_constant(nu)))
        assert slope(found * (1 - mpmath.mpf(10) ** -13)) > 0 > slope(found * (1 + 1e-13))


def test_refusals():
    newton, descent = icl.IterativeNewton(ALPHA), icl.GradientDescent(ETA)
    with pytest.raises(icl.InvalidInput, match="no late residual"):
        icl.matched_steps(icl.Ridge(1), descent)
    with pytest.raises(icl.InvalidInput, match="exchange the solvers"):
        icl.matched_steps(descent, newton, "cosine", nu=0)
    with pytest.raises(icl.InvalidInput, match="integer"):
        icl.matching_constant("cosine")
    with pytest.raises(icl.InvalidInput, match="integer >= 0"):
        icl.late_decay(descent, nu=-1)
