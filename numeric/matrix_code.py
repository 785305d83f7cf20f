"""Python code for matrix formulas: products in a good order, common products computed once.

The code runs on NumPy arrays and on torch tensors alike. Inside it every quantity has two trailing
axes: matrices (.., d, d), vectors (.., d, 1), scalars (.., 1, 1) or plain numbers, so that leading
axes broadcast. A product of several factors is multiplied in the order of least cost, where a part
that is already known (or whose transpose is) costs nothing and a part that occurs k times in the
formulas counts 1/k.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sympy as sp

from icltheory.errors import InvalidInput
from icltheory.formula import Formula
from icltheory.matrix_calculus import (
    Form,
    SymmetricSymbol,
    is_column,
    is_matrix,
    is_row,
    matrix_symbols,
)

Factor = tuple[Any, bool]  # (matrix, transposed?)
Chain = tuple[Factor, ...]

FUNCTIONS = ("exp", "log", "sinh", "cosh", "tanh", "sin", "cos", "tan")
_NOMINAL = 16  # size assumed for a symbolic dimension when products are ordered
_CALL = 400  # cost of one array operation, in multiplications


@dataclass
class Code:
    """Generated code: a function `evaluate(*arguments, *sizes, *constants, *identities)`.

    `constants` are arrays by parameter name, `identities` sizes (a number or a symbol) by name.
    """

    source: str
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    identities: dict[str, Any] = field(default_factory=dict)


def generate(formulas: Iterable[Formula], arguments: list[Any], where: dict[Any, Any]) -> Code:
    """Code that returns the tuple of values of `formulas`.

    `arguments` are the scalar, matrix and dimension symbols in the order of the parameters,
    `where` the explicit values of the constant matrices.
    """
    writer = _Writer(arguments, where)
    expressions = [formula.expr for formula in formulas]
    for expr in expressions:
        writer.count(expr)
    # Matrices first: their products then serve the vectors and scalars.
    order = sorted(range(len(expressions)), key=lambda i: _rank(expressions[i]))
    results = {i: writer.value(expressions[i]) for i in order}
    returned = ", ".join(results[i] for i in range(len(expressions)))
    parameters = [*writer.parameters, *writer.constants, *writer.identities]
    body = "\n".join(f"    {line}" for line in [*writer.lines, f"return ({returned},)"])
    source = f"def evaluate({', '.join(parameters)}):\n{body}\n"
    return Code(source, writer.constants, writer.identities)


def load(code: Code, namespace: dict[str, Any]) -> Callable:
    """The function that `code` defines, over the backend's `namespace`."""
    scope = dict(namespace)
    # The text is printed above from SymPy objects; names of symbols are kept only if harmless.
    exec(compile(code.source, "<matrix formula>", "exec"), scope)
    return scope["evaluate"]


def _rank(expr: Any) -> int:
    return 2 if not is_matrix(expr) else int(is_column(expr) or is_row(expr))


class _Writer:
    def __init__(self, arguments: list[Any], where: dict[Any, Any]) -> None:
        self.lines: list[str] = []
        self.constants: dict[str, np.ndarray] = {}
        self.identities: dict[str, Any] = {}
        self._where, self._counts = where, Counter()
        self._names: dict[Any, str] = {}
        self._chains: dict[Chain, str] = {}
        self._used: set[str] = {"assemble", "inverse", "zeros", "evaluate", *FUNCTIONS}
        self.parameters = [self._identifier(symbol) for symbol in arguments]

    # -- names -----------------------------------------------------------------------------------

    def _identifier(self, symbol: Any) -> str:
        self._names[symbol] = self._safe(symbol.name, f"_symbol{len(self._names)}")
        return self._names[symbol]

    def _safe(self, name: str, otherwise: str) -> str:
        """`name` if it is free and a harmless identifier."""
        plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) and not keyword.iskeyword(name)
        name = name if plain and name not in self._used else otherwise
        self._used.add(name)
        return name

    def _assign(self, code: str) -> str:
        if code.isidentifier():
            return code
        name = f"_{len(self.lines)}"
        self.lines.append(f"{name} = {code}")
        return name

    def _constant(self, array: np.ndarray, name: str = "") -> str:
        name = self._safe(name, f"_constant{len(self.constants)}")
        self.constants[name] = array
        return name

    # -- common products -------------------------------------------------------------------------

    def count(self, expr: Any) -> None:
        """Count every part of every product, so that parts used often are computed as such."""
        seen: set[Any] = set()

        def visit(node: Any) -> None:
            if node in seen or isinstance(node, (sp.MatrixSymbol, sp.MatrixBase)):
                return
            seen.add(node)
            if isinstance(node, (sp.Trace, sp.MatMul)):
                _, chain = self._split(node.args[0] if isinstance(node, sp.Trace) else node)
                self._counts.update(_parts(chain, cyclic=isinstance(node, sp.Trace)))
            for arg in node.args:
                visit(arg)

        visit(expr)

    def _split(self, matrix: Any, flag: bool = False) -> tuple[Any, Chain]:
        """A matrix expression as scalar times chain; identities are dropped."""
        if isinstance(matrix, sp.Identity):
            return sp.S.One, ()
        if isinstance(matrix, sp.Transpose):
            return self._split(matrix.arg, not flag)
        if isinstance(matrix, sp.MatPow) and matrix.exp.is_Integer and matrix.exp > 0:
            return self._split(sp.MatMul(*[matrix.base] * int(matrix.exp)), flag)
        if isinstance(matrix, sp.MatMul):
            scale, factors = matrix.as_coeff_matrices()
            chain: Chain = ()
            for factor in reversed(factors) if flag else factors:
                inner, part = self._split(factor, flag)
                scale, chain = scale * inner, chain + part
            return scale, chain
        return sp.S.One, (self._factor(matrix, flag),)

    def _factor(self, matrix: Any, flag: bool) -> Factor:
        value = self._where.get(matrix)
        symmetric = isinstance(matrix, SymmetricSymbol) or (value is not None and value == value.T)
        return matrix, flag and not symmetric

    def _flip(self, chain: Chain) -> Chain:
        return tuple(self._factor(matrix, not flag) for matrix, flag in reversed(chain))

    # -- scalars ---------------------------------------------------------------------------------

    def value(self, expr: Any) -> str:
        """Code of an expression (a name, a number, or something in brackets)."""
        if is_matrix(expr):
            return self._sum(expr)
        if expr in self._names:
            return self._names[expr]
        if expr.is_Integer:
            return str(expr) if expr >= 0 else f"({expr})"
        if expr.is_Rational:
            return f"({int(expr.p) / int(expr.q)!r})"
        if expr.is_number:
            return f"({float(expr)!r})"
        name = self._assign(self._scalar_code(expr))
        self._names[expr] = name
        return name

    def _scalar_code(self, expr: Any) -> str:
        if expr.is_Add:
            return " + ".join(self.value(arg) for arg in expr.args)
        if expr.is_Mul:
            return " * ".join(self.value(arg) for arg in expr.args)
        if expr.is_Pow:
            return f"{self.value(expr.base)} ** {self.value(expr.exp)}"
        if isinstance(expr, (Form, sp.Trace)):
            return self._trace(expr.args[0])
        if isinstance(expr, sp.exp):
            return f"exp({self.value(expr.args[0])})"
        name = expr.func.__name__
        if name in FUNCTIONS:
            return f"{name}({self.value(expr.args[0])})"
        raise InvalidInput(
            f"{expr} cannot be compiled inside a matrix formula; the functions known there are "
            f"{', '.join(FUNCTIONS)}."
        )

    def _trace(self, matrix: Any) -> str:
        """The trace of a product, the last multiplication taken only on the diagonal."""
        if isinstance(matrix, sp.MatAdd):
            return " + ".join(self.value(sp.Trace(arg)) for arg in matrix.args)
        scale, chain = self._split(matrix)
        if not chain:
            return self.value(scale * matrix.rows)
        if _rows(chain) == 1:
            code = self._chain(chain)
        elif len(chain) == 1:
            diagonal = f"{self._chain(chain)} * {self._identity(matrix.rows)}"
            code = f"({diagonal}).sum((-2, -1), keepdims=True)"
        else:
            memo: dict[Chain, float] = {}
            turns = [chain[i:] + chain[:i] for i in range(len(chain))]
            splits = [(turn[:j], turn[j:]) for turn in turns for j in range(1, len(chain))]
            left, right = min(
                splits, key=lambda s: self._cost(s[0], memo) + self._cost(self._flip(s[1]), memo)
            )
            first, second = self._chain(left), self._chain(self._flip(right))
            code = f"({first} * {second}).sum((-2, -1), keepdims=True)"
        return code if scale == 1 else f"{self.value(scale)} * {code}"

    # -- matrices --------------------------------------------------------------------------------

    def _sum(self, matrix: Any) -> str:
        if matrix in self._names:
            return self._names[matrix]
        terms = matrix.args if isinstance(matrix, sp.MatAdd) else (matrix,)
        code = ""
        for term in terms:
            scale, chain = self._split(term)
            body = self._chain(chain) if chain else self._identity(term.rows)
            sign = " - " if _negative(scale) else " + "
            scale = -scale if _negative(scale) else scale
            part = body if scale == 1 else f"{self.value(scale)} * {body}"
            code += f"{sign}{part}"
        code = code[3:] if code.startswith(" + ") else f"-{code[3:]}"
        self._names[matrix] = self._assign(code)
        return self._names[matrix]

    def _identity(self, size: Any) -> str:
        name = f"_identity_{size}" if str(size).isidentifier() or size.is_Integer else ""
        name = name or f"_identity{len(self.identities)}"
        self.identities[name] = size
        return name

    def _chain(self, chain: Chain) -> str:
        """Code of a product of factors."""
        known = self._chains.get(chain)
        if known is not None:
            return known
        flipped = self._chains.get(self._flip(chain))
        if flipped is not None:
            code = f"{flipped}.swapaxes(-1, -2)"
        elif self._is_constant(chain):
            name = chain[0][0].name if len(chain) == 1 and not chain[0][1] else ""
            self._chains[chain] = self._constant(self._folded(chain), name)
            return self._chains[chain]
        elif len(chain) == 1:
            return self._single(chain)
        else:
            memo: dict[Chain, float] = {}
            cuts = [(chain[:i], chain[i:]) for i in range(1, len(chain))]
            left, right = min(cuts, key=lambda c: self._cut_cost(*c, memo))
            operator = "*" if _columns(left) == 1 else "@"
            code = f"{self._chain(left)} {operator} {self._chain(right)}"
        self._chains[chain] = self._assign(code)
        return self._chains[chain]

    def _single(self, chain: Chain) -> str:
        matrix, flag = chain[0]
        if flag:
            base = self._chain(((matrix, False),))
            self._chains[chain] = self._assign(f"{base}.swapaxes(-1, -2)")
        elif matrix in self._names:
            self._chains[chain] = self._names[matrix]
        elif isinstance(matrix, sp.MatAdd):
            self._chains[chain] = self._sum(matrix)
        elif matrix in self._where or isinstance(matrix, sp.MatrixBase):
            self._chains[chain] = self._assemble(self._where.get(matrix, matrix))
        elif isinstance(matrix, sp.ZeroMatrix):
            rows, columns = (self.value(size) for size in matrix.shape)
            self._chains[chain] = self._assign(f"zeros(({rows}, {columns}))")
        elif isinstance(matrix, sp.Inverse):
            self._chains[chain] = self._assign(f"inverse({self.value(matrix.args[0])})")
        else:
            raise InvalidInput(
                f"{matrix} ({type(matrix).__name__}) cannot be compiled; sums, products, powers "
                f"and transposes of matrices can."
            )
        return self._chains[chain]

    def _assemble(self, matrix: Any) -> str:
        if not matrix.free_symbols:
            return self._constant(_array(matrix))
        rows = [", ".join(self.value(x) for x in row) for row in matrix.tolist()]
        return self._assign(f"assemble([{', '.join(f'[{row}]' for row in rows)}])")

    def _is_constant(self, chain: Chain) -> bool:
        return all(
            matrix in self._where and not self._where[matrix].free_symbols for matrix, _ in chain
        )

    def _folded(self, chain: Chain) -> np.ndarray:
        arrays = [_array(self._where[matrix]) for matrix, _ in chain]
        turned = [a.T if flag else a for a, (_, flag) in zip(arrays, chain, strict=True)]
        out = turned[0]
        for array in turned[1:]:
            out = out @ array
        return np.ascontiguousarray(out)

    # -- order of multiplication -----------------------------------------------------------------

    def _cost(self, chain: Chain, memo: dict[Chain, float]) -> float:
        if len(chain) == 1 or chain in self._chains or self._flip(chain) in self._chains:
            return 0.0
        if chain not in memo:
            if self._is_constant(chain):
                memo[chain] = 0.0
            else:
                cuts = [(chain[:i], chain[i:]) for i in range(1, len(chain))]
                share = max(1, self._counts[chain] + self._counts[self._flip(chain)])
                memo[chain] = min(self._cut_cost(*cut, memo) for cut in cuts) / share
        return memo[chain]

    def _cut_cost(self, left: Chain, right: Chain, memo: dict[Chain, float]) -> float:
        work = _rows(left) * _columns(left) * _columns(right)
        return self._cost(left, memo) + self._cost(right, memo) + work + _CALL


def _parts(chain: Chain, cyclic: bool) -> set[Chain]:
    size = len(chain)
    if cyclic:
        double = chain + chain
        return {double[i : i + m] for i in range(size) for m in range(2, size)}
    return {chain[i:j] for i in range(size) for j in range(i + 2, size + 1)}


def _nominal(size: Any) -> int:
    return int(size) if size.is_Integer else _NOMINAL


def _rows(chain: Chain) -> int:
    matrix, flag = chain[0]
    return _nominal(matrix.shape[1 if flag else 0])


def _columns(chain: Chain) -> int:
    matrix, flag = chain[-1]
    return _nominal(matrix.shape[0 if flag else 1])


def _negative(scale: Any) -> bool:
    leading = scale.args[0] if scale.is_Mul else scale
    return bool(leading.is_number and leading.is_negative)


def _array(matrix: Any) -> np.ndarray:
    """A numeric SymPy matrix as float64 (exact entries are rounded once)."""
    rows = [
        [int(x.p) / int(x.q) if x.is_Rational else float(x) for x in row] for row in matrix.tolist()
    ]
    return np.array(rows)


def dimensions(formulas: Iterable[Formula]) -> set[Any]:
    """The symbols that are sizes of matrix symbols."""
    shapes = [m.shape for formula in formulas for m in matrix_symbols(formula.expr)]
    return {s for shape in shapes for size in shape for s in size.free_symbols}
