"""Claims of Boursier & Boyer on large prompts: the limit, and how fast finite prompts approach it.

The paper (arXiv 2512.11784) identifies infinite-prompt softmax attention with linear attention for
Gaussian tokens and bounds the distance of finite prompts from it, with constants that are not
explicit. Held here against simulated softmax averages: the limit and its 1/n terms for nine laws,
exact finite-n errors, and the exponents of the query-averaged error. Gradients are in
`numeric.claims.largeprompt_gradients`, the training claims in `numeric.claims.largeprompt_training`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
import sympy as sp

import icltheory as icl
import numeric
from icltheory.formula import BOURSIER
from numeric.claims.base import Claim, Effort, Part, Progress, Result, register
from numeric.claims.rows import curve, estimate_row
from numeric.compare import Row, compare
from numeric.montecarlo import stream
from numeric.plot import Figure

largeprompt_claim = partial(Claim, paper="largeprompt")

DIM = 3
DIRECTION = np.array([2.0, 1.0, -2.0]) / 3.0
_RNG = np.random.default_rng(5)
# A small data set with mean 0 and covariance I, like every law below.
_DATA = _RNG.laplace(size=(60, DIM))
_DATA -= _DATA.mean(0)
_DATA = _DATA @ np.linalg.inv(np.linalg.cholesky(_DATA.T @ _DATA / len(_DATA))).T

# Mean 0 and covariance I: one linear response, and limits that differ from it.
LAWS: dict[str, Any] = {
    "Gaussian": icl.Gaussian([0] * DIM, np.eye(DIM)),
    "Gaussian mixture": icl.GaussianMixture(
        [0.5, 0.5],
        [[0.96, 0.0, 0.0], [-0.96, 0.0, 0.0]],
        [[0.0784, 1.0, 1.0]] * 2,
    ),
    "Rademacher": icl.Rademacher(DIM),
    "uniform cube": icl.UniformCube(DIM, half_width=math.sqrt(3)),
    "Laplace": icl.Laplace(DIM, scale=math.sqrt(0.5)),
    "sphere": icl.Sphere(DIM, radius=math.sqrt(3)),
    "scale mixture": icl.ScaleMixture([1] * DIM, scales=[0.4, 1.6]),
    "Empirical": icl.Empirical(_DATA),
}
SHOWN = ("Gaussian", "Rademacher", "sphere", "scale mixture", "Laplace")
# |u| of the simulated prompts; four times it is in the domain of the Laplace law.
SCALES = {"Laplace": 0.5, "scale mixture": 0.9}
LENGTH = 400  # tokens of a simulated prompt
U_SYMBOLS = sp.symbols("u1:4", real=True)
TAUS = (0.1, 0.5, 1.0, 2.0, 4.0)  # squared score scales of the query


# -- predictions ---------------------------------------------------------------------------------


def predicted_output(law: Any, u: np.ndarray, n: int) -> np.ndarray:
    """E T_n to order n^-2: the limit and two corrections."""
    first, second = (numeric.leading_bias(law, u, order) / n**order for order in (1, 2))
    return numeric.limit_output(law, u) + first + second


def leading_variance(law: Any, u: np.ndarray) -> np.ndarray:
    """lim n Cov T_n."""
    return numeric.leading_covariance(law, u)


def exact_error(law: Any, u: np.ndarray, n: int) -> float:
    """E |T_n - T_inf|^2 of Gaussian tokens at every n."""
    return float(numeric.output_moments(law, u, n).error)


def predicted_exponent(tau: float) -> float:
    """kappa(tau)."""
    return float(icl.concentration_exponent().subs(tau=tau))


# -- the limit -----------------------------------------------------------------------------------


def limit_rows(effort: Effort, seed: int = 0) -> tuple[list[Row], list[Row], list[Row]]:
    """Mean output along u, its distance from the linear response, and the variance, for every law."""
    outputs, deviations, variances = [], [], []
    for i, (name, law) in enumerate(LAWS.items()):
        scale = SCALES.get(name, 0.7)
        u = scale * DIRECTION
        mean = predicted_output(law, u, LENGTH)
        sample = numeric.simulate_output(law, u, LENGTH, prompts=effort.prompts, seed=seed + i)
        setting = {"law": name, "n": LENGTH, "|u|": scale}
        outputs += [
            compare({**setting, "coordinate": j + 1}, mean[j], sample.mean[j], sample.mean_error[j])
            for j in range(DIM)
        ]
        if name != "Gaussian":
            # The largest coordinate of the deviation, in units of itself.
            j = int(np.argmax(np.abs(mean - u)))
            deviations.append(
                compare(
                    {**setting, "quantity": "mean output less the linear response"},
                    mean[j] - u[j],
                    sample.mean[j] - u[j],
                    sample.mean_error[j],
                    required=0.15,
                )
            )
        u = 0.35 * DIRECTION
        half = max(effort.prompts // 2, 2)
        sample = numeric.simulate_output(law, u, LENGTH, prompts=half, seed=50 + seed + i)
        # The next order in 1/n, relative to the leading one, is of the size of this moment ratio.
        moments = [float(numeric.weight_moment(law, u, power)) for power in (2, 4)]
        allowance = moments[1] / moments[0] / LENGTH
        j = int(np.argmax(np.abs(u)))
        variances.append(
            compare(
                {**setting, "|u|": 0.35, "quantity": f"n Var of coordinate {j + 1}"},
                leading_variance(law, u)[j, j],
                LENGTH * sample.covariance[j, j],
                LENGTH * sample.covariance_error[j, j],
                allowance,
                required=allowance + 0.08,
            )
        )
    return outputs, deviations, variances


def _limit(effort: Effort, progress: Progress) -> Result:
    progress("simulating prompts of eight laws", 0.0)
    outputs, deviations, variances = limit_rows(effort)
    progress("figure", 0.7)
    grid = np.linspace(0, 3, 61)
    lines, measured = [], []
    for color, name in enumerate(SHOWN):
        law = LAWS[name]
        reach = grid[grid < 1.75] if name == "Laplace" else grid
        values = numeric.limit_output(law, reach[:, None] * DIRECTION) @ DIRECTION
        lines.append(curve(name, reach, values, color=color))
        at = np.array([0.4, 0.8, 1.2]) if name == "Laplace" else np.array([0.75, 1.5, 2.25])
        samples = [
            numeric.simulate_output(law, x * DIRECTION, 1000, prompts=500, seed=90 + color)
            for x in at
        ]
        measured.append(
            curve(
                "" if color else "simulated, n = 1000",
                at,
                [s.mean @ DIRECTION for s in samples],
                [np.hypot.reduce(s.mean_error * DIRECTION) for s in samples],
                color,
            )
        )
    figure = Figure(
        "What an infinite prompt reads",
        "size of the dual point, |u|",
        "output along u",
        "Infinite-prompt softmax attention reads the gradient of the tokens' cumulant generating "
        "function (lines); simulated prompts of 1000 tokens (points, one standard error) approach it. "
        "All laws have mean 0 and covariance I, hence one slope at 0; only the Gaussian limit is a "
        "straight line, that of linear attention. Where the weights are heavy-tailed, 1000 tokens are "
        "few: the Gaussian and Laplace points fall below their limits.",
        tuple(lines),
        tuple(measured),
        logx=False,
        logy=False,
    )
    parts = (
        Part.of("mean output of eight laws, to order n^-2", outputs),
        Part.of("softmax is not linear attention for seven of them", deviations),
        Part.of("variance of the output, leading order", variances, 1.06),
    )
    return parts, figure


# -- concentration -------------------------------------------------------------------------------

GAUSSIAN = icl.Gaussian([0, 0], [[1, 0.3], [0.3, 0.8]])


def scaled_dual(scale: float) -> np.ndarray:
    """A dual point at which the scores have this standard deviation."""
    u = np.array([0.7, -0.4])
    cov = numeric.limit_jacobian(GAUSSIAN, u)
    return u * scale / math.sqrt(u @ cov @ u)


def error_rows(effort: Effort) -> Iterable[Row]:
    """Simulated against exact mean squared errors; the last row is the case n = 1."""
    for n, scale in ((1, 0.5), (3, 0.5), (3, 2.0), (30, 0.5), (30, 2.0), (30, 4.5), (300, 2.0)):
        u = scaled_dual(scale)
        sample = numeric.simulated_error(
            GAUSSIAN, u, n, prompts=int(80 * effort.prompts / max(n, 20)) + 20_000, seed=n
        )
        yield estimate_row(
            {"n": n, "score scale": scale, "quantity": "E |T_n - T_inf|^2"},
            exact_error(GAUSSIAN, u, n),
            sample,
            required=0.06,
        )


def exponent_rows() -> Iterable[Row]:
    """Exponents of the query-averaged error, fitted to exact errors of very long prompts."""
    for square in TAUS:
        measured = numeric.local_exponent(math.sqrt(square))
        yield compare(
            {"tau^2": square, "quantity": "exponent, fitted at n = 1e64 to 1e1024"},
            predicted_exponent(math.sqrt(square)),
            measured.exponent,
            max(measured.uncertainty, 1e-9),
        )


def averaged_rows(effort: Effort) -> Iterable[Row]:
    """Errors averaged over sampled queries and prompts, where their variance is finite."""
    law, tau = icl.Gaussian([0], [[1]]), math.sqrt(0.1)
    for n in (20, 200):

        def draw(rng: np.random.Generator, size: int, n: int = n) -> np.ndarray:
            query, tokens = rng.standard_normal(size), rng.standard_normal((size, n))
            weights = np.exp(tau * query[:, None] * tokens)
            output = (weights * tokens).sum(1) / weights.sum(1)
            return (output - tau * query) ** 2

        sample = stream(draw, 3 * n, prompts=4 * effort.prompts, seed=n)
        yield estimate_row(
            {"tau^2": 0.1, "quantity": f"query-averaged error, n = {n}"},
            float(numeric.expected_error(law, 1, n, query_cov=tau**2)),
            sample,
        )


def _output_concentration(effort: Effort, progress: Progress) -> Result:
    progress("simulating prompts", 0.0)
    errors, averaged = list(error_rows(effort)), list(averaged_rows(effort))
    progress("exponents of very long prompts", 0.4)
    exponents = list(exponent_rows())
    progress("degenerate case", 0.9)
    single = stream(
        lambda rng, size: rng.standard_normal(size) ** 2, 1, prompts=20 * effort.prompts, seed=3
    )
    degenerate = [
        estimate_row(
            {"n": 1, "quantity": "K = 0, V = 1, d = 1; the printed bound is 0, since ln 1 = 0"},
            float(numeric.expected_error(icl.Gaussian([0], [[1]]), 0, 1)),
            single,
        )
    ]
    lengths = [3, 10, 30, 100, 300, 1000]
    figure = numeric.concentration_figure(
        GAUSSIAN, scaled_dual(1.5), lengths, prompts=max(effort.prompts // 20, 500), seed=1
    )
    parts = (
        Part.of("mean squared error at every n, simulated", errors),
        Part.of("averaged over queries, simulated", averaged),
        Part.of("exponents kappa(tau)", exponents),
        Part.of("the published bound at prompt length 1", degenerate),
    )
    return parts, figure


register(
    largeprompt_claim(
        id="largeprompt-limit",
        source=BOURSIER.at("Lemma 2.1"),
        title="The infinite-prompt limit",
        statement="With a long prompt softmax attention reads the gradient of the tokens' cumulant "
        "generating function; for Gaussian tokens, and for no other law, this is linear attention.",
        formulas=lambda: (
            icl.limit_output(LAWS["Gaussian"], U_SYMBOLS),
            icl.limit_output(LAWS["Rademacher"], U_SYMBOLS),
            icl.leading_covariance(icl.Rademacher(1), U_SYMBOLS[:1]),
        ),
        experiment=_limit,
    )
)
register(
    largeprompt_claim(
        id="largeprompt-output-concentration",
        source=BOURSIER.at("Proposition 3.1"),
        title="Concentration of the output",
        statement="The mean squared distance from the limit decays like a power of n that falls with the "
        "score scale of the query: n^-1 for tau^2 < 1/2, n^-kappa(tau) above. The printed bound "
        "c1 sigma^6 ln(n) n^(-c2/sigma^2) vanishes at n = 1, where the error does not.",
        formulas=lambda: (icl.concentration_exponent(), icl.phase_exponent()),
        experiment=_output_concentration,
    )
)
