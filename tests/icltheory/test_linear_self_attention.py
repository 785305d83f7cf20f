"""Trained linear self-attention: optima by the moments of real prompts, exact one-step risks."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy import optimize

import icltheory as icl
from icltheory.symbols import d, eta, label_noise_var, n

COV = [[2, 0.5], [0.5, 1]]


def normalised(**options):
    """The reference task: E w* w*' = I."""
    return icl.LinearRegression(**{"dim": d, "coef_cov": 1} | options)


def numbers(formula, **values):
    return np.array(formula.subs(**values).expr.tolist(), dtype=float)


def test_trained_without_chain_at_identity_covariance():
    task = normalised(noise_var=label_noise_var)
    step = icl.trained_weights(task)
    assert sp.cancel(step.expr - n / (n + d + 1 + label_noise_var)) == 0
    risk = icl.trained_risk(task).expr / d
    expected = (d + 1 + label_noise_var) / (n + d + 1 + label_noise_var)
    assert sp.cancel(risk - expected) == 0
    # In the units of the rest of the toolkit the total is the same number.
    unit = icl.trained_risk(icl.LinearRegression(d, label_noise_var / d))
    assert sp.cancel(unit.expr - expected) == 0


def test_trained_weights_are_gamma_inverse():
    """(Gamma + noise/n I)^-1 with Gamma = (1 + 1/n) Sigma + tr Sigma/n I."""
    task = normalised(dim=2, feature_cov=COV, noise_var=0.7)
    sigma = np.array(COV)
    matrix = (1 + 1 / 9) * sigma + (np.trace(sigma) + 0.7) / 9 * np.eye(2)
    assert numbers(icl.trained_weights(task), n=9) == pytest.approx(np.linalg.inv(matrix))
    risk = float(icl.trained_risk(task).subs(n=9))
    assert risk == pytest.approx(2 - np.trace(sigma @ np.linalg.inv(matrix)))


def test_trained_weights_are_least_squares_on_real_prompts():
    rng = np.random.default_rng(0)
    length, prompts = 6, 400_000
    x = rng.normal(size=(prompts, length, 2)) @ np.linalg.cholesky(COV).T
    w = rng.normal(size=(prompts, 2)) * np.sqrt([0.5, 2])
    y = np.einsum("pnd,pd->pn", x, w) + math.sqrt(0.7) * rng.normal(size=(prompts, length))
    b = np.einsum("pnd,pn->pd", x, y) / length
    task = icl.LinearRegression(2, 0.7, feature_cov=COV, coef_cov=[0.5, 2])
    fitted = np.linalg.lstsq(b, w, rcond=None)[0].T
    assert numbers(icl.trained_weights(task), n=length) == pytest.approx(fitted, abs=0.01)
    left = ((w - b @ fitted.T) ** 2).sum(1).mean()
    assert float(icl.trained_risk(task).subs(n=length)) == pytest.approx(left, rel=0.01)


@pytest.mark.parametrize("of", ["weights", "prediction"])
def test_one_step_risk_of_any_matrix(of):
    """The reference closed form, and the matrix that training finds is its minimum."""
    sigma, step = np.array(COV), np.array([[0.4, 0.1], [-0.2, 0.5]])
    task = normalised(dim=2, feature_cov=COV)
    value = float(icl.one_step_risk(task, step, 7, of=of))
    p, one = -step, np.eye(2)
    if of == "weights":
        expected = np.sum((one + p @ sigma) ** 2)
        spread = np.trace(p @ sigma @ sigma @ p.T)
        spread += np.trace(p @ sigma @ p.T) * np.trace(sigma)
        assert value == pytest.approx(expected + spread / 7)
    best = numbers(icl.trained_weights(task), n=7)
    least = float(icl.one_step_risk(task, best, 7, of=of))
    if of == "weights":
        assert least == pytest.approx(float(icl.trained_risk(task, 7)))
    for _ in range(4):
        near = best + 0.05 * np.random.default_rng(1).normal(size=(2, 2))
        assert float(icl.one_step_risk(task, near, 7, of=of)) > least


def test_prediction_risk_of_other_lengths():
    """Trained on n, tested on M examples, at one w*: the formula of Zhang, Frei and Bartlett."""
    length, tested, noise = 8, 11, 0.6
    sigma, w = np.array(COV), np.array([1.0, -0.5])
    trace = np.trace(sigma)
    big = (1 + 1 / length) * sigma + trace / length * np.eye(2)
    inverse = np.linalg.inv(big)
    twice = inverse @ inverse
    c = (w @ sigma @ w + noise) * sigma + sigma @ np.outer(w, w) @ sigma
    parts = [w @ twice @ np.linalg.matrix_power(sigma, k) @ w for k in (3, 2, 1)]
    bias = (parts[0] + 2 * trace * parts[1] + trace**2 * parts[2]) / length**2
    expected = np.trace(c @ twice @ sigma) / tested + bias
    task = icl.LinearRegression(2, noise, feature_cov=COV, coef_cov=np.outer(w, w))
    value = icl.one_step_risk(task, inverse, tested, of="prediction")
    assert float(value) == pytest.approx(expected, rel=1e-10)


def test_teacher_towards_the_coefficients():
    task = normalised(dim=2, feature_cov=COV)
    weights = icl.teacher_weights(task, 0.4, 9)
    assert np.array(weights.expr.tolist(), dtype=float) == pytest.approx(
        0.4 * numbers(icl.trained_weights(task), n=9)
    )
    # Least squares of 0.4 w on S w over real prompts.
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200_000, 9, 2)) @ np.linalg.cholesky(COV).T
    w = rng.normal(size=(200_000, 2))
    s = np.einsum("pni,pnj,pj->pi", x, x, w) / 9
    fitted = np.linalg.lstsq(s, 0.4 * w, rcond=None)[0].T
    assert np.array(weights.expr.tolist(), dtype=float) == pytest.approx(fitted, abs=0.005)


@pytest.mark.parametrize(
    ("steps", "scale", "loss"),
    [
        (2, "free", 0.1577203446),
        (3, "free", 0.1070231995),
        (2, "fixed", 0.2143288687),
        (3, "fixed", 0.1205322891),
    ],
)
def test_outcome_supervision(steps, scale, loss):
    """The reference loss is d/2 times the risk per coordinate, here d = 4."""
    best = icl.outcome_risk(steps, 16, 4, scale=scale)
    assert 2 * float(best) == pytest.approx(loss, abs=1e-10)
    at = float(best.minimizer[eta])
    near = [float(icl.outcome_risk(steps, 16, 4, at * f, scale=scale)) for f in (0.97, 1.03)]
    assert min(near) > float(best)
    found = optimize.minimize_scalar(
        lambda step: float(icl.outcome_risk(steps, 16, 4, step, scale=scale)),
        bounds=(0.1, 1.1),
        method="bounded",
        options={"xatol": 1e-7},
    )
    assert found.x == pytest.approx(at, rel=1e-5)


def test_best_factor_and_signal_to_noise():
    beta, square = (icl.contraction_moment(j, 16, 4, 0.5).expr for j in (2, 4))
    ratio = (1 - beta) ** 2 / (square - beta**2)
    formula = icl.outcome_risk(2, 16, 4, 0.5)
    assert sp.cancel(formula.expr - 1 / (1 + ratio)) == 0
    (factor,) = formula.minimizer.values()
    assert sp.cancel(factor - (1 - beta) / (1 - 2 * beta + square)) == 0


def test_one_step_of_outcome_supervision_is_training_without_chain():
    expected = icl.trained_risk(normalised()).expr / d
    for scale in ("free", "fixed"):
        best = icl.outcome_risk(1, scale=scale)
        assert sp.cancel(best.expr - expected) == 0
    ends = icl.outcome_risk(1).minimizer
    assert sp.cancel(math.prod(ends.values()) - n / (n + d + 1)) == 0


def test_factor_lowers_the_risk():
    assert float(icl.outcome_risk(2, 16, 4)) < float(icl.outcome_risk(2, 16, 4, scale="fixed"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: icl.outcome_risk(0), "integer of at least 1"),
        (lambda: icl.outcome_risk(2), "pass numbers"),
        (lambda: icl.outcome_risk(2, 16, 4, scale="x"), "free"),
        (lambda: icl.teacher_weights(normalised(noise_var=1)), "noise_var=0"),
        (lambda: icl.one_step_risk(normalised(), 1, of="x"), "prediction"),
        (lambda: icl.trained_weights(normalised(local=(1, 1))), "local"),
        (lambda: icl.trained_weights(normalised(), 0), "positive integer"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()


def test_a_chain_that_overshoots_is_multiplied_by_a_negative_factor():
    risk = icl.outcome_risk(2, 5, 3, 2.5)
    mean, square = (float(icl.contraction_moment(j, 5, 3, 2.5)) for j in (2, 4))
    factors = np.linspace(-0.2, 0.2, 100_001)
    scan = 1 - 2 * factors * (1 - mean) + factors**2 * (1 - 2 * mean + square)
    assert float(risk) == pytest.approx(scan.min(), rel=1e-8)
    assert factors[scan.argmin()] < 0


def test_what_is_no_task_is_refused():
    for formula in (icl.trained_weights, icl.trained_risk, icl.teacher_weights):
        with pytest.raises(icl.InvalidInput, match="LinearRegression"):
            formula(5)
