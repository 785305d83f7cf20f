"""Large prompts in numbers: the operator, exponents, and where constants exist."""

import math

import numpy as np
import pytest
import torch
from largeprompt_numbers import (
    CHAPTER,
    GENERAL,
    SIGMA,
    assert_close,
    assert_mean,
    compositions,
    extrapolated,
    sample_prompts,
)
from torch import nn

import icltheory as icl
import numeric
from numeric import finite

LINE = icl.Gaussian([0], [[1]])
ATOMS = np.array([[1, 0], [-0.5, 1], [0, -1.5]])
CHANCES = np.array([0.5, 0.2, 0.3])
ATOM_LAW = icl.Empirical(ATOMS, weights=CHANCES)


# -- the operator and its conversions ----------------------------------------------------------------


def test_query_among_the_keys_moves_the_mean_by_its_own_weight():
    """n (E T' - E T) -> exp(z'U z - K(U z)) V (z - grad K(U z)), by enumerating every prompt."""
    U, V = np.array([[0.4, -0.2], [0.1, 0.3]]), np.array([[1.0, 2.0], [-1.0, 0.5]])
    z = np.array([0.8, -0.6])
    dual = U @ z
    own, shifts, lengths = math.exp(z @ dual), [], [40, 80, 160, 320]
    for n in lengths:
        counts, chance = compositions(n, CHANCES)
        weights = counts * np.exp(ATOMS @ dual)
        total, read = weights.sum(axis=1, keepdims=True), weights @ ATOMS
        moved = (read + own * z) / (total + own) - read / total
        shifts.append(n * V @ (chance @ moved))
    cgf, mean = numeric.token_cgf(ATOM_LAW, dual), numeric.limit_output(ATOM_LAW, dual)
    expected = own * math.exp(-cgf) * V @ (z - mean)
    assert_close(expected, extrapolated(lengths, shifts), 1e-6)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_jacobian_of_the_mean_is_the_mean_jacobian_for_any_law(n):
    """E C_n(u) = grad E T_n(u) at every n, by enumeration."""
    counts, chance = compositions(n, CHANCES)

    def read(u):
        p = counts * np.exp(ATOMS @ u)
        p = p / p.sum(axis=1, keepdims=True)
        return p, p @ ATOMS

    u, h = np.array([0.4, -0.7]), 1e-3
    p, mean = read(u)
    second = np.einsum("bk,ki,kj->bij", p, ATOMS, ATOMS)
    jacobian = np.einsum("b,bij->ij", chance, second - mean[:, :, None] * mean[:, None, :])
    for j, step in enumerate(h * np.eye(2)):
        ends = [chance @ read(u + k * step)[1] for k in (-2, -1, 1, 2)]
        slope = (ends[0] - 8 * ends[1] + 8 * ends[2] - ends[3]) / (12 * h)
        if n == 1:  # one token is read whatever the scores
            assert np.all(np.abs(slope) < 1e-12)
            assert np.all(np.abs(jacobian) < 1e-15)
        else:
            assert_close(jacobian[:, j], slope, 1e-11)


def test_fluctuations_become_normal():
    """sqrt(n) (T_n - grad K) of signs: skewness and excess kurtosis vanish, the variance stays."""
    u, shapes = 0.5, []
    variance = numeric.leading_covariance(icl.Rademacher(1), u)[0, 0]
    for n in (100, 400, 1600):
        counts, chance = compositions(n, [0.5, 0.5])
        up, down = counts[:, 0] * math.exp(u), counts[:, 1] * math.exp(-u)
        output = (up - down) / (up + down)
        centred = math.sqrt(n) * (output - chance @ output)
        second, third, fourth = (chance @ centred**k for k in (2, 3, 4))
        shapes.append([third / second**1.5, fourth / second**2 - 3, second])
    skew, excess, second = np.transpose(shapes)
    assert np.all(np.abs(skew[1:] / skew[:-1] - 0.5) < 0.02)  # like n^-1/2
    assert np.all(np.abs(excess[1:] / excess[:-1] - 0.25) < 0.02)  # like 1/n
    assert abs(excess[-1]) < 0.01
    assert_close(variance, second[-1], 0.003 * variance)


def test_push_forward_of_sampled_queries():
    mean, U = np.array([1.0, -2.0]), np.array([[0.5, 1.0], [-1.0, 0.3]])
    law, V = icl.Gaussian(mean, SIGMA), np.array([[1.0, 2.0], [0.0, -1.0]])
    z = numeric.sample_tokens(law, 200_000, 1)
    output = numeric.limit_output(law, z @ U.T) @ V.T
    typed = V @ SIGMA @ U @ SIGMA @ U.T @ SIGMA @ V.T
    centred = output - V @ (mean + SIGMA @ U @ mean)
    assert_mean(1 + centred[:, 0], 1.0)
    for i, j in ((0, 0), (0, 1), (1, 1)):
        assert_mean(centred[:, i] * centred[:, j], typed[i, j])
    # Normal: the fourth moment is three times the squared second.
    assert_mean(centred[:, 0] ** 4, 3 * typed[0, 0] ** 2, 0.06)


def test_linear_modules_of_torch_are_the_blocks():
    """U = Wk'Wq and (v, b) = wo Wv of row-vector layers, scores times (d + 1)^(-1/2)."""
    torch.manual_seed(3)
    dim, width = 3, 4
    keys, queries, values = (nn.Linear(width, width, bias=False).double() for _ in range(3))
    out = nn.Linear(width, 1, bias=False).double()
    x, y, query, _ = sample_prompts(icl.LinearRegression(dim=dim, noise_var=0.1), 6, 9, 2)
    tokens = torch.from_numpy(np.concatenate([x, y[..., None]], axis=-1))
    last = torch.from_numpy(np.concatenate([query, np.zeros((6, 1))], axis=1))[:, None]
    read = nn.functional.scaled_dot_product_attention(queries(last), keys(tokens), values(tokens))
    with torch.no_grad():
        expected = out(read)[:, 0, 0].numpy()
        U = (keys.weight.T @ queries.weight).numpy() / math.sqrt(width)
        row = (out.weight @ values.weight).numpy()[0]
    blocks = {"A": U[:dim, :dim], "u": U[dim, :dim], "v": row[:dim], "b": row[dim]}
    model = finite.TokenAttention.from_blocks(**blocks)
    found = model(*(torch.from_numpy(a) for a in (x, y, query))).detach().numpy()
    assert_close(found, expected, 1e-13)


def test_time_of_a_descent_on_the_squared_error_without_one_half():
    """Flow time is twice the learning rate times the number of steps."""
    rate, steps = 2.5e-4, 2000
    gradients = numeric.compile(
        {k: f for k, f in icl.risk_gradients(CHAPTER).items() if k in ("A", "b")}
    )
    zero, a, b = np.zeros(5), 0.3 / math.sqrt(5), 0.3
    for _ in range(steps):
        slope = gradients(A=a * np.eye(5), b=b, u=zero, v=zero)
        a, b = a - rate * slope["A"][0, 0], b - rate * float(slope["b"])
    path = numeric.closed_trajectory(CHAPTER, 2 * rate * steps, alpha=0.3)
    assert_close([a, b], [path["a"], path["b"]], 4e-3)


def test_noise_of_the_target_adds_its_variance_and_no_gradient():
    noise = 0.7
    x, y, query, target = (torch.from_numpy(a) for a in sample_prompts(GENERAL, 200, 8, 3))
    model = finite.TokenAttention(2, start="small", scale=0.5, seed=1)

    def gradient(targets):
        model.zero_grad()
        loss = torch.stack([((model(x, y, query) - t) ** 2).mean() for t in targets]).mean()
        loss.backward()
        slopes = [p.grad for p in model.parameters() if p.grad is not None]
        return loss.item(), torch.cat([g.ravel() for g in slopes])

    clean, slope = gradient([target])
    noisy, same = gradient([target + noise, target - noise])
    assert_close(noisy - clean, noise**2, 1e-12)
    assert torch.allclose(slope, same, rtol=1e-12, atol=1e-14)
    assert not torch.allclose(slope, gradient([target + noise])[1], rtol=1e-2)


# -- exponents ---------------------------------------------------------------------------------------


def test_scores_that_grow_with_the_task_decay_slower_than_any_power():
    """u = 1, A = 0, d = 1: tau^2 = w^2 + 1 (noise 1), and the error averaged over w is exp(-sqrt(2 log n)).

    For one task it is n^-kappa(tau), so that min_w w^2/2 + kappa log n is the exponent.
    """
    n = np.array([1e30, 1e60, 1e120, 1e240])
    w, step = np.linspace(0.1, 9.1, 46, retstep=True)
    errors = [
        numeric.expected_error(LINE, tau, n, query_cov=1) for tau in np.sqrt(1 + w**2).tolist()
    ]
    density = 2 * step * np.exp(-(w**2) / 2) / math.sqrt(2 * math.pi)
    found = -np.log(density @ np.array(errors))
    fine = np.linspace(0, 12, 10_001)
    kappa = numeric.compile(icl.concentration_exponent())(tau=np.sqrt(1 + fine**2))
    predicted = np.array([np.min(fine**2 / 2 + kappa * math.log(x)) for x in n])
    # Up to powers of log n: ratios of increments tend to 1.
    ratios = np.diff(found) / np.diff(predicted)
    assert np.all(np.diff(ratios) < 0)
    assert abs(ratios[-1] - 1) < 0.025
    assert np.all(np.abs(found / np.sqrt(2 * np.log(n)) - 1) < [0.05, 0.02, 0.01, 0.01])
    # Four times log n doubles the exponent; a power law would multiply it by four.
    assert np.all(np.abs(found[2:] / found[:2] - 2) < 0.1)
    one_task = -np.log(numeric.expected_error(LINE, 1, n, query_cov=1))
    assert np.all(one_task[2:] / one_task[:2] > 3.9)


def test_linear_attention_keeps_its_rate_where_softmax_slows_down():
    """tau^2 = 4: n E |error|^2 is 2 tau^2 at every n for linear attention."""
    tau, rng = 2.0, np.random.default_rng(6)
    for n in (10, 40):
        z, a = rng.standard_normal((40_000, n)), tau * rng.standard_normal(40_000)
        # E (s^2 G + G a a'G) for G = 1.
        assert_mean(n * (np.mean(z**2, axis=1) * a - a) ** 2, 2 * tau**2, 0.1)
    softmax = np.array([10, 40]) * numeric.expected_error(LINE, tau, [10, 40], query_cov=1)
    assert softmax[1] > 2 * softmax[0]


def test_gradients_of_the_risk_approach_their_limit_along_a_trajectory():
    """sup |grad R_n - grad R_inf| falls like n^-kappa(tau_max), up to powers of log n above 1/2."""
    path = numeric.closed_trajectory(CHAPTER, np.linspace(0, 4, 6), a0=0.1, b0=2.0)
    slopes = numeric.compile(
        {k: f for k, f in icl.risk_gradients(CHAPTER).items() if k in ("A", "b")}
    )

    def gap(a, b, n, task=CHAPTER, limit=slopes):
        dim = int(task.dim)
        here = numeric.block_risk_gradient(task, a, b, n)
        there = limit(A=a * np.eye(dim), b=b, u=np.zeros(dim), v=np.zeros(dim))
        return math.sqrt(np.sum((here["A"] - there["A"]) ** 2) + (here["b"] - there["b"]) ** 2)

    worst = [
        max(gap(a, b, n) for a, b in zip(path["a"], path["b"], strict=True)) for n in (10**6, 10**7)
    ]
    assert abs(math.log10(worst[0] / worst[1]) - 1) < 0.01
    # Beyond tau^2 = 1/2: the balanced end for d = 2, tau^2 = 1/sqrt(2).
    pair = icl.LinearRegression(dim=2, coef_cov=1)
    limit = numeric.compile({k: f for k, f in icl.risk_gradients(pair).items() if k in ("A", "b")})
    b = 2**0.25
    slow = [gap(1 / b, b, n, pair, limit) for n in (1e40, 1e45)]
    kappa = float(icl.concentration_exponent().subs(tau=1 / b))
    assert abs(math.log10(slow[0] / slow[1]) / 5 / kappa - 1) < 0.05
    assert kappa < 0.8


# -- cautions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("square_b", "constant", "variance"),
    [(1.9, False, False), (3.9, True, False), (4.1, True, True)],
)
def test_where_constants_and_their_samples_exist(square_b, constant, variance):
    """On A = Sigma^-1/b: E exp(s^2) needs b^2 > 2, its sampling variance b^2 > 4."""
    task, b = icl.LinearRegression(dim=2), math.sqrt(square_b)
    head = icl.SoftmaxAttention(scores=[1 / b], values=[b])
    if constant:
        assert float(icl.valley_constant(task).subs(b=b)) > 0
    else:
        with pytest.raises(icl.OutOfDomain):
            icl.valley_constant(task).subs(b=b)
    if variance:
        exact = float(icl.valley_constant(task).subs(b=b))
        estimate = numeric.monte_carlo_constant(task, head, prompts=2000)
        assert abs(estimate.value - exact) < exact  # noisy, but finite
    else:
        with pytest.raises(icl.IclTheoryError):
            numeric.monte_carlo_constant(task, head, prompts=2000)


def test_laplace_tokens_have_a_limit_without_a_variance_law():
    """1/(2c) <= |u| < 1/c: n Var T_n grows like n^(2 - 1/u); at u < 1/(2c) it settles."""
    law = icl.Laplace(1)

    def scaled(u, n, prompts):
        sample = numeric.simulate_output(law, [u], n, prompts=prompts, seed=4)
        return n * sample.covariance[0, 0], 5 * n * sample.covariance_error[0, 0], sample

    heavy = [scaled(0.8, n, prompts) for n, prompts in ((30, 20_000), (3000, 2_000))]
    assert heavy[1][0] - heavy[1][1] > 5 * heavy[0][0]
    with pytest.raises(icl.OutOfDomain, match="the limit exists"):
        numeric.leading_covariance(law, [0.8])
    limit = numeric.limit_output(law, [0.8])[0]
    gaps = [abs(sample.mean[0] - limit) for _, _, sample in heavy]
    assert gaps[1] < 0.7 * gaps[0]  # slowly
    light = scaled(0.1, 1000, 4_000)
    expected = numeric.leading_covariance(law, [0.1])[0, 0]
    assert abs(light[0] - expected) < light[1] < 0.15 * expected
    assert abs(light[0] - 1.3 * expected) > light[1]
