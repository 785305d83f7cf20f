"""Expected risk of solvers, exact in n and d: polynomial filters and least squares.

A spectral solver errs by r(S) theta in the signal and by q(S) X' noise, so that its risk is
E tr[r Sigma r] times the variance of a coefficient, 1/d, plus noise_var E tr[q^2 S Sigma]. For a
polynomial filter both are trace moments of the Wishart matrix S = X'X, a polynomial in n and d. The
expectation is literal: prompts on which the steps diverge count, however rare they are
(`numeric.solver_risk` separates them). Exported: `solver_risk`, `solver_forgetting`;
`PromptLaw` serves the optima.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.formula import DERIVED_HERE, FU, Formula, Step
from icltheory.laws.inverse_wishart import inverse_wishart_moment
from icltheory.laws.wishart import (
    covariance_square,
    covariance_traces,
    trace_moments,
    wishart_trace_moment,
)
from icltheory.matrices import covariance
from icltheory.readable import collected
from icltheory.solvers import OrdinaryLeastSquares, Solver
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import lam
from icltheory.symbols import n as length_symbol

SOURCES = (FU.at("the solvers; the expected risk is derived here"), DERIVED_HERE)

_UNNAMED = 3  # moments of a risk that is written out
_LARGEST_DEGREE = 100  # ten seconds


def solver_risk(
    solver: Solver,
    steps: Any = None,
    n: Any = length_symbol,
    d: Any = dim_symbol,
    noise_var: Any = 0,
    *,
    cov: Any = None,
    start: Any = 0,
) -> Formula:
    """Expected risk of a solver after `steps` steps, exact; coefficients N(0, I/d), features N(0, Sigma).

    Parameters
    ----------
    solver: a polynomial filter with fixed parameters (numbers or symbols), such as
        `GradientDescent(0.01)`, or `OrdinaryLeastSquares()`. S is not divided by n.
    steps: an integer >= 0; none for least squares.
    n, d: positive integers or symbols: prompt length and dimension.
    noise_var: variance of the label noise (d times smaller than with coefficients N(0, I)).
    cov: Sigma as a matrix, d eigenvalues (then d is their number) or a number c for c I; `None` is I.
    start: E |w_0|^2 of an isotropic random start w_0 that is independent of everything else.

    Returns a Formula, the literal expectation. The risk of the zero predictor is tr Sigma / d.
    Errors: `InvalidInput` for filters that are no polynomial or depend on the prompt
    (`numeric.solver_risk` covers them), `OutOfDomain` for least squares with noise and |n - d| <= 1,
    where it is infinite. Source: derived here.

    >>> from icltheory.solvers import GradientDescent
    >>> eta = sp.Symbol("eta", positive=True)
    >>> solver_risk(GradientDescent(eta), 1).expr
    eta**2*n*(d + n + 1) - 2*eta*n + 1
    >>> solver_risk(GradientDescent(0.01), 4, n=20, d=20).expr
    6536076952817/15625000000000
    """
    law = PromptLaw.of(n, d, noise_var, cov)
    factor = 1 + checks.nonnegative(start, "start")
    require_solver(solver)
    if isinstance(solver, OrdinaryLeastSquares):
        return _least_squares(law, factor)
    residual, solution = polynomials(solver, steps)
    signal = factor * law.signal(_squared(residual))
    noise = law.noise(_squared(solution))
    expr, names = law.readable(signal + noise, 2 * len(residual) - 1)
    moments = {moment: name for name, moment in names.items()}
    index = ", with m_j = E tr(Sigma S^j)/d" if names else ""
    return Formula(
        f"expected risk of {solver.description}, {checks.counted(steps, 'step')}",
        expr,
        references=SOURCES,
        steps=(
            Step(
                "residual filter r, of eigenvalues lam of S",
                equation("r", solver.residual_filter(steps)),
            ),
            Step(
                f"signal B that is left, E tr[r Sigma r]/d{index}",
                equation("B", signal.xreplace(moments)),
            ),
            Step(
                "noise V, E tr[q^2 S Sigma] noise_var with q = (1 - r)/lam",
                equation("V", noise.xreplace(moments)),
            ),
        ),
        abbreviations=names,
    )


def solver_forgetting(
    solver: Solver,
    steps: Any = None,
    n: Any = length_symbol,
    d: Any = dim_symbol,
    noise_var: Any = 0,
) -> Formula:
    """E (x_i.(w_hat - theta))^2 on an example i of the prompt itself; the same for all i. Sigma = I.

    E tr[S r^2]/(n d) + noise_var E tr[q^2 S^2]/n, for polynomial filters with fixed parameters.
    Arguments as for `solver_risk`. Source: derived here.

    >>> from icltheory.solvers import GradientDescent
    >>> solver_forgetting(GradientDescent(0.01), 1, n=20, d=20).expr
    981/2500
    """
    law = PromptLaw.of(n, d, noise_var, None)
    require_solver(solver)
    residual, solution = polynomials(solver, steps)
    signal = law.signal((sp.S.Zero, *_squared(residual))) / law.length
    noise = law.noise((sp.S.Zero, *_squared(solution))) / law.length
    return Formula(
        f"forgetting of {solver.description}, {checks.counted(steps, 'step')}",
        law.collected(sp.expand(signal + noise)),
        references=SOURCES,
        steps=(
            Step(
                "residual filter r, of eigenvalues lam of S",
                equation("r", solver.residual_filter(steps)),
            ),
        ),
    )


@dataclass(frozen=True)
class PromptLaw:
    """Sizes, noise and trace moments E tr(Sigma S^k) of Gaussian prompts."""

    length: sp.Expr
    dim: sp.Expr
    noise_var: sp.Expr
    moment: Callable[[int], sp.Expr]
    isotropic: bool = True
    scale: sp.Expr = sp.S.One

    @staticmethod
    def of(n: Any, d: Any, noise_var: Any, cov: Any) -> PromptLaw:
        """The law of a user's arguments; `InvalidInput` where they have no meaning."""
        length = checks.positive_integer(n, "n", "n=40")
        noise = checks.nonnegative(noise_var, "noise_var")
        dim = checks.positive_integer(d, "d", "d=20")
        if cov is None:
            return PromptLaw(length, dim, noise, lambda k: wishart_trace_moment(k, length, dim))
        square = covariance_square(cov, dim)
        square = covariance(square, square.dim, "cov", definite=False)
        if square.dim != dim:
            if d is not dim_symbol:
                raise InvalidInput(f"cov is {square.dim} x {square.dim}, but d = {dim}.")
            dim = square.dim
        if square.is_isotropic:
            c = square.scale
            return PromptLaw(
                length,
                dim,
                noise,
                lambda k: c ** (k + 1) * wishart_trace_moment(k, length, dim),
                scale=c,
            )
        moments = trace_moments(length, covariance_traces(square, dim))
        return PromptLaw(length, dim, noise, lambda k: moments(1, k), isotropic=False)

    def signal(self, polynomial: Sequence[sp.Expr]) -> sp.Expr:
        """E tr[Sigma p(S)]/d for the coefficients of p."""
        return self._average(polynomial, 0)

    def noise(self, polynomial: Sequence[sp.Expr]) -> sp.Expr:
        """noise_var E tr[Sigma S p(S)]."""
        if self.noise_var == 0:
            return sp.S.Zero
        return self.noise_var * self.dim * self._average(polynomial, 1)

    def mean(self, power: int) -> sp.Expr:
        """E tr(Sigma S^power)/d."""
        return sp.expand(self.moment(power) / self.dim)

    def _average(self, polynomial: Sequence[sp.Expr], shift: int) -> sp.Expr:
        terms = (c * self.mean(k + shift) for k, c in enumerate(polynomial) if c != 0)
        return sp.Add(*terms)

    def readable(self, expr: sp.Expr, top: int) -> tuple[sp.Expr, sp.Dict]:
        """A risk with the moments up to `top` in it: collected if it is short, else with their names."""
        if top <= _UNNAMED:
            return self.collected(expr), sp.Dict()
        means = {sp.Symbol(f"m_{k}"): self.mean(k) for k in range(1, top + 1)}
        return expr, sp.Dict({s: m for s, m in means.items() if m.is_Add and expr.has(m)})

    def collected(self, expr: sp.Expr) -> sp.Expr:
        """In powers of the solver's parameters, with factored coefficients."""
        sizes = [x for x in (self.length, self.dim, self.noise_var) if not x.is_number]
        inner = set().union(*(x.free_symbols for x in sizes))
        variables = sorted(expr.free_symbols - inner, key=str)
        if not inner or not expr.is_polynomial(*variables):
            return expr
        return collected(expr, *variables)


def polynomials(solver: Solver, steps: Any) -> tuple[tuple[sp.Expr, ...], tuple[sp.Expr, ...]]:
    """Coefficients of r and of q = (1 - r)/lam; `InvalidInput` where the exact risk needs more."""
    if solver.data_symbols:
        names = ", ".join(s.name for s in solver.data_symbols)
        raise InvalidInput(
            f"the parameters of {solver!r} depend on the prompt ({names}), so that eigenvalues do "
            f"not enter one by one; numeric.solver_risk samples them."
        )
    if solver.reads_labels:
        raise InvalidInput(
            f"the filter of {solver!r} depends on the labels, so that there is no expectation over "
            f"eigenvalues alone; numeric.run_solvers measures it on prompts."
        )
    degree = solver.degree(steps)
    if degree is not None and degree.is_Integer and degree > _LARGEST_DEGREE:
        raise InvalidInput(
            f"{solver!r} has degree {degree} after {steps} steps, above {_LARGEST_DEGREE}; "
            f"numeric.solver_risk integrates over the eigenvalues instead."
        )
    residual, solution = solver.residual_polynomial(steps), solver.solution_polynomial(steps)
    if residual is None or solution is None:
        raise InvalidInput(
            f"the filter of {solver!r} is no polynomial, so that its expected risk has no closed "
            f"form at finite n; numeric.solver_risk integrates it."
        )
    return residual, solution


@lru_cache(maxsize=256)
def _squared(coefficients: tuple[sp.Expr, ...]) -> tuple[sp.Expr, ...]:
    if not coefficients:
        return ()
    square = sp.Poly(list(reversed(coefficients)), lam) ** 2
    return tuple(reversed(square.all_coeffs()))


def _least_squares(law: PromptLaw, start: sp.Expr) -> Formula:
    """The signal outside the span of the examples, and the noise through the (pseudo-)inverse."""
    n, d, noise, scale = law.length, law.dim, law.noise_var, law.scale
    long = noise * inverse_wishart_moment(1).subs(
        {length_symbol: n, dim_symbol: d}, simultaneous=True
    )
    # For n < d the nonzero eigenvalues are those of XX', with the sizes exchanged.
    short = noise * inverse_wishart_moment(1).subs(
        {length_symbol: d, dim_symbol: n}, simultaneous=True
    )
    missing = start * scale * (1 - n / d)
    gap = n - d
    finite: Any = sp.true if noise == 0 else sp.Or(gap > 1, gap < -1)
    if finite == sp.false:
        raise OutOfDomain(
            f"n = {n}, d = {d}: with label noise the risk of least squares is infinite for "
            f"|n - d| <= 1; use ridge regression (icl.Ridge), or |n - d| >= 2."
        )
    expr = sp.Piecewise((long, n >= d), (missing + short, True))
    if not law.isotropic:
        # The span of fewer examples prefers the large eigenvalues.
        finite, expr = sp.And(finite, n >= d), long
        if finite == sp.false:
            raise InvalidInput(
                f"n = {n} examples in d = {d} dimensions with a general covariance have no closed "
                f"form; use numeric.solver_risk, or n >= d."
            )
    return Formula(
        "expected risk of ordinary least squares",
        expr,
        validity=finite,
        references=SOURCES,
        steps=(
            Step("risk R for n >= d, noise through S^{-1}", equation("R", long)),
            Step(
                "risk R for n < d, directions not seen and noise through the pseudo-inverse",
                equation("R", missing + short),
            ),
        ),
    )


def equation(name: str, expr: sp.Expr) -> sp.Basic:
    """name = expr, without SymPy's attempts to decide it, which take seconds on large polynomials."""
    return sp.Eq(sp.Symbol(name), expr, evaluate=False)


def require_solver(solver: Any) -> None:
    """Refuse what is no solver."""
    if not isinstance(solver, Solver):
        raise InvalidInput(
            f"solver has type {type(solver).__name__}; pass for example icl.GradientDescent(0.01)."
        )
