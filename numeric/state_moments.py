"""Moments of one coordinate of a chain's state by its class, exact at every n and d.

The channel of `numeric.binary_decoding` gives every coordinate one noise; for bits and sparse bits the
exact variances of zeros and ones differ. Source: orthogonal invariance, derived here. Exported:
`exact_state_moments`, `StateMoments`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
import sympy as sp

from icltheory.binary_priors import BinaryPrior
from icltheory.chains import NoisyDecoding
from icltheory.contraction import contraction_moments
from icltheory.errors import OutOfDomain
from icltheory.laws.wishart import wishart_trace_moment
from numeric.arrays import integer
from numeric.binary_decoding import moments_up_to, noise_gains, require_numbers, start_value
from numeric.binary_samplers import PriorNumbers, prior_numbers
from numeric.contraction import rational_step
from numeric.decoding_display import Shown

_LARGEST_SQUARE = 20  # steps of E (tr A^t)^2: products of traces of total power 2t


@dataclass(frozen=True, repr=False)
class StateMoments(Shown):
    """Mean and variance of u_j where w*_j is the lower and the higher value, exact at n and d."""

    low_mean: float
    low_var: float
    high_mean: float
    high_var: float


def exact_state_moments(
    decoding: NoisyDecoding, prior: BinaryPrior, n: int, d: int, *, start: str = "zero"
) -> StateMoments:
    """The moments of one coordinate of the state by its class, exact for every prior, n and d.

    With A = I - eta S, p = E (A^t)_jl^2 for j != l follows from E (tr A^t)^2 and beta_2t. At most 20
    steps. Errors: `InvalidInput`, `OutOfDomain`. Source: orthogonal invariance, derived here.

    >>> import icltheory as icl
    >>> moments = exact_state_moments(icl.NoisyDecoding(0.5, 0, 1), icl.SparseBits(3), 20, 10)
    >>> round(moments.low_var, 12), round(moments.high_var, 12)  # eta^2 k/n and eta^2 (k + 1)/n
    (0.0375, 0.05)
    """
    require_numbers(decoding)
    length, law, t = integer(n, "n"), prior_numbers(prior, d), int(decoding.steps)
    if t > _LARGEST_SQUARE:
        raise OutOfDomain(f"exact moments by class reach {_LARGEST_SQUARE} steps, not {t}.")
    beta = moments_up_to(2 * t, length, law.d, decoding.step_size, False)
    off = off_diagonal_moment(t, length, law.d, decoding.step_size)
    diagonal = beta[2 * t] - (law.d - 1) * off
    sampling, label = noise_gains(decoding, beta, np.array(t), length)
    noise = float(sampling / int(decoding.samples) + label)
    origin = start_value(law, start)
    values = np.array([law.low, law.low + law.gap]) - origin
    out = []
    for value, share in zip(values, _shares_beside(law), strict=True):
        others = (1 - share) * values[0] ** 2 + share * values[1] ** 2
        spread = value**2 * (diagonal - beta[t] ** 2) + (law.d - 1) * others * off
        out += [float(origin + value * (1 - beta[t])), float(spread + noise)]
    return StateMoments(*out)


def _shares_beside(law: PriorNumbers) -> tuple[float, float]:
    """Share of high values among the other coordinates, given a low and given a high one."""
    if law.ones is None or law.d == 1:
        return law.share, law.share
    return law.ones / (law.d - 1), (law.ones - 1) / (law.d - 1)


@lru_cache(maxsize=256)
def off_diagonal_moment(t: int, n: int, d: int, step_size: sp.Expr) -> float:
    """E (A^t)_jl^2, j != l, A = I - step_size S: (d^2 beta_2t - E (tr A^t)^2)/(d (d-1) (d+2))."""
    if d == 1:
        return 0.0
    step = rational_step(step_size) / n
    squares = sum(
        comb(t, j) * comb(t, k) * (-step) ** (j + k) * _trace_pair(j, k, n, d)
        for j in range(t + 1)
        for k in range(t + 1)
    )
    second = contraction_moments(2 * t, n, d, rational_step(step_size))[-1]
    return float((d**2 * second - squares) / (d * (d - 1) * (d + 2)))


def _trace_pair(j: int, k: int, n: int, d: int) -> sp.Expr:
    """E tr W^j tr W^k, W = X'X."""
    powers = tuple(x for x in (j, k) if x)
    return d ** (2 - len(powers)) * (wishart_trace_moment(powers, n, d) if powers else 1)
