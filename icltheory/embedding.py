"""Heads of limited width: heads on blocks of coordinates, and the width that they need.

Head h has rank r_h: its scores see a block of coordinates. With A_h = (k/e_h) P_h Sigma^{-1} and
v_h = e_h/k, P_h projectors on blocks of dimensions d_h that fill the space, the heads are consistent
for any numbers e_h ("signs"). Different blocks do not interact, so that the constant is

    V = sum_h v_h^2 (F_hh - F_0) + (sum_h v_h)^2 F_0,

F_hh the pair kernel of a block with itself and F_0 that of two blocks. Only sums over heads occur:
dimensions and the number of blocks may be symbols. The question is that of Cui et al.
(arXiv 2401.17426); everything is derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sympy as sp

from icltheory import checks
from icltheory.attention import SoftmaxAttention
from icltheory.constant_algebra import in_t, positive_denominator
from icltheory.direct_sum import DirectSum
from icltheory.errors import InvalidInput
from icltheory.expansion import influence_kernel, query_average
from icltheory.formula import CUI, DERIVED_HERE, Formula, Step
from icltheory.heads import rank_floor, require_task
from icltheory.lower_bounds import lower_bound
from icltheory.risk import optimal_loss_constant
from icltheory.symbols import k, t, y
from icltheory.task import LinearRegression

_SOURCES = (CUI.at("the question; the closed form is derived here"), DERIVED_HERE)


# -- block heads -------------------------------------------------------------------------------------


def block_heads(dims: Sequence[int], signs: Sequence[Any] | None = None) -> SoftmaxAttention:
    """Heads on blocks of coordinates, A_h = (k/e_h) P_h and v_h = e_h/k, in the symbol k.

    Parameters
    ----------
    dims: dimensions d_h of the blocks, integers; they add up to the dimension of the task.
    signs: e_h, one nonzero number a block; `None` is all +1.

    Consistent for tasks with Sigma = I. Matrices for a simulated or trained layer, and for
    `head_constant`; `block_constant` takes symbolic dimensions.
    Source: arXiv 2401.17426 (the question); derived here.

    >>> from icltheory.risk import loss_constant
    >>> heads = block_heads([1, 1], [1, -1])
    >>> heads.scores[1], heads.values
    (Matrix([
    [0,  0],
    [0, -k]]), (1/k, -1/k))
    """
    sizes, numbers = _blocks(dims, signs)
    for size in sizes:
        if not size.is_Integer:
            raise InvalidInput(
                f"the block dimension {size} is a symbol, so the heads have no matrices; use "
                f"icl.block_constant, which takes symbols."
            )
    total, start, scores = int(sp.Add(*sizes)), 0, []
    for size, number in zip(sizes, numbers, strict=True):
        inside = range(start, start := start + int(size))
        entries = [k / number if i in inside else 0 for i in range(total)]
        scores.append(sp.diag(*entries))
    return SoftmaxAttention(scores=scores, values=[e / k for e in numbers])


def block_constant(
    task: LinearRegression,
    dims: Sequence[Any],
    signs: Sequence[Any] | None = None,
    *,
    zero_head: bool = False,
) -> Formula:
    """Loss constant of heads on blocks of coordinates, as a Formula in t = k^2.

    Parameters
    ----------
    task: Sigma and M multiples of the identity; the dimension may be a symbol.
    dims: dimensions d_h of the blocks, integers or expressions with sum `task.dim`.
    signs: e_h, one nonzero number a block, scores (k/e_h) P_h Sigma^{-1} and values e_h/k; `None` is
        all +1.
    zero_head: True for one more head of scores 0, a plain average of the labels, with the value
        that makes all values add up to 0.

    Where the values add up to 0, the constant tends to the lower bound of any heads as t -> 0;
    otherwise it has a best t, and equal signs do worse than one head of full rank. The form is free
    of cancellation at small t. Errors: `InvalidInput`. Source: derived here.

    >>> from icltheory.pair_families import small_score_expansion
    >>> half = sp.Symbol("m", integer=True, positive=True)
    >>> opposite = block_constant(LinearRegression(dim=2 * half), [half, half], [1, -1])
    >>> sp.factor(small_score_expansion(opposite, 0).expr)
    2*m + 1
    >>> float(block_constant(LinearRegression(dim=6), [3, 3]).subs(t=0.04)).__round__(6)
    107.893298
    """
    task = _isotropic(task)
    sizes, numbers = _blocks(dims, signs)
    if not isinstance(zero_head, bool):
        raise InvalidInput(f"zero_head = {zero_head!r} must be True or False.")
    if sp.expand(sp.Add(*sizes) - task.dim) != 0:
        raise InvalidInput(
            f"the blocks have {sp.Add(*sizes)} dimensions, the task has {task.dim}; heads that do not "
            f"fill the space are not consistent (icl.rank_floor gives the risk that remains)."
        )
    groups: dict[tuple[sp.Expr, sp.Expr], sp.Expr] = {}
    for size, number in zip(sizes, numbers, strict=True):
        key = (size, number**2)
        groups[key] = groups.get(key, sp.S.Zero) + 1
    total = sp.S.Zero if zero_head else sp.Add(*numbers)
    words = f"block heads of dimensions {', '.join(map(str, sizes))}, signs {tuple(numbers)}"
    return _formula(
        task,
        [_Group(size, square, count) for (size, square), count in groups.items()],
        total,
        words + (" and a head of scores 0" if zero_head else ""),
    )


def equal_block_constant(task: LinearRegression, heads: Any, sign_sum: Any = None) -> Formula:
    """Loss constant of H heads on blocks of d/H coordinates, as a Formula in t = k^2.

    Parameters
    ----------
    heads: H, an integer or a symbol.
    sign_sum: sum of the signs e_h = +-1, a number or a symbol; `None` is H, all equal.

    As `block_constant`, which takes blocks one by one. Whether H divides d is not checked: the
    formula interpolates. Source: derived here.

    >>> from icltheory.pair_families import small_score_expansion
    >>> from icltheory.symbols import d
    >>> heads = sp.Symbol("H", integer=True, positive=True)
    >>> formula = equal_block_constant(LinearRegression(dim=d), heads, sign_sum=0)
    >>> sp.expand(small_score_expansion(formula, 0).expr)
    d + 1
    """
    task = _isotropic(task)
    count, total = _sign_sum(heads, sign_sum)
    group = _Group(task.dim / count, sp.S.One, count)
    return _formula(task, [group], total, f"{count} equal block heads with signs of sum {total}")


def block_dimension_limit(heads: Any, sign_sum: Any = None) -> Formula:
    """lim of min_t V / ((R + noise) d) for d -> infinity, H equal blocks: e^y, (y-1)e^y = S^2/H - 1.

    S = `sign_sum` (`None`: H, all signs equal). At S = H = 1 it is e, the gain of several heads over
    one; at S = 0 it is 1, that of several heads (as y -> 0); at S = H > 1 it is above e.
    `minimizer` has y = t d/H. Source: derived here.

    >>> [round(float(block_dimension_limit(h)), 3) for h in (1, 2, 4, 8)]
    [2.718, 3.591, 4.971, 7.193]
    >>> block_dimension_limit(4, sign_sum=0).expr
    1
    """
    dim = sp.Symbol("d", positive=True)
    count, total = _sign_sum(heads, sign_sum)
    task = LinearRegression(dim=dim)
    plain = _plain(task, [_Group(dim / count, sp.S.One, count)], total)
    label_var = task.signal + task.noise_var
    scaled = plain.subs(t, y * count / dim) / (label_var * dim)
    limit = sp.expand(sp.limit(scaled, dim, sp.oo))
    numerator = sp.expand(
        y * limit
    )  # e^y + level: its minimum over y is at y N' = N, with value N'
    z = sp.Dummy("z")
    stationary = sp.expand(y * sp.diff(numerator, y) - numerator)
    best, *others = sp.solve(stationary.subs(y, z), z)  # one root with y >= 0, the principal branch
    assert not others
    return Formula(
        f"large-dimension constant of {count} equal block heads",
        sp.diff(numerator, y).subs(y, best),
        references=_SOURCES,
        steps=(
            Step(
                "loss constant over its infimum, V/((R + noise_var) d), at t = y H/d",
                sp.Eq(sp.Symbol("V"), limit, evaluate=False),
            ),
            Step("stationary in y", sp.Eq(stationary, 0, evaluate=False)),
        ),
        minimizer=sp.Dict({y: best}),
        attained=total != 0,
    )


def width_constant(task: LinearRegression, heads: Any, width: Any) -> Formula:
    """Infimum of lim n * risk over `heads` heads that share an embedding of the given width.

    Every head has rank at most width/heads (rounded down). One head needs width >= d and has its
    own optimum. Two or more of total rank >= d reach the lower bound of any heads: blocks whose
    values add up to 0, as their scores tend to 0. Below, no heads are consistent: `InvalidInput`
    with `rank_floor`. Integers only. Source: derived here.

    >>> width_constant(LinearRegression(dim=6), heads=2, width=6).expr
    7
    >>> round(float(width_constant(LinearRegression(dim=6), heads=1, width=8)), 4)
    21.8582
    """
    require_task(task, ("coef_mean",))
    sizes = {"dim": task.dim, "heads": heads, "width": width}
    numbers = {name: checks.positive_integer(x, name, f"{name}=4") for name, x in sizes.items()}
    for name, number in numbers.items():
        if not number.is_Integer:
            raise InvalidInput(f"{name} = {number} is a symbol; the ranks need integers.")
    dim, count, total = (int(numbers[name]) for name in ("dim", "heads", "width"))
    rank = total // count * count
    if rank < dim:
        floor = f"{sp.N(rank_floor(task, rank).expr, 6)} (icl.rank_floor)" if rank else "the signal"
        raise InvalidInput(
            f"{count} heads of rank at most {total // count} add up to {rank} < dim = {dim}: the risk "
            f"tends to at least {floor}, and no 1/n constant exists. Widen the embedding to "
            f"{-(-dim // count) * count}."
        )
    if count == 1:
        return optimal_loss_constant(task, SoftmaxAttention(heads=1))
    bound = lower_bound(task)
    return Formula(
        f"optimal loss constant, {count} softmax heads of rank {total // count}",
        bound.expr,
        validity=bound.validity,
        references=bound.references,
        steps=bound.steps,
        attained=False,
    )


# -- the mechanism -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Group:
    """`count` blocks of one dimension with signs of one square."""

    size: sp.Expr
    square: sp.Expr
    count: sp.Expr


def _own(task: LinearRegression, group: _Group) -> tuple[sp.Expr, sp.Expr, sp.Basic]:
    """Normaliser and bracket of the kernel of a block with itself, and where it is finite."""
    rest = task.dim - group.size
    matrix = DirectSum([(k / task.feature_cov.scale, group.size), (0, rest)])
    pair = query_average(task, influence_kernel("softmax"), matrix, matrix)
    scaled = {t: t / group.square}  # scores k/e
    return tuple(in_t(x).subs(scaled) for x in (pair.normaliser, pair.bracket, pair.finite))


def _two_blocks(task: LinearRegression) -> sp.Expr:
    """The kernel of two different blocks, of any dimensions."""
    p, q = sp.symbols("p q", positive=True, cls=sp.Dummy)
    scale, rest = k / task.feature_cov.scale, task.dim - p - q
    first = DirectSum([(scale, p), (0, q), (0, rest)])
    second = DirectSum([(0, p), (scale, q), (0, rest)])
    pair = query_average(task, influence_kernel("softmax"), first, second)
    return sp.cancel(pair.normaliser * pair.bracket)


def _plain(task: LinearRegression, groups: Sequence[_Group], total: sp.Expr) -> sp.Expr:
    """V as a sum of powers of 1 - 2t; `total` is the sum of the signs of all heads."""
    between, terms = _two_blocks(task), []
    for group in groups:
        normaliser, bracket, _ = _own(task, group)
        terms.append(group.count * group.square / t * (normaliser * bracket - between))
    return sp.Add(*terms) + total**2 / t * between


def _formula(
    task: LinearRegression, groups: Sequence[_Group], total: sp.Expr, words: str
) -> Formula:
    between, terms, conditions = _two_blocks(task), [], []
    for group in groups:
        normaliser, bracket, finite = _own(task, group)
        conditions.append(finite)
        weight = group.count * group.square / t
        # normaliser (T + c) - c with T of order t and c = `between`
        first_order = sp.cancel(weight * (bracket - between))
        terms.append(normaliser * positive_denominator(first_order))
        terms.append(weight * between * _power_minus_one(normaliser))
    expr = sp.Add(*terms, sp.expand(total) ** 2 / t * between)
    plain = _plain(task, groups, total)
    return Formula(
        f"loss constant, {words}",
        expr,
        validity=sp.And(task.validity, _smallest_edge(conditions)),
        references=_SOURCES,
        steps=(
            Step("kernel F_0 of two different blocks", sp.Eq(sp.Symbol("F_0"), between)),
            *(
                Step(
                    f"kernel F of a block of dimension {group.size}",
                    sp.Eq(sp.Symbol("F"), sp.Mul(*_own(task, group)[:2], evaluate=False)),
                )
                for group in groups
            ),
            Step(
                "loss constant V, summed over the heads",
                sp.Eq(sp.Symbol("V"), plain, evaluate=False),
            ),
        ),
    )


def _power_minus_one(power: sp.Expr) -> sp.Expr:
    """(1 - u)^{-m} - 1 without cancellation: 2 exp(m a) sinh(m a), a = artanh(u/(2 - u))."""
    base, exponent = power.as_base_exp()
    u = sp.factor(1 - base)
    m_a = -exponent * sp.atanh(positive_denominator(sp.cancel(u / (2 - u))))
    return 2 * sp.exp(m_a) * sp.sinh(m_a)


def _smallest_edge(conditions: Sequence[sp.Basic]) -> sp.Basic:
    """1 - 2t/e^2 > 0 as t < e^2/2, and of several such bounds the smallest."""
    edges = [sp.solve(x.args[0] - x.args[1], t)[0] for x in conditions]
    return sp.StrictLessThan(t, sp.Min(*edges))


def _isotropic(task: LinearRegression) -> LinearRegression:
    require_task(task)
    if not task.is_isotropic:
        raise InvalidInput(
            "blocks of symbolic dimensions need Sigma and M to be multiples of the identity; for "
            "other tasks give the matrices of the heads to icl.head_constant."
        )
    return task


def _blocks(
    dims: Sequence[Any], signs: Sequence[Any] | None
) -> tuple[list[sp.Expr], list[sp.Expr]]:
    if not isinstance(checks.plain(dims), (list, tuple, sp.Tuple)):
        raise InvalidInput(
            f"dims = {dims!r} is no list; give one dimension a head, e.g. dims=[3, 3]."
        )
    if signs is not None and not isinstance(checks.plain(signs), (list, tuple, sp.Tuple)):
        raise InvalidInput(
            f"signs = {signs!r} is no list; give one sign a block, e.g. signs=[1, -1]."
        )
    sizes = [
        checks.positive_integer(x, f"dims[{h}]", "dims=[3, 3]") if _integer_like(x) else x
        for h, x in enumerate(dims)
    ]
    if not sizes:
        raise InvalidInput("dims is empty; give one dimension a head.")
    given = [1] * len(sizes) if signs is None else list(signs)
    if len(given) != len(sizes):
        raise InvalidInput(f"{len(given)} signs for {len(sizes)} blocks; give one sign a block.")
    numbers = [checks.scalar(x, f"signs[{h}]") for h, x in enumerate(given)]
    for h, number in enumerate(numbers):
        if number.is_zero:
            raise InvalidInput(f"signs[{h}] = 0: a head that is not read leaves its block unseen.")
    return sizes, numbers


def _sign_sum(heads: Any, sign_sum: Any) -> tuple[sp.Expr, sp.Expr]:
    """The number of heads, and the sum of their signs +-1."""
    count = checks.positive_integer(heads, "heads", "heads=2")
    total = count if sign_sum is None else checks.scalar(sign_sum, "sign_sum")
    if total.is_number and count.is_number and (abs(total) > count or (count - total) % 2):
        raise InvalidInput(
            f"{count} signs of +-1 cannot add up to {total}; pass a sum between {-count} and {count} "
            f"that differs from {count} by an even number."
        )
    return count, total


def _integer_like(value: Any) -> bool:
    """False for expressions such as d/2, which are integers for some d only."""
    return not (isinstance(value, sp.Expr) and value.free_symbols and value.is_integer is not True)
