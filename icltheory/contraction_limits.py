"""Closed forms of contraction moments and of the noise of chains where n and d are large, d/n -> gamma.

At the step 1/(1 + gamma), the best one for every number of steps, the generating function of beta_j
turns into Catalan numbers; geometric sums of beta_{2s} are resolvents. Exported: `best_contraction`,
`late_contraction`, `noise_gain_limit`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp
from sympy.concrete.gosper import gosper_sum

from icltheory import checks
from icltheory.conditions import required
from icltheory.contraction import contraction_moment_limit, edges, generating
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.formula import DERIVED_HERE, Formula, Step
from icltheory.laws.spectra import MARCHENKO_PASTUR, marchenko_pastur_resolvent
from icltheory.solver_steps import number_of_steps
from icltheory.symbols import eta, z
from icltheory.symbols import gamma as gamma_symbol
from icltheory.symbols import steps as steps_symbol

SOURCES = (MARCHENKO_PASTUR, DERIVED_HERE)
_K = sp.Symbol("k", integer=True, positive=True)
_MOST_TERMS = 400


def stable(gamma: sp.Expr, step: sp.Expr) -> Any:
    """step (1 + sqrt(gamma))^2 < 2: the chain contracts; `OutOfDomain` for numbers that do not."""
    upper = edges(gamma)[1]
    condition = sp.StrictLessThan(step * upper, 2)
    if condition == sp.false:
        raise OutOfDomain(
            f"step_size = {step} is not below 2/(1 + sqrt(gamma))^2 = {(2 / upper).evalf(6)}, where the "
            f"chain diverges; pass a smaller step."
        )
    return condition


# -- the best step -------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def best_rule(gamma: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """eta, q, c of the best step: the root of the generating function is sqrt(1 - 4 q z^2), and
    beta_{2t} = beta_{2t-1} = 1 - c sum_{k<=t} C_{k-1} q^k.

    With opposite contractions at both edges the root is even in z; its odd powers over z, summed
    by 1/(1 - z), give beta_{2t} = beta_{2t-1}, and so a zero derivative of beta_{2t} in the step.
    """
    low, high = edges(gamma)
    step = sp.cancel(sp.expand(2 / sp.expand(low + high)))
    radicand = sp.Poly(
        next(x.base for x in generating(gamma, step).atoms(sp.Pow) if x.exp == sp.S.Half), z
    )
    q = sp.factor(-radicand.coeff_monomial(z**2) / 4)
    return step, q, sp.factor(1 / (gamma * step))


def _catalan(k: Any) -> sp.Expr:
    return sp.binomial(2 * k - 2, k - 1) / k


def best_contraction(steps: Any = steps_symbol, gamma: Any = gamma_symbol) -> Formula:
    """The least beta_{2 steps} over step sizes in the limit d/n -> gamma; `.minimizer` is 1/(1 + gamma).

    steps: an integer from 0 to 400 gives a closed form, a symbol a sum of Catalan numbers (at
    gamma = 1 its value). Errors: `InvalidInput`. Source: derived here.

    >>> best_contraction(2).expr, best_contraction(5, 2).expr, best_contraction(gamma=1).expr
    ((gamma**3 + 2*gamma**2)/(gamma + 1)**3, 10432/19683, binomial(2*steps, steps)/4**steps)
    """
    ratio = checks.positive(gamma, "gamma", "0.5")
    count = written_steps(steps)
    step, q, factor = best_rule(ratio)
    if count.is_Integer:
        total = sp.Add(*(_catalan(k) * q**k for k in range(1, int(count) + 1)))
        expr = _rational(1 - factor * total)
    elif ratio == 1:
        expr = central(count)
    else:
        expr = 1 - factor * sp.Sum(_catalan(_K) * q**_K, (_K, 1, count))
    return Formula(
        "least contraction moment of even order, d/n -> gamma",
        expr,
        references=SOURCES,
        steps=(
            Step("opposite contractions at both edges", sp.Eq(eta, step, evaluate=False)),
            Step(
                "q of the generating function, whose root is sqrt(1 - 4 q z^2)",
                sp.Eq(sp.Symbol("q"), q, evaluate=False),
            ),
        ),
        minimizer=sp.Dict({eta: step}),
        attained=True,
    )


def central(count: sp.Expr) -> sp.Expr:
    """beta_{2t} at gamma = 1 and the best step, by Gosper's algorithm as binomial(2t, t)/4^t."""
    _, q, factor = best_rule(sp.S.One)
    value = 1 - factor * gosper_sum(_catalan(_K) * q**_K, (_K, 1, count))
    closed = sp.binomial(2 * count, count) / 4**count
    agrees = sp.gammasimp(sp.combsimp(value / closed).rewrite(sp.gamma))
    return closed if agrees == 1 else value


def written_steps(steps: Any) -> sp.Expr:
    count = number_of_steps(steps)
    if count.is_Integer and count > _MOST_TERMS:
        raise InvalidInput(
            f"steps = {steps}: sums are written out up to {_MOST_TERMS} steps; pass a symbol, or use "
            f"numeric.contraction_moments_limit."
        )
    return count


def _rational(expr: sp.Expr) -> sp.Expr:
    """One fraction with a factored denominator."""
    numerator, denominator = sp.fraction(sp.cancel(sp.together(expr)))
    return numerator / sp.factor(denominator)


def late_contraction(
    gamma: Any = gamma_symbol, step_size: Any = None, *, steps: Any = steps_symbol
) -> Formula:
    """The law of beta_{2 steps} for many steps: its floor (1 - 1/gamma)_+ and the leading term above.

    At the best step, an exponential times steps^{-3/2} for gamma other than 1. At gamma = 1 a power,
    for any step_size up to 1/2 (default the best step, 1/2). The first law is slow to come true: at
    gamma = 1/2 it is 54 % high at 20 steps, 15 % at 80; it holds where the next term is below the
    leading one. Errors: `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> late_contraction(1).expr, late_contraction(2).expr
    (1/(sqrt(pi)*sqrt(steps)), 3*(8/9)**steps/(sqrt(pi)*steps**(3/2)) + 1/2)
    """
    ratio = checks.positive(gamma, "gamma", "0.5")
    count = checks.positive(steps, "steps", "20")
    if ratio == 1:
        x = sp.Symbol("x", positive=True)
        edge = Step(
            "density rho of the eigenvalues x near 0",
            sp.Eq(sp.Symbol("rho"), 1 / (sp.pi * sp.sqrt(x))),
        )
        return _late(_hard_edge(step_size, count), _edge_condition(step_size, count), edge)
    if step_size is not None:
        raise InvalidInput(
            "step_size is for gamma = 1; other ratios have this law at the best step."
        )
    floor, factor, rate = decay(ratio)
    validity = sp.And(_many(count, sp.factor(_second_term()(rate))), sp.Ne(ratio, 1))
    told = (
        Step("ratio r of successive terms, late", sp.Eq(sp.Symbol("r"), rate, evaluate=False)),
        Step("factor A of r^steps steps^(-3/2)", sp.Eq(sp.Symbol("A"), factor, evaluate=False)),
    )
    return _late(floor + factor * rate**count * count ** sp.Rational(-3, 2), validity, *told)


def _many(count: sp.Expr, least: sp.Expr) -> Any:
    """count > least, where the next term of the law is below the leading one."""
    return required(
        count > least,
        f"steps = {count} is not above {sp.N(least, 4)}, where the next term exceeds the leading one",
        "pass more steps, or use icl.best_contraction",
    )


@lru_cache(maxsize=1)
def _second_term() -> sp.Lambda:
    """-c(r) of the tail T_t = A r^t t^{-3/2} (1 + c/t) of sum_k C_{k-1} q^k, r = 4q.

    Its terms a_t = T_{t-1} - T_t have the ratios a_{t+1}/a_t = q C_t/C_{t-1}, compared in x = 1/t.
    """
    x, c, r = sp.symbols("x c r")
    power = sp.Rational(3, 2)
    ahead = 1 + c * x - r * (1 + x) ** -power * (1 + c * x / (1 + x))
    here = (1 - x) ** -power * (1 + c * x / (1 - x)) - r * (1 + c * x)
    gap = sp.series(ahead - (1 - x / 2) / (1 + x) * here, x, 0, 3).removeO()
    (found,) = sp.solve(sp.expand(gap).coeff(x, 2), c)
    return sp.Lambda(r, -found)


def _late(expr: sp.Expr, validity: Any, *steps: Step) -> Formula:
    return Formula(
        "contraction moment after many steps, d/n -> gamma",
        expr,
        validity=validity,
        references=SOURCES,
        steps=steps,
    )


def _hard_edge(step_size: Any, count: sp.Expr) -> sp.Expr:
    """int e^{-2 t eta x} dx/(pi sqrt(x)): the spectrum near 0 at gamma = 1."""
    step = sp.S.Half if step_size is None else checks.positive(step_size, "step_size", "0.5")
    if (step > sp.S.Half) == sp.true:
        raise OutOfDomain(f"step_size = {step} is above 1/2, where the upper edge leads; pass 0.5.")
    x = sp.Symbol("x", positive=True)
    rate = 2 * count * step
    return sp.integrate(sp.exp(-rate * x) / (sp.pi * sp.sqrt(x)), (x, 0, sp.oo), conds="none")


def _edge_condition(step_size: Any, count: sp.Expr) -> Any:
    """Mean of x/8 + t eta^2 x^2, lost in sqrt(4 - x) and (1 - eta x)^{2t}, below 1; default step: yes."""
    if step_size is None:
        return sp.true
    step = checks.positive(step_size, "step_size", "0.5")
    x = sp.Symbol("x", positive=True)
    weight = sp.exp(-2 * step * x) / sp.sqrt(x)  # in x t
    total, first, second = (
        sp.integrate(weight * x**k, (x, 0, sp.oo), conds="none") for k in (0, 1, 2)
    )
    return _many(count, sp.factor((first / 8 + step**2 * second) / total))


def decay(gamma: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """floor, A, r^2 of beta_{2t} ~ floor + A r^{2t} t^{-3/2}.

    C_{k-1} q^k ~ (4q)^k/(4 sqrt(pi) k^{3/2}), and the tail is a geometric sum.
    """
    _, q, factor = best_rule(gamma)
    rate = sp.factor(4 * q)
    tail = factor * rate / (4 * sp.sqrt(sp.pi) * sp.factor(1 - rate))
    floor = sp.Max(0, 1 - 1 / gamma)
    return floor, _rational(tail), rate


# -- noise ---------------------------------------------------------------------------------------


def noise_gain_limit(
    steps: Any = sp.oo, gamma: Any = gamma_symbol, step_size: Any = None
) -> Formula:
    """v_t = sum_{s<t} beta_{2s}, t = steps: the noise of a chain over that of one thought, d/n -> gamma.

    Parameters
    ----------
    steps: `sympy.oo` (for gamma < 1), an integer, or at the best step a symbol.
    step_size: default the best step 1/(1 + gamma); in the limit below 2/(1 + sqrt(gamma))^2.

    Errors: `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> noise_gain_limit().expr, noise_gain_limit(gamma=0.3, step_size=0.4).evalf(11)
    (1/(1 - gamma), 2.1048311985)
    >>> noise_gain_limit(steps_symbol, 1).expr
    2*steps*binomial(2*steps, steps)/4**steps
    """
    ratio = checks.positive(gamma, "gamma", "0.5")
    step = None if step_size is None else checks.positive(step_size, "step_size", "0.5")
    if steps is sp.oo:
        return _endless_gain(ratio, step)
    count = written_steps(steps)
    if count.is_Integer:
        return _gain(_summed_gain(int(count), ratio, step), sp.true, _terms(ratio, step))
    best, q, factor = best_rule(ratio)
    if step is not None and step != best:
        raise InvalidInput(
            "a closed form for a symbolic number of steps is known at the best step."
        )
    if ratio == 1:
        return _gain(_central_gain(count), sp.true, _terms(ratio, step))
    terms = (count - _K) * _catalan(_K) * q**_K
    expr = count - factor * sp.Sum(terms, (_K, 1, count - 1))
    return _gain(expr, sp.true, _terms(ratio, step))


def _terms(gamma: sp.Expr, step: Any) -> tuple[Step, ...]:
    """The first terms of the sum."""
    size = best_rule(gamma)[0] if step is None else step
    return tuple(
        Step(
            f"term beta_{j} at the step size",
            sp.Eq(sp.Symbol(f"beta_{j}"), contraction_moment_limit(j, gamma, size).expr),
        )
        for j in (2, 4)
    )


def _gain(expr: sp.Expr, validity: Any, steps: tuple[Step, ...] = ()) -> Formula:
    return Formula(
        "noise gain of a chain, d/n -> gamma",
        expr,
        validity=validity,
        references=SOURCES,
        steps=steps,
    )


def _summed_gain(count: int, gamma: sp.Expr, step: Any) -> sp.Expr:
    if step is None:
        return _rational(sp.Add(*(best_contraction(s, gamma).expr for s in range(count))))
    return sp.expand(
        sp.Add(*(contraction_moment_limit(2 * s, gamma, step).expr for s in range(count)))
    )


def _central_gain(count: sp.Expr) -> sp.Expr:
    """sum_{s<t} binomial(2s, s)/4^s by Gosper's algorithm, over beta_{2t}."""
    s = sp.Symbol("s", integer=True, nonnegative=True)
    total = gosper_sum(central(s), (s, 0, count - 1))
    over = sp.gammasimp(sp.combsimp(total / central(count)).rewrite(sp.gamma))
    return sp.factor(over) * central(count)


def _endless_gain(gamma: sp.Expr, step: Any) -> Formula:
    """1/(1 - a^2) = (1/x + 1/(2/eta - x))/(2 eta): the resolvent at 0 and beyond the upper edge."""
    if (gamma >= 1) == sp.true:
        raise OutOfDomain(
            f"gamma = {gamma} is not below 1: small eigenvalues let the noise add up."
        )
    validity = sp.StrictLessThan(gamma, 1)
    point, share = sp.Dummy("p", positive=True), sp.Dummy("u", positive=True)
    resolvent = marchenko_pastur_resolvent(point, gamma_symbol).expr
    inverse = sp.limit(resolvent.subs(gamma_symbol, 1 - share), point, 0).subs(share, 1 - gamma)
    size = best_rule(gamma)[0] if step is None else step
    # Beyond the edge the root has the other sign, so that the resolvent falls like 1/x.
    (root,) = (x for x in resolvent.atoms(sp.Pow) if x.exp == sp.S.Half)
    place = {gamma_symbol: gamma, point: -2 / size}
    square = sp.factor(sp.cancel(root.base.subs(place, simultaneous=True)))
    beyond = resolvent.xreplace({root: -sp.Dummy("R")})
    (symbol,) = (x for x in beyond.free_symbols if x.name == "R")
    value = _root(square, gamma) if step is None else sp.sqrt(square)
    beyond = beyond.subs(place, simultaneous=True).xreplace({symbol: value})
    expr = (inverse - beyond) / (2 * size)
    if step is None:
        expr = 1 / sp.expand(sp.cancel(1 / sp.together(expr)))
    else:
        validity = sp.And(validity, stable(gamma, step))
    m = sp.Symbol("m_0"), sp.Symbol("m_1")
    parts = (
        Step("mean of 1/x", sp.Eq(m[0], inverse, evaluate=False)),
        Step("mean of 1/(2/eta - x)", sp.Eq(m[1], sp.factor(-beyond), evaluate=False)),
    )
    return _gain(expr, validity, parts)


def _root(square: sp.Expr, gamma: sp.Expr) -> sp.Expr:
    """The positive root of a perfect square, for gamma < 1."""
    share = sp.Dummy("u", positive=True)
    if gamma.is_number:
        return sp.sqrt(square)
    root = sp.sqrt(sp.factor(square.subs(gamma, 1 - share)))
    return root.subs(share, 1 - gamma)
