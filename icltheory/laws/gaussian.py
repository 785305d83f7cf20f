"""Gaussian calculus: exponential tilting, Wick moments, E p(x) exp(x'Mx + b'x).

Three identities carry every derivation of this toolkit.

- *Tilting*: under the weight exp(b'x) the law N(m, G) becomes N(m + G b, G), with
  log-normaliser b'm + b'G b / 2.
- *Stein's recursion*: E x_i q(x) = m_i E q + sum_j G_ij E d_j q for a polynomial q. Moments are
  computed with it in a polynomial ring over the field of the parameters.
- *Quadratic tilting*: under exp(x'Mx) the covariance becomes (I - 2 G M)^{-1} G; the normaliser
  det(I - 2 G M)^{-1/2} exp(...) is finite iff all eigenvalues of I - 2 G M are positive.

Variables are either the coordinates of x (explicit covariance), or, for x ~ N(m, c I_d) with a
*symbolic* dimension d, the invariants |x|^2 and a_i.x for vectors a_i of given Gram matrix. The
recursion is the same; |x|^2 adds one rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp
from sympy.polys.constructor import construct_domain

from icltheory import checks
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.formula import Formula, Step
from icltheory.matrices import Square, covariance


@dataclass(frozen=True)
class QuadraticTilt:
    """N(m, G) seen through exp(x'Mx): new covariance, normaliser at m = b = 0, its finiteness.

    `resolvent` is (I - 2 G M)^{-1}, so that `cov` = resolvent G; the normaliser of the pure
    quadratic is det(I - 2 G M)^{-1/2}, finite iff `finite` holds.
    """

    resolvent: Square
    cov: Square
    normaliser: sp.Expr
    finite: sp.Basic


def quadratic_tilt(cov: Square, quadratic: Square) -> QuadraticTilt:
    """The tilt of N(0, cov) by exp(x'Mx), M = `quadratic` symmetric, any singular cov allowed.

    `OutOfDomain` where E exp(x'Mx) is known to be infinite.

    >>> from icltheory.symbols import d, t
    >>> tilt = quadratic_tilt(Square.identity(1, d), Square.identity(t, d))
    >>> tilt.normaliser, tilt.cov, tilt.finite
    ((1 - 2*t)**(-d/2), 1/(1 - 2*t)*I_d, 1 - 2*t > 0)
    """
    gap = (Square.identity(1, cov.dim) - cov @ quadratic * 2).reduced()
    finite = gap.positive_definite()
    if finite == sp.false:
        raise OutOfDomain(
            f"E exp(x'Mx) is infinite: I - 2 cov M has an eigenvalue of at most 0 for M = {quadratic}, "
            f"cov = {cov}; scale M down."
        )
    resolvent = gap.inverse()
    return QuadraticTilt(resolvent, resolvent @ cov, gap.det_power(-sp.S.Half), finite)


def tilted_mean(mean: Sequence[Any], cov: Any, tilt: Sequence[Any]) -> tuple[sp.Matrix, sp.Expr]:
    """Mean and log-normaliser of N(mean, cov) under the weight exp(tilt.x).

    `cov` may be any matrix of expressions, for example the Gram matrix of linear forms.
    """
    m, b, gamma = sp.Matrix(list(mean)), sp.Matrix(list(tilt)), sp.Matrix(cov)
    shift = gamma * b
    return m + shift, sp.expand((b.T * m)[0] + (b.T * shift)[0] / 2)


def wick_moment(polynomial: Any, x: Sequence[sp.Symbol], mean: Sequence[Any], cov: Any) -> sp.Expr:
    """E p(x) for x ~ N(mean, cov), by Stein's recursion.

    Parameters
    ----------
    polynomial: polynomial in the symbols `x`, with any expressions as coefficients.
    x: the d symbols that stand for the coordinates (or for any jointly Gaussian linear forms).
    mean, cov: d expressions and d x d expressions (a covariance; not checked here).
    Source: Isserlis' theorem, by Wick pairing.

    >>> a, b, r = sp.symbols("a b r")
    >>> wick_moment(a**2 * b**2, [a, b], [0, 0], [[1, r], [r, 1]])
    2*r**2 + 1
    """
    count = len(x)
    moments = _vector(mean, count, "mean"), checks.rows(cov, "cov") if count else []
    return _Stein(list(x), list(moments[0]), moments[1]).expectation(
        checks.scalar(polynomial, "polynomial")
    )


def tilted_moment(
    polynomial: Any, x: Sequence[sp.Symbol], mean: Sequence[Any], cov: Any, tilt: Sequence[Any]
) -> sp.Expr:
    """E p(x) exp(tilt.x) for x ~ N(mean, cov): the exponential is absorbed by tilting.

    `polynomial`: p, in the symbols `x`.
    Source: derived here.

    >>> a, s = sp.symbols("a s", positive=True)
    >>> tilted_moment(a, [a], [0], [[s]], [1])
    s*exp(s/2)
    """
    count = len(x)
    means, weights = _vector(mean, count, "mean"), _vector(tilt, count, "tilt")
    shifted, log_normaliser = tilted_mean(means, checks.rows(cov, "cov"), weights)
    return wick_moment(polynomial, x, list(shifted), cov) * sp.exp(log_normaliser)


def gaussian_expectation(
    polynomial: Any,
    x: Sequence[sp.Symbol],
    *,
    cov: Any,
    mean: Sequence[Any] | None = None,
    quadratic: Any = None,
    linear: Sequence[Any] | None = None,
) -> Formula:
    """E p(x) exp(x'Mx + b'x) for x ~ N(mean, cov) in explicit coordinates.

    Parameters
    ----------
    polynomial: polynomial in the symbols `x`, of any degree.
    cov: d x d symmetric positive semi-definite (may be singular), d eigenvalues, or one number.
    mean, linear: d expressions each, m and b; `None` is zero.
    quadratic: M, in the forms of `cov`, symmetric; `None` is zero.

    The validity of the result is the finiteness condition: all eigenvalues of I - 2 cov M positive.
    Source: derived here.

    >>> x, t = sp.symbols("x t", real=True)
    >>> f = gaussian_expectation(x**2, [x], cov=1, quadratic=t)
    >>> f.expr, f.validity
    ((1 - 2*t)**(-3/2), t < 1/2)
    """
    polynomial = checks.scalar(polynomial, "polynomial")
    dim = sp.Integer(len(x))
    gamma = covariance(cov, dim, "cov", definite=False)
    form = Square.coerce(0 if quadratic is None else quadratic, dim, "quadratic")
    if not (form - form.T).is_zero():
        raise InvalidInput(
            "quadratic is not symmetric; pass (M + M.T)/2, which gives the same form."
        )
    m = _vector(mean, int(dim), "mean")
    b = _vector(linear, int(dim), "linear")
    tilt = quadratic_tilt(gamma, form)
    big_m, new_cov = form.to_matrix(), tilt.cov.to_matrix()
    push = b + 2 * big_m * m
    new_mean = tilt.resolvent.to_matrix() * (m + gamma.to_matrix() * b)
    exponent = (m.T * big_m * m)[0] + (b.T * m)[0] + (push.T * new_cov * push)[0] / 2
    moment = wick_moment(polynomial, x, list(new_mean), new_cov)
    expr = sp.powsimp(tilt.normaliser * moment) * sp.exp(sp.cancel(exponent))
    return _expectation_formula(polynomial, expr, tilt.finite)


def isotropic_expectation(
    polynomial: Any,
    norm2: sp.Symbol,
    *,
    dim: Any,
    variance: Any = 1,
    quadratic: Any = 0,
    forms: Sequence[sp.Symbol] = (),
    gram: Any = None,
    mean: Sequence[Any] | None = None,
    linear: Sequence[Any] | None = None,
) -> Formula:
    """E p exp(c |x|^2 + b.x) for x ~ N(m, variance I_d) with a symbolic (or integer) dimension.

    Parameters
    ----------
    polynomial: polynomial in `norm2` (standing for |x|^2) and in `forms` (standing for a_i.x).
    quadratic: the scalar c.
    forms, gram: one symbol a vector a_i, and the Gram matrix of expressions a_i.a_j.
    mean, linear: coefficients of m and b in the a_i: m = sum_i mean[i] a_i; `None` is zero.
    Source: derived here.

    >>> r2, c = sp.symbols("r2 c")
    >>> dim = sp.Symbol("d", positive=True)
    >>> sp.factor(isotropic_expectation(r2**2, r2, dim=dim).expr)
    d*(d + 2)
    >>> isotropic_expectation(1, r2, dim=dim, quadratic=c).expr
    (1 - 2*c)**(-d/2)
    """
    polynomial = checks.scalar(polynomial, "polynomial")
    dimension = checks.positive_integer(dim, "dim", "dim=5")
    c, var = checks.scalar(quadratic, "quadratic"), checks.scalar(variance, "variance")
    count = len(forms)
    g = sp.zeros(count) if gram is None and not count else sp.Matrix(checks.rows(gram, "gram"))
    if g.shape != (count, count):
        raise InvalidInput(f"gram has shape {g.shape} for {count} forms; give one row a form.")
    m, b = _vector(mean, count, "mean"), _vector(linear, count, "linear")
    tilt = quadratic_tilt(Square.identity(var, dimension), Square.identity(c, dimension))
    push, new_variance = b + 2 * c * m, tilt.cov.scale
    new_mean = tilt.resolvent.scale * (m + var * b)
    exponent = c * _inner(m, g, m) + _inner(b, g, m) + new_variance * _inner(push, g, push) / 2
    stein = _Stein(
        list(forms),
        list(g * new_mean),
        (new_variance * g).tolist(),
        norm2=norm2,
        dim=dimension,
        variance=new_variance,
        mean_coefficients=list(new_mean),
    )
    expr = tilt.normaliser * stein.expectation(polynomial) * sp.exp(sp.cancel(exponent))
    return _expectation_formula(polynomial, expr, tilt.finite)


def _inner(a: sp.Matrix, gram: sp.Matrix, b: sp.Matrix) -> sp.Expr:
    return (a.T * gram * b)[0] if a.rows else sp.S.Zero


def _vector(value: Sequence[Any] | None, length: int, name: str) -> sp.Matrix:
    if value is None:
        return sp.zeros(length, 1)
    value = checks.plain(value)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidInput(f"{name} = {value!r} is no sequence; give {length} expressions.")
    entries = [checks.scalar(e, f"{name}[{i}]") for i, e in enumerate(value)]
    if len(entries) != length:
        raise InvalidInput(f"{name} has {len(entries)} entries; {length} are needed.")
    return sp.Matrix(length, 1, entries)


def _expectation_formula(polynomial: Any, expr: sp.Expr, finite: sp.Basic) -> Formula:
    names = ", ".join(sorted(s.name for s in sp.sympify(polynomial).free_symbols)) or "a constant"
    step = Step(
        f"expectation E over {names} by tilting and Stein's recursion",
        sp.Eq(sp.Function("E")(polynomial), expr, evaluate=False),
    )
    return Formula("Gaussian expectation", expr, validity=finite, steps=(step,))


class _Stein:
    """Moments of Gaussian linear forms, and of |x|^2 in dimension d, by Stein's recursion."""

    def __init__(
        self,
        forms: list[sp.Symbol],
        mean: list[Any],
        cov: list[list[Any]],
        *,
        norm2: sp.Symbol | None = None,
        dim: Any = 0,
        variance: Any = 0,
        mean_coefficients: Sequence[Any] = (),
    ) -> None:
        if len(mean) != len(forms) or any(len(row) != len(forms) for row in [cov, *cov]):
            raise InvalidInput(
                f"{len(forms)} variables need {len(forms)} means and a {len(forms)} x {len(forms)} "
                f"covariance; got {len(mean)} means and {len(cov)} rows."
            )
        self.generators = [*forms, *([] if norm2 is None else [norm2])]
        self.size, self.has_norm = len(forms), norm2 is not None
        self._parameters = [
            *mean,
            *(x for row in cov for x in row),
            dim,
            variance,
            *mean_coefficients,
        ]
        self._layout = (len(mean), len(mean_coefficients))

    def expectation(self, polynomial: Any) -> sp.Expr:
        """E p, as an expression in the parameters."""
        if not self.generators:
            return polynomial
        try:
            poly = sp.Poly(polynomial, *self.generators)
        except sp.PolynomialError as error:
            raise InvalidInput(
                f"{polynomial} is no polynomial in {', '.join(map(str, self.generators))}: {error}."
            ) from error
        terms = poly.terms()
        # One field for all parameters: rational functions in them cancel without `simplify`.
        domain, values = construct_domain(
            [*(sp.sympify(p) for p in self._parameters), *(c for _, c in terms)], field=True
        )
        size, coefficients = self._layout
        self._mean = values[:size]
        self._cov = [values[size + i * size : size + (i + 1) * size] for i in range(size)]
        rest = values[size + size * size :]
        self._dim, self._variance = rest[0], rest[1]
        self._mean_coefficients = rest[2 : 2 + coefficients]
        self._domain, self._memo = domain, {(0,) * len(self.generators): domain.one}
        total = domain.zero
        for (exponents, _), c in zip(terms, rest[2 + coefficients :], strict=True):
            total += c * self._moment(exponents)
        return domain.to_sympy(total)

    def _moment(self, exponents: tuple[int, ...]) -> Any:
        known = self._memo.get(exponents)
        if known is not None:
            return known
        lead = next((i for i in range(self.size) if exponents[i]), None)
        if lead is None:
            value = self._norm_moment(exponents)
        else:
            q = _lower(exponents, lead)
            value = self._mean[lead] * self._moment(q)
            for j in range(self.size):
                if q[j]:
                    value += self._cov[lead][j] * q[j] * self._moment(_lower(q, j))
            if self.has_norm and q[-1]:  # a_i . grad |x|^2 = 2 a_i . x
                inner = _raise(_lower(q, self.size), lead)
                value += 2 * self._variance * q[-1] * self._moment(inner)
        self._memo[exponents] = value
        return value

    def _norm_moment(self, exponents: tuple[int, ...]) -> Any:
        # E |x|^2 q = E x.(x q) with q = |x|^{2j}: m.x enters through the forms, div(x q) = (d + 2j) q.
        q = _lower(exponents, self.size)
        value = self._variance * (self._dim + 2 * q[-1]) * self._moment(q)
        for i, coefficient in enumerate(self._mean_coefficients):
            if coefficient:
                value += coefficient * self._moment(_raise(q, i))
        return value


def _lower(exponents: tuple[int, ...], i: int) -> tuple[int, ...]:
    return (*exponents[:i], exponents[i] - 1, *exponents[i + 1 :])


def _raise(exponents: tuple[int, ...], i: int) -> tuple[int, ...]:
    return (*exponents[:i], exponents[i] + 1, *exponents[i + 1 :])
