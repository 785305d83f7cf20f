"""How long a noisy chain should be, and how a budget of thoughts is split into chains.

All scans are over the risk of `icl.NoisyDecoding` at every length, from one table of contraction
moments: exact at n and d, in the limit at gamma, or given (`numeric.preconditioned_chains`). Risks
are per coordinate with E w w' = I. Exported: `chain_risks`, `optimal_length`, `best_split`,
`ChainOptimum`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import icltheory as icl
from icltheory.contraction import LARGEST_EXACT
from icltheory.errors import InvalidInput
from numeric.arrays import finite, integer, nonnegative
from numeric.contraction import contraction_moments, contraction_moments_limit
from numeric.decoding_display import Shown

LONGEST_EXACT = (LARGEST_EXACT - 1) // 2


@dataclass(frozen=True, repr=False)
class ChainOptimum(Shown):
    """The best number of thoughts with the number of chains and the risk per coordinate.

    `at_end`: the longest chain that was looked at is the best one, a longer one may be better.
    """

    steps: int
    samples: float
    risk: float
    at_end: bool


def chain_risks(
    decoding: icl.NoisyDecoding,
    n: int | None = None,
    d: int | None = None,
    *,
    gamma: float | None = None,
    label_noise_ratio: float = 0.0,
    moments: Any = None,
) -> np.ndarray:
    """The risk per coordinate of the mean of the chains after t = 0, ..., decoding.steps thoughts.

    Parameters
    ----------
    decoding: with numbers in all fields and `noise_where` "steps" or "output".
    n, d: sizes, for exact risks of at most 60 thoughts; or
    gamma: the limit of d/n, with `label_noise_ratio` the limit of label_noise_var/n; or
    moments: beta_0, ..., beta_{2 steps}, with `label_noise_ratio` = label_noise_var/n.

    Errors: `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> chain_risks(icl.NoisyDecoding(0.5, 0.3, 3, label_noise_var=2.25), 20, 10)[-1].round(10)
    np.float64(0.3798099414)
    """
    parts = _parts(decoding, n, d, gamma, label_noise_ratio, moments)
    return parts.fixed + parts.sampling / float(decoding.samples)


@dataclass(frozen=True)
class _Parts:
    """Per length: the bias, what labels add to it, and the variance of one chain."""

    bias: np.ndarray
    labels: np.ndarray
    sampling: np.ndarray

    @property
    def fixed(self) -> np.ndarray:
        """What averaging leaves."""
        return self.bias + self.labels


def _parts(
    decoding: Any, n: Any, d: Any, gamma: Any, label_noise_ratio: Any, moments: Any
) -> _Parts:
    steps, step_size, noise_var = _numbers(decoding)
    if (n is not None) + (gamma is not None) + (moments is not None) != 1 or (n is None) != (
        d is None
    ):
        raise InvalidInput("pass n and d, or gamma, or moments: one of the three.")
    label = nonnegative(label_noise_ratio, "label_noise_ratio")
    if n is not None:
        if label:
            raise InvalidInput("label_noise_ratio is for the limit; at n the decoding has it.")
        if steps > LONGEST_EXACT:
            raise InvalidInput(
                f"steps = {steps}: exact risks are computed for up to {LONGEST_EXACT} thoughts (beyond, "
                f"rare prompts carry them); pass gamma for the limit."
            )
        beta = contraction_moments(np.arange(2 * steps + 1), n, d, decoding.step_size)
        label = float(decoding.label_noise_var) / integer(n, "n")
    elif gamma is not None:
        beta = contraction_moments_limit(np.arange(2 * steps + 1), gamma, step_size)
    else:
        beta = finite(moments, "moments")
        if beta.ndim != 1 or len(beta) <= 2 * steps:
            raise InvalidInput(
                f"moments has shape {beta.shape}; {2 * steps + 1} moments are needed."
            )
    return combine(beta, steps, step_size, noise_var, label, decoding.noise_where)


def combine(
    beta: np.ndarray, steps: int, step_size: float, noise_var: float, label: float, where: str
) -> _Parts:
    """The parts of the risk at 0, ..., steps from beta_0, ..., beta_{2 steps}; beta_0 measures noise
    that is not contracted: 1, or tr Sigma/d where predictions are measured."""
    lengths = np.arange(steps + 1)
    even = beta[: 2 * steps + 1 : 2]
    sums = np.concatenate([[0.0], np.cumsum(beta)])
    # sum_{s<t} (beta_s - beta_{s+t})
    seen = 2 * sums[lengths] - sums[2 * lengths]
    gain = np.concatenate([[0.0], np.cumsum(even[:-1])])
    if where == "output":
        gain = even[0] * np.minimum(lengths, 1.0)
    return _Parts(even, step_size * label * seen, noise_var * gain)


def _numbers(decoding: Any) -> tuple[int, float, float]:
    """Steps, step size and noise variance of a decoding without symbols."""
    if not isinstance(decoding, icl.NoisyDecoding):
        raise InvalidInput(
            f"decoding has type {type(decoding).__name__}; pass icl.NoisyDecoding(0.5, 0.1, 20)."
        )
    if not isinstance(decoding.noise_where, str):
        raise InvalidInput(
            "a schedule belongs to one length; pass noise_where 'steps' or 'output'."
        )
    fields = (decoding.step_size, decoding.noise_var, decoding.samples, decoding.label_noise_var)
    if not decoding.steps.is_Integer or any(x.free_symbols for x in fields):
        raise InvalidInput("the decoding contains symbols; pass numbers in all fields.")
    return int(decoding.steps), float(decoding.step_size), float(decoding.noise_var)


def optimal_length(
    decoding: icl.NoisyDecoding,
    n: int | None = None,
    d: int | None = None,
    **values: Any,
) -> ChainOptimum:
    """The number of thoughts, at most decoding.steps, with the least risk; arguments as `chain_risks`.

    `values`: the keywords of `chain_risks`. Without label noise the risk falls up to the first t with
    beta_{2t} - beta_{2t+2} <= noise_var/samples beta_{2t} and rises after it; with label noise every
    length is looked at.

    Errors: `InvalidInput`. Source: derived here.

    >>> best = optimal_length(icl.NoisyDecoding(1 / 3, 0.1, 50), gamma=2)
    >>> best.steps, round(best.risk, 10)
    (7, 0.5612420382)
    """
    parts = _parts(decoding, n, d, **{**_DEFAULTS, **_known(values)})
    samples = float(decoding.samples)
    risks = parts.fixed + parts.sampling / samples
    best = int(np.argmin(risks))
    if decoding.noise_where == "steps" and not np.any(parts.labels):
        best = _unimodal(parts.bias, float(decoding.noise_var) / samples)
    return ChainOptimum(best, samples, float(risks[best]), best == len(risks) - 1)


def _unimodal(bias: np.ndarray, noise: float) -> int:
    """The first t whose next thought gains no more than its noise, relative to beta_{2t}: no
    difference of risks, which agree to all digits where the bias is small."""
    with np.errstate(under="ignore"):
        turns = bias[:-1] - bias[1:] <= noise * bias[:-1]
    return int(np.argmax(turns)) if turns.any() else len(bias) - 1


def best_split(
    decoding: icl.NoisyDecoding,
    budget: int,
    n: int | None = None,
    d: int | None = None,
    *,
    whole_samples: bool = True,
    **values: Any,
) -> ChainOptimum:
    """The best split of `budget` thoughts: t thoughts each in N = budget/t chains, t <= decoding.steps.

    Parameters
    ----------
    decoding: its `samples` must be 1: the split decides.
    budget: integer >= 1, thoughts of all chains together.
    whole_samples: N rounded down; False takes N = budget/t as it is (the smooth approximation).
    n, d, values: as `chain_risks`.

    One thought is always spent. Errors: `InvalidInput`. Source: derived here.

    >>> best = best_split(icl.NoisyDecoding(0.5, 0.1**0.5, 400), 10**4, gamma=1)
    >>> best.steps, best.samples
    (125, 80.0)
    """
    total = integer(budget, "budget")
    if _numbers(decoding) and decoding.samples != 1:
        raise InvalidInput(
            f"samples = {decoding.samples}: the split decides the number of chains; leave it at 1."
        )
    if decoding.steps == 0:
        raise InvalidInput("steps = 0 spends no thought; pass the longest chain to look at.")
    parts = _parts(decoding, n, d, **{**_DEFAULTS, **_known(values)})
    lengths = np.arange(1, min(len(parts.fixed) - 1, total) + 1)
    samples = float(total) / lengths
    if whole_samples:
        samples = np.floor(samples)
    risks = parts.fixed[lengths] + parts.sampling[lengths] / samples
    best = int(np.argmin(risks))
    end = best == len(lengths) - 1 and lengths[-1] < total
    return ChainOptimum(int(lengths[best]), float(samples[best]), float(risks[best]), end)


_DEFAULTS = {"gamma": None, "label_noise_ratio": 0.0, "moments": None}


def _known(values: dict[str, Any]) -> dict[str, Any]:
    unknown = set(values) - set(_DEFAULTS)
    if unknown:
        raise InvalidInput(f"{', '.join(sorted(unknown))}: the values are {', '.join(_DEFAULTS)}.")
    return values
