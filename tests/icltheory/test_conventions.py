"""Formulas of other papers, converted, equal those of this toolkit, and back."""

import pickle

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
import numeric
from icltheory.conventions import CONVENTIONS, Convention
from icltheory.errors import InvalidInput
from icltheory.finite_prompt import optimal_linear_attention
from icltheory.formula import Formula
from icltheory.proportional import approximate_risk, approximation_error, proportional_risk
from icltheory.symbols import b, d, k, n, noise_var, t, time, v

R = sp.Rational
WRONG = R(103, 100)
ZHANG, BOURSIER, HE = (CONVENTIONS[name] for name in ("zhang", "boursier", "he"))
N, L = ZHANG.names[n], HE.names[n]
MU, OMEGA = HE.names[v], HE.names[k]
BASE = icl.LinearRegression(dim=d, noise_var=noise_var)
ISOTROPIC = icl.LinearRegression(dim=d, noise_var=noise_var, coef_cov=1)
ONE, LINEAR = icl.SoftmaxAttention(heads=1), icl.LinearAttention()


def assert_same(value, typed):
    """Equal expressions; `value` changed by 3 % is not."""
    assert sp.simplify(value - typed) == 0
    assert sp.simplify(value * WRONG - typed) != 0


# -- formulas of the papers, typed ------------------------------------------------------------------


@pytest.mark.parametrize("cov", [[[2, 1], [1, 2]], [[1, 0], [0, 3]]])
def test_optimum_of_linear_attention_of_zhang_et_al(cov):
    # Their Gamma = (1 + 1/N) Lambda + tr(Lambda)/N I and loss tr(Lambda (I - Lambda Gamma^{-1}))/2.
    lam = sp.Matrix(cov)
    gamma = (1 + 1 / N) * lam + lam.trace() / N * sp.eye(2)
    loss = Formula("loss", (lam - lam * lam * gamma.inv()).trace() / 2)
    task = ZHANG.task(dim=2, feature_cov=cov)
    ours = optimal_linear_attention(task)
    theirs = ZHANG.from_ours(ours, task)
    assert_same(theirs.expr, loss.expr)
    assert_same(ZHANG.to_ours(loss, task).expr, ours.expr)
    (best,) = theirs.minimizer.values()
    assert (best - gamma.inv()).applyfunc(sp.simplify).is_zero_matrix
    assert any(r.arxiv == "2306.09927" for r in theirs.references)


def test_identity_covariance_with_noise_in_both_coefficient_scales():
    q = d + 1 + noise_var  # L26: R* = d q / (2 (L + q)) for coefficients N(0, I)
    typed = d * q / (2 * (N + q))
    unit, isotropic = (icl.optimal_linear_attention(task) for task in (BASE, ISOTROPIC))
    assert_same(ZHANG.from_ours(unit).expr, typed)
    assert_same(ZHANG.from_ours(isotropic, ISOTROPIC).expr, typed)
    assert_same(ZHANG.to_ours(Formula("loss", typed)).expr, unit.expr)
    assert_same(ZHANG.to_ours(Formula("loss", typed), ISOTROPIC).expr, isotropic.expr)


def test_halved_block_risk_of_the_large_prompt_paper():
    # L14 with Sigma = S = I: q0 = d + sig2, t2 = d.
    ours = icl.infinite_prompt_risk(BASE)
    theirs = BOURSIER.from_ours(ours)
    evaluate, unit = numeric.compile(theirs), numeric.compile(ours)
    rng = np.random.default_rng(1)
    dim, noise, value = 3, 0.3, 0.7
    a, u, w = rng.normal(size=(dim, dim)), rng.normal(size=dim), rng.normal(size=dim)
    c0 = a.T @ w + value * (dim + noise) * u
    gap = value * a.T + np.outer(u, w) - np.eye(dim)
    typed = (c0 @ c0 + np.trace(gap.T @ gap) + 2 * value**2 * dim * u @ u) / 2
    got = evaluate(A=a, u=u, v=w, b=value, noise_var=noise)
    assert got == pytest.approx(typed, rel=1e-12)
    assert got != pytest.approx(1.03 * typed, rel=1e-3)
    back = numeric.compile(BOURSIER.to_ours(theirs))
    at = {"A": a, "u": u, "v": w, "b": value, "noise_var": noise}
    assert back(**at) == pytest.approx(unit(**at), rel=1e-12)
    # The same through the other route: the risk of the task with coefficients N(0, I).
    direct = numeric.compile(icl.infinite_prompt_risk(ISOTROPIC))
    assert direct(**at) / 2 == pytest.approx(typed, rel=1e-12)


def test_valley_of_the_large_prompt_paper_converts_with_its_minimiser():
    # L25 at S = I: 2 R_L ~ F(b)/L, b*^2 = 2 + (d + sqrt(d^2 + 4 (d + 2)/(1 + q)))/2, q = sig2/d.
    ours = icl.optimal_valley_constant(BASE)
    theirs = BOURSIER.from_ours(ours)
    square = 2 + (d + sp.sqrt(d**2 + 4 * (d + 2) / (1 + noise_var / d))) / 2
    at = {d: 5, noise_var: R(1, 2)}
    assert sp.N(theirs.minimizer[b] ** 2 - square, 30, subs=at) == pytest.approx(0, abs=1e-25)
    # 2 R* / tr = 19.1555369 and 20.8011312 at d = 5, q = 0 and 0.1 (reference values 20 and 21).
    for q, value in ((0, 19.1555369), (0.1, 20.8011312)):
        loss = float(theirs.expr.subs({d: 5, noise_var: 5 * sp.Rational(str(q))}))
        assert 2 * loss / 5 == pytest.approx(value, abs=6e-8)


def test_finite_prompt_values_of_the_large_prompt_paper():
    # Reference value 22: minimum of 2 R_L/... at d = 5, S = I: R_L = 0.3696824 at L = 100.
    risk = numeric.optimal_risk(icl.LinearRegression(dim=5), ONE, 100).risk
    theirs = BOURSIER.from_ours(Formula("risk", sp.Float(risk)), icl.LinearRegression(dim=5))
    assert float(theirs.expr) == pytest.approx(0.3696824, abs=1e-7)


def test_flow_time():
    # L19(a) at lam = 1: the reference flow for S = I; with N(0, I/d) it is d times slower.
    ours, theirs = icl.closed_form(BASE).risk, icl.closed_form(ISOTROPIC).risk
    converted = BOURSIER.from_ours(ours)
    at = {d: 6, time: R(1, 3), sp.Symbol("a0", real=True): R(1, 10), sp.Symbol("b0", real=True): 1}
    assert float(converted.expr.subs(at)) == pytest.approx(
        float(theirs.expr.subs(at)) / 2, rel=1e-12
    )
    mse = Convention(coefs="isotropic")  # descending the whole loss is twice as fast
    half = {**at, time: R(1, 6)}
    assert float(mse.from_ours(ours).expr.subs(half)) == pytest.approx(
        float(theirs.expr.subs(at)), rel=1e-12
    )
    with pytest.raises(InvalidInput, match="time is not converted"):
        CONVENTIONS["boursier_experiments"].from_ours(ours)


# -- the approximate loss of He et al. --------------------------------------------------------------


def he_loss(omega, mu, noise, dim, length):
    """1 + s2 - 2 mu'omega + mu'(omega omega' + (1 + s2) exp(d omega omega')/L) mu, as published."""
    omega, mu = sp.Matrix(omega), sp.Matrix(mu)
    outer = omega * omega.T
    exponential = outer.applyfunc(lambda x: sp.exp(dim * x))
    inner = outer + (1 + noise) / length * exponential
    return 1 + noise - 2 * (mu.T * omega)[0] + (mu.T * inner * mu)[0]


def test_loss_of_he_et_al():
    w1, w2, m1, m2 = sp.symbols("omega_1 omega_2 mu_1 mu_2", real=True)
    heads = icl.SoftmaxAttention(scores=[w1, w2], values=[m1, m2])
    ours = approximate_risk(BASE, heads)
    typed = he_loss([w1, w2], [m1, m2], noise_var, d, L)
    assert sp.expand(HE.from_ours(ours).expr - typed) == 0
    assert sp.expand(WRONG * HE.from_ours(ours).expr - typed) != 0
    assert sp.expand(HE.to_ours(Formula("loss", typed)).expr - ours.expr) == 0
    single = approximate_risk(BASE, icl.SoftmaxAttention(scores=[k], values=[v]))
    assert sp.expand(HE.from_ours(single).expr - he_loss([OMEGA], [MU], noise_var, d, L)) == 0


def test_approximate_loss_is_the_proportional_limit():
    gamma, c1, c2, a1, a2 = sp.symbols("gamma c1 c2 a1 a2", positive=True)
    root = sp.sqrt(d)
    heads = icl.SoftmaxAttention(scores=[c1 / root, -c2 / root], values=[a1 * root, -2 * a2 * root])
    at = {n: d / gamma}
    gap = approximate_risk(BASE, heads).expr.subs(at) - proportional_risk(BASE, heads).expr
    assert sp.expand(gap) == 0


def test_approximation_drops_projections_and_fixes_the_query():
    # The exact constant with both simplifications undone one by one, at d = 2: only the Gaussian
    # average of exp(t r^2) (r^2 t + s), against exp(t d) s.
    task = icl.LinearRegression(dim=2, noise_var=R(1, 2))
    r2 = sp.Symbol("r2", positive=True)
    tt = R(1, 10)
    exact = sp.integrate(
        sp.exp(tt * r2) * (tt * r2 / 2 + R(3, 2)) * sp.exp(-r2 / 2) / 2, (r2, 0, sp.oo)
    )
    error = approximation_error(task, ONE).subs(t=tt).expr
    assert float(error) == pytest.approx(float(sp.exp(2 * tt) * R(3, 2) / exact - 1), rel=1e-12)


@pytest.mark.parametrize(("dim", "error"), [(5, -0.1864), (20, -0.0780), (100, -0.0189)])
def test_size_of_the_approximation_error_in_long_prompts(dim, error):
    task, scale = icl.LinearRegression(dim=dim), (dim + 4) ** -0.5
    asymptotic = float(approximation_error(task, ONE).subs(t=R(1, dim + 4)).expr)
    assert asymptotic == pytest.approx(error, abs=6e-5)
    finite = numeric.approximation_error(task, ONE, 10**7, scale, 1 / scale)
    assert finite == pytest.approx(asymptotic, abs=2e-4)
    assert finite != pytest.approx(1.03 * asymptotic, abs=2e-4)


# -- the mechanism ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONVENTIONS)
@pytest.mark.parametrize("task", [BASE, ISOTROPIC, icl.LinearRegression(dim=d, coef_cov=3)])
def test_round_trips(name, task):
    convention = CONVENTIONS[name]
    for formula in (
        icl.loss_constant(task, ONE),
        icl.optimal_loss_constant(task, ONE),
        icl.finite_prompt_risk(task, LINEAR),
        icl.optimal_finite_prompt_risk(task, LINEAR),
    ):
        back = convention.to_ours(convention.from_ours(formula, task), task)
        assert sp.simplify(back.expr - formula.expr) == 0
        assert sp.simplify(back.validity) == sp.simplify(formula.validity)
        for parameter, best in (formula.minimizer or {}).items():
            assert sp.simplify(back.minimizer[parameter] - best) == 0


def test_divided_scores_and_minus_signs():
    minus = Convention(score_divisor=sp.sqrt(d), prediction_sign=-1)
    ours = icl.head_expansion(BASE, [k], [v])
    theirs = minus.from_ours(ours)
    at = {d: 3, n: 50, noise_var: R(1, 4)}
    here = ours.expr.subs(at | {k: R(2, 5), v: 2})
    there = theirs.expr.subs(at | {k: R(2, 5) * sp.sqrt(3), v: -2})
    assert float(here) == pytest.approx(float(there), rel=1e-12)
    best = icl.optimal_loss_constant(BASE, ONE)
    assert sp.simplify(minus.from_ours(best).minimizer[t] - d * best.minimizer[t]) == 0
    # Linear attention without the 1/n: its matrix is n times smaller.
    bare = Convention(layer="linear", score_divisor=1)
    risk = icl.finite_prompt_risk(BASE, LINEAR)
    assert sp.expand(bare.from_ours(risk).expr - risk.expr.subs(v, n * v)) == 0
    optimum = icl.optimal_finite_prompt_risk(BASE, LINEAR)
    assert sp.simplify(bare.from_ours(optimum).minimizer[v] - optimum.minimizer[v] / n) == 0


def test_noisy_target_with_numbers():
    task = icl.LinearRegression(dim=5, noise_var=R(1, 10))
    risk = icl.optimal_linear_attention(task)
    noisy = CONVENTIONS["boursier_experiments"].from_ours(risk, task)
    assert float(
        noisy.expr.subs(CONVENTIONS["boursier_experiments"].names[n], 100)
    ) == pytest.approx(6.5 / 106.5 + 0.1)
    # Coefficients N(0, I) with the same ratio of noise to signal: labels of variance 5 times ours.
    isotropic = Convention(coefs="isotropic", noisy_target=True)
    assert sp.simplify(isotropic.from_ours(risk, task).expr - 5 * (risk.expr + R(1, 10))) == 0


def test_conventions_are_values():
    assert pickle.loads(pickle.dumps(ZHANG)) == ZHANG
    assert hash(ZHANG) == hash(pickle.loads(pickle.dumps(ZHANG)))
    assert ZHANG != BOURSIER
    identity = Convention()
    formula = icl.loss_constant(BASE, ONE)
    assert identity.from_ours(formula).expr == formula.expr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer": "tanh"}, "layer = 'tanh' is unknown"),
        ({"coefs": "big"}, "coefs = 'big' is unknown"),
        ({"loss_factor": 0}, "is not positive"),
        ({"loss_factor": "1/2"}, "text is never parsed"),
        ({"prediction_sign": 2}, "must be 1 or -1"),
        ({"noisy_target": 1}, "must be True or False"),
        ({"score_divisor": -1}, "must be positive"),
        ({"score_divisor": k}, "contain d and n only"),
        ({"names": {n: L, d: L}}, "two meanings"),
        ({"names": [1]}, "names must map"),
        ({"names": {"n": L}}, "names must map"),
    ],
)
def test_bad_conventions(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        Convention(**arguments)


def test_names_are_symbols_and_text_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="names must map"):
        Convention(names={n: "__import__('os').mkdir('made')"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("convert", [ZHANG.from_ours, ZHANG.to_ours])
def test_only_formulas_are_converted(convert):
    with pytest.raises(InvalidInput, match=r"pass an icl\.Formula"):
        convert(d + n)


def test_bad_tasks():
    formula = icl.loss_constant(icl.LinearRegression(dim=2, coef_cov=[1, 2]), ONE)
    with pytest.raises(InvalidInput, match="no multiple of I"):
        ZHANG.from_ours(formula, icl.LinearRegression(dim=2, coef_cov=[1, 2]))
    with pytest.raises(InvalidInput, match="coef_mean is not supported"):
        ZHANG.from_ours(formula, icl.LinearRegression(dim=2, coef_mean=[1, 2]))
    with pytest.raises(InvalidInput, match="must be the LinearRegression"):
        ZHANG.to_ours(formula, 5)
