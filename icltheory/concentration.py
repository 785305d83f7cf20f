"""How fast a finite prompt approaches the infinite one: bounds for every law and every length.

The softmax average T_n is a ratio N/D of empirical means under the weights w = exp(u.z - K(u)). If
they have a variance, E w^2 = rho = exp(K(2u) - 2K(u)), the error has an explicit bound at every n.
Propositions 3.1 and 3.4 of Boursier & Boyer, arXiv 2512.11784, have the same form without
constants. What is exact for Gaussian tokens is in `gaussian_output`, exponents of long prompts in
`exponents`. Exported: `concentration_bound`, `high_probability_bound`, `subgaussian_bound`,
`leading_gradient_error`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.expansion import TiltedMoments, fourth_moment, leading_covariance, weight_moment
from icltheory.formula import BOURSIER, DERIVED_HERE, Formula, Step
from icltheory.gaussian_output import value_gram, value_rows
from icltheory.laws.tokens import TokenLaw
from icltheory.limit import limit_jacobian, limit_output
from icltheory.symbols import delta, n

_HALF = sp.Rational(1, 2)


def concentration_bound(law: TokenLaw, u: Any, threshold: Any = _HALF) -> Formula:
    """A bound of E |T_n(u) - grad K(u)|^2 for every n >= 1 and every law with K(2u) finite.

    T_n - grad K = N/D with D the mean of the weights exp(u.z - K(u)). Where D >= `threshold` the
    error is at most |N|/threshold; the rest has probability at most exp(-n (1 - threshold)^2 /
    (2 rho)), rho = exp(K(2u) - 2K(u)), by Chernoff's bound for weights that are not negative, and
    there the error is bounded by the tokens (Cauchy and Schwarz). Source: derived here.

    >>> from icltheory.laws.tokens import Gaussian
    >>> f = concentration_bound(Gaussian([0], [[1]]), [1])
    >>> [round(float(f.subs(n=m).expr), 4) for m in (100, 1000)]
    [3.3903, 0.0217]
    """
    rho, size, finite = _ingredients(law, u)
    fourth, cut = fourth_moment(law, u).expr, _threshold(threshold)
    rate = _lower_tail_rate(rho, cut)
    expr = bound_expression(rho, size, fourth, cut)
    steps = (
        Step("second moment of the weights", sp.Eq(sp.Symbol("rho"), rho)),
        Step("n E|N|^2", sp.Eq(sp.Symbol("E_N2"), size)),
        Step("fourth moment of a token around the limit", sp.Eq(sp.Symbol("mu4"), fourth)),
        Step("rate of P(D < threshold)", sp.Eq(sp.Symbol("rate"), rate)),
    )
    return Formula("bound of the squared error", expr, validity=finite, steps=steps)


def high_probability_bound(law: TokenLaw, u: Any, threshold: Any = _HALF) -> Formula:
    """A bound of |T_n(u) - grad K(u)| that fails with probability at most delta.

    Formula in n and delta; its validity is the prompt length from which it holds. Half of delta
    goes to a small normaliser (see `concentration_bound`), half to Markov's inequality.
    Source: derived here, after arXiv 2512.11784.

    >>> from icltheory.laws.tokens import Gaussian
    >>> f = high_probability_bound(Gaussian([0], [[1]]), [0])
    >>> f.expr, f.validity
    (2*sqrt(2)/(sqrt(delta)*sqrt(n)), (delta < 1) & (n >= 8*log(2/delta)))
    """
    rho, size, finite = _ingredients(law, u)
    cut = _threshold(threshold)
    rate = _lower_tail_rate(rho, cut)
    failure = delta / 2
    shortest = sp.log(1 / failure) / rate
    expr = sp.sqrt(size / failure / n) / cut
    step = Step("n E|N|^2", sp.Eq(sp.Symbol("E_N2"), size))
    return Formula(
        "bound of the error with probability 1 - delta",
        expr,
        validity=sp.And(finite, sp.StrictLessThan(delta, 1), sp.Ge(n, shortest)),
        steps=(step,),
    )


def subgaussian_bound(sigma: Any, dual_norm: Any, fourth_moment: Any) -> Formula:
    """`concentration_bound` for every centred sigma-sub-Gaussian law with |u| = `dual_norm`.

    `fourth_moment`: a bound of E|z - grad K(u)|^4. Log-weights have exponential moments
    E w^k <= exp(k^2 sigma^2 |u|^2 / 2), since K(u) >= 0 for centred laws.
    Source: derived here, after arXiv 2512.11784.

    >>> subgaussian_bound(1, 0, 3).expr
    sqrt(3)*sqrt(n)*exp(-n/16) + 4*sqrt(3)/n
    """
    radius2 = checks.nonnegative(sigma, "sigma") ** 2 * checks.scalar(dual_norm, "dual_norm") ** 2
    fourth = checks.nonnegative(fourth_moment, "fourth_moment")

    def moment(k: int) -> sp.Expr:
        return sp.exp(sp.Integer(k) ** 2 * radius2 / 2)

    # E w^2 |z - m1|^2 <= sqrt(E w^4 mu4).
    size = sp.sqrt(moment(4)) * sp.sqrt(fourth)
    rate = _lower_tail_rate(moment(2), _HALF)
    expr = size / (_HALF**2 * n) + sp.sqrt(n) * sp.sqrt(fourth) * sp.exp(-rate * n / 2)
    return Formula(
        "bound of the squared error, sub-Gaussian tokens",
        expr,
        references=(DERIVED_HERE, BOURSIER.at("Proposition 3.1, with explicit constants")),
        steps=(
            Step("bound rho of E w^2 of the weights", sp.Eq(sp.Symbol("rho"), moment(2))),
            Step("bound of n E|N|^2, by Cauchy and Schwarz", sp.Eq(sp.Symbol("E_N2"), size)),
            Step("rate of P(D < 1/2)", sp.Eq(sp.Symbol("rate"), rate)),
        ),
    )


def leading_gradient_error(
    law: TokenLaw, u: Any, query: Any, value: Any = None
) -> dict[str, Formula]:
    """lim n E |grad T_n - grad T_inf|^2 for the output V T(U z) at u = U z and `query` = z.

    Keys "V" and "U": squared Hilbert-Schmidt norms of the derivatives of the output in V and in
    U. They are (rows of V) |T_n - T_inf|^2 and |z|^2 |V (C_n - Hess K(u))|^2, with C_n the weighted
    covariance of the tokens. `value`: V; `None` is the identity. Needs K(2u) finite.
    Source: derived here; arXiv 2512.11784, Proposition 3.4, bounds the same errors.

    >>> from icltheory.laws.tokens import Gaussian
    >>> table = leading_gradient_error(Gaussian([0], [[1]]), [1], [2])
    >>> table["V"].expr, table["U"].expr
    (2*E, 28*E)
    """
    rho, size, finite = _ingredients(law, u)
    point = law.point(u)
    z = [checks.scalar(x, f"query[{i}]") for i, x in enumerate(checks.plain(query))]
    if len(z) != law.dim:
        raise InvalidInput(f"query has {len(z)} entries; this law lives in dimension {law.dim}.")
    rows = law.dim if value is None else len(value_rows(law, value))
    gram, hessian = value_gram(law, value), limit_jacobian(law, u).expr
    tilted = TiltedMoments(law, [2 * x for x in point], list(limit_output(law, u).expr))
    indices = range(law.dim)
    left = gram * hessian
    quartic = sum(
        gram[j, k] * tilted((i, i, j, k)) for i in indices for j in indices for k in indices
    )
    quadratic = sum(left[i, j] * tilted((i, j)) for i in indices for j in indices)
    error = rho * (quartic - 2 * quadratic + (hessian * left).trace())
    norm2 = sp.Add(*(x**2 for x in z))
    references = (DERIVED_HERE, BOURSIER.at("Proposition 3.4"))
    output = Step("n times the squared error e_m of the output", sp.Eq(sp.Symbol("e_m"), size))
    jacobian = Step(
        "n times the squared error e_C of the covariance under V", sp.Eq(sp.Symbol("e_C"), error)
    )
    return {
        "V": Formula(
            "error of the V-gradient, times n", rows * size, finite, references, (output,)
        ),
        "U": Formula(
            "error of the U-gradient, times n", norm2 * error, finite, references, (jacobian,)
        ),
    }


# -- ingredients ---------------------------------------------------------------------------------


def bound_expression(rho: sp.Expr, size: sp.Expr, fourth: sp.Expr, cut: sp.Expr) -> sp.Expr:
    """The bound in its ingredients: E w^2, n E|N|^2, the fourth moment, and the threshold."""
    rate = _lower_tail_rate(rho, cut)
    return size / (cut**2 * n) + sp.sqrt(n * fourth) * sp.exp(-rate * n / 2)


def _ingredients(law: TokenLaw, u: Any) -> tuple[sp.Expr, sp.Expr, sp.Basic]:
    """rho = E w^2, E w^2 |X - grad K|^2 and where they are finite, w = exp(u.X - K(u))."""
    rho, covariance = weight_moment(law, u), leading_covariance(law, u)
    return rho.expr, covariance.expr.trace(), covariance.validity


def _lower_tail_rate(rho: sp.Expr, cut: sp.Expr) -> sp.Expr:
    """Rate r of P(D < cut) <= exp(-n r): Chernoff with E exp(-l w) <= exp(-l + l^2 rho / 2)."""
    # A symbol stands for rho, whose powers of exponentials would be taken for a polynomial.
    ell, moment = sp.symbols("ell moment", positive=True, cls=sp.Dummy)
    exponent = ell - ell**2 * moment / 2 - ell * cut
    best = sp.solve(sp.diff(exponent, ell), ell)[0]
    return sp.factor(exponent.subs(ell, best)).xreplace({moment: rho})


def _threshold(value: Any) -> sp.Expr:
    cut = checks.scalar(value, "threshold")
    if not cut.is_number or not 0 < cut < 1:
        raise InvalidInput(f"threshold = {value} must be a number between 0 and 1, such as 1/2.")
    return cut
