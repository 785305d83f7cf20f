"""The decoder with binary answers: bits fed back, votes and selections of a trained layer."""

import numpy as np
import pytest
from decoding_layers import FAST, STEPS, D, prompts

import icltheory as icl
from numeric import finite
from numeric.arrays import task_arrays
from numeric.binary_decoding import decoding_channel, majority_errors
from numeric.binary_feedback import simulate_feedback
from numeric.binary_samplers import majority_vote
from numeric.chain_prompts import PromptAverage, decoding_prompts, prompt_blocks
from numeric.samplers import sample_examples
from numeric.selection import simulate_selection

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
