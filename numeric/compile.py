"""Formula -> Evaluator: fast numerical functions from exact expressions.

`compile` prints the expression with SymPy's `lambdify` (common subexpressions shared) for one of
four backends, and wraps it so that arguments are named like the symbols, broadcast, and are checked
against the domain of every symbol and the validity of the formula.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import mpmath
import numpy as np
import sympy as sp

from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.formula import Formula
from icltheory.symbols import describe

BACKENDS = ("numpy", "math", "mpmath", "torch")
_ON_INVALID = ("raise", "nan")


class Evaluator:
    """A compiled `Formula`; call it with keyword arguments named like its symbols.

    Arguments broadcast against each other (NumPy, torch); a constant formula takes no part in it
    and returns a scalar unless arguments of other symbols of the formula give it a shape. A matrix
    formula returns shape broadcast + (rows, columns). Outside the validity, or outside the domain
    of a symbol, `on_invalid="raise"` raises `OutOfDomain`, `"nan"` returns NaN there.

    Evaluators are picklable; `.source` is the generated code, `.gradient("t")` the compiled
    derivative.
    """

    def __init__(self, formula: Formula, backend: str, on_invalid: str) -> None:
        self.formula, self.backend, self.on_invalid = formula, backend, on_invalid
        self.arguments = tuple(info.name for info in formula.symbols)
        self._symbols = tuple(info.symbol for info in formula.symbols)
        self._shape = formula.expr.shape if isinstance(formula.expr, sp.MatrixBase) else None
        entries = list(formula.expr) if self._shape else [formula.expr]
        self._entries = sp.lambdify(self._symbols, entries, modules=backend, cse=True)
        self._conditions = [
            (condition, sp.lambdify(self._symbols, condition, modules=backend))
            for condition in _conditions(formula)
        ]

    @property
    def source(self) -> str:
        """The generated Python code."""
        return inspect.getsource(self._entries)

    def gradient(self, symbol: str) -> Evaluator:
        """The compiled derivative with respect to one symbol (by name), same backend and checks."""
        return Evaluator(self.formula.diff(symbol), self.backend, self.on_invalid)

    def __call__(self, **values: Any) -> Any:
        if set(values) != set(self.arguments):
            self._refuse_names(values)
        arguments = [_argument(values[name], name, self.backend) for name in self.arguments]
        valid = self._check(arguments)
        if self.backend == "numpy":
            # Masked points are about to become NaN; their overflow is not the user's concern.
            with np.errstate(all="warn" if valid is None else "ignore"):
                return self._numpy(arguments, valid)
        results = self._entries(*arguments)
        if self.backend == "torch":
            return self._torch(arguments, results, valid)
        if valid is False:
            results = [math.nan if self.backend == "math" else mpmath.nan for _ in results]
        if self._shape is None:
            return results[0]
        rows, columns = self._shape
        table = [results[i * columns : (i + 1) * columns] for i in range(rows)]
        return mpmath.matrix(table) if self.backend == "mpmath" else table

    def _numpy(self, arguments: list[Any], valid: Any) -> Any:
        shape = self._broadcast_shape(arguments)
        results = self._entries(*arguments)
        if self._shape is None:
            out = (
                results[0] if np.shape(results[0]) == shape else np.broadcast_to(results[0], shape)
            )
        else:
            out = np.stack([np.broadcast_to(r, shape) for r in results], axis=-1)
            out = out.reshape(*shape, *self._shape)
            valid = valid if valid is None else np.asarray(valid)[..., None, None]
        if valid is not None:
            out = np.where(valid, out, np.nan)
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
            (s, a) for s, a in zip(self._symbols, arguments, strict=True) if s.name in names
        ]
        # The first offending point is shown; the mask may have a smaller shape than the arguments.
        shown = ", ".join(f"{s} = {_first_bad(a, truth):.6g}" for s, a in involved)
        meanings = "; ".join(f"{s} is the {describe(s).meaning}" for s, _ in involved)
        return (
            f"{shown} is outside {condition}, where '{self.formula.name}' holds ({meanings}). "
            f"Use values inside, or compile with on_invalid='nan'."
        )

    def _refuse_names(self, values: dict[str, Any]) -> None:
        legal = ", ".join(self.arguments) or "none, it is a constant"
        unknown = sorted(set(values) - set(self.arguments))
        missing = sorted(set(self.arguments) - set(values))
        what = [f"unknown argument {', '.join(unknown)}"] if unknown else []
        what += [f"missing argument {', '.join(missing)}"] if missing else []
        raise InvalidInput(f"{' and '.join(what)}; '{self.formula.name}' takes: {legal}.")

    def __reduce__(self) -> tuple:
        return Evaluator, (self.formula, self.backend, self.on_invalid)

    def __repr__(self) -> str:
        return f"<Evaluator of '{self.formula.name}'({', '.join(self.arguments)}), {self.backend}>"


def compile(formula: Formula, backend: str = "numpy", *, on_invalid: str = "raise") -> Evaluator:
    """Compile a `Formula` into a fast function of keyword arguments named like its symbols.

    Parameters
    ----------
    formula: what `icltheory` derived.
    backend: "numpy" (arrays, float64), "math" (Python floats), "mpmath" (current precision) or
        "torch" (tensors, differentiable).
    on_invalid: "raise" (`OutOfDomain` names the bound and the value) or "nan".

    Errors: `InvalidInput` for an unknown backend or something that is no Formula.

    >>> import icltheory as icl
    >>> from icltheory.symbols import d
    >>> f = compile(icl.loss_constant(icl.LinearRegression(dim=d), icl.SoftmaxAttention(heads=1)))
    >>> f.arguments
    ('d', 't')
    >>> f(d=5, t=[0.1, 0.2]).round(4)
    array([19.6529, 23.9073])
    """
    if not isinstance(formula, Formula):
        raise InvalidInput(f"compile takes a Formula, got {type(formula).__name__}.")
    if backend not in BACKENDS:
        raise InvalidInput(f"backend = {backend!r} is not one of {', '.join(BACKENDS)}.")
    if on_invalid not in _ON_INVALID:
        raise InvalidInput(f"on_invalid = {on_invalid!r} is not one of {', '.join(_ON_INVALID)}.")
    return Evaluator(formula, backend, on_invalid)


def _conditions(formula: Formula) -> list[Any]:
    """The validity, split at its top-level And, and the sign domain of every symbol."""
    domain = []
    for info in formula.symbols:
        symbol, plain = info.symbol, sp.Symbol(info.symbol.name)
        # `symbol > 0` is identically true for a positive symbol; the number still has to be checked.
        if symbol.is_positive:
            bound = sp.Ge(plain, 1) if symbol.is_integer else sp.Gt(plain, 0)
        elif symbol.is_nonnegative:
            bound = sp.Ge(plain, 0)
        else:
            continue
        domain.append(bound)
    table = {info.symbol: sp.Symbol(info.symbol.name) for info in formula.symbols}
    validity = [c.xreplace(table) for c in sp.And.make_args(formula.validity) if c != sp.true]
    return [*domain, *validity]


def _argument(value: Any, name: str, backend: str) -> Any:
    if backend == "torch":
        import torch

        tensor = value if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))
        tensor = tensor if tensor.is_floating_point() else tensor.to(torch.float64)
        if not bool(torch.isfinite(tensor).all()):
            raise InvalidInput(f"{name} contains NaN or infinite entries; pass finite numbers.")
        return tensor
    if backend == "mpmath":
        number = mpmath.mpf(value)
        if not mpmath.isfinite(number):
            raise InvalidInput(f"{name} = {value} is not finite; pass a finite number.")
        return number
    try:
        array = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} = {value!r} is not numeric; pass numbers.") from error
    if not np.isfinite(array).all():
        raise InvalidInput(f"{name} contains NaN or infinite entries; pass finite numbers.")
    if backend == "math":
        if array.ndim:
            raise InvalidInput(f"{name} has shape {array.shape}; backend 'math' takes one number.")
        return float(array)
    return array if array.ndim else float(array)


def _all(truth: Any) -> bool:
    return bool(truth.all()) if hasattr(truth, "all") else bool(truth)


def _first_bad(value: Any, truth: Any) -> float:
    bad = np.asarray(truth) == False  # noqa: E712  (also for NumPy and torch truth values)
    array, bad = np.broadcast_arrays(np.asarray(value, dtype=float), bad)
    return float(array[bad][0])
