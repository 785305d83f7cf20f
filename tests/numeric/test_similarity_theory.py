"""Expected similarities: the reference values, closed forms, and similarities of simulated prompts."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

import icltheory as icl
import numeric
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.symbols import frobenius
from numeric import expected_similarity_of_errors, expected_similarity_of_weights
from numeric.similarity_theory import _cosines

GD = icl.GradientDescent(0.01)
SQUARES = (icl.OrdinaryLeastSquares(), None)
NEWTON_1 = icl.IterativeNewton(1 / frobenius)
NEWTON_2 = icl.IterativeNewton(2 / frobenius)
PAPER = {"points": 40, "d": 20, "include_empty_prefix": True}


def test_values_of_the_reference():
    zero = expected_similarity_of_errors(GD, 0, *SQUARES, **PAPER)
    assert zero.value == pytest.approx(0.506060827347, rel=1e-11)
    assert zero.value == pytest.approx(math.sqrt(21 / 82), rel=1e-12)
    without = expected_similarity_of_errors(GD, 0, *SQUARES, points=40, d=20)
    assert without.value == pytest.approx(0.487339717240, rel=1e-11)
    pair = expected_similarity_of_errors(GD, 8, GD, 32, **PAPER)
    assert pair.value == pytest.approx(0.9374390832, rel=1e-9)
    assert not pair.sampled


def test_zero_against_one_step_by_hand():
    # <r_A, r_B> per d are 1, 1 - eta n and 1 - 2 eta n + eta^2 n (n + d + 1): all rational.
    n = np.arange(41)
    one, two = 1 - 0.01 * n, 1 - 0.02 * n + 1e-4 * n * (n + 21)
    exact = one.sum() / math.sqrt(41 * two.sum())
    assert exact == pytest.approx(0.9589266030, rel=1e-9)
    assert expected_similarity_of_errors(GD, 0, GD, 1, **PAPER).value == pytest.approx(
        exact, rel=1e-11
    )


def test_random_starts():
    for start, printed in ((1 / 60, 0.9918), (1 / 3, 0.8660)):
        value = expected_similarity_of_errors(*SQUARES, *SQUARES, starts=(start, 0), **PAPER).value
        assert value == pytest.approx(1 / math.sqrt(1 + start), rel=1e-12)
        assert value == pytest.approx(printed, abs=6e-5)
    both = expected_similarity_of_errors(*SQUARES, *SQUARES, starts=(0.5, 0.5), **PAPER).value
    assert both == pytest.approx(1 / 1.5, rel=1e-12)


def test_newton_that_never_learns_one_example():
    late = expected_similarity_of_errors(NEWTON_2, 300, *SQUARES, samples=100, **PAPER)
    assert late.value == pytest.approx(math.sqrt(420 / 422), rel=1e-6)
    assert late.value == pytest.approx(0.99763, abs=6e-6)
    assert late.sampled


def test_map_between_newton_and_descent():
    grid = np.unique(np.round(2 ** (np.arange(100) / 8)).astype(int))
    table = {
        NEWTON_1: ([6, 8, 10, 12, 14, 16, 18], [9, 17, 38, 76, 166, 332, 664]),
        NEWTON_2: ([5, 8, 10, 14, 17], [9, 25, 54, 235, 664]),
    }
    for newton, (k, t) in table.items():
        similarity = expected_similarity_of_errors(newton, k, GD, grid, samples=200, **PAPER)
        assert similarity.value.shape == (len(k), len(grid))
        best = np.argmax(similarity.value, axis=1)
        # Within one grid point: neighbours differ by less than the sampling error.
        assert np.all(np.abs(best - np.searchsorted(grid, t)) <= 1)
        if newton is NEWTON_1:
            printed = [0.987, 0.991, 0.995, 0.997, 0.9985, 0.9992, 0.9996]
            np.testing.assert_allclose(similarity.value.max(axis=1), printed, atol=1.2e-3)


def test_successive_newton_steps():
    k = np.arange(1, 16)
    similarity = expected_similarity_of_errors(NEWTON_2, k, NEWTON_2, k, samples=200, **PAPER)
    np.testing.assert_allclose(np.diag(similarity.value), 1, rtol=1e-12)
    printed = [0.991, 0.990, 0.990, 0.990, 0.990, 0.991, 0.992]
    printed += [0.993, 0.994, 0.996, 0.997, 0.998, 0.998, 0.999]
    np.testing.assert_allclose(np.diag(similarity.value, 1), printed, atol=6e-4)


def test_standard_error_of_a_ratio():
    options = {"points": 6, "d": 4, "samples": 200}
    values, errors = zip(
        *(
            (s.value, s.error)
            for s in (
                expected_similarity_of_errors(NEWTON_1, 3, GD, 20, seed=seed, **options)
                for seed in range(60)
            )
        ),
        strict=True,
    )
    assert np.std(values) == pytest.approx(np.mean(errors), rel=0.35)


def _errors(x, y, queries, theta, solver, counts):
    """Errors of a solver on the query after every prefix, (B, N, steps)."""
    run = numeric.run_solvers(x, y, [solver], counts, prefixes=range(1, x.shape[1] + 1))
    weights = run.of(solver)
    return np.einsum("bnkd,bnd->bnk", weights - theta[:, None, None], queries)


def test_errors_of_simulated_prompts():
    rng = np.random.default_rng(0)
    dim, points, prompts = 20, 40, 200
    x = rng.standard_normal((prompts, points + 1, dim))
    theta = rng.standard_normal((prompts, dim))
    y = np.einsum("bnd,bd->bn", x, theta)
    shown, queries = x[:, :-1], x[:, 1:]
    one = _errors(shown, y[:, :-1], queries, theta, NEWTON_1, [8])
    two = _errors(shown, y[:, :-1], queries, theta, GD, [17])
    cosines = np.sum(one * two, axis=1)[:, 0]
    cosines /= np.linalg.norm(one[:, :, 0], axis=1) * np.linalg.norm(two[:, :, 0], axis=1)
    theory = expected_similarity_of_errors(NEWTON_1, 8, GD, 17, points=points, d=dim)
    error = math.hypot(cosines.std() / math.sqrt(prompts), theory.error)
    assert abs(cosines.mean() - theory.value) < 5 * error + 7e-4
    assert 5 * error < 4e-3
    # 1 - SimE is what differs between solvers: the control is a neighbouring step count.
    other = expected_similarity_of_errors(NEWTON_1, 8, GD, 40, points=points, d=dim)
    assert abs(cosines.mean() - other.value) > 5 * error + 7e-4


@pytest.mark.parametrize(("k", "t"), [(0, 1), (3, 10), (6, 1), (15, 400)])
def test_weights_of_simulated_prompts(k, t):
    rng = np.random.default_rng(1)
    dim, points, prompts = 20, 40, 150
    x = rng.standard_normal((prompts, points, dim))
    y = np.einsum("bnd,bd->bn", x, rng.standard_normal((prompts, dim)))
    run = numeric.run_solvers(x, y, [NEWTON_1, GD], sorted({k, t}), prefixes=range(1, points + 1))
    position = {step: i for i, step in enumerate(sorted({k, t}))}
    one, two = run.of(NEWTON_1)[:, :, position[k]], run.of(GD)[:, :, position[t]]
    cosines = np.sum(one * two, axis=-1)
    cosines /= np.linalg.norm(one, axis=-1) * np.linalg.norm(two, axis=-1)
    sample = cosines.mean(axis=1)
    theory = expected_similarity_of_weights(NEWTON_1, k, GD, t, points=points, d=dim, samples=200)
    error = math.hypot(sample.std() / math.sqrt(prompts), theory.error)
    assert abs(sample.mean() - theory.value) < 5 * error + 3.5e-3
    assert abs(1.03 * sample.mean() - theory.value) > 5 * error + 3.5e-3
    assert theory.sampled


def exact_cosine(one, two, half):
    """E cos for two distinct eigenvalues, `half` times each: the shares of theta are Beta."""
    products = [(x * y, x * x, y * y) for x, y in zip(one, two, strict=True)]

    def cosine(share):
        mixed, first, second = (share * p + (1 - share) * q for p, q in zip(*products, strict=True))
        return mixed / math.sqrt(first * second)

    law = stats.beta(half / 2, half / 2)
    return integrate.quad(lambda b: cosine(b) * law.pdf(b), 0, 1, epsabs=1e-12)[0]


def test_expected_cosine_against_quadrature():
    """The second-order formula errs like 1/m^2, its first factor alone like 1/m."""
    one, two = (0.9, 0.2), (0.6, 0.5)
    errors, crude = [], []
    for half in (80, 160, 320):
        g = [np.repeat(x, half)[None, None, :] for x in (one, two)]
        exact = exact_cosine(one, two, half)
        errors.append(abs(_cosines(*g)[0, 0, 0] - exact))
        first = g[0] @ g[1].swapaxes(1, 2) / np.linalg.norm(g[0]) / np.linalg.norm(g[1])
        crude.append(abs(first[0, 0, 0] - exact))
    for value, power in ((errors, 2), (crude, 1)):
        slopes = np.diff(np.log2(value))
        assert np.all(np.abs(slopes + power) < 0.25), slopes
    assert errors[-1] < crude[-1] / 20


def test_shapes():
    options = {"points": 3, "d": 2}
    assert np.shape(expected_similarity_of_errors(GD, 1, GD, 2, **options).value) == ()
    assert np.shape(expected_similarity_of_errors(GD, [1], GD, 2, **options).value) == (1,)
    assert np.shape(expected_similarity_of_errors(GD, 1, GD, [2, 3], **options).value) == (2,)
    assert np.shape(
        expected_similarity_of_weights(GD, [1, 2], GD, [2], samples=9, **options).value
    ) == (2, 1)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: expected_similarity_of_errors("gd", 1, GD, 1, points=3, d=2), InvalidInput, "str"),
        (
            lambda: expected_similarity_of_errors(GD, 1, GD, 1, points=0, d=2),
            InvalidInput,
            "least 1",
        ),
        (
            lambda: expected_similarity_of_errors(GD, 1, GD, 1, points=3, d=2, starts=(-1, 0)),
            InvalidInput,
            "starts",
        ),
        (
            lambda: expected_similarity_of_errors(GD, 1, GD, 1, points=3, d=2, starts=1),
            InvalidInput,
            "pass two numbers",
        ),
        (
            lambda: expected_similarity_of_errors(
                icl.GradientDescent(1.0), 1, GD, 1, points=9, d=9
            ),
            OutOfDomain,
            "unstable",
        ),
        (
            lambda: expected_similarity_of_errors(NEWTON_1, 1, GD, 1, points=3, d=2, samples=5),
            InvalidInput,
            "at least 20",
        ),
        (
            lambda: expected_similarity_of_weights(GD, 0, GD, 1, points=3, d=2),
            InvalidInput,
            "no direction",
        ),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()
