"""Soft selection among chains, and selection at every thought: Chen, Lu, Wu and Zou (arXiv 2508.07571).

Continuous answers. The predictions are derived by `numeric`; how accurate they are is part of the
claims.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy as sp

import icltheory as icl
from numeric.best_of_n import (
    normal_maximum,
)
from numeric.chain_laws import chain_law
from numeric.chain_prompts import PromptAverage, decoding_prompts
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.decoding import HALF, decoding_claim
from numeric.claims.decoding_selection import band_row, formulas_of, paired_row, worse
from numeric.claims.rows import curve, holds, limit_row
from numeric.compare import Row, compare
from numeric.plot import Figure, Series
from numeric.softmax_mean import simulate_softmax_mean, softmax_mean_error
from numeric.stepwise import selected_step, simulate_stepwise, stepwise_risk

# -- soft selection --------------------------------------------------------------------------------

TEMPERATURES = (0.0, 0.25, 0.5, 1.0, 2.0)


def soft_selection(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on softmax-weighted means."""
    rows, floors, lines, marks = [], [], [], []
    theta = np.array(TEMPERATURES)
    for color, (n, d) in enumerate(((20, 10), (80, 40))):
        progress(f"d = {d}", color / 2)
        data = decoding_prompts(n, d, effort.prompts // (10 if d == 10 else 80), seed=d)
        chain = icl.NoisyDecoding(HALF, HALF if d == 10 else sp.Rational(3, 10), 3)
        law = chain_law(data, chain)
        floor = PromptAverage(law.mean_error(math.inf) / d)
        found = simulate_softmax_mean(data, chain, 256, theta, seed=d)
        soft = softmax_mean_error(law, 256, theta[:, None])
        for i, inverse in enumerate(TEMPERATURES):
            for low, high, gap in ((30, math.inf, 0.02), (7, 30, 0.05)):
                kept = (soft.effective_samples[i] >= low) & (soft.effective_samples[i] < high)
                if kept.mean() < 0.1:
                    continue
                setting = {
                    "d": d,
                    "inverse temperature": inverse,
                    "effective chains": f"{low} to {high:g}",
                }
                rows.append(
                    paired_row(
                        {**setting, "quantity": "risk"},
                        PromptAverage(soft.error[i, kept] / d),
                        PromptAverage(found.values[kept, i]),
                        allowance=gap,
                        required=gap + 0.06,
                    )
                )
            if inverse >= 0.5:
                setting = {"d": d, "inverse temperature": inverse}
                words = "below the mean of infinitely many chains"
                floors.append(holds({**setting, "quantity": words}, worse(floor, found[i])))
        shown = np.linspace(0, 2, 21)
        some = softmax_mean_error(law, 256, shown[:, None])
        for label, values in (("N = 256", some.error), ("infinitely many", some.limit)):
            lines.append(curve(f"d = {d}, {label}", shown, values.mean(axis=1) / d, (), color))
        marks.append(curve(f"d = {d}, simulated", theta, found.value, found.standard_error, color))
    figure = Figure(
        "Soft selection shrinks the bias",
        "inverse temperature",
        "risk per coordinate",
        "Mean of 256 chains weighted by exp(-theta loss on the prompt), predicted for 256 and for "
        "infinitely many (lines) and simulated (points). It falls below the plain mean, theta = 0, whose "
        "bias no number of chains removes; few effective chains end that.",
        tuple(lines),
        tuple(marks),
        logx=False,
    )
    return (
        Part.of("softmax-weighted means", rows, 1.12),
        Part.of("below the floor of the mean", floors),
    ), figure


# -- step-wise selection ---------------------------------------------------------------------------

# Bands of predicted over simulated risk along chains with 16 candidates a step.
ALONG: dict[str, tuple[Any, dict[int, tuple[float, float]]]] = {
    "0.02": (sp.Rational(1, 50), {1: (0.99, 1.01), 4: (0.98, 1.02)}),
    "0.3": (sp.Rational(3, 10), {1: (1.0, 1.06), 2: (1.04, 1.13), 8: (1.18, 1.35)}),
}


def move_rows(effort: Effort) -> Iterator[Row]:
    """The mean move of one selection, coordinate by coordinate, on a fixed gradient."""
    values = 0.2 * np.arange(1.0, 11.0)
    gradient = -values  # at the start, w* = 1 in the eigenbasis
    rng = np.random.default_rng(1)
    for sigma, words, most in ((0.02, "1.5 %", 0.015), (0.3, "7 %", 0.07)):
        moves = []
        for _ in range(effort.prompts // 800):
            noise = sigma * rng.standard_normal((8000, 16, 10))
            loss = 2 * noise @ gradient + np.square(noise) @ values
            kept = loss.argmin(axis=1)[:, None, None]
            moves.append(np.take_along_axis(noise, kept, axis=1)[:, 0])
        found = PromptAverage(np.concatenate(moves))
        predicted = selected_step(gradient, values, sigma, 16)
        setting = {"noise": sigma, "candidates": 16}
        if sigma < 0.1:
            for j in (3, 6, 10):
                yield compare(
                    {**setting, "quantity": f"mean move of coordinate {j}, within 1 %"},
                    predicted[j - 1],
                    float(found.value[j - 1]),
                    float(found.standard_error[j - 1]),
                    0.01,
                    required=0.08,
                )
        gap = found.value - predicted
        length = float(np.linalg.norm(predicted))
        error = float(np.linalg.norm(found.standard_error)) / length
        # Along the prediction, and its relative error as a vector.
        yield compare(
            {**setting, "quantity": "mean move along the gradient, within 2 %"},
            length,
            float(found.value @ predicted) / length,
            error * length,
            0.02,
            required=0.06,
        )
        within = float(np.linalg.norm(gap)) / length <= most
        yield holds({**setting, "quantity": f"error of the mean move below {words}"}, within)
    # For small noise the length is noise_std m_M, whatever the gradient.
    setting = {"noise": "small", "candidates": 16, "quantity": "length of the move over noise"}
    lengths = [
        float(np.linalg.norm(selected_step(gradient, values, s, 16))) / s for s in (1e-2, 1e-3)
    ]
    yield limit_row(setting, float(normal_maximum(16)), *lengths)


def along_rows(effort: Effort) -> tuple[list[Row], list[Series], list[Series]]:
    """Whole chains with selection at every step: predicted over simulated, and where it helps."""
    data = decoding_prompts(20, 10, effort.prompts // 20, seed=6)
    at = np.arange(1, 9)
    rows, lines, marks = [], [], []
    for color, (name, (std, bands)) in enumerate(ALONG.items()):
        chain = icl.NoisyDecoding(HALF, std, 8)
        predicted = stepwise_risk(data, chain, 16, at=at)
        found = simulate_stepwise(data, chain, 16, at=at, seed=color)
        for t, band in bands.items():
            setting = {"noise": name, "candidates": 16, "thoughts": t}
            rows.append(band_row(setting, band, predicted[t - 1], found[t - 1]))
        plain = stepwise_risk(data, chain, 1, at=at)
        setting = {"noise": name, "candidates": 16, "thoughts": 3}
        words = "below a chain without selection"
        rows.append(holds({**setting, "quantity": words}, worse(plain[2], found[2])))
        lines.append(curve(f"noise {name}, predicted", at, predicted.value, (), color))
        lines.append(curve(f"noise {name}, no selection", at, plain.value, (), color))
        label = f"noise {name}, simulated"
        marks.append(curve(label, at, found.value, found.standard_error, color))
    return rows, lines, marks


def stepwise(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on selection at every step."""
    progress("one step", 0.0)
    moves = list(move_rows(effort))
    progress("chains", 0.6)
    rows, lines, marks = along_rows(effort)
    figure = Figure(
        "Selection at every thought",
        "thoughts t",
        "risk per coordinate",
        "The best of 16 successors by the loss on the prompt is kept at every thought, n = 20, d = 10: "
        "predicted from mean and variance (lines) and simulated (points). Selection adds a step "
        "along the normalised gradient; the prediction is too high for large noise.",
        tuple(lines),
        tuple(marks),
        logx=False,
    )
    return (
        Part.of("the mean move of a selection", moves, 1.12),
        Part.of("chains with selection", rows, 1.2),
    ), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    decoding_claim(
        id="decoding-soft-selection",
        title="Soft selection removes bias",
        statement="A mean of chains with weights exp(-theta loss) shrinks the bias like a ridge and falls "
        "below the mean of infinitely many chains. Its risk is predicted within 2 % with 30 effective "
        "chains or more, within 5 % with 7 or more.",
        formulas=lambda: formulas_of(("softmax_mean_risk",)),
        experiment=soft_selection,
    )
)
register(
    decoding_claim(
        id="decoding-stepwise",
        title="Selection at every thought is a gradient step",
        statement="Keeping the best of M successors adds a step of length sigma m_M along the normalised "
        "gradient, within 1.5 % at sigma = 0.02 and 7 % at 0.3. Iterated with mean and variance it gives "
        "the risk of the chain, 18 to 35 % high after 8 thoughts at sigma = 0.3.",
        formulas=lambda: (icl.normal_maximum_mean(16),),
        experiment=stepwise,
    )
)
