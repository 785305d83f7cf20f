"""Predictions of binary decoding over 10,000 settings: steps x temperatures x samples.

The alternative takes the settings one by one: SciPy's quad over the state of a coordinate, of the
binomial error of a vote or the Gaussian one of an average; for pass@N 2048 states in NumPy.
"""

import time

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import expit

import icltheory as icl
import numeric

STEPS = np.arange(1, 41)[:, None, None]
FACTORS = 2.0 ** np.arange(-4, 6)
SAMPLES = 2.0 ** np.arange(25)[:, None]
LIMIT_SECONDS = 1.5  # a planner has 5 s for all its techniques


def predict(technique):
    channel = numeric.decoding_channel(
        icl.NoisyDecoding(0.4, 0.1, 1), icl.Signs(), 32, 32, steps=STEPS, limit=True
    )
    temperature = FACTORS * channel.calibrated_temperature
    if technique == "vote":
        return numeric.majority_errors(channel, icl.Logit(1), SAMPLES, temperature=temperature).mean
    if technique == "average":
        return numeric.averaged_errors(channel, temperature, SAMPLES).mean
    return numeric.pass_at_n(
        channel, icl.Logit(1), SAMPLES, temperature=temperature, method=technique
    ).value


def one_setting(technique, gain, noise, temperature, count):
    """The same prediction for a single setting; signs at +-1, the right answer +1."""
    if technique in ("monte carlo", "log-normal"):
        states = gain + noise * np.random.default_rng(0).standard_normal((2048, 32))
        chance = np.prod(expit(states / temperature), axis=1)
        return -np.expm1(count * np.log1p(-chance)).mean()

    def wrong(u):
        if technique == "average":
            return stats.norm.sf(u / (temperature / np.sqrt(count)))
        votes, right = stats.binom(count, expit(u / temperature)), count / 2
        return votes.cdf(right) - votes.pmf(right) / 2 if count % 2 == 0 else votes.cdf(right)

    def integrand(z):
        return stats.norm.pdf(z) * wrong(gain + noise * z)

    cut = -gain / noise
    return sum(
        integrate.quad(integrand, low, high)[0]
        for low, high in ((-9, min(cut, 9)), (max(min(cut, 9), -9), 9))
    )


def test_scale_of_the_alternative():
    """Answers of the loop are those of the predictions, so that it is the same work."""
    channel = numeric.decoding_channel(
        icl.NoisyDecoding(0.4, 0.1, 1), icl.Signs(), 32, 32, steps=STEPS, limit=True
    )
    hot = float(FACTORS[4] * channel.calibrated_temperature[5, 0, 0])
    setting = float(channel.gain[5, 0, 0]), float(channel.noise_std[5, 0, 0]), hot, 16
    for technique, off in (("vote", 1e-4), ("average", 1e-4), ("monte carlo", 0.1)):
        exact = float(predict(technique)[5, 4, 4])
        assert abs(one_setting(technique, *setting) / exact - 1) < off, technique


@pytest.mark.parametrize("technique", ["vote", "average", "monte carlo", "log-normal"])
def test_ten_thousand_settings(benchmark, technique):
    values = benchmark.pedantic(predict, args=(technique,), rounds=3, warmup_rounds=1)
    assert values.shape == (40, 25, 10)
    assert np.all((values >= 0) & (values <= 1))
    start = time.perf_counter()
    for gain, noise in ((0.3, 0.3), (0.6, 0.4), (0.8, 0.5), (0.9, 0.6)):
        one_setting(technique, gain, noise, 0.8, 64)
    loop = (time.perf_counter() - start) * 2500
    ratio = loop / benchmark.stats["min"]
    benchmark.extra_info["ratio to one setting after another"] = round(ratio)
    print(f"{technique}: {benchmark.stats['min']:.3f} s; loop {loop:.0f} s; ratio {ratio:.0f}")
    assert ratio > 8
    assert benchmark.stats["mean"] < LIMIT_SECONDS
