"""Expansions in 1/n, the valley's constant, its optimum and drift, and optimal linear attention."""

import math

import numpy as np
import pytest
import sympy as sp
from scipy import optimize

import icltheory as icl
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.symbols import b, d, n, noise_var, t
from numeric import block_risk

SYMBOLIC = icl.LinearRegression(dim=d, noise_var=noise_var)
ONE = icl.SoftmaxAttention(heads=1)
SIGMA = sp.Matrix([[1, sp.Rational(3, 10)], [sp.Rational(3, 10), sp.Rational(4, 5)]])
COEFS = sp.Matrix([[9, -2], [-2, 5]]) / 10
QUERY = sp.Matrix([[7, 1], [1, 12]]) / 10
GENERAL = icl.LinearRegression(dim=2, noise_var=0.25, feature_cov=SIGMA, coef_cov=COEFS)


def floats(matrix):
    return np.array(matrix.tolist(), dtype=float)


def at_minimum(formula):
    """The minimiser of a formula that has one."""
    assert formula.minimizer is not None
    return dict(formula.minimizer.items())


# -- the valley ----------------------------------------------------------------------------------------


def test_valley_is_the_scalar_head_at_the_inverse_value():
    for task in (SYMBOLIC, GENERAL):
        scalar = icl.loss_constant(task, ONE).expr.subs(t, 1 / b**2)
        ratio = icl.valley_constant(task).expr / scalar
        for value in (1.6, 2.3, 5):
            point = {b: sp.Rational(str(value)), d: 7, noise_var: sp.Rational(1, 3)}
            assert sp.N(ratio.subs(point), 30) == pytest.approx(1, abs=1e-25)


@pytest.mark.parametrize("query", [SIGMA, QUERY])
def test_valley_against_the_determinant_formula(query):
    formula = icl.valley_constant(GENERAL, query_cov=query)
    inverse = SIGMA.inv()
    for square in (sp.Rational(7, 2), 6, 40):
        determinant = (sp.eye(2) - 2 * inverse * query / square).det()
        mean = (COEFS * (query.inv() - 2 * inverse / square).inv()).trace()
        label = (SIGMA * COEFS).trace() + sp.Rational(1, 4)
        expected = (square * label + mean) / sp.sqrt(determinant)
        assert sp.N(formula.expr.subs(b, sp.sqrt(square)) / expected, 20) == pytest.approx(1, 1e-15)
        wrong = formula.expr.subs(b, sp.sqrt(square * sp.Rational(103, 100)))
        assert sp.N(wrong / expected, 20) != pytest.approx(1, 1e-3)


@pytest.mark.parametrize("query", [None, QUERY])
def test_valley_is_the_limit_of_the_exact_risk(query):
    square = 12
    constant = float(icl.valley_constant(GENERAL, query_cov=query).expr.subs(b, math.sqrt(square)))
    inverse = np.linalg.inv(floats(SIGMA))
    scaled = [
        length * block_risk(GENERAL, inverse / square**0.5, square**0.5, length, query_cov=query)
        for length in (10**4, 10**6)
    ]
    assert scaled[1] == pytest.approx(constant, rel=3e-5)
    # The gap is of order 1/n, and a constant 3 % off would be seen.
    assert abs(scaled[0] - constant) > 50 * abs(scaled[1] - constant)
    assert scaled[1] != pytest.approx(1.03 * constant, rel=1e-2)


def test_reference_optima():
    for dim, square in ((1, 4.3027756), (2, 5.2360680), (5, 8.1400549), (25, 28.0369864)):
        best = icl.optimal_valley_constant(icl.LinearRegression(dim=dim))
        assert float(at_minimum(best)[b] ** 2) == pytest.approx(square, abs=6e-8)
    five = icl.optimal_valley_constant(icl.LinearRegression(dim=5))
    assert float(five) == pytest.approx(19.1555369, abs=6e-8)
    noisy = icl.optimal_valley_constant(icl.LinearRegression(dim=5, noise_var=0.1))
    assert float(at_minimum(noisy)[b] ** 2) == pytest.approx(8.0515682, abs=6e-8)
    assert float(noisy) == pytest.approx(20.8011312, abs=6e-8)


@pytest.mark.parametrize("task", [SYMBOLIC, GENERAL])
def test_optimum_agrees_with_the_optimal_loss_constant(task):
    mine, theirs = icl.optimal_valley_constant(task), icl.optimal_loss_constant(task, ONE)
    for dim, noise in ((1, 0), (5, sp.Rational(1, 4)), (30, 2)):
        point = {d: dim, noise_var: noise}
        ratio = (mine.expr / theirs.expr).subs(point)
        assert sp.N(ratio, 30) == pytest.approx(1, abs=1e-25)
        product = (at_minimum(mine)[b] ** 2 * at_minimum(theirs)[t]).subs(point)
        assert sp.N(product, 30) == pytest.approx(1, abs=1e-25)


@pytest.mark.parametrize("query", [QUERY, [2, 0.5], 3 * SIGMA])
def test_optimum_for_another_query(query):
    formula = icl.valley_constant(GENERAL, query_cov=query)
    best = icl.optimal_valley_constant(GENERAL, query_cov=query)
    function = sp.lambdify(b, formula.expr)
    start = float(at_minimum(best)[b])
    found = optimize.minimize_scalar(
        function, bounds=(0.98 * start, 2 * start), method="bounded", options={"xatol": 1e-10}
    )
    assert float(best) == pytest.approx(found.fun, rel=1e-12)
    assert start == pytest.approx(found.x, rel=1e-6)


def test_endpoint_of_infinite_prompt_training():
    # Balanced and Sigma = I: b^2 = sqrt(d).
    formula = icl.endpoint_constant(SYMBOLIC)
    expected = icl.valley_constant(SYMBOLIC).expr.subs(b, d ** sp.Rational(1, 4))
    difference = sp.N((formula.expr / expected).subs({d: 9, noise_var: 1}), 20)
    assert difference == pytest.approx(1, 1e-15)
    # With Sigma_ij = 0.5^|i-j| the balanced end has b^2 = 3.92994204.
    cov = [[0.5 ** abs(i - j) for j in range(5)] for i in range(5)]
    task = icl.LinearRegression(dim=5, feature_cov=cov)
    expected = icl.valley_constant(task).expr.subs(b, math.sqrt(3.92994204))
    assert float(icl.endpoint_constant(task)) == pytest.approx(float(expected), rel=1e-7)
    # The balance moves it: b^2 - |A|^2 = balance.
    square = 8.0
    balance = square - 5 / square
    moved = float(icl.endpoint_constant(icl.LinearRegression(dim=5), balance))
    direct = icl.valley_constant(icl.LinearRegression(dim=5)).expr.subs(b, math.sqrt(square))
    assert moved == pytest.approx(float(direct), rel=1e-12)
    with pytest.raises(OutOfDomain, match=r"b\^2 = 1\.41"):
        icl.endpoint_constant(icl.LinearRegression(dim=2))


@pytest.mark.parametrize("task", [icl.LinearRegression(dim=5, noise_var=0.3), GENERAL])
def test_drift_equation(task):
    # (1 + |Sigma^{-1}|^2 / b^4) b' = -F'(b)/(2n), with a difference quotient for F'.
    drift, constant = icl.valley_drift(task), icl.valley_constant(task)
    inverse = np.linalg.inv(floats(task.feature_cov.to_matrix()))
    function = sp.lambdify(b, constant.expr)
    for value in (1.8, 2.6, 4.0):
        slope = (function(value + 1e-5) - function(value - 1e-5)) / 2e-5
        expected = -slope / (2 * 500) / (1 + np.sum(inverse**2) / value**4)
        found = float(drift.subs(b=value, n=500).expr)
        assert found == pytest.approx(expected, rel=1e-7)
        assert 1.03 * found != pytest.approx(expected, rel=1e-3)
    best = at_minimum(icl.optimal_valley_constant(task))[b]
    assert float(drift.expr.subs({b: best, n: 1})) == pytest.approx(0, abs=1e-12)


# -- any heads -----------------------------------------------------------------------------------------


def test_consistent_heads_have_their_constant():
    scores, values = [sp.Rational(1, 2), -sp.Rational(1, 5)], [1, -sp.Rational(5, 2)]
    task = icl.LinearRegression(dim=4, noise_var=0.3)
    formula = icl.head_expansion(task, scores, values)
    assert sp.limit(formula.expr, n, sp.oo) == 0
    constant = icl.head_constant(task, scores, values)
    assert float(formula.expr.subs(n, 1)) == pytest.approx(float(constant), rel=1e-14)


def test_one_head_against_the_exact_risk():
    # tau^2 = 0.04, where the next term is of relative order 1/n.
    task = icl.LinearRegression(dim=3, noise_var=0.2, coef_cov=1)
    formula = icl.head_expansion(task, [0.2], [1.5])
    limit = float(formula.expr.subs(n, 10**40))
    for length in (10**4, 10**5):
        exact = length * (block_risk(task, 0.2, 1.5, length) - limit)
        order = length * (float(formula.expr.subs(n, length)) - limit)
        assert exact == pytest.approx(order, rel=5 / length)
        assert exact != pytest.approx(1.03 * order, rel=1e-2)


def test_inconsistent_heads_against_simulation():
    prompts, length = 60_000, 100
    scores = [np.array([[0.4, 0.1], [-0.2, 0.4]]), np.array([[-0.1, 0.2], [0.0, -0.2]])]
    values, rng = [1.6, -0.9], np.random.default_rng(4)
    formula = icl.head_expansion(GENERAL, scores, values, query_cov=QUERY)
    limit = float(formula.expr.subs(n, 10**40))
    order = length * (float(formula.expr.subs(n, length)) - limit)
    root = np.linalg.cholesky(floats(SIGMA)).T
    theta = rng.standard_normal((prompts, 2)) @ np.linalg.cholesky(floats(COEFS)).T
    x = rng.standard_normal((prompts, length, 2)) @ root
    y = np.einsum("pnd,pd->pn", x, theta) + 0.5 * rng.standard_normal((prompts, length))
    query = rng.standard_normal((prompts, 2)) @ np.linalg.cholesky(floats(QUERY)).T
    read, error = 0.0, -query
    for score, value in zip(scores, values, strict=True):
        dual = query @ score
        weight = np.exp(np.einsum("pnd,pd->pn", x, dual))
        read = read + value * np.sum(weight * y, axis=1) / weight.sum(axis=1)
        error = error + value * dual @ floats(SIGMA)
    # Paired with the infinite prompt, whose risk is known.
    residual = np.sum(theta * error, axis=1)
    assert np.mean(residual**2) == pytest.approx(limit, rel=0.1)
    sampled = length * ((read - np.sum(theta * query, axis=1)) ** 2 - residual**2)
    deviation = sampled.std() / math.sqrt(prompts)
    assert 5 * deviation < 0.15 * order
    assert abs(sampled.mean() - order) < 5 * deviation
    # With another noise the check fails.
    noisier = icl.LinearRegression(dim=2, noise_var=0.5, feature_cov=SIGMA, coef_cov=COEFS)
    wrong = icl.head_expansion(noisier, scores, values, query_cov=QUERY).expr.subs(n, length)
    assert abs(sampled.mean() - length * (float(wrong) - limit)) > 5 * deviation


def test_symbolic_dimension_agrees_with_explicit():
    formula = icl.head_expansion(SYMBOLIC, [0.3, -0.2], [1, 2])
    explicit = icl.head_expansion(
        icl.LinearRegression(dim=3, noise_var=0.5), [0.3 * sp.eye(3), -0.2 * sp.eye(3)], [1, 2]
    )
    value = formula.expr.subs({d: 3, noise_var: sp.Rational(1, 2), n: 10})
    assert float(value) == pytest.approx(float(explicit.expr.subs(n, 10)), rel=1e-14)


# -- linear attention ----------------------------------------------------------------------------------


def test_isotropic_linear_optimum():
    mine = icl.optimal_linear_attention(SYMBOLIC)
    theirs = icl.optimal_finite_prompt_risk(SYMBOLIC, icl.LinearAttention())
    assert sp.cancel(mine.expr - theirs.expr) == 0


def test_linear_optimum_for_unit_coefficients():
    # Gamma_n = (1 + 1/n) Sigma + ((tr Sigma + noise)/n) I and risk tr Sigma - tr(Sigma^2 Gamma^{-1}).
    task = icl.LinearRegression(dim=2, noise_var=0.25, feature_cov=SIGMA, coef_cov=1)
    best = icl.optimal_linear_attention(task)
    label = SIGMA.trace() + sp.Rational(1, 4)
    gamma = (1 + 1 / n) * SIGMA + label / n * sp.eye(2)
    expected = SIGMA.trace() - (SIGMA**2 * gamma.inv()).trace()
    assert sp.cancel(best.expr - expected) == 0
    (matrix,) = at_minimum(best).values()
    assert (sp.Matrix(matrix) - gamma.inv()).applyfunc(sp.cancel) == sp.zeros(2)


def test_linear_optimum_against_simulation():
    length, prompts, rng = 6, 400_000, np.random.default_rng(8)
    best = icl.optimal_linear_attention(GENERAL, query_cov=QUERY).subs(n=length)
    matrix = floats(next(iter(at_minimum(best).values())))
    theta = rng.standard_normal((prompts, 2)) @ np.linalg.cholesky(floats(COEFS)).T
    x = rng.standard_normal((prompts, length, 2)) @ np.linalg.cholesky(floats(SIGMA)).T
    y = np.einsum("pnd,pd->pn", x, theta) + 0.5 * rng.standard_normal((prompts, length))
    query = rng.standard_normal((prompts, 2)) @ np.linalg.cholesky(floats(QUERY)).T
    state = np.einsum("pn,pnd->pd", y, x) / length

    def loss(gain):
        return (np.sum((state @ gain) * query, axis=1) - np.sum(theta * query, axis=1)) ** 2

    here = loss(matrix)
    deviation = here.std() / math.sqrt(prompts)
    assert 5 * deviation < 0.03 * float(best)
    assert abs(here.mean() - float(best)) < 5 * deviation
    assert abs(here.mean() - 1.03 * float(best)) > 5 * deviation
    # The sample's own derivative in every direction vanishes within its error.
    for i in range(2):
        for j in range(2):
            step = np.zeros((2, 2))
            step[i, j] = 1e-3
            slope = (loss(matrix + step) - loss(matrix - step)) / 2e-3
            assert abs(slope.mean()) < 5 * slope.std() / math.sqrt(prompts)
            off = (loss(1.1 * matrix + step) - loss(1.1 * matrix - step)) / 2e-3
            if i == j:
                assert abs(off.mean()) > 5 * off.std() / math.sqrt(prompts)


# -- bad input -----------------------------------------------------------------------------------------


def test_refusals():
    with pytest.raises(OutOfDomain, match="at least 1/2"):
        icl.head_expansion(icl.LinearRegression(dim=2), [0.8], [1])
    with pytest.raises(InvalidInput, match="no query"):
        icl.valley_constant(GENERAL, query_cov=0)
    task = icl.LinearRegression(dim=2, noise_var=noise_var)
    with pytest.raises(InvalidInput, match="polynomial with symbolic"):
        icl.optimal_valley_constant(task, query_cov=[1, 2])
    with pytest.raises(InvalidInput, match="contains b"):
        icl.valley_constant(icl.LinearRegression(dim=2, noise_var=b))
    with pytest.raises(InvalidInput, match="balance"):
        icl.endpoint_constant(GENERAL, balance="none")
    with pytest.raises(OutOfDomain):
        icl.valley_constant(GENERAL).subs(b=1)
