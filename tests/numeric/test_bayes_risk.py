"""Averages over Wishart eigenvalues and the Bayes risk: traces, mpmath, sampling, expansion, digits."""

import math

import mpmath
import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.symbols import lam
from numeric import bayes_risk, optimal_risk
from numeric.bayes import eigenvalue_average


def base(dim, noise):
    return icl.LinearRegression(dim=dim, noise_var=noise)


@pytest.mark.parametrize(
    ("noise", "risks"),
    [(0.25, [0.1906, 0.0793, 0.0352, 0.0131]), (1, [0.4276, 0.2436, 0.1257, 0.0503])],
)
def test_reference_values(noise, risks):
    np.testing.assert_allclose(bayes_risk(base(5, noise), [10, 20, 40, 100]), risks, atol=6e-5)


@pytest.mark.parametrize(
    ("count", "degrees"), [(1, 3), (2, 2), (3, 10), (6, 9), (20, 20), (50, 80), (5, 1e6)]
)
def test_traces(count, degrees):
    assert eigenvalue_average(count, degrees, np.ones_like) == pytest.approx(count, rel=1e-12)
    first = eigenvalue_average(count, degrees, lambda x: x)
    assert first == pytest.approx(count * degrees, rel=1e-12)
    second = eigenvalue_average(count, degrees, lambda x: x * x)
    assert second == pytest.approx(count * degrees * (degrees + count + 1), rel=1e-12)
    if degrees > count + 3:
        for power in (1, 2):
            inverse = eigenvalue_average(count, degrees, lambda x, p=power: x**-p)
            if degrees - count > 2 * power + 1:
                exact = icl.inverse_wishart_moment(power, dim=count, length=int(degrees))
                assert inverse == pytest.approx(float(exact), rel=1e-8)


@pytest.mark.parametrize(("n", "noise"), [(1, 0.3), (1, 1e-4), (2, 1e-6), (3, 0.01), (40, 2.0)])
def test_one_dimension_against_mpmath(n, noise):
    with mpmath.workdps(25):
        c, half = mpmath.mpf(noise), mpmath.mpf(n) / 2

        def density(y):
            return 2 * y ** (n - 1) * mpmath.exp(-y * y / 2) / (2**half * mpmath.gamma(half))

        cuts = [0, mpmath.sqrt(c), 10 * mpmath.sqrt(c), 1, 4, 9, 20]
        exact = mpmath.quad(lambda y: c / (c + y * y) * density(y), sorted(cuts))
    assert bayes_risk(base(1, noise), n) == pytest.approx(float(exact), rel=1e-10)


@pytest.mark.parametrize(
    ("dim", "n", "noise"), [(5, 3, 0.5), (4, 4, 0.2), (20, 15, 1.0), (3, 12, 0.4)]
)
def test_against_sampling(dim, n, noise):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((20_000, n, dim))
    precision = dim * np.eye(dim) + np.swapaxes(x, 1, 2) @ x / noise
    sample = np.trace(np.linalg.inv(precision), axis1=1, axis2=2)
    error = sample.std() / math.sqrt(len(sample))
    exact = bayes_risk(base(dim, noise), n)
    assert abs(sample.mean() - exact) < 5 * error < 0.03 * exact
    assert abs(sample.mean() - 1.03 * exact) > 5 * error


def test_expansion():
    task = base(5, 0.5)
    for order in (1, 2, 3):
        formula = icl.bayes_risk_expansion(task, order)
        errors = [abs(float(formula.subs(n=n)) / bayes_risk(task, n) - 1) for n in (1000, 4000)]
        assert errors[0] / errors[1] == pytest.approx(4**order, rel=0.05)


def test_small_noise_is_paid_by_the_smallest_eigenvalue():
    # At n = d the density of eigenvalues is K/sqrt(lam) near 0: E sum c/(c + lam) -> pi K sqrt(c).
    edge = icl.edge_density(100, 100)
    constant = float((edge.expr * sp.sqrt(lam)).subs(lam, 0))
    c = 100 * 1e-9
    law = math.pi * constant * math.sqrt(c) / 100
    assert bayes_risk(base(100, 1e-9), 100) == pytest.approx(law, rel=0.02)
    assert bayes_risk(base(100, 1e-9), 100) != pytest.approx(1.03 * law, rel=0.02)


def test_scaling_and_prior_mean():
    task = icl.LinearRegression(dim=2, noise_var=3, feature_cov=[2, 1], coef_cov=[1, 2])
    assert bayes_risk(task, 7) == pytest.approx(4 * bayes_risk(base(2, 0.75), 7), rel=1e-12)
    known = icl.LinearRegression(dim=2, noise_var=0.75, coef_mean=[3, 1])
    assert bayes_risk(known, 7) == bayes_risk(base(2, 0.75), 7)


def test_no_noise_and_order_of_the_predictors():
    np.testing.assert_allclose(bayes_risk(base(4, 0), [1, 3, 4, 9]), [0.75, 0.25, 0, 0])
    n = np.array([10, 100])
    best = bayes_risk(base(5, 0.5), n)
    squares = [float(icl.least_squares_risk(base(5, 0.5)).subs(n=int(x))) for x in n]
    assert np.all(best < squares)
    for attention in (icl.LinearAttention(), icl.SoftmaxAttention(heads=2)):
        assert np.all(best < optimal_risk(base(5, 0.5), attention, n).risk)


@pytest.mark.parametrize(
    ("task", "n", "error", "words"),
    [
        (base(300, 1), 300, OutOfDomain, "above 200"),
        (icl.LinearRegression(dim=2, feature_cov=[2, 1]), 5, InvalidInput, "no multiple"),
        (base(3, 1), 0, InvalidInput, "at least 1"),
        (icl.LinearRegression(dim=2, local=(1, 1)), 5, InvalidInput, "local"),
    ],
)
def test_refusals(task, n, error, words):
    with pytest.raises(error, match=words):
        bayes_risk(task, n)
