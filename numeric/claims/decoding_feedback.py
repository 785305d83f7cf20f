"""Sampled bits fed back into the chain: Chen, Lu, Wu and Zou (arXiv 2508.07571).

State evolution of the share of wrong bits, where it holds and where it fails, and the Onsager correction
that makes it hold on one prompt. Conventions and priors: `decoding_binary`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy as sp

import icltheory as icl
from icltheory.symbols import error_fraction, temperature
from numeric.binary_feedback import feedback_fixed_point, simulate_feedback, state_evolution
from numeric.binary_samplers import bit_probability
from numeric.chain_prompts import PromptAverage
from numeric.claims.base import Effort, Progress, Result, register
from numeric.claims.decoding import average_row, decoding_claim, exact_row
from numeric.claims.decoding_binary import BITS, HALF, SIGNS, mean_error, value
from numeric.claims.rows import curve, holds, inside, separate
from numeric.compare import Row, compare
from numeric.plot import Figure

DIM, WIDE = 100, 200
ABSOLUTE = 0.01  # accuracy of state evolution in the share of wrong bits, at d = 100 and beyond
SMALL = 0.03  # shares below it have no row relative to them, only the statement of their accuracy
SAMPLERS: dict[str, Any] = {
    "round": icl.Round(),
    "clip": icl.Clip(),
    "logit, T = 0.1": icl.Logit(sp.Rational(1, 10)),
    "probit, T = 0.2": icl.Probit(sp.Rational(1, 5)),
}


def share_row(setting: dict[str, Any], predicted: float, average: PromptAverage) -> Row:
    """A share of wrong bits within 0.01 of state evolution."""
    if predicted < SMALL:
        found, error = value(average), float(average.standard_error)
        words = (
            f"{found:.4f} +- {error:.4f}, within {ABSOLUTE:g} of state evolution {predicted:.4f}"
        )
        close = abs(found - predicted) <= ABSOLUTE + 5 * error and 5 * error <= ABSOLUTE
        return holds({**setting, "quantity": f"share of wrong bits {words}"}, close)
    required = min((ABSOLUTE + 0.02) / predicted, 0.5)  # deviations of 0.03 are seen
    return average_row(
        {**setting, "quantity": "share of wrong bits"},
        predicted,
        average,
        allowance=ABSOLUTE / predicted,
        required=required,
    )


# -- the map ---------------------------------------------------------------------------------------


def map_rows() -> Iterator[Row]:
    """The map in closed form against quadrature, for samplers, noise and steps."""
    rho = sp.Rational(1, 5)
    for name, sampler in SAMPLERS.items():
        for step, noise in ((1, 0), (sp.Rational(4, 5), sp.Rational(1, 20))):
            law = icl.state_evolution_map(sampler, HALF, step_size=step, label_noise_ratio=noise)
            found = state_evolution(
                BITS,
                sampler,
                2.0,
                1,
                start_error=float(rho),
                step_size=float(step),
                label_noise_ratio=float(noise),
            )[1]
            setting = {"sampler": name, "step": float(step), "label noise": float(noise)}
            exact = law.subs({error_fraction: rho}).evalf(15)
            yield exact_row(
                {**setting, "quantity": "next share of wrong bits"}, exact, float(found)
            )
    signs = state_evolution(SIGNS, icl.Probit(0.4), 1.5, 4, label_noise_ratio=0.4)
    bits = state_evolution(BITS, icl.Probit(0.2), 1.5, 4, label_noise_ratio=0.1)
    setting = {"sampler": "probit", "quantity": "signs at 2 T and 2 sigma, as bits at T, 4 steps"}
    yield exact_row(setting, float(bits[-1]), float(signs[-1]))


def fixed_rows() -> Iterator[Row]:
    """Where the iteration ends: lock-in of rounding, and the floors of samplers."""
    threshold = icl.lock_in_threshold(10)
    low, high = 0.5, 1.0
    for _ in range(14):
        middle = (low + high) / 2
        locked = feedback_fixed_point(BITS, icl.Round(), middle) == 0
        low, high = (low, middle) if locked else (middle, high)
    setting = {"sampler": "round", "quantity": "least n/d that locks in, by bisection"}
    yield compare(setting, float(threshold), (low + high) / 2, high - low)
    alpha = 0.5
    found = feedback_fixed_point(BITS, icl.Round(), alpha)
    image = icl.state_evolution_map(icl.Round(), 2).subs({error_fraction: sp.Float(found, 20)})
    setting = {"sampler": "round", "quantity": "fixed point below it, n/d = 1/2"}
    yield exact_row(setting, image.evalf(15), found)
    near, far = (feedback_fixed_point(BITS, icl.Clip(), alpha) * alpha for alpha in (4.0, 16.0))
    law = icl.clip_floor(1).evalf()
    setting = {"sampler": "clip", "quantity": "n/d times the fixed point, n/d = 16"}
    yield compare(setting, float(law), far, abs(far - near) + 1e-9)
    for name in ("logit, T = 0.1", "probit, T = 0.2"):
        sampler = SAMPLERS[name]
        found = feedback_fixed_point(BITS, sampler, 1e7)
        setting = {"sampler": name, "quantity": "floor at many examples"}
        yield exact_row(setting, icl.sampling_floor(sampler).evalf(12), found, 1e-5)


# -- fresh prompts, and one prompt -----------------------------------------------------------------


def fresh_rows(effort: Effort) -> Iterator[Row]:
    """A fresh prompt at every step: state evolution throughout."""
    prompts, steps = max(20, effort.prompts // 130), 3
    cases = [(name, BITS, sampler, 1.2, 0.0) for name, sampler in SAMPLERS.items()]
    cases += [
        ("round, signs", SIGNS, icl.Round(), 1.2, 0.0),
        ("round, labels", BITS, icl.Round(), 2.0, 0.1),
    ]
    for name, prior, sampler, alpha, noise in cases:
        n = round(alpha * DIM)
        theory = state_evolution(prior, sampler, alpha, steps, label_noise_ratio=noise)
        run = simulate_feedback(
            prior,
            sampler,
            n,
            DIM,
            steps,
            mode="fresh",
            label_noise_var=noise * n,
            prompts=prompts,
            seed=2,
        ).error
        for step in (1, 2, 3):
            setting = {"sampler": name, "n": n, "d": DIM, "steps": step}
            yield share_row(setting, float(theory[step]), run[step])


def same_rows(effort: Effort) -> Iterator[Row]:
    """One prompt: right for the first step, then wrong."""
    prompts = max(40, effort.prompts // 60)
    n = 2 * DIM
    theory = state_evolution(BITS, icl.Round(), 2.0, 8)
    run = simulate_feedback(BITS, icl.Round(), n, DIM, 8, mode="same", prompts=prompts, seed=5)
    setting = {"sampler": "round", "n": n, "d": DIM}
    yield share_row({**setting, "steps": 1}, float(theory[1]), run.error[1])
    for step, least in ((2, 0.08), (3, 0.05)):
        words = f"share of wrong bits, state evolution {theory[step]:.2g}"
        row = {**setting, "steps": step, "quantity": words}
        yield inside(row, *mean_error(run.error[step]), least)
    row = {**setting, "steps": 8, "quantity": "share of prompts that end without error"}
    yield inside(row, *mean_error(run.recovered[8]), 0.65, 0.9)
    n = round(1.2 * DIM)
    run = simulate_feedback(BITS, icl.Round(), n, DIM, 8, mode="same", prompts=prompts, seed=6)
    row = {
        "sampler": "round",
        "n": n,
        "d": DIM,
        "steps": 8,
        "quantity": "share of wrong bits, state evolution 0",
    }
    yield inside(row, *mean_error(run.error[8]), 0.25, 0.35)


def feedback(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on bits that are fed back."""
    progress("the map", 0.0)
    maps, fixed = list(map_rows()), list(fixed_rows())
    progress("prompts", 0.3)
    fresh, same = list(fresh_rows(effort)), list(same_rows(effort))
    progress("figure", 0.8)
    steps, prompts = np.arange(7), max(20, effort.prompts // 2000)
    lines, marks = [], []
    for color, (name, alpha) in enumerate((("round", 2.0), ("clip", 2.0), ("round", 0.5))):
        sampler = SAMPLERS[name]
        theory = state_evolution(BITS, sampler, alpha, 6)
        shown = theory > 1e-4
        label = f"{name}, n/d = {alpha:g}"
        lines.append(curve(f"{label}, state evolution", steps[shown], theory[shown], (), color))
        for mode, words, place in (
            ("fresh", "fresh prompts", color),
            ("same", "one prompt", color + 3),
        ):
            run = simulate_feedback(
                BITS, sampler, int(alpha * DIM), DIM, 6, mode=mode, prompts=prompts, seed=7
            ).error
            seen = run.value > 1e-4
            error = run.standard_error[seen]
            marks.append(curve(f"{label}, {words}", steps[seen], run.value[seen], error, place))
    figure = Figure(
        "Sampled bits fed back",
        "steps",
        "share of wrong bits",
        f"Bits at d = {DIM} drawn after every step and fed back: state evolution (lines), with a fresh prompt "
        "at every step and on one prompt (points). On one prompt state evolution holds for the first step "
        "only, since later states depend on the examples.",
        tuple(lines),
        tuple(marks),
        logx=False,
    )
    return (
        *separate("the map, two routes", maps),
        *separate("lock-in and floors", fixed),
        *separate("fresh prompts", fresh, 1.17),
        *separate("one prompt: the first step only", same, 1.25),
    ), figure


# -- the correction --------------------------------------------------------------------------------

CORRECTED = {
    "probit, T = 0.1": icl.Probit(sp.Rational(1, 10)),
    "logit, T = 0.1": icl.Logit(sp.Rational(1, 10)),
    "clip": icl.Clip(),
}


def corrected_rows(effort: Effort) -> Iterator[tuple[Row, Row | None]]:
    """One prompt with the Onsager term, and the same prompts without it."""
    prompts = max(20, effort.prompts // 300)
    cases = [
        (name, sampler, alpha, 0.0) for name, sampler in CORRECTED.items() for alpha in (1.2, 2.0)
    ]
    cases.append(("probit, T = 0.1, labels", CORRECTED["probit, T = 0.1"], 2.0, 0.05))
    for name, sampler, alpha, noise in cases:
        n, steps = round(alpha * WIDE), 5
        options: dict[str, Any] = {"prompts": prompts, "seed": 3, "label_noise_var": noise * n}
        theory = state_evolution(BITS, sampler, alpha, steps, label_noise_ratio=noise)
        run = simulate_feedback(BITS, sampler, n, WIDE, steps, mode="amp", **options).error
        plain = simulate_feedback(BITS, sampler, n, WIDE, steps, mode="same", **options).error
        for step in (2, 3, 5):
            setting = {"sampler": name, "n": n, "d": WIDE, "steps": step}
            row = None
            if step == 3:
                off = plain[step] - run[step]
                words = (
                    f"without correction {value(plain[step]):.3f}, with it {value(run[step]):.3f}"
                )
                different = value(off) > 5 * float(off.standard_error)
                row = holds({**setting, "quantity": words}, different)
            predicted = float(theory[step])
            if predicted > 0.003:
                yield share_row(setting, predicted, run[step]), row


def voted_rows(effort: Effort) -> Iterator[Row]:
    """Votes of several draws at every step have their own map, with correction; they lower the floor."""
    sampler, alpha, steps = icl.Logit(sp.Rational(1, 4)), 2.0, 4
    n, prompts = round(alpha * WIDE), max(20, effort.prompts // 300)
    for votes in (1, 9):
        theory = state_evolution(BITS, sampler, alpha, steps, samples=votes)
        run = simulate_feedback(
            BITS, sampler, n, WIDE, steps, mode="amp", samples=votes, prompts=prompts, seed=4
        ).error
        setting = {"sampler": "logit, T = 1/4", "votes": votes, "n": n, "d": WIDE, "steps": steps}
        yield share_row(setting, float(theory[-1]), run[steps])
    for alpha in (1.0, 3.0):
        one, many = (feedback_fixed_point(BITS, sampler, alpha, samples=votes) for votes in (1, 9))
        setting = {"n/d": alpha, "quantity": f"9 votes end at {many:.4f}, one sample at {one:.4f}"}
        yield holds(setting, many < 0.8 * one)


def coefficient_rows(effort: Effort) -> Iterator[Row]:
    """The Onsager coefficient: the average slope of the sampler at the states of one step."""
    gamma, rho = HALF, sp.Rational(3, 10)
    rng, small = np.random.default_rng(1), 1e-4
    state = math.sqrt(rho * gamma) * rng.standard_normal(effort.prompts * 5)
    for name, sampler in CORRECTED.items():
        law = icl.onsager_coefficient(sampler, gamma).subs({error_fraction: rho}).evalf(12)
        high, low = (bit_probability(sampler, state + x, BITS) for x in (small, -small))
        average = PromptAverage(float(gamma) * (high - low) / (2 * small))
        setting = {"sampler": name, "quantity": "coefficient of the old residual"}
        yield average_row(setting, law, average, required=0.05)


def corrected(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on the corrected iteration."""
    progress("corrected and plain", 0.0)
    pairs = list(corrected_rows(effort))
    progress("votes", 0.6)
    votes, terms = list(voted_rows(effort)), list(coefficient_rows(effort))
    progress("figure", 0.8)
    steps, prompts = np.arange(7), max(20, effort.prompts // 2000)
    sampler, lines, marks = CORRECTED["probit, T = 0.1"], [], []
    for color, alpha in enumerate((1.2, 2.0)):
        theory = state_evolution(BITS, sampler, alpha, 6)
        shown = theory > 1e-4
        lines.append(
            curve(f"n/d = {alpha}, state evolution", steps[shown], theory[shown], (), color)
        )
        for mode, words, place in (("amp", "corrected", color), ("same", "plain", color + 2)):
            run = simulate_feedback(
                BITS, sampler, round(alpha * WIDE), WIDE, 6, mode=mode, prompts=prompts, seed=8
            ).error
            seen = run.value > 1e-4
            error = run.standard_error[seen]
            marks.append(
                curve(f"n/d = {alpha}, {words}", steps[seen], run.value[seen], error, place)
            )
    figure = Figure(
        "The Onsager correction of fed-back bits",
        "steps",
        "share of wrong bits",
        f"Bits at d = {WIDE}, probit sampling at temperature 0.1, all on one prompt: with the correction (points) "
        "state evolution (lines) holds at every step, without it errors stay.",
        tuple(lines),
        tuple(marks),
        logx=False,
    )
    return (
        *separate("one prompt, corrected", (row for row, _ in pairs), 1.25),
        *separate(
            "the same prompts without correction",
            (row for _, row in pairs if row is not None),
        ),
        *separate("votes at every step", votes, 1.3),
        *separate("the coefficient", terms, 1.05),
    ), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    decoding_claim(
        id="decoding-fed-back-bits",
        title="Sampled bits fed back",
        statement="With a fresh prompt at every step the share of wrong bits follows state evolution within "
        "0.01 at d = 100. Rounding locks in for n > 0.6629 d; the clip ends at d/(2 pi n), logit and probit at "
        "the floor of their temperature. On one prompt the map holds for the first step only: at n = 2 d it "
        "has 0.04 and 0.0001 after two and three steps, prompts 0.1 and 0.065.",
        formulas=lambda: (
            icl.state_evolution_map(icl.Round()),
            icl.lock_in_threshold(),
            icl.clip_floor(),
        ),
        experiment=feedback,
    )
)
register(
    decoding_claim(
        id="decoding-corrected-feedback",
        title="Fed-back bits with the Onsager correction",
        statement="On one prompt the correction of approximate message passing, with the slope of the "
        "sampler's mean, makes state evolution hold at every step within 0.01 at d = 200, with votes and label "
        "noise as well; the same prompts without it keep more errors. Rounding itself has no slope.",
        formulas=lambda: (icl.state_evolution_map(icl.Probit(temperature)),),
        experiment=corrected,
    )
)
