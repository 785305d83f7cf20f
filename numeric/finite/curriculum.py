"""Prompts that grow in dimension and length during a training. Exported: `Curriculum`."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from icltheory.errors import InvalidInput
from numeric.arrays import positive_integers


@dataclass(frozen=True)
class Curriculum:
    """Short prompts in few coordinates first, as in Garg et al. (arXiv 2208.01066).

    A prompt starts with `dim` non-zero coordinates and `points` x tokens (the query included); every
    `every` steps `dim_step` coordinates and `points_step` tokens are added, until the task is whole.
    The paper's is Curriculum(dim=5, points=11, every=2000).

    >>> plan = Curriculum(dim=2, points=6, every=1000)
    >>> [plan.at(step, dim=5, points=16) for step in (0, 999, 1000, 9000)]
    [(2, 6), (2, 6), (3, 8), (5, 16)]
    """

    dim: int
    points: int
    every: int
    dim_step: int = 1
    points_step: int = 2

    def __post_init__(self) -> None:
        for name in ("dim", "points", "every"):
            positive_integers(getattr(self, name), name)
        for name in ("dim_step", "points_step"):
            positive_integers(getattr(self, name), name, minimum=0)
        if self.points < 2:
            raise InvalidInput("points = 1 is a query without an example; give at least 2.")

    def at(self, step: int, dim: int, points: int) -> tuple[int, int]:
        """Coordinates and x tokens at a step, for a task of `dim` coordinates and `points` tokens."""
        grown = step // self.every
        return (
            min(dim, self.dim + self.dim_step * grown),
            min(points, self.points + self.points_step * grown),
        )

    def setting(self) -> list[int]:
        """The numbers that tell this curriculum from another."""
        return list(astuple(self))
