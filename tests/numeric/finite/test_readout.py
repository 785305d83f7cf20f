"""Read-outs in closed form: against dense least squares, streamed, on disjoint prompts, refusals."""

import numpy as np
import pytest
import torch

import icltheory as icl
from icltheory.errors import InvalidInput
from numeric import finite
from numeric.arrays import task_arrays
from numeric.finite import readout, training
from numeric.finite.readout import fit_readouts

TASK = icl.LinearRegression(dim=3, noise_var=0.2)
LENGTH = 5


def transformer(**change):
    """Weights of order one, in float64."""
    sizes = {"dim": 3, "layers": 2, "width": 8, "heads": 2, "points": 6, **change}
    model = finite.Transformer(**sizes).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return model.eval()


def spied(monkeypatch):
    """Every prompt that a fit draws, in order."""
    drawn, original = [], readout._draw

    def draw(*arguments):
        drawn.append(original(*arguments))
        return drawn[-1]

    monkeypatch.setattr(readout, "_draw", draw)
    return drawn


@pytest.mark.parametrize("normalize", [False, True])
def test_read_outs_are_the_regularised_least_squares(monkeypatch, normalize):
    drawn = spied(monkeypatch)
    model, ridge = transformer(), 1e-3
    found = fit_readouts(
        model, TASK, LENGTH, prompts=200, ridge=ridge, normalize=normalize, batch=64
    )
    X, y = (torch.cat(part) for part in zip(*drawn[1:], strict=True))  # the first is a trial
    assert X.shape == (200, 6, 3)
    assert found.pairs == 1200
    states = model.hidden_states(X, y).detach().numpy()
    if normalize:
        states = states - states.mean(-1, keepdims=True)
        states = states / np.sqrt((states**2).mean(-1, keepdims=True) + 1e-5)
    for layer in range(3):
        phi = np.hstack([states[layer].reshape(1200, 8), np.ones((1200, 1))])
        # Least squares with sqrt(shift) I as further rows.
        shift = ridge * (phi**2).sum() / 9
        rows = np.vstack([phi, np.sqrt(shift) * np.eye(9)])
        theta = np.linalg.lstsq(rows, np.hstack([y.numpy().ravel(), np.zeros(9)]), rcond=None)[0]
        assert found.weights[layer].numpy() == pytest.approx(theta, rel=1e-7, abs=1e-9)
        residual = phi @ theta - y.numpy().ravel()
        assert found.loss[layer] == pytest.approx(np.mean(residual**2), rel=1e-9)
        assert not np.allclose(found.weights[layer].numpy(), 1.03 * theta, rtol=1e-3)
    predictions = found.predict_all(X[:50], y[:50])
    assert predictions.shape == (3, 50, 6)
    assert predictions[2].numpy().ravel() == pytest.approx((phi @ theta)[:300], abs=1e-10)


def test_batches_do_not_matter(monkeypatch):
    model = transformer()
    drawn = spied(monkeypatch)
    whole = fit_readouts(model, TASK, LENGTH, prompts=150, batch=150)
    X, y = drawn[1]
    predictions = whole.predict_all(X, y)
    monkeypatch.setattr(readout, "_BUDGET", 20_000)  # a few prompts at once
    assert torch.allclose(whole.predict_all(X, y), predictions, rtol=0, atol=1e-12)
    few = fit_readouts(model, TASK, LENGTH, prompts=150)
    assert 5 < len(drawn) - 3 < 150
    # Other batches have other seeds: the same read-out up to its error.
    assert few.loss == pytest.approx(whole.loss, rel=0.3)
    assert torch.equal(few.weights, fit_readouts(model, TASK, LENGTH, prompts=150).weights)


def test_a_solver_is_read_exactly():
    """The state of step t contains its prediction: the read-out is a multiple of it, which shrinks
    the error, and the last layer of conjugate gradients is least squares."""
    task = icl.LinearRegression(dim=3)
    model = finite.SolverModel(icl.ConjugateGradient(), 3, 4)
    found = fit_readouts(model, task, 8, prompts=2000)
    assert found.loss[0] == pytest.approx(1.0, rel=0.1)
    assert (np.diff(found.loss[:4]) < 0).all()
    assert found.loss[4] == pytest.approx(found.loss[3], rel=0.05)
    rng = np.random.default_rng(0)
    X = torch.from_numpy(rng.standard_normal((50, 9, 3)))
    y = (X @ torch.from_numpy(rng.standard_normal((50, 3, 1))))[..., 0]
    errors = (found.predict_all(X, y) - y).abs().mean((1, 2))
    assert (errors[1:] < errors[0]).all()


def test_the_read_out_of_the_last_layer_is_not_worse_than_the_models_own():
    model = finite.LoopedLinearAttention(3, 2)
    finite.train(model, TASK, LENGTH, steps=50, batch_size=64, learning_rate=0.01, progress=False)
    found = fit_readouts(model, TASK, LENGTH, prompts=3000)
    arrays = task_arrays(TASK)
    X, y = readout._draw(arrays, LENGTH, 3000, np.random.default_rng(1))
    with torch.no_grad():
        own = (model.predict_all(X, y) - y) ** 2
    read = (found.predict_all(X, y)[-1] - y) ** 2
    gap = (read - own).mean(1)
    assert gap.mean() < 5 * gap.std() / 3000**0.5
    # The input knows nothing of the labels before: its read-out is no better than zero.
    assert found.loss[0] == pytest.approx(float((y**2).mean()), rel=0.05)
    assert found.loss[-1] < 0.95 * found.loss[0]


def test_prompts_are_disjoint_from_those_of_training(monkeypatch):
    drawn = spied(monkeypatch)
    fit_readouts(transformer(), TASK, LENGTH, prompts=100, seed=4)
    seen = {float(x) for X, _ in drawn for x in X.flatten()}
    arrays = task_arrays(TASK)
    settings = {"seed": 4, "prompt_length": LENGTH, "batch_size": 100}
    for step in range(20):
        X, _ = training.draw_sequences(arrays, settings, step, None)
        assert not seen & {float(x) for x in X.flatten()}
    again = spied(monkeypatch)
    fit_readouts(transformer(), TASK, LENGTH, prompts=100, seed=5)
    assert not seen & {float(x) for X, _ in again for x in X.flatten()}


def test_float32_states_are_accumulated_in_float64():
    """Of the model in float32 the read-out is that of its float64 twin, up to float32 rounding."""
    model = transformer()
    double = fit_readouts(model, TASK, LENGTH, prompts=300, ridge=1e-6)
    single = fit_readouts(model.float(), TASK, LENGTH, prompts=300, ridge=1e-6)
    assert single.weights.dtype == torch.float64
    assert single.loss == pytest.approx(double.loss, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": 74}, "74 prompts give 444 pairs.*need 450: pass prompts=75 or more"),
        ({"ridge": 0}, "ridge = 0 is not positive"),
        ({"ridge": float("nan")}, "ridge contains NaN"),
        ({"batch": 0}, "batch = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"prompt_length": 6}, "7 x tokens"),
        ({"prompt_length": 0}, "prompt_length = 0"),
        ({"task": icl.LinearRegression(dim=4)}, "dim = 4, the model 3"),
        (
            {"task": icl.LinearRegression(dim=3, local=(0.5, 1))},
            "local examples surround one query",
        ),
        ({"task": "text"}, "task has type str"),
        ({"model": finite.LinearAttention(3)}, r"LinearAttention; pass a finite\.SequenceModel"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    arguments = {"model": transformer(), "task": TASK, "prompt_length": LENGTH, **options}
    with pytest.raises(InvalidInput, match=message):
        fit_readouts(**arguments)


def test_unsound_models_are_refused():
    broken = transformer().float()
    with torch.no_grad():
        broken.blocks[1].linear1.bias[0] = float("inf")
    with pytest.raises(InvalidInput, match="hidden states of layer 2 are NaN or infinite"):
        fit_readouts(broken, TASK, LENGTH)
    found = fit_readouts(transformer(), TASK, LENGTH)
    assert found.pairs == 900
    with pytest.raises(InvalidInput, match=r"must be \(B, N, 3\)"):
        found.predict_all(torch.zeros(2, 4, 2), torch.zeros(2, 4))
