"""Token laws on arrays: against compiled formulas at 50 digits, and plain NumPy."""

import tracemalloc

import mpmath as mp
import numpy as np
import pytest
import sympy as sp
from scipy.special import logsumexp
from token_cases import LAWS, U, W, each_law

import icltheory as icl
import numeric
import numeric.empirical_law
from numeric import special


def agrees(got, reference, error):
    return bool(np.all(np.abs(np.asarray(got) - np.asarray(reference)) <= error))


def assert_agrees(got, reference, error):
    assert agrees(got, reference, error), np.max(np.abs(np.asarray(got) - reference) / error)
    assert not agrees(1.03 * np.asarray(got), reference, error)


# -- against the formulas --------------------------------------------------------------------------

# Bounded laws and mixtures everywhere; the others where their moments exist or fit a float.
REACH = {"Laplace": 1.99, "GammaScaleMixture": 1.8, "Gaussian": 6.0, "ScaleMixture": 6.0}
EXPANDS = {
    "Laplace": 2.0,
    "GammaScaleMixture": 2.0,
    "RegressionTokens": 4.0,
    "GaussianMixture": 6.0,
}
EXACT = ("token_cgf", "limit_output", "limit_jacobian")
EPSILON = np.finfo(float).eps


@pytest.fixture(scope="module")
def formulas():
    """The five formulas of every law in symbols u (and w), compiled to mpmath."""
    cache = {}

    def get(name):
        if name not in cache:
            law = LAWS[name]
            u, w = (
                sp.symbols(f"u1:{law.dim + 1}", real=True),
                sp.symbols(f"w1:{law.dim + 1}", real=True),
            )
            cache[name] = {
                "token_cgf": icl.Formula("K", law.cgf(u)),
                "limit_output": icl.limit_output(law, u),
                "limit_jacobian": icl.limit_jacobian(law, u),
                "weight_moment": icl.weight_moment(law, u),
                "leading_bias": icl.leading_bias(law, u),
                "leading_covariance": icl.leading_covariance(law, u, w),
            }
        return cache[name]

    return get


def evaluate(formula, values):
    evaluator = numeric.compile(formula, "mpmath")
    with mp.workdps(50):
        got = evaluator(**{name: mp.mpf(float(values[name])) for name in evaluator.arguments})
    return np.array(got.tolist() if hasattr(got, "tolist") else got, dtype=float)


@each_law
@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 0.4, 1.0])
def test_arrays_agree_with_the_formulas_at_50_digits(name, size, formulas):
    law, rng = LAWS[name], np.random.default_rng(3)
    reach = REACH.get(name, 60.0)
    u, w = (size * reach * x / np.abs(x).max() for x in rng.uniform(-1, 1, (2, law.dim)))
    if EXPANDS.get(name):
        limits, expansions = (u, w), (u / EXPANDS[name], w / EXPANDS[name])
    else:
        limits = expansions = (u, w)
    for function, formula in formulas(name).items():
        first, second = limits if function in EXACT else expansions
        values = {f"u{i + 1}": x for i, x in enumerate(first)}
        values |= {f"w{i + 1}": x for i, x in enumerate(second)}
        arguments = (first, second) if function == "leading_covariance" else (first,)
        got = getattr(numeric, function)(law, *arguments)
        expected = evaluate(formula, values).reshape(np.shape(got))
        error = 1e-14 * rounding(law, function, *arguments)
        assert agrees(got, expected, error), (function, np.abs(got - expected).max() / error)
        if np.abs(expected).max() > 100 * error:
            assert not agrees(1.03 * got, expected, error)


def rounding(law, function, u, w=None):
    """The size of the terms whose rounding limits a result; exp(K) carries that of K."""
    cgf = 1 + abs(float(numeric.token_cgf(law, u)))
    size = np.abs(numeric.limit_output(law, u)).max()
    spread = np.abs(numeric.limit_jacobian(law, u)).max() + np.abs(u).max() * EPSILON
    if function in EXACT:
        return {"token_cgf": cgf, "limit_output": size, "limit_jacobian": spread}[function] * 2
    both = 2 * u if w is None else u + w
    log_weight = numeric.token_cgf(law, both) - numeric.token_cgf(law, u)
    log_weight -= numeric.token_cgf(law, u if w is None else w)
    cgf = 2 * cgf + abs(float(numeric.token_cgf(law, both)))
    weight = cgf * np.exp(log_weight)
    size = max(size, np.abs(numeric.limit_output(law, both)).max())
    if function == "leading_covariance":
        return weight * (np.abs(numeric.limit_jacobian(law, both)).max() + size**2)
    return weight * (size if function == "leading_bias" else 1)


def test_special_functions_over_their_range():
    with mp.workdps(60):
        for nu in (-0.5, 0.0, 0.5, 2.5, 24.0, 499.0):
            for k in (0.0, 1e-9, 1e-3, 1.0, 10.0, 689.0, 5000.0):
                s = k**2
                below, middle, above = (mp.hyp0f1(nu + j, mp.mpf(s) / 4) for j in (1, 2, 3))
                quotient = middle / (2 * (nu + 1) * below)
                slope = quotient * (1 + s * (above / (2 * (nu + 2) * middle) - quotient))
                assert abs(special.bessel_quotient(nu, s) / quotient - 1) < 2e-15
                assert abs(special.bessel_slope(nu, s) - slope) <= 1e-14 * max(k, 1) * slope + 1e-50
                if k:
                    assert abs(special.log_bessel(nu, s) / mp.log(below) - 1) < 2e-15
    mixed = np.array([0.0, 4.0, 1e8])
    separate = [special.log_bessel(0.5, float(x)) for x in mixed]
    np.testing.assert_allclose(special.log_bessel(0.5, mixed), separate, rtol=1e-14)
    with pytest.raises(icl.OutOfDomain, match="leaves the range of float64"):
        special.log_bessel(3000.0, 5000.0**2)
    with pytest.raises(icl.OutOfDomain, match="sqrt"):
        special.bessel_quotient(0.5, 1e22)


def test_torch_formulas_differentiate():
    torch = pytest.importorskip("torch")
    u = sp.symbols("u1:3", real=True)
    law = icl.Sphere(2, radius=3)
    output = numeric.compile(icl.limit_output(law, u), "torch")
    point = torch.tensor([0.0, 0.0], dtype=torch.float64)
    for x in (point, point + torch.tensor([0.4, -0.7], dtype=torch.float64)):
        jacobian = torch.autograd.functional.jacobian(lambda v: output(u1=v[0], u2=v[1])[:, 0], x)
        expected = numeric.limit_jacobian(law, x.numpy())
        assert_agrees(jacobian.numpy(), expected, 1e-13)
    with pytest.raises(icl.OutOfDomain, match="torch"):
        special.log_bessel(0.5, torch.tensor([1e8], dtype=torch.float64))


# -- linearity -------------------------------------------------------------------------------------


@each_law
def test_nonlinearity_vanishes_for_gaussian_laws_only(name):
    law = LAWS[name]
    u = np.linspace(-1, 1, 9)[:, None] * U[: law.dim]
    deviation = numeric.nonlinearity(law, u)
    assert deviation.shape == (9,)
    assert deviation[4] == 0
    if name == "Gaussian":
        assert np.all(deviation == 0)
    else:
        assert np.all(np.delete(deviation, 4) > 1e-4)
        linear = [
            np.array(icl.limit_linearization(law, x).expr.evalf(25), dtype=float)[:, 0]
            for x in u[:2]
        ]
        k1 = numeric.limit_output(law, np.zeros(law.dim))
        gap = np.linalg.norm(numeric.limit_output(law, u[:2]) - linear, axis=1)
        assert_agrees(deviation[:2], gap / np.linalg.norm(linear - k1, axis=1), 1e-10)


def test_gaussian_in_disguise_and_constant_scores():
    same = icl.GaussianMixture(None, [[1, 2], [1, 2]], [[[2, 1], [1, 1]]] * 2)
    points = np.random.default_rng(0).uniform(-3, 3, (50, 2))
    assert np.all(numeric.nonlinearity(same, points) == 0)
    flat = icl.Gaussian([1, 2], [[1, 1], [1, 1]])
    assert numeric.nonlinearity(flat, [3.0, -3.0]) == 0
    assert numeric.nonlinearity(icl.Empirical([[1, 2]]), [3.0, 1.0]) == 0


# -- data ------------------------------------------------------------------------------------------


def reference(points, weights, u):
    """Softmax over the data in a few lines: K, mean, covariance."""
    scores = np.log(weights) + u @ points.T
    cgf = logsumexp(scores, axis=1)
    p = np.exp(scores - cgf[:, None])
    mean = p @ points
    cov = np.einsum("qn,ni,nj->qij", p, points, points) - mean[:, :, None] * mean[:, None, :]
    return cgf, mean, cov


@pytest.mark.parametrize("block", [1, 64, 2**18])
@pytest.mark.parametrize("weighted", [False, True])
def test_streamed_data_equals_plain_softmax(block, weighted, monkeypatch):
    monkeypatch.setattr(numeric.empirical_law, "_BLOCK", block)
    rng = np.random.default_rng(1)
    count = 700 if block > 1 else 680
    points, u = rng.standard_normal((count, 3)), 2 * rng.standard_normal((20, 3))
    weights = rng.uniform(0.5, 2, count) if weighted else np.ones(count)
    weights /= weights.sum()
    law = icl.Empirical(points, weights if weighted else None)
    assert not law.is_exact
    for got, expected in zip(
        (
            numeric.token_cgf(law, u),
            numeric.limit_output(law, u),
            numeric.limit_jacobian(law, u),
        ),
        reference(points, weights, u),
        strict=True,
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-13)
        assert not np.allclose(1.03 * got, expected, rtol=1e-10)


def test_large_and_small_data_share_their_formulas():
    points = np.random.default_rng(2).uniform(-1, 1, (12, 2))
    small, large = icl.Empirical(points), icl.Empirical(np.tile(points, (100, 1)))  # one law
    assert small.is_exact
    assert not large.is_exact
    for function in (
        numeric.limit_output,
        numeric.limit_jacobian,
        numeric.leading_bias,
        numeric.leading_covariance,
    ):
        np.testing.assert_allclose(function(large, U[:2]), function(small, U[:2]), rtol=1e-11)
    exact = icl.leading_covariance(small, U[:2], W[:2]).expr.evalf(20)
    assert_agrees(
        numeric.leading_covariance(large, U[:2], W[:2]), np.array(exact, dtype=float), 1e-13
    )


def test_softmax_module_of_torch_is_the_law_of_the_data():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(5)
    points, queries = rng.standard_normal((900, 4)), rng.standard_normal((6, 4))
    x, q = (torch.from_numpy(a)[None] for a in (points, queries))
    attention = torch.nn.functional.scaled_dot_product_attention(q, x, x, scale=1.0)[0].numpy()
    assert_agrees(numeric.limit_output(icl.Empirical(points), queries), attention, 1e-12)


def test_memory_does_not_grow_with_queries_or_points():
    points, u = np.ones((200_000, 2)), np.zeros((2000, 2))
    law = icl.Empirical(points)
    numeric.limit_output(law, u[:1])
    tracemalloc.start()
    numeric.limit_output(law, u[:300])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6  # the scores alone would be 480 MB


def test_degenerate_data():
    point = icl.Empirical([[3, 4]])
    np.testing.assert_allclose(numeric.limit_output(point, [[7, 8], [0, 0]]), [[3, 4], [3, 4]])
    assert np.all(numeric.leading_covariance(point, [7, 8]) == 0)
    constant = np.column_stack([np.linspace(0, 1, 2000), np.full(2000, 5.0)])
    jacobian = numeric.limit_jacobian(icl.Empirical(constant), [1.0, 3.0])
    assert jacobian[0, 0] > 0.05
    np.testing.assert_allclose(jacobian[:, 1], 0, atol=1e-20)


# -- shapes and refusals ---------------------------------------------------------------------------


@each_law
def test_shapes_broadcast(name):
    law = LAWS[name]
    d = law.dim
    rng = np.random.default_rng(0)
    u, w = rng.uniform(-0.3, 0.3, (4, 1, d)), rng.uniform(-0.3, 0.3, (5, d))
    assert numeric.token_cgf(law, u).shape == (4, 1)
    assert numeric.limit_jacobian(law, u).shape == (4, 1, d, d)
    assert numeric.leading_bias(law, u, order=2).shape == (4, 1, d)
    both = numeric.leading_covariance(law, u, w)
    assert both.shape == (4, 5, d, d)
    np.testing.assert_allclose(
        both[2, 3], numeric.leading_covariance(law, u[2, 0], w[3]), rtol=1e-12
    )
    transposed = numeric.leading_covariance(law, w[3], u[2, 0]).T
    np.testing.assert_allclose(both[2, 3], transposed, rtol=1e-12)
    assert isinstance(numeric.token_cgf(law, u[0, 0]), float)


def test_scalars_in_dimension_one_and_empty_batches():
    law = icl.Rademacher(1)
    assert numeric.limit_output(law, 0.5).shape == (1,)
    assert numeric.limit_output(law, np.zeros((0, 1))).shape == (0, 1)
    assert numeric.leading_covariance(law, np.zeros((0, 1))).shape == (0, 1, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: numeric.limit_output(LAWS["Laplace"], [[0, 0], [2.5, 0]]),
            r"u = \[2.5, 0.0\]: max_i scale_i \|u_i\| = 1.25 is outside .* < 1, where the cumulant",
        ),
        (
            lambda: numeric.leading_bias(LAWS["Laplace"], [1.5, 0]),
            r"= 0.75 is outside max_i scale_i \|u_i\| < 1/2, .*the limit exists here",
        ),
        (lambda: numeric.leading_bias(LAWS["Laplace"], [0.8, 0], order=2), "< 1/3"),
        (lambda: numeric.leading_covariance(LAWS["Laplace"], [0, 0], [1.5, 0]), "w = "),
        (
            lambda: numeric.leading_covariance(LAWS["GammaScaleMixture"], [1.5, 0]),
            r"scale u'cov u / 2 = 0.28125 is outside .* < 1/4",
        ),
        (
            lambda: numeric.limit_output(icl.RegressionTokens(icl.Laplace(1), [2]), [0.5, 0.5]),
            r"at a \+ c coef",
        ),
        (
            lambda: numeric.leading_covariance(LAWS["Gaussian"], [30.0, 0]),
            "outside float64",
        ),
    ],
)
def test_outside_the_domain(call, message):
    with pytest.raises(icl.OutOfDomain, match=message):
        call()


def test_the_limit_exists_where_the_expansion_does_not():
    law = icl.Laplace(1, scale=0.5)
    assert_agrees(numeric.limit_output(law, [1.5]), 12 / 7, 1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: numeric.limit_output("law", [1]), "pass a token law"),
        (lambda: numeric.limit_output(LAWS["Sphere"], [1, 2]), r"shape \(2,\).*dimension 3"),
        (lambda: numeric.limit_output(LAWS["Sphere"], 1.0), r"pass \(\.\.\., 3\)"),
        (lambda: numeric.limit_output(LAWS["Sphere"], [1, np.nan, 0]), "NaN"),
        (lambda: numeric.limit_output(LAWS["Sphere"], "abc"), "not numeric"),
        (lambda: numeric.leading_bias(LAWS["Sphere"], U, order=0), "order = 0"),
        (lambda: numeric.weight_moment(LAWS["Sphere"], U, power=1.5), "power = 1.5"),
        (
            lambda: numeric.leading_covariance(LAWS["Sphere"], np.ones((2, 3)), np.ones((4, 3))),
            "do not broadcast",
        ),
        (
            lambda: numeric.limit_output(icl.Sphere(1, sp.Symbol("r", positive=True)), [1]),
            "still contains r",
        ),
        (lambda: numeric.sample_tokens(LAWS["Sphere"], 2.5, 0), "not an integer"),
        (lambda: numeric.sample_tokens(LAWS["Sphere"], [[2]], 0), "is no shape"),
        (lambda: numeric.sample_tokens(LAWS["Sphere"], 2, -1), "is no seed"),
        (lambda: numeric.simulate_output(LAWS["Sphere"], U, 0), "prompt_length = 0"),
        (lambda: numeric.simulate_output(LAWS["Sphere"], U, 10, prompts=1), "prompts = 1"),
        (lambda: numeric.simulate_output(LAWS["Sphere"], U, 10**9), "one prompt of 1000000000"),
        (lambda: numeric.simulate_output(LAWS["Sphere"], [U, U], 10), "pass one dual point"),
        (lambda: numeric.simulate_output(LAWS["Sphere"], U, [10, 20]), "one integer"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()
