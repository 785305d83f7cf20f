"""Limits and rates of the flow of A and b for any covariances: the numbers behind `icl.limit_point`.

Where the covariances commute, the eigenvalue flow of `icl.commuting_flow` gives everything; where
they do not, the flow of an infinite prompt is linearised at b Sigma A = I. Exported: `flow_limit`,
`flow_rates`, `FlowRates`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import sympy as sp

from icltheory.attention import Attention
from icltheory.checks import plain
from icltheory.commuting import A_EIGENVALUE, CommutingFlow
from icltheory.errors import InvalidInput
from icltheory.flow import commuting_flow, gradient_flow, query_matrix
from icltheory.symbols import b as B
from icltheory.task import LinearRegression
from numeric.arrays import finite, matrix_array, task_arrays
from numeric.compile import compile
from numeric.decoding_display import Shown

_ROUNDING = 1e-10  # relative, of covariances and their spectra


@dataclass(frozen=True, repr=False)
class FlowRates(Shown):
    """Speeds of the flow of A and b on half the risk.

    Attributes
    ----------
    early: growth rate of a small start, |Sigma S Sigma_q|_F.
    amplitude: b(t) ~ amplitude exp(early t) for a small start.
    escape_time: log(b_inf/amplitude)/early, to leading (logarithmic) order for a small start;
        `None` if b_inf and the amplitude differ in sign.
    diagonal, off_diagonal: slowest rates of the remaining error on and off the diagonal of the
        common eigenbasis; `None` where the covariances do not commute (off_diagonal: or d = 1).
    local: the smaller one; the risk above its limit decays like exp(-2 local t), unless the start
        avoids that mode (a start that is diagonal in the eigenbasis has `diagonal`).
    contraction: risk(t) <= risk(0) exp(-contraction t) at all times; `None` if the risk does not
        start below its value at A = 0, or at a finite prompt.
    """

    early: float
    amplitude: float
    escape_time: float | None
    diagonal: float | None
    off_diagonal: float | None
    local: float
    contraction: float | None


def flow_limit(
    task: LinearRegression,
    A: Any,
    b: float,
    *,
    query_cov: Any = None,
    attention: Attention | None = None,
    prompt_length: Any = None,
) -> dict[str, Any]:
    """Where the flow of A and b from a start ends: {"A": d x d array, "b": float}.

    Parameters
    ----------
    A, b: the start; A is d x d, or a number a meaning a I.
    query_cov, attention, prompt_length: as in `icl.gradient_flow`.

    Covered: starts whose risk is below that of A = 0 (any covariances at an infinite prompt,
    commuting ones at a finite one); commuting covariances and a start with b and all diagonal
    entries of A in the common eigenbasis >= 0, not all zero, or all reversed in sign; isotropic
    covariances and A = a I with b + sqrt(d) a != 0. Others, which may end at the saddle, and singular
    covariances raise `InvalidInput`. Source: derived here; Boursier & Boyer, arXiv 2512.11784, for
    the balanced start.

    >>> import icltheory as icl
    >>> task = icl.LinearRegression(dim=3, feature_cov=[0.5, 1, 2])
    >>> round(flow_limit(task, A=0.1, b=0.1 * 3 ** 0.5)["b"], 8)
    1.51370005
    """
    model = _Model(task, query_cov, attention, prompt_length)
    return model.limit(*_start(model, A, b))


def flow_rates(
    task: LinearRegression,
    A: Any,
    b: float,
    *,
    query_cov: Any = None,
    attention: Attention | None = None,
    prompt_length: Any = None,
) -> FlowRates:
    """Early, escape, local and global rates of the flow of A and b from a start.

    Arguments and errors are those of `flow_limit`. Without commuting covariances the local rate is
    the smallest eigenvalue of a d^2 x d^2 matrix.

    >>> import icltheory as icl
    >>> task = icl.LinearRegression(dim=3, feature_cov=[0.5, 1, 2], coef_cov=1)
    >>> rates = flow_rates(task, A=0.1, b=0.1 * 3 ** 0.5)
    >>> round(rates.diagonal, 8), round(rates.early, 4)
    (0.45601414, 4.1307)
    """
    model = _Model(task, query_cov, attention, prompt_length)
    scores, value = _start(model, A, b)
    end = model.limit(scores, value)["b"]
    early = float(np.linalg.norm(model.drive))
    amplitude = 0.5 * (value + float(np.sum(model.drive * scores)) / early)
    diagonal, off_diagonal = model.local_rates(end)
    both = [rate for rate in (diagonal, off_diagonal) if rate is not None]
    return FlowRates(
        early,
        amplitude,
        math.log(end / amplitude) / early if amplitude * end > 0 else None,
        diagonal,
        off_diagonal,
        min(both) if both else model.general_rate(end),
        model.contraction(scores, value),
    )


class _Model:
    """A task as arrays and, where the covariances commute, its eigenvalue flow."""

    def __init__(self, task: LinearRegression, query_cov: Any, attention: Any, length: Any) -> None:
        arrays = task_arrays(task)
        self.dim, self.sigma, self.coefs = arrays.dim, arrays.feature_cov, arrays.coef_cov
        self.query, self.finite_prompt = self.sigma, length is not None
        query = query_matrix(task, query_cov, definite=True)
        if query is not None:
            self.query = matrix_array(query)
        named = {"feature_cov": self.sigma, "coef_cov": self.coefs, "query_cov": self.query}
        for name, matrix in named.items():
            values = np.linalg.eigvalsh(matrix)
            if values[0] <= _ROUNDING * values[-1]:
                raise InvalidInput(
                    f"{name} is singular: some directions of A do not move and the limit depends "
                    f"on all of the start; integrate the flow."
                )
        self.drive = self.sigma @ self.coefs @ self.query
        options = {"attention": attention, "prompt_length": length}
        self._risk = compile(gradient_flow(task, query_cov=query_cov, **options).risk)
        self.basis = self._common_basis(list(named.values()))
        self.flow: CommutingFlow | None = None
        if self.basis is not None:
            self.flow = commuting_flow(task, query_cov, **options)
        elif self.finite_prompt:
            raise InvalidInput(
                "the covariances do not commute: at a finite prompt only commuting ones are covered."
            )

    @staticmethod
    def _common_basis(matrices: list[np.ndarray]) -> np.ndarray | None:
        # The eigenvectors of a sum with generic weights are eigenvectors of each.
        weights = (1.0, 0.6180339887, 0.2236067977)
        mixed = sum(w * m / np.trace(m) for w, m in zip(weights, matrices, strict=True))
        basis = np.linalg.eigh(mixed)[1]
        for matrix in matrices:
            inside = basis.T @ matrix @ basis
            if np.abs(inside - np.diag(np.diag(inside))).max() > _ROUNDING * np.abs(inside).max():
                return None
        return basis

    # -- the limit -------------------------------------------------------------------------------

    def limit(self, scores: np.ndarray, value: float) -> dict[str, Any]:
        """A and b at infinity."""
        sign = self._sign(scores, value)
        rest = self._rest()
        end = sign * math.sqrt(_balance_root(value**2 - np.sum(scores**2), np.sum(rest**2)))
        return {"A": rest / end, "b": end}

    def _rest(self) -> np.ndarray:
        """b A at rest."""
        if self.basis is None:
            return np.linalg.inv(self.sigma)
        assert self.flow is not None
        slope, drive = sp.Poly(self.flow.velocity_a, A_EIGENVALUE).all_coeffs()
        return (self.basis * self._evaluate(-drive * B / slope)) @ self.basis.T

    def _depth(self, scores: np.ndarray, value: float) -> float:
        """How far the risk starts below its value at A = 0."""
        return float(self._risk(A=0 * scores, b=0.0) - self._risk(A=scores, b=value))

    def _sign(self, scores: np.ndarray, value: float) -> float:
        if self._depth(scores, value) > 0:
            return math.copysign(1.0, value)
        if self.basis is not None:
            entries = np.append(np.diag(self.basis.T @ scores @ self.basis), value)
            growing = value + math.sqrt(self.dim) * scores[0, 0]
            assert self.flow is not None
            multiple = np.array_equal(scores, scores[0, 0] * np.eye(self.dim))
            if not self.flow.matrices and multiple and growing != 0:
                return math.copysign(1.0, growing)
            for sign in (1.0, -1.0):
                if np.all(sign * entries >= 0) and np.any(entries != 0):
                    return sign
        raise InvalidInput(
            "the start is not covered: its risk is at least that of A = 0, b = 0, and b and the "
            "diagonal of A in the common eigenbasis do not have one sign; it may end at the "
            "saddle. Use numeric.integrate."
        )

    # -- rates -----------------------------------------------------------------------------------

    def local_rates(self, end: float) -> tuple[float | None, float | None]:
        """Slowest rates on and off the diagonal at the limit with b = `end`."""
        if self.flow is None or self.basis is None:
            return None, None
        a = np.diag(self.basis.T @ self._rest() @ self.basis) / end
        fa, fb = self.flow.velocity_a, self.flow.velocity_b
        at = {A_EIGENVALUE: a, B: end}
        jacobian = np.zeros((self.dim + 1, self.dim + 1))
        jacobian[:-1, :-1] = np.diag(self._evaluate(sp.diff(fa, A_EIGENVALUE), at))
        jacobian[:-1, -1] = self._evaluate(sp.diff(fa, B), at)
        jacobian[-1, :-1] = self._evaluate(sp.diff(fb, A_EIGENVALUE), at)
        jacobian[-1, -1] = self._evaluate(sp.diff(fb, B), at).sum()
        # Minus the Hessian of half the risk; it vanishes along the valley b A = const only.
        diagonal = np.sort(np.linalg.eigvalsh(-0.5 * (jacobian + jacobian.T)))[1]
        if self.dim == 1:
            return float(diagonal), None
        return float(diagonal), float(self._pair_rates(end).min())

    def _pair_rates(self, end: float) -> np.ndarray:
        """Decay rates of the entries ij, i != j."""
        assert self.flow is not None
        i, j = np.nonzero(~np.eye(self.dim, dtype=bool))
        table = {s: x[i] for s, x in self._eigenvalues("i").items()}
        table |= {s: x[j] for s, x in self._eigenvalues("j").items()}
        rates = sp.lambdify([B, *table], self.flow.decay, "numpy")(end, *table.values())
        return np.broadcast_to(rates, i.shape)

    def general_rate(self, end: float) -> float:
        """Smallest eigenvalue of the linearisation at b Sigma A = I, no commuting needed.

        Half the risk is |S^(1/2) (delta b Sigma A + b Sigma delta A) Sigma_q^(1/2)|^2/2 there; the
        map to the residual times its transpose has the rates as eigenvalues.
        """
        root_s, root_q = np.linalg.cholesky(self.coefs).T, np.linalg.cholesky(self.query)
        left = root_s @ self.sigma @ self.sigma @ root_s.T
        moved = (root_s @ root_q).reshape(-1, 1) / end
        return float(
            np.linalg.eigvalsh(end**2 * np.kron(left, root_q.T @ root_q) + moved @ moved.T)[0]
        )

    def contraction(self, scores: np.ndarray, value: float) -> float | None:
        """2 b_min^2 lam_min(S^(1/2) Sigma^2 S^(1/2)) lam_min(Sigma_q), |grad risk/2|^2 per half risk.

        b |A|_F |drive|_F >= b tr(A' drive) >= depth/2 at all times bounds b^2 by the balance.
        """
        depth = self._depth(scores, value)
        if self.finite_prompt or depth <= 0:
            return None
        reach = depth / (2 * float(np.linalg.norm(self.drive)))
        lowest = _balance_root(value**2 - np.sum(scores**2), reach**2)
        root = np.linalg.cholesky(self.coefs)
        slowest = np.linalg.eigvalsh(root.T @ self.sigma @ self.sigma @ root)[0]
        return float(2 * lowest * slowest * np.linalg.eigvalsh(self.query)[0])

    def _eigenvalues(self, index: str) -> dict[sp.Symbol, np.ndarray]:
        """Symbol of the eigenvalue flow with this index -> values in the common basis."""
        assert self.flow is not None
        assert self.basis is not None
        named = {"Sigma": self.sigma, "S": self.coefs, "Sigma_q": self.query}
        return {
            sp.Symbol(symbol.name[:-1] + index, positive=True): np.diag(
                self.basis.T @ named[name.name] @ self.basis
            )
            for name, symbol in self.flow.eigenvalues.items()
        }

    def _evaluate(self, expr: sp.Expr, at: dict[sp.Symbol, Any] | None = None) -> np.ndarray:
        table = self._eigenvalues("i") | (at or {})
        value = sp.lambdify(list(table), sp.cancel(expr), "numpy")(*table.values())
        return np.broadcast_to(np.asarray(value, dtype=float), (self.dim,))


def _balance_root(invariant: float, size: float) -> float:
    """The positive x with x - size/x = invariant, without cancellation."""
    root = math.hypot(invariant, 2 * math.sqrt(size))
    return (invariant + root) / 2 if invariant >= 0 else 2 * size / (root - invariant)


def _start(model: _Model, A: Any, b: Any) -> tuple[np.ndarray, float]:
    scores, value = finite(plain(A), "A"), finite(b, "b")
    if scores.ndim == 0:
        scores = scores * np.eye(model.dim)
    if scores.shape != (model.dim, model.dim) or value.ndim:
        raise InvalidInput(
            f"A has shape {scores.shape} and b {value.shape}; A is {model.dim} x {model.dim} (or a "
            f"number, times I) and b a number."
        )
    return scores, float(value)
