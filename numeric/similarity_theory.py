"""What similarities between two solvers are expected, from inner products of their filters.

Errors of spectral solvers on a prefix have the covariance E tr r_A r_B, so that the cosine of two error
vectors over the prefixes is close to a ratio of sums of such traces; the cosine of two weight vectors
is a ratio of quadratic forms in Gaussian coefficients, expanded to second order. Fixed parameters are
integrated over the exact density of the eigenvalues, rules of the spectrum are sampled. Source:
derived here. Exported: `expected_similarity_of_errors`, `expected_similarity_of_weights`,
`ExpectedSimilarity`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.solvers import Solver
from numeric.arrays import finite, integer
from numeric.decoding_display import Shown
from numeric.eigenbasis import PromptSpectra
from numeric.montecarlo import Seed, seed_sequence
from numeric.progress import progress_bar
from numeric.solver_filters import solver_residuals
from numeric.spectra import eigenvalue_batches, sizes, wishart_quadrature
from numeric.spectral_risk import RARE, filter_values, stable_edge, step_counts

_GROUPS = 20  # of samples, for the standard error of a ratio


@dataclass(frozen=True, repr=False)
class ExpectedSimilarity(Shown):
    """Similarities, (steps of the first, steps of the second) without the axes of single numbers.

    error: standard error where `sampled`, else that of the quadrature. The theory itself differs
    from the mean cosine: see the functions.
    """

    value: Any
    error: Any
    sampled: bool

    def __float__(self) -> float:
        return float(self.value)


def expected_similarity_of_errors(
    first: Solver,
    first_steps: Any,
    second: Solver,
    second_steps: Any,
    *,
    points: int,
    d: int,
    include_empty_prefix: bool = False,
    starts: tuple[float, float] = (0.0, 0.0),
    samples: int = 1000,
    seed: Seed = 0,
) -> ExpectedSimilarity:
    """Ratio of expectations for the cosine of two error vectors over the prefixes 1, ..., points.

    Parameters
    ----------
    first, second: spectral solvers; first_steps, second_steps: their numbers of steps, integers or
        sequences (None for direct methods). No step is the zero predictor.
    points, d: largest prefix and dimension. Features N(0, I), no label noise.
    include_empty_prefix: whether n = 0, where every solver predicts 0, counts.
    starts: E |w_0|^2 of independent random starts of the two solvers, in units of E |theta|^2.
    samples, seed: prompts per prefix where a parameter is a rule of the spectrum.

    Within 0.0007 of `numeric.similarity_of_errors` between good solvers, up to 0.006 against the zero
    predictor (d = 20). Source: derived here.

    >>> import icltheory as icl
    >>> zero = (icl.GradientDescent(0.01), 0)
    >>> squares = (icl.OrdinaryLeastSquares(), None)
    >>> sim = expected_similarity_of_errors(*zero, *squares, points=40, d=20)
    >>> round(float(sim), 6)  # sqrt((d - 1)/(2 points))
    0.48734
    """
    pair = _Pair.of(first, first_steps, second, second_steps, points, d)
    extra = finite(starts, "starts")
    if extra.shape != (2,) or extra.min() < 0:
        raise InvalidInput(f"starts = {starts}: pass two numbers >= 0.")
    sampled = pair.sampled
    groups = _sampled_products(pair, samples, seed) if sampled else _integrated_products(pair)
    if include_empty_prefix:
        groups = tuple(x + pair.dim for x in groups)

    def ratio(products: tuple[np.ndarray, ...]) -> np.ndarray:
        own, other, mixed = products
        norm = (1 + extra[0]) * own[:, None] * (1 + extra[1]) * other[None]
        if np.any(norm <= 0):
            raise InvalidInput("a solver has no error on any prefix, so that there is no cosine.")
        return mixed / np.sqrt(norm)

    value = ratio(tuple(x.mean(axis=0) for x in groups))
    error = np.full(value.shape, 1e-12)
    if sampled:
        count = len(groups[0])
        without = [
            ratio(tuple((x.sum(axis=0) - x[g]) / (count - 1) for x in groups)) for g in range(count)
        ]
        error = np.sqrt((count - 1) / count * np.square(np.array(without) - value).sum(axis=0))
    return pair.result(value, error, sampled)


def expected_similarity_of_weights(
    first: Solver,
    first_steps: Any,
    second: Solver,
    second_steps: Any,
    *,
    points: int,
    d: int,
    samples: int = 1000,
    seed: Seed = 0,
) -> ExpectedSimilarity:
    """Expected cosine of two weight vectors, averaged over the prefixes 1, ..., points; no noise.

    Arguments as for `expected_similarity_of_errors`; at least one step each. The average over theta
    is expanded to second order in the fluctuations: within 0.0035 of
    `numeric.similarity_of_weights` at d = 20. Always sampled. Source: derived here.

    >>> import icltheory as icl
    >>> gd = icl.GradientDescent(0.01)
    >>> same = expected_similarity_of_weights(gd, 5, gd, 5, points=4, d=3, samples=20)
    >>> round(float(same), 12)
    1.0
    """
    pair = _Pair.of(first, first_steps, second, second_steps, points, d)
    size = integer(samples, "samples", 2)
    means, variances = [], []

    def result() -> ExpectedSimilarity:
        error = np.sqrt(np.sum(variances, axis=0)) / len(variances)
        return pair.result(np.mean(means, axis=0), error, True)

    options = {"partial": lambda: result() if variances else None, "unit": " prefixes"}
    with progress_bar(pair.points, 0, None, "similarity", **options) as bar:
        for _, one, two in pair.draws(size, seed):
            if any(np.any(np.all(r == 1, axis=-1)) for r in (one, two)):
                raise InvalidInput(
                    "weights 0 have no direction; pass steps that leave the zero start."
                )
            cosines = _cosines(1 - one, 1 - two)
            mean, variance = cosines.mean(axis=0), cosines.var(axis=0, ddof=1) / size
            means, variances = [*means, mean], [*variances, variance]
            bar.update()
    return result()


def _cosines(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """E_theta of the cosine for g_1 (B, S, m) and g_2 (B, T, m), (B, S, T)."""

    def total(p: int, q: int) -> np.ndarray:
        return np.einsum("bsi,bti->bst", one**p, two**q)

    mixed, first, second = total(1, 1), total(2, 0), total(0, 2)
    change = 1.5 * total(4, 0) / (2 * first**2) + 1.5 * total(0, 4) / (2 * second**2)
    change -= (total(3, 1) / first + total(1, 3) / second) / mixed
    change += total(2, 2) / (2 * first * second)
    return mixed / np.sqrt(first * second) * (1 + change)


@dataclass(frozen=True)
class _Pair:
    """Two solvers with their numbers of steps, on prefixes 1, ..., points."""

    solvers: tuple[Solver, Solver]
    counts: tuple[np.ndarray, np.ndarray]
    shape: tuple[int, ...]
    points: int
    dim: int

    @staticmethod
    def of(
        first: Any, first_steps: Any, second: Any, second_steps: Any, points: Any, d: Any
    ) -> _Pair:
        counts = step_counts(first, first_steps), step_counts(second, second_steps)
        shape = tuple(
            np.size(s) for s in (first_steps, second_steps) if s is not None and np.ndim(s)
        )
        longest, dim = sizes(points, d)
        return _Pair((first, second), counts, shape, longest, dim)

    @property
    def sampled(self) -> bool:
        return any(solver.data_symbols for solver in self.solvers)

    def result(self, value: np.ndarray, error: np.ndarray, sampled: bool) -> ExpectedSimilarity:
        value, error = (x.reshape(self.shape)[()] for x in (value, error))
        return ExpectedSimilarity(value, error, sampled)

    def draws(self, samples: int, seed: Seed) -> Any:
        """n and the residuals (samples, steps, min(n, d)) of both solvers on the same prompts."""
        rng = np.random.default_rng(seed_sequence(seed))
        for n in range(1, self.points + 1):
            values = np.concatenate(list(eigenvalue_batches(n, self.dim, samples, rng)))
            spectra = PromptSpectra(values[:, None], np.empty(0), np.empty(0), np.array([n]))
            residuals = (
                np.broadcast_to(r, (samples, len(c), r.shape[-1]))
                for r, c in (
                    (solver_residuals(spectra, s, c)[:, 0], c)
                    for s, c in zip(self.solvers, self.counts, strict=True)
                )
            )
            yield n, *residuals


def _integrated_products(pair: _Pair) -> tuple[np.ndarray, ...]:
    """Sums over the prefixes of <A, A>, <B, B> and <A, B>, with a leading axis of one group."""
    top = min(stable_edge(solver) for solver in pair.solvers)
    edges = (top,) if np.isfinite(top) else ()
    own, other, mixed = 0.0, 0.0, 0.0
    with progress_bar(pair.points, 0, None, "similarity", unit=" prefixes") as bar:
        for n in range(1, pair.points + 1):
            rule = wishart_quadrature(n, pair.dim, edges, 1)
            seen = rule.restricted(0.0, top)
            if (unstable := rule.weights.sum() - seen.weights.sum()) > RARE:
                raise OutOfDomain(
                    f"a solver is unstable on {unstable:.3g} eigenvalues a prompt at n = {n}; lower "
                    f"its step, or use a rule of the prompt's spectrum."
                )
            one, two = (
                filter_values(s, c, seen.values)
                for s, c in zip(pair.solvers, pair.counts, strict=True)
            )
            own = own + seen.sum(one**2) + rule.null
            other = other + seen.sum(two**2) + rule.null
            mixed = mixed + (one * seen.weights) @ two.T + rule.null
            bar.update()
    return tuple(np.asarray(x)[None] for x in (own, other, mixed))


def _sampled_products(pair: _Pair, samples: Any, seed: Seed) -> tuple[np.ndarray, ...]:
    """The same sums from independent groups of prompts."""
    size = integer(samples, "samples", _GROUPS)
    size -= size % _GROUPS
    own, other, mixed = 0.0, 0.0, 0.0
    with progress_bar(pair.points, 0, None, "similarity", unit=" prefixes") as bar:
        for n, one, two in pair.draws(size, seed):
            null = max(pair.dim - n, 0)
            one, two = (x.reshape(_GROUPS, -1, *x.shape[1:]) for x in (one, two))
            share = size // _GROUPS
            own = own + np.einsum("gbsi,gbsi->gs", one, one) / share + null
            other = other + np.einsum("gbti,gbti->gt", two, two) / share + null
            mixed = mixed + np.einsum("gbsi,gbti->gst", one, two, optimize=True) / share + null
            bar.update()
    return np.asarray(own), np.asarray(other), np.asarray(mixed)
