"""Votes over sampled binary answers: Chen, Lu, Wu and Zou (arXiv 2508.07571).

Coordinate by coordinate, against rounding and averaging, and over whole answers (self-consistency).
Conventions and channel: `decoding_binary`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sympy as sp
from scipy import special

import icltheory as icl
from icltheory.symbols import delta, temperature
from numeric.binary_decoding import (
    DecodingChannel,
    averaged_errors,
    decoding_channel,
    greedy_errors,
    majority_errors,
)
from numeric.binary_plurality import (
    plurality_bound,
    plurality_success,
    samples_for_majority,
    samples_for_plurality,
)
from numeric.binary_samplers import bit_probability, majority_vote, plurality_vote, sample_bits
from numeric.binary_simulation import chain_states, simulate_binary_decoding
from numeric.chain_prompts import PromptAverage
from numeric.claims.base import Effort, Progress, Result, register
from numeric.claims.decoding import average_row, decoding_claim
from numeric.claims.decoding_binary import HALF, SIGNS, value
from numeric.claims.rows import curve, holds, limit_row, points, separate
from numeric.compare import Row
from numeric.plot import Figure

# -- votes -----------------------------------------------------------------------------------------

VOTED = icl.NoisyDecoding(HALF, sp.Rational(1, 10), 2)
CHANNEL = DecodingChannel(SIGNS, 10, np.array(0.6), np.array(0.4))
SAMPLERS = {"logit": icl.Logit(0.3), "probit": icl.Probit(0.3), "clip": icl.Clip()}


def vote_rows(effort: Effort) -> Iterator[tuple[Row, Row]]:
    """Votes and averages on prompts against quadrature; and voting against rounding, paired."""
    n, d, counts = 40, 50, [1, 8, 64]
    seen = decoding_channel(VOTED, SIGNS, n, d)
    for name, sampler in SAMPLERS.items():
        run = simulate_binary_decoding(
            VOTED,
            SIGNS,
            n,
            d,
            sampler=sampler,
            samples=counts,
            prompts=effort.prompts // 16,
            seed=4,
        )
        votes = majority_errors(seen, sampler, counts).mean
        for k, count in enumerate(counts):
            setting = {"sampler": name, "samples": count, "quantity": "error of the vote"}
            worse = run.vote_bit[k] - run.greedy_bit
            never = holds(
                {"sampler": name, "samples": count, "quantity": "not below rounding, on prompts"},
                value(worse) >= -5 * float(worse.standard_error),
            )
            yield (
                average_row(setting, votes[k], run.vote_bit[k], allowance=0.03, required=0.12),
                never,
            )


def law_rows() -> Iterator[Row]:
    """The 1/N law of the excess over rounding, and what averaging the noisy states costs."""
    gain, std = float(CHANNEL.gain), float(CHANNEL.noise_std)
    rounded = float(greedy_errors(CHANNEL).mean)
    density = icl.vote_excess(gain, std).evalf()
    for name, sampler in SAMPLERS.items():
        law = icl.vote_constant(sampler, 2).expr * density
        near, far = (
            count * (float(majority_errors(CHANNEL, sampler, count).mean) - rounded)
            for count in (2001, 20_001)
        )
        setting = {"sampler": name, "quantity": "N times the excess of votes over rounding"}
        yield limit_row(setting, float(law), near, far)
    law = icl.averaging_excess(temperature, 1).expr / icl.vote_excess().expr
    ratio = icl.vote_constant(icl.Probit(temperature)).expr / sp.cancel(law)
    near, far = (
        (float(majority_errors(CHANNEL, icl.Probit(0.5), count).mean) - rounded)
        / (float(averaged_errors(CHANNEL, 0.5, count).mean) - rounded)
        for count in (2001, 20_001)
    )
    setting = {"sampler": "probit", "quantity": "excess of votes over that of averages, pi/2"}
    yield limit_row(setting, float(ratio), near, far)


def never_rows() -> Iterator[Row]:
    """Voting is never below rounding of the same state: everywhere on a grid."""
    gains, stds = np.array([0.0, 0.1, 0.5, 1.0])[:, None], np.geomspace(0.05, 3, 9)
    gains, stds = np.broadcast_arrays(gains, stds)
    grid = DecodingChannel(SIGNS, 10, gains[..., None], stds[..., None])
    rounded = greedy_errors(grid).mean
    for name, sampler in {
        **SAMPLERS,
        "logit, hot": icl.Logit(5),
        "probit, cold": icl.Probit(0.01),
    }.items():
        excess = majority_errors(grid, sampler, [1, 2, 5, 20, 101]).mean - rounded
        setting = {"sampler": name, "quantity": "not below rounding at 180 settings"}
        yield holds(setting, bool(excess.min() >= -1e-12))


def voting(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on votes over coordinates."""
    progress("votes on prompts", 0.0)
    pairs = list(vote_rows(effort))
    progress("laws", 0.5)
    laws, never = list(law_rows()), [*never_rows(), *(row for _, row in pairs)]
    progress("figure", 0.7)
    n, d, counts = 40, 50, 2 ** np.arange(9)
    seen = decoding_channel(VOTED, SIGNS, n, d)
    run = simulate_binary_decoding(
        VOTED,
        SIGNS,
        n,
        d,
        sampler=SAMPLERS["probit"],
        samples=counts,
        prompts=effort.prompts // 40,
        seed=9,
    )
    probit, logit = SAMPLERS["probit"], SAMPLERS["logit"]
    lines = (
        curve("vote, logit", counts, majority_errors(seen, logit, counts).mean, (), 0),
        curve("vote, probit", counts, majority_errors(seen, probit, counts).mean, (), 1),
        curve("average before rounding", counts, averaged_errors(seen, 0.3, counts).mean, (), 2),
        curve("rounding", counts, np.full(9, float(greedy_errors(seen).mean)), (), 3),
    )
    marks = (
        points(
            "vote, logit, prompts",
            (r for r, _ in pairs if r.setting["sampler"] == "logit"),
            "samples",
            0,
        ),
        curve("vote, probit, prompts", counts, run.vote_bit.value, run.vote_bit.standard_error, 1),
        curve("average, prompts", counts, run.average_bit.value, run.average_bit.standard_error, 2),
    )
    figure = Figure(
        "Votes over sampled answers",
        "samples N",
        "share of wrong coordinates",
        f"Signs at n = {n}, d = {d} sampled from the state at temperature 0.3, from the channel (lines) "
        "and on prompts (points). Votes come down to rounding like 1/N and never below; averaging the "
        "noisy states before rounding needs pi/2 times fewer samples.",
        lines,
        marks,
    )
    return (
        *separate("votes on prompts", (row for row, _ in pairs), 1.1),
        *separate("the 1/N law", laws),
        *separate("voting never beats rounding", never),
    ), figure


# -- whole answers ---------------------------------------------------------------------------------

CERTAINTY = 0.8
PROBABILITIES = sp.symbols("p1 p2", positive=True)


def plurality_rows(effort: Effort) -> Iterator[Row]:
    """P(the most frequent answer is the likeliest one), exact against drawn answers."""
    rng = np.random.default_rng(2)
    for p, samples in (([0.8] * 4, 5), ([0.9, 0.7, 0.6], 20), ([0.75] * 6, 12), ([0.85] * 8, 10)):
        exact = plurality_success(p, samples)
        draws = effort.prompts // 4
        bits = sample_bits(np.broadcast_to(p, (draws, len(p))), samples, rng)
        hit = np.all(plurality_vote(bits, rng), axis=1)
        setting = {"d": len(p), "samples": samples, "chances": str(sorted(set(p)))}
        yield average_row(setting, exact, PromptAverage(1.0 * hit), required=0.06)


def bound_rows() -> Iterator[Row]:
    """The Chernoff bound: valid, and right in its exponent."""
    for p in ([0.8] * 4, [0.9, 0.8, 0.7], [0.9] * 8):
        counts = [8, 32, 128]
        failures = [1 - plurality_success(p, n) for n in counts]
        bounds = plurality_bound(p, counts)
        setting = {"d": len(p), "chances": str(sorted(set(p)))}
        valid = all(f <= b for f, b in zip(failures, bounds, strict=True))
        yield holds({**setting, "quantity": "failure below the bound"}, valid)
    p = [0.9, 0.8, 0.7]
    first = math.prod(p)
    law = icl.plurality_samples(first, first * 3 / 7, delta).expr / sp.log(1 / delta)
    # A tail e^{-gap N}/sqrt(N): the rate between two N has an excess of ln(2)/2 over their distance.
    rates = []
    for low in (32, 64, 128):
        few, many = (1 - plurality_success(p, n) for n in (low, 2 * low))
        rates.append((math.log(few / many) - math.log(2) / 2) / low)
    setting = {"d": 3, "chances": str(sorted(p)), "quantity": "exponent of the failure"}
    yield limit_row(setting, 1 / law, *rates[1:], required=0.3)


def needed(success: Callable[[int], float], failure: float = 0.05) -> int:
    """The least number of samples up to 128 with a success of 1 - failure, which grows with them."""
    low, high = 1, 128
    while low < high:
        middle = (low + high) // 2
        if success(middle) >= 1 - failure:
            high = middle
        else:
            low = middle + 1
    return low


def vote_success(d: int, samples: int, p: float = CERTAINTY) -> float:
    """P(a majority of samples, odd or with a coin, is right in all of d coordinates)."""
    half = math.ceil(samples / 2)
    return float((1 - special.betainc(half, half, 1 - p)) ** d)


def growth_rows(effort: Effort) -> Iterator[Row]:
    """Samples that both votes need as d grows, with every bit sampled right with probability 0.8."""
    dims = (2, 4, 8)
    whole, single = needs(dims)
    for d, a, b in zip(dims, whole, single, strict=True):
        setting = {"d": d, "quantity": f"coordinates need {b} samples, whole answers {a}"}
        enough = b <= samples_for_majority([CERTAINTY] * d, 0.05) + 1
        yield holds(setting, enough and a > b)
    # Four more coordinates: 0.8^-4 times the samples are as good.
    few, rng = math.ceil(whole[-1] * CERTAINTY**-4), np.random.default_rng(5)
    for samples, prediction in ((few, 0.95), (whole[-1], None)):
        chance = np.full((effort.prompts // 40, 12), CERTAINTY)
        hit = np.all(plurality_vote(sample_bits(chance, samples, rng), rng), axis=1)
        setting = {"d": 12, "samples": samples, "quantity": "success of whole answers"}
        average = PromptAverage(1.0 * hit)
        if prediction:
            yield average_row(setting, prediction, average, allowance=0.03, required=0.1)
        else:
            setting["quantity"] = f"success {value(average):.2f} with the samples of d = 8"
            yield holds(setting, value(average) < 0.8)


def needs(dims: Any) -> tuple[list[int], list[int]]:
    """Samples that a vote over whole answers and over coordinates needs in dimensions d, exactly."""
    whole = [needed(lambda n, d=d: plurality_success([CERTAINTY] * d, n)) for d in map(int, dims)]
    single = [needed(lambda n, d=d: vote_success(d, n)) for d in map(int, dims)]
    return whole, single


def both_rows(effort: Effort) -> Iterator[Row]:
    """Both votes on states of real chains: drawn, and whole answers exactly given the state."""
    d, sampler, votes = 6, icl.Logit(0.4), (4, 16)
    repeats = effort.prompts // 80
    ((_, w, _, u, rng),) = chain_states(icl.NoisyDecoding(HALF, 0, 2), SIGNS, 12, d, "zero", 40, 3)
    chance = bit_probability(sampler, u, SIGNS)
    for count in votes:
        bits = sample_bits(np.broadcast_to(chance, (repeats, *chance.shape)), count, rng)
        whole, single = (
            PromptAverage(np.all(vote(bits, rng) == (w > 0), axis=2).mean(axis=1))
            for vote in (plurality_vote, majority_vote)
        )
        exact = np.mean(
            [plurality_success(p, count, x > 0) for p, x in zip(chance, w, strict=True)]
        )
        setting = {"d": d, "samples": count}
        row = {**setting, "quantity": "success of whole answers"}
        yield average_row(row, exact, whole, required=0.1)
        better = single - whole
        words = f"coordinates succeed in {value(single):.3f}, whole answers in {value(whole):.3f}"
        setting = {"d": d, "samples": count, "quantity": words}
        yield holds(setting, value(better) > 5 * float(better.standard_error))


def self_consistency(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on votes over whole answers."""
    progress("enumeration", 0.0)
    exact, bounds = list(plurality_rows(effort)), list(bound_rows())
    progress("growth with d", 0.4)
    growth = list(growth_rows(effort))
    progress("states of chains", 0.7)
    both = list(both_rows(effort))
    dims, shown = np.arange(2, 13, 2), np.arange(2, 9, 2)
    whole, single = needs(shown)
    figure = Figure(
        "Self-consistency over whole answers and over coordinates",
        "dimension d",
        "samples N for 95 % success",
        "Samples that a vote needs to return the likeliest answer, every coordinate being sampled right "
        "with probability 0.8: exact (points), and what the bounds ask for (lines). Over whole answers "
        "the number grows exponentially in d, over coordinates like ln d.",
        (
            curve(
                "whole answers, Chernoff exponent",
                dims,
                [samples_for_plurality([CERTAINTY] * int(d), 0.05) for d in dims],
                (),
                0,
            ),
            curve(
                "coordinates, Hoeffding",
                dims,
                [samples_for_majority([CERTAINTY] * int(d), 0.05) for d in dims],
                (),
                1,
            ),
        ),
        (curve("whole answers", shown, whole, (), 0), curve("coordinates", shown, single, (), 1)),
        logx=False,
    )
    return (
        *separate("whole answers, exact against draws", exact, 1.06),
        *separate("the bound", bounds, 1.12),
        *separate("exponential against logarithmic", growth, 1.12),
        *separate("states of real chains", both, 1.06),
    ), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    decoding_claim(
        id="decoding-voting",
        title="Votes over sampled bits",
        statement="A majority of N answers sampled from one state has the error of rounding plus c/N, with c "
        "from the slope of the sampler, within 3 % on prompts at every N; it never beats rounding the same "
        "state. Averaging noisy states before rounding needs pi/2 times fewer samples than voting.",
        formulas=lambda: (
            icl.BinaryChannel().majority_law(icl.Logit(temperature)),
            icl.vote_constant(icl.Clip()),
        ),
        experiment=voting,
    )
)
register(
    decoding_claim(
        id="decoding-self-consistency",
        title="Self-consistency over whole answers",
        statement="The most frequent of N whole answers is the likeliest one with a failure that falls "
        "exponentially in N, at a rate that falls exponentially in d; a vote over coordinates reaches the "
        "same answer with a number of samples of order ln d, and is better on real chains as well.",
        formulas=lambda: (icl.plurality_samples(*PROBABILITIES),),
        experiment=self_consistency,
    )
)
