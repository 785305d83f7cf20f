"""What similarities can decide: which families are left, and the same in plain words.

A family is left if it is as similar to the model as the best one, up to one bootstrap standard error
of the difference on the same prompts; or if the model is farther from the best family than the two
families are from each other, as trained models are from descent and Newton.
Exported: `remaining`, `Standing`, `Verdict`, `verdict`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from numeric.decoding_display import Shown
from numeric.montecarlo import Seed, seed_sequence

if TYPE_CHECKING:
    from numeric.finite.identification import FamilyMatch, Layers

LEAST_SQUARES = "least squares"
DESCENT = "gradient descent"
_RIDGE, _NEWTON_ON_RIDGE = "ridge", "Newton on ridge"  # and what ends there
_SIGMAS = 5.0
_EQUAL = 1e-9  # similarities that differ by rounding
_RUNS = 1e-4  # distance of a model that runs a solver, up to rounding and interpolation of the grid
_LINEAR = 0.999
_IN_SPAN = 0.01
_CENSORED = "A number with * lies at an end of the grid, where it is censored."
_MEAN_STEP = (
    "If the model's steps are on the mean over the examples, X'X/n, they are other steps on S = X'X at "
    "every prefix"
)
_LISTED = 3  # families that are left whose steps are told


@dataclass(frozen=True, repr=False)
class Standing(Shown):
    """How families compare by one measure, "weights" or "errors".

    score: mean similarity of every family at its matched steps, (F,). best: index. gap, gap_error:
    of the best to each and the bootstrap standard error on the same prompts. mutual: similarity of
    the best family with each. left: which the measure does not exclude.
    """

    measure: str
    score: np.ndarray
    best: int
    gap: np.ndarray
    gap_error: np.ndarray
    mutual: np.ndarray
    left: np.ndarray


def remaining(
    measure: str,
    cosines: np.ndarray,
    mutual: np.ndarray,
    *,
    bootstrap: int = 1000,
    seed: Seed = 0,
) -> Standing:
    """Compare families by similarities prompt by prompt, (F, B); mutual: theirs with each other, (F, F).

    >>> rng = np.random.default_rng(0)
    >>> noise = 0.01 * rng.standard_normal(50)
    >>> cosines = np.array([0.99 + noise, 0.99 + noise[::-1], 0.9 + noise])
    >>> remaining("weights", cosines, np.full((3, 3), 0.95)).left
    array([ True,  True, False])
    >>> remaining("weights", cosines, np.full((3, 3), 0.995)).left  # closer to each other
    array([ True,  True,  True])
    """
    score = cosines.mean(axis=1)
    best = int(np.argmax(score))
    prompts = cosines.shape[1]
    rng = np.random.default_rng(seed_sequence(seed))
    weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), bootstrap) / prompts
    differences = cosines[best] - cosines
    error = (differences @ weights.T).std(axis=1, ddof=1)
    gap = differences.mean(axis=1)
    left = (gap <= np.maximum(error, _EQUAL)) | (score[best] <= mutual[best])
    left[best] = True
    return Standing(measure, score, best, gap, error, mutual[best], left)


@dataclass(frozen=True)
class Verdict:
    """families: those that are left, the nearest first. summary: the verdict, its evidence, and what to
    do next, a sentence each. sentences: all that was found, which `explain` writes out.
    """

    families: tuple[str, ...]
    summary: tuple[str, ...]
    sentences: tuple[str, ...]

    @property
    def solver(self) -> str | None:
        """The family that is named, None if the data do not decide."""
        return self.families[0] if len(self.families) == 1 else None

    def __str__(self) -> str:
        return " ".join(self.summary)

    def explain(self) -> str:
        """What is left and what is excluded, by which measure, and what else the layers show."""
        return " ".join(self.sentences)


def verdict(
    layers: Layers,
    matches: Sequence[FamilyMatch],
    standings: Sequence[Standing],
    output: Sequence[Standing],
    prefixes: np.ndarray,
    *,
    fitted: bool = False,
    scalar: bool = False,
) -> Verdict:
    """The families that are left by all measures, and what the measurements say.

    standings: by weights, and by errors if there are any, over the layers that decide. output: the
    same for the last layer alone. prefixes: numbers of examples, (P,). fitted: whether layers before
    the last have fitted read-outs; scalar: though their states are single numbers.
    """
    left, conflict = _left(standings)
    order, ended = _order(left, matches, standings)
    names = [match.family for match in matches]
    found: tuple[str, ...] = tuple(names[f] for f in order)
    if layers.uninformative.all():
        scores = dict(zip(names, standings[0].score, strict=True))
        descent = scores.get(DESCENT, 0.0) > layers.least_squares.max()
        found, said = (), _nothing(layers, prefixes, descent)
        summary = said[:2]
    elif not (layers.deciding & ~layers.converged).any():
        found = (LEAST_SQUARES,)
        said = [
            "Every layer that predicts anything is least squares, where all solvers end: undecided "
            "which of them reached it."
        ]
        nearest = shown(float(layers.least_squares[~layers.uninformative].min()))
        summary = [said[0], f"Its similarity to least squares is at least {nearest} of weights."]
        summary.append(
            "Solvers differ on short prompts and in early layers: pass smaller prefixes."
        )
    else:
        single = len(order) == 1
        said = (
            _named(order[0], layers, matches, standings)
            if single
            else _undecided(order, layers, matches, standings, conflict)
        )
        summary = [said[0], _evidence(order, left, layers, matches, standings)]
        descent = names[order[0]] == DESCENT and _distant(order[0], standings)
        own = 'The state of a layer is one number, a prediction: pass readout="own".'
        hints = [own] if scalar else _nonlinear(layers, fitted)
        if descent and len(prefixes) > 1 and _could_iterate(layers):
            hints.append(f"{_MEAN_STEP}: pass prefixes=[{prefixes[-1]}].")
            said.append(hints[-1])
        hints += _next(order, layers, matches, standings[0], conflict)
        summary.append(hints[0])
        if ended:
            said.append(f"{_NEWTON_ON_RIDGE} ends there, and is the same from enough steps on.")
        said += _excluded(left, names, standings)
        said += _left_out(layers)
        if len(layers) > 1 and not (layers.uninformative | layers.converged)[-1]:
            said.append(_output(layers, matches, output))
    return Verdict(found, tuple(summary), (*said, *_diagnostics(layers)))


# -- the summary -----------------------------------------------------------------------------------


def _evidence(
    order: Sequence[int],
    left: np.ndarray,
    layers: Layers,
    matches: Sequence[FamilyMatch],
    standings: Sequence[Standing],
) -> str:
    """The numbers behind the verdict: of the nearest family, and of the best that is excluded."""
    match = matches[order[0]]
    scores = " and ".join(f"{shown(float(s.score[order[0]]))} of {s.measure}" for s in standings)
    where = f" ({_steps(match, np.flatnonzero(layers.deciding))})" if len(order) > 1 else ""
    said = f"The similarity to {match.family}{where} is {scores}"
    if not left.all():
        best = int(np.argmax(np.where(left, -np.inf, standings[0].score)))
        against = next(s for s in standings if not s.left[best])
        score = f"{shown(float(against.score[best]))} of {against.measure}"
        said += f", to {matches[best].family}, which is excluded, {score}"
    lowest = layers.r_squared[~layers.uninformative].min()
    return f"{said}; a fit linear in the query has R^2 of at least {lowest:.4f}."


def _nonlinear(layers: Layers, fitted: bool) -> list[str]:
    """What a layer that is not linear in the query may mean."""
    used = np.flatnonzero(~layers.uninformative)
    lowest = layers.r_squared.min(axis=1)
    worst = int(used[np.argmin(lowest[used])])
    if lowest[worst] >= _LINEAR:
        return []
    said = f"Layer {worst + 1} is not linear in the query (R^2 = {lowest[worst]:.3f})"
    if fitted and worst < len(layers) - 1:
        return [f'{said}: if its state already carries a prediction, pass readout="own".']
    return [f"{said}: no solver is all that it computes; hold its risk against numeric.validate."]


def _next(
    order: Sequence[int],
    layers: Layers,
    matches: Sequence[FamilyMatch],
    weights: Standing,
    conflict: bool,
) -> list[str]:
    """What to do next, the most useful first."""
    said = []
    used = layers.deciding
    if any(matches[f].weights.censored[used].any() for f in order[:_LISTED]):
        said.append("Steps with * lie at an end of the grid: pass families= with more steps.")
    if conflict:
        return [*said, "The two measures disagree: look at match_table()."]
    if len(order) == 1:
        return [*said, "explain() tells what excludes the others, plot() shows the filters."]
    ties = [f for f in order if f != weights.best and weights.gap[f] <= weights.gap_error[f]]
    if any(1 - weights.mutual[f] < _EQUAL for f in order if f != weights.best):
        known = "only the number of steps that a layer takes would tell them apart"
        return [*said, f"Some of them are the same iterates here: {known}."]
    if ties:
        return [*said, "They are within one standard error: more prompts= may tell them apart."]
    nearer = "The model is farther from each than these are from each other"
    return [*said, f"{nearer}: compare its filter with theirs, family_figure()."]


# -- what was found --------------------------------------------------------------------------------


def _left(standings: Sequence[Standing]) -> tuple[np.ndarray, bool]:
    """The families that no measure excludes, or, if each is excluded by one, that one measure does not."""
    left = np.logical_and.reduce([s.left for s in standings])
    conflict = not left.any()
    return np.logical_or.reduce([s.left for s in standings]) if conflict else left, conflict


def _order(
    left: np.ndarray, matches: Sequence[FamilyMatch], standings: Sequence[Standing]
) -> tuple[list[int], bool]:
    """The families that are left, the nearest first, and whether one is omitted.

    Newton on ridge is, where it is ridge by every measure: it has converged.
    """
    order = sorted(np.flatnonzero(left).tolist(), key=lambda f: -standings[0].score[f])
    pair = {f for f in order if matches[f].family in (_RIDGE, _NEWTON_ON_RIDGE)}
    ended = len(pair) == 2 and all(
        s.best in pair and min(s.mutual[f] for f in pair) > 1 - _EQUAL for s in standings
    )
    if ended:
        order = [f for f in order if matches[f].family != _NEWTON_ON_RIDGE]
    return order, ended


def _nothing(layers: Layers, prefixes: np.ndarray, descent: bool) -> list[str]:
    """That no layer is better than zero on average over the prefixes, and where one is.

    descent: whether gradient descent is nearer than least squares.
    """
    better = layers.risk + _SIGMAS * layers.risk_error < layers.zero_risk
    if len(prefixes) == 1 or not better.any():
        return [
            "No layer predicts better than zero: there is nothing to identify.",
            "Is it trained on this task, in eval mode?",
        ]
    at = int(np.flatnonzero(better.any(axis=0))[-1])
    i = int(np.argmin(np.where(better[:, at], layers.risk[:, at], np.inf)))
    n = prefixes[at]
    said = (
        f"No better than zero on average over prefixes {prefixes[0]} to {prefixes[-1]}, but better "
        f"at n = {n}: there layer {i + 1} has the risk {layers.risk[i, at]:.3g}, "
        f"predicting zero has {layers.zero_risk[at]:.3g}. Pass prefixes=[{n}], or others where it works."
    )
    return [said, f"{_MEAN_STEP}."] if descent else [said]


def _distant(f: int, standings: Sequence[Standing]) -> bool:
    """Whether a family is not what the model runs, by some measure."""
    return any(1 - s.score[f] >= _RUNS for s in standings)


def _could_iterate(layers: Layers) -> bool:
    """Whether the layers are linear in the query and in the span of the examples, as iterates are."""
    used = ~layers.uninformative
    outside = layers.off_span[used].max() >= _IN_SPAN  # False for NaN
    return bool(layers.r_squared[used].min() >= _LINEAR and not outside)


def _output(layers: Layers, matches: Sequence[FamilyMatch], standings: Sequence[Standing]) -> str:
    """The last layer, which is the model's prediction, by itself."""
    order, _ = _order(_left(standings)[0], matches, standings)
    match = matches[order[0]]
    last = np.array([len(layers) - 1])
    said = f"The output by itself is nearest to {match.family} ({shown(float(standings[0].score[order[0]]))}"
    said += f" of {standings[0].measure}; {_steps(match, last)})"
    if len(order) > 1:
        said += f"; {_words([matches[f].family for f in order[1:]])} cannot be told from it"
    return f"{said}."


def _named(
    f: int, layers: Layers, matches: Sequence[FamilyMatch], standings: Sequence[Standing]
) -> list[str]:
    match = matches[f]
    where = _steps(match, np.flatnonzero(layers.deciding))
    said = [
        f"The model runs {match.family}: {where}."
        if not _distant(f, standings)
        else f"The model resembles {match.family} most, without running it: {where}."
    ]
    scores = " and ".join(f"{shown(s.score[f])} of {s.measure}" for s in standings)
    said.append(f"Its similarity is {scores}.")
    if "*" in where:
        said.append(_CENSORED)
    return said


def _undecided(
    order: Sequence[int],
    layers: Layers,
    matches: Sequence[FamilyMatch],
    standings: Sequence[Standing],
    conflict: bool,
) -> list[str]:
    names = [match.family for match in matches]
    said = [f"Undecided between {_words([names[f] for f in order])}."]
    if conflict:
        said.append(
            f"The measures disagree: by {standings[0].measure} {names[standings[0].best]} is "
            f"nearest, by {standings[1].measure} {names[standings[1].best]}."
        )
    told: dict[str, list[str]] = {}
    for s in standings:
        for reason in _reasons(order, names, s):
            told.setdefault(reason, []).append(s.measure)
    said += [f"By {' and '.join(measures)}, {reason}" for reason, measures in told.items()]
    used = np.flatnonzero(layers.deciding)
    listed = [f"{names[f]}: {_steps(matches[f], used)}." for f in order[:_LISTED]]
    censored = [_CENSORED] if any("*" in line for line in listed) else []
    return [*said, *listed, *censored]


def _reasons(order: Sequence[int], names: Sequence[str], s: Standing) -> list[str]:
    """Why one measure does not exclude families beside its best."""
    others = [f for f in order if f != s.best and s.left[f]]
    ties = [f for f in others if s.gap[f] <= max(s.gap_error[f], _EQUAL)]
    same = [f for f in ties if 1 - s.mutual[f] < _EQUAL]
    within = [f for f in ties if f not in same]
    near = [f for f in others if f not in ties]
    said = []
    if same:
        together = _words(sorted(names[f] for f in (*same, s.best)))
        said.append(
            f"{together} are the same iterates here; only the number of steps a layer would tell them "
            f"apart."
        )
    if within:
        said.append(
            f"{_words([names[f] for f in within])} and {names[s.best]} are within one standard error."
        )
    if near:
        closest = max(float(s.mutual[f]) for f in near)
        said.append(
            f"the model is farther from its nearest family, {names[s.best]} (similarity "
            f"{shown(float(s.score[s.best]))}), than that is from {_words([names[f] for f in near])} "
            f"(up to {shown(closest)}): the order of these says which is nearest, not what the model "
            f"runs."
        )
    return said


def _steps(match: FamilyMatch, used: np.ndarray) -> str:
    """Layers and their matched steps, * where censored."""
    stars = ["*" if match.weights.censored[i] else "" for i in used]
    steps = ", ".join(f"{match.steps[i]:.4g}{s}" for i, s in zip(used, stars, strict=True))
    rule = f" ({match.variant})" if match.variant else ""
    return f"{_numbered(used)} at {match.unit} {steps}{rule}"


def _excluded(left: np.ndarray, names: Sequence[str], standings: Sequence[Standing]) -> list[str]:
    """Families that are out, with the measure that says so."""
    out = []
    for f in np.argsort(-standings[0].score).tolist():
        against = [s for s in standings if not s.left[f]]
        if not left[f] and against:
            score = f"{shown(float(against[0].score[f]))} of {against[0].measure}"
            out.append(f"{names[f]} ({score})")
    return [f"Excluded by their similarity: {', '.join(out)}."] if out else []


def _left_out(layers: Layers) -> list[str]:
    said = []
    if (done := layers.converged & ~layers.deciding).any():
        said.append(
            f"Up to the resolution, {_numbered(np.flatnonzero(done))} least squares, where all "
            f"solvers end; this does not enter the decision."
        )
    if (empty := layers.uninformative).any():
        said.append(
            f"Not better than zero, {_numbered(np.flatnonzero(empty))} left out of the decision."
        )
    return said


def _diagnostics(layers: Layers) -> list[str]:
    used = np.flatnonzero(~layers.uninformative).tolist()
    if not used:
        return []
    lowest = layers.r_squared.min(axis=1)
    worst = used[np.argmin(lowest[used])]
    said = [
        f"All predictions are linear in the query (held-out R^2 at least {lowest[worst]:.4f})."
        if lowest[worst] >= _LINEAR
        else f"Not all predictions are linear in the query: held-out R^2 falls to "
        f"{lowest[worst]:.3f} in layer {worst + 1}, whose weights are a part of what it computes."
    ]
    if (share := layers.off_span[used].max()) >= 0:
        origin = (
            "consistent with every solver from 0, and evidence for none"
            if share < _IN_SPAN
            else "where every solver from 0 has none"
        )
        said.append(
            f"At most {share:.1%} of the weights' square is outside the span of the examples, {origin}."
        )
    points = [f"{layers.half_point[i]:.3g} (layer {i + 1})" for i in used if _crosses(layers, i)]
    if points:
        said.append(f"The effective filter is 1/2 at the eigenvalue {', '.join(points)}.")
    return said


def _crosses(layers: Layers, i: int) -> bool:
    return bool(np.isfinite(layers.half_point[i]))


def _numbered(layers: np.ndarray) -> str:
    numbers = ", ".join(str(i + 1) for i in layers)
    return f"layer {numbers} is" if len(layers) == 1 else f"layers {numbers} are"


def shown(similarity: float) -> str:
    """A similarity with its distance from 1."""
    gap = 1 - similarity
    if gap < 1e-12:
        return "1"
    return f"{similarity:.4f}" if gap > 1e-3 else f"1 - {gap:.0e}"


def _words(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
