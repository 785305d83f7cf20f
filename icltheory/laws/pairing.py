"""Wick calculus for matrix expressions: polynomials in traces and bilinear chains p' M1 M2 .. q.

A `Chains` is a sum of coefficients times products of *segments* p'Wq (p, q vectors, W a word of
matrices) and *loops* tr(W), kept in canonical form: a segment and its reversal, a loop and its
rotations and reversals are one. Equality of two expressions is therefore decided by comparing
coefficients. The expectation over a Gaussian vector joins its occurrences in all pairs (Isserlis):
ww' becomes the covariance, so that p'Ww . w'W'q -> p'W S W'q and w'Ww -> tr(WS).

An open index is a vector too: the matrix X is the segment row' X column with two marker vectors,
and a derivative in a matrix A replaces every A by column markers (A -> row column').
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product as pairs_of
from typing import Any

import sympy as sp

from icltheory.errors import InvalidInput
from icltheory.matrix_calculus import (
    Form,
    SymmetricSymbol,
    VectorSymbol,
    is_column,
    is_matrix,
    is_row,
    open_axes,
    product,
    total,
    trace,
    transposed,
)

ROW, COLUMN = VectorSymbol("row", 1), VectorSymbol("column", 1)

# A letter is (matrix, transposed?); a segment (left vector, word, right vector), a loop has no ends.
Letter = tuple[Any, bool]
Segment = tuple[Any, tuple[Letter, ...], Any]
Monomial = tuple[Segment, ...]


class Chains:
    """A polynomial in segments and loops; scalar, or a matrix through the markers ROW and COLUMN.

    >>> w, p = sp.MatrixSymbol("w", 3, 1), sp.MatrixSymbol("p", 3, 1)
    >>> S, A = SymmetricSymbol("S", 3, 3), sp.MatrixSymbol("A", 3, 3)
    >>> square = Chains.of(Form(p.T * A * w)) * Chains.of(Form(w.T * w))
    >>> (square * Chains.of(Form(p.T * w))).expectation(w, S).to_expr()
    p.T*A*S*p*Trace(S) + 2*p.T*A*S*S*p
    """

    __slots__ = ("shape", "terms")

    def __init__(self, terms: dict[Monomial, Any], shape: tuple = ()) -> None:
        self.terms = {m: c for m, c in terms.items() if c != 0}
        self.shape = shape

    @staticmethod
    def of(expr: Any) -> Chains:
        """The canonical form of a scalar or matrix expression (sums multiplied out)."""
        if not is_matrix(expr):
            return _scalar(sp.sympify(expr))
        left = () if is_row(expr) else ((ROW, True),)
        right = () if is_column(expr) else ((COLUMN, False),)
        shape = open_axes(expr)
        out = Chains({}, shape)
        for chains, word in _words(expr):
            out += chains * Chains({_cut((*left, *word, *right)): sp.S.One}, shape)
        return out

    # -- algebra -------------------------------------------------------------------------------

    def __add__(self, other: Chains) -> Chains:
        terms = dict(self.terms)
        for monomial, c in other.terms.items():
            terms[monomial] = sp.expand(terms.get(monomial, sp.S.Zero) + c)
        return Chains(terms, self.shape or other.shape)

    def __sub__(self, other: Chains) -> Chains:
        return self + other * -1

    def __mul__(self, other: Any) -> Chains:
        if not isinstance(other, Chains):
            return self.map_coefficients(lambda c: sp.expand(c * other))
        out: dict[Monomial, Any] = {}
        for (m1, c1), (m2, c2) in pairs_of(self.terms.items(), other.terms.items()):
            key = _sorted([*m1, *m2])
            out[key] = sp.expand(out.get(key, sp.S.Zero) + c1 * c2)
        return Chains(out, self.shape or other.shape)

    def map_coefficients(self, function: Callable[[Any], Any]) -> Chains:
        """The polynomial with `function` applied to every coefficient."""
        return Chains({m: function(c) for m, c in self.terms.items()}, self.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Chains) and (self - other).is_zero

    def __hash__(self) -> int:
        return hash(self.shape)

    @property
    def is_zero(self) -> bool:
        """Whether every coefficient vanishes."""
        return all(sp.cancel(c) == 0 for c in self.terms.values())

    # -- calculus ------------------------------------------------------------------------------

    def expectation(self, vector: Any, cov: Any) -> Chains:
        """E over vector ~ N(0, cov), independent of everything else; `cov` a matrix expression."""
        joints = [(c, word) for c, word in _words(cov)]
        done: dict[Monomial, Chains] = {}

        def mean(monomial: Monomial) -> Chains:
            if monomial not in done:
                done[monomial] = _pair_first(monomial, vector, joints, mean)
            return done[monomial]

        out = Chains({}, self.shape)
        for monomial, c in self.terms.items():
            out += mean(monomial) * c
        out.shape = self.shape
        return out

    def derivative(self, variable: Any, *markers: Any) -> Chains:
        """Derivative in a scalar symbol, in a vector (one marker) or in a matrix (two markers).

        The markers name the new open indices; ROW, COLUMN unless given.
        """
        if not is_matrix(variable):
            return self.map_coefficients(lambda c: sp.diff(c, variable))
        shape = open_axes(variable)
        left, right = (*markers, *(ROW, COLUMN)[len(markers) :])
        out = Chains({}, self.shape + shape)
        for monomial, c in self.terms.items():
            for i, segment in enumerate(monomial):
                rest = [*monomial[:i], *monomial[i + 1 :]]
                for pieces in _removals(segment, variable, left, right):
                    out += Chains({_sorted([*rest, *pieces]): c}, self.shape + shape)
        return out

    def evaluate_loops(self, value: Callable[[tuple[Letter, ...]], Any]) -> Chains:
        """Every loop W for which `value(W)` is not None replaced by that number."""
        out = Chains({}, self.shape)
        for monomial, c in self.terms.items():
            kept = []
            for segment in monomial:
                number = value(segment[1]) if segment[0] is None else None
                c = c if number is None else c * number
                kept += [segment] if number is None else []
            out += Chains({_sorted(kept): sp.expand(c)}, self.shape)
        return out

    def to_expr(self) -> Any:
        """The polynomial as a SymPy expression: scalar, column, or matrix."""
        parts = []
        for monomial, c in sorted(self.terms.items(), key=lambda item: _order(item[0])):
            c = sp.factor_terms(c)
            closed = [s for s in monomial if ROW not in s and COLUMN not in s]
            scalar = sp.Mul(c, *(_closed_expr(s) for s in closed))
            opened = [s for s in monomial if s not in closed]
            parts.append(product(scalar, self._open_expr(opened)) if self.shape else scalar)
        if parts:
            return total(parts)
        return sp.ZeroMatrix(*(*self.shape, 1)[:2]) if self.shape else sp.S.Zero

    def _open_expr(self, segments: list[Segment]) -> Any:
        oriented = [s if s[0] == ROW or s[2] == COLUMN else _reversed(s) for s in segments]
        oriented.sort(key=lambda s: s[0] != ROW)
        factors = [sp.Identity(self.shape[0])]
        for left, word, right in oriented:
            factors += [] if left == ROW else [transposed(left)]
            factors += [transposed(m) if flag else m for m, flag in word]
            factors += [] if right == COLUMN else [right]
        return product(*factors)

    def __repr__(self) -> str:
        return f"Chains({self.to_expr()})"


# -- canonical form ------------------------------------------------------------------------------


def _name(symbol: Any) -> tuple[str, str]:
    return (str(symbol), type(symbol).__name__) if symbol is not None else ("", "")


def _word_key(word: tuple[Letter, ...]) -> list:
    return [(_name(m), flag) for m, flag in word]


def _key(segment: Segment) -> tuple:
    left, word, right = segment
    return (_name(left), _name(right), len(word), _word_key(word))


def _order(monomial: Monomial) -> tuple:
    return (len(monomial), [_key(s) for s in monomial])


def _flip(letter: Letter) -> Letter:
    matrix, flag = letter
    base = matrix.args[0] if isinstance(matrix, sp.Inverse) else matrix
    return letter if isinstance(base, SymmetricSymbol) else (matrix, not flag)


def _reversed(segment: Segment) -> Segment:
    left, word, right = segment
    return right, tuple(_flip(x) for x in reversed(word)), left


def _reduced(word: tuple[Letter, ...]) -> tuple[Letter, ...]:
    """Neighbours X and X^{-1} cancelled."""
    out: list[Letter] = []
    for letter in word:
        if out and out[-1][1] == letter[1] and _inverses(out[-1][0], letter[0]):
            out.pop()
        else:
            out.append(letter)
    return tuple(out)


def _inverses(a: Any, b: Any) -> bool:
    return (isinstance(a, sp.Inverse) and a.args[0] == b) or (
        isinstance(b, sp.Inverse) and b.args[0] == a
    )


def _canonical(segment: Segment) -> Segment:
    left, word, right = segment
    word = _reduced(word)
    if left is not None:
        return min((left, word, right), _reversed((left, word, right)), key=_key)
    while len(word) > 1 and word[0][1] == word[-1][1] and _inverses(word[0][0], word[-1][0]):
        word = word[1:-1]
    turned = _reversed((None, word, None))[1]
    rotations = [w[i:] + w[:i] for w in (word, turned) for i in range(len(w))]
    return None, min(rotations, key=_word_key, default=()), None


def _sorted(segments: list[Segment]) -> Monomial:
    return tuple(sorted((_canonical(s) for s in segments), key=_key))


def _closed_expr(segment: Segment) -> Any:
    left, word, right = segment
    letters = [transposed(m) if flag else m for m, flag in word]
    if left is None:
        return trace(product(*letters))
    return Form(product(transposed(left), *letters, right))


# -- from SymPy ----------------------------------------------------------------------------------


def _scalar(expr: Any) -> Chains:
    if expr.is_Add:
        out = Chains({})
        for arg in expr.args:
            out += _scalar(arg)
        return out
    if expr.is_Mul:
        out = Chains({(): sp.S.One})
        for arg in expr.args:
            out = out * _scalar(arg)
        return out
    if isinstance(expr, sp.Pow) and expr.exp.is_Integer and expr.exp > 0 and _has_matrix(expr):
        out = Chains({(): sp.S.One})
        for _ in range(int(expr.exp)):
            out = out * _scalar(expr.base)
        return out
    if isinstance(expr, (Form, sp.Trace)):
        out, matrix = Chains({}), expr.args[0]
        for chains, word in _words(matrix):
            if not word:
                out += chains * matrix.rows
            else:
                out += chains * Chains({_cut(word): sp.S.One})
        return out
    if _has_matrix(expr):
        raise InvalidInput(
            f"{expr} is no polynomial in traces and forms; only sums, products and powers of "
            f"Trace(...) and Form(...) can be put in canonical form."
        )
    return Chains({(): expr})


def _has_matrix(expr: Any) -> bool:
    return bool(expr.atoms(sp.MatrixSymbol))


def _words(matrix: Any, flag: bool = False) -> list[tuple[Chains, tuple[Letter, ...]]]:
    """A matrix expression as a sum of (scalar, word); vectors are letters here."""
    if isinstance(matrix, sp.Identity):
        return [(Chains({(): sp.S.One}), ())]
    if matrix.is_ZeroMatrix:
        return []
    if isinstance(matrix, sp.Transpose):
        return _words(matrix.arg, not flag)
    if isinstance(matrix, sp.MatAdd):
        return [term for arg in matrix.args for term in _words(arg, flag)]
    if isinstance(matrix, sp.MatPow) and matrix.exp.is_Integer and matrix.exp > 0:
        return _words(sp.MatMul(*[matrix.base] * int(matrix.exp)), flag)
    if isinstance(matrix, sp.MatMul):
        scale, factors = matrix.as_coeff_matrices()
        out = [(_scalar(scale), ())]
        for factor in reversed(factors) if flag else factors:
            out = [(c * e, v + w) for c, v in out for e, w in _words(factor, flag)]
        return out
    if isinstance(matrix, sp.MatrixSymbol) or (
        isinstance(matrix, sp.Inverse) and isinstance(matrix.args[0], sp.MatrixSymbol)
    ):
        letter = (matrix, flag)
        symmetric = _flip(letter) == letter
        return [(Chains({(): sp.S.One}), ((matrix, flag and not symmetric),))]
    raise InvalidInput(
        f"{matrix} cannot be put in canonical form: only sums, products, transposes and powers "
        f"of matrix symbols and inverses of symbols are supported."
    )


def _cut(word: tuple[Letter, ...]) -> Monomial:
    """Split a closed word at its vectors: .. q p' .. separates two segments."""
    start = next((i for i, x in enumerate(word) if is_column(x[0]) and x[1]), None)
    if start is None:
        return _sorted([(None, word, None)])
    word = word[start:] + word[:start]
    segments, left, inner = [], None, []
    for matrix, flag in word:
        if not is_column(matrix):
            inner.append((matrix, flag))
        elif flag:
            left, inner = matrix, []
        else:
            segments.append((left, tuple(inner), matrix))
    return _sorted(segments)


# -- pairing and derivative ----------------------------------------------------------------------


def _pair_first(monomial: Monomial, vector: Any, joints: list, mean: Callable) -> Chains:
    """E of a monomial: the first occurrence of `vector` paired with each of the others."""
    first = next((i for i, s in enumerate(monomial) if vector in (s[0], s[2])), None)
    if first is None:
        return Chains({monomial: sp.S.One})
    segment = monomial[first]
    rest = list(monomial[:first] + monomial[first + 1 :])
    left, word, _ = segment if segment[2] == vector else _reversed(segment)
    out = Chains({})
    for scale, cov in joints:
        if left == vector:
            out += scale * _joined(None, word + cov, None, rest, vector, mean)
        for i, other in enumerate(rest):
            others = rest[:i] + rest[i + 1 :]
            for end, tail, far in (other, _reversed(other)):
                if end == vector:
                    out += scale * _joined(left, word + cov + tail, far, others, vector, mean)
    return out


def _joined(
    left: Any, word: tuple, right: Any, rest: list[Segment], vector: Any, mean: Callable
) -> Chains:
    if left is None and not _reduced(word):
        return mean(_sorted(rest)) * vector.shape[0]
    return mean(_sorted([*rest, (left, word, right)]))


def _removals(segment: Segment, variable: Any, left: Any, right: Any) -> list[list[Segment]]:
    """The segment with one occurrence of `variable` replaced by markers, for every occurrence."""
    start, word, end = segment
    if is_column(variable):
        ends = [(left, word, end)] if start == variable else []
        return [[s] for s in ends + ([(start, word, left)] if end == variable else [])]
    out = []
    for i, (matrix, flag) in enumerate(word):
        if matrix != variable:
            continue
        near, far = (right, left) if flag else (left, right)
        before, after = word[:i], word[i + 1 :]
        if start is None:
            out.append([(far, after + before, near)])
        else:
            out.append([(start, before, near), (far, after, end)])
    return out
