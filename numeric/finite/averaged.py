"""The risk of an attention head over joint tokens, averaged over prompts exactly.

Given the coefficients and the query, the scores of a prompt are Gaussian, and the mean and the mean
square of the prediction are known through the moments of softmax weights at every prompt length
(`numeric.prompt_moments`). Training on this average sees no noise of the prompts, only that of
coefficients and queries. Derived here. Exported: `AveragedRisk`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import interpolate
from torch import nn

from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.gaussian_output import response_coefficients
from icltheory.task import LinearRegression
from numeric.arrays import positive_integers, task_arrays
from numeric.compile import compile
from numeric.finite.tokens import TokenAttention
from numeric.prompt_moments import weight_moments

_NODES, _LARGEST = 800, 40.0  # knots of the interpolation, and the largest scale they reach


class AveragedRisk:
    """Squared error of a `TokenAttention` averaged over prompts, given coefficients and queries.

    With blocks vb = (v, b), al = (A x_q, u'x_q), token covariance G of the coefficients theta, and
    scale s^2 = al'G al, a softmax head has

        E f = gain vb'G al,    Var f = spread vb'G vb + excess (vb'G al)^2

    with the coefficients that `icltheory.response_coefficients` derives, interpolated in s by cubic
    splines (relative error below 1e-7); linear attention has E f = vb'G al and, f being the mean of
    products of two Gaussian forms, Var f = ((vb'G al)^2 + s^2 vb'G vb)/n. Differentiable in the
    parameters of the model.

    >>> import icltheory as icl
    >>> risk = AveragedRisk(icl.LinearRegression(dim=2), 10)
    >>> model = TokenAttention.from_blocks([[0.5, 0], [0, 0.5]], 1.5)
    >>> ones = torch.ones(1, 2, dtype=torch.float64)
    >>> round(risk(model, ones, ones).item(), 6)
    1.373111
    """

    def __init__(self, task: LinearRegression, prompt_length: Any) -> None:
        self.arrays = task_arrays(task)
        self.prompt_length = int(positive_integers(prompt_length, "prompt_length"))
        # The coefficients are even in s and smooth; knots are denser where they change most.
        self._knots = _LARGEST * np.linspace(0, 1, _NODES) ** 2
        length = np.array([float(self.prompt_length)])
        values = np.array([np.concatenate(weight_moments(length, s)) for s in self._knots])
        moments = dict(zip(("g", "g3", "g22"), values.T, strict=True))
        formulas = response_coefficients()
        evaluators = [compile(formulas[name]) for name in ("gain", "spread", "excess")]
        table = np.stack([f(**{x: moments[x] for x in f.arguments}) for f in evaluators], axis=1)
        # Even functions: the slope at s = 0 vanishes.
        self._spline = interpolate.CubicSpline(
            self._knots, table, bc_type=((1, (0, 0, 0)), "not-a-knot")
        )
        self._slope = self._spline.derivative()
        self._cov = torch.from_numpy(self.arrays.feature_cov)

    def __call__(self, model: nn.Module, theta: Any, query: Any) -> torch.Tensor:
        """The conditional risks, shape (B,), at coefficients and queries of shape (B, d)."""
        if not isinstance(model, TokenAttention):
            raise InvalidInput(
                f"prompts can be averaged exactly for finite.TokenAttention only, not for "
                f"{type(model).__name__}; train on sampled prompts."
            )
        A, u, v, b = model.tensors()
        theta, query = torch.as_tensor(theta), torch.as_tensor(query)
        label = theta @ self._cov  # Cov(x, y), (B, d)
        power = (label * theta).sum(-1) + self.arrays.noise_var
        x, y = query @ A.T, query @ u
        gx, gy = x @ self._cov + y[:, None] * label, (x * label).sum(-1) + y * power  # G al
        square = (x * gx).sum(-1) + y * gy
        mean = gx @ v + b * gy
        spread = v @ self._cov @ v + 2 * b * (label @ v) + b * b * power  # vb'G vb
        target = (theta * query).sum(-1)
        n = self.prompt_length
        if model.kind == "linear":
            return (mean - target) ** 2 + (mean**2 + square * spread) / n
        gain, across, along = self._coefficients(square).unbind(-1)
        return (gain * mean - target) ** 2 + across * spread + along * mean**2

    def draw(self, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """`size` coefficients and queries, (B, d) each."""
        roots = (self.arrays.coef_root, self.arrays.feature_root)
        theta, query = (rng.standard_normal((size, self.arrays.dim)) @ root for root in roots)
        return torch.from_numpy(theta), torch.from_numpy(query)

    def _coefficients(self, square: torch.Tensor) -> torch.Tensor:
        """Gain, spread and excess, (B, 3)."""
        largest = float(square.detach().max())
        if not largest <= _LARGEST**2:
            raise OutOfDomain(
                f"a score has standard deviation {math.sqrt(largest):.3g}, above {_LARGEST:g}, where "
                f"the interpolated moments end; lower the learning rate or the initial scores."
            )
        return _Interpolated.apply(square, self._spline, self._slope)  # type: ignore[return-value]


class _Interpolated(torch.autograd.Function):
    """The spline in s as a function of s^2; its derivative is the spline's, over 2 s."""

    @staticmethod
    def forward(ctx: Any, square: torch.Tensor, spline: Any, slope: Any) -> torch.Tensor:  # type: ignore[override]
        s = np.sqrt(np.maximum(square.detach().numpy(), 0.0))
        # The slope over 2 s has a limit at s = 0, reached far before rounding matters.
        near = np.maximum(s, 1e-6)
        ctx.save_for_backward(torch.from_numpy(slope(near) / (2 * near)[:, None]))
        return torch.from_numpy(spline(s))

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (slope,) = ctx.saved_tensors
        return (grads[0] * slope).sum(-1), None, None
