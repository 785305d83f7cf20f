"""Comparison: predictions held against estimates, with the resolution that each row could reach.

A row agrees if the estimate lies within five standard errors (plus a stated allowance) of the
prediction *and* those five standard errors are small enough to have seen a deviation that matters.
A row that could not have seen it has "poor resolution" and does not pass; a row without a finite
standard error is "not testable this way" and neither passes nor fails. Exported: `compare`, `Row`,
`Comparison`; `text_table`, `html_table` and `cell_text` draw other tables too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from icltheory import checks
from icltheory.errors import InvalidInput
from numeric.plot import Figure
from numeric.table_figures import comparison_figure
from numeric.tables import cell_text, html_table, text_table

AGREES = "agrees"
DEVIATES = "deviates"
POOR_RESOLUTION = "poor resolution"
NOT_TESTABLE = "not testable this way"

# Of the verdict in an HTML table: readable on white and on black.
_COLORS = {AGREES: "#008a5e", DEVIATES: "#d4550a", POOR_RESOLUTION: "#967200", NOT_TESTABLE: ""}

_SIGMAS = 5.0
_RESOLUTION = 0.03  # a deviation of 3 % must have been visible, beyond the allowance
_COARSEST = 0.5  # no row agrees that could not have seen a deviation by half of the prediction


@dataclass(frozen=True)
class Row:
    """One prediction against one estimate; built by `compare`, which checks the arguments.

    `z`, `resolution`, `verdict` and `reason` follow from the other fields and are never stored.
    """

    setting: dict[str, Any]
    prediction: float
    estimate: float
    standard_error: float | None
    allowance: float = 0.0
    required: float = _RESOLUTION
    note: str = field(default="")

    @property
    def testable(self) -> bool:
        """True if the standard error and the prediction are finite numbers."""
        error = self.standard_error
        return error is not None and math.isfinite(error) and math.isfinite(self.prediction)

    @property
    def z(self) -> float:
        """(estimate - prediction) / standard error; NaN if not testable."""
        if not self.testable:
            return math.nan
        assert self.standard_error is not None
        return (self.estimate - self.prediction) / self.standard_error

    @property
    def resolution(self) -> float:
        """Smallest relative deviation this row could have detected; infinite at prediction 0."""
        if not self.testable:
            return math.nan
        assert self.standard_error is not None
        if self.prediction == 0:
            return math.inf
        return _SIGMAS * self.standard_error / abs(self.prediction) + self.allowance

    @property
    def verdict(self) -> str:
        """One of "agrees", "deviates", "poor resolution", "not testable this way"."""
        if not self.testable:
            return NOT_TESTABLE
        assert self.standard_error is not None
        accepted = self.allowance * abs(self.prediction) + _SIGMAS * self.standard_error
        # Written so that a NaN estimate deviates.
        if not abs(self.estimate - self.prediction) <= accepted:
            return DEVIATES
        return AGREES if self.resolution <= self.required else POOR_RESOLUTION

    @property
    def reason(self) -> str:
        """Why the row is not testable or has poor resolution, and the caller's note."""
        parts = [self.note] if self.note else []
        if self.verdict == NOT_TESTABLE and not math.isfinite(self.prediction):
            parts.append(f"the prediction is {self.prediction}")
        elif self.verdict == NOT_TESTABLE and not self.note:
            parts.append(f"the estimator has no finite standard error ({self.standard_error})")
        elif self.verdict == POOR_RESOLUTION:
            parts.append(
                f"only deviations above {self.resolution:.2g} would have been seen; "
                f"{self.required:.2g} is required: draw more samples"
            )
        return "; ".join(parts)


def compare(
    setting: Mapping[str, Any],
    prediction: Any,
    estimate: Any,
    standard_error: Any,
    allowance: float = 0.0,
    *,
    required: float | None = None,
    note: str = "",
) -> Row:
    """Hold one prediction against one estimate.

    Parameters
    ----------
    setting: what was compared, e.g. {"prompt_length": 40}; numbers and text.
    prediction, estimate: numbers.
    standard_error: of the estimate, > 0; for deterministic rows the bound on its numerical error.
        `None`, NaN or infinity make the row "not testable this way".
    allowance: stated relative systematic deviation that is accepted (>= 0), e.g. 0.05 for a trained
        model whose optimisation error is part of the claim.
    required: largest resolution with which the row may pass, at most 0.5; `None` is allowance +
        0.03.
    note: shown in `reason`, e.g. why the estimator has no variance.

    Errors: `InvalidInput` for a standard error <= 0, a negative allowance, `required` above 0.5, or
    what is no number.

    >>> row = compare({"n": 40}, prediction=0.25, estimate=0.251, standard_error=0.001)
    >>> round(row.z, 1), round(row.resolution, 3), row.verdict
    (1.0, 0.02, 'agrees')
    >>> compare({"n": 40}, 0.25, 0.251, 0.01).verdict
    'poor resolution'
    """
    error = None if standard_error is None else _number(standard_error, "standard_error")
    if error is not None and error <= 0:
        raise InvalidInput(
            f"standard_error = {error:g} is not positive; pass the bound on the numerical error of "
            f"a deterministic estimate, or None if no error is known."
        )
    allowance = _number(allowance, "allowance")
    required = allowance + _RESOLUTION if required is None else _number(required, "required")
    for name, value in (("allowance", allowance), ("required", required)):
        if not (0 <= value < math.inf):
            raise InvalidInput(f"{name} = {value:g} must be a finite number of at least 0.")
    if required > _COARSEST:
        raise InvalidInput(
            f"required = {required:g} is above {_COARSEST:g}: a row that agrees must have been able to "
            f"show a deviation by half of the prediction. Draw more samples, lower the allowance "
            f"({allowance:g}), or state what is true as a bound."
        )
    if not isinstance(setting, Mapping):
        raise InvalidInput(
            f"setting has type {type(setting).__name__}; pass a dict such as {{'prompt_length': 40}}."
        )
    return Row(
        {str(key): _plain(value) for key, value in setting.items()},
        _number(prediction, "prediction"),
        _number(estimate, "estimate"),
        error,
        allowance,
        required,
        note,
    )


@dataclass(frozen=True)
class Comparison:
    """Rows of prediction against estimate, as a table, a dict, a frame or a plot.

    >>> table = Comparison.from_rows(
    ...     [compare({"n": 10}, 0.4, 0.401, 0.001), compare({"n": 20}, 0.24, 0.239, 0.001)]
    ... )
    >>> table.passed, table.scaled(1.03).passed
    (True, False)
    >>> print(table)
     n  prediction  estimate  std. error  allowance      z  resolution  verdict
    10        0.4     0.401       0.001          0   1.00      0.0125  agrees
    20       0.24     0.239       0.001          0  -1.00      0.0208  agrees
    agrees: within 5 standard errors
    resolution: the smallest relative deviation that a row could have shown, at most 0.03
    """

    rows: tuple[Row, ...]

    @staticmethod
    def from_rows(rows: Iterable[Row]) -> Comparison:
        """A comparison of these rows, in this order."""
        rows = tuple(rows)
        for row in rows:
            if not isinstance(row, Row):
                raise InvalidInput(
                    f"a row has type {type(row).__name__}; build rows with numeric.compare."
                )
        return Comparison(rows)

    @property
    def passed(self) -> bool:
        """True iff at least one row agrees and all others agree or are not testable this way."""
        verdicts = [row.verdict for row in self.rows]
        return AGREES in verdicts and all(v in (AGREES, NOT_TESTABLE) for v in verdicts)

    def scaled(self, factor: float) -> Comparison:
        """The negative control: the same rows with every prediction multiplied by `factor`."""
        factor = _number(factor, "factor")
        return Comparison(
            tuple(replace(row, prediction=row.prediction * factor) for row in self.rows)
        )

    def __add__(self, other: Comparison) -> Comparison:
        if not isinstance(other, Comparison):
            return NotImplemented
        return Comparison(self.rows + other.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    # -- exchange ----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """A dict for strict JSON: NaN and infinities are the text "nan", "inf", "-inf"."""
        return {"rows": [{k: _encode(v) for k, v in row_record(row).items()} for row in self.rows]}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Comparison:
        """The inverse of `to_dict`; z, resolution and verdict are computed afresh."""
        try:
            return Comparison(
                tuple(
                    compare(
                        {k: _decode(v) for k, v in row["setting"].items()},
                        _decode(row["prediction"]),
                        _decode(row["estimate"]),
                        _decode(row["standard_error"]),
                        row["allowance"],
                        required=row["required"],
                        note=row["note"],
                    )
                    for row in data["rows"]
                )
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InvalidInput(
                f"this is not a dict written by Comparison.to_dict: {error!r}."
            ) from error

    def to_frame(self) -> Any:
        """A pandas DataFrame, one row a comparison and one column a setting (needs pandas)."""
        try:
            import pandas
        except ImportError as error:
            raise InvalidInput(
                "to_frame needs pandas; install icltheory[frame], or use to_dict."
            ) from error
        records = []
        for row in self.rows:
            record = row_record(row)
            records.append({**record.pop("setting"), **record})
        return pandas.DataFrame.from_records(records)

    # -- display -----------------------------------------------------------------------------------

    def __str__(self) -> str:
        return "\n".join([text_table(*self._table()), *self._footer()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self.to_html() + "".join(f"<p>{line}</p>" for line in self._footer())

    def to_html(self) -> str:
        """The table alone as HTML, without the lines below it that say what agreement means."""
        header, body = self._table()
        return html_table(header, body, [_COLORS[row.verdict] for row in self.rows])

    def _footer(self) -> list[str]:
        """What "agrees" and "resolution" mean, with the numbers that all rows share."""
        if not self.rows:
            return []
        allowances = {row.allowance for row in self.rows}
        required = {row.required for row in self.rows}
        agrees = f"{AGREES}: within {_SIGMAS:g} standard errors"
        if allowances != {0.0}:
            share = f"{100 * min(allowances):g} %" if len(allowances) == 1 else "a fraction"
            agrees += f" plus the allowance ({share} of the prediction)"
        limit = f"at most {min(required):g}" if len(required) == 1 else "with a limit a row"
        return [
            agrees,
            f"resolution: the smallest relative deviation that a row could have shown, {limit}",
        ]

    def _table(self) -> tuple[list[str], list[list[str]]]:
        keys = self._setting_keys()
        names = ("prediction", "estimate", "std. error", "allowance", "z", "resolution", "verdict")
        body = []
        for row in self.rows:
            verdict = f"{row.verdict}: {row.reason}" if row.reason else row.verdict
            numbers = (row.prediction, row.estimate, row.standard_error, row.allowance)
            body.append(
                [cell_text(row.setting.get(key, "")) for key in keys]
                + [cell_text(x) for x in numbers]
                + [f"{row.z:.2f}", f"{row.resolution:.3g}", verdict]
            )
        return [*keys, *names], body

    def _setting_keys(self) -> list[str]:
        return list(dict.fromkeys(key for row in self.rows for key in row.setting))

    @property
    def figure(self) -> Figure:
        """Predictions as lines, estimates as points over the first numeric setting that varies."""
        return comparison_figure(self.rows)

    def plot(self, ax: Any = None, x: str | None = None) -> Any:
        """Predictions as lines and estimates as points over the setting `x`; returns the axes.

        Error bars are one standard error. `ax`: as in `numeric.draw`. `x`: `None` is the first numeric
        setting that varies; rows that differ in another setting become series of their own.
        """
        return comparison_figure(self.rows, x).draw(ax)


# -- cells and numbers -----------------------------------------------------------------------------


def row_record(row: Row) -> dict[str, Any]:
    """The fields of a row and what follows from them."""
    return {
        "setting": row.setting,
        "prediction": row.prediction,
        "estimate": row.estimate,
        "standard_error": row.standard_error,
        "allowance": row.allowance,
        "required": row.required,
        "note": row.note,
        "z": row.z,
        "resolution": row.resolution,
        "verdict": row.verdict,
        "reason": row.reason,
    }


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _encode(v) for k, v in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _decode(value: Any) -> Any:
    return float(value) if value in ("nan", "inf", "-inf") else value


def _number(value: Any, name: str) -> float:
    value = checks.plain(value)
    if isinstance(value, (bool, str, bytes)) or value is None:
        raise InvalidInput(f"{name} = {value!r} is not a number.")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} has type {type(value).__name__}; pass one number.") from error


def _plain(value: Any) -> Any:
    """A setting as JSON knows it; numbers of other packages as Python numbers, the rest as text."""
    value = checks.plain(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if getattr(value, "is_Integer", False):
        return int(value)
    return float(value) if getattr(value, "is_Number", False) else str(value)
