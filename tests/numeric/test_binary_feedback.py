"""Sampled bits fed back: closed maps, fixed points, and the iteration on real prompts."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

import icltheory as icl
import numeric

TEXT: Any = "bits"
Q = stats.norm.sf


def one_step(sampler, rho, ratio, **options):
    return float(
        numeric.state_evolution(icl.Bits(), sampler, ratio, 1, start_error=rho, **options)[1]
    )


# -- the map ----------------------------------------------------------------------------------------


def test_reference_values():
    path = numeric.state_evolution(icl.Bits(), icl.Round(), 1.2, 3)
    np.testing.assert_allclose(path, [0.5, 0.2192890130, 0.1210729481, 0.0577301766], atol=5e-11)
    for ratio, known in ((0.5, 0.2606959667), (2.0, 0.0795774517)):
        end = numeric.feedback_fixed_point(icl.Bits(), icl.Clip(), ratio)
        assert end == pytest.approx(known, abs=5e-11)
        assert one_step(icl.Clip(), end, ratio) == pytest.approx(end, rel=1e-11)
        assert one_step(icl.Clip(), 1.03 * end, ratio) != pytest.approx(1.03 * end, rel=1e-3)


@pytest.mark.parametrize(("rho", "ratio"), [(0.5, 1.2), (0.03, 0.7), (1e-3, 5.0)])
def test_the_closed_maps(rho, ratio):
    omega = math.sqrt(rho / ratio)
    assert one_step(icl.Round(), rho, ratio) == pytest.approx(Q(0.5 / omega), rel=1e-12)
    probit = Q(0.5 / math.hypot(0.3, omega))
    assert one_step(icl.Probit(0.3), rho, ratio) == pytest.approx(probit, rel=1e-12)
    clip = omega * (stats.norm.pdf(0) - stats.norm.pdf(1 / omega)) + Q(1 / omega)
    assert one_step(icl.Clip(), rho, ratio) == pytest.approx(clip, rel=1e-11)
    g = np.arange(-4800, 4801) / 400  # the trapezoidal rule on a smooth integrand
    weights = stats.norm.pdf(g) / 400
    logit = weights @ (1 / (1 + np.exp((0.5 - omega * g) / 0.3)))
    assert one_step(icl.Logit(0.3), rho, ratio) == pytest.approx(logit, rel=1e-11)
    # Any step size: two classes of coordinates.
    eta = 0.6
    right = weights @ (1 / (1 + np.exp((0.5 - eta * omega * g) / 0.3)))
    wrong = weights @ (1 / (1 + np.exp((0.5 - (1 - eta) - eta * omega * g) / 0.3)))
    mixed = (1 - rho) * right + rho * wrong
    assert one_step(icl.Logit(0.3), rho, ratio, step_size=eta) == pytest.approx(mixed, rel=1e-11)


def test_symbolic_and_numeric_samplers_have_the_same_map():
    for sampler in (icl.Round(), icl.Probit(0.25), icl.Clip()):
        mean = sampler.mean_probability(-0.5, 0.2 / 1.5)
        assert one_step(sampler, 0.2, 1.5) == pytest.approx(float(mean.evalf(15)), rel=1e-12)


@pytest.mark.parametrize("tempered", [icl.Logit, icl.Probit])
def test_signs_are_bits_at_half_the_temperature_and_noise(tempered):
    bits = numeric.state_evolution(icl.Bits(), tempered(0.2), 1.3, 4, label_noise_ratio=0.05)
    signs = numeric.state_evolution(icl.Signs(), tempered(0.4), 1.3, 4, label_noise_ratio=0.2)
    np.testing.assert_allclose(bits, signs, rtol=1e-12)
    other = numeric.state_evolution(icl.Signs(), tempered(0.4), 1.3, 4, label_noise_ratio=0.05)
    assert abs(other[-1] - bits[-1]) > 0.01


def test_rounding_locks_in_above_the_threshold():
    best = optimize.minimize_scalar(lambda x: -4 * x**2 * Q(x), bounds=(0.5, 2), method="bounded")
    assert -best.fun == pytest.approx(0.662866, abs=5e-7)
    assert best.x == pytest.approx(1.190601, abs=1e-5)
    assert numeric.feedback_fixed_point(icl.Bits(), icl.Round(), -best.fun * 1.0005) == 0
    for ratio in (-best.fun * 0.9995, 0.4):
        end = numeric.feedback_fixed_point(icl.Bits(), icl.Round(), ratio)
        x = 0.5 * math.sqrt(ratio / end)
        assert end == pytest.approx(Q(x), rel=1e-9)
        assert 4 * x**2 * Q(x) == pytest.approx(ratio, rel=1e-9)
        path = numeric.state_evolution(icl.Bits(), icl.Round(), ratio, 2000)
        assert path[-1] == pytest.approx(end, rel=1e-6)


def test_floors_of_the_tempered_samplers():
    logit = numeric.feedback_fixed_point(icl.Bits(), icl.Logit(0.1), 1e6)
    assert logit == pytest.approx(1 / (1 + math.exp(5)), rel=1e-4)
    probit = numeric.feedback_fixed_point(icl.Bits(), icl.Probit(0.2), 1e6)
    assert probit == pytest.approx(Q(2.5), rel=1e-4)
    clip = numeric.feedback_fixed_point(icl.Bits(), icl.Clip(), 4.0)
    assert clip == pytest.approx(1 / (8 * math.pi), rel=1e-4)
    # Voting over draws lowers the floor.
    voted = numeric.feedback_fixed_point(icl.Bits(), icl.Logit(0.1), 3.0, samples=5)
    assert voted < 0.01 * numeric.feedback_fixed_point(icl.Bits(), icl.Logit(0.1), 3.0)


def test_the_evolution_broadcasts():
    path = numeric.state_evolution(
        icl.Bits(), icl.Logit(1), [[0.8], [2.0]], 3, temperature=[0.0, 0.1, 0.3]
    )
    assert path.shape == (4, 2, 3)
    single = numeric.state_evolution(icl.Bits(), icl.Logit(0.1), 2.0, 3)
    rounded = numeric.state_evolution(icl.Bits(), icl.Round(), 2.0, 3)
    np.testing.assert_allclose(path[:, 1, 1], single, rtol=1e-13)
    np.testing.assert_array_equal(path[:, 1, 0], rounded)


# -- on prompts -------------------------------------------------------------------------------------


def agree(run, path, slack):
    gap = np.abs(run.error.value - path)
    return bool(np.all(gap < 5 * run.error.standard_error + slack))


FEEDBACK = [
    (icl.Bits(), icl.Probit(0.2), {}),
    (icl.Bits(), icl.Clip(), {}),
    (icl.Bits(), icl.Logit(0.1), {"samples": 3}),
    (icl.Signs(), icl.Probit(0.4), {}),
    (icl.SparseBits(90), icl.Probit(0.2), {}),
]


@pytest.mark.parametrize(("prior", "sampler", "options"), FEEDBACK)
@pytest.mark.parametrize("mode", ["fresh", "amp"])
def test_state_evolution_on_prompts(prior, sampler, options, mode):
    """With fresh prompts, and with the Onsager term on one prompt, to 0.01 at d = 300."""
    n, d = 360, 300
    path = numeric.state_evolution(prior, sampler, n / d, 4, **options)
    run = numeric.simulate_feedback(
        prior, sampler, n, d, 4, mode=mode, prompts=30, seed=1, **options
    )
    assert agree(run, path, 0.003)
    assert np.all(run.error.standard_error < 0.008)
    same = numeric.simulate_feedback(
        prior, sampler, n, d, 4, mode="same", prompts=30, seed=1, **options
    )
    assert agree_at_first_step(same, path)
    assert not agree(same, path, 0.01)
    assert np.all((same.error - run.error).value[2:] > 0.03)


def agree_at_first_step(run, path):
    gap = np.abs(run.error.value[:2] - path[:2])
    return bool(np.all(gap < 5 * run.error.standard_error[:2] + 0.003))


def test_other_step_sizes_and_label_noise_on_fresh_prompts():
    options: dict[str, Any] = {"step_size": 0.6}
    n, d, noise = 360, 300, 100.0
    path = numeric.state_evolution(
        icl.Signs(), icl.Probit(0.4), n / d, 3, label_noise_ratio=noise / n, **options
    )
    run = numeric.simulate_feedback(
        icl.Signs(), icl.Probit(0.4), n, d, 3, mode="fresh", label_noise_var=noise, prompts=30,
        seed=2, **options,
    )  # fmt: skip
    assert agree(run, path, 0.003)
    assert not agree(run, numeric.state_evolution(icl.Signs(), icl.Probit(0.4), n / d, 3), 0.003)


def test_rounding_on_one_prompt_leaves_the_evolution_and_still_recovers():
    """alpha = 2: 0.163, 0.107, 0.069 where the map gives 0.159, 0.038, 1e-4; 90 % recover in 8 steps."""
    run = numeric.simulate_feedback(icl.Bits(), icl.Round(), 800, 400, 8, prompts=60, seed=3)
    path = numeric.state_evolution(icl.Bits(), icl.Round(), 2, 3)
    np.testing.assert_allclose(path[1:3], [0.159, 0.038], atol=5e-4)
    assert path[3] < 2e-4
    known = np.array([0.163, 0.107, 0.069])
    assert np.all(np.abs(run.error.value[1:4] - known) < 5 * run.error.standard_error[1:4])
    assert np.all(run.error.value[2:4] > path[2:4] + 0.03)
    assert abs(run.recovered.value[8] - 0.9) < 0.15
    stuck = numeric.simulate_feedback(icl.Bits(), icl.Round(), 480, 400, 8, prompts=20, seed=3)
    assert 0.15 < stuck.error.value[8] < 0.35


def test_starts():
    zero = numeric.simulate_feedback(
        icl.Bits(0.2), icl.Round(), 90, 60, 1, start="zero", prompts=300, seed=4
    )
    path = numeric.state_evolution(icl.Bits(0.2), icl.Round(), 1.5, 1, start_error=0.2)
    assert agree(zero, path, 0.006)
    signs = numeric.simulate_feedback(
        icl.Signs(), icl.Round(), 90, 60, 1, start="zero", prompts=300, seed=4
    )
    path = numeric.state_evolution(icl.Signs(), icl.Round(), 1.5, 1, start_error=0.25)
    assert agree(signs, path, 0.006)


def test_refusals():
    run = numeric.simulate_feedback
    refused = {
        "rounding has no slope": lambda: run(icl.Bits(), icl.Round(), 9, 5, 2, mode="amp"),
        "nor has temperature 0": lambda: run(icl.Bits(), icl.Probit(0), 9, 5, 2, mode="amp"),
        "amp step": lambda: run(icl.Bits(), icl.Clip(), 9, 5, 2, mode="amp", step_size=0.5),
        "mode": lambda: run(icl.Bits(), icl.Clip(), 9, 5, 2, mode="old"),
        "start": lambda: run(icl.Bits(), icl.Clip(), 9, 5, 2, start="half"),
        "noise": lambda: run(icl.Bits(), icl.Clip(), 9, 5, 2, label_noise_var=-1),
        "no samples": lambda: run(icl.Bits(), icl.Clip(), 9, 5, 2, samples=0),
        "sparse": lambda: run(icl.SparseBits(6), icl.Clip(), 9, 5, 2),
        "ratio": lambda: numeric.state_evolution(icl.Bits(), icl.Clip(), 0, 2),
        "share": lambda: numeric.state_evolution(icl.Bits(), icl.Clip(), 1, 2, start_error=2),
        "prior": lambda: numeric.feedback_fixed_point(TEXT, icl.Clip(), 1),
    }
    for name, call in refused.items():
        with pytest.raises(icl.IclTheoryError):
            pytest.fail(f"{name}: {call()}")
