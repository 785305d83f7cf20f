"""Figures as data, and their drawing: theory as lines, measurements as points with error bars.

A `Figure` is plain data, so that it can be stored with the numbers it shows; `draw` turns it into
matplotlib axes, `save` into a file, `to_svg` into SVG text for a web page. In a notebook it shows
itself with its caption, and `SideBySide` shows several in a row. Exported: `Series`, `Figure`,
`SideBySide`, `draw`, `to_png`, `to_svg`, `save`, `write_atomically`.
"""

from __future__ import annotations

import contextlib
import html
import io
import math
import os
import re
import textwrap
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from icltheory.errors import InvalidInput
from numeric.plot_labels import PLACES, Entry, write_labels
from numeric.plot_style import (
    DPI,
    INK,
    PANEL,
    SIZE,
    color,
    dashes,
    label_log_axis,
    marker,
    sheet,
    styled,
)

SUFFIXES = (".png", ".svg", ".pdf")

_BESIDE = 0.25  # from a whole number
_LINE, _LETTERS = 12.5, 15.5  # points a line of a caption, letters an inch


@dataclass(frozen=True)
class Series:
    """One curve or one set of points; `error` is one standard error a point, or empty.

    Arrays and other sequences of numbers become tuples. `color` is an index into the colour cycle;
    points have that of their line. If the first points alone have a label, it is that of all points.
    Errors: `InvalidInput` for unequal lengths.

    >>> import numpy as np
    >>> Series("risk", np.array([10, 20]), [0.5, 0.25])
    Series(label='risk', x=(10.0, 20.0), y=(0.5, 0.25), error=(), color=0)
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()
    color: int = 0

    if TYPE_CHECKING:  # what may be given, other than what is kept

        def __init__(self, label: str, x: Any, y: Any, error: Any = (), color: int = 0) -> None: ...

    def __post_init__(self) -> None:
        for name in ("x", "y", "error"):
            object.__setattr__(self, name, tuple(float(z) for z in getattr(self, name)))
        if len(self.x) != len(self.y) or len(self.error) not in (0, len(self.x)):
            raise InvalidInput(
                f"series {self.label!r} has {len(self.x)} x, {len(self.y)} y and {len(self.error)} "
                f"errors; give one of each a point (or no errors)."
            )


@dataclass(frozen=True)
class Figure:
    """A figure: lines (theory), points (measured), axis labels, and a caption that says what is seen.

    labels: "direct" labels the lines beside their ends, "legend" makes a legend, "auto" labels directly
    where the lines are few and their ends apart. Errors: `InvalidInput` for other `labels`.
    """

    title: str
    xlabel: str
    ylabel: str
    caption: str
    lines: tuple[Series, ...]
    points: tuple[Series, ...]
    logx: bool = True
    logy: bool = True
    labels: str = "auto"

    def __post_init__(self) -> None:
        if self.labels not in PLACES:
            raise InvalidInput(
                f"labels = {self.labels!r} is not one of {', '.join(map(repr, PLACES))}."
            )

    def draw(self, ax: Any = None) -> Any:
        """Draw into matplotlib axes, as `numeric.draw`; returns the axes."""
        return draw(self, ax)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write .png, .svg or .pdf, complete or not at all, as `numeric.plot.save`; returns the path.

        >>> import tempfile
        >>> line = Series("predicted", (10, 100), (0.6, 0.15))
        >>> figure = Figure("Risk", "prompt length n", "risk", "", (line,), ())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     figure.save(f"{folder}/risk.pdf").name
        'risk.pdf'
        """
        return save(self, path)

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

    def __repr__(self) -> str:
        shown = ", ".join(repr(s.label) for s in (*self.lines, *self.points))
        return f"Figure({self.title!r}: {shown})"

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        """What a notebook shows: the figure above its caption."""
        return SideBySide(self)._repr_png_()


class SideBySide:
    """Figures in a row, each above its caption, for a notebook.

    Anything with a `draw(ax)` method, a `title` and a `caption` may stand beside a `Figure`.

    >>> line = Series("predicted", (10, 100), (0.6, 0.15))
    >>> figure = Figure("Risk", "prompt length n", "risk", "The risk falls.", (line,), ())
    >>> SideBySide(figure, figure)
    SideBySide(Figure('Risk': 'predicted'), Figure('Risk': 'predicted'))
    """

    def __init__(self, *figures: Any) -> None:
        if not figures:
            raise InvalidInput("give at least one figure.")
        self.figures = figures

    def __repr__(self) -> str:
        return f"SideBySide({', '.join(map(repr, self.figures))})"

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        """The picture, its width, and the titles and captions as its description."""
        columns = round(_LETTERS * (self._width / len(self.figures) - 0.8))
        captions = [textwrap.fill(f.caption, columns) for f in self.figures]
        lines = max(text.count("\n") + 1 if text else 0 for text in captions)
        axes = self._drawn(lines * _LINE / 72)
        for ax, caption in zip(axes, captions, strict=True):
            if caption:
                # Below the label of the x axis, at whatever size the axes get.
                ax.annotate(
                    caption, (0, 0), (0, -38), "axes fraction", "offset points", size=9, va="top"
                )
        told = " ".join(f"{f.title}. {f.caption}".strip() for f in self.figures)
        return to_png(axes[0].figure), {"width": round(96 * self._width), "alt": told}

    def draw(self) -> list[Any]:
        """The figures in a row without their captions; returns their axes."""
        return self._drawn(0.0)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the row without its captions as .png, .svg or .pdf; returns the path."""
        return save(self, path)

    @property
    def _width(self) -> float:
        return SIZE[0] if len(self.figures) == 1 else PANEL * len(self.figures)

    def _drawn(self, below: float) -> list[Any]:
        """Axes of all figures, on a sheet with `below` inches for captions."""
        axes = sheet((self._width, SIZE[1] + below), len(self.figures))
        return [figure.draw(ax) for figure, ax in zip(self.figures, axes, strict=True)]


def draw(figure: Figure, ax: Any = None) -> Any:
    """Draw theory as lines and measurements as points with error bars; returns the axes.

    `ax` is any matplotlib axes; `None` makes a figure of its own (`ax.figure`), which pyplot does
    not know of, so nothing has to be closed. Error bars are one standard error. Lines of one colour
    differ in their dashes, points in their markers as well. Labels: see `Figure`. Needs matplotlib.

    >>> line = Series("one head, predicted", (10.0, 100.0), (0.6, 0.15))
    >>> ax = draw(Figure("Risk", "prompt length n", "risk", "", (line,), ()))
    >>> ax.get_xscale(), ax.get_xlabel()
    ('log', 'prompt length n')
    """
    if isinstance(ax, str):
        raise InvalidInput(f"ax = {ax!r} is no matplotlib axes; a setting is given as x={ax!r}.")
    with styled():
        if ax is None:
            (ax,) = sheet()
        # The scales come first: error bars choose their limits in the coordinates they find.
        ax.set_xscale("log" if figure.logx else "linear")
        ax.set_yscale("log" if figure.logy else "linear")
        if not figure.logx and _whole(figure):
            ax.xaxis.get_major_locator().set_params(integer=True)
        entries = [*_draw_lines(ax, figure.lines), *_draw_points(ax, figure.points)]
        ax.set(title=figure.title, xlabel=figure.xlabel, ylabel=figure.ylabel)
        for axis, log in ((ax.xaxis, figure.logx), (ax.yaxis, figure.logy)):
            if log:
                label_log_axis(axis)
        write_labels(ax, entries, figure.labels)
    return ax


def _draw_lines(ax: Any, lines: tuple[Series, ...]) -> list[Entry]:
    entries, seen = [], Counter[str]()
    for line in lines:
        hue = color(line.color)
        style = dashes(seen[hue])
        seen[hue] += 1
        alone = "o" if len(line.x) == 1 else None  # a line of one point would not be seen
        (artist,) = ax.plot(
            line.x, line.y, color=hue, linestyle=style, marker=alone, label=line.label
        )
        entries.append(Entry(line.label, line.color, artist, line.x, line.y))
    return entries


def _draw_points(ax: Any, points: tuple[Series, ...]) -> list[Entry]:
    entries = []
    for series in points:
        artist = ax.errorbar(
            series.x,
            series.y,
            yerr=series.error or None,
            linestyle="none",
            marker=marker(series.color),
            color=color(series.color),
            # A rim in the colour of the paper keeps a point readable on top of its line.
            markeredgecolor="white",
            markeredgewidth=0.8,
            capsize=3,
            zorder=3,
            label=series.label,
        )
        entries.append(Entry(series.label, series.color, artist, series.x, series.y, points=True))
    return entries


def to_png(page: Any) -> bytes:
    """A matplotlib figure as a PNG file of 256 colours, half the size: notebooks store many."""
    from PIL import Image  # which matplotlib itself needs

    drawn, small = io.BytesIO(), io.BytesIO()
    with styled():
        page.savefig(drawn, format="png", dpi=DPI)
    Image.open(drawn).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue()


def to_svg(figure: Figure, prefix: str = "figure-") -> str:
    """The figure as an SVG element for an HTML page; every id begins with `prefix`.

    Figures of one page need different prefixes. Text stays text; axes and text take the colour of
    the surrounding text (`currentColor`) and the background is transparent, so that the figure suits
    light and dark pages. The same figure gives the same SVG.
    """
    text = _render(figure, "svg", transparent=True).decode()
    text = text[text.index("<svg") :]
    # Matplotlib numbers its ids afresh in every file; on one page they must not meet.
    text = re.sub(r'(\bid="|href="#|url\(#)', lambda match: match[0] + prefix, text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Its own style sheet would otherwise hold for every SVG of the page.
    text = re.sub(r"<style\b.*?</style>", "", text, flags=re.DOTALL)
    text = text.replace(INK.lower(), "currentColor")
    # A fixed size would not shrink on a phone; the view box keeps the proportions.
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    style = "stroke-linejoin:round;stroke-linecap:butt"
    return f'{head} role="img" aria-label="{html.escape(figure.title)}" style="{style}">{rest}'


def save(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write the figure as .png, .svg or .pdf, complete or not at all; returns the path.

    `figure`: a `Figure`, `SideBySide`, or anything else with `draw()`. Text stays text in .svg and .pdf;
    a .pdf holds its fonts.

    Errors: `InvalidInput` for another suffix or a place that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidInput(
            f"{path} does not end in one of {', '.join(SUFFIXES)}; the suffix chooses the format."
        )
    write_atomically(path, _render(figure, suffix[1:], transparent=False))
    return path


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write a file through a temporary one beside it: a reader finds the old or the new content.

    Errors: `InvalidInput` with the reason where the folder does not exist or cannot be written.
    """
    path = Path(path)
    # A name of its own, so that two writers never share a temporary file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written ({error.strerror}); give a place in an existing folder that "
            f"you may write to."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _render(figure: Any, kind: str, *, transparent: bool) -> bytes:
    buffer = io.BytesIO()
    with styled():
        # No date in the file: the same figure gives the same bytes.
        stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        axes = np.ravel(figure.draw())[0]
        axes.figure.savefig(buffer, format=kind, dpi=DPI, transparent=transparent, metadata=stamp)
    return buffer.getvalue()


def _whole(figure: Figure) -> bool:
    """Whether the x axis counts something: layers, steps, examples; points may stand side by side."""
    places = [x for series in (*figure.lines, *figure.points) for x in series.x]
    near = all(abs(x - round(x)) < _BESIDE for x in places if math.isfinite(x))
    return near and (max(places, default=0) - min(places, default=0) >= 1)
