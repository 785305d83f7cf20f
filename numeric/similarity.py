"""Similarity of errors and of weights between two learners, prompt by prompt.

Two learners agree if their errors along the prefixes of a prompt point in one direction, or if the
weights that their predictions amount to do: cosines, averaged over prompts. Definitions of Fu et al. (arXiv 2310.17086) without their empty prefix. The step of a family
that fits best is in `numeric.best_step`. Exported: `similarity_of_errors`, `similarity_of_weights`,
`Similarity`, `prefix_windows`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from numeric.arrays import integer, positive_integers
from numeric.decoding_display import Shown

Window = tuple[int, int]


@dataclass(frozen=True, repr=False)
class Similarity(Shown):
    """Cosines a prompt, (B,), (B, Ka), (B, Kb) or (B, Ka, Kb), with what they were computed from.

    prefixes: the numbers of examples that were used. dtype: precision of the errors or weights.
    """

    per_prompt: np.ndarray
    prefixes: np.ndarray
    dtype: np.dtype

    @property
    def value(self) -> np.ndarray:
        """Mean over prompts, one number a pair of columns."""
        return self.per_prompt.mean(axis=0)

    @property
    def standard_error(self) -> np.ndarray:
        """Of `value`; NaN for a single prompt."""
        count = len(self.per_prompt)
        if count < 2:
            return np.full(self.per_prompt.shape[1:], math.nan)
        return self.per_prompt.std(axis=0, ddof=1) / math.sqrt(count)


def similarity_of_errors(
    a: Any,
    b: Any,
    prefixes: Any = None,
    *,
    include_empty_prefix: bool = False,
    window: Window | None = None,
    reference: Any = None,
) -> Similarity:
    """Cosine of two learners' errors along the prefixes of every prompt.

    Parameters
    ----------
    a, b: errors prediction - label on the example after each prefix: (B, P), or (B, P, K) for K
        learners at once (layers, steps); every column of `a` is held against every one of `b`.
    prefixes: number of examples before each error, (P,); `None` is 0, ..., P - 1.
    include_empty_prefix: also use n = 0, as the published tables do. All baselines predict 0 there.
    window: (first, last) number of examples that is used, both included; see `prefix_windows`.
    reference: errors (B, P) of a third learner, usually least squares, that are subtracted from
        both: the *excess* similarity. It removes what every learner of n < d examples shares.

    Errors: `InvalidInput` for shapes, NaN, a window without prefixes, and for errors that are zero or
    rounding (least squares without noise has only such errors beyond n = d). Source: Fu et al.
    (arXiv 2310.17086).

    >>> a = np.array([[0.0, 1.0, 1.0], [0.0, 2.0, 0.0]])
    >>> b = np.array([[5.0, 1.0, 0.0], [5.0, 1.0, 0.0]])
    >>> round(float(similarity_of_errors(a, b).value), 4)
    0.8536
    """
    a, b = _columns(a, "a", 2), _columns(b, "b", 2)
    counts, used = _used(a[0], b[0], prefixes, include_empty_prefix, window)
    dtype = np.result_type(a[0], b[0])
    errors = [a[0], b[0]]
    if reference is not None:
        third = _columns(reference, "reference", 2)
        if third[1] or third[0].shape[:2] != a[0].shape[:2]:
            raise InvalidInput(
                f"reference has shape {np.shape(reference)}; pass {a[0].shape[:2]}, one learner."
            )
        errors = [e - third[0] for e in errors]
    parts = []
    for name, whole, error in (("a", a[0], errors[0]), ("b", b[0], errors[1])):
        part = error[:, used]
        size = np.sqrt((part**2).sum(axis=1, keepdims=True))
        # A converged learner without noise leaves 1e-15 where others leave zeros: no direction.
        floor = 1e4 * np.finfo(dtype).eps * np.sqrt((whole**2).sum(axis=1, keepdims=True))
        if np.any(size <= floor):
            prompt = int(np.argwhere(size <= floor)[0, 0])
            raise InvalidInput(
                f"{name}: the errors of prompt {prompt} at n = {_span(counts[used])} are zero or "
                f"rounding, which has no direction. Restrict the window to prefixes shorter than the "
                f"dimension, or add noise."
            )
        parts.append(part / size)
    cosines = np.einsum("bpi,bpj->bij", *parts)
    return Similarity(_shaped(cosines, a[1], b[1]), counts[used], dtype)


def similarity_of_weights(
    a: Any, b: Any, prefixes: Any = None, *, window: Window | None = None
) -> Similarity:
    """Cosine of two learners' weights on every prefix, averaged over the prefixes of a prompt.

    Parameters
    ----------
    a, b: weights (B, P, d), or (B, P, K, d) for K learners at once; `numeric.run_solvers` gives those
        of solvers and `numeric.induced_weights` those of any model.
    prefixes: number of examples of each, (P,); `None` is 0, ..., P - 1. The empty prefix is left out:
        solvers that start at 0 have no direction there.
    window: (first, last) number of examples that is used, both included.

    Errors: `InvalidInput`; zero weights have no direction. Source: Fu et al. (arXiv 2310.17086).

    >>> a = np.array([[[0.0, 0.0], [1.0, 0.0]]])
    >>> b = np.array([[[0.0, 0.0], [1.0, 1.0]]])
    >>> round(float(similarity_of_weights(a, b).value), 4)
    0.7071
    """
    a, b = _columns(a, "a", 3), _columns(b, "b", 3)
    if a[0].shape[-1] != b[0].shape[-1]:
        raise InvalidInput(f"a has dimension {a[0].shape[-1]}, b {b[0].shape[-1]}.")
    counts, used = _used(a[0], b[0], prefixes, False, window)
    parts = []
    for name, weights in (("a", a[0]), ("b", b[0])):
        part = weights[:, used]
        size = np.sqrt((part**2).sum(axis=-1, keepdims=True))
        if np.any(size == 0):
            prompt, prefix = np.argwhere(size[..., 0] == 0)[0][:2]
            raise InvalidInput(
                f"{name}: the weights of prompt {prompt} at n = {counts[used][prefix]} are zero, "
                f"which has no direction; leave that column or prefix out."
            )
        parts.append(part / size)
    cosines = np.einsum("bpid,bpjd->bij", *parts, optimize=True) / np.count_nonzero(used)
    return Similarity(_shaped(cosines, a[1], b[1]), counts[used], np.result_type(a[0], b[0]))


def prefix_windows(dim: int, last: int) -> dict[str, Window]:
    """Windows of prefixes up to `last`: below, around and above n = dim.

    >>> prefix_windows(20, 40)
    {'below': (1, 19), 'around': (15, 25), 'above': (21, 40)}
    """
    d, top = (integer(v, name) for name, v in (("dim", dim), ("last", last)))
    windows = {"below": (1, d - 1), "around": (max(1, d - 5), d + 5), "above": (d + 1, top)}
    bounded = {name: (low, min(high, top)) for name, (low, high) in windows.items()}
    return {name: window for name, window in bounded.items() if window[0] <= window[1]}


# -- arguments -----------------------------------------------------------------------------------------


def _columns(value: Any, name: str, ndim: int) -> tuple[np.ndarray, bool]:
    """Errors as (B, P, K) or weights as (B, P, K, d), and whether the K was there."""
    array = np.asarray(value)
    shape = "(B, P) or (B, P, K)" if ndim == 2 else "(B, P, d) or (B, P, K, d)"
    if array.dtype.kind not in "iuf" or array.ndim not in (ndim, ndim + 1) or 0 in array.shape:
        raise InvalidInput(f"{name} has shape {array.shape}; pass numbers of shape {shape}.")
    if array.dtype.kind != "f":
        array = array.astype(float)
    if not np.all(np.isfinite(array)):
        raise InvalidInput(f"{name} contains NaN or infinite entries.")
    several = array.ndim == ndim + 1
    return (array if several else np.expand_dims(array, 2)), several


def _used(
    a: np.ndarray, b: np.ndarray, prefixes: Any, empty: bool, window: Window | None
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of examples (P,), and which of them are used."""
    if a.shape[:2] != b.shape[:2]:
        raise InvalidInput(
            f"a has prompts and prefixes {a.shape[:2]}, b {b.shape[:2]}; they must be the same."
        )
    counts = (
        np.arange(a.shape[1]) if prefixes is None else positive_integers(prefixes, "prefixes", 0)
    )
    counts = np.atleast_1d(counts).astype(int)
    if counts.shape != (a.shape[1],):
        raise InvalidInput(
            f"prefixes has shape {counts.shape} for {a.shape[1]} columns; pass one number a column."
        )
    used = counts >= (0 if empty else 1)
    if window is not None:
        ends = positive_integers(window, "window", 0)
        if ends.shape != (2,):
            raise InvalidInput(f"window = {window}: pass (first, last), two numbers of examples.")
        low, high = ends
        used &= (counts >= low) & (counts <= high)
    if not used.any():
        raise InvalidInput(f"no prefix is used: they are {_span(counts)}, the window is {window}.")
    return counts, used


def _span(counts: np.ndarray) -> str:
    return f"{counts.min()}, ..., {counts.max()}" if len(counts) > 1 else f"{counts[0]}"


def _shaped(cosines: np.ndarray, first: bool, second: bool) -> np.ndarray:
    if not second:
        cosines = cosines[:, :, 0]
    return cosines if first else cosines[:, 0]
