"""Token laws on arrays against simulated softmax."""

from functools import cache

import numpy as np
from token_cases import LAWS, U, W, each_law

import numeric
import numeric.empirical_law

LENGTH = 300
PROMPTS = 66_000
HEAVY = {"Laplace": 70_000, "GammaScaleMixture": 75_000, "ScaleMixture": 72_000}


def within(estimate, error, prediction):
    return np.abs(estimate - prediction) <= 5 * error


def resolution(error, prediction):
    """Smallest relative deviation that the larger entries could show at five standard errors."""
    large = np.abs(prediction) > np.abs(prediction).max() / 2
    return float(np.max(5 * error[large] / np.abs(prediction[large])))


@cache
def simulated(name):
    """Two heads on the same prompts of a law: (estimate, error, prediction) and the resolution asked."""
    law = LAWS[name]
    u, w = U[: law.dim], W[: law.dim]
    heads = np.stack([u, w])
    sample = numeric.simulate_output(law, u, LENGTH, HEAVY.get(name, PROMPTS), seed=1, w=w)
    bias = numeric.leading_bias(law, heads) / LENGTH
    second = numeric.leading_bias(law, heads, order=2) / LENGTH**2
    mean = numeric.limit_output(law, heads) + bias
    covariance = numeric.leading_covariance(law, u, w) / LENGTH
    return {
        "mean": (sample.mean, sample.mean_error, mean, 0.03),
        # Halves minus whole: c/n + 3 c2/n^2.
        "bias": (sample.bias, sample.bias_error, bias + 3 * second, 0.05),
        "covariance": (sample.covariance, sample.covariance_error, covariance, 0.03),
    }


@each_law
def test_simulated_softmax_against_the_expansion(name):
    for what, (estimate, error, prediction, finest) in simulated(name).items():
        assert np.all(within(estimate, error, prediction)), what
        assert resolution(error, prediction) < finest, (what, resolution(error, prediction))
        wrong = {"mean": 1.03, "bias": 1.08, "covariance": 1.06}[what]
        assert not np.all(within(estimate, error, wrong * prediction)), what


def ratio(name, what):
    """Estimate over prediction, and its error, at the best resolved entry of a law."""
    estimate, error, prediction, _ = simulated(name)[what]
    large = np.unravel_index(np.argmax(np.abs(prediction / error)), prediction.shape)
    return estimate[large] / prediction[large], error[large] / abs(prediction[large])


def test_all_laws_together_resolve_one_percent():
    """Ratios of estimate to prediction, averaged over the laws: 3 % off is rejected."""
    for what in ("bias", "covariance"):
        rows = np.array([ratio(name, what) for name in LAWS])
        weights = 1 / rows[:, 1] ** 2
        mean, error = weights @ rows[:, 0] / weights.sum(), weights.sum() ** -0.5
        assert 5 * error < 0.015
        assert abs(mean - 1) < 5 * error + 0.005  # 0.005: the next order in 1/n
        assert abs(1.03 * mean - 1) > 5 * error + 0.005


def test_one_head_and_odd_or_single_tokens():
    law = LAWS["Rademacher"]
    two = numeric.simulate_output(law, U[:2], 51, 2000, seed=4, w=W[:2])
    one = numeric.simulate_output(law, U[:2], 51, 2000, seed=4)
    assert one.mean.shape == (2,)
    np.testing.assert_allclose(one.mean, two.mean[0])
    np.testing.assert_allclose(one.bias, two.bias[0])
    np.testing.assert_allclose(np.sqrt(np.diag(one.covariance) / 2000), one.mean_error, rtol=1e-3)
    single = numeric.simulate_output(law, U[:2], 1, 20_000, seed=4)
    assert single.bias is None
    assert np.all(within(single.covariance, single.covariance_error + 1e-12, np.diag([1, 0.49])))
    # Far outside float range of exp: the largest score takes all, halves included.
    sharp = numeric.simulate_output(law, [1e4, 1e4], 10, 500, seed=4)
    assert np.all(np.isfinite(sharp.bias))
    assert np.all(sharp.mean <= [1, 0.7])


def test_simulation_agrees_with_a_plain_one():
    """The same seeds in a loop over prompts, moments by NumPy; batches do not matter much."""
    law, n, prompts = LAWS["Sphere"], 7, 400
    sample = numeric.simulate_output(law, U, n, prompts, seed=9, w=W)
    root = np.random.SeedSequence(9)
    rng = np.random.default_rng(root.spawn(1)[0])
    tokens = numeric.sample_tokens(law, (prompts, n), rng)
    outputs = []
    for dual in (U, W):
        p = np.exp(tokens @ dual)
        outputs.append(np.einsum("bn,bnd->bd", p / p.sum(axis=1, keepdims=True), tokens))
    a, b = outputs
    np.testing.assert_allclose(sample.mean, [a.mean(axis=0), b.mean(axis=0)], rtol=1e-12)
    expected = np.cov(a.T, b.T)[:3, 3:]
    np.testing.assert_allclose(sample.covariance, expected, rtol=1e-10)
    products = (a - a.mean(axis=0))[:, :, None] * (b - b.mean(axis=0))[:, None, :]
    error = products.std(axis=0) / np.sqrt(prompts - 1)
    np.testing.assert_allclose(sample.covariance_error, error, rtol=1e-10)
    halves = []
    for part in (slice(0, 3), slice(3, 7)):
        p = np.exp(tokens[:, part] @ U)
        halves.append(np.einsum("bn,bnd->bd", p / p.sum(axis=1, keepdims=True), tokens[:, part]))
    gap = sum(halves) / 2 - a
    np.testing.assert_allclose(sample.bias[0], gap.mean(axis=0), atol=1e-14)
    np.testing.assert_allclose(
        sample.bias_error[0], gap.std(axis=0) / np.sqrt(prompts - 1), rtol=1e-10
    )


@each_law
def test_sampled_tokens_have_the_moments_of_the_law(name):
    law, count = LAWS[name], 60_000
    z = numeric.sample_tokens(law, count, np.random.default_rng(8))
    origin = np.zeros(law.dim)
    mean, cov = numeric.limit_output(law, origin), numeric.limit_jacobian(law, origin)
    centred = z - mean
    assert np.all(np.abs(centred.mean(axis=0)) <= 5 * np.sqrt(np.diag(cov) / count) + 1e-12)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(axis=0) / np.sqrt(count) + 1e-12
    assert np.all(np.abs(products.mean(axis=0) - cov) <= 5 * error)
    assert np.any(np.abs(products.mean(axis=0) - 1.1 * cov) > 5 * error)
    # The whole law at one dual point: E exp(u.z).
    u = U[: law.dim] / 2
    weights = np.exp(z @ u - numeric.token_cgf(law, u))
    assert abs(weights.mean() - 1) < 5 * weights.std() / np.sqrt(count)


def test_same_seed_same_tokens():
    law = LAWS["GaussianMixture"]
    a, b = (numeric.sample_tokens(law, (3, 4), seed) for seed in (7, np.random.SeedSequence(7)))
    assert a.shape == (3, 4, 2)
    assert np.array_equal(a, b)
