"""Which solver does a model run? Layer by layer, against families of solvers and without them.

The similarity to every step of every family, with ties, intervals and censoring; the effective
filter, which presupposes no family; a test whether the model is linear in the query at all; and a
verdict that says what these cannot decide. Source: derived here. Exported:
`identify`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.task import LinearRegression
from numeric.arrays import TaskArrays, positive_integers, task_arrays
from numeric.best_step import best_match
from numeric.eigenbasis import PromptSpectra, prompt_spectra
from numeric.families import Family, Variant, best_variant, given_families, solver_families
from numeric.filter_estimate import effective_filter
from numeric.finite.identification import FamilyMatch, Identification, Layers
from numeric.finite.layer_readers import reader_of
from numeric.finite.verdict import Standing, remaining, verdict
from numeric.model_weights import off_span
from numeric.montecarlo import Seed, child_seed, seed_sequence
from numeric.progress import progress_bar
from numeric.similarity import Similarity, similarity_of_errors
from numeric.solvers import run_solvers

_BRANCH = 2**32 - 2  # of the seed: no training, fit of read-outs or prompt length has this key
_READOUTS = ("fitted", "own")
_FIT_PROMPTS, _FIT_PREFIXES = 32, 5  # for the parameters of the families
_SIGMAS = 5.0  # by which an informative layer is better than zero
_EQUAL = 1e-9


def identify(
    model: Any,
    task: LinearRegression,
    prompt_length: int,
    *,
    prompts: int = 200,
    seed: Seed = 0,
    families: Any = None,
    prefixes: Any = None,
    readout: str | None = None,
    normalize: bool = False,
    filter_prefix: int | None = None,
    bins: int = 8,
    bootstrap: int = 1000,
    progress: bool | None = None,
) -> Identification:
    """Hold every layer of a model against families of solvers.

    Parameters
    ----------
    model: `finite.SequenceModel` (`finite.EmbeddingModel` wraps GPT-2 style ones, `finite.QueryModel`
        those with other tokens), looked at layer by layer; or a callable (X (B, n, d), y (B, n),
        query (B, d)) -> (B,) as in `numeric.validate`, which counts as one layer. In evaluation mode.
    task, prompt_length: what the model was trained on; features N(0, Sigma), any coefficients.
    prompts: evaluated on, at least 20. seed: of everything that is drawn.
    families: mapping of names to (solver, steps) in place of `numeric.families.solver_families`:
        gradient descent, Newton from S and from the identity, conjugate gradients, Chebyshev, GD++,
        ridge, online descent. Step size and scales are rules of the spectrum or fitted.
    prefixes: numbers of examples, increasing; `None` is 1, ..., prompt_length (for a callable with
        an attribute `prompt_length`, that one). Steps of the families are on S = X'X: a step size for
        the mean over examples, X'X/n, is another step on S at every prefix, and recognised as descent
        at one of them: pass prefixes=[prompt_length] (and readout="own" if layers have that read-out).
    readout: "fitted" reads layers before the last by regularised least squares on their hidden
        states, on other prompts; "own" by the model's own read-out, which is right where it turns the
        state of every layer into a prediction, as for an iteration that carries its prediction along
        or a model trained with a loss at every layer. `None` is "own" for models of this package
        that are made so and for states of one number, else "fitted". The last layer is always read by the model itself.
    normalize: whether fitted read-outs see normalised states.
    filter_prefix: examples for the effective filter, one of the prefixes; `None` is near 3 d/2, where
        small eigenvalues exist and all directions are seen. bins: of its eigenvalues.
    bootstrap: resampled sets of prompts for intervals and standard errors.
    progress: True or False for the bar; `None` shows it on a terminal and in a notebook. A part of the
        comparison decides nothing, so Ctrl-C leaves no result.

    Errors: `InvalidInput` for a model that returns another shape or NaN, is not deterministic, or
    reads other tokens, and for sizes that it cannot take.

    >>> from numeric.finite.solver_models import SolverModel
    >>> model = SolverModel(icl.IterativeNewton(1 / icl.symbols.frobenius), dim=3, layers=3)
    >>> found = identify(model, icl.LinearRegression(dim=3), 6, prompts=40, bootstrap=100)
    >>> found.solver, found.steps
    ('Newton from S', array([1., 2., 3.]))
    """
    arrays = task_arrays(task, ("coef_mean",))
    length, size, draws, bars = (
        int(positive_integers(np.asarray(value), name, least).item())
        for value, name, least in (
            (prompt_length, "prompt_length", 1),
            (prompts, "prompts", 20),
            (bootstrap, "bootstrap", 100),
            (bins, "bins", 2),
        )
    )
    if readout is not None and readout not in _READOUTS:
        raise InvalidInput(f"readout = {readout!r} is not one of {', '.join(_READOUTS)}.")
    if (dim := getattr(model, "dim", arrays.dim)) != arrays.dim:
        raise InvalidInput(f"the task has dim = {arrays.dim}, the model {dim}.")
    counts = _prefixes(prefixes, getattr(model, "prompt_length", None), length)
    at = _filter_prefix(filter_prefix, counts, arrays.dim)
    known = None if families is None else given_families(families)
    root = child_seed(seed_sequence(seed), _BRANCH)
    reader = reader_of(model, task, length, readout, normalize, seed)

    X, y, coefficients = _draw(arrays, length + 1, size, child_seed(root, 0))
    predictions = reader.predictions(X, y, counts)
    weights, r_squared = reader.weights(X, y, counts, arrays, child_seed(root, 1))
    spectra = prompt_spectra(X, y, counts)
    if known is None:
        variance = float(np.trace(arrays.feature_cov)) / arrays.dim
        signal = float(np.trace(arrays.coef_moment)) / arrays.dim
        penalty = arrays.noise_var / signal
        known = solver_families(arrays.dim, length, feature_var=variance, penalty=penalty)
    measured = _Measured(X, y, coefficients, counts, predictions, weights, spectra)
    layers = measured.layers(r_squared, arrays.feature_root)

    place = int(np.flatnonzero(counts == at)[0])
    own = effective_filter(
        X[:, :at], weights[:, place], coefficients, bins=min(bars, size * min(at, arrays.dim) // 20)
    )
    with_errors = len(counts) > 1 and (arrays.noise_var > 0 or counts[0] < arrays.dim)
    options = {"bootstrap": draws, "seed": child_seed(root, 2)}
    compared = []
    with progress_bar(len(known), 0, progress, "identify", unit=" families") as bar:
        for family in known:
            informative = ~layers.uninformative
            compared.append(_Compared.of(measured, family, informative, with_errors, options))
            bar.update()
    layers = replace(
        layers,
        half_point=own.half_point,
        leakage=own.leakage,
        converged=measured.converged(compared) & ~layers.uninformative,
    )
    measures = ("weights", "errors") if with_errors else ("weights",)
    last = np.arange(len(layers)) == len(layers) - 1
    standings, output = (
        tuple(_standing(measure, compared, used, options) for measure in measures)
        for used in (layers.deciding, last)
    )
    matches = tuple(c.match(X[:, :at], place, own.edges, coefficients) for c in compared)
    return Identification(
        getattr(model, "__name__", type(model).__name__),
        length,
        counts,
        size,
        reader.description,
        layers,
        matches,
        own,
        at,
        standings,
        verdict(
            layers,
            matches,
            standings,
            output,
            counts,
            fitted=reader.fitted,
            scalar=reader.fitted and reader.is_scalar,
        ),
    )


# -- arguments -----------------------------------------------------------------------------------------


def _prefixes(prefixes: Any, only: Any, length: int) -> np.ndarray:
    """The numbers of examples, increasing; `only` is the length that the model takes, if it has one."""
    if only is not None:
        if prefixes is not None or length != only:
            raise InvalidInput(
                f"the model takes prompts of {only} examples; pass prompt_length={only} and leave "
                f"prefixes out."
            )
        return np.array([length])
    if prefixes is None:
        return np.arange(1, length + 1)
    counts = np.atleast_1d(positive_integers(prefixes, "prefixes")).astype(int)
    if counts.ndim != 1 or counts.max() > length or np.any(np.diff(counts) <= 0):
        raise InvalidInput(
            f"prefixes must be increasing integers from 1 to prompt_length = {length}."
        )
    return counts


def _filter_prefix(given: Any, counts: np.ndarray, dim: int) -> int:
    if given is None:
        return int(counts[np.argmin(np.abs(counts - 1.5 * dim))])
    at = int(positive_integers(np.asarray(given), "filter_prefix").item())
    if at not in counts:
        raise InvalidInput(f"filter_prefix = {at} is not among the prefixes {counts.tolist()}.")
    return at


def _draw(
    arrays: TaskArrays, points: int, size: int, seed: np.random.SeedSequence
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (B, N, d), noisy labels y (B, N) and the coefficients behind them (B, d)."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((size, points, arrays.dim)) @ arrays.feature_root
    coefficients = rng.standard_normal((size, arrays.dim)) @ arrays.coef_root + arrays.coef_mean
    noise = math.sqrt(arrays.noise_var) * rng.standard_normal((size, points))
    return X, np.einsum("bnd,bd->bn", X, coefficients) + noise, coefficients


# -- comparing -----------------------------------------------------------------------------------------


class _Measured:
    """Errors and weights of all layers on the same prompts."""

    def __init__(
        self,
        X: np.ndarray,
        y: np.ndarray,
        coefficients: np.ndarray,
        counts: np.ndarray,
        predictions: np.ndarray,
        weights: np.ndarray,
        spectra: PromptSpectra,
    ) -> None:
        self.X, self.y, self.counts, self.weights, self.spectra = X, y, counts, weights, spectra
        self.following, self.labels = X[:, counts], y[:, counts]
        self.coefficients = coefficients
        self.target = np.einsum("bpd,bd->bp", self.following, coefficients)
        self.predictions = np.moveaxis(predictions, 0, 2)  # (B, P, L)
        self.directions = _units(weights)
        self.to_least_squares = self.cosines(
            run_solvers(X, y, icl.OrdinaryLeastSquares(), prefixes=counts, spectra=spectra).weights
        )[..., 0]

    def cosines(self, weights: np.ndarray) -> np.ndarray:
        """Similarity of weights with K learners, prompt by prompt, (B, L, K); 0 for no weights."""
        directions = _units(weights)
        return np.einsum("bpld,bpkd->blk", self.directions, directions, optimize=True) / len(
            self.counts
        )

    def errors(self, weights: np.ndarray) -> np.ndarray:
        """Errors of K learners, (B, P, K)."""
        return np.einsum("bpkd,bpd->bpk", weights, self.following) - self.labels[..., None]

    def layers(self, r_squared: np.ndarray, root: np.ndarray) -> Layers:
        """Risks and checks of every layer; the effective filter and what has converged are open."""
        size = len(self.X)
        squares = (self.predictions - self.target[..., None]) ** 2
        # Given the prompt, the weights have the risk |(w - w_*) Sigma^{1/2}|^2, without the scatter of
        # a single query.
        truth = (self.coefficients @ root)[:, None, None]
        left = ((self.weights @ root - truth) ** 2).sum(axis=-1)
        gain = ((truth**2).sum(axis=-1) - left).mean(axis=1)
        error = gain.std(axis=0, ddof=1) / math.sqrt(size)
        short = self.counts < self.X.shape[2]
        count = squares.shape[2]
        outside = np.full(count, math.nan)
        if short.any():
            for i in range(count):
                shares = off_span(self.X, self.weights[:, short, i], self.counts[short])
                outside[i] = shares.mean()
        return Layers(
            squares.mean(axis=0).T,
            squares.std(axis=0, ddof=1).T / math.sqrt(size),
            (self.target**2).mean(axis=0),
            r_squared,
            outside,
            np.full(count, math.nan),
            np.full(count, math.nan),
            self.to_least_squares.mean(axis=0),
            gain.mean(axis=0) <= _SIGMAS * error,
            np.zeros(count, dtype=bool),
        )

    def converged(self, compared: Sequence[_Compared]) -> np.ndarray:
        """Whether least squares is as similar to a layer as its best family, (L,)."""
        best = np.argmax([c.cosines.mean(axis=0) for c in compared], axis=0)
        top = np.stack([compared[f].cosines[:, i] for i, f in enumerate(best)], axis=1)
        gap = top - self.to_least_squares
        error = gap.std(axis=0, ddof=1) / math.sqrt(len(gap))
        return gap.mean(axis=0) <= np.maximum(error, _EQUAL)


class _Compared:
    """A family at its best steps: similarities prompt by prompt (B, L), and what they are of."""

    def __init__(
        self,
        family: Family,
        variant: Variant,
        by_weights: Any,
        by_errors: Any,
        weights: np.ndarray,
        errors: np.ndarray | None,
        cosines: np.ndarray,
        error_cosines: np.ndarray | None,
    ) -> None:
        self.family, self.variant = family, variant
        self.by_weights, self.by_errors = by_weights, by_errors
        self.weights, self.errors = weights, errors
        self.cosines, self.error_cosines = cosines, error_cosines

    @staticmethod
    def of(
        measured: _Measured,
        family: Family,
        used: np.ndarray,
        with_errors: bool,
        options: dict[str, Any],
    ) -> _Compared:
        """Choose the parametrisation, and match the steps."""
        variant = _nearest(family, measured, used)
        weights = variant.weights(measured.X, measured.y, measured.spectra)
        cosines = measured.cosines(weights)
        layers = np.arange(cosines.shape[1])

        def matched(cosines: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray]:
            similarity = Similarity(cosines, measured.counts, cosines.dtype)
            match = best_match(similarity, variant.grid, **options)
            columns = np.searchsorted(variant.grid, match.best)
            return match, columns, cosines[:, layers, columns]

        by_weights, columns, best = matched(cosines)
        kept = weights[:, :, columns]
        if not with_errors:
            return _Compared(family, variant, by_weights, None, kept, None, best, None)
        errors = measured.errors(weights)
        own = measured.predictions - measured.labels[..., None]
        similarity = similarity_of_errors(own, errors, measured.counts)
        by_errors, columns, best_errors = matched(similarity.per_prompt)
        return _Compared(
            family, variant, by_weights, by_errors, kept, errors[:, :, columns], best, best_errors
        )

    def match(
        self, X: np.ndarray, place: int, edges: np.ndarray, coefficients: np.ndarray
    ) -> FamilyMatch:
        """The result, with the family's own filter at the matched steps."""
        filter_ = effective_filter(X, self.weights[:, place], coefficients, edges=edges)
        return FamilyMatch(
            self.family.name,
            self.variant.label,
            self.family.unit,
            self.variant.fitted,
            self.by_weights,
            self.by_errors,
            filter_,
        )


def _nearest(family: Family, measured: _Measured, used: np.ndarray) -> Variant:
    """The parametrisation of a family that is nearest to the layers in use, on some of the prompts."""
    prompts = slice(0, _FIT_PROMPTS)
    count = len(measured.counts)
    places = np.unique(np.linspace(0, count - 1, min(count, _FIT_PREFIXES)).round().astype(int))
    whole = measured.spectra
    spectra = PromptSpectra(
        whole.values[prompts][:, places],
        whole.vectors[prompts][:, places],
        whole.moments[prompts][:, places],
        whole.prefixes[places],
    )
    layers = used if used.any() else np.ones_like(used)
    weights = measured.weights[prompts][:, places][:, :, layers]
    targets = np.einsum("bpld,bpde->lbpe", weights, spectra.vectors)
    return best_variant(family, spectra, targets, float(whole.values.max()))


def _standing(
    measure: str, compared: Sequence[_Compared], deciding: np.ndarray, options: dict[str, Any]
) -> Standing:
    """All families by one measure, averaged over the layers that decide."""
    used = deciding if deciding.any() else np.ones_like(deciding)
    cosines, vectors = [], []
    for c in compared:
        if measure == "weights":
            own, units = c.cosines, _units(c.weights[:, :, used]) / math.sqrt(c.weights.shape[1])
        else:
            assert c.errors is not None
            assert c.error_cosines is not None
            own, errors = c.error_cosines, c.errors[:, :, used]
            units = errors / np.linalg.norm(errors, axis=1, keepdims=True)
        cosines.append(own[:, used].mean(axis=1))
        vectors.append(units.ravel() / math.sqrt(len(own) * used.sum()))
    stacked = np.stack(vectors)
    return remaining(measure, np.stack(cosines), stacked @ stacked.T, **options)


def _units(weights: np.ndarray) -> np.ndarray:
    """Weights over their length; 0 stays 0."""
    size = np.linalg.norm(weights, axis=-1, keepdims=True)
    return np.divide(weights, size, out=np.zeros_like(weights), where=size > 0)
