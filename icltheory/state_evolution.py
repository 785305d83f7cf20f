"""Sampled bits fed back into the chain: the fraction of wrong bits from step to step.

Each step takes a gradient step on the prompt from a binary state and draws the next binary state from
the result. With wrong bits a fraction rho, the noise of a coordinate has the variance
gap^2 rho gamma + label_noise_var/n, gamma = d/n. This holds as d -> infinity for the first step, for a
fresh prompt at every step, and for the iteration with Onsager correction; not after the first step
of plain gradients on the same prompt. Source: derived here; the correction follows approximate
message passing (Donoho, Maleki, Montanari, arXiv 0907.3574; Bayati, Montanari, arXiv 1001.3448).
Exported: `state_evolution_map`, `lock_in_threshold`, `sampling_floor`, `clip_floor`,
`onsager_coefficient`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.binary_priors import (
    SOURCES,
    BinaryPrior,
    Bits,
    Clip,
    Round,
    require_prior,
    require_sampler,
)
from icltheory.errors import InvalidInput
from icltheory.formula import Formula, Reference, Step
from icltheory.laws.normal import normal_tail
from icltheory.symbols import error_fraction as rho
from icltheory.symbols import gamma as gamma_symbol
from icltheory.symbols import margin

AMP = Reference(
    "bayati2010dynamics",
    "The dynamics of message passing on dense graphs, with applications to compressed sensing",
    "Bayati, Mohsen and Montanari, Andrea",
    2010,
    "1001.3448",
    "the principle of the correction",
)
_BITS = Bits()


def state_evolution_map(
    sampler: Any,
    gamma: Any = gamma_symbol,
    *,
    prior: BinaryPrior = _BITS,
    step_size: Any = 1,
    label_noise_ratio: Any = 0,
) -> Formula:
    """Fraction of wrong bits after one more step, a Formula in `error_fraction`.

    Parameters
    ----------
    gamma: d/n. prior: its two values, rounded at their middle; signs with temperature 2T and noise
        sigma are bits with T and sigma/2.
    step_size: eta. label_noise_ratio: label_noise_var/n.

    Closed but for the logit (an integral). Errors: `InvalidInput`. Source: derived here.

    >>> state_evolution_map(Round()).expr
    erfc(sqrt(2)/(4*sqrt(error_fraction)*sqrt(gamma)))/2
    """
    chosen, gap = require_sampler(sampler), require_prior(prior).gap
    ratio, eta = checks.positive(gamma, "gamma", "0.5"), checks.positive(step_size, "step_size")
    noise = checks.nonnegative(label_noise_ratio, "label_noise_ratio")
    spread = gap**2 * rho * ratio + noise

    def wrong(mean: sp.Expr) -> sp.Expr:
        return chosen.mean_probability(mean, eta**2 * spread, gap)

    right_before, wrong_before = wrong(-gap / 2), wrong(gap / 2 - eta * gap)
    expr = right_before
    if wrong_before != right_before:
        expr = (1 - rho) * right_before + rho * wrong_before
    return Formula(
        f"state evolution, {sampler}",
        expr,
        validity=sp.true if noise != 0 else sp.Gt(rho, 0),
        references=(*SOURCES, AMP),
        steps=(
            Step(
                "variance omega^2 of a coordinate's noise", sp.Eq(sp.Symbol("omega") ** 2, spread)
            ),
        ),
    )


def lock_in_threshold(digits: int = 15) -> Formula:
    """The n/d above which fed-back rounding (step size 1, no label noise) goes from 1/2 to no error.

    Fixed points rho = Q(x) have n/d = 4 x^2 Q(x), x being the margin over the noise; the largest such
    value is the threshold. `minimizer` has the x there. `digits` of it are right.
    Source: derived here.

    >>> lock_in_threshold(10).expr
    0.6628664591
    """
    if isinstance(digits, bool) or not isinstance(digits, int) or not 1 <= digits <= 200:
        raise InvalidInput(f"digits = {digits!r}: pass an integer from 1 to 200.")
    # Of the map of rounding: rho = Q(x) with x read off, solved for 1/gamma.
    image = state_evolution_map(Round()).expr
    argument = next(f.args[0] for f in image.atoms(sp.erfc)) * sp.sqrt(2)
    examples = sp.solve(sp.Eq(argument, margin), gamma_symbol)[0] ** -1
    curve = examples.subs(rho, normal_tail(margin))
    slope = sp.diff(curve, margin)
    # The slope is positive before the root and negative after it.
    low, high = sp.Rational(1, 2), sp.Integer(2)
    root = sp.nsolve(slope, margin, (low, high), solver="anderson", prec=digits + 10)
    if not slope.subs(margin, low).evalf() > 0 > slope.subs(margin, high).evalf():
        raise AssertionError("no change of sign of the slope")
    return Formula(
        "lock-in threshold of rounding",
        curve.subs(margin, root).evalf(digits),
        references=SOURCES,
        steps=(
            Step("alpha = n/d of a fixed point", sp.Eq(sp.Symbol("alpha"), curve)),
            Step("stationary, for the largest n/d", sp.Eq(slope, 0, evaluate=False)),
        ),
        minimizer=sp.Dict({margin: root.evalf(digits)}),
        attained=True,
    )


def sampling_floor(sampler: Any, prior: BinaryPrior = _BITS) -> Formula:
    """Fraction of wrong bits that sampling alone makes: the map at no noise, pi(-gap/2).

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.binary_priors import Logit
    >>> from icltheory.symbols import temperature
    >>> sampling_floor(Logit(temperature)).expr
    1/(exp(1/(2*temperature)) + 1)
    """
    gap = require_prior(prior).gap
    expr = require_sampler(sampler).probability(-gap / 2, gap)
    return Formula(
        f"floor of sampled bits, {sampler}",
        expr,
        references=SOURCES,
        steps=(Step("margin x of a bit without noise", sp.Eq(sp.Symbol("x"), -gap / 2)),),
    )


def clip_floor(gamma: Any = gamma_symbol) -> Formula:
    """The fixed point of the clip to leading order in small gamma: it never locks in.

    Errors: `InvalidInput`. Source: derived here.

    >>> clip_floor().expr
    gamma/(2*pi)
    """
    ratio, omega = checks.positive(gamma, "gamma", "0.5"), sp.Symbol("omega", positive=True)
    image = Clip().mean_probability(-sp.S.Half, omega**2)
    slope = sp.limit(image / omega, omega, 0)
    fraction = sp.Dummy("rho", positive=True)
    (fixed,) = sp.solve(sp.Eq(fraction, slope * sp.sqrt(ratio * fraction)), fraction)
    return Formula(
        "fixed point of the clip, small gamma",
        fixed,
        references=SOURCES,
        steps=(Step("map rho at small noise omega", sp.Eq(sp.Symbol("rho"), slope * omega)),),
    )


def onsager_coefficient(
    sampler: Any, gamma: Any = gamma_symbol, *, label_noise_ratio: Any = 0
) -> Formula:
    """The limit of sum_j pi'(u_j)/n, the factor of the old residual in the corrected one; bits, step 1.

    z_s = y - X w_s + z_{s-1} sum_j pi'(u_{s-1,j})/n, u_s = w_s + X'z_s/n, and w_{s+1} is drawn with
    probability pi(u_s): the derivative of the mean, since the sampling noise does not depend on X.
    Rounding has no derivative (`InvalidInput`); use a probit of small temperature.

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.binary_priors import Clip
    >>> onsager_coefficient(Clip(), 0.5).expr
    1/4 - erfc(1/sqrt(error_fraction))/4
    """
    chosen = require_sampler(sampler)
    if chosen.is_greedy:
        raise InvalidInput(
            f"{sampler} is a step, for which the correction fails; use a probit of small temperature."
        )
    ratio = checks.positive(gamma, "gamma", "0.5")
    noise = checks.nonnegative(label_noise_ratio, "label_noise_ratio")
    mean = sp.Symbol("m", real=True)
    image = chosen.mean_probability(mean, rho * ratio + noise)
    # pi' is even in the margin: both values of a bit have the same mean.
    expr = ratio * sp.diff(image, mean).subs(mean, -sp.S.Half)
    return Formula(
        f"Onsager coefficient, {sampler}",
        expr,
        validity=sp.true if noise != 0 else sp.Gt(rho, 0),
        references=(*SOURCES, AMP),
        steps=(Step("mean probability p of a bit at the margin m", sp.Eq(sp.Symbol("p"), image)),),
    )
