"""Gradient descent on exact risks, and the same descent of real layers, side by side.

What the training claims compare: descent on the exact population risk of a prompt length, and layers
trained by stochastic gradient descent with the same steps. The noise of the batches shifts the mean
trajectory by an amount proportional to 1/batch; it is removed by training with batches of two sizes,
from several seeds each, and extrapolating to infinite batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

import icltheory as icl
import numeric
from numeric.claims.base import Effort
from numeric.compare import Row, compare
from numeric.finite_prompt import FiniteRisk

DIM = 5
RATE = 0.1  # learning rate on the squared error: a step is a time 0.2 of the flow
STEPS, EVERY = 120, 15  # updates, and updates between two comparisons


# -- predictions ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """Blocks along gradient descent, start and every update: A (updates, d, d), b (updates,)."""

    A: np.ndarray
    b: np.ndarray

    @property
    def times(self) -> np.ndarray:
        """Time of the flow at every update."""
        return 2 * RATE * np.arange(len(self.b))

    def blocks(self, every: int = 1) -> dict[str, np.ndarray]:
        """The blocks at every so many updates."""
        return {"A": self.A[::every], "b": self.b[::every]}


def descent(
    gradient: Callable[[np.ndarray, float], tuple[np.ndarray, float]], A: np.ndarray, b: float
) -> Path:
    """Gradient descent with the steps of the trainings, on an exact risk."""
    path = [(A, b)]
    for _ in range(STEPS):
        slope_a, slope_b = gradient(A, b)
        A, b = A - RATE * slope_a, b - RATE * slope_b
        path.append((A, b))
    return Path(np.stack([x[0] for x in path]), np.array([x[1] for x in path]))


def softmax_gradient(task: icl.LinearRegression, n: int) -> Callable[..., Any]:
    """Gradient of the exact risk of a softmax head with n examples."""
    return FiniteRisk(task, np.array([float(n)])).gradient


def linear_gradient(task: icl.LinearRegression, n: int) -> Callable[..., Any]:
    """Gradient of the exact risk of linear attention with n examples."""
    flow = icl.gradient_flow(task, attention=icl.LinearAttention(), prompt_length=n)
    velocity = numeric.compile({str(x): f for x, f in flow.velocities.items()})

    def gradient(A: np.ndarray, b: float) -> tuple[np.ndarray, float]:
        # The flow descends half the risk.
        found = velocity(A=A, b=b)
        return -2 * found["A"], -2 * float(found["b"])

    return gradient


def infinite_path(task: icl.LinearRegression, A: np.ndarray, b: float) -> Path:
    """Gradient descent on the risk of an infinite prompt."""
    slopes = icl.risk_gradients(task)
    gradient = numeric.compile({name: slopes[name] for name in ("A", "b")})
    zero = np.zeros(DIM)

    def slope(A: np.ndarray, b: float) -> tuple[np.ndarray, float]:
        found = gradient(A=A, b=b, u=zero, v=zero)
        return found["A"], float(found["b"])

    return descent(slope, A, b)


# -- training ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """Mean of a number along training, extrapolated to infinite batches, and its standard error."""

    value: np.ndarray
    error: np.ndarray


def train(
    task: icl.LinearRegression,
    n: int,
    effort: Effort,
    reads: dict[str, Callable[[dict[str, np.ndarray]], np.ndarray]],
    prompts_seed: int,
    larger: int = 1,
    **start: Any,
) -> dict[str, Measured]:
    """Train layers of one start on many seeds and two batch sizes; what `reads` gives of them.

    Batches are `larger` times the usual size, which is about effort.prompts / (10 sqrt(n)).
    """
    from numeric import finite

    seeds = 8 if effort.name == "quick" else 16
    batch = max(16, 2 * larger * int(effort.prompts / (20 * math.sqrt(n))))
    found: dict[str, list[np.ndarray]] = {name: [] for name in reads}
    for half in (1, 2):
        runs = finite.train_many(
            [finite.TokenAttention(DIM, **start) for _ in range(seeds)],
            [(task, n)] * seeds,
            STEPS,
            [1000 * prompts_seed + 100 * half + s for s in range(seeds)],
            batch_size=batch // half,
            optimizer="sgd",
            learning_rate=RATE,
            schedule="constant",
            record_every=EVERY,
            progress=False,
        )
        for name, read in reads.items():
            found[name].append(np.stack([read(run.trajectory) for run in runs]))
    result = {}
    for name, (large, small) in found.items():
        spread = [x.var(0, ddof=1) / seeds for x in (large, small)]
        value = 2 * large.mean(0) - small.mean(0)
        result[name] = Measured(value, np.sqrt(4 * spread[0] + spread[1]))
    return result


def scale_of(trajectory: dict[str, np.ndarray]) -> np.ndarray:
    """tr A / d."""
    return np.trace(trajectory["A"], axis1=1, axis2=2) / DIM


def value_of(trajectory: dict[str, np.ndarray]) -> np.ndarray:
    """b."""
    return trajectory["b"]


def exact_risk_of(
    task: icl.LinearRegression, n: int
) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """The exact risk along a softmax trajectory on u = v = 0."""
    risk = FiniteRisk(task, np.array([float(n)]))

    def read(trajectory: dict[str, np.ndarray]) -> np.ndarray:
        pairs = zip(trajectory["A"], trajectory["b"], strict=True)
        return np.array([float(risk.coefficients(A).at(b)[0]) for A, b in pairs])

    return read


def trajectory_rows(
    setting: dict[str, Any],
    predicted: dict[str, np.ndarray],
    measured: dict[str, Measured],
    required: float,
    smallest: float = 0.0,
) -> Iterable[Row]:
    """One row a recorded time and quantity; left out are the common start and |values| < smallest."""
    for name, values in predicted.items():
        for i in range(1, len(values)):
            if abs(values[i]) < smallest:
                continue
            yield compare(
                {**setting, "step": i * EVERY, "quantity": name},
                values[i],
                measured[name].value[i],
                measured[name].error[i],
                required=required,
            )


def predicted_values(task: icl.LinearRegression, n: int, path: Path) -> dict[str, np.ndarray]:
    """tr A/d, b and the risk along a path."""
    blocks = path.blocks(EVERY)
    return {
        "tr A / d": scale_of(blocks),
        "b": value_of(blocks),
        "risk": exact_risk_of(task, n)(blocks),
    }


def start_blocks(**start: Any) -> tuple[np.ndarray, float]:
    """A and b at the start."""
    from numeric import finite

    blocks = finite.TokenAttention(DIM, **start).blocks()
    return blocks["A"], float(blocks["b"])
