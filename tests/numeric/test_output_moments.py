"""Exact output moments, query averages, bounds and exponents against simulation and quadrature."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy import integrate, stats

import icltheory as icl
import numeric
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.symbols import n
from numeric.exponents import _log_error
from numeric.prompt_moments import prompt_moments, weight_moments

WRONG = 1.03  # every check must reject a value that is 3 % off
CORRELATED = icl.Gaussian([0, 0], [[1, 0.3], [0.3, 0.8]])
DUAL = [0.7, -0.4]
LINE = icl.Gaussian([0], [[1]])


def assert_close(value, reference, error):
    value, reference = np.asarray(value), np.asarray(reference)
    assert np.all(np.abs(value - reference) <= error), np.max(np.abs(value - reference))
    assert not np.any(np.abs(WRONG * value - reference) <= error)


# -- output moments ----------------------------------------------------------------------------------


def test_reference_rows():
    moments = numeric.output_moments(CORRELATED, DUAL, 50)
    assert_close(moments.weights.scale**2, 0.45, 1e-12)
    assert_close(moments.mean, [0.5622162, -0.1066272], 1e-7)
    assert_close(moments.error, 0.06493797, 1e-8)
    assert_close(moments.jacobian, [[0.9505624, 0.2943625], [0.2943625, 0.7747953]], 1e-7)


def simulated_scores(length, scale, prompts, seed):
    """sum p xi and sum p^2 of sampled prompts: all that isotropic tokens need."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    parts = []
    for _ in range(10):
        xi = rng.standard_normal((prompts // 10, length))
        w = np.exp(scale * (xi - xi.max(axis=1, keepdims=True)))
        w /= w.sum(axis=1, keepdims=True)
        parts.append([(w * xi).sum(axis=1), (w * w).sum(axis=1)])
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("length", [1, 3, 30, 300])
@pytest.mark.parametrize("scale", [0.5, 2.0, 4.5])
def test_mean_and_error_against_simulation(length, scale):
    # Isotropic tokens in three dimensions, dual point along the first axis.
    law, prompts = (
        icl.Gaussian([0] * 3, np.eye(3)),
        {1: 60_000, 3: 200_000, 30: 60_000, 300: 40_000},
    )
    read, square = simulated_scores(length, scale, prompts[length], seed=length)
    exact = numeric.output_moments(law, [scale, 0, 0], length)
    samples = {
        "mean": (read, exact.mean[0]),
        "error": ((read - scale) ** 2 + 2 * square, exact.error),
        "variance": ((read - exact.mean[0]) ** 2, exact.covariance[0, 0]),
    }
    for name, (sample, value) in samples.items():
        error = 5 * sample.std(ddof=1) / math.sqrt(sample.size)
        assert abs(sample.mean() - value) < error, name
        if length == 1 and name == "mean":
            assert abs(value) < 1e-12
            continue
        # Resolution: a deviation of less than 10 % would show, for all but the noisiest cells 3 %.
        resolution = error / abs(value)
        assert resolution < (0.1 if name == "variance" else 0.04), (name, resolution)
        assert abs(sample.mean() - (1 + 2 * resolution) * value) > error, name


def test_whole_tokens_with_a_singular_covariance_and_values():
    law = icl.Gaussian([1, 0, -1], [[1, 1, 0], [1, 1, 0], [0, 0, 0.5]])
    u, value, length = [0.6, 0.3, 1.0], [[1, 0, 2], [0, -1, 1]], 12
    exact = numeric.output_moments(law, u, length, value)
    sample = numeric.simulated_error(law, u, length, value, prompts=60_000, seed=3)
    assert abs(sample.value - exact.error) < 5 * sample.standard_error
    assert 5 * sample.standard_error < 0.03 * exact.error
    assert abs(sample.value - WRONG * exact.error) > 5 * sample.standard_error
    outputs = numeric.simulate_output(law, u, length, prompts=60_000, seed=4)
    matrix = np.array(value)
    plain = numeric.output_moments(law, u, length)
    assert np.all(np.abs(outputs.mean - plain.mean) < 5 * outputs.mean_error + 1e-12)
    assert np.all(
        np.abs(outputs.covariance - plain.covariance) < 5 * outputs.covariance_error + 1e-12
    )
    assert_close(exact.mean, matrix @ plain.mean, 1e-12)


def test_simulated_error_of_other_laws():
    # Two signs: both +1, both -1, or one of each, which reads tanh u.
    limit = math.tanh(0.7)
    exact = ((1 - limit) ** 2 + (1 + limit) ** 2) / 4
    sample = numeric.simulated_error(icl.Rademacher(dim=1), [0.7], 2, prompts=300_000, seed=6)
    assert abs(sample.value - exact) < 5 * sample.standard_error < 0.02 * exact
    assert abs(sample.value - WRONG * exact) > 5 * sample.standard_error


@pytest.mark.parametrize("length", [1, 7, 1e4])
def test_identities_of_the_moments(length):
    rng = np.random.default_rng(5)
    root = rng.standard_normal((3, 3))
    law = icl.Gaussian([1, 2, 3], root @ root.T)
    u = rng.standard_normal((4, 3)) / 3
    exact = numeric.output_moments(law, u, length)
    bias = exact.mean - numeric.limit_output(law, u)
    trace = np.trace(exact.covariance, axis1=1, axis2=2)
    assert_close(trace + np.sum(bias**2, axis=1), exact.error, 1e-12 * exact.error)
    # The mean Jacobian is the derivative of the mean output.
    h = 1e-5
    for j in range(3):
        step = h * np.eye(3)[j]
        ahead, behind = (numeric.output_moments(law, u + x, length).mean for x in (step, -step))
        # The quotient carries the rounding of the mean, which is of order one, divided by h.
        error = np.abs(exact.jacobian[:, :, j] - (ahead - behind) / (2 * h))
        assert np.all(error < 1e-8 * np.abs(root @ root.T).max() ** 2)


def test_shapes_broadcast():
    u, lengths = np.zeros((5, 1, 2)) + DUAL, [10, 50, 100]
    exact = numeric.output_moments(CORRELATED, u, lengths, value=[1, 2])
    assert exact.mean.shape == (5, 3, 1)
    assert exact.covariance.shape == (5, 3, 1, 1)
    assert exact.jacobian.shape == (5, 3, 1, 2)
    assert exact.error.shape == (5, 3)
    one = numeric.output_moments(CORRELATED, DUAL, 50, value=[1, 2])
    assert exact.error[2, 1] == pytest.approx(one.error, rel=1e-13)
    assert np.ndim(one.error) == 0


def test_how_long_a_prompt_must_be():
    for length, s, leading, exact in (
        (100, 1, 0.02718, 0.02554),
        (300, 2, 0.182, 0.0658),
        (50, 3, 162, 0.350),
    ):
        expansion = icl.softmax_moment_expansion(2, order=1).expr
        values = {n: length, sp.Symbol("s", nonnegative=True): s}
        assert_close(float(expansion.subs(values)), leading, 0.005 * leading)
        assert_close(prompt_moments(length, s).g, exact, 0.002 * exact)
    # 2 exp(2 s^2)/n is the relative error of the leading term, once it is small.
    length, s = 1e8, 2.0
    gap = math.exp(s**2) / length / prompt_moments(length, s).g - 1
    assert abs(gap / (2 * math.exp(2 * s**2) / length) - 1) < 0.1


def test_published_bound_at_one_token():
    # K = 0, V = 1, one token: the error is 1, where c ln(L) L^(-c') would be 0.
    assert float(numeric.output_moments(LINE, [0.0], 1).error) == 1
    assert float(icl.concentration_bound(LINE, [0]).subs(n=1).expr) >= 1


# -- bounds ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("u", [[0, 0], [0.5, -0.2], [1.5, 1.0], [3, 2]])
def test_bound_dominates_at_every_length(u):
    lengths = np.unique(np.geomspace(1, 1e12, 80).round())
    exact = numeric.output_moments(CORRELATED, u, lengths).error
    for cut in (sp.Rational(1, 2), sp.Rational(9, 10)):
        evaluate = numeric.compile(icl.concentration_bound(CORRELATED, u, cut), "math")
        bound = np.array([evaluate(n=length) for length in lengths])
        assert np.all(exact <= bound)
    # Not by an arbitrary margin: a factor 1/threshold^2 at the end.
    s2 = np.array(u) @ np.array([[1, 0.3], [0.3, 0.8]]) @ np.array(u)
    if 2 * math.exp(2 * s2) < 1e10:
        assert_close(bound[-1] * 0.81 / exact[-1], 1, 0.01)


@pytest.mark.parametrize(("u", "length"), [(0.0, 40), (0.8, 120)])
def test_high_probability_bound_covers(u, length):
    failure = 0.2
    radius = numeric.compile(icl.high_probability_bound(LINE, [u]))(delta=failure, n=length)
    read, _ = simulated_scores(length, u, 20_000, seed=8)
    missed = np.mean(np.abs(read - u) > radius)
    assert missed <= failure
    # Not empty: a quarter of the radius does not cover.
    assert np.mean(np.abs(read - u) > radius / 8) > failure
    with pytest.raises(OutOfDomain, match="delta"):
        numeric.compile(icl.high_probability_bound(LINE, [u]))(delta=failure, n=5)


def test_gradient_error_of_long_prompts():
    rng = np.random.default_rng(np.random.SeedSequence(2))
    length, prompts, u, z = 400, 6_000, np.array(DUAL), np.array([1.0, 2.0])
    root = np.linalg.cholesky([[1, 0.3], [0.3, 0.8]])
    tokens = rng.standard_normal((prompts, length, 2)) @ root.T
    w = np.exp(tokens @ u)
    w /= w.sum(axis=1, keepdims=True)
    mean = np.einsum("bl,bli->bi", w, tokens)
    second = np.einsum("bl,bli,blj->bij", w, tokens, tokens) - mean[:, :, None] * mean[:, None]
    sample = length * (z @ z) * np.sum((second - root @ root.T) ** 2, axis=(1, 2))
    predicted = float(icl.leading_gradient_error(CORRELATED, DUAL, [1, 2])["U"].expr)
    error = 5 * sample.std(ddof=1) / math.sqrt(prompts)
    # The prediction is the leading term: the next one is of relative order 10/n here.
    assert abs(sample.mean() - predicted) < error + 0.03 * predicted
    assert abs(sample.mean() - 1.25 * predicted) > error + 0.03 * predicted


# -- averages over the query ---------------------------------------------------------------------------


@pytest.mark.parametrize(("tau", "length"), [(0.3, 1), (0.7, 10), (1.5, 100), (2.0, 1e6)])
def test_one_dimensional_query_against_adaptive_quadrature(tau, length):
    def integrand(z):
        weights = prompt_moments(length, tau * z)
        error = weights.g + (weights.g - 6 * (weights.g3 - weights.g22)) * (tau * z) ** 2
        return 2 * stats.norm.pdf(z) * error

    value = sum(
        integrate.quad(integrand, a, b, epsrel=1e-10, epsabs=0)[0]
        for a, b in ((0, 0.5), (0.5, 2), (2, 4), (4, 10))
    )
    exact = numeric.expected_error(LINE, tau, length, query_cov=1)
    assert_close(exact, value, 1e-8 * value)
    assert_close(math.exp(_log_error(tau, math.log(length))), value, 1e-8 * value)


def test_correlated_query_against_a_product_rule():
    law = icl.Gaussian([0, 1], [[1, 0.2], [0.2, 0.6]])
    score, query, value = (
        np.array([[0.5, 0.1], [-0.3, 0.7]]),
        np.array([[1, 0.4], [0.4, 0.9]]),
        [1, 2],
    )
    x, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()
    grid = np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1) @ np.linalg.cholesky(query).T
    errors = numeric.output_moments(law, grid @ score.T, 20, value).error
    reference = np.einsum("i,j,ij->", weight, weight, errors)
    exact = numeric.expected_error(law, score, 20, query_cov=query, value=value)
    assert_close(exact, reference, 1e-6 * reference)


def test_sampled_query():
    law, score = icl.Gaussian([0] * 3, [1, 0.5, 0.2] * np.eye(3)), [0.9, 1.2, 0.3]
    rng = np.random.default_rng(12)
    query = rng.standard_normal((2_000, 3)) * np.sqrt([1, 0.5, 0.2])
    sample = numeric.output_moments(law, query * score, 40).error
    exact = numeric.expected_error(law, score, 40)
    error = 5 * sample.std(ddof=1) / math.sqrt(sample.size)
    assert abs(sample.mean() - exact) < error < 0.15 * exact
    assert abs(sample.mean() - 1.3 * exact) > error


def test_constant_of_small_scores():
    law = icl.Gaussian([0, 0], [[1, 0], [0, 0.5]])
    score, query, value = [[0.4, 0.1], [0, 0.5]], [[1, 0], [0, 0.8]], [1, -0.5]
    constant = 1e30 * numeric.expected_error(law, score, 1e30, query_cov=query, value=value)
    assert_close(constant, 1.87273311, 1e-8)
    formula = icl.query_averaged_error(law, score, query, value)
    assert_close(constant, float(formula), 1e-10)


def test_expected_error_at_the_ends():
    # Without scores every prompt is a plain average; one token is the whole prompt.
    assert numeric.expected_error(CORRELATED, 0, 50) == pytest.approx(1.8 / 50, rel=1e-14)
    flat = numeric.expected_error(icl.Gaussian([0, 0], [[0, 0], [0, 1]]), [[1, 0], [0, 0]], [5, 50])
    assert flat == pytest.approx(np.array([0.2, 0.02]), rel=1e-14)
    one = numeric.expected_error(CORRELATED, np.eye(2), 1)
    cov = np.array([[1, 0.3], [0.3, 0.8]])
    assert one == pytest.approx(1.8 + np.trace(cov @ cov @ cov), rel=1e-10)


# -- very long prompts and exponents -------------------------------------------------------------------


@pytest.mark.parametrize("power", [20, 40, 100])
def test_long_prompts_agree_with_the_other_quadrature(power):
    for s in (0.5, 2.0, 2.1, 5.0, 8.0, 9.6, 12.0, 14.0, 25.0, 90.0):
        g, g3, g22 = (x[0] for x in weight_moments(np.array([10.0**power]), s))
        log_g, ratio = numeric.long_prompt_moments(power * math.log(10), s)
        assert_close(math.exp(log_g), g, 1e-12 * g)
        assert_close(ratio, (g3 - g22) / g, 1e-10 * ratio)


def test_frozen_phase():
    # At beta > 1 the error does not decrease: g tends to 1 - 1/beta, that of the random energy model.
    log_n = np.log(10.0) * np.array([100, 1000])
    for beta in (1.5, 2.0, 3.0):
        g = [math.exp(numeric.long_prompt_moments(x, beta * math.sqrt(2 * x))[0]) for x in log_n]
        assert abs(g[1] - (1 - 1 / beta)) < 0.005
        assert abs(g[1] - (1 - 1 / beta)) < abs(g[0] - (1 - 1 / beta))
    short = [prompt_moments(m, 1.5 * math.sqrt(2 * math.log(m))).g for m in (1e3, 1e6, 1e12)]
    assert np.ptp(short) < 0.1


@pytest.mark.parametrize("beta", [0.3, 0.65, 0.75, 0.9])
def test_phase_exponent_is_a_slope(beta):
    log_n = np.log(10.0) * np.array([2000, 4000])
    log_g = [numeric.long_prompt_moments(x, beta * math.sqrt(2 * x))[0] for x in log_n]
    # g carries a factor (log n)^(-1/2) in the phase of rare tokens.
    power = -0.5 if beta > 1 / math.sqrt(3) else 0
    slope = (log_g[1] - log_g[0] - power * math.log(2)) / (log_n[1] - log_n[0])
    phi = float(icl.phase_exponent().subs(beta=beta).expr)
    assert_close(slope, phi, 0.001 * abs(phi) + 2e-5)


@pytest.mark.parametrize("square", [0.1, 0.5, 1.0, 2.0, 4.0])
def test_measured_exponents(square):
    measured = numeric.local_exponent(math.sqrt(square), (32, 64, 128, 256, 512))
    kappa = float(icl.concentration_exponent().subs(tau=math.sqrt(square)).expr)
    assert measured.predicted == pytest.approx(kappa, rel=1e-12)
    assert abs(measured.exponent - kappa) < 1e-3
    assert abs(measured.exponent - kappa) < 3 * measured.uncertainty + 1e-9
    assert abs(measured.exponent - WRONG * kappa) > 0.005
    power = {0.1: 0, 0.5: 1.5}.get(square, 0.5)
    assert abs(measured.log_power - power) < 0.1
    assert abs(measured.slopes[-1] - kappa) < 0.002


def test_slopes_as_printed():
    decades = (2, 4, 8, 16, 32, 64)
    slopes = numeric.local_exponent(math.sqrt(1.5), decades).slopes
    assert np.all(np.abs(slopes - [0.525, 0.470, 0.450, 0.450, 0.453]) < 6e-4)
    for square, value in ((0.75, 0.753), (3, 0.261), (8, 0.121)):
        last = numeric.local_exponent(math.sqrt(square), decades).slopes[-1]
        assert abs(last - value) < 6e-4


def test_slow_decay_law():
    law = numeric.compile(icl.slow_decay_law())
    for square, slack in ((0.75, 1.2), (1.0, 0.3), (2.0, 3.6)):
        tau = math.sqrt(square)
        gaps = [
            numeric.expected_error(LINE, tau, m, query_cov=1) / law(tau=tau, n=m) - 1
            for m in (1e60, 1e120, 1e240)
        ]
        assert np.all(np.abs(gaps) < slack / np.log([1e60, 1e120, 1e240]))
        assert abs(WRONG * (1 + gaps[-1]) - 1) > slack / math.log(1e240)
        assert abs(gaps[2] / gaps[1] - 0.5) < 0.01  # relative error of order 1/log n


# -- figure, refusals --------------------------------------------------------------------------------


def test_figure():
    figure = numeric.concentration_figure(
        CORRELATED, [1.0, 0.5], [1, 10, 100], prompts=2_000, seed=1
    )
    exact, _, bound = figure.lines
    assert np.all(np.array(exact.y) <= np.array(bound.y))
    points = figure.points[0]
    at = np.interp(np.log(points.x), np.log(exact.x), np.log(exact.y))
    assert np.all(np.abs(np.exp(at) - points.y) < 5 * np.array(points.error) + 1e-3 * np.exp(at))
    same = numeric.concentration_figure(CORRELATED, [1.0, 0.5], [1, 10, 100], prompts=2_000, seed=1)
    assert same == figure


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: numeric.output_moments(icl.Rademacher(1), [1], 5),
            InvalidInput,
            "Gaussian tokens",
        ),
        (lambda: numeric.output_moments(CORRELATED, [1], 5), InvalidInput, "last axis"),
        (lambda: numeric.output_moments(CORRELATED, DUAL, 0), InvalidInput, "at least 1"),
        (lambda: numeric.output_moments(CORRELATED, DUAL, 5, [1]), InvalidInput, "rows, 2"),
        (lambda: numeric.output_moments(CORRELATED, [500, 0], 5), OutOfDomain, "scale = 500"),
        (lambda: numeric.expected_error(LINE, [[1, 2]], 5), InvalidInput, "score has shape"),
        (lambda: numeric.expected_error(LINE, 1, 1e260), OutOfDomain, "local_exponent"),
        (lambda: numeric.expected_error(LINE, 1, 5, query_cov=-1), InvalidInput, "none below 0"),
        (
            lambda: numeric.expected_error(CORRELATED, 1, 5, query_cov=[[1, 0.5], [0, 1]]),
            InvalidInput,
            "not symmetric",
        ),
        (lambda: numeric.expected_error(LINE, 50, 5, query_cov=1), OutOfDomain, "too large"),
        (lambda: numeric.local_exponent(0), InvalidInput, "tau = 0"),
        (lambda: numeric.local_exponent(1, [1, 2, 3]), InvalidInput, "five"),
        (lambda: numeric.local_exponent(1, [1, 2, 3, 4, 6000]), InvalidInput, "6000"),
        (lambda: numeric.long_prompt_moments(1.0, 1.0), OutOfDomain, "prompt_moments"),
        (lambda: numeric.concentration_figure(LINE, [1], [5]), InvalidInput, "two different"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
