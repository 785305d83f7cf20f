"""Losses averaged over labels or prompts exactly, against averages over samples of what is left out."""

import numpy as np
import pytest
import torch

import icltheory as icl
from icltheory.errors import InvalidInput
from numeric import finite
from numeric.validate import measure_risk

RNG = np.random.default_rng(8)
MEAN, COV = [0.5, -0.2, 0.1], [[0.5, 0.1, 0], [0.1, 0.3, 0], [0, 0, 0.2]]
TASK = icl.LinearRegression(dim=3, noise_var=0.3, coef_mean=MEAN, coef_cov=COV)
QUICK = {"batch_size": 32, "progress": False}


def tensor(*shape):
    return torch.from_numpy(RNG.standard_normal(shape))


def every_option():
    model = finite.SoftmaxAttention(3, 2, include_query=True, skip=True, feature_values=True)
    with torch.no_grad():
        model.skip += tensor(3)
        model.u += 0.3 * tensor(2, 3)
        model.A += 0.3 * tensor(2, 3, 3)
    return model


LAYERS = {
    "options": every_option,
    "rank 1": lambda: finite.SoftmaxAttention(3, 2, head_width=1, score_std=0.5),
    "scalar": lambda: finite.SoftmaxAttention(3, 3, scores="scalar", value_size=1),
    "linear": lambda: finite.LinearAttention(3, score_std=0.5),
    "centred": lambda: finite.LinearAttention(3, centered=True, score_std=0.5),
}


@pytest.mark.parametrize("name", LAYERS)
def test_labels_are_averaged_exactly(name):
    """One prompt's features and query, 200 000 coefficients and noises."""
    model, n, draws = LAYERS[name](), 6, 200_000
    X, query = tensor(1, n, 3), tensor(1, 3)
    exact = finite.LabelAveragedRisk(model, TASK)(X, query).item()
    theta = torch.from_numpy(RNG.multivariate_normal(MEAN, COV, draws))
    labels = theta @ X[0].T + np.sqrt(0.3) * tensor(draws, n)
    with torch.no_grad():
        weights, rest = model.label_weights(X, query)
        one = model(X, labels[:1], query).item()
    predictions = labels @ weights[0] + rest
    assert predictions[0].item() == pytest.approx(one, abs=1e-12)
    errors = (predictions - theta @ query[0]) ** 2
    standard_error = float(errors.std()) / np.sqrt(draws)
    assert abs(float(errors.mean()) - exact) < 5 * standard_error
    assert abs(float(errors.mean()) - 1.03 * exact) > 5 * standard_error


@pytest.mark.parametrize("local", [None, (0.8, 0.7)])
def test_averaged_measurement_agrees_with_the_plain_one(local):
    task = icl.LinearRegression(dim=3, noise_var=0.3, local=local)
    model = finite.SoftmaxAttention(3, 2, score_std=0.4, value_size=1, seed=3)
    plain = measure_risk(model, task, 8, prompts=200_000, seed=1)
    averaged = finite.label_averaged_risk(model, task, 8, prompts=200_000, seed=2)
    error = np.hypot(plain.standard_error, averaged.standard_error)
    assert abs(plain.value - averaged.value) < 5 * error
    assert abs(plain.value - 1.05 * averaged.value) > 5 * error
    assert averaged.standard_error < 0.7 * plain.standard_error


def test_training_on_averaged_labels():
    """One program and single runs are the same; tasks of one feature law share their prompts."""
    tasks = [icl.LinearRegression(dim=3, noise_var=s) for s in (0, 1)]
    correlated = icl.LinearRegression(dim=3, feature_cov=[1, 2, 0.5])
    pairs = [(tasks[0], 5), (tasks[1], 5), (correlated, 5)]
    seeds = [4, 4, 4]
    options = {"steps": 30, "average_labels": True, **QUICK}
    together = [finite.SoftmaxAttention(3, 2, seed=i) for i in range(3)]
    runs = finite.train_many(together, pairs, seeds=seeds, **options)
    for i, ((task, n), run) in enumerate(zip(pairs, runs, strict=True)):
        alone = finite.SoftmaxAttention(3, 2, seed=i)
        single = finite.train(alone, task, n, seed=4, **options)
        np.testing.assert_allclose(run.loss, single.loss, rtol=1e-9)
        np.testing.assert_allclose(together[i].values(), alone.values(), rtol=1e-9)
        assert run.settings == single.settings
        assert run.settings["average_labels"]
    plain = finite.train(finite.SoftmaxAttention(3, 2), tasks[0], 5, seed=4, steps=30, **QUICK)
    assert "average_labels" not in plain.settings
    # Less noise: the losses of the last steps scatter less around their trend.
    averaged, sampled = runs[0].loss[-10:], plain.loss[-10:]
    assert averaged.std() < 0.8 * sampled.std()


def test_one_softmax_head_is_averaged_over_prompts():
    """The average over 100 000 prompts at one coefficient and query; with skip and feature values."""
    task, n, draws = icl.LinearRegression(dim=3, noise_var=0.2), 7, 100_000
    model = finite.SoftmaxAttention(3, score_std=0.4, value_size=1, skip=True, feature_values=True)
    with torch.no_grad():
        model.skip += 0.3 * tensor(3)
        model.u += 0.3 * tensor(1, 3)
    theta, query = tensor(1, 3), tensor(1, 3)
    exact = finite.AveragedRisk(task, n)(model, theta, query).item()
    X = tensor(draws, n, 3)
    y = X @ theta[0] + np.sqrt(0.2) * tensor(draws, n)
    with torch.no_grad():
        errors = (model(X, y, query.expand(draws, 3)) - theta[0] @ query[0]) ** 2
    standard_error = float(errors.std()) / np.sqrt(draws)
    assert abs(float(errors.mean()) - exact) < 5 * standard_error
    assert abs(float(errors.mean()) - 1.05 * exact) > 5 * standard_error
    before = model.values().copy()
    finite.train(model, task, n, steps=5, average_prompts=True, **QUICK)
    assert not np.array_equal(model.values(), before)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (finite.TokenAttention(3), {"average_labels": True}, "labels can be averaged .* Token"),
        (finite.SoftmaxAttention(3, 2), {"average_prompts": True}, "not for 2 heads"),
        (
            finite.SoftmaxAttention(3, include_query=True),
            {"average_prompts": True},
            "not for the query token inside",
        ),
        (finite.LinearAttention(3), {"average_prompts": True}, "not for LinearAttention"),
        (
            finite.SoftmaxAttention(3),
            {"average_prompts": True, "average_labels": True},
            "choose one of them",
        ),
    ],
)
def test_what_cannot_be_averaged_is_refused(model, options, message):
    with pytest.raises(InvalidInput, match=message):
        finite.train(model, icl.LinearRegression(dim=3), 5, steps=1, **options, **QUICK)


def test_measurement_refuses_another_dimension():
    with pytest.raises(InvalidInput, match="dim = 2, the model 3"):
        finite.label_averaged_risk(finite.SoftmaxAttention(3), icl.LinearRegression(dim=2), 5)
