"""The causal Transformer: GPT-2's layer by hand, tokens, causality, training on every prefix, files."""

import numpy as np
import pytest
import torch

import icltheory as icl
from icltheory.errors import CheckpointError, InvalidInput
from numeric import finite
from numeric.arrays import task_arrays
from numeric.finite import training
from numeric.finite.curriculum import Curriculum
from numeric.finite.transformer import interleaved
from numeric.samplers import sample_prompts
from numeric.validate import measure_risk

TASK = icl.LinearRegression(dim=3)
SMALL = {"dim": 3, "layers": 2, "width": 16, "heads": 2, "points": 8}
FEW = {"prompt_length": 7, "steps": 40, "batch_size": 16, "progress": False}


def prompts(size=4, points=6, dim=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(size, points, dim, generator=generator, dtype=torch.float64)
    return X, torch.randn(size, points, generator=generator, dtype=torch.float64)


def spread_out(model):
    """Weights of order one, so that every part of the model matters."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
    return model


def by_hand(model, X, y):
    """A pre-norm decoder with explicit attention, token after token."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    dim, width, heads = model.dim, model.width, model.heads

    def normed(h, name):
        centred = h - h.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / scale * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def mapped(h, name):
        return h @ weights[f"{name}weight"].T + weights[f"{name}bias"]

    out = []
    for prompt, labels in zip(X, y, strict=True):
        tokens = []
        for x, label in zip(prompt, labels, strict=True):
            tokens += [x, torch.cat([label[None], torch.zeros(dim - 1).double()])]
        h = mapped(torch.stack(tokens[:-1]), "read_in.") + weights["positions"][: len(tokens) - 1]
        states = [h]
        for layer in range(model.layers):
            block = f"blocks.{layer}"
            q, k, v = mapped(normed(h, f"{block}.norm1"), f"{block}.self_attn.in_proj_").split(
                width, dim=-1
            )
            attended = torch.zeros_like(h)
            for head in range(heads):
                part = slice(head * width // heads, (head + 1) * width // heads)
                for c in range(len(h)):
                    scores = k[: c + 1, part] @ q[c, part] / (width // heads) ** 0.5
                    attended[c, part] = torch.softmax(scores, 0) @ v[: c + 1, part]
            h = h + mapped(attended, f"{block}.self_attn.out_proj.")
            inner = mapped(normed(h, f"{block}.norm2"), f"{block}.linear1.")
            gelu = inner * (1 + torch.erf(inner / 2**0.5)) / 2
            h = h + mapped(gelu, f"{block}.linear2.")
            states.append(h)
        out.append((torch.stack(states)[:, ::2], mapped(normed(h, "norm")[::2], "readout.")[:, 0]))
    return torch.stack([s for s, _ in out], dim=1), torch.stack([p for _, p in out])


# -- the model -----------------------------------------------------------------------------------


def test_the_model_is_the_decoder_written_by_hand():
    model = spread_out(finite.Transformer(**SMALL)).double()
    X, y = prompts(3, 5)
    states, predictions = by_hand(model, X, y)
    assert torch.allclose(model.hidden_states(X, y), states, rtol=0, atol=1e-11)
    assert torch.allclose(model.predict_all(X, y), predictions, rtol=0, atol=1e-11)
    # Control: without one of the positions the numbers are others.
    with torch.no_grad():
        model.positions[3] *= 1.05
    assert not torch.allclose(model.predict_all(X, y), predictions, rtol=0, atol=1e-4)


def test_tokens_are_interleaved():
    X, y = prompts(2, 3)
    tokens = interleaved(X, y)
    assert tokens.shape == (2, 5, 3)
    assert torch.equal(tokens[:, ::2], X)
    assert torch.equal(tokens[:, 1::2, 0], y[:, :-1])
    assert not tokens[:, 1::2, 1:].any()


def test_predictions_are_causal_and_the_last_label_is_not_read():
    model = spread_out(finite.Transformer(**SMALL)).double()
    X, y = prompts()
    whole = model.predict_all(X, y)
    for i in range(6):
        later = X.clone(), y.clone()
        later[0][:, i + 1 :] += 1
        later[1][:, i:] += 1
        changed = model.predict_all(*later)
        assert torch.equal(changed[:, : i + 1], whole[:, : i + 1])
        assert i == 5 or not torch.allclose(changed[:, i + 1 :], whole[:, i + 1 :])
        one = model(X[:, :i], y[:, :i], X[:, i])
        assert torch.allclose(one, whole[:, i], rtol=0, atol=1e-12)


def test_states_end_in_the_predictions():
    model = spread_out(finite.Transformer(**SMALL)).eval()
    X, y = prompts()
    with torch.no_grad():
        states = model.hidden_states(X, y)
        assert states.shape == (3, 4, 6, 16)
        assert states.dtype == torch.float32
        assert torch.allclose(model.read_out(states[-1]), model.predict_all(X, y), atol=1e-5)


def test_start_is_seeded_and_narrow_where_it_adds_to_the_stream():
    models = [finite.Transformer(dim=5, layers=8, width=64, seed=seed) for seed in (1, 1, 2)]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["read_in.weight"], states[2]["read_in.weight"])
    wide = states[0]["blocks.0.linear1.weight"]
    narrow = states[0]["blocks.0.linear2.weight"]
    assert float(wide.std()) == pytest.approx(1 / 8, rel=0.03)
    assert float(narrow.std()) == pytest.approx(1 / 16 / 4, rel=0.03)


def test_inputs_go_to_the_device_of_the_weights():
    model = finite.Transformer(**SMALL).to("meta")
    assert model.predict_all(*prompts()).device.type == "meta"


def test_the_size_of_the_paper():
    model = finite.Transformer(dim=20, layers=12, width=256, heads=8, points=101)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == pytest.approx(9.5e6, rel=0.01)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 15}, "width = 15 is not a multiple of heads = 2"),
        ({"layers": 0}, "layers = 0"),
        ({"dim": 2.5}, "dim = 2.5"),
        ({"points": -1}, "points = -1"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_wrong_sizes_are_refused(change, message):
    with pytest.raises(InvalidInput, match=message):
        finite.Transformer(**{**SMALL, **change})


def test_wrong_prompts_are_refused():
    model = finite.Transformer(**SMALL)
    X, y = prompts(2, 9)
    with pytest.raises(InvalidInput, match=r"9 x tokens, the query among them.*points=9"):
        model.predict_all(X, y)
    with pytest.raises(InvalidInput, match="9 x tokens"):
        model(X[:, :8], y[:, :8], X[:, 8])
    with pytest.raises(InvalidInput, match=r"\(2, 9, 2\).*must be \(B, N, 3\)"):
        model.predict_all(X[..., :2], y)
    with pytest.raises(InvalidInput, match=r"y \(2, 5\)"):
        model.predict_all(X[:, :6], y[:, :5])
    with pytest.raises(InvalidInput, match="type ndarray, y Tensor; pass torch tensors"):
        model.predict_all(X[:, :6].numpy(), y[:, :6])


# -- training ------------------------------------------------------------------------------------


def weights(model):
    return [value.clone() for value in model.state_dict().values()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def interrupt_batch(monkeypatch, step):
    """Ctrl-C while the prompts of `step` (from 0) are drawn."""
    original, calls = training.sample_prompts, iter(range(10**6))

    def draw(*arguments):
        if next(calls) == step:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "sample_prompts", draw)


def test_training_learns_from_the_examples():
    """d = 1: the loss of predicting zero is 1; after some hundred steps one example helps."""
    task = icl.LinearRegression(dim=1)
    model = finite.Transformer(dim=1, layers=2, width=32, heads=2, points=6, seed=1)
    finite.train(
        model, task, 5, steps=350, seed=1, batch_size=64, warmup=50, clip_norm=1.0,
        learning_rate=3e-3, progress=False,
    )  # fmt: skip
    risk = measure_risk(model, task, 5, prompts=4000, seed=3)
    assert risk.value + 5 * risk.standard_error < 0.5
    assert model.positions.dtype == torch.float32


@pytest.mark.parametrize("stop", [1, 25, 39])
def test_resume_is_bit_for_bit(tmp_path, monkeypatch, stop):
    options = {
        **FEW, "seed": 3, "warmup": 10, "clip_norm": 0.5, "record_every": 20,
        "curriculum": Curriculum(dim=1, points=3, every=10),
    }  # fmt: skip
    whole = finite.train(finite.Transformer(**SMALL), TASK, **options)
    file = tmp_path / "run.pt"
    with monkeypatch.context() as patch:
        interrupt_batch(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            finite.train(finite.Transformer(**SMALL), TASK, checkpoint=file, **options)
    resumed = finite.train(finite.Transformer(**SMALL), TASK, checkpoint=file, **options)
    assert np.array_equal(resumed.loss, whole.loss)
    assert same(weights(resumed.model), weights(whole.model))
    assert np.array_equal(resumed.trajectory["positions"], whole.trajectory["positions"])
    again = finite.train(finite.load(file), TASK, checkpoint=file, **options)
    assert same(weights(again.model), weights(whole.model))
    for change, message in (
        ({"curriculum": None}, None),
        ({"curriculum": Curriculum(dim=2, points=3, every=10)}, "curriculum = "),
        ({"warmup": 11}, "warmup = 10 there, 11 here"),
        ({"clip_norm": 0.6}, "clip_norm = 0.5 there, 0.6 here"),
    ):
        with pytest.raises(CheckpointError, match=message or "another training"):
            finite.train(
                finite.Transformer(**SMALL), TASK, checkpoint=file, **{**options, **change}
            )


def test_the_loss_is_over_all_x_tokens_with_the_labels_that_follow():
    """One step of SGD against the same step by hand."""
    task = icl.LinearRegression(dim=3, noise_var=0.5)
    options = {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "constant", "progress": False}
    model, twin = finite.Transformer(**SMALL), finite.Transformer(**SMALL)
    run = finite.train(model, task, 7, steps=1, seed=5, batch_size=9, **options)
    X, y, query, target = (
        torch.from_numpy(a)
        for a in sample_prompts(task_arrays(task), 7, 9, training.step_generator(5, 0))
    )
    loss = sum(
        ((twin(X[:, :i], y[:, :i], (X[:, i] if i < 7 else query)) - (y[:, i] if i < 7 else target)) ** 2).mean()
        for i in range(8)
    ) / 8  # fmt: skip
    assert run.loss[0] == pytest.approx(loss.item(), rel=1e-6)
    loss.backward()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter -= 0.1 * parameter.grad
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_clipped_and_warmed_up():
    start = weights(finite.Transformer(**SMALL))
    options = {**FEW, "steps": 1, "optimizer": "sgd", "learning_rate": 1.0, "schedule": "constant"}

    def moved(**more):
        model = finite.Transformer(**SMALL)
        finite.train(model, TASK, **options, **more)
        pairs = zip(weights(model), start, strict=True)
        return sum(float((a - b).double().square().sum()) for a, b in pairs) ** 0.5

    free = moved()
    assert moved(clip_norm=free / 10) == pytest.approx(free / 10, rel=1e-3)
    assert moved(clip_norm=free * 10) == pytest.approx(free, rel=1e-6)
    assert moved(warmup=4) == pytest.approx(free / 4, rel=1e-3)


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (icl.LinearRegression(dim=3, local=(0.5, 1)), {}, "without local examples"),
        (TASK, {"average_prompts": True}, "leave average_prompts"),
        (TASK, {"curriculum": (1, 3, 10)}, r"curriculum is finite.Curriculum\(...\)"),
        (TASK, {"prompt_length": 8}, "9 x tokens"),
        (TASK, {"warmup": -1}, "warmup = -1"),
        (TASK, {"clip_norm": 0}, "clip_norm = 0 is not positive"),
        (icl.LinearRegression(dim=4), {}, "dim = 4, the model 3"),
    ],
)
def test_trainings_that_do_not_fit_are_refused(task, options, message):
    with pytest.raises(InvalidInput, match=message):
        finite.train(finite.Transformer(**SMALL), task, **{**FEW, **options})


def test_other_models_and_many_models_are_refused():
    plan = Curriculum(dim=1, points=3, every=10)
    with pytest.raises(InvalidInput, match=r"for a SequenceModel such as finite\.Transformer"):
        finite.train(finite.LinearAttention(3), TASK, curriculum=plan, **FEW)
    with pytest.raises(
        InvalidInput, match=r"models\[1\] is a Transformer.*train it with finite.train"
    ):
        finite.train_many(
            [finite.LinearAttention(3), finite.Transformer(**SMALL)], [(TASK, 7)] * 2, steps=2
        )
    solver = finite.SolverModel(icl.GradientDescent(0.01), 3, 2)
    with pytest.raises(InvalidInput, match="SolverModel has no parameters to train"):
        finite.train(solver, TASK, **FEW)


# -- files ---------------------------------------------------------------------------------------


def test_checkpoints_of_another_size_are_refused(tmp_path):
    path = finite.save(spread_out(finite.Transformer(**SMALL)), tmp_path / "model.pt")
    loaded = finite.load(path)
    assert loaded.config == SMALL
    X, y = prompts()
    assert torch.equal(
        loaded.predict_all(X, y), spread_out(finite.Transformer(**SMALL)).predict_all(X, y)
    )
    for change in ({"layers": 3}, {"width": 32}, {"points": 9}, {"heads": 4}, {"dim": 2}):
        ((name, value),) = change.items()
        other = finite.Transformer(**{**SMALL, **change})
        before = weights(other)
        with pytest.raises(CheckpointError, match=rf"{name}={SMALL[name]}.*{name}={value}"):
            finite.load(path, into=other)
        assert same(weights(other), before)
    with pytest.raises(CheckpointError, match=r"Transformer\(.*not LSTM\("):
        finite.load(path, into=finite.LSTM(3))
