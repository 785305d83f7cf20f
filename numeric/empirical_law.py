"""The law of a data set: every draw is one of its points."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from numeric.array_law_base import ArrayLaw, choose

_BLOCK = 2**18  # float64 values of a temporary block: 2 MB, so that it stays in cache


class EmpiricalArray(ArrayLaw):
    """Blocks of queries against blocks of points: memory does not grow with either."""

    def __init__(self, points: np.ndarray, weights: np.ndarray | None) -> None:
        self.dim, self._points = points.shape[1], points
        self._cumulative = None if weights is None else np.cumsum(weights)
        self._log_weights = None if weights is None else np.log(weights)

    def _blocks(self, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        for start in range(0, len(self._points), rows):
            part = slice(start, start + rows)
            logs = self._log_weights
            yield self._points[part], None if logs is None else logs[part]

    def tilt(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cgf, mean = np.empty(len(u)), np.empty(u.shape)
        queries = 256
        for start in range(0, len(u), queries):
            part = slice(start, start + queries)
            cgf[part], mean[part] = self._tilt(u[part])
        return cgf, mean

    def _tilt(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        top, total = np.full(len(u), -np.inf), np.zeros(len(u))
        mean = np.zeros(u.shape)
        for points, logs in self._blocks(max(1, _BLOCK // len(u))):
            scores = u @ points.T
            if logs is not None:
                scores += logs
            # Softmax in one pass: what was summed is rescaled when the maximum moves.
            peak = np.maximum(top, scores.max(axis=1))
            shrink = np.exp(top - peak)
            scores -= peak[:, None]
            np.exp(scores, out=scores)
            total = total * shrink + scores.sum(axis=1)
            mean = mean * shrink[:, None] + scores @ points
            top = peak
        log_count = np.log(len(self._points)) if self._log_weights is None else 0.0
        return top + np.log(total) - log_count, mean / total[:, None]

    def mean_of(self, function: Callable[[np.ndarray], np.ndarray]) -> float:
        """E f(z) of a function of points (m, d) -> (m,)."""
        total = 0.0
        for points, logs in self._blocks(max(1, _BLOCK // self.dim)):
            values = function(points)
            total += values.sum() / len(self._points) if logs is None else np.exp(logs) @ values
        return float(total)

    def cov(self, u: np.ndarray) -> np.ndarray:
        out = np.zeros((len(u), self.dim, self.dim))
        rows = min(len(self._points), max(1, _BLOCK // self.dim))
        queries = max(1, _BLOCK // (rows * self.dim))
        for start in range(0, len(u), queries):
            here = u[start : start + queries]
            cgf, mean = self._tilt(here)
            for points, logs in self._blocks(rows):
                scores = here @ points.T - cgf[:, None]
                scores += -np.log(len(self._points)) if logs is None else logs
                centred = points - mean[:, None]
                weighted = centred * np.exp(scores)[:, :, None]
                out[start : start + queries] += np.matmul(weighted.swapaxes(1, 2), centred)
        return out

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        if self._cumulative is None:
            return self._points[rng.integers(len(self._points), size=size)]
        return self._points[choose(rng, self._cumulative, size)]
