"""Opposite heads of small scores at every prompt length: their risk, and why it pays to leave zero.

The symmetric pair has the scores +-k and the values +-v. Its weights are the odd part of a softmax
in the scale, which is a power series whose coefficients are polynomials in the power sums
P_a = sum_i z_i^a of the scores. The averages of these over a Gaussian prompt are exact polynomials
in n, and so is the expansion of the pair's risk in t = k^2: at t = 0 it is debiased gradient
descent, with or without the query token inside the softmax, and its slope there is negative.

The question is that of Cui et al. (arXiv 2401.17426); the results are derived here. Exported:
`small_pair_risk`, `pair_slope`, `pair_scale`, `pair_gain`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp
from sympy.utilities.iterables import multiset_partitions

from icltheory.attention import SoftmaxAttention, on_specifications
from icltheory.errors import InvalidInput
from icltheory.formula import CUI, DERIVED_HERE, Formula, Step
from icltheory.laws.gaussian import isotropic_expectation, wick_moment
from icltheory.lower_bounds import second_moment_task
from icltheory.risk import loss_constant
from icltheory.symbols import k, n, t, v
from icltheory.task import LinearRegression

_SOURCES = (CUI.at("the question; derived here"), DERIVED_HERE)
_PAIR = SoftmaxAttention(heads=2)
_R = sp.Symbol("r", positive=True)


@on_specifications(supports=("include_query", "coef_mean"))
def small_pair_risk(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """Smallest risk of the pair +-k as k -> 0, exact at every n; `minimizer[v]` is sum_h v_h k_h.

    Without the query token this is `optimal_finite_prompt_risk`; with it the weights sum to less
    than 1, at a cost of order n^-3. Zero-sum values only; two or more heads. Holds for n >= 2.
    Source: derived here.

    >>> pair = SoftmaxAttention(heads=2, include_query=True)
    >>> risk = small_pair_risk(LinearRegression(dim=5), pair)
    >>> round(float(risk.subs(n=20)), 6)
    0.241634
    """
    _require_pair(attention)
    task = second_moment_task(task)
    bias, square = _moments(task, attention.include_query, 0)
    best = sp.factor(sp.cancel(bias / square))
    return Formula(
        f"risk of {attention.description}, small opposite scores",
        sp.factor(task.signal * sp.cancel(1 - bias**2 / square)),
        validity=sp.And(n >= 2, task.validity),
        references=_SOURCES,
        steps=(
            Step("mean b of the reading along the query, for sum_h v_h k_h = 1", sp.Eq(_B, bias)),
            Step("mean square M of reading and label noise", sp.Eq(_M, square)),
            Step("least risk 1 - 2 v b + v^2 M over the signal, at v", sp.Eq(v, best)),
        ),
        minimizer=sp.Dict({v: best}),
        attained=False,
    )


@on_specifications(supports=("coef_mean",))
def pair_slope(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """d/dt at t = 0 of the smallest risk of the pair +-sqrt(t), exact at every n >= 2.

    It is negative: at every finite n the best scale is positive. The query token outside the
    softmax. Source: derived here.

    >>> pair_slope(LinearRegression(dim=5), SoftmaxAttention(heads=2)).expr
    -28*(n - 1)/(n*(n + 5)**2)
    """
    _require_pair(attention)
    task = second_moment_task(task)
    bias, square = _moments(task, False, 1)
    risk = 1 - bias**2 / square
    slope = sp.factor(task.signal * sp.cancel(sp.diff(risk, t).subs(t, 0)))
    return Formula(
        f"slope of the risk of {attention.description} in t = k^2 at 0",
        slope,
        validity=sp.And(n >= 2, task.validity),
        references=_SOURCES,
        steps=(
            Step(
                "odd part of the weight w_i over k, of scores k z_i with P_j = sum_i z_i^j",
                sp.Eq(_W, _odd_weight()),
            ),
            Step("mean b of the reading along the query, first order in t", sp.Eq(_B, bias)),
            Step("mean square M of reading and label noise", sp.Eq(_M, square)),
        ),
    )


@on_specifications(supports=("coef_mean",))
def pair_scale(task: LinearRegression) -> Formula:
    """Leading order of the best scale k of the symmetric pair, of order n^(-1/2) as n -> infinity.

    The exact slope at t = k^2 = 0 against the curvature of the loss constant over n. Source: derived
    here.

    >>> pair_scale(LinearRegression(dim=5)).expr
    sqrt(6)/(6*sqrt(n))
    """
    slope, curvature = _leading(task)
    return Formula(
        "best scale k of two opposite heads, leading order",
        sp.sqrt(sp.factor(-slope / curvature) / n),
        validity=task.validity,
        references=_SOURCES,
        steps=_balance(slope, curvature),
    )


@on_specifications(supports=("coef_mean",))
def pair_gain(task: LinearRegression) -> Formula:
    """Leading order of what the best scale saves over k -> 0, of order n^-3. Source: derived here.

    >>> pair_gain(LinearRegression(dim=5)).expr
    7/(3*n**3)
    """
    slope, curvature = _leading(task)
    return Formula(
        "gain of the best scale of two opposite heads, leading order",
        sp.factor(slope**2 / (2 * curvature)) / n**3,
        validity=task.validity,
        references=_SOURCES,
        steps=_balance(slope, curvature),
    )


# -- the mechanism -------------------------------------------------------------------------------

_B, _M, _W, _X = sp.symbols("b M w_i z_i", real=True)


def _leading(task: LinearRegression) -> tuple[sp.Expr, sp.Expr]:
    """n^2 times the slope at t = 0, and the second derivative in t of n times the risk, n -> oo."""
    task = second_moment_task(task)
    slope = sp.limit(n**2 * pair_slope(task, _PAIR).expr, n, sp.oo)
    # (1 -+ 2t)^e through artanh is analytic at t = 0 up to a factor 1/t.
    constant = sp.series(loss_constant(task, _PAIR).expr, t, 0, 3).removeO()
    return slope, sp.factor(2 * sp.expand(constant).coeff(t, 2))


def _balance(slope: sp.Expr, curvature: sp.Expr) -> tuple[Step, ...]:
    risk = sp.Symbol("R")
    return (
        Step(
            "slope of the risk R at t = 0, leading order",
            sp.Eq(sp.Derivative(risk, t), slope / n**2),
        ),
        Step(
            "curvature of R, that of the loss constant",
            sp.Eq(sp.Derivative(risk, t, t), curvature / n),
        ),
    )


def _require_pair(attention: Any) -> None:
    if not isinstance(attention, SoftmaxAttention) or attention.heads < 2 or attention.scores:
        raise InvalidInput(
            f"{attention} is no pair of opposite heads; pass icl.SoftmaxAttention(heads=2), without "
            f"scores."
        )


@lru_cache(maxsize=64)
def _moments(task: LinearRegression, query: bool, order: int) -> tuple[sp.Expr, sp.Expr]:
    """b and M of the risk 1 - 2 v b + v^2 M in units of the signal, up to t^order; v = sum v_h k_h."""
    reading, square_reading, square_weight = _prompt_averages(query, order)
    s, (dim, label) = sp.Symbol("s"), (task.dim, task.noise_var / task.signal)
    out = []
    # kappa = k r; the weights are v r times the odd part over kappa.
    for power, average in ((2, reading), (2, square_reading / dim), (2, square_weight)):
        polynomial = sp.expand(_R**power * average.subs(k, k * _R)).subs(_R, sp.sqrt(s))
        out.append(isotropic_expectation(sp.expand(polynomial), s, dim=dim).expr)
    bias = out[0] / dim
    total = out[1] + (sp.Rational(1) - 1 / dim + label) * out[2]
    return tuple(sp.factor(sp.expand(x).subs(k, sp.sqrt(t))) for x in (bias, total))


def _odd_weight(query: bool = False, order: int = 1) -> sp.Expr:
    """Odd part of exp(kappa z_i) / sum_j exp(kappa z_j) over kappa = `k`, in z_i and the P_a."""
    highest = 2 * order + 1
    count = n + 1 if query else n
    # The query token has the score kappa r.
    sums = [sp.Symbol(f"P_{a}") + (_R**a if query else 0) for a in range(highest + 1)]
    excess = sum(k**a * sums[a] / (sp.factorial(a) * count) for a in range(1, highest + 1))
    numerator = sum((k * _X) ** a / sp.factorial(a) for a in range(highest + 1))
    weight = sp.expand(numerator * sum((-excess) ** j for j in range(highest + 1)) / count)
    return sum(weight.coeff(k, a) * k ** (a - 1) for a in range(1, highest + 1, 2))


@lru_cache(maxsize=8)
def _prompt_averages(query: bool, order: int) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """E T, E T^2 and E sum_i D_i^2 for the odd weights D and T = sum_i D_i z_i, in k and r."""
    weight = _odd_weight(query, order)
    reading = _sum_tokens(_X * weight)
    averages = (reading, reading**2, _sum_tokens(weight**2))
    return tuple(_prompt_average(_truncated(x, 2 * order)) for x in averages)  # type: ignore[return-value]


def _truncated(expr: sp.Expr, order: int) -> sp.Expr:
    expr = sp.expand(expr)
    return sp.Add(*(expr.coeff(k, a) * k**a for a in range(order + 1)))


def _sum_tokens(expr: sp.Expr) -> sp.Expr:
    """sum_i of a polynomial in z_i: z_i^a becomes P_a, and 1 becomes n."""
    polynomial = sp.Poly(sp.expand(expr), _X)
    return sp.Add(*(c * (sp.Symbol(f"P_{a}") if a else n) for (a,), c in polynomial.terms()))


def _prompt_average(expr: sp.Expr) -> sp.Expr:
    """E of a polynomial in the power sums of n independent standard Gaussian scores.

    A product of power sums is a sum over which of its factors share a token: over set partitions
    of the factors, with n (n - 1) .. choices of distinct tokens and one moment a token.
    """
    expr = sp.expand(expr)
    sums = sorted((x for x in expr.free_symbols if x.name.startswith("P_")), key=str)
    if not sums:
        return expr
    total = sp.S.Zero
    for exponents, coefficient in sp.Poly(expr, *sums).terms():
        powers = [int(x.name[2:]) for x, e in zip(sums, exponents, strict=True) for _ in range(e)]
        total += coefficient * _power_sum_moment(tuple(sorted(powers)))
    return sp.expand(total)


@lru_cache(maxsize=512)
def _power_sum_moment(powers: tuple[int, ...]) -> sp.Expr:
    total = sp.S.Zero
    for partition in multiset_partitions(list(range(len(powers)))) if powers else [[]]:
        moments = [_gaussian_moment(sum(powers[i] for i in block)) for block in partition]
        total += sp.Mul(*moments) * sp.ff(n, len(partition))
    return sp.expand(sp.expand_func(total))


@lru_cache(maxsize=64)
def _gaussian_moment(power: int) -> sp.Expr:
    return wick_moment(_X**power, [_X], [0], [[1]])
