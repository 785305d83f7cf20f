"""Weights of solvers from one eigendecomposition, against literal steps and dense formulas."""

import pickle

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

import icltheory as icl
import numeric
from icltheory.symbols import frobenius, lam, lam_max, lam_min, trace

SOLVERS = {
    "descent": icl.GradientDescent(0.01),
    "descent, largest eigenvalue": icl.GradientDescent(1 / lam_max),
    "descent, optimal": icl.GradientDescent(),
    "Newton, 1/F": icl.IterativeNewton(1 / frobenius),
    "Newton, 2/F": icl.IterativeNewton(2 / frobenius),
    "Newton, optimal": icl.IterativeNewton(),
    "Newton from I": icl.IterativeNewton(1 / trace, start="I"),
    "Newton from I, optimal": icl.IterativeNewton(start="I"),
    "cubic": icl.HyperPower(3, 1 / trace),
    "Newton on ridge": icl.RidgeNewton(0.3),
    "heavy ball": icl.HeavyBall(),
    "heavy ball, fixed": icl.HeavyBall(0.01, 0.5),
    "Nesterov": icl.Nesterov(),
    "Nesterov, fixed": icl.Nesterov(0.01, 0.3),
    "Chebyshev": icl.Chebyshev(),
    "Chebyshev, fixed": icl.Chebyshev(1, 60),
    "conjugate gradients": icl.ConjugateGradient(),
}
SHAPES = [(12, 5), (3, 5), (5, 5), (1, 4), (8, 1)]
STEPS = [0, 1, 2, 3, 7]


def prompts(dim, length, count=6, **options):
    return numeric.solver_prompts(dim, length, count, **{"noise_var": 0.1, "seed": 3} | options)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SOLVERS)
def test_every_step_is_that_of_the_written_recursion(name, shape):
    n, d = shape
    data, solver = prompts(d, n), SOLVERS[name]
    for w0 in (None, np.random.default_rng(1).standard_normal((6, d))):
        run = numeric.run_solvers(data.features, data.labels, solver, STEPS, [n], w0=w0)
        loop = numeric.step_solver(solver, data.features, data.labels, STEPS, w0=w0)
        # The recursions with matrices amplify rounding in null spaces (3^7 for the cubic one).
        assert np.abs(run.weights[:, 0] - loop).max() < 1e-10 * max(1, np.abs(loop).max())
        control = numeric.run_solvers(data.features, 1.03 * data.labels, solver, STEPS, [n], w0=w0)
        assert np.abs(control.weights[:, 0] - loop).max() > 1e-4


def test_layers_of_gd_plus_plus_and_online_steps():
    data = prompts(4, 9)
    plus = icl.GDPlusPlus([0.02, 0.03, 0.05], [0.01, 0.02, 0.01])
    online, fixed = icl.OnlineGradientDescent(), icl.OnlineGradientDescent(0.1)
    run = numeric.run_solvers(
        data.features, data.labels, {plus: range(4), online: None, fixed: None}, prefixes=[5, 9]
    )
    loop = numeric.step_solver(plus, data.features, data.labels, range(4))
    assert np.abs(run.of(plus)[:, 1] - loop).max() < 1e-13
    for solver in (online, fixed):
        loop = numeric.step_solver(solver, data.features, data.labels, [5, 9])
        assert np.abs(run.of(solver)[:, :, 0] - loop).max() < 1e-13
    assert np.isnan(run.steps(online)[0])
    assert run.steps(plus).tolist() == [0, 1, 2, 3]
    with pytest.raises(icl.InvalidInput, match="3 layers; steps = 4"):
        numeric.run_solvers(data.features, data.labels, plus, [4])


def test_direct_methods_and_flow_on_every_prefix():
    data = prompts(4, 7)
    ridge, least, flow = icl.Ridge(0.4), icl.OrdinaryLeastSquares(), icl.GradientFlow()
    run = numeric.run_solvers(
        data.features, data.labels, {ridge: None, least: None, flow: [0.05, 2.5]}
    )
    for b in range(6):
        for n in range(8):
            X, y = data.features[b, :n], data.labels[b, :n]
            gram = X.T @ X
            expected = np.linalg.solve(gram + 0.4 * np.eye(4), X.T @ y)
            assert np.allclose(run.of(ridge)[b, n, 0], expected, atol=1e-12)
            assert np.allclose(run.of(least)[b, n, 0], np.linalg.pinv(X) @ y, atol=1e-10)
    assert run.steps(flow).tolist() == [0.05, 2.5]
    fine = icl.GradientDescent(0.0005)
    steps = numeric.run_solvers(data.features, data.labels, fine, [100], [7]).weights[:, 0, 0]
    assert np.abs(run.of(flow)[:, 7, 0] - steps).max() < 0.01
    assert run.columns[0] == (ridge, None)


def test_errors_are_those_of_the_weights():
    data = prompts(4, 9)
    solvers = {SOLVERS["Newton, 1/F"]: [0, 3], icl.OrdinaryLeastSquares(): None}
    start = np.random.default_rng(0).random((6, 9, 4))
    run = numeric.run_solvers(data.features, data.labels, solvers, prefixes=range(9), w0=start)
    table = numeric.solver_errors(data.features, data.labels, solvers, w0=start)
    expected = np.einsum("bpkd,bpd->bpk", run.weights, data.features) - data.labels[:, :, None]
    assert np.abs(table.errors - expected).max() < 1e-12
    again = numeric.solver_errors(
        data.features,
        data.labels,
        solvers,
        w0=start,
        spectra=numeric.prompt_spectra(data.features, data.labels, range(9)),
    )
    assert np.array_equal(again.errors, table.errors)
    assert np.array_equal(table.of(icl.OrdinaryLeastSquares())[..., 0], table.errors[..., 2])
    assert np.array_equal(pickle.loads(pickle.dumps(table)).errors, table.errors)


def test_chunks_do_not_change_the_weights(monkeypatch):
    data = prompts(3, 6)
    whole = numeric.run_solvers(data.features, data.labels, list(SOLVERS.values()), [2, 5])
    monkeypatch.setattr("numeric.solvers._CHUNK", 1)
    parts = numeric.run_solvers(data.features, data.labels, list(SOLVERS.values()), [2, 5])
    assert np.allclose(parts.weights, whole.weights, rtol=0, atol=1e-15)


# -- powers and null spaces ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Newton, 1/F", "descent", "Chebyshev", "heavy ball", "Nesterov"])
def test_filters_agree_with_their_expressions_at_high_precision(name):
    """The expression of the specification, at 50 digits, for moderate steps and any eigenvalue."""
    data, solver = prompts(3, 5, count=2), SOLVERS[name]
    spectra = numeric.prompt_spectra(data.features, data.labels, [5])
    values, steps = spectra.values[0, 0], [1, 2, 5, 9]
    ours = numeric.solver_residuals(spectra, solver, steps)[0, 0]
    resolved = {
        lam_min: values.min(),
        lam_max: values.max(),
        trace: values.sum(),
        frobenius: np.sqrt((values**4).sum()),
    }
    resolved = {k: sp.Float(v, 50) for k, v in resolved.items()}
    for column, value in enumerate(values):
        exact = high_precision(solver, steps, resolved | {lam: sp.Float(value, 50)})
        assert np.abs(ours[:, column] - exact).max() < 1e-12


def high_precision(solver, steps, values):
    if isinstance(solver, (icl.HeavyBall, icl.Nesterov)):
        first, second = (x.xreplace(values).evalf(40) for x in solver.recursion)
        rows = [sp.Integer(1), first + second]
        while len(rows) <= max(steps):
            rows.append(first * rows[-1] + second * rows[-2])
        return [float(rows[t]) for t in steps]
    if isinstance(solver, icl.Chebyshev):
        count = sp.Symbol("count", integer=True, positive=True)
        expr = solver.residual_filter(count)
        return [float(expr.subs(count, t).xreplace(values).evalf(30)) for t in steps]
    return [float(solver.residual_filter(t).xreplace(values).evalf(30)) for t in steps]


def test_large_powers_neither_overflow_nor_lose_accuracy():
    X = np.diag([3.0, 1e-4, 1e-7])[None]
    y = X @ np.ones(3)
    newton = icl.IterativeNewton(1 / frobenius)
    spectra = numeric.prompt_spectra(X, y, [3])
    residual = numeric.solver_residuals(spectra, newton, [0, 60, 120, 1000])[0, 0]
    for column, value in ((0, "1e-14"), (1, "1e-8")):
        x = sp.Float(value, 60) ** 2 / 81
        for row, k in ((1, 60), (2, 120)):
            exact = float(sp.exp(sp.Integer(2) ** k * sp.log(1 - x)))
            assert residual[row, column] == pytest.approx(exact, rel=1e-8, abs=1e-15)
    assert np.all(residual[3] == 0)


def test_first_prefix_at_twice_the_inverse_is_never_learned():
    """V3: alpha lam^2 = 2 at rank 1, exactly, whatever rounding says; then r = 1 after step 0."""
    data = prompts(20, 1, count=50)
    spectra = numeric.prompt_spectra(data.features, data.labels, [1])
    top = numeric.solver_residuals(spectra, icl.IterativeNewton(2 / frobenius), [0, 1, 30])
    assert np.all(top[:, 0, 0, -1] == -1)
    assert np.all(top[:, 0, 1:] == 1)
    # The text's 2/lam_max^2: the same at every prefix, in the top direction only.
    data = prompts(5, 12, count=20)
    spectra = numeric.prompt_spectra(data.features, data.labels, [12])
    late = numeric.solver_residuals(spectra, icl.IterativeNewton(2 / lam_max**2), [40])[:, 0, 0]
    assert np.all(late[:, -1] == 1)
    assert np.all(np.abs(late[:, :-1]) < 1e-3)
    safe = numeric.solver_residuals(spectra, icl.IterativeNewton(1.9 / lam_max**2), [40])
    assert np.all(np.abs(safe[:, 0, 0, -1]) < 1e-3)


def test_null_directions_keep_the_start():
    data = prompts(6, 8)
    w0 = np.random.default_rng(2).standard_normal(6)
    solvers = [*SOLVERS.values(), icl.Ridge(0.2), icl.OrdinaryLeastSquares()]
    run = numeric.run_solvers(data.features, data.labels, solvers, [0, 4, 30], [0, 1, 4, 8], w0=w0)
    assert np.abs(run.weights[:, 0] - w0).max() < 1e-14
    for column, n in ((1, 1), (2, 4)):
        X = data.features[:, :n]
        outside = np.eye(6) - np.linalg.pinv(X) @ X
        kept = np.einsum("bij,bkj->bki", outside, run.weights[:, column] - w0)
        assert np.abs(kept).max() < 1e-11
    assert run.spectra.rank.tolist() == [[0, 1, 4, 6]] * 6


def test_repeated_examples_have_the_minimum_norm_solution():
    data = prompts(4, 3, noise_var=0)
    X = np.concatenate([data.features, data.features[:, :2]], axis=1)
    y = np.concatenate([data.labels, data.labels[:, :2]], axis=1)
    run = numeric.run_solvers(
        X, y, [icl.OrdinaryLeastSquares(), icl.ConjugateGradient()], [40], [5]
    )
    assert run.spectra.rank.tolist() == [[3]] * 6
    expected = np.einsum("bij,bj->bi", np.linalg.pinv(X), y)
    assert np.abs(run.weights - expected[:, None, None]).max() < 1e-10
    zeros = numeric.run_solvers(np.zeros((2, 3, 4)), np.zeros((2, 3)), SOLVERS["Newton, 2/F"], [9])
    assert np.all(zeros.weights == 0)


@given(st.integers(1, 6), st.integers(0, 8), st.integers(0, 2**31))
def test_newton_squares_the_residual(dim, n, seed):
    """V2: r_{k+1} = r_k^2 at every eigenvalue, and beta I makes 2^k gradient steps."""
    data = prompts(dim, max(n, 1), count=2, seed=seed)
    spectra = numeric.prompt_spectra(data.features, data.labels, [n])
    for solver in (SOLVERS["Newton, 2/F"], SOLVERS["Newton from I"]):
        r = numeric.solver_residuals(spectra, solver, range(6))
        assert np.abs(r[:, :, 1:] - r[:, :, :-1] ** 2).max() < 1e-12
    descent = icl.GradientDescent(1 / trace)
    gradient = numeric.solver_residuals(spectra, descent, [2**k for k in range(6)])
    assert np.abs(r - gradient).max() < 1e-13


def test_single_precision_is_kept_and_recorded():
    data = prompts(5, 12)
    solvers = list(SOLVERS.values())
    double = numeric.run_solvers(data.features, data.labels, solvers, [3, 9], [4, 12])
    single = numeric.run_solvers(
        data.features, data.labels, solvers, [3, 9], [4, 12], dtype=np.float32
    )
    assert single.weights.dtype == single.dtype == np.float32
    assert double.dtype == np.float64
    gap = np.abs(single.weights - double.weights).max()
    assert 1e-9 < gap < 1e-2


def test_conditional_risk_is_the_average_over_coefficients_noise_and_query():
    data = numeric.solver_prompts(3, 5, 1, kappa=9, seed=4)
    X, covariance = data.features, data.covariance
    solver, noise, draws = icl.GradientDescent(0.05), 0.3, 200_000
    spectra = numeric.prompt_spectra(X, np.zeros((1, 5)), [5])
    exact = numeric.conditional_risk(spectra, solver, [4], cov=covariance, noise_var=noise)
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((draws, 3)) / np.sqrt(3)
    labels = truth @ X[0].T + np.sqrt(noise) * rng.standard_normal((draws, 5))
    query = rng.standard_normal((draws, 3)) @ np.linalg.cholesky(covariance[0]).T
    gram = X[0].T @ X[0]
    inverse = np.linalg.inv(gram)
    q = (np.eye(3) - np.linalg.matrix_power(np.eye(3) - 0.05 * gram, 4)) @ inverse
    squared = np.einsum("bi,bi->b", query, labels @ X[0] @ q - truth) ** 2
    row = numeric.compare(
        {}, exact.item(), squared.mean(), squared.std() / np.sqrt(draws), required=0.03
    )
    assert row.verdict == "agrees"
    flat = numeric.conditional_risk(spectra, solver, [4], noise_var=noise).item()
    assert numeric.compare({}, flat, row.estimate, row.standard_error).verdict == "deviates"


# -- prompts -------------------------------------------------------------------------------------------


def test_prompts_of_a_condition_number():
    plain = numeric.solver_prompts(20, 41, 3, seed=1)
    rows = plain.features.reshape(-1, 20)
    assert np.abs(rows.T @ rows / len(rows) - np.eye(20)).max() < 0.6
    text = numeric.solver_prompts(20, 5, 3, kappa=100, normalize_trace=False, seed=1)
    code = numeric.solver_prompts(20, 5, 3, kappa=100, basis="per_batch", seed=1)
    assert np.allclose(np.linalg.eigvalsh(text.covariance), [1] * 10 + [100] * 10)
    assert code.covariance.shape == (20, 20)
    assert np.allclose(np.linalg.eigvalsh(code.covariance)[[0, -1]], [0.01980198, 1.98019802])
    assert np.trace(code.covariance) == pytest.approx(20)
    assert not np.allclose(text.covariance[0], text.covariance[1])
    # Options leave the other draws alone, and one seed gives one draw.
    assert np.array_equal(text.coefficients, plain.coefficients)
    again = numeric.solver_prompts(20, 5, 3, kappa=100, basis="per_batch", seed=1)
    assert np.array_equal(again.features, code.features)
    big = numeric.solver_prompts(2, 20_000, 1, kappa=4, seed=2)
    empirical = big.features[0].T @ big.features[0] / 20_000
    assert np.abs(empirical - big.covariance[0]).max() < 0.08
    noisy = numeric.solver_prompts(4, 5000, 2, noise_var=0.25, coef_var=1, seed=1)
    clean = np.einsum("bnd,bd->bn", noisy.features, noisy.coefficients)
    assert np.var(noisy.labels - clean) == pytest.approx(0.25, rel=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kappa": 0.5}, "below 1"),
        ({"basis": "fixed"}, "not one of per_prompt, per_batch"),
        ({"noise_var": -1}, "noise_var = -1 is negative"),
        ({"coef_var": -1}, "coef_var = -1 is negative"),
        ({"dim": 1, "kappa": 3}, "dim >= 2"),
        ({"points": 0}, "points = 0"),
        ({"seed": -1}, "no seed"),
    ],
)
def test_prompts_refuse_bad_input(options, message):
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.solver_prompts(**{"dim": 3, "points": 4, "prompts": 2} | options)


# -- bad input -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "bound"),
    [
        (icl.GradientDescent(0.2), "lam_max/5 < 2"),
        (icl.IterativeNewton(0.02), r"lam_max\*\*2/50 < 2"),
        (icl.IterativeNewton(2.1 / frobenius), "lam_max"),
        (icl.RidgeNewton(1, 0.02), "lam_max"),
        (icl.HeavyBall(0.3, 0.3), "lam_max"),
        (icl.Nesterov(0.2, 0.3), "lam_max"),
        (icl.Chebyshev(0.1, 3), "lam_max < 31/10"),
    ],
)
def test_steps_that_diverge_name_the_prompts_and_the_bound(solver, bound):
    data = prompts(3, 10)
    with pytest.raises(icl.OutOfDomain, match=r"diverges on . of 6 prompts") as caught:
        numeric.run_solvers(data.features, data.labels, solver, [3])
    message = str(caught.value)
    assert "66 prefixes" in message
    assert "lam_max = " in message
    assert __import__("re").search(bound, message)


def test_the_worst_prompt_is_named():
    X = np.ones((3, 2, 1)) * np.array([1.0, 2.0, 1.5])[:, None, None]
    with pytest.raises(
        icl.OutOfDomain, match=r"1 of 3 prompts \(1 of 9 prefixes\).*prompt 1 at n = 2"
    ):
        numeric.run_solvers(X, np.ones((3, 2)), icl.GradientDescent(0.3), [1])
    with pytest.raises(icl.OutOfDomain, match="lower exceeds upper"):
        numeric.run_solvers(X, np.ones((3, 2)), icl.Chebyshev(lam_max, 2), [1])


def test_numbers_of_steps_beyond_any_power():
    """2^steps is never formed: 10^15 steps are those that have converged."""
    data = numeric.solver_prompts(3, 6, 4, seed=2)
    for solver in (icl.IterativeNewton(1 / frobenius), icl.HyperPower(3, 1 / lam_max)):
        run = numeric.run_solvers(data.features, data.labels, solver, [10**9, 10**15], [6])
        gap = run.weights - data.coefficients[:, None, None]
        assert np.abs(gap).max() < 1e-10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.ones((3, 2))}, r"X has shape \(3, 2\)"),
        ({"y": np.ones((3, 3))}, r"y \(3, 3\)"),
        ({"X": np.full((3, 2, 1), np.nan)}, "no finite numbers"),
        ({"y": np.array([["a", "b"]] * 3)}, "no finite numbers"),
        ({"prefixes": [3]}, "prefixes reach 3 examples"),
        ({"prefixes": [-1]}, "prefixes = -1"),
        ({"steps": None}, "needs steps"),
        ({"steps": [-1]}, "steps = -1"),
        ({"steps": [1.5]}, "steps = 1.5"),
        ({"steps": []}, "steps"),
        ({"steps": "40"}, "steps"),
        ({"solvers": []}, "no solver is given"),
        ({"solvers": ["gd"]}, "type str"),
        ({"solvers": 3}, "type int"),
        ({"solvers": [icl.GradientDescent(0.1)] * 2}, "given twice"),
        ({"solvers": icl.GradientDescent(sp.Symbol("eta", positive=True))}, "still contains eta"),
        ({"solvers": icl.OnlineGradientDescent(sp.Symbol("eta", positive=True))}, "symbols"),
        ({"solvers": icl.OnlineGradientDescent(50), "X": np.full((3, 400, 1), 9.0), "y": np.ones((3, 400))}, "overflow"),
        ({"solvers": {icl.GradientDescent(0.1): [1]}}, "leave the argument steps out"),
        ({"solvers": icl.GradientFlow(), "steps": [-0.5]}, "time of a flow"),
        ({"w0": np.ones(2)}, r"w0 has shape \(2,\)"),
        ({"dtype": np.int64}, "dtype"),
        ({"dtype": np.float16}, "dtype"),
        ({"dtype": "foo"}, "dtype = 'foo' is not numpy.float64"),
        ({"solvers": icl.IterativeNewton(3 / lam_max**2)}, r"prefixes\); the worst is"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(change, message):
    arguments = {
        "X": np.ones((3, 2, 1)),
        "y": np.ones((3, 2)),
        "solvers": icl.GradientDescent(0.1),
        "steps": [1],
    }
    with pytest.raises(icl.IclTheoryError, match=message):
        numeric.run_solvers(**arguments | change)


def test_errors_need_an_example_after_the_prefix_and_weights_a_bounded_memory():
    data = prompts(2, 4)
    with pytest.raises(icl.InvalidInput, match="prefix 4 has no example after it"):
        numeric.solver_errors(data.features, data.labels, icl.GradientDescent(0.01), [1], [4])
    with pytest.raises(icl.InvalidInput, match=r"GiB.*solver_errors"):
        numeric.run_solvers(
            np.ones((10_000, 40, 20)), np.ones((10_000, 40)), icl.GradientFlow(), range(1000)
        )
    spectra = numeric.prompt_spectra(data.features, data.labels)
    with pytest.raises(icl.InvalidInput, match="spectra are of shape"):
        numeric.solver_errors(data.features, data.labels, icl.GradientFlow(), [1], spectra=spectra)
    run = numeric.run_solvers(data.features, data.labels, icl.GradientFlow(), [1])
    with pytest.raises(icl.InvalidInput, match="not among the solvers"):
        run.of(icl.Ridge(1))
    with pytest.raises(icl.InvalidInput, match="depends on the spectrum alone"):
        numeric.solver_residuals(spectra, icl.ConjugateGradient(), [1])
    with pytest.raises(icl.InvalidInput, match="not a recursion"):
        numeric.step_solver(icl.Ridge(1), data.features, data.labels, [1])
    with pytest.raises(icl.InvalidInput, match="leave w0 out"):
        numeric.step_solver(
            icl.OnlineGradientDescent(), data.features, data.labels, [1], w0=np.ones(2)
        )
    for options, message in (
        ({"noise_var": -1}, "negative"),
        ({"cov": np.eye(3)}, "cov has shape"),
    ):
        with pytest.raises(icl.InvalidInput, match=message):
            numeric.conditional_risk(spectra, icl.GradientFlow(), [1], **options)


def test_optimal_parameters_of_one_eigenvalue_are_finite():
    """n = 1: the interval is a point, and a step with the best parameters ends there."""
    data = prompts(4, 1, noise_var=0)
    for name in ("descent, optimal", "Newton, optimal", "Chebyshev", "heavy ball", "Nesterov"):
        run = numeric.run_solvers(data.features, data.labels, SOLVERS[name], [2], [1])
        fitted = np.einsum("bd,bd->b", run.weights[:, 0, 0], data.features[:, 0])
        assert np.abs(fitted - data.labels[:, 0]).max() < 1e-12
    assert lam_min.name in str(icl.Chebyshev().lower)


# -- risk at every prefix ------------------------------------------------------------------------------


def test_risk_at_every_prefix_is_that_of_the_quadrature():
    data = numeric.solver_prompts(4, 9, 20_000, noise_var=0.2, seed=6)
    descent, ridge = icl.GradientDescent(0.02), icl.Ridge(0.8)
    run = numeric.run_solvers(
        data.features, data.labels, {descent: [0, 3], ridge: None}, prefixes=[1, 5, 9]
    )
    risk = run.risk(data.coefficients)
    assert risk.value.shape == risk.standard_error.shape == (3, 3)
    for row, n in enumerate(risk.prefixes):
        for column, (solver, steps) in enumerate(risk.columns):
            exact = float(numeric.solver_risk(solver, steps, n=int(n), d=4, noise_var=0.2))
            value, error = risk.value[row, column], risk.standard_error[row, column]
            assert numeric.compare({}, exact, value, error, required=0.1).verdict == "agrees"
            assert numeric.compare({}, 1.12 * exact, value, error).verdict == "deviates"
    assert np.array_equal(risk.of(descent).value, risk.value[:, :2])
    assert risk.of(ridge).columns == ((ridge, None),)


def test_mean_square_of_the_errors_has_the_noise_of_the_label():
    data = numeric.solver_prompts(3, 6, 90_000, noise_var=0.5, seed=8, kappa=5)
    ridge = icl.Ridge(1.5)
    table = numeric.solver_errors(data.features, data.labels, ridge, prefixes=[0, 4])
    squares = table.mean_square()
    run = numeric.run_solvers(data.features, data.labels, ridge, prefixes=[0, 4])
    risk = run.risk(data.coefficients, data.covariance)
    gap = np.abs(squares.value - risk.value - 0.5)
    error = np.hypot(squares.standard_error, risk.standard_error)
    assert np.all(gap < 5 * error)
    assert np.all(5 * error < 0.06)  # a label noise 12 % off would be seen
    flat = run.risk(data.coefficients)
    assert np.abs(flat.value - risk.value).max() > 5 * error.max()


def test_risk_at_prefixes_refuses_other_shapes():
    data = prompts(3, 5, 2)
    run = numeric.run_solvers(data.features, data.labels, icl.Ridge(1))
    with pytest.raises(icl.InvalidInput, match="coefficients have shape"):
        run.risk(data.coefficients[:1])
    with pytest.raises(icl.InvalidInput, match="cov has shape"):
        run.risk(data.coefficients, np.eye(2))
    assert np.isnan(
        numeric.run_solvers(data.features[:1], data.labels[:1], icl.Ridge(1))
        .risk(data.coefficients[:1])
        .standard_error
    ).all()
