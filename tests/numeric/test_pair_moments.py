"""Joint moments of two heads against brute quadrature, mpmath, sampling, limits and reference digits."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icltheory.errors import InvalidInput, OutOfDomain
from numeric import pair_moments, prompt_moments
from numeric.pair_moments import single_head, two_heads
from numeric.query_lattice import QueryLattice

WRONG = 1.03


def test_reference_values():
    moments = pair_moments(10, 0.5, -0.5)
    assert moments.product == pytest.approx(-0.12758573, abs=5e-9)
    assert moments.overlap == pytest.approx(0.08049906, abs=5e-9)
    for n, kappa, m, square, weight in [
        (1000, 0.9, 0.897985558, 0.810395948, 0.00223826866),
        (20, 2.5, 1.56537437, 2.78684598, 0.37385025),
    ]:
        both = pair_moments(n, kappa, kappa)
        one = single_head(n, kappa)
        assert kappa * (1 - one.response_gap) == pytest.approx(m, rel=5e-9)
        assert both.product == pytest.approx(square, rel=5e-9)
        assert both.overlap == pytest.approx(weight, rel=5e-9)


# -- independent quadratures -----------------------------------------------------------------------


def gauss_hermite(n, *functions, nodes=40):
    """E f(z) for z ~ N(0, I_n), tensor grid, n <= 3."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / w.sum()
    z = np.stack(np.meshgrid(*[x] * n, indexing="ij"), axis=-1)
    p = math.prod(np.meshgrid(*[w] * n, indexing="ij"))
    return [float(np.sum(p * f(z))) for f in functions]


def layer(z, kappa, radius=None):
    w = np.exp(kappa * z)
    total = w.sum(axis=-1) + (0 if radius is None else math.exp(kappa * radius))
    return w / total[..., None]


@pytest.mark.parametrize(
    ("n", "a", "b"), [(2, 0.7, -0.4), (3, 0.5, 0.2), (3, 0.6, -0.6), (2, 0, 1)]
)
def test_against_a_tensor_grid_over_all_tokens(n, a, b):
    overlap, product = gauss_hermite(
        n,
        lambda z: (layer(z, a) * layer(z, b)).sum(axis=-1),
        lambda z: (layer(z, a) * z).sum(axis=-1) * (layer(z, b) * z).sum(axis=-1),
        nodes=60,
    )
    moments = pair_moments(n, a, b)
    assert moments.overlap == pytest.approx(overlap, abs=1e-9)
    assert moments.product == pytest.approx(product, abs=1e-9)
    assert abs(WRONG * moments.product - product) > 1e-3


@pytest.mark.parametrize(
    ("n", "a", "b", "r"), [(2, 0.7, -0.4, 1.3), (2, 0.0, 0.5, 0.8), (1, 0.5, -0.8, 1)]
)
def test_query_token_against_a_tensor_grid(n, a, b, r):
    p = 1 / (n + 1)

    def part(z, kappa):
        if kappa:
            return (layer(z, kappa, r) - p) / kappa
        return p * (z - (z.sum(axis=-1, keepdims=True) + r) * p)

    def read(z, kappa):
        return (part(z, kappa) * z).sum(axis=-1)

    want = gauss_hermite(
        n,
        lambda z: 1 - read(z, a),
        lambda z: 1 - read(z, a) ** 2,
        lambda z: (part(z, a) ** 2).sum(axis=-1),
        lambda z: p * part(z, a).sum(axis=-1),
        lambda z: p * read(z, a) * z.sum(axis=-1),
        lambda z: 1 - read(z, a) * read(z, b),
        lambda z: (part(z, a) * part(z, b)).sum(axis=-1),
        nodes=60,
    )
    got = [*single_head(n, a, r), *two_heads(n, a, b, r)]
    np.testing.assert_allclose(got, want, atol=1e-9)
    assert not np.allclose(got, [WRONG * x for x in want], atol=1e-4)


@pytest.mark.parametrize(
    ("a", "b"), [(0.8, -0.3), (1e-4, -1e-4), (1e-6, 2.0), (6.0, -6.0), (3.0, 2.5), (0.9, 25.0)]
)
def test_two_tokens_against_mpmath(a, b):
    """At n = 2 everything depends on z_1 - z_2: one integral, here at 25 digits."""
    with mpmath.workdps(25):

        def half(kappa, x):
            return mpmath.tanh(kappa * x / 2) / (2 * mpmath.mpf(kappa))

        def average(f):
            cuts = [0, 0.1, 0.5, 1, 2, 4, 8, 16]
            density = lambda x: mpmath.exp(-x * x / 4) / mpmath.sqrt(mpmath.pi)  # noqa: E731
            return mpmath.quad(lambda x: f(x) * density(x), cuts)

        slope = 2 * average(lambda x: half(a, x) * half(b, x))
        gap = 1 - average(lambda x: half(a, x) * half(b, x) * x * x)
    moments = pair_moments(2, a, b)
    assert moments.overlap_slope == pytest.approx(float(slope), rel=2e-14)
    assert moments.product_gap == pytest.approx(float(gap), rel=2e-14)
    assert abs(WRONG * moments.product_gap - gap) > 1e-3 * gap


@pytest.mark.parametrize(("n", "a", "b"), [(4, 0.8, -0.3), (9, 1.5, -1.5), (25, 2.0, 0.4)])
def test_against_the_plain_laplace_transform(n, a, b):
    """The double integral of the moments themselves, on a lattice without any map."""
    h, log_rates = 0.1, np.arange(-110, 16) / 3
    z, x = h * np.arange(-95, 96), np.exp(log_rates)
    p = h * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    w, v = np.exp(a * z), np.exp(b * z)
    one, other = np.exp(-np.outer(x, w)), np.exp(-np.outer(x, v))

    def average(f):
        return (one * (p * f)) @ other.T

    phi, area = average(1.0), np.outer(x, x) / 9
    overlap = n * np.sum(area * average(w * v) * phi ** (n - 1))
    product = n * np.sum(area * average(z * z * w * v) * phi ** (n - 1))
    pairs = average(z * w) * average(z * v) * phi ** (n - 2)
    product += n * (n - 1) * np.sum(area * pairs)
    moments = pair_moments(n, a, b)
    assert moments.overlap == pytest.approx(overlap, rel=1e-10)
    assert moments.product == pytest.approx(product, rel=1e-10)
    assert abs(WRONG * moments.overlap / overlap - 1) > 1e-2


@pytest.mark.parametrize(
    ("n", "kappa"),
    [(2, 0.5), (3, 8.0), (40, 3.0), (20, 12.0), (1000, 0.9), (1e6, 6.0), (1e12, 0.5), (1e100, 5.0)],
)
def test_joint_transform_at_nearly_equal_scales_is_that_of_one_head(n, kappa):
    step = 1e-7
    middle = np.mean(
        [two_heads(n, kappa, kappa * (1 + step)), two_heads(n, kappa * (1 - step), kappa)], axis=0
    )
    one = single_head(n, kappa)
    np.testing.assert_allclose(middle, one[1:3], rtol=1e-10)
    moments = prompt_moments(n, kappa)
    assert one.response_gap == pytest.approx(moments.g, rel=1e-12)
    assert one.overlap_slope == pytest.approx((moments.g - 1 / n) / kappa**2, rel=1e-11)


@pytest.mark.parametrize(
    ("n", "a", "b"), [(12, 0.9, -0.5), (5, 2.5, 0.6), (30, 4.0, -4.0), (6, 0.1, 3.0)]
)
def test_against_sampling(n, a, b):
    rng = np.random.default_rng(7)
    z = rng.standard_normal((200_000, n))
    one, other = layer(z, a), layer(z, b)
    moments = pair_moments(n, a, b)
    for sample, exact in (
        ((one * other).sum(axis=1), moments.overlap),
        ((one * z).sum(axis=1) * (other * z).sum(axis=1), moments.product),
    ):
        error = sample.std() / math.sqrt(len(sample))
        assert abs(sample.mean() - exact) < 5 * error
        assert 5 * error < 0.03 * max(abs(exact), 0.2)


# -- limits and structure ----------------------------------------------------------------------------


def test_scale_zero_and_one_token():
    for n in (1, 2, 10, 1e6):
        zero = pair_moments(n, 0, 0)
        assert zero.overlap == zero.product == pytest.approx(1 / n)
        # W = a (z - mean)/n: sums of n - 1 independent squares.
        assert zero.overlap_slope == pytest.approx((n - 1) / n**2, rel=1e-12)
        assert zero.product_gap == pytest.approx(1 - (n - 1) * (n + 1) / n**2, rel=1e-9)
    alone = pair_moments(1, [0.5, 2.0], [-1.0, 3.0])
    np.testing.assert_allclose(alone.overlap, 1)
    np.testing.assert_allclose(alone.product, 1)


@pytest.mark.parametrize("n", [3, 50, 1e8])
def test_small_scales_are_continuous(n):
    small = np.array([1e-3, 1e-6, 1e-9, 0.0])
    same, opposite = pair_moments(n, small, small), pair_moments(n, small, -small)
    for field in ("overlap_slope", "product_gap"):
        at_zero = getattr(same, field)[-1]
        tolerance = 10 * small**2 * max(at_zero, 1 / n) + 1e-12 / n
        for moments in (same, opposite):
            assert np.all(np.abs(getattr(moments, field) - at_zero) <= tolerance)


def test_methods_agree_where_the_map_of_the_scales_changes():
    below, above = pair_moments(20, 1.0, -1.0), pair_moments(20, 1 + 1e-12, -1 - 1e-12)
    assert below.product_gap == pytest.approx(above.product_gap, rel=1e-10)
    smooth, fine = (pair_moments(20, 3 + x, 2 * (3 + x)) for x in (1e-12, -1e-12))
    assert smooth.overlap_slope == pytest.approx(fine.overlap_slope, rel=1e-10)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 10**6), st.floats(-3, 3), st.floats(-3, 3))
def test_symmetries_and_bounds(n, a, b):
    moments = pair_moments(n, a, b)
    assert moments.overlap_slope == pair_moments(n, b, a).overlap_slope
    assert moments.product_gap == pair_moments(n, -a, -b).product_gap
    assert moments.overlap_slope > 0
    assert 0 < moments.overlap < 1
    same = pair_moments(n, a, a), pair_moments(n, b, b)
    assert moments.overlap**2 <= (1 + 1e-12) * same[0].overlap * same[1].overlap


def test_broadcasting():
    moments = pair_moments([[5], [50]], [0.3, 0.6], -0.4)
    assert moments.overlap.shape == moments.product.shape == (2, 2)
    assert moments.overlap[1, 0] == pair_moments(50, 0.3, -0.4).overlap


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0, 1, 1), InvalidInput, "not an integer of at least 1"),
        ((5, np.nan, 1), InvalidInput, "first contains"),
        ((5, 1, "2"), InvalidInput, "second"),
        ((5, 1, -61), OutOfDomain, "second = 61 is above 60"),
    ],
)
def test_refusals(arguments, error, words):
    with pytest.raises(error, match=words):
        pair_moments(*arguments)


@pytest.mark.parametrize(("dim", "k"), [(1, 0.3), (5, 1.7), (40, 0.02)])
def test_query_lattice_has_the_moments_of_a_chi_variable(dim, k):
    lattice = QueryLattice(dim, 1000)
    points = lattice.points(k)
    r = lattice.scales(points) / k
    density = lattice.density(k, points)
    for power in (0, 2, 4):
        exact = math.prod(dim + 2 * j for j in range(1 + power // 2)) / dim
        assert density @ r**power == pytest.approx(exact, rel=1e-12)
