"""The shipped models: complete, as good as claimed, and made by the command."""

from pathlib import Path

import numpy as np
import pytest
import torch

from icltheory.errors import InvalidInput
from numeric import finite
from numeric.finite import make_checkpoints
from numeric.finite.shipping import RECIPES


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_models_are_small_and_complete(name):
    path = Path(finite.__file__).parent / "checkpoints" / f"{name}.pt"
    assert path.stat().st_size < 2e6
    model = finite.shipped(name)
    assert not model.training
    assert model.config == RECIPES[name].model().config
    state = torch.load(path, weights_only=True)
    assert state["training"] is None
    with torch.no_grad():
        next(model.parameters()).zero_()
    assert next(finite.shipped(name).parameters()).abs().max() > 0


def test_shipped_models_reach_what_is_claimed():
    """Issue: noisy within 1.5 of the Bayes ridge at every length; clean below 0.05 at n = 15."""
    import numeric
    from numeric.claims.solvers_models import errors_of

    clean, zero = errors_of(finite.shipped("clean"), 0.0, 1500)
    error = clean[:, 15].std() / 1500**0.5
    assert clean[:, 15].mean() + 5 * error < 0.05
    assert zero[:, 15].mean() > 0.8
    noisy, _ = errors_of(finite.shipped("noisy"), 0.25, 1500)
    bayes = numeric.bayes_risk(RECIPES["noisy"].task, np.arange(1, 16))
    ratio = noisy[:, 1:].mean(axis=0) / bayes
    assert (ratio + 5 * noisy[:, 1:].std(axis=0) / 1500**0.5 / bayes < 1.5).all()
    # Negative control: the model without noise is not that good there.
    other, _ = errors_of(finite.shipped("clean"), 0.25, 500)
    assert (other[:, 1:].mean(axis=0) / bayes).max() > 1.5


@pytest.mark.parametrize("name", ["other", None, 3])
def test_unknown_models_are_refused(name):
    with pytest.raises(InvalidInput, match="is not one of clean, noisy"):
        finite.shipped(name)


def test_checkpoints_are_made_by_the_command(tmp_path, monkeypatch, capsys):
    out = tmp_path / "model.pt"
    run = make_checkpoints.make_checkpoint("clean", out, steps=3, progress=False)
    assert len(run.loss) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
    loaded = finite.load(out)
    for a, b in zip(loaded.parameters(), run.model.parameters(), strict=True):
        assert torch.equal(a, b)
    settings = run.settings
    assert (settings["batch_size"], settings["warmup"], settings["clip_norm"]) == (64, 500, 1.0)
    assert settings["curriculum"] == [2, 6, 1000, 1, 2]
    assert make_checkpoints.main([]) == 2
    assert make_checkpoints.main(["other", str(out)]) == 2
    assert make_checkpoints.main(["clean", str(tmp_path / "missing" / "x.pt")]) == 2
    errors = capsys.readouterr().err
    assert "usage" in errors
    assert "'other' is not one of clean, noisy" in errors
    assert "Traceback" not in errors
