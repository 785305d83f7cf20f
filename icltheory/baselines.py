"""What attention is measured against: ordinary least squares and the Bayes predictor.

Least squares on the prompt, without intercept, predicts with the noise that inverts with S = X'X.
The Bayes predictor of Gaussian coefficients is a ridge regression; its risk is the trace of the
posterior covariance, whose expansion in inverse powers of S has Wishart moments. Derived here.
Exported: `least_squares_risk`, `bayes_risk_expansion`.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from icltheory import checks
from icltheory.attention import on_specifications
from icltheory.errors import InvalidInput
from icltheory.formula import Formula, Step
from icltheory.laws.inverse_wishart import inverse_wishart_moment
from icltheory.matrices import Square
from icltheory.symbols import n
from icltheory.task import LinearRegression, refuse_options

_RISK = sp.Symbol("R")


@on_specifications(supports=("coef_mean",))
def least_squares_risk(task: LinearRegression) -> Formula:
    """Risk of ordinary least squares on the n examples, exact for n > d + 1, any features' covariance.

    Without label noise it is exact, risk 0, already for n >= d. Source: derived here.

    >>> from icltheory.symbols import d, noise_var
    >>> least_squares_risk(LinearRegression(dim=d, noise_var=noise_var)).expr
    -d*noise_var/(d - n + 1)
    """
    moment = inverse_wishart_moment(1, dim=task.dim)
    return Formula(
        "risk of ordinary least squares",
        task.noise_var * moment,
        validity=sp.And(n > task.dim + 1, task.validity),
        steps=(
            Step(
                "w_1 = E tr S^{-1} of the whitened Gram matrix S", sp.Eq(sp.Symbol("w_1"), moment)
            ),
            Step("risk, noise through the inverse", sp.Eq(_RISK, task.noise_var * moment)),
        ),
    )


def bayes_risk_expansion(task: LinearRegression, order: int = 2) -> Formula:
    """The first `order` terms in 1/n of the Bayes risk with Gaussian coefficients.

    The predictor is ridge regression around the prior mean with the posterior covariance
    (M^{-1} + X'X / noise_var)^{-1}. It needs Sigma^{1/2} M Sigma^{1/2} to be a multiple of the
    identity (M the covariance of the coefficients), as for Sigma = I and M = I/d. For fixed d and
    noise; no softmax heads reach its leading constant noise_var d. `numeric.bayes_risk` is exact.
    Source: derived here.

    >>> from icltheory.symbols import d, noise_var
    >>> bayes_risk_expansion(LinearRegression(dim=d, noise_var=noise_var)).expr
    d*noise_var/n - d*noise_var*(d*noise_var - d - 1)/n**2
    """
    if not isinstance(task, LinearRegression):
        raise InvalidInput(
            f"task has type {type(task).__name__}; pass icl.LinearRegression(dim=5)."
        )
    refuse_options(task.scenario, ("coef_mean",))
    return _bayes_expansion(task, checks.integer(order, "order", 1, "2"))


@lru_cache(maxsize=64)
def _bayes_expansion(task: LinearRegression, order: int) -> Formula:
    penalty = task.noise_var / prior_variance(task)
    # tr (penalty + S)^{-1} = sum_j (-penalty)^j tr S^{-j-1}, of order n^{-j-1}.
    inverse = sp.Symbol("x", positive=True)
    terms = []
    for j in range(order):
        moment = inverse_wishart_moment(*(1,) if j == 0 else (j + 1,), dim=task.dim)
        series = sp.series(sp.cancel(moment.subs(n, 1 / inverse)), inverse, 0, order + 1)
        terms.append(task.noise_var * (-penalty) ** j * series.removeO())
    total = sp.Poly(sp.expand(sp.Add(*terms)), inverse)
    expr = sp.Add(
        *(sp.factor(total.coeff_monomial(inverse**p)) / n**p for p in range(1, order + 1))
    )
    first, second = (total.coeff_monomial(inverse**p) for p in (1, 2))
    falling = sp.true if second == 0 else n > sp.Abs(sp.factor(sp.cancel(second / first)))
    return Formula(
        f"Bayes risk, {order} terms in 1/n",
        expr,
        validity=sp.And(task.validity, falling),
        steps=(
            Step(
                "posterior covariance over the noise, (c + S)^{-1}", sp.Eq(sp.Symbol("c"), penalty)
            ),
            Step(
                "risk, from inverse moments of S expanded in 1/n",
                sp.Eq(_RISK, expr, evaluate=False),
            ),
        ),
    )


def prior_variance(task: LinearRegression) -> sp.Expr:
    """Variance of every whitened coefficient; `InvalidInput` if they differ."""
    variance = sp.cancel((task.feature_cov @ task.coef_cov).trace() / task.dim)
    product = task.feature_cov @ task.coef_cov
    if not (product - Square.identity(variance, task.dim)).is_zero():
        raise InvalidInput(
            "Sigma^{1/2} M Sigma^{1/2} is no multiple of the identity, so the ridge risk depends on "
            "directions; pass coef_cov proportional to the inverse of feature_cov."
        )
    return variance
