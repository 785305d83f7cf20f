"""Closed trajectories of the flow of isotropic tasks, compiled.

Exported: `closed_trajectory`, `tied_trajectory`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from icltheory.attention import Attention, LinearAttention
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.flow import checked_attention, commuting_flow, query_matrix
from icltheory.matrices import Square
from icltheory.symbols import d, n, noise_var
from icltheory.task import LinearRegression
from icltheory.trajectories import a0, b0, closed_form, normal_form, tied_time, time
from numeric.arrays import broadcast, finite, task_arrays
from numeric.compile import compile

_SMALLEST = 1e-60  # smallest non-zero |b0 + sqrt(d) a0|: its square is compared with exp(-300)
_LARGEST = 1e15  # of a start: its powers stay within float64
_LATEST = 300.0  # growth times time beyond which nothing changes any more

# Isotropic tasks in general: Sigma, M and Sigma_q are these multiples of the identity.
_SCALES = {name: sp.Symbol(name, positive=True) for name in ("sigma", "coef", "query")}
_ARGUMENTS = (*_SCALES.values(), d, noise_var, n, a0, b0)
_PATHS = ("a", "b", "product", "residual", "risk")


@lru_cache(maxsize=2)
def _compiled(finite_prompt: bool) -> tuple[Any, Any]:
    """Functions for every isotropic task: the growth rate, and the paths given exp(-growth time)."""
    task = LinearRegression(d, noise_var, _SCALES["sigma"], _SCALES["coef"])
    attention, length = (LinearAttention(), n) if finite_prompt else (None, None)
    form = closed_form(task, _SCALES["query"], attention, length)
    growth, q = form.growth.expr, sp.Symbol("q", positive=True)
    paths = [getattr(form, name).expr.subs(sp.exp(-growth * time), q) for name in _PATHS]
    if any(path.has(time) for path in paths):
        raise AssertionError("a path depends on time other than through exp(-growth time)")
    return sp.lambdify(_ARGUMENTS, growth), sp.lambdify((q, *_ARGUMENTS), paths, cse=True)


def _numbers(task: LinearRegression, query_cov: Any) -> dict[str, float]:
    arrays = task_arrays(task)
    query = query_matrix(task, query_cov, definite=True) or task.feature_cov
    matrices = {"sigma": task.feature_cov, "coef": task.coef_cov, "query": query}
    scales = {}
    for name, matrix in matrices.items():
        reduced = matrix.reduced()
        if not reduced.is_isotropic:
            raise InvalidInput(
                "the covariances must be multiples of the identity: else the eigenvalues of A move "
                "at different speeds and have no elementary closed form; use numeric.integrate."
            )
        scales[name] = float(reduced.scale)
    return {**scales, "d": float(arrays.dim), "noise_var": arrays.noise_var}


def closed_trajectory(
    task: LinearRegression,
    times: Any,
    *,
    a0: Any = None,
    b0: Any = None,
    alpha: Any = None,
    query_cov: Any = None,
    attention: Attention | None = None,
    prompt_length: Any = None,
) -> dict[str, np.ndarray]:
    """The closed form `icl.closed_form` of A = a I and b at many times and starts.

    Parameters
    ----------
    task: isotropic, with numbers; query_cov (a number), attention and prompt_length as in
        `icl.gradient_flow`.
    times: >= 0, in any order, up to infinity in size; broadcasts with the start.
    a0, b0: the start, any signs; or `alpha` > 0, the published a0 = alpha/sqrt(d), b0 = alpha.

    Returns arrays "a", "b", "product" (a b), "residual" (1 - ab/limit) and "risk" (no factor 1/2),
    relative errors of order 1e-13 for a0, b0 >= 0, however small the start or late the time; the
    residual stops falling at about 1e-130. Starts with 0 < |b0 + sqrt(d) a0| < 1e-60 are refused
    (`OutOfDomain`). Other errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> path = closed_trajectory(icl.LinearRegression(dim=4, coef_cov=1), [0, 1, 1e9], alpha=0.1)
    >>> path["b"].round(6)
    array([0.1     , 0.656192, 1.414214])
    """
    numbers = _numbers(task, query_cov)
    points = finite(times, "times")
    if np.any(points < 0):
        raise InvalidInput(f"times contains {points.min():g}; times are non-negative.")
    start_a, start_b = _scales(int(numbers["d"]), a0, b0, alpha)
    distance = np.abs(np.asarray(start_b + math.sqrt(numbers["d"]) * start_a))
    if np.any((distance > 0) & (distance < _SMALLEST)):
        raise OutOfDomain(
            f"|b0 + sqrt(d) a0| = {distance[distance > 0].min():.3g} is below {_SMALLEST:g}, where "
            f"its square is lost; start further from the saddle, or exactly on it."
        )
    if np.any(np.abs(start_b) + math.sqrt(numbers["d"]) * np.abs(start_a) > _LARGEST):
        raise OutOfDomain(
            f"|b0| + sqrt(d) |a0| is above {_LARGEST:g}, where powers of the start leave the range of "
            f"float64; start nearer to 0."
        )
    broadcast(times=points, a0=start_a, b0=start_b)
    _, length = checked_attention(attention, prompt_length)
    growth, paths = _compiled(length is not None)
    prompt = 1.0 if length is None else float(finite(length, "prompt_length"))
    known = (*numbers.values(), prompt, start_a, start_b)
    rate = growth(*known)
    decayed = np.exp(-rate * np.minimum(points, _LATEST / rate))
    shape = np.broadcast_shapes(np.shape(decayed), np.shape(start_a), np.shape(start_b))
    return {
        name: value if np.shape(value) == shape else np.broadcast_to(value, shape).copy()
        for name, value in zip(_PATHS, paths(decayed, *known), strict=True)
    }


def _scales(dim: int, a0: Any, b0: Any, alpha: Any) -> tuple[Any, Any]:
    if (alpha is None) == (a0 is None and b0 is None) or (a0 is None) != (b0 is None):
        raise InvalidInput("give the start as a0 and b0, or as alpha.")
    if alpha is None:
        return _plain(finite(a0, "a0")), _plain(finite(b0, "b0"))
    size = finite(alpha, "alpha")
    if np.any(size <= 0):
        raise InvalidInput(f"alpha = {size.min():g} is not positive; pass for example alpha=0.1.")
    return _plain(size / math.sqrt(dim)), _plain(size)


def _plain(array: Any) -> Any:
    """One number as a Python float, which the compiled functions handle fastest."""
    return array if np.ndim(array) else float(array)


# -- tied keys and queries -------------------------------------------------------------------------


def tied_trajectory(
    task: LinearRegression, times: Any, *, kappa0: Any, query_cov: Any = None
) -> dict[str, np.ndarray]:
    """Trajectory of tied keys and queries K = Q = kappa I with b = sqrt(d) kappa, from kappa0 > 0.

    Inverts `icl.tied_time` by bisection. `times` >= 0 and `kappa0` broadcast. Returns arrays
    "kappa", "b" and "product" (kappa^2 b). Relative errors of order 1e-12 (1e-14/kappa0 for small
    starts, whose escape time is known no better). Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> path = tied_trajectory(icl.LinearRegression(dim=4, coef_cov=1), [0, 1, 99], kappa0=0.3)
    >>> path["kappa"].round(6), path["b"].round(6)
    (array([0.3     , 0.59555 , 0.793701]), array([0.6     , 1.1911  , 1.587401]))
    """
    root = math.sqrt(task_arrays(task).dim)
    points, start = broadcast(times=finite(times, "times"), kappa0=finite(kappa0, "kappa0"))
    if np.any(points < 0) or np.any(start <= 0):
        raise InvalidInput("times are non-negative and kappa0 is positive.")
    if np.any(start > _LARGEST):
        raise OutOfDomain(f"kappa0 = {start.max():.3g} is above {_LARGEST:g}; start nearer to 0.")
    clock, end = _tied(task, query_matrix(task, query_cov, definite=True))
    # The logarithm of kappa between its start and one rounding error before its limit.
    near = np.log(np.where(start == end, 0.5 * end, start))
    far = np.where(start > end, math.log(end) + 1e-15, math.log(end) - 1e-15)
    begin = np.exp(near)
    for _ in range(64):
        middle = 0.5 * (near + far)
        early = clock(kappa=np.exp(middle), kappa0=begin) < points
        near, far = np.where(early, middle, near), np.where(early, far, middle)
    value = np.where(start == end, start, np.where(points == 0, start, np.exp(far)))
    return {"kappa": value, "b": root * value, "product": root * value**3}


@lru_cache(maxsize=128)
def _tied(task: LinearRegression, query_cov: Square | None) -> tuple[Any, float]:
    _, stop, ratio, _ = normal_form(commuting_flow(task, query_cov))
    return compile(tied_time(task, query_cov)), float((stop * sp.sqrt(ratio)) ** sp.Rational(-1, 3))
