"""`icltheory derive`: print a formula with its validity and source.

A table says of every formula which function of icltheory derives it and what arguments that takes;
each argument reads the options that concern it, and an option that no argument reads is refused.
Exported: `add_options`, `run`, `FORMULAS`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from operator import attrgetter
from typing import Any

from icltheory.errors import InvalidInput
from numeric import decoding_options, solver_options
from numeric.formula_forms import FORMS
from numeric.text_numbers import number, positive


@dataclass(frozen=True)
class Entry:
    """What a formula takes: names of `_ARGUMENTS`, in order; `*name` is the keyword argument `name`.

    `defaults` are texts of options.
    """

    function: str
    takes: tuple[str, ...]
    defaults: Mapping[str, str] = field(default_factory=dict)


def _entry(function: str, takes: str = "", **defaults: str) -> Entry:
    return Entry(function, tuple(takes.split()), defaults)


FORMULAS = {
    "loss-constant": _entry("loss_constant", "task layer"),
    "optimal-loss-constant": _entry("optimal_loss_constant", "task layer"),
    "lower-bound": _entry("lower_bound", "task"),
    "multihead-gain": _entry("multihead_gain", "task"),
    "one-head-bounds": _entry("one_head_bounds", "task"),
    "gain-bounds": _entry("gain_bounds", "task"),
    "head-constant": _entry("head_constant", "task scores values", scores="1/4", values="4"),
    "optimal-values": _entry("optimal_values", "task scores", scores="k,-k"),
    "consistency": _entry("consistency_condition", "task heads"),
    "limit-risk": _entry("limit_risk", "task layer", scores="k", values="v"),
    "head-floor": _entry("head_floor", "task heads", scores="k", values="v"),
    # The embedding dimension.
    "rank-floor": _entry("rank_floor", "task rank"),
    "width-constant": _entry("width_constant", "task count width", heads="2"),
    "block-constant": _entry("block_constant", "task blocks signs"),
    "equal-block-constant": _entry("equal_block_constant", "task count sign-sum"),
    "block-dimension-limit": _entry("block_dimension_limit", "count sign-sum"),
    "pair-constant": _entry("pair_constant", "task family"),
    # Finite prompts.
    "finite-prompt-risk": _entry("finite_prompt_risk", "task layer"),
    "optimal-finite-prompt-risk": _entry("optimal_finite_prompt_risk", "task layer"),
    "small-pair-risk": _entry("small_pair_risk", "task heads", heads="2"),
    "pair-slope": _entry("pair_slope", "task heads", heads="2"),
    "pair-scale": _entry("pair_scale", "task"),
    "pair-gain": _entry("pair_gain", "task"),
    "least-squares-risk": _entry("least_squares_risk", "task"),
    "bayes-risk-expansion": _entry("bayes_risk_expansion", "task order"),
    "risk-exponent": _entry("risk_exponent"),
    "correction-exponent": _entry("correction_exponent"),
    "proportional-risk": _entry("proportional_risk", "task layer"),
    "optimal-proportional-risk": _entry("optimal_proportional_risk", "task layer"),
    "proportional-gain": _entry("proportional_gain", "task"),
    # Prior knowledge and local examples.
    "prior-risk": _entry("prior_risk", "task", prior_var="prior_var"),
    "prior-crossing": _entry(
        "prior_crossing", "task heads", heads="2", prior_norm="prior_norm", prior_var="prior_var"
    ),
    "tight-prior-constant": _entry(
        "tight_prior_constant", "task heads", prior_norm="prior_norm", prior_var="prior_var"
    ),
    "optimal-tight-prior-constant": _entry(
        "optimal_tight_prior_constant", "task heads", prior_norm="prior_norm", prior_var="prior_var"
    ),
    "tight-prior-threshold": _entry(
        "tight_prior_threshold", "task heads", heads="2", prior_norm="prior_norm"
    ),
    "local-constant": _entry("local_constant", "task", local="rho,local_std"),
    "local-stationarity": _entry("local_stationarity", "task", local="rho,local_std"),
    "local-value-sum": _entry("local_value_sum", "task", local="rho,local_std"),
    "shift-floor": _entry("shift_floor", "trained tested layer", heads="2", tested="rho,local_std"),
    # Conventions, and features that are not Gaussian.
    "convention-table": _entry("convention_table"),
    "approximate-risk": _entry("approximate_risk", "task heads", scores="k", values="v"),
    "approximation-error": _entry("approximation_error", "task heads"),
    "product-bias": _entry("product_bias", "task features"),
    "product-risk": _entry("product_risk", "task features layer", heads="2"),
    "optimal-product-risk": _entry("optimal_product_risk", "task features layer"),
    "product-head-constant": _entry(
        "product_head_constant", "task features", features="rademacher"
    ),
    # Long prompts, and training.
    "infinite-prompt-risk": _entry("infinite_prompt_risk", "task"),
    "risk-gradients": _entry("risk_gradients", "task"),
    "gradient-flow": _entry("gradient_flow", "task"),
    "convergence-rates": _entry("convergence_rates", "task"),
    "linear-attention-risk": _entry("linear_attention_risk", "task length"),
    "optimal-linear-attention": _entry("optimal_linear_attention", "task"),
    "valley-constant": _entry("valley_constant", "task"),
    "optimal-valley-constant": _entry("optimal_valley_constant", "task"),
    "endpoint-constant": _entry("endpoint_constant", "task"),
    "valley-drift": _entry("valley_drift", "task"),
    "phase-exponent": _entry("phase_exponent"),
    "concentration-exponent": _entry("concentration_exponent"),
    "slow-decay-law": _entry("slow_decay_law"),
    # Solvers of least squares, and decoding.
    **{
        name: _entry(function, takes, **defaults)
        for table in (solver_options.FORMULAS, decoding_options.FORMULAS)
        for name, (function, takes, defaults) in table.items()
    },
}

_ATTENTIONS = ("softmax", "linear", "linear-centered")
_FEATURES = ("cumulants", "uniform", "rademacher", "laplace")
_LAW = "RHO,STD: x_i | x_q ~ N(RHO x_q, STD^2 I); numbers, or the words rho and local_std"
# Option -> how it is shown, and what it means.
_OPTIONS = {
    "dim": ("D", "dimension: a number, or d (default)"),
    "noise_var": ("S", "label noise: a number, or noise_var (default)"),
    "prior_var": ("W", "coefficients have covariance W/d I: a number (default 1), or prior_var"),
    "prior_norm": ("N", "squared norm of their mean: a number (default 0), or prior_norm"),
    "local": ("LAW", f"local examples, {_LAW}"),
    "tested": ("LAW", f"examples of the test, {_LAW}"),
    "attention": ("KIND", f"one of {', '.join(_ATTENTIONS)} (default softmax)"),
    "heads": ("H", "number of heads; where it may be a symbol, the word H"),
    "scores": ("K,..", "score scales of scalar heads: numbers, or k and -k; --scores=-1,1"),
    "values": ("V,..", "their values: numbers, or v and -v"),
    "features": ("LAW", f"law of a coordinate, one of {', '.join(_FEATURES)}"),
    "rank": ("R", "total rank of the scores: a number, or rank (default)"),
    "width": ("P", "embedding width"),
    "blocks": ("D,..", "dimensions of the blocks"),
    "signs": ("E,..", "signs of the blocks (default all 1)"),
    "sign_sum": ("S", "sum of the signs (default: all 1)"),
    "family": ("NAME", "of two heads: symmetric (default), one-sided or block"),
    "order": ("J", "number of terms (default 2)"),
    **solver_options.OPTIONS,
    **decoding_options.OPTIONS,
}
_FLAGS = {
    "include_query": "the query token is inside the softmax",
    "skip": "a path from the query to the prediction",
    "feature_values": "values read features",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `icltheory derive`."""
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(FORMULAS)}")
    for name, (shown, text) in _OPTIONS.items():
        parser.add_argument(f"--{_dashed(name)}", metavar=shown, help=text)
    for name, text in _FLAGS.items():
        parser.add_argument(f"--{_dashed(name)}", action="store_true", default=None, help=text)
    form = parser.add_mutually_exclusive_group()
    for kind, text in (
        ("text", "with the derivation (default)"),
        ("latex", "LaTeX"),
        ("python", "a Python function"),
    ):
        form.add_argument(f"--{kind}", dest="form", action="store_const", const=kind, help=text)
    parser.set_defaults(form="text")


def run(arguments: Any) -> int:
    """Derive and print; returns the exit status 0."""
    import icltheory as icl

    if arguments.name not in FORMULAS:
        close = get_close_matches(arguments.name, FORMULAS, 3, 0.5)
        meant = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise InvalidInput(
            f"there is no formula {arguments.name}{meant}; formulas: {', '.join(FORMULAS)}."
        )
    entry = FORMULAS[arguments.name]
    function = attrgetter(entry.function)(icl)
    options = _Options(arguments, entry, getattr(function, "supports", frozenset()))
    values = [_ARGUMENTS[kind](options) for kind in entry.takes if kind[0] != "*"]
    named = {kind[1:]: _ARGUMENTS[kind](options) for kind in entry.takes if kind[0] == "*"}
    for name in options.given:
        if name not in options.read:
            raise InvalidInput(
                f"--{_dashed(name)} says nothing about {arguments.name}; leave it out."
            )
    found = solver_options.as_formula(function(*values, **named), arguments.name)
    if isinstance(found, list):
        print(_table(found, arguments))
        return 0
    if isinstance(found, icl.Flow):
        found = {str(variable): velocity for variable, velocity in found.velocity}
    formulas = found.values() if isinstance(found, dict) else found
    formulas = [found] if isinstance(found, icl.Formula) else formulas
    print("\n\n".join(FORMS[arguments.form](formula) for formula in formulas))
    return 0


# -- options ---------------------------------------------------------------------------------------


class _Options:
    """What the user gave; arguments ask for it, and what nobody asks for says nothing.

    `supports`: the options of tasks and layers that the function knows.
    """

    def __init__(self, arguments: Any, entry: Entry, supports: frozenset[str]) -> None:
        self.name, self.supports, self.defaults = arguments.name, supports, entry.defaults
        given = {name: getattr(arguments, name) for name in (*_OPTIONS, *_FLAGS)}
        self.given = {name: value for name, value in given.items() if value is not None}
        self.read: set[str] = set()

    def text(self, name: str, default: str | None = None) -> Any:
        """The text of an option: given, or the formula's own, or this default."""
        self.read.add(name)
        return self.given.get(name, self.defaults.get(name, default))

    def parsed(
        self, name: str, parse: Callable[[str], Any], default: str | None = None, *words: Any
    ) -> Any:
        """One number by `parse`, or the symbol of one of the words."""
        text = self.text(name, default)
        return None if text is None else self._one(name, text, parse, words)

    def listed(self, name: str, parse: Callable[[str], Any], *words: Any) -> list[Any] | None:
        """Numbers or words, separated by commas."""
        text = self.text(name)
        if text is None:
            return None
        return [self._one(name, part, parse, words) for part in text.split(",")]

    def needed(self, name: str, value: Any, example: str) -> Any:
        """The value, which there must be."""
        if value is None:
            option = f"--{_dashed(name)}"
            raise InvalidInput(f"{self.name} needs {option}, for example {option} {example}.")
        return value

    def _one(self, name: str, text: str, parse: Callable[[str], Any], words: Any) -> Any:
        for word in words:
            if text == str(word):
                return word
        try:
            return parse(text)
        except argparse.ArgumentTypeError as error:
            known = " or ".join(map(str, words))
            meant = f"; pass one, or the word {known} for the symbol" if words else ""
            raise InvalidInput(f"argument --{_dashed(name)}: {error}{meant}.") from error

    def flags(self) -> dict[str, Any]:
        """The options of a softmax layer that the function supports, where they are in use."""
        known = [name for name in _FLAGS if name in self.supports]
        return {name: True for name in known if self.text(name)}


def _task(options: _Options, law: str | None) -> Any:
    """The task; `law` names the option that holds the law of local examples."""
    import icltheory as icl
    from icltheory import symbols

    dim = options.parsed("dim", positive, "d", symbols.d)
    noise = options.parsed("noise_var", number, "noise_var", symbols.noise_var)
    scenario: dict[str, Any] = {}
    variance = options.parsed("prior_var", number, None, symbols.prior_var)
    if variance is not None:
        scenario["coef_cov"] = variance / dim
    if "coef_mean" in options.supports:
        norm = options.parsed("prior_norm", number, None, symbols.prior_norm)
        scenario["coef_mean"] = None if norm is None else _mean(options, dim, norm)
    if law is not None:
        scenario["local"] = options.listed(law, number, symbols.rho, symbols.local_std)
    return icl.LinearRegression(dim=dim, noise_var=noise, **scenario)


def _usual_task(options: _Options) -> Any:
    return _task(options, "local" if "local" in options.supports else None)


def _mean(options: _Options, dim: Any, norm: Any) -> list[Any]:
    """A mean of this squared norm: with isotropic covariances its direction does not matter."""
    import sympy as sp

    if not isinstance(dim, int):
        raise InvalidInput(f"{options.name} with a prior mean needs a number for --dim, e.g. 3.")
    if norm.is_negative:
        raise InvalidInput(f"argument --prior-norm: {norm} is negative; a squared norm is not.")
    return [sp.sqrt(norm), *[0] * (dim - 1)]


def _heads(options: _Options) -> Any:
    """A softmax layer: a number of heads, or their scores and values."""
    import icltheory as icl
    from icltheory.symbols import k, v

    scores = options.listed("scores", number, k, -k)
    if scores is None:
        return icl.SoftmaxAttention(options.parsed("heads", positive, "1"), **options.flags())
    return icl.SoftmaxAttention(
        options.parsed("heads", positive),
        scores=scores,
        values=options.listed("values", number, v, -v),
        **options.flags(),
    )


def _layer(options: _Options) -> Any:
    import icltheory as icl

    kind = options.text("attention", "softmax")
    if kind not in _ATTENTIONS:
        raise InvalidInput(
            f"argument --attention: {kind!r} is not one of {', '.join(_ATTENTIONS)}."
        )
    if kind == "softmax":
        return _heads(options)
    for name in ("heads", "scores", "values", *_FLAGS):
        if name in options.given:
            raise InvalidInput(
                f"--{_dashed(name)} says nothing about linear attention; leave it out."
            )
    return icl.LinearAttention(centered=kind == "linear-centered")


def _features(options: _Options) -> Any:
    import sympy as sp

    import icltheory as icl
    from icltheory.symbols import kappa_4, kappa_6

    kind = options.text("features", "cumulants")
    if kind not in _FEATURES:
        raise InvalidInput(f"argument --features: {kind!r} is not one of {', '.join(_FEATURES)}.")
    return {
        "cumulants": lambda: icl.CoordinateCumulants([1, kappa_4, kappa_6]),
        "uniform": lambda: icl.UniformCube(dim=1, half_width=sp.sqrt(3)),
        "rademacher": lambda: icl.Rademacher(dim=1),
        "laplace": lambda: icl.Laplace(dim=1, scale=1 / sp.sqrt(2)),
    }[kind]()


def _symbol(name: str) -> Any:
    from icltheory import symbols

    return getattr(symbols, name)


# Argument -> its value, from the options that it reads.
_ARGUMENTS: dict[str, Callable[[_Options], Any]] = {
    "task": _usual_task,
    "trained": lambda options: _task(options, "local"),
    "tested": lambda options: _task(options, "tested"),
    "layer": _layer,
    "heads": _heads,
    "scores": lambda options: options.listed("scores", number, _symbol("k"), -_symbol("k")),
    "values": lambda options: options.listed("values", number),
    "features": _features,
    "count": lambda options: options.parsed("heads", positive, "H", _symbol("H")),
    "sign-sum": lambda options: options.parsed("sign_sum", number),
    "rank": lambda options: options.parsed("rank", positive, "rank", _symbol("rank")),
    "width": lambda options: options.needed("width", options.parsed("width", positive), "8"),
    "blocks": lambda options: options.needed("blocks", options.listed("blocks", positive), "3,3"),
    "signs": lambda options: options.listed("signs", number),
    "family": lambda options: options.text("family", "symmetric"),
    "order": lambda options: options.parsed("order", positive, "2"),
    **solver_options.ARGUMENTS,
    **decoding_options.ARGUMENTS,
}


def _dashed(name: str) -> str:
    return name.replace("_", "-")


# -- tables ----------------------------------------------------------------------------------------


def _table(rows: list[dict[str, str]], arguments: Any) -> str:
    """Rows of text, one block a row."""
    if arguments.form != "text":
        raise InvalidInput(f"{arguments.name} is a table of words, no formula; use --text.")
    blocks = []
    for row in rows:
        (_, title), *rest = row.items()
        blocks.append("\n".join([f"{title}:", *(f"    {key}: {x}" for key, x in rest if x)]))
    return "\n\n".join(blocks)
