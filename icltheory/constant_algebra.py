"""Readable forms of loss constants: partial fractions in t = k^2, and powers of 1 -+ 2t that cancel.

Exported: `in_t`, `tidy`, `positive_denominator`, `combine_opposite_powers`, `distribute`, `apart`.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import sympy as sp

from icltheory.readable import joined
from icltheory.symbols import k, t


def in_t(expr: Any) -> Any:
    """k^2 = t: the constants depend on the square only."""
    return expr.subs(k, sp.sqrt(t)) if expr.has(k) else expr


def tidy(bracket: sp.Expr) -> sp.Expr:
    """Partial fractions in k^2, so that the power of 1 - 2t stays the only power."""
    if not bracket.has(k):
        return bracket
    squared = in_t(sp.cancel(bracket))
    if squared.has(sp.sqrt(t)):  # local examples: odd in k
        return sp.factor(squared)
    terms = sp.apart(sp.cancel(squared), t)
    return sp.Add(*(positive_denominator(term) for term in sp.Add.make_args(terms)))


def positive_denominator(term: sp.Expr) -> sp.Expr:
    """a/(2t - 1) as (-a)/(1 - 2t), for 0 < t < 1/2; common numeric factors cancel."""
    numerator, denominator = sp.fraction(sp.factor(term))
    constant, rest = sp.factor_terms(denominator).as_independent(t, as_Add=False)
    for factor in sp.Mul.make_args(rest):
        if factor.is_Add and factor.subs(t, 0).is_negative:
            constant, rest = -constant, rest / factor * sp.expand(-factor)
    return sp.factor(numerator / constant) / rest


def combine_opposite_powers(expr: sp.Expr) -> sp.Expr:
    """(1 - 2t)^e and (1 + 2t)^e through artanh 2t, so that their difference has no cancellation.

    (1 -+ 2t)^e = (1 - 4t^2)^{e/2} (cosh(e y) -+ sinh(e y)) with y = artanh 2t.
    """
    y, square = sp.atanh(2 * t), 1 - 4 * t**2
    expr = distribute(expr)

    def through_artanh(base: sp.Expr, exponent: sp.Expr) -> sp.Expr:
        if base == 1 - 2 * t:
            return square ** (exponent / 2) * (sp.cosh(exponent * y) - sp.sinh(exponent * y))
        if base == 1 + 2 * t:
            return square ** (exponent / 2) * (sp.cosh(exponent * y) + sp.sinh(exponent * y))
        return sp.Pow(base, exponent)

    combined = distribute(expr.replace(sp.Pow, through_artanh))
    collected = sp.collect(combined, sorted(combined.atoms(sp.sinh, sp.cosh), key=str))
    terms = [joined(sp.factor_terms(term)) for term in sp.Add.make_args(collected)]
    return sp.Add(*terms)


def apart(expr: sp.Expr, variable: sp.Expr) -> sp.Expr:
    """Partial fractions in `variable` where it is a symbol of `expr`."""
    return sp.apart(expr, variable) if variable.is_Symbol and expr.has(variable) else expr


def distribute(expr: sp.Expr) -> sp.Expr:
    """Products over sums at the top level only; `expand` would multiply out the powers as well."""
    terms = []
    for term in sp.Add.make_args(expr):
        sums = [factor for factor in sp.Mul.make_args(term) if factor.is_Add]
        rest = term / sp.Mul(*sums)
        terms += [rest * sp.Mul(*parts) for parts in product(*(add.args for add in sums))]
    return sp.Add(*terms)
