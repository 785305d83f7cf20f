"""Where the points of a sweep are computed: here, in own processes, on Dask, or on any executor.

A crew takes calls (`submit`) and says what became of them (`died`). Own processes that die are
replaced, and each holds one point at a time, so that the point at which it died is known; Dask
replaces its workers by itself. Exported: `crew_of`, `Crew`.
"""

from __future__ import annotations

import importlib
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from icltheory.errors import InvalidInput
from numeric import workers
from numeric.arrays import integer
from numeric.sweep_work import Stop

_FALSE_STARTS = 2  # processes that die before their first call, in a row
_FRESH = 1.0  # seconds for which the number of Dask's threads is taken as known
_CONNECT = 10.0  # seconds to reach a scheduler

_EXECUTORS = (
    "'serial', 'processes', a concurrent.futures executor, a dask.distributed Client, or the address "
    "of its scheduler such as 'tcp://host:8786'"
)


class Crew:
    """What computes the calls of a sweep.

    capacity: calls that may be under way at once. sends: True if a call leaves this process.
    attempts: how often a point is tried whose worker dies.
    """

    capacity: float = 1
    sends = False
    attempts = 3

    def submit(self, call: Callable[..., Any], *args: Any) -> Future:
        """Start a call; at most `capacity` are under way."""
        raise NotImplementedError

    def died(self, future: Future) -> str | None:
        """What is known of the worker that died at this call; "" if it died for another reason.

        `None` if the call came to its end. Called once for every future that is done.
        Errors: `Stop` if no further call can be computed.
        """
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or error is not None:
            raise Stop(f"a call could not be computed ({_named(error)}).") from error
        return None

    def close(self, abandon: bool) -> None:
        """End what was started here; with `abandon` without waiting for calls under way."""


class Serial(Crew):
    """Computes every call in this process, at once."""

    def submit(self, call: Callable[..., Any], *args: Any) -> Future:
        future: Future = Future()
        future.set_result(call(*args))
        return future


class _Worker:
    """One process in a pool of its own."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        others = set(multiprocessing.active_children())
        self.pool = ProcessPoolExecutor(1, context, workers.end_with_parent)
        with workers.surroundings():
            self.hello = self.pool.submit(os.getpid)
        self.processes = set(multiprocessing.active_children()) - others

    @property
    def started(self) -> bool:
        """True if the process has computed anything."""
        return self.hello.done() and self.hello.exception() is None

    def end(self) -> str:
        """How the process ended, in words."""
        for process in self.processes:
            process.join(_FRESH)
            code = process.exitcode
            if code is not None and code < 0:
                return f"by {signal.Signals(-code).name}"
        return "by itself"


class Processes(Crew):
    """Processes of this machine, each replaced when it dies."""

    sends = True

    def __init__(self, count: int) -> None:
        self.capacity = count
        self._idle: list[_Worker] = []
        self._busy: dict[Future, _Worker] = {}
        self._false_starts = 0

    def submit(self, call: Callable[..., Any], *args: Any) -> Future:
        worker = self._idle.pop() if self._idle else _Worker()
        try:
            future = worker.pool.submit(call, *args)
        except BrokenProcessPool:  # it died while it had nothing to do
            worker = _Worker()
            future = worker.pool.submit(call, *args)
        self._busy[future] = worker
        return future

    def died(self, future: Future) -> str | None:
        worker = self._busy.pop(future)
        if not isinstance(future.exception(), BrokenProcessPool):
            self._idle.append(worker)
            self._false_starts = 0
            return super().died(future)
        worker.pool.shutdown()
        if worker.started:
            self._false_starts = 0
            return f"its process was ended {worker.end()}, perhaps for lack of memory"
        self._false_starts += 1
        if self._false_starts == _FALSE_STARTS:
            raise Stop(
                "worker processes die at their start. A script that calls sweep must do so under "
                "'if __name__ == \"__main__\":', since every worker imports it."
            )
        return ""

    def close(self, abandon: bool) -> None:
        crew = [*self._idle, *self._busy.values()]
        for worker in crew:
            worker.pool.shutdown(wait=False, cancel_futures=True)
        processes = [process for worker in crew for process in worker.processes]
        if abandon:
            workers.stop(processes)
        for process in processes:
            process.join()


class Given(Crew):
    """An executor of the caller, who also ends it."""

    capacity = math.inf

    def __init__(self, executor: Executor) -> None:
        self.sends = not isinstance(executor, ThreadPoolExecutor)
        self._executor = executor
        self._futures: set[Future] = set()

    def submit(self, call: Callable[..., Any], *args: Any) -> Future:
        try:
            future = self._executor.submit(call, *args)
        except RuntimeError as error:  # broken, or shut down
            raise self._broken(error) from error
        self._futures.add(future)
        return future

    def died(self, future: Future) -> str | None:
        self._futures.discard(future)
        error = None if future.cancelled() else future.exception()
        if isinstance(error, BrokenExecutor):
            raise self._broken(error) from error
        return super().died(future)

    def _broken(self, error: BaseException) -> Stop:
        return Stop(
            f"the executor takes no more calls ({_named(error)}); executor='processes' replaces "
            f"workers that die."
        )

    def close(self, abandon: bool) -> None:
        for future in self._futures:
            future.cancel()


class Dask(Given):
    """A Dask cluster: one call a thread, so that a point which ends its worker is known.

    The scheduler computes calls of lost workers again, up to its setting
    `distributed.scheduler.allowed-failures`.
    """

    attempts = 1

    def __init__(self, client: Any, owned: bool) -> None:
        super().__init__(client.get_executor(pure=False))
        self._client, self._owned = client, owned
        self._threads, self._known = 1, -math.inf

    @property
    def capacity(self) -> float:
        """Threads of the cluster now; at least one, for a cluster that starts with its first call."""
        if time.monotonic() - self._known > _FRESH:
            self._threads = max(1, sum(self._client.nthreads().values()))
            self._known = time.monotonic()
        return self._threads

    def died(self, future: Future) -> str | None:
        error = None if future.cancelled() else future.exception()
        if type(error).__name__ == "KilledWorker":
            self._futures.discard(future)
            return " ".join(str(error).split())
        return super().died(future)

    def close(self, abandon: bool) -> None:
        super().close(abandon)
        if self._owned:
            self._client.close()


def crew_of(executor: Any, count: Any, points: int) -> Crew:
    """The crew for `executor`, of `count` workers (`None`: one a core), at most one a point.

    Errors: `InvalidInput` for what is no executor, and for a scheduler that does not answer.
    """
    if count is not None and executor not in (None, "processes"):
        raise InvalidInput(
            "workers is the number of processes of executor='processes'; other executors have their "
            "own number."
        )
    if executor is None or executor == "processes":
        if getattr(sys.modules["__main__"], "__file__", None) == "<stdin>":
            raise InvalidInput(
                "what is typed into standard input cannot be found by other processes: put it into a "
                "file, or pass executor='serial'."
            )
        count = (os.cpu_count() or 1) if count is None else integer(count, "workers")
        return Processes(min(count, points))
    if isinstance(executor, str):
        if executor == "serial":
            return Serial()
        if "://" in executor:
            return Dask(_connect(executor), owned=True)
    if hasattr(executor, "get_executor") and hasattr(executor, "nthreads"):
        if getattr(executor, "asynchronous", False):
            raise InvalidInput(
                "the Dask client is asynchronous, and a sweep waits for its results; pass "
                "Client(...) without asynchronous=True, or the address of the scheduler."
            )
        return Dask(executor, owned=False)
    if isinstance(executor, Executor):
        # The executor of a Dask client knows its client.
        ours = type(executor).__module__.startswith("distributed.")
        return Dask(vars(executor)["_client"], owned=False) if ours else Given(executor)
    what = repr(executor) if isinstance(executor, str) else f"a {type(executor).__name__}"
    raise InvalidInput(f"executor is {what}; pass {_EXECUTORS}.")


def _connect(address: str) -> Any:
    try:
        distributed = importlib.import_module("distributed")
    except ImportError as error:
        raise InvalidInput(
            f"executor={address!r} needs Dask; install icltheory[distributed]."
        ) from error
    try:
        return distributed.Client(address, timeout=_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"no Dask scheduler answers at {address} ({error}); start one with `dask scheduler`, and "
            f"pass the address that it prints."
        ) from error


def _named(error: BaseException | None) -> str:
    return "it was cancelled" if error is None else f"{type(error).__name__}: {error}"
