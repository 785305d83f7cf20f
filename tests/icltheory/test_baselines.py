"""Inverse Wishart moments, least squares and the Bayes expansion against known results and sampling."""

import math
from typing import Any, cast

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.symbols import d, n, noise_var

TASK = icl.LinearRegression(dim=d, noise_var=noise_var)


def test_known_inverse_moments():
    m = n - d
    assert sp.cancel(icl.inverse_wishart_moment(1) - d / (m - 1)) == 0
    assert sp.cancel(icl.inverse_wishart_moment(2) - d * (n - 1) / (m * (m - 1) * (m - 3))) == 0
    assert sp.cancel(icl.inverse_wishart_moment(2) - d * n / (m * (m - 1) * (m - 3))) != 0


@pytest.mark.parametrize("powers", [(1, 1), (3,), (2, 1), (2, 2), (4,), (1, 1, 1)])
def test_one_dimension_is_an_inverse_chi_square(powers):
    # E (chi^2_n)^-p = 1/((n - 2)(n - 4)...(n - 2p)).
    total = sum(powers)
    expected = 1 / sp.prod(n - 2 * j for j in range(1, total + 1))
    assert sp.cancel(icl.inverse_wishart_moment(*powers, dim=1) - expected) == 0


@pytest.mark.parametrize("powers", [(1,), (2,), (1, 1), (2, 1), (3,)])
def test_against_sampling(powers):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((100_000, 24, 3))
    inverse = np.linalg.inv(np.swapaxes(x, 1, 2) @ x)
    sample = np.prod(
        [np.trace(np.linalg.matrix_power(inverse, p), axis1=1, axis2=2) for p in powers], axis=0
    )
    exact = float(icl.inverse_wishart_moment(*powers, dim=3, length=24))
    error = sample.std() / math.sqrt(len(sample))
    assert 5 * error < 0.03 * exact
    assert abs(sample.mean() - exact) < 5 * error
    assert abs(sample.mean() - 1.03 * exact) > 2 * error


def test_least_squares():
    assert sp.cancel(icl.least_squares_risk(TASK).expr - noise_var * d / (n - d - 1)) == 0
    correlated = icl.LinearRegression(dim=2, noise_var=1, feature_cov=[[2, 1], [1, 2]])
    rng = np.random.default_rng(2)
    root = np.linalg.cholesky([[2.0, 1.0], [1.0, 2.0]])
    x = rng.standard_normal((100_000, 15, 2)) @ root.T
    q = rng.standard_normal((100_000, 2)) @ root.T
    inverse = np.linalg.inv(np.swapaxes(x, 1, 2) @ x)
    sample = np.einsum("bi,bij,bj->b", q, inverse, q)
    exact = float(icl.least_squares_risk(correlated).subs(n=15))
    error = sample.std() / math.sqrt(len(sample))
    assert abs(sample.mean() - exact) < 5 * error < 0.03 * exact
    with pytest.raises(icl.OutOfDomain, match="least squares"):
        icl.least_squares_risk(correlated).subs(n=3)


def test_bayes_expansion():
    two = icl.bayes_risk_expansion(TASK).expr
    expected = noise_var * d / n + noise_var * d * (d + 1 - noise_var * d) / n**2
    assert sp.expand(two - expected) == 0
    # In one dimension E 1/(c + chi^2_n) has an expansion of its own: with n large,
    # sum_j (-c)^j / ((n - 2)(n - 4)...).
    task = icl.LinearRegression(dim=1, noise_var=noise_var)
    three = icl.bayes_risk_expansion(task, order=3).expr
    x = sp.Symbol("x", positive=True)
    direct = x / (1 - 2 * x)
    direct -= noise_var * x**2 / ((1 - 2 * x) * (1 - 4 * x))
    direct += noise_var**2 * x**3 / ((1 - 2 * x) * (1 - 4 * x) * (1 - 6 * x))
    direct = noise_var * sp.series(direct, x, 0, 4).removeO()
    assert sp.expand(three.subs(n, 1 / x) - direct) == 0


def test_bayes_expansion_needs_a_long_prompt():
    law = icl.bayes_risk_expansion(icl.LinearRegression(dim=5, noise_var=4))
    with pytest.raises(icl.OutOfDomain, match="n = 5 is outside n > 14"):
        law.subs(n=5)
    assert law.subs(n=15).expr > 0
    assert icl.bayes_risk_expansion(TASK).validity == (n > sp.Abs(d + 1 - d * noise_var))
    assert icl.bayes_risk_expansion(icl.LinearRegression(dim=d)).validity == sp.true
    assert icl.bayes_risk_expansion(icl.LinearRegression(dim=d)).expr == 0


def test_bayes_expansion_of_other_tasks():
    # R times the base task at noise_var/R.
    task = icl.LinearRegression(dim=2, noise_var=3, feature_cov=[2, 1], coef_cov=[1, 2])
    scaled = icl.LinearRegression(dim=2, noise_var=sp.Rational(3, 4))
    assert (
        sp.expand(icl.bayes_risk_expansion(task).expr - 4 * icl.bayes_risk_expansion(scaled).expr)
        == 0
    )
    known = icl.LinearRegression(dim=2, noise_var=3, coef_cov=2, coef_mean=[1, 5])
    unknown = icl.LinearRegression(dim=2, noise_var=3, coef_cov=2)
    assert icl.bayes_risk_expansion(known).expr == icl.bayes_risk_expansion(unknown).expr


def test_no_heads_reach_the_bayes_constant():
    heads = icl.optimal_loss_constant(TASK, icl.SoftmaxAttention(heads=4)).expr
    bayes = sp.limit(n * icl.bayes_risk_expansion(TASK, order=1).expr, n, sp.oo)
    assert sp.cancel(heads / bayes - ((1 + noise_var) * d + 1) / (noise_var * d)) == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: icl.inverse_wishart_moment(0), "integers of at least 1"),
        (lambda: icl.inverse_wishart_moment(2, dim=3, length=6), "length > dim"),
        (lambda: icl.bayes_risk_expansion(TASK, order=0), "not an integer of at least 1"),
        (lambda: icl.bayes_risk_expansion(cast(Any, "task")), "type str"),
        (
            lambda: icl.bayes_risk_expansion(icl.LinearRegression(dim=2, feature_cov=[2, 1])),
            "no multiple of the identity",
        ),
        (
            lambda: icl.least_squares_risk(icl.LinearRegression(dim=2, local=(1, 1))),
            "local",
        ),
    ],
)
def test_refusals(call, words):
    with pytest.raises(InvalidInput, match=words):
        call()
