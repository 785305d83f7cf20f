"""Prompts of a task, and the squared error of attention layers on them: one draw a prompt.

Two samplers exist on purpose: "plain" draws whole prompts and evaluates the layer, the slow and
obvious oracle; "reduced" draws one score coordinate a token and averages everything else exactly
(derived here; the model is that of Cui et al., arXiv 2401.17426). `numeric.monte_carlo_risk` streams
them. Exported: `sample_prompts`, `sample_examples`, `prompt_floats`, `Heads`, `heads_of`, `linear_scale`,
`softmax_sampler`, `linear_sampler`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.attention import LinearAttention, SoftmaxAttention
from icltheory.errors import InvalidInput
from icltheory.task import LinearRegression
from numeric.arrays import TaskArrays, finite, matrix_array

Sampler = Callable[[np.random.Generator, int], np.ndarray]


def sample_prompts(
    arrays: TaskArrays,
    prompt_length: int,
    size: int,
    rng: np.random.Generator,
    coordinates: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`size` fresh prompts: X (B, n, d), y (B, n), query (B, d), and theta.x_q (B,).

    Coefficients are Gaussian with covariance M around the task's `coef_mean`; the features of
    local examples are drawn around the query. Only the first `coordinates` of X and query are not
    zero (`None`: all).

    >>> import icltheory as icl
    >>> from numeric.arrays import task_arrays
    >>> arrays = task_arrays(icl.LinearRegression(dim=2))
    >>> [a.shape for a in sample_prompts(arrays, 4, 3, np.random.default_rng(0))]
    [(3, 4, 2), (3, 4), (3, 2), (3,)]
    """
    features, labels, query, theta = sample_examples(arrays, prompt_length, size, rng, coordinates)
    return features, labels, query, np.einsum("bj,bj->b", theta, query)


def sample_examples(
    arrays: TaskArrays,
    prompt_length: int,
    size: int,
    rng: np.random.Generator,
    coordinates: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The prompts of `sample_prompts` with the coefficients theta (B, d) in place of theta.x_q."""
    n, d = prompt_length, arrays.dim
    features = rng.standard_normal((size, n, d)) @ arrays.feature_root
    query = rng.standard_normal((size, d)) @ arrays.feature_root
    theta = rng.standard_normal((size, d)) @ arrays.coef_root
    if arrays.task.coef_mean is not None:
        theta += arrays.coef_mean
    if arrays.task.local is not None:
        rho, tau = arrays.local
        features *= tau
        features += rho * query[:, None, :]
    if coordinates is not None:
        features[..., coordinates:] = query[..., coordinates:] = 0.0
    labels = np.matmul(features, theta[:, :, None])[:, :, 0]
    labels += math.sqrt(arrays.noise_var) * rng.standard_normal((size, n))
    return features, labels, query, theta


def prompt_floats(arrays: TaskArrays, prompt_length: int) -> int:
    """Float64 values that one prompt of `sample_prompts` and its evaluation occupy at once."""
    return prompt_length * (2 * arrays.dim + 4)


# -- the heads -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Heads:
    """Heads with numbers everywhere; `scales` are the k_h of scalar heads, else None.

    `skip` is theta_s (d,) and `readers` are the u_h (H, d), None where the layer has none.
    """

    matrices: list[np.ndarray]
    values: list[float]
    scales: list[float] | None
    include_query: bool = False
    skip: np.ndarray | None = None
    readers: np.ndarray | None = None


def heads_of(task: LinearRegression, attention: Any, score_scale: Any, value_scale: Any) -> Heads:
    """The numbers of a softmax layer; scales make the canonical heads of an attention without scores."""
    if not isinstance(attention, SoftmaxAttention):
        raise InvalidInput(
            f"attention has type {type(attention).__name__}; pass icl.SoftmaxAttention(...) or "
            f"icl.LinearAttention(...)."
        )
    if attention.scores is None:
        attention = _with_scales(attention, score_scale, value_scale)
    elif score_scale is not None or value_scale is not None:
        raise InvalidInput(
            "this attention has its own scores; score_scale and value_scale must stay None."
        )
    if attention.values is None:
        raise InvalidInput(
            "this attention has scores but no values; pass "
            "icl.SoftmaxAttention(scores=..., values=...)."
        )
    assert attention.scores is not None
    skip, readers = attention.vectors(task)
    entries = (
        *attention.scores,
        *attention.values,
        *(skip or ()),
        *(x for u in readers or () for x in u),
    )
    free = set().union(*(x.free_symbols for x in entries))
    if free:
        names = ", ".join(sorted(str(s) for s in free))
        raise InvalidInput(f"the heads still contain {names}; numbers are needed here.")
    return Heads(
        [matrix_array(a) for a in attention.score_matrices(task)],
        [float(v) for v in attention.values],
        [float(k) for k in attention.scores] if attention.has_scalar_scores else None,
        attention.include_query,
        None if skip is None else np.array([float(x) for x in skip]),
        None if readers is None else np.array([[float(x) for x in u] for u in readers]),
    )


def _with_scales(
    attention: SoftmaxAttention, score_scale: Any, value_scale: Any
) -> SoftmaxAttention:
    if attention.heads > 2:
        raise InvalidInput(
            f"{attention.heads} heads have no canonical family; pass "
            f"icl.SoftmaxAttention(scores=..., values=...)."
        )
    missing = [
        name
        for name, value in (("score_scale", score_scale), ("value_scale", value_scale))
        if value is None
    ]
    if missing:
        consistent = "1/k" if attention.heads == 1 else "1/(2k)"
        raise InvalidInput(
            f"{' and '.join(missing)} missing: pass score_scale=k and value_scale=v (consistent at "
            f"v = {consistent}), or icl.SoftmaxAttention(scores=..., values=...)."
        )
    k, v = number(score_scale, "score_scale"), number(value_scale, "value_scale")
    signs = [1] if attention.heads == 1 else [1, -1]
    return SoftmaxAttention(
        scores=[s * k for s in signs],
        values=[s * v for s in signs],
        include_query=attention.include_query,
        skip=attention.skip,
        feature_values=attention.feature_values,
    )


def linear_scale(attention: LinearAttention, n: int, score_scale: Any, value_scale: Any) -> float:
    """The scale a of a linear layer, from the arguments of a risk."""
    if score_scale is not None:
        raise InvalidInput("linear attention has no score_scale; pass value_scale=a only.")
    if value_scale is None:
        raise InvalidInput("value_scale missing: pass value_scale=a, f = (a/n) sum_i y_i x_i'x_q.")
    if attention.centered and n < 2:
        raise InvalidInput("prompt_length = 1: the centred layer divides by n - 1; pass n >= 2.")
    return number(value_scale, "value_scale")


def number(value: Any, name: str) -> float:
    """One finite number."""
    array = finite(value, name)
    if array.shape != ():
        raise InvalidInput(f"{name} has shape {array.shape}; pass one number.")
    return float(array)


# -- whole prompts ---------------------------------------------------------------------------------


def softmax_sampler(arrays: TaskArrays, n: int, heads: Heads, kind: str) -> Sampler:
    """Squared errors of softmax heads: "plain", or "reduced" to one coordinate a token."""
    return (_reduced_softmax if kind == "reduced" else _plain_softmax)(arrays, n, heads)


def linear_sampler(arrays: TaskArrays, n: int, centered: bool, scale: float, kind: str) -> Sampler:
    """Squared errors of linear attention: "plain", or "reduced" to two numbers a prompt."""
    make = _reduced_linear if kind == "reduced" else _plain_linear
    return make(arrays, n, centered, scale)


def _plain_softmax(arrays: TaskArrays, n: int, heads: Heads) -> Sampler:
    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        features, labels, query, target = sample_prompts(arrays, n, size, rng)
        if heads.include_query:
            features = np.concatenate([features, query[:, None, :]], axis=1)
            labels = np.concatenate([labels, np.zeros((size, 1))], axis=1)
        prediction = np.zeros(size) if heads.skip is None else query @ heads.skip
        for h, (a, v) in enumerate(zip(heads.matrices, heads.values, strict=True)):
            scores = np.matmul(features, (query @ a)[:, :, None])[:, :, 0]
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            prediction += v * (weights * labels).sum(axis=1)
            if heads.readers is not None:
                prediction += (weights * (features @ heads.readers[h])).sum(axis=1)
        return (prediction - target) ** 2

    return draw


def _plain_linear(arrays: TaskArrays, n: int, centered: bool, scale: float) -> Sampler:
    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        features, labels, query, target = sample_prompts(arrays, n, size, rng)
        whitened = np.linalg.solve(arrays.feature_cov, query.T).T
        scores = np.matmul(features, whitened[:, :, None])[:, :, 0]
        if centered:
            labels = labels - labels.mean(axis=1, keepdims=True)
            scores = scores - scores.mean(axis=1, keepdims=True)
        prediction = scale / (n - 1 if centered else n) * (labels * scores).sum(axis=1)
        return (prediction - target) ** 2

    return draw


# -- one coordinate a token ------------------------------------------------------------------------


def _reduced_softmax(arrays: TaskArrays, n: int, heads: Heads) -> Sampler:
    """Risk given |x_q| = r and the whitened scores z_i: all weights are functions of these.

    In whitened coordinates x_i = rho x_q + tau (z_i x_q/r + a part orthogonal to x_q, independent of
    the weights). The error in theta - theta_0 reads the weights W_i = sum_h v_h w_i^h; the error in
    theta_0 reads vectors sum_h b_h w_i^h, b_h = v_h theta_0 + u_h, here along their principal axes.
    """
    if heads.scales is None:
        raise InvalidInput(
            "sampler='reduced' needs scalar heads (a number k_h means A_h = k_h Sigma^{-1}); "
            "these are matrices. Pass sampler='plain'."
        )
    if heads.include_query and heads.readers is not None:
        raise InvalidInput(
            "sampler='reduced' has no values that read features with the query token inside; pass "
            "sampler='plain'."
        )
    scales, (rho, tau) = heads.scales, arrays.local
    spread, known = arrays.signal, []
    if heads.skip is not None or heads.readers is not None:
        spread = float(np.sum(arrays.feature_cov * arrays.coef_cov))
        known = _readings(arrays, heads)

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        radius = np.sqrt(rng.chisquare(arrays.dim, size))
        z = tokens = rng.standard_normal((size, n))
        if heads.include_query:  # one more token, with the scores k_h r^2 and the label 0
            tokens = np.concatenate([z, (radius / tau)[:, None]], axis=1)

        def error(values: Any, target: float) -> tuple[np.ndarray, np.ndarray]:
            weights = _weights(scales, values, tau * radius, tokens)[:, :n]
            along = radius * target - tau * np.einsum("bi,bi->b", weights, z)
            if rho:
                along -= rho * radius * weights.sum(axis=1)
            square = np.einsum("bi,bi->b", weights, weights)
            return along**2 / arrays.dim + (1 - 1 / arrays.dim) * tau**2 * square, square

        squared, square = error(heads.values, 1.0)
        risk = spread * squared + arrays.noise_var * square
        for values, target in known:
            risk += error(values, target)[0]
        return risk

    return draw


def _readings(arrays: TaskArrays, heads: Heads) -> list[tuple[np.ndarray, float]]:
    """The readings b_h and the target theta_0 - theta_s along orthonormal axes (whitened): pairs of
    the coordinates of all b_h, (H,), and that of the target."""
    readings = np.outer(heads.values, arrays.coef_mean)
    if heads.readers is not None:
        readings = readings + heads.readers
    target = arrays.coef_mean - (0 if heads.skip is None else heads.skip)
    readings, target = readings @ arrays.feature_root, target @ arrays.feature_root
    left, sizes, axes = np.linalg.svd(readings, full_matrices=False)
    used = sizes > 1e-14 * max(sizes.max(), 1e-300)
    out = [(left[:, j] * sizes[j], float(axes[j] @ target)) for j in np.flatnonzero(used)]
    rest = target - axes[used].T @ (axes[used] @ target)
    return [*out, (np.zeros(len(heads.values)), float(np.linalg.norm(rest)))]


def _weights(scales: list[float], values: Any, radius: np.ndarray, z: np.ndarray) -> np.ndarray:
    """sum_h v_h softmax(k_h radius z), shape (B, n)."""
    n = z.shape[1]
    weights = np.full(z.shape, math.fsum(values) / n)
    for k, v in zip(scales, values, strict=True):
        if v == 0:
            continue
        # w_i - 1/n = (e_i - mean e) / (n (1 + mean e)) with e_i = expm1(s_i - c) for any c: no
        # cancellation between small opposite scores; c = max s_i, so nothing overflows.
        e = (k * radius)[:, None] * z
        e -= e.max(axis=1, keepdims=True)
        np.expm1(e, out=e)
        mean = e.mean(axis=1, keepdims=True)
        e -= mean
        e *= v / (n * (1 + mean))
        weights += e
    return weights


def _reduced_linear(arrays: TaskArrays, n: int, centered: bool, scale: float) -> Sampler:
    """W_i = a x_q.x_i / n (whitened), x_i = rho x_q + tau z_i along x_q: sum z_i^2 is all that
    matters, and for rho != 0 the mean of the z_i; centring leaves n - 1 of the n squares."""
    rho, tau = arrays.local
    split = rho != 0 and not centered
    count = n - 1 if centered or split else n

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        radius = np.sqrt(rng.chisquare(arrays.dim, size))
        squares = rng.chisquare(count, size) if count else np.zeros(size)
        step = scale * tau * radius / (n - 1 if centered else n)
        total, read, square = 0.0, step * squares, step**2 * squares
        if split:
            mean = rng.standard_normal(size) / math.sqrt(n)
            weight = scale * radius / n * (rho * radius + tau * mean)  # the mean of the weights
            total = n * weight
            read, square = read + n * weight * mean, square + n * weight**2
        along = radius * (1 - rho * total) - tau * read
        error = along**2 / arrays.dim + (1 - 1 / arrays.dim) * tau**2 * square
        return arrays.signal * error + arrays.noise_var * square

    return draw
