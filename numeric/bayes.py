"""The Bayes risk of in-context regression at every prompt length, without sampling.

It is E sum_i f(lambda_i) over the eigenvalues of a real Wishart matrix, f(lambda) = 1/(c + lambda),
an integral over their exact density (`numeric.spectra`). Derived here. Exported: `bayes_risk`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from icltheory.baselines import prior_variance
from icltheory.errors import OutOfDomain
from icltheory.task import LinearRegression
from numeric.arrays import task_arrays
from numeric.prompt_moments import checked_lengths
from numeric.spectra import LARGEST, wishart_average


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
        if seen > LARGEST:
            raise OutOfDomain(
                f"min(prompt_length, dim) = {seen:g} is above {LARGEST}; use the limit of large "
                f"dimensions, or icl.bayes_risk_expansion for long prompts."
            )
        learned = 0.0
        if arrays.noise_var > 0:
            c = arrays.noise_var / variance
            learned = eigenvalue_average(int(seen), float(max(n, dim)), lambda x, c=c: c / (c + x))
        risk[index] = variance * (dim - seen + learned)
    return risk[()]


def eigenvalue_average(
    count: int,
    degrees: float,
    function: Callable[[np.ndarray], np.ndarray],
) -> float:
    """E sum_i f(lambda_i) over the eigenvalues of G'G, G a degrees x count standard Gaussian matrix.

    >>> round(eigenvalue_average(3, 10, lambda x: 1 / x), 10)  # 3/(10 - 3 - 1)
    0.5
    """
    return float(wishart_average(function, int(degrees), count))
