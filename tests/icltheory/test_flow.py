"""Gradient flow, symbolic: equations, symmetries, reductions, closed forms, limits, finite prompts."""

import pickle

import mpmath
import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from icltheory.commuting import A_EIGENVALUE
from icltheory.convergence import balance_root, level
from icltheory.flow import BLOCKS
from icltheory.flow_symmetries import scaling_symmetries
from icltheory.gradients import block_symbols
from icltheory.laws.pairing import Chains
from icltheory.matrix_calculus import Form, explicit, product, trace, transposed
from icltheory.symbols import b, d, n, noise_var
from icltheory.trajectories import _check, _pieces, a0, b0, time

GENERAL = icl.LinearRegression(dim=d, noise_var=noise_var, coef_cov=1)
SIGMA = [[1, 0.3], [0.3, 0.8]]
COEFS = [[0.9, -0.2], [-0.2, 0.5]]
TASK = icl.LinearRegression(dim=2, noise_var=0.25, feature_cov=SIGMA, coef_cov=COEFS)
START = {"A": [[0.5, 0.1], [-0.2, 0.4]], "u": [0.2, -0.1], "v": [0.3, 0.1], "b": 1.2}


def test_velocities_are_minus_the_published_gradients_of_half_the_risk():
    flow = icl.gradient_flow(TASK, blocks=BLOCKS)
    reference = {
        "A": [[-0.1804710, 0.1200714], [-0.0315278, -0.1692694]],
        "u": [[1.08251924], [0.10815096]],
        "v": [[0.1555588], [0.0227236]],
        "b": 0.01426516,
    }
    assert abs(float(flow.risk.subs(START)) / 2 - 0.292884096) < 1e-9
    for name, expected in reference.items():
        value = flow.velocities[name].subs(
            {k: START[k] for k in flow.variables if _uses(flow, name, k)}
        )
        got = np.array(sp.Matrix([[value.expr]]) if name == "b" else value.expr, dtype=float)
        np.testing.assert_allclose(
            -got, np.array([[expected]]) if name == "b" else expected, atol=1.1e-7
        )


def _uses(flow, name, variable):
    return variable in {info.name for info in flow.velocities[name].symbols}


def canonical(expr):
    return Chains.of(expr)


@pytest.mark.parametrize("attention", [None, icl.LinearAttention()])
@pytest.mark.parametrize("task", [GENERAL, TASK])
def test_balance_is_conserved_and_a_wrong_one_is_not(task, attention):
    flow = icl.gradient_flow(
        task, blocks=BLOCKS, attention=attention, prompt_length=n if attention else None
    )
    x = block_symbols(task.dim)
    velocity = {name: f.expr for name, f in flow.velocity}

    def change(weight):
        return canonical(
            2 * b * velocity["b"]
            + 2 * Form(x["v"].T * velocity["v"])
            - 2 * Form(x["u"].T * velocity["u"])
            - 2 * weight * trace(product(x["A"].T, velocity["A"]))
        )

    [balance] = flow.conserved
    assert canonical(
        balance.expr - b**2 - Form(x["v"].T * x["v"]) + Form(x["u"].T * x["u"])
    ) == canonical(-sp.Trace(x["A"].T * x["A"]))
    assert change(1).is_zero
    assert not change(sp.Rational(103, 100)).is_zero
    assert flow.invariant_sets == (("A", "b"), ("u", "v"))


def test_scaling_symmetries_follow_from_the_degrees():
    x = block_symbols(d)
    symmetric = icl.gradient_flow(GENERAL).risk
    assert scaling_symmetries(symmetric, {"A": x["A"], "b": b}) == [{"A": -1, "b": 1}]
    broken = icl.Formula("not symmetric", symmetric.expr + b**4)
    assert scaling_symmetries(broken, {"A": x["A"], "b": b}) == []


@pytest.mark.parametrize("blocks", [("A", "b"), BLOCKS])
def test_keys_and_queries_follow_the_chain_rule(blocks):
    merged = icl.gradient_flow(TASK, blocks=blocks)
    factored = icl.gradient_flow(TASK, blocks=blocks, parametrisation="factored", key_dim=3)
    rng = np.random.default_rng(1)
    shapes = {"K": (3, 2), "Q": (3, 2), "k": (3, 1), "v": (2, 1), "b": ()}
    values = {
        x: sp.Matrix(rng.integers(-9, 9, shapes[x])) / 10 if shapes[x] else sp.Rational(7, 5)
        for x in factored.variables
    }
    K, Q = values["K"], values["Q"]
    inner = {"A": K.T * Q, "v": values.get("v"), "b": values["b"]}
    if "k" in values:
        inner["u"] = Q.T * values["k"]

    def at(flow, name, table):
        formula = flow.velocities[name]
        by_name = {s: table[s.name] for s in formula.free_symbols}
        return explicit(formula.expr, {**dict(formula.where), **by_name})

    gA = at(merged, "A", inner)
    gu = at(merged, "u", inner) if "u" in inner else sp.zeros(2, 1)
    k = values.get("k", sp.zeros(3, 1))
    assert at(factored, "K", values) == Q * gA.T
    assert at(factored, "Q", values) == K * gA + k * gu.T
    assert at(factored, "b", values) == at(merged, "b", inner)
    if "k" in values:
        assert at(factored, "k", values) == Q * gu
    gram, _ = factored.conserved
    assert str(gram.expr) in ("K*K.T - Q*Q.T", "K*K.T - Q*Q.T + k*k.T")


# -- linear attention at a finite prompt ---------------------------------------------------------


def test_linear_attention_risk_against_explicit_wick_moments():
    """d = 1, n = 2, all blocks: tokens, coefficient, query and noise as explicit Gaussian variables."""
    x1, x2, w, x, e1, e2 = sp.symbols("x1 x2 w x e1 e2")
    A, u, v = sp.symbols("A0 u0 v0")
    sig, s, q, noise = (sp.Rational(*r) for r in ((6, 5), (3, 4), (2, 5), (1, 3)))
    task = icl.LinearRegression(dim=1, noise_var=noise, feature_cov=sig, coef_cov=s)
    labels = [(x1, w * x1 + e1), (x2, w * x2 + e2)]
    prediction = sum((v * z + b * y) * (z * A * x + y * u * x) for z, y in labels) / 2
    cov = sp.diag(sig, sig, s, q, noise, noise)
    exact = icl.wick_moment(
        sp.expand((prediction - w * x) ** 2), [x1, x2, w, x, e1, e2], [0] * 6, cov
    )
    risk = icl.linear_attention_risk(task, 2, query_cov=q)
    ours = explicit(
        risk.expr,
        {
            y: sp.Matrix([[z]])
            for y, z in zip(list(block_symbols(1).values())[:3], (A, u, v), strict=True)
        },
    )
    assert sp.expand(ours - exact) == 0
    assert sp.expand(ours * sp.Rational(102, 100) - exact) != 0


def test_linear_attention_risk_tends_to_the_infinite_prompt():
    finite = Chains.of(icl.linear_attention_risk(TASK, n).expr)
    limit = finite.map_coefficients(lambda c: sp.limit(c, n, sp.oo))
    infinite = icl.infinite_prompt_risk(TASK)
    signal = TASK.feature_cov @ TASK.coef_cov

    def constant(word):
        return signal.trace() if {m.name for m, _ in word} == {"S", "Sigma"} else None

    expected = Chains.of(infinite.expr).evaluate_loops(constant)
    assert limit == expected
    assert finite != expected


def test_linear_attention_flow_is_the_published_one():
    """A' = b Sigma^2 - b^2 Sigma Gamma A Sigma, Gamma = (1 + 1/n) Sigma + (tr Sigma + noise)/n I."""
    task = icl.LinearRegression(dim=2, noise_var=noise_var, feature_cov=SIGMA, coef_cov=1)
    flow = icl.gradient_flow(task, attention=icl.LinearAttention(), prompt_length=n)
    sigma = sp.Matrix(2, 2, lambda i, j: sp.Rational(str(SIGMA[i][j])))
    gamma = (1 + 1 / n) * sigma + (sigma.trace() + noise_var) / n * sp.eye(2)
    A = sp.Matrix(2, 2, sp.symbols("a1:5"))
    at = {block_symbols(2)["A"]: A}
    velocity = flow.velocities["A"]
    got = explicit(velocity.expr, {**dict(velocity.where), **at})
    typed = b * sigma**2 - b**2 * sigma * gamma * A * sigma
    assert (got - typed).applyfunc(sp.expand) == sp.zeros(2)
    assert flow.reduced().velocity_a.subs({A_EIGENVALUE: 0}) != 0


# -- eigenvalue flow -----------------------------------------------------------------------------


def test_eigenvalue_flow_and_decay():
    lam_i, lam_j, s_i, nu_i, nu_j = sp.symbols("lambda_i lambda_j s_i nu_i nu_j", positive=True)
    a = A_EIGENVALUE
    plain = icl.commuting_flow(icl.LinearRegression(dim=2, feature_cov=SIGMA, coef_cov=1))
    assert sp.expand(plain.velocity_a - b * lam_i**2 * (1 - b * lam_i * a)) == 0
    assert sp.expand(plain.velocity_b - lam_i**2 * a * (1 - b * lam_i * a)) == 0
    assert sp.expand(plain.decay - b**2 * lam_i**2 * lam_j) == 0
    full = icl.commuting_flow(
        icl.LinearRegression(dim=2, feature_cov=[1, 2], coef_cov=[3, 1]), query_cov=[5, 4]
    )
    assert sp.expand(full.velocity_a - b * lam_i * s_i * nu_i * (1 - b * lam_i * a)) == 0
    assert sp.expand(full.decay - b**2 * lam_i**2 * s_i * nu_j) == 0
    # The velocities descend half the reduced risk.
    assert sp.expand(full.velocity_a + sp.diff(full.risk, a) / 2) == 0
    assert sp.expand(full.velocity_b + sp.diff(full.risk, b) / 2) == 0
    with pytest.raises(icl.InvalidInput, match="do not commute"):
        icl.commuting_flow(TASK)


def test_decay_is_the_response_of_an_entry_off_the_diagonal():
    task = icl.LinearRegression(dim=2, feature_cov=[1, 2], coef_cov=[3, 1])
    flow = icl.gradient_flow(task, query_cov=[5, 4])
    small = sp.Symbol("small")
    at = {block_symbols(2)["A"]: sp.Matrix([[2, small], [0, 3]])}
    velocity = flow.velocities["A"]
    value = explicit(velocity.expr, {**dict(velocity.where), **at})
    table = {sp.Symbol(k, positive=True): x for k, x in (("lambda_i", 1), ("s_i", 3), ("nu_j", 4))}
    assert sp.expand(value[0, 1] + flow.reduced().decay.subs(table) * small) == 0
    assert value[1, 0] == 0


# -- closed forms --------------------------------------------------------------------------------

mpmath.mp.dps = 15


def reference_unbalanced(t, a, value, dim, lam):
    """The trajectory as published for Sigma = lam I and coefficients N(0, I), any Delta != 0."""
    with mpmath.workdps(40):
        a, value, lam = mpmath.mpf(a), mpmath.mpf(value), mpmath.mpf(lam)
        root = mpmath.sqrt(dim)
        delta = value**2 - dim * a**2
        size = abs(delta)
        k = lam * size / (2 * root)
        r = mpmath.sqrt(1 + k**2)
        high, low = (1 + r) / k, (1 - r) / k
        y0 = mpmath.exp(mpmath.asinh(2 * root * a * value / size))
        W = (y0 - low) / (high - y0) * mpmath.exp(2 * root * lam**2 * r * t)
        y = (low + high * W) / (1 + W)
        return size * (y - 1 / y) / (4 * root)


@pytest.mark.parametrize(
    ("a", "value"), [(0.2, 0.9), (0.6, 0.1), (-0.3, 0.9), (0.3, -0.2), (-0.1, -1.5), (2, 3)]
)
def test_closed_form_against_the_published_formula(a, value):
    form = icl.closed_form(icl.LinearRegression(dim=4, feature_cov=1.3, coef_cov=1))
    for t in (sp.Rational(1, 10), sp.Rational(1, 2), 3):
        ours = form.product.subs(a0=a, b0=value, time=t).evalf(30)
        typed = reference_unbalanced(
            mpmath.mpf(t.p) / t.q if t != 3 else 3, str(a), str(value), 4, "1.3"
        )
        assert abs(ours - typed) < 1e-15 * max(1, abs(typed))
        assert abs(ours * sp.Rational(102, 100) - typed) > 1e-4 * abs(typed)


def test_closed_form_solves_the_flow_symbolically_and_a_wrong_one_does_not():
    a, value, square, residual = _pieces()
    _check(a, value, square, residual)
    for wrong in (
        (a * sp.Rational(101, 100), value, square, residual),
        (a, value, square * (1 + sp.Symbol("q", positive=True) / 100), residual),
        (a, value, square, residual**2),
    ):
        with pytest.raises(AssertionError, match="fails its check"):
            _check(*wrong)


def test_closed_form_differentiated_at_random_points_in_high_precision():
    form = icl.closed_form(GENERAL, query_cov=sp.Rational(1, 3))
    at = {d: 7, a0: sp.Rational(-1, 7), b0: sp.Rational(5, 4)}
    flow = icl.commuting_flow(GENERAL, query_cov=sp.Rational(1, 3))
    velocity, velocity_b, risk = (f.subs({d: 7}) for f in flow.isotropic())
    for t in (sp.Rational(1, 9), 2):
        point = {**at, time: t}
        here = {
            A_EIGENVALUE: form.a.expr.subs(point).evalf(40),
            b: form.b.expr.subs(point).evalf(40),
        }
        for path, slope in ((form.a, velocity), (form.b, velocity_b)):
            change = sp.diff(path.expr, time).subs(point).evalf(40)
            assert abs(change - slope.subs(here)) < 1e-35
        assert abs(form.risk.expr.subs(point).evalf(40) - risk.subs(here)) < 1e-35
        assert (
            abs(form.residual.expr.subs(point).evalf(40) - (1 - here[b] * here[A_EIGENVALUE]))
            < 1e-35
        )


def test_time_slows_by_the_coefficient_variance():
    unit = icl.closed_form(icl.LinearRegression(dim=5, coef_cov=1))
    small = icl.closed_form(icl.LinearRegression(dim=5))
    values = {"a0": 0.1, "b0": 0.4}
    x = unit.b.subs(**values, time=2).evalf(20)
    assert abs(x - small.b.subs(**values, time=10).evalf(20)) < 1e-18


def test_start_on_the_stable_manifold_goes_to_the_saddle():
    form = icl.closed_form(icl.LinearRegression(dim=4, coef_cov=1))
    at = {"a0": -0.5, "b0": 1}
    early, late = (float(form.b.subs(**at, time=t)) for t in (1, 20))
    # On the manifold b' = -sqrt(d) b (1 + b^2/sqrt(d)): a logistic equation in b^2.
    exact = float(mpmath.odefun(lambda t, y: [-2 * y[0] * (1 + y[0] ** 2 / 2)], 0, [1])(1)[0])
    assert abs(early - exact) < 1e-9
    assert 0 < late < 1e-16


def test_tied_time_is_the_integral_of_one_over_the_velocity():
    formula = icl.tied_time(icl.LinearRegression(dim=4, feature_cov=1.5, coef_cov=0.7))
    lam, c, root = 1.5, 0.7, 2.0
    with mpmath.workdps(25):
        for start, end in ((0.05, 0.6), (0.3, 0.65), (2, 0.9)):
            integral = mpmath.quad(
                lambda x: 1 / (c * lam**2 * root * x**2 * (1 - lam * root * x**3)),
                mpmath.linspace(start, end, 20),
            )
            assert abs(float(formula.subs(kappa0=start, kappa=end)) - integral) < 1e-11 * abs(
                integral
            )
    with pytest.raises(icl.OutOfDomain):
        formula.subs(kappa0=0.1, kappa=2)
    with pytest.raises(icl.InvalidInput, match="no multiple of the identity"):
        icl.tied_time(icl.LinearRegression(dim=2, feature_cov=[1, 2]))


# -- limits and rates ----------------------------------------------------------------------------


def test_limit_is_a_zero_of_the_risk_on_the_level_of_the_balance():
    start = {"A": [[0.3, 0.1], [-0.2, 0.2]], "b": 0.7}
    end = icl.limit_point(TASK, start)
    A, value = end["A"].expr, end["b"].expr
    sigma = TASK.feature_cov.to_matrix()
    assert (sigma * A * value).applyfunc(sp.nsimplify) == sp.eye(2)
    balance = value**2 - sum(x**2 for x in A)
    assert abs(sp.N(balance - (sp.Rational(49, 100) - sp.Rational(18, 100)), 30)) < 1e-28


@pytest.mark.parametrize(("delta", "reference"), [(0, 1.51370005), (1, 1.68677440)])
def test_reference_limits(delta, reference):
    task = icl.LinearRegression(dim=3, feature_cov=[0.5, 1, 2], coef_cov=1)
    start = {"A": [0.1, 0, 0.2], "b": sp.sqrt(sp.Rational(5, 100) + delta)}
    assert abs(float(icl.limit_point(task, start)["b"]) - reference) < 1e-8
    assert abs(1.01 * float(icl.limit_point(task, start)["b"]) - reference) > 1e-3


def test_isotropic_limits_agree_with_the_closed_form_for_every_sign():
    task = icl.LinearRegression(dim=d, feature_cov=sp.Rational(3, 2))
    form = icl.closed_form(task)
    general = icl.limit_point(task, {"A": a0, "b": b0})
    for x, y in ((0.3, 0.2), (-0.1, 0.9), (0.8, -0.2), (-0.5, -0.5), (0, 1), (1, 0)):
        at = {"d": 5, "a0": x, "b0": y}
        value = general["b"].subs(**at).evalf(20)
        assert abs(value - form.limit_b.subs(**at).evalf(20)) < 1e-15
        scale = form.limit_a.subs(**at).evalf(20)
        assert abs(value * scale - sp.Rational(2, 3)) < 1e-15
    with pytest.raises(icl.OutOfDomain):
        general["b"].subs(d=4, a0=-0.5, b0=1)


def test_starts_that_are_not_covered_are_refused():
    task = icl.LinearRegression(dim=2, feature_cov=[1, 2], coef_cov=1)
    for start in ({"A": [1, -1], "b": -1}, {"A": 0, "b": 0}, {"A": [-1, -1], "b": 1}):
        with pytest.raises(icl.InvalidInput, match="saddle"):
            icl.limit_point(task, start)
    with pytest.raises(icl.InvalidInput, match="saddle"):
        icl.limit_point(icl.LinearRegression(dim=4), {"A": -0.5, "b": 1})
    with pytest.raises(icl.InvalidInput, match="singular"):
        icl.limit_point(icl.LinearRegression(dim=2, coef_cov=[1, 0]), {"A": 1, "b": 1})
    with pytest.raises(icl.InvalidInput, match="keys"):
        icl.limit_point(task, {"A": 1})


def test_escape_time_is_the_time_of_the_closed_form():
    task = icl.LinearRegression(dim=3, feature_cov=1.4, coef_cov=0.6)
    rates, form = icl.convergence_rates(task), icl.closed_form(task)
    for x, y, share in ((0.05, 0.1, 0.5), (-0.2, 0.4, 0.9), (0.3, -0.1, 0.1)):
        moment = rates["escape_time"].subs({level: share}, a0=x, b0=y).evalf(25)
        reached = 1 - form.residual.subs(a0=x, b0=y).expr.subs(time, moment).evalf(20)
        assert abs(reached - share) < 1e-15
    with pytest.raises(icl.OutOfDomain):
        rates["escape_time"].subs({level: 0.1}, a0=0.6, b0=0.6)
    assert icl.convergence_rates(TASK).keys() == {"early"}


def test_query_covariance_in_every_form():
    task = icl.LinearRegression(dim=2, coef_cov=1)
    number = icl.closed_form(task, query_cov=3)
    for same in ([3, 3], np.diag([3.0, 3.0]), sp.diag(3, 3)):
        assert icl.closed_form(task, query_cov=same).b.expr == number.b.expr
        assert icl.convergence_rates(task, same)["local"] == icl.convergence_rates(task, 3)["local"]
        assert icl.tied_time(task, same) == icl.tied_time(task, 3)
    with pytest.raises(icl.InvalidInput, match="positive definite"):
        icl.closed_form(task, query_cov=0)


def test_balance_root():
    x, size = sp.symbols("x s", positive=True)
    root = balance_root(x, size)
    assert sp.expand(root * (root - x) - size) == 0


# -- objects and bad input -----------------------------------------------------------------------


def test_flow_is_a_value_with_a_readable_form():
    flow = icl.gradient_flow(TASK, blocks=BLOCKS)
    assert pickle.loads(pickle.dumps(flow)) == flow
    assert hash(flow) == hash(icl.gradient_flow(TASK, blocks=BLOCKS))
    assert "descends half the risk" in repr(flow)
    assert "conserved: " in repr(flow)
    assert r"\tfrac12" in flow._repr_latex_()
    form = icl.closed_form(GENERAL)
    assert pickle.loads(pickle.dumps(form)) == form
    assert "gamma" in str(form.a)
    reduced = flow.__class__.reduced(icl.gradient_flow(GENERAL))
    assert "half the risk" in repr(reduced)
    assert r"\sum_i" in reduced._repr_latex_()
    assert pickle.loads(pickle.dumps(reduced)) == reduced


def test_published_start():
    flow = icl.gradient_flow(TASK, blocks=BLOCKS, parametrisation="factored", key_dim=3)
    start = flow.initial(0.2, theta=[[1], [2]])
    product_ = start["K"].T * start["Q"]
    assert product_ == sp.Matrix([[1, 2], [2, 4]]) / 25
    assert start["b"] ** 2 == sum(x**2 for x in product_)
    assert start["k"] == sp.zeros(3, 1)
    assert start["K"].shape == (3, 2)
    for arguments, message in (
        ((0,), "positive"),
        ((1, [[0], [0]]), "zero"),
        ((1, [[1]]), "rows"),
        ((1, [[1, 0, 0, 0], [0, 1, 0, 0]]), "columns"),
    ):
        with pytest.raises(icl.InvalidInput, match=message):
            flow.initial(*arguments)
    with pytest.raises(icl.InvalidInput, match="symbol"):
        icl.gradient_flow(GENERAL).initial(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blocks": ("A",)}, "A and b"),
        ({"blocks": ("A", "b", "z")}, "choose from"),
        ({"parametrisation": "split"}, "merged"),
        ({"key_dim": 3}, "factored"),
        ({"attention": icl.SoftmaxAttention(), "prompt_length": 10}, "finite prompt"),
        ({"attention": icl.SoftmaxAttention(heads=2)}, "one head"),
        ({"attention": icl.LinearAttention(centered=True), "prompt_length": 3}, "centered"),
        ({"attention": icl.LinearAttention(), "prompt_length": 0}, "positive integer"),
        ({"attention": "linear"}, "type str"),
        ({"query_cov": [[1, 2], [0, 1]]}, "symmetric"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(icl.InvalidInput, match=message):
        icl.gradient_flow(TASK, **arguments)


def test_bad_task_and_anisotropic_closed_form():
    with pytest.raises(icl.InvalidInput, match="type int"):
        icl.gradient_flow(3)  # type: ignore[arg-type]
    with pytest.raises(icl.InvalidInput, match=r"numeric\.integrate"):
        icl.closed_form(icl.LinearRegression(dim=2, feature_cov=[1, 2]))
    assert transposed(block_symbols(2)["A"]).shape == (2, 2)
