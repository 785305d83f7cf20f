"""Comparison: the verdicts case by case, the negative control, exchange formats and displays."""

import json
import math
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

from icltheory.errors import InvalidInput
from numeric.compare import Comparison, compare

NAN, INF = math.nan, math.inf


def verdict(*args, **kwargs):
    return compare({}, *args, **kwargs).verdict


# -- verdicts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "estimate", "error", "options", "expected"),
    [
        (1.0, 1.0, 0.005, {}, "agrees"),
        (1.0, 1.024, 0.005, {}, "agrees"),
        (1.0, 1.026, 0.005, {}, "deviates"),
        (1.0, 0.974, 0.005, {}, "deviates"),
        (-1.0, -1.024, 0.005, {}, "agrees"),
        (-1.0, 1.0, 0.005, {}, "deviates"),
        # the resolution 5 se / |prediction| must reach 3 %
        (1.0, 1.0, 0.0059, {}, "agrees"),
        (1.0, 1.0, 0.0061, {}, "poor resolution"),
        (1.0, 1.0, 0.0061, {"required": 0.05}, "agrees"),
        (1.0, 1.0, 0.099, {"required": 0.5}, "agrees"),
        (1.0, 1.0, 0.101, {"required": 0.5}, "poor resolution"),
        (1.0, 1.0, 0.003, {"required": 0.01}, "poor resolution"),
        # a deviation is a deviation at any resolution
        (1.0, 9.0, 0.5, {}, "deviates"),
        # the allowance widens what is accepted, and what is required with it
        (1.0, 1.07, 0.005, {"allowance": 0.05}, "agrees"),
        (1.0, 1.08, 0.005, {"allowance": 0.05}, "deviates"),
        (2.0, 2.12, 0.005, {"allowance": 0.05}, "agrees"),
        (1.0, 1.0, 0.0059, {"allowance": 0.05}, "agrees"),
        (1.0, 1.0, 0.0061, {"allowance": 0.05}, "poor resolution"),
        (1.0, 1.0, 0.001, {"allowance": 0.05, "required": 0.05}, "poor resolution"),
        # prediction 0 has no relative resolution
        (0.0, 0.0, 1e-9, {}, "poor resolution"),
        (0.0, 1.0, 1e-9, {}, "deviates"),
        # not testable: no finite standard error, or nothing to test
        (1.0, 1.0, None, {}, "not testable this way"),
        (1.0, 1.0, NAN, {}, "not testable this way"),
        (1.0, 5.0, INF, {}, "not testable this way"),
        (INF, 1.0, 0.1, {}, "not testable this way"),
        (NAN, 1.0, 0.1, {}, "not testable this way"),
        # a failed estimate with a finite error is not excused
        (1.0, NAN, 0.001, {}, "deviates"),
        (1.0, INF, 0.001, {}, "deviates"),
    ],
)
def test_verdict(prediction, estimate, error, options, expected):
    assert verdict(prediction, estimate, error, **options) == expected


def test_z_and_resolution():
    row = compare({}, 2.0, 2.5, 0.25, allowance=0.1)
    assert row.z == 2.0
    assert row.resolution == pytest.approx(5 * 0.25 / 2 + 0.1)
    untested = compare({}, 2.0, 2.5, None)
    assert math.isnan(untested.z)
    assert math.isnan(untested.resolution)
    assert compare({}, 0.0, 0.1, 0.1).resolution == INF


def test_reasons():
    assert compare({}, 1, 1, 0.001).reason == ""
    assert compare({}, 1, 1, NAN).reason == "the estimator has no finite standard error (nan)"
    assert compare({}, 1, 1, None, note="t >= 1/4").reason == "t >= 1/4"
    assert compare({}, INF, 1, 0.1).reason == "the prediction is inf"
    assert compare({}, 1, 1, 0.01).reason == (
        "only deviations above 0.05 would have been seen; 0.03 is required: draw more samples"
    )


@given(
    prediction=st.floats(0.1, 10),
    shift=st.floats(-0.2, 0.2),
    error=st.floats(1e-6, 0.1),
    allowance=st.floats(0, 0.1),
)
def test_agreeing_rows_reject_twice_the_resolution(prediction, shift, error, allowance):
    row = compare({}, prediction, prediction * (1 + shift), error * prediction, allowance)
    if abs(abs(shift) - allowance - 5 * error) > 1e-9:  # away from the rounding of the boundary
        assert (row.verdict == "deviates") == (abs(shift) > allowance + 5 * error)
    if row.verdict == "agrees":
        # |estimate - p| <= resolution p, so p (1 + c) is out of reach once c (1 - a) > 2 resolution.
        factor = 1 + 2.01 * row.resolution / (1 - allowance)
        assert Comparison.from_rows([row]).scaled(factor).rows[0].verdict == "deviates"


# -- a table of rows -----------------------------------------------------------------------------

GOOD = compare({"n": 10}, 0.4, 0.401, 0.001)
BAD = compare({"n": 20}, 0.4, 0.5, 0.001)
POOR = compare({"n": 30}, 0.4, 0.4, 0.1)
UNTESTED = compare({"n": 40}, 0.4, NAN, None, note="t >= 1/4")


@pytest.mark.parametrize(
    ("rows", "passed"),
    [
        ([], False),
        ([GOOD], True),
        ([GOOD, GOOD], True),
        ([GOOD, BAD], False),
        ([GOOD, POOR], False),
        ([GOOD, UNTESTED], True),
        ([UNTESTED], False),
        ([BAD, UNTESTED], False),
        ([POOR], False),
    ],
)
def test_passed(rows, passed):
    assert Comparison.from_rows(rows).passed is passed
    assert Comparison.from_rows(iter(rows)).passed is passed


def test_scaled_is_the_negative_control():
    table = Comparison.from_rows([GOOD, UNTESTED])
    changed = table.scaled(1.03)
    assert [row.verdict for row in changed] == ["deviates", "not testable this way"]
    assert not changed.passed
    assert table.passed
    assert changed.rows[0].prediction == pytest.approx(0.412)
    assert changed.rows[0].estimate == GOOD.estimate


def test_concatenation():
    table = Comparison.from_rows([GOOD]) + Comparison.from_rows([BAD, POOR])
    assert table.rows == (GOOD, BAD, POOR)
    assert len(table) == 3
    assert [row.setting["n"] for row in table] == [10, 20, 30]
    with pytest.raises(TypeError):
        table + GOOD  # type: ignore[operator]


# -- exchange --------------------------------------------------------------------------------------


def test_dict_round_trip_through_strict_json():
    rows = [GOOD, BAD, POOR, UNTESTED, compare({"x": INF, "on": True, "m": None}, -INF, 1, INF)]
    table = Comparison.from_rows(rows)
    text = json.dumps(table.to_dict(), allow_nan=False)
    back = Comparison.from_dict(json.loads(text))
    assert back.to_dict() == table.to_dict()
    assert [r.verdict for r in back] == [r.verdict for r in table]
    assert back.rows[4].setting == {"x": INF, "on": True, "m": None}
    assert pickle.loads(pickle.dumps(table)).rows[:3] == table.rows[:3]


def test_a_stored_verdict_is_not_believed():
    data = Comparison.from_rows([BAD]).to_dict()
    data["rows"][0]["verdict"] = "agrees"
    assert not Comparison.from_dict(data).passed


@pytest.mark.parametrize("data", [{}, {"rows": [{}]}, {"rows": [1]}, [], {"rows": None}])
def test_foreign_dicts_are_refused(data):
    with pytest.raises(InvalidInput, match=r"not a dict written by Comparison\.to_dict"):
        Comparison.from_dict(data)


def test_settings_become_plain_values():
    setting = {"a": np.int64(3), "b": np.float64(0.5), "c": sp.Integer(2), "d": sp.Rational(1, 4)}
    row = compare({**setting, "e": "text", "f": (1, 2)}, 1, 1, 0.001)
    assert row.setting == {"a": 3, "b": 0.5, "c": 2, "d": 0.25, "e": "text", "f": "(1, 2)"}
    assert [type(row.setting[k]) for k in "abcd"] == [int, float, int, float]


def test_numbers_of_other_packages():
    row = compare({}, sp.Rational(1, 4), np.float64(0.25), np.array(1e-4))
    assert (row.prediction, row.estimate, row.standard_error) == (0.25, 0.25, 1e-4)


def test_frame():
    frame = Comparison.from_rows([GOOD, UNTESTED]).to_frame()
    assert list(frame["n"]) == [10, 40]
    assert list(frame["verdict"]) == ["agrees", "not testable this way"]
    assert frame["z"][0] == pytest.approx(1.0)


def test_frame_without_pandas(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InvalidInput, match=r"install icltheory\[frame\]"):
        Comparison.from_rows([GOOD]).to_frame()


def test_optional_packages_stay_unloaded():
    code = (
        "import sys, numeric.compare; "
        "sys.exit(any(m in sys.modules for m in ('pandas', 'matplotlib', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- displays ------------------------------------------------------------------------------------


def test_text_table():
    table = Comparison.from_rows([GOOD, compare({"kind": "a<b"}, 1, 1, None, note="t >= 1/4")])
    assert str(table).splitlines() == [
        " n  kind  prediction  estimate  std. error  allowance     z  resolution  verdict",
        "10               0.4     0.401       0.001          0  1.00      0.0125  agrees",
        "     a<b           1         1        none          0   nan         nan  "
        "not testable this way: t >= 1/4",
        "agrees: within 5 standard errors",
        "resolution: the smallest relative deviation that a row could have shown, at most 0.03",
    ]


def test_below_a_table_stands_what_agreement_means():
    rows = [compare({"n": n}, 1, 1.04, 0.001, 0.05) for n in (10, 20)]
    shared = str(Comparison.from_rows(rows)).splitlines()[-2:]
    assert (
        shared[0] == "agrees: within 5 standard errors plus the allowance (5 % of the prediction)"
    )
    assert shared[1].endswith("at most 0.08")
    mixed = Comparison.from_rows([*rows, GOOD])
    assert "allowance (a fraction of the prediction)" in str(mixed)
    assert str(mixed).endswith("with a limit a row")
    assert f"<p>{shared[0]}</p>" in Comparison.from_rows(rows)._repr_html_()
    assert "<p>" not in mixed.to_html()
    assert len(str(Comparison.from_rows([])).splitlines()) == 1


def test_html_table_escapes_its_cells():
    text = Comparison.from_rows([compare({"kind": "a<b"}, 1, 1, 0.001)])._repr_html_()
    assert text.startswith("<table>")
    assert "<td>a&lt;b</td>" in text
    assert "<th>verdict</th>" in text
    assert re.search(r'<td style="color:#\w{6}">agrees</td>', text)


def test_plot_draws_lines_points_and_error_bars():
    rows = [
        compare({"d": 5, "prompt_length": n, "theory": name}, 1 / n, 1.1 / n, error)
        for n, error in ((40, 0.01), (10, None), (20, 0.02))
        for name in ("one", "two")
    ]
    ax = Comparison.from_rows(rows).plot()
    assert ax.get_xlabel() == "prompt_length"
    assert ax.get_ylabel() == "prediction and estimate"
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    # Settings that do not vary are in the caption.
    assert sorted(labels) == [
        "theory = one, estimate",
        "theory = one, prediction",
        "theory = two, estimate",
        "theory = two, prediction",
    ]
    assert Comparison.from_rows(rows).figure.caption.endswith("one standard error. d = 5.")
    assert list(ax.lines[0].get_xdata()) == [10, 20, 40]
    assert list(ax.lines[0].get_ydata()) == [1 / 10, 1 / 20, 1 / 40]
    bars = ax.containers[0].lines[2][0].get_segments()
    assert [float(s[1][1] - s[0][1]) for s in bars] == pytest.approx([0, 0.04, 0.02])


def test_plot_into_given_axes_over_a_chosen_setting():
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    table = Comparison.from_rows([GOOD, BAD])
    assert table.plot(ax, x="n") is ax
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["prediction", "estimate"]
    with pytest.raises(InvalidInput, match=r"'kind' is not a number in every row; .* \['n'\]"):
        table.plot(ax, x="kind")
    with pytest.raises(InvalidInput, match="nothing to plot over"):
        Comparison.from_rows([compare({"a": "b"}, 1, 1, 0.1)]).plot(ax)


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (({}, 1, 1, 0), {}, "standard_error = 0 is not positive"),
        (({}, 1, 1, -1), {}, "standard_error = -1 is not positive"),
        (({}, "1", 1, 1), {}, "prediction = '1' is not a number"),
        (({}, 1, None, 1), {}, "estimate = None is not a number"),
        (({}, 1, [1, 2], 1), {}, "estimate has type list"),
        (({}, 1, sp.Symbol("x"), 1), {}, "estimate has type Symbol"),
        (([], 1, 1, 1), {}, "setting has type list"),
        (({}, 1, 1, 1, -0.1), {}, "allowance = -0.1 must be a finite number"),
        (({}, 1, 1, 1), {"required": NAN}, "required = nan must be a finite number"),
        (({}, 1, 1, 1), {"required": 0.51}, r"required = 0.51 is above 0.5: .* as a bound"),
        (({}, 1, 1, 1, 0.6), {}, r"required = 0.63 is above 0.5: .* lower the allowance \(0.6\)"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(InvalidInput, match=message):
        compare(*arguments, **options)


def test_rows_must_be_rows():
    with pytest.raises(InvalidInput, match=r"build rows with numeric\.compare"):
        Comparison.from_rows([{"prediction": 1}])  # type: ignore[list-item]
