"""Spectra of S = X'X where n and d are large, and where an eigenvalue is small.

For n, d -> infinity with d/n -> gamma the leading order of the Wishart recursion gives the moments of
S/n for any covariance of the rows; for the identity they belong to the Marchenko-Pastur law, whose
resolvent solves a quadratic equation. At finite n and d the density of eigenvalues near zero follows
from the joint density of the eigenvalues and the Laguerre-Selberg integral. Exported:
`limit_trace_moment`, `marchenko_pastur_density`, `marchenko_pastur_resolvent`, `edge_density`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp
from sympy.polys.constructor import construct_domain

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.formula import DERIVED_HERE, Formula, Reference, Step
from icltheory.laws.inverse_wishart import inverse_wishart_moment
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import lam
from icltheory.symbols import n as length_symbol

_GAMMA = sp.Symbol("gamma", positive=True)
_Z = sp.Symbol("z", positive=True)
_LARGEST_POWER = 400

MARCHENKO_PASTUR = Reference(
    "marchenko1967distribution",
    "Distribution of eigenvalues for some sets of random matrices",
    "Marchenko, Vladimir and Pastur, Leonid",
    1967,
)


def limit_trace_moment(
    power: int, gamma: Any = _GAMMA, cov_moments: Sequence[Any] | None = None, *, weight: int = 0
) -> sp.Expr:
    """lim (1/d) E tr(Sigma^weight (S/n)^power), S = X'X, n and d -> infinity with d/n -> gamma.

    Parameters
    ----------
    gamma: the limit of d/n, a positive number or symbol.
    cov_moments: [lim tr Sigma / d, lim tr Sigma^2 / d, ...], at least `power + weight` of them;
        `None` is Sigma = I, the Marchenko-Pastur law with its atom 1 - 1/gamma at 0 for gamma > 1.

    Errors: `InvalidInput`. Source: leading order of the integration by parts, derived here.

    >>> limit_trace_moment(4)
    gamma**3 + 6*gamma**2 + 6*gamma + 1
    >>> limit_trace_moment(2, cov_moments=[1, 3])
    gamma + 3
    """
    for value, name in ((power, "power"), (weight, "weight")):
        if (
            isinstance(value, bool)
            or not isinstance(value, int)
            or not 0 <= value <= _LARGEST_POWER
        ):
            raise InvalidInput(f"{name} = {value!r}: pass an integer from 0 to {_LARGEST_POWER}.")
    ratio = checks.positive(gamma, "gamma")
    if cov_moments is None:
        return limit_moments(ratio)(0, power)
    moments = [checks.scalar(x, f"cov_moments[{i}]") for i, x in enumerate(cov_moments)]
    if len(moments) < power + weight:
        raise InvalidInput(
            f"cov_moments has {len(moments)} entries; tr Sigma^j / d is needed up to j = "
            f"power + weight = {power + weight}."
        )
    return limit_moments(ratio, lambda j: moments[j - 1] if j else sp.S.One)(weight, power)


def limit_moments(
    gamma: sp.Expr, cov_moment: Callable[[int], sp.Expr] | None = None
) -> Callable[[int, int], sp.Expr]:
    """(j, k) -> lim (1/d) E tr(Sigma^j (S/n)^k), with a memory shared by all calls.

    In the recursion of `icltheory.laws.wishart` traces become independent of each other, and one
    kind of derivative survives beside that of the explicit X: it splits off a trace (d/n -> gamma).
    """
    known: dict[int, tuple[Any, Callable[[int, int], Any]]] = {}

    def moment(j: int, k: int) -> sp.Expr:
        top = 0 if cov_moment is None else j + k
        bound = next((b for b in sorted(known) if b >= top), None)
        if bound is None:
            moments = [] if cov_moment is None else [cov_moment(i) for i in range(top + 1)]
            domain, (ratio, *numbers) = construct_domain([gamma, *moments])
            known[top] = domain, _limit_recursion(domain, ratio, numbers)
            bound = top
        domain, recursion = known[bound]
        return domain.to_sympy(recursion(j, k))

    return moment


def _limit_recursion(
    domain: Any, ratio: Any, cov_moments: Sequence[Any]
) -> Callable[[int, int], Any]:
    """`limit_moments` in a SymPy domain; no covariance moments are those of the identity."""
    memory: dict[tuple[int, int], Any] = {}

    def moment(j: int, k: int) -> Any:
        j = j if cov_moments else 0
        if k == 0:
            return cov_moments[j] if cov_moments else domain.one
        if (j, k) not in memory:
            split = (moment(0, i) * moment(j + 1, k - 1 - i) for i in range(1, k))
            memory[j, k] = moment(j + 1, k - 1) + ratio * sum(split, domain.zero)
        return memory[j, k]

    return moment


def marchenko_pastur_density(gamma: Any = _GAMMA) -> Formula:
    """Limit density of the eigenvalues x of S/n, normalised to all d eigenvalues; a Formula in x, gamma.

    Its mass is min(1, 1/gamma); the rest is the atom at 0. Source: Marchenko and Pastur (1967); here
    as the jump of the resolvent across the spectrum.

    >>> marchenko_pastur_density(1).expr
    sqrt(4 - x)/(2*pi*sqrt(x))
    """
    ratio = checks.positive(gamma, "gamma")
    x = sp.Symbol("x", positive=True)
    # The resolvent at z = -x +- i0 differs by the square root of the discriminant.
    leading, linear, constant = _quadratic(ratio, -x)
    discriminant = sp.factor(linear**2 - 4 * leading * constant)
    low, high = ((1 - sp.sqrt(ratio)) ** 2, (1 + sp.sqrt(ratio)) ** 2)
    spread = sp.factor(-discriminant) if ratio == 1 else (high - x) * (x - low)
    return Formula(
        "Marchenko-Pastur density",
        sp.sqrt(spread) / (2 * sp.pi * ratio * x),
        validity=sp.And(x > low, x < high),
        references=(MARCHENKO_PASTUR, DERIVED_HERE),
        steps=(
            Step("discriminant of the resolvent's equation", sp.Eq(sp.Symbol("D"), discriminant)),
        ),
    )


def marchenko_pastur_resolvent(z: Any = _Z, gamma: Any = _GAMMA) -> Formula:
    """lim (1/d) E tr (S/n + z)^{-1}, z > 0: the positive solution of its quadratic equation.

    Powers follow by differentiation, (S/n + z)^{-2} being -d/dz. Source: Marchenko and Pastur (1967).

    >>> marchenko_pastur_resolvent(1, 2).expr
    sqrt(2)/2
    """
    point, ratio = checks.positive(z, "z"), checks.positive(gamma, "gamma")
    leading, linear, constant = _quadratic(ratio, point)
    # The product of the solutions is -1/(gamma z) < 0: one is positive.
    root = (-linear + sp.sqrt(linear**2 - 4 * leading * constant)) / (2 * leading)
    m = sp.Symbol("m")
    return Formula(
        "resolvent of the Marchenko-Pastur law",
        root,
        references=(MARCHENKO_PASTUR, DERIVED_HERE),
        steps=(
            Step("self-consistency", sp.Eq(m, 1 / (point + 1 - ratio + ratio * point * m))),
            Step("positive solution", sp.Eq(m, root)),
        ),
    )


def _quadratic(gamma: sp.Expr, z: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """Coefficients of the equation m (z + 1 - gamma + gamma z m) = 1 of the resolvent at -z."""
    return gamma * z, 1 - gamma + z, sp.S.NegativeOne


# -- the hard edge -------------------------------------------------------------------------------


def edge_density(n: Any = length_symbol, d: Any = dim_symbol) -> Formula:
    """Density of the nonzero eigenvalues of S near 0, to two terms: K lam^a (1 - b lam).

    Its total mass is min(n, d); a = (|n - d| - 1)/2. A Formula in `lam`, n and d.
    It holds for lam well below the typical smallest eigenvalue. Source: the joint
    density of the eigenvalues with one of them sent to 0, and the Laguerre-Selberg integral.

    >>> edge_density(20, 20).expr
    (230945*sqrt(2)*sqrt(pi)/262144)*(1 - 39*lam/2)/sqrt(lam)
    """
    length = checks.positive_integer(n, "n", "n=40")
    dim = checks.positive_integer(d, "d", "d=20")
    exponent, factor, slope = edge_constants(sp.Min(length, dim), abs(length - dim))
    name, other = sp.symbols("K b")
    return Formula(
        "density of eigenvalues near 0",
        sp.Mul(factor, lam**exponent, 1 - slope * lam, evaluate=False),
        steps=(
            Step("exponent of the joint density", sp.Eq(sp.Symbol("a"), exponent)),
            Step("ratio of Selberg integrals", sp.Eq(name, factor)),
            Step("1/2 + mean of the others' tr S^{-1}", sp.Eq(other, slope)),
        ),
    )


def edge_constants(count: sp.Expr, gap: sp.Expr) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
    """a, K, b of the density K lam^a (1 - b lam) near 0, for count = min(n, d) and gap = |n - d|.

    With one of the m = min(n, d) eigenvalues at lam, prod |lam - lam_j| -> prod lam_j (1 - lam/lam_j)
    turns the others into the ensemble of sizes m - 1 and max(n, d) + 1, whose a is larger by 1.
    """
    most = count + gap
    exponent = sp.Rational(1, 2) * (gap - 1)
    inverse = inverse_wishart_moment(1).subs(
        {dim_symbol: count - 1, length_symbol: most + 1}, simultaneous=True
    )
    slope = sp.Rational(1, 2) + sp.cancel(inverse)
    return exponent, count * _selberg_ratio(count, exponent), slope


def _selberg_ratio(m: sp.Expr, a: sp.Expr) -> sp.Expr:
    """Z(m - 1, a + 1)/Z(m, a), Z(m, a) the integral of prod x_i^a e^{-x_i/2} |Vandermonde|.

    Z(m, a) = 2^{m (a + 1) + m (m - 1)/2} prod_{j < m} f(j) g(j), f(j) = Gamma(1 + a + j/2),
    g(j) = Gamma(1 + (j + 1)/2)/Gamma(3/2); a + 1 moves f(j) to f(j + 2), and the products telescope.
    """
    half = sp.Rational(1, 2)

    def exponent(m: sp.Expr, a: sp.Expr) -> sp.Expr:
        return m * (a + 1) + m * (m - 1) / 2

    def f(j: Any) -> sp.Expr:
        return sp.gamma(1 + a + j * half)

    twos = sp.expand(exponent(m - 1, a + 1) - exponent(m, a))
    return 2**twos * f(m) / (f(0) * f(1)) * sp.gamma(3 * half) / sp.gamma(1 + m * half)
