"""Risk of solvers where n and d are large, and where the steps are many.

With d/n -> gamma the eigenvalues of S/n follow their limit law, and a filter whose parameters scale
with n (step sizes like 1/n, Newton's start like 1/n^2, penalties like n) has a limit risk. At finite
n and d many steps leave only small eigenvalues, whose density is known, so that the risk of gradient
descent and Newton is a power of the number of steps with known constants. Source: derived here.
Exported: `solver_risk_limit`, `late_solver_risk`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.conditions import required
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.formula import Formula, Step
from icltheory.late_residuals import late_series
from icltheory.laws.inverse_wishart import inverse_wishart_moment
from icltheory.laws.spectra import (
    MARCHENKO_PASTUR,
    edge_constants,
    limit_moments,
    marchenko_pastur_density,
    marchenko_pastur_resolvent,
)
from icltheory.readable import joined
from icltheory.solvers import GradientFlow, OrdinaryLeastSquares, PowerSolver, Ridge, Solver
from icltheory.spectral_risk import SOURCES, equation, polynomials, require_solver
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import lam
from icltheory.symbols import n as length_symbol

_GAMMA = sp.Symbol("gamma", positive=True)
_X = sp.Symbol("x", positive=True)  # eigenvalue of S/n
_J = sp.Symbol("j", integer=True, nonnegative=True)


def solver_risk_limit(
    solver: Solver,
    steps: Any = None,
    gamma: Any = _GAMMA,
    noise_var: Any = 0,
    *,
    cov_moments: Sequence[Any] | None = None,
) -> Formula:
    """Limit of the expected risk for n, d -> infinity with d/n -> gamma; coefficients N(0, I/d).

    Parameters
    ----------
    solver: with parameters that are expressions in `icl.symbols.n`, such as `GradientDescent(c/n)`,
        `IterativeNewton(c/n**2)` or `Ridge(c*n)`, so that the filter has a limit.
    steps: an integer >= 0. A symbol for gamma = 1 without noise, gradient descent and Newton: a
        hypergeometric function. For `GradientFlow` (gamma = 1) the time, like s/n.
    gamma: positive number or symbol.
    cov_moments: [lim tr Sigma/d, lim tr Sigma^2/d, ...] of the features, for polynomial filters, one
        more than the degree of r^2; `None` is Sigma = I.

    Good for n up to about d; for n > d and small risks the finite formula differs. Sums over many
    steps alternate: evaluate `numeric.solver_risk_limit` beyond about ten. Errors: `InvalidInput`.
    Source: Marchenko and Pastur (1967) for the spectrum; derived here.

    >>> from icltheory.solvers import GradientDescent
    >>> from icltheory.symbols import n
    >>> c = sp.Symbol("c", positive=True)
    >>> sp.expand(solver_risk_limit(GradientDescent(c / n), 1).expr)
    c**2*gamma + c**2 - 2*c + 1
    >>> solver_risk_limit(GradientFlow(), 2 / n, gamma=1).expr
    exp(-8)*besseli(1, 8) + exp(-8)*besseli(0, 8)
    """
    require_solver(solver)
    ratio = checks.positive(gamma, "gamma")
    noise = checks.nonnegative(noise_var, "noise_var")
    told = Step(
        "density rho of the eigenvalues x > 0 of S/n",
        equation("rho", marchenko_pastur_density(ratio).expr),
    )
    if cov_moments is not None:
        moments = [checks.scalar(x, f"cov_moments[{i}]") for i, x in enumerate(cov_moments)]
        expr = _polynomial_limit(solver, steps, ratio, noise, moments)
        mean = limit_moments(ratio, lambda j: moments[j - 1] if j else sp.S.One)(0, 1)
        told = Step("mean eigenvalue m_1 of S/n", equation("m_1", mean))
    elif isinstance(solver, OrdinaryLeastSquares):
        return _formula(
            solver, _least_squares_limit(ratio, noise), sp.Ne(ratio, 1) if noise else sp.true, told
        )
    elif isinstance(solver, Ridge):
        expr = _ridge_limit(solver, ratio, noise)
    elif isinstance(solver, GradientFlow) or not solver._steps(steps).is_Integer:
        expr = _square_limit(solver, steps, ratio, noise)
    else:
        expr = _polynomial_limit(solver, steps, ratio, noise, None)
    return _formula(solver, expr, sp.true, told)


def _formula(solver: Solver, expr: sp.Expr, validity: Any, step: Step) -> Formula:
    return Formula(
        f"risk of {solver.description}, d/n -> gamma",
        expr,
        validity=validity,
        references=(MARCHENKO_PASTUR, *SOURCES),
        steps=(step,),
    )


def _polynomial_limit(
    solver: Solver,
    steps: Any,
    gamma: sp.Expr,
    noise: sp.Expr,
    cov_moments: Sequence[sp.Expr] | None,
) -> sp.Expr:
    residual, solution = polynomials(solver, steps)
    left = _square([_scaled(c * length_symbol**k, solver) for k, c in enumerate(residual)])
    right = _square([_scaled(b * length_symbol ** (k + 1), solver) for k, b in enumerate(solution)])
    if cov_moments is None:
        moment = limit_moments(gamma)
    else:
        needed = 1 + max(len(left) - 1, len(right) if noise else 0)
        if len(cov_moments) < needed:
            raise InvalidInput(
                f"cov_moments has {len(cov_moments)} entries; this filter needs tr Sigma^j / d up to "
                f"j = {needed}."
            )
        moment = limit_moments(gamma, lambda j: cov_moments[j - 1] if j else sp.S.One)
    signal = sp.Add(*(c * moment(1, k) for k, c in enumerate(left)))
    if noise == 0:
        return signal
    # E tr[q^2 S Sigma]: q^2 S is of order 1/n, the trace of order d.
    return signal + noise * gamma * sp.Add(*(c * moment(1, k + 1) for k, c in enumerate(right)))


def _square(coefficients: list[sp.Expr]) -> list[sp.Expr]:
    if not coefficients:
        return []
    return list(reversed((sp.Poly(coefficients[::-1], _X) ** 2).all_coeffs()))


def _scaled(expr: sp.Expr, solver: Solver) -> sp.Expr:
    """The limit of a scaled coefficient as n -> infinity."""
    value = sp.cancel(expr)
    if value.has(length_symbol):
        value = sp.limit(value, length_symbol, sp.oo)
    if value.has(sp.oo, sp.zoo, sp.nan):
        raise InvalidInput(
            f"the filter of {solver!r} has no limit for n -> oo; let its parameters scale with "
            f"icl.symbols.n: step sizes like 1/n, Newton's scale like 1/n**2, penalties like n."
        )
    return value


def _least_squares_limit(gamma: sp.Expr, noise: sp.Expr) -> sp.Expr:
    """The limits of noise through the inverse, from the exact moment with d = gamma n or n = d/gamma."""
    ratio = sp.Dummy("gamma", positive=True)
    inverse = inverse_wishart_moment(1).subs(dim_symbol, ratio * length_symbol)
    factor = sp.limit(inverse, length_symbol, sp.oo)
    long, short = noise * factor.subs(ratio, gamma), noise * factor.subs(ratio, 1 / gamma)
    if noise and gamma == 1:
        raise OutOfDomain("at gamma = 1 the risk of least squares with label noise is infinite.")
    return sp.Piecewise((long, gamma <= 1), (1 - 1 / gamma + short, True))


def _ridge_limit(solver: Ridge, gamma: sp.Expr, noise: sp.Expr) -> sp.Expr:
    """r^2 and q^2 lam in partial fractions; every power of 1/(x + z) is a derivative of the resolvent."""
    z = _scaled(solver.penalty / length_symbol, solver)
    if z.is_nonpositive:
        raise InvalidInput(
            f"the penalty {solver.penalty} grows more slowly than n; pass c*n, c > 0."
        )
    point = sp.Dummy("z", positive=True)
    scaled = Ridge(point).residual_filter().subs(lam, _X)
    weight = sp.cancel((1 - scaled) / _X)
    signal = _resolved(scaled**2, point, gamma)
    total = signal + noise * gamma * _resolved(sp.cancel(weight**2 * _X), point, gamma)
    return total.subs(point, z)


def _resolved(expr: sp.Expr, point: sp.Symbol, gamma: sp.Expr) -> sp.Expr:
    """The average of a rational function of x with its only pole at -point, falling for large x."""
    resolvent, total = marchenko_pastur_resolvent(point, gamma).expr, sp.S.Zero
    numerator, denominator = (sp.Poly(x, _X) for x in sp.fraction(sp.cancel(expr)))
    shifted = sp.Poly(numerator.as_expr().subs(_X, _X - point), _X)  # in powers of x + point
    for (k,), c in shifted.terms():
        order = denominator.degree() - k - 1
        power = (-1) ** order * sp.diff(resolvent, point, order) / sp.factorial(order)
        total += c / denominator.LC() * power
    return total


# -- gamma = 1 -----------------------------------------------------------------------------------


def _square_limit(solver: Solver, steps: Any, gamma: sp.Expr, noise: sp.Expr) -> sp.Expr:
    """At gamma = 1 a power of 1 - c x^p, or exp(-s x), is a hypergeometric series of its moments."""
    if gamma != 1 or noise != 0 or not isinstance(solver, (PowerSolver, GradientFlow)):
        raise InvalidInput(
            "a closed form for a symbolic number of steps, or for gradient flow, exists at gamma = 1 "
            "without noise, for powers of one contraction; pass an integer number of steps, or use "
            "numeric.solver_risk_limit."
        )
    if isinstance(solver, GradientFlow):
        _, rate, _ = late_series(solver, steps)
        s = _scaled(rate * length_symbol, solver)
        series = _hypergeometric(lambda j: (-1) ** j / sp.factorial(j) * _square_moment(j), s)
        return sp.hyperexpand(series)
    contraction = sp.Poly(solver.contraction, lam)
    if len(contraction.terms()) != 2:
        raise InvalidInput(f"the contraction {solver.contraction} is no 1 - c lam^p.")
    ((p,), leading), _ = contraction.terms()
    scale = _scaled(-leading * length_symbol**p, solver)
    count = sp.Dummy("N", positive=True, integer=True)
    series = _hypergeometric(
        lambda j: sp.binomial(2 * count, j) * (-1) ** j * _square_moment(p * j), scale
    )
    return series.xreplace({count: solver.power(steps)})


def _square_moment(power: sp.Expr) -> sp.Expr:
    """lim (1/d) E tr (S/n)^power at gamma = 1, with x = 4 u a Beta integral of the density."""
    half = sp.Rational(1, 2)
    beta = sp.gamma(power + half) * sp.gamma(3 * half) / sp.gamma(power + 2)
    return 4**power * 2 / sp.pi * beta


def _hypergeometric(term: Callable[[sp.Expr], sp.Expr], z: sp.Expr) -> sp.Expr:
    """sum_j term(j) z^j from the ratio of successive terms, which is rational in j; term(0) = 1."""
    ratio = sp.factor(sp.hypersimp(term(_J), _J))
    upper, lower = (sp.Poly(part, _J) for part in sp.fraction(ratio))
    factor = upper.LC() / lower.LC()
    tops, bottoms = _shifts(upper), _shifts(lower)
    bottoms.remove(sp.S.One)  # the factorial of the series
    return sp.hyper(tops, bottoms, sp.expand(factor * z))


def _shifts(polynomial: sp.Poly) -> list[sp.Expr]:
    """The a of all factors j + a."""
    shifts = []
    for factor, multiplicity in polynomial.factor_list()[1]:
        if factor.degree() == 1:
            leading, constant = factor.all_coeffs()
            shifts += [sp.cancel(constant / leading)] * multiplicity
    return shifts


# -- many steps ----------------------------------------------------------------------------------


def late_solver_risk(
    solver: Solver,
    steps: Any,
    n: Any = length_symbol,
    d: Any = dim_symbol,
    *,
    order: int = 2,
) -> Formula:
    """Risk after many steps, without noise: what is not seen plus a power of the steps with its constant.

    Parameters
    ----------
    solver: gradient descent, gradient flow (`steps` is the time), Newton, hyperpower; parameters are
        numbers or symbols, and `steps` may be a symbol.
    order: 1 for the leading law, 2 with the next term.

    r^2 = exp(-A lam^p - A_2 lam^{p+1} - ...) is averaged over the density K lam^a (1 - b lam) of the
    eigenvalues near 0; it holds where the second term is below the first, on prompts where the steps
    do not diverge. Errors: `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> from icltheory.solvers import GradientDescent
    >>> law = late_solver_risk(GradientDescent(0.01), 10**5, n=20, d=20)
    >>> law.evalf(6), late_solver_risk(GradientDescent(0.01), 10**5, n=20, d=20, order=1).evalf(6)
    (0.00435477, 0.00437611)
    """
    require_solver(solver)
    if order not in (1, 2) or isinstance(order, bool):
        raise InvalidInput(f"order = {order!r}: pass 1 for the leading law, 2 with the next term.")
    length = checks.positive_integer(n, "n", "n=40")
    dim = checks.positive_integer(d, "d", "d=20")
    power, leading, second = late_series(solver, steps)
    count, gap = sp.symbols("m nu", positive=True)  # min(n, d) and |n - d|
    sizes = {count: sp.Min(length, dim), gap: sp.Abs(length - dim)}
    a, factor, b = edge_constants(count, gap)

    def integral(k: sp.Expr) -> sp.Expr:
        """int_0^oo lam^k e^{-A lam^p} dlam."""
        return sp.gamma((k + 1) / power) * leading ** (-(k + 1) / power) / power

    parts = (b * integral(a + 1), second * integral(a + power + 1))
    # expand_func reduces the gammas to common ones, which cancel.
    lost = sp.Add(*(joined(sp.factor(sp.expand_func(x / integral(a)))) for x in parts))
    main = joined(factor / dim * integral(a) * (1 - lost if order == 2 else 1))
    falling = required(
        lost.subs(sizes) < 1,
        f"steps = {steps} is too few: the second term of the law exceeds the first",
        "pass more steps, or use icl.solver_risk",
    )
    floor = sp.Max(0, 1 - length / dim)
    density = factor * lam**a * (1 - b * lam)
    return Formula(
        f"risk of {solver.description} after many steps",
        floor + main.subs(sizes),
        validity=falling,
        references=SOURCES,
        steps=(
            Step(
                "L = -log r^2 of the residual filter r, near lam = 0",
                equation("L", leading * lam**power + second * lam ** (power + 1)),
            ),
            Step(
                "density rho of the eigenvalues lam near 0, m = min(n, d) and nu = |n - d|",
                equation("rho", joined(density)),
            ),
        ),
        abbreviations=sp.Dict({x: size for x, size in sizes.items() if not size.is_number}),
    )
