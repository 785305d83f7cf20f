"""Predictions, experiments and figures that the multi-head claims share.

A prediction is derived by `icltheory`; an experiment gives rows of a Comparison: exact quadrature at
large n, averages over sampled queries, the real softmax layer token by token, and trained models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import sympy as sp

import icltheory as icl
from icltheory.attention import Attention
from icltheory.formula import CUI
from icltheory.symbols import d, noise_var, t
from numeric.claims.base import Claim, Effort, Part
from numeric.claims.rows import curve, estimate_row, limit_row, scatter
from numeric.compare import Row, compare
from numeric.montecarlo import Estimate, monte_carlo_constant, monte_carlo_risk
from numeric.plot import Figure, Series
from numeric.risk import exact_risk, optimal_risk
from numeric.validate import measure_risk

DIM = 5
BASE = icl.LinearRegression(dim=DIM)
GENERAL = icl.LinearRegression(dim=d, noise_var=noise_var)
ONE, TWO, LINEAR = (
    icl.SoftmaxAttention(heads=1),
    icl.SoftmaxAttention(heads=2),
    icl.LinearAttention(),
)
NOISES = (0.25, 1.0)
COVARIANCE = sp.Matrix(DIM, DIM, lambda i, j: sp.Rational(3, 2) * sp.Rational(1, 2) ** abs(i - j))
CORRELATED = icl.LinearRegression(dim=DIM, feature_cov=COVARIANCE)
# Coefficients for which every whitened direction carries the same signal. Only then is a multiple
# of the inverse covariance the best score matrix at finite n as well: with coefficients N(0, I/d)
# consistency forces it for n -> infinity only, and a free score matrix does better before.
MATCHED = icl.LinearRegression(dim=DIM, feature_cov=COVARIANCE, coef_cov=COVARIANCE.inv() / DIM)
# Score scale at which the symmetric pair stands for its limit k -> 0: k^2 changes the risk by less
# than 1e-4 of itself for the prompt lengths used here.
SMALL = 0.02
# Accepted deviation of a trained risk from the predicted optimum: optimisation is not exact.
TRAINED = 0.05
multihead_claim = partial(Claim, paper="multihead", source=CUI)

COLOURS = {"one head": 0, "two heads": 1, "same sign": 2, "linear attention": 3}


# -- predictions ---------------------------------------------------------------------------------


def loss_constant(task: icl.LinearRegression, attention: Attention, scale: float) -> float:
    """lim n * risk on the consistent manifold at t = scale, derived."""
    return float(icl.loss_constant(task, attention).subs(t=scale))


def optimal_constant(task: icl.LinearRegression, attention: Attention) -> tuple[float, float]:
    """Infimum of lim n * risk, and its t (0 where it is not attained)."""
    best = icl.optimal_loss_constant(task, attention)
    scale = float(best.minimizer[t]) if best.minimizer and t in best.minimizer else 0.0
    return float(best), scale


def gain(task: icl.LinearRegression) -> float:
    """Ratio of the optimal constants of one and of several heads."""
    return float(icl.multihead_gain(task))


# -- experiments ---------------------------------------------------------------------------------


def quadrature_rows(task: icl.LinearRegression, label: dict[str, Any]) -> Iterable[Row]:
    """n * risk by quadrature at n = 1e8 against the constants; the error is its change from 1e7."""
    near, far = 1e7, 1e8
    best, scale = optimal_constant(task, ONE)
    for factor in (0.5, 1.0):
        k = math.sqrt(factor * scale)
        values = [
            n * exact_risk(task, ONE, n, score_scale=k, value_scale=1 / k) for n in (near, far)
        ]
        yield limit_row(
            {**label, "quantity": f"one head, t = {factor * scale:.5f}, n * risk at n = 1e8"},
            loss_constant(task, ONE, factor * scale),
            *values,
        )
    for name, attention, constant in (
        ("one head", ONE, best),
        ("two heads", TWO, optimal_constant(task, TWO)[0]),
    ):
        values = [n * float(optimal_risk(task, attention, n).risk) for n in (near, far)]
        quantity = f"{name}, best parameters, n * risk at n = 1e8"
        yield limit_row({**label, "quantity": quantity}, constant, *values)


def gain_row(task: icl.LinearRegression, label: dict[str, Any]) -> Row:
    """The gain of several heads against the ratio of optimal risks at n = 1e8."""
    near, far = (
        ratio(optimal_risk(task, ONE, n).risk, optimal_risk(task, TWO, n).risk) for n in (1e7, 1e8)
    )
    quantity = "risk of one head over that of two, n = 1e8"
    return limit_row({**label, "quantity": quantity}, gain(task), near, far)


def query_rows(task: icl.LinearRegression, effort: Effort, label: dict[str, Any]) -> Iterable[Row]:
    """The constants against averages over sampled queries (finite variance: t < 1/4)."""
    scale = optimal_constant(task, ONE)[1]
    for name, attention, heads, at in (
        ("one head", ONE, 1, scale),
        ("two heads", TWO, 2, 0.02),
    ):
        k = math.sqrt(at)
        estimate = monte_carlo_constant(
            task,
            attention,
            score_scale=k,
            value_scale=1 / (heads * k),
            prompts=20 * effort.prompts,
            seed=1,
        )
        yield estimate_row(
            {**label, "quantity": f"{name}, t = {at:.5f}, constant over sampled queries"},
            loss_constant(task, attention, at),
            estimate,
        )


def layer_rows(
    task: icl.LinearRegression,
    lengths: Iterable[int],
    effort: Effort,
    label: dict[str, Any],
    heads: tuple[int, ...] = (1, 2),
) -> Iterable[Row]:
    """The real softmax layer, token by token, at given parameters, against its exact risk."""
    scale = optimal_constant(task, ONE)[1]
    for n in lengths:
        # Short prompts are sampled whole, coordinate by coordinate; for long ones only the scores
        # are, the rest being averaged exactly.
        plain = n <= 50
        options: dict[str, Any] = (
            {"sampler": "plain", "prompts": 8 * effort.prompts}
            if plain
            else {"sampler": "reduced", "prompts": 4 * effort.prompts}
        )
        for count, attention, k in ((1, ONE, math.sqrt(scale)), (2, TWO, SMALL)):
            if count not in heads:
                continue
            estimate = monte_carlo_risk(
                task,
                attention,
                n,
                score_scale=k,
                value_scale=1 / (count * k),
                seed=n + count,
                **options,
            )
            # The pair stands for its limit k -> 0, where the layer depends on sum v k = 1 only.
            exact = (
                exact_risk(task, ONE, n, score_scale=k, value_scale=1 / k)
                if count == 1
                else exact_risk(task, TWO, n, value_scale=1.0)
            )
            layer = f"k = {k:.4f}, v = 1/k" if count == 1 else f"k = +-{k}, v = +-1/(2k)"
            setting = {
                **label,
                "n": n,
                "heads": count,
                "layer": layer,
                "sampler": options["sampler"],
            }
            yield estimate_row(setting, float(exact), estimate)


def trained(
    task: icl.LinearRegression, heads: int, n: int, effort: Effort, start: str = "opposite"
) -> tuple[Estimate, dict[str, Any]]:
    """Train a layer with full score matrices; its risk on fresh prompts and what it learned."""
    from numeric import finite

    model = finite.SoftmaxAttention(DIM, heads=heads, values=start, seed=n + heads)
    finite.train(model, task, n, steps=effort.training_steps, seed=n, progress=False)
    risk = measure_risk(model, task, n, prompts=8 * effort.prompts, seed=10_000 + n)
    learned = model.learned(task)
    settings: dict[str, Any] = {
        "learned k": signed(learned.score_scales),
        "learned v": signed(learned.values),
    }
    if heads > 1:
        settings["learned sum v k"] = round(learned.sum_value_scores, 3)
    return risk, settings


def trained_row(
    task: icl.LinearRegression,
    heads: int,
    n: int,
    effort: Effort,
    label: dict[str, Any],
    start: str = "opposite",
) -> Row:
    """A trained layer against the predicted optimum (of one head, for values of the same sign)."""
    risk, learned = trained(task, heads, n, effort, start)
    best = optimal_risk(task, ONE if heads == 1 or start == "same" else TWO, n)
    setting = {
        **label,
        "n": n,
        "heads": heads,
        **({"start": start} if heads > 1 else {}),
        **learned,
    }
    k, value = float(best.score_scale), float(best.value_scale)
    if heads > 1 and start == "opposite":
        setting["predicted"] = f"sum v k = {2 * k * value:.3f}, sum v = 0"
    else:
        setting["predicted"] = f"k = {k:.3f}, {'' if heads == 1 else 'sum '}v = {value:.3f}"
    return estimate_row(setting, float(best.risk), risk, allowance=TRAINED)


# -- figures -------------------------------------------------------------------------------------


def risk_lines(
    task: icl.LinearRegression, names: Iterable[str], suffix: str = ""
) -> tuple[Series, ...]:
    """Predicted optimal risk against prompt length, one line an architecture."""
    lengths = np.unique(np.round(np.geomspace(10, 1000, 25))).astype(int)
    kinds = {"one head": ONE, "two heads": TWO, "linear attention": LINEAR}
    return tuple(
        curve(
            f"{name}, predicted{suffix}",
            lengths,
            optimal_risk(task, kinds[name], lengths).risk,
            color=COLOURS[name],
        )
        for name in names
    )


def risk_figure(title: str, caption: str, lines: Any, measured: Any) -> Figure:
    """Risk against prompt length on log axes."""
    return Figure(title, "prompt length n", "risk", caption, tuple(lines), tuple(measured))


def scaled_points(label: str, rows: Iterable[Row], color: int) -> Series:
    """Measured n * risk of rows against n, with one standard error."""
    table = [(float(r.setting["n"]), r.estimate, r.standard_error or 0.0) for r in rows]
    return scatter(label, [(n, n * value, n * error) for n, value, error in table], color)


def standard_parts(
    exact: list[Row],
    layer: list[Row],
    models: list[Row],
    title: str = "exact results at large n",
) -> tuple[Part, ...]:
    """Exact rows under `title`, the simulated layer, and trained models."""
    return (
        Part.of(title, exact),
        Part.of("simulation of the real softmax layer", layer),
        # A trained model is allowed 5 % of optimisation error: its control is a 20 % change.
        Part.of("trained models", models, 1.2),
    )


def ratio(a: Any, b: Any) -> float:
    return float(a) / float(b)


def ratio_row(setting: dict[str, Any], one: Row, two: Row, allowance: float = 0.0) -> Row:
    """Ratio of two independent estimates; relative errors add in squares."""
    quotient = one.estimate / two.estimate
    relative = math.hypot(
        (one.standard_error or math.nan) / one.estimate,
        (two.standard_error or math.nan) / two.estimate,
    )
    return compare(
        setting, one.prediction / two.prediction, quotient, quotient * relative, 2 * allowance
    )


def asymptote(task: icl.LinearRegression, attention: Attention, name: str) -> Series:
    constant = optimal_constant(task, attention)[0]
    return curve(
        f"{name}, {constant:.4g}/n",
        (30.0, 1000.0),
        (constant / 30, constant / 1000),
        color=COLOURS[name],
    )


def signed(values: Any) -> str:
    return ", ".join(f"{float(x):+.3f}" for x in np.atleast_1d(values))
