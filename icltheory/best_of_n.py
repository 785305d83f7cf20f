"""Best of N candidates of continuous coefficients, given the prompt: which error does a verifier leave?

In the eigenbasis of S = X'X/n a candidate has the error e_j = o_j + c_j + s_j z_j with independent
standard normal z_j, and a verifier orders candidates by l = sum_j mu_j (c_j + s_j z_j)^2: the prompt
loss has mu_j = lambda_j; an oracle has mu_j = 1 and o_j = 0. Everything here comes from one object,
the joint cumulant generating function of l and |e|^2, a Gaussian integral. Risks are totals
|e|^2, coefficients with E w* w*' = I (the sum of the risks per coordinate of `icl.NoisyDecoding`).
Source: derived here. Exported: `Candidates`, `normal_maximum_mean`, `oracle_selection_risk`; chains make
candidates in `icltheory.chain_selection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.formula import Formula, Step
from icltheory.laws.gaussian import gaussian_expectation
from icltheory.laws.normal import G, normal_density, normal_mean, normal_tail
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import noise_std, tilt
from icltheory.symbols import samples as samples_symbol
from icltheory.symbols import squared_bias as squared_bias_symbol

_MU = sp.Symbol("mu", nonnegative=True)
_C, _O, _Z = sp.symbols("c o z", real=True)
_S2 = sp.Symbol("s2", nonnegative=True)  # s^2
_U, _V = sp.symbols("u v", real=True)  # arguments of the cumulant function
_SHRINK = sp.Symbol("D", positive=True)  # 1 + 2 tilt s^2
_E = sp.Symbol("e", real=True)
_MOST_SAMPLES = 10**15
_COUNT, _DIM, _TOTAL = (sp.Dummy(name, positive=True) for name in ("N", "d", "B"))


def normal_maximum_mean(samples: Any = samples_symbol) -> Formula:
    """m_N, the mean of the largest of N independent standard normal variables, as an integral.

    `samples`: an integer >= 1 or a symbol. `float(...)`, `evalf` and backend "mpmath" compute it.

    Errors: `InvalidInput`. Source: derived here.

    >>> normal_maximum_mean(2).evalf(12)
    0.564189583548
    >>> normal_maximum_mean(1).expr
    0
    """
    number = _samples(samples)
    if number == 1:
        odd = Step(
            "odd integrand f over the variable G", sp.Eq(sp.Symbol("f"), G * normal_density(G))
        )
        return Formula("mean of one standard normal variable", sp.S.Zero, steps=(odd,))
    # The density of the maximum is the derivative of Phi^N.
    below = sp.Symbol("Phi", positive=True)
    weight = sp.powsimp(sp.diff(below**number, below))
    return Formula(
        "mean of the maximum of N standard normal variables",
        normal_mean(G * weight.subs(below, normal_tail(-G))),
        steps=(
            Step(
                "density of the maximum over that of one variable, Phi its distribution function",
                sp.Eq(sp.Symbol("f"), weight),
            ),
        ),
    )


@lru_cache(maxsize=1)
def _cumulant() -> sp.Expr:
    """log E exp(u l + v |e|^2) of one coordinate, in mu, c, s^2 and o."""
    mean = gaussian_expectation(
        1, [_Z], cov=_S2, mean=[_C], quadratic=_U * _MU + _V, linear=[2 * _V * _O]
    )
    total = _V * _O**2
    for factor in sp.Mul.make_args(mean.expr):
        base, power = factor.as_base_exp()
        total += power if base is sp.E else power * sp.log(base)
    return total


def _cumulant_step() -> Step:
    return Step(
        "log K of E exp(u l + v e^2) in one direction: loss l of weight mu, error e = o + c + s z, s2 = s^2",
        sp.Eq(sp.Symbol("K"), _cumulant(), evaluate=False),
    )


@lru_cache(maxsize=64)
def _cumulants(loss: int, error: int) -> sp.Expr:
    """The mixed derivative of the cumulant function at u = -tilt, v = 0, of one coordinate."""
    expr = _cumulant()
    for variable, order in ((_U, loss), (_V, error)):
        expr = sp.diff(expr, variable, order) if order else expr
    expr = expr.subs(_V, 0).subs(_U, -tilt)
    return sp.factor(expr) if loss or error else expr


@dataclass(frozen=True)
class Candidates:
    """Independent candidates on one prompt, by eigendirection.

    Parameters (sequences of equal length, one entry a direction; numbers or expressions)
    ----------
    loss_weights: mu_j >= 0 of the verifier's loss.
    bias: c_j.
    noise_var: s_j^2 >= 0.
    offset: o_j, the part of the error that the verifier does not see; `None` is zero.

    Errors: `InvalidInput`. Source: derived here.

    >>> two = Candidates(loss_weights=[1, 1], bias=[1, 0], noise_var=[1, 1])
    >>> two.risk().expr, two.tilted_risk().subs(tilt=1).expr
    (3, 7/9)
    """

    loss_weights: Any
    bias: Any
    noise_var: Any
    offset: Any = None

    def __post_init__(self) -> None:
        size = len(per_direction(self.bias, "bias"))
        for name in ("loss_weights", "bias", "noise_var", "offset"):
            value = getattr(self, name)
            value = [0] * size if value is None and name == "offset" else value
            entries = per_direction(value, name)
            if len(entries) != size:
                raise InvalidInput(f"{name} has {len(entries)} entries, bias has {size}.")
            if name in ("loss_weights", "noise_var"):
                for i, x in enumerate(entries):
                    checks.nonnegative(x, f"{name}[{i}]")
            object.__setattr__(self, name, entries)

    def risk(self) -> Formula:
        """Q_0 = E |e|^2 of one candidate."""
        return Formula(
            "total risk of one candidate", self._moment(0, 1, 0), steps=(_cumulant_step(),)
        )

    def many_samples_risk(self) -> Formula:
        """The limit N -> infinity: the loss is 0, so that e_j = o_j; what the loss does not weigh stays.

        With the prompt loss this is the risk of least squares, null directions kept as sampled.
        """
        total = sp.S.Zero
        for mu, c, s2, o in self._rows():
            if mu.is_zero is None:
                raise InvalidInput(f"the loss weight {mu} may be zero; declare it positive.")
            if mu != 0 and s2.is_zero is not False:
                raise InvalidInput(f"the noise variance {s2} may be zero; all of them must be > 0.")
            total += o**2 if mu != 0 else (o + c) ** 2 + s2
        return Formula(
            "total risk of the best of infinitely many candidates",
            total,
            steps=(
                Step("error e of a direction that the loss weighs, offset o", sp.Eq(_E, _O)),
                Step(
                    "square E_2 of the error of the others, bias c and noise s2 = s^2",
                    sp.Eq(sp.Symbol("E_2"), (_O + _C) ** 2 + _S2),
                ),
            ),
        )

    def gaussian_risk(self, samples: Any = samples_symbol, verifier_noise: Any = 0) -> Formula:
        """Best of `samples` with loss and error taken as jointly Gaussian: small N, large dimension.

        `verifier_noise` is the standard deviation of noise on every loss. Within 10 % for N <= 8, and
        for N up to about 1000 in dimension 40; too low for large N in low dimension.
        """
        scale = sp.sqrt(
            self._moment(2, 0, 0) + checks.nonnegative(verifier_noise, "verifier_noise") ** 2
        )
        covariance, mean = self._moment(1, 1, 0), self._moment(0, 1, 0)
        gain = _ratio(covariance, scale)
        expr = mean - normal_maximum_mean(samples).expr * gain
        return Formula(
            "total risk of best-of-N, Gaussian form",
            expr,
            steps=(
                Step("covariance Cov of loss and error", sp.Eq(sp.Symbol("Cov"), covariance)),
                Step("standard deviation sd of the loss", sp.Eq(sp.Symbol("sd"), scale)),
            ),
        )

    def small_noise_optimum(self, samples: Any = samples_symbol) -> Formula:
        """The least risk over the scale of the noise, to second order in it; offsets must be zero.

        `noise_var` holds the variances at unit scale; `minimizer` gives the best `noise_std`. By
        expansion of `gaussian_risk` for s_j^2 = noise_std^2 noise_var_j.
        """
        if any(o != 0 for o in self.offset):
            raise InvalidInput("the expansion is for candidates without offset (no label noise).")
        # Terms of the lowest order in s^2: everything is a polynomial in it.
        leading = {}
        for key in ((1, 1), (2, 0)):
            part = sp.Poly(_cumulants(*key).subs(tilt, 0), _S2).coeff_monomial(_S2)
            leading[key] = self._sum(part)
        bias = self._sum(_cumulants(0, 1).subs(tilt, 0).subs(_S2, 0))
        spread = self._sum(_S2)
        slope = normal_maximum_mean(samples).expr * _ratio(leading[1, 1], sp.sqrt(leading[2, 0]))
        fall = sp.Dummy("c")
        risk = bias + noise_std**2 * spread - fall * noise_std
        (scale,) = (x.subs(fall, slope) for x in sp.solve(sp.diff(risk, noise_std), noise_std))
        risk = risk.subs(fall, slope)
        return Formula(
            "least total risk of best-of-N for small noise",
            risk.subs(noise_std, scale),
            steps=(
                Step(
                    "risk R to second order in the noise",
                    sp.Eq(sp.Symbol("R"), risk, evaluate=False),
                ),
            ),
            minimizer=sp.Dict({noise_std: scale}),
            attained=True,
        )

    def selected_shift(self, samples: Any = samples_symbol) -> tuple[Formula, ...]:
        """E s_j z_j of the best of `samples`, by regression on the nearly Gaussian loss, for every j.

        With bias c_j = g_j/lambda_j and loss weights lambda_j this is the step that stepwise
        selection adds: for small noise a step of length noise_std * m_N along -g.
        """
        # The covariance of the loss and a shift of the error is half its derivative in the offset.
        shift = sp.diff(_cumulants(1, 1).subs(tilt, 0), _O) / 2
        scale, best = sp.sqrt(self._moment(2, 0, 0)), normal_maximum_mean(samples).expr
        parts = (
            shift.subs(dict(zip((_MU, _C, _S2, _O), row, strict=True))) for row in self._rows()
        )
        spread = Step("standard deviation sd of the loss", sp.Eq(sp.Symbol("sd"), scale))
        return tuple(
            Formula(
                "mean shift of the selected candidate",
                -best * _ratio(part, scale),
                steps=(
                    Step("covariance Cov of the loss and the shift", sp.Eq(sp.Symbol("Cov"), part)),
                    spread,
                ),
            )
            for part in parts
        )

    # -- tilting ---------------------------------------------------------------------------------

    def tilted_risk(self) -> Formula:
        """E |e|^2 under the weight exp(-tilt l), a Formula in `tilt`: risk of the best of exp(nu d)."""
        return self._tilted("total risk of tilted candidates", 0, 1)

    def tilted_log_samples(self) -> Formula:
        """ln N of a tilt >= 0: the relative entropy of the tilted law, increasing in `tilt`.

        Solve it for the tilt and insert that in `tilted_risk`: the best of N to leading exponential
        order; 10 to 30 % low in dimension 10, about 10 % in dimension 40.
        """
        return Formula(
            "log of the number of candidates of a tilt",
            -tilt * self._moment(1, 0) - self._moment(0, 0),
            validity=sp.Ge(tilt, 0),
            steps=(Step("relative entropy, u = -tilt", sp.Symbol("u K'(u) - K(u)")),),
        )

    def loss_cumulant(self, order: int = 0) -> Formula:
        """The derivative of order 0 to 4 of K(u) = ln E exp(u l) at u = -tilt."""
        if isinstance(order, bool) or order not in range(5):
            raise InvalidInput(f"order = {order!r}: pass an integer from 0 to 4.")
        return self._tilted(f"derivative {order} of the cumulant function of the loss", order, 0)

    def loss_distribution(self) -> Formula:
        """P(l <= K'(-tilt)) by Lugannani and Rice, a Formula in `tilt`; tilt = 0 is its limit.

        With it the best of N has the risk int tilted_risk d[1 - (1 - F)^N]: within 3 % for N from 8
        to 1000 in dimension 10 and more. `numeric` integrates it.
        """
        u = -tilt
        k0, k1, k2 = (self._moment(order, 0) for order in range(3))
        root, wald = sp.sign(u) * sp.sqrt(2 * (u * k1 - k0)), u * sp.sqrt(k2)
        expr = normal_tail(-root) + normal_density(root) * (1 / root - 1 / wald)
        at_zero = _central_distribution().subs(
            {sp.Symbol(f"k_{order}", positive=True): self._moment(order, 0, 0) for order in (2, 3)}
        )
        return Formula(
            "distribution function of the loss at its tilted mean",
            sp.Piecewise((at_zero, sp.Eq(tilt, 0)), (expr, True)),
            validity=self._finite(),
            steps=(
                _cumulant_step(),
                Step("r, with r^2/2 the exponent u K' - K, u = -tilt", sp.Eq(sp.Symbol("r"), root)),
                Step("w, which is u times the root of K''", sp.Eq(sp.Symbol("w"), wald)),
            ),
        )

    def softmax_mean_risk(self, samples: Any = None) -> Formula:
        """Error of the mean of candidates weighted by exp(-tilt l), a Formula in `tilt` >= 0.

        `samples`: `None` is the limit of many candidates; otherwise the term of order 1/N is added,
        good to 2 % while N over the first factor of `steps` is at least 30.
        """
        mean = self._sum(_tilted_mean() ** 2)
        if samples is None:
            return Formula(
                "total risk of the softmax-weighted mean, N -> oo",
                mean,
                validity=sp.Ge(tilt, 0),
                steps=(
                    Step(
                        "tilted mean m of the error in a direction of weight mu, bias c, offset o, s2 = s^2",
                        sp.Eq(sp.Symbol("m"), _tilted_mean(), evaluate=False),
                    ),
                ),
            )
        loss = self._moment(0, 0)
        excess = sp.exp(loss.subs(tilt, 2 * tilt) - 2 * loss)
        # The squared weights tilt by 2 tilt; deviations are from the limit of the mean.
        twice = _tilted_mean().subs(tilt, 2 * tilt)
        variance = _cumulants(0, 1).subs(tilt, 2 * tilt) - twice**2
        spread = self._sum(variance + (twice - _tilted_mean()) ** 2)
        return Formula(
            "total risk of the softmax-weighted mean of N",
            mean + excess / _samples(samples) * spread,
            validity=sp.Ge(tilt, 0),
            steps=(Step("candidates per effective candidate", excess),),
        )

    # -- sums over directions --------------------------------------------------------------------

    def _rows(self) -> list[tuple[sp.Expr, ...]]:
        return list(zip(self.loss_weights, self.bias, self.noise_var, self.offset, strict=True))

    def _sum(self, term: sp.Expr) -> sp.Expr:
        """sum_j term(mu_j, c_j, s_j^2, o_j)."""
        names = (_MU, _C, _S2, _O)
        return sp.Add(*(term.subs(dict(zip(names, row, strict=True))) for row in self._rows()))

    def _moment(self, loss: int, error: int, at: Any = tilt) -> sp.Expr:
        return self._sum(_cumulants(loss, error).subs(tilt, at))

    def _tilted(self, name: str, loss: int, error: int) -> Formula:
        return Formula(
            name, self._moment(loss, error), validity=self._finite(), steps=(_cumulant_step(),)
        )

    def _finite(self) -> sp.Basic:
        """1 + 2 tilt mu_j s_j^2 > 0 for all j: where tilted laws exist."""
        products = [mu * s2 for mu, _, s2, _ in self._rows() if mu * s2 != 0]
        if products and all(x.is_number for x in products):
            products = [sp.Max(*products)]
        return sp.And(*(sp.Gt(1 + 2 * tilt * x, 0) for x in dict.fromkeys(products)))


@lru_cache(maxsize=1)
def _tilted_mean() -> sp.Expr:
    """o + c/D, the mean error of one coordinate under the tilt: half the slope in o of E e^2."""
    return sp.factor(sp.diff(_cumulants(0, 1), _O) / 2)


@lru_cache(maxsize=1)
def _central_distribution() -> sp.Expr:
    """The limit of the Lugannani-Rice formula at u = 0 in the cumulants k_2 and k_3 of the loss."""
    k2, k3 = sp.symbols("k_2 k_3", positive=True)
    u = sp.Dummy("u", positive=True)
    cumulant = k2 * u**2 / 2 + k3 * u**3 / 6
    root = sp.sqrt(sp.expand(2 * (u * sp.diff(cumulant, u) - cumulant) / u**2))
    wald = sp.sqrt(sp.diff(cumulant, u, 2))
    correction = sp.diff(1 / root - 1 / wald, u).subs(u, 0)  # of (1/root - 1/wald)/u
    return sp.S.Half + normal_density(0) * sp.powsimp(sp.expand(correction))


def _ratio(numerator: sp.Expr, denominator: sp.Expr) -> sp.Expr:
    """A quotient of sums which vanish together (nothing to select from)."""
    return sp.S.Zero if denominator == 0 else numerator / denominator


def per_direction(value: Any, name: str) -> tuple[sp.Expr, ...]:
    """One number or symbol a direction."""
    value = checks.plain(value)
    if isinstance(value, (str, bytes)) or not isinstance(value, Sequence) or not len(value):
        raise InvalidInput(f"{name} is no list of numbers; pass one entry a direction.")
    return tuple(checks.scalar(x, f"{name}[{i}]") for i, x in enumerate(value))


def _samples(samples: Any) -> sp.Expr:
    number = checks.positive_integer(samples, "samples", "samples=16")
    if number.is_Integer and number > _MOST_SAMPLES:
        raise InvalidInput(
            f"samples = {float(number):.3g}: integrals are written up to {_MOST_SAMPLES:.0e}; use "
            f"numeric.normal_maximum and numeric.best_of_n_error beyond."
        )
    return number


# -- the oracle at its best temperature ----------------------------------------------------------


def oracle_selection_risk(
    samples: Any = samples_symbol, d: Any = dim_symbol, squared_bias: Any = squared_bias_symbol
) -> Formula:
    """Oracle best-of-N at the best isotropic noise, to leading exponential order: total risk.

    `squared_bias` is the |e|^2 of the chain without noise; `minimizer` gives the best standard
    deviation `noise_std` of the candidates. By elimination: of the tilted risk and the relative entropy a
    coordinate, the noise is chosen where the risk is stationary at a given number of candidates.
    20 to 28 % low in dimension 10, 6 to 8 % in dimension 40.

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.symbols import d
    >>> oracle_selection_risk(16, d, 3).expr
    3/16**(2/d)
    """
    values = {
        _COUNT: checks.positive_integer(samples, "samples", "samples=16"),
        _DIM: checks.positive_integer(d, "d", "d=20"),
        _TOTAL: checks.positive(squared_bias, "squared_bias"),
    }

    def at(expr: sp.Basic) -> Any:
        return expr.subs(values, simultaneous=True)

    risk, best, reached, solution = _oracle_rule()
    return Formula(
        "total risk of oracle best-of-N at the best noise",
        at((_DIM * sp.factor(risk.subs(_S2, best))).subs(_SHRINK, solution)),
        steps=(
            Step(
                "tilted risk r of a coordinate, noise variance s2, D = 1 + 2 tilt s2",
                sp.Eq(sp.Symbol("r"), at(risk)),
            ),
            Step("best noise variance s2", sp.Eq(_S2, at(best))),
            Step(
                "ln N a coordinate",
                sp.Eq(at(sp.log(_COUNT) / _DIM), reached, evaluate=False),
            ),
        ),
        minimizer=sp.Dict(
            {noise_std: at(sp.sqrt(sp.factor_terms(sp.expand(best.subs(_SHRINK, solution)))))}
        ),
        attained=True,
    )


@lru_cache(maxsize=1)
def _oracle_rule() -> tuple[sp.Expr, ...]:
    """Risk, best s^2 and entropy of a coordinate in D, and D at N candidates."""
    part = {_MU: sp.S.One, _O: sp.S.Zero, _C: sp.sqrt(_TOTAL / _DIM)}
    at = {tilt: (_SHRINK - 1) / (2 * _S2)}
    risk = sp.factor(_cumulants(0, 1).subs(part).subs(at))
    entropy = (-tilt * _cumulants(1, 0) - _cumulants(0, 0)).subs(part).subs(at)
    # The gradients of risk and entropy in (D, s^2) are parallel.
    gradients = sp.Matrix([risk, entropy]).jacobian([_SHRINK, _S2])
    parallel = sp.factor(gradients.det())
    # Of the factors with s^2, the one with the root that is positive for D > 1.
    roots = [sp.cancel(-factor.subs(_S2, 0) / sp.diff(factor, _S2)) for factor in _linear(parallel)]
    (best,) = (root for root in roots if root.subs({_SHRINK: 2, **_ones(root)}) > 0)
    logs = sp.log(_SHRINK)
    reached = sp.expand(sp.cancel(entropy.subs(_S2, best).subs(logs, _U)).subs(_U, logs))
    solution = sp.solve(sp.Eq(reached, sp.log(_COUNT) / _DIM), _SHRINK)[0]
    return risk, best, reached, solution


def _linear(product: sp.Expr) -> list[sp.Expr]:
    """The factors that are linear in s^2."""
    factors = sp.Mul.make_args(sp.numer(product))
    return [f for f in factors if f.has(_S2) and sp.diff(f, _S2, 2) == 0 and f.subs(_S2, 0) != 0]


def _ones(expr: sp.Expr) -> dict[sp.Symbol, int]:
    return dict.fromkeys(expr.free_symbols - {_SHRINK}, 1)
