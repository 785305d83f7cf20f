"""Training of a decoder: on one thought, on a teacher's chain, or on the outcome of its own chain.

With w_0 = 0 and total squared errors (no factor 1/2, summed over rows and thoughts):

    "one_thought"       |last column of f(Z_0) - (0; 0; w*; 1)|^2
    "gradient_descent"  sum_{s<t} |last column of f(Z_s) - (0; 0; w_{s+1}; 1)|^2 along the teacher
                        w_{s+1} = w_s - eta (S w_s - b) (Huang, Wang and Lee, arXiv 2502.21212)
    "shrinking"         the same along the teacher w_s = (1 - (1 - eta)^s) w* (Javanmard,
                        Mirzasoleiman and Mirrokni, arXiv 2603.01293)
    "outcome"           |w_t - w*|^2 after t thoughts of the model itself

S = X'X/n, b = X'y/n. With the default coefficients, E |w*|^2 = 1, the last is the risk at a query of
identity covariance, and a coordinate's where E w*w*' = I. Exported: `train_decoder`.
"""

from __future__ import annotations

import os

import torch

from icltheory.errors import InvalidInput
from icltheory.task import LinearRegression
from numeric.arrays import integer, positive, task_arrays
from numeric.finite.decoder import LinearSelfAttention
from numeric.finite.models import count
from numeric.finite.training import (
    DIVERGED,
    TrainingRun,
    fitting,
    step_generator,
    train_on,
    weights_digest,
)
from numeric.finite.training_settings import given_settings, shared_settings
from numeric.samplers import sample_examples

_TEACHERS = ("gradient_descent", "shrinking")
LOSSES = ("one_thought", *_TEACHERS, "outcome")
_RATES = {"adam": 3e-3, "sgd": 0.1}


def train_decoder(
    model: LinearSelfAttention,
    task: LinearRegression,
    prompt_length: int,
    steps: int = 2000,
    seed: int = 0,
    *,
    loss: str = "outcome",
    thoughts: int | None = None,
    step_size: float | None = None,
    batch_size: int = 256,
    optimizer: str = "adam",
    learning_rate: float | None = None,
    schedule: str = "cosine",
    warmup: int = 0,
    clip_norm: float | None = None,
    record_every: int | None = None,
    progress: bool | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 500,
    resume: bool = True,
) -> TrainingRun:
    """Train a `LinearSelfAttention` in place on fresh prompts of length n.

    Parameters
    ----------
    model: its `form` says what is trained. Parameters with `requires_grad_(False)` stay: R = I and
        rho = -1, say, by model.set_blocks(-0.3, 1, -1) and that call on model.R and model.rho.
    task: features, coefficients and label noise; no local examples.
    steps, seed, batch_size: number of updates, seed of the prompts, prompts a step.
    loss: "outcome", "one_thought", "gradient_descent" or "shrinking" (see the module).
    thoughts: length t of the chain in the loss; `None` is the model's, and 1 for "one_thought".
    step_size: eta of a teacher, which must be given; the other losses have none.
    learning_rate: `None` is 0.003 for "adam" and 0.1 for "sgd".
    The other arguments and the errors are those of `finite.train`.

    Optima, with E w*w*' = c I, label noise c sigma^2, features of covariance Sigma, and G = (1 + 1/n)
    Sigma + tr(Sigma)/n I: P rho = (G + sigma^2/n)^{-1} for "one_thought", which leaves R alone;
    P rho = -P R = eta I for "gradient_descent" with t >= 2; and for "shrinking" without label noise
    eta G^{-1}, where R and rho are kept at I and -1. "shrinking" shows the model thoughts that carry w*:
    with R free it goes below unless Sigma = I, and in the full form by reading w* off them. The optimum
    of "outcome" for Sigma = I is known in the scalar form (`icltheory.linear_self_attention`); other
    forms go below it, the full one further by attending to its thoughts.

    >>> import icltheory as icl
    >>> model = LinearSelfAttention(dim=2, form="scalar")
    >>> run = train_decoder(model, icl.LinearRegression(dim=2), 8, steps=300, learning_rate=0.02,
    ...                     loss="gradient_descent", thoughts=2, step_size=0.5, progress=False)
    >>> [round(size, 2) for size in model.learned().step_sizes]
    [0.5, 0.5]
    """
    if not isinstance(model, LinearSelfAttention):
        raise InvalidInput(
            f"model has type {type(model).__name__}; pass a finite.LinearSelfAttention, and train "
            f"other models with finite.train."
        )
    arrays = task_arrays(task, ("coef_mean",))
    fitting(model, task)
    n = integer(prompt_length, "prompt_length")
    t, eta = _chain(model, loss, thoughts, step_size)
    fixed = [name for name, p in model.named_parameters() if not p.requires_grad]
    rate = _RATES.get(optimizer) if learning_rate is None else learning_rate
    settings = {
        "task": str(task),
        "prompt_length": n,
        "seed": integer(seed, "seed", 0),
        **shared_settings(steps, batch_size, optimizer, rate, schedule, record_every),
        "loss": loss,
        "thoughts": t,
        "start": weights_digest(model),
        **({} if eta is None else {"step_size": eta}),
        **({"fixed": fixed} if fixed else {}),
        **given_settings(warmup, clip_norm, None, False),
    }

    def losses(step: int) -> torch.Tensor:
        rng = step_generator(settings["seed"], step)
        drawn = sample_examples(arrays, n, settings["batch_size"], rng)
        weight = next(model.parameters())
        X, y, _, target = (torch.from_numpy(array).to(weight) for array in drawn)
        if loss == "outcome":
            error = model.decode(X, y, t)[:, 0] - target
            return error.square().sum(-1).mean()[None]
        if eta is None:
            chain = torch.stack([torch.zeros_like(target), target])
        else:
            chain = _teacher(loss, eta, t, X, y, target)
        return _column_errors(model, X, y, chain).mean()[None]

    limit = DIVERGED * t * float(arrays.coef_moment.trace())
    return train_on(
        model,
        losses,
        settings,
        limit,
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
    )


def _column_errors(
    model: LinearSelfAttention, X: torch.Tensor, y: torch.Tensor, chain: torch.Tensor
) -> torch.Tensor:
    """Squared error (B,) of the columns after w_0, ..., w_{t-1}, chain (t + 1, B, d) being the teacher."""
    total, d = torch.zeros_like(y[:, 0]), model.dim
    for s in range(1, len(chain)):
        column = model.next_column(X, y, chain[:s].transpose(0, 1)[:, None])[:, 0]
        error = (column[:, d + 1 : -1] - chain[s]).square().sum(-1)
        rest = column[:, : d + 1].square().sum(-1) + (column[:, -1] - 1).square()
        total = total + error + rest
    return total


def _teacher(
    loss: str, eta: float, t: int, X: torch.Tensor, y: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """The thoughts w_0, ..., w_t of a teacher, (t + 1, B, d)."""
    if loss == "shrinking":
        return torch.stack([(1 - (1 - eta) ** s) * target for s in range(t + 1)])
    w = torch.zeros_like(target)[..., None]
    found = [w]
    for _ in range(t):
        w = w - eta / X.shape[1] * (X.transpose(1, 2) @ (X @ w - y[..., None]))
        found.append(w)
    return torch.stack(found)[..., 0]


def _chain(
    model: LinearSelfAttention, loss: str, thoughts: int | None, step_size: float | None
) -> tuple[int, float | None]:
    """Length of the chain in the loss, and the teacher's step size."""
    if loss not in LOSSES:
        raise InvalidInput(f"loss = {loss!r} is not one of {', '.join(LOSSES)}.")
    if loss == "one_thought":
        if thoughts not in (None, 1):
            raise InvalidInput(
                f'loss="one_thought" has one thought, not {thoughts}; leave thoughts out, or take '
                f'loss="outcome".'
            )
        t = 1
    else:
        t = model.thoughts if thoughts is None else count(thoughts, "thoughts")
    if (step_size is None) == (loss in _TEACHERS):
        needs = "needs the step_size of its teacher" if step_size is None else "has no step_size"
        raise InvalidInput(f"loss={loss!r} {needs}; the teachers are {', '.join(_TEACHERS)}.")
    if step_size is None:
        return t, None
    return t, positive(step_size, "step_size", "0.5")
