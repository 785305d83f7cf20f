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
from icltheory.matrix_calculus import Form, SymmetricSymbol, VectorSymbol
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


@pytest.mark.parametrize("backend", ["numpy", "math", "mpmath", "torch"])
@pytest.mark.parametrize("value", [0.0, 0.5, 0.6, -1.0])
def test_one_number_outside_the_domain(backend, value):
    point = {"d": 5, "noise_var": 0.0, "t": value}
    assert np.isnan(float(numeric.compile(ONE, backend, on_invalid="nan")(**point)))
    with pytest.raises(icl.OutOfDomain, match="t = "):
        numeric.compile(ONE, backend)(**point)


@pytest.mark.parametrize("scale", [0.4999, [0.1, 0.4999]])
def test_beyond_the_range_of_floats(scale):
    point = {"d": 5000, "noise_var": 0.0, "t": scale}
    with pytest.raises(
        icl.OutOfDomain, match=r"leaves the range of float64 at d = 5000.*t = 0.4999"
    ):
        numeric.compile(ONE)(**point)
    out = np.asarray(numeric.compile(ONE, on_invalid="nan")(**point))
    assert np.isnan(out).ravel()[-1]
    assert np.isfinite(out).ravel().tolist()[:-1] == [True] * (out.size - 1)
    if out.ndim == 0:
        with pytest.raises(icl.OutOfDomain, match="range of float64"):
            numeric.compile(ONE, "math")(**point)
        assert numeric.compile(ONE, "mpmath")(**point) > 1e300


@pytest.mark.parametrize("backend", ["numpy", "math", "mpmath", "torch"])
@pytest.mark.parametrize("value", ["0.1", True, None, object()])
def test_no_numbers_are_refused_by_every_backend(backend, value):
    with pytest.raises(icl.InvalidInput, match="noise_var"):
        numeric.compile(ONE, backend)(d=5, noise_var=value, t=0.1)


@pytest.mark.parametrize("backend", ["numpy", "math", "mpmath", "torch"])
def test_dimensions_are_whole_numbers(backend):
    with pytest.raises(icl.OutOfDomain, match=r"d = 2.5 is outside its domain: integer >= 1"):
        numeric.compile(ONE, backend)(d=2.5, noise_var=0.0, t=0.1)
    f = numeric.compile(ONE, backend, on_invalid="nan")
    assert np.isnan(float(f(d=2.5, noise_var=0.0, t=0.1)))


def test_a_derivative_keeps_the_arguments():
    slope = numeric.compile(ONE).gradient("noise_var")
    assert slope.arguments == ("d", "noise_var", "t")
    expected = (1 - 0.2) ** -2.5 / 0.1
    assert slope(d=5, noise_var=3.0, t=0.1) == pytest.approx(expected, rel=1e-13)
    assert pickle.loads(pickle.dumps(slope)).arguments == slope.arguments
    with pytest.raises(icl.OutOfDomain, match="noise_var"):
        slope(d=5, noise_var=-3.0, t=0.1)


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
    rounding = dims * 2.0**-52 * best  # of a base near 1, raised to d/2
    assert (best >= bound * dims + 1 - rounding).all()
    assert (best <= bound * (dims + 1) + rounding).all()


def test_symbols_of_the_users_own():
    q = sp.Symbol("q")
    f = numeric.compile(Formula("mine", q**2 + k))
    assert f(q=[-1.0, 2.0], k=1.0).tolist() == [2.0, 5.0]


# -- formulas in matrices ------------------------------------------------------------------------

DIM = 3
A, B = sp.MatrixSymbol("A", d, d), sp.MatrixSymbol("B", d, d)
Z = sp.MatrixSymbol("Z", 2, d)
S = SymmetricSymbol("S", d, d)
p, q = VectorSymbol("p", d), VectorSymbol("q", d)
MATRIX_EXPRESSIONS = {
    "form": (Form(p.T * A * S * B * q), lambda x: x["p"] @ x["A"] @ x["S"] @ x["B"] @ x["q"]),
    "trace": (
        k * sp.Trace(A * B * A.T) / d - 1,
        lambda x: x["k"] * np.trace(x["A"] @ x["B"] @ x["A"].T) / DIM - 1,
    ),
    "powers": (
        sp.exp(-k) * Form(p.T * q) ** 2 + sp.Trace(A**3) + sp.Trace(A),
        lambda x: (
            np.exp(-x["k"]) * (x["p"] @ x["q"]) ** 2
            + np.trace(np.linalg.matrix_power(x["A"], 3))
            + np.trace(x["A"])
        ),
    ),
    "matrix": (
        sp.MatAdd(sp.MatMul(-2 * k, A, B.T), sp.MatMul(p, q.T, A), sp.MatMul(-1, sp.Identity(d))),
        lambda x: -2 * x["k"] * x["A"] @ x["B"].T + np.outer(x["p"], x["q"] @ x["A"]) - np.eye(DIM),
    ),
    "nested": (
        sp.MatMul(sp.Transpose(sp.MatAdd(A, sp.MatMul(k, B))), S, sp.MatAdd(A, sp.MatMul(k, B))),
        lambda x: (x["A"] + x["k"] * x["B"]).T @ x["S"] @ (x["A"] + x["k"] * x["B"]),
    ),
    "vector": (
        sp.MatAdd(sp.MatMul(A, B, S, p), sp.MatMul(Form(p.T * q), q)),
        lambda x: x["A"] @ x["B"] @ x["S"] @ x["p"] + (x["p"] @ x["q"]) * x["q"],
    ),
    "inverse": (A.inverse() * p, lambda x: np.linalg.solve(x["A"], x["p"])),
    "rectangle": (Z * A * Z.T, lambda x: x["Z"] @ x["A"] @ x["Z"].T),
    "row": (p.T * A, lambda x: (x["p"] @ x["A"])[None]),
    "argument": (sp.MatMul(A), lambda x: x["A"]),
    "zero": (sp.MatAdd(sp.MatMul(0, A), sp.ZeroMatrix(d, d)), lambda x: np.zeros((DIM, DIM))),
}


def matrix_values(rng, *leading):
    out = {name: rng.normal(size=(*leading, DIM, DIM)) for name in "ABS"}
    out["S"] = out["S"] + out["S"].swapaxes(-1, -2)
    out |= {name: rng.normal(size=(*leading, DIM)) for name in "pq"}
    return out | {"Z": rng.normal(size=(*leading, 2, DIM)), "k": rng.uniform(0.5, 1, leading)}


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", MATRIX_EXPRESSIONS)
def test_matrix_formulas_against_numpy_with_and_without_leading_axes(name, backend):
    expr, by_hand = MATRIX_EXPRESSIONS[name]
    f = numeric.compile(Formula(name, expr), backend)
    values = matrix_values(np.random.default_rng(1))
    values["k"] = float(values["k"])
    single = np.asarray(f(**{x: values[x] for x in f.arguments}))
    expected = by_hand(values)
    np.testing.assert_allclose(single, expected, rtol=1e-12, atol=1e-12)
    assert single.shape == np.shape(expected)
    assert name == "zero" or not np.allclose(1.03 * single, expected, rtol=1e-9)
    batch = matrix_values(np.random.default_rng(2), 4, 2)
    batch["k"] = batch["k"][:, :1]
    batch["p"] = batch["p"][0]
    out = np.asarray(f(**{x: batch[x] for x in f.arguments}))
    for i, j in np.ndindex(4, 2):
        one = {x: v[i, j] for x, v in batch.items() if x not in "kp"}
        wanted = by_hand(one | {"k": batch["k"][i, 0], "p": batch["p"][j]})
        np.testing.assert_allclose(out[i, j], wanted, rtol=1e-10, atol=1e-10)


def test_columns_are_accepted_where_the_dimension_is_known():
    f = numeric.compile(Formula("form", Form(p.T * A * q)))
    x = matrix_values(np.random.default_rng(0))
    flat = f(A=x["A"], p=x["p"], q=x["q"])
    assert flat == f(A=x["A"], p=x["p"][:, None], q=x["q"])
    assert isinstance(flat, float)
    assert f(A=x["A"], p=np.stack([x["p"]] * 4), q=x["q"]).shape == (4,)
    one = numeric.compile(icl.risk_gradients(icl.LinearRegression(dim=1, noise_var=1)))
    out = one(A=[[2.0]], u=[1.0], v=[0.5], b=np.array([1.0, 2.0]))
    assert {name: value.shape for name, value in out.items()} == {
        "A": (2, 1, 1),
        "u": (2, 1),
        "v": (2, 1),
        "b": (2,),
    }


CORRELATED = icl.LinearRegression(
    dim=3, noise_var=noise_var, feature_cov=[[2, 1, 0], [1, 2, 0], [0, 0, 1]], coef_cov=[1, 2, 3]
)


def test_a_dictionary_shares_its_products():
    gradients = icl.risk_gradients(CORRELATED)
    together = numeric.compile(gradients)
    rng = np.random.default_rng(0)
    point = {"A": rng.normal(size=(3, 3)), "u": rng.normal(size=3), "v": rng.normal(size=3)}
    point |= {"b": 0.7, "noise_var": 0.2}
    out = together(**point)
    lines = 0
    for name, formula in gradients.items():
        alone = numeric.compile(formula)
        lines += alone.source.count("@")
        value = alone(**{x: point[x] for x in alone.arguments})
        np.testing.assert_allclose(out[name], value, rtol=1e-12)
    assert together.source.count("@") < 0.7 * lines
    copy = pickle.loads(pickle.dumps(together))
    np.testing.assert_array_equal(copy(**point)["A"], out["A"])
    assert "noise_var" in repr(together)
    mixed = numeric.compile({"one": ONE, "risk": icl.infinite_prompt_risk(CORRELATED)})
    assert mixed.arguments == ("A", "b", "d", "noise_var", "t", "u", "v")
    values = mixed(**point, d=5, t=0.1)
    assert abs(values["one"] - numeric.compile(ONE)(d=5, noise_var=0.2, t=0.1)) < 1e-12 * abs(
        values["one"]
    )


def test_matrices_with_symbols_in_their_entries():
    rho = sp.Symbol("rho", real=True)
    task = icl.LinearRegression(dim=2, feature_cov=[[1, rho], [rho, 1]], coef_cov=[1, 2])
    point = {"A": [[1.0, 2.0], [0.5, 1.0]], "u": [1.0, 2.0], "v": [0.3, 0.1], "b": 1.5}
    fixed = icl.LinearRegression(dim=2, feature_cov=[[1, 0.25], [0.25, 1]], coef_cov=[1, 2])
    expected = numeric.compile(icl.infinite_prompt_risk(fixed))(**point)
    for backend in ("numpy", "torch"):
        moving = numeric.compile(icl.infinite_prompt_risk(task), backend)
        assert abs(float(moving(**point, rho=0.25)) - expected) < 1e-13 * expected
        several = np.asarray(moving(**point, rho=np.array([0.0, 0.25])))
        assert several.shape == (2,)
        assert abs(several[1] - expected) < 1e-13 * expected
    with pytest.raises(icl.OutOfDomain, match="rho = 2"):
        numeric.compile(icl.infinite_prompt_risk(task))(**point, rho=2.0)
    masked = numeric.compile(icl.risk_gradients(task), on_invalid="nan")
    out = masked(**point, rho=np.array([0.25, 2.0]))
    assert np.isnan(out["A"][1]).all()
    assert not np.isnan(out["A"][0]).any()


def test_torch_differentiates_a_matrix_formula():
    risk = icl.infinite_prompt_risk(CORRELATED)
    f = numeric.compile(risk, "torch")
    rng = np.random.default_rng(4)
    point = {"A": rng.normal(size=(3, 3)), "u": rng.normal(size=3), "v": rng.normal(size=3)}
    point |= {"b": 0.7, "noise_var": 0.2}
    leaf = torch.tensor(point["A"], requires_grad=True)
    f(**{**point, "A": leaf}).backward()
    assert leaf.grad is not None
    expected = numeric.compile(risk).gradient("A")(**point)
    np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-12)
    small = f(**{key: torch.tensor(x, dtype=torch.float32) for key, x in point.items()})
    assert small.dtype == torch.float32


def test_results_are_the_callers_own():
    f = numeric.compile(Formula("same", sp.MatMul(A)))
    values = np.eye(3)
    out = f(A=values)
    out[0, 0] = 5
    assert values[0, 0] == 1
    constant = icl.risk_gradients(icl.LinearRegression(dim=2, feature_cov=[1, 2]))["A"]
    g = numeric.compile(constant)
    first = g(A=np.eye(2), u=[0, 0], v=[0, 0], b=1.0)
    first += 1
    assert np.array_equal(g(A=np.eye(2), u=[0, 0], v=[0, 0], b=1.0) + 1, first)


def test_names_that_are_no_identifiers_are_not_executed():
    evil = sp.Symbol("__import__('os').abort()", real=True)
    f = numeric.compile(Formula("evil", evil * sp.Trace(A)))
    assert f(**{evil.name: 2.0, "A": np.eye(3)}) == 6.0
    word = numeric.compile(Formula("word", sp.Symbol("lambda") * Form(p.T * q)))
    assert word(**{"lambda": 2.0, "p": [1, 2], "q": [3, 4]}) == 22.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": np.eye(2)}, r"A has shape \(2, 2\); \(.., 3, 3\) is needed"),
        ({"u": np.ones(2)}, r"u has shape \(2,\); \(.., 3\) is needed"),
        ({"A": 1.0}, r"A has shape \(\); A is a matrix"),
        ({"u": 1.0}, r"u has shape \(\); u is a vector"),
        ({"u": np.ones((4, 3)), "b": np.ones(5)}, "leading shapes do not broadcast"),
        ({"A": np.full((3, 3), np.nan)}, "A contains NaN"),
        ({"A": "text"}, "not numeric"),
        ({"d": 3}, "unknown argument d"),
    ],
)
def test_bad_matrix_arguments_are_refused_with_the_reason(change, message):
    f = numeric.compile(icl.infinite_prompt_risk(CORRELATED))
    point = {"A": np.eye(3), "u": np.ones(3), "v": np.ones(3), "b": 1.0, "noise_var": 0.0}
    with pytest.raises(icl.InvalidInput, match=message):
        f(**{**point, **change})


def test_matrix_formulas_that_cannot_be_compiled():
    risk = icl.infinite_prompt_risk(CORRELATED)
    general = icl.infinite_prompt_risk(icl.LinearRegression(dim=d))
    with pytest.raises(icl.InvalidInput, match="d = 3 from the arguments before it"):
        numeric.compile(general)(A=np.eye(3), u=np.ones(2), v=np.ones(3), b=1.0)
    with pytest.raises(icl.InvalidInput, match="use one of numpy, torch"):
        numeric.compile(risk, "mpmath")
    with pytest.raises(icl.InvalidInput, match="takes a Formula"):
        numeric.compile({})
    with pytest.raises(icl.InvalidInput, match="takes a Formula"):
        numeric.compile({"risk": risk.expr})
    with pytest.raises(icl.InvalidInput, match="different symbols"):
        numeric.compile({"a": risk, "b": general})
    other = icl.LinearRegression(dim=3, feature_cov=[1, 2, 3])
    with pytest.raises(icl.InvalidInput, match="Sigma different values"):
        numeric.compile({"a": risk, "b": icl.infinite_prompt_risk(other)})
    with pytest.raises(icl.InvalidInput, match="missing argument noise_var"):
        numeric.compile(risk)(A=np.eye(3), u=np.ones(3), v=np.ones(3), b=1.0)
    with pytest.raises(icl.InvalidInput, match="no argument has the size d"):
        numeric.compile({"zero": Formula("zero", sp.ZeroMatrix(d, d)), "risk": risk})
    with pytest.raises(icl.OutOfDomain, match="noise_var = -1"):
        numeric.compile(risk)(A=np.eye(3), u=np.ones(3), v=np.ones(3), b=1.0, noise_var=-1)
    with pytest.raises(icl.InvalidInput, match="functions known there"):
        numeric.compile(Formula("gamma", sp.gamma(k) * sp.Trace(A)))


@pytest.mark.parametrize("backend", ["numpy", "math", "mpmath"])
def test_lambert_w_compiles(backend):
    f = numeric.compile(Formula("W", sp.LambertW(t)), backend)
    assert float(f(t=2.0)) == pytest.approx(0.8526055020137254, rel=1e-14)


def test_large_arguments_are_evaluated_in_blocks_without_a_difference():
    rng = np.random.default_rng(0)
    t_values, noise = rng.uniform(0.01, 0.49, (3, 100_003)), rng.uniform(0, 1, 100_003)
    f = numeric.compile(ONE)
    out = f(d=5, noise_var=noise, t=t_values)
    assert out.shape == t_values.shape
    for i in (0, 2**15, 100_002):
        assert out[1, i] == pytest.approx(f(d=5, noise_var=noise[i], t=t_values[1, i]), rel=1e-14)
    t_values[2, 7] = 0.7
    masked = numeric.compile(ONE, on_invalid="nan")(d=5, noise_var=noise, t=t_values)
    assert np.argwhere(np.isnan(masked)).tolist() == [[2, 7]]


@pytest.mark.parametrize("backend", ["numpy", "math", "mpmath"])
def test_a_symbol_called_like_a_function_is_not_called(backend):
    ratio = icl.symbols.gamma
    formula = Formula("a binomial", sp.binomial(ratio + 2, sp.S.Half) + ratio)
    value = numeric.compile(formula, backend)(gamma=0.5)
    exact = float(sp.gamma(sp.Rational(7, 2)) / sp.gamma(sp.Rational(3, 2)) / 2 + sp.S.Half)
    assert abs(float(value) - exact) < 1e-14


# -- functions that a backend lacks ----------------------------------------------------------------

n, steps, eta, nu = icl.symbols.n, icl.symbols.steps, icl.symbols.eta, icl.symbols.nu
DESCENT = icl.solver_risk_limit(icl.GradientDescent(eta / n), steps, 1)  # 2F1
NEWTON = icl.solver_risk_limit(icl.IterativeNewton(1 / (16 * n**2)), steps, 1)  # 3F2
FLOW = icl.solver_risk_limit(icl.GradientFlow(), icl.symbols.time / n, 1)  # Bessel functions
KUMMER = Formula("Kummer's function", sp.hyper([(nu + 1) / 2], [sp.S.Half], -t))


@pytest.mark.parametrize("backend", ["numpy", "math"])
@pytest.mark.parametrize(
    ("formula", "points", "tolerance"),
    [
        (
            icl.edge_cosine(),
            [{"nu": a, "ratio": r} for a in (0, 3, 10) for r in (0.01, 1, 20)],
            1e-13,
        ),
        (icl.edge_cosine(), [{"nu": a, "ratio": r} for a in (0, 3, 10) for r in (5, 8, 10)], 1e-6),
        (DESCENT, [{"eta": e, "steps": s} for e in (0.05, 0.25, 0.5) for s in (1, 7, 300)], 1e-12),
        (FLOW, [{"time": 0.01}, {"time": 30}], 1e-13),
        (KUMMER, [{"nu": 2, "t": 0.01}, {"nu": 2, "t": 3}], 1e-13),
    ],
    ids=["edge", "edge where SciPy changes its method", "descent", "flow", "Kummer"],
)
def test_special_functions(formula, points, tolerance, backend):
    compiled, exact = numeric.compile(formula, backend), numeric.compile(formula, "mpmath")
    for point in points:
        with mpmath.workdps(60):
            value = float(exact(**point))
        assert compiled(**point) == pytest.approx(value, rel=tolerance)
    if backend == "numpy":
        names = points[0]
        together = compiled(**{name: [float(p[name]) for p in points] for name in names})
        np.testing.assert_allclose(together, [compiled(**p) for p in points], rtol=1e-15)


@pytest.mark.parametrize(
    ("formula", "backends", "what"),
    [
        (icl.edge_cosine(), ["torch"], "gamma"),
        (DESCENT, ["torch"], "hyper"),
        (NEWTON, ["torch"], "hyper"),
        (NEWTON, ["numpy", "math"], "the hypergeometric function 3F2"),
        (FLOW, ["torch"], "besseli"),
        (Formula("zeta", sp.zeta(1 + t)), ["numpy", "math"], "zeta"),
    ],
)
def test_functions_that_a_backend_lacks_are_refused_when_compiled(formula, backends, what):
    for backend in backends:
        with pytest.raises(icl.InvalidInput, match=f"contains {what}, .*use backend='mpmath'"):
            numeric.compile(formula, backend)
    assert numeric.compile(formula, "mpmath") is not None


def test_a_derivative_without_closed_form_is_refused():
    compiled = numeric.compile(icl.edge_cosine())
    step = 1e-5
    slope = (compiled(nu=1, ratio=1 + step) - compiled(nu=1, ratio=1 - step)) / (2 * step)
    assert compiled.gradient("ratio")(nu=1, ratio=1) == pytest.approx(slope, rel=1e-8)
    with pytest.raises(icl.InvalidInput, match="derivative without a closed form"):
        compiled.gradient("nu")


def test_torch_takes_numbers_in_functions():
    law = icl.late_contraction()
    at = {"gamma": torch.tensor([0.5, 2.0], dtype=torch.float64), "steps": 40}
    expected = [float(icl.late_contraction(g, steps=40).expr) for g in (0.5, 2)]
    np.testing.assert_allclose(numeric.compile(law, "torch")(**at).numpy(), expected, rtol=1e-14)


def test_functions_of_arrays_and_beyond_the_range_of_floats():
    x = sp.Symbol("x", positive=True)
    for function in (sp.gamma, sp.loggamma, sp.factorial, sp.erf, lambda y: sp.binomial(2 * y, y)):
        formula = Formula("example", function(x))
        values = numeric.compile(formula)(x=[0.5, 2.5])
        exact = [
            float(function(sp.Rational(1, 2)).evalf()),
            float(function(sp.Rational(5, 2)).evalf()),
        ]
        np.testing.assert_allclose(values, exact, rtol=1e-14)
    ratio = Formula("example", sp.gamma(x) / sp.gamma(x + sp.S.Half))
    for backend in ("numpy", "math"):
        with pytest.raises(icl.OutOfDomain, match="leaves the range of float64"):
            numeric.compile(ratio, backend)(x=500)


def test_roots_of_polynomials_are_numbers():
    task = icl.LinearRegression(dim=5, local=(1, 1))
    best = icl.optimal_loss_constant(task, icl.SoftmaxAttention(heads=1))
    assert best.expr.has(sp.CRootOf)
    for backend in ("numpy", "math", "mpmath", "torch"):
        f = pickle.loads(pickle.dumps(numeric.compile(best, backend)))
        assert float(f()) == pytest.approx(float(best), rel=1e-15)
    with mpmath.workdps(60):
        value = numeric.compile(best, "mpmath")()
        assert abs(value - mpmath.mpf(str(best.expr.evalf(60)))) < mpmath.mpf(10) ** -58
    x, root = sp.Symbol("x", positive=True), best.minimizer[t]
    bounded = numeric.compile(Formula("example", x * root, validity=x > root))
    assert bounded(x=2) == pytest.approx(2 * float(root), rel=1e-15)
    with pytest.raises(icl.OutOfDomain):
        bounded(x=float(root) * (1 - 1e-9))


@pytest.mark.parametrize("backend", ["numpy", "math"])
@pytest.mark.parametrize(
    ("expr", "value"),
    [(sp.sqrt, -1), (sp.cbrt, -1), (sp.log, 0), (lambda x: 1 / (x - 2), 2), (sp.acos, 2)],
)
def test_what_is_no_finite_number_is_not_called_too_large(backend, expr, value):
    x = sp.Symbol("x")
    formula = Formula("example", expr(x))
    with pytest.raises(icl.OutOfDomain, match=f"is not a finite number at x = {value};"):
        numeric.compile(formula, backend)(x=value)
    assert np.isnan(numeric.compile(formula, backend, on_invalid="nan")(x=value))
    large = numeric.compile(Formula("example", sp.exp(x) * expr(x)), backend)
    if backend == "math" and expr is not sp.acos:
        with pytest.raises(icl.OutOfDomain, match="leaves the range of float64 at x = 800"):
            large(x=800)


def test_mpmath_returns_no_infinity():
    x = sp.Symbol("x")
    for expr, value in ((sp.log(x), 0), (1 / x, 0), (sp.gamma(x), -1)):
        with pytest.raises(icl.OutOfDomain, match="is not a finite number"):
            numeric.compile(Formula("example", expr), "mpmath")(x=value)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (Formula("example", t + sp.Symbol("t")), "use icltheory.symbols.t in both places"),
        (Formula("example", t, validity=sp.Symbol("t") < 1), "use icltheory.symbols.t"),
        (
            Formula("example", sp.Symbol("x") * sp.Symbol("x", real=True)),
            "two symbols called x.*use the same one",
        ),
        (Formula("example", 2 * sp.Function("F")(t)), r"contains F\(t\), a function without"),
    ],
)
def test_unclear_symbols_and_functions_are_refused(formula, message):
    with pytest.raises(icl.InvalidInput, match=message):
        numeric.compile(formula)
