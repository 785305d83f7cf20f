"""How results of decoding show themselves, and candidates that a user brings along."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import icltheory as icl
import numeric
from numeric import finite
from numeric.chain_prompts import PromptAverage
from numeric.decoding_display import brief, with_error
from numeric.planner_techniques import Choice
from numeric.selection import RULES

CHAIN = icl.NoisyDecoding(0.5, 0.3, 4)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.186345, 0.00123, "0.1863(12)"),
        (-2.0, 0.5774, "-2.00(58)"),
        (1234.5, 120.0, "1234(120)"),
        (0.5, 0.0, "0.5"),
        (0.25, np.nan, "0.25"),
        (1.2e-9, 3e-10, "1.2e-09 +- 3e-10"),
        (0.1, 0.00999, "0.100(10)"),
    ],
)
def test_numbers_with_errors(value, error, text):
    assert with_error(value, error) == text


def results():
    prompts = numeric.decoding_prompts(20, 10, 100, seed=1)
    law, channel = (
        numeric.chain_law(prompts, CHAIN),
        numeric.decoding_channel(CHAIN, icl.Signs(), 20, 10),
    )
    binary = (CHAIN, icl.Signs(), 20, 10)
    layer = finite.LinearSelfAttention.gradient_descent(dim=4, step_size=0.5)
    return {
        "prompts": prompts,
        "law": law,
        "chains": numeric.simulate_chains(CHAIN, 20, 10, prompts=100, chains=4, at=range(5)),
        "risk": numeric.selection_risk(prompts, CHAIN, [1, 8, 64]),
        "selection": numeric.simulate_selection(prompts, CHAIN, [1, 8]),
        "softmax": numeric.softmax_mean_error(law, 64, 1.0),
        "channel": channel,
        "errors": numeric.greedy_errors(channel),
        "passes": numeric.pass_at_n(channel, icl.Logit(0.4), [1, 10]),
        "temperature": numeric.best_temperature(channel, [10]),
        "binary": numeric.simulate_binary_decoding(
            *binary, sampler=icl.Logit(0.4), samples=[1, 9], prompts=100
        ),
        "prompt": numeric.simulate_prompt_selection(*binary, icl.Logit(0.4), [1, 9], prompts=100),
        "feedback": numeric.simulate_feedback(icl.Bits(), icl.Probit(0.2), 60, 50, 3, prompts=20),
        "exhaustive": numeric.exhaustive_error(icl.Signs(), 6, 10, 1.0),
        "layer": layer,
        "learned": layer.learned(),
    }


RESULTS = results()
TABLES = ["chains", "risk", "selection", "passes", "binary", "prompt", "feedback", "exhaustive"]


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_is_one_short_line(name):
    text = repr(RESULTS[name])
    assert text.startswith(type(RESULTS[name]).__name__)
    assert "\n" not in text
    assert len(text) < 600
    assert "array(" not in text


@pytest.mark.parametrize("name", [*TABLES, "learned"])
def test_tables_in_text_and_html(name):
    header = str(RESULTS[name]).splitlines()[0]
    html = RESULTS[name]._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<tr>") == len(str(RESULTS[name]).splitlines())
    assert all(f"<th>{word}" in html for word in header.split("  ")[:1] if word)


def test_tables_hold_the_averages_with_their_errors():
    average = RESULTS["chains"].risk(4)
    last = str(RESULTS["chains"]).splitlines()[-1].split()
    assert last[2] == with_error(float(average.value[4]), float(average.standard_error[4]))
    wide = PromptAverage(np.arange(12.0).reshape(3, 2, 2))
    assert str(wide).splitlines()[0].split() == ["axis", "0", "[...,", "0]", "[...,", "1]"]
    assert str(wide).splitlines()[1].split() == ["0", "4.0(23)", "5.0(23)"]
    long = PromptAverage(np.random.default_rng(0).standard_normal((4, 100)))
    assert len(str(long).splitlines()) == 41
    assert "shape (100,)" in repr(long)
    assert brief(np.arange(9.0)) == "shape (9,)"
    assert brief(np.arange(2.0)) == "[0, 1]"


# -- candidates of one's own -----------------------------------------------------------------------


def answers(chains=32, n=20, d=6, prompts=400):
    rng = np.random.default_rng(5)
    X, w = rng.standard_normal((prompts, n, d)), rng.standard_normal((prompts, d))
    y = np.einsum("pnd,pd->pn", X, w) + 0.5 * rng.standard_normal((prompts, n))
    decoding = icl.NoisyDecoding(0.5, 0.4, 4, label_noise_var=0.25)
    return numeric.run_chains(X, y, decoding, chains=chains, seed=3), X, y, w


def test_candidates_against_a_loop():
    found = answers(chains=8)
    theta = 1.5
    result = numeric.select_candidates(
        *found,
        [1, 4, 8],
        rules=(*RULES, "softmax_mean"),
        inverse_temperature=theta,
    )
    w, X, y, truth = found
    for p in range(5):
        loss = np.array([np.mean((y[p] - X[p] @ x) ** 2) for x in w[p]])
        error = np.array([np.mean((x - truth[p]) ** 2) for x in w[p]])
        share = np.exp(-theta * loss) / np.exp(-theta * loss).sum()
        mean = np.mean((w[p].mean(axis=0) - truth[p]) ** 2)
        soft = np.mean((share @ w[p] - truth[p]) ** 2)
        expected = {
            "mean": (error.mean(), mean),
            "prompt_loss": (error.mean(), error[loss.argmin()]),
            "oracle": (error.mean(), error.min()),
            "softmax_mean": (error.mean(), soft),
        }
        for rule, pair in expected.items():
            assert result.errors[rule][p, [0, 2]] == pytest.approx(pair, rel=1e-12)
        halves = [np.exp(-theta * (x - x.min())) for x in (loss[:4], loss[4:])]
        parts = [
            np.mean((h / h.sum() @ w[p, s] - truth[p]) ** 2)
            for h, s in zip(halves, (slice(4), slice(4, 8)), strict=True)
        ]
        assert result.errors["softmax_mean"][p, 1] == pytest.approx(np.mean(parts), rel=1e-12)


def test_candidates_of_a_model_follow_the_prediction_of_its_chains():
    rng = np.random.default_rng(1)
    X, w = rng.standard_normal((500, 20, 6)), rng.standard_normal((500, 6))
    y = np.einsum("pnd,pd->pn", X, w)
    layer = finite.LinearSelfAttention.gradient_descent(dim=6, step_size=0.5)
    found = numeric.select_candidates(
        layer.candidates(X, y, icl.NoisyDecoding(0.5, 0.4, 4, samples=16)), X, y, w, [1, 16]
    )
    decoding = icl.NoisyDecoding(0.5, 0.4, 4)
    for place, count in enumerate((1, 16)):
        predicted = float(icl.NoisyDecoding(0.5, 0.4, 4, count).risk(20, 6))
        risk = found.risk("mean")[place]
        assert abs(risk.value - predicted) < 5 * risk.standard_error < 0.3 * predicted
        assert not abs(risk.value - 1.5 * predicted) < 5 * risk.standard_error
    prompts = numeric.decoding_prompts(20, 6, 500, seed=2)
    best = numeric.simulate_selection(prompts, decoding, [16], pool=64).risk("prompt_loss")[0]
    gap = found.risk("prompt_loss")[1]
    spread = np.hypot(gap.standard_error, best.standard_error)
    assert abs(gap.value - best.value) < 5 * spread < 0.3 * best.value


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda w, X, y, b: (w[:, 0], X, y, b), {}, "pass \\(P, K, d\\) and \\(P, n, d\\)"),
        (lambda w, X, y, b: (w, X, y[:, 1:], b), {}, "pass \\(P, K, d\\), \\(P, n, d\\)"),
        (lambda w, X, y, b: (w[:1], X[:1], y[:1], b[:1]), {}, "at least 2"),
        (lambda w, X, y, b: (w * np.nan, X, y, b), {}, "candidates"),
        (lambda w, X, y, b: (w, X, y, b), {"samples": 9}, "numbers of 1 to 4"),
        (lambda w, X, y, b: (w, X, y, b), {"rules": "mean"}, "pass a tuple"),
        (lambda w, X, y, b: (w, X, y, b), {"rules": ("vote",)}, "'vote'"),
        (lambda w, X, y, b: (w, X, y, b), {"rules": ("softmax_mean",)}, "belong together"),
        (lambda w, X, y, b: (w, X, y, b), {"inverse_temperature": 1.0}, "belong together"),
    ],
)
def test_candidates_that_do_not_fit(change, options, message):
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.select_candidates(*change(*answers(4, 5, 3, 10)), **options)


def test_risk_against_thoughts():
    chain = icl.NoisyDecoding(0.4, 0.3, 12, label_noise_var=1)
    figure = numeric.risk_against_thoughts(chain, 40, 20, samples=[1, 8], prompts=300)
    assert [len(line.x) for line in figure.lines] == [13, 13]
    for line, points in zip(figure.lines, figure.points, strict=True):
        predicted = np.array(line.y)[np.array(points.x).astype(int)]
        z = (np.array(points.y) - predicted)[1:] / np.array(points.error)[1:]
        assert np.all(np.abs(z) < 5)
        assert not np.all(np.abs(z + 0.3 * predicted[1:] / np.array(points.error)[1:]) < 5)
    assert figure.lines[1].y[12] == pytest.approx(
        float(icl.NoisyDecoding(0.4, 0.3, 12, 8, 1).risk(40, 20)), rel=1e-12
    )
    assert "t = 12 for N = 8" in figure.caption
    assert not numeric.risk_against_thoughts(chain, 40, 20, at=()).points
    wrong: list[tuple[dict[str, Any], str]]
    wrong = [({"at": [3, 13]}, "beyond the 12"), ({"samples": 0}, "samples")]
    for options, message in wrong:
        with pytest.raises(icl.InvalidInput, match=message):
            numeric.risk_against_thoughts(chain, 40, 20, **options)


def test_among_equal_techniques_the_surest_wins():
    def part(name, error):
        choice = Choice(name, 3, 2, np.nan, 0.5, 0.1, error, 0.0)
        return SimpleNamespace(best=lambda budget: choice)

    settings = {"a": part("a", 0.01), "b": part("b", 0.001)}
    plan = numeric.Plan(SimpleNamespace(budget=10), settings, {})  # type: ignore[arg-type]
    assert [x.technique for x in plan.ranked] == ["b", "a"]


def test_refusals_that_say_what_to_do():
    with pytest.raises(icl.InvalidInput, match=r"icltheory\S+BinaryChannel; make it with numeric"):
        numeric.greedy_errors(icl.BinaryChannel())  # type: ignore[arg-type]
    prompts = numeric.decoding_prompts(20, 10, 10, seed=1)
    with pytest.raises(icl.InvalidInput, match="rule = 'soft' is not one of mean, prompt_loss"):
        numeric.selection_risk(prompts, CHAIN, 4, rule="soft")
    for vote in (numeric.majority_vote, numeric.plurality_vote):
        with pytest.raises(icl.InvalidInput, match="pass booleans"):
            vote(np.array([[0.3, 1.0]]), np.random.default_rng(0))
