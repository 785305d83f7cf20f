"""Binary coefficients: reference values, the real recursion, quadrature, and exact counting."""

import math
from itertools import product

import numpy as np
import pytest
import sympy as sp
from scipy import integrate, special, stats

import icltheory as icl
import numeric
from icltheory.symbols import d, error_fraction, eta, n, temperature

SIGNS, BITS = icl.Signs(), icl.Bits()
KAPPA, OMEGA = 0.625, 0.425
SEEN = icl.BinaryChannel(sp.Rational(5, 8), sp.Rational(17, 40) ** 2)
SAMPLERS = [icl.Logit(0.6), icl.Probit(0.6), icl.Clip()]


def probability(sampler, v, gap=1):
    """pi(v) on arrays, by hand."""
    if isinstance(sampler, icl.Logit):
        return special.expit(v / float(sampler.temperature))
    if isinstance(sampler, icl.Probit):
        return special.ndtr(v / float(sampler.temperature))
    if isinstance(sampler, icl.Clip):
        return np.clip(v / gap + 0.5, 0, 1)
    return np.heaviside(v, 0.5)


def averaged(function, points=()):
    """E f(G) by SciPy."""
    value, _ = integrate.quad(
        lambda g: function(g) * math.exp(-g * g / 2) / math.sqrt(2 * math.pi),
        -12, 12, points=list(points) or None, limit=400, epsabs=1e-13, epsrel=1e-12,
    )  # fmt: skip
    return value


# -- samplers and priors ---------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", [*SAMPLERS, icl.Round(), icl.Logit(0), icl.Probit(0)])
@pytest.mark.parametrize("gap", [1, 2])
def test_average_probability_of_a_sampler(sampler, gap):
    mean, std = -0.3, 0.7
    kinks = [(x - mean) / std for x in (-gap / 2, 0, gap / 2)]
    greedy = sampler if not sampler.is_greedy else icl.Round()
    expected = averaged(lambda g: probability(greedy, mean + std * g, gap), kinks)
    value = float(sampler.mean_probability(mean, std**2, gap))
    assert value == pytest.approx(expected, rel=1e-9)
    v = sp.Symbol("v", real=True)
    at = sp.lambdify(v, sampler.probability(v, gap), ["scipy", "numpy"])
    assert at(0.2) == pytest.approx(float(probability(greedy, 0.2, gap)), rel=1e-12)
    assert at(0.2) + at(-0.2) == pytest.approx(1)


def test_temperature_zero_is_rounding_exactly():
    v = sp.Symbol("v", real=True)
    for cold in (icl.Logit(0), icl.Probit(0)):
        assert cold.probability(v) == icl.Round().probability(v)
        assert cold.mean_probability(v, 2) == icl.Round().mean_probability(v, 2)
        assert SEEN.majority_error(cold, 5).expr == SEEN.greedy_error().expr
        assert icl.vote_constant(cold).expr == 0


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_density_is_the_derivative(sampler):
    v = sp.Symbol("v", real=True)
    density = sp.lambdify(v, sampler.density(v), ["scipy", "numpy"])
    h = 1e-5
    slope = (probability(sampler, 0.3 + h) - probability(sampler, 0.3 - h)) / (2 * h)
    assert float(density(0.3)) == pytest.approx(float(slope), rel=1e-8)
    assert float(sampler.slope()) == pytest.approx(float(density(0.0)))


@pytest.mark.parametrize(("prior", "dim"), [(SIGNS, 4), (icl.Bits(0.3), 4), (icl.SparseBits(3), 4)])
def test_moments_of_a_prior_by_enumeration(prior, dim):
    low, high = int(prior.low), int(prior.high)
    p = float(prior.high_probability(dim))
    vectors = list(product([low, high], repeat=dim))
    if isinstance(prior, icl.SparseBits):
        vectors = [w for w in vectors if sum(w) == 3]
        weights = np.full(len(vectors), 1 / len(vectors))
    else:
        weights = np.array([p ** w.count(high) * (1 - p) ** w.count(low) for w in vectors])
    mean = sum(x * sum(w) / dim for x, w in zip(weights, vectors, strict=True))
    square = sum(
        x * sum((c - 0.5) ** 2 for c in w) / dim for x, w in zip(weights, vectors, strict=True)
    )
    assert float(prior.mean(dim)) == pytest.approx(mean)
    assert float(prior.second_moment(dim, 0.5)) == pytest.approx(square)


# -- reference values ------------------------------------------------------------------------------


def test_reference_errors_of_one_channel():
    assert float(SEEN.greedy_error()) == pytest.approx(0.0707012537, abs=5e-11)
    logit, probit = (SEEN.majority_error(kind(0.6), 25) for kind in (icl.Logit, icl.Probit))
    assert float(logit) == pytest.approx(0.1001075121, abs=5e-11)
    assert float(probit) == pytest.approx(0.0826164475, abs=5e-11)


@pytest.mark.parametrize(
    ("ratio", "value"),
    [(0.5, 0.4918017090), (1, 0.3563163602), (3, 0.1072078301), (9, 0.0038492475)],
)
def test_equivocation(ratio, value):
    assert float(icl.equivocation(ratio)) == pytest.approx(value, abs=5e-11)
    compiled = numeric.compile(icl.equivocation(), backend="mpmath")
    assert float(compiled(snr=ratio)) == pytest.approx(value, abs=5e-11)


def test_equivocation_is_log_two_without_signal_and_needs_another_backend():
    assert icl.equivocation(0).expr == sp.log(2)
    assert float(icl.equivocation(1e-8)) == pytest.approx(math.log(2), abs=1e-7)
    with pytest.raises(icl.InvalidInput, match="backend='mpmath'"):
        numeric.compile(icl.equivocation())


def test_verifier_that_errs():
    for count, value in ((4, 0.2782421875), (16, 0.5671357406)):
        assert float(icl.verified_success(0.1, count, 0.2, 0.05)) == pytest.approx(value, abs=5e-11)
    # By enumeration of three samples: right or wrong, accepted or not.
    total = 0.0
    kinds = {(1, 1): 0.3 * 0.8, (1, 0): 0.3 * 0.2, (0, 1): 0.7 * 0.1, (0, 0): 0.7 * 0.9}
    for draws in product(kinds, repeat=3):
        weight = math.prod(kinds[x] for x in draws)
        accepted = [x for x in draws if x[1]] or draws
        total += weight * sum(x[0] for x in accepted) / len(accepted)
    assert float(icl.verified_success(0.3, 3, 0.2, 0.1)) == pytest.approx(total, rel=1e-12)
    general = numeric.compile(icl.verified_success())
    given = general(samples=3, success=0.3, false_negative=0.2, false_positive=0.1)
    assert given == pytest.approx(total, rel=1e-12)
    # Nothing is ever accepted: a random sample.
    assert icl.verified_success(0.3, 7, 1, 0).expr == sp.Rational(3, 10)
    assert icl.verified_success(0, 7, 0, 0).expr == 0


def test_union_over_all_binary_vectors():
    for form, value in (("student", 1.5075517033), ("chernoff", 4.2787164706)):
        assert float(icl.exhaustive_error(SIGNS, 6, 10, 1, form=form)) == pytest.approx(
            value, abs=5e-11
        )
    one = icl.competitor_error(3, BITS, 7, 0.5)
    tail = stats.t.sf(math.sqrt(3 * 7) / (2 * math.sqrt(0.5)), 7)
    assert float(one) == pytest.approx(tail, rel=1e-10)
    f = numeric.compile(icl.competitor_error(3, BITS))
    assert f(n=7, label_noise_var=0.5) == pytest.approx(float(one), rel=1e-12)


def test_competitor_by_simulation():
    rng = np.random.default_rng(3)
    x, noise = rng.normal(size=(300_000, 5, 3)), rng.normal(size=(300_000, 5))
    moved = x @ np.array([2.0, 0, -2.0])  # two signs flipped
    wins = (2 * (noise * moved).sum(1) >= (moved**2).sum(1)).mean()
    expected = float(icl.competitor_error(2, SIGNS, 5, 1))
    assert abs(wins - expected) < 5 * math.sqrt(expected / 300_000) < 0.1 * expected


@pytest.mark.parametrize(
    ("alpha", "values"), [(1.2, [0.2192890130, 0.1210729481, 0.0577301766])]
)  # fmt: skip
def test_state_evolution_of_rounding(alpha, values):
    step = numeric.compile(icl.state_evolution_map(icl.Round()))
    found, rho = [], 0.5
    for _ in values:
        rho = step(error_fraction=rho, gamma=1 / alpha)
        found.append(rho)
    assert found == pytest.approx(values, abs=5e-11)


@pytest.mark.parametrize(("alpha", "value"), [(0.5, 0.2606959667), (2, 0.0795774517)])
def test_fixed_point_of_the_clip(alpha, value):
    image = icl.state_evolution_map(icl.Clip()).subs(gamma=1 / sp.Rational(repr(alpha))).expr
    rho = sp.nsolve(image - error_fraction, error_fraction, 0.1)
    assert float(rho) == pytest.approx(value, abs=5e-11)
    # Leading order, up to what the cut-offs of the clip add.
    assert float(icl.clip_floor(1 / alpha)) == pytest.approx(value, rel=0.3 if alpha < 1 else 1e-4)


# -- the channel -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "start"), [(SIGNS, 0), (icl.Bits(0.5), 0.5), (icl.SparseBits(2), 0)]
)
def test_channel_against_the_real_recursion(prior, start):
    rng = np.random.default_rng(4)
    length, dim, prompts = 14, 6, 40_000
    decoding = icl.NoisyDecoding(0.4, 0.3, 3, samples=2, label_noise_var=0.5)
    x = rng.normal(size=(prompts, length, dim))
    if isinstance(prior, icl.Signs):
        w = rng.choice([-1.0, 1.0], size=(prompts, dim))
    elif isinstance(prior, icl.Bits):
        w = rng.integers(0, 2, size=(prompts, dim)).astype(float)
    else:
        w = (rng.permuted(np.tile(np.arange(dim), (prompts, 1)), axis=1) < 2).astype(float)
    y = np.einsum("pnd,pd->pn", x, w) + math.sqrt(0.5) * rng.normal(size=(prompts, length))
    state = np.full((prompts, 2, dim), float(start))
    for _ in range(3):
        residual = np.einsum("pnd,psd->psn", x, state) - y[:, None]
        state -= 0.4 * np.einsum("pnd,psn->psd", x, residual) / length
        state += 0.3 * rng.normal(size=state.shape)
    mean = state.mean(1)
    seen = icl.channel(decoding, prior, length, dim, start=start)
    assert float(seen.gain) == pytest.approx(
        ((mean - start) * (w - start)).sum() / ((w - start) ** 2).sum(), rel=0.01
    )
    error = mean - start - float(seen.gain) * (w - start)
    variance = (error**2).mean()
    spread = (error**2).mean(1).std() / math.sqrt(prompts)
    if not isinstance(prior, icl.Signs) and start == 0:
        # Exact up to the spread of the gain, which the channel counts once.
        assert float(seen.noise_var) == pytest.approx(variance, rel=0.03)
    else:
        assert abs(variance - float(seen.noise_var)) < 5 * spread < 0.05 * variance


def test_channel_of_one_step_and_of_long_chains():
    one = icl.channel(icl.NoisyDecoding(eta, 0, 1), SIGNS)
    assert sp.cancel(one.signal_to_noise.expr - n / (d + 1)) == 0
    sparse = icl.sparse_channel_variances(icl.NoisyDecoding(eta, 0, 1), 4)
    assert sp.cancel(sparse["zero"].expr - 4 * eta**2 / n) == 0
    assert sp.cancel(sparse["one"].expr - 5 * eta**2 / n) == 0
    long = icl.long_chain_channel(icl.SparseBits(4))
    assert sp.cancel(long.signal_to_noise.expr - d / 4 * n / (d - n)) == 0
    limit = icl.limit_channel(icl.NoisyDecoding(0.5, 0, 2), SIGNS, 0.5)
    large = icl.channel(icl.NoisyDecoding(0.5, 0, 2), SIGNS, 8000, 4000)
    assert float(large.signal_to_noise) == pytest.approx(float(limit.signal_to_noise), rel=2e-3)


def test_exact_variances_of_sparse_bits_by_simulation():
    rng = np.random.default_rng(5)
    length, dim, ones, prompts = 10, 5, 2, 100_000
    x = rng.normal(size=(prompts, length, dim))
    s = np.einsum("pni,pnj->pij", x, x) / length
    a = np.eye(dim) - 0.4 * s
    u = -(np.linalg.matrix_power(a, 2) @ np.r_[np.ones(ones), np.zeros(dim - ones)])
    exact = icl.sparse_channel_variances(icl.NoisyDecoding(0.4, 0, 2), ones, length, dim)
    for name, column in (("one", 0), ("zero", dim - 1)):
        values = u[:, column]
        deviation = ((values - values.mean()) ** 2).std() / math.sqrt(prompts)
        assert abs(values.var() - float(exact[name])) < 5 * deviation < 0.05 * float(exact[name])
    # The channel's variance is their mean, and the spread of the gain.
    signs = icl.channel(icl.NoisyDecoding(0.4, 0, 2), SIGNS, length, dim)
    flipped = -(np.linalg.matrix_power(a, 2) @ np.array([1, -1, 1, 1, -1]))[:, 1] * -1
    assert flipped.var() == pytest.approx(float(signs.noise_var), rel=0.03)


# -- rounding, temperature, votes ------------------------------------------------------------------


def test_best_threshold_by_a_scan():
    prior = icl.Bits(0.2)
    seen = icl.BinaryChannel(0.7, 0.3**2, prior)
    grid = np.linspace(0, 1, 2001)
    errors = 0.8 * special.ndtr(-grid / 0.3) + 0.2 * special.ndtr(-(0.7 - grid) / 0.3)
    best = float(seen.best_threshold())
    assert best == pytest.approx(grid[errors.argmin()], abs=1e-3)
    assert float(seen.greedy_error(best)) == pytest.approx(errors.min(), rel=1e-6)
    assert float(seen.greedy_error(best)) < float(seen.greedy_error())


@pytest.mark.parametrize("prior", [SIGNS, BITS])
def test_calibrated_temperature_has_the_least_log_loss(prior):
    seen = icl.BinaryChannel(0.6, 0.4**2, prior)
    best = float(seen.calibrated_temperature())
    losses = [float(seen.log_loss(icl.Logit(best * f))) for f in (1 / 1.1, 1, 1.1)]
    assert losses[0] > losses[1] < losses[2]
    scale = {SIGNS: 1, BITS: 4}[prior]
    assert losses[1] == pytest.approx(float(icl.equivocation((0.6 / 0.4) ** 2 / scale)), rel=1e-10)
    assert losses[0] - losses[1] > 1e-4


def test_log_loss_moments_by_quadrature():
    law = icl.Logit(0.6)

    def log(g):
        return -np.logaddexp(0, -(KAPPA + OMEGA * g) / 0.6)

    first, second = averaged(lambda g: log(g)), averaged(lambda g: log(g) ** 2)
    assert float(SEEN.log_loss(law)) == pytest.approx(-first, rel=1e-10)
    assert float(SEEN.log_loss_var(law)) == pytest.approx(second - first**2, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
@pytest.mark.parametrize("sampler", SAMPLERS[:2])
def test_majority_is_the_binomial_tail(sampler, count):
    def error(g):
        right = probability(sampler, KAPPA + OMEGA * g)
        tail = sum(stats.binom.pmf(k, count, right) for k in range((count + 1) // 2))
        return tail + (stats.binom.pmf(count // 2, count, right) / 2 if count % 2 == 0 else 0)

    assert float(SEEN.majority_error(sampler, count)) == pytest.approx(averaged(error), rel=1e-9)
    if count == 1:
        assert float(SEEN.sample_error(sampler)) == pytest.approx(averaged(error), rel=1e-9)


@pytest.mark.parametrize("sampler", [icl.Logit(0.6), icl.Probit(0.6)])
def test_law_of_the_votes(sampler):
    count = 400
    exact, law, greedy = (
        float(f)
        for f in (
            SEEN.majority_error(sampler, count),
            SEEN.majority_law(sampler, count),
            SEEN.greedy_error(),
        )
    )
    assert exact - greedy == pytest.approx(law - greedy, rel=0.02)
    assert exact > greedy  # voting never beats rounding of the same state
    assert abs((exact - greedy) / (law - greedy) - 1.05) > 0.02  # the test would see 5 %


def test_averaging_against_voting():
    ratio = icl.vote_constant(icl.Probit(temperature)).expr / (temperature**2 / 2)
    assert sp.cancel(ratio - sp.pi / 2) == 0
    small = float(SEEN.averaging_error(0.6, 1000)) - float(SEEN.greedy_error())
    law = icl.averaging_excess(0.6, 1000, sp.Rational(5, 8), sp.Rational(17, 40))
    assert small == pytest.approx(float(law), rel=0.01)


def test_clip_reads_the_state_as_it_is():
    seen = icl.BinaryChannel(0.8, 0.04, icl.Bits(0.3))
    low = averaged(lambda g: np.clip(0.2 * g, 0, 1), [0, 5])
    high = averaged(lambda g: 1 - np.clip(0.8 + 0.2 * g, 0, 1), [-4, 1])
    assert float(seen.sample_error(icl.Clip())) == pytest.approx(0.7 * low + 0.3 * high, rel=1e-9)


# -- how many examples and samples -----------------------------------------------------------------


@pytest.mark.parametrize("prior", [SIGNS, BITS])
def test_recovery_snr_suffices(prior):
    ratio = float(icl.recovery_snr(prior, 20, 0.01))
    error = 20 * float(icl.BinaryChannel(sp.sqrt(ratio), 1, prior).greedy_error())
    assert 0.001 < error <= 0.01


def test_recovery_lengths():
    signs, bits = (icl.recovery_snr(prior, d).expr for prior in (SIGNS, BITS))
    assert sp.cancel(icl.recovery_length(SIGNS).expr - (d + 1) * signs) == 0
    assert sp.cancel(icl.recovery_length(icl.SparseBits(3)).expr - 4 * bits) == 0
    long = icl.recovery_length(SIGNS, chain="long").expr
    assert sp.cancel((d - long) - long / signs) == 0


def test_plurality_and_coordinate_votes():
    p1, p2, failure = 0.3, 0.2, 0.05
    theta = np.linspace(-2, 2, 100001)
    least = np.min(1 - p1 - p2 + p1 * np.exp(-theta) + p2 * np.exp(theta))
    found = float(icl.plurality_samples(p1, p2, failure))
    assert found == pytest.approx(math.log(1 / failure) / (1 - least), rel=1e-7)
    # The counts of two answers really err less often.
    count = math.ceil(found)
    rng = np.random.default_rng(6)
    draws = rng.multinomial(count, [p1, p2, 1 - p1 - p2], size=20_000)
    assert (draws[:, 1] >= draws[:, 0]).mean() < failure
    votes = math.ceil(float(icl.vote_samples(0.7, 10, failure)))
    assert 10 * stats.binom.cdf(votes / 2, votes, 0.7) < failure


def test_pass_at_n():
    def success(z):
        return -math.expm1(-math.exp(math.log(500) - 12 * 0.5 + math.sqrt(12 * 0.2) * z))

    assert float(icl.pass_at_n(500, 12, 0.5, 0.2)) == pytest.approx(averaged(success), rel=1e-9)
    assert icl.verified_log_samples(1, 12).evalf(10) == 12 * icl.equivocation(1).evalf(10)


# -- state evolution -------------------------------------------------------------------------------


def test_lock_in_threshold():
    x = np.linspace(0.5, 2, 3_000_001)
    values = 4 * x**2 * special.ndtr(-x)
    found = icl.lock_in_threshold(20)
    assert float(found) == pytest.approx(values.max(), rel=1e-11)
    assert float(found) == pytest.approx(0.662866, abs=5e-7)
    ((_, at),) = found.minimizer.items()
    assert float(at) == pytest.approx(1.190601, abs=5e-7)
    step = numeric.compile(icl.state_evolution_map(icl.Round()))
    for factor, ends in ((1.02, True), (0.98, False)):
        rho = 0.5
        for _ in range(300):
            rho = step(error_fraction=rho, gamma=1 / (factor * float(found))) if rho > 1e-9 else 0
        assert (rho < 1e-9) is ends


@pytest.mark.parametrize("sampler", [*SAMPLERS, icl.Round()])
def test_first_step_on_a_fresh_prompt(sampler):
    """The real gradient step from a binary state, d large: the map with step size and label noise."""
    rng = np.random.default_rng(7)
    length, dim, step, share = 300, 400, 0.7, 0.3
    errors = []
    wrong = np.arange(dim) < share * dim
    for _ in range(120):
        x = rng.normal(size=(length, dim))
        truth = rng.integers(0, 2, dim).astype(float)
        state = np.where(wrong, 1 - truth, truth)
        y = x @ truth + 3 * rng.normal(size=length)
        u = state - step * x.T @ (x @ state - y) / length
        p = probability(sampler, u - 0.5)
        errors.append(np.where(truth == 1, 1 - p, p).mean())
    predicted = icl.state_evolution_map(
        sampler, dim / length, step_size=step, label_noise_ratio=9 / length
    )
    value = float(predicted.subs(error_fraction=share).evalf())
    standard_error = np.std(errors) / math.sqrt(len(errors))
    assert abs(np.mean(errors) - value) < 5 * standard_error < 0.06 * value


def test_signs_are_bits_with_half_the_temperature_and_noise():
    for sampler, half in ((icl.Probit(0.8), icl.Probit(0.4)), (icl.Clip(), icl.Clip())):
        signs = icl.state_evolution_map(sampler, prior=SIGNS, step_size=0.6, label_noise_ratio=0.4)
        bits = icl.state_evolution_map(half, step_size=0.6, label_noise_ratio=0.1)
        point = {"error_fraction": 0.2, "gamma": 0.9}
        assert float(signs.subs(**point)) == pytest.approx(float(bits.subs(**point)), rel=1e-12)


def test_floor_of_sampled_bits():
    cold = icl.state_evolution_map(icl.Logit(0.2)).subs(error_fraction=1e-12, gamma=1)
    assert float(icl.sampling_floor(icl.Logit(0.2))) == pytest.approx(float(cold), rel=1e-6)
    assert float(icl.sampling_floor(icl.Probit(0.2))) == pytest.approx(special.ndtr(-2.5))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_onsager_coefficient(sampler):
    v = sp.Symbol("v", real=True)
    density = sp.lambdify(v, sampler.density(v), ["scipy", "numpy"])
    std = math.sqrt(0.3 * 0.8)
    expected = averaged(lambda g: float(density(-0.5 + std * g)), [0, 1 / std]) * 0.8
    value = icl.onsager_coefficient(sampler, 0.8).subs(error_fraction=0.3)
    assert float(value.expr.evalf()) == pytest.approx(expected, rel=1e-8)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: icl.Bits(0), "no two possible values"),
        (lambda: icl.Bits(1), "no two possible values"),
        (lambda: icl.Bits(-0.1), "strictly between 0 and 1"),
        (lambda: icl.SparseBits(0), "positive integer"),
        (lambda: icl.SparseBits(5).mean(4), "take ones <= d"),
        (lambda: icl.SparseBits(5).mean(), "needs the dimension"),
        (lambda: icl.SparseBits(4).log_odds(4), "nothing is unknown"),
        (lambda: icl.Logit(-1), "negative"),
        (lambda: icl.Round().density(0), "step"),
        (lambda: icl.BinaryChannel(1, 0), "not positive"),
        (lambda: icl.BinaryChannel(1, 1, prior="signs"), "icl.Signs"),
        (lambda: SEEN.sample_error(0.5), "icl.Logit"),
        (lambda: SEEN.majority_error(icl.Round(), 0), "positive integer"),
        (lambda: SEEN.log_loss(icl.Round()), "infinite"),
        (lambda: icl.channel(icl.NoisyDecoding(1, 0, 0), SIGNS), "steps >= 1"),
        (lambda: icl.long_chain_channel(SIGNS, 20, 10), "finds w"),
        (lambda: icl.recovery_length(SIGNS, chain="x"), "one step"),
        (lambda: icl.verified_success(1.5, 4), "no probability"),
        (lambda: icl.plurality_samples(0.1, 0.2), "not more likely"),
        (lambda: icl.vote_samples(0.5), "above 1/2"),
        (lambda: icl.exhaustive_error(SIGNS, 6, d), "needs a number"),
        (lambda: icl.onsager_coefficient(icl.Round()), "small temperature"),
        (lambda: icl.lock_in_threshold(0), "digits"),
        (lambda: icl.competitor_error(1, SIGNS, form="x"), "student"),
        (lambda: icl.channel("chain", SIGNS), "NoisyDecoding"),
        (lambda: icl.BinaryChannel(1, 1, d=0.5), "d = 0.5"),
        (lambda: icl.Clip().probability(0, gap=0), "gap = 0"),
        (lambda: icl.pass_at_n(4, 5, 1, -1), "log_loss_var"),
        (lambda: icl.verified_success(0.1, 10**9, 0.1, 0.1), "numeric.verified_success"),
        (lambda: icl.exhaustive_error(SIGNS, 5, 10**6, 1), "numeric.exhaustive_error"),
        (lambda: icl.competitor_error(1, SIGNS, 10**9, 1), "numeric.exhaustive_error"),
        (lambda: SEEN.majority_error(icl.Logit(1), 10**12), "numeric.majority_errors"),
        (lambda: SEEN.averaging_error(-1, 4), "negative"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(icl.IclTheoryError, match=message):
        call()


def test_sparse_variances_with_the_noise_of_the_chain():
    """Against the exact moments by class of `numeric`, with labels and sampling noise."""
    chain = icl.NoisyDecoding(0.4, 0.3, 3, samples=2, label_noise_var=1, noise_where=[1, 0, 2])
    variances = icl.sparse_channel_variances(chain, 2, 6, 5)
    exact = numeric.exact_state_moments(chain, icl.SparseBits(2), 6, 5)
    assert float(variances["zero"]) == pytest.approx(exact.low_var, rel=1e-12)
    assert float(variances["one"]) == pytest.approx(exact.high_var, rel=1e-12)


def test_rounding_has_log_probabilities_too():
    assert icl.Logit(0).log_probability(1) == 0
    assert icl.Logit(0).log_probability(0) == -sp.log(2)
