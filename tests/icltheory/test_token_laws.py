"""Token laws and their 1/n expansions: quadrature, exact enumeration, reference digits, domains."""

import itertools
import math

import mpmath as mp
import numpy as np
import pytest
import sympy as sp
from law_cases import LAWS, MIX, NAMES

import icltheory as icl
import numeric
from icltheory.laws.special import bessel_quotient, log_bessel

WRONG = sp.Rational(103, 100)  # every check must reject a value that is 3 % off
R = sp.Rational


def value(formula, digits=30):
    """Matrix or number of mpmath numbers."""
    expr = formula.expr if isinstance(formula, icl.Formula) else formula
    with mp.workdps(digits):
        if isinstance(expr, sp.MatrixBase):
            rows = [[mp.mpf(x.evalf(digits)) for x in row] for row in expr.tolist()]
            return mp.matrix(rows)
        return mp.mpf(sp.N(expr, digits))


def assert_close(got, reference, error):
    """Entrywise; and the same check refuses `got` changed by 3 %."""
    got = np.atleast_1d(np.array([float(x) for x in got]))
    reference = np.atleast_1d(np.array([float(x) for x in reference]))
    assert np.all(np.abs(got - reference) <= error), np.abs(got - reference).max()
    assert np.any(np.abs(1.03 * got - reference) > error)


# -- reference digits ----------------------------------------------------------------------------


def test_rademacher_expansion_digits():
    law = icl.Rademacher(dim=1)
    assert_close(value(icl.leading_bias(law, [0.7])), [-0.3836162], 5e-8)
    assert_close(value(icl.leading_bias(law, [0.7], order=2)), [-0.4203594], 5e-8)
    assert_close(value(icl.leading_covariance(law, [0.7], [0.4])), [0.5431078], 5e-8)


def test_rademacher_at_100_tokens_by_enumeration():
    """Row 6: the expansion to 1/n^2 misses the exact mean at n = 100 by order 1/n^3 only."""
    law, n = icl.Rademacher(dim=1), 100
    u, w = mp.mpf("0.7"), mp.mpf("0.4")
    chances = [mp.binomial(n, k) / mp.mpf(2) ** n for k in range(n + 1)]

    def output(a, k):
        return (k * mp.exp(a) - (n - k) * mp.exp(-a)) / (k * mp.exp(a) + (n - k) * mp.exp(-a))

    first, second = ([output(a, k) for k in range(n + 1)] for a in (u, w))
    mean = mp.fdot(chances, first)
    covariance = mp.fsum(p * x * y for p, x, y in zip(chances, first, second, strict=True))
    covariance -= mean * mp.fdot(chances, second)
    assert_close([mean, covariance], [0.6004890880, 5.5407172596e-3], 5e-11)
    orders = [value(icl.leading_bias(law, [0.7], order=k))[0] / n**k for k in (1, 2)]
    limit = value(icl.limit_output(law, [0.7]))[0]
    assert abs(mean - limit - sum(orders)) < 2e-6
    assert abs(mean - limit - orders[0]) > 2e-5  # order 2 is needed
    assert_close([n * covariance], value(icl.leading_covariance(law, [0.7], [0.4])), 0.015)


def test_mixture_digits():
    assert_close([value(MIX.cgf([0.5, -0.6]))], [0.15520808], 5e-9)
    assert_close(value(icl.limit_output(MIX, [0.5, -0.6])), [0.51952554, -0.39646395], 5e-9)
    covariance = value(icl.leading_covariance(MIX, [0.5, -0.6], [0.4, 0.5]))
    assert_close(covariance, [1.6539129, -0.4614950, -0.1022115, 0.4249443], 5e-8)


def test_sphere_digits():
    law, u = icl.Sphere(dim=3, radius=2), [0.6, -0.3, 0.2]
    assert_close([value(law.cgf(u))], [0.30764304], 5e-9)
    output = icl.limit_output(law, u).expr
    assert_close([value(sp.sqrt(sp.Add(*(x**2 for x in output))) / 2)], [0.41520899], 5e-9)
    hessian = np.array([float(x) for x in icl.limit_jacobian(law, u).expr]).reshape(3, 3)
    assert_close(np.linalg.eigvalsh(hessian), [0.93778316, 1.18631141, 1.18631141], 5e-9)


def test_laplace_digits():
    law = icl.Laplace(dim=1, scale=0.5)
    got = [value(f)[0] for f in (icl.limit_output(law, 0.6), icl.limit_jacobian(law, 0.6))]
    assert_close(got, [0.32967033, 0.65813308], 5e-9)
    assert_close(value(icl.leading_covariance(law, 0.6)), [2.62612915], 5e-9)


# -- the definition of K, by quadrature ----------------------------------------------------------


def moments(density, points, u):
    """(log E e^{uz}, tilted mean, tilted variance) of a law on the line."""
    raw = [mp.quad(lambda z, k=k: z**k * density(z) * mp.exp(u * z), points) for k in range(3)]
    mean = raw[1] / raw[0]
    return mp.log(raw[0]), mean, raw[2] / raw[0] - mean**2


def gamma_mixture_density(z):
    """sqrt(T) N(0, 2) with T ~ Gamma(1, 1/2): the Laplace law of scale sqrt(1/2)."""
    scale = mp.sqrt(mp.mpf(1) / 2)
    return mp.exp(-abs(z) / scale) / (2 * scale)


@pytest.mark.parametrize(
    ("law", "density", "points", "u"),
    [
        (icl.UniformCube(1, 1.5), lambda z: mp.mpf(1) / 3, [-1.5, 1.5], 2),
        (icl.UniformCube(1, 1.5), lambda z: mp.mpf(1) / 3, [-1.5, 1.5], R(1, 10**6)),
        (icl.Laplace(1, 0.5), lambda z: mp.exp(-2 * abs(z)), [-mp.inf, 0, mp.inf], R(6, 5)),
        (icl.Sphere(2, 3), lambda z: 1 / (mp.pi * mp.sqrt(9 - z**2)), [-3, 0, 3], R(1, 2)),
        (
            icl.GammaScaleMixture([[2]], 1, 0.5),
            gamma_mixture_density,
            [-mp.inf, 0, mp.inf],
            R(3, 4),
        ),
        (
            icl.GaussianMixture([0.25, 0.75], [[3], [-1]], [1, 2]),
            lambda z: mp.npdf(z, 3, 1) / 4 + 3 * mp.npdf(z, -1, mp.sqrt(2)) / 4,
            [-mp.inf, 0, mp.inf],
            R(3, 4),
        ),
        (
            icl.ScaleMixture([[2]], [0.5, 2], [0.25, 0.75]),
            lambda z: mp.npdf(z) / 4 + 3 * mp.npdf(z, 0, 2) / 4,
            [-mp.inf, 0, mp.inf],
            R(3, 4),
        ),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, icl.TokenLaw) else "",
)
def test_generating_function_by_quadrature(law, density, points, u):
    point = [u, *[0] * (law.dim - 1)]
    expected = moments(density, points, mp.mpf(sp.N(u, 20)))
    got = [
        value(law.cgf(point)),
        value(icl.limit_output(law, point))[0],
        value(icl.limit_jacobian(law, point))[0, 0],
    ]
    for ours, reference in zip(got, expected, strict=True):
        # Against the quadrature's own error; moments of order u^2 = 1e-12 have an absolute one.
        assert abs(ours - reference) < 1e-7 * abs(reference) + 1e-14
    assert abs(WRONG * got[2] - expected[2]) > 1e-7 * abs(expected[2]) + 1e-14


def test_sphere_in_every_dimension_is_a_cosine_integral():
    """E exp(u.z) = int sin^{d-2} exp(k cos) / int sin^{d-2}."""
    for dim in (2, 3, 4, 5, 8):
        u = [R(1, 2), *[R(-1, 3)] * (dim - 1)]
        k = mp.sqrt(mp.mpf(1) / 4 + mp.mpf(dim - 1) / 9) * 2
        top, base = (
            mp.quad(lambda a, d=dim, c=c: mp.sin(a) ** (d - 2) * mp.exp(c * mp.cos(a)), [0, mp.pi])
            for c in (k, 0)
        )
        got = value(icl.Sphere(dim, radius=2).cgf(u))
        assert abs(got - mp.log(top / base)) < 1e-12
        assert abs(1.03 * got - mp.log(top / base)) > 1e-3
    u = sp.Symbol("u", real=True)
    for x in (0, 0.3, 2):  # dim = 1 is a pair of points
        two = icl.limit_output(icl.Sphere(1, radius=2), [u]).expr[0].subs(u, x)
        assert abs(two - 2 * math.tanh(2 * x)) < 1e-14


@pytest.mark.parametrize(
    ("law", "density", "points"),
    [
        (icl.UniformCube(1, 1.5), lambda z: mp.mpf(1) / 3, [-1.5, 1.5]),
        (icl.Laplace(1, 0.5), lambda z: mp.exp(-2 * abs(z)), [-mp.inf, 0, mp.inf]),
        (icl.Gaussian([1], [[2]]), lambda z: mp.npdf(z, 1, mp.sqrt(2)), [-mp.inf, 0, mp.inf]),
    ],
    ids=["cube", "laplace", "gaussian"],
)
def test_expansion_by_quadrature_of_the_influences(law, density, points):
    """Covariance, bias and Jacobian error as E of products of w = exp(uz - K) and z, no tilting."""
    u, w = mp.mpf("0.4"), mp.mpf("-0.3")
    (ku, mu, hu), (kw, mw, _) = (moments(density, points, x) for x in (u, w))

    def mean(f):
        return mp.quad(lambda z: density(z) * f(z), points)

    def weight(z):
        return mp.exp(u * z - ku)

    def influence(z):
        return weight(z) * (z - mu)

    covariance = mean(lambda z: influence(z) * mp.exp(w * z - kw) * (z - mw))
    first = mean(lambda z: influence(z) * (weight(z) - 1))
    spread = mean(lambda z: (weight(z) - 1) ** 2)
    second = mean(lambda z: influence(z) * (weight(z) - 1) ** 2) - 3 * first * spread
    jacobian = mean(lambda z: (weight(z) * ((z - mu) ** 2 - hu)) ** 2)
    fourth = mean(lambda z: (z - mu) ** 4)
    expected = [covariance, -first, second, jacobian, fourth, spread + 1]
    got = [
        value(icl.leading_covariance(law, 0.4, -0.3))[0],
        value(icl.leading_bias(law, 0.4))[0],
        value(icl.leading_bias(law, 0.4, order=2))[0],
        value(icl.leading_jacobian_error(law, 0.4)),
        value(icl.fourth_moment(law, 0.4)),
        value(icl.weight_moment(law, 0.4)),
    ]
    for ours, reference in zip(got, expected, strict=True):
        assert abs(ours - reference) < 1e-9 * abs(reference)
        assert abs(1.03 * ours - reference) > 1e-9 * abs(reference)


# -- the expansion itself, by enumerating every prompt of a three-atom law ------------------------

ATOMS = np.array([[1, 0], [-0.5, 1], [0, -1.5]])
CHANCES = np.array([0.5, 0.2, 0.3])
U, W = np.array([0.4, -0.3]), np.array([-0.2, 0.35])


def enumerate_prompts(n):
    """Exact mean of T_n(u), Cov(T_n(u), T_n(w)) and E ||C_n - H||^2 over all counts of the atoms."""
    i, j = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    keep = i + j <= n
    counts = np.stack([i[keep], j[keep], n - i[keep] - j[keep]], axis=1)
    table = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    chance = np.exp(table[n] - table[counts].sum(axis=1) + counts @ np.log(CHANCES))

    def output(a):
        p = counts * np.exp(ATOMS @ a)
        p /= p.sum(axis=1, keepdims=True)
        return p, p @ ATOMS

    (p, first), (_, second) = output(U), output(W)
    means = chance @ first, chance @ second
    covariance = (first - means[0]).T @ ((second - means[1]) * chance[:, None])
    spread = np.einsum("bk,ki,kj->bij", p, ATOMS, ATOMS) - first[:, :, None] * first[:, None, :]
    q = CHANCES * np.exp(ATOMS @ U)
    q /= q.sum()
    hessian = (ATOMS - q @ ATOMS).T @ ((ATOMS - q @ ATOMS) * q[:, None])
    error = chance @ np.square(spread - hessian).sum(axis=(1, 2))
    return means[0], covariance, error


def test_expansion_by_exact_enumeration():
    """n times exact moments, extrapolated in 1/n from n = 60, 120, 240, 480."""
    law = LAWS[NAMES.index("Empirical")]
    lengths = [60, 120, 240, 480]
    limit = np.array(icl.limit_output(law, U).expr.evalf(30).tolist(), dtype=float)[:, 0]
    rows = [enumerate_prompts(n) for n in lengths]

    def extrapolate(values):
        """Constant term of the cubic through (1/n, value)."""
        powers = np.vander(1 / np.array(lengths), 4, increasing=True)
        flat = np.stack([np.ravel(v) for v in values])
        return np.linalg.solve(powers, flat)

    bias = extrapolate([n * (row[0] - limit) for n, row in zip(lengths, rows, strict=True)])
    covariance = extrapolate([n * row[1] for n, row in zip(lengths, rows, strict=True)])
    error = extrapolate([n * row[2] for n, row in zip(lengths, rows, strict=True)])
    assert_close(value(icl.leading_bias(law, U)), bias[0], 1e-5)
    assert_close(value(icl.leading_bias(law, U, order=2)), bias[1], 1e-5)
    assert_close(value(icl.leading_covariance(law, U, W)), covariance[0], 1e-5)
    assert_close([value(icl.leading_jacobian_error(law, U))], error[0], 1e-4)


def test_covariance_and_fourth_moment_of_atoms_exactly():
    """Rational atoms at u = log 2 times integers: an identity of rational numbers."""
    atoms = [sp.Matrix([1, 0]), sp.Matrix([-1, 2]), sp.Matrix([0, -1])]
    law = icl.Empirical([list(a) for a in atoms])
    u, w = sp.Matrix([sp.log(2), 0]), sp.Matrix([0, sp.log(2)])

    def tilt(a):
        weights = [sp.exp((a.T * x)[0]) for x in atoms]
        total = sp.Add(*weights)
        shares = [3 * e / total for e in weights]
        mean = sum((s * x for s, x in zip(shares, atoms, strict=True)), sp.zeros(2, 1)) / 3
        return shares, mean

    (pu, mu), (pw, mw) = tilt(u), tilt(w)
    total = sp.zeros(2, 2)
    for p, q, x in zip(pu, pw, atoms, strict=True):
        total += p * q * (x - mu) * (x - mw).T / 3
    got = icl.leading_covariance(law, u, w).expr
    assert (got - total).applyfunc(sp.nsimplify).is_zero_matrix
    assert not (got * WRONG - total).applyfunc(sp.nsimplify).is_zero_matrix
    quartic = sum(((x - mu).T * (x - mu))[0] ** 2 for x in atoms) / 3
    assert sp.nsimplify(sp.expand(icl.fourth_moment(law, u).expr - quartic)) == 0


# -- Gaussian laws, cumulants, linearity ----------------------------------------------------------


def test_gaussian_closed_forms_with_symbols():
    g11, g12, g22, u1, u2, w1, w2 = sp.symbols("g11 g12 g22 u1 u2 w1 w2", real=True)
    gamma, u, w = sp.Matrix([[g11, g12], [g12, g22]]), sp.Matrix([u1, u2]), sp.Matrix([w1, w2])
    law = icl.Gaussian([0, 0], gamma)
    product = sp.exp((u.T * gamma * w)[0]) * (gamma + gamma * w * u.T * gamma)
    got = icl.leading_covariance(law, u, w).expr
    assert (got - product).applyfunc(lambda x: sp.expand(x, power_exp=False)).is_zero_matrix
    weight = sp.exp((u.T * gamma * u)[0])
    bias = icl.leading_bias(law, u).expr + weight * gamma * u
    assert bias.applyfunc(lambda x: sp.expand(x, power_exp=False)).is_zero_matrix
    error = icl.leading_jacobian_error(law, u).expr / weight
    trace, form = gamma.trace(), lambda k: (u.T * gamma**k * u)[0]
    expected = (trace + form(2)) ** 2 + (gamma**2).trace() + 2 * form(3)
    assert sp.expand(sp.powsimp(sp.expand(error)) - expected) == 0
    moment = (trace + form(2)) ** 2 + 2 * (gamma**2).trace() + 4 * form(3)
    assert sp.expand(icl.fourth_moment(law, u).expr - moment) == 0
    assert sp.expand(icl.fourth_moment(law, u).expr - WRONG * moment) != 0


def test_singular_covariance():
    law = icl.Gaussian([1, 2], [[1, 1], [1, 1]])
    assert icl.limit_output(law, [3, -3]).expr == sp.Matrix([1, 2])
    assert icl.leading_covariance(law, [1, 0]).expr == 2 * sp.E * sp.ones(2, 2)
    point = icl.Empirical([[3, 4]])
    assert point.cgf([1, 2]) == 11
    assert icl.limit_output(point, [7, 8]).expr == sp.Matrix([3, 4])
    assert icl.leading_covariance(point, [7, 8]).expr == sp.zeros(2, 2)
    flat = icl.Empirical([[1, 5], [2, 5]])
    assert icl.limit_jacobian(flat, [0, 9]).expr == sp.Matrix([[R(1, 4), 0], [0, 0]])


def test_limit_is_linear_for_gaussian_laws_only():
    u = sp.symbols("u1:4", real=True)
    for law in LAWS:
        point = u[: law.dim]
        deviation = icl.limit_output(law, point).expr - icl.limit_linearization(law, point).expr
        at = dict(zip(point, [R(1, 2), R(-1, 3), R(1, 5)], strict=False))
        size = max(abs(sp.N(x.subs(at), 20)) for x in deviation)
        small = max(abs(sp.N(x.subs({k: v / 1000 for k, v in at.items()}), 30)) for x in deviation)
        if isinstance(law, icl.Gaussian):
            assert deviation.expand().is_zero_matrix
        else:
            assert size > 1e-3
            assert small < 1e-5  # order |u|^2 at least
    same = icl.GaussianMixture([0.5, 0.5], [[1], [1]], [2, 2])  # Gaussian in disguise
    assert (icl.limit_output(same, [u[0]]).expr - icl.limit_linearization(same, [u[0]]).expr)[
        0
    ] == 0


def test_cumulant_series_of_the_covariance():
    """k2 + 2 k3 a + 2 (k2^2 + k4) a^2 for equal heads of a skew law on the line."""
    law, a = icl.Empirical([[0], [1], [3]], weights=[0.5, 0.3, 0.2]), sp.Symbol("a", real=True)
    k2, k3, k4 = (sp.diff(law.cgf([a]), a, j).subs(a, 0) for j in (2, 3, 4))
    expr = icl.leading_covariance(law, [a]).expr[0]
    series = [sp.diff(expr, a, j).subs(a, 0) / sp.factorial(j) for j in range(3)]
    expected = [k2, 2 * k3, 2 * (k2**2 + k4)]
    assert [sp.nsimplify(s) for s in series] == expected
    assert k3 != 0
    assert sp.nsimplify(series[2]) != expected[2] * WRONG


# -- regression tokens ---------------------------------------------------------------------------


def test_regression_tokens_of_gaussian_features_are_gaussian():
    sigma, theta = sp.Matrix([[1, R(3, 10)], [R(3, 10), R(4, 5)]]), sp.Matrix([2, -1])
    tokens = icl.RegressionTokens(icl.Gaussian([0, 0], sigma), theta, noise_var=0.25)
    joint = sigma.row_join(sigma * theta).col_join(
        (theta.T * sigma).row_join(theta.T * sigma * theta + sp.Matrix([[R(1, 4)]]))
    )
    same, u = icl.Gaussian([0, 0, 0], joint), sp.symbols("u1:4")
    assert sp.expand(tokens.cgf(u) - same.cgf(u)) == 0
    assert icl.limit_jacobian(tokens, u).expr == joint
    wrong = icl.RegressionTokens(icl.Gaussian([0, 0], sigma), theta, noise_var=R(103, 400))
    assert sp.expand(wrong.cgf(u) - same.cgf(u)) != 0


def test_zero_limiting_risk_beyond_gaussian_features():
    """Rademacher features with b tanh(r^2 A) = 1; the sphere with b B(a r^2) = 1."""
    theta, r = [R(1, 2), R(-3, 4)], R(7, 10)
    tokens, a = icl.RegressionTokens(icl.Rademacher(2, scale=r), theta, 0.3), R(6, 5)
    b = 1 / sp.tanh(r**2 * a)
    for signs in itertools.product([1, -1], repeat=2):
        x = [r * s for s in signs]
        read = icl.limit_output(tokens, [a * x[0], a * x[1], 0]).expr[-1]
        target = theta[0] * x[0] + theta[1] * x[1]
        assert sp.N(b * read - target, 30, chop=True) == 0
        assert abs(sp.N(WRONG * b * read - target)) > 1e-3
    sphere = icl.RegressionTokens(icl.Sphere(3, radius=2), [1, 2, -1], 0.3)
    x = [R(2, 3) * c for c in (1, 2, 2)]
    b = 1 / (4 * a * bessel_quotient(R(1, 2), (4 * a) ** 2))
    read = icl.limit_output(sphere, [*(a * c for c in x), 0]).expr[-1]
    assert abs(sp.N(b * read - (x[0] + 2 * x[1] - x[2]), 30)) < 1e-25


# -- removable singularities, domains, compilation -------------------------------------------------


@pytest.mark.parametrize(
    "law", [icl.UniformCube(2, [1, 2]), icl.Sphere(2, 3)], ids=["cube", "sphere"]
)
def test_origin_is_a_regular_point(law):
    u1, u2 = sp.symbols("u1 u2", real=True)
    origin = {"u1": 0, "u2": 0}
    cov = sp.diag(R(1, 3), R(4, 3)) if isinstance(law, icl.UniformCube) else sp.eye(2) * R(9, 2)
    output, jacobian = icl.limit_output(law, [u1, u2]), icl.limit_jacobian(law, [u1, u2])
    assert output.subs(origin).expr == sp.zeros(2, 1)
    assert jacobian.subs(origin).expr == cov
    assert icl.limit_jacobian(law, [0, 0]).expr == cov
    assert icl.leading_covariance(law, [0, 0]).expr == cov
    assert icl.leading_covariance(law, [u1, u2]).subs(origin).expr == cov
    assert icl.limit_jacobian(law, [0, u2]).subs(u2=0).expr == cov
    points = [(0.0, 0.0), (1e-9, 0.0), (0.3, -0.4), (30.0, 40.0)]
    for formula in (output, jacobian, icl.leading_bias(law, [u1, u2])):
        results = {
            name: [numeric.compile(formula, name)(u1=a, u2=b) for a, b in points[:3]]
            for name in ("numpy", "math", "mpmath", "torch")
        }
        for name, rows in results.items():
            for row, reference in zip(rows, results["numpy"], strict=True):
                entries = row.tolist() if hasattr(row, "tolist") else row
                got = np.array(entries, dtype=float).reshape(reference.shape)
                np.testing.assert_allclose(got, reference, rtol=1e-12, atol=1e-15, err_msg=name)
    far = numeric.compile(output)(u1=[400.0, 0.0], u2=[300.0, 1e4])
    expected = [1 - 1 / 400, 2 - 1 / 300] if isinstance(law, icl.UniformCube) else None
    if expected:
        np.testing.assert_allclose(far[0, :, 0], expected, rtol=1e-12)
    assert np.all(np.isfinite(far))


def test_special_functions_rewrite_and_differentiate():
    s = sp.Symbol("s", positive=True)
    for nu in (-R(1, 2), 0, R(1, 2), 3):
        for function in (bessel_quotient, log_bessel):
            f = function(nu, s)
            for x in (R(1, 100), 2, 50):
                bessel = f.rewrite(sp.besseli).subs(s, x).evalf(25)
                assert abs(f.subs(s, x).evalf(25) - bessel) < 1e-22
            slope = f.diff(s).subs(s, 2).evalf(30)
            h = R(1, 10**8)
            difference = (f.subs(s, 2 + h) - f.subs(s, 2 - h)).evalf(40) / (2 * h)
            assert abs(slope - difference) < 1e-15
            assert abs(WRONG * slope - difference) > 1e-5
    half = bessel_quotient(sp.S.Half, s).rewrite(sp.coth)
    assert half == (sp.coth(sp.sqrt(s)) - 1 / sp.sqrt(s)) / sp.sqrt(s)
    assert log_bessel(sp.S.Half, s).rewrite(sp.coth) == sp.log(sp.sinh(sp.sqrt(s)) / sp.sqrt(s))
    assert "q_{1}" in sp.latex(bessel_quotient(1, s))
    assert "Lambda_{1}" in sp.latex(log_bessel(1, s))


def test_domain_travels_with_the_formula():
    u, c = sp.symbols("u c", positive=True)
    law = icl.Laplace(1, scale=c)
    assert icl.limit_output(law, [u]).validity == (u < 1 / c)
    assert icl.leading_covariance(law, [u]).validity == (2 * u < 1 / c)
    with pytest.raises(icl.OutOfDomain, match="is outside"):
        icl.leading_covariance(law, [u]).subs(u=1, c=R(6, 10))
    evaluator = numeric.compile(icl.limit_output(icl.Laplace(1, 0.5), [u]))
    with pytest.raises(icl.OutOfDomain, match=r"u = 2\.5"):
        evaluator(u=2.5)
    assert icl.Laplace(2, [1, 2]).domain([0, R(1, 3)]) == sp.true
    assert icl.Sphere(2).domain([u, u]) == sp.true
    assert icl.limit_output(icl.Gaussian([0], [[1]]), [u]).validity == sp.true


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: icl.Laplace(1, 0.5).cgf([2]),
            r"u = 2 is outside Abs\(u1\) < 2, where the cumulant",
        ),
        (lambda: icl.limit_output(icl.Laplace(2, 0.5), [0, -3]), r"u = \(0, -3\) is outside"),
        (
            lambda: icl.leading_covariance(icl.Laplace(1, 0.5), [1.5]),
            "the limit exists at u, but not this expansion",
        ),
        (lambda: icl.leading_covariance(icl.Laplace(1), [0.4], [0.5]), "moment of order 2"),
        (lambda: icl.leading_bias(icl.Laplace(1), [0.4], order=2), "moment of order 3"),
        (lambda: icl.leading_bias(icl.Laplace(1), [1]), "where the cumulant generating function"),
        (lambda: icl.limit_output(icl.GammaScaleMixture([[2]], 1), [1]), r"u1\*\*2 < 1"),
        (
            lambda: icl.limit_output(icl.RegressionTokens(icl.Laplace(1), [2]), [0.5, 0.5]),
            "is outside",
        ),
    ],
)
def test_outside_the_domain(call, message):
    with pytest.raises(icl.OutOfDomain, match=message):
        call()


def test_the_limit_exists_where_the_expansion_does_not():
    assert icl.limit_output(icl.Laplace(1, 0.5), [1.5]).expr[0] == R(12, 7)
