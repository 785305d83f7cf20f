"""Effective filter of any learner: what it does to each eigendirection of the examples.

It presupposes no family of algorithms. For a learner that is linear in the true coefficients, the gain
of an eigenvalue bin is the mean diagonal of U'A U over the eigenvectors in it; for a spectral solver
it is the solver's 1 - r. Source: derived here. Exported: `effective_filter`,
`EffectiveFilter`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from numeric.arrays import finite, integer
from numeric.decoding_display import Shown
from numeric.eigenbasis import prompt_spectra


@dataclass(frozen=True, repr=False)
class EffectiveFilter(Shown):
    """Gains g = 1 - r in bins of eigenvalues, for L learners.

    edges: of the bins, (E + 1,). eigenvalue: mean in each bin, (E,), and `count` of them.
    gain, standard_error: (L, E). null_gain, null_error: gain in the null space, (L,); None if there
    is none (n >= d). leakage: share of the weights' squared length that a filter constant in each bin
    does not account for, (L,): 0 for such a filter, and it contains the variation within bins.
    half_point: the eigenvalue with gain 1/2, interpolated, (L,); NaN if the gain does not cross it.
    """

    edges: np.ndarray
    eigenvalue: np.ndarray
    count: np.ndarray
    gain: np.ndarray
    standard_error: np.ndarray
    null_gain: np.ndarray | None
    null_error: np.ndarray | None
    leakage: np.ndarray
    half_point: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """r = 1 - g, (L, E)."""
        return 1 - self.gain


def effective_filter(
    X: Any, weights: Any, coefficients: Any, *, bins: int = 8, edges: Any = None
) -> EffectiveFilter:
    """Measure the filter of learners from the weights that they have after the examples X.

    Parameters
    ----------
    X: the examples, (B, n, d). weights: after all of them, (B, d), or (B, L, d) for L learners
        (layers, or solvers to set beside them); of a model, from `numeric.induced_weights`.
    coefficients: w*, (B, d).
    bins: number of bins with equally many nonzero eigenvalues, pooled over prompts.
    edges: of the bins instead, increasing, e.g. those of another measurement; eigenvalues outside
        are left out.

    The gain of a bin is sum g_i c_i / sum c_i^2 with g = U'w and c = U'w*; its standard error treats
    prompts as independent. Errors: `InvalidInput`, also for a bin with fewer than 10 eigenvalues.

    >>> import icltheory as icl
    >>> from numeric.regression_prompts import solver_prompts
    >>> from numeric.solvers import run_solvers
    >>> data = solver_prompts(5, 8, 400)
    >>> flow = run_solvers(data.features, data.labels, icl.GradientFlow(), [0.2], [8])
    >>> found = effective_filter(data.features, flow.weights[:, 0], data.coefficients)
    >>> bool(np.all(np.abs(found.residual[0] - np.exp(-0.2 * found.eigenvalue)) < 0.05))
    True
    """
    X, weights, truth = (np.asarray(a) for a in (X, weights, coefficients))
    if X.ndim != 3 or truth.shape != (len(X), X.shape[2]):
        raise InvalidInput(
            f"X has shape {X.shape}, coefficients {truth.shape}; pass (B, n, d) and (B, d)."
        )
    weights = finite(weights, "weights")
    weights = weights[:, None] if weights.ndim == 2 else weights
    if weights.ndim != 3 or weights.shape[::2] != truth.shape:
        raise InvalidInput(
            f"weights has shape {weights.shape}; pass (B, d) or (B, L, d) with {truth.shape}."
        )
    n = X.shape[1]
    if n == 0 or len(X) < 2:
        raise InvalidInput(f"{len(X)} prompts of {n} examples; pass at least 2 prompts, n >= 1.")
    spectra = prompt_spectra(X, np.zeros(X.shape[:2]), [n])
    values, vectors = spectra.values[:, 0], spectra.vectors[:, 0]
    g = np.matmul(weights, vectors)
    c = np.matmul(finite(truth, "coefficients")[:, None, :], vectors)

    borders = _edges(values[values > 0], bins, edges)
    place = np.searchsorted(borders, values, side="right") - 1
    place[values == borders[-1]] = len(borders) - 2
    inside = (values > 0) & (place >= 0) & (place < len(borders) - 1)
    masks = [inside & (place == e) for e in range(len(borders) - 1)]
    counts = np.array([mask.sum() for mask in masks])
    if counts.min() < 10:
        raise InvalidInput(
            f"a bin holds {counts.min()} eigenvalues, and every bin needs 10: pass fewer than the "
            f"{len(counts)} bins, wider edges or more prompts."
        )
    gains, errors = zip(*(_ratio(g, c, mask) for mask in masks), strict=True)
    gain, error = np.stack(gains, axis=1), np.stack(errors, axis=1)
    null = values == 0
    null_gain, null_error = _ratio(g, c, null) if null.any() else (None, None)
    parts = [(gain[:, e], mask) for e, mask in enumerate(masks)]
    if null_gain is not None:
        parts.append((null_gain, null))
    covered = inside | null
    size = np.einsum("bli,bi->l", g**2, covered)
    explained = sum(share**2 * float((c[:, 0] ** 2)[mask].sum()) for share, mask in parts)
    eigenvalue = np.array([values[mask].mean() for mask in masks])
    return EffectiveFilter(
        borders,
        eigenvalue,
        counts,
        gain,
        error,
        null_gain,
        null_error,
        1 - explained / np.where(size > 0, size, 1.0),
        np.array([_half_point(eigenvalue, row) for row in gain]),
    )


def _edges(values: np.ndarray, bins: Any, edges: Any) -> np.ndarray:
    if edges is None:
        count = integer(bins, "bins")
        return np.quantile(values, np.linspace(0, 1, count + 1))
    edges = finite(edges, "edges")
    if edges.ndim != 1 or len(edges) < 2 or np.any(np.diff(edges) <= 0):
        raise InvalidInput("edges must be an increasing sequence of at least 2 numbers.")
    return edges


def _ratio(g: np.ndarray, c: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """sum g c / sum c^2 over the mask, (L,), and its standard error from the scatter of prompts."""
    products = np.einsum("bli,bi->bl", g * c, mask)
    squares = np.einsum("bi,bi->b", c[:, 0] ** 2, mask)
    total = squares.sum()
    ratio = products.sum(axis=0) / total
    scatter = ((products - ratio * squares[:, None]) ** 2).sum(axis=0)
    return ratio, np.sqrt(scatter * len(g) / (len(g) - 1)) / total


def _half_point(eigenvalue: np.ndarray, gain: np.ndarray) -> float:
    above = gain >= 0.5
    crossings = np.flatnonzero(above[1:] != above[:-1])
    if not len(crossings):
        return float("nan")
    e = crossings[0]
    share = (0.5 - gain[e]) / (gain[e + 1] - gain[e])
    return float(eigenvalue[e] + share * (eigenvalue[e + 1] - eigenvalue[e]))
