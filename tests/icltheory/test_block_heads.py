"""Heads on blocks of coordinates and families of two heads, against typed sums and matrices."""

import math

import mpmath
import pytest
import sympy as sp
from scipy import optimize

import icltheory as icl
from icltheory.direct_sum import DirectSum
from icltheory.pair_families import FAMILIES
from icltheory.symbols import d, k, noise_var, t

ONE, TWO = icl.SoftmaxAttention(heads=1), icl.SoftmaxAttention(heads=2)
GENERAL = icl.LinearRegression(dim=d, noise_var=noise_var)
S = 1 + noise_var
WRONG = 1.03


def close(value, reference, tolerance):
    """Equal to `tolerance` (relative), which three per cent more would not be."""
    value, reference = float(value), float(reference)
    good = abs(value - reference) <= tolerance * abs(reference)
    return good and abs(WRONG * value - reference) > tolerance * abs(reference)


def at(formula, **values):
    """A formula at numbers, 30 digits."""
    return sp.N(formula.subs(**values).expr, 30)


def typed_pair(family, dim, noise, x):
    s, x = 1 + mpmath.mpf(noise), mpmath.mpf(x)
    down, up = 1 - 2 * x, 1 + 2 * x
    if family == "symmetric":
        even = (down ** (-dim / 2 - 1) + up ** (-dim / 2 - 1)) / 2
        return s / (2 * x) * (down ** (-dim / 2) - up ** (-dim / 2)) + even
    if family == "one-sided":
        return down ** (-dim / 2 - 1) + s / x * (down ** (-dim / 2) - 1)
    return 2 * s / x * (down ** (-dim / 4) - 1) + down ** (-dim / 4 - 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_two_heads(family):
    formula = icl.pair_constant(GENERAL, family)
    fast = sp.lambdify([d, noise_var, t], formula.expr, "math")
    with mpmath.workdps(60):
        for dim, noise, x in [(4, 0, "0.2"), (6, "0.4", "0.09"), (20, 2, "0.03"), (4, 1, "1e-12")]:
            value = formula.subs(d=dim, noise_var=sp.Rational(noise), t=sp.Rational(x))
            exact = typed_pair(family, mpmath.mpf(dim), noise, x)
            assert abs(mpmath.mpf(str(value.evalf(50))) - exact) < 1e-30 * exact
            value = fast(float(dim), float(noise), float(x))
            assert abs(value - exact) < 1e-14 * exact  # no cancellation in double precision
            assert abs(WRONG * value - exact) > 1e-3 * exact
    c = S * d + 1
    slope = {"symmetric": 0, "one-sided": (d + 2) * (S * d + 2) / 2}
    slope["block"] = (d + 4) * (S * d + 2) / 4
    series = icl.small_score_expansion(formula, 2).expr
    assert sp.expand(series.coeff(t, 0) - c) == 0
    assert sp.expand(series.coeff(t, 1) - slope[family]) == 0
    if family == "symmetric":
        assert sp.expand(series.coeff(t, 2) - (d + 2) * (d + 4) * (S * d + 3) / 6) == 0
    step = 1e-5
    wanted = float(slope[family].subs({d: 6, noise_var: 1})) if slope[family] else 0.0
    assert abs((fast(6.0, 1.0, step) - 13) / step - wanted) < 0.03 * max(wanted, 0.5)


def test_reference_rows():
    third = icl.LinearRegression(3, 0.4)
    assert close(icl.pair_constant(third).subs(t=0.09), 5.558462886, 1e-9)
    assert close(icl.pair_constant(third, "one-sided").subs(t=0.09), 7.035863124, 1e-9)
    sixth = icl.LinearRegression(6, 0.2)
    assert close(icl.block_constant(sixth, [3, 3]).subs(t=0.04), 129.225603, 1e-8)
    assert close(icl.block_constant(sixth, [3, 3], [1, -1]).subs(t=0.04), 9.225603, 1e-7)
    assert close(icl.equal_block_constant(sixth, 2, 0).subs(t=0.04), 9.225603, 1e-7)


def typed_blocks(dims, signs, noise, x):
    """The sum over blocks as it stands in the literature of this toolkit."""
    dim, s = sum(dims), 1 + noise
    own = sum((1 - 2 * x) ** (-sp.S(a) / 2) * (sp.S(a) / dim / (1 - 2 * x) + s / x) for a in dims)
    return own + s / x * (sum(signs) ** 2 - len(dims))


@pytest.mark.parametrize(
    ("dims", "signs"),
    [([6], [1]), ([4, 2], [1, -1]), ([2, 2, 2], [1, 1, -1]), ([1, 2, 3], [1, 1, 1])],
)
def test_blocks_against_the_typed_sum_and_explicit_matrices(dims, signs):
    noise, x = sp.Rational(1, 5), sp.Rational(1, 16)
    task = icl.LinearRegression(6, noise)
    value = icl.block_constant(task, dims, signs).subs(t=x).evalf(40)
    assert close(value, typed_blocks(dims, signs, noise, x).evalf(40), 1e-14)
    explicit = icl.loss_constant(task, icl.block_heads(dims, signs)).subs(t=x).evalf(40)
    assert close(value, explicit, 1e-14)


def test_blocks_of_any_scale_and_task():
    task = icl.LinearRegression(5, 0.5, feature_cov=3, coef_cov=2)
    numbers, scale = [1, sp.Rational(1, 2), sp.Rational(-3, 2)], sp.Rational(1, 10)
    formula = icl.block_constant(task, [2, 2, 1], numbers)
    blocks = icl.block_heads([2, 2, 1], numbers)
    assert blocks.scores is not None
    assert blocks.values is not None
    scores = [a.subs(k, scale) / 3 for a in blocks.scores]
    values = [x.subs(k, scale) for x in blocks.values]
    assert close(formula.subs(t=scale**2), icl.head_constant(task, scores, values), 1e-13)
    assert formula.validity == (t < sp.Rational(1, 8))
    assert sp.expand(icl.small_score_expansion(formula, 0).expr - icl.lower_bound(task).expr) == 0
    with_zero = icl.block_constant(task, [2, 2, 1], [1, 1, 1], zero_head=True)
    scores = [*(a.subs(k, scale) / 3 for a in icl.block_heads([2, 2, 1]).scores or ()), sp.zeros(5)]
    direct = icl.head_constant(task, scores, [10, 10, 10, -30])
    assert close(with_zero.subs(t=scale**2), direct, 1e-13)


def test_symbolic_blocks():
    heads = sp.Symbol("H", integer=True, positive=True)
    total = sp.Symbol("S_e", real=True)
    formula = icl.equal_block_constant(GENERAL, heads, total)
    power = (1 - 2 * t) ** (-d / (2 * heads))
    typed = S / t * (heads * power + total**2 - heads) + power / (1 - 2 * t)
    values = {d: 12, noise_var: 0.3, heads: 4, total: 2, t: 0.1}
    assert close(formula.expr.subs(values), typed.subs(values), 1e-14)
    single = icl.equal_block_constant(GENERAL, 1)
    one = icl.loss_constant(GENERAL, ONE)
    for dim, x in [(3, 0.05), (8, 0.4)]:
        numbers = {"d": dim, "noise_var": 0.7, "t": x}
        assert close(single.subs(**numbers), one.subs(**numbers), 1e-13)
    opposite = icl.equal_block_constant(GENERAL, heads, 0)
    assert (
        sp.expand(icl.small_score_expansion(opposite, 0).expr - icl.lower_bound(GENERAL).expr) == 0
    )


def smallest(formula):
    """Minimum over t in (0, 1/2)."""
    f = sp.lambdify(t, formula.expr, "math")
    result = optimize.minimize_scalar(f, bounds=(1e-9, 0.4999), method="bounded")
    return float(result.fun)


@pytest.mark.parametrize("heads", [2, 3, 6])
def test_equal_signs_are_worse_than_one_head_and_opposite_ones_better(heads):
    for dim in (6, 12, 60):
        task = icl.LinearRegression(dim, 0.3)
        one = float(icl.optimal_loss_constant(task, ONE))
        assert smallest(icl.equal_block_constant(task, heads)) > 1.05 * one
        if heads % 2 == 0:
            value = float(icl.equal_block_constant(task, heads, 0).subs(t=1e-7))
            assert close(value, icl.lower_bound(task), 1e-4)


@pytest.mark.parametrize(
    ("heads", "total", "value"),
    [(1, 1, math.e), (2, 2, 3.591), (4, 4, 4.971), (8, 8, 7.193), (3, 1, None), (4, 2, None)],
)
def test_large_dimension(heads, total, value):
    limit = icl.block_dimension_limit(heads, total)
    if value is not None:
        assert abs(float(limit) - value) < 6e-4
    y = math.log(float(limit))
    assert abs((y - 1) * math.exp(y) - (total**2 / heads - 1)) < 1e-12
    dim = 10**5
    formula = icl.equal_block_constant(icl.LinearRegression(dim, 0.4), heads, total)
    f = sp.lambdify(t, formula.expr, "math")
    at_best = f(y * heads / dim) / (1.4 * dim)
    assert close(at_best, limit, 1e-3)
    assert f(1.1 * y * heads / dim) > f(y * heads / dim) < f(0.9 * y * heads / dim)


def test_width():
    task = icl.LinearRegression(6, 0.5)
    assert icl.width_constant(task, 2, 6).expr == icl.lower_bound(task).expr
    assert icl.width_constant(task, 3, 6).attained is False
    one = icl.optimal_loss_constant(task, ONE)
    assert icl.width_constant(task, 1, 6).expr == one.expr
    with pytest.raises(icl.InvalidInput, match=r"add up to 4 < dim = 6.*at least 0.333333"):
        icl.width_constant(task, 2, 5)
    with pytest.raises(icl.InvalidInput, match="the signal"):
        icl.width_constant(task, 4, 3)
    # three heads of rank 2 whose values add up to 0 without an equal number of signs
    three = icl.block_constant(task, [2, 2, 2], [2, -1, -1])
    assert icl.small_score_expansion(three, 0).expr == icl.lower_bound(task).expr


def test_direct_sums_equal_explicit_matrices():
    blocks = DirectSum([(2, 2), (-3, 1)])
    matrix = sp.diag(2, 2, -3)
    product = (blocks @ blocks + blocks * 5).inverse()
    explicit = (matrix * matrix + 5 * matrix).inv()
    assert product.trace() == explicit.trace()
    assert product.T is product
    assert DirectSum([(2, 2), (3, 1)]).det_power(-2) == sp.diag(2, 2, 3).det() ** -2
    assert blocks.positive_definite() == sp.false


def test_block_arguments_are_refused_with_the_reason():
    task = icl.LinearRegression(dim=5)
    for call, message in (
        (lambda: icl.block_constant(task, 5), "dims = 5 is no list"),  # type: ignore[arg-type]
        (lambda: icl.block_constant(task, [5], 1), "signs = 1 is no list"),  # type: ignore[arg-type]
        (lambda: icl.block_constant(task, [5], zero_head="no"), "True or False"),  # type: ignore[arg-type]
        (lambda: icl.block_dimension_limit(2, 3), "cannot add up to 3"),
        (lambda: icl.block_dimension_limit(2, 1), "cannot add up to 1"),
        (lambda: icl.small_score_expansion(3), "type int"),  # type: ignore[arg-type]
    ):
        with pytest.raises(icl.InvalidInput, match=message):
            call()
