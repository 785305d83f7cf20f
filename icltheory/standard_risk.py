"""Constants and finite-prompt risks of tasks without scenario, from which all others are built.

Values read labels only and examples do not depend on the query: a prior mean enters through
E theta theta' alone. `icltheory.risk` has the public functions; `icltheory.prior` and
`icltheory.local` build prior knowledge and local examples on what is here. The problem is that of
Cui et al. (arXiv 2401.17426); the closed forms are derived here. Exported: `standard_constant`,
`standard_optimum`, `standard_risk`, `at_best_value`, `pair_averages`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations

import sympy as sp

from icltheory.attention import Attention, LinearAttention, SoftmaxAttention
from icltheory.constant_algebra import combine_opposite_powers, distribute, in_t, tidy
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.expansion import PairAverage, influence_kernel, kernel_step, query_average
from icltheory.formula import CUI, DERIVED_HERE, Formula, Step
from icltheory.limit import consistent_scores, is_consistent, limit_risk, limit_step, scalar_heads
from icltheory.lower_bounds import lower_bound
from icltheory.matrices import Square
from icltheory.readable import collected
from icltheory.symbols import k, n, t, v
from icltheory.task import LinearRegression

_NOISE = sp.Dummy("noise", nonnegative=True)
_SOURCES = (CUI.at("the question; the closed form is derived here"), DERIVED_HERE)


@lru_cache(maxsize=512)
def standard_constant(task: LinearRegression, attention: Attention) -> Formula:
    """lim n * risk as in `icl.loss_constant`; heads with explicit scores know local examples."""
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
    expr = formula.expr if attention.heads == 1 else combine_opposite_powers(formula.expr)
    return Formula(
        f"loss constant, {attention.description}",
        expr,
        validity=sp.And(t < sp.S.Half, task.validity),
        references=formula.references,
        steps=formula.steps,
    )


@lru_cache(maxsize=512)
def standard_optimum(task: LinearRegression, attention: Attention) -> Formula:
    """Its infimum over scores and values, as in `icl.optimal_loss_constant`."""
    if isinstance(attention, LinearAttention):
        return _linear_constant(task)
    if attention.heads == 1:
        return _optimal_one_head(task)
    return _infimum_many_heads(task, attention)


@lru_cache(maxsize=512)
def standard_risk(task: LinearRegression, attention: Attention) -> Formula:
    """Exact risk in n and v, as in `icl.finite_prompt_risk`."""
    if isinstance(attention, SoftmaxAttention) and (attention.heads == 1 or attention.scores):
        which = "softmax heads with given scores" if attention.scores else "one softmax head"
        raise InvalidInput(
            f"the finite-prompt risk of {which} is an integral without closed form; use "
            f"numeric.exact_risk(task, attention, prompt_length, ...). Two heads (in the limit of "
            f"small opposite scores) and linear attention have one."
        )
    # f is an average of i.i.d. terms given theta and the query: bias (v - 1) theta.x_q, and the
    # variance of one term over their number.
    average, variance = _linear_constant(task), sp.Dummy("m", positive=True)
    risk = task.signal * (v - 1) ** 2 + v**2 * average.expr / variance
    steps = [
        *average.steps,
        Step(
            "risk r, bias and variance of the mean of m independent terms",
            sp.Eq(sp.Symbol("r"), risk.subs(variance, sp.Symbol("m"))),
        ),
    ]
    validity = task.validity
    pair = isinstance(attention, SoftmaxAttention)
    if pair or attention.centered:
        # Centred sums of n Gaussian examples are sums of n - 1 independent ones (Cochran).
        count, validity = n - 1, sp.And(n >= 2, validity)
        steps.append(Step("centring costs one example", sp.Eq(sp.Symbol("m"), count)))
    else:
        count = n
    risk = risk.subs(variance, count)
    if pair:
        steps.append(
            Step(
                "slope of the weight w_i at small scores k s_i, of mean k mean_s, so that v (n - 1)/n takes the place of v",
                _weight_slope(),
            )
        )
        risk = risk.subs(v, v * (n - 1) / n)
    return Formula(
        f"exact risk, {attention.description}{', small opposite scores' if pair else ''}",
        risk,
        validity=validity,
        references=_SOURCES,
        steps=tuple(steps),
    )


def at_best_value(formula: Formula, attention: Attention) -> Formula:
    """A risk that is quadratic in v at its minimum over v."""
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
        terms.append(in_t(pair.normaliser) * tidy(weight * pair.bracket))
    expr = sp.Add(*terms)
    if not expr.free_symbols and _came_from_floats(attention):
        expr = expr.evalf(30)
    heads = "of one head, the kernel" if len(used) == 1 else f"of {len(used)} heads, all pairs"
    steps = (
        limit_step(),
        kernel_step(kernel, "kernel K of a pair of heads"),
        Step(
            f"loss constant V {heads} averaged over the query",
            sp.Eq(sp.Symbol("V"), expr, evaluate=False),
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
            kernel_step(
                kernel,
                "variance K of one example's influence",
                "q'Sigma q, c = q'Sigma M Sigma q",
            ),
            Step(
                "loss constant V, averaged over the query",
                sp.Eq(sp.Symbol("V"), expr, evaluate=False),
            ),
        ),
        minimizer=sp.Dict({v: sp.S.One}),
        attained=True,
    )


def _optimal_one_head(task: LinearRegression) -> Formula:
    constant = standard_constant(task, SoftmaxAttention(heads=1))
    quadratic = _stationarity(constant)
    # Divided by its value at 0 it is a t^2 + b t + 1; below 0 at t = 1/2, it has one root in between.
    a, b = _monic(task)
    at_half = sp.factor(a / 4 + b / 2 + 1)
    if not at_half.is_negative:
        raise InvalidInput(
            f"the sign of {at_half} is undecided, so no minimiser can be isolated; declare the "
            f"symbols of the task with their sign, e.g. Symbol('D', positive=True)."
        )
    # This form of the root keeps its digits for large d, where the textbook form subtracts
    # nearly equal numbers.
    root = sp.sqrt(sp.expand(b**2 - 4 * a))
    best, expr, names = _at_root(constant.expr, -b, root)
    return Formula(
        "optimal loss constant, one softmax head",
        expr,
        validity=task.validity,
        references=constant.references,
        steps=(
            *constant.steps,
            Step(
                "stationary points of log V, a polynomial in t",
                sp.Eq(collected(quadratic.as_expr(), t), 0),
            ),
            Step("the one root in (0, 1/2)", sp.Eq(t, best)),
        ),
        minimizer=sp.Dict({t: best}),
        attained=True,
        abbreviations=names,
    )


def _stationarity(constant: Formula) -> sp.Poly:
    """The numerator of d log V / dt, rational in t although V carries the power -d/2."""
    slope = sum(sp.diff(factor, t) / factor for factor in sp.Mul.make_args(constant.expr))
    return sp.Poly(sp.fraction(sp.cancel(slope))[0], t)


def _monic(task: LinearRegression) -> tuple[sp.Expr, sp.Expr]:
    """a, b of the polynomial over its value at 0, in partial fractions of the noise.

    With one symbol for the noise, so that an expression of the user's changes no form.
    """
    plain = standard_constant(task.replaced(noise_var=_NOISE), SoftmaxAttention(heads=1))
    a, b, c = _stationarity(plain).all_coeffs()
    a, b = (sp.apart(sp.cancel(x / c), _NOISE).subs(_NOISE, task.noise_var) for x in (a, b))
    return a, b


def _at_root(constant: sp.Expr, half: sp.Expr, root: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Dict]:
    """t = 2/(half + root), the constant there, and the name of the root.

    With q for the root, 1/(1 - 2t) = 1 + 4/(half + q - 4), and its power d/2 is written through it.
    """
    q = sp.Symbol("q", positive=True)
    at = 2 / (half + q)
    growth = 1 + 4 / sp.expand(half - 4 + q)
    expr = constant.subs(1 - 2 * t, 1 / growth).subs(t, at)
    best, expr = at.subs(q, root), expr.subs(q, root)
    return best, expr, sp.Dict({q: root} if root.free_symbols else {})


def _infimum_many_heads(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """The lower bound for any heads, and the symmetric pair that approaches it."""
    bound = lower_bound(task)
    constant = standard_constant(task, SoftmaxAttention(heads=2))
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
