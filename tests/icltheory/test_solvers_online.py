"""Online gradient descent: risk and forgetting (V19), reference values and simulation."""

from typing import Any

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from icltheory.symbols import d, gap, n

R = sp.Rational
ETA, NOISE = sp.symbols("eta s2", positive=True)
STEPS = {"projection": None, "constant": 0.1}


def simulate(step_size, dim, length, gaps, noise_var, prompts, seed):
    """Mean and standard error of the risk (gap None) and of the squared error on past examples."""
    rng = np.random.default_rng(seed)
    theta = rng.normal(size=(prompts, dim)) / np.sqrt(dim)
    x = rng.normal(size=(prompts, length, dim))
    noise = np.sqrt(noise_var) * rng.normal(size=(prompts, length))
    labels = np.einsum("bnd,bd->bn", x, theta) + noise
    w = np.zeros((prompts, dim))
    for i in range(length):
        rate = 1 / np.sum(x[:, i] ** 2, axis=1) if step_size is None else step_size
        w += (rate * (labels[:, i] - np.sum(x[:, i] * w, axis=1)))[:, None] * x[:, i]
    error = w - theta
    out: dict[Any, np.ndarray] = {None: np.sum(error**2, axis=1)}
    for g in gaps:
        out[g] = np.sum(x[:, length - 1 - g] * error, axis=1) ** 2
    return {k: (v.mean(), v.std() / np.sqrt(prompts)) for k, v in out.items()}


# -- reference closed forms ------------------------------------------------------------------------


def test_risk_of_the_reference():
    assert icl.OnlineGradientDescent().risk().expr == (1 - 1 / d) ** n
    factor = icl.OnlineGradientDescent(ETA).risk(n=1).expr
    assert sp.expand(factor - (1 - 2 * ETA + ETA**2 * (d + 2))) == 0
    best = icl.OnlineGradientDescent().optimal(d)
    assert best.step_size == 1 / (d + 2)
    assert sp.simplify(best.risk(n=1).expr - (d + 1) / (d + 2)) == 0
    start = icl.OnlineGradientDescent().risk(start=R(1, 3), d=20, n=0).expr
    assert start == R(4, 3)


def test_forgetting_of_the_reference():
    found = icl.OnlineGradientDescent().forgetting().expr
    printed = (1 - 1 / d) ** n * (1 - ((d**2 - 2) / (d**2 + d - 2)) ** gap)
    at = {d: 7, n: 12, gap: 4}
    assert found.subs(at) == printed.subs(at)
    assert found.subs({gap: 0}) == 0
    late = icl.OnlineGradientDescent().forgetting(n=3000, gap=2990, d=5).expr
    assert abs(late / icl.OnlineGradientDescent().risk(n=3000, d=5).expr - 1) < R(1, 10**9)


def test_reference_values():
    projection = icl.OnlineGradientDescent()
    assert float(projection.risk(n=20, d=20)) == pytest.approx(0.358485922409, abs=5e-13)
    assert float(projection.forgetting(n=20, gap=5, d=20)) == pytest.approx(0.0779386457, abs=5e-11)
    assert float(projection.forgetting(n=20, gap=18, d=20)) == pytest.approx(
        0.2101677617, abs=5e-11
    )


@pytest.mark.parametrize("name", STEPS)
def test_recursions_step_by_step(name):
    """The two-dimensional recursion of the derivation, iterated with exact numbers."""
    solver, dim, length, back = icl.OnlineGradientDescent(STEPS[name]), 4, 9, 5
    if STEPS[name] is None:
        size, seen = R(1), R(0)
        for _ in range(length - back):
            size *= 1 - R(1, dim)
        seen, product = R(0), dim * size
        for _ in range(back):
            mixed = (product + 2 * seen) / (dim * (dim + 2))
            seen, product = seen * (1 - R(2, dim)) + mixed, product * (1 - R(1, dim))
    else:
        eta = R(1, 10)
        factor = 1 - 2 * eta + eta**2 * (dim + 2)
        before = factor ** (length - back - 1)
        six = (dim + 2) * (dim + 4)
        seen = before * (1 - 2 * eta * (dim + 2) + eta**2 * six)
        product = before * (dim - 2 * eta * (dim + 2) + eta**2 * six)
        for _ in range(back):
            seen = seen * (1 - 2 * eta) + eta**2 * (product + 2 * seen)
            product *= factor
    assert sp.expand(solver.forgetting(n=length, gap=back, d=dim).expr - seen) == 0


# -- simulation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("noise_var", [0, 0.5])
def test_against_simulation(name, noise_var):
    dim, length, gaps = 6, 12, (0, 1, 4, 9)
    solver = icl.OnlineGradientDescent(STEPS[name])
    found = simulate(STEPS[name], dim, length, gaps, noise_var, 200_000, seed=3)
    asked = (None, *(() if noise_var else gaps))
    expected = {
        g: float(
            solver.risk(n=length, d=dim, noise_var=noise_var)
            if g is None
            else solver.forgetting(n=length, gap=g, d=dim)
        )
        for g in asked
    }
    for key, value in expected.items():
        mean, error = found[key]
        assert abs(mean - value) <= 5 * error + 1e-25
        if value > 0:
            assert 5 * error < 0.08 * value
            assert abs(mean - 1.15 * value) > 5 * error


# -- noise, limits, refusals ---------------------------------------------------------------------


def test_noise_is_never_averaged_away():
    """Constant steps stop at eta d noise/(2 - eta (d + 2)), projections at d noise/(d - 2)."""
    solver = icl.OnlineGradientDescent(ETA)
    floor = solver.risk(noise_var=NOISE).expr - solver.risk().expr
    level = sp.cancel(ETA * d * NOISE / (2 - ETA * (d + 2)))
    factor = 1 - 2 * ETA + ETA**2 * (d + 2)
    at = {ETA: R(1, 10), d: 5, n: 7, NOISE: 2}
    assert floor.subs(at) == (level * (1 - factor**n)).subs(at)
    noisy = icl.OnlineGradientDescent().risk(n=500, d=5, noise_var=2).expr
    assert abs(noisy - R(10, 3)) < R(1, 10**20)
    formula = icl.OnlineGradientDescent().risk(noise_var=NOISE)
    assert formula.validity == (d > 2)
    with pytest.raises(icl.OutOfDomain):
        formula.subs(d=2)


REFUSED = {
    "step": (lambda: icl.OnlineGradientDescent(-1), icl.InvalidInput, "not positive"),
    "noise": (
        lambda: icl.OnlineGradientDescent().risk(d=2, noise_var=1),
        *(icl.OutOfDomain, "infinite risk for d <= 2"),
    ),
    "gap": (
        lambda: icl.OnlineGradientDescent().forgetting(n=5, gap=5),
        *(icl.InvalidInput, "before the first of n = 5"),
    ),
    "one dimension": (
        lambda: icl.OnlineGradientDescent().forgetting(n=5, gap=2, d=1),
        *(icl.InvalidInput, "nothing is forgotten"),
    ),
    "count": (
        lambda: icl.OnlineGradientDescent().risk(n=-1),
        icl.InvalidInput,
        "no number of steps",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()
