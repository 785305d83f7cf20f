"""Closed trajectories of the gradient flow of isotropic tasks.

With A = a I the reduced flow is a' = s b (1 - g a b), b' = r s a (1 - g a b). Up to the common
factor it is linear, so its eigencoordinates p = b + sqrt(r) a and m = b - sqrt(r) a grow and decay
at opposite rates, p m is conserved, and z = p^2 solves a scalar equation that is quadratic in z.
Separating variables gives one formula for starts of every sign, balanced or not, and for the
saddle p = 0. Tied keys and queries K = Q = kappa I give an elementary time as a function of kappa.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory.attention import Attention
from icltheory.commuting import A_EIGENVALUE, CommutingFlow
from icltheory.flow import checked_attention, commuting_flow, query_matrix
from icltheory.formula import BOURSIER, DERIVED_HERE, Formula, Step
from icltheory.latex_lines import broken, stacked
from icltheory.matrices import Square
from icltheory.symbols import a0, b0, time
from icltheory.symbols import b as B
from icltheory.task import LinearRegression

kappa, kappa0 = sp.symbols("kappa kappa0", positive=True)

_SPEED, _STOP, _ROOT = sp.symbols("speed stop root", positive=True)
_Q, _UPPER, _LOWER = sp.symbols("q upper lower", positive=True)
_P0, _M0 = sp.symbols("p0 m0", real=True)
_SOURCES = (BOURSIER.at("the reduced flow; the closed form is derived here"), DERIVED_HERE)


@dataclass(frozen=True)
class ClosedForm:
    """Trajectory of A = a I and b: Formulas in `time`, `a0`, `b0` and the symbols of the task.

    a, b: the trajectory; product: a b; residual: 1 - (a b)/(a b)_infinity, without cancellation;
    risk: mean squared error (no factor 1/2); limit_a, limit_b: limits for b0 + sqrt(d) a0 != 0;
    growth: rate of the exponential that all of them are algebraic in.

    A start with b0 + sqrt(d) a0 = 0 lies on the stable manifold of the saddle a = b = 0 and stays
    on it; the formulas hold there at every finite time.
    """

    a: Formula
    b: Formula
    product: Formula
    residual: Formula
    risk: Formula
    limit_a: Formula
    limit_b: Formula
    growth: Formula

    def _repr_latex_(self) -> str:
        shown = {r"a(t)": self.a, r"b(t)": self.b}
        # Both have the same abbreviations.
        both = [
            broken(sp.Equality(sp.Symbol(n), f.abbreviated(), evaluate=False))
            for n, f in shown.items()
        ]
        parts = {**self.a.abbreviations, **self.b.abbreviations}
        both += [broken(sp.Equality(name, value, evaluate=False)) for name, value in parts.items()]
        return rf"$\displaystyle {stacked(both)}$"


def closed_form(
    task: LinearRegression,
    query_cov: Any = None,
    attention: Attention | None = None,
    prompt_length: Any = None,
) -> ClosedForm:
    """The flow of A = a I and b in closed form, for isotropic features and coefficients.

    Parameters
    ----------
    task: Sigma = lam I and coef_cov = c I, numbers or symbols; the dimension may be a symbol. Label
        noise matters only for `attention=LinearAttention()` at a finite `prompt_length`.
    query_cov: covariance of the query's features, a number (times I); `None` is Sigma.

    The flow descends half the risk; starts a0, b0 are any real numbers. With the default
    coefficients N(0, I/d) time runs d times slower than for N(0, I). Unequal eigenvalues have no
    elementary closed form: `InvalidInput`, integrate with `numeric.integrate`.
    Source: derived here; balanced case in arXiv 2501.16265 (small start).

    >>> form = closed_form(LinearRegression(dim=1, coef_cov=1))
    >>> form.b.subs(a0=1, b0=1).expr, form.growth.subs(a0=1, b0=1).expr
    (1, 2)
    >>> form.limit_b.subs(a0=0, b0=sp.Rational(1, 10)).evalf(6)
    1.00250
    """
    query = query_matrix(task, query_cov, definite=True)
    return _closed_form(task, query, *checked_attention(attention, prompt_length))


@lru_cache(maxsize=128)
def _closed_form(
    task: LinearRegression,
    query_cov: Square | None,
    attention: Attention,
    prompt_length: sp.Expr | None,
) -> ClosedForm:
    flow = commuting_flow(task, query_cov, attention=attention, prompt_length=prompt_length)
    speed, stop, ratio, risk = normal_form(flow)
    table = {_SPEED: speed, _STOP: stop, _ROOT: sp.sqrt(ratio)}
    solution = _product_flow()
    residual = solution["residual"].subs(table)
    at_start = risk.subs({A_EIGENVALUE: a0, B: b0}, simultaneous=True)
    # The risk is quadratic in a b with its minimum at 1/stop.
    lowest = sp.factor(risk.subs({A_EIGENVALUE: 1 / (stop * B)}))
    scale = sp.factor(risk.subs({A_EIGENVALUE: 0, B: 0}) - lowest)
    if sp.cancel(at_start - lowest - scale * (1 - stop * a0 * b0) ** 2) != 0:
        raise AssertionError("the reduced risk is not a square in the product a b")
    steps = (
        *(Step(title, equation.subs(table)) for title, equation in _derivation()),
        Step(
            "remaining risk, residual = 1 - ab/(ab at infinity)",
            sp.Eq(sp.Symbol("risk"), lowest + scale * sp.Symbol("residual") ** 2),
        ),
    )

    names = {sp.Symbol(name): expr.subs(table) for name, expr in solution["names"].items()}

    def formula(name: str, expr: sp.Expr) -> Formula:
        used = {symbol: part for symbol, part in names.items() if expr.has(part)}
        return Formula(name, expr, task.validity, _SOURCES, steps, abbreviations=sp.Dict(used))

    return ClosedForm(
        risk=formula("risk along the flow", lowest + scale * residual**2),
        **{
            key: formula(name, solution[key].subs(table))
            for key, name in (
                ("a", "score scale a along the flow"),
                ("b", "value scale b along the flow"),
                ("product", "product a b along the flow"),
                ("residual", "distance 1 - ab/(ab at infinity) along the flow"),
                ("limit_a", "limit of a"),
                ("limit_b", "limit of b"),
                ("growth", "growth rate"),
            )
        },
    )


def normal_form(flow: CommutingFlow) -> tuple[sp.Expr, sp.Expr, sp.Expr, sp.Expr]:
    """(s, g, r, risk) of the isotropic flow a' = s b (1 - g a b), b' = r s a (1 - g a b)."""
    velocity_a, velocity_b, risk = flow.isotropic()
    fa = dict(sp.Poly(velocity_a, A_EIGENVALUE, B).terms())
    fb = dict(sp.Poly(velocity_b, A_EIGENVALUE, B).terms())
    speed = fa[0, 1]
    stop, ratio = sp.cancel(-fa[1, 2] / speed), sp.cancel(fb[1, 0] / speed)
    known = {(1, 0): ratio * speed, (2, 1): -ratio * speed * stop}
    if set(fa) != {(0, 1), (1, 2)} or any(sp.cancel(fb[m] - c) != 0 for m, c in known.items()):
        raise AssertionError("the isotropic flow lost its common factor")
    return sp.factor(speed), sp.factor(stop), ratio, risk


# -- the scalar equation ---------------------------------------------------------------------------


def _field() -> tuple[sp.Expr, sp.Expr]:
    a, b = A_EIGENVALUE, B
    factor = _SPEED * (1 - _STOP * a * b)
    return b * factor, _ROOT**2 * a * factor


def _cone(z: sp.Symbol, invariant: sp.Symbol) -> sp.Expr:
    """z' for z = (b + root a)^2, given the conserved p m = `invariant`: a polynomial in z."""
    a, b = A_EIGENVALUE, B
    p, m = sp.symbols("p m", positive=True)
    fa, fb = _field()
    growth = sp.cancel((fb + _ROOT * fa) / (b + _ROOT * a))
    if sp.cancel((fb - _ROOT * fa) / (b - _ROOT * a) + growth) != 0:
        raise AssertionError("b^2 - r a^2 is not conserved")
    inside = growth.subs({a: (p - m) / (2 * _ROOT), b: (p + m) / 2}, simultaneous=True)
    return sp.expand(sp.cancel((2 * p**2 * inside).subs(m, invariant / p).subs(p, sp.sqrt(z))))


def _separated(z: sp.Symbol, start: sp.Expr) -> sp.Expr:
    """z(t) of z' = c (upper - z)(z + lower) by partial fractions; q = exp(-c (upper+lower) time).

    1/((upper - z)(z + lower)) integrates to a difference of two logarithms with equal weights, so
    (z + lower)/(upper - z) is an exponential, and z a Moebius function of q.
    """
    logarithms = 1 / (z + _LOWER) + 1 / (_UPPER - z)
    if sp.cancel((_UPPER + _LOWER) / ((_UPPER - z) * (z + _LOWER)) - logarithms) != 0:
        raise AssertionError("unequal weights of the two logarithms")
    moebius = (z + _LOWER) / (_UPPER - z)
    at_start = moebius.subs(z, start)
    [solution] = sp.solve(sp.numer(sp.together(moebius * _Q - at_start)), z)
    return solution


def _pieces() -> tuple[sp.Expr, sp.Expr, sp.Expr, sp.Expr]:
    """(a G, b G, G^2, residual) with G = p/p0, in q = exp(-growth time), the roots and the start.

    All sums have terms of one sign when 0 < a0 b0 < 1/stop, so nothing cancels for small starts,
    near the saddle or at late times.
    """
    grown, total = 1 - _Q, _UPPER + _LOWER
    above = (_UPPER + _M0**2) * grown + total * _Q
    below = (_LOWER + _P0**2) * grown + total * _Q
    moved = 2 * _P0 * grown * (1 / _STOP - a0 * b0) / below
    residual = (1 - _STOP * a0 * b0) * total**2 * _Q / (above * below)
    return a0 + moved, b0 + _ROOT * moved, above / below, residual


@lru_cache(maxsize=1)
def _product_flow() -> dict[str, Any]:
    """Closed forms in (time, a0, b0, speed, stop, root), checked by differentiating them back."""
    a, b, square, residual = _pieces()
    _check(a, b, square, residual)
    p0, m0 = b0 + _ROOT * a0, b0 - _ROOT * a0
    split = sp.sqrt(4 * _ROOT**2 + (_STOP * p0 * m0) ** 2)
    upper, growth = (2 * _ROOT + split) / _STOP, _SPEED * split
    roots = {_UPPER: upper, _LOWER: (p0 * m0) ** 2 / upper, _P0: p0, _M0: m0}

    def at(expr: sp.Expr, q: sp.Expr) -> sp.Expr:
        return expr.subs(_Q, q).subs(roots)

    q, gain = sp.exp(-growth * time), sp.sqrt(square)
    return {
        "a": at(a / gain, q),
        "b": at(b / gain, q),
        "product": at(a * b / square, q),
        "residual": at(residual, q),
        "limit_a": at(a / gain, sp.S.Zero),
        "limit_b": at(b / gain, sp.S.Zero),
        "growth": growth,
        "names": {
            "q": q,
            "z_+": upper,
            "z_-": roots[_LOWER],
            "gamma": growth,
            "p_0": p0,
            "m_0": m0,
        },
    }


def _check(a: sp.Expr, b: sp.Expr, square: sp.Expr, residual: sp.Expr) -> None:
    """a/G and b/G solve the flow and start at a0, b0: identities of rational functions.

    `lower` and `stop` are eliminated by Vieta: upper lower = (p0 m0)^2, upper - lower = 4 root/stop.
    """
    z = sp.Symbol("z")
    lower = (_P0 * _M0) ** 2 / _UPPER
    stop = 4 * _ROOT / (_UPPER - lower)
    start = {a0: (_P0 - _M0) / (2 * _ROOT), b0: (_P0 + _M0) / 2}
    cone = _cone(z, _P0 * _M0)
    lead = cone.coeff(z, 2)
    growth = -lead * (_UPPER + _LOWER)

    def along(expr: sp.Expr) -> sp.Expr:  # d/dt
        return -growth * _Q * sp.diff(expr, _Q)

    drift = along(square) / (2 * square)
    stopped = _SPEED * (1 - _STOP * a * b / square)
    claims = {
        "roots": cone - lead * (z - _UPPER) * (z + _LOWER),
        "separation": _separated(z, _P0**2) - _P0**2 * square,
        "p": b + _ROOT * a - _P0 * square,
        "m": b - _ROOT * a - _M0,
        "residual": residual - 1 + _STOP * a * b / square,
        "a'": along(a) - a * drift - b * stopped,
        "b'": along(b) - b * drift - _ROOT**2 * a * stopped,
    }
    for name, claim in claims.items():
        numerator = sp.numer(sp.together(claim.subs(_STOP, stop).subs(_LOWER, lower).subs(start)))
        if not sp.Poly(numerator, _UPPER, _P0, _M0, _Q, _ROOT, _SPEED, z).is_zero:
            raise AssertionError(f"the closed form fails its check of {name}")


def _derivation() -> list[tuple[str, sp.Basic]]:
    z, p, invariant = sp.Symbol("z"), sp.Symbol("p"), sp.Symbol("Delta")
    fa, fb = _field()
    return [
        ("velocity adot of the score scale a_i", sp.Eq(sp.Symbol("adot"), fa)),
        ("velocity bdot of b", sp.Eq(sp.Symbol("bdot"), fb)),
        ("growing eigencoordinate p, z = p^2", sp.Eq(p, B + _ROOT * A_EIGENVALUE)),
        ("conserved Delta = b^2 - r a^2", sp.Eq(invariant, B**2 - _ROOT**2 * A_EIGENVALUE**2)),
        ("scalar equation, zdot the velocity of z", sp.Eq(sp.Symbol("zdot"), _cone(z, invariant))),
        (
            "separation of variables, z0 the start, upper and -lower the roots of zdot, q = exp(-rate time)",
            sp.Eq(z, _separated(z, sp.Symbol("z0"))),
        ),
    ]


# -- tied keys and queries -------------------------------------------------------------------------


def tied_time(task: LinearRegression, query_cov: Any = None) -> Formula:
    """Time at which keys and queries K = Q = kappa I, with b = sqrt(d) kappa, reach kappa from kappa0.

    Isotropic tasks. kappa and kappa0 lie on the same side of the limit kappa_inf =
    (lam sqrt(d))^(-1/3). The trajectory is the inverse function (`numeric.tied_trajectory`). The
    escape from a small start takes a time of order 1/kappa0, not a logarithm. Starts with
    b != sqrt(d) kappa have no elementary closed form here. Source: derived here.

    >>> time_to = tied_time(LinearRegression(dim=1, coef_cov=1))
    >>> time_to.subs(kappa0=sp.Rational(1, 10), kappa=sp.Rational(1, 2)).evalf(6)
    8.12679
    """
    return _tied_time(task, query_matrix(task, query_cov, definite=True))


@lru_cache(maxsize=128)
def _tied_time(task: LinearRegression, query_cov: Square | None) -> Formula:
    speed, stop, ratio, _ = normal_form(commuting_flow(task, query_cov))
    fa, fb = (f.subs({A_EIGENVALUE: kappa**2, B: _ROOT * kappa}) for f in _field())
    # d risk/dK = Q (d risk/dA)', so kappa' = kappa a'; the balance b = root kappa is kept.
    velocity = sp.expand(kappa * fa)
    if sp.expand(fb - _ROOT * velocity) != 0:
        raise AssertionError("b = root kappa is not invariant")
    x, unit = sp.symbols("x unit", positive=True)
    scaled = sp.expand(velocity.subs({kappa: x / unit, _STOP: unit**3 / _ROOT}) * unit)
    factor = sp.cancel(scaled / (x**2 * (1 - x**3)))  # x' = factor x^2 (1 - x^3), x = unit kappa
    primitive = _tied_primitive(x)
    difference = primitive.subs(x, unit * kappa) - primitive.subs(x, unit * kappa0)
    values = {unit: sp.cbrt(stop * sp.sqrt(ratio)), _SPEED: speed, _ROOT: sp.sqrt(ratio)}
    table = {_STOP: stop, **values}
    same_side = (1 - stop * sp.sqrt(ratio) * kappa**3) * (1 - stop * sp.sqrt(ratio) * kappa0**3) > 0
    return Formula(
        "time of tied keys and queries",
        (difference / factor).subs(table),
        validity=sp.And(same_side, task.validity),
        references=_SOURCES,
        steps=(
            Step("velocity kappadot of kappa", sp.Eq(sp.Symbol("kappadot"), velocity.subs(table))),
            Step(
                "velocity of x = kappa/kappa_oo, kappa_oo the limit",
                sp.Eq(sp.Symbol("xdot"), factor.subs(table) * x**2 * (1 - x**3)),
            ),
            Step("integral of dx/(x^2 (1 - x^3))", primitive),
        ),
    )


def _tied_primitive(x: sp.Symbol) -> sp.Expr:
    """Integral of 1/(x^2 (1 - x^3)), real on both sides of x = 1."""
    integrand = 1 / (x**2 * (1 - x**3))
    primitive = sp.integrate(integrand, x)
    if sp.cancel(sp.diff(primitive, x) - integrand) != 0:
        raise AssertionError("the integral does not differentiate back")
    return primitive.subs(sp.log(x - 1), sp.log(sp.Abs(1 - x)))
