"""Solvers of least squares as spectral filters: gradient descent, Newton, ridge, least squares.

S = X'X is not divided by n, and step sizes are for S. Every object holds its update rule in one
eigenvalue of S; `Solver` says what is derived from it. Exported: `GradientDescent`, `GradientFlow`,
`IterativeNewton`, `HyperPower`, `RidgeNewton`, `Ridge`, `OrdinaryLeastSquares`, and `Solver`. Methods
with a momentum are in `momentum`, conjugate gradients in `krylov`, GD++ in `gd_plus_plus`, online
descent, which is no filter, in `online_descent`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import sympy as sp

from icltheory import checks, filters, solver_steps
from icltheory.errors import InvalidInput
from icltheory.spectral import PowerSolver as PowerSolver
from icltheory.spectral import Solver as Solver
from icltheory.spectral import rule_recursion
from icltheory.symbols import accuracy, lam, lam_max, lam_min

_START = "start = {!r} is unknown; pass 'S' for M_0 = scale * S or 'I' for M_0 = scale * identity."


# -- first order ---------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class GradientDescent(PowerSolver):
    """Gradient descent from w_0: w <- w - step_size (S w - X'y).

    step_size: positive; for S without 1/n. The default is the best one for the prompt's spectrum.
    Source: derived here.

    >>> from icltheory.symbols import lam, steps
    >>> GradientDescent(0.1).residual_filter(steps)
    (1 - lam/10)**steps
    >>> GradientDescent(0.1).solution_polynomial(2)
    (1/5, -1/100)
    >>> GradientDescent(0.1).stability, GradientDescent().optimal(1, 10).step_size
    (lam_max/10 < 2, 2/11)
    """

    step_size: Any = 2 / (lam_min + lam_max)
    description: ClassVar[str] = "gradient descent"
    _scale_name: ClassVar[str] = "step_size"

    def __post_init__(self) -> None:
        solver_steps.set_positive(self, "step_size", "0.01")

    def update(self, new: Any, old: Any, rhs: Any) -> Any:
        """The next iterate from the last two, in an eigendirection of S."""
        return new - self.step_size * (lam * new - rhs)

    @property
    def recursion(self) -> tuple[sp.Expr, sp.Expr]:
        """(A, B) of r_{t+1} = A r_t + B r_{t-1}, r_{-1} = r_0 = 1."""
        return rule_recursion(self)

    @property
    def contraction(self) -> sp.Expr:
        """The factor 1 - step_size * lam of one step."""
        return self.recursion[0]

    def _power(self, steps: sp.Expr) -> sp.Expr:
        return steps

    def _steps_of_power(self, power: int) -> int:
        return power

    def _steps_at_rate(self, rate: sp.Expr, growth: sp.Expr) -> sp.Expr:
        return sp.log(1 / accuracy) / rate


@dataclass(frozen=True, repr=False)
class GradientFlow(Solver):
    """The flow dw/dtau = X'y - S w, gradient descent with small steps; `steps` is the time tau >= 0.

    >>> from icltheory.symbols import tau
    >>> GradientFlow().residual_filter(tau)
    exp(-lam*tau)
    >>> GradientFlow().steps_to(1e-6, 2, 10)
    log(1000000)/2
    """

    description: ClassVar[str] = "gradient flow"

    def _steps(self, steps: Any) -> sp.Expr:
        return solver_steps.flow_time(steps)

    def _residual(self, steps: sp.Expr) -> sp.Expr:
        small = sp.Dummy("eta", positive=True)
        rate = sp.diff(GradientDescent(small).contraction, small)  # dr/dtau = rate * r
        return sp.exp(rate * steps)

    def _solution(self, steps: sp.Expr) -> sp.Expr:
        quotient = (1 - self._residual(steps)) / lam
        return sp.Piecewise((steps, sp.Eq(lam, 0)), (quotient, True))

    def worst_residual(self, steps: Any, lower: Any, upper: Any) -> sp.Expr:
        """As for every solver; at the smallest eigenvalue."""
        lower, _ = solver_steps.interval(lower, upper)
        return self.residual_filter(steps).subs(lam, lower)

    def steps_to(self, accuracy: Any, lower: Any, upper: Any) -> sp.Expr:
        """The time with max |r| = accuracy on [lower, upper]: log(1/accuracy)/lower."""
        lower, _ = solver_steps.interval(lower, upper)
        return sp.log(1 / solver_steps.accuracy_below_one(accuracy)) / lower


# -- matrix iterations ---------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class MatrixIteration(PowerSolver):
    """M <- M (1 + E + ... + E^{p-1}), E = 1 - S M, and w = M X'y: the residual becomes its power."""

    def _start_power(self) -> int:
        return 1 if getattr(self, "start", "S") == "I" else 2

    def update(self, matrix: Any, shifted: Any) -> Any:
        """The next M from M, in an eigendirection of S (or of S + penalty)."""
        raise NotImplementedError

    def _power(self, steps: sp.Expr) -> sp.Expr:
        return _order(self) ** steps

    def _steps_of_power(self, power: int) -> int:
        steps, reached = 0, 1
        while reached < power:
            steps, reached = steps + 1, reached * _order(self)
        return steps

    def _steps_at_rate(self, rate: sp.Expr, growth: sp.Expr) -> sp.Expr:
        power = sp.log(1 / accuracy) / rate
        return sp.log(power) / sp.log(_order(self))

    @property
    def contraction(self) -> sp.Expr:
        """1 - lam M_0, which the steps raise to powers."""
        return 1 - getattr(self, "scale") * lam ** self._start_power()  # noqa: B009


@lru_cache(maxsize=256)
def _order(solver: MatrixIteration) -> int:
    """p of E <- E^p, from the update rule."""
    return filters.residual_order(solver.update)


def _set_scale(solver: Any) -> None:
    if solver.start not in ("S", "I"):
        raise InvalidInput(_START.format(solver.start))
    if solver.scale is None:
        power = 1 if solver.start == "I" else 2
        object.__setattr__(solver, "scale", 2 / (lam_min**power + lam_max**power))
    solver_steps.set_positive(solver, "scale", "0.01")


@dataclass(frozen=True, repr=False)
class IterativeNewton(MatrixIteration):
    """Newton-Schulz: M <- 2 M - M S M, w_k = M_k X'y, from M_0 = scale * S or scale * identity.

    Parameters
    ----------
    scale: positive, of units lam^-2 ("S") or lam^-1 ("I"); rules such as `1/icl.symbols.frobenius`.
        The default is the best one for the prompt's spectrum.
    start: "S" or "I". Step k counts the applications of the rule after M_0.

    Source: Schulz (1933), Fu et al. (arXiv 2310.17086).

    >>> from icltheory.symbols import steps, frobenius
    >>> IterativeNewton(0.1).residual_filter(steps)
    (1 - lam**2/10)**(2**steps)
    >>> IterativeNewton(0.1, start="I").residual_filter(3)
    (1 - lam/10)**8
    >>> IterativeNewton(1 / frobenius).stability
    lam_max**2/frobenius < 2
    """

    scale: Any = None
    start: str = "S"
    description: ClassVar[str] = "iterative Newton"

    def __post_init__(self) -> None:
        _set_scale(self)

    def update(self, matrix: Any, shifted: Any) -> Any:
        """2 M - M S M, in an eigendirection."""
        return 2 * matrix - matrix * shifted * matrix


@dataclass(frozen=True, repr=False)
class HyperPower(MatrixIteration):
    """The hyperpower iteration of an order p >= 2, M <- M (1 + E + ... + E^{p-1}); p = 2 is Newton.

    scale, start: M_0 as in `IterativeNewton`.

    >>> from icltheory.symbols import steps
    >>> HyperPower(3, 0.1).residual_filter(steps)
    (1 - lam/10)**(3**steps)
    """

    order: Any
    scale: Any = None
    start: str = "I"
    description: ClassVar[str] = "hyperpower iteration"

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", checks.integer(self.order, "order", 2, "3"))
        _set_scale(self)

    def update(self, matrix: Any, shifted: Any) -> Any:
        """M (1 + E + ... + E^{p-1}), in an eigendirection."""
        return matrix * sum((1 - shifted * matrix) ** j for j in range(self.order))


@dataclass(frozen=True, repr=False)
class RidgeNewton(MatrixIteration):
    """Newton on S + penalty from M_0 = scale * (S + penalty): it tends to ridge regression.

    `worst_residual` and `steps_to` refer to the distance from ridge, relative to the ridge solution.

    >>> RidgeNewton(1, 0.1).residual_polynomial(0)
    (1, -1/10, -1/10)
    """

    penalty: Any
    scale: Any = None
    description: ClassVar[str] = "iterative Newton on the ridge problem"

    def __post_init__(self) -> None:
        solver_steps.set_positive(self, "penalty", "0.25")
        if self.scale is None:
            ends = (lam_min + self.penalty) ** 2 + (lam_max + self.penalty) ** 2
            object.__setattr__(self, "scale", 2 / ends)
        solver_steps.set_positive(self, "scale", "0.01")

    def update(self, matrix: Any, shifted: Any) -> Any:
        """2 M - M (S + penalty) M, in an eigendirection."""
        return 2 * matrix - matrix * shifted * matrix

    @property
    def contraction(self) -> sp.Expr:
        """1 - scale * (lam + penalty)^2, which the steps raise to powers."""
        return 1 - self.scale * (lam + self.penalty) ** 2

    def _residual(self, steps: sp.Expr) -> sp.Expr:
        return 1 - lam * self._solution(steps)

    def _solution(self, steps: sp.Expr) -> sp.Expr:
        power = self._power(steps)
        if not steps.is_Integer:
            return (1 - self.contraction**power) / (lam + self.penalty)
        first = self.scale * (lam + self.penalty)
        return first * filters.geometric_sum(self.contraction, int(power))

    def _build_polynomial(self, steps: int) -> sp.Poly:
        reached = 1 - filters.as_polynomial(self.contraction) ** int(self._power(sp.Integer(steps)))
        shifted = sp.Poly(lam + self.penalty, lam, domain=reached.domain)
        return 1 - sp.Poly(lam, lam, domain=reached.domain) * reached.exquo(shifted)

    def _decay_rate(self) -> sp.Expr:
        raise InvalidInput(
            "the steps of Newton on the ridge problem depend on the penalty too: they are those of "
            "IterativeNewton at the condition number (upper + penalty)/(lower + penalty)."
        )


# -- direct methods ------------------------------------------------------------------------------


@dataclass(frozen=True, repr=False)
class Ridge(Solver):
    """Ridge regression: (S + penalty) w = X'y, penalty > 0.

    >>> Ridge(2).residual_filter(), Ridge(2).solution_filter()
    (2/(lam + 2), 1/(lam + 2))
    """

    penalty: Any
    description: ClassVar[str] = "ridge regression"
    is_direct: ClassVar[bool] = True

    def __post_init__(self) -> None:
        solver_steps.set_positive(self, "penalty", "0.25")

    def _residual(self, steps: sp.Expr) -> sp.Expr:
        return sp.factor(1 - lam * self._solution(steps))

    def _solution(self, steps: sp.Expr) -> sp.Expr:
        weight = sp.Dummy("w")
        return sp.solve((lam + self.penalty) * weight - 1, weight)[0]


@dataclass(frozen=True, repr=False)
class OrdinaryLeastSquares(Solver):
    """Least squares; for n < d the solution of minimum norm.

    >>> OrdinaryLeastSquares().residual_filter()
    Piecewise((1, Eq(lam, 0)), (0, True))
    """

    description: ClassVar[str] = "ordinary least squares"
    is_direct: ClassVar[bool] = True

    def _residual(self, steps: sp.Expr) -> sp.Expr:
        return sp.Piecewise((sp.S.One, sp.Eq(lam, 0)), (sp.S.Zero, True))

    def _solution(self, steps: sp.Expr) -> sp.Expr:
        return sp.Piecewise((sp.S.Zero, sp.Eq(lam, 0)), (1 / lam, True))
