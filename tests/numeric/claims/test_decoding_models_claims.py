"""Claims on layers that decode: they pass with short trainings, and fail when what they rest on is changed."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from numeric import finite, planner_trials
from numeric.claims import decoding_models, decoding_outcome, decoding_techniques
from numeric.claims.base import CLAIMS, EFFORTS, ClaimResult
from numeric.claims.decoder_experiments import training_steps
from numeric.compare import DEVIATES

SHORT = replace(EFFORTS["quick"], prompts=20_000, training_steps=1_000)
IDS = [
    f"decoding-{name}"
    for name in ["constructed-model", "trained-model", "outcome-model", "techniques-on-the-model"]
]


def wrong(rows):
    return [row for row in rows if row.verdict == DEVIATES]


@pytest.mark.parametrize("claim", IDS)
def test_claims_pass_and_survive_json(claim):
    parts, figure = CLAIMS[claim].experiment(SHORT, lambda what, fraction: None)
    for part in parts:
        assert part.passed, f"{part.title}\n{part.comparison}"
    result = ClaimResult(claim, "short", parts, figure, 0.0)
    assert ClaimResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert figure.points
    assert figure.lines


@pytest.mark.parametrize("claim", [*IDS, "decoding-planner"])
def test_claims_have_formulas_and_a_source(claim):
    formulas = CLAIMS[claim].formulas()
    assert formulas
    assert all(formula.steps for formula in formulas)
    assert CLAIMS[claim].source.arxiv == "2508.07571"


def test_the_construction_rests_on_its_recursion(monkeypatch):
    original = decoding_models.descent

    def other(X, y, M, noise):
        return original(X, y, 1.001 * M, noise)

    monkeypatch.setattr(decoding_models, "descent", other)
    rows = [row for rows in decoding_models.constructed_rows() for row in rows]
    assert len(wrong(rows)) == 18  # all but the division by the columns


def test_weights_rest_on_the_optimum():
    learned = np.diag([0.5, 0.5]) + 0.001
    for optimum, deviating in ((0.5, 0), (0.53, 2), (0.4, 2)):
        rows = decoding_models.weight_rows({}, "P rho", learned, optimum)
        assert len(wrong(rows)) == deviating


def untrained(model, task, n, effort, **options):
    """Layers that stay what they were, at another step than any optimum."""
    steps = training_steps(effort)
    if model.form == "scalar" or options["loss"] == "outcome":
        model.set_blocks(-0.5, 1, -1)
    return SimpleNamespace(loss=1 + 1e-3 * np.arange(steps))


def test_outcomes_rest_on_training(monkeypatch):
    monkeypatch.setattr(decoding_outcome, "trained", untrained)
    risks, weights = zip(*decoding_outcome.scalar_rows(SHORT), strict=True)
    assert all(wrong(rows) for rows in risks)
    assert all(wrong(rows) for rows in weights)
    free = [row for *_, rows in decoding_outcome.free_rows(SHORT) for row in rows]
    assert len(wrong(free)) >= 3


def test_techniques_rest_on_the_model():
    """A layer with another step of 0.4 in place of 0.5 is seen in every part."""
    model = finite.LinearSelfAttention.gradient_descent(decoding_techniques.DIM, 0.4)
    assert wrong(decoding_techniques.sample_rows(model, SHORT))
    assert wrong(decoding_techniques.long_rows(model, SHORT))
    assert wrong(decoding_techniques.vote_rows(model, SHORT))
    assert wrong(decoding_techniques.fed_back_rows(model, SHORT))
    rows = decoding_techniques.pass_rows(
        finite.LinearSelfAttention.gradient_descent(decoding_techniques.DIM, 0.25), SHORT
    )
    assert wrong(rows)


def test_the_planner_is_held_against_simulation(monkeypatch):
    original = planner_trials.confirm_random_plans
    few = original(2, seed=3, prompts=100)
    monkeypatch.setattr(decoding_techniques, "SETTINGS", 2)
    monkeypatch.setattr(planner_trials, "confirm_random_plans", lambda count, prompts: few)
    rows = [row for some in decoding_techniques.planner_rows(SHORT) for row in some]
    assert not wrong(rows)
    assert len(rows) >= 4
    # Plans whose winner is the last technique are refused.
    bad = []
    for plan, held in few:
        last = held.rows[-1].choice.technique
        bad.append((plan, plan.confirm(100, winner=last)))
    monkeypatch.setattr(planner_trials, "confirm_random_plans", lambda count, prompts: bad)
    rows = [row for some in decoding_techniques.planner_rows(SHORT) for row in some]
    assert len(wrong(rows)) >= 2
