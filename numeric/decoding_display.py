"""How results show themselves: short lines, averages with their standard errors, tables.

Exported: `Shown` and `Tabled` for result classes, `with_error` and `brief`.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np

from numeric.tables import cell_text, html_table, text_table

_FEW = 8  # entries of an array that are written out
_ROWS = 40


def with_error(value: float, error: float) -> str:
    """A number with its standard error in the last digits; NaN and 0 are no error.

    >>> with_error(0.186345, 0.00123), with_error(1234.5, 120.0), with_error(0.5, 0.0)
    ('0.1863(12)', '1234(120)', '0.5')
    """
    if not (math.isfinite(value) and math.isfinite(error)) or error <= 0:
        return cell_text(float(value))
    error = float(f"{error:.1e}")
    places = 1 - math.floor(math.log10(error))
    if places > 8 or abs(value) >= 1e8:
        return f"{value:.3g} +- {error:.2g}"
    if places <= 0:
        return f"{value:.0f}({error:.0f})"
    return f"{value:.{places}f}({round(error * 10**places)})"


def brief(value: Any) -> str:
    """A field of a result in a few words: small arrays written out, large ones by their shape."""
    error = getattr(value, "standard_error", None)
    if hasattr(value, "value") and isinstance(error, (np.ndarray, np.generic)):
        return _averages(np.asarray(value.value), np.asarray(error))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {brief(x)}" for key, x in value.items()) + "}"
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.size > _FEW:
            return f"shape {array.shape}"
        style = ".4g" if array.dtype.kind in "iufc" else ""
        return _listed(array, lambda index: f"{array[index]:{style}}")
    if isinstance(value, tuple) and len(value) > _FEW:
        return f"{len(value)} entries"
    return cell_text(value) if isinstance(value, float) else repr(value)


def _averages(value: np.ndarray, error: np.ndarray) -> str:
    def entry(index: Any) -> str:
        return with_error(float(value[index]), float(error[index]))

    if value.size <= _FEW:
        return _listed(value, entry)
    first, last = (0,) * value.ndim, (-1,) * value.ndim
    return f"{entry(first)} ... {entry(last)}, shape {value.shape}"


def _listed(array: np.ndarray, entry: Any, index: tuple[int, ...] = ()) -> str:
    if len(index) == array.ndim:
        return entry(index)
    inner = (_listed(array, entry, (*index, i)) for i in range(array.shape[len(index)]))
    return f"[{', '.join(inner)}]"


class Shown:
    """A dataclass (made with repr=False) that shows its fields by `brief`."""

    def __repr__(self) -> str:
        shown = (f for f in fields(self) if f.repr and f.name[0] != "_")  # type: ignore[arg-type]
        parts = (f"{f.name}={brief(getattr(self, f.name))}" for f in shown)
        return f"{type(self).__name__}({', '.join(parts)})"


class Tabled(Shown):
    """A result with a table: `print` and Jupyter show it."""

    def _table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows."""
        raise NotImplementedError

    def __str__(self) -> str:
        return text_table(*self._shortened())

    def _repr_html_(self) -> str:
        return html_table(*self._shortened())

    def _shortened(self) -> tuple[list[str], list[list[str]]]:
        header, body = self._table()
        if len(body) > _ROWS:
            body = [*body[: _ROWS - 2], ["..."] * len(header), body[-1]]
        return header, body


def average_rows(value: Any, error: Any) -> tuple[list[str], list[list[str]]]:
    """A table of averages of any shape: rows by the leading axes, columns by the last one of several."""
    value, error = np.asarray(value), np.asarray(error)
    wide = value.ndim > 1
    lead = value.shape[:-1] if wide else value.shape
    columns = [f"[..., {i}]" for i in range(value.shape[-1])] if wide else ["average"]
    body = []
    for index in np.ndindex(lead):
        parts = zip(np.atleast_1d(value[index]), np.atleast_1d(error[index]), strict=True)
        body.append([*map(str, index), *(with_error(float(x), float(e)) for x, e in parts)])
    return [*(f"axis {i}" for i in range(len(lead))), *columns], body


def merged_rows(
    names: tuple[str, list[str]], columns: dict[str, Any]
) -> tuple[list[str], list[list[str]]]:
    """One row for each entry of names[1], with a column for each average of shape (rows,)."""
    title, labels = names
    body = [
        [
            label,
            *(with_error(float(x.value[i]), float(x.standard_error[i])) for x in columns.values()),
        ]
        for i, label in enumerate(labels)
    ]
    return [title, *columns], body
