"""Claims of Boursier & Boyer on training: trajectories, their limit, and the Bayes solution.

Real layers of softmax and of linear attention are trained by stochastic gradient descent from the
initialisation of the paper (arXiv 2512.11784, eq. (9)) and held against gradient descent on the exact
population risk at the same prompt length (`numeric.claims.descent`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import sympy as sp

import icltheory as icl
import numeric
from icltheory.formula import BOURSIER
from icltheory.symbols import d, noise_var
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.descent import (
    DIM,
    EVERY,
    RATE,
    STEPS,
    descent,
    exact_risk_of,
    infinite_path,
    predicted_values,
    scale_of,
    softmax_gradient,
    start_blocks,
    train,
    trajectory_rows,
    value_of,
)
from numeric.claims.largeprompt import largeprompt_claim
from numeric.claims.rows import curve, limit_row
from numeric.compare import Row, compare
from numeric.plot import Figure

NOISE = sp.Rational(1, 10)
TASK = icl.LinearRegression(dim=DIM, noise_var=NOISE)
COVARIANCE = sp.Matrix(DIM, DIM, lambda i, j: sp.Rational(1, 2) ** abs(i - j))
CORRELATED = icl.LinearRegression(dim=DIM, noise_var=NOISE, feature_cov=COVARIANCE)
GENERAL = icl.LinearRegression(dim=d, noise_var=noise_var)
ALPHA = 0.3  # size of the start
LENGTHS = (30, 100, 300, 1000)


# -- the claims ----------------------------------------------------------------------------------


def _trajectories(effort: Effort, progress: Progress) -> Result:
    rows, risks, lines, marks = [], [], [], []
    balanced = {"start": "balanced", "scale": ALPHA}
    for i, n in enumerate(LENGTHS):
        progress(f"training at n = {n}", 0.6 * i / len(LENGTHS))
        path = descent(softmax_gradient(TASK, n), *start_blocks(**balanced))
        predicted = predicted_values(TASK, n, path)
        reads = {"tr A / d": scale_of, "b": value_of, "risk": exact_risk_of(TASK, n)}
        measured = train(TASK, n, effort, reads, prompts_seed=i, **balanced)
        risk = {"risk": predicted.pop("risk")}
        rows += trajectory_rows({"n": n}, predicted, measured, 0.2)
        # Quick runs do not resolve smaller risks by half.
        smallest = 0.0 if effort.name == "full" else 0.04
        risks += trajectory_rows({"n": n}, risk, measured, 0.5, smallest)
        times = path.times[::EVERY]
        flow = numeric.finite_prompt_flow(
            TASK,
            n,
            initial={"A": path.A[0], "b": path.b[0]},
            times=path.times,
        )
        lines.append(curve(f"n = {n}", flow.times, flow["risk"], color=i))
        marks.append(
            curve("" if i else "trained", times, measured["risk"].value, measured["risk"].error, i)
        )
    progress("correlated features", 0.65)
    random = {"start": "random_psd", "scale": ALPHA, "seed": 4}
    path = descent(softmax_gradient(CORRELATED, 100), *start_blocks(**random))
    predicted = predicted_values(CORRELATED, 100, path)
    reads = {"tr A / d": scale_of, "b": value_of, "risk": exact_risk_of(CORRELATED, 100)}
    correlated = list(
        trajectory_rows(
            {"n": 100, "start": "random P"},
            predicted,
            train(CORRELATED, 100, effort, reads, prompts_seed=7, **random),
            0.25,
        )
    )
    progress("a generic small start", 0.85)
    generic = list(generic_rows(effort))
    figure = Figure(
        "Training a real softmax layer",
        "time (2 x learning rate x steps)",
        "risk",
        "Risk of one head along training, d = 5, label noise 0.1, published start with alpha = 0.3. "
        "Lines: gradient flow of the exact risk at each prompt length. Points: layers trained by SGD, "
        "mean over seeds extrapolated to infinite batches, one standard error.",
        tuple(lines),
        tuple(marks),
        logx=False,
    )
    parts = (
        Part.of("parameters at four prompt lengths", rows),
        # The risk in the valley is small against the noise of the parameters.
        Part.of("risk at four prompt lengths", risks),
        Part.of("correlated features, random positive semi-definite start", correlated),
        Part.of("all blocks from a generic small start", generic),
    )
    return parts, figure


def generic_rows(effort: Effort) -> Iterable[Row]:
    """Every block from a random start, against training on the risk averaged over prompts exactly."""
    from numeric import finite

    n, start = 30, {"start": "small", "scale": 0.4, "seed": 1}
    reads = {
        "tr A / d": scale_of,
        "b": value_of,
        "|u|^2": lambda t: np.sum(t["u"] ** 2, axis=1),
        "|v|^2": lambda t: np.sum(t["v"] ** 2, axis=1),
    }
    exact = finite.train(
        finite.TokenAttention(DIM, **start),
        TASK,
        n,
        STEPS,
        seed=5,
        batch_size=40_000,
        optimizer="sgd",
        learning_rate=RATE,
        schedule="constant",
        record_every=EVERY,
        average_prompts=True,
        progress=False,
    )
    measured = train(TASK, n, effort, reads, prompts_seed=9, larger=4, **start)
    predicted = {name: read(exact.trajectory) for name, read in reads.items()}
    yield from trajectory_rows({"n": n, "start": "small"}, predicted, measured, 0.35, 0.1)


def _stability(effort: Effort, progress: Progress) -> Result:
    progress("exact trajectories", 0.0)
    task = icl.LinearRegression(dim=DIM, coef_cov=1)
    times = np.linspace(0, 6, 241)
    lengths = 10 ** np.arange(2, 9)
    lines = []
    starts = {
        f"published start, alpha = {ALPHA}": (ALPHA / math.sqrt(DIM), ALPHA),
        "a = 0.1, b = 2": (0.1, 2.0),
    }
    gaps = np.empty(len(lengths))
    for color, (name, (a0, b0)) in enumerate(starts.items()):
        limit = numeric.closed_trajectory(task, times, a0=a0, b0=b0)
        for i, n in enumerate(lengths):
            path = numeric.finite_prompt_flow(task, int(n), initial={"A": a0, "b": b0}, times=times)
            a = np.trace(path["A"], axis1=1, axis2=2) / DIM
            gaps[i] = np.sqrt(DIM * (a - limit["a"]) ** 2 + (path["b"] - limit["b"]) ** 2).max()
        largest = float(np.max(limit["a"]))
        lines.append(curve(f"{name} (tau^2 <= {largest**2:.2f})", lengths, gaps, color=color))
    # From the second start tau^2 stays far below 1/2, where kappa = 1; the last change of the local
    # exponent bounds what remains.
    slopes = np.log10(gaps[:-1] / gaps[1:])
    exponent = limit_row(
        {"quantity": "exponent of the largest distance, n = 1e7 to 1e8, start a = 0.1, b = 2"},
        icl.concentration_exponent().subs(tau=largest),
        *slopes[-2:],
        required=0.05,
    )
    progress("training", 0.3)
    rows = []
    balanced = {"start": "balanced", "scale": ALPHA}
    for i, n in enumerate((50, 200, 800)):
        finite_path = descent(softmax_gradient(TASK, n), *start_blocks(**balanced))
        infinite = infinite_path(TASK, *start_blocks(**balanced))
        measured = train(TASK, n, effort, {"a": scale_of}, prompts_seed=20 + i, **balanced)
        at_n, at_infinity = (scale_of(path.blocks())[-1] for path in (finite_path, infinite))
        rows.append(
            compare(
                {"n": n, "quantity": f"tr A / d less its infinite-prompt value, step {STEPS}"},
                at_n - at_infinity,
                measured["a"].value[-1] - at_infinity,
                measured["a"].error[-1],
                required=0.35,
            )
        )
    figure = Figure(
        "Distance from the infinite-prompt trajectory",
        "prompt length n",
        "largest distance of (A, b) on [0, 6]",
        "Exact flows at prompt length n against the closed infinite-prompt trajectory from the same start, "
        "on a fixed interval of time (d = 5, coefficients N(0, I)). The distance falls like 1/n, sooner "
        "where the squared score scale tau^2 is further below 1/2.",
        (
            *lines,
            curve(
                "slope -1",
                (lengths[3], lengths[-1]),
                (gaps[-1] * lengths[-1] / lengths[3], gaps[-1]),
                color=6,
            ),
        ),
        (),
    )
    parts = (
        Part.of("the distance of exact trajectories", [exponent], 1.06),
        Part.of("trained layers", rows, 1.2),
    )
    return parts, figure


register(
    largeprompt_claim(
        id="largeprompt-training",
        source=BOURSIER.at("Section 5"),
        title="Training follows the predicted trajectory",
        statement="Stochastic gradient descent on a real softmax layer follows gradient descent on the "
        "exact risk of its prompt length, parameters and risk, over the whole run.",
        formulas=lambda: tuple(icl.risk_gradients(GENERAL).values()),
        experiment=_trajectories,
    )
)
register(
    largeprompt_claim(
        id="largeprompt-stability",
        source=BOURSIER.at("Theorem 4.3"),
        title="Stability along training",
        statement="On a fixed interval of time the trajectory at prompt length n approaches that of an "
        "infinite prompt from the same start; where tau^2 stays below 1/2, like 1/n.",
        formulas=lambda: (icl.concentration_exponent(),),
        experiment=_stability,
    )
)
