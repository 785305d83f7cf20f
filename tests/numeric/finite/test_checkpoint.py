"""Checkpoints: what was saved comes back bit for bit; nothing else is accepted and nothing is run."""

import os
import pickle
import stat

import pytest
import torch

import icltheory as icl
from icltheory.errors import CheckpointError, InvalidInput
from numeric import finite

MODELS = [
    finite.SoftmaxAttention(3),
    finite.SoftmaxAttention(3, 2, merged=False),
    finite.LinearAttention(3),
    finite.LinearAttention(2, centered=True),
]


def saved(path, **changes):
    """A good file whose content is changed before it is written."""
    model = finite.LinearAttention(2)
    content = {
        "format": 1,
        "class": "LinearAttention",
        "config": model.config,
        "weights": model.state_dict(),
        "training": None,
    }
    torch.save({**content, **changes}, path)
    return path


class Malicious:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("model", MODELS, ids=lambda m: f"{type(m).__name__}-{m.config}")
def test_round_trip(tmp_path, model):
    path = finite.save(model, tmp_path / "model.pt")
    loaded = finite.load(path)
    assert type(loaded) is type(model)
    assert loaded.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    other = type(model)(**model.config, seed=9)
    assert finite.load(path, into=other) is other
    assert all(
        torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True)
    )
    assert os.listdir(tmp_path) == ["model.pt"]


def test_saves_the_model_of_a_run(tmp_path):
    model = finite.LinearAttention(2)
    task = icl.LinearRegression(dim=2)
    run = finite.train(model, task, 5, steps=5, batch_size=8, progress=False)
    assert torch.equal(finite.load(finite.save(run, tmp_path / "run.pt")).A, model.A)


def test_file_mode_follows_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        path = finite.save(MODELS[0], tmp_path / "model.pt")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = finite.save(MODELS[0], tmp_path / "model.pt")
    before = path.read_bytes()

    def full(state, file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InvalidInput, match=r"cannot be written: No space left"):
        finite.save(MODELS[1], path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pt"]


def test_save_refuses_what_cannot_be_loaded(tmp_path):
    with pytest.raises(InvalidInput, match="can be saved, not Linear"):
        finite.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(InvalidInput, match="cannot be written"):
        finite.save(MODELS[0], tmp_path / "missing" / "model.pt")


def test_missing_and_directory(tmp_path):
    for path in (tmp_path / "nothing.pt", tmp_path):
        with pytest.raises(CheckpointError, match="does not exist or is not a file"):
            finite.load(path)


def test_every_truncation_is_refused(tmp_path):
    path = finite.save(MODELS[1], tmp_path / "model.pt")
    content = path.read_bytes()
    for length in range(0, len(content), 101):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="truncated"):
            finite.load(path)
    path.write_bytes(content)
    finite.load(path)


def test_a_changed_weight_is_noticed(tmp_path):
    path = finite.save(MODELS[2], tmp_path / "model.pt")
    content = bytearray(path.read_bytes())
    weight = MODELS[2].A.detach().numpy().tobytes()
    content[content.find(weight)] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        finite.load(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04N.", b"PK\x03\x04", b"text\n" * 100])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        finite.load(path)


@pytest.mark.parametrize("place", ["whole", "weights", "training"])
def test_malicious_pickle_is_not_run(tmp_path, place):
    target, path = tmp_path / "written", tmp_path / "model.pt"
    bomb = Malicious(target)
    if place == "whole":
        torch.save(bomb, path)
    else:
        saved(path, **{place: {"A": bomb}})
    with pytest.raises(CheckpointError, match="nothing in it was run"):
        finite.load(path)
    assert not target.exists()
    # The control: the same file, read without the restriction, does run its code.
    torch.load(path, weights_only=False)
    assert target.exists()


def test_malicious_bare_pickle_is_not_run(tmp_path):
    target, path = tmp_path / "written", tmp_path / "model.pt"
    path.write_bytes(pickle.dumps(Malicious(target)))
    with pytest.raises(CheckpointError, match="no checkpoint"):
        finite.load(path)
    assert not target.exists()


def test_unchanged_content_loads(tmp_path):
    """The control of the next test."""
    assert finite.load(saved(tmp_path / "model.pt")).config == {"dim": 2, "centered": False}


WRONG = {
    "format": ({"format": 2}, "not written by numeric.finite.save"),
    "format-tensor": ({"format": torch.zeros(2)}, "not written by numeric.finite.save"),
    "class": ({"class": "Linear"}, "not written by numeric.finite.save"),
    "class-list": ({"class": ["LinearAttention"]}, "not written by numeric.finite.save"),
    "weights-list": ({"weights": [1.0]}, "not written by numeric.finite.save"),
    "config-unknown": ({"config": {"width": 2}}, "describes no model"),
    "config-value": ({"config": {"dim": 0, "centered": False}}, "describes no model"),
    "config-text": ({"config": {"dim": "x", "centered": False}}, "describes no model"),
    "config-extra": ({"config": {"dim": 2, "centered": False, "seed": 1}}, "describes no model"),
    "dim": ({"config": {"dim": 3, "centered": False}}, r"weight A is .* of shape \(3, 3\)"),
    "shape": ({"weights": {"A": torch.zeros(2, 3)}}, r"weight A is .* of shape \(2, 2\)"),
    "no-tensor": ({"weights": {"A": [[1.0, 0.0], [0.0, 1.0]]}}, "weight A is missing or no real"),
    "missing": ({"weights": {}}, "weight A is missing"),
    "complex": ({"weights": {"A": torch.zeros(2, 2) * 1j}}, "no real array"),
    "more": ({"weights": {"A": torch.zeros(2, 2), "v": torch.zeros(2)}}, "another model: v"),
    "nan": ({"weights": {"A": torch.full((2, 2), torch.nan)}}, "NaN or infinite"),
    "infinite": ({"weights": {"A": torch.full((2, 2), torch.inf)}}, "NaN or infinite"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_content_is_refused(tmp_path, case):
    changes, message = WRONG[case]
    with pytest.raises(CheckpointError, match=message):
        finite.load(saved(tmp_path / "model.pt", **changes))


@pytest.mark.parametrize(
    "into",
    [
        finite.SoftmaxAttention(4),
        finite.SoftmaxAttention(3, 2),
        finite.SoftmaxAttention(3, merged=False),
        finite.LinearAttention(3),
        torch.nn.Linear(3, 1),
    ],
    ids=lambda m: type(m).__name__,
)
def test_another_model_is_refused_and_unchanged(tmp_path, into):
    path = finite.save(finite.SoftmaxAttention(3), tmp_path / "model.pt")
    before = {key: value.clone() for key, value in into.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"holds SoftmaxAttention\(dim=3, heads=1"):
        finite.load(path, into=into)
    assert all(torch.equal(before[key], value) for key, value in into.state_dict().items())
