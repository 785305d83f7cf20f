"""The claims on decoding with continuous answers: they pass, and fail when what they rest on changes."""

import json
from dataclasses import replace

import numpy as np
import pytest

import icltheory as icl
from numeric.claims import (
    decoding,
    decoding_covariance,
    decoding_lengths,
    decoding_selection,
    decoding_soft,
    decoding_temperature,
)
from numeric.claims.base import CLAIMS, EFFORTS, ClaimResult, Effort
from numeric.compare import DEVIATES

TINY = Effort("tiny", 12_000, 1, (20,), (40,))
MODULES = (
    decoding,
    decoding_covariance,
    decoding_lengths,
    decoding_selection,
    decoding_soft,
    decoding_temperature,
)
NAMES = (
    "thoughts noisy-chains overthinking budget covariance selection oracle-temperature "
    "soft-selection stepwise"
)
IDS = [f"decoding-{name}" for name in NAMES.split()]


def no_progress(what, fraction):
    assert 0 <= fraction < 1


def wrong(rows):
    return [row for row in rows if row.verdict == DEVIATES]


def test_the_claims_of_the_paper():
    own = [c for c in CLAIMS.values() if c.experiment.__module__ in {m.__name__ for m in MODULES}]
    assert {claim.id for claim in own} == set(IDS)
    for claim in own:
        assert claim.paper == "decoding"
        assert claim.source.arxiv == "2508.07571"
        assert all(isinstance(formula, icl.Formula) for formula in claim.formulas())


@pytest.mark.parametrize("claim", IDS)
def test_nothing_deviates_with_few_prompts(claim):
    """The resolution needs the prompts of `quick`; controls are rejected with fewer already."""
    parts, figure = CLAIMS[claim].experiment(TINY, no_progress)
    for part in parts:
        assert not wrong(part.comparison), f"{part.title}\n{part.comparison}"
        assert part.control_rejected, f"{part.title}\n{part.comparison}"
    result = ClaimResult(claim, "tiny", parts, figure, 0.0)
    assert ClaimResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert figure.points
    assert figure.lines


def test_a_claim_passes_at_quick_effort():
    parts, _ = CLAIMS["decoding-soft-selection"].experiment(EFFORTS["quick"], no_progress)
    for part in parts:
        assert part.passed, f"{part.title}\n{part.comparison}"


# -- each rests on what it says --------------------------------------------------------------------


def test_thoughts_rest_on_the_moments(monkeypatch):
    exact = icl.contraction_moment
    monkeypatch.setattr(icl, "contraction_moment", lambda j, n, d, step: exact(j, n + 1, d, step))
    assert len(wrong(decoding.thought_rows(TINY))) >= 3
    monkeypatch.undo()
    late = decoding.excess
    monkeypatch.setattr(decoding, "excess", lambda gamma, steps: 1.02 * late(gamma, steps) + 1e-6)
    assert len(wrong(decoding.phase_rows())) >= 2
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "STATED", ((20, 10, 1, 0.05),))
    assert len(wrong(decoding.limit_rows())) == 1


def test_noise_rests_on_where_it_enters(monkeypatch):
    every = decoding.OPTIONS["every step"]
    monkeypatch.setattr(decoding, "OPTIONS", {"every step": every})
    assert not wrong(row for row, _ in decoding.noise_rows(TINY))
    simulate = decoding.simulate_chains

    def moved(spec, *arguments, **options):
        return simulate(replace(spec, noise_where="output"), *arguments, **options)

    monkeypatch.setattr(decoding, "simulate_chains", moved)
    assert len(wrong(row for row, _ in decoding.noise_rows(TINY))) >= 3


def test_overthinking_rests_on_the_threshold_and_the_best_length(monkeypatch):
    threshold = icl.overthinking_threshold

    class Shifted:
        def __init__(self, *arguments):
            self.value = float(threshold(*arguments))

        def __float__(self):
            return 1.15 * self.value

    monkeypatch.setattr(icl, "overthinking_threshold", Shifted)
    assert len(wrong(decoding_lengths.length_rows())) >= 3
    monkeypatch.undo()
    best = decoding_lengths.optimal_length

    def short(*arguments, **options):
        found = best(*arguments, **options)
        return replace(found, steps=max(found.steps - 2, 0))

    monkeypatch.setattr(decoding_lengths, "optimal_length", short)
    trials = [row for rows in decoding_lengths.overthinking_rows(TINY) for row in rows]
    assert len(wrong(trials)) >= 3


def test_budgets_rest_on_the_split(monkeypatch):
    split = icl.split_risk
    monkeypatch.setattr(icl, "split_risk", lambda t, g, c, s: split(t, g, 2 * c, s))
    assert len(wrong(decoding_lengths.split_rows())) >= 4
    monkeypatch.undo()
    law = icl.split_law
    monkeypatch.setattr(icl, "split_law", lambda g, c, s: law(g, 2 * c, s))
    assert len(wrong(decoding_lengths.law_rows())) >= 3


def test_covariances_rest_on_the_preconditioner(monkeypatch):
    trained = decoding_covariance.trained_preconditioner
    monkeypatch.setattr(
        decoding_covariance, "preconditioned_risks", lambda *a, **k: 1.2 * RISKS(*a, **k)
    )
    assert wrong(decoding_covariance.trained_rows(TINY))
    monkeypatch.undo()
    monkeypatch.setattr(
        decoding_covariance, "trained_preconditioner", lambda v, n: trained(v, 2 * n)
    )
    # The model trained at another length is not the one that the endless prompt is predicted for.
    assert wrong(decoding_covariance.endless_rows(TINY))


RISKS = decoding_covariance.preconditioned_risks


def test_selection_rests_on_the_verifier(monkeypatch):
    monkeypatch.setattr(
        decoding_selection, "SETTINGS", {"d = 10": decoding_selection.SETTINGS["d = 10"]}
    )
    tried = decoding_selection.trials(TINY)
    assert not wrong(decoding_selection.saddlepoint_rows(tried))
    original = decoding_selection.selection_risk

    def exchanged(*arguments, rule="prompt_loss", **options):
        other = {"prompt_loss": "oracle", "oracle": "prompt_loss"}[rule]
        return original(*arguments, rule=other, **options)

    monkeypatch.setattr(decoding_selection, "selection_risk", exchanged)
    assert len(wrong(decoding_selection.saddlepoint_rows(tried))) >= 6


def test_the_least_of_chi_squares_is_that_of_samples():
    rng = np.random.default_rng(0)
    draws = np.square(1 + 0.5 * rng.standard_normal((20_000, 8, 5))).sum(axis=-1).min(axis=1)
    exact = decoding_selection.least_of(5, 1.0, 0.25, 8)
    assert abs(draws.mean() - exact) < 5 * draws.std() / len(draws) ** 0.5


def test_the_oracle_rests_on_its_exponent(monkeypatch):
    law = icl.oracle_selection_risk
    monkeypatch.setattr(icl, "oracle_selection_risk", lambda many, d, b: law(many, 2 * d, b))
    assert len(wrong(decoding_temperature.exponent_rows())) >= 4


def test_soft_and_stepwise_selection_rest_on_their_formulas(monkeypatch):
    step = decoding_soft.selected_step
    monkeypatch.setattr(decoding_soft, "selected_step", lambda g, v, s, m: step(g, v, s, m + 2))
    assert len(wrong(decoding_soft.move_rows(TINY))) >= 3
    monkeypatch.undo()
    risk = decoding_soft.stepwise_risk
    monkeypatch.setattr(
        decoding_soft, "stepwise_risk", lambda p, c, m, at: risk(p, c, max(m // 4, 1), at=at)
    )
    rows, *_ = decoding_soft.along_rows(TINY)
    assert len(wrong(rows)) >= 3
    error = decoding_soft.softmax_mean_error
    monkeypatch.setattr(
        decoding_soft, "softmax_mean_error", lambda law, n, theta: error(law, n, 1.5 * theta)
    )
    parts, _ = decoding_soft.soft_selection(TINY, no_progress)
    assert wrong(parts[0].comparison)
