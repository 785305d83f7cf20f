"""Square matrices for derivations: explicit ones, and multiples of the identity in symbolic d.

`Square` is what tasks, heads and the Gaussian calculus compute with. An explicit matrix lives in a
SymPy `DomainMatrix` (exact arithmetic over the field its entries generate, so that rational
functions cancel without `simplify`); `c I_d` keeps only `c` and the dimension, which may be a
symbol. Both answer the same questions: product, sum, inverse, trace, determinant, definiteness.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import sympy as sp
from sympy.polys.matrices import DomainMatrix

from icltheory import checks
from icltheory.errors import InvalidInput

# Entries that came from floats are symmetric and semi-definite only up to their rounding.
_ROUNDING = sp.Rational(1, 10**12)


class Square:
    """A d x d matrix: `Square.identity(scale, dim)` or `Square.explicit(rows)`.

    >>> Square.identity(2, sp.Symbol("d", positive=True)).trace()
    2*d
    >>> Square.explicit([[2, 1], [1, 2]]).inverse().to_matrix()
    Matrix([
    [ 2/3, -1/3],
    [-1/3,  2/3]])
    """

    __slots__ = ("_dm", "_scale", "dim")

    def __init__(self, dim: sp.Expr, scale: sp.Expr | None, dm: DomainMatrix | None):
        self.dim, self._scale, self._dm = dim, scale, dm

    @staticmethod
    def identity(scale: Any, dim: Any) -> Square:
        """`scale` times the identity; `dim` a positive integer or a symbol."""
        return Square(sp.sympify(dim), sp.sympify(scale), None)

    @staticmethod
    def explicit(entries: list[list[sp.Expr]]) -> Square:
        """The matrix with these rows (exact SymPy entries)."""
        matrix = DomainMatrix.from_Matrix(sp.Matrix(entries), extension=True).to_field()
        return Square(sp.Integer(len(entries)), None, matrix)

    @staticmethod
    def coerce(value: Any, dim: sp.Expr, name: str) -> Square:
        """A user's matrix: a scalar (multiple of the identity), d eigenvalues, or d x d entries."""
        if isinstance(value, Square):
            return value
        value = checks.plain(value)
        if isinstance(value, sp.MatrixBase):
            value = value.tolist()
        if not isinstance(value, (list, tuple)):
            return Square.identity(checks.scalar(value, name), dim)
        if not dim.is_Integer:
            raise InvalidInput(
                f"{name} is explicit but the dimension is the symbol {dim}; give dim as an "
                f"integer, or {name} as one number c, meaning c times the identity."
            )
        if all(not isinstance(checks.plain(row), (list, tuple)) for row in value):
            if len(value) != dim:
                raise InvalidInput(
                    f"{name} lists {len(value)} eigenvalues; dim = {dim} needs {dim}."
                )
            entries = [checks.scalar(x, f"{name}[{i}]") for i, x in enumerate(value)]
            return Square.explicit(sp.diag(*entries).tolist())
        entries = checks.rows(value, name)
        if len(entries) != dim or len(entries[0]) != dim:
            raise InvalidInput(
                f"{name} has shape {len(entries)} x {len(entries[0])}; dim = {dim} needs {dim} x {dim}."
            )
        return Square.explicit(entries)

    # -- representation ------------------------------------------------------------------------

    @property
    def is_isotropic(self) -> bool:
        """True for a stored multiple of the identity."""
        return self._dm is None

    @property
    def scale(self) -> sp.Expr:
        """The factor of the identity; only for `is_isotropic`."""
        assert self._scale is not None
        return self._scale

    def to_matrix(self) -> sp.ImmutableMatrix:
        """The explicit SymPy matrix (needs an integer dimension)."""
        if self._dm is not None:
            return sp.ImmutableMatrix(self._dm.to_Matrix())
        if not self.dim.is_Integer:
            raise InvalidInput(f"{self.scale} I_{self.dim} has no entries: {self.dim} is a symbol.")
        return sp.ImmutableMatrix(sp.eye(int(self.dim)) * self.scale)

    def key(self) -> Any:
        """A hashable value that determines the matrix."""
        return (self.dim, self._scale) if self._dm is None else self.to_matrix()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Square):
            return NotImplemented
        return self.dim == other.dim and (self - other).is_zero()

    def __hash__(self) -> int:
        return hash(self.dim)

    def __reduce__(self) -> tuple:
        if self._dm is None:
            return Square.identity, (self._scale, self.dim)
        return Square.explicit, (self.to_matrix().tolist(),)

    def __repr__(self) -> str:
        if self._dm is None:
            return f"{self.scale}*I_{self.dim}"
        return str(self.to_matrix().tolist())

    def free_symbols(self) -> set[sp.Basic]:
        """Symbols in the entries (not the dimension)."""
        return set(self.scale.free_symbols if self._dm is None else self.to_matrix().free_symbols)

    # -- algebra -------------------------------------------------------------------------------

    def _explicit(self) -> DomainMatrix:
        if self._dm is not None:
            return self._dm
        return DomainMatrix.from_Matrix(sp.Matrix(self.to_matrix()), extension=True).to_field()

    def _binary(self, other: Square, scalar_op: Any, matrix_op: Any) -> Square:
        if self._dm is None and other._dm is None:
            return Square.identity(scalar_op(self.scale, other.scale), self.dim)
        left, right = self._explicit().unify(other._explicit(), fmt="dense")
        return Square(sp.Integer(left.shape[0]), None, matrix_op(left, right))

    def __matmul__(self, other: Square) -> Square:
        return self._binary(other, lambda a, b: a * b, lambda a, b: a * b)

    def __add__(self, other: Square) -> Square:
        return self._binary(other, lambda a, b: a + b, lambda a, b: a + b)

    def __sub__(self, other: Square) -> Square:
        return self + other * -1

    def __mul__(self, factor: Any) -> Square:
        factor = sp.sympify(factor)
        if self._dm is None:
            return Square.identity(self.scale * factor, self.dim)
        one = DomainMatrix.from_Matrix(sp.Matrix([[factor]]), extension=True).to_field()
        matrix, scaled = self._dm.unify(one, fmt="dense")
        return Square(self.dim, None, matrix * scaled[0, 0].element)

    __rmul__ = __mul__

    @property
    def T(self) -> Square:
        """Transpose."""
        return self if self._dm is None else Square(self.dim, None, self._dm.transpose())

    def inverse(self) -> Square:
        """Inverse (the matrix must be invertible)."""
        if self._dm is None:
            return Square.identity(1 / self.scale, self.dim)
        return Square(self.dim, None, self._dm.inv())

    def trace(self) -> sp.Expr:
        """Trace as an expression."""
        if self._dm is None:
            return self.scale * self.dim
        m = self._dm
        return m.domain.to_sympy(sum((m[i, i].element for i in range(m.shape[0])), m.domain.zero))

    def det(self) -> sp.Expr:
        """Determinant; a power with symbolic exponent for a multiple of I_d."""
        if self._dm is None:
            return self.scale**self.dim
        det = self._dm.domain.to_sympy(self._dm.det())
        # A rational function keeps its factors: (1 - 2t)^d must not be expanded.
        return sp.factor(det) if det.free_symbols else det

    def det_power(self, exponent: Any) -> sp.Expr:
        """det(A)^exponent for a matrix with positive eigenvalues."""
        if self._dm is None:
            # (c^d)^e does not combine by itself; c > 0 here, so it is c^(d e).
            return sp.Pow(self.scale, self.dim * exponent)
        return sp.Pow(self.det(), exponent)

    def reduced(self) -> Square:
        """The same matrix, stored as a multiple of the identity if it is one."""
        if self._dm is None:
            return self
        m, size = self._dm, self._dm.shape[0]
        first, zero = m[0, 0].element, m.domain.zero
        same = all(
            m[i, j].element == (first if i == j else zero) for i in range(size) for j in range(size)
        )
        return Square.identity(m.domain.to_sympy(first), self.dim) if same else self

    def elementary_symmetric(self) -> list[sp.Expr]:
        """e_1, ..., e_d of the eigenvalues (only [scale] for a multiple of the identity)."""
        if self._dm is None:
            return [self.scale]
        coefficients = self._dm.charpoly()
        to = self._dm.domain.to_sympy
        values = [to(c) * (-1) ** j for j, c in enumerate(coefficients)][1:]
        return [sp.factor(x) if x.free_symbols else x for x in values]

    def positive_definite(self) -> sp.Basic:
        """Condition that all eigenvalues are positive, for a matrix with real eigenvalues.

        A real-rooted polynomial has only positive roots iff its coefficients alternate strictly,
        so the condition is `e_j > 0` for every elementary symmetric function, without square
        roots or an inverse.
        """
        conditions = {sp.StrictGreaterThan(e, 0) for e in self.elementary_symmetric()}
        return sp.And(*conditions)

    def is_zero(self) -> bool:
        """True if every entry is exactly zero."""
        if self._dm is None:
            return sp.expand(self.scale) == 0
        return self._dm.is_zero_matrix

    def max_abs(self) -> sp.Expr:
        """Largest absolute entry of a numeric matrix."""
        if self._dm is None:
            return sp.Abs(self.scale)
        return max((abs(x) for x in self.to_matrix()), default=sp.S.Zero)


def total(matrices: list[Square]) -> Square:
    """Sum of a non-empty list."""
    return reduce(lambda a, b: a + b, matrices)


def covariance(value: Any, dim: sp.Expr, name: str, *, definite: bool) -> Square:
    """A user's covariance: symmetric and positive (semi-)definite, or refused.

    Symbolic entries cannot be decided here; their condition is `Square.positive_definite`.
    """
    matrix = Square.coerce(value, dim, name)
    asymmetry = matrix - matrix.T
    if not asymmetry.is_zero():
        scale = matrix.max_abs() if not matrix.free_symbols() else None
        if scale is None or asymmetry.max_abs() > _ROUNDING * scale:
            raise InvalidInput(
                f"{name} is not symmetric; pass (C + C.T)/2 if that is what you mean."
            )
        matrix = (matrix + matrix.T) * sp.Rational(1, 2)
    kind = "positive definite" if definite else "positive semi-definite"
    mean = abs(matrix.trace() / matrix.dim)
    for j, e in enumerate(matrix.elementary_symmetric(), start=1):
        if e.free_symbols:
            bad = e.is_nonpositive if definite else e.is_negative
        elif definite:
            bad = e <= 0
        else:
            # e_j is at most binomial(d, j) mean^j; below 1e-12 of that it is rounding.
            size = 1 if matrix.is_isotropic else math.comb(int(matrix.dim), j) * mean**j
            bad = e < -_ROUNDING * size
        if bad:
            raise InvalidInput(
                f"{name} is not {kind}: the elementary symmetric function e_{j} of its eigenvalues "
                f"is {sp.N(e, 6)}. Pass a symmetric matrix with eigenvalues "
                f"{'> 0' if definite else '>= 0'}."
            )
    return matrix.reduced()
