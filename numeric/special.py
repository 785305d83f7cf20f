"""The functions of `icltheory.laws.special` on arrays, without poles, overflow or cancellation.

They are written in arithmetic that NumPy arrays and torch tensors share, so that formulas compiled
for either backend call them; torch differentiates through them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from icltheory.errors import OutOfDomain

_LARGEST = 1e10  # k of the continued fraction: its depth grows like sqrt(k)
_SERIES = 690.0  # exp of this still fits a float


def bessel_quotient(nu: float, s: Any) -> Any:
    """I_{nu+1}(k) / (k I_nu(k)) at k = sqrt(s) <= 1e10, nu > -1: 1/(2 nu + 2) at s = 0.

    Gauss's continued fraction from below, which has positive terms only; relative error 1e-14.

    >>> bessel_quotient(0.5, 1.0), bessel_quotient(0.5, 0.0)
    (0.31303528549933..., 0.333333333333333...)
    """
    return _plain(1 / _fraction(nu, s)[0], s)


def bessel_slope(nu: float, s: Any) -> Any:
    """d/dk (I_{nu+1}(k) / I_nu(k)) at k = sqrt(s): the variance of the cosine on a tilted sphere.

    The relative error is about 1e-15 max(k, 1). NumPy only.

    >>> bessel_slope(0.5, np.array([0.0, 4.0])).round(6)
    array([0.333333, 0.173978])
    """
    if nu == -0.5:  # sech^2 k, which underflows where the general form cancels
        e = np.exp(-2 * np.sqrt(s))
        return _plain(4 * e / (1 + e) ** 2, s)
    value, slope = _fraction(nu, s)
    return _plain((1 - 2 * s * slope / value) / value, s)


def log_bessel(nu: float, s: Any) -> Any:
    """log(Gamma(nu + 1) (2/k)^nu I_nu(k)) at k = sqrt(s); 0 at s = 0. Relative error 1e-14.

    The positive power series of the bracket where it fits a float, else scaled Bessel functions
    (NumPy only). Errors: `OutOfDomain` where neither fits: nu > 1000 and k > 2000, say.

    >>> log_bessel(0.5, 1.0), log_bessel(0.5, 1e-20)
    (0.16143936157119..., 1.666666666666...e-21)
    """
    k = s**0.5
    bound = _largest(k)
    if min(bound, bound**2 / (4 * nu + 4)) <= _SERIES:
        return _plain(_log_series(nu, s, bound), s)
    if not isinstance(s, (float, np.ndarray, np.floating)):
        raise OutOfDomain(
            f"sqrt(s) = {bound:.6g} is too large for the series of log_bessel({nu:g}, s) in torch; "
            f"use the numpy backend."
        )
    inside = np.minimum(k, s / (4 * nu + 4)) <= _SERIES
    near = _log_series(nu, np.where(inside, s, 0.0), _largest(np.where(inside, k, 0.0)))
    x = np.where(inside, 1.0, k)
    scaled = special.ive(nu, x)
    if np.any((scaled <= 0) & ~inside):
        raise OutOfDomain(
            f"log_bessel({nu:g}, s) at sqrt(s) = {bound:.6g} leaves the range of float64; "
            f"use the mpmath backend."
        )
    safe = np.where(inside, 1.0, scaled)
    far = np.log(safe) + x + special.gammaln(nu + 1) - nu * np.log(x / 2)
    return _plain(np.where(inside, near, far), s)


def _fraction(nu: float, s: Any) -> tuple[Any, Any]:
    """T = k I_nu(k) / I_{nu+1}(k) = 2 (nu+1) + s/(2 (nu+2) + s/(...)), and dT/ds.

    The tail is replaced by a + sqrt(a^2 + s), whose relative error is of order 1/(a^2 + s)^(1/2)
    and contracts by exp(-2a/k) a step, so a depth of sqrt(40 k) leaves 1e-16.
    """
    k = _largest(s**0.5)
    if k > _LARGEST:
        raise OutOfDomain(f"sqrt(s) = {k:.6g} is outside sqrt(s) <= {_LARGEST:g}.")
    depth = math.ceil(math.sqrt(40 * k)) + 16
    a = nu + depth
    root = (a * a + s) ** 0.5
    value, slope = a + root, 0.5 / root
    for j in range(depth - 1, 0, -1):
        value, slope = 2 * (nu + j) + s / value, (1 - s * slope / value) / value
    return value, slope


def _log_series(nu: float, s: Any, k: float) -> Any:
    """log sum_j (s/4)^j / (j! (nu+1)_j), summed from the last term (Horner)."""
    z, tail = s / 4, 1.0
    terms = math.ceil(1.4 * k) + 30
    for j in range(terms, 1, -1):
        tail = 1 + z * tail / (j * (nu + j))
    excess = z * tail / (nu + 1)
    return excess.log1p() if hasattr(excess, "log1p") else np.log1p(excess)


def _largest(k: Any) -> float:
    k = k.detach() if hasattr(k, "detach") else np.asarray(k)
    return float(k.max()) if 0 not in k.shape else 0.0


def _plain(value: Any, like: Any) -> Any:
    """A Python float for a Python float."""
    return float(value) if isinstance(like, (int, float)) else value
