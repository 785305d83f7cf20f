"""Rounding, temperatures and votes of binary coefficients, and how many samples they take."""

import math

import numpy as np
import pytest
import sympy as sp
from channel_cases import BITS, SAMPLERS, SEEN, SIGNS, averaged, probability
from scipy import special, stats

import icltheory as icl
from icltheory.symbols import d, temperature

KAPPA, OMEGA = 0.625, 0.425


# -- rounding, temperature, votes ------------------------------------------------------------------


def test_best_threshold_by_a_scan():
    prior = icl.Bits(0.2)
    seen = icl.BinaryChannel(0.7, 0.3**2, prior)
    grid = np.linspace(0, 1, 2001)
    errors = 0.8 * special.ndtr(-grid / 0.3) + 0.2 * special.ndtr(-(0.7 - grid) / 0.3)
    best = float(seen.best_threshold())
    assert best == pytest.approx(grid[errors.argmin()], abs=1e-3)
    assert float(seen.greedy_error(best)) == pytest.approx(errors.min(), rel=1e-6)
    assert float(seen.greedy_error(best)) < float(seen.greedy_error())


@pytest.mark.parametrize("prior", [SIGNS, BITS])
def test_calibrated_temperature_has_the_least_log_loss(prior):
    seen = icl.BinaryChannel(0.6, 0.4**2, prior)
    best = float(seen.calibrated_temperature())
    losses = [float(seen.log_loss(icl.Logit(best * f))) for f in (1 / 1.1, 1, 1.1)]
    assert losses[0] > losses[1] < losses[2]
    scale = {SIGNS: 1, BITS: 4}[prior]
    assert losses[1] == pytest.approx(float(icl.equivocation((0.6 / 0.4) ** 2 / scale)), rel=1e-10)
    assert losses[0] - losses[1] > 1e-4


def test_log_loss_moments_by_quadrature():
    law = icl.Logit(0.6)

    def log(g):
        return -np.logaddexp(0, -(KAPPA + OMEGA * g) / 0.6)

    first, second = averaged(lambda g: log(g)), averaged(lambda g: log(g) ** 2)
    assert float(SEEN.log_loss(law)) == pytest.approx(-first, rel=1e-10)
    assert float(SEEN.log_loss_var(law)) == pytest.approx(second - first**2, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("sampler", SAMPLERS[:2])
def test_majority_is_the_binomial_tail(sampler, count):
    def error(g):
        right = probability(sampler, KAPPA + OMEGA * g)
        tail = sum(stats.binom.pmf(k, count, right) for k in range((count + 1) // 2))
        return tail + (stats.binom.pmf(count // 2, count, right) / 2 if count % 2 == 0 else 0)

    assert float(SEEN.majority_error(sampler, count)) == pytest.approx(averaged(error), rel=1e-9)
    if count == 1:
        assert float(SEEN.sample_error(sampler)) == pytest.approx(averaged(error), rel=1e-9)


@pytest.mark.parametrize("sampler", [icl.Logit(0.6), icl.Probit(0.6)])
def test_law_of_the_votes(sampler):
    count = 400
    exact, law, greedy = (
        float(f)
        for f in (
            SEEN.majority_error(sampler, count),
            SEEN.majority_law(sampler, count),
            SEEN.greedy_error(),
        )
    )
    assert exact - greedy == pytest.approx(law - greedy, rel=0.02)
    assert exact > greedy  # voting never beats rounding of the same state
    assert abs((exact - greedy) / (law - greedy) - 1.05) > 0.02  # the test would see 5 %


def test_averaging_against_voting():
    ratio = icl.vote_constant(icl.Probit(temperature)).expr / (temperature**2 / 2)
    assert sp.cancel(ratio - sp.pi / 2) == 0
    small = float(SEEN.averaging_error(0.6, 1000)) - float(SEEN.greedy_error())
    law = icl.averaging_excess(0.6, 1000, sp.Rational(5, 8), sp.Rational(17, 40))
    assert small == pytest.approx(float(law), rel=0.01)


def test_clip_reads_the_state_as_it_is():
    seen = icl.BinaryChannel(0.8, 0.04, icl.Bits(0.3))
    low = averaged(lambda g: np.clip(0.2 * g, 0, 1), [0, 5])
    high = averaged(lambda g: 1 - np.clip(0.8 + 0.2 * g, 0, 1), [-4, 1])
    assert float(seen.sample_error(icl.Clip())) == pytest.approx(0.7 * low + 0.3 * high, rel=1e-9)


# -- how many examples and samples -----------------------------------------------------------------


@pytest.mark.parametrize("prior", [SIGNS, BITS])
def test_recovery_snr_suffices(prior):
    ratio = float(icl.recovery_snr(prior, 20, 0.01))
    error = 20 * float(icl.BinaryChannel(sp.sqrt(ratio), 1, prior).greedy_error())
    assert 0.001 < error <= 0.01


def test_recovery_lengths():
    signs, bits = (icl.recovery_snr(prior, d).expr for prior in (SIGNS, BITS))
    assert sp.cancel(icl.recovery_length(SIGNS).expr - (d + 1) * signs) == 0
    assert sp.cancel(icl.recovery_length(icl.SparseBits(3)).expr - 4 * bits) == 0
    long = icl.recovery_length(SIGNS, chain="long").expr
    assert sp.cancel((d - long) - long / signs) == 0


def test_plurality_and_coordinate_votes():
    p1, p2, failure = 0.3, 0.2, 0.05
    theta = np.linspace(-2, 2, 100001)
    least = np.min(1 - p1 - p2 + p1 * np.exp(-theta) + p2 * np.exp(theta))
    found = float(icl.plurality_samples(p1, p2, failure))
    assert found == pytest.approx(math.log(1 / failure) / (1 - least), rel=1e-7)
    # The counts of two answers really err less often.
    count = math.ceil(found)
    rng = np.random.default_rng(6)
    draws = rng.multinomial(count, [p1, p2, 1 - p1 - p2], size=20_000)
    assert (draws[:, 1] >= draws[:, 0]).mean() < failure
    votes = math.ceil(float(icl.vote_samples(0.7, 10, failure)))
    assert 10 * stats.binom.cdf(votes / 2, votes, 0.7) < failure


def test_pass_at_n():
    def success(z):
        return -math.expm1(-math.exp(math.log(500) - 12 * 0.5 + math.sqrt(12 * 0.2) * z))

    assert float(icl.pass_at_n(500, 12, 0.5, 0.2)) == pytest.approx(averaged(success), rel=1e-9)
    assert icl.verified_log_samples(1, 12).evalf(10) == 12 * icl.equivocation(1).evalf(10)
