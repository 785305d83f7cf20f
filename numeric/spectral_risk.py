"""Expected risk of solvers as numbers: exact integrals over eigenvalues, sampled where they couple.

For features N(0, c I) and fixed parameters the risk is a sum over eigenvalues, integrated against
their exact density (`numeric.spectra`). Parameters that are rules of the prompt's spectrum, and
other covariances, are sampled, with standard errors. With a fixed step size and many steps the
literal expectation is carried by prompts beyond the range of stability, which are never seen; the
default is the risk without their unstable eigenvalues. Exported: `solver_risk`, `SolverRisk`;
`filter_values`, `step_counts`, `stable_edge` and `shaped` serve the limits and the similarities.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.laws.wishart import covariance_square
from icltheory.solvers import OrdinaryLeastSquares, PowerSolver, Solver
from icltheory.symbols import lam, lam_max
from numeric.arrays import integer, matrix_array, number, positive
from numeric.decoding_display import Shown
from numeric.eigenbasis import PromptSpectra
from numeric.montecarlo import Seed, Streaming, seed_sequence
from numeric.solver_filters import solver_residuals
from numeric.spectra import (
    SpectralAverage,
    eigenvalue_batches,
    refined,
    sizes,
    wishart_quadrature,
)

RARE = 1e-3  # unstable eigenvalues a prompt that the stable event may leave out
_LARGEST_EIGENVALUE = 1400.0  # exp(-lambda/2) underflows beyond
_TOUCH = 1e-12
_BATCH = 2**22  # floats of sampled features or filters at a time


@dataclass(frozen=True, repr=False)
class SolverRisk(Shown):
    """Expected risks at one or more numbers of steps (arrays like `steps`).

    value: the risk. error: the quadrature's error, or the standard error of a sampled value.
    sampled: whether the error is statistical. unstable: expected number of eigenvalues per prompt
    beyond the range of stability, a bound on the probability of a prompt that diverges. kind:
    "stable event" without these eigenvalues, "literal" with them (the same where there are none).
    """

    value: Any
    error: Any
    sampled: bool
    unstable: float
    kind: str

    def __float__(self) -> float:
        return float(self.value)


def solver_risk(
    solver: Solver,
    steps: Any = None,
    *,
    n: int,
    d: int,
    noise_var: float = 0.0,
    cov: Any = None,
    start: float = 0.0,
    expectation: str = "stable",
    samples: int = 20_000,
    seed: Seed = 0,
) -> SolverRisk:
    """E (w_hat.x - theta.x)^2 of a solver after `steps` steps; coefficients N(0, I/d), no factor 1/2.

    Parameters
    ----------
    solver: any spectral solver with numbers or rules of the spectrum as parameters. S is not divided
        by n. (Conjugate gradients depend on the labels: `numeric.run_solvers`.)
    steps: integer >= 0 or a sequence of them, times for `GradientFlow`; none for direct methods.
    n, d: prompt length >= 1 and dimension.
    noise_var: variance of the label noise. start: E |w_0|^2 of an isotropic random start.
    cov: feature covariance, a matrix, d eigenvalues or a number; `None` is the identity.
    expectation: "stable" leaves out eigenvalues beyond the solver's range of stability, "literal"
        counts them (fixed parameters, cov a number); the result tells how rare they are.
    samples, seed: where sampling is needed; 20,000 prompts take about a second at d = 20.

    Errors: `InvalidInput`; `OutOfDomain` for least squares with noise and |n - d| <= 1, a sample that
    diverges, or sizes above the quadrature's. Source: derived here.

    >>> import icltheory as icl
    >>> risk = solver_risk(icl.GradientDescent(0.01), [50, 100], n=20, d=20)
    >>> risk.value.round(7), risk.sampled
    (array([0.135164 , 0.0988454]), False)
    >>> sampled = solver_risk(icl.IterativeNewton(1 / icl.symbols.frobenius), 8, n=40, d=20)
    >>> bool(abs(sampled.value - 0.04689) < 5 * sampled.error), sampled.sampled
    (True, True)
    """
    length, dim = (integer(x, name) for x, name in ((n, "n"), (d, "d")))
    noise, extra = nonnegative(noise_var, "noise_var"), nonnegative(start, "start")
    if expectation not in ("stable", "literal"):
        raise InvalidInput(f"expectation = {expectation!r} is not 'stable' or 'literal'.")
    counts = step_counts(solver, steps)
    scale, root = _covariance(cov, dim)
    if isinstance(solver, OrdinaryLeastSquares) and noise and abs(length - dim) <= 1:
        raise OutOfDomain(
            f"n = {length}, d = {dim}: with label noise the risk of least squares is infinite for "
            f"|n - d| <= 1; use ridge regression (icl.Ridge), or |n - d| >= 2."
        )
    problem = _Problem(solver, counts, length, dim, noise, 1 + extra, scale)
    if root is not None or solver.data_symbols:
        if expectation == "literal":
            raise InvalidInput(
                "the literal expectation needs fixed parameters and a covariance c I; for polynomial "
                "filters icl.solver_risk has it for every covariance."
            )
        total = integer(samples, "samples", 2)
        value, error = problem.sampled(root, total, np.random.default_rng(seed_sequence(seed)))
        result = SolverRisk(value, error, True, 0.0, "stable event")
    else:
        average, unstable = problem.integrated(expectation == "literal")
        if unstable > RARE and expectation == "stable":
            raise OutOfDomain(
                f"{solver!r} is unstable on {unstable:.3g} eigenvalues a prompt at n = {length}, d = "
                f"{dim}: that is no rare event to leave out. Lower its step, use a rule of the "
                f"prompt's spectrum, or expectation='literal'."
            )
        kind = "literal" if expectation == "literal" else "stable event"
        result = SolverRisk(average.value, average.error, False, unstable, kind)
    return shaped(result, steps)


def shaped(risk: SolverRisk, steps: Any) -> SolverRisk:
    """Value and error in the shape of the argument `steps`."""
    shape = np.shape(steps) if steps is not None else ()
    value, error = (np.asarray(x, dtype=float).reshape(shape)[()] for x in (risk.value, risk.error))
    return replace(risk, value=value, error=error)


@dataclass(frozen=True)
class _Problem:
    """What a risk is computed from; factor multiplies the signal's part (1 + E |w_0|^2)."""

    solver: Solver
    counts: np.ndarray
    length: int
    dim: int
    noise: float
    factor: float
    scale: float

    def errors(self, residual: np.ndarray, values: np.ndarray, weight: Any = 1.0) -> np.ndarray:
        """weight (r^2/d + noise q^2 lam) eigenvalue by eigenvalue."""
        out = residual**2 * (self.factor / self.dim)
        if self.noise:
            positive = np.where(values > 0, values, 1.0)
            out = out + self.noise * (1 - residual) ** 2 / positive
        return out * weight

    def integrated(self, literal: bool) -> tuple[SpectralAverage, float]:
        """The quadrature over the stable (and, if literal, the other) eigenvalues."""
        n, d = sizes(self.length, self.dim)
        top = stable_edge(self.solver) / self.scale
        edges = (top,) if top < math.inf else ()
        reach = self._reach() if literal else 0.0

        def at(level: int) -> Any:
            rule = wishart_quadrature(n, d, edges, level, reach)
            parts = [rule.restricted(0.0, top)]
            parts += [rule.restricted(top, math.inf)] if literal and edges else []
            total = rule.null * self.factor * self.scale / d
            for part in parts:
                if part.values.size:
                    values = self.scale * part.values
                    residual = filter_values(self.solver, self.counts, values)
                    total = total + part.sum(self.errors(residual, values, self.scale))
            return total

        average = refined(at)
        rule = wishart_quadrature(n, d, edges, 0)
        outside = rule.restricted(top, math.inf).weights
        return average, float(outside.sum()) if edges else 0.0

    def _reach(self) -> float:
        """An eigenvalue beyond which (1 - eta lam)^{2t} times the density is negligible."""
        degree = max(int(self.solver.degree(int(k)) or 0) for k in self.counts)
        degree = min(degree, 10**9)
        # lam^{2 degree} times the density falls like a Gamma law of this shape and scale 2.
        shape = 2 * degree + (self.length + self.dim) / 2
        reach = 2 * (shape + 12 * math.sqrt(shape) + 40)
        if reach > _LARGEST_EIGENVALUE:
            raise OutOfDomain(
                f"the literal expectation at degree {degree} leaves the range of float64; "
                f"icl.solver_risk has it exactly up to degree 100, and expectation='stable' has what "
                f"is seen."
            )
        return reach

    def sampled(
        self, root: np.ndarray | None, samples: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard errors over prompts."""
        streams = [Streaming() for _ in self.counts]
        for values, weights in self._chunks(root, samples, rng):
            spectra = PromptSpectra(values[:, None], *_NOTHING, np.array([self.length]))
            residual = solver_residuals(spectra, self.solver, self.counts)[:, 0]
            risks = self.errors(residual, values[:, None], weights[:, None]).sum(axis=-1)
            for stream, column in zip(streams, risks.T, strict=True):
                stream.add(column)
        estimates = [stream.estimate() for stream in streams]
        return (
            np.array([e.value for e in estimates]),
            np.array([e.standard_error for e in estimates]),
        )

    def _chunks(
        self, root: np.ndarray | None, samples: int, rng: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`_spectra` in pieces that fit into memory for all numbers of steps."""
        size = max(1, _BATCH // (len(self.counts) * self.dim))
        for values, weights in self._spectra(root, samples, rng):
            for first in range(0, len(values), size):
                yield values[first : first + size], weights[first : first + size]

    def _spectra(
        self, root: np.ndarray | None, samples: int, rng: np.random.Generator
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Eigenvalues of S with the zeros, and u'Sigma u of their eigenvectors, (B, d)."""
        d, n = self.dim, self.length
        if root is None:
            for values in eigenvalue_batches(n, d, samples, rng):
                zeros = np.zeros((len(values), d - min(n, d)))
                full = np.concatenate([zeros, self.scale * values], axis=1)
                yield full, np.full(full.shape, self.scale)
            return
        batch = max(1, _BATCH // (n * d + d * d))
        for first in range(0, samples, batch):
            size = min(batch, samples - first)
            features = rng.standard_normal((size, n, d)) @ root
            values, vectors = np.linalg.eigh(np.swapaxes(features, 1, 2) @ features)
            values[:, : max(0, d - n)] = 0.0
            yield values, np.square(root @ vectors).sum(axis=1)


_NOTHING = (np.empty(0), np.empty(0))  # eigenvectors and labels, which residuals do not need


def step_counts(solver: Any, steps: Any) -> np.ndarray:
    """Numbers of steps as a vector; one for direct methods."""
    if not isinstance(solver, Solver):
        raise InvalidInput(
            f"solver has type {type(solver).__name__}; pass for example icl.GradientDescent(0.01)."
        )
    if solver.reads_labels:
        raise InvalidInput(
            f"the filter of {solver!r} depends on the labels, not on the spectrum alone; "
            f"numeric.run_solvers measures it on prompts."
        )
    if solver.is_direct:
        return np.zeros(np.size(steps) if steps is not None else 1)
    if steps is None:
        raise InvalidInput("the number of steps is missing; pass an integer >= 0 or a sequence.")
    flat = np.ravel(np.asarray(steps, dtype=object))
    if not flat.size:
        raise InvalidInput("steps is empty; pass at least one number of steps.")
    exact = [solver._steps(x) for x in flat]
    for x in exact:
        if x.free_symbols:
            raise InvalidInput(f"steps = {x} contains symbols; pass numbers.")
    return np.array([float(x) for x in exact])


def filter_values(solver: Solver, counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """r at eigenvalues (K,) after each number of steps, (T, K); beyond stability only for powers."""
    spectra = PromptSpectra(values[None, None], *_NOTHING, np.array([1]))
    if not isinstance(solver, PowerSolver):
        return _repeated(solver_residuals(spectra, solver, counts)[0, 0], len(counts))
    contraction = spectra.evaluate(solver.contraction)[0, 0]
    if np.all(np.abs(contraction) <= 1):
        return solver_residuals(spectra, solver, counts)[0, 0]
    with np.errstate(over="ignore"):
        return np.array([contraction ** float(solver.power(int(k))) for k in counts])


def _repeated(residual: np.ndarray, count: int) -> np.ndarray:
    """One row for each number of steps, also for direct methods."""
    return np.broadcast_to(residual, (count, residual.shape[-1]))


@lru_cache(maxsize=256)
def stable_edge(solver: Solver) -> float:
    """The eigenvalue up to which a solver with fixed parameters is stable."""
    if names := sorted(str(s) for x in solver._parameters().values() for s in x.free_symbols):
        raise InvalidInput(f"{solver!r} still contains {', '.join(names)}; pass numbers.")
    condition = solver.stability
    if condition == sp.true:
        return math.inf
    parts = sorted(condition.atoms(sp.StrictLessThan), key=str)
    if condition == sp.false or not parts:
        raise OutOfDomain(f"{solver!r} is stable for no eigenvalue: it needs {condition}.")
    # Layers that contract the features touch their bound inside; rounding must not decide there.
    margins = [sp.lambdify((lam_max, lam), x.lhs - x.rhs * (1 + _TOUCH), "numpy") for x in parts]

    def stable(x: Any) -> np.ndarray:
        return np.all([margin(x, x) <= 0 for margin in margins], axis=0)

    grid = np.geomspace(1e-15, 1e15, 4001)
    broken = np.flatnonzero(~stable(grid))
    if not broken.size:
        return math.inf
    if broken[0] == 0:
        raise OutOfDomain(f"{solver!r} is stable for no eigenvalue: it needs {condition}.")
    low, high = grid[broken[0] - 1], grid[broken[0]]
    while high - low > 4e-16 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if bool(stable(middle)) else (low, middle)
    return float(high)


def _covariance(cov: Any, dim: int) -> tuple[float, np.ndarray | None]:
    """(c, None) for c I, else (1, the symmetric root)."""
    if cov is None:
        return 1.0, None
    square = covariance_square(cov, dim)
    if square.dim != dim:
        raise InvalidInput(f"cov is {square.dim} x {square.dim}, but d = {dim}.")
    if square.is_isotropic:
        return positive(float(square.scale), "cov", "1"), None
    matrix = matrix_array(square)
    values, vectors = np.linalg.eigh(matrix)
    if not np.allclose(matrix, matrix.T) or values.min() < -1e-12 * values.max():
        raise InvalidInput("cov is no covariance: pass a symmetric matrix with eigenvalues >= 0.")
    return 1.0, (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def nonnegative(value: Any, name: str) -> float:
    """One number >= 0."""
    x = number(value, name)
    if x < 0:
        raise InvalidInput(f"{name} = {x:g} is negative; pass a number >= 0.")
    return x
