"""Linear read-outs of every layer of a sequence model, in closed form and all layers at once.

A layer's read-out is the regularised least-squares map from its hidden states to the labels: the
minimiser that Fu et al. (arXiv 2310.17086) approach by 500,001 Adam steps a layer. Source: derived
here. Exported: `Readouts`, `fit_readouts`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from icltheory.errors import InvalidInput
from icltheory.task import LinearRegression
from numeric.arrays import SCENARIOS, TaskArrays, integer, positive, task_arrays
from numeric.decoding_display import Shown
from numeric.finite.adapters import check_model, checked_states
from numeric.finite.transformer import SequenceModel
from numeric.montecarlo import Seed, child_seed, seed_sequence
from numeric.samplers import sample_prompts

_BRANCH = 2**32 - 1  # of the seed: no step of a training and no prompt length has this key
_PAIRS = 50  # (prompt, prefix) pairs a coefficient, at least
_BUDGET = 2**26  # bytes of hidden states at once


@dataclass(frozen=True, eq=False, repr=False)
class Readouts(Shown):
    """Read-outs of all layers; `model` is what they were fitted to.

    weights: (layers + 1, width + 1), float64; the last entry is the constant. Layer 0 is the input.
    loss: mean squared error of every layer on the prompts of the fit, against their (noisy) labels.
    pairs: number of (prompt, prefix) pairs of the fit.
    normalize: whether states are normalised before.
    """

    model: SequenceModel
    weights: torch.Tensor = field(repr=False)
    loss: np.ndarray
    pairs: int
    normalize: bool

    def predict_all(self, X: Any, y: Any) -> torch.Tensor:
        """Predictions of every layer at every x token, (layers + 1, B, N), in float64.

        X (B, N, d), y (B, N); prediction i is from the i examples before. Works through the prompts
        in batches of bounded memory.
        """
        X, y = (torch.as_tensor(a) for a in (X, y))
        self.model.check(X, y)
        layers, size = len(self.weights), self.weights.shape[1] - 1
        rows = _rows(layers, X.shape[1], size)
        found = []
        for a, b in zip(X.split(rows), y.split(rows), strict=True):
            found.append(self.read(checked_states(self.model, a, b)))
        return torch.cat(found, dim=1)

    def read(self, states: torch.Tensor) -> torch.Tensor:
        """Predictions (layers + 1, B, N) from the hidden states of all layers, in float64."""
        states = _features(states, self.normalize)
        weights = self.weights.to(states.device)
        return (states @ weights[:, None, :-1, None])[..., 0] + weights[:, -1, None, None]


def fit_readouts(
    model: SequenceModel,
    task: LinearRegression,
    prompt_length: int,
    *,
    prompts: int | None = None,
    seed: Seed = 0,
    ridge: float = 1e-9,
    normalize: bool = False,
    batch: int | None = None,
) -> Readouts:
    """Fit a linear read-out of every layer to the labels, over fresh prompts.

    With phi = (h, 1) of the states h of a layer at all x tokens, G = sum phi phi' and c = sum phi y,
    a read-out solves (G + ridge tr(G)/(width + 1) I) theta = c. G and c are accumulated in float64
    over batches of bounded memory.

    Parameters
    ----------
    model: `SequenceModel`, in evaluation mode; `check_model` is run on it.
    task, prompt_length: as in training; prompts have prompt_length + 1 x tokens. The first, without
        an example, takes part. The prompts of a seed are those of no training, `validate` or
        `measure_risk` with that seed.
    prompts: their number; at least 50 (width + 1) pairs of prompt and prefix are needed, and `None`
        takes twice that.
    ridge: relative; 1e-6 if the states are ill-conditioned.
    normalize: True normalises every state to mean 0 and variance 1 over its coordinates, as a final
        LayerNorm does (its gain and shift are part of the read-out). The last layer of GPT-2 is read
        after such a normalisation, and the earlier ones may be read with or without.
    batch: prompts at once; `None` is what fits into about 64 MB of hidden states.

    Errors: `InvalidInput`.

    >>> import icltheory as icl
    >>> from numeric.finite.solver_models import SolverModel
    >>> task = icl.LinearRegression(dim=2)
    >>> readouts = fit_readouts(SolverModel(icl.GradientDescent(0.1), 2, 3), task, 5)
    >>> readouts.weights.shape, bool((np.diff(readouts.loss) < 0).all())
    (torch.Size([4, 6]), True)
    """
    arrays = task_arrays(task, SCENARIOS)
    if arrays.task.local is not None:
        raise InvalidInput("local examples surround one query; fit on a task without `local`.")
    length = integer(prompt_length, "prompt_length")
    if getattr(model, "dim", arrays.dim) != arrays.dim:
        raise InvalidInput(f"the task has dim = {arrays.dim}, the model {model.dim}.")
    rho = positive(ridge, "ridge", "1e-9")
    check_model(model, length + 1)
    root = child_seed(seed_sequence(seed), _BRANCH)
    X, y = _draw(arrays, length, 1, np.random.default_rng(root))
    layers, _, points, width = checked_states(model, X, y).shape
    needed = -(-_PAIRS * (width + 1) // points)
    total = 2 * needed if prompts is None else integer(prompts, "prompts")
    if total < needed:
        raise InvalidInput(
            f"{total} prompts give {total * points} pairs of prompt and prefix; {width + 1} "
            f"coefficients need {_PAIRS * (width + 1)}: pass prompts={needed} or more."
        )
    rows = _rows(layers, points, width) if batch is None else integer(batch, "batch")
    moments = torch.zeros(layers, width + 2, width + 2, dtype=torch.float64)
    for X, y in _batches(arrays, length, total, rows, root):
        states = _features(checked_states(model, X, y), normalize).flatten(1, 2)
        labels = y.to(states).flatten()[None, :, None].expand(layers, -1, 1)
        full = torch.cat([states, torch.ones_like(labels), labels], dim=-1)
        moments = moments.to(states.device) + full.transpose(1, 2) @ full
    weights, loss = _solve(moments, rho)
    return Readouts(
        model, weights, loss.numpy(force=True) / (total * points), total * points, bool(normalize)
    )


def _solve(moments: torch.Tensor, ridge: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients and sums of squared errors from the second moments of (h, 1, y)."""
    G, c, power = moments[:, :-1, :-1], moments[:, :-1, -1], moments[:, -1, -1]
    shift = ridge * G.diagonal(dim1=1, dim2=2).mean(-1)
    eye = torch.eye(G.shape[-1], dtype=G.dtype, device=G.device)
    root = torch.linalg.cholesky(G + shift[:, None, None] * eye)
    weights = torch.cholesky_solve(c[..., None], root)[..., 0]
    loss = power - 2 * (weights * c).sum(-1) + (weights * (G @ weights[..., None])[..., 0]).sum(-1)
    return weights, loss.clamp_min(0)


def _features(states: torch.Tensor, normalize: bool) -> torch.Tensor:
    """States in float64, normalised if asked for."""
    states = states.double()
    return torch.nn.functional.layer_norm(states, states.shape[-1:]) if normalize else states


def _rows(layers: int, points: int, width: int) -> int:
    """Prompts whose hidden states fit into the budget."""
    return max(1, _BUDGET // (8 * layers * points * (width + 2)))


def _draw(
    arrays: TaskArrays, length: int, size: int, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """X (B, N, d) and noisy labels y (B, N) of N = length + 1 x tokens."""
    X, y, _, _ = sample_prompts(arrays, length + 1, size, rng)
    return torch.from_numpy(X), torch.from_numpy(y)


def _batches(
    arrays: TaskArrays, length: int, total: int, rows: int, root: np.random.SeedSequence
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for b, start in enumerate(range(0, total, rows)):
        rng = np.random.default_rng(child_seed(root, b))
        yield _draw(arrays, length, min(rows, total - start), rng)
