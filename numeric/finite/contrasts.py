"""Sequence models that are no Transformers: an LSTM and looped linear attention.

The contrasts of Fu et al. (arXiv 2310.17086): an LSTM resembles online gradient descent, and a loop
of linear attention is a polynomial method by construction. Both are trained by `finite.train` and
saved like every model. Exported: `LSTM`, `LoopedLinearAttention`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from numeric.finite.models import Configured, count, generator_of, normal
from numeric.finite.transformer import SequenceModel, interleaved


class LSTM(Configured, SequenceModel):
    """Layers of LSTM cells on the tokens x_1, (y_1, 0, ...), x_2, ..., with a linear read-out.

    Parameters
    ----------
    dim, layers, width: feature dimension, layers, and the width of every hidden state.
    seed: of the start, uniform in +-width^{-1/2} as in torch.

    The weights are float32. Prompts may have any length.

    >>> model = LSTM(dim=3, layers=2, width=8)
    >>> model.predict_all(torch.zeros(4, 6, 3), torch.ones(4, 6)).shape
    torch.Size([4, 6])
    """

    points = None

    def __init__(self, dim: int, layers: int = 3, width: int = 64, *, seed: int = 0) -> None:
        super().__init__()
        self.dim, self.layers = count(dim, "dim"), count(layers, "layers")
        self.width = count(width, "width")
        self.read_in = nn.Linear(self.dim, self.width)
        self.cells = nn.ModuleList(
            nn.LSTM(self.width, self.width, batch_first=True) for _ in range(self.layers)
        )
        self.readout = nn.Linear(self.width, 1)
        generator, size = generator_of(seed), self.width**-0.5
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-size, size, generator=generator)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that determine the shapes."""
        return {"dim": self.dim, "layers": self.layers, "width": self.width}

    def hidden_states(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """States at the x tokens, (layers + 1, B, N, width); 0 is the embedded token."""
        self.check(X, y)
        found = [self.read_in(interleaved(X, y).to(self.readout.weight))]
        for cell in self.cells:
            found.append(cell(found[-1])[0])
        return torch.stack([states[:, ::2] for states in found])

    def read_out(self, states: torch.Tensor) -> torch.Tensor:
        """Linear read-out."""
        return self.readout(states)[..., 0]


class LoopedLinearAttention(Configured, SequenceModel):
    """One layer of linear attention, applied `loops` times to joint tokens of every prefix.

    The tokens (x_j, y_j) of the n examples before and the query token (x_q, 0) all move by

        x_c <- x_c - B S A x_c / (n + dim + 1),    y_c <- y_c - b'A x_c / (n + dim + 1)

    with S = sum_j x_j x_j' and b = sum_j y_j x_j of the present tokens of the examples, and A, B
    (dim, dim) shared by all loops; the prediction is minus the last coordinate of the query. This is
    linear attention with the blocks that the symmetries of the task leave (Ahn et al., arXiv
    2306.00297): gradient descent for B = 0 and A = I (then with the step that is best for one loop,
    V6), GD++ of von Oswald et al. (arXiv 2212.07677) for B = size I. The division by n + dim + 1 in
    place of n keeps short prefixes stable.

    Parameters
    ----------
    dim, loops: feature dimension and number of loops.
    seed: of the start, A = I/2 and B = 0 plus normal entries of size 0.02.

    Computes in float64. Prompts may have any length.

    >>> model = LoopedLinearAttention(dim=3, loops=4)
    >>> model.hidden_states(torch.zeros(2, 6, 3), torch.ones(2, 6)).shape
    torch.Size([5, 2, 6, 4])
    """

    points = None

    def __init__(self, dim: int, loops: int = 6, *, seed: int = 0) -> None:
        super().__init__()
        self.dim, self.loops = count(dim, "dim"), count(loops, "loops")
        generator, shape = generator_of(seed), (self.dim, self.dim)
        half = torch.eye(self.dim, dtype=torch.float64) / 2
        self.A = nn.Parameter(half + 0.02 * normal(shape, generator))
        self.B = nn.Parameter(0.02 * normal(shape, generator))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that determine the model."""
        return {"dim": self.dim, "loops": self.loops}

    @property
    def layers(self) -> int:
        """The number of loops."""
        return self.loops

    def hidden_states(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The query token of every prefix after every loop, (loops + 1, B, N, dim + 1)."""
        self.check(X, y)
        X, y = X.to(self.A), y.to(self.A)
        N = X.shape[1]
        # Row i is the prompt of prefix i: its examples, zeros in place of the others, and its query.
        seen = torch.ones(N, N, dtype=X.dtype, device=X.device).tril(-1)[None, :, :, None]
        examples = torch.cat([X, y[..., None]], dim=-1)[:, None] * seen
        query = torch.cat([X, torch.zeros_like(y)[..., None]], dim=-1)[:, :, None]
        number = torch.arange(N, dtype=X.dtype, device=X.device)[:, None, None] + self.dim + 1
        last = torch.zeros(1, 1, dtype=X.dtype, device=X.device)
        value = torch.block_diag(self.B, last + 1)
        score = torch.block_diag(self.A, last)
        found = [query]
        for _ in range(self.loops):
            step = score.T @ (examples.transpose(-2, -1) @ examples / number) @ value.T
            examples, query = examples - examples @ step, query - query @ step
            found.append(query)
        return torch.stack(found)[..., 0, :]

    def read_out(self, states: torch.Tensor) -> torch.Tensor:
        """Minus the last coordinate."""
        return -states[..., -1]
