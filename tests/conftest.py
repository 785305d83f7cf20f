"""Hypothesis runs derandomised, without deadlines: a failing example is the same everywhere.

One thread for linear algebra, in the kernels of the notebooks too: the models are small, and a second
thread waits more than it helps.
"""

import os

import matplotlib
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
matplotlib.use("Agg")
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("dev", deadline=None, max_examples=25)
settings.load_profile("dev" if os.environ.get("ICLTHEORY_RANDOM_TESTS") else "ci")
