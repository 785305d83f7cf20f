"""Conjugate gradients in the eigenbasis and the quasi-Newton methods that coincide with them."""

import mpmath
import numpy as np
import pytest

import icltheory as icl
import numeric
from icltheory.symbols import frobenius


def data_of(n, d, count=4, **options):
    return numeric.solver_prompts(d, n, count, **{"seed": 8} | options)


def krylov_minimiser(X, y, step):
    """The minimiser of |Xw - y|^2 over span{b, Sb, ..., S^{t-1}b}, in 60 digits."""
    with mpmath.workdps(60):
        X, y = mpmath.matrix(X.tolist()), mpmath.matrix(y.tolist())
        gram, target = X.T * X, X.T * y
        powers = [target]
        for _ in range(step - 1):
            powers.append(gram * powers[-1])
        basis = mpmath.matrix(gram.rows, step)
        for j, column in enumerate(powers):
            basis[:, j] = column / mpmath.norm(column)
        shares = mpmath.lu_solve(basis.T * gram * basis, basis.T * target)
        return np.array([float(x) for x in basis * shares])


@pytest.mark.parametrize(("n", "d"), [(9, 5), (5, 5), (4, 7)])
@pytest.mark.parametrize("noise", [0, 0.5])
def test_conjugate_gradients_minimise_over_the_krylov_space(n, d, noise):
    data = data_of(n, d, noise_var=noise)
    steps = range(1, min(n, d) + 1)
    run = numeric.run_solvers(data.features, data.labels, icl.ConjugateGradient(), steps, [n])
    for b in range(4):
        for k, step in enumerate(steps):
            exact = krylov_minimiser(data.features[b], data.labels[b], step)
            size = np.abs(exact).max()
            assert np.abs(run.weights[b, 0, k] - exact).max() < 1e-10 * size
            if k:  # control: the neighbouring step is another one
                assert np.abs(run.weights[b, 0, k - 1] - exact).max() > 1e-7 * size


@pytest.mark.parametrize("n", [3, 19, 20, 21, 40])
def test_they_end_at_least_squares_after_as_many_steps_as_the_rank(n):
    """Also at n = d, where the condition number of S reaches 1e6 and more."""
    data = data_of(n, 20, count=200, noise_var=0.1)
    least = icl.OrdinaryLeastSquares()
    rank = min(n, 20)
    run = numeric.run_solvers(
        data.features, data.labels, {least: None, icl.ConjugateGradient(): [rank, rank + 5]}, prefixes=[n]
    )  # fmt: skip
    solution, iterates = run.weights[:, 0, :1], run.weights[:, 0, 1:]
    scale = np.linalg.norm(solution, axis=-1)
    assert np.max(np.linalg.norm(iterates - solution, axis=-1) / scale) < 1e-7
    assert np.allclose(iterates[:, 0], iterates[:, 1], rtol=0, atol=1e-12)


def test_the_filter_has_the_ritz_values_as_zeros():
    """V16a: r = prod (1 - lam/theta_j), theta_j the eigenvalues of S on the Krylov space."""
    data = data_of(12, 6, count=1)
    X, y = data.features[0], data.labels[0]
    spectra = numeric.prompt_spectra(data.features, data.labels, [12])
    values, moments = spectra.values[0, 0], spectra.moments[0, 0]
    for step in (1, 2, 4, 6):
        columns = [X.T @ y]
        for _ in range(step - 1):
            columns.append(X.T @ (X @ columns[-1]))
        basis = np.linalg.qr(np.array(columns).T / [np.linalg.norm(c) for c in columns])[0]
        ritz = np.linalg.eigvalsh(basis.T @ X.T @ X @ basis)
        found = numeric.ritz_values(values, moments, step)
        assert np.allclose(found, ritz, rtol=1e-8)
        run = numeric.run_solvers(data.features, data.labels, icl.ConjugateGradient(), [step], [12])
        residual = (
            1 - spectra.values[0, 0] * (spectra.vectors[0, 0].T @ run.weights[0, 0, 0]) / moments
        )
        product = np.prod(1 - values[:, None] / found, axis=1)
        assert np.allclose(residual, product, atol=1e-9)
        exact = icl.ConjugateGradient().residual_on(
            values.tolist(), spectra.least_squares[0, 0].tolist(), min(step, 2)
        )
        if step <= 2:
            polynomial = sum(float(c) * values**j for j, c in enumerate(exact))
            assert np.allclose(residual, polynomial, atol=1e-9)
    assert numeric.ritz_values(np.ones(3), np.zeros(3), 2).size == 0


@pytest.mark.parametrize(
    "options",
    [
        {"update": "bfgs"},
        {"update": "dfp"},
        {"update": 0.4},
        {"memory": 1},
        {"memory": 5},
    ],
)
def test_quasi_newton_methods_make_the_same_iterates(options):
    """V16b: seen to 5e-12 at n = 40, d = 20, 16 steps."""
    data = data_of(40, 20, count=20)
    steps = range(17)
    conjugate = numeric.run_solvers(
        data.features, data.labels, icl.ConjugateGradient(), steps, [40]
    ).weights[:, 0]
    quasi = numeric.quasi_newton_weights(data.features, data.labels, steps, **options)
    assert np.abs(quasi - conjugate).max() < 2e-11
    assert np.abs(quasi[:, 1:] - conjugate[:, :-1]).max() > 0.1
    # Beyond the end they stay.
    late = numeric.quasi_newton_weights(data.features, data.labels, [25, 60], **options)
    assert np.abs(late - data.coefficients[:, None]).max() < 1e-9


def test_newton_steps_are_matched_by_conjugate_gradients_linearly():
    """V16c and A10: a Krylov method is linear in Newton steps too; one step of the map is a draw's."""
    data = data_of(41, 20, count=250, coef_var=1)
    spectra = numeric.prompt_spectra(data.features, data.labels, range(41))
    newton_steps = [4, 6, 8, 10, 12, 14, 16, 18, 20, 23]

    def errors(solver, steps):
        return numeric.solver_errors(
            data.features, data.labels, solver, steps, spectra=spectra
        ).errors

    pairs = numeric.similarity_of_errors(
        errors(icl.IterativeNewton(2 / frobenius), newton_steps),
        errors(icl.ConjugateGradient(), range(1, 21)),
        include_empty_prefix=True,
    )
    match = numeric.best_match(pairs, range(1, 21), bootstrap=200)
    reference = np.array([2, 3, 5, 7, 9, 12, 14, 17, 18, 19])
    assert np.all(np.abs(match.best - reference) <= 1)
    assert np.all(match.best_similarity > 0.986)
    slope = np.polyfit(newton_steps[:8], match.best[:8], 1)[0]
    assert slope == pytest.approx(1.11, abs=0.06)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.ones((2, 3))}, "pass X of"),
        ({"X": np.full((2, 3, 1), np.nan)}, "no finite numbers"),
        ({"y": np.full((2, 3), np.inf)}, "no finite numbers"),
        ({"update": "newton"}, "not 'bfgs', 'dfp'"),
        ({"update": "dfp", "memory": 2}, "update='bfgs'"),
        ({"memory": 0}, "memory = 0"),
        ({"steps": [0.5]}, "steps = 0.5"),
    ],
)
def test_quasi_newton_refuses_bad_input(change, message):
    arguments = {"X": np.ones((2, 3, 1)), "y": np.ones((2, 3)), "steps": [1]} | change
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.quasi_newton_weights(**arguments)
