"""Similarity of errors and weights, best-matching steps, induced weights: against dense loops."""

import math

import numpy as np
import pytest

import icltheory as icl
import numeric
from icltheory.symbols import frobenius, trace
from numeric import published
from numeric.model_weights import fit_weights, off_span

RNG = np.random.default_rng(5)
A, B = RNG.standard_normal((7, 6, 3)), RNG.standard_normal((7, 6, 2))
U, V = RNG.standard_normal((7, 6, 3, 4)), RNG.standard_normal((7, 6, 2, 4))


def cosine(a, b):
    return a @ b / math.sqrt((a @ a) * (b @ b))


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("window", [None, (2, 4)])
@pytest.mark.parametrize("excess", [False, True])
def test_errors_against_loops(empty, window, excess):
    reference = RNG.standard_normal((7, 6)) if excess else None
    found = numeric.similarity_of_errors(
        A, B, include_empty_prefix=empty, window=window, reference=reference
    )
    used = [n for n in range(6) if n >= (not empty) and (window is None or 2 <= n <= 4)]
    assert found.prefixes.tolist() == used
    shift = reference if excess else np.zeros((7, 6))
    for i in range(3):
        for j in range(2):
            rows = [
                cosine((A[b, :, i] - shift[b])[used], (B[b, :, j] - shift[b])[used])
                for b in range(7)
            ]
            assert np.allclose(found.per_prompt[:, i, j], rows, atol=1e-14)
            assert found.value[i, j] == pytest.approx(np.mean(rows))
            assert found.standard_error[i, j] == pytest.approx(np.std(rows, ddof=1) / 7**0.5)
    single = numeric.similarity_of_errors(A[:, :, 0], B[:, :, 1], [3, 1, 2, 0, 9, 8], window=(1, 3))
    assert single.value.shape == ()
    assert single.prefixes.tolist() == [3, 1, 2]
    assert single.value == pytest.approx(
        np.mean([cosine(A[b, :3, 0], B[b, :3, 1]) for b in range(7)])
    )
    assert math.isnan(numeric.similarity_of_errors(A[:1], B[:1]).standard_error[0, 0])
    half = numeric.similarity_of_errors(A[:, :, 0], B)
    assert half.per_prompt.shape == (7, 2)
    assert half.dtype == np.float64


def test_weights_against_loops():
    found = numeric.similarity_of_weights(U, V, window=(1, 3))
    for i in range(3):
        for j in range(2):
            rows = [np.mean([cosine(U[b, n, i], V[b, n, j]) for n in (1, 2, 3)]) for b in range(7)]
            assert np.allclose(found.per_prompt[:, i, j], rows, atol=1e-14)
    # Scale does not matter, and the empty prefix is never used.
    scaled = U * RNG.uniform(1, 2, (7, 6, 3, 1))
    scaled[:, 0] = 0
    again = numeric.similarity_of_weights(scaled, V, window=(0, 3))
    assert np.allclose(again.value, found.value)
    assert numeric.similarity_of_weights(U[:, :, 0], V[:, :, 0]).value.shape == ()


def test_rounding_has_no_direction_but_windows_do():
    data = numeric.solver_prompts(6, 15, 20, seed=3)
    solvers = {icl.OrdinaryLeastSquares(): None, icl.GradientDescent(0.02): [9]}
    errors = numeric.solver_errors(data.features, data.labels, solvers).errors
    windows = numeric.prefix_windows(6, 14)
    assert windows == {"below": (1, 5), "around": (1, 11), "above": (7, 14)}
    numeric.similarity_of_errors(errors, errors, window=windows["below"])
    with pytest.raises(icl.InvalidInput, match=r"b: the errors of prompt 0 at n = 7, ..., 14"):
        numeric.similarity_of_errors(errors[:, :, 1], errors[:, :, 0], window=windows["above"])
    noisy = numeric.solver_prompts(6, 15, 20, noise_var=0.1, seed=3)
    errors = numeric.solver_errors(noisy.features, noisy.labels, solvers).errors
    numeric.similarity_of_errors(errors, errors, window=windows["above"])
    assert numeric.prefix_windows(1, 3) == {"around": (1, 3), "above": (2, 3)}


def test_excess_removes_the_common_floor():
    """Converged solvers of n < d share (d - n): every pair is near 1, the excess is not."""
    data = numeric.solver_prompts(10, 16, 100, seed=3)
    newton, descent = icl.IterativeNewton(1 / frobenius), icl.GradientDescent(0.01)
    solvers = {newton: [9], descent: [200], icl.OrdinaryLeastSquares(): None}
    late, slow, least = np.moveaxis(
        numeric.solver_errors(data.features, data.labels, solvers).errors, 2, 0
    )
    plain = numeric.similarity_of_errors(late, slow).value
    excess = numeric.similarity_of_errors(late, slow, reference=least).value
    assert plain > 0.94
    assert excess < plain - 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: numeric.similarity_of_errors(A[0, 0], A), "pass numbers of shape"),
        (lambda: numeric.similarity_of_errors(A[:, :5], A), "must be the same"),
        (lambda: numeric.similarity_of_errors(A * np.nan, A), "NaN"),
        (lambda: numeric.similarity_of_errors(A, A, range(5)), "one number a column"),
        (lambda: numeric.similarity_of_errors(A, A, window=(7, 9)), "no prefix is used"),
        (lambda: numeric.similarity_of_errors(A, A, window=(-1, 9)), "window = -1"),
        (lambda: numeric.similarity_of_errors(A, A, window=3), r"pass \(first, last\)"),
        (lambda: numeric.similarity_of_errors(A, A, window=(1, 2, 3)), r"pass \(first, last\)"),
        (lambda: numeric.similarity_of_errors(0 * A, A), "zero or rounding"),
        (lambda: numeric.similarity_of_errors(A, A, reference=A[:, :5, 0]), "one learner"),
        (lambda: numeric.similarity_of_weights(U, V[..., :3]), "dimension"),
        (lambda: numeric.similarity_of_weights(0 * U, V), r"prompt 0 at n = 1 are zero"),
        (lambda: numeric.similarity_of_weights(A[:, 0], U), "pass numbers of shape"),
        (lambda: numeric.prefix_windows(0, 3), "dim = 0"),
    ],
)
def test_similarity_refuses_bad_input(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()


# -- best step -----------------------------------------------------------------------------------------


def test_published_matches_follow_from_the_published_columns():
    """P4 of layers 1 and 12 from P1 and P3: ties at three digits, the edge of the grid."""
    newton = numeric.best_match(
        [published.NEWTON_FIRST.values, published.NEWTON_LAST.values],
        published.NEWTON_FIRST.steps,
        delta=5e-4,
    )
    assert newton.best.tolist() == [1, 21]
    assert newton.censored.tolist() == [True, False]
    assert newton.best_similarity.tolist() == [0.920, 0.994]
    coarse = numeric.best_match(published.NEWTON_LAST.values, range(1, 24), delta=1.0001e-3)
    assert coarse.tie_set().tolist() == [19, 20, 21, 22]
    assert coarse.midpoints().tolist() == [20.5]
    descent = numeric.best_match(
        [published.DESCENT_LAST.values], published.DESCENT_LAST.steps, delta=5e-4
    )
    assert descent.censored.all()
    assert descent.step_interval is None
    with pytest.raises(icl.InvalidInput, match="0 of 1 layers are uncensored"):
        descent.slope()


def test_the_printed_legend_is_that_of_isotropic_prompts():
    """A22: the legend of the ill-conditioned curves fits the other row of P4."""
    legend = (1, 1, 3, 5, 8, 10, 14, 17, 20, 21, 21, 21)

    def within(matches):
        rows = zip(legend, matches, strict=True)
        return [low <= step <= high for step, (low, high) in rows]

    assert within(published.NEWTON_MATCHES).count(False) == 1  # layer 3: 3, printed as 2
    assert not any(within(published.NEWTON_MATCHES_KAPPA)[4:8])


def test_published_slopes():
    """A9: 3.0 Newton steps and 1.5 doublings a layer over layers 4 to 9; the ratio is the 1/2 of V13.

    The reference value 3.03 takes the legend's 17 for layer 8; the middle of its tie set, 17.5, gives 3.07.
    """

    def slope(matches, log):
        grid = np.arange(1, 24) if not log else 2.0 ** np.arange(14)
        table = np.zeros((6, len(grid)))
        for row, (low, high) in zip(table, matches, strict=True):
            row[(grid >= low) & (grid <= high)] = 1
        found = numeric.best_match(table, grid, delta=1e-6).slope(log, layers=range(4, 10))
        assert found.interval is None
        return found.value

    matches = published.NEWTON_MATCHES[3:9]
    legend = (*matches[:4], (17, 17), matches[5])
    doublings = slope(published.DESCENT_MATCHES[3:9], True)
    assert doublings == pytest.approx(1.514, abs=1e-3)
    assert slope(legend, False) == pytest.approx(3.029, abs=1e-3)
    assert slope(matches, False) == pytest.approx(3.071, abs=1e-3)
    assert doublings / slope(matches, False) == pytest.approx(0.5, abs=0.01)


def test_intervals_cover_and_ties_follow_the_paired_scatter():
    """A peaked similarity with noise that all steps of a prompt share: the peak is certain."""
    grid = np.arange(1, 12)
    peak = -((grid - np.array([[4.0], [6.0], [8.0]])) ** 2) / 100
    shared = RNG.standard_normal((300, 1, 1))
    own = 0.01 * RNG.standard_normal((300, 3, 11))
    sample = numeric.Similarity(peak + shared + own, np.arange(11), np.dtype(float))
    match = numeric.best_match(sample, grid, seed=1)
    assert match.best.tolist() == [4, 6, 8]
    assert [match.tie_set(i).tolist() for i in range(3)] == [[4], [6], [8]]
    assert np.all(match.step_interval[:, 0] <= match.best)
    assert np.all(match.similarity_interval[:, 0] < match.best_similarity)
    spread = match.similarity_interval[:, 1] - match.similarity_interval[:, 0]
    assert np.allclose(spread, 2 * 1.96 / 300**0.5, rtol=0.25)
    slope = match.slope()
    assert slope.value == pytest.approx(2)
    assert slope.interval[0] <= 2 <= slope.interval[1]
    # Without a peak the best step is anywhere, and the ties reach the ends of the grid.
    flat = numeric.Similarity(shared + 0 * peak + own, np.arange(11), np.dtype(float))
    lost = numeric.best_match(flat, grid)
    assert lost.censored.any()
    assert np.all(lost.step_interval[:, 1] - lost.step_interval[:, 0] > 4)
    again = numeric.best_match(sample, grid, seed=1)
    assert np.array_equal(again.similarity_interval, match.similarity_interval)
    logs = numeric.best_match(sample, 2.0 ** np.arange(11), seed=1).slope(log=True)
    assert logs.value == pytest.approx(2)


def test_equivalence_map_of_newton_and_gradient_descent():
    """V13: best gradient steps of Newton's, of the reference tables up to one point of the grid."""
    data = numeric.solver_prompts(20, 41, 200, seed=31)
    spectra = numeric.prompt_spectra(data.features, data.labels, range(41))
    grid = np.unique(np.round(2 ** np.arange(0, 12.01, 0.125)))

    def errors(solver, steps):
        return numeric.solver_errors(
            data.features, data.labels, solver, steps, spectra=spectra
        ).errors

    descent = errors(icl.GradientDescent(0.01), grid)
    tables = {
        1: {6: 9, 8: 17, 10: 38, 12: 76, 14: 166, 16: 332, 18: 664, 20: 1328},
        2: {5: 9, 8: 25, 10: 54, 14: 235, 17: 664, 20: 1878},
    }
    similar = {6: 0.987, 8: 0.991, 10: 0.995, 12: 0.997, 14: 0.9985, 16: 0.9992, 18: 0.9996}
    for scale, table in tables.items():
        newton = errors(icl.IterativeNewton(scale / frobenius), list(table))
        pairs = numeric.similarity_of_errors(newton, descent, include_empty_prefix=True)
        match = numeric.best_match(pairs, grid, bootstrap=100)
        gap = np.log2(match.best / list(table.values()))
        assert np.abs(gap).max() < 0.2
        if scale == 1:
            expected = [similar[k] for k in list(table)[:-1]]
            assert np.abs(match.best_similarity[:-1] - expected).max() < 1.5e-3
            slope = np.polyfit(list(table), np.log2(match.best), 1)[0]
            assert slope == pytest.approx(0.521, abs=0.015)
        else:
            powers = 2.0 ** np.arange(12)
            at = [int(np.argmin(np.abs(grid - p))) for p in powers]
            coarse = numeric.Similarity(pairs.per_prompt[:, :, at], pairs.prefixes, pairs.dtype)
            best = numeric.best_match(coarse, powers, bootstrap=100).best
            assert best.tolist() == [8, 32, 64, 256, 512, 2048]


@pytest.mark.parametrize(
    ("similarity", "grid", "options", "message"),
    [
        ([0.1, 0.2, 0.3], [1, 2, 2], {"delta": 0.1}, "increasing"),
        ([0.1, 0.2], [1, 2], {"delta": 0.1}, "at least 3"),
        ([0.1, 0.2, 0.3], [1, 2, 3, 4], {"delta": 0.1}, "the grid 4 steps"),
        ([0.1, 0.2, 0.3], [1, 2, 3], {}, "need delta"),
        ([0.1, 0.2, 0.3], [1, 2, 3], {"delta": -1.0}, "negative"),
    ],
)
def test_best_match_refuses_bad_input(similarity, grid, options, message):
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.best_match(similarity, grid, **options)


def test_bootstrap_and_slopes_refuse_bad_input():
    sample = numeric.Similarity(RNG.random((5, 2, 4)), np.arange(3), np.dtype(float))
    with pytest.raises(icl.InvalidInput, match="bootstrap = 5"):
        numeric.best_match(sample, range(4), bootstrap=5)
    one = numeric.Similarity(RNG.random((1, 2, 4)), np.arange(3), np.dtype(float))
    with pytest.raises(icl.InvalidInput, match="at least 2 prompts"):
        numeric.best_match(one, range(4))
    table = [[0, 1, 0, 0], [0, 0, 1, 0]]
    match = numeric.best_match(table, range(4), delta=0.1)
    with pytest.raises(icl.InvalidInput, match="contains step 0"):
        match.slope(log=True)
    with pytest.raises(icl.InvalidInput, match="layers has shape"):
        match.slope(layers=[1])


# -- induced weights -----------------------------------------------------------------------------------


def test_weights_of_a_linear_model_are_recovered():
    data = numeric.solver_prompts(4, 9, 5, noise_var=0.2, seed=3)
    newton = icl.IterativeNewton(1 / trace, start="I")

    def model(X, y, query):
        run = numeric.run_solvers(X, y, newton, [2], [X.shape[1]])
        return np.einsum("bd,bd->b", run.weights[:, 0, 0], query)

    induced = numeric.induced_weights(
        model, data.features, data.labels, [0, 2, 6], cov=np.diag([1, 2, 3, 0.1])
    )
    run = numeric.run_solvers(data.features, data.labels, newton, [2], [0, 2, 6])
    assert np.abs(induced.weights - run.weights[:, :, 0]).max() < 1e-12
    assert np.allclose(induced.r_squared, 1)
    assert np.all(induced.off_span < 1e-20)
    assert induced.prefixes.tolist() == [0, 2, 6]
    bent = numeric.induced_weights(lambda X, y, q: np.abs(q[:, 0]), data.features, data.labels, [3])
    assert bent.r_squared[0] < 0.3


def test_only_solvers_from_zero_stay_in_the_span():
    """A16: gradient descent, Newton, conjugate gradients, ridge and least squares alike."""
    data = numeric.solver_prompts(6, 4, 5, seed=3)
    solvers = {
        icl.GradientDescent(0.02): [3],
        icl.IterativeNewton(1 / frobenius): [5],
        icl.ConjugateGradient(): [2],
        icl.Ridge(0.3): None,
        icl.OrdinaryLeastSquares(): None,
        icl.OnlineGradientDescent(): None,
    }
    run = numeric.run_solvers(data.features, data.labels, solvers, prefixes=[1, 3, 4])
    for column in range(6):
        share = off_span(data.features, run.weights[:, :, column], [1, 3, 4])
        assert np.all(share < 1e-20)
    moved = numeric.run_solvers(
        data.features, data.labels, icl.GradientDescent(0.02), [3], [3], w0=np.ones(6)
    )
    assert np.all(off_span(data.features, moved.weights[:, :, 0], [3]) > 0.01)
    assert np.all(off_span(data.features, np.zeros((5, 1, 6)), [3]) == 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": 9}, "needs 10"),
        ({"cov": np.eye(3)}, "cov has shape"),
        ({"cov": -np.eye(2)}, "not positive definite"),
        ({"prefixes": [9]}, "prefixes reach 9"),
        ({"model": lambda X, y, q: q}, "expected"),
        ({"model": lambda X, y, q: q[:, 0] * np.nan}, "NaN"),
        ({"model": 3}, "callable"),
    ],
)
def test_induced_weights_refuse_bad_input(options, message):
    arguments = {"model": lambda X, y, q: q[:, 0], "X": np.ones((3, 4, 2)), "y": np.ones((3, 4))}
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.induced_weights(**arguments | options)


def test_fits_refuse_bad_input():
    for queries, answers, held, message in (
        (np.ones((2, 9, 2)), np.ones((2, 8)), 2, "pass"),
        (np.ones((2, 9, 2)), np.ones((2, 9)), 8, "leaves no fit"),
    ):
        with pytest.raises(icl.InvalidInput, match=message):
            fit_weights(queries, answers, held)
    assert fit_weights(RNG.random((1, 9, 2)), np.zeros((1, 9)), 2)[1] == 1
    with pytest.raises(icl.InvalidInput, match="weights has shape"):
        off_span(np.ones((2, 3, 2)), np.ones((2, 2)))
