"""Conjugate gradients as a filter, and its coincidence with quasi-Newton methods (V16); exact."""

import itertools

import pytest
import sympy as sp

import icltheory as icl
from icltheory.symbols import lam

R = sp.Rational
VECTORS = sp.Matrix([[1, 2, 2], [2, 1, -2], [2, -2, 1]]) / 3  # orthogonal
EIGENVALUES = [R(1, 2), 2, 7]
COORDINATES = [R(1), R(-2, 3), R(1, 4)]
GRAM = VECTORS * sp.diag(*EIGENVALUES) * VECTORS.T
SOLUTION = VECTORS * sp.Matrix(COORDINATES)
TARGET = GRAM * SOLUTION


def filtered(count, values=None):
    """The iterate that the filter predicts."""
    coefficients = values or icl.ConjugateGradient().residual_on(EIGENVALUES, COORDINATES, count)
    residual = sp.Poly(list(reversed(coefficients)), lam)
    return VECTORS * sp.Matrix(
        [c * (1 - residual.eval(x)) for x, c in zip(EIGENVALUES, COORDINATES, strict=True)]
    )


def with_line_search(direction_of, count):
    """Exact line searches along the directions that an update of the inverse Hessian proposes."""
    w, inverse = sp.zeros(3, 1), sp.eye(3)
    path = [w]
    for _ in range(count):
        gradient = GRAM * w - TARGET
        if gradient.is_zero_matrix:
            path.append(w)
            continue
        direction = -inverse * gradient
        size = -(gradient.T * direction)[0] / (direction.T * GRAM * direction)[0]
        step = size * direction
        w = (w + step).applyfunc(sp.nsimplify)
        inverse = direction_of(inverse, step, GRAM * step)
        path.append(w)
    return path


def bfgs(inverse, step, change):
    rho = 1 / (change.T * step)[0]
    left = sp.eye(3) - rho * step * change.T
    return left * inverse * left.T + rho * step * step.T


def dfp(inverse, step, change):
    seen = inverse * change
    return inverse + step * step.T / (change.T * step)[0] - seen * seen.T / (change.T * seen)[0]


def broyden(inverse, step, change):
    return R(2, 5) * bfgs(inverse, step, change) + R(3, 5) * dfp(inverse, step, change)


def limited_memory(inverse, step, change):
    return bfgs(sp.eye(3), step, change)


def steepest(inverse, step, change):
    return sp.eye(3)


def test_the_filter_is_what_conjugate_gradients_do():
    w, gradient = sp.zeros(3, 1), TARGET
    direction = gradient
    for count in range(4):
        assert filtered(count) == w
        if gradient.is_zero_matrix:
            break
        image = GRAM * direction
        size = (gradient.T * gradient)[0] / (direction.T * image)[0]
        following = gradient - size * image
        w = w + size * direction
        direction = (
            following + (following.T * following)[0] / (gradient.T * gradient)[0] * direction
        )
        gradient = following
    assert filtered(3) == SOLUTION
    assert filtered(7) == SOLUTION


@pytest.mark.parametrize("update", [bfgs, dfp, broyden, limited_memory], ids=lambda u: u.__name__)
def test_quasi_newton_methods_coincide(update):
    for count, w in enumerate(with_line_search(update, 3)):
        assert w == filtered(count)
    # Steepest descent with the same line search is another method, from the second step on.
    other = with_line_search(steepest, 2)
    assert other[1] == filtered(1)
    assert other[2] != filtered(2)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_orthogonal_polynomials(count):
    """r is the orthogonal polynomial of sum lam^2 c^2 delta(lam), scaled to r(0) = 1."""
    coefficients = icl.ConjugateGradient().residual_on(EIGENVALUES, COORDINATES, count)
    assert coefficients[0] == 1
    assert len(coefficients) == count + 1
    residual = sp.Poly(list(reversed(coefficients)), lam)
    pairs = list(zip(EIGENVALUES, COORDINATES, strict=True))
    for power in range(count):
        assert sum(x ** (2 + power) * c**2 * residual.eval(x) for x, c in pairs) == 0
    # Second route: the Hankel system of its moments.
    moments = [sum(x**j * c**2 for x, c in pairs) for j in range(2 * count + 3)]
    hankel = sp.Matrix(count, count, lambda i, j: moments[i + j + 3])
    found = hankel.LUsolve(-sp.Matrix(moments[2 : count + 2]))
    assert tuple(found) == coefficients[1:]


@pytest.mark.parametrize("count", [1, 2])
def test_zeros_are_ritz_values(count):
    """Eigenvalues of S on the Krylov space of X'y, by an explicit orthogonal basis."""
    basis = [TARGET]
    for _ in range(count - 1):
        fresh = GRAM * basis[-1]
        for v in basis:
            fresh -= v * ((v.T * fresh)[0] / (v.T * v)[0])
        basis.append(fresh)
    space = sp.Matrix.hstack(*(v / sp.sqrt((v.T * v)[0]) for v in basis))
    ritz = (space.T * GRAM * space).applyfunc(sp.simplify)
    characteristic = (lam * sp.eye(count) - ritz).det()
    coefficients = icl.ConjugateGradient().residual_on(EIGENVALUES, COORDINATES, count)
    residual = sum(c * lam**j for j, c in enumerate(coefficients))
    assert sp.expand(residual - characteristic / characteristic.subs(lam, 0)) == 0
    zeros = sp.Poly(residual, lam).all_roots()
    symbols = sp.symbols(f"ritz_1:{count + 1}", positive=True)
    closed = (
        icl.ConjugateGradient().residual_filter(count).subs(dict(zip(symbols, zeros, strict=True)))
    )
    assert sp.simplify(closed - residual) == 0
    solution = icl.ConjugateGradient().solution_filter(count)
    general = icl.ConjugateGradient().residual_filter(count)
    assert sp.expand(1 - lam * solution - general) == 0


def test_no_polynomial_has_less_energy():
    def energy(coefficients):
        residual = sp.Poly(list(reversed(coefficients)), lam)
        pairs = zip(EIGENVALUES, COORDINATES, strict=True)
        return sum(x * c**2 * residual.eval(x) ** 2 for x, c in pairs)

    best = icl.ConjugateGradient().residual_on(EIGENVALUES, COORDINATES, 2)
    for a, b in itertools.product((R(97, 100), 1, R(103, 100)), repeat=2):
        if (a, b) != (1, 1):
            assert energy((1, a * best[1], b * best[2])) > energy(best)
    chebyshev = icl.Chebyshev(R(1, 2), 7)
    assert energy(best) <= energy(chebyshev.residual_polynomial(2))
    start = energy((1,))
    bound = icl.ConjugateGradient().worst_residual(2, R(1, 2), 7)
    assert energy(best) <= bound**2 * start


def test_it_ends_early_on_few_eigenvalues():
    cg = icl.ConjugateGradient()
    assert cg.residual_on([2, 2, 3], [1, 5, 1], 2) == cg.residual_on([2, 2, 3], [1, 5, 1], 9)
    assert cg.residual_on([2, 5], [1, 0], 4) == (1, R(-1, 2))
    assert cg.residual_on([2, 5], [0, 0], 4) == (1,)


def test_no_fixed_polynomial():
    cg = icl.ConjugateGradient()
    assert cg.residual_polynomial(3) is None
    assert cg.solution_polynomial(3) is None
    assert cg.reads_labels
    assert not icl.GradientDescent(1).reads_labels
    assert cg.degree(5) == 5
    assert isinstance(cg.residual_filter(icl.symbols.steps), sp.Product)
    with pytest.raises(icl.InvalidInput, match="one coordinate an eigenvalue"):
        cg.residual_on([1, 2], [1], 1)
    with pytest.raises(icl.InvalidInput, match="not positive"):
        cg.residual_on([1, 0], [1, 1], 1)
    with pytest.raises(icl.InvalidInput, match="no sequence"):
        cg.residual_on("12", [1, 1], 1)
