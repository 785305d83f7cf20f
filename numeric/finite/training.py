"""Training of finite models on fresh prompts, with history, resume, and an end to divergence.

Each step draws a new batch of prompts and descends the mean squared error against the noiseless
target theta.x_q, that is an unbiased estimate of the excess risk. The learning rate follows a
cosine to zero, so the last iterates average the gradient noise; with schedule="constant" and
optimizer="sgd" a step of rate r is a time 2 r of the gradient flow, which descends half the risk.
Exported: `train`, `TrainingRun`; the loop serves
`numeric.finite.ensemble` and `numeric.finite.decoder_training` as well.
"""

from __future__ import annotations

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from icltheory.errors import CheckpointError, InvalidInput, TrainingDiverged
from icltheory.task import LinearRegression
from numeric.arrays import (
    SCENARIOS,
    TaskArrays,
    integer,
    task_arrays,
)
from numeric.finite.averaged import AveragedRisk, LabelAveragedRisk
from numeric.finite.checkpoint import check_fits, read, save
from numeric.finite.curriculum import Curriculum
from numeric.finite.threads import one_thread
from numeric.finite.training_run import WINDOW
from numeric.finite.training_run import TrainingRun as TrainingRun
from numeric.finite.training_settings import OPTIMIZERS, given_settings, shared_settings
from numeric.finite.transformer import SequenceModel
from numeric.montecarlo import child_seed, sample_prompts, seed_sequence
from numeric.progress import progress_bar as progress_bar

DIVERGED = 1e3  # times the risk of predicting zero
_TRAINING_BRANCH = 0  # validate uses the prompt lengths, from 1, as keys
SEQUENCE_RATE = 1e-3


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
    warmup: int = 0,
    clip_norm: float | None = None,
    curriculum: Curriculum | None = None,
    record_every: int | None = None,
    average_prompts: bool = False,
    average_labels: bool = False,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = True,
) -> TrainingRun:
    """Train `model` in place on fresh prompts of length n.

    Parameters
    ----------
    model: any module (X[B, n, d], y[B, n], query[B, d]) -> [B], on any device, its inputs cast to
        dtype and device of its first weight; or a `SequenceModel`, whose loss is the mean over all
        its x tokens, against the labels that follow them (the last without noise).
    steps, seed, batch_size: number of updates, seed of the prompts, prompts a step.
    optimizer: "adam" (default learning rate 0.02, of a `SequenceModel` 0.001) or "sgd" (0.1).
    schedule: "cosine" to zero over `steps`, or "constant".
    warmup: steps over which the learning rate rises linearly from zero.
    clip_norm: largest norm of the gradient over all parameters; `None` does not clip.
    curriculum: prompts that grow (`Curriculum`), for a `SequenceModel`.
    record_every: keep all parameters every so many steps, in `TrainingRun.trajectory`.
    average_prompts: True averages the loss over prompts exactly, so that only coefficients and
        queries are drawn (`AveragedRisk`, for one head): the course of training without the noise
        of the prompts, at a cost that does not grow with n.
    average_labels: True averages the loss over coefficients and label noise exactly, so that only
        features and queries are drawn (`LabelAveragedRisk`): as good as a batch about d times as
        large.
    progress: True or False for the bar; `None` shows it on a terminal and in a notebook.
    checkpoint: file that is written at the start, every `checkpoint_every` steps, at the end, and
        on Ctrl-C. If it exists the run goes on from it, bit for bit as if it had never stopped; its
        settings must be the same (`steps` included, since the schedule depends on it), and so must
        the weights that `model` starts with (or be those of the file already).
    resume: False starts anew and overwrites the checkpoint.

    Returns a `TrainingRun`. Ctrl-C raises `numeric.Interrupted`, whose `partial` is the run up to
    there; the model keeps its weights. Errors: `InvalidInput`, `CheckpointError`, and `TrainingDiverged` when
    the loss is not finite or 1000 times the risk of predicting zero; the last checkpoint stays.

    >>> import icltheory as icl
    >>> from numeric.finite.models import SoftmaxAttention
    >>> run = train(SoftmaxAttention(dim=2), icl.LinearRegression(dim=2), 10, steps=50, progress=False)
    >>> len(run.loss)
    50
    """
    arrays = fitting(model, task)
    sequence = isinstance(model, SequenceModel)
    if sequence and (average_prompts or average_labels or task.local is not None):
        raise InvalidInput(
            "a SequenceModel predicts after every prefix of sampled prompts: leave average_prompts "
            "and average_labels out, and train on a task without local examples, which surround one "
            "query."
        )
    if average_prompts and average_labels:
        raise InvalidInput("the loss is averaged over prompts or over labels; choose one of them.")
    if curriculum is not None and not (sequence and isinstance(curriculum, Curriculum)):
        raise InvalidInput(
            "curriculum is finite.Curriculum(...), for a SequenceModel such as finite.Transformer."
        )
    if sequence and learning_rate is None and optimizer == "adam":
        learning_rate = SEQUENCE_RATE
    settings = {
        "task": str(task),
        "prompt_length": integer(prompt_length, "prompt_length"),
        "seed": integer(seed, "seed", 0),
        **shared_settings(steps, batch_size, optimizer, learning_rate, schedule, record_every),
        "average_prompts": bool(average_prompts),
        "start": weights_digest(model),
        **given_settings(warmup, clip_norm, curriculum, average_labels),
    }
    averaged = AveragedRisk(task, prompt_length) if average_prompts else None
    labelled = LabelAveragedRisk(model, arrays) if average_labels else None

    def losses(step: int) -> torch.Tensor:
        if averaged is not None:
            rng = step_generator(settings["seed"], step)
            drawn = averaged.draw(rng, settings["batch_size"])
            return averaged(model, *cast(drawn, model)).mean()[None]
        if isinstance(model, SequenceModel):
            X, y = draw_sequences(arrays, settings, step, curriculum)
            predictions = model.predict_all(X, y)
            return ((predictions - y.to(predictions.device)) ** 2).mean()[None]
        drawn = draw_prompts(arrays, settings, settings["seed"], step)
        X, y, query, target = cast(drawn, model)
        if labelled is not None:
            return labelled(X, query).mean()[None]
        return squared_error(model(X, y, query), target)[None]

    limit = DIVERGED * arrays.signal
    return train_on(
        model,
        losses,
        settings,
        limit,
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
    )


def train_on(
    model: nn.Module,
    losses: Callable[[int], torch.Tensor],
    settings: dict[str, Any],
    limit: float,
    *,
    progress: bool | None,
    checkpoint: str | os.PathLike[str] | None,
    checkpoint_every: int,
    resume: bool,
) -> TrainingRun:
    """Train one model on `losses`, (1,) at every step, up to the loss `limit`; the rest as in `train`."""
    every = integer(checkpoint_every, "checkpoint_every")
    engine = OPTIMIZERS[settings["optimizer"]][0](model.parameters(), lr=settings["learning_rate"])
    history = History([model])
    if checkpoint is not None and resume and Path(checkpoint).exists():
        _restore(checkpoint, model, engine, settings, history)

    def write() -> None:
        if checkpoint is not None:
            state = {
                "settings": settings,
                "loss": [float(x) for (x,) in history.loss],
                "trajectory": [dict(r) for (r,) in history.records],
                "optimizer": engine.state_dict(),
            }
            save(model, checkpoint, training=state)

    write()  # a place or a model that cannot be saved is refused before the work is done
    limits = np.array([limit])

    def finished() -> TrainingRun | None:
        return history.run(0, settings) if history.loss else None

    shown = progress_bar(settings["steps"], len(history.loss), progress, partial=finished)
    with one_thread(model), shown as bar:
        try:
            for done in descend(engine, losses, settings, history, limits, bar):
                if done % every == 0:
                    write()
        except KeyboardInterrupt:
            if history.whole:  # else some weights belong to this step and some to the last
                write()
            raise
    write()
    return history.run(0, settings)


# -- the common loop -------------------------------------------------------------------------------


class History:
    """Losses and recorded parameters of one or several models trained together.

    `stacked` are their parameters with a leading axis, or None for a single model trained itself.
    `whole` is False while an update is under way.
    """

    def __init__(self, models: list[nn.Module], stacked: dict[str, torch.Tensor] | None = None):
        self.models, self.stacked = models, stacked
        self.loss: list[np.ndarray] = []
        self.records: list[list[dict[str, torch.Tensor]]] = []
        self.whole = True

    def record(self) -> None:
        """Keep all parameters as they are now."""
        self.records.append([self._parameters(i) for i in range(len(self.models))])

    def _parameters(self, i: int) -> dict[str, torch.Tensor]:
        if self.stacked is None:
            named = dict(self.models[i].named_parameters())
            return {name: p.detach().clone() for name, p in named.items()}
        return {name: p[i].detach().clone() for name, p in self.stacked.items()}

    def write_back(self) -> None:
        """Copy stacked parameters into the models."""
        with torch.no_grad():
            for i, model in enumerate(self.models):
                values = self._parameters(i)
                for name, parameter in model.named_parameters():
                    parameter.copy_(values[name])

    def run(self, i: int, settings: dict[str, Any]) -> TrainingRun:
        """The finished run of model i."""
        records = [record[i] for record in self.records]
        names = records[0] if records else {}
        trajectory = {
            name: np.stack([r[name].numpy(force=True) for r in records]) for name in names
        }
        return TrainingRun(
            self.models[i], np.array([x[i] for x in self.loss]), settings, trajectory
        )


def descend(
    engine: torch.optim.Optimizer,
    losses: Callable[[int], torch.Tensor],
    settings: dict[str, Any],
    history: History,
    limits: np.ndarray,
    bar: Any,
    names: Sequence[int] | None = None,
) -> Iterator[int]:
    """Update after update; yields the number of updates done. `losses(step)` has one loss a model."""
    steps, rate, every = settings["steps"], settings["learning_rate"], settings["record_every"]
    if every is not None and not history.loss:
        history.record()
    for step in range(len(history.loss), steps):
        factor = min(1.0, (step + 1) / settings["warmup"]) if "warmup" in settings else 1.0
        if settings["schedule"] == "cosine":
            factor *= (1 + math.cos(math.pi * step / steps)) / 2
        for group in engine.param_groups:
            group["lr"] = rate * factor
        engine.zero_grad(set_to_none=True)
        batch = losses(step)
        values = batch.detach().cpu().double().numpy().copy()
        bad = ~(values <= limits)
        if bad.any():
            j = int(np.argmax(bad))
            which = "" if names is None else f" of model {names[j]}"
            raise TrainingDiverged(
                f"the loss{which} is {values[j]:.3g} at step {step + 1}, beyond {limits[j]:.3g} (1000 "
                f"times the risk of predicting zero); lower learning_rate = {rate:g} or the initial "
                f"scores."
            )
        batch.sum().backward()
        if "clip_norm" in settings:
            parameters = [p for group in engine.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, settings["clip_norm"])
        history.whole = False
        engine.step()
        history.loss.append(values)
        if every is not None and (step + 1) % every == 0:
            history.record()
        history.whole = True
        bar.update()
        if len(history.loss) % WINDOW == 0:
            bar.set_postfix(loss=f"{np.mean(history.loss[-WINDOW:]):.4g}", refresh=False)
        yield step + 1


def fitting(model: nn.Module, task: LinearRegression) -> TaskArrays:
    """The arrays of the task, if the model can be trained on it."""
    arrays = task_arrays(task, SCENARIOS)
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"model has type {type(model).__name__}; pass a torch module.")
    if not any(p.requires_grad for p in model.parameters()):
        raise InvalidInput(f"{type(model).__name__} has no parameters to train.")
    if getattr(model, "dim", arrays.dim) != arrays.dim:
        raise InvalidInput(f"the task has dim = {arrays.dim}, the model {model.dim}.")
    if getattr(model, "trains_readout_only", False):
        warnings.warn(
            "only the read-out is trained: `states` of this QueryModel is a plain function; pass the "
            "module whose weights it uses, or a method of it.",
            stacklevel=4,
        )
    return arrays


def cast(drawn: tuple[torch.Tensor, ...], model: nn.Module) -> tuple[torch.Tensor, ...]:
    """Inputs and targets with dtype and device of the model's first weight."""
    like = next(model.parameters())
    return tuple(x.to(like) for x in drawn)


def draw_prompts(
    arrays: TaskArrays, settings: dict[str, Any], seed: int, step: int
) -> tuple[torch.Tensor, ...]:
    """The prompts X, y, query and the target of one step."""
    rng = step_generator(seed, step)
    prompts = sample_prompts(arrays, settings["prompt_length"], settings["batch_size"], rng)
    return tuple(map(torch.from_numpy, prompts))


def draw_sequences(
    arrays: TaskArrays, settings: dict[str, Any], step: int, curriculum: Curriculum | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """X (B, N, d) and noisy labels y (B, N) of one step, the last x being the query."""
    coordinates, points = arrays.dim, settings["prompt_length"] + 1
    if curriculum is not None:
        coordinates, points = curriculum.at(step, coordinates, points)
    rng = step_generator(settings["seed"], step)
    X, y, query, target = sample_prompts(
        arrays, points - 1, settings["batch_size"], rng, coordinates
    )
    X, y = np.concatenate([X, query[:, None]], axis=1), np.concatenate([y, target[:, None]], axis=1)
    return torch.from_numpy(X), torch.from_numpy(y)


def step_generator(seed: int, step: int) -> np.random.Generator:
    """The generator of one step of a training."""
    # Every step has its own seed, so a resumed run needs no state of the generator; the branch
    # keeps these prompts apart from those of an evaluation with the same seed.
    root = child_seed(seed_sequence(seed), _TRAINING_BRANCH)
    return np.random.default_rng(child_seed(root, step))


def squared_error(predictions: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over the last axis, the prompts of a batch."""
    if predictions.shape != target.shape:
        raise InvalidInput(
            f"the model returned shape {tuple(predictions.shape)}; it must return "
            f"{tuple(target.shape)}, one prediction a prompt."
        )
    return ((predictions - target) ** 2).mean(-1)


def weights_digest(model: nn.Module) -> str:
    """Tells one start from another."""
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _restore(
    path: str | os.PathLike[str],
    model: nn.Module,
    engine: torch.optim.Optimizer,
    settings: dict[str, Any],
    history: History,
) -> None:
    """Put the state of a checkpoint into the model, the optimizer and the history."""
    state = read(path)
    check_fits(state, model, path)
    training = state.get("training")
    theirs = training.get("settings") if isinstance(training, dict) else None
    if not isinstance(training, dict) or not isinstance(theirs, dict):
        raise CheckpointError(
            f"{path} is a model without the state of a training; give another file."
        )
    # Weights that come from this very file go on as well.
    if all(torch.equal(p.cpu(), state["weights"][key]) for key, p in model.state_dict().items()):
        settings["start"] = theirs.get("start")
    if theirs != settings:
        changed = ", ".join(
            f"{key} = {theirs.get(key)} there, {value} here"
            for key, value in settings.items()
            if theirs.get(key) != value
        )
        raise CheckpointError(f"{path} belongs to another training ({changed}); give another file.")
    try:
        engine.load_state_dict(training["optimizer"])
        loss = [np.array([float(x)]) for x in training["loss"]]
        shapes = {name: p.shape for name, p in model.named_parameters()}
        records = [
            [{name: r[name].reshape(shapes[name]) for name in shapes}]
            for r in training["trajectory"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} has no complete state of a training: {error!r}.") from error
    model.load_state_dict(state["weights"])
    history.loss, history.records = loss, records
