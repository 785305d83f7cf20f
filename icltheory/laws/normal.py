"""The standard normal law: density, upper tail, and averages that stay integrals.

`NormalMean` is an integral that knows how to evaluate itself: `evalf` splits the line until the
quadrature has the digits asked for, and backend "mpmath" of `numeric.compile` takes it.
Exported: `normal_density`, `normal_tail`, `normal_mean`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import mpmath
import sympy as sp
from sympy.printing.precedence import PRECEDENCE

G = sp.Symbol("G", real=True)  # the standard normal variable of an average


def _beta_between(a: Any, b: Any, lower: Any, upper: Any) -> Any:
    return mpmath.betainc(a, b, lower, upper, regularized=True)


# SymPy takes the regularised incomplete beta function for the other one.
MPMATH: list[Any] = [{"betainc_regularized": _beta_between}, "mpmath"]


def normal_density(x: Any) -> sp.Expr:
    """phi(x), the density of N(0, 1)."""
    return sp.exp(-(sp.sympify(x) ** 2) / 2) / sp.sqrt(2 * sp.pi)


def normal_tail(x: Any) -> sp.Expr:
    """Q(x) = P(N(0, 1) > x), as a complementary error function, accurate where it is small."""
    return sp.erfc(x / sp.sqrt(2)) / 2


def normal_mean(function: sp.Expr, variable: Any = G) -> sp.Expr:
    """E f(G) for a standard normal G, as an unevaluated integral.

    >>> normal_mean(sp.log(1 + sp.exp(G))).evalf(15)
    0.806059183347440
    """
    return NormalMean(function * normal_density(variable), (variable, -sp.oo, sp.oo))


class NormalMean(sp.Integral):
    """int f(G) phi(G) dG over the line, f of moderate growth, without singularities."""

    precedence = PRECEDENCE["Mul"]  # printers know that of integrals by the name of the class

    def _eval_evalf(self, prec: int) -> Any:
        return None if self.free_symbols else _quadrature(self, prec)


@lru_cache(maxsize=256)
def _quadrature(integral: NormalMean, prec: int) -> sp.Float:
    """The value to `prec` bits, on ever shorter pieces of the line."""
    ((variable, *_),) = integral.limits
    integrand = sp.lambdify(variable, integral.function, modules=MPMATH)
    with mpmath.workprec(max(prec, 53) + 20):
        # Beyond the ends phi is below the precision.
        end = mpmath.sqrt(2 * mpmath.log(2) * mpmath.mp.prec) + 3
        pieces, error, value = 4, mpmath.inf, mpmath.mpf(0)
        while error > mpmath.ldexp(abs(value), -prec) and pieces <= 256:
            ends = mpmath.linspace(-end, end, pieces + 1)
            value, error = mpmath.quad(integrand, ends, error=True)
            pieces *= 4
    return sp.Float(value, precision=prec)
