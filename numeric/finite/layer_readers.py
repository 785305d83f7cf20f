"""Predictions and induced weights of every layer of a model, for `finite.identify`.

A sequence model is read layer by layer, by read-outs fitted in closed form or by its own; any other
callable is one layer. Exported: `reader_of`, `LayerReader`, `FunctionReader`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch

from icltheory.task import LinearRegression
from numeric.arrays import TaskArrays
from numeric.finite.adapters import CallableModel, check_model, checked_states
from numeric.finite.contrasts import LoopedLinearAttention
from numeric.finite.readout import Readouts, fit_readouts
from numeric.finite.solver_models import SolverModel
from numeric.finite.transformer import SequenceModel
from numeric.model_weights import fit_weights, induced_weights
from numeric.montecarlo import Seed
from numeric.validate import array_caller, require_deterministic

_OWN = (SolverModel, LoopedLinearAttention, CallableModel)  # whose read-out is made for every layer
_BUDGET = 2**26  # bytes of hidden states at once


def reader_of(
    model: Any, task: LinearRegression, length: int, readout: Any, normalize: bool, seed: Seed
) -> LayerReader | FunctionReader:
    """What reads this model; `readout` and `normalize` as in `finite.identify`."""
    if not isinstance(model, SequenceModel):
        return FunctionReader(model)
    check_model(model, length + 1)
    own = LayerReader(model, None)
    if readout == "own" or (readout is None and (isinstance(model, _OWN) or own.is_scalar)):
        return own
    return LayerReader(model, fit_readouts(model, task, length, seed=seed, normalize=normalize))


class LayerReader:
    """A sequence model, all layers at once; the last one by its own read-out."""

    def __init__(self, model: SequenceModel, readouts: Readouts | None) -> None:
        self.model, self.readouts = model, readouts
        self.description = (
            "every layer read by the model's own read-out"
            if readouts is None
            else f"layers before the last read by least squares on {readouts.pairs} hidden states"
            + (", normalised" if readouts.normalize else "")
        )
        self.fitted = readouts is not None

    def predictions(self, X: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """After every prefix, (L, B, P)."""
        found = self._batched(
            lambda a, b: self._read(checked_states(self.model, a, b)), X.shape[1], X, y
        )
        return found[:, :, counts]

    def weights(
        self,
        X: np.ndarray,
        y: np.ndarray,
        counts: np.ndarray,
        arrays: TaskArrays,
        seed: np.random.SeedSequence,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Induced weights (B, P, L, d) and the held-out R^2 of the fits (L, P)."""
        size, _, d = X.shape
        rng = np.random.default_rng(seed)
        queries = rng.standard_normal((size, 7 * d, d)) @ arrays.feature_root
        weights, scores = [], []
        for n in counts:
            answers = self._batched(
                lambda *prompt: self._read(self.model.query_states(*prompt)),
                7 * d * (n + 1),
                X[:, :n],
                y[:, :n],
                queries,
            )
            fits = [fit_weights(queries, layer, 2 * d) for layer in answers]
            weights.append(np.stack([w for w, _ in fits], axis=1))
            scores.append([score for _, score in fits])
        return np.stack(weights, axis=1), np.array(scores).T

    def _batched(self, run: Callable[..., Any], tokens: int, *arrays: np.ndarray) -> np.ndarray:
        """`run` on prompts whose hidden states fit into the budget."""
        width = self._width
        rows = max(1, _BUDGET // (8 * tokens * width))
        found = []
        with torch.no_grad():
            for low in range(0, len(arrays[0]), rows):
                parts = (torch.from_numpy(a[low : low + rows]) for a in arrays)
                found.append(run(*parts).numpy(force=True))
        return np.concatenate(found, axis=1)

    @property
    def is_scalar(self) -> bool:
        """Whether the state of a layer is a single number, which can only be a prediction."""
        return self._shape[1] == 1

    @property
    def _width(self) -> int:
        """Numbers in the states of one token, all layers together."""
        return self._shape[0] * self._shape[1]

    @cached_property
    def _shape(self) -> tuple[int, int]:
        """(layers + 1, width) of the states."""
        one = torch.zeros(1, 1, self.model.dim, dtype=torch.float64)
        states = checked_states(self.model, one, one[..., 0])
        return states.shape[0], states.shape[-1]

    def _read(self, states: torch.Tensor) -> torch.Tensor:
        """Predictions (L, ...) from the states of all layers, the input left out."""
        if self.readouts is None:
            return self.model.read_out(states[1:]).double()
        last = self.model.read_out(states[-1:]).double()
        return torch.cat([self.readouts.read(states)[1:-1], last])


class FunctionReader:
    """A function of prompts, as one layer."""

    description = "read as a function of prompts"
    fitted = is_scalar = False

    def __init__(self, model: Any) -> None:
        self.model, self.call = model, array_caller(model)

    def predictions(self, X: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """After every prefix, (1, B, P)."""
        n = counts[-1]
        require_deterministic(self.call, X[:, :n], y[:, :n], X[:, n])
        return np.stack([self.call(X[:, :n], y[:, :n], X[:, n]) for n in counts], axis=1)[None]

    def weights(
        self,
        X: np.ndarray,
        y: np.ndarray,
        counts: np.ndarray,
        arrays: TaskArrays,
        seed: np.random.SeedSequence,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Induced weights (B, P, 1, d) and the held-out R^2 of the fits (1, P)."""
        found = induced_weights(self.model, X, y, counts, cov=arrays.feature_cov, seed=seed)
        return found.weights[:, :, None], found.r_squared[None]
