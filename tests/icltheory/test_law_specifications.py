"""Token laws as specifications: equality, hashing, pickling, data of all sizes, refusals."""

import pickle

import numpy as np
import pytest
import sympy as sp
from law_cases import LAWS, NAMES

import icltheory as icl

R = sp.Rational


BIG = np.arange(3000.0).reshape(1000, 3) / 100


@pytest.mark.parametrize("law", [*LAWS, icl.Empirical(BIG)], ids=[*NAMES, "large"])
def test_laws_are_immutable_hashable_picklable(law):
    copy = pickle.loads(pickle.dumps(law))
    assert copy == law
    assert hash(copy) == hash(law)
    assert all((other == law) == (other is law) for other in LAWS)
    with pytest.raises(AttributeError, match="immutable"):
        law.scale = 2
    assert type(law).__name__ in repr(law)


def test_scales_for_all_or_for_each():
    assert icl.Rademacher(2, 3) == icl.Rademacher(2, [3, 3]) == icl.Rademacher(2, np.array([3, 3]))
    assert icl.Rademacher(2, [1, 2]) != icl.Rademacher(2, [2, 1])
    assert repr(icl.UniformCube(2, half_width=0.5)) == "UniformCube(dim=2, half_width=1/2)"
    assert repr(icl.Laplace(2, [1, 2])) == "Laplace(dim=2, scale=(1, 2))"
    assert icl.Rademacher(1) != icl.Laplace(1)
    r = sp.Symbol("r", positive=True)
    assert icl.limit_output(icl.Rademacher(1, r), [r]).expr[0] == r * sp.tanh(r**2)


def test_weights_may_be_symbols_that_sum_to_one():
    p, u = sp.symbols("p u", positive=True)
    law = icl.GaussianMixture([p, 1 - p], [[1], [-1]], [1, 1])
    assert sp.expand(icl.limit_output(law, [0]).expr[0] - (2 * p - 1)) == 0
    shared = icl.limit_output(law, [u]).expr[0] - u  # shared covariance: cov u + sum of r_k m_k
    expected = (p * sp.exp(u) - (1 - p) * sp.exp(-u)) / (p * sp.exp(u) + (1 - p) * sp.exp(-u))
    assert abs((shared - expected).subs({p: 0.3, u: 0.7})) < 1e-15


def test_small_data_is_exact_and_equals_softmax():
    points, u = np.array([[0.1, 0.2], [0.3, -0.5], [1.0, 0.7]]), np.array([0.4, -1.1])
    law = icl.Empirical(points)
    assert law.points[0, 0] == R(1, 10)
    p = np.exp(points @ u)
    got = np.array(icl.limit_output(law, u).expr.tolist(), dtype=float)[:, 0]
    np.testing.assert_allclose(got, p @ points / p.sum(), rtol=1e-14)
    assert (
        law
        == icl.Empirical(points.tolist())
        == icl.Empirical(sp.Matrix([[R(1, 10), R(1, 5)], [R(3, 10), -R(1, 2)], [1, R(7, 10)]]))
    )
    weighted = icl.Empirical([[0], [1]], weights=[1 / 3, 2 / 3 + 1e-14])
    assert sp.Add(*weighted.weights) == 1


def test_large_data_is_copied_once_and_known_by_content():
    data = np.random.default_rng(0).standard_normal((1000, 3))
    law, again, lists = (
        icl.Empirical(data),
        icl.Empirical(data.copy()),
        icl.Empirical(data.tolist()),
    )
    assert law == again == lists
    assert icl.Empirical(np.asfortranarray(data)) == law
    assert not law.is_exact
    assert icl.Empirical(data.astype(np.float32)) != law
    weights = np.full(1000, 1e-3)
    assert icl.Empirical(data, weights) != law
    assert icl.Empirical(data, weights) == icl.Empirical(data, weights.tolist())
    before = np.array(law.buffer())
    data[0, 0] = 7
    assert np.array_equal(np.asarray(law.buffer()), before)
    assert icl.Empirical(data) != law
    for call in (law.cgf, lambda u: icl.limit_output(law, u), lambda u: icl.leading_bias(law, u)):
        with pytest.raises(icl.InvalidInput, match=r"numeric\.token_cgf, limit_output"):
            call([0, 0, 0])


def test_tensors_and_frames():
    torch, pandas = pytest.importorskip("torch"), pytest.importorskip("pandas")
    assert icl.Empirical(torch.tensor(BIG, requires_grad=True)) == icl.Empirical(BIG)
    assert icl.Empirical(pandas.DataFrame(BIG)) == icl.Empirical(BIG)
    assert icl.Empirical(torch.tensor([[1.0], [2.0]])) == icl.Empirical([[1], [2]])


def with_nan(points):
    points = points.copy()
    points[5, 1] = np.nan
    return points


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: icl.Rademacher(0), "not a positive integer"),
        (lambda: icl.Rademacher(sp.Symbol("d", integer=True, positive=True)), "symbolic"),
        (lambda: icl.Rademacher(2, [1, 2, 3]), "scale has 3 entries; dim = 2 needs 2"),
        (lambda: icl.UniformCube(2, -1), "half_width = -1 is not positive"),
        (lambda: icl.Laplace(2, 0), "scale = 0 is not positive"),
        (lambda: icl.Sphere(2, "1"), "text is never parsed"),
        (lambda: icl.Sphere(2, float("nan")), "not finite"),
        (lambda: icl.Gaussian([0, 0], [[1, 2], [2, 1]]), "not positive semi-definite"),
        (lambda: icl.GaussianMixture([0.5, 0.6], [[1], [2]], [1, 1]), "the weights sum to 1.1"),
        (lambda: icl.GaussianMixture([0.5, 0.5], [[1], [2]], [1]), "1 covariances for 2 means"),
        (lambda: icl.GaussianMixture(None, [[1], [2, 3]], [1, 1]), r"lengths \[1, 2\]"),
        (lambda: icl.GaussianMixture([1.5, -0.5], [[1], [2]], [1, 1]), "is not positive"),
        (lambda: icl.GaussianMixture(sp.symbols("p q"), [[1], [2]], [1, 1]), "sum to p \\+ q"),
        (lambda: icl.GaussianMixture([1], [1], [1]), "non-empty sequence"),
        (lambda: icl.ScaleMixture([[1]], [-1, 2]), "negative"),
        (lambda: icl.ScaleMixture(1, [1, 2]), "they give the dimension"),
        (lambda: icl.ScaleMixture([[1]], [1, 2], [1]), "1 entries for 2 scales"),
        (lambda: icl.GammaScaleMixture([[1]], 0), "shape = 0 is not positive"),
        (lambda: icl.RegressionTokens(3, [1]), "pass a law"),
        (lambda: icl.RegressionTokens(icl.Sphere(2), [1]), "coef has 1 entries"),
        (lambda: icl.RegressionTokens(icl.Sphere(1), [1], -1), "negative"),
        (lambda: icl.Sphere(2).cgf([1]), "u has 1 entries"),
        (lambda: icl.Sphere(2).cgf("ab"), "u has"),
        (lambda: icl.limit_output("law", [1]), "pass a token law"),
        (lambda: icl.leading_bias(3, [1]), "pass a token law"),
        (lambda: icl.leading_bias(icl.Sphere(1), [1], order=3), "order = 3 is not available"),
        (lambda: icl.weight_moment(icl.Sphere(1), [1], power=0), "power = 0"),
        (lambda: icl.Empirical([1.0, 2.0]), r"shape \(2,\); pass N x d"),
        (lambda: icl.Empirical(np.arange(5.0)), r"points\[:, None\]"),
        (lambda: icl.Empirical(np.ones((0, 3))), "empty"),
        (lambda: icl.Empirical([]), "empty"),
        (lambda: icl.Empirical("data"), "pass an array or nested rows"),
        (lambda: icl.Empirical(7), "pass an array or nested rows"),
        (lambda: icl.Empirical([[1, 2], [3]]), "rows of lengths"),
        (lambda: icl.Empirical([[1, "x"]]), "text is never parsed"),
        (lambda: icl.Empirical([[1, float("nan")]]), "not finite"),
        (lambda: icl.Empirical(with_nan(BIG)), "NaN or infinite"),
        (lambda: icl.Empirical(with_nan(BIG).tolist()), "row 5: entry = nan is not finite"),
        (lambda: icl.Empirical(np.where(BIG > 1, np.inf, BIG)), "NaN or infinite"),
        (lambda: icl.Empirical(BIG > 1), "entries of type bool"),
        (lambda: icl.Empirical(BIG.astype(complex)), "entries of type complex"),
        (lambda: icl.Empirical(BIG.astype(str)), "entries of type"),
        (lambda: icl.Empirical([*BIG.tolist(), [1.0]]), "row 1000: not a sequence of 3"),
        (lambda: icl.Empirical(BIG, weights=[1.0]), r"weights \(1\) must be one number for each"),
        (lambda: icl.Empirical(BIG, weights=np.full(1000, 2e-3)), "the weights sum to 2"),
        (lambda: icl.Empirical(BIG, weights=[0.0] * 999 + [1.0]), "leave out what has no weight"),
        (lambda: icl.Empirical([[1], [2]], weights=[0.5, 0.4]), "the weights sum to 0.9"),
        (lambda: icl.Empirical([[1], [2]], weights=[1, 0]), "is not positive"),
        (lambda: icl.Empirical([[1], [2]], weights=[1]), "1 entries for 2 points"),
        (lambda: icl.Empirical([[sp.Symbol("x")]]).buffer(), "still contains x"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()
