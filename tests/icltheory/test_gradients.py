"""Matrix Wick calculus, the infinite-prompt risk in all blocks, and its gradients."""

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import icltheory as icl
from icltheory.gradients import block_symbols
from icltheory.laws.pairing import COLUMN, Chains
from icltheory.matrix_calculus import (
    Form,
    SymmetricSymbol,
    VectorSymbol,
    derivative,
    explicit,
    transposed,
)
from icltheory.symbols import b, d, noise_var

N = 2
A, B = sp.MatrixSymbol("A", N, N), sp.MatrixSymbol("B", N, N)
S = SymmetricSymbol("S", N, N)
p, q, w = (VectorSymbol(name, N) for name in "pqw")
COEFFICIENT = sp.Symbol("c", real=True)

# Tokens of the reference values.
REFERENCE = icl.LinearRegression(
    dim=2,
    noise_var=0.25,
    feature_cov=[[1, 0.3], [0.3, 0.8]],
    coef_cov=[[0.9, -0.2], [-0.2, 0.5]],
)
POINT = {"A": [[0.5, 0.1], [-0.2, 0.4]], "u": [0.2, -0.1], "v": [0.3, 0.1], "b": 1.2}


def entries(name, rows, columns=N):
    return sp.Matrix(rows, columns, sp.symbols(f"{name}:{rows * columns}", real=True))


def coordinates(*matrices):
    """Explicit matrices of symbols for some matrix symbols."""
    table = {}
    for x in matrices:
        value = entries(f"{x.name}_", *x.shape)
        table[x] = (value + value.T) / 2 if isinstance(x, SymmetricSymbol) else value
    return table


# -- Wick calculus -------------------------------------------------------------------------------

POLYNOMIALS = [
    Form(p.T * A * w) * Form(q.T * w),
    Form(w.T * A * w),
    Form(w.T * A * w) ** 2,
    Form(w.T * A * w) * Form(w.T * B * w) + COEFFICIENT * Form(p.T * w),
    Form(p.T * w) * Form(w.T * A * B.T * w) * Form(w.T * q) * sp.Trace(A * S),
    Form(p.T * (A * w + q)) ** 2 * Form(w.T * w),
    Form(p.T * w) ** 3,
]


@pytest.mark.parametrize("expr", POLYNOMIALS, ids=str)
def test_pairing_equals_wick_moments_in_coordinates(expr):
    paired = Chains.of(expr).expectation(w, S).to_expr()
    table = coordinates(A, B, S, p, q, w)
    brute = icl.wick_moment(explicit(expr, table), list(table[w]), [0, 0], table[S])
    ours = explicit(paired, table)
    assert sp.expand(ours - brute) == 0
    if brute != 0:
        assert sp.expand(1.03 * ours - brute) != 0


def test_a_sixth_moment_in_symbolic_dimension():
    size = sp.Symbol("d", integer=True, positive=True)
    z = VectorSymbol("w", size)
    cube = Chains.of(Form(z.T * z) ** 3).expectation(z, sp.Identity(size))
    assert sp.factor(cube.to_expr()) == size * (size + 2) * (size + 4)


def test_a_product_as_covariance():
    # w = A g, g ~ N(0, S): the covariance A S A' need not be a symbol.
    g = VectorSymbol("g", N)
    square = Chains.of(Form(w.T * B * w))
    assert square.expectation(w, A * S * A.T) == Chains.of(Form(g.T * A.T * B * A * g)).expectation(
        g, S
    )


def test_canonical_form_decides_equality():
    same = [
        (sp.Trace(A * S * B.T), sp.Trace(S * A.T * B)),
        (sp.Trace(A * B), sp.Trace(B.T * A.T)),
        (Form(p.T * A * S * q), Form(q.T * S * A.T * p)),
        (sp.Trace(p * q.T * A), Form(q.T * A * p)),
        (sp.Trace((A + S) * (A.T - S)), sp.Trace(A * A.T) - sp.Trace(S * S)),
        (sp.Trace(S.inverse() * A * S), sp.Trace(A)),
        (sp.Trace(A**3), sp.Trace(A * A * A)),
        (2 * Form(p.T * A * q) + COEFFICIENT, Form(p.T * 2 * A * q) + COEFFICIENT),
    ]
    for left, right in same:
        assert Chains.of(left) == Chains.of(right), (left, right)
        assert Chains.of(left) != Chains.of(right) * sp.Rational(103, 100)
    different = [
        (sp.Trace(A * A), sp.Trace(A * A.T)),
        (sp.Trace(A * B * S), sp.Trace(B * A * S)),
        (Form(p.T * A * q), Form(q.T * A * p)),
    ]
    for left, right in different:
        assert Chains.of(left) != Chains.of(right)
    assert Chains.of((A + A.T) * p * q.T) == Chains.of(A * p * q.T + A.T * p * q.T)
    assert Chains.of(A * p) != Chains.of(A.T * p)


def test_what_has_no_canonical_form_is_refused():
    with pytest.raises(icl.InvalidInput, match="no polynomial in traces and forms"):
        Chains.of(sp.exp(sp.Trace(A)))
    with pytest.raises(icl.InvalidInput, match="cannot be put in canonical form"):
        Chains.of(sp.Trace(A * sp.HadamardProduct(A, B)))
    with pytest.raises(icl.InvalidInput, match="1 x 1"):
        Form(A)


DIFFERENTIABLE = [
    sp.Trace(A * S * A.T * B),
    Form(p.T * A * S * A * q) * sp.Trace(A) ** 2,
    COEFFICIENT**2 * Form((A * p + COEFFICIENT * q).T * S * (A * p + COEFFICIENT * q)),
    sp.Trace(A.T * (p * q.T * A - sp.Identity(N)) * A),
    sp.Trace(A**2 * B),
]


@pytest.mark.parametrize("expr", DIFFERENTIABLE, ids=str)
def test_derivatives_agree_with_coordinates_and_with_the_canonical_form(expr):
    table = coordinates(A, B, S, p, q)
    scalar = explicit(expr, table)
    for variable in (A, p, COEFFICIENT):
        ours = derivative(expr, variable)
        if variable == COEFFICIENT:
            assert sp.expand(explicit(ours, table) - sp.diff(scalar, variable)) == 0
        else:
            brute = table[variable].applyfunc(lambda entry: sp.diff(scalar, entry))
            assert (explicit(ours, table) - brute).applyfunc(sp.expand).is_zero_matrix
            if not brute.is_zero_matrix:
                changed = explicit(ours, table) * sp.Rational(103, 100) - brute
                assert not changed.applyfunc(sp.expand).is_zero_matrix
        assert Chains.of(expr).derivative(variable) == Chains.of(ours)


def test_derivatives_beyond_polynomials():
    table = {A: sp.Matrix([[2, 1], [0, 3]]), B: sp.Matrix([[1, 1], [2, 5]])}
    x = sp.Symbol("x", real=True)
    inverse = explicit(derivative(sp.Trace(A.inverse() * B), A), table)
    moved = [
        sp.diff((table[B] * (table[A] + x * e).inv()).trace(), x).subs(x, 0)
        for e in map(sp.Matrix, ([[1, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [1, 0]]))
    ]
    assert [inverse[0, 0], inverse[0, 1], inverse[1, 0]] == moved
    nested = derivative(sp.exp(COEFFICIENT * sp.Trace(A)), A)
    assert nested == sp.MatMul(COEFFICIENT * sp.exp(COEFFICIENT * sp.Trace(A)), sp.Identity(N))
    path = sp.MatMul(COEFFICIENT**2, A, sp.MatAdd(sp.MatMul(COEFFICIENT, B), A))
    slope = explicit(derivative(path, COEFFICIENT), table)
    assert slope.applyfunc(sp.expand) == explicit(path, table).diff(COEFFICIENT).applyfunc(
        sp.expand
    )


def test_refused_derivatives():
    with pytest.raises(icl.InvalidInput, match="four indices"):
        derivative(A * B, A)
    with pytest.raises(icl.InvalidInput, match="symmetric"):
        derivative(sp.Trace(A * S), S)


# -- the infinite-prompt risk --------------------------------------------------------------------


def values_at_reference(risk):
    gradients = {name: risk.diff(name) for name in "Auvb"}
    out: dict[str, Any] = {"risk": float(risk.subs(**POINT))}
    for name, formula in gradients.items():
        value = formula.subs(**POINT).expr
        matrix = isinstance(value, sp.MatrixBase)
        out[name] = np.array(value.tolist(), dtype=float).squeeze() if matrix else float(value)
    return out


def test_reference_values():
    # The reference risk is half of ours, its rows 14 and 15.
    got = values_at_reference(icl.infinite_prompt_risk(REFERENCE))
    expected = {
        "risk": 0.292884096,
        "b": 0.01426516,
        "u": [1.08251924, 0.10815096],
        "A": [[-0.1804710, 0.1200714], [-0.0315278, -0.1692694]],
        "v": [0.1555588, 0.0227236],
    }
    for name, value in expected.items():
        np.testing.assert_allclose(np.array(got[name]) / 2, value, atol=1.01e-7, rtol=0)
        assert not np.allclose(1.03 * np.array(got[name]) / 2, value, atol=1.01e-7, rtol=0)


def test_risk_is_the_definition_in_coordinates():
    """E (yhat - w.x)^2 from Gamma_w, by Stein's recursion over explicit coordinates, d = 2."""
    query = [[sp.Rational(7, 5), sp.Rational(1, 5)], [sp.Rational(1, 5), sp.Rational(3, 5)]]
    blocks = block_symbols(2)
    table = coordinates(blocks["A"], blocks["u"], blocks["v"])
    a, u, v = (table[blocks[name]] for name in "Auv")
    x, coefs = entries("x_", 2, 1), entries("w_", 2, 1)
    sigma, s = REFERENCE.feature_cov.to_matrix(), REFERENCE.coef_cov.to_matrix()
    gamma = sp.Matrix(
        sp.BlockMatrix(
            [
                [sigma, sigma * coefs],
                [coefs.T * sigma, coefs.T * sigma * coefs + sp.Matrix([[REFERENCE.noise_var]])],
            ]
        )
    )
    output = (sp.Matrix([*v, b]).T * gamma * sp.Matrix([*(a * x), (u.T * x)[0]]))[0]
    error = sp.expand(output - (coefs.T * x)[0])
    inner = icl.wick_moment(error**2, list(coefs), [0, 0], s)
    brute = icl.wick_moment(inner, list(x), [0, 0], query)
    risk = icl.infinite_prompt_risk(REFERENCE, query_cov=query)
    ours = risk.subs(A=a, u=list(u), v=list(v)).expr
    assert sp.expand(ours - brute) == 0
    assert sp.expand(ours * sp.Rational(103, 100) - brute) != 0
    for name, variable in (("A", a), ("u", u), ("v", v)):
        gradient = risk.diff(name).subs(A=a, u=list(u), v=list(v))
        assert gradient.expr.applyfunc(sp.expand) == variable.applyfunc(
            lambda entry: sp.expand(sp.diff(brute, entry))
        )


def test_symbolic_dimension_equals_explicit_matrices():
    general = icl.infinite_prompt_risk(icl.LinearRegression(dim=d, noise_var=noise_var))
    three = icl.infinite_prompt_risk(
        icl.LinearRegression(
            dim=3, noise_var=noise_var, feature_cov=[1, 1, 1], coef_cov=[sp.Rational(1, 3)] * 3
        )
    )
    assert Chains.of(general.subs(d=3).expr) == Chains.of(three.expr)
    for name in "Auvb":
        assert Chains.of(general.diff(name).subs(d=3).expr) == Chains.of(three.diff(name).expr)
    scaled = icl.LinearRegression(
        dim=d, noise_var=noise_var, feature_cov=sp.Symbol("c"), coef_cov=2
    )
    matrix = icl.LinearRegression(
        dim=2, noise_var=noise_var, feature_cov=[[3, 0], [0, 3]], coef_cov=[[2, 0], [0, 2]]
    )
    assert Chains.of(icl.infinite_prompt_risk(scaled).subs(d=2, c=3).expr) == Chains.of(
        icl.infinite_prompt_risk(matrix).expr
    )


def test_agrees_with_the_risk_of_consistent_heads():
    """u = v = 0 is the limit of softmax heads, derived elsewhere in another way."""
    task = icl.LinearRegression(dim=2, noise_var=0.5, feature_cov=[[2, 1], [1, 2]], coef_cov=[1, 3])
    score = [[0.3, 0.2], [-0.1, 0.7]]
    attention = icl.SoftmaxAttention(scores=[score], values=[1.3])
    expected = icl.limit_risk(task, attention)
    # There the score is x_query'A x_i, here x_i'A x_query.
    risk = icl.infinite_prompt_risk(task).subs(A=np.transpose(score), u=[0, 0], v=[0, 0], b=1.3)
    assert risk.expr == expected.expr


def test_zero_set():
    """Zero at b Sigma A = I, u = v = 0; positive beside it; tends to zero along the escape."""
    risk = icl.infinite_prompt_risk(REFERENCE)
    inverse = REFERENCE.feature_cov.inverse().to_matrix()
    zero = [0, 0]
    for value in (sp.Rational(7, 5), -2):
        assert risk.subs(A=inverse / value, u=zero, v=zero, b=value).expr == 0
        for name, formula in icl.risk_gradients(REFERENCE).items():
            got = formula.subs(A=inverse / value, u=zero, v=zero, b=value).expr
            assert not any(got) if isinstance(got, sp.MatrixBase) else got == 0, name
        assert risk.subs(A=inverse / value * 1.03, u=zero, v=zero, b=value).expr > 0
        assert risk.subs(A=inverse / value, u=zero, v=[1, 0], b=value).expr > 0
        assert risk.subs(A=inverse / value, u=[0, 1], v=zero, b=value).expr > 0
    q0 = REFERENCE.signal + REFERENCE.noise_var
    product = REFERENCE.feature_cov @ REFERENCE.coef_cov
    t2 = (product @ product).trace()
    for length in (1, 10, 1000):
        v = sp.Matrix([length, -2 * length])
        norm = (v.T * REFERENCE.feature_cov.to_matrix() * v)[0]
        u = v / norm
        got = risk.subs(A=inverse - v * u.T, u=list(u), v=list(v), b=1).expr
        assert got == (q0**2 + 2 * t2) / norm
    # In one dimension there is a second zero: u v Sigma = 1 without score or label value.
    one = icl.infinite_prompt_risk(icl.LinearRegression(dim=1, noise_var=1, feature_cov=2))
    assert one.subs(A=[[0]], u=[sp.Rational(1, 6)], v=[3], b=0).expr == 0
    assert one.subs(A=[[0]], u=[sp.Rational(1, 5)], v=[3], b=0).expr > 0


def test_balance_of_the_gradients():
    """The risk is invariant under (V, U) -> (c V, U / c), so <V, gV> = <U, gU>; exactly."""
    risk = icl.infinite_prompt_risk(REFERENCE)
    x = block_symbols(2)
    g = {name: f.expr for name, f in icl.risk_gradients(REFERENCE).items()}
    left = Form(x["v"].T * g["v"]) + b * g["b"]
    right = sp.Trace(x["A"].T * g["A"]) + Form(x["u"].T * g["u"])
    assert Chains.of(left) == Chains.of(right)
    assert Chains.of(left) != Chains.of(right * sp.Rational(103, 100))
    assert Chains.of(risk.diff("A").expr) == Chains.of(g["A"])


def test_label_noise_enters_through_u_only():
    risk = icl.infinite_prompt_risk(icl.LinearRegression(dim=2, noise_var=noise_var))
    slope = risk.diff("noise_var")
    assert slope.subs(A=[[1, 2], [3, 4]], u=[0, 0], v=[1, 1], b=2).expr == 0
    assert slope.subs(A=[[1, 2], [3, 4]], u=[1, 0], v=[1, 1], b=2, noise_var=1).expr != 0


def test_derivative_in_a_symbol_of_the_covariance():
    rho = sp.Symbol("rho", real=True)
    moving = icl.LinearRegression(dim=2, feature_cov=[[1, rho], [rho, 1]], coef_cov=[1, 2])
    risk = icl.infinite_prompt_risk(moving)
    assert [info.name for info in risk.symbols] == ["A", "b", "rho", "u", "v"]
    slope = risk.diff("rho").subs(**POINT)
    expected = sp.diff(risk.subs(**POINT).expr, rho)
    assert sp.cancel(slope.expr - expected) == 0
    assert expected != 0


def test_formula_of_matrices():
    risk = icl.infinite_prompt_risk(REFERENCE)
    assert pickle.loads(pickle.dumps(risk)) == risk
    assert hash(risk) == hash(icl.infinite_prompt_risk(REFERENCE))
    assert r"\Sigma" in risk._repr_latex_()
    assert r"c_{0}^{T} \Sigma c_{0}" in risk.latex()
    assert "c_0.T*Sigma*c_0" in str(risk)
    assert "c_0" not in {s.name for s in risk.free_symbols}
    meanings = {info.name: info.domain for info in risk.symbols}
    assert meanings["A"] == "real 2 x 2"
    assert meanings["u"] == "real vector of length 2"
    assert len(risk.steps) == 4
    assert "Isserlis" in "".join(s.title for s in risk.steps) or "pairing" in risk.explain()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: icl.infinite_prompt_risk(REFERENCE, query_cov=[[1, 2], [0, 1]]), "not symmetric"),
        (lambda: icl.infinite_prompt_risk(REFERENCE, query_cov=[1, -1]), "semi-definite"),
        (lambda: icl.infinite_prompt_risk(REFERENCE, query_cov=[1, 1, 1]), "needs 2"),
        (lambda: icl.infinite_prompt_risk(REFERENCE, query_cov=0), "query_cov is zero"),
        (lambda: icl.infinite_prompt_risk(icl.LinearRegression(dim=2, noise_var=b)), "rename"),
        (lambda: icl.infinite_prompt_risk(REFERENCE).subs(A=[[1, 2], [3, 4]]), "no value for u, v"),
        (lambda: icl.infinite_prompt_risk(REFERENCE).subs({**POINT, "u": [1, 2, 3]}), "3 x 1"),
        (lambda: icl.infinite_prompt_risk(REFERENCE).diff("Sigma"), "its symbols: A, b, u, v"),
        (lambda: icl.output_gradients(icl.Rademacher(dim=2)), "only a Gaussian law"),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()


@settings(max_examples=15, deadline=None)
@given(
    dim=st.integers(1, 4),
    seed=st.integers(0, 10**6),
    singular=st.booleans(),
    same_query=st.booleans(),
)
def test_any_task_against_the_chaos_expansion(dim, seed, singular, same_query):
    """Random covariances, exact rationals: the risk from means over a design that integrates
    polynomials of degree four in each Gaussian coordinate exactly."""
    rng = np.random.default_rng(seed)

    def cov(rank):
        root = rng.integers(-2, 3, (dim, rank))
        return root @ root.T

    feature = cov(dim) + np.eye(dim, dtype=int)
    coef = cov(1) if singular else cov(dim)
    if not coef.any():
        coef = np.eye(dim, dtype=int)
    query = None if same_query else cov(dim) + np.diag([1, *[0] * (dim - 1)])
    noise = sp.Rational(int(rng.integers(0, 5)), 4)
    task = icl.LinearRegression(dim=dim, noise_var=noise, feature_cov=feature, coef_cov=coef)
    point = {
        "A": rng.integers(-2, 3, (dim, dim)),
        "u": rng.integers(-2, 3, dim),
        "v": rng.integers(-2, 3, dim),
        "b": int(rng.integers(-2, 3)),
    }
    got = icl.infinite_prompt_risk(task, query_cov=query).subs(**point).expr
    a, u, v, scale = (np.array(point[name], dtype=float) for name in "Auvb")
    values, vectors = np.linalg.eigh(coef)
    root = vectors * np.sqrt(np.maximum(values, 0))
    nodes, weights = np.array([-np.sqrt(3), 0, np.sqrt(3)]), np.array([1 / 6, 2 / 3, 1 / 6])
    query = feature if query is None else query
    total = 0.0
    for index in itertools.product(range(3), repeat=dim):
        theta = root @ nodes[list(index)]
        design = np.vstack([np.eye(dim), theta])
        gamma = design @ feature @ design.T
        gamma[-1, -1] += float(noise)
        slope = np.append(v, scale) @ gamma @ np.vstack([a, u[None]]) - theta
        total += np.prod(weights[list(index)]) * (slope @ query @ slope)
    np.testing.assert_allclose(float(got), total, rtol=1e-9, atol=1e-9)


# -- gradients of an output ----------------------------------------------------------------------


def test_output_gradients_are_the_chain_rule_for_any_law():
    """Rademacher tokens in coordinates: r'V tanh(c U z), differentiated entry by entry."""
    formulas = icl.output_gradients()
    law = icl.Rademacher(dim=2)
    key, query, value = entries("k_", 1), entries("q_", 1), entries("s_", 2)
    z, r, c = entries("z_", 2, 1), entries("r_", 2, 1), sp.Symbol("score_scale", real=True)
    dual = c * key.T * query * z
    scalar = (r.T * value * icl.limit_output(law, list(dual)).expr)[0]
    known = {
        "m1": icl.limit_output(law, list(dual)).expr,
        "C": icl.limit_jacobian(law, list(dual)).expr,
        "U": key.T * query,
        "V": value,
        "K": key,
        "Q": query,
        "z": z,
        "r": r,
    }
    rng = np.random.default_rng(1)
    free = sorted(scalar.free_symbols, key=str)
    at = {x: sp.Rational(int(rng.integers(-9, 10)), 10) for x in free}
    for name, variable in (("V", value), ("K", key), ("Q", query), ("z", z)):
        used = {info.name: info.symbol for info in formulas[name].symbols}
        sized = formulas[name].subs(
            {
                s: {"d": 2, "d_k": 1, "d_v": 2}[n]
                for n, s in used.items()
                if n in ("d", "d_k", "d_v")
            }
        )
        ours = sized.subs({n: x for n, x in known.items() if n in used}).expr
        brute = variable.applyfunc(lambda entry: sp.diff(scalar, entry))
        got, want = (np.array(x.subs(at).evalf().tolist(), dtype=float) for x in (ours, brute))
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)
        assert not np.allclose(1.03 * got, want, rtol=1e-6)


def test_output_gradients_of_a_gaussian_law_in_closed_form():
    law = icl.Gaussian(mean=[1, -1], cov=[[2, 1], [1, 3]])
    formulas = icl.output_gradients(law)
    sizes = {"d_k": 1, "d_v": 1}
    x = {name: entries(f"{name}_", *shape) for name, shape in (("U", (2, 2)), ("V", (1, 2)))}
    x |= {"z": entries("z_", 2, 1), "r": entries("r_", 1, 1), "K": entries("k_", 1)}
    x |= {"Q": entries("q_", 1)}
    c = sp.Symbol("score_scale", real=True)

    def output(dual):
        return (x["r"].T * x["V"] * icl.limit_output(law, list(dual)).expr)[0]

    merged, separate = output(c * x["U"] * x["z"]), output(c * x["K"].T * x["Q"] * x["z"])
    for name, scalar in (("U", merged), ("V", merged), ("z", merged), ("K", separate)):
        names = {info.name for info in formulas[name].symbols}
        sized = formulas[name].subs({k: n for k, n in sizes.items() if k in names})
        ours = sized.subs({k: m for k, m in x.items() if k in names}).expr
        brute = x[name].applyfunc(lambda entry, scalar=scalar: sp.diff(scalar, entry))
        assert (ours - brute).applyfunc(sp.expand).is_zero_matrix
    assert "Gamma" in str(formulas["K"])


def test_markers_and_transposes():
    x = Chains.of(Form(p.T * A * w)).derivative(p).derivative(w, COLUMN)
    assert x == Chains.of(A)
    assert transposed(A * p * q.T) == q * p.T * A.T
    assert transposed(S) == S
    assert Chains.of(transposed(sp.MatMul(A, sp.MatAdd(B, S)))) == Chains.of(B.T * A.T + S * A.T)
