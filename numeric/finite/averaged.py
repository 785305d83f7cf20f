"""Risks averaged exactly over a part of what a prompt is drawn from: less noise for training.

`AveragedRisk` averages one head over whole prompts: given the coefficients and the query, its scores
are Gaussian, and the mean and the mean square of the prediction are known through the moments of
softmax weights at every prompt length (`numeric.prompt_moments`); coefficients and queries remain.
`LabelAveragedRisk` averages any layer whose prediction is affine in the labels over coefficients and
label noise; features and queries remain. Derived here. Exported: both, and `label_averaged_risk`.
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
from numeric.arrays import SCENARIOS, TaskArrays, positive_integers, task_arrays
from numeric.compile import compile
from numeric.finite.models import LinearAttention, SoftmaxAttention
from numeric.finite.tokens import TokenAttention
from numeric.montecarlo import Estimate, Seed, single_length, stream
from numeric.prompt_moments import weight_moments
from numeric.samplers import prompt_floats, sample_prompts

_NODES, _LARGEST = 800, 40.0  # knots of the interpolation, and the largest scale they reach


class AveragedRisk:
    """Squared error of one head averaged over prompts, given coefficients and queries.

    The head is a `TokenAttention`, or a `SoftmaxAttention` with one head and the query token
    outside. With blocks vb = (v, b), al = (A x_q, u'x_q), token covariance G of the coefficients theta, and
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
        A, u, v, b, skip = _blocks(model)
        theta, query = torch.as_tensor(theta), torch.as_tensor(query)
        cov = self._cov.to(query)
        label = theta @ cov  # Cov(x, y), (B, d)
        power = (label * theta).sum(-1) + self.arrays.noise_var
        x, y = query @ A.T, query @ u
        gx, gy = x @ cov + y[:, None] * label, (x * label).sum(-1) + y * power  # G al
        square = (x * gx).sum(-1) + y * gy
        mean = gx @ v + b * gy
        spread = v @ cov @ v + 2 * b * (label @ v) + b * b * power  # vb'G vb
        target = (theta * query).sum(-1) - query @ skip
        n = self.prompt_length
        if isinstance(model, TokenAttention) and model.kind == "linear":
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


def _blocks(model: nn.Module) -> tuple[torch.Tensor, ...]:
    """The blocks A, u, v, b of a head over joint tokens, and its skip path."""
    if isinstance(model, TokenAttention):
        return *model.tensors(), torch.zeros_like(model.v)
    if not isinstance(model, SoftmaxAttention):
        raise InvalidInput(
            f"prompts can be averaged exactly for finite.TokenAttention and for "
            f"finite.SoftmaxAttention with one head, not for {type(model).__name__}; train on "
            f"sampled prompts."
        )
    if model.heads > 1 or model.include_query:
        what = f"{model.heads} heads" if model.heads > 1 else "the query token inside"
        raise InvalidInput(
            f"prompts can be averaged exactly for one softmax head without the query token, not for "
            f"{what}; average over labels (average_labels=True)."
        )
    (matrix,), (value,) = model.tensors()
    zero = torch.zeros_like(matrix[0])
    reader = zero if model.u is None else model.u[0]
    return matrix.T, zero, reader, value, zero if model.skip is None else model.skip


class _Interpolated(torch.autograd.Function):
    """The spline in s as a function of s^2; its derivative is the spline's, over 2 s."""

    @staticmethod
    def forward(ctx: Any, square: torch.Tensor, spline: Any, slope: Any) -> torch.Tensor:  # type: ignore[override]
        s = np.sqrt(np.maximum(square.numpy(force=True), 0.0))
        # The slope over 2 s has a limit at s = 0, reached far before rounding matters.
        near = np.maximum(s, 1e-6)
        ctx.save_for_backward(torch.from_numpy(slope(near) / (2 * near)[:, None]).to(square))
        return torch.from_numpy(spline(s)).to(square)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (slope,) = ctx.saved_tensors
        return (grads[0] * slope).sum(-1), None, None


# -- labels ----------------------------------------------------------------------------------------


class LabelAveragedRisk(nn.Module):
    """Squared error of a layer averaged over coefficients and label noise, given X and queries.

    A prediction sum_i W_i y_i + c with weights that do not depend on the labels has, for
    coefficients of mean m and covariance M and with e = x_q - sum_i W_i x_i,

        E (f - theta.x_q)^2 = e'M e + (m.e - c)^2 + noise_var |W|^2.

    `model`: a `SoftmaxAttention` or `LinearAttention` of any form; any task. A module whose
    `layer` is the model: forward (X (B, n, d), query (B, d), *law) -> (B,), with the `law` of
    another task in place of its own if given. Differentiable in the parameters of the model.

    >>> import icltheory as icl
    >>> model = LinearAttention(dim=2)
    >>> model.load_state_dict({"A": torch.eye(2)})
    <All keys matched successfully>
    >>> risk = LabelAveragedRisk(model, icl.LinearRegression(dim=2, noise_var=0.5))
    >>> one = risk(torch.ones(1, 4, 2).double(), torch.ones(1, 2).double())  # W_i = 1/2, e = -x_q
    >>> round(one.item(), 12)
    1.5
    """

    def __init__(self, model: nn.Module, task: LinearRegression | TaskArrays) -> None:
        super().__init__()
        if not isinstance(model, (SoftmaxAttention, LinearAttention)):
            raise InvalidInput(
                f"labels can be averaged exactly for finite.SoftmaxAttention and "
                f"finite.LinearAttention, not for {type(model).__name__}; train on sampled labels."
            )
        self.layer = model
        arrays = task if isinstance(task, TaskArrays) else task_arrays(task, SCENARIOS)
        self.law = coefficient_law(arrays)

    def forward(self, X: torch.Tensor, query: torch.Tensor, *law: torch.Tensor) -> torch.Tensor:
        """The conditional risks, (B,)."""
        root, mean, noise = (x.to(query) for x in law or self.law)
        weights, rest = self.layer.label_weights(X, query)
        error = query - (weights[:, None] @ X)[:, 0]
        spread = ((error @ root) ** 2).sum(-1) + noise * (weights**2).sum(-1)
        return spread + (error @ mean - rest) ** 2


def coefficient_law(arrays: TaskArrays) -> tuple[torch.Tensor, ...]:
    """Root of the covariance (d, d) and mean (d,) of the coefficients, and the noise variance ()."""
    parts = (arrays.coef_root, arrays.coef_mean, np.array(arrays.noise_var))
    return tuple(map(torch.from_numpy, parts))


def label_averaged_risk(
    model: nn.Module,
    task: LinearRegression,
    prompt_length: int,
    *,
    prompts: int = 100_000,
    seed: Seed = 0,
) -> Estimate:
    """Risk of a layer over fresh features and queries, labels averaged exactly (`LabelAveragedRisk`).

    It estimates what `numeric.measure_risk` does, for a `SoftmaxAttention` or `LinearAttention`,
    with the standard error that several times as many prompts would have there.

    >>> import icltheory as icl
    >>> import numeric
    >>> model, task = SoftmaxAttention(dim=5), icl.LinearRegression(dim=5)
    >>> few = label_averaged_risk(model, task, 10, prompts=2_000)
    >>> many = numeric.measure_risk(model, task, 10, prompts=2_000)
    >>> few.standard_error < many.standard_error / 2
    True
    """
    arrays, n = task_arrays(task, SCENARIOS), single_length(prompt_length)
    risk = LabelAveragedRisk(model, arrays)
    if model.dim != arrays.dim:
        raise InvalidInput(f"the task has dim = {arrays.dim}, the model {model.dim}.")

    like = next(model.parameters())

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        X, _, query, _ = sample_prompts(arrays, n, size, rng)
        with torch.no_grad():
            X, query = (torch.from_numpy(x).to(like) for x in (X, query))
            return risk(X, query).numpy(force=True)

    return stream(draw, prompt_floats(arrays, n), prompts=prompts, seed=seed)
