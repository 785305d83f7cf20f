"""The result of `finite.identify`: tables, figures, and a verdict in plain words.

Exported: `Identification`, `FamilyMatch`, `Layers`.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from numeric.best_step import BestMatch
from numeric.decoding_display import Shown
from numeric.filter_estimate import EffectiveFilter
from numeric.finite.verdict import Standing, Verdict
from numeric.plot import Figure, Series, SideBySide, to_svg
from numeric.plot_style import COLORS
from numeric.tables import html_table

Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]


@dataclass(frozen=True, repr=False)
class Layers(Shown):
    """What was measured on each of the L layers.

    risk, risk_error: mean of (prediction - theta.x)^2 on every prefix, (L, P), and its standard
    error. zero_risk: of the zero predictor on the same prompts, (P,). r_squared: held-out R^2 of
    the linear fit in the query, (L, P). off_span: mean share of the weights' squared length outside
    the span of the examples, over prefixes shorter than the dimension, (L,); NaN if there are none.
    half_point, leakage: of the effective filter, (L,). least_squares: similarity of weights to least
    squares, (L,). deciding: the layers that the verdict rests on: neither `uninformative` (not
    better than zero) nor `converged` to least squares, unless all are.
    """

    risk: np.ndarray
    risk_error: np.ndarray
    zero_risk: np.ndarray
    r_squared: np.ndarray
    off_span: np.ndarray
    half_point: np.ndarray
    leakage: np.ndarray
    least_squares: np.ndarray
    uninformative: np.ndarray
    converged: np.ndarray

    @property
    def deciding(self) -> np.ndarray:
        """Whether a layer enters the verdict, (L,)."""
        informative = ~self.uninformative
        open_ = informative & ~self.converged
        return open_ if open_.any() else informative

    def __len__(self) -> int:
        return len(self.risk)


@dataclass(frozen=True, repr=False)
class FamilyMatch(Shown):
    """A family of solvers against all layers.

    variant: the rule or the fitted number (`fitted`, else None) that is nearest to the model. unit:
    of the grid. weights, errors: the best match by either similarity, layer by layer; errors is None
    where there is a single prefix, or only rounding. filter: gains of the family at the steps
    matched by weights, one a layer, in the bins of the model's effective filter.
    """

    family: str
    variant: str
    unit: str
    fitted: float | None
    weights: BestMatch
    errors: BestMatch | None
    filter: EffectiveFilter

    @property
    def steps(self) -> np.ndarray:
        """The step matched by weights, (L,)."""
        return self.weights.best


@dataclass(frozen=True, eq=False)
class Identification:
    """Which solver the layers of a model resemble; `print` it, or show it in a notebook.

    Three sentences say what was found, why, and what to do next; `explain()` tells the rest.

    model: what was looked at, as words. prompt_length, prefixes, prompts, readout, precision: the
    setting. layers: measurements on every layer. matches: one a family. filter: effective filter of
    every layer after `filter_prefix` examples. standings: the comparison of the families by weights
    and errors. verdict: `verdict.solver` is the family, or None where the data do not decide;
    `verdict.families` are those that are left.
    """

    model: str
    prompt_length: int
    prefixes: np.ndarray
    prompts: int
    readout: str
    layers: Layers
    matches: tuple[FamilyMatch, ...]
    filter: EffectiveFilter = field(repr=False)
    filter_prefix: int
    standings: tuple[Standing, ...] = field(repr=False)
    verdict: Verdict

    @property
    def solver(self) -> str | None:
        """The family that is named, None if undecided."""
        return self.verdict.solver

    @property
    def steps(self) -> np.ndarray | None:
        """The steps of the named family, one a layer (L,); None if undecided."""
        names = [match.family for match in self.matches]
        return self.match(self.solver).steps if self.solver in names else None

    def match(self, family: str | None) -> FamilyMatch:
        """The match of a family; `InvalidInput` lists the names."""
        for match in self.matches:
            if match.family == family:
                return match
        names = ", ".join(match.family for match in self.matches)
        raise InvalidInput(f"family = {family!r} is not one of {names}.")

    # -- tables ------------------------------------------------------------------------------------

    def layer_table(self) -> str:
        """Risk, linearity, span and effective filter of every layer, as text."""
        return _text(self._layer_rows())

    def match_table(self) -> str:
        """Matched steps and similarities of every family and layer, as text.

        Steps with the range of ties and a 95 % interval; * is censored at an end of the grid.
        """
        return _text(self._match_rows())

    def _layer_rows(self) -> Rows:
        found, n = self.layers, self.prefixes[-1]
        header = ("layer", f"risk at n = {n}", "min R^2", "off span", "1/2 at", "leakage", "to OLS")
        rows = []
        for i in range(len(found)):
            remark = " (zero)" if found.uninformative[i] else ""
            rows.append(
                (
                    f"{i + 1}{remark}",
                    f"{found.risk[i, -1]:.4f} +- {found.risk_error[i, -1]:.4f}",
                    f"{found.r_squared[i].min():.4f}",
                    f"{found.off_span[i]:.2g}",
                    f"{found.half_point[i]:.3g}",
                    f"{found.leakage[i]:.3f}",
                    f"{found.least_squares[i]:.4f}",
                )
            )
        return header, rows

    def _match_rows(self) -> Rows:
        header = ["family", "layer", "weights", "95 %", "step", "ties", "95 %"]
        with_errors = self.matches[0].errors is not None
        header += ["errors", "95 %", "step", "ties", "95 %"] if with_errors else []
        rows = []
        for match in self.matches:
            name = f"{match.family} ({match.variant})" if match.variant else match.family
            for i in range(len(self.layers)):
                cells = [name if i == 0 else "", str(i + 1), *_match_cells(match.weights, i)]
                if match.errors is not None:
                    cells += _match_cells(match.errors, i)
                rows.append(tuple(cells))
        return tuple(header), rows

    def explain(self) -> str:
        """The verdict with everything that was found, in plain words."""
        return f"{self._headline()} {self.verdict.explain()}"

    def __str__(self) -> str:
        return "\n\n".join(
            (self._headline(), str(self.verdict), self.layer_table(), self.match_table())
        )

    __repr__ = __str__

    def _headline(self) -> str:
        first, last = self.prefixes[0], self.prefixes[-1]
        lengths = f"{first}, ..., {last}" if last > first else f"{last}"
        layers = f"{len(self.layers)} layer{'s' if len(self.layers) > 1 else ''}"
        return (
            f"{self.model}: {layers} on {self.prompts} prompts, prefixes {lengths}; {self.readout}."
        )

    def _repr_html_(self) -> str:
        parts = [
            f"<p>{html.escape(self._headline())}</p>",
            f"<p><b>{html.escape(self.verdict.summary[0])}</b> "
            f"{html.escape(' '.join(self.verdict.summary[1:]))}</p>",
            *(html_table(*rows) for rows in (self._layer_rows(), self._match_rows())),
        ]
        for i, figure in enumerate((self.figure, self.family_figure())):
            parts.append(to_svg(figure, f"identify-{id(self):x}-{i}-"))
            parts.append(f"<p>{html.escape(figure.caption)}</p>")
        return "".join(parts)

    # -- figures -----------------------------------------------------------------------------------

    @property
    def figure(self) -> Figure:
        """Effective filters of all layers, beside the nearest family's at the matched steps."""
        nearest = self.match(self._nearest())
        shown = np.flatnonzero(~self.layers.uninformative).tolist() or range(len(self.layers))
        lines = tuple(
            self._line(nearest, i, f"layer {i + 1}: {nearest.unit} {nearest.steps[i]:.4g}", i)
            for i in shown
        )
        points = tuple(self._points(i, "", i) for i in shown)
        return self._filters(
            "Effective filter of every layer",
            f"Share of each eigendirection that a layer has learned (points, one standard error) after "
            f"{self.filter_prefix} examples, and {nearest.family} at the matched steps (lines).",
            lines,
            points,
        )

    def family_figure(self, layer: int = -1) -> Figure:
        """Effective filter of one layer (1, ..., L; -1 is the last), beside those of all families."""
        count = len(self.layers)
        if isinstance(layer, bool) or layer not in (-1, *range(1, count + 1)):
            raise InvalidInput(f"layer = {layer!r} is not one of 1, ..., {count}, or -1.")
        i = (count if layer == -1 else layer) - 1
        lines = tuple(
            self._line(match, i, f"{match.family}, {match.unit} {match.steps[i]:.4g}", _hue(c))
            for c, match in enumerate(self.matches)
        )
        return self._filters(
            f"Layer {i + 1} beside the families",
            f"Effective filter of layer {i + 1} (points) after {self.filter_prefix} examples, and every "
            f"family at its best-matching step (lines).",
            lines,
            (self._points(i, f"layer {i + 1}", 0),),
        )

    def step_figure(self) -> Figure:
        """Matched steps of all families against the layer, at the middle of their ties."""
        numbers = np.arange(1, len(self.layers) + 1)
        marks = []
        for color, match in enumerate(self.matches):
            if match.unit == "steps":
                used = self.layers.deciding & (match.steps > 0)
                middle = match.weights.midpoints()
                beside = numbers + _WIDTH * ((color + 0.5) / len(self.matches) - 0.5)
                marks.append(Series(match.family, beside[used], middle[used], (), _hue(color)))
        return Figure(
            "Matched steps",
            "layer",
            "steps",
            "The number of steps of every family that each deciding layer is most similar to, by weights; "
            "families side by side.",
            (),
            tuple(marks),
            logx=False,
        )

    @property
    def figures(self) -> SideBySide:
        """The three figures in a row, for a notebook."""
        return SideBySide(self.figure, self.family_figure(), self.step_figure())

    def plot(self, ax: Any = None) -> Any:
        """The filters of all layers (`figure`); returns the axes. `ax`: as in `numeric.draw`."""
        return self.figure.draw(ax)

    def _nearest(self) -> str:
        return self.matches[self.standings[0].best].family

    def _points(self, layer: int, label: str, color: int) -> Series:
        found = self.filter
        return Series(
            label, found.eigenvalue, found.gain[layer], found.standard_error[layer], color
        )

    def _line(self, match: FamilyMatch, layer: int, label: str, color: int) -> Series:
        return Series(label, match.filter.eigenvalue, match.filter.gain[layer], (), color)

    def _filters(
        self, title: str, caption: str, lines: tuple[Series, ...], points: tuple[Series, ...]
    ) -> Figure:
        return Figure(
            title, "eigenvalue of S", "gain 1 - r", caption, lines, points, logx=True, logy=False
        )


_WIDTH = 0.4  # of the marks of one layer, in layers


def _hue(family: int) -> int:
    """A colour index for a family: never the first colour, which is the model's, and never one twice."""
    turn, place = divmod(family, len(COLORS) - 1)
    return turn * len(COLORS) + place + 1


# -- cells -----------------------------------------------------------------------------------------


def _match_cells(match: BestMatch, layer: int) -> Iterator[str]:
    assert match.similarity_interval is not None
    assert match.step_interval is not None
    low, high = match.similarity_interval[layer]
    yield f"{match.best_similarity[layer]:.4f}"
    yield f"{low:.4f}-{high:.4f}"
    yield f"{match.best[layer]:.4g}" + ("*" if match.censored[layer] else "")
    yield _range(match.tie_set(layer)[[0, -1]])
    yield _range(match.step_interval[layer])


def _range(ends: Sequence[float] | np.ndarray) -> str:
    low, high = (f"{x:.4g}" for x in ends)
    return low if low == high else f"{low}-{high}"


def _text(table: Rows) -> str:
    header, body = table
    widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
    lines = []
    for cells in (header, *body):
        padded = [c.rjust(w) for c, w in zip(cells, widths, strict=True)]
        padded[0] = cells[0].ljust(widths[0])
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)
