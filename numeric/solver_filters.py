"""Residual filters of solvers at the eigenvalues of prompts, in float64 without overflow.

The specifications of `icltheory` give the contraction or recursion of a solver as an expression; here
it becomes numbers for many steps at once: powers through log1p, recursions with two terms by
products of their matrices, Chebyshev's polynomials through cosh. Parameters that are rules (lam_max,
frobenius, ...) are evaluated for every prompt and prefix. Source: derived here.
Exported: `solver_residuals`, `conditional_risk`, `coordinates`, `require_convergence`.
"""

from __future__ import annotations

import math
from functools import lru_cache, singledispatch
from typing import Any

import numpy as np
import sympy as sp

from icltheory.chebyshev import Chebyshev
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.gd_plus_plus import GDPlusPlus
from icltheory.krylov import ConjugateGradient
from icltheory.momentum import MomentumSolver
from icltheory.solvers import (
    GradientFlow,
    MatrixIteration,
    OrdinaryLeastSquares,
    PowerSolver,
    Ridge,
    RidgeNewton,
    Solver,
)
from icltheory.symbols import lam
from numeric.arrays import nonnegative
from numeric.eigenbasis import PromptSpectra, query_covariance
from numeric.krylov import conjugate_gradient_solutions

# A rule such as 2/frobenius puts the only eigenvalue of a prefix exactly on the edge of stability;
# rounding must not decide which side it is on.
_EDGE = 64
_MOST_DOUBLINGS = 1024


def solver_residuals(spectra: PromptSpectra, solver: Solver, steps: Any = 0) -> np.ndarray:
    """r(lambda) of a spectral solver at all eigenvalues, (B, P, K, d) for K numbers of steps.

    steps: integers >= 0 (times for `GradientFlow`), (K,); direct methods have K = 1 without them.

    Errors: `OutOfDomain` if the steps diverge on a prefix, naming how many and the bound;
    `InvalidInput` for a solver whose filter depends on the labels.

    >>> import icltheory as icl
    >>> from numeric.eigenbasis import prompt_spectra
    >>> spectra = prompt_spectra(np.array([[[3.0, 0.0], [0.0, 1.0]]]), [[3.0, 2.0]], [2])
    >>> solver_residuals(spectra, icl.GradientDescent(0.1), [0, 1, 2])
    array([[[[1.  , 1.  ],
             [0.9 , 0.1 ],
             [0.81, 0.01]]]])
    """
    require_convergence(solver, spectra)
    return _residuals(solver, spectra, np.atleast_1d(np.asarray(steps, dtype=float)))


@singledispatch
def _residuals(solver: Any, spectra: PromptSpectra, steps: np.ndarray) -> np.ndarray:
    raise InvalidInput(
        f"{type(solver).__name__} has no filter that depends on the spectrum alone; run_solvers has "
        f"its weights."
    )


# -- stability -----------------------------------------------------------------------------------------


def require_convergence(solver: Any, spectra: PromptSpectra) -> None:
    """Refuse a solver whose steps diverge on a prompt: how many, the worst of them, and the bound."""
    reach, bound = _reach(solver, spectra)
    if reach is None:
        return
    worst = reach.max(axis=-1)
    bad = worst > bound * (1 + _EDGE * float(np.finfo(reach.dtype).eps))
    if not bad.any():
        return
    prompt, column = np.unravel_index(np.argmax(worst), worst.shape)
    largest = spectra.values[prompt, column].max()
    condition = solver.stability
    needs = "" if condition in (sp.true, sp.false) else f". It needs {condition}"
    raise OutOfDomain(
        f"{solver!r} diverges on {int(bad.any(axis=1).sum())} of {len(bad)} prompts "
        f"({int(bad.sum())} of {bad.size} prefixes){needs}; the worst is prompt "
        f"{prompt} at n = {spectra.prefixes[column]} with lam_max = {largest:.6g}. Take a smaller "
        f"step, or a rule of the prompt's spectrum such as 1/icl.symbols.lam_max."
    )


@singledispatch
def _reach(solver: Any, spectra: PromptSpectra) -> tuple[np.ndarray | None, float]:
    """A number an eigenvalue, and the bound that it must not exceed."""
    return None, 0.0


@_reach.register
def _reach_of_power(solver: PowerSolver, spectra: PromptSpectra) -> tuple[np.ndarray, float]:
    return spectra.evaluate(_reached(solver)), 2.0


@_reach.register
def _reach_of_momentum(solver: MomentumSolver, spectra: PromptSpectra) -> tuple[np.ndarray, float]:
    # Jury: both roots of z^2 - A z - B lie in the unit disk iff |A| <= 1 - B and |B| <= 1.
    first, second = (spectra.evaluate(x) for x in _rule(solver))
    first, second = (np.broadcast_to(x, spectra.values.shape) for x in (first, second))
    return np.maximum(np.abs(first) + second, np.abs(second)), 1.0


@_reach.register
def _reach_of_chebyshev(solver: Chebyshev, spectra: PromptSpectra) -> tuple[np.ndarray, float]:
    lower, upper = spectra.evaluate(solver.lower), spectra.evaluate(solver.upper)
    if np.any(lower > upper):
        raise OutOfDomain(
            f"{solver!r}: lower exceeds upper on {int((lower > upper).sum())} of {lower.size} prefixes."
        )
    return spectra.values / (lower + upper), 1.0


# -- powers of a contraction -----------------------------------------------------------------------


@_residuals.register
def _power(solver: PowerSolver, spectra: PromptSpectra, steps: np.ndarray) -> np.ndarray:
    reach = spectra.evaluate(_reached(solver))
    return _powers(reach, _exponents(solver, tuple(steps)))


@_residuals.register
def _ridge_newton(solver: RidgeNewton, spectra: PromptSpectra, steps: np.ndarray) -> np.ndarray:
    reach = spectra.evaluate(_reached(solver))
    powers = _powers(reach, _exponents(solver, tuple(steps)))
    share = spectra.evaluate(lam / (lam + solver.penalty))[:, :, None, :]
    powers *= share
    powers += 1 - share
    return powers


@lru_cache(maxsize=256)
def _reached(solver: PowerSolver) -> sp.Expr:
    return 1 - solver.contraction


@lru_cache(maxsize=256)
def _exponents(solver: PowerSolver, steps: tuple[float, ...]) -> tuple[int, ...]:
    # Of powers order^k beyond float64 only their parity is used.
    most = _MOST_DOUBLINGS if isinstance(solver, MatrixIteration) else math.inf
    return tuple(int(solver.power(int(min(k, most)))) for k in steps)


def _powers(reach: np.ndarray, exponents: tuple[int, ...]) -> np.ndarray:
    """(1 - x)^N for 0 <= x <= 2 and every N, (B, P, K, d)."""
    reach = np.where(np.abs(reach - 2) <= _EDGE * np.finfo(reach.dtype).eps, 2.0, reach)
    upper = reach > 1
    with np.errstate(divide="ignore"):
        logs = np.log1p(np.where(upper, reach - 2, -reach))
    logs = np.maximum(logs, -1e30).astype(reach.dtype)  # log 0: its multiple by 0 steps must be 0
    # Exponents such as 2^60 exceed float32 and int64 products, not float64.
    factors = np.array([float(min(n, 10**300)) for n in exponents])
    with np.errstate(over="ignore"):
        out = logs[:, :, None, :] * factors[:, None]
        out = np.exp(out, out=out).astype(reach.dtype, copy=False)
    for k, n in enumerate(exponents):
        if n % 2:
            np.negative(out[:, :, k], out=out[:, :, k], where=upper)
    return out


# -- flow and direct methods -----------------------------------------------------------------------


@_residuals.register
def _flow(solver: GradientFlow, spectra: PromptSpectra, steps: np.ndarray) -> np.ndarray:
    return np.exp(-spectra.values[:, :, None, :] * steps[:, None].astype(spectra.values.dtype))


@_residuals.register
def _ridge(solver: Ridge, spectra: PromptSpectra, steps: np.ndarray) -> np.ndarray:
    penalty = spectra.evaluate(sp.sympify(solver.penalty))
    return (penalty / (spectra.values + penalty))[:, :, None, :]


@_residuals.register
def _least_squares(
    solver: OrdinaryLeastSquares, spectra: PromptSpectra, steps: np.ndarray
) -> np.ndarray:
    return (spectra.values == 0).astype(spectra.values.dtype)[:, :, None, :]


# -- layers that contract the features -----------------------------------------------------------------


@_residuals.register
def _gd_plus_plus(solver: GDPlusPlus, spectra: PromptSpectra, steps: np.ndarray) -> np.ndarray:
    if steps.max() > len(solver.step_sizes):
        raise InvalidInput(
            f"{solver!r} has {len(solver.step_sizes)} layers; steps = {int(steps.max())} is beyond."
        )
    seen, residual = spectra.values, np.ones_like(spectra.values)
    out = np.empty((*seen.shape[:2], len(steps), spectra.dim), seen.dtype)
    out[:, :, steps == 0] = 1
    layers = zip(solver.step_sizes, solver.contractions, strict=True)
    for layer, (step, contraction) in enumerate(layers, start=1):
        residual = residual * (1 - spectra.evaluate(step) * seen)
        out[:, :, steps == layer] = residual[:, :, None]
        seen = seen * (1 - spectra.evaluate(contraction) * seen) ** 2
    return out


# -- first-order methods with memory -------------------------------------------------------------------


@_residuals.register
def _momentum(solver: MomentumSolver, spectra: PromptSpectra, steps: np.ndarray) -> np.ndarray:
    first, second = (spectra.evaluate(x) for x in _rule(solver))
    first, second = (np.broadcast_to(x, spectra.values.shape) for x in (first, second))
    out = np.empty((*spectra.values.shape[:2], len(steps), spectra.dim), spectra.values.dtype)
    new, old, reached = np.ones_like(first), np.ones_like(first), 0
    for count in np.unique(steps):
        jump = int(count) - reached
        if jump:
            ahead = first * new + second * old
            # z^jump = p z + q modulo z^2 - A z - B takes r_t to r_{t+jump} = p r_{t+1} + q r_t.
            p, q = _modular_power(first, second, jump - 1)
            new, old = p * (first * ahead + second * new) + q * ahead, p * ahead + q * new
        reached = int(count)
        out[:, :, steps == count] = new[:, :, None]
    return out


@lru_cache(maxsize=256)
def _rule(solver: MomentumSolver) -> tuple[sp.Expr, sp.Expr]:
    return solver.recursion


def _modular_power(first: np.ndarray, second: np.ndarray, power: int) -> tuple[Any, Any]:
    """(p, q) with z^power = p z + q modulo z^2 - first z - second, by squaring."""
    p, q = np.zeros_like(first), np.ones_like(first)
    for bit in bin(power)[2:]:
        square = p * p
        p, q = square * first + 2 * p * q, square * second + q * q
        if bit == "1":
            p, q = p * first + q, p * second
    return p, q


@_residuals.register
def _chebyshev(solver: Chebyshev, spectra: PromptSpectra, steps: np.ndarray) -> np.ndarray:
    lower, upper = spectra.evaluate(solver.lower), spectra.evaluate(solver.upper)
    values = spectra.values
    # An interval of one point (a prefix of one example) is as short as rounding allows.
    width = np.maximum(upper - lower, np.finfo(values.dtype).eps * upper)
    outside = np.maximum(np.maximum(lower - values, values - upper), 0.0) * (2 / width)
    growth, start = _arccosh(outside), _arccosh(2 * lower / width)
    angle = 2 * np.arcsin(np.sqrt(np.clip((values - lower) / width, 0.0, 1.0)))
    t = steps[:, None].astype(values.dtype)
    # T_t(x)/T_t(x_0) = cos(t angle) cosh(t growth)/cosh(t start): one of the first two is +-1.
    decay = t * start[:, :, None, :]
    out = np.cos(t * angle[:, :, None, :])
    out *= 2 * np.exp(-decay) / (1 + np.exp(-2 * decay))
    np.copyto(out, 1.0, where=(values == 0)[:, :, None, :])
    beyond = (growth > 0) & (values > 0)
    if beyond.any():
        prompt, prefix, direction = np.nonzero(beyond)
        rise, fall = t.T * growth[beyond][:, None], decay[prompt, prefix, :, 0]
        value = np.exp(rise - fall) * (1 + np.exp(-2 * rise)) / (1 + np.exp(-2 * fall))
        odd = (values > upper)[beyond][:, None] & (steps % 2 == 1)
        out[prompt, prefix, :, direction] = np.where(odd, -value, value)
    return out


def _arccosh(excess: np.ndarray) -> np.ndarray:
    """arccosh(1 + excess), exact for small excess."""
    return np.log1p(excess + np.sqrt(excess * (2 + excess)))


# -- risk given the examples ---------------------------------------------------------------------------


def conditional_risk(
    spectra: PromptSpectra,
    solver: Solver,
    steps: Any = 0,
    *,
    cov: Any = None,
    noise_var: float = 0.0,
) -> np.ndarray:
    """Risk of a spectral solver given the examples' features, averaged over all else, (B, P, K).

    E [x.(w_hat - w*)]^2 over w* ~ N(0, I/d), label noise and a fresh query x ~ N(0, Sigma), from 0:
    tr(r Sigma r)/d + noise_var tr(q^2 S Sigma). Its mean over prompts is the expected risk; with far
    less scatter than errors on single queries it also tells the first step below an accuracy.

    cov: Sigma, (d, d) or (B, d, d); `None` is the identity. Errors: as in `solver_residuals`.
    Source: derived here.

    >>> import icltheory as icl
    >>> from numeric.eigenbasis import prompt_spectra
    >>> spectra = prompt_spectra(np.array([[[3.0, 0.0], [0.0, 1.0]]]), [[3.0, 2.0]], [2])
    >>> conditional_risk(spectra, icl.GradientDescent(0.1), [1]).round(4)
    array([[[0.41]]])
    """
    noise = nonnegative(noise_var, "noise_var")
    residual = solver_residuals(spectra, solver, steps)
    share = np.ones_like(spectra.values)
    if cov is not None:
        covariance = query_covariance(cov, len(spectra.values), spectra.dim)
        share = np.einsum("bpij,bpij->bpj", np.matmul(covariance, spectra.vectors), spectra.vectors)
    risk = np.einsum("bpkd,bpd->bpk", residual**2, share) / spectra.dim
    if noise:
        inverse = np.divide(1, spectra.values, out=np.zeros_like(share), where=spectra.values > 0)
        risk += noise * np.einsum("bpkd,bpd->bpk", (1 - residual) ** 2, share * inverse)
    return risk


# -- weights in the eigenbasis -------------------------------------------------------------------------


def coordinates(
    solver: Any, spectra: PromptSpectra, steps: np.ndarray, start: np.ndarray | None = None
) -> np.ndarray:
    """Weights in the eigenbasis, U'w_hat (B, P, K, d), from U'w0 (B, P, d) or 0."""
    if isinstance(solver, ConjugateGradient):
        if start is None:
            return conjugate_gradient_solutions(spectra.values, spectra.moments, steps)
        shifted = spectra.moments - spectra.values * start
        moved = conjugate_gradient_solutions(spectra.values, shifted, steps)
        return moved + start[:, :, None, :]
    residual = solver_residuals(spectra, solver, steps)
    solution = spectra.least_squares[:, :, None, :]
    if start is None:
        np.subtract(1, residual, out=residual)
        residual *= solution
        return residual
    residual *= start[:, :, None, :] - solution
    residual += solution
    return residual
