"""Sweeps in own processes: failures, killed workers and executors of the caller."""

import importlib
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

import pytest
from swept import GRID, assert_every_point_once, deadly, note, risk, unlucky, wait_for_rows

from icltheory.errors import InvalidInput
from numeric import Sweep, SweepStopped, sweep


def flaky(folder, x):
    if x == 2 and not Path(folder, "repaired").exists():
        raise ValueError("not yet")
    Path(folder, f"{x}-{time.time_ns()}").touch()
    return x


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


def test_what_is_typed_into_standard_input_is_refused(monkeypatch):
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "<stdin>", raising=False)
    with pytest.raises(
        InvalidInput, match=r"into standard input .* a file, or pass executor='seri"
    ):
        sweep(risk, GRID)
    assert sweep(lambda x: x, {"x": [1, 2]}, executor="serial").complete


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
