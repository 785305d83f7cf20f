"""Figures as data, and their drawing: theory as lines, measurements as points with error bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Series:
    """One curve or one set of points; `error` is one standard error a point, or empty.

    Series that share `label`'s role share `color`, an index into the colour cycle.
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()
    color: int = 0


@dataclass(frozen=True)
class Figure:
    """A figure: lines (theory), points (measured), axis labels, and a caption that says what is seen."""

    title: str
    xlabel: str
    ylabel: str
    caption: str
    lines: tuple[Series, ...]
    points: tuple[Series, ...]
    logx: bool = True
    logy: bool = True

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Figure:
        """The inverse of `dataclasses.asdict`, also from JSON."""
        series = {
            key: tuple(
                Series(s["label"], tuple(s["x"]), tuple(s["y"]), tuple(s["error"]), s["color"])
                for s in data[key]
            )
            for key in ("lines", "points")
        }
        return Figure(**{**data, **series})
