"""Local examples: prompts whose features lie around the query, x_i | x_q ~ N(rho x_q, tau^2 Sigma).

With A_h = k_h Sigma^{-1} the prediction of an infinite prompt is (rho sum_h v_h + tau^2 sum_h v_h
k_h) theta.x_q: a plain average of the labels already reads theta. The influence of one example is
that of the base task with features of covariance tau^2 Sigma (`expansion`), since softmax weights do
not see the shift rho x_q; what changes is consistency. Examples independent of the query are the
case rho = 0, tau = 1. The scenario is that of Cui et al. (arXiv 2401.17426), the results are derived
here.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from icltheory.attention import Attention, LinearAttention, SoftmaxAttention, on_specifications
from icltheory.errors import InvalidInput
from icltheory.expansion import NOISE, C, Kernel, U, influence_kernel, kernel_step, query_average
from icltheory.formula import CUI, DERIVED_HERE, Formula, Step
from icltheory.local_linear import (
    centred_task,
    consistent_scale,
    linear_constant,
    linear_limit,
    shift_of,
    uncentred_risk,
)
from icltheory.readable import collected
from icltheory.standard_risk import standard_optimum, standard_risk
from icltheory.symbols import g, n, noise_var, t, v
from icltheory.task import LinearRegression, refuse_options

_SOURCES = (CUI.at("the scenario; the closed form is derived here"), DERIVED_HERE)
_TOTAL = sp.Symbol("S_0", real=True)  # sum_h v_h


@on_specifications(supports=("coef_mean", "local"))
def local_constant(task: LinearRegression) -> Formula:
    """lim n * risk of one head on local examples, as a Formula in the reduced score scale g = tau k.

    A = k Sigma^{-1} and v = 1/(rho + tau g), the consistent value; g = 0 is the plain average of
    the labels, which needs rho > 0. Finite for 2 g^2 < 1. Source: derived here.

    >>> from icltheory.symbols import d
    >>> local_constant(LinearRegression(dim=d, local=(1, 1))).expr
    (g**2/(1 - 2*g**2) + 1)/((1 - 2*g**2)**(d/2)*(g + 1)**2)
    """
    rho, tau = shift_of(task)
    kernel, matrix = influence_kernel("softmax"), task.feature_cov.inverse() * (g / tau)
    pair = query_average(task, kernel, matrix, matrix)
    # The bracket is affine in g^2/(1 - 2 g^2), the tilted variance of the query times g^2.
    plain = pair.bracket.subs(g, 0)
    rest = sp.cancel((pair.bracket - plain) * (1 - 2 * g**2)) / (1 - 2 * g**2)
    variance, slope = pair.normaliser * (sp.expand(plain) + rest), rho + tau * g
    constant = variance / slope**2
    return Formula(
        "loss constant, one softmax head, local examples",
        constant,
        validity=sp.And(2 * g**2 < 1, sp.StrictGreaterThan(slope, 0), task.validity),
        references=_SOURCES,
        steps=(
            Step("limit f of the head over v theta.x_q", sp.Eq(sp.Symbol("f"), slope)),
            Step("consistent value v", sp.Eq(v, 1 / slope)),
            kernel_step(
                kernel,
                "kernel K of the head, features of covariance tau^2 Sigma",
                "tau^2 q'Sigma q, c = tau^4 q'Sigma M Sigma q",
            ),
            Step("variance W at v = 1, averaged over the query", sp.Eq(sp.Symbol("W"), variance)),
            Step("loss constant V = v^2 W", sp.Eq(sp.Symbol("V"), constant)),
        ),
    )


@on_specifications(supports=("coef_mean", "local"))
def local_stationarity(task: LinearRegression) -> Formula:
    """The polynomial in g (degree <= 4) whose root in (0, 1/sqrt(2)) is the best scale of one head.

    Source: derived here.

    >>> local_stationarity(LinearRegression(dim=1, local=(1, 1))).expr
    3*g**3 - 2*g**2 - 3*g + 1
    """
    constant = local_constant(task)
    slope = sum(sp.diff(factor, g) / factor for factor in sp.Mul.make_args(constant.expr))
    # log V falls at g = 0, which fixes the sign.
    expr = -sp.fraction(sp.cancel(sp.together(slope)))[0]
    if sp.Poly(expr, g).nth(0).could_extract_minus_sign():
        expr = -expr
    return Formula(
        "stationary score scale, one softmax head, local examples",
        collected(sp.Poly(expr, g).primitive()[1].as_expr(), g),
        validity=constant.validity,
        references=_SOURCES,
        steps=(
            *constant.steps,
            Step("slope of log V in g", sp.Eq(sp.Symbol("slope"), slope)),
        ),
    )


@on_specifications(supports=("coef_mean", "local"))
def local_value_sum(task: LinearRegression) -> Formula:
    """S_0 = sum_h v_h of the best several heads: what the plain average of the labels contributes.

    Then sum_h v_h k_h = (1 - rho S_0)/tau^2. For rho = 0 it is 0: opposite heads have opposite
    values. Source: derived here.

    >>> local_value_sum(LinearRegression(dim=5, local=(1, 1))).expr
    6/7
    """
    return Formula(
        "sum of the values, several softmax heads, local examples",
        _several_heads(task)[1],
        validity=task.validity,
        references=_SOURCES,
        steps=_several_heads(task)[2],
    )


def shift_floor(
    trained_on: LinearRegression, tested_on: LinearRegression, attention: Attention
) -> Formula:
    """Limit of the risk on prompts of one law, with the parameters that are optimal for another.

    Parameters
    ----------
    trained_on, tested_on: tasks of one dimension and feature covariance; `local`, the noise and the
        coefficients may differ.
    attention: one softmax head at its best scale to leading order, two or more in the limit of
        small scores, scalar heads with scores and values as they are, or linear attention. The
        uncentred layer is not consistent on local examples: its floor is that of
        `trained_on` = `tested_on`.

    Source: derived here.

    >>> base, near = LinearRegression(dim=5), LinearRegression(dim=5, local=(1, 1))
    >>> shift_floor(base, near, SoftmaxAttention(heads=2)).expr
    0
    >>> shift_floor(near, near, LinearAttention()).expr
    7/39
    """
    for task in (trained_on, tested_on):
        if not isinstance(task, LinearRegression):
            raise InvalidInput(
                f"a task has type {type(task).__name__}; pass icl.LinearRegression(dim=5)."
            )
    if trained_on.dim != tested_on.dim or trained_on.feature_cov != tested_on.feature_cov:
        raise InvalidInput(
            "the two tasks differ in dim or feature_cov, to which the scores of a layer belong; only "
            "local, noise_var and the coefficients may differ."
        )
    if not isinstance(attention, (SoftmaxAttention, LinearAttention)):
        raise InvalidInput(
            f"attention has type {type(attention).__name__}; pass icl.SoftmaxAttention(heads=2) or "
            f"icl.LinearAttention()."
        )
    _only_labels(attention)
    if isinstance(attention, LinearAttention):
        scale = consistent_scale(trained_on, attention)
        limit = linear_limit(tested_on, attention).subs(v, scale)
        steps = (Step("trained scale", sp.Eq(v, scale)),)
    else:
        (total, slope), (rho, tau) = _trained_heads(trained_on, attention), shift_of(tested_on)
        gain = rho * total + tau**2 * slope
        limit = tested_on.signal * (gain - 1) ** 2
        steps = (
            Step("trained sum of the values, S_0", sp.Eq(_TOTAL, total)),
            Step("trained sum of values times scores, S_1", sp.Eq(sp.Symbol("S_1"), slope)),
            Step("limit f of the prediction over theta.x_q", sp.Eq(sp.Symbol("f"), gain)),
        )
    return Formula(
        f"limiting risk after a shift, {attention.description}",
        sp.factor(limit) if limit.free_symbols else limit,
        validity=sp.And(trained_on.validity, tested_on.validity),
        references=_SOURCES,
        steps=steps,
    )


# -- what risk.py hands over -----------------------------------------------------------------------


def loss_constant(task: LinearRegression, attention: Attention) -> Formula:
    """`icl.loss_constant` on local examples: one head in t = k^2, or linear attention."""
    _only_labels(attention)
    if isinstance(attention, LinearAttention):
        return linear_constant(task, attention)
    if attention.heads > 1:
        raise InvalidInput(
            f"{attention.heads} heads have no canonical family on local examples, where their "
            f"values do not sum to zero; give scores and values, or use icl.optimal_loss_constant."
        )
    return local_constant(task).subs({g: shift_of(task)[1] * sp.sqrt(t)})


def optimal_loss_constant(task: LinearRegression, attention: Attention) -> Formula:
    """`icl.optimal_loss_constant` on local examples."""
    _only_labels(attention)
    if isinstance(attention, LinearAttention):
        return linear_constant(task, attention)
    if attention.heads == 1:
        return _optimal_one_head(task)
    constant, best, steps = _several_heads(task)
    return Formula(
        f"optimal loss constant, {attention.description}, local examples",
        constant,
        validity=task.validity,
        references=_SOURCES,
        steps=(*steps, Step("best sum of the values, S_0", sp.Eq(_TOTAL, best))),
        attained=False,
    )


def finite_prompt_risk(task: LinearRegression, attention: Attention) -> Formula:
    """`icl.finite_prompt_risk` on local examples; for heads the best sum of values is in it.

    Given the query, the mean of a Gaussian prompt and its centred part are independent: heads with
    small scores read S_0 mean(y) plus a centred layer, which is left with the part 1 - rho S_0 of
    the target.
    """
    _only_labels(attention)
    rho, tau = shift_of(task)
    if isinstance(attention, LinearAttention) and not attention.centered:
        return uncentred_risk(task, attention)
    centred = standard_risk(centred_task(task), attention)
    expr, steps = centred.expr.subs(v, v * tau**2), list(centred.steps)
    if isinstance(attention, SoftmaxAttention):
        rest = 1 - rho * _TOTAL
        mean = _TOTAL**2 * (tau**2 * task.signal + task.noise_var) / n
        expr = sp.expand(rest**2 * sp.expand(expr).subs(v, v / rest)) + mean
        expr = sp.expand(sp.cancel(expr))
        (best,) = sp.solve(sp.diff(expr, _TOTAL), _TOTAL)
        steps += [
            Step(
                "risk r with the mean label, which counts S_0 = sum_h v_h times",
                sp.Eq(sp.Symbol("r"), expr),
            ),
            Step("best sum of the values, S_0", sp.Eq(_TOTAL, best)),
        ]
        expr = sp.cancel(expr.subs(_TOTAL, best))
    return Formula(
        f"{centred.name}, local examples",
        expr,
        validity=centred.validity,
        references=_SOURCES,
        steps=tuple(steps),
    )


# -- heads ---------------------------------------------------------------------------------------


def _optimal_one_head(task: LinearRegression) -> Formula:
    constant, polynomial = local_constant(task), local_stationarity(task)
    free = polynomial.free_symbols - {g}
    if free:
        raise InvalidInput(
            f"the best score scale is the root of a polynomial of degree 4 with the symbols "
            f"{', '.join(sorted(x.name for x in free))}; put numbers into the task, or minimise "
            f"icl.local_constant, or see icl.local_stationarity."
        )
    poly = sp.Poly(polynomial.expr, g)
    rational = poly.domain.is_QQ or poly.domain.is_ZZ
    roots = poly.real_roots() if rational else [x for x in poly.nroots(n=30) if x.is_real]
    inside = [x for x in roots if x > 0 and 2 * x**2 < 1]
    best = min(inside, key=lambda x: constant.expr.subs(g, x).evalf(30))
    square = (best / shift_of(task)[1]) ** 2
    return Formula(
        "optimal loss constant, one softmax head, local examples",
        constant.expr.subs(g, best),
        validity=task.validity,
        references=_SOURCES,
        steps=(
            *polynomial.steps,
            Step("stationary points of log V, a polynomial in g", sp.Eq(polynomial.expr, 0)),
            Step(
                "t = (g/tau)^2 at the best root g in (0, 1/sqrt(2))",
                sp.Eq(t, square, evaluate=False),
            ),
        ),
        minimizer=sp.Dict({t: square}),
        attained=True,
    )


@lru_cache(maxsize=256)
def _several_heads(task: LinearRegression) -> tuple[sp.Expr, sp.Expr, tuple[Step, ...]]:
    """Infimum over any heads, the sum of values S_0 at which it is approached, and the steps.

    The kernel is a positive combination of Gram matrices of every order. Consistency pins order 0,
    sum_h v_h = S_0, and order 1, sum_h v_h A_h = (1 - rho S_0)/tau^2 Sigma^{-1}; the others vanish
    for the heads (k Sigma^{-1}, 0) as k -> 0.
    """
    (rho, tau), inverse = shift_of(task), task.feature_cov.inverse()
    kernel, eps = influence_kernel("softmax"), sp.Symbol("epsilon")
    scaled = (kernel.polynomial * sp.exp(kernel.rate * U)).subs({U: eps * U, C: eps * C})
    orders = [sp.expand(sp.diff(scaled, eps, m).subs(eps, 0)) for m in (0, 1)]
    matrix = inverse * (1 / tau**2)
    mean, centred = (
        sp.expand(query_average(task, Kernel(order, sp.S.Zero), matrix, matrix).bracket)
        for order in orders
    )
    constant = _TOTAL**2 * mean + (1 - rho * _TOTAL) ** 2 * centred
    (best,) = sp.solve(sp.diff(constant, _TOTAL), _TOTAL)
    best = sp.factor(best)
    steps = (
        kernel_step(kernel, "kernel K of a pair of heads"),
        Step("its order 0 in u and c", sp.Eq(sp.Symbol("K_0"), orders[0].subs(NOISE, noise_var))),
        Step(
            "its order 1, the higher ones being positive",
            sp.Eq(sp.Symbol("K_1"), orders[1].subs(NOISE, noise_var)),
        ),
        Step(
            "loss constant V, orders 0 and 1 averaged over the query, S_0 = sum_h v_h",
            sp.Ge(sp.Symbol("V"), constant),
        ),
    )
    return sp.factor(sp.cancel(constant.subs(_TOTAL, best))), best, steps


def _trained_heads(task: LinearRegression, attention: SoftmaxAttention) -> tuple[sp.Expr, sp.Expr]:
    """sum_h v_h and sum_h v_h k_h of the optimal heads, or of the given ones."""
    rho, tau = shift_of(task)
    if attention.scores is not None:
        if not attention.has_scalar_scores or attention.values is None:
            raise InvalidInput(
                "a shift is evaluated for scalar heads with values: give one number a head as its "
                "score (A_h = k_h Sigma^{-1}), and values; icl.limit_risk takes matrices."
            )
        pairs = zip(attention.values, attention.scores, strict=True)
        return sp.Add(*attention.values), sp.Add(*(value * k for value, k in pairs))
    if attention.heads == 1:
        head = standard_optimum(task, attention) if task.local is None else _optimal_one_head(task)
        best = head.minimizer
        assert best is not None
        k = sp.sqrt(best[t])
        value = 1 / (rho + tau**2 * k)
        return value, value * k
    total = local_value_sum(task).expr
    return total, sp.factor((1 - rho * total) / tau**2)


# -- small helpers -------------------------------------------------------------------------------


def _only_labels(attention: Attention) -> None:
    refuse_options(attention.options, ("include_query",))
