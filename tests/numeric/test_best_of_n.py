"""Best-of-N, softmax means and step-wise selection: predictions against simulation and each other."""

from typing import Any

import mpmath as mp
import numpy as np
import pytest
from scipy import stats

import icltheory as icl
import numeric
from numeric import best_of_n
from numeric.best_of_n import METHODS, maximum_moments

CHAIN = icl.NoisyDecoding(0.5, 0.5, 3)


def one_prompt(copies):
    """The prompt of the reference values, as often as there are independent pools."""
    values = np.broadcast_to(0.2 * np.arange(1.0, 11.0), (copies, 10))
    ones, zeros = np.ones((copies, 10)), np.zeros((copies, 10))
    return numeric.DecodingPrompts(values, ones, zeros, np.zeros(copies), 20, 0.0)


LAW = numeric.chain_law(one_prompt(1), CHAIN)


# -- reference values --------------------------------------------------------------------------------


def test_row_11_maximum_of_normal_variables():
    values = numeric.normal_maximum([2, 8, 64, 1024])
    exact = [0.5641895835, 1.4236003060, 2.3437334651, 3.2482396014]
    np.testing.assert_allclose(values, exact, atol=1e-10)
    with mp.workdps(25):
        direct = mp.quad(
            lambda z: z * 37 * mp.npdf(z) * mp.ncdf(z) ** 36, [-mp.inf, -2, 0, 2, 4, mp.inf]
        )
    assert abs(numeric.normal_maximum(37) - float(direct)) < 1e-12
    first, second = maximum_moments(np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(first, [0, np.pi**-0.5, 1.5 * np.pi**-0.5], atol=1e-13)
    np.testing.assert_allclose(second, [1, 1, 1 + 3**0.5 / (2 * np.pi)], rtol=1e-13)
    assert 37 < numeric.normal_maximum(1e300) < 37.1  # sqrt(2 ln N) and its correction


@pytest.mark.parametrize(
    ("verifier", "method", "value", "digits"),
    [
        ("prompt_loss", "gauss", 0.5721769, 5e-8),
        ("prompt_loss", "tilting", 1.0374393, 5e-8),
        ("prompt_loss", "saddlepoint", 1.3697, 5e-4),
        ("oracle", "tilting", 0.8178123, 5e-8),
        ("oracle", "saddlepoint", 1.1020, 5e-4),
    ],
)
def test_rows_12_and_13_predictions(verifier, method, value, digits):
    error = numeric.best_of_n_error(LAW, [1, 64], verifier=verifier, method=method)[0]
    assert abs(error[0] - 4.57423) < 5e-6  # Q_0
    assert abs(error[1] - value) < digits
    assert abs(error[1] - 1.01 * value) > digits


def test_rows_12_and_13_simulations():
    result = numeric.simulate_selection(one_prompt(3000), CHAIN, [1, 64], pool=256, seed=1)
    for rule, value, error in (("prompt_loss", 1.3807, 0.0017), ("oracle", 1.1034, 0.0011)):
        risk = result.risk(rule)[1]
        allowed = 5 * np.hypot(10 * risk.standard_error, error)
        assert abs(10 * risk.value - value) < allowed < 0.02 * value


def test_row_13_softmax_mean():
    soft = numeric.softmax_mean_error(LAW, [256, np.inf], 1.0)
    assert abs(soft.limit[0] - 0.5504997) < 5e-8
    np.testing.assert_allclose(soft.error[0], [0.5686148, soft.limit[0]], atol=5e-8)
    assert soft.effective_samples[0, 0] > 30
    risk = numeric.simulate_softmax_mean(one_prompt(4000), CHAIN, 256, 1.0, seed=2)
    allowed = 5 * np.hypot(10 * risk.standard_error, 0.0007)
    assert abs(10 * risk.value - 0.5713) < allowed < 0.02 * 0.5713


# -- identities --------------------------------------------------------------------------------------


def test_tilting_solves_its_equation():
    """The tilt is eliminated with mpmath, for the law with label noise."""
    data = numeric.decoding_prompts(12, 5, 1, label_noise_var=0.7, seed=3)
    law = numeric.chain_law(data, icl.NoisyDecoding(0.4, 0.3, 3, label_noise_var=0.7))
    noise, o, c, s, mu = 0.2, *(x[0] for x in law.verified("prompt_loss"))

    def tilted(theta):
        D = [1 + 2 * theta * m * v * v for m, v in zip(mu, s, strict=True)]
        r = sum((p + q / x) ** 2 + v * v / x for p, q, v, x in zip(o, c, s, D, strict=True))
        moved = [
            4 * theta**2 * m**2 * (v * q / x) ** 2 for m, q, v, x in zip(mu, c, s, D, strict=True)
        ]
        width = sum(1 / x - 1 + mp.log(x) for x in D)
        return r, (width + sum(moved) + theta**2 * noise**2) / 2

    for samples in (2, 50, 1e6):
        theta = mp.findroot(
            lambda x, count=samples: tilted(x)[1] - mp.log(count), (0.01, 1e5), solver="anderson"
        )
        error = numeric.best_of_n_error(law, samples, method="tilting", verifier_noise=noise)
        assert abs(error[0] / float(tilted(theta)[0]) - 1) < 1e-9


def test_rate_distortion_at_the_best_noise():
    """B N^(-2/d) at s^2 = (B/d)(1 - N^(-2/d)), and a minimum over the noise there."""
    d, samples = 12, 500.0
    centre = np.random.default_rng(0).standard_normal((1, d))
    bias = float(np.square(centre).sum())
    best = np.sqrt(bias / d * (1 - samples ** (-2 / d)))
    errors = []
    for factor in (0.95, 1, 1.05):
        spread = np.full((1, d), factor * best)
        law = numeric.ChainLaw(np.ones((1, d)), np.zeros((1, d)), centre, spread, np.zeros(1))
        found = numeric.best_of_n_error(law, samples, verifier="oracle", method="tilting")
        errors.append(float(found[0]))
    assert abs(errors[1] / (bias * samples ** (-2 / d)) - 1) < 1e-10
    assert errors[1] < min(errors[0], errors[2])


@pytest.mark.parametrize(
    ("d", "low", "high", "copies", "pool"),
    [(10, 0.19, 0.29, 400, 2**14), (40, 0.05, 0.09, 200, 2**12)],
)
def test_rate_distortion_is_low_at_finite_dimension(d, low, high, copies, pool):
    """Low by 20 to 28 % at d = 10 and by 6 to 8 % at d = 40."""
    ones, zeros = np.ones((copies, d)), np.zeros((copies, d))
    data = numeric.DecodingPrompts(ones, ones, zeros, zeros[:, 0], d, 0.0)
    for samples in (16, 4096):
        best = np.sqrt(1 - samples ** (-2 / d)) / 2  # the bias is 1/2 in each direction
        decoding = icl.NoisyDecoding(0.5, float(best), 1, noise_where="output")
        sim = numeric.simulate_selection(
            data, decoding, samples, rules=("oracle",), pool=pool, seed=4
        ).risk("oracle")
        ratio = 0.25 * samples ** (-2 / d) / sim.value[0]
        error = 5 * sim.standard_error[0] / sim.value[0]
        assert low - error < 1 - ratio < high + error, (samples, ratio)
        assert error < 0.03


def test_limits_of_no_noise_and_of_many_samples():
    data = numeric.decoding_prompts(6, 9, 3, label_noise_var=0.4, seed=1)
    decoding = icl.NoisyDecoding(0.3, 0.5, 3, label_noise_var=0.4)
    law = numeric.chain_law(data, decoding)
    still = numeric.chain_law(data, decoding, noise_std=0)
    for method in METHODS:
        same = numeric.best_of_n_error(still, [1, 16], method=method)
        np.testing.assert_allclose(same, still.mean_error([1, 16]), rtol=1e-13)
        one = numeric.best_of_n_error(law, 1, method=method, verifier="oracle")
        np.testing.assert_allclose(one, law.mean_error(), rtol=1e-13)
    null = data.eigenvalues == 0
    v = 0.25 * 3  # noise of three steps in null directions
    expected = np.where(null, data.coefficients**2 + v, data.overfit**2).sum(axis=-1)
    np.testing.assert_allclose(law.limit_error(), expected, rtol=1e-12)
    assert np.all(law.limit_error("oracle") == 0)
    far = numeric.best_of_n_error(law, 1e250, method="tilting")
    np.testing.assert_allclose(far, expected, rtol=1e-3)
    np.testing.assert_allclose(still.limit_error(), still.mean_error(), rtol=1e-12)


def test_settings_broadcast_and_one_grid_serves_all_samples():
    data = numeric.decoding_prompts(20, 10, 7, seed=5)
    law = numeric.chain_law(data, CHAIN, steps=np.array([[2], [4]]), noise_std=[0.2, 0.4, 0.8])
    counts = np.array([[1, 4], [16, 64]])
    for method in METHODS:
        whole = numeric.best_of_n_error(law, counts, method=method)
        assert whole.shape == (2, 3, 7, 2, 2)
        alone = numeric.chain_law(data[3:4], icl.NoisyDecoding(0.5, 0.4, 4))
        np.testing.assert_allclose(
            whole[1, 1, 3, 1, 1], numeric.best_of_n_error(alone, 64, method=method)[0], rtol=1e-9
        )
    soft = numeric.softmax_mean_error(law, counts, np.array([0.5, 1.0, 2.0])[:, None])
    assert soft.error.shape == (2, 3, 7, 2, 2)
    risk = numeric.selection_risk(data, CHAIN, counts, steps=[1, 2, 3], method="gauss")
    assert risk.values.shape == (7, 3, 2, 2)


def test_tilting_in_the_limit_of_large_dimensions():
    """The average over prompts of a large dimension, with label noise, both verifiers."""
    n, d, label = 400, 200, 100.0
    decoding = icl.NoisyDecoding(0.4, 0.3, 3, label_noise_var=label)
    data = numeric.decoding_prompts(n, d, 12, label_noise_var=label, reduced=True, seed=6)
    for rule in ("prompt_loss", "oracle"):
        finite = numeric.selection_risk(
            data, decoding, np.exp(0.3 * d), rule=rule, method="tilting"
        )
        limit = numeric.tilting_limit_risk(
            decoding, d / n, 0.3, label_noise_ratio=label / n, verifier=rule
        )
        assert abs(finite.value / limit - 1) < 0.02 + 5 * finite.standard_error / limit
    one = numeric.tilting_limit_risk(decoding, 0.5, 0.0, label_noise_ratio=0.25)
    assert abs(one / float(decoding.limit_risk(0.5, label_noise_ratio=0.25)) - 1) < 1e-9
    wide = icl.NoisyDecoding(0.3, 0.2, 3)  # the atom keeps 1 + sigma^2 t
    assert abs(numeric.tilting_limit_risk(wide, 2, np.inf) - 0.5 * 1.12) < 1e-9


# -- accuracy, as stated -----------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[10, 40], ids=["d=10", "d=40"])
def measured(request):
    """Ratio prediction/simulation and its standard error on common prompts, n = 2 d."""
    d = request.param
    counts = np.array([1, 8, 64, 1024])
    data = numeric.decoding_prompts(2 * d, d, 300 if d == 10 else 100, seed=7)
    simulated = numeric.simulate_selection(data, CHAIN, counts, pool=4096, seed=8)

    def ratio(rule, method):
        predicted = numeric.selection_risk(data, CHAIN, counts, rule=rule, method=method)
        return predicted.ratio(simulated.risk(rule))

    return d, ratio


@pytest.mark.parametrize("rule", ["prompt_loss", "oracle"])
def test_saddlepoint_within_three_percent(measured, rule):
    _, ratio = measured
    value, error = ratio(rule, "saddlepoint")
    assert np.all(np.abs(value - 1) < 0.03 + 5 * error)
    assert np.all(error < 0.02)
    assert np.all(np.abs(1.1 * value[1:3] - 1) > 0.03 + 5 * error[1:3])


@pytest.mark.parametrize("rule", ["prompt_loss", "oracle"])
def test_tilting_is_low_by_the_stated_part(measured, rule):
    d, ratio = measured
    value, error = ratio(rule, "tilting")
    low, high = (0.10, 0.31) if d == 10 else (0.08, 0.16)
    assert np.all(1 - value[1:] > low - 5 * error[1:])
    assert np.all(1 - value[1:] < high + 5 * error[1:])
    assert np.all(1 - value[1:3] > 5 * error[1:3])


def test_gauss_is_for_few_samples_and_large_dimensions(measured):
    d, ratio = measured
    value, error = ratio("prompt_loss", "gauss")
    assert np.all(np.abs(value[:2] - 1) < 0.10 + 5 * error[:2])
    assert value[2] < 1 - 5 * error[2]
    if d == 10:
        assert value[3] < -5 * error[3]
    else:
        assert abs(value[3] - 1) < 0.12 + 5 * error[3]
    # The oracle weighs all directions alike, so the loss is dominated by its curvature.
    assert ratio("oracle", "gauss")[0][3] < 0.6


def test_verifier_noise():
    data = numeric.decoding_prompts(20, 10, 300, seed=9)
    for noise in (0.5, 4.0):
        sim = numeric.simulate_selection(
            data, CHAIN, [8, 64], rules=("prompt_loss",), pool=1024, verifier_noise=noise, seed=1
        ).risk("prompt_loss")
        predicted = numeric.selection_risk(data, CHAIN, [8, 64], verifier_noise=noise)
        value, error = predicted.ratio(sim)
        assert np.all(np.abs(value - 1) < 0.03 + 5 * error)
        without, error = numeric.selection_risk(data, CHAIN, [8, 64]).ratio(sim)
        assert np.all(without < 0.97 - 5 * error)


def test_selection_under_label_noise_can_lose_to_the_mean():
    decoding = icl.NoisyDecoding(0.4, 0.5, 2, label_noise_var=4)
    data = numeric.decoding_prompts(14, 10, 400, label_noise_var=4, seed=10)
    result = numeric.simulate_selection(data, decoding, [8, 256], pool=1024, seed=2)
    gap = result.risk("prompt_loss") - result.risk("mean")
    assert gap.value[1] > 5 * gap.standard_error[1]
    for rule in ("prompt_loss", "oracle", "mean"):
        predicted = numeric.selection_risk(data, decoding, [8, 256], rule=rule)
        value, error = predicted.ratio(result.risk(rule))
        assert np.all(np.abs(value - 1) < 0.03 + 5 * error), rule


def test_small_noise_optimum():
    """At t = 1 with the oracle the risk is B (1 - m_N^2/d); simulated at the best noise for d = 40."""
    data = numeric.decoding_prompts(4000, 40, 200, seed=11)  # nearly isotropic
    decoding = icl.NoisyDecoding(0.5, 0.1, 1)
    factor, error = numeric.small_noise_optimum(
        numeric.chain_law(data, decoding), 64, verifier="oracle"
    )
    best = icl.NoisyDecoding(0.5, float(0.1 * factor.mean()), 1)
    sim = numeric.simulate_selection(data, best, 64, rules=("oracle",), pool=1024, seed=3)
    value, spread = numeric.PromptAverage(error[:, None] / 40).ratio(sim.risk("oracle"))
    assert abs(value[0] - 1) < 0.02 + 5 * spread[0]
    start = numeric.chain_law(data, decoding, noise_std=0).mean_error() / 40
    unselected, spread = numeric.PromptAverage(start[:, None]).ratio(sim.risk("oracle"))
    assert unselected[0] > 1.1 + 5 * spread[0]


def test_every_number_from_one_pool_is_unbiased():
    data = numeric.decoding_prompts(20, 10, 4000, seed=12)
    pooled = numeric.simulate_selection(data, CHAIN, [1, 4, 16], pool=32, seed=4)
    for place, count in enumerate((1, 4, 16)):
        alone = numeric.simulate_selection(data, CHAIN, count, seed=5 + place)
        for rule in ("mean", "prompt_loss", "oracle"):
            gap = pooled.risk(rule)[place : place + 1] - alone.risk(rule)
            assert abs(gap.value[0]) < 5 * gap.standard_error[0]


# -- softmax means and stepwise selection ------------------------------------------------------------


def test_softmax_mean_within_two_percent_while_samples_are_effective():
    data = numeric.decoding_prompts(40, 10, 300, seed=13)
    law = numeric.chain_law(data, CHAIN)
    theta = np.array([0.0, 0.5, 1.0])
    sim = numeric.simulate_softmax_mean(data, CHAIN, 512, theta, repeats=4, seed=1)
    for place, each in enumerate(theta):
        soft = numeric.softmax_mean_error(law, 512, each)
        assert np.median(soft.effective_samples) > 30
        value, error = numeric.PromptAverage(soft.error[:, None] / 10).ratio(sim[place : place + 1])
        assert abs(value[0] - 1) < 0.02 + 5 * error[0]
        limit = numeric.PromptAverage(soft.limit[:, None] / 10)
        assert limit.value[0] < sim.value[place]
    plain = numeric.softmax_mean_error(law, 512, 0.0)
    np.testing.assert_allclose(plain.error, law.mean_error(512), rtol=1e-12)
    oracle = numeric.softmax_mean_error(law, 512, 0.5, verifier="oracle").error.mean() / 10
    sim = numeric.simulate_softmax_mean(data, CHAIN, 512, 0.5, verifier="oracle", seed=2)
    assert abs(oracle / sim.value - 1) < 0.03 + 5 * sim.standard_error / sim.value


def test_softmax_risk_is_the_average_of_the_errors():
    data = numeric.decoding_prompts(40, 10, 30, seed=13)
    steps, theta, counts = np.array([2, 3]), np.array([[0.1], [0.5], [1.0]]), [64, 512]
    risk = numeric.softmax_mean_risk(data, CHAIN, counts, theta, steps=steps)
    assert risk.value.shape == (3, 2, 2)
    for i, j in np.ndindex(3, 2):
        law = numeric.chain_law(data, CHAIN, steps=steps[j])
        soft = numeric.softmax_mean_error(law, counts, theta[i, 0])
        np.testing.assert_allclose(risk[i, j].values, soft.error / 10, rtol=1e-12)
    plain = numeric.softmax_mean_risk(data, CHAIN, 8, 0.0)
    mean = numeric.selection_risk(data, CHAIN, 8, rule="mean")
    np.testing.assert_allclose(plain.values, mean.values, rtol=1e-12)
    sharp = numeric.softmax_mean_risk(data, CHAIN, 64, 0.5, verifier="oracle", noise_std=[0.2, 0.4])
    assert sharp.value.shape == (2,)
    with pytest.raises(icl.OutOfDomain, match="no effective sample"):
        numeric.softmax_mean_risk(data, CHAIN, 8, 1e8, noise_std=1e-3)


def test_softmax_mean_of_few_effective_samples():
    """Off by up to 4 % at N/rho between 2 and 7, and seen to be off."""
    soft = numeric.softmax_mean_error(LAW, 8, 1.0)
    assert 2 < soft.effective_samples[0] < 7
    sim = numeric.simulate_softmax_mean(one_prompt(4000), CHAIN, 8, 1.0, repeats=16, seed=3)
    ratio, error = soft.error[0] / (10 * sim.value), 5 * sim.standard_error / sim.value
    assert error < abs(ratio - 1) < 0.05 + error


@pytest.mark.parametrize(("sigma", "allowed"), [(0.02, 0.015), (0.3, 0.07)])
def test_one_selected_step(sigma, allowed):
    """The mean of the selected noise on one prompt, M = 16: 1 % and 6 % as a vector."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((20, 10))
    values = np.linalg.eigvalsh(X.T @ X / 20)
    g = values * rng.standard_normal(10)
    picked = []
    for _ in range(40):
        xi = rng.standard_normal((2000, 16, 10))
        move = 2 * sigma * xi @ g + sigma**2 * np.square(xi) @ values
        best = move.argmin(axis=1)
        picked.append(sigma * xi[np.arange(2000), best].mean(axis=0))
    mean, error = np.mean(picked, axis=0), np.std(picked, axis=0) / np.sqrt(40)
    predicted = numeric.selected_step(g, values, sigma, 16)
    gap, noise = np.linalg.norm(mean - predicted), np.linalg.norm(error)
    assert gap < (allowed + 0.005) * np.linalg.norm(mean) + 5 * noise
    assert np.linalg.norm(mean - 1.2 * predicted) > allowed * np.linalg.norm(mean) + 5 * noise
    if sigma == 0.02:
        straight = -sigma * numeric.normal_maximum(16) * g / np.linalg.norm(g)
        assert np.linalg.norm(predicted - straight) < 0.01 * np.linalg.norm(straight)


def test_stepwise_selection_against_its_prediction():
    chain = icl.NoisyDecoding(0.5, 0.3, 8)
    data = numeric.decoding_prompts(80, 40, 300, seed=14)
    predicted = numeric.stepwise_risk(data, chain, [1, 4, 16], at=[1, 4, 8])
    for row, (candidates, allowed) in enumerate(((1, 0.0), (4, 0.03), (16, 0.08))):
        sim = numeric.simulate_stepwise(data, chain, candidates, at=[1, 4, 8], seed=row)
        value, error = predicted[row].ratio(sim)
        assert np.all(np.abs(value - 1) < allowed + 5 * error)
    plain = numeric.chain_law(data, chain, steps=[1, 4, 8]).mean_error() / 40
    np.testing.assert_allclose(predicted[0].values, plain.T, rtol=1e-12)
    assert predicted.value[1, 2] < 0.8 * predicted.value[0, 2]
    scaled = icl.NoisyDecoding(0.5, 0.3, 8, scaled_noise=True)
    np.testing.assert_allclose(
        numeric.stepwise_risk(data, scaled, 4).values,
        numeric.stepwise_risk(data, chain, 4, noise_std=0.3 * 0.5**0.5).values,
    )
    silent = icl.NoisyDecoding(0.5, 0, 8, scaled_noise=True)
    np.testing.assert_allclose(
        numeric.stepwise_risk(data, silent, 4, noise_std=0.3).values,
        numeric.stepwise_risk(data, scaled, 4).values,
    )


# -- what is refused ---------------------------------------------------------------------------------

DATA: Any = numeric.decoding_prompts(5, 3, 4)
REFUSED = {
    "no sample": (lambda: numeric.best_of_n_error(LAW, 0), "buys nothing"),
    "text": (lambda: numeric.best_of_n_error(LAW, "8"), "not numeric"),
    "law": (lambda: numeric.best_of_n_error(DATA, 8), "numeric.chain_law"),
    "method": (lambda: numeric.best_of_n_error(LAW, 8, method="exact"), "saddlepoint"),
    "verifier": (lambda: numeric.best_of_n_error(LAW, 8, verifier="mean"), "oracle"),
    "noise": (lambda: numeric.best_of_n_error(LAW, 8, verifier_noise=-1), "negative"),
    "infinite": (lambda: numeric.best_of_n_error(LAW, np.inf), "limit_error"),
    "maximum": (lambda: numeric.normal_maximum([2, np.inf]), "infinite"),
    "pool": (lambda: numeric.simulate_selection(DATA, CHAIN, 8, pool=4), "draw that many"),
    "rules": (lambda: numeric.simulate_selection(DATA, CHAIN, 8, rules=("vote",)), "'vote'"),
    "one prompt": (lambda: numeric.simulate_selection(DATA[:1], CHAIN, 8), "at least 2"),
    "temperature": (lambda: numeric.softmax_mean_error(LAW, 8, -1), "negative"),
    "no selection": (
        lambda: numeric.simulate_stepwise(
            DATA, icl.NoisyDecoding(0.5, 1, 2, noise_where="output"), 4
        ),
        "nothing to select",
    ),
    "candidates": (lambda: numeric.stepwise_risk(DATA, CHAIN, 0), "buys nothing"),
    "limit": (lambda: numeric.tilting_limit_risk(CHAIN, 0.5, -1), "nu"),
    "level": (
        lambda: numeric.small_noise_optimum(numeric.chain_law(DATA, CHAIN, noise_std=0), 8),
        "noise_std > 0",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input(name):
    call, message = REFUSED[name]
    with pytest.raises(icl.InvalidInput, match=message):
        call()


# -- astronomical numbers of samples ---------------------------------------------------------------


@pytest.mark.parametrize("samples", [1e8, 1e30, 1e100])
def test_the_smallest_of_very_many_chi_squares(samples):
    """l = |z|^2 is chi^2_d and the error: the mean of the smallest of N is known."""
    d = 200
    law = numeric.ChainLaw(
        np.ones((1, d)), np.zeros((1, d)), np.zeros((1, d)), np.ones((1, d)), np.zeros(1)
    )
    low, high = stats.chi2.ppf([np.exp(-40) / samples, 60 / samples], d)
    x = np.linspace(low, high, 4001)
    exact = low + np.trapezoid(np.exp(samples * np.log1p(-stats.chi2.cdf(x, d))), x)
    found = float(numeric.best_of_n_error(law, samples)[0])
    assert found == pytest.approx(exact, rel=3e-3)
    assert found != pytest.approx(1.02 * exact, rel=3e-3)


@pytest.mark.parametrize("options", [{}, {"verifier": "oracle"}, {"verifier_noise": 0.5}])
def test_many_samples_do_not_depend_on_the_grid_of_tilts(monkeypatch, options):
    counts = [2e6, 1e15, 1e30, 1e100]
    data = numeric.decoding_prompts(40, 20, 2, label_noise_var=0.2, reduced=True, seed=1)
    law = numeric.chain_law(data, icl.NoisyDecoding(0.5, 0.3, 5, label_noise_var=0.2))
    found = numeric.best_of_n_error(law, counts, **options)
    monkeypatch.setattr(best_of_n, "_POSITIVE", 8193)
    monkeypatch.setattr(best_of_n, "_RESOLVED", np.inf)  # the sum over tilts, on a fine grid
    assert found == pytest.approx(numeric.best_of_n_error(law, counts, **options), rel=1e-3)


def test_where_the_chance_of_a_loss_underflows():
    with pytest.raises(icl.OutOfDomain, match=r"leaves the range of float64.*tilting"):
        numeric.best_of_n_error(LAW, 1e300, verifier_noise=0.5)
