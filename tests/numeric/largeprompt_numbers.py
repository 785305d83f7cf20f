"""Tasks, sums and tolerances that the numbers of large prompts share."""

import math

import numpy as np

import icltheory as icl

WRONG = 1.03  # every comparison must reject a value that is 3 % off
CHAPTER = icl.LinearRegression(dim=5, coef_cov=1)  # the paper's S = I; its risk is half of ours
SIGMA = np.array([[1, 0.3], [0.3, 0.8]])
COEFS = np.array([[0.9, -0.2], [-0.2, 0.5]])
GENERAL = icl.LinearRegression(dim=2, noise_var=0.25, feature_cov=SIGMA, coef_cov=COEFS)
A, B = np.array([[0.5, 0.1], [-0.2, 0.4]]), 1.2


def assert_close(value, reference, error):
    value, reference = np.asarray(value), np.asarray(reference)
    assert np.all(np.abs(value - reference) <= error), np.max(np.abs(value - reference))
    assert np.any(np.abs(WRONG * value - reference) > error)


def assert_mean(sample, value, resolution=0.03):
    """The mean of independent draws within five standard errors, which resolve `resolution`."""
    error = 5 * sample.std(ddof=1) / math.sqrt(sample.size)
    assert error < resolution * abs(value), error / abs(value)
    assert abs(sample.mean() - value) < error, (sample.mean(), value, error)
    assert abs(sample.mean() - (1 + 2 * resolution) * value) > error


def compositions(n, chances):
    """All counts of n draws from atoms, (m, atoms), and their probabilities."""
    ranges = [np.arange(n + 1)] * (len(chances) - 1)
    head = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, len(chances) - 1)
    head = head[head.sum(axis=1) <= n]
    counts = np.column_stack([head, n - head.sum(axis=1)])
    table = np.array([math.lgamma(k + 1) for k in range(n + 1)])
    return counts, np.exp(table[n] - table[counts].sum(axis=1) + counts @ np.log(chances))


def extrapolated(lengths, values):
    """Limit of values with an expansion in 1/n, by the polynomial through all of them."""
    powers = np.vander(1 / np.array(lengths, dtype=float), increasing=True)
    return np.linalg.solve(powers, np.stack([np.ravel(x) for x in values]))[0]


def sample_prompts(task, prompts, n, seed):
    """Features, labels, query and target of a task, drawn without the package's sampler."""
    rng = np.random.default_rng(seed)
    sigma, coefs = (
        np.array(x.to_matrix().tolist(), dtype=float) for x in (task.feature_cov, task.coef_cov)
    )
    dim = len(sigma)
    x = rng.standard_normal((prompts, n, dim)) @ np.linalg.cholesky(sigma).T
    theta = rng.standard_normal((prompts, dim)) @ np.linalg.cholesky(coefs).T
    noise = math.sqrt(float(task.noise_var)) * rng.standard_normal((prompts, n))
    query = rng.standard_normal((prompts, dim)) @ np.linalg.cholesky(sigma).T
    labels = np.einsum("pnd,pd->pn", x, theta) + noise
    return x, labels, query, np.sum(theta * query, axis=1)
