"""Large prompts in numbers: enumeration, autograd and sampling of what the other tests leave out."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import icltheory as icl
import numeric
from icltheory.flow import BLOCKS
from numeric import finite

WRONG = 1.03  # every comparison must reject a value that is 3 % off
LINE = icl.Gaussian([0], [[1]])
CHAPTER = icl.LinearRegression(dim=5, coef_cov=1)  # the paper's S = I; its risk is half of ours
SIGMA = np.array([[1, 0.3], [0.3, 0.8]])
COEFS = np.array([[0.9, -0.2], [-0.2, 0.5]])
GENERAL = icl.LinearRegression(dim=2, noise_var=0.25, feature_cov=SIGMA, coef_cov=COEFS)
A, B = np.array([[0.5, 0.1], [-0.2, 0.4]]), 1.2
ATOMS = np.array([[1, 0], [-0.5, 1], [0, -1.5]])
CHANCES = np.array([0.5, 0.2, 0.3])
ATOM_LAW = icl.Empirical(ATOMS, weights=CHANCES)


def assert_close(value, reference, error):
    value, reference = np.asarray(value), np.asarray(reference)
    assert np.all(np.abs(value - reference) <= error), np.max(np.abs(value - reference))
    assert np.any(np.abs(WRONG * value - reference) > error)


def assert_mean(sample, value, resolution=0.03):
    """The mean of independent draws within five standard errors, which resolve `resolution`."""
    error = 5 * sample.std(ddof=1) / math.sqrt(sample.size)
    assert error < resolution * abs(value), error / abs(value)
    assert abs(sample.mean() - value) < error, (sample.mean(), value, error)
    assert abs(sample.mean() - (1 + 2 * resolution) * value) > error


def compositions(n, chances):
    """All counts of n draws from atoms, (m, atoms), and their probabilities."""
    ranges = [np.arange(n + 1)] * (len(chances) - 1)
    head = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, len(chances) - 1)
    head = head[head.sum(axis=1) <= n]
    counts = np.column_stack([head, n - head.sum(axis=1)])
    table = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    return counts, np.exp(table[n] - table[counts].sum(axis=1) + counts @ np.log(chances))


def extrapolated(lengths, values):
    """Limit of values with an expansion in 1/n, by the polynomial through all of them."""
    powers = np.vander(1 / np.array(lengths, dtype=float), increasing=True)
    return np.linalg.solve(powers, np.stack([np.ravel(x) for x in values]))[0]


def sample_prompts(task, prompts, n, seed):
    """Features, labels, query and target of a task, drawn without the package's sampler."""
    rng = np.random.default_rng(seed)
    sigma, coefs = (
        np.array(x.to_matrix().tolist(), dtype=float) for x in (task.feature_cov, task.coef_cov)
    )
    dim = len(sigma)
    x = rng.standard_normal((prompts, n, dim)) @ np.linalg.cholesky(sigma).T
    theta = rng.standard_normal((prompts, dim)) @ np.linalg.cholesky(coefs).T
    noise = math.sqrt(float(task.noise_var)) * rng.standard_normal((prompts, n))
    query = rng.standard_normal((prompts, dim)) @ np.linalg.cholesky(sigma).T
    labels = np.einsum("pnd,pd->pn", x, theta) + noise
    return x, labels, query, np.sum(theta * query, axis=1)


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


# -- gradients ---------------------------------------------------------------------------------------


def test_every_head_receives_the_same_cotangent():
    """Three heads under one loss: autograd against the closed gradients, head by head."""
    rng = np.random.default_rng(8)
    tokens, z, target = rng.normal(size=(25, 4)), rng.normal(size=4), rng.normal(size=3)
    heads = [
        {"V": rng.normal(size=(3, 4)), **{k: 0.4 * rng.normal(size=(2, 4)) for k in "KQ"}}
        for _ in range(3)
    ]
    leaves = [{k: torch.tensor(x, requires_grad=True) for k, x in head.items()} for head in heads]
    prompt, query = torch.tensor(tokens), torch.tensor(z)
    output = sum(
        h["V"] @ (torch.softmax(prompt @ h["K"].T @ h["Q"] @ query, -1) @ prompt) for h in leaves
    )
    assert isinstance(output, torch.Tensor)
    loss = torch.log(torch.cosh(output - torch.tensor(target))).sum()
    loss.backward()
    r = np.tanh(output.detach().numpy() - target)
    for head, leaf in zip(heads, leaves, strict=True):
        found = numeric.output_gradients(tokens, z, r, **head)
        for name, value in leaf.items():
            assert value.grad is not None
            assert_close(found[name], value.grad.numpy(), 1e-12)


def test_gradients_of_factored_parameters():
    """dR/dK = Q G', dR/dQ = K G, and for (v, b) = V'o: dR/dV = o g', dR/do = V g."""
    rng = np.random.default_rng(9)
    slopes = numeric.compile(icl.risk_gradients(GENERAL))
    risk = numeric.compile(icl.infinite_prompt_risk(GENERAL))
    shapes = {"K": (4, 3), "Q": (4, 3), "V": (2, 3), "o": (2,)}
    point = {name: 0.6 * rng.standard_normal(shape) for name, shape in shapes.items()}

    def blocks(K, Q, V, o):
        U, row = K.T @ Q, V.T @ o
        return {"A": U[:2, :2], "u": U[2, :2], "v": row[:2], "b": row[2]}

    found = slopes(**blocks(**point))
    merged = np.zeros((3, 3))
    merged[:2, :2], merged[2, :2] = found["A"], found["u"]
    row = np.append(found["v"], found["b"])
    typed = {
        "K": point["Q"] @ merged.T,
        "Q": point["K"] @ merged,
        "V": np.outer(point["o"], row),
        "o": point["V"] @ row,
    }
    for name, value in typed.items():
        direction = rng.standard_normal(value.shape)
        ends = [
            risk(**blocks(**{**point, name: point[name] + k * 1e-2 * direction}))
            for k in (-3, -2, -1, 1, 2, 3)
        ]
        rule = np.array([-1, 9, -45, 45, -9, 1]) / 60e-2
        slope = float(rule @ np.array(ends))
        assert_close(np.sum(value * direction), slope, 1e-8 * abs(slope))
    # Along the flow the outer balances stand still.
    K, Q, V, o = (point[k] for k in "KQVo")
    moves = {k: -0.5 * x for k, x in typed.items()}
    balance = moves["K"] @ K.T - moves["Q"] @ Q.T
    assert np.abs(balance + balance.T).max() < 1e-12
    balance = np.outer(moves["o"], o) - moves["V"] @ V.T
    assert np.abs(balance + balance.T).max() < 1e-12


@pytest.mark.parametrize("kind", ["softmax", "linear"])
def test_matrix_balances_hold_for_any_tokens_length_and_loss(kind):
    """K K' - Q Q' and o o' - V V' stand still; b^2 - |A|^2 only for linear attention."""
    rng = np.random.default_rng(10)
    tokens = torch.tensor(rng.laplace(size=(6, 5, 3)) + 0.4)
    query, target = torch.tensor(rng.normal(size=(6, 3))), torch.tensor(rng.normal(size=6))
    shapes = {"K": (2, 3), "Q": (2, 3), "V": (4, 3), "o": (4,)}
    leaf = {k: torch.tensor(rng.normal(size=s), requires_grad=True) for k, s in shapes.items()}
    scores = torch.einsum("bnp,bp->bn", tokens @ leaf["K"].T @ leaf["Q"], query)
    weights = torch.softmax(scores, -1) if kind == "softmax" else scores / 5
    read = torch.einsum("bn,bnp->bp", weights, tokens) @ leaf["V"].T @ leaf["o"]
    torch.sqrt(1 + (read - target) ** 4).sum().backward()
    x = {k: v.detach().numpy() for k, v in leaf.items()}
    g = {k: v.grad.numpy() for k, v in leaf.items() if v.grad is not None}
    size = np.abs(g["K"]).max()
    for first, second in (
        (g["K"] @ x["K"].T, g["Q"] @ x["Q"].T),
        (np.outer(g["o"], x["o"]), g["V"] @ x["V"].T),
    ):
        assert np.abs(first + first.T).max() > 1e-2 * size
        assert np.abs(first + first.T - second - second.T).max() < 1e-12 * size
    defect = abs(np.sum(g["V"] * x["V"]) - np.sum(g["K"] * x["K"]))
    assert (defect < 1e-12 * size) == (kind == "linear")


def test_isotropic_scores_stay_isotropic_at_finite_length():
    slope = numeric.block_risk_gradient(CHAPTER, 0.4, 1.7, 20)["A"]
    assert np.abs(slope - slope[0, 0] * np.eye(5)).max() < 1e-12
    other = icl.LinearRegression(dim=5, feature_cov=[1, 1, 1, 1, 2], coef_cov=1)
    slope = numeric.block_risk_gradient(other, 0.4, 1.7, 20)["A"]
    assert np.ptp(np.diag(slope)) > 1e-2


# -- the balance at a finite length ------------------------------------------------------------------


def balance_rate(task, a, b, n):
    """d/dt (b^2 - |A|^2) of the flow on half the exact risk."""
    slope = numeric.block_risk_gradient(task, a, b, n)
    return float(np.sum(slope["A"] * a) - b * slope["b"])


def residual_terms(batch, a, b):
    """r, b T_y and b (C u)_y of every prompt, for the layer with u = v = 0."""
    x, y, query, target = batch
    dual = query @ a.T
    score = np.einsum("pnd,pd->pn", x, dual)
    p = np.exp(score - score.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    read, spread = np.sum(p * y, axis=1), np.sum(p * y * score, axis=1)
    spread = spread - read * np.sum(p * score, axis=1)
    return b * read - target, b * read, b * spread


def test_drift_of_the_balance_at_finite_length():
    """d/dt (|V|^2 - |U|^2) = -2 E r'V (T_n - C_n u): exact gradient against sampled prompts."""
    for n, prompts in ((2, 300_000), (10, 120_000)):
        r, read, spread = residual_terms(sample_prompts(GENERAL, prompts, n, n), A, B)
        assert_mean(-2 * r * (read - spread), balance_rate(GENERAL, A, B, n), 0.1)


def test_drift_of_the_balance_is_of_order_one_over_n():
    # tau^2 = 0.105: below 1/4 the next term is of relative order 1/n.
    scaled = [n * balance_rate(GENERAL, 0.6 * A, B, n) for n in (10**3, 10**4, 10**5)]
    assert abs(scaled[2] / scaled[1] - 1) < 1.5e-3
    assert abs(scaled[2] - scaled[1]) < 0.15 * abs(scaled[1] - scaled[0])
    assert abs(scaled[2]) > 1
    flow = icl.gradient_flow(GENERAL, attention=icl.LinearAttention(), prompt_length=10)
    speed = numeric.compile({str(k): f for k, f in flow.velocities.items()})(A=A, b=B)
    assert abs(B * speed["b"] - np.sum(A * speed["A"])) < 1e-14


@pytest.mark.parametrize(
    ("features", "conserved"),
    [(icl.Gaussian([0, 0], SIGMA), True), (icl.UniformCube(2, 2), False), (icl.Sphere(2), False)],
)
def test_infinite_prompts_conserve_the_balance_for_gaussian_features_only(features, conserved):
    """-2 r'V (m1 - H u) is minus twice the derivative of r^2/2 along (e^-s A, e^s b)."""
    w, x, noise = np.array([0.8, -0.5]), np.array([0.6, 0.9]), 0.3
    law, target = icl.RegressionTokens(features, w, noise), w @ x

    def half_error(s):
        dual = np.append(math.exp(-s) * A @ x, 0.0)
        return 0.5 * (math.exp(s) * B * numeric.limit_output(law, dual)[-1] - target) ** 2

    dual = np.append(A @ x, 0.0)
    read, jacobian = numeric.limit_output(law, dual), numeric.limit_jacobian(law, dual)
    r = B * read[-1] - target
    rate = -2 * r * B * (read - jacobian @ dual)[-1]
    ends = [half_error(k * 1e-2) for k in (-3, -2, -1, 1, 2, 3)]
    slope = -2 * float(np.array([-1, 9, -45, 45, -9, 1]) @ ends) / 60e-2
    if conserved:
        assert abs(rate) < 1e-14
        assert abs(slope) < 1e-10
    else:
        assert_close(rate, slope, 1e-8)
        assert abs(rate) > 5e-4


def batch_blocks(a, b, n, size, seed):
    """A layer, one batch of GENERAL, and the gradients of half the loss by autograd."""
    model = finite.TokenAttention.from_blocks(a, b)
    batch = sample_prompts(GENERAL, size, n, seed)
    x, y, query, target = (torch.from_numpy(part) for part in batch)
    (0.5 * (model(x, y, query) - target) ** 2).mean().backward()
    slopes = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return model, batch, slopes


def square(blocks, names):
    return sum(float(np.sum(blocks[name] ** 2)) for name in names)


def test_balance_of_one_step_of_stochastic_descent():
    """Delta' - Delta = -2 h (<V, gV> - <U, gU>) + h^2 (|gV|^2 - |gU|^2), exactly, for every batch."""
    h, n = 0.3, 7
    model, batch, slopes = batch_blocks(A, B, n, 40, 1)
    before = model.blocks()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= h * parameter.grad
    after = model.blocks()
    change = square(after, "vb") - square(after, "Au")
    change -= square(before, "vb") - square(before, "Au")
    first = float(before["b"] * slopes["b"] - np.sum(before["A"] * slopes["A"]))
    second = square(slopes, "vb") - square(slopes, "Au")
    assert_close(change, -2 * h * first + h**2 * second, 1e-13)
    assert abs(change + 2 * h * first) > 1e-4  # the noise of the batch counts
    # The first bracket is the mean of r'V (T_n - C_n u) over this batch.
    r, read, spread = residual_terms(batch, A, B)
    assert_close(first, np.mean(r * (read - spread)), 1e-13)


def test_noise_of_the_gradients_pulls_the_balance_to_zero():
    """|gV|^2 - |gU|^2 has the sign of -(|V|^2 - |U|^2) on the valley, from both sides."""
    inverse = np.linalg.inv(SIGMA)
    for b, sign in ((2.2, -1), (0.7, 1)):
        brackets = np.array(
            [
                square(slopes, "vb") - square(slopes, "Au")
                for _, _, slopes in (batch_blocks(inverse / b, b, 20, 64, s) for s in range(150))
            ]
        )
        assert np.sign(b**2 - np.sum(inverse**2) / b**2) == -sign
        error = brackets.std(ddof=1) / math.sqrt(brackets.size)
        assert sign * brackets.mean() > 5 * error


# -- features that are not Gaussian ------------------------------------------------------------------


def order_of_features(features, points, a, b, coefs, noise):
    """R_inf and the coefficient of 1/n for one head on any features; the query runs over `points`."""
    found = numeric.feature_expansion(features, points, a, b, coefs, noise)
    return found.limit.mean(), found.first_order.mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"queries": [[1.0]]}, "queries has shape"),
        ({"coef_cov": [1.0, 2.0]}, "coef_cov has shape"),
        ({"noise_var": -1}, "negative"),
        ({"A": [[1, 2]]}, "A"),
    ],
)
def test_feature_expansion_refuses(change, message):
    given = {"queries": [[1.0, 1.0]], "A": 0.1, "b": 2.0, **change}
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.feature_expansion(icl.Rademacher(2), **given)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_risk_on_rademacher_features_by_enumeration(noise):
    """The exact risk at n = 12..96 against the expansion to order 1/n; R_inf > 0."""
    corners = np.array(list(itertools.product([1.0, -1.0], repeat=2)))
    a, b = np.array([[0.5, 0.1], [-0.2, 0.3]]), 1.3
    limit, order = order_of_features(icl.Rademacher(2), corners, a, b, COEFS, noise)
    lengths, scaled = [12, 24, 48, 96], []
    for n in lengths:
        counts, chance = compositions(n, [0.25] * 4)
        risk = 0.0
        for query in corners:
            w = np.exp(corners @ a @ query)
            p = counts * w / (counts @ w)[:, None]
            error = b * p @ corners - query
            value = np.einsum("bi,ij,bj->b", error, COEFS, error)
            value += b**2 * noise * (counts @ w**2) / (counts @ w) ** 2
            risk += chance @ value / 4
        scaled.append(n * (risk - limit))
    assert limit > 0.01
    assert_close(order, extrapolated(lengths, scaled), 2e-3 * order)


def test_gaussian_features_have_the_known_expansion():
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    grid = np.array(list(itertools.product(nodes, nodes))) @ np.linalg.cholesky(SIGMA).T
    chance = np.outer(weights, weights).ravel() / weights.sum() ** 2
    small = A / 2
    features = icl.Gaussian([0, 0], SIGMA)
    values = [order_of_features(features, x[None], small, B, COEFS, 0.25) for x in grid]
    limit, order = chance @ np.array(values)
    formula = icl.head_expansion(GENERAL, [small.T], [B])
    at = [float(formula.subs(n=length).expr) for length in (1, 2)]
    assert_close(order, 2 * (at[0] - at[1]), 1e-6)
    assert_close(limit, 2 * at[1] - at[0], 1e-6)


def test_small_scores_reach_any_risk_at_the_price_of_large_values():
    """Uniform features: b A Cov = I with A = e I gives R_inf ~ e^4, and b^2 (tr S Cov + noise)/n."""
    nodes, weights = np.polynomial.legendre.leggauss(20)
    features, noise, found = icl.UniformCube(1), 0.2, []
    for size in (0.2, 0.1):
        b = 3 / size
        values = [
            order_of_features(features, np.array([[x]]), np.array([[size]]), b, np.eye(1), noise)
            for x in nodes
        ]
        limit, order = weights @ np.array(values) / 2
        found.append((limit / size**4, order / b**2))
    # grad K(e x) = e x/3 - (e x)^3/45 + ..: the error is e^2 x^3/15.
    assert_close(found[1][0], 1 / (225 * 7), 1e-2 / (225 * 7))
    assert_close(found[1][1], 1 / 3 + noise, 5e-3)
    assert abs(found[0][0] * 225 * 7 - 1) > abs(found[1][0] * 225 * 7 - 1)


# -- training ----------------------------------------------------------------------------------------


def test_small_starts_of_all_blocks_reach_zero_or_escape_to_infinity():
    """d = 4, entries 0.1 N(0, 1): some flows end at R = 0, others follow u = v/(v'Sigma v)."""
    flow = icl.gradient_flow(icl.LinearRegression(dim=4, coef_cov=1), blocks=BLOCKS)
    ends: Any = {}
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        start = {
            "A": 0.1 * rng.standard_normal((4, 4)),
            "u": 0.1 * rng.standard_normal(4),
            "v": 0.1 * rng.standard_normal(4),
            "b": 0.1 * rng.standard_normal(),
        }
        ends[seed] = numeric.integrate(
            flow, initial=start, times=[0, 100, 800], rtol=1e-6, atol=1e-8, method="LSODA"
        )
    lost, found = ends[0], ends[1]
    assert found["risk"][-1] < 1e-9
    assert np.linalg.norm(found["v"][-1]) < 1e-5
    assert lost["risk"][-1] / 2 == pytest.approx(5.2e-3, abs=2e-4)
    v = lost["v"][-1]
    assert np.linalg.norm(v) == pytest.approx(6.92, abs=0.02)
    assert np.linalg.norm(lost["v"][1]) < np.linalg.norm(v)
    # Near the printed path, on which the risk is not lower.
    assert np.linalg.norm(lost["u"][-1] * (v @ v) - v) < 0.01 * np.linalg.norm(v)
    assert 12 * lost["b"][-1] ** 2 / (v @ v) > lost["risk"][-1] / 2


def test_published_time_scales():
    """d = 5, alpha = 0.3, Sigma = I: lam e = 0.99 at t = 1.74; n = 1e4 ends at b^2 = 8.007."""
    times = np.array([1.735, 1.745])
    product = numeric.closed_trajectory(CHAPTER, times, alpha=0.3)["product"]
    assert product[0] < 0.99 < product[1]
    best = numeric.optimal_block_risk(CHAPTER, 10**4)
    assert best.b**2 == pytest.approx(8.007, abs=6e-4)
    assert 1e4 * best.risk == pytest.approx(95.3, abs=6e-2)


@pytest.mark.parametrize("smallest", [0.3, 0.03])
def test_local_rate_of_ill_conditioned_features(smallest):
    """rate >= b_inf^2 lam_min^3 = |Sigma^-1|_F lam_min^3 from a balanced start, and near it."""
    task = icl.LinearRegression(dim=3, feature_cov=[smallest, 1, 2], coef_cov=1)
    start: Any = {"A": 0.1, "b": 0.1 * math.sqrt(3)}
    rates, end = numeric.flow_rates(task, **start), numeric.flow_limit(task, **start)
    size = math.sqrt(smallest**-2 + 1 + 1 / 4)
    assert end["b"] ** 2 == pytest.approx(size, rel=1e-10)
    bound = size * smallest**3
    assert bound <= rates.local < 2.1 * bound
    run = numeric.integrate(
        icl.gradient_flow(task), initial=start, times=[0, 1 / rates.local], rtol=1e-9
    )
    assert max(run.drift.values()) < 1e-6


def test_bayes_predictor_is_not_reached_by_either_layer():
    """Least squares on d noiseless examples is exact; the best layers of that length are not."""
    x, y, query, target = sample_prompts(CHAPTER, 200, 5, 11)
    ridge = np.linalg.solve(x, y[..., None])[..., 0]
    assert np.abs(np.sum(ridge * query, axis=1) - target).max() < 1e-6
    assert float(icl.optimal_linear_attention(CHAPTER).subs(n=5).expr) > 2
    assert numeric.optimal_block_risk(CHAPTER, 5).risk > 2


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
