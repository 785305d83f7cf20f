"""Binary answers under a verifier, and by plurality: how many samples find the right one?

Without label noise almost surely no other binary vector fits the prompt, so that best-of-N succeeds
iff the right answer was sampled. Source: derived here. Exported: `equivocation`,
`verified_log_samples`, `pass_at_n`, `verified_success`, `competitor_error`, `exhaustive_error`,
`plurality_samples`, `vote_samples`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.binary_channel import BinaryChannel
from icltheory.binary_priors import SOURCES, Logit, SparseBits, require_prior
from icltheory.errors import InvalidInput
from icltheory.formula import Formula, Step
from icltheory.laws.normal import G, normal_mean
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import delta as delta_symbol
from icltheory.symbols import false_negative as false_negative_symbol
from icltheory.symbols import false_positive as false_positive_symbol
from icltheory.symbols import label_noise_var as label_noise_symbol
from icltheory.symbols import log_loss as loss_symbol
from icltheory.symbols import log_loss_var as loss_var_symbol
from icltheory.symbols import n as length_symbol
from icltheory.symbols import samples as samples_symbol
from icltheory.symbols import snr as snr_symbol
from icltheory.symbols import success

_MOST_POWER, _MOST_TERMS = 10_000, 200


def equivocation(signal_to_noise: Any = snr_symbol) -> Formula:
    """h(snr), nats a sign that the channel leaves unknown; for bits take h(snr/4).

    The log loss of logit sampling at its calibrated temperature, an integral: `evalf` or backend
    "mpmath". h(0) = ln 2, and h decreases to 0.

    Errors: `InvalidInput`. Source: derived here.

    >>> [equivocation(x).evalf(10) for x in (0.5, 1, 3)]
    [0.4918017090, 0.3563163602, 0.1072078301]
    """
    ratio = checks.scalar(signal_to_noise, "signal_to_noise")
    if ratio == 0:
        fair = Step("probability p of a sign that is not seen", sp.Eq(sp.Symbol("p"), sp.S.Half))
        return Formula("equivocation", sp.log(2), references=SOURCES, steps=(fair,))
    checks.positive(ratio, "signal_to_noise")
    seen = BinaryChannel(gain=sp.sqrt(ratio), noise_var=1)
    best = seen.calibrated_temperature()
    loss = seen.log_loss(Logit(best.expr))
    return Formula(
        "equivocation of the binary channel",
        loss.expr,
        references=SOURCES,
        steps=(Step("calibrated temperature at noise 1", sp.Eq(sp.Symbol("T"), best.expr)),),
    )


def verified_log_samples(signal_to_noise: Any = snr_symbol, d: Any = dim_symbol) -> Formula:
    """ln N at which verified sampling begins to succeed, at the calibrated temperature: d h(snr).

    Errors: `InvalidInput`. Source: derived here.

    >>> verified_log_samples(1, d=20).evalf(6)
    7.12633
    """
    dim = checks.positive_integer(d, "d", "d=20")
    rate = equivocation(signal_to_noise)
    return Formula(
        "log of the samples that verified sampling needs",
        dim * rate.expr,
        references=SOURCES,
        steps=(
            *rate.steps,
            Step("equivocation h of one coordinate, G normal", sp.Eq(sp.Symbol("h"), rate.expr)),
        ),
    )


def pass_at_n(
    samples: Any = samples_symbol,
    d: Any = dim_symbol,
    log_loss: Any = loss_symbol,
    log_loss_var: Any = loss_var_symbol,
) -> Formula:
    """P(one of N samples is right), ln P(one sample is right) taken as N(-d log_loss, d log_loss_var).

    The two moments are those of `BinaryChannel.log_loss` and `.log_loss_var`. Within 0.04 for n up to
    about d near the calibrated temperature; poor at N = 1.

    Errors: `InvalidInput`. Source: derived here.

    >>> round(float(pass_at_n(1000, 12, 0.5, 0.1)), 6)
    0.815448
    """
    number = checks.positive_integer(samples, "samples", "samples=16")
    dim = checks.positive_integer(d, "d", "d=20")
    rate = checks.nonnegative(log_loss, "log_loss")
    spread = checks.nonnegative(log_loss_var, "log_loss_var")
    expected = sp.exp(sp.log(number) - dim * rate + sp.sqrt(dim * spread) * G)
    return Formula(
        "pass@N",
        normal_mean(1 - sp.exp(-expected)),
        references=SOURCES,
        steps=(Step("mean number m of right samples, G normal", sp.Eq(sp.Symbol("m"), expected)),),
    )


def verified_success(
    probability: Any = success,
    samples: Any = samples_symbol,
    false_negative: Any = false_negative_symbol,
    false_positive: Any = false_positive_symbol,
) -> Formula:
    """P(right answer) with a verifier that errs: an accepted answer of N, or any if none is accepted.

    Parameters
    ----------
    probability: that one sample is right.
    false_negative, false_positive: error rates of the verifier, independent over samples.

    Exact.

    Errors: `InvalidInput`. Source: derived here.

    >>> verified_success(0.1, 4, 0.2, 0.05).evalf(10)
    0.2782421875
    """
    number = checks.positive_integer(samples, "samples", "samples=16")
    _moderate(number, "samples", "numeric.verified_success")
    names = ("probability", "false_negative", "false_positive")
    given = (probability, false_negative, false_positive)
    right, miss, pass_wrong = (_probability(x, name) for x, name in zip(given, names, strict=True))
    accepted = right * (1 - miss) + (1 - right) * pass_wrong
    i, q = sp.Dummy("i", integer=True, nonnegative=True), sp.Symbol("q", nonnegative=True)
    # Which accepted answer is returned does not matter: take the first.
    first = sp.summation(q**i, (i, 0, number - 1))
    expr = (right * (1 - miss) * first + q ** (number - 1) * right * miss).subs(q, 1 - accepted)
    return Formula(
        "success with a verifier that errs",
        expr,
        references=SOURCES,
        steps=(Step("probability q that a sample is rejected", sp.Eq(q, 1 - accepted)),),
        abbreviations=sp.Dict({q: 1 - accepted} if accepted.free_symbols else {}),
    )


def competitor_error(
    distance: Any,
    prior: Any,
    n: Any = length_symbol,
    label_noise_var: Any = label_noise_symbol,
    *,
    form: str = "student",
) -> Formula:
    """P(a binary vector at Hamming distance h fits a noisy prompt better than w*).

    Given X it is Q(|X delta|/(2 sigma)), and |X delta|^2 is |delta|^2 chi^2_n: "student" is exact, a
    tail of Student's law, "chernoff" its bound by Q(x) <= exp(-x^2/2)/2.

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.binary_priors import Signs
    >>> competitor_error(1, Signs(), form="chernoff").expr
    1/(2*(1 + 1/label_noise_var)**(n/2))
    """
    flips = checks.positive_integer(distance, "distance", "1")
    length = checks.positive_integer(n, "n", "n=20")
    _moderate(length, "n", "numeric.exhaustive_error")
    noise = checks.positive(label_noise_var, "label_noise_var", "1")
    ratio = flips * require_prior(prior).gap ** 2 / (4 * noise)  # a^2 in Q(a chi)
    if form == "student":
        # G^2 > a^2 chi^2 iff chi^2/(chi^2 + G^2), of a beta law, is below 1/(1 + a^2).
        half = sp.S.Half
        expr = half * sp.betainc_regularized(length / 2, half, 0, 1 / (1 + ratio))
    elif form == "chernoff":
        u = sp.Dummy("u", nonpositive=True)
        moments = (1 - 2 * u) ** (-length / 2)  # E exp(u chi^2_n)
        expr = moments.subs(u, -ratio / 2) / 2
    else:
        raise InvalidInput(f"form = {form!r}; pass 'student' or 'chernoff'.")
    return Formula(
        f"error of one competitor, {form}",
        expr,
        references=SOURCES,
        steps=(Step("a^2 in Q(a chi), chi^2 with n degrees", sp.Eq(sp.Symbol("a") ** 2, ratio)),),
    )


def exhaustive_error(
    prior: Any, n: Any, d: int, label_noise_var: Any = label_noise_symbol, *, form: str = "student"
) -> Formula:
    """Union bound on the error of the best fit among all binary vectors: sum_h (d choose h) P_h.

    n may be a symbol, d is a number; `form` as in `competitor_error`. For sparse bits competitors have
    as many ones: (k choose h)(d - k choose h) at distance 2h. It may exceed 1, and is loose where it
    is not small.

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.binary_priors import Signs
    >>> exhaustive_error(Signs(), 6, 10, 1).evalf(10)
    1.507551703
    """
    dim = checks.positive_integer(d, "d", "d=10")
    if not dim.is_Integer:
        raise InvalidInput(f"d = {d} is a symbol; the sum needs a number.")
    _moderate(dim, "d", "numeric.exhaustive_error", _MOST_TERMS)
    if isinstance(prior, SparseBits):
        ones = prior.high_probability(dim) * dim
        if not ones.is_Integer:
            raise InvalidInput(f"ones = {prior.ones} is a symbol; the sum needs a number.")
        far = min(int(ones), int(dim - ones))
        counts = {
            2 * h: sp.binomial(ones, h) * sp.binomial(dim - ones, h) for h in range(1, far + 1)
        }
    else:
        counts = {h: sp.binomial(dim, h) for h in range(1, int(dim) + 1)}
    terms = (
        count * competitor_error(h, prior, n, label_noise_var, form=form).expr
        for h, count in counts.items()
    )
    first, *others = terms
    return Formula(
        f"union bound of the exhaustive search, {form}",
        sp.Add(first, *others),
        references=SOURCES,
        steps=(Step("term P of the nearest competitors", sp.Eq(sp.Symbol("P"), first)),),
    )


def plurality_samples(mode: Any, runner_up: Any, delta: Any = delta_symbol) -> Formula:
    """Samples for the most frequent whole answer to be the mode, up to one competitor: Chernoff.

    `mode`, `runner_up`: probabilities p_1 > p_2 of the two most likely answers.

    Errors: `InvalidInput`. Source: derived here.

    >>> p1, p2 = sp.symbols("p1 p2", positive=True)
    >>> plurality_samples(p1, p2).expr
    log(1/delta)/(sqrt(p1) - sqrt(p2))**2
    """
    first, second = _probability(mode, "mode"), _probability(runner_up, "runner_up")
    if (first > second) == sp.false:
        raise InvalidInput(f"mode = {first} is not more likely than the runner-up {second}.")
    failure = checks.positive(delta, "delta", "0.01")
    a, b, x = sp.symbols("a b x", positive=True)  # square roots of p1 and p2; x = exp(theta)
    moment = 1 - a**2 - b**2 + a**2 / x + b**2 * x
    (best,) = sp.solve(sp.diff(moment, x), x)
    gap = sp.factor(1 - moment.subs(x, best)).subs({a: sp.sqrt(first), b: sp.sqrt(second)})
    return Formula(
        "samples for the plurality of whole answers",
        sp.log(1 / failure) / gap,
        validity=sp.S(first > second),
        references=SOURCES,
        steps=(Step("1 - min E exp(theta (X_2 - X_1)) of one draw", gap),),
    )


def vote_samples(probability: Any, d: Any = dim_symbol, delta: Any = delta_symbol) -> Formula:
    """Samples for all d coordinate votes to be right, each right with at least `probability` > 1/2.

    By Hoeffding's inequality and a union bound: ln(d/delta)/(2 (probability - 1/2)^2).

    Errors: `InvalidInput`. Source: derived here.

    >>> vote_samples(0.75, d=20, delta=0.01).evalf(4)
    60.81
    """
    dim = checks.positive_integer(d, "d", "d=20")
    right = _probability(probability, "probability")
    failure = checks.positive(delta, "delta", "0.01")
    if (right > sp.S.Half) == sp.false:
        raise InvalidInput(f"probability = {right}: votes become right only above 1/2.")
    return Formula(
        "samples for all coordinate votes",
        sp.log(dim / failure) / (2 * (right - sp.S.Half) ** 2),
        validity=sp.S(right > sp.S.Half),
        references=SOURCES,
        steps=(
            Step(
                "bound p of one vote's error, by Hoeffding",
                sp.Eq(sp.Symbol("p"), sp.exp(-2 * samples_symbol * (right - sp.S.Half) ** 2)),
            ),
        ),
    )


def _moderate(number: sp.Expr, name: str, beyond: str, most: int = _MOST_POWER) -> None:
    """`InvalidInput` for a number of which exact powers or sums take long."""
    if number.is_Integer and number > most:
        raise InvalidInput(
            f"{name} = {float(number):.3g}: exact numbers are for at most {most}; use {beyond}."
        )


def _probability(value: Any, name: str) -> sp.Expr:
    expr = checks.scalar(value, name)
    if expr.is_negative or (1 - expr).is_negative:
        raise InvalidInput(f"{name} = {expr} is no probability; pass a number from 0 to 1.")
    return expr
