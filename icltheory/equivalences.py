"""Which steps of one solver equal, or imitate, which steps of another, and how fast averages fall.

Newton squares the residual, so that from beta I it *is* gradient descent at 2^k steps. From alpha S
it is descent on the squared problem; late residuals exp(-c N lam^p) with different p match only at
one place of the spectrum, and the map depends on the criterion. Averages over Gaussian prompts are
carried by small eigenvalues, whose density is lam^((nu - 1)/2) with nu = |n - d|. Source: derived
here. Exported: `equivalent_descent`, `matched_steps`, `matching_constant`,
`cosine_constant`, `edge_cosine`, `late_decay`, `frobenius_cost`, `frobenius_cost_limit`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from icltheory import checks, filters
from icltheory.errors import InvalidInput
from icltheory.formula import DERIVED_HERE, FU, Formula, Step
from icltheory.late_residuals import late_exponent
from icltheory.laws.special import tricomi
from icltheory.laws.spectra import MARCHENKO_PASTUR, limit_trace_moment
from icltheory.readable import joined
from icltheory.solvers import (
    GradientDescent,
    MatrixIteration,
    RidgeNewton,
)
from icltheory.spectral import Solver
from icltheory.symbols import d, frobenius, lam, lam_max, ratio
from icltheory.symbols import nu as NU
from icltheory.symbols import steps as STEPS

_CRITERIA = ("half", "risk", "cosine")
_SOURCES = (FU.at("the comparison; the maps are derived here"), DERIVED_HERE)


@dataclass(frozen=True)
class DescentEquivalent:
    """Gradient descent whose iterates are those of a matrix iteration, from w_0 = 0.

    solver, steps: the descent. gram_power: the power p of S it runs on, w <- w - eta S^(p-1) (S w -
    X'y): 1 is the original problem, 2 is descent on |S w - X'y|^2 / 2.
    """

    solver: GradientDescent
    steps: sp.Expr
    gram_power: int


def equivalent_descent(solver: MatrixIteration, steps: Any = STEPS) -> DescentEquivalent:
    """The gradient descent that a matrix iteration equals exactly after `steps` steps.

    Source: derived here; the comparison is that of arXiv 2310.17086.

    >>> from icltheory.solvers import IterativeNewton
    >>> equivalent_descent(IterativeNewton(0.1, start="I"), 5)
    DescentEquivalent(solver=GradientDescent(step_size=1/10), steps=32, gram_power=1)
    >>> equivalent_descent(IterativeNewton(0.1))
    DescentEquivalent(solver=GradientDescent(step_size=1/10), steps=2**steps, gram_power=2)
    """
    if not isinstance(solver, MatrixIteration) or isinstance(solver, RidgeNewton):
        raise InvalidInput(
            f"got {solver!r}; pass icl.IterativeNewton(...) or icl.HyperPower(...), which are "
            f"gradient descent in disguise."
        )
    scale, power = filters.late_residual(solver.contraction)
    descent = GradientDescent(scale)
    if sp.expand(descent.contraction.subs(lam, lam**power) - solver.contraction) != 0:
        raise AssertionError(f"{solver!r} is no descent on a power of S")
    return DescentEquivalent(descent, solver.power(steps), power)


# -- averages over prompts -----------------------------------------------------------------------


def late_decay(solver: Solver, nu: Any = NU, steps: Any = STEPS) -> Formula:
    """How the risk, averaged over Gaussian prompts, falls with the number of steps, up to a constant.

    A power of the number of first-order steps, and geometric in matrix iterations: never
    superlinear, although on each prompt the largest residual of Newton is squared by every step.

    solver: gradient descent or flow, momentum with constant parameters, or a matrix iteration.
    nu = |n - d|. Valid late, while typical smallest eigenvalues are resolved; stable prompts.
    Source: derived here; the comparison is that of arXiv 2310.17086.

    >>> from icltheory.solvers import IterativeNewton
    >>> late_decay(GradientDescent(0.01)).expr, late_decay(IterativeNewton(0.01), nu=0).expr
    (steps**(-nu/2 - 1/2), 2**(-steps/4))
    """
    nu = _nu(nu)
    _, power, reached = late_exponent(solver, steps)
    base, exponent = reached.as_base_exp()
    expr = base ** sp.expand(-exponent * (nu + 1) / (2 * power))
    return Formula(
        f"decay of the mean risk of {solver.description}",
        expr,
        references=_SOURCES,
        steps=(
            Step("exponent N of lam that the steps reach", sp.Eq(sp.Symbol("N"), reached)),
            Step("density lam^a at the edge of the spectrum", sp.Eq(sp.Symbol("a"), (nu - 1) / 2)),
        ),
    )


# -- matched steps -------------------------------------------------------------------------------


def matched_steps(
    solver: Solver,
    other: Solver,
    criterion: str = "half",
    *,
    steps: Any = STEPS,
    nu: Any = NU,
) -> Formula:
    """The number of steps of `other` that corresponds, late, to `steps` steps of `solver`.

    Parameters
    ----------
    solver, other: gradient descent or flow, momentum with constant parameters, or Newton and
        hyperpower iterations.
    criterion: "half": both residuals are 1/2 at the same eigenvalue. "risk": equal late risk over
        Gaussian prompts. "cosine": residuals of largest cosine at the edge of the spectrum; needs an
        integer nu.
    nu: |n - d|; it does not enter "half".

    Late means that residuals are exp(-c N lam^p), over eigenvalues that are resolved one after the
    other. Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.solvers import IterativeNewton
    >>> alpha, eta = sp.symbols("alpha eta", positive=True)
    >>> matched_steps(IterativeNewton(alpha), GradientDescent(eta)).expr
    2**(steps/2)*sqrt(alpha)*sqrt(log(2))/eta
    >>> matched_steps(IterativeNewton(alpha, start="I"), GradientDescent(alpha)).expr
    2**steps
    """
    first, first_power, reached = late_exponent(solver, steps)
    second, second_power, target = late_exponent(other, STEPS)
    constant = _constant(criterion, first_power, second_power, nu)
    relation = sp.Rational(second_power, first_power)
    needed = sp.powdenest(constant * (first * reached) ** relation / second)
    expr = _inverse(target, needed)
    return Formula(
        f"steps of {other.description} like {solver.description}, criterion {criterion}",
        expr,
        references=_SOURCES,
        steps=(
            Step(
                "late residual r_1",
                sp.Eq(sp.Symbol("r_1"), sp.exp(-first * reached * lam**first_power)),
            ),
            Step(
                "late residual r_2 of the other, at as many steps",
                sp.Eq(sp.Symbol("r_2"), sp.exp(-second * target * lam**second_power)),
            ),
            Step("constant C of the criterion", sp.Eq(sp.Symbol("C"), constant)),
        ),
    )


def matching_constant(criterion: str = "half", nu: Any = NU) -> Formula:
    """C of t = C sqrt(alpha 2^k)/eta: descent at t steps like Newton from alpha S at k steps.

    criterion: "half" (equal where half is left) and "risk" (equal late risk) are closed forms in
    nu = |n - d|; "cosine" needs an integer nu and is the root of an equation (`cosine_constant`), as
    a number of 15 digits.
    Source: derived here; the comparison is that of arXiv 2310.17086.

    >>> matching_constant("half").expr, matching_constant("risk", nu=3).expr
    (sqrt(log(2)), 1)
    """
    return Formula(
        f"constant of matched steps, criterion {criterion}",
        _constant(criterion, 2, 1, nu),
        references=_SOURCES,
        steps=(_criterion_step(criterion, nu),),
    )


def edge_cosine(nu: Any = NU) -> Formula:
    """Cosine of exp(-x u) and exp(-u^2) with weight u^((nu - 1)/2): late descent against Newton.

    A Formula in `ratio`, x = eta t/sqrt(alpha 2^k), and nu = |n - d|.
    Source: derived here; the comparison is that of arXiv 2310.17086.

    >>> round(float(edge_cosine(0).subs(ratio=1.10716).expr), 5)
    0.99083
    """
    half = (_nu(nu) + 1) / 2
    norms = _edge_mass(half, sp.Integer(2), 2) * _edge_mass(half, 2 * ratio, 1)
    return Formula(
        "cosine of late residuals, gradient descent against Newton",
        joined(sp.expand_power_base(_overlap(half) / sp.sqrt(norms))),
        references=_SOURCES,
        steps=(
            Step(
                "overlap J, mean of exp(-ratio u - u^2) with weight u^((nu - 1)/2)",
                sp.Eq(sp.Symbol("J"), _overlap(half)),
            ),
            Step("product P of the squared norms", sp.Eq(sp.Symbol("P"), norms)),
        ),
    )


def cosine_constant(nu: Any, digits: int = 15) -> sp.Float:
    """The x that maximises `edge_cosine(nu)`, with `digits` proven digits; nu an integer >= 0.

    Source: derived here; the comparison is that of arXiv 2310.17086.

    >>> cosine_constant(0, 8)
    1.1071634
    """
    nu = _nu(nu)
    if not nu.is_Integer or isinstance(digits, bool) or not isinstance(digits, int) or digits < 1:
        raise InvalidInput(f"nu = {nu}, digits = {digits}: pass integers, such as nu=0, digits=15.")
    half = (nu + 1) / 2
    # d/dx log(x^(half/2) J_half(x)) = 0, and J' = -J one higher.
    slope = half - 2 * ratio * _overlap(half + 1) / _overlap(half)
    guess = sp.Rational(5, 3) * _constant("risk", 2, 1, nu)
    working = digits + 10 + int(nu)  # the two parts of J cancel
    root = sp.nsolve(slope, ratio, guess.evalf(), prec=working)
    width = sp.Float(10, working) ** -digits
    ends = [slope.subs(ratio, root * (1 + sign * width)).evalf(working) for sign in (-1, 1)]
    if not ends[0] > 0 > ends[1]:
        raise AssertionError(f"no sign change around {root}")
    return sp.Float(root, digits)


# -- the scale of Newton by a norm ---------------------------------------------------------------


def frobenius_cost() -> Formula:
    """Additional Newton steps for alpha = 1/||S^2||_F against 1/lam_max^2; at most log2(rank)/2.

    lam_max^2 <= ||S^2||_F <= sqrt(rank) lam_max^2, with equality on the left iff the rank is 1: so
    alpha = c/||S^2||_F is stable on every prompt for c < 2, and at c = 2 for rank 2 and more.
    Source: derived here; the comparison is that of arXiv 2310.17086.

    >>> frobenius_cost().expr
    log(frobenius/lam_max**2)/log(2)
    """
    expr = sp.log(frobenius / lam_max**2) / sp.log(2)
    return Formula(
        "additional Newton steps of the Frobenius rule",
        expr,
        validity=sp.Ge(frobenius, lam_max**2),
        references=_SOURCES,
        steps=(
            Step(
                "powers to an accuracy go with 1/alpha, additional steps k",
                sp.Eq(sp.Symbol("k"), expr),
            ),
        ),
    )


def frobenius_cost_limit() -> Formula:
    """||S^2||_F/lam_max^2 for n and d -> infinity with d/n -> gamma: it grows like sqrt(d).

    Source: derived here; the comparison is that of arXiv 2310.17086.

    >>> frobenius_cost_limit().expr
    sqrt(d)*sqrt(gamma**3 + 6*gamma**2 + 6*gamma + 1)/(sqrt(gamma) + 1)**4
    """
    gamma = sp.Symbol("gamma", positive=True)
    expr = sp.sqrt(d * limit_trace_moment(4, gamma)) / (1 + sp.sqrt(gamma)) ** 4
    return Formula(
        "Frobenius norm of S^2 over its largest eigenvalue",
        expr,
        references=(MARCHENKO_PASTUR, DERIVED_HERE),
        steps=(Step("fourth moment m_4", sp.Eq(sp.Symbol("m_4"), limit_trace_moment(4, gamma))),),
    )


# -- the mechanism -------------------------------------------------------------------------------


def _nu(value: Any) -> sp.Expr:
    nu = checks.scalar(value, "nu")
    if nu.is_negative or (nu.is_number and not nu.is_Integer):
        raise InvalidInput(f"nu = {value}: |n - d| is an integer >= 0.")
    return nu


def _inverse(target: sp.Expr, needed: sp.Expr) -> sp.Expr:
    """The number of steps at which N(steps) is `needed`: N is the number itself, or order^steps."""
    if target.is_Symbol:
        return needed
    return sp.expand_log(sp.log(needed) / sp.log(target.as_base_exp()[0]))


def _edge_mass(half: sp.Expr, rate: sp.Expr, power: Any) -> sp.Expr:
    """The integral of u^(half - 1) exp(-rate u^power) over u > 0."""
    return sp.gamma(half / power) / (power * rate ** (half / power))


def _overlap(half: sp.Expr) -> sp.Expr:
    """J(x), the integral of u^(half - 1) exp(-x u - u^2).

    By parts 2 J'' = half J + x J', Kummer's equation in x^2/4 with a = half/2 and b = 1/2; J is the
    solution that falls, a multiple of U. The values at x = 0, for U sqrt(pi)/Gamma(a + 1/2), say which.
    """
    start = sp.sqrt(sp.pi) / sp.gamma((half + 1) / 2)
    mass = _edge_mass(half, sp.S.One, 2)
    return mass / start * tricomi(half / 2, sp.S.Half, ratio**2 / 4)


def _criterion_step(criterion: str, nu: Any) -> Step:
    if criterion == "half":
        return Step(
            "residual r of both solvers at one eigenvalue", sp.Eq(sp.Symbol("r"), sp.S.Half)
        )
    if criterion == "cosine":
        return Step("cosine c, largest at the root", sp.Eq(sp.Symbol("c"), edge_cosine(nu).expr))
    mass = _edge_mass((_nu(nu) + 1) / 2, sp.Integer(2), 2)
    return Step(
        "late risk m of Newton, of exp(-u^2) with weight u^((nu - 1)/2)",
        sp.Eq(sp.Symbol("m"), mass),
    )


def _constant(criterion: str, first: int, second: int, nu: Any) -> sp.Expr:
    """C of c_2 N_2 = C (c_1 N_1)^(second/first), for late residuals exp(-c N lam^power)."""
    if criterion not in _CRITERIA:
        raise InvalidInput(
            f"criterion = {criterion!r} is unknown; pass 'half', 'risk' or 'cosine'."
        )
    if first == second:
        return sp.S.One
    relation = sp.Rational(second, first)
    if criterion == "half":  # both exponents are log 2 at one eigenvalue
        return sp.log(2) ** (1 - relation)
    if criterion == "cosine":
        if (first, second) != (2, 1):
            raise InvalidInput(
                "the cosine criterion is for gradient descent like Newton from alpha S; exchange "
                "the solvers, or use 'half' or 'risk'."
            )
        return cosine_constant(nu)
    # Equal edge masses with the squared residuals' rates 2 c N: solved for the second rate.
    # mass(2 C, second) = mass(2, first) and mass(x, p) = mass(1, p) x^(-half/p).
    half = (_nu(nu) + 1) / 2
    masses = _edge_mass(half, sp.S.One, second) / _edge_mass(half, sp.Integer(2), first)
    return sp.powsimp(masses ** (second / half)) / 2
