"""The LSTM and the looped linear attention: by hand, trained, saved."""

import numpy as np
import pytest
import torch

import icltheory as icl
from icltheory.errors import CheckpointError, InvalidInput
from numeric import finite

TASK = icl.LinearRegression(dim=2)
FEW = {"prompt_length": 5, "steps": 30, "batch_size": 16, "progress": False}
MAKERS = {
    "LSTM": lambda **more: finite.LSTM(2, layers=2, width=8, **more),
    "LoopedLinearAttention": lambda **more: finite.LoopedLinearAttention(2, loops=3, **more),
}


def prompts(size=3, points=6, dim=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(size, points, dim, generator=generator, dtype=torch.float64)
    return X, torch.randn(size, points, generator=generator, dtype=torch.float64)


# -- the models ------------------------------------------------------------------------------------


def test_the_lstm_by_hand():
    model = MAKERS["LSTM"](seed=1).double()
    X, y = prompts()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    for p in range(3):
        h, c = torch.zeros(2, 8).double(), torch.zeros(2, 8).double()
        found = []
        for x, label in zip(X[p], y[p], strict=True):
            for token in (x, torch.stack([label, torch.zeros(()).double()])):
                below = weights["read_in.weight"] @ token + weights["read_in.bias"]
                states = [below]
                h, c = h.clone(), c.clone()
                for layer in range(2):
                    part = f"cells.{layer}."
                    gates = (
                        weights[part + "weight_ih_l0"] @ below
                        + weights[part + "bias_ih_l0"]
                        + weights[part + "weight_hh_l0"] @ h[layer]
                        + weights[part + "bias_hh_l0"]
                    )
                    i, f, g, o = gates.split(8)
                    c[layer] = torch.sigmoid(f) * c[layer] + torch.sigmoid(i) * torch.tanh(g)
                    h[layer] = below = torch.sigmoid(o) * torch.tanh(c[layer])
                    states.append(below)
                found.append(torch.stack(states))
        expected = torch.stack(found[::2], dim=1)
        assert torch.allclose(model.hidden_states(X, y)[:, p], expected, rtol=0, atol=1e-12)
        read = expected[-1] @ weights["readout.weight"][0] + weights["readout.bias"]
        assert torch.allclose(model.predict_all(X, y)[p], read, rtol=0, atol=1e-12)


def test_looped_attention_token_by_token():
    model = MAKERS["LoopedLinearAttention"](seed=1)
    with torch.no_grad():
        model.A += 0.4
        model.B -= 0.3
    A, B = model.A.detach(), model.B.detach()
    X, y = prompts()
    states = model.hidden_states(X, y)
    assert states.shape == (4, 3, 6, 3)
    for p in range(3):
        for n in range(6):
            x, labels = [*X[p, : n + 1]], [*y[p, :n], torch.zeros(()).double()]
            for loop in range(4):
                query = torch.cat([x[-1], labels[-1][None]])
                assert torch.allclose(states[loop, p, n], query, rtol=0, atol=1e-11)
                scores = [[a @ A @ c / (n + 3) for a in x[:-1]] for c in x]
                pairs = list(zip(x, labels, scores, strict=True))
                none = torch.zeros(2).double(), torch.zeros(()).double()
                labels = [
                    r - sum((s * q for s, q in zip(row, labels[:-1], strict=True)), none[1])
                    for _, r, row in pairs
                ]
                x = [
                    c - B @ sum((s * a for s, a in zip(row, x[:-1], strict=True)), none[0])
                    for c, _, row in pairs
                ]
            change = (states[-1, p, n] - states[-2, p, n]).abs().max().item()
            assert (change > 1e-3) == (n > 0)


@pytest.mark.parametrize("n", [1, 4])
def test_looped_attention_contains_gradient_descent(n):
    model = MAKERS["LoopedLinearAttention"]()
    with torch.no_grad():
        model.A.copy_(0.3 * torch.eye(2, dtype=torch.float64))
        model.B.zero_()
    X, y = prompts()
    descent = finite.SolverModel(icl.GradientDescent(0.3 / (n + 3)), 2, 3)
    ours, theirs = model.predict_all(X, y)[:, n], descent.predict_all(X, y)[:, n]
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-13)
    with torch.no_grad():
        model.B += 0.03 * torch.eye(2)
    assert not torch.allclose(model.predict_all(X, y)[:, n], theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", MAKERS)
def test_models_are_sound_and_seeded(name):
    models = [MAKERS[name](seed=seed) for seed in (1, 1, 2)]
    finite.check_model(models[0], 6)
    X, y = prompts()
    a, b, c = (model.predict_all(X, y) for model in models)
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)
    assert torch.allclose(models[0](X[:, :3], y[:, :3], X[:, 3]), a[:, 3], atol=1e-6)
    with pytest.raises(InvalidInput, match=r"must be \(B, N, 2\)"):
        models[0].predict_all(*prompts(dim=3))


@pytest.mark.parametrize("name", MAKERS)
def test_training_resumes_and_files_come_back(tmp_path, name):
    file = tmp_path / "run.pt"
    whole = finite.train(MAKERS[name](), TASK, **FEW)
    halfway = {**FEW, "checkpoint": file, "checkpoint_every": 10}
    other = finite.train(MAKERS[name](), TASK, **halfway)
    again = finite.train(finite.load(file), TASK, **halfway)
    assert np.array_equal(whole.loss, other.loss)
    start, end = (list(m.parameters()) for m in (MAKERS[name](), whole.model))
    assert not any(torch.equal(a, b) for a, b in zip(start, end, strict=True))
    X, y = prompts()
    assert torch.equal(again.model.predict_all(X, y), whole.model.predict_all(X, y))
    assert again.model.config == whole.model.config
    with pytest.raises(CheckpointError, match="not"):
        finite.load(file, into=finite.LSTM(2, layers=1, width=8))
    with pytest.raises(CheckpointError, match=f"{name}.*not LoopedLinearAttention.dim=2, loops=5"):
        finite.load(file, into=finite.LoopedLinearAttention(2, loops=5))


def test_looped_attention_learns_a_better_method_than_gradient_descent():
    """d = 2, five examples: below the risk of three steps of the best of several sizes."""
    model = finite.LoopedLinearAttention(2, loops=3, seed=0)
    finite.train(
        model, TASK, 5, steps=300, batch_size=64, learning_rate=0.02, clip_norm=1.0, progress=False
    )
    rng = np.random.default_rng(5)
    X, w = rng.standard_normal((10_000, 6, 2)), rng.standard_normal((10_000, 2)) / 2**0.5
    X, y = torch.from_numpy(X), torch.from_numpy(np.einsum("bnd,bd->bn", X, w))
    descents = (
        finite.SolverModel(icl.GradientDescent(size / icl.symbols.trace), 2, 3)
        for size in (0.5, 0.8, 1.1, 1.4)
    )
    with torch.no_grad():
        ours = (model.predict_all(X, y) - y)[:, -1] ** 2
        theirs = [(m.predict_all(X, y) - y)[:, -1] ** 2 for m in descents]
    gap = min(theirs, key=torch.mean) - ours
    assert gap.mean() > 5 * gap.std() / 100


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: finite.LSTM(0), "dim = 0"),
        (lambda: finite.LSTM(2, layers=0), "layers = 0"),
        (lambda: finite.LSTM(2, width=1.5), "width = 1.5"),
        (lambda: finite.LoopedLinearAttention(2, loops=0), "loops = 0"),
        (lambda: finite.LoopedLinearAttention(2, seed=-1), "seed = -1"),
    ],
)
def test_wrong_sizes_are_refused(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()
