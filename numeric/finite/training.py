"""Training of finite models on fresh prompts, with history, resume, and an end to divergence.

Each step draws a new batch of prompts and descends the mean squared error against the noiseless
target theta.x_q, that is an unbiased estimate of the excess risk. The learning rate follows a
cosine to zero, so the last iterates average the gradient noise.
"""

from __future__ import annotations

import html
import math
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from icltheory.errors import CheckpointError, InvalidInput, TrainingDiverged
from icltheory.task import LinearRegression
from numeric.arrays import TaskArrays, positive_integers, task_arrays
from numeric.finite.checkpoint import check_fits, read, save
from numeric.montecarlo import child_seed, sample_prompts, seed_sequence

_OPTIMIZERS = {"adam": (torch.optim.Adam, 0.02), "sgd": (torch.optim.SGD, 0.1)}
_SCHEDULES = ("cosine", "constant")
_DIVERGED = 1e3  # times the risk of predicting zero
_TRAINING_BRANCH = 0  # validate uses the prompt lengths, from 1, as keys
_WINDOW = 100  # steps over which the shown loss is averaged


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """A finished training: the trained model (changed in place), the loss at every step, settings."""

    model: nn.Module
    loss: np.ndarray
    settings: dict[str, Any] = field(repr=False)

    @property
    def smoothed_loss(self) -> np.ndarray:
        """Running mean of the loss over up to 100 steps."""
        sums = np.cumsum(self.loss)
        lagged = np.concatenate([np.zeros(_WINDOW), sums])[: len(sums)]
        return (sums - lagged) / np.minimum(np.arange(1, len(sums) + 1), _WINDOW)

    def plot(self, ax: Any = None) -> Any:
        """Loss and its running mean against the step; returns the axes."""
        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.subplots()[1]
        steps = np.arange(1, len(self.loss) + 1)
        ax.plot(steps, self.loss, color="0.8", lw=0.8, label="batch")
        ax.plot(steps, self.smoothed_loss, color="C0", label=f"mean of {_WINDOW} steps")
        ax.set(xlabel="step", ylabel="squared error", yscale="log")
        ax.legend()
        return ax

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        shown = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        final = f"{self.smoothed_loss[-1]:.4g}" if len(self.loss) else "none"
        return f"{type(self.model).__name__}: {len(self.loss)} steps, loss {final} ({shown})"


def train(
    model: nn.Module,
    task: LinearRegression,
    prompt_length: int,
    steps: int = 2000,
    seed: int = 0,
    *,
    batch_size: int = 256,
    optimizer: str = "adam",
    learning_rate: float | None = None,
    schedule: str = "cosine",
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = True,
) -> TrainingRun:
    """Train `model` in place on fresh prompts of length n.

    Parameters
    ----------
    model: any module (X[B, n, d], y[B, n], query[B, d]) -> [B] in float64.
    steps, seed, batch_size: number of updates, seed of the prompts, prompts a step.
    optimizer: "adam" (default learning rate 0.02) or "sgd" (0.1).
    schedule: "cosine" to zero over `steps`, or "constant".
    progress: True or False for the bar; `None` shows it on a terminal and in a notebook.
    checkpoint: file that is written at the start, every `checkpoint_every` steps, at the end, and
        on Ctrl-C. If it exists the run goes on from it, bit for bit as if it had never stopped; its
        settings must be the same (`steps` included, since the schedule depends on it).
    resume: False starts anew and overwrites the checkpoint.

    Returns a `TrainingRun`. Errors: `InvalidInput`, `CheckpointError`, and `TrainingDiverged` when
    the loss is not finite or 1000 times the risk of predicting zero; the last checkpoint stays.

    >>> import icltheory as icl
    >>> from numeric.finite.models import SoftmaxAttention
    >>> run = train(SoftmaxAttention(dim=2), icl.LinearRegression(dim=2), 10, steps=50, progress=False)
    >>> len(run.loss)
    50
    """
    arrays = task_arrays(task)
    if optimizer not in _OPTIMIZERS:
        raise InvalidInput(f"optimizer = {optimizer!r} is not one of {', '.join(_OPTIMIZERS)}.")
    if schedule not in _SCHEDULES:
        raise InvalidInput(f"schedule = {schedule!r} is not one of {', '.join(_SCHEDULES)}.")
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"model has type {type(model).__name__}; pass a torch module.")
    if getattr(model, "dim", arrays.dim) != arrays.dim:
        raise InvalidInput(f"the task has dim = {arrays.dim}, the model {model.dim}.")
    kind, default_rate = _OPTIMIZERS[optimizer]
    rate = default_rate if learning_rate is None else float(learning_rate)
    if not (0 < rate < math.inf):
        raise InvalidInput(f"learning_rate = {rate:g} must be positive and finite.")
    settings = {
        "task": str(task),
        "prompt_length": int(positive_integers(prompt_length, "prompt_length")),
        "steps": int(positive_integers(steps, "steps")),
        "seed": int(positive_integers(seed, "seed", minimum=0)),
        "batch_size": int(positive_integers(batch_size, "batch_size")),
        "optimizer": optimizer,
        "learning_rate": rate,
        "schedule": schedule,
    }
    every = int(positive_integers(checkpoint_every, "checkpoint_every"))
    engine = kind(model.parameters(), lr=rate)
    loss: list[float] = []
    if checkpoint is not None and resume and Path(checkpoint).exists():
        loss = _restore(checkpoint, model, engine, settings)

    def write() -> None:
        if checkpoint is not None:
            state = {
                "settings": settings,
                "loss": list(loss),
                "optimizer": engine.state_dict(),
            }
            save(model, checkpoint, training=state)

    write()  # a place or a model that cannot be saved is refused before the work is done
    limit = _DIVERGED * arrays.signal
    whole = True
    visible = sys.stderr.isatty() or "ipykernel" in sys.modules
    show = visible if progress is None else progress
    bar = tqdm(
        total=settings["steps"], initial=len(loss), disable=not show, desc="training", delay=2
    )
    with bar:
        try:
            for step in range(len(loss), settings["steps"]):
                if schedule == "cosine":
                    for group in engine.param_groups:
                        group["lr"] = rate * (1 + math.cos(math.pi * step / settings["steps"])) / 2
                engine.zero_grad(set_to_none=True)
                batch_loss = _batch_loss(model, arrays, settings, step)
                value = float(batch_loss.detach())
                if not value <= limit:
                    raise TrainingDiverged(
                        f"the loss is {value:.3g} at step {step + 1}, beyond {limit:.3g} (1000 times "
                        f"the risk of predicting zero); lower learning_rate = {rate:g} or the "
                        f"initial scores."
                    )
                batch_loss.backward()
                whole = False
                engine.step()
                loss.append(value)
                whole = True
                bar.update()
                if len(loss) % _WINDOW == 0:
                    bar.set_postfix(loss=f"{sum(loss[-_WINDOW:]) / _WINDOW:.4g}")
                if len(loss) % every == 0:
                    write()
        except KeyboardInterrupt:
            if whole:  # else some weights belong to this step and some to the last; keep the file
                write()
            raise
    write()
    return TrainingRun(model, np.array(loss), settings)


def _batch_loss(
    model: nn.Module, arrays: TaskArrays, settings: dict[str, Any], step: int
) -> torch.Tensor:
    # Every step has its own seed, so a resumed run needs no state of the generator; the branch
    # keeps these prompts apart from those of an evaluation with the same seed.
    root = child_seed(seed_sequence(settings["seed"]), _TRAINING_BRANCH)
    rng = np.random.default_rng(child_seed(root, step))
    prompts = sample_prompts(arrays, settings["prompt_length"], settings["batch_size"], rng)
    X, y, query, target = map(torch.from_numpy, prompts)
    predictions = model(X, y, query)
    if predictions.shape != target.shape:
        raise InvalidInput(
            f"the model returned shape {tuple(predictions.shape)}; it must return "
            f"({settings['batch_size']},), one prediction a prompt."
        )
    return ((predictions - target) ** 2).mean()


def _restore(
    path: str | os.PathLike[str],
    model: nn.Module,
    engine: torch.optim.Optimizer,
    settings: dict[str, Any],
) -> list[float]:
    state = read(path)
    check_fits(state, model, path)
    training = state.get("training")
    theirs = training.get("settings") if isinstance(training, dict) else None
    if not isinstance(training, dict) or not isinstance(theirs, dict):
        raise CheckpointError(
            f"{path} is a model without the state of a training; give another file."
        )
    if theirs != settings:
        changed = ", ".join(
            f"{key} = {theirs.get(key)} there, {value} here"
            for key, value in settings.items()
            if theirs.get(key) != value
        )
        raise CheckpointError(f"{path} belongs to another training ({changed}); give another file.")
    try:
        engine.load_state_dict(training["optimizer"])
        loss = [float(x) for x in training["loss"]]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} has no complete state of a training: {error!r}.") from error
    model.load_state_dict(state["weights"])
    return loss
