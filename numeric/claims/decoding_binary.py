"""Binary coefficients read off a chain: Chen, Lu, Wu and Zou (arXiv 2508.07571).

The channel from w* to the state of a chain, and greedy rounding. Sampled answers: `decoding_votes` and
`decoding_verifiers`; bits fed back: `decoding_feedback`.
Label noise and risks in the conventions of `decoding`. The paper's abstract states no formula: what is
predicted here is derived by `icltheory` and `numeric.binary_decoding`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy as sp
from scipy import special

import icltheory as icl
from icltheory.symbols import eta
from numeric.binary_decoding import (
    decoding_channel,
    greedy_errors,
)
from numeric.binary_simulation import chain_states, simulate_binary_decoding
from numeric.chain_prompts import PromptAverage, prompt_blocks
from numeric.claims.base import Effort, Progress, Result, register
from numeric.claims.decoding import average_row, decoding_claim, exact_row
from numeric.claims.rows import curve, holds, inside, scatter, separate
from numeric.compare import Row
from numeric.contraction import best_contraction
from numeric.plot import Figure
from numeric.state_moments import exact_state_moments

HALF = sp.Rational(1, 2)
SIGNS, BITS, SPARSE = icl.Signs(), icl.Bits(), icl.SparseBits(3)


def value(average: PromptAverage) -> float:
    """The mean of a single average."""
    return float(average.value)


def mean_error(average: PromptAverage) -> tuple[float, float]:
    """The mean of a single average and its standard error."""
    return value(average), float(average.standard_error)


def ratio_row(
    setting: dict[str, Any],
    approximation: float,
    average: PromptAverage,
    low: float,
    high: float,
) -> Row:
    """A stated inaccuracy: the approximation over what prompts show lies within bounds."""
    measured, error = mean_error(average)
    return inside(setting, approximation / measured, error * approximation / measured**2, low, high)


# -- the channel -----------------------------------------------------------------------------------

CHAIN = icl.NoisyDecoding(HALF, sp.Rational(3, 10), 3, samples=2, label_noise_var=sp.Rational(3, 2))


def moment_rows(effort: Effort) -> Iterator[Row]:
    """Means and mean squares of coordinates by their value, exact against prompts."""
    cases = (
        ("signs", SIGNS, "zero", 9, 6),
        ("bits", BITS, "zero", 9, 6),
        ("bits", BITS, "mean", 10, 8),
        ("3 ones", SPARSE, "zero", 10, 8),
    )
    for name, prior, start, n, d in cases:
        exact = exact_state_moments(CHAIN, prior, n, d, start=start)
        run = simulate_binary_decoding(
            CHAIN, prior, n, d, start=start, prompts=effort.prompts // 2, seed=n
        )
        for side in ("low", "high"):
            mean, var = getattr(exact, f"{side}_mean"), getattr(exact, f"{side}_var")
            setting = {"prior": name, "start": start, "n": n, "d": d, "value": side}
            for words, prediction, kind in (
                ("mean", mean, "mean"),
                ("mean square", var + mean**2, "square"),
            ):
                found = getattr(run, f"{side}_{kind}")
                if prediction:
                    row = {**setting, "quantity": words}
                    yield average_row(row, prediction, found, required=0.2)


def minimum_norm(
    prior: Any, n: int, d: int, prompts: int, seed: int = 1
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """w* and the minimum-norm solution of noiseless prompts: a chain without end."""
    for X, w, _, _ in prompt_blocks(n, d, prompts, 0.0, None, prior, seed):
        rows = np.linalg.solve(X @ np.swapaxes(X, 1, 2), X @ w[:, :, None])
        yield w, (np.swapaxes(X, 1, 2) @ rows)[:, :, 0]


def signal_rows(effort: Effort) -> Iterator[Row]:
    """Signal-to-noise ratios in closed form: one thought, and no end of thoughts at n < d."""
    ratio = icl.channel(icl.NoisyDecoding(eta, 0, 1), SIGNS).signal_to_noise
    for n, d in ((20, 10), (8, 16)):
        exact = decoding_channel(icl.NoisyDecoding(HALF, 0, 1), SIGNS, n, d)
        setting = {"n": n, "d": d, "steps": "1", "quantity": "signal to noise, n/(d + 1)"}
        yield exact_row(setting, ratio.subs(n=n, d=d), float(exact.signal_to_noise))
    n, d = 30, 60
    long = icl.long_chain_channel(SIGNS)
    limit = decoding_channel(icl.NoisyDecoding(0.3, 0, 4000), SIGNS, n, d, limit=True)
    setting = {"n": n, "d": d, "steps": "many"}
    row = {**setting, "quantity": "signal to noise, n/(d - n)"}
    yield exact_row(row, long.signal_to_noise.subs(n=n, d=d), float(limit.signal_to_noise), 1e-7)
    for name, prior in (("signs", SIGNS), ("3 ones", SPARSE)):
        seen = icl.long_chain_channel(prior, n, d)
        values = [
            (u * w).sum(axis=1) / (w * w).sum(axis=1)
            for w, u in minimum_norm(prior, n, d, effort.prompts // 10)
        ]
        row = {**setting, "prior": name, "quantity": "gain of the solution of least norm, prompts"}
        yield average_row(row, seen.gain, PromptAverage(np.concatenate(values)))


def asymptotic_rows(effort: Effort) -> Iterator[Row]:
    """What is asymptotic: Gaussian coordinates, and their independence."""
    spec = icl.NoisyDecoding(HALF, 0, 1)
    for n, d in ((16, 8), (200, 100)):
        seen = decoding_channel(spec, SIGNS, n, d)
        gain, std = float(seen.gain), float(seen.noise_std)
        cut = gain + std * special.ndtri(0.01)
        tails, means = [], []
        for _, w, _, u, _ in chain_states(spec, SIGNS, n, d, "zero", effort.prompts * 3 // d, 3):
            tails.append((w * u < cut).mean(axis=1) / 0.01)
            means.append((w * u).mean(axis=1))
        setting = {
            "n": n,
            "d": d,
            "quantity": "share below the 1 % point over that of the Gaussian",
        }
        average = PromptAverage(np.concatenate(tails))
        if d < 50:
            yield inside(setting, *mean_error(average), high=0.6)
        else:
            yield average_row(setting, 1, average, allowance=0.06, required=0.35)
        # The mean of w_j u_j is eta times a chi-square of n over n: its variance is 2 eta^2/n.
        mean = np.concatenate(means)
        square = (mean - gain) ** 2 * d / std**2
        prediction = 2 * d / n * float(spec.step_size) ** 2 / std**2  # 2 d/(d + 1)
        setting = {"n": n, "d": d, "quantity": "1 + (d - 1) correlation of two coordinates"}
        yield average_row(setting, prediction, PromptAverage(square), required=0.3)


def channel_claim(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on the channel."""
    progress("moments on prompts", 0.0)
    moments = list(moment_rows(effort))
    progress("closed forms", 0.5)
    signals, rest = list(signal_rows(effort)), list(asymptotic_rows(effort))
    progress("figure", 0.8)
    lines, marks = [], []
    counts, d = np.unique(np.round(np.geomspace(1, 32, 19))).astype(int), 40
    for color, gamma in enumerate((HALF, sp.S.One, sp.S(2))):
        n, size = int(d / gamma), 1 / (1 + gamma)
        spec = icl.NoisyDecoding(size, 0, 1)
        theory = decoding_channel(spec, SIGNS, n, d, steps=counts, limit=True).signal_to_noise
        lines.append(curve(f"d/n = {gamma}, limit", counts, theory, (), color))
        shown = []
        for t in (1, 2, 4, 8):
            run = simulate_binary_decoding(
                icl.NoisyDecoding(size, 0, t), SIGNS, n, d, prompts=effort.prompts // 160, seed=t
            )
            gain = run.high_mean.values / 2 - run.low_mean.values / 2
            square = run.high_square.values / 2 + run.low_square.values / 2
            mean, noise = gain.mean(), square.mean() - gain.mean() ** 2
            # Delta method: d snr = (2 g/noise + 2 g^3/noise^2) dg - g^2/noise^2 d square.
            slope = 2 * mean / noise + 2 * mean**3 / noise**2
            spread = PromptAverage(slope * gain - mean**2 / noise**2 * square)
            shown.append((t, mean**2 / noise, float(spread.standard_error)))
        marks.append(scatter(f"d/n = {gamma}, prompts", shown, color))
    figure = Figure(
        "The channel from binary coefficients to the state",
        "thoughts t",
        "signal-to-noise ratio",
        f"Chains without noise at the step 1/(1 + d/n), in the limit (lines) and on prompts at d = {d} "
        "(points): after one thought n/d, then growing without end where examples outnumber dimensions, "
        "to n/(d - n) where they are fewer.",
        tuple(lines),
        tuple(marks),
    )
    return (
        *separate("moments of a coordinate, exact", moments, 1.06),
        *separate("signal to noise in closed form", signals),
        *separate("Gaussian and independent for large d only", rest, 1.2),
    ), figure


# -- greedy rounding -------------------------------------------------------------------------------


def greedy_rows(effort: Effort) -> Iterator[Row]:
    """Shares of wrong coordinates above 4 %, within 3 % of the channel at d >= 50."""
    spec = icl.NoisyDecoding(0.3, 0.2, 3, label_noise_var=2)
    n, d = 40, 60
    cases = (
        ("signs", SIGNS, "middle", "zero"),
        ("bits", BITS, "middle", "zero"),
        ("bits", BITS, "middle", "mean"),
        ("bits, 1 in 5 is one", icl.Bits(0.2), "middle", "zero"),
        ("bits, 1 in 5 is one", icl.Bits(0.2), "best", "zero"),
        ("3 ones", SPARSE, "best", "zero"),
    )
    for name, prior, cut, start in cases:
        seen = decoding_channel(spec, prior, n, d, start=start)
        run = simulate_binary_decoding(
            spec, prior, n, d, threshold=cut, start=start, prompts=effort.prompts // 16, seed=3
        )
        setting = {"prior": name, "threshold": cut, "start": start, "n": n, "d": d}
        prediction = greedy_errors(seen, threshold=cut).mean
        allowance = 0.03 if cut == "middle" else 0.05
        yield average_row(setting, prediction, run.greedy_bit, allowance=allowance, required=0.12)


def inexact_rows(effort: Effort) -> Iterator[Row]:
    """Where the channel is wrong, and by how much: small errors, and exact recovery."""
    spec = icl.NoisyDecoding(best_contraction(2, 24, 12).step_size, 0, 2)
    predicted = float(greedy_errors(decoding_channel(spec, SIGNS, 24, 12)).mean)
    run = simulate_binary_decoding(spec, SIGNS, 24, 12, prompts=effort.prompts, seed=5)
    setting = {"n": 24, "d": 12, "error": round(predicted, 4)}
    yield ratio_row(
        {**setting, "quantity": "channel over prompts, an error below 2 %"},
        predicted,
        run.greedy_bit,
        0.7,
        0.9,
    )
    spec = icl.NoisyDecoding(HALF, 0, 5, label_noise_var=2)
    errors = greedy_errors(decoding_channel(spec, SIGNS, 50, 50))
    run = simulate_binary_decoding(spec, SIGNS, 50, 50, prompts=effort.prompts // 4, seed=5)
    right = PromptAverage(1 - run.greedy_vector.values)
    setting = {"n": 50, "d": 50, "error": round(float(errors.mean), 4)}
    yield ratio_row(
        {**setting, "quantity": "channel over prompts, all coordinates right"},
        1 - float(errors.vector),
        right,
        0.45,
        0.75,
    )


def sufficient_rows(effort: Effort) -> Iterator[Row]:
    """Enough examples for one thought, and what greedy decoding cannot do with fewer than d."""
    failure, d, spec = 0.05, 10, icl.NoisyDecoding(1, 0, 1)
    for name, prior in (("signs", SIGNS), ("3 ones", SPARSE)):
        n = math.ceil(icl.recovery_length(prior, d, failure).evalf())
        enough, short = (
            simulate_binary_decoding(
                spec, prior, size, d, prompts=effort.prompts // 8, seed=6
            ).greedy_vector
            for size in (n, n // 4)
        )
        setting = {"prior": name, "n": n, "d": d}
        yield holds(
            {**setting, "quantity": f"{value(enough):.4f} of the prompts fail, at most {failure}"},
            value(enough) + 5 * float(enough.standard_error) <= failure,
        )
        yield holds(
            {**setting, "quantity": f"with a quarter of the examples {value(short):.3f}"},
            value(short) > 2 * failure,
        )
    for n, d in ((30, 60), (40, 60)):
        wrong = [
            (w * u < 0).mean(axis=1) for w, u in minimum_norm(SIGNS, n, d, effort.prompts // 16)
        ]
        prediction = icl.long_chain_channel(SIGNS, n, d).greedy_error().evalf()
        setting = {"prior": "signs", "n": n, "d": d, "quantity": "error after many thoughts"}
        average = PromptAverage(np.concatenate(wrong))
        yield average_row(setting, prediction, average, allowance=0.05, required=0.2)


def greedy(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on greedy rounding."""
    progress("errors on prompts", 0.0)
    rows = list(greedy_rows(effort))
    progress("accuracy", 0.4)
    inexact, enough = list(inexact_rows(effort)), list(sufficient_rows(effort))
    progress("figure", 0.8)
    d, lines, marks = 50, [], []
    ratios = np.geomspace(0.25, 4, 25)
    for color, t in enumerate((1, 2, 4)):

        def errors(n: int, t: int = t) -> float:
            spec = icl.NoisyDecoding(sp.Rational(n, n + d), 0, t)
            return float(greedy_errors(decoding_channel(spec, SIGNS, n, d)).mean)

        lengths = np.unique(np.round(d * ratios)).astype(int)
        theory = np.array([errors(int(n)) for n in lengths])
        shown = theory > 1e-5
        lines.append(curve(f"t = {t}, channel", lengths[shown] / d, theory[shown], (), color))
        some = []
        for n in (15, 25, 50, 75, 100):
            spec = icl.NoisyDecoding(sp.Rational(n, n + d), 0, t)
            run = simulate_binary_decoding(
                spec, SIGNS, n, d, prompts=effort.prompts // 60, seed=n
            ).greedy_bit
            if value(run) > 5 * float(run.standard_error):
                some.append((n / d, value(run), float(run.standard_error)))
        marks.append(scatter(f"t = {t}, prompts", some, color))
    figure = Figure(
        "Greedy rounding of the state",
        "examples per dimension n/d",
        "share of wrong coordinates",
        f"Signs at d = {d} rounded after t thoughts at the step n/(n + d), from the channel (lines) and on "
        "prompts (points). Where few coordinates are wrong the channel is too good: prompts have "
        "heavier tails.",
        tuple(lines),
        tuple(marks),
    )
    return (
        *separate("share of wrong coordinates", rows, 1.12),
        *separate("where the channel is too good", inexact, 1.2),
        *separate("how many examples are enough", enough, 1.25),
    ), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    decoding_claim(
        id="decoding-channel",
        title="Binary coefficients through a Gaussian channel",
        statement="A coordinate of the state of a chain is gain times the binary coefficient plus noise, "
        "with exact moments at every n and d; its signal-to-noise ratio is n/(d + 1) after one thought and "
        "n/(d - n) at last, for signs and n < d. Gaussian and independent coordinates need large d: at "
        "d = 8 the tail is 2.5 times lighter at the 1 % point, and the sum over coordinates has twice "
        "its independent variance at every d.",
        formulas=lambda: (
            icl.channel(icl.NoisyDecoding(eta, 0, 1), SIGNS).gain,
            icl.channel(icl.NoisyDecoding(eta, 0, 2), SIGNS).noise_var,
        ),
        experiment=channel_claim,
    )
)
register(
    decoding_claim(
        id="decoding-greedy",
        title="Greedy rounding and how many examples it needs",
        statement="Rounding errs with the Gaussian tail at the square root of the signal-to-noise ratio, "
        "within 3 % (5 % at the best threshold) for errors above 4 % at d >= 50. The channel is a fifth too "
        "good at n = 24, d = 12, where 1 % errs, and gives 0.6 of the exact recoveries at n = d = 50. One "
        "thought finds all signs with 2 (d + 1) ln(d/(2 p)) examples.",
        formulas=lambda: (icl.recovery_length(SIGNS), icl.recovery_length(SPARSE)),
        experiment=greedy,
    )
)
