"""Hold any in-context learner against the theory of attention layers.

A model is a callable (X (B, n, d), y (B, n), query (B, d)) -> prediction (B,). Its risk on fresh
prompts is compared with the smallest risk that a layer of softmax or linear attention can have at
the same prompt length (Cui et al., arXiv 2401.17426; the exact risks are derived here), or with the
expected risk of a solver. Exported:
`validate`, `measure_risk`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from icltheory.attention import Attention, LinearAttention, SoftmaxAttention
from icltheory.errors import IclTheoryError, InvalidInput
from icltheory.solvers import Solver
from icltheory.task import LinearRegression
from numeric.arrays import SCENARIOS, positive_integers, task_arrays
from numeric.compare import Comparison, compare
from numeric.montecarlo import (
    Estimate,
    Seed,
    child_seed,
    prompt_floats,
    sample_prompts,
    seed_sequence,
    single_length,
    stream,
)
from numeric.progress import Interrupted, progress_bar
from numeric.risk import optimal_risk
from numeric.spectral_risk import solver_risk

Model = Callable[..., Any]

_THEORIES: tuple[Attention, ...] = (
    SoftmaxAttention(heads=1),
    SoftmaxAttention(heads=2),
    LinearAttention(),
)


def validate(
    model: Model,
    task: LinearRegression,
    prompt_lengths: Any,
    attention: Attention | Solver | None = None,
    *,
    steps: Any = None,
    prompts: int = 200_000,
    seed: Seed = 0,
    allowance: float = 0.05,
    progress: bool | None = None,
) -> Comparison:
    """Compare a model's risk on fresh prompts with the optimal risk of an attention layer.

    Parameters
    ----------
    model: callable (X (B, n, d), y (B, n), query (B, d)) -> prediction (B,). It gets float64 arrays,
        or, if it has `parameters` or `framework == "torch"`, tensors without gradients in the dtype
        and on the device of its first parameter. It is called as it is (put it in evaluation mode
        first).
    prompt_lengths: one length n or a sequence of them.
    attention: the layer that the model is held against, `model.attention` if it has one; otherwise
        every length gets three rows (one softmax head, two heads, linear attention), which show
        the layer that the model behaves like: two heads and linear attention are close in long
        prompts, where both may agree. Or a solver, such as
        `icl.GradientDescent(0.01)` or `icl.Ridge(0.5)`, with its expected risk
        (`numeric.solver_risk`), for coefficients of covariance c I.
    steps: number of steps of a solver.
    prompts: fresh prompts a length. The squared error of one prompt scatters about twice as much as
        its mean, so 5 standard errors are near 10/sqrt(prompts): 2 % by default. Fewer than about
        100,000 end in "poor resolution", and heavier tails need more: about 170,000 at n = 60.
    seed: as in `monte_carlo_risk`; the prompts of a length do not depend on the other lengths.
    allowance: relative distance from the optimum that is accepted as optimisation error.
    progress: as in `monte_carlo_risk`.

    Ctrl-C raises `Interrupted`: its `partial` has the rows of what was measured until then, the
    length under way included. Errors: `InvalidInput` if the model fails, returns another shape or
    NaN, or is not deterministic, as with dropout that is still on.

    >>> import icltheory as icl
    >>> def gradient_step(X, y, query):
    ...     n = y.shape[1]
    ...     return np.einsum("bi,bij,bj->b", y, X, query) / (n + 6)
    >>> table = validate(gradient_step, icl.LinearRegression(dim=5), 20, icl.LinearAttention())
    >>> [row.verdict for row in table]
    ['agrees']
    >>> solver = icl.GradientDescent(0.03)
    >>> table = validate(gradient_step, icl.LinearRegression(dim=5), 20, solver, steps=1)
    >>> [row.verdict for row in table]  # its step is 1/26
    ['deviates']
    """
    task_arrays(task, SCENARIOS)
    lengths = [int(n) for n in positive_integers(prompt_lengths, "prompt_lengths").ravel()]
    if attention is None:
        attention = getattr(model, "attention", None)
    theories: tuple[Attention | Solver, ...] = _THEORIES if attention is None else (attention,)
    if steps is not None and not isinstance(attention, Solver):
        raise InvalidInput(
            "steps are those of a solver; pass one, such as icl.GradientDescent(0.01)."
        )
    dim = getattr(model, "dim", None)
    if isinstance(dim, int) and dim != int(task.dim):
        raise InvalidInput(f"the task has dim = {task.dim}, the model {dim}; give both the same.")
    # All predictions first: what cannot be predicted is refused before anything is sampled.
    predictions = {
        (n, theory): (
            _solver_risk(task, theory, n, steps)
            if isinstance(theory, Solver)
            else (float(optimal_risk(task, theory, n).risk), 0.0)
        )
        for n in lengths
        for theory in theories
    }
    root, rows = seed_sequence(seed), []

    def add(n: int, measured: Estimate) -> None:
        for theory in theories:
            prediction, sampled = predictions[n, theory]
            # A model without any error has no spread either; what remains is rounding.
            rounding = np.finfo(float).eps * max(prediction, measured.value)
            name = theory.description
            if isinstance(theory, Solver) and steps is not None:
                name = f"{name}, {steps} step{'' if steps == 1 else 's'}"
            rows.append(
                compare(
                    {"prompt_length": n, "theory": name},
                    prediction,
                    measured.value,
                    math.hypot(max(measured.standard_error, rounding), sampled),
                    allowance,
                )
            )

    def finished() -> Comparison | None:
        return Comparison.from_rows(rows) if rows else None

    options = {"partial": finished, "unit": " prompts", "inner": True}
    total = len(lengths) * int(positive_integers(prompts, "prompts", 2).item())
    with progress_bar(total, 0, progress, "validate", **options):
        for n in lengths:
            try:
                add(n, measure_risk(model, task, n, prompts=prompts, seed=child_seed(root, n)))
            except Interrupted as stop:
                if stop.partial is not None:
                    add(n, stop.partial)
                raise
    return Comparison.from_rows(rows)


def measure_risk(
    model: Model,
    task: LinearRegression,
    prompt_length: int,
    *,
    prompts: int = 100_000,
    seed: Seed = 0,
    batch: int | None = None,
    progress: bool | None = None,
) -> Estimate:
    """Mean of (prediction - theta.x_q)^2 of a model over fresh prompts, with its standard error.

    `model` and errors as in `validate`; `batch` prompts go through the model at once (`None`: as
    many as fit into about 32 MB of prompts); `progress` and Ctrl-C as in `monte_carlo_risk`.

    >>> import icltheory as icl
    >>> zero = lambda X, y, query: np.zeros(len(X))
    >>> risk = measure_risk(zero, icl.LinearRegression(dim=3), 4)
    >>> abs(risk.value - 1) < 5 * risk.standard_error
    True
    """
    arrays = task_arrays(task, SCENARIOS)
    n = single_length(prompt_length)
    call = array_caller(model)
    checked = False

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        nonlocal checked
        features, labels, query, target = sample_prompts(arrays, n, size, rng)
        errors = (call(features, labels, query) - target) ** 2
        if not checked:
            require_deterministic(call, features, labels, query)
            checked = True
        return errors

    floats = prompt_floats(arrays, n)
    options = {"progress": progress, "what": f"n = {n}"}
    return stream(draw, floats, prompts=prompts, seed=seed, batch=batch, **options)


def _solver_risk(task: LinearRegression, solver: Solver, n: int, steps: Any) -> tuple[float, float]:
    """The expected risk of a solver, and its error."""
    if solver.reads_labels or (steps is None and not solver.is_direct):
        lacks = (
            "depends on the labels" if solver.reads_labels else "needs its number of steps, steps=8"
        )
        raise InvalidInput(
            f"the risk of {solver!r} {lacks}; which solver a model resembles, and after how many steps, "
            f"is told by numeric.finite.identify(model, task, prompt_length)."
        )
    if steps is not None and np.ndim(steps):
        raise InvalidInput(f"steps = {steps!r}; pass one number of steps.")
    arrays = task_arrays(task, ("coef_mean",))
    moment = task.coef_moment
    if not moment.is_isotropic:
        raise InvalidInput(
            "the risk of a solver is known for coefficients of covariance c I; pass coef_cov a number, "
            "or compare layer by layer with numeric.finite.identify."
        )
    unit = float(moment.scale) * arrays.dim
    noise, cov = arrays.noise_var / unit, task.feature_cov
    found = solver_risk(solver, steps, n=n, d=arrays.dim, noise_var=noise, cov=cov)
    return unit * float(found.value), unit * float(found.error)


def array_caller(model: Model) -> Callable[..., np.ndarray]:
    """The model as a checked function of float64 arrays."""
    if not callable(model):
        raise InvalidInput(
            f"model has type {type(model).__name__}; pass a callable "
            f"(X[B,n,d], y[B,n], query[B,d]) -> prediction[B]."
        )
    uses_torch = hasattr(model, "parameters") or getattr(model, "framework", None) == "torch"
    run = _torch_caller(model) if uses_torch else model

    def call(*prompt: np.ndarray) -> np.ndarray:
        shapes = ", ".join(
            f"{name} {array.shape}" for name, array in zip(("X", "y", "query"), prompt, strict=True)
        )
        size = len(prompt[0])
        try:
            output = run(*prompt)
        except IclTheoryError:  # a model of this package says itself what is wrong
            raise
        except Exception as error:
            raise InvalidInput(
                f"the model raised {type(error).__name__}: {error}, when called with {shapes}. "
                f"It must take (X[B,n,d], y[B,n], query[B,d]) and return shape (B,) = ({size},)."
            ) from error
        try:
            prediction = np.asarray(output, dtype=float)
        except (TypeError, ValueError) as error:
            raise InvalidInput(
                f"the model returned {type(output).__name__} where an array of shape "
                f"(B,) = ({size},) is expected."
            ) from error
        if prediction.shape != (size,):
            raise InvalidInput(
                f"the model returned shape {prediction.shape} for {shapes}; "
                f"expected (B,) = ({size},), one prediction a prompt."
            )
        if not np.all(np.isfinite(prediction)):
            bad = int(np.sum(~np.isfinite(prediction)))
            raise InvalidInput(
                f"{bad} of {size} predictions of the model are NaN or infinite for {shapes}; "
                f"expected shape (B,) of finite numbers."
            )
        return prediction

    return call


def require_deterministic(call: Callable[..., np.ndarray], *prompt: np.ndarray) -> None:
    """`InvalidInput` if a caller answers differently when asked again, on the first few prompts."""
    few = [array[:4] for array in prompt]
    first, second = call(*few), call(*few)
    if (gap := np.abs(first - second).max()) > 1e-4 * np.abs(first).max() + 1e-6:
        raise InvalidInput(
            f"the model is not deterministic: its predictions differ by {gap:.3g} when it is "
            f"called again with the same prompts; put it into evaluation mode (model.eval())."
        )


def _torch_caller(model: Any) -> Model:
    import torch

    parameters = model.parameters() if hasattr(model, "parameters") else iter(())
    first = next(iter(parameters), None)
    dtype = torch.float64 if first is None else first.dtype
    device = "cpu" if first is None else first.device

    def run(*prompt: np.ndarray) -> Any:
        tensors = [torch.as_tensor(array, dtype=dtype, device=device) for array in prompt]
        with torch.no_grad():
            output = model(*tensors)
        if isinstance(output, torch.Tensor):
            output = output.detach().cpu().double().numpy()
        return output

    return run
