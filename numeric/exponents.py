"""Exponents of the query-averaged error, measured on exact errors of very long prompts.

`icltheory.exponents` derives them by counting tokens; here the errors themselves are computed, by
quadrature in logarithms, and their decay is fitted. Exported: `LocalExponent`, `local_exponent`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from icltheory.exponents import concentration_exponent
from numeric.arrays import finite, number
from numeric.concentration import averaged_excess
from numeric.decoding_display import Shown
from numeric.long_prompts import SHORTEST, long_prompt_moments
from numeric.progress import progress_bar


@dataclass(frozen=True, eq=False, repr=False)
class LocalExponent(Shown):
    """How the query-averaged error decays: errors at 10^decades, slopes between, extrapolation."""

    tau: float
    decades: np.ndarray
    """log10 of the prompt lengths."""
    log_error: np.ndarray
    """Natural logarithm of the exact error at these lengths."""
    slopes: np.ndarray
    """-(change of log error)/(change of log n) between neighbours."""
    exponent: float
    """kappa of the fit log error = -kappa log n + gamma log log n + c0 + c1/log n + c2/(log n)^2
    through the five longest prompts."""
    log_power: float
    """gamma of this fit (1/2 for tau^2 > 1/2, 3/2 at 1/2 and 0 below, see `icl.slow_decay_law`)."""
    uncertainty: float
    """Largest difference of `exponent` to the fits without the last term, through the four longest
    prompts and the four before the longest."""
    predicted: float
    """`icl.concentration_exponent`."""


def local_exponent(tau: float, decades: Any = (64, 128, 256, 512, 1024)) -> LocalExponent:
    """Exact query-averaged errors of very long prompts, and the exponent they extrapolate to.

    One-dimensional tokens of variance 1 and a query N(0, tau^2 / U^2): the error is
    E [g + (g - 6 g3 + 6 g22) s^2] over s = tau |N(0, 1)|, computed in logarithms.

    Parameters
    ----------
    tau: standard deviation of the score scale over queries, 0 < tau <= 3.
    decades: log10 of at least five increasing prompt lengths, between 1 and 5000.

    Slopes converge like 1/log n only, so that kappa is read from a fit that contains the powers of
    log n; `uncertainty` is the change when its last term is dropped. A length takes some
    0.1 s, one of 1e1000 a second. Errors: `InvalidInput`. Source: derived here.

    >>> measured = local_exponent(1.0)
    >>> round(measured.exponent, 4), round(measured.predicted, 4), measured.uncertainty < 1e-4
    (0.618, 0.618, True)
    """
    width = number(tau, "tau")
    logs = finite(decades, "decades")
    if not 0 < width <= 3:
        raise InvalidInput(f"tau = {width:g} is outside 0 < tau <= 3.")
    if logs.ndim != 1 or logs.size < 5 or np.any(np.diff(logs) <= 0):
        raise InvalidInput(
            "decades must be at least five increasing numbers, the log10 of prompt lengths."
        )
    if logs[0] < 1 or logs[-1] > 5000:
        raise InvalidInput(f"decades run from {logs[0]:g} to {logs[-1]:g}; 1 to 5000 are allowed.")
    log_n = logs * math.log(10)
    log_error = np.empty(logs.size)
    with progress_bar(logs.size, 0, None, "exponent", unit=" lengths") as bar:
        for i, x in enumerate(log_n):
            log_error[i] = _log_error(width, float(x))
            bar.update()
    powers = np.stack([-log_n, np.log(log_n), log_n**0, 1 / log_n, 1 / log_n**2], axis=1)
    fit = np.linalg.solve(powers[-5:], log_error[-5:])
    reduced = [
        np.linalg.solve(powers[rows, :4], log_error[rows])[0]
        for rows in (slice(-4, None), slice(-5, -1))
    ]
    kappa = concentration_exponent().subs(tau=width)
    return LocalExponent(
        width,
        logs,
        log_error,
        -np.diff(log_error) / np.diff(log_n),
        float(fit[0]),
        float(fit[1]),
        float(np.abs(fit[0] - reduced).max()),
        float(kappa),
    )


def _log_error(tau: float, log_length: float) -> float:
    """log E [g + (g - 6 (g3 - g22)) s^2] over s = tau |N(0, 1)|."""
    base = 1 + tau**2  # n times the average at g = g(s = 0) = 1/n
    if log_length < SHORTEST:
        length = np.array([math.exp(log_length)])
        excess = averaged_excess(np.array([tau**2]), 1.0, np.array([tau**2]), length)
        return math.log(base / length[0] + excess[0])
    step = 0.5 / math.sqrt(5 + 2 * log_length)  # see lattice_step
    low, high = math.log(1e-4), math.log(2 * (log_length + 40)) / 2
    z = np.exp(np.arange(low, high, step))
    moments = [long_prompt_moments(log_length, scale) for scale in (tau * z).tolist()]
    log_g, ratio = np.array(moments).T
    # n times the excess over the base, with exp(growth) = n g taken out of it.
    growth = log_g + log_length
    excess = -np.expm1(-growth) + (1 - 6 * ratio - np.exp(-growth)) * (tau * z) ** 2
    # It is of order s^2; where that is below the rounding of log n, it does not matter.
    exponent = growth + np.log(np.maximum(excess, 1e-300)) + np.log(z) - z**2 / 2
    top = max(float(exponent.max()), 0.0)
    total = 2 * step / math.sqrt(2 * math.pi) * float(np.exp(exponent - top).sum())
    return top + math.log(base * math.exp(-top) + total) - log_length
