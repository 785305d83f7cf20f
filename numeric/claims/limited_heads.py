"""Predictions for heads of limited scores: blocks of coordinates, and multiples of the identity.

Constants and floors come from `icltheory`; the risks at finite n are derived here from those of
unlimited heads (the question is that of Cui et al., arXiv 2401.17426).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import sympy as sp
from scipy import optimize

import icltheory as icl
from numeric.arrays import task_arrays
from numeric.claims.head_experiments import ONE, TWO
from numeric.compile import Evaluator, compile
from numeric.finite_prompt import block_risk
from numeric.risk import exact_risk, optimal_risk

# -- blocks of coordinates -------------------------------------------------------------------------


def rank_floor(task: icl.LinearRegression, rank: int) -> float:
    """The limiting risk of heads whose ranks add up to `rank`, derived."""
    return float(icl.rank_floor(task, rank))


def block_constant(
    task: icl.LinearRegression, dims: Sequence[int], signs: Sequence[int], t: float
) -> float:
    """lim n * risk of block heads, derived."""
    return float(icl.block_constant(task, dims, signs).subs(t=t))


def best_block_constant(
    task: icl.LinearRegression, dims: Sequence[int], signs: Sequence[int]
) -> tuple[float, float]:
    """Smallest constant of block heads whose signs agree, and its t = k^2."""
    constant = compile(icl.block_constant(task, dims, signs))
    found = optimize.minimize_scalar(
        lambda t: constant(t=t), bounds=(1e-3, 0.499), method="bounded", options={"xatol": 1e-10}
    )
    return float(found.fun), float(found.x)


def block_heads_risk(
    task: icl.LinearRegression,
    dims: Sequence[int],
    signs: Sequence[int],
    n: float,
    k: float,
    v: float,
) -> float:
    """Exact risk of heads A_h = e_h k P_h with values e_h v at prompt length n, P_h blocks of d_h
    coordinates that need not fill the space; e_h = +-1, Sigma = I and M = I/d.

    Given the query, head h depends on the coordinate of the examples along P_h x_q alone, so that
    different heads are independent and E sum_i w_i^h w_i^l = 1/n. With head h on its own, the other
    directions only add to the noise: its block is a task of dimension d_h, noise variance
    (d (1 + noise) - d_h)/d_h and risk r_h, and

        d * risk = d - sum d_h + sum_h d_h r_h + d (1 + noise)/n ((sum_h v_h)^2 - sum_h v_h^2).

    >>> task = icl.LinearRegression(dim=4)
    >>> round(block_heads_risk(task, [4], [1], 40, 0.5, 1.4) - exact_risk(task, ONE, 40, 0.5, 1.4), 12)
    0.0
    """
    dim, label = int(task.dim), 1 + float(task.noise_var)
    total = dim - sum(dims)
    for size in dims:
        block = icl.LinearRegression(dim=size, noise_var=(dim * label - size) / size)
        total += size * exact_risk(block, ONE, n, score_scale=k, value_scale=v)
    between = sum(signs) ** 2 - len(dims)
    return float(total / dim + label * between * v**2 / n)


@lru_cache(maxsize=64)
def best_block_heads(
    task: icl.LinearRegression, dims: tuple[int, ...], signs: tuple[int, ...], n: int
) -> tuple[float, float, float]:
    """(risk, k, v) of the best block heads of equal |score| and |value|, k at least 0.02.

    With signs that add up to 0 the optimum is at k -> 0, where values diverge; the risk at the
    smallest k is within 0.2 % of it for the dimensions used here.
    """
    return _best_heads(lambda k, v: block_heads_risk(task, dims, signs, n, k, v), 1.0, 3.0)


def best_scale(
    best: Callable[[float], tuple[float, float]], low: float, high: float, accuracy: float
) -> tuple[float, float, float]:
    """(risk, k, v) where `best`, the risk and the value v at a scale k, has its least risk."""
    found = optimize.minimize_scalar(
        lambda x: best(math.exp(x))[0],
        bounds=(math.log(low), math.log(high)),
        method="bounded",
        options={"xatol": accuracy},
    )
    k = math.exp(found.x)
    risk, value = best(k)
    return risk, k, value


def _best_heads(
    risk: Callable[[float, float], float], signal: float, largest: float
) -> tuple[float, float, float]:
    """(risk, k, v) of the best heads, k from 0.02 to `largest`; risk(k, v) is quadratic in v."""

    def best(k: float) -> tuple[float, float]:
        # risk = signal - 2 b x + m x^2 at the value v = x/k.
        one, two = (risk(k, x / k) for x in (1.0, 2.0))
        m = (two - 2 * one + signal) / 2
        b = (m + signal - one) / 2
        return signal - b**2 / m, b / m / k

    return best_scale(best, 0.02, largest, 1e-4)


def low_rank_risk(task: icl.LinearRegression, rank: int, n: int) -> float:
    """Smallest risk at prompt length n of two heads of small opposite scores and total rank `rank`.

    f = x_q'P S theta with the centred second moment S, P a projector on `rank` directions: by
    rotation invariance E |x_q - a S P x_q|^2 is linear in P, and interpolates between no attention
    and the full pair.
    """
    floor = rank_floor(task, rank) / task_arrays(task).signal
    full = float(optimal_risk(task, TWO, n, small_scores=True).risk)
    return floor * task_arrays(task).signal + (1 - floor) * full


# -- multiples of the identity ---------------------------------------------------------------------


@lru_cache(maxsize=8)
def scalar_floor(task: icl.LinearRegression) -> tuple[float, float]:
    """The limiting risk of heads A_h = k_h I, and sum_h v_h k_h there, derived."""
    found = icl.head_floor(task, icl.SoftmaxAttention(scores=[sp.eye(int(task.dim))]))
    assert found.minimizer is not None
    (slope,) = found.minimizer.values()
    return float(found), float(slope)


@lru_cache(maxsize=64)
def scalar_pair(task: icl.LinearRegression, n: int) -> tuple[float, float]:
    """Smallest risk of heads +-k I with opposite values as k -> 0, and sum_h v_h k_h there.

    They tend to (sum_h v_h k_h/n) sum_i (y_i - mean)(x_i - mean)'x_q: linear attention with n - 1
    independent examples, since centring leaves n - 1 of them.
    """
    dim = int(task.dim)
    risk = compile(icl.linear_attention_risk(task, n - 1))
    at = [float(risk(A=a * np.eye(dim), b=1.0, u=np.zeros(dim), v=np.zeros(dim))) for a in range(3)]
    square = (at[2] - 2 * at[1] + at[0]) / 2
    linear = (at[0] + square - at[1]) / 2
    return at[0] - linear**2 / square, linear / square * n / (n - 1)


@lru_cache(maxsize=64)
def scalar_head(task: icl.LinearRegression, n: int) -> tuple[float, float, float]:
    """(risk, k, v) of the best single head of scores k I."""
    return _best_heads(lambda k, v: block_risk(task, k, v, n), task_arrays(task).signal, 1.5)


def free_pair(task: icl.LinearRegression, n: int) -> float:
    """Smallest risk of opposite heads with free score matrices, in the limit of small scores.

    Linear attention with n - 1 examples and the best matrix, which is a multiple of Sigma^{-1} only
    for n -> infinity.
    """
    return float(_best_linear_risk(task)(n=n - 1))


@lru_cache(maxsize=8)
def _linear_risk(task: icl.LinearRegression) -> Evaluator:
    return compile(icl.linear_attention_risk(task, icl.symbols.n))


@lru_cache(maxsize=8)
def _best_linear_risk(task: icl.LinearRegression) -> Evaluator:
    return compile(icl.optimal_linear_attention(task))
