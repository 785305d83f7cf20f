"""`icltheory derive`: print a formula with its validity and source.

`numeric.derive_formulas` says of every formula which function of icltheory derives it and what
arguments that takes; each argument reads the options that concern it, and an option that no argument
reads is refused. Exported: `add_options`, `run`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from difflib import get_close_matches
from operator import attrgetter
from typing import Any

from icltheory.errors import InvalidInput
from numeric import decoding_options, solver_options
from numeric.derive_formulas import FORMULAS, Entry, listed
from numeric.formula_forms import FORMS
from numeric.text_numbers import number, positive

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
    "heads": ("H", "number of heads (default 1); where it may be a symbol, the word H"),
    "scores": ("K,..", "score scales of scalar heads: numbers, or k and -k; --scores=-1,1"),
    "values": ("V,..", "their values: numbers, or v and -v"),
    "features": ("LAW", f"law of a coordinate: {', '.join(_FEATURES)} (default cumulants)"),
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
    parser.add_argument("name", metavar="NAME", nargs="?", help="the formula, a name of --list")
    parser.add_argument("--list", action="store_true", help="list the names of formulas")
    for name, (shown, text) in _OPTIONS.items():
        parser.add_argument(f"--{_dashed(name)}", metavar=shown, help=text + _own_defaults(name))
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


def _own_defaults(option: str) -> str:
    """The formulas that have a default of their own for this option, in words."""
    users: dict[str, list[str]] = {}
    for name, entry in FORMULAS.items():
        if option in entry.defaults:
            users.setdefault(entry.defaults[option], []).append(name)
    return "".join(f"; default of {', '.join(names)}: {text}" for text, names in users.items())


def run(arguments: Any) -> int:
    """Derive and print, or list the names; returns the exit status 0."""
    import icltheory as icl

    if arguments.list or arguments.name is None:
        alone = arguments.name is None and not _given(arguments) and arguments.form == "text"
        if not alone:
            raise InvalidInput(
                "name one formula and its options, or list the names with icltheory derive --list."
            )
        print(listed())
        return 0
    arguments.name = _dashed(arguments.name)
    if arguments.name not in FORMULAS:
        close = get_close_matches(arguments.name, FORMULAS, 3, 0.5)
        meant = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise InvalidInput(
            f"there is no formula {arguments.name}{meant}; icltheory derive --list shows all names."
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
    shown = [FORMS[arguments.form](formula) for formula in formulas]
    if options.taken and arguments.form == "text":
        shown.append(options.taken_in_words())
    if options.taken and arguments.form == "python":
        shown[0] = f"# {options.taken_in_words()}\n{shown[0]}"
    print("\n\n".join(shown))
    return 0


# -- options ---------------------------------------------------------------------------------------


def _given(arguments: Any) -> dict[str, Any]:
    options = {name: getattr(arguments, name) for name in (*_OPTIONS, *_FLAGS)}
    return {name: value for name, value in options.items() if value is not None}


class _Options:
    """What the user gave; arguments ask for it, and what nobody asks for says nothing.

    `supports`: the options of tasks and layers that the function knows. `taken`: the defaults that
    the arguments took and that are more than the symbol of an option.
    """

    def __init__(self, arguments: Any, entry: Entry, supports: frozenset[str]) -> None:
        self.name, self.supports, self.defaults = arguments.name, supports, entry.defaults
        self.given = _given(arguments)
        self.read: set[str] = set()
        self.taken: dict[str, str] = {}

    def text(self, name: str, default: str | None = None) -> Any:
        """The text of an option: given, or the formula's own, or this default."""
        self.read.add(name)
        if name in self.given:
            return self.given[name]
        text = self.defaults.get(name, default)
        if text is not None:
            self.taken[name] = text
        return text

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
                if text == self.taken.get(name):
                    del self.taken[name]
                return word
        try:
            return parse(text)
        except argparse.ArgumentTypeError as error:
            known = " or ".join(map(str, words))
            meant = f"; pass one, or the word {known} for the symbol" if words else ""
            raise InvalidInput(f"argument --{_dashed(name)}: {error}{meant}.") from error

    def taken_in_words(self) -> str:
        """The defaults in use, in one line."""
        return "taken: " + ", ".join(f"{_dashed(name)} = {x}" for name, x in self.taken.items())

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
    "count": lambda options: options.parsed("heads", positive, None, _symbol("H")),
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
