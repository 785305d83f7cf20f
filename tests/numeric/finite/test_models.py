"""Finite models against loops in NumPy, their limits, and what the package leaves untouched."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import icltheory as icl
import numeric
from icltheory.errors import InvalidInput
from numeric import finite
from numeric.montecarlo import monte_carlo_risk
from numeric.validate import measure_risk

RNG = np.random.default_rng(20)


def prompt(batch=6, n=7, dim=3):
    arrays = (RNG.standard_normal(shape) for shape in ((batch, n, dim), (batch, n), (batch, dim)))
    return [torch.from_numpy(array) for array in arrays]


def softmax_loop(matrices, values, X, y, query):
    out = np.zeros(len(X))
    for b in range(len(X)):
        for A, v in zip(matrices, values, strict=True):
            weights = np.array([np.exp(query[b] @ A @ x) for x in X[b]])
            out[b] += v * sum(
                w * label for w, label in zip(weights / weights.sum(), y[b], strict=True)
            )
    return out


def linear_loop(A, X, y, query, centered):
    out = np.zeros(len(X))
    for b in range(len(X)):
        features, labels, count = X[b], y[b], len(y[b])
        if centered:
            features, labels, count = features - features.mean(0), labels - labels.mean(), count - 1
        out[b] = (
            sum(label * (query[b] @ A @ x) for label, x in zip(labels, features, strict=True))
            / count
        )
    return out


def set_values(model, values):
    with torch.no_grad():
        (model.v if model.merged else model.V).copy_(torch.as_tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("heads", [1, 2, 3])
def test_softmax_equals_the_loop(heads, merged):
    model = finite.SoftmaxAttention(3, heads, merged=merged, score_std=0.7, seed=heads)
    set_values(model, RNG.standard_normal(heads))
    tensors = prompt()
    arrays = [tensor.numpy() for tensor in tensors]
    expected = softmax_loop(model.score_matrices(), model.values(), *arrays)
    prediction = model(*tensors).detach().numpy()
    assert prediction.dtype == np.float64
    np.testing.assert_allclose(prediction, expected, rtol=0, atol=1e-12)
    # The transposed score matrices are another layer: the test sees the convention.
    swapped = softmax_loop(model.score_matrices().transpose(0, 2, 1), model.values(), *arrays)
    assert np.abs(prediction - swapped).max() > 1e-3


LIMITED = [{"head_width": 1}, {"head_width": 2}, {"head_width": 5}, {"scores": "scalar"}]


@pytest.mark.parametrize("options", LIMITED, ids=str)
def test_limited_scores_equal_the_loop(options):
    model = finite.SoftmaxAttention(3, 2, score_std=0.7, seed=4, **options)
    set_values(model, RNG.standard_normal(2))
    tensors = prompt()
    arrays = [tensor.numpy() for tensor in tensors]
    matrices = model.score_matrices()
    expected = softmax_loop(matrices, model.values(), *arrays)
    np.testing.assert_allclose(model(*tensors).detach().numpy(), expected, rtol=0, atol=1e-12)
    if "head_width" in options:
        assert not model.merged
        assert model.K.shape == model.Q.shape == (2, options["head_width"], 3)
        assert set(np.linalg.matrix_rank(matrices)) == {min(3, options["head_width"])}
    else:
        k = model.k.detach().numpy()
        np.testing.assert_array_equal(matrices, k[:, None, None] * np.eye(3))
        assert model.learned(icl.LinearRegression(dim=3)).score_scales == pytest.approx(k)
        assert model.learned(icl.LinearRegression(dim=3, feature_cov=[1, 2, 3])).off_scalar[0] > 0.1
    spec = model.specification()
    assert [np.array(a.tolist(), float).tolist() for a in spec.scores] == matrices.tolist()


@pytest.mark.parametrize("options", LIMITED, ids=str)
def test_limited_layers_are_saved_and_trained_together(options, tmp_path):
    model = finite.SoftmaxAttention(4, 2, seed=2, **options)
    loaded = finite.load(finite.save(model, tmp_path / "model.pt"))
    assert loaded.config == model.config == {**loaded.config, **options}
    np.testing.assert_array_equal(loaded.score_matrices(), model.score_matrices())
    task, settings = icl.LinearRegression(dim=4), {"steps": 5, "batch_size": 8, "progress": False}
    run = finite.train(loaded, task, 6, **settings)
    assert not np.array_equal(loaded.score_matrices(), model.score_matrices())
    (again,) = finite.train_many([model], [(task, 6)], **settings)
    np.testing.assert_allclose(again.loss, run.loss, rtol=1e-10)


def test_limited_heads_start_on_blocks_with_the_sign_of_their_value():
    model = finite.SoftmaxAttention(4, 2, head_width=2, score_std=1e-6)
    blocks = model.score_matrices() / 1e-6
    assert np.diag(blocks[0]) == pytest.approx([1, 1, 0, 0], abs=0.02)
    assert np.diag(blocks[1]) == pytest.approx([0, 0, -1, -1], abs=0.02)
    same = finite.SoftmaxAttention(4, 2, head_width=4, values="same", score_std=1e-6, value_size=2)
    assert np.diag(same.score_matrices()[1]) / 1e-6 == pytest.approx([1] * 4, abs=0.02)
    assert list(same.values()) == [2, 2]


def test_models_print_what_determines_them():
    text = str(finite.SoftmaxAttention(3, 2, scores="scalar"))
    assert text == "SoftmaxAttention(dim=3, heads=2, merged=True, scores='scalar')"
    assert str(finite.LoopedLinearAttention(3, 2)) == "LoopedLinearAttention(dim=3, loops=2)"
    assert "kind='linear'" in str(finite.TokenAttention(3, "linear"))
    assert "layers=1, width=16, heads=2" in str(finite.Transformer(3, 1, 16, 2))
    for package in (finite, numeric):
        with pytest.raises(AttributeError, match=r"no attribute '\w+'; meant \w+\?"):
            getattr(package, "SoftMaxAttention" if package is finite else "optimal_rsik")


@pytest.mark.parametrize("centered", [False, True])
def test_linear_equals_the_loop(centered):
    model = finite.LinearAttention(3, centered=centered, score_std=1.0)
    tensors = prompt()
    A = model.A.detach().numpy()
    arrays = [tensor.numpy() for tensor in tensors]
    prediction = model(*tensors).detach().numpy()
    np.testing.assert_allclose(prediction, linear_loop(A, *arrays, centered), rtol=0, atol=1e-12)
    assert np.abs(prediction - linear_loop(A, *arrays, not centered)).max() > 1e-3


def test_merged_equals_unmerged_with_the_same_scores():
    factored = finite.SoftmaxAttention(4, 2, merged=False, score_std=0.5, seed=3)
    merged = finite.SoftmaxAttention(4, 2)
    set_values(merged, factored.values())
    with torch.no_grad():
        merged.A.copy_(torch.from_numpy(factored.score_matrices()))
    tensors = prompt(dim=4)
    torch.testing.assert_close(merged(*tensors), factored(*tensors), rtol=0, atol=1e-12)
    # A_h = Q_h' K_h.
    K, Q = factored.K.detach().numpy(), factored.Q.detach().numpy()
    np.testing.assert_allclose(merged.score_matrices()[1], Q[1].T @ K[1], rtol=0, atol=1e-15)


def test_opposite_pair_tends_to_centred_linear_attention():
    """Heads +-kA with v = +-1/(2k): (1/n) sum (y - mean)(x - mean)'A' x_q, up to O(k)."""
    base = finite.LinearAttention(3, centered=True, score_std=1.0)
    tensors = prompt(n=9)
    limit = base(*tensors).detach() * (9 - 1) / 9
    scales = np.array([1e-2, 1e-3, 1e-4])
    errors = []
    for k in scales:
        pair = finite.SoftmaxAttention(3, 2)
        with torch.no_grad():
            pair.A.copy_(torch.stack([k * base.A, -k * base.A]))
        set_values(pair, [1 / (2 * k), -1 / (2 * k)])
        errors.append(float((pair(*tensors) - limit).abs().max().detach()))
    # The even orders cancel in the symmetric pair: the error is even O(k^2).
    slope = np.diff(np.log(errors)) / np.diff(np.log(scales))
    assert slope == pytest.approx([2, 2], abs=0.02)
    assert errors[-1] < 1e-6 * float(limit.abs().max())
    assert float((base(*tensors).detach() - limit).abs().max()) > 1e3 * errors[-1]


def test_specification_is_the_same_layer():
    """Sampled risk of the torch layer and of its specification agree; of a changed one they do not."""
    task = icl.LinearRegression(dim=2, noise_var=0.3)
    model = finite.SoftmaxAttention(2, 2, score_std=0.4, seed=5)
    set_values(model, [1.0, -0.7])
    layer = model.specification()
    assert layer.heads == 2
    assert not layer.has_scalar_scores
    measured = measure_risk(model, task, 8, prompts=200_000, seed=1)

    def deviation(specification):
        sampled = monte_carlo_risk(task, specification, 8, prompts=200_000, seed=2, sampler="plain")
        error = np.hypot(measured.standard_error, sampled.standard_error)
        return abs(sampled.value - measured.value) / error

    assert deviation(layer) < 5
    changed = icl.SoftmaxAttention(scores=layer.scores, values=[1.25 * v for v in layer.values])
    assert deviation(changed) > 5


def test_attention_is_the_specification_of_the_optimum():
    assert finite.SoftmaxAttention(3, 2).attention == icl.SoftmaxAttention(heads=2)
    assert finite.LinearAttention(3, centered=True).attention == icl.LinearAttention(centered=True)


def test_learned_reads_scalar_heads_of_a_correlated_task():
    sigma = np.array([[2.0, 0.5], [0.5, 1.0]])
    task = icl.LinearRegression(dim=2, feature_cov=sigma)
    model = finite.SoftmaxAttention(2, 2)
    with torch.no_grad():
        inverse = torch.from_numpy(np.linalg.inv(sigma))
        model.A.copy_(torch.stack([0.3 * inverse, -0.2 * inverse]))
    set_values(model, [2.0, -1.0])
    learned = model.learned(task)
    assert learned.score_scales == pytest.approx([0.3, -0.2])
    assert learned.off_scalar == pytest.approx([0, 0], abs=1e-12)
    assert learned.sum_values == pytest.approx(1.0)
    assert learned.sum_value_scores == pytest.approx(0.8)
    # With the identity instead of Sigma the same heads are not scalar.
    assert model.learned(icl.LinearRegression(dim=2)).off_scalar.min() > 0.1
    with pytest.raises(InvalidInput, match="dim = 3, the model 2"):
        model.learned(icl.LinearRegression(dim=3))


def test_start_signs_and_seeds():
    def signs(start):
        return list(np.sign(finite.SoftmaxAttention(2, 4, values=start, seed=2).values()))

    assert signs("opposite") == [1, -1, 1, -1]
    assert signs("same") == [1, 1, 1, 1]
    assert set(signs("random")) == {1, -1}
    first, again, other = (finite.SoftmaxAttention(2, seed=s).score_matrices() for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim = 0 is not an integer of at least 1"),
        ({"dim": 2.5}, "dim = 2.5"),
        ({"dim": 2, "heads": 0}, "heads = 0"),
        ({"dim": 2, "values": "mixed"}, "values = 'mixed' is not one of opposite, same, random"),
        ({"dim": 2, "value_size": 0}, "value_size = 0 is not positive"),
        ({"dim": 2, "scores": "vector"}, "scores = 'vector' is not one of matrix, scalar"),
        ({"dim": 2, "head_width": 0}, "head_width = 0 is not an integer of at least 1"),
        ({"dim": 2, "head_width": 1, "merged": True}, "head_width limits .* leave merged out"),
        ({"dim": 2, "scores": "scalar", "merged": False}, "scalar scores k_h I have no keys"),
        ({"dim": 2, "scores": "scalar", "head_width": 1}, "leave merged and head_width out"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        finite.SoftmaxAttention(**arguments)


def test_centred_linear_attention_needs_two_examples():
    with pytest.raises(InvalidInput, match="at least 2 examples"):
        finite.LinearAttention(3, centered=True)(*prompt(n=1))


def test_torch_is_loaded_by_finite_only():
    code = "import sys, numeric; assert 'torch' not in sys.modules; from numeric import finite; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
