"""Evaluators of formulas in matrices, and of several formulas at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import sympy as sp

from icltheory.errors import InvalidInput
from icltheory.formula import Formula
from icltheory.matrix_calculus import is_column, is_matrix
from numeric import matrix_code
from numeric.compile import Evaluator, argument, call_markdown, conditions

BACKENDS = ("numpy", "torch")


class MatrixEvaluator(Evaluator):
    """A compiled formula in matrices, vectors and scalars, or a dictionary of formulas.

    Call it with keyword arguments: matrices of shape (.., d, d), vectors (.., d) (columns
    (.., d, 1) are accepted), scalars (..); the leading axes broadcast. The result has shape (..),
    (.., d) or (.., d, d); for a dictionary of formulas it is the dictionary of results, their
    common products computed once. A dimension that is a symbol is read from the arrays.

    Constants of the formulas (`Formula.where`) are bound. Checks, pickling, `.source` and
    `.gradient("A")` are those of `Evaluator`; backends "numpy" and "torch" (differentiable).

    >>> import icltheory as icl, numeric
    >>> risk = numeric.compile(icl.infinite_prompt_risk(icl.LinearRegression(dim=2)))
    >>> risk(A=np.eye(2), u=np.zeros(2), v=np.zeros(2), b=[0.0, 1.0])
    array([1., 0.])
    """

    def __init__(self, formula: Any, backend: str, on_invalid: str) -> None:
        if backend not in BACKENDS:
            raise InvalidInput(
                f"backend = {backend!r} does not take formulas in matrices or dictionaries of "
                f"formulas; use one of {', '.join(BACKENDS)}."
            )
        self.formula, self.backend, self.on_invalid = formula, backend, on_invalid
        self._formulas = dict(formula) if isinstance(formula, Mapping) else {None: formula}
        formulas = list(self._formulas.values())
        symbols = _union(formulas)
        sizes = matrix_code.dimensions(formulas)
        self._sizes = [s for s in symbols if s in sizes]
        self._symbols = tuple(s for s in symbols if s not in sizes)
        self.arguments = tuple(s.name for s in self._symbols)
        self._scalars = [s for s in self._symbols if not isinstance(s, sp.MatrixSymbol)]
        matrices = [s for s in self._symbols if isinstance(s, sp.MatrixSymbol)]
        # (name, column?, sizes); matrices before vectors, whose length may be ambiguous alone.
        self._matrices = sorted(
            ((s.name, is_column(s), tuple(map(_plain, s.shape))) for s in matrices),
            key=lambda entry: entry[1],
        )
        self._title = ", ".join(f.name for f in formulas)
        self._checked = (*self._scalars, *self._sizes)
        plain = [sp.Symbol(s.name) for s in self._checked]
        unique = dict.fromkeys(
            c
            for formula in formulas
            for c in conditions(formula, tuple(info.symbol for info in formula.symbols))
        )
        # A size is an integer of at least one by itself.
        kept = [c for c in unique if c.free_symbols - set(plain[len(self._scalars) :])]
        self._conditions = [(c, sp.lambdify(plain, c, modules=backend)) for c in kept]
        self._code = matrix_code.generate(
            formulas, [*self._symbols, *self._sizes], _where(formulas)
        )
        self._function = matrix_code.load(self._code, _namespace(backend))
        self._identities = [_plain(size) for size in self._code.identities.values()]
        self._axes = [_axes(f.expr) for f in formulas]
        needed = {*self._identities, *(size for sizes, _ in self._axes for size in sizes)}
        unknown = {s for s in needed if isinstance(s, str)} - {s.name for s in self._sizes}
        if unknown:
            raise InvalidInput(
                f"no argument has the size {', '.join(sorted(unknown))}, a size of the result; "
                f"put a number in with .subs."
            )
        self._tensors: dict[Any, list[Any]] = {}

    @property
    def source(self) -> str:
        """The generated Python code."""
        return self._code.source

    def gradient(self, symbol: str) -> MatrixEvaluator:
        """The compiled derivative of a scalar formula in a matrix, vector or scalar, by name."""
        if not isinstance(self.formula, Mapping):
            return MatrixEvaluator(self.formula.diff(symbol), self.backend, self.on_invalid)
        derivatives = {name: f.diff(symbol) for name, f in self.formula.items()}
        return MatrixEvaluator(derivatives, self.backend, self.on_invalid)

    def __call__(self, *places: Any, **values: Any) -> Any:
        if places or len(values) != len(self.arguments) or set(values) != set(self.arguments):
            self._refuse_names(places, values)
        given = {name: argument(values[name], name, self.backend) for name in self.arguments}
        if self.backend == "torch":
            given = _one_dtype(given)
        scalars = [given[s.name] for s in self._scalars]
        sizes, batch = self._shaped(given)
        valid = self._check([*scalars, *(sizes[s.name] for s in self._sizes)])
        inputs = [
            *(given[name] for name in self.arguments),
            *(sizes[s.name] for s in self._sizes),
            *self._constants(given),
            *(self._eye(given, sizes.get(size, size)) for size in self._identities),
        ]
        if self.backend == "numpy" and valid is not None:
            with np.errstate(all="ignore"):
                results = self._function(*inputs)
        else:
            results = self._function(*inputs)
        finish = self._array if self.backend == "numpy" else self._tensor
        out = [
            finish(result, axes, batch, sizes, valid, inputs)
            for result, axes in zip(results, self._axes, strict=True)
        ]
        return dict(zip(self._formulas, out, strict=True)) if None not in self._formulas else out[0]

    # -- arguments -------------------------------------------------------------------------------

    def _shaped(self, given: dict[str, Any]) -> tuple[dict[Any, int], tuple[int, ...]]:
        """Two trailing axes for every argument (in place); sizes of dimensions, leading shape."""
        sizes: dict[Any, int] = {}
        leading = []
        for name, column, shape in self._matrices:
            array = given[name]
            if getattr(array, "ndim", 0) < (1 if column else 2):
                what = "a vector" if column else "a matrix"
                raise InvalidInput(
                    f"{name} has shape {tuple(getattr(array, 'shape', ()))}; {name} is {what}."
                )
            if column:
                array = _as_column(array, sizes.get(shape[0], shape[0]))
            found = tuple(array.shape)
            for size, length in zip(shape, found[-2:], strict=True):
                if length != (size if isinstance(size, int) else sizes.setdefault(size, length)):
                    self._refuse_shape(name, tuple(given[name].shape), shape, column, sizes)
            given[name] = array
            if len(found) > 2:
                leading.append((name, found[:-2]))
        for symbol in self._scalars:
            array = given[symbol.name]
            if getattr(array, "ndim", 0):
                leading.append((symbol.name, tuple(array.shape)))
                given[symbol.name] = array[..., None, None]
        return sizes, _broadcast(leading)

    def _refuse_shape(
        self, name: str, found: tuple, shape: tuple, column: bool, sizes: dict[Any, int]
    ) -> None:
        wanted = ", ".join(str(sizes.get(s, s)) for s in shape[: 1 if column else 2])
        others = ", ".join(f"{key} = {value}" for key, value in sizes.items())
        because = f" ({others} from the arguments before it)" if others else ""
        raise InvalidInput(f"{name} has shape {found}; (.., {wanted}) is needed{because}.")

    def _constants(self, given: dict[str, Any]) -> list[Any]:
        if self.backend == "numpy":
            return list(self._code.constants.values())
        import torch

        like = next(iter(given.values()), torch.zeros((), dtype=torch.float64))
        key = (like.dtype, like.device)
        if key not in self._tensors:
            self._tensors[key] = [
                torch.as_tensor(a, dtype=like.dtype, device=like.device)
                for a in self._code.constants.values()
            ]
        return self._tensors[key]

    def _eye(self, given: dict[str, Any], number: Any) -> Any:
        if self.backend == "numpy":
            return _identity(number)
        import torch

        like = next(iter(given.values()), torch.zeros((), dtype=torch.float64))
        return torch.eye(number, dtype=like.dtype, device=like.device)

    # -- results ---------------------------------------------------------------------------------

    def _array(
        self, result: Any, axes: tuple, batch: tuple, sizes: dict, valid: Any, inputs: list[Any]
    ) -> Any:
        shape = batch + tuple([sizes.get(size, size) for size in axes[0]])
        out = result[axes[1]] if axes[1] and np.ndim(result) else result
        if np.shape(out) != shape:
            out = np.broadcast_to(out, shape)
        if valid is not None:
            mask = np.asarray(valid)
            out = np.where(mask[(..., *[None] * len(axes[0]))], out, np.nan)
        if not shape:
            return float(out)
        if out.base is not None or any(out is x for x in inputs):
            out = np.array(out)
        return out

    def _tensor(
        self, result: Any, axes: tuple, batch: tuple, sizes: dict, valid: Any, inputs: list[Any]
    ) -> Any:
        import torch

        out = result if isinstance(result, torch.Tensor) else torch.tensor(float(result)).double()
        out = out[axes[1]] if axes[1] and out.ndim else out
        out = out.broadcast_to(batch + tuple([sizes.get(size, size) for size in axes[0]]))
        if valid is None:
            return out
        mask = torch.as_tensor(valid)[(..., *[None] * len(axes[0]))]
        return torch.where(mask, out, torch.nan)

    def __reduce__(self) -> tuple:
        return MatrixEvaluator, (self.formula, self.backend, self.on_invalid)

    def __repr__(self) -> str:
        return f"<Evaluator of '{self._title}'({', '.join(self.arguments)}), {self.backend}>"

    def _repr_markdown_(self) -> str:
        """The call, what its arguments mean, and the formulas behind it."""
        formulas = list(self._formulas.values())
        return call_markdown(formulas, self.arguments, self._symbols, self.backend)


def _union(formulas: list[Formula]) -> list[Any]:
    """All symbols, by name; `InvalidInput` if one name means two things."""
    found: dict[str, Any] = {}
    for formula in formulas:
        for info in formula.symbols:
            if found.setdefault(info.name, info.symbol) != info.symbol:
                raise InvalidInput(
                    f"the formulas use {info.name} for different symbols (of other shape or "
                    f"domain); compile them separately."
                )
    return [found[name] for name in sorted(found)]


def _where(formulas: list[Formula]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for formula in formulas:
        for symbol, value in formula.where.items():
            if found.setdefault(symbol, value) != value:
                raise InvalidInput(
                    f"the formulas give {symbol} different values; compile them separately."
                )
    return found


def _axes(expr: Any) -> tuple[tuple, tuple]:
    """Sizes of the result's own axes, and the index that drops the others."""
    if not is_matrix(expr):
        return (), (..., 0, 0)
    if is_column(expr):
        return (_plain(expr.shape[0]),), (..., 0)
    return tuple(map(_plain, expr.shape)), ()


def _plain(size: Any) -> int | str:
    """A size as a number, or as the name of its symbol."""
    size = sp.sympify(size)
    return int(size) if size.is_Integer else size.name


def _as_column(array: Any, length: Any) -> Any:
    """A vector as (.., d, 1): given so, or as (.., d), which is what is meant if both fit."""
    shape = tuple(array.shape)
    given_so = len(shape) >= 2 and shape[-1] == 1 and length != 1 and shape[-2] == length
    return array if given_so else array[..., None]


def _broadcast(leading: list[tuple[str, tuple[int, ...]]]) -> tuple[int, ...]:
    if not leading:
        return ()
    try:
        return np.broadcast_shapes(*(shape for _, shape in leading))
    except ValueError as error:
        shown = ", ".join(f"{name}: {shape}" for name, shape in leading)
        raise InvalidInput(
            f"the leading shapes do not broadcast ({shown}); add axes so that they do."
        ) from error


@lru_cache(maxsize=64)
def _identity(size: int) -> np.ndarray:
    out = np.eye(size)
    out.setflags(write=False)
    return out


def _one_dtype(given: dict[str, Any]) -> dict[str, Any]:
    import torch

    dtype = None
    for tensor in given.values():
        dtype = tensor.dtype if dtype is None else torch.promote_types(dtype, tensor.dtype)
    return {name: tensor.to(dtype) for name, tensor in given.items()}


def _namespace(backend: str) -> dict[str, Any]:
    if backend == "numpy":
        module: Any = np
    else:
        import torch

        module = torch
    functions = {name: getattr(module, name) for name in matrix_code.FUNCTIONS}

    def assemble(rows: list[list[Any]]) -> Any:
        entries = [x[..., 0, 0] if getattr(x, "ndim", 0) else x for row in rows for x in row]
        if backend == "torch":
            tensors = [module.as_tensor(x, dtype=module.float64) for x in entries]
            stacked = module.stack(module.broadcast_tensors(*tensors), dim=-1)
        else:
            stacked = np.stack(np.broadcast_arrays(*entries), axis=-1)
        return stacked.reshape(*stacked.shape[:-1], len(rows), len(rows[0]))

    def zeros(shape: tuple) -> Any:
        return module.zeros(shape, dtype=module.float64)

    return {**functions, "assemble": assemble, "inverse": module.linalg.inv, "zeros": zeros}
