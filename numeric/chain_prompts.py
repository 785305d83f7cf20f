"""Prompts for decoding in the eigenbasis of S = X'X/n, where every chain is d independent coordinates.

With S = U diag(lambda) U', the coefficients U'w* and the projected label noise U'X'eps/n are all that
a chain of noisy gradient steps sees of a prompt. Conventions of decoding: E w*w*' = I (not I/d), label
noise of variance sigma_y^2, S divided by n. For isotropic features and Gaussian coefficients the
reduced prompt is drawn without its examples. Source: derived here. Exported: `decoding_prompts`,
`DecodingPrompts`, `PromptAverage`; `draw_coefficients` and `prompt_blocks` serve the simulations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.binary_priors import Bits, Signs, SparseBits
from icltheory.errors import InvalidInput
from numeric.arrays import finite, integer, nonnegative, real, require_memory
from numeric.decoding_display import Shown, Tabled, average_rows, brief
from numeric.montecarlo import Estimate, Seed, child_seed, seed_sequence
from numeric.progress import progress_bar
from numeric.spectra import eigenvalue_batches

_BLOCK = 2**22  # bytes of features at a time; fixes which prompts share a seed


@dataclass(frozen=True, eq=False, repr=False)
class PromptAverage(Tabled):
    """An average over prompts that keeps the value of every prompt, so that differences are paired.

    values: (prompts, ...). One prompt is one independent unit. `a - b` and `a / b` belong to results on
    the same prompts; the difference has the standard error of the paired values, the ratio that of the
    delta method.

    >>> a = PromptAverage(np.array([1.0, 2.0, 3.0]))
    >>> b = PromptAverage(np.array([0.9, 1.9, 2.9]))
    >>> a, float((a - b).standard_error) < 1e-15
    (PromptAverage(2.00(58), prompts=3), True)
    """

    values: np.ndarray

    def __post_init__(self) -> None:
        values = real(self.values, "values")
        if not values.ndim or not len(values):
            raise InvalidInput("values has no prompts; pass an array (prompts, ...).")
        object.__setattr__(self, "values", values)

    def __repr__(self) -> str:
        return f"PromptAverage({brief(self)}, prompts={self.prompts})"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        return average_rows(self.value, self.standard_error)

    @property
    def prompts(self) -> int:
        """Number of prompts."""
        return len(self.values)

    @property
    def value(self) -> np.ndarray:
        """The mean over prompts, (...)."""
        return self.values.mean(axis=0)

    @property
    def standard_error(self) -> np.ndarray:
        """Standard error of `value`, (...); NaN for a single prompt."""
        if self.prompts < 2:
            return np.full(self.values.shape[1:], math.nan)
        return np.asarray(self.values.std(axis=0, ddof=1) / math.sqrt(self.prompts))

    @property
    def median(self) -> np.ndarray:
        """The median over prompts, (...): after many steps rare prompts may carry the mean."""
        return self.quantile(0.5)

    def quantile(self, share: Any) -> np.ndarray:
        """What a `share` of the prompts does not exceed, from 0 to 1, of its shape + (...)."""
        shares = finite(share, "share")
        if np.any((shares < 0) | (shares > 1)):
            raise InvalidInput(f"share = {share!r} does not lie between 0 and 1.")
        return np.quantile(self.values, shares, axis=0)

    def __getitem__(self, index: Any) -> PromptAverage:
        """Of the axes after the prompts: `average[0]`, `average[..., 2]`."""
        index = index if isinstance(index, tuple) else (index,)
        return PromptAverage(self.values[(slice(None), *index)])

    def __sub__(self, other: PromptAverage) -> PromptAverage:
        if not isinstance(other, PromptAverage):
            return NotImplemented
        self._require_same(other)
        return PromptAverage(self.values - other.values)

    def ratio(self, other: PromptAverage) -> tuple[np.ndarray, np.ndarray]:
        """The ratio of the two means, and its standard error for results on the same prompts."""
        self._require_same(other)
        quotient = self.value / other.value
        residual = PromptAverage((self.values - quotient * other.values) / other.value)
        return quotient, residual.standard_error

    def estimate(self) -> Estimate:
        """A single average as an `Estimate`."""
        if self.values.ndim != 1:
            raise InvalidInput(
                f"{self.values.shape[1:]} averages are no single estimate; choose one, average[0]."
            )
        return Estimate(float(self.value), float(self.standard_error), self.prompts)

    def _require_same(self, other: PromptAverage) -> None:
        if self.prompts != other.prompts:
            raise InvalidInput(
                f"averages over {self.prompts} and {other.prompts} prompts cannot be paired; use the "
                f"same prompts for both."
            )


@dataclass(frozen=True, eq=False, repr=False)
class DecodingPrompts(Shown):
    """Prompts in the eigenbasis of S = X'X/n; the last axis runs over the d directions.

    eigenvalues: lambda in increasing order, null ones exactly 0, (P, d).
    coefficients: U'w*, (P, d). noise: h = U'X'eps/n, exactly 0 in null directions, (P, d).
    floor: |eps|^2/n outside the span of X, which no weights can fit, (P,).
    n: prompt length. label_noise_var: sigma_y^2.
    """

    eigenvalues: np.ndarray
    coefficients: np.ndarray
    noise: np.ndarray
    floor: np.ndarray
    n: int
    label_noise_var: float

    def __len__(self) -> int:
        return len(self.eigenvalues)

    @property
    def d(self) -> int:
        """Dimension."""
        return self.eigenvalues.shape[-1]

    @property
    def overfit(self) -> np.ndarray:
        """o = h/lambda, 0 in null directions: least squares minus w*, (P, d)."""
        return self.noise / np.where(self.eigenvalues > 0, self.eigenvalues, 1.0)

    def __getitem__(self, index: slice) -> DecodingPrompts:
        """A slice of the prompts."""
        return DecodingPrompts(
            self.eigenvalues[index],
            self.coefficients[index],
            self.noise[index],
            self.floor[index],
            self.n,
            self.label_noise_var,
        )


def decoding_prompts(
    n: int,
    d: int,
    prompts: int,
    *,
    label_noise_var: float = 0.0,
    feature_cov: Any = None,
    prior: Any = None,
    reduced: bool = False,
    seed: Seed = 0,
) -> DecodingPrompts:
    """Draw prompts y = X w* + eps and reduce them to the eigenbasis of S = X'X/n.

    Parameters
    ----------
    n, d: prompt length and dimension, integers >= 1; n < d is allowed. prompts: P >= 1.
    label_noise_var: sigma_y^2 >= 0.
    feature_cov: covariance of the features: `None` for I, the d variances, or a (d, d) matrix.
    prior: of w*: `None` for N(0, I); `icl.Signs()`, `icl.Bits(p)`, `icl.SparseBits(k)`; or a function
        (rng, prompts, d) -> (prompts, d).
    reduced: draw the eigenvalues by the bidiagonal model instead of from examples: the same law at
        O(d^2) numbers a prompt. Needs isotropic features.
    seed: features, coefficients and label noise have streams of their own, so that changing one
        option leaves the other draws alone.

    Ctrl-C raises `Interrupted` with the prompts drawn so far in `partial`. Errors: `InvalidInput`.
    Memory: O(P d), features in blocks.

    >>> data = decoding_prompts(3, 5, 1000, seed=1)
    >>> data.eigenvalues.shape, float(data.eigenvalues[:, :2].max()), data.d
    ((1000, 5), 0.0, 5)
    """
    n, d, size = integer(n, "n"), integer(d, "d"), integer(prompts, "prompts")
    require_memory(size * d, f"prompts = {size} in dimension {d}")
    noise_var, root = (
        nonnegative(label_noise_var, "label_noise_var"),
        covariance_root(feature_cov, d),
    )
    if reduced:
        if root is not None:
            raise InvalidInput("reduced prompts need isotropic features; drop feature_cov.")
        return _reduced(n, d, size, noise_var, prior, seed)
    blocks: list[DecodingPrompts] = []

    def result() -> DecodingPrompts:
        values, w, h, floor = (
            np.concatenate([getattr(block, name) for block in blocks])
            for name in ("eigenvalues", "coefficients", "noise", "floor")
        )
        return DecodingPrompts(values, w, h, floor, n, noise_var)

    options = {"partial": lambda: result() if blocks else None, "unit": " prompts"}
    with progress_bar(size, 0, None, "drawing prompts", **options) as bar:
        for X, w, eps, _ in prompt_blocks(n, d, size, noise_var, root, prior, seed):
            blocks.append(project(X, w, eps, noise_var)[0])
            bar.update(len(X))
    return result()


def prompt_blocks(
    n: int,
    d: int,
    prompts: int,
    noise_var: float,
    root: np.ndarray | None,
    prior: Any,
    seed: Seed,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.random.Generator]]:
    """Blocks of features (b, n, d), coefficients (b, d), label noise (b, n), and a generator for the rest.

    The prompts depend on the seed, n, d, covariance and prior only, whatever is done with them.
    """
    require_memory(n * d, f"a prompt of {n} examples in dimension {d}")
    require_memory(prompts * d, f"prompts = {prompts} in dimension {d}")
    size, tree = max(1, _BLOCK // (8 * n * d)), seed_sequence(seed)
    for number_of, start in enumerate(range(0, prompts, size)):
        b = min(size, prompts - start)
        block = child_seed(tree, number_of)
        features, coefficients, noise, rest = (
            np.random.default_rng(child_seed(block, key)) for key in range(4)
        )
        X = features.standard_normal((b, n, d))
        if root is not None:
            X = X @ root
        eps = math.sqrt(noise_var) * noise.standard_normal((b, n))
        yield X, draw_coefficients(prior, coefficients, b, d), eps, rest


def project(
    features: np.ndarray, coefficients: np.ndarray, noise: np.ndarray, noise_var: float
) -> tuple[DecodingPrompts, np.ndarray]:
    """The prompts (b, n, d), (b, d), (b, n) in their eigenbasis, and the eigenvectors U (b, d, d)."""
    _, n, d = features.shape
    values, vectors = np.linalg.eigh(np.swapaxes(features, 1, 2) @ features / n)
    null = max(d - n, 0)
    values[:, :null] = 0.0
    values = np.maximum(values, 0.0)
    inward = np.swapaxes(vectors, 1, 2)
    h = (inward @ (np.einsum("bnd,bn->bd", features, noise) / n)[:, :, None])[:, :, 0]
    h = np.where(values > 0, h, 0.0)
    fitted = np.square(h) / np.where(values > 0, values, 1.0)
    floor = np.maximum(np.square(noise).sum(axis=1) / n - fitted.sum(axis=1), 0.0)
    w = (inward @ coefficients[:, :, None])[:, :, 0]
    return DecodingPrompts(values, w, h, floor, n, noise_var), vectors


def draw_coefficients(prior: Any, rng: np.random.Generator, prompts: int, d: int) -> np.ndarray:
    """w*, (prompts, d), of a prior as `decoding_prompts` takes it."""
    if prior is None:
        return rng.standard_normal((prompts, d))
    if isinstance(prior, Signs):
        return 2.0 * rng.integers(2, size=(prompts, d)) - 1
    if isinstance(prior, (Bits, SparseBits)):
        share = prior.high_probability(d)  # refuses more ones than coordinates
        if share.free_symbols:
            raise InvalidInput(f"{prior} still contains symbols; numbers are needed here.")
        uniform = rng.random((prompts, d))
        if isinstance(prior, Bits):
            return (uniform < float(share)).astype(float)
        return (uniform.argsort(axis=1).argsort(axis=1) < int(prior.ones)).astype(float)
    if not callable(prior):
        raise InvalidInput(
            f"prior has type {type(prior).__name__}; pass None for N(0, I), icl.Signs(), icl.Bits(0.5), "
            f"icl.SparseBits(3), or a function (rng, prompts, d) -> (prompts, d)."
        )
    values = finite(prior(rng, prompts, d), "prior")
    if values.shape != (prompts, d):
        raise InvalidInput(f"the prior drew shape {values.shape}; it must be ({prompts}, {d}).")
    return values


def covariance_root(feature_cov: Any, d: int) -> np.ndarray | None:
    """A matrix R with z R of covariance `feature_cov` for a standard normal row z; `None` for I."""
    if feature_cov is None:
        return None
    cov = finite(feature_cov, "feature_cov")
    if cov.shape not in ((d,), (d, d)):
        raise InvalidInput(
            f"feature_cov has shape {cov.shape}; pass {d} variances or a ({d}, {d}) matrix."
        )
    cov = np.diag(cov) if cov.ndim == 1 else cov
    if not np.allclose(cov, cov.T, rtol=1e-12, atol=0):
        raise InvalidInput("feature_cov is not symmetric; a covariance is.")
    values, vectors = np.linalg.eigh(cov)
    if values[0] <= 0:
        raise InvalidInput(
            f"feature_cov has the eigenvalue {values[0]:g}; a covariance here is positive definite."
        )
    return (vectors * np.sqrt(values)) @ vectors.T


def _reduced(
    n: int, d: int, prompts: int, noise_var: float, prior: Any, seed: Seed
) -> DecodingPrompts:
    """Prompts of the same law from sampled eigenvalues; U is uniform, so only |w*| is the prior's."""
    tree = seed_sequence(seed)
    spectrum, coefficients, noise = (np.random.default_rng(child_seed(tree, k)) for k in range(3))
    rank = min(n, d)
    values = np.zeros((prompts, d))
    values[:, d - rank :] = np.concatenate(list(eigenvalue_batches(n, d, prompts, spectrum))) / n
    w = coefficients.standard_normal((prompts, d))
    if prior is not None:
        length = np.linalg.norm(draw_coefficients(prior, coefficients, prompts, d), axis=1)
        w *= (length / np.linalg.norm(w, axis=1))[:, None]
    h = np.sqrt(noise_var * values / n) * noise.standard_normal((prompts, d))
    outside = noise.chisquare(n - rank, prompts) if n > rank else np.zeros(prompts)
    return DecodingPrompts(values, w, h, noise_var * outside / n, n, noise_var)
