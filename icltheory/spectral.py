"""What solvers of least squares share as spectral filters: w_hat = q(S) X'y + r(S) w_0.

A solver holds its update rule, once, as a function in one eigenvalue lam of S = X'X (not divided by
n). Its residual filter r, solution filter q = (1 - r)/lam, degree, stability range, optimal parameters
and step counts are derived from the rule. On the null space of S every r is 1. Exported: `Solver`;
`PowerSolver` for the methods whose residual is a power of one factor.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, ClassVar, Self

import sympy as sp

from icltheory import checks, filters, solver_steps
from icltheory.errors import InvalidInput
from icltheory.formula import Formula
from icltheory.symbols import frobenius, lam, lam_max, lam_min, trace

MAX_DEGREE = 4096
_SPECTRUM = (lam_min, lam_max, trace, frobenius)


@dataclass(frozen=True)
class Solver:
    """A method whose steps are functions of S: what all solvers share.

    Parameters of a solver are positive numbers or expressions. Rules that depend on the prompt are
    expressions in the spectrum's symbols of `icltheory.symbols`: `lam_min`, `lam_max` (smallest
    nonzero and largest eigenvalue of S), `trace`, and `frobenius` = ||S^2||_F; `at_spectrum` puts
    their values in. Solvers are immutable, hashable and picklable. Errors: `InvalidInput`.
    """

    description: ClassVar[str] = ""
    is_direct: ClassVar[bool] = False  # no steps: the filter is the same after any number
    reads_labels: ClassVar[bool] = False  # the filter depends on X'y beside the spectrum

    # -- filters ---------------------------------------------------------------------------------

    def residual_filter(self, steps: Any = None) -> sp.Expr:
        """r(lam) after `steps` steps, an expression in lam.

        steps: an integer >= 0, or an integer symbol; none for direct methods.
        """
        return self._residual(self._steps(steps))

    def solution_filter(self, steps: Any = None) -> sp.Expr:
        """q(lam) = (1 - r)/lam after `steps` steps, without the division by lam for integer steps.

        A symbolic number of steps leaves the quotient.
        """
        return self._solution(self._steps(steps))

    def residual_polynomial(self, steps: Any = None) -> tuple[sp.Expr, ...] | None:
        """Coefficients (c_0 = 1, c_1, ...) of r in lam after an integer number of steps; exact.

        None where r is no polynomial. `InvalidInput` above degree 4096.
        """
        named, values = self._named()
        polynomial = named._polynomial(steps)
        if polynomial is None:
            return None
        return tuple(c.xreplace(values) for c in filters.coefficients(polynomial))

    def solution_polynomial(self, steps: Any = None) -> tuple[sp.Expr, ...] | None:
        """Coefficients (b_0, b_1, ...) of q in lam, by exact division of 1 - r; () is q = 0."""
        named, values = self._named()
        polynomial = named._polynomial(steps)
        if polynomial is None:
            return None
        quotient = filters.divided(polynomial)
        if quotient.is_zero:
            return ()
        return tuple(c.xreplace(values) for c in filters.coefficients(quotient))

    def degree(self, steps: Any = None) -> sp.Expr | None:
        """Degree of r in lam after `steps` steps; None where r is no polynomial."""
        return self._degree(self._steps(steps))

    # -- parameters ------------------------------------------------------------------------------

    @property
    def data_symbols(self) -> tuple[sp.Symbol, ...]:
        """The symbols of the prompt's spectrum that the parameters depend on; () if they are fixed."""
        free = set().union(*(x.free_symbols for x in self._parameters().values()))
        return tuple(s for s in _SPECTRUM if s in free)

    @property
    def stability(self) -> Any:
        """SymPy condition on `lam_max` (> 0) under which |r| shrinks on all of (0, lam_max]."""
        return sp.true

    def optimal(self, lower: Any, upper: Any) -> Self:
        """The same method with the parameters that are best for eigenvalues in [lower, upper]."""
        raise InvalidInput(f"{self.description} has no parameters that are fitted to an interval.")

    def at_spectrum(self, eigenvalues: Any) -> Self:
        """The same method with the values of `data_symbols` for a prompt's eigenvalues put in.

        eigenvalues: the nonzero eigenvalues of S, exact positive numbers or expressions.
        """
        values = [
            checks.positive(x, f"eigenvalues[{i}]", "2")
            for i, x in enumerate(solver_steps.sequence(eigenvalues, "eigenvalues"))
        ]
        if not values:
            raise InvalidInput("there are no nonzero eigenvalues; an empty prompt has no spectrum.")
        return self._substituted(
            {
                lam_min: sp.Min(*values),
                lam_max: sp.Max(*values),
                trace: sum(values),
                frobenius: sp.sqrt(sum(x**4 for x in values)),
            }
        )

    def worst_residual(self, steps: Any, lower: Any, upper: Any) -> sp.Expr:
        """max |r| over eigenvalues in [lower, upper] after `steps` steps, exact."""
        raise InvalidInput(f"{self.description} has no worst case of its steps.")

    def steps_to(self, accuracy: Any, lower: Any, upper: Any) -> Any:
        """First number of steps with max |r| <= accuracy on [lower, upper]: an exact integer.

        Parameters that are rules take `lam_min = lower`, `lam_max = upper`. `OutOfDomain` where the
        steps do not converge.
        """
        raise InvalidInput(f"{self.description} has no number of steps to an accuracy.")

    def steps_formula(self) -> Formula:
        """Steps to an accuracy with optimal parameters, before rounding up; in condition, accuracy.

        >>> from icltheory.solvers import GradientDescent
        >>> GradientDescent().steps_formula().expr
        log(1/accuracy)/log((condition + 1)/(condition - 1))
        """
        return solver_steps.steps_formula(self)

    def steps_law(self) -> Formula:
        """`steps_formula` for a large condition number.

        >>> from icltheory.solvers import GradientDescent
        >>> GradientDescent().steps_law().expr
        condition*log(1/accuracy)/2
        """
        return solver_steps.steps_formula(self, law=True)

    # -- for the methods -------------------------------------------------------------------------

    def _decay_rate(self) -> sp.Expr:
        raise InvalidInput(f"{self.description} has no number of steps to an accuracy.")

    def _growth(self) -> sp.Expr:
        return sp.S.Zero

    def _steps_at_rate(self, rate: sp.Expr, growth: sp.Expr) -> sp.Expr:
        raise NotImplementedError

    def _residual(self, steps: sp.Expr) -> sp.Expr:
        raise NotImplementedError

    def _solution(self, steps: sp.Expr) -> sp.Expr:
        named, values = self._named()
        if steps.is_Integer and (polynomial := named._polynomial(steps)) is not None:
            return sp.horner(filters.divided(polynomial).as_expr(), lam).xreplace(values)
        return (1 - self._residual(steps)) / lam

    def _degree(self, steps: sp.Expr) -> sp.Expr | None:
        return None

    def _build_polynomial(self, steps: int) -> sp.Poly:
        return filters.as_polynomial(self._residual(sp.Integer(steps)))

    def _polynomial(self, steps: Any) -> sp.Poly | None:
        steps = self._steps(steps)
        degree = self._degree(steps)
        if degree is None:
            return None
        if not steps.is_Integer:
            raise InvalidInput(
                f"steps = {steps} is symbolic; coefficients need an integer (residual_filter takes "
                f"symbols)."
            )
        if degree > MAX_DEGREE:
            raise InvalidInput(
                f"{self.description} has degree {degree} after {steps} steps, above {MAX_DEGREE}; "
                f"use residual_filter({steps}), which is not expanded."
            )
        return _polynomial(self, int(steps))

    def _steps(self, steps: Any) -> sp.Expr:
        if self.is_direct:
            return sp.S.Zero
        return solver_steps.number_of_steps(steps)

    def _parameters(self) -> dict[str, Any]:
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: x for name, x in values if isinstance(x, sp.Basic)}

    def _named(self) -> tuple[Self, dict[Any, sp.Expr]]:
        """The same with a symbol in place of each symbolic expression, and what the symbols stand for.

        Polynomials in lam with rules as coefficients would be expanded and cancelled all the way.
        """
        rules = {
            name: x
            for name, x in self._parameters().items()
            if isinstance(x, sp.Expr) and x.free_symbols and not x.is_Symbol
        }
        names = {name: sp.Symbol(name, positive=True) for name in rules}
        named = replace(self, **names) if names else self
        return named, {names[name]: x for name, x in rules.items()}

    def _substituted(self, values: dict[Any, Any]) -> Self:
        changed = {name: x.xreplace(values) for name, x in self._parameters().items()}
        return replace(self, **changed) if changed else self

    def _on(self, lower: Any, upper: Any) -> tuple[Any, sp.Expr, sp.Expr]:
        """The solver with its rules resolved on the interval, and the interval, checked."""
        lower, upper = solver_steps.interval(lower, upper)
        resolved = self._substituted({lam_min: lower, lam_max: upper})
        return resolved, lower, upper

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self))
        return f"{type(self).__name__}({shown})"


@lru_cache(maxsize=512)
def _polynomial(solver: Solver, steps: int) -> sp.Poly:
    return solver._build_polynomial(steps)


def rule_recursion(solver: Any) -> tuple[sp.Expr, sp.Expr]:
    """(A, B) of r_{t+1} = A r_t + B r_{t-1} of a solver with `update(new, old, rhs)`."""
    given = solver._parameters()
    names = {name: sp.Symbol(name, positive=True) for name in given}
    first, second = _abstract_recursion(replace(solver, **names))
    values = {names[name]: x for name, x in given.items()}
    return first.xreplace(values), second.xreplace(values)


@lru_cache(maxsize=16)
def _abstract_recursion(solver: Any) -> tuple[sp.Expr, sp.Expr]:
    return filters.linear_recursion(solver.update)


@dataclass(frozen=True, repr=False)
class PowerSolver(Solver):
    """A solver with r = contraction^N: N steps of one kind, all eigenvalues in the same way."""

    _scale_name: ClassVar[str] = "scale"

    @property
    def contraction(self) -> sp.Expr:
        """The factor 1 - scale * lam^p that the residual is a power of."""
        raise NotImplementedError

    def power(self, steps: Any) -> sp.Expr:
        """N(steps), the power of the contraction."""
        return self._power(self._steps(steps))

    def _power(self, steps: sp.Expr) -> sp.Expr:
        raise NotImplementedError

    def _residual(self, steps: sp.Expr) -> sp.Expr:
        return self.contraction ** self._power(steps)

    def _solution(self, steps: sp.Expr) -> sp.Expr:
        if not steps.is_Integer:
            return (1 - self._residual(steps)) / lam
        first = sp.cancel((1 - self.contraction) / lam)
        return first * filters.geometric_sum(self.contraction, int(self._power(steps)))

    def _degree(self, steps: sp.Expr) -> sp.Expr:
        return self._power(steps) * sp.degree(self.contraction, lam)

    def _build_polynomial(self, steps: int) -> sp.Poly:
        return filters.as_polynomial(self.contraction) ** int(self._power(sp.Integer(steps)))

    @property
    def stability(self) -> Any:
        """As for every solver. The contraction falls from 1 at lam = 0: it must stay above -1."""
        return solver_steps.contraction_condition(self.contraction)

    def optimal(self, lower: Any, upper: Any) -> Self:
        """As for every solver. The contraction has opposite values at both ends."""
        lower, upper = solver_steps.interval(lower, upper)
        free = sp.Dummy("scale", positive=True)
        contraction = replace(self, **{self._scale_name: free}).contraction
        best = solver_steps.equalised(contraction, free, lower, upper)
        return replace(self, **{self._scale_name: best})

    def worst_residual(self, steps: Any, lower: Any, upper: Any) -> sp.Expr:
        """As for every solver. The contraction is monotone: the maximum is at an end."""
        solver, lower, upper = self._on(lower, upper)
        power = self.power(steps)
        largest = solver_steps.largest(solver.contraction, lower, upper)
        # An exact power such as (99/101)^(2^23) would fill the memory; as it stands it has an evalf.
        return sp.Pow(largest, power, evaluate=not (power.is_Integer and power > MAX_DEGREE))

    def steps_to(self, accuracy: Any, lower: Any, upper: Any) -> int:
        """As for every solver.

        >>> from icltheory.solvers import GradientDescent, IterativeNewton
        >>> GradientDescent().steps_to(1e-6, 1, 10), IterativeNewton().steps_to(1e-6, 1, 10)
        (69, 10)
        """
        solver, lower, upper = self._on(lower, upper)
        largest = solver_steps.largest(solver.contraction, lower, upper)
        needed = solver_steps.least_power(largest, accuracy, self.description)
        return self._steps_of_power(needed)

    def _steps_of_power(self, power: int) -> int:
        raise NotImplementedError

    def _decay_rate(self) -> sp.Expr:
        return solver_steps.contraction_rate(self)
