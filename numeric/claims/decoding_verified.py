"""Verified samples of binary answers: Chen, Lu, Wu and Zou (arXiv 2508.07571).

pass@N, how many samples it takes, and at which temperature. Conventions and channel: `decoding_binary`;
verifiers that do not know w*: `decoding_verifiers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy import special

import icltheory as icl
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
    simulate_prompt_selection,
)
from numeric.chain_prompts import PromptAverage
from numeric.claims.base import Effort, Progress, Result, register
from numeric.claims.decoding import average_row, decoding_claim, exact_row
from numeric.claims.decoding_binary import HALF, SIGNS, SPARSE, ratio_row, value
from numeric.claims.rows import curve, holds, limit_row, separate
from numeric.compare import Row, compare
from numeric.contraction import best_contraction
from numeric.plot import Figure

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
                if rates[k] > 3 * ABSOLUTE:
                    setting = {"n": n, "d": d, "temperature": f"{(1, 3)[i]} T*", "samples": count}
                    yield average_row(
                        {**setting, "quantity": "pass@N, within 0.05"},
                        rates[k],
                        run[i, k],
                        allowance=ABSOLUTE / float(rates[k]),
                        required=0.5,
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
        yield limit_row(row, law, *rates, required=0.1)
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
    yield ratio_row(setting, predicted, losses[0], 0.6, 0.9)
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
    yield ratio_row(setting, poor, run, 0.75, 0.95)


def verified_sampling(effort: Effort, progress: Progress) -> Result:
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
