"""Many models trained in one vectorised program. Exported: `train_many`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from icltheory.errors import InvalidInput
from icltheory.task import LinearRegression
from numeric.arrays import TaskArrays, integer
from numeric.finite.averaged import LabelAveragedRisk, coefficient_law
from numeric.finite.threads import one_thread
from numeric.finite.training import (
    DIVERGED,
    History,
    TrainingRun,
    cast,
    descend,
    draw_prompts,
    fitting,
    progress_bar,
    squared_error,
    weights_digest,
)
from numeric.finite.training_settings import OPTIMIZERS, shared_settings
from numeric.finite.transformer import SequenceModel


def train_many(
    models: Sequence[nn.Module],
    tasks_and_lengths: Sequence[tuple[LinearRegression, int]],
    steps: int = 2000,
    seeds: Sequence[int] | None = None,
    *,
    batch_size: int = 256,
    optimizer: str = "adam",
    learning_rate: float | None = None,
    schedule: str = "cosine",
    record_every: int | None = None,
    average_labels: bool = False,
    progress: bool | None = None,
) -> list[TrainingRun]:
    """Train many models in place; those of one class, shape and prompt length in one program.

    Parameters
    ----------
    models, tasks_and_lengths: one (task, prompt length) a model.
    seeds: of the prompts, one a model; `None` is 0, 1, 2, ... Models with equal task, length and
        seed see the same prompts.
    The other arguments are those of `train`, and every run is what `train` gives, up to rounding.

    Returns a `TrainingRun` a model, in order. Ctrl-C raises `numeric.Interrupted`, whose `partial` has
    the runs so far by their place in `models`; the models keep their weights. Errors: as `train`; `TrainingDiverged` names the model.

    >>> import icltheory as icl
    >>> from numeric.finite.models import SoftmaxAttention
    >>> task = icl.LinearRegression(dim=2)
    >>> runs = train_many([SoftmaxAttention(dim=2, seed=s) for s in range(3)], [(task, 10)] * 3,
    ...                   steps=20, progress=False)
    >>> [len(run.loss) for run in runs]
    [20, 20, 20]
    """
    models, targets = list(models), list(tasks_and_lengths)
    numbers = list(range(len(models))) if seeds is None else list(seeds)
    if not models or len({len(models), len(targets), len(numbers)}) != 1:
        raise InvalidInput(
            f"{len(models)} models, {len(targets)} tasks_and_lengths and {len(numbers)} seeds; give "
            f"at least one model, and one of each a model."
        )
    shared = shared_settings(steps, batch_size, optimizer, learning_rate, schedule, record_every)
    given = {"average_labels": True} if average_labels else {}
    groups: dict[tuple, list[int]] = {}
    arrays, settings = [], []
    for i, (model, (task, length), seed) in enumerate(zip(models, targets, numbers, strict=True)):
        if isinstance(model, SequenceModel):
            raise InvalidInput(
                f"models[{i}] is a {type(model).__name__}, whose loss is over all prefixes of a "
                f"prompt; train it with finite.train, one at a time."
            )
        arrays.append(fitting(model, task))
        settings.append(
            {
                "task": str(task),
                "prompt_length": integer(length, "prompt_length"),
                "seed": integer(seed, "seeds", 0),
                **shared,
                "average_prompts": False,
                "start": weights_digest(model),
                **given,
            }
        )
        shapes = tuple((k, tuple(p.shape)) for k, p in model.named_parameters())
        config = str(getattr(model, "config", i))
        key = (type(model), config, shapes, settings[i]["prompt_length"])
        groups.setdefault(key, []).append(i)
    runs: dict[int, TrainingRun] = {}
    shown = progress_bar(shared["steps"] * len(groups), 0, progress, partial=lambda: runs or None)
    with one_thread(*models), shown as bar:
        for members in groups.values():
            _train_group(models, arrays, settings, members, bar, runs)
    return [runs[i] for i in range(len(models))]


def _train_group(
    models: list[nn.Module],
    arrays: list[TaskArrays],
    settings: list[dict[str, Any]],
    members: list[int],
    bar: Any,
    runs: dict[int, TrainingRun],
) -> None:
    """Train models of equal shape as one batched module; in the end, also on Ctrl-C, writes the
    weights back and adds the runs to `runs`."""
    chosen = [models[i] for i in members]
    stacked, buffers = torch.func.stack_module_state(chosen)
    shared = settings[members[0]]
    engine = OPTIMIZERS[shared["optimizer"]][0](stacked.values(), lr=shared["learning_rate"])
    history = History(chosen, stacked)
    template = chosen[0]

    labelled = "average_labels" in shared
    reader: nn.Module = LabelAveragedRisk(template, arrays[members[0]]) if labelled else template
    prefix = "layer." if labelled else ""

    def forward(weights: Any, rest: Any, *inputs: torch.Tensor) -> torch.Tensor:
        named = ({prefix + name: value for name, value in x.items()} for x in (weights, rest))
        return torch.func.functional_call(reader, tuple(named), inputs)

    batched = torch.func.vmap(forward, randomness="different")
    laws = zip(*(coefficient_law(arrays[i]) for i in members), strict=True) if labelled else ()
    law = cast(tuple(torch.stack(part) for part in laws), template)

    # Without their labels, prompts of tasks with one law of the features are the same.
    laws_of_x = {i: (arrays[i].task.feature_cov, arrays[i].task.local) for i in members}
    keys = [
        (laws_of_x[i] if labelled else settings[i]["task"], settings[i]["seed"]) for i in members
    ]

    def losses(step: int) -> torch.Tensor:
        drawn: dict[tuple, Any] = {}
        for i, key in zip(members, keys, strict=True):
            if key not in drawn:
                prompts = draw_prompts(arrays[i], settings[i], settings[i]["seed"], step)
                drawn[key] = cast(prompts, template)
        each = [drawn[key] for key in keys]
        X, y, query, target = (torch.stack(part) for part in zip(*each, strict=True))
        if labelled:
            return batched(stacked, buffers, X, query, *law).mean(-1)
        return squared_error(batched(stacked, buffers, X, y, query), target)

    limits = np.array([DIVERGED * arrays[i].signal for i in members])
    try:
        for _ in descend(engine, losses, shared, history, limits, bar, members):
            pass
    finally:
        history.write_back()
        if history.loss:
            runs.update({i: history.run(j, settings[i]) for j, i in enumerate(members)})
