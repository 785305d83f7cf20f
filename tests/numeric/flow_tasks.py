"""Tasks that the tests of integrated flows share."""

import icltheory as icl

LINEAR = icl.LinearAttention()


def unit(dim, cov=None):
    """Coefficients N(0, I), as in the reference values."""
    return icl.LinearRegression(dim=dim, feature_cov=cov, coef_cov=1)


def toeplitz(dim):
    return [[0.5 ** abs(i - j) for j in range(dim)] for i in range(dim)]
