"""The weights of a decoder: three blocks that make it descend, and all the others.

V and K are (2 d + 2, 2 d + 2), in the row groups x (d), y (1), w (d), flag (1) of
`numeric.finite.decoder`, numbered 1 to 4. Exported: `DecoderWeights`, `LearnedDescent`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import nn

import icltheory as icl
from icltheory.errors import InvalidInput
from numeric.arrays import finite, number
from numeric.decoding_display import Tabled, brief
from numeric.finite.models import Configured, count, generator_of, normal, spread

FORMS = ("full", "blocks", "scalar")
# The start of the three blocks that act; from zero, training would not leave the saddle there.
_START = {"P": -0.3, "R": 0.6, "rho": -0.6}


@dataclass(frozen=True, eq=False, repr=False)
class LearnedDescent(Tabled):
    """The descent that a decoder learned: w <- w - state_step S w + label_step b, and what else acts.

    Scaling V by 1/c and K by c changes nothing, so only products of their blocks have a meaning.
    label_step: P rho (d, d). state_step: -P R (d, d); it is not identified by a model that was
    trained on one thought, since w_0 = 0. Both are step_size * identity for gradient descent.
    others: Frobenius norms |V_3a| |K_cb| of the other products that reach the next thought, by their
    names, relative to |P| |rho|; all are 0 for gradient descent.
    """

    label_step: np.ndarray
    state_step: np.ndarray
    others: dict[str, float] = field(repr=False)

    def __repr__(self) -> str:
        steps, off = brief(np.array(self.step_sizes)), brief(np.array(self.off_scalar))
        largest = f"largest_other={self.largest_other:.2g}"
        return f"LearnedDescent(step_sizes={steps}, off_scalar={off}, {largest})"

    def _table(self) -> tuple[list[str], list[list[str]]]:
        names = ("on the labels, P rho", "on the last thought, -P R")
        rows = zip(names, self.step_sizes, self.off_scalar, strict=True)
        body = [[name, f"{step:.4g}", f"{off:.2g}"] for name, step, off in rows]
        header = ["step", "size, trace/d", "rest off its multiple of I"]
        return header, [*body, ["largest other product", "", f"{self.largest_other:.2g}"]]

    @property
    def step_sizes(self) -> tuple[float, float]:
        """tr(P rho)/d and tr(-P R)/d."""
        dim = len(self.label_step)
        return float(np.trace(self.label_step)) / dim, float(np.trace(self.state_step)) / dim

    @property
    def off_scalar(self) -> tuple[float, float]:
        """Frobenius norms of both steps off their multiple of I, relative to their own."""
        return _off_scalar(self.label_step), _off_scalar(self.state_step)

    @property
    def largest_other(self) -> float:
        """The largest of `others`."""
        return max(self.others.values())


class DecoderWeights(Configured):
    """The parameters of a `LinearSelfAttention`, whose arguments these are."""

    V: nn.Parameter
    K: nn.Parameter
    P: nn.Parameter
    R: nn.Parameter
    rho: nn.Parameter

    def __init__(
        self,
        dim: int,
        *,
        thoughts: int = 1,
        form: str = "full",
        start_std: float = 0.02,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise InvalidInput(f"form = {form!r} is not one of {', '.join(FORMS)}.")
        self.dim, self.thoughts, self.form = count(dim, "dim"), count(thoughts, "thoughts"), form
        generator, std = generator_of(seed), spread(start_std, "start_std")
        d, eye = self.dim, torch.eye(self.dim, dtype=torch.float64)
        if form == "full":
            width = 2 * d + 2
            centre = _matrices(_START["P"] * eye, _START["R"] * eye, torch.tensor(_START["rho"]))
            start = {
                name: matrix + std * normal((width, width), generator)
                for name, matrix in zip("VK", centre, strict=True)
            }
        else:
            unit = eye if form == "blocks" else torch.ones((), dtype=torch.float64)
            start = {
                name: _START[name] * unit + std * normal(tuple(unit.shape), generator)
                for name in "PR"
            }
            start["rho"] = _START["rho"] + std * normal((), generator)
        for name, value in start.items():
            self.register_parameter(name, nn.Parameter(value))

    @classmethod
    def gradient_descent(
        cls, dim: int, step_size: float, *, thoughts: int = 1, form: str = "full"
    ) -> Self:
        """The layer whose thoughts are w <- w - step_size (S w - b), S = X'X/n, b = X'y/n.

        P = -step_size I, R = I, rho = -1 (the gauge of Section 2 of arXiv 2603.01293).
        """
        model = cls(dim, thoughts=thoughts, form=form)
        return model.set_blocks(-float(number(step_size, "step_size")), 1.0, -1.0)

    @classmethod
    def preconditioned(cls, preconditioner: Any, *, thoughts: int = 1, form: str = "full") -> Self:
        """The layer whose thoughts are w <- w - M (S w - b) with the matrix M (d, d): P = -M.

        >>> from numeric.finite import LinearSelfAttention
        >>> LinearSelfAttention.preconditioned(np.diag([0.5, 0.25])).learned().label_step
        array([[0.5 , 0.  ],
               [0.  , 0.25]])
        """
        matrix = finite(preconditioner, "preconditioner")
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise InvalidInput(
                f"preconditioner has shape {matrix.shape}; pass a square matrix, or use "
                f"finite.LinearSelfAttention.gradient_descent(dim, step_size)."
            )
        return cls(len(matrix), thoughts=thoughts, form=form).set_blocks(-matrix, 1.0, -1.0)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that determine the model."""
        return {"dim": self.dim, "thoughts": self.thoughts, "form": self.form}

    @property
    def attention(self) -> icl.LinearAttention | None:
        """The specification with the optimum of one thought; more thoughts have none."""
        return icl.LinearAttention() if self.thoughts == 1 else None

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """V and K, (2 d + 2, 2 d + 2) each, as functions of the parameters."""
        if self.form == "full":
            return self.V, self.K
        return _matrices(*self.blocks())

    def blocks(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """P = V_31 (d, d), R = K_13 (d, d) and rho = K_24 ()."""
        d = self.dim
        if self.form == "full":
            return self.V[d + 1 : -1, :d], self.K[:d, d + 1 : -1], self.K[d, -1]
        eye = torch.eye(d).to(self.rho)
        if self.form == "scalar":
            return self.P * eye, self.R * eye, self.rho
        return self.P, self.R, self.rho

    def set_blocks(self, P: Any, R: Any, rho: float) -> Self:
        """Set P, R (matrices (d, d), or numbers for multiples of I) and rho; all else becomes 0."""
        eye, scale = torch.eye(self.dim, dtype=torch.float64), float(number(rho, "rho"))
        given = {}
        for name, value in (("P", P), ("R", R)):
            array = torch.from_numpy(finite(value, name).copy())
            if array.ndim and array.shape != eye.shape:
                raise InvalidInput(
                    f"{name} has shape {tuple(array.shape)}; pass a number or a matrix "
                    f"({self.dim}, {self.dim})."
                )
            if self.form == "scalar" and array.ndim:
                raise InvalidInput(f"{name} is a number in the scalar form; pass one number.")
            given[name] = array if array.ndim or self.form == "scalar" else array * eye
        given["rho"] = torch.tensor(scale, dtype=torch.float64)
        if self.form == "full":
            given = dict(zip("VK", _matrices(**given), strict=True))
        with torch.no_grad():
            for name, value in given.items():
                getattr(self, name).copy_(value)
        return self

    def reduced(self) -> Self:
        """A copy with the same P, R and rho, and with all other blocks 0."""
        blocks = [block.numpy(force=True) for block in self.blocks()]
        copy = type(self)(self.dim, thoughts=self.thoughts, form="blocks")
        return copy.set_blocks(blocks[0], blocks[1], float(blocks[2]))

    def learned(self) -> LearnedDescent:
        """P rho, -P R, and the size of every other product of blocks that reaches the next thought.

        Columns of K for x and y, and rows of V other than w, never do: the last column has no x and
        no y, and only its w rows are fed back.
        """
        P, R, rho = (block.numpy(force=True).copy() for block in self.blocks())
        V, K = (matrix.numpy(force=True) for matrix in self.matrices())
        rows = dict(zip("1234", _slices(self.dim), strict=True))
        scale = float(np.linalg.norm(P) * abs(rho))
        others = {
            f"V3{a} K{c}{b}": float(
                np.linalg.norm(V[rows["3"], rows[a]]) * np.linalg.norm(K[rows[c], rows[b]])
            )
            for pair in ("12", "34")
            for a in pair
            for c in pair
            for b in "34"
            if (a, c, b) not in (("1", "1", "3"), ("1", "2", "4"))
        }
        if scale == 0:
            raise InvalidInput("P rho = 0: the model reads no labels; train it or set its blocks.")
        return LearnedDescent(P * rho, -P @ R, {k: size / scale for k, size in others.items()})


def _matrices(
    P: torch.Tensor, R: torch.Tensor, rho: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """V and K of the three blocks."""
    d = len(P)
    x, y, w, flag = _slices(d)
    V, K = (P.new_zeros((2 * d + 2, 2 * d + 2)) for _ in "VK")
    V[w, x], K[x, w], K[y, flag] = P, R, rho
    return V, K


def _slices(dim: int) -> tuple[slice, ...]:
    """The rows x, y, w and flag."""
    ends = (0, dim, dim + 1, 2 * dim + 1, 2 * dim + 2)
    return tuple(slice(low, high) for low, high in pairwise(ends))


def _off_scalar(matrix: np.ndarray) -> float:
    rest = matrix - np.trace(matrix) / len(matrix) * np.eye(len(matrix))
    size = np.linalg.norm(matrix)
    return float(np.linalg.norm(rest) / size) if size else 0.0
