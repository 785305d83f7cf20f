"""Verifiers of binary answers that err: Chen, Lu, Wu and Zou (arXiv 2508.07571).

One that knows the prompt's noisy labels only, and one that accepts and rejects with errors. Conventions
and channel: `decoding_binary`; a verifier that does not err: `decoding_verified`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy as sp
from scipy import special

import icltheory as icl
from icltheory.symbols import false_negative, false_positive, samples, success
from numeric.binary_decoding import DecodingChannel, decoding_channel
from numeric.binary_passes import (
    pass_at_n,
)
from numeric.binary_simulation import (
    chain_states,
    simulate_exhaustive_search,
    simulate_prompt_selection,
)
from numeric.binary_verifiers import (
    accept_reject_success,
    exhaustive_error,
    sufficient_examples,
    verified_success,
)
from numeric.chain_prompts import PromptAverage, prompt_blocks
from numeric.claims.base import Effort, Progress, Result, register
from numeric.claims.decoding import average_row, decoding_claim, exact_row
from numeric.claims.decoding_binary import HALF, SIGNS, value
from numeric.claims.decoding_verified import ABSOLUTE, two_thoughts
from numeric.claims.rows import curve, holds, inside, points, scatter, separate
from numeric.compare import Row, compare
from numeric.plot import Figure

# -- noisy labels ----------------------------------------------------------------------------------


def pair_rows(effort: Effort) -> Iterator[Row]:
    """How often a vector at Hamming distance h fits better than w*, exactly."""
    for name, prior, n, d, noise in (
        ("signs", SIGNS, 6, 10, 4.0),
        ("bits", icl.Bits(), 12, 6, 2.0),
        ("signs", SIGNS, 2, 8, 4.0),
    ):
        gap = float(prior.gap)
        wins: dict[int, list[np.ndarray]] = {}
        blocks = prompt_blocks(n, d, effort.prompts, noise, None, prior, 3)
        for X, w, eps, _ in blocks:
            move = gap * np.where(w > float(prior.centre), -1.0, 1.0)
            for h in (1, 2):
                delta = np.einsum("bnd,bd->bn", X[:, :, :h], move[:, :h])
                better = np.square(eps - delta).sum(axis=1) < np.square(eps).sum(axis=1)
                wins.setdefault(h, []).append(1.0 * better)
        for h, found in wins.items():
            exact = icl.competitor_error(h, prior, n, sp.nsimplify(noise)).evalf(12)
            setting = {"prior": name, "n": n, "noise": noise, "distance": h}
            yield average_row(setting, exact, PromptAverage(np.concatenate(found)), required=0.25)


def union_rows(effort: Effort) -> Iterator[Row]:
    """The union bound: exact for one competitor, valid and loose for many; lengths that suffice."""
    prompts = effort.prompts // 20
    run = simulate_exhaustive_search(SIGNS, 3, 1, 2.0, prompts=effort.prompts, seed=1)
    exact = icl.exhaustive_error(SIGNS, 3, 1, 2).evalf(12)
    setting = {"n": 3, "d": 1, "noise": 2.0, "quantity": "error of the exhaustive search"}
    yield average_row(setting, exact, run, required=0.1)
    run = simulate_exhaustive_search(SIGNS, 6, 10, 1.0, prompts=prompts, seed=2)
    bounds = exhaustive_error(SIGNS, 6, 10, 1.0)
    measured = value(run)
    setting = {"n": 6, "d": 10, "noise": 1.0, "quantity": "union bound over the error on prompts"}
    error = float(run.standard_error) * bounds.union / measured**2
    yield inside(setting, bounds.union / measured, error, 2.8, 4.4)
    words = f"error {measured:.3f} < union {bounds.union:.3f} < Chernoff {bounds.chernoff:.3f}"
    yield holds({**setting, "quantity": words}, measured < bounds.union < bounds.chernoff)
    for failure in (0.2, 0.05):
        n = sufficient_examples(SIGNS, 6, 1.0, failure)
        run = simulate_exhaustive_search(SIGNS, n, 6, 1.0, prompts=prompts, seed=3)
        short = simulate_exhaustive_search(SIGNS, n // 4, 6, 1.0, prompts=prompts, seed=3)
        words = (
            f"fails in {value(run):.4f} <= {failure}; with a quarter of them in {value(short):.3f}"
        )
        enough = value(run) + 5 * float(run.standard_error) <= failure < value(short)
        yield holds({"n": n, "d": 6, "noise": 1.0, "quantity": words}, enough)


def floor_rows(effort: Effort) -> Iterator[Row]:
    """More samples end at the exhaustive search: with label noise success has a ceiling."""
    n, d, noise = 6, 5, 0.5
    spec = icl.NoisyDecoding(HALF, 0, 2, label_noise_var=noise)
    options: dict[str, Any] = {"prompts": effort.prompts // 40, "seed": 9}
    counts = [1, 8, 64, 512]
    run = simulate_prompt_selection(spec, icl.Bits(), n, d, icl.Logit(2), counts, **options)
    search = simulate_exhaustive_search(icl.Bits(), n, d, noise, **options)
    setting = {"n": n, "d": d, "noise": noise, "samples": 512}
    gap = run.vector[3] - search  # the same prompts
    yield compare(
        {**setting, "quantity": "error of best-of-N, that of the exhaustive search"},
        value(search),
        value(search) + value(gap),
        float(gap.standard_error) + 1e-3,
        required=0.1,
    )
    words = f"w* was sampled on {value(run.found[3]):.4f} of the prompts"
    yield holds({**setting, "quantity": words}, value(run.found[3]) > 0.999)


def label_noise(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on a verifier with noisy labels."""
    progress("pairs", 0.0)
    pairs = list(pair_rows(effort))
    progress("exhaustive search", 0.3)
    unions, floors = list(union_rows(effort)), list(floor_rows(effort))
    progress("figure", 0.8)
    d, lengths = 8, np.arange(2, 25)
    lines, marks = [], []
    for color, noise in enumerate((0.25, 1.0, 4.0)):
        bounds = np.array([exhaustive_error(SIGNS, int(n), d, noise).union for n in lengths])
        shown = bounds > 1e-3
        bounds = np.minimum(bounds[shown], 1.0)
        lines.append(curve(f"noise {noise:g}, union bound", lengths[shown], bounds, (), color))
        some = []
        for n in (2, 4, 8, 12, 16, 24):
            run = simulate_exhaustive_search(
                SIGNS, n, d, noise, prompts=effort.prompts // 40, seed=n
            )
            if value(run) > 5 * float(run.standard_error):
                some.append((n, value(run), float(run.standard_error)))
        marks.append(scatter(f"noise {noise:g}, prompts", some, color))
    figure = Figure(
        "The best fit among all binary answers",
        "prompt length n",
        "probability of a wrong answer",
        f"Signs at d = {d} with label noise, by exhaustive search on prompts (points) and by the union bound "
        "over exact pairwise errors (lines), which is loose where it is not small. No number of samples "
        "does better with this verifier.",
        tuple(lines),
        tuple(marks),
        logx=False,
    )
    return (
        *separate("pairwise errors, exact", pairs, 1.1),
        *separate("the union bound", unions, 1.12),
        *separate("a ceiling for best-of-N", floors, 1.05),
    ), figure


# -- a verifier that errs ----------------------------------------------------------------------------


def accept_reject(
    right: np.ndarray, miss: float, wrong: float, rng: np.random.Generator
) -> np.ndarray:
    """Drawn: of samples (B, N), right or not, a random accepted one, or any; whether it is right."""
    accepted = rng.random(right.shape) < np.where(right, 1 - miss, wrong)
    score = rng.random(right.shape) + accepted
    return 1.0 * np.take_along_axis(right, score.argmax(axis=1)[:, None], axis=1)[:, 0]


RATES = ((0.1, 0.2, 0.05), (0.3, 0.5, 0.02), (0.05, 0.0, 0.1))


def drawn_rows(effort: Effort) -> Iterator[Row]:
    """The formula against drawn samples and decisions."""
    rng = np.random.default_rng(1)
    for p, miss, wrong in RATES:
        for count in (1, 4, 16):
            right = rng.random((effort.prompts, count)) < p
            found = PromptAverage(accept_reject(right, miss, wrong, rng))
            chance, *errors = (sp.nsimplify(x) for x in (p, miss, wrong))
            exact = icl.verified_success(chance, count, *errors).evalf(12)
            setting = {"success": p, "rejects right": miss, "accepts wrong": wrong}
            yield average_row({**setting, "samples": count}, exact, found, required=0.15)


def ceiling_rows() -> Iterator[Row]:
    """Many samples end at the precision of the verifier; a perfect one is pass@N."""
    for p, miss, wrong in RATES:
        near, far = verified_success(p, [10**3, 10**6], miss, wrong)
        accepted = p * (1 - miss) + (1 - p) * wrong
        setting = {"success": p, "rejects right": miss, "accepts wrong": wrong}
        row = {**setting, "quantity": "success of 10^6 samples, the precision"}
        precision = p * (1 - miss) / accepted
        yield compare(row, precision, float(far), abs(float(far - near)) + 1e-12)
    seen = DecodingChannel(SIGNS, 12, np.array(0.6), np.array(0.45))
    perfect = accept_reject_success(seen, icl.Logit(0.3), 64, 0, 0)
    passed = pass_at_n(seen, icl.Logit(0.3), 64)
    yield exact_row({"quantity": "a perfect verifier, pass@64"}, passed.value, float(perfect.value))


def state_rows(effort: Effort) -> Iterator[tuple[Row, Row]]:
    """Averaged over the states of chains, exactly given each; and over those of the channel."""
    n = d = 12
    spec = two_thoughts(n, d)
    seen = decoding_channel(spec, SIGNS, n, d)
    temperature = float(seen.calibrated_temperature)
    states = [
        special.log_expit(w * u / temperature).sum(axis=1)
        for _, w, _, u, _ in chain_states(spec, SIGNS, n, d, "zero", effort.prompts // 10, 5)
    ]
    chance = np.exp(np.concatenate(states))
    rng = np.random.default_rng(4)
    for count in (1, 8, 64):
        exact = PromptAverage(verified_success(chance, count, 0.1, 0.01))
        right = rng.random((len(chance), count)) < chance[:, None]
        drawn = PromptAverage(accept_reject(right, 0.1, 0.01, rng)) - exact
        predicted = accept_reject_success(
            seen, icl.Logit(temperature), count, 0.1, 0.01, draws=20_000
        )
        prediction = float(predicted.value)
        setting = {"n": n, "d": d, "samples": count, "quantity": "success on states of chains"}
        yield (
            compare(
                {**setting, "route": "drawn"},
                value(exact),
                value(exact) + value(drawn),
                float(drawn.standard_error),
                required=0.15,
            ),
            average_row(
                {**setting, "route": "channel, within 0.05"},
                prediction,
                exact,
                allowance=ABSOLUTE / prediction,
                required=0.5,
            ),
        )


def noisy_verifier(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on a verifier that errs."""
    progress("draws", 0.0)
    drawn, ceilings = list(drawn_rows(effort)), list(ceiling_rows())
    progress("states of chains", 0.6)
    pairs = list(state_rows(effort))
    counts = 2 ** np.arange(11)
    lines, marks = [], []
    for color, (p, miss, wrong) in enumerate(RATES):
        label = f"success {p}, rejects {miss:g}, accepts {wrong:g}"
        lines.append(curve(label, counts, verified_success(p, counts, miss, wrong), (), color))
        rows = [row for row in drawn if row.setting["success"] == p]
        marks.append(points(f"drawn, success {p}", rows, "samples", color))
    figure = Figure(
        "A verifier that errs",
        "samples N",
        "probability of a right answer",
        "A random accepted sample, or any if none is accepted: formula (lines) and draws (points). More "
        "samples help up to the precision of the verifier, the share of right answers among accepted "
        "ones.",
        tuple(lines),
        tuple(marks),
        logy=False,
    )
    return (
        *separate("draws", drawn, 1.05),
        *separate("the ceiling", ceilings),
        *separate("states of chains", (row for pair in pairs for row in pair), 1.1),
    ), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    decoding_claim(
        id="decoding-label-noise-verifier",
        title="Selection by noisy labels",
        statement="With label noise best-of-N by prompt loss tends to the best fit among all binary answers, "
        "which errs. One competitor wins with a Student tail, exactly; the union bound is valid but 3.5 "
        "times too large at d = 10, n = 6 and unit noise, and gives lengths that suffice.",
        formulas=lambda: (
            icl.competitor_error(1, SIGNS),
            icl.exhaustive_error(SIGNS, icl.symbols.n, 2),
        ),
        experiment=label_noise,
    )
)
register(
    decoding_claim(
        id="decoding-noisy-verifier",
        title="A verifier that errs",
        statement="With a verifier that wrongly rejects and accepts, N samples succeed with a closed "
        "probability that saturates at the verifier's precision; averaged over the states of chains the "
        "channel gives it within 0.05 for n = d.",
        formulas=lambda: (icl.verified_success(success, samples, false_negative, false_positive),),
        experiment=noisy_verifier,
    )
)
