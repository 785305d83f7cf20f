"""Hypothesis runs derandomised, without deadlines: a failing example is the same everywhere.

One thread for linear algebra, in the kernels of the notebooks too: the models are small, and a second
thread waits more than it helps.
"""

import os
import signal

import matplotlib
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell that runs the tests in the background leaves Ctrl-C ignored, in the processes they start too.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
matplotlib.use("Agg")
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("dev", deadline=None, max_examples=25)
settings.load_profile("dev" if os.environ.get("ICLTHEORY_RANDOM_TESTS") else "ci")
