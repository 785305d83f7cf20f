"""Claims on trained models: layers against Newton steps, and noisy labels.

Fu, Chen, Jia and Sharan (arXiv 2310.17086), on the Transformers that come with the package (d = 5,
15 examples, 6 layers).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

import icltheory as icl
from icltheory.symbols import trace
from numeric.bayes import bayes_risk
from numeric.best_step import BestMatch, best_match
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.rows import curve, holds, separate
from numeric.claims.solvers import NEWTON, mean_risk, solver_claim
from numeric.compare import Row, compare
from numeric.eigenbasis import prompt_spectra
from numeric.families import Variant
from numeric.montecarlo import Estimate
from numeric.plot import Figure, Series
from numeric.regression_prompts import solver_prompts
from numeric.similarity import similarity_of_weights
from numeric.spectral_risk import solver_risk

DIM, LENGTH, NOISE = 5, 15, 0.25
PENALTY = float(icl.optimal_ridge(DIM, NOISE).penalty)  # noise d
DESCENT = icl.GradientDescent(1 / trace)
STEPS, NEWTON_STEPS = np.unique(np.round(2.0 ** (np.arange(0, 53) / 4))), np.arange(29)
_NINETY_FIVE = 2 * 1.96  # standard errors in the width of an interval


def errors_of(model: Any, noise: float, prompts: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance to theta.x of a model's predictions, and theta.x squared, (B, N) by prefix."""
    import torch

    data = solver_prompts(DIM, LENGTH + 1, prompts, noise_var=noise, seed=17)
    target = np.einsum("bnd,bd->bn", data.features, data.coefficients)
    with torch.no_grad():
        found = [
            model.predict_all(torch.from_numpy(X), torch.from_numpy(y)).double().numpy()
            for X, y in zip(
                np.array_split(data.features, 1 + prompts // 1000),
                np.array_split(data.labels, 1 + prompts // 1000),
                strict=True,
            )
        ]
    return (np.concatenate(found) - target) ** 2, target**2


def prompts_of(effort: Effort) -> int:
    """Prompts that a model is identified on."""
    return max(200, effort.prompts // 200)


def below(setting: dict[str, Any], measured: Estimate, bound: float, name: str = "") -> Row:
    """That an estimate lies five standard errors below a bound."""
    words = f"{measured.value:.4f} +- {measured.standard_error:.4f} below {bound:.4g}{name}"
    return holds(
        {**setting, "quantity": words}, measured.value + 5 * measured.standard_error < bound
    )


class RidgePredictor:
    """The Bayes predictor, to be measured on the prompts of a model."""

    def predict_all(self, X: Any, y: Any) -> Any:
        """Predictions from the examples before each query, (B, N), of X (B, N, d) and y (B, N)."""
        import torch

        found = torch.zeros_like(y)
        eye = PENALTY * torch.eye(X.shape[2], dtype=X.dtype)
        for n in range(1, X.shape[1]):
            past = X[:, :n].transpose(1, 2)
            w = torch.linalg.solve(past @ X[:, :n] + eye, past @ y[:, :n, None])
            found[:, n] = (X[:, n, None] @ w)[:, 0, 0]
        return found


# -- layers against steps --------------------------------------------------------------------------


def quality_rows(model: Any, effort: Effort) -> Iterator[Row]:
    """The risk at full length against its bounds; three Newton steps are computed."""
    squares, zero = errors_of(model, 0.0, effort.prompts // 5)
    measured = mean_risk(squares[:, LENGTH])
    setting: dict[str, Any] = {"n": LENGTH}
    yield below(setting, measured, 0.05)
    newton = solver_risk(NEWTON, 3, n=LENGTH, d=DIM)
    yield below(setting, measured, newton.value - 5 * newton.error, ", three Newton steps")
    control = mean_risk(zero[:, LENGTH])
    words = f"the zero predictor has {control.value:.3f}, above 0.05"
    yield holds({**setting, "quantity": words}, control.value - 5 * control.standard_error > 0.05)


def implied_descent(steps: np.ndarray, prompts: int) -> BestMatch:
    """Descent steps most similar to given Newton steps, solver against solver."""
    data = solver_prompts(DIM, LENGTH, prompts, seed=23)
    X, y, counts = data.features, data.labels, np.arange(1, LENGTH + 1)
    spectra = prompt_spectra(X, y, counts)
    newton = Variant("", steps, {NEWTON: steps.astype(int)}).weights(X, y, spectra)
    descent = Variant("", STEPS, {DESCENT: STEPS.astype(int)}).weights(X, y, spectra)
    return best_match(similarity_of_weights(newton, descent, counts), STEPS, bootstrap=200)


def spread(match: BestMatch, layer: int) -> float:
    """Standard error of log2 of a matched step, the spacing of the grid included."""
    assert match.step_interval is not None
    low, high = np.log2(match.step_interval[layer])
    return math.hypot((high - low) / _NINETY_FIVE, 0.25 / 12**0.5)


def linear_rows(found: Any, effort: Effort) -> tuple[list[Row], Series]:
    """Descent steps of every layer against those that its Newton steps imply; linearity."""
    used = np.flatnonzero(found.layers.deciding).tolist()
    newton, descent = found.match("Newton from S").weights, found.match("gradient descent").weights
    middles = newton.midpoints()
    steps = np.unique(np.round(middles[used]))
    implied = implied_descent(steps, prompts_of(effort))
    rows = []
    for i in used:
        place = int(np.flatnonzero(steps == round(middles[i]))[0])
        expected = float(np.log2(implied.best[place]))
        # Newton steps are integers, and half of one is half of a doubling of descent's.
        assert newton.step_interval is not None
        width = (newton.step_interval[i, 1] - newton.step_interval[i, 0]) / _NINETY_FIVE
        error = math.hypot(spread(descent, i), spread(implied, place), width / 2, 0.5 / 12**0.5)
        if 5 * error > expected / 2:
            continue  # too few steps for these prompts to show a change of the exponent by half
        setting = {"layer": int(i) + 1, "newton steps": float(middles[i])}
        setting["quantity"] = "log2 of descent steps"
        rows.append(
            compare(setting, expected, float(np.log2(descent.best[i])), error, required=0.5)
        )
    moving = len(used) > 2 and np.ptp(middles[used]) > 0
    correlation = float(np.corrcoef(used, middles[used])[0, 1]) if moving else 0.0
    slope = newton.slope()
    assert slope.interval is not None
    words = (
        f"{slope.value:.2f} Newton steps a layer ({slope.interval[0]:.2f} to {slope.interval[1]:.2f}), "
        f"correlation {correlation:.3f}"
    )
    rows.append(holds({"quantity": words}, correlation > 0.97))
    return rows, curve("descent, implied by Newton", steps, implied.best, (), 1)


def undecided_rows(found: Any) -> Iterator[Row]:
    """What similarities to the layers leave open."""
    left = found.verdict.families
    words = f"left: {', '.join(left)}"
    yield holds({"quantity": words}, {"gradient descent", "Newton from S"} <= set(left))
    yield holds({"quantity": "no family is named"}, found.solver is None)
    last = len(found.layers) - 1
    newton, descent = (found.match(name).errors for name in ("Newton from S", "gradient descent"))
    # A5: the printed lead of Newton at the last layer is the random start of the printed descent.
    gap = [
        (m.similarity_interval[last, 1] - m.similarity_interval[last, 0]) for m in (newton, descent)
    ]
    error = math.hypot(*gap) / _NINETY_FIVE
    yield compare(
        {"quantity": "similarity of errors of the last layer, Newton against descent from 0"},
        float(descent.best_similarity[last]),
        float(newton.best_similarity[last]),
        error,
        required=0.06,
    )


def layers(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on layers."""
    from numeric import finite

    progress("risk", 0.0)
    model = finite.shipped("clean")
    quality = list(quality_rows(model, effort))
    progress("identification", 0.3)
    families = {
        "gradient descent": (DESCENT, STEPS),
        "Newton from S": (NEWTON, NEWTON_STEPS),
        "Newton from the identity": (icl.IterativeNewton(1 / trace, start="I"), NEWTON_STEPS),
        "conjugate gradients": (icl.ConjugateGradient(), np.arange(DIM + 1)),
    }
    task = icl.LinearRegression(dim=DIM)
    found = finite.identify(
        model, task, LENGTH, families=families, prompts=prompts_of(effort), bootstrap=400
    )
    progress("matched steps", 0.8)
    linear, implied = linear_rows(found, effort)
    used = np.flatnonzero(found.layers.deciding)
    middles = found.match("Newton from S").weights.midpoints()[used]
    order = [int(np.flatnonzero(np.array(implied.x) == round(m))[0]) for m in middles]
    figure = Figure(
        "Matched steps of the layers of a trained Transformer",
        "layer",
        "steps",
        "Steps of Newton (linear in the layer) and of gradient descent (points) most similar to the layers "
        "of the model shipped for d = 5, by weights. The line is what the Newton steps imply for descent, "
        "solver against solver: the second match is no further evidence. "
        + found.verdict.sentences[0],
        (curve(implied.label, used + 1, [implied.y[j] for j in order], (), 1),),
        (
            curve("Newton from S", used + 1, middles, (), 0),
            curve("gradient descent", used + 1, found.match("gradient descent").steps[used], (), 1),
        ),
        logx=False,
    )
    return (
        Part.of("risk of the model", quality),
        Part.of("linear match, and what it implies", linear, 2.0),
        Part.of("what the match cannot decide", undecided_rows(found), 1.1),
    ), figure


# -- noisy labels ----------------------------------------------------------------------------------


def ridge_rows() -> Iterator[Row]:
    """Exact: the best filter is ridge at noise d, Newton without it must stop, and with it tends there."""
    task = icl.LinearRegression(dim=DIM, noise_var=NOISE)
    for n in (DIM, 10, LENGTH):
        options: dict[str, Any] = {"n": n, "d": DIM, "noise_var": NOISE}
        best = float(bayes_risk(task, n))
        at = {c: float(solver_risk(icl.Ridge(c * PENALTY), **options)) for c in (0.5, 1.0, 2.0)}
        yield compare({"n": n, "quantity": "risk of ridge, Bayes"}, best, at[1.0], 1e-8 * best)
        setting = {"n": n, "quantity": "half and twice the penalty are worse"}
        yield holds(setting, min(at[0.5], at[2.0]) > 1.01 * at[1.0])
        tends = solver_risk(icl.RidgeNewton(PENALTY), 30, samples=2_000, **options)
        # The same prompts: only the distance from ridge on each of them counts.
        limit = solver_risk(icl.Ridge(PENALTY + 0 * trace / trace), **options)
        setting = {"n": n, "quantity": "Newton on ridge, 30 steps"}
        yield compare(setting, float(limit), tends.value, tends.error, required=0.15)
        risks = solver_risk(NEWTON, range(25), samples=4_000, **options).value
        stop = int(np.argmin(risks))
        setting = {"n": n, "quantity": f"Newton without ridge is best at {stop} steps"}
        yield holds(setting, 0 < stop < 24 and risks[-1] > 1.05 * risks[stop])


def bayes_rows(model: Any, other: Any, effort: Effort) -> tuple[list[Row], Series]:
    """The trained model against the Bayes ridge at every prefix; the one without noise fails there."""
    task = icl.LinearRegression(dim=DIM, noise_var=NOISE)
    lengths = np.arange(1, LENGTH + 1)
    best = bayes_risk(task, lengths)
    prompts = max(8_000, effort.prompts // 5)
    squares, _ = errors_of(model, NOISE, prompts)
    least, _ = errors_of(RidgePredictor(), NOISE, prompts)
    rows, values, errors = [], [], []
    for n, bayes in zip(lengths, best, strict=True):
        measured = mean_risk(squares[:, n])
        # The same prompts: most of the sampling noise is common to the model and the best predictor.
        more = mean_risk(squares[:, n] - least[:, n])
        ratio = Estimate(1 + more.value / bayes, more.standard_error / bayes, more.prompts)
        rows.append(below({"n": int(n)}, ratio, 1.1, " of the Bayes risk"))
        values.append(measured.value)
        errors.append(measured.standard_error)
    squares, _ = errors_of(other, NOISE, effort.prompts // 20)
    worst = max((squares[:, n].mean() / best[n - 1] for n in lengths), default=0.0)
    words = f"control: the model trained without noise reaches {worst:.2f} of the Bayes risk"
    rows.append(holds({"quantity": words}, worst > 1.5))
    return rows, curve("trained with noise", lengths, values, errors, 0)


def filter_rows(found: Any) -> Iterator[Row]:
    """The effective filter of the output against the Bayes ridge, eigenvalue by eigenvalue."""
    gains, errors = found.filter.gain[-1], found.filter.standard_error[-1]
    for x, gain, error in zip(found.filter.eigenvalue, gains, errors, strict=True):
        setting = {"eigenvalue": round(float(x), 2), "quantity": "gain of the output"}
        yield compare(setting, x / (x + PENALTY), gain, error, 0.08, required=0.5)
    match = found.match("ridge").weights
    # The grid of penalties has ratio sqrt(2).
    matched, step = float(match.best[-1]), 2**0.5
    words = (
        f"1/penalty that is matched: {matched:.4g}, the point of the grid next to {1 / PENALTY:g}"
    )
    setting = {"quantity": words, "similarity": round(match.best_similarity[-1], 4)}
    yield holds(setting, step**-0.5 < matched * PENALTY < step**0.5)


def noisy(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on noisy labels."""
    from numeric import finite

    progress("exact", 0.0)
    exact = list(ridge_rows())
    progress("risk of the models", 0.3)
    model, other = finite.shipped("noisy"), finite.shipped("clean")
    bayes, measured = bayes_rows(model, other, effort)
    progress("effective filter", 0.6)
    task = icl.LinearRegression(dim=DIM, noise_var=NOISE)
    prompts = max(1000, prompts_of(effort))  # gains at small eigenvalues need that many
    found = finite.identify(model, task, LENGTH, prompts=prompts, bootstrap=200)
    lengths = np.arange(1, LENGTH + 1)
    lines = [curve("Bayes ridge", lengths, bayes_risk(task, lengths), (), 0)]
    for color, steps in enumerate((3, 6), start=1):
        risks = [
            solver_risk(NEWTON, steps, n=int(n), d=DIM, noise_var=NOISE, samples=2_000).value
            for n in lengths
        ]
        lines.append(curve(f"Newton from S, {steps} steps", lengths, risks, (), color))
    figure = Figure(
        "Noisy labels",
        "prompt length n",
        "risk",
        f"Excess risk at d = {DIM} with noise variance {NOISE}: the shipped model (points, one standard "
        "error) is close to the Bayes ridge, which no step of Newton without ridge reaches at all lengths.",
        tuple(lines),
        (measured,),
        logx=False,
    )
    return (
        Part.of("ridge is the best filter, exact", exact, 1.2),
        Part.of("the model at every prompt length", bayes),
        *separate("its filter is that of the Bayes ridge", filter_rows(found), 2.0),
    ), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    solver_claim(
        id="solvers-layers",
        title="Layers of a Transformer against Newton steps",
        statement="The layers of a trained Transformer match a number of Newton steps that grows linearly, "
        "and of descent steps that grow exponentially. The second follows from the first, and neither "
        "decides which solver runs: the model is farther from all families than these are from each "
        "other.",
        formulas=lambda: (icl.matched_steps(NEWTON, DESCENT),),
        experiment=layers,
    )
)
register(
    solver_claim(
        id="solvers-noise",
        title="Noisy labels",
        statement="With label noise the best filter is ridge at penalty noise d; a Transformer trained on "
        "such prompts has its risk within 1.1 times, and its filter.",
        formulas=lambda: (
            icl.solver_risk(icl.OrdinaryLeastSquares(), noise_var=icl.symbols.noise_var),
        ),
        experiment=noisy,
    )
)
