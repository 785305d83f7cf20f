"""Prompts, descent and tolerances that the tests of layers that decode share."""

import numpy as np

D, N, STEPS, ETA = 5, 12, 6, 0.37
FORMS = ("full", "blocks", "scalar")


def prompts(size=3, n=N, dim=D, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    X, w = rng.standard_normal((size, n, dim)), rng.standard_normal((size, dim))
    return X, np.einsum("bij,bj->bi", X, w) + noise * rng.standard_normal((size, n)), w


FAST = {"steps": 700, "batch_size": 256, "learning_rate": 0.01, "progress": False}
