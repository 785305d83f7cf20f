"""Live progress of claims on a terminal, or a line a finished claim elsewhere."""

from __future__ import annotations

import shutil
import threading
import time
from typing import Any

from numeric.claims.runner import Event, Outcome


class Display:
    """Live progress: a line a running claim on a terminal, else a line a finished claim."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.live = stream, stream.isatty()
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
            for start, event in self.running.values():
                done = min(max(event.fraction or 0.0, 0.0), 1.0)
                bar = f"[{'#' * round(12 * done):.<12}] {done:4.0%}"
                text = f"{event.claim}  {bar}  {_clock(time.monotonic() - start)}  {event.what}"
                self.stream.write(f"{text[:width]}\n")
            self.drawn = len(self.running)
        self.stream.flush()

    def _erase(self) -> None:
        if self.drawn:
            # Up to the first drawn line, and clear to the end of the screen.
            self.stream.write(f"\x1b[{self.drawn}F\x1b[J")
            self.drawn = 0


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s"


def measures(outcome: Outcome) -> tuple[str, str]:
    """Rows that agree, and the time, in words."""
    if outcome.result is None:
        return "", ""
    agree, total = outcome.agreeing
    reused = ", kept from before" if outcome.reused else ""
    return f"{agree} of {total}", f"{_clock(outcome.result.seconds)}{reused}"
