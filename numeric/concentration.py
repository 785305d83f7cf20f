"""Finite prompts of Gaussian tokens in numbers: output moments and query-averaged errors.

The moments of a softmax average are those of `icltheory.gaussian_output` at the weight moments that
`prompt_moments` computes: no sampling, every prompt length. Averages over a Gaussian query are
one-dimensional, since the weights depend on the query through one quadratic form. Exported:
`OutputMoments`, `output_moments`, `expected_error`, `simulated_error`, `concentration_figure`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.gaussian_output import output_error_expansion, response_coefficients
from icltheory.laws.tokens import Gaussian, TokenLaw
from numeric.arrays import finite, positive_integers
from numeric.bounds import concentration_bound
from numeric.compile import Evaluator, compile
from numeric.decoding_display import Shown
from numeric.laws import array_law
from numeric.long_prompts import LARGEST_SCALE as LARGEST_LONG_SCALE
from numeric.long_prompts import SHORTEST, long_prompt_moments
from numeric.montecarlo import Estimate, Seed, child_seed, seed_sequence, single_length, stream
from numeric.plot import Figure, Series
from numeric.prompt_moments import LARGEST_SCALE, PromptMoments, prompt_moments, weight_moments
from numeric.quadratic_form import QuadraticForm, lattice_step
from numeric.token_simulation import single_dual
from numeric.tokens import limit_jacobian, limit_output

LONGEST = 1e250  # the law of a large score leaves the range of float64 beyond


@dataclass(frozen=True, eq=False, repr=False)
class OutputMoments(Shown):
    """Exact moments of V T, T the softmax average of n Gaussian tokens at dual point u.

    Leading axes are those that `u` and `prompt_length` broadcast to.
    """

    weights: PromptMoments
    """Moments of the softmax weights, with the scale s = sqrt(u' cov u)."""
    mean: np.ndarray
    """E V T, (..., rows)."""
    covariance: np.ndarray
    """Cov V T, (..., rows, rows)."""
    error: Any
    """E |V (T - T_inf)|^2, (...)."""
    jacobian: np.ndarray
    """E d(V T)/du, (..., rows, d)."""


def output_moments(law: Gaussian, u: Any, prompt_length: Any, value: Any = None) -> OutputMoments:
    """Mean, covariance, squared error and mean Jacobian of a softmax head on Gaussian tokens.

    Parameters
    ----------
    law: `icl.Gaussian` without symbols; its covariance may be singular.
    u: dual point(s) K'Q x, (..., d); sqrt(u' cov u) at most 200.
    prompt_length: integers from 1 to 1e100, broadcasting with the leading axes of u.
    value: V, (rows, d) or one row (d,); `None` is the identity.

    Exact at every n up to the quadrature of `prompt_moments` (relative error 1e-11 for s <= 10).
    Errors: `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> import icltheory as icl
    >>> law = icl.Gaussian([0, 0], [[1, 0.3], [0.3, 0.8]])
    >>> moments = output_moments(law, [0.7, -0.4], 50)
    >>> moments.mean.round(7), round(float(moments.error), 8)
    (array([ 0.5622162, -0.1066272]), 0.06493797)
    """
    mean, cov = _law_arrays(law)
    matrix = _value_array(law, value)
    point = finite(u, "u")
    if point.ndim == 0 or point.shape[-1] != law.dim:
        raise InvalidInput(
            f"u has shape {point.shape}; its last axis must have the {law.dim} coordinates of a token."
        )
    shift = point @ cov
    scale = np.sqrt(np.maximum(np.einsum("...i,...i->...", point, shift), 0.0))
    weights = prompt_moments(prompt_length, scale)
    c = {name: np.asarray(x)[..., None] for name, x in _coefficients(weights).items()}
    read = shift @ matrix.T
    read = np.broadcast_to(read, (*np.shape(weights.g), matrix.shape[0]))
    own = matrix @ cov @ matrix.T
    square = np.einsum("...i,...i->...", read, read)
    error = c["spread"][..., 0] * np.trace(own) + c["error"][..., 0] * square
    return OutputMoments(
        weights,
        mean @ matrix.T + c["gain"] * read,
        c["spread"][..., None] * own
        + c["excess"][..., None] * read[..., :, None] * read[..., None, :],
        error[()],
        c["gain"][..., None] * (matrix @ cov)
        + c["bend"][..., None] * read[..., :, None] * shift[..., None, :],
    )


def expected_error(
    law: Gaussian, score: Any, prompt_length: Any, *, query_cov: Any = None, value: Any = None
) -> Any:
    """E |V (T_n(U z) - T_inf(U z))|^2 over prompts and queries z ~ N(0, query_cov), exactly.

    Parameters
    ----------
    law: `icl.Gaussian` tokens without symbols.
    score: U = K'Q, (d, d), or a number for a multiple of the identity.
    prompt_length: integers from 1 to 1e250, any shape.
    query_cov: (d, d), d variances or a number, positive semi-definite; `None` is the tokens' own.
    value: V, (rows, d) or (d,); `None` is the identity.

    Returns a float or an array like `prompt_length`; the relative error is below 1e-9. Queries with
    scores of standard deviation s up to 200 are reached (1000 for n >= 1e20); `OutOfDomain` where
    more would matter. Source: derived here.

    >>> import icltheory as icl
    >>> expected_error(icl.Gaussian([0], [[1]]), 1, [1, 100, 1e6, 1e100])
    array([2.00000000e+00, 6.48180133e-02, 2.22070477e-04, 6.41377306e-62])
    """
    _, cov = _law_arrays(law)
    matrix = _value_array(law, value)
    u = _square(score, law.dim, "score")
    query = cov if query_cov is None else _square(query_cov, law.dim, "query_cov")
    root = _root(query)
    lengths = _lengths(prompt_length)
    kappa, vectors = np.linalg.eigh(root @ u.T @ cov @ u @ root)
    kappa = np.maximum(kappa, 0.0)
    read = matrix @ cov @ u @ root @ vectors
    total, along = np.trace(matrix @ cov @ matrix.T), np.sum(read**2, axis=0)
    distinct, index = np.unique(lengths, return_inverse=True)
    errors = (total + along.sum()) / distinct
    if kappa[-1] > 0:
        # Long prompts need fine lattices; groups of similar lengths share one.
        groups = np.ceil(np.log(distinct) / 10)
        for group in np.unique(groups):
            here = groups == group
            errors[here] += averaged_excess(kappa, total, along, distinct[here])
    return errors[index.reshape(lengths.shape)][()]


def averaged_excess(
    kappa: np.ndarray, total: float, along: np.ndarray, lengths: np.ndarray
) -> np.ndarray:
    """E [(g - 1/n) total + (g - 6 (g3 - g22) - 1/n) sum_i along_i xi_i^2], xi standard normal.

    The weights are those of scores of variance s^2 = sum_i kappa_i xi_i^2. What `expected_error`
    adds is the value at scale 0, (total + sum_i along_i)/n. Arguments are not checked.
    """
    step = lattice_step(kappa.size, lengths.max())
    largest = LARGEST_LONG_SCALE if lengths.min() >= math.exp(SHORTEST) else LARGEST_SCALE
    form = QuadraticForm(kappa, step, tail=1 / lengths.max(), largest=largest)
    key = tuple(float(n) for n in lengths)
    table = np.stack([_weights_at(key, step, int(j)) for j in form.points], axis=-1)
    across, radial = table - 1 / lengths[:, None]
    return form.mean(across) * total + form.second(radial) @ along


@lru_cache(maxsize=1 << 14)
def _weights_at(lengths: tuple[float, ...], step: float, j: int) -> np.ndarray:
    """Rows g and g - 6 (g3 - g22) at the scale exp(step j), for all lengths."""
    scale, n = math.exp(step * j), np.array(lengths)
    result = np.empty((2, n.size))
    long = np.log(n) >= SHORTEST
    for i in np.flatnonzero(long):
        log_g, ratio = long_prompt_moments(math.log(n[i]), scale)
        result[:, i] = math.exp(log_g), math.exp(log_g) * (1 - 6 * ratio)
    if not long.all():
        g, g3, g22 = weight_moments(n[~long], scale)
        result[:, ~long] = g, g - 6 * (g3 - g22)
    return result


# -- the picture -----------------------------------------------------------------------------------


def simulated_error(
    law: TokenLaw,
    u: Any,
    prompt_length: int,
    value: Any = None,
    prompts: int = 10_000,
    seed: Seed = 0,
) -> Estimate:
    """E |V (T_n(u) - T_inf(u))|^2 from sampled prompts, to hold `output_moments` against.

    `law`: of the tokens, Gaussian or any other; `u`: one dual point (d,). Arguments otherwise as in
    `output_moments` and `monte_carlo_risk`.

    >>> import icltheory as icl
    >>> law, u = icl.Gaussian([0], [[1]]), [1.0]
    >>> sample = simulated_error(law, u, 30, prompts=20_000)
    >>> bool(abs(sample.value - output_moments(law, u, 30).error) < 5 * sample.standard_error)
    True
    """
    array, matrix, n = array_law(law), _value_array(law, value), single_length(prompt_length)
    dual = single_dual(array, u, "u")
    target = limit_output(law, dual)

    def draw(rng: np.random.Generator, size: int) -> np.ndarray:
        tokens = array.sample(rng, size * n).reshape(size, n, array.dim)
        scores = tokens @ dual
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        output = np.matmul(weights[:, None], tokens)[:, 0]
        return np.sum(((output - target) @ matrix.T) ** 2, axis=1)

    return stream(draw, n * (2 * array.dim + 3), prompts=prompts, seed=seed)


def concentration_figure(
    law: Gaussian, u: Any, prompt_lengths: Any, prompts: int = 4_000, seed: Seed = 0
) -> Figure:
    """Squared error of a softmax head against n: simulated, exact, leading term, bound.

    `u`: one dual point (d,); `prompt_lengths`: the simulated ones, at least two integers. The exact
    curve and the others run over the same range. Draw it with `.draw(ax)`.

    >>> import icltheory as icl
    >>> figure = concentration_figure(icl.Gaussian([0], [[1]]), [1.0], [3, 30], prompts=100)
    >>> [line.label for line in figure.lines], len(figure.points[0].x)
    (['exact', 'leading term, order 1/n', 'bound for every n'], 2)
    """
    lengths = np.unique(positive_integers(prompt_lengths, "prompt_lengths"))
    if lengths.size < 2:
        raise InvalidInput("prompt_lengths must contain at least two different lengths.")
    grid = np.unique(np.geomspace(lengths[0], lengths[-1], 60).round())
    dual = finite(u, "u").tolist()
    leading = output_error_expansion(law, dual, order=1)
    constant = float(leading.subs(n=1) if leading.free_symbols else leading)
    curves = {
        "exact": output_moments(law, dual, grid).error,
        "leading term, order 1/n": constant / grid,
        "bound for every n": concentration_bound(law, dual, grid),
    }
    root = seed_sequence(seed)
    sampled = [
        simulated_error(law, dual, int(n), prompts=prompts, seed=child_seed(root, i))
        for i, n in enumerate(lengths)
    ]
    scale = float(output_moments(law, dual, 1).weights.scale)
    return Figure(
        title="Distance of a finite prompt from the infinite one",
        xlabel="prompt length n",
        ylabel="mean squared error of the output",
        caption=f"Softmax head on Gaussian tokens, scores of standard deviation s = {scale:.3g}; "
        f"points: {prompts} simulated prompts each, with one standard error.",
        lines=tuple(
            Series(name, tuple(grid.tolist()), tuple(float(x) for x in y), color=i)
            for i, (name, y) in enumerate(curves.items())
        ),
        points=(
            Series(
                "simulated",
                tuple(lengths.tolist()),
                tuple(e.value for e in sampled),
                tuple(e.standard_error for e in sampled),
            ),
        ),
    )


# -- arguments -------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _evaluators() -> dict[str, Evaluator]:
    return {name: compile(formula) for name, formula in response_coefficients().items()}


def _coefficients(weights: PromptMoments) -> dict[str, Any]:
    """`response_coefficients` at these moments."""
    return {
        name: f(**{argument: getattr(weights, argument) for argument in f.arguments})
        for name, f in _evaluators().items()
    }


def _law_arrays(law: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of Gaussian tokens."""
    if not isinstance(law, Gaussian):
        raise InvalidInput(
            f"law has type {type(law).__name__}; finite prompts are exact for icl.Gaussian tokens "
            f"only. For other laws sample with numeric.simulate_output."
        )
    origin = np.zeros(law.dim)
    return limit_output(law, origin), limit_jacobian(law, origin)


def _value_array(law: TokenLaw, value: Any) -> np.ndarray:
    if value is None:
        return np.eye(law.dim)
    matrix = np.atleast_2d(finite(value, "value"))
    if matrix.ndim != 2 or matrix.shape[1] != law.dim:
        raise InvalidInput(
            f"value has shape {np.shape(value)}; pass V as (rows, {law.dim}), or one row."
        )
    return matrix


def _square(value: Any, dim: int, name: str) -> np.ndarray:
    """A number c (c I), d diagonal entries, or a d x d matrix."""
    matrix = finite(value, name)
    if matrix.ndim < 2:
        if matrix.ndim == 1 and matrix.size != dim:
            raise InvalidInput(f"{name} has {matrix.size} diagonal entries; {dim} are needed.")
        return np.diag(np.broadcast_to(matrix, (dim,)))
    if matrix.shape != (dim, dim):
        raise InvalidInput(f"{name} has shape {matrix.shape}; pass {dim} x {dim}.")
    return matrix


def _root(cov: np.ndarray) -> np.ndarray:
    """Symmetric square root of a covariance."""
    rounding = 1e-12 * np.abs(cov).max()
    if np.abs(cov - cov.T).max() > rounding:
        raise InvalidInput("query_cov is not symmetric; pass (C + C.T)/2 if that is what you mean.")
    values, vectors = np.linalg.eigh(cov)
    if values[0] < -rounding * len(cov):
        raise InvalidInput(
            f"query_cov has the eigenvalue {values[0]:.3g}; a covariance has none below 0."
        )
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def _lengths(prompt_length: Any) -> np.ndarray:
    lengths = positive_integers(prompt_length, "prompt_length")
    if np.any(lengths > LONGEST):
        raise OutOfDomain(
            f"prompt_length = {lengths.max():g} is above {LONGEST:g}, where the law of the query "
            f"leaves the range of float64; numeric.local_exponent takes any length, by its logarithm."
        )
    return lengths
