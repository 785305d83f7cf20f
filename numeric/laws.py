"""Token laws on arrays: K, grad K and Hess K without overflow or cancellation, and sampling.

One small class a law of `icltheory.laws`; `array_law` chooses. Dual points come as (m, d). The
functions for users, which broadcast and check, are in `numeric.tokens`.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache, singledispatch
from typing import Any

import numpy as np
from scipy.special import logsumexp

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.laws.tokens import TokenLaw
from numeric.array_law_base import ArrayLaw, choose
from numeric.empirical_law import EmpiricalArray
from numeric.special import bessel_quotient, bessel_slope, log_bessel


def array_law(law: Any) -> ArrayLaw:
    """The array form of a token law; `InvalidInput` for anything else, or if symbols remain."""
    if not isinstance(law, TokenLaw):
        raise InvalidInput(
            f"law has type {type(law).__name__}; pass a token law such as icl.Gaussian(mean, cov)."
        )
    # Large data is read in place; a cache would only keep it alive.
    large = isinstance(law, icl.Empirical) and not law.is_exact
    return _build(law) if large else _cached(law)


@lru_cache(maxsize=32)
def _cached(law: TokenLaw) -> ArrayLaw:
    return _build(law)


@singledispatch
def _build(law: TokenLaw) -> ArrayLaw:
    raise InvalidInput(
        f"{type(law).__name__} has no array form; use its formulas and compile them."
    )


def _floats(values: Iterable[Any], law: TokenLaw) -> np.ndarray:
    values = list(values)
    free = set().union(*(x.free_symbols for x in values))
    if free:
        names = ", ".join(sorted(str(s) for s in free))
        raise InvalidInput(f"{law} still contains {names}; numbers are needed here.")
    return np.array([float(x) for x in values])


def _matrix(matrix: Any, law: TokenLaw) -> np.ndarray:
    return _floats(matrix, law).reshape(matrix.shape)


# -- Gaussian laws and their mixtures --------------------------------------------------------------


class _Gaussian(ArrayLaw):
    def __init__(self, mean: np.ndarray, cov: np.ndarray) -> None:
        self.dim, self._mean, self._cov = len(mean), mean, cov
        values, vectors = np.linalg.eigh(cov)  # singular covariances have a root as well
        self._root = vectors * np.sqrt(np.maximum(values, 0.0))

    def tilt(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shift = u @ self._cov
        return u @ self._mean + np.sum(u * shift, axis=1) / 2, self._mean + shift

    def cov(self, u: np.ndarray) -> np.ndarray:
        return np.tile(self._cov, (len(u), 1, 1))

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return self._mean + rng.standard_normal((size, self.dim)) @ self._root.T


class _Mixture(ArrayLaw):
    def __init__(self, weights: np.ndarray, means: np.ndarray, covs: np.ndarray) -> None:
        self.dim, self._weights, self._means, self._covs = means.shape[1], weights, means, covs
        self._parts = [_Gaussian(m, c) for m, c in zip(means, covs, strict=True)]

    def _responsibilities(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tilts = [part.tilt(u) for part in self._parts]
        logs = np.log(self._weights) + np.stack([k for k, _ in tilts], axis=1)
        total = logsumexp(logs, axis=1)
        return total, np.exp(logs - total[:, None]), np.stack([m for _, m in tilts], axis=1)

    def tilt(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total, shares, means = self._responsibilities(u)
        return total, np.einsum("mk,mkd->md", shares, means)

    def cov(self, u: np.ndarray) -> np.ndarray:
        _, shares, means = self._responsibilities(u)
        means -= np.einsum("mk,mkd->md", shares, means)[:, None]
        between = np.einsum("mki,mkj->mij", means * shares[:, :, None], means)
        return np.tensordot(shares, self._covs, axes=1) + between

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        kinds = choose(rng, np.cumsum(self._weights), size)
        out = np.empty((size, self.dim))
        for k, part in enumerate(self._parts):
            chosen = kinds == k
            out[chosen] = part.sample(rng, int(chosen.sum()))
        return out


class _ScaleMixture(ArrayLaw):
    """sqrt(T) N(0, cov) through log M(q), M'/M and (M'/M)' of T at q = u'cov u / 2."""

    def __init__(self, cov: np.ndarray) -> None:
        self.dim, self._gaussian = len(cov), _Gaussian(np.zeros(len(cov)), cov)

    def _scale(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        raise NotImplementedError

    def _draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        raise NotImplementedError

    def tilt(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q, shift = self._gaussian.tilt(u)
        log, mean, _ = self._scale(q)
        return log, mean[:, None] * shift

    def cov(self, u: np.ndarray) -> np.ndarray:
        q, shift = self._gaussian.tilt(u)
        _, mean, variance = self._scale(q)
        outer = shift[:, :, None] * shift[:, None, :]
        return mean[:, None, None] * self._gaussian.cov(u) + variance[:, None, None] * outer

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return np.sqrt(self._draw(rng, size))[:, None] * self._gaussian.sample(rng, size)


class _DiscreteScale(_ScaleMixture):
    def __init__(self, cov: np.ndarray, scales: np.ndarray, weights: np.ndarray) -> None:
        super().__init__(cov)
        self._scales, self._weights = scales, weights

    def _scale(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        logs = np.log(self._weights) + q[:, None] * self._scales
        total = logsumexp(logs, axis=1)
        shares = np.exp(logs - total[:, None])
        mean = shares @ self._scales
        spread = np.sum(shares * (self._scales - mean[:, None]) ** 2, axis=1)
        return total, mean, spread

    def _draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return self._scales[choose(rng, np.cumsum(self._weights), size)]


class _GammaScale(_ScaleMixture):
    gauge_name, gauge_degree = "scale u'cov u / 2", 2

    def __init__(self, cov: np.ndarray, shape: float, scale: float) -> None:
        super().__init__(cov)
        self._shape, self._theta = shape, scale
        self.gauge = lambda u: scale * self._gaussian.tilt(u)[0]

    def _scale(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean = self._shape * self._theta / (1 - self._theta * q)
        return -self._shape * np.log1p(-self._theta * q), mean, mean**2 / self._shape

    def _draw(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return rng.gamma(self._shape, self._theta, size)


# -- independent coordinates, and the sphere -------------------------------------------------------


class _Product(ArrayLaw):
    """Independent coordinates: K, K' and K'' elementwise."""

    def __init__(self, scales: np.ndarray) -> None:
        self.dim, self._scales = len(scales), scales

    def _first(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def _second(self, u: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def tilt(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        value, slope = self._first(u)
        return value.sum(axis=1), slope

    def cov(self, u: np.ndarray) -> np.ndarray:
        return self._second(u)[:, :, None] * np.eye(self.dim)


class _Rademacher(_Product):
    def _first(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = self._scales * u
        return log_bessel(-0.5, k**2), self._scales * np.tanh(k)

    def _second(self, u: np.ndarray) -> np.ndarray:
        return self._scales**2 * bessel_slope(-0.5, (self._scales * u) ** 2)

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return self._scales * (2.0 * rng.integers(0, 2, (size, self.dim)) - 1)


class _UniformCube(_Product):
    def _first(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        square = (self._scales * u) ** 2
        return log_bessel(0.5, square), self._scales**2 * u * bessel_quotient(0.5, square)

    def _second(self, u: np.ndarray) -> np.ndarray:
        return self._scales**2 * bessel_slope(0.5, (self._scales * u) ** 2)

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return self._scales * rng.uniform(-1, 1, (size, self.dim))


class _Laplace(_Product):
    gauge_name = "max_i scale_i |u_i|"

    def __init__(self, scales: np.ndarray) -> None:
        super().__init__(scales)
        self.gauge = lambda u: np.max(scales * np.abs(u), axis=1)

    def _first(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        k = self._scales * u
        gap = (1 - k) * (1 + k)
        value = np.where(k * k < 0.5, np.log1p(-k * k), np.log(gap))
        return -value, 2 * self._scales * k / gap

    def _second(self, u: np.ndarray) -> np.ndarray:
        k = self._scales * u
        return 2 * self._scales**2 * (1 + k**2) / ((1 - k) * (1 + k)) ** 2

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        return rng.laplace(scale=self._scales, size=(size, self.dim))


class _Sphere(ArrayLaw):
    def __init__(self, dim: int, radius: float) -> None:
        self.dim, self._radius, self._nu = dim, radius, dim / 2 - 1

    def _square(self, u: np.ndarray) -> np.ndarray:
        return self._radius**2 * np.sum(u * u, axis=1)

    def tilt(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s = self._square(u)
        return log_bessel(self._nu, s), (self._radius**2 * bessel_quotient(self._nu, s))[
            :, None
        ] * u

    def cov(self, u: np.ndarray) -> np.ndarray:
        s = self._square(u)
        along, across = bessel_slope(self._nu, s), bessel_quotient(self._nu, s)
        length = np.sqrt(np.sum(u * u, axis=1, keepdims=True))
        e = np.divide(u, length, out=np.zeros_like(u), where=length > 0)
        radial = e[:, :, None] * e[:, None, :]
        across = across[:, None, None]
        return self._radius**2 * (
            across * (np.eye(self.dim) - radial) + along[:, None, None] * radial
        )

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        z = rng.standard_normal((size, self.dim))
        return z * (self._radius / np.sqrt(np.sum(z * z, axis=1, keepdims=True)))


# -- regression tokens -------------------------------------------------------------------


class _Regression(ArrayLaw):
    def __init__(self, features: ArrayLaw, coef: np.ndarray, noise_var: float) -> None:
        self.dim, self._features = features.dim + 1, features
        self._coef, self._noise = coef, noise_var
        self._lift = np.vstack([np.eye(features.dim), coef])  # x -> (x, coef.x)
        gauge = features.gauge
        if gauge is not None:
            self.gauge = lambda u: gauge(u @ self._lift)
            self.gauge_name = f"{features.gauge_name} (at a + c coef)"
            self.gauge_degree = features.gauge_degree

    def tilt(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cgf, mean = self._features.tilt(u @ self._lift)
        mean = mean @ self._lift.T
        mean[:, -1] += self._noise * u[:, -1]
        return cgf + self._noise * u[:, -1] ** 2 / 2, mean

    def cov(self, u: np.ndarray) -> np.ndarray:
        out = self._lift @ self._features.cov(u @ self._lift) @ self._lift.T
        out[:, -1, -1] += self._noise
        return out

    def sample(self, rng: np.random.Generator, size: int) -> np.ndarray:
        x = self._features.sample(rng, size)
        y = x @ self._coef + np.sqrt(self._noise) * rng.standard_normal(size)
        return np.column_stack([x, y])


# -- which class -----------------------------------------------------------------------------------


@_build.register
def _(law: icl.Gaussian) -> ArrayLaw:
    return _Gaussian(_matrix(law.mean, law)[:, 0], _matrix(law.cov, law))


@_build.register
def _(law: icl.GaussianMixture) -> ArrayLaw:
    means = np.stack([_matrix(m, law)[:, 0] for m in law.means])
    return _Mixture(_floats(law.weights, law), means, np.stack([_matrix(c, law) for c in law.covs]))


@_build.register
def _(law: icl.ScaleMixture) -> ArrayLaw:
    return _DiscreteScale(
        _matrix(law.cov, law), _floats(law.scales, law), _floats(law.weights, law)
    )


@_build.register
def _(law: icl.GammaScaleMixture) -> ArrayLaw:
    shape, scale = _floats([law.shape, law.scale], law)
    return _GammaScale(_matrix(law.cov, law), float(shape), float(scale))


@_build.register
def _(law: icl.Rademacher) -> ArrayLaw:
    return _Rademacher(_floats(law.scales, law))


@_build.register
def _(law: icl.UniformCube) -> ArrayLaw:
    return _UniformCube(_floats(law.scales, law))


@_build.register
def _(law: icl.Laplace) -> ArrayLaw:
    return _Laplace(_floats(law.scales, law))


@_build.register
def _(law: icl.Sphere) -> ArrayLaw:
    return _Sphere(law.dim, float(_floats([law.radius], law)[0]))


@_build.register
def _(law: icl.Empirical) -> ArrayLaw:
    weights = law.weight_buffer()
    return EmpiricalArray(
        np.asarray(law.buffer()), None if weights is None else np.asarray(weights)
    )


@_build.register
def _(law: icl.RegressionTokens) -> ArrayLaw:
    return _Regression(
        _build(law.features), _matrix(law.coef, law)[:, 0], float(_floats([law.noise_var], law)[0])
    )
