"""Sweeps: one function over a grid of settings, on any executor, kept on disk row by row.

The function may do anything that gives numbers: a Monte Carlo estimate, a training, a claim.
Exported: `sweep`, `Sweep`, `Point`, `SweepStopped`.
"""

from __future__ import annotations

import inspect
import os
import queue
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any

from icltheory.errors import IclTheoryError, InvalidInput
from numeric.arrays import integer
from numeric.compare import Comparison, compare
from numeric.progress import progress_bar
from numeric.sweep_executors import Crew, crew_of
from numeric.sweep_file import SweepFile, read_sweep_file
from numeric.sweep_points import Setting, grid_settings, point_seed
from numeric.sweep_work import Stop, compute, compute_sent, fingerprint, pack
from numeric.table_figures import first_varying, number_names, sweep_figure
from numeric.tables import cell_text, html_table, text_table
from numeric.workers import code_digest

_POLL = 1.0  # seconds between two moves of the clock
_SHOWN = 40  # rows that a table shows


class SweepStopped(IclTheoryError, RuntimeError):
    """A sweep that could not go on; `partial` is the `Sweep` of what was finished."""

    def __init__(self, reason: str, partial: Sweep) -> None:
        super().__init__(f"the sweep stopped with {len(partial.rows)} rows finished: {reason}")
        self.partial = partial


@dataclass(frozen=True)
class Point:
    """One point of a sweep: its `result` by name, or the `error` it ended with, or neither yet.

    seed: what the function got as `seed`, if it takes one. details: the traceback of an error.
    """

    index: int
    setting: Setting
    seed: int
    result: dict[str, Any] | None = None
    error: str = ""
    details: str = field(default="", repr=False)
    seconds: float = 0.0

    @property
    def row(self) -> dict[str, Any]:
        """Setting and result in one dict."""
        return {**self.setting, **(self.result or {})}

    @property
    def state(self) -> str:
        """ "done", "failed: " and the reason, or "not computed"."""
        if self.result is not None:
            return "done"
        return f"failed: {self.error}" if self.error else "not computed"


@dataclass(frozen=True, repr=False)
class Sweep:
    """The points of a sweep in the order of its grid; `interrupted` by Ctrl-C or not."""

    points: tuple[Point, ...]
    interrupted: bool = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Setting and result of every finished point."""
        return [point.row for point in self.points if point.result is not None]

    @property
    def failed(self) -> tuple[Point, ...]:
        """The points that ended with an error."""
        return tuple(point for point in self.points if point.error)

    @property
    def complete(self) -> bool:
        """True if every point has a result."""
        return all(point.result is not None for point in self.points)

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    def __getitem__(self, name: str) -> list[Any]:
        """One column of the finished rows: a setting or a result by its name."""
        rows = self.rows
        if not any(name in row for row in rows):
            known = list(dict.fromkeys(key for row in rows for key in row))
            raise InvalidInput(f"no finished row has the name {name!r}; there are {known}.")
        return [row.get(name) for row in rows]

    def comparison(self) -> Comparison:
        """The finished rows as a Comparison, if the function returned a row of `compare`."""
        names = ("prediction", "estimate", "standard_error")
        options = ("allowance", "required", "note")
        for row in self.rows:
            missing = [name for name in names if name not in row]
            if missing:
                raise InvalidInput(
                    f"the rows have no {missing[0]!r}; let the function return compare(...), or a "
                    f"dict with {', '.join(names)}."
                )
        return Comparison.from_rows(
            compare(
                point.setting,
                *(point.row[name] for name in names),
                **{name: point.row[name] for name in options if name in point.row},
            )
            for point in self.points
            if point.result is not None
        )

    def to_frame(self) -> Any:
        """A pandas DataFrame of the finished rows, indexed by their place in the grid."""
        try:
            import pandas
        except ImportError as error:
            raise InvalidInput(
                "to_frame needs pandas; install icltheory[frame], or use rows."
            ) from error
        done = [point for point in self.points if point.result is not None]
        index = pandas.Index([point.index for point in done], dtype=int)
        return pandas.DataFrame.from_records([point.row for point in done], index=index)

    def plot(self, ax: Any = None, x: str | None = None, y: str | None = None) -> Any:
        """A result against a setting, as points; returns the axes. `ax`: as in `numeric.draw`.

        x: `None` is the first numeric setting that varies. y: `None` is the first numeric result; if the
        function returned rows of `compare`, predictions are lines and estimates are points. Points that
        differ in another setting become series of their own.
        """
        done = [point for point in self.points if point.result is not None]
        rows, settings = self.rows, [point.setting for point in done]
        if not rows:
            raise InvalidInput("no point has a result yet, so there is nothing to plot.")
        if y is None and all("prediction" in row and "estimate" in row for row in rows):
            return self.comparison().plot(ax, x)
        x = first_varying(settings) if x is None else x
        results = number_names([point.result or {} for point in done])
        if y is None and not results:
            raise InvalidInput("no result is a number in every row, so there is nothing to plot.")
        return sweep_figure(rows, settings, x, results[0] if y is None else y).draw(ax)

    @staticmethod
    def read(path: str | os.PathLike[str]) -> Sweep:
        """The sweep in a file, finished or not, also while it is computed.

        Errors: `InvalidInput` for a file that is no sweep or is damaged.
        """
        header, records = read_sweep_file(path)
        points = _points(header["settings"], header["seed"])
        return Sweep(tuple(_filled(point, records.get(point.index, {})) for point in points))

    # -- display -----------------------------------------------------------------------------------

    def __repr__(self) -> str:
        header, body, hidden = self._table()
        more = [f"and {hidden} more"] if hidden else []
        return "\n".join([self._headline(), text_table(header, body), *more])

    def _repr_html_(self) -> str:
        header, body, hidden = self._table()
        more = f"<p>and {hidden} more</p>" if hidden else ""
        return f"<p>{self._headline()}</p>{html_table(header, body)}{more}"

    def _headline(self) -> str:
        counts = Counter(point.state.partition(":")[0] for point in self.points)
        parts = [f"{counts['done']} of {len(self.points)} points done"]
        parts += [f"{counts[s]} {s}" for s in ("failed", "not computed") if counts[s]]
        return ", ".join([*parts, *(["interrupted"] if self.interrupted else [])])

    def _table(self) -> tuple[list[str], list[list[str]], int]:
        settings = dict.fromkeys(name for point in self.points for name in point.setting)
        results = dict.fromkeys(name for point in self.points for name in point.result or {})
        names = [*settings, *results]
        # What failed is what a reader looks for.
        first = sorted(self.points, key=lambda point: not point.error)[:_SHOWN]
        shown = sorted(first, key=lambda point: point.index)
        body = [[*(cell_text(p.row.get(name, "")) for name in names), p.state] for p in shown]
        return [*names, "state"], body, len(self.points) - len(shown)


def sweep(
    function: Callable[..., Any],
    grid: Any,
    *,
    executor: Any = None,
    workers: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = True,
    progress: bool | None = None,
) -> Sweep:
    """Compute `function(**setting)` at every setting of a grid.

    Parameters
    ----------
    function: gets one setting as keywords, and a `seed` if it has a parameter of that name which the
        setting does not give. It returns a number, an `Estimate`, a row of `compare`, or a dict of
        numbers, text and lists of them.
    grid: a mapping of names to values for all combinations, e.g. {"prompt_length": [20, 40], "dim":
        [2, 5]} (a single value stays the same), or a list of settings. Values are numbers, text, and
        lists of them; objects such as a task are built in the function.
    executor: "processes" (default), "serial" (this process), a `concurrent.futures` executor, a
        `dask.distributed.Client`, or the address of a Dask scheduler, "tcp://host:8786".
    workers: number of processes of executor="processes"; `None` is one a core.
    seed: of the whole sweep. The seed of a point follows from it and from the point's setting, so
        the results depend neither on the executor nor on the order nor on the other points (up to
        the rounding of linear algebra in several threads; own processes use one).
    out: file in which every row is on the disk as soon as it is computed, as JSON lines. If it
        exists the sweep goes on: rows are kept, points that failed are computed again. Function,
        grid, seed and version of icltheory must be the same.
    resume: False starts anew and overwrites the file.
    progress: True or False for the bar with the remaining time; `None` shows it on a terminal and in
        a notebook.

    Returns a `Sweep`, points in the order of the grid. A point whose function raises is recorded as
    failed, and the others go on; so is one whose process dies three times (on Dask, where workers
    die more often than its `allowed-failures`). On Ctrl-C the workers are stopped,
    `Sweep.interrupted` is true, and the same call goes on later.

    Errors: `InvalidInput` for arguments that mean nothing and for a file of another sweep, before
    anything is computed; `SweepStopped`, with what was finished in `partial`, if the executor
    breaks, the workers cannot load the function, or it returns what is no result.

    Monte Carlo:

    >>> import icltheory as icl
    >>> from numeric import monte_carlo_risk
    >>> def risk(dim, prompt_length, seed):
    ...     task, head = icl.LinearRegression(dim=dim), icl.SoftmaxAttention(heads=1)
    ...     scales = {"score_scale": 0.4, "value_scale": 2.0}
    ...     return monte_carlo_risk(task, head, prompt_length, prompts=1000, seed=seed, **scales)
    >>> result = sweep(risk, {"dim": [1, 2], "prompt_length": [20, 40]}, executor="serial")
    >>> result["prompt_length"], result.complete
    ([20, 40, 20, 40], True)
    >>> list(result.rows[0])
    ['dim', 'prompt_length', 'value', 'standard_error', 'prompts']

    Training, over seeds (leave `executor` out for one process a core):

    >>> from numeric import finite
    >>> def final_loss(repetition, learning_rate, seed):
    ...     model, task = finite.SoftmaxAttention(dim=2), icl.LinearRegression(dim=2)
    ...     options = {"learning_rate": learning_rate, "progress": False}
    ...     run = finite.train(model, task, prompt_length=10, steps=20, seed=seed, **options)
    ...     return {"loss": run.loss[-10:].mean()}
    >>> grid = {"repetition": range(2), "learning_rate": [0.01, 0.03]}
    >>> sweep(final_loss, grid, executor="serial").complete
    True

    Claims, one a point:

    >>> def verdict(claim, effort):
    ...     from numeric.claims.base import EFFORTS
    ...     from numeric.claims.runner import load_claims
    ...     parts, figure = load_claims()[claim].experiment(EFFORTS[effort], lambda what, share: None)
    ...     return {"parts": len(parts), "passed": all(part.passed for part in parts)}
    >>> grid = {"claim": ["solvers-equivalences"], "effort": "quick"}
    >>> sweep(verdict, grid, executor="serial")["passed"]
    [True]
    """
    settings = grid_settings(grid)
    points = _points(settings, integer(seed, "seed", minimum=0))
    if not callable(function):
        raise InvalidInput(f"function has type {type(function).__name__}; pass a function.")
    seeded = _takes_seed(function, settings)
    crew = crew_of(executor, workers, len(points))
    records: dict[int, dict[str, Any]] = {}
    interrupted, stopped, file = False, "", None
    try:
        call = _call(function, crew)
        if out is not None:
            header = {
                **fingerprint(function),
                "settings": settings,
                "seed": int(seed),
                "code": f"{version('icltheory')}, {code_digest()[:16]}",
            }
            file = SweepFile(out, header, resume)
            records.update({i: r for i, r in file.records.items() if "result" in r})
        waiting = [point for point in points if point.index not in records]
        with progress_bar(len(points), len(records), progress, "sweep") as bar:
            for point, record in _drive(waiting, crew, call, seeded, bar.update):
                records[point.index] = record  # first: Ctrl-C may come while the file is written
                if file is not None:
                    file.append({"index": point.index, "setting": point.setting, **record})
                bar.update()
    except KeyboardInterrupt:
        interrupted = True
    except Stop as error:
        stopped = str(error)
    finally:
        crew.close(abandon=len(records) < len(points))
        if file is not None:
            file.close()
    filled = tuple(_filled(point, records.get(point.index, {})) for point in points)
    if stopped:
        raise SweepStopped(stopped, Sweep(filled))
    return Sweep(filled, interrupted)


# -- the points -----------------------------------------------------------------------------------


def _points(settings: list[Setting], seed: int) -> list[Point]:
    return [Point(i, setting, point_seed(seed, setting)) for i, setting in enumerate(settings)]


def _filled(point: Point, record: dict[str, Any]) -> Point:
    names = ("result", "error", "details", "seconds")
    return replace(point, **{name: record[name] for name in names if name in record})


def _takes_seed(function: Callable[..., Any], settings: list[Setting]) -> bool:
    """True if the function has a parameter `seed` that is free; refuses settings it cannot take."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # built in: only a call can tell
        return False
    bound = function.keywords if isinstance(function, partial) else {}
    takes = "seed" in signature.parameters and "seed" not in bound
    for setting in settings:
        try:
            signature.bind(**{**({"seed": 0} if takes else {}), **setting})
        except TypeError as error:
            raise InvalidInput(
                f"the function cannot be called with the setting {setting}: {error}."
            ) from error
    return takes


def _call(function: Callable[..., Any], crew: Crew) -> Callable[..., Any]:
    if crew.sends:
        return partial(compute_sent, pack(function), code_digest())
    return partial(compute, function)


# -- the loop --------------------------------------------------------------------------------------


def _drive(
    points: list[Point],
    crew: Crew,
    call: Callable[..., Any],
    seeded: bool,
    tick: Callable[[int], Any],
) -> Iterator[tuple[Point, dict[str, Any]]]:
    """Every point with its record, as they finish; `tick(0)` is called now and then."""
    waiting, running = deque(points), dict[Future, Point]()
    deaths: Counter[int] = Counter()
    done: queue.SimpleQueue[Future] = queue.SimpleQueue()
    while waiting or running:
        while waiting and len(running) < crew.capacity:
            point = waiting.popleft()
            options = {"seed": point.seed} if seeded and "seed" not in point.setting else {}
            future = crew.submit(call, point.setting, options)
            running[future] = point
            future.add_done_callback(done.put)
        try:
            future = done.get(timeout=_POLL)
        except queue.Empty:
            tick(0)
            continue
        point = running.pop(future)
        death = crew.died(future)
        if death is None:
            record = future.result()
            if "stop" in record:
                raise Stop(record["stop"])
            yield point, record
            continue
        deaths[point.index] += bool(death)
        if deaths[point.index] < crew.attempts:
            waiting.appendleft(point)
        else:
            times = f"{crew.attempts} times: " if crew.attempts > 1 else ""
            yield point, {"error": f"its worker died {times}{death}"}
