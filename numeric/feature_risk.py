"""Risk of one softmax head on prompts with features of any law, to order 1/n.

The head reads b sum_i p_i y_i with p = softmax(x_i'A x_q) and y = theta.x + noise: its weights depend
on the features only, so that bias and covariance of the softmax average T_n (`numeric.leading_bias`,
`numeric.leading_covariance`) give the risk for every law of the features. Exported:
`feature_expansion`, `FeatureExpansion`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from icltheory.laws.tokens import TokenLaw
from numeric.arrays import finite
from numeric.finite_prompt import score_matrix
from numeric.prompt_moments import checked_lengths
from numeric.tokens import leading_bias, leading_covariance, limit_output, weight_moment


@dataclass(frozen=True, eq=False)
class FeatureExpansion:
    """risk = limit + first_order / n + O(n^-2) at every query; arrays like the queries' leading axes."""

    limit: np.ndarray
    first_order: np.ndarray

    def risk(self, prompt_length: Any) -> Any:
        """The mean over the queries at prompt length n, to order 1/n."""
        return self.limit.mean() + self.first_order.mean() / checked_lengths(prompt_length)


def feature_expansion(
    features: TokenLaw, queries: Any, A: Any, b: Any, coef_cov: Any = 1.0, noise_var: Any = 0.0
) -> FeatureExpansion:
    """Risk E (b sum_i p_i y_i - theta.x_q)^2 given the query, to order 1/n, for features of any law.

    Parameters
    ----------
    features: law of the features of an example, without symbols; mean zero is not needed.
    queries: x_q, (..., d). For the risk over random queries average over a sample or a lattice.
    A: score matrix d x d, or a number (a multiple of I), as in `numeric.block_risk`; b: a number.
    coef_cov: second moment of the coefficients (mean zero), a number or d x d; noise_var >= 0.

    Without a factor 1/2. The limit vanishes for every query only if grad K(A x) = x/b on the queries:
    for Gaussian features at b Sigma A = I, for Rademacher features at b tanh(a) = 1, and so on. The
    first order needs 2 A x_q in the domain of the law (`OutOfDomain`); `InvalidInput` otherwise.
    Source: derived here.

    >>> import icltheory as icl
    >>> law = icl.Rademacher(dim=2)
    >>> expansion = feature_expansion(law, [[1, 1], [1, -1]], A=0.5, b=1 / np.tanh(0.5), coef_cov=0.5)
    >>> expansion.limit.round(12), round(float(expansion.risk(100)), 6)
    (array([0., 0.]), 0.035147)
    """
    if not isinstance(features, TokenLaw):
        raise InvalidInput(
            f"features has type {type(features).__name__}; pass a token law, e.g. icl.Rademacher(dim=2)."
        )
    points = finite(queries, "queries")
    value, noise = _number(b, "b"), _number(noise_var, "noise_var")
    matrix = score_matrix(A, features.dim)
    coefs = finite(coef_cov, "coef_cov")
    coefs = coefs * np.eye(features.dim) if coefs.ndim == 0 else coefs
    if coefs.shape != (features.dim, features.dim):
        raise InvalidInput(f"coef_cov has shape {coefs.shape}; pass a number or d x d.")
    size = np.abs(coefs).max()
    if not np.allclose(coefs, coefs.T, atol=1e-12 * size) or (
        np.linalg.eigvalsh(coefs)[0] < -1e-12 * size
    ):
        raise InvalidInput("coef_cov is no second moment: it must be symmetric, eigenvalues >= 0.")
    if noise < 0:
        raise InvalidInput(f"noise_var = {noise:g} is negative; a variance is at least 0.")
    if points.shape[-1:] != (features.dim,):
        raise InvalidInput(f"queries has shape {points.shape}; pass (..., {features.dim}).")
    dual = points @ matrix.T
    error = value * limit_output(features, dual) - points

    def form(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.einsum("...i,ij,...j->...", left, coefs, right)

    variance = np.einsum("...ij,ij->...", leading_covariance(features, dual), coefs)
    # The variance of T_n, the noise of the labels, and the bias times the error of the limit.
    order = value**2 * (variance + noise * weight_moment(features, dual))
    order += 2 * value * form(error, leading_bias(features, dual))
    return FeatureExpansion(form(error, error), order)


def _number(value: Any, name: str) -> float:
    array = finite(value, name)
    if array.ndim:
        raise InvalidInput(f"{name} has shape {array.shape}; pass one number.")
    return float(array)
