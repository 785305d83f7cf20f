"""Softmax heads on features with independent, identical coordinates: by quadrature.

One head on one-dimensional features is exact at every prompt length, by the Laplace transform of the
normaliser that `numeric.prompt_moments` uses for Gaussian scores. In d dimensions the infinite
prompt and the coefficient of 1/n are averages over one coordinate, since everything factorises. All
in standardised coordinates, scores k x_q'Sigma^{-1}x_i. Exported: `product_limit_risk`,
`product_expansion`, `exact_product_risk`, `best_product_head`, `Coordinate`.
"""

from __future__ import annotations

import math
from functools import cached_property, lru_cache, singledispatch
from typing import Any

import numpy as np
from scipy import optimize

import icltheory as icl
from icltheory.coordinates import CoordinateCumulants, coordinate_cumulants, one_coordinate
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.laws.tokens import TokenLaw
from icltheory.product_features import standardised_coordinate
from icltheory.task import LinearRegression
from numeric.arrays import TaskArrays, finite, task_arrays
from numeric.laws import array_law
from numeric.prompt_moments import checked_lengths
from numeric.risk import OptimalRisk

_STEP = 0.2  # of the trapezoidal sums in the logarithm of the Laplace variable
_LARGEST = 400.0  # of the scores
_CUT = 1e-6  # share of an average on the outermost panels, beyond which next to nothing is left
_ORDER, _WIDTH = 16, 6.0  # Gauss-Legendre nodes on a panel, and the scores it may span


def product_limit_risk(
    task: LinearRegression, features: TokenLaw, score_scale: Any, value_scale: Any = None
) -> Any:
    """Risk of one softmax head in an infinite prompt: R E (v Lambda'(k xi) - xi)^2, by quadrature.

    Parameters
    ----------
    task, features: as in `icl.product_bias`; R is the signal of the task.
    score_scale, value_scale: k and v, which broadcast; `None` is the best v at this k.

    Errors: `OutOfDomain` where a query may lie outside the domain of Lambda (`icl.Laplace`),
    `InvalidInput`. Source: derived here.

    >>> task, law = icl.LinearRegression(dim=3), icl.UniformCube(dim=1, half_width=3**0.5)
    >>> risk = product_limit_risk(task, law, 0.1)
    >>> round(risk * 1e6, 3), round(risk / float(icl.product_bias(task, law).subs(k=0.1).expr), 3)
    (2.44, 0.988)
    """
    arrays, head = task_arrays(task), Coordinate.of(task, features)
    scales, values = _scales(score_scale, value_scale)
    out = np.empty(scales.shape)
    for index in np.ndindex(scales.shape):
        out[index] = head.limit(float(scales[index]), float(values[index]))
    return _plain(arrays.signal * out)


def product_expansion(
    task: LinearRegression, features: TokenLaw, score_scale: float, value_scale: float | None = None
) -> tuple[float, float]:
    """(R_inf, c) of the risk R_inf + c/n + o(1/n) of one softmax head at fixed k and v, any d.

    The covariance and the bias of order 1/n of the output, averaged over the query; both factorise
    over coordinates. Parameters and errors as in `product_limit_risk`; 2 k xi must be in the domain,
    and `OutOfDomain` too where queries beyond the quadrature decide (Gaussian features: k above 0.48).
    Source: derived here.

    >>> task = icl.LinearRegression(dim=5)  # Gaussian features, as a check
    >>> limit, c = product_expansion(task, icl.Gaussian([0], [[1]]), 0.35, 1 / 0.35)
    >>> round(limit, 12), round(c, 6), round(float(icl.head_constant(task, [0.35], [1 / 0.35])), 6)
    (0.0, 19.155642, 19.155642)
    """
    arrays, head = task_arrays(task), Coordinate.of(task, features)
    scales, values = _scales(score_scale, value_scale)
    if scales.shape:
        raise InvalidInput("score_scale and value_scale are one number each here.")
    k, v = float(scales), float(values)
    v = head.best_value(k) if math.isnan(v) else v
    return arrays.signal * head.limit(k, v), head.coefficient(k, v, arrays)


def exact_product_risk(
    task: LinearRegression,
    features: TokenLaw,
    prompt_length: Any,
    score_scale: Any,
    value_scale: Any = None,
) -> Any:
    """Risk of one softmax head on one-dimensional features at every prompt length n, by quadrature.

    Parameters
    ----------
    task: dim = 1. features: as in `icl.product_bias`.
    prompt_length, score_scale, value_scale: n >= 1, k >= 0 and v, which broadcast; a value_scale of
        `None` is the best one.

    The absolute error is about 1e-12. Errors: `InvalidInput`, `OutOfDomain` for scores above 400.
    Source: derived here. The simulation for d > 1 is `simulate_product_risk`.

    >>> task, law = icl.LinearRegression(dim=1), icl.Rademacher(dim=1)
    >>> round(exact_product_risk(task, law, 100, 0.7), 8)
    0.01137686
    """
    arrays, head = task_arrays(task), Coordinate.of(task, features)
    if arrays.dim != 1:
        raise InvalidInput(
            f"dim = {arrays.dim}: the exact risk on product features is available in dimension 1; use "
            f"numeric.simulate_product_risk, or numeric.product_expansion in long prompts."
        )
    lengths, (scales, values) = checked_lengths(prompt_length), _scales(score_scale, value_scale)
    lengths, scales, values = np.broadcast_arrays(lengths, scales, values)
    out = np.empty(lengths.shape)
    for index in np.ndindex(lengths.shape):
        n, k, v = lengths[index], scales[index], values[index]
        out[index] = head.risk(float(n), float(k), float(v), arrays)[0]
    return _plain(out)


def best_product_head(
    task: LinearRegression, features: TokenLaw, prompt_length: Any
) -> OptimalRisk:
    """Smallest `exact_product_risk` over k and v at each prompt length (dim = 1).

    Bounded search over 0.01 <= k <= 5 (relative error of the risk below 1e-8); an optimum at the upper
    end is reported as it is (with values -c, c it may be at infinity). `icl.optimal_product_risk` is
    the law for n -> infinity. Errors as in `exact_product_risk`.

    >>> law = icl.UniformCube(dim=1, half_width=3**0.5)
    >>> best = best_product_head(icl.LinearRegression(dim=1), law, 1000)
    >>> round(best.risk * 1000 ** (2 / 3), 3)
    0.522
    """
    arrays, head = task_arrays(task), Coordinate.of(task, features)
    if arrays.dim != 1:
        raise InvalidInput(f"dim = {arrays.dim}: the exact risk is available in dimension 1.")
    lengths = checked_lengths(prompt_length)
    found = np.empty((3, *lengths.shape))
    for index in np.ndindex(lengths.shape):
        n = float(lengths[index])

        def profile(log_k: float, n: float = n) -> float:
            return head.risk(n, math.exp(log_k), math.nan, arrays)[0]

        # From small scales up, until the risk has risen twice.
        last = math.log(min(5.0, head.largest_scale))
        grid = [math.log(0.01)]
        table = [profile(grid[0])]
        while grid[-1] < last and int(np.argmin(table)) > len(grid) - 3:
            grid.append(min(grid[-1] + 0.3, last))
            table.append(profile(grid[-1]))
        best = int(np.argmin(table))
        bounds = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
        result = optimize.minimize_scalar(
            profile, bounds=bounds, method="bounded", options={"xatol": 1e-7}
        )
        k = math.exp(result.x)
        risk, value = head.risk(n, k, math.nan, arrays)
        found[:, *index] = risk, k, value
    risk, k, value = (_plain(row) for row in found)
    return OptimalRisk(_plain(lengths), risk, k, value)


# -- one coordinate ------------------------------------------------------------------------------


class Coordinate:
    """A standardised coordinate: quadrature of its law, and its generating function.

    `nodes`, `weights`: atoms, or Gauss-Legendre panels; `refined(scale)` resolves exp(-exp(scale xi)).
    """

    def __init__(self, law: TokenLaw) -> None:
        self.law, self._token_law = array_law(law), law
        self.std = math.sqrt(float(coordinate_cumulants(law, 6).variance))

    @cached_property
    def _support(self) -> tuple[Any, Any]:
        return _support(self._token_law)

    @cached_property
    def nodes(self) -> np.ndarray:
        """Standardised nodes of the law."""
        return self.refined(0.0)[0]

    @cached_property
    def weights(self) -> np.ndarray:
        """Probabilities of the nodes."""
        return self.refined(0.0)[1]

    def refined(self, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Nodes and probabilities on which functions of scale * xi of unit width are resolved."""
        points, density = self._support
        if density is None:
            return points[0] / self.std, points[1]
        parts = np.maximum(1, np.ceil(np.diff(points) * scale / (_WIDTH * self.std))).astype(int)
        fractions = [np.arange(p) / p for p in parts]
        starts = [x + f * w for x, f, w in zip(points, fractions, np.diff(points), strict=False)]
        edges = np.concatenate([*starts, points[-1:]])
        y, w = np.polynomial.legendre.leggauss(_ORDER)
        half = np.diff(edges)[:, None] / 2
        x = (edges[:-1, None] + half * (y + 1)).ravel()
        w = (half * w).ravel() * density(x)
        return x / self.std, w / w.sum()

    @staticmethod
    def of(task: LinearRegression, features: Any) -> Coordinate:
        if isinstance(features, CoordinateCumulants):
            raise InvalidInput("cumulants are not a law; pass a token law such as icl.UniformCube.")
        standardised_coordinate(task, features)
        return _built(one_coordinate(features, task.dim))

    @property
    def largest_scale(self) -> float:
        """The k at which the largest scores that matter reach the bound of the quadrature."""
        return _LARGEST / float(np.max(np.abs(self.nodes))) ** 2

    def tilted(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lambda and its derivative at u, standardised; the law's own domain is checked."""
        points = (u / self.std)[:, None]
        gauge = self.law.gauge
        if gauge is not None and np.any(gauge(points) >= 1):
            raise OutOfDomain(
                "a query may have scores without exponential moments (its dual point is outside the "
                "domain of the generating function), so that the infinite prompt has no limit; use "
                "bounded features, or icl.optimal_product_risk for k -> 0."
            )
        cgf, mean = self.law.tilt(points)
        return cgf, mean[:, 0] / self.std

    def best_value(self, k: float) -> float:
        read = self.tilted(k * self.nodes)[1]
        square = float(self.weights @ read**2)
        return float(self.weights @ (read * self.nodes)) / square if square else 0.0

    def limit(self, k: float, v: float) -> float:
        """E (v Lambda'(k xi) - xi)^2; NaN for v is the best value."""
        read = self.tilted(k * self.nodes)[1]
        v = self.best_value(k) if math.isnan(v) else v
        return float(self.weights @ (v * read - self.nodes) ** 2)

    def coefficient(self, k: float, v: float, arrays: TaskArrays) -> float:
        """c of the risk R_inf + c/n, see `product_expansion`."""
        u = k * self.nodes
        (cgf, read), (double, twice) = self.tilted(u), self.tilted(2 * u)
        rho, shift = np.exp(double - 2 * cgf), twice - read
        cov = self.law.cov((2 * u / self.std)[:, None])[:, 0, 0] / self.std**2
        factor = float(self.weights @ rho)
        # Cov T = rho (H(2u) + shift shift')/n and E T - limit = -rho shift/n, by coordinates.
        spread = v**2 * rho * (cov + shift**2) - 2 * v * rho * (v * read - self.nodes) * shift
        self._require_resolved(rho, k)
        self._require_resolved(spread, k)
        along = arrays.signal * float(self.weights @ spread) * factor ** (arrays.dim - 1)
        return along + arrays.noise_var * v**2 * factor**arrays.dim

    def _require_resolved(self, values: np.ndarray, k: float) -> None:
        """`OutOfDomain` if an average lives on queries beyond the nodes of an unbounded law."""
        points, density = self._support
        if density is None or np.max(density(points[[0, -1]])) > 1e-9 * np.max(density(points)):
            return  # a bounded law has all of its mass on the nodes
        parts = self.weights * np.abs(values)
        edge = parts[:_ORDER].sum() + parts[-_ORDER:].sum()
        if edge > _CUT * parts.sum():
            raise OutOfDomain(
                f"score_scale = {k:g}: the coefficient of 1/n is infinite, or decided by queries too "
                f"large for this quadrature; use a smaller one (Gaussian features: finite for "
                f"k^2 < 1/2, exactly in icl.head_constant)."
            )

    def risk(self, n: float, k: float, v: float, arrays: TaskArrays) -> tuple[float, float]:
        """Risk and value (the best one for NaN) of one head in dimension 1."""
        if k > self.largest_scale:
            raise OutOfDomain(
                f"score_scale = {k:g} is above {self.largest_scale:.4g}, where scores reach "
                f"{_LARGEST:g}; use a smaller one."
            )
        signal, noise = arrays.signal, arrays.noise_var
        positive = self.nodes > 0  # symmetric laws: the query -xi reads the negative
        probability = 2 * self.weights[positive]
        moments = np.array([self._moments(n, k * x) for x in self.nodes[positive]])
        read, square, weight = moments.T
        at_zero = 1 - float(probability.sum())  # a query 0 averages the prompt
        linear = signal * float(probability @ (self.nodes[positive] * read))
        quadratic = float(probability @ (signal * square + noise * weight))
        quadratic += at_zero * (signal + noise) / n
        if math.isnan(v):
            v = linear / quadratic
        # Squares of biases and variances, which do not cancel.
        bias = float(probability @ (self.nodes[positive] - v * read) ** 2)
        variance = float(probability @ (signal * (square - read**2) + noise * weight))
        variance += at_zero * (signal + noise) / n
        return signal * bias + v**2 * variance, v

    def _moments(self, n: float, scale: float) -> tuple[float, float, float]:
        """E m, E m^2 and E sum w^2 for m = sum w xi, w = softmax(scale xi) over n coordinates."""
        if scale == 0:
            return 0.0, 1 / n, 1 / n
        reach = scale * float(np.max(np.abs(self.nodes)))
        nodes, weights = self.refined(scale)
        u = np.arange(-math.log(n) - reach - 40, reach + 5 + _STEP, _STEP)
        x = np.minimum(u[:, None] + scale * nodes, 30.0)
        w = np.exp(x)
        decay = np.exp(-w)
        tail = -np.expm1(-w) @ weights
        log_phi = np.where(
            tail < 0.5,
            np.log1p(-np.minimum(tail, 0.5)),
            np.log(np.maximum(decay @ weights, 1e-300)),
        )
        first, second = w * decay, w * w * decay
        a = first @ (weights * nodes)
        others = np.exp((n - 1) * log_phi)
        read = _STEP * n * float(a @ others)
        square = _STEP * n * float((second @ (weights * nodes**2)) @ others)
        if n > 1:
            square += _STEP * n * (n - 1) * float(a**2 @ np.exp((n - 2) * log_phi))
        weight = _STEP * n * float((second @ weights) @ others)
        return read, square, weight


@lru_cache(maxsize=32)
def _built(law: TokenLaw) -> Coordinate:
    return Coordinate(law)


@singledispatch
def _support(law: TokenLaw) -> tuple[Any, Any]:
    """(edges of panels, density up to a factor), or ((atoms, probabilities), None)."""
    raise InvalidInput(
        f"no quadrature for {law}; available are Rademacher, UniformCube, Laplace, Gaussian and "
        f"Empirical laws. simulate_product_risk takes every law."
    )


@_support.register
def _(law: icl.Rademacher) -> tuple[Any, Any]:
    scale = float(law.scales[0])
    return (np.array([-scale, scale]), np.array([0.5, 0.5])), None


@_support.register
def _(law: icl.UniformCube) -> tuple[Any, Any]:
    return float(law.scales[0]) * np.linspace(-1, 1, 4), np.ones_like


@_support.register
def _(law: icl.Laplace) -> tuple[Any, Any]:
    scale, edges = float(law.scales[0]), np.array([0, 1.5, 3.5, 6, 9, 12.5, 16.5, 21, 28])
    return scale * np.append(-edges[:0:-1], edges), lambda x: np.exp(-np.abs(x) / scale)


@_support.register
def _(law: icl.Gaussian) -> tuple[Any, Any]:
    variance = float(law.cov[0, 0])
    return math.sqrt(variance) * np.linspace(-9, 9, 10), lambda x: np.exp(-(x**2) / (2 * variance))


@_support.register
def _(law: icl.Empirical) -> tuple[Any, Any]:
    points = np.asarray(law.buffer(), dtype=float).reshape(-1)
    given = law.weight_buffer()
    weights = np.full(points.size, 1 / points.size) if given is None else np.asarray(given)
    return (points, weights), None


# -- arguments -----------------------------------------------------------------------------------


def _scales(score_scale: Any, value_scale: Any) -> tuple[np.ndarray, np.ndarray]:
    scales = finite(score_scale, "score_scale")
    if np.any(scales < 0):
        raise InvalidInput(
            f"score_scale = {scales.min():g} is negative; change the sign of both scales, which leaves "
            f"the risk as it is."
        )
    values = np.array(np.nan) if value_scale is None else finite(value_scale, "value_scale")
    scales, values = np.broadcast_arrays(scales, values)
    return scales, values


def _plain(array: Any) -> Any:
    return float(array) if np.ndim(array) == 0 else array
