"""Averages over Wishart eigenvalues: exact moments, one eigenvalue, sampling, the limit law."""

import math

import numpy as np
import pytest
from scipy import stats

import icltheory as icl
import numeric
from icltheory.errors import InvalidInput, OutOfDomain
from numeric.spectra import wishart_quadrature

SIZES = [(1, 1), (1, 6), (3, 5), (5, 3), (6, 6), (20, 20), (40, 20), (21, 20), (300, 150)]


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_moments(n, d):
    assert float(numeric.wishart_average(np.ones_like, n, d)) == pytest.approx(min(n, d), rel=1e-13)
    for power in range(1, 4 if n == 300 else 7):
        average = numeric.wishart_average(lambda x, p=power: x**p, n, d)
        exact = float(icl.wishart_trace_moment(power, n, d))
        assert average.value == pytest.approx(exact, rel=1e-13)
        assert average.error < 1e-11 * exact
    nu = abs(n - d)
    if nu >= 2:
        inverse = float(numeric.wishart_average(lambda x: 1 / x, n, d))
        assert inverse == pytest.approx(min(n, d) / (nu - 1), rel=1e-12)
    if nu >= 4 and n > d:
        exact = float(icl.inverse_wishart_moment(2, dim=d, length=n))
        assert float(numeric.wishart_average(lambda x: x**-2, n, d)) == pytest.approx(
            exact, rel=1e-11
        )


def test_many_examples_do_not_cancel():
    for n in (10**6, 10**12):
        inverse = float(numeric.wishart_average(lambda x: 1 / x, n, 5))
        assert inverse * n == pytest.approx(5 * n / (n - 6), rel=1e-12)


def test_one_eigenvalue_is_a_chi_square():
    x = np.geomspace(1e-6, 60, 30)
    for m in (1, 2, 7):
        np.testing.assert_allclose(
            numeric.wishart_density(x, m, 1), stats.chi2.pdf(x, m), rtol=1e-11, atol=1e-300
        )
        np.testing.assert_allclose(
            numeric.wishart_density(x, 1, m), stats.chi2.pdf(x, m), rtol=1e-11, atol=1e-300
        )


def test_two_eigenvalues_against_the_joint_density():
    # m = 2, nu = 1: density proportional to exp(-(x + y)/2) |x - y| (a = 0), of two eigenvalues.
    from scipy.integrate import quad

    def unnormalised(x):
        inner = quad(lambda y: (x - y) * math.exp(-y / 2), 0, x)[0]
        outer = quad(lambda y: (y - x) * math.exp(-y / 2), x, 90)[0]
        return math.exp(-x / 2) * (inner + outer)

    norm = quad(unnormalised, 0, 90)[0]
    for x in (0.1, 1.0, 5.0, 20.0):
        exact = 2 * unnormalised(x) / norm
        assert numeric.wishart_density(x, 3, 2) == pytest.approx(exact, rel=1e-8)
        assert numeric.wishart_density(x, 3, 2) != pytest.approx(1.001 * exact, rel=1e-8)


def test_density_near_zero_is_the_derived_law():
    for n, d in ((20, 20), (22, 20), (20, 25), (8, 5)):
        law = icl.edge_density(n, d).expr
        x = np.array([1e-5, 1e-4]) / min(n, d)
        exact = numeric.wishart_density(x, n, d)
        predicted = np.array([float(law.subs(icl.symbols.lam, v)) for v in x])
        np.testing.assert_allclose(exact, predicted, rtol=1e-6)
        assert not np.allclose(exact, 1.0001 * predicted, rtol=1e-6, atol=0)
    # The relative rest is lam^{a + 2}, from a second eigenvalue below lam: 3/2 at n = d.
    law = icl.edge_density(20, 20).expr
    rest = [
        1 - float(law.subs(icl.symbols.lam, v)) / numeric.wishart_density(v, 20, 20)
        for v in (2e-6, 8e-6)
    ]
    assert rest[1] / rest[0] == pytest.approx(8, rel=0.05)


def test_parts_add_up():
    whole = float(numeric.wishart_average(np.sqrt, 7, 5))
    low = float(numeric.wishart_average(np.sqrt, 7, 5, below=4.0))
    high = float(numeric.wishart_average(np.sqrt, 7, 5, above=4.0))
    assert low + high == pytest.approx(whole, rel=1e-12)
    assert 0.05 * whole < low < 0.95 * whole


def test_several_functions_and_small_structures():
    t = np.array([1e3, 1e5, 1e7])
    average = numeric.wishart_average(lambda x: np.exp(-np.multiply.outer(t, x)), 20, 20)
    assert average.value.shape == (3,)
    # K Gamma(1/2)/sqrt(t) at n = d.
    constant = 2.20830256227 * math.sqrt(math.pi)
    for value, tolerance in zip(average.value * np.sqrt(t), (0.02, 2e-4, 2e-6), strict=True):
        assert value == pytest.approx(constant, rel=tolerance)
    assert np.all(average.error < 1e-10 * average.value)


@pytest.mark.parametrize(("n", "d"), [(7, 7), (12, 5), (5, 12), (1, 4)])
def test_bidiagonal_samples(n, d):
    samples = numeric.wishart_eigenvalues(n, d, 40_000, seed=3)
    assert samples.shape == (40_000, min(n, d))
    assert np.all(np.diff(samples, axis=1) >= 0)
    for f in (np.sqrt, lambda x: x**2, lambda x: 1 / (1 + x)):
        values = f(samples).sum(axis=1)
        error = values.std() / 200
        exact = float(numeric.wishart_average(f, n, d))
        assert abs(values.mean() - exact) < 5 * error < 0.05 * exact
        assert abs(values.mean() - 1.05 * exact) > 5 * error
    # Products couple the eigenvalues: E (tr S)^2 and E det S = d!/(d - n)! for n <= d.
    traces = samples.sum(axis=1) ** 2
    exact = float(icl.wishart_trace_moment((1, 1), n, d))
    assert abs(traces.mean() - exact) < 5 * traces.std() / 200
    assert (
        numeric.wishart_eigenvalues(n, d, 5, seed=3).tolist()
        == numeric.wishart_eigenvalues(n, d, 5, seed=3).tolist()
    )


def test_smallest_eigenvalue_at_two_by_one_more():
    # (n, d) = (3, 2): the smaller eigenvalue is an exponential variable with mean 1 (a = 0).
    smallest = numeric.wishart_eigenvalues(3, 2, 20_000, seed=1)[:, 0]
    assert stats.kstest(smallest, "expon").pvalue > 1e-3
    assert stats.kstest(1.05 * smallest, "expon").pvalue < 1e-3


def test_frobenius_norm_against_the_largest_eigenvalue():
    # V3c: the mean of F/lam_max^2 at d = 20, printed to two decimals.
    for n, printed in ((10, 1.29), (20, 1.41), (30, 1.50), (40, 1.58)):
        values = numeric.wishart_eigenvalues(n, 20, 4000, seed=2)
        ratio = np.sqrt((values**4).sum(axis=1)) / values[:, -1] ** 2
        assert abs(ratio.mean() - printed) < 0.005 + 5 * ratio.std() / math.sqrt(4000)
        assert np.all(ratio >= 1)
    # It grows like sqrt(d m_4)/(1 + sqrt(gamma))^4, slowly: the largest eigenvalue is inside the edge.
    limit = math.sqrt(20 * float(icl.limit_trace_moment(4, 1))) / 16
    assert limit == pytest.approx(1.045, abs=1e-3)


@pytest.mark.parametrize("gamma", [0.2, 1.0, 3.0])
def test_limit_law(gamma):
    for power in range(6):
        value = float(numeric.marchenko_pastur_average(lambda x, p=power: x**p, gamma))
        exact = float(icl.limit_trace_moment(power, gamma)) if power else min(1, 1 / gamma)
        assert value == pytest.approx(exact, rel=1e-12)
    finite = wishart_quadrature(round(120 / gamma), 120)
    n = round(120 / gamma)
    limit = float(numeric.marchenko_pastur_average(lambda x: 1 / (0.3 + x), gamma))
    assert finite.sum(1 / (0.3 + finite.values / n)) / 120 == pytest.approx(limit, rel=0.01)


def test_limit_is_approached_by_finite_sizes():
    limit = float(numeric.marchenko_pastur_average(lambda x: np.exp(-x), 0.5))
    gaps = []
    for d in (20, 40, 80):
        finite = float(numeric.wishart_average(lambda x, d=d: np.exp(-x / (2 * d)), 2 * d, d)) / d
        gaps.append(abs(finite - limit))
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.1)


def test_constants_and_growing_functions():
    assert float(numeric.wishart_average(lambda x: 1.0, 5, 3)) == pytest.approx(3, rel=1e-12)
    # One eigenvalue is a chi-square: E exp(x/5) = (1 - 2/5)^(-n/2); at 0.45 the tail is cut.
    grown = float(numeric.wishart_average(lambda x: np.exp(x / 5), 4, 1))
    assert grown == pytest.approx(0.6**-2, rel=1e-10)
    with pytest.raises(OutOfDomain, match="out of reach"):
        numeric.wishart_average(lambda x: np.exp(0.49 * x), 4, 1)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: numeric.wishart_average(np.sqrt, 300, 300), OutOfDomain, "above 200"),
        (lambda: numeric.wishart_average(np.sqrt, 10**13, 3), OutOfDomain, "above 1e"),
        (lambda: numeric.wishart_average(np.sqrt, 0, 3), InvalidInput, "at least 1"),
        (
            lambda: numeric.wishart_average(np.sqrt, 3, 3, above=2, below=1),
            InvalidInput,
            "no eigen",
        ),
        (
            lambda: numeric.wishart_average(lambda x: np.full_like(x, np.inf), 3, 3),
            OutOfDomain,
            "float64",
        ),
        (lambda: numeric.wishart_average(lambda x: 1 / x, 5, 5), OutOfDomain, "does not settle"),
        (lambda: numeric.wishart_average(np.exp, 5, 5), OutOfDomain, "grows so fast"),
        (lambda: numeric.wishart_average(lambda x: x[:2], 5, 5), InvalidInput, "must return"),
        (lambda: numeric.wishart_density([-1.0], 3, 3), InvalidInput, "eigenvalues > 0"),
        (lambda: numeric.wishart_eigenvalues(3, 3, 0), InvalidInput, "at least 1"),
        (lambda: numeric.wishart_eigenvalues(3, 3, 5, seed=-1), InvalidInput, "seed"),
        (lambda: numeric.marchenko_pastur_average(np.sqrt, 0.0), InvalidInput, "not positive"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
