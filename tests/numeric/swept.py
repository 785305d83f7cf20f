"""Functions that are swept: of a module, so that worker processes can import them."""

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import icltheory as icl
import numeric
from icltheory.errors import OutOfDomain

GRID = {"dim": [1, 2, 3, 5], "prompt_length": [20, 40], "repetition": range(25)}  # 200 points


def risk(dim, prompt_length, repetition, seed):
    """A Monte Carlo estimate that takes a few milliseconds."""
    task, head = icl.LinearRegression(dim=dim), icl.SoftmaxAttention(heads=1)
    return numeric.monte_carlo_risk(
        task, head, prompt_length, score_scale=0.3, value_scale=2.0, prompts=20, seed=seed
    )


def noted_risk(folder, pause, dim, prompt_length, repetition, seed):
    """`risk` that leaves its process id in the folder, and takes at least `pause` seconds."""
    Path(folder, str(os.getpid())).touch()
    time.sleep(pause)
    return risk(dim, prompt_length, repetition, seed)


def note(folder, pause):
    return partial(noted_risk, str(folder), pause)


def square(x):
    return x * x


def unlucky(x):
    if x == 2:
        sys.exit("bye")
    if x == 3:
        raise OutOfDomain("x = 3 is too large")
    if x == 4:
        raise ValueError("no such luck")
    return x


def deadly(folder, x):
    """Kills its process at 2 always, at 3 once; raises at 4."""
    mark = Path(folder, f"killed at {x}")
    if x == 2 or (x == 3 and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return unlucky(x) if x == 4 else x


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def assert_every_point_once(path, points=200):
    indices = [line["index"] for line in lines(path)[1:]]
    assert sorted(indices) == list(range(points))


def wait_for_rows(path, count, patience=60.0):
    end = time.monotonic() + patience
    while not path.exists() or path.read_bytes().count(b"\n") <= count:
        assert time.monotonic() < end, "the sweep does not get on"
        time.sleep(0.01)
