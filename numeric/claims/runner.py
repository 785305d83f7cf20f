"""Runs claims in worker processes, keeps what is finished, and goes on where it was stopped.

Every finished claim is written at once to `OUT/claims/ID.EFFORT.json`, with a fingerprint of what
it depends on (the code of the toolkit among it), so that a later run with the same fingerprint reads
it instead of computing it. A claim that raises does not stop the others. Exported: `run`, `stored`,
`Run`, `Outcome`, `Event`, `load_claims`.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import pkgutil
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from icltheory import checks
from icltheory.errors import IclTheoryError, InvalidInput
from numeric import claims as modules
from numeric import workers
from numeric.claims.base import CLAIMS, Claim, ClaimResult, Effort, Progress
from numeric.compare import AGREES, DEVIATES, Row
from numeric.plot import write_atomically
from numeric.progress import silent
from numeric.workers import code_digest as _code

CONFIRMED = "confirmed"
REFUTED = "refuted"
UNDECIDED = "undecided"
ERROR = "error"
NOT_RUN = "not run"

PAPERS = ("multihead", "largeprompt", "solvers", "decoding")

_POLL = 0.2  # seconds between two looks at the workers


@dataclass(frozen=True)
class Outcome:
    """What became of one claim: a result, or the error that it ended with, or neither (not run).

    `details` is the traceback of an error; `reused` says that the result was read from disk.
    """

    claim: str
    result: ClaimResult | None = None
    error: str = ""
    details: str = ""
    reused: bool = False

    @property
    def verdict(self) -> str:
        """One of "confirmed", "refuted", "undecided", "error", "not run".

        Undecided: nothing deviates, but a row has poor resolution or a negative control passed, so
        the check could not have failed.
        """
        if self.error:
            return ERROR
        if self.result is None:
            return NOT_RUN
        if self.result.passed:
            return CONFIRMED
        return REFUTED if any(row.verdict == DEVIATES for row in self._rows()) else UNDECIDED

    @property
    def agreeing(self) -> tuple[int, int]:
        """How many rows agree, of how many that can be tested."""
        verdicts = [row.verdict for row in self._rows()]
        return verdicts.count(AGREES), len(verdicts) - self.untestable

    @property
    def untestable(self) -> int:
        """How many rows are not testable this way."""
        return sum(not row.testable for row in self._rows())

    def _rows(self) -> list[Row]:
        parts = self.result.parts if self.result is not None else ()
        return [row for part in parts for row in part.comparison]


@dataclass(frozen=True)
class Event:
    """News of one claim: `fraction` of its work done, or its `outcome`, or else a notice in `what`."""

    claim: str
    what: str
    fraction: float | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Run:
    """The outcomes of all claims asked for, in their order; `interrupted` by Ctrl-C or not."""

    outcomes: dict[str, Outcome]
    interrupted: bool = False

    @property
    def passed(self) -> bool:
        """True if there is a claim and every claim is confirmed."""
        return bool(self.outcomes) and all(
            outcome.verdict == CONFIRMED for outcome in self.outcomes.values()
        )


def load_claims() -> dict[str, Claim]:
    """All claims of the toolkit by id, paper by paper."""
    # Importing fills the registry.
    for module in pkgutil.iter_modules(modules.__path__):
        importlib.import_module(f"{modules.__name__}.{module.name}")
    return {
        name: claim for paper in PAPERS for name, claim in CLAIMS.items() if claim.paper == paper
    }


def run(
    claims: Iterable[Claim],
    effort: Effort,
    out: str | os.PathLike[str],
    jobs: int | None = None,
    fresh: bool = False,
    report: Callable[[Event], None] | None = None,
) -> Run:
    """Run claims, `jobs` at a time, and return their outcomes.

    Parameters
    ----------
    claims: what to run; with more than one job their experiments must be module-level functions.
    effort: how much is computed, e.g. `numeric.claims.base.EFFORTS["quick"]`.
    out: folder for the results, made if missing.
    jobs: worker processes; `None` is one a core, at most one a claim. 1 computes in this process.
    fresh: compute claims that are already finished again.
    report: called in this process with every `Event`.

    On Ctrl-C the workers are stopped and `Run.interrupted` is true; the same call goes on later.
    Errors: `InvalidInput` for a folder that cannot be written, before anything is computed.
    """
    claims = list(claims)
    tell = report or (lambda event: None)
    if jobs is None:
        jobs = min(os.cpu_count() or 1, len(claims))
    else:
        jobs = int(checks.positive_integer(jobs, "jobs", "jobs=2"))
    folder = _result_folder(out)
    outcomes = {claim.id: Outcome(claim.id) for claim in claims}

    def finish(outcome: Outcome) -> None:
        if outcome.result is not None and not outcome.reused:
            _write(folder, outcome.result, effort)
        outcomes[outcome.claim] = outcome
        tell(Event(outcome.claim, outcome.verdict, outcome=outcome))

    try:
        waiting = []
        for claim in claims:
            found = None if fresh else _read(folder, claim, effort, tell)
            if found is None:
                waiting.append(claim)
            else:
                finish(Outcome(claim.id, found, reused=True))
        if jobs > 1 and len(waiting) > 1:
            _run_in_workers(waiting, effort, min(jobs, len(waiting)), tell, finish)
        else:
            for claim in waiting:
                finish(_outcome(claim.id, claim.experiment, effort, _progress(claim.id, tell)))
    except KeyboardInterrupt:
        return Run(outcomes, interrupted=True)
    return Run(outcomes)


# -- one claim -----------------------------------------------------------------------------------


def _outcome(
    claim: str, experiment: Callable[..., Any], effort: Effort, progress: Progress
) -> Outcome:
    start = time.perf_counter()
    try:
        progress("starting", 0.0)
        with silent():  # the claims have a display of their own
            parts, figure = experiment(effort, progress)
        seconds = time.perf_counter() - start
        return Outcome(claim, ClaimResult(claim, effort.name, tuple(parts), figure, seconds))
    except Exception as error:  # a claim that fails must not take the others with it
        # The toolkit's refusals speak for themselves; other errors need their type to be understood.
        name = "" if isinstance(error, IclTheoryError) else f"{type(error).__name__}: "
        return Outcome(claim, error=f"{name}{error}", details=traceback.format_exc())


def _progress(claim: str, tell: Callable[[Event], None]) -> Progress:
    return lambda what, fraction: tell(Event(claim, what, float(fraction)))


# -- worker processes ----------------------------------------------------------------------------

# The queue to the parent; set once in every worker, since a queue can only be inherited.
_events: Any = None


def _start_worker(events: Any) -> None:
    global _events
    _events = events
    workers.end_with_parent()


def _work(claim: str, experiment: Callable[..., Any], effort: Effort) -> Outcome:
    return _outcome(claim, experiment, effort, _progress(claim, _events.put))


def _run_in_workers(
    claims: list[Claim],
    effort: Effort,
    jobs: int,
    tell: Callable[[Event], None],
    finish: Callable[[Outcome], None],
) -> None:
    context = multiprocessing.get_context("spawn")
    events = context.SimpleQueue()
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (events,))
    try:
        with workers.surroundings():
            # Claims themselves hold lambdas; an experiment is a function that a worker can import.
            running = {pool.submit(_work, c.id, c.experiment, effort): c.id for c in claims}
        while running:
            done, _ = wait(running, timeout=_POLL, return_when=FIRST_COMPLETED)
            while not events.empty():
                tell(events.get())
            for future in done:
                finish(_of_future(running.pop(future), future))
    except BaseException:
        # The pool would wait for its running claims; they may need minutes.
        pool.shutdown(wait=False, cancel_futures=True)
        workers.stop(set(multiprocessing.active_children()) - others)
        raise
    finally:
        pool.shutdown()
        events.close()


def _of_future(claim: str, future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        return Outcome(
            claim,
            error="a worker process died, perhaps for lack of memory; run again with fewer jobs",
        )
    except Exception as error:  # the experiment could not be sent to the worker
        return Outcome(claim, error=f"{type(error).__name__}: {error}")


# -- results on disk -----------------------------------------------------------------------------


def _result_folder(out: str | os.PathLike[str]) -> Path:
    folder = Path(out) / "claims"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"{folder} cannot be made ({error.strerror}); give another folder for the results."
        ) from error
    probe = folder / ".writable"
    write_atomically(probe, b"")
    probe.unlink()
    return folder


def _fingerprint(claim: str, effort: Effort) -> dict[str, Any]:
    parts = {
        "claim": claim,
        "effort": asdict(effort),
        "version": version("icltheory"),
        "code": _code(),
    }
    # Through JSON, so that it compares equal to one that was read (tuples become lists).
    return json.loads(json.dumps(parts))


def _path(folder: Path, claim: str, effort: Effort) -> Path:
    return folder / f"{claim}.{effort.name}.json"


def _write(folder: Path, result: ClaimResult, effort: Effort) -> None:
    record = {"fingerprint": _fingerprint(result.claim, effort), "result": result.to_dict()}
    write_atomically(_path(folder, result.claim, effort), json.dumps(record, indent=1))


def stored(
    claims: Iterable[Claim], effort: Effort, out: str | os.PathLike[str]
) -> dict[str, Outcome]:
    """The finished claims of this effort in a folder of results, by id; others are left out."""
    folder = _result_folder(out)
    found = {claim.id: _read(folder, claim, effort, lambda event: None) for claim in claims}
    return {name: Outcome(name, result, reused=True) for name, result in found.items() if result}


def _read(
    folder: Path, claim: Claim, effort: Effort, tell: Callable[[Event], None]
) -> ClaimResult | None:
    """The stored result if it answers this question; else `None`, with a notice if it is damaged."""
    path = _path(folder, claim.id, effort)
    try:
        record = json.loads(path.read_bytes())
        if record["fingerprint"] != _fingerprint(claim.id, effort):
            tell(Event(claim.id, f"{path} was made by other code: computed again"))
            return None
        result = ClaimResult.from_dict(record["result"])
        if result.claim != claim.id:
            raise InvalidInput(f"the result is of the claim {result.claim}.")
        return result
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        tell(Event(claim.id, f"{path} is not usable ({reason}): computed again"))
        return None
