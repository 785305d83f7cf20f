"""The leading 1/n term: the variance of the influence of one example.

With consistent heads, n times the risk tends to E phi^2, phi the influence of one example on the
prediction (delta method for a ratio of means). For a softmax head with dual point q,

    phi_h = exp(a - q'Sigma q / 2) (y - q'Sigma theta),    a = q.x,  y = theta.x + noise;

for linear attention phi = a y - q'Sigma theta. A product of two influences is a polynomial times an
exponential of linear forms, so `influence_kernel` gives the expectation for every pair of heads by
one tilt, and `query_average` averages it over the query by one quadratic tilt.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import sympy as sp

from icltheory.laws.gaussian import quadratic_tilt, tilted_mean, wick_moment
from icltheory.limit import head_limit
from icltheory.matrices import Square
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


def query_average(
    task: LinearRegression, kernel: Kernel, first: Square, second: Square
) -> PairAverage:
    """The kernel averaged over the query x_q ~ N(0, Sigma), for score matrices A_h and A_l.

    With q_h = A_h' x_q both u and c are quadratic forms of the query: u = x_q'N x_q with
    N = sym(A_h Sigma A_l'), c = x_q'P x_q with P = sym(A_h Sigma M Sigma A_l'). The kernel is linear
    in them, and exp(rate u) is a quadratic tilt of the query.
    """
    sigma, moment = task.feature_cov, task.coef_cov
    forms = {
        U: _symmetric(first @ sigma @ second.T),
        C: _symmetric(first @ sigma @ moment @ sigma @ second.T),
    }
    weight = quadratic_tilt(sigma, forms[U] * kernel.rate)
    means = {form: (matrix @ weight.cov).trace() for form, matrix in forms.items()}
    values = {SIGNAL: task.signal, NOISE: task.noise_var, **means}
    return PairAverage(weight.normaliser, kernel.polynomial.xreplace(values), weight.finite)


def _symmetric(matrix: Square) -> Square:
    return (matrix + matrix.T) * sp.S.Half
