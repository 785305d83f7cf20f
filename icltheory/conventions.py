"""Conventions of other papers, as conversions of formulas in both directions.

Papers on this problem differ by a factor of the loss, the size of the coefficients, what scores are
divided by, the sign of the prediction, noise in the target, and names. All of these act on a risk
formula by rescaling: labels of scale sqrt(c) multiply the risk by c, the noise variance by c, and
what reads or multiplies labels by powers of sqrt(c). A `Convention` holds the differences;
`from_ours` writes a formula of this toolkit the other way, `to_ours` is the inverse. Exported:
`Convention`, `CONVENTIONS`, `convention_table`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.errors import InvalidInput
from icltheory.formula import BOURSIER, Formula, Reference, Step
from icltheory.matrix_calculus import matrix_symbols, product
from icltheory.proportional import HE
from icltheory.symbols import b, d, k, n, noise_var, t, time, v
from icltheory.task import LinearRegression, refuse_options

ZHANG = Reference(
    "zhang2024trained",
    "Trained Transformers Learn Linear Models In-Context",
    "Zhang, Ruiqi and Frei, Spencer and Bartlett, Peter L.",
    2023,
    "2306.09927",
)

_COEFS = ("unit", "isotropic")
_LAYERS = ("softmax", "linear")
_BASE = LinearRegression(dim=d, noise_var=noise_var)


@dataclass(frozen=True)
class Convention:
    """How a paper writes the problem; the defaults are the conventions of this toolkit.

    Parameters
    ----------
    layer: "softmax", or "linear" (scores without softmax, whose sum is divided by `score_divisor`).
    loss_factor: the loss is this times the mean squared error, 1/2 in many papers.
    coefs: "unit" for coefficients N(0, I/d), "isotropic" for N(0, I).
    score_divisor: what scores are divided by, an expression in d and n; `None` is 1 for softmax and
        n for linear attention.
    prediction_sign: -1 if the layer outputs minus the prediction.
    noisy_target: True if the target has label noise, which adds the noise variance to the loss.
    names: their symbol for each of ours (n, k, v, noise_var, ...), as a mapping.
    references: the paper.

    Errors: `InvalidInput`.

    >>> halved = Convention(loss_factor=sp.Rational(1, 2), coefs="isotropic")
    >>> import icltheory as icl
    >>> risk = icl.optimal_linear_attention(icl.LinearRegression(dim=d, noise_var=noise_var))
    >>> sp.factor(halved.from_ours(risk).expr)
    d*(d + noise_var + 1)/(2*(d + n + noise_var + 1))
    """

    layer: str = "softmax"
    loss_factor: Any = 1
    coefs: str = "unit"
    score_divisor: Any = None
    prediction_sign: int = 1
    noisy_target: bool = False
    names: Any = field(default_factory=sp.Dict)
    references: tuple[Reference, ...] = ()

    def __post_init__(self) -> None:
        for name, allowed in (("layer", _LAYERS), ("coefs", _COEFS)):
            if getattr(self, name) not in allowed:
                raise InvalidInput(
                    f"{name} = {getattr(self, name)!r} is unknown; pass {' or '.join(map(repr, allowed))}."
                )
        if self.prediction_sign not in (1, -1) or isinstance(self.prediction_sign, bool):
            raise InvalidInput(f"prediction_sign = {self.prediction_sign!r} must be 1 or -1.")
        if not isinstance(self.noisy_target, bool):
            raise InvalidInput(f"noisy_target = {self.noisy_target!r} must be True or False.")
        factor = checks.scalar(self.loss_factor, "loss_factor")
        if not factor.is_positive:
            raise InvalidInput(f"loss_factor = {factor} is not positive; pass 1/2 or 1, say.")
        own = n if self.layer == "linear" else sp.S.One
        divisor = (
            own
            if self.score_divisor is None
            else checks.scalar(self.score_divisor, "score_divisor")
        )
        if not divisor.is_positive or divisor.free_symbols - {d, n}:
            raise InvalidInput(
                f"score_divisor = {divisor} must be positive and contain d and n only, e.g. sqrt(d)."
            )
        if not isinstance(self.names, (Mapping, sp.Dict)) or not all(
            isinstance(x, (sp.Symbol, sp.MatrixSymbol)) for pair in self.names.items() for x in pair
        ):
            raise InvalidInput("names must map our symbols to theirs, e.g. {n: sympy.Symbol('N')}.")
        names = sp.Dict(dict(self.names))
        theirs = list(names.values())
        if len(set(theirs)) < len(theirs):
            raise InvalidInput("names gives one symbol two meanings; use distinct symbols.")
        for name, value in (("loss_factor", factor), ("score_divisor", divisor), ("names", names)):
            object.__setattr__(self, name, value)

    def task(self, dim: Any, noise_var: Any = 0, feature_cov: Any = None) -> LinearRegression:
        """The paper's task here: `LinearRegression` with coefficients N(0, I) or N(0, I/d).

        >>> CONVENTIONS["zhang"].task(dim=3).signal
        3
        """
        coefs = 1 if self.coefs == "isotropic" else None
        return LinearRegression(dim, noise_var, feature_cov=feature_cov, coef_cov=coefs)

    def from_ours(self, formula: Formula, task: LinearRegression = _BASE) -> Formula:
        """A risk formula of this toolkit as the paper's loss, in the paper's variables and names.

        Parameters
        ----------
        formula: risk E (f - theta.x_q)^2, in the canonical symbols d, n, noise_var, k, t, v, b and
            `time`, or in the blocks A, u, v, b; also its minimiser is converted.
        task: the task it was derived for (its dimension, noise and coefficients c I); the default is
            the symbolic base task. A formula for `self.task(...)` keeps its coefficients.

        Errors: `InvalidInput` for coefficients that are no multiple of I, and for a formula in `time`
        when scores or predictions are rescaled (the speeds of the parameters then differ).
        """
        _require_formula(formula)
        scale, factors = self._scales(formula, task)
        value = self.loss_factor * scale
        out = _rescaled(formula, factors)
        expr = out.expr * value
        if self.noisy_target:
            expr += value * task.noise_var * factors.get(task.noise_var, 1)
        out = _renamed(replace(out, expr=expr), self.names)
        return self._described(out, formula, "in the convention of the paper")

    def to_ours(self, formula: Formula, task: LinearRegression = _BASE) -> Formula:
        """The inverse of `from_ours`: the paper's loss formula as a risk of this toolkit.

        >>> N = CONVENTIONS["zhang"].names[n]
        >>> theirs = Formula("loss", d * (d + 1) / (2 * (N + d + 1)))  # identity covariance
        >>> sp.factor(CONVENTIONS["zhang"].to_ours(theirs, LinearRegression(dim=d)).expr)
        (d + 1)/(d + n + 1)
        """
        _require_formula(formula)
        named = _renamed(formula, {theirs: ours for ours, theirs in self.names.items()})
        scale, factors = self._scales(named, task)
        out = _rescaled(named, {symbol: 1 / x for symbol, x in factors.items()})
        expr = out.expr / (self.loss_factor * scale)
        if self.noisy_target:
            expr -= task.noise_var
        return self._described(replace(out, expr=expr), formula, "in the convention used here")

    # -- the scales ------------------------------------------------------------------------------

    def _scales(
        self, formula: Formula, task: LinearRegression
    ) -> tuple[sp.Expr, dict[sp.Symbol, sp.Expr]]:
        """c = (their label variance)/(ours), and the factor of ours over theirs for every symbol."""
        if not isinstance(task, LinearRegression):
            raise InvalidInput(
                "task must be the LinearRegression that the formula was derived for."
            )
        refuse_options(task.scenario)
        coefs = task.coef_cov.reduced()
        if not coefs.is_isotropic:
            raise InvalidInput(
                "the coefficients of this task are no multiple of I, which the convention has; use "
                "convention.task(...)."
            )
        c = sp.cancel((1 if self.coefs == "isotropic" else 1 / task.dim) / coefs.scale)
        own = n if self.layer == "linear" else sp.S.One
        score = (own / self.score_divisor).subs(d, task.dim)
        sign = sp.Integer(self.prediction_sign)
        # In linear attention the scalar v is the whole scale, a factor of Sigma^{-1}.
        scalars = {
            k: score,
            t: score**2,
            v: sign * (score if self.layer == "linear" else 1),
            b: sign,
        }
        if task.noise_var.is_Symbol:
            scalars[task.noise_var] = 1 / c
        if formula.expr.has(time):
            if score != 1 or sign != 1:
                raise InvalidInput(
                    "time is not converted where scores or predictions are rescaled: the parameters "
                    "then move at different speeds."
                )
            # A flow here descends half the risk; labels of variance c make it c times faster.
            scalars[time] = 2 * self.loss_factor * c
        matrices = {
            "A": score,
            "u": score * sp.sqrt(c),
            "v": sign / sp.sqrt(c),
            "G": score * sign,  # the product b A
        }
        used = matrix_symbols(formula.expr) | set(formula.minimizer or ())
        for symbol in used:
            if isinstance(symbol, sp.MatrixSymbol):
                scalars[symbol] = matrices.get(symbol.name, sp.S.One)
        return c, {symbol: x for symbol, x in scalars.items() if x != 1}

    def _described(self, out: Formula, source: Formula, where: str) -> Formula:
        step = Step(
            f"converted from '{source.name}', in its letters", sp.Eq(sp.Symbol("r"), source.expr)
        )
        return replace(
            out,
            name=f"{source.name}, {where}",
            references=(*source.references, *self.references),
            steps=() if matrix_symbols(source.expr) else (step,),
        )


def _require_formula(formula: Any) -> None:
    if not isinstance(formula, Formula):
        raise InvalidInput(
            f"formula has type {type(formula).__name__}; pass an icl.Formula, e.g. "
            f"icl.Formula('loss', expression)."
        )


def _rescaled(formula: Formula, factors: Mapping[Any, Any]) -> Formula:
    """Every symbol replaced by its factor times itself; the best value of a parameter is divided."""
    out = _put(formula, {symbol: x * symbol for symbol, x in factors.items()})
    if out.minimizer is None:
        return out
    best = {p: _times(1 / factors.get(p, sp.S.One), x) for p, x in out.minimizer.items()}
    return replace(out, minimizer=sp.Dict(best))


def _renamed(formula: Formula, names: Mapping[Any, Any]) -> Formula:
    out = _put(formula, names)
    if out.minimizer is None:
        return out
    return replace(out, minimizer=sp.Dict({names.get(p, p): x for p, x in out.minimizer.items()}))


def _put(formula: Formula, table: Mapping[Any, Any]) -> Formula:
    """Symbols replaced at once, in expression, validity, constant matrices and best values."""
    scalars = {s: x for s, x in table.items() if not isinstance(s, sp.MatrixSymbol)}
    matrices = {s: x for s, x in table.items() if isinstance(s, sp.MatrixSymbol)}

    def put(expr: Any) -> Any:
        return expr.subs(scalars, simultaneous=True)

    expr = put(formula.expr)
    if matrices:
        expr = expr.xreplace(matrices).doit()
    best = formula.minimizer
    return replace(
        formula,
        expr=expr,
        validity=sp.S(put(formula.validity)),
        minimizer=None if best is None else sp.Dict({p: put(x) for p, x in best.items()}),
        where=sp.Dict({p: put(x) for p, x in formula.where.items()}),
        abbreviations=sp.Dict(),
    )


def _times(factor: sp.Expr, value: Any) -> Any:
    if isinstance(value, sp.MatrixExpr):
        return product(factor, value)
    return value * factor


CONVENTIONS: dict[str, Convention] = {
    "zhang": Convention(
        layer="linear",
        loss_factor=sp.S.Half,
        coefs="isotropic",
        names={n: sp.Symbol("N", integer=True, positive=True)},
        references=(ZHANG,),
    ),
    "boursier": Convention(
        loss_factor=sp.S.Half,
        coefs="isotropic",
        names={n: sp.Symbol("L", integer=True, positive=True)},
        references=(BOURSIER.at("eq. (7)"),),
    ),
    "boursier_experiments": Convention(
        score_divisor=sp.sqrt(d + 1),
        noisy_target=True,
        names={n: sp.Symbol("L", integer=True, positive=True)},
        references=(BOURSIER.at("the released experiments"),),
    ),
    "he": Convention(
        noisy_target=True,
        names={
            n: sp.Symbol("L", integer=True, positive=True),
            k: sp.Symbol("omega", positive=True),
            v: sp.Symbol("mu", real=True),
        },
        references=(HE,),
    ),
}
"""The conventions of papers, by first author. zhang: linear attention, W_KQ = U (block A) and last
entry of W_PV = b, no label noise. boursier: their theory; boursier_experiments: what they train.
he: their approximate loss, omega and mu being the score and value scales."""


def convention_table() -> list[dict[str, str]]:
    """The conventions as rows of text, one a convention: what differs between the papers.

    >>> [row["name"] for row in convention_table()]
    ['here, softmax', 'here, linear', 'zhang', 'boursier', 'boursier_experiments', 'he']
    >>> convention_table()[2]["loss"], convention_table()[2]["coefficients"]
    ('1/2*E(f - y)^2', 'N(0, I)')
    """
    ours = {f"here, {layer}": Convention(layer=layer) for layer in _LAYERS}
    return [
        {
            "name": name,
            "layer": x.layer,
            "loss": "E(f - y)^2" if x.loss_factor == 1 else f"{x.loss_factor}*E(f - y)^2",
            "coefficients": "N(0, I/d)" if x.coefs == "unit" else "N(0, I)",
            "scores divided by": str(x.score_divisor),
            "prediction": "f" if x.prediction_sign == 1 else "-f",
            "target": "with label noise" if x.noisy_target else "without noise",
            "names": ", ".join(f"{a} = {b}" for a, b in x.names.items()),
            "source": "; ".join(f"arXiv {r.arxiv}" for r in x.references),
        }
        for name, x in (ours | CONVENTIONS).items()
    ]
