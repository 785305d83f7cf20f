"""Votes on bits and on whole answers, against the binomial sum, enumeration and draws."""

import itertools
import math

import numpy as np
import pytest
from binary_cases import channel, check, greedy
from scipy import integrate, stats

import icltheory as icl
import numeric
from numeric.binary_samplers import bit_law, gaussian_mean, vote_error

SAMPLERS = (icl.Logit(0.4), icl.Probit(0.4), icl.Clip(), icl.Round())


# -- votes: quadrature against the binomial sum --------------------------------------------------------


def binomial_error(margin, noise, sampler, samples, gap):
    """E P(majority wrong), ties by a coin: the binomial tail, integrated from kink to kink."""
    law = bit_law(sampler, gap)

    def wrong(g):
        p = float(law.chance(np.array(margin + noise * g)))
        tail = stats.binom.cdf(math.ceil(samples / 2) - 1, samples, p)
        tie = stats.binom.pmf(samples / 2, samples, p) / 2 if samples % 2 == 0 else 0.0
        return stats.norm.pdf(g) * (tail + tie)

    kinks = [(x - margin) / noise for x in (-gap / 2, 0, gap / 2)]
    edges = [-12.0, *sorted(np.clip(kinks, -12, 12)), 12.0]
    parts = (
        integrate.quad(wrong, a, b, epsabs=1e-12, limit=200)[0]
        for a, b in itertools.pairwise(edges)
    )
    return sum(parts)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize(
    ("margin", "noise", "samples", "gap"), [(0.3, 0.2, 1, 1), (0.4, 0.5, 6, 2), (-0.1, 0.02, 9, 1)]
)
def test_votes_against_the_binomial_sum(sampler, margin, noise, samples, gap):
    value = float(vote_error(margin, noise, bit_law(sampler, gap), samples))
    assert value == pytest.approx(binomial_error(margin, noise, sampler, samples, gap), abs=1e-10)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_even_number_of_votes_is_as_good_as_one_less(sampler):
    errors = numeric.majority_errors(channel(0.6, 0.3), sampler, [3, 4, 5]).mean
    assert errors[0] == errors[1]
    assert errors[1] > errors[2] or isinstance(sampler, icl.Round)


@pytest.mark.parametrize("temperature", [1e-3, 0.3, 30.0])
@pytest.mark.parametrize("samples", [1, 1001, 10**7])
def test_vote_errors_at_extreme_scales_stay_between_greedy_and_a_coin(temperature, samples):
    errors = numeric.majority_errors(channel(), icl.Logit(temperature), samples).mean
    assert greedy(channel()) * (1 - 1e-12) <= errors < 0.5


def test_the_law_of_one_over_n():
    c = channel(0.6, 0.4)
    slope = 0.6 * stats.norm.pdf(0.6 / 0.4) / 0.4**3
    for sampler, constant in ((icl.Logit(0.5), 2 * 0.25), (icl.Probit(0.5), math.pi / 4 * 0.25)):
        excess = [
            (float(numeric.majority_errors(c, sampler, n).mean) - greedy(c)) * n
            for n in (2001, 20001)
        ]
        assert excess[0] == pytest.approx(constant * slope, rel=0.01)
        assert excess[1] == pytest.approx(constant * slope, rel=0.001)
        assert excess[1] != pytest.approx(1.02 * constant * slope, rel=0.001)


def test_voting_needs_pi_over_two_times_the_samples_of_averaging():
    c = channel(0.6, 0.4)
    averaged = float(numeric.averaged_errors(c, 0.5, 4000).mean) - greedy(c)
    voted = float(
        numeric.majority_errors(c, icl.Probit(0.5), round(4000 * math.pi / 2)).mean
    ) - greedy(c)
    assert voted == pytest.approx(averaged, rel=0.005)
    one = numeric.averaged_errors(c, 0.5, 1).mean, numeric.sampled_errors(c, icl.Probit(0.5)).mean
    assert one[0] == pytest.approx(one[1], rel=1e-14)


@pytest.mark.parametrize("sampler", [icl.Logit(0), icl.Probit(0), icl.Round()])
def test_temperature_zero_is_greedy_exactly(sampler):
    c = channel(0.4, 0.3, icl.SparseBits(2))
    rounded = numeric.greedy_errors(c)
    for errors in (
        numeric.majority_errors(c, sampler, [1, 7]),
        numeric.averaged_errors(c, 0, [1, 7]),
    ):
        assert np.all(errors.mean == rounded.mean)
        assert np.all(errors.vector == rounded.vector)
    for method in ("monte carlo", "log-normal"):
        rate = numeric.pass_at_n(c, sampler, [1, 10**6], method=method)
        np.testing.assert_allclose(rate.value, 1 - rounded.vector, rtol=1e-14)
        assert np.all(rate.standard_error == 0)
    u = np.array([-0.2, 0.1])
    assert numeric.bit_probability(sampler, u, icl.Signs()).tolist() == [0.0, 1.0]


def test_the_numeric_samplers_are_those_of_icltheory():
    for sampler in SAMPLERS[:3]:
        law = bit_law(sampler, 2.0)
        for v in (-1.3, -0.4, 0.25):
            p = float(sampler.probability(v, 2))
            assert float(law.chance(np.array(v))) == pytest.approx(p, rel=1e-13)
            assert float(law.slope(np.array(v))) == pytest.approx(
                float(sampler.density(v, 2)), rel=1e-13
            )
            log = float(law.log_chance(np.array(v))) if p else -math.inf
            assert log == pytest.approx(math.log(p), rel=1e-12) if p else log == -math.inf
        # The median's density is the derivative of its distribution function.
        unit = 2.0 if isinstance(sampler, icl.Clip) else 0.4
        half, step = np.array(3.0), 1e-5
        from scipy.special import betainc

        up, down = (betainc(3, 3, law.chance(np.array(0.2 + s))) for s in (step, -step))
        density = np.exp(law.vote_log_density(np.array(0.2 / unit), half)) / unit
        assert float(density) == pytest.approx((up - down) / (2 * step), rel=1e-7)


def test_means_over_a_gaussian_state_with_a_kink():
    mean = gaussian_mean(np.abs, np.array([0.3]), np.array([0.5]), np.array([0.0]))[0]
    folded = 0.5 * math.sqrt(2 / math.pi) * math.exp(-0.18) + 0.3 * math.erf(0.6 / math.sqrt(2))
    assert mean == pytest.approx(folded, rel=1e-12)


# -- whole answers ------------------------------------------------------------------------------------


def plurality_by_enumeration(p, samples, answer):
    """Over all sequences of answers; ties share."""
    answers = list(itertools.product([False, True], repeat=len(p)))
    chance = [math.prod(x if b else 1 - x for b, x in zip(a, p, strict=True)) for a in answers]
    target, total = answers.index(tuple(answer)), 0.0
    for draws in itertools.product(range(len(answers)), repeat=samples):
        counts = np.bincount(draws, minlength=len(answers))
        if counts[target] == counts.max():
            weight = math.prod(chance[i] for i in draws)
            total += weight / np.count_nonzero(counts == counts.max())
    return total


@pytest.mark.parametrize("p", [[0.7], [0.8, 0.4], [0.5, 0.5]])
@pytest.mark.parametrize("samples", [1, 2, 5])
def test_plurality_against_enumeration(p, samples):
    mode = [x >= 0.5 for x in p]
    for answer in (mode, [not x for x in mode]):
        exact = plurality_by_enumeration(p, samples, answer)
        assert numeric.plurality_success(p, samples, answer) == pytest.approx(exact, abs=1e-13)


def test_plurality_refuses_what_takes_long():
    with pytest.raises(
        icl.OutOfDomain, match=r"12 bits and 256 samples .* numeric\.plurality_vote"
    ):
        numeric.plurality_success([0.9] * 12, 256)
    with pytest.raises(icl.OutOfDomain, match="257 is beyond 256; use numeric"):
        numeric.plurality_success([0.9], 257)


@pytest.mark.parametrize(
    ("steps", "exact", "limit", "found"), [(2, 0.21, 0.42, 0.39), (4, 0.02, 0.43, 0.50)]
)
@pytest.mark.filterwarnings("ignore::icltheory.errors.DivergingMoments")
def test_one_gaussian_for_all_prompts_errs_in_low_dimension(steps, exact, limit, found):
    """The numbers that `decoding_channel` states."""
    chain = icl.NoisyDecoding(0.6, 0, steps)
    for options, stated in (({}, exact), ({"limit": True}, limit)):
        seen = numeric.decoding_channel(chain, icl.Signs(), 8, 8, **options)
        assert abs(1 - numeric.greedy_errors(seen).vector - stated) < 0.006
    run = numeric.simulate_binary_decoding(chain, icl.Signs(), 8, 8, prompts=8000)
    right, error = 1 - run.greedy_vector.value, 5 * run.greedy_vector.standard_error
    assert abs(right - found) < 0.006 + error < abs(right - exact)


def test_plurality_against_draws_and_its_bounds():
    rng = np.random.default_rng(1)
    p = np.array([0.9, 0.8, 0.25, 0.85, 0.7])
    exact = numeric.plurality_success(p, 12)
    bits = numeric.sample_bits(np.broadcast_to(p, (20_000, 5)), 12, rng)
    right = np.all(numeric.plurality_vote(bits, rng) == (p > 0.5), axis=1)
    check(exact, numeric.PromptAverage(1.0 * right))
    for n in (50, 200):
        assert 1 - numeric.plurality_success(p, n) < numeric.plurality_bound(p, n)
    need = math.ceil(numeric.samples_for_plurality(p, 0.05))
    assert need < 200
    assert numeric.plurality_success(p, need) > 0.95
    # Exponential in d for whole answers, logarithmic for coordinates.
    whole = [numeric.samples_for_plurality([0.8] * d, 0.05) for d in (20, 40)]
    single = [numeric.samples_for_majority([0.8] * d, 0.05) for d in (20, 40)]
    assert whole[1] / whole[0] == pytest.approx(1.25**20)
    assert single[1] < 1.2 * single[0]
    assert numeric.samples_for_plurality([0.5, 0.9], 0.1) == math.inf
