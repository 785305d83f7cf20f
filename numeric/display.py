"""Live progress of claims on a terminal, or a line a finished claim elsewhere.

Exported: `Display`, `measures`, `duration`.
"""

from __future__ import annotations

import shutil
import threading
import time
from typing import Any

from numeric.claims.runner import Event, Outcome

_TOLD = 0.1  # the share of a claim from which its remaining time is told


class Display:
    """Live progress: a line a running claim on a terminal, else a line a finished claim."""

    def __init__(self, stream: Any, total: int) -> None:
        self.stream, self.live, self.total = stream, stream.isatty(), total
        self.begin, self.finished, self.computed = time.monotonic(), 0, 0
        self.running: dict[str, tuple[float, Event]] = {}  # with the time of the first event
        self.drawn = 0
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
            if event.outcome is not None:
                self.running.pop(event.claim, None)
                self.finished += 1
                self.computed += not event.outcome.reused
                agree, spent = measures(event.outcome)
                parts = (event.outcome.verdict, agree and f"{agree} rows", spent)
                self._line(f"{event.claim}: {', '.join(part for part in parts if part)}")
            elif event.fraction is None:
                self._line(f"{event.claim}: {event.what}")
            else:
                start, _ = self.running.get(event.claim, (time.monotonic(), event))
                self.running[event.claim] = start, event
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
            lines = [self._claim(start, event) for start, event in self.running.values()]
            if lines and self.total > 1:
                lines.append(self._whole())
            for line in lines:
                self.stream.write(f"{line[:width]}\n")
            self.drawn = len(lines)
        self.stream.flush()

    def _claim(self, start: float, event: Event) -> str:
        done, spent = _share(event), time.monotonic() - start
        bar = f"[{'#' * round(12 * done):.<12}] {done:4.0%}"
        left = _left(spent, done) if done >= _TOLD else ""
        return f"{event.claim}  {bar}  {duration(spent)}{left}  {event.what}"

    def _whole(self) -> str:
        """Finished claims, and the time left if the others take as long as those that were computed."""
        spent = time.monotonic() - self.begin
        work = self.computed + sum(_share(event) for _, event in self.running.values())
        waiting = self.total - (self.finished - self.computed)  # less those kept from before
        left = _left(spent, work / waiting) if work >= 1 else ""
        return f"{self.finished} of {self.total} claims finished  {duration(spent)}{left}"

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


def _left(spent: float, done: float) -> str:
    return f", about {duration(spent * (1 - done) / done)} left"


def measures(outcome: Outcome) -> tuple[str, str]:
    """Rows that agree, and the time, in words."""
    if outcome.result is None:
        return "", ""
    agree, total = outcome.agreeing
    reused = ", kept from before" if outcome.reused else ""
    return f"{agree} of {total}", f"{duration(outcome.result.seconds)}{reused}"
