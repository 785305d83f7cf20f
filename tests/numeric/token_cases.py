"""Laws of tokens that the tests of outputs share."""

import numpy as np
import pytest

import icltheory as icl

LAWS = {
    "Gaussian": icl.Gaussian([0.5, -0.2], [[1, 0.3], [0.3, 0.8]]),
    "GaussianMixture": icl.GaussianMixture(
        [0.3, 0.7], [[1, -0.5], [-0.8, 0.4]], [[[0.5, 0.1], [0.1, 0.3]], [[0.3, -0.1], [-0.1, 0.6]]]
    ),
    "Rademacher": icl.Rademacher(2, scale=[1, 0.7]),
    "UniformCube": icl.UniformCube(2, half_width=[1, 1.5]),
    "Laplace": icl.Laplace(2, scale=[0.5, 0.4]),
    "Sphere": icl.Sphere(3, radius=1.5),
    "ScaleMixture": icl.ScaleMixture([[1, 0.3], [0.3, 0.8]], [0.5, 1.5], [0.4, 0.6]),
    "GammaScaleMixture": icl.GammaScaleMixture([[1, 0.3], [0.3, 0.8]], shape=4, scale=0.25),
    "Empirical": icl.Empirical([[1, 0], [-0.5, 1], [0, -1.5]], weights=[0.5, 0.2, 0.3]),
    "RegressionTokens": icl.RegressionTokens(icl.UniformCube(2), coef=[1, -0.5], noise_var=0.25),
}
U, W = np.array([0.4, -0.3, 0.2]), np.array([0.1, -0.35, 0.3])
each_law = pytest.mark.parametrize("name", LAWS)
