"""How fast a majority of sampled bits approaches the rounding of the state: the law of order 1/N.

Source: derived here. Exported: `vote_constant`, `vote_excess`, `averaging_excess`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.binary_priors import SOURCES, require_sampler
from icltheory.formula import Formula, Step
from icltheory.laws.normal import normal_density, normal_tail
from icltheory.symbols import channel_std as std_symbol
from icltheory.symbols import gain as gain_symbol
from icltheory.symbols import samples as samples_symbol

_X = sp.Symbol("x", positive=True)


@lru_cache(maxsize=1)
def _steep_votes() -> sp.Expr:
    """int v (Q(x v) - 1_{v < 0}) dv = 1/(2 x^2): a steep vote against a slope of the density."""
    v = sp.Dummy("v", positive=True)
    return 2 * sp.integrate(v * normal_tail(_X * v), (v, 0, sp.oo))


def vote_constant(sampler: Any, gap: Any = 1) -> Formula:
    """c in (error of the majority of N) = (error of rounding) + c/N * vote_excess + o(1/N).

    Near u = threshold a vote errs with probability Q(x v), x = 2 s'(0) sqrt(N), v the margin. `gap`
    is that of the prior, for `Clip`. Zero for rounding.

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.binary_priors import Logit, Probit
    >>> from icltheory.symbols import temperature
    >>> vote_constant(Logit(temperature)).expr, vote_constant(Probit(temperature)).expr
    (2*temperature**2, pi*temperature**2/4)
    """
    slope = require_sampler(sampler).slope(gap)
    squared = sp.S.Zero if slope == sp.oo else _steep_votes().subs(_X, 2 * slope)
    return Formula(
        f"constant of the votes, {sampler}",
        squared,
        references=SOURCES,
        steps=(Step("slope b of the probability at the threshold", sp.Eq(sp.Symbol("b"), slope)),),
    )


def vote_excess(margin: Any = gain_symbol, channel_std: Any = std_symbol) -> Formula:
    """f'(0), the slope at the threshold of the density N(margin, channel_std^2) of the margin of u.

    Errors: `InvalidInput`. Source: derived here.

    >>> vote_excess().expr
    sqrt(2)*gain*exp(-gain**2/(2*channel_std**2))/(2*sqrt(pi)*channel_std**3)
    """
    mean = checks.positive(margin, "margin")
    spread = checks.positive(channel_std, "channel_std")
    v = sp.Symbol("v", real=True)
    density = normal_density((v - mean) / spread) / spread
    return Formula(
        "slope of the density at the threshold",
        sp.diff(density, v).subs(v, 0),
        references=SOURCES,
        steps=(Step("density f of the margin v", sp.Eq(sp.Symbol("f"), density)),),
    )


def averaging_excess(
    temperature: Any,
    samples: Any = samples_symbol,
    margin: Any = gain_symbol,
    std: Any = std_symbol,
) -> Formula:
    """Error over that of rounding u, of rounding the mean of N states u + N(0, temperature^2): order 1/N.

    margin, std: mean and standard deviation of a coordinate's distance from the threshold. Rounding
    first and voting (`Probit`) needs pi/2 times as many samples for the same excess.

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.symbols import samples, temperature
    >>> sp.cancel(averaging_excess(temperature).expr / vote_excess().expr)
    temperature**2/(2*samples)
    """
    added = checks.scalar(temperature, "temperature") ** 2 / checks.positive_integer(
        samples, "samples", "samples=16"
    )
    mean, spread = checks.positive(margin, "margin"), checks.positive(std, "std")
    variance = sp.Dummy("variance", positive=True)
    slope = sp.diff(normal_tail(mean / sp.sqrt(variance)), variance).subs(variance, spread**2)
    return Formula(
        "excess error of the rounded mean",
        added * slope,
        references=SOURCES,
        steps=(
            Step("variance a that sampling adds to the mean", sp.Eq(sp.Symbol("a"), added)),
            Step("slope b of the error of rounding in the variance", sp.Eq(sp.Symbol("b"), slope)),
        ),
    )
