"""block_risk and its gradient: polar quadrature, scalar heads, simulation, differences, limits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import icltheory as icl
from icltheory import symbols
from icltheory.errors import InvalidInput, OutOfDomain
from numeric import block_risk, block_risk_gradient, exact_risk, prompt_moments
from numeric.quadratic_form import lattice_step

ONE = icl.SoftmaxAttention(heads=1)
WRONG = 1.03  # every check must reject a value that is 3 % off

SIGMA = np.array([[1, 0.3], [0.3, 0.8]])
COEFS = np.array([[0.9, -0.2], [-0.2, 0.5]])
QUERY = np.array([[0.7, 0.1], [0.1, 1.2]])
GENERAL = icl.LinearRegression(dim=2, noise_var=0.25, feature_cov=SIGMA, coef_cov=COEFS)
A = np.array([[0.5, 0.1], [-0.2, 0.4]])

LARGE_SIGMA = np.array([[1, 0.3, 0.1], [0.3, 0.8, 0], [0.1, 0, 1.4]])
LARGE_COEFS = np.diag([0.2, 1.0, 0.5]) + 0.1
LARGE = icl.LinearRegression(dim=3, noise_var=0.4, feature_cov=LARGE_SIGMA, coef_cov=LARGE_COEFS)
LARGE_A = np.array([[0.5, 0.2, -0.1], [0.0, 0.6, 0.3], [0.1, -0.2, 0.3]])


# -- independent routes ----------------------------------------------------------------------------


def polar_risk(a, b, n, query):
    """The risk in its textbook form, by quadrature over the query in polar coordinates."""
    y, w = np.polynomial.legendre.leggauss(60)
    r, w = 4.75 * (y + 1), 4.75 * w
    angle = np.pi * np.arange(24) / 24  # the risk is even in the query
    x = np.stack([r[:, None] * np.cos(angle), r[:, None] * np.sin(angle)], axis=-1)
    x = x @ np.linalg.cholesky(query).T
    point = x @ a.T
    moments = prompt_moments(n, np.sqrt(np.einsum("...i,ij,...j", point, SIGMA, point)))
    label = np.trace(SIGMA @ COEFS) + 0.25
    square = np.einsum("...i,ij,...j", point, SIGMA @ COEFS @ SIGMA, point)
    cross = np.einsum("...i,ij,...j", x, COEFS @ SIGMA, point)
    risk = b * b * (moments.eta * square + moments.g * label) - 2 * b * (1 - moments.g) * cross
    risk = risk + np.einsum("...i,ij,...j", x, COEFS, x)
    return float(risk.mean(axis=1) @ (w * r * np.exp(-r * r / 2)))


@pytest.mark.parametrize(
    ("n", "a", "b", "query"),
    [
        (1, A, 1.2, SIGMA),
        (20, A, 1.2, SIGMA),
        (20, 2 * A, -0.7, QUERY),
        (1000, A, 1.2, QUERY),
        (100, np.outer([1, 0.5], [0.3, 0.7]), 1.1, SIGMA),
    ],
)
def test_polar_quadrature(n, a, b, query):
    reference = polar_risk(a, b, n, query)
    value = block_risk(GENERAL, a, b, n, query_cov=query)
    assert value == pytest.approx(reference, rel=1e-9)
    assert WRONG * value != pytest.approx(reference, rel=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 5, 25])
def test_scalar_heads_agree_with_the_chi_quadrature(dim):
    n = np.array([1, 2, 30, 1e3, 1e6, 1e12])
    root = np.random.default_rng(dim).standard_normal((dim, dim)) / 4
    cov = root @ root.T + np.eye(dim)
    task = icl.LinearRegression(dim=dim, noise_var=0.3, feature_cov=cov, coef_cov=2)
    matrix = 0.45 * np.linalg.inv(np.array(task.feature_cov.to_matrix().tolist(), dtype=float))
    reference = exact_risk(task, ONE, n, 0.45, 1.7)
    assert block_risk(task, matrix, 1.7, n) == pytest.approx(reference, rel=1e-8)
    assert block_risk(task, matrix, 1.7 * 1.0001, n) != pytest.approx(reference, rel=1e-8)
    isotropic = icl.LinearRegression(dim=dim)
    reference = exact_risk(isotropic, ONE, n, 0.6, 1 / 0.6)
    assert block_risk(isotropic, 0.6, 1 / 0.6, n) == pytest.approx(reference, rel=1e-8)


def sample(prompts, n, seed):
    """Features, labels, query and target of the task LARGE."""
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(LARGE_SIGMA)
    theta = rng.standard_normal((prompts, 3)) @ np.linalg.cholesky(LARGE_COEFS).T
    x = rng.standard_normal((prompts, n, 3)) @ root.T
    y = np.einsum("pnd,pd->pn", x, theta) + math.sqrt(0.4) * rng.standard_normal((prompts, n))
    query = rng.standard_normal((prompts, 3)) @ root.T
    return x, y, query, np.sum(theta * query, axis=1)


def losses(batch, a, b):
    x, y, query, target = batch
    score = np.einsum("pnd,pd->pn", x, query @ a.T)
    weight = np.exp(score - score.max(axis=1, keepdims=True))
    read = (weight * y).sum(axis=1) / weight.sum(axis=1)
    return (b * read - target) ** 2


@pytest.mark.parametrize(("n", "seed"), [(3, 1), (12, 2)])
def test_simulated_layer(n, seed):
    sampled = losses(sample(400_000, n, seed), LARGE_A, 1.3)
    error = sampled.std() / math.sqrt(sampled.size)
    value = block_risk(LARGE, LARGE_A, 1.3, n)
    assert 5 * error < 0.03 * value  # a value 3 % off would be seen
    assert abs(value - sampled.mean()) < 5 * error
    assert abs(WRONG * value - sampled.mean()) > 5 * error


# -- gradient ------------------------------------------------------------------------------------------


def richardson(function, h=2e-3):
    """Derivative at 0 to order h^6."""
    d1, d2, d3 = ((function(k * h) - function(-k * h)) / (2 * k * h) for k in (1, 2, 3))
    return 1.5 * d1 - 0.6 * d2 + 0.1 * d3


@pytest.mark.parametrize("n", [1, 2, 20, 1000, 10**6])
@pytest.mark.parametrize("query", [None, QUERY])
def test_gradient_against_differences(n, query):
    slope = block_risk_gradient(GENERAL, A, 1.2, n, query_cov=query)

    def moved(direction):
        return richardson(lambda h: block_risk(GENERAL, A + h * direction, 1.2, n, query_cov=query))

    size = np.abs(slope["A"]).max()
    for i in range(2):
        for j in range(2):
            direction = np.zeros((2, 2))
            direction[i, j] = 1.0
            difference = moved(direction)
            assert slope["A"][i, j] == pytest.approx(difference, rel=1e-9, abs=1e-10 * (size + 1))
    by_b = richardson(lambda h: block_risk(GENERAL, A, 1.2 + h, n, query_cov=query))
    assert slope["b"] == pytest.approx(by_b, rel=1e-9)
    assert slope["b"] * WRONG != pytest.approx(by_b, rel=1e-2)


@pytest.mark.parametrize("matrix", [0.0, np.diag([0.6, 0.0]), np.diag([0.6, 1e-5]), -A])
def test_gradient_at_singular_and_negative_scores(matrix):
    matrix = matrix * np.eye(2) if np.ndim(matrix) == 0 else matrix
    slope = block_risk_gradient(GENERAL, matrix, 1.2, 30)["A"]
    for direction in (np.eye(2), np.array([[0.3, -1], [0.7, 0.2]])):
        difference = richardson(lambda h, e=direction: block_risk(GENERAL, matrix + h * e, 1.2, 30))
        assert np.sum(slope * direction) == pytest.approx(difference, rel=1e-8, abs=1e-9)


def test_gradient_against_a_simulated_layer():
    batch, h = sample(400_000, 8, 5), 1e-4
    direction = block_risk_gradient(LARGE, LARGE_A, 1.3, 8)["A"]  # where it is largest
    sampled = losses(batch, LARGE_A + h * direction, 1.3)
    sampled = (sampled - losses(batch, LARGE_A - h * direction, 1.3)) / (2 * h)
    error = sampled.std() / math.sqrt(sampled.size)
    value = np.sum(direction**2)
    assert 5 * error < 0.1 * abs(value)
    assert abs(value - sampled.mean()) < 5 * error
    assert abs(1.1 * value - sampled.mean()) > 5 * error


# -- structure -----------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(2, 200), st.integers(0, 2**32 - 1))
def test_coordinates_do_not_matter(dim, n, seed):
    # x = T z: with features z the same head has the matrix T'A T and coefficients T'theta.
    rng = np.random.default_rng(seed)
    root, coef_root, change = (rng.standard_normal((dim, dim)) for _ in range(3))
    sigma = root @ root.T / dim + 0.2 * np.eye(dim)
    coefs = coef_root @ coef_root.T / dim
    coefs += 0.01 * np.eye(dim)
    change = change / 2 + np.eye(dim) * 2
    a = rng.standard_normal((dim, dim)) / (2 * dim)
    inverse = np.linalg.inv(change)

    def risk(matrix, feature_cov, coef_cov):
        task = icl.LinearRegression(
            dim=dim, noise_var=0.2, feature_cov=feature_cov, coef_cov=coef_cov
        )
        return block_risk(task, matrix, 1.1, n)

    here = risk(a, sigma, coefs)
    there = risk(change.T @ a @ change, inverse @ sigma @ inverse.T, change.T @ coefs @ change)
    assert here == pytest.approx(there, rel=1e-9)
    assert here != pytest.approx(WRONG * there, rel=1e-2)


def test_signs_zero_scores_and_one_example():
    assert block_risk(GENERAL, -A, -1.2, 20) == pytest.approx(block_risk(GENERAL, A, 1.2, 20))
    signal = float(GENERAL.signal)
    # Without scores the head averages the labels, which are independent of the query's sign.
    assert block_risk(GENERAL, 0, 1.2, 20) == pytest.approx(signal + 1.44 * (signal + 0.25) / 20)
    tiny = block_risk(GENERAL, 1e-9 * A, 1.2, 20)
    assert tiny == pytest.approx(block_risk(GENERAL, 0, 1.2, 20), rel=1e-8)
    # One example has all the weight, whatever the scores.
    assert block_risk(GENERAL, A, 1.2, 1) == pytest.approx(signal + 1.44 * (signal + 0.25))


def test_values_and_lengths_broadcast():
    table = block_risk(GENERAL, A, [[0.5], [1.2]], [20, 100, 20])
    assert table.shape == (2, 3)
    assert table[1, 1] == pytest.approx(block_risk(GENERAL, A, 1.2, 100), rel=1e-12)
    assert table[0, 0] == table[0, 2]
    assert isinstance(block_risk(GENERAL, A, 1.2, 100), float)


@pytest.mark.parametrize("query", [None, QUERY])
def test_long_prompts_follow_the_expansion(query):
    # At these small scores the terms left out are of relative order 1/n.
    formula = icl.head_expansion(GENERAL, [A.T / 2], [1.2], query_cov=query)
    n = 10**6
    limit = float(formula.expr.subs(symbols.n, 10**30))
    order = (block_risk(GENERAL, A / 2, 1.2, n, query_cov=query) - limit) * n
    expected = (float(formula.subs(n=n).expr) - limit) * n
    assert order == pytest.approx(expected, rel=1e-4)
    assert order != pytest.approx(WRONG * expected, rel=1e-3)


def test_the_lattice_has_converged(monkeypatch):
    values = [block_risk(LARGE, LARGE_A, 1.3, n) for n in (5, 500)]
    monkeypatch.setattr("numeric.finite_prompt.lattice_step", lambda *a: 0.4 * lattice_step(*a))
    finer = [block_risk(LARGE, LARGE_A, 1.3, n) for n in (5, 500)]
    assert values == pytest.approx(finer, rel=1e-10)


# -- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"A": np.eye(3)}, "shape"),
        ({"A": [1.0, 2.0]}, "shape"),
        ({"A": np.array([[np.nan, 0], [0, 1]])}, "NaN"),
        ({"A": "eye"}, "not numeric"),
        ({"b": math.inf}, "infinite"),
        ({"prompt_length": 0}, "at least 1"),
        ({"prompt_length": 2.5}, "not an integer"),
        ({"query_cov": [[1, 2], [2, 1]]}, "not positive"),
        ({"query_cov": 0}, "no query"),
        ({"query_cov": symbols.noise_var}, "symbols"),
        ({"task": icl.LinearRegression(dim=symbols.d)}, "still contains d"),
        ({"task": 5}, "pass icl.LinearRegression"),
    ],
)
def test_bad_input(arguments, message):
    given = {"task": GENERAL, "A": A, "b": 1.2, "prompt_length": 20, **arguments}
    for function in (block_risk, block_risk_gradient):
        with pytest.raises(InvalidInput, match=message):
            function(**given)


def test_scores_beyond_the_quadrature_are_refused():
    with pytest.raises(OutOfDomain, match="may be at most"):
        block_risk(GENERAL, 1e3 * A, 1.2, 20)


def test_the_gradient_is_that_of_one_head():
    with pytest.raises(InvalidInput, match="one head at one prompt length"):
        block_risk_gradient(GENERAL, A, 1.2, [20, 30])
