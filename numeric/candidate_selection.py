"""What candidate answers of any model are worth: their mean, the best by a verifier, a softmax mean.

The candidates of a trained model, of another code, or of `numeric.run_chains`, on prompts whose
coefficients are known. Risks are per coordinate, |w - w*|^2/d. Exported: `select_candidates`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from numeric.arrays import finite, number, positive_integers
from numeric.chain_laws import cache_batches
from numeric.selection import RULES, SelectionSimulation, mean_errors, rank_weights


def select_candidates(
    candidates: Any,
    features: Any,
    labels: Any,
    coefficients: Any,
    samples: Any = None,
    *,
    rules: tuple[str, ...] = RULES,
    inverse_temperature: float | None = None,
) -> SelectionSimulation:
    """The risks of N of the candidates given for every prompt, averaged, selected or weighted.

    Parameters
    ----------
    candidates: w, (P, K, d), independent given the prompt: `finite.LinearSelfAttention.candidates`,
        `numeric.run_chains` or your own.
    features, labels, coefficients: X (P, n, d), y (P, n) and w* (P, d).
    samples: numbers N of 1 to K, an integer or a sequence; `None` is K.
    rules: "mean" averages; "prompt_loss" (|y - X w|^2/n) and "oracle" (|w - w*|^2) keep the best;
        "softmax_mean" averages with weights exp(-inverse_temperature |y - X w|^2/n).
    inverse_temperature: >= 0, for "softmax_mean" only.

    Every N uses all K candidates: means and bests of all subsets, softmax means of K // N groups. At
    least 2 prompts. Errors: `InvalidInput`. Source: order statistics, derived here.

    >>> import icltheory as icl
    >>> from numeric import run_chains
    >>> rng = np.random.default_rng(0)
    >>> X, w = rng.standard_normal((300, 20, 5)), rng.standard_normal((300, 5))
    >>> y = np.einsum("pnd,pd->pn", X, w)
    >>> answers = run_chains(X, y, icl.NoisyDecoding(0.5, 0.3, 4), chains=32)
    >>> found = select_candidates(answers, X, y, w, [1, 32])
    >>> [found.risk(rule).value.round(2).tolist() for rule in ("mean", "prompt_loss", "oracle")]
    [[0.21, 0.07], [0.21, 0.04], [0.21, 0.04]]
    """
    w, X = finite(candidates, "candidates"), finite(features, "features")
    y, truth = finite(labels, "labels"), finite(coefficients, "coefficients")
    if w.ndim != 3 or X.ndim != 3 or not w.size or not X.size:
        raise InvalidInput(
            f"candidates have shape {w.shape} and features {X.shape}; pass (P, K, d) and (P, n, d)."
        )
    (prompts, size, d), n = w.shape, X.shape[1]
    if X.shape != (prompts, n, d) or y.shape != (prompts, n) or truth.shape != (prompts, d):
        raise InvalidInput(
            f"candidates have shape {w.shape}, features {X.shape}, labels {y.shape} and coefficients "
            f"{truth.shape}; pass (P, K, d), (P, n, d), (P, n) and (P, d)."
        )
    if prompts < 2:
        raise InvalidInput("one prompt has no standard error; pass at least 2.")
    counts = np.atleast_1d(positive_integers(size if samples is None else samples, "samples"))
    if counts.ndim != 1 or counts.max() > size:
        raise InvalidInput(f"samples = {samples!r}: pass numbers of 1 to {size}, the candidates.")
    theta = _inverse_temperature(rules, inverse_temperature)
    weights = rank_weights(size, counts)
    errors = {rule: np.empty((prompts, len(counts))) for rule in rules}
    for part in cache_batches(prompts, size * max(n, d)):
        error = w[part] - truth[part, None]
        square = np.square(error).sum(axis=-1)
        left = y[part, None] - w[part] @ np.swapaxes(X[part], 1, 2)
        loss = np.square(left).sum(axis=-1) / n
        for rule, out in errors.items():
            if rule == "mean":
                out[part] = mean_errors(error, square, counts)
            elif rule == "softmax_mean":
                out[part] = _softmax_errors(error, theta * loss, counts)
            else:
                order = np.argsort(square if rule == "oracle" else loss, axis=1)
                out[part] = np.take_along_axis(square, order, axis=1) @ weights
    return SelectionSimulation(
        counts.astype(int), size, {rule: out / d for rule, out in errors.items()}
    )


def _inverse_temperature(rules: Any, value: Any) -> float:
    known = (*RULES, "softmax_mean")
    if isinstance(rules, str) or (unknown := [rule for rule in rules if rule not in known]):
        named = rules if isinstance(rules, str) else unknown[0]
        raise InvalidInput(f"rules contains {named!r}; pass a tuple of some of {known}.")
    if ("softmax_mean" in rules) != (value is not None):
        raise InvalidInput("inverse_temperature and the rule 'softmax_mean' belong together.")
    theta = 0.0 if value is None else number(value, "inverse_temperature")
    if theta < 0:
        raise InvalidInput(f"inverse_temperature = {theta:g} is negative; pass 0 or more.")
    return theta


def _softmax_errors(error: np.ndarray, exponent: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """|sum of softmax(-exponent) errors|^2, averaged over disjoint groups of N candidates, (p, M)."""
    p, size, d = error.shape
    out = np.empty((p, len(counts)))
    for column, count in enumerate(counts.astype(int)):
        groups = size // count
        look = exponent[:, : groups * count].reshape(p, groups, count)
        share = np.exp(look.min(axis=-1, keepdims=True) - look)
        share /= share.sum(axis=-1, keepdims=True)
        moved = error[:, : groups * count].reshape(p, groups, count, d)
        answer = np.einsum("pgk,pgkd->pgd", share, moved)
        out[:, column] = np.square(answer).sum(axis=-1).mean(axis=-1)
    return out
