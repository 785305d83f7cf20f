"""Claim of Boursier & Boyer on the gradients of large prompts, in the value and key-query matrices.

Their distance from the limit (arXiv 2512.11784), simulated at a fixed query: the leading law of order
1/n and its exponent.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import icltheory as icl
import numeric
from icltheory.formula import BOURSIER
from numeric.claims.base import Effort, Part, Progress, Result, register
from numeric.claims.largeprompt import GAUSSIAN, U_SYMBOLS, largeprompt_claim
from numeric.claims.rows import curve, scatter
from numeric.compare import Row, compare
from numeric.montecarlo import Estimate, stream
from numeric.plot import Figure


def gradient_constant(law: Any, u: np.ndarray, query: np.ndarray, value: np.ndarray) -> float:
    """lim n E |grad_U T_n - grad_U T_inf|^2."""
    table = icl.leading_gradient_error(law, u.tolist(), query.tolist(), value.tolist())
    return float(table["U"])


def simulated_gradient_error(
    law: Any, query: np.ndarray, U: np.ndarray, value: np.ndarray, n: int, prompts: int, seed: int
) -> tuple[Estimate, Estimate]:
    """E |grad T_n - grad T_inf|^2 of one output in V and in U, by the closed gradients of prompts."""
    one = np.ones(1)
    limit = numeric.output_gradients(law, query, one, value, U=U)

    def draw(name: str) -> Any:
        def squared(rng: np.random.Generator, size: int) -> np.ndarray:
            tokens = numeric.sample_tokens(law, (size, n), rng)
            found = numeric.output_gradients(tokens, query, one, value, U=U)
            return np.sum((found[name] - limit[name]) ** 2, axis=(-2, -1))

        return squared

    floats = n * (3 * law.dim + 4)
    return tuple(  # type: ignore[return-value]
        stream(draw(name), floats, prompts=prompts, seed=seed + i) for i, name in enumerate("VU")
    )


def gradient_rows(effort: Effort) -> tuple[list[Row], list[Row], Figure]:
    """Errors of the gradients in V and U at several n, and the exponent of their decay."""
    query, value = np.array([1.0, 0.5]), np.array([[1.0, -0.5]])
    lengths = (250, 1000, 4000)
    rows, exponents, shown = [], [], {"V": [], "U": []}
    constants = {}
    for name, law in (("Gaussian", GAUSSIAN), ("Rademacher", icl.Rademacher(2))):
        U = np.array([[0.4, 0.1], [0.0, 0.5]])
        u = U @ query
        limits = {
            "V": float(np.trace(numeric.leading_covariance(law, u))),
            "U": gradient_constant(law, u, query, value),
        }
        found: dict[str, list[Estimate]] = {"V": [], "U": []}
        for n in lengths:
            prompts = int(30 * effort.prompts / math.sqrt(n))
            both = simulated_gradient_error(law, query, U, value, n, prompts, seed=n)
            for block, sample in zip("VU", both, strict=True):
                found[block].append(sample)
        rho = float(numeric.weight_moment(law, u))
        for block in "VU":
            n, sample = lengths[-1], found[block][-1]
            rows.append(
                compare(
                    {"law": name, "gradient in": block, "quantity": f"n E |error|^2, n = {n}"},
                    limits[block],
                    n * sample.value,
                    n * sample.standard_error,
                    12 * rho**2 / n,
                    required=0.12,
                )
            )
            # Slope between the shortest and the longest prompt; its error from the two samples.
            first, last = found[block][0], found[block][-1]
            span = math.log(lengths[-1] / lengths[0])
            exponents.append(
                compare(
                    {"law": name, "gradient in": block, "quantity": "exponent of n, 250 to 4000"},
                    1.0,
                    math.log(first.value / last.value) / span,
                    math.hypot(first.relative_error, last.relative_error) / span,
                    20 * rho**2 / lengths[0] / span,
                    required=0.12,
                )
            )
            if name == "Gaussian":
                shown[block], constants[block] = found[block], limits[block]
    grid = np.geomspace(lengths[0] / 2, lengths[-1] * 2, 20)
    figure = Figure(
        "Gradients of a finite prompt",
        "prompt length n",
        "E |gradient - limit|^2",
        "Derivatives of one output in V and in U at a fixed query, Gaussian tokens: leading law of order "
        "1/n (lines) and simulated prompts (points, one standard error).",
        tuple(
            curve(f"in {block}, leading law", grid, c / grid, color=i)
            for i, (block, c) in enumerate(constants.items())
        ),
        tuple(
            scatter(
                f"in {block}, simulated",
                [(n, s.value, s.standard_error) for n, s in zip(lengths, samples, strict=True)],
                i,
            )
            for i, (block, samples) in enumerate(shown.items())
        ),
    )
    return rows, exponents, figure


def _gradient_concentration(effort: Effort, progress: Progress) -> Result:
    progress("simulating gradients of prompts", 0.0)
    rows, exponents, figure = gradient_rows(effort)
    parts = (
        Part.of("errors of the gradients, leading order", rows, 1.06),
        Part.of("exponents at a fixed query", exponents, 1.09),
    )
    return parts, figure


register(
    largeprompt_claim(
        id="largeprompt-gradient-concentration",
        source=BOURSIER.at("Proposition 3.4"),
        title="Concentration of the gradients",
        statement="The derivatives of the output in the value matrix and in the merged key-query matrix "
        "approach their limits at the same rates as the output.",
        formulas=lambda: tuple(
            icl.leading_gradient_error(icl.Gaussian([0], [[1]]), U_SYMBOLS[:1], [1]).values()
        ),
        experiment=_gradient_concentration,
    )
)
