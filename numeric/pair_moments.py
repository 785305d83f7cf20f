"""Exact joint moments of two softmax heads that read the same finite prompt.

Two scalar heads see the same scores z_1..z_n ~ N(0, 1) at different scales of any sign:
w = softmax(kappa z), w~ = softmax(kappa~ z). The risk of any number of scalar heads is a quadratic
form in E sum_i w_i w~_i and E m m~, with m = sum_i w_i z_i. Both are Laplace integrals over the two
normalisers, under which the tokens are independent and exponentially tilted.

What is computed is not the moments but what small scales leave of them,

    E sum w w~ = 1/n + kappa kappa~ G,    E m m~ = 1/n + kappa kappa~ (1 - D),

by the sampling theory of covariances: sums over a prompt become joint cumulants of one tilted
token. No difference of large numbers occurs, neither for small scales of any signs nor for long
prompts, and scale 0 is no special case: there the head stands for its derivative in the scale.

A query token inside the softmax is one more column with the known score kappa r and the value 0.
Derived here. Exported: `pair_moments`, `PairMoments`; `single_head` and `two_heads` serve the risks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from icltheory.errors import OutOfDomain
from numeric.arrays import finite
from numeric.decoding_display import Shown
from numeric.prompt_moments import checked_lengths

LARGEST_SCALE = 60.0  # the grid of the two normalisers grows like its square

# The rate lambda of one normaliser runs over log lambda = c + s - exp(-s), which makes the integrand
# decay doubly exponentially on the left: s from _FIRST, where lambda S < exp(-40).
_STEP, _FIRST, _LAST = 0.26, -3.7, 4.2
# Where the largest token dominates both sums, its spread smooths the integrand in both rates.
_SMOOTH_STEP = 0.4
_TOKEN_STEP = 0.28
_RARE = 1e-10  # prompts with larger sums S than the bend of the map are that rare
_BLOCK = 2**21  # float64 values of one block of the grid


@dataclass(frozen=True, eq=False, repr=False)
class PairMoments(Shown):
    """Moments of w = softmax(first * z), w~ = softmax(second * z), z ~ N(0, I_n); broadcast shapes."""

    prompt_length: Any
    first: Any
    second: Any
    overlap_slope: Any
    """(E sum w w~ - 1/n) / (first second), positive; at scale 0 its limit."""
    product_gap: Any
    """1 - (E m m~ - 1/n) / (first second)."""

    @property
    def overlap(self) -> Any:
        """E sum_i w_i w~_i."""
        return 1 / self.prompt_length + self.first * self.second * self.overlap_slope

    @property
    def product(self) -> Any:
        """E m m~ of m = sum w z and m~ = sum w~ z."""
        return 1 / self.prompt_length + self.first * self.second * (1 - self.product_gap)


def pair_moments(prompt_length: Any, first: Any, second: Any) -> PairMoments:
    """Exact joint moments of the weights of two softmax heads on n Gaussian tokens, by quadrature.

    Parameters
    ----------
    prompt_length: integers n from 1 to 1e100.
    first, second: inverse temperatures kappa of softmax(kappa z), of any sign, at most 60 in size.
        For scalar heads with score scales k_h and a query x_q they are k_h |Sigma^{-1/2} x_q|.

    All arguments broadcast. The relative error of `overlap_slope` and `product_gap` is below 1e-12,
    at small scales and in long prompts too. Errors: `InvalidInput`, `OutOfDomain`. Source: derived
    here.

    >>> moments = pair_moments(10, 0.5, -0.5)
    >>> round(moments.product, 8), round(moments.overlap, 8)
    (-0.12758573, 0.08049906)
    """
    lengths = checked_lengths(prompt_length)
    scales = [finite(x, name) for x, name in ((first, "first"), (second, "second"))]
    for scale, name in zip(scales, ("first", "second"), strict=True):
        check_scale(float(np.abs(scale).max(initial=0)), name)
    lengths, one, other = np.broadcast_arrays(lengths, *scales)
    gap, slope = np.empty(lengths.shape), np.empty(lengths.shape)
    for index in np.ndindex(lengths.shape):
        n, a, b = float(lengths[index]), float(one[index]), float(other[index])
        gap[index], slope[index] = two_heads(n, a, b)
    fields = (lengths, one, other, slope, gap)
    return PairMoments(*(float(x) if x.ndim == 0 else x for x in fields))


def check_scale(scale: float, name: str) -> None:
    """`OutOfDomain` if a scale is beyond the joint quadrature."""
    if scale > LARGEST_SCALE:
        raise OutOfDomain(
            f"{name} = {scale:g} is above {LARGEST_SCALE:g}, where the joint quadrature becomes too "
            f"large; use smaller scores, the softmax is the maximum there."
        )


class Single(NamedTuple):
    """One head at scale kappa; D and G as in the module's description, at kappa~ = kappa."""

    response_gap: float
    """1 - E m / kappa; without a query token this is E sum w^2."""
    product_gap: float
    overlap_slope: float
    query_overlap: float
    """sum_i E (w_i - 1/(n + 1)) / ((n + 1) kappa); 0 without a query token."""
    query_product: float
    """E (m - zbar) zbar / kappa, zbar = sum z / (n + 1); 0 without a query token."""


@lru_cache(maxsize=2**16)
def single_head(n: float, kappa: float, radius: float | None = None) -> Single:
    """Moments of one head; `radius` r adds a query token of score kappa r. Arguments unchecked.

    >>> round(0.9 * (1 - single_head(1000, 0.9).response_gap), 9)  # E m
    0.897985558
    """
    side = _Side(n, kappa, radius, _tokens(n, abs(kappa)))
    powers = (side.plain, side.first, side.second)
    table = [[powers[i] @ weight for i in range(3)] for weight in side.tokens.weights]
    c = _Cumulants(lambda p, i, j: table[p][i + j])
    mass = _mass(n, c, side.tail @ side.tokens.weights[0], -side.query)
    slope = kappa**2 * c.yy
    product_gap, overlap = _joint(n, c, side, side, slope, slope)
    w = side.shift + kappa * c.y
    response_gap = w + (n - 1) * slope
    query_overlap = query_product = np.zeros(1)
    if radius is not None:
        p, f, y = 1 / (n + 1), n / (n + 1), c.y - side.query_y
        response_gap += side.query - f * (c.x * y + c.xy / n)
        square = c.x**2 * y + (c.xx * y + 2 * c.x * c.xy) / n + c.xxy / n**2
        query_overlap = p * f * y
        query_product = p * n * ((n - 1) * (c.xy * c.x + c.xxy / n) + f * square)
    weight = mass * side.weight
    integrands = (response_gap, product_gap, overlap, query_overlap, query_product)
    return Single(*(float(np.sum(weight * f)) for f in integrands))


def two_heads(
    n: float, first: float, second: float, radius: float | None = None
) -> tuple[float, float]:
    """(product_gap, overlap_slope) of two heads; `radius` as in `single_head`. Arguments unchecked."""
    # Both moments are symmetric, and without a query token the reflection z -> -z changes nothing.
    if abs(first) > abs(second):
        first, second = second, first
    if radius is None and second < 0:
        first, second = -first, -second
    if first == second:
        return single_head(n, first, radius)[1:3]
    return _two_heads(n, first, second, radius)


@lru_cache(maxsize=2**16)
def _two_heads(n: float, first: float, second: float, radius: float | None) -> tuple[float, float]:
    tokens = _tokens(n, max(abs(first), abs(second)))
    dominated = min(abs(first), abs(second)) > max(3.0, math.sqrt(2 * math.log(n)))
    step = _SMOOTH_STEP if dominated else _STEP
    one, other = (_Side(n, kappa, radius, tokens, step) for kappa in (first, second))
    right = np.concatenate([other.plain, other.first, other.second]).T
    rows = max(1, _BLOCK // (12 * right.shape[1] + 8 * len(tokens.nodes)))
    total = np.zeros(2)
    for start in range(0, len(one.weight), rows):
        total += _block(n, one.rows(slice(start, start + rows)), other, right)
    return float(total[0]), float(total[1])


def _block(n: float, one: _Side, other: _Side, right: np.ndarray) -> np.ndarray:
    """The integrals over some rates of the first head and all rates of the second."""
    count, last = len(one.weight), len(other.weight)
    left = np.concatenate([one.plain, one.first])
    table = [
        ((left * weight) @ right[:, : 2 * last]).reshape(2, count, 2, last)
        for weight in one.tokens.weights
    ]
    flat = one.tokens.weights[0]
    squares = {
        (2, 0): (one.second * flat) @ right[:, :last],
        (0, 2): (one.plain * flat) @ right[:, 2 * last :],
    }
    c = _Cumulants(lambda p, i, j: squares[i, j] if i + j == 2 != 2 * i * j else table[p][i, :, j])
    tail = (one.tail @ flat)[:, None] + (one.plain * flat) @ other.tail.T
    mass = _mass(n, c, tail, -(one.query + other.query.T))
    # d log(tilt)/dz along either head: Stein's identity under the tilted law.
    slope_y = one.kappa**2 * c.yy + other.kappa**2 * c.yz
    slope_z = one.kappa**2 * c.yz + other.kappa**2 * c.zz
    weight = mass * one.weight[:, None] * other.weight
    return np.array([np.sum(weight * f) for f in _joint(n, c, one, other, slope_y, slope_z)])


# -- the tilted tokens ---------------------------------------------------------------------------


class _Tokens(NamedTuple):
    """Nodes of one score z, and the weights of E f(z), E z f(z), E z^2 f(z)."""

    nodes: np.ndarray
    weights: tuple[np.ndarray, np.ndarray, np.ndarray]


def _tokens(n: float, scale: float) -> _Tokens:
    # Weights w_i are at most 1, so that tokens beyond `reach` do not matter even against 1/n^2.
    reach = min(math.sqrt(2 * (40 + 2 * math.log(n))), 9 + 2 * scale)
    step = min(0.6, _TOKEN_STEP / scale) if scale else 0.6
    half = math.ceil(reach / step)
    z = step * np.arange(-half, half + 1)
    gaussian = step / math.sqrt(2 * math.pi) * np.exp(-(z**2) / 2)
    return _Tokens(z, (gaussian, gaussian * z, gaussian * z * z))


class _Side:
    """One head under the Laplace transform exp(-lambda S) of its normaliser S = sum exp(kappa z).

    With e = exp(-lambda w), w = exp(kappa z), and y = (w - shift) / kappa, the rows over the rates
    lambda are e, lambda y e and (lambda y)^2 e. A shift of 1 keeps small scales from cancelling;
    large scales have none, so that nothing overflows. `query` is lambda exp(kappa r).
    """

    def __init__(
        self, n: float, kappa: float, radius: float | None, tokens: _Tokens, step: float = _STEP
    ) -> None:
        self.kappa, self.tokens = kappa, tokens
        query_score = -math.inf if radius is None else kappa * radius
        log_rate, self.weight = _rates(n, abs(kappa), query_score, step)
        rate = np.exp(log_rate)
        x = np.minimum(log_rate[:, None] + kappa * tokens.nodes, 30.0)
        w = np.exp(x)
        self.plain, self.tail = np.exp(-w), -np.expm1(-w)
        small = abs(kappa) <= 1
        self.shift = rate if small else np.zeros_like(rate)
        y = rate[:, None] * _slope(kappa, tokens.nodes) if small else w / kappa
        self.first = y * self.plain
        self.second = y * self.first
        self.query = self.query_y = np.zeros_like(rate)
        if radius is not None:
            self.query = np.exp(np.minimum(log_rate + kappa * radius, 30.0))
            self.query_y = rate * _slope(kappa, radius) if small else self.query / kappa

    def rows(self, part: slice) -> _Side:
        """Some of the rates, as a column."""
        out = object.__new__(_Side)
        out.kappa, out.tokens = self.kappa, self.tokens
        for name in ("weight", "plain", "tail", "first", "second"):
            setattr(out, name, getattr(self, name)[part])
        for name in ("shift", "query", "query_y"):
            setattr(out, name, getattr(self, name)[part, None])
        return out


def _slope(kappa: float, z: Any) -> Any:
    """expm1(kappa z) / kappa."""
    return np.expm1(kappa * z) / kappa if kappa else z


def _rates(
    n: float, scale: float, query_score: float, step: float
) -> tuple[np.ndarray, np.ndarray]:
    """log lambda and the trapezoidal weights of d(log lambda)."""
    # log S of nearly all prompts lies between these two: by Jensen and by the largest score below,
    # by the mean and by the largest score above.
    largest = -special.ndtri(_RARE / n)
    low = math.log(n) - 8.5 * scale / math.sqrt(n)
    low = max(low, scale * special.ndtri_exp(-40 / n), query_score)
    high = max(math.log(n) + min(scale**2 / 2, scale * largest), scale * largest, query_score)
    s = np.arange(_FIRST, high - low + _LAST, step)
    bend = np.exp(-s)
    return s - bend - high, step * (1 + bend)


class _Cumulants:
    """Joint cumulants of the score x, and of y and z of two heads, of one tilted token.

    `average(p, i, j)` is E x^p y^i z^j exp(-lambda w - mu w~) with y, z times their rates.
    """

    def __init__(self, average: Any) -> None:
        self.phi = average(0, 0, 0)
        phi = np.maximum(self.phi, 1e-290)

        def m(p: int, i: int, j: int) -> np.ndarray:
            return average(p, i, j) / phi

        self.x, self.y, self.z = x, y, z = m(1, 0, 0), m(0, 1, 0), m(0, 0, 1)
        square = m(2, 0, 0)
        self.xx = square - x * x
        self.xy, self.xz = m(1, 1, 0) - x * y, m(1, 0, 1) - x * z
        self.yy, self.zz = m(0, 2, 0) - y * y, m(0, 0, 2) - z * z
        xxy, xxz = m(2, 1, 0), m(2, 0, 1)
        self.yz = m(0, 1, 1) - y * z
        self.xxy = xxy - y * square - 2 * x * self.xy
        self.xxz = xxz - z * square - 2 * x * self.xz
        # E x^p (y - Ey)(z - Ez).
        first = m(1, 1, 1) - y * m(1, 0, 1) - z * m(1, 1, 0) + y * z * x
        second = m(2, 1, 1) - y * xxz - z * xxy + y * z * square
        self.xyz = first - x * self.yz
        fourth = second - 2 * x * first + x * x * self.yz
        self.xxyz = fourth - self.xx * self.yz - 2 * self.xy * self.xz


def _mass(n: float, c: _Cumulants, tail: np.ndarray, log_query: np.ndarray) -> np.ndarray:
    """phi^n times the query token's factor; `tail` is 1 - phi without cancellation."""
    log_phi = np.where(
        tail < 0.5,
        np.log1p(-np.minimum(tail, 0.75)),
        np.log(np.maximum(c.phi, 1e-290)),
    )
    exponent = n * log_phi + log_query
    return np.where(exponent > -90, np.exp(np.maximum(exponent, -90)), 0.0)


def _joint(n: float, c: _Cumulants, one: _Side, other: _Side, slope_y: Any, slope_z: Any) -> Any:
    """Integrands of product_gap and overlap_slope.

    The prompt enters through unbiased sample covariances k_xy, whose products have the mean
    E k_xy k_xz = xy xz + (xx yz + xy xz)/(n - 1) + xxyz/n in the cumulants of one token. From 1,
    written as E S S~/(S S~), it is subtracted term by term: by Stein's identity xy is E w minus a
    slope which is small in long prompts.
    """
    w, other_w = one.shift + one.kappa * c.y, other.shift + other.kappa * c.z
    both = one.kappa * other.kappa * c.yz + w * other_w
    gap = n * both - (n - 1) * c.xx * c.yz - (n - 1) * ((n - 1) / n) * c.xxyz
    gap += (n * w) * ((n - 1) * slope_z) + (n * slope_y) * ((n - 1) * (other_w - slope_z))
    overlap = (n - 1) * c.yz
    if one.query.any() or other.query.any():
        gap += n * (w * other.query + other_w * one.query) + one.query * other.query
        f, y, z = n / (n + 1), c.y - one.query_y, c.z - other.query_y
        gap -= f * (n - 1) * (_third(n, c.x, z, c.xy, c.xz, c.xxy, c.xyz, c.xxyz))
        gap -= f * (n - 1) * (_third(n, c.x, y, c.xz, c.xy, c.xxz, c.xyz, c.xxyz))
        gap -= f * f * _fourth(n, c, y, z)
        overlap = overlap + n / (n + 1) ** 2 * (y * z + c.yz / n)
    return gap, overlap


def _third(n: float, x: Any, z: Any, xy: Any, xz: Any, xxy: Any, xyz: Any, xxyz: Any) -> Any:
    """E k_xy xbar (zbar - z_q), with z = E zbar - z_q."""
    return xy * (x * z + xz / n) + (xxy * z + xyz * x) / n + xxyz / n**2


def _fourth(n: float, c: _Cumulants, y: Any, z: Any) -> Any:
    """E xbar^2 (ybar - y_q)(zbar - z_q): a mean of n tokens has the cumulants kappa_j / n^(j-1)."""
    pairs = c.xx * y * z + 2 * c.x * (c.xy * z + c.xz * y) + c.x**2 * c.yz
    triples = c.xx * c.yz + 2 * c.xy * c.xz + c.xxy * z + c.xxz * y + 2 * c.x * c.xyz
    return c.x**2 * y * z + pairs / n + triples / n**2 + c.xxyz / n**3
