"""Binary coefficients seen through a chain: a Gaussian channel, its rounding, sampling and voting.

After a chain with continuous states, or the mean of several, a coordinate of the state is nearly
u = start + gain (w* - start) + noise: w* in {low, high} of an `icl.Signs`, `icl.Bits` or
`icl.SparseBits` prior, noise N(0, noise_var). For signs the mean and variance of w*_j u_j are exact at
every n and d; that the noise is Gaussian and independent over coordinates holds where d is large.
Errors are per coordinate. `label_noise_var` belongs to coefficients of second moment as the prior
says. Source: derived here. Exported: `BinaryChannel`, `channel`, `limit_channel`,
`long_chain_channel`, `sparse_channel_variances`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.binary_priors import (
    SOURCES,
    BinaryPrior,
    Clip,
    Round,
    Signs,
    SparseBits,
    require_prior,
    require_sampler,
)
from icltheory.chains import NoisyDecoding
from icltheory.contraction import contraction_moment, contraction_moment_limit
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.formula import Formula, Step
from icltheory.laws.normal import G, normal_mean, normal_tail
from icltheory.laws.wishart import wishart_trace_moment
from icltheory.symbols import channel_std as std_symbol
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import gain as gain_symbol
from icltheory.symbols import gamma as gamma_symbol
from icltheory.symbols import n as length_symbol
from icltheory.symbols import samples as samples_symbol
from icltheory.voting import vote_constant, vote_excess

_SIGNS = Signs()
_MOST_VOTES = 100_000


@dataclass(frozen=True)
class BinaryChannel:
    """u = start + gain (w* - start) + N(0, noise_var), for one coordinate of a binary w*.

    Parameters
    ----------
    gain, noise_var: numbers, expressions or Formulas, noise_var > 0; kept as Formulas.
    prior: of w*; start: the coordinate where the chain starts, 0 or the prior's centre.
    d: the dimension, which only `SparseBits` needs.

    Errors: `InvalidInput`. Source: derived here.

    >>> seen = BinaryChannel(0.625, 0.425**2)
    >>> seen.greedy_error().evalf(10), seen.signal_to_noise.evalf(8)
    (0.07070125374, 2.1626298)
    """

    gain: Any = gain_symbol
    noise_var: Any = std_symbol**2
    prior: BinaryPrior = _SIGNS
    start: Any = 0
    d: Any = None

    def __post_init__(self) -> None:
        require_prior(self.prior)
        for name, title in (("gain", "gain of the channel"), ("noise_var", "noise of the channel")):
            value = getattr(self, name)
            if not isinstance(value, Formula):
                value = Formula(title, checks.positive(value, name, "0.5"), references=SOURCES)
            object.__setattr__(self, name, value)
        object.__setattr__(self, "start", checks.scalar(self.start, "start"))
        if self.d is not None:
            object.__setattr__(self, "d", checks.positive_integer(self.d, "d", "d=20"))

    @property
    def signal_to_noise(self) -> Formula:
        """gain^2/noise_var."""
        return self._formula("signal-to-noise ratio", self._gain**2 / self._variance)

    @property
    def threshold(self) -> sp.Expr:
        """The middle of the two means of u."""
        return self._mean(self.prior.centre)

    @property
    def margin(self) -> sp.Expr:
        """Distance of either mean of u from the middle."""
        return self._gain * self.prior.gap / 2

    def posterior_log_odds(self, u: Any) -> Formula:
        """ln P(high | u)/P(low | u): linear in u."""
        state = checks.scalar(u, "u")
        means = self._mean(self.prior.low), self._mean(self.prior.high)
        low, high = (-((state - mean) ** 2) / (2 * self._variance) for mean in means)
        ratio = sp.expand(high - low)
        return self._formula("posterior log-odds", ratio + self.prior.log_odds(self.d))

    def calibrated_temperature(self) -> Formula:
        """The temperature at which logit sampling draws from the posterior: least log loss.

        >>> BinaryChannel().calibrated_temperature().expr
        channel_std**2/(2*gain)
        """
        u = sp.Dummy("u", real=True)
        slope = sp.factor(sp.diff(self.posterior_log_odds(u).expr, u))
        step = Step("slope b of the posterior log-odds in u", sp.Eq(sp.Symbol("b"), slope))
        return self._formula("calibrated temperature", 1 / slope, (step,))

    def best_threshold(self) -> Formula:
        """The threshold of u with the least error of rounding: posterior odds are even there.

        >>> from icltheory.binary_priors import Bits
        >>> BinaryChannel(prior=Bits(0.5)).best_threshold().expr
        gain/2
        """
        u = sp.Dummy("u", real=True)
        odds = self.posterior_log_odds(u).expr
        root = -odds.subs(u, 0) / sp.diff(odds, u)
        return self._formula("best threshold", sp.expand(root))

    def greedy_error(self, threshold: Any = None) -> Formula:
        """Error of rounding u, at the middle or at a `threshold`.

        >>> BinaryChannel().greedy_error().expr
        erfc(sqrt(2)*gain/(2*channel_std))/2
        """
        return self._error("error of rounding", Round(), threshold)

    def sample_error(self, sampler: Any, threshold: Any = None) -> Formula:
        """Error of one sample drawn from u; the clip reads u as it is (threshold: the centre)."""
        return self._error(f"error of one sample, {sampler}", require_sampler(sampler), threshold)

    def majority_error(
        self, sampler: Any, samples: Any = samples_symbol, threshold: Any = None
    ) -> Formula:
        """Error of the majority of `samples` samples of the same u, ties broken at random: an integral.

        P(Bin(N, s) < N/2) + P(= N/2)/2 is an incomplete beta function; N = 2m votes err as 2m - 1.

        >>> from icltheory.binary_priors import Logit
        >>> BinaryChannel(0.625, 0.425**2).majority_error(Logit(0.6), 25).evalf(10)
        0.1001075121
        """
        chosen, number = (
            require_sampler(sampler),
            checks.positive_integer(samples, "samples", "samples=16"),
        )
        if chosen.is_greedy:
            return self.greedy_error(threshold)
        if number.is_Integer and number > _MOST_VOTES:
            raise InvalidInput(
                f"samples = {float(number):.3g}: the integral is computed up to {_MOST_VOTES}; use "
                f"numeric.majority_errors beyond."
            )
        half = sp.ceiling(number / 2)
        spread = sp.sqrt(self._variance)

        def vote(mean: sp.Expr) -> sp.Expr:
            wrong = chosen.probability(mean + spread * G, self.prior.gap)
            return normal_mean(sp.betainc_regularized(half, half, 0, wrong))

        return self._formula(
            f"error of the majority of votes, {sampler}", self._classes(chosen, threshold, vote)
        )

    def majority_law(self, sampler: Any, samples: Any = samples_symbol) -> Formula:
        """`majority_error` at the middle threshold to order 1/N: never below rounding of the same u.

        >>> from icltheory.binary_priors import Probit
        >>> BinaryChannel().majority_law(Probit(1)).steps[0].equation.rhs
        pi/4
        """
        constant = vote_constant(sampler, self.prior.gap)
        excess = vote_excess(self.margin, sp.sqrt(self._variance)).expr
        return self._formula(
            f"error of the majority of votes to order 1/N, {sampler}",
            self.greedy_error().expr
            + constant.expr / checks.positive_integer(samples, "samples", "samples=16") * excess,
            (Step("constant c of the votes", sp.Eq(sp.Symbol("c"), constant.expr)),),
        )

    def averaging_error(self, temperature: Any, samples: Any = samples_symbol) -> Formula:
        """Error of rounding the mean of `samples` states u + N(0, temperature^2)."""
        width = checks.nonnegative(temperature, "temperature")
        spread = self._variance + width**2 / checks.positive_integer(
            samples, "samples", "samples=16"
        )
        return self._formula(
            "error of rounding the mean of noisy states", normal_tail(self.margin / sp.sqrt(spread))
        )

    def log_loss(self, sampler: Any) -> Formula:
        """E[-ln P(right bit)] a coordinate, the rate of verified sampling; threshold in the middle."""
        return self._formula(f"log loss, {sampler}", normal_mean(-self._log_right(sampler)))

    def log_loss_var(self, sampler: Any) -> Formula:
        """Var(ln P(right bit)) a coordinate."""
        log = self._log_right(sampler)
        expr = normal_mean(log**2) - normal_mean(-log) ** 2
        return self._formula(f"variance of the log loss, {sampler}", expr)

    # -- parts -------------------------------------------------------------------------------------

    @property
    def _gain(self) -> sp.Expr:
        return self.gain.expr

    @property
    def _variance(self) -> sp.Expr:
        return self.noise_var.expr

    def _mean(self, value: Any) -> sp.Expr:
        return self.start + self._gain * (value - self.start)

    def _error(self, name: str, sampler: Any, threshold: Any) -> Formula:
        def error(mean: sp.Expr) -> sp.Expr:
            return sampler.mean_probability(mean, self._variance, self.prior.gap)

        return self._formula(name, self._classes(sampler, threshold, error))

    def _classes(self, sampler: Any, threshold: Any, error: Any) -> sp.Expr:
        """The mean over both values of error(margin of the wrong value), samplers being symmetric."""
        if threshold is not None:
            cut = checks.scalar(threshold, "threshold")
        else:
            cut = self.prior.centre if isinstance(sampler, Clip) else self.threshold
        low = sp.expand(self._mean(self.prior.low) - cut)
        high = sp.expand(cut - self._mean(self.prior.high))
        if low == high:
            return error(low)
        p = self.prior.high_probability(self.d)
        return p * error(high) + (1 - p) * error(low)

    def _log_right(self, sampler: Any) -> sp.Expr:
        chosen = require_sampler(sampler)
        if chosen.is_greedy or isinstance(chosen, Clip):
            raise OutOfDomain(
                f"{sampler} gives some right bits probability 0: the log loss is infinite; use a "
                f"logit or probit with a positive temperature."
            )
        state = self.margin + sp.sqrt(self._variance) * G
        return chosen.log_probability(state)

    def _formula(self, name: str, expr: sp.Expr, steps: tuple[Step, ...] = ()) -> Formula:
        validity = sp.And(self.gain.validity, self.noise_var.validity)
        steps = steps or (
            Step("margin m of a mean of u from the middle", sp.Eq(sp.Symbol("m"), self.margin)),
            Step("variance v of u given its bit", sp.Eq(sp.Symbol("v"), self._variance)),
        )
        return Formula(name, expr, validity=validity, references=SOURCES, steps=steps)


# -- the channel of a chain ------------------------------------------------------------------------


def channel(
    decoding: Any, prior: Any, n: Any = length_symbol, d: Any = dim_symbol, *, start: Any = 0
) -> BinaryChannel:
    """The channel of the mean of the chains of an `icl.NoisyDecoding`, from exact moments.

    gain = 1 - beta_t; noise_var = E|w* - start|^2/d (beta_2t - beta_t^2) + sampling and label noise,
    which are those of `decoding.risk`. `start`: 0, or the prior's centre (`prior.centre`).

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.chains import NoisyDecoding
    >>> one = channel(NoisyDecoding(0.5, 0, 1), Signs())
    >>> one.gain.expr, sp.factor(one.signal_to_noise.expr)
    (1/2, n/(d + 1))
    """
    dim = checks.positive_integer(d, "d", "d=10")
    steps = _steps(decoding)
    mean, square = (contraction_moment(j, n, dim, decoding.step_size) for j in (steps, 2 * steps))
    risk = decoding.risk(n, dim)
    return _channel(prior, start, dim, mean.expr, square.expr, risk)


def limit_channel(
    decoding: Any,
    prior: Any,
    gamma: Any = gamma_symbol,
    label_noise_ratio: Any = None,
    *,
    start: Any = 0,
) -> BinaryChannel:
    """The channel for n, d -> infinity with d/n -> gamma; arguments as in `NoisyDecoding.limit_risk`.

    Sparse bits are here Bits(fraction of ones). Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.chains import NoisyDecoding
    >>> sp.factor(limit_channel(NoisyDecoding(0.5, 0, 1), Signs()).signal_to_noise.expr)
    1/gamma
    """
    steps = _steps(decoding)
    mean, square = (
        contraction_moment_limit(j, gamma, decoding.step_size) for j in (steps, 2 * steps)
    )
    risk = decoding.limit_risk(gamma, label_noise_ratio)
    return _channel(prior, start, None, mean.expr, square.expr, risk)


def _steps(decoding: Any) -> int:
    if not isinstance(decoding, NoisyDecoding):
        raise InvalidInput(
            f"decoding has type {type(decoding).__name__}; pass icl.NoisyDecoding(0.5, 0.1, 3)."
        )
    if not decoding.steps.is_Integer or decoding.steps < 1:
        raise InvalidInput(f"steps = {decoding.steps}: a channel needs a number of steps >= 1.")
    return int(decoding.steps)


def _channel(
    prior: Any, start: Any, dim: Any, mean: sp.Expr, square: sp.Expr, risk: Formula
) -> BinaryChannel:
    origin = checks.scalar(start, "start")
    moment = require_prior(prior).second_moment(dim, origin)
    noise = sp.factor(moment * (square - mean**2) + (risk.expr - square))
    steps = (Step("contraction beta_t along w*", sp.Eq(sp.Symbol("beta_t"), mean)),)
    return BinaryChannel(
        Formula("gain of the binary channel", 1 - mean, risk.validity, SOURCES, steps),
        Formula("noise of the binary channel", noise, risk.validity, SOURCES, steps),
        prior,
        origin,
        dim,
    )


def long_chain_channel(prior: Any, n: Any = length_symbol, d: Any = dim_symbol) -> BinaryChannel:
    """The channel of infinitely many noiseless steps on fewer examples than dimensions, n < d.

    The chain ends at the solution of least norm; what is left of w* is a projection of rank d - n.

    Errors: `InvalidInput`. Source: derived here.

    >>> sp.factor(long_chain_channel(Signs()).signal_to_noise.expr)
    n/(d - n)
    """
    length = checks.positive_integer(n, "n", "n=10")
    dim = checks.positive_integer(d, "d", "d=20")
    if (length < dim) == sp.false:
        raise OutOfDomain(
            f"n = {length}, d = {dim}: with n >= d a long chain without noise finds w* exactly."
        )
    left = 1 - length / dim  # beta_j for all j: a projection is its own power
    moment = require_prior(prior).second_moment(dim)
    validity = sp.S(length < dim)
    steps = (
        Step("beta_j for every j, of a projection of rank d - n", sp.Eq(sp.Symbol("beta_j"), left)),
    )
    return BinaryChannel(
        Formula("gain of a long chain", 1 - left, validity, SOURCES, steps),
        Formula(
            "noise of a long chain", sp.factor(moment * (left - left**2)), validity, SOURCES, steps
        ),
        prior,
        0,
        dim,
    )


def sparse_channel_variances(
    decoding: Any, ones: Any, n: Any = length_symbol, d: Any = dim_symbol
) -> dict[str, Formula]:
    """Exact variances of u_j for `SparseBits(ones)`: of the "zero" and "one" coordinates.

    E (A^t)_jl^2 off the diagonal follows from E (tr A^t)^2 and E tr A^2t by rotation invariance; it
    gives both. Symbols n, d up to a few steps. Errors: `InvalidInput` for d = 1.
    Source: derived here.

    >>> from icltheory.chains import NoisyDecoding
    >>> from icltheory.symbols import eta, k
    >>> {name: sp.factor(f.expr) for name, f in
    ...     sparse_channel_variances(NoisyDecoding(eta, 0, 1), 3).items()}
    {'zero': 3*eta**2/n, 'one': 4*eta**2/n}
    """
    length = checks.positive_integer(n, "n", "n=20")
    dim = checks.positive_integer(d, "d", "d=10")
    count = SparseBits(ones).high_probability(dim) * dim
    if dim == 1:
        raise InvalidInput("d = 1 has no second coordinate; use icl.channel.")
    steps, eta = _steps(decoding), decoding.step_size
    mean, square = (contraction_moment(j, length, dim, eta).expr for j in (steps, 2 * steps))
    traces = sp.S.Zero
    for i in range(steps + 1):
        for j in range(steps + 1):
            powers = tuple(p for p in (i, j) if p)
            moment = wishart_trace_moment(powers, length, dim) if powers else sp.S.One
            moment *= dim ** (2 - len(powers))  # tr S^0 = d
            moment *= sp.binomial(steps, i) * sp.binomial(steps, j) * (-eta / length) ** (i + j)
            traces += moment
    off = sp.cancel((dim**2 * square - traces) / (dim * (dim - 1) * (dim + 2)))
    noise = decoding.risk(length, dim).expr - square
    parts = {"zero": count * off + noise, "one": square - (dim - count) * off - mean**2 + noise}
    told = (
        Step("contraction beta_t along w*", sp.Eq(sp.Symbol("beta_t"), mean)),
        Step("mean square q of an entry of A^t off the diagonal", sp.Eq(sp.Symbol("q"), off)),
    )
    return {
        name: Formula(
            f"variance of the state, {name} coordinates", sp.cancel(x), sp.true, SOURCES, told
        )
        for name, x in parts.items()
    }
