"""LinearRegression: the task whose prompts are read in context.

A prompt holds n examples (x_i, y_i) and a query x_q: features x ~ N(0, Sigma), coefficients theta
of mean zero with E theta theta' = M, labels y_i = theta.x_i + noise of variance noise_var. The
quantity to predict is theta.x_q. The default M = I/d is the "unit signal": tr(Sigma M) = 1 for
Sigma = I.

Two scenarios change this law: prior knowledge, coefficients around a mean known from training
(`coef_mean`), and local examples, features drawn around the query (`local`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.matrices import Square, covariance
from icltheory.symbols import g, k, n, share, t, v


class LinearRegression:
    """In-context linear regression with Gaussian features.

    Parameters
    ----------
    dim: feature dimension, a positive integer or a symbol.
    noise_var: variance of the label noise (>= 0), a number or an expression.
    feature_cov: covariance Sigma of the features: one number c (c I), d eigenvalues, or a d x d
        symmetric positive definite matrix; `None` is the identity.
    coef_cov: second moment M of the coefficients, in the same forms, positive semi-definite and not
        zero; `None` is I/d. With `coef_mean` it is their covariance around the mean.
    coef_mean: mean theta_0 of the coefficients, d numbers or expressions; `None` is zero (and zeros
        are stored as `None`).
    local: (rho, tau) for examples near the query, x_i | x_q ~ N(rho x_q, tau^2 Sigma) with rho >= 0
        and tau > 0; `None`, and (0, 1), are examples independent of the query.

    An explicit matrix or mean needs an integer `dim`. Errors: `InvalidInput` with the reason.

    >>> LinearRegression(dim=5, noise_var=0.25)
    LinearRegression(dim=5, noise_var=1/4)
    >>> LinearRegression(dim=2, feature_cov=[[2, 1], [1, 2]], coef_cov=[1, 3]).signal
    8
    >>> LinearRegression(dim=2, coef_cov=3, coef_mean=[1, 0]).coef_moment
    [[4, 0], [0, 3]]
    """

    __slots__ = ("coef_cov", "coef_mean", "dim", "feature_cov", "local", "noise_var")

    dim: sp.Expr
    noise_var: sp.Expr
    feature_cov: Square
    coef_cov: Square
    coef_mean: sp.ImmutableMatrix | None
    local: tuple[sp.Expr, sp.Expr] | None

    def __init__(
        self,
        dim: Any,
        noise_var: Any = 0,
        feature_cov: Any = None,
        coef_cov: Any = None,
        coef_mean: Any = None,
        local: Any = None,
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
        mean, near = _mean(coef_mean, dimension), _local(local)
        own = noise.free_symbols | features.free_symbols() | coefs.free_symbols()
        reserved = {t, k, v, n, g, share} & own.union(
            *(x.free_symbols for x in (mean, *(near or ())) if x)
        )
        if reserved:
            raise InvalidInput(
                f"the task contains {', '.join(sorted(str(s) for s in reserved))}, which stands for "
                f"the layer's scale or the prompt length; use a symbol of another name."
            )
        values = (coefs, mean, dimension, features, near, noise)
        for name, value in zip(self.__slots__, values, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            "LinearRegression is immutable; make a new one with the changed argument."
        )

    @property
    def coef_moment(self) -> Square:
        """M = E theta theta', mean included: all that a risk quadratic in theta depends on."""
        if self.coef_mean is None:
            return self.coef_cov
        return self.coef_cov + Square.explicit((self.coef_mean * self.coef_mean.T).tolist())

    @property
    def signal(self) -> sp.Expr:
        """R = tr(Sigma M) = E (theta.x_q)^2, the mean square of what is to be predicted."""
        return sp.cancel((self.feature_cov @ self.coef_moment).trace())

    @property
    def token_cov(self) -> Square:
        """Covariance of the features within a prompt, tau^2 Sigma."""
        return self.feature_cov if self.local is None else self.feature_cov * self.local[1] ** 2

    @property
    def mean_signal(self) -> sp.Expr:
        """theta_0'Sigma theta_0 = E (theta_0.x_q)^2, the known part of the signal."""
        if self.coef_mean is None:
            return sp.S.Zero
        return sp.cancel((self.coef_mean.T * self.feature_cov.to_matrix() * self.coef_mean)[0])

    @property
    def scenario(self) -> tuple[str, ...]:
        """The options that are in use, of "coef_mean" and "local"."""
        return tuple(name for name in ("coef_mean", "local") if getattr(self, name) is not None)

    def replaced(self, **changes: Any) -> LinearRegression:
        """The same task with other arguments.

        >>> LinearRegression(dim=5, local=(1, 1)).replaced(local=None)
        LinearRegression(dim=5, noise_var=0)
        """
        return LinearRegression(**{name: getattr(self, name) for name in self.__slots__} | changes)

    @property
    def is_isotropic(self) -> bool:
        """True if Sigma and M are stored as multiples of the identity."""
        moments = self.feature_cov, self.coef_moment
        return all(matrix.is_isotropic for matrix in moments)

    @property
    def validity(self) -> sp.Basic:
        """Condition on symbolic entries of the covariances (`true` when there are none)."""
        return sp.S(self.feature_cov.positive_definite())

    def _key(self) -> tuple:
        covariances = (self.feature_cov.key(), self.coef_cov.key())
        return (self.dim, self.noise_var, *covariances, self.coef_mean, self.local)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LinearRegression) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple:
        order = ("dim", "noise_var", "feature_cov", "coef_cov", "coef_mean", "local")
        return LinearRegression, tuple(getattr(self, name) for name in order)

    def __repr__(self) -> str:
        parts = [f"dim={self.dim}", f"noise_var={self.noise_var}"]
        if self.feature_cov != Square.identity(1, self.dim):
            parts.append(f"feature_cov={self.feature_cov}")
        if self.coef_cov != Square.identity(1 / self.dim, self.dim):
            parts.append(f"coef_cov={self.coef_cov}")
        if self.coef_mean is not None:
            parts.append(f"coef_mean={list(self.coef_mean)}")
        if self.local is not None:
            parts.append(f"local={self.local}")
        return f"LinearRegression({', '.join(parts)})"


_INSTEAD = {
    "coef_mean": "a risk quadratic in theta depends on E theta theta' alone: pass "
    "coef_cov=task.coef_moment and coef_mean=None",
    "local": "pass local=None for examples independent of the query",
    "include_query": "leave include_query out",
    "skip": "leave skip out",
    "feature_values": "leave feature_values out",
}


def refuse_options(given: Iterable[str], supported: Iterable[str] = ()) -> None:
    """`InvalidInput` if an option of a task or an attention is in use that a function lacks."""
    for name in given:
        if name not in supported:
            raise InvalidInput(
                f"the option {name} is not supported here; {_INSTEAD[name]}, or sample the risk "
                f"with numeric.monte_carlo_risk(..., sampler='plain'), which takes every option."
            )


def _mean(value: Any, dim: sp.Expr) -> sp.ImmutableMatrix | None:
    if value is None:
        return None
    value = checks.plain(value)
    entries = list(value) if isinstance(value, (list, tuple, sp.MatrixBase)) else [value]
    if not dim.is_Integer:
        raise InvalidInput(
            f"coef_mean lists coefficients but the dimension is the symbol {dim}; give dim as an "
            f"integer."
        )
    if len(entries) != dim or (isinstance(value, sp.MatrixBase) and 1 not in value.shape):
        raise InvalidInput(
            f"coef_mean has {len(entries)} entries; dim = {dim} needs a vector of {dim} numbers."
        )
    entries = [checks.scalar(x, f"coef_mean[{i}]") for i, x in enumerate(entries)]
    return sp.ImmutableMatrix(entries) if any(x != 0 for x in entries) else None


def _local(value: Any) -> tuple[sp.Expr, sp.Expr] | None:
    if value is None:
        return None
    value = checks.plain(value)
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise InvalidInput(
            f"local = {value!r} must be a pair (rho, tau), x_i | x_q ~ N(rho x_q, tau^2 Sigma); "
            f"e.g. local=(1, 0.5)."
        )
    rho, tau = checks.scalar(value[0], "local[0] (rho)"), checks.scalar(value[1], "local[1] (tau)")
    if rho.is_negative:
        raise InvalidInput(
            f"rho = {rho} is negative; pass {-rho} and change the sign of all scores and values, "
            f"which gives the same risk."
        )
    if tau.is_zero or tau.is_negative:
        raise InvalidInput(
            f"tau = {tau} is not positive: all examples would be the one point rho x_q; pass a "
            f"standard deviation tau > 0."
        )
    return None if (rho, tau) == (0, 1) else (rho, tau)


def query_covariance(task: LinearRegression, query_cov: Any, *, definite: bool = False) -> Square:
    """The covariance of the query's features, `None` being that of the prompt's.

    Semi-definite and not zero, or positive definite; `InvalidInput` otherwise, and for tasks with a
    prior mean or local examples, which have no query law of their own.
    """
    refuse_options(task.scenario)
    if query_cov is None:
        return task.feature_cov
    query = covariance(query_cov, task.dim, "query_cov", definite=definite)
    if query.is_zero():
        raise InvalidInput("query_cov is zero: there is no query; give a positive variance.")
    return query
