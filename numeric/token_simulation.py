"""Finite softmax averages of sampled tokens: the simulation that the expansions are held against.

T_n(u) = sum_l softmax_l(u.z_l) z_l over n independent tokens of a law is a softmax head on a prompt.
Exported: `sample_tokens`, `simulate_output`, `OutputSample`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from icltheory.laws.tokens import TokenLaw
from numeric.array_law_base import ArrayLaw
from numeric.arrays import finite, integer, positive_integers
from numeric.decoding_display import Shown
from numeric.laws import array_law
from numeric.montecarlo import Seed, child_seed, random_generator, seed_sequence, single_length
from numeric.progress import progress_bar

_BUDGET = 2**22  # float64 values (32 MB) of one batch of prompts
_LARGEST_PROMPT = 2**30  # bytes for a single prompt, above which the request is refused


def sample_tokens(law: TokenLaw, shape: int | tuple[int, ...], rng: Any) -> np.ndarray:
    """Independent tokens of the law, shape + (d,).

    >>> import icltheory as icl
    >>> z = sample_tokens(icl.Sphere(dim=3, radius=2), (4, 5), rng=0)
    >>> z.shape, np.allclose(np.linalg.norm(z, axis=-1), 2)
    ((4, 5, 3), True)
    """
    array = array_law(law)
    sizes = positive_integers(shape, "shape")
    if sizes.ndim > 1:
        raise InvalidInput(f"shape = {shape!r} is no shape; pass an integer or a tuple of them.")
    lengths = tuple(int(x) for x in np.atleast_1d(sizes))
    return array.sample(random_generator(rng), math.prod(lengths)).reshape(*lengths, array.dim)


@dataclass(frozen=True, eq=False, repr=False)
class OutputSample(Shown):
    """Moments of simulated softmax averages T_n, each with its standard error.

    With one dual point the vectors have shape (d,); with two they have shape (2, d), u first, and
    `covariance` is Cov(T_n(u), T_n(w)).
    """

    mean: np.ndarray
    mean_error: np.ndarray
    covariance: np.ndarray
    covariance_error: np.ndarray
    bias: np.ndarray | None
    """E T_n - lim E T_n from the prompts and their halves, without use of any theory; its own error is
    O(1/n^2). `None` for n = 1."""
    bias_error: np.ndarray | None
    prompt_length: int
    prompts: int


def simulate_output(
    law: TokenLaw, u: Any, prompt_length: int, prompts: int = 10_000, seed: Seed = 0, w: Any = None
) -> OutputSample:
    """Sampled mean and covariance of the softmax average T_n(u) = sum_l softmax_l(u.z_l) z_l.

    Parameters
    ----------
    u, w: one dual point each, (d,); with `w` both outputs are read from the same prompts, as two
        heads do.
    prompt_length, prompts: tokens a prompt (n), and independent prompts (at least 2).
    seed: integer >= 0 or `SeedSequence`; batch b uses its b-th child.

    Works for every u, also where no limit or no 1/n law exists. Memory is bounded (about 32 MB, or
    one prompt); Ctrl-C as in `monte_carlo_risk`. Compare with `limit_output + leading_bias / n` and `leading_covariance / n`.
    Errors: `InvalidInput`, also for a single prompt above 1 GiB.

    >>> import icltheory as icl
    >>> law, u = icl.Rademacher(dim=1), [0.7]
    >>> sample = simulate_output(law, u, prompt_length=100, prompts=20_000)
    >>> bool(abs(sample.mean - 0.6004890880) < 5 * sample.mean_error)
    True
    """
    array, n = array_law(law), single_length(prompt_length)
    total = integer(prompts, "prompts", 2)
    duals = [single_dual(array, u, "u")] + ([] if w is None else [single_dual(array, w, "w")])
    floats = n * (array.dim + 3)
    if 8 * floats > _LARGEST_PROMPT:
        raise InvalidInput(
            f"one prompt of {n} tokens would need {8 * floats / 2**30:.3g} GiB; sample shorter ones."
        )
    root, size = seed_sequence(seed), max(1, _BUDGET // floats)
    stream = _Products()

    def finished() -> OutputSample | None:
        return stream.result(n) if stream.count > 1 else None

    with progress_bar(total, 0, None, "sampling", partial=finished, unit=" prompts") as bar:
        for b, start in enumerate(range(0, total, size)):
            rng = np.random.default_rng(child_seed(root, b))
            count = min(size, total - start)
            tokens = array.sample(rng, count * n).reshape(count, n, array.dim)
            stream.add([_average(tokens, dual) for dual in duals])
            bar.update(count)
    return stream.result(n)


def _average(tokens: np.ndarray, dual: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """T_n (B, d), and the mean of T over the two halves of the prompt less T_n."""
    scores = tokens @ dual
    scores -= scores.max(axis=1, keepdims=True)
    weights = np.exp(scores, out=scores)
    half, n = weights.shape[1] // 2, weights.shape[1]
    sums, totals = [], []
    for part in (slice(0, half), slice(half, n)):
        sums.append(np.matmul(weights[:, None, part], tokens[:, part])[:, 0])
        totals.append(weights[:, part].sum(axis=1)[:, None])
    output = (sums[0] + sums[1]) / (totals[0] + totals[1])
    if half == 0:
        return output, None
    # A half whose weights all underflow would need them relative to its own maximum.
    for i, part in enumerate((slice(0, half), slice(half, n))):
        lost = np.flatnonzero(totals[i][:, 0] < 1e-250)
        if lost.size:
            again = _average(tokens[lost, part], dual)[0]
            sums[i][lost], totals[i][lost] = again, 1.0
    return output, (sums[0] / totals[0] + sums[1] / totals[1]) / 2 - output


class _Products:
    """Running sums of a^i b^j (i, j <= 2) of two outputs, about the mean of the first batch."""

    def __init__(self) -> None:
        self._shift: list[np.ndarray] = []
        self.count, self._sums, self._halves = 0, {}, []

    def add(self, outputs: list[tuple[np.ndarray, np.ndarray | None]]) -> None:
        """Outputs (B, d) of one or two heads, with their differences between halves and whole."""
        if not self._shift:
            self._shift = [output.mean(axis=0) for output, _ in outputs]
            self._halves = [[0.0, 0.0] for _ in outputs]
        centred = [output - s for (output, _), s in zip(outputs, self._shift, strict=True)]
        a, b = centred[0], centred[-1]
        self.count += len(a)
        for i in range(3):
            for j in range(3):
                self._sums[i, j] = self._sums.get((i, j), 0.0) + (a**i).T @ b**j
        for total, (_, halves) in zip(self._halves, outputs, strict=True):
            if halves is not None:
                total[0] += halves.sum(axis=0)
                total[1] += np.square(halves).sum(axis=0)

    def result(self, prompt_length: int) -> OutputSample:
        count = self.count
        m = {key: value / count for key, value in self._sums.items()}
        alpha, beta = m[1, 0][:, :1], m[0, 1][:1]
        cov = m[1, 1] - alpha * beta
        # E (a - alpha)^2 (b - beta)^2, expanded.
        fourth = (
            m[2, 2]
            - 2 * beta * m[2, 1]
            - 2 * alpha * m[1, 2]
            + beta**2 * m[2, 0]
            + alpha**2 * m[0, 2]
            + 4 * alpha * beta * m[1, 1]
            - 3 * alpha**2 * beta**2
        )
        pair = len(self._shift) == 2
        means, variances = [self._shift[0] + alpha[:, 0]], [m[2, 0][:, 0] - alpha[:, 0] ** 2]
        if pair:
            means.append(self._shift[1] + beta[0])
            variances.append(m[0, 2][0] - beta[0] ** 2)
        stack = np.stack if pair else lambda rows: rows[0]
        bias = error = None
        if prompt_length > 1:
            first, second = ([np.asarray(t[i]) / count for t in self._halves] for i in (0, 1))
            bias = stack(first)
            error = _error(stack(second) - bias**2, count)
        return OutputSample(
            mean=stack(means),
            mean_error=_error(stack(variances), count),
            covariance=cov * count / (count - 1),
            covariance_error=_error(fourth - cov**2, count),
            bias=bias,
            bias_error=error,
            prompt_length=prompt_length,
            prompts=count,
        )


def _error(variance: np.ndarray, count: int) -> np.ndarray:
    return np.sqrt(np.maximum(variance, 0.0) / (count - 1))


def single_dual(array: ArrayLaw, u: Any, name: str) -> np.ndarray:
    point = finite(u, name)
    if point.ndim == 0 and array.dim == 1:
        point = point[None]
    if point.shape != (array.dim,):
        raise InvalidInput(f"{name} has shape {point.shape}; pass one dual point, ({array.dim},).")
    return point
