"""Expressions in matrices and vectors: building blocks, derivatives, explicit values.

A matrix formula is a SymPy matrix expression, or a scalar built from traces (`sympy.Trace`) and
bilinear forms p'Mq (`Form`). Derivatives are taken backwards through the expression, one adjoint
for every distinct subexpression, so that factors of the original reappear as factors of the
derivative instead of being multiplied out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import sympy as sp
from sympy.printing.precedence import PRECEDENCE

from icltheory.errors import InvalidInput


class SymmetricSymbol(sp.MatrixSymbol):
    """A matrix symbol that equals its transpose.

    >>> SymmetricSymbol("S", 2, 2).T
    S
    """

    def _eval_transpose(self) -> SymmetricSymbol:
        return self


class VectorSymbol(sp.MatrixSymbol):
    """A column; unlike a plain matrix symbol it is one also in dimension 1.

    >>> VectorSymbol("u", 3).shape
    (3, 1)
    """

    def __new__(cls, name: Any, rows: Any, columns: Any = 1) -> VectorSymbol:
        if columns != 1:
            raise InvalidInput(f"a vector has one column, not {columns}.")
        return super().__new__(cls, name, rows, columns)


class Form(sp.Expr):
    """The single entry of a 1 x 1 matrix expression such as p'Mq, as a scalar.

    >>> p, m = sp.MatrixSymbol("p", 3, 1), sp.MatrixSymbol("M", 3, 3)
    >>> 2 * Form(p.T * m * p)
    2*p.T*M*p
    """

    is_commutative = True
    is_real = True
    precedence = PRECEDENCE["Mul"] + 1  # bare in a product, in brackets under a power

    def __new__(cls, matrix: Any) -> Form:
        if matrix.shape != (1, 1):
            raise InvalidInput(f"a form is a 1 x 1 product; {matrix} has shape {matrix.shape}.")
        return sp.Expr.__new__(cls, matrix)

    def _sympystr(self, printer: Any) -> str:
        return printer._print(self.args[0])

    def _latex(self, printer: Any) -> str:
        return printer._print(self.args[0])

    def _eval_power(self, exponent: Any) -> None:
        return None


def is_matrix(expr: Any) -> bool:
    """Whether `expr` is matrix-valued."""
    return bool(getattr(expr, "is_Matrix", False))


def is_column(matrix: Any) -> bool:
    """Whether the matrix expression is a column; one by one, it is if it ends with a vector."""
    rows, columns = matrix.shape
    if columns != 1 or rows != 1:
        return columns == 1
    if isinstance(matrix, (sp.MatAdd, sp.MatMul)):
        return is_column(matrix.args[-1])
    if isinstance(matrix, sp.Transpose):
        return is_row(matrix.arg)
    return isinstance(matrix, VectorSymbol)


def is_row(matrix: Any) -> bool:
    """Whether the matrix expression is a row; one by one, it is if it starts with one."""
    rows, columns = matrix.shape
    if columns != 1 or rows != 1:
        return rows == 1
    if isinstance(matrix, sp.MatAdd):
        return is_row(matrix.args[-1])
    if isinstance(matrix, sp.MatMul):
        return is_row(matrix.as_coeff_matrices()[1][0])
    return isinstance(matrix, sp.Transpose) and is_column(matrix.arg)


def open_axes(matrix: Any) -> tuple:
    """The lengths of the axes of a matrix expression that are not those of a row or a column."""
    rows, columns = matrix.shape
    return (*([] if is_row(matrix) else [rows]), *([] if is_column(matrix) else [columns]))


def matrix_symbols(expr: Any) -> set[sp.MatrixSymbol]:
    """The matrix symbols in `expr`."""
    return set(expr.atoms(sp.MatrixSymbol))


def transposed(matrix: Any) -> Any:
    """The transpose, pushed into products but not into sums."""
    if isinstance(matrix, sp.Transpose):
        return matrix.arg
    if isinstance(matrix, (sp.Identity, SymmetricSymbol)):
        return matrix
    if isinstance(matrix, sp.MatrixBase):
        return matrix.T
    if isinstance(matrix, sp.MatMul):
        coefficient, factors = matrix.as_coeff_matrices()
        return product(coefficient, *(transposed(f) for f in reversed(factors)))
    if isinstance(matrix, (sp.MatPow, sp.Inverse)):
        return matrix.func(transposed(matrix.args[0]), *matrix.args[1:])
    return sp.Transpose(matrix)


def product(*factors: Any) -> Any:
    """Product of scalars and matrices, nested products opened, identities dropped."""
    coefficient, matrices = sp.S.One, []
    for factor in factors:
        if not is_matrix(factor):
            coefficient *= factor
        else:
            scale, inner = (
                factor.as_coeff_matrices()
                if isinstance(factor, sp.MatMul)
                else (sp.S.One, [factor])
            )
            coefficient *= scale
            for x in inner:
                power = x.args[1] if isinstance(x, sp.MatPow) else sp.S.One
                repeat = int(power) if power.is_Integer and power > 0 else 1
                matrices += [x.args[0]] * repeat if repeat > 1 else [x]
    if not matrices:
        return coefficient
    rows, columns = matrices[0].shape[0], matrices[-1].shape[1]
    if coefficient.is_zero or any(x.is_ZeroMatrix for x in matrices):
        return sp.ZeroMatrix(rows, columns)
    kept = [x for x in matrices if not isinstance(x, sp.Identity)] or [sp.Identity(rows)]
    return _scaled(coefficient, kept)


def _scaled(coefficient: Any, matrices: list[Any]) -> Any:
    if coefficient == 1:
        return matrices[0] if len(matrices) == 1 else sp.MatMul(*matrices)
    return sp.MatMul(coefficient, *matrices)


def total(terms: list[Any]) -> Any:
    """Sum of a non-empty list of scalars or of matrices, equal products collected."""
    if not is_matrix(terms[0]):
        return sp.Add(*terms)
    collected: dict[Any, Any] = {}
    for term in terms:
        for part in term.args if isinstance(term, sp.MatAdd) else (term,):
            scale, factors = (
                part.as_coeff_matrices() if isinstance(part, sp.MatMul) else (sp.S.One, [part])
            )
            key = _scaled(sp.S.One, list(factors))
            if not key.is_ZeroMatrix:
                collected[key] = collected.get(key, sp.S.Zero) + scale
    parts = [product(sp.factor_terms(c), x) for x, c in collected.items() if c != 0]
    if not parts:
        return sp.ZeroMatrix(*terms[0].shape)
    return parts[0] if len(parts) == 1 else sp.MatAdd(*parts)


def trace(matrix: Any) -> Any:
    """tr(matrix) as an expression; a trace through a vector becomes a form."""
    if matrix.is_ZeroMatrix:
        return sp.S.Zero
    if isinstance(matrix, sp.MatAdd):
        return sp.Add(*(trace(part) for part in matrix.args))
    scale, factors = (
        matrix.as_coeff_matrices() if isinstance(matrix, sp.MatMul) else (sp.S.One, [matrix])
    )
    if isinstance(matrix, sp.Identity):
        return matrix.rows
    start = next((i for i, x in enumerate(factors) if x.rows == 1), None)
    if start is None:
        inner = product(*factors)
        return scale * (inner.rows if isinstance(inner, sp.Identity) else sp.Trace(inner))
    inner = product(*factors[start:], *factors[:start])
    return scale * (sp.S.One if isinstance(inner, sp.Identity) else Form(inner))


# -- derivatives ---------------------------------------------------------------------------------


def derivative(expr: Any, variable: Any) -> Any:
    """d expr / d variable.

    A scalar `expr` may be differentiated in a scalar symbol, or in a matrix symbol (all entries
    taken as independent), giving a matrix of the shape of the variable. A matrix `expr` may be
    differentiated in a scalar symbol, entry by entry. Other cases raise `InvalidInput`.

    >>> A, S = sp.MatrixSymbol("A", 3, 3), SymmetricSymbol("S", 3, 3)
    >>> derivative(sp.Trace(A.T * S * A), A)
    2*S*A
    """
    if not is_matrix(expr):
        return _backward(expr, variable)
    if is_matrix(variable):
        raise InvalidInput(
            f"the derivative of a matrix in the matrix {variable} has four indices; take it of a "
            f"scalar, or in a scalar symbol."
        )
    return _forward(expr, variable)


def _backward(expr: Any, variable: Any) -> Any:
    if isinstance(variable, SymmetricSymbol):
        raise InvalidInput(
            f"{variable} is symmetric, its entries are not independent; differentiate in a "
            f"MatrixSymbol without that property."
        )
    nodes = _dependents(expr, variable)
    adjoints: dict[Any, list[Any]] = {node: [] for node in nodes}
    if expr in adjoints:
        adjoints[expr].append(sp.S.One)
    for node in reversed(nodes):
        if node == variable:
            continue
        adjoint = total(adjoints[node])
        for child, part in _pull(node, adjoint, variable):
            if child in adjoints:
                adjoints[child].append(part)
    parts = adjoints.get(variable)
    if parts:
        return total(parts)
    return sp.ZeroMatrix(*variable.shape) if is_matrix(variable) else sp.S.Zero


def _dependents(expr: Any, variable: Any) -> list[Any]:
    """Distinct subexpressions that contain `variable`, every one after its own parts."""
    order: dict[Any, bool] = {}

    def visit(node: Any) -> bool:
        if node not in order:
            # The arguments of a symbol are its name and shape, not parts.
            children = () if isinstance(node, (sp.MatrixSymbol, sp.MatrixBase)) else node.args
            found = [visit(child) for child in children]
            own = node == variable
            own = own or (isinstance(node, sp.MatrixBase) and node.has(variable))
            order[node] = own or any(found)
        return order[node]

    visit(expr)
    return [node for node, found in order.items() if found]


def _pull(node: Any, adjoint: Any, variable: Any) -> Iterator[tuple[Any, Any]]:
    """The contributions of one node to the adjoints of its arguments."""
    args = node.args
    if isinstance(node, (sp.Add, sp.MatAdd)):
        yield from ((arg, adjoint) for arg in args)
    elif isinstance(node, (Form, sp.Trace)):
        yield args[0], product(adjoint, sp.Identity(args[0].rows))
    elif isinstance(node, sp.MatMul):
        for i, arg in enumerate(args):
            left, right = product(*args[:i]), product(*args[i + 1 :])
            if is_matrix(arg):
                yield arg, product(_transpose(left), adjoint, _transpose(right))
            else:
                yield arg, trace(product(transposed(adjoint), left, right))
    elif isinstance(node, sp.Transpose):
        parts = adjoint.args if isinstance(adjoint, sp.MatAdd) else (adjoint,)
        yield args[0], total([transposed(part) for part in parts])
    elif isinstance(node, sp.Inverse):
        yield args[0], product(-1, transposed(node), adjoint, transposed(node))
    elif isinstance(node, sp.MatPow):
        yield from _pull(_as_product(node), adjoint, variable)
    elif isinstance(node, sp.MatrixBase):
        yield variable, trace(product(transposed(adjoint), node.diff(variable)))
    elif isinstance(node, sp.Mul):
        for i, arg in enumerate(args):
            yield arg, sp.Mul(adjoint, *args[:i], *args[i + 1 :])
    elif isinstance(node, sp.Expr):
        for i, arg in enumerate(args):
            dummy = sp.Dummy()
            slope = node.func(*args[:i], dummy, *args[i + 1 :]).diff(dummy)
            yield arg, adjoint * slope.xreplace({dummy: arg})


def _as_product(power: Any) -> Any:
    base, exponent = power.args
    if not (exponent.is_Integer and exponent > 0):
        raise InvalidInput(f"{power} cannot be differentiated; only positive integer powers can.")
    return sp.MatMul(*[base] * int(exponent))


def _transpose(factor: Any) -> Any:
    return transposed(factor) if is_matrix(factor) else factor


def _forward(expr: Any, variable: Any) -> Any:
    """Entrywise derivative of a matrix in a scalar symbol."""
    args = expr.args
    zero = sp.ZeroMatrix(*expr.shape)
    if isinstance(expr, sp.MatrixBase):
        return expr.diff(variable)
    if isinstance(expr, (sp.MatrixSymbol, sp.Identity, sp.ZeroMatrix)):
        return zero
    if isinstance(expr, sp.MatAdd):
        return total([_forward(arg, variable) for arg in args])
    if isinstance(expr, sp.Transpose):
        return transposed(_forward(args[0], variable))
    if isinstance(expr, sp.Inverse):
        return product(-1, expr, _forward(args[0], variable), expr)
    if isinstance(expr, sp.MatPow):
        return _forward(_as_product(expr), variable)
    parts = []
    for i, arg in enumerate(args):
        slope = _forward(arg, variable) if is_matrix(arg) else _backward(arg, variable)
        parts.append(product(*args[:i], slope, *args[i + 1 :]))
    return total(parts)


# -- explicit values -----------------------------------------------------------------------------


def explicit(expr: Any, values: Mapping[Any, Any]) -> Any:
    """`expr` with every matrix symbol replaced by its explicit matrix in `values`, multiplied out.

    Scalar symbols may be replaced too. The result is a scalar or an immutable matrix; a matrix
    symbol without a value raises `InvalidInput`.

    >>> A = sp.MatrixSymbol("A", 2, 2)
    >>> explicit(sp.Trace(A.T * A), {A: sp.Matrix([[1, 2], [3, 4]])})
    30
    """
    if expr in values:
        value = values[expr]
        return sp.ImmutableMatrix(value) if isinstance(value, sp.MatrixBase) else value
    if isinstance(expr, sp.MatrixBase):
        return expr.xreplace({k: v for k, v in values.items() if not is_matrix(k)})
    if isinstance(expr, sp.MatrixSymbol):
        raise InvalidInput(f"no explicit value for the matrix {expr}; give one.")
    if isinstance(expr, (sp.Identity, sp.ZeroMatrix)):
        rows, columns = (explicit(s, values) for s in expr.shape)
        return sp.ImmutableMatrix(sp.eye(rows) if expr.is_Identity else sp.zeros(rows, columns))
    if not expr.args:
        return expr
    args = [explicit(arg, values) for arg in expr.args]
    if isinstance(expr, Form):
        return args[0][0, 0]
    if isinstance(expr, sp.Trace):
        return args[0].trace()
    if isinstance(expr, sp.Transpose):
        return args[0].T
    if isinstance(expr, sp.Inverse):
        return args[0].inv()
    if isinstance(expr, sp.MatPow):
        return args[0] ** args[1]
    if isinstance(expr, (sp.MatAdd, sp.MatMul)):
        out = args[0]
        for arg in args[1:]:
            out = out + arg if isinstance(expr, sp.MatAdd) else out * arg
        return out
    return expr.func(*args)


def rebuilt(expr: Any, table: Mapping[Any, Any]) -> Any:
    """`expr` with symbols replaced (0 stands for a zero matrix too), products with zero dropped."""
    if expr in table:
        value = table[expr]
        return sp.ZeroMatrix(*expr.shape) if is_matrix(expr) and value == 0 else value
    if not expr.args or isinstance(expr, (sp.MatrixSymbol, sp.MatrixBase, sp.Identity)):
        return expr
    args = [rebuilt(arg, table) for arg in expr.args]
    if isinstance(expr, (Form, sp.Trace)):
        return trace(args[0])
    if isinstance(expr, sp.Transpose):
        return transposed(args[0])
    if isinstance(expr, sp.MatAdd):
        return total(args)
    if isinstance(expr, sp.MatMul):
        return product(*args)
    return expr.func(*args)
