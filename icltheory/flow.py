"""Gradient flow of a trained attention layer: equations, conserved quantities, reductions.

The blocks A (d x d), u, v (d x 1) and b of an attention layer move down the gradient of *half* the
risk, as in the papers: theta' = -(1/2) grad E (prediction - theta.x)^2. Everything is read off the
risk: conserved quantities from its symmetries, invariant sets from velocities that vanish, and the
flow of eigenvalues where A commutes with the covariances.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.attention import Attention, LinearAttention, SoftmaxAttention
from icltheory.commuting import CommutingFlow, commuting_reduction
from icltheory.errors import InvalidInput
from icltheory.flow_symmetries import conserved_quantities, invariant_sets, with_conditions
from icltheory.formula import Formula
from icltheory.gradients import block_symbols, infinite_prompt_risk
from icltheory.latex_lines import broken
from icltheory.laws.pairing import Chains
from icltheory.linear_risk import linear_attention_risk
from icltheory.matrices import Square
from icltheory.matrix_calculus import (
    VectorSymbol,
    derivative,
    product,
    rebuilt,
    total,
    transposed,
)
from icltheory.task import LinearRegression, query_covariance, refuse_options

BLOCKS = ("A", "u", "v", "b")
PARAMETRISATIONS = ("merged", "factored")


@dataclass(frozen=True)
class Flow:
    """Gradient flow theta' = -(1/2) grad risk.

    Attributes
    ----------
    risk: mean squared error (no factor 1/2), a Formula in the variables.
    velocity: (name, Formula) of every variable, in order; `velocities` is the same as a dict.
    conserved: Formulas that stay constant along the flow, scalar or matrix.
    invariant_sets: groups of variables that stay zero together once they are zero.
    task, query_cov, attention, prompt_length, parametrisation: what it was derived for
        (`query_cov` `None`: that of the features; `prompt_length` `None`: infinite).
    """

    task: LinearRegression
    query_cov: Square | None
    attention: Attention
    prompt_length: sp.Expr | None
    parametrisation: str
    risk: Formula
    velocity: tuple[tuple[str, Formula], ...]
    conserved: tuple[Formula, ...]
    invariant_sets: tuple[tuple[str, ...], ...]

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of the moving variables."""
        return tuple(name for name, _ in self.velocity)

    @property
    def velocities(self) -> dict[str, Formula]:
        """Right-hand side of every variable."""
        return dict(self.velocity)

    def reduced(self) -> CommutingFlow:
        """Flow of b and the eigenvalues of A, where A commutes with the covariances, u = v = 0."""
        return commuting_flow(
            self.task, self.query_cov, attention=self.attention, prompt_length=self.prompt_length
        )

    def initial(self, alpha: Any, theta: Any = None) -> dict[str, Any]:
        """The published start A = alpha P, b = alpha with P = theta theta'/|theta theta'|_F.

        `theta` is d x r, `None` the identity (P = I/sqrt(d)); other blocks are zero; keys and
        queries of a factored flow are equal. Published range (Boursier & Boyer, arXiv 2512.11784,
        eq. (9)): 0 < alpha < sqrt(2)/(d^(1/4) |Sigma|_op); larger alpha converge too, see
        `icl.limit_point`. Exact numbers; the dimension must be an integer.

        >>> start = gradient_flow(LinearRegression(dim=4)).initial(sp.Rational(1, 5))
        >>> start["A"].diagonal(), start["b"]
        (Matrix([[1/10, 1/10, 1/10, 1/10]]), 1/5)
        """
        return _published_start(self, alpha, theta)

    def __repr__(self) -> str:
        lines = ["Flow: descends half the risk, theta' = -(1/2) grad risk"]
        lines += [f"{name}' = {formula.expr}" for name, formula in self.velocity]
        lines += [f"conserved: {formula.expr}" for formula in self.conserved]
        lines += [f"invariant: {' = '.join(group)} = 0" for group in self.invariant_sets]
        return "\n  ".join(lines)

    def _repr_latex_(self) -> str:
        velocities = ((rf"\dot{{{name}}}", "=", f.expr) for name, f in self.velocity)
        conserved = ((r"\text{conserved}", ":", formula.expr) for formula in self.conserved)
        rows = [
            rf"{name} & {sign} " + r" \\ & \quad ".join(broken(expr))
            for name, sign, expr in (*velocities, *conserved)
        ]
        title = r"\dot\theta = -\tfrac12 \nabla \mathrm{risk}:"
        body = r" \\ ".join(rows).replace("+ -", "-")  # a sum of matrices keeps both signs
        return rf"$\displaystyle {title}\quad \begin{{aligned}} {body} \end{{aligned}}$"


def gradient_flow(
    task: LinearRegression,
    blocks: Any = ("A", "b"),
    parametrisation: str = "merged",
    query_cov: Any = None,
    *,
    attention: Attention | None = None,
    prompt_length: Any = None,
    key_dim: Any = None,
) -> Flow:
    """Gradient flow of half the risk of one attention head.

    Parameters
    ----------
    blocks: the moving ones of A, u, v, b; the others are zero. A and b are always among them.
    parametrisation: "merged" moves A (and u); "factored" moves keys and queries, A = K'Q and
        u = Q'k, with K, Q of shape key_dim x d (`key_dim` defaults to d) and k of length key_dim.
    query_cov: covariance of the query's features in the forms of `feature_cov`; `None` is Sigma.
    attention, prompt_length: softmax attention at an infinite prompt (the default; linear attention
        has the same flow there), or `LinearAttention()` with `prompt_length=n`, exact for every n.

    Label noise of the query's target would not change the flow. Errors: `InvalidInput`.
    Source: Boursier & Boyer, arXiv 2512.11784, for A and b; derived here in this generality.

    >>> from icltheory.symbols import d
    >>> gradient_flow(LinearRegression(dim=d, coef_cov=1))
    Flow: descends half the risk, theta' = -(1/2) grad risk
      A' = b*I + (-b**2)*A
      b' = -b*Trace(A*A.T) + Trace(A)
      conserved: b**2 - Trace(A.T*A)
    """
    if not isinstance(task, LinearRegression):
        raise InvalidInput(
            f"task has type {type(task).__name__}; pass icl.LinearRegression(dim=5)."
        )
    chosen = (blocks,) if isinstance(blocks, str) or blocks is None else tuple(blocks)
    if not {"A", "b"} <= set(chosen) <= set(BLOCKS) or len(set(chosen)) != len(chosen):
        raise InvalidInput(
            f"blocks = {blocks!r}; choose from {', '.join(BLOCKS)}, each once, A and b among them."
        )
    if parametrisation not in PARAMETRISATIONS:
        raise InvalidInput(
            f"parametrisation = {parametrisation!r} is not one of {', '.join(PARAMETRISATIONS)}."
        )
    if key_dim is not None and parametrisation != "factored":
        raise InvalidInput("key_dim is the height of K and Q; give parametrisation='factored' too.")
    layer, length = checked_attention(attention, prompt_length)
    return _gradient_flow(
        task,
        tuple(name for name in BLOCKS if name in chosen),
        parametrisation,
        query_matrix(task, query_cov, definite=False),
        layer,
        length,
        task.dim if key_dim is None else checks.positive_integer(key_dim, "key_dim", "key_dim=5"),
    )


def commuting_flow(
    task: LinearRegression,
    query_cov: Any = None,
    *,
    attention: Attention | None = None,
    prompt_length: Any = None,
) -> CommutingFlow:
    """Flow of b and the eigenvalues of A when A commutes with all covariances, u = v = 0.

    Parameters are those of `gradient_flow`. The covariances must commute with each other:
    `InvalidInput` otherwise.
    Source: derived here, after arXiv 2512.11784.

    >>> commuting_flow(LinearRegression(dim=2, feature_cov=[[2, 1], [1, 2]], coef_cov=1))
    CommutingFlow: descends half the risk
      a_i' = -b*lambda_i**2*(a_i*b*lambda_i - 1)
      b' = sum_i -a_i*lambda_i**2*(a_i*b*lambda_i - 1)
      A_ij' = -(b**2*lambda_i**2*lambda_j) A_ij
      conserved: b^2 - sum_i a_i^2
    """
    flow = gradient_flow(
        task, query_cov=query_cov, attention=attention, prompt_length=prompt_length
    )
    return commuting_reduction(flow.risk, flow.velocities["A"], flow.velocities["b"])


def query_matrix(task: LinearRegression, query_cov: Any, *, definite: bool) -> Square | None:
    """The covariance of the query's features; `None` if it is that of the prompt's."""
    query = query_covariance(task, query_cov, definite=definite)
    return None if query == task.feature_cov else query


def checked_attention(
    attention: Attention | None, prompt_length: Any
) -> tuple[Attention, sp.Expr | None]:
    """The layer and prompt length of a flow, or the reason why there is none."""
    layer = SoftmaxAttention() if attention is None else attention
    if not isinstance(layer, (SoftmaxAttention, LinearAttention)):
        raise InvalidInput(
            f"attention has type {type(layer).__name__}; pass icl.LinearAttention()."
        )
    if isinstance(layer, SoftmaxAttention) and (layer.heads != 1 or layer.scores is not None):
        raise InvalidInput("the flow moves the scores of one head: pass no heads and no scores.")
    refuse_options(layer.options)
    if isinstance(layer, LinearAttention) and layer.centered:
        raise InvalidInput("only LinearAttention(centered=False) has its flow here.")
    if prompt_length is None:
        return layer, None
    if isinstance(layer, SoftmaxAttention):
        raise InvalidInput(
            "softmax attention at a finite prompt has no flow in closed form; leave prompt_length "
            "out (infinite prompt), or pass attention=icl.LinearAttention()."
        )
    return layer, checks.positive_integer(prompt_length, "prompt_length", "prompt_length=50")


# -- equations from the risk -----------------------------------------------------------------------


@lru_cache(maxsize=128)
def _gradient_flow(
    task: LinearRegression,
    blocks: tuple[str, ...],
    parametrisation: str,
    query_cov: Square | None,
    attention: Attention,
    prompt_length: sp.Expr | None,
    key_dim: sp.Expr,
) -> Flow:
    if prompt_length is None:
        full = infinite_prompt_risk(task, query_cov)
    else:
        full = linear_attention_risk(task, prompt_length, query_cov)
    moving, table = _moving(task.dim, blocks, parametrisation, key_dim)
    risk = replace(full, expr=rebuilt(full.expr, table), abbreviations=sp.Dict())
    velocity = {name: _descent(risk, name, variable) for name, variable in moving.items()}
    return Flow(
        task,
        query_cov,
        attention,
        prompt_length,
        parametrisation,
        risk,
        tuple(velocity.items()),
        conserved_quantities(risk, moving, velocity),
        invariant_sets(moving, velocity),
    )


def _moving(
    dim: sp.Expr, blocks: tuple[str, ...], parametrisation: str, key_dim: sp.Expr
) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The variables by name, and what replaces the blocks of the risk."""
    symbols = block_symbols(dim)
    table: dict[Any, Any] = {symbols[name]: 0 for name in BLOCKS if name not in blocks}
    moving = {name: symbols[name] for name in blocks}
    if parametrisation == "merged":
        return moving, table
    factors: dict[str, Any] = {name: sp.MatrixSymbol(name, key_dim, dim) for name in ("K", "Q")}
    table[symbols["A"]] = product(transposed(factors["K"]), factors["Q"])
    if "u" in blocks:
        factors["k"] = VectorSymbol("k", key_dim)
        table[symbols["u"]] = product(transposed(factors["Q"]), factors["k"])
    return factors | {name: moving[name] for name in blocks if name in ("v", "b")}, table


def _descent(risk: Formula, name: str, variable: Any) -> Formula:
    """-(1/2) d risk / d variable, as it comes out or multiplied out, whichever is shorter."""
    slope = derivative(risk.expr, variable)
    parts = slope.args if isinstance(slope, (sp.Add, sp.MatAdd)) else (slope,)
    expr = total([product(-sp.S.Half, part) for part in parts])
    short = min((expr, Chains.of(expr).to_expr()), key=lambda e: len(str(e)))
    return with_conditions(risk, f"velocity of {name}", short)


# -- the published start ---------------------------------------------------------------------------


def _published_start(flow: Flow, alpha: Any, theta: Any) -> dict[str, Any]:
    size, dim = checks.positive(alpha, "alpha", "0.1"), flow.task.dim
    if not dim.is_Integer:
        raise InvalidInput(f"the start has entries, but the dimension is the symbol {dim}.")
    root = sp.eye(int(dim)) if theta is None else sp.Matrix(checks.rows(theta, "theta"))
    if root.rows != dim:
        raise InvalidInput(f"theta has {root.rows} rows; dim = {dim} needs {dim}.")
    gram = root * root.T
    norm = sp.sqrt(sum(x**2 for x in gram))
    if norm == 0:
        raise InvalidInput("theta is zero; give it at least one non-zero entry.")
    zero = {
        name: sp.ImmutableMatrix.zeros(int(formula.expr.shape[0]), 1)
        for name, formula in flow.velocity
        if name in ("u", "v", "k")
    }
    if flow.parametrisation == "merged":
        return {"A": sp.ImmutableMatrix(gram * (size / norm)), "b": size, **zero}
    height = flow.velocities["K"].expr.shape[0]
    if not height.is_Integer or height < root.cols:
        raise InvalidInput(
            f"theta has {root.cols} columns, K and Q have {height} rows; give a theta with at most "
            f"as many columns, or a larger key_dim."
        )
    keys = sp.zeros(int(height), int(dim))
    keys[: root.cols, :] = root.T * sp.sqrt(size / norm)
    factor = sp.ImmutableMatrix(keys)
    return {"K": factor, "Q": factor, "b": size, **zero}
