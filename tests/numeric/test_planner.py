"""The planner of decoding: its table, its predictions against simulation, its choices confirmed."""

import math

import numpy as np
import pytest

import icltheory as icl
import numeric
from numeric.planner_binary import _States
from numeric.planner_simulation import simulate_choices
from numeric.planner_techniques import Problem, lengths_within
from numeric.stepwise import shared_stepwise


@pytest.fixture(scope="module")
def continuous():
    return numeric.plan(20, 10, 256, noise_std=0.3, label_noise_var=0.5, verifier="oracle")


@pytest.fixture(scope="module")
def signs():
    return numeric.plan(12, 10, 128, noise_std=0, prior=icl.Signs())


# -- the table -------------------------------------------------------------------------------------


def test_the_table_is_ranked_within_the_budget(continuous):
    values = [x.value for x in continuous.ranked]
    assert values == sorted(values)
    assert len(values) == 6
    assert not continuous.left_out
    assert all(x.compute <= 256 for x in continuous.ranked)
    assert all(x.accuracy >= 0 and x.standard_error >= 0 for x in continuous.ranked)
    assert continuous.best is continuous.ranked[0]
    assert continuous[continuous.best.technique] is continuous.best
    assert len(continuous) > 1000
    for part in continuous.settings.values():
        assert np.all(part.steps * part.samples <= 256)


def test_the_plan_shows_itself(continuous, signs):
    text = str(continuous)
    assert "risk per coordinate" in text
    assert "exact" in text
    assert "<table" in continuous._repr_html_()
    assert repr(continuous) == "Plan(n=20, d=10, budget=256: best of N, oracle)"
    frame = continuous.to_frame()
    assert list(frame["technique"]) == [x.technique for x in continuous.ranked]
    assert (frame["compute"] == frame["steps"] * frame["samples"]).all()
    assert "P(answer wrong)" in str(signs)
    assert "average, then round: left out" in str(signs)


def test_a_smaller_budget_of_the_same_plan(continuous):
    small = continuous.at(16)
    assert all(x.compute <= 16 for x in small.ranked)
    # The larger budget can do whatever the smaller can.
    for choice in small.ranked:
        assert continuous[choice.technique].value <= choice.value
    one = continuous.at(1)
    assert [x.technique for x in one.ranked] == ["one chain"]
    assert "1 thoughts" in one.left_out["mean of N"]
    with pytest.raises(icl.InvalidInput, match="above the 256 thoughts"):
        continuous.at(257)


def test_the_mean_is_the_best_split():
    """Against the scan of `numeric.best_split`, at one step size and the lengths of the plan."""
    plan = numeric.plan(20, 10, 60, noise_std=0.3, step_size=0.4, techniques=["mean of N"])
    longest = int(plan.settings["mean of N"].steps.max())
    split = numeric.best_split(icl.NoisyDecoding(0.4, 0.3, longest), 60, 20, 10)
    assert (plan.best.steps, plan.best.samples) == (split.steps, split.samples)
    assert plan.best.value == pytest.approx(split.risk, rel=1e-12)
    assert float(plan.formula) == pytest.approx(plan.best.value, rel=1e-12)
    assert plan.best.error == 0


def test_same_seed_same_plan(signs):
    again = numeric.plan(12, 10, 128, noise_std=0, prior=icl.Signs())
    other = numeric.plan(12, 10, 128, noise_std=0, prior=icl.Signs(), seed=1)
    name = "best of N, prompt loss"
    assert again[name] == signs[name]
    assert other[name].value != signs[name].value


def test_lengths_end_where_rare_prompts_begin():
    def longest(step):
        problem = Problem(20, 10, 1000, 0.3, 0.0, None, (step,), "prompt_loss", "answer")
        return int(lengths_within(problem, step)[0][-1])

    assert longest(2 / 3) < longest(0.5) < longest(0.35) <= 30
    # beta_20 = 7.1 carries the spread of beta_10 at the best step.
    assert longest(20 / 31) < 5


def test_formulas_of_winners(signs):
    from numeric.planner_formulas import choice_formula

    assert signs.formula is None
    plan = numeric.plan(30, 30, 8, noise_std=0, prior=icl.Signs(), criterion="coordinate")
    greedy = plan["greedy rounding"]
    rounding = choice_formula(plan.problem, greedy)
    assert float(rounding) == pytest.approx(greedy.value, rel=0.3)
    assert choice_formula(plan.problem, plan["whole-answer plurality"]) is None


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"budget": 10**40}, "at most"),
        ({"n": 10**40}, "at most"),
        ({"noise_std": 1e300}, "astronomical"),
        ({"budget": 0}, "buys nothing"),
        ({"budget": -3}, "buys nothing"),
        ({"budget": 0.5}, "buys nothing"),
        ({"budget": 2.5}, "not an integer"),
        ({"budget": math.nan}, "NaN"),
        ({"budget": "8"}, "not numeric"),
        ({"n": 0}, "at least 1"),
        ({"noise_std": -0.1}, "negative"),
        ({"label_noise_var": -1}, "negative"),
        ({"step_size": 0}, "positive"),
        ({"step_size": []}, "positive"),
        ({"verifier": "none"}, "verifier"),
        ({"techniques": ["mean"]}, "is not one of"),
        ({"techniques": "mean of N"}, "list of names"),
        ({"techniques": []}, "empty"),
        ({"techniques": ["best of N, oracle"]}, "no technique is left"),
        ({"sampler": icl.Logit(1)}, "binary priors"),
        ({"prior": "signs"}, "icl.Signs"),
        ({"prior": icl.SparseBits(20)}, "puts 20 ones"),
        ({"prior": icl.Signs(), "sampler": icl.Logit(1)}, "Probit"),
        ({"prior": icl.Signs(), "sampler": icl.Clip()}, "Logit"),
        ({"prior": icl.Signs(), "criterion": "risk"}, "criterion"),
        ({"prior": icl.Signs(), "temperatures": [-1.0]}, "positive"),
        ({"prior": icl.Signs(), "noise_std": 0, "temperatures": [0.0]}, "greedy"),
    ],
)
def test_refusals(changed, message):
    values = {"n": 20, "d": 10, "budget": 16, "noise_std": 0.3, **changed}
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.plan(**values)


def test_what_a_budget_cannot_buy_is_left_out_with_the_reason():
    plan = numeric.plan(20, 10, 1, noise_std=0.3)
    assert [x.technique for x in plan.ranked] == ["one chain"]
    assert plan.left_out["mean of N"] == "needs a budget of at least 2 thoughts"
    assert plan.left_out["soft best of N"] == "needs at least 8 samples"
    with pytest.raises(icl.InvalidInput, match="left out: needs at least 8 samples"):
        plan["soft best of N"]
    with pytest.raises(icl.InvalidInput, match="not in the plan"):
        plan["mean"]
    silent = numeric.plan(20, 10, 16, noise_std=0)
    assert silent.left_out["mean of N"] == "chains without noise are all alike"
    noisy = numeric.plan(6, 10, 8, noise_std=0, label_noise_var=4, prior=icl.Signs())
    assert "too loose" in noisy.left_out["best of N, prompt loss"]
    loud = numeric.plan(20, 10, 1, noise_std=3)
    assert loud.best.value > 1
    assert "risk 1" in str(loud)


def test_what_no_state_shows_is_a_tie_for_the_cheapest():
    plan = numeric.plan(60, 12, 64, noise_std=0, prior=icl.Signs(), criterion="coordinate")
    assert plan.best.technique == "greedy rounding"
    assert plan.best.value < plan.best.error


def test_more_ones_than_zeros_and_few_examples():
    for prior in (icl.SparseBits(4), icl.Bits(0.9)):
        plan = numeric.plan(2, 4, 8, noise_std=0, prior=prior)
        assert 0 < plan.best.value < 1


# -- predictions against simulation ------------------------------------------------------------------


def deviations(plan, prompts, scale=1.0):
    """Of every technique at its best setting: |prediction - simulation| over what is allowed."""
    out = {}
    results = simulate_choices(plan.problem, plan.ranked, prompts, seed=8)
    for choice, result in zip(plan.ranked, results, strict=True):
        error = 5 * math.hypot(float(result.standard_error), choice.standard_error)
        allowed = choice.accuracy + error
        out[choice.technique] = abs(scale * choice.value - float(result.value)) / allowed
    return out


def test_risks_agree_with_simulation(continuous):
    agree = deviations(continuous, 3000)
    assert max(agree.values()) < 1, agree
    for scale in (0.7, 1.3):  # negative control
        apart = deviations(continuous, 3000, scale)
        assert min(apart.values()) > 1, apart


def test_errors_agree_with_simulation(signs):
    agree = deviations(signs, 4000)
    assert max(agree.values()) < 1, agree
    for scale in (0.5, 1.6):
        apart = deviations(signs, 4000, scale)
        assert min(apart.values()) > 1, apart


def test_errors_of_noisy_chains_agree_with_simulation():
    plan = numeric.plan(
        24, 10, 64, noise_std=0.4, label_noise_var=0.2, prior=icl.Bits(0.5), verifier="oracle"
    )
    assert len(plan.ranked) == 7
    agree = deviations(plan, 1500)
    assert max(agree.values()) < 1, agree
    apart = deviations(plan, 1500, 2.0)
    assert min(apart.values()) > 1, apart


def test_sampled_answers_need_not_be_sparse():
    """With label noise every vector of bits competes with a sparse w*, not only the sparse ones."""
    few = {"noise_std": 0, "label_noise_var": 0.25, "prior": icl.SparseBits(1)}
    assert "too loose" in numeric.plan(5, 7, 64, **few).left_out["best of N, prompt loss"]
    plan = numeric.plan(12, 7, 64, **few)
    best = plan["best of N, prompt loss"]
    assert best.accuracy > 0.1 * best.value  # half the bound on competitors
    assert plan.confirm(2000).agrees


def test_states_have_the_exact_moments():
    """Drawn without prompts: against the exact channel, and against chains on real prompts."""
    n, d, t = 16, 8, 3
    decoding = icl.NoisyDecoding(0.4, 0.0, t, label_noise_var=0.5)
    problem = Problem(
        n, d, 16, 0.0, 0.5, icl.Signs(), (0.4,), "prompt_loss", "coordinate", icl.Logit(1)
    )
    (chain,) = _States.draw(problem, 3).after(problem, 0.4, np.array([t]))
    v = chain.margins
    channel = numeric.decoding_channel(decoding, icl.Signs(), n, d)
    error = v.mean(axis=1).std() / math.sqrt(len(v))
    assert abs(v.mean() - channel.gain) < 5 * error < 0.02
    square = np.square(v).mean(axis=1)
    exact = channel.gain**2 + channel.noise_std**2
    error = square.std() / math.sqrt(len(v))
    assert abs(square.mean() - exact) < 5 * error < 0.05 * exact
    # The tail, where prompts differ: more errors than the Gaussian channel has.
    run = numeric.simulate_binary_decoding(decoding, icl.Signs(), n, d, prompts=4000, seed=5)
    wrong = (v < 0).mean(axis=1)
    error = math.hypot(wrong.std() / math.sqrt(len(v)), float(run.greedy_bit.standard_error))
    assert abs(wrong.mean() - run.greedy_bit.value) < 5 * error < 0.35 * wrong.mean()


# -- choices ---------------------------------------------------------------------------------------


def test_random_plans_are_confirmed():
    """Three of the ten of the claim; a worse technique in the winner's place must not be."""
    caught = 0
    for plan, held in numeric.confirm_random_plans(3, seed=1, prompts=300):
        assert held.confirmed, f"{plan}\n{held}"
        assert held.agrees, f"{plan}\n{held}"
        assert held.rows[0].choice is plan.best
        worst = plan.ranked[-1]
        if worst.value > 2 * plan.best.value and worst.error < 0.3 * worst.value:
            control = plan.confirm(300, winner=worst.technique)
            caught += not control.confirmed
    assert caught >= 1


def test_confirmation_shows_itself(continuous):
    held = continuous.confirm(200, seed=2)
    assert "confirmed on 200 prompts" in str(held)
    assert "<table" in held._repr_html_()
    frame = held.to_frame()
    assert frame["verdict"][0] == "winner"
    assert held.regret == max(0, frame["gain"].max())
    assert len(held) == len(continuous.ranked)
    control = continuous.confirm(200, seed=2, winner="one chain")
    assert not control.confirmed
    assert "not confirmed" in str(control)
    assert math.isfinite(control.resolution)
    # Pairing: differences on common prompts are sharper than those of separate ones.
    mean = next(r for r in held.rows if r.choice.technique == "mean of N")
    assert mean.gain_error < math.hypot(mean.standard_error, held.rows[0].standard_error)


# -- the figure ------------------------------------------------------------------------------------


def test_figure_of_risk_against_compute(continuous, signs):
    figure = numeric.risk_against_compute(continuous, prompts=300, seed=1)
    assert [x.label for x in figure.lines][:2] == ["one chain", "mean of N"]
    assert len(figure.lines) == 6
    for line in figure.lines:
        assert all(np.diff(line.y) <= 0)  # more compute never hurts
    assert figure.points[0].x == (4, 16, 64, 256)
    colors = {x.color: x for x in figure.lines}
    for series in figure.points:
        line = colors[series.color]
        for x, y, error in zip(series.x, series.y, series.error, strict=True):
            assert abs(line.y[line.x.index(x)] - y) < 5 * error + 0.1 * y
    assert "256 thoughts" in figure.caption
    numeric.draw(figure)
    binary = numeric.risk_against_compute(
        signs, techniques=["greedy rounding", "best of N, prompt loss"], budgets=[]
    )
    assert len(binary.lines) == 2
    assert binary.points == ()
    assert binary.ylabel == "P(answer wrong)"
    with pytest.raises(icl.InvalidInput, match=r"numeric\.plan"):
        numeric.risk_against_compute("plan")
    with pytest.raises(icl.InvalidInput, match="left out"):
        numeric.risk_against_compute(signs, techniques=["average, then round"])


def test_step_sizes_share_their_noise():
    """Drawn once, the noise gives every step size what it would have alone."""
    data = numeric.decoding_prompts(20, 10, 40, label_noise_var=0.5, seed=1)
    chains = [icl.NoisyDecoding(eta, 0.3, 5, label_noise_var=0.5) for eta in (0.5, 0.3)]
    together = shared_stepwise(data, chains, 8, chains=2, seed=3)
    assert together.shape == (2, 40, 6)
    for chain, found in zip(chains, together, strict=True):
        alone = numeric.simulate_stepwise(data, chain, 8, at=[1, 4, 5], chains=2, seed=3)
        assert np.array_equal(found[:, [1, 4, 5]], alone.values)
