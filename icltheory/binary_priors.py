"""Binary coefficients and the samplers that draw them: signs, bits, sparse bits; logit, probit, clip.

A prior is a law of w* in {low, high}^d. A sampler draws a coordinate from a real state u: the
probability of the higher value is a function of the margin u - threshold, the threshold being the
middle of the two values unless said otherwise. Every sampler rounds u against a random threshold,
whose distribution function is that probability; averages over a Gaussian state follow from this.
Source: derived here. Exported: `Signs`, `Bits`, `SparseBits`, `Logit`, `Probit`, `Clip`, `Round`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.formula import CHEN, DERIVED_HERE
from icltheory.laws.normal import G, normal_mean, normal_tail

_Y = sp.Symbol("y", real=True)  # a threshold

SOURCES = (CHEN.at("binary coefficients; the statement is derived here"), DERIVED_HERE)


# -- priors --------------------------------------------------------------------------------------


class BinaryPrior:
    """A law of coefficients with two values `low` < `high` a coordinate."""

    low: sp.Expr = sp.S.Zero
    high: sp.Expr = sp.S.One

    @property
    def gap(self) -> sp.Expr:
        """high - low: 2 for signs, 1 for bits."""
        return self.high - self.low

    @property
    def centre(self) -> sp.Expr:
        """The middle of the two values, the threshold of rounding: 0 for signs, 1/2 for bits."""
        return (self.high + self.low) / 2

    def high_probability(self, d: Any = None) -> sp.Expr:
        """P(w*_j = high) in dimension d."""
        raise NotImplementedError

    def mean(self, d: Any = None) -> sp.Expr:
        """E w*_j."""
        return self.low + self.gap * self.high_probability(d)

    def second_moment(self, d: Any = None, start: Any = 0) -> sp.Expr:
        """E |w* - start 1|^2 / d, what a chain that starts at start * (1, ..., 1) has to learn."""
        p, origin = self.high_probability(d), checks.scalar(start, "start")
        return sp.expand(p * (self.high - origin) ** 2 + (1 - p) * (self.low - origin) ** 2)

    def log_odds(self, d: Any = None) -> sp.Expr:
        """ln P(high)/P(low); `OutOfDomain` where a coordinate is known in advance."""
        p = self.high_probability(d)
        if p == 1:
            raise OutOfDomain(f"{self} in dimension d = {d} has only ones: nothing is unknown.")
        return sp.log(p / (1 - p))


@dataclass(frozen=True)
class Signs(BinaryPrior):
    """w* uniform on {-1, 1}^d.

    >>> Signs().second_moment(), Signs().gap, Signs().log_odds()
    (1, 2, 0)
    """

    low = -sp.S.One

    def high_probability(self, d: Any = None) -> sp.Expr:
        return sp.S.Half


@dataclass(frozen=True)
class Bits(BinaryPrior):
    """Independent w*_j in {0, 1}, each one with probability `probability`, strictly between 0 and 1.

    Errors: `InvalidInput`.

    >>> Bits().second_moment(), Bits().second_moment(start=Bits().centre), Bits(0.2).mean()
    (1/2, 1/4, 1/5)
    """

    probability: Any = sp.S.Half

    def __post_init__(self) -> None:
        p = checks.scalar(self.probability, "probability")
        if p.is_nonpositive or (1 - p).is_nonpositive:
            raise InvalidInput(
                f"Bits({p}) has no two possible values of a coordinate; pass a probability of ones "
                f"strictly between 0 and 1, e.g. Bits(0.5)."
            )
        object.__setattr__(self, "probability", p)

    def high_probability(self, d: Any = None) -> sp.Expr:
        return self.probability


@dataclass(frozen=True)
class SparseBits(BinaryPrior):
    """w* uniform over the vectors of {0, 1}^d with exactly `ones` ones, 1 <= ones <= d.

    Errors: `InvalidInput`.

    >>> SparseBits(3).second_moment(12)
    1/4
    >>> SparseBits(3).mean(2)
    Traceback (most recent call last):
    icltheory.errors.InvalidInput: SparseBits(ones=3) puts 3 ones into d = 2 coordinates; take ones <= d.
    """

    ones: Any

    def __post_init__(self) -> None:
        ones = checks.positive_integer(self.ones, "ones", "SparseBits(3)")
        object.__setattr__(self, "ones", ones)

    def high_probability(self, d: Any = None) -> sp.Expr:
        if d is None:
            raise InvalidInput(f"{self} needs the dimension d.")
        dim = checks.positive_integer(d, "d", "d=20")
        if (dim - self.ones).is_negative:
            raise InvalidInput(
                f"{self} puts {self.ones} ones into d = {dim} coordinates; take ones <= d."
            )
        return self.ones / dim


def require_prior(prior: Any) -> BinaryPrior:
    """`InvalidInput` for what is no prior of this module."""
    if not isinstance(prior, BinaryPrior):
        raise InvalidInput(
            f"prior has type {type(prior).__name__}; pass icl.Signs(), icl.Bits(0.5) or "
            f"icl.SparseBits(3)."
        )
    return prior


# -- samplers ------------------------------------------------------------------------------------


class BinarySampler:
    """Draws the higher value with probability pi(v) at the margin v = u - threshold."""

    @property
    def is_greedy(self) -> bool:
        """True where sampling is rounding."""
        return False

    def probability(self, margin: Any, gap: Any = 1) -> sp.Expr:
        """pi(margin); `gap` is the distance of the two values, which only `Clip` depends on."""
        v, width = checks.scalar(margin, "margin"), checks.positive(gap, "gap")
        return sp.Heaviside(v, sp.S.Half) if self.is_greedy else self._probability(v, width)

    def log_probability(self, margin: Any) -> sp.Expr:
        """ln pi(margin), in a form that does not underflow where there is one."""
        return sp.log(self.probability(margin))

    def density(self, margin: Any, gap: Any = 1) -> sp.Expr:
        """pi'(margin), the density of the random threshold; `OutOfDomain` for rounding, a point mass."""
        if self.is_greedy:
            raise OutOfDomain(f"{self} is a step: its derivative is no function; use Probit(0.05).")
        return self._density(checks.scalar(margin, "margin"), checks.positive(gap, "gap"))

    def slope(self, gap: Any = 1) -> sp.Expr:
        """pi'(0), which decides how fast votes become right; infinite (`oo`) for rounding."""
        return sp.oo if self.is_greedy else self._density(sp.S.Zero, checks.positive(gap, "gap"))

    def mean_probability(self, mean: Any, variance: Any, gap: Any = 1) -> sp.Expr:
        """E pi(v) for a margin v ~ N(mean, variance): P(v > random threshold).

        Closed but for the logit, whose unevaluated integral `evalf` and backend "mpmath" compute.
        """
        centre, spread = checks.scalar(mean, "mean"), checks.nonnegative(variance, "variance")
        width = checks.positive(gap, "gap")
        if spread == 0:
            return self.probability(centre, width)
        if self.is_greedy:
            return normal_tail(-centre / sp.sqrt(spread))
        return self._mean(centre, spread, width)

    def _probability(self, v: sp.Expr, gap: Any) -> sp.Expr:
        raise NotImplementedError

    def _density(self, v: sp.Expr, gap: Any) -> sp.Expr:
        return sp.diff(self._probability(_Y, gap), _Y).subs(_Y, v)

    def _mean(self, mean: sp.Expr, variance: sp.Expr, gap: Any) -> sp.Expr:
        return normal_mean(self._probability(mean + sp.sqrt(variance) * G, gap))


class _Tempered(BinarySampler):
    """A sampler with a temperature >= 0; zero is rounding, exactly."""

    temperature: Any

    def __post_init__(self) -> None:
        value = checks.scalar(self.temperature, "temperature")
        if value.is_negative:
            raise InvalidInput(
                f"temperature = {value} is negative; pass 0 (rounding) or a positive temperature."
            )
        object.__setattr__(self, "temperature", value)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0


@dataclass(frozen=True)
class Logit(_Tempered):
    """pi(v) = 1/(1 + exp(-v/temperature)); Logit(0) rounds.

    >>> v = sp.Symbol("v", real=True)
    >>> Logit(2).probability(v), Logit(2).slope(), Logit(0).probability(v)
    (1/(1 + exp(-v/2)), 1/8, Heaviside(v))
    """

    temperature: Any

    def log_probability(self, margin: Any) -> sp.Expr:
        if self.is_greedy:
            return super().log_probability(margin)
        return -sp.log(1 + sp.exp(-checks.scalar(margin, "margin") / self.temperature))

    def _probability(self, v: sp.Expr, gap: Any) -> sp.Expr:
        return 1 / (1 + sp.exp(-v / self.temperature))


@dataclass(frozen=True)
class Probit(_Tempered):
    """pi(v) = Phi(v/temperature): add N(0, temperature^2) to the state and round; Probit(0) rounds.

    >>> Probit(2).mean_probability(-1, 5)
    erfc(sqrt(2)/6)/2
    """

    temperature: Any

    def _probability(self, v: sp.Expr, gap: Any) -> sp.Expr:
        return normal_tail(-v / self.temperature)

    def _mean(self, mean: sp.Expr, variance: sp.Expr, gap: Any) -> sp.Expr:
        # A Gaussian threshold adds its variance.
        return Round().mean_probability(mean, variance + self.temperature**2)


@dataclass(frozen=True)
class Clip(BinarySampler):
    """pi(v) = 1/2 + v/gap, cut off at 0 and 1: the state itself, read as a probability.

    >>> Clip().probability(sp.Rational(1, 10)), Clip().slope(), Clip().slope(gap=2)
    (3/5, 1, 1/2)
    """

    def _probability(self, v: sp.Expr, gap: Any) -> sp.Expr:
        return sp.Min(sp.Max(sp.S.Half + v / gap, 0), 1)

    def _density(self, v: sp.Expr, gap: Any) -> sp.Expr:
        inside = sp.Abs(v) < gap / 2
        return sp.S.One / gap if inside == sp.true else sp.Piecewise((1 / gap, inside), (0, True))

    def _mean(self, mean: sp.Expr, variance: sp.Expr, gap: Any) -> sp.Expr:
        # A threshold uniform on (-gap/2, gap/2): the integral of Q((y - mean)/sd)/gap.
        y, spread = sp.Dummy("y", real=True), sp.Dummy("omega", positive=True)
        rounded = normal_tail(y / spread)
        primitive = sp.integrate(rounded, y)
        upper, lower = (primitive.subs(y, side * gap / 2 - mean) for side in (1, -1))
        return ((upper - lower) / gap).subs(spread, sp.sqrt(variance))


@dataclass(frozen=True)
class Round(BinarySampler):
    """The nearer value: pi is a step.

    >>> Round().mean_probability(-1, 4)
    erfc(sqrt(2)/4)/2
    """

    @property
    def is_greedy(self) -> bool:
        return True


def require_sampler(sampler: Any) -> BinarySampler:
    """`InvalidInput` for what is no sampler of this module."""
    if not isinstance(sampler, BinarySampler):
        raise InvalidInput(
            f"sampler has type {type(sampler).__name__}; pass icl.Logit(0.5), icl.Probit(0.5), "
            f"icl.Clip() or icl.Round()."
        )
    return sampler
