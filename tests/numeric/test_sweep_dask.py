"""Sweeps on a real Dask cluster, one worker of which is killed on the way."""

import os
import signal
import sys
import threading
import time
from functools import partial

import pytest
from swept import GRID, assert_every_point_once, deadly, note, risk, wait_for_rows

from icltheory.errors import InvalidInput
from numeric import Sweep, SweepStopped, sweep

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    from dask.config import set as dask_settings

    settings = {
        "distributed.scheduler.allowed-failures": 1,  # a deadly point ends two workers, not four
        "distributed.admin.log-format": "%(message)s",
        "logging.distributed": "critical",
    }
    with (
        dask_settings(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
        ) as cluster,
    ):
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=30)
        yield client


def test_a_killed_worker_loses_and_doubles_no_row(tmp_path, client):
    out, pids = tmp_path / "rows", tmp_path / "pids"
    pids.mkdir()
    before = client.run(os.getpid)
    killed = []

    def kill():
        wait_for_rows(out, 80)
        killed.append(next(iter(before.values())))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    result = sweep(note(pids, 0.01), GRID, executor=client, out=out)
    thread.join()
    assert str(killed[0]) in {path.name for path in pids.iterdir()}
    assert set(client.run(os.getpid).values()) != set(before.values())
    assert result.rows == sweep(risk, GRID, executor="serial").rows
    assert_every_point_once(out)
    assert Sweep.read(out) == result


def test_a_deadly_point_fails_alone(tmp_path, client):
    function, executor = partial(deadly, str(tmp_path)), client.get_executor()
    result = sweep(function, {"x": [0, 1, 2, 5]}, executor=executor)
    assert result["value"] == [0, 1, 5]
    (failed,) = result.failed
    assert failed.setting == {"x": 2}
    assert failed.error.startswith("its worker died")


def test_an_address_is_enough_and_functions_of_a_notebook_travel(cluster):
    shift = 3
    result = sweep(lambda x: x + shift, {"x": range(5)}, executor=cluster.scheduler_address)
    assert result["value"] == [3, 4, 5, 6, 7]


def test_ctrl_c_leaves_the_cluster_free(tmp_path, client):
    out, pids = tmp_path / "rows", tmp_path / "pids"
    pids.mkdir()

    def press():
        wait_for_rows(out, 10)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    part = sweep(note(pids, 0.02), GRID, executor=client, out=out)
    thread.join()
    assert part.interrupted
    assert 10 <= len(part.rows) < 200
    end = time.monotonic() + 10
    while any(client.processing().values()):
        assert time.monotonic() < end, "the cluster computes on"
        time.sleep(0.05)


def test_workers_with_other_code_stop_the_sweep(client, monkeypatch):
    monkeypatch.setattr(sys.modules["numeric.sweep"], "code_digest", lambda: "0" * 64)
    with pytest.raises(SweepStopped, match="another version of icltheory"):
        sweep(risk, GRID, executor=client)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_a_scheduler_that_does_not_answer_is_named(address, monkeypatch):
    monkeypatch.setattr("numeric.sweep_executors._CONNECT", 0.3)
    with pytest.raises(InvalidInput, match="no Dask scheduler answers"):
        sweep(risk, GRID, executor=address)
