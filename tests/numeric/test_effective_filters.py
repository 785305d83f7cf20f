"""The filter that is measured from weights, against the solvers that made them."""

import numpy as np
import pytest

import icltheory as icl
import numeric
from icltheory.symbols import frobenius

NEWTON, DESCENT = icl.IterativeNewton(1 / frobenius), icl.GradientDescent(0.01)


def measured(prompts=300, n=30, noise=0.0, seed=2, **options):
    data = numeric.solver_prompts(20, n, prompts, noise_var=noise, seed=seed)
    solvers = {NEWTON: [8], DESCENT: [25], icl.Ridge(2): None}
    run = numeric.run_solvers(data.features, data.labels, solvers, prefixes=[n])
    found = numeric.effective_filter(data.features, run.weights[:, 0], data.coefficients, **options)
    return data, run, found


def test_the_reference_bins():
    """Lowest three of 8 bins: Newton .152, .585, .932; descent .464, .796, .949. Other prompts."""
    *_, found = measured()
    assert found.count.sum() == 6000
    assert np.allclose(found.eigenvalue[:3], [2.5, 6.3, 11.6], rtol=0.06)
    assert np.allclose(found.gain[0, :3], [0.152, 0.585, 0.932], atol=0.035)
    assert np.allclose(found.gain[1, :3], [0.464, 0.796, 0.949], atol=0.02)
    assert found.null_gain is None


def test_gains_are_those_of_the_filter_within_their_errors():
    data, run, found = measured(prompts=2000, edges=[0, 1, 3, 6, 10, 20, 40, 80, 200])
    values = run.spectra.values[:, 0]
    for row, solver, steps in ((0, NEWTON, [8]), (1, DESCENT, [25]), (2, icl.Ridge(2), [0])):
        gain = 1 - numeric.solver_residuals(run.spectra, solver, steps)[:, 0, 0]
        truth = data.coefficients[:, None, :] @ run.spectra.vectors[:, 0]
        weight = truth[:, 0] ** 2
        for e, (low, high) in enumerate(zip(found.edges, found.edges[1:], strict=False)):
            inside = (values >= low) & (values < high)
            exact = (gain * weight)[inside].sum() / weight[inside].sum()
            assert found.gain[row, e] == pytest.approx(exact, abs=1e-11)
            # Weighting by c^2 has mean 1/d: the plain mean of the filter within 5 standard errors.
            plain = gain[inside].mean()
            assert abs(found.gain[row, e] - plain) < 5 * found.standard_error[row, e] + 1e-12
    assert np.all(found.leakage > 0)
    assert np.all(found.leakage < 0.03)
    assert found.half_point[2] == pytest.approx(2, rel=0.1)  # ridge: lambda_r
    assert np.allclose(found.residual, 1 - found.gain)


def test_noise_leaks_but_does_not_shift_the_gains():
    *_, clean = measured(prompts=1500, edges=[0.5, 3, 8, 20, 100])
    *_, noisy = measured(prompts=1500, noise=0.05, edges=[0.5, 3, 8, 20, 100])
    gap = np.abs(noisy.gain - clean.gain) / noisy.standard_error
    assert gap.max() < 5
    assert np.all(noisy.leakage > clean.leakage + 0.005)


def test_null_space_and_starts():
    data = numeric.solver_prompts(10, 6, 400, seed=5)
    run = numeric.run_solvers(data.features, data.labels, DESCENT, [5], [6])
    found = numeric.effective_filter(data.features, run.weights[:, 0], data.coefficients, bins=3)
    assert abs(found.null_gain[0]) < 1e-12
    assert found.count.tolist() == [800, 800, 800]
    oracle = numeric.effective_filter(data.features, data.coefficients, data.coefficients, bins=3)
    assert oracle.gain == pytest.approx(np.ones((1, 3)))
    assert oracle.null_gain == pytest.approx(1)
    assert oracle.leakage == pytest.approx(0, abs=1e-12)
    assert np.isnan(oracle.half_point[0])


def test_a_model_that_is_no_filter_leaks():
    """Weights in a wrong direction: online descent, and coordinates that are exchanged."""
    data = numeric.solver_prompts(10, 30, 300, seed=5)
    online = numeric.online_weights(data.features, data.labels)[:, -1]
    rolled = np.roll(data.coefficients, 1, axis=1)
    both = np.stack([online, rolled], axis=1)
    found = numeric.effective_filter(data.features, both, data.coefficients)
    assert found.leakage[0] > 0.02
    assert found.leakage[1] > 0.9
    assert np.abs(found.gain[1]).max() < 5 * found.standard_error[1].max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.ones((5, 3))}, "pass"),
        ({"weights": np.ones((5, 3))}, "weights has shape"),
        ({"weights": np.full((5, 2), np.nan)}, "NaN"),
        ({"coefficients": np.ones((4, 2))}, "coefficients"),
        ({"X": np.ones((5, 0, 2))}, "n >= 1"),
        ({"bins": 5}, "every bin needs 10"),
        ({"bins": 0}, "bins = 0"),
        ({"edges": [1.0, 0.5]}, "increasing"),
    ],
)
def test_bad_input_is_refused(change, message):
    rng = np.random.default_rng(0)
    arguments = {
        "X": rng.standard_normal((5, 3, 2)),
        "weights": np.ones((5, 2)),
        "coefficients": np.ones((5, 2)),
        "bins": 1,
    }
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.effective_filter(**arguments | change)
