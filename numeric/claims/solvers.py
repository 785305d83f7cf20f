"""Rates of solvers and the audit of published tables: Fu, Chen, Jia and Sharan (arXiv 2310.17086).

Claims that need no trained model; so are those in `solvers_equivalences` and `solvers_construction`.
Claims about trained models are in `solvers_models`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import icltheory as icl
from icltheory.formula import FU
from icltheory.symbols import frobenius, lam_max, lam_min
from numeric.audit import AUDITS
from numeric.claims.base import Claim, Effort, Part, Progress, Result, register
from numeric.claims.rows import ROUNDING, curve, limit_row, points
from numeric.compare import DEVIATES, Row, compare
from numeric.eigenbasis import PromptSpectra, prompt_spectra
from numeric.montecarlo import Estimate
from numeric.plot import Figure
from numeric.regression_prompts import solver_prompts
from numeric.solver_filters import conditional_risk, solver_residuals
from numeric.spectral_risk import solver_risk

DIM, LONG = 20, 40
NEWTON = icl.IterativeNewton(1 / frobenius)
PUBLISHED = icl.IterativeNewton(2 / frobenius)  # of the printed tables
DESCENT = icl.GradientDescent(0.01)

solver_claim = partial(Claim, paper="solvers", source=FU)


def mean_risk(risk: np.ndarray) -> Estimate:
    """The mean over prompts, (B,)."""
    return Estimate(float(risk.mean()), float(risk.std(ddof=1)) / math.sqrt(len(risk)), len(risk))


# -- rates -----------------------------------------------------------------------------------------

SOLVERS: dict[str, Any] = {
    "Newton from S": icl.IterativeNewton(),
    "Newton from the identity": icl.IterativeNewton(start="I"),
    "gradient descent": icl.GradientDescent(),
    "Chebyshev": icl.Chebyshev(lam_min, lam_max),
}
WORST = ((10, 1e-6), (100, 1e-4), (1000, 1e-4))


def scanned_steps(solver: Any, kappa: int, accuracy: float, most: int) -> int:
    """The first step with max |r| <= accuracy over a grid of [1, kappa], by evaluating every step."""
    values = np.concatenate([np.geomspace(1, kappa, 3001), np.linspace(1, kappa, 3001)])
    spectra = PromptSpectra(np.sort(values)[None, None], np.empty(0), np.empty(0), np.array([1]))
    counts = np.arange(most + 1)
    for part in np.array_split(counts, 1 + most // 400):
        worst = np.abs(solver_residuals(spectra, solver, part)[0, 0]).max(axis=-1)
        # Optimal parameters reach the accuracy at the ends of the interval, up to rounding.
        if np.any(found := worst <= accuracy * (1 + 1e-12)):
            return int(part[np.argmax(found)])
    return most + 1


def worst_case_rows() -> Iterator[Row]:
    """Steps to an accuracy on an interval, derived and scanned; and how they grow with kappa."""
    for kappa, accuracy in WORST:
        for name, solver in SOLVERS.items():
            derived = int(solver.optimal(1, kappa).steps_to(accuracy, 1, kappa))
            scanned = scanned_steps(solver, kappa, accuracy, derived + 3)
            setting = {"solver": name, "kappa": kappa, "accuracy": accuracy, "quantity": "steps"}
            yield compare(setting, derived, scanned, ROUNDING)
    # From kappa = 1e3 to 1e12 Newton adds steps in proportion to the logarithm; steps are integers.
    for name, exponent in (("Newton from S", 2), ("Newton from the identity", 1)):
        few, many = (int(SOLVERS[name].optimal(1, k).steps_to(1e-6, 1, k)) for k in (10**3, 10**12))
        setting = {"solver": name, "quantity": "more steps at kappa = 1e12 than at 1e3"}
        yield compare(setting, exponent * math.log2(1e9), many - few, 0.2, required=0.05)
    for name, exponent in (("gradient descent", 1.0), ("Chebyshev", 0.5)):
        few, many = (int(SOLVERS[name].optimal(1, k).steps_to(1e-4, 1, k)) for k in (10**2, 10**4))
        setting = {"solver": name, "quantity": "exponent of kappa between 1e2 and 1e4"}
        yield compare(setting, exponent, math.log(many / few) / math.log(100), 0.002)


def late_rows() -> Iterator[Row]:
    """Averaged over prompts, descent falls like a power, and Newton geometrically, never faster."""
    newton = icl.IterativeNewton(5e-5)
    for n in (DIM, DIM + 2):
        for solver, steps, later, words in (
            (DESCENT, (80_000, 320_000), lambda t: 2 * t, "risk at 2 t over risk at t"),
            (newton, (34, 38), lambda k: k + 1, "risk at k + 1 over risk at k"),
        ):
            law = icl.late_decay(solver, nu=n - DIM)
            (symbol,) = law.free_symbols
            first = steps[0]
            ratio = law.expr.subs(symbol, later(first)) / law.expr.subs(symbol, first)
            found = []
            for t in steps:
                risks = solver_risk(solver, [t, later(t)], n=n, d=DIM).value
                found.append(risks[1] / risks[0])
            setting = {"solver": solver.description, "n": n, "quantity": words}
            yield limit_row(setting, float(ratio), *found)


def simulated_risk(solver: Any, steps: int, n: int, prompts: int) -> Estimate:
    """Mean risk given the features, over prompts."""
    data = solver_prompts(DIM, n, prompts, seed=n)
    spectra = prompt_spectra(data.features, data.labels, [n])
    return mean_risk(conditional_risk(spectra, solver, [steps])[:, 0, 0])


def risk_rows(effort: Effort) -> Iterator[Row]:
    """Expected risks from the density of the eigenvalues, against sampled prompts."""
    for n in (DIM, LONG):
        for solver, steps in ((DESCENT, 10), (DESCENT, 50), (NEWTON, 5), (NEWTON, 8)):
            if solver is DESCENT and n == LONG and steps > 10:
                continue  # carried by a few prompts
            exact = solver_risk(solver, steps, n=n, d=DIM, samples=40_000, seed=7)
            measured = simulated_risk(solver, steps, n, effort.prompts // 20)
            error = math.hypot(measured.standard_error, exact.error if exact.sampled else 0.0)
            setting = {"solver": solver.description, "steps": steps, "n": n, "quantity": "risk"}
            yield compare(setting, float(exact), measured.value, error, required=0.1)


def rates(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on rates."""
    progress("worst-case steps", 0.0)
    worst = list(worst_case_rows())
    progress("averages over prompts", 0.3)
    late, risks = list(late_rows()), list(risk_rows(effort))
    progress("figure", 0.8)
    counts = np.unique(np.round(2.0 ** np.arange(0, 13.1, 0.5))).astype(int)
    newton = np.arange(1, 26)
    fixed = icl.IterativeNewton(5e-5)
    lines, marks = [], []
    for color, n in enumerate((DIM, LONG)):
        descent = solver_risk(DESCENT, counts, n=n, d=DIM).value
        lines.append(curve(f"gradient descent, n = {n}", counts, descent, (), color))
        risk = solver_risk(fixed, newton, n=n, d=DIM).value
        lines.append(curve(f"Newton from S, n = {n}", newton, risk, (), color))
        rows = [r for r in risks if r.setting["n"] == n and "descent" in r.setting["solver"]]
        marks.append(points(f"sampled prompts, n = {n}", rows, "steps", color))
    figure = Figure(
        "Second order against first order, averaged over prompts",
        "steps",
        "risk",
        f"Expected risk at d = {DIM} without label noise (lines, exact) and on sampled prompts (points). "
        "On one prompt gradient descent is geometric and Newton quadratic at last; averaged over "
        "prompts, whose smallest eigenvalues scatter, descent falls like a power of its steps and "
        "Newton geometrically, slowly at n = d.",
        tuple(lines),
        tuple(marks),
    )
    return (
        Part.of("steps in the worst case, exact", worst),
        Part.of("decay of averaged risks", late),
        Part.of("expected risk against sampled prompts", risks, 1.1),
    ), figure


# -- the published tables --------------------------------------------------------------------------


def audit(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on the published tables."""
    parts, other = [], []
    prompts = max(320, effort.prompts // 125)
    for i, (name, each) in enumerate(AUDITS.items()):
        progress(each.title, i / len(AUDITS))
        control = 1.5 if name == "descent-matches" else 1.03
        parts.append(Part(f"{each.table}: {each.title}", each.reproduced(prompts), control))
        rejected = each.rejected(prompts)
        count = sum(row.verdict == DEVIATES for row in rejected)
        setting = {"table": each.table, "column": each.title, "rejected": each.other}
        other.append(compare(setting, len(rejected), count, ROUNDING))
    parts.append(Part.of("conventions that the tables reject", other))
    shown = parts[list(AUDITS).index("newton-first-layer")].comparison.rows
    steps = [float(row.setting["steps"]) for row in shown]
    figure = Figure(
        "Layer 1 of the paper against Newton",
        "Newton steps",
        "similarity of errors",
        "Printed similarities of a first layer (points) and those of the zero predictor to Newton from "
        "2 S/||S^2||_F (line): nothing is fitted, and nothing was learned in that layer.",
        (curve("zero predictor, computed", steps, [row.prediction for row in shown]),),
        (
            curve(
                "printed",
                steps,
                [row.estimate for row in shown],
                [float(row.standard_error or 0) for row in shown],
                1,
            ),
        ),
        logx=False,
        logy=False,
    )
    return tuple(parts), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    solver_claim(
        id="solvers-rates",
        title="Second-order against first-order rates",
        statement="Newton needs 2 log2 kappa steps from S and log2 kappa from the identity, gradient "
        "descent kappa/2 log(1/accuracy), in the worst case. Averaged over prompts, descent falls like "
        "a power of its steps and Newton geometrically, never superlinearly.",
        formulas=lambda: (
            *(solver.steps_formula() for solver in SOLVERS.values()),
            icl.late_decay(DESCENT),
            icl.late_decay(icl.IterativeNewton(icl.symbols.alpha)),
        ),
        experiment=rates,
    )
)
register(
    solver_claim(
        id="solvers-audit",
        title="The published tables",
        statement="The printed similarities that involve no trained layer, or one that has learned "
        "nothing, come out of theory and simulation under stated conventions, which differ from those "
        "of the text; others are rejected.",
        formulas=lambda: (icl.frobenius_cost(), icl.matched_steps(PUBLISHED, DESCENT)),
        experiment=audit,
    )
)
