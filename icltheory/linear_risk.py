"""Risk of linear attention at every prompt length, in all blocks A, u, v, b.

The prediction is (v', b) (1/n) sum_l z_l z_l' (Ax; u'x) with tokens z_l = (x_l, y_l). Its square is
a sum over pairs of examples, n of which coincide; pairing the Gaussian vectors gives the risk
exactly, with no expansion in 1/n.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.formula import DERIVED_HERE, Formula, Step
from icltheory.gradients import block_symbols, infinite_prompt_risk
from icltheory.laws.gaussian import wick_moment
from icltheory.laws.pairing import Chains
from icltheory.matrices import Square, covariance
from icltheory.matrix_calculus import (
    Form,
    SymmetricSymbol,
    VectorSymbol,
    explicit,
    product,
)
from icltheory.task import LinearRegression


def linear_attention_risk(
    task: LinearRegression, prompt_length: Any, query_cov: Any = None
) -> Formula:
    """E (yhat - theta.x)^2 of linear attention with n examples, in A, u, v, b; no factor 1/2.

    Parameters are those of `infinite_prompt_risk`, whose formula is the limit of this one;
    `prompt_length` is a positive integer or a symbol. Source: derived here; coefficients N(0, I),
    no noise and u = v = 0 in Zhang, Frei & Bartlett, arXiv 2306.09927.

    >>> from icltheory.symbols import n
    >>> risk = linear_attention_risk(LinearRegression(dim=1, coef_cov=1), n)
    >>> [info.name for info in risk.symbols]
    ['A', 'b', 'n', 'u', 'v']
    """
    length = checks.positive_integer(prompt_length, "prompt_length", "prompt_length=50")
    query = (
        None if query_cov is None else covariance(query_cov, task.dim, "query_cov", definite=False)
    )
    return _linear_attention_risk(task, length, query)


@lru_cache(maxsize=128)
def _linear_attention_risk(
    task: LinearRegression, length: sp.Expr, query_cov: Square | None
) -> Formula:
    infinite = infinite_prompt_risk(task, query_cov)
    where = dict(infinite.where)
    sigma, s = _constant("Sigma", task.feature_cov), _constant("S", task.coef_cov)
    sigma_q = sigma
    if query_cov is not None and query_cov != task.feature_cov:
        sigma_q = _constant("Sigma_q", query_cov)
    x, w, x1, x2 = (VectorSymbol(name, task.dim) for name in ("x", "w", "x_1", "x_2"))
    noises = sp.symbols("e_1 e_2", real=True)
    blocks = block_symbols(task.dim)

    def read(example: Any, noise: sp.Symbol) -> Chains:
        label = Form(w.T * example) + noise
        score = Form(example.T * blocks["A"] * x) + label * Form(blocks["u"].T * x)
        value = Form(blocks["v"].T * example) + blocks["b"] * label
        return Chains.of(score) * Chains.of(value)

    one, two = read(x1, noises[0]), read(x2, noises[1])
    target = Chains.of(Form(w.T * x))
    error = one * one * (1 / length) + one * two * (1 - 1 / length) + target * target
    error = error - one * target * 2
    for vector, cov in ((x1, sigma), (x2, sigma), (x, sigma_q), (w, s)):
        error = error.expectation(vector, cov)
    variances = sp.diag(task.noise_var, task.noise_var)
    risk = error.map_coefficients(lambda c: sp.factor(wick_moment(c, noises, [0, 0], variances)))
    risk = risk.evaluate_loops(lambda word: _number(word, where))
    return Formula(
        f"risk of linear attention, prompt length {length}",
        risk.to_expr(),
        task.validity,
        references=(DERIVED_HERE,),
        steps=(
            Step(
                "one example's part of the prediction, of features x_1, noise e_1, coefficients w, query x",
                one.to_expr(),
            ),
        ),
        where=infinite.where,
    )


def _constant(name: str, value: Square) -> Any:
    """The symbol of a covariance, or the multiple of the identity that it is."""
    reduced = value.reduced()
    if reduced.is_isotropic:
        return product(reduced.scale, sp.Identity(reduced.dim))
    return SymmetricSymbol(name, reduced.dim, reduced.dim)


def _number(word: tuple, where: dict[Any, Any]) -> Any:
    """tr(word) if all its matrices have values."""
    if any(matrix not in where for matrix, _ in word):
        return None
    return explicit(sp.Trace(product(*(matrix for matrix, _ in word))), where)
