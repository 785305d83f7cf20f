"""Forms that are read at a glance: collected polynomials, positive factors, joined powers.

Cheap and exact rewritings for results, no search for a simplest form. Exported: `collected`,
`positive`, `joined`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp


def collected(expr: sp.Expr, *symbols: sp.Symbol) -> sp.Expr:
    """A polynomial in the symbols with factored coefficients, each without a minus sign to spare.

    >>> x, n, d = sp.symbols("x n d")
    >>> collected(d * n * x**2 + n**2 * x**2 - 2 * x * n + 1, x)
    n*x**2*(d + n) - 2*n*x + 1
    """
    if not symbols:
        return positive(sp.factor(expr))
    terms = sp.Poly(expr, *symbols).terms()
    powers = (sp.Mul(*(x**e for x, e in zip(symbols, m, strict=True))) for m, _ in terms)
    return sp.Add(*(positive(sp.factor(c)) * p for p, (_, c) in zip(powers, terms, strict=True)))


def positive(expr: sp.Expr) -> sp.Expr:
    """-(a - b - c) f as (b + c - a) f: a minus sign goes into a sum with more minus than plus signs.

    >>> x, y = sp.symbols("x y")
    >>> positive(-y * (x**2 - 9 * x - 6))
    y*(-x**2 + 9*x + 6)
    """
    factor, rest = expr.as_coeff_Mul()
    if not factor.is_negative:
        return expr
    for part in sp.Mul.make_args(rest):
        base, power = part.as_base_exp()
        if not (base.is_Add and abs(power) == 1):
            continue
        if 2 * sum(term.could_extract_minus_sign() for term in base.args) >= len(base.args):
            return sp.Mul(-factor, rest / part, sp.Add(*(-term for term in base.args)) ** power)
    return expr


def joined(expr: Any) -> Any:
    """Powers of one base in one product as one power, also below other functions.

    >>> x, n = sp.symbols("x n", positive=True)
    >>> joined(x / (x * x**n))
    x**(-n)
    >>> joined((1 - x) ** (-n) / (1 - x))
    (1 - x)**(-n - 1)
    """
    return sp.powsimp(expr, combine="exp")
