"""The all-n bound of a softmax average on arrays, for every token law, data of any size included."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from icltheory.concentration import bound_expression
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.expansion import fourth_moment
from icltheory.formula import Formula
from icltheory.laws.tokens import TokenLaw
from numeric.arrays import finite, positive_integers
from numeric.compile import Evaluator, compile
from numeric.empirical_law import EmpiricalArray
from numeric.laws import array_law
from numeric.tokens import leading_covariance, limit_output, weight_moment


def concentration_bound(law: TokenLaw, u: Any, prompt_length: Any) -> Any:
    """A bound of E |T_n(u) - grad K(u)|^2 that holds at every prompt length, at one dual point u (d,).

    `prompt_length`: integers n >= 1, any shape. Returns a float or an array of that shape. Needs 2u in
    the domain of the law. Errors: `InvalidInput`, `OutOfDomain`. Source: `icltheory.concentration_bound`.

    >>> import icltheory as icl
    >>> concentration_bound(icl.Gaussian([0], [[1]]), [1.0], [100, 1000]).round(4)
    array([3.3903, 0.0217])
    """
    point = finite(u, "u")
    if point.shape != (law.dim,):
        raise InvalidInput(f"u has shape {point.shape}; pass one dual point of length {law.dim}.")
    length = positive_integers(prompt_length, "prompt_length")
    moments = {
        "rho": float(weight_moment(law, point)),
        "size": float(np.trace(leading_covariance(law, point))),
        "fourth": _fourth(law, point),
    }
    # The exponential of the rare event underflows to 0 in long prompts, which is right.
    bound = _bound()(n=length, **moments)
    if not np.all(np.isfinite(bound)):
        raise OutOfDomain("the bound leaves the range of float64 here; use a smaller dual point.")
    return bound


@lru_cache(maxsize=1)
def _bound() -> Evaluator:
    rho, size, fourth = sp.symbols("rho size fourth", nonnegative=True)
    expr = bound_expression(rho, size, fourth, sp.Rational(1, 2))
    return compile(Formula("bound of the squared error", expr))


def _fourth(law: TokenLaw, point: np.ndarray) -> float:
    """E |z - grad K(u)|^4 of one token."""
    array, centre = array_law(law), limit_output(law, point)
    if isinstance(array, EmpiricalArray):
        return array.mean_of(lambda z: np.sum((z - centre) ** 2, axis=1) ** 2)
    return float(fourth_moment(law, point.tolist()))
