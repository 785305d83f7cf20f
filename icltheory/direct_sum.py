"""Block-diagonal matrices of multiples of identities, for blocks whose dimensions are symbols.

What `matrices.Square` is for c I_d: exact products, inverses, traces and determinants, so that the
Gaussian calculus takes projectors of symbolic rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from icltheory.matrices import Square


class DirectSum(Square):
    """A block-diagonal matrix of multiples of identities, whose dimensions may be symbols.

    >>> p, q = sp.symbols("p q", positive=True)
    >>> DirectSum([(2, p), (0, q)]).trace()
    2*p
    """

    __slots__ = ("parts",)

    def __init__(self, parts: Sequence[tuple[Any, Any]]) -> None:
        self.parts = tuple((sp.sympify(c), sp.sympify(size)) for c, size in parts)
        super().__init__(sp.Add(*(size for _, size in self.parts)), None, None)

    @property
    def is_isotropic(self) -> bool:
        """False: the parts are kept apart."""
        return False

    def _map(self, function: Any) -> DirectSum:
        return DirectSum([(function(c), size) for c, size in self.parts])

    def _zip(self, other: Square, function: Any) -> DirectSum:
        if not isinstance(other, DirectSum):  # a multiple of the identity
            return self._map(lambda c: function(c, other.scale))
        pairs = zip(self.parts, other.parts, strict=True)
        return DirectSum([(function(c, e), size) for (c, size), (e, _) in pairs])

    def __matmul__(self, other: Square) -> Square:
        return self._zip(other, lambda a, b: a * b)

    def __add__(self, other: Square) -> Square:
        return self._zip(other, lambda a, b: a + b)

    # Diagonal matrices commute: products and sums from the left are those from the right.
    __rmatmul__, __radd__ = __matmul__, __add__

    def __mul__(self, factor: Any) -> Square:
        return self._map(lambda c: c * factor)

    @property
    def T(self) -> Square:
        """Transpose."""
        return self

    def inverse(self) -> Square:
        """Inverse (no factor may be 0)."""
        return self._map(lambda c: 1 / c)

    def trace(self) -> sp.Expr:
        """Trace as an expression."""
        return sp.Add(*(c * size for c, size in self.parts))

    def det_power(self, exponent: Any) -> sp.Expr:
        """det^exponent for positive factors."""
        return sp.Mul(*(sp.Pow(c, size * exponent) for c, size in self.parts))

    def reduced(self) -> Square:
        """The same matrix."""
        return self

    def positive_definite(self) -> sp.Basic:
        """Condition that all factors are positive."""
        return sp.And(*(sp.StrictGreaterThan(c, 0) for c, _ in self.parts))
