"""E tr S^k of a standard Wishart matrix as a sum over zonal polynomials: fast for powers in the hundreds.

Zonal polynomials Z_l, l a partition of k, are Jack polynomials with parameter 2. They are
orthogonal, the weight of tr S^k against Z_l is the product of the contents 2 j - i over the boxes
(i, j) of l other than (0, 0), and E Z_l(S) = Z_l(I_d) prod (n + 2 j - i), Z_l(I_d) = prod (d + 2 j - i).
The box (2, 1) has content 0, so that only l = (a, b, 1^c) contribute: about k^2/4 terms. Sources:
Hanlon, Stanley and Stembridge, Contemp. Math. 138 (1992); Macdonald, Symmetric Functions, VI.10.
Exported: `zonal_trace_moment`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import sympy as sp

from icltheory.symbols import d, n


def zonal_trace_moment(power: int, length: sp.Expr, dim: sp.Expr) -> sp.Expr:
    """E tr S^power, power >= 1; integers or symbols (`icl.wishart_trace_moment` checks them).

    >>> zonal_trace_moment(4, sp.Integer(40), sp.Integer(20))
    309504000
    """
    denominator, terms = math.factorial(2 * power - 1), _terms(power)
    if length.is_Integer and dim.is_Integer:
        tables = _products(power, int(length)), _products(power, int(dim))
        (rows, seconds, columns), (rows_d, seconds_d, columns_d) = tables
        total = 0
        for a, b, c, weight in terms:
            left = rows[a] * seconds[b] * columns[c]
            total += weight * left * rows_d[a] * seconds_d[b] * columns_d[c]
        return sp.Integer(total // denominator)
    values = {n: length, d: dim}
    return _polynomial(power).subs(values, simultaneous=True)


@lru_cache(maxsize=64)
def _polynomial(power: int) -> sp.Expr:
    """The moment as a polynomial in n and d, from outer products of the polynomials prod (x + 2 j - i)."""
    denominator, terms = math.factorial(2 * power - 1), _terms(power)
    total = [[0] * (power + 1) for _ in range(power + 1)]
    for a, b, c, weight in terms:
        contents = [2 * j for j in range(a)] + [2 * j - 1 for j in range(b)]
        contents += [-i for i in range(2, c + 2)]
        coefficients = [1]  # ascending
        for content in contents:
            shifted = [0, *coefficients]
            coefficients = [
                content * x + y for x, y in zip([*coefficients, 0], shifted, strict=True)
            ]
        for i, x in enumerate(coefficients):
            row, factor = total[i], weight * x
            for j, y in enumerate(coefficients):
                row[j] += factor * y
    polynomial = {
        (i, j): sp.Integer(x // denominator)
        for i, row in enumerate(total)
        for j, x in enumerate(row)
        if x
    }
    return sp.Poly(polynomial, n, d).as_expr()


@lru_cache(maxsize=1024)
def _terms(power: int) -> tuple[tuple[int, int, int, int], ...]:
    """(a, b, c, weight times (2 k - 1)!) of the partitions (a, b, 1^c) of k = power."""
    size = math.factorial(2 * power)
    terms = [(power, 0, 0, _contents(power, 0, 0) * (size // _hooks(power, 0, 0)))]
    for b in range(1, power // 2 + 1):
        for a in range(b, power - b + 1):
            c = power - a - b
            terms.append((a, b, c, _contents(a, b, c) * (size // _hooks(a, b, c))))
    return tuple(terms)


def _contents(a: int, b: int, c: int) -> int:
    """Product of 2 j - i over the boxes of (a, b, 1^c) other than (0, 0)."""
    second = math.prod(range(-1, 2 * b - 2, 2))
    return 2 ** (a - 1) * math.factorial(a - 1) * second * (-1) ** c * math.factorial(c + 1)


def _hooks(a: int, b: int, c: int) -> int:
    """Product of (2 arm + leg + 1)(2 arm + leg + 2) over the boxes of (a, b, 1^c).

    These are the hooks of (2a, 2b, 2^c), so that the product divides (2 k)!.
    """
    if b == 0:
        return math.factorial(2 * a)
    product = (2 * a + c) * (2 * a + c + 1)  # first column: leg c + 1 in row 0, c in row 1
    product *= (2 * b + c - 1) * (2 * b + c)
    product *= math.factorial(c) * math.factorial(c + 1)
    # Row 0: leg 1 above the second row, 0 beyond it. Row 1: leg 0.
    product *= math.factorial(2 * a - 1) // math.factorial(2 * (a - b) + 1)
    return product * math.factorial(2 * (a - b)) * math.factorial(2 * b - 2)


def _products(power: int, x: int) -> tuple[list[int], list[int], list[int]]:
    """Products of x + content over the first row, the second row and the column below them."""

    def cumulative(contents: Iterable[int]) -> list[int]:
        out = [1]
        for content in contents:
            out.append(out[-1] * (x + content))
        return out

    rows = cumulative(range(0, 2 * power, 2))
    seconds = cumulative(range(-1, power, 2))
    return rows, seconds, cumulative(range(-2, -power - 1, -1))
