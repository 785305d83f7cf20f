"""Claims of the multi-head study on other predictors, and on prompts as long as the dimension.

Linear attention, least squares and the Bayes predictor are what several heads are measured against;
with the dimension growing like the prompt length heads are compared by their effective number of
examples. The questions are those of Cui et al. (arXiv 2401.17426), the results are derived by
`icltheory`, and held against exact eigenvalue averages, quadrature and simulation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import sympy as sp

import icltheory as icl
from icltheory.attention import Attention
from icltheory.symbols import d, kappa, n
from numeric.architecture_map import architecture_map
from numeric.bayes import bayes_risk, eigenvalue_average
from numeric.claims import head_experiments as study
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.head_experiments import (
    COLOURS,
    DIM,
    GENERAL,
    LINEAR,
    ONE,
    SMALL,
    TWO,
    multihead_claim,
)
from numeric.claims.rows import curve, estimate_row, limit_row, points
from numeric.compare import Row, compare
from numeric.montecarlo import monte_carlo_risk
from numeric.plot import Figure
from numeric.risk import optimal_risk
from numeric.validate import measure_risk

# -- baselines -----------------------------------------------------------------------------------

NOISE = 0.25
NOISY = icl.LinearRegression(dim=DIM, noise_var=NOISE)
# Coefficients around a known mean of norm 1.
KNOWN = NOISY.replaced(coef_cov=sp.Rational(1, 50 * DIM), coef_mean=[1, 0, 0, 0, 0])


def linear_risk(length: int) -> float:
    """Smallest risk of linear attention, derived."""
    return float(icl.optimal_finite_prompt_risk(NOISY, LINEAR).subs(n=length))


def least_squares_risk(length: int) -> float:
    """Risk of ordinary least squares, derived."""
    return float(icl.least_squares_risk(NOISY).subs(n=length))


def bayes_law() -> tuple[float, float]:
    """The coefficients of 1/n and 1/n^2 of the Bayes risk, derived."""
    expr = sp.expand(icl.bayes_risk_expansion(NOISY).expr)
    return float(expr.coeff(n, -1)), float(expr.coeff(n, -2))


def bayes_gap() -> float:
    """Limit of the risk of the best heads, of any number, over the Bayes risk, derived."""
    return float(icl.lower_bound(NOISY)) / bayes_law()[0]


def eigenvalue_rows(length: int) -> Iterable[Row]:
    """Linear attention and least squares through the eigenvalues of X'X, averaged exactly."""
    average = partial(eigenvalue_average, DIM, float(length))
    best = float(optimal_risk(NOISY, LINEAR, length).value_scale)
    bias = average(lambda x: (1 - best * x / length) ** 2) / DIM
    linear = bias + NOISE * average(lambda x: (best / length) ** 2 * x)
    squares = NOISE * average(lambda x: 1 / x)
    for name, prediction, value in (
        ("linear attention", linear_risk(length), linear),
        ("least squares", least_squares_risk(length), squares),
    ):
        setting = {"n": length, "quantity": f"{name}, eigenvalue average"}
        yield compare(setting, prediction, value, 1e-9 * value)


def bayes_rows() -> Iterable[Row]:
    """The two leading orders of the Bayes risk, and the distance of all heads from it."""
    first, second = bayes_law()
    near, far = (m * (m * float(bayes_risk(NOISY, m)) - first) for m in (1e3, 1e4))
    yield limit_row({"quantity": "Bayes, n * (n * risk - constant), n = 1e4"}, second, near, far)
    lengths = (10**5, 10**6)
    ratios = [float(optimal_risk(NOISY, TWO, m).risk / bayes_risk(NOISY, m)) for m in lengths]
    yield limit_row({"quantity": "two heads over Bayes, n = 1e6"}, bayes_gap(), *ratios)
    ratios = [float(optimal_risk(NOISY, TWO, m).risk / linear_risk(m)) for m in lengths]
    yield limit_row({"quantity": "two heads over linear attention, n = 1e6"}, 1.0, *ratios)


def prior_crossing() -> float:
    """The prompt length up to which the prior alone beats two heads, derived."""
    return float(icl.prior_crossing(KNOWN, TWO))


def map_row() -> Row:
    """The border between the prior alone and two heads on the architecture map."""
    lengths = np.arange(300, 420)
    found = architecture_map([KNOWN], lengths, architectures={"two heads": TWO})
    wins = np.array([found.names[i] for i in found.best[0]]) == "two heads"
    first = int(np.argmax(wins))
    border = (lengths[first - 1] + lengths[first]) / 2
    setting = {"quantity": "border of the prior alone on the architecture map, n"}
    return compare(setting, prior_crossing(), border, 0.5)


def baseline_formula_rows() -> Iterable[Row]:
    """Every closed form against an exact average, or against exact risks."""
    for length in (10, 40):
        yield from eigenvalue_rows(length)
    yield from bayes_rows()
    yield map_row()


def ridge(penalty: float) -> Callable[..., np.ndarray]:
    """The ridge predictor; penalty 0 is least squares."""

    def predict(X: np.ndarray, y: np.ndarray, query: np.ndarray) -> np.ndarray:
        gram = X.transpose(0, 2, 1) @ X + penalty * np.eye(X.shape[2])
        moment = X.transpose(0, 2, 1) @ y[:, :, None]
        return np.einsum("bi,bi->b", query, np.linalg.solve(gram, moment)[:, :, 0])

    return predict


def baseline_rows(lengths: Iterable[int], effort: Effort) -> Iterable[Row]:
    """Every predictor on simulated prompts against its exact risk."""
    for length in lengths:
        predictions = {
            "least squares": (ridge(0.0), least_squares_risk(length)),
            "Bayes ridge": (ridge(NOISE * DIM), float(bayes_risk(NOISY, length))),
        }
        for name, (model, exact) in predictions.items():
            estimate = measure_risk(model, NOISY, length, prompts=4 * effort.prompts, seed=length)
            yield estimate_row({"n": length, "predictor": name}, exact, estimate)
        for name, attention, prediction in (
            ("linear attention", LINEAR, linear_risk(length)),
            ("two heads", TWO, None),
            ("one head", ONE, None),
        ):
            best = optimal_risk(NOISY, attention, length)
            estimate = monte_carlo_risk(
                NOISY,
                attention,
                length,
                score_scale=None if attention == LINEAR else float(best.score_scale),
                value_scale=float(best.value_scale),
                prompts=8 * effort.prompts,
                seed=length,
            )
            exact = float(best.risk) if prediction is None else prediction
            yield estimate_row({"n": length, "predictor": name}, exact, estimate)


def _baselines(effort: Effort, progress: Progress) -> Result:
    progress("exact averages", 0.0)
    exact = list(baseline_formula_rows())
    progress("simulation", 0.2)
    simulated = list(baseline_rows((20, 40, 80), effort))
    lengths = np.unique(np.round(np.geomspace(10, 300, 20))).astype(int)
    grid = tuple(map(float, lengths))
    curves = {
        "one head": optimal_risk(NOISY, ONE, lengths).risk,
        "two heads": optimal_risk(NOISY, TWO, lengths).risk,
        "linear attention": optimal_risk(NOISY, LINEAR, lengths).risk,
        "least squares": [least_squares_risk(int(m)) for m in lengths],
        "Bayes ridge": bayes_risk(NOISY, lengths),
    }
    colours = {**COLOURS, "least squares": 4, "Bayes ridge": 5}
    figure = study.risk_figure(
        "Attention between the trivial and the Bayes predictor",
        f"Exact risks at label noise {NOISE}, d = 5 (lines), and the predictors on simulated prompts "
        "(points, one standard error). Two heads lie one example behind linear attention; the ridge "
        f"predictor keeps a factor that tends to {bayes_gap():.2f} over any number of heads.",
        [curve(x, grid, y, (), colours[x]) for x, y in curves.items()],
        [
            points("", [r for r in simulated if r.setting["predictor"] == x], "n", colours[x])
            for x in curves
        ],
    )
    parts = (
        Part.of("closed forms against exact averages", exact),
        Part.of("simulated predictors", simulated),
    )
    return parts, figure


# -- prompts as long as the dimension --------------------------------------------------------------

RATIOS = (sp.Rational(1, 10), sp.Rational(1, 2), sp.Integer(2))


def proportional_optimum(attention: Attention, ratio: Any) -> float:
    """Limit of the smallest risk at d/n -> ratio without noise, derived."""
    return float(
        icl.optimal_proportional_risk(icl.LinearRegression(dim=d), attention).subs(gamma=ratio)
    )


def proportional_gain() -> float:
    """How many times more examples one head needs at any d/n, derived."""
    return float(icl.proportional_gain(icl.LinearRegression(dim=d)))


def proportional_risk(attention: Attention, ratio: Any, **scales: Any) -> float:
    """Limit of the risk at given scales, derived."""
    formula = icl.proportional_risk(icl.LinearRegression(dim=d), attention)
    return float(formula.subs(gamma=ratio, **scales))


def growing(length: int, ratio: Any) -> icl.LinearRegression:
    """The task of d = ratio * n."""
    return icl.LinearRegression(dim=int(ratio * length))


def proportional_rows() -> Iterable[Row]:
    """Optima at n = 8000, where 1/n has become small, and the factor in examples."""
    lengths = (4000, 8000)
    for ratio in RATIOS:
        for name, attention in (("one head", ONE), ("several heads", TWO), ("linear", LINEAR)):
            small = {"small_scores": True} if attention == TWO else {}
            risks = [
                float(optimal_risk(growing(m, ratio), attention, m, **small).risk) for m in lengths
            ]
            setting = {"d/n": float(ratio), "quantity": f"{name}, smallest risk at n = 8000"}
            yield limit_row(setting, proportional_optimum(attention, ratio), *risks)
    one = [optimal_risk(growing(m, 0.5), ONE, m) for m in lengths]
    scales = [float(x.score_scale * math.sqrt(m / 2)) for m, x in zip(lengths, one, strict=True)]
    best = icl.optimal_proportional_risk(icl.LinearRegression(dim=d), ONE).minimizer
    yield limit_row(
        {"d/n": 0.5, "quantity": "one head, best k sqrt(d)"}, float(best[kappa]), *scales
    )
    factors, other = [], sp.Dummy("n", positive=True)
    for m, x in zip(lengths, one, strict=True):
        several = icl.optimal_finite_prompt_risk(growing(m, 0.5), TWO).expr
        (same,) = sp.solve(several.subs(n, other) - sp.Float(x.risk), other)
        factors.append(m / float(same))
    yield limit_row(
        {"d/n": 0.5, "quantity": "examples of one head over several"}, proportional_gain(), *factors
    )


def proportional_layer_rows(effort: Effort) -> Iterable[Row]:
    """Simulated layers of d = 1000, n = 2000 against the limit, at scales that are not the best."""
    length, ratio = 2000, sp.Rational(1, 2)
    task = growing(length, ratio)
    root = sp.sqrt(d)
    layers = {
        "one head": (ONE, {"kappa": 0.8, "a": 0.5}, [0.8], [0.5 / 0.8]),
        "pair": (TWO, {"kappa": 0.8, "a": 0.7}, [0.8, -0.8], [0.7 / 1.6, -0.7 / 1.6]),
        "three heads": (None, {}, [1, -0.5, 0.3], [0.4, -0.3, 0.2]),
    }
    for name, (attention, scales, scores, values) in layers.items():
        heads = icl.SoftmaxAttention(
            scores=[sp.nsimplify(x) / root for x in scores],
            values=[sp.nsimplify(x) * root for x in values],
        )
        limit = proportional_risk(heads if attention is None else attention, ratio, **scales)
        size = math.sqrt(int(task.dim))
        layer = icl.SoftmaxAttention(
            scores=[x / size for x in scores], values=[x * size for x in values]
        )
        estimate = monte_carlo_risk(
            task, layer, length, prompts=max(effort.prompts // 10, 200), seed=7
        )
        # What 1/n has left of the distance.
        yield estimate_row({"layer": name, "d": 1000, "n": length}, limit, estimate, 0.003)


def _proportional(effort: Effort, progress: Progress) -> Result:
    progress("quadrature", 0.0)
    exact = list(proportional_rows())
    progress("simulation", 0.4)
    layers = list(proportional_layer_rows(effort))
    grid = np.geomspace(0.02, 5, 40)
    lines, marks = [], []
    for name, attention in (("one head", ONE), ("two heads", TWO)):
        limit = [proportional_optimum(attention, float(x)) for x in grid]
        lines.append(curve(f"{name}, limit", grid, limit, (), COLOURS[name]))
        rows = []
        for ratio in (0.05, 0.2, 1.0, 4.0):
            length = int(200 / ratio)
            task = icl.LinearRegression(dim=200)
            best = optimal_risk(task, attention, length)
            estimate = monte_carlo_risk(
                task,
                attention,
                length,
                score_scale=float(best.score_scale) or SMALL / 10,
                value_scale=float(best.value_scale),
                prompts=max(effort.prompts // 20, 200),
                seed=length,
            )
            rows.append(estimate_row({"ratio": ratio}, float(best.risk), estimate))
        marks.append(points(f"{name}, d = 200", rows, "ratio", COLOURS[name]))
    figure = Figure(
        "Prompts as long as the dimension",
        "d / n",
        "risk",
        "Limits of the smallest risk for d/n fixed and n to infinity (lines), and simulated layers at "
        "the best parameters of d = 200 (points, one standard error): several heads are worth e times "
        "as many examples, at every d/n.",
        tuple(lines),
        tuple(marks),
        logy=False,
    )
    parts = (
        Part.of("limits against exact risks at n = 8000", exact),
        Part.of("simulated layers", layers),
    )
    return parts, figure


# -- the claims ------------------------------------------------------------------------------------

register(
    multihead_claim(
        id="multihead-baselines",
        title="Linear attention, least squares and the Bayes predictor",
        statement="The constant of several heads is that of linear attention; in small scores they "
        "lose one example to centring. No number of heads reaches the Bayes predictor.",
        formulas=lambda: (
            icl.optimal_finite_prompt_risk(GENERAL, LINEAR),
            icl.least_squares_risk(GENERAL),
            icl.bayes_risk_expansion(GENERAL),
            icl.lower_bound(GENERAL),
            icl.prior_crossing(KNOWN, TWO),
        ),
        experiment=_baselines,
    )
)
register(
    multihead_claim(
        id="multihead-proportional",
        title="Prompts as long as the dimension",
        statement="With d/n fixed, several heads are worth exactly e times as many examples as one "
        "head, whose best score scale is 1/sqrt(d).",
        formulas=lambda: (
            icl.optimal_proportional_risk(GENERAL, ONE),
            icl.optimal_proportional_risk(GENERAL, TWO),
            icl.proportional_gain(GENERAL),
        ),
        experiment=_proportional,
    )
)
