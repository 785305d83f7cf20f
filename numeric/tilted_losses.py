"""The verifier's loss l = sum_j mu_j (c_j + s_j z_j)^2 of a chain, tilted by exp(-theta l).

With D = 1 + 2 theta mu s^2 a tilted coordinate is N(c/D, s^2/D). The best of N candidates looks, to leading
exponential order, like the tilted law whose relative entropy is ln N. Source: derived here; it serves
`numeric.best_of_n`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

_BYTES = 2**20  # of one array over directions: a block stays in the cache
_NEWTON = 20  # steps that polish a tilt, at most
_LOG_RANGE = 80.0  # tilts up to e^80 noise scales; beyond lies the limit of infinitely many samples


class TiltedLoss:
    """The law of l = sum_j mu_j (c_j + s_j z_j)^2 + noise, tilted by exp(-theta l); rows are cases.

    With D = 1 + 2 theta mu s^2 the tilted coordinate is N(c/D, s^2/D).
    """

    def __init__(
        self, o: np.ndarray, c: np.ndarray, v: np.ndarray, mu: np.ndarray, noise: float
    ) -> None:
        self.o, self.c, self.v, self.mu, self.noise_var = o, c, v, mu, noise**2
        self.rate = 2 * mu * v
        self.top = self.rate.max(axis=1)
        self.start = (np.square(o + c) + v).sum(axis=1)

    def __len__(self) -> int:
        return len(self.c)

    def __getitem__(self, rows: slice) -> TiltedLoss:
        return TiltedLoss(
            self.o[rows], self.c[rows], self.v[rows], self.mu[rows], self.noise_var**0.5
        )

    def blocks(self, columns: int) -> Iterator[tuple[slice, TiltedLoss]]:
        """Rows whose arrays over `columns` tilts and all directions fit into the cache."""
        size = max(1, _BYTES // (8 * columns * self.c.shape[1]))
        for first in range(0, len(self), size):
            rows = slice(first, min(first + size, len(self)))
            yield rows, self[rows]

    def variance(self) -> np.ndarray:
        """Var l, (R,)."""
        square = np.square(self.mu) * (2 * np.square(self.v) + 4 * np.square(self.c) * self.v)
        return square.sum(axis=1) + self.noise_var

    def inverse(self, theta: np.ndarray) -> np.ndarray:
        """1/D at theta (R, K), (R, K, d)."""
        return 1 / (1 + theta[:, :, None] * self.rate[:, None])

    def error(self, inverse: np.ndarray) -> np.ndarray:
        """r = E |o + c + s z|^2 under the tilt, (R, K)."""
        linear = 2 * self.o * self.c + self.v
        constant = np.square(self.o).sum(axis=1)
        return (
            constant[:, None]
            + sum_directions(inverse, linear)
            + sum_directions(inverse**2, np.square(self.c))
        )

    def entropy(self, theta: np.ndarray) -> np.ndarray:
        """Relative entropy of the tilted to the original law, (R, K): ln N of tilting."""
        k = theta[:, :, None] * self.rate[:, None]
        width = np.where(k < 1e-4, width_series(np.minimum(k, 1.0)), np.log1p(k) - k / (1 + k))
        centre = 4 * np.square(self.mu) * self.v * np.square(self.c)
        moved = np.square(theta) * sum_directions((1 / (1 + k)) ** 2, centre)
        return (width.sum(axis=2) + moved + np.square(theta) * self.noise_var) / 2

    def entropy_slope(self, theta: np.ndarray) -> np.ndarray:
        """theta times the derivative of `entropy`, (R, K): theta^2 times the tilted variance of l."""
        inverse = self.inverse(theta)
        width = sum_directions(inverse**2, np.square(self.rate) / 2)
        centre = sum_directions(inverse**3, 4 * np.square(self.mu) * self.v * np.square(self.c))
        return np.square(theta) * (width + centre + self.noise_var)


def width_series(k: np.ndarray) -> np.ndarray:
    """ln(1 + k) - k/(1 + k), which cancels for small k."""
    return np.square(k) * (0.5 - k * (2 / 3 - 0.75 * k))


def sum_directions(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sum_d values (R, K, d) weights (R, d), (R, K)."""
    return (values @ weights[:, :, None])[:, :, 0]


def tilts(law: TiltedLoss, log_counts: np.ndarray) -> np.ndarray:
    """theta > 0 with entropy(theta) = ln N, (R, K), by Newton's method in ln theta and bisection."""
    out = np.empty((len(law), len(log_counts)))
    nodes = 64
    for rows, part in law.blocks(nodes):
        first = np.log(1e-3 / np.sqrt(part.variance() + part.top**2))
        last = _LOG_RANGE - np.log(part.top)
        grid = first[:, None] + (last - first)[:, None] * np.linspace(0, 1, nodes)
        heights = part.entropy(np.exp(grid))
        above = np.sum(heights[:, :, None] < log_counts, axis=1).clip(1, nodes - 1)
        low, high = (np.take_along_axis(grid, above - shift, axis=1) for shift in (1, 0))
        x = (low + high) / 2
        target = np.minimum(log_counts, heights[:, -1:])
        for _ in range(_NEWTON):
            theta = np.exp(x)
            gap = part.entropy(theta) - target
            low, high = np.where(gap < 0, x, low), np.where(gap < 0, high, x)
            step = gap / np.maximum(part.entropy_slope(theta), 1e-300)
            moved = x - step
            inside = (moved >= low) & (moved <= high)
            x = np.where(inside, moved, (low + high) / 2)
            if np.all(np.abs(step) < 1e-13):
                break
        out[rows] = np.exp(x)
    return out
