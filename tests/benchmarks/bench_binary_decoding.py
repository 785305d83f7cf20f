"""Predictions of binary decoding over 10,000 settings: steps x temperatures x samples."""

import numpy as np
import pytest

import icltheory as icl
import numeric

STEPS = np.arange(1, 41)[:, None, None]
FACTORS = 2.0 ** np.arange(-4, 6)
SAMPLES = 2.0 ** np.arange(25)[:, None]
LIMIT_SECONDS = 1.5  # the issue gives a planner 5 s for all its techniques


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


@pytest.mark.parametrize("technique", ["vote", "average", "monte carlo", "log-normal"])
def test_ten_thousand_settings(benchmark, technique):
    values = benchmark.pedantic(predict, args=(technique,), rounds=3, warmup_rounds=1)
    assert values.shape == (40, 25, 10)
    assert np.all((values >= 0) & (values <= 1))
    assert benchmark.stats["mean"] < LIMIT_SECONDS
