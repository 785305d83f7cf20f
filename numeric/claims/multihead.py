"""Claims of Cui et al., "Superiority of Multi-Head Attention in In-Context Linear Regression".

The abstract (arXiv 2401.17426) announces risks of order 1/n for one and for several heads, with a
smaller constant for several heads, also for noisy labels and correlated features. It contains no
formula; the constants are derived by `icltheory`. Every claim is held against exact quadrature at
large n, against simulation of the real softmax layer, and against trained models.
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
from icltheory.formula import CUI, Formula
from icltheory.symbols import d, noise_var, t
from numeric.claims.base import Claim, Effort, Part, Progress, estimate_row, points, register
from numeric.compare import Comparison, Row, compare
from numeric.montecarlo import Estimate, monte_carlo_constant, monte_carlo_risk
from numeric.plot import Figure, Series
from numeric.risk import exact_risk, optimal_risk
from numeric.validate import measure_risk

DIM = 5
BASE = icl.LinearRegression(dim=DIM)
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
        yield compare(
            {**label, "quantity": f"one head, t = {factor * scale:.5f}, n * risk at n = 1e8"},
            loss_constant(task, ONE, factor * scale),
            values[1],
            abs(values[1] - values[0]),
        )
    for name, attention, constant in (
        ("one head", ONE, best),
        ("two heads", TWO, optimal_constant(task, TWO)[0]),
    ):
        near_value, far_value = (
            n * float(optimal_risk(task, attention, n).risk) for n in (near, far)
        )
        yield compare(
            {**label, "quantity": f"{name}, best parameters, n * risk at n = 1e8"},
            constant,
            far_value,
            abs(far_value - near_value),
        )


def gain_row(task: icl.LinearRegression, label: dict[str, Any]) -> Row:
    """The gain of several heads against the ratio of optimal risks at n = 1e8."""
    near, far = (
        _ratio(optimal_risk(task, ONE, n).risk, optimal_risk(task, TWO, n).risk) for n in (1e7, 1e8)
    )
    quantity = "risk of one head over that of two, n = 1e8"
    return compare({**label, "quantity": quantity}, gain(task), far, abs(far - near))


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
        "learned k": _signed(learned.score_scales),
        "learned v": _signed(learned.values),
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
        Series(
            f"{name}, predicted{suffix}",
            tuple(float(n) for n in lengths),
            tuple(float(r) for r in optimal_risk(task, kinds[name], lengths).risk),
            color=COLOURS[name],
        )
        for name in names
    )


def risk_figure(title: str, caption: str, lines: Any, measured: Any) -> Figure:
    """Risk against prompt length on log axes."""
    return Figure(title, "prompt length n", "risk", caption, tuple(lines), tuple(measured))


# -- the claims ----------------------------------------------------------------------------------


def _single_head(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
    progress("quadrature", 0.0)
    exact = [row for row in quadrature_rows(BASE, {}) if "one head" in row.setting["quantity"]]
    k = math.sqrt(optimal_constant(BASE, ONE)[1])
    slopes = [
        math.log10(exact_risk(BASE, ONE, 10 * n, score_scale=k, value_scale=1 / k))
        - math.log10(exact_risk(BASE, ONE, n, score_scale=k, value_scale=1 / k))
        for n in (1e5, 1e6)
    ]
    exact.append(
        compare(
            {"quantity": "exponent of n between n = 1e6 and 1e7"},
            -1.0,
            slopes[1],
            abs(slopes[1] - slopes[0]),
        )
    )
    exact += [row for row in query_rows(BASE, effort, {}) if "one head" in row.setting["quantity"]]
    progress("simulation of the layer", 0.1)
    layer = list(layer_rows(BASE, (50, 200), effort, {}, heads=(1,)))
    models = []
    for i, n in enumerate(effort.prompt_lengths):
        progress(f"training one head at n = {n}", 0.3 + 0.7 * i / len(effort.prompt_lengths))
        models.append(trained_row(BASE, 1, n, effort, {}))
    figure = risk_figure(
        "One softmax head: risk of order 1/n",
        "Predicted optimal risk of one head (line) and its 1/n asymptote; trained one-head models with "
        "full score matrices lie on the line (points, one standard error).",
        (*risk_lines(BASE, ["one head"]), _asymptote(BASE, ONE, "one head")),
        [points("one head, trained", models, "n", COLOURS["one head"])],
    )
    return _parts(exact, layer, models), figure


def _several_heads(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
    progress("quadrature", 0.0)
    exact = [row for row in quadrature_rows(BASE, {}) if "two heads" in row.setting["quantity"]]
    exact += [row for row in query_rows(BASE, effort, {}) if "two heads" in row.setting["quantity"]]
    progress("simulation of the layer", 0.1)
    layer = list(layer_rows(BASE, (50, 200), effort, {}, heads=(2,)))
    models = []
    for i, n in enumerate(effort.prompt_lengths):
        progress(f"training two heads at n = {n}", 0.3 + 0.7 * i / len(effort.prompt_lengths))
        models.append(trained_row(BASE, 2, n, effort, {}))
    figure = risk_figure(
        "Two softmax heads: the constant of linear attention",
        "Predicted risk of two heads in the limit of small opposite scores, and of linear attention "
        "(lines): they differ by one example. Trained two-head models started with values of opposite "
        "sign lie on the line (points, one standard error).",
        risk_lines(BASE, ["two heads", "linear attention"]),
        [points("two heads, trained", models, "n", COLOURS["two heads"])],
    )
    return _parts(exact, layer, models), figure


def _advantage(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
    progress("quadrature", 0.0)
    factor = gain(BASE)
    exact = [gain_row(BASE, {})]
    progress("simulation of the layer", 0.1)
    layer = []
    for n in (50, 200):
        rows = list(layer_rows(BASE, (n,), effort, {}))
        layer.append(
            _ratio_row({"n": n, "quantity": "risk ratio of the simulated layers"}, rows[0], rows[1])
        )
    lengths = effort.compared_lengths
    models, pairs, same = [], [], []
    for i, n in enumerate(lengths):
        progress(f"training one and two heads at n = {n}", 0.2 + 0.55 * i / len(lengths))
        one, two = trained_row(BASE, 1, n, effort, {}), trained_row(BASE, 2, n, effort, {})
        pairs += [one, two]
        models.append(
            _ratio_row({"n": n, "quantity": "risk ratio of the trained models"}, one, two, TRAINED)
        )
    middle = lengths[-1] if len(lengths) == 1 else lengths[1]
    progress(f"training two heads of the same sign at n = {middle}", 0.85)
    same.append(trained_row(BASE, 2, middle, effort, {}, start="same"))
    figure = risk_figure(
        "One head against two heads",
        f"Predicted optimal risks (lines; the ratio tends to {factor:.3f}) and trained models (points, one "
        "standard error). Two heads whose values start with the same sign stay near the one-head optimum: "
        "a second basin, so several heads win only if their values can take opposite signs.",
        risk_lines(BASE, ["one head", "two heads"]),
        [
            points("one head, trained", pairs[0::2], "n", COLOURS["one head"]),
            points("two heads, opposite start", pairs[1::2], "n", COLOURS["two heads"]),
            points("two heads, same-sign start", same, "n", COLOURS["same sign"]),
        ],
    )
    parts = _parts(exact, layer, models)
    return (
        *parts,
        Part("second basin: values started with the same sign", Comparison.from_rows(same), 1.3),
    ), figure


def _noisy_labels(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
    exact, layer, models, lines, measured = [], [], [], [], []
    n = effort.compared_lengths[-1]
    for i, noise in enumerate(NOISES):
        task, label = icl.LinearRegression(dim=DIM, noise_var=noise), {"noise_var": noise}
        progress(f"noise variance {noise}: simulation", i / len(NOISES))
        exact += quadrature_rows(task, label)
        exact.append(gain_row(task, label))
        layer += layer_rows(task, (50,), effort, label)
        for heads in (1, 2):
            progress(
                f"noise variance {noise}: training {heads} head(s)", (i + 0.3 * heads) / len(NOISES)
            )
            models.append(trained_row(task, heads, n, effort, label))
    noises = np.linspace(0, 1.2, 13)
    for name, attention, index in (("one head", ONE, 0), ("two heads", TWO, 1)):
        values = [
            optimal_risk(icl.LinearRegression(dim=DIM, noise_var=float(x)), attention, n)
            for x in noises
        ]
        lines.append(
            Series(
                f"{name}, predicted",
                tuple(map(float, noises)),
                tuple(float(r.risk) for r in values),
                color=COLOURS[name],
            )
        )
        measured.append(points(f"{name}, trained", models[index::2], "noise_var", COLOURS[name]))
    figure = Figure(
        "Noisy labels",
        "label noise variance",
        "risk",
        f"Predicted optimal excess risk at n = {n} against the label noise (lines) and trained models "
        "(points, one standard error): the gap between one and two heads widens with the noise.",
        tuple(lines),
        tuple(measured),
        logx=False,
        logy=False,
    )
    return _parts(exact, layer, models), figure


def _correlated_features(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
    progress("quadrature", 0.0)
    exact = list(quadrature_rows(CORRELATED, {}))
    exact += query_rows(CORRELATED, effort, {})
    progress("simulation of the layer", 0.1)
    layer = list(layer_rows(CORRELATED, (50,), effort, {}))
    n = effort.compared_lengths[-1]
    models = []
    for heads in (1, 2):
        progress(f"training {heads} head(s) at n = {n}", 0.25 * heads)
        models.append(trained_row(MATCHED, heads, n, effort, {}))
    progress(f"training one head, coefficients N(0, I/d), at n = {n}", 0.75)
    free, _ = trained(CORRELATED, 1, n, effort)
    best = float(optimal_risk(CORRELATED, ONE, n).risk)
    figure = risk_figure(
        "Correlated features",
        "Feature covariance 1.5 * 0.5^|i-j|. Predicted optimal risks of one and two heads with scores "
        "proportional to the inverse covariance (lines), divided by the signal tr(Sigma M), and "
        "trained models with free score matrices (points, one standard error), for coefficients of "
        "covariance Sigma^{-1}/d. Not judged: with coefficients N(0, I/d) one free head reaches "
        f"{free.value / best:.3f} of the predicted risk, since only n -> infinity forces the inverse "
        "covariance there.",
        risk_lines(MATCHED, ["one head", "two heads"]),
        [
            points("one head, trained", models[:1], "n", COLOURS["one head"]),
            points("two heads, trained", models[1:], "n", COLOURS["two heads"]),
            Series(
                "one head, coefficients N(0, I/d)",
                (float(n),),
                (free.value / float(CORRELATED.signal),),
                (free.standard_error / float(CORRELATED.signal),),
                COLOURS["same sign"],
            ),
        ],
    )
    return _parts(exact, layer, models), figure


def _parts(exact: list[Row], layer: list[Row], models: list[Row]) -> tuple[Part, ...]:
    return (
        Part("exact results at large n", Comparison.from_rows(exact)),
        Part("simulation of the real softmax layer", Comparison.from_rows(layer)),
        # A trained model is allowed 5 % of optimisation error: its control is a 20 % change.
        Part("trained models", Comparison.from_rows(models), 1.2),
    )


def _ratio(a: Any, b: Any) -> float:
    return float(a) / float(b)


def _ratio_row(setting: dict[str, Any], one: Row, two: Row, allowance: float = 0.0) -> Row:
    """Ratio of two independent estimates; relative errors add in squares."""
    ratio = one.estimate / two.estimate
    relative = math.hypot(
        (one.standard_error or math.nan) / one.estimate,
        (two.standard_error or math.nan) / two.estimate,
    )
    return compare(setting, one.prediction / two.prediction, ratio, ratio * relative, 2 * allowance)


def _asymptote(task: icl.LinearRegression, attention: Attention, name: str) -> Series:
    constant = optimal_constant(task, attention)[0]
    return Series(
        f"{name}, {constant:.4g}/n",
        (30.0, 1000.0),
        (constant / 30, constant / 1000),
        color=COLOURS[name],
    )


def _signed(values: Any) -> str:
    return ", ".join(f"{float(x):+.3f}" for x in np.atleast_1d(values))


def _general(attention: Attention) -> Formula:
    return icl.optimal_loss_constant(icl.LinearRegression(dim=d, noise_var=noise_var), attention)


_claim = partial(Claim, paper="multihead", source=CUI)

register(
    _claim(
        id="multihead-single-head",
        title="One head has risk of order 1/n",
        statement="The risk of one softmax head decays like 1/n, with a constant that has a finite "
        "optimal score scale.",
        formulas=lambda: (
            icl.loss_constant(icl.LinearRegression(dim=d, noise_var=noise_var), ONE),
            _general(ONE),
        ),
        experiment=_single_head,
    )
)
register(
    _claim(
        id="multihead-several-heads",
        title="Several heads have a smaller constant",
        statement="Two heads reach the constant (1 + noise) d + 1 of linear attention, as an infimum for "
        "small opposite scores. By the derivation no number of heads does better at this order.",
        formulas=lambda: (
            icl.loss_constant(icl.LinearRegression(dim=d, noise_var=noise_var), TWO),
            _general(TWO),
        ),
        experiment=_several_heads,
    )
)
register(
    _claim(
        id="multihead-advantage",
        title="One head is worse by the predicted factor",
        statement="The ratio of the two optimal constants is the factor by which one head needs more "
        "examples; it tends to e for large dimension.",
        formulas=lambda: (icl.multihead_gain(icl.LinearRegression(dim=d, noise_var=noise_var)),),
        experiment=_advantage,
    )
)
register(
    _claim(
        id="multihead-noisy-labels",
        title="Noisy labels",
        statement="With label noise both constants grow, and the advantage of several heads grows.",
        formulas=lambda: (_general(ONE), _general(TWO)),
        experiment=_noisy_labels,
    )
)
register(
    _claim(
        id="multihead-correlated-features",
        title="Correlated features",
        statement="With correlated features and scores proportional to the inverse covariance, the "
        "constants are those of the isotropic task scaled by the signal.",
        formulas=lambda: (
            icl.optimal_loss_constant(CORRELATED, ONE),
            icl.optimal_loss_constant(CORRELATED, TWO),
        ),
        experiment=_correlated_features,
    )
)
