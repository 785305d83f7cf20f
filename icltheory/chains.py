"""Chains of thought with injected noise: their risk, exactly and where n and d are large.

w_0 = 0, w_{s+1} = w_s - step_size (S w_s - b) + noise, S = X'X/n, b = X'y/n; the answer is the mean of
`samples` chains on one prompt. Everything is a sum of contraction moments beta_j (see
`icltheory.contraction`). Risks are per coordinate with E w w' = I: the total risk of the rest of the
toolkit with coefficients N(0, I/d) and noise_var = label_noise_var/d. Exported: `NoisyDecoding`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.contraction import (
    LARGEST_EXACT,
    LARGEST_SYMBOLIC,
    contraction_moment,
    contraction_moment_limit,
    contraction_moments,
)
from icltheory.errors import DivergingMoments, InvalidInput
from icltheory.formula import CHEN, DERIVED_HERE, Formula, Step
from icltheory.laws.spectra import MARCHENKO_PASTUR
from icltheory.readable import collected
from icltheory.solver_steps import number_of_steps, sequence
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import eta, label_noise_var, noise_std
from icltheory.symbols import gamma as gamma_symbol
from icltheory.symbols import label_noise_ratio as ratio_symbol
from icltheory.symbols import n as length_symbol

_MODEL = CHEN.at("the chain with injected noise; the formulas are derived here")
_FAR = 2  # a mean bias so many times the limit is no longer what a prompt shows

_COLLECTED = 200  # terms of a risk whose coefficients are factored


@dataclass(frozen=True)
class NoisyDecoding:
    """A chain of `steps` thoughts with injected noise, and the mean of `samples` of them.

    Coefficients are N(0, I) and risks are per coordinate; elsewhere in icltheory coefficients are
    N(0, I/d) by default and risks are totals.

    Parameters
    ----------
    step_size: eta > 0, for S = X'X/n.
    noise_std: sigma >= 0, standard deviation of the noise of one thought.
    steps: t, an integer >= 0 (0: the answer is w_0 = 0), or a symbol.
    samples: N >= 1 chains with independent noise on the same prompt.
    label_noise_var: variance of the label noise, where the squared norm of the coefficients is d.
    noise_where: "steps" adds noise to every thought, "output" to the last one only; a sequence of
        `steps` numbers >= 0 multiplies noise_std at each step.
    scaled_noise: noise of covariance step_size noise_std^2 I instead of noise_std^2 I.

    Numbers are kept exact; symbols are allowed. Errors: `InvalidInput`.

    >>> NoisyDecoding(0.5, 0.3, 3, samples=8, label_noise_var=2.25).risk(20, 10).evalf(10)
    0.2517119922
    """

    step_size: Any
    noise_std: Any
    steps: Any
    samples: Any = 1
    label_noise_var: Any = 0
    noise_where: Any = "steps"
    scaled_noise: bool = False

    def __post_init__(self) -> None:
        fields = {
            "step_size": checks.positive(self.step_size, "step_size", "0.5"),
            "noise_std": _nonnegative(self.noise_std, "noise_std"),
            "steps": number_of_steps(self.steps),
            "samples": checks.positive_integer(self.samples, "samples", "8"),
            "label_noise_var": checks.nonnegative(self.label_noise_var, "label_noise_var"),
        }
        if not isinstance(self.scaled_noise, bool):
            raise InvalidInput(f"scaled_noise = {self.scaled_noise!r}: pass True or False.")
        if not (isinstance(self.noise_where, str) and self.noise_where in ("steps", "output")):
            fields["noise_where"] = self._schedule(fields["steps"])
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def _schedule(self, steps: sp.Expr) -> tuple[sp.Expr, ...]:
        if isinstance(self.noise_where, (str, bytes)):
            raise InvalidInput(
                f"noise_where = {self.noise_where!r}; pass 'steps', 'output' or one factor a step."
            )
        factors = sequence(self.noise_where, "noise_where")
        factors = tuple(_nonnegative(x, f"noise_where[{i}]") for i, x in enumerate(factors))
        if steps != len(factors):
            raise InvalidInput(
                f"noise_where has {len(factors)} factors for {steps} steps; pass one a step."
            )
        return factors

    @property
    def noise_var(self) -> sp.Expr:
        """Variance of the noise that one thought adds to a coordinate, before the schedule."""
        return self.noise_std**2 * (self.step_size if self.scaled_noise else 1)

    def noise_factors(self) -> tuple[sp.Expr, ...]:
        """Of every step the factor of the noise's standard deviation."""
        steps = self._count()
        if self.noise_where == "steps":
            return (sp.S.One,) * steps
        if self.noise_where == "output":
            return (sp.S.Zero,) * (steps - 1) + (sp.S.One,) * min(steps, 1)
        return self.noise_where

    def risk(self, n: Any = length_symbol, d: Any = dim_symbol) -> Formula:
        """E |w - w*|^2/d of the mean of the chains, exact at every n and d.

        beta_{2t} + noise_std^2/samples sum_s beta_{2s} + eta label_noise_var/n sum_s (beta_s - beta_{s+t}).
        Warns (`DivergingMoments`) where numbers show that rare prompts with a large eigenvalue carry
        the mean: at fixed n it grows without end in the number of steps, for every step size.

        >>> from icltheory.symbols import d, n, noise_std
        >>> sp.factor(NoisyDecoding(1, 0, 1).risk().expr)
        (d + 1)/n
        """
        length = checks.positive_integer(n, "n", "n=20")
        dim = checks.positive_integer(d, "d", "d=10")
        moment = self._exact(length, dim)
        self._warn(moment, length, dim)
        return self._formula(
            "risk of a noisy chain", moment, self.label_noise_var / length, sp.true
        )

    def limit_risk(self, gamma: Any = gamma_symbol, label_noise_ratio: Any = None) -> Formula:
        """The same for n, d -> infinity with d/n -> gamma.

        label_noise_ratio: the limit of label_noise_var/n; by default 0 without label noise, else a
        symbol. Warns (`DivergingMoments`) where step_size >= 2/(1 + sqrt(gamma))^2, so that the chain
        diverges on every prompt.

        >>> NoisyDecoding(0.5, 0, 1).limit_risk().expr
        (gamma + 1)/4
        """
        ratio = checks.positive(gamma, "gamma", "0.5")
        if label_noise_ratio is None:
            label = ratio_symbol if self.label_noise_var != 0 else sp.S.Zero
        else:
            label = checks.nonnegative(label_noise_ratio, "label_noise_ratio")
        bound = 2 / (1 + sp.sqrt(ratio)) ** 2
        if (self.step_size >= bound) == sp.true:
            warnings.warn(
                f"step_size = {self.step_size} is not below 2/(1 + sqrt(gamma))^2 = "
                f"{bound.evalf(6)}: the chain diverges; its risk grows with every step.",
                DivergingMoments,
                stacklevel=2,
            )

        def moment(j: int) -> sp.Expr:
            return contraction_moment_limit(j, ratio, self.step_size).expr

        return self._formula("risk of a noisy chain, d/n -> gamma", moment, label, sp.true)

    def prompt_loss(self, n: Any = length_symbol, d: Any = dim_symbol) -> Formula:
        """E |y - X w|^2/n of the mean of the chains on its own prompt: total, exact at every n and d.

        >>> NoisyDecoding(0.4, 0.35, 3, label_noise_var=1.69).prompt_loss(14, 9).evalf(11)
        2.9375457617
        """
        length = checks.positive_integer(n, "n", "n=20")
        dim = checks.positive_integer(d, "d", "d=10")
        moment, steps = self._exact(length, dim), self._count()
        self._warn(moment, length, dim)

        def weighted(j: int) -> sp.Expr:
            """E (1/d) tr S (I - eta S)^j."""
            return (moment(j) - moment(j + 1)) / self.step_size

        bias, sampling = dim * weighted(2 * steps), dim * self._sampling(weighted)
        labels = self.label_noise_var * (1 - dim / length * (1 - moment(2 * steps)))
        return Formula(
            "prompt loss of a noisy chain",
            _tidy(bias + sampling + labels),
            references=(_MODEL,),
            steps=_parts(bias, sampling, labels),
        )

    # -- parts -------------------------------------------------------------------------------------

    def _count(self) -> int:
        if not self.steps.is_Integer:
            raise InvalidInput(
                f"the number of steps is the symbol {self.steps}; pass a number such as steps=3 (at the best "
                f"step size icl.best_contraction and icl.split_risk keep it a symbol)."
            )
        return int(self.steps)

    def _exact(self, length: sp.Expr, dim: sp.Expr) -> Callable[[int], sp.Expr]:
        """j -> beta_j; at numbers all of them at once."""
        top, numbers = 2 * self._count() + 1, length.is_Integer and dim.is_Integer
        largest = LARGEST_EXACT if numbers else LARGEST_SYMBOLIC
        if top > largest:
            raise InvalidInput(
                f"steps = {self.steps}: exact risks have at most {(largest - 1) // 2} steps here; use "
                f"limit_risk, or numeric.chain_risks with gamma for any number."
            )
        if numbers and self.step_size.is_Rational:
            return contraction_moments(top, int(length), int(dim), self.step_size).__getitem__
        return lambda j: contraction_moment(j, length, dim, self.step_size).expr

    def _sampling(self, moment: Callable[[int], sp.Expr]) -> sp.Expr:
        """noise_var/samples sum_s f_s^2 beta_{2(t-1-s)}, f_s the factor of step s."""
        factors = self.noise_factors()
        last = len(factors) - 1
        gain = sp.Add(*(f**2 * moment(2 * (last - s)) for s, f in enumerate(factors) if f != 0))
        return self.noise_var / self.samples * gain

    def _labels(self, moment: Callable[[int], sp.Expr]) -> sp.Expr:
        steps = self._count()
        return self.step_size * sp.Add(*(moment(s) - moment(s + steps) for s in range(steps)))

    def _formula(
        self, name: str, moment: Callable[[int], sp.Expr], labels: sp.Expr, validity: Any
    ) -> Formula:
        bias, sampling = moment(2 * self._count()), self._sampling(moment)
        label = labels * self._labels(moment) if labels != 0 else sp.S.Zero
        sources = (MARCHENKO_PASTUR,) if "gamma" in name else ()
        return Formula(
            name,
            _tidy(bias + sampling + label),
            validity=validity,
            references=(_MODEL, *sources, DERIVED_HERE),
            steps=_parts(bias, sampling, label),
        )

    def _warn(self, moment: Callable[[int], sp.Expr], length: sp.Expr, dim: sp.Expr) -> None:
        """Say where the mean is that of rare prompts: numbers only."""
        steps = self._count()
        if steps < 2 or not (length.is_Integer and dim.is_Integer and self.step_size.is_number):
            return
        ratio = dim / length
        if (self.step_size >= 2 / (1 + sp.sqrt(ratio)) ** 2) == sp.true:
            typical = None  # it grows on typical prompts as well
        else:
            typical = contraction_moment_limit(2 * steps, ratio, self.step_size).expr
        now, before = moment(2 * steps), moment(2 * steps - 2)
        if now < before and (typical is None or now <= _FAR * typical):
            return
        advice = " Use it, a median, or a fixed prompt for long chains."
        if typical is None:
            advice = " Take a smaller step size."
        limit = "diverges too" if typical is None else f"is {typical.evalf(4)} (limit_risk)"
        warnings.warn(
            f"after {steps} steps at n = {length}, d = {dim} the mean bias {now.evalf(4)} is carried by "
            f"rare prompts with a large eigenvalue, and grows without end with more steps; the limit "
            f"of large n and d {limit}.{advice}",
            DivergingMoments,
            stacklevel=3,
        )


def _nonnegative(value: Any, name: str) -> sp.Expr:
    expr = checks.scalar(value, name)
    if expr.is_negative:
        raise InvalidInput(f"{name} = {value} is negative; a standard deviation is at least 0.")
    return expr


def _tidy(expr: sp.Expr) -> sp.Expr:
    """Collected in the step size and the noises where they are symbols, unless it is very long."""
    expr = sp.expand(expr)
    used = [s for s in (eta, noise_std, label_noise_var, ratio_symbol) if expr.has(s)]
    few = len(sp.Add.make_args(expr)) <= _COLLECTED
    if not (few and expr.free_symbols - set(used) and expr.is_polynomial(*used)):
        return expr
    return collected(expr, *used)


def _parts(bias: sp.Expr, sampling: sp.Expr, label: sp.Expr) -> tuple[Step, ...]:
    parts = {"B": ("bias", bias), "V": ("sampling noise", sampling), "L": ("label noise", label)}
    return tuple(
        Step(title, sp.Eq(sp.Symbol(letter), part, evaluate=False))
        for letter, (title, part) in parts.items()
    )
