"""Training: reaches the predicted optimum, resumes bit for bit, stops when it diverges."""

import os

import numpy as np
import pytest
import torch

import icltheory as icl
from icltheory.errors import CheckpointError, InvalidInput, TrainingDiverged
from numeric import finite
from numeric.compare import compare
from numeric.finite import training
from numeric.risk import optimal_risk
from numeric.validate import measure_risk, validate

TASK = icl.LinearRegression(dim=3)
FEW = {"prompt_length": 10, "steps": 60, "batch_size": 32, "progress": False}


def weights(model):
    return [value.clone() for value in model.state_dict().values()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def numpy_state():
    return str(np.random.get_state())  # noqa: NPY002


class Interrupting(torch.optim.Adam):
    """Ctrl-C in the `at`-th update, after the weights changed."""

    at = 0

    def step(self, closure=None):
        super().step(closure)
        Interrupting.at -= 1
        if Interrupting.at == 0:
            raise KeyboardInterrupt


def interrupt_batch(monkeypatch, step):
    """Ctrl-C while the prompts of `step` (from 0) are drawn."""
    original = training.sample_prompts
    calls = iter(range(10**6))

    def draw(*arguments):
        if next(calls) == step:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "sample_prompts", draw)


# -- the optimum ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("heads", "values"), [(1, "same"), (2, "opposite")])
def test_training_reaches_the_predicted_optimum(heads, values):
    """d = 3, n = 20: within 2 % of the optimum plus five standard errors; a prediction 5 % off is refused."""
    model = finite.SoftmaxAttention(3, heads, values=values, seed=heads)
    run = finite.train(model, TASK, 20, steps=1500, seed=1, progress=False)
    best = optimal_risk(TASK, model.attention, 20)
    measured = measure_risk(model, TASK, 20, prompts=600_000, seed=7)
    row = compare({}, float(best.risk), measured.value, measured.standard_error, 0.02)
    assert row.verdict == "agrees", row
    for factor in (0.95, 1.05):
        control = compare(
            {}, factor * float(best.risk), measured.value, measured.standard_error, 0.02
        )
        assert control.verdict == "deviates"
    assert run.smoothed_loss[-1] < 0.6 * run.loss[:20].mean()
    learned = model.learned(TASK)
    if heads == 1:
        assert learned.score_scales[0] * learned.values[0] == pytest.approx(
            float(best.score_scale) * float(best.value_scale), rel=0.05
        )
        assert learned.off_scalar[0] < 0.1
    else:
        # Only sums are determined: the risk is flat in k. n/(n - 1 + d + 1) as k -> 0.
        assert abs(learned.sum_values) < 0.05 * np.abs(learned.values).sum()
        assert learned.sum_value_scores == pytest.approx(20 / 23, rel=0.05)


def test_linear_attention_reaches_its_optimum_with_sgd():
    model = finite.LinearAttention(3)
    finite.train(model, TASK, 20, steps=600, seed=2, optimizer="sgd", progress=False)
    table = validate(model, TASK, 20, prompts=600_000, allowance=0.01)
    assert table.passed, str(table)
    assert not table.scaled(1.05).passed
    a = np.trace(model.A.detach().numpy()) / 3
    assert a == pytest.approx(20 / 24, rel=0.03)


# -- one run -------------------------------------------------------------------------------------


def test_run_is_deterministic_and_seeded():
    runs = [finite.train(finite.SoftmaxAttention(3), TASK, seed=seed, **FEW) for seed in (4, 4, 5)]
    assert np.array_equal(runs[0].loss, runs[1].loss)
    assert same(weights(runs[0].model), weights(runs[1].model))
    assert not np.array_equal(runs[0].loss, runs[2].loss)


def test_training_prompts_are_not_those_of_an_evaluation_with_the_same_seed():
    seen = []

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, X, y, query):
            seen.append(X[0, 0, 0].item())
            return self.a * y[:, 0]

    model = Spy()
    finite.train(model, TASK, 10, steps=5, seed=0, progress=False)
    drawn = set(seen)
    seen.clear()
    measure_risk(model, TASK, 10, prompts=1000, seed=0, batch=256)
    validate(model, TASK, [10], prompts=1000, seed=0)
    assert len(drawn) == 5
    assert not drawn & set(seen)


def test_nothing_global_changes():
    before = torch.get_rng_state(), numpy_state(), torch.get_default_dtype()
    finite.train(finite.SoftmaxAttention(3, 2, values="random"), TASK, **FEW)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert numpy_state() == before[1]
    assert torch.get_default_dtype() is before[2]
    assert torch.get_num_threads() == 1


def test_run_shows_itself():
    run = finite.train(finite.SoftmaxAttention(3), TASK, schedule="constant", **FEW)
    assert "SoftmaxAttention: 60 steps" in str(run)
    page = run._repr_html_()
    assert "<td>schedule</td><td>constant</td>" in page
    assert page.count("<svg") == 1
    expected = [run.loss[max(0, i - 99) : i + 1].mean() for i in range(60)]
    assert run.smoothed_loss == pytest.approx(expected)
    axes = run.plot()
    assert axes.get_xlabel() == "step"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": "lbfgs"}, "optimizer = 'lbfgs' is not one of adam, sgd"),
        ({"schedule": "linear"}, "schedule = 'linear' is not one of cosine, constant"),
        ({"learning_rate": 0}, "learning_rate = 0 is not positive"),
        ({"steps": 0}, "steps = 0"),
        ({"prompt_length": 2.5}, "prompt_length = 2.5"),
        ({"batch_size": -1}, "batch_size = -1"),
        ({"seed": -1}, "seed = -1"),
        ({"checkpoint": "/no/such/folder/run.pt"}, "cannot be written"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        finite.train(finite.SoftmaxAttention(3), TASK, **{**FEW, **arguments})


def test_wrong_models_are_refused():
    with pytest.raises(InvalidInput, match="dim = 3, the model 4"):
        finite.train(finite.SoftmaxAttention(4), TASK, **FEW)
    with pytest.raises(InvalidInput, match="pass a torch module"):
        finite.train(lambda X, y, query: y[:, 0], TASK, **FEW)

    class Wrong(finite.LinearAttention):
        def forward(self, X, y, query):
            return super().forward(X, y, query)[:, None]

    with pytest.raises(InvalidInput, match=r"returned shape \(32, 1\); it must return \(32,\)"):
        finite.train(Wrong(3), TASK, **FEW)


# -- divergence ----------------------------------------------------------------------------------


def test_divergence_stops_with_the_step_and_a_remedy(tmp_path):
    file = tmp_path / "run.pt"
    options = {**FEW, "optimizer": "sgd", "learning_rate": 50.0, "checkpoint": file}
    with pytest.raises(TrainingDiverged, match=r"at step \d+, beyond 1e\+03.*learning_rate = 50"):
        finite.train(finite.LinearAttention(3), TASK, **options)
    # The checkpoint is the last good one, here the start.
    assert same(weights(finite.load(file)), weights(finite.LinearAttention(3)))


def test_a_loss_that_is_no_number_is_divergence():
    model = finite.LinearAttention(3)
    with torch.no_grad():
        model.A[0, 0] = float("nan")
    with pytest.raises(TrainingDiverged, match="loss is nan at step 1"):
        finite.train(model, TASK, **FEW)


# -- resume --------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("stop", [1, 30, 59])
def test_resume_is_bit_for_bit(tmp_path, monkeypatch, stop, optimizer):
    options = {**FEW, "seed": 3, "optimizer": optimizer, "record_every": 20}
    whole = finite.train(finite.SoftmaxAttention(3, 2, seed=1), TASK, **options)
    file = tmp_path / "run.pt"
    with monkeypatch.context() as patch:
        interrupt_batch(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            finite.train(finite.SoftmaxAttention(3, 2, seed=1), TASK, checkpoint=file, **options)
    with pytest.raises(CheckpointError, match="start = "):
        finite.train(finite.SoftmaxAttention(3, 2, seed=99), TASK, checkpoint=file, **options)
    assert len(training.read(file)["training"]["loss"]) == stop
    fresh = finite.SoftmaxAttention(3, 2, seed=1)
    resumed = finite.train(fresh, TASK, checkpoint=file, **options)
    assert np.array_equal(resumed.loss, whole.loss)
    assert same(weights(resumed.model), weights(whole.model))
    assert list(whole.recorded_steps) == [0, 20, 40, 60]
    assert np.array_equal(resumed.trajectory["A"], whole.trajectory["A"])
    # A finished run is only read.
    again = finite.train(finite.load(file), TASK, checkpoint=file, **options)
    assert same(weights(again.model), weights(whole.model))
    assert os.listdir(tmp_path) == ["run.pt"]


def test_interruption_within_an_update_keeps_the_checkpoint_before(tmp_path, monkeypatch):
    whole = finite.train(finite.SoftmaxAttention(3), TASK, **FEW)
    file = tmp_path / "run.pt"
    options = {**FEW, "checkpoint": file, "checkpoint_every": 20}
    monkeypatch.setitem(training.OPTIMIZERS, "adam", (Interrupting, 0.02))
    Interrupting.at = 33
    with pytest.raises(KeyboardInterrupt):
        finite.train(finite.SoftmaxAttention(3), TASK, **options)
    assert len(training.read(file)["training"]["loss"]) == 20
    resumed = finite.train(finite.SoftmaxAttention(3), TASK, **options)
    assert np.array_equal(resumed.loss, whole.loss)
    assert same(weights(resumed.model), weights(whole.model))


def test_without_resume_it_starts_anew(tmp_path):
    options = {**FEW, "checkpoint": tmp_path / "run.pt"}
    finite.train(finite.SoftmaxAttention(3), TASK, seed=1, **options)
    run = finite.train(finite.SoftmaxAttention(3), TASK, seed=2, resume=False, **options)
    expected = finite.train(finite.SoftmaxAttention(3), TASK, seed=2, **FEW)
    assert np.array_equal(run.loss, expected.loss)


def test_resume_refuses_another_training(tmp_path):
    file = tmp_path / "run.pt"
    finite.train(finite.SoftmaxAttention(3), TASK, checkpoint=file, **FEW)
    for change, message in (
        ({"steps": 61}, "steps = 60 there, 61 here"),
        ({"seed": 5}, "seed = 0 there, 5 here"),
        ({"learning_rate": 0.5}, "learning_rate = 0.02 there, 0.5 here"),
    ):
        with pytest.raises(CheckpointError, match=message):
            finite.train(finite.SoftmaxAttention(3), TASK, checkpoint=file, **{**FEW, **change})
    model = finite.SoftmaxAttention(3, 2)
    before = weights(model)
    with pytest.raises(CheckpointError, match=r"heads=1.*heads=2"):
        finite.train(model, TASK, checkpoint=file, **FEW)
    assert same(weights(model), before)
    finite.save(finite.SoftmaxAttention(3), file)
    with pytest.raises(CheckpointError, match="without the state of a training"):
        finite.train(finite.SoftmaxAttention(3), TASK, checkpoint=file, **FEW)


@pytest.mark.parametrize(("width", "expected"), [(3, 1), (400, 2)])
def test_small_models_are_trained_on_one_thread(width, expected):
    seen = []

    class Watched(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = torch.nn.Parameter(torch.zeros(width, width, dtype=torch.float64))

        def forward(self, X, y, query):
            seen.append(torch.get_num_threads())
            return query[:, 0] * self.matrix[0, 0]

    torch.set_num_threads(2)
    finite.train(Watched(), TASK, 5, steps=2, progress=False)
    assert set(seen) == {expected}
    assert torch.get_num_threads() == 2
