"""Progress with the remaining time: the one bar of trainings and sweeps. Exported: `progress_bar`."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm


@contextlib.contextmanager
def progress_bar(
    total: int, initial: int, progress: bool | None, what: str = "training"
) -> Iterator[Any]:
    """A bar on a terminal and in a notebook (`progress` None), always (True) or never (False).

    It appears after two seconds. A worker process shows none unless told to: its parent has one.
    """
    main = multiprocessing.parent_process() is None
    visible = main and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    show = visible if progress is None else progress
    with tqdm(total=total, initial=initial, disable=not show, desc=what, delay=2) as bar:
        yield bar
