"""Chains of thought with injected noise on real prompts: w <- w - eta (S w - b) + sigma xi, w_0 = 0.

S = X'X/n and b = X'y/n. Two ways of the same law: the recursion itself, batched over prompts and chains, and
one Gaussian draw of the last state in the eigenbasis of S (`numeric.chain_law`). Risks are per coordinate,
|w - w*|^2/d with E w*w*' = I: the total risk of the rest of the toolkit with coefficients N(0, I/d) and
noise_var = sigma_y^2/d. Source: derived here. Exported: `run_chains`, `simulate_chains`, `ChainSimulation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.chains import NoisyDecoding
from icltheory.errors import InvalidInput
from numeric.arrays import finite, integer, require_memory
from numeric.chain_laws import (
    DecodingNumbers,
    cache_batches,
    chain_law,
    decoding_numbers,
    diverged,
    require_walkable,
    sample_counts,
    single_step,
    step_counts,
)
from numeric.chain_prompts import PromptAverage, covariance_root, project, prompt_blocks
from numeric.decoding_display import Tabled, merged_rows
from numeric.montecarlo import Seed, seed_sequence
from numeric.progress import progress_bar

# -- the recursion ---------------------------------------------------------------------------------


def run_chains(
    features: Any,
    labels: Any,
    decoding: NoisyDecoding,
    *,
    chains: int | None = None,
    seed: Seed = 0,
) -> np.ndarray:
    """The states w_t of independent chains on given prompts, by the recursion, (P, chains, d).

    Parameters
    ----------
    features, labels: X (P, n, d) and y (P, n).
    chains: chains a prompt; `None` is `decoding.samples`.

    Errors: `InvalidInput`; `OutOfDomain` where a diverging chain leaves the range of float64.

    >>> import icltheory as icl
    >>> X = np.array([[[2.0], [0.0]]])  # S = 2
    >>> run_chains(X, [[4.0, 0.0]], icl.NoisyDecoding(0.25, 0, 3), chains=2).ravel()  # 2 (1 - 1/2^3)
    array([1.75, 1.75])
    """
    spec = decoding_numbers(decoding)
    X, y = finite(features, "features"), finite(labels, "labels")
    if X.ndim != 3 or y.shape != X.shape[:2] or X.size == 0:
        raise InvalidInput(
            f"features have shape {X.shape} and labels {y.shape}; pass (P, n, d) and (P, n)."
        )
    count = spec.samples if chains is None else integer(chains, "chains")
    prompts, n, d = X.shape
    gram = np.swapaxes(X, 1, 2) @ X / n
    moment = np.einsum("pnd,pn->pd", X, y) / n
    rng = np.random.default_rng(seed_sequence(seed))
    require_memory(prompts * count * d, f"chains = {count} on {prompts} prompts")
    out = np.empty((prompts, count, d))
    with np.errstate(over="ignore", invalid="ignore"):
        for part in cache_batches(prompts, count * d):
            for _, states in _recursion(gram[part], moment[part], spec, count, (spec.steps,), rng):
                out[part] = states
    if not np.all(np.isfinite(out)):
        raise diverged(spec.steps, spec.step_size)
    return out


def _recursion(
    gram: np.ndarray,
    moment: np.ndarray,
    spec: DecodingNumbers,
    chains: int,
    at: tuple[int, ...],
    rng: np.random.Generator,
) -> Iterator[tuple[int, np.ndarray]]:
    """(index, states (p, chains, d)) after the steps of `at`, which increase; states are reused."""
    require_walkable(at[-1])
    p, d = moment.shape
    matrix = np.eye(d) - spec.step_size * gram
    drift = spec.step_size * moment[:, None, :]
    states, spare, noise = (np.zeros((p, chains, d)) for _ in range(3))
    place = 0
    for step in range(at[-1] + 1):
        while place < len(at) and at[place] == step:
            if spec.output_only and step:  # w_0 = 0 is no thought
                rng.standard_normal(out=noise)
                yield place, states + spec.output_std * noise
            else:
                yield place, states
            place += 1
        if step == at[-1]:
            break
        np.matmul(states, matrix, out=spare)
        spare += drift
        scale = spec.output_std * spec.factor(step)
        if scale:
            rng.standard_normal(out=noise)
            noise *= scale
            spare += noise
        states, spare = spare, states


# -- simulation --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class ChainSimulation(Tabled):
    """Simulated chains on P prompts at the numbers of steps `steps`; one prompt is one unit.

    one: |w - w*|^2/d, its mean over the chains of a prompt, (P, T). mean: |w - w*|^2/d of the mean of
    the chains, (P, T). loss: |y - X w|^2/n, total, its mean over chains, (P, T). chains: a prompt.
    For one number of steps that is no sequence the axis T is not there: `float(run.risk().value)`.
    """

    one: np.ndarray
    mean: np.ndarray
    loss: np.ndarray
    steps: np.ndarray
    chains: int
    samples: int

    def _table(self) -> tuple[list[str], list[list[str]]]:
        parts = {
            "risk of one chain": self.one,
            f"of the mean of {self.chains}": self.mean,
            "prompt loss": self.loss,
        }
        columns = {name: PromptAverage(x.reshape(len(x), -1)) for name, x in parts.items()}
        return merged_rows(("thoughts", [str(t) for t in np.atleast_1d(self.steps)]), columns)

    def risk(self, samples: Any = None) -> PromptAverage:
        """Risk per coordinate of the mean of N chains, averages of shape (T,) + that of `samples`.

        Every N is estimated without bias from the same chains, N above `chains` and infinity too:
        E |mean of N|^2 = one/N + (1 - 1/N) cross, where cross averages e_i.e_k over pairs of chains.
        `None` is `decoding.samples`.
        """
        counts = sample_counts(self.samples if samples is None else samples)
        if self.chains == 1:
            if np.any(counts > 1):
                raise InvalidInput(
                    "one chain a prompt says nothing about means of more; simulate chains=2 or more."
                )
            cross = self.one
        else:
            cross = (self.chains * self.mean - self.one) / (self.chains - 1)
        parts = np.multiply.outer(self.one, 1 / counts), np.multiply.outer(cross, 1 - 1 / counts)
        return PromptAverage(parts[0] + parts[1])

    def prompt_loss(self) -> PromptAverage:
        """E |y - X w|^2/n of one chain, total; averages of shape (T,)."""
        return PromptAverage(self.loss)


def simulate_chains(
    decoding: NoisyDecoding,
    n: int,
    d: int,
    *,
    prompts: int = 1000,
    chains: int | None = None,
    at: Any = None,
    method: str = "eigenbasis",
    norm: str = "euclidean",
    feature_cov: Any = None,
    prior: Any = None,
    seed: Seed = 0,
) -> ChainSimulation:
    """Simulate `chains` chains on each of `prompts` prompts, at one or many numbers of steps.

    Parameters
    ----------
    decoding: an `icl.NoisyDecoding` with numbers; its label noise is that of the prompts.
    n, d: prompt length and dimension, integers >= 1.
    prompts: at least 2. chains: a prompt; `None` is `decoding.samples`.
    at: a number of steps to report, or several that increase; `None` is `decoding.steps`.
    method: "recursion" runs every step of every chain, at all of `at` along the same chains;
        "eigenbasis" draws the end of every chain from its law, with one z for all of `at`.
    norm: "euclidean", |w - w*|^2/d, or "prediction", E_x (w.x - w*.x)^2/d; one for feature_cov = I.
    feature_cov, prior: as in `numeric.decoding_prompts`.
    seed: the prompts depend on it and on n, d, feature_cov and prior only: results with one seed are
        on common prompts, and `a.risk() - b.risk()` is their paired difference.

    Memory is bounded by one prompt's chains or a few megabytes. Ctrl-C raises `numeric.Interrupted`,
    whose `partial` has the prompts that are finished. Errors: `InvalidInput`, `OutOfDomain`.

    >>> import icltheory as icl
    >>> decoding = icl.NoisyDecoding(0.5, 0.3, 3, samples=8, label_noise_var=2.25)
    >>> risk = simulate_chains(decoding, 20, 10, prompts=2000, seed=1).risk()
    >>> bool(abs(risk.value - 0.2517119922) < 5 * risk.standard_error)  # `decoding.risk(20, 10)`
    True
    """
    spec = decoding_numbers(decoding)
    n, d = integer(n, "n"), integer(d, "d")
    total = integer(prompts, "prompts", 2)
    count = spec.samples if chains is None else integer(chains, "chains")
    counts = step_counts(spec, at)
    if method not in ("eigenbasis", "recursion"):
        raise InvalidInput(f"method = {method!r} is unknown; pass 'eigenbasis' or 'recursion'.")
    if norm not in ("euclidean", "prediction"):
        raise InvalidInput(f"norm = {norm!r} is unknown; pass 'euclidean' or 'prediction'.")
    root = covariance_root(feature_cov, d)
    measure = root if norm == "prediction" else None
    require_memory(total * max(d, len(counts)), f"prompts = {total}")
    one, mean, loss = (np.empty((total, len(counts))) for _ in range(3))
    visit = _by_recursion if method == "recursion" else _by_law
    start = 0

    def simulated(done: int) -> ChainSimulation:
        place = 0 if single_step(at) else slice(None)
        errors = one[:done, place], mean[:done, place]
        shown = np.asarray(np.array(counts)[place])
        return ChainSimulation(*errors, loss[:done, place], shown, count, spec.samples)

    def finished() -> ChainSimulation | None:
        return simulated(start) if start > 1 else None

    blocks = prompt_blocks(n, d, total, spec.label_noise_var, root, prior, seed)
    with progress_bar(total, 0, None, "chains", partial=finished, unit=" prompts") as bar:
        for X, w, eps, rng in blocks:
            steps = visit(decoding, X, w, eps, rng, counts, count, measure)
            for place, part, errors, losses in steps:
                rows = slice(start + part.start, start + part.stop)
                one[rows, place] = np.einsum("pkd,pkd->p", errors, errors) / (count * d)
                mean[rows, place] = np.square(errors.mean(axis=1)).sum(axis=-1) / d
                loss[rows, place] = losses
            start += len(X)
            bar.update(len(X))
    if not np.all(np.isfinite(one)):
        raise diverged(counts[-1], spec.step_size)
    return simulated(total)


_Visit = Iterator[tuple[int, slice, np.ndarray, np.ndarray]]


def _by_recursion(
    decoding: NoisyDecoding,
    X: np.ndarray,
    w: np.ndarray,
    eps: np.ndarray,
    rng: np.random.Generator,
    at: tuple[int, ...],
    chains: int,
    measure: np.ndarray | None,
) -> _Visit:
    """(place in `at`, prompts, errors (p, chains, d), mean prompt loss (p,)) of the recursion."""
    spec, n = decoding_numbers(decoding), X.shape[1]
    y = np.einsum("pnd,pd->pn", X, w) + eps
    gram = np.swapaxes(X, 1, 2) @ X / n
    moment = np.einsum("pnd,pn->pd", X, y) / n
    squares = np.square(y).sum(axis=1) / n
    with np.errstate(over="ignore", invalid="ignore"):
        for part in cache_batches(len(X), chains * w.shape[1]):
            for place, states in _recursion(gram[part], moment[part], spec, chains, at, rng):
                if n <= w.shape[1]:
                    residual = y[part, None] - states @ np.swapaxes(X[part], 1, 2)
                    losses = np.einsum("pkn,pkn->p", residual, residual) / (n * chains)
                else:
                    form = states @ gram[part] - 2 * moment[part, None]
                    losses = np.einsum("pkd,pkd->p", form, states) / chains + squares[part]
                errors = states - w[part, None]
                yield place, part, errors if measure is None else errors @ measure, losses


def _by_law(
    decoding: NoisyDecoding,
    X: np.ndarray,
    w: np.ndarray,
    eps: np.ndarray,
    rng: np.random.Generator,
    at: tuple[int, ...],
    chains: int,
    measure: np.ndarray | None,
) -> _Visit:
    """The same from the law of the last state."""
    noise_var = decoding_numbers(decoding).label_noise_var
    prompts, vectors = project(X, w, eps, noise_var)
    law = chain_law(prompts, decoding, steps=np.array(at))
    for part in cache_batches(len(X), chains * w.shape[1]):
        z = rng.standard_normal((part.stop - part.start, chains, w.shape[1]))
        for place in range(len(at)):
            moved = law.centre[place, part, None] + law.spread[place, part, None] * z
            values = prompts.eigenvalues[part]
            losses = np.einsum("pkd,pkd,pd->p", moved, moved, values) / chains
            errors = moved + prompts.overfit[part, None]
            if measure is not None:
                errors = errors @ (np.swapaxes(vectors[part], 1, 2) @ measure)
            yield place, part, errors, losses + prompts.floor[part]
