"""Soft best-of-N: the mean of N chains with weights exp(-theta l), l the verifier's loss.

As N grows the coordinates of the answer tend to o + c/(1 + 2 theta mu s^2), a ridge-like shrinkage of
the bias; at finite N the ratio of two means adds a term of order 1/N. l = sum_j mu_j (c_j + s_j z_j)^2
is |y - X w|^2/n up to a constant for the prompt loss, |w - w*|^2 for the oracle. Errors are totals given
the prompt, risks per coordinate. Source: derived here. Exported: `softmax_mean_error`, `SoftmaxMean`,
`softmax_mean_risk`, `simulate_softmax_mean`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.chains import NoisyDecoding
from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import broadcast, finite, integer, number
from numeric.chain_laws import ChainLaw, cache_batches, chain_law, require_law, sample_counts
from numeric.chain_prompts import DecodingPrompts, PromptAverage
from numeric.decoding_display import Shown
from numeric.montecarlo import Seed, seed_sequence
from numeric.progress import progress_bar
from numeric.selection import draw_moves


@dataclass(frozen=True, eq=False, repr=False)
class SoftmaxMean(Shown):
    """A predicted softmax mean; total errors, (..., P) + the shape of `samples`.

    error: with the term of order 1/N, within 2 % where effective_samples >= 30. limit: for infinitely
    many chains, (..., P). effective_samples: N/rho, the number of equally weighted samples that would
    be worth as much.
    """

    error: np.ndarray
    limit: np.ndarray
    effective_samples: np.ndarray


def softmax_mean_error(
    law: ChainLaw, samples: Any, inverse_temperature: Any, *, verifier: str = "prompt_loss"
) -> SoftmaxMean:
    """Error of the mean of N chains with weights proportional to exp(-inverse_temperature * loss).

    Parameters
    ----------
    law: of the chains, `numeric.chain_law`.
    samples: numbers N >= 1, any shape; infinity is allowed.
    inverse_temperature: theta >= 0, a number or an array that broadcasts against the law's axes
        before the directions, (..., P). 0 is the plain mean.

    Errors: `InvalidInput`. Source: derived here.

    >>> rate = 0.1 * np.arange(1.0, 11.0)[None]
    >>> noise = 0.5 * np.sqrt(sum((1 - rate) ** (2 * s) for s in range(3)))
    >>> law = ChainLaw(2 * rate, 0 * rate, -((1 - rate) ** 3), noise, np.zeros(1))
    >>> soft = softmax_mean_error(law, 256, 1.0)
    >>> soft.limit.round(7), soft.error.round(7), soft.effective_samples.round(0)
    (array([0.5504997]), array([0.5686148]), array([96.]))
    """
    require_law(law)
    counts = sample_counts(samples)
    theta = finite(inverse_temperature, "inverse_temperature")
    if np.any(theta < 0):
        raise InvalidInput(f"inverse_temperature = {theta.min():g} is negative; pass 0 or more.")
    o, c, s, mu = law.verified(verifier)
    broadcast(inverse_temperature=theta, law=c[..., 0])
    v, theta = np.square(s), theta[..., None]
    once, twice = 1 + 2 * theta * mu * v, 1 + 4 * theta * mu * v
    limit = np.square(o + c / once).sum(axis=-1)
    # rho = E e^{-2 theta l} / (E e^{-theta l})^2.
    log_rho = (
        np.log(once) - np.log(twice) / 2 + 2 * theta * mu * np.square(c) * (1 / once - 1 / twice)
    ).sum(axis=-1)
    spread = (v / twice + np.square(c / twice - c / once)).sum(axis=-1)
    with np.errstate(over="ignore"):
        rho = np.exp(log_rho)
        error = np.multiply.outer(limit, np.ones_like(counts))
        error = error + np.multiply.outer(rho * spread, 1 / counts)
    return SoftmaxMean(error, limit, np.multiply.outer(1 / rho, counts))


def softmax_mean_risk(
    prompts: DecodingPrompts,
    decoding: NoisyDecoding,
    samples: Any,
    inverse_temperature: Any,
    *,
    verifier: str = "prompt_loss",
    step_size: Any = None,
    noise_std: Any = None,
    steps: Any = None,
) -> PromptAverage:
    """Predicted risk per coordinate of the softmax mean of N chains, averaged over prompts.

    Parameters
    ----------
    prompts, samples, step_size, noise_std, steps: as for `numeric.selection_risk`.
    inverse_temperature: theta >= 0, a number or an array that broadcasts against the settings.

    Returns averages of shape (settings) + that of `samples`. The standard error is that of the choice
    of prompts; that of `softmax_mean_error`, 2 % at 30 effective samples and more, comes on top.
    Errors: `InvalidInput`; `OutOfDomain` where theta leaves no effective sample. Source: derived here.

    >>> import icltheory as icl
    >>> from numeric import decoding_prompts
    >>> data, chain = decoding_prompts(20, 10, 500, seed=1), icl.NoisyDecoding(0.5, 0.5, 3)
    >>> softmax_mean_risk(data, chain, 64, [0.0, 0.5]).value.round(1).tolist()  # simulated below
    [0.2, 0.1]
    """
    law = chain_law(prompts, decoding, step_size=step_size, noise_std=noise_std, steps=steps)
    theta = finite(inverse_temperature, "inverse_temperature")[..., None]
    values = softmax_mean_error(law, samples, theta, verifier=verifier).error
    if not np.all(np.isfinite(values)):
        raise OutOfDomain(
            f"inverse_temperature = {theta.max():g} leaves no effective sample; pass a smaller one."
        )
    return PromptAverage(np.moveaxis(values, -1 - np.ndim(samples), 0) / prompts.d)


def simulate_softmax_mean(
    prompts: DecodingPrompts,
    decoding: NoisyDecoding,
    samples: int,
    inverse_temperature: Any,
    *,
    verifier: str = "prompt_loss",
    repeats: int = 1,
    seed: Seed = 0,
) -> PromptAverage:
    """Simulated risk per coordinate of the softmax mean of N chains; averages of theta's shape.

    Parameters
    ----------
    prompts: at least 2, with the label noise of the decoding.
    samples: N >= 1. inverse_temperature: theta >= 0, a number or a sequence, on common chains.
    repeats: independent groups of N chains a prompt.

    Errors: `InvalidInput`, `OutOfDomain`.

    >>> import icltheory as icl
    >>> from numeric import decoding_prompts
    >>> data, chain = decoding_prompts(20, 10, 500, seed=1), icl.NoisyDecoding(0.5, 0.5, 3)
    >>> simulate_softmax_mean(data, chain, 64, [0.0, 0.5]).value.round(1).tolist()
    [0.2, 0.1]
    """
    law = chain_law(prompts, decoding)
    count, groups = integer(samples, "samples"), integer(repeats, "repeats")
    theta = finite(inverse_temperature, "inverse_temperature")
    if np.any(theta < 0) or theta.ndim > 1:
        raise InvalidInput("inverse_temperature: pass a number >= 0 or a sequence of them.")
    if len(prompts) < 2:
        raise InvalidInput("one prompt has no standard error; draw at least 2.")
    _, _, _, mu = law.verified(verifier)
    out = np.zeros((len(prompts), *theta.shape))
    rng = np.random.default_rng(seed_sequence(seed))

    def simulated(done: int) -> PromptAverage:
        return PromptAverage(out[:done] / (groups * prompts.d))

    def finished() -> PromptAverage | None:
        return simulated(bar.n) if bar.n > 1 else None

    total = len(prompts)
    with progress_bar(total, 0, None, "softmax mean", partial=finished, unit=" prompts") as bar:
        for part in cache_batches(total, count * prompts.d):
            for _ in range(groups):
                moved = draw_moves(law, part, count, rng)
                error = moved + law.overfit[part, None]
                look = error if verifier == "oracle" else moved
                loss = np.einsum("pkd,pkd,pd->pk", look, look, mu[part])
                loss -= loss.min(axis=1, keepdims=True)
                for place in np.ndindex(theta.shape):
                    weights = np.exp(-number(theta[place], "inverse_temperature") * loss)
                    weights /= weights.sum(axis=1, keepdims=True)
                    answer = np.einsum("pk,pkd->pd", weights, error)
                    out[(part, *place)] += np.square(answer).sum(axis=-1)
            bar.update(part.stop - part.start)
    return simulated(total)
