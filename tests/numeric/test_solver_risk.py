"""Expected risks of solvers as numbers: reference values, exact moments, simulated prompts."""

import math
from functools import partial

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
import numeric
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.symbols import frobenius, lam_max, lam_min, n, trace

GD = icl.GradientDescent(0.01)
EQUAL = {"rel": 1e-11}


def close(value, reference, printed):
    """Within `printed` significant digits of a rounded number."""
    return value == pytest.approx(reference, rel=0.6 * 10.0 ** (1 - printed))


# -- Section 8, deterministic ----------------------------------------------------------------------


def test_literal_and_stable_event_of_the_reference():
    counts = [40, 50, 60, 80, 100]
    stable = numeric.solver_risk(GD, counts, n=20, d=20)
    literal = numeric.solver_risk(GD, counts, n=20, d=20, expectation="literal")
    np.testing.assert_allclose(
        stable.value, [0.1496330, 0.1351640, 0.1244227, 0.1092573, 0.0988454], atol=6e-8
    )
    np.testing.assert_allclose(literal.value[:2], [0.1496330, 0.1351659], atol=6e-8)
    np.testing.assert_allclose(literal.value[2:], [163.2, 6.9e21, 3.4e45], rtol=0.02)
    assert stable.unstable == pytest.approx(8.5e-19, rel=0.01)
    assert (stable.kind, literal.kind, stable.sampled) == ("stable event", "literal", False)
    assert stable.value[1] == pytest.approx(0.1351639622801, rel=1e-12)
    assert literal.value[1] == pytest.approx(0.1351659496279, rel=1e-12)
    # The exact moments know the literal expectation too.
    for index, count in enumerate(counts[:1]):
        exact = float(icl.solver_risk(icl.GradientDescent(0.01), count, 20, 20))
        assert literal.value[index] == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("solver", "count", "sizes", "noise", "reference"),
    [
        (GD, 100, (40, 20), 0, 3.6095015153e-5),
        (icl.GradientFlow(), 0.5, (20, 20), 0, 0.135622727213),
        (icl.GradientFlow(), 0.5, (30, 20), 0, 0.0162766426306),
        (icl.GradientFlow(), 0.5, (10, 20), 0, 0.505418536782),
        (icl.Ridge(1), None, (20, 20), 1, 0.208960683505),
        (icl.Ridge(0.25), None, (40, 20), 0.25, 0.0127972147881),
        (GD, 10**4, (17, 20), 0, 0.15 + 3.216807e-5),
        (GD, 10**4, (21, 20), 0, 2.382727e-3),
    ],
)
def test_values_of_the_reference(solver, count, sizes, noise, reference):
    length, dim = sizes
    risk = numeric.solver_risk(solver, count, n=length, d=dim, noise_var=noise / dim)
    digits = 7 if count == 10**4 else 10
    assert close(risk.value, reference, digits)
    assert not close(1.001 * risk.value, reference, digits)
    assert risk.error < 1e-12 * risk.value


def test_floor_of_few_examples_to_all_digits():
    risk = numeric.solver_risk(GD, 10**4, n=17, d=20)
    assert close(risk.value - 0.15, 3.216807e-5, 7)


@pytest.mark.parametrize(
    ("length", "count", "value"),
    [(20, 10**5, 4.35642e-3), (22, 10**4, 3.45278e-4), (25, 10**5, 5.46968e-10)],
)
def test_late_table_of_the_reference(length, count, value):
    risk = numeric.solver_risk(GD, count, n=length, d=20)
    assert close(risk.value, value, 6)
    law = float(icl.late_solver_risk(GD, count, length, 20))
    leading = float(icl.late_solver_risk(GD, count, length, 20, order=1))
    # The bracket leaves an error of higher order.
    assert abs(law / risk.value - 1) < 0.15 * abs(leading / risk.value - 1)


def test_bayes_risk_is_the_optimal_ridge():
    for length, dim, noise in ((8, 5, 0.3), (20, 20, 0.05), (4, 9, 1.0)):
        best = numeric.solver_risk(icl.optimal_ridge(dim, noise), n=length, d=dim, noise_var=noise)
        bayes = numeric.bayes_risk(icl.LinearRegression(dim=dim, noise_var=noise), length)
        assert best.value == pytest.approx(bayes, rel=1e-10)
        penalty = dim * noise
        for factor in (0.9, 1.1):
            other = numeric.solver_risk(
                icl.Ridge(factor * penalty), n=length, d=dim, noise_var=noise
            )
            assert other.value > best.value * (1 + 1e-5)
        best_polynomial = float(icl.best_polynomial_risk(6, length, dim, noise))
        assert best.value < best_polynomial < best.value * 1.15


# -- against exact moments and limits --------------------------------------------------------------


@pytest.mark.parametrize(("length", "dim"), [(3, 5), (5, 5), (9, 4), (40, 20)])
@pytest.mark.parametrize("noise", [0.0, 0.7])
def test_polynomial_filters_against_moments(length, dim, noise):
    small = 1 / (4 * (math.sqrt(length) + math.sqrt(dim)) ** 2)
    solvers = [
        (icl.GradientDescent(small), 5),
        (icl.IterativeNewton(small**2), 2),
        (icl.IterativeNewton(small, start="I"), 2),
        (icl.HyperPower(3, small), 1),
        (icl.RidgeNewton(1.5, small**2), 1),
        (icl.HeavyBall(small, 0.3), 4),
        (icl.GDPlusPlus((small, small), (small, small)), 2),
    ]
    for solver, count in solvers:
        exact = float(icl.solver_risk(solver, count, length, dim, noise, start=0.2))
        risk = numeric.solver_risk(solver, count, n=length, d=dim, noise_var=noise, start=0.2)
        assert risk.value == pytest.approx(exact, **EQUAL)
        assert risk.value != pytest.approx(1.000001 * exact, **EQUAL)


def test_scaled_features_and_least_squares():
    for length, noise in ((3, 0.0), (9, 0.4), (30, 0.4)):
        exact = float(icl.solver_risk(icl.OrdinaryLeastSquares(), None, length, 14, noise, cov=2))
        squares = numeric.solver_risk(
            icl.OrdinaryLeastSquares(), n=length, d=14, noise_var=noise, cov=2
        )
        assert squares.value == pytest.approx(exact, abs=1e-12)
        exact = float(icl.solver_risk(GD, 4, length, 14, noise, cov=0.5))
        risk = numeric.solver_risk(GD, 4, n=length, d=14, noise_var=noise, cov=0.5)
        assert risk.value == pytest.approx(exact, **EQUAL)


def test_limit_of_large_sizes():
    c = sp.Rational(1, 8)
    for gamma, noise in ((0.5, 0.0), (1.0, 0.2), (2.0, 0.2)):
        for solver, count in (
            (icl.GradientDescent(c / n), 3),
            (icl.IterativeNewton(c**2 / n**2), 1),
        ):
            symbolic = float(icl.solver_risk_limit(solver, count, gamma, noise))
            value = numeric.solver_risk_limit(solver, count, gamma=gamma, noise_var=noise).value
            assert value == pytest.approx(symbolic, rel=1e-12)
        ridge = float(icl.solver_risk_limit(icl.Ridge(c * n), None, gamma, noise))
        value = numeric.solver_risk_limit(icl.Ridge(c * n), gamma=gamma, noise_var=noise).value
        assert value == pytest.approx(ridge, rel=1e-12)
    flow = numeric.solver_risk_limit(icl.GradientFlow(), 1, gamma=1.0)
    assert flow.value == pytest.approx(0.385752760726, rel=1e-11)
    values = numeric.solver_risk_limit(icl.IterativeNewton(c / 2 / n**2), [2, 5], gamma=1)
    np.testing.assert_allclose(values.value, [0.6326494156383, 0.39829310727703], rtol=1e-12)
    descent = numeric.solver_risk_limit(icl.GradientDescent(2 * c / n), 10, gamma=1)
    assert descent.value == pytest.approx(0.24477134249537, rel=1e-12)
    finite = numeric.solver_risk(icl.GradientDescent(2 * c / 200), 10, n=200, d=200)
    assert finite.value == pytest.approx(descent.value, rel=6e-3)


# -- sampled parameters ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "factor", "count", "reference", "error"),
    [
        (40, 1, 8, 0.04689, 2e-5),
        (20, 1, 10, 0.18358, 4e-5),
        (10, 1, 6, 0.56065, 3e-5),
        (20, 2, 5, 0.35050, 4e-5),
    ],
)
def test_sampled_newton_of_the_reference(length, factor, count, reference, error):
    solver = icl.IterativeNewton(factor / frobenius)
    risk = numeric.solver_risk(solver, count, n=length, d=20, samples=8000, seed=1)
    total = math.hypot(risk.error, error)
    assert risk.sampled
    assert abs(risk.value - reference) < 5 * total < 0.02 * reference
    assert abs(1.03 * risk.value - reference) > 5 * total


def test_forgetting_of_newton_of_the_reference():
    # V19c by samples: E tr[S r^2]/(n d) = 0.04099(1) for alpha = 2/F, k = 5, n = d = 20.
    values = numeric.wishart_eigenvalues(20, 20, 8000, seed=4)
    norm = np.sqrt((values**4).sum(axis=1, keepdims=True))
    residual = (1 - 2 * values**2 / norm) ** 32
    sample = (values * residual**2).sum(axis=1) / 400
    assert abs(sample.mean() - 0.04099) < 5 * math.hypot(sample.std() / math.sqrt(8000), 1e-5)


@pytest.mark.parametrize(
    ("length", "count", "leading", "exact", "error"),
    [
        (20, 24, 2.393e-2, 2.234e-2, 3e-5),
        (20, 36, 2.991e-3, 2.971e-3, 2e-5),
        (22, 28, 1.667e-4, 1.63e-4, 3e-6),
    ],
)
def test_late_newton_of_the_reference(length, count, leading, exact, error):
    solver = icl.IterativeNewton(1 / frobenius)
    law = numeric.late_solver_risk(solver, count, n=length, d=20, samples=4000, seed=2)
    assert abs(law.value - leading) < 5 * law.standard_error + 0.6e-3 * leading
    assert abs(1.03 * law.value - leading) > 5 * law.standard_error + 0.6e-3 * leading
    risk = numeric.solver_risk(solver, count, n=length, d=20, samples=10_000, seed=3)
    assert abs(risk.value - exact) < 5 * math.hypot(risk.error, error)


def test_late_law_without_rules_is_exact():
    law = numeric.late_solver_risk(GD, 10**5, n=20, d=20)
    assert law.value == pytest.approx(4.37611e-3, rel=2e-6)
    assert law.standard_error == 0


# -- simulated prompts -----------------------------------------------------------------------------


def _descent(step, count, gram, target):
    w = np.zeros_like(target)
    for _ in range(count):
        w = w - step * (gram @ w - target)
    return w


def _newton(scale, count, gram, target):
    """M_count X'y, by the recursion M <- 2 M - M S M applied to vectors."""
    if count == 0:
        return scale * (gram @ target)
    once = _newton(scale, count - 1, gram, target)
    return 2 * once - _newton(scale, count - 1, gram, gram @ once)


def _simulated(updates, length, dim, noises, cov, prompts, seed):
    """Mean risks and standard errors, averaged over the query only, [update][noise]."""
    rng = np.random.default_rng(seed)
    root = np.sqrt(np.ones(dim) if cov is None else np.array(cov))
    streams = {(i, s): numeric.montecarlo.Streaming() for i in range(len(updates)) for s in noises}
    batch = 1_600_000 // (length * dim)
    for size in [batch] * -(-prompts // batch):
        x = rng.standard_normal((size, length, dim)) * root
        transposed = np.swapaxes(x, 1, 2)
        theta = rng.standard_normal((size, dim, 1)) / math.sqrt(dim)
        epsilon = rng.standard_normal((size, length, 1))
        gram = transposed @ x
        clean, disturbed = gram @ theta, transposed @ epsilon
        for (i, s), stream in streams.items():
            weights = updates[i](gram, clean + math.sqrt(s) * disturbed)
            stream.add(np.square((weights - theta)[:, :, 0] * root).sum(axis=1))
    return {key: stream.estimate() for key, stream in streams.items()}


@pytest.mark.parametrize(
    ("length", "dim", "cov", "prompts"),
    [
        (4, 5, None, 100_000),
        (5, 5, None, 100_000),
        (12, 5, None, 160_000),
        (40, 20, None, 32_000),
        (6, 4, (0.4, 0.4, 1.6, 1.6), 150_000),
        (15, 4, (0.2, 0.6, 1.2, 2.0), 220_000),
    ],
)
def test_expected_risk_against_simulated_prompts(length, dim, cov, prompts):
    largest = max(cov or (1,))
    step = round(0.4 / (largest * (math.sqrt(length) + math.sqrt(dim)) ** 2), 4)
    solvers = [(icl.GradientDescent(step), 3), (icl.IterativeNewton(step**2), 1)]
    updates = [partial(_descent, step, 3), partial(_newton, step**2, 1)]
    estimates = _simulated(updates, length, dim, (0.0, 0.5), cov, prompts, seed=7)
    rows = []
    for (i, noise), estimate in estimates.items():
        exact = float(icl.solver_risk(*solvers[i], length, dim, noise, cov=cov))
        setting = {"n": length, "d": dim, "noise": noise, "newton": i}
        error = estimate.standard_error
        rows.append(numeric.compare(setting, exact, estimate.value, error, required=0.01))
        assert abs(rows[-1].z) < 4
        assert not numeric.Comparison.from_rows(rows[-1:]).scaled(1.03).passed
    comparison = numeric.Comparison.from_rows(rows)
    assert comparison.passed, str(comparison)


@pytest.mark.parametrize(("length", "cov"), [(4, None), (12, None), (9, (0.2, 0.6, 1.2, 1.6, 1.4))])
def test_rules_of_the_spectrum_against_simulated_prompts(length, cov):
    def update(gram, target):
        norm = np.linalg.norm(gram @ gram, axis=(1, 2))[:, None, None]
        return _newton(1 / norm, 3, gram, target)

    solver = icl.IterativeNewton(1 / frobenius)
    (estimate,) = _simulated([update], length, 5, (0.1,), cov, 60_000, seed=5).values()
    risk = numeric.solver_risk(solver, 3, n=length, d=5, noise_var=0.1, cov=cov, samples=30_000)
    error = math.hypot(risk.error, estimate.standard_error)
    assert abs(risk.value - estimate.value) < 4 * error < 0.025 * risk.value
    assert abs(1.03 * risk.value - estimate.value) > 4 * error


def test_sampling_agrees_with_the_integral():
    # A rule that happens to be constant: trace/trace is 1, so sample the same filter both ways.
    cov = np.diag([1.0, 1.0, 1.0000001, 1.0])
    exact = numeric.solver_risk(GD, [1, 5, 20], n=6, d=4, noise_var=0.3)
    sampled = numeric.solver_risk(GD, [1, 5, 20], n=6, d=4, noise_var=0.3, cov=cov, samples=40_000)
    assert sampled.sampled
    assert np.all(np.abs(sampled.value - exact.value) < 5 * sampled.error)
    assert np.all(5 * sampled.error < 0.03 * exact.value)
    short = numeric.solver_risk(GD, 5, n=3, d=4, noise_var=0.3)
    sampled = numeric.solver_risk(GD, 5, n=3, d=4, noise_var=0.3, cov=cov, samples=40_000)
    assert abs(sampled.value - short.value) < 5 * sampled.error


def test_zero_steps_shapes_and_seeds():
    assert numeric.solver_risk(GD, 0, n=5, d=3).value == pytest.approx(1, rel=1e-12)
    assert numeric.solver_risk(icl.GradientFlow(), 0, n=5, d=3, cov=4).value == pytest.approx(
        4, rel=1e-12
    )
    assert np.shape(numeric.solver_risk(GD, [[1, 2, 3]], n=5, d=3).value) == (1, 3)
    assert float(numeric.solver_risk(icl.Ridge(1), n=5, d=3)) > 0
    newton = icl.IterativeNewton(1 / trace**2)
    draws = [numeric.solver_risk(newton, 2, n=5, d=3, samples=100, seed=s).value for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


# -- bad input -------------------------------------------------------------------------------------


def risk(solver=GD, steps=3, **options):
    return numeric.solver_risk(solver, steps, **{"n": 8, "d": 5, **options})


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: risk("gd"), InvalidInput, "solver has type str"),
        (lambda: risk(steps=None), InvalidInput, "steps is missing"),
        (lambda: risk(steps=-1), InvalidInput, "no number of steps"),
        (lambda: risk(steps=1.5), InvalidInput, "no number of steps"),
        (lambda: risk(steps=[]), InvalidInput, "empty"),
        (lambda: risk(steps=icl.symbols.steps), InvalidInput, "contains symbols"),
        (lambda: risk(n=0), InvalidInput, "at least 1"),
        (lambda: risk(n=[3, 4]), InvalidInput, r"n has shape \(2,\); pass one integer"),
        (lambda: risk(icl.GradientDescent(n)), InvalidInput, "still contains n"),
        (
            lambda: risk(icl.IterativeNewton(1e-3), 2000, expectation="literal"),
            OutOfDomain,
            "range of float64",
        ),
        (lambda: risk(noise_var=-1), InvalidInput, "negative"),
        (lambda: risk(start=-1), InvalidInput, "negative"),
        (lambda: risk(expectation="mean"), InvalidInput, "not 'stable' or 'literal'"),
        (lambda: risk(cov=[1, 2]), InvalidInput, "cov is 2 x 2, but d = 5"),
        (lambda: risk(cov=[[1, 2], [3, 4]], d=2), InvalidInput, "covariance"),
        (lambda: risk(cov=-1), InvalidInput, "not positive"),
        (lambda: risk(icl.GradientDescent(0.5)), OutOfDomain, "no rare event"),
        (
            lambda: risk(icl.GradientDescent(1 / lam_max), expectation="literal"),
            InvalidInput,
            "fixed",
        ),
        (lambda: risk(icl.ConjugateGradient(), 2), InvalidInput, "run_solvers"),
        (lambda: risk(icl.OrdinaryLeastSquares(), None, n=5, noise_var=1), OutOfDomain, "infinite"),
        (lambda: risk(steps=300, expectation="literal"), OutOfDomain, "icl.solver_risk"),
        (lambda: risk(n=300, d=300), OutOfDomain, "above 200"),
        (lambda: risk(icl.GradientDescent(3 / lam_max)), OutOfDomain, "stable|diverges"),
        (lambda: numeric.solver_risk_limit(GD, 3, gamma=1.0), InvalidInput, "keep its shape"),
        (
            lambda: numeric.solver_risk_limit(icl.GradientDescent(3 / n), 3, gamma=1.0),
            OutOfDomain,
            "stable up to",
        ),
        (lambda: numeric.solver_risk_limit(icl.Ridge(n), gamma=0.0), InvalidInput, "not positive"),
        (
            lambda: numeric.solver_risk(icl.ConjugateGradient(), n=9, d=4),
            InvalidInput,
            "depends on the labels",
        ),
        (
            lambda: numeric.late_solver_risk(icl.GradientDescent(1 / lam_min), 9, n=5, d=5),
            InvalidInput,
            "lam_min",
        ),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
