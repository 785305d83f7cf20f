"""Trace moments of Wishart matrices S = X'X, exact in the number of rows n and the covariance.

X has n independent rows N(0, Sigma) in dimension d. Gaussian integration by parts of
E tr(Sigma^j S^k) P, P a product of traces tr S^p, closes on moments of the same kind and of one
power of X'X less, so that every moment is a polynomial in n and the traces tr Sigma^i; for
Sigma = I, in n and d. Single traces of high powers come from zonal polynomials instead
(`icltheory.laws.zonal`). Exported: `wishart_trace_moment`, `wishart_covariance_moment`,
`covariance_traces`; `covariance_square` and `trace_moments` serve the risks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import sympy as sp
from sympy.polys.constructor import construct_domain

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.laws.zonal import zonal_trace_moment
from icltheory.matrices import Square
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import n as length_symbol

Powers = tuple[int, ...]  # positive and descending: prod_i tr S^{p_i}

_LARGEST_PRODUCT = 40  # total power; the states of the recursion grow like partitions
_LARGEST_POWER = 400
_STEIN = 16  # single traces above this power are faster as sums over zonal polynomials


def wishart_trace_moment(power: Any, n: Any = length_symbol, d: Any = dim_symbol) -> sp.Expr:
    """E tr S^power, or E prod_i tr S^{p_i}, for S = X'X with n standard Gaussian rows in dimension d.

    Parameters
    ----------
    power: an integer from 0 to 400, or a sequence of integers of sum at most 40, for a product of
        traces. Negative powers: `icl.inverse_wishart_moment`.
    n, d: positive integers or symbols; the result is a polynomial in them, symmetric for one trace.

    A plain SymPy expression, not a Formula: a building block without validity or references of its
    own. S is not divided by n. Errors: `InvalidInput`. Source: integration by parts, derived here.

    >>> sp.factor(wishart_trace_moment(3))
    d*n*(d**2 + 3*d*n + 3*d + n**2 + 3*n + 4)
    >>> wishart_trace_moment(4, n=40, d=20), wishart_trace_moment((1, 1), n=3, d=2)
    (309504000, 48)
    """
    powers = _checked_powers(power)
    length = checks.positive_integer(n, "n", "n=40")
    dim = checks.positive_integer(d, "d", "d=20")
    return _trace_moment(powers, length, dim)


def wishart_covariance_moment(
    power: int,
    n: Any = length_symbol,
    cov: Any = None,
    *,
    dim: Any = dim_symbol,
    weight: int = 0,
) -> sp.Expr:
    """E tr(Sigma^weight S^power) for S = X'X with n independent rows N(0, Sigma).

    Parameters
    ----------
    power, weight: integers >= 0; the states of the recursion grow like the partitions of `power`.
    cov: Sigma as a matrix, d eigenvalues, or a number c for c I (with `dim`); `None` gives a
        polynomial in n and the symbols s_j = tr Sigma^j.

    Errors: `InvalidInput`. Source: integration by parts, derived here.

    >>> wishart_covariance_moment(2, weight=1)
    n**2*s_3 + n*s_1*s_2 + n*s_3
    >>> wishart_covariance_moment(2, n=3, cov=[1, 2])
    87
    """
    for value, name in ((power, "power"), (weight, "weight")):
        _natural(value, name, _LARGEST_PRODUCT)
    length = checks.positive_integer(n, "n", "n=40")
    return trace_moments(length, covariance_traces(cov, dim))(weight, power)


Traces = Callable[[int], sp.Expr]


def covariance_traces(cov: Any, dim: Any = dim_symbol) -> Traces:
    """j -> tr Sigma^j: of a matrix, of eigenvalues, of a multiple of the identity, or symbols s_j.

    >>> [covariance_traces([1, 2])(j) for j in range(4)]
    [2, 3, 5, 9]
    """
    if cov is None:
        return lambda j: sp.Symbol(f"s_{j}", positive=True) if j else checks.scalar(dim, "dim")
    matrix = covariance_square(cov, dim)
    if matrix.is_isotropic:
        return lambda j: matrix.dim * matrix.scale**j
    return _MatrixTraces(matrix)


class _MatrixTraces:
    """Traces of the powers of one matrix, each computed once."""

    def __init__(self, matrix: Square):
        self._matrix, self._power = matrix, matrix
        self._known = [matrix.dim, matrix.trace()]

    def __call__(self, j: int) -> sp.Expr:
        while len(self._known) <= j:
            self._power = self._power @ self._matrix
            self._known.append(self._power.trace())
        return self._known[j]


def covariance_square(cov: Any, dim: Any) -> Square:
    """A user's covariance of the rows; `dim` counts only where cov is a number."""
    value = checks.plain(cov)
    if isinstance(value, Square):
        return value
    if isinstance(value, (list, tuple)):
        dim = len(value)
    elif isinstance(value, sp.MatrixBase):
        dim = value.shape[0]
    size = checks.positive_integer(dim, "dim", "dim=5")
    return Square.coerce(value, size, "cov").reduced()


# -- the recursion -------------------------------------------------------------------------------


def trace_moments(length: sp.Expr, traces: Traces) -> Callable[[int, int], sp.Expr]:
    """(j, k) -> E tr(Sigma^j S^k), with a memory shared by all calls."""
    known: dict[int, tuple[Any, Callable[[int, int], Any]]] = {}

    def moment(weight: int, power: int) -> sp.Expr:
        top = weight + power
        bound = next((b for b in sorted(known) if b >= top), None)
        if bound is None:
            values = [length, *(sp.sympify(traces(j)) for j in range(top + 1))]
            domain, (rows, *numbers) = construct_domain(values)
            known[top] = domain, _recursion(domain, rows, numbers)
            bound = top
        domain, recursion = known[bound]
        return domain.to_sympy(recursion(weight, power))

    return moment


def _recursion(domain: Any, rows: Any, traces: Sequence[Any]) -> Callable[[int, int], Any]:
    """(j, k) -> E tr(Sigma^j S^k) in a SymPy domain; traces[j] = tr Sigma^j.

    E tr(Sigma^j S^k) P = E sum_ia X_ia (X S^{k-1} Sigma^j)_ia P. The derivative, contracted with
    Sigma, meets the explicit X (n times), the k - 1 factors S between (each gives one straight
    term and one that splits off a trace), and the traces of P, at d tr S^p = 2 p X S^{p-1}.
    Expanding the factor with Sigma first keeps it the only one.
    """
    memory: dict[tuple[int, int, Powers], Any] = {}

    def moment(j: int, k: int, others: Powers) -> Any:
        if k == 0:
            rest = moment(0, others[0], others[1:]) if others else domain.one
            return traces[j] * rest
        key = (j, k, others)
        if key not in memory:
            total = (rows + domain(k - 1)) * moment(j + 1, k - 1, others)
            for split in range(1, k):
                total += moment(j + 1, k - 1 - split, _with(others, split))
            for p, count in Counter(others).items():
                total += domain(2 * p * count) * moment(j + 1, k + p - 1, _without(others, p))
            memory[key] = total
        return memory[key]

    return lambda j, k: moment(j, k, ())


@lru_cache(maxsize=512)
def _trace_moment(powers: Powers, length: sp.Expr, dim: sp.Expr) -> sp.Expr:
    if not powers:
        return dim
    if len(powers) == 1 and powers[0] > _STEIN:
        return zonal_trace_moment(powers[0], length, dim)
    domain, recursion = _isotropic(length, dim)
    return domain.to_sympy(recursion(powers))


@lru_cache(maxsize=64)
def _isotropic(length: sp.Expr, dim: sp.Expr) -> tuple[Any, Callable[[Powers], Any]]:
    """The recursion at Sigma = I, where tr S in a product is only a factor n d + 2 (rest's power)."""
    domain, (rows, size) = construct_domain([length, dim])
    memory: dict[Powers, Any] = {(): domain.one}

    def moment(powers: Powers) -> Any:
        if powers in memory:
            return memory[powers]
        if powers[-1] == 1:
            value = (rows * size + domain(2 * (sum(powers) - 1))) * moment(powers[:-1])
        else:
            k, others = powers[0], powers[1:]
            # Both ends of the splitting, tr S^0 = d, are written out.
            value = (rows + size + domain(k - 1)) * moment(_with(others, k - 1))
            for split in range(1, k - 1):
                value += moment(_with(_with(others, split), k - 1 - split))
            for p, count in Counter(others).items():
                value += domain(2 * p * count) * moment(_with(_without(others, p), k + p - 1))
        memory[powers] = value
        return value

    return domain, moment


def _with(powers: Powers, power: int) -> Powers:
    return tuple(sorted((*powers, power), reverse=True))


def _without(powers: Powers, power: int) -> Powers:
    at = powers.index(power)
    return powers[:at] + powers[at + 1 :]


def _checked_powers(power: Any) -> Powers:
    value = checks.plain(power)
    if isinstance(value, (list, tuple)):
        powers = tuple(_natural(p, "power", _LARGEST_PRODUCT) for p in value)
        if not powers or 0 in powers:
            raise InvalidInput(f"power = {power} is no product of traces; pass integers >= 1.")
        if len(powers) > 1 and sum(powers) > _LARGEST_PRODUCT:
            raise InvalidInput(
                f"power = {power} has the sum {sum(powers)}; products of traces are computed up to "
                f"a sum of {_LARGEST_PRODUCT}."
            )
        return tuple(sorted(powers, reverse=True))
    value = _natural(value, "power", _LARGEST_POWER)
    return (value,) if value else ()


def _natural(value: Any, name: str, largest: int) -> int:
    value = int(value) if isinstance(value, sp.Integer) else value
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise InvalidInput(
            f"{name} = {value!r} is no power; pass an integer from 0 to {largest}"
            + (", or icl.inverse_wishart_moment for negative powers." if name == "power" else ".")
        )
    return value
