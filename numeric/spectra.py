"""Averages over the eigenvalues of S = X'X, without sampling at finite n and d and in the limit.

For the real Wishart ensemble E prod (1 + eps f(lambda_i)) is a ratio of Pfaffians (de Bruijn 1955);
its logarithmic derivative gives E sum f(lambda_i), and with it the density of the eigenvalues at
every point. In the variable y = sqrt(lambda) and with orthonormal Laguerre functions psi_j the matrix
A_jk = iint sgn(y' - y) psi_j psi_k stays well conditioned. The density at the nodes of a quadrature
is computed once for (n, d); every average is then a sum. What couples eigenvalues is sampled from
the bidiagonal model of Dumitriu and Edelman (2002). Exported: `wishart_average`, `wishart_density`,
`wishart_eigenvalues`, `marchenko_pastur_average`, `SpectralAverage`; `wishart_quadrature` and
`marchenko_pastur_quadrature` serve the risks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import finite, integer, number, positive
from numeric.decoding_display import Shown
from numeric.montecarlo import Seed, seed_sequence

LARGEST = 200  # min(n, d): beyond it the Laguerre functions underflow where others matter
LARGEST_SIZE = 1e12  # max(n, d)
_NODES = 20  # Gauss-Legendre nodes of a panel
_HALVINGS = 30  # panels that halve towards 0, for functions with structure at small eigenvalues
_LEVELS = 4  # refinements until an average is stable
_STABLE = 1e-11
_UNSTABLE = 1e-4
_SPREAD = 9.0  # singular values lie within sqrt(M) +- (sqrt(m) + 9), up to e^{-40}
_BLOCK = 2**24  # bytes of bidiagonal matrices at a time

Function = Callable[[np.ndarray], Any]


@dataclass(frozen=True, repr=False)
class SpectralAverage(Shown):
    """E sum_i f(lambda_i) with a bound on the quadrature's error; `float(...)` is the value.

    Both have the shape of f's leading axes.
    """

    value: Any
    error: Any

    def __float__(self) -> float:
        return float(self.value)


@dataclass(frozen=True, eq=False)
class Quadrature:
    """sum_k weights_k f(values_k) is the sum of f over the nonzero eigenvalues, on average.

    In the limit law the sum is divided by d. null: multiplicity (or mass) of the eigenvalue 0.
    """

    values: np.ndarray
    weights: np.ndarray
    null: float

    def sum(self, f: np.ndarray) -> Any:
        """The average for f at `values` on the last axis, without the null eigenvalues."""
        return f @ self.weights

    def restricted(self, low: float, high: float) -> Quadrature:
        """The same for low < lambda < high; both must be edges of panels."""
        keep = (self.values > low) & (self.values < high)
        return Quadrature(self.values[keep], self.weights[keep], self.null)


def wishart_average(
    f: Function, n: int, d: int, *, above: float = 0.0, below: float = math.inf
) -> SpectralAverage:
    """E sum_i f(lambda_i) over the min(n, d) nonzero eigenvalues of S = X'X in (above, below).

    Parameters
    ----------
    f: a function of arrays of eigenvalues > 0, (K,) to (..., K); it grows more slowly than
        exp(lambda/2). It may vary fast near 0, and elsewhere on scales down to about 1e-3 of the
        range.
    n, d: integers >= 1, min(n, d) at most 200, max(n, d) at most 1e12; X has n standard Gaussian rows.

    The quadrature is refined until the value is stable to 1e-11; `error` is the last change.
    Errors: `InvalidInput`, `OutOfDomain`. Source: de Bruijn (1955).

    >>> round(float(wishart_average(lambda x: 1 / x, 10, 3)), 10)  # 3/(10 - 3 - 1)
    0.5
    """
    length, dim = sizes(n, d)
    low, high = number(above, "above"), float(below)
    if not 0 <= low < high:
        raise InvalidInput(f"above = {low:g} and below = {high:g} bound no eigenvalues.")
    edges = tuple(x for x in (low, high) if 0 < x < math.inf)

    def at(level: int) -> Any:
        rule = wishart_quadrature(length, dim, edges, level).restricted(low, high)
        values = _at_nodes(f, rule)
        if high == math.inf:
            _require_decay(np.abs(values) * rule.weights)
        return rule.sum(values)

    return refined(at)


def _at_nodes(f: Function, rule: Quadrature) -> np.ndarray:
    """f at the nodes, (..., K); a constant holds at all of them."""
    values = _finite(np.asarray(f(rule.values), dtype=float))
    if values.ndim and values.shape[-1] != len(rule.values):
        raise InvalidInput(
            f"f returned shape {values.shape} for eigenvalues of shape {rule.values.shape}; it must "
            f"return (..., {len(rule.values)})."
        )
    return values if values.ndim else np.full(rule.values.shape, float(values))


def _require_decay(terms: np.ndarray) -> None:
    """Refuse terms (..., K) that are not negligible on the last panel."""
    end = terms[..., -_NODES:].sum(axis=-1)
    if np.any(end > 1e-9 * terms.sum(axis=-1)):
        raise OutOfDomain(
            "the function grows so fast that large eigenvalues, where the density falls like "
            "exp(-lambda/2), carry the average: it is infinite or out of reach; pass below=."
        )


def refined(at: Callable[[int], Any]) -> SpectralAverage:
    """Values of finer and finer quadratures until they agree; the error is their last difference."""
    value = _finite(at(0))
    for level in range(1, _LEVELS + 1):
        before, value = value, _finite(at(level))
        error = np.abs(value - before) + 1e-14 * np.abs(value)
        if np.all(error <= _STABLE * np.abs(value)):
            break
    if np.any(error > _UNSTABLE * np.abs(value)):
        raise OutOfDomain(
            "the average does not settle as the quadrature is refined: it is infinite (1/lambda needs "
            "|n - d| >= 2), or the function jumps (pass the place as above= or below=)."
        )
    return SpectralAverage(value[()], error[()])


def _finite(value: Any) -> np.ndarray:
    value = np.asarray(value)
    if not np.all(np.isfinite(value)):
        raise OutOfDomain("the function leaves the range of float64 on the eigenvalues' range.")
    return value


def wishart_density(x: Any, n: int, d: int) -> np.ndarray:
    """Expected number of eigenvalues of S = X'X per unit of lambda, at every x > 0 (any shape).

    The integral over all x is min(n, d). Sizes as for `wishart_average`.

    >>> x = np.array([0.5, 2.0])
    >>> np.allclose(wishart_density(x, 1, 1), np.exp(-x / 2) / np.sqrt(2 * np.pi * x))
    True
    """
    length, dim = sizes(n, d)
    points = finite(x, "x")
    if np.any(points <= 0):
        raise InvalidInput(f"x reaches {points.min():g}; the density is for eigenvalues > 0.")
    y = np.sqrt(points.ravel())
    order = np.argsort(y)
    count, most = min(length, dim), max(length, dim)
    low, high = _range(count, most)
    inner = y[order][(y[order] > low) & (y[order] < high)]
    edges = np.unique(np.concatenate([_panels(low, high, (), 0, count), inner]))
    values, _, density = _ensemble(count, float(most), edges, at_edges=True)
    out = np.zeros(len(y))
    inside = (y > low) & (y < high)
    out[inside] = density[np.searchsorted(values, y[inside])]
    return (out / (2 * y)).reshape(points.shape)[()]


@lru_cache(maxsize=128)
def wishart_quadrature(
    n: int, d: int, edges: tuple[float, ...] = (), level: int = 0, reach: float = 0.0
) -> Quadrature:
    """Nodes in the eigenvalue and weights that contain their density; the arguments are not checked.

    edges: eigenvalues at which panels end. level: halves all panels so many times. reach: an
    eigenvalue up to which the nodes go, where a growing function needs more than the bulk.
    """
    count, most = min(n, d), max(n, d)
    low, high = _range(count, most)
    high = max(high, math.sqrt(reach))
    panels = _panels(low, high, tuple(math.sqrt(x) for x in edges), level, count)
    y, weights, density = _ensemble(count, float(most), panels)
    return Quadrature(y * y, weights * density, float(max(d - n, 0)))


def sizes(n: Any, d: Any) -> tuple[int, int]:
    """n and d as integers >= 1 with a quadrature."""
    length, dim = (integer(x, name) for x, name in ((n, "n"), (d, "d")))
    if max(length, dim) > LARGEST_SIZE:
        raise OutOfDomain(
            f"max(n, d) = {max(length, dim):.3g} is above {LARGEST_SIZE:.0g}, where the spread of the "
            f"eigenvalues is lost in float64; use an expansion in 1/n there."
        )
    if min(length, dim) > LARGEST:
        raise OutOfDomain(
            f"min(n, d) = {min(length, dim)} is above {LARGEST}; use the limit of large dimensions "
            f"(numeric.marchenko_pastur_average, numeric.solver_risk_limit)."
        )
    return length, dim


# -- the ensemble --------------------------------------------------------------------------------


def _range(count: int, most: float) -> tuple[float, float]:
    centre, spread = math.sqrt(most), math.sqrt(count) + _SPREAD
    return max(0.0, centre - spread), centre + spread


def _panels(
    low: float, high: float, edges: tuple[float, ...], level: int, count: int
) -> np.ndarray:
    """Ends of panels: equal ones, cut at `edges`, and halving towards 0."""
    number_of = max(60, count) * 2**level
    cuts = np.linspace(low, high, number_of + 1)
    if low == 0:
        halves = cuts[1] * 0.5 ** np.arange(1, _HALVINGS + 1)
        cuts = np.concatenate([halves, cuts])
    inside = [x for x in edges if low < x < high]
    return np.unique(np.concatenate([cuts, inside]))


def _ensemble(
    count: int, most: float, edges: np.ndarray, at_edges: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes y, their weights, and the density of the singular values there (or at the inner edges).

    E sum f(y_i) = tr(A^{-1} B)/2 with B_jk = int f (psi_j E_k - psi_k E_j), where E_k(y) is the
    integral of sgn(y' - y) psi_k(y') over y'; so the density is sum_jk (A^{-1})_kj psi_j E_k. For an
    odd number the integrals of the psi_j border A, and E of the border is 1.
    """
    x, w = np.polynomial.legendre.leggauss(_NODES)
    half = np.diff(edges) / 2
    y = (edges[:-1, None] + half[:, None] * (x + 1)).ravel()
    weights = (half[:, None] * w).ravel()
    order = most - count  # psi_j ~ y^order p_j(y^2) exp(-y^2/2)
    psi = _laguerre_functions(count, order, y)
    panels = psi.reshape(count, len(half), _NODES)
    ends = np.cumsum(panels @ w * half, axis=1)  # int up to the right end of every panel
    starts = np.concatenate([np.zeros((count, 1)), ends[:, :-1]], axis=1)
    primitive = starts[:, :, None] + (panels * half[:, None]) @ _primitive().T
    primitive = primitive.reshape(count, -1)
    pairs = (psi * weights) @ primitive.T
    skew = pairs.T - pairs
    total = ends[:, -1]
    if count % 2:
        skew = np.block([[skew, total[:, None]], [-total[None], np.zeros((1, 1))]])
    inverse = np.linalg.inv(skew)
    if at_edges:
        y, psi, primitive = edges[1:], _laguerre_functions(count, order, edges[1:]), ends
    outer = total[:, None] - 2 * primitive
    mixed = inverse[:count, :count].T @ outer
    if count % 2:
        mixed += inverse[count, :count, None]
    return y, weights, np.einsum("jy,jy->y", psi, mixed)


@lru_cache(maxsize=1)
def _primitive() -> np.ndarray:
    """Matrix from values at the Gauss-Legendre nodes on [-1, 1] to the primitive at these nodes."""
    x, w = np.polynomial.legendre.leggauss(_NODES)
    legendre = np.polynomial.legendre.legvander(x, _NODES)
    coefficients = (legendre[:, :_NODES] * w[:, None]).T * (np.arange(_NODES) + 0.5)[:, None]
    order = np.arange(1, _NODES)
    primitives = np.empty((_NODES, _NODES))
    primitives[:, 0] = x + 1
    primitives[:, 1:] = (legendre[:, 2:] - legendre[:, :-2]) / (2 * order + 1)
    return primitives @ coefficients


def _laguerre_functions(count: int, order: float, y: np.ndarray) -> np.ndarray:
    """Functions y^order p_j(y^2) exp(-y^2/2), j < count, orthogonal in y > 0, all of one norm."""
    x, a, top = y * y, order - 0.5, math.sqrt(order)  # a: the Laguerre parameter
    start = -np.square(y - top) / 2
    if order:
        # y^order e^{-x/2} over its maximum: neither part may be large against the sum.
        z = (y - top) / top
        start += order * (np.log1p(z) - z)
    psi = np.zeros((count, len(y)))
    psi[0] = np.exp(start)
    for j in range(1, count):
        # The normalised three-term recurrence of Laguerre polynomials.
        psi[j] = (2 * j - 1 + a - x) * psi[j - 1] / math.sqrt(j * (j + a))
        if j > 1:
            psi[j] -= math.sqrt((j - 1) * (j - 1 + a) / (j * (j + a))) * psi[j - 2]
    return psi


# -- sampling ------------------------------------------------------------------------------------


def wishart_eigenvalues(n: int, d: int, samples: int, seed: Seed = 0) -> np.ndarray:
    """Samples of the min(n, d) nonzero eigenvalues of S = X'X in increasing order, (samples, min(n, d)).

    Squared singular values of a bidiagonal matrix with independent chi entries, which have exactly
    this law; small ones keep their relative accuracy. Source: Dumitriu and Edelman,
    math-ph/0206043.

    >>> wishart_eigenvalues(5, 2, 3, seed=1).shape
    (3, 2)
    """
    length, dim, size = (integer(x, name) for x, name in ((n, "n"), (d, "d"), (samples, "samples")))
    rng = np.random.default_rng(seed_sequence(seed))
    return np.concatenate(list(eigenvalue_batches(length, dim, size, rng)))


def eigenvalue_batches(
    n: int, d: int, samples: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """The samples of `wishart_eigenvalues` in batches of bounded memory."""
    count, most = min(n, d), max(n, d)
    batch = max(1, _BLOCK // (8 * count * count))
    rows = np.arange(count)
    while samples:
        size = min(batch, samples)
        matrices = np.zeros((size, count, count))
        matrices[:, rows, rows] = np.sqrt(rng.chisquare(most - rows, (size, count)))
        below = count - rows[1:]
        matrices[:, rows[1:], rows[:-1]] = np.sqrt(rng.chisquare(below, (size, count - 1)))
        yield np.linalg.svd(matrices, compute_uv=False)[:, ::-1] ** 2
        samples -= size


# -- the limit -----------------------------------------------------------------------------------


def marchenko_pastur_average(f: Function, gamma: float) -> SpectralAverage:
    """int f(x) rho(x) dx over the continuous part of the Marchenko-Pastur law of S/n, d/n -> gamma.

    f takes arrays of x > 0, (K,) to (..., K). The mass is min(1, 1/gamma); the atom 1 - 1/gamma at 0
    for gamma > 1 is not included. Errors: `InvalidInput`, `OutOfDomain`.

    >>> round(float(marchenko_pastur_average(lambda x: x**2, 0.5)), 10)  # 1 + gamma
    1.5
    """
    ratio = positive(gamma, "gamma", "0.5")

    def at(level: int) -> Any:
        rule = marchenko_pastur_quadrature(ratio, level)
        return rule.sum(_at_nodes(f, rule))

    return refined(at)


@lru_cache(maxsize=32)
def marchenko_pastur_quadrature(gamma: float, level: int = 0) -> Quadrature:
    """Nodes and weights of the limit law, normalised to all d eigenvalues.

    With x = 1 + gamma - 2 sqrt(gamma) cos(phi) the density is (2/pi) sin(phi)^2/x in phi.
    """
    x, w = np.polynomial.legendre.leggauss(_NODES)
    cuts = _panels(0.0, math.pi, (), level, 1)
    half = np.diff(cuts) / 2
    angle = (cuts[:-1, None] + half[:, None] * (x + 1)).ravel()
    root = math.sqrt(gamma)
    values = (1 - root) ** 2 + 4 * root * np.sin(angle / 2) ** 2
    weights = (half[:, None] * w).ravel() * 2 / math.pi * np.sin(angle) ** 2 / values
    return Quadrature(values, weights, max(0.0, 1 - 1 / gamma))
