"""The result of a training: the model, the course of its loss, and how it shows itself.

Exported: `TrainingRun`, `WINDOW`.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from numeric.plot import Figure, Series, to_svg
from numeric.tables import cell_text, html_table

WINDOW = 100  # steps over which the shown loss is averaged


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """A finished training: the trained model (changed in place), the loss at every step, settings.

    With `record_every` = r, `trajectory` holds every parameter by its name, shape (records, ...), at
    the steps `recorded_steps` = 0, r, 2 r, ...
    """

    model: nn.Module
    loss: np.ndarray
    settings: dict[str, Any] = field(repr=False)
    trajectory: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def recorded_steps(self) -> np.ndarray:
        """The steps at which `trajectory` was recorded; 0 is the start."""
        records = len(next(iter(self.trajectory.values()), ()))
        return self.settings["record_every"] * np.arange(records)

    @property
    def smoothed_loss(self) -> np.ndarray:
        """Running mean of the loss over up to 100 steps."""
        sums = np.cumsum(self.loss)
        lagged = np.concatenate([np.zeros(WINDOW), sums])[: len(sums)]
        return (sums - lagged) / np.minimum(np.arange(1, len(sums) + 1), WINDOW)

    def plot(self, ax: Any = None) -> Any:
        """The running mean of the loss against the step; returns the axes. `ax`: as in `numeric.draw`."""
        return self.figure.draw(ax)

    def _repr_html_(self) -> str:
        """What was trained, the course of the loss, and the settings."""
        settings = {
            k: v for k, v in self.settings.items() if k != "start" and v not in (None, False)
        }
        body = [[name, cell_text(value)] for name, value in settings.items()]
        table = html_table(["setting", "value"], body)
        head = f"<p>{html.escape(self._headline())}</p>"
        picture = to_svg(self.figure, f"training-{id(self):x}-") if len(self.loss) > 1 else ""
        picture = f'<div style="max-width:36em">{picture}</div>' if picture else ""
        return f"{head}{picture}<details><summary>Settings</summary>{table}</details>"

    @property
    def figure(self) -> Figure:
        """The running mean of the loss against the step."""
        steps = np.unique(np.geomspace(1, len(self.loss), 200).round().astype(int))
        losses = self.smoothed_loss[steps - 1]
        line = Series(f"mean of up to {WINDOW} steps", tuple(steps), tuple(losses))
        caption = f"Squared error on fresh prompts, averaged over up to {WINDOW} steps."
        return Figure("Training", "step", "squared error", caption, (line,), ())

    def _headline(self) -> str:
        final = f"{self.smoothed_loss[-1]:.4g}" if len(self.loss) else "none"
        return f"{type(self.model).__name__}: {len(self.loss)} steps, loss {final}"

    def __str__(self) -> str:
        shown = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self._headline()} ({shown})"

    __repr__ = __str__
