"""Risk of one softmax head on prompts with features of any law, to order 1/n.

The head reads b sum_i p_i y_i with p = softmax(x_i'A x_q) and y = theta.x + noise: its weights depend
on the features only, so that bias and covariance of the softmax average T_n (`numeric.leading_bias`,
`numeric.leading_covariance`) give the risk for every law of the features. Exported:
`feature_expansion`, `FeatureExpansion`, `simulate_feature_risk`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import softmax

from icltheory.errors import InvalidInput
from icltheory.laws.tokens import TokenLaw
from numeric.arrays import finite, nonnegative, number
from numeric.decoding_display import Shown
from numeric.finite_prompt import score_matrix
from numeric.laws import array_law
from numeric.montecarlo import Estimate, Seed, single_length, stream
from numeric.prompt_moments import checked_lengths
from numeric.tokens import leading_bias, leading_covariance, limit_output, weight_moment


@dataclass(frozen=True, eq=False, repr=False)
class FeatureExpansion(Shown):
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
    points = finite(queries, "queries")
    matrix, value, coefs, noise = _layer(features, A, b, coef_cov, noise_var)
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


def simulate_feature_risk(
    features: TokenLaw,
    A: Any,
    b: Any,
    prompt_length: int,
    *,
    coef_cov: Any = 1.0,
    noise_var: Any = 0.0,
    prompts: int = 10_000,
    seed: Seed = 0,
) -> Estimate:
    """Sampled risk of one softmax head on features of any law, to hold `feature_expansion` against.

    Examples and query are drawn from the law; coefficients and label noise are averaged exactly.
    Arguments as in `feature_expansion` and `monte_carlo_risk`. Exists where the expansion does not.

    >>> import icltheory as icl
    >>> law, b = icl.Rademacher(dim=2), 1 / np.tanh(0.5)
    >>> risk = simulate_feature_risk(law, 0.5, b, 1000, coef_cov=0.5, seed=1)
    >>> expansion = feature_expansion(law, [[1, 1], [1, -1]], A=0.5, b=b, coef_cov=0.5)
    >>> bool(abs(risk.value - expansion.risk(1000)) < 5 * risk.standard_error)
    True
    """
    matrix, value, coefs, noise = _layer(features, A, b, coef_cov, noise_var)
    law, n = array_law(features), single_length(prompt_length)

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        rows = law.sample(rng, size * (n + 1)).reshape(size, n + 1, law.dim)
        examples, query = rows[:, :n], rows[:, n]
        weights = softmax(np.einsum("bni,bi->bn", examples, query @ matrix.T), axis=1)
        error = value * np.einsum("bn,bni->bi", weights, examples) - query
        signal = np.einsum("bi,ij,bj->b", error, coefs, error)
        return signal + noise * value**2 * np.sum(weights**2, axis=1)

    return stream(draw, (n + 1) * (law.dim + 3), prompts=prompts, seed=seed)


# -- arguments -------------------------------------------------------------------------------------


def _layer(
    features: TokenLaw, A: Any, b: Any, coef_cov: Any, noise_var: Any
) -> tuple[np.ndarray, float, np.ndarray, float]:
    """A (d, d), b, the second moment of the coefficients (d, d) and the noise variance."""
    if not isinstance(features, TokenLaw):
        raise InvalidInput(
            f"features has type {type(features).__name__}; pass a token law, e.g. icl.Rademacher(dim=2)."
        )
    value, noise = number(b, "b"), nonnegative(noise_var, "noise_var")
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
    return matrix, value, coefs, noise
