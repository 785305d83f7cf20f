"""Monte Carlo estimates of risks and loss constants, streamed, with standard errors.

The objects are the risk E (f - theta.x_q)^2 of a real attention layer at prompt length n (by the
samplers of `numeric.samplers`), and the constant lim n * risk of consistent softmax heads. Exported:
`monte_carlo_risk`, `monte_carlo_constant`, `Estimate`, `Streaming`, and `sample_prompts` and
`stream`, on which `validate` is built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.attention import Attention, LinearAttention, SoftmaxAttention
from icltheory.errors import InfiniteVariance, InvalidInput
from icltheory.task import LinearRegression, refuse_options
from numeric.arrays import SCENARIOS, integer, task_arrays
from numeric.progress import progress_bar
from numeric.samplers import (
    Heads,
    Sampler,
    heads_of,
    linear_sampler,
    linear_scale,
    number,
    prompt_floats,
    softmax_sampler,
)
from numeric.samplers import sample_prompts as sample_prompts

Seed = int | np.random.SeedSequence

_BUDGET = 2**25  # bytes that one batch may occupy with all its temporaries
_LARGEST_PROMPT = 2**30  # bytes for a single prompt, above which the request is refused


@dataclass(frozen=True)
class Estimate:
    """A sample mean with its standard error and the number of prompts (or queries) behind it."""

    value: float
    standard_error: float
    prompts: int

    @property
    def relative_error(self) -> float:
        """Standard error over |value|; infinite if the value is 0."""
        return self.standard_error / abs(self.value) if self.value else math.inf


class Streaming:
    """Mean and variance of a stream of numbers in constant memory.

    Batches are merged pairwise by the update of Chan, Golub and LeVeque (1983), which does not
    cancel as a sum of squares would.

    >>> stream = Streaming()
    >>> stream.add([1.0, 2.0])
    >>> stream.add([3.0, 6.0])
    >>> stream.count, stream.mean, round(stream.variance, 4)
    (4, 3.0, 4.6667)
    """

    __slots__ = ("_squares", "count", "mean")

    def __init__(self) -> None:
        self.count, self.mean, self._squares = 0, 0.0, 0.0

    def add(self, values: Any) -> None:
        """Take in one batch (any shape); an empty one changes nothing."""
        values = np.asarray(values, dtype=float)
        if values.size:
            mean = float(values.mean())
            self._merge(values.size, mean, float(np.square(values - mean).sum()))

    def merge(self, other: Streaming) -> None:
        """Take in everything that `other` has seen."""
        if other.count:
            self._merge(other.count, other.mean, other._squares)

    def _merge(self, count: int, mean: float, squares: float) -> None:
        total, step = self.count + count, mean - self.mean
        self._squares += squares + step * step * (self.count * count / total)
        self.mean += step * (count / total)
        self.count = total

    @property
    def variance(self) -> float:
        """Unbiased sample variance; NaN for fewer than two numbers."""
        return self._squares / (self.count - 1) if self.count > 1 else math.nan

    def estimate(self) -> Estimate:
        """The mean with its standard error; NaN standard error for fewer than two numbers."""
        error = math.sqrt(self.variance / self.count) if self.count > 1 else math.nan
        return Estimate(self.mean, error, self.count)


def monte_carlo_risk(
    task: LinearRegression,
    attention: Attention,
    prompt_length: int,
    *,
    score_scale: float | None = None,
    value_scale: float | None = None,
    prompts: int = 100_000,
    seed: Seed = 0,
    sampler: str = "reduced",
    batch: int | None = None,
    progress: bool | None = None,
) -> Estimate:
    """Sampled risk E (f - theta.x_q)^2 of an attention layer at finite prompt length.

    Parameters
    ----------
    attention: `SoftmaxAttention(scores=..., values=...)` with any heads;
        `SoftmaxAttention(heads=1)` with score_scale k and value_scale v (A = k Sigma^{-1});
        `SoftmaxAttention(heads=2)` with k and v for the pair of scores (k, -k) and values (v, -v),
        consistent at v = 1/(2k); `LinearAttention(...)` with value_scale a and no score_scale. A
        skip path and feature values need their numbers.
    prompt_length: n >= 1 (>= 2 for the centred layer), one length; `numeric.sweep` runs several.
    prompts: number of independent prompts, at least 2.
    seed: integer >= 0 or `numpy.random.SeedSequence`. Every batch has its own child seed, so the
        same seed and `batch` give the same number.
    sampler: "plain" draws features, coefficients, noise and query, and evaluates the layer.
        "reduced" draws |x_q| and one N(0, 1) score a token and averages the rest exactly; it needs
        scalar heads (A_h = k_h Sigma^{-1}) and has the smaller variance.
    batch: prompts held in memory at once; `None` fits a batch into about 32 MB.
    progress: True or False for the bar on standard error; `None` shows it on a terminal and in a
        notebook, after two seconds.

    The variance is finite at every score scale, but for t = k^2 >= 1/8 the squared error is so
    heavy-tailed at large n that the standard error itself converges slowly; use
    `numeric.exact_risk` there. Ctrl-C raises `Interrupted`, with the estimate so far in `partial`.
    Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> task = icl.LinearRegression(dim=3, noise_var=0.4)
    >>> pair = icl.SoftmaxAttention(heads=2)
    >>> risk = monte_carlo_risk(
    ...     task, pair, 15, score_scale=0.35, value_scale=1.17219, prompts=20_000
    ... )
    >>> abs(risk.value - 0.270007) < 5 * risk.standard_error, risk.prompts
    (True, 20000)
    """
    arrays = task_arrays(task, SCENARIOS)
    n = single_length(prompt_length)
    if sampler not in ("reduced", "plain"):
        raise InvalidInput(f"sampler = {sampler!r} is unknown; pass 'reduced' or 'plain'.")
    if isinstance(attention, LinearAttention):
        scale = linear_scale(attention, n, score_scale, value_scale)
        draw = linear_sampler(arrays, n, attention.centered, scale, sampler)
        reduced_floats = 4  # a few numbers stand for all tokens
    else:
        heads = heads_of(task, attention, score_scale, value_scale)
        draw = softmax_sampler(arrays, n, heads, sampler)
        reduced_floats = 4 * n
    floats = reduced_floats if sampler == "reduced" else prompt_floats(arrays, n)
    return stream(draw, floats, prompts=prompts, seed=seed, batch=batch, progress=progress)


def monte_carlo_constant(
    task: LinearRegression,
    attention: Attention,
    *,
    score_scale: float | None = None,
    value_scale: float | None = None,
    prompts: int = 100_000,
    seed: Seed = 0,
) -> Estimate:
    """Sampled constant lim n * risk of consistent softmax heads; only the query is drawn.

    Averages sum_{h,l} v_h v_l exp(q_h'Sigma q_l) (q_h'Sigma M Sigma q_l + R + noise_var) over
    queries, with q_h = A_h'x_q and R = tr(Sigma M).

    Parameters
    ----------
    attention, score_scale, value_scale: as in `monte_carlo_risk`; a missing value_scale is the
        consistent one, 1/k for one head and 1/(2k) for the pair.
    prompts: number of independent queries, at least 2.

    Errors: `InfiniteVariance` if Sigma^{1/2} sym(A_h Sigma A_l') Sigma^{1/2} has an eigenvalue of
    at least 1/4 for a pair of heads with v_h v_l != 0 (one scalar head: t = k^2 >= 1/4);
    `InvalidInput` if sum_h v_h A_h is not Sigma^{-1}, where no constant exists. Between 1/8 and 1/4
    the standard error itself has infinite variance and tends to be too small.
    Source: derived here (delta method and exponential tilting).

    >>> import icltheory as icl
    >>> task, head = icl.LinearRegression(dim=5), icl.SoftmaxAttention(heads=1)
    >>> constant = monte_carlo_constant(task, head, score_scale=0.2, prompts=20_000)
    >>> exact = float(icl.head_constant(task, [0.2], [5]))
    >>> round(exact, 3), abs(constant.value - exact) < 5 * constant.standard_error
    (32.133, True)
    """
    arrays = task_arrays(task, ("coef_mean",))
    if isinstance(attention, LinearAttention):
        raise InvalidInput(
            "linear attention needs no sampling: its constant is a polynomial, icl.loss_constant."
        )
    if (
        isinstance(attention, SoftmaxAttention)
        and attention.scores is None
        and attention.heads <= 2
        and score_scale is not None
        and value_scale is None
    ):
        k = number(score_scale, "score_scale")
        value_scale = 1 / (attention.heads * k) if k else 0.0  # k = 0 is refused as inconsistent
    heads = heads_of(task, attention, score_scale, value_scale)
    refuse_options(attention.options, ("include_query",))
    root, values = arrays.feature_root, heads.values
    whitened = [root @ a @ root for a in heads.matrices]
    _require_consistent(whitened, values)
    _require_finite_variance(whitened, values, heads)
    label_var = arrays.signal + arrays.noise_var
    signal_form = root @ arrays.coef_moment @ root
    total = math.fsum(values)
    pairs = [
        (h, other, values[h] * values[other] * (1 if other == h else 2))
        for h in range(len(values))
        for other in range(h, len(values))
        if values[h] * values[other] != 0
    ]

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        x = rng.standard_normal((size, arrays.dim))
        q = [x @ b for b in whitened]
        # exp = 1 + expm1: the parts with the 1 are known sums by consistency. Summing them over
        # the pairs would subtract numbers of size v^2 for small opposite scores.
        out = _form(x, signal_form, x) + total**2 * label_var
        for h, other, weight in pairs:
            u = np.einsum("bi,bi->b", q[h], q[other])
            out += weight * np.expm1(u) * (_form(q[h], signal_form, q[other]) + label_var)
        return out

    return stream(draw, arrays.dim * (len(values) + 3), prompts=prompts, seed=seed)


# -- streams, shared with validate -----------------------------------------------------------------


def stream(
    draw: Sampler,
    floats: int,
    *,
    prompts: int,
    seed: Seed,
    batch: int | None = None,
    progress: bool | None = None,
    what: str = "sampling",
) -> Estimate:
    """Mean of `prompts` draws of `draw(rng, size)`, in batches of bounded memory.

    `floats` is the number of float64 values that one draw occupies with its temporaries. Batch b
    has the b-th child of `seed`, as `SeedSequence.spawn` gives it. Ctrl-C raises `Interrupted` with
    the estimate of the batches that are finished, which is as valid as any shorter run.

    >>> estimate = stream(lambda rng, size: rng.random(size), 1, prompts=10_000, seed=0)
    >>> abs(estimate.value - 0.5) < 5 * estimate.standard_error
    True
    """
    total = integer(prompts, "prompts", 2)
    if 8 * floats > _LARGEST_PROMPT:
        raise InvalidInput(
            f"one prompt would need {8 * floats / 2**30:.3g} GiB; sample shorter prompts, or use "
            f"numeric.exact_risk, which takes any prompt length."
        )
    size = max(1, _BUDGET // (8 * floats)) if batch is None else integer(batch, "batch")
    size = min(size, total)
    root = seed_sequence(seed)
    accumulator = Streaming()

    def finished() -> Estimate | None:
        return accumulator.estimate() if accumulator.count > 1 else None

    with progress_bar(total, 0, progress, what, partial=finished, unit=" prompts") as bar:
        for b in range(-(-total // size)):
            rng = np.random.default_rng(child_seed(root, b))
            values = draw(rng, min(size, total - b * size))
            if not np.all(np.isfinite(values)):
                raise InvalidInput(
                    "squared errors are NaN or infinite: scores or values overflow float64. "
                    "Pass smaller ones."
                )
            accumulator.add(values)
            bar.update(len(values))
    return accumulator.estimate()


def seed_sequence(seed: Seed) -> np.random.SeedSequence:
    """`seed` as a `SeedSequence`; `InvalidInput` for anything but an integer >= 0 or a sequence."""
    if isinstance(seed, np.random.SeedSequence):
        return seed
    if isinstance(seed, (bool, np.bool_)) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise InvalidInput(
            f"seed = {seed!r} is no seed; pass an integer >= 0 or a numpy.random.SeedSequence."
        )
    return np.random.SeedSequence(int(seed))


def random_generator(rng: Any) -> np.random.Generator:
    """`rng` itself, or the generator of a seed."""
    if isinstance(rng, np.random.Generator):
        return rng
    rng = int(rng) if isinstance(rng, np.integer) else rng
    if isinstance(rng, (int, np.random.SeedSequence)):
        return np.random.default_rng(seed_sequence(rng))
    raise InvalidInput(
        f"rng has type {type(rng).__name__}; pass numpy.random.default_rng(seed), or a seed."
    )


def child_seed(root: np.random.SeedSequence, key: int) -> np.random.SeedSequence:
    """The child of `root` with this key; unlike `spawn` it leaves no trace in `root`."""
    return np.random.SeedSequence(
        root.entropy, spawn_key=(*root.spawn_key, key), pool_size=root.pool_size
    )


def single_length(prompt_length: Any, minimum: int = 1) -> int:
    """One prompt length as an int of at least `minimum`."""
    if np.size(prompt_length) > 1:
        raise InvalidInput(
            f"prompt_length has shape {np.shape(prompt_length)}; a sample has one prompt length: pass "
            f"one integer and loop over the lengths, or hand the grid to numeric.sweep."
        )
    return integer(prompt_length, "prompt_length", minimum)


# -- the constant ------------------------------------------------------------------------------------


def _form(x: np.ndarray, matrix: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x_b' matrix y_b for every row b."""
    return np.einsum("bi,bi->b", x @ matrix, y)


def _require_consistent(whitened: list[np.ndarray], values: list[float]) -> None:
    dim = len(whitened[0])
    gap = sum(v * b for v, b in zip(values, whitened, strict=True)) - np.eye(dim)
    # Values and scores are floats: the sum is consistent up to the rounding of its largest term.
    size = sum(abs(v) * np.abs(b).max() for v, b in zip(values, whitened, strict=True)) + 1
    if np.abs(gap).max() > 1e-13 * dim * size:
        raise InvalidInput(
            f"the heads are not consistent: sum_h v_h A_h differs from Sigma^{{-1}} (by "
            f"{np.abs(gap).max():.3g} in whitened coordinates), so the risk does not vanish and no "
            f"1/n constant exists. Rescale the values."
        )


def _require_finite_variance(whitened: list[np.ndarray], values: list[float], heads: Heads) -> None:
    for h, first in enumerate(whitened):
        for other in range(h, len(whitened)):
            if values[h] * values[other] == 0:
                continue
            pair = first @ whitened[other].T
            bound = float(np.linalg.eigvalsh((pair + pair.T) / 2)[-1])
            if bound < 0.25 - 1e-12:
                continue
            if heads.scales is not None and h == other:
                where = f"t = k^2 = {bound:.6g} of head {h}"
            else:
                where = (
                    f"the largest eigenvalue {bound:.6g} of Sigma^(1/2) sym(A_{h} Sigma A_{other}') "
                    f"Sigma^(1/2)"
                )
            raise InfiniteVariance(
                f"{where} is not below 1/4, where the variance of the sampled constant becomes "
                f"infinite. Use the closed form icl.head_constant, or the quadrature "
                f"numeric.exact_risk at finite n."
            )
