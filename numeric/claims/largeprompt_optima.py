"""Claims of Boursier & Boyer on where training ends: the Bayes solution, and linear attention.

The smallest risk of a prompt length, which real softmax layers are trained to, and what softmax costs
against linear attention along the way and at the optimum (arXiv 2512.11784).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

import icltheory as icl
import numeric
from icltheory.formula import BOURSIER
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.descent import (
    DIM,
    EVERY,
    descent,
    infinite_path,
    linear_gradient,
    scale_of,
    softmax_gradient,
    start_blocks,
    train,
    trajectory_rows,
    value_of,
)
from numeric.claims.largeprompt import largeprompt_claim
from numeric.claims.largeprompt_training import ALPHA, CORRELATED, GENERAL, TASK
from numeric.claims.rows import curve, estimate_row, inside, limit_row, points
from numeric.compare import Row, compare
from numeric.plot import Figure
from numeric.validate import measure_risk

SOFTMAX = icl.SoftmaxAttention(heads=1)
# Seed of a small random start -> bounds of the risk where it ends, over the smallest.
SMALL_STARTS = {1: (1.5, 4.0), 3: (-math.inf, 1.06)}


def optimal_constant(task: icl.LinearRegression) -> float:
    """F(b*), the limit of n times the smallest risk of a softmax head."""
    return float(icl.optimal_valley_constant(task))


def rate_rows() -> Iterator[Row]:
    """The limit of n times the smallest risk, prompt lengths for a risk, and where the flow ends."""
    constant = optimal_constant(TASK)
    values = [n * numeric.optimal_block_risk(TASK, n).risk for n in (10**6, 10**7)]
    yield limit_row({"quantity": "n * smallest risk at n = 1e7"}, constant, *values)
    for eps in (1e-5, 1e-6):
        found = numeric.prompt_length_for(TASK, eps)
        yield compare(
            {"quantity": f"prompt length for risk {eps:g}, times the risk"},
            constant,
            found.prompt_length * found.risk,
            # The next order in 1/n.
            40 * constant / found.prompt_length * constant,
        )
    # The published range of alpha for the isotropic task; the limit is the same far outside it.
    bound = math.sqrt(2) / DIM**0.25
    flow = icl.gradient_flow(icl.LinearRegression(dim=DIM, coef_cov=1))
    for factor in (0.5, 2.0, 4.0):
        alpha = factor * bound
        start = {"A": alpha / math.sqrt(DIM), "b": alpha}
        end = numeric.integrate(flow, initial=start, times=[0.0, 40.0])
        quantity = f"b at the end of the flow, alpha = {factor:g} of the published bound"
        yield compare({"quantity": quantity}, float(DIM) ** 0.25, float(end["b"][-1]), 1e-7)


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


def small_start_row(start: int, row: Row) -> Row:
    """Where a layer from a small random start of all blocks ends: at the optimum, or above it."""
    ratio, error = (x / row.prediction for x in (row.estimate, row.standard_error or 0.0))
    setting = {"n": row.setting["n"], "small start": start, "|u| |v|": row.setting["|u| |v|"]}
    setting["quantity"] = "trained risk over the smallest"
    return inside(setting, ratio, error, *SMALL_STARTS[start])


def _bayes(effort: Effort, progress: Progress) -> Result:
    from numeric import finite

    progress("exact optima", 0.0)
    exact = list(rate_rows())
    progress("training to the optimum", 0.3)
    small = icl.LinearRegression(dim=2, coef_cov=1)
    rows, others, ends = [], [], []
    for n in (20, 50):
        for merged in (True, False):
            model = finite.TokenAttention(2, scale=ALPHA, merged=merged, seed=6)
            rows.append(optimum_row(model, small, n, effort))
        for seed in SMALL_STARTS:
            model = finite.TokenAttention(2, start="small", scale=0.2, seed=seed)
            others.append(optimum_row(model, small, n, effort))
            ends.append(small_start_row(seed, others[-1]))
    grid = np.unique(np.round(np.geomspace(5, 3000, 30))).astype(int)
    optimum = [float(numeric.exact_risk(small, SOFTMAX, int(n))) for n in grid]
    limit = optimal_constant(small)
    figure = Figure(
        "Training reaches the best risk of its prompt length",
        "prompt length n",
        "risk",
        "Smallest exact risk of one softmax head (line), its 1/n law, and layers with all blocks free "
        "trained from the published start, K and Q merged or separate (points, one standard error); "
        "d = 2, coefficients N(0, I). The Bayes risk 0 is approached like F(b*)/n. Small "
        "random starts of all blocks (two a length) reach the same risk or stop above it, in a second "
        "basin with u and v away from 0, which the published start avoids.",
        (
            curve("smallest risk of one head", grid, optimum),
            curve(
                f"{limit:.3g}/n", (50.0, grid[-1]), (limit / 50, limit / float(grid[-1])), color=6
            ),
        ),
        (
            points("published start, trained", rows, "n", 1),
            points("small random start, trained", others, "n", 2),
        ),
    )
    parts = (
        Part.of("the limit and its rate, exactly", exact),
        # A trained model is allowed 2 % of optimisation error.
        Part.of("trained layers", rows, 1.06),
        Part.of("small random starts: the optimum, or a second basin above it", ends),
    )
    return parts, figure


def _transfer(effort: Effort, progress: Progress) -> Result:
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
        lines.append(curve(kind, path.times, _product(path.blocks()), color=i))
        marks.append(
            curve(
                f"{kind}, trained",
                path.times[::EVERY],
                measured["a b"].value,
                measured["a b"].error,
                i,
            )
        )
    infinite = infinite_path(TASK, *start_blocks(**start))
    lines.append(
        curve("both, infinite prompt", infinite.times, _product(infinite.blocks()), color=6)
    )
    progress("risk ratio at long prompts", 0.95)
    ratios = [
        numeric.optimal_block_risk(TASK, n).risk / _linear_optimum(TASK, n) for n in (10**6, 10**7)
    ]
    constant = optimal_constant(TASK) / float(
        icl.optimal_loss_constant(TASK, icl.LinearAttention())
    )
    quantity = "smallest risk of softmax over that of linear attention, n = 1e7"
    price = limit_row({"quantity": quantity}, constant, *ratios)
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
        Part.of("both layers follow their predicted trajectories", rows),
        Part.of("what softmax costs at long prompts", [price]),
    )
    return parts, figure


def _product(trajectory: dict[str, np.ndarray]) -> np.ndarray:
    return scale_of(trajectory) * value_of(trajectory)


def _linear_optimum(task: icl.LinearRegression, n: int) -> float:
    return float(numeric.exact_risk(task, icl.LinearAttention(), n))


register(
    largeprompt_claim(
        id="largeprompt-bayes",
        source=BOURSIER.at("Theorem 5.1 (v1), 5.2 (v2)"),
        title="Training reaches the Bayes solution up to F(b*)/n",
        statement="From the published start training reaches the smallest risk of a softmax head, which "
        "tends to the Bayes risk 0 like F(b*)/n. The printed range of the start's size is sufficient, "
        "not necessary. A small random start of all blocks can end in a second basin, at two to three times "
        "that risk.",
        formulas=lambda: (icl.valley_constant(GENERAL), icl.optimal_valley_constant(GENERAL)),
        experiment=_bayes,
    )
)
register(
    largeprompt_claim(
        id="largeprompt-transfer",
        source=BOURSIER.at("Section 5"),
        title="From linear attention to softmax",
        statement="With an infinite prompt both layers have one risk and one flow; at finite n each follows "
        "its own, and the best softmax head needs a factor of about e more examples.",
        formulas=lambda: (
            icl.infinite_prompt_risk(GENERAL),
            icl.linear_attention_risk(GENERAL, icl.symbols.n),
        ),
        experiment=_transfer,
    )
)
