"""Moments of inverse Wishart matrices: E prod tr S^{-p_i} for S = X'X, exact in n and d.

X has n rows and d columns of independent N(0, 1) entries. Gaussian integration by parts of
E sum_ia X_ia (X S^{p-1})_ia Q, Q a product of traces, gives linear equations between the moments of
one total power: those with p = 0 and with p = -1, -2, ... determine all of them. Exported:
`inverse_wishart_moment`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp
from sympy.utilities.iterables import partitions

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.symbols import d, n

Powers = tuple[int, ...]  # positive and descending: prod_i tr S^{-p_i}


def inverse_wishart_moment(*powers: int, dim: Any = d, length: Any = n) -> sp.Expr:
    """E prod_i tr S^{-p_i}, S = X'X with n standard Gaussian rows in dimension d.

    Finite for n > d + 2 p - 1 with p the sum of the powers; a rational function of n and d.
    Source: derived here.

    >>> sp.factor(inverse_wishart_moment(1))
    -d/(d - n + 1)
    >>> inverse_wishart_moment(2, dim=3, length=12)
    11/144
    """
    if not powers or any(isinstance(p, bool) or not isinstance(p, int) or p < 1 for p in powers):
        raise InvalidInput(f"powers = {powers} are no inverse powers; pass integers of at least 1.")
    values = {
        d: checks.positive_integer(dim, "dim", "dim=5"),
        n: checks.positive_integer(length, "length", "length=20"),
    }
    moment = _moments(sum(powers))[tuple(sorted(powers, reverse=True))]
    denominator = sp.fraction(moment)[1].subs(values, simultaneous=True)
    if denominator.is_number and (denominator == 0 or values[n] <= values[d] + 2 * sum(powers) - 1):
        raise InvalidInput(
            f"length = {length} is too short: this moment is finite for length > dim + "
            f"{2 * sum(powers) - 1}."
        )
    return moment.subs(values, simultaneous=True)


@lru_cache(maxsize=16)
def _moments(weight: int) -> dict[Powers, sp.Expr]:
    """All moments of one total power, by solving the equations of their level."""
    if weight == 0:
        return {(): sp.S.One}
    below = _moments(weight - 1)
    unknown = {key: sp.Symbol(f"w_{'_'.join(map(str, key))}") for key in _partitions(weight)}
    known = {**below, **unknown}
    equations = [_by_parts(key[0], key[1:], known) for key in unknown]
    (found,) = sp.solve(equations, list(unknown.values()), dict=True)
    return {key: sp.factor(found[symbol]) for key, symbol in unknown.items()}


def _partitions(weight: int) -> list[Powers]:
    parts = (sorted((p for p, c in part.items() for _ in range(c))) for part in partitions(weight))
    return [tuple(reversed(part)) for part in parts]


def _by_parts(q: int, others: Powers, known: dict[Powers, sp.Expr]) -> sp.Expr:
    """0 = E sum d/dX_ia (X S^{-q})_ia Q - E tr S^{1-q} Q for Q = prod tr S^{-q_i}, in the moments.

    The derivative meets X; one of the q factors S^{-1}, at -S^{-1} (dS) S^{-1}; and the traces,
    at d tr S^{-p} = -2 p X S^{-p-1}.
    """

    def moment(*exponents: int) -> sp.Expr:
        traces = tuple(sorted((e for e in exponents if e), reverse=True))
        return known[traces] * d ** (len(exponents) - len(traces))  # tr 1 = d

    total = (n - q) * moment(q, *others) - moment(q - 1, *others)
    for j in range(1, q + 1):
        total -= moment(j - 1, q + 1 - j, *others)
    for i, p in enumerate(others):
        total -= 2 * p * moment(q + p, *others[:i], *others[i + 1 :])
    return total
