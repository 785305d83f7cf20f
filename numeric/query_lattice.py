"""Averages over r = |x_q| ~ chi_d on a lattice that serves every score scale.

A function of the scale k r is averaged by a trapezoidal sum in log r. In log r the integrands are
analytic and decay on both sides, so the sum converges geometrically; and since the lattice is one
of the scales exp(i step), on which only the density depends on k, values of the function found for
one k serve every other. Exported: `QueryLattice`.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

_LEFT_OUT = 1e-16  # mass of the law of r that is left out on each side


class QueryLattice:
    """The lattice of scales exp(i step) and the law of k r on it, under the weight r^2 / d.

    >>> lattice = QueryLattice(5, 40)
    >>> points = lattice.points(0.3)
    >>> r = lattice.scales(points) / 0.3
    >>> round(float(lattice.density(0.3, points) @ r**2), 12)  # E r^4 / d
    7.0
    """

    def __init__(self, dim: int, largest_length: float, largest_step: float = 0.12) -> None:
        self.dim = dim
        # r^d exp(-r^2/2) as a function of log r has the width 1/sqrt(2 d), and r up to
        # r^2 = d + 2 log n matter, where a weight may still grow.
        spread = dim + 2 * math.log(largest_length)
        self.step = min(largest_step, 0.5 / math.sqrt(spread))
        # Window of r under the weight r^2. The risk is at least about 1/n and weights are at most
        # 1, so the mass above has to be small against 1/n, however weights grow below.
        half = dim / 2 + 1
        above = max(_LEFT_OUT / largest_length, 1e-300)
        self.window = (
            math.sqrt(2 * special.gammaincinv(half, _LEFT_OUT)),
            math.sqrt(2 * special.gammainccinv(half, above)),
        )

    def points(self, k: float) -> np.ndarray:
        """Indices i of the scales exp(i step) = k r that matter, for k > 0."""
        low, high = (math.log(k * r) / self.step for r in self.window)
        return np.arange(math.ceil(low), math.floor(high) + 1)

    def scales(self, points: np.ndarray) -> np.ndarray:
        """exp(i step)."""
        return np.exp(self.step * points)

    def density(self, k: float, points: np.ndarray) -> np.ndarray:
        """Weights p_i with sum_i p_i f(k r_i) = E r^2 f(k r) / d."""
        # r^d exp(-r^2/2) d(log r), with r = sqrt(d) z; the exponent is stationary at z = 1, so
        # that rounding does not grow with d.
        z = self.scales(points) / (k * math.sqrt(self.dim))
        density = z * z * np.exp(self.dim * (np.log(z) - (z - 1) * (z + 1) / 2))
        return density / density.sum()  # E r^2 = d fixes the normalisation
