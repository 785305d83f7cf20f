"""Empirical: the law of data, finitely many points with weights.

A softmax head on a finite prompt is exactly the infinite-prompt output of the empirical law of its
tokens. Small data (at most 100 points and 200 numbers) is held exactly and gives formulas like every
other law; larger data is held once, as float64 bytes, for the functions of `numeric`.
"""

from __future__ import annotations

import math
from array import array
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.laws.compound import log_average
from icltheory.laws.tokens import TokenLaw, probabilities

# Formulas are written for at most this many points and numbers (points times coordinates), so that
# limits and covariances take about a second; moments of fourth order need fewer points.
LARGEST_COUNT, LARGEST_EXACT, LARGEST_FOURTH = 100, 200, 20


class Empirical(TokenLaw):
    """sum_j weights_j delta(points_j).

    Parameters
    ----------
    points: N x d: nested sequences, a SymPy matrix, an array, a tensor or a data frame. Data of
        more than 100 points or 200 numbers is copied once, as float64; changing the original
        later changes nothing here.
    weights: N positive numbers of sum 1; `None` is 1/N each.

    `is_exact` tells whether formulas can be derived; otherwise use the functions of `numeric`
    (`token_cgf`, `limit_output`, `leading_covariance`, ...). Errors: `InvalidInput` for text, NaN,
    infinite entries, one-dimensional or empty data, and wrong weights.

    >>> u = sp.Symbol("u")
    >>> Empirical([[0], [1]], weights=[0.25, 0.75]).cgf([u])
    log(3*exp(u)/4 + 1/4)
    """

    __slots__ = ("_dim", "_identity", "_points", "_weights", "size")

    size: int
    """Number of points."""

    def __init__(self, points: Any, weights: Any = None) -> None:
        points = _arraylike(points)
        count, dim = _shape(points)
        if count <= LARGEST_COUNT and count * dim <= LARGEST_EXACT:
            exact = sp.ImmutableMatrix(checks.rows(points, "points"))
            shares = tuple(probabilities(weights, count, "points"))
            self._set_data(exact, shares, (exact, shares))
        else:
            data = _float_bytes(points, count, dim)
            shares = None if weights is None else _weight_bytes(weights, count)
            self._set_data(data, shares, (count, dim, _digest(data, shares or b"")))
        self._set(size=count, _dim=dim)

    def _set_data(self, points: Any, weights: Any, identity: tuple) -> None:
        self._set(_points=points, _weights=weights, _identity=identity)

    @property
    def dim(self) -> int:
        """Number of coordinates."""
        return self._dim

    @property
    def is_exact(self) -> bool:
        """True if the data is small enough for formulas."""
        return isinstance(self._points, sp.MatrixBase)

    @property
    def points(self) -> sp.ImmutableMatrix:
        """The N x d points of small data, exactly; `InvalidInput` for larger data."""
        self._require_exact()
        return self._points

    @property
    def weights(self) -> tuple[sp.Expr, ...]:
        """The N weights of small data, exactly; `InvalidInput` for larger data."""
        self._require_exact()
        return self._weights

    def buffer(self) -> memoryview[float]:
        """The points as an N x d float64 buffer, which `numpy.asarray` reads without a copy."""
        data = _exact_bytes(self._points, self) if self.is_exact else self._points
        return memoryview(data).cast("d", shape=[self.size, self._dim])

    def weight_buffer(self) -> memoryview[float] | None:
        """The weights as a float64 buffer; `None` for equal weights."""
        if self._weights is None or (self.is_exact and len(set(self._weights)) == 1):
            return None
        data = _exact_bytes(self._weights, self) if self.is_exact else self._weights
        return memoryview(data).cast("d", shape=[self.size])

    def _cgf(self, u: list[sp.Expr]) -> sp.Expr:
        self._require_exact()
        scores = self._points * sp.Matrix(u)
        return log_average(self._weights, [sp.expand(s) for s in scores])

    def _require_exact(self) -> None:
        if not self.is_exact:
            raise InvalidInput(
                f"{self} is too large for formulas (more than {LARGEST_COUNT} points or {LARGEST_EXACT} "
                f"numbers); use the functions of numeric on it: numeric.token_cgf, limit_output, limit_jacobian, "
                f"leading_bias, leading_covariance."
            )

    def _key(self) -> tuple:
        return self._identity

    def __reduce__(self) -> tuple:
        return _restore, (self._points, self._weights, self._identity, self.size, self._dim)

    def __repr__(self) -> str:
        return f"Empirical({self.size} points in dimension {self._dim})"


def _restore(points: Any, weights: Any, identity: tuple, size: int, dim: int) -> Empirical:
    law = object.__new__(Empirical)
    law._set_data(points, weights, identity)
    law._set(size=size, _dim=dim)
    return law


# -- reading data --------------------------------------------------------------------------------


def _arraylike(value: Any) -> Any:
    """A torch tensor or data frame as an array; everything else as it is."""
    if hasattr(value, "detach"):
        return value.detach().cpu().numpy()
    return value.to_numpy() if hasattr(value, "to_numpy") else value


def _shape(points: Any) -> tuple[int, int]:
    if isinstance(points, (str, bytes)) or not (hasattr(points, "shape") or _is_list(points)):
        raise InvalidInput(
            f"points has type {type(points).__name__}; pass an array or nested rows, N x d."
        )
    if hasattr(points, "shape"):
        shape = tuple(points.shape)
    else:
        first = checks.plain(points[0]) if points else []
        shape = (len(points), *([len(first)] if _is_list(first) else []))
    if len(shape) != 2:
        raise InvalidInput(
            f"points has shape {shape}; pass N x d, one row a point "
            f"(for numbers on a line N x 1: points[:, None])."
        )
    if 0 in shape:
        raise InvalidInput(f"points has shape {shape}, it is empty; pass at least one point.")
    return shape


def _float_bytes(points: Any, count: int, dim: int) -> bytes:
    """Large data as C-ordered float64 bytes; arrays are read through their own methods."""
    if hasattr(points, "tobytes") and getattr(points.dtype, "kind", "") in "iuf":
        if not (-math.inf < float(points.min()) and float(points.max()) < math.inf):
            raise InvalidInput("points contains NaN or infinite entries; pass finite numbers.")
        return points.astype("float64", order="C", copy=False).tobytes()
    if hasattr(points, "dtype") and getattr(points.dtype, "kind", "") != "O":
        raise InvalidInput(f"points has entries of type {points.dtype}; pass real numbers.")
    rows, out = checks.plain(points), array("d")
    if isinstance(rows, sp.MatrixBase):
        rows = rows.tolist()
    for i, row in enumerate(rows):
        row = checks.plain(row)
        if not _is_list(row) or len(row) != dim:
            raise InvalidInput(f"points, row {i}: not a sequence of {dim} numbers like row 0.")
        out.extend(_number(x, f"points, row {i}: entry") for x in row)
    return out.tobytes()


def _number(value: Any, name: str) -> float:
    if type(value) is not float:
        value = float(checks.scalar(value, name))
    if not math.isfinite(value):
        raise InvalidInput(f"{name} = {value} is not finite; pass a finite number.")
    return value


def _weight_bytes(weights: Any, count: int) -> bytes:
    """Weights of large data: the rules of `probabilities`, in floats."""
    values = checks.plain(_arraylike(weights))
    if not _is_list(values) or len(values) != count or any(_is_list(w) for w in values):
        shown = len(values) if _is_list(values) else f"type {type(values).__name__}"
        raise InvalidInput(f"weights ({shown}) must be one number for each of {count} points.")
    numbers = [_number(w, f"weights[{i}]") for i, w in enumerate(values)]
    if min(numbers) <= 0:
        raise InvalidInput(f"weights contains {min(numbers)}; leave out what has no weight.")
    total = math.fsum(numbers)
    if abs(total - 1) > 1e-12:
        raise InvalidInput(f"the weights sum to {total:.15g}; they must sum to 1.")
    return array("d", [w / total for w in numbers]).tobytes()


def _exact_bytes(values: Any, law: Empirical) -> bytes:
    free = set().union(*(x.free_symbols for x in values))
    if free:
        names = ", ".join(sorted(str(s) for s in free))
        raise InvalidInput(f"{law} still contains {names}; numbers are needed here.")
    return array("d", [float(x) for x in values]).tobytes()


def _digest(*parts: bytes) -> bytes:
    from hashlib import blake2b  # loads OpenSSL, which only large data needs

    digest = blake2b(digest_size=20)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))
