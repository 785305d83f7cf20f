"""Exact moments of softmax weights of a finite prompt: E sum p^2, E sum p^3 and E (sum p^2)^2.

With p = softmax(s xi), xi_1..xi_n i.i.d. N(0, 1), these three numbers determine the mean and the
covariance of a softmax head's output on Gaussian tokens at every prompt length n (derived here, by
Gaussian integration by parts). They are computed without sampling: 1/S^k of the normaliser S
becomes a Laplace integral, under which the tokens are independent. Their derivatives in s are
averages over pairs of tokens of one sign, d p_l / ds = p_l sum_j p_j (xi_l - xi_j), so nothing
cancels. Exported: `prompt_moments`, `PromptMoments`; `weight_moments` and
`weight_moment_derivatives` serve the risks and their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy import special

from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import broadcast, finite, positive_integers
from numeric.decoding_display import Shown

LARGEST_LENGTH = 1e100  # beyond it E (sum p^2)^2 leaves the range of float64 under the integral
LARGEST_SCALE = 200.0  # differences such as eta lose digits like scale^2

# Trapezoidal sums over analytic, rapidly decaying functions: the error of this step is below 1e-15
# (the transform of exp(4x - e^x) decays like |Gamma(4 + i w)|, w = 2 pi / step).
_STEP = 0.2
_REACH = 13.0  # standard deviations kept on each side of a (tilted) Gaussian
_SHIFT = 345.0  # exp(_SHIFT) keeps E w^3 and E w^4 from underflowing at n = 1e100


@dataclass(frozen=True, eq=False, repr=False)
class PromptMoments(Shown):
    """Moments of p = softmax(scale * xi), xi ~ N(0, I_n); all fields have the broadcast shape."""

    prompt_length: Any
    scale: Any
    g: Any
    """E sum p^2; its inverse is the effective number of attended tokens."""
    g3: Any
    """E sum p^3."""
    g22: Any
    """E (sum p^2)^2."""

    @property
    def eta(self) -> Any:
        """1 - g - 6 (g3 - g22): E m^2 = g + scale^2 eta."""
        return 1 - self.g - 6 * (self.g3 - self.g22)

    @property
    def mean(self) -> Any:
        """E m of m = sum p xi, which is scale * (1 - g)."""
        return self.scale * (1 - self.g)

    @property
    def second(self) -> Any:
        """E m^2 of m = sum p xi."""
        return self.g + self.scale**2 * self.eta

    @property
    def variance(self) -> Any:
        """Var m, without the cancellation of `second - mean**2` in long prompts."""
        return self.g + self.scale**2 * (self.g * (1 - self.g) - 6 * (self.g3 - self.g22))

    @property
    def weight(self) -> Any:
        """E sum p^2, the variance that label noise of variance 1 adds to the output."""
        return self.g

    @property
    def g_slope(self) -> Any:
        """dg/ds; the derivatives are computed when the first of them is asked for."""
        return self._slopes[0]

    @property
    def g3_slope(self) -> Any:
        """dg3/ds."""
        return self._slopes[1]

    @property
    def g22_slope(self) -> Any:
        """dg22/ds."""
        return self._slopes[2]

    @property
    def eta_slope(self) -> Any:
        """d eta/ds = -g' - 6 (g3' - g22')."""
        return -self.g_slope - 6 * (self.g3_slope - self.g22_slope)

    @cached_property
    def _slopes(self) -> tuple[Any, ...]:
        return _over_scales(weight_moment_derivatives, self.prompt_length, self.scale)


def prompt_moments(prompt_length: Any, scale: Any) -> PromptMoments:
    """Exact moments of the softmax weights of n Gaussian tokens, by quadrature.

    Parameters
    ----------
    prompt_length: integers n from 1 to 1e100.
    scale: inverse temperature s of p = softmax(s xi), 0 <= s <= 200; for a scalar head with score
        scale k and a query x_q it is k |Sigma^{-1/2} x_q|. Both arguments broadcast.

    The relative error is below 1e-8 (1e-11 for s <= 10); only `eta` and `variance`, which are small
    differences at large s, lose digits in proportion to s^2 (error 1e-6 at s = 200). The derivatives
    `g_slope`, `g3_slope` and `g22_slope` have the same relative error (1e-9 at s = 200); of
    `eta_slope` a factor s is lost. Lengths that share a scale share most of the work. Errors:
    `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> moments = prompt_moments([20, 1000], [2.5, 0.9])
    >>> moments.mean.round(8), moments.second.round(8), moments.weight.round(8)
    (array([1.56537437, 0.89798556]), array([2.78684598, 0.81039595]), array([0.37385025, 0.00223827]))
    """
    lengths, scales = checked_lengths(prompt_length), finite(scale, "scale")
    if np.any(scales < 0):
        raise InvalidInput(
            f"scale = {scales.min():g} is negative; pass its absolute value "
            f"(the weights have the same law, and m changes sign)."
        )
    if np.any(scales > LARGEST_SCALE):
        raise OutOfDomain(
            f"scale = {scales.max():g} is outside 0 <= scale <= {LARGEST_SCALE:g}, where the "
            f"quadrature keeps its accuracy; use a smaller scale, the softmax is the maximum there."
        )
    lengths, scales = broadcast(prompt_length=lengths, scale=scales)
    # Indexing by () turns an array without axes into a number.
    return PromptMoments(lengths[()], scales[()], *_over_scales(weight_moments, lengths, scales))


def _over_scales(
    moments: Callable[[np.ndarray, float], tuple[np.ndarray, ...]], lengths: Any, scales: Any
) -> tuple[Any, ...]:
    """`moments(lengths, scale)` at every pair of two arrays of one shape, each scale done once."""
    lengths, scales = np.asarray(lengths), np.asarray(scales)
    result = np.empty((3, *lengths.shape))
    for value in np.unique(scales):
        here = scales == value
        distinct, index = np.unique(lengths[here], return_inverse=True)
        result[:, here] = np.stack(moments(distinct, float(value)))[:, index]
    return tuple(np.asarray(row)[()] for row in result)


_DIFFERENCES = (
    "opposite heads and centred layers read differences between examples, which one example lacks"
)


def checked_lengths(prompt_length: Any, minimum: int = 1) -> np.ndarray:
    """Prompt lengths as float64 (whole numbers), within the range of the quadrature."""
    lengths = positive_integers(
        prompt_length, "prompt_length", minimum, _DIFFERENCES if minimum > 1 else ""
    )
    if np.any(lengths > LARGEST_LENGTH):
        raise OutOfDomain(
            f"prompt_length = {lengths.max():g} is above {LARGEST_LENGTH:g}, where the quadrature "
            f"leaves the range of float64; use the limit constants (icl.loss_constant) there."
        )
    return lengths


def weight_moments(lengths: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(g, g3, g22) for a vector of lengths at one scale; the arguments are not checked."""
    if scale == 0:
        return 1 / lengths, 1 / lengths**2, 1 / lengths**2
    log_phi, _, w2, w3, w4 = _transforms(scale, _shared(lengths))
    n = lengths[:, None]
    others = np.exp((n - 1) * log_phi)  # E exp(-lambda S) of the n - 1 other tokens
    g = _STEP * lengths * (others @ w2)
    g3 = _STEP / 2 * (lengths * (others @ w3)) * math.exp(-_SHIFT)
    same = (lengths * (others @ w4)) * math.exp(-_SHIFT)
    pairs = np.sum((n * w2) ** 2 * np.exp(np.maximum(n - 2, 0) * log_phi), axis=1)
    g22 = _STEP / 6 * (same + (1 - 1 / lengths) * pairs)
    # One token has all the weight.
    alone = lengths == 1
    return np.where(alone, 1.0, g), np.where(alone, 1.0, g3), np.where(alone, 1.0, g22)


def weight_moment_derivatives(
    lengths: np.ndarray, scale: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """d/ds of (g, g3, g22) for a vector of lengths at one scale; the arguments are not checked.

    Since d p_l / ds = p_l sum_j p_j (xi_l - xi_j), each is an average over pairs of tokens whose
    terms have one sign: g' = 2 E sum_{l<j} p_l p_j (p_l - p_j) (xi_l - xi_j), and alike. The
    relative errors are those of the moments. All are odd in s and vanish at s = 0 and at n = 1.

    >>> [float(x[0].round(8)) for x in weight_moment_derivatives(np.array([2.0]), 1.3)]
    [0.13790585, 0.20685878, 0.20558654]
    """
    if scale == 0:
        return np.zeros(lengths.shape), np.zeros(lengths.shape), np.zeros(lengths.shape)
    log_length = _shared(lengths)
    log_phi, w1, w2, w3, w4 = _transforms(scale, log_length)
    v1, v2, v3, v4 = _tilted_transforms(scale, log_length)
    n = lengths[:, None]
    # The other tokens come first, (n - 1) exp(-lambda S): the factors may overflow without them.
    others = n * (1 - 1 / n) * np.exp(np.maximum(n - 2, 0) * log_phi)
    w1, v1 = others * w1, others * v1
    pair2 = n * (v2 * w1 - w2 * v1)
    first = _STEP * np.sum(pair2, axis=1)
    pair3 = n * (v3 * w1 - w3 * v1)
    second = _STEP / 2 * np.sum(pair3, axis=1) * math.exp(-_SHIFT)
    same = n * (v4 * w1 - w4 * v1 - others * (v3 * w2 - w3 * v2))
    # A third token, independent of the pair.
    third = pair2 * w2 * np.maximum(n - 2, 0) * np.exp(-np.minimum(n - 2, 1) * log_phi)
    third = _STEP / 6 * (np.sum(same, axis=1) * math.exp(-_SHIFT) + np.sum(third, axis=1))
    return first, second, third


def _shared(lengths: np.ndarray) -> float:
    """log of the longest prompt, rounded up: calls with similar lengths find the same transforms
    in the cache."""
    return 10.0 * math.ceil(math.log(lengths.max()) / 10)


@lru_cache(maxsize=2048)
def _transforms(scale: float, log_length: float) -> tuple[np.ndarray, ...]:
    """log E exp(-w), and E w^k exp(-w) for k = 1, 2, 3, 4 (the last two times exp(_SHIFT)).

    Here w = exp(u + scale g), g ~ N(0, 1), and lambda = exp(u) runs over a lattice that serves
    every prompt length up to exp(log_length). Powers of lambda are inside the averages: all
    integrands are bounded.
    """
    u, x, average, _ = _lattice(scale, log_length)
    w = np.exp(x)
    # 1 - exp(-exp(x)) minus the normal distribution function, whose average is known, is positive
    # and decays on both sides: E (1 - exp(-w)) keeps its relative accuracy, which log phi needs
    # because it is multiplied by n.
    excess = average(-np.expm1(-w) - special.ndtr(x))
    spread = math.hypot(1, scale)
    complement = special.ndtr(u / spread) + excess
    phi = special.ndtr(-u / spread) - excess
    log_phi = np.where(
        complement < 0.5,
        np.log1p(-np.minimum(complement, 0.5)),
        np.log(np.maximum(phi, 1e-300)),
    )
    return log_phi, *(average(values) for values in _powers(x, w))


@lru_cache(maxsize=512)
def _tilted_transforms(scale: float, log_length: float) -> tuple[np.ndarray, ...]:
    """E g w^k exp(-w) for k = 1, 2, 3, 4, on the lattice and with the shifts of `_transforms`."""
    _, x, average, tilted = _lattice(scale, log_length)
    w = np.exp(x)
    powers = _powers(x, w)
    if scale < 0.5:
        # By parts, since these averages are of order s; at large scales it is this form that cancels.
        return tuple(scale * average((k - w) * f) for k, f in enumerate(powers, start=1))
    return tuple(tilted(f) for f in powers)


def _powers(x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, ...]:
    """w^k exp(-w), w = exp(x), the last two times exp(_SHIFT)."""
    return tuple(np.exp(k * x - w + (_SHIFT if k > 2 else 0)) for k in (1, 2, 3, 4))


Average = Callable[[np.ndarray], np.ndarray]


def _lattice(scale: float, log_length: float) -> tuple[np.ndarray, np.ndarray, Average, Average]:
    """Nodes u, nodes x, and the averages over g of f(x) and of g f(x), x = u + scale g.

    A function f enters by its values at the nodes x; the averages have the shape of u.
    """
    largest = math.sqrt(2 * log_length) + 10  # no token of a prompt exceeds it (< 1e-20)
    # From below lambda S < exp(-40) to above E exp(-w) < 1e-20.
    lowest = -log_length - min(scale**2 / 2, scale * largest) - 40
    first, last = math.floor(lowest / _STEP), math.ceil((10 * scale + 8) / _STEP)
    u = _STEP * np.arange(first, last + 1)
    # Scores on the lattice of u would be too coarse for the Gaussian at scales below 0.5.
    step = _STEP / max(scale, 0.5)
    if scale < 0.5:
        index = np.arange(-math.ceil(_REACH / step), math.ceil((_REACH + 4 * scale) / step) + 1)
        x = np.minimum(u[:, None] + scale * step * index, 30.0)  # exp(-exp(30)) is 0 already
    else:
        # x = u + scale g is on the lattice of u, and every average is a discrete correlation.
        # Values at x > 10 vanish; those at x < left are below exp(-40) times those at 0, the tilt
        # of the Gaussian by exp(x) included.
        tilt = -lowest / scale**2 - 1
        left = math.floor(-(scale**2) * (tilt + math.hypot(tilt, 9 / scale)) / _STEP)
        right = round(10 / _STEP)
        index = np.arange(left - last, right - first + 1)
        x = _STEP * np.arange(left, right + 1)
    g = step * index
    gaussian = step / math.sqrt(2 * math.pi) * np.exp(-(g**2) / 2)

    def averages(kernel: np.ndarray) -> Average:
        if scale < 0.5:
            return lambda values: values @ kernel
        return lambda values: np.correlate(kernel, values, "valid")[::-1]

    return u, x, averages(gaussian), averages(g * gaussian)
