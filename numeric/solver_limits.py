"""Risks of solvers where n and d are large, and where the steps are many, as numbers.

The limit risk for d/n -> gamma is an integral over the Marchenko-Pastur law; the law of many steps has
constants that depend on the other eigenvalues where a parameter is a rule of the spectrum.
Source: derived here. Exported: `solver_risk_limit`, `late_solver_risk`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import sympy as sp

import icltheory.solver_limits as limits
from icltheory import checks
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.solvers import GradientFlow, OrdinaryLeastSquares, Solver
from icltheory.symbols import frobenius, lam_max, trace
from icltheory.symbols import n as length_symbol
from numeric.arrays import integer, positive
from numeric.montecarlo import Estimate, Seed, Streaming, seed_sequence
from numeric.spectra import eigenvalue_batches, marchenko_pastur_quadrature, refined, sizes
from numeric.spectral_risk import (
    SolverRisk,
    filter_values,
    nonnegative,
    shaped,
    stable_edge,
    step_counts,
)


def solver_risk_limit(
    solver: Solver, steps: Any = None, *, gamma: float, noise_var: float = 0.0
) -> SolverRisk:
    """Limit of the risk for n, d -> infinity with d/n -> gamma, by quadrature over its spectrum.

    solver: parameters are powers of `icl.symbols.n` that cancel the growth of S, such as
    `GradientDescent(0.25/n)`, `IterativeNewton(c/n**2)`, `Ridge(c*n)`. Other arguments as for
    `numeric.solver_risk`; for `GradientFlow`, `steps` is the time times n. Errors: `InvalidInput`, `OutOfDomain` where the steps diverge.

    >>> import icltheory as icl
    >>> from icltheory.symbols import n
    >>> solver_risk_limit(icl.GradientDescent(0.25 / n), [10, 1000], gamma=1.0).value.round(6)
    array([0.244771, 0.025223])
    """
    counts = step_counts(solver, steps)
    ratio, noise = positive(gamma, "gamma", "0.5"), nonnegative(noise_var, "noise_var")
    if isinstance(solver, OrdinaryLeastSquares) and noise and ratio == 1:
        raise OutOfDomain("at gamma = 1 the risk of least squares with label noise is infinite.")
    one = solver._substituted({length_symbol: sp.S.One})
    two = solver._substituted({length_symbol: sp.Integer(2)})
    points = np.array([0.5, 1.0]) / 8
    if solver.data_symbols or not (
        isinstance(solver, GradientFlow)
        or np.allclose(
            filter_values(one, counts, points), filter_values(two, counts, 2 * points), rtol=1e-12
        )
    ):
        raise InvalidInput(
            f"the filter of {solver!r} does not keep its shape as n grows; use step sizes c/n, Newton "
            f"scales c/n**2 (start 'S'), penalties c*n with icl.symbols.n."
        )

    def at(level: int) -> Any:
        rule = marchenko_pastur_quadrature(ratio, level)
        residual = filter_values(one, counts, rule.values)
        errors = residual**2 + noise * ratio * (1 - residual) ** 2 / rule.values
        return rule.null + rule.sum(errors)

    edge, top = stable_edge(one), (1 + math.sqrt(ratio)) ** 2
    if top > edge:
        raise OutOfDomain(
            f"the eigenvalues of S/n reach {top:.6g}, but {solver!r} is stable up to {edge:.6g}."
        )
    average = refined(at)
    return shaped(SolverRisk(average.value, average.error, False, 0.0, "stable event"), steps)


def late_solver_risk(
    solver: Solver, steps: Any, *, n: int, d: int, samples: int = 20_000, seed: Seed = 0
) -> Estimate:
    """The leading law of `icl.late_solver_risk` for parameters that are rules of the whole spectrum.

    A rule such as 1/frobenius is averaged over the other eigenvalues, which are those of a Wishart
    matrix with sizes min(n, d) - 1 and max(n, d) + 1. Without rules the law is exact (error 0).
    Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> law = late_solver_risk(icl.IterativeNewton(1 / icl.symbols.frobenius), 36, n=20, d=20)
    >>> bool(abs(law.value - 2.991e-3) < 5e-7 + 5 * law.standard_error)
    True
    """
    length, dim = sizes(n, d)
    law = limits.late_solver_risk(solver, checks.scalar(steps, "steps"), length, dim, order=1)
    names = set(solver.data_symbols)
    if not names:
        return Estimate(float(law), 0.0, 0)
    count, most = min(length, dim), max(length, dim)
    if names - {frobenius, lam_max, trace} or count == 1:
        raise InvalidInput(
            "a rule with lam_min, or a single eigenvalue, has no law of this kind: the rule itself "
            "follows the small eigenvalue."
        )
    function = sp.lambdify((frobenius, lam_max, trace), law.expr, "numpy")
    total = integer(samples, "samples", 2)
    stream = Streaming()
    rng = np.random.default_rng(seed_sequence(seed))
    for values in eigenvalue_batches(most + 1, count - 1, total, rng):
        largest = values[:, -1]
        stream.add(function(np.sqrt((values**4).sum(axis=1)), largest, values.sum(axis=1)))
    return stream.estimate()
