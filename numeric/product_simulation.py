"""Simulated attention layers on features with independent, identical coordinates, in any dimension.

Exported: `simulate_product_risk`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from icltheory.attention import Attention, LinearAttention, SoftmaxAttention
from icltheory.errors import InvalidInput
from icltheory.laws.tokens import TokenLaw
from icltheory.task import LinearRegression, refuse_options
from numeric.arrays import finite, task_arrays
from numeric.montecarlo import Estimate, Seed, single_length, stream
from numeric.product_features import Coordinate

Weigh = Callable[[np.ndarray], np.ndarray]


def simulate_product_risk(
    task: LinearRegression,
    features: TokenLaw,
    attention: Attention,
    prompt_length: int,
    *,
    value_scale: float | None = None,
    prompts: int = 100_000,
    seed: Seed = 0,
) -> Estimate:
    """Sampled risk of scalar softmax heads, or of linear attention, on product features; any d.

    Features and query are drawn; coefficients and label noise are averaged exactly.

    Parameters
    ----------
    attention: `SoftmaxAttention(scores=..., values=...)` with numbers k_h and v_h, or
        `LinearAttention(...)` with `value_scale` as in `icl.product_risk`.
    prompts, seed: as in `numeric.monte_carlo_risk`.

    Errors: `InvalidInput`.

    >>> import icltheory as icl
    >>> task, law = icl.LinearRegression(dim=3), icl.Rademacher(dim=1)
    >>> risk = simulate_product_risk(task, law, icl.LinearAttention(), 20, value_scale=1)
    >>> exact = float(icl.product_risk(task, law, icl.LinearAttention()).subs(n=20, v=1).expr)
    >>> exact, abs(risk.value - exact) < 5 * risk.standard_error
    (0.1, True)
    """
    arrays, head = task_arrays(task), Coordinate.of(task, features)
    n, dim, law, std = single_length(prompt_length), arrays.dim, head.law, head.std
    weigh = _weights(attention, n, value_scale)

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        tokens = law.sample(rng, size * (n + 1) * dim).reshape(size, n + 1, dim) / std
        prompt, query = tokens[:, :n], tokens[:, n]
        weights = weigh(np.matmul(prompt, query[:, :, None])[:, :, 0])
        error = (query - np.matmul(weights[:, None], prompt)[:, 0]) * std
        bias = np.einsum("bi,bi->b", error @ arrays.coef_cov, error)
        return bias + arrays.noise_var * np.einsum("bi,bi->b", weights, weights)

    return stream(draw, (n + 1) * (2 * dim + 4), prompts=prompts, seed=seed)


def _weights(attention: Any, n: int, value_scale: float | None) -> Weigh:
    """The function from scores xi_q.xi_i (B, n) to the weights W_i (B, n) of the labels."""
    if isinstance(attention, LinearAttention):
        if value_scale is None:
            raise InvalidInput("value_scale missing: pass value_scale=a of linear attention.")
        if attention.centered and n < 2:
            raise InvalidInput("prompt_length = 1: the centred layer needs n >= 2.")
        scale = float(finite(value_scale, "value_scale"))
        if attention.centered:
            return lambda s: scale / (n - 1) * (s - s.mean(axis=1, keepdims=True))
        return lambda s: scale / n * s
    if (
        not isinstance(attention, SoftmaxAttention)
        or not attention.has_scalar_scores
        or attention.values is None
        or value_scale is not None
    ):
        raise InvalidInput(
            "pass icl.SoftmaxAttention(scores=..., values=...) with numbers, without value_scale, or "
            "icl.LinearAttention()."
        )
    refuse_options(attention.options)
    assert attention.scores is not None
    if any(x.free_symbols for x in (*attention.scores, *attention.values)):
        raise InvalidInput("the heads still contain symbols; numbers are needed here.")
    heads = [(float(k), float(v)) for k, v in zip(attention.scores, attention.values, strict=True)]
    total = math.fsum(v for _, v in heads)

    def weigh(scores: np.ndarray) -> np.ndarray:
        out = np.full(scores.shape, total / n)
        for k, v in heads:
            # w_i - 1/n from expm1: small opposite heads do not cancel.
            e = k * scores
            e = np.expm1(e - e.max(axis=1, keepdims=True))
            mean = e.mean(axis=1, keepdims=True)
            out += v / (n * (1 + mean)) * (e - mean)
        return out

    return weigh
