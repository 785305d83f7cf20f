"""Large prompts in numbers: gradients, and the balance at a finite length."""

import math

import numpy as np
import pytest
import torch
from largeprompt_numbers import (
    CHAPTER,
    GENERAL,
    SIGMA,
    A,
    B,
    assert_close,
    assert_mean,
    sample_prompts,
)

import icltheory as icl
import numeric
from numeric import finite

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
