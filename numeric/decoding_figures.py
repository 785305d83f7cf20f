"""Figures of decoding: the risk of chains against their length, and what every technique makes of a
budget of thoughts. Exported: `risk_against_thoughts`, `risk_against_compute`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from icltheory.binary_priors import Signs, SparseBits
from icltheory.chains import NoisyDecoding
from icltheory.errors import InvalidInput
from numeric.arrays import positive_integers
from numeric.chain_length import chain_risks
from numeric.chains import ChainSimulation, simulate_chains
from numeric.montecarlo import Seed
from numeric.planner import Plan
from numeric.planner_binary import BINARY, SAMPLE
from numeric.planner_simulation import simulate_choices
from numeric.planner_techniques import CONTINUOUS, SOFT, Choice
from numeric.plot import Figure, Series
from numeric.progress import Interrupted, progress_bar

_CURVE, _POINTS = 2**0.5, 4  # ratio of budgets on a line, and of budgets with a point


def risk_against_thoughts(
    decoding: NoisyDecoding,
    n: int,
    d: int,
    *,
    samples: Any = None,
    at: Any = None,
    prompts: int = 400,
    seed: Seed = 0,
) -> Figure:
    """The exact risk of the mean of N chains after every number of thoughts, and its simulation.

    Parameters
    ----------
    decoding: `icl.NoisyDecoding` with numbers; its `steps`, at most 60, is the longest chain.
    n, d: prompt length and dimension.
    samples: numbers N, one line each; `None` is `decoding.samples`.
    at: increasing numbers of thoughts with a simulated point; `None` is about eight of them, `()` none.
    prompts: real prompts, the same for all points. Error bars are one standard error.

    Ctrl-C raises `Interrupted` with the figure of what was simulated in `partial`. Risks are per coordinate with E w w' = I. Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory import NoisyDecoding
    >>> risk_against_thoughts(NoisyDecoding(0.5, 0.3, 12), 20, 10, samples=[1, 8], prompts=50)
    Figure('Risk against thoughts: n = 20, d = 10': 'N = 1', 'N = 8', '', '')
    """
    one = replace(decoding, samples=1) if isinstance(decoding, NoisyDecoding) else decoding
    first = chain_risks(one, n, d)  # refuses what is no decoding with numbers
    given = int(decoding.samples) if samples is None else samples
    counts = np.unique(positive_integers(given, "samples")).astype(int)
    longest = len(first) - 1
    lines, found = [], []
    for color, count in enumerate(counts):
        risks = chain_risks(replace(decoding, samples=int(count)), n, d)
        lines.append(Series(f"N = {count}", tuple(range(len(risks))), tuple(risks), color=color))
        best = int(np.argmin(risks))
        found.append(f"t = {best} for N = {count} ({risks[best]:.3g})")
    shown = np.unique(np.linspace(0, longest, 9).round().astype(int)) if at is None else at
    noise = f"noise {float(decoding.noise_std):g}, step size {float(decoding.step_size):.3g}"

    def drawn(simulated: ChainSimulation | None) -> Figure:
        points, measured = [], ""
        if simulated is not None:
            average = simulated.risk(counts)
            measured = f"; points: simulated on {average.prompts} prompts, one standard error"
            for color in range(len(counts)):
                column = average[:, color]
                parts = (tuple(x) for x in (simulated.steps, column.value, column.standard_error))
                points.append(Series("", *parts, color=color))
        return Figure(
            f"Risk against thoughts: n = {n}, d = {d}",
            "thoughts t",
            "risk per coordinate",
            f"Mean of N chains, {noise}, label noise variance {float(decoding.label_noise_var):g}. "
            f"Lines: exact{measured}. Least: {', '.join(found)}.",
            tuple(lines),
            tuple(points),
            logx=False,
        )

    if not len(shown):
        return drawn(None)
    if np.max(positive_integers(shown, "at", 0)) > longest:
        raise InvalidInput(f"at reaches beyond the {longest} thoughts of the decoding.")
    try:
        return drawn(simulate_chains(one, n, d, prompts=prompts, chains=16, at=shown, seed=seed))
    except Interrupted as stop:
        kept = stop.partial
        with progress_bar(stop.total, stop.done, False, "chains", partial=lambda: drawn(kept)):
            raise


def risk_against_compute(
    plan: Plan,
    *,
    techniques: Sequence[str] | None = None,
    budgets: Any = None,
    prompts: int = 400,
    seed: Seed = 0,
) -> Figure:
    """The predicted best of every technique within a budget as lines, its simulation as points.

    Parameters
    ----------
    plan: of the largest budget, `numeric.plan`.
    techniques: which of them; `None` is all but "one sample", which is never below rounding.
    budgets: where points are simulated; `None` is every fourfold up to the plan's. `()`: no points.
    prompts: real prompts a budget, the same for all techniques. Error bars are one standard error.

    Ctrl-C raises `Interrupted` with the figure of the finished budgets. Errors: `InvalidInput`.

    >>> from numeric import plan
    >>> risk_against_compute(plan(20, 10, 16, noise_std=0.3, techniques=["mean of N"]), prompts=50)
    Figure('What compute buys: Gaussian coefficients, n = 20, d = 10': 'mean of N', '')
    """
    if not isinstance(plan, Plan):
        raise InvalidInput(f"plan has type {type(plan).__name__}; make it with numeric.plan.")
    top, names = plan.problem.budget, _chosen(plan, techniques)
    steps = int(np.log(top) / np.log(_CURVE) + 1e-9) + 1
    grid = np.unique(np.append(np.floor(_CURVE ** np.arange(steps) + 1e-9), top)).astype(int)
    lines = [Series(name, *_curve(plan, name, grid), color=color) for name, color in names.items()]
    if budgets is None:
        shown = [int(_POINTS**k) for k in range(1, 20) if _POINTS**k < 0.7 * top] + [top]
    else:
        shown = (
            [int(x) for x in np.ravel(positive_integers(budgets, "budgets"))]
            if np.size(budgets)
            else []
        )
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}

    def drawn() -> Figure:
        points = [
            Series("", *zip(*found[x], strict=True), color=c) for x, c in names.items() if found[x]
        ]
        return Figure(
            _title(plan),
            "compute: thoughts in all, N t",
            plan.quantity,
            _caption(plan, names, prompts if shown else 0),
            tuple(lines),
            tuple(points),
        )

    options = {"partial": drawn, "unit": " budgets"}
    with progress_bar(len(shown), 0, None, "what compute buys", **options) as bar:
        for budget in shown:
            choices = [x for x in plan.at(budget).ranked if x.technique in names]
            results = simulate_choices(plan.problem, choices, prompts, seed)
            for choice, result in zip(choices, results, strict=True):
                # An error bar down to zero shows nothing.
                if result.value > 2 * result.standard_error:
                    point = (budget, float(result.value), float(result.standard_error))
                    found[choice.technique].append(point)
            bar.update()
    return drawn()


def _chosen(plan: Plan, techniques: Sequence[str] | None) -> dict[str, int]:
    """Names with their colours, which do not depend on what else is shown."""
    order = CONTINUOUS if plan.problem.prior is None else BINARY
    known = [x.technique for x in plan.ranked]
    if techniques is None:
        techniques = [x for x in known if x != SAMPLE]
    if not isinstance(techniques, (list, tuple)) or not techniques:
        raise InvalidInput(f"techniques = {techniques!r}; pass a list of some of {known}.")
    wanted = list(techniques)
    for name in wanted:
        plan[name]  # says why it is not there
    return {name: place for place, name in enumerate(order) if name in wanted}


def _curve(
    plan: Plan, name: str, budgets: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    best: list[tuple[float, Choice | None]] = [
        (float(x), plan.settings[name].best(x)) for x in budgets
    ]
    # A line ends where the stated error reaches the value.
    kept = [(x, choice.value) for x, choice in best if choice and choice.value > choice.error]
    return tuple(x for x, _ in kept), tuple(y for _, y in kept)


def _title(plan: Plan) -> str:
    q = plan.problem
    return f"What compute buys: {_prior_name(q.prior)}, n = {q.n}, d = {q.d}"


def _prior_name(prior: Any) -> str:
    if prior is None:
        return "Gaussian coefficients"
    if isinstance(prior, SparseBits):
        return f"{prior.ones}-sparse bits"
    return "random signs" if isinstance(prior, Signs) else "random bits"


def _caption(plan: Plan, names: dict[str, int], prompts: int) -> str:
    q = plan.problem
    noise = f"Noise {q.noise_std:g} a thought, label noise variance {q.label_noise_var:g}. "
    points = f"points: simulated on {prompts} prompts, one standard error. " if prompts else ""
    ranked = [x for x in plan.ranked if x.technique in names]
    first, last = ranked[0], ranked[-1]
    setting = f"t = {first.steps}, N = {first.samples}"
    found = f"At {q.budget} thoughts {first.technique} ({setting}) is best"
    if len(ranked) > 1 and first.value > first.error:
        found += f", {last.value / first.value:.3g} times below {last.technique}"
    soft = " Soft best of N is predicted from 8 effective samples on." if SOFT in names else ""
    return (
        f"{noise}Lines: the best predicted setting of each technique within the budget; {points}"
        f"{found}.{soft}"
    )
