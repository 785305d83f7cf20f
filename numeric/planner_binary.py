"""What every decoding technique is predicted to reach on binary coefficients, on a budget of thoughts.

Given w* and the spectrum of a prompt the error of a chain without noise is a multiple of w* plus a vector of
known length in a uniform direction orthogonal to it, so states of the exact law are drawn without prompts,
and what is sampled after them is averaged exactly. All settings share the states. Source: rotation
invariance, derived here. Exported: `BINARY`, `evaluate_binary`; used by `numeric.plan`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from icltheory.binary_priors import BinaryPrior, Bits, Probit, SparseBits
from icltheory.errors import InvalidInput
from numeric.binary_decoding import DecodingChannel
from numeric.binary_samplers import (
    BitLaw,
    PriorNumbers,
    plurality_vote,
    prior_numbers,
    sample_bits,
)
from numeric.binary_verifiers import exhaustive_error, verified_success
from numeric.chain_laws import chain_law
from numeric.chain_prompts import DecodingPrompts, decoding_prompts, draw_coefficients
from numeric.montecarlo import Seed, child_seed, seed_sequence
from numeric.planner_techniques import (
    BEST,
    ORACLE,
    Problem,
    Tableau,
    lengths_within,
    sample_grid,
)
from numeric.progress import progress_bar

GREEDY, SAMPLE, AVERAGE = "greedy rounding", "one sample", "average, then round"
MAJORITY, PLURALITY = "coordinate majority", "whole-answer plurality"
BINARY = (GREEDY, SAMPLE, AVERAGE, MAJORITY, PLURALITY, BEST, ORACLE)

LARGEST_VOTE = 2**12
_BITS = 2**15  # coordinates of all states
_TEMPERATURES = 2.0 ** np.arange(-2, 3.5, 0.75)  # in units of the calibrated one
_VOTERS = 192  # states on which whole answers are really drawn
_REACH, _FINE = 6.0, 5.0  # table of votes: sinh(-6 ... 6)/5 temperatures
_SHARED = 0.15  # see `plan`
_LOOSE = 0.2  # largest bound on competitors with which best of N is predicted


@dataclass(frozen=True, eq=False)
class _States:
    """Draws of w* and of the unit direction of the error orthogonal to it; all arrays (S, ...)."""

    prompts: DecodingPrompts
    law: PriorNumbers
    prior: BinaryPrior
    high: np.ndarray
    coefficients: np.ndarray
    sideways: np.ndarray
    noise: np.ndarray

    @staticmethod
    def draw(problem: Problem, seed: Seed) -> _States:
        assert problem.prior is not None
        law, tree = prior_numbers(problem.prior, problem.d), seed_sequence(seed)
        size = int(np.clip(_BITS // law.d, 512, 4096))
        rng = np.random.default_rng(child_seed(tree, 0))
        w = draw_coefficients(problem.prior, rng, size, law.d)
        reduced = decoding_prompts(
            problem.n,
            law.d,
            size,
            label_noise_var=problem.label_noise_var,
            prior=lambda *_: w,
            reduced=True,
            seed=child_seed(tree, 1),
        )
        sideways, noise = (
            np.random.default_rng(child_seed(tree, k)).standard_normal(w.shape) for k in (2, 3)
        )
        square = np.maximum(np.square(w).sum(axis=1, keepdims=True), 1e-300)
        sideways -= (sideways * w).sum(axis=1, keepdims=True) / square * w
        length = np.linalg.norm(sideways, axis=1, keepdims=True)
        sideways /= np.where(length > 0, length, 1.0)
        return _States(reduced, law, problem.prior, w > law.centre, w, sideways, noise)

    def after(self, problem: Problem, step_size: float, lengths: np.ndarray) -> list[_Chain]:
        """The states without chain noise after these numbers of thoughts."""
        decoding = problem.decoding(step_size, int(lengths[-1]))
        law = chain_law(self.prompts, decoding, steps=lengths)
        error, turned = law.overfit + law.centre, self.prompts.coefficients
        square = np.maximum(np.square(turned).sum(axis=-1), 1e-300)
        along = (error * turned).sum(axis=-1) / square
        across = np.maximum(np.square(error).sum(axis=-1) - along**2 * square, 0.0)
        variance = np.square(law.spread).mean(axis=-1)
        return [
            self._chain(int(t), *parts)
            for t, *parts in zip(lengths, along, np.sqrt(across), variance, strict=True)
        ]

    def _chain(
        self, steps: int, along: np.ndarray, across: np.ndarray, variance: np.ndarray
    ) -> _Chain:
        states = (1 + along)[:, None] * self.coefficients + across[:, None] * self.sideways
        signal = np.square(self.coefficients).mean()
        spread = np.square(across).mean() / self.law.d + along.var() * signal + variance.mean()
        channel = DecodingChannel(
            self.prior, self.law.d, np.array(1 + along.mean()), np.array(math.sqrt(spread))
        )
        known = self.law.share in (0.0, 1.0)
        cut = float(channel.threshold("middle" if known else "best"))
        margins = np.where(self.high, states - cut, cut - states)
        unit = float(channel.calibrated_temperature)
        return _Chain(steps, margins, cut, unit, variance)


@dataclass(frozen=True, eq=False)
class _Chain:
    """Margins (S, d), positive where rounding is right; threshold; calibrated temperature; the variance
    of a chain's own noise in every coordinate, (S,)."""

    steps: int
    margins: np.ndarray
    threshold: float
    unit: float
    variance: np.ndarray


def evaluate_binary(problem: Problem, techniques: tuple[str, ...], seed: Seed) -> Tableau:
    """All settings of these techniques for a binary prior."""
    if problem.noise_std > 0 and not isinstance(problem.sampler, Probit):
        raise InvalidInput(
            f"sampler = {problem.sampler} with noise_std > 0; noisy chains are rounded, which is "
            f"icl.Probit: pass sampler=icl.Probit(0), or noise_std=0."
        )
    tableau = Tableau()
    competitors = _competitors(problem)
    chosen = _possible(problem, techniques, competitors, tableau)
    states = _States.draw(problem, seed)
    chains = {
        step: states.after(problem, step, lengths_within(problem, step)[0])
        for step in problem.step_sizes
    }
    lengths = np.array([chain.steps for group in chains.values() for chain in group])
    voting = _Voting(problem, sample_grid(problem.budget, np.unique(lengths), LARGEST_VOTE))
    with progress_bar(len(lengths), 0, None, "plan", unit=" lengths") as bar:
        for step, group in chains.items():
            for chain in group:
                _at_chain(problem, step, chain, states, voting, competitors, chosen, tableau)
                bar.update()
    if PLURALITY in chosen:
        _add_plurality(problem, chains, states, seed, tableau)
    return tableau


def _competitors(problem: Problem) -> float:
    """A bound on P(some other answer fits the prompt better than w*)."""
    if problem.label_noise_var == 0:
        return 0.0
    # Coordinates are sampled one by one: an answer need not have the number of ones of a sparse prior.
    prior = Bits() if isinstance(problem.prior, SparseBits) else problem.prior
    assert prior is not None
    return exhaustive_error(prior, problem.n, problem.d, problem.label_noise_var).union


def _possible(
    problem: Problem, techniques: tuple[str, ...], competitors: float, tableau: Tableau
) -> tuple[str, ...]:
    out = []
    for name in techniques:
        reason = ""
        if name in (AVERAGE, MAJORITY, PLURALITY, BEST, ORACLE) and problem.budget < 2:
            reason = "needs a budget of at least 2 thoughts"
        elif name == ORACLE and problem.verifier != "oracle":
            reason = 'needs verifier="oracle"'
        elif name in (BEST, ORACLE) and problem.criterion == "coordinate":
            reason = 'predicted for whole answers only (criterion="answer")'
        elif name == BEST and competitors > _LOOSE:
            reason = (
                f"with this label noise other answers may fit the prompt better: the bound "
                f"{min(competitors, 1.0):.2g} is too loose for a prediction"
            )
        elif name == AVERAGE and not isinstance(problem.sampler, Probit):
            reason = "states without Gaussian noise are all alike; pass sampler=icl.Probit(0.1)"
        if reason:
            tableau.left_out[name] = reason
        else:
            out.append(name)
    return tuple(out)


# -- predictions -----------------------------------------------------------------------------------


class _Voting:
    """P(a majority is wrong) over margin/temperature, tabulated for every number of samples."""

    points = 8192

    def __init__(self, problem: Problem, counts: np.ndarray) -> None:
        self.counts, self.criterion = counts, problem.criterion
        x = np.sinh(np.linspace(-_REACH, _REACH, self.points)) / _FINE
        law = BitLaw(problem.sampler_kind, np.ones(()))
        half = np.ceil(counts[:, None] / 2)  # a coin breaks the ties of even numbers
        wrong = special.betainc(half, half, law.chance(-x))
        self.table = wrong if self.criterion == "coordinate" else special.xlog1py(1.0, -wrong)

    def scores(self, scaled: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The criterion at margins in units of the temperature (S, d), (len(counts), S)."""
        place = (np.arcsinh(_FINE * scaled) + _REACH) * ((self.points - 1) / (2 * _REACH)) + 0.5
        place = np.clip(place, 0, self.points - 1).astype(np.intp)
        rows = self.table[np.searchsorted(self.counts, counts)]
        if self.criterion == "coordinate":
            return np.array([row.take(place).mean(axis=1) for row in rows])
        return -np.expm1([row.take(place).sum(axis=1) for row in rows])


def _at_chain(
    problem: Problem,
    step_size: float,
    chain: _Chain,
    states: _States,
    voting: _Voting,
    competitors: float,
    techniques: tuple[str, ...],
    tableau: Tableau,
) -> None:
    t, v = chain.steps, chain.margins
    rounded, sampled = _rounded(problem.criterion), _sampled(problem.criterion)
    own = np.sqrt(chain.variance)[:, None]
    # An error that no state shows may still have a chance of one in their number.
    seen = v.size if problem.criterion == "coordinate" else len(v)
    least = 0.5001 / (seen + 1)  # of all techniques, so that ties go to the cheapest

    def add(name: str, samples: Any, scores: np.ndarray, accuracy: Any, temperature: float) -> None:
        """Scores (..., S) at the numbers of samples (...)."""
        tableau.add(
            name,
            t,
            samples,
            step_size,
            np.maximum(scores.mean(axis=-1), least),
            np.maximum(scores.std(axis=-1, ddof=1) / math.sqrt(scores.shape[-1]), 1 / seen),
            accuracy,
            temperature=temperature,
            threshold=chain.threshold,
        )

    if GREEDY in techniques:
        add(GREEDY, 1, rounded(v + own * states.noise), 0.01, math.nan)
    counts = sample_grid(problem.budget, np.array([t]), LARGEST_VOTE)
    counts = counts[counts * t <= problem.budget]
    kind = problem.sampler_kind
    # Rounding noisy states is probit sampling: its temperature is joined by the chain's own noise.
    rough = 0.05 if problem.noise_std else 0.01
    for temperature in _temperatures(problem, chain):
        scale = np.hypot(temperature, own) if problem.noise_std else temperature
        law = BitLaw(kind, np.asarray(scale))
        if SAMPLE in techniques:
            add(SAMPLE, 1, sampled(law.chance(-v)), rough, temperature)
        if not counts.size:
            continue
        if AVERAGE in techniques:
            moved = scale * states.noise
            scores = np.array([rounded(v + moved / math.sqrt(many)) for many in counts])
            add(AVERAGE, counts, scores, 0.01, temperature)
        if MAJORITY in techniques:
            add(MAJORITY, counts, voting.scores(_over(v, scale), counts), rough, temperature)
        if BEST in techniques or ORACLE in techniques:
            right = np.exp(law.log_chance(v).sum(axis=1))
            missed = 1 - verified_success(right, counts[:, None], 0.0, 0.0)
            found = rough
            if problem.noise_std:
                # An upper estimate: noise and error share their directions, which helps some samples.
                logs = -np.log(np.clip(missed.mean(axis=1), 1e-12, 1.0))
                found = np.minimum(_SHARED * (1 + logs), 0.7)
            if ORACLE in techniques:
                add(ORACLE, counts, missed, found, temperature)
            if BEST in techniques:
                # Wrong if w* is not drawn, or perhaps if another answer fits better: the middle.
                doubt = competitors / 2 * (1 - missed.mean(axis=1))
                value = missed.mean(axis=1) + doubt
                share = doubt / np.where(value > 0, value, 1.0)
                add(BEST, counts, missed + doubt[:, None], found + share, temperature)


def _over(margins: np.ndarray, scale: Any) -> np.ndarray:
    """Margins in units of the temperature; far out where it is 0."""
    return np.asarray(margins / np.maximum(scale, 1e-12))


def _temperatures(problem: Problem, chain: _Chain) -> tuple[float, ...]:
    if problem.temperatures is not None:
        return problem.temperatures
    chosen = tuple(float(x) for x in chain.unit * _TEMPERATURES)
    return (0.0, *chosen) if problem.noise_std else chosen


def _rounded(criterion: str) -> Callable[[np.ndarray], np.ndarray]:
    """From margins (S, d) of rounded states to the criterion (S,).

    With half an error and half a success more, so that what no state shows is not impossible.
    """

    def counted(margins: np.ndarray) -> np.ndarray:
        wrong = margins < 0
        share = wrong.mean(axis=1) if criterion == "coordinate" else wrong.any(axis=1)
        seen = wrong.size if criterion == "coordinate" else len(wrong)
        return np.asarray((share * seen + 0.5) / (seen + 1))

    return counted


def _sampled(criterion: str) -> Callable[[np.ndarray], np.ndarray]:
    """From P(coordinate wrong) (S, d), independent given the state, to the criterion (S,)."""
    if criterion == "coordinate":
        return lambda wrong: wrong.mean(axis=1)

    def some_wrong(wrong: np.ndarray) -> np.ndarray:
        right = np.asarray(special.xlog1py(1.0, -np.minimum(wrong, 1.0)))
        return np.asarray(-np.expm1(right.sum(axis=1)))

    return some_wrong


def _add_plurality(
    problem: Problem,
    chains: dict[float, list[_Chain]],
    states: _States,
    seed: Seed,
    tableau: Tableau,
) -> None:
    """Whole answers are drawn, at the chains that are best for rounding at every number of samples."""
    rounded, kind = _rounded(problem.criterion), problem.sampler_kind
    rng = np.random.default_rng(child_seed(seed_sequence(seed), 4))
    voters = np.linspace(0, len(states.high) - 1, _VOTERS).astype(int)
    for many, chain, step in _voting_chains(problem, chains, rounded):
        own = np.sqrt(chain.variance[voters])[:, None] if problem.noise_std else 0.0
        for temperature in _temperatures(problem, chain)[1:4]:
            law = BitLaw(kind, np.asarray(np.hypot(temperature, own)))
            right = law.chance(chain.margins[voters])
            answers = plurality_vote(sample_bits(right, int(many), rng), rng)
            # Rounding of the same states is the control variate; its average is over all states.
            beside = rounded(chain.margins)
            gain = rounded(np.where(answers, 1.0, -1.0)) - beside[voters]
            parts = gain.std(ddof=1) / math.sqrt(len(gain)), beside.std() / math.sqrt(len(beside))
            seen = chain.margins.size if problem.criterion == "coordinate" else len(beside)
            tableau.add(
                PLURALITY,
                chain.steps,
                many,
                step,
                max(gain.mean() + beside.mean(), 0.5001 / (seen + 1)),
                max(math.hypot(*parts), 1 / seen),
                0.25 if problem.noise_std else 0.05,
                temperature=temperature,
                threshold=chain.threshold,
            )


def _voting_chains(
    problem: Problem,
    chains: dict[float, list[_Chain]],
    rounded: Callable[[np.ndarray], np.ndarray],
) -> Iterator[tuple[int, _Chain, float]]:
    """Numbers of samples, with the chain that is best for rounding within all and 1/4 of the budget."""
    every = [
        (float(rounded(chain.margins).mean()), step, chain)
        for step, group in chains.items()
        for chain in group
    ]
    for many in 2 ** np.arange(2, 11):
        seen: set[int] = set()
        for budget in (problem.budget, problem.budget // 4):
            affordable = [x for x in every if x[2].steps * many <= budget]
            if affordable:
                _, step, chain = min(affordable, key=lambda x: x[0])
                if id(chain) not in seen:
                    seen.add(id(chain))
                    yield int(many), chain, step
