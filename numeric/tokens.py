"""Infinite-prompt attention and its 1/n corrections on arrays, for every token law.

The functions have the names of their symbolic counterparts in `icltheory` and take a law and dual
points u = K'Q x of any leading shape. They also take large `Empirical` laws, for which formulas
would be too long. `numeric.token_simulation` samples the finite softmax averages they describe.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.laws.tokens import TokenLaw
from numeric.array_law_base import ArrayLaw
from numeric.arrays import finite, integer
from numeric.laws import array_law

_LARGEST_LOG = 700.0  # exp of this still fits a float
_ROUNDING = 16 * np.finfo(float).eps


def token_cgf(law: TokenLaw, u: Any) -> Any:
    """K(u) = log E exp(u.z) at dual points u (..., d); shape (...).

    Errors: `OutOfDomain` where K is infinite, `InvalidInput`. Source: `law.cgf`.

    >>> import icltheory as icl
    >>> round(float(token_cgf(icl.Rademacher(dim=2), [0.0, 1000.0])), 6)
    999.306853
    """
    array, points, shape = _points(law, u, 1)
    return array.tilt(points)[0].reshape(shape)[()]


def limit_output(law: TokenLaw, u: Any) -> np.ndarray:
    """grad K(u), what infinite-prompt softmax attention reads, at u (..., d); shape (..., d).

    For `Empirical` laws this is softmax attention over the data, streamed in blocks: memory does
    not grow with the number of points or queries. Errors: `OutOfDomain`, `InvalidInput`. Source:
    `icltheory.limit_output`.

    >>> import icltheory as icl
    >>> limit_output(icl.UniformCube(dim=2), [[0.0, 3.0], [1e-9, 800.0]])
    array([[0.00000000e+00, 6.71636490e-01],
           [3.33333333e-10, 9.98750000e-01]])
    """
    array, points, shape = _points(law, u, 1)
    return array.tilt(points)[1].reshape(*shape, array.dim)


def limit_jacobian(law: TokenLaw, u: Any) -> np.ndarray:
    """Hess K(u), the Jacobian of the infinite-prompt output, at u (..., d); shape (..., d, d).

    Errors: `OutOfDomain`, `InvalidInput`. Source: `icltheory.limit_jacobian`.

    >>> import icltheory as icl
    >>> limit_jacobian(icl.Sphere(dim=2), [0.0, 0.0])
    array([[0.5, 0. ],
           [0. , 0.5]])
    """
    array, points, shape = _points(law, u, 1)
    return array.cov(points).reshape(*shape, array.dim, array.dim)


def weight_moment(law: TokenLaw, u: Any, power: int = 2) -> Any:
    """E w^power of the normalised weight w = exp(u.z - K(u)), at u (..., d); shape (...).

    Errors: `OutOfDomain` where it is infinite or overflows. Source: `icltheory.weight_moment`.

    >>> import icltheory as icl
    >>> round(float(weight_moment(icl.Gaussian([0], [[1]]), [0.5])), 6)
    1.284025
    """
    power = integer(power, "power")
    array, points, shape = _points(law, u, power)
    log_weight = array.tilt(power * points)[0] - power * array.tilt(points)[0]
    return _exp(log_weight).reshape(shape)[()]


def leading_bias(law: TokenLaw, u: Any, order: int = 1) -> np.ndarray:
    """Coefficient of 1/n^order in E T_n(u) - grad K(u), order 1 or 2, at u (..., d).

    T_n(u) is the softmax average of n tokens. Errors: `OutOfDomain` where the weights have no
    second (order 2: third) moment. Source: `icltheory.leading_bias`.

    >>> import icltheory as icl
    >>> leading_bias(icl.Rademacher(dim=1), [0.7]).round(7)
    array([-0.3836162])
    """
    if order not in (1, 2):
        raise InvalidInput(f"order = {order!r} is not available; pass 1 or 2.")
    array, points, shape = _points(law, u, order + 1)
    cgf, mean = array.tilt(points)

    def moments(k: int) -> tuple[np.ndarray, np.ndarray]:
        """rho_k = E w^k, and E w^k (z - grad K)."""
        above, tilted = array.tilt(k * points)
        rho = _exp(above - k * cgf)[:, None]
        return rho, rho * (tilted - mean)

    rho, second = moments(2)
    # Order 2 is E[a b^2] - 3 E[b^2] E[a b] with a = w (z - grad K), b = w - 1.
    bias = -second if order == 1 else moments(3)[1] - 2 * second - 3 * (rho - 1) * second
    return bias.reshape(*shape, array.dim)


def leading_covariance(law: TokenLaw, u: Any, w: Any = None) -> np.ndarray:
    """lim n Cov(T_n(u), T_n(w)), (..., d, d), rows: head u; u, w (..., d) broadcast; w = u if `None`.

    Errors: `OutOfDomain` where the weights have no second moment. Source:
    `icltheory.leading_covariance`.

    >>> import icltheory as icl
    >>> leading_covariance(icl.Rademacher(dim=1), [0.7], [0.4]).round(7)
    array([[0.5431078]])
    """
    array, first, shape = _points(law, u, 2)
    _, second, other = (array, first, shape) if w is None else _points(law, w, 2, "w")
    lead = shape
    try:
        shape = np.broadcast_shapes(lead, other)
    except ValueError as error:
        raise InvalidInput(
            f"u and w have leading shapes {lead} and {other}, which do not broadcast."
        ) from error
    first, second = (
        np.broadcast_to(x.reshape(*s, array.dim), (*shape, array.dim)).reshape(-1, array.dim)
        for x, s in ((first, lead), (second, other))
    )
    both = first + second
    cgf, mean = array.tilt(both)
    cgf_u, mean_u = array.tilt(first)
    cgf_w, mean_w = (cgf_u, mean_u) if w is None else array.tilt(second)
    weight = _exp(cgf - cgf_u - cgf_w)
    product = array.cov(both) + (mean - mean_u)[:, :, None] * (mean - mean_w)[:, None, :]
    return (weight[:, None, None] * product).reshape(*shape, array.dim, array.dim)


def nonlinearity(law: TokenLaw, u: Any) -> Any:
    """Relative deviation |grad K(u) - k1 - k2 u| / |k2 u| from the linear response; shape (...).

    k1 and k2 are mean and covariance of the law. It vanishes for all u exactly if the law is
    Gaussian; a deviation below the rounding of its terms counts as 0, so small |u| resolve about
    1e-15 / |u|. Where k2 u = 0 the score is constant and the output is k1: 0 as well. Source:
    `icltheory.limit_linearization`.

    >>> import icltheory as icl
    >>> u = [[0.0, 0.0], [0.3, 0.0], [3.0, 0.0]]
    >>> nonlinearity(icl.Rademacher(dim=2), u).round(4)
    array([0.    , 0.029 , 0.6683])
    >>> nonlinearity(icl.Gaussian([1, 2], [[2, 1], [1, 1]]), u)
    array([0., 0., 0.])
    """
    array, points, shape = _points(law, u, 1)
    origin = np.zeros((1, array.dim))
    mean, linear = array.tilt(origin)[1], points @ array.cov(origin)[0]
    output = array.tilt(points)[1]
    deviation, size = (np.linalg.norm(x, axis=1) for x in (output - mean - linear, linear))
    floor = _ROUNDING * (np.linalg.norm(output, axis=1) + np.linalg.norm(mean) + size)
    significant = (deviation > floor) & (size > 0)
    ratio = np.divide(deviation, size, out=np.zeros_like(size), where=significant)
    return ratio.reshape(shape)[()]


# -- arguments -------------------------------------------------------------------------------------


def _points(
    law: TokenLaw, u: Any, factor: int, name: str = "u"
) -> tuple[ArrayLaw, np.ndarray, tuple[int, ...]]:
    """The law, u as (m, d) and its leading shape; refused where `factor` u is outside the domain."""
    array, points = array_law(law), finite(u, name)
    if points.ndim == 0 and array.dim == 1:
        points = points[None]
    if points.ndim == 0 or points.shape[-1] != array.dim:
        raise InvalidInput(
            f"{name} has shape {points.shape}; this law lives in dimension {array.dim}, pass "
            f"(..., {array.dim})."
        )
    flat = points.reshape(-1, array.dim)
    if array.gauge is not None:
        for order in sorted({1, factor}):
            gauge = array.gauge(order * flat)
            if np.any(gauge >= 1):
                _refuse(law, array, name, order, flat, gauge)
    return array, flat, points.shape[:-1]


def _refuse(
    law: TokenLaw, array: ArrayLaw, name: str, order: int, flat: np.ndarray, gauge: np.ndarray
) -> None:
    at, scale = int(np.argmax(gauge >= 1)), order**array.gauge_degree
    where = f"where the cumulant generating function of {law} is finite"
    if order > 1:
        where = (
            f"where the weights of {law} have a finite moment of order {order}: the limit exists "
            f"here, but not this expansion in 1/n"
        )
    raise OutOfDomain(
        f"{name} = {flat[at].tolist()}: {array.gauge_name} = {gauge[at] / scale:.6g} is outside "
        f"{array.gauge_name} < {'1' if order == 1 else f'1/{scale}'}, {where}."
    )


def _exp(log_weight: np.ndarray) -> np.ndarray:
    if np.any(log_weight > _LARGEST_LOG):
        raise OutOfDomain(
            f"a moment of the weights is exp({float(np.max(log_weight)):.6g}), outside float64 "
            f"(at most exp({_LARGEST_LOG:g})); no prompt is long enough for this expansion there."
        )
    return np.exp(log_weight)
