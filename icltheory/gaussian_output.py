"""Exact moments of a softmax head's output on Gaussian tokens, at every prompt length.

For tokens N(m, G) and dual point u the mean, covariance, squared error and mean Jacobian of the
softmax average are exact in the weight moments g, g3, g22, functions of n and of the standard
deviation s = sqrt(u'G u) of the scores (`numeric.output_moments` puts them in). Derived here from
`laws.weights`. Exported: `response_coefficients`, `mean_output`, `output_covariance`,
`mean_jacobian`, `output_error`, `output_error_expansion`, `query_averaged_error`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.formula import Formula, Step
from icltheory.laws.gaussian import quadratic_tilt
from icltheory.laws.tokens import Gaussian, TokenLaw
from icltheory.laws.weights import (
    moment_symbol,
    power_sum,
    s,
    score_sum,
    softmax_expectation,
    softmax_moment_expansion,
    softmax_moment_slope,
)
from icltheory.matrices import Square, covariance
from icltheory.symbols import n


@lru_cache(maxsize=1)
def response_coefficients() -> dict[str, Formula]:
    """The functions of the weights that determine a head's output on tokens N(m, G), at every n.

    With dual point u and T the softmax average:
    E T = m + gain G u;  Cov T = spread G + excess G u u'G;
    E|T - m - G u|^2 = spread tr G + error |G u|^2;  E dT/du = gain G + bend G u u'G.

    Derived by splitting every token along G^{1/2} u: the other components are independent of the
    weights, the one along is xi_l.
    Source: derived here.

    >>> response_coefficients()["error"].expr
    g + 6*g22 - 6*g3
    """
    first = softmax_expectation(score_sum(1))
    second = softmax_expectation(score_sum(1) ** 2)
    spread = softmax_expectation(power_sum(2))
    gain = sp.cancel(first / s)
    excess = sp.cancel((second - first**2 - spread) / s**2)
    slope = softmax_moment_slope(2).expr
    bend = sp.cancel(sp.diff(gain, moment_symbol(2)) * slope / s)
    table = {
        "gain": gain,
        "spread": spread,
        "excess": excess,
        "error": sp.expand(excess + (gain - 1) ** 2),
        "bend": bend,
    }
    steps = (
        Step(
            "E sum_l p_l xi_l of weights and scores by parts, g = E sum_l p_l^2",
            sp.Eq(sp.Symbol("E_Q"), first),
        ),
        Step(
            "E (sum_l p_l xi_l)^2 by parts, g3 = E sum_l p_l^3 and g22 = E (sum_l p_l^2)^2",
            sp.Eq(sp.Symbol("E_Q2"), second),
        ),
    )
    return {
        name: Formula(f"{name} of the softmax average", sp.expand(expr), steps=steps)
        for name, expr in table.items()
    }


def mean_output(law: Gaussian, u: Any) -> Formula:
    """E T_n(u), d x 1, in the weight moment g: linear in u on average, with gain 1 - g.

    `law`: Gaussian tokens; `u`: dual point K'Q x, d entries. Exact at every n, with g at
    s = sqrt(u' cov u). Source: derived here.

    >>> mean_output(Gaussian([0, 1], [[1, 0], [0, 2]]), [1, 1]).expr.T
    Matrix([[1 - g, 3 - 2*g]])
    """
    shift, _ = _shift(law, u)
    gain = response_coefficients()["gain"]
    expr = (law.mean + shift * gain.expr).applyfunc(sp.expand)
    return Formula("mean output", sp.ImmutableMatrix(expr), steps=gain.steps)


def output_covariance(law: Gaussian, u: Any) -> Formula:
    """Cov T_n(u), d x d, in the weight moments g, g3, g22; exact at every n.

    Arguments as in `mean_output`. Source: derived here.

    >>> output_covariance(Gaussian([0], [[2]]), [1]).expr
    Matrix([[-4*g**2 + 6*g + 24*g22 - 24*g3]])
    """
    return _rank_one(law, u, "spread", "excess", "covariance of the output")


def mean_jacobian(law: Gaussian, u: Any) -> Formula:
    """E dT_n/du = grad E T_n, d x d, in g, g3, g22: the mean of the weighted token covariance.

    Arguments as in `mean_output`. Source: derived here.

    >>> mean_jacobian(Gaussian([0], [[2]]), [1]).expr
    Matrix([[-10*g - 24*g22 + 32*g3 + 2]])
    """
    return _rank_one(law, u, "gain", "bend", "mean Jacobian of the output")


def output_error(law: Gaussian, u: Any, value: Any = None) -> Formula:
    """E |V (T_n(u) - m - G u)|^2 in the weight moments g, g3, g22; exact at every n >= 1.

    `value`: V, any number of rows of length d; `None` is the identity. Source: derived here.

    >>> output_error(Gaussian([0, 1], [[1, 0], [0, 2]]), [1, 1]).expr
    8*g + 30*g22 - 30*g3
    """
    total, along = _sizes(law, u, value)
    table = response_coefficients()
    expr = sp.expand(table["spread"].expr * total + table["error"].expr * along)
    return Formula("squared error of the output", expr, steps=table["error"].steps)


def output_error_expansion(law: Gaussian, u: Any, value: Any = None, order: int = 2) -> Formula:
    """The first `order` terms of `output_error` in powers of 1/n, at fixed u.

    The steps state the ratio of the second to the first term, which says from which n on the
    leading term holds; at large s it is of the size of exp(2 s^2)/n (times 2 across the scores,
    8 along them). Source: derived here (delta method with log-normal moments).

    >>> f = output_error_expansion(Gaussian([0], [[1]]), [1], order=1)
    >>> f.expr
    2*E/n
    """
    order = checks.integer(order, "order", 1, "2")
    _, scale2 = _shift(law, u)
    exact = output_error(law, u, value).expr
    moments = {
        moment_symbol(*parts): softmax_moment_expansion(*parts, order=size).expr
        for parts, size in (((2,), order), ((3,), order - 1), ((2, 2), order - 1))
        if size > 0
    }
    missing = {moment_symbol(3): 0, moment_symbol(2, 2): 0}
    series = sp.expand(exact.subs({**missing, **moments}))
    x = sp.Dummy("x")
    terms = [
        sp.expand(series.subs(n, 1 / x)).coeff(x, j).subs(s, sp.sqrt(scale2))
        for j in range(1, order + 1)
    ]
    steps = ()
    if order > 1:
        ratio = sp.Eq(sp.Symbol("second/first"), sp.cancel(terms[1] / terms[0]) / n)
        steps = (Step("relative size of the second term", ratio),)
    expr = sp.Add(*(c / n**j for j, c in enumerate(terms, start=1)))
    return Formula("squared error of the output, expanded", expr, steps=steps)


def query_averaged_error(law: Gaussian, score: Any, query_cov: Any, value: Any = None) -> Formula:
    """lim n E |V (T_n(U z) - T_inf(U z))|^2 over a query z ~ N(0, query_cov), U = `score`.

    `score`, `query_cov`: d x d, a number (multiple of I) or d eigenvalues; semi-definite query_cov
    allowed. `value`: V as in `output_error`. The limit is finite where the validity holds,
    tau^2 < 1/2 for tau = |G^{1/2} U query_cov^{1/2}|; beyond, the error decays slower
    (`concentration_exponent`). Source: derived here.

    >>> f = query_averaged_error(Gaussian([0], [[1]]), sp.Symbol("k"), 1)
    >>> f.expr, f.validity
    ((-k**2/(2*k**2 - 1) + 1)/sqrt(1 - 2*k**2), k**2 < 1/2)
    """
    _require_gaussian(law)
    dim = sp.Integer(law.dim)
    gamma = Square.coerce(law.cov, dim, "cov")
    u = Square.coerce(score, dim, "score")
    query = covariance(query_cov, dim, "query_cov", definite=False)
    gram = Square.explicit(value_gram(law, value).tolist())
    # At order 1/n the error is exp(s^2) (tr + a'a), with s^2 and a'a quadratic in the query.
    table = response_coefficients()
    leading = {moment_symbol(2): 1, moment_symbol(3): 0, moment_symbol(2, 2): 0}
    across, along = (table[name].expr.subs(leading) for name in ("spread", "error"))
    tilt = quadratic_tilt(query, u.T @ gamma @ u)
    square = (u.T @ gamma @ gram @ gamma @ u @ tilt.cov).trace()
    expr = tilt.normaliser * (across * (gram @ gamma).trace() + along * square)
    step = Step("weight at order 1/n", sp.Eq(sp.Symbol("n*g"), sp.exp(s**2)))
    return Formula("query-averaged squared error, times n", expr, tilt.finite, steps=(step,))


def value_gram(law: TokenLaw, value: Any) -> sp.Matrix:
    """V'V."""
    if value is None:
        return sp.eye(law.dim)
    matrix = sp.Matrix(value_rows(law, value))
    return matrix.T * matrix


def value_rows(law: TokenLaw, value: Any) -> list[list[sp.Expr]]:
    value = checks.plain(value)
    flat = isinstance(value, (list, tuple)) and not any(
        isinstance(checks.plain(x), (list, tuple)) for x in value
    )
    entries = checks.rows([value] if flat else value, "value")
    if len(entries[0]) != law.dim:
        raise InvalidInput(
            f"value has rows of length {len(entries[0])}; this law lives in dimension {law.dim}."
        )
    return entries


def _require_gaussian(law: Any) -> None:
    if not isinstance(law, Gaussian):
        raise InvalidInput(
            f"law has type {type(law).__name__}; finite prompts are exact for icl.Gaussian tokens "
            f"only. For other laws use icl.leading_bias, icl.leading_covariance and "
            f"icl.concentration_bound."
        )


def _shift(law: Gaussian, u: Any) -> tuple[sp.Matrix, sp.Expr]:
    """G u and u'G u."""
    _require_gaussian(law)
    point = sp.Matrix(law.point(u))
    shift = law.cov * point
    return shift, sp.expand((point.T * shift)[0])


def _rank_one(law: Gaussian, u: Any, first: str, second: str, name: str) -> Formula:
    shift, _ = _shift(law, u)
    table = response_coefficients()
    matrix = law.cov * table[first].expr + shift * shift.T * table[second].expr
    return Formula(name, sp.ImmutableMatrix(matrix.applyfunc(sp.expand)), steps=table[second].steps)


def _sizes(law: Gaussian, u: Any, value: Any) -> tuple[sp.Expr, sp.Expr]:
    """tr V G V' and |V G u|^2."""
    shift, _ = _shift(law, u)
    gram = value_gram(law, value)
    return sp.expand((gram * law.cov).trace()), sp.expand((shift.T * gram * shift)[0])
