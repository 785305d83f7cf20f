"""Claim of the multi-head study on the conventions of other papers.

What other papers write is a conversion of what is written here, in both directions; among them the
approximate loss of He et al. (arXiv 2503.12734), with the size of its error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import sympy as sp

import icltheory as icl
from icltheory.attention import Attention
from icltheory.formula import Formula
from icltheory.symbols import a, d, gamma, k, n, v
from numeric.bayes import eigenvalue_average
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.head_experiments import DIM, GENERAL, LINEAR, ONE, multihead_claim
from numeric.claims.rows import curve, estimate_row, limit_row, points
from numeric.compare import Row, compare
from numeric.conventions import approximation_error
from numeric.montecarlo import Estimate, monte_carlo_risk
from numeric.plot import Figure
from numeric.risk import exact_risk, optimal_risk
from numeric.validate import measure_risk

LENGTH = 20
NOISE = 0.25  # over the signal
# What every paper's layer is here; Zhang et al. have no label noise.
PAPERS: dict[str, tuple[Attention, float]] = {
    "zhang": (LINEAR, 0.0),
    "boursier": (ONE, NOISE),
    "boursier_experiments": (ONE, NOISE),
    "he": (ONE, NOISE),
}


def our_optimum(name: str) -> Formula:
    """The best layer of our task, exact, with its parameters as minimiser."""
    attention, noise = PAPERS[name]
    best = optimal_risk(icl.LinearRegression(DIM, noise), attention, LENGTH)
    at = {v: sp.Float(best.value_scale)}
    if attention == ONE:
        at[k] = sp.Float(best.score_scale)
    return Formula("best risk", sp.Float(best.risk), minimizer=sp.Dict(at))


def their_optimum(name: str) -> tuple[float, dict[str, float]]:
    """Our best risk as the paper's loss, and our parameters as theirs, by the symbols' names."""
    convention = icl.CONVENTIONS[name]
    task = icl.LinearRegression(DIM, PAPERS[name][1])
    theirs = convention.from_ours(our_optimum(name), task)
    ours = {symbol: paper for paper, symbol in convention.names.items()}
    assert theirs.minimizer is not None
    at = {str(ours.get(p, p)): float(x.subs(d, DIM)) for p, x in theirs.minimizer.items()}
    return float(theirs), at


def our_risk(name: str, loss: float) -> float:
    """A loss of the paper as a risk of ours."""
    task = icl.LinearRegression(DIM, PAPERS[name][1])
    return float(icl.CONVENTIONS[name].to_ours(Formula("loss", sp.Float(loss)), task))


def _linear(X: np.ndarray, y: np.ndarray, query: np.ndarray, v: float) -> np.ndarray:
    return v / y.shape[1] * np.einsum("bi,bij,bj->b", y, X, query)


def _softmax(
    X: np.ndarray, y: np.ndarray, query: np.ndarray, k: float, v: float, divisor: float = 1.0
) -> np.ndarray:
    scores = k / divisor * np.einsum("bij,bj->bi", X, query)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return v * (weights * y).sum(axis=1) / weights.sum(axis=1)


# The papers as they are written: variance of a coefficient, layer, and what is added to the mean
# squared excess error times the factor of the loss.
_LAYERS: dict[str, tuple[float, Callable[..., np.ndarray], float, float]] = {
    "zhang": (1.0, _linear, 0.5, 0.0),
    "boursier": (1.0, _softmax, 0.5, 0.0),
    "boursier_experiments": (1 / DIM, partial(_softmax, divisor=math.sqrt(DIM + 1)), 1.0, NOISE),
    "he": (1 / DIM, _softmax, 1.0, NOISE),
}


def exact_loss(name: str, at: dict[str, float]) -> float:
    """The paper's loss at its parameters, in its units, without sampling."""
    variance, layer, factor, target = _LAYERS[name]
    if layer is _linear:
        step = at["v"] / LENGTH
        bias = eigenvalue_average(DIM, float(LENGTH), lambda x: (1 - step * x) ** 2)
        return factor * variance * bias
    task = icl.LinearRegression(DIM, NOISE * DIM * variance, coef_cov=variance)
    score = at["k"] / (math.sqrt(DIM + 1) if name == "boursier_experiments" else 1)
    risk = exact_risk(task, ONE, LENGTH, score_scale=score, value_scale=at["v"])
    return factor * float(risk) + target


def simulated_loss(name: str, at: dict[str, float], effort: Effort) -> Estimate:
    """The paper's layer on prompts drawn in its units."""
    variance, layer, factor, target = _LAYERS[name]
    noise = PAPERS[name][1] * DIM * variance
    task = icl.LinearRegression(DIM, noise, coef_cov=variance)
    error = measure_risk(
        lambda X, y, query: layer(X, y, query, **at),
        task,
        LENGTH,
        prompts=8 * effort.prompts,
        seed=len(name),
    )
    return Estimate(factor * error.value + target, factor * error.standard_error, error.prompts)


def conversion_rows() -> Iterable[Row]:
    """Every conversion against the exact loss in the paper's units, and back; the approximation."""
    for name in PAPERS:
        loss, at = their_optimum(name)
        exact = exact_loss(name, at)
        yield compare({"paper": name, "quantity": "loss in its units"}, loss, exact, 1e-8 * exact)
        setting = {"paper": name, "quantity": "its loss as our risk"}
        yield compare(setting, float(our_optimum(name)), our_risk(name, exact), 1e-8 * exact)
    for dim in (5, 20, 100):
        k0 = 1 / math.sqrt(dim)
        near, far = (
            1 + float(approximation_error(icl.LinearRegression(dim=dim), ONE, m, k0, 1 / k0))
            for m in (1e8, 1e9)
        )
        setting = {"d": dim, "quantity": "approximate over exact risk, k = 1/sqrt(d), n = 1e9"}
        yield limit_row(setting, approximation_limit(dim), near, far)


def written_rows(effort: Effort) -> Iterable[Row]:
    """Every paper's layer as it is written, simulated at the converted parameters, and back."""
    for name in PAPERS:
        loss, at = their_optimum(name)
        measured = simulated_loss(name, at, effort)
        parameters = ", ".join(f"{p} = {x:.4f}" for p, x in at.items())
        setting = {"paper": name, "parameters": parameters}
        yield estimate_row({**setting, "quantity": "loss"}, loss, measured)
        value, error = measured.value, measured.standard_error
        back = our_risk(name, value)
        estimate = Estimate(back, our_risk(name, value + error) - back, measured.prompts)
        yield estimate_row({**setting, "quantity": "our risk"}, float(our_optimum(name)), estimate)


def approximate_optimum(dim: int, length: Any) -> tuple[float, Any]:
    """Scale and value at which the approximate loss is smallest."""
    best = icl.optimal_proportional_risk(icl.LinearRegression(dim=d), ONE).minimizer
    root = math.sqrt(dim)
    product = sp.lambdify(gamma, best[a])(dim / length)
    return 1 / root, product * root


def approximation_limit(dim: int) -> float:
    """Approximate over exact risk in long prompts at k = 1/sqrt(d), v = 1/k, derived."""
    error = icl.approximation_error(icl.LinearRegression(dim=d), ONE)
    return 1 + float(error.subs(d=dim, t=sp.Rational(1, dim)))


def approximate_loss(dim: int, length: int) -> float:
    """The approximate loss of He et al. at its optimum, converted to their units and back."""
    task = icl.LinearRegression(dim=dim)
    convention = icl.CONVENTIONS["he"]
    head = icl.SoftmaxAttention(scores=[k], values=[v])
    theirs = convention.from_ours(icl.approximate_risk(task, head), task)
    score, value = approximate_optimum(dim, length)
    names = {convention.names[x]: y for x, y in ((k, score), (v, value), (n, length))}
    return float(convention.to_ours(theirs.subs(names), task))


def approximation_rows(effort: Effort) -> Iterable[Row]:
    """The approximate loss over the risk of simulated layers, against its predicted error."""
    for dim, length in ((5, 40), (20, 100), (100, 200)):
        task, (score, value) = icl.LinearRegression(dim=dim), approximate_optimum(dim, length)
        risk = monte_carlo_risk(
            task,
            ONE,
            length,
            score_scale=score,
            value_scale=value,
            prompts=4 * effort.prompts,
            seed=dim,
        )
        predicted = 1 + float(approximation_error(task, ONE, length, score, value))
        quotient = approximate_loss(dim, length) / risk.value
        error = quotient * risk.relative_error
        setting = {"d": dim, "n": length, "quantity": "approximate over simulated risk"}
        yield compare(setting, predicted, quotient, error)


def _conventions(effort: Effort, progress: Progress) -> Result:
    progress("conversions", 0.0)
    exact = list(conversion_rows())
    progress("simulation", 0.3)
    written = list(written_rows(effort))
    progress("the approximate loss", 0.8)
    approximate = list(approximation_rows(effort))
    lines, marks = [], []
    for color, dim in enumerate((5, 20, 100)):
        lengths = np.unique(np.round(np.geomspace(2 * dim, 1e5, 30)))
        score, value = approximate_optimum(dim, lengths)
        error = approximation_error(icl.LinearRegression(dim=dim), ONE, lengths, score, value)
        lines.append(curve(f"d = {dim}", lengths, 1 + error, (), color))
        rows = [row for row in approximate if row.setting["d"] == dim]
        marks.append(points("", rows, "n", color))
    figure = Figure(
        "The approximate loss of He et al. over the exact risk",
        "prompt length n",
        "approximate / exact",
        "The approximate loss of one head (arXiv 2503.12734) over its exact risk, at the optimum of the "
        "approximation (lines), and over the risk of simulated layers (points, one standard error): "
        "it is right for large d and too small in low dimension, where long queries matter.",
        tuple(lines),
        tuple(marks),
        logy=False,
    )
    parts = (
        Part.of("conversions both ways, exact", exact),
        Part.of("layers and losses as the papers write them", written),
        Part.of("the approximate loss against simulated layers", approximate),
    )
    return parts, figure


# -- the claims ------------------------------------------------------------------------------------

register(
    multihead_claim(
        id="multihead-conventions",
        title="Conventions of other papers",
        statement="Losses and parameters of other papers are conversions of ours, in both directions. "
        "The approximate loss of He et al. is right for large dimension, and too small by a known "
        "factor in low dimension.",
        formulas=lambda: (
            icl.approximate_risk(GENERAL, icl.SoftmaxAttention(scores=[k], values=[v])),
            icl.approximation_error(GENERAL, ONE),
        ),
        experiment=_conventions,
    )
)
