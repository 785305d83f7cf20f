"""`icltheory derive`: print a formula with its validity and source.

`numeric.derive_formulas` says of every formula which function of icltheory derives it and what
arguments that takes; each argument reads the options that concern it, and an option that no argument
reads is refused. The options are those of `numeric.derive_options`. Exported: `run`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from difflib import get_close_matches
from operator import attrgetter
from typing import Any

from icltheory.errors import IclTheoryError, InvalidInput
from numeric import decoding_options, solver_options
from numeric.derive_formulas import FORMULAS, LITERAL, NOISELESS, Entry, listed, needed
from numeric.derive_options import ATTENTIONS, FEATURES, FLAGS, OPTIONS, dashed
from numeric.formula_forms import FORMS
from numeric.shell_words import shell_words
from numeric.text_numbers import arithmetic, number, positive


def run(arguments: Any) -> int:
    """Derive and print, or list the names; returns the exit status 0."""
    if arguments.list or arguments.name is None:
        alone = arguments.name is None and not _given(arguments) and arguments.form == "text"
        if not alone:
            raise InvalidInput(
                "name one formula and its options, or list the names with icltheory derive --list."
            )
        print(listed())
        return 0
    arguments.name = dashed(arguments.name)
    if arguments.name not in FORMULAS:
        close = get_close_matches(arguments.name, FORMULAS, 3, 0.5)
        meant = f" (did you mean {' or '.join(close)}?)" if close else ""
        raise InvalidInput(
            f"there is no formula {arguments.name}{meant}; icltheory derive --list shows all names."
        )
    try:
        found, taken = _derived(arguments)
        print(_shown(found, taken, arguments))
    except IclTheoryError as error:
        raise type(error)(shell_words(str(error))) from error
    return 0


def _derived(arguments: Any) -> tuple[Any, str]:
    """What the function of the formula returns, and the defaults that were taken."""
    import icltheory as icl

    entry = FORMULAS[arguments.name]
    function = attrgetter(entry.function)(icl)
    options = _Options(arguments, entry, getattr(function, "supports", frozenset()))
    if missing := needed(arguments.name, options.given):
        raise InvalidInput(missing)
    values = [_ARGUMENTS[kind](options) for kind in entry.takes if kind[0] != "*"]
    named = {kind[1:]: _ARGUMENTS[kind](options) for kind in entry.takes if kind[0] == "*"}
    for name in options.given:
        if name not in options.read:
            raise InvalidInput(options.unread(name))
    return function(*values, **named), options.taken_in_words()


def _shown(found: Any, taken: str, arguments: Any) -> str:
    """Formulas, or a table, in the form that was asked for."""
    import icltheory as icl

    found = solver_options.as_formula(found, arguments.name)
    if isinstance(found, list):
        return _table(found, arguments)
    if isinstance(found, icl.Flow):
        found = {str(variable): velocity for variable, velocity in found.velocity}
    formulas = found.values() if isinstance(found, dict) else found
    formulas = [found] if isinstance(found, icl.Formula) else formulas
    shown = list(dict.fromkeys(FORMS[arguments.form](formula) for formula in formulas))
    if taken and arguments.form == "text":
        shown.append(taken)
    if taken and arguments.form == "python":
        shown[0] = f"# {taken}\n{shown[0]}"
    return "\n\n".join(shown)


# -- options ---------------------------------------------------------------------------------------


def _given(arguments: Any) -> dict[str, Any]:
    options = {name: getattr(arguments, name) for name in (*OPTIONS, *FLAGS)}
    return {name: value for name, value in options.items() if value is not None}


class _Options:
    """What the user gave; arguments ask for it, and what nobody asks for says nothing.

    `supports`: the options of tasks and layers that the function knows. `taken`: the defaults that
    the arguments took and that are more than the symbol of an option.
    """

    def __init__(self, arguments: Any, entry: Entry, supports: frozenset[str]) -> None:
        self.name, self.supports, self.defaults = arguments.name, supports, dict(entry.defaults)
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
            option = f"--{dashed(name)}"
            raise InvalidInput(f"{self.name} needs {option}, for example {option} {example}.")
        return value

    def _one(self, name: str, text: str, parse: Callable[[str], Any], words: Any) -> Any:
        """A word, a number by `parse`, or arithmetic of words where numbers may be any."""
        known = {str(word): word for word in words}
        if text in known:
            if text == self.taken.get(name):
                del self.taken[name]
            return known[text]
        try:
            return arithmetic(text, known) if words and parse is number else parse(text)
        except argparse.ArgumentTypeError as error:
            meant = f"; pass one, or the word {' or '.join(known)} for the symbol" if words else ""
            raise InvalidInput(f"argument --{dashed(name)}: {error}{meant}.") from error

    def taken_in_words(self) -> str:
        """The defaults in use, in one line; "" where there are none."""
        taken = [f"{dashed(name)} = {x}" for name, x in self.taken.items()]
        taken += ["no label noise"] if self.name in NOISELESS else []
        taken += (
            ["all prompts, also those on which the steps diverge"] if self.name in LITERAL else []
        )
        return f"taken: {', '.join(taken)}" if taken else ""

    def unread(self, name: str) -> str:
        """The refusal of an option that no argument of the formula reads."""
        known = ", ".join(f"--{dashed(option)}" for option in sorted(self.read)) or "no options"
        return (
            f"--{dashed(name)} says nothing about {self.name}, which reads {known}; leave it out."
        )

    def flags(self) -> dict[str, Any]:
        """The options of a softmax layer that the function supports, where they are in use."""
        known = [name for name in FLAGS if name in self.supports]
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

    scores = _a_head(options, "scores")
    if scores is None:
        return icl.SoftmaxAttention(options.parsed("heads", positive, "1"), **options.flags())
    heads, values = options.parsed("heads", positive), _a_head(options, "values")
    return icl.SoftmaxAttention(heads, scores=scores, values=values, **options.flags())


# The default scores and values of one head, in symbols, and those of two heads.
_PAIRS = {"k": "k,-k", "v": "v,-v"}


def _a_head(options: _Options, name: str) -> list[Any] | None:
    """Scores or values, one a head; a default in symbols fits one head and two."""
    default = options.defaults.get(name)
    if name not in options.given and default is not None:
        told = [options.given[o].count(",") + 1 for o in ("scores", "values") if o in options.given]
        heads = options.given.get("heads", "")
        count = int(heads) if heads.isdecimal() else told[0] if told else default.count(",") + 1
        if count == 2 and default in _PAIRS:
            options.defaults[name] = _PAIRS[default]
        elif count != default.count(",") + 1 or (told and default not in _PAIRS):
            raise InvalidInput(
                f"{options.name} needs --{name} with one number a head, {count} here."
            )
    words = ("k", "d") if name == "scores" else ("k", "v", "d")
    return options.listed(name, number, *map(_symbol, words))


def _layer(options: _Options) -> Any:
    import icltheory as icl

    kind = options.text("attention", "softmax")
    if kind not in ATTENTIONS:
        raise InvalidInput(f"argument --attention: {kind!r} is not one of {', '.join(ATTENTIONS)}.")
    if kind == "softmax":
        return _heads(options)
    for name in ("heads", "scores", "values", *FLAGS):
        if name in options.given:
            raise InvalidInput(
                f"--{dashed(name)} says nothing about linear attention; leave it out."
            )
    return icl.LinearAttention(centered=kind == "linear-centered")


def _features(options: _Options) -> Any:
    import sympy as sp

    import icltheory as icl
    from icltheory.symbols import kappa_4, kappa_6

    kind = options.text("features", "cumulants")
    if kind not in FEATURES:
        raise InvalidInput(f"argument --features: {kind!r} is not one of {', '.join(FEATURES)}.")
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
    "scores": lambda options: _a_head(options, "scores"),
    "values": lambda options: _a_head(options, "values"),
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
