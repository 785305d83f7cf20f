"""Fresh prompts of a linear-regression task as torch tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from icltheory.task import LinearRegression
from numeric.arrays import task_arrays
from numeric.montecarlo import single_length


@dataclass(frozen=True)
class Prompts:
    """A batch: features X (B, n, d), labels y (B, n), query (B, d), target theta.x_q (B,)."""

    X: torch.Tensor
    y: torch.Tensor
    query: torch.Tensor
    target: torch.Tensor


def sample_prompts(
    task: LinearRegression, prompt_length: int, batch: int, generator: torch.Generator
) -> Prompts:
    """`batch` independent prompts of length n in float64; every prompt has its own coefficients.

    The target is noiseless, so the mean squared error against it is the excess risk. Errors:
    `InvalidInput` for a symbolic task, a prompt length or a batch that is no positive integer.

    >>> import icltheory as icl
    >>> prompts = sample_prompts(icl.LinearRegression(dim=3), 7, 2, torch.Generator().manual_seed(0))
    >>> prompts.X.shape, prompts.y.shape, prompts.query.shape, prompts.target.shape
    (torch.Size([2, 7, 3]), torch.Size([2, 7]), torch.Size([2, 3]), torch.Size([2]))
    """
    arrays = task_arrays(task)
    n, size, dim = single_length(prompt_length), int(single_length(batch)), arrays.dim
    n = int(n)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    root = torch.from_numpy(arrays.feature_root)
    theta = normal(size, dim) @ torch.from_numpy(arrays.coef_root)
    X, query = normal(size, n, dim) @ root, normal(size, dim) @ root
    y = torch.einsum("bni,bi->bn", X, theta) + arrays.noise_var**0.5 * normal(size, n)
    return Prompts(X, y, query, (query * theta).sum(-1))
