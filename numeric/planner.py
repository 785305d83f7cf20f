"""Which decoding technique is best on a budget of thoughts, and with which settings.

For a prompt length, dimension, noise, prior and budget of N t thoughts every technique is predicted at all
its settings (numbers of thoughts and samples, step size, temperature); the best setting of each makes a
ranked table, with the stated error of every prediction. `Plan.confirm` simulates the winner and what was
rejected. Source: derived here, after Chen, Lu, Wu, Zou (arXiv 2508.07571). Exported: `plan`, `Plan`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from icltheory.binary_priors import BinaryPrior, BinarySampler, Logit, Probit
from icltheory.errors import InvalidInput
from icltheory.formula import Formula
from numeric.arrays import finite, integer, number
from numeric.binary_samplers import prior_numbers
from numeric.chain_laws import VERIFIERS
from numeric.montecarlo import Seed
from numeric.planner_binary import BINARY, evaluate_binary
from numeric.planner_formulas import choice_formula
from numeric.planner_simulation import Confirmation, confirm_choices
from numeric.planner_techniques import (
    CONTINUOUS,
    Choice,
    Problem,
    Settings,
    evaluate_continuous,
)
from numeric.plot import Figure
from numeric.tables import cell_text, html_table, text_table

CRITERIA = ("answer", "coordinate")
_LARGEST, _LARGEST_BUDGET = 10**6, 10**15  # n and d; thoughts
_STEPS = (1.0, 0.85, 0.7, 0.55)  # in units of the best step where n and d are large


@dataclass(frozen=True, eq=False)
class Plan:
    """Techniques on a budget, ranked by their predicted risk or error probability.

    problem: what was planned. settings: all settings of every technique. left_out: techniques without a
    prediction, with the reason. `str` and notebooks show the table.
    """

    problem: Problem
    settings: Mapping[str, Settings]
    left_out: Mapping[str, str]

    @cached_property
    def ranked(self) -> tuple[Choice, ...]:
        """The best setting of every technique, best first; among equals the cheapest, then the surest."""
        best = (part.best(self.problem.budget) for part in self.settings.values())
        return tuple(sorted((x for x in best if x), key=lambda x: (x.value, x.compute, x.error)))

    @property
    def best(self) -> Choice:
        """The winner."""
        return self.ranked[0]

    @property
    def formula(self) -> Formula | None:
        """The winner as a Formula, where there is one (`numeric.planner_formulas`), or `None`."""
        return choice_formula(self.problem, self.best)

    @property
    def quantity(self) -> str:
        """What is predicted."""
        if self.problem.prior is None:
            return "risk per coordinate"
        answer = self.problem.criterion == "answer"
        return "P(answer wrong)" if answer else "share of wrong coordinates"

    def __getitem__(self, technique: str) -> Choice:
        """The best setting of one technique."""
        for choice in self.ranked:
            if choice.technique == technique:
                return choice
        reason = self.left_out.get(technique) if isinstance(technique, str) else None
        known = ", ".join(repr(x.technique) for x in self.ranked)
        raise InvalidInput(
            f"{technique!r} was left out: {reason}."
            if reason
            else f"technique = {technique!r} is not in the plan; there are {known}."
        )

    def __len__(self) -> int:
        """The number of settings that were looked at."""
        return sum(map(len, self.settings.values()))

    def at(self, budget: int) -> Plan:
        """The plan of a smaller budget, from the settings of this one."""
        total = _budget(budget)
        if total > self.problem.budget:
            raise InvalidInput(
                f"budget = {total} is above the {self.problem.budget} thoughts of this plan; make a "
                f"new one with numeric.plan."
            )
        left_out = dict(self.left_out)
        for name, part in self.settings.items():
            if part.best(total) is None:
                left_out[name] = f"no setting costs {total} thoughts or less"
        return Plan(replace(self.problem, budget=total), self.settings, left_out)

    def confirm(
        self, prompts: int = 400, seed: Seed = 0, *, winner: str | None = None
    ) -> Confirmation:
        """Simulate the winner and every rejected technique at its best setting on common real prompts.

        winner: hold another technique to be the winner, as a control: that of a clearly worse one must
        not be confirmed. Ctrl-C raises `Interrupted` with what was simulated in `partial`.

        >>> control = plan(20, 10, 32, noise_std=0.3).confirm(200, winner="one chain")
        >>> control.confirmed
        False
        """
        chosen = self.best if winner is None else self[winner]
        rejected = [x for x in self.ranked if x is not chosen]
        return confirm_choices(self.problem, chosen, rejected, prompts, seed)

    @property
    def figure(self) -> Figure:
        """The predicted best of every technique within smaller budgets, `numeric.risk_against_compute`."""
        from numeric.decoding_figures import risk_against_compute

        return risk_against_compute(self, budgets=())

    def plot(self, ax: Any = None) -> Any:
        """Predictions against the budget (`figure`); returns the axes. `ax`: as in `numeric.draw`."""
        return self.figure.draw(ax)

    # -- display -----------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Plan(n={self.problem.n}, d={self.problem.d}, budget={self.problem.budget}: {self.best.technique})"

    def __str__(self) -> str:
        return "\n".join([text_table(*self._table()), *self._notes()])

    def _repr_html_(self) -> str:
        return html_table(*self._table()) + "".join(f"<p>{x}</p>" for x in self._notes())

    def _table(self) -> tuple[list[str], list[list[str]]]:
        names = ["technique", "thoughts", "samples", "temperature", "step size"]
        names += [self.quantity, "stated error", "compute"]
        body = []
        for x in self.ranked:
            temperature = "" if math.isnan(x.temperature) else f"{x.temperature:.3g}"
            error = f"{x.error:.2g}" if x.error else "exact"
            cells = [temperature, f"{x.step_size:.4g}", f"{x.value:.4g}", error]
            body.append([x.technique, str(x.steps), str(x.samples), *cells, cell_text(x.compute)])
        return names, body

    def _notes(self) -> list[str]:
        notes = [f"{name}: left out, {reason}" for name, reason in self.left_out.items()]
        if self.problem.prior is None and self.best.value >= 1:
            notes.append("no technique is better than the answer 0, which has risk 1")
        return notes

    def to_frame(self) -> Any:
        """A pandas DataFrame of the ranked table (needs pandas)."""
        try:
            import pandas
        except ImportError as error:
            raise InvalidInput("to_frame needs pandas; install icltheory[frame].") from error
        return pandas.DataFrame.from_records(
            [
                {
                    "technique": x.technique,
                    "steps": x.steps,
                    "samples": x.samples,
                    "temperature": x.temperature,
                    "step_size": x.step_size,
                    "value": x.value,
                    "standard_error": x.standard_error,
                    "accuracy": x.accuracy,
                    "stated_error": x.error,
                    "compute": x.compute,
                }
                for x in self.ranked
            ]
        )


def plan(
    n: int,
    d: int,
    budget: int,
    *,
    noise_std: float,
    label_noise_var: float = 0.0,
    prior: BinaryPrior | None = None,
    step_size: Any = None,
    verifier: str = "prompt_loss",
    criterion: str = "answer",
    techniques: Sequence[str] | None = None,
    sampler: BinarySampler | None = None,
    temperatures: Any = None,
    seed: Seed = 0,
) -> Plan:
    """Which decoding technique is best with `budget` thoughts, N chains of t thoughts each, N t <= budget.

    Parameters
    ----------
    n, d: prompt length and dimension, integers >= 1.
    budget: thoughts of all chains together, an integer >= 1.
    noise_std: sigma >= 0, the noise of every thought (`icl.NoisyDecoding`).
    label_noise_var: sigma_y^2, where |w*|^2 = d.
    prior: `None` for w* ~ N(0, I): risk per coordinate. `icl.Signs()`, `icl.Bits(p)`,
        `icl.SparseBits(k)`: error probabilities.
    step_size: a number or numbers to choose from; `None` offers 1, 0.85, 0.7 and 0.55 times n/(n + d), the
        best one where n and d are large.
    verifier: "prompt_loss" (the loss on the prompt) or "oracle", which adds selection by the true error.
    criterion: of a binary prior: "answer", P(some coordinate is wrong), or "coordinate", the share of
        wrong coordinates.
    techniques: names to look at; `None` is all of them. For N(0, I): "one chain", "mean of N", "best of N,
        prompt loss", "soft best of N" (weights exp(-loss/temperature)), "stepwise best of M" (samples
        is M), "best of N, oracle". Binary: "greedy rounding", "one sample", "average, then round", "coordinate
        majority", "whole-answer plurality", "best of N, prompt loss" (pass@N), "best of N, oracle".
    sampler: of binary answers, `icl.Logit` or `icl.Probit`, its temperature being chosen; `None` is Logit
        without noise, Probit with noise: there a rounded chain already is a probit sample.
    temperatures: for the sampler, numbers to choose from; `None` spans 1/4 to 8 times the calibrated
        one.

    Errors. One chain and the mean are exact (continuous). Else the stated error is one standard error of
    the average over sampled prompts plus the accuracy of the technique: best of N 3 % at d >= 10, 6 % at
    d = 6, twice that beyond 1024 samples; soft best of N 2 %, 6 % below 30 effective samples; stepwise 2 %;
    binary techniques 1 %, plurality 5 %. Where noisy chains are sampled: votes 5 %, plurality 25 %, and
    best of N is an upper estimate, by 15 % at large and up to 70 % at small error probabilities. With
    label noise half the bound on answers that fit better than w* is added. The smallest of many values is
    low by about its standard error. Lengths end at 30 thoughts, or where rare prompts carry the spread
    between prompts. Refusals: `InvalidInput`.

    Errors: `InvalidInput`.

    >>> result = plan(20, 10, 16, noise_std=0.3)
    >>> result.best.technique, result.best.steps, result.best.samples
    ('mean of N', 5, 3)
    """
    problem = _problem(
        n, d, budget, noise_std, label_noise_var, prior, step_size, verifier, criterion, sampler,
        temperatures,
    )  # fmt: skip
    known = CONTINUOUS if prior is None else BINARY
    names = known if techniques is None else _names(techniques, known)
    evaluate = evaluate_continuous if prior is None else evaluate_binary
    tableau = evaluate(problem, names, seed)
    if not tableau.parts:
        reasons = "; ".join(f"{k}: {v}" for k, v in tableau.left_out.items())
        raise InvalidInput(f"no technique is left to plan with ({reasons}).")
    found = {name: tableau.settings(name) for name in names if name in tableau.parts}
    settings = {name: part for name, part in found.items() if len(part)}
    for name in names:
        if name not in settings and name not in tableau.left_out:
            tableau.left_out[name] = "no setting within the budget"
    return Plan(problem, settings, tableau.left_out)


def _names(techniques: Any, known: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(techniques, (str, bytes)) or not isinstance(techniques, Sequence):
        raise InvalidInput(
            f"techniques = {techniques!r}; pass a list of names such as {known[:2]}."
        )
    for name in techniques:
        if name not in known:
            raise InvalidInput(f"technique {name!r} is not one of {', '.join(known)}.")
    if not techniques:
        raise InvalidInput("techniques is empty; pass None for all of them.")
    return tuple(name for name in known if name in techniques)


def _budget(value: Any) -> int:
    total = number(value, "budget")
    if total < 1:
        raise InvalidInput(f"budget = {total:g} buys nothing: a chain takes at least one thought.")
    if total > _LARGEST_BUDGET:
        raise InvalidInput(f"budget = {total:g}; pass at most {_LARGEST_BUDGET:.0e} thoughts.")
    return integer(value, "budget")


def _problem(
    n: Any,
    d: Any,
    budget: Any,
    noise_std: Any,
    label_noise_var: Any,
    prior: Any,
    step_size: Any,
    verifier: Any,
    criterion: Any,
    sampler: Any,
    temperatures: Any,
) -> Problem:
    length, dim = integer(n, "n"), integer(d, "d")
    noise, label = number(noise_std, "noise_std"), number(label_noise_var, "label_noise_var")
    for name, value in (("noise_std", noise), ("label_noise_var", label)):
        if not 0 <= value < 1e100:
            raise InvalidInput(f"{name} = {value:g} is negative or astronomical; pass 0 or more.")
    if max(length, dim) > _LARGEST:
        raise InvalidInput(f"n = {length:.3g}, d = {dim:.3g}; plans are for at most {_LARGEST}.")
    for name, value, known in (
        ("verifier", verifier, VERIFIERS),
        ("criterion", criterion, CRITERIA),
    ):
        if value not in known:
            raise InvalidInput(f"{name} = {value!r} is not one of {', '.join(known)}.")
    if step_size is None:
        steps = tuple(float(f"{f * length / (length + dim):.4g}") for f in _STEPS)
    else:
        steps = tuple(float(x) for x in np.unique(finite(step_size, "step_size"))[::-1])
        if not steps or min(steps) <= 0:
            raise InvalidInput(f"step_size = {step_size!r}; pass positive numbers.")
    if prior is None:
        if sampler is not None or temperatures is not None:
            raise InvalidInput("sampler and temperatures are for binary priors; pass a prior.")
        chosen = None
    else:
        prior_numbers(prior, dim)
        chosen = _sampler(sampler, noise)
        if temperatures is not None:
            temperatures = tuple(float(x) for x in np.unique(finite(temperatures, "temperatures")))
            if not temperatures or min(temperatures) < 0 or (min(temperatures) == 0 and not noise):
                raise InvalidInput(
                    "temperatures must be positive (0 only with noise_std > 0): temperature 0 is greedy "
                    "rounding, which the plan has anyway."
                )
    return Problem(
        length, dim, _budget(budget), noise, label, prior, steps, verifier, criterion, chosen,
        temperatures,
    )  # fmt: skip


def _sampler(sampler: Any, noise_std: float) -> BinarySampler:
    if sampler is None:
        return Probit(1) if noise_std else Logit(1)
    if not isinstance(sampler, (Logit, Probit)):
        raise InvalidInput(
            f"sampler = {sampler!r}; pass icl.Logit(1) or icl.Probit(1): the plan chooses their "
            f"temperature."
        )
    if noise_std and not isinstance(sampler, Probit):
        raise InvalidInput(
            f"sampler = {sampler} with noise_std > 0: a rounded noisy chain is a probit sample; pass "
            f"icl.Probit(1), or noise_std=0."
        )
    return sampler
