"""Rows, parts and series that the claims of every paper are made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from numeric.claims.base import Part
from numeric.compare import Row, compare
from numeric.montecarlo import Estimate
from numeric.plot import Series

ROUNDING = 1e-12


def estimate_row(
    setting: dict[str, Any],
    prediction: float,
    estimate: Estimate,
    allowance: float = 0.0,
    **options: Any,
) -> Row:
    """A sampled estimate against its prediction; options as in `compare`."""
    error = estimate.standard_error
    return compare(setting, prediction, estimate.value, error, allowance, **options)


def limit_row(
    setting: dict[str, Any], prediction: Any, near: Any, far: Any, *more: float, **options: Any
) -> Row:
    """A limit against its value far out; the error is what has changed since `near`.

    Further arguments as in `compare`, from its allowance on.
    """
    error = abs(float(far) - float(near))
    return compare(setting, float(prediction), float(far), error, *more, **options)


def holds(setting: dict[str, Any], condition: bool) -> Row:
    """A statement that is true or false: 1 or 0 against 1, without error."""
    return compare(setting, 1.0, float(condition), ROUNDING)


def inside(
    setting: dict[str, Any],
    value: float,
    error: float,
    low: float = -math.inf,
    high: float = math.inf,
) -> Row:
    """That an estimate lies within bounds, and five standard errors from them; they are in the row."""
    bounds = [f"above {low:g}"] if low > -math.inf else []
    bounds += [f"below {high:g}"] if high < math.inf else []
    words = f"{setting['quantity']}: {value:.4f} +- {error:.4f}, {' and '.join(bounds)}"
    return holds(
        {**setting, "quantity": words}, low < value - 5 * error and value + 5 * error < high
    )


def separate(title: str, rows: Iterable[Row], control: float = 1.03) -> tuple[Part, ...]:
    """Numbers with their negative control; what is true or false in a part of its own.

    A statement would reject any control, and hide whether the numbers do.
    """
    rows = list(rows)
    stated = [row for row in rows if (row.prediction, row.standard_error) == (1.0, ROUNDING)]
    numbers = [row for row in rows if row not in stated]
    parts = []
    if numbers:
        parts.append(Part.of(title, numbers, control))
    if stated:
        words = f"{title}: statements" if numbers else title
        parts.append(Part.of(words, stated))
    return tuple(parts)


def curve(label: str, x: Any, y: Any, error: Any = (), color: int = 0) -> Series:
    """A series from arrays."""
    x, y, error = (tuple(np.asarray(a, float).tolist()) for a in (x, y, error))
    return Series(label, x, y, error, color)


def line(label: str, color: int, x: Iterable[float], value: Callable[[float], Any]) -> Series:
    """A function as a series."""
    x = [float(a) for a in x]
    return curve(label, x, [float(value(a)) for a in x], (), color)


def scatter(label: str, found: Iterable[tuple[Any, Any, Any]], color: int = 0) -> Series:
    """A series from x, y and the standard error of y, point by point."""
    x, y, error = zip(*found, strict=True)
    return curve(label, x, y, error, color)


def points(label: str, rows: Iterable[Row], x: str, color: int) -> Series:
    """Measured estimates of rows as points with one standard error."""
    rows = list(rows)
    errors = [row.standard_error or 0.0 for row in rows]
    return curve(
        label, [row.setting[x] for row in rows], [row.estimate for row in rows], errors, color
    )
