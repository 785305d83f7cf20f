"""Two functions without poles, in which the laws on cubes and spheres are written, and Tricomi's.

With k = sqrt(s), nu > -1 and I the modified Bessel function,

    log_bessel(nu, s)      = log(Gamma(nu + 1) (2/k)^nu I_nu(k)),
    bessel_quotient(nu, s) = I_{nu+1}(k) / (k I_nu(k)).

Both are analytic on s >= 0 with the values 0 and 1/(2 nu + 2) at s = 0, where sinh(k)/k and
coth(k) - 1/k would need a limit (`nu = 1/2` is the uniform law on an interval). From
d/dk (k^-nu I_nu) = k^-nu I_{nu+1} they are closed under differentiation. `.rewrite(sympy.besseli)`
gives the quotients of Bessel functions, `.rewrite(sympy.coth)` elementary ones where nu is 1/2.
Compiled by `numeric.compile` they call the stable functions of the same names in `numeric.special`.
"""

from __future__ import annotations

from typing import Any

import mpmath
import sympy as sp
from sympy.core.function import ArgumentIndexError


class _Entire(sp.Function):
    """What both functions share: a value at 0, evaluation, printing."""

    nargs = 2

    @classmethod
    def eval(cls, nu: Any, s: Any) -> Any:
        return cls._at_zero(nu) if s.is_zero else None

    def _eval_is_real(self) -> bool | None:
        return self.args[1].is_nonnegative or None

    def _eval_evalf(self, prec: int) -> Any:
        if not all(x.is_comparable for x in self.args):
            return None
        with mpmath.workprec(prec + 20):
            nu, s = (x._to_mpmath(prec + 20) for x in self.args)
            value = self._value(nu, s)
        return sp.Float._new(value._mpf_, prec)

    def _shown(self) -> Any:
        """What is shown at nu = 1/2, where the functions are elementary; else `None`."""
        nu, s = self.args
        if nu != sp.S.Half:
            return None
        return self._elementary(sp.powdenest(sp.sqrt(s), force=True))  # even in the root

    def _sympystr(self, printer: Any) -> str:
        shown = self._shown()
        if shown is None:
            return f"{type(self).__name__}({', '.join(map(printer._print, self.args))})"
        return f"({printer._print(shown)})"

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        shown, (nu, s) = self._shown(), map(printer._print, self.args)
        if shown is None:
            text = rf"{self._letter}_{{{nu}}}\left({s}\right)"
        else:
            text = rf"\left({printer._print(shown)}\right)"
        return text if exp is None else rf"{{{text}}}^{{{exp}}}"

    def _called(self, printer: Any) -> str:
        name = printer._module_format(f"numeric.special.{type(self).__name__}")
        return f"{name}({', '.join(printer._print(x) for x in self.args)})"

    _numpycode = _pythoncode = _torchcode = _called


class bessel_quotient(_Entire):
    """I_{nu+1}(k) / (k I_nu(k)) at k = sqrt(s).

    >>> s = sp.Symbol("s")
    >>> bessel_quotient(sp.S.Half, 0), bessel_quotient(sp.S.Half, 1).rewrite(sp.coth)
    (1/3, -1 + coth(1))
    >>> bessel_quotient(1, s).diff(s)
    (-bessel_quotient(1, s) + bessel_quotient(2, s))*bessel_quotient(1, s)/2
    """

    _letter = "q"

    @staticmethod
    def _at_zero(nu: Any) -> Any:
        return 1 / (2 * nu + 2)

    @staticmethod
    def _value(nu: Any, s: Any) -> Any:
        above, below = (mpmath.hyp0f1(nu + j, s / 4) for j in (2, 1))
        return above / (2 * (nu + 1) * below)

    def fdiff(self, argindex: int = 2) -> Any:
        if argindex != 2:
            raise ArgumentIndexError(self, argindex)
        nu, s = self.args
        return self * (bessel_quotient(nu + 1, s) - self) / 2

    def _eval_rewrite_as_besseli(self, nu: Any, s: Any, **_: Any) -> Any:
        k = sp.sqrt(s)
        return sp.besseli(nu + 1, k) / (k * sp.besseli(nu, k))

    def _eval_rewrite_as_coth(self, nu: Any, s: Any, **_: Any) -> Any:
        if nu != sp.S.Half:
            return self
        k = sp.sqrt(s)
        return (sp.coth(k) - 1 / k) / k

    def _mpmathcode(self, printer: Any) -> str:
        nu, s = (printer._print(x) for x in self.args)
        f = printer._module_format("mpmath.hyp0f1")
        return f"({f}({nu} + 2, ({s})/4)/(2*({nu} + 1)*{f}({nu} + 1, ({s})/4)))"

    @staticmethod
    def _elementary(k: Any) -> Any:
        return sp.coth(k) / k - 1 / k**2


class log_bessel(_Entire):
    """log(Gamma(nu + 1) (2/k)^nu I_nu(k)) at k = sqrt(s): a cumulant generating function.

    It is log E exp(u.z) at |u|^2 = s for z uniform on the unit sphere of dimension 2 nu + 2.

    >>> s = sp.Symbol("s")
    >>> log_bessel(1, 0), log_bessel(1, s).diff(s)
    (0, bessel_quotient(1, s)/2)
    """

    _letter = r"\Lambda"

    @staticmethod
    def _at_zero(nu: Any) -> Any:
        return sp.S.Zero

    @staticmethod
    def _value(nu: Any, s: Any) -> Any:
        return mpmath.log(mpmath.hyp0f1(nu + 1, s / 4))

    def fdiff(self, argindex: int = 2) -> Any:
        if argindex != 2:
            raise ArgumentIndexError(self, argindex)
        return bessel_quotient(*self.args) / 2

    def _eval_rewrite_as_besseli(self, nu: Any, s: Any, **_: Any) -> Any:
        k = sp.sqrt(s)
        return sp.log(sp.gamma(nu + 1) * (2 / k) ** nu * sp.besseli(nu, k))

    def _eval_rewrite_as_coth(self, nu: Any, s: Any, **_: Any) -> Any:
        k = sp.sqrt(s)
        return sp.log(sp.sinh(k) / k) if nu == sp.S.Half else self

    def _mpmathcode(self, printer: Any) -> str:
        nu, s = (printer._print(x) for x in self.args)
        log, f = (printer._module_format(f"mpmath.{name}") for name in ("log", "hyp0f1"))
        return f"{log}({f}({nu} + 1, ({s})/4))"

    @staticmethod
    def _elementary(k: Any) -> Any:
        return sp.log(sp.sinh(k) / k)


class tricomi(sp.Function):
    """Tricomi's U(a, b, z) = int_0^oo e^{-z s} s^{a-1} (1 + s)^{b-a-1} ds / Gamma(a).

    >>> a, z = sp.symbols("a z")
    >>> tricomi(a, 2, z).diff(z), tricomi(1, 1, 1).evalf(8)
    (-a*tricomi(a + 1, 3, z), 0.59634736)
    """

    nargs = 3

    def _eval_is_positive(self) -> bool | None:
        return (self.args[0].is_positive and self.args[2].is_positive) or None

    def _eval_evalf(self, prec: int) -> Any:
        if not all(x.is_comparable for x in self.args):
            return None
        with mpmath.workprec(prec + 20):
            value = mpmath.hyperu(*(x._to_mpmath(prec + 20) for x in self.args))
        return sp.Float._new(value._mpf_, prec)

    def fdiff(self, argindex: int = 3) -> Any:
        if argindex != 3:
            raise ArgumentIndexError(self, argindex)
        a, b, z = self.args
        return -a * tricomi(a + 1, b + 1, z)

    def _latex(self, printer: Any, exp: str | None = None) -> str:
        text = rf"U\left({', '.join(map(printer._print, self.args))}\right)"
        return text if exp is None else rf"{{{text}}}^{{{exp}}}"

    def _mpmathcode(self, printer: Any) -> str:
        name = printer._module_format("mpmath.hyperu")
        return f"{name}({', '.join(map(printer._print, self.args))})"
