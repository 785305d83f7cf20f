"""Claims of the multi-head study on finite prompts, the query token outside or inside the softmax.

The announcements are those of Cui et al. (arXiv 2401.17426) made exact at every prompt length; the
results are derived by `icltheory`. Exact parts hold closed forms against quadrature, the others
against simulated and trained layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp

import icltheory as icl
from icltheory.symbols import n
from numeric.arrays import task_arrays
from numeric.claims import head_experiments as study
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.head_experiments import (
    BASE,
    DIM,
    GENERAL,
    LINEAR,
    ONE,
    SMALL,
    TRAINED,
    TWO,
    multihead_claim,
)
from numeric.claims.rows import curve, estimate_row, limit_row, points
from numeric.compare import Row, compare
from numeric.montecarlo import Estimate, child_seed, monte_carlo_risk, seed_sequence, stream
from numeric.optimal_heads import OptimalHeads, optimal_heads
from numeric.plot import Figure
from numeric.risk import exact_risk, optimal_risk
from numeric.samplers import heads_of, softmax_sampler
from numeric.validate import measure_risk

FOUR = icl.SoftmaxAttention(heads=4)
SHARP = 0.01  # resolution of simulated against exact risks, in short prompts


def pair_of(score: float, value: float) -> icl.SoftmaxAttention:
    """Two heads of scores +-score and values +-value."""
    return icl.SoftmaxAttention(scores=[score, -score], values=[value, -value])


# -- finite prompts ------------------------------------------------------------------------------


def small_pair_risk(length: int) -> float:
    """Risk of two opposite heads as their scores tend to 0, derived."""
    return float(icl.optimal_finite_prompt_risk(BASE, TWO).subs(n=length))


def pair_slope(length: int) -> float:
    """Its slope in t = k^2 at 0, derived."""
    return float(icl.pair_slope(BASE, TWO).subs(n=length))


def pair_laws() -> tuple[float, float]:
    """lim n k^2 of the best pair, and lim n^3 of what it gains over small scores, derived."""
    scale, gain = icl.pair_scale(BASE).expr, icl.pair_gain(BASE).expr
    return float(sp.limit(n * scale**2, n, sp.oo)), float(sp.limit(n**3 * gain, n, sp.oo))


def head_scale() -> float:
    """Limit of the best score scale of one head, derived."""
    return math.sqrt(study.optimal_constant(BASE, ONE)[1])


def small_score_rows(length: int) -> Iterable[Row]:
    """Value and slope at t = 0 by quadrature at small t, through polynomials of degree 3 and 2."""
    t = 5e-4 * np.arange(1, 5)
    heads = [icl.SoftmaxAttention(scores=[x, -x]) for x in np.sqrt(t)]
    risk = np.array([float(optimal_heads(BASE, pair, length).risk) for pair in heads])
    fits = [np.polynomial.Polynomial.fit(t[:m], risk[:m], m - 1) for m in (3, 4)]
    for name, prediction, (low, high) in (
        ("risk as k -> 0", small_pair_risk(length), [fit(0.0) for fit in fits]),
        ("slope in k^2 at 0", pair_slope(length), [fit.deriv()(0.0) for fit in fits]),
    ):
        setting = {"n": length, "quantity": f"two heads +-k, {name}, by quadrature"}
        yield limit_row(setting, prediction, float(low), float(high))


def pair_law_rows() -> Iterable[Row]:
    """Best scale and gain of the pair in long prompts, and the scale of one head beside it."""
    scale, gain = pair_laws()
    best = {m: optimal_risk(BASE, TWO, m) for m in (1000, 3000, 10**4, 10**5, 10**6)}
    scales = [float(m * best[m].score_scale ** 2) for m in (10**4, 10**5)]
    yield limit_row({"quantity": "two heads, n * best k^2 at n = 1e5"}, scale, *scales)
    slopes = [math.log10(best[10 * m].score_scale / best[m].score_scale) for m in (10**4, 10**5)]
    yield limit_row({"quantity": "two heads, exponent of n in the best k"}, -0.5, *slopes)
    closed = icl.optimal_finite_prompt_risk(BASE, TWO)
    gains = [float(m**3 * (closed.subs(n=m).expr - best[m].risk)) for m in (1000, 3000)]
    setting = {"quantity": "two heads, n^3 * gain of the best k over k -> 0 at n = 3000"}
    yield limit_row(setting, gain, *gains)
    one = [float(optimal_risk(BASE, ONE, m).score_scale) for m in (1e7, 1e8)]
    setting = {"quantity": "one head, best k at n = 1e8"}
    yield limit_row(setting, head_scale(), *one)


def finite_prompt_rows() -> Iterable[Row]:
    """Closed forms of the pair against quadrature, in short and in long prompts."""
    for length in (12, 40):
        yield from small_score_rows(length)
    yield from pair_law_rows()


def four_heads(best: OptimalHeads) -> icl.SoftmaxAttention:
    """The best four heads as a layer; its pair of vanishing scores has the scores +-SMALL."""
    scores = [SMALL, -SMALL, *best.scores[2:]]
    return icl.SoftmaxAttention(
        scores=scores, values=[p / s for p, s in zip(best.products, scores, strict=True)]
    )


def gain_estimate(
    length: int, first: icl.SoftmaxAttention, second: icl.SoftmaxAttention, prompts: int, seed: int
) -> Estimate:
    """Risk of the first layer less that of the second, simulated on the same prompts."""
    arrays = task_arrays(BASE)
    draws = [
        softmax_sampler(arrays, length, heads_of(BASE, layer, None, None), "reduced")
        for layer in (first, second)
    ]

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        root = seed_sequence(int(rng.integers(2**62)))
        one, two = (sample(np.random.default_rng(child_seed(root, 0)), size) for sample in draws)
        return one - two

    return stream(draw, 8 * length, prompts=prompts, seed=seed)


def further_gain_rows(effort: Effort) -> Iterable[Row]:
    """What a second pair gains over one of small scores, simulated."""
    for length in (10, 20):
        layer = four_heads(optimal_heads(BASE, FOUR, length))
        product = float(optimal_risk(BASE, TWO, length, small_scores=True).value_scale)
        pair = pair_of(SMALL, product / (2 * SMALL))
        exact = [float(exact_risk(BASE, x, length)) for x in (pair, layer)]
        yield estimate_row(
            {"n": length, "quantity": "gain of four heads over two of small scores"},
            exact[0] - exact[1],
            gain_estimate(length, pair, layer, 12 * effort.prompts, length),
            required=0.06,
        )


def further_order_row(effort: Effort) -> Row:
    """That this gain is of order n^-2 up to logarithms, which change a local exponent by 1/log n."""
    task = icl.LinearRegression(dim=1)
    lengths = (1000, 10_000) if effort.name == "full" else (100, 1000)
    pairs = optimal_risk(task, TWO, lengths, small_scores=True).risk
    gains = pairs - optimal_heads(task, FOUR, lengths).risk
    setting = {"quantity": f"exponent of n in that gain, d = 1, n = {lengths[0]} to {lengths[1]}"}
    return compare(setting, -2.0, math.log10(gains[1] / gains[0]), 0.01, 0.08)


def optimum_rows(effort: Effort) -> Iterable[Row]:
    """The best layers of one, two and four heads, simulated at their scores and values."""
    cases = [(m, x) for m in (10, 20, 100) for x in (ONE, TWO, FOUR) if m < 100 or x != FOUR]
    for length, attention in cases:
        best = optimal_heads(BASE, attention, length)
        layer = (
            four_heads(best)
            if attention == FOUR
            else icl.SoftmaxAttention(scores=list(best.scores), values=list(best.values))
        )
        exact = float(exact_risk(BASE, layer, length))
        shown = study.signed([float(x) for x in layer.scores or ()])
        setting = {"n": length, "heads": layer.heads, "scores": shown}
        yield from simulated_rows(BASE, layer, length, exact, setting, effort, length == 20)


def simulated_rows(
    task: icl.LinearRegression,
    layer: icl.SoftmaxAttention,
    length: int,
    prediction: float,
    setting: dict[str, Any],
    effort: Effort,
    plain: bool,
) -> Iterable[Row]:
    """A layer of scalar heads against its exact risk: one coordinate a token, and whole prompts."""
    short = length < 100
    cases = [("reduced", 10 if short else 4, SHARP if short else 2 * SHARP)]
    cases += [("plain", 6, None)] if plain else []
    for sampler, factor, required in cases:
        estimate = monte_carlo_risk(
            task,
            layer,
            length,
            prompts=factor * effort.prompts,
            seed=length + layer.heads,
            sampler=sampler,
        )
        yield estimate_row({**setting, "sampler": sampler}, prediction, estimate, required=required)


def _finite_prompts(effort: Effort, progress: Progress) -> Result:
    progress("quadrature", 0.0)
    exact = list(finite_prompt_rows())
    progress("four heads", 0.2)
    further = [*further_gain_rows(effort), further_order_row(effort)]
    progress("simulation", 0.7)
    simulated = list(optimum_rows(effort))
    lengths = np.unique(np.round(np.geomspace(10, 2000, 16))).astype(int)
    grid = tuple(map(float, lengths))
    lines = [
        curve(f"{name}, predicted", grid, lengths * optimal_risk(BASE, x, lengths).risk, (), c)
        for name, x, c in (("one head", ONE, 0), ("two heads", TWO, 1), ("linear", LINEAR, 3))
    ]
    ends = (grid[0], grid[-1])
    lines += [
        curve("", ends, (study.optimal_constant(BASE, x)[0],) * 2, (), c)
        for x, c in ((ONE, 0), (TWO, 1))
    ]
    # Rows of n * risk, to be drawn.
    shown = [row for row in simulated if row.setting["sampler"] == "reduced"]
    marks = [
        study.scaled_points(
            f"{label}, simulated", [r for r in shown if r.setting["heads"] == heads], c
        )
        for heads, label, c in ((1, "one head", 0), (2, "two heads", 1), (4, "four heads", 2))
    ]
    figure = Figure(
        "Finite prompts: n times the best risk",
        "prompt length n",
        "n * risk",
        "Best risks of one head, of two heads and of linear attention, times n (lines), with their "
        "limits (dashed), and simulated layers at the best scores and values (points, one standard "
        "error); d = 5, no noise. One head is far from its limit below n = 1000, in its favour; two "
        "heads differ from linear attention by one example, and four heads barely from two.",
        tuple(lines),
        tuple(marks),
        logy=False,
    )
    parts = (
        Part.of("two heads of small scores, and laws of long prompts", exact),
        Part.of("further heads", further, 1.07),
        Part.of("quadrature against simulated layers", simulated),
    )
    return parts, figure


# -- the query token inside the softmax --------------------------------------------------------------

ONE_WITH_QUERY = icl.SoftmaxAttention(heads=1, include_query=True)
TWO_WITH_QUERY = icl.SoftmaxAttention(heads=2, include_query=True)


def query_cost(length: int) -> float:
    """What the query token costs two heads of small scores, derived."""
    costly, plain = (
        icl.small_pair_risk(BASE, x).subs(n=length).expr for x in (TWO_WITH_QUERY, TWO)
    )
    return float(costly - plain)


def query_rows() -> Iterable[Row]:
    """The constant stays; the pair pays at order n^-3, by quadrature at small scores."""
    for dim in (5, 20):
        task = icl.LinearRegression(dim=dim)
        constant, scale = study.optimal_constant(task, ONE)
        head = {"score_scale": math.sqrt(scale), "value_scale": 1 / math.sqrt(scale)}
        near, far = (m * float(exact_risk(task, ONE_WITH_QUERY, m, **head)) for m in (1e8, 1e9))
        setting = {"d": dim, "quantity": "one head, n * risk at n = 1e9"}
        yield limit_row(setting, constant, near, far)
    for length in (10, 20, 100):
        costly = float(exact_risk(BASE, TWO_WITH_QUERY, length, score_scale=0.0))
        cost = costly - float(optimal_risk(BASE, TWO, length, small_scores=True).risk)
        setting = {"d": DIM, "n": length, "quantity": "cost to two heads of small scores"}
        yield compare(setting, query_cost(length), cost, 1e-10)
    # The cost is of order n^-3: the next order changes the exponent by O(1/n).
    costs = [query_cost(m) for m in (10**4, 10**5, 10**6)]
    near, far = (math.log10(y / x) for x, y in pairwise(costs))
    yield limit_row({"d": DIM, "quantity": "exponent of n in that cost"}, -3.0, near, far)


def query_layer_rows(effort: Effort) -> Iterable[Row]:
    """Layers with the token against their exact risk."""
    for length in (20, 40):
        for heads, score, value in ((1, 0.39, 1.9), (2, 0.3, 1.5)):
            attention = ONE_WITH_QUERY if heads == 1 else TWO_WITH_QUERY
            scales = {"score_scale": score, "value_scale": value}
            exact = float(exact_risk(BASE, attention, length, **scales))
            layer = icl.SoftmaxAttention(
                scores=[score, -score][:heads], values=[value, -value][:heads], include_query=True
            )
            setting = {"n": length, "heads": heads, "layer": f"k = {score}, v = {value}"}
            yield from simulated_rows(BASE, layer, length, exact, setting, effort, length == 20)


def trained(heads: int, length: int, effort: Effort) -> Estimate:
    """Risk on fresh prompts of a trained layer with the query token inside."""
    from numeric import finite

    model = finite.SoftmaxAttention(DIM, heads=heads, include_query=True, seed=heads)
    finite.train(model, BASE, length, steps=effort.training_steps, seed=length, progress=False)
    return measure_risk(model, BASE, length, prompts=8 * effort.prompts, seed=10_000 + length)


def _query_token(effort: Effort, progress: Progress) -> Result:
    progress("quadrature", 0.0)
    exact = list(query_rows())
    progress("simulation", 0.2)
    layers = list(query_layer_rows(effort))
    models = []
    # Two heads are best in the limit of small scores there.
    best = {
        1: float(optimal_risk(BASE, ONE_WITH_QUERY, 20).risk),
        2: small_pair_risk(20) + query_cost(20),
    }
    for heads, risk in best.items():
        progress(f"training {heads} head(s)", 0.1 + 0.3 * heads)
        setting = {"n": 20, "heads": heads}
        models.append(estimate_row(setting, risk, trained(heads, 20, effort), TRAINED))
    lengths = np.unique(np.round(np.geomspace(8, 400, 6))).astype(int)
    grid = tuple(map(float, lengths))
    lines = [
        curve(name, grid, optimal_risk(BASE, x, lengths, **o).risk, (), c)
        for name, x, c, o in (
            ("one head, token inside", ONE_WITH_QUERY, 2, {}),
            ("one head, token outside", ONE, 0, {}),
            ("two heads, token outside", TWO, 1, {}),
        )
    ]
    small = [small_pair_risk(int(m)) + query_cost(int(m)) for m in lengths]
    lines.append(curve("two heads, token inside", grid, small, (), 4))
    figure = study.risk_figure(
        "The query token inside the softmax",
        "Best risks with and without the query token among the keys, its label slot being 0 (lines), "
        "and layers with the token trained at n = 20 (points, one standard error); d = 5, no noise. The "
        "token costs one head about a quarter more risk in short prompts and two heads next to nothing.",
        lines,
        [
            points("one head, trained", models[:1], "n", 2),
            points("two heads, trained", models[1:], "n", 4),
        ],
    )
    return study.standard_parts(exact, layers, models, "exact results"), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    multihead_claim(
        id="multihead-finite-prompts",
        title="The comparison at every prompt length",
        statement="Two opposite heads of small scores have a closed risk at every n. Their best score "
        "scale is positive and shrinks like n^(-1/2), for a gain of order n^-3; further heads gain "
        "order n^-2 up to logarithms.",
        formulas=lambda: (
            icl.optimal_finite_prompt_risk(GENERAL, TWO),
            icl.pair_slope(GENERAL, TWO),
            icl.pair_scale(GENERAL),
            icl.pair_gain(GENERAL),
        ),
        experiment=_finite_prompts,
    )
)

register(
    multihead_claim(
        id="multihead-query-token",
        title="The query token inside the softmax",
        statement="With the query token among the keys all constants stay. In short prompts one head "
        "is much worse with it, two heads pay at order n^-3 only: the advantage of two heads grows.",
        formulas=lambda: (icl.small_pair_risk(GENERAL, TWO_WITH_QUERY),),
        experiment=_query_token,
    )
)
