"""The step of a solver that a learner resembles most: ties, edges of the grid, bootstrap intervals.

A similarity is an estimate, so several steps can be as good as the best one; and a best step at the
edge of the grid is censored: it says where the grid ends. Source: derived here. Exported:
`best_match`, `BestMatch`, `Slope`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from numeric.arrays import finite, integer, number
from numeric.decoding_display import Shown
from numeric.montecarlo import Seed, seed_sequence
from numeric.similarity import Similarity

_LEVELS = (0.025, 0.975)


@dataclass(frozen=True, repr=False)
class Slope(Shown):
    """Least-squares slope over layers with its 95 % interval (None without prompts)."""

    value: float
    interval: tuple[float, float] | None
    layers: np.ndarray


@dataclass(frozen=True, repr=False)
class BestMatch(Shown):
    """Best-matching steps of L layers on a grid of G numbers of steps.

    similarity: (L, G). best: the first best step (L,), and `best_similarity` (L,).
    ties: (L, G), True where a step is as good as the best one up to `delta`. censored: (L,), True
    where the ties reach an end of the grid. similarity_interval, step_interval: 95 % bootstrap
    intervals (L, 2) of the best similarity and step, None for published tables.
    """

    grid: np.ndarray
    similarity: np.ndarray
    best: np.ndarray
    best_similarity: np.ndarray
    ties: np.ndarray
    censored: np.ndarray
    similarity_interval: np.ndarray | None
    step_interval: np.ndarray | None
    _delta: np.ndarray
    _replicates: np.ndarray | None

    def tie_set(self, layer: int = 0) -> np.ndarray:
        """The steps that are as good as the best one, increasing."""
        return self.grid[self.ties[layer]]

    def midpoints(self, log: bool = False) -> np.ndarray:
        """Middle of the range of every tie set, (L,); with `log` of log2 of the steps."""
        return _midpoints(self._scale(log), self.ties)

    def slope(self, log: bool = False, layers: Any = None) -> Slope:
        """Slope of the best step (`log`: its log2) on the layer's number, over uncensored layers.

        layers: numbers of the layers, (L,); `None` is 1, ..., L. Errors: `InvalidInput` if fewer
        than two layers are uncensored.
        """
        count = len(self.best)
        numbers = np.arange(1.0, count + 1) if layers is None else finite(layers, "layers")
        if numbers.shape != (count,):
            raise InvalidInput(f"layers has shape {numbers.shape}; pass ({count},), one a layer.")
        used = ~self.censored
        if used.sum() < 2:
            raise InvalidInput(
                f"{int(used.sum())} of {count} layers are uncensored, and a slope needs 2; extend "
                f"the grid {self.grid[0]:g}, ..., {self.grid[-1]:g}."
            )
        scale, x = self._scale(log), numbers[used]
        weights = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
        value = float(_midpoints(scale, self.ties[used]) @ weights)
        interval = None
        if self._replicates is not None:
            top = self._replicates[:, used]
            ties = top >= top.max(axis=-1, keepdims=True) - self._delta[used]
            slopes = _midpoints(scale, ties) @ weights
            low, high = np.quantile(slopes, _LEVELS)
            interval = (float(low), float(high))
        return Slope(value, interval, x)

    def _scale(self, log: bool) -> np.ndarray:
        if not log:
            return self.grid
        if self.grid[0] <= 0:
            raise InvalidInput("the grid contains step 0, which has no logarithm; leave it out.")
        return np.log2(self.grid)


def best_match(
    similarity: Any,
    grid: Any,
    *,
    delta: float | None = None,
    bootstrap: int = 1000,
    seed: Seed = 0,
) -> BestMatch:
    """Best-matching steps of one or several layers in a family of solvers.

    Parameters
    ----------
    similarity: `Similarity` of layers and steps, prompt by prompt, (B, G) or (B, L, G); or an array
        (G,) or (L, G) of published values, with `delta`.
    grid: the numbers of steps, increasing, (G,).
    delta: similarities closer than this to the best one are ties (5e-4 for tables with three
        digits); `None` is one bootstrap standard error of the difference to the best step, taken
        over the same prompts.
    bootstrap: number of resampled sets of prompts, the same for all layers and steps.
    seed: of the bootstrap.

    Errors: `InvalidInput`. Source: derived here.

    >>> match = best_match([[0.90, 0.97, 0.96, 0.90], [0.8, 0.9, 0.9499, 0.95]], [1, 2, 4, 8], delta=5e-4)
    >>> match.best, match.censored, match.tie_set(1)
    (array([2., 8.]), array([False,  True]), array([4., 8.]))
    """
    grid = finite(grid, "grid")
    if grid.ndim != 1 or len(grid) < 3 or np.any(np.diff(grid) <= 0) or grid[0] < 0:
        raise InvalidInput("grid must be an increasing sequence of at least 3 steps >= 0.")
    if isinstance(similarity, Similarity):
        samples = similarity.per_prompt
        samples = samples[:, None] if samples.ndim == 2 else samples
        table = samples.mean(axis=0)
    else:
        samples, table = None, np.atleast_2d(finite(similarity, "similarity"))
    if table.ndim != 2 or table.shape[1] != len(grid):
        raise InvalidInput(
            f"similarity has {table.shape} layers and steps, the grid {len(grid)} steps."
        )
    if delta is None and samples is None:
        raise InvalidInput("published values need delta, e.g. 5e-4 for three digits.")
    replicates = None if samples is None else _resample(samples, bootstrap, seed)
    first = np.argmax(table, axis=1)
    layers = np.arange(len(table))
    if delta is not None:
        if not number(delta, "delta") >= 0:
            raise InvalidInput(f"delta = {delta:g} is negative.")
        spread = np.full(table.shape, float(delta))
    else:
        assert replicates is not None
        spread = (replicates - replicates[:, layers, first][..., None]).std(axis=0, ddof=1)
    top = table[layers, first]
    # A difference in the last printed digit must count as one whatever its binary rounding.
    ties = table >= top[:, None] - spread - 1e-12
    if replicates is None:
        intervals = (None, None)
    else:
        steps = grid[np.argmax(replicates, axis=-1)]
        intervals = (_quantiles(replicates[:, layers, first]), _quantiles(steps))
    censored = ties[:, 0] | ties[:, -1]
    return BestMatch(grid, table, grid[first], top, ties, censored, *intervals, spread, replicates)


def _resample(samples: np.ndarray, bootstrap: int, seed: Seed) -> np.ndarray:
    """Means over resampled prompts, (R, L, G)."""
    count = integer(bootstrap, "bootstrap", 100)
    prompts = len(samples)
    if prompts < 2:
        raise InvalidInput("a bootstrap needs at least 2 prompts.")
    rng = np.random.default_rng(seed_sequence(seed))
    weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), count) / prompts
    return np.tensordot(weights, samples, 1)


def _quantiles(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, _LEVELS, axis=0).T


def _midpoints(scale: np.ndarray, ties: np.ndarray) -> np.ndarray:
    """Middle between the first and the last tie, over the last axis."""
    last = ties.shape[-1] - 1 - np.argmax(ties[..., ::-1], axis=-1)
    return (scale[np.argmax(ties, axis=-1)] + scale[last]) / 2
