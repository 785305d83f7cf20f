"""The trained Transformers that come with the package. Exported: `shipped`, `RECIPES`, `Recipe`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import icltheory as icl
from icltheory.errors import InvalidInput
from numeric.finite.checkpoint import load
from numeric.finite.curriculum import Curriculum
from numeric.finite.transformer import Transformer

PROMPT_LENGTH = 15


@dataclass(frozen=True)
class Recipe:
    """How a shipped model was trained: label noise and number of steps; the rest is common."""

    noise_var: float
    steps: int

    @property
    def task(self) -> icl.LinearRegression:
        """d = 5, with this label noise."""
        return icl.LinearRegression(dim=5, noise_var=self.noise_var)

    def model(self) -> Transformer:
        """The start: 6 layers of width 64 with 4 heads, for up to 15 examples and a query."""
        return Transformer(dim=5, layers=6, width=64, heads=4, points=PROMPT_LENGTH + 1, seed=0)

    @property
    def curriculum(self) -> Curriculum:
        """From 2 dimensions and 5 examples."""
        return Curriculum(dim=2, points=6, every=1000)


RECIPES = {"clean": Recipe(0.0, 10_000), "noisy": Recipe(0.25, 16_000)}


def shipped(name: str) -> Transformer:
    """A trained Transformer of this package, in evaluation mode; a new copy with every call.

    name: "clean" (no label noise) or "noisy" (noise_var 0.25), both for d = 5 and prompts of up to 15
    examples. Made by `python -m numeric.finite.make_checkpoints NAME OUT`.

    Errors: `InvalidInput` for another name.

    >>> shipped("noisy").config
    {'dim': 5, 'layers': 6, 'width': 64, 'heads': 4, 'points': 16}
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise InvalidInput(f"name = {name!r} is not one of {', '.join(RECIPES)}.")
    with resources.as_file(
        resources.files("numeric.finite") / "checkpoints" / f"{name}.pt"
    ) as path:
        model = load(path)
    assert isinstance(model, Transformer)
    return model.eval()
