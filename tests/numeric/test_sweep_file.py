"""Sweeps that were stopped: the same rows after Ctrl-C, kills and damage to the file."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from swept import GRID, assert_every_point_once, note, square, wait_for_rows

from icltheory.errors import InvalidInput
from numeric import Sweep, sweep

counted = []


def interrupted(x):
    if x == 3:
        raise KeyboardInterrupt
    return x


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
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import numeric, swept\n"
        f"numeric.sweep(swept.note({str(pids)!r}, 0.02), swept.GRID, workers=2, out={str(out)!r})"
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
    monkeypatch.setattr(sys.modules["numeric.sweep"], "code_digest", lambda: "0" * 64)
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
