"""Claims on networks whose weights are written down, and on what `finite.identify` says of them.

The constructive theorem of Fu, Chen, Jia and Sharan (arXiv 2310.17086), corrected; and the negative
control of every identification: models that run a known solver.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import icltheory as icl
from icltheory.symbols import frobenius, trace
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.rows import ROUNDING, curve, holds
from numeric.claims.solvers import solver_claim
from numeric.compare import Row, compare
from numeric.eigenbasis import prompt_spectra
from numeric.plot import Figure
from numeric.solvers import run_solvers

# -- the construction ------------------------------------------------------------------------------

SIZES = ((12, 5), (5, 12), (8, 8))
STARTS = {"S": 1 / frobenius, "I": 1 / trace}


def prompt(n: int, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One prompt of n examples: X, y and the query."""
    rng = np.random.default_rng(n)
    X, w, query = (rng.standard_normal(shape) for shape in ((1, n, d), (1, d), (1, d)))
    return X, np.einsum("bnd,bd->bn", X, w), query


def network(n: int, d: int, steps: int, start: str, **options: Any) -> Any:
    """The network that runs Newton on `prompt(n, d)`."""
    from numeric import finite

    X, y, _ = prompt(n, d)
    scale = float(prompt_spectra(X, y, [n]).evaluate(STARTS[start])[0, 0, 0])
    return finite.newton_transformer(d, n, steps, scale, start, **options)


def iterate_rows() -> tuple[list[Row], list[Row]]:
    """Output of the networks against the filter of the iterate, to 1e-12; and their layers."""
    outputs, layers = [], []
    for n, d in SIZES:
        X, y, query = prompt(n, d)
        for start, rule in STARTS.items():
            solver = icl.IterativeNewton(rule, start=start)
            for steps in (0, 1, 4, 8):
                weights = run_solvers(X, y, solver, [steps], prefixes=[n]).weights[0, 0, 0]
                reference = float(weights @ query[0])
                for layout in ("short", "published"):
                    made = network(n, d, steps, start, layout=layout)
                    setting = {"layout": layout, "start": start, "n": n, "d": d, "steps": steps}
                    error = 2e-13 * max(1.0, abs(reference))
                    outputs.append(compare(setting, reference, float(made(X, y, query)), error))
                    more = 8 if layout == "published" else 2 if start == "S" else 1
                    layers.append(compare(setting, steps + more, len(made.layers), ROUNDING))
    return outputs, layers


def broken_rows() -> list[Row]:
    """What the printed signs, a causal mask and another scale of the features do."""
    rows = []
    for n, d in SIZES:
        X, y, query = prompt(n, d)
        for start in STARTS:
            good = float(network(n, d, 4, start)(X, y, query))
            for words, options in (
                ("printed signs", {"signs": "printed"}),
                ("causal mask", {"causal": True}),
            ):
                other = float(network(n, d, 4, start, **options)(X, y, query))
                gap = abs(other - good) / abs(good)
                setting = {"start": start, "n": n, "d": d}
                words = f"{words} change the prediction by the factor {gap:.2g}"
                rows.append(holds({**setting, "quantity": words}, gap > 0.01))
        # alpha lam_max^2 grows with the fourth power of the features' scale.
        far = abs(float(network(n, d, 4, "S")(2 * X, 2 * y, query)))
        words = f"features times 2, same weights: prediction {far:.2g}"
        rows.append(holds({"start": "S", "n": n, "d": d, "quantity": words}, far > 1e3))
    return rows


def construction(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on the construction."""
    progress("networks", 0.0)
    outputs, layers = iterate_rows()
    wrong = broken_rows()
    n, d = SIZES[0]
    X, y, query = prompt(n, d)
    steps = np.arange(9)
    least = float(
        run_solvers(X, y, icl.OrdinaryLeastSquares(), prefixes=[n]).weights[0, 0, 0] @ query[0]
    )
    lines, marks = [], []
    for color, (start, rule) in enumerate(STARTS.items()):
        solver = icl.IterativeNewton(rule, start=start)
        weights = run_solvers(X, y, solver, steps, prefixes=[n]).weights[0, 0]
        lines.append(curve(f"iterate from {start}", steps, weights @ query[0], (), color))
        made = [float(network(n, d, int(k), start)(X, y, query)) for k in steps]
        marks.append(curve(f"network, k + {2 - color} layers", steps, made, (), color))
    lines.append(curve("least squares", steps, np.full(len(steps), least), (), 6))
    figure = Figure(
        "Networks that run Newton",
        "steps k",
        "prediction",
        f"Prediction of networks with given weights (points) and of the iterate (lines) on a prompt of {n} "
        f"examples in {d} dimensions.",
        tuple(lines),
        tuple(marks),
        logx=False,
        logy=False,
    )
    return (
        Part.of("the network's output is the iterate, to 1e-12", outputs),
        Part.of("number of layers", layers),
        Part.of("what breaks it", wrong),
    ), figure


# -- models that run a known solver ----------------------------------------------------------------

IDENTIFIED_DIM, IDENTIFIED_LENGTH = 5, 15
KNOWN: dict[str, tuple[Any, str]] = {
    "gradient descent, step 0.021": (icl.GradientDescent(0.021), "gradient descent"),
    "Newton from S": (icl.IterativeNewton(1 / frobenius), "Newton from S"),
    "conjugate gradients": (icl.ConjugateGradient(), "conjugate gradients"),
}
EQUAL = {"gradient descent", "Newton from the identity"}


def identified(model: Any, effort: Effort) -> Any:
    """What `finite.identify` finds on prompts without noise."""
    from numeric import finite

    task = icl.LinearRegression(dim=IDENTIFIED_DIM)
    length = getattr(model, "prompt_length", IDENTIFIED_LENGTH)
    return finite.identify(model, task, length, prompts=effort.prompts // 400, bootstrap=400)


def known_rows(effort: Effort) -> tuple[list[Row], list[Row], Any]:
    """Names and steps of models that run a solver one step a layer; and of the cases without answer."""
    from numeric import finite

    names, steps, shown = [], [], None
    for words, (solver, family) in KNOWN.items():
        found = identified(finite.SolverModel(solver, IDENTIFIED_DIM, 4), effort)
        shown = shown or found
        setting = {"model": words, "quantity": f"named: {found.solver}"}
        names.append(holds(setting, found.solver == family))
        for layer, step in enumerate(found.match(family).steps, start=1):
            setting = {"model": words, "layer": layer, "quantity": "matched step"}
            steps.append(compare(setting, layer, step, ROUNDING))
    network = finite.gradient_transformer(IDENTIFIED_DIM, 12, 7, 0.02)
    found = identified(network, effort)
    words = "network with the weights of descent, 7 layers"
    setting = {"model": words, "quantity": f"named: {found.solver}"}
    names.append(holds(setting, found.solver == "gradient descent"))
    setting = {"model": words, "layer": 1, "quantity": "matched step"}
    steps.append(compare(setting, 7, found.match("gradient descent").steps[0], ROUNDING))
    fitted = found.match("gradient descent").fitted
    setting = {"model": words, "layer": 1, "quantity": "fitted step size"}
    steps.append(compare(setting, 0.02, float("nan") if fitted is None else fitted, 1e-6))

    same = icl.IterativeNewton(1 / trace, start="I")
    found = identified(finite.SolverModel(same, IDENTIFIED_DIM, 4), effort)
    setting = {"model": "Newton from the identity", "quantity": "undecided: it is descent too"}
    names.append(holds(setting, found.solver is None and set(found.verdict.families) == EQUAL))
    found = identified(least_squares, effort)
    setting = {
        "model": "least squares",
        "quantity": f"named: {found.solver}, where all solvers end",
    }
    names.append(holds(setting, found.solver == "least squares" and found.steps is None))
    return names, steps, shown


def least_squares(X: np.ndarray, y: np.ndarray, query: np.ndarray) -> np.ndarray:
    """The minimum-norm solution."""
    weights = np.linalg.pinv(X) @ y[..., None]
    return np.einsum("bd,bd->b", weights[..., 0], query)


def identification(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on identification."""
    progress("models that run a known solver", 0.0)
    names, steps, shown = known_rows(effort)
    return (
        Part.of("the family that is named", names),
        Part.of("the matched step of every layer", steps),
    ), shown.figure


# -- the claims ------------------------------------------------------------------------------------

register(
    solver_claim(
        id="solvers-construction",
        title="A network that runs Newton",
        statement="Written-down weights run k steps of Newton in k + 8 layers as published, with opposite "
        "values in each pair of heads, and in k + 2 (from S) or k + 1 layers (from the identity). The "
        "printed signs fail, and so do a causal mask and another scale of the features.",
        formulas=lambda: (icl.IterativeNewton(icl.symbols.alpha).steps_formula(),),
        experiment=construction,
    )
)
register(
    solver_claim(
        id="solvers-identification",
        title="Models that run a known solver are identified as such",
        statement="Gradient descent, Newton and conjugate gradients are named with the right step where a "
        "model runs them; what has the same iterates, and what has converged, stays undecided.",
        formulas=lambda: (
            icl.matched_steps(
                icl.IterativeNewton(1 / trace, start="I"), icl.GradientDescent(1 / trace)
            ),
        ),
        experiment=identification,
    )
)
