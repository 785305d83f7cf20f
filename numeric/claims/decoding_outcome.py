"""Linear self-attention trained on its last thought: Chen, Lu, Wu and Zou (arXiv 2508.07571).

Layers of multiples of I against the derived optimum of step and factor, and how far free blocks and
free matrices go below it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import icltheory as icl
from icltheory.symbols import eta
from numeric.claims.base import Effort, Progress, Result, register
from numeric.claims.decoder_experiments import (
    FREE,
    RISK,
    WEIGHTS,
    decoder,
    fresh_prompts,
    learned_row,
    squared_errors,
    trained,
    training_steps,
)
from numeric.claims.decoding import average_row, decoding_claim
from numeric.claims.rows import curve, holds, inside, points, separate
from numeric.compare import Row
from numeric.contraction import contraction_moments
from numeric.plot import Figure


def scalar_risk(model: Any, thoughts: int, n: int, d: int) -> tuple[float, float, float]:
    """The exact risk of a layer with multiples of I; its factor u and its step."""
    label, step = model.learned().step_sizes
    one, two = (float(x) for x in contraction_moments([thoughts, 2 * thoughts], n, d, step))
    u = label / step
    return 1 - 2 * u * (1 - one) + u**2 * (1 - 2 * one + two), u, step


def optimum_of(law: Any) -> tuple[float, float]:
    """The step and the factor of the read-out that a Formula of the outcome is minimal at."""
    (factor,) = (x for symbol, x in law.minimizer.items() if symbol != eta)
    return float(law.minimizer[eta]), float(factor)


def scalar_rows(effort: Effort) -> Iterator[tuple[list[Row], list[Row]]]:
    """Multiples of I: the derived optimum is reached, and not passed."""
    n, d = 16, 4
    task = icl.LinearRegression(dim=d)
    for thoughts, scale in ((1, "free"), (2, "free"), (3, "free"), (2, "fixed"), (3, "fixed")):
        model = decoder(d, "scalar", fixed=scale == "fixed")
        trained(model, task, n, effort, loss="outcome", thoughts=thoughts)
        law = icl.outcome_risk(thoughts, n, d, scale=scale)
        best_step, best_factor = optimum_of(law)
        setting = {"R and rho": scale, "thoughts": thoughts, "n": n, "d": d}
        exact, u, step = scalar_risk(model, thoughts, n, d)
        optimum = float(law)
        rows = [
            learned_row({**setting, "quantity": "exact risk of the weights"}, optimum, exact, RISK)
        ]
        words = {**setting, "quantity": "not below the optimum"}
        rows.append(holds(words, exact >= optimum * (1 - 1e-9)))
        found = squared_errors(model, fresh_prompts(task, n, effort.prompts), thoughts)
        row = {**setting, "quantity": "risk on prompts"}
        rows.append(average_row(row, optimum, found, allowance=RISK, required=0.2))
        learned = []
        if thoughts > 1:
            row = {**setting, "quantity": "step, -P R"}
            learned.append(learned_row(row, best_step, step, WEIGHTS))
        if scale == "free":
            factor = best_factor if thoughts > 1 else best_factor * best_step
            row = {**setting, "quantity": "factor u" if thoughts > 1 else "P rho"}
            learned.append(learned_row(row, factor, u if thoughts > 1 else u * step, WEIGHTS))
        yield rows, learned


# Shares of the risk with multiples of I at (16, 4, 3) that free matrices stay below.
STATED = {"blocks": 0.98, "full": 0.9}


def optimal_scalar(thoughts: int, n: int, d: int) -> Any:
    """The layer of multiples of I at the derived step and factor."""
    from numeric import finite

    step, factor = optimum_of(icl.outcome_risk(thoughts, n, d))
    return finite.LinearSelfAttention(d, form="scalar").set_blocks(-step * factor, 1 / factor, -1)


def free_rows(effort: Effort) -> Iterator[tuple[float, float, tuple[Row, ...]]]:
    """Free blocks and free matrices at (n, d, k) = (16, 4, 3): their risk over that of multiples of
    I with its error, and rows that state it to be below."""
    n, d, thoughts = 16, 4, 3
    task = icl.LinearRegression(dim=d)
    prompts = fresh_prompts(task, n, 2 * effort.prompts)
    base = squared_errors(optimal_scalar(thoughts, n, d), prompts, thoughts)
    for form, stated in STATED.items():
        model = decoder(d, form)
        steps = training_steps(effort, 0.8)
        trained(model, task, n, effort, loss="outcome", thoughts=thoughts, steps=steps)
        found = squared_errors(model, prompts, thoughts)
        ratio, error = map(float, found.ratio(base))  # the same prompts
        learned = model.learned()
        angle = float(np.abs(np.linalg.eigvals(learned.state_step).imag).max())
        setting = {"trained": FREE[form], "thoughts": thoughts, "n": n, "d": d}
        row = {**setting, "quantity": "risk over the optimum of multiples of I"}
        first = inside(row, ratio, error, high=stated)
        if form == "blocks":
            words = f"-P R has complex eigenvalues, imaginary part {angle:.2f}"
            second = holds({**setting, "quantity": words}, angle > 0.1)
        else:
            alone = squared_errors(model.reduced(), prompts, thoughts)
            words = "without the blocks by which thoughts attend to thoughts the risk is "
            words += f"{float(alone.ratio(base)[0]):.2f} of the optimum"
            second = holds({**setting, "quantity": words}, float(alone.ratio(base)[0]) > 1)
        yield ratio, error, (first, second)


def outcome_model(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on training on the outcome."""
    from numeric.finite.threads import one_thread

    risks, weights = [], []
    with one_thread():
        progress("multiples of I", 0.0)
        for some, others in scalar_rows(effort):
            risks += some
            weights += others
        progress("free matrices", 0.5)
        free = list(free_rows(effort))
    n, d = 16, 4
    counts = np.arange(1, 6)
    lines = [
        curve(
            name,
            counts,
            [float(icl.outcome_risk(int(k), n, d, scale=scale)) for k in counts],
            (),
            color,
        )
        for color, (scale, name) in enumerate(
            (("fixed", "step alone, derived"), ("free", "step and factor, derived"))
        )
    ]
    sampled = [row for row in risks if row.setting["quantity"] == "risk on prompts"]
    marks = [
        points(
            f"trained, R and rho {scale}",
            (row for row in sampled if row.setting["R and rho"] == scale),
            "thoughts",
            color,
        )
        for color, scale in enumerate(("fixed", "free"))
    ]
    optimum = float(icl.outcome_risk(3, n, d))
    for color, (form, (ratio, error, _)) in enumerate(zip(STATED, free, strict=True), start=2):
        y, errors = (optimum * ratio,), (optimum * error,)
        marks.append(curve(f"trained, {FREE[form]}", (3,), y, errors, color))
    figure = Figure(
        "Trained on the outcome",
        "thoughts k",
        "risk per coordinate",
        "Layers trained on the last thought at n = 16, d = 4: with multiples of I on the derived optima; "
        "with free blocks below, by steps with complex eigenvalues; with all of V and K further below, "
        "by thoughts that attend to thoughts.",
        tuple(lines),
        tuple(marks),
        logx=False,
    )
    return (
        *separate("multiples of I: the risk", risks, 1.12),
        *separate("multiples of I: the weights", weights, 1.05),
        *separate("freer layers", (row for *_, rows in free for row in rows)),
    ), figure


register(
    decoding_claim(
        id="decoding-outcome-model",
        title="Trained on the outcome",
        statement="Trained on the last of k thoughts, a layer of multiples of I reaches the derived step, factor "
        "and risk. Free matrices do better for k >= 2: at n = 16, d = 4, k = 3 the three blocks reach 0.95 "
        "of that risk with complex steps, all of V and K 0.86, as thoughts attend to thoughts.",
        formulas=lambda: (icl.outcome_risk(1), icl.outcome_risk(3, 16, 4)),
        experiment=outcome_model,
    )
)
