"""Claim on width, heads and LSTMs: small models trained alike, and what is forgotten.

Fu, Chen, Jia and Sharan (arXiv 2310.17086), at d = 2. What needs the size of the paper (d = 20, 12
layers, 500,001 steps) is listed as not testable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

import icltheory as icl
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.rows import curve, estimate_row, holds
from numeric.claims.solvers import mean_risk, solver_claim
from numeric.claims.solvers_models import DIM, LENGTH, NOISE, below
from numeric.compare import Row, compare
from numeric.montecarlo import Estimate
from numeric.online import forgetting_curve, online_weights
from numeric.plot import Figure
from numeric.published import BEST_OF_MODELS
from numeric.regression_prompts import solver_prompts

SMALL_DIM, SMALL_LENGTH = 2, 8
SIZES = {"width 32": 32, "width 8": 8, "width 4": 4}
SMALL_STEPS = {"quick": 1_000, "full": 3_000}
RATE = 3e-3
_UNTESTED = "trained at d = 20 with 500,001 steps; not testable at CPU size"


def trained_models(effort: Effort, progress: Progress) -> dict[str, np.ndarray]:
    """Risk of small models by prefix on the same prompts, (B, N); the last is the zero predictor."""
    import torch

    from numeric import finite

    models: dict[str, Any] = {
        name: finite.Transformer(SMALL_DIM, 3, width, 1, SMALL_LENGTH + 1)
        for name, width in SIZES.items()
    }
    models["LSTM of width 32"] = finite.LSTM(SMALL_DIM, 2, 32)
    task = icl.LinearRegression(dim=SMALL_DIM)
    data = solver_prompts(SMALL_DIM, SMALL_LENGTH + 1, effort.prompts // 10, seed=29)
    X, y = (torch.from_numpy(a) for a in (data.features, data.labels))
    risks = {}
    for i, (name, model) in enumerate(models.items()):
        progress(f"training: {name}", i / len(models))
        finite.train(
            model,
            task,
            SMALL_LENGTH,
            steps=SMALL_STEPS.get(effort.name, 100),
            batch_size=64,
            learning_rate=RATE,
            warmup=100,
            clip_norm=1.0,
            progress=False,
        )
        with torch.no_grad():
            risks[name] = ((model.predict_all(X, y) - y) ** 2).double().numpy()
    risks["zero"] = data.labels**2
    return risks


def size_rows(risks: dict[str, np.ndarray]) -> Iterator[Row]:
    """Risks at full length of models trained alike, with one head each."""
    last = {name: mean_risk(risk[:, SMALL_LENGTH]) for name, risk in risks.items()}
    setting: dict[str, Any] = {"d": SMALL_DIM, "n": SMALL_LENGTH}
    for name, bound in (("width 32", 0.15), ("width 8", 0.7)):
        yield below({**setting, "model": name}, last[name], bound)
    for name, bound in (("width 4", 0.5), ("LSTM of width 32", 1.5 * last["width 32"].value)):
        measured = last[name]
        words = f"{measured.value:.3f} +- {measured.standard_error:.3f} above {bound:.3f}"
        condition = measured.value - 5 * measured.standard_error > bound
        yield holds({**setting, "model": name, "quantity": words}, condition)
    for model, printed in BEST_OF_MODELS.items():
        for solver, value in zip(("Newton", "descent", "online descent"), printed, strict=True):
            words = f"printed similarity to {solver}"
            setting = {"d": 20, "n": 40, "model": model, "quantity": words}
            yield compare(setting, value, 0.0, None, note=_UNTESTED)


def forgetting_rows(effort: Effort) -> Iterator[Row]:
    """Online descent forgets as derived; the shipped model does not forget its first examples."""
    import torch

    from numeric import finite

    d = 20
    data = solver_prompts(d, d, effort.prompts // 4, seed=31)
    last = online_weights(data.features, data.labels)[:, -1]
    curve = forgetting_curve(data.features, last, data.coefficients)
    for gap in (5, 18):
        exact = float(icl.OnlineGradientDescent().forgetting(n=d, d=d, gap=gap))
        i = d - gap - 1
        measured = Estimate(curve.mean[i], curve.standard_error[i], len(last))
        setting = {"learner": "online descent", "d": d, "n": d, "steps ago": gap}
        yield estimate_row(setting, exact, measured, required=0.15)
    data = solver_prompts(DIM, LENGTH, effort.prompts // 10, noise_var=NOISE, seed=31)
    model = finite.shipped("noisy")
    X, y = (torch.from_numpy(a) for a in (data.features, data.labels))
    with torch.no_grad():
        parts = zip(X.split(500), y.split(500), strict=True)
        states = [model.query_states(a, b, a)[-1] for a, b in parts]
        found = model.read_out(torch.cat(states)).double().numpy()
    squares = (found - np.einsum("bnd,bd->bn", data.features, data.coefficients)) ** 2
    half = LENGTH // 2
    early, late = squares[:, :half].mean(axis=1), squares[:, -half:].mean(axis=1)
    ratio = early.mean() / late.mean()
    scatter = (early - ratio * late).std(ddof=1) / late.mean() / math.sqrt(len(late))
    setting = {"learner": "shipped, noisy", "d": DIM, "n": LENGTH}
    setting["quantity"] = "error on early over late examples"
    yield compare(setting, 1.0, ratio, scatter, 0.03, required=0.2)


def contrasts(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on width, heads and LSTMs."""
    risks = trained_models(effort, progress)
    progress("forgetting", 0.9)
    forgetting = list(forgetting_rows(effort))
    lengths = np.arange(SMALL_LENGTH + 1)
    marks = []
    for color, (name, risk) in enumerate(risks.items()):
        if name != "zero":
            errors = risk.std(axis=0, ddof=1) / math.sqrt(len(risk))
            marks.append(curve(name, lengths, risk.mean(axis=0), errors, color))
    least = np.maximum(SMALL_DIM - lengths, 0) / SMALL_DIM
    figure = Figure(
        "Width, and an LSTM",
        "prompt length n",
        "risk",
        f"Small Transformers of 3 layers with one head, and an LSTM, trained alike for a short time at d = "
        f"{SMALL_DIM} (points). Width 4, below the 2 d + 1 of the construction, learns nothing; one head "
        "is no obstacle.",
        (curve("least squares", lengths, least, (), 6),),
        tuple(marks),
        logx=False,
        logy=False,
    )
    return (
        Part.of("models trained alike", size_rows(risks)),
        Part.of("what is forgotten", forgetting, 1.2),
    ), figure


# -- the claim -------------------------------------------------------------------------------------

register(
    solver_claim(
        id="solvers-contrasts",
        title="Width, heads and LSTMs",
        statement="A Transformer needs a width of the order of the dimension, one head a layer is enough, "
        "and an LSTM learns later (here at d = 2, where it gets there with longer training). Online descent "
        "forgets early examples, a Transformer does not.",
        formulas=lambda: (
            icl.OnlineGradientDescent().forgetting(),
            icl.OnlineGradientDescent().risk(),
        ),
        experiment=contrasts,
    )
)
