"""The options of `icltheory derive`, in groups, with examples below the help.

Exported: `OPTIONS`, `FLAGS`, `ATTENTIONS`, `FEATURES`, `LETTERS`, `add_options`, `dashed`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from numeric import decoding_options, solver_options
from numeric.derive_formulas import FORMULAS

ATTENTIONS = ("softmax", "linear", "linear-centered")
FEATURES = ("cumulants", "uniform", "rademacher", "laplace")
_LAW = "RHO,STD: x_i | x_q ~ N(RHO x_q, STD^2 I); numbers, or the words rho and local_std"
# Group -> option -> how it is shown, and what it means.
_GROUPS: dict[str, Mapping[str, tuple[str, str]]] = {
    "the task": {
        "dim": ("D", "dimension: a positive integer, or d (default)"),
        "noise_var": ("S", "label noise: a number, or noise_var (default)"),
        "length": ("N", "prompt length: a positive integer, or n (default)"),
        "prior_var": (
            "W",
            "coefficients have covariance W/d I: a number (default 1), or prior_var",
        ),
        "prior_norm": ("N", "squared norm of their mean: a number (default 0), or prior_norm"),
        "local": ("LAW", f"local examples, {_LAW}"),
        "tested": ("LAW", f"examples of the test, {_LAW}"),
        "features": ("LAW", f"law of a coordinate: {', '.join(FEATURES)} (default cumulants)"),
        "order": ("J", "number of terms (default 2)"),
    },
    "the attention layer": {
        "attention": ("KIND", f"one of {', '.join(ATTENTIONS)} (default softmax)"),
        "heads": ("H", "number of heads (default 1); where it may be a symbol, the word H"),
        "scores": ("K,..", "score scales of scalar heads: numbers, or arithmetic of k and d"),
        "values": ("V,..", "their values: numbers, or arithmetic of k, v and d, as 1/(2k)"),
        "rank": ("R", "total rank of the scores: a positive integer, or rank (default)"),
        "width": ("P", "embedding width"),
        "blocks": ("D,..", "dimensions of the blocks"),
        "signs": ("E,..", "signs of the blocks (default all 1)"),
        "sign_sum": ("S", "sum of the signs (default: all 1)"),
        "family": ("NAME", "of two heads: symmetric (default), one-sided or block"),
    },
    "solvers, and steps of chains": solver_options.OPTIONS,
    "decoding": decoding_options.OPTIONS,
}
OPTIONS = {name: told for group in _GROUPS.values() for name, told in group.items()}
FLAGS = {
    "include_query": "the query token is inside the softmax",
    "skip": "a path from the query to the prediction",
    "feature_values": "values read features",
}
FORMS = {
    "text": "with the derivation (default)",
    "latex": "LaTeX",
    "python": "a Python function",
    "cite": "the sources as BibTeX",
}
# What users write for the letters of the papers.
LETTERS = {"--n": "--length", "--L": "--length", "--d": "--dim", "--sigma2": "--noise-var"}
_ABOUT = """\
A formula reads the options that concern it and refuses the others. An option that takes a number
takes arithmetic as well, 2/3 + 1/(5*7), and with symbols that it names, --values 1/(2k);
decimals are read as exact fractions. Put what a shell would change into quotes."""
_EXAMPLES = """\
examples:
  icltheory derive --list
  icltheory derive optimal-loss-constant --heads 2 --dim 5
  icltheory derive head-constant --scores k,-k --values "1/(2k),-1/(2k)"
  icltheory derive solver-risk --solver newton --steps 2 --length 40 --dim 20
  icltheory derive noisy-chain-risk --steps 3 --python
  icltheory derive loss-constant --cite

defaults of single formulas; those in use are shown below a formula (taken: ...):
"""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give the parser the arguments of `icltheory derive`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.usage = "%(prog)s NAME [options], or %(prog)s --list"
    parser.description = f"{parser.description}\n\n{_ABOUT}"
    parser.epilog = _EXAMPLES + _own_defaults()
    parser.add_argument("name", metavar="NAME", nargs="?", help="the formula, a name of --list")
    for title, options in _GROUPS.items():
        group = parser.add_argument_group(title)
        for name, (shown, text) in options.items():
            group.add_argument(f"--{dashed(name)}", metavar=shown, help=text)
        if "attention" in options:
            for name, text in FLAGS.items():
                group.add_argument(
                    f"--{dashed(name)}", action="store_true", default=None, help=text
                )
    output = parser.add_argument_group("the output")
    output.add_argument("--list", action="store_true", help="list the names of formulas")
    form = output.add_mutually_exclusive_group()
    for kind, text in FORMS.items():
        form.add_argument(f"--{kind}", dest="form", action="store_const", const=kind, help=text)
    parser.set_defaults(form="text")


def _own_defaults() -> str:
    """The formulas that have defaults of their own."""
    width = max(map(len, FORMULAS))
    own = {name: entry.defaults for name, entry in FORMULAS.items() if entry.defaults}
    return "\n".join(
        f"  {name:{width}}  {' '.join(f'--{dashed(o)} {x}' for o, x in taken.items())}"
        for name, taken in own.items()
    )


def dashed(name: str) -> str:
    """An option or a formula as it is written in the shell."""
    return name.replace("_", "-")
