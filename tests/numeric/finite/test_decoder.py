"""The decoder: formula (3) column by column, descent to rounding, trained optima, noise and bits."""

import numpy as np
import pytest
import torch

import icltheory as icl
from icltheory.errors import CheckpointError, InvalidInput, OutOfDomain, TrainingDiverged
from numeric import finite
from numeric.arrays import task_arrays
from numeric.binary_decoding import decoding_channel, majority_errors
from numeric.binary_feedback import simulate_feedback
from numeric.binary_samplers import majority_vote
from numeric.chain_prompts import PromptAverage, decoding_prompts, prompt_blocks
from numeric.compare import compare
from numeric.samplers import sample_examples
from numeric.selection import simulate_selection
from numeric.validate import validate

D, N, STEPS, ETA = 5, 12, 6, 0.37
FORMS = ("full", "blocks", "scalar")


@pytest.fixture(autouse=True)
def one_thread():
    """The models are too small for more; the number is restored."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def prompts(size=3, n=N, dim=D, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    X, w = rng.standard_normal((size, n, dim)), rng.standard_normal((size, dim))
    return X, np.einsum("bij,bj->bi", X, w) + noise * rng.standard_normal((size, n)), w


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


# -- trained -------------------------------------------------------------------------------------

FAST = {"steps": 700, "batch_size": 256, "learning_rate": 0.01, "progress": False}


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


# -- binary answers ------------------------------------------------------------------------------

SAMPLERS = [icl.Logit(0.2), icl.Probit(0.3), icl.Clip(), icl.Round(), icl.Logit(0)]


def chance(sampler, margin, gap):
    from scipy import special

    if isinstance(sampler, icl.Clip):
        return np.clip(0.5 + margin / gap, 0, 1)
    temperature = float(getattr(sampler, "temperature", 0))
    if temperature == 0:
        return np.heaviside(margin, 0.5)
    law = special.expit if isinstance(sampler, icl.Logit) else special.ndtr
    return law(margin / temperature)


@pytest.mark.parametrize("prior", [icl.Bits(), icl.Signs()], ids=str)
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_bits_that_are_fed_back(sampler, prior):
    """T24 plain: the layer's chain equals the recursion on u = w - (eta/n) X'(X w - y), bit for bit."""
    X, y, _ = prompts(n=30, noise=0.1)
    low, gap = float(prior.low), float(prior.gap)
    uniforms = np.random.default_rng(5).random((STEPS, 3, 4, D))
    model = finite.LinearSelfAttention.gradient_descent(D, 1.0)
    options = {"sampler": sampler, "prior": prior, "feedback": True, "uniforms": uniforms}
    out = model.decode(X, y, STEPS, samples=4, trajectory=True, **options).detach().numpy()
    for b in range(3):
        for chain in range(4):
            w = np.zeros(D)
            for s in range(STEPS):
                u = w - X[b].T @ (X[b] @ w - y[b]) / 30
                higher = uniforms[s, b, chain] < chance(sampler, u - low - gap / 2, gap)
                w = low + gap * higher
                np.testing.assert_array_equal(out[s + 1, b, chain], w)
    assert set(np.unique(out[1:])) == {low, low + gap}


def test_bits_of_the_last_answer():
    X, y, _ = prompts(n=30, noise=0.1)
    model = finite.LinearSelfAttention.gradient_descent(D, 0.5)
    states = model.decode(X, y, 3).detach().numpy()
    uniforms = np.random.default_rng(6).random((3, 3, 50, D))
    bits = model.decode(
        X, y, 3, samples=50, sampler=icl.Logit(0.3), threshold=0.2, uniforms=uniforms
    )
    expected = uniforms[2] < chance(icl.Logit(0.3), states - 0.2, 1)
    np.testing.assert_array_equal(bits.detach().numpy(), expected)
    # Handed to a vote as plain arrays; many votes round the state.
    answers = model.candidates(
        X, y, icl.NoisyDecoding(0.5, 0, 3, samples=4001), sampler=icl.Logit(0.3)
    )
    vote = majority_vote(answers == 1, np.random.default_rng(0))
    clear = np.abs(states[:, 0] - 0.5) > 0.05
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(vote[clear], (states[:, 0] > 0.5)[clear])


def test_candidates_in_batches(monkeypatch):
    from numeric.finite import decoder

    X, y, _ = prompts(size=10)
    model = finite.LinearSelfAttention(D, seed=2)
    spec = icl.NoisyDecoding(0.5, 0, 4, samples=3)
    whole = model.candidates(X, y, spec)
    monkeypatch.setattr(decoder, "_BATCH", 1)
    np.testing.assert_allclose(model.candidates(X, y, spec), whole, rtol=0, atol=1e-13)
    noisy = icl.NoisyDecoding(0.25, 0.4, 2, samples=3, noise_where="output", scaled_noise=True)
    drawn = model.candidates(X, y, noisy, seed=3)
    np.testing.assert_array_equal(drawn, model.candidates(X, y, noisy, seed=3))
    rest = drawn - model.decode(X, y, 2).detach().numpy()
    assert 0.15 < rest.std() < 0.25  # sqrt(0.25) * 0.4


@pytest.mark.parametrize("sampler", [icl.Round(), icl.Clip(), icl.Probit(0.2)], ids=str)
@pytest.mark.parametrize("start", ["zero", "random"])
def test_bits_that_are_fed_back_are_the_simulated_iteration(sampler, start):
    """The layer on the simulation's own prompts and random numbers: the same bits wrong at every step."""
    prior, n, d, steps, seed = icl.Bits(), 24, 12, 5, 3
    run = simulate_feedback(
        prior, sampler, n, d, steps, start=start, label_noise_var=0.2, prompts=50, seed=seed
    )
    model, errors = finite.LinearSelfAttention.gradient_descent(d, 1.0), []
    for X, w, eps, rng in prompt_blocks(n, d, 50, 0.2, None, prior, seed):
        first = rng.random(w.shape) < 0.5 if start == "random" else np.zeros(w.shape)
        uniforms = np.stack([rng.random(w.shape) for _ in range(steps)])[:, :, None]
        path = model.decode(
            X,
            np.einsum("bij,bj->bi", X, w) + eps,
            steps,
            sampler=sampler,
            feedback=True,
            start=1.0 * first[:, None],
            uniforms=uniforms,
            trajectory=True,
        )
        errors.append((path[:, :, 0].detach().numpy() - w) ** 2)
    found = np.concatenate(errors, axis=1).mean(axis=2).T
    np.testing.assert_allclose(found, run.error.values, rtol=0, atol=1e-12)
    assert 0.01 < found[:, 1:].mean() < 0.4


def test_selection_and_votes_on_the_outputs_of_a_trained_model():
    """A model that learned gradient descent from full matrices: its candidates have the simulated risks
    of the mean and of the best by prompt loss, and its sampled bits the predicted error of a vote."""
    n, d, eta, t, N = 20, 6, 0.5, 3, 16
    model = finite.LinearSelfAttention(d, seed=3)
    finite.train_decoder(
        model,
        icl.LinearRegression(dim=d),
        n,
        loss="gradient_descent",
        thoughts=2,
        step_size=eta,
        **{**FAST, "steps": 400, "batch_size": 128, "learning_rate": 0.02},
    )
    spec = icl.NoisyDecoding(eta, 0.4, t, samples=N)
    arrays = task_arrays(icl.LinearRegression(dim=d, coef_cov=1))
    X, y, _, w = sample_examples(arrays, n, 4000, np.random.default_rng(8))
    answers = model.candidates(X, y, spec, seed=2)
    losses = ((np.einsum("bij,bkj->bki", X, answers) - y[:, None]) ** 2).sum(-1)
    best = np.take_along_axis(answers, losses.argmin(axis=1)[:, None, None], axis=1)[:, 0]
    simulated = simulate_selection(decoding_prompts(n, d, 8000, seed=4), spec, N)
    for rule, chosen in (("mean", answers.mean(axis=1)), ("prompt_loss", best)):
        found = PromptAverage(((chosen - w) ** 2).mean(axis=1))
        other = simulated.risk(rule)[0]
        error = np.hypot(found.standard_error, other.standard_error)
        assert abs(found.value - other.value) < 5 * error
        assert abs(found.value - 1.3 * other.value) > 5 * error
    # Bits of 15 samples, by a majority of each coordinate.
    w = np.random.default_rng(1).choice([-1.0, 1.0], (4000, d))
    y = np.einsum("bij,bj->bi", X, w)
    greedy = icl.NoisyDecoding(eta, 0, 1, samples=15)
    bits = model.candidates(X, y, greedy, sampler=icl.Logit(0.8), prior=icl.Signs(), seed=6)
    vote = majority_vote(bits > 0, np.random.default_rng(2))
    wrong = PromptAverage((vote != (w > 0)).mean(axis=1))
    channel = decoding_channel(icl.NoisyDecoding(eta, 0, 1), icl.Signs(), n, d)
    predicted = float(majority_errors(channel, icl.Logit(0.8), 15).mean)
    # The channel is Gaussian for large d only: 10 %.
    assert abs(wrong.value - predicted) < 0.1 * predicted + 5 * wrong.standard_error
    assert abs(wrong.value - 1.5 * predicted) > 0.1 * predicted + 5 * wrong.standard_error


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
