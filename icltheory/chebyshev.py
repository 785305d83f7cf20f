"""Chebyshev's iteration: a heavy ball with a schedule, whose r is smallest on an interval.

Source: derived here. Exported: `Chebyshev`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Self

import sympy as sp

from icltheory import solver_steps
from icltheory.errors import InvalidInput
from icltheory.momentum import HeavyBall, TwoStepSolver, largest, tidy
from icltheory.symbols import accuracy as ACCURACY
from icltheory.symbols import condition, lam, lam_max, lam_min


@dataclass(frozen=True, repr=False)
class Chebyshev(TwoStepSolver):
    """Chebyshev's iteration on [lower, upper]: of all r of degree t, the smallest on that interval.

    0 < lower < upper; the default is the prompt's own spectrum. r_t = T_t(x)/T_t(x(0)) with x = -+1
    at the ends. It converges for every eigenvalue below lower + upper, fastest inside the interval.

    >>> from icltheory.symbols import steps
    >>> Chebyshev(1, 3).residual_filter(steps)
    (-1)**steps*chebyshevt(steps, lam - 2)/chebyshevt(steps, 2)
    >>> Chebyshev(1, 3).residual_polynomial(2), Chebyshev(1, 3).schedule(3)
    ((1, -8/7, 2/7), ((1/2, 0), (4/7, 1/7), (7/13, 1/13)))
    >>> Chebyshev().steps_to(1e-4, 1, 100)
    50
    """

    lower: Any = lam_min
    upper: Any = lam_max
    description: ClassVar[str] = "Chebyshev's iteration"

    def __post_init__(self) -> None:
        solver_steps.set_positive(self, "lower", "1")
        solver_steps.set_positive(self, "upper", "10")
        if (self.upper - self.lower).is_nonpositive:
            raise InvalidInput(
                f"lower = {self.lower} is not below upper = {self.upper}; the interval is empty."
            )

    @property
    def stability(self) -> Any:
        """As for every solver: |x| < x(0) on (0, lam_max]."""
        return solver_steps.decided(lam_max, self.lower + self.upper)

    def optimal(self, lower: Any, upper: Any) -> Self:
        """As for every solver: the iteration on that interval."""
        return type(self)(*solver_steps.interval(lower, upper))

    def schedule(self, steps: Any) -> tuple[tuple[sp.Expr, sp.Expr], ...]:
        """(step size, momentum) of the first `steps` steps, as a heavy ball from w_{-1} = w_0."""
        return tuple(islice(self._schedule(), int(self._integer(steps))))

    def _integer(self, steps: Any) -> sp.Expr:
        steps = self._steps(steps)
        if not steps.is_Integer:
            raise InvalidInput(f"steps = {steps} is symbolic; a schedule needs an integer.")
        return steps

    def _schedule(self) -> Iterator[tuple[sp.Expr, sp.Expr]]:
        # With x = (mean - lam)/half, sigma = x(0) and T_{t+1} = 2 x T_t - T_{t-1}:
        # rho_t = T_t(sigma)/T_{t+1}(sigma) obeys rho_t = 1/(2 sigma - rho_{t-1}).
        mean, half = (self.upper + self.lower) / 2, (self.upper - self.lower) / 2
        sigma, ratio = mean / half, half / mean
        yield sp.cancel(1 / mean), sp.S.Zero
        while True:
            old, ratio = ratio, sp.cancel(1 / (2 * sigma - ratio))
            yield sp.cancel(2 * ratio / half), sp.cancel(ratio * old)

    def _recursions(self) -> Iterator[tuple[sp.Expr, sp.Expr]]:
        for step_size, momentum in self._schedule():
            yield HeavyBall(step_size, momentum).recursion

    def _residual(self, steps: sp.Expr) -> sp.Expr:
        argument = self._argument()
        if steps.is_Integer and not (argument.free_symbols - {lam}):
            return super()._residual(steps)
        return sp.chebyshevt(steps, argument) / sp.chebyshevt(steps, argument.subs(lam, 0))

    def _build_polynomial(self, steps: int) -> sp.Poly:
        symbols = self.lower.free_symbols | self.upper.free_symbols
        if not symbols:
            return super()._build_polynomial(steps)
        # (upper - lower)^t T_t without a quotient: only the last division has to be cancelled.
        width, twice = self.upper - self.lower, 2 * (self.upper + self.lower - 2 * lam)
        old, new = sp.Poly(1, lam, *symbols), sp.Poly(twice / 2, lam, *symbols)
        for _ in range(steps):
            old, new = new, sp.Poly(twice, *new.gens) * new - sp.Poly(width**2, *new.gens) * old
        scaled = sp.Poly(old.as_expr(), lam)
        return scaled.to_field().quo_ground(scaled.eval(0))

    def _argument(self) -> sp.Expr:
        """x with r_t = T_t(x)/T_t(x(0))."""
        return sp.cancel((self.upper + self.lower - 2 * lam) / (self.upper - self.lower))

    def _ends_decide(self, lower: sp.Expr, upper: sp.Expr) -> bool:
        # |T_t| is 1 at +-1, at most 1 between, and grows outside.
        return bool(lower <= self.lower and self.upper <= upper)

    def _at_ends(self, lower: Any, upper: Any, approximate: bool = False) -> Iterator[sp.Expr]:
        reduced = solver_steps.many_digits if approximate else tidy
        points = [reduced(self._argument().subs(lam, x)) for x in (lower, upper, 0)]
        old, new = points, [sp.S.One] * 3
        while True:
            yield largest(new[:2], approximate) / new[2]
            triples = zip(points, new, old, strict=True)
            sums = [2 * x * y - z for x, y, z in triples]
            new, old = sums if approximate else [tidy(x) for x in sums], new

    def _decay_rate(self) -> sp.Expr:
        # T_t(sigma) = (z^t + z^-t)/2 with z + 1/z = 2 sigma, z > 1.
        root, z = sp.symbols("s z", positive=True)
        sigma = (root**2 + 1) / (root**2 - 1)
        solutions = sp.roots(sp.Poly(sp.cancel(z**2 - 2 * sigma * z + 1), z))
        (large,) = (x for x in map(sp.factor, solutions) if x.subs(root, 2) > 1)
        return sp.log(large.subs(root, sp.sqrt(condition)))

    def _steps_at_rate(self, rate: sp.Expr, growth: sp.Expr) -> sp.Expr:
        return sp.acosh(1 / ACCURACY) / rate
