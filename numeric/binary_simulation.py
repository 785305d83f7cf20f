"""Binary decoding on real prompts: states of real chains, and what every technique makes of them.

The chain runs on sampled prompts; what is drawn after it (bits, votes) is averaged exactly given the
state, which has the same mean and less variance, or really drawn where a verifier looks at it. One
prompt is one independent unit. Source: derived here. Exported: `simulate_binary_decoding`,
`BinarySimulation`, `simulate_prompt_selection`, `PromptSelection`, `simulate_exhaustive_search`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

import numpy as np
from scipy import special

from icltheory.binary_priors import BinaryPrior, BinarySampler, Round
from icltheory.chains import NoisyDecoding
from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import integer, nonnegative, number, positive_integers
from numeric.binary_decoding import decoding_channel, start_value
from numeric.binary_samplers import BitLaw, PriorNumbers, bit_law, prior_numbers
from numeric.chain_laws import DecodingNumbers, decoding_numbers, diverged, require_walkable
from numeric.chain_prompts import PromptAverage, prompt_blocks
from numeric.decoding_display import Tabled, brief
from numeric.montecarlo import Seed
from numeric.progress import progress_bar

_LARGEST_ENUMERATION = 2**16
_LARGEST_SEARCH = 10**9
_BLOCK = 2**21  # numbers of candidates held at a time


@dataclass(frozen=True, eq=False, repr=False)
class BinarySimulation(Tabled):
    """Averages over prompts, all on the same prompts; differences are paired.

    low_mean, high_mean, low_square, high_square: of u_j and u_j^2 where w*_j is low, high.
    greedy_bit, greedy_vector: share of wrong coordinates, some coordinate wrong, after rounding.
    vote_bit, vote_vector: of the majority of N sampled answers; average_bit, average_vector: of the
    mean of N states with noise N(0, T^2) (tempered samplers only); pass_at_n: w* is among N answers.
    The last five have the axes of temperature and then of samples.
    """

    low_mean: PromptAverage
    high_mean: PromptAverage
    low_square: PromptAverage
    high_square: PromptAverage
    greedy_bit: PromptAverage
    greedy_vector: PromptAverage
    vote_bit: PromptAverage
    vote_vector: PromptAverage
    average_bit: PromptAverage
    average_vector: PromptAverage
    pass_at_n: PromptAverage

    def _table(self) -> tuple[list[str], list[list[str]]]:
        return ["quantity", "average"], [
            [f.name, brief(getattr(self, f.name))] for f in fields(self)
        ]


def simulate_binary_decoding(
    decoding: NoisyDecoding,
    prior: BinaryPrior,
    n: int,
    d: int,
    *,
    sampler: BinarySampler | None = None,
    samples: Any = 1,
    temperature: Any = None,
    threshold: Any = "middle",
    start: str = "zero",
    limit: bool = False,
    prompts: int = 1000,
    seed: Seed = 0,
) -> BinarySimulation:
    """Chains on `prompts` sampled prompts, decoded greedily, by samples, votes and verified samples.

    Parameters
    ----------
    decoding: `icl.NoisyDecoding` with numbers; the state is the mean of its `samples` chains.
    sampler, temperature: how answers are drawn; `None` rounds. temperature: a number or an array.
    samples: numbers N of answers drawn from one state, a number or an array.
    threshold: a number, or "middle"/"best" of `decoding_channel` (with `limit` for long chains).
    start: "zero" or "mean", as for `decoding_channel`.

    Votes and pass@N are exact given the state. Memory is bounded. Ctrl-C as in `simulate_chains`.
    Errors: `InvalidInput`.

    >>> import icltheory as icl
    >>> run = simulate_binary_decoding(icl.NoisyDecoding(0.5, 0, 2), icl.Signs(), 24, 12, seed=1)
    >>> float(run.greedy_bit.value.round(3)), float(run.greedy_bit.standard_error.round(3))
    (0.022, 0.001)
    """
    law = prior_numbers(prior, d)
    bits = bit_law(Round() if sampler is None else sampler, law.gap, temperature)
    votes = positive_integers(samples, "samples")
    cut = _threshold(decoding, prior, n, d, bits, threshold, start, limit)
    blocks: list[list[np.ndarray]] = []

    def simulated() -> BinarySimulation:
        parts = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return BinarySimulation(*map(PromptAverage, parts))

    def finished() -> BinarySimulation | None:
        return simulated() if blocks else None

    total = integer(prompts, "prompts", 2)
    states = chain_states(decoding, prior, n, d, start, total, seed)
    with progress_bar(total, 0, None, "decoding", partial=finished, unit=" prompts") as bar:
        for _, w, _, u, _ in states:
            high = w > law.centre
            margin = np.where(high, u - cut, cut - u)
            blocks.append([*_class_moments(u, high, law.share), *_decoded(margin, bits, votes)])
            bar.update(len(u))
    return simulated()


def _threshold(
    decoding: NoisyDecoding,
    prior: BinaryPrior,
    n: int,
    d: int,
    bits: BitLaw,
    threshold: Any,
    start: str,
    limit: bool,
) -> float:
    """Where states are cut; the channel is asked only if its moments matter."""
    law, threshold = prior_numbers(prior, d), "middle" if threshold is None else threshold
    symmetric = start_value(law, start) == law.centre and law.share == 0.5
    named = isinstance(threshold, str) and threshold in ("middle", "best")
    if bits.kind == "clip" or (symmetric and named):
        return law.centre
    if not isinstance(threshold, str):
        return number(threshold, "threshold")
    channel = decoding_channel(decoding, prior, n, d, start=start, limit=limit)
    return number(channel.threshold(threshold), "threshold")


def chain_states(
    decoding: NoisyDecoding,
    prior: BinaryPrior,
    n: int,
    d: int,
    start: str,
    prompts: int,
    seed: Seed,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.random.Generator]]:
    """Blocks of features (b, n, d), w* (b, d), labels (b, n), states u (b, d), and a generator."""
    numbers, law = decoding_numbers(decoding), prior_numbers(prior, d)
    length, size = integer(n, "n"), integer(prompts, "prompts", 2)
    origin = start_value(law, start)
    blocks = prompt_blocks(length, law.d, size, numbers.label_noise_var, None, prior, seed)
    for X, w, eps, rng in blocks:
        y = np.einsum("bnd,bd->bn", X, w) + eps
        yield X, w, y, _mean_chain(X, y, numbers, origin, rng), rng


def _mean_chain(
    X: np.ndarray, y: np.ndarray, numbers: DecodingNumbers, origin: float, rng: np.random.Generator
) -> np.ndarray:
    """The mean of the chains: it obeys the recursion with noise of variance sigma^2/samples."""
    n, d = X.shape[1:]
    transposed = np.swapaxes(X, 1, 2)
    S = transposed @ X / n
    b = transposed @ y[:, :, None] / n
    state = np.full((len(X), d, 1), origin)
    std = numbers.output_std / math.sqrt(numbers.samples)
    require_walkable(numbers.steps)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(numbers.steps):
            state = state - numbers.step_size * (S @ state - b)
            last = numbers.output_only and step == numbers.steps - 1
            factor = std * (1.0 if last else numbers.factor(step))
            if factor:
                state = state + factor * rng.standard_normal(state.shape)
    if not np.all(np.isfinite(state)):
        raise diverged(numbers.steps, numbers.step_size)
    return state[:, :, 0]


def _class_moments(u: np.ndarray, high: np.ndarray, share: float) -> list[np.ndarray]:
    """Means of u and u^2 over low and high coordinates, weighted so that each prompt is unbiased."""
    out = []
    for power in (1, 2):
        for inside, weight in ((~high, 1 - share), (high, share)):
            total = np.where(inside, u**power, 0.0).mean(axis=1)
            out.append(total / weight if weight else total)
    return out


def _decoded(margin: np.ndarray, bits: BitLaw, votes: np.ndarray) -> list[np.ndarray]:
    """Of margins (b, d): greedy errors (b,), then vote, average and pass (b, *temperature, *samples)."""
    wrong = np.heaviside(-margin, 0.5)
    out = [wrong.mean(axis=1), 1 - np.prod(1 - wrong, axis=1)]
    shape = (*bits.temperature.shape, *votes.shape)
    parts = [np.empty((len(margin), *shape)) for _ in range(5)]
    for i in np.ndindex(bits.temperature.shape):
        one = BitLaw(bits.kind, bits.temperature[i], bits.gap)
        right, log_right = one.chance(-margin), one.log_chance(margin).sum(axis=1)
        tempered = bits.kind in ("logit", "probit") and bits.temperature[i] > 0
        for j in np.ndindex(votes.shape):
            half = math.ceil(votes[j] / 2)
            vote = special.betainc(half, half, right)
            mean = wrong
            if tempered:
                mean = special.ndtr(-margin * math.sqrt(votes[j]) / bits.temperature[i])
            for k, error in ((0, vote), (2, mean)):
                parts[k][(slice(None), *i, *j)] = error.mean(axis=1)
                parts[k + 1][(slice(None), *i, *j)] = -np.expm1(_log_right(error))
            with np.errstate(divide="ignore"):
                log_failure = np.maximum(np.log1p(-np.exp(log_right)), -1e300)
            parts[4][(slice(None), *i, *j)] = -np.expm1(votes[j] * log_failure)
    return out + parts


def _log_right(error: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log1p(-error).sum(axis=1)


# -- selection by prompt loss -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class PromptSelection(Tabled):
    """The sampled answer of least prompt loss, at every N: share of wrong bits, some bit wrong, and
    whether w* was among the samples at all."""

    bit: PromptAverage
    vector: PromptAverage
    found: PromptAverage

    def _table(self) -> tuple[list[str], list[list[str]]]:
        return ["quantity", "average"], [
            [f.name, brief(getattr(self, f.name))] for f in fields(self)
        ]


def simulate_prompt_selection(
    decoding: NoisyDecoding,
    prior: BinaryPrior,
    n: int,
    d: int,
    sampler: BinarySampler,
    samples: Any,
    *,
    verifier_noise: float = 0.0,
    threshold: Any = "middle",
    start: str = "zero",
    limit: bool = False,
    prompts: int = 1000,
    seed: Seed = 0,
) -> PromptSelection:
    """Draw answers and keep the one of least prompt loss |y - X w|^2/n, really: with any label noise.

    samples: increasing numbers N; the first N of the same answers serve each. verifier_noise: standard
    deviation of noise added to every loss. Other arguments as for `simulate_binary_decoding`.
    Memory is bounded. Ctrl-C as in `simulate_chains`. Errors: `InvalidInput`.

    >>> import icltheory as icl
    >>> run = simulate_prompt_selection(
    ...     icl.NoisyDecoding(0.5, 0, 2), icl.Signs(), 6, 6, icl.Logit(0.3), [1, 64], prompts=200
    ... )
    >>> run.vector.values.shape, bool(np.all(run.vector.value + run.found.value == 1))
    ((200, 2), True)
    """
    law, noise = prior_numbers(prior, d), nonnegative(verifier_noise, "verifier_noise")
    counts = np.atleast_1d(positive_integers(samples, "samples"))
    if counts.ndim != 1 or np.any(np.diff(counts) <= 0) or counts[-1] > _LARGEST_SEARCH:
        raise InvalidInput(
            f"samples = {samples!r}; pass increasing numbers of answers up to {_LARGEST_SEARCH:.0e}."
        )
    counts = counts.astype(int)
    bits = bit_law(sampler, law.gap)
    cut = _threshold(decoding, prior, n, d, bits, threshold, start, limit)
    out: list[tuple[np.ndarray, ...]] = []

    def simulated() -> PromptSelection:
        return PromptSelection(*(PromptAverage(np.stack(x)) for x in zip(*out, strict=True)))

    def finished() -> PromptSelection | None:
        return simulated() if len(out) > 1 else None

    total = integer(prompts, "prompts", 2)
    states = chain_states(decoding, prior, n, d, start, total, seed)
    with progress_bar(total, 0, None, "selection", partial=finished, unit=" prompts") as bar:
        for X, w, y, u, rng in states:
            chance = bits.chance(u - cut)
            for row in range(len(X)):
                out.append(_select(X[row], y[row], w[row], chance[row], counts, noise, law, rng))
                bar.update()
    return simulated()


def _select(
    X: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    chance: np.ndarray,
    counts: np.ndarray,
    noise: float,
    law: PriorNumbers,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Wrong share, some wrong, found, at every count, of one prompt."""
    best, wrong, found = math.inf, 1.0, 0.0
    table = np.empty((3, len(counts)))
    done, size = 0, max(1, _BLOCK // sum(X.shape))
    for k, count in enumerate(counts):
        while done < count:
            block = min(size, count - done)
            drawn = law.low + law.gap * (rng.random((block, len(w))) < chance)
            loss = np.square(drawn @ X.T - y).mean(axis=1)
            if noise:
                loss += noise * rng.standard_normal(block)
            errors = np.count_nonzero(drawn != w, axis=1)
            i = int(loss.argmin())
            if loss[i] < best:
                best, wrong = float(loss[i]), errors[i] / len(w)
            found = max(found, float(errors.min() == 0))
            done += block
        table[:, k] = wrong, wrong > 0, found
    return table[0], table[1], table[2]


# -- exhaustive search ------------------------------------------------------------------------------


def simulate_exhaustive_search(
    prior: BinaryPrior,
    n: int,
    d: int,
    label_noise_var: float,
    *,
    prompts: int = 1000,
    seed: Seed = 0,
) -> PromptAverage:
    """P(the vector of least prompt loss is not w*), over all vectors of the prior: at most 2^16.

    >>> import icltheory as icl
    >>> run = simulate_exhaustive_search(icl.Signs(), 3, 6, 0.0, prompts=100)
    >>> float(run.value)  # without label noise nothing else fits
    0.0
    """
    law, noise = prior_numbers(prior, d), nonnegative(label_noise_var, "label_noise_var")
    answers = law.low + law.gap * _all_answers(law)
    length, size, wrong = integer(n, "n"), integer(prompts, "prompts", 2), []

    def finished() -> PromptAverage | None:
        return PromptAverage(np.array(wrong)) if len(wrong) > 1 else None

    blocks = prompt_blocks(length, law.d, size, noise, None, prior, seed)
    with progress_bar(size, 0, None, "search", partial=finished, unit=" prompts") as bar:
        for X, w, eps, _ in blocks:
            for row in range(len(X)):
                loss = np.square((answers - w[row]) @ X[row].T - eps[row]).sum(axis=1)
                wrong.append(float(np.any(answers[loss.argmin()] != w[row])))
                bar.update()
    return PromptAverage(np.array(wrong))


def _all_answers(law: PriorNumbers) -> np.ndarray:
    """Booleans (K, d): the vectors of the prior."""
    others = law.d if law.ones is None else min(law.ones, law.d - law.ones)
    size = math.inf  # no binomials of astronomical numbers
    if law.d <= _LARGEST_ENUMERATION and others <= 16:
        size = 2**law.d if law.ones is None else math.comb(law.d, law.ones)
    if size > _LARGEST_ENUMERATION:
        raise OutOfDomain(
            f"the answers of {law.d} bits are too many to enumerate; at most {_LARGEST_ENUMERATION}."
        )
    if law.ones is None:
        return np.arange(int(size))[:, None] >> np.arange(law.d) & 1 == 1
    out = np.zeros((int(size), law.d), dtype=bool)
    for row, ones in enumerate(combinations(range(law.d), law.ones)):
        out[row, list(ones)] = True
    return out
