"""Simulated chains: two ways of the same law, and both against the exact risk."""

from typing import Any

import numpy as np
import pytest

import icltheory as icl
import numeric
from numeric.chain_prompts import draw_coefficients
from numeric.chains import simulate_chains

CHAIN = icl.NoisyDecoding(0.5, 0.3, 3, samples=8, label_noise_var=2.25)


def agrees(average, exact, sigmas=5):
    return np.all(np.abs(average.value - exact) < sigmas * average.standard_error)


def rejects(average, exact, factor=1.1):
    """A prediction changed by `factor` is seen to be wrong."""
    return np.all(np.abs(average.value - factor * exact) > 5 * average.standard_error)


# -- against the exact risk --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["recursion", "eigenbasis"])
@pytest.mark.parametrize(("samples", "exact"), [(1, 0.3798099414), (8, 0.2517119922)])
def test_reference_row_6(method, samples, exact):
    result = simulate_chains(CHAIN, 20, 10, prompts=6000, seed=1, method=method)
    risk = result.risk(samples)
    assert agrees(risk, exact)
    assert rejects(risk, exact)


@pytest.mark.parametrize("method", ["recursion", "eigenbasis"])
def test_reference_row_7_and_the_prompt_loss(method):
    decoding = icl.NoisyDecoding(0.4, 0.35, 3, label_noise_var=1.69)
    result = simulate_chains(decoding, 14, 9, prompts=8000, seed=2, method=method)
    for average, exact in ((result.risk(), 0.5275183141), (result.prompt_loss(), 2.9375457617)):
        assert agrees(average, exact)
        assert rejects(average, exact)


@pytest.mark.parametrize(
    "options",
    [
        {"noise_where": "output"},
        {"noise_where": (2, 0, 0.5)},
        {"scaled_noise": True},
        {"label_noise_var": 1},
    ],
)
@pytest.mark.parametrize(("n", "d"), [(12, 6), (4, 8)])  # n < d has null directions
def test_options_against_the_exact_risk(options, n, d):
    decoding = icl.NoisyDecoding(0.3, 0.6, 3, samples=4, **options)
    exact = float(decoding.risk(n, d))
    for method in ("recursion", "eigenbasis"):
        risk = simulate_chains(decoding, n, d, prompts=4000, seed=3, method=method).risk()
        assert agrees(risk, exact), (method, risk.value, exact)
        assert rejects(risk, exact, 1.2)


def test_the_two_methods_share_prompts_and_give_the_same_law():
    results = [
        simulate_chains(CHAIN, 20, 10, prompts=2000, chains=16, at=[1, 3, 6], seed=4, method=m)
        for m in ("recursion", "eigenbasis")
    ]
    noiseless = icl.NoisyDecoding(0.5, 0, 6, label_noise_var=2.25)
    exact = [
        simulate_chains(noiseless, 20, 10, prompts=300, at=[1, 3, 6], seed=4, method=m)
        for m in ("recursion", "eigenbasis")
    ]
    np.testing.assert_allclose(exact[0].one, exact[1].one, rtol=1e-9)
    np.testing.assert_allclose(exact[0].loss, exact[1].loss, rtol=1e-9)
    gap = results[0].risk(1) - results[1].risk(1)
    alone = results[0].risk(1).standard_error
    assert agrees(gap, 0)
    assert np.all(gap.standard_error < alone / 2)  # pairing pays
    np.testing.assert_array_equal(
        results[1].one,
        simulate_chains(CHAIN, 20, 10, prompts=2000, chains=16, at=[1, 3, 6], seed=4).one,
    )


def test_prompt_loss_with_fewer_examples_than_dimensions():
    decoding = icl.NoisyDecoding(0.2, 0.3, 3, label_noise_var=1)
    exact = float(decoding.prompt_loss(4, 8))
    for method in ("recursion", "eigenbasis"):
        loss = simulate_chains(decoding, 4, 8, prompts=4000, seed=11, method=method).prompt_loss()
        assert agrees(loss, exact)
        assert rejects(loss, exact, 1.2)


def test_means_of_any_number_from_the_same_chains():
    few = simulate_chains(CHAIN, 20, 10, prompts=4000, chains=4, seed=5)
    for samples in (1, 2, 4, 64):
        decoding = icl.NoisyDecoding(0.5, 0.3, 3, samples=samples, label_noise_var=2.25)
        assert agrees(few.risk(samples), float(decoding.risk(20, 10)))
    np.testing.assert_allclose(few.risk(4).values, few.mean, rtol=1e-12)
    assert few.risk([1, 2]).value.shape == (2,)


def test_one_number_of_steps_has_no_axis():
    runs = [simulate_chains(CHAIN, 20, 10, prompts=50, at=at) for at in (None, 3, [3])]
    single, named, listed = (float(np.squeeze(run.risk().value)) for run in runs)
    assert single == named == listed
    assert [run.steps.shape for run in runs] == [(), (), (1,)]
    assert len({str(run) for run in runs}) == 1  # one table
    data = numeric.decoding_prompts(20, 10, 50, label_noise_var=2.25)
    for average in (
        numeric.stepwise_risk(data, CHAIN, 4),
        numeric.simulate_stepwise(data, CHAIN, 4),
    ):
        assert average.value.shape == ()
    assert numeric.stepwise_risk(data, CHAIN, [4, 8], at=3).value.shape == (2,)
    assert numeric.simulate_stepwise(data, CHAIN, 4, at=[3]).value.shape == (1,)


def test_quantiles_and_parts_of_an_average():
    values = np.random.default_rng(0).standard_exponential((101, 2, 3))
    average = numeric.PromptAverage(values)
    np.testing.assert_array_equal(average.median, np.sort(values, axis=0)[50])
    np.testing.assert_array_equal(average.quantile([0, 1])[1], values.max(axis=0))
    np.testing.assert_array_equal(average[..., 2].values, values[..., 2])
    np.testing.assert_array_equal(average[1, 0].values, values[:, 1, 0])
    with pytest.raises(icl.InvalidInput, match="between 0 and 1"):
        average.quantile(50)


@pytest.mark.parametrize("prior", [None, icl.Signs(), lambda rng, p, d: np.ones((p, d))])
def test_priors_of_norm_d_have_one_risk(prior):
    decoding = icl.NoisyDecoding(0.4, 0.2, 4)
    exact = float(decoding.risk(16, 8))
    assert agrees(simulate_chains(decoding, 16, 8, prompts=4000, prior=prior, seed=6).risk(), exact)
    for reduced in (False, True):
        data = numeric.decoding_prompts(16, 8, 4000, prior=prior, reduced=reduced, seed=7)
        law = numeric.chain_law(data, decoding)
        assert agrees(numeric.PromptAverage(law.mean_error()[:, None] / 8), exact)


def test_binary_priors():
    rng = np.random.default_rng(0)
    assert set(np.unique(draw_coefficients(icl.Signs(), rng, 50, 6))) == {-1, 1}
    sparse = draw_coefficients(icl.SparseBits(2), rng, 3000, 6)
    np.testing.assert_array_equal(sparse.sum(axis=1), 2)
    assert np.all(np.abs(sparse.mean(axis=0) - 1 / 3) < 5 * np.sqrt(2 / 9 / 3000))
    bits = draw_coefficients(icl.Bits(0.25), rng, 3000, 6)
    assert abs(bits.mean() - 0.25) < 5 * np.sqrt(3 / 16 / 18000)
    with pytest.raises(icl.InvalidInput, match="ones <= d"):
        draw_coefficients(icl.SparseBits(7), rng, 5, 6)


@pytest.mark.parametrize("method", ["recursion", "eigenbasis"])
def test_feature_covariance_at_one_and_two_steps(method):
    variances, eta, n = np.array([2.0, 1.0, 0.5, 0.25]), 0.3, 10
    decoding = icl.NoisyDecoding(eta, 0.4, 1)
    result = {
        norm: simulate_chains(
            decoding, n, 4, prompts=8000, feature_cov=variances, norm=norm, method=method, seed=8
        ).risk()
        for norm in ("euclidean", "prediction")
    }
    # E S B S = (1 + 1/n) Sigma B Sigma + tr(Sigma B) Sigma/n.
    square = (1 + 1 / n) * variances**2 + variances.sum() * variances / n
    bias = 1 - 2 * eta * variances + eta**2 * square
    assert agrees(result["euclidean"], bias.mean() + 0.16)
    weighted = (1 + 1 / n) * variances**3 + (variances**2).sum() * variances / n
    bias = variances - 2 * eta * variances**2 + eta**2 * weighted
    assert agrees(result["prediction"], (bias + 0.16 * variances).mean())
    assert rejects(result["euclidean"], bias.mean() + 0.16 * variances.mean())
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0]
    turned = rotation * variances @ rotation.T
    other = simulate_chains(decoding, n, 4, prompts=8000, feature_cov=turned, seed=9).risk()
    assert agrees(other, result["euclidean"].value, 7)


# -- given prompts -----------------------------------------------------------------------------------


def test_chains_on_given_prompts_are_the_loop():
    rng = np.random.default_rng(1)
    X, y = rng.standard_normal((3, 5, 4)), rng.standard_normal((3, 5))
    states = numeric.run_chains(X, y, icl.NoisyDecoding(0.2, 0, 7))
    for p in range(3):
        w = np.zeros(4)
        for _ in range(7):
            w = w - 0.2 * (X[p].T @ (X[p] @ w - y[p]) / 5)
        np.testing.assert_allclose(states[p, 0], w, rtol=1e-12)
    noisy = numeric.run_chains(X, y, icl.NoisyDecoding(0.2, 0.5, 7), chains=20_000, seed=2)
    matrix = np.eye(4) - 0.2 * X[0].T @ X[0] / 5
    cov = 0.25 * sum(np.linalg.matrix_power(matrix, 2 * s) for s in range(7))
    spread = np.sqrt((cov**2 + np.outer(np.diag(cov), np.diag(cov))) / 20_000)
    assert np.all(np.abs(np.cov(noisy[0].T) - cov) < 5 * spread)
    assert np.all(np.abs(noisy.mean(axis=1) - states[:, 0]) < 5 * noisy.std(axis=1) / 20_000**0.5)


def test_the_law_given_the_prompt():
    data = numeric.decoding_prompts(6, 9, 2, label_noise_var=0.5, seed=3)
    assert np.all(data.eigenvalues[:, :3] == 0)
    assert np.all(data.noise[:, :3] == 0)
    decoding = icl.NoisyDecoding(0.3, 0.5, 4, label_noise_var=0.5, noise_where=(1, 0.5, 2, 0))
    law = numeric.chain_law(data, decoding)
    a = 1 - 0.3 * data.eigenvalues
    variance = 0.25 * (a**6 + 0.25 * a**4 + 4 * a**2)
    np.testing.assert_allclose(law.spread**2, variance, rtol=1e-12)
    bias = (a**4 * data.coefficients - 0.3 * sum(a**s for s in range(4)) * data.noise) ** 2
    np.testing.assert_allclose(law.mean_error([1, np.inf])[:, 1], bias.sum(axis=-1), rtol=1e-12)
    whole = numeric.chain_law(data, decoding, steps=[0, 2], noise_std=0.1)
    np.testing.assert_allclose(whole.centre[0] + whole.overfit[0], -data.coefficients)
    assert np.all(whole.spread[0] == 0)
    np.testing.assert_allclose(whole.spread[1] ** 2, 0.01 * (a**2 + 0.25), rtol=1e-12)


def test_reduced_prompts_have_the_law_of_real_ones():
    pair = [
        numeric.decoding_prompts(5, 3, 20_000, label_noise_var=1.5, reduced=r, seed=4)
        for r in (False, True)
    ]
    for read in (
        lambda p: p.eigenvalues,
        lambda p: p.eigenvalues**2,
        lambda p: p.noise**2,
        lambda p: p.floor[:, None],
        lambda p: p.coefficients**2,
    ):
        real, reduced = (numeric.PromptAverage(read(p)) for p in pair)
        error = np.hypot(real.standard_error, reduced.standard_error)
        assert np.all(np.abs(real.value - reduced.value) < 5 * error)


# -- averages, and what is refused -------------------------------------------------------------------


def test_paired_averages():
    rng = np.random.default_rng(5)
    common = 3 + rng.standard_normal((400, 1))
    a = numeric.PromptAverage(common + 0.01 * rng.standard_normal((400, 2)))
    b = numeric.PromptAverage(1.1 * common + 0.01 * rng.standard_normal((400, 2)))
    quotient, error = b.ratio(a)
    assert np.all(np.abs(quotient - 1.1) < 5 * error)
    assert np.all(error < 1e-3)
    assert a[0].estimate().prompts == 400
    with pytest.raises(icl.InvalidInput, match="cannot be paired"):
        _ = a - numeric.PromptAverage(common[:3])
    with pytest.raises(icl.InvalidInput, match="no single estimate"):
        a.estimate()


NO_DECODING: Any = 0.5
REFUSED = {
    "no decoding": (lambda: simulate_chains(NO_DECODING, 20, 10), "icl.NoisyDecoding"),
    "symbols": (
        lambda: simulate_chains(icl.NoisyDecoding(icl.symbols.t, 0, 3), 20, 10),
        "contains symbols",
    ),
    "one prompt": (lambda: simulate_chains(CHAIN, 20, 10, prompts=1), "prompts"),
    "no chain": (lambda: simulate_chains(CHAIN, 20, 10, chains=0), "chains"),
    "method": (lambda: simulate_chains(CHAIN, 20, 10, method="fast"), "'eigenbasis'"),
    "norm": (lambda: simulate_chains(CHAIN, 20, 10, norm="l1"), "'prediction'"),
    "at": (lambda: simulate_chains(CHAIN, 20, 10, at=[3, 1]), "does not increase"),
    "covariance": (lambda: simulate_chains(CHAIN, 20, 2, feature_cov=[[1, 2], [2, 1]]), "positive"),
    "prior": (lambda: simulate_chains(CHAIN, 20, 2, prior="signs"), "icl.Signs"),
    "labels": (
        lambda: numeric.chain_law(numeric.decoding_prompts(5, 2, 2), CHAIN),
        "label_noise_var=2.25",
    ),
    "means of one chain": (
        lambda: simulate_chains(CHAIN, 20, 2, prompts=2, chains=1).risk(2),
        "chains=2",
    ),
    "no sample": (lambda: simulate_chains(CHAIN, 20, 2, prompts=2).risk(0), "buys nothing"),
    "schedule": (
        lambda: simulate_chains(icl.NoisyDecoding(0.5, 1, 2, noise_where=(1, 1)), 5, 2, at=[3]),
        "schedule",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input(name):
    call, message = REFUSED[name]
    with pytest.raises(icl.InvalidInput, match=message):
        call()


def test_divergence_is_named():
    with pytest.raises(icl.OutOfDomain, match="Lower the step size"):
        simulate_chains(icl.NoisyDecoding(50, 0.1, 400), 5, 4, prompts=4)
    with pytest.raises(icl.OutOfDomain, match="Lower the step size"):
        simulate_chains(icl.NoisyDecoding(50, 0.1, 400), 5, 4, prompts=4, method="recursion")


def test_diverging_chains_are_refused():
    wild = icl.NoisyDecoding(1e10, 0, 40)
    data = numeric.decoding_prompts(5, 3, 4)
    X, y = np.ones((1, 2, 3)), np.ones((1, 2))
    for run in (
        lambda: numeric.run_chains(X, y, wild),
        lambda: numeric.chain_law(data, icl.NoisyDecoding(1e10, 0, 17)),  # squares overflow
        lambda: numeric.stepwise_risk(data, wild, 2, noise_std=0.1),
        lambda: numeric.simulate_stepwise(data, icl.NoisyDecoding(1e10, 0.1, 40), 2),
        lambda: numeric.simulate_binary_decoding(wild, icl.Signs(), 5, 3, prompts=2),
    ):
        with pytest.raises(icl.OutOfDomain, match="diverge beyond float64"):
            run()


def test_sizes_beyond_memory_and_endless_loops_are_refused():
    endless = icl.NoisyDecoding(0.1, 0.1, 10**9)
    data = numeric.decoding_prompts(5, 3, 4)
    for run in (
        lambda: numeric.decoding_prompts(10**12, 3, 4),
        lambda: numeric.decoding_prompts(5, 3, 10**12),
        lambda: simulate_chains(CHAIN, 5, 3, prompts=10**12),
        lambda: numeric.run_chains(np.ones((1, 2, 3)), np.ones((1, 2)), CHAIN, chains=10**12),
        lambda: simulate_chains(endless, 5, 3, prompts=2, method="recursion"),
        lambda: numeric.simulate_stepwise(data, endless, 2),
        lambda: numeric.state_evolution(icl.Bits(), icl.Round(), 1.0, 10**9),
    ):
        with pytest.raises(icl.InvalidInput, match=r"GiB|one by one"):
            run()


def test_laws_and_averages_are_checked():
    row = np.ones((1, 3))
    for make in (
        lambda: numeric.ChainLaw(row, row, row, np.nan * row, np.zeros(1)),
        lambda: numeric.ChainLaw(row, row, row, -row, np.zeros(1)),
        lambda: numeric.ChainLaw(row, row, np.ones((1, 2)), row, np.zeros(1)),
        lambda: numeric.PromptAverage(np.zeros((0, 2))),
        lambda: numeric.PromptAverage(1.0),
        lambda: numeric.small_noise_optimum(row, 4),
    ):
        with pytest.raises(icl.InvalidInput):
            make()
