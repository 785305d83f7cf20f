"""Columns of published similarities, computed: rows of our value against the printed one.

The printed numbers are one draw of 320 prompts: their scatter, the rounding to three digits, our own
sampling error, and the scatter of a start that is drawn once make up the standard error of a row.
Every function gives a function of (prompts, seed), which `numeric.audit` lists with the conventions
that it stands for. Source: derived here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

import icltheory as icl
from icltheory.symbols import frobenius, lam_max
from numeric import published
from numeric.arrays import integer
from numeric.best_step import best_match
from numeric.compare import Comparison, compare
from numeric.eigenbasis import PromptSpectra, prompt_spectra
from numeric.montecarlo import child_seed
from numeric.published import DIGITS, DIM, LENGTH, Column
from numeric.regression_prompts import SolverPrompts, solver_prompts
from numeric.similarity import Similarity, similarity_of_errors
from numeric.solver_loops import step_solver
from numeric.solvers import Method, solver_errors

Rows = Callable[[int, np.random.SeedSequence], Comparison]

NEWTON = icl.IterativeNewton(2 / frobenius)
DESCENT = icl.GradientDescent(0.01)
SLOW_DESCENT = icl.GradientDescent(0.002)
# A start drawn uniformly from [0, 1)^d / sqrt(d) has E |w_0|^2 = 1/3, with this standard deviation.
_START, _START_SPREAD = 1 / 3, float(np.sqrt(4 / 45 / DIM))
# Late steps of Newton and gradient descent, for the ceiling that is printed for 1000 to 1300 of these.
_LATE = (19, 1300)
_CEILING = Column((19,), (published.NEWTON_CEILING,))
# One draw of 320 prompts scatters by up to 1 %, so a row can see deviations of 5 standard errors.
_REQUIRED = 0.12


def count(prompts: Any) -> int:
    """A number of prompts, at least 100."""
    return integer(prompts, "prompts", 100)


@dataclass(frozen=True)
class _Draw:
    """Prompts with their decompositions on the prefixes 0, ..., 40."""

    data: SolverPrompts
    spectra: PromptSpectra

    @property
    def zero(self) -> np.ndarray:
        """Errors of the zero predictor, (B, P)."""
        return -self.data.labels

    def errors(self, solver: Method, steps: Any = None, w0: Any = None) -> np.ndarray:
        """Errors of a solver, (B, P, K)."""
        X, y = self.data.features, self.data.labels
        return solver_errors(X, y, solver, steps, w0=w0, spectra=self.spectra).errors


@lru_cache(maxsize=2)
def _cached(prompts: int, entropy: Any, key: tuple[int, ...], kappa: float) -> _Draw:
    seed = np.random.SeedSequence(entropy, spawn_key=key)
    data = solver_prompts(DIM, LENGTH, prompts, kappa=kappa, coef_var=1, seed=seed)
    return _Draw(data, prompt_spectra(data.features, data.labels, np.arange(LENGTH)))


def _prompts(prompts: int, seed: np.random.SeedSequence, kappa: float = 1) -> _Draw:
    child = child_seed(seed, 0)
    entropy = child.entropy if isinstance(child.entropy, int) else tuple(child.entropy or ())
    return _cached(prompts, entropy, child.spawn_key, kappa)


def _similar(a: np.ndarray, b: np.ndarray, empty: bool = True, **options: Any) -> Similarity:
    return similarity_of_errors(a, b, include_empty_prefix=empty, **options)


def _rows(
    column: Column,
    similarity: Similarity,
    steps: tuple[int, ...] | None = None,
    *,
    extra: Any = 0.0,
    allowance: float = 0.0,
    **setting: Any,
) -> Comparison:
    """Our similarities, one a step of the column (or of some of its steps), against the printed."""
    ours, spread = similarity.value, similarity.per_prompt.std(axis=0, ddof=1)
    used = column.steps if steps is None else steps
    printed = [column.values[column.steps.index(step)] for step in used]
    variance = spread**2 * (1 / published.PROMPTS + 1 / len(similarity.per_prompt))
    errors = np.sqrt(variance + DIGITS**2 + np.square(extra))
    return Comparison.from_rows(
        compare({**setting, "steps": s}, float(p), e, float(r), allowance, required=_REQUIRED)
        for s, p, e, r in zip(used, ours, printed, errors, strict=True)
    )


def _with_start(
    draw: _Draw,
    seed: np.random.SeedSequence,
    solver: Method,
    steps: Any,
    measure: Callable[[np.ndarray], Similarity],
) -> tuple[Similarity, np.ndarray]:
    """Similarity of a solver's errors from a start of mean length, and its scatter with that length.

    The errors are linear in the start.
    """
    direction = np.random.default_rng(child_seed(seed, 1)).random(DIM)
    direction /= np.linalg.norm(direction)
    base = draw.errors(solver, steps)
    change = draw.errors(solver, steps, direction) - base
    low, middle, high = (
        measure(base + change * np.sqrt(_START + shift * _START_SPREAD)) for shift in (-1, 0, 1)
    )
    return middle, (high.value - low.value) / 2


# -- columns of a first layer --------------------------------------------------------------------------


def first_layer(column: Column, kappa: float) -> Rows:
    """The zero predictor against Newton from 2 S/F."""

    def rows(prompts: int, seed: np.random.SeedSequence) -> Comparison:
        draw = _prompts(prompts, seed, kappa)
        return _rows(column, _similar(draw.zero, draw.errors(NEWTON, column.steps)))

    return rows


def other_newton(column: Column, kappa: float) -> Rows:
    """The same from S/F, which is about one step behind."""

    def rows(prompts: int, seed: np.random.SeedSequence) -> Comparison:
        draw = _prompts(prompts, seed, kappa)
        errors = draw.errors(icl.IterativeNewton(1 / frobenius), (1, 2))
        return _rows(column, _similar(draw.zero, errors), (1, 2), convention="1/F")

    return rows


def descent(
    column: Column, kappa: float, solver: icl.GradientDescent, *steps: int, **setting: Any
) -> Rows:
    """The zero predictor against gradient descent from a start that is drawn once."""
    used = steps or column.steps

    def rows(prompts: int, seed: np.random.SeedSequence) -> Comparison:
        draw = _prompts(prompts, seed, kappa)
        similarity, extra = _with_start(
            draw, seed, solver, used, lambda errors: _similar(draw.zero, errors)
        )
        return _rows(column, similarity, used, extra=extra, **setting)

    return rows


def zero_start(prompts: int, seed: np.random.SeedSequence) -> Comparison:
    """The zero predictor against one gradient step from 0."""
    draw = _prompts(prompts, seed)
    similarity = _similar(draw.zero, draw.errors(DESCENT, (1,)))
    return _rows(published.DESCENT_FIRST, similarity, (1,), convention="w0 = 0")


def other_step_sizes(prompts: int, seed: np.random.SeedSequence) -> Comparison:
    """Gradient descent on conditioned prompts with 0.7 and 1.4 times the step size."""
    column, total = published.DESCENT_FIRST_KAPPA, Comparison(())
    for eta in (0.0014, 0.0028):
        rows = descent(column, 100, icl.GradientDescent(eta), 100, convention=f"eta = {eta}")
        total += rows(prompts, seed)
    return total


def conjugate(prompts: int, seed: np.random.SeedSequence) -> Comparison:
    """The zero predictor against conjugate gradients."""
    draw, column = _prompts(prompts, seed), published.CONJUGATE_FIRST
    errors = draw.errors(icl.ConjugateGradient(), column.steps)
    return _rows(column, _similar(draw.zero, errors))


def quasi_newton(prompts: int, seed: np.random.SeedSequence) -> Comparison:
    """BFGS and L-BFGS with exact line search are conjugate gradients; and those end after d steps."""
    draw, total = _prompts(prompts, seed), Comparison(())
    similarity = _similar(draw.zero, draw.errors(icl.ConjugateGradient(), (1, 2)))
    for name, column in (("BFGS", published.BFGS_FIRST), ("L-BFGS", published.LBFGS_FIRST)):
        total += _rows(column, similarity, (1, 2), convention=f"{name}, exact line search")
    printed = published.CONJUGATE_FIRST
    fall = printed.values[printed.steps.index(40)] / printed.values[printed.steps.index(20)]
    setting = {"convention": "CG constant beyond 20 steps", "steps": 40}
    return total + Comparison.from_rows([compare(setting, 1.0, fall, 2**0.5 * DIGITS / 0.5)])


# -- two solvers ---------------------------------------------------------------------------------------


def _against_descent(newton: icl.IterativeNewton, *steps: int, **setting: Any) -> Rows:
    column = published.NEWTON_AGAINST_DESCENT
    used = steps or column.steps

    def rows(prompts: int, seed: np.random.SeedSequence) -> Comparison:
        draw = _prompts(prompts, seed)
        other = draw.errors(newton, used)
        similarity, extra = _with_start(
            draw, seed, DESCENT, [50], lambda errors: _similar(errors[:, :, 0], other)
        )
        return _rows(column, similarity, used, extra=extra, **setting)

    return rows


def newton_against_descent(prompts: int, seed: np.random.SeedSequence) -> Comparison:
    """Newton against 50 gradient steps, and 19 against 1300."""
    draw = _prompts(prompts, seed)
    late = draw.errors(NEWTON, _LATE[:1])
    ceiling, spread = _with_start(
        draw, seed, DESCENT, _LATE[1:], lambda errors: _similar(errors[:, :, 0], late)
    )
    return _against_descent(NEWTON)(prompts, seed) + _rows(_CEILING, ceiling, extra=spread)


def other_against_descent(prompts: int, seed: np.random.SeedSequence) -> Comparison:
    """The ceiling from 0, and Newton on the edge of stability, whose top direction stays."""
    draw = _prompts(prompts, seed)
    late, descent = draw.errors(NEWTON, _LATE[:1]), draw.errors(DESCENT, _LATE[1:])
    from_zero = _rows(_CEILING, _similar(descent[:, :, 0], late), convention="w0 = 0")
    text = icl.IterativeNewton(2 / lam_max**2)
    edge = _against_descent(text, 9, 10, 11, convention="2/lam_max^2")
    return from_zero + edge(prompts, seed)


def neighbours(solver: icl.IterativeNewton, *steps: int, **setting: Any) -> Rows:
    """k against k + 1 Newton steps."""
    column = published.NEWTON_NEIGHBOURS
    used = steps or column.steps

    def rows(prompts: int, seed: np.random.SeedSequence) -> Comparison:
        draw = _prompts(prompts, seed)
        errors = draw.errors(solver, range(used[0], used[-1] + 2))
        pairs = _similar(errors, errors)
        k = np.arange(len(used))
        similarity = Similarity(pairs.per_prompt[:, k, k + 1], pairs.prefixes, pairs.dtype)
        return _rows(column, similarity, used, **setting)

    return rows


def matches(solver: icl.IterativeNewton, layers: slice, **setting: Any) -> Rows:
    """log2 of the gradient steps that are most similar to the Newton steps of each layer."""

    def rows(prompts: int, seed: np.random.SeedSequence) -> Comparison:
        draw = _prompts(prompts, seed)
        grid = np.unique(np.round(2 ** np.arange(0, 13.01, 0.125)))
        newton = [round(sum(ties) / 2) for ties in published.NEWTON_MATCHES[layers]]
        pairs = _similar(draw.errors(solver, newton), draw.errors(DESCENT, grid))
        ours = np.log2(best_match(pairs, grid, delta=0.0).best)
        printed = published.DESCENT_MATCHES[layers]
        # The printed step is the nearest power of two, or any of two.
        return Comparison.from_rows(
            compare(
                {**setting, "newton steps": k, "quantity": "log2 of gradient steps"},
                float(t),
                float(np.log2(ties).mean()),
                (1 + np.log2(ties[1] / ties[0])) / 12**0.5,
                required=0.5,
            )
            for k, t, ties in zip(newton, ours, printed, strict=True)
        )

    return rows


# -- rounding ------------------------------------------------------------------------------------------


def single_precision_errors(data: SolverPrompts, steps: Any) -> np.ndarray:
    """Errors of Newton's recursion from 2 S/F run in float32 on every prefix, (B, P, K)."""
    X, y = data.features, data.labels
    errors = np.empty((*y.shape, len(steps)))
    errors[:, 0] = -y[:, :1]
    for n in range(1, y.shape[1]):
        weights = step_solver(NEWTON, X[:, :n], y[:, :n], steps, dtype=np.float32)
        errors[:, n] = np.einsum("bkd,bd->bk", weights, X[:, n]) - y[:, n, None]
    return errors


def last_layer(precision: str, **setting: Any) -> Rows:
    """A last layer is close to least squares: 0.2 % for isotropic prompts, 0.8 % at kappa = 100."""
    columns = [(1, published.NEWTON_LAST, 0.002), (100, published.NEWTON_LAST_KAPPA, 0.008)]
    steps = tuple(range(17, 24))
    if precision == "float64":
        columns, steps = columns[1:], (23,)

    def rows(prompts: int, seed: np.random.SeedSequence) -> Comparison:
        total = Comparison(())
        for kappa, column, allowance in columns:
            draw = _prompts(prompts, seed, kappa)
            least = draw.errors(icl.OrdinaryLeastSquares())[:, :, 0]
            if precision == "float64":
                newton = draw.errors(NEWTON, steps)
            else:
                newton = single_precision_errors(draw.data, steps)
            similarity = _similar(least, newton)
            total += _rows(column, similarity, steps, allowance=allowance, kappa=kappa, **setting)
        return total

    return rows
