"""Contraction moments as floats, best steps, lengths and splits of chains, against quadrature and simulation."""

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
import numeric
from numeric.contraction import _power_sums


@pytest.mark.parametrize(("gamma", "step"), [(0.3, 0.5), (1, 0.4), (2, 1 / 3), (0.97, 0.45)])
def test_limits_against_quadrature(gamma, step):
    powers = np.array([0, 1, 2, 5, 12, 41, 200, 999, 4000])
    values = numeric.contraction_moments_limit(powers, gamma, step)
    atom = max(0, 1 - 1 / gamma)
    average = numeric.marchenko_pastur_average(lambda x: (1 - step * x) ** powers[:, None], gamma)
    known = average.value + atom
    assert values == pytest.approx(known, rel=2e-11, abs=1e-300)
    assert 1.03 * values != pytest.approx(known, rel=2e-11, abs=1e-300)


def exact_limits(top, gamma, step):
    """The three-term recurrence of the generating function's root, with rational numbers."""
    gamma, step = (sp.Rational(str(x)) for x in (gamma, step))
    total, product = (
        2 - 2 * step * (1 + gamma),
        1 - 2 * step * (1 + gamma) + step**2 * (1 - gamma) ** 2,
    )
    s = [sp.S.One, -total / 2]
    for k in range(2, top + 2):
        s.append((total * (k - sp.Rational(3, 2)) * s[k - 1] - product * (k - 3) * s[k - 2]) / k)
    s[0] -= 1
    s[1] -= -1 + (1 - gamma) * step
    sums = np.cumsum(np.array(s[1:], dtype=object))
    return [x / (2 * gamma * step) for x in sums]


@pytest.mark.parametrize(("gamma", "step"), [(0.01, 0.9), (0.3, 0.5), (1, 0.5), (3, 0.2)])
def test_limits_keep_their_relative_accuracy(gamma, step):
    known = exact_limits(60, gamma, step)
    values = numeric.contraction_moments_limit(np.arange(61), gamma, step)
    assert np.all(np.abs(values / np.array(known, dtype=float) - 1)[::2] < 1e-13)
    if gamma == 0.01:
        assert 0 < known[60] < 1e-33  # tiny, and still right


def test_far_powers_in_a_table_and_alone():
    for gamma, step in ((0.5, 0.6), (0.7, 0.59), (1, 0.5), (0.97, 0.3), (4, 0.2)):
        table = numeric.contraction_moments_limit(np.arange(10_001), gamma, step)
        for power in (3, 64, 700, 2048, 9_999, 10_000):
            alone = numeric.contraction_moments_limit(power, gamma, step)
            assert table[power] == pytest.approx(float(alone), rel=1e-10, abs=1e-300)
    # Both sides of the place where x = 0 turns from its residue to its own mass.
    known = exact_limits(400, 0.7, 0.59)
    table = numeric.contraction_moments_limit(np.arange(3000), 0.7, 0.59)
    assert table[:401] == pytest.approx(np.array(known, dtype=float), rel=1e-11)
    smooth = np.log(table[::2])
    assert np.all(np.abs(np.diff(smooth, 3))[20:] < 1e-3)
    assert float(numeric.contraction_moments_limit(10**8, 1, 0.5)) == pytest.approx(
        (np.pi * 10**8 / 2) ** -0.5, rel=1e-7
    )


def test_power_sums_do_not_depend_on_how_they_are_grouped():
    base, weights = np.array([1.0, 0.5, -0.8]), np.array([0.2, 0.5, 0.3])
    direct = [(weights * base**j).sum() for j in range(30)]
    assert _power_sums(np.arange(30), base, weights) == pytest.approx(direct, rel=1e-14)


@pytest.mark.parametrize(("n", "d", "step"), [(20, 10, 0.3), (6, 15, 0.2), (30, 30, 0.25)])
def test_exact_moments_against_the_density_of_eigenvalues(n, d, step):
    powers = np.array([1, 2, 5, 8, 12])
    values = numeric.contraction_moments(powers, n, d, step)
    null = max(0, d - n)
    average = numeric.wishart_average(lambda x: (1 - step * x / n) ** powers[:, None], n, d)
    assert values == pytest.approx((average.value + null) / d, rel=1e-8)
    assert 1.03 * values != pytest.approx((average.value + null) / d, rel=1e-8)


def test_tables_of_any_shape_and_exact_steps():
    square = numeric.contraction_moments([[1, 2], [3, 4]], 20, 10, 0.5)
    assert square.tolist() == [[1 / 2, 31 / 80], [463 / 1600, 3061 / 12800]]
    assert float(numeric.contraction_moments(3, 20, 10, sp.sqrt(2) / 4)) == pytest.approx(
        float(icl.contraction_moment(3, 20, 10, 2**0.5 / 4).expr)
    )


def test_best_steps_are_the_reference_values():
    steps = (0.6451612903, 0.6280774762, 0.6112509122, 0.5942476520)
    moments = (0.3548387097, 0.2105276755, 0.1458677264, 0.1095376805)
    for t, (step, moment) in enumerate(zip(steps, moments, strict=True), start=1):
        best = numeric.best_contraction(t, 20, 10)
        assert best.step_size == pytest.approx(step, abs=1.01e-10, rel=0)
        assert best.moment == pytest.approx(moment, abs=1e-10, rel=0)
        near = [
            float(numeric.contraction_moments(2 * t, 20, 10, best.step_size * x))
            for x in (0.97, 1.03)
        ]
        assert min(near) > best.moment
        condition = icl.best_step_condition(t, 20, 10, best.step_size).expr
        assert abs(float(condition)) < 1e-14


@pytest.mark.parametrize(
    ("n", "d", "t", "low"), [(20, 10, 1, 0.032), (20, 10, 3, 0.073), (60, 30, 6, 0.050)]
)
def test_the_limit_is_a_few_percent_low_at_finite_sizes(n, d, t, low):
    exact = numeric.contraction_moments(2 * t, n, d, 0.5)
    limit = numeric.contraction_moments_limit(2 * t, d / n, 0.5)
    assert 1 - limit / exact == pytest.approx(low, abs=1e-3)


# -- simulation ----------------------------------------------------------------------------------


def simulate(decoding, n, d, prompts, seed):
    """Squared error per coordinate and prompt loss of the mean chain, one row a prompt."""
    rng = np.random.default_rng(seed)
    step, std = float(decoding.step_size), float(decoding.noise_var) ** 0.5
    factors = [float(f) for f in decoding.noise_factors()]
    x = rng.standard_normal((prompts, n, d))
    w = rng.standard_normal((prompts, d))
    y = np.einsum("pnd,pd->pn", x, w)
    y += float(decoding.label_noise_var) ** 0.5 * rng.standard_normal((prompts, n))
    state = np.zeros((prompts, int(decoding.samples), d))
    for factor in factors:
        residual = np.einsum("pnd,psd->psn", x, state) - y[:, None]
        state -= step / n * np.einsum("pnd,psn->psd", x, residual)
        state += factor * std * rng.standard_normal(state.shape)
    mean = state.mean(axis=1)
    fit = y - np.einsum("pnd,pd->pn", x, mean)
    return np.stack([((mean - w) ** 2).mean(axis=1), (fit**2).mean(axis=1)], axis=1)


@pytest.mark.parametrize(
    ("options", "n", "d"),
    [
        ({}, 14, 9),
        ({"samples": 4}, 8, 12),
        ({"noise_where": "output", "samples": 2}, 14, 9),
        ({"scaled_noise": True}, 14, 9),
        ({"noise_where": (1, 0.5, 2)}, 14, 9),
    ],
)
def test_risk_and_prompt_loss_against_the_real_recursion(options, n, d):
    decoding = icl.NoisyDecoding(0.3, 0.35, 3, label_noise_var=1.3, **options)
    sample = simulate(decoding, n, d, 40_000, 7)
    error = sample.std(axis=0) / len(sample) ** 0.5
    known = np.array([float(decoding.risk(n, d)), float(decoding.prompt_loss(n, d))])
    z = (sample.mean(axis=0) - known) / error
    assert np.all(np.abs(z) < 5)
    assert np.all(np.abs((sample.mean(axis=0) - 1.04 * known) / error) > 5)


# -- lengths and splits --------------------------------------------------------------------------


def noisy(step, variance, steps, **options):
    return icl.NoisyDecoding(step, sp.sqrt(sp.Rational(str(variance))), steps, **options)


def test_curves_are_the_formulas():
    for options in ({}, {"noise_where": "output"}, {"samples": 4, "scaled_noise": True}):
        decoding = noisy(0.4, 0.1, 5, label_noise_var=1.5, **options)
        exact, limit = (
            numeric.chain_risks(decoding, 12, 8),
            numeric.chain_risks(decoding, gamma=0.5, label_noise_ratio=0.1),
        )
        for t in (0, 1, 3, 5):
            shorter = noisy(0.4, 0.1, t, label_noise_var=1.5, **options)
            assert exact[t] == pytest.approx(float(shorter.risk(12, 8)), rel=1e-13)
            assert limit[t] == pytest.approx(float(shorter.limit_risk(0.5, 0.1)), rel=1e-12)
        moments = numeric.contraction_moments(np.arange(11), 12, 8, 0.4)
        given = numeric.chain_risks(decoding, moments=moments, label_noise_ratio=1.5 / 12)
        assert given == pytest.approx(exact, rel=1e-13)


@pytest.mark.parametrize(
    ("gamma", "variance", "steps", "risk"),
    [(2, 0.01, 7, 0.5612420382), (0.5, 0.15, 28, 0.2999750207)],
)
def test_optimal_lengths_are_the_reference_values(gamma, variance, steps, risk):
    decoding = noisy(1 / (1 + gamma), variance, 100)
    best = numeric.optimal_length(decoding, gamma=gamma)
    assert (best.steps, best.at_end) == (steps, False)
    assert best.risk == pytest.approx(risk, abs=1e-10, rel=0)
    even = numeric.contraction_moments_limit(2 * np.arange(101), gamma, 1 / (1 + gamma))
    assert best.steps == np.argmax(even[:-1] - even[1:] <= variance * even[:-1])


def test_more_samples_take_longer_chains_and_much_noise_none():
    found = [
        numeric.optimal_length(noisy(0.4, 0.2, 60, samples=count), 20, 10)
        for count in (1, 4, 16, 64)
    ]
    assert [x.steps for x in found] == sorted(x.steps for x in found)
    assert found[0].steps < found[-1].steps
    assert numeric.optimal_length(noisy(0.4, 0.9, 10), gamma=0.5).steps == 0


@pytest.mark.parametrize("step", [None, 0.45])
def test_overthinking_begins_at_the_threshold(step):
    size = 2 / 3 if step is None else step
    threshold = float(icl.overthinking_threshold(0.5, step).expr)
    below = numeric.optimal_length(noisy(size, 0.97 * threshold, 300), gamma=0.5)
    above = numeric.optimal_length(noisy(size, 1.1 * threshold, 300), gamma=0.5)
    assert below.at_end
    assert not above.at_end


@pytest.mark.parametrize(
    ("gamma", "steps", "risk"), [(1, 129, 0.0661425421), (0.25, 15, 2.2166851e-4)]
)
def test_splits_are_the_reference_values(gamma, steps, risk):
    decoding = noisy(1 / (1 + gamma), 0.1, 10_000)
    best = numeric.best_split(decoding, 10**4, gamma=gamma, whole_samples=False)
    assert best.steps == steps
    assert best.risk == pytest.approx(risk, abs=1e-10, rel=0)
    whole = numeric.best_split(decoding, 10**4, gamma=gamma)
    assert whole.samples == 10**4 // whole.steps
    assert best.risk <= whole.risk < 1.01 * best.risk
    again = numeric.chain_risks(
        noisy(1 / (1 + gamma), 0.1, 300, samples=int(whole.samples)), gamma=gamma
    )
    assert again[whole.steps] == pytest.approx(whole.risk, rel=1e-12)


def test_a_split_at_finite_sizes():
    best = numeric.best_split(noisy(0.3, 0.05, 40), 64, 20, 10)
    risks = {t: float(noisy(0.3, 0.05, t, samples=64 // t).risk(20, 10)) for t in range(1, 25)}
    assert best.steps == min(risks, key=lambda t: risks[t])
    assert best.risk == pytest.approx(risks[best.steps], rel=1e-12)
    assert numeric.best_split(noisy(0.3, 0.05, 40), 1, 20, 10).steps == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: numeric.contraction_moments(-1, 20, 10, 0.5), "not an integer of at least 0"),
        (lambda: numeric.contraction_moments(200, 20, 10, 0.5), "from 0 to 122"),
        (lambda: numeric.contraction_moments(2, 20, 10, -0.5), "not positive"),
        (lambda: numeric.contraction_moments(2, 20, 10, icl.symbols.eta), "no number"),
        (lambda: numeric.contraction_moments_limit(2, 0, 0.5), "gamma = 0 is not positive"),
        (lambda: numeric.contraction_moments_limit([], 1, 0.5), "empty"),
        (lambda: numeric.contraction_moments_limit(10**9, 1, 0.5), "up to 1e"),
        (lambda: numeric.best_contraction(0, 20, 10), "steps"),
        (lambda: numeric.chain_risks(noisy(0.5, 0.1, 3)), "one of the three"),
        (lambda: numeric.chain_risks(noisy(0.5, 0.1, 3), 20), "one of the three"),
        (lambda: numeric.chain_risks(noisy(0.5, 0.1, 3), 20, 10, gamma=1), "one of the three"),
        (lambda: numeric.chain_risks(noisy(0.5, 0.1, 90), 20, 10), "up to 60 thoughts"),
        (lambda: numeric.chain_risks(noisy(0.5, 0.1, 3), moments=[1, 2]), "7 moments are needed"),
        (lambda: numeric.chain_risks("chain", 20, 10), "type str"),
        (
            lambda: numeric.chain_risks(icl.NoisyDecoding(icl.symbols.eta, 0, 3), 20, 10),
            "contains symbols",
        ),
        (
            lambda: numeric.optimal_length(noisy(0.5, 0.1, 2, noise_where=(1, 1)), 20, 10),
            "belongs to one length",
        ),
        (lambda: numeric.best_split(noisy(0.5, 0.1, 3), 0, gamma=1), "budget"),
        (lambda: numeric.best_split(noisy(0.5, 0.1, 3, samples=2), 9, gamma=1), "leave it at 1"),
        (lambda: numeric.best_split(noisy(0.5, 0.1, 0), 9, gamma=1), "spends no thought"),
        (lambda: numeric.best_split(noisy(0.5, 0.1, 3), 9, ratio=1), "the values are"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()


def test_sums_of_a_symbolic_number_of_terms_are_not_compiled():
    with pytest.raises(icl.InvalidInput, match="a sum over a symbolic number of terms"):
        numeric.compile(icl.best_contraction())
    value = icl.best_contraction().subs(steps=5, gamma=0.5)
    assert float(value) == pytest.approx(1181 / 19683, rel=1e-14)
    compiled = numeric.compile(icl.best_contraction(5))
    assert compiled(gamma=0.5) == pytest.approx(1181 / 19683, rel=1e-13)


def test_steps_that_leave_the_range_of_floats():
    with pytest.raises(icl.OutOfDomain, match="range of float64"):
        numeric.contraction_moments_limit(10**5, 0.5, 3.0)
    with pytest.raises(icl.OutOfDomain, match="range of float64"):
        numeric.contraction_moments(120, 20, 10, 1e4)
