"""Selection among candidates: reference values, Gaussian moments by simulation, limits, elimination."""

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from icltheory.symbols import noise_std, samples, squared_bias, tilt

DECODING = icl.NoisyDecoding(0.5, 0.5, 3)
SPECTRUM = [sp.Rational(j, 5) for j in range(1, 11)]


def prompt(verifier="prompt_loss"):
    return icl.chain_candidates(DECODING, SPECTRUM, [1] * 10, verifier=verifier)


def solved_tilt(candidates, count):
    equation = candidates.tilted_log_samples().expr - sp.log(count)
    return sp.nsolve(equation, tilt, 5)


# -- reference values ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "value"),
    [(2, 0.5641895835), (8, 1.4236003060), (64, 2.3437334651), (1024, 3.2482396014)],
)
def test_mean_of_the_maximum(count, value):
    assert float(icl.normal_maximum_mean(count)) == pytest.approx(value, rel=1e-9)


def test_mean_of_the_maximum_in_closed_form():
    three = 3 / (2 * sp.sqrt(sp.pi))
    assert abs(icl.normal_maximum_mean(3).evalf(30) - three.evalf(30)) < 1e-28
    assert icl.normal_maximum_mean(1).expr == 0


def test_best_of_64_by_prompt_loss():
    candidates = prompt()
    assert float(candidates.risk()) == pytest.approx(4.57423, abs=5e-6)
    assert float(candidates.gaussian_risk(64)) == pytest.approx(0.5721769, abs=5e-8)
    found = solved_tilt(candidates, 64)
    assert float(found) == pytest.approx(5.6640852, abs=5e-8)
    assert float(candidates.tilted_risk().subs(tilt=found)) == pytest.approx(1.0374393, abs=5e-8)


def test_best_of_64_by_the_oracle():
    candidates = prompt("oracle")
    risk = candidates.tilted_risk().subs(tilt=solved_tilt(candidates, 64))
    assert float(risk) == pytest.approx(0.8178123, abs=5e-8)


def test_softmax_mean():
    limit, finite = (prompt().softmax_mean_risk(count).subs(tilt=1) for count in (None, 256))
    assert float(limit) == pytest.approx(0.5504997, abs=5e-8)
    assert float(finite) == pytest.approx(0.5686148, abs=5e-8)


@pytest.mark.parametrize(("verifier", "value"), [("prompt_loss", 1.3697), ("oracle", 1.1020)])
def test_saddlepoint_integral(verifier, value):
    """int tilted_risk d[1 - (1 - F)^64] from the formulas alone."""
    candidates = prompt(verifier)
    top = max(
        float(m * s) for m, s in zip(candidates.loss_weights, candidates.noise_var, strict=True)
    )
    low = -(1 - np.logspace(-0.01, -7, 150)) / (2 * top)
    grid = np.concatenate([low[low < -1e-2], np.logspace(-2, 6, 300)])
    risk, below = (
        sp.lambdify(tilt, f.expr, ["scipy", "numpy"])(grid)
        for f in (candidates.tilted_risk(), candidates.loss_distribution())
    )
    order = np.argsort(-grid)  # the loss falls in the tilt
    risk, below = risk[order], np.clip(np.maximum.accumulate(below[order]), 0, 1)
    best = 1 - (1 - below) ** 64
    total = risk[0] * best[0] + np.sum((risk[1:] + risk[:-1]) / 2 * np.diff(best))
    total += risk[-1] * (1 - best[-1])
    assert total == pytest.approx(value, abs=2e-3)


def test_distribution_is_continuous_at_zero_tilt():
    below = prompt().loss_distribution().expr
    left, middle, right = (below.subs(tilt, sp.Rational(x, 10**5)).evalf(40) for x in (-1, 0, 1))
    assert abs((left + right) / 2 - middle) < 1e-8
    assert 0 < left - right < 1e-3


# -- simulation ------------------------------------------------------------------------------------


def recursion(rng, eigenvalues, wanted, label, chains):
    """Errors of chains that really take the steps, in the eigenbasis."""
    state = np.zeros((chains, len(eigenvalues)))
    for _ in range(3):
        step = eigenvalues * state - (eigenvalues * wanted + label)
        state = state - 0.5 * step + 0.5 * rng.normal(size=state.shape)
    return state - wanted


def test_moments_against_the_recursion():
    rng = np.random.default_rng(0)
    eigenvalues, wanted = np.array([0.5, 1.5, 0.0]), np.array([1.0, -2.0, 0.5])
    label = np.array([0.3, -0.2, 0.0])
    candidates = icl.chain_candidates(DECODING, eigenvalues, wanted, label)
    error = recursion(rng, eigenvalues, wanted, label, 400_000)
    offset = np.array([0.6, -0.2 / 1.5, 0])
    loss = (eigenvalues * (error - offset) ** 2).sum(1)
    square = (error**2).sum(1)
    covariance, deviation = np.cov(loss, square)[0, 1], loss.std()
    predicted = {s.title: float(s.equation.rhs) for s in candidates.gaussian_risk(4).steps}
    assert square.mean() == pytest.approx(float(candidates.risk()), rel=0.01)
    assert covariance == pytest.approx(predicted["covariance Cov of loss and error"], rel=0.03)
    assert deviation == pytest.approx(predicted["standard deviation sd of the loss"], rel=0.02)
    weight = np.exp(-0.7 * loss)
    tilted = float(candidates.tilted_risk().subs(tilt=0.7))
    assert np.average(square, weights=weight) == pytest.approx(tilted, rel=0.01)
    mean = np.average(error, axis=0, weights=weight)
    assert (mean**2).sum() == pytest.approx(
        float(candidates.softmax_mean_risk().subs(tilt=0.7)), rel=0.02
    )
    assert np.log(np.mean(weight)) == pytest.approx(
        float(candidates.loss_cumulant().subs(tilt=0.7)), rel=0.01
    )


def test_best_of_many_leaves_the_label_noise_and_the_null_directions():
    rng = np.random.default_rng(1)
    eigenvalues, wanted = np.array([1.0, 0.0]), np.array([1.0, 1.0])
    label = np.array([0.8, 0.0])
    candidates = icl.chain_candidates(DECODING, eigenvalues, wanted, label)
    assert candidates.many_samples_risk().expr == sp.Rational(8, 10) ** 2 + 1 + sp.Rational(3, 4)
    best = []
    for _ in range(3000):
        error = recursion(rng, eigenvalues, wanted, label, 256)
        best.append((error[np.argmin((error[:, 0] - 0.8) ** 2)] ** 2).sum())
    standard_error = np.std(best) / np.sqrt(len(best))
    assert abs(np.mean(best) - float(candidates.many_samples_risk())) < 5 * standard_error
    assert standard_error < 0.05


@pytest.mark.parametrize("where", ["steps", "output", [1, 0, 2]])
def test_variance_of_the_noise_options(where):
    decoding = icl.NoisyDecoding(0.5, 0.5, 3, noise_where=where, scaled_noise=True)
    (variance,) = icl.chain_candidates(decoding, [1], [1]).noise_var
    factors = {"steps": [1, 1, 1], "output": [0, 0, 1]}.get(
        where if isinstance(where, str) else "", where
    )
    expected = sum(f**2 * 0.125 * 0.25 ** (2 - s) for s, f in enumerate(factors))
    assert float(variance) == pytest.approx(expected, rel=1e-12)


def test_stepwise_selection():
    rng = np.random.default_rng(2)
    eigenvalues = np.linspace(0.1, 2, 20)
    gradient = rng.normal(size=20)
    sigma, count = 0.05, 8
    candidates = icl.Candidates(eigenvalues, gradient / eigenvalues, [sigma**2] * 20)
    predicted = np.array([float(f) for f in candidates.selected_shift(count)])
    noise = sigma * rng.normal(size=(20_000, count, 20))
    loss = 2 * noise @ gradient + (eigenvalues * noise**2).sum(-1)
    mean = noise[np.arange(len(noise)), loss.argmin(1)].mean(0)
    assert np.linalg.norm(mean - predicted) < 0.05 * np.linalg.norm(predicted)
    # For small noise a step of fixed length along the gradient.
    tiny = icl.Candidates(eigenvalues, gradient / eigenvalues, [1e-12] * 20).selected_shift(count)
    direction = np.array([float(f) for f in tiny]) / 1e-6
    expected = -1.4236003060 * gradient / np.linalg.norm(gradient)
    assert direction == pytest.approx(expected, rel=1e-4)


# -- optima ----------------------------------------------------------------------------------------


def test_small_noise_optimum():
    unit = icl.Candidates([1] * 40, [1] * 40, [1] * 40)
    best = unit.small_noise_optimum(64)
    m = 2.3437334651
    assert float(best) == pytest.approx(40 - m**2, rel=1e-8)  # B (1 - m^2/d), B = d
    assert float(best.minimizer[noise_std]) == pytest.approx(m / np.sqrt(40), rel=1e-8)
    # The minimum of the Gaussian form itself, where m_N^2/d is small.
    scaled = icl.Candidates([1] * 400, [1] * 400, [noise_std**2] * 400)
    form = sp.lambdify(noise_std, scaled.gaussian_risk(8).expr.evalf())
    grid = np.linspace(0.02, 0.2, 1801)
    found = grid[np.argmin(form(grid))]
    optimum = icl.Candidates([1] * 400, [1] * 400, [1] * 400).small_noise_optimum(8)
    assert found == pytest.approx(float(optimum.minimizer[noise_std]), rel=0.02)
    assert form(found) == pytest.approx(float(optimum), rel=1e-4)


def test_oracle_at_its_best_noise_by_a_scan():
    """The elimination against a numeric minimum over the noise at fixed N."""
    dim, count, bias = 10, 64, 5.0
    formula = icl.oracle_selection_risk(count, dim, bias)
    assert float(formula) == pytest.approx(bias * count ** (-2 / dim), rel=1e-12)
    scale = float(formula.minimizer[noise_std])

    def risk(sigma):
        one = icl.Candidates([1], [sp.sqrt(sp.Rational(1, 2))], [sigma**2])
        equation = one.tilted_log_samples().expr - sp.log(count) / dim
        return dim * float(one.tilted_risk().expr.subs(tilt, sp.nsolve(equation, tilt, 2)))

    assert risk(scale) == pytest.approx(float(formula), rel=1e-9)
    assert risk(1.05 * scale) > float(formula) < risk(scale / 1.05)
    assert icl.oracle_selection_risk().expr == squared_bias / samples ** (2 / icl.symbols.d)


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: icl.Candidates([1], [1, 2], [1, 1]), "entries"),
        (lambda: icl.Candidates([-1], [1], [1]), "negative"),
        (lambda: icl.Candidates([], [], []), "list of numbers"),
        (lambda: icl.Candidates("1", [1], [1]), "list of numbers"),
        (lambda: icl.normal_maximum_mean(0), "positive integer"),
        (lambda: icl.chain_candidates(DECODING, [1, 0], [1]), "zero eigenvalues included"),
        (lambda: icl.chain_candidates(DECODING, [0], [1], [1]), "the noise is 0"),
        (lambda: icl.chain_candidates(DECODING, [1], [1], verifier="x"), "verifier"),
        (lambda: icl.Candidates([1], [1], [1], [1]).small_noise_optimum(4), "offset"),
        (lambda: icl.Candidates([1], [1], [0]).many_samples_risk(), "noise variance"),
        (lambda: icl.Candidates([1], [1], [1]).loss_cumulant(7), "from 0 to 4"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()


def test_nothing_to_select():
    """Without noise every candidate is the same."""
    same = icl.Candidates([1], [2], [0])
    assert same.gaussian_risk(64).expr == 4
