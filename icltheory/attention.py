"""Attention layers as specifications: softmax heads, and linear attention plain and centred.

Softmax head h scores token i with x_q' A_h x_i and reads the labels with weight v_h:

    f = sum_h v_h sum_i softmax_i(x_q' A_h x_i) y_i.

The query token is outside the softmax and nothing is divided by sqrt(d). Linear attention reads
f = (a/n) sum_i y_i x_i' Sigma^{-1} x_q; the centred form subtracts the means of x and y over the
prompt and divides by n - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from inspect import signature
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.matrices import Square
from icltheory.task import LinearRegression


@dataclass(frozen=True, init=False)
class SoftmaxAttention:
    """One layer of softmax attention with any number of heads.

    Parameters
    ----------
    heads: number of heads; taken from `scores` when these are given, else 1.
    scores: one entry a head. A number k_h means A_h = k_h Sigma^{-1} (a *scalar head*, in whitened
        coordinates k_h times the identity); a d x d matrix is A_h itself.
    values: value weights v_h, one a head; only together with `scores`.

    >>> SoftmaxAttention(heads=2)
    SoftmaxAttention(heads=2)
    >>> SoftmaxAttention(scores=[0.5, -0.5], values=[1, -1])
    SoftmaxAttention(heads=2, scores=(1/2, -1/2), values=(1, -1))
    """

    heads: int
    scores: tuple[Any, ...] | None
    values: tuple[sp.Expr, ...] | None

    def __init__(
        self,
        heads: Any = None,
        *,
        scores: Sequence[Any] | None = None,
        values: Sequence[Any] | None = None,
    ) -> None:
        given, weights = _sequence(scores, "scores"), _sequence(values, "values")
        if heads is None:
            heads = 1 if given is None else len(given)
        count = checks.positive_integer(heads, "heads", "heads=2")
        if not count.is_Integer:
            raise InvalidInput(
                f"heads = {heads} is symbolic; the number of heads must be an integer."
            )
        if given is not None and len(given) != count:
            raise InvalidInput(f"{len(given)} scores for {count} heads; give one score a head.")
        if weights is not None and given is None:
            raise InvalidInput("values without scores say nothing about the layer; give both.")
        if weights is not None and len(weights) != count:
            raise InvalidInput(f"{len(weights)} values for {count} heads; give one value a head.")
        object.__setattr__(self, "heads", int(count))
        object.__setattr__(
            self,
            "scores",
            None if given is None else tuple(_score(s, h) for h, s in enumerate(given)),
        )
        object.__setattr__(
            self,
            "values",
            None
            if weights is None
            else tuple(checks.scalar(w, f"values[{h}]") for h, w in enumerate(weights)),
        )

    @property
    def description(self) -> str:
        """The layer in words."""
        return "one softmax head" if self.heads == 1 else f"{self.heads} softmax heads"

    @property
    def has_scalar_scores(self) -> bool:
        """True if scores are given and every head is a scalar head."""
        return self.scores is not None and not any(
            isinstance(s, sp.MatrixBase) for s in self.scores
        )

    def score_matrices(self, task: LinearRegression) -> tuple[Square, ...]:
        """The matrices A_h in the coordinates of the task's features."""
        if self.scores is None:
            raise InvalidInput(
                "this attention has no scores; give SoftmaxAttention(scores=..., values=...)."
            )
        inverse = task.feature_cov.inverse()
        return tuple(
            Square.coerce(s, task.dim, f"scores[{h}]")
            if isinstance(s, sp.MatrixBase)
            else inverse * s
            for h, s in enumerate(self.scores)
        )

    def __repr__(self) -> str:
        parts = [f"heads={self.heads}"]
        if self.scores is not None:
            shown = ", ".join(
                str(s.tolist()) if isinstance(s, sp.MatrixBase) else str(s) for s in self.scores
            )
            parts.append(f"scores=({shown}{',' if self.heads == 1 else ''})")
        if self.values is not None:
            parts.append(f"values={self.values}")
        return f"SoftmaxAttention({', '.join(parts)})"


@dataclass(frozen=True)
class LinearAttention:
    """Linear attention, divided by the prompt length; `centered=True` subtracts the prompt means.

    >>> LinearAttention()
    LinearAttention(centered=False)
    """

    centered: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.centered, bool):
            raise InvalidInput(f"centered = {self.centered!r} must be True or False.")

    @property
    def description(self) -> str:
        """The layer in words."""
        return "centred linear attention" if self.centered else "linear attention"


Attention = SoftmaxAttention | LinearAttention

_EXAMPLES = {
    "task": (LinearRegression, "icl.LinearRegression(dim=5)"),
    "attention": (Attention, "icl.SoftmaxAttention(heads=1) or icl.LinearAttention()"),
}


def on_specifications(function: Callable[..., Any]) -> Any:
    """A cached function of a task, or of a task and an attention, which refuses anything else."""
    cached = lru_cache(maxsize=512)(function)
    bind = signature(function).bind

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = bind(*args, **kwargs).arguments
        for name, value in given.items():
            kind, example = _EXAMPLES[name]
            if not isinstance(value, kind):
                raise InvalidInput(f"{name} has type {type(value).__name__}; pass {example}.")
        return cached(*given.values())

    checked.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
    return checked


def _sequence(value: Any, name: str) -> list[Any] | None:
    if value is None:
        return None
    value = checks.plain(value)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence):
        raise InvalidInput(f"{name} must be a sequence with one entry a head, got {value!r}.")
    return list(value)


def _score(value: Any, head: int) -> Any:
    value = checks.plain(value)
    if isinstance(value, (list, tuple, sp.MatrixBase)):
        return sp.ImmutableMatrix(checks.rows(value, f"scores[{head}]"))
    return checks.scalar(value, f"scores[{head}]")
