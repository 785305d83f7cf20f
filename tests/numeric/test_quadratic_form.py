"""QuadraticForm against polar quadrature in the plane, the chi-square law and exact moments."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from icltheory.errors import OutOfDomain
from numeric.quadratic_form import QuadraticForm, lattice_step


def table(form, function, step=0.1):
    return function(np.exp(2 * step * form.points))


def saturating(q):
    return q / (1 + q)


def slope(q):
    return 1 / (1 + q) ** 2


def in_the_plane(kappa, function):
    """E function(q, x1^2, x2^2) in polar coordinates: trapezoid in the angle, Gauss-Legendre in r."""
    y, w = np.polynomial.legendre.leggauss(400)
    r, w = 6 * (y + 1), 6 * w
    angle = 2 * np.pi * np.arange(400) / 400
    first = (r[:, None] * np.cos(angle)) ** 2
    second = (r[:, None] * np.sin(angle)) ** 2
    values = function(kappa[0] * first + kappa[1] * second, first, second).mean(axis=1)
    return float(values @ (w * r * np.exp(-r * r / 2)))


@pytest.mark.parametrize("kappa", [(2.0, 0.5), (1.0, 0.01), (0.7, 0.0), (0.3, 0.3)])
def test_averages_in_the_plane(kappa):
    form = QuadraticForm(np.array(kappa), step=0.1)
    f = table(form, saturating)
    mean = in_the_plane(kappa, lambda q, x, y: saturating(q))
    assert form.mean(f) == pytest.approx(mean, rel=2e-11)
    assert form.mean(f) != pytest.approx(1.0001 * mean, rel=2e-11)
    for i in range(2):
        weighted = in_the_plane(kappa, lambda q, *x, i=i: saturating(q) * x[i])
        assert form.second(f)[i] == pytest.approx(weighted, rel=2e-11)
        if kappa[i]:
            sloped = in_the_plane(kappa, lambda q, *x, i=i: slope(q) * x[i])
            assert form.slope_second(f)[i] == pytest.approx(sloped, rel=1e-10)
        for j in range(2):
            fourth = in_the_plane(kappa, lambda q, *x, i=i, j=j: slope(q) * x[i] * x[j])
            if kappa[i] or kappa[j]:
                found = form.slope_fourth(f)[i, j] * (3 if i == j else 1)
                assert found == pytest.approx(fourth, rel=1e-10)


@pytest.mark.parametrize("dim", [1, 2, 7, 60, 400])
def test_equal_eigenvalues_give_the_chi_square_law(dim):
    step = lattice_step(dim, 1e3)
    form = QuadraticForm(np.full(dim, 0.8), step=step)
    f = table(form, saturating, step)
    law = stats.chi2(dim)
    exact = integrate.quad(
        lambda q: saturating(0.8 * q) * law.pdf(q), 0, law.isf(1e-18), epsabs=1e-13, limit=300
    )[0]
    assert form.mean(f) == pytest.approx(exact, rel=1e-11)
    # The law weighted by xi^2 has two more degrees of freedom.
    law = stats.chi2(dim + 2)
    exact = integrate.quad(
        lambda q: saturating(0.8 * q) * law.pdf(q), 0, law.isf(1e-18), epsabs=1e-13, limit=300
    )[0]
    assert form.second(f) == pytest.approx(np.full(dim, exact), rel=1e-11)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(1e-9, 1.0), min_size=1, max_size=12),
    st.floats(1e-6, 1e6),
)
def test_moments_of_any_spectrum(kappa, scale):
    kappa = scale * np.array(kappa)
    step = lattice_step(len(kappa), 1.0)
    form = QuadraticForm(kappa, step=step)
    q = table(form, lambda q: q, step)
    total, squares = kappa.sum(), (kappa**2).sum()
    assert form.mean(q) == pytest.approx(total, rel=1e-11)
    assert form.mean(q * q) == pytest.approx(total**2 + 2 * squares, rel=1e-11)
    assert form.second(q) == pytest.approx(total + 2 * kappa, rel=1e-11)
    # f = q^2 has the slope 2 q.
    expected = 2 * (total + 2 * kappa)
    assert form.slope_second(q * q) == pytest.approx(expected, rel=1e-10)
    expected = 2 * (total + 2 * kappa[:, None] + 2 * kappa) + np.diag(0 * kappa)
    off = ~np.eye(len(kappa), dtype=bool)
    assert form.slope_fourth(q * q)[off] == pytest.approx(expected[off], rel=1e-10)
    # E q xi^4 = 3 (total + 4 kappa), and the factor 3 is left out.
    diagonal = form.slope_fourth(q * q).diagonal()
    assert diagonal == pytest.approx(2 * (total + 4 * kappa), rel=1e-10)


def test_half_the_step_changes_nothing():
    kappa = np.array([1.3, 1.0, 0.3, 1e-8])
    coarse, fine = (QuadraticForm(kappa, step=h) for h in (0.12, 0.06))
    for name in ("mean", "second", "slope_second", "slope_fourth"):
        values = [
            getattr(form, name)(table(form, saturating, h))
            for form, h in ((coarse, 0.12), (fine, 0.06))
        ]
        assert values[0] == pytest.approx(values[1], rel=1e-11)


def test_a_form_beyond_the_table_is_refused():
    with pytest.raises(OutOfDomain, match="may be at most"):
        QuadraticForm(np.array([1e4, 1.0]), step=0.1, largest=200.0)
    assert QuadraticForm(np.array([4.0]), step=0.1, largest=200.0).points.size > 100
