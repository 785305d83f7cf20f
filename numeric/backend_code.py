"""Expressions as generated functions of a backend, which may lack some of their parts.

NumPy and math take special functions from SciPy; what a backend has no function for is refused when
the code is made. Exported: `printed`, `with_numeric_roots`, `FROM_SCIPY`.
"""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Sequence
from dis import get_instructions
from functools import partial
from typing import Any

import mpmath
import sympy as sp
from sympy.core.function import AppliedUndef
from sympy.printing.codeprinter import PrintMethodNotImplementedError

from icltheory.errors import InvalidInput
from icltheory.laws.normal import MPMATH


def _modules(backend: str) -> Any:
    """The namespaces of the generated code: the backend, and what it has no name for."""
    if backend == "mpmath":
        return MPMATH
    return [_NAMELESS, backend] if backend in ("numpy", "math") else backend


def printed(
    symbols: Sequence[Any], expr: Any, title: str, backend: str, *, cse: bool = False
) -> Any:
    """The expression as a function of the backend; `InvalidInput` for what the backend lacks."""
    entries = expr if isinstance(expr, list) else [expr]
    if any(entry.has(sp.Derivative) for entry in entries):
        raise InvalidInput(
            f"'{title}' contains a derivative without a closed form; differentiate the values."
        )
    for call in set().union(*(entry.atoms(AppliedUndef) for entry in entries)):
        raise InvalidInput(
            f"'{title}' contains {call}, a function without a definition; put an expression in its "
            f"place."
        )
    modules = _modules(backend)
    if any(entry.has(sp.CRootOf) for entry in entries):
        entries, roots = _rooted(entries, backend)
        modules = [roots, *(modules if isinstance(modules, list) else [modules])]
        expr = entries if isinstance(expr, list) else entries[0]
    if backend == "torch":
        entries = [_for_torch(entry, title) for entry in entries]
        expr = entries if isinstance(expr, list) else entries[0]
    _refuse_hypergeometric(entries, title, backend)
    try:
        function = sp.lambdify(symbols, expr, modules=modules, cse=cse)
    except PrintMethodNotImplementedError as error:
        raise _lacking(title, str(error).partition("\n")[0].rpartition(" ")[2], backend) from None
    known = function.__globals__
    if set(function.__code__.co_names) - set(known) - set(dir(builtins)):
        loaded = {i.argval for i in get_instructions(function) if i.opname == "LOAD_GLOBAL"}
        if missing := sorted(loaded - set(known) - set(dir(builtins))):
            raise _lacking(title, ", ".join(missing), backend)
    return function


def with_numeric_roots(expr: Any) -> Any:
    """Roots of polynomials (`CRootOf`), for which no backend has a function, as decimals.

    >>> x = sp.Symbol("x")
    >>> round(with_numeric_roots(2 * sp.CRootOf(x**3 - x - 1, 0)), 6)
    2.649436
    """
    return expr.xreplace({root: root.evalf(17) for root in expr.atoms(sp.CRootOf)})


def _rooted(entries: list[Any], backend: str) -> tuple[list[Any], dict[str, Any]]:
    """Entries with decimals for roots; mpmath calls functions that have its working precision."""
    if backend != "mpmath":
        return [with_numeric_roots(entry) for entry in entries], {}
    roots = sorted(set().union(*(entry.atoms(sp.CRootOf) for entry in entries)), key=str)
    calls = {root: sp.Function(f"_root_{i}")() for i, root in enumerate(roots)}
    functions = {call.name: partial(_root, root) for root, call in calls.items()}
    return [entry.xreplace(calls) for entry in entries], functions


def _root(root: Any) -> Any:
    return root.evalf(mpmath.mp.dps + 3)._to_mpmath(mpmath.mp.prec)


def _for_torch(expr: Any, title: str) -> Any:
    """Functions of numbers in decimals, since those of torch take tensors only; it lacks `gamma`."""
    if expr.has(sp.gamma):
        raise _lacking(title, "gamma", "torch")
    expr = expr.xreplace({x: x.rewrite(sp.Piecewise) for x in expr.atoms(sp.Max, sp.Min)})
    return expr.replace(_is_irrational, lambda number: number.evalf(20))


def _is_irrational(expr: Any) -> bool:
    return isinstance(expr, sp.Expr) and expr.is_number and not expr.is_Rational


def _lacking(title: str, what: str, backend: str) -> InvalidInput:
    return InvalidInput(
        f"'{title}' contains {what}, which backend {backend!r} lacks; use backend='mpmath', or put "
        f"numbers in with .subs and call .evalf()."
    )


def _refuse_hypergeometric(entries: Iterable[Any], title: str, backend: str) -> None:
    """SciPy has 1F1 and 2F1."""
    if backend in ("numpy", "math"):
        for series in set().union(*(entry.atoms(sp.hyper) for entry in entries)):
            sizes = len(series.ap), len(series.bq)
            if sizes not in ((1, 1), (2, 1)):
                what = f"the hypergeometric function {sizes[0]}F{sizes[1]}"
                raise _lacking(title, what, backend)


def _lambert_w(x: Any) -> Any:
    from scipy.special import lambertw

    return lambertw(x).real


def _beta_between(a: Any, b: Any, lower: Any, upper: Any) -> Any:
    from scipy.special import betainc

    return betainc(a, b, upper) - betainc(a, b, lower)


def _hypergeometric(tops: Sequence[Any], bottoms: Sequence[Any], x: Any) -> Any:
    from scipy.special import hyp1f1, hyp2f1

    return (hyp1f1 if len(tops) == 1 else hyp2f1)(*tops, *bottoms, x)


def _of_scipy(name: str) -> Any:
    """A function of scipy.special, which is imported when it is called."""

    def call(*args: Any) -> Any:
        from scipy import special

        return getattr(special, name)(*args)

    return call


_NAMELESS = {
    "LambertW": _lambert_w,
    "betainc_regularized": _beta_between,
    "hyper": _hypergeometric,
    "besseli": _of_scipy("iv"),
    "binomial": _of_scipy("binom"),
    "erf": _of_scipy("erf"),
    "erfc": _of_scipy("erfc"),
    "factorial": _of_scipy("factorial"),
    "gamma": _of_scipy("gamma"),
    "loggamma": _of_scipy("gammaln"),
    "tricomi": _of_scipy("hyperu"),
}
FROM_SCIPY = frozenset(_NAMELESS)  # these set none of NumPy's flags
