"""Channels and samplers that the tests of binary coefficients share."""

import math

import numpy as np
import sympy as sp
from scipy import integrate, special

import icltheory as icl

SIGNS, BITS = icl.Signs(), icl.Bits()
SEEN = icl.BinaryChannel(sp.Rational(5, 8), sp.Rational(17, 40) ** 2)
SAMPLERS = [icl.Logit(0.6), icl.Probit(0.6), icl.Clip()]


def probability(sampler, v, gap=1):
    """pi(v) on arrays, by hand."""
    if isinstance(sampler, icl.Logit):
        return special.expit(v / float(sampler.temperature))
    if isinstance(sampler, icl.Probit):
        return special.ndtr(v / float(sampler.temperature))
    if isinstance(sampler, icl.Clip):
        return np.clip(v / gap + 0.5, 0, 1)
    return np.heaviside(v, 0.5)


def averaged(function, points=()):
    """E f(G) by SciPy."""
    value, _ = integrate.quad(
        lambda g: function(g) * math.exp(-g * g / 2) / math.sqrt(2 * math.pi),
        -12, 12, points=list(points) or None, limit=400, epsabs=1e-13, epsrel=1e-12,
    )  # fmt: skip
    return value
