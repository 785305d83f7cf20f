"""Figures of tables: predictions and estimates of a Comparison, results of a Sweep.

Exported: `comparison_figure`, `sweep_figure`, `number_names`, `first_varying`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icltheory.errors import InvalidInput
from numeric.plot import Figure, Series
from numeric.tables import cell_text

_SPAN = 20  # positive numbers with a larger ratio get a logarithmic axis

Setting = Mapping[str, Any]


def comparison_figure(rows: Sequence[Any], x: str | None = None) -> Figure:
    """Predictions as lines and estimates as points over a setting.

    Parameters
    ----------
    rows: of a Comparison.
    x: a setting that is a number in every row; `None` is the first one that varies. Rows that differ in
        another setting become series of their own.

    Error bars are one standard error. Errors: `InvalidInput`.

    >>> from numeric import compare
    >>> rows = [compare({"n": n}, 1 / n, 1.01 / n, 0.1 / n) for n in (10, 20)]
    >>> comparison_figure(rows)
    Figure('Prediction and estimate': 'prediction', 'estimate')
    """
    settings = [row.setting for row in rows]
    x = first_varying(settings) if x is None else _known(settings, x)
    groups, common = _grouped(settings, x)
    lines, points = [], []
    for color, (name, members) in enumerate(groups.items()):
        found = sorted((rows[i] for i in members), key=lambda row: row.setting[x])
        places = [row.setting[x] for row in found]
        errors = [row.standard_error if row.testable else 0.0 for row in found]
        before = f"{name}, " if name else ""
        predicted = [row.prediction for row in found]
        lines.append(Series(f"{before}prediction", places, predicted, color=color))
        estimated = [row.estimate for row in found]
        points.append(Series(f"{before}estimate", places, estimated, errors, color))
    caption = "Lines: predicted. Points: estimated, one standard error."
    return _figure(
        "Prediction and estimate", x, "prediction and estimate", caption + common, lines, points
    )


def sweep_figure(rows: Sequence[Setting], settings: Sequence[Setting], x: str, y: str) -> Figure:
    """One result of a sweep over one setting, as points.

    Parameters
    ----------
    rows: setting and result of every point in one dict. settings: the settings alone.
    x, y: names of a setting and a result that are numbers in every row. Rows that differ in another
        setting become series of their own.

    Errors: `InvalidInput`.

    >>> rows = [{"n": n, "risk": 1 / n} for n in (10, 20, 40)]
    >>> sweep_figure(rows, [{"n": row["n"]} for row in rows], "n", "risk").points[0].y
    (0.1, 0.05, 0.025)
    """
    _known(settings, x)
    _known(rows, y, "result")
    groups, common = _grouped(settings, x)
    points = []
    for color, (name, members) in enumerate(groups.items()):
        found = sorted((rows[i] for i in members), key=lambda row: row[x])
        points.append(Series(name, [row[x] for row in found], [row[y] for row in found], (), color))
    return _figure("Sweep", x, y, f"Points: {y}." + common, [], points)


def number_names(rows: Sequence[Setting]) -> list[str]:
    """Names that stand for a number in every row."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if all(_is_number(row.get(name)) for row in rows)]


def first_varying(settings: Sequence[Setting]) -> str:
    """The first name that stands for different numbers."""
    names = number_names(settings)
    if not names or not settings:
        raise InvalidInput("no setting is a number in every row, so there is nothing to plot over.")
    return next((x for x in names if len({row[x] for row in settings}) > 1), names[0])


def _known(rows: Sequence[Setting], name: str, what: str = "setting") -> str:
    names = number_names(rows)
    if name not in names:
        raise InvalidInput(
            f"{what} {name!r} is not a number in every row; plot over one of {names}."
        )
    return name


def _grouped(settings: Sequence[Setting], x: str) -> tuple[dict[str, list[int]], str]:
    """Rows by what else varies, each group with its name, and what is common to all."""
    names = list(dict.fromkeys(name for row in settings for name in row if name != x))
    texts = {name: [cell_text(row.get(name, "")) for row in settings] for name in names}
    varying = [name for name in names if len(set(texts[name])) > 1]
    groups: dict[str, list[int]] = {}
    for i in range(len(settings)):
        label = ", ".join(f"{name} = {texts[name][i]}" for name in varying)
        groups.setdefault(label, []).append(i)
    common = ", ".join(f"{name} = {texts[name][0]}" for name in names if name not in varying)
    return groups, f" {common}." if common else ""


def _figure(
    title: str, x: str, y: str, caption: str, lines: Sequence[Series], points: Sequence[Series]
) -> Figure:
    shown = [*lines, *points]
    logx, logy = (_wide([z for series in shown for z in getattr(series, axis)]) for axis in "xy")
    return Figure(title, x, y, caption, tuple(lines), tuple(points), logx, logy)


def _wide(numbers: Sequence[float]) -> bool:
    return min(numbers) > 0 and max(numbers) > _SPAN * min(numbers)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
