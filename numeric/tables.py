"""Tables of cells as aligned text and as HTML, and what a cell shows."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any


def text_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Cells in aligned columns: numbers to the right, and the last column, a verdict, to the left."""
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = []
    for cells in (header, *body):
        padded = [c.rjust(w) for c, w in zip(cells[:-1], widths[:-1], strict=True)]
        lines.append("  ".join([*padded, cells[-1]]))
    return "\n".join(lines)


def html_table(
    header: Sequence[str], body: Sequence[Sequence[str]], colors: Sequence[str] = ()
) -> str:
    """Cells as an HTML table; `colors` are those of the last column, a verdict, row by row."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    last = [f' style="color:{color}"' if color else "" for color in colors] or [""] * len(body)
    lines = ""
    for cells, style in zip(body, last, strict=True):
        *front, end = (html.escape(cell) for cell in cells)
        lines += "<tr>" + "".join(f"<td>{cell}</td>" for cell in front)
        lines += f"<td{style}>{end}</td></tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"


def cell_text(value: Any) -> str:
    """A setting or a number as a cell of a table."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)
