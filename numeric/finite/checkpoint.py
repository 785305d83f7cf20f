"""Saved models: only tensors, numbers and text are written, and only these are ever read.

A checkpoint is a dict with the class and configuration of the model, its weights and, inside a
training run, the state of the training. It is written to a temporary file and then renamed, so a
file is either the old or the new one, and is read with `weights_only=True`, so loading never runs
code from the file.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from icltheory.errors import CheckpointError, InvalidInput
from numeric.finite.contrasts import LSTM, LoopedLinearAttention
from numeric.finite.decoder import LinearSelfAttention
from numeric.finite.models import LinearAttention, SoftmaxAttention
from numeric.finite.tokens import TokenAttention
from numeric.finite.transformer import Transformer

_FORMAT = 1
_CLASSES: dict[str, type[nn.Module]] = {
    cls.__name__: cls
    for cls in (
        SoftmaxAttention,
        LinearAttention,
        TokenAttention,
        Transformer,
        LSTM,
        LoopedLinearAttention,
        LinearSelfAttention,
    )
}


def save(model: Any, path: str | os.PathLike[str], *, training: Any = None) -> Path:
    """Write a model of this package to `path`; `training` is the state of a run, if any.

    Of a `TrainingRun` the model is written. The folder must exist. Errors: `InvalidInput` for
    another class or an unwritable place; the old file is then still there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = save(SoftmaxAttention(dim=3), f"{folder}/model.pt")
    ...     load(path).config
    {'dim': 3, 'heads': 1, 'merged': True}
    """
    model = model if isinstance(model, nn.Module) else getattr(model, "model", model)
    name = type(model).__name__
    if _CLASSES.get(name) is not type(model):
        raise InvalidInput(f"only {', '.join(_CLASSES)} can be saved, not {name}; use torch.save.")
    path = Path(path)
    state = {
        "format": _FORMAT,
        "class": name,
        "config": dict(model.config),
        "weights": {key: value.detach().clone() for key, value in model.state_dict().items()},
        "training": training,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise InvalidInput(f"{path} cannot be written: {error}; give another place.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load(path: str | os.PathLike[str], into: nn.Module | None = None) -> nn.Module:
    """Read a model that `save` wrote; with `into`, put its weights into that model.

    Raises `CheckpointError` for a missing, truncated or foreign file, for anything beyond weights,
    for another model than `into`, for wrong shapes and for weights that are not finite. `into` is
    unchanged then.

    >>> from tempfile import TemporaryDirectory
    >>> from numeric.finite import SoftmaxAttention
    >>> model = SoftmaxAttention(dim=2, heads=1, seed=1)
    >>> with TemporaryDirectory() as folder:
    ...     path = save(model, Path(folder) / "head.pt")
    ...     same = load(path)
    >>> bool((same.state_dict()["A"] == model.state_dict()["A"]).all())
    True
    """
    state = read(path)
    model = into if into is not None else _CLASSES[state["class"]](**state["config"])
    check_fits(state, model, path)
    model.load_state_dict(state["weights"])
    return model


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The checked content of a checkpoint."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist or is not a file; give a saved model.")
    try:
        # torch.load does not compare the checksums, and a changed weight would go unnoticed.
        with zipfile.ZipFile(path) as archive:
            if (broken := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {broken}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} contains more than weights, and nothing in it was run; "
            f"give a file that numeric.finite.save wrote."
        ) from error
    except Exception as error:  # the unpickler raises anything on a damaged file
        raise CheckpointError(
            f"{path} is truncated, damaged or no checkpoint ({error}); save the model again."
        ) from error
    kinds = {"format": int, "class": str, "config": dict, "weights": dict}
    if (
        not isinstance(state, dict)
        or not all(isinstance(state.get(key), kind) for key, kind in kinds.items())
        or state["format"] != _FORMAT
        or state["class"] not in _CLASSES
    ):
        raise CheckpointError(f"{path} was not written by numeric.finite.save (format {_FORMAT}).")
    try:
        made = _CLASSES[state["class"]](**state["config"])
    except (TypeError, ValueError, RuntimeError, MemoryError) as error:
        raise CheckpointError(
            f"{path} describes no model of class {state['class']}: {error}"
        ) from error
    if made.config != state["config"]:
        raise CheckpointError(
            f"{path} describes no model of class {state['class']}: its configuration would be "
            f"{_shown(made.config)}."  # type: ignore[arg-type]
        )
    return state


def check_fits(state: dict[str, Any], model: nn.Module, path: str | os.PathLike[str]) -> None:
    """`CheckpointError` unless the weights are finite and belong to a model like `model`."""
    ours = (type(model).__name__, dict(getattr(model, "config", {})))
    theirs = (state["class"], dict(state["config"]))
    if ours != theirs:
        raise CheckpointError(
            f"{path} holds {theirs[0]}({_shown(theirs[1])}), not {ours[0]}({_shown(ours[1])}); "
            f"load it without into=, or make the model it holds."
        )
    expected = {key: value.shape for key, value in model.state_dict().items()}
    for key, shape in expected.items():
        value = state["weights"].get(key)
        dense = isinstance(value, torch.Tensor) and value.layout == torch.strided
        if not dense or value.shape != shape or not value.is_floating_point():
            raise CheckpointError(
                f"{path}: the weight {key} is missing or no real array of shape {tuple(shape)}."
            )
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: the weight {key} contains NaN or infinite entries.")
    unknown = sorted(map(str, set(state["weights"]) - set(expected)))
    if unknown:
        raise CheckpointError(f"{path} has weights of another model: {', '.join(unknown)}.")


def _shown(config: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in config.items())
