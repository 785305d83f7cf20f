"""Contraction moments and risks for features of any covariance, with preconditioned steps.

A step moves by Gamma^{-1}(S w - b), S = X'X/n with rows N(0, Sigma); Gamma commutes with Sigma, and
plain steps are Gamma = I/eta. With H = Sigma/Gamma, of eigenvalues h_i, deterministic equivalents of one
and two resolvents of the sample covariance, solved as power series, give the moments up to an error of
order 1/d. Risks are per coordinate with E w w' = I. Exported: `covariance_moments`,
`two_sided_moments`, `trained_preconditioner`, `preconditioned_risks`, `long_prompt_risks`,
`hardness_bound`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import icltheory as icl
from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import finite, integer, nonnegative, number, require_memory
from numeric.chain_length import _numbers, combine

_NORMS = ("euclidean", "prediction")
_MOST_COEFFICIENTS, _MOST_PAIRS = 2000, 300


@np.errstate(over="ignore", invalid="ignore")
def covariance_moments(
    top: int, contractions: Any, gamma: float, *, weights: Any = None
) -> np.ndarray:
    """beta_j^B ~ E (1/d) tr B (I - Gamma^{-1/2} S Gamma^{-1/2})^j, j = 0, ..., top: shape (top + 1,).

    Parameters
    ----------
    contractions: h_i, the d eigenvalues of Sigma/Gamma (step_size times those of Sigma for plain steps).
    gamma: d/n.
    weights: the eigenvalues of B in the same order; default 1.

    One eigenvalue may stand for many equal ones. Error O(1/d): 0.3 to 1 % at (d, n) = (60, 90).
    Errors: `InvalidInput`. Source: sample-covariance equivalent, derived here.

    >>> covariance_moments(4, [1.0, 1.0], 0.5)  # Sigma = I and the step 1: the Marchenko-Pastur law
    array([ 1.   ,  0.   ,  0.5  , -0.25 ,  0.625])
    """
    count, h, ratio = _arguments(top, contractions, gamma)
    resolvents, _ = _series(count, h, ratio)
    return _known(resolvents @ _diagonal(weights, h, "weights") / len(h))


def _series(top: int, h: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients of T_i(z), (top + 1, d), and of k(z) = z/(1 + gamma e(z)), (top + 1,).

    T_i = 1/(1 - z + h_i k) and e = z mean(h_i T_i); each coefficient needs only lower ones.
    """
    resolvents = np.zeros((top + 1, len(h)))
    drive, inverse, e = np.zeros(top + 1), np.zeros(top + 1), np.zeros(top + 1)
    resolvents[0] = inverse[0] = 1.0
    for j in range(1, top + 1):
        drive[j] = inverse[j - 1]
        resolvents[j] = resolvents[j - 1] - h * (drive[1 : j + 1] @ resolvents[j - 1 :: -1][:j])
        e[j] = h @ resolvents[j - 1] / len(h)
        inverse[j] = -gamma * (e[1 : j + 1] @ inverse[j - 1 :: -1][:j])
    return resolvents, drive


@np.errstate(over="ignore", invalid="ignore")
def two_sided_moments(
    top: int, contractions: Any, gamma: float, left: Any, right: Any
) -> np.ndarray:
    """beta_t^{B,C} ~ E (1/d) tr B R^t C R^t, R = I - Gamma^{-1/2} S Gamma^{-1/2}, t = 0, ..., top.

    left, right: the eigenvalues of B and C in the order of `contractions`; otherwise as
    `covariance_moments`. Cost top^2 d + top^4/4: a second at top = 200, the largest is 300. Source:
    derived here.

    Errors: `InvalidInput`.

    >>> h = np.array([1.2, 0.4])
    >>> np.allclose(two_sided_moments(3, h, 0.5, 1, 1), covariance_moments(6, h, 0.5)[::2])
    True
    """
    count, h, ratio = _arguments(top, contractions, gamma, _MOST_PAIRS)
    b, c = _diagonal(left, h, "left"), _diagonal(right, h, "right")
    resolvents, drive = _series(count, h, ratio)

    def mean(weights: np.ndarray) -> np.ndarray:
        """<weights T(z_1) T(z_2)> as a table of coefficients."""
        return (resolvents * weights) @ resolvents.T / len(h)

    driving = ratio * _times(drive, mean(h * h))
    seen = _times(drive, mean(h * c)) * ratio
    correction = _product(seen, mean(b * h))
    # (1 - driving) x = correction; `driving` has no terms of degree 0 in either variable.
    return _known(np.diagonal(mean(b * c) + _quotient(correction, driving)).copy())


def _known(moments: np.ndarray) -> np.ndarray:
    if not np.all(np.isfinite(moments)):
        raise OutOfDomain(
            "the moments leave the range of float64; pass smaller contractions, weights or gamma, or "
            "fewer steps."
        )
    return moments


def _times(series: np.ndarray, table: np.ndarray) -> np.ndarray:
    """k(z_1) k(z_2) times a table of coefficients."""
    size = len(series)
    toeplitz = np.zeros((size, size))
    for i in range(size):
        toeplitz[i, : i + 1] = series[i::-1]
    return toeplitz @ table @ toeplitz.T


def _product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    out = np.zeros_like(left)
    size = len(left)
    for i in range(size):
        for j in range(size):
            if left[i, j] != 0:
                out[i:, j:] += left[i, j] * right[: size - i, : size - j]
    return out


def _quotient(numerator: np.ndarray, driving: np.ndarray) -> np.ndarray:
    """numerator/(1 - driving), row by row in z_1: driving starts at z_1 z_2."""
    size = len(numerator)
    out = numerator.copy()
    for i in range(1, size):
        for k in range(1, i + 1):
            # Row i gains driving row k times out row i - k, both series in z_2.
            out[i] += np.convolve(driving[k], out[i - k])[:size]
    return out


# -- risks ---------------------------------------------------------------------------------------


def trained_preconditioner(
    feature_eigenvalues: Any, n: int, label_noise_var: float = 0.0
) -> np.ndarray:
    """Eigenvalues of Gamma = (1 + 1/n) Sigma + (tr Sigma + label_noise_var)/n I: training without a chain.

    Shape (d,). Source: linear least squares on b, derived here; Zhang, Frei, Bartlett (2306.09927).

    Errors: `InvalidInput`.

    >>> trained_preconditioner([1.0, 1.0], 4)
    array([1.75, 1.75])
    """
    values, length = _spectrum(feature_eigenvalues), integer(n, "n")
    noise = nonnegative(label_noise_var, "label_noise_var")
    return (1 + 1 / length) * values + (values.sum() + noise) / length


def preconditioned_risks(
    decoding: icl.NoisyDecoding,
    feature_eigenvalues: Any,
    n: int,
    *,
    preconditioner: Any = None,
    coef_eigenvalues: Any = 1.0,
    norm: str = "euclidean",
) -> np.ndarray:
    """Risk of the mean of the chains after t = 0, ..., decoding.steps steps -Gamma^{-1}(S w - b).

    Parameters
    ----------
    decoding: its step size multiplies Gamma^{-1}; `noise_where` is "steps" or "output", the noise is
        isotropic.
    feature_eigenvalues: of Sigma, d of them. n: length of the tested prompt.
    preconditioner: eigenvalues of Gamma in the same order; default I (plain steps).
    coef_eigenvalues: of E w w' in the same order; default 1.
    norm: "euclidean" for E |w - w*|^2/d, "prediction" for E (w - w*)' Sigma (w - w*)/d.

    Error O(1/d), like `covariance_moments`. Errors: `InvalidInput`. Source: derived here.

    >>> risks = preconditioned_risks(icl.NoisyDecoding(0.5, 0.3, 3), np.ones(10), 20)
    >>> moments = covariance_moments(6, 0.5 * np.ones(10), 0.5)
    >>> bool(np.isclose(risks[3], moments[6] + 0.09 * (1 + moments[2] + moments[4])))
    True
    """
    steps, step_size, noise_var = _numbers(decoding)
    values, length = _spectrum(feature_eigenvalues), integer(n, "n")
    base = np.ones_like(values) if preconditioner is None else _spectrum(preconditioner)
    if base.shape != values.shape:
        raise InvalidInput(
            f"preconditioner has {len(base)} eigenvalues and the features have {len(values)}."
        )
    if norm not in _NORMS:
        raise InvalidInput(f"norm = {norm!r} is not one of {', '.join(_NORMS)}.")
    conditioner = base / step_size  # Gamma with the step in it
    h, ratio = values / conditioner, len(values) / length
    prior = _diagonal(coef_eigenvalues, h, "coef_eigenvalues")
    outer = 1 / conditioner if norm == "euclidean" else h
    bias = two_sided_moments(steps, h, ratio, outer, conditioner * prior)
    spread = two_sided_moments(steps, h, ratio, outer, conditioner)
    single = covariance_moments(2 * steps, h, ratio, weights=outer)
    label = float(decoding.label_noise_var) / length
    even = np.zeros(2 * steps + 1)
    even[::2] = spread
    sampling = combine(even, steps, 1.0, noise_var, 0.0, decoding.noise_where).sampling
    labels = combine(single, steps, 1.0, 0.0, label, "steps").labels
    return bias + sampling / float(decoding.samples) + labels


def long_prompt_risks(
    steps: int, feature_eigenvalues: Any, trained_length: int, *, coef_eigenvalues: Any = 1.0
) -> np.ndarray:
    """E |w_t - w*|^2/d at t = 0, ..., steps on an endless prompt, with weights trained at a length.

    `coef_eigenvalues`: of E w* w*'. There S = Sigma, and direction i contracts by 1 - lam_i/Gamma_i.
    Exact. Source: derived here.

    Errors: `InvalidInput`.

    >>> long_prompt_risks(1, [1.0, 1.0], 4).round(4)
    array([1.    , 0.1837])
    """
    values = _spectrum(feature_eigenvalues)
    contraction = 1 - values / trained_preconditioner(values, trained_length)
    prior = _diagonal(coef_eigenvalues, values, "coef_eigenvalues")
    powers = _even_powers(steps, len(values))
    return (prior * contraction ** powers[:, None]).mean(axis=1)


def hardness_bound(steps: int, feature_eigenvalues: Any, trained_length: int) -> np.ndarray:
    """(1 + n/(1 + hard))^{-2t}, hard = tr Sigma/min eig Sigma: at least `long_prompt_risks` with E w w' = I.

    Source: Javanmard, Mirzasoleiman, Mirrokni (2510.03605), the hardness; the bound is derived here.

    Errors: `InvalidInput`.

    >>> hardness_bound(1, [1.0, 1.0], 4).round(4)
    array([1.    , 0.1837])
    """
    values, length = _spectrum(feature_eigenvalues), integer(trained_length, "trained_length")
    hard = values.sum() / values.min()
    powers = _even_powers(steps, len(values))
    return (1 + length / (1 + hard)) ** -powers.astype(float)


# -- arguments -----------------------------------------------------------------------------------


def _even_powers(steps: Any, size: int) -> np.ndarray:
    longest = integer(steps, "steps", 0)
    require_memory((longest + 1) * size, f"steps = {longest} in dimension {size}")
    return 2 * np.arange(longest + 1)


def _arguments(
    top: Any, contractions: Any, gamma: Any, most: int = _MOST_COEFFICIENTS
) -> tuple[int, np.ndarray, float]:
    count = integer(top, "top", 0)
    if count > most:
        raise InvalidInput(f"top = {count}: these series are computed up to {most} terms.")
    ratio = number(gamma, "gamma")
    if not ratio > 0:
        raise InvalidInput(f"gamma = {ratio:g} is not positive; pass d/n.")
    return count, _spectrum(contractions, "contractions"), ratio


def _spectrum(values: Any, name: str = "feature_eigenvalues") -> np.ndarray:
    array = finite(values, name)
    if array.ndim != 1 or array.size == 0 or np.any(array <= 0):
        raise InvalidInput(
            f"{name} of shape {array.shape}: pass a list of eigenvalues > 0, of a "
            "covariance matrix np.linalg.eigvalsh(cov)."
        )
    return array


def _diagonal(values: Any, like: np.ndarray, name: str) -> np.ndarray:
    array = np.ones_like(like) if values is None else finite(values, name)
    if array.ndim and array.shape != like.shape:
        raise InvalidInput(
            f"{name} has shape {array.shape}; pass one number or {len(like)} of them."
        )
    return np.broadcast_to(array, like.shape)
