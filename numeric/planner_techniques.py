"""What every decoding technique is predicted to reach on a budget of thoughts, continuous coefficients.

The settings of a technique are all combinations of a step size, a number of thoughts t, a number of
samples N and, where it has one, a temperature, with N t within the budget. Risks are per coordinate with
E w*w*' = I: one chain and the mean are exact, the rest is averaged over a few prompts drawn from their
exact law, with the two exact risks as control variates. Source: derived here, after Chen, Lu, Wu, Zou
(arXiv 2508.07571). Exported: `Problem`, `Choice`, `Settings`, `Tableau`; used by `numeric.plan`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from icltheory.binary_priors import BinaryPrior, BinarySampler, Probit
from icltheory.chains import NoisyDecoding
from icltheory.contraction import LARGEST_EXACT
from numeric.best_of_n import best_of_n_error
from numeric.chain_laws import ChainLaw, chain_law
from numeric.chain_length import combine
from numeric.chain_prompts import DecodingPrompts, PromptAverage, decoding_prompts
from numeric.contraction import contraction_moments
from numeric.decoding_display import Shown
from numeric.montecarlo import Seed
from numeric.progress import progress_bar
from numeric.softmax_mean import softmax_mean_error
from numeric.stepwise import shared_stepwise

ONE, MEAN, SOFT, STEPWISE = "one chain", "mean of N", "soft best of N", "stepwise best of M"
BEST, ORACLE = "best of N, prompt loss", "best of N, oracle"
CONTINUOUS = (ONE, MEAN, BEST, SOFT, STEPWISE, ORACLE)

LONGEST = LARGEST_EXACT // 4  # the variance over prompts needs moments of four times the power
LARGEST_POOL = 2**14  # samples of a selection; the predictions are checked up to here
_RARE = 5.0  # largest relative variance of the bias over prompts
_LENGTHS = 14  # numbers of thoughts that are looked at
_FACTORS = 2.0 ** np.arange(-2, 5)  # inverse temperatures, in units of 1/sd of the loss
_LEAST_EFFECTIVE = 8.0  # samples behind a softmax mean


@dataclass(frozen=True)
class Problem:
    """What is to be planned; `step_sizes` and `temperatures` (`None`: chosen) are what may be taken."""

    n: int
    d: int
    budget: int
    noise_std: float
    label_noise_var: float
    prior: BinaryPrior | None
    step_sizes: tuple[float, ...]
    verifier: str
    criterion: str
    sampler: BinarySampler | None = None
    temperatures: tuple[float, ...] | None = None

    @property
    def sampler_kind(self) -> str:
        """Of the binary sampler, for `numeric.binary_samplers.BitLaw`."""
        return "probit" if isinstance(self.sampler, Probit) else "logit"

    def decoding(
        self, step_size: float, steps: int, noise_std: float | None = None
    ) -> NoisyDecoding:
        """The chains of a setting."""
        noise = self.noise_std if noise_std is None else noise_std
        return NoisyDecoding(step_size, noise, steps, label_noise_var=self.label_noise_var)


@dataclass(frozen=True, repr=False)
class Choice(Shown):
    """A technique at one setting, with its predicted risk or error probability.

    samples: N, the candidates of a step for stepwise selection. temperature, threshold: NaN where there
    is none. standard_error: of the average over prompts. accuracy: of the technique's formula, absolute.
    """

    technique: str
    steps: int
    samples: int
    temperature: float
    step_size: float
    value: float
    standard_error: float
    accuracy: float
    threshold: float = math.nan

    @property
    def error(self) -> float:
        """The stated error of `value`: standard error plus accuracy."""
        return self.standard_error + self.accuracy

    @property
    def compute(self) -> int:
        """Thoughts in all, N t."""
        return self.steps * self.samples


@dataclass(frozen=True, eq=False)
class Settings:
    """All settings of a technique that were looked at, arrays (K,) named as the fields of `Choice`."""

    technique: str
    steps: np.ndarray
    samples: np.ndarray
    temperature: np.ndarray
    step_size: np.ndarray
    value: np.ndarray
    standard_error: np.ndarray
    accuracy: np.ndarray
    threshold: np.ndarray

    def __len__(self) -> int:
        return len(self.value)

    def best(self, budget: float = math.inf) -> Choice | None:
        """The setting with the smallest value within a budget; `None` if there is none.

        Among equals the cheapest.
        """
        compute = self.steps * self.samples
        inside = np.flatnonzero(compute <= budget)
        if not inside.size:
            return None
        i = inside[np.lexsort((compute[inside], self.value[inside]))[0]]
        return Choice(
            self.technique,
            int(self.steps[i]),
            int(self.samples[i]),
            *(
                float(x[i])
                for x in (
                    self.temperature,
                    self.step_size,
                    self.value,
                    self.standard_error,
                    self.accuracy,
                    self.threshold,
                )
            ),
        )


@dataclass
class Tableau:
    """Settings by technique, as they are found, and why a technique was left out."""

    parts: dict[str, list[list[np.ndarray]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        technique: str,
        steps: Any,
        samples: Any,
        step_size: float,
        value: Any,
        standard_error: Any,
        accuracy: Any,
        *,
        temperature: Any = math.nan,
        threshold: Any = math.nan,
        where: Any = True,
    ) -> None:
        """Arrays that broadcast, `where` a setting is admitted; `accuracy` is relative."""
        columns = np.broadcast_arrays(
            steps,
            samples,
            temperature,
            step_size,
            value,
            standard_error,
            accuracy,
            threshold,
            where,
        )
        inside = columns[-1]
        kept = [x[inside].astype(float) for x in columns[:-1]]
        kept[6] = kept[6] * np.abs(kept[4])
        self.parts.setdefault(technique, []).append(kept)

    def settings(self, technique: str) -> Settings:
        columns = [np.concatenate(x) for x in zip(*self.parts[technique], strict=True)]
        return Settings(technique, *columns)


# -- the settings ----------------------------------------------------------------------------------


def lengths_within(problem: Problem, step_size: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of thoughts to look at, and beta_0, beta_1, ... up to twice the longest.

    Chains end where rare prompts with a large eigenvalue begin to carry the spread of the bias over
    prompts, so that averages over a few hundred prompts say little: beta_{4t} > 5 d beta_{2t}^2.
    """
    longest = min(problem.budget, LONGEST)
    beta = contraction_moments(np.arange(4 * longest + 1), problem.n, problem.d, step_size)
    t = np.arange(1, longest + 1)
    rare = beta[4 * t] > _RARE * problem.d * beta[2 * t] ** 2
    last = int(t[rare][0]) - 1 if rare.any() else longest
    chosen = spread_integers(max(last, 1), _LENGTHS)
    return chosen, beta[: 2 * max(last, 1) + 1]


def spread_integers(last: int, count: int) -> np.ndarray:
    """1, 2, 3, ... and then in growing steps up to `last`, about `count` of them."""
    return np.unique(np.geomspace(1, last, 3 * count // 2).round().astype(int))


def sample_grid(budget: int, lengths: np.ndarray, largest: int) -> np.ndarray:
    """2, 3, 4, 6, 8, 12, ... and what the budget allows at each length, from 2 to `largest`."""
    powers = 2 ** np.arange(1, int(math.log2(max(budget, 2))) + 1)
    counts = np.unique(np.concatenate([powers, 3 * powers // 2, budget // lengths]))
    return counts[(counts >= 2) & (counts <= min(largest, budget))]


def evaluate_continuous(problem: Problem, techniques: tuple[str, ...], seed: Seed) -> Tableau:
    """All settings of these techniques for coefficients N(0, I)."""
    tableau = Tableau()
    chosen = _possible(problem, techniques, tableau)
    size = int(np.clip(1280 // problem.d, 24, 160))
    prompts = decoding_prompts(
        problem.n,
        problem.d,
        size,
        label_noise_var=problem.label_noise_var,
        reduced=True,
        seed=seed,
    )
    counts = _candidates(problem) if STEPWISE in chosen else []
    total = len(problem.step_sizes) + len(counts)
    with progress_bar(total, 0, None, "plan", unit=" parts") as bar:
        found = []
        for step_size in problem.step_sizes:
            found.append((step_size, *_at_step(problem, step_size, prompts, chosen, tableau)))
            bar.update()
        rows = {}
        for many in counts:
            rows[many] = _stepwise(problem, many, prompts, found, seed)
            bar.update()
        for place, (step_size, _, _) in enumerate(found):
            for many in counts:
                t, value, error = rows[many][place]
                tableau.add(STEPWISE, t, many, step_size, value, error, 0.02)
    return tableau


def _possible(problem: Problem, techniques: tuple[str, ...], tableau: Tableau) -> tuple[str, ...]:
    out = []
    for name in techniques:
        if name == ORACLE and problem.verifier != "oracle":
            tableau.left_out[name] = 'needs verifier="oracle"'
        elif name != ONE and problem.noise_std == 0:
            tableau.left_out[name] = "chains without noise are all alike"
        elif name == SOFT and problem.budget < _LEAST_EFFECTIVE:
            tableau.left_out[name] = f"needs at least {_LEAST_EFFECTIVE:g} samples"
        elif name != ONE and problem.budget < 2:
            tableau.left_out[name] = "needs a budget of at least 2 thoughts"
        else:
            out.append(name)
    return tuple(out)


# -- predictions -----------------------------------------------------------------------------------


def _at_step(
    problem: Problem,
    step_size: float,
    prompts: DecodingPrompts,
    techniques: tuple[str, ...],
    tableau: Tableau,
) -> tuple[np.ndarray, _Controls | None]:
    """All settings of a step size but stepwise ones; its lengths, and the controls for these."""
    t, beta = lengths_within(problem, step_size)
    label = problem.label_noise_var / problem.n
    exact = combine(beta, int(t[-1]), step_size, problem.noise_std**2, label, "steps")
    fixed, sampling = exact.fixed[t], exact.sampling[t]
    if ONE in techniques:
        tableau.add(ONE, t, 1, step_size, fixed + sampling, 0.0, 0.0)
    counts = sample_grid(problem.budget, t, problem.budget)
    long, many = t[:, None], counts[None]
    if MEAN in techniques:
        value = fixed[:, None] + sampling[:, None] / many
        tableau.add(MEAN, long, many, step_size, value, 0.0, 0.0, where=_fits(problem, long, many))
    if not set(techniques) - {ONE, MEAN}:
        return t, None
    decoding = problem.decoding(step_size, int(t[-1]))
    law = chain_law(prompts, decoding, steps=t)
    controls = _Controls(law, fixed, sampling)
    many = sample_grid(problem.budget, t, LARGEST_POOL)[None]
    where = _fits(problem, long, many)
    for name, verifier in ((BEST, "prompt_loss"), (ORACLE, "oracle")):
        if name in techniques:
            errors = best_of_n_error(law, many[0], verifier=verifier)
            value, error = controls.average(errors)
            accuracy = _selection_accuracy(problem.d, many)
            tableau.add(name, long, many, step_size, value, error, accuracy, where=where)
    if SOFT in techniques:
        for factor in _FACTORS:
            theta = factor / _loss_std(law)
            soft = softmax_mean_error(law, many[0], theta[:, None])
            effective = soft.effective_samples.min(axis=1)
            admitted = effective >= _LEAST_EFFECTIVE  # elsewhere the error may overflow
            value, error = controls.average(np.where(admitted[:, None], soft.error, 0.0))
            tableau.add(
                SOFT,
                long,
                many,
                step_size,
                value,
                error,
                np.where(effective >= 30, 0.02, 0.06),
                temperature=1 / theta[:, None],
                where=where & admitted,
            )
    return t, controls


def _fits(problem: Problem, steps: np.ndarray, samples: np.ndarray) -> np.ndarray:
    return steps * samples <= problem.budget


def _selection_accuracy(d: int, samples: np.ndarray) -> np.ndarray:
    """Of the saddlepoint: about 3 % from d = 10 on, more in lower dimension and for many samples."""
    return 0.03 * max(1.0, (10 / d) ** 1.5) * np.where(samples <= 2**10, 1.0, 2.0)


def _candidates(problem: Problem) -> list[int]:
    """Numbers M of candidates of stepwise selection."""
    return [2**k for k in range(1, int(math.log2(min(problem.budget, LARGEST_POOL))) + 1)]


def _stepwise(
    problem: Problem,
    many: int,
    prompts: DecodingPrompts,
    found: list[tuple[float, np.ndarray, _Controls | None]],
    seed: Seed,
) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Lengths, values and standard errors of stepwise best of M, by the place of the step size.

    Its Gaussian form (`numeric.stepwise_risk`) is 40 % high at d = 10 and M = 32: chains are run, those
    of step sizes with one longest chain on one noise.
    """
    chains = int(np.clip(2048 // problem.budget, 1, 8))
    within = [lengths[lengths * many <= problem.budget] for _, lengths, _ in found]
    out = {}
    for last in {int(t[-1]) for t in within}:
        places = [i for i, t in enumerate(within) if t[-1] == last]
        decodings = [problem.decoding(found[i][0], last) for i in places]
        risks = shared_stepwise(prompts, decodings, many, chains=chains, seed=seed)
        for i, risk in zip(places, risks, strict=True):
            t, controls = within[i], found[i][2]
            assert controls is not None
            out[i] = (t, *controls.average(risk.T[t] * problem.d))
    return out


def _loss_std(law: ChainLaw) -> np.ndarray:
    """Standard deviation of sum mu (c + s z)^2 at every length, from its mean over prompts, (L,)."""
    v = np.square(law.spread)
    square = np.square(law.eigenvalues) * (2 * np.square(v) + 4 * np.square(law.centre) * v)
    return np.sqrt(square.sum(axis=-1).mean(axis=-1))


class _Controls:
    """Averages over prompts at every length, with the exact bias and noise as control variates."""

    def __init__(self, law: ChainLaw, fixed: np.ndarray, sampling: np.ndarray) -> None:
        self.d = law.d
        bias = np.square(law.centre + law.overfit).mean(axis=-1)
        noise = np.square(law.spread).mean(axis=-1)
        self.known = np.stack([bias - fixed[:, None], noise - sampling[:, None]], axis=-1)

    def average(self, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of total errors (L, K, ...) at the first L lengths: the mean per coordinate and its standard error, (L, ...)."""
        value, error = [], []
        for known, part in zip(self.known, errors / self.d, strict=False):
            centred = known - known.mean(axis=0)
            flat = part.reshape(len(part), -1)
            slope = np.linalg.lstsq(centred, flat - flat.mean(axis=0), rcond=1e-8)[0]
            result = PromptAverage(flat - known @ slope)
            value.append(result.value.reshape(part.shape[1:]))
            error.append(result.standard_error.reshape(part.shape[1:]))
        return np.array(value), np.array(error)
