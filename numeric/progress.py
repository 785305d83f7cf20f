"""Progress with the remaining time, and what is left after Ctrl-C: the one mechanism of all long work.

Exported: `Interrupted`, `partial_result`, `progress_bar`, `silent`.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

# Bars and silences that are open, the outermost first: only the outermost bar is shown.
_open: list[Any] = []
_last: list[Any] = []


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with what was finished in `partial`: the same kind of result, from less work.

    It is a `KeyboardInterrupt`, so that a script stops as usual unless it catches this. In a notebook
    `numeric.partial_result()` in the next cell has the result. `partial` is `None` where nothing was
    finished.
    """

    def __init__(self, what: str, done: int, total: int, partial: Any = None) -> None:
        kept = (
            "nothing was finished"
            if partial is None
            else "numeric.partial_result() is the result so far"
        )
        super().__init__(f"{what}: stopped after {done} of {total}; {kept}.")
        self.what, self.done, self.total, self.partial = what, done, total, partial

    def __reduce__(self) -> tuple:
        return Interrupted, (self.what, self.done, self.total, self.partial)


def partial_result() -> Any:
    """What the last interrupted call of this process had finished; `None` if there is none.

    An estimate has the standard error of the samples that were drawn, a comparison the lengths that
    were measured, a training run its history up to the stop (and the model its weights).

    >>> try:
    ...     with progress_bar(3, 0, False, "sum", partial=lambda: 6):
    ...         raise KeyboardInterrupt
    ... except Interrupted as stopped:
    ...     print(stopped)
    sum: stopped after 0 of 3; numeric.partial_result() is the result so far.
    >>> partial_result()
    6
    """
    return _last[0] if _last else None


@contextlib.contextmanager
def progress_bar(
    total: int,
    initial: int,
    progress: bool | None,
    what: str = "training",
    *,
    partial: Callable[[], Any] | None = None,
    unit: str = "it",
    inner: bool = False,
) -> Iterator[Any]:
    """A bar on a terminal and in a notebook (`progress` None), always (True) or never (False).

    With `None` it appears after two seconds and goes when the work is done; within another bar and in
    a worker process, whose parent has one, none is shown. With `partial`, Ctrl-C inside raises
    `Interrupted` with what it returns. With `inner`, what bars inside count moves this one.

    >>> with progress_bar(3, 0, False, "sum") as bar:
    ...     for i in range(3):
    ...         bar.update()
    """
    main = multiprocessing.parent_process() is None
    visible = main and not _open and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    show = visible if progress is None else progress
    done = _Count(initial, inner, _open[-1] if _open and _open[-1].inner else None)
    kind = _NotebookBar if "ipykernel" in sys.modules else tqdm
    options = {"desc": what, "unit": unit, "leave": bool(progress), "delay": 0 if progress else 2}
    with kind(total=total, initial=initial, disable=not show, **options) as bar:
        done.bar = bar
        _open.append(done)
        try:
            yield done
        except KeyboardInterrupt:
            if partial is None:
                raise
            _last[:] = [partial()]
            raise Interrupted(what, done.n, total, _last[0]) from None
        finally:
            _open.remove(done)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """No bars inside, except where one is asked for with `progress=True`."""
    mark = _Count(0)
    _open.append(mark)
    try:
        yield
    finally:
        _open.remove(mark)


class _NotebookBar(tqdm):
    """The bar as one output of a notebook, which is empty once the work is done.

    Written to standard error, every state of the bar would be kept in the notebook.
    """

    _handle: Any = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, file=io.StringIO(), ncols=79, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Show the state of the bar."""
        from IPython.display import display

        shown = {"text/plain": str(self) if msg is None else msg}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)
        else:
            self._handle.update(shown, raw=True)


class _Count:
    """What is done, counted whether or not a bar is drawn."""

    bar: Any = None

    def __init__(self, n: int, inner: bool = False, around: _Count | None = None) -> None:
        self.n, self.inner, self.around = n, inner, around

    def update(self, n: int = 1) -> None:
        """Count `n` more."""
        self.n += n
        self.bar.update(n)
        if self.around is not None:
            self.around.update(n)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.bar, name)
