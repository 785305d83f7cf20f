"""Figures as data, and their drawing: theory as lines, measurements as points with error bars.

A `Figure` is plain data, so that it can be stored with the numbers it shows; `draw` turns it into
matplotlib axes, `to_svg` into SVG text for a web page, `save` into a file. In a notebook it shows
itself with its caption, and `SideBySide` shows several in a row. Colours are those of Okabe & Ito
(2008), which colour-blind readers tell apart. Exported: `Series`, `Figure`, `SideBySide`, `draw`,
`sheet`, `styled`, `label_log_axis`, `to_png`, `to_svg`, `save`, `write_atomically`.
"""

from __future__ import annotations

import contextlib
import html
import io
import os
import re
import textwrap
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icltheory.errors import InvalidInput

SUFFIXES = (".png", ".svg", ".pdf")

# Okabe & Ito without the yellow, which is too light for thin lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
# A colour that nothing else has, so that `to_svg` can replace it by the colour of the page's text.
_INK = "#1B1C1D"
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _INK,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.0,
    "font.family": "sans-serif",
    "font.size": 10.0,
    "grid.alpha": 0.15,
    "grid.color": _INK,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "icltheory",
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}
_SIZE, _DPI = (6.4, 4.2), 160
_PANEL = 5.2  # width in inches of one figure among several
_LINE, _LETTERS = 12.5, 15.5  # points a line of a caption, letters an inch


@dataclass(frozen=True)
class Series:
    """One curve or one set of points; `error` is one standard error a point, or empty.

    Arrays and other sequences of numbers become tuples. Series that share `label`'s role share
    `color`, an index into the colour cycle. Errors: `InvalidInput` for unequal lengths.

    >>> import numpy as np
    >>> Series("risk", np.array([10, 20]), [0.5, 0.25])
    Series(label='risk', x=(10.0, 20.0), y=(0.5, 0.25), error=(), color=0)
    """

    label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    error: tuple[float, ...] = ()
    color: int = 0

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
        width = _SIZE[0] if len(self.figures) == 1 else _PANEL * len(self.figures)
        columns = round(_LETTERS * (width / len(self.figures) - 0.8))
        captions = [textwrap.fill(f.caption, columns) for f in self.figures]
        lines = max(text.count("\n") + 1 if text else 0 for text in captions)
        axes = sheet((width, _SIZE[1] + lines * _LINE / 72), len(self.figures))
        for figure, ax, caption in zip(self.figures, axes, captions, strict=True):
            draw(figure, ax) if isinstance(figure, Figure) else figure.draw(ax)
            if caption:
                # Below the label of the x axis, at whatever size the axes get.
                ax.annotate(
                    caption, (0, 0), (0, -38), "axes fraction", "offset points", size=9, va="top"
                )
        told = " ".join(f"{f.title}. {f.caption}".strip() for f in self.figures)
        return to_png(axes[0].figure), {"width": round(96 * width), "alt": told}


def styled() -> Any:
    """A context in which matplotlib has the style of this module."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def sheet(size: tuple[float, float] = _SIZE, columns: int = 1) -> list[Any]:
    """Axes in a row on a sheet of `size` inches, in the style of this module.

    The sheet (`axes[0].figure`) is unknown to pyplot, so nothing has to be closed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    with styled():
        page = Sheet(figsize=size, layout="constrained")
        FigureCanvasAgg(page)
        return list(page.subplots(1, columns, squeeze=False)[0])


def draw(figure: Figure, ax: Any = None) -> Any:
    """Draw theory as lines and measurements as points with error bars; returns the axes.

    `ax` is any matplotlib axes; `None` makes a figure of its own (`ax.figure`), which pyplot does
    not know of, so nothing has to be closed. Error bars are one standard error. Lines of one colour
    differ in their dashes, points in their markers as well. Needs matplotlib.

    >>> line = Series("one head, predicted", (10.0, 100.0), (0.6, 0.15))
    >>> ax = draw(Figure("Risk", "prompt length n", "risk", "", (line,), ()))
    >>> ax.get_xscale(), ax.get_xlabel()
    ('log', 'prompt length n')
    """
    with styled():
        if ax is None:
            (ax,) = sheet()
        # The scales come first: error bars choose their limits in the coordinates they find.
        ax.set_xscale("log" if figure.logx else "linear")
        ax.set_yscale("log" if figure.logy else "linear")
        if not figure.logx and _whole(figure):
            ax.xaxis.get_major_locator().set_params(integer=True)
        seen: dict[int, int] = {}
        for line in figure.lines:
            dash = seen.get(line.color, 0)
            seen[line.color] = dash + 1
            style = _DASHES[dash % len(_DASHES)]
            ax.plot(line.x, line.y, color=_color(line), linestyle=style, label=line.label)
        for series in figure.points:
            ax.errorbar(
                series.x,
                series.y,
                yerr=series.error or None,
                linestyle="none",
                marker=_MARKERS[series.color % len(_MARKERS)],
                color=_color(series),
                # A rim in the colour of the paper keeps a point readable on top of its line.
                markeredgecolor="white",
                markeredgewidth=0.8,
                capsize=3,
                zorder=3,
                label=series.label,
            )
        ax.set(title=figure.title, xlabel=figure.xlabel, ylabel=figure.ylabel)
        for axis, log in ((ax.xaxis, figure.logx), (ax.yaxis, figure.logy)):
            if log:
                label_log_axis(axis)
        if any(series.label for series in (*figure.lines, *figure.points)):
            ax.legend()
    return ax


def to_png(page: Any) -> bytes:
    """A matplotlib figure as a PNG file of 256 colours, half the size: notebooks store many."""
    from PIL import Image  # which matplotlib itself needs

    drawn, small = io.BytesIO(), io.BytesIO()
    with styled():
        page.savefig(drawn, format="png", dpi=_DPI)
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
    text = text.replace(_INK.lower(), "currentColor")
    # A fixed size would not shrink on a phone; the view box keeps the proportions.
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    style = "stroke-linejoin:round;stroke-linecap:butt"
    return f'{head} role="img" aria-label="{html.escape(figure.title)}" style="{style}">{rest}'


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write the figure as .png, .svg or .pdf, complete or not at all; returns the path.

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


def _render(figure: Figure, kind: str, *, transparent: bool) -> bytes:
    buffer = io.BytesIO()
    with styled():
        # No date in the file: the same figure gives the same bytes.
        stamp = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        draw(figure).figure.savefig(
            buffer, format=kind, dpi=_DPI, transparent=transparent, metadata=stamp
        )
    return buffer.getvalue()


def _whole(figure: Figure) -> bool:
    """Whether the x axis counts something: layers, steps, examples."""
    return all(x.is_integer() for series in (*figure.lines, *figure.points) for x in series.x)


def _color(series: Series) -> str:
    return COLORS[series.color % len(COLORS)]


def label_log_axis(axis: Any) -> None:
    """Plain numbers at 1, 2 and 5 times powers of ten (at powers of ten over many decades)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    steps = (1.0,) if high / low > 1e3 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(LogLocator(subs=tuple(range(1, 10)), numticks=20))
    axis.set_minor_formatter(NullFormatter())
