"""Claims on binary answers: they pass, and fail when what they rest on is changed."""

import json
from dataclasses import replace

import numpy as np
import pytest

import icltheory as icl
from numeric.binary_decoding import DecodingChannel
from numeric.claims import (
    decoding_binary,
    decoding_feedback,
    decoding_verified,
    decoding_verifiers,
    decoding_votes,
)
from numeric.claims.base import CLAIMS, EFFORTS, ClaimResult
from numeric.compare import DEVIATES

QUICK = EFFORTS["quick"]
TINY = replace(QUICK, prompts=10_000)
NAMES = (
    "channel greedy voting self-consistency verified-sampling label-noise-verifier noisy-verifier "
    "fed-back-bits corrected-feedback"
)
IDS = [f"decoding-{name}" for name in NAMES.split()]


def wrong(rows):
    return [row for row in rows if row.verdict == DEVIATES]


def run(claim):
    parts, figure = CLAIMS[claim].experiment(QUICK, lambda what, fraction: None)
    return ClaimResult(claim, "quick", parts, figure, 0.0)


@pytest.mark.parametrize("claim", IDS)
def test_claims_pass_and_survive_json(claim):
    result = run(claim)
    for part in result.parts:
        assert part.passed, f"{part.title}\n{part.comparison}"
    assert ClaimResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert result.figure.points
    assert result.figure.lines


@pytest.mark.parametrize("claim", IDS)
def test_claims_have_derivations_and_a_source(claim):
    formulas = CLAIMS[claim].formulas()
    assert formulas
    assert all(formula.references for formula in formulas)
    assert CLAIMS[claim].source.arxiv == "2508.07571"


def louder(original):
    """The channel with 15 % more noise."""

    def changed(*arguments, **options):
        seen = original(*arguments, **options)
        return DecodingChannel(seen.prior, seen.d, seen.gain, 1.15 * seen.noise_std, seen.origin)

    return changed


def test_errors_rest_on_the_channel(monkeypatch):
    for module in (decoding_binary, decoding_votes, decoding_verified, decoding_verifiers):
        monkeypatch.setattr(module, "decoding_channel", louder(module.decoding_channel))
    assert len(wrong(decoding_binary.greedy_rows(TINY))) >= 4
    assert wrong(row for row, _ in decoding_votes.vote_rows(TINY))
    assert wrong(decoding_binary.signal_rows(TINY))
    assert len(wrong(decoding_verified.pass_rows(TINY))) >= 2
    assert wrong(row for _, row in decoding_verifiers.state_rows(TINY))


def test_moments_rest_on_the_class_of_a_coordinate(monkeypatch):
    original = decoding_binary.exact_state_moments

    def swapped(*arguments, **options):
        moments = original(*arguments, **options)
        return replace(moments, low_var=moments.high_var, high_var=moments.low_var)

    monkeypatch.setattr(decoding_binary, "exact_state_moments", swapped)
    rows = wrong(decoding_binary.moment_rows(QUICK))
    assert {row.setting["prior"] for row in rows} >= {"bits"}


def test_the_law_of_votes_rests_on_the_slope(monkeypatch):
    original = icl.vote_constant

    def other(sampler, gap=1):
        law = original(sampler, gap)
        return replace(law, expr=law.expr * 1.01)

    monkeypatch.setattr(icl, "vote_constant", other)
    assert len(wrong(decoding_votes.law_rows())) == 4


def test_voting_below_rounding_would_be_seen(monkeypatch):
    original = decoding_votes.majority_errors

    def better(channel, sampler, samples):
        return original(channel, sampler, np.asarray(samples) * 0 + 1_000_001)

    monkeypatch.setattr(
        decoding_votes, "greedy_errors", lambda seen: original(seen, icl.Logit(1), 1)
    )
    monkeypatch.setattr(decoding_votes, "majority_errors", better)
    assert wrong(decoding_votes.never_rows())


def test_whole_answers_rest_on_their_enumeration(monkeypatch):
    original = decoding_votes.plurality_success

    def more(probability, samples, *answer):
        return original(probability, samples + 2, *answer)

    monkeypatch.setattr(decoding_votes, "plurality_success", more)
    assert len(wrong(decoding_votes.plurality_rows(QUICK))) >= 3
    monkeypatch.setattr(decoding_votes, "plurality_bound", lambda p, n: [0.5, 0.4, 0.3])
    monkeypatch.setattr(decoding_votes, "plurality_success", lambda *a: 0.3)
    assert wrong(list(decoding_votes.bound_rows())[:1])


def test_the_exponent_rests_on_the_equivocation(monkeypatch):
    original = decoding_verified.equivocation
    monkeypatch.setattr(decoding_verified, "equivocation", lambda x: 1.001 * original(x))
    assert len(wrong(decoding_verified.exponent_rows())) == 4


def test_temperatures_rest_on_the_calibrated_one(monkeypatch):
    original = DecodingChannel.calibrated_temperature.fget
    monkeypatch.setattr(
        DecodingChannel, "calibrated_temperature", property(lambda seen: 3 * original(seen))
    )
    assert len(wrong(decoding_verified.temperature_rows(TINY))) >= 2


def test_label_noise_rests_on_its_competitors(monkeypatch):
    original = icl.competitor_error
    monkeypatch.setattr(icl, "competitor_error", lambda h, *a, **o: original(h + 1, *a, **o))
    assert len(wrong(decoding_verifiers.pair_rows(QUICK))) == 6
    monkeypatch.setattr(decoding_verifiers, "sufficient_examples", lambda *a: 4)
    assert len(wrong(decoding_verifiers.union_rows(TINY))) >= 2


def test_a_verifier_rests_on_its_rates(monkeypatch):
    original = decoding_verifiers.accept_reject
    monkeypatch.setattr(
        decoding_verifiers, "accept_reject", lambda r, m, w, rng: original(r, w, m, rng)
    )
    assert len(wrong(decoding_verifiers.drawn_rows(QUICK))) >= 4


def test_feedback_rests_on_state_evolution(monkeypatch):
    original = decoding_feedback.state_evolution

    def shifted(prior, sampler, ratio, *arguments, **options):
        return original(prior, sampler, 1.25 * ratio, *arguments, **options)

    monkeypatch.setattr(decoding_feedback, "state_evolution", shifted)
    assert len(wrong(decoding_feedback.map_rows())) == 8
    assert len(wrong(decoding_feedback.fresh_rows(QUICK))) >= 4


def test_the_correction_is_needed(monkeypatch):
    original = decoding_feedback.simulate_feedback

    def plain(*arguments, mode, **options):
        return original(*arguments, mode="same", **options)

    monkeypatch.setattr(decoding_feedback, "simulate_feedback", plain)
    shares, differences = zip(*decoding_feedback.corrected_rows(TINY), strict=True)
    assert len(wrong(shares)) >= 8
    assert len(wrong(row for row in differences if row)) == 7
