"""GD++: gradient descent whose layers also contract the features (von Oswald et al., arXiv 2212.07677).

A layer moves the prediction by eta x_q.(sum_j y_j x_j), subtracts the same from every target, and
then multiplies all features, the query's too, with 1 - gamma S. Each of the three stays a polynomial
of the first S, so that the composed layers are one filter, whose degree triples with every layer.
Source: derived here. Exported: `GDPlusPlus`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import sympy as sp

from icltheory import checks, solver_steps
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.spectral import Solver
from icltheory.symbols import lam


@dataclass(frozen=True, repr=False)
class GDPlusPlus(Solver):
    """GD++ with one step size and one contraction a layer; contraction 0 is gradient descent.

    step_sizes, contractions: numbers or expressions, as many as layers. The number of steps is the
    number of layers, by default all of them; the degree after l layers is (3^l - 1)/2.

    >>> GDPlusPlus([0.1, 0.1], [0, 0]).residual_polynomial()
    (1, -1/5, 1/100)
    >>> from icltheory.symbols import lam
    >>> GDPlusPlus([1, 2], [3, 0]).residual_filter()
    (1 - lam)*(-2*lam*(1 - 3*lam)**2 + 1)
    >>> GDPlusPlus([0.1] * 4, [0.05] * 4).degree()
    40
    """

    step_sizes: Any
    contractions: Any
    description: ClassVar[str] = "GD++"

    def __post_init__(self) -> None:
        for name in ("step_sizes", "contractions"):
            given = solver_steps.sequence(getattr(self, name), name)
            exact = (checks.scalar(x, f"{name}[{i}]") for i, x in enumerate(given))
            object.__setattr__(self, name, sp.Tuple(*exact))
        if not self.step_sizes or len(self.step_sizes) != len(self.contractions):
            raise InvalidInput(
                f"{len(self.step_sizes)} step sizes and {len(self.contractions)} contractions; give "
                f"one of each a layer, such as GDPlusPlus([0.01, 0.01], [0.005, 0.005])."
            )

    @property
    def stability(self) -> Any:
        """Condition on an eigenvalue `lam`, to hold for all of them: every layer shrinks the target."""
        return sp.And(*(sp.StrictLessThan(sp.Abs(x), 1) for x in self._factors()))

    def eigenvalues(self) -> tuple[sp.Expr, ...]:
        """What each layer sees in place of lam: lam^(l+1) = lam^(l) (1 - gamma_l lam^(l))^2."""
        path, seen = sp.S.One, []
        for contraction in self.contractions:
            seen.append(lam * path**2)
            path *= 1 - contraction * seen[-1]
        return tuple(seen)

    def steps_to(self, accuracy: Any, lower: Any, upper: Any) -> int:
        """As for every solver, for rational parameters; `OutOfDomain` if all layers do not suffice."""
        solver, lower, upper = self._on(lower, upper)
        accuracy = solver_steps.accuracy_below_one(accuracy)
        numbers = (*solver.step_sizes, *solver.contractions, accuracy, lower, upper)
        if not all(x.is_Rational for x in numbers):
            raise InvalidInput("the steps of GD++ need rational parameters and ends.")
        for layers in range(len(solver.step_sizes) + 1):
            polynomial = solver._polynomial(layers)
            assert polynomial is not None
            if solver_steps.stays_within(polynomial, accuracy, lower, upper):
                return layers
        raise OutOfDomain(
            f"{len(solver.step_sizes)} layers do not reach accuracy {accuracy} on [{lower}, {upper}]."
        )

    def _factors(self) -> list[sp.Expr]:
        pairs = zip(self.step_sizes, self.eigenvalues(), strict=True)
        return [1 - step * value for step, value in pairs]

    def _steps(self, steps: Any) -> sp.Expr:
        layers = super()._steps(len(self.step_sizes) if steps is None else steps)
        if not layers.is_Integer or layers > len(self.step_sizes):
            raise InvalidInput(
                f"steps = {steps}: pass a number of layers from 0 to {len(self.step_sizes)}."
            )
        return layers

    def _residual(self, steps: sp.Expr) -> sp.Expr:
        return sp.Mul(*self._factors()[: int(steps)])

    def _degree(self, steps: sp.Expr) -> sp.Expr:
        polynomial = _layers(self, int(steps))
        return sp.Integer(polynomial.degree())

    def _build_polynomial(self, steps: int) -> sp.Poly:
        return _layers(self, steps)


@lru_cache(maxsize=64)
def _layers(solver: GDPlusPlus, count: int) -> sp.Poly:
    """r after `count` layers, from the rule: features X p(S), targets r(XX') y, prediction x_q.q(S)X'y."""
    x, zero, one = (sp.Poly(e, lam) for e in (lam, 0, 1))
    path, target, solution = one, one, zero
    for step, contraction in list(zip(solver.step_sizes, solver.contractions, strict=True))[:count]:
        move = path * path * target * step  # the query's features times those of sum_j y_j x_j
        solution = solution + move
        target = target - x * move
        path = path - path * (x * path * path) * contraction
    if target != 1 - x * solution:
        raise AssertionError("the layers do not keep prediction and target residual together")
    return target
