"""A causal Transformer on interleaved tokens x_1, y_1, x_2, y_2, ... that predicts at every x.

The architecture is that of GPT-2 (pre-norm blocks, learned positions, causal mask), built from torch's
own encoder blocks; tokens and read-out position follow Garg et al. (arXiv 2208.01066) and Fu et al.
(arXiv 2310.17086). Exported: `Transformer`, `SequenceModel`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from icltheory.errors import InvalidInput
from numeric.finite.models import Configured, count, generator_of

# Standard deviation of the positions at the start. That of a weight matrix is 1/sqrt(its inputs): with
# GPT-2's 0.02 a model of width 64 stays for thousands of steps where it averages labels only.
_POSITIONS = 0.3


class SequenceModel(nn.Module):
    """A model that predicts the label of every x token from the examples before it.

    A subclass has `dim`, `points` (the most x tokens it takes, or None) and `hidden_states`, and
    reads predictions off its last hidden state. Given X (B, N, d) and y (B, N), prediction number i
    (from 0) is of y_{i+1} from the i examples before; y_N is never read.
    """

    dim: int
    points: int | None

    def hidden_states(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """States at the x tokens after every layer, (layers + 1, B, N, width); 0 is the input."""
        raise NotImplementedError

    def read_out(self, states: torch.Tensor) -> torch.Tensor:
        """Predictions (..., N) from the last hidden state (..., N, width)."""
        raise NotImplementedError

    def predict_all(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Predictions (B, N) at every x token, from prefixes of 0, ..., N - 1 examples."""
        return self.read_out(self.hidden_states(X, y)[-1])

    def forward(self, X: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """X (B, n, d), y (B, n), query (B, d) -> prediction (B,) from the whole prompt."""
        X = torch.cat([X, query[:, None]], dim=1)
        y = torch.cat([y, torch.zeros_like(query[:, :1])], dim=1)
        return self.predict_all(X, y)[:, -1]

    def query_states(self, X: torch.Tensor, y: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """States at several queries after the same examples, (layers + 1, B, T, width).

        X (B, n, d), y (B, n), queries (B, T, d). Here every query has a copy of the prompt.
        """
        size, count = queries.shape[:2]
        X, y = X.repeat_interleave(count, 0), y.repeat_interleave(count, 0)
        X = torch.cat([X, queries.flatten(0, 1)[:, None]], dim=1)
        states = self.hidden_states(X, torch.cat([y, torch.zeros_like(y[:, :1])], dim=1))
        return states[:, :, -1].unflatten(1, (size, count))

    def check(self, X: torch.Tensor, y: torch.Tensor) -> None:
        """`InvalidInput` unless X and y are prompts that the model can take."""
        if not (isinstance(X, torch.Tensor) and isinstance(y, torch.Tensor)):
            raise InvalidInput(
                f"X has type {type(X).__name__}, y {type(y).__name__}; pass torch tensors."
            )
        if X.ndim != 3 or X.shape[-1] != self.dim or y.shape != X.shape[:2]:
            raise InvalidInput(
                f"X has shape {tuple(X.shape)} and y {tuple(y.shape)}; they must be (B, N, {self.dim}) "
                f"and (B, N)."
            )
        if self.points is not None and X.shape[1] > self.points:
            raise InvalidInput(
                f"{X.shape[1]} x tokens, the query among them; this model has positions for "
                f"{self.points}. Make one with points={X.shape[1]}."
            )


def interleaved(X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Tokens x_1, (y_1, 0, ...), x_2, ..., x_N: (B, 2 N - 1, d)."""
    labels = torch.zeros_like(X)
    labels[..., 0] = y
    return torch.stack([X, labels], dim=2).flatten(1, 2)[:, :-1]


class Transformer(Configured, SequenceModel):
    """GPT-2-style decoder for in-context regression.

    Parameters
    ----------
    dim: feature dimension d; every token is a vector of length d.
    layers, width, heads: blocks, embedding width and attention heads (dividing the width).
    points: the most x tokens of a prompt, the query included: prompt lengths up to points - 1.
    seed: of the start.

    The weights are float32, as in the papers; `model.double()` evaluates in float64. Inputs are cast
    to the dtype and device of the weights.

    Forward: X (B, n, dim), y (B, n), query (B, dim) -> (B,); `predict_all` gives every prefix at once.
    The size of Fu et al. is Transformer(dim=20, layers=12, width=256, heads=8, points=101).

    >>> model = Transformer(dim=3, layers=2, width=16, heads=2, points=8)
    >>> model.predict_all(torch.zeros(4, 6, 3), torch.ones(4, 6)).shape
    torch.Size([4, 6])
    """

    def __init__(
        self,
        dim: int,
        layers: int = 6,
        width: int = 64,
        heads: int = 4,
        points: int = 16,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dim, self.layers = count(dim, "dim"), count(layers, "layers")
        self.width, self.heads = count(width, "width"), count(heads, "heads")
        self.points = count(points, "points")
        if self.width % self.heads:
            raise InvalidInput(f"width = {self.width} is not a multiple of heads = {self.heads}.")
        self.read_in = nn.Linear(self.dim, self.width)
        self.positions = nn.Parameter(torch.empty(2 * self.points - 1, self.width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                self.width,
                self.heads,
                4 * self.width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(self.layers)
        )
        self.norm = nn.LayerNorm(self.width)
        self.readout = nn.Linear(self.width, 1)
        self._start(generator_of(seed))

    def _start(self, generator: torch.Generator) -> None:
        """Normal weights, smaller where they add to the residual stream, as in GPT-2."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif parameter.ndim > 1:
                    adds = name.endswith(("out_proj.weight", "linear2.weight"))
                    fan = parameter.shape[1] * (2 * self.layers if adds else 1)
                    std = _POSITIONS if name == "positions" else fan**-0.5
                    parameter.normal_(0.0, std, generator=generator)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that determine the shapes."""
        return {
            "dim": self.dim,
            "layers": self.layers,
            "width": self.width,
            "heads": self.heads,
            "points": self.points,
        }

    def _states(self, X: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
        self.check(X, y)
        states = self.read_in(interleaved(X, y).to(self.positions))
        length = states.shape[1]
        states = states + self.positions[:length]
        mask = torch.full((length, length), float("-inf")).to(states).triu(1)
        found = [states]
        for block in self.blocks:
            found.append(block(found[-1], src_mask=mask, is_causal=True))
        return found

    def hidden_states(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """States at the x tokens, (layers + 1, B, N, width), before the final normalisation."""
        return torch.stack([states[:, ::2] for states in self._states(X, y)])

    def query_states(self, X: torch.Tensor, y: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """States at queries (B, T, d) after the examples, (layers + 1, B, T, width).

        All queries of a prompt are computed at once: each stands at the position of the next
        token, and sees the examples and itself.
        """
        self.check(torch.cat([X, queries[:, :1]], dim=1), torch.cat([y, y[:, :1]], dim=1))
        count, examples = queries.shape[1], 2 * X.shape[1]
        last = torch.zeros_like(X[:, :1]), torch.zeros_like(y[:, :1])
        tokens = interleaved(*(torch.cat(pair, dim=1) for pair in zip((X, y), last, strict=True)))
        tokens = torch.cat([tokens[:, :-1], queries], dim=1)
        places = torch.arange(examples + count).clamp_max(examples)
        hidden = torch.ones(examples + count, examples + count, dtype=torch.bool).triu(1)
        hidden[examples:, examples:] = ~torch.eye(count, dtype=torch.bool)
        states = self.read_in(tokens.to(self.positions)) + self.positions[places]
        mask = torch.zeros(hidden.shape).masked_fill(hidden, float("-inf")).to(states)
        found = [states]
        for block in self.blocks:
            found.append(block(found[-1], src_mask=mask))
        return torch.stack([states[:, examples:] for states in found])

    def read_out(self, states: torch.Tensor) -> torch.Tensor:
        """Final normalisation and linear read-out."""
        return self.readout(self.norm(states))[..., 0]

    def predict_all(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Predictions (B, N) at every x token, from prefixes of 0, ..., N - 1 examples."""
        return self.read_out(self._states(X, y)[-1][:, ::2])
