"""Evaluators: four backends agree, broadcast, check their domain, pickle, and show their source."""

import pickle

import mpmath
import numpy as np
import pytest
import sympy as sp
import torch

import icltheory as icl
import numeric
from icltheory.formula import Formula
from icltheory.symbols import d, k, noise_var, t

TASK = icl.LinearRegression(dim=d, noise_var=noise_var)
ONE = icl.loss_constant(TASK, icl.SoftmaxAttention(heads=1))
TWO = icl.loss_constant(TASK, icl.SoftmaxAttention(heads=2))
BEST = icl.optimal_loss_constant(TASK, icl.SoftmaxAttention(heads=1))
MATRIX = Formula("a matrix", sp.ImmutableMatrix([[t, 1], [t**2, d]]), validity=t < sp.S.Half)


@pytest.mark.parametrize("formula", [ONE, TWO], ids=["one", "two"])
def test_backends_agree_with_exact_arithmetic(formula):
    point = {"d": 5, "noise_var": 0.25, "t": 0.125}
    exact = formula.expr.subs({d: 5, noise_var: sp.Rational(1, 4), t: sp.Rational(1, 8)}).evalf(40)
    for backend, digits in (("numpy", 14), ("math", 14), ("torch", 14), ("mpmath", 28)):
        with mpmath.workdps(30):
            value = numeric.compile(formula, backend)(**point)
            error = abs(
                sp.Float(mpmath.mpf(float(value)) if backend != "mpmath" else value, 40) - exact
            )
        assert error < sp.Float(10) ** -digits * exact, backend
        assert abs(sp.Float(float(value)) * 1.03 - exact) > sp.Float(10) ** -digits * exact


def test_broadcasting_of_arguments_and_constants():
    f = numeric.compile(ONE)
    out = f(d=np.array([[2], [5]]), noise_var=0.0, t=np.array([0.1, 0.2, 0.3]))
    assert out.shape == (2, 3)
    assert out[1, 0] == f(d=5, noise_var=0, t=0.1)
    constant = numeric.compile(
        icl.loss_constant(icl.LinearRegression(dim=5), icl.LinearAttention())
    )
    assert constant() == 6.0
    half = Formula("one", sp.Integer(1), validity=t < sp.S.Half)
    assert numeric.compile(half)(t=np.array([0.1, 0.2])).tolist() == [1.0, 1.0]


def test_matrices_broadcast_over_arguments():
    out = numeric.compile(MATRIX)(t=np.array([0.1, 0.2, 0.3]), d=4)
    assert out.shape == (3, 2, 2)
    np.testing.assert_array_equal(out[1], [[0.2, 1], [0.2**2, 4]])
    masked = numeric.compile(MATRIX, on_invalid="nan")(t=np.array([0.1, 0.7]), d=4)
    assert np.isnan(masked[1]).all()
    assert not np.isnan(masked[0]).any()
    tensor = numeric.compile(MATRIX, "torch")(t=torch.tensor([0.1, 0.2], dtype=torch.float64), d=4)
    assert tensor.shape == (2, 2, 2)


def test_outside_the_domain():
    f = numeric.compile(ONE)
    with pytest.raises(icl.OutOfDomain, match=r"t = 0.6 is outside t < 1/2"):
        f(d=5, noise_var=0, t=[0.1, 0.6])
    with pytest.raises(icl.OutOfDomain, match="d = 0 is outside d >= 1"):
        f(d=0, noise_var=0, t=0.1)
    with pytest.raises(icl.OutOfDomain, match="noise_var = -1 is outside noise_var >= 0"):
        f(d=5, noise_var=-1, t=0.1)
    out = numeric.compile(ONE, on_invalid="nan")(d=5, noise_var=0, t=[0.1, 0.5, 0.7, -1])
    assert np.isnan(out).tolist() == [False, True, True, True]
    assert np.isnan(numeric.compile(ONE, "math", on_invalid="nan")(d=5, noise_var=0, t=0.7))
    tensor = numeric.compile(ONE, "torch", on_invalid="nan")(
        d=5, noise_var=0, t=torch.tensor([0.1, 0.7])
    )
    assert torch.isnan(tensor).tolist() == [False, True]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: f(d=5, noise_var=0, t=0.1, sigma=1),
            "unknown argument sigma.*takes: d, noise_var, t",
        ),
        (lambda f: f(d=5, t=0.1), "missing argument noise_var"),
        (lambda f: f(d=5, noise_var=0, t=[0.1, np.nan]), "t contains NaN"),
        (lambda f: f(d=5, noise_var=np.inf, t=0.1), "noise_var contains NaN or infinite"),
        (lambda f: f(d=5, noise_var=0, t="0.1x"), "not numeric"),
        (lambda f: f(d=[1, 2, 3], noise_var=0, t=[0.1, 0.2]), "do not broadcast"),
        (lambda f: numeric.compile(ONE, "jax"), "backend = 'jax'"),
        (lambda f: numeric.compile(ONE, on_invalid="warn"), "on_invalid"),
        (lambda f: numeric.compile(ONE.expr), "takes a Formula"),
        (lambda f: f.gradient("k"), "its symbols: d, noise_var, t"),
        (lambda f: numeric.compile(ONE, "math")(d=5, noise_var=0, t=[0.1]), "takes one number"),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call(numeric.compile(ONE))


def test_gradient_vanishes_at_the_minimizer_and_matches_torch():
    slope = numeric.compile(ONE).gradient("t")
    best = float(
        icl.optimal_loss_constant(icl.LinearRegression(5), icl.SoftmaxAttention()).minimizer[t]
    )
    scale = abs(slope(d=5, noise_var=0, t=0.9 * best))
    assert abs(slope(d=5, noise_var=0, t=best)) < 1e-12 * scale
    point = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    numeric.compile(ONE, "torch")(d=5, noise_var=0.5, t=point).backward()
    assert point.grad is not None
    assert abs(float(point.grad) - slope(d=5, noise_var=0.5, t=0.2)) < 1e-12 * abs(
        float(point.grad)
    )


def test_pickle_and_source():
    f = numeric.compile(ONE)
    copy = pickle.loads(pickle.dumps(f))
    assert copy(d=5, noise_var=0, t=0.1) == f(d=5, noise_var=0, t=0.1)
    assert "def " in f.source
    assert "sinh" in numeric.compile(TWO).source
    assert "'d', 'noise_var', 't'" in repr(f.arguments)


def test_minimum_over_a_grid_of_dimensions():
    dims = np.array([1, 2, 5, 20, 100, 1000, 10**6])
    best = numeric.compile(BEST)(d=dims, noise_var=0.0)
    bound = (1 + 2 / dims) ** (dims / 2 + 1)
    assert (best >= bound * dims + 1 - 1e-9 * best).all()
    assert (best <= bound * (dims + 1)).all()


def test_symbols_of_the_users_own():
    q = sp.Symbol("q")
    f = numeric.compile(Formula("mine", q**2 + k))
    assert f(q=[-1.0, 2.0], k=1.0).tolist() == [2.0, 5.0]
