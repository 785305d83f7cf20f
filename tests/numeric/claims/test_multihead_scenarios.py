"""The claims on scenarios: exact parts pass, and fail when a formula that they rest on is 3 % off.

Training is replaced by its predicted outcome, with one small layer trained as a check; real training
is tested in `finite`, and the whole of it by `icltheory reproduce --quick`.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from numeric.claims import multihead_exceptions, multihead_prior, multihead_scenarios
from numeric.claims import scenario_experiments as scenarios
from numeric.claims.base import CLAIMS, ClaimResult, Effort, Part
from numeric.claims.head_experiments import SMALL
from numeric.compare import AGREES, DEVIATES, Comparison
from numeric.montecarlo import Estimate, monte_carlo_risk
from numeric.risk import exact_risk, optimal_risk

TINY = Effort("tiny", prompts=1_000, training_steps=3, prompt_lengths=(20,), compared_lengths=(40,))
MODULES = {m.__name__ for m in (multihead_prior, multihead_scenarios, multihead_exceptions)}
IDS = [name for name, claim in CLAIMS.items() if claim.experiment.__module__ in MODULES]
EXACT, MODELS = 0, 2
# The exact part of every claim, and the formulas that it holds against exact risks.
EXACT_PARTS = {
    "multihead-prior": (
        multihead_prior.prior_exact,
        {"optimal_loss_constant", "loss_constant", "optimal_finite_prompt_risk", "prior_crossing"},
    ),
    "multihead-tight-prior": (
        multihead_prior.tight_prior_exact,
        {"tight_prior_constant", "optimal_tight_prior_constant", "tight_prior_threshold"},
    ),
    "multihead-local-examples": (
        multihead_scenarios.local_exact,
        {"optimal_loss_constant", "optimal_finite_prompt_risk", "local_value_sum", "shift_floor"},
    ),
    "multihead-distribution-shift": (multihead_scenarios.shift_exact, {"shift_floor"}),
    "multihead-exceptions": (
        multihead_exceptions.exceptions_exact,
        {
            "rank_floor",
            "block_constant",
            "optimal_loss_constant",
            "optimal_tight_prior_constant",
        },
    ),
}


def predicted(layers, effort):
    """What training gives if it reaches the prediction: 1 % above it, 0.2 % of noise."""
    return [
        (
            [Estimate(1.01 * risk, 0.002 * risk, 1000) for _, _, risk in layer.tests],
            {"learned k": "0", "learned v": "0"},
        )
        for layer in layers
    ]


@pytest.fixture
def quick_parts(monkeypatch):
    """No training and no simulation: a row of the layer is its prediction."""
    monkeypatch.setattr(scenarios, "train", predicted)
    monkeypatch.setattr(
        scenarios,
        "monte_carlo_risk",
        lambda task, layer, n, **options: Estimate(1.0, 0.001, options["prompts"]),
    )


def run(claim):
    parts, figure = CLAIMS[claim].experiment(TINY, lambda what, fraction: None)
    return ClaimResult(claim, "tiny", parts, figure, 0.0)


def test_five_claims():
    assert len(IDS) == 5
    for claim in IDS:
        assert CLAIMS[claim].paper == "multihead"
        assert all(formula.references for formula in CLAIMS[claim].formulas())


@pytest.mark.parametrize("claim", IDS)
def test_exact_parts_pass_and_results_survive_json(claim, quick_parts):
    result = run(claim)
    exact, models = result.parts[EXACT], result.parts[MODELS]
    assert exact.passed, str(exact.comparison)
    assert models.passed, str(models.comparison)
    # Every row of the exact part sees a change of 3 %, every trained one a change of 20 %.
    assert {row.verdict for row in exact.comparison.scaled(1.03)} == {DEVIATES}
    assert {row.verdict for row in models.comparison.scaled(1.2)} == {DEVIATES}
    assert ClaimResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert result.figure.lines
    assert result.figure.points


@pytest.mark.parametrize("claim", IDS)
def test_formulas_three_percent_off_fail_their_claim(claim, monkeypatch):
    """Every row rests on a formula of `icl`, and sees a change of 3 %."""
    exact, formulas = EXACT_PARTS[claim]
    used = set()

    def change(name):
        original = getattr(icl, name)

        def changed(*arguments):
            used.add(name)
            found = original(*arguments)
            # Another change for several heads, which a ratio of constants sees.
            several = getattr(arguments[-1], "heads", 1) > 1
            return replace(found, expr=sp.Rational(107 if several else 103, 100) * found.expr)

        monkeypatch.setattr(icl, name, changed)

    for name in formulas:
        change(name)
    part = Part("exact", Comparison.from_rows(exact()))
    assert used == formulas
    assert {row.verdict for row in part.comparison} == {DEVIATES}
    assert not part.passed


def test_simulated_layers_agree_and_see_a_change():
    prior, near, effort = (
        multihead_prior.PRIOR,
        scenarios.local(1, 0.75),
        Effort("", 8_000, 3, (), ()),
    )
    for task, layer, exact in (
        (prior, scenarios.reading_pair(prior, 8), scenarios.small_risk(prior, scenarios.READ, 8)),
        (
            prior,
            scenarios.reduced_layer(prior, 1, 8),
            optimal_risk(prior, scenarios.heads(1, scenarios.BOTH), 8).risk,
        ),
        (near, scenarios.best_layer(near, 2, 8), scenarios.best_risk(near, 2, 8)),
    ):
        row = scenarios.layer_row(task, layer, 8, exact, effort, {})
        table = Comparison.from_rows([row])
        assert abs(row.z) < 5
        assert table.scaled(1.08).rows[0].verdict == table.scaled(0.92).rows[0].verdict == DEVIATES


def test_one_small_training():
    """One head on local examples, 200 steps."""
    task = scenarios.local(1, 1, dim=2)
    best = scenarios.best_risk(task, 1, 10)
    layer = scenarios.Tested.own("local", task, 10, best, value=1.0)
    (row,) = scenarios.trained_rows([layer], Effort("", 16_000, 600, (), ()))
    assert row.verdict == AGREES, row
    assert row.setting["learned k"]


# -- exact risks of layers with matrices -----------------------------------------------------------


def test_small_scores_of_a_pair_are_the_closed_form():
    task = multihead_prior.PRIOR
    for options, layer in (
        ({}, scenarios.pair(scenarios.pair_slope(task, 9))),
        (scenarios.READ, scenarios.reading_pair(task, 9)),
        (scenarios.BOTH, scenarios.reduced_layer(task, 2, 9)),
    ):
        exact = scenarios.small_risk(task, options, 9)
        assert scenarios.small_score_risk(task, layer, 9) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("count", [4, 6])
def test_small_scores_of_matrices_by_simulation(count):
    task = icl.LinearRegression(dim=2, noise_var=0.3, coef_cov=0.5, coef_mean=[1, 0.5])
    layer = scenarios.at_scale(icl.prior_heads(task, count), sp.Rational(1, 100))
    exact = scenarios.small_score_risk(task, layer, 8)
    risk = monte_carlo_risk(task, layer, 8, prompts=150_000, seed=3, sampler="plain")
    assert abs(risk.value - exact) < 5 * risk.standard_error < 0.05 * exact


@pytest.mark.parametrize("signs", [(1, 1), (1, -1)])
def test_block_heads_by_simulation(signs):
    """Unequal blocks with noise; the scale is the best one only for equal signs."""
    task = icl.LinearRegression(dim=3, noise_var=0.2)
    risk, scale, value = scenarios.block_heads_risk(task, (1, 2), signs, 12)
    first = sp.diag(1, 0, 0)
    matrices = (first, sp.eye(3) - first)
    layer = icl.SoftmaxAttention(
        scores=[sign * scale * a for sign, a in zip(signs, matrices, strict=True)],
        values=[sign * value for sign in signs],
    )
    measured = monte_carlo_risk(task, layer, 12, prompts=150_000, seed=4, sampler="plain")
    assert abs(measured.value - risk) < 5 * measured.standard_error < 0.04 * risk


def test_one_block_is_one_head():
    task = icl.LinearRegression(dim=3, noise_var=0.2)
    best = optimal_risk(task, scenarios.ONE, 12)
    found = scenarios.block_heads_risk(task, (3,), (1,), 12)
    assert found == pytest.approx((best.risk, best.score_scale, best.value_scale), rel=1e-4)
    assert found[0] == pytest.approx(best.risk, rel=1e-10)


def test_limited_heads_are_heads_in_fewer_dimensions():
    task = icl.LinearRegression(dim=3, noise_var=0.2)
    assert scenarios.limited_risk(task, 3, 1, 12) == pytest.approx(
        optimal_risk(task, scenarios.ONE, 12).risk
    )
    # One matrix head of rank 1, by the exact risk of any matrix.
    from numeric.finite_prompt import block_risk

    inner = icl.LinearRegression(
        dim=1, coef_cov=sp.Rational(1, 3), noise_var=sp.Rational(1, 5) + sp.Rational(2, 3)
    )
    best = optimal_risk(inner, scenarios.ONE, 12)
    exact = block_risk(task, np.diag([best.score_scale, 0, 0]), best.value_scale, 12)
    assert scenarios.limited_risk(task, 1, 1, 12) == pytest.approx(exact, rel=1e-8)


def test_best_layers_attain_the_optimum():
    near = scenarios.local(0.5, 1, 0.25)
    for count in (1, 2):
        layer = scenarios.best_layer(near, count, 20)
        assert exact_risk(near, layer, 20) == pytest.approx(
            scenarios.best_risk(near, count, 20), rel=1e-4
        )
    pair = scenarios.leading_layer(near, 2)
    assert pair.values is not None
    assert pair.scores is not None
    assert float(sum(pair.values)) == pytest.approx(float(icl.local_value_sum(near)))
    assert pair.scores[0] == pytest.approx(SMALL)
