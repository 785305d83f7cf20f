"""The best fixed parameters of a solver, the best polynomial, and the best filter of all.

For Gaussian prompts the expected risk of a polynomial filter is a quadratic form in its coefficients
whose matrix holds the trace moments. Minimising it over all coefficients gives the best polynomial
of a degree; along the family of one solver, a polynomial in its parameter. Without a bound on the
degree the best filter is ridge regression. Exported: `optimal_solver_risk`, `best_polynomial_risk`,
`optimal_ridge`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import sympy as sp
from sympy.polys.matrices import DomainMatrix

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.formula import Formula, Step
from icltheory.solvers import Ridge, Solver
from icltheory.spectral_risk import SOURCES, PromptLaw, solver_risk
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import lam
from icltheory.symbols import n as length_symbol

_LARGEST_DEGREE = 40
_DIGITS = 30


def optimal_solver_risk(
    solver: Solver,
    steps: Any = None,
    n: Any = length_symbol,
    d: Any = dim_symbol,
    noise_var: Any = 0,
    *,
    cov: Any = None,
) -> Formula:
    """`icl.solver_risk` at the best value of the one parameter which is a symbol in `solver`.

    Parameters
    ----------
    solver: with one parameter left as a positive symbol, `GradientDescent(eta)`.
    n, d: numbers, or symbols where the risk is quadratic in the parameter (one step of gradient
        descent, no step of Newton).

    The value is fixed before the prompts are drawn. `Formula.minimizer` maps the symbol to it; where it
    solves an equation above first degree, it and the risk are given to 30 digits. Errors:
    `InvalidInput`. Source: derived here.

    >>> from icltheory.solvers import GradientDescent
    >>> from icltheory.symbols import noise_var
    >>> eta = sp.Symbol("eta", positive=True)
    >>> best = optimal_solver_risk(GradientDescent(eta), 1, noise_var=noise_var)
    >>> best.expr
    (d*noise_var + d + 1)/(d*noise_var + d + n + 1)
    >>> optimal_solver_risk(GradientDescent(eta), 4, n=40, d=20).evalf(6)
    0.0953311
    """
    risk = solver_risk(solver, steps, n, d, noise_var, cov=cov)
    parameter = _parameter(solver, risk, n, d, noise_var)
    return _optimal(risk, parameter)


@lru_cache(maxsize=64)
def _optimal(risk: Formula, parameter: sp.Symbol) -> Formula:
    polynomial = sp.Poly(risk.expr, parameter)
    slope = polynomial.diff(parameter)
    if slope.degree() == 1:
        leading, constant = slope.all_coeffs()
        best = sp.factor(-constant / leading)
        least = sp.factor(polynomial.as_expr().subs(parameter, best))
    elif slope.free_symbols_in_domain:
        names = ", ".join(sorted(s.name for s in slope.free_symbols_in_domain))
        raise InvalidInput(
            f"the best {parameter} solves an equation of degree {slope.degree()} and {names} are "
            f"left in it; put numbers in for them."
        )
    else:
        best, least = _least(polynomial, slope)
    return Formula(
        f"{risk.name}, best {parameter}",
        least,
        validity=risk.validity,
        references=risk.references,
        steps=(*risk.steps, Step("stationarity", sp.Eq(slope.as_expr(), 0, evaluate=False))),
        minimizer=sp.Dict({parameter: best}),
        attained=True,
    )


def _least(polynomial: sp.Poly, slope: sp.Poly) -> tuple[sp.Expr, sp.Expr]:
    """The positive critical point with the least value, and the value, to 30 digits.

    Intervals that isolate the roots are exact; they are bisected in rational numbers.
    """
    whole = slope.clear_denoms(convert=True)[1].sqf_part()
    candidates = []
    for (low, high), _ in whole.intervals(inf=0):
        if high > 0:
            root = _bisected([int(c) for c in whole.all_coeffs()], low, high)
            candidates.append((polynomial.eval(root), root))
    if not candidates:
        raise InvalidInput("the risk has no minimum at a positive value of the parameter.")
    least, best = min(candidates)
    return best.evalf(_DIGITS), least.evalf(_DIGITS)


def _bisected(coefficients: list[int], low: sp.Rational, high: sp.Rational) -> sp.Rational:
    """The root between low and high, a fraction of integers over one power of ten."""
    unit = 10 ** (_DIGITS + 3 + max(0, math.ceil(-math.log10(high))))

    def sign(x: int) -> bool:
        value, scale = 0, 1
        for c in coefficients:
            value, scale = value * x + c * scale, scale * unit
        return value > 0

    a, b = math.floor(low * unit), math.ceil(high * unit)
    above = sign(b)
    while b - a > 1:
        middle = (a + b) // 2
        a, b = (a, middle) if sign(middle) == above else (middle, b)
    return sp.Rational(b, unit)


def _parameter(solver: Solver, risk: Formula, *others: Any) -> sp.Symbol:
    taken = set().union(*(sp.sympify(x).free_symbols for x in others))
    free = {s for s in risk.free_symbols - taken if s in _symbols_of(solver)}
    if not free and (unused := _symbols_of(solver) - taken):
        names = ", ".join(sorted(s.name for s in unused))
        raise InvalidInput(f"the risk does not depend on {names}: take at least one step.")
    if len(free) != 1:
        names = ", ".join(sorted(s.name for s in free)) or "none"
        raise InvalidInput(
            f"{solver!r} has the free parameters {names}; leave exactly one of them as a positive "
            f"symbol, for example icl.GradientDescent(sympy.Symbol('eta', positive=True))."
        )
    return free.pop()


def _symbols_of(solver: Solver) -> set[Any]:
    values = (getattr(solver, name) for name in solver.__dataclass_fields__)
    return set().union(*(x.free_symbols for x in values if isinstance(x, sp.Expr)))


# -- all polynomials -----------------------------------------------------------------------------


def best_polynomial_risk(
    degree: int,
    n: Any = length_symbol,
    d: Any = dim_symbol,
    noise_var: Any = 0,
    *,
    cov: Any = None,
) -> Formula:
    """Least risk of any fixed polynomial filter w_hat = q(S) X'y, where r = 1 - lam q has this degree.

    Arguments as for `solver_risk`; degree 0 is the zero predictor. `Formula.minimizer` maps q_0, q_1,
    ... to the coefficients of q. No solver of this degree with fixed parameters does better.
    Errors: `InvalidInput`. Source: derived here with noise.

    >>> best_polynomial_risk(1).expr
    (d + 1)/(d + n + 1)
    >>> best_polynomial_risk(2, n=40, d=20).evalf(8)
    0.15545514
    """
    if (
        isinstance(degree, bool)
        or not isinstance(degree, int)
        or not 0 <= degree <= _LARGEST_DEGREE
    ):
        raise InvalidInput(
            f"degree = {degree!r} is no degree; pass an integer from 0 to {_LARGEST_DEGREE}."
        )
    law = PromptLaw.of(n, d, noise_var, cov)
    dim = law.dim
    # R = p_0 - 2 q.v + q'Aq with v_i = p_{i+1}, A_ij = p_{i+j+2} + d noise_var p_{i+j+1}, all over d.
    p = [sp.expand(law.moment(k) / dim) for k in range(2 * degree + 1)]
    expr, best = p[0], ()
    if degree:
        rows = range(degree)
        matrix = [[p[i + j + 2] + dim * law.noise_var * p[i + j + 1] for j in rows] for i in rows]
        target = [p[i + 1] for i in rows]
        best = _solved(matrix, target)
        expr = sp.factor(p[0] - sp.Add(*(x * y for x, y in zip(best, target, strict=True))))
    return Formula(
        f"least risk of a polynomial filter of degree {degree}",
        expr,
        references=SOURCES,
        steps=(Step("moments E tr(Sigma S^k)/d", sp.Tuple(*p)),),
        minimizer=sp.Dict({sp.Symbol(f"q_{i}"): x for i, x in enumerate(best)}),
        attained=True,
    )


def _solved(matrix: list[list[sp.Expr]], target: list[sp.Expr]) -> list[sp.Expr]:
    left = DomainMatrix.from_Matrix(sp.Matrix(matrix)).to_field()
    right = DomainMatrix.from_Matrix(sp.Matrix(target)).to_field()
    left, right = left.unify(right)
    return [sp.factor(x) for x in left.lu_solve(right).to_Matrix()]


def optimal_ridge(d: Any = dim_symbol, noise_var: Any = 1, coef_var: Any = None) -> Ridge:
    """The best spectral filter of all for Gaussian coefficients and noise: ridge regression.

    Returns the solver `icl.Ridge(penalty)`, not a Formula; `numeric.solver_risk` has its risk.

    coef_var: variance of a coefficient; `None` is 1/d. The penalty is noise_var/coef_var, and the
    risk that of the Bayes predictor, `numeric.bayes_risk`. Source: pointwise minimisation of the
    error at one eigenvalue.

    >>> optimal_ridge(20, 0.05)
    Ridge(penalty=1)
    """
    dim = checks.positive_integer(d, "d", "d=20")
    noise = checks.nonnegative(noise_var, "noise_var")
    if noise.is_zero:
        raise InvalidInput(
            f"noise_var = {noise_var}: without noise least squares is the best filter."
        )
    variance = 1 / dim if coef_var is None else checks.positive(coef_var, "coef_var")
    weight, penalty = sp.Dummy("q"), sp.Dummy("c")
    error = variance * (1 - lam * weight) ** 2 + noise * lam * weight**2
    (best,) = sp.solve(sp.diff(error, weight), weight)
    (value,) = sp.solve(sp.numer(sp.together(best - 1 / (lam + penalty))), penalty)
    return Ridge(sp.cancel(value))
