"""Large prompts, symbolic: closed forms of the laws, cumulant series, zero set, transfer dictionary."""

import mpmath as mp
import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from icltheory.flow import BLOCKS
from icltheory.gradients import block_symbols
from icltheory.matrix_calculus import explicit
from icltheory.symbols import b, d, n, noise_var

R = sp.Rational
WRONG = R(103, 100)  # every comparison must reject a value that is 3 % off
SIGMA = sp.Matrix([[1, R(3, 10)], [R(3, 10), R(4, 5)]])
COEFS = sp.Matrix([[9, -2], [-2, 5]]) / 10
QUERY = sp.Matrix([[7, 1], [1, 12]]) / 10
TASK = icl.LinearRegression(dim=2, noise_var=R(1, 4), feature_cov=SIGMA, coef_cov=COEFS)
UNIT = icl.LinearRegression(dim=2, noise_var=R(1, 4), feature_cov=SIGMA, coef_cov=1)
LINEAR = icl.LinearAttention()


def assert_equal(value, typed):
    """Entrywise equal expressions; `value` changed by 3 % is not."""
    value, typed = (x if isinstance(x, sp.MatrixBase) else sp.Matrix([x]) for x in (value, typed))
    assert (value - typed).applyfunc(sp.expand).is_zero_matrix
    assert not (value * WRONG - typed).applyfunc(sp.expand).is_zero_matrix


def assert_near(value, typed, error=1e-25):
    """Entrywise near numbers, evaluated to 40 digits."""
    value, typed = (
        np.atleast_1d(np.array(sp.Matrix([x]).evalf(40)).ravel()) for x in (value, typed)
    )
    assert np.all(np.abs(value - typed) < error), np.abs(value - typed).max()
    assert np.any(np.abs(WRONG * value - typed) > 1e10 * error)


def matrix_of(formula):
    """The explicit matrix of a formula in matrices, in symbols a1..a4 for A."""
    A = sp.Matrix(2, 2, sp.symbols("a1:5", real=True))
    return explicit(formula.expr, {**dict(formula.where), block_symbols(2)["A"]: A}), A


# -- the laws ------------------------------------------------------------------------------------


def rademacher(r, x):
    return sp.log(sp.cosh(r * x)), r * sp.tanh(r * x), r**2 / sp.cosh(r * x) ** 2


def uniform(r, x):
    k = r * x
    slope = r**2 * (1 / k**2 - 1 / sp.sinh(k) ** 2)
    return sp.log(sp.sinh(k) / k), r * (sp.coth(k) - 1 / k), slope


def laplace(c, x):
    left = 1 - c**2 * x**2
    return -sp.log(left), 2 * c**2 * x / left, 2 * c**2 * (1 + c**2 * x**2) / left**2


@pytest.mark.parametrize(
    ("law", "coordinate"),
    [
        (icl.Rademacher(2, [1, R(7, 10)]), rademacher),
        (icl.UniformCube(2, [1, R(7, 10)]), uniform),
        (icl.Laplace(2, [1, R(7, 10)]), laplace),
    ],
)
def test_laws_of_independent_coordinates_as_printed(law, coordinate):
    u = [R(2, 5), R(-3, 4)]
    parts = [coordinate(scale, x) for scale, x in zip((sp.S.One, R(7, 10)), u, strict=True)]
    assert_near(law.cgf(u), sum(part[0] for part in parts))
    assert_near(icl.limit_output(law, u).expr, sp.Matrix([part[1] for part in parts]))
    assert_near(icl.limit_jacobian(law, u).expr, sp.diag(*(part[2] for part in parts)))


def test_sphere_as_printed():
    dim, r, u = 5, R(3, 2), sp.Matrix([R(1, 2), -1, R(1, 3), 0, 1])
    norm = sp.sqrt((u.T * u)[0])
    k, e, nu = r * norm, u / norm, R(dim, 2) - 1
    bessel = sp.besseli(nu, k)
    ratio = sp.besseli(nu + 1, k) / bessel
    slope = 1 - ratio**2 - (dim - 1) * ratio / k
    law = icl.Sphere(dim, radius=r)
    cgf = sp.loggamma(R(dim, 2)) + nu * sp.log(2 / k) + sp.log(bessel)
    assert_near(law.cgf(list(u)), cgf)
    assert_near(icl.limit_output(law, list(u)).expr, r * ratio * e)
    hessian = r**2 * (slope * e * e.T + ratio / k * (sp.eye(dim) - e * e.T))
    assert_near(icl.limit_jacobian(law, list(u)).expr, hessian)


def test_mixtures_as_printed():
    u = sp.Matrix([R(1, 2), R(-3, 5)])
    chances, scales = [R(2, 5), R(3, 5)], [R(1, 2), R(3, 2)]
    means, covs = [sp.Matrix([1, -1]), sp.Matrix([0, 2])], [SIGMA, QUERY]
    law = icl.GaussianMixture(chances, means, covs)
    share = [
        p * sp.exp((u.T * m + u.T * g * u / 2)[0])
        for p, m, g in zip(chances, means, covs, strict=True)
    ]
    r = [x / sum(share) for x in share]
    read = [m + g * u for m, g in zip(means, covs, strict=True)]
    m1 = r[0] * read[0] + r[1] * read[1]
    hessian = sum(
        (x * (g + (y - m1) * (y - m1).T) for x, g, y in zip(r, covs, read, strict=True)),
        sp.zeros(2),
    )
    assert_near(law.cgf(u), sp.log(sum(share)))
    assert_near(icl.limit_output(law, u).expr, m1)
    assert_near(icl.limit_jacobian(law, u).expr, hessian)
    # A scale mixture through M(q) = E exp(q T); every token covariance is a multiple of one.
    q = sp.Symbol("q")
    M = sp.Add(*(p * sp.exp(t * q) for p, t in zip(chances, scales, strict=True)))
    gamma_u = SIGMA * u
    at = {q: (u.T * gamma_u)[0] / 2}
    first, second = (M.diff(q, k) / M for k in (1, 2))
    law = icl.ScaleMixture(SIGMA, scales, chances)
    assert_near(law.cgf(u), sp.log(M).subs(at))
    assert_near(icl.limit_output(law, u).expr, (first * gamma_u).subs(at))
    hessian = (first * SIGMA + (second - first**2) * gamma_u * gamma_u.T).subs(at)
    assert_near(icl.limit_jacobian(law, u).expr, hessian)


# -- cumulants -----------------------------------------------------------------------------------

SKEW = icl.Empirical([[0, 0], [1, 0], [3, 1], [0, 2]], weights=[0.4, 0.3, 0.2, 0.1])
HEADS = sp.Matrix([R(1, 2), R(-1, 3)]), sp.Matrix([R(1, 5), R(3, 4)])


def cumulant(law, *directions):
    """The cumulant tensor at 0 contracted with directions; `None` leaves an index open."""
    u = sp.symbols("u1:3", real=True)
    opened = [k for k, x in enumerate(directions) if x is None]

    def entry(*index):
        value = law.cgf(list(u))
        for k, direction in enumerate(directions):
            if direction is None:
                value = value.diff(u[index[opened.index(k)]])
            else:
                value = sp.Add(*(c * value.diff(x) for c, x in zip(direction, u, strict=True)))
        return sp.nsimplify(value.subs(dict.fromkeys(u, 0)))

    if len(opened) == 2:
        return sp.Matrix(2, 2, entry)
    return sp.Matrix(2, 1, lambda i, _: entry(i)) if opened else entry()


def taylor(expr, t, order):
    """Taylor coefficients at t = 0, entrywise, to 25 digits."""
    flat = [expr] if not isinstance(expr, sp.MatrixBase) else list(expr)
    with mp.workdps(60):
        rows = [mp.taylor(sp.lambdify(t, x, "mpmath"), 0, order) for x in flat]
    return [[row[k] for row in rows] for k in range(order + 1)]


def assert_series(expr, t, coefficients):
    """The first Taylor coefficients of `expr`; each of them changed by 3 % is rejected."""
    found = taylor(expr, t, len(coefficients) - 1)
    for got, expected in zip(found, coefficients, strict=True):
        typed = [mp.mpf(sp.Rational(x).p) / sp.Rational(x).q for x in sp.Matrix([expected])]
        gaps = [abs(x - y) for x, y in zip(got, typed, strict=True)]
        assert max(gaps) < 1e-12
        if any(typed):
            assert max(abs(1.03 * x - y) for x, y in zip(got, typed, strict=True)) > 1e-4


def test_output_and_weights_in_cumulants():
    t, a = sp.Symbol("t", real=True), HEADS[0]
    point = list(t * a)
    output, jacobian = icl.limit_output(SKEW, point).expr, icl.limit_jacobian(SKEW, point).expr
    k1, k2, k3, k4 = (cumulant(SKEW, None, *[a] * k) for k in range(4))
    assert_series(output, t, [k1, k2, k3 / 2, k4 / 6])
    k2, k3, k4 = (cumulant(SKEW, None, None, *[a] * k) for k in range(3))
    assert_series(jacobian, t, [k2, k3, k4 / 2])
    shift = icl.limit_output(SKEW, list(2 * t * a)).expr - output
    k2, k3 = (cumulant(SKEW, None, *[a] * k) for k in (1, 2))
    assert_series(shift, t, [sp.zeros(2, 1), k2, R(3, 2) * k3])
    k2, k3, k4 = (cumulant(SKEW, *[a] * k) for k in (2, 3, 4))
    log_moment = sp.log(icl.weight_moment(SKEW, point).expr)
    assert_series(log_moment, t, [0, 0, k2, k3, R(7, 12) * k4])


def test_covariance_of_two_heads_in_cumulants():
    t = sp.Symbol("t", real=True)
    a, w = HEADS
    both = a + w
    covariance = icl.leading_covariance(SKEW, list(t * a), list(t * w)).expr
    k2 = cumulant(SKEW, None, None)
    second = (a.T * k2 * w)[0] * k2 + (k2 * w) * (k2 * a).T
    second += cumulant(SKEW, None, None, both, both) / 2
    assert_series(covariance, t, [k2, cumulant(SKEW, None, None, both), second])
    weight = icl.leading_covariance(SKEW, list(t * a), list(t * w)).steps[0].equation.rhs
    third = cumulant(SKEW, a, a, w) / 2 + cumulant(SKEW, a, w, w) / 2
    assert_series(sp.log(weight), t, [0, 0, (a.T * k2 * w)[0], third])


def test_opposite_heads():
    """exp(-s^2) (G - G a a'G): smaller than one head's, negative along the score only for s > 1.

    Values of opposite signs turn the positive part into negatively correlated outputs.
    """
    s = sp.Symbol("s", positive=True)
    pair = icl.leading_covariance(icl.Gaussian([0, 0], sp.eye(2)), [s, 0], [-s, 0]).expr
    assert_equal(pair, sp.exp(-(s**2)) * sp.diag(1 - s**2, 1))
    assert pair[0, 0].subs(s, R(9, 10)) > 0 > pair[0, 0].subs(s, R(11, 10))
    # One head of value 1/s, or values +-1/(2 s): the same limit, the tails of the single one gone.
    task = icl.LinearRegression(dim=2, coef_cov=1)
    one = icl.head_constant(task, [R(1, 2)], [2])
    two = icl.head_constant(task, [R(1, 2), R(-1, 2)], [1, -1])
    same = icl.head_constant(task, [R(1, 2), R(1, 2)], [1, 1])
    assert same.expr == one.expr
    assert float(two) < float(one) / 2


# -- Gaussian tokens -----------------------------------------------------------------------------


def test_push_forward_of_the_token_law():
    """Query z ~ N(m, G): output N(V (m + G U m), V G U G U'G V')."""
    m, gamma = sp.Matrix([1, -2]), SIGMA
    U, V = sp.Matrix([[R(1, 2), 1], [-1, R(1, 3)]]), sp.Matrix([[1, 2], [0, -1], [1, 1]])
    z = sp.Matrix(sp.symbols("z1 z2", real=True))
    output = V * icl.limit_output(icl.Gaussian(m, gamma), list(U * z)).expr

    def mean(expr):
        return icl.wick_moment(sp.expand(expr), list(z), list(m), gamma)

    first = output.applyfunc(mean)
    assert_equal(first, V * (m + gamma * U * m))
    second = (output * output.T).applyfunc(mean) - first * first.T
    assert_equal(second, V * gamma * U * gamma * U.T * gamma * V.T)
    # An affine output of a Gaussian is Gaussian: nothing is left of degree two.
    assert all(sp.Poly(x, *z).total_degree() == 1 for x in output)
    curved = icl.limit_output(icl.Rademacher(2), list(U * z)).expr
    assert not sp.hessian(curved[0], list(z)).is_zero_matrix


@pytest.mark.parametrize("value", [sp.Matrix([[2, 1]]), sp.Matrix([[1, 0]])])
def test_softmax_equals_linear_attention_iff_the_mean_is_not_read(value):
    m = sp.Matrix([1, -2])
    z = sp.Matrix(sp.symbols("z1 z2", real=True))
    softmax = value * icl.limit_output(icl.Gaussian(m, SIGMA), list(z)).expr
    linear = value * (SIGMA + m * m.T) * z
    gap = (softmax - linear)[0].expand()
    assert (gap == 0) == ((value * m)[0] == 0)


def test_affine_outputs_have_constant_jacobians():
    """The converse: every law that is not Gaussian has a Hessian that moves."""
    laws = [
        icl.Rademacher(2),
        icl.UniformCube(2),
        icl.Laplace(2, R(1, 2)),
        icl.Sphere(2),
        SKEW,
        icl.ScaleMixture(SIGMA, [R(1, 2), 1]),
        icl.GaussianMixture(None, [[1, 0], [-1, 0]], [SIGMA, SIGMA]),
    ]
    points = [R(1, 3), R(1, 5)], [R(2, 5), R(-1, 5)]
    for law in laws:
        first, second = (icl.limit_jacobian(law, u).expr.evalf(20) for u in points)
        assert max(abs(x) for x in first - second) > 1e-3
    gaussian = icl.limit_jacobian(icl.Gaussian([1, 0], SIGMA), sp.symbols("u1 u2")).expr
    assert gaussian == SIGMA


# -- the zero set --------------------------------------------------------------------------------


def random_blocks(rng):
    def draw(*shape):
        return sp.Matrix(*shape, [R(int(x), 7) for x in rng.integers(-9, 10, np.prod(shape))])

    return draw(2, 2), draw(2, 1), draw(2, 1), R(int(rng.integers(1, 9)), 5)


def test_risk_is_a_sum_of_squares():
    """c0'Sq c0 + tr M'Sq M S + 2 b^2 t2 u'Sq u: it vanishes only with each of the three."""
    rng = np.random.default_rng(4)
    risk = icl.infinite_prompt_risk(TASK, query_cov=QUERY)
    product = SIGMA * COEFS
    q0, t2 = product.trace() + R(1, 4), (product * product).trace()
    for _ in range(3):
        A, u, v, value = random_blocks(rng)
        c0 = A.T * SIGMA * v + value * q0 * u
        M = value * A.T * SIGMA + u * v.T * SIGMA - sp.eye(2)
        parts = (
            (c0.T * QUERY * c0)[0],
            (M.T * QUERY * M * COEFS).trace(),
            2 * value**2 * t2 * (u.T * QUERY * u)[0],
        )
        assert min(parts) > 0
        assert_equal(risk.subs(A=A, u=list(u), v=list(v), b=value).expr, sum(parts))


def test_without_a_label_value_the_risk_has_a_floor():
    """b = 0 leaves a matrix of rank one against the identity: d - 1 of d directions remain."""
    rng = np.random.default_rng(5)
    for dim in (2, 3):
        task = icl.LinearRegression(dim=dim, noise_var=1, coef_cov=1)
        risk = icl.infinite_prompt_risk(task)
        zero = sp.zeros(dim)
        for _ in range(5):
            u, v = rng.integers(-5, 6, (2, dim)).tolist()
            assert risk.subs(A=zero, u=u, v=v, b=0).expr >= dim - 1
        v = [1] * dim
        u = [R(1, dim)] * dim
        assert risk.subs(A=zero, u=u, v=v, b=0).expr == dim - 1


# -- flow ----------------------------------------------------------------------------------------


def test_score_factor_multiplies_the_speed_by_its_square():
    """Scores c x'A_0 x_q with A_0 trained: A = c A_0 moves c^2 times as fast, b^2 - |A_0|^2 stays."""
    c = R(1, 3)
    flow = icl.gradient_flow(TASK)
    velocity, A = matrix_of(flow.velocities["A"])
    speed_b, _ = matrix_of(flow.velocities["b"])
    inner = sp.Matrix(2, 2, sp.symbols("i1:5", real=True))
    at = dict(zip(A, c * inner, strict=True))
    risk, _ = matrix_of(flow.risk)
    risk = risk.subs(at, simultaneous=True)
    trained = inner.applyfunc(lambda x: -sp.diff(risk, x) / 2)
    assert_equal(c * trained, c**2 * velocity.subs(at, simultaneous=True))
    change = 2 * b * speed_b.subs(at, simultaneous=True) - 2 * (inner.T * trained).trace()
    assert sp.expand(change) == 0
    # That of the effective scores is not conserved.
    assert sp.expand(change + 2 * (inner.T * trained).trace() * (1 - c**2)) != 0


def test_depth_of_the_published_start():
    """tr Sigma/2 - R(0) = alpha^2 tr P Sigma^2 - alpha^4/2 tr P Sigma P Sigma^2 gives the bound's rate."""
    flow = icl.gradient_flow(UNIT)
    for alpha, theta in ((R(1, 3), [[1, 0], [2, 1]]), (R(6, 5), [[1], [-1]])):
        start = flow.initial(alpha, theta=theta)
        P = start["A"] / alpha
        typed = alpha**2 * (P * SIGMA**2).trace()
        typed -= alpha**4 / 2 * (P * SIGMA * P * SIGMA**2).trace()
        assert_near(SIGMA.trace() / 2 - flow.risk.subs(start).expr / 2, typed)
        largest = max(SIGMA.eigenvals(), key=float)
        assert float(alpha**2 * largest) < 2
        assert float(typed) > 0
    # Balanced isotropic start: beta_2 = delta0/|Sigma^2|, contraction 2 beta_2 lam^3.
    lam, alpha, dim = R(3, 2), R(1, 4), 5
    task = icl.LinearRegression(dim=dim, feature_cov=lam, coef_cov=1)
    rate = icl.convergence_rates(task)["global"].subs(a0=alpha / sp.sqrt(dim), b0=alpha)
    depth = alpha**2 * sp.sqrt(dim) * lam**2 - alpha**4 / 2 * lam**3
    assert_near(rate.expr, 2 * depth / (sp.sqrt(dim) * lam**2) * lam**3)


def test_linear_attention_flow_of_the_value_as_printed():
    task = icl.LinearRegression(dim=2, noise_var=noise_var, feature_cov=SIGMA, coef_cov=1)
    flow = icl.gradient_flow(task, attention=LINEAR, prompt_length=n)
    speed, A = matrix_of(flow.velocities["b"])
    gamma = (1 + 1 / n) * SIGMA + (SIGMA.trace() + noise_var) / n * sp.eye(2)
    typed = (A.T * SIGMA**2).trace() - b * (A.T * SIGMA * gamma * A * SIGMA).trace()
    assert_equal(speed, typed)


def test_linear_attention_risk_as_printed():
    """2R_inf + (1/n) E [b^2 {(w'Sigma a)^2 + a'Sigma a (w'Sigma w + noise)}], a = A x."""
    full = icl.linear_attention_risk(TASK, n, query_cov=QUERY)
    symbols = block_symbols(2)
    A = sp.Matrix(2, 2, sp.symbols("a1:5", real=True))
    zero = sp.zeros(2, 1)
    ours = explicit(
        full.expr, {**dict(full.where), symbols["A"]: A, symbols["u"]: zero, symbols["v"]: zero}
    )
    x, w = sp.Matrix(sp.symbols("x1:3")), sp.Matrix(sp.symbols("w1:3"))
    a = A * x
    error = b * (w.T * SIGMA * a)[0] - (w.T * x)[0]
    noise = b**2 * ((w.T * SIGMA * a)[0] ** 2)
    noise += b**2 * (a.T * SIGMA * a)[0] * ((w.T * SIGMA * w)[0] + R(1, 4))
    inner = icl.wick_moment(sp.expand(error**2 + noise / n), list(w), [0, 0], COEFS)
    typed = icl.wick_moment(sp.expand(inner), list(x), [0, 0], QUERY)
    assert_equal(ours, typed)


# -- transfer dictionary -------------------------------------------------------------------------


def test_infinite_prompt_flows_of_both_layers_are_identical():
    for blocks in (("A", "b"), BLOCKS):
        softmax = icl.gradient_flow(TASK, blocks=blocks)
        linear = icl.gradient_flow(TASK, blocks=blocks, attention=LINEAR)
        assert softmax.velocity == linear.velocity
        assert softmax.risk.expr == linear.risk.expr
        finite = icl.gradient_flow(TASK, blocks=blocks, attention=LINEAR, prompt_length=9)
        assert finite.velocity != linear.velocity


def test_covariance_of_both_layers():
    """n Cov: s^2 G + G a a'G, exact, for linear attention; exp(s^2) (G + G a a'G) for softmax."""
    a = sp.Matrix([R(1, 2), R(-3, 4)])
    z = sp.Matrix(sp.symbols("z1 z2", real=True))
    read = z * (z.T * a)[0]  # one token of linear attention

    def mean(expr):
        return icl.wick_moment(sp.expand(expr), list(z), [0, 0], SIGMA)

    first = read.applyfunc(mean)
    assert_equal(first, SIGMA * a)
    linear = (read * read.T).applyfunc(mean) - first * first.T
    s2, outer = (a.T * SIGMA * a)[0], SIGMA * a * a.T * SIGMA
    assert_equal(linear, s2 * SIGMA + outer)
    softmax = icl.leading_covariance(icl.Gaussian([0, 0], SIGMA), list(a)).expr
    assert_equal(softmax, sp.exp(s2) * (SIGMA + outer))


def test_the_split_of_scores_and_value_matters_for_softmax_only():
    c = sp.Symbol("c", positive=True)
    risk = icl.linear_attention_risk(TASK, n)
    A, zero = sp.Matrix([[R(1, 2), R(1, 5)], [0, R(3, 4)]]), sp.zeros(2, 1)
    table = {x: zero for name, x in block_symbols(2).items() if name in ("u", "v")}

    def at(scores, value):
        expr = explicit(risk.expr, {**dict(risk.where), block_symbols(2)["A"]: scores, **table})
        return sp.expand(expr.subs(b, value))

    assert at(c * A, 2 / c) == at(A, sp.Integer(2))
    valley = icl.valley_constant(TASK)  # one risk at n = infinity, all b
    best = icl.optimal_valley_constant(TASK)
    assert best.minimizer is not None
    assert float(valley.subs(b=1.2 * best.minimizer[b])) > 1.01 * float(best)


def test_best_risks_and_the_price_of_softmax():
    linear = icl.optimal_linear_attention(
        icl.LinearRegression(dim=d, noise_var=noise_var, coef_cov=1)
    )
    # Reference: R* = d (d + 1 + noise)/(2 (n + d + 1 + noise)), half of the risk here.
    typed = d * (d + 1 + noise_var) / (n + d + 1 + noise_var)
    assert sp.cancel(linear.expr - typed) == 0
    for dim, ratio in ((1, 1.0345), (2, 1.0200), (5, 1.0067), (10, 1.0023)):
        best = icl.optimal_valley_constant(icl.LinearRegression(dim=dim, coef_cov=1))
        found = float(best) / float(sp.E * (dim + 2) * dim)
        assert abs(found - ratio) < 1e-4
        assert abs(1.03 * found - ratio) > 0.02
        gain = float(icl.multihead_gain(icl.LinearRegression(dim=dim)))
        assert abs(gain / (ratio * float(sp.E) * (dim + 2) / (dim + 1)) - 1) < 1e-4
    for dim in (100, 1000):
        best = icl.optimal_valley_constant(icl.LinearRegression(dim=dim))
        assert best.minimizer is not None
        assert abs(float(best.minimizer[b] ** 2) - dim - 3) < 1.1 / dim


def test_several_heads_of_an_infinite_prompt_are_one_map():
    scores = [sp.Matrix([[R(1, 2), R(1, 5)], [0, 1]]), sp.Matrix([[-1, 0], [R(1, 3), R(1, 4)]])]
    values = [R(3, 2), R(-2, 5)]
    merged = values[0] * scores[0] + values[1] * scores[1]
    several = icl.limit_risk(TASK, icl.SoftmaxAttention(scores=scores, values=values))
    one = icl.limit_risk(TASK, icl.SoftmaxAttention(scores=[merged], values=[1]))
    assert several.expr == one.expr
    other = icl.limit_risk(TASK, icl.SoftmaxAttention(scores=[WRONG * merged], values=[1]))
    assert several.expr != other.expr
    # At order 1/n they differ.
    small = [x / 4 for x in scores]
    split = icl.head_expansion(TASK, small, values).expr
    whole = icl.head_expansion(TASK, [merged / 4], [1]).expr
    assert sp.limit(split - whole, n, sp.oo) == 0
    assert abs(float(split.coeff(n, -1)) / float(whole.coeff(n, -1)) - 1) > 0.02


def test_log_normal_weights():
    """E w^k = exp(k (k - 1) s^2/2)."""
    law, u = icl.Gaussian([1, 0], SIGMA), sp.Matrix(sp.symbols("u1 u2", real=True))
    square = (u.T * SIGMA * u)[0]
    for power in (2, 3, 5):
        found = sp.log(icl.weight_moment(law, list(u), power).expr)
        log_moment = sp.expand_log(found, force=True)
        assert_equal(log_moment, R(power * (power - 1), 2) * square)
