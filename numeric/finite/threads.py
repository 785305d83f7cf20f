"""One thread for small models: more of them wait for each other longer than they compute.

Exported: `one_thread`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

SMALL = 100_000  # parameters of all models together


@contextlib.contextmanager
def one_thread(*models: nn.Module) -> Iterator[None]:
    """torch on one thread, unless the models are large; the number is restored.

    >>> before = torch.get_num_threads()
    >>> with one_thread(nn.Linear(3, 1)):
    ...     torch.get_num_threads()
    1
    >>> torch.get_num_threads() == before
    True
    """
    threads = torch.get_num_threads()
    if sum(p.numel() for model in models for p in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
