"""Torch modules with the parameters of the specifications: softmax heads and linear attention.

Both map a batch of prompts (X[B, n, d], y[B, n], query[B, d]) to predictions [B], in float64 and in
the conventions of `icltheory.attention`: score x_q' A_h x_i, no 1/sqrt(d), the query outside the
softmax unless an option puts it in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

import icltheory as icl
from icltheory.errors import InvalidInput
from numeric.arrays import SCENARIOS, integer, positive, task_arrays
from numeric.decoding_display import Shown

_STARTS = ("opposite", "same", "random")
_SCORES = ("matrix", "scalar")
# Size of the values at the start. The risk of a pair is flat along v k = constant towards its
# optimum at small k and large v; from values of 1 training stays up to 3 % above it.
_VALUE = 4.0


@dataclass(frozen=True, eq=False, repr=False)
class Learned(Shown):
    """What a trained softmax layer learned, in the terms of the theory.

    score_scales: k_h = tr(A_h Sigma)/d, one a head. values: v_h. off_scalar: Frobenius norm of
    A_h Sigma - k_h I relative to that of A_h Sigma. sum_values: sum_h v_h (0 for the optimal pair).
    sum_value_scores: sum_h v_h k_h (close to 1).
    """

    score_scales: np.ndarray
    values: np.ndarray
    off_scalar: np.ndarray
    sum_values: float
    sum_value_scores: float


class Configured(nn.Module):
    """A module that prints the arguments which determine it.

    >>> SoftmaxAttention(3, heads=2)
    SoftmaxAttention(dim=3, heads=2, merged=True)
    """

    @property
    def config(self) -> dict[str, Any]:
        """The arguments."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """`config` as keywords."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config.items())


class SoftmaxAttention(Configured):
    """One layer of softmax attention with `heads` heads: full, rank-limited or scalar scores.

    Parameters
    ----------
    dim, heads: positive integers.
    merged: True has parameters `A` (heads, dim, dim) and `v` (heads,); False has `K`, `Q`
        (heads, head_width, dim) and `V` (heads,), with A_h = Q_h' K_h, so that the score of token i
        is (Q_h x_q).(K_h x_i). `None` is False with `head_width`, else True.
    head_width: m, the width of keys and queries, which limits every A_h to rank m (the embedding
        dimension of the layer is heads * m); `None` is dim.
    scores: "matrix", or "scalar" for A_h = k_h I with one parameter `k` (heads,) a head, whatever
        the features' covariance.
    values: signs of the values at the start: "opposite" (alternating), "same", or "random". Heads
        that start with one sign stay near the optimum of a single head, below it by about 1 %
        (their score matrices need not be alike).
    value_size: size of the values at the start. Training leaves it slowly where the risk is flat.
    score_std: standard deviation of the entries of A_h, or of k_h, at the start. Of K_h and Q_h it
        is that around score_std^{1/2} times m unit vectors, those of Q_h with the sign of the value;
        heads that are limited start with successive blocks of coordinates.
    seed: of the start.
    include_query: the token (query, 0) is in every softmax.
    skip: a parameter `skip` (dim,), the path skip.query to the prediction; 0 at the start.
    feature_values: a parameter `u` (heads, dim), the values being v_h y_i + u_h.x_i; 0 at the start.

    Forward: X (B, n, dim), y (B, n), query (B, dim) -> (B,). Errors: `InvalidInput`.

    >>> model = SoftmaxAttention(dim=3, heads=2)
    >>> model(torch.zeros(4, 6, 3).double(), torch.ones(4, 6).double(), torch.ones(4, 3).double())
    tensor([0., 0., 0., 0.], dtype=torch.float64, grad_fn=...)
    >>> model = SoftmaxAttention(dim=6, heads=2, head_width=2)
    >>> model.K.shape, np.linalg.matrix_rank(model.score_matrices())
    (torch.Size([2, 2, 6]), array([2, 2]))
    """

    A: nn.Parameter
    v: nn.Parameter
    k: nn.Parameter
    K: nn.Parameter
    Q: nn.Parameter
    V: nn.Parameter
    skip: nn.Parameter | None
    u: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        *,
        merged: bool | None = None,
        head_width: int | None = None,
        scores: str = "matrix",
        values: str = "opposite",
        value_size: float = _VALUE,
        score_std: float = 0.1,
        seed: int = 0,
        include_query: bool = False,
        skip: bool = False,
        feature_values: bool = False,
    ) -> None:
        super().__init__()
        for name, word, allowed in (("scores", scores, _SCORES), ("values", values, _STARTS)):
            if word not in allowed:
                raise InvalidInput(f"{name} = {word!r} is not one of {', '.join(allowed)}.")
        self.dim, self.heads = count(dim, "dim"), count(heads, "heads")
        self.head_width = None if head_width is None else count(head_width, "head_width")
        self.merged = head_width is None if merged is None else bool(merged)
        self.scores, self.include_query = scores, bool(include_query)
        if self.merged and head_width is not None:
            raise InvalidInput(
                "head_width limits the keys and queries of a layer with merged=False; leave merged "
                "out."
            )
        if scores == "scalar" and not self.merged:
            raise InvalidInput(
                "scalar scores k_h I have no keys and queries; leave merged and head_width out."
            )
        generator, score_std = generator_of(seed), spread(score_std, "score_std")
        weights = spread(value_size, "value_size"), values
        for name, start in self._start(weights, score_std, generator).items():
            self.register_parameter(name, nn.Parameter(start))
        zeros = {"skip": (self.dim,), "u": (self.heads, self.dim)}
        for name, wanted in (("skip", skip), ("u", feature_values)):
            start = nn.Parameter(torch.zeros(zeros[name], dtype=torch.float64)) if wanted else None
            self.register_parameter(name, start)

    def _start(
        self, weights: tuple[float, str], score_std: float, generator: torch.Generator
    ) -> dict[str, torch.Tensor]:
        """Scores and values before training, by the names of their parameters."""
        heads, dim = self.heads, self.dim
        if self.scores == "scalar":
            start = {"k": score_std * normal((heads,), generator)}
        elif self.merged:
            start = {"A": score_std * normal((heads, dim, dim), generator)}
        else:
            width = self.head_width or dim
            start = {name: score_std * normal((heads, width, dim), generator) for name in "KQ"}
        values = _start_values(heads, *weights, generator)
        if self.merged:
            return {**start, "v": values}
        block = torch.arange(heads * width).reshape(heads, width) % dim
        centre = score_std**0.5 * torch.eye(dim, dtype=torch.float64)[block]
        start["K"] += centre
        start["Q"] += values.sign()[:, None, None] * centre
        return {**start, "V": values}

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that determine the shapes."""
        limits: dict[str, Any] = {}
        if self.head_width is not None:
            limits["head_width"] = self.head_width
        if self.scores != "matrix":
            limits["scores"] = self.scores
        shape = {"dim": self.dim, "heads": self.heads, "merged": self.merged}
        return {**shape, **limits, **self._options()}

    def _options(self) -> dict[str, Any]:
        """The options in use, as arguments."""
        used = {
            "include_query": self.include_query,
            "skip": self.skip is not None,
            "feature_values": self.u is not None,
        }
        return {name: True for name, value in used.items() if value}

    @property
    def attention(self) -> icl.SoftmaxAttention:
        """The specification whose optimum this model is held against, its scores not limited."""
        return icl.SoftmaxAttention(heads=self.heads, **self._options())

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A_h (heads, dim, dim) and v_h (heads,) as functions of the parameters."""
        if self.scores == "scalar":
            return self.k[:, None, None] * torch.eye(self.dim).to(self.k), self.v
        if self.merged:
            return self.A, self.v
        return self.Q.transpose(1, 2) @ self.K, self.V

    def forward(self, X: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        weights, rest = self.label_weights(X, query)
        return (weights * y).sum(-1) + rest

    def label_weights(
        self, X: torch.Tensor, query: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """W (B, n) and c (B,) of the prediction sum_i W_i y_i + c, which is affine in the labels."""
        matrices, values = self.tensors()
        tokens = torch.cat([X, query[:, None]], dim=1) if self.include_query else X
        scores = torch.einsum("bi,hij->bhj", query, matrices) @ tokens.transpose(1, 2)
        weights = torch.softmax(scores, dim=-1)
        rest = torch.zeros_like(query[:, 0]) if self.skip is None else query @ self.skip
        if self.u is not None:
            rest = rest + torch.einsum("bhi,hi->b", weights @ tokens, self.u)
        return torch.einsum("bhn,h->bn", weights[:, :, : X.shape[1]], values), rest

    def score_matrices(self) -> np.ndarray:
        """A_h, (heads, dim, dim)."""
        return self.tensors()[0].numpy(force=True).copy()

    def values(self) -> np.ndarray:
        """v_h, (heads,)."""
        return self.tensors()[1].numpy(force=True).copy()

    def specification(self) -> icl.SoftmaxAttention:
        """The layer as it stands, as a specification with explicit scores and values."""
        return icl.SoftmaxAttention(
            scores=list(self.score_matrices()),
            values=list(self.values()),
            include_query=self.include_query,
            skip=False if self.skip is None else self.skip.numpy(force=True),
            feature_values=False if self.u is None else list(self.u.numpy(force=True)),
        )

    def learned(self, task: icl.LinearRegression) -> Learned:
        """Score scales, values and their sums, for the feature covariance of `task`."""
        arrays = task_arrays(task, SCENARIOS)
        if arrays.dim != self.dim:
            raise InvalidInput(f"the task has dim = {arrays.dim}, the model {self.dim}.")
        products = self.score_matrices() @ arrays.feature_cov
        scales = np.trace(products, axis1=1, axis2=2) / self.dim
        rest = products - scales[:, None, None] * np.eye(self.dim)
        off = np.linalg.norm(rest, axis=(1, 2)) / np.linalg.norm(products, axis=(1, 2))
        values = self.values()
        return Learned(scales, values, off, float(values.sum()), float(values @ scales))


class LinearAttention(Configured):
    """Linear attention (1/n) sum_i y_i x_q' A x_i with a full matrix `A` (dim, dim).

    `centered=True` subtracts the prompt means of x and y and divides by n - 1 (needs n >= 2).
    score_std: standard deviation of the entries that `A` starts with.

    >>> LinearAttention(dim=2).config
    {'dim': 2, 'centered': False}
    """

    def __init__(
        self, dim: int, *, centered: bool = False, score_std: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        self.dim, self.centered = count(dim, "dim"), bool(centered)
        generator, score_std = generator_of(seed), spread(score_std, "score_std")
        self.A = nn.Parameter(score_std * normal((self.dim, self.dim), generator))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that determine the layer."""
        return {"dim": self.dim, "centered": self.centered}

    @property
    def attention(self) -> icl.LinearAttention:
        """The specification whose optimum this model is held against."""
        return icl.LinearAttention(centered=self.centered)

    def forward(self, X: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        return (self.label_weights(X, query)[0] * y).sum(-1)

    def label_weights(
        self, X: torch.Tensor, query: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """W (B, n) of the prediction sum_i W_i y_i, and zeros (B,)."""
        count = X.shape[1]
        if self.centered:
            if count < 2:
                raise InvalidInput("centred linear attention needs prompts of at least 2 examples.")
            X, count = X - X.mean(1, keepdim=True), count - 1
        weights = (X @ (query @ self.A)[:, :, None])[:, :, 0] / count
        return weights, torch.zeros_like(query[:, 0])


def count(value: Any, name: str) -> int:
    """A positive integer argument."""
    return integer(value, name)


def generator_of(seed: Any) -> torch.Generator:
    """The generator of a start; a seed is an integer of at least 0."""
    return torch.Generator().manual_seed(integer(seed, "seed", 0))


def spread(value: Any, name: str) -> float:
    """A positive number argument."""
    return positive(value, name, "0.1")


def normal(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Standard normal float64 entries."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _start_values(heads: int, size: float, start: str, generator: torch.Generator) -> torch.Tensor:
    values = torch.full((heads,), size, dtype=torch.float64)
    if start == "opposite":
        values[1::2] *= -1
    elif start == "random":
        values *= torch.randint(0, 2, (heads,), generator=generator).double() * 2 - 1
    return values
