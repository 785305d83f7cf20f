"""A channel, priors and checks that the tests of binary decoding share."""

import numpy as np

import icltheory as icl
import numeric
from numeric.binary_decoding import DecodingChannel


def channel(gain=0.625, noise=0.425, prior=None, dim=10, origin=0.0):
    return DecodingChannel(prior or icl.Signs(), dim, np.array(gain), np.array(noise), origin)


def check(prediction, average, allowance=0.0, required=0.08):
    """Within five standard errors (and a stated allowance); seen otherwise. A control must fail."""

    def verdict(value):
        return numeric.compare(
            {},
            value,
            float(average.value),
            float(average.standard_error),
            allowance,
            required=required,
        ).verdict

    assert verdict(float(prediction)) == "agrees"
    assert verdict(float(prediction) * (1 + 2 * required)) == "deviates"


def greedy(c, **options):
    return float(numeric.greedy_errors(c, **options).mean)
