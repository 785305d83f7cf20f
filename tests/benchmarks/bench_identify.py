"""identify on a shipped checkpoint."""

import time

import pytest
import torch

import icltheory as icl
from numeric import finite

NOISE = {"clean": 0.0, "noisy": 0.25}


@pytest.mark.parametrize("name", NOISE)
def test_a_shipped_model(benchmark, name):
    """Limit: under 60 s; held to processor time of one core, which other work does not change.

    All queries of a prompt go through the model at once; one by one, as measured on one prefix in the
    same run, they take several times as long.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, task = finite.shipped(name), icl.LinearRegression(dim=5, noise_var=NOISE[name])
    try:
        start = time.process_time()
        found = benchmark.pedantic(lambda: finite.identify(model, task, 15), rounds=1)
        seconds = time.process_time() - start
        prompt = torch.zeros(20, 12, 5), torch.zeros(20, 12), torch.zeros(20, 35, 5)
        times = []
        for states in (model.query_states, lambda *a: finite.SequenceModel.query_states(model, *a)):
            start = time.process_time()
            with torch.no_grad():
                states(*prompt)
            times.append(time.process_time() - start)
    finally:
        torch.set_num_threads(threads)
    assert len(found.layers) == 6
    benchmark.extra_info["processor seconds"] = round(seconds, 1)
    benchmark.extra_info["queries one by one over all at once"] = round(times[1] / times[0], 1)
    assert seconds < 60, seconds
    assert times[1] > 3 * times[0], times
