"""Token laws, seen through their cumulant generating function K(u) = log E exp(u.z).

A law is what attention averages over. Infinite-prompt softmax attention with dual point u reads
grad K(u) (Boursier & Boyer, arXiv 2512.11784), so K is all that a derivation needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.laws.gaussian import tilted_mean
from icltheory.matrices import covariance


class Gaussian:
    """N(mean, cov) with explicit mean (length d) and covariance (d x d, semi-definite allowed).

    >>> law = Gaussian(mean=[0, 1], cov=[[1, 0], [0, 2]])
    >>> u1, u2 = sp.symbols("u1 u2")
    >>> law.cgf([u1, u2])
    u1**2/2 + u2**2 + u2
    """

    __slots__ = ("cov", "mean")

    mean: sp.ImmutableMatrix
    cov: sp.ImmutableMatrix

    def __init__(self, mean: Any, cov: Any) -> None:
        entries = _entries(mean, "mean")
        gamma = covariance(cov, sp.Integer(len(entries)), "cov", definite=False)
        object.__setattr__(self, "mean", sp.ImmutableMatrix(len(entries), 1, entries))
        object.__setattr__(self, "cov", gamma.to_matrix())

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("Gaussian is immutable; make a new one.")

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self.mean.rows

    def cgf(self, u: Any) -> sp.Expr:
        """K(u) = log E exp(u.z) at a vector u of d expressions; finite everywhere."""
        point = _entries(u, "u")
        if len(point) != self.dim:
            raise InvalidInput(
                f"u has {len(point)} entries; this law lives in dimension {self.dim}."
            )
        return tilted_mean(list(self.mean), self.cov, point)[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gaussian) and (self.mean, self.cov) == (other.mean, other.cov)

    def __hash__(self) -> int:
        return hash((self.mean, self.cov))

    def __reduce__(self) -> tuple:
        return Gaussian, (self.mean, self.cov)

    def __repr__(self) -> str:
        return f"Gaussian(mean={list(self.mean)}, cov={self.cov.tolist()})"


def _entries(value: Any, name: str) -> list[sp.Expr]:
    value = checks.plain(value)
    if isinstance(value, sp.MatrixBase):
        if 1 not in value.shape:
            raise InvalidInput(f"{name} has shape {value.shape}; pass a vector.")
        value = list(value)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not value:
        raise InvalidInput(f"{name} must be a non-empty sequence of numbers or expressions.")
    return [checks.scalar(x, f"{name}[{i}]") for i, x in enumerate(value)]
