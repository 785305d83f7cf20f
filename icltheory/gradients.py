"""Risk of an infinite prompt in all attention blocks, and closed-form matrix gradients.

Tokens are z = (features, label) in R^{d+1}. With the query token (x, 0) and the last output read,
one head of merged key-query matrix U and value matrix V predicts through four blocks only: the
first d columns of U are (A; u'), the last row of V is (v', b). An infinite prompt turns the head
into yhat = (v', b) Gamma_w (A x; u'x), Gamma_w the covariance of the tokens given the coefficients
w (Boursier & Boyer, arXiv 2512.11784, Lemma 2.1). Risk and gradients are averages of polynomials
in Gaussian vectors and are derived by pairing (`laws.pairing`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory.errors import InvalidInput
from icltheory.formula import BOURSIER, DERIVED_HERE, Formula, Step
from icltheory.laws.gaussian import wick_moment
from icltheory.laws.pairing import COLUMN, Chains
from icltheory.laws.tokens import Gaussian, TokenLaw
from icltheory.matrices import Square, covariance
from icltheory.matrix_calculus import (
    Form,
    SymmetricSymbol,
    VectorSymbol,
    derivative,
    product,
    trace,
    transposed,
)
from icltheory.symbols import b, d, score_scale
from icltheory.task import LinearRegression, query_covariance

_RESERVED = {"A", "u", "v", "b", "Sigma", "Sigma_q", "S", "M", "c_0"}


def block_symbols(dim: Any) -> dict[str, Any]:
    """The variables of the risk: A (d x d), vectors u and v (d x 1), scalar b.

    >>> block_symbols(3)["A"].shape
    (3, 3)
    """
    dimension = sp.sympify(dim)
    return {
        "A": sp.MatrixSymbol("A", dimension, dimension),
        "u": VectorSymbol("u", dimension),
        "v": VectorSymbol("v", dimension),
        "b": b,
    }


def infinite_prompt_risk(task: LinearRegression, query_cov: Any = None) -> Formula:
    """E (yhat - theta.x)^2 of an infinite prompt, in the blocks A, u, v, b; no factor 1/2.

    Parameters
    ----------
    task: any task; `dim` may be a symbol when its covariances are multiples of the identity.
    query_cov: covariance of the query features, in the forms of `feature_cov`, semi-definite and not zero;
        `None` is that of the prompt features.

    The expression is written with the constant matrices Sigma (features), S (coefficients) and
    Sigma_q (query), whose values are in `.where`; multiples of the identity appear as their
    factor. Compiled, it takes arrays A (.., d, d), u and v (.., d) and b (..). The score of
    example i is x_i'A x, so A is the transpose of a score matrix of `SoftmaxAttention`.

    Errors: `InvalidInput` for a bad `query_cov`, or when the covariances contain symbols with the
    names of these variables. Source: Boursier & Boyer, arXiv 2512.11784, eq. (7) for the model
    (with coefficients N(0, I), no noise, and half this risk); derived here in this generality.

    >>> from icltheory.symbols import d, noise_var
    >>> risk = infinite_prompt_risk(LinearRegression(dim=d, noise_var=noise_var))
    >>> [info.name for info in risk.symbols]
    ['A', 'b', 'd', 'noise_var', 'u', 'v']
    >>> risk.abbreviations
    {M: b*A.T - I + u*v.T, c_0: (b*(noise_var + 1))*u + A.T*v}
    """
    return _risk(task, query_covariance(task, query_cov))


def risk_gradients(task: LinearRegression, query_cov: Any = None) -> dict[str, Formula]:
    """Gradients of `infinite_prompt_risk` in the blocks: formulas under "A", "u", "v" and "b".

    They are gradients of the mean squared error, without the factor 1/2: a flow that descends half
    the risk follows minus one half of them. Arguments and errors are those of
    `infinite_prompt_risk`. `numeric.compile` takes the whole dictionary and shares the common
    products.
    Source: derived here, after arXiv 2512.11784.

    >>> gradients = risk_gradients(LinearRegression(dim=2, feature_cov=[1, 3], coef_cov=[2, 1]))
    >>> gradients["v"].expr.shape
    (2, 1)
    """
    risk = infinite_prompt_risk(task, query_cov)
    return dict(_risk_gradients(risk))


@lru_cache(maxsize=256)
def _risk_gradients(risk: Formula) -> tuple[tuple[str, Formula], ...]:
    return tuple((name, risk.diff(name)) for name in ("A", "u", "v", "b"))


@lru_cache(maxsize=256)
def _risk(task: LinearRegression, query_cov: Square) -> Formula:
    _refuse_reserved(task, query_cov)
    constants = {"Sigma": task.feature_cov.reduced(), "S": task.coef_cov.reduced()}
    sigma, s = (_named(name, value) for name, value in constants.items())
    if query_cov == task.feature_cov:
        sigma_q = sigma
    else:
        constants["Sigma_q"] = query_cov.reduced()
        sigma_q = _named("Sigma_q", constants["Sigma_q"])
    x, w = VectorSymbol("x", task.dim), VectorSymbol("w", task.dim)

    prediction = infinite_prompt_prediction(task)
    error = prediction - Chains.of(Form(w.T * x))
    # The part of the error that is constant in w, and the part that is linear (Stein: E df/dw).
    slope = error.derivative(x)
    constant_part = _evaluated(slope.expectation(w, s), constants).to_expr()
    linear_part = _evaluated(slope.derivative(w, COLUMN).expectation(w, s), constants).to_expr()
    named = trace(product(transposed(constant_part), sigma_q, constant_part)) + trace(
        product(transposed(linear_part), sigma_q, linear_part, s)
    )
    # Isserlis gives the whole; what the two squares leave comes from the quadratic part in w.
    whole = (error * error).expectation(w, s).expectation(x, sigma_q)
    rest = _evaluated(whole - Chains.of(named), constants)
    free = named.free_symbols | rest.to_expr().free_symbols
    risk = sp.Symbol("r")
    return Formula(
        "infinite-prompt risk",
        named + rest.to_expr(),
        validity=task.validity,
        references=(BOURSIER.at("Lemma 2.1, eq. (7)"), DERIVED_HERE),
        steps=(
            Step(
                "prediction yhat of an infinite prompt, Cov(score, value) of a token, query x, coefficients w",
                sp.Eq(sp.Symbol("yhat"), prediction.to_expr(), evaluate=False),
            ),
            Step("mean c_0 of the error's coefficient of x", _equation("c_0", constant_part)),
            Step("its linear part M in w", _equation("M", linear_part)),
            Step(
                "risk r, pairing of w and of x", sp.Eq(risk, named + rest.to_expr(), evaluate=False)
            ),
        ),
        where=sp.Dict(
            {
                SymmetricSymbol(name, task.dim, task.dim): value.to_matrix()
                for name, value in constants.items()
                if SymmetricSymbol(name, task.dim, task.dim) in free
            }
        ),
        abbreviations=sp.Dict(
            {
                sp.MatrixSymbol("M", *linear_part.shape): linear_part,
                VectorSymbol("c_0", task.dim): constant_part,
            }
        ),
    )


def infinite_prompt_prediction(task: LinearRegression) -> Chains:
    """yhat for query x and coefficients w, a polynomial in A, u, v, b, x, w (canonical form).

    The tokens are centred Gaussian given w, so the tilt by the score moves the mean of the value
    by exactly their covariance E[score value].
    """
    blocks = block_symbols(task.dim)
    x, w, x1 = (VectorSymbol(name, task.dim) for name in ("x", "w", "x_1"))
    noise = sp.Dummy("noise", real=True)
    label = Form(w.T * x1) + noise
    score = Form(x1.T * blocks["A"] * x) + label * Form(blocks["u"].T * x)
    value = Form(blocks["v"].T * x1) + b * label
    sigma = _named("Sigma", task.feature_cov.reduced())
    mean = (Chains.of(score) * Chains.of(value)).expectation(x1, sigma)
    return mean.map_coefficients(
        lambda c: sp.expand(wick_moment(c, [noise], [0], [[task.noise_var]]))
    )


def _named(name: str, value: Square) -> Any:
    """A constant matrix as a symbol; a multiple of the identity as itself."""
    if value.is_isotropic:
        return product(value.scale, sp.Identity(value.dim))
    return SymmetricSymbol(name, value.dim, value.dim)


def _evaluated(chains: Chains, constants: dict[str, Square]) -> Chains:
    """Traces of the task's own matrices as numbers."""

    def value(word: tuple) -> Any:
        if any(matrix.name not in constants for matrix, _ in word):
            return None
        out = constants[word[0][0].name]
        for matrix, _ in word[1:]:
            out = out @ constants[matrix.name]
        return sp.cancel(out.trace())

    return chains.evaluate_loops(value)


def _equation(name: str, matrix: Any) -> sp.Basic:
    return sp.Eq(sp.MatrixSymbol(name, *matrix.shape), matrix, evaluate=False)


def _refuse_reserved(task: LinearRegression, query_cov: Square) -> None:
    own = task.feature_cov.free_symbols() | task.coef_cov.free_symbols()
    own |= query_cov.free_symbols() | task.noise_var.free_symbols | task.dim.free_symbols
    clash = sorted({s.name for s in own} & _RESERVED)
    if clash:
        raise InvalidInput(
            f"the task uses the symbol {', '.join(clash)}, which names a variable or a matrix of "
            f"the risk; rename it in the task."
        )


# -- gradients of an attention output ------------------------------------------------------------


def output_gradients(tokens: TokenLaw | None = None) -> dict[str, Formula]:
    """Gradients of r'V m1(a), a = c U z, U = K'Q, in V, U, K, Q and z, for one query z.

    m1(a) is what the softmax average reads and C(a) its Jacobian in a: grad and Hessian of the
    cumulant generating function for an infinite prompt of any law, the softmax-weighted mean and
    covariance for a finite prompt. r is the loss gradient at the output, c (`score_scale`) the
    factor of the scores, 1 in the theory and 1/sqrt(key width) in most layers.

    Parameters
    ----------
    tokens: `None` gives formulas in m1 (p) and C (p x p), true for every law and every finite
        prompt of tokens of width p. A `Gaussian` law puts its m1 = m + Gamma a, C = Gamma in.

    Returns formulas under "V" (d_v x p), "U" (p x p), "K", "Q" (d_k x p) and "z" (p). The one for
    "U" treats U as free. `numeric.output_gradients` evaluates them for a law or a prompt.

    Errors: `InvalidInput` if `tokens` is neither. Source: chain rule; Boursier & Boyer,
    arXiv 2512.11784, Section 3.

    >>> output_gradients()["U"].expr
    score_scale*C*V.T*r*z.T
    """
    if tokens is not None and not isinstance(tokens, Gaussian):
        raise InvalidInput(
            f"tokens is {type(tokens).__name__}; only a Gaussian law has gradients in matrix form. "
            f"output_gradients() has the formulas in m1 and C of any law: put values in with "
            f".subs(m1=icl.limit_output(law, a).expr, C=icl.limit_jacobian(law, a).expr, ...), or "
            f"use numeric.output_gradients."
        )
    return dict(_output_gradients(tokens))


@lru_cache(maxsize=64)
def _output_gradients(law: Gaussian | None) -> tuple[tuple[str, Formula], ...]:
    width = sp.Integer(law.dim) if law is not None else d
    key, out = (sp.Symbol(s, integer=True, positive=True) for s in ("d_k", "d_v"))
    V, U = sp.MatrixSymbol("V", out, width), sp.MatrixSymbol("U", width, width)
    K, Q = sp.MatrixSymbol("K", key, width), sp.MatrixSymbol("Q", key, width)
    r, z, m1 = VectorSymbol("r", out), VectorSymbol("z", width), VectorSymbol("m1", width)
    C = SymmetricSymbol("C", width, width)
    merged, factored = U, product(K.T, Q)
    value = Form(product(r.T, V, m1))
    # dm1 = C da, C symmetric: the cotangent of the dual point is C times that of m1.
    cotangent = VectorSymbol("g", width)
    at = {cotangent: product(C, derivative(value, m1))}
    score = {
        "U": Form(product(score_scale, transposed(cotangent), merged, z)),
        "K": Form(product(score_scale, transposed(cotangent), factored, z)),
    }
    gradients = {
        "V": derivative(value, V),
        "U": derivative(score["U"], U),
        "K": derivative(score["K"], K),
        "Q": derivative(score["K"], Q),
        "z": derivative(score["U"], z),
    }
    table: dict[Any, Any] = {}
    where: dict[Any, Any] = {}
    if law is not None:
        gamma = covariance(law.cov, width, "cov", definite=False).reduced()
        table[C] = _named("Gamma", gamma)
        mean = VectorSymbol("m", width)
        shift = product(score_scale, table[C], merged, z)
        table[m1] = shift if law.mean.is_zero_matrix else sp.MatAdd(mean, shift)
        where = {mean: law.mean}
        where |= {} if gamma.is_isotropic else {table[C]: gamma.to_matrix()}
    steps = (
        Step("output L, read by r", _equation("L", product(r.T, V, m1))),
        Step(
            "cotangent g of the dual point, C times that of m1",
            _equation("g", _replaced(cotangent, at)),
        ),
    )
    formulas = []
    for name, expr in gradients.items():
        full = _replaced(_replaced(expr, at), table)
        used = {k: x for k, x in where.items() if full.has(k)}
        formulas.append(
            (
                name,
                Formula(
                    f"d(r'V m1(c U z))/d({name})",
                    full,
                    references=(BOURSIER.at("Section 3"), DERIVED_HERE),
                    steps=steps,
                    where=sp.Dict(used),
                ),
            )
        )
    return tuple(formulas)


def _replaced(expr: Any, table: dict[Any, Any]) -> Any:
    """Symbols of a product replaced by expressions, the product flattened."""
    if isinstance(expr, sp.Transpose):
        return transposed(_replaced(expr.arg, table))
    if isinstance(expr, sp.MatMul):
        return product(*(_replaced(arg, table) for arg in expr.args))
    return table.get(expr, expr)
