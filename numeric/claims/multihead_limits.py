"""Claims on softmax heads whose scores are limited: in rank, or to multiples of the identity.

Cui et al., "Superiority of Multi-Head Attention in In-Context Linear Regression" (arXiv 2401.17426),
announce that several heads are better when the embedding dimension is substantial, and treat
correlated features. What is predicted is derived here (`numeric.claims.limited_heads`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import numpy as np

import icltheory as icl
from icltheory.formula import Formula
from numeric.block_optimum import optimal_block_risk
from numeric.claims import head_experiments as study
from numeric.claims import layer_training as training
from numeric.claims import limited_heads as limited
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.head_experiments import CORRELATED, GENERAL, ONE, TWO, multihead_claim
from numeric.claims.layer_training import CONTROL, FAR, NEAR, Layer
from numeric.claims.rows import curve, estimate_row, limit_row, points
from numeric.compare import Row
from numeric.montecarlo import monte_carlo_risk
from numeric.plot import Figure
from numeric.risk import optimal_risk

# -- embedding dimension ---------------------------------------------------------------------------

_BLOCK_DIM = 4
_BLOCKS = icl.LinearRegression(dim=_BLOCK_DIM)
# Opposite blocks are best at k -> 0 with values that diverge: at d = 4 the constant of size-4 values
# is 8 % above the infimum, that of size-16 values below 1 %.
_LARGE_VALUES = 16.0


def _lengths(effort: Effort) -> tuple[int, ...]:
    """Prompt lengths of the trained layers."""
    return (20, 40, 80, 160) if effort.name == "full" else (20, 80)


def limited_prediction(layer: Layer) -> float:
    """Smallest risk of heads of limited rank, for the signs they start with."""
    assert layer.width is not None
    dim = int(layer.task.dim)
    if layer.heads == 1 or (layer.width == dim and layer.values == "same"):
        return float(optimal_risk(layer.task, ONE, layer.n).risk)
    if layer.values == "same":
        blocks = (layer.width,) * layer.heads
        return limited.best_block_heads(layer.task, blocks, (1,) * layer.heads, layer.n)[0]
    if layer.width == dim:
        return float(optimal_risk(layer.task, TWO, layer.n).risk)
    return limited.low_rank_risk(layer.task, layer.width * layer.heads, layer.n)


def _embedding(effort: Effort, progress: Progress) -> Result:
    progress("constants", 0.0)
    exact = list(_width_rows())
    progress("simulation of the layer", 0.1)
    layer_rows = list(_block_layer_rows(effort))
    half, whole = _BLOCK_DIM // 4, _BLOCK_DIM // 2
    kinds = {
        "width d/2, opposite signs": partial(Layer, heads=2, width=half, value_size=_LARGE_VALUES),
        "width d, opposite signs": partial(Layer, heads=2, width=whole, value_size=_LARGE_VALUES),
        "width 2d, opposite signs": partial(Layer, heads=2, width=_BLOCK_DIM),
        "width d, equal signs": partial(Layer, heads=2, width=whole, values="same"),
        "one head of width d": partial(Layer, heads=1, width=_BLOCK_DIM),
    }
    measured: dict[str, list[Row]] = {}
    for i, (name, make) in enumerate(kinds.items()):
        progress(f"training, {name}", 0.2 + 0.14 * i)
        layers = [make(task=_BLOCKS, n=n) for n in _lengths(effort)]
        measured[name] = _limited_rows(name, layers, effort)
    progress("opposite blocks from small values", 0.9)
    infinity = list(_at_infinity(effort))
    parts = (
        Part.of("floor and constants, exactly", exact),
        Part.of("simulation of the real softmax layer", layer_rows),
        Part.of("trained layers", [row for rows in measured.values() for row in rows], CONTROL),
        Part.of("opposite blocks of finite values, in their exact risk", infinity, 1.08),
    )
    return parts, _embedding_figure(measured)


def _width_rows() -> Iterable[Row]:
    """Floors and constants against exact risks."""
    task, half, k = _BLOCKS, _BLOCK_DIM // 2, 0.35
    for words, dims, signs in (
        ("two opposite heads", (half // 2, half // 2), (1, -1)),
        ("one head", (half,), (1,)),
    ):
        yield _far_row(
            f"width d/2, {words}, risk at n = 1e8",
            limited.rank_floor(task, half),
            lambda n, at=(dims, signs): limited.block_heads_risk(task, *at, n, k, 1 / k),
        )
    blocks = (half, half)
    best, at = limited.best_block_constant(task, blocks, (1, 1))
    for words, signs, scale in (
        ("equal signs, best t", (1, 1), at),
        ("equal signs", (1, 1), 0.1),
        ("opposite signs", (1, -1), 0.1),
    ):
        k = math.sqrt(scale)
        yield _far_row(
            f"blocks of width d, {words}, t = {scale:.4f}, n * risk at n = 1e8",
            limited.block_constant(task, blocks, signs, scale),
            lambda n, signs=signs, k=k: (
                n * limited.block_heads_risk(task, blocks, signs, n, k, 1 / k)
            ),
        )
    yield _far_row(
        "width d, opposite signs, scores to 0, n * risk at n = 1e8",
        study.optimal_constant(task, TWO)[0],
        lambda n: n * limited.low_rank_risk(task, _BLOCK_DIM, n),
    )
    k = math.sqrt(at)
    yield _far_row(
        "one head over blocks of equal signs, risk ratio at n = 1e8 (below 1)",
        study.optimal_constant(task, ONE)[0] / best,
        lambda n: (
            float(optimal_risk(task, ONE, n).risk)
            / limited.block_heads_risk(task, blocks, (1, 1), n, k, 1 / k)
        ),
    )


def _far_row(quantity: str, prediction: float, value: Callable[[int], float]) -> Row:
    """A limit against its value at n = 1e8; the error is the change from 1e7."""
    return limit_row({"quantity": quantity}, prediction, value(NEAR), value(FAR))


def _block_layer_rows(effort: Effort) -> Iterable[Row]:
    """The real layer of block matrices, token by token."""
    n, half, quarter, small = 30, _BLOCK_DIM // 2, _BLOCK_DIM // 4, study.SMALL
    # sum v k of the best small pair
    product = n / (n - 1 + study.optimal_constant(_BLOCKS, TWO)[0])
    for words, dims, signs, k, v in (
        ("width d, equal signs", (half, half), (1, 1), 0.5, 1.2),
        ("width d, opposite signs", (half, half), (1, -1), 0.5, 1.2),
        ("width d/2, opposite signs", (quarter, quarter), (1, -1), small, product / small),
    ):
        exact = (
            limited.low_rank_risk(_BLOCKS, sum(dims), n)
            if k == small
            else limited.block_heads_risk(_BLOCKS, dims, signs, n, k, v)
        )
        words = f"{words}, k = {k}, v = {v:.4g}"
        yield _layer_row(words, _BLOCKS, _block_layer(dims, signs, k, v), n, exact, effort)


def _layer_row(
    words: str,
    task: icl.LinearRegression,
    layer: icl.SoftmaxAttention,
    n: int,
    exact: float,
    effort: Effort,
) -> Row:
    """The real softmax layer, token by token, against its exact risk."""
    prompts = 5 * effort.prompts
    risk = monte_carlo_risk(task, layer, n, prompts=prompts, seed=n, sampler="plain")
    return estimate_row({"n": n, "layer": words}, exact, risk)


def _block_layer(
    dims: Sequence[int], signs: Sequence[int], k: float, v: float
) -> icl.SoftmaxAttention:
    """Heads e_h k P_h with values e_h v on successive blocks of coordinates."""
    block = np.repeat(np.arange(len(dims)), dims)
    block = np.pad(block, (0, _BLOCK_DIM - len(block)), constant_values=-1)
    scores = [np.diag(e * k * (block == h)).tolist() for h, e in enumerate(signs)]
    return icl.SoftmaxAttention(scores=scores, values=[e * v for e in signs])


def _limited_rows(name: str, layers: list[Layer], effort: Effort) -> list[Row]:
    return [
        training.risk_row(layer, found, limited_prediction(layer), setting={"layer": name})
        for layer, found in zip(layers, training.train_layers(layers, effort), strict=True)
    ]


def _at_infinity(effort: Effort) -> Iterable[Row]:
    """Opposite blocks that start with values of size 4, against the exact risk at their k and v."""
    n, half = 40, _BLOCK_DIM // 2
    layer = Layer(_BLOCKS, n, 2, width=half)
    (found,) = training.train_layers([layer], effort)
    best = limited_prediction(layer)

    def exact(products: tuple[float, float]) -> float:
        value, product = products
        # The blocks have half the trace of k I, and there are two: sum v tr A/d = v k.
        return limited.block_heads_risk(_BLOCKS, (half, half), (1, -1), n, product / value, value)

    values = np.abs(found.values).mean(1)
    prediction = training.seeds_mean(exact, zip(values, found.products, strict=True))
    note = f"{prediction / best:.3f} of the infimum, by theory"
    yield training.risk_row(layer, found, prediction, 0.02, {"note": note})


def _embedding_figure(measured: dict[str, list[Row]]) -> Figure:
    lengths = np.unique(np.round(np.geomspace(15, 300, 9))).astype(int)
    layers = {
        "width d/2, opposite signs": partial(Layer, heads=2, width=_BLOCK_DIM // 4),
        "width d, opposite signs": partial(Layer, heads=2, width=_BLOCK_DIM // 2),
        "width d, equal signs": partial(Layer, heads=2, width=_BLOCK_DIM // 2, values="same"),
        "one head of width d": partial(Layer, heads=1, width=_BLOCK_DIM),
    }
    colours = {name: i for i, name in enumerate(layers)} | {"width 2d, opposite signs": 4}
    return Figure(
        "Embedding dimension",
        "prompt length n",
        "risk",
        f"Two heads of limited width in d = {_BLOCK_DIM} dimensions: predicted smallest risk (lines) and "
        "trained layers (points, one standard error). Below width d the risk stays at a floor. Width d is "
        "enough for opposite signs; heads of equal signs on two blocks are worse than one head. Width 2d "
        "(points) adds nothing visible.",
        tuple(
            curve(
                name,
                lengths,
                [limited_prediction(make(task=_BLOCKS, n=int(n))) for n in lengths],
                color=colours[name],
            )
            for name, make in layers.items()
        ),
        tuple(
            points("" if name in layers else f"{name}, trained", rows, "n", colours[name])
            for name, rows in measured.items()
        ),
    )


# -- scalar scores ---------------------------------------------------------------------------------


def correlated_prediction(layer: Layer) -> float:
    """Smallest risk on correlated features of scores k I, or of free score matrices."""
    if layer.scalar:
        one = limited.scalar_head if layer.heads == 1 else limited.scalar_pair
        return one(layer.task, layer.n)[0]
    if layer.heads == 1:
        return float(optimal_block_risk(layer.task, layer.n).risk)
    return limited.free_pair(layer.task, layer.n)


def _scalar(effort: Effort, progress: Progress) -> Result:
    progress("floor and exact risks", 0.0)
    exact = list(_floor_rows())
    progress("simulation of the layer", 0.1)
    layer_rows = list(_scalar_layer_rows(effort))
    kinds = {
        "one head, scores k I": partial(Layer, heads=1, scalar=True),
        "two heads, scores k I": partial(Layer, heads=2, scalar=True),
        "one head, free scores": partial(Layer, heads=1),
        "two heads, free scores": partial(Layer, heads=2),
    }
    measured: dict[str, list[Row]] = {}
    slopes: list[Row] = []
    for i, (name, make) in enumerate(kinds.items()):
        progress(f"training {name}", 0.2 + 0.2 * i)
        layers = [make(task=CORRELATED, n=n) for n in _lengths(effort)]
        trained = training.train_layers(layers, effort)
        measured[name] = [
            training.risk_row(layer, found, correlated_prediction(layer), setting={"layer": name})
            for layer, found in zip(layers, trained, strict=True)
        ]
        if name == "two heads, scores k I":
            # Of the multiples of Sigma that `products` counts in, scores k I are k tr Sigma/d.
            unit = float(np.trace(np.array(study.COVARIANCE.tolist(), float))) / study.DIM
            slopes += [
                training.parameter_row(
                    layer,
                    "sum v k",
                    limited.scalar_pair(layer.task, layer.n)[1],
                    found.products / unit,
                )
                for layer, found in zip(layers, trained, strict=True)
            ]
    parts = (
        Part.of("the floor, exactly", exact),
        Part.of("simulation of the real softmax layer", layer_rows),
        Part.of(
            "trained layers", [row for rows in measured.values() for row in rows] + slopes, CONTROL
        ),
    )
    return parts, _scalar_figure(kinds, measured)


def _floor_rows() -> Iterable[Row]:
    floor, slope = limited.scalar_floor(CORRELATED)
    for i, (words, limit) in enumerate((("risk", floor), ("best sum v k", slope))):
        yield _far_row(
            f"two heads, scores k I, {words} at n = 1e8",
            limit,
            lambda n, i=i: limited.scalar_pair(CORRELATED, n)[i],
        )
    head = [limited.scalar_head(CORRELATED, n)[0] for n in (10**5, 10**6)]
    yield limit_row({"quantity": "one head, scores k I, risk at n = 1e6"}, floor, *head)
    for words, attention, risk in (
        ("two heads, free scores", TWO, limited.free_pair),
        (
            "one head, scores along Sigma^{-1}",
            ONE,
            lambda task, n: float(optimal_risk(task, ONE, n).risk),
        ),
    ):
        yield _far_row(
            f"{words}, n * risk at n = 1e8: no floor",
            study.optimal_constant(CORRELATED, attention)[0],
            lambda n, risk=risk: n * risk(CORRELATED, n),
        )


def _scalar_layer_rows(effort: Effort) -> Iterable[Row]:
    """The real layer of scores k I, token by token, at its best parameters."""
    n, small, eye = 50, study.SMALL, np.eye(study.DIM)
    risk, k, v = limited.scalar_head(CORRELATED, n)
    pair_risk, product = limited.scalar_pair(CORRELATED, n)
    for words, prediction, scores, values in (
        (f"one head, k = {k:.4f}, v = {v:.4f}", risk, [k], [v]),
        (
            f"two heads, k = +-{small}, best v",
            pair_risk,
            [small, -small],
            [product / (2 * small), -product / (2 * small)],
        ),
    ):
        heads = icl.SoftmaxAttention(scores=[(s * eye).tolist() for s in scores], values=values)
        yield _layer_row(words, CORRELATED, heads, n, prediction, effort)


def _scalar_figure(kinds: dict[str, partial[Layer]], measured: dict[str, list[Row]]) -> Figure:
    lengths = np.unique(np.round(np.geomspace(15, 400, 6))).astype(int)
    floor = limited.scalar_floor(CORRELATED)[0]
    lines = [
        curve(
            name,
            lengths,
            [correlated_prediction(make(task=CORRELATED, n=int(n))) for n in lengths],
            color=i,
        )
        for i, (name, make) in enumerate(kinds.items())
    ]
    level = curve("floor", (lengths[0], lengths[-1]), (floor, floor), color=6)
    return Figure(
        "Correlated features: scores that do not see the covariance",
        "prompt length n",
        "risk",
        "Feature covariance 1.5 * 0.5^|i-j|, coefficients N(0, I/d). Scores k I stall at the floor, one "
        "head or two; free score matrices have a risk of order 1/n. Lines: exact smallest risks. Points: "
        "trained layers, one standard error.",
        (*lines, level),
        tuple(points("", rows, "n", i) for i, rows in enumerate(measured.values())),
    )


# -- registration ----------------------------------------------------------------------------------


def _width_formulas() -> tuple[Formula, ...]:
    heads = 2
    return (
        icl.rank_floor(_BLOCKS, _BLOCK_DIM // 2),
        icl.width_constant(_BLOCKS, heads, _BLOCK_DIM),
        icl.equal_block_constant(GENERAL, heads),
        icl.equal_block_constant(GENERAL, heads, sign_sum=0),
    )


register(
    multihead_claim(
        id="multihead-embedding-dimension",
        title="A substantial embedding dimension",
        statement="Heads of total width p below d keep a risk of 1 - p/d. Width d is enough for two heads "
        "of opposite signs to reach the best constant; two blocks of equal signs are worse than one head.",
        formulas=_width_formulas,
        experiment=_embedding,
    )
)
register(
    multihead_claim(
        id="multihead-scalar-scores",
        title="Scores that do not see the covariance",
        statement="With correlated features, heads whose scores are multiples of x_q.x_i keep a risk "
        "above zero, whatever their number and the prompt length; free score matrices do not.",
        formulas=lambda: (
            icl.head_floor(CORRELATED, icl.SoftmaxAttention(scores=[np.eye(study.DIM).tolist()])),
            icl.optimal_linear_attention(CORRELATED),
        ),
        experiment=_scalar,
    )
)
