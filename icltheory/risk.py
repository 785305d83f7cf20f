"""Loss constants and their optima: lim n * risk of softmax heads and of linear attention.

`head_constant` sums the pair kernel of `expansion` over any heads; `loss_constant` is its case of
one scalar head and of the symmetric pair; `optimal_loss_constant` minimises it. The problem is that
of Cui et al. (arXiv 2401.17426); the closed forms are derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, product
from typing import Any

import sympy as sp

from icltheory.attention import (
    OPTIONS,
    Attention,
    LinearAttention,
    SoftmaxAttention,
    on_specifications,
)
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.expansion import PairAverage, U, influence_kernel, query_average
from icltheory.formula import CUI, DERIVED_HERE, Formula, Step
from icltheory.limit import consistent_scores, head_limit, is_consistent, limit_risk, scalar_heads
from icltheory.lower_bounds import lower_bound
from icltheory.matrices import Square
from icltheory.symbols import k, n, t, v
from icltheory.task import LinearRegression

_SOURCES = (CUI.at("the question; the closed form is derived here"), DERIVED_HERE)


def head_constant(
    task: LinearRegression, score_matrices: Sequence[Any], values: Sequence[Any]
) -> Formula:
    """lim n * risk of any consistent softmax heads with scores x_q'A_h x_i and values v_h.

    Parameters
    ----------
    score_matrices: one entry a head: a d x d matrix A_h, or a number k_h meaning k_h Sigma^{-1}.
    values: one number a head, with sum_h v_h A_h = Sigma^{-1} (up to rounding, for floats).

    Exact: floats are read as decimals and the result is an expression. It is finite iff
    Sigma^{1/2} A_h Sigma A_h' Sigma^{1/2} has eigenvalues below 1/2 for every head; else
    `OutOfDomain`. Inconsistent heads have no constant: `InvalidInput` with the limiting risk, which
    `head_floor` derives. Source: derived here (delta method and exponential tilting).

    >>> task = LinearRegression(dim=5)
    >>> float(head_constant(task, [0.35], [1 / 0.35])).__round__(4)
    19.1556
    """
    return loss_constant(task, SoftmaxAttention(scores=score_matrices, values=values))


@on_specifications(supports=OPTIONS)
def loss_constant(task: LinearRegression, attention: Attention) -> Formula:
    """lim n * risk on the consistent manifold, as a Formula in (d, noise_var, t), scores k = sqrt(t).

    One head: A = k Sigma^{-1}, v = 1/k. Two heads: the symmetric pair +-k with values +-1/(2k).
    Linear attention: no t. An attention with explicit scores and values is evaluated as it is.
    Holds for 0 < t < 1/2. More heads without scores have no canonical family: `InvalidInput`.
    Prior knowledge and local examples are in `icltheory.prior` and `icltheory.local`; the query
    token inside the softmax changes no constant.

    >>> from icltheory.symbols import d, noise_var
    >>> loss_constant(LinearRegression(dim=d, noise_var=noise_var), SoftmaxAttention(heads=1)).expr
    (1/(1 - 2*t) + (noise_var + 1)/t)/(1 - 2*t)**(d/2)
    """
    if (scenario := _scenario(task, attention)) is not None:
        return scenario.loss_constant(task, attention)
    if isinstance(attention, LinearAttention):
        return _linear_constant(task)
    if attention.scores is not None:
        _require_consistent(task, attention)
        return _constant(task, attention)
    if attention.heads > 2:
        raise InvalidInput(
            f"{attention.heads} heads have no canonical family; give their scores and values "
            f"(icl.head_constant), or ask for the infimum (icl.optimal_loss_constant)."
        )
    formula = _constant(task, scalar_heads([1] if attention.heads == 1 else [1, -1]))
    expr = formula.expr if attention.heads == 1 else _combine_opposite_powers(formula.expr)
    return Formula(
        f"loss constant, {attention.description}",
        expr,
        validity=sp.And(t < sp.S.Half, task.validity),
        references=formula.references,
        steps=formula.steps,
    )


@on_specifications(supports=OPTIONS)
def optimal_loss_constant(task: LinearRegression, attention: Attention) -> Formula:
    """Infimum of lim n * risk over scores and values, for any number of heads.

    One head: attained at a finite t, `minimizer[t]`. Two or more heads: approached by small
    opposite scores, never attained. Linear attention: attained at the consistent matrix. Prior
    knowledge and local examples as in `loss_constant`.

    >>> best = optimal_loss_constant(LinearRegression(dim=5), SoftmaxAttention(heads=1))
    >>> round(float(best), 4), round(float(best.minimizer[t]), 5)
    (19.1555, 0.12285)
    >>> best = optimal_loss_constant(LinearRegression(dim=5), SoftmaxAttention(heads=2))
    >>> best.expr, best.attained
    (6, False)
    """
    if isinstance(attention, SoftmaxAttention) and attention.scores is not None:
        raise InvalidInput(
            "the scores are given, nothing is left to optimise; use icl.loss_constant, or leave "
            "the scores out."
        )
    if (scenario := _scenario(task, attention)) is not None:
        return scenario.optimal_loss_constant(task, attention)
    if isinstance(attention, LinearAttention):
        return _linear_constant(task)
    if attention.heads == 1:
        return _optimal_one_head(task)
    return _infimum_many_heads(task, attention)


@on_specifications(supports=("coef_mean", "local", "skip", "feature_values"))
def finite_prompt_risk(task: LinearRegression, attention: Attention) -> Formula:
    """Exact risk at every prompt length n, as a Formula in n and the value scale v.

    Linear attention: prediction (v/n) sum_i y_i x_i' Sigma^{-1} x_q; centred, the same with the
    prompt means removed and n - 1. Two or more softmax heads: the limit of small opposite scores
    with sum_h v_h k_h = v, which is the centred layer with v (n-1)/n. What else is free is at its
    best: on local examples sum_h v_h, with a prior mean the skip path and the values that read
    features. One softmax head has no closed form: use `numeric.exact_risk`. Source: derived here.

    >>> finite_prompt_risk(LinearRegression(dim=5), LinearAttention()).expr
    (v - 1)**2 + 6*v**2/n
    """
    if isinstance(attention, SoftmaxAttention) and (attention.heads == 1 or attention.scores):
        which = "softmax heads with given scores" if attention.scores else "one softmax head"
        raise InvalidInput(
            f"the finite-prompt risk of {which} is an integral without closed form; use "
            f"numeric.exact_risk(task, attention, prompt_length, ...). Two heads (in the limit of "
            f"small opposite scores) and linear attention have one."
        )
    if (scenario := _scenario(task, attention)) is not None:
        return scenario.finite_prompt_risk(task, attention)
    # f is an average of i.i.d. terms given theta and the query: bias (v - 1) theta.x_q, and the
    # variance of one term over their number.
    average, variance = _linear_constant(task), sp.Dummy("m", positive=True)
    risk = task.signal * (v - 1) ** 2 + v**2 * average.expr / variance
    steps = [
        *average.steps,
        Step("bias and variance of m independent terms", sp.Eq(sp.Symbol("r"), risk)),
    ]
    validity = task.validity
    pair = isinstance(attention, SoftmaxAttention)
    if pair or attention.centered:
        # Centred sums of n Gaussian examples are sums of n - 1 independent ones (Cochran).
        count, validity = n - 1, sp.And(n >= 2, validity)
        steps.append(Step("centring costs one example", sp.Eq(variance, count)))
    else:
        count = n
    risk = risk.subs(variance, count)
    if pair:
        steps.append(Step("softmax weight at small scores", _weight_slope()))
        risk = risk.subs(v, v * (n - 1) / n)
    return Formula(
        f"exact risk, {attention.description}{', small opposite scores' if pair else ''}",
        risk,
        validity=validity,
        references=_SOURCES,
        steps=tuple(steps),
    )


@on_specifications(supports=("coef_mean", "local", "skip", "feature_values"))
def optimal_finite_prompt_risk(task: LinearRegression, attention: Attention) -> Formula:
    """Minimum over v of `finite_prompt_risk`; the minimiser is `minimizer[v]`.

    For heads this is a limit, of small opposite scores: best to order 1/n, not attained, and not
    the smallest risk of heads in prompts as short as d.

    >>> optimal_finite_prompt_risk(LinearRegression(dim=5), LinearAttention()).expr
    6/(n + 6)
    """
    formula = finite_prompt_risk(task, attention)
    (best,) = sp.solve(sp.diff(formula.expr, v), v)
    best = sp.factor(best)
    return Formula(
        f"optimal {formula.name}",
        sp.factor(sp.together(formula.expr.subs(v, best))),
        validity=formula.validity,
        references=formula.references,
        steps=(*formula.steps, Step("best value scale", sp.Eq(v, best))),
        minimizer=sp.Dict({v: best}),
        attained=isinstance(attention, LinearAttention),
    )


def _scenario(task: LinearRegression, attention: Attention) -> Any:
    """The module of local examples or of prior knowledge where it has the answer, else None.

    Values that read labels only see a prior mean through E theta theta', which is in every formula
    here already.
    """
    from icltheory import local, prior  # they build on this module

    explicit = isinstance(attention, SoftmaxAttention) and attention.scores is not None
    if {"skip", "feature_values"} & set(attention.options):
        return prior
    return local if task.local is not None and not explicit else None


# -- the mechanism -------------------------------------------------------------------------------


@lru_cache(maxsize=512)
def _constant(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """Sum of the pair kernel over all heads; symmetric pairs are computed once."""
    matrices, values = attention.score_matrices(task), attention.values
    assert values is not None
    kernel = influence_kernel("softmax")
    used = [h for h, value in enumerate(values) if value != 0]
    pairs = pair_averages(task, matrices, used)
    terms, conditions = [], [task.validity, *(pairs[h, h].finite for h in used)]
    for (h, other), pair in pairs.items():
        weight = values[h] * values[other] * (1 if other == h else 2)
        terms.append(in_t(pair.normaliser) * _tidy(weight * pair.bracket))
    expr = sp.Add(*terms)
    if not expr.free_symbols and _came_from_floats(attention):
        expr = expr.evalf(30)
    limit, _ = head_limit()
    steps = (
        Step("limit of one head (q_h = A_h'x_q), by tilting", sp.Eq(sp.Symbol("f_h"), limit)),
        Step(
            "kernel of a pair of heads, u = q_h'Sigma q_l and c = q_h'Sigma M Sigma q_l",
            sp.Eq(sp.Symbol("K"), kernel.polynomial * sp.exp(kernel.rate * U)),
        ),
        Step(
            "sum over pairs, averaged over the query", sp.Eq(sp.Symbol("V"), expr, evaluate=False)
        ),
    )
    return Formula(
        f"loss constant, {attention.description}",
        expr,
        validity=in_t(sp.And(*conditions)),
        references=_SOURCES,
        steps=steps,
    )


def pair_averages(
    task: LinearRegression, matrices: Sequence[Square], used: Sequence[int]
) -> dict[tuple[int, int], PairAverage]:
    """The kernel of every pair h <= l of the heads `used`; `OutOfDomain` names an infinite head."""
    kernel, out = influence_kernel("softmax"), {}
    # Single heads first: where they are all finite, so is every pair (Cauchy-Schwarz).
    for h, other in [(h, h) for h in used] + list(combinations(used, 2)):
        try:
            out[h, other] = query_average(task, kernel, matrices[h], matrices[other])
        except OutOfDomain as error:
            raise _infinite(h, matrices[h]) from error
    return out


def _linear_constant(task: LinearRegression) -> Formula:
    kernel, matrix = influence_kernel("linear"), consistent_scores(task)
    pair = query_average(task, kernel, matrix, matrix)
    expr = sp.expand(pair.bracket * pair.normaliser)
    return Formula(
        "loss constant, linear attention",
        expr,
        validity=task.validity,
        references=_SOURCES,
        steps=(
            Step("variance of one example's influence", sp.Eq(sp.Symbol("K"), kernel.polynomial)),
            Step("averaged over the query", sp.Eq(sp.Symbol("V"), expr, evaluate=False)),
        ),
        minimizer=sp.Dict({v: sp.S.One}),
        attained=True,
    )


def _optimal_one_head(task: LinearRegression) -> Formula:
    constant = loss_constant(task, SoftmaxAttention(heads=1))
    # d log V / dt is rational in t although V carries the power -d/2.
    slope = sum(sp.diff(factor, t) / factor for factor in sp.Mul.make_args(constant.expr))
    quadratic = sp.Poly(sp.fraction(sp.cancel(slope))[0], t)
    a, b, c = quadratic.all_coeffs()
    # Divided by its value at 0 it is a t^2 + b t + 1; below 0 at t = 1/2, it has one root in between.
    a, b = (_apart(sp.cancel(x / c), task.noise_var) for x in (a, b))
    at_half = sp.factor(a / 4 + b / 2 + 1)
    if not at_half.is_negative:
        raise InvalidInput(
            f"the sign of {at_half} is undecided, so no minimiser can be isolated; declare the "
            f"symbols of the task with their sign, e.g. Symbol('D', positive=True)."
        )
    # This form of the root keeps its digits for large d, where the textbook form subtracts
    # nearly equal numbers.
    best = 2 / (-b + sp.sqrt(sp.expand(b**2 - 4 * a)))
    return Formula(
        "optimal loss constant, one softmax head",
        constant.expr.subs(t, best),
        validity=task.validity,
        references=constant.references,
        steps=(
            *constant.steps,
            Step("stationary points of log V", sp.Eq(quadratic.as_expr(), 0)),
            Step("the one root in (0, 1/2)", sp.Eq(t, best)),
        ),
        minimizer=sp.Dict({t: best}),
        attained=True,
    )


def _infimum_many_heads(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """The lower bound for any heads, and the symmetric pair that approaches it."""
    bound = lower_bound(task)
    constant = loss_constant(task, SoftmaxAttention(heads=2))
    # V = N(t)/t with N(0) = 0, so its limit is N'(0).
    times_t = sp.Add(*(t * term for term in distribute(constant.expr).args))
    limit = sp.expand(sp.diff(times_t, t).subs(t, 0))
    if times_t.subs(t, 0) != 0 or sp.expand(limit - bound.expr) != 0:
        raise AssertionError(f"the pair tends to {limit}, the lower bound is {bound.expr}")
    return Formula(
        f"optimal loss constant, {attention.description}",
        bound.expr,
        validity=task.validity,
        references=constant.references,
        steps=(
            *constant.steps,
            *bound.steps[1:],
            Step(
                "limit of the symmetric pair",
                sp.Eq(sp.Limit(constant.expr, t, 0), limit, evaluate=False),
            ),
        ),
        attained=False,
    )


@lru_cache(maxsize=1)
def _weight_slope() -> sp.Eq:
    """d/dk of a softmax weight at k = 0: (score - mean score)/n, which centres the prompt.

    With S = sum_j exp(k s_j), w_i = exp(k s_i)/S, so w_i' = w_i (s_i - S'/S); at k = 0 the weights
    are 1/n and S'/S is the mean of the scores.
    """
    score, mean = sp.symbols("s_i mean_s", real=True)
    log_sum = sp.log(n) + k * mean  # first order of log S at k = 0
    weight = sp.exp(k * score - log_sum)
    slope = sp.expand(sp.powsimp(sp.expand(sp.diff(weight, k).subs(k, 0))))
    return sp.Eq(sp.Symbol("dw_i/dk"), slope)


# -- algebra -------------------------------------------------------------------------------------


def in_t(expr: Any) -> Any:
    """k^2 = t: the constants depend on the square only."""
    return expr.subs(k, sp.sqrt(t)) if expr.has(k) else expr


def _tidy(bracket: sp.Expr) -> sp.Expr:
    """Partial fractions in k^2, so that the power of 1 - 2t stays the only power."""
    if not bracket.has(k):
        return bracket
    squared = in_t(sp.cancel(bracket))
    if squared.has(sp.sqrt(t)):  # local examples: odd in k
        return sp.factor(squared)
    terms = sp.apart(sp.cancel(squared), t)
    return sp.Add(*(positive_denominator(term) for term in sp.Add.make_args(terms)))


def positive_denominator(term: sp.Expr) -> sp.Expr:
    """a/(2t - 1) as (-a)/(1 - 2t), for 0 < t < 1/2; common numeric factors cancel."""
    numerator, denominator = sp.fraction(sp.factor(term))
    constant, rest = sp.factor_terms(denominator).as_independent(t, as_Add=False)
    for factor in sp.Mul.make_args(rest):
        if factor.is_Add and factor.subs(t, 0).is_negative:
            constant, rest = -constant, rest / factor * sp.expand(-factor)
    return sp.factor(numerator / constant) / rest


def _combine_opposite_powers(expr: sp.Expr) -> sp.Expr:
    """(1 - 2t)^e and (1 + 2t)^e through artanh 2t, so that their difference has no cancellation.

    (1 -+ 2t)^e = (1 - 4t^2)^{e/2} (cosh(e y) -+ sinh(e y)) with y = artanh 2t.
    """
    y, square = sp.atanh(2 * t), 1 - 4 * t**2
    expr = distribute(expr)

    def through_artanh(base: sp.Expr, exponent: sp.Expr) -> sp.Expr:
        if base == 1 - 2 * t:
            return square ** (exponent / 2) * (sp.cosh(exponent * y) - sp.sinh(exponent * y))
        if base == 1 + 2 * t:
            return square ** (exponent / 2) * (sp.cosh(exponent * y) + sp.sinh(exponent * y))
        return sp.Pow(base, exponent)

    combined = distribute(expr.replace(sp.Pow, through_artanh))
    collected = sp.collect(combined, sorted(combined.atoms(sp.sinh, sp.cosh), key=str))
    return sp.Add(*(sp.factor_terms(term) for term in sp.Add.make_args(collected)))


def _apart(expr: sp.Expr, variable: sp.Expr) -> sp.Expr:
    """Partial fractions in `variable` where it is a symbol of `expr`."""
    return sp.apart(expr, variable) if variable.is_Symbol and expr.has(variable) else expr


def distribute(expr: sp.Expr) -> sp.Expr:
    """Products over sums at the top level only; `expand` would multiply out the powers as well."""
    terms = []
    for term in sp.Add.make_args(expr):
        sums = [factor for factor in sp.Mul.make_args(term) if factor.is_Add]
        rest = term / sp.Mul(*sums)
        terms += [rest * sp.Mul(*parts) for parts in product(*(add.args for add in sums))]
    return sp.Add(*terms)


def _came_from_floats(attention: SoftmaxAttention) -> bool:
    """Rationals with 12 or more digits were floats: the exact result has no readable form."""
    entries = sp.Tuple(*(attention.scores or ()), *(attention.values or ()))
    return any(number.q >= 10**12 for number in entries.atoms(sp.Rational))


def _require_consistent(task: LinearRegression, attention: SoftmaxAttention) -> None:
    if is_consistent(task, attention):
        return
    floor = limit_risk(task, attention)
    raise InvalidInput(
        f"the heads are not consistent: sum_h v_h A_h differs from Sigma^{{-1}}, so the risk tends "
        f"to {sp.N(floor.expr, 6)} instead of 0 and no 1/n constant exists (icl.head_floor). Rescale the values."
    )


def _infinite(head: int, matrix: Square) -> OutOfDomain:
    return OutOfDomain(
        f"head {head}: Sigma^(1/2) A Sigma A' Sigma^(1/2) has an eigenvalue of at least 1/2, where "
        f"the loss constant is infinite (one scalar head: t = k^2 must be below 1/2). Scale the "
        f"scores down and the values up; A = {matrix}."
    )
