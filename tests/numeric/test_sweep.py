"""Sweeps: grids, seeds, results and their display."""

import subprocess
import sys
import time
from functools import partial
from typing import Any

import numpy as np
import pytest
from swept import risk, square

import icltheory as icl
from icltheory.errors import InvalidInput
from numeric import Sweep, SweepStopped, sweep
from numeric.compare import compare
from numeric.montecarlo import Estimate
from numeric.sweep_points import grid_settings, point_seed

# -- grids, seeds, results -------------------------------------------------------------------------


def test_a_product_grid_is_in_order_and_a_list_is_kept():
    grid = {"a": [1, 2], "b": np.array([0.5, 1.5]), "c": "text"}
    rows = sweep(lambda a, b, c: a + b, grid, executor="serial")
    assert [(r["a"], r["b"]) for r in rows.rows] == [(1, 0.5), (1, 1.5), (2, 0.5), (2, 1.5)]
    assert rows["value"] == [1.5, 2.5, 2.5, 3.5]
    assert sweep(square, [{"x": 3}, {"x": 1}], executor="serial")["value"] == [9, 1]


def test_a_seed_follows_from_the_setting_alone(serial):
    point = serial.points[77]
    part = sweep(risk, [point.setting], executor="serial")
    assert part.rows == [point.row]
    assert part.points[0].seed == point.seed
    by_hand = risk(**point.setting, seed=point.seed)
    assert by_hand.value == point.result["value"]
    assert sweep(risk, [point.setting], executor="serial", seed=1).rows != part.rows


def test_seeds_are_distinct_and_equal_for_equal_settings():
    seeds = {point_seed(0, s) for s in grid_settings({"x": range(2000)})}
    assert len(seeds) == 2000
    assert max(seeds) < 2**53
    assert point_seed(0, {"x": 40, "y": 0.5}) == point_seed(0, {"y": 0.5, "x": 40.0})
    assert point_seed(0, {"x": 1}) != point_seed(0, {"x": True})


def test_a_seed_that_is_given_is_left_alone():
    assert sweep(lambda seed: seed, {"seed": [3, 4]}, executor="serial")["value"] == [3, 4]
    bound = partial(lambda x, seed: seed, seed=7)
    assert sweep(bound, {"x": [3, 4]}, executor="serial")["value"] == [7, 7]


def test_results_of_all_kinds_become_named_numbers():
    def columns(value):
        (row,) = sweep(lambda x: value, {"x": 1}, executor="serial").rows
        return {name: entry for name, entry in row.items() if name != "x"}

    assert columns(np.float64(0.5)) == {"value": 0.5}
    assert columns(True) == {"value": True}
    assert columns(Estimate(0.5, 0.1, 9)) == {"value": 0.5, "standard_error": 0.1, "prompts": 9}
    assert columns({"curve": np.arange(3), "name": "a"}) == {"curve": [0, 1, 2], "name": "a"}
    assert columns(compare({"n": 3}, 0.5, 0.51, 0.01))["verdict"] == "poor resolution"


def test_rows_of_compare_become_a_comparison_that_can_fail():
    def row(n, factor):
        return compare({}, 1 / n, factor / n, 0.001 / n)

    good = sweep(row, {"n": [10, 20], "factor": 1.001}, executor="serial").comparison()
    assert good.passed
    assert good.rows[1].setting == {"n": 20, "factor": 1.001}
    assert not good.scaled(1.03).passed
    assert not sweep(row, {"n": [10, 20], "factor": 1.03}, executor="serial").comparison().passed
    with pytest.raises(InvalidInput, match="no 'prediction'"):
        sweep(square, {"x": [1]}, executor="serial").comparison()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({}, "no points"),
        ({"x": []}, "no points"),
        ([], "no points"),
        ("x", "pass {'prompt_length'"),
        ({"x": {1, 2}}, "without an order"),
        ({"x": [1, 1.0]}, "twice in the grid"),
        ({"x": [float("nan")]}, "finite"),
        ({"x": [icl.LinearRegression(dim=2)]}, "inside the function"),
        ({3: [1]}, "not a name"),
        ([3], "pass a dict"),
        ({"y": [1]}, "cannot be called with the setting"),
        ({"x": [1], "seed": [3]}, "cannot be called with the setting"),
    ],
)
def test_senseless_grids_are_refused(grid, message):
    with pytest.raises(InvalidInput, match=message):
        sweep(square, grid, executor="serial")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "threads"}, "executor is 'threads'"),
        ({"executor": 3}, "executor is a int"),
        ({"executor": "serial", "workers": 2}, "workers is the number of processes"),
        ({"workers": 0}, "workers"),
        ({"seed": -1}, "seed"),
        ({"out": "no/such/folder/file"}, "existing folder"),
    ],
)
def test_senseless_options_are_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        sweep(square, {"x": [1, 2]}, **options)


def test_text_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text: Any = "__import__('os').mkdir('made')"
    with pytest.raises(InvalidInput, match="pass a function"):
        sweep(text, {"x": [1]}, executor="serial")
    sweep(lambda x: {"y": x}, {"x": [text]}, executor="serial", out="file")
    assert Sweep.read("file")["y"] == [text]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("value", "message"),
    [(None, "returned a NoneType"), ({"x": 1}, "in the setting too"), ({"y": {}}, "holds numbers")],
)
def test_a_result_that_is_none_stops_the_sweep(value, message):
    calls = []

    def function(x):
        calls.append(x)
        return 1.0 if x == 0 else value

    with pytest.raises(SweepStopped, match=message) as caught:
        sweep(function, {"x": range(5)}, executor="serial")
    assert calls == [0, 1]
    assert caught.value.partial["value"] == [1.0]


# -- display -----------------------------------------------------------------------------------------


def test_tables_show_the_rows_and_first_of_all_the_failures():
    result = sweep(lambda x: 1 / (x - 70), {"x": range(90)}, executor="serial")
    text, page = str(result), result._repr_html_()
    assert text.startswith("89 of 90 points done, 1 failed")
    assert "failed: ZeroDivisionError: division by zero" in text
    assert text.endswith("and 50 more")
    assert page.count("<tr>") == 41
    assert "ZeroDivisionError" in page
    pandas = pytest.importorskip("pandas")
    frame = result.to_frame()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame.columns) == ["x", "value"]
    assert 70 not in frame.index
    with pytest.raises(InvalidInput, match="no finished row has the name 'risk'"):
        result["risk"]


def test_progress_shows_the_remaining_time(capfd):
    sweep(lambda x: time.sleep(0.6) or x, {"x": range(4)}, executor="serial", progress=True)
    shown = capfd.readouterr().err
    assert "sweep" in shown
    assert "4/4" in shown
    assert "<00:0" in shown


def test_importing_numeric_imports_neither_dask_nor_torch():
    code = "import sys, numeric; print([m for m in ('dask', 'distributed', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
