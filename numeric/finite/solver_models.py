"""Solvers as sequence models: layer t holds step t on every prefix, with nothing to train.

The controls of identification: whatever reads a trained Transformer must name these correctly. The
updates are carried out as matrix recursions, not through filters. Exported: `SolverModel`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import sympy as sp
import torch

from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.krylov import ConjugateGradient
from icltheory.solvers import GradientDescent, IterativeNewton
from icltheory.spectral import Solver
from icltheory.symbols import frobenius, lam_max, lam_min, trace
from numeric.arrays import integer
from numeric.finite.models import count
from numeric.finite.transformer import SequenceModel

_CONVERGED = 1e-13  # residual of conjugate gradients, relative to X'y, below which it stops
_RANK = 1e-12  # eigenvalues of S below this part of the largest are zeros
Steps = Iterator[torch.Tensor]


class SolverModel(SequenceModel):
    """A solver of least squares, run on every prefix from w = 0.

    Parameters
    ----------
    solver: icl.GradientDescent, icl.IterativeNewton or icl.ConjugateGradient; parameters are numbers,
        or rules in the spectrum of S, such as `1/icl.symbols.frobenius`, that are evaluated for
        every prompt and prefix.
    dim: feature dimension d.
    layers: number of layers; the state 0 is step 0, w_0 = 0 or, for Newton, M_0 X'y.
    steps_per_layer: steps that one layer makes.

    The state of layer t at x_i is (x_i, w_t, x_i.w_t), of width 2 d + 1, and the read-out takes the
    last coordinate. Computes in float64. Errors: `InvalidInput`; `OutOfDomain` where the step size
    is unstable for a prefix.

    >>> import icltheory as icl
    >>> model = SolverModel(GradientDescent(0.1), dim=2, layers=3)
    >>> X, y = torch.ones(1, 2, 2), torch.ones(1, 2)
    >>> [round(value, 6) for value in model.hidden_states(X, y)[:, 0, 1, -1].tolist()]
    [0.0, 0.2, 0.36, 0.488]
    """

    points = None

    def __init__(self, solver: Solver, dim: int, layers: int, steps_per_layer: int = 1) -> None:
        super().__init__()
        if type(solver) not in _RULES:
            raise InvalidInput(
                f"solver = {solver!r} has no model; pass one of "
                f"{', '.join(rule.__name__ for rule in _RULES)}, for example "
                f"icl.GradientDescent(0.01)."
            )
        free = set().union(*(x.free_symbols for x in _parameters(solver).values()), set())
        if unknown := sorted(map(str, free - set(solver.data_symbols))):
            raise InvalidInput(
                f"{solver!r} contains {', '.join(unknown)}; its parameters must be numbers or rules "
                f"in lam_min, lam_max, trace and frobenius."
            )
        self.solver, self.dim, self.layers = solver, count(dim, "dim"), count(layers, "layers")
        self.steps_per_layer = integer(steps_per_layer, "steps_per_layer")

    def step_weights(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The weights of every layer and prefix, (layers + 1, B, N, d)."""
        self.check(X, y)
        X, y = X.double(), y.double()
        S, b = _before(X[..., :, None] * X[..., None, :]), _before(X * y[..., None])
        steps = _RULES[type(self.solver)](self.solver, S, b)
        found = [next(steps)]
        for _ in range(self.layers):
            for _ in range(self.steps_per_layer):
                weights = next(steps)
            found.append(weights)
        return torch.stack(found)

    def hidden_states(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """States (x, w_t, x.w_t) at the x tokens, (layers + 1, B, N, 2 d + 1)."""
        weights = self.step_weights(X, y)
        x = X.double().expand_as(weights)
        return torch.cat([x, weights, (x * weights).sum(-1, keepdim=True)], dim=-1)

    def query_states(self, X: torch.Tensor, y: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """States (x, w_t, x.w_t) at queries (B, T, d) after the examples, (layers + 1, B, T, 2 d + 1)."""
        X, y = (
            torch.cat([X, queries[:, :1]], dim=1),
            torch.cat([y, torch.zeros_like(y[:, :1])], dim=1),
        )
        weights = self.step_weights(X, y)[:, :, -1:].expand(-1, -1, queries.shape[1], -1)
        x = queries.double().expand_as(weights)
        return torch.cat([x, weights, (x * weights).sum(-1, keepdim=True)], dim=-1)

    def read_out(self, states: torch.Tensor) -> torch.Tensor:
        """The last coordinate."""
        return states[..., -1]

    def extra_repr(self) -> str:
        """The solver and the size."""
        return f"{self.solver!r}, dim={self.dim}, layers={self.layers}"


def _before(terms: torch.Tensor) -> torch.Tensor:
    """Sums over the examples before each, (B, N, ...) -> (B, N, ...); 0 for the first."""
    return torch.cat([torch.zeros_like(terms[:, :1]), terms[:, :-1].cumsum(1)], dim=1)


# -- the recursions --------------------------------------------------------------------------------


def _gradient_descent(solver: GradientDescent, S: torch.Tensor, b: torch.Tensor) -> Steps:
    rate = _scale(solver.step_size, 1, S, "step_size")[..., None]
    weights = torch.zeros_like(b)
    while True:
        yield weights
        weights = weights - rate * (_apply(S, weights) - b)


def _newton(solver: IterativeNewton, S: torch.Tensor, b: torch.Tensor) -> Steps:
    eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    power = 2 if solver.start == "S" else 1
    scale = _scale(solver.scale, power, S, "scale")[..., None, None]
    matrix = scale * (S if power == 2 else eye)
    while True:
        yield _apply(matrix, b)
        matrix = 2 * matrix - matrix @ S @ matrix


def _conjugate_gradient(solver: Solver, S: torch.Tensor, b: torch.Tensor) -> Steps:
    """Hestenes and Stiefel's recursion; residuals are orthogonalised twice, and it ends where the
    residual is rounding: without both, it does not end after rank S steps."""
    weights, residual, direction = torch.zeros_like(b), b, b
    size = b.norm(dim=-1, keepdim=True)
    earlier: list[torch.Tensor] = []
    while True:
        yield weights
        norm = residual.norm(dim=-1, keepdim=True)
        active = norm > _CONVERGED * size
        earlier.append(torch.where(active, residual / norm, 0.0))
        image = _apply(S, direction)
        step = torch.where(active, norm**2 / (direction * image).sum(-1, keepdim=True), 0.0)
        weights = weights + step * direction
        residual = torch.where(active, residual - step * image, 0.0)
        if len(earlier) <= b.shape[-1]:
            for unit in 2 * earlier:
                residual = residual - (residual * unit).sum(-1, keepdim=True) * unit
        ratio = torch.where(active, residual.norm(dim=-1, keepdim=True) / norm, 0.0)
        direction = residual + ratio**2 * direction


_RULES: dict[type[Solver], Callable[[Any, torch.Tensor, torch.Tensor], Steps]] = {
    GradientDescent: _gradient_descent,
    IterativeNewton: _newton,
    ConjugateGradient: _conjugate_gradient,
}


def _apply(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return (matrix @ vector[..., None])[..., 0]


# -- parameters ------------------------------------------------------------------------------------


def _parameters(solver: Solver) -> dict[str, sp.Expr]:
    names = ("step_size", "scale")
    return {name: getattr(solver, name) for name in names if hasattr(solver, name)}


def _scale(rule: sp.Expr, power: int, S: torch.Tensor, name: str) -> torch.Tensor:
    """The parameter for every prompt and prefix, (B, N); it must shrink 1 - scale lam^power."""
    squares = (S @ S).square().sum((-2, -1)).sqrt()  # ||S^2||_F, at least lam_max^2
    empty = squares == 0
    values: dict[sp.Symbol, torch.Tensor] = {
        frobenius: squares,
        trace: S.diagonal(dim1=-2, dim2=-1).sum(-1),
    }
    if rule.free_symbols & {lam_min, lam_max}:
        spectrum = torch.linalg.eigvalsh(S)
        values[lam_max] = spectrum[..., -1]
        nonzero = spectrum > _RANK * spectrum[..., -1:]
        values[lam_min] = torch.where(nonzero, spectrum, torch.inf).amin(-1)
    used = sorted(rule.free_symbols, key=str)
    # An empty prefix has no spectrum, and any step leaves it at 0.
    arguments = [torch.where(empty, 1.0, values[symbol]).numpy(force=True) for symbol in used]
    result = sp.lambdify(used, rule, "numpy")(*arguments)
    scale = torch.as_tensor(result, dtype=S.dtype, device=S.device).expand(S.shape[:2])
    if bool((scale * squares ** (power / 2) > 2).any()):
        largest = torch.linalg.eigvalsh(S)[..., -1]
        reached = scale * largest**power
        bad = reached > 2 * (1 + 1e-9)
        if bool(bad.any()):
            prompt, prefix = (int(i) for i in bad.nonzero()[0])
            raise OutOfDomain(
                f"{name} = {float(scale[prompt, prefix]):.4g} is unstable for {int(bad.sum())} of "
                f"{bad.numel()} prefixes, the first being prompt {prompt} with {prefix} examples: "
                f"{name} * lam_max{'^2' if power == 2 else ''} = "
                f"{float(reached[prompt, prefix]):.4g} must stay below 2. Lower it, or give a rule "
                f"such as {'1/frobenius' if power == 2 else '1/trace'}."
            )
    return scale
