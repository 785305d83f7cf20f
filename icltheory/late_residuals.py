"""Residuals after many steps: what is left are small eigenvalues, where r = exp(-c N lam^p - ...).

c and p belong to one step (2^k of them for Newton), N is their number. Serves the equivalences of
solvers and their risk after many steps. Source: derived here.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from icltheory import filters, solver_steps
from icltheory.errors import InvalidInput
from icltheory.momentum import MomentumSolver
from icltheory.solvers import GradientFlow, RidgeNewton
from icltheory.spectral import PowerSolver, Solver
from icltheory.symbols import lam, time
from icltheory.symbols import steps as STEPS


def late_exponent(solver: Any, steps: Any) -> tuple[sp.Expr, int, sp.Expr]:
    """(c, p, N): the residual after `steps` steps is exp(-c N lam^p) for small eigenvalues, N > 0."""
    factor, power, count = _exponent(solver, steps)
    if count == 0:
        raise InvalidInput(
            f"steps = {steps} leaves every residual at 1, and the law is for many steps; pass a "
            f"positive number of steps."
        )
    return factor, power, count


def _exponent(solver: Any, steps: Any) -> tuple[sp.Expr, int, sp.Expr]:
    if isinstance(solver, PowerSolver) and not isinstance(solver, RidgeNewton):
        return *filters.late_residual(solver.contraction), solver.power(steps)
    if isinstance(solver, GradientFlow):
        return sp.S.One, 1, solver_steps.flow_time(time if steps is STEPS else steps)
    if isinstance(solver, MomentumSolver):
        # The root of z^2 = A z + B that is 1 at lam = 0: implicit differentiation.
        first, second = solver.recursion
        slope = sp.diff(first + second, lam) / (2 - first)
        return sp.factor(-slope.subs(lam, 0)), 1, solver_steps.number_of_steps(steps)
    raise InvalidInput(
        f"{solver!r} has no late residual exp(-c N lam^p); pass gradient descent or flow, heavy ball, "
        f"Nesterov's method, or a Newton or hyperpower iteration."
    )


def late_series(solver: Solver, steps: Any) -> tuple[int, sp.Expr, sp.Expr]:
    """p, A, A_2 of -log r(lam)^2 = A lam^p + A_2 lam^{p+1} + ...; of one contraction, or of a flow."""
    if not isinstance(solver, (PowerSolver, GradientFlow)) or isinstance(solver, RidgeNewton):
        raise InvalidInput(
            f"{solver!r} is no power of one contraction: its late risk is not known here; pass "
            f"gradient descent or flow, iterative Newton or a hyperpower iteration."
        )
    factor, power, count = late_exponent(solver, steps)
    second = sp.S.Zero
    if isinstance(solver, PowerSolver):
        series = sp.series(-sp.log(solver.contraction), lam, 0, power + 2).removeO()
        second = 2 * count * series.coeff(lam, power + 1)
    return power, 2 * count * factor, second
