"""One law of every kind, for the tests of token laws."""

import icltheory as icl

MIX = icl.GaussianMixture(
    [0.3, 0.7], [[1, -0.5], [-0.8, 0.4]], [[[0.5, 0.1], [0.1, 0.3]], [[0.3, -0.1], [-0.1, 0.6]]]
)
LAWS = [
    icl.Gaussian([0.5, -0.2], [[1, 0.3], [0.3, 0.8]]),
    MIX,
    icl.Rademacher(2, scale=[1, 0.7]),
    icl.UniformCube(2, half_width=[1, 1.5]),
    icl.Laplace(2, scale=[0.5, 0.4]),
    icl.Sphere(3, radius=1.5),
    icl.ScaleMixture([[1, 0.3], [0.3, 0.8]], scales=[0.5, 1.5], weights=[0.4, 0.6]),
    icl.GammaScaleMixture([[1, 0.3], [0.3, 0.8]], shape=4, scale=0.25),
    icl.Empirical([[1, 0], [-0.5, 1], [0, -1.5]], weights=[0.5, 0.2, 0.3]),
    icl.RegressionTokens(icl.UniformCube(2), coef=[1, -0.5], noise_var=0.25),
]
NAMES = [type(law).__name__ for law in LAWS]
