"""LinearRegression: the task whose prompts are read in context.

A prompt holds n examples (x_i, y_i) and a query x_q: features x ~ N(0, Sigma), coefficients theta
of mean zero with E theta theta' = M, labels y_i = theta.x_i + noise of variance noise_var. The
quantity to predict is theta.x_q. The default M = I/d is the "unit signal": tr(Sigma M) = 1 for
Sigma = I.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.matrices import Square, covariance
from icltheory.symbols import k, n, t, v


class LinearRegression:
    """In-context linear regression with Gaussian features.

    Parameters
    ----------
    dim: feature dimension, a positive integer or a symbol.
    noise_var: variance of the label noise (>= 0), a number or an expression.
    feature_cov: covariance Sigma of the features: one number c (c I), d eigenvalues, or a d x d
        symmetric positive definite matrix; `None` is the identity.
    coef_cov: second moment M of the coefficients, in the same forms, positive semi-definite and not
        zero; `None` is I/d.

    An explicit matrix needs an integer `dim`. Errors: `InvalidInput` with the reason.

    >>> LinearRegression(dim=5, noise_var=0.25)
    LinearRegression(dim=5, noise_var=1/4)
    >>> LinearRegression(dim=2, feature_cov=[[2, 1], [1, 2]], coef_cov=[1, 3]).signal
    8
    """

    __slots__ = ("coef_cov", "dim", "feature_cov", "noise_var")

    dim: sp.Expr
    noise_var: sp.Expr
    feature_cov: Square
    coef_cov: Square

    def __init__(
        self, dim: Any, noise_var: Any = 0, feature_cov: Any = None, coef_cov: Any = None
    ) -> None:
        dimension = checks.positive_integer(dim, "dim", "dim=5")
        noise = checks.nonnegative(noise_var, "noise_var")
        features = covariance(
            1 if feature_cov is None else feature_cov, dimension, "feature_cov", definite=True
        )
        coefs = covariance(
            1 / dimension if coef_cov is None else coef_cov, dimension, "coef_cov", definite=False
        )
        if coefs.is_zero():
            raise InvalidInput(
                "coef_cov is zero: there is nothing to learn; give a positive variance."
            )
        reserved = {t, k, v, n} & (
            noise.free_symbols | features.free_symbols() | coefs.free_symbols()
        )
        if reserved:
            raise InvalidInput(
                f"the task contains {', '.join(sorted(str(s) for s in reserved))}, which stands for "
                f"the layer's scale or the prompt length; use a symbol of another name."
            )
        for name, value in zip(self.__slots__, (coefs, dimension, features, noise), strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            "LinearRegression is immutable; make a new one with the changed argument."
        )

    @property
    def signal(self) -> sp.Expr:
        """R = tr(Sigma M) = E (theta.x)^2, the variance of a noiseless label."""
        return sp.cancel((self.feature_cov @ self.coef_cov).trace())

    @property
    def is_isotropic(self) -> bool:
        """True if Sigma and M are stored as multiples of the identity."""
        return self.feature_cov.is_isotropic and self.coef_cov.is_isotropic

    @property
    def validity(self) -> sp.Basic:
        """Condition on symbolic entries of the covariances (`true` when there are none)."""
        return sp.S(self.feature_cov.positive_definite())

    def _key(self) -> tuple:
        return (self.dim, self.noise_var, self.feature_cov.key(), self.coef_cov.key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LinearRegression) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple:
        return LinearRegression, (self.dim, self.noise_var, self.feature_cov, self.coef_cov)

    def __repr__(self) -> str:
        parts = [f"dim={self.dim}", f"noise_var={self.noise_var}"]
        if self.feature_cov != Square.identity(1, self.dim):
            parts.append(f"feature_cov={self.feature_cov}")
        if self.coef_cov != Square.identity(1 / self.dim, self.dim):
            parts.append(f"coef_cov={self.coef_cov}")
        return f"LinearRegression({', '.join(parts)})"
