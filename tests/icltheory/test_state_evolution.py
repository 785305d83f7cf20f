"""State evolution of bits that are fed back."""

import math

import numpy as np
import pytest
import sympy as sp
from channel_cases import SAMPLERS, SIGNS, averaged, probability
from scipy import special

import icltheory as icl
import numeric


def test_lock_in_threshold():
    x = np.linspace(0.5, 2, 3_000_001)
    values = 4 * x**2 * special.ndtr(-x)
    found = icl.lock_in_threshold(20)
    assert float(found) == pytest.approx(values.max(), rel=1e-11)
    assert float(found) == pytest.approx(0.662866, abs=5e-7)
    ((_, at),) = found.minimizer.items()
    assert float(at) == pytest.approx(1.190601, abs=5e-7)
    step = numeric.compile(icl.state_evolution_map(icl.Round()))
    for factor, ends in ((1.02, True), (0.98, False)):
        rho = 0.5
        for _ in range(300):
            rho = step(error_fraction=rho, gamma=1 / (factor * float(found))) if rho > 1e-9 else 0
        assert (rho < 1e-9) is ends


@pytest.mark.parametrize("sampler", [*SAMPLERS, icl.Round()])
def test_first_step_on_a_fresh_prompt(sampler):
    """The real gradient step from a binary state, d large: the map with step size and label noise."""
    rng = np.random.default_rng(7)
    length, dim, step, share = 300, 400, 0.7, 0.3
    errors = []
    wrong = np.arange(dim) < share * dim
    for _ in range(120):
        x = rng.normal(size=(length, dim))
        truth = rng.integers(0, 2, dim).astype(float)
        state = np.where(wrong, 1 - truth, truth)
        y = x @ truth + 3 * rng.normal(size=length)
        u = state - step * x.T @ (x @ state - y) / length
        p = probability(sampler, u - 0.5)
        errors.append(np.where(truth == 1, 1 - p, p).mean())
    predicted = icl.state_evolution_map(
        sampler, dim / length, step_size=step, label_noise_ratio=9 / length
    )
    value = float(predicted.subs(error_fraction=share).evalf())
    standard_error = np.std(errors) / math.sqrt(len(errors))
    assert abs(np.mean(errors) - value) < 5 * standard_error < 0.06 * value


def test_signs_are_bits_with_half_the_temperature_and_noise():
    for sampler, half in ((icl.Probit(0.8), icl.Probit(0.4)), (icl.Clip(), icl.Clip())):
        signs = icl.state_evolution_map(sampler, prior=SIGNS, step_size=0.6, label_noise_ratio=0.4)
        bits = icl.state_evolution_map(half, step_size=0.6, label_noise_ratio=0.1)
        point = {"error_fraction": 0.2, "gamma": 0.9}
        assert float(signs.subs(**point)) == pytest.approx(float(bits.subs(**point)), rel=1e-12)


def test_floor_of_sampled_bits():
    cold = icl.state_evolution_map(icl.Logit(0.2)).subs(error_fraction=1e-12, gamma=1)
    assert float(icl.sampling_floor(icl.Logit(0.2))) == pytest.approx(float(cold), rel=1e-6)
    assert float(icl.sampling_floor(icl.Probit(0.2))) == pytest.approx(special.ndtr(-2.5))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_onsager_coefficient(sampler):
    v = sp.Symbol("v", real=True)
    density = sp.lambdify(v, sampler.density(v), ["scipy", "numpy"])
    std = math.sqrt(0.3 * 0.8)
    expected = averaged(lambda g: float(density(-0.5 + std * g)), [0, 1 / std]) * 0.8
    value = icl.onsager_coefficient(sampler, 0.8).subs(error_fraction=0.3)
    assert float(value.expr.evalf()) == pytest.approx(expected, rel=1e-8)
