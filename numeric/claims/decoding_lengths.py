"""How long a noisy chain should be and how a budget is split: Chen, Lu, Wu and Zou (arXiv 2508.07571).

Continuous answers; the predictions are derived by `icltheory`. Risks are per coordinate with
E w*w*' = I.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import sympy as sp

import icltheory as icl
from icltheory.symbols import steps as steps_symbol
from numeric.chain_length import best_split, chain_risks, optimal_length
from numeric.chains import simulate_chains
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.decoding import (
    HALF,
    ONE,
    RATIOS,
    SIZES,
    TWO,
    average_row,
    best_step,
    decoding_claim,
    exact_row,
)
from numeric.claims.rows import curve, holds, limit_row, scatter
from numeric.compare import Row, compare
from numeric.contraction import contraction_moments_limit
from numeric.plot import Figure

# -- where more thoughts hurt ----------------------------------------------------------------------


def gain_rows() -> Iterator[Row]:
    """The noise that a chain gathers, in closed form, against sums of moments."""

    def gathered(gamma: float, step: Any, t: int) -> float:
        return float(contraction_moments_limit(2 * np.arange(t), gamma, step).sum())

    for gamma, step in (
        (sp.Rational(3, 10), None),
        (sp.Rational(3, 10), sp.Rational(2, 5)),
        (HALF, None),
    ):
        size = best_step(gamma) if step is None else step
        setting = {"gamma": gamma, "step": size, "quantity": "noise gain, no end of steps"}
        value = gathered(float(gamma), size, 1000)
        yield exact_row(setting, icl.noise_gain_limit(sp.oo, gamma, step), value)
    for gamma, t in ((ONE, 500), (HALF, 30), (TWO, 30)):
        size = best_step(gamma)
        value = gathered(float(gamma), size, t)
        closed = icl.noise_gain_limit(steps_symbol if gamma == 1 else t, gamma)
        value_at = closed.expr.subs(steps_symbol, t)
        yield exact_row(
            {"gamma": gamma, "step": size, "quantity": f"noise gain, {t} steps"}, value_at, value
        )
    slopes = [gathered(2.0, sp.Rational(1, 3), t) / t for t in (1000, 10_000)]
    yield limit_row({"gamma": TWO, "quantity": "noise gain a step, many steps"}, 0.5, *slopes)


def length_rows() -> Iterator[Row]:
    """Best lengths and the threshold: closed forms and rules against scans of the risk."""
    for noise in (0.7, 0.1, 0.01, 0.001):
        scan = optimal_length(icl.NoisyDecoding(HALF, math.sqrt(noise), 2000), gamma=1)
        setting = {"gamma": ONE, "noise": noise, "quantity": "1 + best number of thoughts"}
        yield exact_row(setting, 1 + icl.optimal_chain_length(noise).expr, 1 + scan.steps)
    for gamma, step, far in (
        (sp.Rational(3, 10), None, 1000),
        (HALF, None, 3000),
        (sp.Rational(3, 10), sp.Rational(2, 5), 2000),
    ):
        size = best_step(gamma) if step is None else step
        # A chain of t thoughts is worth one more up to this noise.
        last = []
        for t in (far // 2, far):
            now, then = contraction_moments_limit([2 * t, 2 * t + 2], float(gamma), size)
            last.append(float(1 - then / now))
        setting = {"gamma": gamma, "step": size, "quantity": "noise without overthinking"}
        yield limit_row(setting, float(icl.overthinking_threshold(gamma, step)), *last)
    threshold = float(icl.overthinking_threshold(HALF))
    for factor, ends in ((0.98, True), (1.1, False)):
        spec = icl.NoisyDecoding(sp.Rational(2, 3), math.sqrt(factor * threshold), 800)
        setting = {
            "gamma": HALF,
            "noise": f"{factor} of the threshold",
            "quantity": f"the longest of 800 is {'' if ends else 'not '}the best",
        }
        yield holds(setting, optimal_length(spec, gamma=0.5).at_end is ends)
    for gamma in RATIOS:
        size = best_step(gamma)
        for noise in (0.3, 0.02):
            spec = icl.NoisyDecoding(size, math.sqrt(noise), 400)
            slopes = np.diff(chain_risks(spec, gamma=float(gamma)))
            rising = slopes[np.abs(slopes) > 1e-14] > 0
            setting = {"gamma": gamma, "noise": noise, "quantity": "falls, then rises: once"}
            yield holds(setting, bool(np.all(np.diff(rising.astype(int)) >= 0)))
        spec = icl.NoisyDecoding(size, 0.3, 400, noise_where="output")
        risks = chain_risks(spec, gamma=float(gamma))[1:]
        setting = {"gamma": gamma, "quantity": "with noise at the output only it never rises"}
        yield holds(setting, bool(np.all(np.diff(risks) <= 1e-14)))


def overthinking_rows(effort: Effort) -> Iterator[tuple[Row, ...]]:
    """The best length by exact theory, tried on prompts together with its neighbours."""
    for (n, d), noise in zip(SIZES, (0.3, 0.1, 0.1), strict=True):
        spec = icl.NoisyDecoding(sp.Rational(3 * n, 4 * (n + d)), math.sqrt(noise), 12)
        best = optimal_length(spec, n, d)
        run = simulate_chains(
            spec,
            n,
            d,
            prompts=effort.prompts // 2,
            chains=1,
            at=range(13),
            method="recursion",
            seed=d,
        ).risk()
        found = int(np.argmin(run.value))
        setting = {"n": n, "d": d, "best length": best.steps, "found": found}
        at_best = average_row(
            {**setting, "quantity": "risk at the best length"}, best.risk, run[best.steps]
        )
        over, error = run[best.steps].ratio(run[found])
        least = compare(
            {**setting, "quantity": "that risk over the least one found"},
            1.0,
            float(over),
            max(float(error), 1e-9),
            0.01,
        )
        exact = chain_risks(spec, n, d)
        more, error = run[12].ratio(run[best.steps])
        hurt = compare(
            {**setting, "quantity": "risk of 12 thoughts over that of the best length"},
            exact[12] / best.risk,
            float(more),
            float(error),
        )
        yield at_best, least, hurt


def overthinking(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on chains that are too long."""
    progress("closed forms", 0.0)
    gains, lengths = list(gain_rows()), list(length_rows())
    progress("prompts", 0.3)
    trials = [row for rows in overthinking_rows(effort) for row in rows]
    progress("figure", 0.7)
    step, n, d = sp.Rational(2, 3), 160, 80
    lines, marks = [], []
    shown, counts = np.arange(1, 33), 2 ** np.arange(5)
    for color, noise in enumerate((0.02, float(icl.overthinking_threshold(HALF)), 0.4)):
        spec = icl.NoisyDecoding(step, math.sqrt(noise), 64)
        risks = chain_risks(spec, gamma=0.5)[shown]
        label = "noise " + ("1/9, threshold" if color == 1 else f"{noise:g}")
        lines.append(curve(f"{label}, limit", shown, risks, (), color))
        run = simulate_chains(
            spec, n, d, prompts=effort.prompts // 400, at=counts, method="recursion"
        ).risk()
        label = f"{label}, prompts"
        marks.append(curve(label, counts, run.value, run.standard_error, color))
    figure = Figure(
        "More thoughts can hurt",
        "thoughts t",
        "risk per coordinate",
        f"One chain with noise variance 0.02, 1/9 or 0.4 at every thought at d/n = 1/2, in the limit (lines) and on prompts at "
        f"d = {d} (points). Up to a noise of ((1 - d/n)/(1 + d/n))^2 no chain is too long; above it the "
        "risk rises after its best length.",
        tuple(lines),
        tuple(marks),
    )
    return (
        Part.of("noise that a chain gathers", gains),
        Part.of("best lengths and the threshold", lengths, 1.05),
        Part.of("best lengths on prompts", trials),
    ), figure


# -- a budget of thoughts --------------------------------------------------------------------------


def split_rows() -> Iterator[Row]:
    """Best splits in the limit: scanned, from the formula of a split, and from the laws."""
    noise = sp.sqrt(sp.Rational(1, 10))
    for gamma, longest in ((ONE, 300), (sp.Rational(1, 4), 60), (TWO, 200)):
        size = best_step(gamma)
        best = best_split(
            icl.NoisyDecoding(size, noise, longest),
            10**4,
            gamma=float(gamma),
            whole_samples=False,
        )
        risks = {
            t: float(icl.split_risk(t, gamma, 10**4, noise))
            for t in range(best.steps - 1, best.steps + 2)
        }
        setting = {"gamma": gamma, "budget": 10**4}
        least = min(risks, key=risks.__getitem__)
        yield exact_row({**setting, "quantity": "thoughts of a chain"}, least, best.steps)
        yield exact_row({**setting, "quantity": "risk"}, risks[least], best.risk)


def law_rows() -> Iterator[Row]:
    """How depth and risk grow with the budget."""

    def best(gamma: sp.Expr, budget: int, longest: int) -> Any:
        size = best_step(gamma)
        spec = icl.NoisyDecoding(size, math.sqrt(0.1), longest)
        return best_split(spec, budget, gamma=float(gamma), whole_samples=False)

    many = [best(ONE, 10**k, 20_000) for k in (4, 6, 8)]
    noise = sp.sqrt(sp.Rational(1, 10))
    law = icl.split_law(ONE, 10**8, noise)
    assert law.minimizer is not None
    setting = {"gamma": ONE, "budget": 10**8}
    depth = float(law.minimizer[steps_symbol])
    yield compare({**setting, "quantity": "thoughts of a chain"}, depth, many[2].steps, 1.0)
    yield exact_row({**setting, "quantity": "risk"}, law, many[2].risk, 1e-3)
    for name, exponent, values in (
        ("exponent of the thoughts", 0.5, [x.steps for x in many]),
        ("exponent of the risk", -0.25, [x.risk for x in many]),
    ):
        slopes = [math.log10(b / a) / 2 for a, b in itertools.pairwise(values)]
        yield limit_row({**setting, "quantity": name}, exponent, *slopes)
    quarter = sp.Rational(1, 4)
    for gamma, budget in ((quarter, 10**12), (TWO, 10**8)):
        found, law = best(gamma, budget, 600), icl.split_law(gamma, budget, noise)
        assert law.minimizer is not None
        setting = {"gamma": gamma, "budget": budget}
        depth = float(law.minimizer[steps_symbol])
        yield compare(
            {**setting, "quantity": "thoughts of a chain, the law within 5 %"},
            depth,
            found.steps,
            0.3,
            0.05,
            required=0.15,
        )
        floor = float(sp.Max(0, 1 - 1 / gamma))
        excess_risk = found.risk - floor
        yield compare(
            {**setting, "quantity": "risk above the floor, the law within 4 %"},
            float(law) - floor,
            excess_risk,
            1e-6 * excess_risk,
            0.04,
        )
    depths = [best(quarter, 10**k, 400).steps for k in (10, 20, 40)]
    speed = [
        (b - a) / math.log(10**c) for a, b, c in zip(depths, depths[1:], (10, 20), strict=False)
    ]
    q = best_step(quarter) ** 2 * quarter  # r^2/4
    setting = {"gamma": quarter, "quantity": "thoughts per factor e of the budget"}
    rate = -1 / math.log(4 * float(q))
    # The power of the law costs 3/2 ln t thoughts more, which fades.
    yield limit_row(setting, rate, *speed, 0.02, required=0.3)


TRIED = icl.NoisyDecoding(sp.Rational(2, 5), sp.sqrt(HALF), 16)


def budget_trials(effort: Effort) -> list[Row]:
    """All splits of 64 thoughts into powers of two, run on prompts, against exact risks."""
    n, d = 40, 20
    alone, without = (
        chain_risks(replace(TRIED, noise_std=noise), n, d) for noise in (TRIED.noise_std, 0)
    )
    rows = []
    for t in (1, 2, 4, 8, 16):
        many = 64 // t
        run = simulate_chains(
            replace(TRIED, steps=t, samples=many),
            n,
            d,
            prompts=effort.prompts // 2,
            method="recursion",
            seed=4,
        )
        value = without[t] + (alone[t] - without[t]) / many
        setting = {"steps": t, "chains": many, "quantity": "risk"}
        rows.append(average_row(setting, value, run.risk()))
    found = min(rows, key=lambda row: row.estimate).setting["steps"]
    best = best_split(TRIED, 64, n, d)
    chosen = min(rows, key=lambda row: row.prediction)
    setting = {"quantity": f"the best of these on prompts is that of theory, {found} thoughts"}
    right = found == chosen.setting["steps"] and best.risk <= chosen.prediction + 1e-12
    return [*rows, holds(setting, bool(right))]


def budget(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on splitting a budget."""
    progress("splits and laws", 0.0)
    splits, laws = list(split_rows()), list(law_rows())
    progress("prompts", 0.5)
    trials = budget_trials(effort)
    lines = []
    totals = np.unique(np.round(np.geomspace(1, 10**5, 26))).astype(int)
    for color, gamma in enumerate(RATIOS):
        size = best_step(gamma)
        chains = icl.NoisyDecoding(size, sp.sqrt(HALF), 600)
        risks = [best_split(chains, int(c), gamma=float(gamma)).risk for c in totals]
        lines.append(curve(f"d/n = {gamma}, limit", totals, risks, (), color))
    marks = []
    for color, (n, d) in enumerate(SIZES):
        size = sp.Rational(n, n + d)
        some = []
        for total in (1, 4, 16, 64, 256):
            split = best_split(icl.NoisyDecoding(size, sp.sqrt(HALF), 8), total, 2 * n, 2 * d)
            run = simulate_chains(
                icl.NoisyDecoding(size, sp.sqrt(HALF), split.steps, samples=int(split.samples)),
                2 * n,
                2 * d,
                prompts=effort.prompts // 400,
                method="recursion",
                seed=total,
            ).risk()
            some.append((total, float(run.value), float(run.standard_error)))
        marks.append(scatter(f"d/n = {sp.Rational(d, n)}, prompts", some, color))
    figure = Figure(
        "Depth against breadth",
        "budget C = t N",
        "risk per coordinate",
        "Best split of a budget into chains of t thoughts with noise variance 1/2, in the limit (lines) "
        "and run on prompts at d = 40 and 80, with chains of at most 8 thoughts (points). The risk "
        "falls almost like 1/C below d = n, like C^(-1/4) at d = n, and to a floor above.",
        tuple(lines),
        tuple(marks),
    )
    return (
        Part.of("best splits, two routes", splits),
        Part.of("laws of large budgets", laws, 1.1),
        Part.of("splits of 64 thoughts on prompts", trials),
    ), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    decoding_claim(
        id="decoding-overthinking",
        title="Thoughts need not help without end",
        statement="With noise at every thought the risk falls and then rises, once. For d < n no chain is "
        "too long up to a noise sigma^2/N of ((n - d)/(n + d))^2; above it, and for d >= n at any noise, "
        "the best length is finite. With noise at the output only more thoughts never hurt.",
        formulas=lambda: (
            icl.overthinking_threshold(),
            icl.noise_gain_limit(),
            icl.optimal_chain_length(),
        ),
        experiment=overthinking,
    )
)
register(
    decoding_claim(
        id="decoding-budget",
        title="Depth and breadth trade",
        statement="Of a budget of C thoughts, chains of sqrt(C/(6 sigma^2)) thoughts are best at n = d, "
        "with a risk that falls like C^(-1/4); for d < n depth grows like log C and breadth takes the "
        "rest; for d > n a floor remains.",
        formulas=lambda: (icl.split_risk(gamma=1), icl.split_law(1)),
        experiment=budget,
    )
)
