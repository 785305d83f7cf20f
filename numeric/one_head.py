"""Exact risk of one scalar softmax head at every prompt length, and its best scales.

Given r = |x_q|, the bias and the variance of the prediction are the moments of softmax weights of
`numeric.prompt_moments` at the scale k r; they are averaged over r on a lattice that serves every k.
All prompt lengths share this work. Derived here. Exported: `one_head_risk`, `optimal_head`, for the
base task of signal 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import optimize

from icltheory.errors import OutOfDomain
from numeric.prompt_moments import LARGEST_SCALE, weight_moments
from numeric.query_lattice import QueryLattice


class QueryAverages:
    """E Q, E r^2 Q / d and E r^2 Delta / d over r = |x_q| ~ chi_d, for any score scale k.

    Q = g and Delta = g3 - g22 of `weight_moments` at the scale k r. Every k uses the same lattice
    of scales, exp(i step), on which only the density of r depends on k: the moments are computed
    once for all k. In log r the integrands are analytic and decay on both sides, so the trapezoidal
    sum converges geometrically.
    """

    def __init__(self, dim: int, lengths: np.ndarray) -> None:
        self.dim, self.lengths = dim, lengths
        self._lattice = QueryLattice(dim, lengths.max())
        self.largest_scale = LARGEST_SCALE / self._lattice.window[1]
        self._moments: dict[int, np.ndarray] = {}

    def __call__(self, k: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if k == 0:
            return 1 / self.lengths, 1 / self.lengths, np.zeros_like(self.lengths)
        if k > self.largest_scale:
            raise OutOfDomain(
                f"score_scale = {k:g} is above {self.largest_scale:.4g}: for dim = {self.dim} the "
                f"softmax would be needed at scales k |x_q| above {LARGEST_SCALE:g}, where its "
                f"quadrature loses accuracy. Use a smaller score_scale."
            )
        points = self._lattice.points(k)
        weight_sum, difference = np.stack([self._at(int(i)) for i in points], axis=1)
        density = self._lattice.density(k, points)
        # Q - 1/n is of order r^2 at small r: with the constant taken out, the same window serves.
        base, r = 1 / self.lengths, self._lattice.scales(points) / k
        excess = weight_sum - base
        return (
            base + self.dim * ((density / r**2) @ excess),
            density @ weight_sum,
            density @ difference,
        )

    def _at(self, i: int) -> np.ndarray:
        if i not in self._moments:
            g, g3, g22 = weight_moments(self.lengths, math.exp(i * self._lattice.step))
            self._moments[i] = np.stack([g, g3 - g22])
        return self._moments[i]


def _head_risk(k: Any, value: Any, noise: float, averages: tuple) -> np.ndarray:
    """Risk of one head in the base task; `averages` as returned by `QueryAverages`.

    With a = k v: bias and variance of the prediction given x_q, by Gaussian integration by parts,
    summed so that no large terms cancel (the risk is of order 1/n).
    """
    weight, radial, cubic = averages
    a = k * value
    return (1 - a) ** 2 + a * (2 - a) * radial - 6 * a**2 * cubic + value**2 * (1 + noise) * weight


def _best_value(k: Any, noise: float, averages: tuple) -> tuple[np.ndarray, np.ndarray]:
    """The value that minimises `_head_risk` at this k, and the minimum, again without cancellation."""
    weight, radial, cubic = averages
    variance = (1 + noise) * weight - 6 * k**2 * cubic
    curvature = variance + k**2 * (1 - radial)
    return k * (1 - radial) / curvature, (variance + k**2 * radial * (1 - radial)) / curvature


def one_head_risk(
    dim: int, noise: float, lengths: np.ndarray, scales: np.ndarray, values: np.ndarray | None
) -> np.ndarray:
    """Risk at arrays of one shape, the values being the best ones if None."""
    distinct, index = np.unique(lengths, return_inverse=True)
    index = index.reshape(lengths.shape)
    averages = QueryAverages(dim, distinct)
    risk = np.empty(lengths.shape)
    for k in np.unique(scales):
        here = scales == k
        at = tuple(average[index[here]] for average in averages(float(k)))
        risk[here] = (
            _best_value(k, noise, at)[1]
            if values is None
            else _head_risk(k, values[here], noise, at)
        )
    return risk


def optimal_head(dim: int, noise: float, lengths: np.ndarray) -> np.ndarray:
    """Rows risk, k and v of the best head at each length, (3, ..)."""
    distinct, index = np.unique(lengths, return_inverse=True)
    # Short prompts need large scales and long prompts wide quadratures; together they would cost
    # the product. The groups are those whose transforms are shared anyway.
    groups = np.ceil(np.log(distinct) / 10)
    found = np.concatenate(
        [_search(dim, noise, distinct[groups == group]) for group in np.unique(groups)], axis=1
    )
    return found[:, index.reshape(lengths.shape)]


def _search(dim: int, noise: float, lengths: np.ndarray) -> np.ndarray:
    """Rows risk, k and v of the best head at each length, in the base task."""
    averages = QueryAverages(dim, lengths)

    def profile(log_k: float) -> np.ndarray:
        k = math.exp(log_k)
        return _best_value(k, noise, averages(k))[1]

    # The optimum tends to about k^2 = 1/(d + 2) in long prompts and lies above it in shorter ones.
    step = 0.15
    grid = [math.log(0.5 / math.sqrt(dim + 2)) + step * i for i in range(12)]
    table = [profile(x) for x in grid]
    while (
        np.any(np.argmin(table, axis=0)[lengths > 1] > len(grid) - 3)
        and math.exp(grid[-1] + step) < averages.largest_scale
    ):
        grid.append(grid[-1] + step)
        table.append(profile(grid[-1]))
    found = np.empty((3, lengths.size))
    for j, best in enumerate(np.argmin(table, axis=0)):
        if lengths[j] == 1:
            found[:, j] = 1.0, np.nan, 0.0
            continue
        bounds = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
        result = optimize.minimize_scalar(
            lambda x, j=j: profile(x)[j], bounds=bounds, method="bounded", options={"xatol": 1e-8}
        )
        k = math.exp(result.x)
        value, risk = _best_value(k, noise, averages(k))
        found[:, j] = risk[j], k, value[j]
    return found
