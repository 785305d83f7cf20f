"""The weights that a model's predictions amount to: a linear fit of its answers to fresh queries.

Any model of regression prompts becomes a vector a prompt and prefix, with two checks: is it linear in
the query, and does it stay in the span of the examples, as every spectral solver from 0 does?
Source: derived here. Exported: `induced_weights`, `fit_weights`, `off_span`, `InducedWeights`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from numeric.arrays import finite, integer
from numeric.decoding_display import Shown
from numeric.eigenbasis import checked_prompts, prompt_spectra
from numeric.montecarlo import Seed, seed_sequence
from numeric.validate import Model, array_caller

_BATCH = 2**22  # floats of prompts that a model gets at once


@dataclass(frozen=True, repr=False)
class InducedWeights(Shown):
    """Weights of a model on every prefix, and how far it deserves them.

    weights: (B, P, d). r_squared: share of the held-out answers' size that the fit explains,
    pooled over prompts, (P,); 1 is linear in the query. off_span: |P w|^2 / |w|^2 with P the
    projector off the span of the examples, (B, P); 0 for n >= d. prefixes: (P,).
    """

    weights: np.ndarray
    r_squared: np.ndarray
    off_span: np.ndarray
    prefixes: np.ndarray


def induced_weights(
    model: Model,
    X: Any,
    y: Any,
    prefixes: Any = None,
    *,
    queries: int | None = None,
    cov: Any = None,
    seed: Seed = 0,
) -> InducedWeights:
    """Fit weights to the answers of a model to fresh queries after every prefix.

    Parameters
    ----------
    model: callable (X (M, n, d), y (M, n), query (M, d)) -> prediction (M,), as in
        `numeric.validate`. It is called with every prompt repeated for its queries.
    X: features (B, N, d). y: labels (B, N). prefixes: n from 0 to N; `None` is 1, ..., N.
    queries: number of queries of the fit, at least 5 d, which is the default; 2 d more are held out.
    cov: covariance of the queries, (d, d) or (B, d, d); `None` is the identity.
    seed: of the queries, which are the same for all prefixes of a prompt.

    Errors: `InvalidInput`, also if the model fails, or returns another shape or NaN.

    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((2, 6, 3))
    >>> step = lambda X, y, query: 0.1 * np.einsum("bi,bij,bj->b", y, X, query)
    >>> induced = induced_weights(step, X, X[:, :, 0], [2, 6])
    >>> bool(np.allclose(induced.weights[:, 1], 0.1 * np.einsum("bi,bij->bj", X[:, :, 0], X)))
    True
    >>> induced.r_squared, bool(induced.off_span.max() < 1e-20)
    (array([1., 1.]), True)
    """
    if prefixes is None and np.ndim(X) == 3:
        prefixes = np.arange(1, np.shape(X)[1] + 1)
    X, y, counts = checked_prompts(X, y, prefixes)
    prompts, _, dim = X.shape
    fitted = 5 * dim if queries is None else integer(queries, "queries")
    if fitted < 5 * dim:
        raise InvalidInput(f"queries = {fitted}; a fit in {dim} dimensions needs {5 * dim}.")
    total = fitted + 2 * dim
    rng = np.random.default_rng(seed_sequence(seed))
    query = rng.standard_normal((prompts, total, dim))
    if cov is not None:
        query = np.matmul(query, np.swapaxes(_root(cov, prompts, dim), -1, -2))
    call = array_caller(model)
    weights, scores = np.empty((prompts, len(counts), dim)), np.empty(len(counts))
    for column, n in enumerate(counts):
        answers = np.empty((prompts, total))
        chunk = max(1, _BATCH // (total * (n + 1) * dim))
        for low in range(0, prompts, chunk):
            part = slice(low, low + chunk)
            given = [np.repeat(a[part, :n], total, axis=0) for a in (X, y)]
            answers[part] = call(*given, query[part].reshape(-1, dim)).reshape(-1, total)
        weights[:, column], scores[column] = fit_weights(query, answers, 2 * dim)
    return InducedWeights(weights, scores, off_span(X, weights, counts), counts)


def fit_weights(queries: Any, answers: Any, held_out: int) -> tuple[np.ndarray, float]:
    """Least-squares weights of answers to queries, and the R^2 on the last `held_out` of them.

    queries: (B, T, d). answers: (B, T). Returns weights (B, d) and one number for all prompts:
    1 - (sum of squared residuals)/(sum of squared answers), without intercept.
    """
    queries, answers = finite(queries, "queries"), finite(answers, "answers")
    if queries.ndim != 3 or answers.shape != queries.shape[:2]:
        raise InvalidInput(
            f"queries has shape {queries.shape}, answers {answers.shape}; pass (B, T, d) and (B, T)."
        )
    kept = queries.shape[1] - int(held_out)
    if held_out < 1 or kept < queries.shape[2]:
        raise InvalidInput(
            f"held_out = {held_out} of {queries.shape[1]} queries leaves no fit in "
            f"{queries.shape[2]} dimensions."
        )
    inverse = np.linalg.pinv(queries[:, :kept])
    weights = np.matmul(inverse, answers[:, :kept, None])[:, :, 0]
    residual = answers[:, kept:] - np.einsum("btd,bd->bt", queries[:, kept:], weights)
    size = float((answers[:, kept:] ** 2).sum())
    return weights, 1 - float((residual**2).sum()) / size if size else 1.0


def off_span(X: Any, weights: Any, prefixes: Any = None) -> np.ndarray:
    """Share of the weights' squared length outside the span of the examples, (B, P).

    X: (B, N, d). weights: (B, P, d) of the prefixes; zero weights give 0. Every spectral solver from
    0 (gradient descent, Newton, conjugate gradients, ridge, least squares) has 0.
    """
    spectra = prompt_spectra(X, np.zeros(np.shape(X)[:2]), prefixes)
    weights = finite(weights, "weights")
    if weights.shape != spectra.values.shape:
        raise InvalidInput(f"weights has shape {weights.shape}; pass {spectra.values.shape}.")
    along = np.matmul(weights[:, :, None, :], spectra.vectors)[:, :, 0]
    size = (along**2).sum(axis=-1)
    outside = np.where(spectra.values == 0, along, 0.0)
    return (outside**2).sum(axis=-1) / np.where(size > 0, size, 1.0)


def _root(cov: Any, prompts: int, dim: int) -> np.ndarray:
    """Lower Cholesky factor of the queries' covariance."""
    covariance = finite(cov, "cov")
    if covariance.shape not in ((dim, dim), (prompts, dim, dim)):
        raise InvalidInput(
            f"cov has shape {covariance.shape}; pass ({dim}, {dim}) or ({prompts}, {dim}, {dim})."
        )
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise InvalidInput("cov is not positive definite.") from error
