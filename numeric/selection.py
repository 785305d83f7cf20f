"""Best-of-N on real prompts by simulation: every N from one pool of chains, without bias.

On each prompt a pool of K chains is drawn in the eigenbasis. The expected error of the best of N of
them, over all subsets of N, is a weighted sum over the pool ranked by the verifier; so one pool serves
all N <= K, and the verifiers and the mean are compared on common chains. Risks are per coordinate with
E w*w*' = I. Source: derived here. Exported: `simulate_selection`, `SelectionSimulation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.chains import NoisyDecoding
from icltheory.errors import InvalidInput
from numeric.arrays import integer, nonnegative, positive_integers, require_memory
from numeric.chain_laws import VERIFIERS, ChainLaw, cache_batches, chain_law
from numeric.chain_prompts import DecodingPrompts, PromptAverage
from numeric.decoding_display import Tabled, brief, merged_rows
from numeric.montecarlo import Seed, seed_sequence
from numeric.progress import progress_bar

RULES = ("mean", *VERIFIERS)


@dataclass(frozen=True, eq=False, repr=False)
class SelectionSimulation(Tabled):
    """Simulated risks per coordinate at the numbers of samples `samples`, (M,).

    errors: for every rule |w - w*|^2/d on every prompt, (P, M). `a.risk(x) - b.risk(y)` is a paired
    difference: rules share their chains, and simulations of one seed their prompts.
    """

    samples: np.ndarray
    pool: int
    errors: dict[str, np.ndarray]

    def __repr__(self) -> str:
        risks = brief({rule: self.risk(rule) for rule in self.errors})
        return f"SelectionSimulation(samples={brief(self.samples)}, pool={self.pool}, risk={risks})"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        columns = {rule: self.risk(rule) for rule in self.errors}
        return merged_rows(("samples", [str(x) for x in self.samples]), columns)

    def risk(self, rule: str) -> PromptAverage:
        """The risk of a rule that was simulated, such as "mean"; averages of shape (M,)."""
        if rule not in self.errors:
            raise InvalidInput(f"rule = {rule!r} was not simulated; there are {list(self.errors)}.")
        return PromptAverage(self.errors[rule])


def simulate_selection(
    prompts: DecodingPrompts,
    decoding: NoisyDecoding,
    samples: Any,
    *,
    rules: tuple[str, ...] = RULES,
    pool: int | None = None,
    verifier_noise: float = 0.0,
    seed: Seed = 0,
) -> SelectionSimulation:
    """Simulate the mean and the best of N chains on every prompt.

    Parameters
    ----------
    prompts: at least 2, from `numeric.decoding_prompts`, with the label noise of the decoding.
    samples: numbers N >= 1, an integer or a sequence.
    rules: "mean" averages; a verifier, "prompt_loss" or "oracle" (the true error), keeps the best.
    pool: chains a prompt, at least max(samples); `None` is max(samples). More make the numbers at
        small N more precise.
    verifier_noise: standard deviation of a normal error that is added to |y - X w|^2/n, or to
        |w - w*|^2, at every look.

    Memory is bounded by one prompt's pool. Ctrl-C as in `simulate_chains`. Errors: `InvalidInput`, `OutOfDomain`.

    >>> import icltheory as icl
    >>> from numeric import decoding_prompts
    >>> data, chain = decoding_prompts(20, 10, 500, seed=1), icl.NoisyDecoding(0.5, 0.5, 3)
    >>> result = simulate_selection(data, chain, [1, 64])
    >>> [result.risk(rule).value.round(1).tolist() for rule in ("mean", "prompt_loss", "oracle")]
    [[0.6, 0.2], [0.6, 0.2], [0.6, 0.1]]
    """
    law = chain_law(prompts, decoding)
    counts = np.atleast_1d(positive_integers(samples, "samples"))
    if counts.ndim != 1:
        raise InvalidInput(f"samples has shape {counts.shape}; pass an integer or a sequence.")
    size = int(counts.max()) if pool is None else integer(pool, "pool")
    if size < counts.max():
        raise InvalidInput(f"pool = {size} is below samples = {int(counts.max())}; draw that many.")
    noise = nonnegative(verifier_noise, "verifier_noise")
    if not isinstance(rules, (list, tuple)) or not rules or any(x not in RULES for x in rules):
        raise InvalidInput(f"rules = {rules!r}; pass a tuple of some of {RULES}.")
    require_memory(size * max(prompts.d, len(counts)), f"pool = {size} in dimension {prompts.d}")
    if len(prompts) < 2:
        raise InvalidInput("one prompt has no standard error; draw at least 2.")
    weights = rank_weights(size, counts)
    errors = {rule: np.empty((len(prompts), len(counts))) for rule in rules}
    rng = np.random.default_rng(seed_sequence(seed))
    total = len(prompts)

    def simulated(done: int) -> SelectionSimulation:
        risks = {rule: out[:done] / prompts.d for rule, out in errors.items()}
        return SelectionSimulation(counts.astype(int), size, risks)

    def finished() -> SelectionSimulation | None:
        return simulated(bar.n) if bar.n > 1 else None

    with progress_bar(total, 0, None, "selection", partial=finished, unit=" prompts") as bar:
        for part in cache_batches(total, size * prompts.d):
            moved = draw_moves(law, part, size, rng)
            error = moved + law.overfit[part, None]
            square = np.square(error).sum(axis=-1)
            look = noise * rng.standard_normal(square.shape) if noise else 0.0
            for rule, out in errors.items():
                if rule == "mean":
                    out[part] = mean_errors(error, square, counts)
                else:
                    losses = square if rule == "oracle" else _losses(law, part, moved)
                    order = np.argsort(losses + look, axis=1)
                    out[part] = np.take_along_axis(square, order, axis=1) @ weights
            bar.update(part.stop - part.start)
    return simulated(total)


def draw_moves(law: ChainLaw, part: slice, chains: int, rng: np.random.Generator) -> np.ndarray:
    """c + s z for the prompts of `part`, (p, chains, d)."""
    centre, spread = law.centre[part, None], law.spread[part, None]
    moved = rng.standard_normal((len(centre), chains, law.d))
    moved *= spread
    moved += centre
    return moved


def _losses(law: ChainLaw, part: slice, moved: np.ndarray) -> np.ndarray:
    """|y - X w|^2/n up to a constant, (p, chains)."""
    return np.einsum("pkd,pkd,pd->pk", moved, moved, law.eigenvalues[part])


def mean_errors(error: np.ndarray, square: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """E |mean of N of the pool's chains|^2 over all subsets, (p, M)."""
    size = square.shape[1]
    one = square.mean(axis=1)
    if size == 1:
        return one[:, None]
    cross = (size * np.square(error.mean(axis=1)).sum(axis=-1) - one) / (size - 1)
    return np.multiply.outer(one, 1 / counts) + np.multiply.outer(cross, 1 - 1 / counts)


def rank_weights(size: int, counts: np.ndarray) -> np.ndarray:
    """P(the candidate of rank i is the best of N out of `size`), (size, M)."""
    out = np.zeros((size, len(counts)))
    out[0] = counts / size
    for rank in range(size - 1):
        out[rank + 1] = out[rank] * np.maximum(size - counts - rank, 0) / (size - 1 - rank)
    return out
