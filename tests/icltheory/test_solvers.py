"""Filters of solvers against dense exact matrices, recursions against closed forms; V2 and V3."""

import itertools
import pickle

import pytest
import sympy as sp

import icltheory as icl
from icltheory import filters
from icltheory.spectral import PowerSolver
from icltheory.symbols import frobenius, lam, lam_max, lam_min, steps, trace

R = sp.Rational
ETA, MU, ALPHA = sp.symbols("eta mu alpha", positive=True)
TALL = sp.Matrix([[1, 2, 0], [0, 1, -1], [2, 0, 1], [1, 1, 1]])
WIDE = TALL[:2, :]
LABELS = sp.Matrix([1, R(-1, 2), 3, R(2, 3)])
START = sp.Matrix([R(1, 3), -1, 2])

FIXED = {
    "descent": icl.GradientDescent(R(1, 20)),
    "Newton from S": icl.IterativeNewton(R(1, 90)),
    "Newton from I": icl.IterativeNewton(R(1, 20), start="I"),
    "cubic": icl.HyperPower(3, R(1, 20)),
    "cubic from S": icl.HyperPower(3, R(1, 90), start="S"),
    "ridge Newton": icl.RidgeNewton(R(1, 2), R(1, 120)),
    "heavy ball": icl.HeavyBall(R(1, 20), R(1, 4)),
    "Nesterov": icl.Nesterov(R(1, 20), R(1, 3)),
    "Chebyshev": icl.Chebyshev(1, 9),
    "GD++": icl.GDPlusPlus([R(1, 20)] * 3, [R(1, 50), R(1, 70), 0]),
}
REPEATED = {name: s for name, s in FIXED.items() if name != "GD++"}
ALL = [
    *FIXED.values(),
    icl.GradientFlow(),
    icl.Ridge(R(1, 2)),
    icl.OrdinaryLeastSquares(),
    icl.ConjugateGradient(),
    icl.OnlineGradientDescent(R(1, 10)),
    icl.OnlineGradientDescent(),
]


def on_matrix(coefficients, matrix):
    """A polynomial of a matrix, by Horner's scheme."""
    out = sp.zeros(*matrix.shape)
    for c in reversed(coefficients):
        out = out * matrix + c * sp.eye(matrix.rows)
    return out


def dense(solver, features, labels, count):
    """The weights after `count` steps, written down with matrices, and from which start."""
    gram, target = features.T * features, features.T * labels
    eye = sp.eye(gram.rows)
    match solver:
        case icl.IterativeNewton() | icl.HyperPower() | icl.RidgeNewton():
            shifted = gram + getattr(solver, "penalty", 0) * eye
            matrix = solver.scale * (eye if getattr(solver, "start", "S") == "I" else shifted)
            for _ in range(count):
                error = eye - shifted * matrix
                order = getattr(solver, "order", 2)
                matrix = matrix * sum((error**j for j in range(1, order)), eye)
            return matrix * target, sp.zeros(3, 1)
        case icl.GDPlusPlus():
            x, y, query, predicted = features, labels, eye, sp.zeros(3, 1)
            layers = zip(solver.step_sizes, solver.contractions, strict=True)
            for step, contraction in list(layers)[:count]:
                here, moment = x.T * x, x.T * y
                predicted += step * query * moment
                y = y - step * x * moment
                x, query = x - contraction * x * here, query - contraction * query * here
            return predicted, sp.zeros(3, 1)
    new, old = START, START
    if isinstance(solver, icl.Chebyshev):
        schedule = solver.schedule(count)
    else:
        schedule = [(solver.step_size, getattr(solver, "momentum", 0))] * count
    for step, momentum in schedule:
        ahead = new + momentum * (new - old)
        at = ahead if isinstance(solver, icl.Nesterov) else new
        new, old = ahead - step * (gram * at - target), new
    return new, START


@pytest.mark.parametrize("features", [TALL, WIDE], ids=["n > d", "n < d"])
@pytest.mark.parametrize("name", FIXED)
def test_filters_are_what_dense_matrices_do(name, features):
    solver, labels = FIXED[name], LABELS[: features.rows, :]
    gram, target = features.T * features, features.T * labels
    for count in range(4 if name in ("descent", "heavy ball", "Nesterov", "Chebyshev") else 3):
        residual = solver.residual_polynomial(count)
        solution = solver.solution_polynomial(count)
        weights, start = dense(solver, features, labels, count)
        predicted = on_matrix(solution, gram) * target + on_matrix(residual, gram) * start
        assert predicted.expand() == weights.expand()
        if count:
            lowest = next(j for j, c in enumerate(residual) if j and c != 0)
            changed = [c * (R(103, 100) if j == lowest else 1) for j, c in enumerate(residual)]
            wrong = [-c for c in changed[1:]]
            assert on_matrix(wrong, gram) * target + on_matrix(changed, gram) * start != weights


@pytest.mark.parametrize("name", REPEATED)
def test_closed_forms_are_the_recursions(name):
    """A symbolic number of steps, then put in, gives the recursion's polynomial at 0, ..., 8 steps."""
    solver = REPEATED[name]
    closed, quotient = solver.residual_filter(steps), solver.solution_filter(steps)
    for count in range(5 if "Newton" in name or "cubic" in name else 9):
        polynomial = sp.Poly(list(reversed(solver.residual_polynomial(count))), lam)
        solution = sp.Poly(list(reversed(solver.solution_polynomial(count) or (0,))), lam)
        for value in (R(1, 7), R(13, 3), 11):
            at = {steps: count, lam: value}
            assert closed.subs(at).equals(polynomial.eval(value))
            assert quotient.subs(at).equals(solution.eval(value))
            assert sp.expand(solver.residual_filter(count).subs(lam, value)) == polynomial.eval(
                value
            )
            assert sp.expand(solver.solution_filter(count).subs(lam, value)) == solution.eval(value)
        assert solver.solution_filter(count).subs(lam, 0) == solution.eval(0)
        assert polynomial.eval(0) == 1
        assert (
            solver.degree(count) == polynomial.degree() == solver.degree(steps).subs(steps, count)
        )


@pytest.mark.parametrize(
    "solver",
    [
        icl.GradientDescent(ETA),
        icl.HeavyBall(ETA, MU),
        icl.Nesterov(ETA, MU),
        icl.IterativeNewton(ALPHA),
    ],
    ids=lambda s: type(s).__name__,
)
def test_symbolic_parameters(solver):
    closed = solver.residual_filter(steps)
    for count in range(5):
        expanded = sum(c * lam**j for j, c in enumerate(solver.residual_polynomial(count)))
        assert sp.simplify(closed.subs(steps, count) - expanded) == 0


def test_the_printed_recursions_of_the_reference():
    first, second = icl.HeavyBall(ETA, MU).recursion
    assert sp.expand(first - (1 + MU - ETA * lam)) == 0
    assert second == -MU
    first, second = icl.Nesterov(ETA, MU).recursion
    assert sp.expand(first - (1 - ETA * lam) * (1 + MU)) == 0
    assert sp.expand(second + (1 - ETA * lam) * MU) == 0
    argument = (1 + 3 - 2 * lam) / (3 - 1)
    chebyshev = icl.Chebyshev(1, 3).residual_filter(steps)
    for count in range(9):
        expected = sp.chebyshevt(count, argument) / sp.chebyshevt(count, 2)
        assert sp.expand(chebyshev.subs(steps, count) - expected) == 0


def test_an_update_that_moves_the_solution_is_no_solver():
    with pytest.raises(AssertionError, match="does not stop"):
        filters.linear_recursion(lambda w, old, b: w - ETA * (lam * w - 2 * b))
    with pytest.raises(AssertionError, match="no power"):
        filters.residual_order(lambda m, s: 2 * m - s * m * m * R(103, 100))


# -- V2 ------------------------------------------------------------------------------------------


def test_newton_squares_the_residual_for_any_start_and_rank():
    gram = WIDE.T * WIDE
    matrix = sp.Matrix(3, 3, [1, 2, 0, -1, R(1, 2), 3, 0, 1, 1])
    error = sp.eye(3) - gram * matrix
    following = sp.eye(3) - gram * (2 * matrix - matrix * gram * matrix)
    assert following.expand() == (error**2).expand()
    for order in (2, 3, 5):
        solver = icl.HyperPower(order, ALPHA)
        assert solver.power(steps) == order**steps
        assert filters.residual_order(solver.update) == order
    assert filters.residual_order(icl.IterativeNewton(ALPHA).update) == 2


def test_matrices_of_the_first_newton_steps():
    solver = icl.IterativeNewton(ALPHA)
    assert solver.solution_polynomial(0) == (0, ALPHA)
    assert solver.solution_polynomial(1) == (0, 2 * ALPHA, 0, -(ALPHA**2))
    assert solver.solution_polynomial(2) == (
        *(0, 4 * ALPHA, 0, -6 * ALPHA**2),
        *(0, 4 * ALPHA**3, 0, -(ALPHA**4)),
    )
    assert solver.degree(steps) == 2 * 2**steps  # of r; M_k has one less
    # The coefficients printed in the paper are not those.
    assert solver.solution_polynomial(1) != (0, 2 * ALPHA, 0, -4 * ALPHA**2)


def test_newton_from_the_identity_is_descent():
    for count in range(6):
        equal = icl.equivalent_descent(icl.IterativeNewton(ALPHA, start="I"), count)
        assert (equal.solver, equal.steps, equal.gram_power) == (
            *(icl.GradientDescent(ALPHA), 2**count, 1),
        )
        newton = icl.IterativeNewton(ALPHA, start="I").residual_polynomial(count)
        assert newton == equal.solver.residual_polynomial(equal.steps)


def test_newton_from_s_is_descent_on_the_squared_problem():
    solver = icl.IterativeNewton(R(1, 90))
    equal = icl.equivalent_descent(solver, 2)
    assert (equal.steps, equal.gram_power) == (4, 2)
    gram, target = TALL.T * TALL, TALL.T * LABELS
    w = sp.zeros(3, 1)
    for _ in range(4):
        w -= equal.solver.step_size * gram * (gram * w - target)
    assert w == dense(solver, TALL, LABELS, 2)[0]
    with pytest.raises(icl.InvalidInput, match="descent in disguise"):
        icl.equivalent_descent(icl.RidgeNewton(1, 1))


# -- V3 ------------------------------------------------------------------------------------------


def test_at_the_boundary_the_top_direction_is_never_learned():
    solver = icl.IterativeNewton(2 / lam_max**2)
    assert solver.residual_filter(0).subs(lam, lam_max) == -1
    for count in range(1, 6):
        assert solver.residual_filter(count).subs(lam, lam_max) == 1
    assert solver.stability is sp.false
    below = icl.IterativeNewton(R(194, 100) / lam_max**2)
    assert below.stability is sp.true
    assert abs(below.residual_filter(6).subs(lam, lam_max)) < 1


def test_frobenius_rule():
    for spectrum in ([3], [1, 2], [1, 2, 2], [R(1, 5)] * 4):
        value = icl.IterativeNewton(1 / frobenius).at_spectrum(spectrum).scale
        top = max(spectrum)
        assert value * top**2 <= 1
        assert (value * top**2 == 1) == (len(spectrum) == 1)
        assert 1 / (value * top**2) <= sp.sqrt(len(spectrum))
        doubled = icl.IterativeNewton(2 / frobenius).at_spectrum(spectrum)
        assert doubled.stability.subs(lam_max, top) == (len(spectrum) > 1)
    exact = icl.IterativeNewton(1 / frobenius).at_spectrum([5])
    assert exact.residual_filter(0).subs(lam, 5) == 0
    cost = icl.frobenius_cost().subs(frobenius=8, lam_max=2)
    assert cost.expr == 1
    with pytest.raises(icl.OutOfDomain):
        icl.frobenius_cost().subs(frobenius=3, lam_max=2)


def test_frobenius_ratio_grows_like_the_root_of_the_dimension():
    limit = icl.frobenius_cost_limit()
    gamma = limit.symbol("gamma")
    m4 = 1 + 6 * gamma + 6 * gamma**2 + gamma**3
    d = icl.symbols.d
    assert sp.simplify(limit.expr**2 - d * m4 / (1 + sp.sqrt(gamma)) ** 8) == 0


# -- rules of the spectrum -----------------------------------------------------------------------


def test_rules_of_the_prompt():
    solver = icl.IterativeNewton(1 / trace, start="I")
    assert solver.data_symbols == (trace,)
    assert solver.at_spectrum([1, 2, 3]) == icl.IterativeNewton(R(1, 6), start="I")
    assert icl.GradientDescent().data_symbols == (lam_min, lam_max)
    assert icl.GradientDescent().at_spectrum([1, 4, 2]) == icl.GradientDescent(R(2, 5))
    assert icl.Chebyshev().at_spectrum([1, 4, 2]) == icl.Chebyshev(1, 4)
    assert icl.GradientDescent(ETA).data_symbols == ()
    layers = icl.GDPlusPlus([1 / lam_max], [1 / trace])
    assert layers.at_spectrum([1, 2]) == icl.GDPlusPlus([R(1, 2)], [R(1, 3)])
    with pytest.raises(icl.InvalidInput, match="empty prompt"):
        solver.at_spectrum([])
    with pytest.raises(icl.InvalidInput, match="not positive"):
        solver.at_spectrum([1, 0])


# -- direct methods ------------------------------------------------------------------------------


def test_direct_methods_against_their_normal_equations():
    gram, target = TALL.T * TALL, TALL.T * LABELS
    ridge = icl.Ridge(R(1, 2))
    weights = (gram + sp.eye(3) / 2).LUsolve(target)
    # A polynomial that agrees with q on the spectrum: remainders modulo the characteristic one.
    characteristic = sp.Poly((lam * sp.eye(3) - gram).det(), lam, domain="QQ")
    inverse = sp.Poly(1 / ridge.solution_filter(), lam, domain="QQ").invert(characteristic)
    q = tuple(reversed(inverse.all_coeffs()))
    assert on_matrix(q, gram) * target == weights
    least = icl.OrdinaryLeastSquares()
    assert least.residual_filter().subs(lam, 0) == 1
    assert least.residual_filter().subs(lam, 3) == 0
    assert least.solution_filter().subs(lam, 4) == R(1, 4)
    assert least.solution_filter().subs(lam, 0) == 0
    for direct in (ridge, least):
        assert direct.residual_polynomial() is None
        assert direct.degree() is None
        assert direct.residual_filter(3) == direct.residual_filter()


def test_ridge_newton_tends_to_ridge():
    ridge, newton = icl.Ridge(R(1, 2)), icl.RidgeNewton(R(1, 2), R(1, 50))
    gaps = [
        abs(newton.solution_filter(k).subs(lam, 3) - ridge.solution_filter().subs(lam, 3))
        for k in range(6)
    ]
    assert all(after < before for before, after in itertools.pairwise(gaps))
    assert gaps[5] < R(1, 10**3)
    worst = newton.worst_residual(3, 1, 5)
    assert worst == (1 - R(9, 4) / 50) ** 8


def test_flow_is_descent_with_small_steps():
    tau = sp.Symbol("tau", positive=True)
    flow = icl.GradientFlow()
    m = sp.Symbol("m", positive=True)
    limit = sp.limit(icl.GradientDescent(tau / m).contraction ** m, m, sp.oo)
    assert sp.simplify(limit - flow.residual_filter(tau)) == 0
    assert flow.solution_filter(tau).subs(lam, 0) == tau
    assert flow.solution_filter(2).subs(lam, 1) == 1 - sp.exp(-2)


# -- specifications ------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ALL, ids=lambda s: type(s).__name__)
def test_solvers_are_values(solver):
    again = pickle.loads(pickle.dumps(solver))
    assert again == solver
    assert hash(again) == hash(solver)
    assert solver.description
    with pytest.raises(AttributeError):
        solver.step_size = 1
    assert type(solver).__name__ in repr(solver)


def test_floats_become_the_rationals_they_show():
    assert icl.GradientDescent(0.1) == icl.GradientDescent(R(1, 10))
    assert isinstance(icl.GradientDescent(0.1), PowerSolver)


@pytest.mark.parametrize("kind", [icl.HeavyBall, icl.Nesterov, icl.Chebyshev, icl.IterativeNewton])
def test_rules_stay_in_the_polynomials(kind):
    """Coefficients keep the rules of the spectrum unexpanded: 12 steps take a moment."""
    count = 3 if kind is icl.IterativeNewton else 12
    rule, fixed = kind(), kind().optimal(1, 5)
    numbers = {lam: R(7, 3), lam_min: 1, lam_max: 5}

    def number(expr):
        return float(sp.sympify(expr).xreplace(numbers).evalf(30))

    def sum_of(coefficients):
        return sum(number(c) * (7 / 3) ** j for j, c in enumerate(coefficients))

    r, q = number(fixed.residual_filter(count)), number(fixed.solution_filter(count))
    for residual in (
        number(rule.residual_filter(count)),
        sum_of(rule.residual_polynomial(count)),
        1 - 7 / 3 * number(rule.solution_filter(count)),
        1 - 7 / 3 * q,
    ):
        assert residual == pytest.approx(r, abs=1e-9)
    assert sum_of(rule.solution_polynomial(count)) == pytest.approx(q, abs=1e-9)
    assert abs(number(rule.residual_filter(count - 1)) - r) > 1e-6


TEXT = "__import__('os').mkdir('made')"
REFUSED = {
    "negative step": (lambda: icl.GradientDescent(-0.1), "step_size = -0.1 is not positive"),
    "zero scale": (lambda: icl.IterativeNewton(0), "scale = 0 is not positive"),
    "nan": (lambda: icl.GradientDescent(float("nan")), "not finite"),
    "start": (lambda: icl.IterativeNewton(1, start="X"), "pass 'S' for M_0"),
    "order": (lambda: icl.HyperPower(1), "order = 1 is not an integer of at least 2"),
    "order 2.5": (lambda: icl.HyperPower(2.5), "order = 2.5 is not an integer of at least 2"),
    "momentum": (lambda: icl.HeavyBall(0.1, 1), "outside 0 <= momentum < 1"),
    "half": (lambda: icl.Nesterov(0.1), "give both"),
    "interval": (lambda: icl.Chebyshev(3, 3), "the interval is empty"),
    "ends": (lambda: icl.GradientDescent(1).optimal(3, 2), "exchange them"),
    "penalty": (lambda: icl.Ridge(0), "penalty = 0 is not positive"),
    "layers": (lambda: icl.GDPlusPlus([1], []), "1 step sizes and 0 contractions"),
    "layer count": (lambda: icl.GDPlusPlus([1], [0]).residual_filter(2), "layers from 0 to 1"),
    "negative count": (lambda: icl.GradientDescent(1).residual_filter(-1), "no number of steps"),
    "half a step": (lambda: icl.GradientDescent(1).residual_filter(1.5), "no number of steps"),
    "no steps": (lambda: icl.GradientDescent(1).residual_filter(), "number of steps is missing"),
    "no time": (lambda: icl.GradientFlow().residual_filter(), "time of the flow is missing"),
    "symbolic": (lambda: icl.GradientDescent(1).residual_polynomial(steps), "is symbolic"),
    "degree": (lambda: icl.IterativeNewton(1).residual_polynomial(20), "use residual_filter"),
    "no fit": (lambda: icl.Ridge(1).optimal(1, 2), "no parameters that are fitted"),
    "text step": (lambda: icl.GradientDescent(TEXT), "text is never parsed"),
    "text steps": (lambda: icl.GradientDescent(1).residual_filter(TEXT), "text is never parsed"),
    "text layers": (lambda: icl.GDPlusPlus(TEXT, [1]), "no sequence"),
    "text spectrum": (lambda: icl.GradientDescent().at_spectrum(TEXT), "no sequence"),
    "text start": (lambda: icl.IterativeNewton(1, start=TEXT), "pass 'S'"),
    "text nu": (lambda: icl.matching_constant("risk", TEXT), "text is never parsed"),
    "text criterion": (lambda: icl.matching_constant(TEXT), "pass 'half'"),
    "text dim": (lambda: icl.OnlineGradientDescent().risk(d=TEXT), "text is never parsed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_says_what_is_wrong(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = REFUSED[name]
    with pytest.raises(icl.InvalidInput, match=message.replace("(", r"\(")):
        call()
    assert not list(tmp_path.iterdir())
