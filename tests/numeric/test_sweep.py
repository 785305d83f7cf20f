"""Sweeps here and in own processes: the same rows whatever happens on the way.

The swept functions are module-level, so that worker processes can import them.
"""

import importlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import icltheory as icl
import numeric
from icltheory.errors import InvalidInput, OutOfDomain
from numeric import Sweep, SweepStopped, sweep
from numeric.compare import compare
from numeric.montecarlo import Estimate
from numeric.sweep_points import grid_settings, point_seed

GRID = {"dim": [1, 2, 3, 5], "prompt_length": [20, 40], "repetition": range(25)}  # 200 points


def risk(dim, prompt_length, repetition, seed):
    """A Monte Carlo estimate that takes a few milliseconds."""
    task, head = icl.LinearRegression(dim=dim), icl.SoftmaxAttention(heads=1)
    return numeric.monte_carlo_risk(
        task, head, prompt_length, score_scale=0.3, value_scale=2.0, prompts=20, seed=seed
    )


def noted_risk(folder, pause, dim, prompt_length, repetition, seed):
    """`risk` that leaves its process id in the folder, and takes at least `pause` seconds."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(pause)
    return risk(dim, prompt_length, repetition, seed)


def note(folder, pause):
    return partial(noted_risk, str(folder), pause)


counted = []


def square(x):
    return x * x


def unlucky(x):
    if x == 2:
        sys.exit("bye")
    if x == 3:
        raise OutOfDomain("x = 3 is too large")
    if x == 4:
        raise ValueError("no such luck")
    return x


def deadly(folder, x):
    """Kills its process at 2 always, at 3 once; raises at 4."""
    mark = Path(folder, f"killed at {x}")
    if x == 2 or (x == 3 and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return unlucky(x) if x == 4 else x


def flaky(folder, x):
    if x == 2 and not Path(folder, "repaired").exists():
        raise ValueError("not yet")
    Path(folder, f"{x}-{time.time_ns()}").touch()
    return x


def interrupted(x):
    if x == 3:
        raise KeyboardInterrupt
    return x


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def assert_every_point_once(path, points=200):
    indices = [line["index"] for line in lines(path)[1:]]
    assert sorted(indices) == list(range(points))


def wait_for_rows(path, count, patience=60.0):
    end = time.monotonic() + patience
    while not path.exists() or path.read_bytes().count(b"\n") <= count:
        assert time.monotonic() < end, "the sweep does not get on"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def serial():
    return sweep(risk, GRID, executor="serial")


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


# -- failures ----------------------------------------------------------------------------------------


def test_a_point_that_raises_is_recorded_and_the_others_go_on():
    result = sweep(unlucky, {"x": range(6)}, executor="serial")
    assert result["value"] == [0, 1, 5]
    assert [point.error for point in result.failed] == [
        "SystemExit: bye",
        "x = 3 is too large",
        "ValueError: no such luck",
    ]
    assert "unlucky" in result.failed[0].details
    assert not result.complete


def test_a_point_that_kills_its_workers_fails_alone(tmp_path):
    out = tmp_path / "rows"
    result = sweep(partial(deadly, str(tmp_path)), {"x": range(6)}, workers=2, out=out)
    assert result["value"] == [0, 1, 3, 5]
    killing, raising = result.failed
    assert killing.setting == {"x": 2}
    assert "died 3 times: its process was ended by SIGKILL" in killing.error
    assert raising.error == "ValueError: no such luck"
    assert (tmp_path / "killed at 3").exists()
    assert_every_point_once(out, 6)


def test_failed_points_are_tried_again_and_others_are_not(tmp_path):
    out, function = tmp_path / "rows", partial(flaky, str(tmp_path))
    first = sweep(function, {"x": range(4)}, executor="serial", out=out)
    assert [point.setting["x"] for point in first.failed] == [2]
    (tmp_path / "repaired").touch()
    assert sweep(function, {"x": range(4)}, executor="serial", out=out).complete
    assert all(len(list(tmp_path.glob(f"{x}-*"))) == 1 for x in range(4))
    assert Sweep.read(out)["value"] == [0, 1, 2, 3]


# -- executors ---------------------------------------------------------------------------------------


def test_threads_of_the_caller_give_the_serial_result(serial):
    with ThreadPoolExecutor(3) as pool:
        assert sweep(risk, GRID, executor=pool).rows == serial.rows
        pool.submit(int).result()  # still the caller's


def test_a_broken_pool_of_the_caller_keeps_what_is_finished(tmp_path):
    out = tmp_path / "rows"
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with pytest.raises(SweepStopped, match="executor='processes' replaces") as caught:
            sweep(partial(deadly, str(tmp_path)), {"x": range(6)}, executor=pool, out=out)
        assert caught.value.partial["value"] == [0, 1]
        assert Sweep.read(out)["value"] == [0, 1]


def test_a_killed_process_loses_and_doubles_no_row(tmp_path, serial):
    out, pids = tmp_path / "rows", tmp_path / "pids"
    pids.mkdir()
    killed = []

    def kill():
        wait_for_rows(out, 80)
        killed.append(next(pids.iterdir()).name)
        os.kill(int(killed[0]), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    result = sweep(note(pids, 0.01), GRID, workers=2, out=out)
    thread.join()
    assert killed
    assert len(list(pids.iterdir())) == 3  # two, and one in the place of the killed
    assert result.rows == serial.rows
    assert_every_point_once(out)
    assert Sweep.read(out) == result


def test_a_function_that_cannot_be_sent_is_refused():
    lock = threading.Lock()
    with pytest.raises(InvalidInput, match="cannot be sent"):
        sweep(lambda x: lock.locked(), {"x": [1]})


def test_a_function_that_workers_cannot_import_stops_the_sweep(tmp_path, monkeypatch):
    (tmp_path / "here_only.py").write_text("def f(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = importlib.import_module("here_only").f
    monkeypatch.undo()
    with pytest.raises(SweepStopped, match=r"cannot load the function .*here_only"):
        sweep(function, {"x": [1, 2]}, workers=1)


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import math, numeric\n"
        "def f(x):\n    return math.sqrt(x)\n"
        "try:\n    numeric.sweep(f, {'x': [1, 4]}, workers=1)\n"
        "except numeric.SweepStopped as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert "if __name__ ==" in done.stdout


# -- the file, resume, Ctrl-C ------------------------------------------------------------------------


def test_ctrl_c_leaves_a_usable_partial_result(tmp_path):
    out = tmp_path / "rows"
    part = sweep(interrupted, {"x": range(6)}, executor="serial", out=out)
    assert part.interrupted
    assert part["value"] == [0, 1, 2]
    assert "3 of 6 points done, 3 not computed, interrupted" in str(part)
    assert Sweep.read(out).rows == part.rows


def test_ctrl_c_ends_the_processes(tmp_path, serial):
    out, pids = tmp_path / "rows", tmp_path / "pids"
    pids.mkdir()

    def press():
        wait_for_rows(out, 10)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    part = sweep(note(pids, 0.02), GRID, workers=2, out=out)
    thread.join()
    assert part.interrupted
    assert 10 <= len(part.rows) < 200
    assert_gone(pids)
    resumed = sweep(note(pids, 0.02), GRID, executor="serial", out=out, seed=0)
    assert resumed.rows == serial.rows
    assert_every_point_once(out)


def assert_gone(pids):
    end = time.monotonic() + 10
    for path in pids.iterdir():
        while Path("/proc", path.name).exists():
            assert time.monotonic() < end, f"worker {path.name} goes on"
            time.sleep(0.05)


def test_a_killed_driver_leaves_no_workers_and_its_rows(tmp_path, serial):
    out, pids = tmp_path / "rows", tmp_path / "pids"
    pids.mkdir()
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_sweep as t\n"
        f"t.sweep(t.note({str(pids)!r}, 0.02), t.GRID, workers=2, out={str(out)!r})"
    )
    driver = subprocess.Popen([sys.executable, "-c", code])
    wait_for_rows(out, 30)
    with pytest.raises(InvalidInput, match="in use by another sweep"):
        sweep(note(pids, 0.02), GRID, executor="serial", out=out)
    driver.kill()
    driver.wait()
    assert_gone(pids)
    found = len(Sweep.read(out).rows)
    assert 30 <= found < 200
    resumed = sweep(note(pids, 0.02), GRID, executor="serial", out=out)
    assert resumed.rows == serial.rows
    assert_every_point_once(out)


@pytest.mark.parametrize("cut", ["every", "garbage", "zeros"])
def test_a_torn_last_line_is_computed_again(tmp_path, cut):
    out = tmp_path / "rows"
    expected = sweep(square, {"x": range(3)}, executor="serial", out=out).rows
    whole = out.read_bytes()
    tails = {"garbage": [whole + b'{"ind'], "zeros": [whole + b"\0" * 40 + b"\n"]}
    # Some places in every line, the ends among them.
    cuts = [*range(0, len(whole), 29), *range(whole[:-1].rindex(b"\n"), len(whole), 3)]
    for content in tails.get(cut) or [whole[:length] for length in cuts]:
        out.write_bytes(content)
        if content.count(b"\n"):
            Sweep.read(out)  # what is whole can be read before it goes on
        result = sweep(square, {"x": range(3)}, executor="serial", out=out)
        assert result.rows == expected
        assert_every_point_once(out, 3)


def test_a_finished_sweep_is_read_and_not_computed(tmp_path):
    out = tmp_path / "rows"
    counted.clear()

    def function(x):
        counted.append(x)
        return {"y": [x, float("inf")], "z": float("nan")}

    first = sweep(function, {"x": [1, 2]}, executor="serial", out=out)
    content = out.read_bytes()
    again = sweep(function, {"x": [1, 2]}, executor="serial", out=out)
    assert counted == [1, 2]
    assert out.read_bytes() == content
    assert b"NaN" not in content
    assert repr(again.points) == repr(first.points)
    sweep(function, {"x": [1, 2]}, executor="serial", out=out, resume=False)
    assert counted == [1, 2, 1, 2]
    assert_every_point_once(out, 2)


def test_another_sweep_is_refused_and_the_file_left_alone(tmp_path, monkeypatch):
    out = tmp_path / "rows"

    def power(exponent):
        return lambda x: x**exponent

    def go(function, grid=(1, 2), seed=0):
        return sweep(function, {"x": list(grid)}, executor="serial", seed=seed, out=out)

    go(power(2))
    content = out.read_bytes()
    for message, arguments in {
        "another function": (square,),
        "another version of the function": (power(3),),
        "another grid .2 points there, 3 here": (power(2), (1, 2, 3)),
        "another seed .0 there, 1 here": (power(2), (1, 2), 1),
    }.items():
        with pytest.raises(InvalidInput, match=message):
            go(*arguments)
    monkeypatch.setattr("numeric.sweep_work.code_digest", lambda: "0" * 64)
    monkeypatch.setitem(sweep.__globals__, "code_digest", lambda: "0" * 64)
    with pytest.raises(InvalidInput, match="another version of icltheory"):
        go(power(2))
    assert out.read_bytes() == content


def test_files_that_are_no_sweep_are_refused_and_left_alone(tmp_path):
    out = tmp_path / "notes"
    for content in (b"my notes", b"my notes\n", b"{}\n", b"[1]\n", b'{"icltheory_sweep": 2}\n'):
        out.write_bytes(content)
        with pytest.raises(InvalidInput, match="not the file of a sweep"):
            sweep(square, {"x": [1]}, executor="serial", out=out)
        assert out.read_bytes() == content
        with pytest.raises(InvalidInput, match="not the file of a sweep"):
            Sweep.read(out)
    out.write_bytes(b"my notes")
    with pytest.raises(InvalidInput, match="not the file of a sweep"):
        sweep(square, {"x": [1]}, executor="serial", out=out, resume=False)
    with pytest.raises(InvalidInput, match="cannot be read"):
        Sweep.read(tmp_path / "none")


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"index": 7, "result": {}}', b'{"index": 0}'])
def test_damage_in_the_middle_is_named(tmp_path, line):
    out = tmp_path / "rows"
    sweep(square, {"x": range(3)}, executor="serial", out=out)
    parts = out.read_bytes().splitlines()
    out.write_bytes(b"\n".join([*parts[:2], line, *parts[3:]]) + b"\n")
    with pytest.raises(InvalidInput, match=r"line 3 of .* is damaged"):
        sweep(square, {"x": range(3)}, executor="serial", out=out)


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
