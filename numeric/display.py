"""Live progress of claims on a terminal, or a line a finished claim elsewhere.

Exported: `Display`, `measures`, `duration`.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from typing import Any

from icltheory.checks import counted
from numeric.claims.runner import Event, Outcome

_TOLD = 0.1  # the share of a claim from which its remaining time is told
_PRIOR = 60.0  # seconds of this run that count as much as what claims usually take


class Display:
    """Live progress: a line a running claim on a terminal, else a line a finished claim.

    times: the usual seconds of each claim that is asked for; jobs: how many run at once.
    """

    def __init__(self, stream: Any, times: Mapping[str, float], jobs: int = 1) -> None:
        self.stream, self.live, self.total = stream, stream.isatty(), len(times)
        self.times, self.jobs, self.waiting = times, jobs, set(times)
        self.begin, self.work = time.monotonic(), sum(times.values())
        # With the times of the first event and of the last.
        self.running: dict[str, tuple[float, float, Event]] = {}
        self.drawn, self.told = 0, False
        self.lock, self.over = threading.Lock(), threading.Event()
        # Claims report now and then; the clock has to go on in between.
        self.ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Display:
        if self.live:
            self.ticker.start()
        return self

    def __exit__(self, *unused: Any) -> None:
        self.over.set()
        with self.lock:
            self._erase()
            self.stream.flush()

    def show(self, event: Event) -> None:
        """Take note of an event."""
        with self.lock:
            if not self.live and not self.told:
                usual = duration(max(self.work / self.jobs, *self.times.values()))
                self._line(f"{counted(self.total, 'claim')}, usually {usual}")
            self.told = True
            if event.outcome is not None:
                self.running.pop(event.claim, None)
                self.waiting.discard(event.claim)
                if event.outcome.reused:
                    self.work -= self.times[event.claim]
                agree, spent = measures(event.outcome)
                parts = (event.outcome.verdict, agree and f"{agree} rows", spent)
                self._line(f"{event.claim}: {', '.join(part for part in parts if part)}")
            elif event.fraction is None:
                self._line(f"{event.claim}: {event.what}")
            else:
                now = time.monotonic()
                start = self.running.get(event.claim, (now,))[0]
                self.running[event.claim] = start, now, event
            self._draw()

    def _tick(self) -> None:
        while not self.over.wait(1.0):
            with self.lock:
                self._draw()

    def _line(self, text: str) -> None:
        self._erase()
        self.stream.write(f"{text}\n")

    def _draw(self) -> None:
        if self.live and not self.over.is_set():
            self._erase()
            width = shutil.get_terminal_size().columns - 1
            lines = [self._claim(*state) for state in self.running.values()]
            if lines and self.total > 1:
                lines.append(self._whole())
            for line in lines:
                self.stream.write(f"{line[:width]}\n")
            self.drawn = len(lines)
        self.stream.flush()

    def _claim(self, start: float, last: float, event: Event) -> str:
        done, now = _share(event), time.monotonic()
        bar = f"[{'#' * round(12 * done):.<12}] {done:4.0%}"
        # From the last event on the clock runs down.
        seconds = (last - start) * (1 - done) / done - (now - last) if done >= _TOLD else -1.0
        left = f", about {duration(seconds)} left" if seconds > -0.5 else ""
        return f"{event.claim}  {bar}  {duration(now - start)}{left}  {event.what}"

    def _whole(self) -> str:
        """Finished claims, and the time left, from what claims usually take and the pace of this run."""
        spent = time.monotonic() - self.begin
        running = {name: _share(event) for name, (*_, event) in self.running.items()}
        left = {name: self.times[name] * (1 - running.get(name, 0.0)) for name in self.waiting}
        done = self.work - sum(left.values())
        # Until there is much to measure, one second of work takes one second of a core.
        pace = (done + _PRIOR * self.jobs) / (spent + _PRIOR)
        longest = max((left[name] for name in running), default=0.0)
        seconds = max(sum(left.values()) / pace, longest * self.jobs / pace)
        told = f"{self.total - len(self.waiting)} of {self.total} claims finished"
        return f"{told}  {duration(spent)}, about {duration(seconds)} left"

    def _erase(self) -> None:
        if self.drawn:
            # Up to the first drawn line, and clear to the end of the screen.
            self.stream.write(f"\x1b[{self.drawn}F\x1b[J")
            self.drawn = 0


def duration(seconds: float) -> str:
    """Seconds in words: 12 s, 3 min 05 s, 2 h 07 min.

    >>> [duration(t) for t in (0.2, 12.3, 59.7, 185, 7620)]
    ['0 s', '12 s', '1 min 00 s', '3 min 05 s', '2 h 07 min']
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def _share(event: Event) -> float:
    return min(max(event.fraction or 0.0, 0.0), 1.0)


def measures(outcome: Outcome) -> tuple[str, str]:
    """Rows that agree, and the time, in words."""
    if outcome.result is None:
        return "", ""
    reused = ", kept from before" if outcome.reused else ""
    return agreement(outcome), f"{duration(outcome.result.seconds)}{reused}"


def agreement(outcome: Outcome) -> str:
    """Rows that agree, of those that can be tested, and how many cannot."""
    agree, testable = outcome.agreeing
    more = f" ({outcome.untestable} not testable)" if outcome.untestable else ""
    return f"{agree} of {testable}{more}"
