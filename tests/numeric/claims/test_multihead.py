"""The multi-head claims: their exact parts pass, and fail when a constant is 3 % off.

Training is replaced by its predicted outcome here; real training is tested in `finite`, and the
whole of it by `icltheory reproduce --quick`.
"""

import json

import pytest

from numeric.claims import head_experiments as study
from numeric.claims import multihead
from numeric.claims.base import CLAIMS, ClaimResult, Effort
from numeric.montecarlo import Estimate
from numeric.risk import optimal_risk

TINY = Effort(
    "tiny", prompts=2_000, training_steps=1, prompt_lengths=(20, 40), compared_lengths=(40,)
)
IDS = [name for name, claim in CLAIMS.items() if claim.experiment.__module__ == multihead.__name__]
EXACT = 0


@pytest.fixture(autouse=True)
def predicted_training(monkeypatch):
    def trained(task, heads, n, effort, start="opposite"):
        attention = study.ONE if heads == 1 or start == "same" else study.TWO
        risk = float(optimal_risk(task, attention, n).risk)
        return Estimate(1.01 * risk, 0.002 * risk, 1000), {"learned k": "0", "learned v": "0"}

    monkeypatch.setattr(study, "trained", trained)


def run(claim):
    parts, figure = CLAIMS[claim].experiment(TINY, lambda what, fraction: None)
    return ClaimResult(claim, "tiny", parts, figure, 0.0)


def test_five_claims_of_the_paper():
    assert len(IDS) == 5
    for claim in IDS:
        assert CLAIMS[claim].paper == "multihead"
        assert all(formula.steps for formula in CLAIMS[claim].formulas())


@pytest.mark.parametrize("claim", IDS)
def test_exact_parts_pass_and_results_survive_json(claim):
    result = run(claim)
    exact = result.parts[EXACT]
    assert exact.passed, str(exact.comparison)
    # Trained models carry an allowance of 5 %: a change of 20 % must be seen.
    assert result.parts[2].passed, str(result.parts[2].comparison)
    assert ClaimResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert result.figure.lines
    assert result.figure.points


RESTS_ON = [
    *(
        (claim, constant)
        for claim in IDS
        if claim != "multihead-advantage"
        for constant in ("loss_constant", "optimal_constant")
    ),
    ("multihead-advantage", "gain"),
]


@pytest.mark.parametrize(("claim", "constant"), RESTS_ON)
def test_a_constant_three_percent_off_fails_its_claim(claim, constant, monkeypatch):
    original = getattr(study, constant)

    def changed(*arguments):
        value = original(*arguments)
        return (1.03 * value[0], value[1]) if isinstance(value, tuple) else 1.03 * value

    monkeypatch.setattr(study, constant, changed)
    result = run(claim)
    assert "deviates" in {row.verdict for row in result.parts[EXACT].comparison}
    assert not result.passed
