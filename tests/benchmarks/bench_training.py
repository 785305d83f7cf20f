"""Many small models trained in one program against a loop over the same models."""

import time

import torch

import icltheory as icl
from numeric import finite

TASK = icl.LinearRegression(dim=5)
OPTIONS = {"steps": 60, "batch_size": 32, "progress": False}


def models():
    return [finite.SoftmaxAttention(5, 2, seed=seed) for seed in range(64)]


def test_sixty_four_models_in_one_program(benchmark):
    """Issue: at least 5 times the throughput of a loop, on two cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
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
    finally:
        torch.set_num_threads(threads)
    ratio = loop / benchmark.stats["min"]
    benchmark.extra_info["ratio to the loop"] = round(ratio, 2)
    assert ratio >= 5, ratio
