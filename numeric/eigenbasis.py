"""One eigendecomposition for every prompt and prefix: what all spectral solvers are functions of.

S = X'X of a prefix is not divided by n. The d - n null eigenvalues of a short prefix are exactly 0,
and so is what numerically belongs to the null space (repeated examples): filters leave these
directions alone. Source: derived here. Exported: `PromptSpectra`,
`prompt_spectra`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import sympy as sp

from icltheory.errors import InvalidInput
from icltheory.symbols import frobenius, lam, lam_max, lam_min, trace
from numeric.arrays import finite, positive_integers
from numeric.decoding_display import Shown
from numeric.progress import progress_bar

_SYMBOLS = (lam, lam_min, lam_max, trace, frobenius)
_CHUNK = 2**22  # bytes of matrices that are decomposed at once


@dataclass(frozen=True, repr=False)
class PromptSpectra(Shown):
    """Eigendecompositions of S = X'X on prefixes of prompts.

    values: eigenvalues in increasing order, null ones exactly 0, (B, P, d).
    vectors: eigenvectors in the columns, (B, P, d, d).
    moments: U'X'y, exactly 0 in null directions, (B, P, d).
    prefixes: numbers of examples, (P,). rank: of S, (B, P).
    """

    values: np.ndarray
    vectors: np.ndarray
    moments: np.ndarray
    prefixes: np.ndarray

    @property
    def dim(self) -> int:
        """d."""
        return self.values.shape[-1]

    @cached_property
    def rank(self) -> np.ndarray:
        """Number of nonzero eigenvalues, (B, P)."""
        return np.count_nonzero(self.values, axis=-1)

    @cached_property
    def least_squares(self) -> np.ndarray:
        """Minimum-norm least-squares weights in the eigenbasis, (B, P, d)."""
        return self.moments / np.where(self.values > 0, self.values, 1.0)

    @cached_property
    def _rules(self) -> tuple[np.ndarray, ...]:
        """lam_min (nonzero), lam_max, trace, ||S^2||_F, each (B, P, 1); 1 where S = 0."""
        values = self.values
        smallest = np.where(values > 0, values, np.inf).min(axis=-1, keepdims=True)
        largest = values.max(axis=-1, keepdims=True)
        scaled = values / np.where(
            largest > 0, largest, 1.0
        )  # so that a fourth power cannot overflow
        norm = np.sqrt((scaled**4).sum(axis=-1, keepdims=True)) * largest**2
        rules = (smallest, largest, values.sum(axis=-1, keepdims=True), norm)
        empty = largest == 0  # every filter is 1 there, whatever the rule says
        return tuple(np.where(empty, 1.0, rule).astype(values.dtype) for rule in rules)

    def evaluate(self, expr: sp.Expr) -> np.ndarray:
        """An expression in lam (at all eigenvalues) and in the spectrum's lam_min, lam_max, trace and
        frobenius, as an array of shape (B, P, d), or (B, P, 1) without lam."""
        if unknown := sorted(s.name for s in expr.free_symbols - set(_SYMBOLS)):
            raise InvalidInput(
                f"the solver still contains {', '.join(unknown)}; numbers, or the rules lam_min, "
                f"lam_max, trace and frobenius of icltheory.symbols, are needed here."
            )
        shape = self.values.shape if expr.has(lam) else (*self.values.shape[:2], 1)
        result = np.asarray(_function(expr)(self.values, *self._rules), dtype=self.values.dtype)
        return np.broadcast_to(result, shape)

    def restricted(self, prompts: slice) -> PromptSpectra:
        """The same for some prompts."""
        return PromptSpectra(
            self.values[prompts], self.vectors[prompts], self.moments[prompts], self.prefixes
        )


@lru_cache(maxsize=256)
def _function(expr: sp.Expr) -> Any:
    return sp.lambdify(_SYMBOLS, expr, "numpy")


def prompt_spectra(X: Any, y: Any, prefixes: Any = None, dtype: Any = np.float64) -> PromptSpectra:
    """Decompose S = X'X for every prompt and prefix.

    Parameters
    ----------
    X: features (B, N, d). y: labels (B, N).
    prefixes: numbers of examples, integers from 0 to N; `None` is 0, ..., N.
    dtype: float64, or float32 for what single precision does to the same filters.

    Errors: `InvalidInput` for shapes, NaN, prefixes beyond N, another dtype.

    >>> X = np.array([[[3.0, 0.0], [0.0, 1.0]]])
    >>> spectra = prompt_spectra(X, [[3.0, 2.0]])
    >>> spectra.values[0], spectra.rank
    (array([[0., 0.], [0., 9.], [1., 9.]]), array([[0, 1, 2]]))
    """
    X, y, counts = checked_prompts(X, y, prefixes)
    dtype = checked_dtype(dtype)
    X, y = X.astype(dtype), y.astype(dtype)
    prompts, points, dim = X.shape
    gram = np.empty((prompts, len(counts), dim, dim), dtype)
    moments = np.empty((prompts, len(counts), dim), dtype)
    total = np.zeros((prompts, dim, dim), dtype)
    target = np.zeros((prompts, dim), dtype)
    for n in range(int(counts.max()) + 1):
        gram[:, counts == n], moments[:, counts == n] = total[:, None], target[:, None]
        if n < points:
            total = total + X[:, n, :, None] * X[:, n, None, :]
            target = target + y[:, n, None] * X[:, n]
    values, vectors = np.empty_like(moments), gram

    def result(done: int) -> PromptSpectra:
        return PromptSpectra(values[:done], vectors[:done], moments[:done], counts)

    size = max(1, _CHUNK // max(1, gram[0].nbytes))
    options = {"partial": lambda: result(bar.n) if bar.n else None, "unit": " prompts"}
    with progress_bar(prompts, 0, None, "decomposing", **options) as bar:
        for low in range(0, prompts, size):
            part = slice(low, min(low + size, prompts))
            values[part], vectors[part] = np.linalg.eigh(gram[part])
            # Rounding leaves +-1e-14 in null directions, where a filter must see exactly 0.
            noise = dim * np.finfo(dtype).eps * values[part, :, -1:]
            null = (values[part] <= noise) | (np.arange(dim) < dim - counts[:, None])
            values[part][null] = 0.0
            moments[part] = np.matmul(moments[part, :, None, :], vectors[part])[:, :, 0]
            moments[part][null] = 0.0
            bar.update(part.stop - low)
    return result(prompts)


def checked_dtype(dtype: Any) -> np.dtype:
    """float64 or float32."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found not in (np.float64, np.float32):
        raise InvalidInput(f"dtype = {dtype!r} is not numpy.float64 or numpy.float32.")
    return found


def checked_prompts(X: Any, y: Any, prefixes: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (B, N, d) and y (B, N) as finite floats, and the prefixes (P,) as integers."""
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim != 3 or y.shape != X.shape[:2]:
        raise InvalidInput(
            f"X has shape {X.shape} and y {y.shape}; pass X of (B, N, d) and y of (B, N), one row a "
            f"prompt (X[None], y[None] for a single one)."
        )
    if 0 in (X.shape[0], X.shape[2]):
        raise InvalidInput(f"X has shape {X.shape}; pass at least one prompt and one dimension.")
    for name, array in (("X", X), ("y", y)):
        if array.dtype.kind not in "iuf" or not np.all(np.isfinite(array)):
            raise InvalidInput(f"{name} contains entries that are no finite numbers.")
    points = X.shape[1]
    counts = (
        np.arange(points + 1) if prefixes is None else positive_integers(prefixes, "prefixes", 0)
    )
    counts = np.atleast_1d(counts).astype(int)
    if counts.ndim != 1 or counts.max() > points:
        raise InvalidInput(
            f"prefixes reach {counts.max()} examples, the prompts have {points}; pass integers from "
            f"0 to {points}, such as range({points + 1})."
        )
    return X.astype(float, copy=False), y.astype(float, copy=False), counts


def query_covariance(value: Any, prompts: int, dim: int) -> np.ndarray:
    """(d, d) or (B, 1, d, d), to multiply weights of (B, P, K, d)."""
    covariance = finite(value, "cov")
    if covariance.shape not in ((dim, dim), (prompts, dim, dim)):
        raise InvalidInput(
            f"cov has shape {covariance.shape}; pass ({dim}, {dim}) or ({prompts}, {dim}, {dim})."
        )
    return covariance if covariance.ndim == 2 else covariance[:, None]
