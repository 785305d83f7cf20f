"""Small tasks and models that the tests of `identify` share."""

import numpy as np

import icltheory as icl
from numeric import finite

DIM, LENGTH = 4, 8
TASK = icl.LinearRegression(dim=DIM)
QUICK = {"prompts": 50, "bootstrap": 100}


def found_in(model, task=TASK, length=LENGTH, **options):
    return finite.identify(model, task, length, **{**QUICK, **options})


def least_squares(X, y, query):
    return np.einsum("bd,bd->b", (np.linalg.pinv(X) @ y[..., None])[..., 0], query)
