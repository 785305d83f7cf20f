"""Training and reading layers that decode, for the claims on linear self-attention.

Risks are total with coefficients N(0, I/d): a coordinate's with E w*w*' = I. torch is imported where a
model is built.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import icltheory as icl
from numeric.arrays import task_arrays
from numeric.chain_prompts import PromptAverage
from numeric.claims.base import Effort
from numeric.compare import Row, compare
from numeric.samplers import sample_examples

WEIGHTS, RISK = 0.03, 0.05  # accepted deviations of trained weights and of their risk
FREE = {"blocks": "three free blocks", "full": "all of V and K free"}


def learned_row(setting: dict[str, Any], optimum: float, found: float, accepted: float) -> Row:
    """What a training reached, within an accepted deviation, of which a sixth counts as its scatter."""
    scatter = accepted / 6
    return compare(setting, optimum, found, scatter * abs(optimum) / 5, accepted - scatter)


def fresh_prompts(
    task: icl.LinearRegression, n: int, size: int, seed: int = 5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (B, n, d), y (B, n), w* (B, d) of a task."""
    X, y, _, w = sample_examples(task_arrays(task), n, size, np.random.default_rng(seed))
    return X, y, w


def squared_errors(model: Any, prompts: tuple[np.ndarray, ...], thoughts: int) -> PromptAverage:
    """|w_t - w*|^2 of the model's own chain, without noise."""
    X, y, w = prompts
    answers = model.candidates(X, y, icl.NoisyDecoding(1, 0, thoughts))[:, 0]
    return PromptAverage(np.square(answers - w).sum(axis=1))


def training_steps(effort: Effort, share: float = 0.4) -> int:
    """Updates of a training: 800 at quick effort."""
    return max(2, round(share * effort.training_steps))


def trained(model: Any, task: icl.LinearRegression, n: int, effort: Effort, **options: Any) -> Any:
    """Train a decoder in place; the run."""
    from numeric import finite

    settings: dict[str, Any] = {"steps": training_steps(effort), "learning_rate": 0.02}
    return finite.train_decoder(model, task, n, **{**settings, **options}, progress=False)


def decoder(d: int, form: str = "full", fixed: bool = False, seed: int = 1) -> Any:
    """A layer to train; with `fixed` R = I and rho = -1 stay."""
    from numeric import finite

    model = finite.LinearSelfAttention(d, form=form, seed=seed)
    if fixed:
        model.set_blocks(-0.3, 1, -1)
        model.R.requires_grad_(False)
        model.rho.requires_grad_(False)
    return model
