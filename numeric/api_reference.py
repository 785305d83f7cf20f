"""The API reference as web pages, built from the docstrings with pdoc.

    python -m numeric.api_reference OUT

writes one page for each of `PACKAGES` into the folder OUT; it needs the extra `docs`. The names of a
page are those that its package exports, the lazy ones of `icltheory` included. Exported: `PACKAGES`,
`public_names`, `build`.
"""

from __future__ import annotations

import html
import os
import re
import sys
import warnings
from collections.abc import Mapping
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from icltheory.errors import IclTheoryError, InvalidInput

PACKAGES = ("icltheory", "icltheory.symbols", "numeric", "numeric.finite", "numeric.claims")

_USAGE = "usage: python -m numeric.api_reference OUT"
# What markdown keeps as it is: code in backticks, and doctests with their output.
_KEPT = re.compile(r"`[^`\n]*`|^ *>>> .*(?:\n *\S.*)*", re.MULTILINE)
# Docstrings use the short names of README; full names become links.
_FULL = {"icl": "`icltheory.", "finite": "`numeric.finite."}
_SHORT = re.compile(r"`(icl|finite)\.")
_HEADING = re.compile(r"^(?:Parameters|Attributes)\n-{3,}$", re.MULTILINE)
_ARGUMENT = re.compile(r"(?![A-Z][a-z])\w+(?:, \w+)*: ")


def public_names(package: ModuleType) -> tuple[str, ...]:
    """The names that a package of this toolkit exports, sorted.

    package: one of `PACKAGES`, imported. Exported are the lazy names of its table, and else what its
    code imports from its own modules or defines, without a leading underscore and without modules.

    >>> import icltheory
    >>> {"gradient_flow", "loss_constant"} <= set(public_names(icltheory))
    True
    """
    lazy = getattr(package, "_HOMES", None)
    if lazy is not None:
        return tuple(sorted(lazy))
    names = (
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and _own(value)
    )
    return tuple(sorted(names))


def build(out: str | os.PathLike[str]) -> Path:
    """Write the reference into the folder `out` (made if missing) and return the path of its index.

    Errors: `InvalidInput` if pdoc is not installed, or if `out` is not a folder that can be written.

    >>> import tempfile
    >>> index = build(tempfile.mkdtemp())
    >>> (index.parent / "numeric" / "finite.html").exists()
    True
    """
    try:
        import pdoc.doc
        import pdoc.render
    except ImportError:
        raise InvalidInput("the API reference needs pdoc: pip install 'icltheory[docs]'.") from None
    if not isinstance(out, (str, os.PathLike)):
        raise InvalidInput(f"out has type {type(out).__name__}; pass the path of a folder.")
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in _texts(pdoc).items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write to {folder}: {error.strerror}.") from None
    return folder / "index.html"


def main(arguments: list[str] | None = None) -> int:
    """`python -m numeric.api_reference OUT`: exit status 0, or 2 with one line on what is wrong."""
    given = sys.argv[1:] if arguments is None else arguments
    if given in (["-h"], ["--help"]):
        print(
            f"{_USAGE}\n\nWrites the API reference, a page for each of {', '.join(PACKAGES)},\n"
            f"into the folder OUT (made if missing) and prints the path of its index.\n"
            f"It needs pdoc: pip install 'icltheory[docs]'."
        )
        return 0
    if len(given) != 1 or given[0].startswith("-"):
        print(_USAGE, file=sys.stderr)
        return 2
    try:
        print(build(given[0]))
    except IclTheoryError as error:
        print(f"api_reference: {error}", file=sys.stderr)
        return 2
    return 0


def _own(value: Any) -> bool:
    """Whether a value is the toolkit's: a class or function defined in it, or data such as a symbol."""
    named = isinstance(value, type) or hasattr(value, "__name__")
    home = getattr(value, "__module__", None) or ""
    return not named or home.partition(".")[0] in ("icltheory", "numeric")


def _texts(pdoc: Any) -> dict[str, str]:
    """The pages by file name."""
    filters = pdoc.render.env.filters
    convert = filters["to_markdown"]
    pdoc.render.configure(docformat="markdown", show_source=False, search=False)
    filters["to_markdown"] = _to_markdown
    try:
        with warnings.catch_warnings():
            # Annotations that only a type checker reads, and those that pdoc cannot evaluate.
            warnings.simplefilter("ignore")
            pages = {name: _page(name, pdoc.doc.Module) for name in PACKAGES}
            texts = {
                f"{name.replace('.', '/')}.html": _live(pdoc.render.html_module(page, pages))
                for name, page in pages.items()
            }
    finally:
        filters["to_markdown"] = convert
    return {**texts, "index.html": _index(pages)}


def _page(name: str, module_type: Any) -> Any:
    """A pdoc page of all public names; pdoc itself would leave out what is lazy or re-exported."""
    package = import_module(name)
    listed = ModuleType(name, package.__doc__)
    vars(listed).update({key: getattr(package, key) for key in public_names(package)})
    vars(listed).update(__all__=list(public_names(package)), __file__=package.__file__)
    if hasattr(package, "__path__"):
        vars(listed)["__path__"] = []
    page = module_type(listed)
    for symbol, info in getattr(package, "TABLE", {}).items():
        if symbol.name in page.members:
            page.members[symbol.name].docstring = f"{info.meaning}; {info.domain}."
    return page


def _live(text: str) -> str:
    """A page without links to places that it lacks, such as inherited members that have no section."""
    places = set(re.findall(r'\bid="([^"]+)"', text))

    def link(found: re.Match[str]) -> str:
        return found.group() if found[1] in places else found[2]

    return re.sub(r'<a\b[^>]*\bhref="#([^"]*)"[^>]*>(.*?)</a>', link, text, flags=re.DOTALL)


def _index(pages: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<li><a href="{name.replace(".", "/")}.html">{name}</a>: '
        f"{html.escape(page.docstring.partition(chr(10))[0].partition(': ')[2] or page.docstring)}</li>"
        for name, page in pages.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>icltheory: API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"></head>'
        '<body style="font-family: system-ui, sans-serif; max-width: 45em; margin: 3em auto">'
        f"<h1>icltheory: API reference</h1><ul>{rows}</ul></body></html>"
    )


def _to_markdown(docstring: str) -> str:
    """A docstring as markdown: arguments become a list, examples code, and formulas stay as they are."""
    text = _HEADING.sub("", docstring)
    pieces, end = [], 0
    for kept in _KEPT.finditer(text):
        pieces.append(_escaped(text[end : kept.start()]))
        code = kept.group()
        if code.startswith("`"):
            pieces.append(_SHORT.sub(lambda match: _FULL[match.group(1)], code))
        else:
            pieces.append(f"```python\n{_dedented(code)}\n```")
        end = kept.end()
    return "".join([*pieces, _escaped(text[end:])])


def _escaped(text: str) -> str:
    """Text without what markdown would read as markup; indented blocks are code, `name: ...` is a list."""
    lines, block = [], False
    for before, line in pairwise(["x", *text.split("\n")]):
        indented = line.startswith("    ")
        block = indented and (block or not before.strip())
        item = not indented and _ARGUMENT.match(line) is not None
        plain = line if block else re.sub(r"([*_\[\]])", r"\\\1", html.escape(line, quote=False))
        lines.append(f"- {plain}" if item else plain)
    return "\n".join(lines)


def _dedented(code: str) -> str:
    lines = code.split("\n")
    width = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[width:] for line in lines)


if __name__ == "__main__":
    raise SystemExit(main())
