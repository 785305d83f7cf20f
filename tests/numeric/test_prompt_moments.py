"""prompt_moments against published digits, mpmath, a second quadrature, identities and sampling."""

import math

import mpmath as mp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.laws.weights import softmax_moment_slope
from numeric import prompt_moments

WRONG = 1.03  # every check must reject a value that is 3 % off
FIELDS = ("g", "g3", "g22")


def within(value, reference, error):
    """True if `value` is as near to `reference` as the stated error allows, elementwise."""
    return np.abs(np.asarray(value) - reference) <= error


def assert_agrees(value, reference, error):
    assert np.all(within(value, reference, error)), np.max(np.abs(value - reference))
    assert not np.any(within(WRONG * np.asarray(value), reference, error))


@pytest.mark.parametrize(
    ("n", "s", "values", "unit"),
    [
        (100, 1.0, (0.02553848, 0.001477975, 0.000729879), (1e-8, 1e-9, 1e-9)),
        (300, 2.0, (0.0657833, 0.0162378, 0.0087536), (1e-7,) * 3),
        (2, 1.3, (0.68193377,), (1e-8,)),
    ],
)
def test_reference_moments_of_weights(n, s, values, unit):
    moments = prompt_moments(n, s)
    got = np.array([getattr(moments, name) for name in FIELDS[: len(values)]])
    assert_agrees(got, np.array(values), np.array(unit))


@pytest.mark.parametrize(
    ("n", "s", "values", "unit"),
    [
        (1000, 0.9, (0.897985558, 0.810395948, 0.00223826866), (1e-9, 1e-9, 1e-11)),
        (20, 2.5, (1.56537437, 2.78684598, 0.37385025), (1e-8,) * 3),
    ],
)
def test_reference_moments_of_the_mean(n, s, values, unit):
    moments = prompt_moments(n, s)
    got = np.array([moments.mean, moments.second, moments.weight])
    assert_agrees(got, np.array(values), np.array(unit))


# -- mpmath: other integrals, and the same integrals to 25 digits ----------------------------------


def two_tokens(s):
    """n = 2: p_1 is a logistic function of the difference of the two scores."""

    def powers(z):
        p = 1 / (1 + mp.exp(-mp.sqrt(2) * s * z))
        q = 1 - p
        square = p**2 + q**2
        # m = sum p xi: half the sum of the tokens (variance 1/2) plus (p - q) times half the difference.
        odd = (p - q) * z / mp.sqrt(2)
        return mp.matrix([square, p**3 + q**3, square**2, odd, mp.mpf(1) / 2 + odd**2])

    step = mp.mpf(1) / 32
    points = [step * i for i in range(-11 * 32, 11 * 32 + 1)]
    return sum((mp.npdf(z) * step * powers(z) for z in points), mp.zeros(5, 1))


def three_tokens(s):
    """n = 3: the weights depend on the two coordinates orthogonal to (1, 1, 1)."""
    step = mp.mpf(1) / 4
    line = [step * i for i in range(-34, 35)]
    weights = [mp.npdf(z) * step for z in line]
    first = [mp.exp(s * z / mp.sqrt(2)) for z in line]
    second = [mp.exp(s * z / mp.sqrt(6)) for z in line]
    total = mp.zeros(3, 1)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            w = (a * b, b / a, 1 / b**2)
            norm = sum(w)
            square = sum(x * x for x in w) / norm**2
            cube = sum(x**3 for x in w) / norm**3
            density = weights[i] * weights[j]
            total += density * mp.matrix([square, cube, square**2])
    return total


def laplace(n, s):
    """Any n: the Laplace integrals over t, where S is in units of its tokens' mean, naively."""
    step, grid = mp.mpf("0.22"), mp.mpf("0.2") / max(1, s)
    reach = int((14 + 2 * s) / grid)
    points = [grid * i for i in range(-reach, reach + 1)]
    weights = [mp.npdf(x) * grid for x in points]
    logs = [s * x - mp.mpf(s) ** 2 / 2 for x in points]
    total = mp.zeros(2, 1)
    for i in range(
        math.floor((-math.log(n) - 30) / step), math.ceil((s * s / 2 + 8 * s + 5) / step)
    ):
        t = mp.exp(step * i)
        phi0 = phi2 = phi3 = mp.mpf(0)
        for weight, log_w in zip(weights, logs, strict=True):
            w = mp.exp(log_w)
            decay = weight * mp.exp(-t * w)
            phi0, phi2, phi3 = phi0 + decay, phi2 + decay * w**2, phi3 + decay * w**3
        others = phi0 ** (n - 1)
        total += step * t * n * others * mp.matrix([t * phi2, t**2 / 2 * phi3])
    return total


@pytest.mark.parametrize("s", ["1e-3", "0.3", "1.3", "4", "10"])
def test_two_tokens_against_mpmath(s):
    with mp.workdps(30):
        exact = np.array([float(x) for x in two_tokens(mp.mpf(s))])
    moments = prompt_moments(2, float(s))
    got = np.array([moments.g, moments.g3, moments.g22, moments.mean, moments.second])
    assert_agrees(got, exact, 1e-11 * exact)


@pytest.mark.parametrize("s", ["0.4", "1.3"])
def test_three_tokens_against_mpmath(s):
    with mp.workdps(20):
        exact = np.array([float(x) for x in three_tokens(mp.mpf(s))])
    moments = prompt_moments(3, float(s))
    assert_agrees(np.array([moments.g, moments.g3, moments.g22]), exact, 1e-11 * exact)


@pytest.mark.parametrize(("n", "s"), [(17, 1.5), (10**12, 1)])
def test_laplace_integrals_in_mpmath(n, s):
    with mp.workdps(25):
        exact = np.array([float(x) for x in laplace(n, s)])
    moments = prompt_moments(n, s)
    # 1 - phi is lost below 1e-25 in this naive form, which matters only beyond n = 1e14.
    assert_agrees(np.array([moments.g, moments.g3]), exact, 1e-11 * exact)


# -- two routes in double precision ----------------------------------------------------------------


def slow_moments(kappa, n, h=0.125):
    """m, P, Q by the direct Laplace integrals of E m and E m^2, without integration by parts."""
    step = h / max(kappa, 1.0)
    g = np.arange(-13, 13 + 2 * kappa, step)
    weight = step * np.exp(-g * g / 2) / np.sqrt(2 * np.pi)
    u = np.arange(-np.log(n) - min(kappa**2 / 2, 16 * kappa) - 40, 10 * kappa + 8, h)
    x = np.minimum(np.add.outer(u, kappa * g), 30.0)
    w = np.exp(x)
    phi, tail = np.exp(-w) @ weight, -np.expm1(-w) @ weight
    log_phi = np.where(
        tail < 0.5, np.log1p(-np.minimum(tail, 0.75)), np.log(np.maximum(phi, 1e-300))
    )
    e1, e2 = np.exp(x - w), np.exp(2 * x - w)
    a, b0, b2 = e1 @ (weight * g), e2 @ weight, e2 @ (weight * g * g)
    p1, p2 = np.exp((n - 1) * log_phi), np.exp((n - 2) * log_phi)
    return h * n * (a @ p1), h * n * (b2 @ p1 + (n - 1) * (a * a) @ p2), h * n * (b0 @ p1)


@pytest.mark.parametrize("n", [2, 20, 1000, 1e6])
@pytest.mark.parametrize("kappa", [0.2, 0.7, 1.5, 3.0, 6.0])
def test_integration_by_parts_agrees_with_direct_integrals(n, kappa):
    moments = prompt_moments(n, kappa)
    slow = np.array(slow_moments(kappa, n))
    # The direct form of E m sums terms of both signs: absolute rounding 1e-16 * n at small scales.
    assert_agrees(
        np.array([moments.mean, moments.second, moments.weight]), slow, 1e-10 * np.abs(slow)
    )
    variance = slow[1] - slow[0] ** 2
    assert_agrees(moments.variance, variance, 1e-9 * slow[1] if n < 1e5 else 1e-9)


def test_derivative_in_the_scale():
    s, n = np.array([0.3, 0.8, 1.7, 3.0]), np.array([5, 50, 1000])[:, None]
    moments = prompt_moments(n, s)
    exact = 2 * s * (moments.g - 4 * moments.g3 + 3 * moments.g22)

    def difference(h):
        return (prompt_moments(n, s + h).g - prompt_moments(n, s - h).g) / (2 * h)

    coarse, fine = difference(0.02), difference(0.01)
    extrapolated = fine + (fine - coarse) / 3
    # The extrapolation removes the h^2 term; what it changed bounds what is left.
    error = np.abs(fine - coarse)
    assert np.all(error < 0.01 * exact)
    assert_agrees(extrapolated, exact, error)


# -- limits ---------------------------------------------------------------------------------------


def test_one_token_and_scale_zero():
    alone = prompt_moments(1, [0.0, 0.5, 3.0, 50.0])
    for name in FIELDS:
        assert np.array_equal(getattr(alone, name), np.ones(4))
    assert np.array_equal(alone.mean, np.zeros(4))
    assert np.array_equal(alone.second, np.ones(4))
    n = np.array([1, 2, 1000, 1e12, 1e100])
    flat = prompt_moments(n, 0)
    assert np.allclose(flat.g * n, 1, rtol=1e-15)
    assert np.allclose(flat.g3 * n * n, 1, rtol=1e-15)
    assert np.array_equal(flat.g22, flat.g3)
    assert np.array_equal(flat.mean, np.zeros(5))


def test_small_scale_slope():
    n, s = np.array([2, 7, 1e4]), 1e-4
    slope = (prompt_moments(n, s).g * n - 1) / s**2
    # The next term is of relative order s^2; n g - 1 = 1e-8 keeps eight digits.
    assert_agrees(slope, 1 - 1 / n, 1e-6)


def test_long_prompts():
    s = np.array([0.1, 0.5, 1.0, 2.0, 5.0])
    n = 1e100
    moments = prompt_moments(n, s)
    assert_agrees(moments.g * n, np.exp(s**2), 1e-12 * np.exp(s**2))
    assert_agrees(moments.g3 * n**2, np.exp(3 * s**2), 1e-12 * np.exp(3 * s**2))
    assert_agrees(moments.g22 * n**2, np.exp(2 * s**2), 1e-12 * np.exp(2 * s**2))


def test_second_order_in_the_prompt_length():
    s, n = 0.7, 1e4
    w2 = math.exp(s * s)
    second = (prompt_moments(n, s).g * n - w2) * n
    # Next order: relative 1/n times a constant of order exp(3 s^2).
    assert_agrees(second, 3 * w2**2 - 2 * w2**3 - w2, 0.02 * w2)


def test_large_scale_is_the_maximum():
    # E max of two normals is 1/sqrt(pi), and 1 - g is of order 1/s.
    assert_agrees(prompt_moments(2, 200).mean, 1 / math.sqrt(math.pi), 1e-4)
    assert abs(prompt_moments(2, 200).g - 1) < 0.01


def test_continuous_across_the_change_of_method():
    below, above = prompt_moments([3, 1e6], 0.5 - 1e-12), prompt_moments([3, 1e6], 0.5)
    for name in FIELDS:
        assert np.all(np.abs(getattr(below, name) / getattr(above, name) - 1) < 1e-11)


@given(
    n=st.integers(2, 10**9),
    s=st.floats(1e-3, 30, allow_nan=False),
)
def test_inequalities_of_weights(n, s):
    moments = prompt_moments(n, s)
    rounding = 1 + 1e-12
    assert 1 / n <= moments.g * rounding <= rounding**2
    assert moments.g**2 <= moments.g22 * rounding  # Jensen
    assert moments.g22 <= moments.g3 * rounding  # Cauchy and Schwarz
    assert moments.g3 <= moments.g * rounding
    assert moments.mean**2 <= moments.second * rounding
    assert moments.variance > 0


def test_sampled_weights():
    rng = np.random.default_rng(np.random.SeedSequence(7))
    n, s, draws = 30, 1.5, 150_000
    w = np.exp(s * rng.standard_normal((draws, n)))
    p = w / w.sum(axis=1, keepdims=True)
    square, cube = (p**2).sum(axis=1), (p**3).sum(axis=1)
    sample = np.stack([square, cube, square**2], axis=1)
    moments = prompt_moments(n, s)
    exact = np.array([moments.g, moments.g3, moments.g22])
    error = sample.std(axis=0, ddof=1) / math.sqrt(draws)
    assert np.all(5 * error < 0.03 * exact)  # resolution
    assert_agrees(sample.mean(axis=0), exact, 5 * error)


# -- shapes and refusals ----------------------------------------------------------------------------


def test_broadcasting_equals_pointwise():
    n, s = np.array([[2], [30], [500]]), np.array([0.0, 0.4, 2.0, 2.0])
    table = prompt_moments(n, s)
    assert table.g.shape == table.eta.shape == table.scale.shape == (3, 4)
    for i, length in enumerate(n[:, 0]):
        for j, scale in enumerate(s):
            single = prompt_moments(length, scale)
            for name in (*FIELDS, "eta", "mean", "second", "variance", "weight"):
                # Not bitwise: the lattice depends on the longest prompt of the call.
                assert getattr(table, name)[i, j] == pytest.approx(
                    getattr(single, name), rel=1e-13, abs=1e-15
                )
    assert np.ndim(prompt_moments(4, 0.5).g) == 0
    assert prompt_moments(np.array([4]), 0.5).g.shape == (1,)


def test_result_is_frozen():
    with pytest.raises(AttributeError):
        prompt_moments(4, 0.5).g = 0


@pytest.mark.parametrize(
    ("n", "s", "error", "words"),
    [
        (0, 1.0, InvalidInput, "prompt_length = 0 is not an integer of at least 1"),
        (2.5, 1.0, InvalidInput, "prompt_length = 2.5 is not an integer"),
        (np.nan, 1.0, InvalidInput, "prompt_length contains"),
        ([], 1.0, InvalidInput, "empty"),
        (1e101, 1.0, OutOfDomain, "use the limit constants"),
        (5, -0.1, InvalidInput, "scale = -0.1 is negative"),
        (5, np.inf, InvalidInput, "scale contains NaN or infinite"),
        (5, [0.1, np.nan], InvalidInput, "scale contains NaN or infinite"),
        (5, 201.0, OutOfDomain, "outside 0 <= scale <= 200"),
    ],
)
def test_refusals(n, s, error, words):
    with pytest.raises(error, match=words):
        prompt_moments(n, s)


# -- derivatives in the scale -----------------------------------------------------------------------

SLOPES = ("g_slope", "g3_slope", "g22_slope")


def slopes(n, s):
    moments = prompt_moments(n, s)
    return np.array([getattr(moments, name) for name in SLOPES])


@pytest.mark.parametrize("s", ["1e-3", "0.3", "1.3", "10", "200"])
def test_slopes_of_two_tokens_against_mpmath(s):
    # With p q = 1/(4 cosh^2(y/2)), y ~ N(0, 2 s^2): moments and derivatives are averages of these.
    with mp.workdps(30):
        scale = mp.mpf(s)
        width = mp.sqrt(2) * scale
        ends = [0, 1, 3, 10, 40, 80] if scale > 1 else [k * width for k in (0, 1, 3, 8, 14)]

        def slope(power):
            # d/ds of the density N(y; 0, w^2), w = sqrt(2) s, is (y^2/w^2 - 1)/s times the density.
            def integrand(y):
                z = y / width
                return mp.npdf(z) / width * (z * z - 1) / (4 * mp.cosh(y / 2) ** 2) ** power

            return 2 * mp.quad(integrand, ends) / scale

        first, second = slope(1), slope(2)
        exact = np.array(
            [float(x) for x in (-2 * first, -3 * first, -4 * first + 4 * second)], dtype=float
        )
        eta = float(2 * first - 6 * (first - 4 * second))
    assert_agrees(slopes(2, float(s)), exact, 1e-11 * exact)
    assert_agrees(prompt_moments(2, float(s)).eta_slope, eta, 1e-8 * abs(eta))


@pytest.mark.parametrize(
    ("n", "s"), [(3, 0.7), (5, 0.4999), (5, 0.5001), (30, 1.0), (1e3, 3.0), (1e6, 4.0), (1e12, 7.0)]
)
def test_slopes_are_differences_of_the_moments(n, s):
    h = 2e-3 * s
    table = prompt_moments(n, s + h * np.array([-2, -1, 1, 2]))
    for name, slope in zip(FIELDS, slopes(n, s), strict=True):
        values = getattr(table, name)
        difference = (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h)
        assert_agrees(slope, difference, 2e-8 * slope)


def laplace_moments(n, s, h=0.125):
    """g, g3, g4, g22, g32, g222 by their Laplace integrals, in double precision without tricks."""
    x = np.arange(-13, 13 + 6 * s, h / max(s, 1))
    weight = x[1] - x[0]
    weight = weight * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    u = np.arange(-math.log(n) - s * s / 2 - 40, 8 * s + 8, h)
    score = np.minimum(u[:, None] + s * x, 30.0)
    w = np.exp(-np.exp(score))
    a = {k: (np.exp(k * score) * w) @ weight for k in range(7)}
    one, two, three = (a[0] ** np.maximum(n - k, 0) for k in (1, 2, 3))
    pairs, triples = n * (n - 1), n * (n - 1) * (n - 2)
    table = {
        "g": n * a[2] * one,
        "g3": n * a[3] * one / 2,
        "g4": n * a[4] * one / 6,
        "g22": (n * a[4] * one + pairs * a[2] ** 2 * two) / 6,
        "g32": (n * a[5] * one + pairs * a[3] * a[2] * two) / 24,
        "g222": (n * a[6] * one + 3 * pairs * a[4] * a[2] * two + triples * a[2] ** 3 * three)
        / 120,
    }
    return {name: h * float(values.sum()) for name, values in table.items()}


@pytest.mark.parametrize(("n", "s"), [(3, 1.3), (17, 1.5), (400, 2.5)])
def test_slopes_by_integration_by_parts(n, s):
    moments = laplace_moments(n, s)
    parts = ((2,), (3,), (2, 2))
    for slope, indices in zip(slopes(n, s), parts, strict=True):
        formula = softmax_moment_slope(*indices)
        values = {x.name: moments.get(x.name, s) for x in (i.symbol for i in formula.symbols)}
        by_parts = float(formula.expr.subs({i.symbol: values[i.name] for i in formula.symbols}))
        assert_agrees(slope, by_parts, 1e-9 * slope)


def test_sampled_slopes():
    rng = np.random.default_rng(np.random.SeedSequence(11))
    n, s, draws = 12, 1.2, 300_000
    xi = rng.standard_normal((draws, n))
    p = np.exp(s * xi)
    p /= p.sum(axis=1, keepdims=True)
    centred = xi - (p * xi).sum(axis=1, keepdims=True)
    square, cube = (p**2 * centred).sum(axis=1), (p**3 * centred).sum(axis=1)
    sample = np.stack([2 * square, 3 * cube, 4 * (p**2).sum(axis=1) * square], axis=1)
    exact, error = slopes(n, s), sample.std(axis=0, ddof=1) / math.sqrt(draws)
    assert np.all(5 * error < 0.03 * exact)  # resolution
    assert_agrees(sample.mean(axis=0), exact, 5 * error)


def test_slopes_at_the_ends():
    s, n = np.array([0.1, 1.0, 4.0]), 1e100
    w2, moments = np.exp(s**2), prompt_moments(1e100, s)
    assert_agrees(moments.g_slope * n, 2 * s * w2, 1e-11 * w2)
    assert_agrees(moments.g3_slope * n**2, 6 * s * w2**3, 1e-11 * w2**3)
    assert_agrees(moments.g22_slope * n**2, 4 * s * w2**2, 1e-11 * w2**2)
    assert np.all(slopes(1, s) == 0)  # a single token has the weight 1
    assert np.all(slopes([1, 7, 1e50], 0.0) == 0)
    # Small scales do not cancel: g' = 2 s (1/n - 1/n^2) at the origin.
    assert_agrees(prompt_moments(7, 1e-8).g_slope, 2e-8 * 6 / 49, 1e-20)


def test_slopes_are_positive_and_finite_in_the_whole_range():
    s = np.array([1e-6, 0.1, 0.5, 2.0, 20.0, 100.0, 200.0])
    for length in (2, 3, 4, 1e3, 1e12, 1e100):
        table = slopes(length, s)
        assert np.all(np.isfinite(table))
        assert np.all(table >= 0)


def test_slopes_broadcast_like_the_moments():
    n, s = np.array([[2], [30]]), np.array([0.0, 0.4, 2.0])
    table = prompt_moments(n, s)
    assert table.g_slope.shape == table.eta_slope.shape == (2, 3)
    # Not bitwise: the lattice depends on the longest prompt of the call.
    assert table.g22_slope[1, 2] == pytest.approx(prompt_moments(30, 2.0).g22_slope, rel=1e-13)
    assert np.ndim(prompt_moments(4, 0.5).g_slope) == 0
