"""The constructive theorem (V20): networks that run Newton, against the iterate and the filter."""

import math

import numpy as np
import pytest
import torch

from icltheory.errors import InvalidInput
from numeric import finite
from numeric.finite.construct import gradient_transformer, newton_transformer

SIZES = [(12, 5), (5, 12), (40, 20), (8, 8)]
STEPS = [0, 1, 4, 8, 10]
TOLERANCE = 1e-12


def prompt(n, d, seed):
    """X (n, d), w_*, y and a query, without noise."""
    rng = np.random.default_rng(seed)
    X, w, query = rng.standard_normal((n, d)), rng.standard_normal(d), rng.standard_normal(d)
    return X, w, X @ w, query


def rule(X, start):
    """alpha = 1/F or beta = 1/tr S."""
    S = X.T @ X
    return 1 / np.linalg.norm(S @ S) if start == "S" else 1 / np.trace(S)


def iterate(X, y, query, steps, scale, start):
    """x_q' M_k X'y by the matrix recursion."""
    S = X.T @ X
    M = scale * (S if start == "S" else np.eye(len(S)))
    for _ in range(steps):
        M = 2 * M - M @ S @ M
    return query @ M @ (X.T @ y)


def filtered(X, w, query, steps, scale, start):
    """sum_i (u_i.x_q) (1 - r(lam_i)) (u_i.w_*), null eigenvalues exactly zero."""
    lam, U = np.linalg.eigh(X.T @ X)
    lam[: max(0, X.shape[1] - len(X))] = 0.0
    x = scale * lam ** (2 if start == "S" else 1)
    return (query @ U) @ ((1 - np.exp(2.0**steps * np.log1p(-x))) * (w @ U))


def batch(*arrays):
    return [torch.from_numpy(np.asarray(a, dtype=float))[None] for a in arrays]


def error(value, reference):
    return abs(value - reference) / max(1.0, abs(reference))


# -- the theorem -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["short", "published"])
@pytest.mark.parametrize("start", ["S", "I"])
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_the_network_is_the_iterate_to_twelve_digits(n, d, start, layout):
    """Section 5, test (1) to (3): every k and seed; with V_2 = +V_1 every one of them fails."""
    extra = 8 if layout == "published" else (2 if start == "S" else 1)
    for k in STEPS:
        for seed in range(5):
            X, w, y, query = prompt(n, d, [n, d, seed])
            scale = rule(X, start)
            references = (
                iterate(X, y, query, k, scale, start),
                filtered(X, w, query, k, scale, start),
            )
            network = newton_transformer(d, n, k, scale, start, layout=layout)
            assert len(network.layers) == k + extra
            value = network(*batch(X, y, query)).item()
            assert max(error(value, r) for r in references) < TOLERANCE
            printed = newton_transformer(d, n, k, scale, start, layout=layout, signs="printed")
            wrong = printed(*batch(X, y, query)).item()
            assert not max(error(wrong, r) for r in references) < 1e-3


@pytest.mark.parametrize("layout", ["short", "published"])
def test_integer_case(layout):
    """Section 5, test (4), S = diag(3, 6)."""
    X = np.array([[1.0, 0], [1, 1], [0, 2], [1, -1]])
    prompts = batch(X, X @ np.array([1.0, -2]), [0.5, 1])
    expected = {
        "I": (1 / 9, [-7 / 6, -3 / 2, -85 / 54, -1.5192043895747598]),
        "S": (
            1 / math.sqrt(1377),
            [-1.8190171877724972, -1.7850931990744066, -1.6645942495848227, -1.5541835804463746],
        ),
    }
    for start, (scale, values) in expected.items():
        for k, value in enumerate(values):
            network = newton_transformer(2, 4, k, scale, start, layout=layout)
            assert network(*prompts).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("layout", ["short", "published"])
def test_every_column_carries_its_iterate(layout):
    """The block a of column j is M_k x_j after the Newton layers, the query's too."""
    n, d, k = 12, 5, 3
    X, _, y, query = prompt(n, d, 1)
    scale = rule(X, "S")
    S, M = X.T @ X, scale * (X.T @ X)
    network = newton_transformer(d, n, k, scale, layout=layout)
    states = network.states(*batch(X, y, query)).numpy()[:, 0]
    first = 1 if layout == "short" else 3
    columns = slice(None) if layout == "short" else slice(None, None, 2)
    for step in range(k + 1):
        a = states[first + step][columns, network.blocks["a"]]
        assert a == pytest.approx(np.vstack([X, query]) @ M, abs=1e-13)
        M = 2 * M - M @ S @ M


def test_printed_signs_are_off_by_the_published_amount():
    """Reference: columns M_k x_j are off by .75, .9, 3, 340, 6e43 at k = 0, 1, 2, 4, 8 (one draw)."""
    n, d = 12, 5
    off = {}
    for k in (0, 1, 2, 4, 8):
        ratios = []
        for seed in range(5):
            X, _, y, query = prompt(n, d, seed)
            scale = rule(X, "S")
            a = [
                newton_transformer(d, n, k, scale, signs=signs).states(*batch(X, y, query))[
                    -2, 0, :n, :d
                ]
                for signs in ("printed", "corrected")
            ]
            ratios.append(float((a[0] - a[1]).norm() / a[1].norm()))
        off[k] = np.median(ratios)
    assert 0.4 < off[0] < 1.2
    assert 0.4 < off[1] < 1.8
    assert 1 < off[2] < 10
    assert 30 < off[4] < 1e5
    assert 1e20 < off[8] < 1e70


def test_a_pair_of_heads_is_a_linear_head_only_with_opposite_values():
    layer = newton_transformer(3, 6, 1, 0.1).layers[0]
    h = torch.randn(2, 7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    keys = h[:, :6]
    score = (h @ layer.query[0].T) @ (keys @ layer.key[0].T).transpose(1, 2)
    expected = h + score / 6 @ (keys @ layer.value[0].T)
    assert torch.allclose(layer(h, 6), expected, rtol=0, atol=1e-13)
    printed = newton_transformer(3, 6, 1, 0.1, signs="printed").layers[0]
    expected = h + score.abs() / 6 @ (keys @ layer.value[0].T)
    assert torch.allclose(printed(h, 6), expected, rtol=0, atol=1e-13)


def test_what_the_theorem_does_not_give():
    """(i) Data scaled by 1.5: the iterate still, but it diverges. (ii) A causal mask: another value."""
    n, d, k = 12, 5, 12
    X, w, y, query = prompt(n, d, 3)
    scale = 1.9 / np.linalg.eigvalsh(X.T @ X)[-1] ** 2
    network = newton_transformer(d, n, k, scale)
    assert network(*batch(X, y, query)).item() == pytest.approx(w @ query, rel=0.05)
    network = newton_transformer(d, n, 3, scale)
    larger = network(*batch(1.5 * X, 1.5 * y, query)).item()
    assert error(larger, iterate(1.5 * X, 1.5 * y, query, 3, scale, "S")) < TOLERANCE
    assert abs(larger) > 1e4
    whole = newton_transformer(d, n, 4, rule(X, "S"))(*batch(X, y, query)).item()
    causal = newton_transformer(d, n, 4, rule(X, "S"), causal=True)(*batch(X, y, query)).item()
    assert abs(causal - whole) > 0.05 * abs(whole)


def test_prompts_of_a_batch_do_not_mix():
    network = newton_transformer(3, 6, 3, 0.01)
    prompts = [prompt(6, 3, seed) for seed in range(4)]
    X, y, query = (torch.from_numpy(np.stack([p[i] for p in prompts])) for i in (0, 2, 3))
    one_by_one = torch.cat(
        [network(X[i : i + 1], y[i : i + 1], query[i : i + 1]) for i in range(4)]
    )
    assert torch.allclose(network(X, y, query), one_by_one, rtol=0, atol=1e-14)
    assert network.states(X, y, query).shape == (6, 4, 7, 7)


# -- gradient descent ------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_gradient_descent_by_construction(n, d):
    X, _, y, query = prompt(n, d, 4)
    size = 1 / np.trace(X.T @ X)
    for steps in (1, 2, 16):
        w = np.zeros(d)
        for _ in range(steps):
            w = w - size * X.T @ (X @ w - y)
        network = gradient_transformer(d, n, steps, size)
        assert len(network.layers) == steps
        value = network(*batch(X, y, query)).item()
        assert error(value, query @ w) < TOLERANCE
        other = gradient_transformer(d, n, steps, 1.03 * size)(*batch(X, y, query)).item()
        assert error(other, query @ w) > 1e-4
    # Newton from beta I is 2^k steps of gradient descent (V2a).
    newton = newton_transformer(d, n, 4, size, "I")(*batch(X, y, query)).item()
    assert error(newton, value) < TOLERANCE


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 1, 0.1), "dim = 0"),
        ((2, 0, 1, 0.1), "prompt_length = 0"),
        ((2, 4, -1, 0.1), "steps = -1"),
        ((2, 4, [1], 0.1), r"steps has shape \(1,\)"),
        ((2, 4, 1, 0.0), "scale = 0 is not positive"),
        ((2, 4, 1, float("nan")), "scale contains NaN"),
        ((2, 4, 1, 0.1, "SS"), "start = 'SS' is not one of S, I"),
    ],
)
def test_wrong_constructions_are_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        newton_transformer(*arguments)


def test_wrong_options_and_prompts_are_refused():
    with pytest.raises(InvalidInput, match="layout = 'long' is not one of short, published"):
        newton_transformer(2, 4, 1, 0.1, layout="long")
    with pytest.raises(InvalidInput, match="signs = 'right' is not one of corrected, printed"):
        newton_transformer(2, 4, 1, 0.1, signs="right")
    with pytest.raises(InvalidInput, match="step_size = -1 is not positive"):
        gradient_transformer(2, 4, 1, -1)
    network = newton_transformer(2, 4, 1, 0.1)
    with pytest.raises(InvalidInput, match="those of 4 examples in 2 dimensions"):
        network(torch.zeros(1, 5, 2), torch.zeros(1, 5), torch.zeros(1, 2))
    assert "3 layers: start, Newton, read-out" in repr(network)
    assert isinstance(network, finite.ConstructedTransformer)
