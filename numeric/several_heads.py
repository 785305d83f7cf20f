"""Exact risk of scalar softmax heads at finite prompt length, as a quadratic form in their values.

Given r = |x_q|, heads w_h = softmax(k_h r z) leave the prompt through their joint moments alone
(`numeric.pair_moments`). With S = sum_h v_h and a_h = v_h k_h the weights of the labels are
W = S/n + r sum_h a_h D_h, where D_h is the part of head h that vanishes with its scale, over that
scale. The risk is a quadratic form in (S, a) which stays well conditioned where the values v_h
diverge: opposite heads of small scores have S = 0 and finite a.

The question is that of Cui et al. (arXiv 2401.17426); the risks are derived here. Exported:
`HeadForm` and `head_form`; `family_risk`, `given_heads_risk`, `best_head` and `best_pair` serve
`numeric.exact_risk` and `numeric.optimal_risk`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize

from icltheory.attention import SoftmaxAttention
from icltheory.pair_scales import pair_scale, pair_slope
from icltheory.symbols import d, noise_var
from icltheory.task import LinearRegression
from numeric.arrays import TaskArrays
from numeric.compile import Evaluator, compile
from numeric.pair_moments import LARGEST_SCALE, check_scale, single_head, two_heads
from numeric.query_lattice import QueryLattice

_NO_SHIFT = (0.0, 1.0)
_STEP, _QUERY_STEP = 0.12, 0.2
# The best k of a pair is found from the expansion of its risk around k = 0 where the leading order
# of k^2 is that small against its range.
_EXPANDED, _EXPANSION_RANGE = 0.25, 0.05


@dataclass(frozen=True, eq=False)
class HeadForm:
    """Risk of heads with given scores k_h, in the base task of signal 1, in c = (S, a_1, ..., a_H).

    risk(c) = (1 - rho S - sum a)^2 + 2 (1 - rho S) gap.a + a'form a + mean S^2 + 2 S mixed.a:
    all coefficients are of order 1/n, so that the risk has their relative accuracy.
    """

    rho: float
    gap: np.ndarray
    form: np.ndarray
    mean: float
    mixed: np.ndarray

    def risk(self, c: np.ndarray) -> float:
        """The risk at one c."""
        total, a = c[0], c[1:]
        rest = 1 - self.rho * total
        risk = (rest - a.sum()) ** 2 + 2 * rest * (self.gap @ a) + a @ self.form @ a
        return float(risk + self.mean * total**2 + 2 * total * (self.mixed @ a))

    def best(self, basis: np.ndarray) -> tuple[float, np.ndarray]:
        """The smallest risk in the span of the columns of `basis`, and its c.

        In prompts beyond 1e32 no c in float64 has that risk.
        """
        # risk(c) = 1 - 2 mean.c + (mean.c)^2 + c'cov c, with the mean and the covariance of what
        # the heads read, so that the best c is cov^{-1} mean up to a factor.
        mean = np.concatenate([[self.rho], 1 - self.gap])
        cov = np.zeros((len(mean), len(mean)))
        cov[0, 0], cov[0, 1:], cov[1:, 0] = self.mean, self.mixed, self.mixed
        cov[1:, 1:] = self.form + np.add.outer(self.gap, self.gap) - np.outer(self.gap, self.gap)
        # Columns of nearly equal heads are nearly parallel; an orthonormal basis keeps their span.
        span, _ = np.linalg.qr(basis / np.linalg.norm(basis, axis=0))
        reads = span.T @ mean
        direction = np.linalg.lstsq(span.T @ cov @ span, reads, rcond=1e-13)[0]
        risk = 1 / (1 + reads @ direction)
        return float(risk), risk * (span @ direction)


@lru_cache(maxsize=4096)
def head_form(
    dim: int,
    noise: float,
    n: float,
    scores: tuple[float, ...],
    include_query: bool = False,
    local: tuple[float, float] = _NO_SHIFT,
) -> HeadForm:
    """The form of heads with the scores k_h (a score 0 stands for the derivative in the score).

    `local` is (rho, tau); with it no query token.
    """
    rho, tau = local
    # The query token takes over where exp(k r^2) exceeds the normaliser: sharply, in log r within
    # about 1/(2 log n).
    step = _STEP if not include_query else min(_STEP, _QUERY_STEP / math.log(n + 2))
    lattice = QueryLattice(dim, n, step)
    largest = tau * max(map(abs, scores))
    unit = largest or 1.0
    check_scale(largest * lattice.window[1], "the largest score k |x_q|")
    points = lattice.points(unit)
    density, scales = lattice.density(unit, points), lattice.scales(points)
    radii = scales / unit
    label = dim - 1 + dim * noise / tau**2
    count = len(scores)
    gap, mixed, form = np.zeros(count), np.zeros(count), np.zeros((count, count))
    for p, scale, r in zip(density, scales.tolist(), radii.tolist(), strict=True):
        radius = r if include_query else None
        kappa = [scale * (tau * k / unit) if largest else 0.0 for k in scores]
        for h in range(count):
            one = single_head(n, kappa[h], radius)
            gap[h] += p * one.response_gap
            mixed[h] += p / r * (one.query_product + label * one.query_overlap)
            for other in range(h + 1):
                product_gap, overlap = two_heads(n, kappa[h], kappa[other], radius)
                form[h, other] += p * (label * overlap - product_gap)
    form += np.tril(form, -1).T
    mean = (tau**2 + noise) * (n / (n + 1) ** 2 if include_query else 1 / n)
    return HeadForm(rho, gap, form, mean, mixed)


# -- given scores ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """What a form depends on besides the scores and the prompt length, in units of the signal."""

    dim: int
    noise: float
    include_query: bool
    local: tuple[float, float]

    @staticmethod
    def of(arrays: TaskArrays, include_query: bool) -> Setting:
        """The setting of a task."""
        noise = arrays.noise_var / arrays.signal
        return Setting(arrays.dim, noise, include_query, arrays.local)

    def form(self, n: float, scores: Sequence[float]) -> HeadForm:
        """The form of heads with these scores."""
        return head_form(self.dim, self.noise, n, tuple(scores), self.include_query, self.local)


def value_basis(scores: Sequence[float]) -> np.ndarray:
    """The matrix from values v to c = (sum v, v_1 k_1, ..., v_H k_H)."""
    return np.vstack([np.ones(len(scores)), np.diag(scores)])


def given_heads_risk(
    setting: Setting, n: float, scores: Sequence[float], values: Sequence[float] | None = None
) -> tuple[float, np.ndarray]:
    """Risk of heads with these scores in units of the signal, and the values, the best ones if None."""
    form = setting.form(n, scores)
    slopes = setting.local[1] ** 2 * np.array(scores)  # on local examples a_h = tau^2 v_h k_h
    if values is not None:
        given = np.array(values)
        c = np.concatenate([[math.fsum(values)], given * slopes])
        return form.risk(c), given
    basis = value_basis(slopes.tolist())
    risk, c = form.best(basis)
    scale = np.linalg.norm(basis, axis=0)
    return risk, np.linalg.lstsq(basis / scale, c, rcond=None)[0] / scale


def family_risk(
    setting: Setting, n: float, signs: Sequence[int], k: float, v: float | None
) -> tuple[float, float]:
    """Risk and value of heads with scores signs * k and values signs * v; the best v for None.

    For opposite heads k = 0 is the limit of small scores, where v is sum_h v_h k_h.
    """
    opposite = sum(signs) == 0
    if opposite and k == 0:
        form, direction = setting.form(n, (0.0,)), np.array([0.0, 1.0])
    else:
        form = setting.form(n, [sign * k for sign in signs])
        direction = np.array([float(sum(signs)), *(k for _ in signs)])
    if v is not None:
        return form.risk(v * direction), v
    risk, c = form.best(direction[:, None])
    return risk, float(c @ direction / (direction @ direction))


# -- best scales -----------------------------------------------------------------------------------


@lru_cache(maxsize=4096)
def best_head(setting: Setting, n: float) -> tuple[float, float, float]:
    """(risk, k, v) of the best single head, in units of the signal."""
    return _best_scale(setting, n, (1,), 0.3 / math.sqrt(setting.dim + 2))


@lru_cache(maxsize=4096)
def best_pair(setting: Setting, n: float) -> tuple[float, float, float]:
    """(risk, k, v) of the best pair of scores +-k and values +-v, in units of the signal."""
    start, slope = (f(n=n, d=setting.dim, noise_var=setting.noise) for f in _pair_expansion())
    if setting.include_query or setting.local != _NO_SHIFT:
        return _best_scale(setting, n, (1, -1), start)
    reach = _EXPANSION_RANGE / (setting.dim + 4)
    if start**2 > _EXPANDED * reach:
        return _best_scale(setting, n, (1, -1), start)
    # In long prompts the gain is of relative order 1/n^2. The slope at 0 is known; the rest of the
    # expansion is read off at scales where it is not lost in rounding.
    step = QueryLattice(setting.dim, n).step
    indices = np.unique(np.round(np.log(reach * np.geomspace(0.1, 1, 10)) / (2 * step)))
    t = np.exp(2 * step * indices)
    small = family_risk(setting, n, (1, -1), 0.0, None)[0]
    risks = np.array([family_risk(setting, n, (1, -1), math.sqrt(x), None)[0] for x in t])
    rest = np.polynomial.Polynomial.fit(t, ((risks - small) / t - slope) / t, 4)
    best = start**2
    for _ in range(50):
        best = -slope / (2 * rest(best) + best * rest.deriv()(best))
    k = math.sqrt(best)
    risk, v = family_risk(setting, n, (1, -1), k, None)
    return risk, k, v


def _best_scale(
    setting: Setting, n: float, signs: Sequence[int], start: float
) -> tuple[float, float, float]:
    def profile(k: float) -> float:
        return family_risk(setting, n, signs, k, None)[0]

    lattice = QueryLattice(setting.dim, n)
    largest = LARGEST_SCALE / (lattice.window[1] * setting.local[1])
    k = minimum_on_lattice(profile, start, lattice.step, largest)
    if profile(0.0) <= profile(k):
        k = 0.0
    risk, v = family_risk(setting, n, signs, k, None)
    return risk, k, v


def minimum_on_lattice(
    profile: Callable[[float], float], start: float, step: float, largest: float
) -> float:
    """Minimiser of a function of k that falls and then rises, from `start` upwards.

    All scales are powers of exp(step), where the functions that are averaged over the query are
    tabulated; the minimiser is that of the polynomial through the values around the least.
    """
    table: dict[int, float] = {}

    def at(i: int) -> float:
        if i not in table:
            table[i] = profile(math.exp(step * i))
        return table[i]

    stride = max(1, round(0.24 / step))
    i, last = math.floor(math.log(start) / step), math.floor(math.log(largest) / step)
    while i + stride <= last and at(i + stride) < at(i):
        i += stride
    while at(i - stride) < at(i) and i * step > math.log(start) - 5:
        i -= stride
    i = min(range(i - stride, min(i + stride, last) + 1), key=at)
    half = max(1, round(0.12 / step))
    x = [i + half * j for j in range(-4, 5) if i + half * j <= last]
    fit = np.polynomial.Polynomial.fit(x, [at(j) for j in x], len(x) - 1)
    found = optimize.minimize_scalar(
        fit, bounds=(i - half, min(i + half, last)), method="bounded", options={"xatol": 1e-7}
    )
    return math.exp(step * found.x)


@lru_cache(maxsize=1)
def _pair_expansion() -> tuple[Evaluator, Evaluator]:
    """Leading order of the best k of a pair, and the slope of its risk at k^2 = 0."""
    task = LinearRegression(dim=d, noise_var=noise_var)
    return compile(pair_scale(task)), compile(pair_slope(task, SoftmaxAttention(heads=2)))
