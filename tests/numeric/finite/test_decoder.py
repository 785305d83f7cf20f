"""The decoder: formula (3) column by column, descent to rounding, noise, and refusals."""

import numpy as np
import pytest
import torch
from decoding_layers import ETA, FORMS, STEPS, D, prompts

import icltheory as icl
from icltheory.errors import InvalidInput, OutOfDomain, TrainingDiverged
from numeric import finite
from numeric.arrays import task_arrays
from numeric.samplers import sample_examples


def descent(X, y, matrix, noise):
    """w <- w - M (S w - b) + noise for one prompt and chain; noise (t, d). All thoughts, (t + 1, d)."""
    w = np.zeros(X.shape[1])
    found = [w]
    for shock in noise:
        w = w - matrix @ (X.T @ (X @ w - y)) / len(X) + shock
        found.append(w)
    return np.array(found)


def dense_columns(model, X, y, noise, divide=None):
    """Formula (3) with whole matrices, one prompt and chain: the raw last columns of f(Z_0), f(Z_1), ..."""
    V, K = (matrix.detach().numpy() for matrix in model.matrices())
    n, d = X.shape
    Z = np.zeros((2 * d + 2, n))
    Z[:d], Z[d] = X.T, y
    w, columns = np.zeros(d), []
    for shock in noise:
        Z = np.column_stack([Z, np.concatenate([np.zeros(d + 1), w, [1.0]])])
        last = (Z + V @ Z @ (Z.T @ K @ Z) / (divide(Z) if divide else n))[:, -1]
        columns.append(last)
        w = last[d + 1 : -1] + shock
    return np.array(columns)


# -- the layer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.3])
@pytest.mark.parametrize("label_noise", [0.0, 0.5])
def test_the_constructed_layer_is_gradient_descent(label_noise, sigma):
    """D1: every thought of every chain to 1e-12, with the same noise; rows x, y are 0 and the flag 1."""
    X, y, _ = prompts(noise=label_noise)
    noise = np.random.default_rng(1).standard_normal((STEPS, 3, 4, D))
    model = finite.LinearSelfAttention.gradient_descent(D, ETA)
    assert model.V.shape == model.K.shape == (2 * D + 2, 2 * D + 2)
    out = model.decode(X, y, STEPS, sigma, 4, noise=noise, trajectory=True).detach().numpy()
    assert out.shape == (STEPS + 1, 3, 4, D)
    for b in range(3):
        for chain in range(4):
            expected = descent(X[b], y[b], ETA * np.eye(D), sigma * noise[:, b, chain])
            np.testing.assert_allclose(out[:, b, chain], expected, rtol=0, atol=1e-12)
    columns = dense_columns(model, X[0], y[0], sigma * noise[:, 0, 0])
    np.testing.assert_allclose(
        columns[:, D + 1 : -1] + sigma * noise[:, 0, 0], out[1:, 0, 0], atol=1e-12
    )
    assert np.all(columns[:, : D + 1] == 0)
    assert np.all(columns[:, -1] == 1)
    # Another step size, and division by the number of columns instead of examples, are seen.
    other = descent(X[0], y[0], 1.03 * ETA * np.eye(D), sigma * noise[:, 0, 0])
    assert np.abs(out[-1, 0, 0] - other[-1]).max() > 1e-4
    wrong = dense_columns(model, X[0], y[0], sigma * noise[:, 0, 0], divide=lambda Z: Z.shape[1])
    assert np.abs(wrong[-1, D + 1 : -1] - columns[-1, D + 1 : -1]).max() > 1e-3


@pytest.mark.parametrize("grad", [True, False])
def test_any_weights_follow_the_dense_formula(grad):
    """Random V and K, in which thoughts attend to thoughts, against (3) as written."""
    X, y, _ = prompts()
    noise = np.random.default_rng(2).standard_normal((STEPS, 3, 2, D))
    model = finite.LinearSelfAttention(D, start_std=0.1, seed=3)
    with torch.set_grad_enabled(grad):
        out = model.decode(X, y, STEPS, 0.2, 2, noise=noise, trajectory=True)
        raw = model.next_column(X, y, out[:STEPS].permute(1, 2, 0, 3))
    for b, chain in ((0, 0), (2, 1)):
        columns = dense_columns(model, X[b], y[b], 0.2 * noise[:, b, chain])
        thoughts = columns[:, D + 1 : -1] + 0.2 * noise[:, b, chain]
        np.testing.assert_allclose(out[1:, b, chain].detach(), thoughts, rtol=0, atol=1e-12)
        np.testing.assert_allclose(raw[b, chain].detach(), columns[-1], rtol=0, atol=1e-12)
    alone = model.reduced().decode(X, y, STEPS, 0.2, 2, noise=noise)
    assert np.abs((out[-1] - alone).detach().numpy()).max() > 1e-2  # the other blocks matter


def test_preconditioned_descent_and_its_gauge():
    X, y, _ = prompts()
    rng = np.random.default_rng(4)
    M = 0.3 * np.eye(D) + 0.02 * rng.standard_normal((D, D))
    model = finite.LinearSelfAttention.preconditioned(M, thoughts=STEPS)
    expected = descent(X[1], y[1], M, np.zeros((STEPS, D)))
    np.testing.assert_allclose(model.decode(X, y)[1, 0].detach(), expected[-1], atol=1e-12)
    # Not symmetric: the transposed matrix is another layer.
    assert np.abs(descent(X[1], y[1], M.T, np.zeros((STEPS, D)))[-1] - expected[-1]).max() > 1e-4
    scaled = finite.LinearSelfAttention(D, thoughts=STEPS).set_blocks(-M / 7, 7 * np.eye(D), -7)
    np.testing.assert_allclose(
        scaled.decode(X, y).detach(), model.decode(X, y).detach(), atol=1e-12
    )
    for layer in (model, scaled):
        learned = layer.learned()
        np.testing.assert_allclose(learned.label_step, M, atol=1e-15)
        np.testing.assert_allclose(learned.state_step, M, atol=1e-15)
        assert learned.largest_other == 0
        assert learned.step_sizes == pytest.approx([np.trace(M) / D] * 2)


def test_forms_are_one_layer():
    X, y, _ = prompts()
    models = [finite.LinearSelfAttention.gradient_descent(D, ETA, form=form) for form in FORMS]
    outs = [model.decode(X, y, 3, 0.1, 2).detach().numpy() for model in models]
    for model, out in zip(models, outs, strict=True):
        np.testing.assert_allclose(out, outs[0], rtol=0, atol=1e-13)
        for matrix, first in zip(model.matrices(), models[0].matrices(), strict=True):
            assert torch.equal(matrix, first)
    assert [sum(p.numel() for p in model.parameters()) for model in models] == [288, 51, 3]
    query = np.random.default_rng(1).standard_normal((3, D))
    one = finite.LinearSelfAttention.gradient_descent(D, ETA, thoughts=3)
    prediction = one(*map(torch.from_numpy, (X, y, query))).detach().numpy()
    expected = [
        query[b] @ descent(X[b], y[b], ETA * np.eye(D), np.zeros((3, D)))[-1] for b in range(3)
    ]
    np.testing.assert_allclose(prediction, expected, atol=1e-12)
    for model in models:  # in single precision as well
        single = model.float().decode(X, y, 3, 0.1, 2)
        assert single.dtype == torch.float32
        np.testing.assert_allclose(single.detach(), outs[0], atol=1e-5)


def test_blocks_that_act_and_blocks_that_do_not():
    """Each of the 14 products appears when its two blocks are set, and changes the thoughts; the
    columns x, y of K and the rows x, y, flag of V never do."""
    X, y, _ = prompts()
    rows = dict(
        zip(
            "1234",
            [slice(0, D), slice(D, D + 1), slice(D + 1, 2 * D + 1), slice(2 * D + 1, None)],
            strict=True,
        )
    )
    base = finite.LinearSelfAttention.gradient_descent(D, ETA)
    names = list(base.learned().others)
    assert len(names) == 14
    for name in names:
        model = finite.LinearSelfAttention.gradient_descent(D, ETA)
        value, key = name.split()
        with torch.no_grad():
            model.V[rows[value[1]], rows[value[2]]] += 0.1
            model.K[rows[key[1]], rows[key[2]]] += 0.1
            assert model.learned().others[name] > 0.01
            assert (model.decode(X, y, 3) - base.decode(X, y, 3)).abs().max() > 1e-3, name
    with torch.no_grad():
        model = finite.LinearSelfAttention.gradient_descent(D, ETA)
        model.K[:, : D + 1] = 1.0
        model.V[: D + 1] = model.V[-1] = 1.0
        assert torch.equal(model.decode(X, y, 3), base.decode(X, y, 3))
        assert model.learned().largest_other == 0


def test_noise_schedules_and_generators():
    X, y, _ = prompts()
    model = finite.LinearSelfAttention.gradient_descent(D, ETA)
    seeds = [torch.Generator().manual_seed(seed) for seed in (7, 7, 8)]
    a, b, c = (model.decode(X, y, 4, 0.3, 2, generator).detach() for generator in seeds)
    assert torch.equal(a, b)
    assert (a - c).abs().max() > 0.1
    state = torch.get_rng_state()
    plain = model.decode(X, y, 4, samples=3).detach()
    assert torch.equal(plain[:, 0], plain[:, 2])
    shocks = torch.ones(4, 3, 3, D, dtype=torch.float64)
    output = model.decode(X, y, 4, [0, 0, 0, 0.5], 3, noise=shocks).detach()
    np.testing.assert_allclose(output, plain + 0.5, atol=1e-14)
    assert torch.equal(torch.get_rng_state(), state)
    moved = model.decode(X, y, 2, start=model.decode(X, y, 2)[:, :1]).detach()
    np.testing.assert_allclose(moved, plain[:, :1], atol=1e-13)
    assert torch.equal(model.decode(X, y, 0), torch.zeros(3, 1, D, dtype=torch.float64))


def test_noisy_chains_have_the_predicted_risk():
    """T4 by the layer's own columns: per coordinate, label noise, mean of 4 chains, 5 standard errors."""
    n, d, sigma_y = 20, 6, 1.2
    spec = icl.NoisyDecoding(0.5, 0.3, 3, samples=4, label_noise_var=sigma_y**2)
    model = finite.LinearSelfAttention.gradient_descent(d, 0.5)
    arrays = task_arrays(icl.LinearRegression(dim=d, coef_cov=1, noise_var=sigma_y**2))
    X, y, _, w = sample_examples(arrays, n, 30_000, np.random.default_rng(3))
    answers = model.candidates(X, y, spec, seed=1)
    assert answers.shape == (30_000, 4, d)
    errors = ((answers.mean(axis=1) - w) ** 2).mean(axis=1)
    found, error = errors.mean(), errors.std() / np.sqrt(len(errors))
    predicted = float(spec.risk(n, d).expr)
    assert abs(found - predicted) < 5 * error
    assert abs(found - 1.05 * predicted) > 5 * error


def test_candidates_take_given_noise():
    """The same normal numbers move `decode`, `candidates` and the recursion alike."""
    X, y, _ = prompts()
    noise = np.random.default_rng(1).standard_normal((STEPS, 3, 4, D))
    model = finite.LinearSelfAttention.gradient_descent(D, ETA)
    spec = icl.NoisyDecoding(ETA, 0.3, STEPS, samples=4)
    found = model.candidates(X, y, spec, noise=noise)
    same = model.decode(X, y, STEPS, 0.3, samples=4, noise=noise).detach().numpy()
    np.testing.assert_allclose(found, same, rtol=0, atol=1e-14)
    # The last number of a step enters the answer as it is.
    noise[-1, 1, 2, 0] += 1
    moved = model.candidates(X, y, spec, noise=noise) - found
    np.testing.assert_allclose(moved[1, 2], [0.3] + [0.0] * (D - 1), atol=1e-14)
    assert np.count_nonzero(np.abs(moved) > 1e-14) == 1
    with pytest.raises(icl.InvalidInput, match="noise has shape"):
        model.candidates(X, y, spec, noise=noise[:, :2])


# -- refused -------------------------------------------------------------------------------------

GOOD = (torch.zeros(2, 4, 3).double(), torch.zeros(2, 4).double())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: finite.LinearSelfAttention(3, form="half"), "form = 'half' is not one of"),
        (lambda m: finite.LinearSelfAttention(0), "dim = 0"),
        (lambda m: finite.LinearSelfAttention.gradient_descent(3, "x"), "step_size"),
        (lambda m: finite.LinearSelfAttention.preconditioned([1, 2]), "pass a square matrix"),
        (lambda m: m.set_blocks(np.eye(2), 1, -1), r"P has shape \(2, 2\)"),
        (lambda m: m.set_blocks(0, 1, -1).learned(), "reads no labels"),
        (lambda m: m.decode(GOOD[0][..., :2], GOOD[1]), r"pass \(B, n, 3\)"),
        (lambda m: m.decode(GOOD[0][:, :0], GOOD[1][:, :0]), "n >= 1"),
        (lambda m: m.decode(*GOOD, -1), "steps = -1"),
        (lambda m: m.decode(*GOOD, 2, -0.1), "noise_std = -0.1"),
        (lambda m: m.decode(*GOOD, 2, [0.1] * 3), "a sequence of 2"),
        (lambda m: m.decode(*GOOD, 2, 0.1, 0), "samples = 0"),
        (lambda m: m.decode(*GOOD, 2, 0.1, noise=np.zeros((3, 2, 1, 3))), "noise has shape"),
        (lambda m: m.decode(*GOOD, 2, start=np.zeros(2)), "start has shape"),
        (lambda m: m.decode(*GOOD, 2, sampler="round"), "sampler has type str"),
        (lambda m: m.decode(*GOOD, 2, sampler=icl.Round(), prior="bits"), "prior has type str"),
        (lambda m: m.decode(*GOOD, 0, sampler=icl.Round()), "leaves no thought to sample"),
        (lambda m: m.next_column(*GOOD, np.zeros((2, 3))), "thoughts has shape"),
        (lambda m: m.candidates(*GOOD, 3), "decoding has type int"),
        (
            lambda m: m.candidates(
                *GOOD, icl.NoisyDecoding(icl.symbols.t, 1, 2, scaled_noise=True)
            ),
            "symbols",
        ),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(InvalidInput, match=message):
        call(finite.LinearSelfAttention(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "chain"}, "loss = 'chain' is not one of"),
        ({"loss": "one_thought", "thoughts": 2}, "has one thought, not 2"),
        ({"loss": "gradient_descent"}, "needs the step_size"),
        ({"loss": "outcome", "step_size": 0.5}, "has no step_size"),
        ({"loss": "shrinking", "step_size": -1}, "not positive"),
        ({"optimizer": "none"}, "optimizer = 'none'"),
    ],
)
def test_bad_trainings(options, message):
    with pytest.raises(InvalidInput, match=message):
        finite.train_decoder(
            finite.LinearSelfAttention(3), icl.LinearRegression(dim=3), 5, **options
        )


def test_other_refusals():
    task = icl.LinearRegression(dim=3)
    with pytest.raises(InvalidInput, match=r"train other models with finite\.train"):
        finite.train_decoder(finite.LinearAttention(3), task, 5)
    with pytest.raises(InvalidInput, match="the task has dim = 3, the model 2"):
        finite.train_decoder(finite.LinearSelfAttention(2), task, 5)
    with pytest.raises(InvalidInput, match="local"):
        finite.train_decoder(
            finite.LinearSelfAttention(3), icl.LinearRegression(dim=3, local=(0.5, 1)), 5
        )
    with pytest.raises(TrainingDiverged):
        finite.train_decoder(
            finite.LinearSelfAttention(3, thoughts=4), task, 5, learning_rate=30.0, progress=False
        )
    X, y, _ = prompts()
    with pytest.raises(OutOfDomain, match="overflow"):
        finite.LinearSelfAttention.gradient_descent(D, 50).candidates(
            X, y, icl.NoisyDecoding(50, 0, 400)
        )
