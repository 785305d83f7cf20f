"""The one style of all figures, and the sheets they are drawn on.

Colours are those of Okabe & Ito (2008), which colour-blind readers tell apart. Text stays text in SVG
and PDF files, so that it can be edited. Exported: `COLORS`, `INK`, `SIZE`, `DPI`, `PANEL`, `styled`,
`sheet`, `color`, `dashes`, `marker`, `text_color`, `label_log_axis`.
"""

from __future__ import annotations

from typing import Any

# Okabe & Ito without the yellow, which is too light for thin lines.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)))
# A colour that nothing else has, so that `to_svg` can replace it by the colour of the page's text.
INK = "#1B1C1D"
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11.0,
    "font.family": "sans-serif",
    "font.size": 10.0,
    "grid.alpha": 0.15,
    "grid.color": INK,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9.0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "pdf.fonttype": 42,  # TrueType, embedded
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "svg.hashsalt": "icltheory",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
SIZE, DPI = (6.4, 4.2), 160
PANEL = 5.2  # width in inches of one figure among several
_WEIGHTS = (0.2126, 0.7152, 0.0722)  # of linear red, green, blue in the luminance (sRGB)
_LUMINANCE = 0.18  # at most, for text: a contrast of 4.5 with white


def styled() -> Any:
    """A context in which matplotlib has the style of this module."""
    import matplotlib as mpl

    return mpl.rc_context(_STYLE)


def sheet(size: tuple[float, float] = SIZE, columns: int = 1) -> list[Any]:
    """Axes in a row on a sheet of `size` inches, in the style of this module.

    The sheet (`axes[0].figure`) is unknown to pyplot, so nothing has to be closed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    with styled():
        page = Sheet(figsize=size, layout="constrained")
        FigureCanvasAgg(page)
        return list(page.subplots(1, columns, squeeze=False)[0])


def color(index: int) -> str:
    """The colour of an index; after the last one they begin again."""
    return COLORS[index % len(COLORS)]


def dashes(turn: int) -> Any:
    """The line style of the first, second, ... line of one colour."""
    return _DASHES[turn % len(_DASHES)]


def marker(index: int) -> str:
    """The marker of an index: where a colour comes again, it has another one."""
    return _MARKERS[(index + index // len(COLORS)) % len(_MARKERS)]


def text_color(index: int) -> tuple[float, float, float]:
    """The colour of an index for text: dark enough for white paper, light enough for a dark page.

    >>> text_color(4) < text_color(1) < (1, 1, 1)
    True
    """
    from matplotlib.colors import to_rgb

    light = [_linear(x) for x in to_rgb(color(index))]
    luminance = sum(w * x for w, x in zip(_WEIGHTS, light, strict=True))
    dim = min(1.0, _LUMINANCE / luminance)
    red, green, blue = (_encoded(dim * x) for x in light)
    return red, green, blue


def _linear(x: float) -> float:
    return x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4


def _encoded(x: float) -> float:
    return 12.92 * x if x <= 0.0031308 else 1.055 * x ** (1 / 2.4) - 0.055


def label_log_axis(axis: Any) -> None:
    """Plain numbers at 1, 2 and 5 times powers of ten (at powers of ten over many decades)."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    steps = (1.0,) if high / low > 1e3 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(LogLocator(subs=tuple(range(1, 10)), numticks=20))
    axis.set_minor_formatter(NullFormatter())
