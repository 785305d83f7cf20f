"""First-order solvers with memory: heavy ball and Nesterov's method.

They repeat one step, so that r_{t+1} = A r_t + B r_{t-1} is solved by Chebyshev polynomials of the
second kind. What Chebyshev's iteration shares with them is `TwoStepSolver`. Source: derived here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, ClassVar, Self

import sympy as sp

from icltheory import checks, filters, solver_steps
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.spectral import Solver, rule_recursion
from icltheory.symbols import accuracy as ACCURACY
from icltheory.symbols import condition, lam, lam_max, lam_min

_NAMES = ("step_size", "momentum")


@dataclass(frozen=True, repr=False)
class TwoStepSolver(Solver):
    """What heavy ball, Nesterov and Chebyshev share: filters of degree t from a recursion."""

    def _recursions(self) -> Iterator[tuple[sp.Expr, sp.Expr]]:
        """(A_t, B_t) of r_{t+1} = A_t r_t + B_t r_{t-1} for t = 0, 1, ..., r_{-1} = r_0 = 1."""
        raise NotImplementedError

    def _ends_decide(self, lower: sp.Expr, upper: sp.Expr) -> bool:
        """Whether max |r| over the interval is the larger of |r| at its two ends."""
        raise NotImplementedError

    def worst_residual(self, steps: Any, lower: Any, upper: Any) -> sp.Expr:
        """As for every solver, where the ends of the interval decide (optimal parameters)."""
        solver, lower, upper = self._on(lower, upper)
        steps = self._steps(steps)
        if not steps.is_Integer:
            raise InvalidInput(f"steps = {steps} is symbolic; the maximum needs an integer.")
        if not solver._ends_decide(lower, upper):
            raise InvalidInput(
                f"the largest residual of {self.description} has a closed form only at the "
                f"parameters of optimal({lower}, {upper})."
            )
        return next(islice(solver._at_ends(lower, upper), int(steps), None))

    def steps_to(self, accuracy: Any, lower: Any, upper: Any) -> int:
        """As for every solver. Parameters that are not optimal on the interval must be rational."""
        solver, lower, upper = self._on(lower, upper)
        accuracy = solver_steps.accuracy_below_one(accuracy)
        solver_steps.numbers_only(**solver._parameters(), accuracy=accuracy)
        if solver.stability.subs(lam_max, upper) != sp.true:
            raise OutOfDomain(
                f"{self.description} does not converge at lam = {upper}; it needs "
                f"{solver.stability}. Use the parameters of optimal({lower}, {upper})."
            )
        if solver._ends_decide(lower, upper):
            values = solver._at_ends(lower, upper, approximate=True)
            return solver_steps.first(
                lambda t, value: solver_steps.at_most(
                    value, accuracy, lambda: solver.worst_residual(t, lower, upper)
                ),
                values,
            )
        if not all(x.is_Rational for x in (*solver._parameters().values(), lower, upper)):
            raise InvalidInput(
                f"{self.description} has irrational parameters that are not those of "
                f"optimal({lower}, {upper}); its number of steps needs rational ones."
            )
        return solver_steps.first(
            lambda _, r: solver_steps.stays_within(r, accuracy, lower, upper),
            islice(solver._residuals(), solver_steps.MOST_CERTIFIED),
        )

    def _residuals(self) -> Iterator[sp.Poly]:
        new = old = sp.Poly(1, lam)
        for rule in self._recursions():
            yield new
            first, second = (filters.as_polynomial(x) for x in rule)
            new, old = first * new + second * old, new

    def _at_ends(self, lower: Any, upper: Any, approximate: bool = False) -> Iterator[sp.Expr]:
        """max |r_t| over both ends for t = 0, 1, ...; exact, or with many digits."""
        reduced = solver_steps.many_digits if approximate else tidy
        new, old, last, ends = [sp.S.One] * 2, [sp.S.One] * 2, None, []
        for rule in self._recursions():
            yield largest(new, approximate)
            if rule is not last:
                last = rule
                ends = [[reduced(x.subs(lam, end)) for x in rule] for end in (lower, upper)]
            triples = zip(ends, new, old, strict=True)
            sums = [a * x + b * y for (a, b), x, y in triples]
            new, old = sums if approximate else [tidy(x) for x in sums], new

    def _residual(self, steps: sp.Expr) -> sp.Expr:
        named, values = self._named()
        polynomial = named._polynomial(steps)
        assert polynomial is not None
        return sp.horner(polynomial.as_expr(), lam).xreplace(values) if steps else sp.S.One

    def _degree(self, steps: sp.Expr) -> sp.Expr:
        return steps

    def _build_polynomial(self, steps: int) -> sp.Poly:
        return next(islice(self._residuals(), steps, None))


@dataclass(frozen=True, repr=False)
class MomentumSolver(TwoStepSolver):
    """A step with a constant step size and momentum, from w_{-1} = w_0."""

    step_size: Any = None
    momentum: Any = None

    def __post_init__(self) -> None:
        if (self.step_size is None) != (self.momentum is None):
            raise InvalidInput("give both step_size and momentum, or none for the best ones.")
        if self.step_size is None:
            self._set(*self._best(lam_min, lam_max))
        solver_steps.set_positive(self, "step_size", "0.01")
        momentum = checks.scalar(self.momentum, "momentum")
        if momentum.is_negative or (1 - momentum).is_nonpositive:
            raise InvalidInput(f"momentum = {self.momentum} is outside 0 <= momentum < 1.")
        self._set(self.step_size, momentum)

    def _set(self, *values: Any) -> None:
        for name, value in zip(_NAMES, values, strict=True):
            object.__setattr__(self, name, value)

    def update(self, new: Any, old: Any, rhs: Any) -> Any:
        """The next iterate from the last two, in an eigendirection of S."""
        raise NotImplementedError

    @property
    def recursion(self) -> tuple[sp.Expr, sp.Expr]:
        """(A, B) of r_{t+1} = A r_t + B r_{t-1}, r_{-1} = r_0 = 1."""
        return rule_recursion(self)

    @property
    def stability(self) -> Any:
        """As for every solver; from Jury's conditions on the two roots."""
        names = [sp.Symbol(x, positive=True) for x in _NAMES]
        left, right = _stability(type(self)(*names))
        values = dict(zip(names, (self.step_size, self.momentum), strict=True))
        return solver_steps.decided(left.xreplace(values), right.xreplace(values))

    def optimal(self, lower: Any, upper: Any) -> Self:
        """As for every solver; the parameters whose roots decay fastest on [lower, upper]."""
        return type(self)(*self._best(*solver_steps.interval(lower, upper)))

    def _best(self, lower: Any, upper: Any) -> tuple[sp.Expr, sp.Expr]:
        raise NotImplementedError

    def _recursions(self) -> Iterator[tuple[sp.Expr, sp.Expr]]:
        rule = self.recursion
        while True:
            yield rule

    def _residual(self, steps: sp.Expr) -> sp.Expr:
        if steps.is_Integer:
            return super()._residual(steps)
        return filters.recursion_filter(*self.recursion, steps)

    def _trace_and_gap(self, value: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
        """Sum of the two roots at an eigenvalue, and the square of their difference."""
        first, second = (x.subs(lam, value) for x in self.recursion)
        return first, first**2 + 4 * second

    def _double_root(self) -> sp.Expr:
        """The modulus of the slowest roots on [1, condition], at the best parameters."""
        raise NotImplementedError

    def _decay_rate(self) -> sp.Expr:
        return sp.log(1 / self._double_root())

    def _steps_at_rate(self, rate: sp.Expr, growth: sp.Expr) -> sp.Expr:
        # exp(-rate t) (1 + growth t) = accuracy, on the branch of large t.
        inner = -rate / growth * ACCURACY * sp.exp(-rate / growth)
        return -sp.LambertW(inner, -1) / rate - 1 / growth


@lru_cache(maxsize=16)
def _stability(solver: MomentumSolver) -> tuple[sp.Expr, sp.Expr]:
    return solver_steps.recursion_condition(*solver.recursion, solver.step_size)


@dataclass(frozen=True, repr=False)
class HeavyBall(MomentumSolver):
    """Polyak's heavy ball: w + momentum (w - w_old) - step_size (S w - X'y), from w_{-1} = w_0.

    step_size: positive; momentum: in [0, 1). The defaults are the best for the prompt's spectrum:
    both roots coincide at both ends, (1 - rho)^2 = step_size lower, (1 + rho)^2 = step_size upper.
    Then |r| is largest at the upper end, where xi = -1 and |U_t - rho U_{t-1}| = t + 1 + rho t.

    >>> HeavyBall(0.1, 0.25).residual_polynomial(2)
    (1, -9/40, 1/100)
    >>> HeavyBall().optimal(1, 4), HeavyBall(0.1, 0.25).stability
    (HeavyBall(step_size=4/9, momentum=1/9), lam_max/10 < 5/2)
    >>> HeavyBall().steps_to(1e-4, 1, 100), HeavyBall(0.1, 0.5).steps_to(0.1, 1, 10)
    (71, 9)
    """

    description: ClassVar[str] = "heavy ball"

    def update(self, new: Any, old: Any, rhs: Any) -> Any:
        """w + momentum (w - w_old) - step_size (lam w - X'y)."""
        return new + self.momentum * (new - old) - self.step_size * (lam * new - rhs)

    def _best(self, lower: Any, upper: Any) -> tuple[sp.Expr, sp.Expr]:
        root, rho = self._best_roots(sp.sqrt(lower), sp.sqrt(upper))
        return tidy(root**2), tidy(rho**2)

    def _best_roots(self, lower: sp.Expr, upper: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
        """Square roots of step size and momentum, from those of the ends."""
        root, rho, low, high = sp.symbols("h rho l u")
        (found,) = sp.linsolve([1 - rho - root * low, 1 + rho - root * high], (root, rho))
        return tuple(x.subs({low: lower, high: upper}) for x in found)  # type: ignore[return-value]

    def _double_root(self) -> sp.Expr:
        return self._best_roots(sp.S.One, sp.sqrt(condition))[1]

    def _ends_decide(self, lower: sp.Expr, upper: sp.Expr) -> bool:
        (_, low), (total, high) = (self._trace_and_gap(x) for x in (lower, upper))
        return bool(sp.expand(high).equals(0) and total < 0 and sp.expand(low) <= 0)

    def _growth(self) -> sp.Expr:
        return 1 + self._double_root()


@dataclass(frozen=True, repr=False)
class Nesterov(MomentumSolver):
    """Nesterov's method: a gradient step from w + momentum (w - w_old), w_{-1} = w_0.

    step_size: positive; momentum: in [0, 1). The defaults decay fastest on the prompt's spectrum:
    double roots at the lower end, roots of the same modulus at the upper one. `standard` gives the
    common choice step_size = 1/upper with double roots at the lower end. For both, |r| is largest
    at an end: where step_size lam <= 1, r = rho^t [c T_t + (1 - c) U_t](xi) with
    c = 2 momentum/(1 + momentum) and rho = c xi, 0 <= xi <= 1; beyond, |r| grows with lam.

    >>> Nesterov().optimal(1, 5), Nesterov().standard(1, 4)
    (Nesterov(step_size=1/4, momentum=1/3), Nesterov(step_size=1/4, momentum=1/3))
    >>> Nesterov(0.1, 0.25).stability
    lam_max/10 < 5/3
    >>> Nesterov().steps_to(1e-4, 1, 100), Nesterov().standard(1, 100).steps_to(1e-4, 1, 100)
    (96, 112)
    """

    description: ClassVar[str] = "Nesterov's method"

    def update(self, new: Any, old: Any, rhs: Any) -> Any:
        """A gradient step from v = w + momentum (w - w_old)."""
        ahead = new + self.momentum * (new - old)
        return ahead - self.step_size * (lam * ahead - rhs)

    def standard(self, lower: Any, upper: Any) -> Nesterov:
        """Nesterov's own parameters: step size 1/upper, momentum (sqrt kappa - 1)/(sqrt kappa + 1)."""
        lower, upper = solver_steps.interval(lower, upper)
        return Nesterov(1 / upper, _double_root_momentum(lower / upper))

    def _best(self, lower: Any, upper: Any) -> tuple[sp.Expr, sp.Expr]:
        # z^2 = a ((1 + m) z - m) with a = 1 - step_size lam. At the lower end z = rho is double, at
        # the upper end z = -rho is a root: with rho = 2 m/(1 + m) that makes a = -3 a there.
        m, step = sp.symbols("m step", positive=True)
        rho = 2 * m / (1 + m)
        ratio = sp.cancel(((1 + m) * rho - m) / (-(1 + m) * rho - m))  # a(upper)/a(lower)
        (best,) = sp.solve((1 - step * upper) - ratio * (1 - step * lower), step)
        return best, _double_root_momentum(best * lower)

    def _double_root(self) -> sp.Expr:
        momentum = _double_root_momentum(self._best(sp.S.One, condition)[0])
        return sp.cancel(2 * momentum / (1 + momentum))

    def _ends_decide(self, lower: sp.Expr, upper: sp.Expr) -> bool:
        total, gap = self._trace_and_gap(lower)
        return bool(sp.expand(gap).equals(0) and total > 0)

    def _growth(self) -> sp.Expr:
        return 1 - self._double_root()


def _double_root_momentum(value: sp.Expr) -> sp.Expr:
    """m in [0, 1) with (1 + m)^2 (1 - x) = 4 m: both roots coincide where step_size lam = x."""
    root, m = sp.symbols("s m", positive=True)  # root = sqrt(x), in (0, 1]
    solutions = sp.roots(sp.Poly((1 + m) ** 2 * (1 - root**2) - 4 * m, m))
    (small,) = (x for x in map(sp.factor, solutions) if x.subs(root, sp.Rational(1, 2)) < 1)
    return tidy(small.subs(root, sp.sqrt(value)))


def largest(values: list[sp.Expr], approximate: bool) -> sp.Expr:
    """max |x|; SymPy's own is slow on plain numbers."""
    if approximate:
        return max(x if x >= 0 else -x for x in values)
    return sp.Max(*(sp.Abs(x) for x in values))


def tidy(value: sp.Expr) -> sp.Expr:
    """A number with rational denominator, expanded; other expressions as they are."""
    return sp.expand(sp.radsimp(value)) if value.is_number else value
