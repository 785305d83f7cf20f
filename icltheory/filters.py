"""Filter algebra: update rules in one eigenvalue, and the closed forms of their recursions.

In an eigendirection of S = X'X with eigenvalue lam an iterate is a number w that is linear in its
start w_0 and in the right-hand side X'y. What multiplies w_0 is the residual filter r(lam), what
multiplies X'y is the solution filter q(lam); r = 1 - lam q. The functions here read recursions off
update rules, solve them for a symbolic number of steps, and divide 1 - r by lam exactly.
Source: derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy as sp

from icltheory.symbols import lam

_NEW, _OLD, _RHS, _RESIDUAL = sp.symbols("w w_old b E")


def linear_recursion(update: Callable[[Any, Any, Any], Any]) -> tuple[sp.Expr, sp.Expr]:
    """(A, B) with r_{t+1} = A r_t + B r_{t-1}, from w_{t+1} = update(w_t, w_{t-1}, X'y).

    The rule must leave the solution lam w = X'y where it is, or it is no solver.
    """
    rule = sp.Poly(update(_NEW, _OLD, _RHS), _NEW, _OLD, _RHS)
    first, second, source = (rule.coeff_monomial(x) for x in (_NEW, _OLD, _RHS))
    if sp.expand(first + second + lam * source - 1) != 0 or rule.total_degree() > 1:
        raise AssertionError(f"the update {rule.as_expr()} does not stop at the solution")
    return first, second


def recursion_filter(first: sp.Expr, second: sp.Expr, steps: sp.Expr) -> sp.Expr:
    """r_t of r_{t+1} = A r_t + B r_{t-1}, r_{-1} = r_0 = 1, for any t: roots as Chebyshev's U.

    With rho = sqrt(-B) and xi = A/(2 rho) the solutions are rho^t U_t(xi); the two starts fix
    r_t = rho^t U_t(xi) + (r_1 - A) rho^{t-1} U_{t-1}(xi), and r_1 - A = B = -rho^2.
    """
    if second == 0:
        return first**steps
    rho = sp.sqrt(-second)
    xi = first / (2 * rho)
    return rho**steps * (sp.chebyshevu(steps, xi) - rho * sp.chebyshevu(steps - 1, xi))


def residual_order(update: Callable[[Any, Any], Any]) -> int:
    """The p with E_{k+1} = E_k^p, E = 1 - s M, for M_{k+1} = update(M_k, s): a matrix iteration."""
    s = sp.Symbol("s", positive=True)
    new = sp.Poly(sp.cancel(1 - s * update((1 - _RESIDUAL) / s, s)), _RESIDUAL)
    if not new.is_monomial or new.LC() != 1:
        raise AssertionError(f"the residual becomes {new.as_expr()}, no power of itself")
    return new.degree()


def geometric_sum(ratio: sp.Expr, count: int) -> sp.Expr:
    """1 + x + ... + x^{count-1} with about 2 log2(count) operations: by doubling.

    For 0 <= x <= 1 no term is negative: (1 - x^count)/(1 - x) without its cancellation at x = 1.
    """
    if count == 0:
        return sp.S.Zero
    total, length = sp.S.One, 1
    for bit in bin(count)[3:]:
        total, length = total * (1 + ratio**length), 2 * length
        if bit == "1":
            total, length = 1 + ratio * total, length + 1
    return total


def as_polynomial(expr: sp.Expr) -> sp.Poly:
    """`expr` as a polynomial in lam; square roots of numbers become elements of a number field."""
    irrational = any(x.exp.is_Rational and not x.exp.is_Integer for x in expr.atoms(sp.Pow))
    if irrational and expr.free_symbols <= {lam}:
        return sp.Poly(expr, lam, extension=True)
    return sp.Poly(expr, lam)


def coefficients(polynomial: sp.Poly) -> tuple[sp.Expr, ...]:
    """Coefficients in ascending order, the constant first."""
    return tuple(reversed(polynomial.all_coeffs()))


def divided(residual: sp.Poly) -> sp.Poly:
    """(1 - r)/lam, exact: every residual polynomial has r(0) = 1."""
    return (1 - residual).exquo(sp.Poly(lam, lam, domain=residual.domain))


def late_residual(contraction: sp.Expr) -> tuple[sp.Expr, int]:
    """(c, p) with contraction = 1 - c lam^p + ... for small lam."""
    (power,), factor = as_polynomial(1 - contraction).terms()[-1]
    return factor, power
