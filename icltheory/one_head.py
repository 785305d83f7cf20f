"""One softmax head: what it costs against several, bounds, and where its 1/n law holds.

The optimal constant of one head contains a square root; `one_head_bounds` encloses it, and
`gain_bounds` the ratio to several heads, by what the two terms of the constant do alone. The powers
of n beyond the leading law (`risk_exponent`, `correction_exponent`) are those of a query so rare and
so long that one token takes a finite share of the softmax. The questions are those of Cui et al.
(arXiv 2401.17426); everything is derived here.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from icltheory.attention import SoftmaxAttention, on_specifications
from icltheory.expansion import weight_moment
from icltheory.exponents import phase_exponent
from icltheory.formula import CUI, DERIVED_HERE, Formula, Step
from icltheory.laws.gaussian import quadratic_tilt
from icltheory.laws.tokens import Gaussian
from icltheory.lower_bounds import lower_bound
from icltheory.matrices import Square
from icltheory.risk import loss_constant, optimal_loss_constant
from icltheory.symbols import beta, d, t
from icltheory.task import LinearRegression

_SOURCES = (CUI.at("the question; the statement is derived here"), DERIVED_HERE)
_ONE = SoftmaxAttention(heads=1)


@on_specifications
def one_head_bounds(task: LinearRegression) -> tuple[Formula, Formula]:
    """Lower and upper bound of the optimal one-head constant, without the square root of its t.

    V = (1 - 2t)^{-d/2} [R/(1 - 2t) + (R + noise)/t]. The lower bound minimises the second term
    alone, at t = 1/(d + 2), and takes the first, which increases, at t = 0. The upper bound is V at
    that t: above the optimum by less than 2 % from d = 5 on. Source: derived here.

    >>> low, high = one_head_bounds(LinearRegression(dim=5))
    >>> round(float(low), 4), round(float(high), 4)
    (17.2337, 19.4805)
    """
    constant = loss_constant(task, _ONE)
    factors = sp.Mul.make_args(constant.expr)
    power = sp.Mul(*(x for x in factors if not x.is_Add))
    singular, regular = [], []
    for term in sp.Add.make_args(sp.Mul(*(x for x in factors if x.is_Add))):
        (singular if sp.limit(term, t, 0).is_infinite else regular).append(term)
    second = sp.Add(*singular)
    slope = sp.cancel(sp.diff(power, t) / power + sp.diff(second, t) / second)
    (best,) = sp.solve(sp.fraction(slope)[0], t)
    steps = (*constant.steps, Step("minimum of the term singular at t = 0", sp.Eq(t, best)))
    low = (power * second).subs(t, best) + (power * sp.Add(*regular)).subs(t, 0)
    high = constant.expr.subs(t, best)
    names = [f"{side} bound of the optimal one-head constant" for side in ("lower", "upper")]
    return tuple(  # type: ignore[return-value]
        Formula(name, _tidy(expr), validity=task.validity, references=_SOURCES, steps=steps)
        for name, expr in zip(names, (low, high), strict=True)
    )


@on_specifications(supports=("coef_mean", "local"))
def multihead_gain(task: LinearRegression) -> Formula:
    """How many times more examples one head needs than several, to leading order.

    The ratio of the two optimal loss constants, exact for every d. Its limit for d -> infinity is
    e: `multihead_gain(task).limit(d, oo)`.
    Source: arXiv 2401.17426 (the question); derived here.

    >>> round(float(multihead_gain(LinearRegression(dim=5))), 4)
    3.1926
    """
    one = optimal_loss_constant(task, _ONE)
    many = optimal_loss_constant(task, SoftmaxAttention(heads=2))
    return Formula(
        "gain of several heads over one",
        one.expr / many.expr,
        validity=task.validity,
        references=_SOURCES,
        steps=(*one.steps, *many.steps),
        abbreviations=one.abbreviations,
    )


@on_specifications
def gain_bounds(task: LinearRegression) -> tuple[Formula, Formula]:
    """Lower and upper bound of `multihead_gain`, the factor in examples that one head costs.

    The bounds of `one_head_bounds` over the constant of several heads. The upper one is
    (1 + 2/d)^{d/2 + 1} for every noise, at most 3 sqrt(3) (d = 1); the lower one exceeds e, and both
    tend to e for large d. Source: derived here.

    >>> from icltheory.symbols import noise_var
    >>> low, high = gain_bounds(LinearRegression(dim=d, noise_var=noise_var))
    >>> high.subs(d=1).expr, high.limit(d, sp.oo), low.subs(noise_var=0).limit(d, sp.oo)
    (3*sqrt(3), E, E)
    """
    several = lower_bound(task)
    steps = (Step("constant V_oo of several heads", sp.Eq(sp.Symbol("V_oo"), several.expr)),)
    names = [f"{side} bound of the gain of several heads" for side in ("lower", "upper")]
    return tuple(  # type: ignore[return-value]
        Formula(
            name,
            _quotient(bound.expr, several.expr),
            validity=task.validity,
            references=_SOURCES,
            steps=(*bound.steps, *steps),
        )
        for name, bound in zip(names, one_head_bounds(task), strict=True)
    )


def _tidy(expr: sp.Expr) -> sp.Expr:
    """(1 - 2/(d + 2))^{-d/2} as (1 + 2/d)^{d/2}."""
    return expr.replace(
        lambda x: x.is_Pow and x.base.is_Add and x.exp.is_negative and not x.base.is_polynomial(),
        lambda x: sp.Pow(sp.expand(1 / sp.factor(x.base)), -x.exp),
    )


def _quotient(expr: sp.Expr, divisor: sp.Expr) -> sp.Expr:
    """expr/divisor; the rational factor of a product cancels, its powers stay."""
    powers = [x for x in sp.Mul.make_args(expr) if x.is_Pow and not x.exp.is_Integer]
    rest = expr / sp.Mul(*powers)
    return sp.Mul(*powers) * (sp.factor(sp.cancel(rest / divisor)) if powers else rest / divisor)


# -- exponents ---------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def risk_exponent() -> Formula:
    """nu_0(t): the risk of one head with score scale k = sqrt(t), v = 1/k is n^(-nu_0 + o(1)).

    1 as long as the loss constant is finite (proved), t < 1/2; beyond, the exponent of the rare
    queries of `correction_exponent` (a large-deviation argument, not a proof), up to powers of
    log n. It does not depend on d. Source: derived here.

    >>> nu = risk_exponent()
    >>> [nu.subs(t=x).expr for x in (sp.Rational(1, 3), sp.Rational(4, 3), 4)]
    [1, 1/2, -1/2 + sqrt(2)/2]
    """
    nu, steps = _rare_exponent()
    edge = _end(loss_constant(LinearRegression(dim=d), _ONE).validity)
    assert nu.subs(t, edge) == 1  # the two laws meet
    return Formula(
        "exponent of the one-head risk",
        sp.Piecewise((sp.S.One, t <= edge), (nu, True)),
        references=_SOURCES,
        steps=steps,
    )


@lru_cache(maxsize=1)
def correction_exponent() -> Formula:
    """nu(t): the one-head risk at v = 1/k is c_1(t)/n + n^(-nu + o(1)) for t < 1/2.

    2 as long as the query average of the third weight moment, of which the 1/n^2 term is made, is
    finite (t < 1/6); beyond, rare queries decide. Among n tokens one has a finite share of the
    softmax with probability n^phi at scores of standard deviation beta sqrt(2 log n) (the rare
    phase of `phase_exponent`), and a query gives such scores with probability n^(-beta^2/t): the
    exponent is the minimum of beta^2/t - phi. A large-deviation argument, not a proof; powers of
    log n are left out. Source: derived here.

    >>> nu = correction_exponent()
    >>> [nu.subs(t=x).expr for x in (sp.Rational(1, 10), sp.Rational(1, 6), sp.Rational(2, 5))]
    [2, 2, -1/2 + sqrt(11)/2]
    """
    nu, steps = _rare_exponent()
    u = sp.Symbol("u", real=True)
    third = weight_moment(Gaussian([0], [[1]]), [u], power=3).expr
    rate = sp.diff(sp.log(third).expand(force=True), u, 2) / 2  # E w^3 = exp(rate u^2), u^2 = t r^2
    average = quadratic_tilt(Square.identity(1, d), Square.identity(rate * t, d))
    edge = _end(average.finite)
    assert nu.subs(t, edge) == 2
    return Formula(
        "exponent of the correction to the one-head law",
        sp.Piecewise((sp.Integer(2), t <= edge), (nu, True)),
        validity=loss_constant(LinearRegression(dim=d), _ONE).validity,
        references=_SOURCES,
        steps=(
            Step(
                "third moment rho_3 of a weight at scores of standard deviation u",
                sp.Eq(sp.Symbol("rho_3"), third),
            ),
            *steps,
        ),
    )


@lru_cache(maxsize=1)
def _rare_exponent() -> tuple[sp.Expr, tuple[Step, ...]]:
    """min over beta of beta^2/t - phi(beta) in the phase where one rare token decides."""
    rare = phase_exponent().expr.args[1][0]
    square, y = sp.symbols("b y", positive=True, cls=sp.Dummy)  # beta^2, and sqrt(1 + 4/t)
    # a head gives scores of standard deviation k r: k^2 r^2 = 2 beta^2 log n, r^2/2 = beta^2 log n/t
    cost = square * (y**2 - 1) / 4 - rare.subs(beta, sp.sqrt(square))
    (scale,) = sp.solve(sp.diff(cost, square), square)
    back = {y: sp.sqrt(1 + 4 / t)}
    nu, best = sp.cancel(cost.subs(square, scale)).subs(back), scale.subs(back)
    steps = (
        Step("exponent phi of the error of one rare token", sp.Eq(sp.Symbol("phi"), rare)),
        Step("cost nu of the query and of the token", sp.Eq(sp.Symbol("nu"), beta**2 / t - rare)),
        Step("most likely scale beta of the scores", sp.Eq(beta**2, best)),
    )
    return nu, steps


def _end(condition: sp.Basic) -> sp.Expr:
    """The t at which a condition on t ceases to hold."""
    (edge,) = sp.solve(condition.args[0] - condition.args[1], t)
    return edge
