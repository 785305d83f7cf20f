"""The candidates that chains with injected noise make on one prompt, for `icl.Candidates`.

Source: derived here. Exported: `chain_candidates`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy as sp

from icltheory.best_of_n import Candidates, per_direction
from icltheory.chains import NoisyDecoding
from icltheory.errors import InvalidInput

_MOST_STEPS = 400
_VERIFIERS: dict[str, Callable[[sp.Expr], sp.Expr]] = {
    "prompt_loss": lambda eigenvalue: eigenvalue,
    "oracle": lambda eigenvalue: sp.S.One,
}


def chain_candidates(
    decoding: NoisyDecoding,
    eigenvalues: Sequence[Any],
    coefficients: Sequence[Any],
    label_noise: Sequence[Any] | None = None,
    *,
    verifier: str = "prompt_loss",
) -> Candidates:
    """The candidates that chains of `decoding` make on one prompt.

    Parameters
    ----------
    decoding: `icl.NoisyDecoding` with an integer number of steps.
    eigenvalues: of S = X'X/n, all d of them (zeros where d > n).
    coefficients: w* in the eigenbasis.
    label_noise: X' epsilon/n in the eigenbasis (0 where the eigenvalue is 0); `None` is no noise.
    verifier: "prompt_loss" (the loss on the prompt) or "oracle" (the distance to w*).

    Errors: `InvalidInput`. Source: derived here.

    >>> import icltheory as icl
    >>> chain_candidates(icl.NoisyDecoding(0.5, 1, steps=2), [1, 0], [1, 1]).noise_var
    (5/4, 2)
    """
    if not isinstance(verifier, str) or verifier not in _VERIFIERS:
        raise InvalidInput(f"verifier = {verifier!r}; pass one of {', '.join(_VERIFIERS)}.")
    spectrum = per_direction(eigenvalues, "eigenvalues")
    wanted = per_direction(coefficients, "coefficients")
    noise = per_direction(
        label_noise if label_noise is not None else [0] * len(wanted), "label_noise"
    )
    if not len(spectrum) == len(wanted) == len(noise):
        raise InvalidInput(
            f"{len(spectrum)} eigenvalues, {len(wanted)} coefficients and {len(noise)} entries of "
            f"label_noise: pass d of each, zero eigenvalues included."
        )
    if not (isinstance(decoding, NoisyDecoding) and decoding.steps.is_Integer):
        raise InvalidInput(
            f"decoding = {decoding!r}; pass an icl.NoisyDecoding with an integer number of steps."
        )
    if decoding.steps > _MOST_STEPS:
        raise InvalidInput(
            f"steps = {decoding.steps}: exact candidates have at most {_MOST_STEPS} steps; use "
            f"numeric.chain_law for longer chains."
        )
    rows = []
    for lam, w, h in zip(spectrum, wanted, noise, strict=True):
        if lam.is_negative or (lam == 0 and h != 0):
            raise InvalidInput(
                f"eigenvalue {lam} with label noise {h}: eigenvalues are at least 0, and the noise is "
                f"0 where they are 0."
            )
        seen = sp.S.Zero if lam == 0 else h / lam
        contraction = 1 - decoding.step_size * lam
        bias = -(contraction**decoding.steps) * (w + seen)
        variance = _final_variance(decoding, contraction)
        if verifier == "oracle":
            bias, seen = bias + seen, sp.S.Zero
        rows.append((_VERIFIERS[verifier](lam), bias, variance, seen))
    return Candidates(*map(tuple, zip(*rows, strict=True)))


def _final_variance(decoding: NoisyDecoding, contraction: sp.Expr) -> sp.Expr:
    """Variance of the sampling noise after all steps: the recursion v <- a^2 v + (noise of the step)."""
    variance = sp.S.Zero
    for factor in decoding.noise_factors():
        variance = contraction**2 * variance + decoding.noise_var * factor**2
    return variance
