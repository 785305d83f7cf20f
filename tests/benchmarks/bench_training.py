"""Many small models trained in one program, and averaged labels, against the plain loop."""

import time

import numpy as np
import pytest
import torch

import icltheory as icl
from numeric import finite

TASK = icl.LinearRegression(dim=5)
OPTIONS = {"steps": 60, "batch_size": 32, "progress": False}


@pytest.fixture(autouse=True)
def two_threads():
    """As many as a small machine has cores; the number is restored."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def models():
    return [finite.SoftmaxAttention(5, 2, seed=seed) for seed in range(64)]


def test_sixty_four_models_in_one_program(benchmark):
    """Held to: at least 5 times the throughput of a loop, on two cores."""
    one_by_one = models()
    start = time.perf_counter()
    for seed, model in enumerate(one_by_one):
        finite.train(model, TASK, 20, seed=seed, **OPTIONS)
    loop = time.perf_counter() - start
    benchmark.pedantic(
        lambda: finite.train_many(models(), [(TASK, 20)] * 64, **OPTIONS),
        rounds=3,
        warmup_rounds=1,
    )
    ratio = loop / benchmark.stats["min"]
    benchmark.extra_info["ratio to the loop"] = round(ratio, 2)
    assert ratio >= 5, ratio


def test_averaged_labels_are_worth_more_prompts(benchmark):
    """At the same time a step the gradient has at most a third of the variance."""
    model, n = finite.SoftmaxAttention(5, 2, score_std=0.2, seed=1), 20
    options = {"steps": 200, "batch_size": 64, "optimizer": "sgd", "progress": False}

    def train(seed, **more):
        # A tiny rate: the weights stay, and the change of a single step is the gradient.
        other = finite.SoftmaxAttention(5, 2)
        other.load_state_dict(model.state_dict())
        settings = {**options, "learning_rate": 1e-9, "schedule": "constant", "record_every": 1}
        run = finite.train(other, TASK, n, seed=seed, **settings, **more)
        return np.diff(run.trajectory["A"], axis=0) / 1e-9

    def timed(**more):
        start = time.perf_counter()
        gradients = train(3, **more)
        return time.perf_counter() - start, gradients.var(axis=0).sum()

    plain_time, plain = min(timed() for _ in range(3))
    benchmark.pedantic(lambda: train(3, average_labels=True), rounds=3, warmup_rounds=1)
    averaged = train(3, average_labels=True).var(axis=0).sum()
    work = plain * plain_time / (averaged * benchmark.stats["min"])
    benchmark.extra_info["variance ratio"] = round(plain / averaged, 2)
    benchmark.extra_info["gain at equal time"] = round(work, 2)
    assert work >= 3, work
