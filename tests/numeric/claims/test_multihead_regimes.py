"""Claims on finite prompts, baselines, regimes, conventions and features: a formula 3 % off fails.

Training is replaced by its predicted outcome, but for one small run.
"""

import json
from dataclasses import replace

import pytest

import icltheory as icl
from numeric.claims import head_experiments as study
from numeric.claims import multihead_baselines as baselines
from numeric.claims import multihead_conventions as conventions
from numeric.claims import multihead_features as features
from numeric.claims import multihead_regimes as regimes
from numeric.claims.base import CLAIMS, ClaimResult, Effort
from numeric.compare import AGREES, DEVIATES, Comparison, compare
from numeric.montecarlo import Estimate
from numeric.product_features import best_product_head
from numeric.risk import exact_risk, optimal_risk

TINY = Effort(
    "tiny", prompts=1_000, training_steps=1, prompt_lengths=(20, 40), compared_lengths=(40,)
)
# Number of parts, and the rows of the first one, which are exact.
IDS = {
    "multihead-finite-prompts": (3, regimes.finite_prompt_rows),
    "multihead-query-token": (3, regimes.query_rows),
    "multihead-baselines": (2, baselines.baseline_formula_rows),
    "multihead-proportional": (2, baselines.proportional_rows),
    "multihead-conventions": (3, conventions.conversion_rows),
    "multihead-product-features": (3, features.product_rows),
}


@pytest.fixture(autouse=True)
def predicted_training(monkeypatch):
    def with_query(heads, length, effort):
        attention = icl.SoftmaxAttention(heads=heads, include_query=True)
        scale = {} if heads == 1 else {"score_scale": 0.0}
        risk = float(exact_risk(study.BASE, attention, length, **scale))
        return Estimate(1.01 * risk, 0.002 * risk, 1000)

    def on_uniform(heads, length, effort):
        if heads == 1:
            risk = float(best_product_head(features.SCALAR, features.UNIFORM, length).risk)
        else:
            best = icl.optimal_product_risk(features.SCALAR, features.UNIFORM, study.TWO)
            risk = float(best.subs(n=length))
        return Estimate(1.01 * risk, 0.002 * risk, 1000), {"learned k": "0", "learned v": "0"}

    monkeypatch.setattr(regimes, "trained", with_query)
    monkeypatch.setattr(features, "trained", on_uniform)
    # Four heads in long prompts take ten seconds.
    order = compare({"quantity": "exponent"}, -2.0, -1.93, 0.01, 0.08)
    monkeypatch.setattr(regimes, "further_order_row", lambda effort: order)


def run(claim):
    parts, figure = CLAIMS[claim].experiment(TINY, lambda what, fraction: None)
    return ClaimResult(claim, "tiny", parts, figure, 0.0)


@pytest.mark.parametrize("claim", IDS)
def test_exact_parts_pass_and_results_survive_json(claim):
    assert CLAIMS[claim].paper == "multihead"
    assert all(formula.steps for formula in CLAIMS[claim].formulas())
    result = run(claim)
    count, rows = IDS[claim]
    assert len(result.parts) == count
    assert result.parts[0].passed, str(result.parts[0].comparison)
    assert result.parts[0].comparison.rows == tuple(rows())
    # Few prompts resolve little, but what they show must not contradict.
    for part in result.parts:
        assert DEVIATES not in {row.verdict for row in part.comparison}, str(part.comparison)
        if part.title == "trained models":
            assert part.passed, str(part.comparison)
    assert ClaimResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert result.figure.lines
    assert result.figure.points


RESTS_ON = [
    ("multihead-finite-prompts", regimes, "small_pair_risk", None),
    ("multihead-finite-prompts", regimes, "pair_slope", None),
    ("multihead-finite-prompts", regimes, "pair_laws", 0),
    ("multihead-finite-prompts", regimes, "pair_laws", 1),
    ("multihead-finite-prompts", regimes, "head_scale", None),
    ("multihead-baselines", baselines, "linear_risk", None),
    ("multihead-baselines", baselines, "least_squares_risk", None),
    ("multihead-baselines", baselines, "bayes_law", 0),
    ("multihead-baselines", baselines, "bayes_law", 1),
    ("multihead-baselines", baselines, "bayes_gap", None),
    ("multihead-baselines", baselines, "prior_crossing", None),
    ("multihead-proportional", baselines, "proportional_optimum", None),
    ("multihead-proportional", baselines, "proportional_gain", None),
    ("multihead-query-token", regimes, "query_cost", None),
    ("multihead-query-token", study, "optimal_constant", 0),
    ("multihead-conventions", conventions, "their_optimum", 0),
    ("multihead-conventions", conventions, "our_risk", None),
    ("multihead-conventions", conventions, "approximation_limit", None),
    ("multihead-product-features", features, "head_law", 0),
    ("multihead-product-features", features, "head_law", 1),
]


def put_off(monkeypatch, module, name, index):
    """Make a prediction, or one entry of it, 3 % too large."""
    original = getattr(module, name)

    def changed(*arguments, **options):
        value = original(*arguments, **options)
        if index is None:
            return 1.03 * value
        return tuple(1.03 * x if i == index else x for i, x in enumerate(value))

    monkeypatch.setattr(module, name, changed)


@pytest.mark.parametrize(("claim", "module", "name", "index"), RESTS_ON)
def test_a_constant_three_percent_off_fails_its_claim(claim, module, name, index, monkeypatch):
    put_off(monkeypatch, module, name, index)
    # The first part of the claim, as the test above shows.
    assert DEVIATES in {row.verdict for row in IDS[claim][1]()}


MEASURED = [
    (baselines, "proportional_risk", baselines.proportional_layer_rows, 20_000),
    (conventions, "approximate_loss", conventions.approximation_rows, 5_000),
    (features, "small_pair", features.product_layer_rows, 6_000),
]


@pytest.mark.parametrize(("module", "name", "rows", "prompts"), MEASURED)
def test_simulations_confirm_formulas_and_reject_a_change(module, name, rows, prompts, monkeypatch):
    effort = replace(TINY, prompts=prompts)
    found = Comparison.from_rows(rows(effort))
    assert DEVIATES not in {row.verdict for row in found}, str(found)
    assert AGREES in {row.verdict for row in found}, str(found)
    put_off(monkeypatch, module, name, None)
    assert DEVIATES in {row.verdict for row in rows(effort)}


def test_quadrature_agrees_with_simulation_within_four_errors_at_one_percent():
    layer = icl.SoftmaxAttention(scores=[0.39, -0.39, 1.16, -1.16], values=[0.7, -0.7, 0.2, -0.2])
    exact = float(exact_risk(study.BASE, layer, 10))
    effort = replace(TINY, prompts=20_000)
    (row,) = regimes.simulated_rows(study.BASE, layer, 10, exact, {}, effort, plain=False)
    assert row.verdict == AGREES
    assert row.resolution < 0.01
    assert abs(row.z) < 4
    assert replace(row, prediction=1.03 * exact).verdict == DEVIATES


def test_the_predictions_for_the_query_token_are_those_of_the_reference():
    one = optimal_risk(study.BASE, regimes.ONE_WITH_QUERY, 20)
    assert float(one.risk) == pytest.approx(0.546653, abs=1e-6)
    assert regimes.small_pair_risk(20) + regimes.query_cost(20) == pytest.approx(0.241634, abs=1e-6)


def test_a_layer_is_really_trained_on_uniform_features(monkeypatch):
    monkeypatch.undo()
    effort = replace(TINY, training_steps=800, prompts=10_000)
    risk, learned = features.trained(1, 20, effort)
    best = float(best_product_head(features.SCALAR, features.UNIFORM, 20).risk)
    assert risk.value == pytest.approx(best, rel=0.1)
    assert set(learned) == {"learned k", "learned v"}
