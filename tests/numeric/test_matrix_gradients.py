"""Compiled risk and gradients against autograd, differences and sampling; output gradients."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import icltheory as icl
import numeric

BLOCKS = ("A", "u", "v", "b")


def covariance(rng, dim):
    root = rng.normal(size=(dim, dim))
    return root @ root.T / dim + 0.3 * np.eye(dim)


def random_setting(dim, seed, same_query=False):
    rng = np.random.default_rng(seed)
    sigma, s, query = (covariance(rng, dim) for _ in range(3))
    query = sigma if same_query else query
    noise = float(rng.uniform(0, 1))
    task = icl.LinearRegression(dim=dim, noise_var=noise, feature_cov=sigma, coef_cov=s)
    point = {
        "A": rng.normal(size=(dim, dim)),
        "u": rng.normal(size=dim),
        "v": rng.normal(size=dim),
        "b": float(rng.normal()),
    }
    return task, (sigma, s, query, noise), point


def quadrature_risk(arrays, A, u, v, b):
    """The definition in torch: E over w by a product rule exact to degree five, over x exactly."""
    sigma, s, query, noise = (torch.as_tensor(a, dtype=torch.float64) for a in arrays)
    dim = len(sigma)
    root = torch.linalg.cholesky(s)
    nodes, weights = (-(3**0.5), 0.0, 3**0.5), (1 / 6, 2 / 3, 1 / 6)
    total = torch.zeros((), dtype=torch.float64)
    for index in itertools.product(range(3), repeat=dim):
        w = root @ torch.tensor([nodes[i] for i in index], dtype=torch.float64)
        design = torch.vstack([torch.eye(dim, dtype=torch.float64), w])
        corner = torch.zeros(dim + 1, dim + 1, dtype=torch.float64)
        corner[-1, -1] = noise
        gamma = design @ sigma @ design.T + corner
        slope = torch.cat([v, b[None]]) @ gamma @ torch.vstack([A, u]) - w
        total = total + np.prod([weights[i] for i in index]) * (slope @ query @ slope)
    return total


def gradient_of(leaf):
    assert leaf.grad is not None
    return leaf.grad.numpy()


@settings(max_examples=12, deadline=None)
@given(dim=st.integers(1, 3), seed=st.integers(0, 10**6), same_query=st.booleans())
def test_risk_and_gradients_against_autograd_of_the_definition(dim, seed, same_query):
    task, arrays, point = random_setting(dim, seed, same_query)
    query = None if same_query else arrays[2]
    leaves = {k: torch.tensor(x, dtype=torch.float64, requires_grad=True) for k, x in point.items()}
    expected = quadrature_risk(arrays, **leaves)
    expected.backward()
    risk = numeric.compile(icl.infinite_prompt_risk(task, query))(**point)
    assert abs(risk - float(expected.detach())) < 1e-10 * (1 + abs(risk))
    gradients = numeric.compile(icl.risk_gradients(task, query))(**point)
    for name, leaf in leaves.items():
        wanted = gradient_of(leaf)
        np.testing.assert_allclose(gradients[name], wanted, rtol=1e-10, atol=1e-10 * (1 + risk))
        assert not np.allclose(1.03 * np.asarray(gradients[name]), wanted, rtol=1e-6, atol=1e-12)


def directional(function, point, name, direction):
    """Derivative along `direction`: the five-point rule, exact for polynomials of degree four."""

    def at(step):
        return function(**{**point, name: point[name] + step * direction})

    return (8 * (at(0.5) - at(-0.5)) - (at(1.0) - at(-1.0))) / 6


@pytest.mark.parametrize("dim", [1, 2, 7])
def test_gradients_against_differences(dim):
    task, arrays, point = random_setting(dim, 5)
    risk = icl.infinite_prompt_risk(task, arrays[2])
    compiled = numeric.compile(risk)
    together = numeric.compile(icl.risk_gradients(task, arrays[2]))(**point)
    rng = np.random.default_rng(0)
    for name in BLOCKS:
        alone = compiled.gradient(name)
        value = alone(**{k: point[k] for k in alone.arguments})
        np.testing.assert_allclose(value, together[name], rtol=1e-12, atol=1e-12)
        direction = rng.normal(size=np.shape(point[name]))
        slope = directional(compiled, point, name, direction)
        got = np.sum(together[name] * direction)
        assert abs(got - slope) < 1e-8 * abs(slope), name
        assert abs(1.03 * got - slope) > 1e-8 * abs(slope)


def test_risk_against_sampling_of_the_definition():
    task, (sigma, s, query, noise), point = random_setting(2, 11)
    risk = numeric.compile(icl.infinite_prompt_risk(task, query))(**point)
    rng = np.random.default_rng(3)
    count = 1_000_000
    w = rng.multivariate_normal(np.zeros(2), s, count)
    x = rng.multivariate_normal(np.zeros(2), query, count)
    A, u, v, b = (point[name] for name in BLOCKS)
    ax, ux = x @ A.T, x @ u
    # Rows of Gamma_w applied to (A x, u'x), read with (v, b).
    features = ax @ sigma + ux[:, None] * (w @ sigma)
    labels = np.sum((w @ sigma) * ax, 1) + ux * (np.sum((w @ sigma) * w, 1) + noise)
    error = (features @ v + b * labels - np.sum(w * x, 1)) ** 2
    standard_error = error.std() / count**0.5
    assert abs(error.mean() - risk) < 5 * standard_error
    assert standard_error < 0.006 * risk  # five standard errors resolve 3 per cent
    assert abs(error.mean() - 1.03 * risk) > 5 * standard_error * 0.9


def test_a_flow_step_lowers_the_risk_to_the_zero_set():
    """Half the risk descended from the published start: b Sigma A tends to the identity."""
    task = icl.LinearRegression(dim=2, feature_cov=[1, 2], coef_cov=1)
    compiled, risk = numeric.compile(icl.risk_gradients(task)), icl.infinite_prompt_risk(task)
    point = {"A": 0.3 * np.eye(2), "u": np.zeros(2), "v": np.zeros(2), "b": 0.5}
    for _ in range(4000):
        gradients = compiled(**point)
        point = {k: point[k] - 0.005 * gradients[k] for k in point}
    np.testing.assert_allclose(point["b"] * np.diag([1.0, 2.0]) @ point["A"], np.eye(2), atol=1e-9)
    assert not point["u"].any()
    assert numeric.compile(risk)(**point) < 1e-16


# -- gradients of an output ----------------------------------------------------------------------

LAWS = {
    "gaussian": icl.Gaussian(mean=[0.3, -0.2], cov=[[1, 0.3], [0.3, 0.8]]),
    "mixture": icl.GaussianMixture(
        [0.3, 0.7], [[1, -0.5], [-0.8, 0.4]], [[[0.5, 0.1], [0.1, 0.3]], [[0.3, -0.1], [-0.1, 0.6]]]
    ),
    "rademacher": icl.Rademacher(dim=2),
    "sphere": icl.Sphere(dim=2, radius=1.5),
    "laplace": icl.Laplace(dim=2, scale=0.5),
    "cube": icl.UniformCube(dim=2),
}


def attention_arrays(seed, width, *leading):
    rng = np.random.default_rng(seed)
    return {
        "z": 0.5 * rng.normal(size=(*leading, width)),
        "r": rng.normal(size=3),
        "V": rng.normal(size=(3, width)),
        "K": 0.5 * rng.normal(size=(4, width)),
        "Q": 0.5 * rng.normal(size=(4, width)),
    }


@pytest.mark.parametrize("name", LAWS)
def test_output_gradients_of_laws_against_differences(name):
    law, scale = LAWS[name], 0.5
    arrays = attention_arrays(2, 2)

    def value(z, r, V, K, Q):
        return r @ V @ numeric.limit_output(law, scale * K.T @ Q @ z)

    gradients = numeric.output_gradients(law, **arrays, score_scale=scale)
    rng = np.random.default_rng(4)
    for key, gradient in gradients.items():
        direction = 1e-2 * rng.normal(size=arrays[key].shape)

        def central(step, key=key, direction=direction):
            return (
                value(**{**arrays, key: arrays[key] + step * direction})
                - value(**{**arrays, key: arrays[key] - step * direction})
            ) / (2 * step)

        # Two Richardson steps: error of order step^6.
        first, second, third = central(1.0), central(0.5), central(0.25)
        slope = (64 * third - 20 * second + first) / 45
        assert abs(np.sum(gradient * direction) - slope) < 1e-8 * abs(slope)
        assert abs(1.03 * np.sum(gradient * direction) - slope) > 1e-8 * abs(slope)


def test_output_gradients_of_prompts_against_autograd():
    rng = np.random.default_rng(0)
    prompts = rng.normal(size=(6, 30, 5))
    arrays = attention_arrays(1, 5, 6)
    leaves = {k: torch.tensor(x, requires_grad=True) for k, x in arrays.items()}
    tokens = torch.tensor(prompts)
    scores = torch.einsum("bnp,kp,bk->bn", tokens, leaves["K"], leaves["z"] @ leaves["Q"].T) / 2
    read = torch.einsum("bn,bnp->bp", torch.softmax(scores, -1), tokens)
    (read @ leaves["V"].T @ leaves["r"]).sum().backward()
    gradients = numeric.output_gradients(prompts, **arrays, score_scale=0.5)
    assert gradients["K"].shape == (6, 4, 5)
    for key in ("V", "K", "Q"):
        wanted = gradient_of(leaves[key])
        np.testing.assert_allclose(gradients[key].sum(0), wanted, rtol=1e-10, atol=1e-12)
        assert not np.allclose(1.03 * gradients[key].sum(0), wanted, rtol=1e-6)
    np.testing.assert_allclose(gradients["z"], gradient_of(leaves["z"]), rtol=1e-10, atol=1e-12)


def test_a_prompt_is_the_law_of_its_own_tokens():
    points = np.random.default_rng(3).normal(size=(20, 2))
    arrays = attention_arrays(5, 2)
    left = numeric.output_gradients(points, **arrays)
    right = numeric.output_gradients(icl.Empirical(points), **arrays)
    for key, value in left.items():
        np.testing.assert_allclose(value, right[key], rtol=1e-12, atol=1e-14)


def test_the_closed_form_of_gaussian_tokens():
    arrays = attention_arrays(6, 2)
    law = LAWS["gaussian"]
    known = numeric.output_gradients(law, **arrays)
    compiled = numeric.compile(icl.output_gradients(law))
    merged = arrays["K"].T @ arrays["Q"]
    closed = compiled(**arrays, U=merged, score_scale=1.0)
    for key, value in known.items():
        np.testing.assert_allclose(closed[key], value, rtol=1e-12, atol=1e-14)
    both = numeric.output_gradients(law, arrays["z"], arrays["r"], arrays["V"], U=merged)
    np.testing.assert_allclose(both["U"], closed["U"], rtol=1e-12)
    # G = grad_U carries those of the factors: K -> Q G', Q -> K G.
    np.testing.assert_allclose(arrays["Q"] @ both["U"].T, known["K"], rtol=1e-12)
    np.testing.assert_allclose(arrays["K"] @ both["U"], known["Q"], rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"U": np.eye(2)}, "give K and Q, or the merged U alone"),
        ({"K": None}, "give K and Q"),
        ({"K": np.ones((3, 2))}, "both are"),
        ({"z": np.ones(3)}, r"they are \(.., p, p\) and \(.., p\)"),
        ({"r": np.ones(2)}, r"r has shape \(2,\); \(.., 3\) is needed"),
        ({"z": [np.nan, 0.0]}, "z contains NaN"),
        ({"tokens": icl.Rademacher(dim=3)}, "the law has dimension 3"),
        ({"tokens": np.ones((4, 3))}, "pass a token law or an array"),
    ],
)
def test_bad_input_of_output_gradients(change, message):
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.output_gradients(**{"tokens": LAWS["cube"], **attention_arrays(0, 2), **change})


def test_outside_the_domain_of_the_law():
    arrays = attention_arrays(0, 2)
    with pytest.raises(icl.OutOfDomain):
        numeric.output_gradients(LAWS["laplace"], **{**arrays, "z": [100.0, 0.0]})
