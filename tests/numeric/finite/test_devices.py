"""Models in single precision, and on a GPU where there is one: the same prompts, the same results."""

import numpy as np
import pytest
import torch
from torch import nn

import icltheory as icl
import numeric
from numeric import finite

TASK = icl.LinearRegression(dim=3, noise_var=0.25)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
KINDS = [(device, dtype) for device in DEVICES for dtype in (torch.float64, torch.float32)]


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}")
def like(request: pytest.FixtureRequest) -> dict:
    device, dtype = request.param
    return {"device": device, "dtype": dtype}


class Bilinear(nn.Module):
    """A layer of one's own that moves nothing by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.eye(3, dtype=torch.float64) / 2)

    def forward(self, X: torch.Tensor, y: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(torch.einsum("bi,ij,bnj->bn", query, self.scores, X), dim=-1)
        return (weights * y).sum(-1)


def trained(model: nn.Module, like: dict, **options) -> tuple[np.ndarray, finite.TrainingRun]:
    run = finite.train(model.to(**like), TASK, 10, steps=30, progress=False, **options)
    assert all(p.device.type == like["device"] for p in model.parameters())
    return run.loss, run


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (Bilinear, {}),
        (lambda: finite.SoftmaxAttention(dim=3, heads=2), {}),
        (lambda: finite.SoftmaxAttention(dim=3, heads=2, scores="scalar"), {}),
        (lambda: finite.SoftmaxAttention(dim=3), {"average_prompts": True}),
        (lambda: finite.SoftmaxAttention(dim=3, heads=2), {"average_labels": True}),
        (lambda: finite.TokenAttention(dim=3), {}),
        (lambda: finite.TokenAttention(dim=3), {"average_prompts": True}),
        (lambda: finite.LinearAttention(dim=3), {}),
        (lambda: finite.Transformer(dim=3, layers=1, width=8, heads=1), {}),
    ],
    ids=[
        "own", "heads", "scalar", "averaged", "labels", "tokens", "averaged-tokens", "linear", "transformer",
    ],
)  # fmt: skip
def test_training_takes_any_precision_and_device(like, make, options):
    torch.manual_seed(0)
    reference, _ = trained(make(), {"device": "cpu", "dtype": torch.float64}, **options)
    torch.manual_seed(0)
    loss, _ = trained(make(), like, **options)
    resolution = 1e-10 if like["dtype"] is torch.float64 else 2e-3
    np.testing.assert_allclose(loss, reference, rtol=resolution)
    other, _ = trained(make(), like, **options, seed=1)  # control: other prompts are seen
    assert np.abs(other / reference - 1).max() > 10 * resolution


def test_a_trained_model_is_validated_saved_and_described_where_it_is(like, tmp_path):
    model = finite.SoftmaxAttention(dim=3, heads=1)
    run = trained(model, like, record_every=10)[1]
    assert run.trajectory["A"].shape == (4, 1, 3, 3)
    finite.save(model, tmp_path / "model.pt")
    again = finite.load(tmp_path / "model.pt")
    assert isinstance(again, finite.SoftmaxAttention)
    np.testing.assert_array_equal(again.score_matrices(), model.score_matrices())
    assert model.specification().heads == 1
    assert model.learned(TASK).score_scales.shape == (1,)
    here, there = (numeric.measure_risk(m, TASK, 10, prompts=2_000, seed=3) for m in (again, model))
    np.testing.assert_allclose(there.value, here.value, rtol=1e-5)
    averaged = finite.label_averaged_risk(model, TASK, 10, prompts=2_000, seed=3)
    assert averaged.value == pytest.approx(here.value, abs=5 * here.standard_error)


def test_several_models_are_trained_together_where_they_are(like):
    models = [finite.SoftmaxAttention(dim=3, seed=s).to(**like) for s in range(2)]
    alone = finite.SoftmaxAttention(dim=3, seed=1).to(**like)
    runs = finite.train_many(models, [(TASK, 8)] * 2, 20, seeds=[0, 4], progress=False)
    single = finite.train(alone, TASK, 8, 20, 4, progress=False)
    resolution = 1e-10 if like["dtype"] is torch.float64 else 1e-4
    np.testing.assert_allclose(runs[1].loss, single.loss, rtol=resolution)
    assert np.abs(runs[0].loss / single.loss - 1).max() > 0.01
    for average in (False, True):
        finite.train_many(
            models, [(TASK, 8)] * 2, 5, seeds=[0, 4], average_labels=average, progress=False
        )
    assert models[0].A.device.type == like["device"]


@pytest.mark.parametrize("device", DEVICES)
def test_layers_are_identified_where_they_are(device):
    model = finite.shipped("noisy").to(device=device, dtype=torch.float32)
    task = icl.LinearRegression(dim=5, noise_var=0.25)
    found = finite.identify(model, task, 15, prompts=40, progress=False)
    assert float(found.match("ridge").steps[-1]) == pytest.approx(0.8, rel=1e-6)


def test_a_decoder_is_trained_where_it_is(like):
    def loss(place: dict) -> np.ndarray:
        layer = finite.LinearSelfAttention(dim=3).to(**place)
        return finite.train_decoder(
            layer, TASK, 8, steps=20, loss="gradient_descent", thoughts=2, step_size=0.5, progress=False
        ).loss  # fmt: skip

    reference = loss({"device": "cpu", "dtype": torch.float64})
    resolution = 1e-10 if like["dtype"] is torch.float64 else 2e-3
    np.testing.assert_allclose(loss(like), reference, rtol=resolution)
