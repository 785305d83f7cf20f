"""pass@N: the chance that the right binary answer is among N sampled ones, and the N it takes.

Without label noise no other binary vector fits a prompt, so that best-of-N by prompt loss succeeds
iff w* was sampled: pass@N = E[1 - (1 - P)^N] with P the probability of w* given the state. Source:
derived here. Exported: `pass_at_n`, `PassRate`, `best_temperature`, `BestTemperature`, `equivocation`,
`log_samples_needed`; `States` and `average_over_states` serve `numeric.binary_verifiers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from icltheory.binary_priors import BinarySampler, Logit
from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import broadcast, finite, integer, positive_integers
from numeric.binary_decoding import DecodingChannel, require_channel
from numeric.binary_samplers import BitLaw, bit_law, gaussian_mean
from numeric.decoding_display import Shown, Tabled, average_rows, brief
from numeric.montecarlo import Seed, seed_sequence

_BLOCK = 2**21  # numbers held at a time
_ROWS = 2048  # settings whose log-normal quadrature is done at a time
Success = Callable[[np.ndarray, np.ndarray], np.ndarray]

METHODS = ("monte carlo", "log-normal")


@dataclass(frozen=True, eq=False, repr=False)
class PassRate(Tabled):
    """A probability of success with its standard error (0 where nothing was sampled); arrays."""

    value: np.ndarray
    standard_error: np.ndarray

    def __repr__(self) -> str:
        return f"PassRate({brief(self)})"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        return average_rows(self.value, self.standard_error)


def pass_at_n(
    channel: DecodingChannel,
    sampler: BinarySampler,
    samples: Any,
    *,
    temperature: Any = None,
    threshold: Any = "middle",
    method: str = "monte carlo",
    draws: int = 2048,
    seed: Seed = 0,
) -> PassRate:
    """P(w* is among N sampled answers), for independent coordinates of a Gaussian channel.

    Parameters
    ----------
    channel: of `decoding_channel`; its arrays broadcast with `samples` and `temperature`.
    sampler: `icl.Logit(T)`, `icl.Probit(T)`, `icl.Clip()`, `icl.Round()`; T = 0 is greedy decoding.
    samples: N >= 1, up to 1e300.
    temperature, threshold: as for `majority_errors`.
    method: "monte carlo" over `draws` states, the same for every setting; "log-normal" takes ln P as
        Gaussian, by quadrature: for large d, poor at N = 1 and impossible for `icl.Clip()`.

    N and T are vectorised: the states of a setting serve every N. Errors: `InvalidInput`,
    `OutOfDomain`. Source: derived here.

    >>> import icltheory as icl
    >>> channel = DecodingChannel(icl.Signs(), 12, np.array(0.6), np.array(0.45))
    >>> rate = pass_at_n(channel, icl.Logit(channel.calibrated_temperature), [1, 64, 4096])
    >>> rate.value.round(2)
    array([0.18, 0.85, 0.99])
    """
    votes, law, low, high, std = setting_of(channel, sampler, samples, temperature, threshold)
    if method not in METHODS:
        raise InvalidInput(f"method = {method!r} is not one of {', '.join(METHODS)}.")
    t, low, high, std, votes = np.broadcast_arrays(law.temperature, low, high, std, votes)
    value, error = np.empty(t.shape), np.zeros(t.shape)
    greedy = np.full(t.shape, law.kind == "round")
    if law.kind in ("logit", "probit"):
        greedy = t == 0
    if greedy.any():  # every sample is the same
        wrong = (special.ndtr(-_ratio(x[greedy], std[greedy])) for x in (low, high))
        value[greedy] = 1 - channel.numbers.vector_error(*wrong)
    rest = ~greedy
    if rest.any():
        parts = [x[rest] for x in (t, low, high, std, votes)]
        if method == "log-normal":
            value[rest] = _log_normal(channel, law, *parts)
        else:
            states = States(channel, integer(draws, "draws", 2), seed)
            value[rest], error[rest] = average_over_states(states, law, parts[:4], parts[4], _pass)
    return PassRate(value[()], error[()])


def setting_of(
    channel: DecodingChannel, sampler: BinarySampler, samples: Any, temperature: Any, threshold: Any
) -> tuple[np.ndarray, BitLaw, np.ndarray, np.ndarray, np.ndarray]:
    require_channel(channel)
    law = bit_law(sampler, channel.numbers.gap, temperature)
    cut = channel.numbers.centre if law.kind == "clip" else threshold
    low, high = channel.margins(cut)
    votes = positive_integers(samples, "samples")
    broadcast(channel=low, temperature=law.temperature, samples=votes)
    return votes, law, low, high, channel.noise_std


def _ratio(margin: np.ndarray, std: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(std > 0, margin / np.where(std > 0, std, 1.0), np.sign(margin) * np.inf)


class States:
    """Standard normal noise (draws, d) and which coordinates are high, common to all settings."""

    def __init__(self, channel: DecodingChannel, draws: int, seed: Seed) -> None:
        law, rng = channel.numbers, np.random.default_rng(seed_sequence(seed))
        if 8 * draws * law.d > 2**28:
            raise InvalidInput(f"{draws} draws in dimension {law.d} need too much memory.")
        self.noise = rng.standard_normal((draws, law.d))
        if law.ones is None:
            self.high = rng.random((draws, law.d)) < law.share
        else:
            self.high = np.broadcast_to(np.arange(law.d) < law.ones, (draws, law.d))

    def log_success(self, law: BitLaw, low: float, high: float, std: float) -> np.ndarray:
        """ln P of every draw, (draws,)."""
        margin = low if low == high else np.where(self.high, high, low)
        return law.log_chance(margin + std * self.noise).sum(axis=1)


def average_over_states(
    states: States, law: BitLaw, setting: Sequence[np.ndarray], votes: np.ndarray, success: Success
) -> tuple[np.ndarray, np.ndarray]:
    """Means over the states of success(ln P, N), with standard errors.

    setting: temperature, margins of low and high values, noise_std; arrays (K,) like votes.
    success: (draws,), (R, 1) to (R, draws).
    """
    keys, group = np.unique(np.stack(list(setting)), axis=1, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    ends = np.cumsum(np.bincount(group.ravel(), minlength=keys.shape[1]))
    value, error = np.empty(votes.shape), np.empty(votes.shape)
    for key, rows in zip(keys.T, np.split(order, ends[:-1]), strict=True):
        log_p = states.log_success(BitLaw(law.kind, key[0], law.gap), *key[1:])
        counts, where = np.unique(votes[rows], return_inverse=True)
        size = max(1, _BLOCK // len(log_p))
        blocks = [
            success(log_p, counts[start : start + size, None])
            for start in range(0, len(counts), size)
        ]
        mean = np.concatenate([x.mean(axis=1) for x in blocks])
        spread = np.concatenate([x.std(axis=1, ddof=1) for x in blocks])
        value[rows], error[rows] = mean[where], spread[where] / math.sqrt(len(log_p))
    return value, error


def _pass(log_p: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """1 - (1 - P)^N."""
    return -np.expm1(votes * _log1m_exp(log_p))


def _log1m_exp(x: np.ndarray) -> np.ndarray:
    """ln(1 - e^x) for x <= 0, at least -1e300 so that multiples stay numbers."""
    with np.errstate(divide="ignore"):
        return np.maximum(np.where(x > -0.7, np.log(-np.expm1(x)), np.log1p(-np.exp(x))), -1e300)


# -- the log-normal form --------------------------------------------------------------------------


def _log_normal(
    channel: DecodingChannel,
    law: BitLaw,
    t: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    std: np.ndarray,
    votes: np.ndarray,
) -> np.ndarray:
    if law.kind == "clip":
        raise OutOfDomain(
            "icl.Clip() gives w* probability 0 on some states: ln P has no moments; use "
            'method="monte carlo".'
        )
    keys, group = np.unique(np.stack([t, low, high, std]), axis=1, return_inverse=True)
    mean, variance = (x[group.ravel()] for x in log_success_moments(channel, law.kind, *keys))
    size = range(0, len(mean), _ROWS)
    blocks = [slice(start, start + _ROWS) for start in size]
    rate = np.concatenate(
        [
            gaussian_mean(
                lambda x: -np.expm1(-np.exp(np.minimum(x, 700.0))),
                np.log(votes[b]) + mean[b],
                np.sqrt(variance[b]),
                np.ones(mean[b].shape),
            )
            for b in blocks
        ]
    )
    return np.minimum(rate, 1.0)  # weights of the quadrature sum to 1 up to rounding


def log_success_moments(
    channel: DecodingChannel,
    kind: str,
    t: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    std: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of ln P over all coordinates, for arrays (K,) of settings with t > 0."""
    prior = channel.numbers
    classes = []
    for margin in (low, high):
        if classes and np.array_equal(low, high):
            classes.append(classes[0])
            continue
        first, second = [], []
        for start in range(0, len(t), _ROWS):
            b = slice(start, start + _ROWS)
            law = BitLaw(kind, t[b, None])
            for power, out in ((1, first), (2, second)):
                out.append(
                    gaussian_mean(
                        lambda v, law=law, power=power: law.log_chance(v) ** power,
                        margin[b],
                        std[b],
                        t[b],
                    )
                )
        classes.append((np.concatenate(first), np.concatenate(second)))
    (m0, s0), (m1, s1) = classes
    if prior.ones is None:
        mean = (1 - prior.share) * m0 + prior.share * m1
        square = (1 - prior.share) * s0 + prior.share * s1
        return prior.d * mean, prior.d * np.maximum(square - mean**2, 0.0)
    zeros, ones = prior.d - prior.ones, prior.ones
    spread = zeros * np.maximum(s0 - m0**2, 0.0) + ones * np.maximum(s1 - m1**2, 0.0)
    return zeros * m0 + ones * m1, spread


# -- the best temperature ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class BestTemperature(Shown):
    """The temperature with the largest pass@N on a refined grid, and that pass@N."""

    temperature: np.ndarray
    rate: PassRate


def best_temperature(
    channel: DecodingChannel,
    samples: Any,
    *,
    sampler: Callable[[Any], BinarySampler] = Logit,
    threshold: Any = "middle",
    method: str = "monte carlo",
    draws: int = 2048,
    seed: Seed = 0,
) -> BestTemperature:
    """The temperature that maximises pass@N at every N; 0 where greedy decoding is best.

    A grid from 1/16 to 32 times the calibrated temperature and 0, refined once around the best
    point, on common random states. Arguments as for `pass_at_n`; the channel's axes and `samples`
    broadcast. Errors: `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> import icltheory as icl
    >>> channel = DecodingChannel(icl.Signs(), 12, np.array(0.6), np.array(0.45))
    >>> best = best_temperature(channel, [1, 64, 4096])
    >>> bool(best.temperature[0] < channel.calibrated_temperature < best.temperature[2])
    True
    """
    require_channel(channel)
    votes = positive_integers(samples, "samples")
    unit, votes = broadcast(channel=channel.calibrated_temperature, samples=votes)

    def rate(temperature: np.ndarray) -> PassRate:
        return pass_at_n(
            channel,
            sampler(1),
            votes,
            temperature=temperature,
            threshold=threshold,
            method=method,
            draws=draws,
            seed=seed,
        )

    def best(grid: np.ndarray) -> tuple[np.ndarray, PassRate]:
        """Of temperatures (K, ...), with the axes of the settings."""
        all_rates = rate(grid)
        index = all_rates.value.argmax(axis=0)[None]
        pick = [
            np.take_along_axis(x, index, axis=0)[0]
            for x in (np.broadcast_to(grid, all_rates.value.shape), *_pair(all_rates))
        ]
        return pick[0], PassRate(pick[1], pick[2])

    factors = np.concatenate([[0.0], 2.0 ** np.arange(-4, 5.5, 0.5)])
    axes = (...,) + (None,) * unit.ndim
    temperature, first = best(factors[axes] * unit)
    around = 2.0 ** np.array([0.0, -0.375, -0.25, -0.125, 0.125, 0.25, 0.375])
    temperature, first = best(around[axes] * temperature)
    return BestTemperature(temperature[()], PassRate(first.value[()], first.standard_error[()]))


def _pair(rate: PassRate) -> tuple[np.ndarray, np.ndarray]:
    return rate.value, rate.standard_error


# -- equivocation -----------------------------------------------------------------------------------


def equivocation(signal_to_noise: Any) -> np.ndarray:
    """h(x) = E ln(1 + exp(-2x - 2 sqrt(x) G)), G standard normal, at every x >= 0 (any shape).

    What a sign is still unknown after a Gaussian observation of signal-to-noise ratio x, in nats.
    h(0) = ln 2, h falls. Relative error 1e-13, also where h underflows to 0. Errors: `InvalidInput`.
    Source: the trapezoidal rule, exponentially accurate on analytic integrands.

    >>> equivocation([0.0, 0.5, 1, 3, 9]).round(10)
    array([0.69314718, 0.49180171, 0.35631636, 0.10720783, 0.00384925])
    """
    x = finite(signal_to_noise, "signal_to_noise")
    if np.any(x < 0):
        raise InvalidInput(f"signal_to_noise = {x.min():g} is negative; pass numbers >= 0.")
    out, small = np.empty(x.shape), x <= 1
    g = np.arange(-40, 41) / 4
    weights = np.exp(-(g**2) / 2) / 4 / math.sqrt(2 * math.pi)
    y = x[small][:, None]
    out[small] = np.logaddexp(0.0, -2 * y - 2 * np.sqrt(y) * g) @ weights
    # For large x the Gaussian is centred where the logarithm bends: g = (s - 2x)/(2 sqrt(x)).
    s = np.arange(-160, 161) / 2
    y = x[~small][:, None]
    bent = np.exp(s / 2) * np.logaddexp(0.0, -s)
    scale = np.exp(-y[:, 0] / 2) / np.sqrt(2 * math.pi * y[:, 0]) / 4
    out[~small] = (np.exp(-(s**2) / (8 * y)) @ bent) * scale
    return out[()]


def log_samples_needed(channel: DecodingChannel) -> np.ndarray:
    """ln N*, the number of calibrated samples at which pass@N jumps from 0 to 1: d h(snr).

    For bits the two values are half as far apart: d h(snr/4). Uniform priors only. Errors:
    `OutOfDomain`. Source: derived here.

    >>> import icltheory as icl
    >>> channel = DecodingChannel(icl.Signs(), 12, np.array(0.6), np.array(0.6))
    >>> float(log_samples_needed(channel).round(4))  # 12 h(1)
    4.2758
    """
    require_channel(channel)
    law = channel.numbers
    if law.share != 0.5 or law.ones is not None:
        raise OutOfDomain(
            "the number of samples needed is for icl.Signs() and icl.Bits(0.5); use pass_at_n."
        )
    with np.errstate(divide="ignore"):
        ratio = np.square(channel.gain * law.gap / 2 / channel.noise_std)
    return law.d * equivocation(np.minimum(ratio, 1e300))
