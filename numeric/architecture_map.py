"""Which architecture is best for which task and prompt length, and by how much.

The smallest exact risk of every architecture on a grid of tasks and prompt lengths, as regions. A
prior mean adds the prediction by the prior alone, f = theta_0.x_q. Exported: `architecture_map`,
`ArchitectureMap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.attention import Attention, SoftmaxAttention
from icltheory.errors import InvalidInput
from icltheory.task import LinearRegression
from numeric.arrays import finite, positive_integers, task_arrays
from numeric.plot import COLORS
from numeric.risk import optimal_risk

PRIOR = "prior alone"
ARCHITECTURES: dict[str, Attention] = {
    "one head": SoftmaxAttention(heads=1),
    "two heads": SoftmaxAttention(heads=2),
}


@dataclass(frozen=True, eq=False)
class ArchitectureMap:
    """Smallest risks of every architecture; `draw` shows who wins where.

    names: the architectures. prompt_lengths (n,), values (t,): the axes, `label` naming the second.
    risk: (architectures, t, n); NaN where an architecture has no prediction (the prior alone without
    a prior). best: (t, n), index of the smallest risk. advantage: (t, n), risk of the second best
    over that of the best.
    """

    names: tuple[str, ...]
    prompt_lengths: np.ndarray
    values: np.ndarray
    label: str
    risk: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """Index into `names` of the smallest risk, (t, n)."""
        return np.nanargmin(self.risk, axis=0)

    @property
    def advantage(self) -> np.ndarray:
        """Risk of the second best over that of the best, (t, n)."""
        ordered = np.sort(self.risk, axis=0)  # NaN comes last
        return ordered[1] / ordered[0]

    def draw(self, ax: Any = None) -> Any:
        """Regions of the best architecture with lines of equal advantage; returns the axes."""
        from matplotlib.colors import BoundaryNorm, ListedColormap
        from matplotlib.patches import Patch

        if ax is None:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure

            sheet = Figure(figsize=(6.4, 4.2), layout="constrained")
            FigureCanvasAgg(sheet)
            ax = sheet.add_subplot()
        count = len(self.names)
        colors = ListedColormap(list(COLORS[:count]))
        grid = (self.prompt_lengths, self.values)
        norm = BoundaryNorm(np.arange(count + 1) - 0.5, count)
        ax.pcolormesh(*grid, self.best, cmap=colors, norm=norm, alpha=0.55, shading="nearest")
        levels = [level for level in (1.1, 1.5, 2, 2.5, 3, 5, 10) if level < self.advantage.max()]
        if levels and min(self.risk.shape[1:]) > 1:
            lines = ax.contour(*grid, self.advantage, levels, colors="black", linewidths=0.8)
            ax.clabel(lines, fmt=lambda level: f"{level:g} x", fontsize=8)
        ax.set(xscale="log", xlabel="prompt length n", ylabel=self.label)
        seen = np.unique(self.best)
        ax.legend(handles=[Patch(color=COLORS[i], alpha=0.55, label=self.names[i]) for i in seen])
        return ax


def architecture_map(
    tasks: Sequence[LinearRegression],
    prompt_lengths: Any,
    values: Any = None,
    label: str = "task",
    architectures: Mapping[str, Attention] | None = None,
) -> ArchitectureMap:
    """The best architecture on a grid of tasks and prompt lengths.

    Parameters
    ----------
    tasks: one a row, without symbols, for example with growing noise, dimension or prior variance.
    prompt_lengths: integers n >= 2.
    values, label: the number that stands for each task on the axis (`None`: 0, 1, 2, ...), and its name.
    architectures: name -> attention without scores; `None` is one head against two. Two heads are
        taken in the limit of small opposite scores. With a prior mean "prior alone" competes too.

    Errors: `InvalidInput`, `OutOfDomain`. Source: derived here; the comparison is that of Cui et al.,
    arXiv 2401.17426.

    >>> import icltheory as icl
    >>> tasks = [
    ...     icl.LinearRegression(dim=3, coef_mean=[1, 0, 0], coef_cov=w / 3) for w in (0.02, 1.0)
    ... ]
    >>> found = architecture_map(tasks, [20, 500], values=[0.02, 1.0], label="prior variance")
    >>> [[found.names[i] for i in row] for row in found.best]
    [['prior alone', 'two heads'], ['two heads', 'two heads']]
    """
    rows = list(tasks)
    lengths = np.unique(positive_integers(prompt_lengths, "prompt_lengths", 2))
    chosen = dict(ARCHITECTURES if architectures is None else architectures)
    axis = np.arange(len(rows)) if values is None else finite(values, "values")
    if not rows or axis.shape != (len(rows),):
        raise InvalidInput(
            f"{len(rows)} tasks and values of shape {axis.shape}; give one value a task."
        )
    if len(chosen) < 1 or PRIOR in chosen:
        raise InvalidInput(f"architectures: give at least one, none called {PRIOR!r}.")
    risk = np.full((len(chosen) + 1, len(rows), lengths.size), np.nan)
    for j, task in enumerate(rows):
        for i, attention in enumerate(chosen.values()):
            small = isinstance(attention, SoftmaxAttention) and attention.heads > 1
            options = {"small_scores": True} if small else {}
            risk[i, j] = optimal_risk(task, attention, lengths, **options).risk
        if task.coef_mean is not None:
            arrays = task_arrays(task, supports=("coef_mean", "local"))
            risk[-1, j] = np.trace(arrays.feature_cov @ arrays.coef_cov)
    names = (*chosen, PRIOR)
    if np.all(np.isnan(risk[-1])):
        names, risk = names[:-1], risk[:-1]
    return ArchitectureMap(names, lengths, axis, label, risk)
