"""Softmax weights of Gaussian scores: p = softmax(s xi), xi ~ N(0, I_n), derived for every n.

The averages that attention needs are polynomials in the power sums P_k = sum_l p_l^k and the score
sums Q_k = sum_l p_l^k xi_l. Gaussian integration by parts, E xi_l f = E d f / d xi_l with
d p_l / d xi_j = s p_l (delta_lj - p_j), removes the Q_k one by one. What remains are moments

    g = E P_2,   g3 = E P_3,   g22 = E P_2^2,   g32 = E P_3 P_2,   ...

(digits name the power sums), functions of n and s that `numeric.prompt_moments` computes. Their
expansion in 1/n follows from the moments of log-normal weights. Exported: `power_sum`, `score_sum`,
`moment_symbol`, `softmax_expectation`, `softmax_moment_slope`, `softmax_moment_expansion`.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import sympy as sp
from sympy.polys.domains import QQ
from sympy.polys.rings import ring
from sympy.utilities.iterables import multiset_partitions

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.formula import DERIVED_HERE, Formula, Step
from icltheory.symbols import n, s


def power_sum(k: int) -> sp.Expr:
    """P_k = sum_l p_l^k; P_1 is 1."""
    return sp.S.One if k == 1 else sp.Symbol(f"P_{k}", positive=True)


def score_sum(k: int) -> sp.Symbol:
    """Q_k = sum_l p_l^k xi_l; Q_1 is what the head reads along the scores."""
    return sp.Symbol(f"Q_{k}", real=True)


def moment_symbol(*parts: int) -> sp.Symbol:
    """The symbol of E P_{k_1} P_{k_2} ...: g for (2,), else g followed by the indices.

    >>> moment_symbol(2), moment_symbol(2, 3)
    (g, g32)
    """
    if not parts or any(not isinstance(k, int) or k < 2 for k in parts):
        raise InvalidInput(f"parts = {parts} are no power sums; pass integers of at least 2.")
    digits = "".join(str(k) for k in sorted(parts, reverse=True))
    return sp.Symbol("g" if digits == "2" else f"g{digits}", positive=True)


def softmax_expectation(polynomial: Any) -> sp.Expr:
    """E of a polynomial in `power_sum(k)` and `score_sum(k)`, as a combination of weight moments.

    Coefficients may contain any other symbols, among them the scale `s` of the scores.
    Source: derived here.

    >>> q = score_sum(1)
    >>> sp.factor(softmax_expectation(q))
    -s*(g - 1)
    >>> sp.Poly(softmax_expectation(q**2), s).all_coeffs()
    [-g + 6*g22 - 6*g3 + 1, 0, g]
    """
    rest = sp.expand(polynomial)
    while scores := sorted((x for x in rest.free_symbols if _kind(x) == "Q"), key=_order):
        first = scores[0]
        a = _order(first)
        terms = sp.Poly(rest, first)
        without = terms.nth(0)
        f = sp.expand((rest - without) / first)
        # E Q_a f = E sum_l d(p_l^a f)/d xi_l: one score fewer in every term.
        by_parts = a * s * (power_sum(a) - power_sum(a + 1)) * f
        by_parts += sum(sp.diff(f, x) * _derivative_along(a, x) for x in f.free_symbols if _kind(x))
        rest = sp.expand(without + by_parts)
    sums = sorted((x for x in rest.free_symbols if _kind(x)), key=_order)
    if not sums:
        return rest
    total = sp.S.Zero
    for exponents, coefficient in sp.Poly(rest, *sums).terms():
        parts = [_order(x) for x, e in zip(sums, exponents, strict=True) for _ in range(e)]
        total += coefficient * (moment_symbol(*parts) if parts else 1)
    return total


@lru_cache(maxsize=64)
def softmax_moment_slope(*parts: int) -> Formula:
    """d/ds of E P_{k_1} P_{k_2} ... in terms of weight moments, at every n.

    From d p_l / ds = p_l (xi_l - Q_1) and integration by parts. Source: derived here.

    >>> sp.factor(softmax_moment_slope(2).expr)
    2*s*(g + 3*g22 - 4*g3)
    """
    moment = moment_symbol(*parts)
    product = sp.Mul(*(power_sum(k) for k in parts))
    slope = sum(
        sp.diff(product, power_sum(k)) * k * (score_sum(k) - power_sum(k) * score_sum(1))
        for k in set(parts)
    )
    return Formula(
        f"slope of {moment}",
        softmax_expectation(slope),
        references=(DERIVED_HERE,),
        steps=(
            Step(
                "derivative inside the average, P_k = sum_l p_l^k and Q_k = sum_l p_l^k xi_l of weights and scores",
                sp.Eq(sp.Symbol("dP/ds"), slope),
            ),
        ),
    )


@lru_cache(maxsize=64)
def softmax_moment_expansion(*parts: int, order: int = 2) -> Formula:
    """The first `order` terms of E P_{k_1} P_{k_2} ... in powers of 1/n, at fixed scale s.

    `parts`: the integers k_1, k_2, ... >= 1. With w = exp(s xi - s^2/2) the moment is a sum of
    E prod w_j^{a_j} / (sum w)^K over distinct tokens; the powers tilt their tokens, and the
    normaliser is expanded around its mean (delta method) with exact log-normal moments. The relative
    error of the leading term is about its second term, which for g is 2 exp(2 s^2)/n at large s. Source: derived here.

    >>> softmax_moment_expansion(2).expr
    exp(s**2)/n + (-2*exp(3*s**2) + 3*exp(2*s**2) - exp(s**2))/n**2
    """
    moment_symbol(*parts)
    order = checks.integer(order, "order", 1, "2")
    degree, count = sum(parts), len(parts)
    poly_ring, w2, length = ring(["w2", "length"], QQ)
    total: dict[int, Any] = {}
    for partition in multiset_partitions(list(range(count))):
        blocks = [sum(parts[i] for i in block) for block in partition]
        tokens, accuracy = len(blocks), order - 1 - (count - len(blocks))
        if accuracy < 0:
            continue
        value = math.prod((length - i for i in range(tokens)), start=poly_ring.one)
        value *= math.prod((_power(w2, a) for a in blocks), start=poly_ring.one)
        spread = _moments_of_sum(w2, length, blocks, 2 * accuracy)
        for k, moment in enumerate(spread):
            term = int(sp.binomial(-degree, k)) * value * moment
            for (in_w2, in_length), coefficient in term.terms():
                power = degree + k - in_length
                total[power] = total.get(power, 0) + coefficient * w2**in_w2
    leading = degree - count
    terms = {
        power: total[power].as_expr().subs(sp.Symbol("w2"), sp.exp(s**2))
        for power in range(leading, leading + order)
    }
    steps = [
        Step(f"coefficient of n**-{p}", sp.Eq(sp.Symbol(f"c{p}"), c)) for p, c in terms.items()
    ]
    expr = sp.Add(*(c / n**p for p, c in terms.items()))
    return Formula(f"expansion of {moment_symbol(*parts)}", expr, steps=tuple(steps))


def _derivative_along(a: int, x: sp.Symbol) -> sp.Expr:
    """sum_l p_l^a dx/d xi_l for a power sum or score sum x."""
    k = _order(x)
    if _kind(x) == "P":
        return k * s * (power_sum(k + a) - power_sum(a + 1) * power_sum(k))
    return power_sum(k + a) + k * s * (score_sum(k + a) - power_sum(a + 1) * score_sum(k))


def _kind(x: Any) -> str:
    """'P' or 'Q' for the power and score sums, '' for every other symbol."""
    head, _, index = x.name.partition("_")
    known = head in ("P", "Q") and index.isdecimal()
    return head if known and x in (power_sum(int(index)), score_sum(int(index))) else ""


def _order(x: Any) -> int:
    return int(x.name[2:])


def _power(w2: Any, k: int) -> Any:
    """E w^k = exp(k (k - 1) s^2 / 2)."""
    return w2 ** (k * (k - 1) // 2)


def _moments_of_sum(w2: Any, length: Any, blocks: list[int], highest: int) -> list[Any]:
    """E (sum_l (w_l - 1))^k, k = 0..highest, where block tokens are tilted by w^a each."""
    cumulants = [0 * w2] * (highest + 1)
    for a, multiplicity in [*((a, 1) for a in blocks), (0, length - len(blocks))]:
        # The tilt by w^a multiplies the token's weight by exp(a s^2).
        raw = [_power(w2, i) * w2 ** (a * i) for i in range(highest + 1)]
        centred = [
            sum(math.comb(i, j) * (-1) ** (i - j) * raw[j] for j in range(i + 1))
            for i in range(highest + 1)
        ]
        own = [0 * w2] * (highest + 1)
        for i in range(1, highest + 1):
            own[i] = centred[i] - sum(
                math.comb(i - 1, j - 1) * own[j] * centred[i - j] for j in range(1, i)
            )
            cumulants[i] += multiplicity * own[i]
    moments = [w2**0]
    for i in range(1, highest + 1):
        moments.append(
            sum(math.comb(i - 1, j - 1) * cumulants[j] * moments[i - j] for j in range(1, i + 1))
        )
    return moments
