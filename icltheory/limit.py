"""The infinite-prompt limit: what attention computes when the prompt is a law.

A softmax average is a ratio of empirical means, so with dual point u it tends to
E[z e^{u.z}] / E[e^{u.z}] = grad K(u), K the cumulant generating function of the tokens
(Boursier & Boyer, arXiv 2512.11784, Lemma 2.1 for Gaussian tokens). For regression tokens and
scores A_h the prediction tends to theta' Sigma (sum_h v_h A_h') x_q, and its risk vanishes exactly
when the heads are *consistent*: sum_h v_h A_h = Sigma^{-1}.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory.attention import (
    OPTIONS,
    Attention,
    LinearAttention,
    SoftmaxAttention,
    on_specifications,
)
from icltheory.errors import InvalidInput
from icltheory.formula import BOURSIER, DERIVED_HERE, Formula, Step
from icltheory.laws.gaussian import tilted_mean
from icltheory.laws.tokens import TokenLaw
from icltheory.matrices import Square, total
from icltheory.symbols import k
from icltheory.task import LinearRegression


def limit_output(law: TokenLaw, u: Any) -> Formula:
    """What infinite-prompt softmax attention with dual point u = K'Q x reads: grad K(u).

    `u` is a vector of d numbers or expressions, in the domain of the law's cumulant generating
    function; the result is a d x 1 matrix. Holds for every law: the output is
    E[z exp(u.z)] / E[exp(u.z)]. Errors: `OutOfDomain`, `InvalidInput`. Source: Boursier & Boyer,
    arXiv 2512.11784 (Lemma 2.1 for Gaussian laws).

    >>> from icltheory.laws.tokens import Gaussian, Rademacher
    >>> u1, u2 = sp.symbols("u1 u2")
    >>> limit_output(Gaussian([0, 1], [[1, 0], [0, 2]]), [u1, u2]).expr.T
    Matrix([[u1, 2*u2 + 1]])
    >>> limit_output(Rademacher(dim=2), [u1, u2]).expr.T
    Matrix([[tanh(u1), tanh(u2)]])
    """
    point = _law(law).point(u)
    return Formula(
        "infinite-prompt output",
        gradient_at(law, point),
        validity=law.domain(point),
        references=(BOURSIER.at("Lemma 2.1"), DERIVED_HERE),
        steps=(cumulant_step(law, point),),
    )


def cumulant_step(law: TokenLaw, point: Any) -> Step:
    """K at the point, as a step of a derivation."""
    value = law.cgf(point)
    return Step("cumulant generating function K", sp.Eq(sp.Symbol("K"), value, evaluate=False))


def limit_jacobian(law: TokenLaw, u: Any) -> Formula:
    """The Hessian of K at u, d x d: the derivative of the infinite-prompt output in its dual point.

    It is the covariance of the tokens as attention weights them.
    Source: derived here, after arXiv 2512.11784.

    >>> from icltheory.laws.tokens import Gaussian
    >>> limit_jacobian(Gaussian([0, 1], [[1, 0], [0, 2]]), [3, 4]).expr
    Matrix([
    [1, 0],
    [0, 2]])
    """
    point = _law(law).point(u)
    return Formula(
        "Jacobian of the infinite-prompt output",
        hessian_at(law, point),
        validity=law.domain(point),
        references=(BOURSIER, DERIVED_HERE),
        steps=(cumulant_step(law, point),),
    )


def limit_linearization(law: TokenLaw, u: Any) -> Formula:
    """The linear response k1 + k2 u of infinite-prompt attention (mean and covariance of the law).

    Every law has grad K(u) = k1 + k2 u + O(|u|^2), so linear attention is softmax attention at small
    scores. Equality on an open set of u holds exactly for Gaussian laws (singular ones included):
    grad K is analytic, and a generating function that is quadratic is that of a Gaussian. The
    deviation is `limit_output` minus this; `numeric.nonlinearity` measures it. Source: Boursier &
    Boyer, arXiv 2512.11784, Lemma 2.1; the converse is derived here.

    >>> from icltheory.laws.tokens import Laplace
    >>> u = sp.Symbol("u")
    >>> limit_linearization(Laplace(dim=1, scale=3), [u]).expr
    Matrix([[18*u]])
    """
    point, origin = _law(law).point(u), [sp.S.Zero] * law.dim
    mean, cov = gradient_at(law, origin), hessian_at(law, origin)
    return Formula(
        "linear response of the infinite-prompt output",
        sp.ImmutableMatrix(mean + cov * sp.Matrix(point)),
        references=(BOURSIER.at("Lemma 2.1"), DERIVED_HERE),
        steps=(
            Step("mean of the law, grad K(0)", sp.Eq(sp.Symbol("k_1"), mean, evaluate=False)),
            Step("covariance of the law", sp.Eq(sp.Symbol("k_2"), cov, evaluate=False)),
        ),
    )


def gradient_at(law: TokenLaw, point: list[sp.Expr]) -> sp.ImmutableMatrix:
    """grad K at a point of exact expressions, d x 1."""
    dual, gradient = _gradient(law)
    table = dict(zip(dual, point, strict=True))
    return sp.ImmutableMatrix(law.dim, 1, [x.xreplace(table) for x in gradient])


def hessian_at(law: TokenLaw, point: list[sp.Expr]) -> sp.ImmutableMatrix:
    """Hess K at a point of exact expressions, d x d."""
    dual, hessian = _hessian(law)
    table = dict(zip(dual, point, strict=True))
    values = {key: x.xreplace(table) for key, x in hessian.items()}
    return sp.ImmutableMatrix(law.dim, law.dim, lambda i, j: values[min(i, j), max(i, j)])


@lru_cache(maxsize=128)
def _gradient(law: TokenLaw) -> tuple[list[sp.Symbol], list[sp.Expr]]:
    dual = [sp.Dummy(f"u{i + 1}") for i in range(law.dim)]
    cgf = law.cgf(dual)
    gradient = [sp.diff(cgf, x) for x in dual]
    if cgf.has(sp.cosh):  # sinh/cosh of log cosh
        gradient = [g.replace(sp.sinh, lambda x: sp.cosh(x) * sp.tanh(x)) for g in gradient]
    return dual, gradient


@lru_cache(maxsize=128)
def _hessian(law: TokenLaw) -> tuple[list[sp.Symbol], dict[tuple[int, int], sp.Expr]]:
    dual, gradient = _gradient(law)
    size = range(law.dim)
    return dual, {(i, j): sp.diff(gradient[i], dual[j]) for i in size for j in size if i <= j}


def _law(law: Any) -> TokenLaw:
    if not isinstance(law, TokenLaw):
        raise InvalidInput(
            f"law has type {type(law).__name__}; pass a token law such as icl.Gaussian(mean, cov)."
        )
    return law


# -- regression prompts --------------------------------------------------------------------------


@lru_cache(maxsize=1)
def limit_step() -> Step:
    """The limit of one head as a step of a derivation."""
    title = (
        "limit f_h of one head by tilting, scores q_h'x with q_h = A_h'x_q, features of covariance "
        "Sigma, coefficients theta"
    )
    return Step(title, sp.Eq(sp.Symbol("f_h"), head_limit()[0]))


def head_limit() -> tuple[sp.Expr, sp.Symbol]:
    """Limit of one softmax head, E[y e^a]/E[e^a] for a = q.x, as a covariance of linear forms.

    Returns the limit and the symbol q'Sigma theta it is written in. Linear attention has the same
    limit, E[a y], since a Gaussian tilt moves the mean by exactly the covariance.
    """
    aa, aw = sp.Symbol("q_h'Sigma q_h", real=True), sp.Symbol("q_h'Sigma theta", real=True)
    # Forms (a, w) = (q.x, theta.x); the label is w plus independent noise of mean zero.
    mean, _ = tilted_mean([0, 0], [[aa, aw], [aw, sp.Symbol("theta'Sigma theta")]], [1, 0])
    return mean[1], aw


def combined_scores(task: LinearRegression, attention: Attention) -> Square:
    """sum_h v_h A_h: all that an infinite prompt sees of the heads."""
    if isinstance(attention, LinearAttention):
        raise InvalidInput("linear attention has no heads; its matrix is a Sigma^{-1}.")
    if attention.values is None:
        raise InvalidInput(
            "the heads carry no values; give SoftmaxAttention(scores=..., values=...)."
        )
    matrices = attention.score_matrices(task)
    return total([a * v for a, v in zip(matrices, attention.values, strict=True)])


def consistent_scores(task: LinearRegression) -> Square:
    """The matrix that sum_h v_h A_h must equal for the limiting risk to vanish: Sigma^{-1}.

    The limiting error is theta'(Sigma B' - I) x_q with B = sum_h v_h A_h, by `head_limit`; it
    vanishes for every theta and query iff Sigma B' = I.
    """
    return task.feature_cov.inverse().T


@on_specifications(supports=OPTIONS)
def limit_risk(task: LinearRegression, attention: Attention) -> Formula:
    """Risk of an infinite prompt, tr(M E Sigma E') with E = Sigma sum_h v_h A_h' - I.

    `attention` carries scores and values, and numbers for its skip path and feature values if it
    has them. Local examples have E = rho sum_h v_h I + tau^2 Sigma sum_h v_h A_h' - I. The query
    token inside the softmax does not matter here. Source: derived here; Cui et al.,
    arXiv 2401.17426, announce the 1/n rate, which needs this limit to vanish.

    >>> task = LinearRegression(dim=3)
    >>> limit_risk(task, SoftmaxAttention(scores=[0.5], values=[1])).expr
    1/4
    """
    error, known = limit_error(task, attention)
    moment = task.coef_moment if known is None else task.coef_cov
    risk = (moment @ error @ task.feature_cov @ error.T).trace()
    if known is not None:
        risk += (known.T * task.feature_cov.to_matrix() * known)[0]
    return Formula(
        "risk at infinite prompt length",
        sp.factor(risk) if risk.free_symbols else risk,
        validity=task.validity,
        references=(DERIVED_HERE,),
        steps=(limit_step(),),
    )


def limit_error(
    task: LinearRegression, attention: Attention
) -> tuple[Square, sp.ImmutableMatrix | None]:
    """E and g of the limiting error theta'E x_q, or (theta - theta_0)'E x_q + g'x_q if g is not None.

    A tilt by q moves the features to rho x_q + tau^2 Sigma q. A value u_h.x and a skip path add
    their parts to g, which is None where there are none.
    """
    combined = combined_scores(task, attention)
    assert isinstance(attention, SoftmaxAttention)
    assert attention.values is not None
    rho = task.local[0] if task.local else sp.S.Zero
    spread, one = task.token_cov, Square.identity(1, task.dim)
    error = spread @ combined.T - one + one * (rho * sum(attention.values))
    skip, readers = attention.vectors(task)
    if skip is None and readers is None:
        return error, None
    known = sp.zeros(int(task.dim), 1) if skip is None else sp.Matrix(skip)
    if task.coef_mean is not None:
        known += error.T.to_matrix() * task.coef_mean
    for matrix, reader in zip(attention.score_matrices(task), readers or (), strict=False):
        known += (one * rho + matrix @ spread).to_matrix() * sp.Matrix(reader)
    return error, sp.ImmutableMatrix(known)


def is_consistent(task: LinearRegression, attention: SoftmaxAttention) -> bool:
    """Whether the limiting risk vanishes; for decimal numbers, up to their rounding.

    Terms with symbols are exact and have no rounding.
    """
    error, known = limit_error(task, attention)
    entries = [error.scale] if error.is_isotropic else list(error.to_matrix())
    entries = [sp.cancel(x) for x in (*entries, *(known or ()))]
    if not any(entries):
        return True
    if any(x.free_symbols for x in entries):
        return False
    rho = task.local[0] if task.local else sp.S.Zero
    size = sp.S.One
    assert attention.values is not None
    for value, matrix in zip(attention.values, attention.score_matrices(task), strict=True):
        read = task.token_cov @ matrix
        if not read.free_symbols():
            term = abs(value) * (rho + read.max_abs())
            size += term if term.is_number else 0
    terms = task.dim if task.dim.is_number else 1  # in an entry of a product; 1 for scalar heads
    return bool(max(map(abs, entries)) <= size * sp.Rational(1, 10**13) * terms)


@on_specifications
def consistency_condition(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """The condition on the heads under which the infinite-prompt risk vanishes.

    The expression is the equation sum_h v_h A_h = Sigma^{-1} (matrices of the task's dimension);
    for scalar heads A_h = k_h Sigma^{-1} it is sum_h v_h k_h = 1, the first step of the derivation
    being the limit of one head and the last the limiting risk at the solution. Source: derived
    here.

    >>> consistency_condition(LinearRegression(dim=3), SoftmaxAttention(heads=2)).expr
    Eq(v_1*A_1 + v_2*A_2, I)
    """
    if not isinstance(attention, SoftmaxAttention):
        raise InvalidInput("linear attention has no heads; its matrix is a Sigma^{-1}.")
    dim, heads = task.dim, attention.heads
    v = sp.symbols(f"v_1:{heads + 1}", real=True)
    scores = [sp.MatrixSymbol(f"A_{h + 1}", dim, dim) for h in range(heads)]
    solution = consistent_scores(task)
    # The scalar heads make the condition one equation: the limiting risk is R (sum v k - 1)^2.
    scales = sp.symbols(f"k_1:{heads + 1}", real=True)
    scalar = limit_risk(task, SoftmaxAttention(scores=list(scales), values=list(v)))
    roots = sp.solve(sp.diff(scalar.expr, v[0]), v[0])
    if solution.is_isotropic:
        right: Any = solution.scale * sp.Identity(dim)
    else:
        right = solution.to_matrix()
    left = sp.MatAdd(*[v[h] * scores[h] for h in range(heads)])
    steps = (
        *scalar.steps,
        Step(
            "risk r of scalar heads, scores k_h, in an infinite prompt",
            sp.Eq(sp.Symbol("r"), scalar.expr),
        ),
        Step("it vanishes for the values v_h with", sp.Eq(v[0], roots[0])),
    )
    return Formula(
        "consistency of the heads",
        sp.Eq(left, right, evaluate=False),
        validity=task.validity,
        references=(DERIVED_HERE,),
        steps=steps,
    )


def scalar_heads(signs: Sequence[int]) -> SoftmaxAttention:
    """Consistent scalar heads with scores sign_h k and values proportional to sign_h.

    The values follow from consistency: v_h = sign_h / (k sum_h sign_h^2).
    """
    value = 1 / (k * sum(s * s for s in signs))
    return SoftmaxAttention(scores=[s * k for s in signs], values=[s * value for s in signs])
