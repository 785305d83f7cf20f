"""Claims of Cui et al. on prior knowledge: a known mean of the coefficients, and a tight prior.

The abstract (arXiv 2401.17426) announces prior knowledge as one of the extensions and contains no
formula; all predictions are derived by `icltheory` and held against exact finite prompts, the real
softmax layer, and trained models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import sympy as sp
from scipy import optimize

import icltheory as icl
import numeric
from icltheory.formula import Formula
from icltheory.symbols import share, t
from numeric.claims import head_experiments as study
from numeric.claims import scenario_experiments as scenarios
from numeric.claims.base import Effort, Progress, Result, register
from numeric.claims.head_experiments import DIM, ONE, SMALL, TWO, multihead_claim
from numeric.claims.rows import curve, line, points
from numeric.claims.scenario_experiments import (
    BOTH,
    GRID,
    READ,
    SPREADS,
    WORDS,
    N,
    Tested,
    exact_row,
    heads,
    layer_row,
    long_prompt_row,
    small_risk,
    tight,
)
from numeric.compare import Row
from numeric.plot import Figure
from numeric.risk import exact_risk, given_heads, optimal_risk

# Prior knowledge: theta ~ N(theta_0, omega^2 I/d) with |theta_0| = 1, omega^2 = 1/5.
PRIOR = icl.LinearRegression(
    dim=DIM,
    noise_var=sp.Rational(1, 4),
    coef_cov=sp.Rational(1, 25),
    coef_mean=[sp.Rational(3, 5), 0, sp.Rational(4, 5), 0, 0],
)
SHORT = 20


# -- prior knowledge -------------------------------------------------------------------------------


def _prior(effort: Effort, progress: Progress) -> Result:
    progress("exact risks", 0.0)
    exact, layer = list(prior_exact()), []
    progress("simulation of the layer", 0.2)
    best = optimal_risk(PRIOR, ONE, SHORT)
    for name, numbers, risk in (
        ("values y", scenarios.best_layer(PRIOR, 1, SHORT), best.risk),
        (
            "values y",
            scenarios.pair(scenarios.pair_slope(PRIOR, SHORT)),
            small_risk(PRIOR, {}, SHORT),
        ),
        (
            "values y + u.x",
            scenarios.reading_pair(PRIOR, SHORT),
            optimal_risk(PRIOR, heads(2, READ), SHORT).risk,
        ),
        *(
            (
                "skip path, values y + u.x",
                scenarios.reduced_layer(PRIOR, count, SHORT),
                optimal_risk(PRIOR, heads(count, BOTH), SHORT).risk,
            )
            for count in (1, 2)
        ),
    ):
        layer.append(layer_row(PRIOR, numbers, SHORT, risk, effort, {"layer": name}))
    for count in (4, 2 * DIM + 2):
        family = scenarios.at_scale(icl.prior_heads(PRIOR, count), SMALL)
        layer.append(
            layer_row(
                PRIOR,
                family,
                SHORT,
                scenarios.small_score_risk(PRIOR, family, SHORT),
                effort,
                sampler="plain",
                label={"layer": "matrix heads that read x"},
            )
        )
    progress("training", 0.4)
    rows = scenarios.trained_rows(_prior_layers(), effort)
    return study.standard_parts(exact, layer, rows), _prior_figure(rows)


def prior_exact() -> Iterator[Row]:
    """Constants, finite prompts and the crossing against exact risks of other derivations."""
    for name, count, options in (
        ("values y", 1, {}),
        ("values y", 2, {}),
        ("values y + u.x", 1, READ),
        ("skip path, values y + u.x", 1, BOTH),
        ("skip path, values y + u.x", 2, BOTH),
    ):
        layer = heads(count, options)
        yield long_prompt_row(
            f"{WORDS[count]}, {name}, n * risk",
            icl.optimal_loss_constant(PRIOR, layer),
            lambda n, layer=layer: (
                n * optimal_risk(PRIOR, layer, n, small_scores=layer.heads > 1).risk
            ),
        )
    many = 2 * DIM + 2
    four = icl.prior_heads(PRIOR, 4)
    for count, constant in (
        (4, icl.loss_constant(PRIOR, four).subs(t=sp.Rational(1, 10**12))),
        (many, icl.optimal_loss_constant(PRIOR, heads(many, READ))),
    ):
        family = scenarios.at_scale(icl.prior_heads(PRIOR, count), SMALL)
        yield long_prompt_row(
            f"{count} matrix heads, values y + u.x, n * risk",
            constant,
            lambda n, family=family: n * scenarios.small_score_risk(PRIOR, family, n),
        )
    for name, options, numbers in (
        ("values y", {}, scenarios.pair(scenarios.pair_slope(PRIOR, SHORT))),
        ("values y + u.x", READ, scenarios.reading_pair(PRIOR, SHORT)),
        ("skip path, values y + u.x", BOTH, scenarios.reduced_layer(PRIOR, 2, SHORT)),
    ):
        yield exact_row(
            f"two heads, {name}, risk at n = {SHORT}",
            icl.optimal_finite_prompt_risk(PRIOR, heads(2, options)).subs(n=SHORT),
            scenarios.small_score_risk(PRIOR, numbers, SHORT),
        )
    predicted = icl.prior_crossing(PRIOR, TWO)
    quantity = "n at which two heads, values y, meet the prior alone"
    yield exact_row(quantity, predicted, *_measured_crossing(float(predicted)))


def _measured_crossing(near: float) -> tuple[float, float]:
    """Where the quadrature of two heads with scores +-SMALL meets the risk of the prior alone."""
    alone, bare = float(icl.prior_risk(PRIOR)), icl.SoftmaxAttention(scores=[SMALL, -SMALL])
    lengths = round(near) + np.arange(-6, 7, 2)
    risks = [float(given_heads(PRIOR, bare, n)[0]) for n in lengths]
    # 1/risk is almost linear in n.
    steps = [np.polyfit(1 / np.array(risks), lengths, degree) for degree in (3, 2)]
    cubic, square = (float(np.polyval(step, 1 / alone)) for step in steps)
    return cubic, abs(cubic - square) + SMALL**2 * near


def _prior_layers() -> list[Tested]:
    """Scalar heads, and free matrices, which are better without skip path before n -> infinity."""
    task, n = PRIOR, SHORT
    moment = task.replaced(coef_cov=task.coef_moment, coef_mean=None)
    centred = icl.optimal_linear_attention(moment)
    layers = [
        Tested.scalar(name, task, n, count, options)
        for name, count, options in (
            ("values y", 1, {}),
            ("values y", 2, {}),
            ("values y + u.x", 2, READ),
            ("skip path, values y + u.x", 1, BOTH),
            ("skip path, values y + u.x", 2, BOTH),
        )
    ]
    return [
        *layers,
        Tested.scalar("values y", task, 2 * N, 2, {}),  # beyond the crossing with the prior alone
        Tested.own("values y, matrices", task, n, numeric.optimal_block_risk(moment, n).risk),
        # Small opposite scores: centred linear attention, which loses one example to centring.
        Tested.own("values y, matrices", task, n, centred.subs(n=n - 1), heads=2),
    ]


def _prior_figure(rows: list[Row]) -> Figure:
    alone = float(icl.prior_risk(PRIOR))
    crossing = float(icl.prior_crossing(PRIOR, TWO))
    one, both = heads(1, {}), heads(2, BOTH)
    return Figure(
        "A known prior mean",
        "prompt length n",
        "risk",
        "Predicted optimal risks (lines) and trained layers (points, one standard error), d = 5, "
        "|theta_0| = 1, prior variance 0.2, noise 0.25. Values that read labels only pay for the known "
        f"mean as for signal: two heads beat the prior alone from n = {crossing:.1f} on only. With a "
        "skip path and values that read x the mean costs nothing and the context always helps. All "
        "scores are scalar; free matrices, in the table, are better before n -> infinity, since they "
        "read the known direction with other weight than the rest.",
        (
            line("one head, values y", 0, GRID, lambda n: optimal_risk(PRIOR, one, n).risk),
            line("two heads, values y", 1, GRID, lambda n: small_risk(PRIOR, {}, n)),
            line("two heads, skip, y + u.x", 2, GRID, lambda n: optimal_risk(PRIOR, both, n).risk),
            line("prior alone", 6, (GRID[0], GRID[-1]), lambda n: alone),
        ),
        (
            points("one head, trained", rows[:1], "n", 0),
            points("two heads, trained", [rows[1], rows[5]], "n", 1),
            points("two heads, skip, trained", rows[4:5], "n", 2),
        ),
    )


# -- tight prior -----------------------------------------------------------------------------------


def _tight_head(spread: float) -> icl.SoftmaxAttention:
    """The head that is best to leading order."""
    best = numeric.optimal_tight_prior(tight(spread), heads(1, READ))
    scale = math.sqrt(best.t)
    return icl.SoftmaxAttention(
        scores=[scale],
        values=[best.share / scale],
        feature_values=[[(1 - best.share) / scale, 0, 0]],
    )


def _tight_prior(effort: Effort, progress: Progress) -> Result:
    progress("exact risks", 0.0)
    exact, layer, layers = list(tight_prior_exact()), [], []
    progress("simulation of the layer", 0.2)
    for spread in SPREADS:
        label = {"n omega^2": spread}
        task, one = tight(spread, 200), _tight_head(spread)
        layer += [
            layer_row(task, one, 200, exact_risk(task, one, 200), effort, label),
            layer_row(
                task,
                scenarios.reading_pair(task, 200),
                200,
                optimal_risk(task, heads(2, READ), 200).risk,
                effort,
                label,
            ),
        ]
        task = tight(spread, N)
        for name, options in (("values y + u.x", READ), ("skip path, values y + u.x", BOTH)):
            layers.append(Tested.scalar(f"{name}, n omega^2 = {spread}", task, N, 2, options))
    progress("training", 0.4)
    rows = scenarios.trained_rows(layers, effort)
    verdicts = [
        scenarios.fraction_row(
            f"{row.setting['layer']}: risk of two heads over that of the prior alone",
            row,
            spread / N,
        )
        for i, spread in enumerate(SPREADS)
        for row in rows[2 * i : 2 * i + 2]
    ]
    return study.standard_parts(exact, layer, rows + verdicts), _tight_figure(rows)


def tight_prior_exact() -> Iterator[Row]:
    """Constants and thresholds against exact risks in long prompts."""
    for spread in SPREADS:
        limit, label = tight(spread), {"n omega^2": spread}
        head, best = _tight_head(spread), numeric.optimal_tight_prior(limit, heads(1, READ))
        yield long_prompt_row(
            "one head, values y + u.x, n * risk",
            icl.tight_prior_constant(limit, heads(1, READ)).subs({t: best.t, share: best.share}),
            lambda n, spread=spread, head=head: n * exact_risk(tight(spread, n), head, n),
            label=label,
        )
        for name, options in (
            ("values y", {}),
            ("values y + u.x", READ),
            ("skip path, values y + u.x", BOTH),
        ):
            layer = heads(2, options)
            yield long_prompt_row(
                f"two heads, {name}, n * risk",
                icl.optimal_tight_prior_constant(limit, layer),
                lambda n, spread=spread, options=options: (
                    n * small_risk(tight(spread, n), options, n)
                ),
                label=label,
            )
    for name, options in (("values y", {}), ("values y + u.x", READ)):
        yield long_prompt_row(
            f"two heads, {name}: n omega^2 below which the prior alone is better",
            icl.tight_prior_threshold(tight(1), heads(2, options)),
            lambda n, options=options: _measured_threshold(options, n),
        )


def _measured_threshold(options: dict, n: float) -> float:
    """The lambda at which n times the exact risk of the pair is lambda, the risk of the prior."""

    def excess(spread: float) -> float:
        return n * small_risk(tight(spread, n), options, n) - spread

    return float(optimize.root_scalar(excess, x0=4.0, x1=6.0, xtol=1e-8).root)


def _tight_figure(rows: list[Row]) -> Figure:
    spreads = np.linspace(1, 10, 10)
    lines = [
        line(
            f"{label} at n = {N}",
            color,
            spreads,
            lambda x, options=options: N * small_risk(tight(x, N), options, N),
        )
        for label, color, options in (
            ("two heads, y + u.x", 1, READ),
            ("two heads, skip, y + u.x", 2, BOTH),
        )
    ]
    lines.append(line("prior alone", 6, (1, 10), lambda x: x))
    marks = []
    for i, (label, color) in enumerate((("two heads", 1), ("two heads, skip", 2))):
        series = points(f"{label}, trained", rows[i:4:2], "n", color)
        marks.append(
            curve(
                series.label,
                SPREADS,
                [N * y for y in series.y],
                [N * error for error in series.error],
                color,
            )
        )
    threshold = float(icl.tight_prior_threshold(tight(1), heads(2, READ)))
    return Figure(
        "A prior as tight as the prompt is long",
        "n * prior variance",
        "n * risk",
        "Prior variance lambda/n around a known mean, d = 3, noise 0.3. Without skip path two heads "
        f"lie above the risk of the prior alone up to lambda = {threshold:.2f} in long prompts; with it "
        "they always lie below. Lines: predicted optima; points: trained layers, one standard error.",
        tuple(lines),
        tuple(marks),
        logx=False,
        logy=False,
    )


# -- the claims ------------------------------------------------------------------------------------


def _prior_formulas() -> tuple[Formula, ...]:
    return (
        icl.optimal_loss_constant(PRIOR, TWO),
        icl.optimal_loss_constant(PRIOR, heads(2, BOTH)),
        icl.optimal_loss_constant(PRIOR, heads(2 * DIM + 2, READ)),
        icl.optimal_finite_prompt_risk(PRIOR, heads(2, READ)),
        icl.prior_crossing(PRIOR, TWO),
    )


register(
    multihead_claim(
        id="multihead-prior",
        title="Prior knowledge",
        statement="A known prior mean costs as much as signal where values read labels only, and "
        "nothing with a skip path and values that read features. Without skip path the prior alone "
        "is better up to a prompt length that is predicted.",
        formulas=_prior_formulas,
        experiment=_prior,
    )
)
register(
    multihead_claim(
        id="multihead-tight-prior",
        title="A tight prior",
        statement="If the prior tightens like 1/n, it is better used alone below a threshold; with a "
        "skip path several heads are always better than the prior.",
        formulas=lambda: (
            icl.tight_prior_constant(tight(SPREADS[0]), heads(1, READ)),
            icl.optimal_tight_prior_constant(tight(SPREADS[0]), heads(2, READ)),
            icl.optimal_tight_prior_constant(tight(SPREADS[0]), heads(2, BOTH)),
            icl.tight_prior_threshold(tight(1), heads(2, READ)),
        ),
        experiment=_tight_prior,
    )
)
