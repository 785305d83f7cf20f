"""Layers and experiments that the claims on scenarios share: prior knowledge, local examples, exceptions.

Besides the exact risks of `numeric.risk`, two exact risks of layers with matrices are here: opposite
heads with small scores, through the second moment of a centred sample covariance, and heads on
blocks of coordinates, through the risks of one head on each block. Both are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import sympy as sp

import icltheory as icl
from icltheory.symbols import k, t
from numeric.arrays import task_arrays
from numeric.claims import layer_training as training
from numeric.claims.base import Effort
from numeric.claims.head_experiments import DIM, ONE, SMALL, TRAINED, TWO, signed
from numeric.claims.limited_heads import best_scale
from numeric.claims.rows import estimate_row
from numeric.compare import Row, compare
from numeric.montecarlo import Estimate, monte_carlo_risk
from numeric.risk import exact_risk, given_heads, optimal_risk
from numeric.samplers import heads_of

N = 40  # prompt length of the trained layers
# Prompt lengths of predicted lines.
GRID = tuple(int(x) for x in np.unique(np.geomspace(6, 400, 14).round()))
SPREADS = (3, 8)  # n times the variance of a tight prior, below and above the threshold of a pair
WORDS = {1: "one head", 2: "two heads"}
READ: dict[str, Any] = {"feature_values": True}
BOTH: dict[str, Any] = {"skip": True, "feature_values": True}
SCALAR: dict[str, Any] = {"scores": "scalar"}
# Labels are averaged exactly, which takes so much of the noise that few and fast steps are enough.
_TRAINING: dict[str, Any] = {"batch": 128, "rate": 0.05}


def heads(count: int, options: dict[str, Any]) -> icl.SoftmaxAttention:
    """Heads with options, everything else free."""
    return icl.SoftmaxAttention(heads=count, **options)


# -- tasks -----------------------------------------------------------------------------------------


def local(rho: float, tau: float, noise: float = 0, dim: int = DIM) -> icl.LinearRegression:
    """Examples around the query, x_i | x_q ~ N(rho x_q, tau^2 I)."""
    return icl.LinearRegression(
        dim=dim, noise_var=sp.Rational(noise), local=(sp.Rational(rho), sp.Rational(tau))
    )


def tight(spread: float, n: float | None = None) -> icl.LinearRegression:
    """A prior of variance `spread`/n around theta_0 = (1, 0, 0): at length n, or n times its covariance."""
    cov = sp.Rational(spread) / 3
    return icl.LinearRegression(
        dim=3,
        noise_var=sp.Rational(3, 10),
        coef_cov=cov if n is None else cov / sp.Integer(int(n)),
        coef_mean=[1, 0, 0],
    )


# -- optima ----------------------------------------------------------------------------------------


def best_risk(task: icl.LinearRegression, count: int, n: float) -> float:
    """Risk of the best head, or of several as their scores tend to 0."""
    return float(optimal_risk(task, heads(count, {}), n, small_scores=count > 1).risk)


def small_risk(task: icl.LinearRegression, options: dict[str, Any], n: float) -> float:
    """Risk of the best several heads with options as their scores tend to 0."""
    return float(optimal_risk(task, heads(2, options), n, small_scores=True).risk)


def pair_slope(task: icl.LinearRegression, n: float) -> float:
    """sum_h v_h k_h of the best several heads as their scores tend to 0."""
    return float(optimal_risk(task, TWO, n, small_scores=True).value_scale)


# -- layers with numbers ---------------------------------------------------------------------------


def pair(
    slope: float,
    total: float = 0.0,
    *,
    mean: Sequence[float] | None = None,
    reading: float | None = None,
    skip: bool = False,
) -> icl.SoftmaxAttention:
    """Two heads of scores +-SMALL with sum_h v_h = total and sum_h v_h k_h = slope.

    `reading` is sum_h k_h of u_h = (multiple) theta_0 with theta_0 = `mean`; `skip` has the path
    theta_0.x_q.
    """
    options: dict[str, Any] = {"skip": list(mean)} if skip and mean is not None else {}
    if reading is not None and mean is not None:
        options["feature_values"] = [
            [sign * reading / (2 * SMALL) * x for x in mean] for sign in (1, -1)
        ]
    values = [total / 2 + sign * slope / (2 * SMALL) for sign in (1, -1)]
    return icl.SoftmaxAttention(scores=[SMALL, -SMALL], values=values, **options)


def best_layer(task: icl.LinearRegression, count: int, n: float) -> icl.SoftmaxAttention:
    """The best head, or the pair of scores +-SMALL with its best values, that reads labels only."""
    if count == 1:
        best = optimal_risk(task, ONE, n)
        return icl.SoftmaxAttention(scores=[best.score_scale], values=[best.value_scale])
    bare = icl.SoftmaxAttention(scores=[SMALL, -SMALL])
    return icl.SoftmaxAttention(scores=bare.scores, values=list(given_heads(task, bare, n)[1]))


def leading_layer(task: icl.LinearRegression, count: int) -> icl.SoftmaxAttention:
    """The head, or the pair of scores +-SMALL, that is best to leading order in long prompts."""
    rho, tau = map(float, task.local or (0, 1))
    if count == 1:
        best = icl.optimal_loss_constant(task, ONE).minimizer
        assert best is not None
        scale = math.sqrt(float(best[t]))
        return icl.SoftmaxAttention(scores=[scale], values=[1 / (rho + tau**2 * scale)])
    total = float(icl.local_value_sum(task))
    return pair((1 - rho * total) / tau**2, total)


def reading_pair(task: icl.LinearRegression, n: float) -> icl.SoftmaxAttention:
    """The best small-score pair whose values read features along theta_0."""
    slope = optimal_risk(task, heads(2, READ), n).value_scale
    # theta_0 is read as a coefficient without noise would be.
    whole = pair_slope(icl.LinearRegression(dim=task.dim), n)
    return pair(slope, mean=_mean(task), reading=whole - slope)


def reduced_layer(task: icl.LinearRegression, count: int, n: int) -> icl.SoftmaxAttention:
    """The best head or pair with the skip path theta_0 and values y - theta_0.x."""
    best, mean = optimal_risk(task, heads(count, BOTH), n), _mean(task)
    if count == 2:
        return pair(best.value_scale, mean=mean, reading=-best.value_scale, skip=True)
    return icl.SoftmaxAttention(
        scores=[best.score_scale],
        values=[best.value_scale],
        skip=mean,
        feature_values=[[-best.value_scale * x for x in mean]],
    )


def at_scale(layer: icl.SoftmaxAttention, scale: Any) -> icl.SoftmaxAttention:
    """Heads in the symbol k that read features (`icl.prior_heads`) with a number for it."""
    assert layer.scores is not None
    assert layer.values is not None
    assert isinstance(layer.feature_values, tuple)
    return icl.SoftmaxAttention(
        scores=[a.subs(k, scale) for a in layer.scores],
        values=[w.subs(k, scale) for w in layer.values],
        feature_values=[[x.subs(k, scale) for x in u] for u in layer.feature_values],
    )


def _mean(task: icl.LinearRegression) -> list[float]:
    assert task.coef_mean is not None
    return [float(x) for x in task.coef_mean]


# -- exact risks of layers with matrices -----------------------------------------------------------


def small_score_risk(task: icl.LinearRegression, layer: icl.SoftmaxAttention, n: float) -> float:
    """Exact risk at Sigma = I of heads in the limit of small scores, sum_h v_h = 0, sum_h u_h = 0.

    Head h then reads x_q'A_h C b_h of the centred sample covariance C, b_h = v_h theta + u_h. n C is
    Wishart with m = n - 1 degrees of freedom: E (C b)(C c)' = (m^2 b c' + m (b.c I + c b'))/n^2.
    """
    arrays, m = task_arrays(task, ("coef_mean",)), n - 1
    numbers = heads_of(task, layer, None, None)
    values, matrices = np.array(numbers.values), np.array(numbers.matrices)
    target = arrays.coef_mean - (0 if numbers.skip is None else numbers.skip)
    readers = 0 if numbers.readers is None else numbers.readers

    def error(read: np.ndarray, target: np.ndarray) -> float:
        """E |sum_h A_h C b_h - target|^2 for the vectors b_h, (H, d)."""
        moved = np.einsum("hij,lj->hli", matrices, read)  # A_h b_l
        diagonal = np.einsum("hhi->i", moved)
        fourth = np.einsum("hij,lij,ha,la->", matrices, matrices, read, read)
        square = m**2 * diagonal @ diagonal + m * (fourth + np.einsum("hli,lhi->", moved, moved))
        return float(target @ target - 2 * m / n * (target @ diagonal) + square / n**2)

    risk = error(np.outer(values, arrays.coef_mean) + readers, target)
    for axis in arrays.coef_root:
        risk += error(np.outer(values, axis), axis)
    gain = np.einsum("h,hij->ij", values, matrices)
    return risk + arrays.noise_var * m / n**2 * float(np.sum(gain**2))


def block_heads_risk(
    task: icl.LinearRegression, dims: Sequence[int], signs: Sequence[int], n: float
) -> tuple[float, float, float]:
    """Smallest risk of heads A_h = e_h k P_h, v_h = e_h v on blocks that fill the space; k and v.

    For Sigma = I, M = I/d and e_h = +-1. Head h errs on its own part theta.P_h x_q as one head in
    d_h dimensions does, the rest of the label being noise; weights of different blocks are
    independent, which leaves v_h v_l (R + noise_var)/n a pair.
    """
    total, noise = float(task.signal), float(task.noise_var)
    single = [
        icl.LinearRegression(
            dim=size,
            coef_cov=task.signal / task.dim,
            noise_var=task.noise_var + task.signal * (task.dim - size) / task.dim,
        )
        for size in dims
    ]
    cross = (total + noise) / n * (sum(signs) ** 2 - len(signs))

    def best(scale: float) -> tuple[float, float]:
        """The quadratic function of v has its value and slope at 0 and its value at 1."""
        at = np.array([0.0, 1.0, -1.0])
        values = sum(exact_risk(x, ONE, n, score_scale=scale, value_scale=at) for x in single)
        values = values + cross * at**2
        slope, curvature = (values[1] - values[2]) / 2, (values[1] + values[2]) / 2 - values[0]
        return float(values[0] - slope**2 / (4 * curvature)), float(-slope / (2 * curvature))

    return best_scale(best, 0.1, 3, 1e-9)


def limited_risk(task: icl.LinearRegression, rank: int, count: int, n: float) -> float:
    """Risk of the best `count` heads whose score matrices live in `rank` dimensions (Sigma = I, M = I/d).

    There they are the best heads of a task of that dimension; the rest of the label is noise to
    them, and that of the target the floor.
    """
    rest = task.signal * (task.dim - rank) / task.dim
    inside = icl.LinearRegression(
        dim=rank, coef_cov=task.signal / task.dim, noise_var=task.noise_var + rest
    )
    best = optimal_risk(inside, heads(count, {}), n, small_scores=count > 1)
    return float(rest) + float(best.risk)


# -- rows ------------------------------------------------------------------------------------------


def long_prompt_row(
    quantity: str,
    prediction: Any,
    value: Callable[[float], Any],
    lengths: tuple[float, float] = (1e7, 1e8),
    label: dict[str, Any] | None = None,
) -> Row:
    """A limit against exact values in long prompts; the error is their change over a factor of 10."""
    near, far = (float(value(n)) for n in lengths)
    return exact_row(f"{quantity}, n = {lengths[1]:.0e}", prediction, far, far - near, label)


def exact_row(
    quantity: str,
    prediction: Any,
    value: Any,
    error: Any = 0.0,
    label: dict[str, Any] | None = None,
) -> Row:
    """A formula against an exact value of another derivation; rounding is the least error."""
    value = float(value)
    bound = max(abs(float(error)), 1e-9 * abs(value))
    return compare({**(label or {}), "quantity": quantity}, float(prediction), value, bound)


def layer_row(
    task: icl.LinearRegression,
    layer: icl.SoftmaxAttention,
    n: int,
    prediction: Any,
    effort: Effort,
    label: dict[str, Any],
    sampler: str = "reduced",
) -> Row:
    """The real softmax layer, with these numbers, against its exact risk."""
    prompts = (8 if sampler == "plain" else 2) * effort.prompts
    estimate = monte_carlo_risk(task, layer, n, prompts=prompts, seed=n, sampler=sampler)
    setting = {"n": n, "heads": layer.heads, **label, "sampler": sampler}
    return estimate_row(setting, float(prediction), estimate)


# -- training --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tested:
    """A layer to train from one start, and the predictions of its risk on the laws it is tested on.

    `prompts` and `steps` are how many times the usual ones it is measured on and trained for.
    """

    name: str
    layer: training.Layer
    tests: tuple[tuple[str, icl.LinearRegression, float], ...]
    prompts: int = 3
    steps: int = 1

    @staticmethod
    def own(
        name: str,
        task: icl.LinearRegression,
        n: int,
        prediction: Any,
        *,
        prompts: int = 3,
        **arguments: Any,
    ) -> Tested:
        """A layer that is tested on the law it is trained on; arguments as for `one_start`."""
        tests = (("", task, float(prediction)),)
        return Tested(name, one_start(task, n, **arguments), tests, prompts)

    @staticmethod
    def scalar(
        name: str,
        task: icl.LinearRegression,
        n: int,
        count: int,
        options: dict[str, Any],
        **arguments: Any,
    ) -> Tested:
        """Heads of scores k_h I with options, against the best such heads; arguments as for `own`."""
        best = optimal_risk(task, heads(count, options), n).risk
        options = {**SCALAR, **options}
        return Tested.own(name, task, n, best, heads=count, options=options, **arguments)


def one_start(
    task: icl.LinearRegression,
    n: int,
    heads: int = 1,
    options: Mapping[str, Any] = MappingProxyType({}),
    value: float = 4.0,
) -> training.Layer:
    """A layer with one start; `options` of `finite.SoftmaxAttention`, `value` the size of its values."""
    given = {"score_std": 0.1, **options}
    return training.Layer(task, n, heads, seeds=1, value_size=value, options=given)


def train(tested: Sequence[Tested], effort: Effort) -> list[tuple[list[Estimate], dict[str, Any]]]:
    """Train the layers; the risk of each on its laws, fresh prompts, and what it learned."""
    from numeric import finite

    models = [each.layer.start(each.layer.n) for each in tested]
    for times in {each.steps for each in tested}:
        chosen = [i for i, each in enumerate(tested) if each.steps == times]
        layers = [tested[i].layer for i in chosen]
        training.train_models(
            [models[i] for i in chosen],
            layers,
            [layer.n for layer in layers],
            steps=times * effort.training_steps // 3,
            **_TRAINING,
        )
    found = []
    for each, model in zip(tested, models, strict=True):
        n, prompts = each.layer.n, each.prompts * effort.prompts
        risks = [
            finite.label_averaged_risk(model, task, n, prompts=prompts, seed=10_000 + n)
            for _, task, _ in each.tests
        ]
        learned: dict[str, Any] = {"learned k": signed(model.learned(each.layer.task).score_scales)}
        learned["learned v"] = signed(model.values())
        found.append((risks, learned))
    return found


def trained_rows(layers: Sequence[Tested], effort: Effort) -> list[Row]:
    """Trained layers against predictions, one row a law."""
    rows = []
    for layer, (risks, learned) in zip(layers, train(layers, effort), strict=True):
        for (law, _, prediction), risk in zip(layer.tests, risks, strict=True):
            setting = {"layer": layer.name, "n": layer.layer.n, "heads": layer.layer.heads}
            setting |= {"tested on": law} if law else {}
            rows.append(estimate_row({**setting, **learned}, prediction, risk, TRAINED))
    return rows


def fraction_row(quantity: str, row: Row, known: float) -> Row:
    """A measured risk over a known one."""
    error = None if row.standard_error is None else row.standard_error / known
    return compare(
        {"n": row.setting["n"], "quantity": quantity},
        row.prediction / known,
        row.estimate / known,
        error,
        row.allowance,
    )
