"""The priors and samplers of `icltheory.binary_priors` on arrays: probabilities, draws and votes.

A sampler rounds its state against a random threshold; a majority of N samples rounds it against
the median of N such thresholds. Every average over a Gaussian state follows from that one law
(`vote_error`), without a binomial sum. Source: derived here. Exported: `bit_probability`,
`sample_bits`, `majority_vote`, `plurality_vote`; `PriorNumbers`, `BitLaw`, `vote_error` and
`gaussian_mean` serve the predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from icltheory.binary_priors import (
    BinaryPrior,
    BinarySampler,
    Clip,
    Logit,
    Probit,
    SparseBits,
    require_prior,
    require_sampler,
)
from icltheory.errors import InvalidInput
from numeric.arrays import broadcast, finite, integer, require_memory
from numeric.decoding_display import Shown
from numeric.montecarlo import random_generator

_NODES = np.polynomial.legendre.leggauss(10)
_NORMAL_EDGES = np.array([-9.0, -7, -5, -3.5, -2, -1, 0, 1, 2, 3.5, 5, 7, 9])
_ROWS = 2**12  # settings whose quadrature is done at a time


# -- priors --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PriorNumbers:
    """A prior in dimension d: its values low and low + gap, P(w*_j = high), number of ones."""

    d: int
    low: float
    gap: float
    share: float
    ones: int | None

    @property
    def centre(self) -> float:
        """The middle of the two values."""
        return self.low + self.gap / 2

    @property
    def mean(self) -> float:
        """E w*_j."""
        return self.low + self.gap * self.share

    def vector_error(self, zeros: np.ndarray, ones: np.ndarray) -> np.ndarray:
        """P(some coordinate is wrong) for independent coordinates, wrong with these probabilities."""
        zeros, ones = np.minimum(zeros, 1.0), np.minimum(ones, 1.0)
        if self.ones is None:
            mean = (1 - self.share) * zeros + self.share * ones
            return -np.expm1(special.xlog1py(self.d, -mean))
        right = special.xlog1py(self.d - self.ones, -zeros) + special.xlog1py(self.ones, -ones)
        return -np.expm1(right)


def prior_numbers(prior: BinaryPrior, d: int) -> PriorNumbers:
    """`prior` with numbers; `InvalidInput` if it still contains symbols."""
    d = integer(d, "d")
    values = require_prior(prior).low, prior.gap, prior.high_probability(d)
    if any(x.free_symbols for x in values):
        raise InvalidInput(f"{prior} contains symbols; numbers are needed here.")
    ones = int(prior.ones) if isinstance(prior, SparseBits) else None
    low, gap, share = (float(x) for x in values)
    return PriorNumbers(d, low, gap, share, ones)


# -- samplers ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class BitLaw(Shown):
    """A sampler on arrays of margins v (state minus threshold): P(high) = chance(v).

    kind: "logit", "probit", "clip" or "round". temperature: array >= 0, which broadcasts against
    the margins; 0 rounds. gap: distance of the two values; only "clip" depends on it.
    """

    kind: str
    temperature: np.ndarray
    gap: float = 1.0

    @property
    def positive(self) -> np.ndarray:
        """The temperature with 1 in place of 0, where the step takes over."""
        return np.where(self.temperature > 0, self.temperature, 1.0)

    def chance(self, v: np.ndarray) -> np.ndarray:
        """P(high) at margin v; 1/2 on the edge of a step."""
        step = np.heaviside(v, 0.5)
        if self.kind == "round":
            return step
        if self.kind == "clip":
            return np.clip(0.5 + v / self.gap, 0.0, 1.0)
        function = special.expit if self.kind == "logit" else special.ndtr
        return np.where(self.temperature > 0, function(v / self.positive), step)

    def log_chance(self, v: np.ndarray) -> np.ndarray:
        """ln P(high), accurate in both tails; -inf where the probability is 0."""
        if self.kind in ("logit", "probit"):
            x = v / self.positive
            smooth = special.log_expit(x) if self.kind == "logit" else special.log_ndtr(x)
            if np.all(self.temperature > 0):
                return smooth
            return np.where(self.temperature > 0, smooth, _log(np.heaviside(v, 0.5)))
        return _log(self.chance(v))

    def slope(self, v: np.ndarray) -> np.ndarray:
        """d chance/dv: the density of the random threshold; 0 for a step."""
        if self.kind == "round":
            return np.zeros(np.shape(v))
        if self.kind == "clip":
            return np.where(np.abs(v) < self.gap / 2, 1 / self.gap, 0.0)
        x = v / self.positive
        if self.kind == "logit":
            density = special.expit(x) * special.expit(-x)
        else:
            density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        return np.where(self.temperature > 0, density / self.positive, 0.0)

    def vote_log_density(self, y: np.ndarray, half: np.ndarray) -> np.ndarray:
        """ln of the density, times the temperature, of the median of 2 half - 1 thresholds.

        At y in units of the temperature (of the gap for "clip").
        """
        # Powers of 4 P(high) P(low), which is near 1, do not cancel against B(half, half) 4^half.
        if self.kind == "clip":
            inside = np.abs(y) < 0.5
            log = (half - 1) * np.log1p(-np.square(np.where(inside, 2 * y, 0.0))) + 2 * math.log(2)
            log = np.where(inside, log, -np.inf)
        elif self.kind == "logit":
            log = -2 * half * _log_cosh(y / 2)
        else:
            odd = np.square(special.erf(y / math.sqrt(2)))
            far = special.log_ndtr(y) + special.log_ndtr(-y) + 2 * math.log(2)
            log = (half - 1) * np.where(odd < 0.5, np.log1p(-np.minimum(odd, 0.5)), far)
            log = log - y**2 / 2 + 2 * math.log(2) - 0.5 * math.log(2 * math.pi)
        return log - _log_central(half)


def _log_cosh(x: np.ndarray) -> np.ndarray:
    """ln cosh x, accurate near 0 and in the tails."""
    x = np.abs(x)
    return np.log1p(2 * np.square(np.sinh(np.minimum(x, 1.0) / 2))) + np.where(
        x > 1, x - math.log(2) + np.log1p(np.exp(-2 * x)) - math.log(math.cosh(1.0)), 0.0
    )


def _log_central(half: np.ndarray) -> np.ndarray:
    """ln B(half, half) 4^half = ln 2 sqrt(pi) Gamma(half)/Gamma(half + 1/2)."""
    large = np.maximum(half, 200.0)
    late = 0.5 * np.log(large) - 1 / (8 * large) + (1 / large) ** 3 / 192
    early = special.gammaln(half + 0.5) - special.gammaln(half)
    return math.log(2 * math.sqrt(math.pi)) - np.where(half > 200, late, early)


def bit_law(sampler: BinarySampler, gap: float = 1.0, temperature: Any = None) -> BitLaw:
    """`sampler` on arrays; `temperature` (any shape) replaces its own."""
    require_sampler(sampler)
    tempered = isinstance(sampler, (Logit, Probit))
    if not tempered:
        if temperature is not None:
            raise InvalidInput(f"{sampler} has no temperature; pass icl.Logit(1) or icl.Probit(1).")
        return BitLaw("clip" if isinstance(sampler, Clip) else "round", np.zeros(()), gap)
    if temperature is None:
        if sampler.temperature.free_symbols:
            raise InvalidInput(f"{sampler} contains symbols; pass temperature=.")
        temperature = float(sampler.temperature)
    values = finite(temperature, "temperature")
    if np.any(values < 0):
        raise InvalidInput(f"temperature = {values.min():g} is negative; 0 rounds.")
    return BitLaw("logit" if isinstance(sampler, Logit) else "probit", values, gap)


def _log(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(x)


# -- draws and votes -----------------------------------------------------------------------------


def bit_probability(
    sampler: BinarySampler, state: Any, prior: BinaryPrior, *, threshold: Any = None
) -> np.ndarray:
    """P(w_j = high) at every state u_j (any shape).

    threshold: where the probability is 1/2; `None` and "middle" are the middle of the prior's values.
    (That of a channel's two means, and "best", are numbers of `DecodingChannel.threshold`.)
    Errors: `InvalidInput`.

    >>> import icltheory as icl
    >>> bit_probability(icl.Logit(0.5), [-0.4, 0.0, 2.0], icl.Signs()).round(4)
    array([0.31 , 0.5  , 0.982])
    """
    u, middle = finite(state, "state"), float(require_prior(prior).centre)
    known = isinstance(threshold, str) and threshold == "middle"
    cut = middle if threshold is None or known else finite(threshold, "threshold")
    u, cut = broadcast(state=u, threshold=cut)
    return bit_law(sampler, float(prior.gap)).chance(u - cut)


def sample_bits(probability: Any, samples: int, rng: Any) -> np.ndarray:
    """`samples` answers drawn coordinate by coordinate, (..., d) to booleans (..., samples, d).

    Errors: `InvalidInput`.

    >>> sample_bits([0.0, 1.0], 2, np.random.default_rng(0))
    array([[False,  True],
           [False,  True]])
    """
    p = finite(probability, "probability")
    if not p.ndim or np.any(p < 0) or np.any(p > 1):
        raise InvalidInput("probability must be an array (..., d) of numbers from 0 to 1.")
    count = integer(samples, "samples")
    require_memory(count * p.size, f"samples = {count}")
    shape = (*p.shape[:-1], count, p.shape[-1])
    return random_generator(rng).random(shape) < p[..., None, :]


def majority_vote(bits: np.ndarray, rng: Any) -> np.ndarray:
    """The majority of each coordinate, ties by a coin: booleans (..., N, d) to (..., d).

    Errors: `InvalidInput`.

    >>> majority_vote(np.array([[True, False], [True, False], [False, True]]), np.random.default_rng(0))
    array([ True, False])
    """
    bits, rng = _answers(bits), random_generator(rng)
    votes = 2 * np.count_nonzero(bits, axis=-2) - bits.shape[-2]
    return (votes > 0) | ((votes == 0) & (rng.random(votes.shape) < 0.5))


def plurality_vote(bits: np.ndarray, rng: Any) -> np.ndarray:
    """The most frequent whole answer, ties by a coin: booleans (..., N, d) to (..., d).

    Errors: `InvalidInput`.

    >>> answers = np.array([[True, False], [False, False], [True, False]])
    >>> plurality_vote(answers, np.random.default_rng(0))
    array([ True, False])
    """
    bits, rng = _answers(bits), random_generator(rng)
    *lead, count, dim = bits.shape
    answers = np.packbits(bits, axis=-1).reshape(-1, -(-dim // 8))
    _, label = np.unique(answers, axis=0, return_inverse=True)
    groups = np.arange(len(answers)) // count * len(answers) + label.ravel()
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    score = (counts + rng.random(len(counts)) / 2)[group].reshape(-1, count)
    best = np.arange(len(score)) * count + score.argmax(axis=1)
    return bits.reshape(-1, dim)[best].reshape(*lead, dim)


def _answers(bits: Any) -> np.ndarray:
    array = np.asarray(bits)
    if array.dtype != bool or array.ndim < 2 or not array.shape[-2]:
        raise InvalidInput(
            f"bits have shape {array.shape} and dtype {array.dtype}; pass booleans (..., N, d) with "
            f"N >= 1, such as bits > 0."
        )
    return array


# -- averages over a Gaussian state ----------------------------------------------------------------


def gaussian_mean(
    function: Callable[[np.ndarray], np.ndarray], mean: Any, std: Any, scale: Any
) -> np.ndarray:
    """E f(v) for v ~ N(mean, std^2), where f varies on `scale` around v = 0 and smoothly elsewhere.

    mean, std >= 0, scale >= 0: arrays of one shape. f maps nodes (..., K) to values that may carry
    more leading axes. Panels of Gauss-Legendre nodes end at both laws' marks, so that a kink at 0
    (scale 0) costs nothing.
    """
    mean, std, scale = (x[..., None] for x in np.broadcast_arrays(mean, std, scale))
    low, high = mean + _NORMAL_EDGES[0] * std, mean + _NORMAL_EDGES[-1] * std
    inner = scale * np.array([-40.0, -20, -10, -5, -2.5, 0, 2.5, 5, 10, 20, 40])
    edges = np.concatenate([mean + _NORMAL_EDGES * std, np.clip(inner, low, high)], axis=-1)
    nodes, weights = _panels(edges)
    safe = np.where(std > 0, std, 1.0)
    weights = weights * np.exp(-(((nodes - mean) / safe) ** 2) / 2) / math.sqrt(2 * math.pi) / safe
    spread = (function(nodes) * weights).sum(axis=-1)
    point = function(mean)[..., 0] if np.any(std == 0) else 0.0
    return np.where(std[..., 0] > 0, spread, point)


def vote_error(margin: Any, noise_std: Any, law: BitLaw, samples: Any) -> np.ndarray:
    """P(a majority of N samples of one state is wrong), for a state margin ~ N(margin, noise_std^2).

    Ties are broken by a coin. All arrays broadcast. With thresholds X_1..X_N the vote is right iff
    the margin exceeds their median; for even N the coin makes it the median of N - 1.
    """
    m, w, t, votes = np.broadcast_arrays(margin, noise_std, law.temperature, samples)
    greedy = _tail(m, w)
    if law.kind == "round":
        return greedy
    if law.kind == "clip":
        t = np.full(m.shape, law.gap)
    half = np.ceil(votes / 2)
    out = np.array(greedy)
    active = t > 0
    if law.kind == "probit":  # one threshold is Gaussian
        single = active & (half == 1)
        out[single] = _tail(m[single], np.hypot(w[single], t[single]))
        active = active & ~single
    m, w, t, half = (x[active] for x in (m, w, t, half))
    blocks = [slice(i, i + _ROWS) for i in range(0, len(m), _ROWS)]
    if blocks:
        out[active] = np.concatenate(
            [_median_error(m[b], w[b], t[b], half[b], law) for b in blocks]
        )
    return out[()]


def _median_error(
    m: np.ndarray, w: np.ndarray, t: np.ndarray, half: np.ndarray, law: BitLaw
) -> np.ndarray:
    """E Q((m - t Y)/w) over the median Y of 2 half - 1 thresholds in units of t; arrays (K,)."""
    m, w, half = (m / t)[:, None], (w / t)[:, None], half[:, None]
    if law.kind == "clip":
        spread, reach = np.sqrt(0.25 / (2 * half + 1)), np.full(half.shape, 0.5)
    elif law.kind == "logit":  # exp(-half |y|) in the tails
        spread = np.sqrt(2 / half)
        reach = 40 / half + 10 * spread
    else:
        spread = np.sqrt(math.pi / 2 / (2 * half - 1))
        reach = 12 * spread
    marks = np.concatenate([spread * _NORMAL_EDGES, reach * [-1, -0.6, 0.6, 1]], axis=1)
    edges = np.concatenate([marks, m + _NORMAL_EDGES * w, m], axis=1)
    nodes, weights = _panels(np.clip(edges, -reach, reach))
    return (weights * np.exp(law.vote_log_density(nodes, half)) * _tail(m - nodes, w)).sum(axis=1)


def _tail(margin: np.ndarray, std: np.ndarray) -> np.ndarray:
    """P(margin + std G < 0), 1/2 where both are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(std > 0, margin / std, np.sign(margin) * np.inf)
    return special.ndtr(-np.where(np.isnan(x), 0.0, x))


def _panels(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on the panels between edges (..., P) in any order."""
    edges = np.sort(edges, axis=-1)
    half = np.diff(edges)[..., None] / 2
    nodes = (edges[..., :-1, None] + half) + half * _NODES[0]
    shape = (*edges.shape[:-1], -1)
    return nodes.reshape(shape), (half * _NODES[1]).reshape(shape)
