"""Linear self-attention that decodes, constructed and trained: Chen, Lu, Wu and Zou (arXiv 2508.07571).

The layer appends its thoughts to the prompt (`numeric.finite.LinearSelfAttention`). Built with three blocks
it runs gradient descent; trained on one thought or on a teacher's chain it is held against the derived
weights. Trained on the outcome: `decoding_outcome`; techniques on the outputs of a trained model:
`decoding_techniques`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy as sp

import icltheory as icl
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import label_noise_var
from numeric.chain_prompts import PromptAverage
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
from numeric.compare import Row, compare
from numeric.contraction import contraction_moments
from numeric.plot import Figure

TOLERANCE = 1e-12
# -- the construction ------------------------------------------------------------------------------


def dense_thoughts(
    V: np.ndarray,
    K: np.ndarray,
    X: np.ndarray,
    y: np.ndarray,
    noise: np.ndarray,
    columns: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """f(Z) = Z + V Z (Z'K Z)/n with whole matrices, a column a step: thoughts (t, d), raw columns.

    columns: divide by the present number of columns instead of n.
    """
    n, d = X.shape
    Z = np.zeros((2 * d + 2, n))
    Z[:d], Z[d] = X.T, y
    w, thoughts, raw = np.zeros(d), [], []
    for shock in noise:
        Z = np.column_stack([Z, np.concatenate([np.zeros(d + 1), w, [1.0]])])
        last = (Z + V @ Z @ (Z.T @ K @ Z) / (Z.shape[1] if columns else n))[:, -1]
        w = last[d + 1 : -1] + shock
        thoughts.append(w)
        raw.append(last)
    return np.array(thoughts), np.array(raw)


def descent(X: np.ndarray, y: np.ndarray, M: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """w <- w - M (S w - b) + noise, thoughts (t, d)."""
    w, found = np.zeros(X.shape[1]), []
    for shock in noise:
        w = w - M @ (X.T @ (X @ w - y)) / len(X) + shock
        found.append(w)
    return np.array(found)


CASES = (
    ("gradient descent", 12, 5, 0.0, 0.0),
    ("label noise", 12, 5, 1.0, 0.0),
    ("noise at every thought", 12, 5, 1.0, 0.3),
    ("fewer examples than dimensions", 4, 7, 0.5, 0.3),
    ("preconditioned", 12, 5, 0.5, 0.3),
    ("another scale of its blocks", 12, 5, 0.5, 0.3),
)


def built(case: str, d: int, rng: np.random.Generator) -> tuple[Any, np.ndarray]:
    """The layer of a case and the matrix of its steps."""
    from numeric import finite

    M = 0.37 * np.eye(d)
    if case == "preconditioned":
        M = M + 0.03 * rng.standard_normal((d, d))
        return finite.LinearSelfAttention.preconditioned(M), M
    if case.startswith("another"):
        return finite.LinearSelfAttention(d).set_blocks(-M / 7, 7.0, -7.0), M
    return finite.LinearSelfAttention.gradient_descent(d, 0.37), M


def constructed_rows(steps: int = 6) -> Iterator[tuple[Row, ...]]:
    """Every thought of the layer, as written and as run, against the recursion, to 1e-12."""
    rng = np.random.default_rng(1)
    for case, n, d, label_std, std in CASES:
        X, w = rng.standard_normal((n, d)), rng.standard_normal(d)
        y = X @ w + label_std * rng.standard_normal(n)
        normals = rng.standard_normal((steps, d))
        model, M = built(case, d, rng)
        V, K = (matrix.numpy(force=True) for matrix in model.matrices())
        expected = descent(X, y, M, std * normals)
        dense, raw = dense_thoughts(V, K, X, y, std * normals)
        own = model.decode(
            X[None], y[None], steps, std, noise=normals[:, None, None], trajectory=True
        ).numpy(force=True)[1:, 0, 0]
        setting = {"case": case, "n": n, "d": d, "steps": steps}
        worst = max(np.abs(found - expected).max() for found in (dense, own))
        clean = bool(np.all(raw[:, : d + 1] == 0) and np.all(raw[:, -1] == 1))
        place = int(np.abs(expected[-1]).argmax())
        for name, found in (("whole matrices", dense), ("numeric.finite", own)):
            row = {**setting, "quantity": f"largest entry of the last thought, {name}"}
            yield (compare(row, expected[-1, place], found[-1, place], TOLERANCE / 5),)
        wrong, _ = dense_thoughts(V, K, X, y, std * normals, columns=True)
        off = np.abs(wrong - expected).max()
        row = {**setting, "quantity": f"all thoughts to 1e-12 ({worst:.0e}), rows x, y 0, flag 1"}
        other = {**setting, "quantity": f"divided by the number of columns it is off by {off:.2g}"}
        yield holds(row, worst <= TOLERANCE and clean), holds(other, off > 1e-3)


def constructed(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on the construction."""
    from numeric.finite.threads import one_thread

    progress("thoughts", 0.0)
    with one_thread():
        rows = [row for rows in constructed_rows() for row in rows]
        rng = np.random.default_rng(3)
        n, d, steps = 12, 5, 32
        X, w = rng.standard_normal((n, d)), rng.standard_normal(d)
        y, noise = X @ w + rng.standard_normal(n), 0.3 * rng.standard_normal((steps, d))
        model, M = built("gradient descent", d, rng)
        V, K = (matrix.numpy(force=True) for matrix in model.matrices())
    expected = descent(X, y, M, noise)
    t, marks = np.arange(1, steps + 1), []
    for color, (columns, words) in enumerate(((False, "examples n"), (True, "present columns"))):
        off = np.abs(dense_thoughts(V, K, X, y, noise, columns=columns)[0] - expected).max(axis=1)
        shown = np.maximum(off, 1e-17)
        marks.append(curve(f"divided by the number of {words}", t, shown, (), color))
    figure = Figure(
        "The constructed layer is gradient descent",
        "thought t",
        "largest deviation from the recursion",
        "Linear self-attention with whole matrices against the recursion with the same noise, at n = 12, "
        "d = 5. Divided by the number of examples it is exact to rounding; divided by the number of "
        "columns, which grows with the thoughts, its steps shrink.",
        (curve("1e-12", t, np.full(steps, TOLERANCE), (), 2),),
        tuple(marks),
        logx=False,
    )
    return (*separate("thoughts of the layer", rows),), figure


# -- trained weights -------------------------------------------------------------------------------


def weight_rows(
    setting: dict[str, Any], name: str, found: np.ndarray, optimum: Any
) -> Iterator[Row]:
    """A learned matrix against the optimum: along it, and off it."""
    target = np.asarray(optimum, dtype=float)
    target = target * np.eye(len(found)) if target.ndim == 0 else target
    size = np.linalg.norm(target)
    along = float((found * target).sum() / size**2)
    off = float(np.linalg.norm(found - target) / size)
    row = {**setting, "quantity": f"{name} along the optimum"}
    yield learned_row(row, 1.0, along, WEIGHTS)
    row = {**setting, "quantity": f"{name} within 3 % of it ({100 * off:.2f} %)"}
    yield holds(row, off <= WEIGHTS)


def spectrum_task(noise: Any = 0) -> icl.LinearRegression:
    """Features of variances 2, 1 and 1/2."""
    return icl.LinearRegression(dim=3, noise_var=noise, feature_cov=[2, 1, sp.Rational(1, 2)])


def one_thought_rows(effort: Effort) -> Iterator[tuple[list[Row], list[Row]]]:
    """Trained without chain: weights, and the risk on fresh prompts."""
    noisy = icl.LinearRegression(dim=4, noise_var=sp.Rational(1, 5))
    for name, task, n in (
        ("no label noise", icl.LinearRegression(dim=4), 16),
        ("label noise", noisy, 16),
        ("variances 2, 1, 1/2", spectrum_task(sp.Rational(3, 10)), 12),
    ):
        d = int(task.dim)
        model = decoder(d)
        trained(model, task, n, effort, loss="one_thought")
        setting = {"trained on": f"one thought, {name}", "n": n, "d": d}
        optimum = icl.trained_weights(task, n).expr
        weights = weight_rows(setting, "P rho", model.learned().label_step, optimum)
        risk = squared_errors(model, fresh_prompts(task, n, effort.prompts), 1)
        exact = icl.trained_risk(task, n).expr
        row = {**setting, "quantity": "risk of the thought"}
        yield list(weights), [average_row(row, exact, risk, allowance=RISK, required=0.2)]


def any_weight_rows(effort: Effort) -> Iterator[Row]:
    """The exact risk of one thought for weights that nobody would learn."""
    task, n = spectrum_task(), 9
    best = sp.Matrix(icl.trained_weights(task, n).expr)
    shift = sp.Matrix([[0, -2, 0], [0, -1, 0], [1, 0, 0]]) / 10
    from numeric import finite

    for name, weights in (("the optimum", best), ("not symmetric", best + shift)):
        model = finite.LinearSelfAttention.preconditioned(np.array(weights, dtype=float))
        risk = squared_errors(model, fresh_prompts(task, n, effort.prompts), 1)
        setting = {"weights": name, "n": n, "quantity": "risk of one thought"}
        yield average_row(setting, icl.one_step_risk(task, weights, n).expr, risk, required=0.06)


def teacher_rows(effort: Effort) -> tuple[list[Row], list[Row]]:
    """Trained on three thoughts of gradient descent: weights, and longer chains of its own."""
    n, d, size = 16, 4, sp.Rational(2, 5)
    task = icl.LinearRegression(dim=d)
    weights, risks = [], []
    for form in ("full", "blocks"):
        model = decoder(d, form, seed=2)
        trained(model, task, n, effort, loss="gradient_descent", thoughts=3, step_size=float(size))
        learned = model.learned()
        setting = {"trained on": f"gradient descent, {form}", "n": n, "d": d}
        for name, found in (("P rho", learned.label_step), ("-P R", learned.state_step)):
            weights += weight_rows(setting, name, found, float(size))
        if form == "full":
            prompts = fresh_prompts(task, n, effort.prompts)
            for t in (1, 2, 4, 8):
                exact = contraction_moments(2 * t, n, d, size)
                row = {**setting, "steps": t, "quantity": "risk of its chain"}
                found = squared_errors(model, prompts, t)
                risks.append(average_row(row, exact, found, allowance=RISK, required=0.2))
    return weights, risks


def towards_rows(effort: Effort) -> tuple[list[Row], list[Row], list[Row]]:
    """Trained on a chain towards w*: the optimum with R and rho fixed, and what freer layers find."""
    task, n, size, t = spectrum_task(), 12, sp.Rational(1, 2), 3
    options: dict[str, Any] = {"loss": "shrinking", "thoughts": t, "step_size": float(size)}
    model = decoder(3, "blocks", fixed=True)
    run = trained(model, task, n, effort, **options)
    setting = {"trained on": "a chain towards w*, R = I, rho = -1", "n": n, "d": 3}
    optimum = icl.teacher_weights(task, size, n).expr
    weights = list(weight_rows(setting, "P rho", model.learned().label_step, optimum))
    # The residual of step s is (1 - step)^s step (w* - M S w*), M the weights trained without chain.
    exact = size**2 * icl.trained_risk(task, n).expr * sum((1 - size) ** (2 * s) for s in range(t))
    late = training_steps(effort) // 4
    base = PromptAverage(run.loss[-late:])
    row = {**setting, "quantity": "loss"}
    risks = [average_row(row, exact, base, allowance=RISK, required=0.2)]
    below = []
    for form, most in (("blocks", 1.0), ("full", 0.95)):
        other = trained(decoder(3, form), task, n, effort, **options)
        ratio, error = PromptAverage(other.loss[-late:]).ratio(base)  # the same prompts
        row = {**setting, "trained on": f"the same chain, {FREE[form]}"}
        words = {**row, "quantity": "loss over that of the fixed layer"}
        below.append(inside(words, float(ratio), float(error), high=most))
    return weights, risks, below


def trained_model(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on trained weights."""
    from numeric.finite.threads import one_thread

    weights, risks = [], []
    with one_thread():
        progress("training on one thought", 0.0)
        for some, others in one_thought_rows(effort):
            weights += some
            risks += others
        anything = list(any_weight_rows(effort))
        progress("training on gradient descent", 0.4)
        some, chains = teacher_rows(effort)
        weights += some
        progress("training on a chain towards w*", 0.7)
        some, others, below = towards_rows(effort)
        weights += some
        risks += others
    t = np.arange(1, 9)
    figure = Figure(
        "A layer trained on three thoughts of gradient descent",
        "thoughts t",
        "risk per coordinate",
        "Own chains of the trained layer on fresh prompts at n = 16, d = 4 (points), and exact gradient "
        "descent with the step of the teacher (line): it goes on beyond the three thoughts that it saw.",
        (curve("gradient descent, exact", t, contraction_moments(2 * t, 16, 4, 0.4)),),
        (points("trained layer", chains, "steps", 1),),
        logx=False,
    )
    return (
        *separate("weights, within 3 %", weights, 1.06),
        *separate("risks, within 5 %", [*risks, *chains], 1.12),
        *separate("one thought with any weights", anything, 1.06),
        *separate("freer layers on a chain towards w*", below, 1.05),
    ), figure


# -- the claims ------------------------------------------------------------------------------------

NOISY = icl.LinearRegression(dim_symbol, label_noise_var, coef_cov=1)

register(
    decoding_claim(
        id="decoding-constructed-model",
        title="A layer whose thoughts are gradient descent",
        statement="Linear self-attention with three blocks and thoughts as columns runs gradient descent on the "
        "prompt to 1e-12, with label noise, with noise at every thought and with a preconditioner; "
        "divided by the growing number of columns instead of n it does not.",
        formulas=lambda: (icl.trained_weights(NOISY),),
        experiment=constructed,
    )
)
register(
    decoding_claim(
        id="decoding-trained-model",
        title="Trained layers reach the derived weights",
        statement="Trained on one thought the layer learns (Gamma + noise/n I)^-1, trained on gradient descent "
        "its step, which it continues beyond the thoughts that it saw: weights within 3 %, risks within 5 %. "
        "Trained on a chain towards w* it learns step Gamma^-1 with R = I and rho = -1 fixed; free blocks go "
        "below unless the covariance is a multiple of I, and all of V and K further, as the teacher's "
        "thoughts carry w*.",
        formulas=lambda: (
            icl.trained_weights(NOISY),
            icl.teacher_weights(icl.LinearRegression(dim_symbol)),
        ),
        experiment=trained_model,
    )
)
