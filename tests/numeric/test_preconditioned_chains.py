"""Chains on features of any covariance, with preconditioned steps: series, exact cases, simulation."""

import numpy as np
import pytest

import icltheory as icl
import numeric

SIGMA = np.array([2.0, 0.5])
GAMMA = SIGMA + 0.75
H = SIGMA / GAMMA


def test_moments_are_the_reference_values():
    single = numeric.covariance_moments(4, H, 0.6)
    double = numeric.two_sided_moments(4, H, 0.6, 1 / GAMMA, GAMMA)
    printed = [0.4363636364, 0.4078016453, 0.2760429198, 0.2595198285]
    assert single[1:] == pytest.approx(printed, abs=1e-8, rel=0)
    assert single[2] == pytest.approx(1 - 2 * H.mean() + (H**2).mean() + 0.6 * H.mean() ** 2)
    assert double[1:] == pytest.approx(
        [0.4363636364, 0.2735842240, 0.2030980934, 0.1552184638], abs=1e-8, rel=0
    )
    assert numeric.covariance_moments(4, H, 0.618)[1:] != pytest.approx(printed, rel=1e-3)


def test_moments_are_those_of_the_limit_recursion():
    """An independent route: limits of the Wishart recursion for any covariance, binomially summed."""
    means = [float((H**k).mean()) for k in range(1, 9)]
    moments = [float(icl.limit_trace_moment(k, 0.6, means)) for k in range(9)]
    for j, value in enumerate(numeric.covariance_moments(8, H, 0.6)):
        row = np.poly1d([-1, 1]) ** j
        known = sum(c * moments[k] for k, c in enumerate(row.coeffs[::-1]))
        assert value == pytest.approx(known, abs=1e-12)
        assert 1.03 * value != pytest.approx(known, abs=1e-12)


def test_one_step_size_is_the_marchenko_pastur_law():
    series = numeric.covariance_moments(60, [0.4], 0.7)
    assert series == pytest.approx(
        numeric.contraction_moments_limit(np.arange(61), 0.7, 0.4), rel=1e-12
    )


def test_two_resolvents_with_no_weights_are_one():
    for h, gamma in ((H, 0.6), (np.array([0.9, 0.3, 0.1]), 1.4)):
        double = numeric.two_sided_moments(6, h, gamma, 1, 1)
        assert double == pytest.approx(numeric.covariance_moments(12, h, gamma)[::2], rel=1e-12)
        weights = np.arange(1.0, len(h) + 1)
        one_sided = numeric.two_sided_moments(6, h, gamma, weights, 1)
        single = numeric.covariance_moments(12, h, gamma, weights=weights)
        assert one_sided == pytest.approx(single[::2], rel=1e-12)
        assert np.allclose(numeric.two_sided_moments(6, h, gamma, 1, weights), one_sided)


def test_exact_cases():
    n, values = 8, np.array([3.0, 1.0, 0.5, 0.5])
    d = len(values)
    conditioner = numeric.trained_preconditioner(values, n)
    h = values / conditioner
    # Of order two, exactly with + 1/n for tr H^2, which the limit has not.
    second = (d - 2 * h.sum() + (1 + 1 / n) * (h**2).sum() + h.sum() ** 2 / n) / d
    from_recursion = d - 2 * h.sum() + float(icl.wishart_covariance_moment(2, n, list(h))) / n**2
    assert second == pytest.approx(from_recursion / d, rel=1e-9)
    series = numeric.covariance_moments(2, h, d / n)[2]
    assert series == pytest.approx(second - (h**2).sum() / (n * d), rel=1e-12)
    # One step with the trained weights: with tr Sigma/n alone for Gamma, 1 - tr H/d to the digit.
    plain = values + values.sum() / n
    risk = numeric.preconditioned_risks(icl.NoisyDecoding(1, 0, 1), values, n, preconditioner=plain)
    assert risk[1] == pytest.approx(1 - (values / plain).mean(), rel=1e-12)


def test_plain_steps_are_the_chain_of_one_resolvent():
    decoding = icl.NoisyDecoding(0.3, 0.2, 5, samples=3, label_noise_var=4)
    values = np.array([1.6, 0.7, 0.7])
    n = 6
    risks = numeric.preconditioned_risks(decoding, values, n)
    moments = numeric.covariance_moments(10, 0.3 * values, 0.5)
    given = numeric.chain_risks(decoding, moments=moments, label_noise_ratio=4 / n)
    assert risks == pytest.approx(given, rel=1e-12)
    prediction = numeric.preconditioned_risks(decoding, values, n, norm="prediction")
    assert prediction[0] == pytest.approx(values.mean(), rel=1e-14)
    output = icl.NoisyDecoding(0.3, 0.2, 5, samples=3, label_noise_var=4, noise_where="output")
    added = numeric.preconditioned_risks(output, values, n) - numeric.preconditioned_risks(
        icl.NoisyDecoding(0.3, 0, 5, label_noise_var=4), values, n
    )
    assert added == pytest.approx([0, *[0.04 / 3] * 5], abs=1e-14)


@pytest.mark.parametrize("norm", ["euclidean", "prediction"])
def test_risks_against_the_real_recursion(norm):
    """One percent is the error of order 1/d; without the second resolvent it is several."""
    n, values, steps = 180, np.repeat([2.0, 0.5], 60), 3
    d = len(values)
    conditioner = numeric.trained_preconditioner(values, n)
    decoding = icl.NoisyDecoding(1, 0.2, steps, samples=2, label_noise_var=20)
    prior = np.where(values > 1, 1.5, 0.5)
    known = numeric.preconditioned_risks(
        decoding, values, n, preconditioner=conditioner, norm=norm, coef_eigenvalues=prior
    )
    rng = np.random.default_rng(3)
    weight = values if norm == "prediction" else np.ones(d)
    sample = np.empty((800, steps + 1))
    for row in sample:
        x = rng.standard_normal((n, d)) * np.sqrt(values)
        w = rng.standard_normal(d) * np.sqrt(prior)
        y = x @ w + 20**0.5 * rng.standard_normal(n)
        state = np.zeros((2, d))
        for t in range(steps + 1):
            row[t] = (weight * (state.mean(axis=0) - w) ** 2).mean()
            state = state - (state @ x.T - y) @ x / n / conditioner
            state += 0.2 * rng.standard_normal(state.shape)
    error = sample.std(axis=0) / len(sample) ** 0.5
    gap = np.abs(sample.mean(axis=0) - known)
    assert np.all(gap < 0.01 * known + 5 * error)
    assert np.all(5 * error < 0.04 * known)  # the resolution
    shifted = np.abs(sample.mean(axis=0) - 1.08 * known)
    assert np.all(shifted > 0.01 * known + 5 * error)


def test_endless_prompts():
    values, n = np.array([2.0, 1.0, 0.25]), 30
    risks = numeric.long_prompt_risks(6, values, n)
    bound = numeric.hardness_bound(6, values, n)
    assert np.all(risks <= bound * (1 + 1e-12))
    assert risks[0] == bound[0] == 1
    ratio = (1 + values.sum() / values) / (n + 1 + values.sum() / values)
    assert risks == pytest.approx([(ratio ** (2 * t)).mean() for t in range(7)], rel=1e-13)
    # The recursion itself at S = Sigma.
    error, conditioner = np.ones(3), numeric.trained_preconditioner(values, n)
    for risk in risks:
        assert risk == pytest.approx((error**2).mean(), rel=1e-13)
        error = error - values * error / conditioner
    # Equal eigenvalues reach the bound; a long prompt comes near the endless one.
    flat = np.ones(5)
    assert numeric.long_prompt_risks(3, flat, n) == pytest.approx(
        numeric.hardness_bound(3, flat, n), rel=1e-13
    )
    near = numeric.preconditioned_risks(
        icl.NoisyDecoding(1, 0, 2), values, 10**7, preconditioner=conditioner
    )
    assert near == pytest.approx(risks[:3], rel=1e-4)


def test_the_trained_preconditioner_minimises_the_risk_of_one_step():
    values, n, noise = [1.5, 0.5], 6, 0.8
    best = numeric.trained_preconditioner(values, n, noise)
    for i, lam in enumerate(values):
        # E (w_i - b_i/g)^2 = 1 - 2 lam/g + (E S^2 + noise Sigma/n)_ii/g^2.
        square = lam * ((1 + 1 / n) * lam + sum(values) / n + noise / n)
        assert best[i] == pytest.approx(square / lam, rel=1e-14)
    assert best[0] != pytest.approx(1.03 * best[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: numeric.covariance_moments(-1, H, 0.6), "top"),
        (lambda: numeric.covariance_moments(2, [], 0.6), "empty|eigenvalues > 0"),
        (lambda: numeric.covariance_moments(2, [1, -1], 0.6), "eigenvalues > 0"),
        (lambda: numeric.covariance_moments(2, H, 0), "gamma = 0 is not positive"),
        (lambda: numeric.covariance_moments(2, H, 0.6, weights=[1, 2, 3]), "weights has shape"),
        (lambda: numeric.covariance_moments(10**5, H, 0.6), "up to 2000"),
        (lambda: numeric.trained_preconditioner(H, 0), "n = 0"),
        (lambda: numeric.trained_preconditioner(H, 5, -1), "negative"),
        (
            lambda: numeric.preconditioned_risks(
                icl.NoisyDecoding(1, 0, 1), H, 5, preconditioner=[1.0]
            ),
            "1 eigenvalues and the features have 2",
        ),
        (
            lambda: numeric.preconditioned_risks(icl.NoisyDecoding(1, 0, 1), H, 5, norm="max"),
            "is not one of euclidean, prediction",
        ),
        (lambda: numeric.long_prompt_risks(-1, H, 5), "steps"),
        (lambda: numeric.long_prompt_risks(10**12, H, 5), "GiB"),
        (lambda: numeric.two_sided_moments(301, H, 0.5, 1, 1), "up to 300"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()


@pytest.mark.parametrize("norm", ["euclidean", "prediction"])
def test_noise_at_the_output_is_measured_in_the_norm(norm):
    """It is added to the answer and not contracted: noise_std^2 tr(Sigma)/d of predictions."""

    def risks(noise):
        chain = icl.NoisyDecoding(1, noise, 3, noise_where="output")
        return numeric.preconditioned_risks(chain, SIGMA, 5, preconditioner=GAMMA, norm=norm)

    measure = SIGMA.mean() if norm == "prediction" else 1.0
    expected = 0.25 * measure * np.array([0, 1, 1, 1])
    assert risks(0.5) - risks(0) == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_moments_beyond_float64_are_refused():
    for moments in (
        lambda: numeric.covariance_moments(4, H, 1e300),
        lambda: numeric.two_sided_moments(4, H, 1e300, 1, 1),
    ):
        with pytest.raises(icl.OutOfDomain, match="leave the range"):
            moments()
