"""Loss constants of explicit heads on arrays: exact formulas, autograd, quadrature and simulation."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

import icltheory as icl
import numeric

ONE = icl.SoftmaxAttention(heads=1)
WRONG = 1.03


def close(value, reference, tolerance):
    """Equal to `tolerance` (relative), which three per cent more would not be."""
    good = abs(value - reference) <= tolerance * abs(reference)
    return good and abs(WRONG * value - reference) > tolerance * abs(reference)


def covariance(rng, dim):
    root = rng.normal(size=(dim, dim))
    return root @ root.T / dim + 0.3 * np.eye(dim)


def consistent(rng, dim, heads, sigma=None, size=0.3):
    """Random scores and values with sum v A = Sigma^{-1} and a finite constant."""
    sigma = np.eye(dim) if sigma is None else sigma
    scores = size * rng.standard_normal((heads, dim, dim)) / math.sqrt(dim)
    values = np.where(rng.random(heads) < 0.5, -1, 1) * rng.uniform(0.5, 3, heads)
    rest = np.linalg.inv(sigma) - np.einsum("h,hij->ij", values[:-1], scores[:-1])
    scores[-1] = rest / values[-1]
    root = np.linalg.cholesky(sigma)
    norm = max(np.linalg.norm(root.T @ a @ root, 2) for a in scores)
    shrink = min(1.0, 0.6 / norm)
    return shrink * scores, values / shrink


def by_determinants(scores, values, sigma, moment, noise):
    """The constant as a torch expression: whitened nothing, decomposed nothing."""
    label_var = torch.trace(sigma @ moment) + noise
    inverse = torch.linalg.inv(sigma)
    total = torch.zeros((), dtype=torch.float64)
    for first, v in zip(scores, values, strict=True):
        for second, w in zip(scores, values, strict=True):
            form = first @ sigma @ second.T
            form = (form + form.T) / 2
            signal = first @ sigma @ moment @ sigma @ second.T
            precision = inverse - 2 * form
            power = torch.sqrt(torch.linalg.det(precision) * torch.linalg.det(sigma))
            mean = torch.trace(signal @ torch.linalg.inv(precision))
            total = total + v * w * (mean + label_var) / power
    return total


def setting(seed, dim, heads):
    rng = np.random.default_rng(seed)
    sigma, moment = covariance(rng, dim), covariance(rng, dim)
    noise = float(rng.uniform(0, 1))
    task = icl.LinearRegression(dim, noise, feature_cov=sigma, coef_cov=moment)
    return rng, task, sigma, moment, noise, consistent(rng, dim, heads, sigma)


# -- value -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dim", "heads"), [(1, 2), (2, 3), (3, 2)])
def test_equals_the_exact_formula(dim, heads):
    _, task, _, _, _, (scores, values) = setting(dim, dim, heads)
    exact = float(icl.head_constant(task, list(scores), list(values)))
    assert close(numeric.head_constant(task, scores, values), exact, 1e-12)


@settings(max_examples=15)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_value_and_gradient_against_autograd(dim, heads, seed):
    _, task, sigma, moment, noise, (scores, values) = setting(seed, dim, heads)
    leaves = [torch.tensor(x, requires_grad=True) for x in (scores, values)]
    wanted = by_determinants(leaves[0], leaves[1], torch.tensor(sigma), torch.tensor(moment), noise)
    wanted.backward()
    found = numeric.head_constant(task, scores, values, gradient=True)
    assert close(found.value, float(wanted.detach()), 1e-10)
    for got, leaf in zip((found.score_matrices, found.values), leaves, strict=True):
        assert leaf.grad is not None
        reference = leaf.grad.numpy()
        scale = np.abs(reference).max()
        np.testing.assert_allclose(got, reference, rtol=1e-9, atol=1e-9 * scale)
        assert not np.allclose(WRONG * got, reference, rtol=1e-9, atol=1e-3 * scale)


def test_gradient_against_richardson_differences():
    rng, task, _, _, _, (scores, values) = setting(4, 3, 3)
    found = numeric.head_constant(task, scores, values, gradient=True)

    def along(step, direction, weights):
        moved = scores + step * direction, values + step * weights
        return numeric.head_constant(task, *moved, consistent=False)

    for _ in range(4):
        direction, weights = 0.1 * rng.standard_normal(scores.shape), rng.standard_normal(3)
        slopes = [
            (along(h, direction, weights) - along(-h, direction, weights)) / (2 * h)
            for h in (0.02, 0.01, 0.005, 0.0025)
        ]
        for order in (4, 16, 64):
            slopes = [(order * b - a) / (order - 1) for a, b in itertools.pairwise(slopes)]
        got = np.sum(found.score_matrices * direction) + found.values @ weights
        assert close(got, slopes[0], 1e-8)


def test_one_dimension_against_quadrature():
    task = icl.LinearRegression(1, 0.4, feature_cov=2, coef_cov=0.7)
    scores, values = [0.15, -0.25, 0.05], [2.0, -0.5, 1.5]
    values = (np.array(values) / (2 * np.dot(scores, values))).tolist()

    def integrand(x):
        q = [a * x for a in scores]
        kernel = sum(
            v * w * mpmath.exp(2 * p * r) * (p * r * 2 * 0.7 * 2 + 1.4 + 0.4)
            for v, p in zip(values, q, strict=True)
            for w, r in zip(values, q, strict=True)
        )
        return kernel * mpmath.npdf(x, 0, mpmath.sqrt(2))

    wanted = float(mpmath.quad(integrand, [-40, -10, -3, 0, 3, 10, 40]))
    matrices = np.array(scores)[:, None, None]
    assert close(numeric.head_constant(task, matrices, values), wanted, 1e-12)
    assert close(numeric.head_constant(task, np.multiply(2, scores), values), wanted, 1e-12)


def test_against_sampled_queries():
    _, task, _, _, _, (scores, values) = setting(11, 3, 3)
    scores, values = 0.5 * scores, 2 * values
    layer = icl.SoftmaxAttention(scores=list(scores), values=list(values))
    sampled = numeric.monte_carlo_constant(task, layer, prompts=200_000, seed=3)
    exact = numeric.head_constant(task, scores, values)
    assert abs(exact - sampled.value) < 5 * sampled.standard_error
    assert abs(WRONG * exact - sampled.value) > 5 * sampled.standard_error


@pytest.mark.parametrize("size", [0.3, 1e-2, 1e-4, 1e-7])
def test_opposite_heads_with_small_scores_keep_their_digits(size):
    task = icl.LinearRegression(4, 0.5, feature_cov=2.0, coef_cov=0.3)
    exact = float(icl.pair_constant(task).subs(t=sp.Rational(str(size)) ** 2))
    scores = size / 2 * np.array([np.eye(4), -np.eye(4)])
    weights = np.array([0.5, -0.5]) / size
    found = numeric.head_constant(task, scores, weights, gradient=True)
    assert close(found.value, exact, 1e-13)
    # along the family the derivative is that of the closed form in t, times dt/dk
    slope = np.sum(found.score_matrices * scores) - np.sum(found.values * weights)
    exact = (
        2 * size**2 * float(icl.pair_constant(task).diff("t").subs(t=sp.Rational(str(size)) ** 2))
    )
    assert abs(slope - exact) < 1e-12 * (1 + abs(exact))


def test_leading_axes_unused_heads_and_prior_mean():
    task = icl.LinearRegression(2, 0.3)
    rng = np.random.default_rng(0)
    layers = [consistent(rng, 2, 3) for _ in range(6)]
    scores = np.array([a for a, _ in layers]).reshape(2, 3, 3, 2, 2)
    values = np.array([v for _, v in layers]).reshape(2, 3, 3)
    found = numeric.head_constant(task, scores, values, gradient=True)
    assert found.value.shape == (2, 3)
    assert found.score_matrices.shape == scores.shape
    for i in np.ndindex(2, 3):
        one = numeric.head_constant(task, scores[i], values[i], gradient=True)
        assert close(found.value[i], one.value, 1e-14)
        np.testing.assert_allclose(found.score_matrices[i], one.score_matrices, rtol=1e-12)
        np.testing.assert_allclose(found.values[i], one.values, rtol=1e-12)
    same = numeric.head_constant(task, np.stack([0.2 * np.eye(2), 5 * np.eye(2)]), [5, 0])
    assert close(same, numeric.head_constant(task, [0.2], [5]), 1e-14)
    around = icl.LinearRegression(2, 0.3, coef_mean=[1, -1])
    moment = icl.LinearRegression(2, 0.3, coef_cov=[[1.5, -1], [-1, 1.5]])
    wanted = numeric.head_constant(moment, *layers[0])
    assert close(numeric.head_constant(around, *layers[0]), wanted, 1e-14)


def test_scalar_heads_differentiate_in_their_scales():
    task = icl.LinearRegression(3, 0.2, feature_cov=[2, 1, 0.5])
    found = numeric.head_constant(task, [0.3, -0.2], [2, -2], gradient=True)
    step = 1e-6
    for h in range(2):
        shift = step * np.eye(2)[h]
        ends = [
            numeric.head_constant(task, [0.3, -0.2] + s * shift, [2, -2], consistent=False)
            for s in (1, -1)
        ]
        assert close(found.score_matrices[h], (ends[0] - ends[1]) / (2 * step), 1e-7)


# -- lower bound and best values ---------------------------------------------------------------------


@given(st.integers(1, 6), st.integers(1, 5), st.floats(0.05, 1.5), st.integers(0, 10**6))
def test_any_heads_stay_above_the_lower_bound(dim, heads, size, seed):
    rng, task, sigma, _, _, _ = setting(seed, dim, 1)
    scores, values = consistent(rng, dim, heads, sigma, size)
    bound = float(icl.lower_bound(task))
    assert numeric.head_constant(task, scores, values) > bound * (1 - 1e-12)


@pytest.mark.parametrize("heads", [2, 3, 4])
def test_search_over_full_matrices_approaches_the_bound(heads):
    dim = 3
    task = icl.LinearRegression(dim, 0.5)
    bound = float(icl.lower_bound(task))
    start = consistent(np.random.default_rng(heads), dim, heads, size=0.6)
    cut, seen = (heads - 1) * dim * dim, []

    def objective(x):
        """Values and all scores but the last, which consistency fixes."""
        values = x[cut:]
        scores = np.empty((heads, dim, dim))
        scores[:-1] = x[:cut].reshape(-1, dim, dim)
        scores[-1] = (np.eye(dim) - np.tensordot(values[:-1], scores[:-1], 1)) / values[-1]
        try:
            found = numeric.head_constant(task, scores, values, gradient=True)
        except icl.OutOfDomain:
            return 1e6, np.zeros_like(x)
        seen.append(found.value)
        last = found.score_matrices[-1]
        by_score = found.score_matrices[:-1] - (values[:-1] / values[-1])[:, None, None] * last
        by_value = found.values.copy()
        by_value -= np.einsum("hij,ij->h", scores, last) / values[-1]
        return found.value, np.concatenate([by_score.ravel(), by_value])

    x = np.concatenate([start[0][:-1].ravel(), start[1]])
    optimize.minimize(objective, x, jac=True, method="L-BFGS-B", options={"maxiter": 400})
    assert bound * (1 - 1e-10) < min(seen) < 1.01 * bound
    assert seen[0] > 1.2 * bound


@pytest.mark.parametrize("seed", range(3))
def test_best_values_of_matrix_heads(seed):
    rng, task, _, _, _, _ = setting(seed, 2, 1)
    inverse = np.linalg.inv(np.array(task.feature_cov.to_matrix().evalf().tolist(), dtype=float))
    scores = 0.2 * rng.standard_normal((6, 2, 2)) / 2
    scores[3:] += 0.15 * inverse
    best = numeric.optimal_values(task, scores)
    combined = np.tensordot(best.values, scores, 1)
    np.testing.assert_allclose(combined, inverse, atol=1e-10)
    assert close(best.constant, numeric.head_constant(task, scores, best.values), 1e-12)
    # two free directions remain: no step along them is better
    columns = scores.reshape(6, -1).T
    free = np.linalg.svd(columns)[2][4:]
    gradient = numeric.head_constant(task, scores, best.values, gradient=True).values
    assert np.abs(free @ gradient).max() < 1e-8 * np.abs(gradient).max()
    for direction in free:
        moved = numeric.head_constant(task, scores, best.values + 0.1 * direction)
        assert moved > best.constant > float(icl.lower_bound(task))


def test_best_values_equal_the_exact_ones():
    task = icl.LinearRegression(5, 0.5)
    for scores in ([0.3], [0.2, -0.2], [0.2, -0.2, 0.4], [0.3, 0.1, -0.4]):
        best, exact = numeric.optimal_values(task, scores), icl.optimal_values(task, scores)
        assert exact.minimizer is not None
        assert close(best.constant, float(exact), 1e-12)
        np.testing.assert_allclose(
            best.values, [float(x) for x in exact.minimizer.values()], rtol=1e-9
        )
    small = numeric.optimal_values(task, [1e-3, -1e-3, 2e-3, 0])
    assert float(icl.lower_bound(task)) <= small.constant < 1.0001 * float(icl.lower_bound(task))
    shared = numeric.optimal_values(task, [0.3, 0.3])
    np.testing.assert_allclose(shared.values, [1 / 0.6, 1 / 0.6], rtol=1e-9)


def test_more_heads_never_hurt():
    task, scores = icl.LinearRegression(4, 0.3), [0.3, -0.1, 0.45, -0.3, 0.05]
    constants = [numeric.optimal_values(task, scores[:h]).constant for h in range(1, 6)]
    assert all(b < a for a, b in itertools.pairwise(constants))
    best_head = float(icl.optimal_loss_constant(task, ONE))
    assert constants[0] > best_head > constants[1] > float(icl.lower_bound(task))


# -- simulation --------------------------------------------------------------------------------------

DIM, NOISE, SCALE = 6, 0.2, 0.2
BASE = icl.LinearRegression(DIM, NOISE)


def projector(*axes):
    return np.diag(np.isin(np.arange(DIM), axes).astype(float))


def families():
    """Scores in units of SCALE, values in units of 1/SCALE, and the derived constant."""
    eye, zero = np.eye(DIM), np.zeros((DIM, DIM))
    halves = projector(0, 1, 2), projector(3, 4, 5)
    pairs = projector(0, 1), projector(2, 3), projector(4, 5)
    signs = (1, 1, -1)
    return {
        "symmetric": ([eye, -eye], [0.5, -0.5], icl.pair_constant(BASE)),
        "one-sided": ([eye, zero], [1, -1], icl.pair_constant(BASE, "one-sided")),
        "block": ([halves[0], -halves[1]], [1, -1], icl.pair_constant(BASE, "block")),
        "H = 3, equal signs": (list(pairs), [1, 1, 1], icl.equal_block_constant(BASE, 3)),
        "H = 3, mixed signs": (
            [s * p for s, p in zip(signs, pairs, strict=True)],
            list(signs),
            icl.block_constant(BASE, [2, 2, 2], signs),
        ),
    }


def test_families_and_sign_patterns_by_simulation():
    """n * risk of real softmax layers at n = 2000, averaged over coefficients and noise exactly.

    The leading error given the query has a known mean, which is subtracted: it carries the variation
    between queries. All layers read the same prompts; each distinct score matrix is used once.
    """
    n, prompts, batch = 2000, 14_000, 40
    layers = families()
    distinct = []
    for scores, _, _ in layers.values():
        distinct += [a for a in scores if not any(np.array_equal(a, b) for b in distinct)]
    table = SCALE * np.array(distinct)
    weights_of = {}
    for name, (scores, values, _) in layers.items():
        row = np.zeros(len(distinct))
        for a, v in zip(scores, values, strict=True):
            row[next(i for i, b in enumerate(distinct) if np.array_equal(a, b))] += v / SCALE
        weights_of[name] = row
    rng = np.random.default_rng(5)
    samples = {name: [] for name in layers}
    for _ in range(prompts // batch):
        x = rng.standard_normal((batch, n, DIM))
        query = rng.standard_normal((batch, DIM))
        dual = np.einsum("hij,bi->bjh", table, query)
        weights = np.exp(x @ dual)  # scores below 10: no overflow
        weights /= weights.sum(axis=1, keepdims=True)
        u = np.einsum("bih,bil->bhl", dual, dual)
        kernel = np.exp(u) * (u / DIM + 1 + NOISE)
        for name, row in weights_of.items():
            read = weights @ row
            error = query - np.einsum("bn,bni->bi", read, x)
            risk = (error**2).sum(axis=1) / DIM + NOISE * (read**2).sum(axis=1)
            leading = np.einsum("h,bhl,l->b", row, kernel, row)
            samples[name].append(n * risk - leading)
    for name, (_, _, formula) in layers.items():
        constant = float(formula.subs(t=SCALE**2))
        values = np.concatenate(samples[name]) + constant
        mean, error = values.mean(), values.std() / math.sqrt(len(values))
        assert 5 * error < 0.03 * constant, name
        assert abs(mean - constant) < 5 * error, name
        assert abs(mean - 1.06 * constant) > 5 * error, name


def test_scores_that_ignore_the_covariance_stall_at_the_floor():
    """Conditional risk of two heads A = +-k I at the best values, correlated features."""
    task = icl.LinearRegression(3, 0.3, feature_cov=[2, 1, 0.5], coef_cov=sp.Rational(1, 3))
    scores = 0.2 * np.array([np.eye(3), -np.eye(3)])
    floor = icl.head_floor(task, icl.SoftmaxAttention(scores=[sp.eye(3)]))
    assert floor.minimizer is not None
    slope = float(next(iter(floor.minimizer.values())))
    values = slope / 0.4 * np.array([1, -1])
    variance = numeric.head_constant(task, scores, values, consistent=False)
    sigma = np.diag([2, 1, 0.5])
    rng, prompts = np.random.default_rng(2), 4000
    for n in (500, 1000):
        x = rng.standard_normal((prompts, n, 3)) * np.sqrt(np.diag(sigma))
        query = rng.standard_normal((prompts, 3)) * np.sqrt(np.diag(sigma))
        weights = np.exp(np.einsum("bni,hij,bj->bnh", x, scores, query))
        weights = weights / weights.sum(axis=1, keepdims=True) @ values
        error = query - np.einsum("bn,bni->bi", weights, x)
        risk = (error**2).sum(axis=1) / 3 + 0.3 * (weights**2).sum(axis=1)
        limit = ((query - slope * query @ sigma) ** 2).sum(axis=1) / 3  # its mean is the floor
        samples = risk - limit + float(floor)
        found, error = samples.mean(), samples.std() / math.sqrt(prompts)
        # beyond the floor: the variance, and a shift of the mean times the bias, both of order 1/n
        wanted, allowed = float(floor) + variance / n, 0.3 * variance / n
        assert 5 * error + allowed < 0.06 * wanted
        assert abs(found - wanted) < 5 * error + allowed
        assert abs(found - 1.12 * wanted) > 5 * error + allowed


# -- exponents of the one-head risk ------------------------------------------------------------------


def slope_without_logarithms(log_n, log_risk):
    """-exponent of n, fitted together with a power of log n and its first corrections."""
    powers = np.stack([log_n, np.log(log_n), log_n**0, 1 / log_n, 1 / log_n**2], axis=1)
    return -float(np.linalg.solve(powers, log_risk)[0])


@pytest.mark.parametrize(("dim", "t"), [(1, 0.8), (3, 1.0), (2, 2.0)])
def test_exponent_beyond_the_bound_by_quadrature(dim, t):
    task, k = icl.LinearRegression(dim), math.sqrt(t)
    decades = np.array([10.0, 18.0, 32.0, 56.0, 100.0])
    risk = numeric.exact_risk(task, ONE, 10**decades, score_scale=k, value_scale=1 / k)
    nu = float(icl.risk_exponent().subs(t=sp.Rational(str(t))))
    found = slope_without_logarithms(decades * math.log(10), np.log(risk))
    assert close(found, nu, 3e-3)


def test_exponent_of_the_correction_by_quadrature():
    task = icl.LinearRegression(1)
    decades = np.array([8.0, 11.0, 15.0, 20.0, 27.0])
    for t in (0.4, 0.45):
        k = math.sqrt(t)
        scaled = 10**decades * numeric.exact_risk(
            task, ONE, 10**decades, score_scale=k, value_scale=1 / k
        )
        gap = np.abs(scaled - float(icl.loss_constant(task, ONE).subs(t=sp.Rational(str(t)))))
        found = slope_without_logarithms(decades * math.log(10), np.log(gap)) + 1
        assert close(found, float(icl.correction_exponent().subs(t=sp.Rational(str(t)))), 1e-3)
    # below 1/6 the next term is of order 1/n^2
    k = math.sqrt(0.05)
    lengths = np.array([1e4, 1e5])
    scaled = lengths * numeric.exact_risk(task, ONE, lengths, score_scale=k, value_scale=1 / k)
    gap = scaled - float(icl.loss_constant(task, ONE).subs(t=0.05))
    assert close(gap[0] / gap[1], 10, 5e-3)


# -- bad input ---------------------------------------------------------------------------------------

TASK = icl.LinearRegression(2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: numeric.head_constant(TASK, [0.5], [1.9]),
            icl.InvalidInput,
            "risk tends to 0.0025 ",
        ),
        (lambda: numeric.head_constant(TASK, [0.5], [1, 2]), icl.InvalidInput, "2 values for 1"),
        (lambda: numeric.head_constant(TASK, np.eye(2), [1]), icl.InvalidInput, r"shape \(2, 2\)"),
        (lambda: numeric.head_constant(TASK, [np.nan], [1]), icl.InvalidInput, "NaN"),
        (lambda: numeric.head_constant(TASK, ["0.5"], [2]), icl.InvalidInput, "not numeric"),
        (lambda: numeric.head_constant(TASK, [0.8], [1.25]), icl.OutOfDomain, "eigenvalue 0.64"),
        (
            lambda: numeric.head_constant(TASK, [0.3, 0.75], [2, 8 / 15]),
            icl.OutOfDomain,
            "head 1.*0.5625",
        ),
        (
            lambda: numeric.head_constant(icl.LinearRegression(2, local=(1, 1)), [0.5], [2]),
            icl.InvalidInput,
            "local",
        ),
        (
            lambda: numeric.head_constant(icl.LinearRegression(sp.Symbol("m")), [0.5], [2]),
            icl.InvalidInput,
            "still contains m",
        ),
        (lambda: numeric.optimal_values(TASK, [0.0]), icl.InvalidInput, "tends to at least 1 "),
        (
            lambda: numeric.optimal_values(TASK, [np.diag([0.1, 0]), np.diag([0.2, 0])]),
            icl.InvalidInput,
            "tends to at least 0.5 ",
        ),
        (lambda: numeric.optimal_values(TASK, [0.8]), icl.OutOfDomain, "below 1/2"),
        (lambda: numeric.optimal_values(TASK, 0.3), icl.InvalidInput, "shape"),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_floor_equals_the_exact_one():
    task = icl.LinearRegression(2, feature_cov=[2, 1], coef_cov=[1, 3])
    floor = float(icl.head_floor(task, icl.SoftmaxAttention(scores=[sp.eye(2)])))
    with pytest.raises(icl.InvalidInput, match=f"at least {floor:.6g} "):
        numeric.optimal_values(task, 0.1 * np.eye(2)[None])
