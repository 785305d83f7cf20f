"""Hypothesis runs derandomised, without deadlines: a failing example is the same everywhere."""

import os

import matplotlib
from hypothesis import settings

matplotlib.use("Agg")
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("dev", deadline=None, max_examples=25)
settings.load_profile("dev" if os.environ.get("ICLTHEORY_RANDOM_TESTS") else "ci")
