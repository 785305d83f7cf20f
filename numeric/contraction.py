"""Contraction moments beta_j = E (1/d) tr (I - eta S/n)^j as floats, and the step that contracts best.

At n and d they are exact rationals, converted last: sums in floats would cancel. In the limit
d/n -> gamma they are sums of positive terms over a Gauss-Radau rule of the Marchenko-Pastur law in
closed form, at any power. Exported: `contraction_moments`, `contraction_moments_limit`,
`best_contraction`, `BestContraction`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

import icltheory.contraction as exact
from icltheory import checks
from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import integer, positive, positive_integers
from numeric.decoding_display import Shown

_LARGEST_LIMIT = 10**8
_BLOCK = 4_000_000  # numbers in one table


def contraction_moments(powers: Any, n: int, d: int, step_size: Any) -> np.ndarray:
    """E (1/d) tr (I - step_size X'X/n)^j at every j of `powers`, X with n standard Gaussian rows.

    powers: integers from 0 to 122, any shape. Right to the last digit: rational arithmetic, a float
    `step_size` being read as the decimal that it prints. At fixed n long chains have means that
    rare prompts carry. Errors: `InvalidInput`.

    >>> contraction_moments([1, 2, 3, 4], 20, 10, 0.5)
    array([0.5       , 0.3875    , 0.289375  , 0.23914062])
    """
    orders = positive_integers(powers, "powers", 0).astype(int)
    length, dim = integer(n, "n"), integer(d, "d")
    step = rational_step(step_size)
    top = exact.power_number(int(orders.max()), exact.LARGEST_EXACT)
    return _floats(top, length, dim, step)[orders]


@lru_cache(maxsize=256)
def _floats(top: int, n: int, d: int, step: sp.Rational) -> np.ndarray:
    moments = exact.contraction_moments(top, n, d, step)
    try:
        table = np.array([float(Fraction(x.p, x.q)) for x in moments])
    except OverflowError as error:
        raise _too_large(step) from error
    table.setflags(write=False)
    return table


def rational_step(step_size: Any) -> sp.Rational:
    """A step size as an exact rational > 0."""
    step = checks.positive(step_size, "step_size", "0.5")
    if not step.is_Rational:
        if step.free_symbols:
            raise InvalidInput(f"step_size = {step} is no number; pass one such as 0.5.")
        step = checks.scalar(float(step), "step_size")
    return step


def _too_large(step: Any) -> OutOfDomain:
    return OutOfDomain(
        f"step_size = {float(step):g} is so large that the moments leave the range of float64; pass "
        f"a smaller step or lower powers."
    )


# -- the limit -----------------------------------------------------------------------------------


def contraction_moments_limit(powers: Any, gamma: float, step_size: float) -> np.ndarray:
    """The limit of `contraction_moments` for n, d -> infinity, d/n -> gamma, at powers up to 1e8.

    powers: integers >= 0, any shape. Relative error about 1e-15 times the power at even powers, also
    where the moment is tiny: all terms are positive. Errors: `InvalidInput`, `OutOfDomain`.

    >>> contraction_moments_limit([2, 4, 6], 0.5, 2 / 3) - [1 / 3, 5 / 27, 29 / 243] < 1e-15
    array([ True,  True,  True])
    """
    orders = positive_integers(powers, "powers", 0)
    ratio, step = positive(gamma, "gamma", "0.5"), float(rational_step(step_size))
    if orders.max() > _LARGEST_LIMIT:
        raise InvalidInput(
            f"powers reach {orders.max():.3g}; pass powers up to {_LARGEST_LIMIT:.0g}."
        )
    orders = orders.astype(int)
    rule = _radau(int(orders.max()), ratio, step)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        values = rule.sums(orders.ravel()).reshape(orders.shape)
    if not np.all(np.isfinite(values)):
        raise _too_large(step)
    return values


@dataclass(frozen=True)
class _Rule:
    """Nodes 1 - step x and weights for the law's continuous part, and the weights of x = 0.

    `exact_left` makes the rule exact up to the degree `exact`; beyond it stays the residue of 1/x at
    frequency `exact` + 2, as long as the saddle point of the integrand lies beyond that pole, which
    is for powers up to `last`. After that x = 0 has only its own mass `atom`.
    """

    contraction: np.ndarray
    weights: np.ndarray
    exact_left: float
    atom: float
    exact: int
    last: float

    def sums(self, orders: np.ndarray) -> np.ndarray:
        """The moment at every order."""
        near = orders <= max(self.exact, self.last)
        left = np.where(near, self.exact_left, self.atom)
        return _power_sums(orders, self.contraction, self.weights) + left


def _radau(top: int, gamma: float, step: float) -> _Rule:
    """A Gauss-Radau rule with the node x = 0, in closed form, for powers up to `top`.

    x times the law is (2/pi) sin(phi)^2 dphi at x = 1 + gamma - 2 sqrt(gamma) cos(phi): K - 1 angles
    i pi/K are exact to degree 2 K - 3 there, and what 1 lacks of the sum of weights/x is
    (1 - gamma) gamma^{K-1}/(1 - gamma^K). The frequencies of (1 - step x)^top, at most `top`, fall
    like a Gaussian of variance `top`, hence the second bound of K.
    """
    count = max(2, min(top // 2 + 2, int(5 * math.sqrt(top)) + 100))
    angle = np.pi * np.arange(1, count) / count
    root = math.sqrt(gamma)
    x = (1 - root) ** 2 + 4 * root * np.sin(angle / 2) ** 2
    weights = 2 / count * np.sin(angle) ** 2 / x
    if gamma == 1:
        left = 1 / count
    else:
        log = -count * abs(math.log(gamma))
        left = abs(1 - gamma) / gamma / -math.expm1(log) * (math.exp(log) if gamma < 1 else 1)
    slope = step * abs(1 - gamma)  # of the integrand's logarithm at the pole, per power
    last = math.inf if slope * top <= 2 * count else 2 * count / slope
    return _Rule(1 - step * x, weights, left, max(0.0, 1 - 1 / gamma), 2 * count - 2, last)


def _power_sums(orders: np.ndarray, base: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sum_i weights_i base_i^j at every j: from base^(b p) base^r, j = b p + r, where that is less."""
    side = math.isqrt(int(orders.max())) + 1
    if orders.size <= 2 * side or side * max(side, base.size) > 4 * _BLOCK:
        rows = max(1, _BLOCK // base.size)
        blocks = [orders[i : i + rows] for i in range(0, orders.size, rows)]
        return np.concatenate([np.power(base, block[:, None]) @ weights for block in blocks])
    low = np.power(base, np.arange(side)[:, None])
    high = np.power(base, side * np.arange(side)[:, None]) * weights
    return (high @ low.T).ravel()[orders]


# -- the best step -------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class BestContraction(Shown):
    """The step size with the smallest beta_{2t}, and that value."""

    step_size: float
    moment: float


def best_contraction(steps: int, n: int, d: int) -> BestContraction:
    """The step size at which the exact beta_{2 steps} is smallest, steps from 1 to 60.

    beta_{2t} is convex in the step and stationary where (beta_{2t-1} - beta_{2t})/eta, which falls,
    is zero. The best step falls with t at fixed n; in the limit it is n/(n + d) at every t
    (`icl.best_contraction`). Errors: `InvalidInput`. Source: derived here.

    >>> best_contraction(2, 20, 10)
    BestContraction(step_size=0.628077, moment=0.210528)
    """
    count, length, dim = integer(steps, "steps"), integer(n, "n"), integer(d, "d")
    top = exact.power_number(2 * count, exact.LARGEST_EXACT - 1)
    moments = exact.path_moments(length, dim, top)

    def falling(step: Fraction) -> Fraction:
        """E (1/d) tr S (1 - step S/n)^{2t-1}: Horner's scheme in -step/n, exact."""
        x, value = -step / length, Fraction(0)
        for k in range(top - 1, -1, -1):
            value = value * x + math.comb(top - 1, k) * moments[k + 1]
        return value

    low, high = Fraction(0), Fraction(length, length + dim + 1)  # the best step of one thought
    while falling(high) > 0:
        low, high = high, 2 * high
    while high - low > high / 2**55:
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    step = sp.Rational(high.numerator, high.denominator)
    value = exact.contraction_moments(top, length, dim, step)[-1]
    return BestContraction(float(step), float(Fraction(value.p, value.q)))
