"""Token laws, seen through their cumulant generating function K(u) = log E exp(u.z).

A law is what attention averages over. Infinite-prompt softmax attention with dual point u reads
grad K(u) (Boursier & Boyer, arXiv 2512.11784), so K and its domain are all that a derivation needs:
a law defines these two, and `limit` and `expansion` do the rest. Here: the base class `TokenLaw`,
`Gaussian`, the products of one-dimensional laws (`Rademacher`, `UniformCube`, `Laplace`) and
`Sphere`. Laws made of other laws are in `laws.compound`, data in `laws.empirical`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.laws.gaussian import tilted_mean
from icltheory.laws.special import log_bessel
from icltheory.matrices import covariance


class TokenLaw:
    """A probability law on R^d. Immutable, hashable, picklable; equal if its parameters are.

    A subclass lists its parameters in `_fields` (the arguments of its constructor) and defines
    `dim`, `_cgf` and, where the generating function is not finite everywhere, `_domain`.
    """

    __slots__ = ()
    _fields: tuple[str, ...] = ()

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; make a new one.")

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        raise NotImplementedError

    def cgf(self, u: Any) -> sp.Expr:
        """K(u) = log E exp(u.z) at a vector u of d numbers or expressions.

        Errors: `InvalidInput` for a wrong length, `OutOfDomain` where K is known to be infinite.
        """
        return self._cgf(self.point(u))

    def domain(self, u: Any) -> Any:
        """SymPy condition on u under which K(u) is finite (`true` for most laws)."""
        return self._domain(dual_point(u, self.dim))

    def point(self, u: Any, factor: int = 1, what: str = "") -> list[sp.Expr]:
        """u as d exact expressions, after a check that `factor` u is not outside the domain."""
        entries = dual_point(u, self.dim)
        if self._domain([factor * x for x in entries]) == sp.false:
            names = [factor * sp.Symbol(f"u{i + 1}") for i in range(self.dim)]
            shown = entries[0] if self.dim == 1 else tuple(entries)
            raise OutOfDomain(
                f"u = {shown} is outside {self._domain(names)}, "
                f"{what or f'where the cumulant generating function of {self} is finite'}."
            )
        return entries

    def _cgf(self, u: list[sp.Expr]) -> sp.Expr:
        raise NotImplementedError

    def _domain(self, u: list[sp.Expr]) -> Any:
        return sp.true

    def _key(self) -> tuple:
        return tuple(getattr(self, name) for name in self._fields)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._key()))

    def __reduce__(self) -> tuple:
        return type(self), self._key()

    def __repr__(self) -> str:
        parts = (f"{name}={_shown(getattr(self, name))}" for name in self._fields)
        return f"{type(self).__name__}({', '.join(parts)})"


class Gaussian(TokenLaw):
    """N(mean, cov) with explicit mean (length d) and covariance (d x d, semi-definite allowed).

    >>> law = Gaussian(mean=[0, 1], cov=[[1, 0], [0, 2]])
    >>> u1, u2 = sp.symbols("u1 u2")
    >>> law.cgf([u1, u2])
    u1**2/2 + u2**2 + u2
    """

    __slots__ = ("cov", "mean")
    _fields = ("mean", "cov")

    mean: sp.ImmutableMatrix
    cov: sp.ImmutableMatrix

    def __init__(self, mean: Any, cov: Any) -> None:
        entries = vector(mean, "mean")
        gamma = covariance(cov, sp.Integer(len(entries)), "cov", definite=False)
        self._set(mean=sp.ImmutableMatrix(len(entries), 1, entries), cov=gamma.to_matrix())

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.mean.rows

    def _cgf(self, u: list[sp.Expr]) -> sp.Expr:
        return tilted_mean(list(self.mean), self.cov, u)[1]


class _Product(TokenLaw):
    """Independent coordinates: a one-dimensional law with a positive scale for each."""

    __slots__ = ("_dim", "_scales")

    _dim: int
    _scales: tuple[sp.Expr, ...]

    def __init__(self, dim: Any, scale: Any = 1) -> None:
        size, name = dimension(dim), self._fields[1]
        value = checks.plain(scale)
        if isinstance(value, sp.MatrixBase):
            value = list(value)
        if not isinstance(value, (list, tuple)):
            value = [value] * size
        if len(value) != size:
            raise InvalidInput(f"{name} has {len(value)} entries; dim = {size} needs {size}, or 1.")
        self._set(_dim=size, _scales=tuple(positive(x, name) for x in value))

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self._dim

    @property
    def scales(self) -> tuple[sp.Expr, ...]:
        """The scale (or half width) of every coordinate."""
        return self._scales

    def _argument(self) -> Any:
        return self._scales[0] if len(set(self._scales)) == 1 else self._scales

    def _cgf(self, u: list[sp.Expr]) -> sp.Expr:
        return sp.Add(*(self._one(x, s) for x, s in zip(u, self._scales, strict=True)))

    @staticmethod
    def _one(u: sp.Expr, scale: sp.Expr) -> sp.Expr:
        raise NotImplementedError


class Rademacher(_Product):
    """Independent signs: coordinate i is +-scale_i with probability 1/2 each.

    `scale`: a positive number, or one a coordinate.

    >>> u = sp.Symbol("u")
    >>> Rademacher(dim=1, scale=2).cgf([u])
    log(cosh(2*u))
    """

    __slots__ = ()
    _fields = ("dim", "scale")
    scale = property(_Product._argument)

    @staticmethod
    def _one(u: sp.Expr, scale: sp.Expr) -> sp.Expr:
        return sp.log(sp.cosh(scale * u))


class UniformCube(_Product):
    """Uniform on a box: coordinate i is uniform on [-half_width_i, half_width_i].

    `half_width`: a positive number, or one a coordinate.

    >>> u = sp.Symbol("u")
    >>> UniformCube(dim=1, half_width=2).cgf([u])
    (log(sinh(2*u)/(2*u)))
    >>> UniformCube(dim=1, half_width=2).cgf([3]).rewrite(sp.coth)
    log(sinh(6)/6)
    """

    __slots__ = ()
    _fields = ("dim", "half_width")
    half_width = property(_Product._argument)

    def __init__(self, dim: Any, half_width: Any = 1) -> None:
        super().__init__(dim, half_width)

    @staticmethod
    def _one(u: sp.Expr, scale: sp.Expr) -> sp.Expr:
        # E exp(u z) = sinh(k)/k, k = scale u: an entire function of k^2.
        return log_bessel(sp.S.Half, scale**2 * u**2)


class Laplace(_Product):
    """Independent Laplace coordinates of density exp(-|z_i|/scale_i) / (2 scale_i).

    `scale`: a positive number, or one a coordinate. K(u) is finite for |u_i| < 1/scale_i.

    >>> u = sp.Symbol("u")
    >>> law = Laplace(dim=1, scale=2)
    >>> law.cgf([u]), law.domain([u])
    (-log(1 - 4*u**2), Abs(u) < 1/2)
    """

    __slots__ = ()
    _fields = ("dim", "scale")
    scale = property(_Product._argument)

    @staticmethod
    def _one(u: sp.Expr, scale: sp.Expr) -> sp.Expr:
        return -sp.log(1 - scale**2 * u**2)

    def _domain(self, u: list[sp.Expr]) -> Any:
        return sp.And(*(sp.Abs(x) < 1 / s for x, s in zip(u, self._scales, strict=True)))


class Sphere(TokenLaw):
    """Uniform on the sphere of the given radius in R^dim (dim = 1: two points).

    >>> u1, u2 = sp.symbols("u1 u2")
    >>> Sphere(dim=2, radius=3).cgf([u1, u2])
    log_bessel(0, 9*u1**2 + 9*u2**2)
    """

    __slots__ = ("_dim", "radius")
    _fields = ("dim", "radius")

    _dim: int
    radius: sp.Expr

    def __init__(self, dim: Any, radius: Any = 1) -> None:
        self._set(_dim=dimension(dim), radius=positive(radius, "radius"))

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self._dim

    def _cgf(self, u: list[sp.Expr]) -> sp.Expr:
        square = sp.Add(*(self.radius**2 * x**2 for x in u))
        return log_bessel(sp.Rational(self._dim, 2) - 1, square)


# -- arguments -----------------------------------------------------------------------------------


def dual_point(u: Any, dim: int) -> list[sp.Expr]:
    """A dual point as `dim` exact expressions; one number will do in dimension 1."""
    u = checks.plain(u)
    point = list(u) if isinstance(u, (Sequence, sp.MatrixBase, sp.Tuple)) else [u]
    if isinstance(u, str) or len(point) != dim:
        raise InvalidInput(f"u has {len(point)} entries; this law lives in dimension {dim}.")
    return [checks.scalar(x, f"u[{i}]") for i, x in enumerate(point)]


def vector(value: Any, name: str) -> list[sp.Expr]:
    """A non-empty vector (sequence, array, or matrix with one row or column) as expressions."""
    value = checks.plain(value)
    if isinstance(value, sp.MatrixBase):
        if 1 not in value.shape:
            raise InvalidInput(f"{name} has shape {value.shape}; pass a vector.")
        value = list(value)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
        raise InvalidInput(f"{name} must be a non-empty sequence of numbers or expressions.")
    return [checks.scalar(x, f"{name}[{i}]") for i, x in enumerate(value)]


def dimension(dim: Any) -> int:
    """The dimension of a law, an integer >= 1 (laws have explicit coordinates)."""
    size = checks.positive_integer(dim, "dim", "dim=3")
    if not size.is_Integer:
        raise InvalidInput(f"dim = {dim} is symbolic; a token law needs an integer such as dim=3.")
    return int(size)


def positive(value: Any, name: str) -> sp.Expr:
    """A number > 0, or an expression that is not known to be anything else."""
    expr = checks.scalar(value, name)
    if expr.is_nonpositive:
        raise InvalidInput(f"{name} = {value} is not positive; pass for example {name}=1.")
    return expr


def probabilities(weights: Any, count: int, what: str) -> list[sp.Expr]:
    """Weights of `count` items: positive, of sum one; `None` is 1/count each.

    A sum within 1e-12 of one is made one exactly.
    """
    if weights is None:
        return [sp.Rational(1, count)] * count
    entries = vector(weights, "weights")
    if len(entries) != count:
        raise InvalidInput(f"weights has {len(entries)} entries for {count} {what}.")
    for i, w in enumerate(entries):
        if w.is_nonpositive:
            raise InvalidInput(f"weights[{i}] = {w} is not positive; leave out what has no weight.")
    total = sp.expand(sp.Add(*entries))
    if total.free_symbols or abs(total - 1) > sp.Rational(1, 10**12):
        shown = total if total.free_symbols else sp.N(total, 15)
        raise InvalidInput(f"the weights sum to {shown}; they must sum to 1.")
    return entries if total == 1 else [w / total for w in entries]


def _shown(value: Any) -> Any:
    if isinstance(value, sp.MatrixBase):
        return list(value) if value.cols == 1 else value.tolist()
    return value
