"""Given heads: their best values, and the floor of heads that cannot be consistent.

Heads enter the infinite-prompt risk only through sum_h v_h A_h, quadratically, and the loss constant
through the pair kernel of `expansion`, quadratically in the values. So the best values for given
scores solve linear equations, and the best limit of heads that cannot be consistent (`head_floor`,
`rank_floor`) is a least-squares problem. The questions are those of Cui et al. (arXiv 2401.17426);
everything is derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import sympy as sp
from sympy.polys.matrices import DomainMatrix

from icltheory import checks
from icltheory.attention import SoftmaxAttention, on_specifications
from icltheory.constant_algebra import in_t
from icltheory.errors import InvalidInput
from icltheory.formula import CUI, DERIVED_HERE, Formula, Step
from icltheory.limit import consistent_scores, limit_risk
from icltheory.matrices import Square
from icltheory.readable import positive
from icltheory.standard_risk import pair_averages
from icltheory.task import LinearRegression, refuse_options

_EXACT = 4  # heads up to which the best values are written out
_SOURCES = (CUI.at("the question; the statement is derived here"), DERIVED_HERE)


# -- values for given scores -------------------------------------------------------------------------


def optimal_values(task: LinearRegression, score_matrices: Sequence[Any]) -> Formula:
    """The smallest loss constant of heads with given scores, and the values that attain it.

    Parameters
    ----------
    score_matrices: one entry a head, all different: a d x d matrix A_h, or a number k_h meaning
        k_h Sigma^{-1} (then any dimension). Expressions are allowed, e.g. [k, -k].

    The constant is a quadratic form of the values, minimised under sum_h v_h A_h = Sigma^{-1} (one
    equation for scalar heads, sum_h v_h k_h = 1). The minimiser is `minimizer`, with symbols v_1,
    v_2, ... Exact for up to four heads, to 30 digits for more; `numeric.optimal_values` is its
    counterpart on arrays. Errors: `InvalidInput` with the smallest limiting risk if no values are
    consistent; `OutOfDomain` where the constant of a head is infinite. Source: derived here.

    >>> from icltheory.symbols import k, d
    >>> best = optimal_values(LinearRegression(dim=d), [k, -k])
    >>> best.minimizer
    {v_1: 1/(2*k), v_2: -1/(2*k)}
    """
    require_task(task, ("coef_mean",))
    attention = SoftmaxAttention(scores=score_matrices)
    matrices = attention.score_matrices(task)
    for h, other in combinations(range(len(matrices)), 2):
        if (matrices[h] - matrices[other]).is_zero():
            raise InvalidInput(
                f"heads {h} and {other} have the same scores: only the sum of their values matters. "
                f"Give each score once."
            )
    particular, free = _consistent_values(task, attention)
    pairs = pair_averages(task, matrices, range(len(matrices)))
    entries = {pair: in_t(average.normaliser * average.bracket) for pair, average in pairs.items()}
    size = len(matrices)
    gram = sp.Matrix(size, size, lambda h, m: entries[min(h, m), max(h, m)])
    evaluated = not gram.free_symbols and (size > _EXACT or _from_floats(attention))
    if size > _EXACT and not evaluated:
        raise InvalidInput(
            f"{size} heads with symbols have no solution of readable size; put numbers in, or give at "
            f"most {_EXACT} heads."
        )
    solve = _evaluated_minimum if evaluated else _exact_minimum
    constant, *values = solve(gram, particular, free)
    variables = sp.symbols(f"v_1:{len(values) + 1}", real=True)
    finite = [average.finite for (h, other), average in pairs.items() if h == other]
    return Formula(
        f"smallest loss constant of {attention.description} with given scores",
        positive(in_t(constant)),
        validity=in_t(sp.And(task.validity, *finite)),
        references=_SOURCES,
        steps=tuple(
            Step(f"value of head {h + 1}", sp.Eq(variable, value, evaluate=False))
            for h, (variable, value) in enumerate(zip(variables, values, strict=True))
        ),
        minimizer=sp.Dict(dict(zip(variables, values, strict=True))),
        attained=True,
    )


def _consistent_values(
    task: LinearRegression, attention: SoftmaxAttention
) -> tuple[sp.Matrix, sp.Matrix]:
    """A solution (H, 1) of sum_h v_h A_h = Sigma^{-1}, and a basis (H, m) of the free directions."""
    target, heads = consistent_scores(task), attention.heads
    columns = [_entries(a, target) for a in attention.score_matrices(task)]
    right = _entries(target, target)
    system = [[column[i] for column in columns] + [right[i]] for i in range(len(right))]
    reduced, pivots = _field(system).rref()
    if heads in pivots:
        floor = head_floor(task, attention)
        raise InvalidInput(
            f"no values make these heads consistent: Sigma^{{-1}} is no combination of the score "
            f"matrices, so the risk tends to at least {sp.N(floor.expr, 6)} (icl.head_floor) and no "
            f"1/n constant exists. Change the scores; if only their rounding is at fault, use "
            f"numeric.optimal_values."
        )
    table = reduced.to_Matrix()
    particular, basis = sp.zeros(heads, 1), []
    for row, h in enumerate(pivots):
        particular[h] = table[row, heads]
    for h in (h for h in range(heads) if h not in pivots):
        direction = sp.zeros(heads, 1)
        direction[h] = 1
        for row, pivot in enumerate(pivots):
            direction[pivot] = -table[row, h]
        basis.append(direction)
    return particular, sp.Matrix.hstack(*basis) if basis else sp.zeros(heads, 0)


def _exact_minimum(gram: sp.Matrix, particular: sp.Matrix, free: sp.Matrix) -> list[sp.Expr]:
    """Minimum of v'K v over v in particular + span(free), and the minimiser, as expressions."""
    dummies = {x: sp.Dummy("K") for x in gram if not x.is_Rational}
    table = gram.applyfunc(lambda x: dummies.get(x, x))
    best = particular
    if free.cols:
        # One field for all entries: what is equal cancels.
        left, right = _field((free.T * table * free).tolist()).unify(
            _field((-free.T * table * particular).tolist()), fmt="dense"
        )
        best = particular + free * left.lu_solve(right).to_Matrix()
    # The slope vanishes along the free directions, so one factor may be any consistent values.
    found = [sp.factor(sp.cancel(x)) for x in ((particular.T * table * best)[0], *best)]
    back = {dummy: x for x, dummy in dummies.items()}
    return [x.xreplace(back) for x in found]


def _evaluated_minimum(gram: sp.Matrix, particular: sp.Matrix, free: sp.Matrix) -> list[sp.Expr]:
    """The same to 30 digits, at a working precision that no longer matters."""
    digits, last = 60, None
    while True:
        table, start = gram.evalf(digits), particular.evalf(digits)
        best = start
        if free.cols:
            basis = free.evalf(digits)
            best = start + basis * (basis.T * table * basis).LUsolve(-basis.T * table * start)
        found = [(start.T * table * best)[0], *best]
        if last is not None and all(
            abs(x - y) <= abs(x) * sp.Float(10) ** -31 for x, y in zip(found, last, strict=True)
        ):
            return [x.evalf(30) for x in found]
        digits, last = 2 * digits, found


def _entries(matrix: Square, like: Square) -> list[sp.Expr]:
    """All entries, or the factor alone where every matrix is a multiple of the identity."""
    if matrix.is_isotropic and like.is_isotropic and not matrix.dim.is_Integer:
        return [matrix.scale]
    return list(matrix.to_matrix())


def _field(rows: Any) -> DomainMatrix:
    return DomainMatrix.from_Matrix(sp.Matrix(rows), extension=True).to_field()


def _from_floats(attention: SoftmaxAttention) -> bool:
    return any(x.q >= 10**12 for x in sp.Tuple(*(attention.scores or ())).atoms(sp.Rational))


def require_task(task: Any, supported: Sequence[str] = ()) -> None:
    """`InvalidInput` for what is no task, or has an option that is not supported."""
    if not isinstance(task, LinearRegression):
        raise InvalidInput(
            f"task has type {type(task).__name__}; pass icl.LinearRegression(dim=5)."
        )
    refuse_options(task.scenario, supported)


# -- floors ------------------------------------------------------------------------------------------


@on_specifications(supports=("coef_mean",))
def head_floor(task: LinearRegression, attention: SoftmaxAttention) -> Formula:
    """The risk that remains at infinite prompt length, at the given or the best values.

    `attention` carries scores. With values it is their limiting risk. Without, the smallest over
    all values, a least-squares problem; `minimizer` has one solution (v_1, v_2, ...; free values
    are 0). It is 0 iff the scores can be consistent; otherwise no 1/n constant exists, and more
    examples do not help. Scores that are matrices c I have the floor of heads that must not see the
    covariance of the features. Source: derived here.

    >>> task = LinearRegression(dim=3, feature_cov=[2, 1, 0.5])
    >>> floor = head_floor(task, SoftmaxAttention(scores=[sp.eye(3)]))
    >>> floor.expr, floor.minimizer
    (35/219, {v_1: 42/73})
    """
    if not isinstance(attention, SoftmaxAttention) or attention.scores is None:
        raise InvalidInput(
            "head_floor needs softmax heads with scores; heads with free scores are consistent for "
            "some, and have no floor (see icl.rank_floor for heads of limited rank)."
        )
    if attention.values is not None:
        limit = limit_risk(task, attention)
        return Formula(
            "floor of the risk at the given values",
            limit.expr,
            validity=limit.validity,
            references=_SOURCES,
            steps=(
                *limit.steps,
                Step(
                    "risk r_oo that more examples do not lower",
                    sp.Eq(sp.Symbol("r_oo"), limit.expr),
                ),
            ),
        )
    sigma, moment = task.feature_cov, task.coef_moment
    outputs = [sigma @ a.T for a in attention.score_matrices(task)]
    # tr(M E Sigma E') with E = sum_h v_h Sigma A_h' - I, a quadratic function of the values.
    form = [[(moment @ a @ sigma @ b.T).trace() for b in outputs] for a in outputs]
    slope = [(moment @ a @ sigma).trace() for a in outputs]
    system = [[*row, s] for row, s in zip(form, slope, strict=True)]
    reduced, pivots = _field(system).rref()
    table, heads = reduced.to_Matrix(), attention.heads
    values = [sp.S.Zero] * heads
    for row, h in enumerate(pivots):
        values[h] = table[row, heads]
    floor = task.signal - sp.Add(*(s * v for s, v in zip(slope, values, strict=True)))
    floor = sp.factor(sp.cancel(floor))
    variables = sp.symbols(f"v_1:{heads + 1}", real=True)
    return Formula(
        "floor of the risk over all values",
        floor,
        validity=task.validity,
        references=_SOURCES,
        steps=tuple(
            Step(f"value of head {h + 1}", sp.Eq(variable, value, evaluate=False))
            for h, (variable, value) in enumerate(zip(variables, values, strict=True))
        ),
        minimizer=sp.Dict(dict(zip(variables, values, strict=True))),
        attained=True,
    )


def rank_floor(task: LinearRegression, rank: Any) -> Formula:
    """The smallest limiting risk of heads whose ranks add up to at most `rank`, however many.

    sum_h v_h A_h then has at most this rank, and the best approximation of the identity leaves the
    d - rank smallest eigenvalues of Sigma^{1/2} M Sigma^{1/2} (Eckart and Young): 1 - rank/d for
    Sigma = I, M = I/d. An embedding of width p, split over the heads, has rank = p. Zero for
    rank >= d. Symbols are allowed where Sigma and M are multiples of the identity. Errors:
    `InvalidInput`. Source: derived here.

    >>> from icltheory.symbols import d
    >>> p = sp.Symbol("p", integer=True, positive=True)
    >>> rank_floor(LinearRegression(dim=d), p).expr, rank_floor(LinearRegression(dim=6), 4).expr
    (1 - p/d, 1/3)
    """
    require_task(task, ("coef_mean",))
    rank = checks.positive_integer(rank, "rank", "rank=4")
    spectrum = task.feature_cov @ task.coef_moment
    validity = sp.And(task.validity, sp.Le(rank, task.dim))
    if validity == sp.false:
        floor, validity = sp.S.Zero, task.validity
    elif task.is_isotropic:
        floor = sp.expand(spectrum.scale * (task.dim - rank))
    else:
        if spectrum.free_symbols() or not rank.is_Integer:
            raise InvalidInput(
                "the eigenvalues of Sigma M can be ordered only for numbers; put numbers into the "
                "task and the rank."
            )
        poly = spectrum.to_matrix().charpoly()
        if poly.domain.is_QQ or poly.domain.is_ZZ:
            roots = poly.real_roots()
        else:  # irrational entries: the spectrum is real, and known to 30 digits
            roots = sorted(sp.re(root) for root in poly.nroots(n=30, maxsteps=200))
        floor = sp.Add(*roots[: int(task.dim - rank)])
    return Formula(
        "floor of the risk at limited rank",
        floor,
        validity=validity,
        references=_SOURCES,
        steps=(
            Step(
                "eigenvalues left out of Sigma^{1/2} M Sigma^{1/2}, M = E theta theta', risk r_oo",
                sp.Eq(sp.Symbol("r_oo"), floor, evaluate=False),
            ),
        ),
        attained=True,
    )
