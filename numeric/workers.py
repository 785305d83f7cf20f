"""Worker processes: what they inherit, how they end, and which code they run.

Shared by the runs of claims and by sweeps. Exported: `surroundings`, `end_with_parent`, `stop`,
`code_digest`.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Iterator
from functools import cache
from importlib import resources
from multiprocessing.process import BaseProcess
from pathlib import Path

# One thread a worker: the workers already share the cores between them.
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_PATIENCE = 5.0  # seconds a stopped worker has to end by itself


@contextlib.contextmanager
def surroundings() -> Iterator[None]:
    """What workers inherit at their start: one thread each, and Ctrl-C left to the parent.

    Both must be in place before a worker's first import, so an initializer would come too late.
    """
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if in_main else None
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if in_main:
            signal.signal(signal.SIGINT, handler)


def end_with_parent() -> None:
    """In a worker: end when the parent is gone, even if it was killed.

    A pool's workers wait on a queue that they hold open themselves, so they would wait for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:

        def watch() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()


def stop(processes: Collection[BaseProcess]) -> None:
    """End processes: politely at first, and after some seconds for certain."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_PATIENCE)
        if process.is_alive():
            process.kill()


@cache
def code_digest() -> str:
    """Digest of the source of both packages: a changed derivation makes every result old."""
    digest = hashlib.sha256()
    for package in ("icltheory", "numeric"):
        root = resources.files(package)
        with resources.as_file(root) as folder:
            for path in sorted(Path(folder).rglob("*.py")):
                digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
                digest.update(path.read_bytes())
    return digest.hexdigest()
