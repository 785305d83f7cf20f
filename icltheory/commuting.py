"""The flow of eigenvalues: A commuting with the covariances, u = v = 0.

Matrices that commute share eigenvectors, so every word of a velocity becomes a product of
eigenvalues and every trace a sum over them. Entries of A off the diagonal of that basis decay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import sympy as sp

from icltheory.errors import InvalidInput
from icltheory.formula import Formula
from icltheory.latex_lines import to_latex
from icltheory.laws.pairing import ROW, Chains
from icltheory.matrices import Square

A_EIGENVALUE = sp.Symbol("a_i", real=True)
_NAMES = {"Sigma": "lambda", "S": "s", "Sigma_q": "nu"}
_ROUNDING = sp.Rational(1, 10**12)


@dataclass(frozen=True)
class CommutingFlow:
    """Flow of b and of the eigenvalues a_i of A, in a basis that diagonalises all covariances.

    Attributes
    ----------
    velocity_a: a_i'.
    velocity_b: the summand of b' = sum_i (..).
    risk, risk_constant: risk = risk_constant + sum_i (risk), no factor 1/2.
    decay: A_ij' = -decay A_ij for i != j, in the eigenvalues with index i and j.
    eigenvalues: matrix name -> symbol of its i-th eigenvalue ("Sigma" -> lambda_i, "S" -> s_i,
        "Sigma_q" -> nu_i); multiples of the identity stand in the expressions as numbers.
    matrices: matrix symbol -> value, of those that are no multiple of the identity.
    """

    dim: sp.Expr
    velocity_a: sp.Expr
    velocity_b: sp.Expr
    risk: sp.Expr
    risk_constant: sp.Expr
    decay: sp.Expr
    eigenvalues: sp.Dict
    matrices: sp.Dict

    def isotropic(self) -> tuple[sp.Expr, sp.Expr, sp.Expr]:
        """(a', b', risk) for A = a I, all covariances multiples of the identity."""
        if self.matrices:
            names = ", ".join(str(m) for m in self.matrices)
            raise InvalidInput(
                f"{names} is no multiple of the identity: the eigenvalues of A move at different "
                f"speeds and have no elementary closed form; use numeric.integrate."
            )
        risk = self.risk_constant + self.dim * self.risk
        return self.velocity_a, sp.expand(self.dim * self.velocity_b), sp.expand(risk)

    def __repr__(self) -> str:
        return "\n  ".join(
            (
                "CommutingFlow: descends half the risk",
                f"a_i' = {self.velocity_a}",
                f"b' = sum_i {self.velocity_b}",
                f"A_ij' = -({self.decay}) A_ij",
                "conserved: b^2 - sum_i a_i^2",
            )
        )

    def _repr_latex_(self) -> str:
        show = [to_latex(e) for e in (self.velocity_a, self.velocity_b, self.decay)]
        rows = (
            rf"\dot a_i &= {show[0]}",
            rf"\dot b &= \sum_i {show[1]}",
            rf"\dot A_{{ij}} &= -{show[2]}\, A_{{ij}}",
        )
        body = r" \\ ".join(rows)
        return rf"$\displaystyle \begin{{aligned}} {body} \end{{aligned}}$"


def commuting_reduction(
    risk: Formula, velocity_of_scores: Formula, velocity_of_value: Formula
) -> CommutingFlow:
    """The eigenvalue flow of a risk in A and b alone, given -(1/2) of its gradients.

    Errors: `InvalidInput` if the covariances do not commute.
    """
    matrices = dict(risk.where)
    _require_commuting(matrices)
    [scores] = [m for m in risk.free_symbols if getattr(m, "name", None) == "A"]
    symbols = {m: sp.Symbol(f"{_NAMES[m.name]}_i", positive=True) for m in matrices}
    at_i = {**symbols, scores: A_EIGENVALUE}
    at_j = {m: sp.Symbol(f"{_NAMES[m.name]}_j", positive=True) for m in matrices}
    velocity = Chains.of(velocity_of_scores.expr)
    summand, constant = _traces(Chains.of(risk.expr), at_i)
    velocity_b, rest = _traces(Chains.of(velocity_of_value.expr), at_i)
    if rest != 0:
        raise AssertionError("b moves at A = 0")
    return CommutingFlow(
        scores.shape[0],
        sp.factor(sum(c * _product(m[0][1], at_i) for m, c in velocity.terms.items())),
        sp.factor(velocity_b),
        sp.factor(summand),
        constant,
        sp.factor(_decay(velocity, scores, symbols, at_j)),
        sp.Dict({sp.Symbol(m.name): x for m, x in symbols.items()}),
        sp.Dict(matrices),
    )


def _product(word: tuple, eigenvalues: Mapping[Any, sp.Expr]) -> sp.Expr:
    return sp.Mul(*(eigenvalues[matrix] for matrix, _ in word))


def _traces(chains: Chains, eigenvalues: Mapping[Any, sp.Expr]) -> tuple[sp.Expr, sp.Expr]:
    """(f, c) with chains = c + sum_i f."""
    summand = constant = sp.S.Zero
    for monomial, coefficient in chains.terms.items():
        if len(monomial) > 1:
            raise AssertionError("a product of traces does not reduce to one sum")
        if monomial:
            summand += coefficient * _product(monomial[0][1], eigenvalues)
        else:
            constant += coefficient
    return summand, constant


def _decay(
    velocity: Chains, scores: Any, at_i: Mapping[Any, sp.Expr], at_j: Mapping[Any, sp.Expr]
) -> sp.Expr:
    """Minus the response of the (i, j) entry of the velocity to A_ij, A being diagonal else."""
    rate = sp.S.Zero
    for monomial, coefficient in velocity.terms.items():
        [(left, word, _)] = monomial
        places = [p for p, (matrix, _) in enumerate(word) if matrix == scores]
        # Read from the row index to the column index, A must stand there untransposed.
        if len(places) > 1 or any(word[p][1] != (left != ROW) for p in places):
            raise AssertionError("the velocity of A is not linear in A")
        near, far = (at_j, at_i) if left != ROW else (at_i, at_j)
        for p in places:
            rate -= coefficient * _product(word[:p], near) * _product(word[p + 1 :], far)
    return rate


def _require_commuting(matrices: Mapping[Any, Any]) -> None:
    for (left, x), (right, y) in combinations(matrices.items(), 2):
        one, two = Square.explicit(x.tolist()), Square.explicit(y.tolist())
        gap = one @ two - two @ one
        if gap.is_zero():
            continue
        if not gap.free_symbols() and gap.max_abs() <= _ROUNDING * one.max_abs() * two.max_abs():
            continue
        raise InvalidInput(
            f"{left} and {right} do not commute, so A has no eigenvalue flow; integrate the matrix "
            f"flow with numeric.integrate."
        )
