"""The claims on solvers: they pass, and fail when what they rest on is changed.

Training is replaced by its predicted outcome here; the whole runs in `icltheory reproduce --quick`.
"""

import json

import numpy as np
import pytest

import icltheory as icl
from numeric import finite
from numeric.claims import (
    solvers,
    solvers_construction,
    solvers_contrasts,
    solvers_equivalences,
    solvers_models,
)
from numeric.claims.base import CLAIMS, ClaimResult, Effort
from numeric.compare import AGREES, DEVIATES, NOT_TESTABLE

TINY = Effort("tiny", 16_000, 1, (20, 40), (40,))
IDS = [name for name, claim in CLAIMS.items() if claim.paper == "solvers"]


@pytest.fixture(autouse=True)
def predicted_training(monkeypatch):
    """Small models: risks of least squares and of zero with the scatter of prompts."""

    def trained(effort, progress):
        rng = np.random.default_rng(0)
        squares = rng.chisquare(1, (effort.prompts // 10, 9))
        return {
            "width 32": 0.06 * squares,
            "width 8": 0.4 * squares,
            "width 4": 0.9 * squares,
            "LSTM of width 32": 0.98 * squares,
            "zero": squares,
        }

    monkeypatch.setattr(solvers_contrasts, "trained_models", trained)


def run(claim):
    parts, figure = CLAIMS[claim].experiment(TINY, lambda what, fraction: None)
    return ClaimResult(claim, "tiny", parts, figure, 0.0)


def deviating(result):
    return [
        part.title for part in result.parts for row in part.comparison if row.verdict == DEVIATES
    ]


def test_the_claims_of_the_paper():
    assert IDS == [
        *("solvers-rates", "solvers-audit"),
        *("solvers-equivalences", "solvers-conditioning"),
        *("solvers-construction", "solvers-identification"),
        *("solvers-layers", "solvers-noise", "solvers-contrasts"),
    ]
    for claim in IDS:
        assert all(formula.steps for formula in CLAIMS[claim].formulas())
        assert CLAIMS[claim].source.arxiv == "2310.17086"


@pytest.mark.parametrize("claim", IDS)
def test_claims_pass_and_survive_json(claim):
    result = run(claim)
    for part in result.parts:
        assert part.passed, f"{part.title}\n{part.comparison}"
    assert ClaimResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert result.figure.points


def test_what_needs_the_size_of_the_paper_is_not_passed():
    rows = run("solvers-contrasts").parts[0].comparison
    verdicts = [row.verdict for row in rows]
    assert verdicts.count(NOT_TESTABLE) == 6
    assert verdicts.count(AGREES) == 4


# -- each rests on what it says ------------------------------------------------------------------------


def test_rates_rest_on_their_derivations(monkeypatch):
    original = solvers.solver_risk

    def changed(*arguments, **options):
        risk = original(*arguments, **options)
        return type(risk)(1.05 * risk.value, risk.error, risk.sampled, risk.unstable, risk.kind)

    monkeypatch.setattr(solvers, "solver_risk", changed)
    assert "expected risk against sampled prompts" in deviating(run("solvers-rates"))
    monkeypatch.setattr(solvers, "solver_risk", original)
    monkeypatch.setattr(
        icl,
        "late_decay",
        lambda solver, nu: icl.equivalences.late_decay(solver, nu + 1),
        raising=False,
    )
    assert "decay of averaged risks" in deviating(run("solvers-rates"))


def test_the_audit_rests_on_the_printed_numbers(monkeypatch):
    name = "newton-neighbours"
    audit = solvers.AUDITS[name]
    changed = lambda prompts: audit.reproduced(prompts).scaled(1.02)  # noqa: E731
    monkeypatch.setattr(solvers, "AUDITS", {name: _Changed(audit, changed)})
    monkeypatch.setitem(solvers.AUDITS, "newton-first-layer", audit)
    assert deviating(run("solvers-audit"))


class _Changed:
    """An audit with other rows."""

    def __init__(self, audit, reproduced):
        self.table, self.title, self.other = audit.table, audit.title, audit.other
        self.rejected, self.reproduced = audit.rejected, reproduced


def test_equivalences_rest_on_the_solvers(monkeypatch):
    monkeypatch.setattr(solvers_equivalences, "DESCENT", icl.GradientDescent(0.01))
    original = solvers_equivalences.expected_similarity_of_errors

    def shifted(first, steps, *arguments, **options):
        return original(first, steps + 2, *arguments, **options)

    monkeypatch.setattr(solvers_equivalences, "expected_similarity_of_errors", shifted)
    assert "matched steps, theory against prompts" in deviating(run("solvers-equivalences"))


def test_conditioning_rests_on_the_covariance(monkeypatch):
    original = solvers_equivalences.covariance
    monkeypatch.setattr(solvers_equivalences, "covariance", lambda kappa: original(2 * kappa))
    titles = deviating(run("solvers-conditioning"))
    assert "risk of the first steps, exact" in titles


def test_the_construction_rests_on_its_signs(monkeypatch):
    original = solvers_construction.network
    monkeypatch.setattr(
        solvers_construction,
        "network",
        lambda n, d, steps, start, **options: original(
            n, d, steps, start, **{"signs": "printed", **options}
        ),
    )
    assert "the network's output is the iterate, to 1e-12" in deviating(run("solvers-construction"))


def test_identification_rests_on_the_model(monkeypatch):
    """The negative control of the whole: a model that runs something else is not named so."""
    wrong = {"gradient descent": (icl.ConjugateGradient(), "gradient descent")}
    monkeypatch.setattr(solvers_construction, "KNOWN", wrong)
    titles = deviating(run("solvers-identification"))
    assert "the family that is named" in titles


def test_layers_rest_on_the_shipped_model(monkeypatch):
    monkeypatch.setattr(
        finite, "shipped", lambda name: finite.SolverModel(icl.IterativeNewton(1e-4), 5, 3)
    )
    titles = deviating(run("solvers-layers"))
    assert {"risk of the model", "what the match cannot decide"} <= set(titles)


def test_noise_rests_on_the_shipped_model_and_the_penalty(monkeypatch):
    original = finite.shipped
    swapped = {"clean": "noisy", "noisy": "clean"}
    monkeypatch.setattr(finite, "shipped", lambda name: original(swapped[name]))
    titles = deviating(run("solvers-noise"))
    assert "the model at every prompt length" in titles
    monkeypatch.setattr(finite, "shipped", original)
    monkeypatch.setattr(solvers_models, "PENALTY", 1.3 * solvers_models.PENALTY)
    assert "ridge is the best filter, exact" in deviating(run("solvers-noise"))


def test_contrasts_rest_on_the_risks(monkeypatch):
    def trained(effort, progress):
        squares = np.random.default_rng(0).chisquare(1, (effort.prompts // 10, 9))
        names = ("width 32", "width 8", "width 4", "LSTM of width 32", "zero")
        return {name: 0.1 * squares for name in names}

    monkeypatch.setattr(solvers_contrasts, "trained_models", trained)
    assert "models trained alike" in deviating(run("solvers-contrasts"))


def test_small_models_are_trained():
    """The real training, for a moment."""
    risks = CONTRASTS(TINY, lambda what, fraction: None)
    assert list(risks) == [*solvers_contrasts.SIZES, "LSTM of width 32", "zero"]
    assert all(np.isfinite(r).all() and r.shape == (1600, 9) for r in risks.values())


CONTRASTS = solvers_contrasts.trained_models
