"""Chains of thought with injected noise: Chen, Lu, Wu and Zou (arXiv 2508.07571), continuous answers.

How the risk falls with the number of thoughts, and what noise and averaging do to it. How long a
chain should be: `decoding_lengths`; any covariance: `decoding_covariance`; choosing among sampled
answers: `decoding_selection`. Risks are per coordinate with E w*w*' = I. The paper's abstract states
no formula: what is predicted here is derived by `icltheory`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
import sympy as sp
from scipy.optimize import minimize_scalar

import icltheory as icl
from icltheory.formula import CHEN
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import eta, noise_std, samples
from icltheory.symbols import n as length_symbol
from icltheory.symbols import steps as steps_symbol
from numeric.chain_prompts import PromptAverage
from numeric.chains import simulate_chains
from numeric.claims.base import Claim, Effort, Part, Progress, Result, register
from numeric.claims.rows import curve, estimate_row, holds, limit_row, points
from numeric.compare import Row, compare
from numeric.contraction import best_contraction, contraction_moments, contraction_moments_limit
from numeric.plot import Figure

HALF, ONE, TWO = sp.Rational(1, 2), sp.S.One, sp.S(2)
RATIOS = (HALF, ONE, TWO)  # gamma = d/n in the three phases
SIZES = ((40, 20), (20, 20), (20, 40))  # n, d of these ratios

decoding_claim = partial(Claim, paper="decoding", source=CHEN)


def average_row(
    setting: dict[str, Any], prediction: Any, average: PromptAverage, **options: Any
) -> Row:
    """A prediction against an average over simulated prompts."""
    return estimate_row(setting, float(prediction), average.estimate(), **options)


def exact_row(setting: dict[str, Any], prediction: Any, value: float, digits: float = 1e-9) -> Row:
    """Two computations of one number, the second to a relative error."""
    return compare(setting, float(prediction), value, digits * abs(value))


def best_step(gamma: sp.Expr) -> sp.Expr:
    """The step size that is the best for every number of thoughts, d/n -> gamma."""
    best = icl.best_contraction(1, gamma)
    assert best.minimizer is not None
    return best.minimizer[eta]


# -- more thoughts ---------------------------------------------------------------------------------


def thought_rows(effort: Effort) -> Iterator[Row]:
    """Exact risks of chains without noise, against the recursion on prompts."""
    for n, d in SIZES:
        step, counts = sp.Rational(n, n + d), (1, 2, 3)
        run = simulate_chains(
            icl.NoisyDecoding(step, 0, 3),
            n,
            d,
            prompts=effort.prompts // 2,
            at=counts,
            method="recursion",
            seed=n + d,
        )
        for place, t in enumerate(counts):
            exact = icl.contraction_moment(2 * t, n, d, step)
            setting = {"n": n, "d": d, "steps": t, "quantity": "risk"}
            yield average_row(setting, exact, run.risk()[place])


def excess(gamma: sp.Expr, steps: Iterable[int]) -> np.ndarray:
    """beta_{2t} - (1 - 1/gamma)_+ in the limit, at the best step."""
    step = best_step(gamma)
    powers = 2 * np.asarray(list(steps))
    floor = float(sp.Max(0, 1 - 1 / gamma))
    return contraction_moments_limit(powers, float(gamma), step) - floor


def phase_rows() -> Iterator[Row]:
    """Exponential, power, floor: the laws of many thoughts against moments by quadrature."""
    for gamma, near, far in ((HALF, 1500, 3000), (ONE, 10**4, 10**6)):
        law = icl.late_contraction(gamma).expr
        values = excess(gamma, (near, far))
        over = [
            x / float(law.subs(steps_symbol, t)) for x, t in zip(values, (near, far), strict=True)
        ]
        setting = {"gamma": gamma, "quantity": f"risk over its law, {far} steps"}
        yield limit_row(setting, 1.0, *over)
    law = icl.late_contraction(TWO).expr
    (floor,) = (x for x in law.args if x.is_number)
    for t, gap in ((50, 1e-4), (200, 1e-9)):
        setting = {"gamma": TWO, "quantity": f"risk, {t} steps"}
        yield exact_row(setting, floor, float(excess(TWO, [t])[0]) + float(floor), gap)
    # Both sides of d = n have the same spectrum but for the zeros: the excess differs by a factor.
    for t in (10, 40):
        below, above = (float(excess(gamma, [t])[0]) for gamma in (HALF, TWO))
        setting = {"gamma": TWO, "quantity": f"excess over that of 1/gamma, {t} steps"}
        yield exact_row(setting, HALF, above / below)
    ratio = [math.log2(a / b) for a, b in (excess(ONE, (t, 2 * t)) for t in (10**3, 10**5))]
    yield limit_row({"gamma": ONE, "quantity": "exponent of 1/steps"}, 0.5, *ratio)


def searched(risk: Callable[[float], Any]) -> tuple[float, float]:
    """The step with the least risk and that risk, by a search that knows no derivative."""
    found = minimize_scalar(
        lambda step: float(risk(step)), bounds=(0.05, 1), method="bounded", options={"xatol": 1e-9}
    )
    return float(found.x), float(found.fun)


def step_rows() -> Iterator[Row]:
    """The best step, derived, against a search over beta_{2t}: the same for all t in the limit."""
    for gamma in RATIOS:
        for t in (1, 3, 12):
            best = icl.best_contraction(t, gamma)
            assert best.minimizer is not None
            step, risk = searched(partial(contraction_moments_limit, 2 * t, float(gamma)))
            setting = {"n": "limit", "gamma": gamma, "steps": t}
            yield exact_row({**setting, "quantity": "best step"}, best.minimizer[eta], step, 1e-6)
            yield exact_row({**setting, "quantity": "least risk"}, best, risk)
    n, d = 20, 10
    for t in (1, 2, 4):
        step, risk = searched(partial(contraction_moments, 2 * t, n, d))
        exact = best_contraction(t, n, d)
        setting = {"n": n, "gamma": HALF, "steps": t}
        yield exact_row({**setting, "quantity": "best step"}, exact.step_size, step, 1e-6)
        yield exact_row({**setting, "quantity": "least risk"}, exact.moment, risk)
    falling = [best_contraction(t, n, d).step_size for t in (1, 2, 4, 8)]
    setting = {"n": n, "gamma": HALF, "quantity": "at fixed n longer chains need smaller steps"}
    yield holds(setting, bool(np.all(np.diff([2 / 3, *falling]) < 0)))


def limit_error(t: int, gamma: sp.Expr) -> float:
    """lim d (1 - limit/exact) of the risk at the best step, from the exact polynomial."""
    step = best_step(gamma)
    exact = icl.contraction_moment(2 * t, step_size=step).expr.subs(
        length_symbol, dim_symbol / gamma
    )
    inverse = sp.Symbol("x")
    series = sp.Poly(sp.expand(exact.subs(dim_symbol, 1 / inverse)), inverse)
    return float(series.coeff_monomial(inverse) / series.coeff_monomial(1))


# n, d, steps, and by how much of the risk the limit is low.
STATED = ((20, 10, 1, 0.06), (20, 10, 3, 0.24), (60, 30, 6, 0.20))


def limit_rows() -> Iterator[Row]:
    """What the limit of large n and d misses at finite d: c/d."""
    for gamma in (HALF, ONE):
        step = best_step(gamma)
        for t in (1, 3):
            limit = float(icl.best_contraction(t, gamma))
            missed = [
                d * (1 - limit / float(contraction_moments(2 * t, int(d / gamma), d, step)))
                for d in (2000, 8000)
            ]
            setting = {"gamma": gamma, "steps": t, "quantity": "d times the relative error"}
            yield limit_row(setting, limit_error(t, gamma), *missed)
    for n, d, t, low in STATED:
        step = sp.Rational(n, n + d)
        exact = float(contraction_moments(2 * t, n, d, step))
        setting = {"gamma": HALF, "steps": t, "quantity": f"share that the limit misses, d = {d}"}
        missed = 1 - float(icl.best_contraction(t, HALF)) / exact
        yield compare(setting, low, missed, 0.002, required=0.2)


def thoughts(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on the number of thoughts."""
    progress("exact risks and prompts", 0.0)
    rows = list(thought_rows(effort))
    progress("phases and best steps", 0.3)
    phases, best, limits = list(phase_rows()), list(step_rows()), list(limit_rows())
    progress("figure", 0.7)
    dim, counts = 100, np.array([1, 2, 4, 8, 16])
    lines, marks = [], []
    for color, gamma in enumerate(RATIOS):
        n = int(dim / gamma)
        step = best_step(gamma)
        t = np.arange(1, 33)
        values = contraction_moments_limit(2 * t, float(gamma), step)
        lines.append(curve(f"d/n = {gamma}, limit", t, values, (), color))
        run = simulate_chains(
            icl.NoisyDecoding(step, 0, 16),
            n,
            dim,
            prompts=effort.prompts // 400,
            at=counts,
            method="recursion",
        ).risk()
        label = f"d/n = {gamma}, prompts"
        marks.append(curve(label, counts, run.value, run.standard_error, color))
    figure = Figure(
        "More thoughts: three phases",
        "thoughts t",
        "risk per coordinate",
        f"Chains without noise at the step 1/(1 + d/n), in the limit (lines) and on prompts at d = {dim} "
        "(points). The risk falls exponentially where examples outnumber dimensions, like 1/sqrt(t) "
        "where they are equal, and to the floor 1 - n/d where they are fewer.",
        tuple(lines),
        tuple(marks),
    )
    return (
        Part.of("exact risk against prompts", rows),
        Part.of("laws of many thoughts", phases),
        Part.of("best steps, derived and searched", best),
        Part.of("error of the limit", limits, 1.2),
    ), figure


# -- noise and averaging ---------------------------------------------------------------------------

LABELS = sp.Rational(9, 4)
OPTIONS: dict[str, dict[str, Any]] = {
    "every step": {},
    "output only": {"noise_where": "output"},
    "schedule 1/2, 1, 3/2": {"noise_where": (HALF, 1, 3 * HALF)},
    "scaled by the step": {"scaled_noise": True},
}


def chain(noise: Any = HALF, many: Any = 1, step: Any = HALF, t: int = 3, **options: Any) -> Any:
    """A chain with label noise."""
    return icl.NoisyDecoding(
        step, noise, t, **{"samples": many, "label_noise_var": LABELS, **options}
    )


def noise_rows(effort: Effort) -> Iterator[tuple[Row, Row | None]]:
    """Risk and prompt loss of the noise options, exact against the recursion."""
    for n, d, step in ((20, 10, HALF), (10, 20, sp.Rational(1, 4))):
        for name, option in OPTIONS.items():
            run = simulate_chains(
                chain(step=step, **option),
                n,
                d,
                prompts=effort.prompts // 2,
                chains=8,
                method="recursion",
                seed=n,
            )
            risk = run.risk([1, 8])
            for place, many in enumerate((1, 8)):
                setting = {"n": n, "d": d, "noise": name, "chains": many}
                exact = chain(many=many, step=step, **option).risk(n, d)
                loss = None
                if many == 1:
                    loss = average_row(
                        {**setting, "quantity": "prompt loss"},
                        chain(step=step, **option).prompt_loss(n, d),
                        run.prompt_loss(),
                    )
                yield average_row({**setting, "quantity": "risk"}, exact, risk[place]), loss


def mean_rows(effort: Effort) -> Iterator[Row]:
    """The mean of N chains, N of them run each time: linear in 1/N, down to the chain without noise."""
    exact = chain(noise_std, samples).risk(20, 10)
    for many in (1, 2, 4, 16):
        run = simulate_chains(
            chain(many=many),
            20,
            10,
            prompts=effort.prompts // 2,
            method="recursion",
            seed=many,
            prior=icl.Signs() if many == 4 else None,
        )
        value = exact.subs({noise_std: HALF, samples: many})
        yield average_row({"chains": many, "quantity": "risk"}, value, run.risk())
    run = simulate_chains(
        chain(many=16), 20, 10, prompts=effort.prompts // 2, method="recursion", seed=3
    )
    without = chain(0).risk(20, 10)
    setting = {"chains": "infinitely many", "quantity": "risk, against a chain without noise"}
    yield average_row(setting, without, run.risk(math.inf))
    saved, measured = exact.expr, run.risk([1, 16])
    gain = saved.subs({noise_std: HALF, samples: 1}) - saved.subs({noise_std: HALF, samples: 16})
    setting = {"chains": 16, "quantity": "risk that averaging removes"}
    yield average_row(setting, gain, measured[0] - measured[1])


def long_rows(effort: Effort) -> Iterator[Row]:
    """Many thoughts turn label noise into that of least squares."""
    for n, d in ((40, 10), (60, 20)):
        spec = icl.NoisyDecoding(HALF, 0, 400, label_noise_var=LABELS)
        run = simulate_chains(spec, n, d, prompts=effort.prompts // 4, seed=n)
        task = icl.LinearRegression(dim=d, noise_var=LABELS / d)
        setting = {"n": n, "d": d, "quantity": "risk of 400 thoughts, of least squares"}
        yield average_row(setting, icl.least_squares_risk(task).subs(n=n), run.risk())


def noisy_chains(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on noise and averaging."""
    progress("noise options", 0.0)
    pairs = list(noise_rows(effort))
    progress("means", 0.6)
    means, long = list(mean_rows(effort)), list(long_rows(effort))
    counts = 2 ** np.arange(9)
    lines, marks = [], []
    for color, (name, option) in enumerate(OPTIONS.items()):
        exact = chain(many=samples, **option).risk(20, 10).expr
        values = [float(exact.subs(samples, int(k))) for k in counts]
        lines.append(curve(f"{name}, exact", counts, values, (), color))
        shown = [r for r, _ in pairs if (r.setting["n"], r.setting["noise"]) == (20, name)]
        marks.append(points(f"{name}, prompts", shown, "chains", color))
    figure = Figure(
        "Averaging removes sampling noise and nothing else",
        "chains N",
        "risk per coordinate",
        "Mean of N chains of 3 thoughts at n = 20, d = 10 with label noise, exact (lines) and run on "
        "prompts (points), for four ways to inject the noise. All fall like 1/N to the risk of the "
        "chain without noise.",
        tuple(lines),
        tuple(marks),
    )
    losses = [loss for _, loss in pairs if loss is not None]
    return (
        Part.of("risk with noise, exact", (row for row, _ in pairs)),
        Part.of("loss on the prompt, exact", losses),
        Part.of("mean of N chains", means),
        Part.of("label noise after many thoughts", long),
    ), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    decoding_claim(
        id="decoding-thoughts",
        title="More thoughts help, in three phases",
        statement="Without noise the risk of a chain of t thoughts falls exponentially for n > d, like "
        "1/sqrt(pi t) at n = d, to the floor 1 - n/d for n < d. One step size, n/(n + d), is the best for "
        "every t in the limit; at finite n the best step falls with t, and the limit is low by c/d "
        "of the risk: 6 % after one thought and 24 % after three at n = 20, d = 10.",
        formulas=lambda: (
            icl.contraction_moment(4),
            icl.best_contraction(2),
            *(icl.late_contraction(gamma) for gamma in RATIOS),
        ),
        experiment=thoughts,
    )
)
register(
    decoding_claim(
        id="decoding-noisy-chains",
        title="Averaging removes sampling noise and nothing else",
        statement="The risk of the mean of N chains is bias plus label noise plus a sampling noise that "
        "falls like 1/N, exactly and for every way to inject the noise; infinitely many chains are one "
        "chain without noise. Many thoughts turn label noise into that of least squares.",
        formulas=lambda: (
            icl.NoisyDecoding(eta, noise_std, 1, samples=samples, label_noise_var=LABELS).risk(),
            chain(noise_std).prompt_loss(20, 10),
        ),
        experiment=noisy_chains,
    )
)
