"""Refusals of icltheory, which speak of Python, in the words of `icltheory derive`.

Exported: `shell_words`.
"""

from __future__ import annotations

import re

from numeric.derive_formulas import FORMULAS
from numeric.derive_options import FLAGS, OPTIONS, dashed

_SOLVERS = {
    "GradientDescent": "gradient-descent",
    "IterativeNewton": "newton",
    "Ridge": "ridge",
    "OrdinaryLeastSquares": "least-squares",
}
_SAMPLERS = {"Logit": "logit", "Probit": "probit", "Clip": "clip", "Round": "round"}
_KINDS = {
    **{name: f"--solver {kind}" for name, kind in _SOLVERS.items()},
    **{name: f"--sampler {kind}" for name, kind in _SAMPLERS.items()},
}
_NAMES = "|".join((*OPTIONS, *FLAGS))
# Remedies, each with what does the same in the shell; the first ones are whole sentences.
_REMEDIES = (
    (r"has the free parameters none; leave .*", "has no parameter left to choose; leave out "
     "--step-size or --scale, of --solver gradient-descent, newton or newton-identity."),
    (r"give SoftmaxAttention\(scores=\.\.\., values=\.\.\.\)", "give --scores and --values"),
    (r"numbers or expressions k_h, v_h in SoftmaxAttention\(.*?\)", "give --scores and --values"),
    (r"pass icl\.SoftmaxAttention\(heads=2\), without scores", "pass --heads 2, without --scores"),
    (r"SoftmaxAttention\(heads=(\d+)\)", r"--heads \1"),
    (r"SoftmaxAttention\(heads=\d+, scores=\((.*?),?\)(?:, values=.*?\))?\)", r"--scores \1"),
    (r"icl\.LinearRegression\(dim=icl\.symbols\.d\)", "--dim d"),
    (r"put numbers into the task", "give numbers to --dim and --noise-var"),
    (r"put numbers in for them", "give them numbers by --dim, --length and --noise-var"),
    (r"pass numbers for n and d, or a step_size", "give numbers to --length and --dim"),
    (r"is free to choose; give its numbers.*", "has numbers of its own here, which are given in "
     "Python only; leave it out."),
    (r"(one softmax head is .*)use numeric\.exact_risk\(.*?\)", r"\1icltheory predict computes it"),
    (r"pass gradient descent or flow, .*", "pass gradient-descent, newton or newton-identity."),
    (r"; icl\.limit_risk takes matrices", ""),
    (r"\(residual_filter takes symbols\)", "(icltheory derive residual-filter takes symbols)"),
)  # fmt: skip


def shell_words(message: str) -> str:
    """The message with options, names of formulas and commands in the place of Python.

    >>> shell_words("the scores are given; use icl.loss_constant, or pass for example steps=2.")
    'the scores are given; use icltheory derive loss-constant, or pass for example --steps 2.'
    """
    for pattern, words in _REMEDIES:
        message = re.sub(pattern, words, message)
    message = re.sub(r"\bicl\.([a-z_]+)\b", _formula, message)
    message = re.sub(rf"(?<!, )\b({'|'.join(_KINDS)})\([^()]*\)", lambda m: _KINDS[m[1]], message)
    message = re.sub(rf"^({_NAMES})() = True", _option, message)
    message = re.sub(rf"^({_NAMES})(?= = )|(?<=pass )({_NAMES})(?= [><])", _option, message)
    message = re.sub(
        rf"((?:for example|e\.g\.) )({_NAMES})=(\((.*?)\)|\S+?)(?=[.;,]? |\.?$)", _example, message
    )
    # What is left is there in Python only.
    return re.sub(r"(?<!`)\b(?:icl|numeric)\.\w+(?:\([^()]*\))?", r"`\g<0>` of Python", message)


def _formula(found: re.Match[str]) -> str:
    name = dashed(found[1])
    return f"icltheory derive {name}" if name in FORMULAS else found[0]


def _option(found: re.Match[str]) -> str:
    return f"--{dashed(found[1] or found[2])}"


def _example(found: re.Match[str]) -> str:
    value = found[4].replace(", ", ",") if found[4] else found[3]
    return f"{found[1]}--{dashed(found[2])} {value}"
