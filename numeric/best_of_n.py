"""Best-of-N for chains of thought, given the prompt: Gaussian, tilting and saddlepoint predictions.

N chains on one prompt, a verifier keeps the best. In the eigenbasis of S = X'X/n (`numeric.chain_law`)
the verifier orders candidates by l = sum_j mu_j (c_j + s_j z_j)^2 and the error of a candidate is
|o + c + s z|^2. Errors here are totals |w - w*|^2, (..., P) + the shape of `samples`, for all settings,
prompts and N at once; `numeric.selection_risk` averages them, per coordinate. Sources: Lugannani and
Rice (1980) for the saddlepoint; the rest is derived here. Exported: `best_of_n_error`,
`selection_risk`, `small_noise_optimum`, `tilting_limit_risk`, `normal_maximum`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from icltheory.chains import NoisyDecoding
from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import number
from numeric.chain_laws import (
    VERIFIERS,
    ChainLaw,
    chain_law,
    decoding_numbers,
    noise_gain,
    require_law,
    require_verifier,
    sample_counts,
)
from numeric.chain_prompts import DecodingPrompts, PromptAverage
from numeric.spectra import marchenko_pastur_quadrature
from numeric.tilted_losses import TiltedLoss, sum_directions, tilts, width_series

METHODS = ("saddlepoint", "tilting", "gauss")
_POSITIVE, _NEGATIVE = 129, 48  # tilts of the saddlepoint; an odd number in all
_RESOLVED = 2.0**20  # samples up to which that grid resolves the distribution of the best loss
_TINY = 1e-3  # |w| of the saddlepoint below which its limit is used


# -- the maximum of N normal variables ---------------------------------------------------------------


def normal_maximum(samples: Any) -> np.ndarray:
    """m_N, the mean of the largest of N independent N(0, 1) variables; N >= 1 up to 1e300, any shape.

    N need not be an integer (its law is Phi^N). Relative error about 1e-12.

    Errors: `InvalidInput`.

    >>> normal_maximum([1, 2, 8, 64, 1024]).round(10)
    array([0.        , 0.56418958, 1.42360031, 2.34373347, 3.2482396 ])
    """
    return maximum_moments(sample_counts(samples))[0]


def maximum_moments(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First two moments of the maximum of N normal variables."""
    if not np.all(counts < 1e301):
        raise InvalidInput("samples is infinite; the maximum of normal variables has no limit.")
    z, weights, below, above = _normal_grid()
    reflected = np.exp(counts[..., None] * above)  # Phi(-z)^N
    upper = -np.expm1(counts[..., None] * below)  # 1 - Phi(z)^N
    first = (upper - reflected) @ weights
    second = (upper + reflected) @ (2 * z * weights)
    return first, second


@lru_cache(maxsize=1)
def _normal_grid() -> tuple[np.ndarray, ...]:
    """Nodes on (0, 40), weights, log Phi(z), log Phi(-z)."""
    x, w = np.polynomial.legendre.leggauss(24)
    edges = np.linspace(0.0, 40.0, 81)
    half = np.diff(edges) / 2
    z = (edges[:-1, None] + half[:, None] * (x + 1)).ravel()
    return z, (half[:, None] * w).ravel(), log_ndtr(z), log_ndtr(-z)


# -- one candidate kept ------------------------------------------------------------------------------


def best_of_n_error(
    law: ChainLaw,
    samples: Any,
    *,
    verifier: str = "prompt_loss",
    method: str = "saddlepoint",
    verifier_noise: float = 0.0,
) -> np.ndarray:
    """E |w - w*|^2 of the best of N chains, total, (..., P) + the shape of `samples`.

    Parameters
    ----------
    law: of the chains, `numeric.chain_law`.
    samples: numbers N >= 1, any shape; one grid of tilts serves all of them.
    verifier: "prompt_loss" or "oracle" (the true error).
    method: "saddlepoint", within about 3 % for 8 <= N <= 2^10 at d >= 10, where its integral has an
        error of up to 1 %, and of 0.1 % beyond N = 2^20; "tilting", the leading
        exponential order, which is low (10 to 31 % at d = 10, 10 to 15 % at d = 40); "gauss", for small
        N and large d: low by up to 13 % at N = 8, d = 10 and at N = 1000, d = 40 with the prompt loss,
        by 30 % and 46 % with the oracle; beyond, it is far too low and even negative.
    verifier_noise: standard deviation of a normal error of sum_j mu_j (c_j + s_j z_j)^2 at every
        look, independent between candidates.

    N = 1 and chains without noise are exact. Errors: `InvalidInput`. Source: derived here.

    >>> from numeric import ChainLaw
    >>> rate = 0.1 * np.arange(1.0, 11.0)[None]  # eta lambda, eta = 1/2
    >>> noise = 0.5 * np.sqrt(sum((1 - rate) ** (2 * s) for s in range(3)))
    >>> law = ChainLaw(2 * rate, 0 * rate, -((1 - rate) ** 3), noise, np.zeros(1))
    >>> [best_of_n_error(law, 64, method=m).round(3).tolist() for m in ("gauss", "tilting")]
    [[0.572], [1.037]]
    >>> best_of_n_error(law, [1, 64]).round(2)  # simulated: 4.574 and 1.381
    array([[4.57, 1.37]])
    """
    require_law(law)
    counts = sample_counts(samples)
    noise = number(verifier_noise, "verifier_noise")
    if not 0 <= noise < 1e100:
        raise InvalidInput(
            f"verifier_noise = {noise:g} is negative or beyond 1e100; pass a moderate number >= 0."
        )
    if method not in METHODS:
        raise InvalidInput(f"method = {method!r} is unknown; pass one of {METHODS}.")
    if method != "tilting" and np.any(np.isinf(counts)):
        raise InvalidInput("samples is infinite; use law.limit_error(verifier).")
    predict = {"saddlepoint": _saddlepoint, "tilting": _tilting, "gauss": _gauss}[method]
    flat = counts.ravel()
    parts = law.verified(verifier)
    shape = parts[1].shape[:-1]
    o, c, s, mu = (
        np.ascontiguousarray(np.broadcast_to(x, parts[1].shape)).reshape(-1, law.d) for x in parts
    )
    start = (np.square(o + c) + np.square(s)).sum(axis=-1)
    out = np.repeat(start[:, None], len(flat), axis=1)
    # Elsewhere all candidates look alike, also to float64.
    rows = np.flatnonzero((mu * np.square(s)).max(axis=-1) > 1e-100)
    columns = np.flatnonzero(flat > 1)
    if rows.size and columns.size:
        chosen = TiltedLoss(o[rows], c[rows], np.square(s[rows]), mu[rows], noise)
        out[np.ix_(rows, columns)] = predict(chosen, flat[columns])
    return out.reshape(*shape, *counts.shape)


def selection_risk(
    prompts: DecodingPrompts,
    decoding: NoisyDecoding,
    samples: Any,
    *,
    rule: str = "prompt_loss",
    method: str = "saddlepoint",
    verifier_noise: float = 0.0,
    step_size: Any = None,
    noise_std: Any = None,
    steps: Any = None,
) -> PromptAverage:
    """Predicted risk per coordinate of N chains, averaged over prompts, for a grid of settings.

    Parameters
    ----------
    prompts: drawn by `numeric.decoding_prompts`; a few dozen suffice, and settings that are compared
        share them, so that `a - b` has the small standard error of paired values.
    samples: numbers N >= 1, any shape.
    rule: "mean" averages the N chains; a verifier, "prompt_loss" or "oracle", keeps the best.
    method, verifier_noise: as for `best_of_n_error`.
    step_size, noise_std, steps: arrays that replace the decoding's value and broadcast against each
        other.

    Returns averages of shape (settings) + that of `samples`. The standard error is that of the choice
    of prompts; the error of `method` comes on top. Errors: `InvalidInput`, `OutOfDomain`.
    Source: derived here.

    >>> import icltheory as icl
    >>> from numeric import decoding_prompts
    >>> data = decoding_prompts(20, 10, 100, reduced=True, seed=1)
    >>> chain = icl.NoisyDecoding(0.5, 0.3, 3)
    >>> risk = selection_risk(data, chain, [1, 8, 64], steps=[2, 4])
    >>> risk.value.shape, risk.value[1].round(2).tolist()
    ((2, 3), [0.29, 0.16, 0.1])
    """
    if rule != "mean" and rule not in VERIFIERS:
        raise InvalidInput(
            f"rule = {rule!r} is not one of mean, {', '.join(VERIFIERS)} (softmax-weighted means: "
            f"numeric.softmax_mean_risk; stepwise selection: numeric.stepwise_risk)."
        )
    law = chain_law(prompts, decoding, step_size=step_size, noise_std=noise_std, steps=steps)
    if rule == "mean":
        values = law.mean_error(samples)
    else:
        values = best_of_n_error(
            law, samples, verifier=rule, method=method, verifier_noise=verifier_noise
        )
    settings = law.centre.ndim - 2
    return PromptAverage(np.moveaxis(values, settings, 0) / prompts.d)


def small_noise_optimum(
    law: ChainLaw, samples: Any, *, verifier: str = "prompt_loss"
) -> tuple[np.ndarray, np.ndarray]:
    """The best noise level and its error while the noise is small, each (..., P) + shape of `samples`.

    The Gaussian form at small noise without label noise: factor* = m_N G/V scales the spread of `law`,
    and the total error there is B - m_N^2 G^2/V, with V = sum s^2, B = sum c^2 and
    G = sum mu c^2 s^2/sqrt(sum mu^2 c^2 s^2). Multiply the law's noise_std by the factor. It overstates the
    gain where factor* is not small. Errors: `InvalidInput` for label noise or a law without noise.
    Source: derived here.

    >>> from numeric import ChainLaw
    >>> one = np.ones((1, 40))
    >>> factor, error = small_noise_optimum(ChainLaw(one, 0 * one, one, 0.1 * one, np.zeros(1)), 64)
    >>> (error / 40).round(4), (1 - normal_maximum(64) ** 2 / 40).round(4)
    (array([0.8627]), np.float64(0.8627))
    """
    require_law(law)
    _, c, s, mu = law.verified(verifier)
    if np.any(law.overfit != 0):
        raise InvalidInput("the prompts have label noise; this optimum is for exact labels.")
    v, c2 = np.square(s), np.square(c)
    total = v.sum(axis=-1)
    if np.any(total <= 0):
        raise InvalidInput("a chain without noise has no noise level; pass noise_std > 0.")
    spread = np.sqrt((np.square(mu) * c2 * v).sum(axis=-1))
    gain = (mu * c2 * v).sum(axis=-1) / np.where(spread > 0, spread, 1.0)
    m = normal_maximum(samples)
    error = np.multiply.outer(c2.sum(axis=-1), np.ones_like(m))
    return (
        np.multiply.outer(gain / total, m),
        error - np.multiply.outer(np.square(gain) / total, np.square(m)),
    )


def tilting_limit_risk(
    decoding: NoisyDecoding,
    gamma: float,
    log_samples: Any,
    *,
    label_noise_ratio: float = 0.0,
    verifier: str = "prompt_loss",
) -> np.ndarray:
    """Risk per coordinate of the best of N = e^(nu d) chains for n, d -> infinity, d/n -> gamma.

    Parameters
    ----------
    decoding: numbers; its label noise is replaced by `label_noise_ratio`, the limit of sigma_y^2/n.
    log_samples: nu = ln N/d >= 0, any shape; infinity is allowed.
    verifier: "prompt_loss" or "oracle".

    Exact to leading exponential order. Null directions keep 1 + their noise under the prompt loss.
    Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> chain = icl.NoisyDecoding(0.5, 0.5, 3)
    >>> tilting_limit_risk(chain, 0.5, [0.0, 0.2, 0.5]).round(4)  # 0 is the risk of one chain
    array([0.5562, 0.2337, 0.1129])
    """
    spec = decoding_numbers(decoding)
    rates = np.asarray(log_samples)
    if rates.dtype.kind not in "iuf" or not np.all(rates >= 0):
        raise InvalidInput(f"log_samples = {log_samples!r}; pass nu = ln(N)/d >= 0.")
    ratio, aspect = number(label_noise_ratio, "label_noise_ratio"), number(gamma, "gamma")
    if ratio < 0 or not 1e-9 < aspect < 1e9:
        raise InvalidInput(
            f"label_noise_ratio = {ratio:g} >= 0 and gamma = {aspect:g} from 1e-9 to 1e9 are needed."
        )
    rule = marchenko_pastur_quadrature(aspect, 0)
    values = np.append(rule.values, 0.0)
    mass = np.append(rule.weights, rule.null)
    t = np.array(float(spec.steps))
    contraction = (1 - spec.step_size * values) ** spec.steps
    v = spec.output_std**2 * noise_gain(spec.step_size * values, t, spec)
    label = np.append(ratio / rule.values, 0.0)
    require_verifier(verifier)
    if verifier == "oracle":
        mu, c2 = np.ones_like(values), contraction**2 + label * (1 - contraction) ** 2
    else:
        mu, c2 = values, contraction**2 * (1 + label)

    def error(theta: float) -> float:
        inverse = 1 / (1 + 2 * theta * mu * v)
        if verifier == "oracle":
            return float(mass @ (c2 * inverse**2 + v * inverse))
        bias = contraction**2 * inverse**2 + label * (1 - contraction * inverse) ** 2
        return float(mass @ (bias + v * inverse))

    def entropy(log_theta: float) -> float:
        k = 2 * np.exp(log_theta) * mu * v
        width = np.where(k < 1e-4, width_series(np.minimum(k, 1.0)), np.log1p(k) - k / (1 + k))
        moved = np.square(k / (1 + k)) * c2 / np.where(v > 0, v, 1.0)
        return float(mass @ (width + moved)) / 2

    if not (spec.noise_std > 0 and np.any(v > 0)):
        return np.full(rates.shape, error(0.0))[()]
    scale = -np.log(np.max(mu * v))
    low, high = scale - 40, scale + 300
    out = []
    for nu in rates.ravel():
        if nu <= entropy(low):
            out.append(error(0.0))
        elif nu >= entropy(high):
            out.append(error(np.exp(high)))
        else:
            out.append(
                error(np.exp(brentq(lambda x, nu=nu: entropy(x) - nu, low, high, xtol=1e-13)))
            )
    return np.array(out).reshape(rates.shape)[()]


# -- the three forms --------------------------------------------------------------------------------


def _gauss(law: TiltedLoss, counts: np.ndarray) -> np.ndarray:
    """The true error regressed on the loss, both taken as normal."""
    shared = (law.mu * (2 * np.square(law.v) + 4 * law.c * (law.c + law.o) * law.v)).sum(axis=1)
    return law.start[:, None] - np.outer(shared / np.sqrt(law.variance()), normal_maximum(counts))


def _tilting(law: TiltedLoss, counts: np.ndarray) -> np.ndarray:
    """The error under the tilt whose relative entropy is ln N."""
    theta = tilts(law, np.log(counts))
    out = np.empty((len(law), len(counts)))
    for rows, part in law.blocks(len(counts)):
        out[rows] = part.error(part.inverse(theta[rows]))
    return out


def _saddlepoint(law: TiltedLoss, counts: np.ndarray) -> np.ndarray:
    """int r(theta(x)) d[1 - (1 - F(x))^N] with the Lugannani-Rice distribution function F of l."""
    out = np.empty((len(law), len(counts)))
    for rows, part in law.blocks(_POSITIVE + _NEGATIVE):
        theta = _tilt_grid(part)  # decreasing: losses x increase along it
        error, cdf = part.error(part.inverse(theta)), _distribution(part, theta)
        with np.errstate(divide="ignore"):
            tail = np.log1p(-cdf)  # -inf where F = 1
        for column, count in enumerate(counts):
            if count > _RESOLVED:
                out[rows, column] = _of_rare_losses(error, cdf, count)
                continue
            kept = -np.expm1(count * tail)  # 1 - (1 - F)^N
            fine, coarse = _trapezoid(error, kept), _trapezoid(error[:, ::2], kept[:, ::2])
            ends = error[:, 0] * kept[:, 0] + error[:, -1] * (1 - kept[:, -1])
            out[rows, column] = ends + (4 * fine - coarse) / 3
    return out


def _of_rare_losses(error: np.ndarray, cdf: np.ndarray, count: float) -> np.ndarray:
    """E r where F of the best loss is 1 - exp(-T/N), T exponential; r is interpolated in ln F, (R,)."""
    y = np.arange(-16, 4, 1 / 8)  # ln T
    weights = np.exp(y - np.exp(y))
    places = np.log(-np.expm1(-np.exp(y) / count))
    out = np.empty(len(error))
    for row, (values, share) in enumerate(zip(error, cdf, strict=True)):
        known, first = np.unique(share, return_index=True)
        keep = known > 0
        x, r = np.log(known[keep]), values[first[keep]]
        if not keep[0] and places[0] < x[0]:
            raise OutOfDomain(
                f"samples = {count:g}: the chance of so rare a loss leaves the range of float64; use "
                f"method='tilting', whose error falls as N grows."
            )
        inside = np.clip(places, x[0], x[-1])
        out[row] = PchipInterpolator(x, r)(inside) @ weights / weights.sum()
    return out


def _trapezoid(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """int values d(places) along the last axis."""
    return ((values[:, 1:] + values[:, :-1]) / 2 * np.diff(places, axis=1)).sum(axis=1)


def _tilt_grid(law: TiltedLoss) -> np.ndarray:
    """Tilts from large to small ones, down to the pole at -1/(2 max mu s^2), (R, K)."""
    scale = 1 / np.sqrt(law.variance())[:, None]
    typical = np.array([np.median(row[row > 0]) for row in law.rate])[:, None]
    largest = np.maximum(1e7 * 2 / typical, 1e3 * scale)
    fractions = np.linspace(0, 1, _POSITIVE)
    positive = np.exp(np.log(largest) * (1 - fractions) + np.log(0.02 * scale) * fractions)
    # -x scale/(1 + x scale top): linear near 0, and it never reaches the pole.
    x = np.geomspace(0.02, 1e4, _NEGATIVE) * scale
    return np.concatenate([positive, -x / (1 + x * law.top[:, None])], axis=1)


def _distribution(law: TiltedLoss, theta: np.ndarray) -> np.ndarray:
    """F at the mean loss of every tilt, made monotone, (R, K)."""
    inverse = law.inverse(theta)
    square, u = inverse**2, -theta
    c2 = np.square(law.c)
    signal, width = law.mu * c2, law.mu * law.v
    mean = sum_directions(square, signal) + sum_directions(inverse, width) + law.noise_var * u
    cumulant = (
        np.log(inverse).sum(axis=2) / 2 + u * sum_directions(inverse, signal)
    ) + law.noise_var * u**2 / 2
    variance = (
        sum_directions(inverse * square, 4 * signal * width)
        + sum_directions(square, 2 * width**2)
        + law.noise_var
    )
    w = np.sign(u) * np.sqrt(2 * np.maximum(u * mean - cumulant, 0.0))
    scaled = u * np.sqrt(variance)
    third = (8 * width**3 + 24 * signal * width**2).sum(axis=1)
    skew = (third / (6 * np.sqrt(2 * np.pi) * law.variance() ** 1.5))[:, None]
    near = np.abs(w) < _TINY
    safe = np.where(near, 1.0, w)
    density = np.exp(-np.square(w) / 2) / np.sqrt(2 * np.pi)
    correction = density * (1 / safe - 1 / np.where(near, 1.0, scaled))
    cdf = np.where(near, 0.5 + skew, ndtr(w) + correction)
    return np.maximum.accumulate(np.clip(cdf, 0.0, 1.0), axis=1)
