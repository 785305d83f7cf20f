"""Binary coefficients: samplers, the channel of the real recursion, and refusals."""

import math
from itertools import product

import numpy as np
import pytest
import sympy as sp
from channel_cases import BITS, SAMPLERS, SEEN, SIGNS, averaged, probability
from scipy import stats

import icltheory as icl
import numeric
from icltheory.symbols import d, error_fraction, eta, n

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
