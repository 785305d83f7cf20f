"""Features with independent, identical, symmetric coordinates: what is special about Gaussian ones.

With standardised coordinates xi and scores k xi_q.xi_i an infinite prompt reads Lambda'(k xi_q) in
every coordinate, Lambda the cumulant generating function. This is linear for Gaussian features only:
otherwise one head has a bias that vanishes like a power of k, against a variance of order
1/(k^2 n), and its best risk decays more slowly than 1/n. Opposite heads with small scores read the
centred second moment and keep the rate 1/n; only the fourth cumulant enters. Everything comes from
the cumulants of one coordinate (the problem is that of Cui et al., arXiv 2401.17426, for Gaussian
features). Exported: `product_bias`, `optimal_product_risk`, `product_risk`,
`product_head_constant`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp
from sympy.utilities.iterables import multiset_partitions

from icltheory.attention import Attention, LinearAttention, SoftmaxAttention
from icltheory.coordinates import (
    CoordinateCumulants,
    Features,
    coordinate_cumulants,
    one_coordinate,
    xi,
)
from icltheory.errors import InvalidInput
from icltheory.formula import CUI, DERIVED_HERE, Formula, Step
from icltheory.readable import positive
from icltheory.symbols import k, n, v
from icltheory.task import LinearRegression, refuse_options

_SOURCES = (CUI.at("the question, for Gaussian features"), DERIVED_HERE)


def product_bias(task: LinearRegression, features: Features) -> Formula:
    """Leading risk of one softmax head in an infinite prompt as k -> 0: a Formula in k.

    What remains is the residual, after regression on xi, of the first non-linear term of
    Lambda'(k xi)/k: B k^4 with B = (kappa_4/6)^2 (E xi^6 - (E xi^4)^2) if the fourth cumulant is not
    zero, else a higher power. The best value differs from 1/k, `minimizer[v]`; at v = 1/k itself the
    whole term would count, B = (kappa_4/6)^2 E xi^6.

    Parameters
    ----------
    task: coefficients, noise and dimension (which may be a symbol); `feature_cov` must be the
        variance of a coordinate.
    features: law of one coordinate, symmetric: a one-dimensional token law, or a product law
        (`icl.Rademacher`, `icl.UniformCube`, `icl.Laplace`) in the task's dimension with equal
        scales, or `icl.CoordinateCumulants`.

    Errors: `InvalidInput`, among others where the bias is exactly zero: for Gaussian features, and
    for coordinates with values in {-c, 0, c}, on which every odd function is linear (there one head
    keeps the rate 1/n, `product_head_constant`). Source: derived here.

    >>> from icltheory.laws.tokens import UniformCube
    >>> from icltheory.symbols import d
    >>> product_bias(LinearRegression(dim=d), UniformCube(dim=1, half_width=sp.sqrt(3))).expr
    108*k**4/4375
    """
    coordinate = standardised_coordinate(task, features)
    order, factor, along, steps = _first_nonlinear(features, coordinate)
    bias = positive(task.signal * factor * k ** (2 * order - 4))
    return Formula(
        "leading risk of one softmax head in an infinite prompt",
        bias,
        validity=_above_zero(factor),
        references=_SOURCES,
        steps=steps,
        minimizer=sp.Dict({v: (1 - along * k ** (order - 2)) / k}),
        attained=True,
    )


def product_risk(task: LinearRegression, features: Features, attention: Attention) -> Formula:
    """Exact risk at every n of linear attention and of small opposite heads, in n and the scale v.

    As `icl.finite_prompt_risk`, which is its case of Gaussian features: prediction
    (v/n) sum_i y_i x_i'Sigma^{-1}x_q, centred with n - 1, and two or more softmax heads as the limit of
    small opposite scores with sum_h v_h k_h = v. Parameters as in `product_bias`. One softmax head has
    no closed form: `optimal_product_risk` for long prompts, `numeric.exact_product_risk` for d = 1.
    Source: arXiv 2401.17426 (the question); derived here.

    >>> from icltheory.laws.tokens import Rademacher
    >>> product_risk(LinearRegression(dim=3), Rademacher(dim=3), LinearAttention()).expr
    (v - 1)**2 + 2*v**2/n
    """
    coordinate = standardised_coordinate(task, features)
    attention = _layer(attention)
    if isinstance(attention, SoftmaxAttention) and attention.heads == 1:
        raise InvalidInput(
            "the finite-prompt risk of one softmax head has no closed form; use "
            "icl.optimal_product_risk (long prompts), numeric.exact_product_risk (d = 1) or "
            "numeric.simulate_product_risk."
        )
    pair = isinstance(attention, SoftmaxAttention)
    centered = pair or attention.centered
    count = n - 1 if centered else n
    square, noise = _sample_moments(coordinate, centered, task.dim)
    signal, scale = task.signal, v * (n - 1) / n if pair else v
    variance = signal * (square / count**2 - 1) + task.noise_var * noise / count**2
    parts = [sp.factor(x) for x in sp.Add.make_args(sp.apart(sp.cancel(variance), n))]
    return Formula(
        f"exact risk, {attention.description}{', small opposite scores' if pair else ''}",
        signal * (scale - 1) ** 2 + scale**2 * sp.Add(*parts),
        validity=sp.And(n >= 2, task.validity) if centered else task.validity,
        references=_SOURCES,
        steps=(
            Step(
                "E tr S^2 M / tr M of the sample moment S, times (n or n - 1)^2, as S_2",
                sp.Eq(_S, square),
            ),
            Step("variance V at v = 1", sp.Eq(sp.Symbol("V"), sp.Add(*parts))),
        ),
    )


def optimal_product_risk(
    task: LinearRegression, features: Features, attention: Attention
) -> Formula:
    """Smallest risk: of one softmax head in long prompts, of the other layers exactly at every n.

    One head: the leading law for n -> infinity, 3 R B^{1/3} ((R + noise)/(2 R n))^{2/3} with
    k ~ n^{-1/6} if the fourth cumulant is not zero (B of `product_bias`); if cumulant number j is the
    first that is not zero, the power of 1/n is (j - 2)/(j - 1). It does not depend on d; relative
    corrections are of order d k^2, without a bound on them here. The generating function of a
    coordinate should be finite everywhere. Where it is not (`icl.Laplace`), queries of large norm are
    left out, whose probability falls faster than any power of n; the law then holds for very long
    prompts (d = 1: the exact risk is 10 % above it at n = 1e5, 2 % at 1e7).

    Linear attention and two or more heads (in the limit of small opposite scores): minimum over v of
    `product_risk`, n * risk -> (R + noise) d + R (1 + kappa_4).
    Parameters and errors as in `product_bias`. Source: derived here.

    >>> from icltheory.laws.tokens import UniformCube
    >>> task, law = LinearRegression(dim=1), UniformCube(dim=1, half_width=sp.sqrt(3))
    >>> one = optimal_product_risk(task, law, SoftmaxAttention(heads=1))
    >>> round(float(one.expr.subs(n, 1)), 3), round(float(one.minimizer[k].subs(n, 10**6)), 3)
    (0.55, 0.165)
    >>> two = optimal_product_risk(task, law, SoftmaxAttention(heads=2))
    >>> sp.limit(n * two.expr, n, sp.oo)
    4/5
    """
    attention = _layer(attention)
    if isinstance(attention, SoftmaxAttention) and attention.heads == 1:
        return _optimal_head(task, features)
    formula = product_risk(task, features, attention)
    (best,) = sp.solve(sp.diff(formula.expr, v), v)
    return Formula(
        f"optimal {formula.name}",
        sp.factor(sp.cancel(formula.expr.subs(v, best))),
        validity=formula.validity,
        references=formula.references,
        steps=formula.steps,
        minimizer=sp.Dict({v: sp.factor(best)}),
        attained=isinstance(attention, LinearAttention),
    )


def product_head_constant(task: LinearRegression, features: Features) -> Formula:
    """lim n * risk of one softmax head on coordinates with values in {-c, 0, c}: a Formula in k.

    On these values every odd function is linear, so the bias vanishes at the value v = minimizer[v]
    for every k, and one head keeps the rate 1/n. The constant has its minimum at a k > 0, in low
    dimension or without noise at infinity, where the head averages the examples that equal the
    query: on such features one head may be better than several. Parameters and errors as in
    `product_bias`. Source: derived here.

    >>> from icltheory.laws.tokens import Rademacher
    >>> constant = product_head_constant(LinearRegression(dim=5), Rademacher(dim=1))
    >>> [round(float(constant.subs(k=x).expr), 4) for x in (0.3, 0.6, 0.9)]
    [13.6695, 4.8378, 2.422]
    """
    coordinate = standardised_coordinate(task, features)
    fourth = coordinate.moment(4)
    spread = sp.expand(coordinate.moment(6) - fourth**2)
    if spread != 0:
        raise InvalidInput(
            f"E x^6 E x^2 - (E x^4)^2 = {spread} is not zero, so the coordinates take more values than "
            f"-c, 0, c and one head has no 1/n law; use icl.optimal_product_risk."
        )
    # E x^4 = c^2 at variance 1, and the values +-c have probability 1/(2 c^2) each.
    point, weight = sp.sqrt(fourth), 1 / fourth
    u = sp.Dummy("u", real=True)
    cgf = sp.log(1 - weight + weight * sp.cosh(point * u))
    first, second = (sp.diff(cgf, u, j) for j in (1, 2))
    at = {u: k * point}
    twice = {u: 2 * k * point}
    shift = first.subs(twice) - first.subs(at)
    # One coordinate's factor of E w^2, and its part with the label's square; 1 and 1 at xi = 0.
    rho = sp.exp(sp.expand(cgf.subs(twice) - 2 * cgf.subs(at)))
    label = rho * (second.subs(twice) + shift**2)
    factor = 1 - weight + weight * rho
    read = (1 - weight) * second.subs(u, 0) + weight * label
    best = point / first.subs(at)
    dim = task.dim
    expr = best**2 * factor ** (dim - 1) * (task.signal * read + task.noise_var * factor)
    return Formula(
        "loss constant, one softmax head",
        expr,
        references=_SOURCES,
        steps=(
            Step(
                "mean m that the head reads at a coordinate xi = c of the query",
                sp.Eq(sp.Symbol("m"), first.subs(at)),
            ),
            Step("factor rho of E w^2 from one coordinate at xi = c", sp.Eq(sp.Symbol("rho"), rho)),
        ),
        minimizer=sp.Dict({v: best}),
    )


def _above_zero(factor: sp.Expr) -> sp.Basic:
    """factor > 0, for a product of squares and one other factor: each condition of its own."""
    parts = [x for x in sp.Mul.make_args(factor) if not x.is_positive]
    squares = [x.base for x in parts if x.is_Pow and x.exp.is_even and x.base.is_real]
    others = sp.Mul(*(x for x in parts if not (x.is_Pow and x.exp.is_even)))
    return sp.And(*(sp.Ne(x, 0) for x in squares), sp.S(others > 0))


# -- one head ------------------------------------------------------------------------------------


def _optimal_head(task: LinearRegression, features: Features) -> Formula:
    bias = product_bias(task, features)
    assert bias.minimizer is not None
    # Small scores weight all examples alike: n times the variance is v^2 E y^2, v = 1/k at leading order.
    variance = (task.signal + task.noise_var) / (k**2 * n)
    degree = sp.degree(bias.expr, k)
    # The derivative times k^3 is linear in k^(degree + 2).
    power = sp.Dummy("p", positive=True)
    slope = sp.expand(sp.diff(bias.expr + variance, k) * k**3).subs(k ** (degree + 2), power)
    (best,) = sp.solve(slope, power)
    # B > 0 by the validity; the root is taken of positive quantities only.
    size, factor = sp.Symbol("B", positive=True), bias.expr / k**degree
    best = positive(sp.factor(best)) if factor.is_number else sp.cancel(best * factor) / size
    best = sp.factor(best) ** sp.Rational(1, degree + 2)
    # At the stationary point the bias is 2/degree times the variance.
    expr = sp.powsimp(variance.subs(k, best) * (1 + sp.Rational(2, degree)))
    best, expr = best.subs(size, factor), expr.subs(size, factor)
    return Formula(
        "risk of the best softmax head, leading order in 1/n",
        expr,
        validity=bias.validity,
        references=_SOURCES,
        steps=(
            *bias.steps,
            Step("risk r, bias and variance", sp.Eq(sp.Symbol("r"), bias.expr + variance)),
            Step("best score scale", sp.Eq(k, best)),
        ),
        minimizer=sp.Dict({k: best, v: bias.minimizer[v].subs(k, best)}),
        attained=True,
    )


def _first_nonlinear(
    features: Features, coordinate: CoordinateCumulants
) -> tuple[int, sp.Expr, sp.Expr, tuple[Step, ...]]:
    """The order j of the first cumulant beyond the second that is not zero, factor and slope.

    Lambda'(k xi)/k = sum_j kappa_j k^(j - 2) xi^(j - 1)/(j - 1)!. Regression of its first non-linear
    term on xi leaves a residual of variance factor * k^(2j - 4), and its slope * k^(j - 2) is what
    the value corrects.
    """
    order = 4
    while (leading := _cumulant(features, coordinate, order)) == 0:
        order += 2
        if order > 12:
            raise InvalidInput(
                f"the cumulants of {features} beyond the second vanish up to order 12: Gaussian "
                f"features have no bias; use icl.optimal_loss_constant."
            )
    coordinate = _known(features, coordinate, 2 * order - 2)
    term = leading * xi ** (order - 1) / sp.factorial(order - 1)
    along = coordinate.mean(xi * term)
    factor = positive(sp.factor(coordinate.mean(sp.expand(term**2)) - along**2))
    if factor == 0:
        raise InvalidInput(
            "the coordinates take the values -c, 0, c only, on which every odd function is linear: one "
            "head has no bias and keeps the rate 1/n; use icl.product_head_constant."
        )
    steps = (
        Step(
            f"first non-linear term T of the reading over k^{order - 2}, in a coordinate xi",
            sp.Eq(sp.Symbol("T"), term),
        ),
        Step("variance B of its residual on xi", sp.Eq(sp.Symbol("B"), factor)),
    )
    return order, factor, along, steps


def _cumulant(features: Features, coordinate: CoordinateCumulants, p: int) -> sp.Expr:
    given = isinstance(features, CoordinateCumulants)
    if given and p > 2 * len(coordinate.even):
        raise InvalidInput(
            f"the cumulants beyond the second vanish as far as they are given: list kappa_{p} and "
            f"further ones, or, for Gaussian features, use icl.optimal_loss_constant."
        )
    return sp.expand(_known(features, coordinate, p).cumulant(p))


def _known(features: Features, coordinate: CoordinateCumulants, p: int) -> CoordinateCumulants:
    """The cumulants up to order p, computed further where a law is given."""
    if p <= 2 * len(coordinate.even) or isinstance(features, CoordinateCumulants):
        return coordinate
    return coordinate_cumulants(one_coordinate(features), p)


# -- sample moments ------------------------------------------------------------------------------

_S = sp.Symbol("S_2", positive=True)


def _sample_moments(
    coordinate: CoordinateCumulants, centered: bool, dim: sp.Expr
) -> tuple[sp.Expr, sp.Expr]:
    """E tr(C C M)/tr M and E tr(X'PPX) for C = X'PX, with P = I or the centring matrix.

    E x_ia x_jb x_kc x_ld is a sum over the partitions of the four slots: a block of size m carries the
    cumulant kappa_m and demands that its examples, and its coordinates, are the same.
    """
    off = 1 / n if centered else sp.S.Zero
    diagonal = 1 - off  # of P
    frobenius = n * diagonal**2 + n * (n - 1) * off**2
    total = sp.S.Zero
    for partition in multiset_partitions([0, 1, 2, 3]):
        block = {slot: i for i, part in enumerate(partition) for slot in part}
        weight = sp.Mul(*(coordinate.cumulant(len(part)) for part in partition))
        if weight == 0 or any(len(part) == 1 for part in partition):
            continue
        loops = block[0] == block[1], block[2] == block[3]
        if len(partition) == 1:
            examples = n * diagonal**2
        else:
            examples = (n * diagonal) ** 2 if all(loops) else frobenius
        # C_ab C_cb M_ac: slots 1 and 3 share their coordinate. Blocks that it joins are one class.
        free = len(partition) - (block[1] != block[3])
        total += weight * examples * dim ** (free - 1)
    return sp.factor(total), sp.factor(dim * frobenius)


# -- arguments -----------------------------------------------------------------------------------


def standardised_coordinate(task: LinearRegression, features: Features) -> CoordinateCumulants:
    """The standardised coordinate, after the checks that task and features belong together."""
    if not isinstance(task, LinearRegression):
        raise InvalidInput(
            f"task has type {type(task).__name__}; pass icl.LinearRegression(dim=5)."
        )
    refuse_options(task.scenario)
    if isinstance(features, CoordinateCumulants):
        coordinate = features
    else:
        law = one_coordinate(features, task.dim)
        coordinate = coordinate_cumulants(law, 6)
    cov = task.feature_cov.reduced()
    gap = sp.expand(cov.scale - coordinate.variance) if cov.is_isotropic else sp.S.One
    if gap.is_number and abs(gap) <= coordinate.variance * sp.Rational(1, 10**12):
        gap = sp.S.Zero  # what floats such as sqrt(3) leave
    if gap != 0:
        raise InvalidInput(
            f"the coordinates have variance {coordinate.variance}, the task has feature_cov = "
            f"{task.feature_cov}; pass feature_cov={coordinate.variance}, or rescale the law."
        )
    return coordinate


def _layer(attention: Any) -> Attention:
    if not isinstance(attention, Attention):
        raise InvalidInput(
            f"attention has type {type(attention).__name__}; pass icl.SoftmaxAttention(heads=1) or "
            f"icl.LinearAttention()."
        )
    refuse_options(attention.options)
    if isinstance(attention, SoftmaxAttention) and attention.scores is not None:
        raise InvalidInput("leave the scores out: they are optimised, or small and opposite.")
    return attention
