"""Train a Transformer that is shipped with the package: python -m numeric.finite.make_checkpoints NAME OUT.

About a quarter of an hour on one core. An interrupted training goes on where it was: its state lies
beside OUT until it is finished; OUT itself holds weights only. Another processor rounds differently,
so that the weights are the same only in distribution.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from icltheory.errors import IclTheoryError, InvalidInput
from numeric.finite.checkpoint import save
from numeric.finite.shipping import PROMPT_LENGTH, RECIPES
from numeric.finite.training import TrainingRun, train


def make_checkpoint(
    name: str,
    out: str | os.PathLike[str],
    *,
    steps: int | None = None,
    progress: bool | None = None,
) -> TrainingRun:
    """Train the model `name` ("clean" or "noisy") and write its weights to `out`.

    steps: fewer than the recipe's, for a trial. Errors: `InvalidInput`, `CheckpointError`.
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise InvalidInput(f"name = {name!r} is not one of {', '.join(RECIPES)}.")
    recipe, state = RECIPES[name], Path(f"{os.fspath(out)}.training")
    options: dict[str, Any] = {
        "batch_size": 64,
        "learning_rate": 1e-3,
        "warmup": 500,
        "clip_norm": 1.0,
    }
    run = train(
        recipe.model(),
        recipe.task,
        PROMPT_LENGTH,
        steps=recipe.steps if steps is None else steps,
        seed=0,
        curriculum=recipe.curriculum,
        checkpoint=state,
        checkpoint_every=500,
        progress=progress,
        **options,
    )
    save(run, out)
    state.unlink()
    return run


def main(arguments: list[str]) -> int:
    """The command; returns the exit status."""
    if len(arguments) != 2:
        print(f"usage: make_checkpoints {{{','.join(RECIPES)}}} OUT", file=sys.stderr)
        return 2
    torch.set_num_threads(1)  # the model is too small for more
    try:
        run = make_checkpoint(*arguments, progress=True)
    except IclTheoryError as error:
        print(f"make_checkpoints: {error}", file=sys.stderr)
        return 2
    print(f"{arguments[1]}: loss {run.smoothed_loss[-1]:.4f} after {len(run.loss)} steps")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
