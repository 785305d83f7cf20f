"""Claims on solvers: which of them are equal or look alike, and what ill-conditioned data do.

Fu, Chen, Jia and Sharan (arXiv 2310.17086); no trained model is needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

import icltheory as icl
from icltheory.symbols import frobenius, lam_max, lam_min, trace
from numeric.best_step import best_match
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.rows import ROUNDING, curve, estimate_row, holds
from numeric.claims.solvers import DESCENT, DIM, LONG, NEWTON, PUBLISHED, mean_risk, solver_claim
from numeric.compare import Row, compare
from numeric.eigenbasis import PromptSpectra, prompt_spectra
from numeric.krylov import quasi_newton_weights
from numeric.plot import Figure, Series
from numeric.regression_prompts import SolverPrompts, solver_prompts
from numeric.similarity import similarity_of_errors
from numeric.similarity_theory import expected_similarity_of_errors
from numeric.solver_filters import conditional_risk
from numeric.solver_loops import step_solver
from numeric.solvers import run_solvers, solver_errors
from numeric.spectral_risk import solver_risk

# -- equivalences ----------------------------------------------------------------------------------


def same_iterates_rows() -> Iterator[Row]:
    """Newton from the identity is descent at 2^k steps, and BFGS is CG, step by literal step."""
    data = solver_prompts(5, 8, 4, seed=3)
    X, y = data.features, data.labels
    probe = np.random.default_rng(3).standard_normal(5)
    newton = step_solver(icl.IterativeNewton(0.02, start="I"), X, y, range(9)) @ probe
    descent = run_solvers(X, y, icl.GradientDescent(0.02), 2 ** np.arange(9), [8]).weights
    other = run_solvers(X, y, icl.GradientDescent(0.02), np.arange(6), [8]).weights[:, 0] @ probe
    descent = descent[:, 0] @ probe
    for k in (1, 4, 8):
        error = ROUNDING * float(np.abs(descent[0]).max())
        yield compare(
            {"pair": "Newton from I, descent", "steps": f"{k}, {2**k}"},
            descent[0, k],
            newton[0, k],
            error,
        )
    setting = {"pair": "Newton from I at 2, descent at 5", "quantity": "differ"}
    yield holds(setting, abs(newton[0, 2] - other[0, 5]) > 1e-3 * abs(other[0, 5]))
    cg = run_solvers(X, y, icl.ConjugateGradient(), range(1, 4), [8]).weights[:, 0] @ probe
    bfgs = quasi_newton_weights(X, y, range(1, 4)) @ probe
    for t in (1, 2, 3):
        error = 1e-10 * float(np.abs(cg[0]).max())
        yield compare(
            {"pair": "CG, BFGS", "steps": f"{t}, {t}"}, cg[0, t - 1], bfgs[0, t - 1], error
        )


def matched_rows(effort: Effort) -> tuple[list[Row], list[Row], Series, Series]:
    """Descent and CG steps most similar to those of Newton, by theory and on prompts."""
    data = solver_prompts(DIM, LONG + 1, effort.prompts // 100, coef_var=1, seed=11)
    X, y = data.features, data.labels
    spectra = prompt_spectra(X, y, np.arange(LONG + 1))
    newton = np.arange(6, 22)
    own = solver_errors(X, y, NEWTON, newton, spectra=spectra).errors
    grid = np.unique(np.round(2.0 ** (np.arange(8, 97) / 8)))
    errors = solver_errors(X, y, DESCENT, grid, spectra=spectra).errors
    options: dict[str, Any] = {"include_empty_prefix": True}
    match = best_match(similarity_of_errors(own, errors, **options), grid, bootstrap=200)
    krylov = np.arange(1, DIM + 4)
    errors = solver_errors(X, y, icl.ConjugateGradient(), krylov, spectra=spectra).errors
    linear = best_match(similarity_of_errors(own, errors, **options), krylov, bootstrap=200)

    some = newton[::3]
    theory = expected_similarity_of_errors(
        NEWTON, some, DESCENT, grid, points=LONG, d=DIM, include_empty_prefix=True, samples=200
    )
    predicted = grid[np.argmax(theory.value, axis=1)]
    rows = []
    for k, t in zip(some, predicted, strict=True):
        i = int(np.flatnonzero(newton == k)[0])
        assert match.step_interval is not None
        low, high = np.log2(match.step_interval[i])
        # The grid has a ratio of 2^(1/8), for the theory as well.
        error = math.hypot((high - low) / 3.92, 2**0.5 / 8 / 12**0.5)
        setting = {"newton steps": int(k), "quantity": "log2 of descent steps"}
        estimate = float(np.log2(match.best[i]))
        rows.append(compare(setting, float(np.log2(t)), estimate, error, required=0.15))
    law = icl.matched_steps(PUBLISHED, DESCENT)
    (symbol,) = law.free_symbols - {frobenius}
    step = law.expr.subs(symbol, 3) / law.expr.subs(symbol, 2)
    slope = match.slope(log=True, layers=newton)
    assert slope.interval is not None
    slopes = [
        compare(
            {"quantity": "log2 of descent steps, per Newton step"},
            math.log2(step),
            slope.value,
            (slope.interval[1] - slope.interval[0]) / 3.92,
            0.06,  # the law is the limit of many steps
            required=0.12,
        )
    ]
    used = ~linear.censored
    correlation = np.corrcoef(newton[used], linear.best[used])[0, 1]
    setting = {"quantity": "CG steps are linear in Newton steps as well: correlation above 0.99"}
    slopes.append(holds(setting, correlation > 0.99))
    return (
        rows,
        slopes,
        curve("gradient descent", newton, match.best, (), 0),
        curve("conjugate gradients", newton[used], linear.best[used], (), 1),
    )


def equivalences(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on equivalences."""
    progress("literal iterations", 0.0)
    same = list(same_iterates_rows())
    progress("matched steps", 0.2)
    rows, slopes, descent, krylov = matched_rows(effort)
    steps, doubled = zip(
        *((row.setting["newton steps"], 2**row.prediction) for row in rows), strict=True
    )
    law = curve("gradient descent, theory", steps, doubled)
    figure = Figure(
        "Steps most similar to those of Newton",
        "Newton steps",
        "steps",
        f"Best-matching steps by similarity of errors at d = {DIM}, prefixes 0 to {LONG}: gradient descent "
        "doubles every two Newton steps, as derived, and conjugate gradients grow linearly. A match "
        "with Newton implies these, so that they are no further evidence.",
        (law,),
        (descent, krylov),
        logx=False,
    )
    return (
        Part.of("the same iterates", same),
        Part.of("matched steps, theory against prompts", rows, 1.3),
        Part.of("growth of matched steps", slopes, 1.3),
    ), figure


# -- conditioning ----------------------------------------------------------------------------------

KAPPAS = (1, 10, 100)
ACCURACY = 1e-4


def covariance(kappa: int) -> list[float]:
    """Half of the eigenvalues kappa times the others, trace d."""
    low = 2 / (1 + kappa)
    return [kappa * low] * (DIM // 2) + [low] * (DIM // 2)


def conditioned(kappa: int, prompts: int) -> tuple[SolverPrompts, PromptSpectra]:
    """Prompts of full length with their decompositions."""
    data = solver_prompts(DIM, LONG, prompts, kappa=kappa, seed=kappa)
    return data, prompt_spectra(data.features, data.labels, [LONG])


def first_steps(solver: Any, steps: Any, kappa: int, prompts: int) -> tuple[int, float]:
    """The first of the steps with mean risk below the accuracy, and its bootstrap standard error."""
    data, spectra = conditioned(kappa, prompts)
    risk = conditional_risk(spectra, solver, steps, cov=data.covariance)[:, 0]
    rng = np.random.default_rng(0)
    weights = rng.multinomial(prompts, np.full(prompts, 1 / prompts), 200) / prompts
    found = np.asarray(steps)[np.argmax(weights @ risk < ACCURACY, axis=1)]
    first = np.asarray(steps)[np.argmax(risk.mean(axis=0) < ACCURACY)]
    return int(first), float(np.std(found))


def exact_conditioning_rows(effort: Effort) -> Iterator[Row]:
    """Risks of the first steps, exact in n, d and the covariance, against prompts."""
    for kappa in KAPPAS:
        data, spectra = conditioned(kappa, effort.prompts // 20)
        for solver, steps in (
            (icl.GradientDescent(0.002), 1),
            (icl.GradientDescent(0.002), 2),
            (icl.IterativeNewton(2e-5), 0),
        ):
            exact = float(icl.solver_risk(solver, steps, LONG, DIM, cov=covariance(kappa)))
            risk = conditional_risk(spectra, solver, [steps], cov=data.covariance)[:, 0, 0]
            setting = {"kappa": kappa, "solver": solver.description, "steps": steps}
            yield estimate_row({**setting, "quantity": "risk"}, exact, mean_risk(risk))


def step_rows(effort: Effort) -> tuple[list[Row], dict[str, list[int]]]:
    """Steps to the accuracy: Newton adds few, first-order methods multiply."""
    prompts = effort.prompts // 100
    grid = np.unique(np.round(2.0 ** (np.arange(40, 141) / 10)))
    kinds: dict[str, tuple[Any, Any]] = {
        "Newton from S": (PUBLISHED, np.arange(40)),
        "Newton from the identity": (icl.IterativeNewton(1 / trace, start="I"), np.arange(30)),
        "gradient descent": (icl.GradientDescent(), grid),
        "Chebyshev": (icl.Chebyshev(lam_min, lam_max), np.arange(1, 200)),
    }
    rows, table = [], {}
    for name, (solver, steps) in kinds.items():
        table[name] = []
        for kappa in KAPPAS:
            first, error = first_steps(solver, steps, kappa, prompts)
            risks = solver_risk(
                solver, steps, n=LONG, d=DIM, cov=covariance(kappa), samples=2 * prompts, seed=5
            ).value
            predicted = float(np.asarray(steps)[np.argmax(risks < ACCURACY)])
            table[name].append(first)
            # Integers, or a grid of ratio 2^0.1; both sides are sampled.
            spacing = 1.0 if steps[1] - steps[0] == 1 else 0.07 * first
            spread = math.sqrt(2 * error**2 + spacing**2 / 6)
            setting = {"kappa": kappa, "solver": name, "quantity": "steps to risk 1e-4"}
            rows.append(compare(setting, predicted, first, spread, required=0.5))
    return rows, table


def conditioning(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on ill-conditioned data."""
    progress("first steps, exact", 0.0)
    exact = list(exact_conditioning_rows(effort))
    progress("steps to an accuracy", 0.3)
    rows, table = step_rows(effort)
    bound = 2 * math.log2(KAPPAS[-1])
    added = table["Newton from S"][-1] - table["Newton from S"][0]
    growth = {name: counts[-1] / counts[0] for name, counts in table.items()}
    ordered = [
        holds({"quantity": f"Newton adds {added} steps, at most {bound:.1f}"}, 4 < added < bound),
        *(
            holds(
                {"quantity": f"{name} needs {growth[name]:.3g} times the steps"}, low < growth[name]
            )
            for name, low in (("gradient descent", 20), ("Chebyshev", 4))
        ),
        holds(
            {"quantity": f"Newton needs {growth['Newton from S']:.3g} times the steps, below 2.2"},
            growth["Newton from S"] < 2.2,
        ),
    ]
    figure = Figure(
        "Ill-conditioned data",
        "condition number of the features",
        "steps to risk 1e-4",
        f"First step with mean risk below 1e-4 at d = {DIM}, n = {LONG}, on sampled prompts. Newton adds a "
        "few steps, which are matrix products; descent, at the best step size for every prompt, and "
        "Chebyshev multiply theirs, which are matrix-vector products.",
        (),
        tuple(curve(name, KAPPAS, table[name], (), i) for i, name in enumerate(table)),
    )
    return (
        Part.of("risk of the first steps, exact", exact),
        Part.of("steps to an accuracy, two samplers", rows, 2.0),
        Part.of("growth from kappa = 1 to 100", ordered),
    ), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    solver_claim(
        id="solvers-equivalences",
        title="Families that look alike",
        statement="Newton from the identity is gradient descent at 2^k steps. From S it is matched by "
        "descent at steps that double every two of its own, and by conjugate gradients linearly: a "
        "linear match with Newton steps does not tell these families apart.",
        formulas=lambda: (
            icl.matched_steps(PUBLISHED, DESCENT),
            icl.matched_steps(PUBLISHED, DESCENT, "risk"),
        ),
        experiment=equivalences,
    )
)
register(
    solver_claim(
        id="solvers-conditioning",
        title="Ill-conditioned data",
        statement="Newton needs a few more steps on ill-conditioned data, at most 2 log2 kappa; first-order "
        "methods multiply theirs.",
        formulas=lambda: (
            icl.IterativeNewton().steps_law(),
            icl.GradientDescent().steps_law(),
            icl.solver_risk(icl.GradientDescent(icl.symbols.eta), 1),
        ),
        experiment=conditioning,
    )
)
