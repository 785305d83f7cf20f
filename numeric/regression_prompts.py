"""Regression prompts for solvers: isotropic, or with a condition number and a random eigenbasis.

The ill-conditioned data of Fu, Chen, Jia and Sharan (arXiv 2310.17086) in both versions: as in the
paper's text and as in the released code. Exported: `solver_prompts`,
`SolverPrompts`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from icltheory.errors import InvalidInput
from numeric.arrays import integer, nonnegative, number
from numeric.decoding_display import Shown
from numeric.montecarlo import Seed, seed_sequence

_BASES = ("per_prompt", "per_batch")


@dataclass(frozen=True, repr=False)
class SolverPrompts(Shown):
    """Prompts with the coefficients behind them.

    features: X (B, N, d). labels: y (B, N), with noise. coefficients: w* (B, d).
    covariance: of the features, (B, d, d) if every prompt has its own basis, else (d, d).
    """

    features: np.ndarray
    labels: np.ndarray
    coefficients: np.ndarray
    covariance: np.ndarray


def solver_prompts(
    dim: int,
    points: int,
    prompts: int,
    *,
    kappa: float = 1.0,
    normalize_trace: bool = True,
    basis: str = "per_prompt",
    noise_var: float = 0.0,
    coef_var: float | None = None,
    seed: Seed = 0,
) -> SolverPrompts:
    """Draw `prompts` prompts of `points` examples y = w*.x + noise in `dim` dimensions.

    Parameters
    ----------
    dim, points, prompts: d, N and B, each >= 1. The dimension comes first, as in `icl.LinearRegression`
        and the models of `finite`. N counts the example that is predicted last: prefixes have up to
        N - 1 examples before it.
    kappa: condition number of the feature covariance: dim // 2 eigenvalues are kappa times the
        others. 1 is the identity.
    normalize_trace: True scales the covariance to trace `dim` (the released code), False leaves the
        eigenvalues kappa and 1 (the paper's text).
    basis: of the eigenvectors, uniformly random: "per_prompt" (text) or "per_batch" (code).
    noise_var: variance of the label noise.
    coef_var: variance of every coefficient; `None` is 1/dim, as everywhere in this package. Fu
        et al. have 1: risks per dimension and similarities without noise are the same.
    seed: integer >= 0 or `numpy.random.SeedSequence`. Features, coefficients, noise and basis have
        streams of their own, so that changing one option leaves the other draws alone.

    Errors: `InvalidInput`.

    >>> data = solver_prompts(4, 9, 3, kappa=100, seed=1)
    >>> data.features.shape, data.labels.shape, np.linalg.eigvalsh(data.covariance[0]).round(4)
    ((3, 9, 4), (3, 9), array([0.0198, 0.0198, 1.9802, 1.9802]))
    """
    d, n, size = (
        integer(value, name)
        for name, value in (("dim", dim), ("points", points), ("prompts", prompts))
    )
    kappa, noise = number(kappa, "kappa"), nonnegative(noise_var, "noise_var")
    spread = 1 / d if coef_var is None else nonnegative(coef_var, "coef_var")
    if basis not in _BASES:
        raise InvalidInput(f"basis = {basis!r} is not one of {', '.join(_BASES)}.")
    if kappa < 1:
        raise InvalidInput(f"kappa = {kappa:g} is below 1, the smallest condition number.")
    if kappa > 1 and d == 1:
        raise InvalidInput(f"kappa = {kappa:g} needs dim >= 2; in one dimension it is 1.")
    root = seed_sequence(seed)
    children = np.random.SeedSequence(
        root.entropy, spawn_key=root.spawn_key, pool_size=root.pool_size
    ).spawn(4)
    feature_rng, coef_rng, noise_rng, basis_rng = map(np.random.default_rng, children)

    features = feature_rng.standard_normal((size, n, d))
    covariance = np.eye(d)
    if kappa > 1:
        eigenvalues = np.where(np.arange(d) < d // 2, kappa, 1.0)
        if normalize_trace:
            eigenvalues *= d / eigenvalues.sum()
        axes = _rotations(basis_rng, size if basis == "per_prompt" else 1, d)
        features = np.matmul(features * np.sqrt(eigenvalues), np.swapaxes(axes, 1, 2))
        covariance = np.matmul(axes * eigenvalues, np.swapaxes(axes, 1, 2))
        if basis == "per_batch":
            covariance = covariance[0]
    coefficients = math.sqrt(spread) * coef_rng.standard_normal((size, d))
    labels = np.matmul(features, coefficients[:, :, None])[:, :, 0]
    if noise:
        labels += math.sqrt(noise) * noise_rng.standard_normal((size, n))
    return SolverPrompts(features, labels, coefficients, covariance)


def _rotations(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    """Uniformly distributed orthogonal matrices, (count, dim, dim)."""
    q, r = np.linalg.qr(rng.standard_normal((count, dim, dim)))
    return q * np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None, :]
