"""How long a noisy chain should be and how a budget of thoughts is split, d/n -> gamma.

From the closed forms of `icltheory.contraction_limits`; integer optima for any settings are in
`numeric.optimal_length` and `numeric.best_split`. Exported: `overthinking_threshold`,
`optimal_chain_length`, `split_risk`, `split_law`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.contraction import edges
from icltheory.contraction_limits import (
    SOURCES,
    best_contraction,
    best_rule,
    central,
    decay,
    late_contraction,
    noise_gain_limit,
    stable,
    written_steps,
)
from icltheory.errors import InvalidInput
from icltheory.formula import Formula, Step
from icltheory.symbols import budget as budget_symbol
from icltheory.symbols import gamma as gamma_symbol
from icltheory.symbols import noise_std as noise_symbol
from icltheory.symbols import sample_noise
from icltheory.symbols import steps as steps_symbol


def overthinking_threshold(gamma: Any = gamma_symbol, step_size: Any = None) -> Formula:
    """The largest noise_std^2/samples at which no number of thoughts is too many, d/n -> gamma < 1.

    The risk rises with t where noise_std^2/samples exceeds the mean of 1 - a^2 weighted with a^{2t},
    which falls to the least 1 - a^2 on the spectrum, at one of its ends. Zero for gamma >= 1. Noise
    at every step, no label noise. step_size: default the best step, 1/(1 + gamma).

    Errors: `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> overthinking_threshold().expr
    (gamma - 1)**2/(gamma + 1)**2
    """
    ratio = checks.positive(gamma, "gamma", "0.5")
    step = None if step_size is None else checks.positive(step_size, "step_size", "0.5")
    validity = sp.true if step is None else stable(ratio, step)
    if (ratio >= 1) == sp.true:
        zero = Step("least eigenvalue x of S/n in the limit", sp.Eq(sp.Symbol("x"), 0))
        return _threshold(sp.S.Zero, validity, zero)
    validity = sp.And(validity, ratio < 1)
    if step is None:
        contraction = 1 - best_rule(ratio)[0] * edges(ratio)[0]
        factor = Step("factor a of a thought at the lower edge", sp.Eq(sp.Symbol("a"), contraction))
        return _threshold(sp.factor(sp.cancel(sp.expand(1 - contraction**2))), validity, factor)
    ends = [1 - (1 - step * x) ** 2 for x in edges(ratio)]
    told = (
        Step(f"1 - a^2 at the {name} edge", sp.Eq(1 - sp.Symbol("a") ** 2, x))
        for name, x in zip(("lower", "upper"), ends, strict=True)
    )
    return _threshold(sp.Min(*(sp.factor(x) for x in ends)), validity, *told)


def _threshold(expr: sp.Expr, validity: Any, *steps: Step) -> Formula:
    return Formula(
        "largest noise without overthinking, d/n -> gamma",
        expr,
        validity=validity,
        references=SOURCES,
        steps=steps,
    )


def optimal_chain_length(noise: Any = sample_noise) -> Formula:
    """The number of thoughts with the least risk at gamma = 1 and the best step 1/2, d/n -> 1.

    noise: noise_std^2/samples > 0. The first t with beta_{2t} - beta_{2t+2} <= noise beta_{2t}; other
    ratios: `numeric.optimal_length`. Errors: `InvalidInput`. Source: derived here.

    >>> optimal_chain_length(0.01).expr, optimal_chain_length(0.7).expr
    (49, 0)
    """
    variance = checks.positive(noise, "noise", "0.01")
    t = sp.Symbol("t", integer=True, nonnegative=True)
    lost = sp.factor(1 - sp.hypersimp(central(t), t))  # 1 - beta_{2t+2}/beta_{2t}, falling
    real = sp.Dummy("t", real=True)
    (crossing,) = sp.solve(sp.numer(sp.together(lost.subs(t, real) - variance)), real)
    return Formula(
        "best number of thoughts, gamma = 1",
        sp.Max(0, sp.ceiling(sp.expand(crossing))),
        references=SOURCES,
        steps=(
            Step("relative gain g of thought t + 1", sp.Eq(sp.Symbol("g"), lost, evaluate=False)),
        ),
    )


def split_risk(
    steps: Any = steps_symbol,
    gamma: Any = gamma_symbol,
    budget: Any = budget_symbol,
    noise_std: Any = noise_symbol,
) -> Formula:
    """Risk of budget/steps chains of `steps` thoughts at the best step, d/n -> gamma: per coordinate.

    No label noise; the number of chains is not rounded. steps: an integer >= 1 or a symbol.
    Errors: `InvalidInput`. Source: derived here.

    >>> sp.factor(split_risk(gamma=1).expr)
    (budget + 2*noise_std**2*steps**2)*binomial(2*steps, steps)/(4**steps*budget)
    """
    total, noise = _budget(budget), checks.nonnegative(noise_std, "noise_std")
    count = written_steps(steps)
    if count == 0:
        raise InvalidInput("steps = 0 spends no thought; pass an integer >= 1.")
    bias = best_contraction(count, gamma).expr
    gain = noise_gain_limit(count, gamma).expr
    return Formula(
        "risk of a split of thoughts, d/n -> gamma",
        bias + noise**2 * gain * count / total,
        references=SOURCES,
        steps=(
            Step("bias B of a chain", sp.Eq(sp.Symbol("B"), bias, evaluate=False)),
            Step(
                "noise V of a chain over that of one thought",
                sp.Eq(sp.Symbol("V"), gain, evaluate=False),
            ),
        ),
    )


def split_law(
    gamma: Any = gamma_symbol, budget: Any = budget_symbol, noise_std: Any = noise_symbol
) -> Formula:
    """Least risk of a large budget of thoughts at the best step; `.minimizer` gives the steps of a chain.

    gamma: a number. From the laws of many steps; for gamma other than 1 the derivative of the power in
    front of the exponential is left out, as is the log in the next order. The integer optimum:
    `numeric.best_split`. Errors: `InvalidInput`. Source: derived here.

    >>> law = split_law(1)
    >>> law.minimizer[steps_symbol]
    sqrt(6)*sqrt(budget)/(6*noise_std)
    """
    ratio = checks.positive(gamma, "gamma", "0.5")
    if not ratio.is_number:
        raise InvalidInput("the law differs below, at and above gamma = 1; pass a number.")
    total, noise = _budget(budget), checks.scalar(noise_std, "noise_std")
    if noise.is_nonpositive and noise.is_number:
        raise InvalidInput("without noise one chain takes the whole budget; pass noise_std > 0.")
    t = sp.Dummy("t", positive=True)
    bias = late_contraction(ratio, steps=t).expr
    gain, power = _late_gain(ratio, t)
    if ratio == 1:
        slope = sp.powsimp(
            sp.expand(sp.diff(bias + noise**2 * gain * t / total, t) * t ** sp.Rational(3, 2))
        )
        best = _power_crossing(slope, t)
    else:
        _, factor, rate = decay(ratio)
        speed = -sp.log(rate)
        # speed A e^{-speed t} t^{-3/2} = (noise^2/total) d(t gain)/dt = cost t^power.
        cost = noise**2 / total * sp.diff(t * gain, t) / t**power
        exponent = sp.Rational(3, 2) + power
        scale = (factor * speed / sp.cancel(cost)) ** (1 / exponent)
        best = exponent / speed * sp.LambertW(speed / exponent * scale)
    expr = (bias + noise**2 * gain * t / total).subs(t, best)
    return Formula(
        "least risk of a large budget of thoughts, d/n -> gamma",
        expr,
        references=SOURCES,
        steps=tuple(
            Step(title, sp.Eq(sp.Symbol(letter), x.subs(t, steps_symbol), evaluate=False))
            for letter, title, x in (
                ("B", "bias B of many steps", bias),
                ("V", "noise V of many steps over that of one thought", gain),
            )
        ),
        minimizer=sp.Dict({steps_symbol: best}),
        attained=True,
    )


def _power_crossing(slope: sp.Expr, t: sp.Symbol) -> sp.Expr:
    """The zero of c_0 + c_2 t^2."""
    parts = sp.Poly(slope, t)
    return sp.sqrt(-parts.coeff_monomial(1) / parts.coeff_monomial(t**2))


def _late_gain(gamma: sp.Expr, t: sp.Symbol) -> tuple[sp.Expr, int]:
    """v_t for many steps, and the power of t in the derivative of t v_t."""
    if gamma == 1:
        s = sp.Dummy("s", positive=True)
        return sp.integrate(late_contraction(1, steps=s).expr, (s, 0, t)), 0
    if (gamma < 1) == sp.true:
        return noise_gain_limit(sp.oo, gamma).expr, 0
    return decay(gamma)[0] * t, 1


def _budget(budget: Any) -> sp.Expr:
    return checks.positive_integer(budget, "budget", "10000")
