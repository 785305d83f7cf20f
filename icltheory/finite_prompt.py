"""Long finite prompts off and on the valley of good heads: expansions, the valley's constant, its drift.

One head with score x_i'A x_q and value b predicts without error from an infinite prompt iff
b Sigma A = I. On this *valley* A = Sigma^{-1}/b the value b is free, and a finite prompt decides
it: the risk is F(b)/n to leading order. Training descends to the valley first and then drifts
along it (Boursier and Boyer, arXiv 2512.11784, study the first phase). Linear attention is exact
at every n. All results come from tilting and Wick moments: derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.attention import SoftmaxAttention
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.expansion import NOISE, SIGNAL, C, U, influence_kernel, kernel_step
from icltheory.formula import BOURSIER, DERIVED_HERE, Formula, Step
from icltheory.laws.gaussian import QuadraticTilt, quadratic_tilt, tilted_mean
from icltheory.limit import combined_scores, head_limit
from icltheory.matrices import Square
from icltheory.readable import collected, positive
from icltheory.symbols import b, n
from icltheory.task import LinearRegression, query_covariance

_SOURCES = (BOURSIER.at("the setting; the statement is derived here"), DERIVED_HERE)


# -- the valley ----------------------------------------------------------------------------------


def valley_constant(task: LinearRegression, query_cov: Any = None) -> Formula:
    """F(b) = lim n * risk of one softmax head on the valley A = Sigma^{-1}/b, as a Formula in b.

    `query_cov` is the covariance of the query's features if it differs from the task's. With
    query_cov = Sigma this is `icl.loss_constant` of one head at the squared score scale 1/b^2.
    Finite iff b^2 exceeds twice the largest eigenvalue of Sigma^{-1} Sigma_q (the validity); below,
    the risk decays more slowly than 1/n: use numeric.block_risk. Source: derived here.

    >>> from icltheory.symbols import d, noise_var
    >>> valley_constant(LinearRegression(dim=d, noise_var=noise_var)).expr
    (b**2*(noise_var + 1) + b**2/(b**2 - 2))/(1 - 2/b**2)**(d/2)
    """
    query = query_covariance(task, query_cov)
    known = (task.noise_var, task.signal, sp.Tuple(*query.free_symbols()))
    if any(part.has(b) for part in known):
        raise InvalidInput(f"the task contains {b}, the value of the head; rename that symbol.")
    inverse = task.feature_cov.inverse() * (1 / b)
    kernel = influence_kernel("softmax")
    mean, finite = _query_mean(query, inverse @ task.feature_cov @ inverse.T * kernel.rate)
    moments = inverse @ task.feature_cov @ task.coef_cov @ task.feature_cov @ inverse.T
    parts = kernel.polynomial.xreplace({SIGNAL: task.signal, NOISE: task.noise_var})
    # Linear in c: the value of the form is averaged under the tilt.
    constant, slope = parts.subs(C, 0), sp.diff(parts, C)
    tilted = sp.factor(b**2 * slope * (moments @ mean.cov).trace())
    bracket = b**2 * constant + tilted
    return Formula(
        "loss constant on the valley",
        mean.normaliser * bracket,
        validity=sp.And(finite, task.validity),
        references=_SOURCES,
        steps=(
            kernel_step(kernel, "kernel K of the head", "q'Sigma q, c = q'Sigma M Sigma q"),
            Step("normaliser N of the query's tilt", sp.Eq(sp.Symbol("N"), mean.normaliser)),
            Step("mean B of b^2 (R + c + noise_var)", sp.Eq(sp.Symbol("B"), bracket)),
            Step("loss constant F", sp.Eq(sp.Symbol("F"), sp.Symbol("N") * sp.Symbol("B"))),
        ),
    )


def optimal_valley_constant(task: LinearRegression, query_cov: Any = None) -> Formula:
    """The minimum of `valley_constant` over b; `minimizer` gives b.

    A closed form if the query's covariance is a multiple of the task's (then it is
    `icl.optimal_loss_constant` in the default case); otherwise, for numeric covariances, the root
    of a polynomial in b^2. `InvalidInput` if neither holds. To leading order in
    1/n this is the optimum over all score matrices: only on the valley is the risk of order 1/n.
    Source: derived here, after arXiv 2512.11784.

    >>> best = optimal_valley_constant(LinearRegression(dim=5))
    >>> round(float(best), 4), round(float(best.minimizer[b] ** 2), 5)
    (19.1555, 8.14005)
    """
    constant = valley_constant(task, query_cov)
    y, names = sp.Symbol("y", positive=True), sp.Dict()
    polynomial = _stationarity(constant, y)
    if polynomial.degree() == 2:
        half, root = _upper_root(task, query_cov, y)
        square = (half + root) / 2
        # In z = 2 b^2 = half + q, with q for the root.
        z, q = sp.symbols("z q", positive=True)
        expr = _in_fractions(constant.expr.subs(b, sp.sqrt(z / 2)), z)
        expr = expr.subs(z, half + q).subs(q, root)
        names = sp.Dict({q: root} if root.free_symbols else {})
    elif not polynomial.free_symbols_in_domain and not polynomial.as_expr().free_symbols - {y}:
        square = _best_root(polynomial, constant, y)
        expr = constant.expr.subs(b, sp.sqrt(square))
    else:
        raise InvalidInput(
            "the best b is the root of a polynomial with symbolic coefficients; put numbers into the "
            "task, or make query_cov a multiple of feature_cov."
        )
    best = sp.sqrt(square)
    return Formula(
        "optimal loss constant on the valley",
        expr,
        validity=task.validity,
        references=constant.references,
        steps=(
            *constant.steps,
            Step(
                "stationary points of log F, a polynomial in y = b^2",
                sp.Eq(collected(polynomial.as_expr(), y), 0),
            ),
        ),
        minimizer=sp.Dict({b: best}),
        attained=True,
        abbreviations=names,
    )


def endpoint_constant(task: LinearRegression, balance: Any = 0, query_cov: Any = None) -> Formula:
    """lim n * risk where infinite-prompt training ends, on the valley with b^2 - |A|^2 = balance.

    The flow of an infinite prompt conserves the balance (Frobenius norm of A), which on the valley
    fixes b; `minimizer` is None, since this is no optimum. `OutOfDomain` where b^2 is too small for
    a 1/n law: for Sigma = I and balance 0 that is d <= 4.
    Source: derived here, after arXiv 2512.11784.

    >>> round(float(endpoint_constant(LinearRegression(dim=5))), 3)
    3233.033
    """
    level = checks.scalar(balance, "balance")
    inverse = task.feature_cov.inverse()
    norm = (inverse @ inverse.T).trace()
    y = sp.Symbol("y", positive=True)
    # y - |Sigma^{-1}|^2/y = balance has one positive root.
    square = (level + sp.sqrt(level**2 + 4 * norm)) / 2
    formula = valley_constant(task, query_cov)
    validity = sp.S(formula.validity.subs(b, sp.sqrt(square)))
    if validity == sp.false:
        raise OutOfDomain(
            f"training ends at b^2 = {sp.N(square, 6)}, where the risk decays more slowly than 1/n "
            f"({formula.validity} fails); use numeric.block_risk there."
        )
    return Formula(
        "loss constant at the end of infinite-prompt training",
        formula.expr.subs(b, sp.sqrt(square)),
        validity=validity,
        references=_SOURCES,
        steps=(
            *formula.steps,
            Step("balance on the valley, y = b^2", sp.Eq(y - norm / y, level)),
            Step("its positive root", sp.Eq(y, square)),
        ),
    )


def valley_drift(task: LinearRegression, query_cov: Any = None) -> Formula:
    """db/dt of slow training along the valley at prompt length n, a Formula in (b, n).

    The flow descends half the risk. Restricted to the curve (Sigma^{-1}/b, b), its speed in b is
    minus the derivative of F(b)/(2n) divided by the squared length of the curve's tangent. To
    leading order in 1/n, and for b^2 well inside the validity; `numeric.valley_drift` has the exact
    valley. Source: derived here.

    >>> drift = valley_drift(LinearRegression(dim=5))
    >>> float(drift.expr.subs({b: 2.5, n: 1000})) > 0  # towards b^2 = 8.14
    True
    """
    formula = valley_constant(task, query_cov)
    inverse = task.feature_cov.inverse()
    tangent = sp.diff(1 / b, b)
    length = 1 + tangent**2 * (inverse @ inverse.T).trace()
    # The derivative of the log is rational; the power of F stays one factor.
    rate = sum(sp.diff(factor, b) / factor for factor in sp.Mul.make_args(formula.expr))
    rest = [x for x in sp.Mul.make_args(formula.expr) if not x.is_Add]
    brackets = sp.Mul(*(x for x in sp.Mul.make_args(formula.expr) if x.is_Add))
    inside = positive(-sp.factor(sp.cancel(sp.together(rate * brackets / length))))
    inside = sp.Mul(*(collected(x, b) if x.is_Add else x for x in sp.Mul.make_args(inside)))
    speed = inside * sp.Mul(*rest) / (2 * n)
    return Formula(
        "drift along the valley",
        speed,
        validity=formula.validity,
        references=_SOURCES,
        steps=(
            *formula.steps,
            Step(
                "squared length T of the tangent of the valley (Sigma^{-1}/b, b)",
                sp.Eq(sp.Symbol("T"), length),
            ),
            Step(
                "speed b' = -(d/db of half the risk F/n) / T",
                sp.Eq(sp.Symbol("b'"), speed, evaluate=False),
            ),
        ),
    )


# -- any heads -----------------------------------------------------------------------------------


def head_expansion(
    task: LinearRegression,
    score_matrices: Sequence[Any],
    values: Sequence[Any],
    query_cov: Any = None,
) -> Formula:
    """Risk of any softmax heads to order 1/n, consistent or not: a Formula in n, R_inf + c/n.

    Parameters
    ----------
    score_matrices: one entry a head, as in `icl.head_constant`: A_h in the score x_q'A_h x_i, or a
        number k_h meaning k_h Sigma^{-1}. (The block A of `numeric.block_risk` is the transpose.)
    values: one number or expression a head.

    c collects the covariance of the heads' fluctuations and, where R_inf > 0, their bias of order
    1/n. Valid for Sigma_q^{1/2} A_h Sigma A_h' Sigma_q^{1/2} < 1/2 for every head (`OutOfDomain`
    otherwise); the error is o(1/n), and the terms left out are of relative order exp(2 s^2)/n at
    score variance s^2. Source: derived here (delta method to second order, tilting).

    >>> head_expansion(LinearRegression(dim=2, coef_cov=1), [sp.Rational(1, 2)], [1]).expr
    1/2 + 10/n
    """
    attention = SoftmaxAttention(scores=score_matrices, values=values)
    matrices, query = attention.score_matrices(task), query_covariance(task, query_cov)
    weights = attention.values
    assert weights is not None
    sigma, moment = task.feature_cov, task.coef_cov
    kernel = influence_kernel("softmax")
    error = sigma @ combined_scores(task, attention).T - Square.identity(1, task.dim)
    constant = kernel.polynomial.subs(C, 0).xreplace({SIGNAL: task.signal, NOISE: task.noise_var})
    slope = sp.diff(kernel.polynomial, C)
    bias_rate, bias_factor = _bias()
    terms, conditions = [], [task.validity]
    for h, first in enumerate(matrices):
        for other, second in enumerate(matrices[h:], start=h):
            weight = weights[h] * weights[other] * (1 if other == h else 2)
            if weight == 0:
                continue
            mean, finite = _query_mean(query, first @ sigma @ second.T * kernel.rate, f"head {h}: ")
            if other == h:
                # A finite average of every single head bounds every pair (Cauchy-Schwarz).
                conditions.append(finite)
            form = first @ sigma @ moment @ sigma @ second.T
            terms.append(mean.normaliser * weight * (constant + slope * (form @ mean.cov).trace()))
        # Twice the error of the limit times the bias of head h; both are linear in theta.
        mean, _ = _query_mean(query, first @ sigma @ first.T * bias_rate)
        cross = error.T @ moment @ sigma @ first.T
        terms.append(mean.normaliser * 2 * weights[h] * bias_factor * (cross @ mean.cov).trace())
    limit = (moment @ error @ query @ error.T).trace()
    order = sp.Add(*terms)
    return Formula(
        "risk of softmax heads to order 1/n",
        limit + order / n,
        validity=sp.And(*conditions),
        references=_SOURCES,
        steps=(
            kernel_step(kernel, "n times the covariance K of two heads"),
            Step(
                "n times the bias B of a head, where u = q_h'Sigma q_h",
                sp.Eq(sp.Symbol("B"), bias_factor * head_limit()[1] * sp.exp(bias_rate * U)),
            ),
            Step("risk R_oo of the infinite prompt", sp.Eq(sp.Symbol("R_oo"), limit)),
        ),
    )


@lru_cache(maxsize=1)
def _bias() -> tuple[sp.Expr, sp.Expr]:
    """(rate, factor): lim n (E prediction - limit) of one head is factor * q'Sigma theta * e^{rate u}.

    With weights w = exp(a - u/2), E w = 1, a head is a ratio of means; to second order its bias is
    -E[w (y - limit) (w - 1)]/n = -E[w^2 (y - limit)]/n, a tilt by 2a.
    """
    limit, along = head_limit()
    mean, log_normaliser = tilted_mean([0, 0], [[U, along], [along, sp.Symbol("ww")]], [2, 0])
    return sp.expand((log_normaliser - U) / U), sp.cancel(-(mean[1] - limit) / along)


# -- linear attention ----------------------------------------------------------------------------


def optimal_linear_attention(task: LinearRegression, query_cov: Any = None) -> Formula:
    """Smallest risk of linear attention over all matrices, exact at every n; `minimizer` has G = b A.

    The prediction (b/n) sum_i y_i x_i'A x_q is a mean of n independent terms, so its risk is
    tr(M R Sigma_q R') + tr(W G Sigma_q G')/n with R = Sigma G - I and W the variance of one term.
    The stationary point solves (Sigma M Sigma + W/n) G = Sigma M, whatever the query's covariance.
    Multiples of I stay so, with a symbolic dimension. Source: derived here; for M = I without noise
    Zhang, Frei and Bartlett, arXiv 2306.09927.

    >>> from icltheory.symbols import d, noise_var
    >>> sp.factor(optimal_linear_attention(LinearRegression(dim=d, noise_var=noise_var)).expr)
    (d*noise_var + d + 1)/(d*noise_var + d + n + 1)
    """
    sigma, moment, query = task.feature_cov, task.coef_cov, query_covariance(task, query_cov)
    variance = example_variance(task)
    best = (sigma @ moment @ sigma + variance * (1 / n)).inverse() @ sigma @ moment
    error = sigma @ best - Square.identity(1, task.dim)
    risk = (moment @ error @ query @ error.T).trace()
    risk += (variance @ best @ query @ best.T).trace() / n
    symbol = sp.MatrixSymbol("G", task.dim, task.dim)
    scaled = best.is_isotropic
    shown = sp.factor(best.scale) * sp.Identity(task.dim) if scaled else best.to_matrix()
    return Formula(
        "optimal risk of linear attention",
        sp.factor(risk),
        validity=task.validity,
        references=_SOURCES,
        steps=(
            kernel_step(
                influence_kernel("linear"),
                "variance K of one term",
                "q'Sigma q, c = q'Sigma M Sigma q",
            ),
            Step("stationary point G = b A", sp.Eq(symbol, shown, evaluate=False)),
        ),
        minimizer=sp.Dict({symbol: shown}),
        attained=True,
    )


def example_variance(task: LinearRegression) -> Square:
    """W with q'W q the variance of (q.x) y: the kernel in u = q'Sigma q and c = q'Sigma M Sigma q."""
    kernel = influence_kernel("linear").polynomial
    kernel = kernel.xreplace({SIGNAL: task.signal, NOISE: task.noise_var})
    return task.feature_cov * sp.diff(kernel, U) + (
        task.feature_cov @ task.coef_cov @ task.feature_cov
    ) * sp.diff(kernel, C)


# -- algebra -------------------------------------------------------------------------------------


def _query_mean(query: Square, form: Square, where: str = "") -> tuple[QuadraticTilt, sp.Basic]:
    """The query's law under exp(x'Nx), N the symmetric part of `form`, and where it is finite."""
    try:
        tilt = quadratic_tilt(query, (form + form.T) * sp.S.Half)
    except OutOfDomain:
        tilt = None
    if tilt is None or tilt.finite == sp.false:
        raise OutOfDomain(
            f"{where}Sigma_q^(1/2) A Sigma A' Sigma_q^(1/2) has an eigenvalue of at least 1/2, where "
            f"the term of order 1/n is infinite. Scale the scores down and the values up."
        )
    return tilt, sp.S(tilt.finite)


def _stationarity(constant: Formula, y: sp.Symbol) -> sp.Poly:
    """The numerator of b d log F / db as a polynomial in y = b^2."""
    slope = sum(sp.diff(factor, b) / factor for factor in sp.Mul.make_args(constant.expr))
    numerator = sp.fraction(sp.cancel(sp.together((slope * b).subs(b, sp.sqrt(y)))))[0]
    return sp.Poly(numerator, y)


def _in_fractions(expr: sp.Expr, z: sp.Symbol) -> sp.Expr:
    """Partial fractions in z; a power of a quotient as the power of its inverse."""

    def term(x: sp.Expr) -> sp.Expr:
        if x.is_Pow and x.base.is_Add:
            return sp.apart(sp.cancel(1 / x.base), z) ** -x.exp
        if x.is_Pow and not x.exp.is_Integer:
            return x
        return sp.Add(*(sp.apart(sp.cancel(part), z) for part in sp.Add.make_args(x)))

    return sp.Mul(*map(term, sp.Mul.make_args(expr)))


def _upper_root(task: LinearRegression, query_cov: Any, y: sp.Symbol) -> tuple[sp.Expr, sp.Expr]:
    """(half, root) of the best 2 b^2 = half + root, beyond the bound on b^2, which isolates it.

    With one symbol for the noise, so that an expression of the user's changes no form.
    """
    ratio = (task.feature_cov.inverse() @ query_covariance(task, query_cov)).reduced()
    noise = sp.Dummy("noise", nonnegative=True)
    polynomial = _stationarity(valley_constant(task.replaced(noise_var=noise), query_cov), y)
    lead, middle, last = polynomial.all_coeffs()
    bound = 2 * ratio.scale if ratio.is_isotropic else sp.nan
    at_bound = sp.factor(polynomial.eval(bound) / lead)
    if not at_bound.is_negative:
        raise InvalidInput(
            f"the sign of {at_bound} is undecided, so no minimiser can be isolated; declare the "
            f"symbols of the task with their sign, e.g. Symbol('D', positive=True)."
        )
    half = sp.cancel(-middle / lead)
    square = sp.expand(half**2 - 4 * sp.apart(sp.cancel(last / lead), noise))
    return tuple(x.subs(noise, task.noise_var) for x in (half, sp.sqrt(square)))


def _best_root(polynomial: sp.Poly, constant: Formula, y: sp.Symbol) -> sp.Expr:
    """Among the exact real roots where F is finite the one with the smallest F."""
    roots = [r for r in set(polynomial.real_roots()) if r.is_positive]
    valid = [r for r in roots if constant.validity.subs(b, sp.sqrt(r)) == sp.true]
    return min(valid, key=lambda r: float(constant.expr.subs(b, sp.sqrt(r))))
