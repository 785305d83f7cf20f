"""Attention over joint tokens: the layer itself, its starts, and its infinite-prompt gradients."""

import numpy as np
import pytest
import torch

import icltheory as icl
from icltheory.errors import InvalidInput
from numeric import finite
from numeric.arrays import task_arrays
from numeric.compare import compare
from numeric.risk import exact_risk

RNG = np.random.default_rng(31)
BLOCKS = {
    "A": RNG.standard_normal((3, 3)),
    "u": RNG.standard_normal(3),
    "v": RNG.standard_normal(3),
    "b": 1.3,
}


def prompt(batch=5, n=6, dim=3):
    shapes = ((batch, n, dim), (batch, n), (batch, dim))
    return [torch.from_numpy(RNG.standard_normal(shape)) for shape in shapes]


def token_layer(kind, X, y, query, A, u, v, b):
    """The (d+1) x (d+1) matrices of the paper, token by token."""
    d = len(u)
    U, V = np.zeros((d + 1, d + 1)), np.zeros((d + 1, d + 1))
    U[:d, :d], U[d, :d], V[d, :d], V[d, d] = A, u, v, b
    out = []
    for features, labels, q in zip(X, y, query, strict=True):
        tokens = np.column_stack([features, labels])
        scores = tokens @ U @ np.append(q, 0.0)
        p = np.exp(scores) / np.exp(scores).sum() if kind == "softmax" else scores / len(tokens)
        out.append((V @ (tokens.T @ p))[d])
    return np.array(out)


@pytest.mark.parametrize("kind", ["softmax", "linear"])
def test_layer_equals_the_token_matrices(kind):
    model = finite.TokenAttention.from_blocks(**BLOCKS, kind=kind)
    tensors = prompt()
    expected = token_layer(kind, *(t.numpy() for t in tensors), **BLOCKS)
    assert np.allclose(model(*tensors).detach().numpy(), expected, rtol=1e-13, atol=1e-13)


def test_not_merged_is_the_merged_layer_of_its_blocks():
    model = finite.TokenAttention(3, merged=False, start="small", scale=0.6, seed=4)
    merged = finite.TokenAttention.from_blocks(**model.blocks())
    tensors = prompt()
    assert torch.allclose(model(*tensors), merged(*tensors), rtol=1e-13, atol=1e-14)


def test_transposed_scores_are_those_of_softmax_attention():
    """A here is the transpose of A_h there; u = v = 0."""
    model = finite.TokenAttention.from_blocks(BLOCKS["A"], 0.7)
    other = finite.SoftmaxAttention(3)
    with torch.no_grad():
        other.A.copy_(torch.from_numpy(BLOCKS["A"].T.copy())[None])
        other.v.fill_(0.7)
    tensors = prompt()
    assert torch.allclose(model(*tensors), other(*tensors), rtol=1e-13, atol=1e-14)
    with torch.no_grad():
        other.A.copy_(torch.from_numpy(BLOCKS["A"])[None])
    assert not torch.allclose(model(*tensors), other(*tensors), rtol=1e-2)


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("start", ["random_psd", "balanced"])
def test_starts_of_the_paper(start, merged):
    blocks = finite.TokenAttention(4, start=start, scale=0.2, merged=merged, seed=1).blocks()
    assert np.linalg.norm(blocks["A"]) == pytest.approx(0.2, rel=1e-12)
    assert np.allclose(blocks["A"], blocks["A"].T, atol=1e-14)
    assert np.linalg.eigvalsh(blocks["A"]).min() > 0
    assert blocks["b"] == 0.2
    assert not blocks["u"].any()
    assert not blocks["v"].any()


def test_small_start_has_every_block():
    blocks = finite.TokenAttention(30, start="small", scale=0.2, seed=3).blocks()
    assert np.std(blocks["A"]) == pytest.approx(0.2, rel=0.1)
    assert all(np.any(block) for block in blocks.values())
    other = finite.TokenAttention(30, start="small", scale=0.2, seed=4).blocks()
    assert not np.allclose(blocks["A"], other["A"])


def test_invariant_set_is_kept_on_average():
    """With u = v = 0 the mean gradient in u and v is zero (sign symmetry of the labels)."""
    model = finite.TokenAttention(3, start="random_psd", scale=0.8, seed=2)
    X, y, query = prompt(4000, 8)
    target = torch.zeros(4000, dtype=torch.float64)
    gradients = []
    for sign in (1, -1):
        model.zero_grad()
        ((model(X, sign * y, query) - sign * target) ** 2).mean().backward()
        gradients.append((model.u.grad.clone(), model.v.grad.clone(), model.A.grad.clone()))
    assert torch.allclose(gradients[0][0], -gradients[1][0])
    assert torch.allclose(gradients[0][1], -gradients[1][1])
    assert torch.allclose(gradients[0][2], gradients[1][2])


def test_saved_and_loaded(tmp_path):
    model = finite.TokenAttention(3, "linear", merged=False, seed=5)
    path = finite.save(model, tmp_path / "tokens.pt")
    loaded = finite.load(path)
    assert loaded.config == model.config
    tensors = prompt()
    assert torch.equal(loaded(*tensors), model(*tensors))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: finite.TokenAttention(3, "relu"), "not one of softmax, linear"),
        (lambda: finite.TokenAttention(3, start="zero"), "not one of balanced"),
        (lambda: finite.TokenAttention(3, scale=0), "not positive"),
        (lambda: finite.TokenAttention(0), "integer of at least 1"),
        (lambda: finite.TokenAttention.from_blocks([[1, 2]], 1), "d x d"),
        (lambda: finite.TokenAttention.from_blocks([[1]], [1, 2]), r"b has shape \(2,\)"),
        (lambda: finite.TokenAttention.from_blocks([[1]], 1, u=[1, 2]), r"must be \(1,\)"),
        (lambda: finite.TokenAttention.from_blocks([[np.nan]], 1), "NaN"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(InvalidInput, match=message):
        make()


# -- many at once --------------------------------------------------------------------------------

TASK = icl.LinearRegression(dim=3, noise_var=0.1)
FEW = {"steps": 25, "batch_size": 16, "record_every": 5, "progress": False}


def starts():
    return [
        finite.TokenAttention(3, start="small", seed=1),
        finite.TokenAttention(3, "linear", seed=1),
        finite.TokenAttention(3, start="small", seed=2),
        finite.SoftmaxAttention(3, 2, seed=1),
        finite.SoftmaxAttention(3, 2, seed=2),
    ]


TARGETS = [(TASK, 6), (TASK, 6), (TASK, 6), (TASK, 6), (icl.LinearRegression(dim=3), 6)]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_many_are_the_single_trainings(optimizer):
    seeds = [5, 5, 6, 7, 7]
    together = finite.train_many(starts(), TARGETS, seeds=seeds, optimizer=optimizer, **FEW)
    for model, (task, n), seed, run in zip(starts(), TARGETS, seeds, together, strict=True):
        alone = finite.train(model, task, n, seed=seed, optimizer=optimizer, **FEW)
        assert np.allclose(run.loss, alone.loss, rtol=1e-9)
        assert list(run.recorded_steps) == [0, 5, 10, 15, 20, 25]
        for name, values in alone.trajectory.items():
            assert np.allclose(run.trajectory[name], values, rtol=1e-7, atol=1e-9)
        for name, parameter in run.model.named_parameters():
            last = run.trajectory[name][-1]
            assert np.array_equal(parameter.detach().numpy(), last)
        assert run.settings == alone.settings


def test_many_say_which_one_diverged():
    models = starts()[:1] + starts()[2:3]
    with torch.no_grad():
        models[1].b.fill_(1e6)
    with pytest.raises(icl.TrainingDiverged, match="loss of model 1 is"):
        finite.train_many(models, [(TASK, 6)] * 2, **FEW)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"models": []}, "give at least one model"),
        ({"targets": TARGETS[:2]}, "1 models, 2 tasks_and_lengths and 1 seeds"),
        ({"seeds": [1, 2]}, "1 models, 1 tasks_and_lengths and 2 seeds"),
        ({"targets": [(TASK, 0)]}, "at least 1"),
        ({"targets": [(icl.LinearRegression(dim=2), 4)]}, "dim = 2, the model 3"),
        ({"seeds": [-1]}, "at least 0"),
    ],
)
def test_wrong_lists_are_refused(change, message):
    given = {"models": starts()[:1], "targets": TARGETS[:1], "seeds": [0], **change}
    with pytest.raises(InvalidInput, match=message):
        finite.train_many(given["models"], given["targets"], seeds=given["seeds"], **FEW)


# -- averaged over prompts -----------------------------------------------------------------------

CORRELATED = icl.LinearRegression(
    dim=3, noise_var=0.2, feature_cov=[[1, 0.5, 0.2], [0.5, 1, 0.5], [0.2, 0.5, 1]]
)


@pytest.mark.parametrize("kind", ["softmax", "linear"])
@pytest.mark.parametrize("n", [1, 4, 40])
def test_averaged_risk_is_the_mean_over_prompts(kind, n):
    """At one coefficient vector and query, 400000 / n prompts of the layer itself, all blocks."""
    small = {name: 0.5 * np.asarray(block) for name, block in BLOCKS.items()}
    model = finite.TokenAttention.from_blocks(**small, kind=kind)
    averaged = finite.AveragedRisk(CORRELATED, n)
    arrays, rng = task_arrays(CORRELATED), np.random.default_rng(n)
    theta, query = averaged.draw(rng, 1)
    expected = averaged(model, theta, query).item()
    size = 400_000 // n
    X = torch.from_numpy(rng.standard_normal((size, n, 3)) @ arrays.feature_root)
    noise = np.sqrt(arrays.noise_var) * rng.standard_normal((size, n))
    y = (X @ theta[0]) + torch.from_numpy(noise)
    error = (model(X, y, query.expand(size, 3)) - theta[0] @ query[0]).detach().numpy() ** 2
    standard_error = error.std() / np.sqrt(size)
    row = compare({}, expected, error.mean(), standard_error)
    assert row.verdict == "agrees", row
    assert row.resolution < 0.06
    assert compare({}, 1.1 * expected, error.mean(), standard_error).verdict == "deviates"


def test_averaged_risk_of_a_scalar_head_is_the_exact_risk():
    """The mean over many coefficients and queries against quadrature."""
    task = icl.LinearRegression(dim=3, noise_var=0.3)
    model = finite.TokenAttention.from_blocks(0.45 * np.eye(3), 1.7)
    averaged = finite.AveragedRisk(task, 40)
    values = averaged(model, *averaged.draw(np.random.default_rng(1), 400_000)).detach().numpy()
    exact = exact_risk(task, icl.SoftmaxAttention(heads=1), 40, score_scale=0.45, value_scale=1.7)
    row = compare({}, exact, values.mean(), values.std() / np.sqrt(len(values)))
    assert row.verdict == "agrees", row
    assert row.resolution < 0.03


@pytest.mark.parametrize("kind", ["softmax", "linear"])
def test_averaged_gradient_is_that_of_its_differences(kind):
    model = finite.TokenAttention(3, kind, start="small", scale=0.5, seed=7)
    averaged = finite.AveragedRisk(CORRELATED, 12)
    theta, query = averaged.draw(np.random.default_rng(2), 50)
    averaged(model, theta, query).mean().backward()
    for name, parameter in model.named_parameters():
        direction = torch.from_numpy(RNG.standard_normal(tuple(parameter.shape)))
        values = []
        for step in (-1e-4, 1e-4):
            with torch.no_grad():
                parameter.add_(step * direction)
            values.append(averaged(model, theta, query).mean().item())
            with torch.no_grad():
                parameter.sub_(step * direction)
        slope = (values[1] - values[0]) / 2e-4
        assert slope == pytest.approx(float((parameter.grad * direction).sum()), rel=2e-6), name


def test_averaged_training_is_the_mean_course_of_training():
    """Forty short trainings on sampled prompts, from one start, against the averaged one."""
    options = {
        "steps": 40,
        "batch_size": 64,
        "record_every": 40,
        "optimizer": "sgd",
        "learning_rate": 0.1,
        "schedule": "constant",
        "progress": False,
    }
    task = icl.LinearRegression(dim=2, noise_var=0.1, coef_cov=1)

    def start():
        return finite.TokenAttention(2, start="small", scale=0.5, seed=11)

    runs = finite.train_many([start() for _ in range(40)], [(task, 20)] * 40, **options)
    alone = finite.train(
        start(), task, 20, average_prompts=True, **{**options, "batch_size": 20_000}
    )
    for name in ("A", "u", "v", "b"):
        values = np.array([run.trajectory[name][-1] for run in runs])
        errors = values.std(0, ddof=1) / np.sqrt(len(values))
        z = (values.mean(0) - alone.trajectory[name][-1]) / errors
        assert np.all(np.abs(z) < 5), (name, z)
        if name in ("A", "b"):  # the start is rejected
            moved = (values.mean(0) - alone.trajectory[name][0]) / errors
            assert np.abs(moved).max() > 6, name


def test_averaged_training_refuses_other_layers_and_large_scores():
    with pytest.raises(InvalidInput, match=r"one softmax head .* not for 2 heads"):
        finite.train(finite.SoftmaxAttention(3, 2), TASK, 5, steps=1, average_prompts=True)
    model = finite.TokenAttention.from_blocks(100 * np.eye(3), 1)
    with pytest.raises(icl.OutOfDomain, match="standard deviation"):
        finite.train(model, TASK, 5, steps=1, average_prompts=True)
