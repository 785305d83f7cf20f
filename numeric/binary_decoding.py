"""Binary coefficients read off a chain: the Gaussian channel, rounding, sampling, averaging, voting.

A chain of noisy gradient steps (`icl.NoisyDecoding`) with continuous states ends at u; coordinate by
coordinate u_j = gain w*_j + noise, with moments from the contraction moments beta_j. An answer is
rounded, sampled, averaged before rounding, or voted on. Conventions of decoding: S = X'X/n, label noise
of variance sigma_y^2 with E w*w*' = second moment of the prior. All results broadcast over steps,
samples and temperatures. Source: derived here, after Chen, Lu, Wu, Zou (arXiv 2508.07571). Exported:
`decoding_channel`, `DecodingChannel`, `BitErrors`, `greedy_errors`, `sampled_errors`,
`averaged_errors`, `majority_errors`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from icltheory.binary_priors import BinaryPrior, BinarySampler, Round
from icltheory.chains import NoisyDecoding
from icltheory.contraction import LARGEST_EXACT
from icltheory.errors import DivergingMoments, InvalidInput, OutOfDomain
from numeric.arrays import (
    broadcast,
    finite,
    integer,
    number,
    positive_integers,
    require_memory,
)
from numeric.binary_samplers import BitLaw, PriorNumbers, bit_law, prior_numbers, vote_error
from numeric.contraction import contraction_moments, contraction_moments_limit
from numeric.decoding_display import Shown

STARTS = ("zero", "mean")
_FAR = 2.0  # exact contraction moments so many times the limit are those of rare prompts


@dataclass(frozen=True, eq=False, repr=False)
class DecodingChannel(Shown):
    """u_j = origin + gain (w*_j - origin) + noise_std G_j, independent over the coordinates.

    gain, noise_std >= 0: arrays of one shape (...). origin: the chain's start, a number.
    The moments are exact for signs; Gaussianity and independence hold where n and d are large.
    """

    prior: BinaryPrior
    d: int
    gain: np.ndarray
    noise_std: np.ndarray
    origin: float = 0.0

    def __post_init__(self) -> None:
        prior_numbers(self.prior, self.d)
        gain, noise = finite(self.gain, "gain"), finite(self.noise_std, "noise_std")
        if np.any(noise < 0):
            raise InvalidInput(f"noise_std = {noise.min():g} is negative; pass 0 or more.")
        for name, array in zip(
            ("gain", "noise_std"), broadcast(gain=gain, noise_std=noise), strict=True
        ):
            object.__setattr__(self, name, array)
        object.__setattr__(self, "origin", number(self.origin, "origin"))

    @property
    def numbers(self) -> PriorNumbers:
        """The prior with numbers."""
        return prior_numbers(self.prior, self.d)

    @property
    def signal_to_noise(self) -> np.ndarray:
        """(gain/noise_std)^2, infinite without noise."""
        with np.errstate(divide="ignore"):
            return np.square(self.gain / self.noise_std)

    def state_mean(self, high: bool) -> np.ndarray:
        """E u_j where w*_j is the higher (the lower) value."""
        law = self.numbers
        value = law.low + law.gap if high else law.low
        return self.origin + self.gain * (value - self.origin)

    def threshold(self, kind: Any = "middle") -> np.ndarray:
        """Where the state is cut: "middle" (or `None`) of the two means, "best" for the prior, or numbers.

        "best" maximises the posterior: it moves the middle by noise_std^2/(gain gap) ln P(low)/P(high).
        """
        kind = "middle" if kind is None else kind
        if not isinstance(kind, str):
            return np.broadcast_arrays(finite(kind, "threshold"), self.gain)[0]
        if kind not in ("middle", "best"):
            raise InvalidInput(f"threshold = {kind!r}; pass 'middle', 'best' or numbers.")
        middle = (self.state_mean(False) + self.state_mean(True)) / 2
        law = self.numbers
        if kind == "middle" or law.share == 0.5:
            return middle
        if law.share == 1 or np.any(self.gain <= 0):
            raise OutOfDomain("the best threshold needs a positive gain and two possible values.")
        return middle + self.noise_std**2 / (self.gain * law.gap) * np.log(1 / law.share - 1)

    def margins(self, threshold: Any = "middle") -> tuple[np.ndarray, np.ndarray]:
        """By how much the mean state of a lower and of a higher coordinate is on the right side."""
        cut = self.threshold(threshold)
        return cut - self.state_mean(False), self.state_mean(True) - cut

    @property
    def calibrated_temperature(self) -> np.ndarray:
        """Of the logit sampler that is the posterior (with the threshold "best"): noise_std^2/(gain gap)."""
        if np.any(self.gain <= 0):
            raise OutOfDomain(
                "the calibrated temperature needs a positive gain: at least one step."
            )
        return self.noise_std**2 / (self.gain * self.numbers.gap)


def decoding_channel(
    decoding: NoisyDecoding,
    prior: BinaryPrior,
    n: int,
    d: int,
    *,
    steps: Any = None,
    samples: Any = None,
    start: str = "zero",
    limit: bool = False,
) -> DecodingChannel:
    """The channel from w* to the state after a chain, or to the mean of several chains.

    Parameters
    ----------
    decoding: `icl.NoisyDecoding` with numbers.
    prior: `icl.Signs()`, `icl.Bits(p)` or `icl.SparseBits(k)`.
    n, d: prompt length and dimension, integers >= 1.
    steps, samples: integers >= 0 and >= 1 that replace those of `decoding`; arrays broadcast.
    start: "zero" for w_0 = 0, "mean" for w_0 = the prior's mean in every coordinate.
    limit: contraction moments of the limit d/n -> gamma instead of the exact ones.

    gain = 1 - beta_t; noise_std^2 = E|w* - w_0|^2/d (beta_2t - beta_t^2) + label noise + sampling noise.
    Small d: prompts differ, and one Gaussian for all of them errs. At n = d = 8, step 0.6, no noise, all
    signs are right with 0.21 after two steps by this channel (0.42 with limit=True) and 0.39 on prompts; after
    four with 0.02 (0.43) and 0.50. The vote over many samples errs as much; `simulate_binary_decoding` does not.
    Warns (`DivergingMoments`) where rare prompts carry the exact moments: use limit=True there.
    Errors: `InvalidInput`, `OutOfDomain`. Source: rotation invariance, derived here.

    >>> import icltheory as icl
    >>> channel = decoding_channel(icl.NoisyDecoding(0.5, 0, 1), icl.Signs(), 20, 10, steps=[1, 3])
    >>> channel.gain.round(4), channel.signal_to_noise.round(4)
    (array([0.5   , 0.7106]), array([1.8182, 5.9934]))
    """
    require_numbers(decoding)
    length, law = integer(n, "n"), prior_numbers(prior, d)
    t = positive_integers(int(decoding.steps) if steps is None else steps, "steps", 0)
    votes = positive_integers(int(decoding.samples) if samples is None else samples, "samples")
    t, votes = broadcast(steps=t, samples=votes)
    require_memory(2 * int(t.max()), f"steps = {t.max():.3g}")
    t = t.astype(int)
    beta = moments_up_to(2 * int(t.max()), length, law.d, decoding.step_size, limit)
    if not limit:
        _warn(beta, t, length, law.d, decoding.step_size)
    origin = start_value(law, start)
    signal = float(prior.second_moment(law.d, start=sp.Rational(origin)))
    sampling, label = noise_gains(decoding, beta, t, length)
    spread = np.maximum(beta[2 * t] - beta[t] ** 2, 0.0)
    variance = signal * spread + sampling / votes + label
    return DecodingChannel(prior, law.d, 1 - beta[t], np.sqrt(variance), origin)


# -- moments -------------------------------------------------------------------------------------


def moments_up_to(top: int, n: int, d: int, step_size: sp.Expr, limit: bool) -> np.ndarray:
    """beta_0, ..., beta_top as float64, exact before rounding, or of the limit."""
    powers = np.arange(top + 1)
    if limit:
        return contraction_moments_limit(powers, d / n, float(step_size))
    if top > LARGEST_EXACT:
        raise OutOfDomain(
            f"{top // 2} steps are beyond the {LARGEST_EXACT // 2} with exact moments; pass limit=True."
        )
    return contraction_moments(powers, n, d, step_size)


def noise_gains(
    decoding: NoisyDecoding, beta: np.ndarray, t: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Variances of a coordinate after t steps (any shape): of the noise of one chain, of label noise."""
    even = np.concatenate([[0.0], np.cumsum(beta[::2])])
    if decoding.noise_where == "steps":
        gain = even[t]
    elif decoding.noise_where == "output":
        gain = np.minimum(t, 1.0)
    else:
        factors = np.array([float(x) for x in decoding.noise_where])
        if np.any(t != len(factors)):
            raise InvalidInput(
                f"noise_where has {len(factors)} factors; steps cannot differ from it."
            )
        gain = np.full(t.shape, factors[::-1] ** 2 @ beta[: 2 * len(factors) : 2])
    sums = np.concatenate([[0.0], np.cumsum(beta)])
    label = 2 * sums[t] - sums[2 * t]
    scale = float(decoding.step_size * decoding.label_noise_var) / n
    return float(decoding.noise_var) * gain, scale * label


def start_value(law: PriorNumbers, start: str) -> float:
    """w_0 of every coordinate."""
    if start not in STARTS:
        raise InvalidInput(f"start = {start!r} is not one of {', '.join(STARTS)}.")
    return law.mean if start == "mean" else 0.0


def require_channel(channel: Any) -> None:
    """`InvalidInput` for what is no channel."""
    if not isinstance(channel, DecodingChannel):
        raise InvalidInput(
            f"channel has type {type(channel).__module__}.{type(channel).__name__}; make it with "
            f"numeric.decoding_channel, or as numeric.DecodingChannel(prior, d, gain, noise_std)."
        )


def require_numbers(decoding: Any) -> None:
    if not isinstance(decoding, NoisyDecoding):
        raise InvalidInput(
            f"decoding has type {type(decoding).__name__}; pass icl.NoisyDecoding(0.5, 0.1, 3)."
        )
    names = ("step_size", "noise_std", "steps", "samples", "label_noise_var")
    symbolic = [name for name in names if getattr(decoding, name).free_symbols]
    if symbolic:
        raise InvalidInput(
            f"{', '.join(symbolic)} of the decoding are symbols; numbers are needed."
        )


def _warn(beta: np.ndarray, t: np.ndarray, n: int, d: int, step_size: sp.Expr) -> None:
    """Say where exact moments are those of rare prompts."""
    top = int(t.max())
    if top < 2:
        return
    typical = float(contraction_moments_limit(2 * top, d / n, float(step_size)))
    if beta[2 * top] > beta[2 * top - 2] or beta[2 * top] > _FAR * typical:
        warnings.warn(
            f"after {top} steps at n = {n}, d = {d} the mean contraction {beta[2 * top]:.4g} is carried "
            f"by rare prompts (limit of large n and d: {typical:.4g}); pass limit=True.",
            DivergingMoments,
            stacklevel=3,
        )


# -- errors --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class BitErrors(Shown):
    """Probabilities of a wrong coordinate, arrays of one shape.

    low, high: given that w*_j is the lower, the higher value.
    """

    low: np.ndarray
    high: np.ndarray
    law: PriorNumbers

    @property
    def mean(self) -> np.ndarray:
        """Of a coordinate: the expected share of wrong coordinates."""
        return (1 - self.law.share) * self.low + self.law.share * self.high

    @property
    def union(self) -> np.ndarray:
        """The union bound on P(some coordinate is wrong), at most 1."""
        return np.minimum(self.law.d * self.mean, 1.0)

    @property
    def vector(self) -> np.ndarray:
        """P(some coordinate is wrong), for independent coordinates."""
        return self.law.vector_error(self.low, self.high)


def majority_errors(
    channel: DecodingChannel,
    sampler: BinarySampler,
    samples: Any,
    *,
    temperature: Any = None,
    threshold: Any = "middle",
) -> BitErrors:
    """The majority of `samples` answers sampled from one state, coordinate by coordinate.

    Parameters
    ----------
    sampler: `icl.Logit(T)`, `icl.Probit(T)`, `icl.Clip()` or `icl.Round()`; T = 0 rounds exactly.
    samples: N >= 1, ties broken by a coin.
    temperature: replaces that of the sampler; an array broadcasts.
    threshold: "middle", "best" or numbers, as in `DecodingChannel.threshold`. `icl.Clip()` is always cut
        at the middle of the prior's values.

    Quadrature to about 1e-12. Symmetric samplers: never below `greedy_errors`, and above by
    c/N gain phi/noise_std^3. Errors: `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> import icltheory as icl
    >>> channel = DecodingChannel(icl.Signs(), 10, np.array(0.625), np.array(0.425))
    >>> majority_errors(channel, icl.Logit(0.6), [1, 25]).mean.round(10)
    array([0.28074843, 0.10010751])
    """
    require_channel(channel)
    return _errors(
        channel,
        bit_law(sampler, channel.numbers.gap, temperature),
        positive_integers(samples, "samples"),
        threshold,
    )


def sampled_errors(
    channel: DecodingChannel,
    sampler: BinarySampler,
    *,
    temperature: Any = None,
    threshold: Any = "middle",
) -> BitErrors:
    """One sampled answer; arguments as for `majority_errors`.

    Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> channel = DecodingChannel(icl.Signs(), 10, np.array(0.6), np.array(0.3))
    >>> float(sampled_errors(channel, icl.Probit(0.4)).mean.round(6))  # Q(0.6/0.5)
    0.11507
    """
    return majority_errors(channel, sampler, 1, temperature=temperature, threshold=threshold)


def greedy_errors(channel: DecodingChannel, *, threshold: Any = "middle") -> BitErrors:
    """The state rounded at the threshold: Q(margin/noise_std).

    Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> channel = DecodingChannel(icl.Signs(), 10, np.array(0.625), np.array(0.425))
    >>> float(greedy_errors(channel).mean.round(10))
    0.0707012537
    """
    return majority_errors(channel, Round(), 1, threshold=threshold)


def averaged_errors(
    channel: DecodingChannel, temperature: Any, samples: Any, *, threshold: Any = "middle"
) -> BitErrors:
    """`samples` states with noise N(0, temperature^2) each, averaged before rounding.

    Rounding first and voting (`majority_errors` with `icl.Probit`) needs pi/2 times as many.

    Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> channel = DecodingChannel(icl.Signs(), 10, np.array(0.6), np.array(0.3))
    >>> float(averaged_errors(channel, 0.8, 4).mean.round(6))  # Q(0.6/0.5)
    0.11507
    """
    noise = finite(temperature, "temperature")
    if np.any(noise < 0):
        raise InvalidInput(f"temperature = {noise.min():g} is negative; 0 adds no noise.")
    noise = noise / np.sqrt(positive_integers(samples, "samples"))
    return _errors(channel, BitLaw("probit", noise), np.ones(()), threshold)


def _errors(
    channel: DecodingChannel, law: BitLaw, samples: np.ndarray, threshold: Any
) -> BitErrors:
    require_channel(channel)
    prior = channel.numbers
    low, high = channel.margins(prior.centre if law.kind == "clip" else threshold)
    broadcast(channel=low, temperature=law.temperature, samples=samples)
    wrong = vote_error(low, channel.noise_std, law, samples)
    same = np.allclose(low, high, rtol=1e-15, atol=0)
    return BitErrors(
        wrong, wrong if same else vote_error(high, channel.noise_std, law, samples), prior
    )
