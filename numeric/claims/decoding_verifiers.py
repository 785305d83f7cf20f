"""Verified samples of binary answers: Chen, Lu, Wu and Zou (arXiv 2508.07571).

pass@N and how many samples it takes, a verifier that knows the prompt's noisy labels only, and one that
accepts and rejects with errors. Conventions and channel: `decoding_binary`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy as sp
from scipy import special

import icltheory as icl
from icltheory.symbols import false_negative, false_positive, samples, success
from numeric.binary_decoding import DecodingChannel, decoding_channel, greedy_errors
from numeric.binary_passes import (
    best_temperature,
    equivocation,
    log_samples_needed,
    log_success_moments,
    pass_at_n,
)
from numeric.binary_simulation import (
    chain_states,
    simulate_binary_decoding,
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
from numeric.claims.base import Effort, Part, Progress, points, register
from numeric.claims.decoding import average_row, decoding_claim, exact_row
from numeric.claims.decoding_binary import HALF, SIGNS, SPARSE, ratio_row, separate, value
from numeric.claims.solvers import curve, holds
from numeric.compare import Row, compare
from numeric.contraction import best_contraction
from numeric.plot import Figure

# -- verified samples ------------------------------------------------------------------------------

COUNTS = [1, 16, 256, 4096]
ABSOLUTE = 0.05  # accuracy of pass@N from the channel for n up to about d


def two_thoughts(n: int, d: int) -> icl.NoisyDecoding:
    """Two thoughts at their best step."""
    return icl.NoisyDecoding(best_contraction(2, n, d).step_size, 0, 2)


def pass_rows(effort: Effort) -> Iterator[Row]:
    """pass@N on prompts against the channel, at the calibrated temperature and at three times it."""
    d = 12
    for n in (6, 12):
        spec = two_thoughts(n, d)
        seen = decoding_channel(spec, SIGNS, n, d)
        calibrated = float(seen.calibrated_temperature)
        grid = np.array([1.0, 3.0]) * calibrated
        run = simulate_binary_decoding(
            spec,
            SIGNS,
            n,
            d,
            sampler=icl.Logit(1),
            temperature=grid,
            samples=COUNTS,
            prompts=effort.prompts // 8,
            seed=2,
        ).pass_at_n
        for i, temperature in enumerate(grid):
            rates = pass_at_n(seen, icl.Logit(float(temperature)), COUNTS, draws=20_000).value
            for k, count in enumerate(COUNTS):
                if rates[k] > ABSOLUTE:
                    setting = {"n": n, "d": d, "temperature": f"{(1, 3)[i]} T*", "samples": count}
                    yield average_row(
                        {**setting, "quantity": "pass@N, within 0.05"},
                        rates[k],
                        run[i, k],
                        allowance=ABSOLUTE / float(rates[k]),
                        required=1.5,
                    )


def found_rows(effort: Effort) -> Iterator[Row]:
    """Best of N by prompt loss succeeds iff w* was sampled, for any number of examples."""
    for name, prior, n, d in (
        ("signs", SIGNS, 1, 5),
        ("signs", SIGNS, 4, 6),
        ("3 ones", SPARSE, 2, 6),
    ):
        spec, sampler = icl.NoisyDecoding(HALF, 0, 1), icl.Logit(HALF)
        counts = [1, 16, 128]
        options: dict[str, Any] = {"prompts": effort.prompts // 50, "seed": 8}
        run = simulate_prompt_selection(spec, prior, n, d, sampler, counts, **options)
        exact = simulate_binary_decoding(
            spec, prior, n, d, sampler=sampler, samples=counts, **options
        ).pass_at_n
        setting = {"prior": name, "n": n, "d": d}
        words = "success of best-of-N is that of having sampled w*, on every prompt"
        same = np.array_equal(run.vector.values, 1 - run.found.values)
        yield holds({**setting, "quantity": words}, same)
        for k in (1, 2):
            gap = run.found[k] - exact[k]  # the same prompts
            row = {**setting, "samples": counts[k], "quantity": "success, drawn"}
            yield compare(
                row,
                value(exact[k]),
                value(exact[k]) + value(gap),
                float(gap.standard_error),
                required=0.3,
            )


def half_way(seen: DecodingChannel, temperature: float) -> float:
    """ln N at which pass@N = 1/2, in the log-normal form."""
    low, high = 0.0, 0.9 * 690
    for _ in range(60):
        middle = (low + high) / 2
        count = np.floor(math.exp(middle))
        rate = pass_at_n(seen, icl.Logit(temperature), count, method="log-normal")
        low, high = (low, middle) if float(rate.value) >= 0.5 else (middle, high)
    return low


def exponent_rows() -> Iterator[Row]:
    """ln N* = d h(snr): the equivocation, its temperature, and the jump of pass@N."""
    for ratio in (0.1, HALF, 1, 3):
        yield exact_row(
            {"snr": float(ratio), "quantity": "h, symbolic integral and trapezoidal rule"},
            icl.equivocation(ratio).evalf(12),
            float(equivocation(float(ratio))),
            1e-10,
        )
    for gain, noise in ((0.5, 0.5), (0.6, 0.4)):
        ratio = gain**2 / noise**2
        seen = DecodingChannel(SIGNS, 1, np.array(gain), np.array(noise))
        best = float(icl.BinaryChannel(gain, noise**2).calibrated_temperature().expr)
        grid = best * np.linspace(0.8, 1.25, 4001)
        ones = np.ones_like(grid)
        loss = -log_success_moments(seen, "logit", grid, gain * ones, gain * ones, noise * ones)[0]
        setting = {"snr": round(ratio, 3)}
        found = float(grid[loss.argmin()])
        row = {**setting, "quantity": "temperature of the least log loss"}
        yield compare(row, best, found, 3e-4 * best)
        row = {**setting, "quantity": "least log loss, h"}
        yield exact_row(row, icl.equivocation(ratio).evalf(12), float(loss.min()), 1e-7)
        rates = []
        for d in (200, 800):
            wide = DecodingChannel(SIGNS, d, np.array(gain), np.array(noise))
            rates.append(half_way(wide, best) / d)
        row = {**setting, "quantity": "ln N/d where pass@N = 1/2, d = 800"}
        law = float(icl.equivocation(ratio).evalf(12))
        yield compare(row, law, rates[1], abs(rates[1] - rates[0]), required=0.1)
    n, d = 30, 60
    long = decoding_channel(icl.NoisyDecoding(0.3, 0, 4000), SIGNS, n, d, limit=True)
    ratio = icl.long_chain_channel(SIGNS, n, d).signal_to_noise.expr
    setting = {"n": n, "d": d, "quantity": "ln N* after many thoughts, d h(n/(d - n))"}
    yield exact_row(
        setting, icl.verified_log_samples(ratio, d).evalf(12), float(log_samples_needed(long)), 1e-6
    )


def log_loss(spec: Any, n: int, d: int, temperatures: Any, effort: Effort) -> PromptAverage:
    """-ln P(w*)/d on states of prompts, at temperatures, (prompts, temperatures)."""
    found = []
    for _, w, _, u, _ in chain_states(spec, SIGNS, n, d, "zero", effort.prompts * 90 // (n * d), 4):
        margin = (w * u)[:, None, :] / np.asarray(temperatures)[:, None]
        found.append(-special.log_expit(margin).mean(axis=2))
    return PromptAverage(np.concatenate(found))


def temperature_rows(effort: Effort) -> Iterator[Row]:
    """Log losses of real states: h, least at the calibrated temperature, and where the channel fails."""
    for n, d in ((20, 40), (30, 30)):
        spec = two_thoughts(n, d)
        seen = decoding_channel(spec, SIGNS, n, d)
        calibrated = float(seen.calibrated_temperature)
        losses = log_loss(spec, n, d, calibrated * np.array([0.5, 1, 2]), effort)
        setting = {"n": n, "d": d}
        prediction = icl.equivocation(float(seen.signal_to_noise)).evalf(12)
        row = {**setting, "quantity": "log loss at T*, h within 3 %"}
        yield average_row(row, prediction, losses[1], allowance=0.03, required=0.15)
        for i, words in ((0, "T*/2"), (2, "2 T*")):
            worse = losses[i] - losses[1]
            row = {**setting, "quantity": f"{words} is worse than T*"}
            yield holds(row, value(worse) > 5 * float(worse.standard_error))
    n, d = 24, 12
    spec = two_thoughts(n, d)
    seen = decoding_channel(spec, SIGNS, n, d)
    losses = log_loss(spec, n, d, [float(seen.calibrated_temperature)], effort)
    predicted = float(equivocation(seen.signal_to_noise))
    setting = {"n": n, "d": d, "quantity": "channel over prompts, log loss at T*"}
    yield ratio_row(setting, 0.76, predicted, losses[0], allowance=0.05, required=0.35)
    seen = decoding_channel(two_thoughts(12, 12), SIGNS, 12, 12)
    best = best_temperature(seen, [1, 64, 4096]).temperature / float(seen.calibrated_temperature)
    words = "best temperature over T*: " + ", ".join(
        f"{x:.2f} at N = {n}" for x, n in zip(best, (1, 64, 4096), strict=True)
    )
    yield holds({"n": 12, "d": 12, "quantity": words}, best[0] < 0.5 and best[2] > 1.2)
    sampler = icl.Logit(float(seen.calibrated_temperature))
    poor = float(pass_at_n(seen, sampler, 1, method="log-normal").value)
    run = simulate_binary_decoding(
        two_thoughts(12, 12), SIGNS, 12, 12, sampler=sampler, prompts=effort.prompts // 4, seed=3
    ).pass_at_n
    setting = {"n": 12, "d": 12, "quantity": "log-normal form over prompts, pass@1"}
    yield ratio_row(setting, 0.85, poor, run, allowance=0.03, required=0.15)


def verified_sampling(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
    """Experiment of the claim on pass@N."""
    progress("pass@N on prompts", 0.0)
    passes, found = list(pass_rows(effort)), list(found_rows(effort))
    progress("exponent", 0.4)
    exponents, losses = list(exponent_rows()), list(temperature_rows(effort))
    progress("figure", 0.8)
    d, counts = 12, 2 ** np.arange(0, 15, 2)
    lines, marks = [], []
    for color, n in enumerate((3, 6, 12)):
        spec = two_thoughts(n, d)
        seen = decoding_channel(spec, SIGNS, n, d)
        sampler = icl.Logit(float(seen.calibrated_temperature))
        lines.append(
            curve(f"n = {n}, channel", counts, pass_at_n(seen, sampler, counts).value, (), color)
        )
        run = simulate_binary_decoding(
            spec, SIGNS, n, d, sampler=sampler, samples=counts, prompts=effort.prompts // 40, seed=2
        ).pass_at_n
        marks.append(curve(f"n = {n}, prompts", counts, run.value, run.standard_error, color))
    spec = two_thoughts(12, d)
    greedy = 1 - float(greedy_errors(decoding_channel(spec, SIGNS, 12, d)).vector)
    lines.append(curve("n = 12, rounding", counts, np.full(len(counts), greedy), (), 3))
    figure = Figure(
        "Verified sampling with few examples",
        "samples N",
        "probability that w* is among the samples",
        f"Signs at d = {d} sampled at the calibrated temperature after two thoughts, from the channel (lines) "
        "and on prompts (points). Where rounding is hopeless enough verified samples succeed, exponentially "
        "many in d.",
        tuple(lines),
        tuple(marks),
        logy=False,
    )
    return (
        *separate("pass@N on prompts", passes, 1.1),
        *separate("best-of-N by prompt loss finds what was sampled", found, 1.06),
        *separate("the exponent d h(snr)", exponents),
        *separate("temperatures and accuracy", losses, 1.1),
    ), figure


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
    yield compare(setting, 3.5, bounds.union / measured, error, 0.05, required=0.35)
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


def label_noise(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
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
        x, y, error = zip(*some, strict=True)
        marks.append(curve(f"noise {noise:g}, prompts", x, y, error, color))
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
                required=0.6,
            ),
        )


def noisy_verifier(effort: Effort, progress: Progress) -> tuple[tuple[Part, ...], Figure]:
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
        id="decoding-verified-sampling",
        title="Verified sampling extends what few examples allow",
        statement="Without label noise best-of-N by prompt loss succeeds exactly where w* was sampled, for "
        "any number of examples, with exp(d h(snr)) samples at the calibrated temperature. The channel gives "
        "pass@N within 0.05 for n up to d; at n = 24, d = 12 its log loss is a quarter too low. The best "
        "temperature grows with N, from greedy at N = 1.",
        formulas=lambda: (icl.equivocation(), icl.BinaryChannel().calibrated_temperature()),
        experiment=verified_sampling,
    )
)
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
