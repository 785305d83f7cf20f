"""Sampled bits fed back: state evolution, its fixed points, and the iteration on real prompts.

Each step takes u = w - (eta/n) X'(X w - y) from the binary state w and draws the next state bit by bit
(or by a majority of several draws). With a fresh prompt at every step, or with the Onsager correction of
approximate message passing on one prompt, the share of wrong bits follows a scalar map. Sources: the map,
derived here; the correction, Donoho, Maleki, Montanari (0907.3574), Bayati, Montanari (1001.3448).
Exported: `state_evolution`, `feedback_fixed_point`, `simulate_feedback`, `FeedbackRun`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special

from icltheory.binary_priors import BinaryPrior, BinarySampler, require_prior
from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import (
    broadcast,
    finite,
    integer,
    number,
    positive_integers,
    require_memory,
)
from numeric.binary_samplers import BitLaw, bit_law, prior_numbers, vote_error
from numeric.chain_laws import require_walkable
from numeric.chain_prompts import PromptAverage, prompt_blocks
from numeric.decoding_display import Tabled, merged_rows
from numeric.montecarlo import Seed
from numeric.progress import progress_bar

MODES = ("fresh", "same", "amp")
FEEDBACK_STARTS = ("zero", "random")
_GRID = 4000  # points of the scan for fixed points
_SMALLEST = 1e-14


def state_evolution(
    prior: BinaryPrior,
    sampler: BinarySampler,
    n_over_d: Any,
    steps: int,
    *,
    start_error: Any = 0.5,
    step_size: Any = 1.0,
    label_noise_ratio: Any = 0.0,
    samples: Any = 1,
    temperature: Any = None,
) -> np.ndarray:
    """Shares of wrong bits rho_0, ..., rho_steps for n, d -> infinity, shape (steps + 1, ...).

    Parameters
    ----------
    prior: its gap counts: 1 for bits, 2 for signs. Cuts are at the middle of the two values.
    n_over_d: alpha = n/d > 0, one over the gamma of `icl.state_evolution_map`.
    start_error: rho_0 in [0, 1]; from w_0 = 0 it is the share of ones for bits, and 1/4 stands for w_0 = 0
        with signs (step_size 1).
    step_size: eta > 0. label_noise_ratio: sigma_y^2/n >= 0. samples: the next state is a majority of so
        many draws. temperature: replaces that of the sampler. All arrays broadcast.

    With omega^2 = gap^2 rho/alpha + sigma_y^2/n the next rho is (1 - rho) of the error at margin
    gap/2, plus rho of that at gap/2 - (1 - eta) gap, noise eta omega. Exact for the first step, for a
    fresh prompt at every step, and with the Onsager term; on one prompt without it the map fails
    after the first step. Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> state_evolution(icl.Bits(), icl.Round(), 1.2, 3).round(10)[1:]
    array([0.21928901, 0.12107295, 0.05773018])
    """
    values = {
        "n_over_d": n_over_d,
        "start_error": start_error,
        "step_size": step_size,
        "label_noise_ratio": label_noise_ratio,
        "samples": samples,
    }
    rho, step = _map(prior, sampler, values, temperature)
    count, out = integer(steps, "steps", 0), [rho]
    require_memory(count * rho.size, f"steps = {count}")
    require_walkable(count)
    for _ in range(count):
        out.append(step(out[-1]))
    return np.stack(out)


def _map(
    prior: BinaryPrior, sampler: BinarySampler, values: dict[str, Any], temperature: Any = None
) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """rho_0 and the map of rho, with the checked arguments of `state_evolution`."""
    gap = float(require_prior(prior).gap)
    law = bit_law(sampler, gap, temperature)
    arrays = {name: finite(value, name) for name, value in values.items()}
    positive_integers(arrays["samples"], "samples")
    alpha, rho, eta, noise, votes, _ = broadcast(**arrays, temperature=law.temperature)
    if np.any(alpha <= 0) or np.any(eta <= 0) or np.any(noise < 0):
        raise InvalidInput("n_over_d and step_size must be positive, label_noise_ratio at least 0.")
    if np.any((rho < 0) | (rho > 1)):
        raise InvalidInput("start_error must lie between 0 and 1.")

    def step(error: np.ndarray) -> np.ndarray:
        std = eta * np.sqrt(gap**2 * error / alpha + noise)
        right = np.asarray(vote_error(gap / 2, std, law, votes))
        if np.all(eta == 1):
            return right
        wrong = vote_error(gap / 2 - (1 - eta) * gap, std, law, votes)
        return (1 - error) * right + error * wrong

    return rho, step


def feedback_fixed_point(
    prior: BinaryPrior,
    sampler: BinarySampler,
    n_over_d: float,
    *,
    start_error: float = 0.5,
    step_size: float = 1.0,
    label_noise_ratio: float = 0.0,
    samples: int = 1,
) -> float:
    """Where state evolution ends: the fixed point that rho_0 = start_error is attracted to, maybe 0.

    The first sign change of map(rho) - rho on a fine grid in the direction of the first step, refined
    by bisection. Arguments as for `state_evolution`, numbers. Errors: `InvalidInput`.
    Source: derived here.

    >>> import icltheory as icl
    >>> round(feedback_fixed_point(icl.Bits(), icl.Clip(), 0.5), 10)
    0.2606959667
    >>> [round(feedback_fixed_point(icl.Bits(), icl.Round(), a), 4) for a in (0.7, 0.6)]
    [0.0, 0.1819]
    """
    scalars = {
        "n_over_d": n_over_d,
        "start_error": start_error,
        "step_size": step_size,
        "label_noise_ratio": label_noise_ratio,
        "samples": samples,
    }
    first, step = _map(prior, sampler, {k: number(value, k) for k, value in scalars.items()})

    def excess(error: Any) -> np.ndarray:
        return step(np.asarray(error)) - error

    start = float(first)
    direction = float(excess(start))
    if direction == 0:
        return start
    if direction > 0:
        grid = start + (1 - start) * np.linspace(0, 1, _GRID)
    else:
        grid = np.append(np.geomspace(start, _SMALLEST, _GRID), 0.0)
    turned = np.flatnonzero(np.sign(excess(grid)) != np.sign(direction))
    if not len(turned):
        return float(grid[-1])
    before, after = (float(x) for x in grid[turned[0] - 1 : turned[0] + 1])
    if excess(after) == 0:
        return after
    return float(optimize.brentq(lambda x: float(excess(x)), before, after, xtol=1e-16, rtol=1e-14))


# -- the iteration on prompts -------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class FeedbackRun(Tabled):
    """Averages over prompts for steps 0, ..., steps: share of wrong bits, and all bits right."""

    error: PromptAverage
    recovered: PromptAverage

    def _table(self) -> tuple[list[str], list[list[str]]]:
        steps = [str(t) for t in range(len(self.error.value))]
        columns = {"wrong bits": self.error, "all bits right": self.recovered}
        return merged_rows(("step", steps), columns)


def simulate_feedback(
    prior: BinaryPrior,
    sampler: BinarySampler,
    n: int,
    d: int,
    steps: int,
    *,
    mode: str = "same",
    start: str = "random",
    step_size: float = 1.0,
    label_noise_var: float = 0.0,
    samples: int = 1,
    prompts: int = 100,
    seed: Seed = 0,
) -> FeedbackRun:
    """Sampled bits fed back for `steps` steps on real prompts.

    Parameters
    ----------
    mode: "fresh" draws new examples at every step, "same" keeps the prompt, "amp" keeps it and adds the
        Onsager term z_{s-1} mean of the sampler's slope times d/n (step_size 1; no rounding, whose
        slope is no function: use `icl.Probit` with a small temperature).
    start: "random" (independent fair coordinates: rho_0 = 1/2) or "zero" (w_0 = 0).
    samples: the next state is a majority of so many draws. Other arguments as for `state_evolution`.

    Recovery and error count w_s; with start="zero" and signs the error of w_0 counts 1/4. Memory is
    bounded. Ctrl-C raises `Interrupted` with the run of the finished prompts in `partial`. Errors: `InvalidInput`, `OutOfDomain`.

    >>> import icltheory as icl
    >>> run = simulate_feedback(icl.Bits(), icl.Probit(0.1), 400, 200, 4, mode="amp", prompts=20)
    >>> run.error.value.round(2)
    array([0.51, 0.16, 0.05, 0.01, 0.  ])
    """
    law, length = prior_numbers(prior, d), integer(n, "n")
    count, eta = integer(steps, "steps", 0), number(step_size, "step_size")
    require_walkable(count)
    half = math.ceil(integer(samples, "samples") / 2)
    bits, noise = bit_law(sampler, law.gap), number(label_noise_var, "label_noise_var")
    for name, value, options in (("mode", mode, MODES), ("start", start, FEEDBACK_STARTS)):
        if value not in options:
            raise InvalidInput(f"{name} = {value!r} is not one of {', '.join(options)}.")
    if eta <= 0 or noise < 0:
        raise InvalidInput("step_size must be positive and label_noise_var at least 0.")
    if bits.temperature.ndim:
        raise InvalidInput("simulate_feedback takes one temperature.")
    stepped = bits.kind == "round" or (bits.kind != "clip" and bits.temperature == 0)
    if mode == "amp" and (stepped or eta != 1):
        raise OutOfDomain(
            "the Onsager term needs step_size = 1 and a sampler with a slope; use icl.Probit(0.05) "
            "in place of rounding."
        )

    def draw(u: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        chance = special.betainc(half, half, bits.chance(u - law.centre))
        return law.low + law.gap * (rng.random(u.shape) < chance)

    def states(
        X: np.ndarray, w_true: np.ndarray, eps: np.ndarray, rng: np.random.Generator
    ) -> Iterator[np.ndarray]:
        w = np.zeros(w_true.shape)
        if start == "random":
            w = law.low + law.gap * (rng.random(w_true.shape) < 0.5)
        residual, onsager = np.zeros(eps.shape), np.zeros((len(X), 1))
        yield w
        for step in range(count):
            if mode == "fresh" and step:
                X = rng.standard_normal(X.shape)
                eps = math.sqrt(noise) * rng.standard_normal(eps.shape)
            z = np.einsum("bnd,bd->bn", X, w_true - w) + eps
            if mode == "amp":
                z = z + onsager * residual
            u = w + eta / length * np.einsum("bnd,bn->bd", X, z)
            residual = z
            if mode == "amp":
                slope = vote_slope(bits, u - law.centre, half)
                onsager = law.gap * slope.sum(axis=1, keepdims=True) / length
            w = draw(u, rng)
            yield w

    errors: list[np.ndarray] = []
    recovered: list[np.ndarray] = []

    def finished() -> FeedbackRun:
        # A stop between the two lists leaves them of different lengths.
        parts = list(zip(errors, recovered, strict=False))
        return FeedbackRun(*(PromptAverage(np.concatenate(x)) for x in zip(*parts, strict=True)))

    def partial() -> FeedbackRun | None:
        return finished() if sum(map(len, recovered)) > 1 else None

    total = integer(prompts, "prompts", 2)
    options = {"partial": partial, "unit": " prompts"}
    with progress_bar(total, 0, None, "feedback", **options) as bar:
        for block in prompt_blocks(length, law.d, total, noise, None, prior, seed):
            gaps = np.abs(np.stack([*states(*block)], axis=1) - block[1][:, None]) / law.gap
            errors.append(np.square(gaps).mean(axis=2))
            recovered.append(1.0 * np.all(gaps == 0, axis=2))
            bar.update(len(gaps))
    return finished()


def vote_slope(law: BitLaw, v: np.ndarray, half: int) -> np.ndarray:
    """Derivative of P(a majority of 2 half - 1 draws is high) in the margin v."""
    if half == 1:
        return law.slope(v)
    unit = law.gap if law.kind == "clip" else float(law.temperature)
    return np.exp(law.vote_log_density(v / unit, np.asarray(float(half)))) / unit
