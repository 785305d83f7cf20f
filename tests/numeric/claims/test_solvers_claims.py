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
from numeric.solver_filters import solver_residuals

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


def test_the_claims_of_the_paper():
    names = (
        "rates audit equivalences conditioning construction identification layers noise contrasts"
    )
    assert set(IDS) == {f"solvers-{name}" for name in names.split()}
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
    risks = solvers_contrasts.trained_models(TINY, None)
    verdicts = [row.verdict for row in solvers_contrasts.size_rows(risks)]
    assert verdicts.count(NOT_TESTABLE) == 6
    assert verdicts.count(AGREES) == 4


# -- each rests on what it says ------------------------------------------------------------------------


def wrong(rows):
    return [row for row in rows if row.verdict == DEVIATES]


def test_rates_rest_on_their_derivations(monkeypatch):
    original = solvers.solver_risk

    def changed(*arguments, **options):
        risk = original(*arguments, **options)
        return type(risk)(1.05 * risk.value, risk.error, risk.sampled, risk.unstable, risk.kind)

    monkeypatch.setattr(solvers, "solver_risk", changed)
    assert wrong(solvers.risk_rows(TINY))
    monkeypatch.setattr(solvers, "solver_risk", original)
    law = icl.late_decay
    monkeypatch.setattr(icl, "late_decay", lambda solver, nu: law(solver, nu + 1))
    assert len(wrong(solvers.late_rows())) == 4
    monkeypatch.setattr(solvers, "WORST", ((10, 1e-6),))
    monkeypatch.setattr(solvers, "solver_residuals", lambda *a: 0.9 * solver_residuals(*a))
    assert wrong(solvers.worst_case_rows())


def test_the_audit_rests_on_the_printed_numbers():
    for name, audit in solvers.AUDITS.items():
        if name in ("newton-neighbours", "newton-first-layer"):
            assert not wrong(audit.reproduced(320))
            assert wrong(audit.reproduced(320).scaled(1.02))


def test_equivalences_rest_on_the_solvers(monkeypatch):
    original = solvers_equivalences.expected_similarity_of_errors

    def shifted(first, steps, *arguments, **options):
        return original(first, steps + 2, *arguments, **options)

    monkeypatch.setattr(solvers_equivalences, "expected_similarity_of_errors", shifted)
    rows, *_ = solvers_equivalences.matched_rows(TINY)
    assert wrong(rows)


def test_conditioning_rests_on_the_covariance(monkeypatch):
    original = solvers_equivalences.covariance
    monkeypatch.setattr(solvers_equivalences, "covariance", lambda kappa: original(2 * kappa))
    assert wrong(solvers_equivalences.exact_conditioning_rows(TINY))


def test_the_construction_rests_on_its_signs(monkeypatch):
    original = solvers_construction.network

    def printed(n, d, steps, start, **options):
        return original(n, d, steps, start, **{"signs": "printed", **options})

    monkeypatch.setattr(solvers_construction, "network", printed)
    outputs, layers = solvers_construction.iterate_rows()
    assert wrong(outputs)
    assert not wrong(layers)


def test_identification_rests_on_the_model(monkeypatch):
    """The negative control of the whole: a model that runs something else is not named so."""
    false = {"gradient descent": (icl.ConjugateGradient(), "gradient descent")}
    monkeypatch.setattr(solvers_construction, "KNOWN", false)
    names, steps, _ = solvers_construction.known_rows(TINY)
    assert [row.setting["model"] for row in wrong(names)] == ["gradient descent"]
    assert wrong(steps)


def test_layers_rest_on_the_shipped_model():
    model = finite.SolverModel(icl.IterativeNewton(1e-4), 5, 3)
    assert len(wrong(solvers_models.quality_rows(model, TINY))) == 2
    found = finite.identify(model, icl.LinearRegression(dim=5), 15, prompts=40, bootstrap=100)
    assert found.solver == "Newton from S"
    assert len(wrong(solvers_models.undecided_rows(found))) == 3


def test_noise_rests_on_the_shipped_model_and_the_penalty(monkeypatch):
    noisy, clean = finite.shipped("noisy"), finite.shipped("clean")
    rows, _ = solvers_models.bayes_rows(clean, noisy, TINY)
    assert wrong(rows[:-1])
    assert wrong(rows[-1:])  # the control is not worse
    monkeypatch.setattr(solvers_models, "PENALTY", 1.3 * solvers_models.PENALTY)
    assert len(wrong(solvers_models.ridge_rows())) >= 3


def test_contrasts_rest_on_the_risks():
    squares = np.random.default_rng(0).chisquare(1, (1600, 9))
    names = ("width 32", "width 8", "width 4", "LSTM of width 32", "zero")
    rows = list(solvers_contrasts.size_rows({name: 0.1 * squares for name in names}))
    assert len(wrong(rows)) == 2


def test_small_models_are_trained(monkeypatch):
    """The real training, for a moment."""
    monkeypatch.setattr(solvers_contrasts, "SMALL_STEPS", {"tiny": 3})
    risks = CONTRASTS(TINY, lambda what, fraction: None)
    assert list(risks) == [*solvers_contrasts.SIZES, "LSTM of width 32", "zero"]
    assert all(np.isfinite(r).all() and r.shape == (1600, 9) for r in risks.values())


CONTRASTS = solvers_contrasts.trained_models
