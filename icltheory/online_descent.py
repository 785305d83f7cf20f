"""Online gradient descent: one step an example, in order; no function of S, so no filter.

The error e = w - w_* loses a multiple of its projection on each new example x. Isotropic Gaussian x
make the mean squares obey affine recursions, whose coefficients are Gaussian moments: the risk, and
how well an example is remembered g steps later. Source: derived here with label
noise and for constant steps. Exported: `OnlineGradientDescent`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import sympy as sp

from icltheory import checks, solver_steps
from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.formula import DERIVED_HERE, FU, Formula, Step
from icltheory.laws.gaussian import isotropic_expectation, wick_moment
from icltheory.laws.inverse_wishart import inverse_wishart_moment
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import gap as gap_symbol
from icltheory.symbols import n as length_symbol


@dataclass(frozen=True)
class OnlineGradientDescent:
    """w <- w + eta (y_i - x_i.w) x_i for i = 1, ..., n, from w_0.

    step_size: a positive number or expression; the default None is 1/|x_i|^2, the projection that
    fits every example exactly when it comes.

    >>> OnlineGradientDescent().risk().expr
    (1 - 1/d)**n
    >>> OnlineGradientDescent().optimal(20)
    OnlineGradientDescent(step_size=1/22)
    """

    step_size: Any = None
    description: ClassVar[str] = "online gradient descent"

    def __post_init__(self) -> None:
        if self.step_size is not None:
            solver_steps.set_positive(self, "step_size", "1/(d + 2)")

    def optimal(self, dim: Any = dim_symbol) -> OnlineGradientDescent:
        """The constant step size that lowers the risk most per example without label noise."""
        dim = checks.positive_integer(dim, "dim", "dim=20")
        eta = sp.Dummy("eta", positive=True)
        factor = _constant_step(eta, dim).shrink
        return OnlineGradientDescent(sp.factor(sp.solve(sp.diff(factor, eta), eta)[0]))

    def risk(
        self,
        n: Any = length_symbol,
        d: Any = dim_symbol,
        noise_var: Any = 0,
        *,
        start: Any = 0,
    ) -> Formula:
        """Expected risk after n examples; features N(0, I), coefficients N(0, I/d).

        Parameters
        ----------
        n: number of examples, an integer >= 0 or symbol. d: dimension.
        noise_var: label noise; with step 1/|x|^2 it needs d >= 3.
        start: E |w_0|^2 of a start that is independent of the coefficients (0: w_0 = 0).

        >>> OnlineGradientDescent(0.01).risk(n=100, d=20).expr.evalf(8)
        0.16595601
        """
        dim, count, noise, start = _sizes(d, n, noise_var, start)
        step = self._step(dim)
        if noise != 0 and self.step_size is None and (dim - 2).is_nonpositive:
            raise OutOfDomain(
                f"d = {dim}: steps 1/|x|^2 with label noise have infinite risk for d <= 2; use a "
                f"constant step size."
            )
        limit = sp.cancel(step.noise * noise / (1 - step.shrink)) if noise != 0 else sp.S.Zero
        expr = (1 + start - limit) * step.shrink**count + limit
        validity = dim > 2 if noise != 0 and self.step_size is None else sp.true
        return Formula(
            f"risk of {self._words()}",
            expr,
            validity=sp.S(validity),
            references=(FU.at("online gradient descent"), DERIVED_HERE),
            steps=(
                Step(
                    "factor s of the squared error per example", sp.Eq(sp.Symbol("s"), step.shrink)
                ),
                Step(
                    "what label noise adds per example, b",
                    sp.Eq(sp.Symbol("b"), step.noise * noise),
                ),
            ),
        )

    def forgetting(
        self, n: Any = length_symbol, gap: Any = gap_symbol, d: Any = dim_symbol, *, start: Any = 0
    ) -> Formula:
        """E [x_i.(w_n - w_*)]^2 of the example i = n - gap after n examples, without label noise.

        Arguments as for `risk`; 0 <= gap <= n - 1. Right after the example it is 0 for steps
        1/|x|^2, and it tends to their risk as the example is forgotten.

        >>> OnlineGradientDescent().forgetting().expr
        (1 - 1/d)**n*(1 - ((d**2 - 2)/((d - 1)*(d + 2)))**gap)
        """
        dim, count, _, start = _sizes(d, n, 0, start)
        passed = solver_steps.number_of_steps(gap)
        if (count - passed).is_nonpositive:
            raise InvalidInput(f"gap = {gap} reaches before the first of n = {n} examples.")
        if self.step_size is None and (dim - 1).is_zero:
            raise InvalidInput("d = 1: one step 1/x^2 fits all examples, nothing is forgotten.")
        step = self._step(dim)
        # One example x later: (v, p) -> (keep v + mix p, shrink p), v = E(x_i.e)^2, p = E|x_i|^2|e|^2,
        # so v_g = c shrink^g + (v_0 - c) keep^g with c = mix p_0/(shrink - keep).
        lasting = sp.cancel(step.mix * step.size / (step.shrink - step.keep))
        ratio = sp.factor(sp.cancel(step.keep / step.shrink))
        before = (1 + start) * step.shrink**count / sp.cancel(step.shrink)
        fresh = sp.factor(step.fresh - lasting)
        expr = before * (sp.factor(lasting) + fresh * ratio**passed)
        if sp.cancel(lasting / step.shrink - 1) == 0:
            expr = (
                (1 + start) * step.shrink**count * (1 + sp.factor(fresh / lasting) * ratio**passed)
            )
        return Formula(
            f"forgetting of {self._words()}",
            expr,
            validity=sp.S(passed < count),
            references=(FU.at("forgetting"), DERIVED_HERE),
            steps=(
                Step(
                    "factor s of |x_i|^2 |e|^2 per example, e the error",
                    sp.Eq(sp.Symbol("s"), step.shrink),
                ),
                Step("factor a of (x_i.e)^2 per example", sp.Eq(sp.Symbol("a"), step.keep)),
                Step("share m of |x_i|^2 |e|^2 that enters", sp.Eq(sp.Symbol("m"), step.mix)),
            ),
        )

    def _step(self, dim: sp.Expr) -> _Step:
        return _projection(dim) if self.step_size is None else _constant_step(self.step_size, dim)

    def _words(self) -> str:
        how = "1/|x|^2" if self.step_size is None else str(self.step_size)
        return f"{self.description} with steps {how}"


@dataclass(frozen=True)
class _Step:
    """Means over one example: |e|^2 -> shrink |e|^2 + noise, (a.e)^2 -> keep (a.e)^2 + mix |a|^2 |e|^2.

    fresh, size: (x_i.e)^2 and |x_i|^2 |e|^2 right after example i, over |e|^2 before it.
    """

    shrink: sp.Expr
    noise: sp.Expr
    keep: sp.Expr
    mix: sp.Expr
    fresh: sp.Expr
    size: sp.Expr


def _norm(power: int, dim: sp.Expr) -> sp.Expr:
    """E |x|^(2 power); rotations make E |x|^(2 j) (x.e)^2 = E |x|^(2 j + 2) |e|^2/d of it."""
    square = sp.Symbol("q", positive=True)
    return sp.factor(isotropic_expectation(square**power, square, dim=dim).expr)


@lru_cache(maxsize=1)
def _fourth() -> tuple[sp.Expr, sp.Expr]:
    """The shares of (a.e)^2 and of |a|^2 |e|^2 in E (a.x)^2 (e.x)^2."""
    first, second = sp.symbols("y_a y_e")
    product, sizes = sp.symbols("c p")  # a.e, and |a|^2 |e|^2
    mean = wick_moment(
        first**2 * second**2, [first, second], [0, 0], [[1, product], [product, sizes]]
    )
    found = sp.Poly(mean, product, sizes)
    return found.coeff_monomial(product**2), found.coeff_monomial(sizes)


@lru_cache(maxsize=64)
def _constant_step(eta: sp.Expr, dim: sp.Expr) -> _Step:
    two, four, six = (_norm(j, dim) for j in (1, 2, 3))
    along, across = _fourth()
    x2, x4 = two / dim, four / dim  # E (x.e)^2 and E |x|^2 (x.e)^2, over |e|^2
    x6 = six / dim
    return _Step(
        shrink=sp.expand(1 - 2 * eta * x2 + eta**2 * x4),
        noise=eta**2 * two,
        keep=sp.expand(1 - 2 * eta * x2 + eta**2 * along),
        mix=eta**2 * across,
        fresh=sp.expand(x2 - 2 * eta * x4 + eta**2 * x6),
        size=sp.expand(two - 2 * eta * x4 + eta**2 * x6),
    )


@lru_cache(maxsize=64)
def _projection(dim: sp.Expr) -> _Step:
    # The direction x/|x| is independent of |x|: its moments are ratios of Gaussian ones.
    two, four = _norm(1, dim), _norm(2, dim)
    along, across = (x / four for x in _fourth())
    shrink = 1 - 1 / dim
    inverse = inverse_wishart_moment(1, dim=sp.S.One).subs(length_symbol, dim)  # E 1/|x|^2
    return _Step(
        shrink=shrink,
        noise=inverse,
        keep=sp.cancel(1 - 2 / dim + along),
        mix=sp.cancel(across),
        fresh=sp.S.Zero,
        size=sp.cancel(two * shrink),
    )


def _sizes(dim: Any, count: Any, noise: Any, start: Any) -> tuple[sp.Expr, ...]:
    return (
        checks.positive_integer(dim, "d", "d=20"),
        solver_steps.number_of_steps(count),
        checks.nonnegative(noise, "noise_var"),
        checks.nonnegative(start, "start"),
    )
