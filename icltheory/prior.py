"""Prior knowledge: coefficients theta with a mean theta_0 that is known from training.

Values may read features, v_h y_i + u_h.x_i, and a skip path adds theta_s.x_q. The error splits into
uncorrelated parts, exactly at every n: one in theta - theta_0 with the values v_h, one in theta_0
with the readings b_h = v_h theta_0 + u_h and the target (theta_0 - theta_s).x_q, and the noise
(`superposition`). Values that read labels only see theta_0 as more signal, E theta theta', and are
not treated here. The scenario is that of Cui et al. (arXiv 2401.17426), the results are derived
here.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement

import sympy as sp

from icltheory.attention import Attention, SoftmaxAttention, on_specifications
from icltheory.errors import InvalidInput
from icltheory.expansion import Kernel, U
from icltheory.formula import CUI, DERIVED_HERE, Formula, Step
from icltheory.laws.gaussian import quadratic_tilt, tilted_mean, wick_moment
from icltheory.limit import is_consistent, limit_risk
from icltheory.matrices import Square
from icltheory.standard_risk import (
    at_best_value,
    standard_constant,
    standard_optimum,
    standard_risk,
)
from icltheory.symbols import k, n, t, v
from icltheory.task import LinearRegression, refuse_options

SOURCES = (CUI.at("the scenario; the closed form is derived here"), DERIVED_HERE)
PAIR = SoftmaxAttention(heads=2)
READINGS = ("coef_mean", "skip", "feature_values")
# b_h'Sigma b_l of two readings, and (b_h'Sigma q_l)(b_l'Sigma q_h).
_GRAM = sp.Symbol("b_h'Sigma b_l", real=True)
_CROSS = sp.Symbol("b_h'Sigma q_l b_l'Sigma q_h", real=True)


@on_specifications(supports=("coef_mean",))
def prior_risk(task: LinearRegression) -> Formula:
    """Risk of the prior alone, f = theta_0.x_q: the variance tr(Sigma Cov(theta)), at every n.

    Source: arXiv 2401.17426 (the question); derived here.

    >>> prior_risk(LinearRegression(dim=2, coef_mean=[1, 2])).expr
    1
    """
    return Formula(
        "risk of the prior alone",
        spread(task),
        validity=task.validity,
        references=SOURCES,
        steps=(
            Step(
                "error (theta_0 - theta).x_q, of variance tr(Sigma C), C = Cov(theta)",
                sp.Eq(sp.Symbol("tr(Sigma C)"), spread(task), evaluate=False),
            ),
        ),
    )


def prior_heads(task: LinearRegression, heads: int) -> SoftmaxAttention:
    """Consistent heads without skip path that use the prior, with scores proportional to the symbol k.

    heads = 2d + 2 approach the infimum over all head counts as k -> 0: the pair +-k Sigma^{-1} reads
    y - theta_0.x, the pairs +-k theta_0 e_j'Sigma^{-1} read the coordinates +-x_j. heads = 4: the
    second pair is +-k (Sigma^{-1} - theta_0 theta_0'/theta_0'Sigma theta_0) and takes theta_0.x away
    from what the first reads of y. Source: derived here.

    >>> task = LinearRegression(dim=2, coef_mean=[1, 0])
    >>> prior_heads(task, 4).scores[2]
    Matrix([
    [0, 0],
    [0, k]])
    """
    if not isinstance(task, LinearRegression) or task.coef_mean is None:
        raise InvalidInput("the task has no coef_mean, so there is no prior to use.")
    refuse_options(task.scenario, ("coef_mean",))
    size, mean = int(task.dim), sp.Matrix(task.coef_mean)
    inverse, half = sp.Matrix(task.feature_cov.inverse().to_matrix()), 1 / (2 * k)
    zero = sp.zeros(size, 1)
    pairs = []  # (score matrix, value, reading) of the first head; the second has all signs changed
    if heads == 2 * size + 2:
        pairs.append((inverse * k, half, -half * mean))
        for j in range(size):
            axis = sp.Matrix(size, 1, lambda i, _, j=j: int(i == j))
            pairs.append((k * mean * (inverse * axis).T, sp.S.Zero, half / size * axis))
    elif heads == 4:
        along = mean * mean.T / task.mean_signal
        pairs.append((inverse * k, half, zero))
        pairs.append(((inverse - along) * k, sp.S.Zero, -half * mean))
    else:
        raise InvalidInput(
            f"heads = {heads}: the families have 4 heads or 2d + 2 = {2 * size + 2} of them."
        )
    signed = [(sign * a, sign * w, sign * u) for a, w, u in pairs for sign in (1, -1)]
    return SoftmaxAttention(
        scores=[a for a, _, _ in signed],
        values=[w for _, w, _ in signed],
        feature_values=[list(u) for _, _, u in signed],
    )


@on_specifications(supports=READINGS)
def prior_crossing(task: LinearRegression, attention: Attention) -> Formula:
    """The prompt length at which several heads with small scores become better than the prior alone.

    A real number n: the prior f = theta_0.x_q has the smaller risk iff the prompt is shorter. Where
    a skip path makes the context always useful: `InvalidInput`. Source: derived here.

    >>> task = LinearRegression(dim=2, coef_mean=[1, 2])
    >>> prior_crossing(task, SoftmaxAttention(heads=2)).expr
    16
    """
    if "skip" in attention.options:
        raise InvalidInput("with a skip path the context always helps; there is no crossing.")
    if isinstance(attention, SoftmaxAttention) and attention.options:
        formula = finite_prompt_risk(task, attention)
    else:
        formula = standard_risk(task, attention)
    best = at_best_value(formula, attention)
    crossing = largest_root(best.expr - spread(task), n)
    return Formula(
        f"prompt length below which the prior alone is better, {attention.description}",
        crossing,
        validity=task.validity,
        references=SOURCES,
        steps=(*best.steps, Step("risk of the prior alone", sp.Eq(best.expr, spread(task)))),
    )


# -- what risk.py hands over -----------------------------------------------------------------------


def loss_constant(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """`icl.loss_constant` of heads whose values read features, or with a skip path.

    One head and the symmetric pair, without scores: consistency for every theta forces
    u_h = -v_h theta_0 with a skip path theta_0, and no reading and no skip path if one of the two is
    missing.
    """
    if attention.scores is not None:
        return _explicit(task, attention)
    task, plain, step = _reduced(task, attention)
    constant = standard_constant(task, plain)
    return _renamed(constant, attention, step)


def optimal_loss_constant(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """`icl.optimal_loss_constant` of heads whose values read features, or with a skip path."""
    reads = "feature_values" in attention.options and "skip" not in attention.options
    if not reads or attention.heads == 1 or task.coef_mean is None:
        task, plain, step = _reduced(task, attention)
        return _renamed(standard_optimum(task, plain), attention, step)
    refuse_options(task.scenario, ("coef_mean",))
    enough = 2 * task.dim + 2
    around = standard_optimum(task.replaced(coef_mean=None), PAIR)
    known = reading_bound(task)
    if attention.heads < enough:
        raise InvalidInput(
            f"the infimum over {attention.heads} heads that read features is known only for 1 head "
            f"and for 2d + 2 = {enough} or more, where it is {sp.N(around.expr + known, 6)}. For "
            f"particular heads use icl.loss_constant(task, icl.prior_heads(task, 4)), or "
            f"icl.loss_constant of the pair heads=2."
        )
    return Formula(
        f"optimal loss constant, {attention.description}",
        sp.expand(around.expr + known),
        validity=task.validity,
        references=SOURCES,
        steps=(
            *around.steps,
            Step(
                "part V_0 of the prior mean, T = sum_h q_h b_h' having the trace theta_0.x_q",
                sp.Ge(sp.Symbol("V_0"), known),
            ),
        ),
        attained=False,
    )


def finite_prompt_risk(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """`icl.finite_prompt_risk` of small opposite heads; readings and skip path along theta_0 are at
    their best."""
    refuse_options(task.scenario, ("coef_mean",))
    plain = SoftmaxAttention(heads=attention.heads, scores=attention.scores)
    around = standard_risk(task.replaced(coef_mean=None), plain)
    bias = standard_risk(LinearRegression(dim=task.dim), plain).expr
    reading, target = sp.symbols("p z", real=True)
    # B is the bias functional: risk of the values p at target (1 - zeta) theta_0.x_q = z theta_0.x_q.
    functional = sp.expand(target**2 * sp.expand(bias).subs(v, reading / target))
    free = {"feature_values": reading, "skip": target}
    used = [free[name] for name in free if name in attention.options]
    fixed = {x: value for x, value in ((reading, v), (target, sp.S.One)) if x not in used}
    known: sp.Expr = sp.expand(sp.expand(task.mean_signal * functional).subs(fixed))
    steps = [*around.steps, Step("part r_0 of the prior mean", sp.Eq(sp.Symbol("r_0"), known))]
    if len(used) == 2:
        known = sp.Integer(0)  # the skip path theta_0 leaves nothing to read
    elif not known.is_zero:
        (best,) = sp.solve(sp.diff(known, used[0]), used[0])
        steps.append(Step("its best scale", sp.Eq(used[0], best)))
        known = sp.factor(known.subs(used[0], best))
    return Formula(
        f"exact risk, {attention.description}, small opposite scores",
        around.expr + known,
        validity=around.validity,
        references=SOURCES,
        steps=tuple(steps),
    )


# -- heads that read features --------------------------------------------------------------------


@lru_cache(maxsize=1)
def reading_kernel() -> Kernel:
    """E[phi_h phi_l] of two readings, phi_h = exp(a - q'Sigma q / 2) (b_h.x - b_h'Sigma q_h).

    >>> reading_kernel()
    Kernel(polynomial=b_h'Sigma b_l + b_h'Sigma q_l b_l'Sigma q_h, rate=1)
    """
    aa, bb = sp.symbols("aa bb", nonnegative=True)
    first, second = sp.symbols("f_h f_l", real=True)
    own_h, own_l, other_h, other_l = sp.symbols("fh_qh fl_ql fh_ql fl_qh", real=True)
    # Linear forms of one example: scores q_h.x, q_l.x, readings b_h.x, b_l.x.
    cov = [
        [aa, U, own_h, other_l],
        [U, bb, other_h, own_l],
        [own_h, other_h, sp.Symbol("ff_h"), _GRAM],
        [other_l, own_l, _GRAM, sp.Symbol("ff_l")],
    ]
    forms = [*sp.symbols("a b", real=True), first, second]
    mean, log_normaliser = tilted_mean([0, 0, 0, 0], cov, [1, 1, 0, 0])
    moment = sp.expand(wick_moment((first - own_h) * (second - own_l), forms, list(mean), cov))
    rate = sp.diff(sp.expand(log_normaliser - (aa + bb) / 2), U)
    return Kernel(moment.subs(other_h * other_l, _CROSS), rate)


def _explicit(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """Constant of given consistent heads: the part around the mean, and that of the readings."""
    _, readers = attention.vectors(task)
    if not is_consistent(task, attention):
        floor = limit_risk(task, attention)
        raise InvalidInput(
            f"the heads are not consistent: the risk tends to {sp.N(floor.expr, 6)} instead of 0, "
            f"and no 1/n constant exists. Needed are sum_h v_h A_h = Sigma^{{-1}} and "
            f"sum_h A_h Sigma u_h = -theta_s (without local examples)."
        )
    assert attention.values is not None
    plain = SoftmaxAttention(scores=attention.scores, values=attention.values)
    around = standard_constant(task.replaced(coef_mean=None), plain)
    mean = sp.zeros(int(task.dim), 1) if task.coef_mean is None else sp.Matrix(task.coef_mean)
    readers = readers or ((sp.S.Zero,) * int(task.dim),) * attention.heads
    readings = [
        sp.Matrix(u) + value * mean for u, value in zip(readers, attention.values, strict=True)
    ]
    matrices, kernel, terms = attention.score_matrices(task), reading_kernel(), []
    conditions = [around.validity]
    used = [h for h, b in enumerate(readings) if any(sp.expand(x) != 0 for x in b)]
    for h, other in combinations_with_replacement(used, 2):
        pair = _reading_average(task, kernel, matrices[h], matrices[other], readings, (h, other))
        terms.append(pair * (1 if h == other else 2))
        if h == other:
            form = matrices[h] @ task.token_cov @ matrices[h].T
            conditions.append(quadratic_tilt(task.feature_cov, form).finite)
    known = sp.sympify(sum(terms)).subs(k, sp.sqrt(t))
    return Formula(
        f"loss constant, {attention.description}",
        around.expr + known,
        validity=sp.And(*conditions).subs(k, sp.sqrt(t)),
        references=SOURCES,
        steps=(
            *around.steps,
            Step(
                "kernel K_0 of the readings b_h = v_h theta_0 + u_h and scores q_h'x, u = q_h'Sigma q_l",
                sp.Eq(sp.Symbol("K_0"), kernel.polynomial * sp.exp(kernel.rate * U)),
            ),
            Step("their part V_0, averaged over the query", sp.Eq(sp.Symbol("V_0"), known)),
        ),
    )


def _reading_average(
    task: LinearRegression,
    kernel: Kernel,
    first: Square,
    second: Square,
    readings: list[sp.Matrix],
    pair: tuple[int, int],
) -> sp.Expr:
    """The reading kernel of a pair, averaged over the query."""
    sigma, (b_h, b_l) = task.token_cov, (readings[i] for i in pair)
    form = (first @ sigma @ second.T + second @ sigma @ first.T) * sp.S.Half
    tilt = quadratic_tilt(task.feature_cov, form * kernel.rate)
    outer = Square.explicit((b_h * b_l.T).tolist())
    cross = (second @ sigma @ outer @ sigma @ first.T @ tilt.cov).trace()
    gram = (sigma @ outer).trace()
    return tilt.normaliser * sp.cancel(kernel.polynomial.subs({_GRAM: gram, _CROSS: cross}))


def reading_bound(task: LinearRegression) -> sp.Expr:
    """Least part of the prior mean for any heads that read features, without skip path.

    The order of the kernel that consistency restricts is |T|^2 + tr T^2 = 2 |sym T|^2 of
    T = sum_h q_h b_h' (whitened), whose trace is theta_0.x_q: least at T = (trace/d) I.
    """
    polynomial = sp.Poly(reading_kernel().polynomial, _GRAM, _CROSS)
    square, cross = polynomial.coeff_monomial(_GRAM), polynomial.coeff_monomial(_CROSS)
    assert square == cross  # the antisymmetric part of T costs nothing
    scale = 1 / task.dim
    return (square + cross) * scale**2 * task.dim * task.mean_signal


# -- small helpers -------------------------------------------------------------------------------


def spread(task: LinearRegression) -> sp.Expr:
    """tr(Sigma Cov(theta))."""
    return task.replaced(coef_mean=None).signal


def _reduced(
    task: LinearRegression, attention: SoftmaxAttention
) -> tuple[LinearRegression, SoftmaxAttention, Step]:
    """The task and the layer without readings that have the same constants."""
    refuse_options(task.scenario, ("coef_mean",))
    plain = SoftmaxAttention(heads=attention.heads, scores=attention.scores)
    if {"skip", "feature_values"} <= set(attention.options):
        removed = sp.Eq(sp.Symbol("theta_s"), sp.Symbol("theta_0"))
        return task.replaced(coef_mean=None), plain, Step("the skip path takes the mean", removed)
    return task, plain, Step("consistency for every theta", sp.Eq(sp.Symbol("theta_s"), 0))


def _renamed(formula: Formula, attention: Attention, step: Step) -> Formula:
    prefix = "optimal loss constant" if formula.attained is not None else "loss constant"
    return Formula(
        f"{prefix}, {attention.description}",
        formula.expr,
        validity=formula.validity,
        references=SOURCES,
        steps=(step, *formula.steps),
        minimizer=formula.minimizer,
        attained=formula.attained,
    )


def largest_root(expr: sp.Expr, x: sp.Symbol) -> sp.Expr:
    """The largest root of a rational function with a numerator of degree 1 or 2."""
    numerator = sp.Poly(sp.fraction(sp.together(expr))[0], x)
    if numerator.degree() == 1:
        slope, constant = numerator.all_coeffs()
        return sp.factor(-constant / slope)
    a, b, c = (sp.factor(coefficient / numerator.LC()) for coefficient in numerator.all_coeffs())
    return (-b + sp.sqrt(sp.factor(b**2 - 4 * a * c))) / 2
