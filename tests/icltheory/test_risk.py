"""Loss constants: published reference values, identities between routes, limits, bounds."""

import numpy as np
import pytest
import sympy as sp
from hypothesis import given
from hypothesis import strategies as st

import icltheory as icl
from icltheory.symbols import d, n, noise_var, t, v

ONE, TWO, LINEAR = (
    icl.SoftmaxAttention(heads=1),
    icl.SoftmaxAttention(heads=2),
    icl.LinearAttention(),
)
GENERAL = icl.LinearRegression(dim=d, noise_var=noise_var)

# (d, noise_var): t*, optimal one-head constant, multi-head constant, to the printed digits.
TABLE = {
    (1, 0): (0.232408, 8.43577, 2),
    (2, 0): (0.190983, 11.09017, 3),
    (3, 0): (0.161484, 13.76762, 4),
    (5, 0): (0.122849, 19.15554, 6),
    (10, 0): (0.076436, 32.69451, 11),
    (20, 0): (0.043393, 59.84332, 21),
    (100, 0): (0.009708, 277.27363, 101),
    (1, 0.25): (0.242255, 9.88856, 2.25),
    (5, 0.25): (0.125907, 23.26425, 7.25),
    (3, 0.25): (1 / 6, 16.53406, 4.75),
    (5, 1): (0.131191, 35.52603, 11),
    (20, 1): (0.044374, 116.94022, 41),
    (100, 1): (0.009755, 551.82244, 201),
}


def printed(value, reference):
    """Agreement to the printed digits: half a unit of the last of five decimals or so."""
    decimals = 6 if reference < 1 else 5
    return abs(value - reference) <= 0.6 * 10.0**-decimals


@pytest.mark.parametrize(("key", "reference"), TABLE.items())
def test_table_of_optimal_constants(key, reference):
    dim, noise = key
    task = icl.LinearRegression(dim=dim, noise_var=noise)
    best = icl.optimal_loss_constant(task, ONE)
    general = icl.optimal_loss_constant(GENERAL, ONE).subs(d=dim, noise_var=noise)
    scale, constant, many = reference
    assert printed(float(best.minimizer[t]), scale)
    assert printed(float(best), constant)
    assert not printed(1.03 * float(best), constant)
    assert abs(float(general) - float(best)) < 1e-12 * constant
    assert best.attained is True
    infimum = icl.optimal_loss_constant(task, TWO)
    assert infimum.expr == sp.nsimplify(many)
    assert infimum.attained is False
    assert infimum.minimizer is None


def test_issue_values():
    best = icl.optimal_loss_constant(icl.LinearRegression(dim=5), ONE)
    assert abs(float(best) - 19.155537) < 5e-7
    assert abs(float(best.minimizer[t]) - 0.12284929) < 5e-9
    assert icl.optimal_loss_constant(icl.LinearRegression(dim=5), TWO).expr == 6
    assert (
        abs(
            float(icl.optimal_loss_constant(GENERAL, ONE).subs(d=1000, noise_var=0.25)) - 3403.96948
        )
        < 5e-6
    )


def test_closed_forms_in_symbolic_dimension():
    s = 1 + noise_var
    one, two = icl.loss_constant(GENERAL, ONE), icl.loss_constant(GENERAL, TWO)
    typed_one = (1 - 2 * t) ** (-d / 2) * (1 / (1 - 2 * t) + s / t)
    assert sp.simplify(one.expr - typed_one) == 0
    typed_two = (
        s / (2 * t) * ((1 - 2 * t) ** (-d / 2) - (1 + 2 * t) ** (-d / 2))
        + ((1 - 2 * t) ** (-d / 2 - 1) + (1 + 2 * t) ** (-d / 2 - 1)) / 2
    )
    for dim, noise, scale in [(3, 0.4, 0.09), (7, 0, 0.3), (50, 2, 0.01)]:
        values = {d: dim, noise_var: sp.Rational(noise), t: sp.Rational(scale)}
        assert abs(sp.N((two.expr - typed_two).subs(values), 40)) < 1e-30
    assert abs(float(two.subs(d=3, noise_var=0.4, t=0.09)) - 5.558462886) < 5e-10
    assert one.validity == (t < sp.Rational(1, 2))
    assert sp.expand(icl.optimal_loss_constant(GENERAL, TWO).expr - (s * d + 1)) == 0
    assert sp.expand(icl.loss_constant(GENERAL, LINEAR).expr - (s * d + 1)) == 0
    assert icl.optimal_loss_constant(GENERAL, LINEAR).attained is True


def test_gain_tends_to_e_and_is_bounded():
    gain = icl.multihead_gain(GENERAL)
    assert gain.limit(d, sp.oo) == sp.E
    assert gain.subs(noise_var=0).limit(d, sp.oo) == sp.E
    assert (
        sp.simplify(
            sp.limit(
                icl.optimal_loss_constant(GENERAL, ONE).expr
                / icl.optimal_loss_constant(GENERAL, TWO).expr,
                d,
                sp.oo,
            )
        )
        == sp.E
    )
    for dim in (1, 2, 5, 40, 1000):
        for noise in (0, 0.25, 4):
            value = float(gain.subs(d=dim, noise_var=noise))
            assert sp.E < value <= (1 + 2 / dim) ** (dim / 2 + 1)


def test_small_scales_keep_their_digits():
    two = icl.loss_constant(GENERAL, TWO)
    import numeric

    evaluator = numeric.compile(two)
    for scale in (1e-3, 1e-6, 1e-9, 1e-12):
        exact = sp.N(two.expr.subs({d: 5, noise_var: 0, t: sp.Rational(scale)}), 40)
        assert abs(evaluator(d=5, noise_var=0.0, t=scale) - exact) < 1e-14 * exact
    slope = sp.series(two.expr.subs({d: 4, noise_var: 1}), t, 0, 3).removeO().coeff(t, 2)
    assert slope == sp.Rational((4 + 2) * (4 + 4) * (2 * 4 + 3), 6)


@given(st.integers(2, 5), st.integers(1, 4), st.sampled_from([0, 0.3, 1.0]), st.integers(0, 10**6))
def test_any_heads_stay_above_the_multihead_constant(dim, heads, noise, seed):
    rng = np.random.default_rng(seed)
    scores = 0.3 * rng.standard_normal((heads, dim, dim)) / np.sqrt(dim)
    values = rng.standard_normal(heads)
    scores[-1] = (np.eye(dim) - np.einsum("h,hij->ij", values[:-1], scores[:-1])) / values[-1]
    norm = max(np.linalg.norm(a, 2) for a in scores)
    shrink = min(1.0, 0.6 / norm)
    task = icl.LinearRegression(dim=dim, noise_var=noise)
    constant = float(icl.head_constant(task, shrink * scores, values / shrink))
    assert constant >= (1 + noise) * dim + 1


def test_two_hundred_random_draws_respect_the_bound():
    rng = np.random.default_rng(7)
    task = icl.LinearRegression(dim=3, noise_var=0.5)
    for _ in range(200):
        scores = 0.2 * rng.standard_normal((2, 3, 3))
        values = np.array([3.0, -3.0]) + rng.standard_normal(2)
        scores[1] = (np.eye(3) - values[0] * scores[0]) / values[1]
        shrink = min(1.0, 0.65 / max(np.linalg.norm(a, 2) for a in scores))
        assert float(icl.head_constant(task, shrink * scores, values / shrink)) >= 1.5 * 3 + 1


@pytest.mark.parametrize("dim", [2, 5])
@pytest.mark.parametrize("noise", [0, 0.7])
def test_explicit_matrices_equal_the_scalar_closed_form(dim, noise):
    """Random covariance, and the value of each scalar head spread over several at random."""
    rng = np.random.default_rng(dim)
    root = rng.integers(-3, 4, (dim, dim)) + 4 * np.eye(dim)
    sigma = root @ root.T
    task = icl.LinearRegression(dim=dim, noise_var=noise, feature_cov=sigma)
    inverse = np.array(sp.Matrix(sigma.astype(int)).inv().evalf(30).tolist())
    for k in (0.25, 0.5, 0.625):
        up, down = rng.standard_normal((2, 3))
        up, down = up - up.mean() + 1 / (6 * k), down - down.mean() - 1 / (6 * k)
        one = float(icl.head_constant(task, [k * inverse] * 3, 2 * up))
        closed = float(icl.loss_constant(task, ONE).subs(t=k * k))
        assert abs(one - closed) < 1e-12 * closed
        assert abs(one - 1.03 * closed) > 1e-12 * closed
        pair = float(icl.head_constant(task, [k * inverse] * 3 + [-k * inverse] * 3, [*up, *down]))
        closed = float(icl.loss_constant(task, TWO).subs(t=k * k))
        assert abs(pair - closed) < 1e-12 * closed


def test_random_matrices_against_direct_linear_algebra():
    # The determinant form of the general constant, typed here in NumPy as the independent route.
    rng = np.random.default_rng(3)
    dim, noise = 4, 0.3
    scores = 0.12 * rng.standard_normal((3, dim, dim))
    values = np.array([2.0, -3.0, 4.0])
    scores[2] = (np.eye(dim) - values[0] * scores[0] - values[1] * scores[1]) / values[2]
    total = 0.0
    for h in range(3):
        for other in range(3):
            m = (scores[h] @ scores[other].T + scores[other] @ scores[h].T) / 2
            gap = np.eye(dim) - 2 * m
            trace = np.trace(m @ np.linalg.inv(gap)) / dim
            total += values[h] * values[other] * (trace + 1 + noise) / np.sqrt(np.linalg.det(gap))
    exact = float(icl.head_constant(icl.LinearRegression(dim, noise), scores, values))
    assert abs(exact - total) < 1e-12 * total
    assert abs(1.03 * exact - total) > 1e-12 * total


def test_block_heads_with_both_sign_patterns():
    task = icl.LinearRegression(dim=6, noise_var=sp.Rational(1, 5))
    k = sp.Rational(1, 5)
    first, second = sp.diag(1, 1, 1, 0, 0, 0), sp.diag(0, 0, 0, 1, 1, 1)
    same = icl.head_constant(task, [k * first, k * second], [1 / k, 1 / k])
    opposite = icl.head_constant(task, [k * first, -k * second], [1 / k, -1 / k])
    assert abs(float(same) - 129.225603) < 5e-7
    assert abs(float(opposite) - 9.225603) < 5e-7


def test_correlated_features_follow_the_scaling_lemma():
    task = icl.LinearRegression(
        dim=3, noise_var=0.3, feature_cov=[2, 1, 0.5], coef_cov=sp.Rational(1, 3)
    )
    assert abs(float(icl.optimal_loss_constant(task, ONE)) - 19.38157888) < 5e-9
    assert abs(float(icl.optimal_loss_constant(task, TWO)) - 5.5666667) < 5e-8
    signal = task.signal
    base = icl.LinearRegression(dim=3, noise_var=sp.Rational(3, 10) / signal)
    rotated = icl.LinearRegression(
        dim=3,
        noise_var=0.3,
        feature_cov=[[2, 1, 0], [1, 2, 0.5], [0, 0.5, 1]],
        coef_cov=[[1, 0.2, 0], [0.2, 0.5, 0], [0, 0, 0]],
    )
    for correlated in (task, rotated):
        signal = correlated.signal
        base = icl.LinearRegression(dim=3, noise_var=sp.Rational(3, 10) / signal)
        for attention in (ONE, TWO):
            whole = icl.loss_constant(correlated, attention).expr
            scaled = signal * icl.loss_constant(base, attention).expr
            assert abs(sp.N((whole - scaled).subs(t, sp.Rational(1, 7)), 30)) < 1e-25


def test_symbolic_eigenvalues_cancel():
    a, b = sp.symbols("a b", positive=True)
    task = icl.LinearRegression(dim=2, feature_cov=[a, b], coef_cov=1)
    formula = icl.loss_constant(task, ONE)
    base = icl.loss_constant(icl.LinearRegression(dim=2), ONE).expr
    assert sp.simplify(formula.expr - (a + b) * base) == 0


def test_finite_prompt_risk_of_linear_attention_and_the_small_pair():
    linear = icl.finite_prompt_risk(GENERAL, LINEAR)
    c = (1 + noise_var) * d + 1
    assert sp.simplify(linear.expr - (1 - 2 * v + v**2 * (1 + c / n))) == 0
    best = icl.optimal_finite_prompt_risk(GENERAL, LINEAR)
    assert sp.simplify(best.expr - c / (n + c)) == 0
    assert sp.simplify(best.minimizer[v] - n / (n + c)) == 0
    pair = icl.optimal_finite_prompt_risk(GENERAL, TWO)
    assert sp.simplify(pair.expr - c / (n - 1 + c)) == 0
    assert sp.simplify(pair.minimizer[v] - n / (n - 1 + c)) == 0
    centred = icl.optimal_finite_prompt_risk(GENERAL, icl.LinearAttention(centered=True))
    assert sp.simplify(pair.expr - centred.expr) == 0
    assert sp.limit(n * pair.expr, n, sp.oo) == sp.expand(c)


def test_validity_is_enforced():
    formula = icl.loss_constant(icl.LinearRegression(dim=5), ONE)
    with pytest.raises(icl.OutOfDomain, match="t = 3/5 is outside t < 1/2"):
        formula.subs(t=0.6)
    with pytest.raises(icl.OutOfDomain, match="outside its domain"):
        formula.subs(t=-1)
    with pytest.raises(icl.OutOfDomain, match="must be below 1/2"):
        icl.head_constant(icl.LinearRegression(dim=2), [0.8], [1 / 0.8])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: icl.head_constant(icl.LinearRegression(3), [0.5], [1.9]), "risk tends to 0.0025"),
        (lambda: icl.head_constant(icl.LinearRegression(3), [0.5], [1, 2]), "2 values for 1 heads"),
        (
            lambda: icl.head_constant(icl.LinearRegression(3), [[[1, 0], [0, 1]]], [1]),
            "shape 2 x 2",
        ),
        (
            lambda: icl.loss_constant(icl.LinearRegression(3), icl.SoftmaxAttention(heads=3)),
            "canonical",
        ),
        (lambda: icl.finite_prompt_risk(icl.LinearRegression(3), ONE), "numeric.exact_risk"),
        (
            lambda: icl.optimal_loss_constant(
                icl.LinearRegression(3), icl.SoftmaxAttention(scores=[1], values=[1])
            ),
            "nothing is left to optimise",
        ),
    ],
)
def test_bad_input_is_refused_with_the_reason(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()


@pytest.mark.parametrize("dim", [3, d])
def test_heads_that_are_not_consistent_are_refused_at_every_dimension(dim):
    k, task = icl.symbols.k, icl.LinearRegression(dim=dim)
    for scores, values in (
        ([sp.Rational(1, 2)], [1]),
        ([k], [1 / (2 * k)]),
        ([1 / k, 0.5], [k, 1e-9]),
    ):
        heads = icl.SoftmaxAttention(scores=scores, values=values)
        with pytest.raises(icl.InvalidInput, match="not consistent"):
            icl.loss_constant(task, heads)
    # Decimals are consistent up to their rounding: here 3 * 0.333...3 is not 1.
    rounded, exact = (
        icl.loss_constant(task, icl.SoftmaxAttention(scores=[x, -x], values=[2.9, -0.1]))
        for x in (1 / 3, sp.Rational(1, 3))
    )
    rounded, exact = (float(formula.expr.subs(d, 3)) for formula in (rounded, exact))
    assert rounded == pytest.approx(exact, rel=1e-12)
    assert 1.03 * rounded != pytest.approx(exact, rel=1e-12)
