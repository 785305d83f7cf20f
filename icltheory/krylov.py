"""Conjugate gradients: a filter that depends on the labels, with the Ritz values as its zeros.

In the eigenbasis of S let c_i = u_i.w_OLS. The steps minimise sum_i lam_i c_i^2 r(lam_i)^2 over all
polynomials of their degree with r(0) = 1; on quadratics, with exact line searches, BFGS, DFP and
L-BFGS make the same iterates (Dixon 1972). Source: derived here. Exported: `ConjugateGradient`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import sympy as sp

from icltheory import checks, solver_steps
from icltheory.chebyshev import Chebyshev
from icltheory.errors import InvalidInput
from icltheory.spectral import Solver
from icltheory.symbols import lam


@dataclass(frozen=True, repr=False)
class ConjugateGradient(Solver):
    """Conjugate gradients from w_0 = 0, without parameters.

    `residual_filter(t)` is written in the Ritz values `ritz_1`, ..., `ritz_t` of S on the Krylov
    space of X'y; `residual_on` gives it for a prompt. After as many steps as S has different nonzero
    eigenvalues (at most min(n, d)) it is least squares. Step counts are those that suffice for all
    labels, in the norm of S: no polynomial does better than Chebyshev's on an interval.

    >>> ConjugateGradient().residual_filter(2)
    (-lam/ritz_1 + 1)*(-lam/ritz_2 + 1)
    >>> ConjugateGradient().steps_to(1e-4, 1, 100)
    50
    >>> ConjugateGradient().residual_on([1, 2, 3], [1, 1, 1], 1)
    (1, -7/18)
    """

    description: ClassVar[str] = "conjugate gradients"
    reads_labels: ClassVar[bool] = True

    def residual_on(self, eigenvalues: Any, coordinates: Any, steps: Any) -> tuple[sp.Expr, ...]:
        """Coefficients (1, c_1, ...) of r after `steps` steps on a prompt; exact.

        eigenvalues: the nonzero eigenvalues of S; coordinates: u_i.w_OLS (without label noise
        u_i.w_*), as many. Exact numbers; after the last step that changes anything r stays.
        """
        steps = self._steps(steps)
        values = [
            checks.positive(x, f"eigenvalues[{i}]", "2")
            for i, x in enumerate(solver_steps.sequence(eigenvalues, "eigenvalues"))
        ]
        weights = [
            checks.scalar(x, f"coordinates[{i}]")
            for i, x in enumerate(solver_steps.sequence(coordinates, "coordinates"))
        ]
        if not steps.is_Integer or len(values) != len(weights):
            raise InvalidInput(
                f"pass an integer number of steps and one coordinate an eigenvalue, not {steps} "
                f"steps, {len(values)} eigenvalues and {len(weights)} coordinates."
            )
        return _run(values, weights, int(steps))

    def _residual(self, steps: sp.Expr) -> sp.Expr:
        if steps.is_Integer:
            return sp.Mul(*(1 - lam / x for x in _ritz(int(steps))))
        j = sp.Symbol("j", integer=True, positive=True)
        return sp.Product(1 - lam / sp.Indexed("ritz", j), (j, 1, steps))

    def _polynomial(self, steps: Any) -> sp.Poly | None:
        self._steps(steps)
        return None

    def _degree(self, steps: sp.Expr) -> sp.Expr:
        return steps

    def _solution(self, steps: sp.Expr) -> sp.Expr:
        if not steps.is_Integer:
            return (1 - self._residual(steps)) / lam
        # (1 - prod_j (1 - lam/theta_j))/lam, telescoped.
        values = _ritz(int(steps))
        parts = (sp.Mul(*(1 - lam / y for y in values[:j])) / x for j, x in enumerate(values))
        return sp.Add(*parts)

    def worst_residual(self, steps: Any, lower: Any, upper: Any) -> sp.Expr:
        """Bound of the error in the norm of S over that at the start, sharp over spectra and labels."""
        return Chebyshev().worst_residual(steps, lower, upper)

    def steps_to(self, accuracy: Any, lower: Any, upper: Any) -> int:
        """Steps that suffice for all labels: S-norm of the error <= accuracy times that at the start."""
        return Chebyshev().steps_to(accuracy, lower, upper)

    def _decay_rate(self) -> sp.Expr:
        return Chebyshev()._decay_rate()

    def _steps_at_rate(self, rate: sp.Expr, growth: sp.Expr) -> sp.Expr:
        return Chebyshev()._steps_at_rate(rate, growth)


def _ritz(count: int) -> list[sp.Symbol]:
    return [sp.Symbol(f"ritz_{j + 1}", positive=True) for j in range(count)]


def _run(values: list[sp.Expr], weights: list[sp.Expr], steps: int) -> tuple[sp.Expr, ...]:
    """The method on filters: gradient -S c r and direction S c p, with polynomials r and p in lam."""
    x = sp.Poly(lam, lam)
    residual = direction = sp.Poly(1, lam)

    def energy(first: sp.Poly, second: sp.Poly, power: int) -> sp.Expr:
        pairs = zip(values, weights, strict=True)
        return sum((a**power * c**2 * first.eval(a) * second.eval(a) for a, c in pairs), sp.S.Zero)

    gradient = energy(residual, residual, 2)
    for _ in range(steps):
        if gradient == 0:
            break
        residual -= x * direction * (gradient / energy(direction, direction, 3))
        gradient, old = energy(residual, residual, 2), gradient
        direction = residual + direction * (gradient / old)
    return tuple(reversed(residual.all_coeffs()))
