"""Gradients of one attention output, for a token law or for a finite prompt, on arrays."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import softmax

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.laws.tokens import TokenLaw
from numeric.arrays import finite, number
from numeric.compile import compile
from numeric.tokens import limit_jacobian, limit_output


def output_gradients(
    tokens: Any,
    z: Any,
    r: Any,
    V: Any,
    *,
    K: Any = None,
    Q: Any = None,
    U: Any = None,
    score_scale: Any = 1.0,
) -> dict[str, np.ndarray]:
    """Gradients of r'V m(c U z) for attention with query z, in its matrices and in z.

    Parameters
    ----------
    tokens: a token law of dimension p (an infinite prompt), or an array (.., n, p) of the tokens of
        finite prompts; the query is not among them.
    z, r: query (.., p), and the loss gradient at the output (.., d_v).
    V: value matrix (.., d_v, p).
    K, Q: key and query matrices (.., d_k, p), U = K'Q; or give the merged U (.., p, p) alone.
    score_scale: c, a number.

    Returns arrays under "V", "z", and "K", "Q" (with K and Q) or "U" (with U); leading axes
    broadcast and are kept, not summed.

    Errors: `InvalidInput` for wrong shapes, NaN, or both or none of (K, Q) and U; `OutOfDomain` if
    the law's generating function is infinite at c U z. Source: `icltheory.output_gradients`.

    >>> law = icl.Gaussian(mean=[0, 0], cov=[[1, 0], [0, 2]])
    >>> output_gradients(law, z=[1, 1], r=[1.0], V=[[1, 0]], U=np.eye(2))["V"]
    array([[1., 2.]])
    """
    if not ((K is None) == (Q is None) != (U is None)):
        raise InvalidInput("give K and Q, or the merged U alone.")
    separate = U is None
    given = {"z": z, "r": r, "V": V, **({"K": K, "Q": Q} if separate else {"U": U})}
    values = {name: finite(value, name) for name, value in given.items()}
    if separate:
        key, query = values["K"], values["Q"]
        if min(key.ndim, query.ndim) < 2 or key.shape[-2] != query.shape[-2]:
            raise InvalidInput(
                f"K has shape {key.shape} and Q {query.shape}; both are (.., d_k, p)."
            )
        values["U"] = key.swapaxes(-1, -2) @ query
    merged, width = values["U"].shape, values["z"].shape[-1:]
    if len(merged) < 2 or merged[-2:] != width * 2:
        raise InvalidInput(
            f"U = K'Q has shape {merged} and z {values['z'].shape}; they are (.., p, p) and (.., p)."
        )
    scale = number(score_scale, "score_scale")
    dual = scale * (values["U"] @ values["z"][..., None])[..., 0]
    mean, cov = _read(tokens, dual)
    evaluator = _compiled(separate)
    values |= {"m1": mean, "C": cov, "score_scale": scale}
    return evaluator(**{name: values[name] for name in evaluator.arguments})


def _read(tokens: Any, dual: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What softmax attention reads at the dual point (.., p): weighted mean and covariance."""
    width = dual.shape[-1]
    if isinstance(tokens, TokenLaw):
        if tokens.dim != width:
            raise InvalidInput(f"the law has dimension {tokens.dim}; z has length {width}.")
        return limit_output(tokens, dual), limit_jacobian(tokens, dual)
    prompt = finite(tokens, "tokens")
    if prompt.ndim < 2 or prompt.shape[-1] != width or prompt.shape[-2] == 0:
        raise InvalidInput(
            f"tokens has shape {prompt.shape}; pass a token law or an array (.., n, {width})."
        )
    weights = softmax((prompt @ dual[..., None])[..., 0], axis=-1)[..., None]
    mean = (weights * prompt).sum(axis=-2)
    centred = prompt - mean[..., None, :]
    return mean, (weights * centred).swapaxes(-1, -2) @ centred


@lru_cache(maxsize=2)
def _compiled(separate: bool) -> Any:
    formulas = icl.output_gradients()
    wanted = ("V", "K", "Q", "z") if separate else ("V", "U", "z")
    return compile({name: formulas[name] for name in wanted})
