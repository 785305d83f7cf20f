"""pass@N and verifiers that err, against quadrature, enumeration and prompts."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from binary_cases import channel, check

import icltheory as icl
import numeric
from numeric.binary_passes import log_success_moments
from numeric.binary_simulation import chain_states

# -- pass@N ------------------------------------------------------------------------------------------


def test_equivocation_against_quadrature():
    with mpmath.workdps(25):
        for x in (1e-6, 0.3, 1.0, 1.01, 2.0, 20.0):
            r = mpmath.sqrt(x)
            edges = sorted([-30, -2 * r, -r - 2, -r - 1, -r, -r + 1, -r + 2, 0, 12])
            exact = mpmath.quad(
                lambda g, x=x, r=r: mpmath.npdf(g) * mpmath.log1p(mpmath.exp(-2 * x - 2 * r * g)),
                edges,
            )
            assert float(numeric.equivocation(x)) == pytest.approx(float(exact), rel=1e-12)


def test_the_calibrated_temperature_minimises_the_log_loss_at_the_equivocation():
    for prior, factor in ((icl.Signs(), 1), (icl.Bits(), 4)):
        c = channel(0.6, 0.45, prior)
        t = c.calibrated_temperature * np.array([0.95, 1, 1.05])
        margin = np.full(3, c.margins()[0])
        mean, _ = log_success_moments(c, "logit", t, margin, margin, np.full(3, 0.45))
        assert -mean[1] / 10 == pytest.approx(
            numeric.equivocation(c.signal_to_noise / factor), rel=1e-11
        )
        assert mean[1] > max(mean[0], mean[2])
        assert numeric.log_samples_needed(c) == pytest.approx(-mean[1], rel=1e-11)


@pytest.mark.parametrize("prior", [icl.Signs(), icl.Bits(0.3), icl.SparseBits(40)])
def test_pass_at_n_by_two_methods_in_large_dimensions(prior):
    c = channel(0.6, 0.5, prior, dim=200)
    t = c.calibrated_temperature
    log_n = 200 * 0.25 + np.arange(-20, 25, 5)
    sampled = numeric.pass_at_n(c, icl.Logit(1), np.round(np.exp(log_n)), temperature=t, draws=4000)
    normal = numeric.pass_at_n(
        c, icl.Logit(1), np.round(np.exp(log_n)), temperature=t, method="log-normal"
    )
    assert np.all(np.abs(sampled.value - normal.value) < 0.02 + 5 * sampled.standard_error)
    assert sampled.value[0] < 0.9
    assert np.all(np.diff(normal.value) >= 0)


def test_pass_at_n_on_prompts():
    """(12, 12), t = 2: 0.33, 0.19, 0.03 at N = 1 and 0.35, 0.99, 1.00 at N = 4096 for T -> 0, T*, 3 T*."""
    decoding = icl.NoisyDecoding(0.5, 0, 2)
    c = numeric.decoding_channel(decoding, icl.Signs(), 12, 12)
    t = c.calibrated_temperature * np.array([0, 1, 3])
    run = numeric.simulate_binary_decoding(
        decoding, icl.Signs(), 12, 12, sampler=icl.Logit(1), temperature=t, samples=[1, 4096],
        prompts=8000, seed=6,
    )  # fmt: skip
    known = np.array([[0.33, 0.35], [0.19, 0.99], [0.03, 1.0]])
    assert np.all(np.abs(run.pass_at_n.value - known) < 0.035)
    predicted = numeric.pass_at_n(c, icl.Logit(1), [1, 4096], temperature=t[:, None], draws=20_000)
    assert np.all(np.abs(predicted.value - run.pass_at_n.value) < 0.04)
    # The Gaussian ln P is poor at N = 1.
    normal = numeric.pass_at_n(c, icl.Logit(1), 1, temperature=t[1], method="log-normal").value
    assert normal == pytest.approx(0.160, abs=0.002)
    assert run.pass_at_n.value[1, 0] > 1.15 * normal
    best = numeric.best_temperature(c, [1, 64, 4096], draws=4000)
    assert best.temperature[0] < 0.3 * t[1]
    assert best.temperature[0] < best.temperature[1]
    assert best.temperature[2] > 1.2 * t[1]
    assert best.rate.value[2] >= predicted.value[1, 1] - 0.01


def test_the_log_loss_at_high_signal_to_noise():
    """(24, 12, 2): 0.049 simulated against 0.035 of the channel at T*."""
    decoding = icl.NoisyDecoding(numeric.best_contraction(2, 24, 12).step_size, 0, 2)
    c = numeric.decoding_channel(decoding, icl.Signs(), 24, 12)
    states = chain_states(decoding, icl.Signs(), 24, 12, "zero", 20_000, 3)
    loss = [
        np.logaddexp(0, -w * u / c.calibrated_temperature).mean(axis=1) for _, w, _, u, _ in states
    ]
    average = numeric.PromptAverage(np.concatenate(loss))
    predicted = numeric.equivocation(c.signal_to_noise)
    assert float(predicted) == pytest.approx(0.033, abs=0.003)
    assert average.value - predicted > 5 * average.standard_error
    assert float(average.value) == pytest.approx(0.049, abs=0.006)


def test_selection_by_prompt_loss_finds_what_was_sampled():
    decoding, sampler = icl.NoisyDecoding(0.5, 0, 2), icl.Logit(0.4)
    counts = [1, 16, 128]
    run = numeric.simulate_prompt_selection(
        decoding, icl.Signs(), 5, 6, sampler, counts, prompts=1500, seed=8
    )
    np.testing.assert_array_equal(run.vector.values, 1 - run.found.values)
    exact = numeric.simulate_binary_decoding(
        decoding, icl.Signs(), 5, 6, sampler=sampler, samples=counts, prompts=1500, seed=8
    ).pass_at_n
    gap = run.found - exact
    assert np.all(np.abs(gap.value) < 5 * gap.standard_error)


def test_selection_under_label_noise_tends_to_the_exhaustive_search():
    decoding, noise = icl.NoisyDecoding(0.5, 0, 2, label_noise_var=0.5), 0.5
    run = numeric.simulate_prompt_selection(
        decoding, icl.Bits(), 6, 5, icl.Logit(3), [1, 1500], prompts=500, seed=9
    )
    search = numeric.simulate_exhaustive_search(icl.Bits(), 6, 5, noise, prompts=500, seed=9)
    gap = run.vector[1] - search  # the same prompts
    assert abs(gap.value) < 0.01
    assert run.found.value[1] == 1
    assert search.value > 0.1
    noisy = numeric.simulate_prompt_selection(
        decoding, icl.Bits(), 6, 5, icl.Logit(3), [1, 100], verifier_noise=50.0, prompts=500, seed=9
    )
    blind = noisy.vector[1] - noisy.vector[0]
    assert abs(blind.value) < 5 * blind.standard_error


# -- verifiers that err -----------------------------------------------------------------------------


def test_accept_reject_by_enumeration_and_on_states():
    p, fn, fp, votes = 0.3, 0.2, 0.1, 3
    total = 0.0
    kinds = {(True, True): p * (1 - fn), (True, False): p * fn, (False, True): (1 - p) * fp}
    kinds[False, False] = (1 - p) * (1 - fp)
    for draws in itertools.product(kinds, repeat=votes):
        pool = [right for right, accepted in draws if accepted] or [right for right, _ in draws]
        total += math.prod(kinds[x] for x in draws) * sum(pool) / len(pool)
    assert float(numeric.verified_success(p, votes, fn, fp)) == pytest.approx(total, rel=1e-13)
    assert float(numeric.verified_success(p, 10**9, fn, fp)) == pytest.approx(
        0.24 / 0.31, rel=1e-12
    )
    assert float(numeric.verified_success(0.3, 5, 1, 0)) == pytest.approx(0.3)
    c = channel()
    perfect = numeric.accept_reject_success(c, icl.Logit(0.4), [1, 8], 0, 0)
    passed = numeric.pass_at_n(c, icl.Logit(0.4), [1, 8])
    np.testing.assert_allclose(perfect.value, passed.value, rtol=1e-12)
    np.testing.assert_allclose(perfect.standard_error, passed.standard_error, rtol=1e-9)


@pytest.mark.parametrize("prior", [icl.Signs(), icl.Bits()])
def test_one_competitor_is_exact(prior):
    predicted = numeric.exhaustive_error(prior, 3, 1, 2.0)
    assert predicted.union == predicted.pairwise[0] < predicted.chernoff
    run = numeric.simulate_exhaustive_search(prior, 3, 1, 2.0, prompts=30_000, seed=1)
    check(predicted.union, run)


def test_the_union_over_all_competitors_is_valid_but_loose():
    run = numeric.simulate_exhaustive_search(icl.Signs(), 6, 10, 1.0, prompts=2000, seed=2)
    assert abs(run.value - 0.427) < 5 * run.standard_error < 0.06
    assert numeric.exhaustive_error(icl.Signs(), 6, 10, 1.0).union > 3 * run.value
    sparse = numeric.exhaustive_error(icl.SparseBits(2), 12, 8, 1.0)
    assert round(float(np.exp(sparse.log_count).sum())) == math.comb(8, 2) - 1
    run = numeric.simulate_exhaustive_search(icl.SparseBits(2), 12, 8, 1.0, prompts=4000, seed=3)
    assert 0.3 * sparse.union < run.value < sparse.union
    n = numeric.sufficient_examples(icl.Signs(), 10, 1.0, 0.05)
    assert numeric.exhaustive_error(icl.Signs(), n, 10, 1.0).chernoff <= 0.05
