"""How long claims usually take: what the display of `icltheory reproduce` begins with.

A claim that is not listed counts as the median. The times are from a machine with two cores; on
another one they matter as ratios, since the display measures the pace. Exported: `typical_seconds`.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

# Claim -> seconds of the effort "quick", and of "full".
_TIMES = {
    "multihead-single-head": (15, 144),
    "multihead-several-heads": (26, 162),
    "multihead-advantage": (16, 224),
    "multihead-noisy-labels": (24, 235),
    "multihead-correlated-features": (23, 172),
    "multihead-baselines": (11, 76),
    "multihead-proportional": (3, 12),
    "multihead-conventions": (4, 39),
    "multihead-exceptions": (14, 106),
    "multihead-product-features": (9, 68),
    "multihead-embedding-dimension": (23, 130),
    "multihead-scalar-scores": (20, 124),
    "multihead-prior": (18, 94),
    "multihead-tight-prior": (14, 49),
    "multihead-finite-prompts": (14, 62),
    "multihead-query-token": (13, 61),
    "multihead-local-examples": (13, 67),
    "multihead-distribution-shift": (13, 60),
    "multihead-learned-parameters": (40, 448),
    "largeprompt-limit": (8, 104),
    "largeprompt-output-concentration": (8, 19),
    "largeprompt-gradient-concentration": (32, 259),
    "largeprompt-training": (82, 2288),
    "largeprompt-stability": (48, 1187),
    "largeprompt-bayes": (30, 101),
    "largeprompt-transfer": (32, 875),
    "solvers-rates": (6, 12),
    "solvers-audit": (5, 39),
    "solvers-construction": (1, 1),
    "solvers-identification": (6, 17),
    "solvers-layers": (9, 67),
    "solvers-noise": (11, 79),
    "solvers-contrasts": (27, 111),
    "solvers-equivalences": (2, 13),
    "solvers-conditioning": (2, 18),
    "decoding-thoughts": (2, 9),
    "decoding-noisy-chains": (13, 28),
    "decoding-channel": (1, 10),
    "decoding-greedy": (2, 22),
    "decoding-covariance": (13, 20),
    "decoding-fed-back-bits": (2, 14),
    "decoding-corrected-feedback": (3, 20),
    "decoding-overthinking": (13, 13),
    "decoding-budget": (21, 33),
    "decoding-constructed-model": (2, 1),
    "decoding-trained-model": (14, 41),
    "decoding-outcome-model": (11, 42),
    "decoding-selection": (12, 18),
    "decoding-soft-selection": (2, 5),
    "decoding-stepwise": (11, 19),
    "decoding-techniques-on-the-model": (4, 33),
    "decoding-planner": (10, 11),
    "decoding-oracle-temperature": (14, 11),
    "decoding-verified-sampling": (1, 6),
    "decoding-label-noise-verifier": (1, 10),
    "decoding-noisy-verifier": (1, 1),
    "decoding-voting": (1, 4),
    "decoding-self-consistency": (1, 7),
}


def typical_seconds(claims: Iterable[str], effort: str) -> dict[str, float]:
    """Seconds of each claim at an effort ("quick" or "full") on one core.

    >>> typical_seconds(["solvers-audit", "one of tomorrow"], "quick")
    {'solvers-audit': 5.0, 'one of tomorrow': 11.0}
    """
    times = {claim: pair[effort != "quick"] for claim, pair in _TIMES.items()}
    usual = median(times.values())
    return {claim: float(times.get(claim, usual)) for claim in claims}
