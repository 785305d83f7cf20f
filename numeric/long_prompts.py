"""Moments of softmax weights for prompts of any length, in logarithms.

`numeric.prompt_moments` ends where squares of 1/n leave the range of float64. Here the number of
tokens above a level is Poisson (relative error below 1e-15 from n = 1e20 on), lengths enter through
log n, and every average over a token is tilted to where its integrand is of order one:
E w^k exp(-w) = exp(j u + j^2 s^2 / 2) E w'^(k - j) exp(-w') with w' of log-mean u + j s^2, for any j.
Exported: `long_prompt_moments`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

from icltheory.errors import OutOfDomain

SHORTEST = 20 * math.log(10)  # log of the shortest prompt for which the Poisson law is exact enough
LARGEST_SCALE = 1000.0
_STEP = 0.2  # as in prompt_moments: trapezoidal sums of analytic functions, error below 1e-15
_SMALL = 2.0  # scales up to here: 2 exp(2 s^2) / n < 1e-16, and the leading term is exact
_CUT = 40.0  # what is below exp(-_CUT) times the maximum is left out


@lru_cache(maxsize=4096)
def long_prompt_moments(log_length: float, scale: float) -> tuple[float, float]:
    """(log g, (g3 - g22)/g) of p = softmax(scale xi), xi ~ N(0, I_n), for log n >= log 1e20.

    `log_length`: log n. `scale`: 0 <= s <= 1000. The relative error of g is below 1e-9 while log n < 1e5; it grows like
    log n times the rounding of float64. Errors: `OutOfDomain`. Source: derived here.

    >>> log_g, ratio = long_prompt_moments(100 * math.log(10), 2.0)
    >>> round(log_g + 100 * math.log(10), 12), ratio < 1e-90  # g = exp(s^2)/n
    (4.0, True)
    >>> round(long_prompt_moments(1000 * math.log(10), 60.0)[0], 6)  # beta = 0.884
    -40.063711
    """
    if log_length < SHORTEST or not 0 <= scale <= LARGEST_SCALE:
        raise OutOfDomain(
            f"log n = {log_length:g}, scale = {scale:g} are outside log n >= {SHORTEST:.4g}, "
            f"0 <= scale <= {LARGEST_SCALE:g}; use numeric.prompt_moments for shorter prompts."
        )
    if scale <= _SMALL:
        square = scale**2
        return square - log_length, math.exp(square - log_length) * math.expm1(square)
    u = _window(log_length, scale)
    token = [log_length + _log_average(k, u, scale) for k in (0, 1, 2, 3)]
    void = -np.exp(token[0])  # log probability that no token is above its level
    # g = n int E w^2 e^-w exp(-n (1 - phi)) du, and pairs for g3 - g22 (see prompt_moments).
    log_first = token[2] + void
    top = float(log_first.max())
    first = _STEP * float(np.exp(log_first - top).sum())
    pairs = np.exp(token[3] + token[1] + void - top) - np.exp(2 * token[2] + void - top)
    return top + math.log(first), _STEP * float(pairs.sum()) / 6 / first


def _window(log_length: float, scale: float) -> np.ndarray:
    """Lattice of u = log lambda that carries the integrals: around n (1 - phi(u)) = 1."""
    centre = _centre(log_length, scale)
    rate = -centre / scale**2  # slope of the logarithm of a Gaussian tail there
    # n (1 - phi) grows to the right with slope about min(rate, 1), E w^2 e^-w falls to the left.
    left, right = _CUT / min(rate, 2) + 4, math.log(_CUT) / min(rate, 1) + 4
    first, last = math.floor((centre - left) / _STEP), math.ceil((centre + right) / _STEP)
    return _STEP * np.arange(first, last + 1)


def _centre(log_length: float, scale: float) -> float:
    if scale**2 < 2 * log_length:  # the bulk has most of the normaliser: a law of large numbers
        return -log_length - scale**2 / 2
    return scale * float(special.ndtri_exp(-log_length))


def _log_average(k: int, u: np.ndarray, scale: float) -> np.ndarray:
    """log E w^k exp(-w), w = exp(u + scale g); for k = 0 log E (1 - exp(-w))."""
    rate = max(-float(u.mean()) / scale**2, 0.0)
    power = max(k, 1)  # 1 - exp(-w) decays like w
    tilt = min(rate, power)
    spread = 9.5 * scale
    shift = u + tilt * scale**2
    first = math.floor((min(float(shift[0]), -2.0) - spread) / _STEP)
    last = math.ceil((max(float(shift[-1]), 4.0) + spread) / _STEP)
    if k:
        last = min(last, math.ceil(5 / _STEP))
    x = _STEP * np.arange(first, last + 1)
    w = np.exp(np.minimum(x, 6.0))  # 1 - exp(-w) is 1 from there on
    # Without underflow of 1 - exp(-w) = w - ..., far to the left.
    log_value = k * x - w if k else np.where(x < -40, x, np.log(-np.expm1(-np.maximum(w, 1e-20))))
    values = np.exp(log_value - tilt * x)
    # The correlation needs x - shift on one lattice: the remainder of the shift goes into the kernel.
    index = np.arange(last - first + u.size)
    offsets = _STEP * index + x[0] - shift[-1]
    kernel = _STEP / (scale * math.sqrt(2 * math.pi)) * np.exp(-((offsets / scale) ** 2) / 2)
    averages = np.correlate(kernel, values, "valid")[::-1]
    return tilt * u + (tilt * scale) ** 2 / 2 + np.log(averages)
