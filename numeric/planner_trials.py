"""Plans for random settings, each held against simulation. Exported: `confirm_random_plans`."""

from __future__ import annotations

from typing import Any

import numpy as np

from icltheory.binary_priors import Bits, Signs, SparseBits
from numeric.arrays import integer
from numeric.montecarlo import child_seed, seed_sequence
from numeric.planner import Plan, plan
from numeric.planner_simulation import Confirmation
from numeric.progress import progress_bar


def confirm_random_plans(
    count: int = 10, seed: int = 0, prompts: int = 400
) -> list[tuple[Plan, Confirmation]]:
    """Plans for random settings, each held against simulation.

    count: number of plans. n, d, noise, label noise, prior, verifier, criterion and budget are drawn from the seed.

    Ctrl-C raises `Interrupted` with the finished plans in `partial`. Errors: `InvalidInput`.

    >>> ((first, held),) = confirm_random_plans(1, seed=3, prompts=100)
    >>> held.confirmed
    True
    """
    total, tree = integer(count, "count"), seed_sequence(seed)
    out: list[tuple[Plan, Confirmation]] = []
    options = {"partial": lambda: out or None, "unit": " plans"}
    with progress_bar(total, 0, None, "random plans", **options) as bar:
        for place in range(total):
            own = child_seed(tree, place)
            setting = _random_setting(np.random.default_rng(child_seed(own, 0)))
            result = plan(**setting, seed=child_seed(own, 1))
            out.append((result, result.confirm(prompts, child_seed(own, 2))))
            bar.update()
    return out


def _random_setting(rng: np.random.Generator) -> dict[str, Any]:
    d = int(rng.integers(6, 25))
    n = max(4, round(d * 2 ** rng.uniform(-0.8, 1.6)))
    prior = (None, Signs(), Bits(0.5), SparseBits(max(1, d // 5)))[
        rng.choice(4, p=(0.5, 0.2, 0.2, 0.1))
    ]
    noise = float(np.round(2 ** rng.uniform(-4, -0.5), 3))
    if prior is not None and rng.random() < 0.5:
        noise = 0.0
    return {
        "n": n,
        "d": d,
        "budget": int(2 ** rng.uniform(3, 9)),
        "noise_std": noise,
        "label_noise_var": float(rng.choice([0.0, 0.0, 0.25, 1.0])),
        "prior": prior,
        "verifier": "oracle" if rng.random() < 0.2 else "prompt_loss",
        "criterion": "coordinate" if rng.random() < 0.3 else "answer",
    }
