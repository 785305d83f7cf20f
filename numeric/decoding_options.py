"""What `icltheory derive` knows about decoding: its formulas, and the options that make them.

Exported: `FORMULAS`, `OPTIONS`, `ARGUMENTS`, which `numeric.derive_command` adds to its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from icltheory.errors import InvalidInput
from numeric.text_numbers import number, positive, seed

# Formula -> function of icltheory, what it takes, and the defaults of options.
FORMULAS: dict[str, tuple[str, str, dict[str, str]]] = {
    "contraction-moment": (
        "contraction_moment",
        "chain-power length dim chain-step",
        {"power": "2"},
    ),
    "contraction-moment-limit": (
        "contraction_moment_limit",
        "chain-power ratio chain-step",
        {"power": "2"},
    ),
    "contraction-generating-function": (
        "contraction_generating_function",
        "ratio chain-step",
        {},
    ),
    "best-contraction": ("best_contraction", "chain-steps ratio", {}),
    "best-step-condition": ("best_step_condition", "few-steps length dim", {"steps": "1"}),
    "late-contraction": ("late_contraction", "ratio", {}),
    "noisy-chain-risk": ("NoisyDecoding.risk", "decoding length dim", {"steps": "1"}),
    "noisy-chain-risk-limit": ("NoisyDecoding.limit_risk", "decoding ratio", {"steps": "1"}),
    "prompt-loss": ("NoisyDecoding.prompt_loss", "decoding length dim", {"steps": "1"}),
    "noise-gain-limit": ("noise_gain_limit", "chain-steps ratio", {}),
    "overthinking-threshold": ("overthinking_threshold", "ratio", {}),
    "optimal-chain-length": ("optimal_chain_length", "", {}),
    "split-risk": ("split_risk", "chain-steps ratio budget noise-std", {}),
    "split-law": ("split_law", "ratio budget noise-std", {"gamma": "1"}),
    # Selection among candidates, and binary coefficients.
    "normal-maximum-mean": ("normal_maximum_mean", "samples", {}),
    "oracle-selection-risk": ("oracle_selection_risk", "samples dim", {}),
    "greedy-error": ("BinaryChannel.greedy_error", "seen", {}),
    "calibrated-temperature": ("BinaryChannel.calibrated_temperature", "seen", {}),
    "majority-law": ("BinaryChannel.majority_law", "seen sampler samples", {}),
    "vote-constant": ("vote_constant", "sampler", {}),
    "recovery-length": ("recovery_length", "prior dim", {}),
    "equivocation": ("equivocation", "", {}),
    "pass-at-n": ("pass_at_n", "samples dim", {}),
    "sample-error": ("BinaryChannel.sample_error", "seen sampler", {}),
    "majority-error": ("BinaryChannel.majority_error", "seen sampler samples", {}),
    "log-loss": ("BinaryChannel.log_loss", "seen sampler", {}),
    "verified-success": ("verified_success", "success samples", {}),
    "state-evolution-map": ("state_evolution_map", "sampler ratio", {"sampler": "round"}),
    "lock-in-threshold": ("lock_in_threshold", "", {}),
    "trained-weights": ("trained_weights", "task length", {}),
    "trained-risk": ("trained_risk", "task length", {}),
    "outcome-risk": ("outcome_risk", "few-steps length dim", {"steps": "1"}),
}

OPTIONS = {
    "gamma": ("G", "limit of d/n: a number, or gamma (default)"),
    "noise_std": ("S", "noise of a thought: a number, or noise_std (default)"),
    "samples": ("N", "number of chains or samples: a number, or samples (default)"),
    "label_noise_var": ("V", "label noise of a chain: a number (default 0), or label_noise_var"),
    "sampler": ("KIND", "of binary coefficients: logit (default), probit, clip or round"),
    "temperature": ("T", "of the sampler: a number, or temperature (default)"),
    "prior": ("KIND", "of binary coefficients: signs (default), bits or sparse"),
    "ones": ("K", "number of ones of sparse bits"),
    "budget": ("C", "thoughts of all chains together: a number, or budget (default)"),
}


def _symbol_or(option: str, parse: Callable[[str], Any]) -> Callable[[Any], Any]:
    """A number, or the symbol with the name of the option, which is the default."""

    def read(options: Any) -> Any:
        from icltheory import symbols

        return options.parsed(option, parse, option, getattr(symbols, option))

    return read


def _step(options: Any) -> Any:
    from icltheory.symbols import eta

    return options.parsed("step_size", number, "eta", eta)


def _success(_options: Any) -> Any:
    from icltheory.symbols import success

    return success


def _steps(options: Any) -> Any:
    from icltheory import symbols

    return options.parsed("steps", seed, "steps", symbols.steps)


def _decoding(options: Any) -> Any:
    """A chain with numbers or symbols, and a number of steps."""
    import icltheory as icl
    from icltheory.symbols import label_noise_var

    return icl.NoisyDecoding(
        _step(options),
        _symbol_or("noise_std", number)(options),
        options.parsed("steps", seed),
        _symbol_or("samples", positive)(options),
        options.parsed("label_noise_var", number, "0", label_noise_var),
    )


def _sampler(options: Any) -> Any:
    import icltheory as icl

    temperature = _symbol_or("temperature", number)
    kinds: dict[str, Callable[[], Any]] = {
        "logit": lambda: icl.Logit(temperature(options)),
        "probit": lambda: icl.Probit(temperature(options)),
        "clip": icl.Clip,
        "round": icl.Round,
    }
    return _chosen(options, "sampler", "logit", kinds)


def _prior(options: Any) -> Any:
    import icltheory as icl

    def sparse() -> Any:
        ones = options.parsed("ones", positive)
        return icl.SparseBits(options.needed("ones", ones, "3"))

    return _chosen(
        options, "prior", "signs", {"signs": icl.Signs, "bits": icl.Bits, "sparse": sparse}
    )


def _seen(options: Any) -> Any:
    """The channel in symbols; sparse bits are bits here."""
    import icltheory as icl

    return icl.BinaryChannel(prior=_prior(options), d=options.parsed("dim", positive))


def _chosen(options: Any, option: str, default: str, kinds: dict[str, Callable[[], Any]]) -> Any:
    kind = options.text(option, default)
    if kind not in kinds:
        raise InvalidInput(f"argument --{option}: {kind!r} is not one of {', '.join(kinds)}.")
    return kinds[kind]()


ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "chain-power": lambda options: options.parsed("power", seed),
    "chain-step": _step,
    "chain-steps": _steps,
    "few-steps": lambda options: options.parsed("steps", positive),
    "ratio": _symbol_or("gamma", number),
    "budget": _symbol_or("budget", positive),
    "noise-std": _symbol_or("noise_std", number),
    "decoding": _decoding,
    "samples": _symbol_or("samples", positive),
    "success": _success,
    "sampler": _sampler,
    "prior": _prior,
    "seen": _seen,
}
