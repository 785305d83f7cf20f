"""Claims of Boursier & Boyer on training: trajectories, their limit, and the Bayes solution.

Real layers of softmax and of linear attention are trained by stochastic gradient descent from the
initialisation of the paper (arXiv 2512.11784, eq. (9)) and held against gradient descent on the exact
population risk at the same prompt length (`numeric.claims.descent`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import sympy as sp

import icltheory as icl
import numeric
from icltheory.formula import BOURSIER
from icltheory.symbols import d, noise_var
from numeric.claims.base import Claim, Effort, Part, Progress, estimate_row, points, register
from numeric.claims.descent import (
    DIM,
    EVERY,
    RATE,
    STEPS,
    descent,
    exact_risk_of,
    infinite_path,
    linear_gradient,
    predicted_values,
    scale_of,
    softmax_gradient,
    start_blocks,
    train,
    trajectory_rows,
    value_of,
)
from numeric.compare import Comparison, Row, compare
from numeric.plot import Figure, Series
from numeric.validate import measure_risk

NOISE = sp.Rational(1, 10)
TASK = icl.LinearRegression(dim=DIM, noise_var=NOISE)
COVARIANCE = sp.Matrix(DIM, DIM, lambda i, j: sp.Rational(1, 2) ** abs(i - j))
CORRELATED = icl.LinearRegression(dim=DIM, noise_var=NOISE, feature_cov=COVARIANCE)
ALPHA = 0.3  # size of the start
LENGTHS = (30, 100, 300, 1000)
SOFTMAX = icl.SoftmaxAttention(heads=1)


def optimal_constant(task: icl.LinearRegression) -> float:
    """F(b*), the limit of n times the smallest risk of a softmax head."""
    return float(icl.optimal_valley_constant(task))


# -- the claims ----------------------------------------------------------------------------------


def _trajectories(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
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
        risks += trajectory_rows({"n": n}, risk, measured, 0.75)
        times = path.times[::EVERY]
        flow = numeric.finite_prompt_flow(
            TASK,
            n,
            initial={"A": path.A[0], "b": path.b[0]},
            times=path.times,
        )
        lines.append(Series(f"n = {n}", tuple(flow.times), tuple(flow["risk"]), color=i))
        marks.append(
            Series(
                "" if i else "trained",
                tuple(times),
                tuple(measured["risk"].value),
                tuple(measured["risk"].error),
                i,
            )
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
        Part("parameters at four prompt lengths", Comparison.from_rows(rows)),
        # The risk in the valley is small against the noise of the parameters.
        Part("risk at four prompt lengths", Comparison.from_rows(risks)),
        Part(
            "correlated features, random positive semi-definite start",
            Comparison.from_rows(correlated),
        ),
        Part("all blocks from a generic small start", Comparison.from_rows(generic)),
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


def _stability(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
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
        lines.append(
            Series(
                f"{name} (tau^2 <= {largest**2:.2f})",
                tuple(map(float, lengths)),
                tuple(map(float, gaps)),
                color=color,
            )
        )
    # From the second start tau^2 stays far below 1/2, where kappa = 1; the last change of the local
    # exponent bounds what remains.
    slopes = np.log10(gaps[:-1] / gaps[1:])
    exponent = compare(
        {"quantity": "exponent of the largest distance, n = 1e7 to 1e8, start a = 0.1, b = 2"},
        float(icl.concentration_exponent().subs(tau=largest)),
        slopes[-1],
        abs(slopes[-1] - slopes[-2]),
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
            Series(
                "slope -1",
                (float(lengths[3]), float(lengths[-1])),
                (float(gaps[-1] * lengths[-1] / lengths[3]), float(gaps[-1])),
                color=6,
            ),
        ),
        (),
    )
    parts = (
        Part("the distance of exact trajectories", Comparison.from_rows([exponent]), 1.06),
        Part("trained layers", Comparison.from_rows(rows), 1.2),
    )
    return parts, figure


def optimum_row(model: Any, task: icl.LinearRegression, n: int, effort: Effort) -> Row:
    """A layer trained by SGD with a falling rate, against the smallest risk of its prompt length."""
    from numeric import finite

    finite.train(
        model,
        task,
        n,
        steps=effort.training_steps,
        seed=n,
        optimizer="sgd",
        learning_rate=0.05,
        progress=False,
    )
    risk = measure_risk(model, task, n, prompts=8 * effort.prompts, seed=60 + n)
    best, blocks = numeric.optimal_block_risk(task, n), model.blocks()
    product = float(np.trace(blocks["A"]) * blocks["b"]) / model.dim
    predicted = float(np.trace(best.A) * best.b) / model.dim
    outside = " ".join(f"{np.linalg.norm(blocks[name]):.1e}" for name in "uv")
    return estimate_row(
        {
            "n": n,
            "parameters": "A" if model.merged else "K, Q",
            "learned a b": round(product, 3),
            "predicted a b": round(predicted, 3),
            "|u| |v|": outside,
        },
        float(best.risk),
        risk,
        0.02,
        required=0.08,
    )


def _bayes(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
    from numeric import finite

    progress("exact optima", 0.0)
    exact = []
    constant = optimal_constant(TASK)
    near, far = (n * numeric.optimal_block_risk(TASK, n).risk for n in (10**6, 10**7))
    exact.append(
        compare(
            {"quantity": "n * smallest risk at n = 1e7"},
            constant,
            float(far),
            abs(float(far - near)),
        )
    )
    for eps in (1e-5, 1e-6):
        found = numeric.prompt_length_for(TASK, eps)
        exact.append(
            compare(
                {"quantity": f"prompt length for risk {eps:g}, times the risk"},
                constant,
                found.prompt_length * found.risk,
                # The next order in 1/n.
                40 * constant / found.prompt_length * constant,
            )
        )
    progress("starts beyond the published range", 0.2)
    # The published range of alpha for the isotropic task; the limit is the same far outside it.
    bound = math.sqrt(2) / DIM**0.25
    unit = icl.LinearRegression(dim=DIM, coef_cov=1)
    flow = icl.gradient_flow(unit)
    for factor in (0.5, 2.0, 4.0):
        alpha = factor * bound
        start = {"A": alpha / math.sqrt(DIM), "b": alpha}
        end = numeric.integrate(flow, initial=start, times=[0.0, 40.0])
        exact.append(
            compare(
                {
                    "quantity": f"b at the end of the flow, alpha = {factor:g} of the published bound"
                },
                float(DIM) ** 0.25,
                float(end["b"][-1]),
                1e-7,
            )
        )
    progress("training to the optimum", 0.3)
    small = icl.LinearRegression(dim=2, coef_cov=1)
    rows, others = [], []
    for n in (20, 50):
        for merged in (True, False):
            model = finite.TokenAttention(2, scale=ALPHA, merged=merged, seed=6)
            rows.append(optimum_row(model, small, n, effort))
        for seed in (1, 3):
            model = finite.TokenAttention(2, start="small", scale=0.2, seed=seed)
            others.append(optimum_row(model, small, n, effort))
    grid = np.unique(np.round(np.geomspace(5, 3000, 30))).astype(int)
    optimum = [float(numeric.exact_risk(small, SOFTMAX, int(n))) for n in grid]
    limit = optimal_constant(small)
    figure = Figure(
        "Training reaches the best risk of its prompt length",
        "prompt length n",
        "risk",
        "Smallest exact risk of one softmax head (line), its 1/n law, and layers with all blocks free "
        "trained from the published start, K and Q merged or separate (points, one standard error); "
        "d = 2, coefficients N(0, I). The Bayes risk 0 is approached like F(b*)/n. Not judged: small "
        "random starts of all blocks (two a length) reach the same risk or stop above it, in a second "
        "basin with u and v away from 0, which the published start avoids.",
        (
            Series("smallest risk of one head", tuple(map(float, grid)), tuple(optimum)),
            Series(
                f"{limit:.3g}/n",
                (50.0, float(grid[-1])),
                (limit / 50, limit / float(grid[-1])),
                color=6,
            ),
        ),
        (
            points("published start, trained", rows, "n", 1),
            points("small random start, trained", others, "n", 2),
        ),
    )
    parts = (
        Part("the limit and its rate, exactly", Comparison.from_rows(exact)),
        # A trained model is allowed 2 % of optimisation error.
        Part("trained layers", Comparison.from_rows(rows), 1.06),
    )
    return parts, figure


def _transfer(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
    rows, lines, marks = [], [], []
    start = {"start": "balanced", "scale": ALPHA}
    gradients = {"softmax": softmax_gradient, "linear": linear_gradient}
    n = 100
    cases = [(name, task) for task in (TASK, CORRELATED) for name in gradients]
    for i, (kind, task) in enumerate(cases):
        features = "isotropic" if task is TASK else "0.5^|i-j|"
        progress(f"training {kind} attention, features {features}", 0.23 * i)
        path = descent(gradients[kind](task, n), *start_blocks(**start))
        # The same weights and, by the same seeds, the same prompts for both layers.
        reads = {"tr A / d": scale_of, "b": value_of, "a b": _product}
        measured = train(task, n, effort, reads, prompts_seed=30, kind=kind, **start)
        predicted = {name: read(path.blocks(EVERY)) for name, read in reads.items()}
        setting = {"attention": kind, "features": features, "n": n}
        rows += trajectory_rows(setting, predicted, measured, 0.2)
        if task is not TASK:
            continue
        lines.append(Series(kind, tuple(path.times), tuple(_product(path.blocks())), color=i))
        marks.append(
            Series(
                f"{kind}, trained",
                tuple(path.times[::EVERY]),
                tuple(measured["a b"].value),
                tuple(measured["a b"].error),
                i,
            )
        )
    infinite = infinite_path(TASK, *start_blocks(**start))
    lines.append(
        Series(
            "both, infinite prompt",
            tuple(infinite.times),
            tuple(_product(infinite.blocks())),
            color=6,
        )
    )
    progress("risk ratio at long prompts", 0.95)
    ratios = [
        numeric.optimal_block_risk(TASK, n).risk / _linear_optimum(TASK, n) for n in (10**6, 10**7)
    ]
    constant = optimal_constant(TASK) / float(
        icl.optimal_loss_constant(TASK, icl.LinearAttention())
    )
    price = compare(
        {"quantity": "smallest risk of softmax over that of linear attention, n = 1e7"},
        constant,
        float(ratios[1]),
        abs(float(ratios[1] - ratios[0])),
    )
    figure = Figure(
        "Softmax and linear attention from the same start",
        "time (2 x learning rate x steps)",
        "a b = tr(A) b / d",
        "Product of the two layers' scales along gradient descent on their exact risks (lines) and along "
        "SGD from the same weights on the same prompts (points, one standard error), n = 100. With an "
        "infinite prompt both follow one trajectory, to a b = 1.",
        tuple(lines),
        tuple(marks),
        logx=False,
        logy=False,
    )
    parts = (
        Part("both layers follow their predicted trajectories", Comparison.from_rows(rows)),
        Part("what softmax costs at long prompts", Comparison.from_rows([price])),
    )
    return parts, figure


def _product(trajectory: dict[str, np.ndarray]) -> np.ndarray:
    return scale_of(trajectory) * value_of(trajectory)


def _linear_optimum(task: icl.LinearRegression, n: int) -> float:
    return float(numeric.exact_risk(task, icl.LinearAttention(), n))


_claim = partial(Claim, paper="largeprompt")
_GENERAL = icl.LinearRegression(dim=d, noise_var=noise_var)

register(
    _claim(
        id="largeprompt-training",
        source=BOURSIER.at("Section 5"),
        title="Training follows the predicted trajectory",
        statement="Stochastic gradient descent on a real softmax layer follows gradient descent on the "
        "exact risk of its prompt length, parameters and risk, over the whole run.",
        formulas=lambda: tuple(icl.risk_gradients(_GENERAL).values()),
        experiment=_trajectories,
    )
)
register(
    _claim(
        id="largeprompt-stability",
        source=BOURSIER.at("Theorem 4.3"),
        title="Stability along training",
        statement="On a fixed interval of time the trajectory at prompt length n approaches that of an "
        "infinite prompt from the same start; where tau^2 stays below 1/2, like 1/n.",
        formulas=lambda: (icl.concentration_exponent(),),
        experiment=_stability,
    )
)
register(
    _claim(
        id="largeprompt-bayes",
        source=BOURSIER.at("Theorem 5.1 (v1), 5.2 (v2)"),
        title="Training reaches the Bayes solution up to F(b*)/n",
        statement="From the published start training reaches the smallest risk of a softmax head, which "
        "tends to the Bayes risk 0 like F(b*)/n. The printed range of the start's size is sufficient, "
        "not necessary.",
        formulas=lambda: (icl.valley_constant(_GENERAL), icl.optimal_valley_constant(_GENERAL)),
        experiment=_bayes,
    )
)
register(
    _claim(
        id="largeprompt-transfer",
        source=BOURSIER.at("Section 5"),
        title="From linear attention to softmax",
        statement="With an infinite prompt both layers have one risk and one flow; at finite n each follows "
        "its own, and the best softmax head needs a factor of about e more examples.",
        formulas=lambda: (
            icl.infinite_prompt_risk(_GENERAL),
            icl.linear_attention_risk(_GENERAL, icl.symbols.n),
        ),
        experiment=_transfer,
    )
)
