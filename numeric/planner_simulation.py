"""Holding a plan against simulation: its winner and every technique it rejected, on common real prompts.

Prompts are drawn with their examples, chains are run, answers drawn, verified and voted on; nothing is
shared with the predictions. Differences are paired: one prompt is one unit. Exported: `simulate_choices`,
`Confirmation`, `ConfirmationRow`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from numeric.arrays import integer
from numeric.binary_samplers import (
    bit_probability,
    majority_vote,
    plurality_vote,
    prior_numbers,
    sample_bits,
)
from numeric.chain_laws import cache_batches
from numeric.chain_prompts import (
    DecodingPrompts,
    PromptAverage,
    decoding_prompts,
    prompt_blocks,
)
from numeric.chains import run_chains
from numeric.montecarlo import Seed, child_seed, seed_sequence
from numeric.planner_binary import AVERAGE, GREEDY, MAJORITY, PLURALITY, SAMPLE
from numeric.planner_techniques import (
    BEST,
    MEAN,
    ONE,
    ORACLE,
    SOFT,
    STEPWISE,
    Choice,
    Problem,
)
from numeric.progress import progress_bar
from numeric.selection import simulate_selection
from numeric.softmax_mean import simulate_softmax_mean
from numeric.stepwise import simulate_stepwise
from numeric.tables import cell_text, html_table, text_table

_SIGMAS = 5.0
_POOL = 32  # chains a prompt, at least


def simulate_choices(
    problem: Problem,
    choices: Sequence[Choice],
    prompts: int,
    seed: Seed = 0,
    finish: Callable[[list[PromptAverage]], Any] = list,
) -> Any:
    """`finish` of the risks or error probabilities of the choices on the same `prompts` >= 2 real prompts.

    Ctrl-C raises `Interrupted` with that of the first choices in `partial`, or, for binary answers, of
    all of them on fewer prompts.
    """
    size = integer(prompts, "prompts", 2)
    simulate = _continuous if problem.prior is None else _binary
    return simulate(problem, choices, size, seed, finish)


def _continuous(
    problem: Problem,
    choices: Sequence[Choice],
    size: int,
    seed: Seed,
    finish: Callable[[list[PromptAverage]], Any],
) -> Any:
    tree = seed_sequence(seed)
    drawn = {"label_noise_var": problem.label_noise_var, "seed": child_seed(tree, 0)}
    out: list[PromptAverage] = []
    options = {"partial": lambda: finish(out) if out else None, "unit": " prompts", "inner": True}
    with progress_bar((len(choices) + 1) * size, 0, None, "simulated techniques", **options):
        data = decoding_prompts(problem.n, problem.d, size, **drawn)
        for place, choice in enumerate(choices):
            own = child_seed(tree, place + 1)
            out.append(_simulated(problem, choice, data, own))
    return finish(out)


def _simulated(
    problem: Problem, choice: Choice, data: DecodingPrompts, seed: Seed
) -> PromptAverage:
    chain, many = problem.decoding(choice.step_size, choice.steps), choice.samples
    if choice.technique == SOFT:
        repeats = max(1, _POOL // many)
        theta = 1 / choice.temperature
        return simulate_softmax_mean(data, chain, many, theta, repeats=repeats, seed=seed)
    if choice.technique == STEPWISE:
        chains = max(1, _POOL // many)
        return simulate_stepwise(data, chain, many, chains=chains, seed=seed)
    rule = {ONE: "mean", MEAN: "mean", BEST: "prompt_loss", ORACLE: "oracle"}[choice.technique]
    pool = max(many, _POOL)
    return simulate_selection(data, chain, many, rules=(rule,), pool=pool, seed=seed).risk(rule)[0]


# -- binary answers --------------------------------------------------------------------------------


def _binary(
    problem: Problem,
    choices: Sequence[Choice],
    prompts: int,
    seed: Seed,
    finish: Callable[[list[PromptAverage]], Any],
) -> Any:
    tree = seed_sequence(seed)
    streams = [np.random.default_rng(child_seed(tree, k + 1)) for k in range(len(choices))]
    scores: list[list[np.ndarray]] = [[] for _ in choices]
    blocks = prompt_blocks(
        problem.n,
        problem.d,
        prompts,
        problem.label_noise_var,
        None,
        problem.prior,
        child_seed(tree, 0),
    )
    centre = prior_numbers(problem.prior, problem.d).centre  # type: ignore[arg-type]

    def result(done: int) -> Any:
        return finish([PromptAverage(np.concatenate(x)[:done]) for x in scores])

    def partial() -> Any:
        return result(bar.n) if bar.n > 1 else None

    options = {"partial": partial, "unit": " prompts"}
    with progress_bar(prompts, 0, None, "simulated techniques", **options) as bar:
        for X, w, eps, _ in blocks:
            y = np.einsum("bnd,bd->bn", X, w) + eps
            for choice, rng, out in zip(choices, streams, scores, strict=True):
                for part in cache_batches(len(X), choice.samples * sum(X.shape[1:])):
                    answer = _answer(problem, choice, X[part], y[part], w[part], rng)
                    wrong = answer != (w[part] > centre)
                    fold = np.mean if problem.criterion == "coordinate" else np.any
                    out.append(np.asarray(fold(wrong, axis=1), dtype=float))
            bar.update(len(X))
    return result(prompts)


def _answer(
    problem: Problem,
    choice: Choice,
    X: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """The bits that a technique answers, (b, d); the oracle looks at w."""
    many, technique = choice.samples, choice.technique
    chains = many if problem.noise_std else 1
    chain = problem.decoding(choice.step_size, choice.steps)
    states = run_chains(X, y, chain, chains=chains, seed=int(rng.integers(2**62)))
    if technique == GREEDY:
        return states[:, 0] > choice.threshold
    if technique == AVERAGE:
        moved = choice.temperature * rng.standard_normal((len(X), many, X.shape[2]))
        return (states + moved).mean(axis=1) > choice.threshold
    assert problem.prior is not None
    assert problem.sampler is not None
    sampler = type(problem.sampler)(choice.temperature)  # type: ignore[call-arg]
    chance = bit_probability(sampler, states, problem.prior, threshold=choice.threshold)
    if chains == 1:
        bits = sample_bits(chance[:, 0], many, rng)
    else:
        bits = rng.random(chance.shape) < chance
    if technique == SAMPLE:
        return bits[:, 0]
    if technique == MAJORITY:
        return majority_vote(bits, rng)
    if technique == PLURALITY:
        return plurality_vote(bits, rng)
    law = prior_numbers(problem.prior, problem.d)
    if technique == ORACLE:
        loss = (bits != (w > law.centre)[:, None]).sum(axis=2)
    else:
        predicted = (law.low + law.gap * bits) @ np.swapaxes(X, 1, 2)
        loss = np.square(predicted - y[:, None]).sum(axis=2)
    return np.take_along_axis(bits, loss.argmin(axis=1)[:, None, None], axis=1)[:, 0]


# -- the verdict -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConfirmationRow:
    """One technique at its best setting, simulated beside the winner.

    gain: by how much it is better than the winner (negative: worse), with the paired `gain_error`.
    allowed: the stated errors of both predictions together.
    """

    choice: Choice
    value: float
    standard_error: float
    gain: float
    gain_error: float
    allowed: float

    @property
    def better(self) -> bool:
        """Whether it is better than the winner by more than the stated error, at five sigma."""
        return not self.gain <= self.allowed + _SIGMAS * self.gain_error

    @property
    def worse(self) -> bool:
        """Whether it is worse than the winner, at five sigma."""
        return self.gain + _SIGMAS * self.gain_error < 0

    @property
    def verdict(self) -> str:
        """ "better", "worse" or, between them, "not better"."""
        return "better" if self.better else "worse" if self.worse else "not better"

    @property
    def agrees(self) -> bool:
        """Whether the prediction holds: within its accuracy and five standard errors."""
        error = math.hypot(self.standard_error, self.choice.standard_error)
        return abs(self.value - self.choice.value) <= self.choice.accuracy + _SIGMAS * error

    @property
    def z(self) -> float:
        """Simulated minus predicted in units of all errors; the prediction's is its stated error."""
        error = math.hypot(self.standard_error, self.choice.error)
        return (self.value - self.choice.value) / error if error else 0.0


@dataclass(frozen=True)
class Confirmation:
    """The winner (first row) and the rejected techniques of a plan, simulated on common prompts.

    `confirmed`: no rejected technique is better by more than the stated error. `resolution`: by how
    much one that is not clearly worse could be better without being seen, relative to the winner.
    left: techniques that an interrupted simulation has not reached.
    """

    rows: tuple[ConfirmationRow, ...]
    prompts: int
    left: tuple[str, ...] = ()

    @property
    def confirmed(self) -> bool:
        return not any(row.better for row in self.rows[1:])

    @property
    def agrees(self) -> bool:
        """Whether all predictions hold."""
        return all(row.agrees for row in self.rows)

    @property
    def resolution(self) -> float:
        """Of the least resolved technique; 0 if all are clearly worse, infinite at a winner of 0."""
        seen = [row.allowed + _SIGMAS * row.gain_error for row in self.rows[1:] if not row.worse]
        if not seen:
            return 0.0
        return max(seen) / self.rows[0].value if self.rows[0].value > 0 else math.inf

    @property
    def regret(self) -> float:
        """How much better the best simulated technique is than the winner, at least 0."""
        return max(0.0, *(row.gain for row in self.rows))

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Confirmation({self._verdict()})"

    def __str__(self) -> str:
        return text_table(*self._table()) + f"\n{self._verdict()}"

    def _repr_html_(self) -> str:
        return html_table(*self._table()) + f"<p>{self._verdict()}</p>"

    def _verdict(self) -> str:
        left = f"; interrupted before {', '.join(self.left)}" if self.left else ""
        if self.confirmed:
            return f"confirmed on {self.prompts} prompts: no rejected technique is better by more than the stated error{left}"
        names = ", ".join(row.choice.technique for row in self.rows[1:] if row.better)
        return f"not confirmed on {self.prompts} prompts: better are {names}{left}"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        names = ["technique", "predicted", "stated error", "simulated", "std. error"]
        names += ["better by", "std. error", "verdict"]
        body = []
        for place, row in enumerate(self.rows):
            numbers = (row.choice.value, row.choice.error, row.value, row.standard_error)
            verdict = row.verdict if place else "winner"
            gains = [cell_text(x) for x in (row.gain, row.gain_error)] if place else ["", ""]
            cells = [cell_text(float(f"{x:.4g}")) for x in numbers]
            body.append([row.choice.technique, *cells, *gains, verdict])
        return names, body

    def to_frame(self) -> Any:
        """A pandas DataFrame, one row a technique (needs pandas)."""
        try:
            import pandas
        except ImportError as error:
            raise InvalidInput("to_frame needs pandas; install icltheory[frame].") from error
        return pandas.DataFrame.from_records(
            [
                {
                    "technique": row.choice.technique,
                    "predicted": row.choice.value,
                    "stated_error": row.choice.error,
                    "simulated": row.value,
                    "standard_error": row.standard_error,
                    "gain": row.gain,
                    "gain_error": row.gain_error,
                    "allowed": row.allowed,
                    "verdict": row.verdict if place else "winner",
                }
                for place, row in enumerate(self.rows)
            ]
        )


def confirm_choices(
    problem: Problem, winner: Choice, rejected: Sequence[Choice], prompts: int, seed: Seed
) -> Confirmation:
    """Simulate the winner and the rejected choices on common prompts."""
    choices = [winner, *rejected]

    def confirmation(averages: list[PromptAverage]) -> Confirmation:
        size = averages[0].prompts
        unit = problem.d if problem.criterion == "coordinate" else 1
        # An error that no prompt shows may still have a chance of one in their number.
        least = 0.0 if problem.prior is None else 1 / (size * unit)
        rows = []
        for choice, average in zip(choices, averages, strict=False):
            gain = averages[0] - average
            rows.append(
                ConfirmationRow(
                    choice,
                    float(average.value),
                    max(float(average.standard_error), least),
                    float(gain.value),
                    float(gain.standard_error),
                    winner.error + choice.error,
                )
            )
        left = tuple(choice.technique for choice in choices[len(rows) :])
        return Confirmation(tuple(rows), size, left)

    return simulate_choices(problem, choices, prompts, seed, confirmation)
