"""The law of a chain of noisy gradient steps, given the prompt: d independent Gaussian coordinates.

w <- w - eta (S w - b) + sigma xi from w_0 = 0, S = X'X/n and b = X'y/n. In the eigenbasis of S a chain of t
steps ends with the error e_j = o_j + c_j + s_j z_j. Errors given the prompt are totals |w - w*|^2. Source:
derived here. Exported: `chain_law`, `ChainLaw`; `decoding_numbers`, `noise_gain` and the checks serve
simulations and predictions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.chains import NoisyDecoding
from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import broadcast, finite, integer, number, positive_integers, real
from numeric.chain_prompts import DecodingPrompts
from numeric.decoding_display import Shown

_BATCH = 2**20  # bytes of the states of one batch of prompts: they stay in the cache
_LARGEST = 2**30  # bytes of the chains of a single prompt
_LONGEST = 10**6  # steps that are run one by one
_FAR = 1e150  # states beyond have no squares in float64

VERIFIERS = ("prompt_loss", "oracle")


@dataclass(frozen=True)
class DecodingNumbers:
    """The fields of an `icl.NoisyDecoding` as floats; `factors` scales the noise of every step."""

    step_size: float
    noise_std: float
    steps: int
    samples: int
    label_noise_var: float
    output_only: bool
    factors: tuple[float, ...] | None
    scaled: bool

    @property
    def output_std(self) -> float:
        """The standard deviation of the noise, sqrt(eta) sigma if it is scaled."""
        return self.noise_std * self.step_size**0.5 if self.scaled else self.noise_std

    def factor(self, step: int) -> float:
        """Of the noise added after step `step`, counted from 0."""
        if self.output_only:
            return 0.0
        return 1.0 if self.factors is None else self.factors[step]


def decoding_numbers(decoding: Any) -> DecodingNumbers:
    """`decoding` with numbers everywhere; `InvalidInput` if it is none or still contains symbols."""
    if not isinstance(decoding, NoisyDecoding):
        raise InvalidInput(
            f"decoding has type {type(decoding).__name__}; pass icl.NoisyDecoding(step_size=0.5, "
            f"noise_std=0.1, steps=4)."
        )
    where = decoding.noise_where
    schedule = None if isinstance(where, str) else tuple(where)
    fields = (decoding.step_size, decoding.noise_std, decoding.steps, decoding.samples)
    try:
        step, std, steps, samples = (float(x) for x in fields)
        noise_var = float(decoding.label_noise_var)
        factors = None if schedule is None else tuple(float(x) for x in schedule)
    except TypeError as error:
        raise InvalidInput(
            f"{decoding} still contains symbols; numbers are needed here, e.g. step_size=0.5."
        ) from error
    return DecodingNumbers(
        number(step, "step_size"),
        number(std, "noise_std"),
        integer(steps, "steps", 0),
        integer(samples, "samples"),
        number(noise_var, "label_noise_var"),
        where == "output",
        factors,
        bool(decoding.scaled_noise),
    )


# -- the law of one chain, given the prompt --------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class ChainLaw(Shown):
    """A chain ends with the error e_j = overfit_j + centre_j + spread_j z_j, z_j independent N(0, 1).

    All arrays are (..., P, d) in the eigenbasis of each prompt: leading axes for settings, then
    prompts, then directions. overfit is least squares minus w*; the prompt loss is, up to a constant,
    sum_j lambda_j (centre_j + spread_j z_j)^2. Errors of this class are totals |w - w*|^2.
    """

    eigenvalues: np.ndarray
    overfit: np.ndarray
    centre: np.ndarray
    spread: np.ndarray
    floor: np.ndarray

    def __post_init__(self) -> None:
        names = ("eigenvalues", "overfit", "centre", "spread", "floor")
        arrays = {name: finite(getattr(self, name), name) for name in names}
        broadcast(**{name: x for name, x in arrays.items() if name != "floor"})
        if (
            not arrays["centre"].ndim
            or np.any(arrays["eigenvalues"] < 0)
            or np.any(arrays["spread"] < 0)
        ):
            raise InvalidInput(
                "a law has arrays (..., P, d) with eigenvalues and spread >= 0; make it with "
                "numeric.chain_law."
            )
        for name, array in arrays.items():
            object.__setattr__(self, name, array)

    @property
    def d(self) -> int:
        """Dimension."""
        return self.centre.shape[-1]

    def verified(self, verifier: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(o, c, s, mu) of a verifier that orders candidates by sum_j mu_j (c_j + s_j z_j)^2."""
        require_verifier(verifier)
        if verifier == "oracle":
            centre = self.centre + self.overfit
            return np.zeros_like(centre), centre, self.spread, np.ones_like(centre)
        return self.overfit, self.centre, self.spread, self.eigenvalues

    def mean_error(self, samples: Any = 1) -> np.ndarray:
        """E |mean of N chains - w*|^2, total, (..., P) + the shape of `samples`.

        The bias (c + o)^2 stays; only the noise falls like 1/N. `samples` may be infinite.
        """
        counts = sample_counts(samples)
        bias = np.square(self.centre + self.overfit).sum(axis=-1)
        noise = np.square(self.spread).sum(axis=-1)
        return np.multiply.outer(bias, np.ones_like(counts)) + np.multiply.outer(noise, 1 / counts)

    def limit_error(self, verifier: str = "prompt_loss") -> np.ndarray:
        """Best-of-N for N to infinity, total, (..., P): 0 for the oracle, least squares otherwise.

        Null directions keep their coefficient and their noise. A chain without noise has one
        candidate only.
        """
        o, c, s, mu = self.verified(verifier)
        moved = (s > 0) & (mu > 0)
        return np.where(moved, np.square(o), np.square(o + c) + np.square(s)).sum(axis=-1)

    def prompt_loss(self) -> np.ndarray:
        """E |y - X w|^2/n of one chain, total, (..., P)."""
        square = np.square(self.centre) + np.square(self.spread)
        return (self.eigenvalues * square).sum(axis=-1) + self.floor


def chain_law(
    prompts: DecodingPrompts,
    decoding: NoisyDecoding,
    *,
    step_size: Any = None,
    noise_std: Any = None,
    steps: Any = None,
) -> ChainLaw:
    """The law of a chain on every prompt, for one decoding or for a grid of settings.

    Parameters
    ----------
    prompts: P prompts with the label noise of the decoding.
    decoding: an `icl.NoisyDecoding` with numbers.
    step_size, noise_std, steps: arrays that replace the decoding's value; they broadcast against each
        other, and their common shape comes before the axis of the prompts. A noise schedule has as
        many entries as the longest chain.

    Errors: `InvalidInput`; `OutOfDomain` where a diverging chain leaves the range of float64.
    Source: derived here.

    >>> import icltheory as icl
    >>> from numeric import decoding_prompts
    >>> data = decoding_prompts(20, 10, 500, seed=1)
    >>> law = chain_law(data, icl.NoisyDecoding(0.5, 0.3, 3), steps=np.arange(1, 6))
    >>> law.centre.shape, (law.mean_error().mean(axis=-1) / 10).round(2)
    ((5, 500, 10), array([0.48, 0.37, 0.32, 0.29, 0.27]))
    """
    spec = decoding_numbers(decoding)
    require_prompts(prompts, spec)
    eta, sigma, t = _settings(spec, step_size, noise_std, steps)
    rate = eta * prompts.eigenvalues
    with np.errstate(over="ignore", invalid="ignore"):
        centre = -((1 - rate) ** t) * (prompts.coefficients + prompts.overfit)
        variance = np.square(sigma) * noise_gain(rate, t, spec)
        if spec.scaled:
            variance = variance * eta
    if not (np.all(np.abs(centre) < _FAR) and np.all(variance < _FAR)):
        raise diverged(int(t.max()), float(eta.max()))
    values = np.broadcast_to(prompts.eigenvalues, centre.shape)
    overfit = np.broadcast_to(prompts.overfit, centre.shape)
    return ChainLaw(values, overfit, centre, np.sqrt(variance), prompts.floor)


def _settings(
    spec: DecodingNumbers, step_size: Any, noise_std: Any, steps: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """eta, sigma and t, checked, with two more axes for prompts and directions."""
    eta = finite(spec.step_size if step_size is None else step_size, "step_size")
    sigma = finite(spec.noise_std if noise_std is None else noise_std, "noise_std")
    t = positive_integers(spec.steps if steps is None else steps, "steps", 0)
    if np.any(eta <= 0):
        raise InvalidInput(f"step_size = {eta.min():g} is not positive; pass for example 0.5.")
    if np.any(sigma < 0):
        raise InvalidInput(f"noise_std = {sigma.min():g} is negative; pass 0 or more.")
    if spec.factors is not None and t.max() > len(spec.factors):
        raise InvalidInput(
            f"the noise schedule has {len(spec.factors)} entries and the longest chain "
            f"{int(t.max())} steps; give a factor for every step."
        )
    eta, sigma, t = broadcast(step_size=eta, noise_std=sigma, steps=t)
    return eta[..., None, None], sigma[..., None, None], t[..., None, None]


def noise_gain(rate: np.ndarray, t: np.ndarray, spec: DecodingNumbers) -> np.ndarray:
    """Variance of the noise in a direction for sigma = 1; rate = eta lambda."""
    if spec.output_only:
        return np.broadcast_to(np.minimum(t, 1.0), np.broadcast_shapes(rate.shape, t.shape))
    if spec.factors is not None:
        gain = np.zeros(np.broadcast_shapes(rate.shape, t.shape))
        for step, factor in enumerate(spec.factors):  # f_s^2 a^(2 (t - 1 - s)), s < t, by Horner
            gain = np.where(step < t, gain * np.square(1 - rate) + factor**2, gain)
        return gain
    # sum_{s<t} (1 - u)^s with u = 1 - a^2, which has its accuracy for small rates from `expm1`.
    u = rate * (2 - rate)
    small = np.abs(u) < 1e-300
    safe = np.where(small, 0.5, u)
    with np.errstate(divide="ignore"):
        gain = -np.expm1(t * np.log1p(-np.minimum(safe, 1.0))) / safe
    return np.where(t == 0, 0.0, np.where(small, t, gain))


def require_prompts(prompts: Any, spec: DecodingNumbers) -> None:
    if not isinstance(prompts, DecodingPrompts):
        raise InvalidInput(
            f"prompts has type {type(prompts).__name__}; draw them with numeric.decoding_prompts."
        )
    if abs(prompts.label_noise_var - spec.label_noise_var) > 1e-12 * (1 + spec.label_noise_var):
        raise InvalidInput(
            f"the prompts have label noise of variance {prompts.label_noise_var:g}, the decoding "
            f"{spec.label_noise_var:g}; draw prompts with label_noise_var={spec.label_noise_var:g}."
        )


def diverged(steps: int, step_size: float) -> OutOfDomain:
    return OutOfDomain(
        f"chains of {steps} steps diverge beyond float64: eta = {step_size:g} is above "
        f"2/lambda_max(S) on some prompts. Lower the step size or the number of steps."
    )


def require_walkable(steps: int) -> None:
    """`InvalidInput` for more steps than are run one by one."""
    if steps > _LONGEST:
        raise InvalidInput(
            f"steps = {steps:.3g} are run one by one here; pass at most {_LONGEST}, or use "
            f"numeric.chain_law, which has no loop over steps."
        )


def require_law(law: Any) -> None:
    """`InvalidInput` for what is no law of chains."""
    if not isinstance(law, ChainLaw):
        raise InvalidInput(f"law has type {type(law).__name__}; make it with numeric.chain_law.")


def require_verifier(verifier: Any) -> None:
    """`InvalidInput` for what is no verifier."""
    if not isinstance(verifier, str) or verifier not in VERIFIERS:
        raise InvalidInput(f"verifier = {verifier!r} is unknown; pass one of {VERIFIERS}.")


def sample_counts(samples: Any, name: str = "samples") -> np.ndarray:
    """Numbers of samples N >= 1 as floats; infinity is allowed."""
    counts = real(samples, name)
    if counts.size == 0 or not np.all(counts >= 1):
        raise InvalidInput(f"{name} = {samples!r} buys nothing; pass numbers of samples >= 1.")
    return counts


def step_counts(spec: DecodingNumbers, at: Any) -> tuple[int, ...]:
    if at is None:
        return (spec.steps,)
    counts = np.atleast_1d(positive_integers(at, "at", 0))
    if counts.ndim != 1 or np.any(np.diff(counts) <= 0):
        raise InvalidInput(
            f"at = {at!r} does not increase; pass numbers of steps such as [1, 2, 4]."
        )
    if spec.factors is not None and counts[-1] > len(spec.factors):
        raise InvalidInput(
            f"the noise schedule has {len(spec.factors)} entries; at reaches {int(counts[-1])} steps."
        )
    return tuple(int(x) for x in counts)


def single_step(at: Any) -> bool:
    """Whether `at` is one number of steps, whose results have no axis of steps."""
    return at is None or np.ndim(at) == 0


def cache_batches(prompts: int, floats: int) -> Iterator[slice]:
    """Slices of prompts with `floats` numbers each that fit into the cache."""
    if 8 * floats > _LARGEST:
        raise InvalidInput(
            f"the chains of one prompt need {8 * floats / 2**30:.3g} GiB; simulate fewer chains."
        )
    size = max(1, _BATCH // (8 * floats))
    for start in range(0, prompts, size):
        yield slice(start, min(prompts, start + size))
