"""Claim: a statement of a paper, held against exact results, simulations and trained models.

A claim is run at an `Effort` and gives a `ClaimResult`: one `Part` an experiment, each with its
Comparison and its negative control (the same rows with predictions multiplied by `control`, which
must be rejected), and the data of one figure. A result is plain data: it is written to disk as JSON
when its claim is finished, and read back when an interrupted run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from icltheory.errors import InvalidInput
from icltheory.formula import Formula, Reference
from numeric.compare import DEVIATES, Comparison, Row
from numeric.plot import Figure

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Effort:
    """How much is computed: `quick` for a first look in minutes, `full` for publication.

    prompts: a unit of sampling that experiments multiply. training_steps: of every trained model.
    prompt_lengths: of the trained models; `compared_lengths` where models are held against each
    other.
    """

    name: str
    prompts: int
    training_steps: int
    prompt_lengths: tuple[int, ...]
    compared_lengths: tuple[int, ...]


EFFORTS = {
    effort.name: effort
    for effort in (
        Effort("quick", 40_000, 2_000, (20, 40, 80), (40,)),
        Effort("full", 400_000, 6_000, (10, 20, 40, 80, 160), (20, 40, 80)),
    )
}


@dataclass(frozen=True)
class Part:
    """One experiment of a claim, with the factor its negative control multiplies predictions by."""

    title: str
    comparison: Comparison
    control: float = 1.03

    @staticmethod
    def of(title: str, rows: Iterable[Row], control: float = 1.03) -> Part:
        """The part of these rows."""
        return Part(title, Comparison.from_rows(rows), control)

    @property
    def control_rejections(self) -> tuple[int, int]:
        """How many rows reject the changed prediction, of those that can be tested."""
        rows = [row for row in self.comparison.scaled(self.control) if row.testable]
        return sum(row.verdict == DEVIATES for row in rows), len(rows)

    @property
    def control_rejected(self) -> bool:
        """True if the check rejects the changed prediction, in at least one row."""
        return self.control_rejections[0] > 0

    @property
    def passed(self) -> bool:
        """True if every row agrees and the negative control is rejected."""
        return self.comparison.passed and self.control_rejected


# What an experiment gives.
Result = tuple[tuple[Part, ...], Figure]


@dataclass(frozen=True)
class ClaimResult:
    """What a claim's experiments gave: parts, figure, computing time in seconds."""

    claim: str
    effort: str
    parts: tuple[Part, ...]
    figure: Figure
    seconds: float

    @property
    def passed(self) -> bool:
        """True if there is a part and all parts pass, controls included."""
        return bool(self.parts) and all(part.passed for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """A dict for strict JSON."""
        return {
            "claim": self.claim,
            "effort": self.effort,
            "parts": [
                {"title": p.title, "control": p.control, **p.comparison.to_dict()}
                for p in self.parts
            ],
            "figure": asdict(self.figure),
            "seconds": self.seconds,
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> ClaimResult:
        """The inverse of `to_dict`; `InvalidInput` for anything else."""
        try:
            return ClaimResult(
                data["claim"],
                data["effort"],
                tuple(
                    Part(p["title"], Comparison.from_dict(p), p["control"]) for p in data["parts"]
                ),
                Figure.from_dict(data["figure"]),
                float(data["seconds"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInput(f"this is not a result written by a claim: {error!r}.") from error


@dataclass(frozen=True)
class Claim:
    """A statement with its source, the formulas that predict it, and the experiment.

    `id` is unique and stable; `statement` one or two sentences in our words; `formulas()` derives
    the predictions; `experiment(effort, progress)` computes parts and figure, calling
    `progress(what, fraction)` on the way.
    """

    id: str
    paper: str
    title: str
    statement: str
    source: Reference
    formulas: Callable[[], tuple[Formula, ...]]
    experiment: Callable[[Effort, Progress], Result]


# id -> claim, in the order of definition; filled by the modules of this package.
CLAIMS: dict[str, Claim] = {}


def register(claim: Claim) -> Claim:
    """Add a claim to `CLAIMS`; ids are unique."""
    if claim.id in CLAIMS:
        raise InvalidInput(f"the claim id {claim.id} is taken.")
    CLAIMS[claim.id] = claim
    return claim
