"""A claim of Cui et al. with its exceptions: several heads are in general preferred.

The abstract (arXiv 2401.17426) says so without a formula. Each exception is derived by `icltheory`
and held against exact finite prompts, the real softmax layer, and trained models.
"""

from __future__ import annotations

import numpy as np
import sympy as sp
from scipy import optimize

import icltheory as icl
import numeric
from numeric.claims import head_experiments as study
from numeric.claims import scenario_experiments as scenarios
from numeric.claims.base import Effort, Progress, Result, register
from numeric.claims.head_experiments import ONE, TRAINED, TWO, multihead_claim
from numeric.claims.rows import line, points
from numeric.claims.scenario_experiments import (
    GRID,
    READ,
    SPREADS,
    N,
    Tested,
    best_risk,
    heads,
    layer_row,
    local,
    long_prompt_row,
    small_risk,
    tight,
)
from numeric.compare import Row
from numeric.plot import Figure
from numeric.risk import optimal_risk

FOUR = icl.LinearRegression(dim=4)
RANK, BLOCKS = 2, (2, 2)
WIDE = local(1, 1, dim=20)


def _same_sign(n: float) -> float:
    return scenarios.block_heads_risk(FOUR, BLOCKS, (1, 1), n)[0]


def _exceptions(effort: Effort, progress: Progress) -> Result:
    progress("exact risks", 0.0)
    exact = exceptions_exact()
    progress("simulation of the layer", 0.2)
    layer = _exceptions_simulated(effort)
    progress("training", 0.4)
    spread = SPREADS[0]
    limited, task = "embedding below d", tight(spread, N)
    layers = [
        *(
            Tested.own(
                limited,
                FOUR,
                N,
                scenarios.limited_risk(FOUR, RANK, count, N),
                heads=count,
                options={"head_width": RANK // count},
            )
            for count in (1, 2)
        ),
        Tested.own("one full head", FOUR, N, optimal_risk(FOUR, ONE, N).risk),
        Tested.own(
            "blocks of one sign",
            FOUR,
            N,
            _same_sign(N),
            heads=2,
            options={"head_width": BLOCKS[0], "values": "same"},
        ),
        *(
            Tested.scalar("local examples, d = 20", WIDE, N, count, {}, value=value, prompts=1)
            for count, value in ((1, 1.0), (2, 4.0))
        ),
        Tested.scalar(f"tight prior, n omega^2 = {spread}", task, N, 2, READ),
    ]
    rows = scenarios.trained_rows(layers, effort)
    ratios = [
        study.ratio_row({"n": N, "quantity": quantity}, first, second, TRAINED)
        for quantity, first, second in (
            ("embedding below d: one head over two", rows[0], rows[1]),
            ("one full head over two blocks of one sign", rows[2], rows[3]),
            ("local examples, d = 20: one head over two", rows[4], rows[5]),
        )
    ]
    ratios.append(
        scenarios.fraction_row("tight prior: two heads over the prior alone", rows[6], spread / N)
    )
    return study.standard_parts(exact, layer, rows + ratios), _exceptions_figure(ratios[:3])


def exceptions_exact() -> list[Row]:
    """Floors, constants and ratios against exact risks in long prompts."""
    spread, floor = SPREADS[0], icl.rank_floor(FOUR, RANK)
    projector = np.diag([0.3] * RANK + [0.0] * (4 - RANK))
    same = icl.block_constant(FOUR, BLOCKS)
    found = optimize.minimize_scalar(
        lambda x: float(same.subs(t=x)), bounds=(1e-3, 0.49), method="bounded"
    )
    one, two = (float(icl.optimal_loss_constant(WIDE, layer)) for layer in (ONE, TWO))
    return [
        long_prompt_row(
            "embedding below d, one head of rank 2, risk",
            floor,
            lambda n: numeric.block_risk(FOUR, projector, 1 / 0.3, n),
            (1e5, 1e6),
        ),
        long_prompt_row(
            "embedding below d, two heads of rank 1, risk",
            floor,
            lambda n: scenarios.limited_risk(FOUR, RANK, 2, n),
        ),
        long_prompt_row(
            "two blocks of one sign, best scale, n * risk",
            float(found.fun),
            lambda n: n * _same_sign(n),
        ),
        long_prompt_row(
            "one full head, n * risk",
            icl.optimal_loss_constant(FOUR, ONE),
            lambda n: n * optimal_risk(FOUR, ONE, n).risk,
        ),
        long_prompt_row(
            "local examples, d = 20, risk of one head over that of two",
            one / two,
            lambda n: study.ratio(optimal_risk(WIDE, ONE, n).risk, optimal_risk(WIDE, TWO, n).risk),
        ),
        long_prompt_row(
            f"tight prior, n omega^2 = {spread}, risk of two heads over the prior alone",
            float(icl.optimal_tight_prior_constant(tight(spread), heads(2, READ))) / spread,
            lambda n: n * small_risk(tight(spread, n), READ, n) / spread,
        ),
    ]


def _exceptions_simulated(effort: Effort) -> list[Row]:
    inner = icl.LinearRegression(
        dim=RANK, coef_cov=sp.Rational(1, 4), noise_var=sp.Rational(4 - RANK, 4)
    )
    best = optimal_risk(inner, ONE, N)
    half = sp.diag(1, 1, 0, 0)
    limited = icl.SoftmaxAttention(scores=[best.score_scale * half], values=[best.value_scale])
    _, scale, value = scenarios.block_heads_risk(FOUR, BLOCKS, (1, 1), N)
    same = icl.SoftmaxAttention(
        scores=[scale * half, scale * (sp.eye(4) - half)], values=[value, value]
    )
    task = tight(SPREADS[0], N)
    risk = optimal_risk(task, heads(2, READ), N).risk
    return [
        layer_row(
            FOUR,
            limited,
            N,
            scenarios.limited_risk(FOUR, RANK, 1, N),
            effort,
            sampler="plain",
            label={"layer": "embedding below d"},
        ),
        layer_row(
            FOUR,
            same,
            N,
            _same_sign(N),
            effort,
            label={"layer": "blocks of one sign"},
            sampler="plain",
        ),
        *(
            layer_row(
                WIDE,
                scenarios.best_layer(WIDE, count, N),
                N,
                optimal_risk(WIDE, heads(count, {}), N).risk,
                effort,
                label={"layer": "local examples, d = 20"},
            )
            for count in (1, 2)
        ),
        layer_row(task, scenarios.reading_pair(task, N), N, risk, effort, {"layer": "tight prior"}),
    ]


def _exceptions_figure(ratios: list[Row]) -> Figure:
    return Figure(
        "Where several heads do not help",
        "prompt length n",
        "risk ratio, above 1: several heads win",
        "Risk of one head over that of two: predicted (lines) and trained layers (points, one standard "
        "error). The rule, d = 4 with full matrices; an embedding of width 2, whose floors are equal; "
        "one full head against two blocks with values of one sign, which are worse; local examples in "
        "d = 20, where there is nothing to gain.",
        (
            line("full width", 6, GRID, lambda n: best_risk(FOUR, 1, n) / best_risk(FOUR, 2, n)),
            line(
                "embedding below d",
                0,
                GRID,
                lambda n: (
                    scenarios.limited_risk(FOUR, RANK, 1, n)
                    / scenarios.limited_risk(FOUR, RANK, 2, n)
                ),
            ),
            line("blocks of one sign", 1, GRID, lambda n: best_risk(FOUR, 1, n) / _same_sign(n)),
            line("local, d = 20", 2, GRID, lambda n: best_risk(WIDE, 1, n) / best_risk(WIDE, 2, n)),
        ),
        tuple(
            points(f"{name}, trained", [row], "n", color)
            for color, (name, row) in enumerate(
                zip(("embedding below d", "blocks of one sign", "local"), ratios, strict=True)
            )
        ),
        logy=False,
    )


register(
    multihead_claim(
        id="multihead-exceptions",
        title="Several heads are in general preferred, with exceptions",
        statement="Several heads do not help where the embedding is narrower than the features, where "
        "their values have one sign on blocks, for local examples in high dimension, and where a "
        "tight prior is better alone.",
        formulas=lambda: (
            icl.rank_floor(FOUR, RANK),
            icl.block_constant(FOUR, BLOCKS),
            icl.optimal_loss_constant(WIDE, TWO),
            icl.optimal_tight_prior_constant(tight(SPREADS[0]), heads(2, READ)),
        ),
        experiment=_exceptions,
    )
)
