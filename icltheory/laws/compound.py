"""Token laws made of others: Gaussian mixtures, scale mixtures, regression tokens.

Each defines its cumulant generating function by composition; see `laws.tokens`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.laws.gaussian import tilted_mean
from icltheory.laws.tokens import TokenLaw, positive, probabilities, vector
from icltheory.matrices import covariance


class GaussianMixture(TokenLaw):
    """sum_k weights_k N(means_k, covs_k).

    Parameters
    ----------
    weights: positive, of sum 1; `None` for equal weights.
    means: one vector of length d a component.
    covs: one covariance a component: a number c (c I), d eigenvalues, or d x d entries, positive
        semi-definite.

    Gabet, Boursier & Boyer (2026) study attention on such tokens.

    >>> u = sp.Symbol("u")
    >>> GaussianMixture([0.25, 0.75], [[3], [-1]], [1, 2]).cgf([u])
    log(exp(u**2/2 + 3*u)/4 + 3*exp(u**2 - u)/4)
    """

    __slots__ = ("covs", "means", "weights")
    _fields = ("weights", "means", "covs")

    weights: tuple[sp.Expr, ...]
    means: tuple[sp.ImmutableMatrix, ...]
    covs: tuple[sp.ImmutableMatrix, ...]

    def __init__(self, weights: Any, means: Any, covs: Any) -> None:
        centres = [vector(m, f"means[{i}]") for i, m in enumerate(_sequence(means, "means"))]
        spreads = _sequence(covs, "covs")
        size = len(centres[0])
        if any(len(m) != size for m in centres):
            raise InvalidInput(
                f"the means have lengths {[len(m) for m in centres]}; pass vectors of one length."
            )
        if len(spreads) != len(centres):
            raise InvalidInput(
                f"{len(spreads)} covariances for {len(centres)} means; give one a component."
            )
        self._set(
            weights=tuple(probabilities(weights, len(centres), "components")),
            means=tuple(sp.ImmutableMatrix(size, 1, m) for m in centres),
            covs=tuple(
                covariance(c, sp.Integer(size), f"covs[{i}]", definite=False).to_matrix()
                for i, c in enumerate(spreads)
            ),
        )

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.means[0].rows

    def _cgf(self, u: list[sp.Expr]) -> sp.Expr:
        parts = [tilted_mean(list(m), c, u)[1] for m, c in zip(self.means, self.covs, strict=True)]
        return log_average(self.weights, parts)

    def __repr__(self) -> str:
        means, covs = [list(m) for m in self.means], [c.tolist() for c in self.covs]
        return f"GaussianMixture(weights={list(self.weights)}, means={means}, covs={covs})"


class _ScaleMixture(TokenLaw):
    """sqrt(T) N(0, cov): its generating function is that of T at q = u' cov u / 2."""

    __slots__ = ("cov",)

    cov: sp.ImmutableMatrix

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.cov.rows

    def _quadratic(self, u: list[sp.Expr]) -> sp.Expr:
        return tilted_mean([0] * self.dim, self.cov, u)[1]


class ScaleMixture(_ScaleMixture):
    """sqrt(T) g with g ~ N(0, cov) and T = scales_k with probability weights_k, independent of g.

    Parameters
    ----------
    cov: d x d entries, or d eigenvalues; positive semi-definite.
    scales: the values of T >= 0, factors of the covariance (squares of length scales).
    weights: positive, of sum 1; `None` for equal weights.

    >>> u = sp.Symbol("u")
    >>> ScaleMixture([[2]], scales=[1, 4]).cgf([u])
    log(exp(4*u**2)/2 + exp(u**2)/2)
    """

    __slots__ = ("scales", "weights")
    _fields = ("cov", "scales", "weights")

    scales: tuple[sp.Expr, ...]
    weights: tuple[sp.Expr, ...]

    def __init__(self, cov: Any, scales: Any, weights: Any = None) -> None:
        values = vector(scales, "scales")
        for i, x in enumerate(values):
            checks.nonnegative(x, f"scales[{i}]")
        self._set(
            cov=_explicit_covariance(cov),
            scales=tuple(values),
            weights=tuple(probabilities(weights, len(values), "scales")),
        )

    def _cgf(self, u: list[sp.Expr]) -> sp.Expr:
        q = self._quadratic(u)
        return log_average(self.weights, [sp.expand(s * q) for s in self.scales])


class GammaScaleMixture(_ScaleMixture):
    """sqrt(T) g with g ~ N(0, cov) and T Gamma distributed, of mean shape * scale.

    `shape` = 1 is the symmetric multivariate Laplace law. K(u) is finite for scale u'cov u < 2.

    >>> u = sp.Symbol("u")
    >>> law = GammaScaleMixture([[2]], shape=3)
    >>> law.cgf([u]), law.domain([u])
    (-3*log(1 - u**2), u**2 < 1)
    """

    __slots__ = ("scale", "shape")
    _fields = ("cov", "shape", "scale")

    shape: sp.Expr
    scale: sp.Expr

    def __init__(self, cov: Any, shape: Any, scale: Any = 1) -> None:
        self._set(
            cov=_explicit_covariance(cov),
            shape=positive(shape, "shape"),
            scale=positive(scale, "scale"),
        )

    def _cgf(self, u: list[sp.Expr]) -> sp.Expr:
        return -self.shape * sp.log(1 - sp.expand(self.scale * self._quadratic(u)))

    def _domain(self, u: list[sp.Expr]) -> Any:
        return sp.expand(self.scale * self._quadratic(u)) < 1


class RegressionTokens(TokenLaw):
    """z = (x, y) in R^{d+1} with x of law `features` and y = coef.x + N(0, noise_var) noise.

    The tokens of one regression prompt: K(a, c) = K_x(a + c coef) + noise_var c^2 / 2.

    >>> from icltheory.laws.tokens import Gaussian
    >>> a, c = sp.symbols("a c")
    >>> RegressionTokens(Gaussian([0], [[1]]), coef=[3]).cgf([a, c])
    a**2/2 + 3*a*c + 9*c**2/2
    """

    __slots__ = ("coef", "features", "noise_var")
    _fields = ("features", "coef", "noise_var")

    features: TokenLaw
    coef: sp.ImmutableMatrix
    noise_var: sp.Expr

    def __init__(self, features: TokenLaw, coef: Any, noise_var: Any = 0) -> None:
        if not isinstance(features, TokenLaw):
            raise InvalidInput(
                f"features has type {type(features).__name__}; pass a law such as "
                f"icl.Gaussian(mean, cov)."
            )
        entries = vector(coef, "coef")
        if len(entries) != features.dim:
            raise InvalidInput(
                f"coef has {len(entries)} entries; the features live in dimension {features.dim}."
            )
        self._set(
            features=features,
            coef=sp.ImmutableMatrix(len(entries), 1, entries),
            noise_var=checks.nonnegative(noise_var, "noise_var"),
        )

    @property
    def dim(self) -> int:
        """Number of coordinates, one more than the features have."""
        return self.features.dim + 1

    def _feature_point(self, u: list[sp.Expr]) -> list[sp.Expr]:
        return [x + u[-1] * w for x, w in zip(u[:-1], self.coef, strict=True)]

    def _cgf(self, u: list[sp.Expr]) -> sp.Expr:
        return self.features._cgf(self._feature_point(u)) + self.noise_var * u[-1] ** 2 / 2

    def _domain(self, u: list[sp.Expr]) -> Any:
        return self.features._domain(self._feature_point(u))


def log_average(weights: Any, exponents: list[sp.Expr]) -> sp.Expr:
    """log sum_k weights_k exp(exponents_k), weights of sum 1."""
    if all(e == exponents[0] for e in exponents):
        return exponents[0]
    return sp.log(sp.Add(*(w * sp.exp(e) for w, e in zip(weights, exponents, strict=True))))


def _sequence(value: Any, name: str) -> list[Any]:
    value = checks.plain(value)
    if not isinstance(value, (list, tuple)) or not value:
        raise InvalidInput(f"{name} must be a non-empty list with one entry a component.")
    return list(value)


def _explicit_covariance(cov: Any) -> sp.ImmutableMatrix:
    value = checks.plain(cov)
    if isinstance(value, sp.MatrixBase):
        value = value.tolist()
    if not isinstance(value, (list, tuple)) or not value:
        raise InvalidInput("cov must be d x d entries or d eigenvalues; they give the dimension.")
    return covariance(value, sp.Integer(len(value)), "cov", definite=False).to_matrix()
