"""What `icltheory derive` knows about solvers: their formulas, and the options that make them.

Exported: `FORMULAS`, `OPTIONS`, `ARGUMENTS`, which `numeric.derive_command` adds to its own, and
`as_formula`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from icltheory.errors import InvalidInput
from numeric.text_numbers import number, positive, seed

# Formula -> function of icltheory, what it takes, and the defaults of options.
FORMULAS: dict[str, tuple[str, str, dict[str, str]]] = {
    "residual-filter": ("Solver.residual_filter", "solver steps", {}),
    "solver-steps": ("Solver.steps_formula", "tuned-solver", {}),
    "matched-steps": (
        "matched_steps",
        "solver other criterion *nu",
        {"solver": "newton", "criterion": "half"},
    ),
    "matching-constant": ("matching_constant", "criterion *nu", {"criterion": "half"}),
    "late-decay": ("late_decay", "solver nu steps", {}),
    "edge-cosine": ("edge_cosine", "nu", {}),
    "frobenius-cost": ("frobenius_cost", "", {}),
    "wishart-trace-moment": ("wishart_trace_moment", "power length dim", {}),
    "solver-risk": ("solver_risk", "solver steps length dim noise", {"steps": "1"}),
    "optimal-solver-risk": ("optimal_solver_risk", "solver steps length dim noise", {"steps": "1"}),
    "solver-forgetting": ("solver_forgetting", "solver steps length dim noise", {"steps": "1"}),
    "late-solver-risk": ("late_solver_risk", "solver steps length dim *order", {}),
    "optimal-ridge": ("optimal_ridge", "dim noise", {}),
}

OPTIONS = {
    "solver": ("KIND", "gradient-descent (default), newton, newton-identity, ridge, least-squares"),
    "other": ("KIND", "the solver to compare with, as --solver (default gradient-descent)"),
    "steps": ("T", "number of steps: a number, or steps (default)"),
    "step_size": ("E", "for S = X'X, of a chain for S/n: a number, or eta (default)"),
    "scale": ("A", "of Newton's start scale * S or scale * I: a number, or alpha (default)"),
    "penalty": ("P", "of ridge regression: a number, or penalty (default)"),
    "power": ("K", "power of S under the trace (default 3)"),
    "criterion": ("NAME", "of matched steps: half (default), risk or cosine"),
    "nu": ("NU", "|n - d|: a number, or nu (default)"),
}

_TUNED = ("gradient-descent", "newton", "newton-identity", "chebyshev", "heavy-ball", "nesterov")


def _solver(options: Any, option: str = "solver", default: str = "gradient-descent") -> Any:
    """A solver with its parameter, which is a number or a symbol."""
    import icltheory as icl
    from icltheory import symbols

    def scale() -> Any:
        return options.parsed("scale", number, "alpha", symbols.alpha)

    kinds: dict[str, Callable[[], Any]] = {
        "gradient-descent": lambda: icl.GradientDescent(
            options.parsed("step_size", number, "eta", symbols.eta)
        ),
        "newton": lambda: icl.IterativeNewton(scale()),
        "newton-identity": lambda: icl.IterativeNewton(scale(), start="I"),
        "ridge": lambda: icl.Ridge(options.parsed("penalty", number, "penalty", symbols.penalty)),
        "least-squares": icl.OrdinaryLeastSquares,
    }
    return _chosen(options, option, default, kinds)()


def _tuned(options: Any) -> Any:
    """A solver with the parameters that are best for the spectrum."""
    import icltheory as icl
    from icltheory.symbols import lam_max, lam_min

    kinds: tuple[Callable[[], Any], ...] = (
        icl.GradientDescent,
        icl.IterativeNewton,
        lambda: icl.IterativeNewton(start="I"),
        lambda: icl.Chebyshev(lam_min, lam_max),
        icl.HeavyBall,
        icl.Nesterov,
    )
    return _chosen(options, "solver", _TUNED[0], dict(zip(_TUNED, kinds, strict=True)))()


def _chosen(options: Any, option: str, default: str, kinds: dict[str, Any]) -> Any:
    kind = options.text(option, default)
    if kind not in kinds:
        raise InvalidInput(f"argument --{option}: {kind!r} is not one of {', '.join(kinds)}.")
    return kinds[kind]


def _steps(options: Any) -> Any:
    """A number of steps; None for a direct method, of which the option says nothing."""
    from icltheory import symbols

    if options.text("solver") in ("ridge", "least-squares"):
        return None
    return options.parsed("steps", seed, "steps", symbols.steps)


def _symbol_or(option: str, parse: Callable[[str], Any], symbol: str) -> Callable[[Any], Any]:
    def read(options: Any) -> Any:
        from icltheory import symbols

        return options.parsed(option, parse, symbol, getattr(symbols, symbol))

    return read


def _matching_nu(options: Any) -> Any:
    """|n - d|, of which the criterion "half" knows nothing."""
    from icltheory import symbols

    if options.text("criterion") == "half":
        return symbols.nu
    if options.text("criterion") == "cosine":  # an equation that is solved for a number
        return options.needed("nu", options.parsed("nu", seed), "0")
    return ARGUMENTS["nu"](options)


ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "solver": _solver,
    "tuned-solver": _tuned,
    "other": lambda options: _solver(options, "other"),
    "steps": _steps,
    "criterion": lambda options: options.text("criterion"),
    "nu": _symbol_or("nu", seed, "nu"),
    "*nu": _matching_nu,
    "*order": lambda options: options.parsed("order", positive, "2"),
    "power": lambda options: options.parsed("power", seed, "3"),
    "length": _symbol_or("length", positive, "n"),
    "dim": _symbol_or("dim", positive, "d"),
    "noise": _symbol_or("noise_var", number, "noise_var"),
}


def as_formula(found: Any, name: str) -> Any:
    """Expressions and solvers as formulas; what is one, or a table, a flow, ... stays."""
    import sympy as sp

    import icltheory as icl
    from icltheory.formula import DERIVED_HERE

    title = name.replace("-", " ")
    if isinstance(found, icl.Solver):
        return icl.Formula(
            f"{title}, residual filter", found.residual_filter(), references=(DERIVED_HERE,)
        )
    if isinstance(found, sp.Expr):
        return icl.Formula(title, found, references=(DERIVED_HERE,))
    return found
