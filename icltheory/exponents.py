"""Exponents of long prompts whose scores are large: s = beta sqrt(2 log n).

At such scales a few tokens carry the weight. Count them: about n^(1 - x^2) tokens have
xi = x sqrt(2 log n) (if the exponent is negative, it is that of the probability that there is one),
each with weight n^(2 beta x) before normalisation. Squared errors are sums of squared weights, so
their exponent is a maximum over levels x; averaged over a Gaussian query, a minimum over beta.
These are large-deviation arguments, not proofs; `numeric.local_exponent` measures the exponents.
Exported: `phase_exponent`, `concentration_exponent`, `slow_decay_law`.
"""

from __future__ import annotations

from functools import lru_cache

import sympy as sp

from icltheory.formula import BOURSIER, DERIVED_HERE, Formula, Step
from icltheory.gaussian_output import response_coefficients
from icltheory.laws.weights import moment_symbol
from icltheory.symbols import beta, n, tau

_SOURCES = (DERIVED_HERE, BOURSIER.at("Proposition 3.1, for the power of n"))

_x = sp.Dummy("x", positive=True)
_b = sp.Dummy("beta", positive=True)
_y = sp.Dummy("y", positive=True)  # sqrt(1 + 4/tau^2), which makes everything rational


@lru_cache(maxsize=1)
def phase_exponent() -> Formula:
    """phi(beta): the squared error, and g, at s = beta sqrt(2 log n) are n^(phi + o(1)).

    The three phases: many tokens average (the leading 1/n term holds), one rare token decides, and
    the maximum has all the weight, where softmax attention is not linear.
    Source: derived here, after arXiv 2512.11784.

    >>> phi = phase_exponent()
    >>> [round(float(phi.subs(beta=b).expr), 6) for b in (0.5, 0.65, 0.75, 1.5)]
    [-0.5, -0.197341, -0.085069, 0.0]
    """
    pieces, steps = _phases()
    expr = sp.Piecewise(*((value.subs(_b, beta), beta <= end) for value, end in pieces))
    return Formula("exponent at a fixed large score", expr, references=_SOURCES, steps=steps)


@lru_cache(maxsize=1)
def concentration_exponent() -> Formula:
    """kappa(tau): the squared error averaged over a Gaussian query is n^(-kappa + o(1)).

    tau is |G^{1/2} U Sigma_q^{1/2}| in operator norm (token covariance G, score matrix U, query
    covariance Sigma_q), so that s = tau |N(0, 1)| in the worst direction. kappa minimises
    beta^2/tau^2 - phi(beta); the minimising beta is `minimizer`.
    Source: derived here, after arXiv 2512.11784.

    >>> kappa = concentration_exponent()
    >>> [round(float(kappa.subs(tau=t).expr), 6) for t in (0.5, 1, 2)]
    [1.0, 0.618034, 0.207107]
    """
    (average, _), (rare, edge), *_ = _phases()[0]
    start = _phases()[0][0][1]
    inverse = (_y**2 - 1) / 4  # 1/tau^2
    t = sp.Dummy("t", positive=True)  # beta^2
    costs = [t * inverse - piece.subs(_b, sp.sqrt(t)) for piece in (average, rare)]
    # The first cost is linear in t: its minimum is at t = 0 or where the next phase begins.
    (switch,) = sp.solve(sp.diff(costs[0], t), _y)
    best = next(r for r in sp.solve(sp.diff(costs[1], t), t) if r.is_positive)
    assert best.subs(_y, switch) == start**2  # the rare phase takes over as it begins
    assert sp.limit(best, _y, 1) == edge**2  # and is never left
    at_zero, value = costs[0].subs(t, 0), sp.cancel(costs[1].subs(t, best))
    slow = tau**2 > sp.solve(sp.Eq(inverse.subs(_y, switch) * _x, 1), _x)[0]
    back = {_y: sp.sqrt(1 + 4 / tau**2)}
    minimiser = sp.Piecewise((sp.sqrt(best).subs(back), slow), (0, True))
    return Formula(
        "exponent of the query-averaged error",
        sp.Piecewise((value.subs(back), slow), (at_zero, True)),
        references=_SOURCES,
        steps=(
            Step("cost of a rare query, over log n", sp.Eq(sp.Symbol("cost"), beta**2 / tau**2)),
            Step("stationary scale", sp.Eq(beta**2, best.subs(back))),
        ),
        minimizer=sp.Dict({beta: minimiser}),
        attained=True,
    )


@lru_cache(maxsize=1)
def slow_decay_law() -> Formula:
    """Leading law of E [g + (g - 6 g3 + 6 g22) s^2], s = tau |N(0, 1)|, for tau^2 > 1/2.

    This is the query-averaged squared error of one-dimensional tokens of variance 1. One rare token
    competes with the bulk; the law of its weight gives the constant, Laplace's method the average
    over queries. The relative error is of order 1/log n. Source: derived here (not proved).

    >>> law = slow_decay_law()
    >>> law.validity, round(float(law.subs(tau=1, n=10**100).expr * 10**61.8034), 2)
    (tau > sqrt(2)/2, 4.07)
    """
    rare = _phases()[0][1][0]
    level = _kink(_bulk_total())
    # A token of level `level` + y / (2 beta log n) has the weight 1/(1 + e^-y): y has the density
    # exp(-c y) times n^phi / (s sqrt(2 pi)), c = level/beta.
    c = sp.Dummy("c", positive=True)
    moments = {
        moment_symbol(*parts): sp.gamma(sum(parts) - c) * sp.gamma(c) / sp.gamma(sum(parts))
        for parts in ((2,), (3,), (2, 2))
    }
    weight = sp.gammasimp(response_coefficients()["error"].expr.subs(moments))
    log_n = sp.log(n)
    cost = _b**2 / tau**2 - rare
    at = {_b: 1 / sp.sqrt(_y)}  # the minimising scale of `concentration_exponent`
    # 2 int N(s; tau^2) s^2 n^phi / (s sqrt(2 pi)) ds with s = beta sqrt(2 log n).
    tail = sp.cancel((level / _b).subs(at))
    integrand = 2 * log_n * _b.subs(at) / (sp.pi * tau) * weight.subs(c, tail)
    curvature = sp.diff(cost, _b, 2).subs(tau, 2 / sp.sqrt(_y**2 - 1))
    width = sp.sqrt(2 * sp.pi / (log_n * sp.cancel(curvature.subs(at))))
    kappa = concentration_exponent()
    value, slow = kappa.expr.args[0]
    back = {_y: sp.sqrt(1 + 4 / tau**2)}
    expr = sp.powsimp(integrand * width).subs(back) * n ** (-value)
    return Formula(
        "leading law of the query-averaged error",
        expr,
        validity=sp.StrictGreaterThan(tau, sp.sqrt(slow.rhs)),
        references=(DERIVED_HERE,),
        steps=(
            Step(
                "squared error of one rare token, c = (1 + sqrt(1 + 4/tau^2))/2",
                sp.Eq(sp.Symbol("error"), weight.subs(c, sp.Symbol("c"))),
            ),
        ),
        abbreviations=sp.Dict({sp.Symbol("q"): back[_y]}),
    )


@lru_cache(maxsize=1)
def _phases() -> tuple[list[tuple[sp.Expr, sp.Expr]], tuple[Step, ...]]:
    """(exponent as a function of _b, largest beta) of each phase; the last one ends at infinity."""
    bulk = _bulk_total()
    frozen = (_count() + _weight()).subs(_x, 1)  # a typical prompt has no token above level 1
    (freezing,) = sp.solve(sp.Eq(bulk, frozen), _b)
    # A sum of squared weights at level x: count, times the squared share of the normaliser if < 1.
    growing = _count() + 2 * (_weight() - bulk)
    (top,) = sp.solve(sp.diff(growing, _x), _x)
    (crossing,) = sp.solve(sp.Eq(top, _kink(bulk)), _b)
    pieces = [
        (sp.expand(growing.subs(_x, top)), crossing),
        (sp.factor(_count().subs(_x, _kink(bulk))), freezing),
        (_count().subs(_x, _kink(frozen)), sp.oo),
    ]
    names = {_x: sp.Symbol("x"), _b: beta}
    steps = (
        Step("exponent D of the normaliser", sp.Eq(sp.Symbol("D"), bulk.subs(names))),
        Step("best level x of a token below the share 1", sp.Eq(sp.Symbol("x"), top.subs(names))),
        Step("level x of the share 1", sp.Eq(sp.Symbol("x"), _kink(bulk).subs(names))),
    )
    return pieces, steps


def _count() -> sp.Expr:
    """Exponent of the number of tokens at level x."""
    return 1 - _x**2


def _weight() -> sp.Expr:
    """Exponent of the weight of a token at level x."""
    return 2 * _b * _x


def _bulk_total() -> sp.Expr:
    """Exponent of the sum of the weights: the best level of a typical prompt."""
    (level,) = sp.solve(sp.diff(_count() + _weight(), _x), _x)
    return sp.expand((_count() + _weight()).subs(_x, level))


def _kink(total: sp.Expr) -> sp.Expr:
    """The level at which one token has a share of order one of the normaliser."""
    return sp.solve(sp.Eq(_weight(), total), _x)[0]
