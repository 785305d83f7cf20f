"""The leading 1/n term: the variance of the influence of one example.

With consistent heads, n times the risk tends to E phi^2, phi the influence of one example on the
prediction (delta method for a ratio of means). For a softmax head with dual point q,

    phi_h = exp(a - q'Sigma q / 2) (y - q'Sigma theta),    a = q.x,  y = theta.x + noise;

for linear attention phi = a y - q'Sigma theta. A product of two influences is a polynomial times an
exponential of linear forms, so `influence_kernel` gives the expectation for every pair of heads by
one tilt, and `query_average` averages it over the query by one quadratic tilt.

For any token law the output T_n(u) of a softmax head at dual point u is a ratio of means as well.
With w = exp(u.z - K(u)) and m = grad K(u),

    T_n(u) - m = A / (1 + e),    A = mean of w (z - m),    e = mean of w - 1,

both of mean zero, and every moment of w and z is a value of K, of its gradient or of its Hessian at
a multiple of u (one tilt): `leading_bias`, `leading_covariance`, `leading_jacobian_error`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement
from typing import Any

import sympy as sp
from sympy.utilities.iterables import multiset_partitions

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.formula import BOURSIER, DERIVED_HERE, Formula, Step
from icltheory.laws.empirical import LARGEST_FOURTH, Empirical
from icltheory.laws.gaussian import quadratic_tilt, tilted_mean, wick_moment
from icltheory.laws.tokens import TokenLaw
from icltheory.limit import cumulant_step, gradient_at, head_limit, hessian_at
from icltheory.matrices import Square
from icltheory.symbols import noise_var
from icltheory.task import LinearRegression

# Kernel variables: u = q_h'Sigma q_l, c = q_h'Sigma M Sigma q_l, and the scalars R, noise_var.
U, C = sp.symbols("u c", real=True)
SIGNAL, NOISE = sp.symbols("R noise", nonnegative=True)


@dataclass(frozen=True)
class Kernel:
    """E[phi_h phi_l] of a pair: `polynomial` in u, c, R and the noise, times exp(rate u)."""

    polynomial: sp.Expr
    rate: sp.Expr


@dataclass(frozen=True)
class PairAverage:
    """Query average of a pair's kernel: `normaliser` times `bracket`, finite where `finite`."""

    normaliser: sp.Expr
    bracket: sp.Expr
    finite: sp.Basic


@lru_cache(maxsize=2)
def influence_kernel(kind: str) -> Kernel:
    """E[phi_h phi_l] over one example, its noise and the coefficients.

    `kind` is "softmax" or "linear" (then both heads are the same and u = q'Sigma q).

    >>> influence_kernel("softmax")
    Kernel(polynomial=R + c + noise, rate=1)
    >>> influence_kernel("linear")
    Kernel(polynomial=R*u + c + noise*u, rate=0)
    """
    # Linear forms of one example: scores a = q_h.x and b = q_l.x, signal w = theta.x, noise e.
    a, b, w, e = sp.symbols("a b w e", real=True)
    aa, bb, ww = sp.symbols("aa bb ww", nonnegative=True)
    aw, bw = sp.symbols("aw bw", real=True)
    cov = [[aa, U, aw, 0], [U, bb, bw, 0], [aw, bw, ww, 0], [0, 0, 0, NOISE]]
    limit, q_theta = head_limit()
    limit_h, limit_l = limit.subs(q_theta, aw), limit.subs(q_theta, bw)
    if kind == "softmax":
        product, tilt, log_weight = (
            (w + e - limit_h) * (w + e - limit_l),
            [1, 1, 0, 0],
            -(aa + bb) / 2,
        )
    else:
        product = (a * (w + e) - limit_h) * (b * (w + e) - limit_l)
        tilt, log_weight = [0, 0, 0, 0], sp.S.Zero
    mean, log_normaliser = tilted_mean([0, 0, 0, 0], cov, tilt)
    over_example = wick_moment(product, [a, b, w, e], list(mean), cov)
    # Over the coefficients: E theta'Sigma theta = R; aw and bw are linear forms of covariance c.
    over_coefficients = wick_moment(
        sp.expand(over_example).subs(ww, SIGNAL), [aw, bw], [0, 0], [[0, C], [C, 0]]
    )
    return Kernel(over_coefficients, sp.diff(sp.expand(log_normaliser + log_weight), U))


def kernel_step(
    kernel: Kernel, what: str, forms: str = "q_h'Sigma q_l, c = q_h'Sigma M Sigma q_l"
) -> Step:
    """The kernel as a step of a derivation, with its letters in words; `what` has it as K.

    `forms`: u and c as they are in this derivation.
    """
    value = kernel.polynomial * sp.exp(kernel.rate * U)
    title = f"{what}, u = {forms}, signal R = tr(Sigma M), M = E theta theta'"
    return Step(title, sp.Eq(sp.Symbol("K"), value.subs(NOISE, noise_var)))


def query_average(
    task: LinearRegression, kernel: Kernel, first: Square, second: Square
) -> PairAverage:
    """The kernel averaged over the query x_q ~ N(0, Sigma), for score matrices A_h and A_l.

    With q_h = A_h' x_q both u and c are quadratic forms of the query: u = x_q'N x_q with
    N = sym(A_h Sigma A_l'), c = x_q'P x_q with P = sym(A_h Sigma M Sigma A_l'). The kernel is linear
    in them, and exp(rate u) is a quadratic tilt of the query. Local examples vary by tau^2 Sigma
    around rho x_q: that covariance takes the place of Sigma in the kernel, and a shift of all
    features by rho x_q changes no softmax and leaves the influence as it is.
    """
    sigma, moment = task.token_cov, task.coef_moment
    forms = {
        U: _symmetric(first @ sigma @ second.T),
        C: _symmetric(first @ sigma @ moment @ sigma @ second.T),
    }
    weight = quadratic_tilt(task.feature_cov, forms[U] * kernel.rate)
    means = {form: (matrix @ weight.cov).trace() for form, matrix in forms.items()}
    signal = sp.cancel((sigma @ moment).trace())
    values = {SIGNAL: signal, NOISE: task.noise_var, **means}
    return PairAverage(weight.normaliser, kernel.polynomial.xreplace(values), weight.finite)


def _symmetric(matrix: Square) -> Square:
    return (matrix + matrix.T) * sp.S.Half


# -- any token law -------------------------------------------------------------------------------


def weight_moment(law: TokenLaw, u: Any, power: int = 2) -> Formula:
    """rho_k(u) = E w^k = exp(K(k u) - k K(u)) of the normalised weight w = exp(u.z - K(u)).

    `power`: the integer k >= 1. n / rho_2 is the effective number of attended tokens of a long
    prompt. Errors: `OutOfDomain` where k u is outside the domain of K. Source: derived here.

    >>> from icltheory.laws.tokens import Laplace
    >>> u = sp.Symbol("u")
    >>> rho = weight_moment(Laplace(dim=1), [u])
    >>> sp.factor(rho.expr), rho.validity
    (-(u - 1)**2*(u + 1)**2/((2*u - 1)*(2*u + 1)), Abs(u) < 1/2)
    """
    power = checks.integer(power, "power", 1, "2")
    point = _inside(law, u, power)
    return Formula(
        f"E w^{power} of the softmax weight",
        _rho(law, point, power),
        validity=law.domain([power * x for x in point]),
        references=(DERIVED_HERE,),
        steps=(cumulant_step(law, point),),
    )


def leading_bias(law: TokenLaw, u: Any, order: int = 1) -> Formula:
    """lim n (E T_n(u) - grad K(u)), d x 1: how far a finite prompt pulls the mean output back.

    `order=2` gives the coefficient of 1/n^2. Valid where 2u (order 2: 3u) is inside the domain of
    K, so that the weights have a second (third) moment. Errors: `OutOfDomain`, `InvalidInput`.
    Source: derived here, by expanding the ratio of means.

    >>> from icltheory.laws.tokens import Gaussian
    >>> s, u = sp.symbols("s u", positive=True)
    >>> leading_bias(Gaussian([0], [[s]]), [u]).expr
    Matrix([[-s*u*exp(s*u**2)]])
    """
    if order not in (1, 2):
        raise InvalidInput(f"order = {order!r} is not available; pass 1 or 2.")
    point = _inside(law, u, order + 1)

    # a = w (z - m) and b = w - 1, of mean zero: E a w^k = rho_{k+1} (grad K((k+1) u) - m).
    def moment(polynomial: sp.Expr) -> sp.Matrix:
        total = sp.zeros(law.dim, 1)
        for (k,), c in sp.Poly(polynomial, w).terms():
            total += c * _rho(law, point, k + 1) * _shift(law, point, k + 1)
        return total

    w = sp.Symbol("w")
    b = w - 1
    if order == 1:
        bias = -moment(b)  # -E A e
    else:  # E A e^2 - E A e^3, of which three of n^4 index patterns survive
        variance = _rho(law, point, 2) - 1
        bias = moment(b**2) - 3 * variance * moment(b)
    return Formula(
        f"coefficient of 1/n{'^2' if order == 2 else ''} in the mean output",
        sp.ImmutableMatrix(bias),
        validity=law.domain([(order + 1) * x for x in point]),
        references=(DERIVED_HERE,),
        steps=(
            Step(
                "rho_2 = E w^2 of the softmax weight",
                sp.Eq(sp.Symbol("rho_2"), _rho(law, point, 2)),
            ),
        ),
    )


def leading_covariance(law: TokenLaw, u: Any, w: Any = None) -> Formula:
    """lim n Cov(T_n(u), T_n(w)), d x d (rows: head u), of two heads on one prompt; w = u if `None`.

    E of the product of the two influences exp(u.z - K(u)) (z - grad K(u)), by tilting to u + w.
    sqrt(n) (T_n(u) - grad K(u)) is asymptotically normal with the covariance at w = u. Valid where
    2u and 2w are inside the domain of K. Errors: `OutOfDomain` outside (for Laplace tokens with
    1/(2 scale) <= |u| < 1/scale the limit exists, but no 1/n law), `InvalidInput`. Source: derived
    here.

    >>> from icltheory.laws.tokens import Gaussian
    >>> s, u, w = sp.symbols("s u w")
    >>> leading_covariance(Gaussian([0], [[s]]), [u], [w]).expr
    Matrix([[(s**2*u*w + s)*exp(s*u*w)]])
    """
    first = _inside(law, u, 2)
    second = first if w is None else _inside(law, w, 2)
    both = [x + y for x, y in zip(first, second, strict=True)]  # in the domain, which is convex
    log_weight = law.cgf(both) - law.cgf(first) - law.cgf(second)
    centre = gradient_at(law, both)
    left, right = (_expanded(centre - gradient_at(law, x)) for x in (first, second))
    product = hessian_at(law, both) + left * right.T
    doubled = [law.domain([2 * x for x in point]) for point in (first, second)]
    return Formula(
        "n times the covariance of the outputs of two heads",
        sp.ImmutableMatrix(product * sp.exp(log_weight)),
        validity=sp.And(*doubled),
        references=(BOURSIER, DERIVED_HERE),
        steps=(
            Step(
                "rho = E of the product of the two weights",
                sp.Eq(sp.Symbol("rho"), sp.exp(log_weight)),
            ),
        ),
    )


def leading_jacobian_error(law: TokenLaw, u: Any) -> Formula:
    """lim n E ||C_n(u) - Hess K(u)||^2 (Frobenius), C_n the weighted covariance of the prompt.

    C_n is the Jacobian of the finite layer in its dual point; to leading order its error is the mean
    of w (Y Y' - Hess K), Y = z - grad K(u). Valid where 2u is inside the domain of K. Source: derived
    here.

    >>> from icltheory.laws.tokens import Gaussian
    >>> s, u = sp.symbols("s u", positive=True)
    >>> sp.factor(leading_jacobian_error(Gaussian([0], [[s]]), [u]).expr)
    s**2*(s**2*u**4 + 4*s*u**2 + 2)*exp(s*u**2)
    """
    point = _inside(law, u, 2)
    hessian, double = hessian_at(law, point), [2 * x for x in point]
    generating, dual = _centred(law, double, gradient_at(law, point))
    squares = sp.Add(*(h**2 for h in hessian))
    mixed = sp.Add(
        *(
            hessian[i, j] * sp.diff(generating, a, b)
            for i, a in enumerate(dual)
            for j, b in enumerate(dual)
        )
    )
    inner = _laplacian(_laplacian(generating, dual), dual) - 2 * mixed
    moment = inner.xreplace(dict.fromkeys(dual, sp.S.Zero)) + squares
    return Formula(
        "n times the squared error of the finite Jacobian",
        _rho(law, point, 2) * moment,
        validity=law.domain(double),
        references=(DERIVED_HERE,),
        steps=(
            cumulant_step(law, point),
            Step("second moment of the weights", sp.Eq(sp.Symbol("rho"), _rho(law, point, 2))),
            Step("E |Y Y' - Hess K|^2 at 2u, Y = z - grad K(u)", sp.Eq(sp.Symbol("M_4"), moment)),
        ),
    )


def fourth_moment(law: TokenLaw, u: Any) -> Formula:
    """E |z - grad K(u)|^4 over one (untilted) token.

    Source: derived here.

    >>> from icltheory.laws.tokens import Rademacher
    >>> fourth_moment(Rademacher(dim=3), [0, 0, 0]).expr
    9
    """
    point = _inside(law, u, 1)
    moment = TiltedMoments(law, [sp.S.Zero] * law.dim, list(gradient_at(law, point)))
    pairs = combinations_with_replacement(range(law.dim), 2)
    quartic = sp.Add(*((1 if i == j else 2) * moment((i, i, j, j)) for i, j in pairs))
    return Formula(
        "fourth moment of a token about the infinite-prompt output",
        quartic,
        validity=law.domain(point),
        references=(DERIVED_HERE,),
        steps=(cumulant_step(law, point),),
    )


class TiltedMoments:
    """E prod_i (X - centre)_i under the law tilted by exp(point.x), from the cumulants there."""

    def __init__(self, law: TokenLaw, point: list[Any], centre: list[Any]) -> None:
        if isinstance(law, Empirical) and law.size > LARGEST_FOURTH:
            raise InvalidInput(
                f"moments of fourth order of {law} have no short formula (more than {LARGEST_FOURTH} "
                f"points); use numeric.concentration_bound."
            )
        self._dual = [sp.Dummy(f"u{i + 1}", real=True) for i in range(law.dim)]
        self._cgf = law.cgf(self._dual)
        self._at = dict(zip(self._dual, point, strict=True))
        self._centre, self._known = centre, {}

    def __call__(self, indices: tuple[int, ...]) -> sp.Expr:
        places = list(range(len(indices)))
        return sp.Add(
            *(
                sp.Mul(*(self._cumulant(tuple(sorted(indices[i] for i in b))) for b in blocks))
                for blocks in multiset_partitions(places)
            )
        )

    def _cumulant(self, indices: tuple[int, ...]) -> sp.Expr:
        if indices not in self._known:
            value = sp.diff(self._cgf, *(self._dual[i] for i in indices)).subs(self._at)
            self._known[indices] = value - (self._centre[indices[0]] if len(indices) == 1 else 0)
        return self._known[indices]


def _inside(law: TokenLaw, u: Any, factor: int) -> list[sp.Expr]:
    """u as expressions; refused where `factor` u is outside the domain, with the reason."""
    if not isinstance(law, TokenLaw):
        raise InvalidInput(
            f"law has type {type(law).__name__}; pass a token law such as icl.Gaussian(mean, cov)."
        )
    law.point(u)  # where not even the limit exists, that is the message
    why = f"where the weights of {law} have a finite moment of order {factor}"
    return law.point(u, factor, f"{why}: the limit exists at u, but not this expansion in 1/n")


def _rho(law: TokenLaw, point: list[sp.Expr], k: int) -> sp.Expr:
    return sp.exp(law.cgf([k * x for x in point]) - k * law.cgf(point))


def _shift(law: TokenLaw, point: list[sp.Expr], k: int) -> sp.Matrix:
    """grad K(k u) - grad K(u)."""
    return _expanded(gradient_at(law, [k * x for x in point]) - gradient_at(law, point))


def _centred(
    law: TokenLaw, tilt: list[sp.Expr], centre: sp.Matrix
) -> tuple[sp.Expr, list[sp.Symbol]]:
    """E exp(s.(z - centre)) under the tilt, as a function of dummies s."""
    s = [sp.Dummy(f"s{i + 1}", real=True) for i in range(law.dim)]
    moved = law.cgf([x + y for x, y in zip(tilt, s, strict=True)])
    shift = sp.Add(*(x * c for x, c in zip(s, centre, strict=True)))
    return sp.exp(moved - law.cgf(tilt) - shift), s


def _laplacian(expr: sp.Expr, variables: list[sp.Symbol]) -> sp.Expr:
    return sp.Add(*(sp.diff(expr, x, 2) for x in variables))


def _expanded(matrix: sp.Matrix) -> sp.Matrix:
    """Products with sums multiplied out at the top level, so that differences cancel."""
    return matrix.applyfunc(
        lambda x: sp.Add(*(sp.expand_mul(a, deep=False) for a in sp.Add.make_args(x)))
    )
