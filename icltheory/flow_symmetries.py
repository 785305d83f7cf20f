"""Symmetries of a gradient flow: conserved quantities from those of the risk, and invariant sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import sympy as sp

from icltheory.formula import Formula
from icltheory.laws.pairing import Chains
from icltheory.matrix_calculus import (
    is_matrix,
    matrix_symbols,
    product,
    rebuilt,
    total,
    trace,
    transposed,
)


def conserved_quantities(
    risk: Formula, moving: Mapping[str, Any], velocity: Mapping[str, Formula]
) -> tuple[Formula, ...]:
    """K K' + k k' - Q Q' of factored scores, and sum_X w_X |X|^2 for every scaling symmetry w.

    The first comes from K -> G K, k -> G k, Q -> G^(-T) Q, which leaves K'Q and Q'k alone. If the
    risk is unchanged by X -> e^(w_X eps) X, then sum_X w_X <X, grad_X risk> = 0, and this is minus
    the derivative of the sum. Both derivatives are checked in canonical form.
    """
    found = []
    if "K" in moving:
        signs = {name: sign for name, sign in (("K", 1), ("k", 1), ("Q", -1)) if name in moving}
        found.append((signs, lambda x, y: product(x, transposed(y)), "balance of keys and queries"))
    for weights in scaling_symmetries(risk, moving):
        found.append((weights, _inner, "balance of scales"))
    out = []
    for weights, pair, name in found:
        squares = [_times(w, pair(moving[x], moving[x])) for x, w in weights.items()]
        rates = []
        for x, w in weights.items():
            rates += [_times(w, pair(velocity[x].expr, moving[x]))]
            rates += [_times(w, pair(moving[x], velocity[x].expr))]
        if not Chains.of(total(rates)).is_zero:
            raise AssertionError(f"{total(squares)} is not conserved")
        out.append(with_conditions(risk, name, total(squares)))
    return tuple(out)


def _times(weight: int, expr: Any) -> Any:
    return product(weight, expr) if is_matrix(expr) else weight * expr


def _inner(left: Any, right: Any) -> Any:
    """Frobenius inner product, a scalar."""
    return trace(product(transposed(left), right)) if is_matrix(left) else left * right


def scaling_symmetries(risk: Formula, moving: Mapping[str, Any]) -> list[dict[str, int]]:
    """Integer weights w that make X -> e^(w_X eps) X leave every term of the risk alone."""
    scalars = {name: x for name, x in moving.items() if not is_matrix(x)}
    degrees = set()
    for monomial, coefficient in Chains.of(risk.expr).terms.items():
        letters = [x for p, word, q in monomial for x in (p, *(m for m, _ in word), q)]
        for powers in sp.Poly(coefficient, *scalars.values()).monoms():
            degree = dict(zip(scalars, powers, strict=True))
            degrees.add(tuple(degree.get(name, letters.count(x)) for name, x in moving.items()))
    out = []
    for vector in sp.Matrix(sorted(degrees)).nullspace():
        common = sp.ilcm(1, *(w.q for w in vector))
        weights = {name: int(w * common) for name, w in zip(moving, vector, strict=True) if w}
        # The exchange of scale between K and Q alone is the trace of the matrix balance.
        if set(weights) - {"K", "Q", "k"}:
            sign = 1 if weights.get("b", weights.get("v", 1)) > 0 else -1
            out.append({name: sign * w for name, w in weights.items()})
    return out


def invariant_sets(
    moving: Mapping[str, Any], velocity: Mapping[str, Formula]
) -> tuple[tuple[str, ...], ...]:
    """The smallest groups of variables whose velocities vanish when the whole group is zero."""
    found: list[tuple[str, ...]] = []
    for size in range(1, len(moving)):
        for group in combinations(moving, size):
            inside = any(set(smaller) <= set(group) for smaller in found)
            if not inside and _stays_zero(group, moving, velocity):
                found.append(group)
    return tuple(found)


def _stays_zero(
    group: tuple[str, ...], moving: Mapping[str, Any], velocity: Mapping[str, Formula]
) -> bool:
    zero = {moving[name]: 0 for name in group}
    return all(Chains.of(rebuilt(velocity[name].expr, zero)).is_zero for name in group)


def with_conditions(risk: Formula, name: str, expr: Any) -> Formula:
    """`expr` with the validity, sources and constant matrices of the risk."""
    used = {m: value for m, value in risk.where.items() if m in matrix_symbols(expr)}
    return replace(
        risk, name=name, expr=expr, steps=(), where=sp.Dict(used), abbreviations=sp.Dict()
    )
