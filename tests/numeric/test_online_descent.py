"""Online gradient descent on prompts against the exact risk and forgetting (V19, A17)."""

import numpy as np
import pytest

import icltheory as icl
import numeric
from icltheory.symbols import frobenius

D, N, COUNT = 20, 20, 4000
DATA = numeric.solver_prompts(D, N, COUNT, seed=12)


def squared(weights):
    return ((weights - DATA.coefficients[:, None]) ** 2).sum(axis=-1)


def agrees(prediction, samples, required=0.12):
    samples = np.asarray(samples)
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    row = numeric.compare({}, prediction, samples.mean(), error, required=required)
    return row.verdict == "agrees"


@pytest.mark.parametrize("step_size", [None, 1 / 22, 0.02])
def test_risk_after_every_prefix(step_size):
    weights = numeric.online_weights(DATA.features, DATA.labels, step_size)
    solver = icl.OnlineGradientDescent(step_size)
    for n in (1, 5, 20):
        exact = float(solver.risk(n, D).expr)
        assert agrees(exact, squared(weights)[:, n])
        assert not agrees(1.12 * exact, squared(weights)[:, n])
    if step_size is None:
        assert float(solver.risk(20, D).expr) == pytest.approx(0.358485922409, rel=1e-11)


def test_forgetting_by_position():
    """Reference: .0779 at g = 5, .2102 at g = 18 for steps 1/|x|^2; and flat for Newton at .0410."""
    last = numeric.online_weights(DATA.features, DATA.labels)[:, -1]
    newton = icl.IterativeNewton(2 / frobenius)
    run = numeric.run_solvers(DATA.features, DATA.labels, newton, [5], [N])
    both = np.stack([last, run.weights[:, 0, 0]], axis=1)
    curve = numeric.forgetting_curve(DATA.features, both, DATA.coefficients)
    for gap in range(1, N):
        exact = float(icl.OnlineGradientDescent().forgetting(N, gap, D).expr)
        z = (curve.mean[0, N - gap - 1] - exact) / curve.standard_error[0, N - gap - 1]
        assert abs(z) < 5
    assert curve.mean[0, N - 1] < 1e-25
    for gap, value in ((5, 0.0779386457), (18, 0.2101677617)):
        exact = icl.OnlineGradientDescent().forgetting(N, gap, D).expr
        assert float(exact) == pytest.approx(value, rel=1e-9)
    flat, error = curve.mean[1], curve.standard_error[1]
    assert np.all(np.abs(flat - 0.04099) < 5 * error)
    single = numeric.forgetting_curve(DATA.features, last, DATA.coefficients)
    assert np.allclose(single.mean, curve.mean[0], rtol=1e-10, atol=1e-20)
    # Spectral solvers: tr(S r^2)/(n d), from the same draw of eigenvalues.
    spectra = run.spectra
    residual = numeric.solver_residuals(spectra, newton, [5])[:, 0, 0]
    trace = (spectra.values[:, 0] * residual**2).sum(axis=1) / (N * D)
    average = float(trace.mean())
    assert abs(average - 0.04099) < 5 * trace.std() / np.sqrt(COUNT) + 2e-5
    assert abs(float(flat.mean()) / average - 1) < 0.02


def test_gradient_step_forgets_uniformly():
    """Reference 19: .3924 for one step of gradient descent, eta = .01."""
    run = numeric.run_solvers(DATA.features, DATA.labels, icl.GradientDescent(0.01), [1], [N])
    curve = numeric.forgetting_curve(DATA.features, run.weights[:, 0, 0], DATA.coefficients)
    assert np.all(np.abs(curve.mean - 0.3924) < 5 * curve.standard_error)
    assert abs(curve.mean.mean() - 0.3924) < 0.004


def test_prefixes_starts_and_zero_examples():
    X, y = DATA.features[:3].copy(), DATA.labels[:3].copy()
    start = np.random.default_rng(0).standard_normal((3, D))
    whole = numeric.online_weights(X, y, w0=start)
    some = numeric.online_weights(X, y, prefixes=[0, 7], w0=start)
    assert np.array_equal(some, whole[:, [0, 7]])
    assert np.array_equal(some[:, 0], start)
    X[:, 3] = y[:, 3] = 0
    rows = numeric.online_weights(X, y)
    assert np.array_equal(rows[:, 3], rows[:, 4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step_size": 0}, "not positive"),
        ({"step_size": [1, 2]}, "one number"),
        ({"w0": np.ones(3)}, r"w0 has shape \(3,\)"),
        ({"prefixes": [21]}, "prefixes reach 21"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.online_weights(DATA.features[:2], DATA.labels[:2], **options)


def test_divergence_and_wrong_shapes_are_refused():
    X, y = np.tile(DATA.features[:2], (1, 40, 1)), np.tile(DATA.labels[:2], (1, 40))
    with pytest.raises(icl.OutOfDomain, match=r"2/\(d \+ 2\) = 0.09091"):
        numeric.online_weights(X, y, 3.0)
    with pytest.raises(icl.InvalidInput, match="at least two prompts"):
        numeric.forgetting_curve(X[:1], np.ones((1, D)), np.ones((1, D)))
    with pytest.raises(icl.InvalidInput, match="weights"):
        numeric.forgetting_curve(X, np.ones((2, 3)), np.ones((2, D)))
