"""Verifiers of binary answers that err: accept or reject with error rates, and loss under label noise.

Source: derived here. Exported: `verified_success`, `accept_reject_success`, `exhaustive_error`,
`ExhaustiveError`, `sufficient_examples`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special, stats

from icltheory.binary_priors import BinaryPrior, BinarySampler, SparseBits
from icltheory.errors import InvalidInput
from numeric.arrays import (
    broadcast,
    finite,
    integer,
    number,
    positive_integers,
    require_memory,
)
from numeric.binary_decoding import DecodingChannel
from numeric.binary_passes import PassRate, States, average_over_states, setting_of
from numeric.binary_samplers import prior_numbers
from numeric.decoding_display import Tabled
from numeric.montecarlo import Seed


def verified_success(
    probability: Any, samples: Any, false_negative: Any, false_positive: Any
) -> Any:
    """P(the returned answer is right): a random accepted sample, or a random one if none is accepted.

    Parameters
    ----------
    probability: P in [0, 1] of each sample to be right. samples: N >= 1.
    false_negative, false_positive: error rates of the verifier in [0, 1], independent over samples.

    All arrays broadcast. The ceiling at large N is the precision P (1 - fn)/acc. Exact for fixed P.
    Errors: `InvalidInput`. Source: conditioning on some sample being accepted, derived here.

    >>> verified_success(0.1, [4, 16], 0.2, 0.05).round(10)
    array([0.27824219, 0.56713574])
    """
    p, fn, fp = (
        _rate(value, name)
        for value, name in (
            (probability, "probability"),
            (false_negative, "false_negative"),
            (false_positive, "false_positive"),
        )
    )
    votes = positive_integers(samples, "samples")
    p, fn, fp, votes = broadcast(probability=p, false_negative=fn, false_positive=fp, samples=votes)
    right, accepted = p * (1 - fn), p * (1 - fn) + (1 - p) * fp
    some = -np.expm1(special.xlog1py(votes, -np.minimum(accepted, 1.0)))
    precision = np.where(accepted > 0, right / np.where(accepted > 0, accepted, 1.0), 0.0)
    none = np.exp(special.xlog1py(votes - 1, -np.minimum(accepted, 1.0)))
    return (precision * some + none * p * fn)[()]


def accept_reject_success(
    channel: DecodingChannel,
    sampler: BinarySampler,
    samples: Any,
    false_negative: float,
    false_positive: float,
    *,
    temperature: Any = None,
    threshold: Any = "middle",
    draws: int = 2048,
    seed: Seed = 0,
) -> PassRate:
    """`verified_success` averaged over the states of a channel; arguments as for `pass_at_n`.

    Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> channel = DecodingChannel(icl.Signs(), 12, np.array(0.6), np.array(0.45))
    >>> accept_reject_success(channel, icl.Logit(0.3), [1, 16], 0.1, 0.01).value.round(2)
    array([0.08, 0.53])
    """
    votes, law, low, high, std = setting_of(channel, sampler, samples, temperature, threshold)
    fn, fp = (number(x, "error rate") for x in (false_negative, false_positive))
    parts = np.broadcast_arrays(law.temperature, low, high, std, votes)
    flat = [x.ravel() for x in parts]
    value, error = average_over_states(
        States(channel, integer(draws, "draws", 2), seed),
        law,
        flat[:4],
        flat[4],
        lambda log_p, count: verified_success(np.exp(log_p), count, fn, fp),
    )
    return PassRate(value.reshape(parts[0].shape)[()], error.reshape(parts[0].shape)[()])


def _rate(value: Any, name: str) -> np.ndarray:
    array = finite(value, name)
    if np.any((array < 0) | (array > 1)):
        raise InvalidInput(f"{name} must lie between 0 and 1.")
    return array


# -- exhaustive search ------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class ExhaustiveError(Tabled):
    """Competitors by their number of differing coordinates h, and bounds on a wrong answer.

    distance: h, (K,). log_count: ln of their number. pairwise: P(one of them fits better), exact.
    pairwise_bound: the Chernoff bound on it.
    """

    distance: np.ndarray
    log_count: np.ndarray
    pairwise: np.ndarray
    pairwise_bound: np.ndarray

    def __repr__(self) -> str:
        size = f"{len(self.distance)} distances"
        return f"ExhaustiveError({size}, union={self.union:.4g}, chernoff={self.chernoff:.4g})"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        rows = zip(self.distance, self.log_count, self.pairwise, self.pairwise_bound, strict=True)
        header = ["wrong bits", "competitors", "error of one", "bound on it"]
        return header, [[str(h), f"{np.exp(c):.4g}", f"{p:.4g}", f"{b:.4g}"] for h, c, p, b in rows]

    @property
    def union(self) -> float:
        """Sum over all competitors: a bound on P(wrong answer), not cut at 1; valid but loose."""
        return float(np.exp(self.log_count) @ self.pairwise)

    @property
    def chernoff(self) -> float:
        """The same from the pairwise Chernoff bounds."""
        return float(np.exp(self.log_count) @ self.pairwise_bound)


def exhaustive_error(prior: BinaryPrior, n: int, d: int, label_noise_var: float) -> ExhaustiveError:
    """The answer of least prompt loss over all vectors of the prior, with label noise > 0.

    A competitor at distance |delta|^2 = h gap^2 wins with probability P(t_n > |delta| sqrt(n)/(2 sigma_y)),
    t_n Student with n degrees of freedom. Sparse bits compete with sparse bits only.
    Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> bound = exhaustive_error(icl.Signs(), 6, 10, 1.0)
    >>> round(bound.union, 10), round(bound.chernoff, 10)
    (1.5075517033, 4.2787164706)
    """
    length, law, noise = integer(n, "n"), prior_numbers(prior, d), number(label_noise_var, "noise")
    if noise <= 0:
        raise InvalidInput(
            "label_noise_var must be positive: without label noise the exhaustive search is right."
        )
    h, log_count = competitors(prior, law.d)
    size = law.gap**2 * h
    pairwise = stats.t.sf(np.sqrt(size / (4 * noise) * length), float(length))
    bound = 0.5 * np.exp(-length / 2 * np.log1p(size / (4 * noise)))
    return ExhaustiveError(h, log_count, pairwise, bound)


def competitors(prior: BinaryPrior, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances h >= 1 to the other vectors of the prior and ln of the numbers of them."""
    require_memory(dim, f"d = {dim}")
    if isinstance(prior, SparseBits):
        ones = int(prior.ones)
        swaps = np.arange(1, min(ones, dim - ones) + 1)
        return 2 * swaps, _log_binomial(ones, swaps) + _log_binomial(dim - ones, swaps)
    h = np.arange(1, dim + 1)
    return h, _log_binomial(dim, h)


def _log_binomial(top: int, k: np.ndarray) -> np.ndarray:
    return special.gammaln(top + 1) - special.gammaln(k + 1) - special.gammaln(top - k + 1)


def sufficient_examples(prior: BinaryPrior, d: int, label_noise_var: float, failure: float) -> int:
    """A prompt length at which the exhaustive search fails with probability at most `failure`.

    Every distance gets an equal share of `failure` in the Chernoff bound.

    Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> n = sufficient_examples(icl.Signs(), 10, 1.0, 0.05)
    >>> n, exhaustive_error(icl.Signs(), n, 10, 1.0).chernoff < 0.05
    (20, True)
    """
    law, target = prior_numbers(prior, d), number(failure, "failure")
    noise = number(label_noise_var, "label_noise_var")
    if not 0 < target < 1 or noise <= 0:
        raise InvalidInput("failure must lie between 0 and 1, and label_noise_var be positive.")
    h, log_count = competitors(prior, law.d)
    if not len(h):
        return 1
    need = 2 * (log_count + math.log(len(h) / (2 * target)))
    return max(1, math.ceil(np.max(need / np.log1p(law.gap**2 * h / (4 * noise)))))
