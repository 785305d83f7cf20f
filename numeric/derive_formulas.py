"""The formulas of `icltheory derive` by study: their functions, arguments and defaults.

Exported: `Entry`, `STUDIES`, `FORMULAS` (all of them by name), `NEEDS`, `NOISELESS`, `listed`, which
shows them, and `needed`, which asks for the options that a formula must be given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from numeric import decoding_options, solver_options


@dataclass(frozen=True)
class Entry:
    """What a formula takes: names of arguments, in order; `*name` is the keyword argument `name`.

    `defaults` are texts of options.
    """

    function: str
    takes: tuple[str, ...]
    defaults: Mapping[str, str] = field(default_factory=dict)


def _entry(function: str, takes: str = "", **defaults: str) -> Entry:
    return Entry(function, tuple(takes.split()), defaults)


def _entries(table: Mapping[str, tuple[str, str, dict[str, str]]]) -> dict[str, Entry]:
    return {name: _entry(function, takes, **own) for name, (function, takes, own) in table.items()}


STUDIES: dict[str, dict[str, Entry]] = {
    "one head and several": {
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
    },
    "the embedding dimension": {
        "rank-floor": _entry("rank_floor", "task rank"),
        "width-constant": _entry("width_constant", "task count width", heads="2"),
        "block-constant": _entry("block_constant", "task blocks signs"),
        "equal-block-constant": _entry("equal_block_constant", "task count sign-sum", heads="H"),
        "block-dimension-limit": _entry("block_dimension_limit", "count sign-sum", heads="H"),
        "pair-constant": _entry("pair_constant", "task family"),
    },
    "finite prompts": {
        "finite-prompt-risk": _entry("finite_prompt_risk", "task layer", heads="2"),
        "optimal-finite-prompt-risk": _entry("optimal_finite_prompt_risk", "task layer", heads="2"),
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
    },
    "prior knowledge and local examples": {
        "prior-risk": _entry("prior_risk", "task", prior_var="prior_var"),
        "prior-crossing": _entry(
            "prior_crossing",
            "task heads",
            heads="2",
            prior_norm="prior_norm",
            prior_var="prior_var",
        ),
        "tight-prior-constant": _entry(
            "tight_prior_constant", "task heads", prior_norm="prior_norm", prior_var="prior_var"
        ),
        "optimal-tight-prior-constant": _entry(
            "optimal_tight_prior_constant",
            "task heads",
            prior_norm="prior_norm",
            prior_var="prior_var",
        ),
        "tight-prior-threshold": _entry(
            "tight_prior_threshold", "task heads", heads="2", prior_norm="prior_norm"
        ),
        "local-constant": _entry("local_constant", "task", local="rho,local_std"),
        "local-stationarity": _entry("local_stationarity", "task", local="rho,local_std"),
        "local-value-sum": _entry("local_value_sum", "task", local="rho,local_std"),
        "shift-floor": _entry(
            "shift_floor", "trained tested layer", heads="2", tested="rho,local_std"
        ),
    },
    "conventions, and features that are not Gaussian": {
        "convention-table": _entry("convention_table"),
        "approximate-risk": _entry("approximate_risk", "task heads", scores="k", values="v"),
        "approximation-error": _entry("approximation_error", "task heads"),
        "product-bias": _entry("product_bias", "task features"),
        "product-risk": _entry("product_risk", "task features layer", heads="2"),
        "optimal-product-risk": _entry("optimal_product_risk", "task features layer"),
        "product-head-constant": _entry(
            "product_head_constant", "task features", features="rademacher"
        ),
    },
    "long prompts, and training": {
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
    },
    "solvers of least squares": _entries(solver_options.FORMULAS),
    "decoding: chains, and selection among candidates": _entries(decoding_options.FORMULAS),
}
FORMULAS = {name: entry for study in STUDIES.values() for name, entry in study.items()}
# Options that a formula must be given, with examples that fit each other.
_MEAN = {"dim": "3"}  # a mean of the coefficients has entries
NEEDS: dict[str, dict[str, str]] = {
    "width-constant": {"dim": "6", "width": "6"},
    "block-constant": {"dim": "6", "blocks": "3,3"},
    "prior-crossing": _MEAN,
    "tight-prior-constant": _MEAN,
    "optimal-tight-prior-constant": _MEAN,
    "tight-prior-threshold": _MEAN,
}
# Without label noise, of which no option says anything.
# Expectations over all prompts, rare ones that a solver diverges on included.
LITERAL = (
    "solver-risk",
    "optimal-solver-risk",
    "solver-forgetting",
    "noisy-chain-risk",
    "prompt-loss",
)
NOISELESS = (
    "late-solver-risk",
    "overthinking-threshold",
    "optimal-chain-length",
    "split-risk",
    "split-law",
    "outcome-risk",
)


def needed(name: str, given: Iterable[str]) -> str:
    """What to say about the options that the formula must be given; "" if all of them are there."""
    needs = NEEDS.get(name, {})
    missing = [f"--{option.replace('_', '-')}" for option in needs if option not in given]
    if not missing:
        return ""
    example = " ".join(f"--{option.replace('_', '-')} {text}" for option, text in needs.items())
    return f"{name} needs {' and '.join(missing)}, for example icltheory derive {name} {example}."


def listed() -> str:
    """The names by study, one a line, with the first line of the function's documentation.

    Options that a formula needs are named at the end of its line.
    """
    import icltheory as icl

    width = max(map(len, FORMULAS))
    blocks = []
    for title, entries in STUDIES.items():
        lines = [f"{title}:"]
        for name, entry in entries.items():
            documentation = attrgetter(entry.function)(icl).__doc__ or ""
            needs = " and ".join(f"--{option}" for option in NEEDS.get(name, ()))
            line = f"    {name:{width}}  {documentation.partition(chr(10))[0]}".rstrip()
            lines.append(f"{line} Needs {needs}." if needs else line)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
