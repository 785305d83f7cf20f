"""Families of solvers that a model is held against: a grid of steps, and parametrisations.

Every family has rules of the prompt's spectrum, and a number that can be fitted to the model: the
filters of descent and of Newton see their scale only times a power of the eigenvalue, so that a fit
needs no new solver. Source: derived here. Exported: `Family`, `Variant`,
`solver_families`, `given_families`, `best_variant`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import sympy as sp
from scipy.optimize import minimize_scalar

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.spectral import PowerSolver, Solver
from icltheory.symbols import frobenius, lam_max, lam_min, trace
from numeric.arrays import finite
from numeric.eigenbasis import PromptSpectra
from numeric.solver_filters import solver_residuals
from numeric.solvers import Method, run_solvers

_LAYERS = 8  # of GD++
# Scales below the largest stable one, where a fit looks first: descent at t and t + 1 steps has minima
# that are a part 1/t apart.
_OCTAVES, _PER_OCTAVE = 8, 48
_MINIMA = 20  # that are looked at closely
_MARGIN = 1.05  # by which a fitted number must lower the squared distance
_ROUNDING = 1e-18  # of relative squared distances


@dataclass(frozen=True)
class Variant:
    """One parametrisation of a family.

    label: the rule or number. grid: what the similarities are computed on, (K,). plan: solvers with
    their steps in the order of the grid, as `numeric.run_solvers` takes them. fitted: the number
    that was fitted to the model, if one was.
    """

    label: str
    grid: np.ndarray
    plan: Mapping[Method, Any]
    fitted: float | None = None

    def weights(self, X: Any, y: Any, spectra: PromptSpectra) -> np.ndarray:
        """The weights at all points of the grid, (B, P, K, d)."""
        return run_solvers(X, y, self.plan, prefixes=spectra.prefixes, spectra=spectra).weights


@dataclass(frozen=True)
class Family:
    """A name and its parametrisations; with `scaled`, also by a number that is fitted.

    scaled: (solver of scale 1, name of its scale, power p): the filter depends on scale * lam^p.
    unit: what the grid counts.
    """

    name: str
    variants: tuple[Variant, ...]
    scaled: tuple[PowerSolver, str, int] | None = None
    unit: str = "steps"


def solver_families(
    dim: int, length: int, *, feature_var: float = 1.0, penalty: float = 0.0
) -> tuple[Family, ...]:
    """The families for layers on prompts of up to `length` examples in `dim` dimensions.

    feature_var: mean variance of a feature, which sets the ranges of penalties and of online steps.
    penalty: of the Bayes ridge where labels are noisy; it adds Newton on the ridge problem.

    >>> [family.name for family in solver_families(5, 15)][:4]
    ['gradient descent', 'Newton from S', 'Newton from the identity', 'conjugate gradients']
    """
    descent, newton = _steps(2**13), _steps(28)
    first_order = (1 / trace, 1 / lam_max, 2 / (lam_min + lam_max))
    second_order = (1 / frobenius, 2 / frobenius, 2 / (lam_min**2 + lam_max**2))
    middle = penalty or length * feature_var / 16
    work = 2.0 ** (np.arange(-16, 17) / 2) / middle
    rates = 2.0 ** (np.arange(-20, 3) / 4) / ((dim + 2) * feature_var)
    start = {"start": "I"}
    families = [
        Family(
            "gradient descent",
            tuple(_variant(icl.GradientDescent(rule), descent, rule) for rule in first_order),
            (icl.GradientDescent(1), "step_size", 1),
        ),
        Family(
            "Newton from S",
            tuple(_variant(icl.IterativeNewton(rule), newton, rule) for rule in second_order),
            (icl.IterativeNewton(1), "scale", 2),
        ),
        Family(
            "Newton from the identity",
            tuple(
                _variant(icl.IterativeNewton(rule, **start), newton, rule) for rule in first_order
            ),
            (icl.IterativeNewton(1, **start), "scale", 1),
        ),
        Family(
            "conjugate gradients", (_variant(icl.ConjugateGradient(), np.arange(max(dim, 2) + 1)),)
        ),
        Family("Chebyshev", (_variant(icl.Chebyshev(lam_min, lam_max), _steps(512)),)),
        Family("GD++", (_variant(_contracting_descent(), np.arange(_LAYERS + 1)),)),
        Family(
            "ridge",
            (Variant("", work, {icl.Ridge(1 / x): None for x in work}),),
            unit="1/penalty",
        ),
        Family(
            "online descent",
            (Variant("", rates, {icl.OnlineGradientDescent(x): None for x in rates}),),
            unit="step size",
        ),
    ]
    if penalty:
        solver = icl.RidgeNewton(penalty)
        families.append(Family("Newton on ridge", (_variant(solver, newton, f"{penalty:.4g}"),)))
    return tuple(families)


def given_families(families: Any) -> tuple[Family, ...]:
    """Families from a mapping of names to (solver, steps); `InvalidInput` for anything else."""
    if not isinstance(families, Mapping) or not families:
        raise InvalidInput(
            "families is no mapping; pass for example "
            "{'descent': (icl.GradientDescent(0.02), range(40))}."
        )
    found = []
    for name, given in families.items():
        if not (isinstance(name, str) and isinstance(given, (tuple, list)) and len(given) == 2):
            raise InvalidInput(f"families[{name!r}] is no pair (solver, steps) with a name.")
        solver, steps = given
        if not isinstance(solver, Solver) or solver.is_direct:
            raise InvalidInput(
                f"families[{name!r}] has the solver {solver!r}; pass a solver with steps, such as "
                f"icl.GradientDescent(0.02)."
            )
        grid = finite(list(steps) if isinstance(steps, range) else steps, "steps")
        if grid.ndim != 1 or len(grid) < 3 or grid[0] < 0 or np.any(np.diff(grid) <= 0):
            raise InvalidInput(f"families[{name!r}]: steps must be at least 3 increasing numbers.")
        found.append(Family(name, (Variant("", grid, {solver: grid}),)))
    return tuple(found)


def best_variant(
    family: Family, spectra: PromptSpectra, targets: np.ndarray, largest: float
) -> Variant:
    """The parametrisation nearest to learners with weights U'w = targets (L, B, P, d).

    Nearest in relative squared distance, every learner at its own best step. A fitted number takes
    the place of a rule only if it is nearer by 5 %. largest: eigenvalue for which it must be stable.
    """
    if family.scaled is None and len(family.variants) == 1:
        return family.variants[0]
    flat = targets.reshape(len(targets), -1)
    flat = flat[np.any(flat != 0, axis=1)]
    if not len(flat):
        return family.variants[0]
    size = (flat**2).sum(axis=1)

    def distance(spectra_: PromptSpectra, solver: Any, grid: np.ndarray) -> float:
        share = 1 - solver_residuals(spectra_, solver, grid)
        found = np.moveaxis(share * spectra.least_squares[:, :, None], 2, 0).reshape(len(grid), -1)
        gaps = size[:, None] - 2 * flat @ found.T + (found**2).sum(axis=1)
        return float((gaps.min(axis=1) / size).mean())

    rules = [distance(spectra, next(iter(v.plan)), v.grid) for v in family.variants]
    best = family.variants[int(np.argmin(rules))]
    if family.scaled is None:
        return best
    solver, name, power = family.scaled
    grid = best.grid

    def at(log_scale: float) -> float:
        values = spectra.values * 2 ** (log_scale / power)
        return distance(replace(spectra, values=values), solver, grid)

    top = np.log2(2 / largest**power) - 1e-9
    scan = top - np.arange(_OCTAVES * _PER_OCTAVE) / _PER_OCTAVE
    values = np.array([at(x) for x in scan])
    bordered = np.concatenate([[np.inf], values, [np.inf]])
    lowest = np.flatnonzero((values <= bordered[:-2]) & (values <= bordered[2:]))
    found = [
        _minimum(at, scan[i], 1 / _PER_OCTAVE, top, 1e-4)
        for i in lowest[np.argsort(values[lowest])][:_MINIMA]
    ]
    rough, _ = min(found, key=lambda pair: pair[1])
    log_scale, least = _minimum(at, rough, 1e-3, top, 1e-11)
    if _MARGIN * max(least, _ROUNDING) >= min(rules):
        return best
    scale = 2**log_scale
    fitted = replace(solver, **{name: scale})
    words = name.replace("_", " ")
    return Variant(f"{words} {scale:.4g}, fitted", grid, {fitted: grid.astype(int)}, scale)


def _minimum(
    function: Callable[[float], float], x: float, reach: float, top: float, tolerance: float
) -> tuple[float, float]:
    """Place and value of a minimum within `reach` of x, below `top`."""
    ends = (x - reach, min(x + reach, top))
    found = minimize_scalar(function, bounds=ends, method="bounded", options={"xatol": tolerance})
    return float(found.x), float(found.fun)


def _steps(top: int, dense: int = 40) -> np.ndarray:
    """Every integer up to `dense`, then a ratio of 2^(1/4), powers of two included."""
    sparse = np.round(2.0 ** (np.arange(4 * np.log2(top) + 1) / 4)).astype(int)
    return np.union1d(np.arange(min(dense, top) + 1), sparse[sparse > dense])


def _variant(solver: Any, grid: np.ndarray, label: Any = "") -> Variant:
    return Variant(str(label), grid.astype(float), {solver: grid})


def _contracting_descent() -> icl.GDPlusPlus:
    """GD++ with the step size and the contraction that a bound of what a layer sees allows.

    x (1 - x/b)^2 is at most 4 b/27 on [0, b], so that lam_max bounds every layer.
    """
    rates = [sp.Rational(27, 4) ** layer / lam_max for layer in range(_LAYERS)]
    return icl.GDPlusPlus(rates, rates)
