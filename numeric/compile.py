"""Formula -> Evaluator: fast numerical functions from exact expressions.

`compile` prints the expression with SymPy's `lambdify` (common subexpressions shared) for one of
four backends, and wraps it so that arguments are named like the symbols, broadcast, and are checked
against the domain of every symbol and the validity of the formula. Formulas in matrices, and several
formulas at once, become a `MatrixEvaluator`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import mpmath
import numpy as np
import sympy as sp
from sympy.core.function import FunctionClass

from icltheory.errors import IclTheoryError, InvalidInput, OutOfDomain
from icltheory.formula import Formula
from icltheory.matrix_calculus import matrix_symbols
from icltheory.symbols import TABLE, describe
from numeric.arrays import finite
from numeric.backend_code import FROM_SCIPY, printed

BACKENDS = ("numpy", "math", "mpmath", "torch")
_ON_INVALID = ("raise", "nan")
_BLOCK = 2**15  # numbers evaluated at once


class Evaluator:
    """A compiled `Formula`; call it with keyword arguments named like its symbols.

    Arguments broadcast against each other (NumPy, torch); a constant formula takes no part in it
    and returns a scalar unless arguments of other symbols of the formula give it a shape. A matrix
    formula returns shape broadcast + (rows, columns). Outside the validity, outside the domain of a
    symbol, and where the value is not a finite number of float64, `on_invalid="raise"` raises
    `OutOfDomain`, `"nan"` returns NaN there.

    Evaluators are picklable; `.source` is the generated code, `.gradient("t")` the compiled
    derivative.
    """

    def __init__(
        self,
        formula: Formula,
        backend: str,
        on_invalid: str,
        symbols: tuple[sp.Symbol, ...] | None = None,
    ) -> None:
        self.formula, self.backend, self.on_invalid = formula, backend, on_invalid
        if symbols is None:
            symbols = _distinct(formula)
        self.arguments = tuple(symbol.name for symbol in symbols)
        self._symbols = self._checked = symbols
        self._title = formula.name
        self._shape = formula.expr.shape if isinstance(formula.expr, sp.MatrixBase) else None
        entries = list(formula.expr) if self._shape else [formula.expr]
        # Common parts of an integrand contain its variable, which has no value outside.
        shared = not any(sp.sympify(entry).has(sp.Integral) for entry in entries)
        renamed = _renamed(symbols)
        names = [renamed.get(symbol, symbol) for symbol in symbols]
        entries = [sp.sympify(entry).xreplace(renamed) for entry in entries]
        self._entries = printed(names, entries, formula.name, backend, cse=shared)
        self._conditions = [
            (condition, printed(symbols, condition, formula.name, backend))
            for condition in conditions(formula, symbols)
        ]

    @property
    def source(self) -> str:
        """The generated Python code."""
        return inspect.getsource(self._entries)

    def gradient(self, symbol: str) -> Evaluator:
        """The compiled derivative in one symbol (by name): same arguments, backend and checks."""
        return Evaluator(self.formula.diff(symbol), self.backend, self.on_invalid, self._symbols)

    def __call__(self, *places: Any, **values: Any) -> Any:
        if places or set(values) != set(self.arguments):
            self._refuse_names(places, values)
        arguments = [argument(values[name], name, self.backend) for name in self.arguments]
        valid = self._check(arguments)
        if self.backend == "numpy":
            # What overflows is found in the result.
            with np.errstate(all="ignore"):
                return self._numpy(arguments, valid)
        results = self._results(arguments, valid)
        if self.backend == "torch":
            return self._torch(arguments, results, valid)
        if self._shape is None:
            return results[0]
        rows, columns = self._shape
        table = [results[i * columns : (i + 1) * columns] for i in range(rows)]
        return mpmath.matrix(table) if self.backend == "mpmath" else table

    def _results(self, arguments: list[Any], valid: Any) -> list[Any]:
        """The entries; NaN for numbers outside the domain or beyond the range of floats."""
        size = 1 if self._shape is None else self._shape[0] * self._shape[1]
        nothing = [mpmath.nan if self.backend == "mpmath" else math.nan] * size
        if valid is not None and np.ndim(valid) == 0 and not valid:
            return nothing
        try:
            if self.backend in ("math", "mpmath"):
                return self._numbers(arguments)
            return self._entries(*arguments)
        except (OverflowError, ZeroDivisionError):
            if self.on_invalid == "raise":
                raise self._overflow(arguments, False) from None
            return nothing

    def _numbers(self, arguments: list[Any]) -> list[Any]:
        """The entries at one point; SciPy and mpmath return inf where Python raises."""
        try:
            with np.errstate(all="ignore"):
                results = self._entries(*arguments)
        except ValueError as error:  # such as math.sqrt(-1)
            if isinstance(error, IclTheoryError):
                raise
            raise ZeroDivisionError from error
        is_finite = mpmath.isfinite if self.backend == "mpmath" else math.isfinite
        if any(isinstance(x, complex) or not is_finite(x) for x in results):
            raise OverflowError
        return results

    def _blockwise(self, arguments: list[Any], shape: tuple[int, ...]) -> list[np.ndarray]:
        """The entry of large arguments in blocks, whose intermediate results stay in the cache."""
        flat = [a if np.ndim(a) == 0 else np.broadcast_to(a, shape).reshape(-1) for a in arguments]
        out = np.empty(math.prod(shape))
        for start in range(0, out.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            block = (a if np.ndim(a) == 0 else a[part] for a in flat)
            out[part] = self._entries(*block)[0]
        return [out.reshape(shape)]

    def _overflow(self, arguments: list[Any], good: Any) -> OutOfDomain:
        point = [_first_bad(a, good) for a in arguments]
        shown = ", ".join(
            f"{name} = {x:.6g}" for name, x in zip(self.arguments, point, strict=True)
        )
        if self._singular(point):
            return OutOfDomain(
                f"'{self._title}' is not a finite number at {shown}; use other values, or "
                f"on_invalid='nan'."
            )
        return OutOfDomain(
            f"'{self._title}' leaves the range of float64 at {shown}; use values nearer to 0, backend "
            f"'mpmath', or on_invalid='nan'."
        )

    def _singular(self, point: list[float]) -> bool:
        """Whether the value is missing without any overflow or underflow: a pole, a root of -1."""
        if self.backend == "mpmath":
            return True
        numpy = self
        if self.backend != "numpy":
            numpy = Evaluator(self.formula, "numpy", "nan", self._symbols)
        if FROM_SCIPY & set(numpy._entries.__code__.co_names):  # they say nothing
            return False
        seen: set[str] = set()
        try:
            with np.errstate(all="call", call=lambda kind, _: seen.add(kind)):
                numpy._entries(*map(np.float64, point))
        except ArithmeticError as error:  # of Python's own numbers
            return isinstance(error, ZeroDivisionError)
        return bool(seen) and not seen & {"overflow", "underflow"}

    def _numpy(self, arguments: list[Any], valid: Any) -> Any:
        shape = self._broadcast_shape(arguments)
        results = (
            self._blockwise(arguments, shape)
            if self._shape is None and math.prod(shape) >= 4 * _BLOCK
            else self._results(arguments, valid)
        )
        if self._shape is None:
            out = (
                results[0] if np.shape(results[0]) == shape else np.broadcast_to(results[0], shape)
            )
        else:
            out = np.stack([np.broadcast_to(r, shape) for r in results], axis=-1)
            out = out.reshape(*shape, *self._shape)
            valid = valid if valid is None else np.asarray(valid)[..., None, None]
        if np.iscomplexobj(out):  # Python's power of a negative number
            out = np.where(np.imag(out) == 0, np.real(out), np.nan)
        good = np.isfinite(out)
        if valid is not None:
            out = np.where(np.logical_and(valid, good), out, np.nan)
        elif not good.all():
            if self.on_invalid == "raise":
                where = good if self._shape is None else good.all(axis=(-2, -1))
                raise self._overflow(arguments, where)
            out = np.where(good, out, np.nan)
        elif not out.flags.writeable if isinstance(out, np.ndarray) else False:
            out = np.array(out)
        return float(out) if np.ndim(out) == 0 else np.asarray(out, dtype=float)

    def _broadcast_shape(self, arguments: list[Any]) -> tuple[int, ...]:
        shapes = {name: np.shape(a) for name, a in zip(self.arguments, arguments, strict=True)}
        try:
            return np.broadcast_shapes(*shapes.values())
        except ValueError as error:
            shown = ", ".join(f"{name}: {shape}" for name, shape in shapes.items())
            raise InvalidInput(
                f"the shapes do not broadcast ({shown}); add axes so that they do."
            ) from error

    def _torch(self, arguments: list[Any], results: list[Any], valid: Any) -> Any:
        import torch

        tensors = [
            r if isinstance(r, torch.Tensor) else torch.as_tensor(float(r), dtype=torch.float64)
            for r in (*arguments, *results)
        ]
        tensors = list(torch.broadcast_tensors(*tensors))[len(arguments) :]
        out = tensors[0]
        if self._shape is not None:
            out = torch.stack(tensors, dim=-1).reshape(*out.shape, *self._shape)
            valid = valid if valid is None else torch.as_tensor(valid)[..., None, None]
        return out if valid is None else torch.where(torch.as_tensor(valid), out, torch.nan)

    def _check(self, arguments: list[Any]) -> Any:
        """None if every condition holds everywhere; else a mask (on_invalid="nan") or an error."""
        mask: Any = None
        for symbol, value in zip(self._checked, arguments, strict=True):
            if symbol.is_integer and not _all(truth := value == _floor(value)):
                if self.on_invalid == "raise":
                    raise OutOfDomain(
                        f"{symbol} = {_first_bad(value, truth):.6g} is outside its domain: "
                        f"{describe(symbol).domain} ({describe(symbol).meaning})."
                    )
                mask = truth if mask is None else mask & truth
        for condition, holds in self._conditions:
            truth = holds(*arguments)
            if _all(truth):
                continue
            if self.on_invalid == "raise":
                raise OutOfDomain(self._message(condition, arguments, truth))
            mask = truth if mask is None else mask & truth
        return mask

    def _message(self, condition: Any, arguments: list[Any], truth: Any) -> str:
        names = {symbol.name for symbol in condition.free_symbols}
        involved = [
            (s, a) for s, a in zip(self._checked, arguments, strict=True) if s.name in names
        ]
        # The first offending point is shown; the mask may have a smaller shape than the arguments.
        shown = ", ".join(f"{s} = {_first_bad(a, truth):.6g}" for s, a in involved)
        meanings = "; ".join(f"{s} is the {describe(s).meaning}" for s, _ in involved)
        return (
            f"{shown} is outside {condition}, where '{self._title}' holds ({meanings}). "
            f"Use values inside, or compile with on_invalid='nan'."
        )

    def _refuse_names(self, places: tuple[Any, ...], values: dict[str, Any]) -> None:
        legal = ", ".join(self.arguments) or "none, it is a constant"
        if places:
            call = ", ".join(f"{name}=..." for name in self.arguments)
            raise InvalidInput(
                f"the arguments of '{self._title}' are passed by name, not by position: f({call})."
            )
        unknown = sorted(set(values) - set(self.arguments))
        missing = sorted(set(self.arguments) - set(values))
        what = [f"unknown argument {', '.join(unknown)}"] if unknown else []
        what += [f"missing argument {', '.join(missing)}"] if missing else []
        raise InvalidInput(f"{' and '.join(what)}; '{self._title}' takes: {legal}.")

    def __reduce__(self) -> tuple:
        return Evaluator, (self.formula, self.backend, self.on_invalid, self._symbols)

    def __repr__(self) -> str:
        return f"<Evaluator of '{self.formula.name}'({', '.join(self.arguments)}), {self.backend}>"

    def _repr_markdown_(self) -> str:
        """The call, what its arguments mean, and the formula behind it."""
        return call_markdown([self.formula], self.arguments, self._symbols, self.backend)


def call_markdown(
    formulas: Sequence[Formula], arguments: Sequence[str], symbols: Iterable[Any], backend: str
) -> str:
    """A compiled call in Markdown: its arguments with their meaning, and the formulas."""
    names = "; ".join(formula.name for formula in formulas)
    lines = [f"**{names}**: function of {', '.join(arguments) or 'nothing'} ({backend})", ""]
    known = {symbol.name: describe(symbol) for symbol in symbols}
    if arguments:
        lines += ["| argument | meaning | domain |", "|:--|:--|:--|"]
    for name in arguments:
        info = known.get(name)
        cells = (f"`{name}`", info.meaning if info else "", info.domain if info else "")
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    return "\n".join([*lines, "", *(f"{formula._repr_latex_()}\n" for formula in formulas)])


def compile(
    formula: Formula | Mapping[str, Formula], backend: str = "numpy", *, on_invalid: str = "raise"
) -> Any:
    """Compile a `Formula` into a fast function of keyword arguments named like its symbols.

    Parameters
    ----------
    formula: what `icltheory` derived; or a dictionary of formulas, which share their arguments and
        their common parts and are returned as a dictionary.
    backend: "numpy" (arrays, float64), "math" (Python floats), "mpmath" (current precision) or
        "torch" (tensors, differentiable). Formulas in matrices, and dictionaries, have "numpy" and
        "torch".
    on_invalid: "raise" (`OutOfDomain` names the bound and the value) or "nan".

    A matrix argument has shape (.., d, d), a vector (.., d), and leading axes broadcast; see
    `MatrixEvaluator`. Errors: `InvalidInput` for an unknown backend or something that is no Formula.

    >>> import icltheory as icl
    >>> from icltheory.symbols import d
    >>> f = compile(icl.loss_constant(icl.LinearRegression(dim=d), icl.SoftmaxAttention(heads=1)))
    >>> f.arguments
    ('d', 't')
    >>> f(d=5, t=[0.1, 0.2]).round(4)
    array([19.6529, 23.9073])
    """
    for item in (list(formula.values()) or [None]) if isinstance(formula, Mapping) else [formula]:
        if isinstance(item, (sp.Basic, sp.MatrixBase)):
            raise InvalidInput(
                f"compile takes a Formula, got the expression {item}; pass "
                f'numeric.compile(icl.Formula("name", expression)).'
            )
        if not isinstance(item, Formula):
            raise InvalidInput(
                f"compile takes a Formula or a dictionary of them, such as "
                f"icl.loss_constant(task, attention), got {type(item).__name__}."
            )
    if backend not in BACKENDS:
        raise InvalidInput(f"backend = {backend!r} is not one of {', '.join(BACKENDS)}.")
    if on_invalid not in _ON_INVALID:
        raise InvalidInput(f"on_invalid = {on_invalid!r} is not one of {', '.join(_ON_INVALID)}.")
    if isinstance(formula, Formula) and not matrix_symbols(formula.expr):
        if backend != "mpmath" and formula.expr.has(sp.Integral):
            raise InvalidInput(
                f"'{formula.name}' contains an integral; compile it with backend='mpmath', or put "
                f"numbers in with .subs and call .evalf()."
            )
        if any(sp.sympify(entry).has(sp.Sum) for entry in sp.flatten([formula.expr])):
            raise InvalidInput(
                f"'{formula.name}' contains a sum over a symbolic number of terms; derive it for a "
                f"number, or put numbers in with .subs and call .evalf()."
            )
        return Evaluator(formula, backend, on_invalid)
    from numeric.matrix_evaluator import MatrixEvaluator

    return MatrixEvaluator(formula, backend, on_invalid)


def conditions(formula: Formula, symbols: tuple[Any, ...]) -> list[Any]:
    """The validity, split at its top-level And, and the sign domain of every symbol."""
    domain = []
    for symbol in symbols:
        plain = sp.Symbol(symbol.name)
        # `symbol > 0` is identically true for a positive symbol; the number still has to be checked.
        if symbol.is_positive:
            bound = sp.Ge(plain, 1) if symbol.is_integer else sp.Gt(plain, 0)
        elif symbol.is_nonnegative:
            bound = sp.Ge(plain, 0)
        else:
            continue
        domain.append(bound)
    table = {symbol: sp.Symbol(symbol.name) for symbol in symbols}
    validity = [c.xreplace(table) for c in sp.And.make_args(formula.validity) if c != sp.true]
    return [*domain, *validity]


def argument(value: Any, name: str, backend: str) -> Any:
    """One argument in the form of the backend; `InvalidInput` for what is no finite number."""
    if backend == "torch":
        import torch

        given = isinstance(value, torch.Tensor) and value.dtype != torch.bool
        tensor = value if given else torch.as_tensor(finite(value, name))
        tensor = tensor if tensor.is_floating_point() else tensor.to(torch.float64)
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInput(f"{name} contains NaN or infinite entries; pass finite numbers.")
        return tensor
    if backend == "mpmath":
        if isinstance(value, (str, bytes, bool)) or np.ndim(value) != 0:
            raise InvalidInput(
                f"{name} = {value!r} is not one number, which backend 'mpmath' takes."
            )
        try:
            number = mpmath.mpmathify(value)
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"{name} = {value!r} is not numeric; pass a number.") from error
        if not mpmath.isfinite(number):
            raise InvalidInput(f"{name} = {value} is not finite; pass a finite number.")
        return number
    if type(value) is float and math.isfinite(value):
        return value
    array = finite(value, name)
    if backend == "math":
        if array.ndim:
            raise InvalidInput(f"{name} has shape {array.shape}; backend 'math' takes one number.")
        return float(array)
    return array if array.ndim else float(array)


def _distinct(formula: Formula) -> tuple[sp.Symbol, ...]:
    """The symbols of the formula; `InvalidInput` if two of them have one name."""
    symbols = tuple(info.symbol for info in formula.symbols)
    for one, other in pairwise(symbols):  # in alphabetical order
        if one.name == other.name:
            canonical = one in TABLE or other in TABLE
            right = f"icltheory.symbols.{one}" if canonical else "the same one"
            raise InvalidInput(
                f"'{formula.name}' has two symbols called {one}, one of them with other "
                f"assumptions: use {right} in both places."
            )
    return symbols


def _renamed(symbols: tuple[sp.Symbol, ...]) -> dict[sp.Symbol, sp.Symbol]:
    """Other names in the generated code for symbols called like a function of SymPy, e.g. gamma."""
    clash = (s for s in symbols if isinstance(getattr(sp, s.name, None), FunctionClass))
    return {symbol: sp.Symbol(f"{symbol.name}_", **symbol.assumptions0) for symbol in clash}


def _floor(value: Any) -> Any:
    if isinstance(value, (int, float)):
        return math.floor(value)
    if isinstance(value, mpmath.mpf):
        return mpmath.floor(value)
    return np.floor(value) if isinstance(value, np.ndarray) else value.floor()


def _all(truth: Any) -> bool:
    return bool(truth.all()) if hasattr(truth, "all") else bool(truth)


def _first_bad(value: Any, truth: Any) -> float:
    bad = np.asarray(truth) == False  # noqa: E712  (also for NumPy and torch truth values)
    array, bad = np.broadcast_arrays(np.asarray(value, dtype=float), bad)
    return float(array[bad][0])
