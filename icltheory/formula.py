"""Formula: the one result type. An expression that knows where it holds and where it comes from.

A `Formula` carries its symbols with meaning and domain, the condition under which it holds, the
references it rests on and the steps of its derivation. It is immutable, hashable and picklable;
`numeric.compile` turns it into a fast function.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.conditions import condition_text, isolated, sides
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.latex_lines import broken, in_lines, stacked, to_latex, visible_width
from icltheory.matrix_calculus import derivative, explicit, is_column, matrix_symbols
from icltheory.symbols import TABLE, SymbolInfo, describe


@dataclass(frozen=True)
class Reference:
    """A source: a paper (with arXiv number and the statement used), or a derivation made here."""

    key: str
    title: str
    authors: str
    year: int
    arxiv: str = ""
    statement: str = ""

    def __str__(self) -> str:
        where = f", arXiv {self.arxiv}" if self.arxiv else ""
        what = f": {self.statement}" if self.statement else ""
        return f"{self.authors} ({self.year}), {self.title}{where}{what}"

    def at(self, statement: str) -> Reference:
        """The same source with the statement that is used."""
        return replace(self, statement=statement)

    def bibtex(self) -> str:
        """BibTeX entry."""
        lines = [
            f"  title = {{{self.title}}}",
            f"  author = {{{self.authors}}}",
            f"  year = {{{self.year}}}",
        ]
        if self.arxiv:
            lines += [f"  eprint = {{{self.arxiv}}}", "  archivePrefix = {arXiv}"]
        if self.statement:
            lines.append(f"  note = {{{self.statement}}}")
        kind = "article" if self.arxiv else "software"
        return f"@{kind}{{{self.key},\n" + ",\n".join(lines) + "\n}"


DERIVED_HERE = Reference(
    "icltheory",
    "icltheory: a symbolic-numeric toolkit for in-context linear regression by attention",
    "The icltheory authors",
    2026,
    statement="derived by this software",
)
CUI = Reference(
    "cui2024superiority",
    "Superiority of Multi-Head Attention in In-Context Linear Regression",
    "Cui, Yingqian and Ren, Jie and He, Pengfei and Liu, Hui and Tang, Jiliang and Xing, Yue",
    2024,
    "2401.17426",
)
BOURSIER = Reference(
    "boursier2025softmax",
    "Softmax as Linear Attention in the Large-Prompt Regime: a Measure-based Perspective",
    "Boursier, Etienne and Boyer, Claire",
    2025,
    "2512.11784",
)
FU = Reference(
    "fu2024transformers",
    "Transformers Learn to Achieve Second-Order Convergence Rates for In-Context Linear Regression",
    "Fu, Deqing and Chen, Tian-Qi and Jia, Robin and Sharan, Vatsal",
    2024,
    "2310.17086",
)
CHEN = Reference(
    "chen2025testtime",
    "Towards Theoretical Understanding of Transformer Test-Time Computing: Investigation on "
    "In-Context Linear Regression",
    "Chen, Xingwu and Lu, Miao and Wu, Beining and Zou, Difan",
    2025,
    "2508.07571",
)


@dataclass(frozen=True)
class Step:
    """One step of a derivation: a title and the equation it arrives at."""

    title: str
    equation: sp.Basic

    def __str__(self) -> str:
        return f"{self.title}: {condition_text(self.equation)}"

    def latex(self) -> str:
        """LaTeX of the equation; long ones over several lines."""
        return in_lines(broken(self.equation))

    def _repr_markdown_(self) -> str:
        title = re.sub(r"([*_$<|])", r"\\\1", self.title)
        return f"**{title}**\n\n$$\\displaystyle {self.latex()}$$"


class Derivation(tuple[Step, ...]):
    """The steps of a derivation, in order: a tuple that a notebook shows as titled equations.

    >>> print(Derivation([Step("start", sp.Integer(1)), Step("double", sp.Integer(2))]))
    1. start: 1
    2. double: 2
    """

    __slots__ = ()

    def __str__(self) -> str:
        return "\n".join(f"{i}. {step}" for i, step in enumerate(self, start=1))

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        numbered = (Step(f"{i}. {s.title}", s.equation) for i, s in enumerate(self, start=1))
        return "\n\n".join(step._repr_markdown_() for step in numbered)


class Explanation(str):
    """The text of a derivation, which a notebook shows as titled equations."""

    steps: Derivation

    def __new__(cls, steps: Derivation) -> Explanation:
        told = super().__new__(cls, str(steps))
        told.steps = steps
        return told

    def __reduce__(self) -> tuple:
        return Explanation, (self.steps,)

    __repr__ = str.__str__

    def _repr_markdown_(self) -> str:
        return self.steps._repr_markdown_()


_NONE = sp.Dict()
_WIDE = 100  # letters of a formula with its notes that are shown on one line
_SHORT = 8  # letters of a number that needs no decimals beside it


@dataclass(frozen=True)
class Formula:
    """An exact result: `expr`, valid where `validity` is true.

    Attributes
    ----------
    name: what the expression is, as words.
    expr: SymPy expression, immutable matrix, or expression in matrix symbols.
    validity: SymPy condition (`true` if it always holds).
    references, steps: sources, and the derivation as titled equations.
    minimizer: for an optimum, a `sympy.Dict` from parameter to minimising expression; `None` where
        the infimum is not attained or the formula is no optimum.
    attained: whether an infimum is attained; `None` for a formula that is no optimum.
    where: `sympy.Dict` from the constant matrix symbols of `expr` to their explicit values.
    abbreviations: `sympy.Dict` from names to parts of `expr` which are printed under these names;
        `expr` itself contains the parts.

    >>> from icltheory.symbols import t
    >>> f = Formula("example", 1 / (1 - 2 * t), validity=t < sp.Rational(1, 2))
    >>> f.subs(t=sp.Rational(1, 4)).expr
    2
    >>> f.symbols[0].meaning
    'squared score scale k^2 of a scalar head'
    """

    name: str
    expr: Any
    validity: sp.Basic = sp.true
    references: tuple[Reference, ...] = (DERIVED_HERE,)
    steps: tuple[Step, ...] = ()
    minimizer: sp.Dict | None = None
    attained: bool | None = None
    where: sp.Dict = _NONE
    abbreviations: sp.Dict = _NONE

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise InvalidInput(
                f"name = {self.name} has type {type(self.name).__name__}, not text; pass "
                f'Formula("name", expression).'
            )
        if not isinstance(self.expr, (sp.Basic, sp.MatrixBase)):
            object.__setattr__(self, "expr", checks.scalar(self.expr, "expr"))
        if isinstance(self.validity, str):
            raise InvalidInput(
                f"validity = {self.validity!r} is text, which is never parsed; build the condition "
                f"with SymPy symbols."
            )
        object.__setattr__(self, "steps", Derivation(dict.fromkeys(self.steps)))
        object.__setattr__(self, "validity", isolated(self.validity))

    @property
    def symbols(self) -> tuple[SymbolInfo, ...]:
        """The free symbols of expression and validity, in alphabetical order, with meaning and domain."""
        free = self.free_symbols | set(self.validity.free_symbols)
        for matrix in matrix_symbols(self.expr):
            free |= {s for size in matrix.shape for s in size.free_symbols}
        return tuple(describe(s) for s in sorted(free, key=lambda s: s.name))

    @property
    def free_symbols(self) -> set[Any]:
        """The free symbols of the expression, those of its constant matrices included."""
        inner = (value.free_symbols for value in self.where.values())
        return set(self.expr.free_symbols).union(*inner) - set(self.where)

    def symbol(self, name: Any) -> Any:
        """The symbol of this formula called `name`; `InvalidInput` lists the legal names."""
        for info in self.symbols:
            if name in (info.name, info.symbol):
                return info.symbol
        legal = ", ".join(info.name for info in self.symbols) or "none, it is a constant"
        for info in self.symbols:
            if isinstance(name, sp.Symbol) and name.name == info.name:
                canonical = f"icltheory.symbols.{name}, or " if info.symbol in TABLE else ""
                raise InvalidInput(
                    f"the formula '{self.name}' has another symbol called {name} (other "
                    f"assumptions): use {canonical}the name {name.name!r}."
                )
        raise InvalidInput(
            f"{name} is not a symbol of the formula '{self.name}'; its symbols: {legal}."
        )

    def subs(self, values: Mapping[Any, Any] | None = None, /, **by_name: Any) -> Formula:
        """Put values in for symbols (by name or by symbol), in the expression, validity, steps and minimizer.

        Matrix symbols take explicit matrices, all of them at once; the result is then explicit.

        Raises `OutOfDomain` when the values break the validity condition, `InvalidInput` for an
        unknown name or a value that is no number or expression.
        """
        given = {self.symbol(key): val for key, val in {**(values or {}), **by_name}.items()}
        matrices = {s: given.pop(s) for s in list(given) if isinstance(s, sp.MatrixSymbol)}
        table = {s: checks.scalar(val, s.name) for s, val in given.items()}
        for symbol, value in table.items():
            if (
                (value.is_negative and symbol.is_nonnegative)
                or (value.is_nonpositive and symbol.is_positive)
                or (value.is_integer is False and symbol.is_integer)
            ):
                raise OutOfDomain(
                    f"{symbol} = {value} is outside its domain: {describe(symbol).domain} "
                    f"({describe(symbol).meaning})."
                )
        validity = sp.S(self.validity.subs(table, simultaneous=True))
        if validity == sp.false:
            shown = ", ".join(f"{s} = {x}" for s, x in table.items())
            raise OutOfDomain(f"{shown} is outside {self.condition}, where '{self.name}' holds.")
        minimizer = self.minimizer
        if minimizer is not None:
            minimizer = sp.Dict({p: x.subs(table, simultaneous=True) for p, x in minimizer.items()})
        steps = tuple(Step(s.title, s.equation.subs(table, simultaneous=True)) for s in self.steps)
        out = replace(
            self,
            expr=self.expr.subs(table, simultaneous=True),
            validity=validity,
            minimizer=minimizer,
            steps=steps,
            where=_substituted(self.where, table),
            abbreviations=_substituted(self.abbreviations, table),
        )
        out = replace(out, abbreviations=_named(out.abbreviations, out.expr))
        return out._with_matrices({s.subs(table): x for s, x in matrices.items()})

    def _with_matrices(self, matrices: dict[Any, Any]) -> Formula:
        if not matrices:
            return self
        needed = matrix_symbols(self.expr) - set(self.where)
        missing = ", ".join(sorted(s.name for s in needed - set(matrices)))
        if missing:
            raise InvalidInput(f"matrices are put in all at once; no value for {missing}.")
        values = {s: _explicit_matrix(value, s) for s, value in matrices.items()}
        return replace(
            self,
            expr=explicit(self.expr, {**dict(self.where), **values}),
            steps=(),
            where=sp.Dict(),
            abbreviations=sp.Dict(),
        )

    def diff(self, *symbols: Any) -> Formula:
        """The derivative with respect to one or more symbols (by name or by symbol).

        A scalar expression may be differentiated in a matrix symbol; the entry ij of the result is
        the derivative in the entry ij of the matrix.
        """
        resolved = [self.symbol(s) for s in symbols]
        names = ", ".join(s.name for s in resolved)
        name = f"d({self.name})/d({names})"
        expr, where = self.expr, dict(self.where)
        if matrix_symbols(expr):
            # Constant matrices that depend on a variable enter the derivative with their entries.
            moving = {k: x for k, x in where.items() if x.free_symbols & set(resolved)}
            expr = expr.xreplace(moving)
            for variable in resolved:
                expr = derivative(expr, variable)
        else:
            expr = sp.diff(expr, *resolved)
        left = matrix_symbols(expr)
        table = isinstance(self.expr, sp.MatrixBase)
        start = self.expr if table else sp.Eq(sp.Symbol("f"), self.expr, evaluate=False)
        return replace(
            self,
            name=name,
            expr=expr,
            minimizer=None,
            attained=None,
            steps=(*self.steps, Step(f"f, differentiated in {names}", start)),
            where=sp.Dict({k: x for k, x in where.items() if k in left}),
            abbreviations=_named(self.abbreviations, expr),
        )

    def limit(self, symbol: Any, point: Any) -> sp.Expr:
        """The limit of the expression as `symbol` tends to `point` (for example `sympy.oo`).

        At an end of the validity it is taken from inside, elsewhere from above. `OutOfDomain` where
        the formula does not hold next to `point`; `InvalidInput` where the limit is not decided.

        >>> from icltheory.symbols import t
        >>> f = Formula("example", (1 - 2 * t) ** sp.Rational(-5, 2), validity=2 * t < 1)
        >>> f.limit(t, sp.S.Half)
        oo
        """
        if point not in (sp.oo, -sp.oo):
            point = checks.scalar(point, "point")
        variable = self.symbol(symbol)
        try:
            value = self._limit(variable, point)
        except NotImplementedError as error:
            others = sorted(s.name for s in self.free_symbols - {variable})
            raise InvalidInput(
                f"the limit of '{self.name}' for {variable} -> {point} is not decided"
                + (
                    f"; put numbers in for the other symbols first ({', '.join(others)})."
                    if others
                    else "; SymPy knows no rule for it."
                )
            ) from error
        # Gruntz's algorithm leaves quotients such as exp((2a + 2)/(2 (a + 1))) uncancelled.
        return value.replace(sp.exp, lambda exponent: sp.exp(sp.cancel(exponent)))

    def _limit(self, variable: Any, point: Any) -> sp.Expr:
        inside = sides(self.validity, variable, point)
        if not inside:
            negative = point.is_negative and variable.is_nonnegative
            bound = f"its domain {describe(variable).domain}" if negative else self.condition
            raise OutOfDomain(
                f"{variable} = {point} is outside {bound}, where '{self.name}' holds."
            )
        if point.is_infinite or len(inside) == 2 or not self.validity.has(variable):
            return sp.limit(self.expr, variable, point)
        # SymPy's own limit from one side may be that from the other at a branch point.
        small = sp.Dummy("small", positive=True)
        return sp.limit(self.expr.subs(variable, point + inside[0] * small), small, 0)

    def evalf(self, digits: int = 15) -> sp.Expr:
        """Numerical value with `digits` significant digits (symbols stay)."""
        return self.expr.evalf(digits)

    def __float__(self) -> float:
        if not isinstance(self.expr, sp.Expr) or self.expr.is_Matrix:
            raise InvalidInput(f"'{self.name}' is no single number; use .expr, or numeric.compile.")
        if self.free_symbols:
            names = sorted(s.name for s in self.free_symbols)
            values = ", ".join(f"{name}=..." for name in names)
            raise InvalidInput(
                f"'{self.name}' still contains {', '.join(names)}; put values in with .subs({values})."
            )
        return float(self.expr)

    def _latex(self, printer: Any) -> str:
        return self.latex()

    def latex(self) -> str:
        """LaTeX of the expression, in the canonical notation, with its abbreviations."""
        lines = [to_latex(self.abbreviated())]
        for name, part in self.abbreviations.items():
            lines.append(f"{to_latex(name)} = {to_latex(part)}")
        return r",\quad ".join(lines)

    @property
    def condition(self) -> str:
        """The validity as text.

        >>> x = sp.Symbol("x")
        >>> Formula("example", 1 / x, validity=sp.And(2 * x < 3, sp.Ne(x, 0))).condition
        'x < 3/2 and x != 0'
        """
        return condition_text(self._short(self.validity))

    def abbreviated(self) -> Any:
        """The expression with its abbreviations in place of the parts they stand for."""
        return self._short(self.expr)

    def _short(self, expr: Any) -> Any:
        if not self.abbreviations:
            return expr
        return expr.xreplace({part: name for name, part in self.abbreviations.items()})

    def citation(self) -> str:
        """BibTeX of every source this formula rests on."""
        return "\n\n".join(reference.bibtex() for reference in self.references)

    def explain(self) -> str:
        """The derivation as numbered lines of text; a notebook shows titled equations.

        `print` it, or leave it at the end of a cell.
        """
        return Explanation(Derivation(self.steps))

    def _repr_latex_(self) -> str:
        parts = [broken(self.abbreviated())]
        if decimals := self._decimals():
            parts[0][-1] += rf" \approx {decimals}"
        for symbol, value in (*self.abbreviations.items(), *self.where.items()):
            first, *more = broken(value)
            parts.append([rf"{to_latex(symbol)} = {first}", *more])
        notes = [r"\text{(infimum, not attained)}"] if self.attained is False else []
        if self.validity != sp.true:
            notes.append(r"\text{for } " + to_latex(self._short(self.validity)))
        if notes:
            parts.append([r"\quad ".join(notes)])
        return rf"$\displaystyle {_laid_out(parts)}$"

    def __str__(self) -> str:
        where = "" if self.validity == sp.true else f"   for {self.condition}"
        note = "" if self.attained is not False else "   (infimum, not attained)"
        names = [f"{name} = {part}" for name, part in self.abbreviations.items()]
        names += [f"{name} = {value.tolist()}" for name, value in self.where.items()]
        parts = f"   with {', '.join(names)}" if names else ""
        decimals = f" (= {value}...)" if (value := self._decimals()) else ""
        return f"{self.name}: {self.abbreviated()}{decimals}{parts}{where}{note}"

    def _decimals(self) -> str:
        """Ten digits of an exact number that does not show its size; else nothing."""
        value = self.expr
        exact = isinstance(value, sp.Expr) and value.is_number and value.is_real
        if not exact or value.is_Float or len(str(value)) <= _SHORT:
            return ""
        return str(value.evalf(10))

    __repr__ = __str__


def _laid_out(parts: list[list[str]]) -> str:
    """Expression, abbreviations and notes: on one line if they fit, else one below the other."""
    whole = [lines[0] for lines in parts if len(lines) == 1]
    notes = parts[-1][0].startswith(r"\text")
    joined = r",\quad ".join(whole[:-1] if notes else whole)
    joined += (r"\quad " + whole[-1]) if notes else ""
    if len(whole) == len(parts) and visible_width(joined) <= _WIDE:
        return joined
    return stacked(parts)


def _substituted(table: sp.Dict, values: dict[Any, Any]) -> sp.Dict:
    return sp.Dict({key.subs(values): x.subs(values) for key, x in table.items()})


def _named(abbreviations: sp.Dict, expr: Any) -> sp.Dict:
    """The abbreviations of parts that `expr` has and that are more than a number or a symbol."""
    parts = {key: x for key, x in abbreviations.items() if x.free_symbols and not x.is_Atom}
    return sp.Dict({key: x for key, x in parts.items() if expr.has(x)})


def _explicit_matrix(value: Any, symbol: Any) -> sp.ImmutableMatrix:
    """A user's matrix in the shape of `symbol`; a vector may be a flat sequence."""
    value = checks.plain(value)
    if is_column(symbol) and isinstance(value, (list, tuple)):
        value = [[x] if not isinstance(checks.plain(x), (list, tuple)) else x for x in value]
    entries = checks.rows(value, symbol.name)
    shape = (len(entries), len(entries[0]))
    if shape != symbol.shape:
        rows, columns = symbol.shape
        raise InvalidInput(
            f"{symbol.name} has shape {shape[0]} x {shape[1]}; {rows} x {columns} is needed."
        )
    return sp.ImmutableMatrix(entries)
