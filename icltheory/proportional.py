"""Prompts as long as the dimension: n and d grow together, d/n -> gamma, score scales k = kappa/sqrt(d).

The query's length concentrates, |x_q|^2/d -> 1, so that every head keeps a fixed inverse temperature
kappa_h while the prompt grows: what it reads along the query is the tilted mean of one coordinate,
and the overlap n sum_i w_i^h w_i^l of two heads is a ratio of generating functions. The
same expression at finite d is the approximate multi-head loss of He et al. (arXiv 2503.12734),
`approximate_risk`, derived here from the pair kernel instead. Exported: `proportional_risk`,
`optimal_proportional_risk`, `proportional_gain`, `approximate_risk`, `approximation_error`.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from icltheory.attention import Attention, LinearAttention, SoftmaxAttention, on_specifications
from icltheory.errors import InvalidInput
from icltheory.expansion import NOISE, SIGNAL, C, influence_kernel, kernel_step
from icltheory.formula import CUI, DERIVED_HERE, Formula, Reference, Step
from icltheory.laws.tokens import Gaussian
from icltheory.limit import combined_scores, gradient_at, limit_risk, scalar_heads
from icltheory.matrices import Square
from icltheory.risk import finite_prompt_risk, loss_constant
from icltheory.symbols import a, gamma, k, kappa, n, t, v
from icltheory.task import LinearRegression

HE = Reference(
    "he2025demystified",
    "In-Context Linear Regression Demystified: Training Dynamics and Mechanistic Interpretability "
    "of Multi-Head Softmax Attention",
    "He, Jianliang and Pan, Xintian and Chen, Siyu and Yang, Zhuoran",
    2025,
    "2503.12734",
)

_SOURCES = (CUI.at("the question; the limit is derived here"), DERIVED_HERE)


@on_specifications
def proportional_risk(task: LinearRegression, attention: Attention) -> Formula:
    """Limit of the risk for n -> infinity with d/n -> gamma; a Formula in gamma and the layer's scales.

    Parameters
    ----------
    task: dimension a symbol (it tends to infinity), with a signal tr(Sigma M) that does not depend
        on it, as the default coefficients N(0, I/d) have.
    attention: `SoftmaxAttention(heads=1)`: in kappa = k sqrt(d) and a = v k. `heads=2`: the pair of
        scores +-k, in kappa and a = 2 v k. Scalar heads with scores and values inside, written as
        expressions in the dimension: sqrt(d) k_h and v_h/sqrt(d) must have limits. `LinearAttention`:
        in its value scale a.

    The query token is outside the softmax: inside a head with k > 0 its score k |x_q|^2 would be of
    order sqrt(d), far above log n, and take all the weight. Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.symbols import d, noise_var
    >>> task = LinearRegression(dim=d, noise_var=noise_var)
    >>> proportional_risk(task, SoftmaxAttention(heads=1)).expr
    a**2*gamma*(noise_var + 1)*exp(kappa**2)/kappa**2 + (a - 1)**2
    >>> proportional_risk(task, LinearAttention()).expr
    a**2*gamma*(noise_var + 1) + (a - 1)**2
    """
    _require_growing(task)
    if isinstance(attention, LinearAttention):
        exact = finite_prompt_risk(task, attention)
        scaled = exact.expr.subs({n: task.dim / gamma, v: a}, simultaneous=True)
        steps = (*exact.steps, Step("n = d/gamma, d to infinity", sp.Eq(n, task.dim / gamma)))
        limit = sp.limit(sp.expand(scaled), task.dim, sp.oo)
        return _formula(attention, _collected(limit, task), steps)
    scales, values = _limits(task, attention)
    read, overlap = _one_coordinate()
    x, y = _X, _Y
    reads = [read.xreplace({x: h}) for h in scales]
    # Risk given |x_q| = r, averaged over coefficients, noise and the directions across the query:
    # R ((r - sum_h v_h m_h)^2 / d + ((d-1)/d + noise/R) sum_i W_i^2), with r = sqrt(d) and
    # v_h = sqrt(d) values_h; m_h and n sum_i w_i w_i' have the limits of `_one_coordinate`.
    pairs = sp.Add(
        *(
            p * q * overlap.xreplace({x: h, y: g})
            for p, h in zip(values, scales, strict=True)
            for q, g in zip(values, scales, strict=True)
        )
    )
    along = sum(p * m for p, m in zip(values, reads, strict=True))
    risk = task.signal * (sp.factor(along) - 1) ** 2
    across = sp.factor(gamma * (task.signal + task.noise_var) * pairs)
    steps = (
        Step(
            "what a head of inverse temperature x reads along the query, m",
            sp.Eq(sp.Symbol("m"), read),
        ),
        Step(
            "overlap O = n sum_i w_i w_i' of heads of inverse temperatures x and y",
            sp.Eq(sp.Symbol("O"), overlap),
        ),
        Step("bias B, from the coordinate along the query", sp.Eq(sp.Symbol("B"), risk)),
        Step("variance V, from the d - 1 others and the noise", sp.Eq(sp.Symbol("V"), across)),
    )
    return _formula(attention, risk + across, steps)


@on_specifications
def optimal_proportional_risk(task: LinearRegression, attention: Attention) -> Formula:
    """Infimum of `proportional_risk` over scores and values, a Formula in gamma and the noise.

    One head: attained at kappa = 1, that is k = 1/sqrt(d). Two or more scalar heads: approached by
    small opposite scores and never attained, the value of linear attention. Source: derived here.

    >>> from icltheory.symbols import d, noise_var
    >>> task = LinearRegression(dim=d, noise_var=noise_var)
    >>> best = optimal_proportional_risk(task, SoftmaxAttention(heads=1))
    >>> best.expr, best.minimizer[kappa]
    (E*gamma*(noise_var + 1)/(E*gamma*noise_var + E*gamma + 1), 1)
    >>> optimal_proportional_risk(task, SoftmaxAttention(heads=2)).expr
    gamma*(noise_var + 1)/(gamma*noise_var + gamma + 1)
    """
    if isinstance(attention, SoftmaxAttention) and attention.scores is not None:
        raise InvalidInput(
            "the scores are given, nothing is left to optimise; use icl.proportional_risk, or leave "
            "the scores out."
        )
    many = isinstance(attention, SoftmaxAttention) and attention.heads > 1
    formula = proportional_risk(task, SoftmaxAttention(heads=2) if many else attention)
    expr, at, steps = formula.expr, {}, list(formula.steps)
    if many:
        expr, extra = _many_heads(task, formula)
        steps += extra
    elif expr.has(kappa):
        # The risk increases with the factor of a^2, whatever a is.
        factor = sp.expand(expr).coeff(a, 2) - task.signal
        slope = sp.cancel(sum(sp.diff(f, kappa) / f for f in sp.Mul.make_args(sp.factor(factor))))
        (at[kappa],) = sp.solve(slope, kappa)
        steps.append(Step("best inverse temperature", sp.Eq(kappa, at[kappa])))
        expr = expr.subs(kappa, at[kappa])
    (best,) = sp.solve(sp.diff(expr, a), a)
    at[a] = sp.factor(best)
    steps.append(Step("best a", sp.Eq(a, at[a])))
    return Formula(
        f"optimal risk of {attention.description}, d/n -> gamma",
        sp.factor(sp.cancel(expr.subs(a, best))),
        references=_SOURCES,
        steps=tuple(steps),
        minimizer=None if many else sp.Dict(at),
        attained=not many,
    )


@on_specifications
def proportional_gain(task: LinearRegression) -> Formula:
    """How many times more examples one head needs than several for the same risk, at any d/n.

    Solves one(gamma) = several(gamma') for gamma'/gamma. It is the limit d -> infinity of
    `icl.multihead_gain`, and holds here without n being large against d.
    Source: arXiv 2401.17426 (the question); derived here.

    >>> from icltheory.symbols import d
    >>> proportional_gain(LinearRegression(dim=d)).expr
    E
    """
    one = optimal_proportional_risk(task, SoftmaxAttention(heads=1))
    many = optimal_proportional_risk(task, SoftmaxAttention(heads=2))
    other = sp.Dummy("gamma", positive=True)
    (same,) = sp.solve(sp.numer(sp.together(one.expr - many.expr.subs(gamma, other))), other)
    return Formula(
        "gain of several heads over one, d/n -> gamma",
        sp.cancel(same / gamma),
        references=_SOURCES,
        steps=(*one.steps, *many.steps),
    )


# -- the approximation at finite d ---------------------------------------------------------------


@on_specifications
def approximate_risk(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """The approximate risk of softmax heads of He et al., arXiv 2503.12734, a Formula in n.

    The pair kernel of `icl.head_expansion` with two simplifications: products of projections of the
    coefficients (c = q_h'Sigma M Sigma q_l, and the bias of order 1/n) are dropped, and the query's
    u = q_h'Sigma q_l is replaced by its mean (for scalar heads |x_q|^2 by d). There the heads are
    scalar, Sigma = I and M = I/d; the loss of that paper is
    `icl.CONVENTIONS["he"].from_ours(approximate_risk(...))`. It equals `proportional_risk` with
    gamma = d/n and kappa_h = k_h sqrt(d): right for large d, too small for small d
    (`approximation_error`; for small opposite heads by one part in (1 + noise) d + 1), and finite even
    where the risk is not of order 1/n.

    `attention` carries scores (numbers, expressions or matrices) and values.

    >>> from icltheory.symbols import d, k, v
    >>> head = SoftmaxAttention(scores=[k], values=[v])
    >>> approximate_risk(LinearRegression(dim=d), head).expr
    (k*v - 1)**2 + v**2*exp(d*k**2)/n
    """
    if not isinstance(attention, SoftmaxAttention) or attention.values is None:
        raise InvalidInput("pass icl.SoftmaxAttention(scores=..., values=...).")
    kernel = influence_kernel("softmax")
    limit, order = _approximate_parts(task, attention)
    return Formula(
        f"approximate risk, {attention.description}",
        limit + order / n,
        validity=task.validity,
        references=(HE.at("the approximate loss, without the halving of its flow"), DERIVED_HERE),
        steps=(
            kernel_step(kernel, "kernel K of a pair of heads"),
            Step("without products of projections, the part c", sp.Eq(C, 0)),
            Step("risk R_oo of the infinite prompt", sp.Eq(sp.Symbol("R_oo"), limit)),
        ),
    )


@on_specifications
def approximation_error(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """Relative error of `approximate_risk` in long prompts, on the consistent manifold.

    The approximate over the exact loss constant, less one: a Formula in t = k^2 for one head and for
    the symmetric pair (no scores given), else a number. At finite n: `numeric.approximation_error`.
    Source: arXiv 2401.17426 (the question); derived here.

    >>> from icltheory.symbols import d, t
    >>> error = approximation_error(LinearRegression(dim=d), SoftmaxAttention(heads=1))
    >>> [round(float(error.subs(d=x, t=1 / (x + 4)).expr), 3) for x in (5, 20, 100)]
    [-0.186, -0.078, -0.019]
    """
    if not isinstance(attention, SoftmaxAttention):
        raise InvalidInput(f"{attention} is not approximated; pass icl.SoftmaxAttention(heads=1).")
    exact = loss_constant(task, attention)
    heads = attention
    if attention.scores is None:
        heads = scalar_heads([1] if attention.heads == 1 else [1, -1])
    approximate = _approximate_parts(task, heads)[1].subs(k, sp.sqrt(t))
    return Formula(
        f"relative error of the approximate risk, {attention.description}",
        sp.factor(approximate) / exact.expr - 1,
        validity=exact.validity,
        references=(HE, DERIVED_HERE),
        steps=exact.steps,
    )


# -- the mechanism -------------------------------------------------------------------------------

_X, _Y = sp.symbols("x y", real=True)  # inverse temperatures of two heads


@lru_cache(maxsize=1)
def _one_coordinate() -> tuple[sp.Expr, sp.Expr]:
    """Limits of sum_i w_i z_i and of n sum_i w_i w_i' for weights softmax(x z_i), softmax(y z_i).

    Ratios of means: E z e^{xz} / E e^{xz} = K'(x) and E e^{(x+y)z} / (E e^{xz} E e^{yz}).
    """
    law = Gaussian([0], [[1]])
    read = gradient_at(law, [_X])[0]
    return read, sp.exp(sp.expand(law.cgf([_X + _Y]) - law.cgf([_X]) - law.cgf([_Y])))


def _limits(
    task: LinearRegression, attention: SoftmaxAttention
) -> tuple[list[sp.Expr], list[sp.Expr]]:
    """kappa_h = lim sqrt(d) k_h and lim v_h/sqrt(d) of every head."""
    if attention.scores is None:
        if attention.heads == 1:
            return [kappa], [a / kappa]
        if attention.heads == 2:
            return [kappa, -kappa], [a / (2 * kappa), -a / (2 * kappa)]
        raise InvalidInput(
            f"{attention.heads} heads have no canonical family; give their scores and values as "
            f"expressions in {task.dim}, or ask for the infimum (icl.optimal_proportional_risk)."
        )
    if not attention.has_scalar_scores or attention.values is None:
        raise InvalidInput(
            "the proportional regime needs scalar heads with values: numbers or expressions k_h, "
            "v_h in SoftmaxAttention(scores=..., values=...)."
        )
    root = sp.sqrt(task.dim)
    return (
        [
            _finite(k * root, task.dim, f"sqrt(d) scores[{h}]")
            for h, k in enumerate(attention.scores)
        ],
        [
            _finite(w / root, task.dim, f"values[{h}]/sqrt(d)")
            for h, w in enumerate(attention.values)
        ],
    )


def _finite(expr: sp.Expr, dim: sp.Expr, name: str) -> sp.Expr:
    limit = sp.limit(expr, dim, sp.oo)
    if limit.has(sp.oo, -sp.oo, sp.zoo, sp.nan):
        raise InvalidInput(
            f"{name} = {expr} has no finite limit for {dim} -> oo; scores of order 1/sqrt(d) and "
            f"values of order sqrt(d) keep the risk finite, e.g. scores=[1/sqrt(d)]."
        )
    return limit


def _many_heads(task: LinearRegression, pair: Formula) -> tuple[sp.Expr, list[Step]]:
    """The infimum at fixed a = sum_h v_h k_h: the overlap's first order, all orders being positive.

    The overlap is a power series in kappa_h kappa_l with positive coefficients, hence a positive
    combination of Gram matrices; consistency pins its first order, and the pair attains it in the
    limit kappa -> 0.
    """
    _, overlap = _one_coordinate()
    eps = sp.Symbol("epsilon")
    series = overlap.subs({_X: eps * _X, _Y: _Y})
    first = sp.diff(series, eps).subs(eps, 0)
    variance = gamma * (task.signal + task.noise_var) * sp.cancel(first / (_X * _Y)) * a**2
    bound = task.signal * (a - 1) ** 2 + variance
    limit = sp.limit(pair.expr, kappa, 0)
    if sp.expand(limit - bound) != 0:
        raise AssertionError(f"the pair tends to {limit}, the lower bound is {bound}")
    steps = [
        Step("first order O_1 of the overlap", sp.Eq(sp.Symbol("O_1"), first)),
        Step("lower bound of the risk r of any scalar heads", sp.Ge(sp.Symbol("r"), bound)),
        Step("risk r in the limit of the symmetric pair", sp.Eq(sp.Symbol("r"), limit)),
    ]
    return bound, steps


def _approximate_parts(
    task: LinearRegression, attention: SoftmaxAttention
) -> tuple[sp.Expr, sp.Expr]:
    """Risk of the infinite prompt, and the approximate coefficient of 1/n."""
    kernel, sigma = influence_kernel("softmax"), task.feature_cov
    matrices, values = attention.score_matrices(task), attention.values
    assert values is not None
    total = sp.S.Zero
    for h, first in enumerate(matrices):
        for g, second in enumerate(matrices[h:], start=h):
            mean = (first @ sigma @ second.T @ sigma).trace()
            weight = values[h] * values[g] * (1 if g == h else 2)
            total += weight * sp.exp(sp.expand(kernel.rate * mean))
    known = {SIGNAL: task.signal, NOISE: task.noise_var}
    limit = limit_risk(task, attention).expr
    if attention.has_scalar_scores:  # `limit_risk` may have multiplied the square out
        gap = combined_scores(task, attention) @ sigma - Square.identity(1, task.dim)
        gap = gap.reduced()
        limit = task.signal * gap.scale**2 if gap.is_isotropic else limit
    return limit, kernel.polynomial.subs(C, 0).xreplace(known) * total


def _require_growing(task: LinearRegression) -> None:
    if not task.dim.is_Symbol:
        raise InvalidInput(
            f"dim = {task.dim} is fixed, but d tends to infinity with n; pass a symbol, "
            f"icl.LinearRegression(dim=icl.symbols.d)."
        )
    for name, value in (("the signal tr(Sigma M)", task.signal), ("noise_var", task.noise_var)):
        if value.has(task.dim):
            raise InvalidInput(
                f"{name} = {value} depends on {task.dim}, so the risk has no limit; the default "
                f"coef_cov = I/d keeps it fixed."
            )


def _collected(expr: sp.Expr, task: LinearRegression) -> sp.Expr:
    square = task.signal * (a - 1) ** 2
    return square + sp.factor(sp.expand(expr - square))


def _formula(attention: Attention, expr: sp.Expr, steps: tuple[Step, ...]) -> Formula:
    return Formula(
        f"risk of {attention.description}, d/n -> gamma", expr, references=_SOURCES, steps=steps
    )
