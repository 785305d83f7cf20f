"""What every token law offers on arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class ArrayLaw:
    """What every law offers. `tilt` and `cov` are exact up to rounding wherever `gauge` is below 1."""

    dim: int
    gauge: Callable[[np.ndarray], np.ndarray] | None = None
    """u (m, d) -> (m,); K(u) is finite iff it is below 1. `None`: finite everywhere."""
    gauge_name = ""
    gauge_degree = 1
    """gauge(c u) = c^degree gauge(u) for c > 0."""

    def tilt(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """K(u) (m,) and grad K(u) (m, d)."""
        raise NotImplementedError

    def cov(self, u: np.ndarray) -> np.ndarray:
        """Hess K(u), (m, d, d)."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        """`size` independent tokens, (size, d)."""
        raise NotImplementedError


def choose(rng: np.random.Generator, cumulative: np.ndarray, size: int) -> np.ndarray:
    """Indices with the probabilities whose running sums are given."""
    picks = np.searchsorted(cumulative, rng.random(size) * cumulative[-1], side="right")
    return np.minimum(picks, len(cumulative) - 1)
