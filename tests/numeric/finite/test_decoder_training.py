"""The decoder trained on one thought, on a teacher and on the outcome: derived optima."""

import numpy as np
import pytest
import torch
from decoding_layers import FAST, FORMS, prompts

import icltheory as icl
from icltheory.errors import CheckpointError
from numeric import finite
from numeric.arrays import task_arrays
from numeric.compare import compare
from numeric.samplers import sample_examples
from numeric.validate import validate


def measured(model, decoding, n, size=60_000, noise_var=0.0, seed=5):
    """E |w_t - w*|^2 of single chains on fresh prompts with coefficients N(0, I/d), and its error."""
    arrays = task_arrays(icl.LinearRegression(dim=model.dim, noise_var=noise_var))
    X, y, _, w = sample_examples(arrays, n, size, np.random.default_rng(seed))
    errors = ((model.candidates(X, y, decoding, seed=seed)[:, 0] - w) ** 2).sum(-1)
    return errors.mean(), errors.std() / np.sqrt(size)


def near(value, target, tolerance):
    """Within the tolerance, relative to the target's size; and no longer if the target changes by 2 of them."""
    value, target = np.asarray(value), np.asarray(target)
    size = np.linalg.norm(target)
    inside = np.linalg.norm(value - target) < tolerance * size
    return inside and np.linalg.norm(value - (1 + 2 * tolerance) * target) > tolerance * size


def gamma_matrix(cov, n):
    return (1 + 1 / n) * cov + np.trace(cov) / n * np.eye(len(cov))


def test_one_thought_reaches_its_optimum():
    """D2, Sigma = I, label noise: P rho = n/(n + d + 1 + s2) I, risk (d + 1 + s2)/(n + d + 1 + s2)."""
    n, d, s2 = 16, 4, 0.8
    task = icl.LinearRegression(dim=d, noise_var=s2 / d)
    model = finite.LinearSelfAttention(d, seed=1)
    R = model.blocks()[1].detach().clone()
    finite.train_decoder(model, task, n, loss="one_thought", **FAST)
    learned = model.learned()
    assert near(learned.label_step, n / (n + d + 1 + s2) * np.eye(d), 0.03)
    assert torch.equal(model.blocks()[1], R)  # R multiplies w_0 = 0
    risk = (d + 1 + s2) / (n + d + 1 + s2)
    found, error = measured(model, icl.NoisyDecoding(0.5, 0, 1), n, noise_var=s2 / d)
    assert compare({}, risk, found, error, 0.05).verdict == "agrees"
    assert compare({}, 1.1 * risk, found, error, 0.05).verdict == "deviates"
    table = validate(
        model, task, n, prompts=200_000, allowance=0.03
    )  # one thought is linear attention
    assert table.passed, str(table)
    assert not table.scaled(1.1).passed


def test_one_thought_learns_the_preconditioner_of_its_features():
    """D2 for a general covariance, and D3: the exact risk of P is smallest there."""
    n, s2, cov = 12, 0.9, np.diag([2.0, 1.0, 0.5])
    task = icl.LinearRegression(dim=3, noise_var=s2 / 3, feature_cov=[2, 1, 0.5])
    model = finite.LinearSelfAttention(3, seed=1)
    run = finite.train_decoder(model, task, n, loss="one_thought", **FAST)
    best = np.linalg.inv(gamma_matrix(cov, n) + s2 / n * np.eye(3))
    assert near(model.learned().label_step, best, 0.03)
    assert near(run.loss[-200:].mean(), 1 - np.trace(cov @ best) / 3, 0.05)


def test_exact_risk_of_one_step_with_any_preconditioner():
    """D3 for a P that is neither symmetric nor optimal, by the layer on real prompts."""
    n, cov = 9, np.diag([1.5, 1.0, 0.4])
    P = -np.linalg.inv(gamma_matrix(cov, n)) + np.array([[0, 0.2, 0], [0, 0.1, 0], [-0.1, 0, 0]])
    predicted = np.linalg.norm(np.eye(3) + P @ cov) ** 2
    predicted += (np.trace(P @ cov @ cov @ P.T) + np.trace(P @ cov @ P.T) * np.trace(cov)) / n
    model = finite.LinearSelfAttention.preconditioned(-P)
    arrays = task_arrays(icl.LinearRegression(dim=3, feature_cov=[1.5, 1, 0.4], coef_cov=1))
    X, y, _, w = sample_examples(arrays, n, 100_000, np.random.default_rng(1))
    errors = ((model.candidates(X, y, icl.NoisyDecoding(1, 0, 1))[:, 0] - w) ** 2).sum(-1)
    error = errors.std() / np.sqrt(len(errors))
    assert abs(errors.mean() - predicted) < 5 * error
    assert abs(errors.mean() - 1.05 * predicted) > 5 * error


@pytest.mark.parametrize("form", FORMS)
def test_a_teacher_of_gradient_descent_is_learned(form):
    """D4a: P rho = -P R = eta I, loss 0, and the rolled-out chain has the risk beta_{2t}, t up to 8."""
    n, d, eta = 16, 4, 0.4
    model = finite.LinearSelfAttention(d, form=form, seed=2)
    run = finite.train_decoder(
        model,
        icl.LinearRegression(dim=d),
        n,
        loss="gradient_descent",
        thoughts=3,
        step_size=eta,
        **{**FAST, "steps": 400, "batch_size": 128, "learning_rate": 0.02},
    )
    learned = model.learned()
    assert near(learned.label_step, eta * np.eye(d), 0.01)
    assert near(learned.state_step, eta * np.eye(d), 0.01)
    assert learned.largest_other < 0.1
    assert run.loss[-1] < 1e-5 < run.loss[0]
    X, y, _ = prompts(dim=d, n=n)
    exact = finite.LinearSelfAttention.gradient_descent(d, eta).decode(X, y, 8).detach().numpy()
    rolled = model.decode(X, y, 8).detach().numpy()
    assert np.linalg.norm(rolled - exact) < 0.02 * np.linalg.norm(exact)
    if form == "full":
        risk = float(icl.contraction_moment(8, n, d, eta).expr)
        found, error = measured(model, icl.NoisyDecoding(eta, 0, 4), n)
        assert compare({}, risk, found, error, 0.05).verdict == "agrees"
        assert compare({}, 1.15 * risk, found, error, 0.05).verdict == "deviates"


def shrinking(form, fixed):
    n, eta, t = 12, 0.5, 3
    model = finite.LinearSelfAttention(3, form=form, seed=1)
    if fixed:
        model.set_blocks(-0.3, 1, -1)
        model.R.requires_grad_(False)
        model.rho.requires_grad_(False)
    task = icl.LinearRegression(dim=3, feature_cov=[2, 1, 0.5])
    settings = {**FAST, "steps": 500, "learning_rate": 0.02}
    run = finite.train_decoder(
        model, task, n, loss="shrinking", thoughts=t, step_size=eta, **settings
    )
    return model, run.loss[-200:].mean()


def test_a_shrinking_teacher_is_learned():
    """D4b: P = -eta Gamma^{-1} where R = I and rho = -1; other forms find less, by other means."""
    n, eta, cov = 12, 0.5, np.diag([2.0, 1.0, 0.5])
    inverse = np.linalg.inv(gamma_matrix(cov, n))
    model, loss = shrinking("blocks", fixed=True)
    learned = model.learned()
    assert near(learned.label_step, eta * inverse, 0.03)
    assert torch.equal(model.R, torch.eye(3, dtype=torch.float64))
    step = eta**2 * (1 - np.trace(cov @ inverse) / 3)
    predicted = step * sum((1 - eta) ** (2 * s) for s in range(3))
    assert near(loss, predicted, 0.05)
    # The same prompts: the full matrices read w* off the thoughts that the teacher shows.
    full, lower = shrinking("full", fixed=False)
    assert lower < 0.96 * loss
    assert full.learned().largest_other > 0.5


@pytest.mark.parametrize(
    ("thoughts", "fixed", "value"),
    [
        (2, False, 0.1577203446),
        (3, False, 0.1070231995),
        (2, True, 0.2143288687),
        (3, True, 0.1205322891),
    ],
)
def test_outcome_supervision_of_multiples_of_the_identity(thoughts, fixed, value):
    """D5, row 20: the values (d/2) min are 2 E |w_t - w*|^2 here, d = 4 with coefficients N(0, I/d)."""
    n, d = 16, 4
    model = finite.LinearSelfAttention(d, form="scalar", seed=1)
    if fixed:
        model.set_blocks(-0.3, 1, -1)
        model.R.requires_grad_(False)
        model.rho.requires_grad_(False)
    run = finite.train_decoder(
        model,
        icl.LinearRegression(dim=d),
        n,
        loss="outcome",
        thoughts=thoughts,
        **{**FAST, "steps": 500, "learning_rate": 0.02},
    )
    label, state = model.learned().step_sizes
    one, two = (
        float(icl.contraction_moment(j, n, d, state).expr) for j in (thoughts, 2 * thoughts)
    )
    # w_k = u (I - (I - eta S)^k) w* with eta = -P R and u = P rho/(-P R): the exact risk.
    u = label / state
    risk = 1 - 2 * u * (1 - one) + u**2 * (1 - 2 * one + two)
    assert value / 2 * (1 - 1e-9) < risk < 1.005 * value / 2
    assert near(run.loss[-200:].mean(), value / 2, 0.05)
    assert near(u, 1 if fixed else (1 - one) / (1 - 2 * one + two), 0.03)


def test_outcome_supervision_of_full_matrices_goes_below():
    """D5 (iii): at most the value of the multiples of I; here it is less by more than 5 errors."""
    model = finite.LinearSelfAttention(4, seed=1)
    finite.train_decoder(
        model,
        icl.LinearRegression(dim=4),
        16,
        loss="outcome",
        thoughts=3,
        **{**FAST, "learning_rate": 0.02},
    )
    found, error = measured(model, icl.NoisyDecoding(0.5, 0, 3), 16, size=40_000)
    assert found < 0.1070231995 / 2 - 5 * error


def test_training_starts_from_the_same_seed_and_resumes(tmp_path):
    task = icl.LinearRegression(dim=3)
    settings = {"steps": 30, "batch_size": 16, "loss": "outcome", "thoughts": 2, "progress": False}
    model, path = finite.LinearSelfAttention(3, seed=4), tmp_path / "run.pt"
    whole = finite.train_decoder(model, task, 8, record_every=10, **settings)
    assert whole.trajectory["V"].shape == (4, 8, 8)
    stopped = finite.LinearSelfAttention(3, seed=4)
    calls = []
    original = stopped.decode

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 18:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    stopped.decode = interrupted
    with pytest.raises(KeyboardInterrupt):
        finite.train_decoder(stopped, task, 8, checkpoint=path, **settings)
    other = finite.LinearSelfAttention(3, seed=4)
    resumed = finite.train_decoder(other, task, 8, checkpoint=path, **settings)
    assert np.array_equal(resumed.loss, whole.loss)
    assert torch.equal(other.V, model.V)
    with pytest.raises(CheckpointError, match="thoughts = 2 there, 3 here"):
        finite.train_decoder(other, task, 8, checkpoint=path, **{**settings, "thoughts": 3})


@pytest.mark.parametrize("form", FORMS)
def test_saved_and_loaded(form, tmp_path):
    model = finite.LinearSelfAttention(3, thoughts=4, form=form, seed=6)
    loaded = finite.load(finite.save(model, tmp_path / "model.pt"))
    assert loaded.config == model.config
    X, y, _ = prompts(dim=3)
    assert torch.equal(loaded.decode(X, y), model.decode(X, y))
