"""Contraction moments beta_j = E (1/d) tr (I - eta S/n)^j, S = X'X with n standard Gaussian rows.

They carry every risk of a chain of gradient steps. At numbers n, d they come from Dyck paths weighted
by the bidiagonal form of X; at symbols from the Wishart recursion; where n and d are large from the
Marchenko-Pastur law (its closed forms: `icltheory.contraction_limits`). Exported:
`contraction_moment`, `contraction_moment_limit`, `contraction_generating_function`,
`best_step_condition`; `path_moments` and `contraction_moments` serve the numbers.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from math import comb
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.formula import DERIVED_HERE, Formula, Reference, Step
from icltheory.laws.spectra import MARCHENKO_PASTUR, limit_trace_moment, marchenko_pastur_resolvent
from icltheory.laws.wishart import wishart_trace_moment
from icltheory.readable import collected, positive
from icltheory.solver_steps import number_of_steps
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import eta, z
from icltheory.symbols import gamma as gamma_symbol
from icltheory.symbols import n as length_symbol

BIDIAGONAL = Reference(
    "dumitriu2002matrix",
    "Matrix models for beta ensembles",
    "Dumitriu, Ioana and Edelman, Alan",
    2002,
    "math-ph/0206043",
)
LARGEST_EXACT = 122  # power at numbers n, d: a second
LARGEST_SYMBOLIC = 40
LARGEST_LIMIT = 400


def contraction_moment(
    power: Any, n: Any = length_symbol, d: Any = dim_symbol, step_size: Any = eta
) -> Formula:
    """beta_j = E (1/d) tr (I - step_size X'X/n)^power, exact: X has n standard Gaussian rows.

    Parameters
    ----------
    power: integer from 0 to 122 at numbers n, d; to 40 where one of them is a symbol.
    n, d: positive integers or symbols, step_size: positive number or symbol. Numbers give a
        rational number, symbols a polynomial in d, 1/n and step_size.

    At fixed n it grows without end in `power` for every step size, since the largest eigenvalue is
    unbounded. Errors: `InvalidInput`. Source: binomial sum of Wishart moments, derived here.

    >>> contraction_moment(4, 20, 10, 0.5).expr
    3061/12800
    >>> contraction_moment(2).expr
    eta**2*(d/n + 1 + 1/n) - 2*eta + 1
    """
    length = checks.positive_integer(n, "n", "n=20")
    dim = checks.positive_integer(d, "d", "d=10")
    step = checks.positive(step_size, "step_size", "0.5")
    numbers = length.is_Integer and dim.is_Integer
    j = power_number(power, LARGEST_EXACT if numbers else LARGEST_SYMBOLIC)
    coefficients = _coefficients(j, length, dim)
    expr = _binomial_sum(coefficients, step)
    names = _moment_names(coefficients, expr)
    return Formula(
        f"contraction moment of order {j}",
        expr,
        references=(DERIVED_HERE, BIDIAGONAL),
        steps=_steps(j, coefficients, bool(names)),
        abbreviations=names,
    )


def contraction_moment_limit(
    power: Any, gamma: Any = gamma_symbol, step_size: Any = eta
) -> Formula:
    """The limit of `contraction_moment` for n, d -> infinity with d/n -> gamma; power at most 400.

    Errors: `InvalidInput`. Source: Marchenko and Pastur (1967). For floats and any power use
    `numeric.contraction_moments_limit`.

    >>> contraction_moment_limit(2).expr
    eta**2*(gamma + 1) - 2*eta + 1
    >>> contraction_moment_limit(5, 0.3, 0.5).evalf(9)
    0.124746875
    """
    ratio = checks.positive(gamma, "gamma", "0.5")
    step = checks.positive(step_size, "step_size", "0.5")
    j = power_number(power, LARGEST_LIMIT if ratio.is_number else LARGEST_SYMBOLIC)
    coefficients = tuple(_limit_moment(k, ratio) for k in range(j + 1))
    expr = _binomial_sum(coefficients, step)
    names = _moment_names(coefficients, expr)
    return Formula(
        f"contraction moment of order {j}, d/n -> gamma",
        expr,
        references=(MARCHENKO_PASTUR, DERIVED_HERE),
        steps=_steps(j, coefficients, bool(names)),
        abbreviations=names,
    )


def best_step_condition(
    steps: Any, n: Any = length_symbol, d: Any = dim_symbol, step_size: Any = eta
) -> Formula:
    """(beta_{2t-1} - beta_{2t})/eta at t = steps: zero at the step size with the least beta_{2t}.

    It falls in the step size, and beta_{2t} is convex there; `numeric.best_contraction` solves it.
    Parameters as for `contraction_moment`; steps an integer from 1 to 20 (61 at numbers n, d).

    Errors: `InvalidInput`. Source: derived here.

    >>> condition = best_step_condition(1).expr
    >>> sp.factor(sp.solve(condition, eta)[0])
    n/(d + n + 1)
    """
    count = number_of_steps(steps)
    if not count.is_Integer or count == 0:
        raise InvalidInput(
            f"steps = {steps} is not an integer of at least 1; pass for example steps=2."
        )
    before = contraction_moment(2 * int(count) - 1, n, d, step_size)
    after = contraction_moment(2 * int(count), n, d, step_size)
    step = checks.positive(step_size, "step_size", "0.5")
    slope = sp.expand((before.expr - after.expr) / step)
    slope = slope if step.is_number else collected(slope, step)
    return Formula(
        f"condition of the best step for {checks.counted(count, 'step')}",
        slope,
        references=(DERIVED_HERE,),
        steps=(
            Step(
                "condition C, the slope of the moment in eta over -2 steps",
                sp.Eq(sp.Symbol("C"), slope, evaluate=False),
            ),
        ),
    )


def power_number(power: Any, largest: int) -> int:
    """`power` as an integer from 0 to `largest`."""
    value = int(power) if isinstance(power, sp.Integer) else checks.plain(power)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise InvalidInput(
            f"power = {power!r}: pass an integer from 0 to {largest} (numeric."
            f"contraction_moments_limit takes any power)."
        )
    return value


def edges(gamma: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """The ends (1 -+ sqrt(gamma))^2 of the spectrum of S/n."""
    return (1 - sp.sqrt(gamma)) ** 2, (1 + sp.sqrt(gamma)) ** 2


def contraction_generating_function(gamma: Any = gamma_symbol, step_size: Any = eta) -> Formula:
    """sum_j beta_j z^j of the limiting contraction moments, a Formula in z.

    (1 - z + z eta S)^{-1} summed over j is the resolvent at (1 - z)/(z eta). Valid up to the first
    singularity. Errors: `InvalidInput`. Source: Marchenko and Pastur (1967), derived here.

    >>> f = contraction_generating_function(1, 0.5)
    >>> sp.factor(f.expr)
    -(z + sqrt(1 - z**2) - 1)/(z*(z - 1))
    """
    ratio = checks.positive(gamma, "gamma", "0.5")
    step = checks.positive(step_size, "step_size", "0.5")
    upper = edges(ratio)[1]
    outside = sp.StrictLessThan(z * (step * upper - 1), 1)
    return Formula(
        "generating function of the contraction moments, d/n -> gamma",
        generating(ratio, step),
        validity=sp.And(z < 1, outside),
        references=(MARCHENKO_PASTUR, DERIVED_HERE),
        steps=(
            Step(
                "resolvent m of S/n at -z; wanted at (1 - z)/(z eta), over z eta",
                sp.Eq(sp.Symbol("m"), marchenko_pastur_resolvent(gamma=ratio).expr, evaluate=False),
            ),
        ),
    )


def generating(gamma: sp.Expr, step: sp.Expr) -> sp.Expr:
    """(sqrt(P(z)) - L(z))/(2 gamma step z (1 - z)) with polynomials P and L."""
    point, root = sp.Dummy("p", positive=True), sp.Dummy("R", positive=True)
    resolvent = marchenko_pastur_resolvent(point, gamma).expr
    (square_root,) = (x for x in resolvent.atoms(sp.Pow) if x.exp == sp.S.Half and x.has(point))
    where = (1 - z) / (z * step)
    inside, over = square_root.base, z * step
    square = next(x for x in inside.args if x.is_Pow and x.exp == 2)
    known = sp.expand(over * square.base.subs(point, where)) ** 2
    radicand = known + over**2 * (inside - square).subs(point, where)
    radicand = radicand if radicand.free_symbols - {z} else sp.expand(radicand)
    value = resolvent.xreplace({square_root: root / (z * step)}).subs(point, where) / (z * step)
    numerator, denominator = sp.fraction(sp.cancel(value))
    parts = sp.Poly(numerator, root)
    scale = parts.coeff_monomial(root)
    linear = sp.cancel(parts.coeff_monomial(1) / scale)
    return positive((sp.sqrt(radicand) + linear) / sp.factor(sp.cancel(denominator / scale)))


# -- sums of moments -----------------------------------------------------------------------------


def contraction_moments(top: int, n: int, d: int, step_size: sp.Rational) -> list[sp.Rational]:
    """beta_0, ..., beta_top at numbers, exact; the arguments are not checked.

    (1 - step x)^j over the path moments by differences: a row of the table of E (1/d) tr S^k (1 - step S)^j.
    """
    numerator, denominator = int(step_size.p), int(step_size.q) * n
    # Integers over denominator^top: the moment of order k enters as numerator^k/denominator^k.
    row = [
        numerator**k * denominator ** (top - k) * x for k, x in enumerate(path_moments(n, d, top))
    ]
    scale, out = denominator**top, []
    while row:
        out.append(sp.Rational(row[0], scale))
        row = [x - y for x, y in pairwise(row)]
    return out


@lru_cache(maxsize=64)
def path_moments(n: int, d: int, top: int) -> tuple[int, ...]:
    """E tr (X'X)^k / d, k = 0, ..., top, at integers n, d: sums over Dyck paths.

    Householder reflections started at the first axis leave a bidiagonal matrix whose squared entries
    are independent chi-squares with nu_1 = n, nu_2 = d - 1, nu_3 = n - 1, ... degrees of freedom.
    (X'X)^k at (1, 1) sums over closed walks which use edge h of a path 2 m_h times; binomials
    count them, and E (chi^2_nu)^m = nu (nu + 2) ... is their weight. Source: Dumitriu and Edelman.

    >>> path_moments(20, 10, 3)
    (1, 20, 620, 23880)
    """
    after = [[1] + [0] * top for _ in range(top + 1)]  # [m][r]: walks with r steps beyond edge h
    for h in range(min(top, 2 * min(n, d) + 1) - 1, 0, -1):
        weights = _rising(n, d, h + 1, top)
        used = [[weight * x for x in row] for weight, row in zip(weights, after, strict=True)]
        after = [[1] + [0] * top for _ in range(top + 1)]
        for m in range(1, top - h + 1):
            ways = [comb(m + k - 1, k) for k in range(top - h - m + 2)]
            for r in range(1, top - h - m + 2):
                after[m][r] = sum(ways[k] * used[k][r - k] for k in range(1, r + 1))
    first = _rising(n, d, 1, top)
    return 1, *(sum(first[m] * after[m][k - m] for m in range(1, k + 1)) for k in range(1, top + 1))


def _rising(n: int, d: int, h: int, top: int) -> list[int]:
    """E (chi^2_nu)^m of edge h, m = 0, ..., top; no edge has the weight 0."""
    freedom = max(0, n - (h - 1) // 2 if h % 2 else d - h // 2)
    out = [1]
    for i in range(top):
        out.append(out[-1] * (freedom + 2 * i) if freedom else 0)
    return out


def _coefficients(top: int, length: sp.Expr, dim: sp.Expr) -> tuple[sp.Expr, ...]:
    """E (1/d) tr (S/n)^k, k = 0, ..., top."""
    if length.is_Integer and dim.is_Integer:
        moments = path_moments(int(length), int(dim), top)
        return tuple(sp.Rational(x, int(length) ** k) for k, x in enumerate(moments))
    values = {length_symbol: length, dim_symbol: dim}
    return tuple(_symbolic(k).subs(values, simultaneous=True) for k in range(top + 1))


@lru_cache(maxsize=LARGEST_SYMBOLIC + 1)
def _symbolic(power: int) -> sp.Expr:
    """E (1/d) tr (S/n)^power as a polynomial in d and 1/n."""
    if power == 0:
        return sp.S.One
    polynomial = sp.Poly(wishart_trace_moment(power), length_symbol, dim_symbol)
    return sp.Add(
        *(
            c * length_symbol ** (i - power) * dim_symbol ** (j - 1)
            for (i, j), c in polynomial.terms()
        )
    )


@lru_cache(maxsize=1024)
def _limit_moment(power: int, gamma: sp.Expr) -> sp.Expr:
    return limit_trace_moment(power, gamma)


def _binomial_sum(coefficients: tuple[sp.Expr, ...], step: sp.Expr) -> sp.Expr:
    """sum_k binomial(j, k) (-step)^k m_k, in the moments; expanded at a number for the step."""
    j = len(coefficients) - 1
    terms = (comb(j, k) * (-step) ** k * m for k, m in enumerate(coefficients))
    if step.is_number or not any(m.free_symbols for m in coefficients):
        return sp.expand(sp.Add(*terms))
    return sp.Add(*terms)


def _moment_names(coefficients: tuple[sp.Expr, ...], expr: sp.Expr) -> sp.Dict:
    """m_3, m_4, ... where the moments are parts of a long sum."""
    named = {sp.Symbol(f"m_{k}"): m for k, m in enumerate(coefficients) if m.is_Add}
    return sp.Dict({s: m for s, m in named.items() if expr.has(m)} if len(named) > 1 else {})


def _steps(j: int, coefficients: tuple[sp.Expr, ...], named: bool) -> tuple[Step, ...]:
    """The binomial sum of the moments, which come first where they are not `named` beside it."""
    moments = tuple(
        Step(f"moment m_{k} = E (1/d) tr (S/n)^{k}", _equal(f"m_{k}", m))
        for k, m in enumerate(coefficients)
        if k > 1
    )
    total = sp.Add(*(comb(j, k) * (-eta) ** k * sp.Symbol(f"m_{k}") for k in range(j + 1)))
    title = "binomial sum, with m_k = E (1/d) tr (S/n)^k and m_0 = m_1 = 1"
    return *(() if named else moments[:5]), Step(title, _equal(f"beta_{j}", total))


def _equal(name: str, value: sp.Expr) -> sp.Basic:
    return sp.Eq(sp.Symbol(name), value, evaluate=False)
