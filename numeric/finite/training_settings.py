"""The checked settings of a training, as they stand in its history and its checkpoints."""

from __future__ import annotations

from typing import Any

import torch

from icltheory.errors import InvalidInput
from numeric.arrays import integer, positive
from numeric.finite.curriculum import Curriculum

OPTIMIZERS = {"adam": (torch.optim.Adam, 0.02), "sgd": (torch.optim.SGD, 0.1)}
_SCHEDULES = ("cosine", "constant")


def shared_settings(
    steps: Any,
    batch_size: Any,
    optimizer: str,
    learning_rate: float | None,
    schedule: str,
    record_every: Any,
) -> dict[str, Any]:
    """The checked arguments that all models of a training share."""
    if optimizer not in OPTIMIZERS:
        raise InvalidInput(f"optimizer = {optimizer!r} is not one of {', '.join(OPTIMIZERS)}.")
    if schedule not in _SCHEDULES:
        raise InvalidInput(f"schedule = {schedule!r} is not one of {', '.join(_SCHEDULES)}.")
    usual = OPTIMIZERS[optimizer][1]
    rate = usual if learning_rate is None else learning_rate
    rate = positive(rate, "learning_rate", f"{usual:g}")
    every = None if record_every is None else integer(record_every, "record_every")
    return {
        "steps": integer(steps, "steps"),
        "batch_size": integer(batch_size, "batch_size"),
        "optimizer": optimizer,
        "learning_rate": rate,
        "schedule": schedule,
        "record_every": every,
    }


def given_settings(
    warmup: Any, clip_norm: float | None, curriculum: Curriculum | None, average_labels: bool
) -> dict[str, Any]:
    """The settings that are named only where they are used."""
    given: dict[str, Any] = {}
    if warmup != 0:
        given["warmup"] = integer(warmup, "warmup")
    if clip_norm is not None:
        given["clip_norm"] = positive(clip_norm, "clip_norm", "1")
    if curriculum is not None:
        given["curriculum"] = curriculum.setting()
    if average_labels:
        given["average_labels"] = True
    return given
