"""Claims of Cui et al. on local examples, and on tests with another law than that of the training.

The abstract (arXiv 2401.17426) announces local examples as one of the extensions and contains no
formula; all predictions are derived by `icltheory` and held against exact finite prompts, the real
softmax layer, and trained models.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import icltheory as icl
from icltheory.symbols import d, noise_var
from numeric.claims import head_experiments as study
from numeric.claims import scenario_experiments as scenarios
from numeric.claims.base import Effort, Progress, Result, register
from numeric.claims.head_experiments import (
    BASE,
    DIM,
    LINEAR,
    ONE,
    SMALL,
    TRAINED,
    TWO,
    multihead_claim,
)
from numeric.claims.rows import line, points
from numeric.claims.scenario_experiments import (
    GRID,
    SCALAR,
    WORDS,
    N,
    Tested,
    best_risk,
    exact_row,
    heads,
    layer_row,
    local,
    long_prompt_row,
    one_start,
)
from numeric.compare import Row
from numeric.plot import Figure
from numeric.risk import exact_risk, given_heads, optimal_risk

# -- local examples --------------------------------------------------------------------------------


LAWS = ((1, 1, 0), (0.5, 1, 0.25), (1, 0.75, 0))
DIMS = (1, 5, 20)


def _local_examples(effort: Effort, progress: Progress) -> Result:
    progress("exact risks", 0.0)
    exact, layer, layers = list(local_exact()), [], []
    progress("simulation of the layer", 0.2)
    for law in LAWS:
        task, label = local(*law), {"rho, tau, noise": str(law)}
        for count in (1, 2):
            risk = optimal_risk(task, heads(count, {}), N).risk
            numbers = scenarios.best_layer(task, count, N)
            sampler = "plain" if law == LAWS[1] else "reduced"
            layer.append(layer_row(task, numbers, N, risk, effort, label, sampler))
            # A plain average of the labels has the value 1; from 4 a head needs three times the steps.
            size = 1.0 if count == 1 else 4.0
            name = f"rho = {law[0]}, tau = {law[1]}, noise = {law[2]}"
            layers.append(Tested.own(name, task, N, risk, heads=count, value=size, prompts=2))
    progress("training", 0.4)
    rows = scenarios.trained_rows(layers, effort)
    ratios = [
        study.ratio_row(
            {
                "layer": one.setting["layer"],
                "n": N,
                "quantity": "risk of one head over that of two",
            },
            one,
            two,
            TRAINED,
        )
        for one, two in zip(rows[::2], rows[1::2], strict=True)
    ]
    return study.standard_parts(exact, layer, rows + ratios), _local_figure(rows)


def local_exact() -> Iterator[Row]:
    """Constants, sums of values and finite prompts against quadrature."""
    for law in LAWS:
        task, label = local(*law), {"rho, tau, noise": str(law)}
        for count in (1, 2):
            layer = heads(count, {})
            yield long_prompt_row(
                f"{WORDS[count]}, n * risk",
                icl.optimal_loss_constant(task, layer),
                lambda n, task=task, layer=layer: n * optimal_risk(task, layer, n).risk,
                label=label,
            )
        risks = [
            float(given_heads(task, icl.SoftmaxAttention(scores=[scale, -scale]), N)[0])
            for scale in (SMALL / 2, SMALL)
        ]
        yield exact_row(
            f"two heads, risk at n = {N} by quadrature",
            icl.optimal_finite_prompt_risk(task, TWO).subs(n=N),
            risks[0],
            risks[0] - risks[1],
            label=label,
        )
        yield _value_sum_row(task, label)
    for dim in DIMS:
        task = local(1, 1, dim=dim)
        one, two = (icl.optimal_loss_constant(task, x) for x in (ONE, TWO))
        yield long_prompt_row(
            "risk of one head over that of two, rho = tau = 1",
            float(one) / float(two),
            lambda n, task=task: study.ratio(
                optimal_risk(task, ONE, n).risk, optimal_risk(task, TWO, n).risk
            ),
            label={"d": dim},
        )
    task = local(1, 1)
    yield long_prompt_row(
        "uncentred linear attention, rho = tau = 1, risk",
        icl.shift_floor(task, task, LINEAR),
        lambda n: optimal_risk(task, LINEAR, n).risk,
    )


def _value_sum_row(task: icl.LinearRegression, label: dict) -> Row:
    """sum_h v_h of the best pair by quadrature; halving scores, or n, shows the error."""

    def total(scale: float, n: float) -> float:
        return float(np.sum(given_heads(task, icl.SoftmaxAttention(scores=[scale, -scale]), n)[1]))

    found, wide, short = total(SMALL / 2, 1e7), total(SMALL, 1e7), total(SMALL / 2, 5e6)
    error = abs(found - wide) + abs(found - short)
    quantity = "two heads, sum of the values, n = 1e7"
    return exact_row(quantity, icl.local_value_sum(task), found, error, label)


def _local_figure(rows: list[Row]) -> Figure:
    rho, tau, noise = LAWS[1]
    near, base = local(*LAWS[1]), icl.LinearRegression(dim=DIM, noise_var=noise)
    return Figure(
        "Examples around the query",
        "prompt length n",
        "risk",
        f"Predicted optimal risks for x_i ~ N({rho} x_q, {tau}^2 I) and for examples independent of the "
        f"query (lines), d = 5, noise {noise}, and layers trained on local examples (points, one "
        "standard error). A plain average of the labels already reads theta.x_q: the risk is far "
        "smaller, and one head is nearly as good as two.",
        tuple(
            line(
                f"{WORDS[count]}, {where}",
                color,
                GRID,
                lambda n, task=task, count=count: best_risk(task, count, n),
            )
            for task, where, colors in ((base, "independent", (3, 4)), (near, "local", (0, 1)))
            for count, color in zip((1, 2), colors, strict=True)
        ),
        (
            points("one head, trained", rows[2:3], "n", 0),
            points("two heads, trained", rows[3:4], "n", 1),
        ),
    )


# -- distribution shift ----------------------------------------------------------------------------

SHIFTS = ((1, 0.75), (0.5, 1.25))


def _shift(effort: Effort, progress: Progress) -> Result:
    progress("exact risks", 0.0)
    exact, layer = list(shift_exact()), []
    progress("simulation of the layer", 0.2)
    near, full = local(*SHIFTS[0]), local(1, 1)
    name = f"local {SHIFTS[0]}"
    for count in (1, 2):
        for source, target, label in (
            (BASE, near, f"base -> {name}"),
            (near, BASE, f"{name} -> base"),
        ):
            numbers = scenarios.best_layer(source, count, N)
            risk = exact_risk(target, numbers, N)
            layer.append(layer_row(target, numbers, N, risk, effort, {"law": label}))
    progress("training", 0.4)
    layers = []
    for count in (1, 2):
        for source, label, laws in (
            (BASE, "trained on base", (("base", BASE), (name, near), ("local (1, 1)", full))),
            (near, f"trained on {name}", ((name, near), ("base", BASE))),
        ):
            numbers = scenarios.best_layer(source, count, N)
            tests = tuple((law, task, float(exact_risk(task, numbers, N))) for law, task in laws)
            size = 1.0 if source is near and count == 1 else 4.0
            # On another law the risk is not stationary in the parameters: they are learned longer.
            layers.append(
                Tested(
                    label,
                    one_start(source, N, heads=count, options=SCALAR, value=size),
                    tests,
                    prompts=2,
                    steps=2,
                )
            )
    rows = scenarios.trained_rows(layers, effort)
    return study.standard_parts(exact, layer, rows), _shift_figure(rows, near, name)


def shift_exact() -> Iterator[Row]:
    """Limits after a shift against quadrature in long prompts, at the leading-order optimum."""
    for rho, tau in SHIFTS:
        near = local(rho, tau)
        for source, target, label in (
            (BASE, near, f"base -> local ({rho}, {tau})"),
            (near, BASE, f"local ({rho}, {tau}) -> base"),
        ):
            for count in (1, 2):
                numbers = scenarios.leading_layer(source, count)
                yield long_prompt_row(
                    f"{WORDS[count]}, {label}, risk",
                    icl.shift_floor(source, target, heads(count, {})),
                    lambda n, target=target, numbers=numbers: exact_risk(target, numbers, n),
                )


def _shift_figure(rows: list[Row], near: icl.LinearRegression, name: str) -> Figure:
    def other(count: int, source: icl.LinearRegression) -> list[Row]:
        trained_on, law = ("base", name) if source is BASE else (name, "base")
        return [
            row
            for row in rows
            if row.setting["heads"] == count
            and row.setting["layer"] == f"trained on {trained_on}"
            and row.setting["tested on"] == law
        ]

    lengths = (10, 15, 20, 30, 40, 60, 100, 200, 400, 1000, 3000)
    cases = [
        (f"{WORDS[count]}, {words}", color, count, source, target)
        for words, source, target, colors in (
            ("base on local", BASE, near, (0, 1)),
            ("local on base", near, BASE, (3, 4)),
        )
        for count, color in zip((1, 2), colors, strict=True)
    ]
    return Figure(
        "Trained on one law, tested on the other",
        "prompt length n",
        "risk on the other law",
        f"Base: examples independent of the query; local: N({SHIFTS[0][0]} x_q, {SHIFTS[0][1]}^2 I). "
        "Lines: exact risk of the layer that is optimal for its own law at each length, which tends "
        "to a floor. Points: trained layers, one standard error. A zero-sum pair does not see that the "
        "examples lie around the query, one head of the base law is misled by it.",
        tuple(
            line(
                label,
                color,
                lengths,
                lambda n, count=count, source=source, target=target: exact_risk(
                    target, scenarios.best_layer(source, count, n), n
                ),
            )
            for label, color, count, source, target in cases
        ),
        tuple(
            points("" if color else "trained", other(count, source), "n", color)
            for _, color, count, source, _ in cases
        ),
    )


# -- the claims ------------------------------------------------------------------------------------

register(
    multihead_claim(
        id="multihead-local-examples",
        title="Local examples",
        statement="With examples around the query the constants are of order 1 instead of d, and the "
        "gap between one and several heads closes.",
        formulas=lambda: (
            icl.local_constant(icl.LinearRegression(dim=d, noise_var=noise_var, local=(1, 1))),
            icl.optimal_loss_constant(
                icl.LinearRegression(dim=d, noise_var=noise_var, local=(1, 1)), TWO
            ),
            icl.local_value_sum(icl.LinearRegression(dim=d, noise_var=noise_var, local=(1, 1))),
            icl.optimal_finite_prompt_risk(local(1, 1), TWO),
        ),
        experiment=_local_examples,
    )
)
register(
    multihead_claim(
        id="multihead-distribution-shift",
        title="Trained on one law, tested on the other",
        statement="Layers trained on independent examples and tested on local ones, or the reverse, "
        "keep a risk that does not vanish with the prompt length; its limit is predicted.",
        formulas=lambda: tuple(
            icl.shift_floor(source, target, layer)
            for source, target in ((BASE, local(*SHIFTS[0])), (local(*SHIFTS[0]), BASE))
            for layer in (ONE, TWO)
        ),
        experiment=_shift,
    )
)
