"""The large-prompt claims: exact parts pass, changed predictions fail, trained parts see a change.

Training is replaced by gradient descent on the exact risk with 0.2 % of noise; real training
is tested in `finite`, and the whole of it by `icltheory reproduce --quick`.
"""

import json

import numpy as np
import pytest

import icltheory as icl
from numeric.claims import descent as descents
from numeric.claims import largeprompt, largeprompt_gradients, runner
from numeric.claims import largeprompt_optima as optima
from numeric.claims import largeprompt_training as training
from numeric.claims.base import CLAIMS, ClaimResult, Effort
from numeric.compare import DEVIATES, Comparison, compare
from numeric.montecarlo import Estimate

TINY = Effort("tiny", prompts=400, training_steps=1, prompt_lengths=(20,), compared_lengths=(20,))
IDS = [name for name, claim in runner.load_claims().items() if claim.paper == "largeprompt"]


def exact_training(task, n, effort, reads, prompts_seed, larger=1, **start):
    """What `training.train` measures, from the exact descent: 0.2 % of noise."""
    kind = start.pop("kind", "softmax")
    gradient = descents.softmax_gradient if kind == "softmax" else descents.linear_gradient
    path = descents.descent(gradient(task, n), *descents.start_blocks(**start))
    rng = np.random.default_rng(prompts_seed)
    found = {}
    for name, read in reads.items():
        values = read(path.blocks(descents.EVERY))
        error = 0.002 * np.abs(values) + 1e-6
        found[name] = descents.Measured(values + error * rng.standard_normal(values.shape), error)
    return found


@pytest.fixture
def predicted_training(monkeypatch):
    for module in (training, optima):
        monkeypatch.setattr(module, "train", exact_training)
    row = compare({"n": 30}, 1.0, 1.0, 0.004)
    monkeypatch.setattr(training, "generic_rows", lambda effort: [row])
    monkeypatch.setattr(optima, "measure_risk", None)

    def optimum_row(model, task, n, effort):
        best = float(optima.numeric.optimal_block_risk(task, n).risk)
        return compare({"n": n, "|u| |v|": ""}, best, best, 0.004 * best, 0.02, required=0.08)

    monkeypatch.setattr(optima, "optimum_row", optimum_row)
    monkeypatch.setattr(optima, "SMALL_STARTS", {3: optima.SMALL_STARTS[3]})  # ends at the optimum


def run(claim):
    parts, figure = CLAIMS[claim].experiment(TINY, lambda what, fraction: None)
    return ClaimResult(claim, "tiny", parts, figure, 0.0)


def test_seven_claims_of_the_paper():
    assert len(IDS) == 7
    for claim in IDS:
        assert all(formula.references for formula in CLAIMS[claim].formulas())
        assert "2512.11784" in str(CLAIMS[claim].source)


@pytest.mark.usefixtures("predicted_training")
@pytest.mark.parametrize(
    "claim", ["largeprompt-training", "largeprompt-bayes", "largeprompt-transfer"]
)
def test_training_claims_pass_on_exact_trajectories(claim):
    result = run(claim)
    assert result.passed, [(p.title, str(p.comparison)) for p in result.parts if not p.passed]
    assert ClaimResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert result.figure.lines
    assert result.figure.points


@pytest.mark.usefixtures("predicted_training")
@pytest.mark.parametrize("claim", ["largeprompt-bayes", "largeprompt-transfer"])
def test_a_constant_three_percent_off_fails_its_claim(claim, monkeypatch):
    original = optima.optimal_constant
    monkeypatch.setattr(optima, "optimal_constant", lambda task: 1.03 * original(task))
    assert not run(claim).passed


def test_small_starts_are_told_apart():
    for ratio, verdicts in ((1.0, ["deviates", "agrees"]), (2.3, ["agrees", "deviates"])):
        row = compare({"n": 30, "|u| |v|": ""}, 0.5, 0.5 * ratio, 0.002)
        ends = [optima.small_start_row(start, row).verdict for start in optima.SMALL_STARTS]
        assert ends == verdicts


@pytest.mark.usefixtures("predicted_training")
def test_a_wrong_trajectory_fails(monkeypatch):
    """The infinite-prompt gradient in place of the one at finite n."""
    task, n = training.TASK, 100
    start = {"start": "balanced", "scale": training.ALPHA}
    measured = exact_training(task, n, TINY, {"b": descents.value_of}, 1, **start)
    wrong = descents.infinite_path(task, *descents.start_blocks(**start))
    right = descents.descent(descents.softmax_gradient(task, n), *descents.start_blocks(**start))
    for path, expected in ((right, False), (wrong, True)):
        predicted = {"b": path.blocks(descents.EVERY)["b"]}
        rows = descents.trajectory_rows({}, predicted, measured, 0.2)
        assert any(row.verdict == DEVIATES for row in rows) is expected


def test_extrapolation_to_infinite_batches_removes_a_shift_in_one_over_batch(monkeypatch):
    from numeric import finite

    class Run:
        def __init__(self, batch, seed):
            rng = np.random.default_rng(seed)
            steps = descents.STEPS // descents.EVERY + 1
            noise = 0.001 * rng.standard_normal(steps)
            self.trajectory = {"b": 1.0 + 3.0 / batch + noise}

    def train_many(models, targets, steps, seeds, *, batch_size, **options):
        return [Run(batch_size, seed) for seed in seeds]

    monkeypatch.setattr(finite, "train_many", train_many)
    found = descents.train(
        training.TASK, 100, TINY, {"b": descents.value_of}, 1, start="balanced", scale=0.3
    )["b"]
    assert np.all(np.abs(found.value - 1) < 5 * found.error)
    assert np.all(found.error < 0.002)
    assert np.all(found.error > 0.0003)


def test_exponents_and_a_changed_exponent(monkeypatch):
    rows = Comparison.from_rows(largeprompt.exponent_rows())
    assert rows.passed, str(rows)
    assert not rows.scaled(1.03).passed
    original = largeprompt.predicted_exponent
    monkeypatch.setattr(largeprompt, "predicted_exponent", lambda tau: 1.01 * original(tau))
    assert not Comparison.from_rows(largeprompt.exponent_rows()).passed


def test_laws_of_the_limit_claim_have_mean_zero_and_covariance_one():
    origin = np.zeros(largeprompt.DIM)
    for name, law in largeprompt.LAWS.items():
        mean, cov = (
            f(law, origin)
            for f in (largeprompt.numeric.limit_output, largeprompt.numeric.limit_jacobian)
        )
        assert np.allclose(mean, 0, atol=1e-12), name
        assert np.allclose(cov, np.eye(largeprompt.DIM), atol=1e-12), name


def test_limit_rows_agree_and_see_the_linear_response(monkeypatch):
    effort = Effort("small", 4_000, 1, (20,), (20,))
    outputs, deviations, variances = largeprompt.limit_rows(effort)
    assert not any(row.verdict == DEVIATES for row in (*outputs, *deviations, *variances))
    assert len({row.setting["law"] for row in outputs}) == 8
    monkeypatch.setattr(
        largeprompt, "predicted_output", lambda law, u, n: (1 - np.exp(u @ u) / n) * u
    )
    changed, _, _ = largeprompt.limit_rows(effort)
    wrong = {row.setting["law"] for row in changed if row.verdict == DEVIATES}
    assert {"Rademacher", "sphere", "uniform cube", "Empirical"} <= wrong
    assert "Gaussian" not in wrong


def test_gradient_errors_of_prompts_and_a_changed_constant(monkeypatch):
    effort = Effort("small", 4_000, 1, (20,), (20,))
    rows, exponents, _ = largeprompt_gradients.gradient_rows(effort)
    assert not any(row.verdict == DEVIATES for row in (*rows, *exponents))
    original = largeprompt_gradients.gradient_constant
    monkeypatch.setattr(largeprompt_gradients, "gradient_constant", lambda *a: 1.5 * original(*a))
    changed, _, _ = largeprompt_gradients.gradient_rows(effort)
    assert {r.setting["gradient in"] for r in changed if r.verdict == DEVIATES} == {"U"}


def test_error_rows_include_the_case_of_one_token():
    rows = list(largeprompt.error_rows(TINY))
    assert rows[0].setting["n"] == 1
    assert not any(row.verdict == DEVIATES for row in rows)
    single = Estimate(1.0, 1e-3, 100)
    exact = float(largeprompt.numeric.expected_error(icl.Gaussian([0], [[1]]), 0, 1))
    assert compare({}, exact, single.value, single.standard_error).verdict == "agrees"
