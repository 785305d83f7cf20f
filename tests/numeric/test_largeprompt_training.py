"""Large prompts in numbers: features that are not Gaussian, and training."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from largeprompt_numbers import (
    CHAPTER,
    COEFS,
    GENERAL,
    SIGMA,
    A,
    B,
    assert_close,
    compositions,
    extrapolated,
    sample_prompts,
)

import icltheory as icl
import numeric
from icltheory.flow import BLOCKS

# -- features that are not Gaussian ------------------------------------------------------------------


def order_of_features(features, points, a, b, coefs, noise):
    """R_inf and the coefficient of 1/n for one head on any features; the query runs over `points`."""
    found = numeric.feature_expansion(features, points, a, b, coefs, noise)
    return found.limit.mean(), found.first_order.mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": [[1.0]]}, "queries has shape"),
        ({"coef_cov": [1.0, 2.0]}, "coef_cov has shape"),
        ({"noise_var": -1}, "negative"),
        ({"A": [[1, 2]]}, "A"),
    ],
)
def test_feature_expansion_refuses(change, message):
    given = {"queries": [[1.0, 1.0]], "A": 0.1, "b": 2.0, **change}
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.feature_expansion(icl.Rademacher(2), **given)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_risk_on_rademacher_features_by_enumeration(noise):
    """The exact risk at n = 12..96 against the expansion to order 1/n; R_inf > 0."""
    corners = np.array(list(itertools.product([1.0, -1.0], repeat=2)))
    a, b = np.array([[0.5, 0.1], [-0.2, 0.3]]), 1.3
    limit, order = order_of_features(icl.Rademacher(2), corners, a, b, COEFS, noise)
    lengths, scaled = [12, 24, 48, 96], []
    for n in lengths:
        counts, chance = compositions(n, [0.25] * 4)
        risk = 0.0
        for query in corners:
            w = np.exp(corners @ a @ query)
            p = counts * w / (counts @ w)[:, None]
            error = b * p @ corners - query
            value = np.einsum("bi,ij,bj->b", error, COEFS, error)
            value += b**2 * noise * (counts @ w**2) / (counts @ w) ** 2
            risk += chance @ value / 4
        scaled.append(n * (risk - limit))
    assert limit > 0.01
    assert_close(order, extrapolated(lengths, scaled), 2e-3 * order)


def test_gaussian_features_have_the_known_expansion():
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    grid = np.array(list(itertools.product(nodes, nodes))) @ np.linalg.cholesky(SIGMA).T
    chance = np.outer(weights, weights).ravel() / weights.sum() ** 2
    small = A / 2
    features = icl.Gaussian([0, 0], SIGMA)
    values = [order_of_features(features, x[None], small, B, COEFS, 0.25) for x in grid]
    limit, order = chance @ np.array(values)
    formula = icl.head_expansion(GENERAL, [small.T], [B])
    at = [float(formula.subs(n=length).expr) for length in (1, 2)]
    assert_close(order, 2 * (at[0] - at[1]), 1e-6)
    assert_close(limit, 2 * at[1] - at[0], 1e-6)


def test_small_scores_reach_any_risk_at_the_price_of_large_values():
    """Uniform features: b A Cov = I with A = e I gives R_inf ~ e^4, and b^2 (tr S Cov + noise)/n."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    features, noise, found = icl.UniformCube(1), 0.2, []
    for size in (0.2, 0.1):
        b = 3 / size
        values = [
            order_of_features(features, np.array([[x]]), np.array([[size]]), b, np.eye(1), noise)
            for x in nodes
        ]
        limit, order = weights @ np.array(values) / 2
        found.append((limit / size**4, order / b**2))
    # grad K(e x) = e x/3 - (e x)^3/45 + ..: the error is e^2 x^3/15.
    assert_close(found[1][0], 1 / (225 * 7), 1e-2 / (225 * 7))
    assert_close(found[1][1], 1 / 3 + noise, 5e-3)
    assert abs(found[0][0] * 225 * 7 - 1) > abs(found[1][0] * 225 * 7 - 1)


# -- training ----------------------------------------------------------------------------------------


def test_small_starts_of_all_blocks_reach_zero_or_escape_to_infinity():
    """d = 4, entries 0.1 N(0, 1): some flows end at R = 0, others follow u = v/(v'Sigma v)."""
    flow = icl.gradient_flow(icl.LinearRegression(dim=4, coef_cov=1), blocks=BLOCKS)
    ends: Any = {}
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        start = {
            "A": 0.1 * rng.standard_normal((4, 4)),
            "u": 0.1 * rng.standard_normal(4),
            "v": 0.1 * rng.standard_normal(4),
            "b": 0.1 * rng.standard_normal(),
        }
        ends[seed] = numeric.integrate(
            flow, initial=start, times=[0, 100, 800], rtol=1e-6, atol=1e-8, method="LSODA"
        )
    lost, found = ends[0], ends[1]
    assert found["risk"][-1] < 1e-9
    assert np.linalg.norm(found["v"][-1]) < 1e-5
    assert lost["risk"][-1] / 2 == pytest.approx(5.2e-3, abs=2e-4)
    v = lost["v"][-1]
    assert np.linalg.norm(v) == pytest.approx(6.92, abs=0.02)
    assert np.linalg.norm(lost["v"][1]) < np.linalg.norm(v)
    # Near the printed path, on which the risk is not lower.
    assert np.linalg.norm(lost["u"][-1] * (v @ v) - v) < 0.01 * np.linalg.norm(v)
    assert 12 * lost["b"][-1] ** 2 / (v @ v) > lost["risk"][-1] / 2


def test_published_time_scales():
    """d = 5, alpha = 0.3, Sigma = I: lam e = 0.99 at t = 1.74; n = 1e4 ends at b^2 = 8.007."""
    times = np.array([1.735, 1.745])
    product = numeric.closed_trajectory(CHAPTER, times, alpha=0.3)["product"]
    assert product[0] < 0.99 < product[1]
    best = numeric.optimal_block_risk(CHAPTER, 10**4)
    assert best.b**2 == pytest.approx(8.007, abs=6e-4)
    assert 1e4 * best.risk == pytest.approx(95.3, abs=6e-2)


@pytest.mark.parametrize("smallest", [0.3, 0.03])
def test_local_rate_of_ill_conditioned_features(smallest):
    """rate >= b_inf^2 lam_min^3 = |Sigma^-1|_F lam_min^3 from a balanced start, and near it."""
    task = icl.LinearRegression(dim=3, feature_cov=[smallest, 1, 2], coef_cov=1)
    start: Any = {"A": 0.1, "b": 0.1 * math.sqrt(3)}
    rates, end = numeric.flow_rates(task, **start), numeric.flow_limit(task, **start)
    size = math.sqrt(smallest**-2 + 1 + 1 / 4)
    assert end["b"] ** 2 == pytest.approx(size, rel=1e-10)
    bound = size * smallest**3
    assert bound <= rates.local < 2.1 * bound
    run = numeric.integrate(
        icl.gradient_flow(task), initial=start, times=[0, 1 / rates.local], rtol=1e-9
    )
    assert max(run.drift.values()) < 1e-6


def test_bayes_predictor_is_not_reached_by_either_layer():
    """Least squares on d noiseless examples is exact; the best layers of that length are not."""
    x, y, query, target = sample_prompts(CHAPTER, 200, 5, 11)
    ridge = np.linalg.solve(x, y[..., None])[..., 0]
    assert np.abs(np.sum(ridge * query, axis=1) - target).max() < 1e-6
    assert float(icl.optimal_linear_attention(CHAPTER).subs(n=5).expr) > 2
    assert numeric.optimal_block_risk(CHAPTER, 5).risk > 2
