"""What a trained layer of linear self-attention with a chain of thought does: weights and risks.

With value block P, key-query blocks R and rho the layer appends w_{s+1} = w_s + P (S R w_s + rho b),
S = X'X/n, b = X'y/n. Only P rho and -P R matter (the rest is a choice of scale); gradient descent
with step eta has both equal to eta I. Training without chain is least squares of w* on b; with a
teacher or on the outcome it is least squares as well, in the moments of S. Risks are E |w - w*|^2
over coefficients of the task's covariance, no factor 1/2. Source: derived here; see Zhang, Frei and
Bartlett, arXiv 2306.09927. Exported: `trained_weights`, `trained_risk`, `one_step_risk`,
`teacher_weights`, `outcome_risk`.
"""

from __future__ import annotations

from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.contraction import contraction_moment
from icltheory.errors import InvalidInput
from icltheory.finite_prompt import example_variance
from icltheory.formula import CHEN, DERIVED_HERE, Formula, Step
from icltheory.matrices import Square
from icltheory.solver_steps import number_of_steps
from icltheory.symbols import d as dim_symbol
from icltheory.symbols import eta, readout_scale
from icltheory.symbols import n as length_symbol
from icltheory.task import LinearRegression, refuse_options

_SOURCES = (CHEN.at("the layer; the statement is derived here"), DERIVED_HERE)


def trained_weights(task: LinearRegression, prompt_length: Any = length_symbol) -> Formula:
    """P rho of the layer trained without chain (one step from w_0 = 0); R is not determined.

    A scalar for isotropic tasks (the step size, P rho = step I), otherwise a d x d matrix:
    (Gamma + noise_var/n I)^{-1}, Gamma = (1 + 1/n) Sigma + tr(Sigma)/n I, for coefficients N(0, I).

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.symbols import d, label_noise_var
    >>> sp.factor(trained_weights(LinearRegression(d, label_noise_var, coef_cov=1)).expr)
    n/(d + label_noise_var + n + 1)
    """
    cross, square = _moments(task, prompt_length)
    best = cross @ square.inverse()
    return Formula(
        "trained weights of the layer",
        _shown(best),
        task.validity,
        _SOURCES,
        steps=_moment_steps(cross, square),
    )


def trained_risk(task: LinearRegression, prompt_length: Any = length_symbol) -> Formula:
    """E |w_1 - w*|^2 of the layer trained without chain; for coefficients N(0, I) d times that a coordinate.

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.symbols import d, noise_var
    >>> sp.factor(trained_risk(LinearRegression(d, noise_var)).expr)
    (d*noise_var + d + 1)/(d*noise_var + d + n + 1)
    """
    cross, square = _moments(task, prompt_length)
    left = task.coef_cov.trace() - (cross @ square.inverse() @ cross.T).trace()
    return Formula(
        "risk of the trained layer",
        sp.factor(left),
        task.validity,
        _SOURCES,
        _moment_steps(cross, square),
    )


def _moment_steps(cross: Square, square: Square) -> tuple[Step, ...]:
    return Step("E b b'", _shown(square)), Step("E w* b'", _shown(cross))


def one_step_risk(
    task: LinearRegression,
    weights: Any,
    prompt_length: Any = length_symbol,
    *,
    of: str = "weights",
) -> Formula:
    """Risk of w_1 = weights b for any matrix `weights` = P rho, exact: needs no training length.

    of: "weights" (E |w_1 - w*|^2) or "prediction" (E (x.w_1 - x.w*)^2 for a fresh x of the task).
    `weights`: a number or symbol for a multiple of I, or a d x d matrix.

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.symbols import d, eta
    >>> one_step_risk(LinearRegression(d, coef_cov=1), eta).expr
    d*(d*eta**2 + eta**2*n + eta**2 - 2*eta*n + n)/n
    """
    cross, square = _moments(task, prompt_length)
    matrix = Square.coerce(weights, task.dim, "weights")
    error = task.coef_cov - matrix @ cross.T - cross @ matrix.T + matrix @ square @ matrix.T
    if of == "prediction":
        error = task.feature_cov @ error
    elif of != "weights":
        raise InvalidInput(f"of = {of!r}; pass 'weights' or 'prediction'.")
    return Formula(
        f"one-step risk of the {of}",
        sp.factor(error.trace()),
        task.validity,
        _SOURCES,
        _moment_steps(cross, square),
    )


def teacher_weights(
    task: LinearRegression, step_size: Any = eta, prompt_length: Any = length_symbol
) -> Formula:
    """-P of the layer (R = I, rho = -1) trained on the chain w_i = (1 - (1 - step_size)^i) w*.

    The residual of step i is (1 - step_size)^i (step_size w* + P S w*): least squares of
    step_size w* on S w*, the same at every step and for any number of steps. Without label noise.

    Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.symbols import d
    >>> teacher_weights(LinearRegression(d, coef_cov=1)).expr
    eta*n/(d + n + 1)
    """
    _require_task(task)
    if task.noise_var != 0:
        raise InvalidInput("the teacher's chain is for prompts without label noise; noise_var=0.")
    step = checks.positive(step_size, "step_size", "0.5")
    base = trained_weights(task, prompt_length)
    expr = base.expr * step
    if isinstance(expr, sp.Expr) and not expr.is_Matrix:
        expr = sp.factor(expr)
    return Formula(
        "weights from a chain towards w*", expr, task.validity, _SOURCES, steps=base.steps
    )


def outcome_risk(
    steps: int,
    n: Any = length_symbol,
    d: Any = dim_symbol,
    step_size: Any = None,
    *,
    scale: str = "free",
) -> Formula:
    """E |w_k - w*|^2/d after k = `steps` free-running steps, P and R multiples of I, Sigma = I, no noise.

    Parameters
    ----------
    step_size: -P R = step_size I; `None` minimises over it, at numbers n, d (`minimizer`).
    scale: "free": w_k is multiplied by the best `readout_scale` u (R = I/u), with risk 1/(1 + snr_k);
        "fixed": R = I, rho = -1, with risk beta_2k.

    Full matrices P, R may do better for k >= 2. E w* w*' = I.

    Errors: `InvalidInput`. Source: derived here.

    >>> outcome_risk(1).expr
    (d + 1)/(d + n + 1)
    >>> outcome_risk(2, 16, 4).evalf(10), outcome_risk(2, 16, 4, scale="fixed").evalf(10)
    (0.07886017230, 0.1071644344)
    """
    count = number_of_steps(steps)
    if not count.is_Integer or count == 0:
        raise InvalidInput(
            f"steps = {steps} is not an integer of at least 1; pass for example steps=2."
        )
    if scale not in ("free", "fixed"):
        raise InvalidInput(f"scale = {scale!r}; pass 'free' or 'fixed'.")
    step = eta if step_size is None else checks.positive(step_size, "step_size", "0.5")
    mean, square = (contraction_moment(j * int(count), n, d, step).expr for j in (1, 2))
    # E |w* - u (I - A) w*|^2/d with A = (I - eta S)^k.
    risk = 1 - 2 * readout_scale * (1 - mean) + readout_scale**2 * (1 - 2 * mean + square)
    factor = sp.S.One
    if scale == "free":
        square_part, linear_part, _ = sp.Poly(risk, readout_scale).all_coeffs()
        factor = sp.cancel(-linear_part / (2 * square_part))  # negative where the chain overshoots
    value = sp.factor(sp.cancel(risk.subs(readout_scale, factor)))
    best: dict[Any, Any] = {readout_scale: factor}
    named: dict[Any, Any] = {}
    if step_size is None:
        root = _best_step(value)
        best = {eta: root, readout_scale: factor.subs(eta, root)}
        value = value.subs(eta, root)
        if root.has(sp.CRootOf):
            named = {eta: root}
    return Formula(
        f"risk after {checks.counted(count, 'step')} trained on the outcome",
        value,
        references=_SOURCES,
        steps=(
            Step("risk R at the factor of the answer", sp.Eq(sp.Symbol("R"), risk, evaluate=False)),
        ),
        minimizer=sp.Dict(best),
        attained=True,
        abbreviations=sp.Dict(named),
    )


def _best_step(risk: sp.Expr) -> sp.Expr:
    """The positive step with the least risk; 1 where the risk does not depend on it."""
    if not risk.has(eta):
        return sp.S.One
    slope = sp.Poly(sp.numer(sp.together(sp.diff(risk, eta))), eta)
    if slope.degree() == 1:
        return sp.factor(sp.solve(slope.as_expr(), eta)[0])
    if risk.free_symbols != {eta}:
        raise InvalidInput(
            "the best step of several steps is the root of a polynomial: pass numbers for n and d, "
            "or a step_size."
        )
    roots = [root for root in set(slope.real_roots()) if root > 0]
    return min(roots, key=lambda root: risk.subs(eta, root).evalf(15))


def _moments(task: LinearRegression, prompt_length: Any) -> tuple[Square, Square]:
    """E w* b' and E b b' of b = X'y/n."""
    _require_task(task)
    refuse_options(task.scenario)
    length = checks.positive_integer(prompt_length, "prompt_length", "prompt_length=20")
    cross = task.coef_cov @ task.feature_cov
    return cross, task.feature_cov @ cross + example_variance(task) * (1 / length)


def _require_task(task: Any) -> None:
    if not isinstance(task, LinearRegression):
        raise InvalidInput(
            f"task has type {type(task).__name__}; pass icl.LinearRegression(dim=5, coef_cov=1)."
        )


def _shown(matrix: Square) -> Any:
    reduced = matrix.reduced()
    return sp.factor(reduced.scale) if reduced.is_isotropic else matrix.to_matrix()
