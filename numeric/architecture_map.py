"""Which architecture is best for which task and prompt length, and by how much.

The smallest exact risk of every architecture on a grid of tasks and prompt lengths, as regions. A
prior mean adds the prediction by the prior alone, f = theta_0.x_q. Exported: `architecture_map`,
`ArchitectureMap`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from icltheory.attention import Attention, SoftmaxAttention
from icltheory.errors import InvalidInput
from icltheory.task import LinearRegression
from numeric.arrays import finite, positive_integers, task_arrays
from numeric.plot import SideBySide, save
from numeric.plot_style import COLORS, label_log_axis, sheet, styled
from numeric.progress import progress_bar
from numeric.risk import optimal_risk

PRIOR = "prior alone"
_LEVELS = (1.02, 1.1, 1.5, 2, 2.5, 3, 4, 6)  # advantages with a line
_SHADE, _FAR = 0.45, 50.0
ARCHITECTURES: dict[str, Attention] = {
    "one head": SoftmaxAttention(heads=1),
    "two heads": SoftmaxAttention(heads=2),
}


@dataclass(frozen=True, eq=False)
class ArchitectureMap:
    """Smallest risks of every architecture; `draw` shows who wins where.

    names: the architectures. prompt_lengths (n,), values (t,): the axes, `label` naming the second.
    risk: (architectures, t, n); NaN where an architecture has no prediction (the prior alone without
    a prior). title, caption: of the drawing. best: (t, n), index of the smallest risk. advantage: (t, n), risk of the second best
    over that of the best.
    """

    names: tuple[str, ...]
    prompt_lengths: np.ndarray
    values: np.ndarray
    label: str
    risk: np.ndarray
    title: str = ""
    caption: str = ""

    @property
    def best(self) -> np.ndarray:
        """Index into `names` of the smallest risk, (t, n)."""
        return np.nanargmin(self.risk, axis=0)

    @property
    def advantage(self) -> np.ndarray:
        """Risk of the second best over that of the best, (t, n); NaN without a second one."""
        if len(self.names) == 1:
            return np.full(self.risk.shape[1:], np.nan)
        ordered = np.sort(self.risk, axis=0)  # NaN comes last
        return ordered[1] / ordered[0]

    def __repr__(self) -> str:
        return f"ArchitectureMap({self.label!r}: {', '.join(self.names)})"

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        """What a notebook shows: the map above its caption."""
        return SideBySide(self)._repr_png_()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write .png, .svg or .pdf, as `numeric.Figure.save`; returns the path."""
        return save(self, path)

    def draw(self, ax: Any = None) -> Any:
        """Regions of the best architecture with lines of equal advantage; returns the axes.

        `ax` as in `numeric.draw`. The second axis is logarithmic if its values are positive and span
        more than a factor of 30. Lines are labelled with the advantage.
        """
        from matplotlib.colors import BoundaryNorm, ListedColormap
        from matplotlib.patches import Patch

        if ax is None:
            (ax,) = sheet()
        values = self.values
        log = values.min() > 0 and values.max() > 30 * values.min()
        regions = np.unique(self.best)
        with styled():
            ax.set(xscale="log", yscale="log" if log else "linear")
            ax.set(xlabel="prompt length n", ylabel=self.label)
            ax.set_title(self.title, pad=26)
            if min(self.best.shape) > 1:
                for i in regions:
                    self._fill(ax, i)
            else:
                mesh = (self.prompt_lengths, values, self.best)
                colors = ListedColormap(COLORS[: len(self.names)])
                norm = BoundaryNorm(np.arange(len(self.names) + 1) - 0.5, len(self.names))
                ax.pcolormesh(*mesh, cmap=colors, norm=norm, alpha=_SHADE, shading="nearest")
            for axis in (ax.xaxis, ax.yaxis) if log else (ax.xaxis,):
                label_log_axis(axis)
            ax.grid(False)
            patches = [Patch(color=COLORS[i], alpha=_SHADE, label=self.names[i]) for i in regions]
            place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.3}
            ax.legend(handles=patches, ncols=3, **place)
        return ax

    def _fill(self, ax: Any, i: int) -> None:
        """The region where architecture i is best, and its lines of equal advantage."""
        grid = (self.prompt_lengths, self.values)
        risks = np.log(np.where(np.isnan(self.risk), np.inf, self.risk))
        others = np.delete(risks, i, axis=0).min(axis=0, initial=np.inf)
        # Negative where another is better: zero between the points of the grid is the boundary.
        lead = np.clip(others - risks[i], -_FAR, _FAR)
        ax.contourf(*grid, lead, [0, 2 * _FAR], colors=[COLORS[i]], alpha=_SHADE)
        # Near a boundary the advantage rises fast, and small ones would crowd there.
        shown = _LEVELS if lead.min() > 0 else _LEVELS[2::2]
        levels = [x for x in shown if lead.min() < math.log(x) < lead.max() < _FAR]
        if levels:
            lines = ax.contour(*grid, lead, np.log(levels), colors="black", linewidths=0.8)
            ax.clabel(lines, fmt=lambda level: f"{math.exp(level):g}\u00d7", fontsize=9)


def architecture_map(
    tasks: Sequence[LinearRegression],
    prompt_lengths: Any,
    values: Any = None,
    label: str = "task",
    architectures: Mapping[str, Attention] | None = None,
    *,
    title: str = "",
    caption: str = "",
) -> ArchitectureMap:
    """The best architecture on a grid of tasks and prompt lengths.

    Parameters
    ----------
    tasks: one a row, without symbols, for example with growing noise, dimension or prior variance.
    prompt_lengths: integers n >= 2.
    values, label: the number that stands for each task on the axis (`None`: 0, 1, 2, ...), and its name.
    architectures: name -> attention without scores; `None` is one head against two. Two heads are
        taken in the limit of small opposite scores. With a prior mean "prior alone" competes too.
    title, caption: of the drawing, which a notebook shows.

    Ctrl-C raises `Interrupted` with the map of the tasks that are finished in `partial`. Errors:
    `InvalidInput`, `OutOfDomain`. Source: derived here; the comparison is that of Cui et al.,
    arXiv 2401.17426.

    >>> import icltheory as icl
    >>> tasks = [
    ...     icl.LinearRegression(dim=3, coef_mean=[1, 0, 0], coef_cov=w / 3) for w in (0.02, 1.0)
    ... ]
    >>> found = architecture_map(tasks, [20, 500], values=[0.02, 1.0], label="prior variance")
    >>> [[found.names[i] for i in row] for row in found.best]
    [['prior alone', 'two heads'], ['two heads', 'two heads']]
    """
    if isinstance(tasks, LinearRegression) or not isinstance(tasks, Sequence):
        raise InvalidInput("tasks must be a list, one LinearRegression a row.")
    if not isinstance(architectures, Mapping | None):
        raise InvalidInput(
            'architectures must map names to attention, e.g. {"one": icl.SoftmaxAttention(heads=1)}.'
        )
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

    def result(done: int) -> ArchitectureMap:
        # The prior alone has a row if any task has a prior mean.
        kept = len(chosen) + (not np.all(np.isnan(risk[-1, :done])))
        names = (*chosen, PRIOR)[:kept]
        return ArchitectureMap(
            names, lengths, axis[:done], label, risk[:kept, :done], title, caption
        )

    options = {"partial": lambda: result(bar.n) if bar.n else None, "unit": " tasks"}
    with progress_bar(len(rows), 0, None, "architectures", **options) as bar:
        for j, task in enumerate(rows):
            for i, attention in enumerate(chosen.values()):
                small = isinstance(attention, SoftmaxAttention) and attention.heads > 1
                limit = {"small_scores": True} if small else {}
                risk[i, j] = optimal_risk(task, attention, lengths, **limit).risk
            if task.coef_mean is not None:
                arrays = task_arrays(task, supports=("coef_mean", "local"))
                risk[-1, j] = np.trace(arrays.feature_cov @ arrays.coef_cov)
            bar.update()
    return result(len(rows))
