"""Claims of Cui et al., "Superiority of Multi-Head Attention in In-Context Linear Regression".

The abstract (arXiv 2401.17426) announces risks of order 1/n for one and for several heads, with a
smaller constant for several heads, also for noisy labels and correlated features. It contains no
formula; the constants are derived by `icltheory`. Every claim is held against exact quadrature at
large n, against simulation of the real softmax layer, and against trained models.
"""

from __future__ import annotations

import math

import numpy as np

import icltheory as icl
from numeric.claims import head_experiments as study
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.head_experiments import (
    BASE,
    COLOURS,
    CORRELATED,
    DIM,
    GENERAL,
    MATCHED,
    NOISES,
    ONE,
    TRAINED,
    TWO,
    multihead_claim,
)
from numeric.claims.rows import curve, limit_row, points
from numeric.plot import Figure
from numeric.risk import exact_risk, optimal_risk


def _single_head(effort: Effort, progress: Progress) -> Result:
    progress("quadrature", 0.0)
    exact = [
        row for row in study.quadrature_rows(BASE, {}) if "one head" in row.setting["quantity"]
    ]
    k = math.sqrt(study.optimal_constant(BASE, ONE)[1])
    slopes = [
        math.log10(exact_risk(BASE, ONE, 10 * n, score_scale=k, value_scale=1 / k))
        - math.log10(exact_risk(BASE, ONE, n, score_scale=k, value_scale=1 / k))
        for n in (1e5, 1e6)
    ]
    exact.append(limit_row({"quantity": "exponent of n between n = 1e6 and 1e7"}, -1.0, *slopes))
    exact += [
        row for row in study.query_rows(BASE, effort, {}) if "one head" in row.setting["quantity"]
    ]
    progress("simulation of the layer", 0.1)
    layer = list(study.layer_rows(BASE, (50, 200), effort, {}, heads=(1,)))
    models = []
    for i, n in enumerate(effort.prompt_lengths):
        progress(f"training one head at n = {n}", 0.3 + 0.7 * i / len(effort.prompt_lengths))
        models.append(study.trained_row(BASE, 1, n, effort, {}))
    figure = study.risk_figure(
        "One softmax head: risk of order 1/n",
        "Predicted optimal risk of one head (line) and its 1/n asymptote; trained one-head models with "
        "full score matrices lie on the line (points, one standard error).",
        (*study.risk_lines(BASE, ["one head"]), study.asymptote(BASE, ONE, "one head")),
        [points("one head, trained", models, "n", COLOURS["one head"])],
    )
    return study.standard_parts(exact, layer, models), figure


def _several_heads(effort: Effort, progress: Progress) -> Result:
    progress("quadrature", 0.0)
    exact = [
        row for row in study.quadrature_rows(BASE, {}) if "two heads" in row.setting["quantity"]
    ]
    exact += [
        row for row in study.query_rows(BASE, effort, {}) if "two heads" in row.setting["quantity"]
    ]
    progress("simulation of the layer", 0.1)
    layer = list(study.layer_rows(BASE, (50, 200), effort, {}, heads=(2,)))
    models = []
    for i, n in enumerate(effort.prompt_lengths):
        progress(f"training two heads at n = {n}", 0.3 + 0.7 * i / len(effort.prompt_lengths))
        models.append(study.trained_row(BASE, 2, n, effort, {}))
    figure = study.risk_figure(
        "Two softmax heads: the constant of linear attention",
        "Predicted risk of two heads in the limit of small opposite scores, and of linear attention "
        "(lines): they differ by one example. Trained two-head models started with values of opposite "
        "sign lie on the line (points, one standard error).",
        study.risk_lines(BASE, ["two heads", "linear attention"]),
        [points("two heads, trained", models, "n", COLOURS["two heads"])],
    )
    return study.standard_parts(exact, layer, models), figure


def _advantage(effort: Effort, progress: Progress) -> Result:
    progress("quadrature", 0.0)
    factor = study.gain(BASE)
    exact = [study.gain_row(BASE, {})]
    progress("simulation of the layer", 0.1)
    layer = []
    for n in (50, 200):
        rows = list(study.layer_rows(BASE, (n,), effort, {}))
        layer.append(
            study.ratio_row(
                {"n": n, "quantity": "risk ratio of the simulated layers"}, rows[0], rows[1]
            )
        )
    lengths = effort.compared_lengths
    models, pairs, same = [], [], []
    for i, n in enumerate(lengths):
        progress(f"training one and two heads at n = {n}", 0.2 + 0.55 * i / len(lengths))
        one, two = (
            study.trained_row(BASE, 1, n, effort, {}),
            study.trained_row(BASE, 2, n, effort, {}),
        )
        pairs += [one, two]
        models.append(
            study.ratio_row(
                {"n": n, "quantity": "risk ratio of the trained models"}, one, two, TRAINED
            )
        )
    middle = lengths[-1] if len(lengths) == 1 else lengths[1]
    progress(f"training two heads of the same sign at n = {middle}", 0.85)
    same.append(study.trained_row(BASE, 2, middle, effort, {}, start="same"))
    figure = study.risk_figure(
        "One head against two heads",
        f"Predicted optimal risks (lines; the ratio tends to {factor:.3f}) and trained models (points, one "
        "standard error). Two heads whose values start with the same sign stay near the one-head optimum: "
        "a second basin, so several heads win only if their values can take opposite signs.",
        study.risk_lines(BASE, ["one head", "two heads"]),
        [
            points("one head, trained", pairs[0::2], "n", COLOURS["one head"]),
            points("two heads, opposite start", pairs[1::2], "n", COLOURS["two heads"]),
            points("two heads, same-sign start", same, "n", COLOURS["same sign"]),
        ],
    )
    parts = study.standard_parts(exact, layer, models)
    return (
        *parts,
        Part.of("second basin: values started with the same sign", same, 1.3),
    ), figure


def _noisy_labels(effort: Effort, progress: Progress) -> Result:
    exact, layer, models, lines, measured = [], [], [], [], []
    n = effort.compared_lengths[-1]
    for i, noise in enumerate(NOISES):
        task, label = icl.LinearRegression(dim=DIM, noise_var=noise), {"noise_var": noise}
        progress(f"noise variance {noise}: simulation", i / len(NOISES))
        exact += study.quadrature_rows(task, label)
        exact.append(study.gain_row(task, label))
        layer += study.layer_rows(task, (50,), effort, label)
        for heads in (1, 2):
            progress(
                f"noise variance {noise}: training {heads} head(s)", (i + 0.3 * heads) / len(NOISES)
            )
            models.append(study.trained_row(task, heads, n, effort, label))
    noises = np.linspace(0, 1.2, 13)
    for name, attention, index in (("one head", ONE, 0), ("two heads", TWO, 1)):
        values = [
            optimal_risk(icl.LinearRegression(dim=DIM, noise_var=float(x)), attention, n)
            for x in noises
        ]
        lines.append(
            curve(
                f"{name}, predicted", noises, [float(r.risk) for r in values], color=COLOURS[name]
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
    return study.standard_parts(exact, layer, models), figure


def _correlated_features(effort: Effort, progress: Progress) -> Result:
    progress("quadrature", 0.0)
    exact = list(study.quadrature_rows(CORRELATED, {}))
    exact += study.query_rows(CORRELATED, effort, {})
    progress("simulation of the layer", 0.1)
    layer = list(study.layer_rows(CORRELATED, (50,), effort, {}))
    n = effort.compared_lengths[-1]
    models = []
    for heads in (1, 2):
        progress(f"training {heads} head(s) at n = {n}", 0.25 * heads)
        models.append(study.trained_row(MATCHED, heads, n, effort, {}))
    progress(f"training one head, coefficients N(0, I/d), at n = {n}", 0.75)
    free, _ = study.trained(CORRELATED, 1, n, effort)
    best = float(optimal_risk(CORRELATED, ONE, n).risk)
    figure = study.risk_figure(
        "Correlated features",
        "Feature covariance 1.5 * 0.5^|i-j|. Predicted optimal risks of one and two heads with scores "
        "proportional to the inverse covariance (lines), divided by the signal tr(Sigma M), and "
        "trained models with free score matrices (points, one standard error), for coefficients of "
        "covariance Sigma^{-1}/d. Not judged: with coefficients N(0, I/d) one free head reaches "
        f"{free.value / best:.3f} of the predicted risk, since only n -> infinity forces the inverse "
        "covariance there.",
        study.risk_lines(MATCHED, ["one head", "two heads"]),
        [
            points("one head, trained", models[:1], "n", COLOURS["one head"]),
            points("two heads, trained", models[1:], "n", COLOURS["two heads"]),
            curve(
                "one head, coefficients N(0, I/d)",
                (n,),
                (free.value / float(CORRELATED.signal),),
                (free.standard_error / float(CORRELATED.signal),),
                COLOURS["same sign"],
            ),
        ],
    )
    return study.standard_parts(exact, layer, models), figure


register(
    multihead_claim(
        id="multihead-single-head",
        title="One head has risk of order 1/n",
        statement="The risk of one softmax head decays like 1/n, with a constant that has a finite "
        "optimal score scale.",
        formulas=lambda: (icl.loss_constant(GENERAL, ONE), icl.optimal_loss_constant(GENERAL, ONE)),
        experiment=_single_head,
    )
)
register(
    multihead_claim(
        id="multihead-several-heads",
        title="Several heads have a smaller constant",
        statement="Two heads reach the constant (1 + noise) d + 1 of linear attention, as an infimum for "
        "small opposite scores. By the derivation no number of heads does better at this order.",
        formulas=lambda: (icl.loss_constant(GENERAL, TWO), icl.optimal_loss_constant(GENERAL, TWO)),
        experiment=_several_heads,
    )
)
register(
    multihead_claim(
        id="multihead-advantage",
        title="One head is worse by the predicted factor",
        statement="The ratio of the two optimal constants is the factor by which one head needs more "
        "examples; it tends to e for large dimension.",
        formulas=lambda: (icl.multihead_gain(GENERAL),),
        experiment=_advantage,
    )
)
register(
    multihead_claim(
        id="multihead-noisy-labels",
        title="Noisy labels",
        statement="With label noise both constants grow, and the advantage of several heads grows.",
        formulas=lambda: tuple(icl.optimal_loss_constant(GENERAL, x) for x in (ONE, TWO)),
        experiment=_noisy_labels,
    )
)
register(
    multihead_claim(
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
