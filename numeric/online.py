"""Online gradient descent, one pass over the examples, and forgetting of single examples.

The weights after n examples depend on their order, so there is no spectral filter. Source: derived
here. Exported: `online_weights`, `forgetting_curve`, `ForgettingCurve`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import finite, positive
from numeric.decoding_display import Shown
from numeric.eigenbasis import checked_prompts
from numeric.plot import Figure, Series


def online_weights(
    X: Any, y: Any, step_size: Any = None, *, prefixes: Any = None, w0: Any = None
) -> np.ndarray:
    """Weights after n examples of w <- w + eta_i (y_i - x_i.w) x_i, (B, P, d).

    Parameters
    ----------
    X: features (B, N, d). y: labels (B, N).
    step_size: positive number, or `None` for 1/|x_i|^2, which fits every example exactly when it
        comes; an example x_i = 0 is passed over.
    prefixes: numbers of examples from 0 to N; `None` is all.
    w0: start, (d,) or (B, d); `None` is 0.

    Errors: `InvalidInput`; `OutOfDomain` if a constant step makes the weights overflow.

    >>> X = np.array([[[2.0, 0.0], [1.0, 1.0]]])
    >>> online_weights(X, [[2.0, 3.0]])
    array([[[0., 0.], [1., 0.], [2., 1.]]])
    """
    X, y, counts = checked_prompts(X, y, prefixes)
    prompts, points, dim = X.shape
    if step_size is None:
        sizes = np.einsum("bij,bij->bi", X, X)
        rates = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 0)
    else:
        rates = np.full(y.shape, positive(step_size, "step_size", "0.05"))
    start = np.zeros(dim) if w0 is None else finite(w0, "w0")
    if start.shape not in ((dim,), (prompts, dim)):
        raise InvalidInput(
            f"w0 has shape {start.shape}; pass (d,) = ({dim},) or (B, d) = ({prompts}, {dim})."
        )
    w = np.broadcast_to(start, (prompts, dim)).copy()
    out = np.empty((prompts, len(counts), dim))
    with np.errstate(over="ignore", invalid="ignore"):
        for n in range(int(counts.max()) + 1):
            out[:, counts == n] = w[:, None]
            if n < points:
                gap = y[:, n] - np.einsum("bj,bj->b", X[:, n], w)
                w += (rates[:, n] * gap)[:, None] * X[:, n]
    if not np.all(np.isfinite(out)):
        raise OutOfDomain(
            f"step_size = {step_size} makes the weights overflow; Gaussian examples need less than "
            f"2/(d + 2) = {2 / (dim + 2):.4g} times the inverse of their variance."
        )
    return out


@dataclass(frozen=True, repr=False)
class ForgettingCurve(Shown):
    """Mean squared error on the examples that a method was given, by their position.

    mean, standard_error: of [x_i.(w - w*)]^2, (n,) for i = 1, ..., n, or (K, n) for K columns.
    """

    mean: np.ndarray
    standard_error: np.ndarray

    @property
    def figure(self) -> Figure:
        """The error on every example against its position."""
        rows = zip(np.atleast_2d(self.mean), np.atleast_2d(self.standard_error), strict=True)
        several = self.mean.ndim > 1
        points = [
            Series(f"column {k + 1}" if several else "", range(1, y.size + 1), y, error, k)
            for k, (y, error) in enumerate(rows)
        ]
        caption = "Squared error on the examples a method was given; points: one standard error."
        title, name = "Forgetting", "position of the example"
        return Figure(title, name, "squared error", caption, (), tuple(points), False, False)

    def plot(self, ax: Any = None) -> Any:
        """The error against the position (`figure`); returns the axes. `ax`: as in `numeric.draw`."""
        return self.figure.draw(ax)


def forgetting_curve(X: Any, weights: Any, coefficients: Any) -> ForgettingCurve:
    """How well weights that were made from n examples still fit each of them.

    Parameters
    ----------
    X: the n examples, (B, n, d). weights: after all of them, (B, d) or (B, K, d).
    coefficients: w*, (B, d).

    For a spectral solver the curve is flat: it is symmetric in the examples. Source: V19.

    >>> from numeric.regression_prompts import solver_prompts
    >>> data = solver_prompts(5, 10, 2000)
    >>> last = online_weights(data.features, data.labels)[:, -1]
    >>> curve = forgetting_curve(data.features, last, data.coefficients)
    >>> bool(curve.mean[-1] < 1e-20), bool(curve.mean[0] > curve.mean[8] > 0.01)
    (True, True)
    """
    X, weights, truth = (np.asarray(a, dtype=float) for a in (X, weights, coefficients))
    fits = X.ndim == 3 and truth.shape == (len(X), X.shape[2]) and weights.ndim in (2, 3)
    if not fits or weights.shape[0] != len(X) or weights.shape[-1] != X.shape[2] or len(X) < 2:
        raise InvalidInput(
            f"X has shape {X.shape}, weights {weights.shape}, coefficients {truth.shape}; pass "
            f"(B, n, d), (B, d) or (B, K, d), and (B, d), with at least two prompts."
        )
    gap = (weights if weights.ndim == 3 else weights[:, None]) - truth[:, None]
    squared = np.matmul(gap, np.swapaxes(X, 1, 2)) ** 2
    mean, error = squared.mean(axis=0), squared.std(axis=0, ddof=1) / np.sqrt(len(X))
    return ForgettingCurve(*((mean, error) if weights.ndim == 3 else (mean[0], error[0])))
