"""The Bayes risk of in-context regression at every prompt length, without sampling.

It is E sum_i f(lambda_i) over the eigenvalues of a real Wishart matrix, f(lambda) = 1/(c + lambda),
and for the real ensemble such averages are logarithmic derivatives of Pfaffians (de Bruijn): with
functions psi_j that span the ensemble's polynomials times its weight, and A_jk the skew integral of
psi_j and psi_k over x < y, E prod (1 + eps f) is Pf A(eps)/Pf A. In the variable sqrt(lambda) and
with orthonormal Laguerre functions the matrix stays well conditioned. Derived here. Exported:
`bayes_risk`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from icltheory.baselines import prior_variance
from icltheory.errors import OutOfDomain
from icltheory.task import LinearRegression
from numeric.arrays import task_arrays
from numeric.prompt_moments import checked_lengths

_LARGEST = 200  # eigenvalues; the oscillating functions need about ten nodes each
_NODES = 5000


def bayes_risk(task: LinearRegression, prompt_length: Any) -> Any:
    """Risk of the Bayes predictor (ridge regression) with Gaussian coefficients, exact at every n.

    Parameters
    ----------
    task: Sigma^{1/2} M Sigma^{1/2} a multiple of the identity, as for Sigma = I and M = I/d. With a
        `coef_mean` the predictor knows it. Without noise the risk is that of the n < d directions
        which are not seen.
    prompt_length: integers n >= 1; min(n, d) at most 200.

    The relative error is below 1e-9. Errors: `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> import icltheory as icl
    >>> bayes_risk(icl.LinearRegression(dim=5, noise_var=0.25), [10, 20, 40, 100]).round(4)
    array([0.1906, 0.0793, 0.0352, 0.0131])
    """
    arrays = task_arrays(task, ("coef_mean",))
    variance, dim = float(prior_variance(task)), arrays.dim
    lengths = checked_lengths(prompt_length)
    risk = np.empty(lengths.shape)
    for index in np.ndindex(lengths.shape):
        n = lengths[index]
        seen = min(n, dim)
        if seen > _LARGEST:
            raise OutOfDomain(
                f"min(prompt_length, dim) = {seen:g} is above {_LARGEST}; use the limit of large "
                f"dimensions, or icl.bayes_risk_expansion for long prompts."
            )
        learned = 0.0
        if arrays.noise_var > 0:
            c = arrays.noise_var / variance
            learned = eigenvalue_average(
                int(seen), float(max(n, dim)), lambda x, c=c: c / (c + x), math.sqrt(c)
            )
        risk[index] = variance * (dim - seen + learned)
    return risk[()]


def eigenvalue_average(
    count: int,
    degrees: float,
    function: Callable[[np.ndarray], np.ndarray],
    scale: float = 1.0,
) -> float:
    """E sum_i f(lambda_i) over the eigenvalues of G'G, G a degrees x count standard Gaussian matrix.

    `scale` is the distance of singularities of f from 0, in sqrt(lambda).

    >>> round(eigenvalue_average(3, 10, lambda x: 1 / x), 10)  # 3/(10 - 3 - 1)
    0.5
    """
    y, weights, cumulative, psi, skew = _ensemble(count, degrees, min(scale, 1.0))
    changed = psi * function(y * y)
    left = (changed * weights) @ (cumulative @ psi.T)
    right = (psi * weights) @ (cumulative @ changed.T)
    # int psi_j f Psi_k + int psi_j int^y f psi_k, made skew.
    total = left + right
    total = _bordered(total.T - total, changed @ weights if count % 2 else None)
    return float(np.trace(np.linalg.solve(skew, total)) / 2)


@lru_cache(maxsize=64)
def _ensemble(count: int, degrees: float, scale: float) -> tuple[np.ndarray, ...]:
    """Nodes in sqrt(lambda), their weights, the matrix of primitives, the psi_j there, and A."""
    # Singular values lie within a few units of sqrt(degrees) -+ sqrt(count).
    centre, spread = math.sqrt(degrees), math.sqrt(count) + 9
    low, high = max(0.0, centre - spread), centre + spread
    size = 60 + 8 * count + math.ceil(4 * (high - low))
    # Nodes are even in y, or, to reach small singular values, in s with y = scale sinh(s).
    graded = low == 0 and scale < 0.5
    reach = math.asinh(high / scale) if graded else high - low
    size = math.ceil(size * reach) if graded else size
    if size > _NODES:
        raise OutOfDomain(
            f"the noise is too small for {count} eigenvalues near 0: the quadrature would need {size} "
            f"nodes. Use prompts of another length than dim = {count}, or more noise."
        )
    x, w = np.polynomial.legendre.leggauss(size)
    s = reach / 2 * (x + 1)
    y = scale * np.sinh(s) if graded else low + s
    slope = scale * np.cosh(s) if graded else 1.0
    weights = reach / 2 * w * slope
    cumulative = reach / 2 * _primitive(x, w) * slope
    psi = _laguerre_functions(count, degrees - count - 0.5, y)
    pairs = (psi * weights) @ (cumulative @ psi.T)
    skew = _bordered(pairs.T - pairs, psi @ weights if count % 2 else None)
    return y, weights, cumulative, psi, skew


def _bordered(skew: np.ndarray, border: np.ndarray | None) -> np.ndarray:
    """For an odd number of eigenvalues the integrals of the psi_j complete the matrix."""
    if border is None:
        return skew
    count = len(border)
    out = np.zeros((count + 1, count + 1))
    out[:count, :count], out[:count, count], out[count, :count] = skew, border, -border
    return out


def _primitive(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Matrix from values at Gauss-Legendre nodes to the primitive from -1 at the same nodes."""
    size = len(x)
    legendre = np.polynomial.legendre.legvander(x, size)
    coefficients = (legendre[:, :size] * w[:, None]).T * (np.arange(size) + 0.5)[:, None]
    order = np.arange(1, size)
    primitives = np.empty((size, size))
    primitives[:, 0] = x + 1
    primitives[:, 1:] = (legendre[:, 2 : size + 1] - legendre[:, : size - 1]) / (2 * order + 1)
    return primitives @ coefficients


def _laguerre_functions(count: int, order: float, y: np.ndarray) -> np.ndarray:
    """Functions sqrt(2) y^(order + 1/2) p_j(y^2) exp(-y^2/2), j < count, orthonormal in y > 0."""
    x = y * y
    start = (order + 0.5) * np.log(y) - x / 2 + (math.log(2) - special.gammaln(order + 1)) / 2
    psi = np.zeros((count, len(y)))
    psi[0] = np.exp(start)
    for j in range(1, count):
        # The normalised three-term recurrence of Laguerre polynomials.
        psi[j] = (2 * j - 1 + order - x) * psi[j - 1] / math.sqrt(j * (j + order))
        if j > 1:
            psi[j] -= math.sqrt((j - 1) * (j - 1 + order) / (j * (j + order))) * psi[j - 2]
    return psi
