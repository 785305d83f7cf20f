"""Attention over joint tokens (x_i, y_i), with every block that the prediction depends on.

The layer of Boursier & Boyer (arXiv 2512.11784): prompt tokens z_i = (x_i, y_i), query token
(x_q, 0), score z_i' U (x_q, 0), and the last coordinate of the output is the prediction. Only the
first d columns [A; u'] of U and the last row (v', b) of V matter:

    score_i = x_i' A x_q + y_i u'x_q,    prediction = sum_i p_i (v'x_i + b y_i),

with p = softmax(score), or score / n for linear attention. These are the blocks of
`icltheory.infinite_prompt_risk`. (A here is the transpose of the A_h of `SoftmaxAttention`.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

import icltheory as icl
from icltheory.errors import InvalidInput
from numeric.arrays import finite
from numeric.finite.models import Configured, count, generator_of, normal, spread

_KINDS = ("softmax", "linear")
_STARTS = ("balanced", "random_psd", "small")


class TokenAttention(Configured):
    """One attention head over joint tokens, with the blocks A, u, v, b.

    Parameters
    ----------
    dim: feature dimension d.
    kind: "softmax" or "linear" (scores divided by n in place of the softmax).
    merged: True has parameters `A` (d, d), `u` (d,), `v` (d,), `b` (); False has keys `K` and
        queries `Q` (d, d), (d, d), key weight of the label `key_label` (d,), and `v`, `b`, with
        A = K'Q and u = Q'key_label.
    start: "random_psd" is the initialisation of the paper, A = scale P with a random positive
        semi-definite P of Frobenius norm 1, b = scale, u = v = 0; "balanced" has P = I/sqrt(d);
        "small" draws every block from N(0, scale^2). Not merged, K = Q = (scale P)^{1/2}, or every
        entry of K, Q, key_label is N(0, scale).
    scale: the alpha of the paper.
    seed: of the start.

    Forward: X (B, n, dim), y (B, n), query (B, dim) -> (B,). Errors: `InvalidInput`.

    >>> model = TokenAttention(dim=4, start="balanced", scale=0.3)
    >>> {name: block.shape for name, block in model.blocks().items()}
    {'A': (4, 4), 'u': (4,), 'v': (4,), 'b': ()}
    >>> round(float(model.blocks()["A"][0, 0]), 12), float(model.blocks()["b"])
    (0.15, 0.3)
    """

    A: nn.Parameter
    u: nn.Parameter
    v: nn.Parameter
    b: nn.Parameter
    K: nn.Parameter
    Q: nn.Parameter
    key_label: nn.Parameter

    def __init__(
        self,
        dim: int,
        kind: str = "softmax",
        *,
        merged: bool = True,
        start: str = "random_psd",
        scale: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if kind not in _KINDS:
            raise InvalidInput(f"kind = {kind!r} is not one of {', '.join(_KINDS)}.")
        if start not in _STARTS:
            raise InvalidInput(f"start = {start!r} is not one of {', '.join(_STARTS)}.")
        size = spread(scale, "scale")
        self.dim, self.kind, self.merged = count(dim, "dim"), kind, bool(merged)
        blocks = _start(self.dim, start, size, generator_of(seed), self.merged)
        for name, value in blocks.items():
            setattr(self, name, nn.Parameter(value))

    @classmethod
    def from_blocks(
        cls, A: Any, b: Any, u: Any = None, v: Any = None, *, kind: str = "softmax"
    ) -> TokenAttention:
        """A merged layer with these blocks: A (d, d), b a number, u and v (d,) or zero.

        >>> TokenAttention.from_blocks([[0.5, 0], [0, 0.5]], 2.0).blocks()["b"]
        array(2.)
        """
        matrix = finite(A, "A")
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InvalidInput(f"A has shape {matrix.shape}; pass a d x d matrix.")
        model = cls(len(matrix), kind)
        values = {"A": matrix, "b": finite(b, "b")}
        for name, vector in (("u", u), ("v", v)):
            values[name] = np.zeros(len(matrix)) if vector is None else finite(vector, name)
        with torch.no_grad():
            for name, value in values.items():
                parameter = getattr(model, name)
                if parameter.shape != value.shape:
                    raise InvalidInput(
                        f"{name} has shape {value.shape}; it must be {tuple(parameter.shape)}."
                    )
                parameter.copy_(torch.from_numpy(value))
        return model

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that determine the layer."""
        return {"dim": self.dim, "kind": self.kind, "merged": self.merged}

    @property
    def attention(self) -> icl.SoftmaxAttention | icl.LinearAttention:
        """The specification whose optimum this model is held against."""
        return icl.SoftmaxAttention(heads=1) if self.kind == "softmax" else icl.LinearAttention()

    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The blocks A, u, v, b as functions of the parameters."""
        if self.merged:
            return self.A, self.u, self.v, self.b
        return self.K.T @ self.Q, self.Q.T @ self.key_label, self.v, self.b

    def forward(self, X: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        A, u, v, b = self.tensors()
        scores = (X @ (query @ A.T)[:, :, None])[:, :, 0] + y * (query @ u)[:, None]
        weights = torch.softmax(scores, -1) if self.kind == "softmax" else scores / X.shape[1]
        return (weights * (X @ v + b * y)).sum(-1)

    def blocks(self) -> dict[str, np.ndarray]:
        """The blocks A (d, d), u (d,), v (d,), b () as arrays, merged or not."""
        names = ("A", "u", "v", "b")
        return {
            name: value.numpy(force=True).copy()
            for name, value in zip(names, self.tensors(), strict=True)
        }


def _start(
    dim: int, start: str, scale: float, generator: torch.Generator, merged: bool
) -> dict[str, torch.Tensor]:
    zero = torch.zeros(dim, dtype=torch.float64)
    if start == "small":
        size = scale if merged else math.sqrt(scale)
        shapes = {"A": (dim, dim), "u": (dim,)}
        if not merged:
            shapes = {"K": (dim, dim), "Q": (dim, dim), "key_label": (dim,)}
        blocks = {name: size * normal(shape, generator) for name, shape in shapes.items()}
        return {
            **blocks,
            "v": scale * normal((dim,), generator),
            "b": scale * normal((), generator),
        }
    root = torch.eye(dim, dtype=torch.float64)
    if start == "random_psd":
        root = normal((dim, dim), generator)
    product = root @ root.T
    product = scale * product / torch.linalg.matrix_norm(product)
    b = torch.tensor(scale, dtype=torch.float64)
    if merged:
        return {"A": product, "u": zero, "v": zero.clone(), "b": b}
    values, vectors = torch.linalg.eigh(product)
    half = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return {"K": half, "Q": half.clone(), "key_label": zero, "v": zero.clone(), "b": b}
