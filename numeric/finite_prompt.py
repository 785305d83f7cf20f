"""Exact risk of one softmax head with any score matrix at every prompt length, and its gradient.

The head reads b sum_i p_i y_i with p = softmax(x_i'A x_q). Given x_q the bias and the variance of
its prediction are the moments of softmax weights of `numeric.prompt_moments` at the squared scale
q = x_q'A'Sigma A x_q; the average over x_q is that of `numeric.quadratic_form`. Everything is
deterministic. The setting is that of Boursier and Boyer (arXiv 2512.11784), whose risk is half of
this one; derived here. Exported: `block_risk`, `block_risk_gradient`; `FiniteRisk` serves
`numeric.block_optimum` and `numeric.drift`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from icltheory.task import LinearRegression, query_covariance
from numeric.arrays import broadcast, finite, matrix_array, task_arrays
from numeric.prompt_moments import LARGEST_SCALE, checked_lengths, weight_moments
from numeric.quadratic_form import QuadraticForm, lattice_step


def block_risk(
    task: LinearRegression, A: Any, b: Any, prompt_length: Any, query_cov: Any = None
) -> Any:
    """Exact risk E (prediction - theta.x_q)^2 of one softmax head at every prompt length.

    Parameters
    ----------
    A: score matrix, d x d or one number a (meaning a I): the score of example i is x_i'A x_q, the
        transpose of the matrices in `icl.SoftmaxAttention(scores=...)`. Any matrix, singular ones
        and 0 included.
    b: value weight of the labels; broadcasts with `prompt_length`.
    prompt_length: integers n >= 1.
    query_cov: covariance of the query's features if it differs from `task.feature_cov`: one
        number, d eigenvalues, or d x d.

    No factor 1/2, noise of the query's label not included; the noise and any covariances are those
    of the task. A float, or an array of the broadcast shape. Relative error below 1e-8. Errors:
    `InvalidInput`; `OutOfDomain` if standard deviations of the scores above 200 matter. Source:
    derived here.

    >>> import icltheory as icl
    >>> task = icl.LinearRegression(dim=2, noise_var=0.25, feature_cov=[[1, 0.3], [0.3, 0.8]])
    >>> block_risk(task, [[0.5, 0.1], [-0.2, 0.4]], 1.2, [20, 100]).round(9)
    array([0.4123281 , 0.27902939])
    >>> round(block_risk(icl.LinearRegression(dim=5), 0.4288, 2.0586, 100), 6)  # the best head
    0.147873
    """
    arrays = task_arrays(task)
    matrix, values = score_matrix(A, arrays.dim), finite(b, "b")
    lengths = checked_lengths(prompt_length)
    values, lengths = broadcast(b=values, prompt_length=lengths)
    distinct, index = np.unique(lengths, return_inverse=True)
    coefficients = FiniteRisk(task, distinct, query_cov).coefficients(matrix)
    risk = coefficients.at(values, index.reshape(lengths.shape))
    return float(risk) if risk.ndim == 0 else risk


def block_risk_gradient(
    task: LinearRegression, A: Any, b: Any, prompt_length: Any, query_cov: Any = None
) -> dict[str, Any]:
    """Exact gradient of `block_risk` at one point: {"A": d x d array, "b": float}.

    A training flow descends half the risk: its velocity is minus half of this. The blocks u and v
    that vanish in this family have gradient 0 (symmetry of the labels' signs). Arguments, errors
    and source as in `block_risk`, with one number b and one prompt length; relative error 1e-8.

    >>> import icltheory as icl
    >>> slope = block_risk_gradient(icl.LinearRegression(dim=2, coef_cov=1), 0.5, 1.2, 100)
    >>> slope["A"].diagonal().round(6), round(slope["b"], 6)
    (array([-0.823173, -0.823173]), -0.702256)
    """
    arrays = task_arrays(task)
    lengths = checked_lengths(prompt_length)
    value = finite(b, "b")
    if lengths.size != 1 or value.size != 1:
        raise InvalidInput("the gradient is that of one head at one prompt length; pass numbers.")
    risk = FiniteRisk(task, lengths.ravel(), query_cov)
    slope_a, slope_b = risk.gradient(score_matrix(A, arrays.dim), float(value.ravel()[0]))
    return {"A": slope_a, "b": slope_b}


# -- the risk at fixed query law -------------------------------------------------------------------


@dataclass(frozen=True)
class Quadratic:
    """The risk as a function of b for one A: one entry a length, in a form without cancellation.

    risk = tr(M R Sigma_q R') + spread(b), R = b Sigma A - I; the second part is of order 1/n.
    """

    fixed: tuple[float, float]
    """tr(M Sigma A Sigma_q), tr(M Sigma A Sigma_q A' Sigma)"""
    error: Any
    """b -> tr(M R Sigma_q R')"""
    linear: np.ndarray
    square: np.ndarray

    def at(self, b: Any, index: Any = slice(None)) -> np.ndarray:
        """Risk at the values b for the lengths `index`."""
        return self.error(b) + b * (2 * self.linear[index] + b * self.square[index])

    def best(self) -> np.ndarray:
        """The b that minimises the risk, for every length."""
        cross, square = self.fixed
        return (cross - self.linear) / (square + self.square)


class FiniteRisk:
    """Risk and gradient in (A, b) for a vector of prompt lengths.

    With g = E sum p^2 and delta = E sum p^3 - E (sum p^2)^2 at the scale sqrt(q), and per query
    x with a = A x, c1 = tr(Sigma M) + noise:

        risk = E |M^{1/2} (b Sigma a - x)|^2
               + E [ g (b^2 c1 - b^2 a'Sigma M Sigma a + 2 b x'M Sigma a) - 6 b^2 delta a'Sigma M Sigma a ].
    """

    def __init__(self, task: LinearRegression, lengths: np.ndarray, query_cov: Any = None) -> None:
        self.arrays = arrays = task_arrays(task)
        self.lengths = lengths
        self.query = query_array(task, query_cov)
        self.label = arrays.signal + arrays.noise_var
        step = lattice_step(arrays.dim, float(lengths.max()))
        self._table = _table(tuple(lengths), step)
        values, vectors = np.linalg.eigh(self.query)
        self._root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
        self._last: tuple[bytes, Any] = (b"", None)
        self._weight = arrays.coef_cov @ arrays.feature_cov  # M Sigma

    def coefficients(self, matrix: np.ndarray) -> Quadratic:
        """The risk as a function of b."""
        arrays, n = self.arrays, self.lengths
        mean, (weight, cubic), axes = self._averages(matrix)
        head = arrays.feature_cov @ matrix  # Sigma A
        square = head.T @ arrays.coef_cov @ head
        cross = arrays.coef_cov @ head
        moments = (np.sum((axes.T @ form) * axes.T, axis=1) for form in (square, cross))
        square_axes, cross_axes = moments
        cross_query, square_query = (float(np.sum(m * self.query)) for m in (cross.T, square))
        linear = cross_query / n + weight @ cross_axes
        spread = (self.label - square_query) / n + self.label * mean
        spread = spread - weight @ square_axes - 6 * (cubic @ square_axes)

        def error(b: Any) -> Any:
            return _error_risk(b, head, arrays.coef_cov, self.query)

        return Quadratic((cross_query, square_query), error, linear, spread)

    def gradient(self, matrix: np.ndarray, b: float) -> tuple[np.ndarray, float]:
        """Derivatives in A (d x d) and b, at the first length."""
        arrays, n = self.arrays, float(self.lengths[0])
        head = arrays.feature_cov @ matrix
        residual = b * head - np.eye(arrays.dim)
        coefs, query = arrays.coef_cov, self.query
        square, cross = head.T @ coefs @ head, coefs @ head
        outer = self._weight.T  # Sigma M
        slope = 2 * b * outer @ residual @ query
        form = self._form(matrix)
        weight_query, cubic_query = query / n, np.zeros_like(query)
        mean = 1 / n
        if form is not None:
            law, axes = form
            table = self._table(law.points)
            weight, cubic = table[0, 0], table[1, 0]
            mean += float(law.mean(weight))
            weight_query = weight_query + (axes * law.second(weight)) @ axes.T
            cubic_query = (axes * law.second(cubic)) @ axes.T
            # Through q: the derivative of q in A is 2 Sigma a x'.
            both = b * b * square - b * (cross + cross.T)
            inner = b * b * self.label * np.diag(law.slope_second(weight))
            inner -= _paired(axes.T @ both @ axes, law.slope_fourth(weight))
            inner -= 6 * b * b * _paired(axes.T @ square @ axes, law.slope_fourth(cubic))
            slope = slope + 2 * head @ (axes @ inner @ axes.T)
        slope = slope + 2 * b * outer @ weight_query
        slope -= 2 * b * b * outer @ head @ (weight_query + 6 * cubic_query)
        slope_b = 2 * float(np.sum((coefs @ residual @ query) * head))
        slope_b += 2 * b * self.label * mean + 2 * float(np.sum(cross.T * weight_query))
        slope_b -= 2 * b * float(np.sum(square * (weight_query + 6 * cubic_query)))
        return slope, slope_b

    def _form(self, matrix: np.ndarray) -> tuple[QuadraticForm, np.ndarray] | None:
        """The law of q, and x as columns of `axes` times standard normals; `None` if q = 0."""
        key = matrix.tobytes()
        if key != self._last[0]:  # the risk and its gradient are often asked for in turn
            _, scales, rows = np.linalg.svd(self.arrays.feature_root @ matrix @ self._root)
            form = None
            if scales[0] > 1e-150:
                tail = 1 / float(self.lengths.max())
                law = QuadraticForm(scales**2, self._table.step, tail=tail, largest=LARGEST_SCALE)
                form = law, self._root @ rows.T
            self._last = key, form
        return self._last[1]

    def _averages(self, matrix: np.ndarray) -> tuple[Any, tuple[np.ndarray, np.ndarray], Any]:
        """E (g - 1/n), E (g - 1/n) xi_i^2 and E delta xi_i^2, one row a length; and the axes."""
        form = self._form(matrix)
        if form is None:
            none = np.zeros((self.lengths.size, self.arrays.dim))
            return none[:, 0], (none, none), self._root
        law, axes = form
        weight, cubic = self._table(law.points)
        return law.mean(weight), (law.second(weight), law.second(cubic)), axes


def _error_risk(b: Any, head: np.ndarray, coefs: np.ndarray, query: np.ndarray) -> Any:
    """tr(M R Sigma_q R') for R = b Sigma A - I, for an array of b."""
    residual = np.asarray(b)[..., None, None] * head - np.eye(len(head))
    return np.sum((coefs @ residual @ query) * residual, axis=(-2, -1))


def _paired(form: np.ndarray, fourth: np.ndarray) -> np.ndarray:
    """E f'(q) (xi'B xi) xi xi' from E f' xi_i^2 xi_j^2 (without the factor 3 at i = j)."""
    return 2 * form * fourth + np.diag(fourth @ np.diag(form))


class _Table:
    """g - 1/n and delta on the lattice sqrt(q) = exp(step j), computed once: (2, lengths, points)."""

    def __init__(self, lengths: tuple[float, ...], step: float) -> None:
        self.step, self._lengths = step, np.array(lengths)
        self._first, self._values = 0, np.empty((2, len(lengths), 0))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        first, last = int(points[0]), int(points[-1])
        size = self._values.shape[2]
        if not size:
            self._first, self._values = first, self._compute(first, last)
        else:
            if first < self._first:
                new = self._compute(first, self._first - 1)
                self._first, self._values = first, np.concatenate([new, self._values], axis=2)
            end = self._first + self._values.shape[2] - 1
            if last > end:
                new = self._compute(end + 1, last)
                self._values = np.concatenate([self._values, new], axis=2)
        return self._values[..., first - self._first : last - self._first + 1]

    def _compute(self, first: int, last: int) -> np.ndarray:
        columns = []
        for j in range(first, last + 1):
            g, g3, g22 = weight_moments(self._lengths, math.exp(j * self.step))
            columns.append((g - 1 / self._lengths, g3 - g22))
        return np.moveaxis(np.array(columns), 0, 2)


@lru_cache(maxsize=64)
def _table(lengths: tuple[float, ...], step: float) -> _Table:
    return _Table(lengths, step)


# -- arguments -------------------------------------------------------------------------------------


def query_array(task: LinearRegression, query_cov: Any) -> np.ndarray:
    """The covariance of the query as an array; `None` is that of the features."""
    query = query_covariance(task, query_cov)
    if query.free_symbols():
        raise InvalidInput("query_cov still contains symbols; numbers are needed here.")
    return matrix_array(query)


def score_matrix(A: Any, dim: int) -> np.ndarray:
    matrix = finite(A, "A")
    if matrix.ndim == 0:
        return float(matrix) * np.eye(dim)
    if matrix.shape != (dim, dim):
        raise InvalidInput(
            f"A has shape {matrix.shape}; dim = {dim} needs {(dim, dim)}, or one number a for a I."
        )
    return matrix
