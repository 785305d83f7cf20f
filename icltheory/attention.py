"""Attention layers as specifications: softmax heads, and linear attention plain and centred.

Softmax head h scores token i with x_q' A_h x_i and reads the labels with weight v_h:

    f = sum_h v_h sum_i softmax_i(x_q' A_h x_i) y_i.

The query token is outside the softmax and nothing is divided by sqrt(d). Options put the query
token in (its label slot is 0), let the values read features, v_h y_i + u_h.x_i, and add a skip path
theta_s.x_q to the prediction. Linear attention reads f = (a/n) sum_i y_i x_i' Sigma^{-1} x_q; the
centred form subtracts the means of x and y over the prompt and divides by n - 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial, wraps
from inspect import signature
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.matrices import Square
from icltheory.task import LinearRegression, refuse_options


@dataclass(frozen=True, init=False)
class SoftmaxAttention:
    """One layer of softmax attention with any number of heads.

    Parameters
    ----------
    heads: number of heads; taken from `scores` when these are given, else 1.
    scores: one entry a head. A number k_h means A_h = k_h Sigma^{-1} (a *scalar head*, in whitened
        coordinates k_h times the identity); a d x d matrix is A_h itself.
    values: value weights v_h, one a head; only together with `scores`.
    include_query: True puts the token (x_q, 0) into every softmax.
    skip: True has a path theta_s.x_q from the query to the prediction, theta_s free to choose; d
        numbers are theta_s itself (only together with `scores`).
    feature_values: True lets head h read v_h y_i + u_h.x_i, u_h free to choose; one vector of d
        numbers a head gives the u_h (only together with `values`).

    >>> SoftmaxAttention(heads=2)
    SoftmaxAttention(heads=2)
    >>> SoftmaxAttention(scores=[0.5, -0.5], values=[1, -1])
    SoftmaxAttention(heads=2, scores=(1/2, -1/2), values=(1, -1))
    """

    heads: int
    scores: tuple[Any, ...] | None
    values: tuple[sp.Expr, ...] | None
    include_query: bool
    skip: bool | tuple[sp.Expr, ...]
    feature_values: bool | tuple[tuple[sp.Expr, ...], ...]

    def __init__(
        self,
        heads: Any = None,
        *,
        scores: Sequence[Any] | None = None,
        values: Sequence[Any] | None = None,
        include_query: bool = False,
        skip: Any = False,
        feature_values: Any = False,
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
        if not isinstance(include_query, bool):
            raise InvalidInput(f"include_query = {include_query!r} must be True or False.")
        path = skip if isinstance(skip, bool) else _vector(skip, "skip")
        if not isinstance(path, bool) and given is None:
            raise InvalidInput("skip is explicit but no scores are given; pass skip=True.")
        readers: bool | tuple[tuple[sp.Expr, ...], ...]
        if isinstance(feature_values, bool):
            readers = feature_values
        else:
            listed = _sequence(feature_values, "feature_values") or []
            if weights is None or len(listed) != count:
                raise InvalidInput(
                    f"feature_values has {len(listed)} vectors for {count} heads"
                    f"{' without values' if weights is None else ''}; give one vector u_h a head, "
                    f"together with scores and values, or True."
                )
            readers = tuple(_vector(u, f"feature_values[{h}]") for h, u in enumerate(listed))
        object.__setattr__(self, "include_query", include_query)
        object.__setattr__(self, "skip", path)
        object.__setattr__(self, "feature_values", readers)

    @property
    def options(self) -> tuple[str, ...]:
        """The options that are in use, of "include_query", "skip" and "feature_values"."""
        names = ("include_query", "skip", "feature_values")
        return tuple(name for name in names if getattr(self, name) is not False)

    @property
    def description(self) -> str:
        """The layer in words."""
        words = "one softmax head" if self.heads == 1 else f"{self.heads} softmax heads"
        extra = [_WORDS[name] for name in self.options]
        return f"{words} with {' and '.join(extra)}" if extra else words

    @property
    def has_scalar_scores(self) -> bool:
        """True if scores are given and every head is a scalar head."""
        return self.scores is not None and not any(
            isinstance(s, sp.MatrixBase) for s in self.scores
        )

    def without_scores(self) -> SoftmaxAttention:
        """The layer of as many heads with the same options, everything else free."""
        return SoftmaxAttention(
            heads=self.heads,
            include_query=self.include_query,
            skip=self.skip is not False,
            feature_values=self.feature_values is not False,
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

    def vectors(
        self, task: LinearRegression
    ) -> tuple[tuple[sp.Expr, ...] | None, tuple[tuple[sp.Expr, ...], ...] | None]:
        """The skip path theta_s and the feature values u_h as numbers, None where there are none.

        `InvalidInput` if they are free, or have another length than the task's features.
        """
        skip, readers = self.skip, self.feature_values
        if skip is True or readers is True:
            name = "skip" if skip is True else "feature_values"
            raise InvalidInput(
                f"{name} = True is free to choose; give its numbers, as scores and values are given."
            )
        given = ([skip] if skip else []) + list(readers or ())
        bad = {len(u) for u in given} - {task.dim}
        if bad:
            raise InvalidInput(
                f"skip and feature_values have vectors of length {bad.pop()}; the task has "
                f"dim = {task.dim}."
            )
        return skip or None, readers or None

    def __repr__(self) -> str:
        parts = [f"heads={self.heads}"]
        if self.scores is not None:
            shown = ", ".join(
                str(s.tolist()) if isinstance(s, sp.MatrixBase) else str(s) for s in self.scores
            )
            parts.append(f"scores=({shown}{',' if self.heads == 1 else ''})")
        if self.values is not None:
            parts.append(f"values={self.values}")
        parts += [f"{name}={getattr(self, name)}" for name in self.options]
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

    @property
    def options(self) -> tuple[str, ...]:
        """No options of softmax heads."""
        return ()


Attention = SoftmaxAttention | LinearAttention

# Every option of tasks and attention, for functions that support them all.
OPTIONS = ("coef_mean", "local", "include_query", "skip", "feature_values")
_WORDS = {
    "include_query": "the query token inside",
    "skip": "a skip path",
    "feature_values": "values that read features",
}
_EXAMPLES = {
    "task": (LinearRegression, "icl.LinearRegression(dim=5)"),
    "attention": (Attention, "icl.SoftmaxAttention(heads=1) or icl.LinearAttention()"),
}


def on_specifications(
    function: Callable[..., Any] | None = None, *, supports: Iterable[str] = ()
) -> Any:
    """A cached function of a task, or of a task and an attention, which refuses anything else.

    Options of task and attention that are not among `supports` are refused with a reason.
    """
    if function is None:
        return partial(on_specifications, supports=supports)
    supported = frozenset(supports)
    cached = lru_cache(maxsize=512)(function)
    bind = signature(function).bind

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        try:
            given = bind(*args, **kwargs).arguments
        except TypeError:
            raise checks.wrong_call(function, args, kwargs) from None
        for name, value in given.items():
            kind, example = _EXAMPLES[name]
            if not isinstance(value, kind):
                raise InvalidInput(f"{name} has type {type(value).__name__}; pass {example}.")
            used = value.scenario if isinstance(value, LinearRegression) else value.options
            refuse_options(used, supported)
        return cached(*given.values())

    checked.cache_clear = cached.cache_clear  # type: ignore[attr-defined]
    checked.supports = supported  # type: ignore[attr-defined]
    return checked


def _vector(value: Any, name: str) -> tuple[sp.Expr, ...]:
    value = checks.plain(value)
    if isinstance(value, sp.MatrixBase):
        value = list(value)
    entries = _sequence(value, name) or []
    return tuple(checks.scalar(x, f"{name}[{i}]") for i, x in enumerate(entries))


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
