"""How much noise is best for choosing among chains: Chen, Lu, Wu and Zou (arXiv 2508.07571).

Continuous answers. An oracle at its best noise reaches the rate-distortion curve of many dimensions;
how low that is in few is part of the claim. Derived by `icltheory`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

import icltheory as icl
from icltheory.symbols import noise_std
from numeric.best_of_n import (
    selection_risk,
    small_noise_optimum,
)
from numeric.chain_laws import chain_law
from numeric.chain_prompts import DecodingPrompts, PromptAverage, decoding_prompts
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.decoding import HALF, decoding_claim
from numeric.claims.decoding_selection import (
    VERIFIERS,
    band_row,
    least_of,
    paired_row,
    worse,
)
from numeric.claims.rows import curve, holds, limit_row, scatter
from numeric.compare import Row, compare
from numeric.plot import Figure
from numeric.selection import simulate_selection

# Predicted over simulated risk of oracle best-of-N at the predicted noise.
ORACLE = {10: (0.71, 0.81), 40: (0.91, 0.96)}


def oracle_data(d: int, prompts: int, n: int = 10**7) -> DecodingPrompts:
    """Prompts so long that all have S = 1, and coefficients of one length: one bias for all."""
    return decoding_prompts(n, d, prompts, prior=icl.Signs(), reduced=True, seed=d)


def oracle_rows(effort: Effort) -> Iterator[tuple[Row, tuple[Row, ...]]]:
    """Oracle best-of-N at its best noise, and at less and more of it."""
    for d, t in ((10, 1), (10, 2), (40, 1)):
        data = oracle_data(d, effort.prompts // 100 if d == 10 else effort.prompts // 400)
        quiet = icl.NoisyDecoding(HALF, 0, t, noise_where="output")
        bias = chain_law(data, quiet).mean_error()
        for many in (16, 256, 4096):
            law = icl.oracle_selection_risk(many, d, float(bias.mean()))
            assert law.minimizer is not None
            best = float(law.minimizer[noise_std])
            predicted = PromptAverage(bias * (float(law) / bias.mean()) / d)
            found = []
            for factor in (1.0, 0.5, 1.6) if many == 256 else (1.0,):
                chain = icl.NoisyDecoding(HALF, factor * best, t, noise_where="output")
                sim = simulate_selection(data, chain, [many], rules=("oracle",), seed=many)
                found.append(sim.risk("oracle")[0])
            setting = {"d": d, "thoughts": t, "chains": many}
            row = band_row(setting, ORACLE[d], predicted, found[0])
            others = tuple(
                holds({**setting, "quantity": f"{words} is worse"}, worse(other, found[0]))
                for words, other in zip(("less noise", "more noise"), found[1:], strict=False)
            )
            yield row, others


def exponent_rows() -> Iterator[Row]:
    """Halving the bias costs 2^(d/2) chains, exactly to leading order: far out in d."""
    ratios = []
    for d in (200, 800):
        law = icl.oracle_selection_risk(2 ** (d // 2), d, d)
        assert law.minimizer is not None
        best = float(law.minimizer[noise_std])
        ratios.append(least_of(d, 1.0, best**2, 2.0 ** (d / 2)) / d)
    setting = {"d": 800, "chains": "2^(d/2)", "quantity": "exact risk over bias"}
    yield limit_row(setting, 0.5, *ratios, required=0.15)
    # The exact risk at a finite d agrees with the stated bands as well.
    for d, (low, high) in ORACLE.items():
        for many in (16, 4096):
            law = icl.oracle_selection_risk(many, d, d)
            assert law.minimizer is not None
            exact = least_of(d, 1.0, float(law.minimizer[noise_std]) ** 2, many)
            setting = {"d": d, "chains": many, "quantity": f"over exact, from {low} to {high}"}
            middle, half = (low + high) / 2, (high - low) / (high + low)
            yield compare(setting, middle, float(law) / exact, 1e-6, half)


def small_noise_rows(effort: Effort) -> Iterator[Row]:
    """Best noise while it is small: bias minus m_N^2 G^2/V, within 3 %, at d = 40."""
    data = decoding_prompts(80, 40, effort.prompts // 200, seed=4)
    law = chain_law(data, icl.NoisyDecoding(HALF, 1, 3))
    for rule in VERIFIERS:
        for many in (8, 64):
            factor, error = small_noise_optimum(law, many, verifier=rule)
            chain = icl.NoisyDecoding(HALF, float(factor.mean()), 3)
            found = simulate_selection(data, chain, [many], rules=(rule,), pool=4 * many, seed=8)
            setting = {"d": 40, "verifier": rule, "chains": many}
            yield paired_row(
                {**setting, "quantity": "risk at the best small noise"},
                PromptAverage(error / 40),
                found.risk(rule)[0],
                allowance=0.03,
                required=0.06,
            )


def temperature(effort: Effort, progress: Progress) -> Result:
    """Experiment of the claim on the best noise."""
    progress("oracle", 0.0)
    pairs = list(oracle_rows(effort))
    progress("small noise", 0.7)
    exponents, small = list(exponent_rows()), list(small_noise_rows(effort))
    d = 10
    data = oracle_data(d, 100)
    bias = float(chain_law(data, icl.NoisyDecoding(HALF, 0, 1)).mean_error().mean())
    stds = np.geomspace(0.1, 1.5, 25)
    lines, marks = [], []
    for color, many in enumerate((16, 256, 4096)):
        grid = icl.NoisyDecoding(HALF, 1, 1)
        values = selection_risk(data, grid, many, rule="oracle", noise_std=stds).value
        lines.append(curve(f"{many} chains, saddlepoint", stds, values, (), color))
        law = icl.oracle_selection_risk(many, d, bias)
        assert law.minimizer is not None
        best = float(law.minimizer[noise_std])
        found = []
        for std in (0.5 * best, best, 2 * best):
            chain = icl.NoisyDecoding(HALF, std, 1)
            sim = simulate_selection(data, chain, [many], rules=("oracle",), seed=3)
            risk = sim.risk("oracle")[0]
            found.append((std, float(risk.value), float(risk.standard_error)))
        marks.append(scatter(f"{many} chains, simulated", found, color))
    figure = Figure(
        "How much noise an oracle wants",
        "noise standard deviation",
        "risk per coordinate",
        "One noisy thought on an endless prompt at d = 10, the best of N kept by an oracle: saddlepoint "
        "(lines) and simulation at half, once and twice the best noise that the limit of many dimensions "
        "predicts (points).",
        tuple(lines),
        tuple(marks),
    )
    return (
        Part.of("oracle at its best noise: how low", (r for r, _ in pairs), 1.2),
        Part.of("less and more noise", (row for _, rows in pairs for row in rows)),
        Part.of("exponent in many dimensions", exponents),
        Part.of("best small noise", small, 1.1),
    ), figure


# -- the claims ------------------------------------------------------------------------------------

register(
    decoding_claim(
        id="decoding-oracle-temperature",
        title="The best noise of an oracle",
        statement="At its best noise an oracle multiplies the squared bias by N^(-2/d), so that halving it "
        "costs 2^(d/2) chains. That is 19 to 29 % low at d = 10, 4 to 9 % at d = 40, and exact to leading "
        "order as d grows; less noise and more noise are both worse.",
        formulas=lambda: (icl.oracle_selection_risk(), icl.normal_maximum_mean()),
        experiment=temperature,
    )
)
