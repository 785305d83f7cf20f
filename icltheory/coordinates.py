"""The law of one coordinate of independent, identical, symmetric features, by its cumulants.

Exported: `CoordinateCumulants`, `coordinate_cumulants`, `one_coordinate`, and the symbol `xi` of a
standardised coordinate.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.laws.special import log_bessel
from icltheory.laws.tokens import TokenLaw, _Product

xi = sp.Symbol("xi", real=True)


class CoordinateCumulants:
    """A symmetric law of one coordinate, given by its even cumulants kappa_2, kappa_4, kappa_6, ...

    `even`: numbers or expressions, the variance kappa_2 > 0 first; a result that needs more of them
    than are given says so. Moments that no law can have are refused (`InvalidInput`). `moment` and
    `cumulant` are those of the coordinate divided by its standard deviation.

    >>> uniform = CoordinateCumulants([1, sp.Rational(-6, 5), sp.Rational(48, 7)])
    >>> [uniform.moment(p) for p in (2, 4, 6)]
    [1, 9/5, 27/7]
    """

    __slots__ = ("even",)
    even: tuple[sp.Expr, ...]

    def __init__(self, even: Any) -> None:
        value = checks.plain(even)
        if not isinstance(value, (list, tuple)) or not value:
            raise InvalidInput(f"even = {even!r} must list kappa_2, kappa_4, ..., e.g. [1, -1.2].")
        entries = tuple(checks.scalar(x, f"kappa_{2 * j + 2}") for j, x in enumerate(value))
        if entries[0].is_nonpositive:
            raise InvalidInput(f"kappa_2 = {entries[0]} is a variance; it must be positive.")
        object.__setattr__(self, "even", entries)
        for p in range(4, 2 * len(entries) + 1, 2):  # even moments are log-convex in their order
            gap = self.moment(p) * self.moment(p - 4) - self.moment(p - 2) ** 2
            if sp.expand(gap).is_negative:
                raise InvalidInput(
                    f"no law has the cumulants {entries}: E x^{p} E x^{p - 4} would be less than "
                    f"(E x^{p - 2})^2."
                )

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("CoordinateCumulants is immutable; make a new one.")

    @classmethod
    def of(cls, law: TokenLaw, order: int = 6) -> CoordinateCumulants:
        """Cumulants up to `order` of a one-dimensional token law, which must be symmetric.

        >>> from icltheory.laws.tokens import Rademacher
        >>> CoordinateCumulants.of(Rademacher(dim=1)).even
        (1, -2, 16)
        """
        return coordinate_cumulants(law, order)

    @property
    def variance(self) -> sp.Expr:
        """kappa_2 of the coordinate as it is."""
        return self.even[0]

    def cumulant(self, p: int) -> sp.Expr:
        """The cumulant of order p of the standardised coordinate."""
        if p % 2:
            return sp.S.Zero
        if p > 2 * len(self.even):
            raise InvalidInput(
                f"kappa_{p} is needed and only {len(self.even)} even cumulants are given; list them "
                f"up to kappa_{p}."
            )
        return self.even[p // 2 - 1] / self.variance ** (p // 2)

    def moment(self, p: int) -> sp.Expr:
        """The moment of order p of the standardised coordinate."""
        if p == 0:
            return sp.S.One
        terms = (
            sp.binomial(p - 1, j - 1) * self.cumulant(j) * self.moment(p - j)
            for j in range(2, p + 1, 2)
        )
        return sp.expand(sp.Add(*terms))

    def mean(self, polynomial: sp.Expr) -> sp.Expr:
        """E of a polynomial in the symbol xi."""
        terms = sp.Poly(polynomial, xi).terms()
        return sp.Add(*(c * self.moment(p) for (p,), c in terms if p % 2 == 0))

    def _key(self) -> tuple[sp.Expr, ...]:
        return self.even

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CoordinateCumulants) and other.even == self.even

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.even))

    def __reduce__(self) -> tuple:
        return CoordinateCumulants, (self.even,)

    def __repr__(self) -> str:
        return f"CoordinateCumulants({list(self.even)})"


Features = TokenLaw | CoordinateCumulants


def one_coordinate(features: Any, dim: sp.Expr | None = None) -> TokenLaw:
    """The law of one coordinate, which every coordinate must have."""
    if not isinstance(features, TokenLaw):
        raise InvalidInput(
            f"features has type {type(features).__name__}; pass the law of a coordinate, e.g. "
            f"icl.UniformCube(dim=1), or icl.CoordinateCumulants([1, -1.2, 6.9])."
        )
    if features.dim == 1:
        return features
    if not isinstance(features, _Product) or len(set(features.scales)) > 1:
        raise InvalidInput(
            f"{features} is no law of independent, identical coordinates; pass the law of one "
            f"coordinate (dim=1)."
        )
    if dim is not None and dim != features.dim:
        raise InvalidInput(f"the features have dimension {features.dim}, the task {dim}.")
    return type(features)(1, features.scales[0])


@lru_cache(maxsize=64)
def coordinate_cumulants(law: TokenLaw, order: int) -> CoordinateCumulants:
    """From the derivatives of the generating function at 0."""
    if not isinstance(law, TokenLaw) or law.dim != 1:
        raise InvalidInput("the cumulants of a coordinate need a token law with dim=1.")
    u, square = sp.Dummy("u", real=True), sp.Dummy("s", positive=True)
    cgf = law.cgf([u])
    if cgf.has(log_bessel):  # a function of u^2, of which half as many derivatives are needed
        current, out = law.cgf([sp.sqrt(square)]), []
        for j in range(1, order // 2 + 1):
            current = sp.diff(current, square)
            out.append(sp.factorial(2 * j) / sp.factorial(j) * current.subs(square, 0))
        return CoordinateCumulants(out)
    current, moments = sp.exp(cgf), [sp.S.One]
    for _ in range(order):
        current = sp.diff(current, u)
        moments.append(sp.expand(current.subs(u, 0)))
    if any(sp.expand(m) != 0 for m in moments[1::2]):
        raise InvalidInput(f"{law} is not symmetric; the coordinates must be.")
    cumulants = [sp.S.Zero] * (order + 1)
    for p in range(2, order + 1, 2):
        cumulants[p] = moments[p] - sum(
            sp.binomial(p - 1, j - 1) * cumulants[j] * moments[p - j] for j in range(2, p, 2)
        )
    return CoordinateCumulants([sp.expand(x) for x in cumulants[2::2]])
