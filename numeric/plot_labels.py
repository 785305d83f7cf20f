"""Labels of the series of a figure: beside their ends, in their colours, or in a legend.

A label at the end of its line needs no looking up, but only fits where the series are few and their ends
are apart; elsewhere there is a legend. Exported: `Entry`, `write_labels`, `PLACES`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from numeric.plot_style import COLORS, text_color

PLACES = ("auto", "direct", "legend")
_FEW, _COLUMNS, _ROWS = 6, 20, 2  # labels, letters a row, rows a label
_SIZE, _HEIGHT, _GAP = 9.0, 11.0, 7.0  # of the text, of a row, and from end to text, in points
_SHIFT = 9.0  # points that a label may lie above or below its end
_APART = 2.0  # points between any two ends
_MARGIN = 0.06  # part of the axes that counts as its right end


@dataclass(frozen=True)
class Entry:
    """One drawn series: its label, colour index, artist, data, and whether it is points.

    If the first points alone have a label, it is that of all points.
    """

    label: str
    color: int
    artist: Any
    x: Sequence[float]
    y: Sequence[float]
    points: bool = False


Key = list[tuple[str, tuple[Any, ...]]]  # label and artists of every row of a legend


def write_labels(ax: Any, entries: Sequence[Entry], place: str = "auto") -> None:
    """Label the series at their ends or in a legend.

    place: one of `PLACES`; "auto" is "direct" where every label finds room beside its end. Points in the
    colour of a line stay in a small legend, which says once what the parts of the labels that all lines or
    all points share stand for.
    """
    if place != "legend":
        ends, key = _division(entries)
        placed = _placed(ax, ends)
        if ends and (place == "direct" or (len(ends) > 1 and _clear(ax, placed))):
            for label in placed:
                _write(ax, label)
            _legend(ax, entries, key)
            return
    _legend(ax, entries, [(head.label, artists) for head, artists in _groups(entries)])


def _legend(ax: Any, entries: Sequence[Entry], key: Key) -> None:
    """A legend where it covers nothing, or else beside the axes."""
    from matplotlib.legend_handler import HandlerTuple

    if not key:
        return
    handles = [artists[0] if len(artists) == 1 else artists for _, artists in key]
    labels = [label for label, _ in key]
    options = {
        "handler_map": {tuple: HandlerTuple(ndivide=None, pad=0.3)},
        # Room for every mark of a row.
        "handlelength": max(2.0, *(0.9 * len(artists) for _, artists in key)),
    }
    legend = ax.legend(handles, labels, **options)
    if _covers(ax, legend, entries):
        rows = [_broken(label) for label in labels]
        ax.legend(handles, rows, loc="upper left", bbox_to_anchor=(1, 1), **options)


def _covers(ax: Any, legend: Any, entries: Sequence[Entry]) -> bool:
    """Whether the legend lies on a line or a point."""
    from matplotlib.path import Path

    box = legend.get_window_extent()
    for entry in entries:
        data = np.column_stack([np.asarray(entry.x, float), np.asarray(entry.y, float)])
        at = ax.transData.transform(data)
        at = at[np.isfinite(at).all(axis=1)]
        hidden = (
            box.count_contains(at)
            if entry.points
            else len(at) and Path(at).intersects_bbox(box, False)
        )
        if hidden:
            return True
    return False


# -- what is labelled where ------------------------------------------------------------------------


def _groups(entries: Sequence[Entry]) -> list[tuple[Entry, tuple[Any, ...]]]:
    """Labelled series, each with the artists that its label stands for."""
    points = [entry for entry in entries if entry.points]
    if points and points[0].label and not any(entry.label for entry in points[1:]):
        lines = [(e, (e.artist,)) for e in entries if e.label and not e.points]
        return [*lines, (points[0], tuple(entry.artist for entry in points))]
    return [(entry, (entry.artist,)) for entry in entries if entry.label]


def _division(entries: Sequence[Entry]) -> tuple[list[Entry], Key]:
    """What is labelled at its end, and the rest as rows of a legend."""
    groups = _groups(entries)
    lines = [head for head, _ in groups if not head.points]
    hues = {line.color % len(COLORS) for line in lines}
    paired = [
        (head, artists)
        for head, artists in groups
        if head.points and (head.color % len(COLORS) in hues or len(artists) > 1)
    ]
    alone = [head for head, artists in groups if head.points and (head, artists) not in paired]
    what = _shared([head for head, _ in paired])
    if not what or not all(_belongs(head, lines) for head, _ in paired):
        return lines + alone, [(head.label, artists) for head, artists in paired]
    key: Key = [(what, tuple(artist for _, artists in paired for artist in artists))]
    if theory := _shared(lines):
        key.insert(0, (theory, tuple(line.artist for line in lines)))
        lines = [replace(line, label=_stem(line)) for line in lines]
    return lines + alone, key


def _shared(entries: Sequence[Entry]) -> str:
    """The part behind the last comma if several labels share it, or ""."""
    ends = {entry.label.rpartition(", ")[2] if ", " in entry.label else "" for entry in entries}
    return ends.pop() if len(entries) > 1 and len(ends) == 1 else ""


def _stem(entry: Entry) -> str:
    return entry.label.rpartition(", ")[0]


def _belongs(points: Entry, lines: Sequence[Entry]) -> bool:
    """Whether a line of the same colour has the same name."""
    return any(
        line.color == points.color and f"{line.label}, ".startswith(f"{_stem(points)}, ")
        for line in lines
    )


# -- labels at ends --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Label:
    text: str
    color: int
    end: tuple[float, float]  # in the coordinates of the data
    at: tuple[float, float]  # in points on the sheet
    to: tuple[float, float]  # offset of the text in points


def _placed(ax: Any, ends: Sequence[Entry]) -> list[_Label]:
    """Labels in one column, as near to their ends as they can be without overlap."""
    found = []
    _ = ax.get_xlim(), ax.get_ylim()  # settles the limits
    for entry in ends:
        x, y = np.asarray(entry.x, float), np.asarray(entry.y, float)
        at = ax.transData.transform(np.column_stack([x, y])) * 72 / ax.figure.dpi
        good = np.flatnonzero(np.isfinite(at).all(axis=1))
        if good.size:
            last = good[np.argmax(at[good, 0])]
            end, place = (float(x[last]), float(y[last])), tuple(at[last].tolist())
            found.append(_Label(_broken(entry.label), entry.color, end, place, (0.0, 0.0)))
    if not found:
        return found
    found.sort(key=lambda label: label.at[1])
    box = ax.get_window_extent().extents * 72 / ax.figure.dpi
    heights = _HEIGHT * np.array([label.text.count("\n") + 1 for label in found])
    levels = _spread(np.array([label.at[1] for label in found]), heights, box[1], box[3])
    column = max(label.at[0] for label in found) + _GAP
    return [
        replace(label, to=(column - label.at[0], float(level - label.at[1])))
        for label, level in zip(found, levels, strict=True)
    ]


def _broken(label: str) -> str:
    """The label in rows, broken behind a comma if that suffices."""
    for place in [i for i in range(len(label) - 1, 0, -1) if label[i - 1 : i + 1] == ", "]:
        if len(label) > _COLUMNS >= max(place, len(label) - place - 1):
            return f"{label[:place]}\n{label[place + 1 :]}"
    return "\n".join(textwrap.wrap(label, _COLUMNS, break_long_words=False))


def _spread(wanted: np.ndarray, heights: np.ndarray, low: float, high: float) -> np.ndarray:
    """Centres nearest to the wanted increasing ones (least squares) without overlap, within bounds."""
    start = np.concatenate([[0.0], np.cumsum((heights[1:] + heights[:-1]) / 2)])
    # Without overlap means that centre less start increases: isotonic regression, by pooling.
    pools: list[list[float]] = []  # mean, count
    for value in wanted - start:
        pools.append([float(value), 1.0])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            mean, count = pools.pop()
            before = pools[-1]
            total = before[1] + count
            pools[-1] = [(before[0] * before[1] + mean * count) / total, total]
    level = np.concatenate([np.full(int(count), mean) for mean, count in pools])
    return np.clip(level, low, max(low, high - start[-1])) + start


def _clear(ax: Any, labels: Sequence[_Label]) -> bool:
    """Whether few and short labels stand beside ends at the right of the axes."""
    box = ax.get_window_extent().extents * 72 / ax.figure.dpi
    right = max((label.at[0] for label in labels), default=0.0) - _MARGIN * (box[2] - box[0])
    apart = np.diff([label.at[1] for label in labels])
    return (
        len(labels) <= _FEW
        and bool(np.all(apart >= _APART))
        and all(
            label.at[0] >= right
            and box[1] - 1 <= label.at[1] <= box[3] + 1
            and abs(label.to[1]) <= _SHIFT
            and label.text.count("\n") < _ROWS
            and max(map(len, label.text.split("\n"))) <= _COLUMNS
            for label in labels
        )
    )


def _write(ax: Any, label: _Label) -> None:
    ink = text_color(label.color)
    away = abs(label.to[1]) > 0.4 * _HEIGHT or label.to[0] > 2 * _GAP
    leader = {"arrowstyle": "-", "color": ink, "lw": 0.7, "shrinkA": 1, "shrinkB": 2}
    ax.annotate(
        label.text,
        label.end,
        label.to,
        "data",
        "offset points",
        size=_SIZE,
        color=ink,
        va="center",
        annotation_clip=False,
        arrowprops=leader if away else None,
    )
