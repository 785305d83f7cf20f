"""The curriculum: what it plans, what prompts then look like, and what it refuses."""

import numpy as np
import pytest
import torch

import icltheory as icl
from icltheory.errors import InvalidInput
from numeric import finite
from numeric.arrays import task_arrays
from numeric.finite.curriculum import Curriculum
from numeric.samplers import sample_prompts

TASK = icl.LinearRegression(dim=4)


def test_the_plan_of_the_paper():
    """Dimensions 5 to 20, points 11 to 41, every 2000 steps: whole after 30000 steps."""
    plan = Curriculum(dim=5, points=11, every=2000)
    assert plan.at(0, 20, 41) == (5, 11)
    assert plan.at(1999, 20, 41) == (5, 11)
    assert plan.at(2000, 20, 41) == (6, 13)
    assert plan.at(29_999, 20, 41) == (19, 39)
    assert plan.at(30_000, 20, 41) == (20, 41)
    assert plan.at(500_000, 20, 41) == (20, 41)
    assert plan.at(0, 3, 8) == (3, 8)  # never more than the task


def test_the_setting_tells_plans_apart():
    plans = [
        Curriculum(dim=2, points=4, every=5),
        Curriculum(dim=3, points=4, every=5),
        Curriculum(dim=2, points=5, every=5),
        Curriculum(dim=2, points=4, every=6),
        Curriculum(dim=2, points=4, every=5, dim_step=2),
        Curriculum(dim=2, points=4, every=5, points_step=1),
    ]
    assert len({tuple(plan.setting()) for plan in plans}) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 0}, "dim = 0"),
        ({"points": 1}, "a query without an example; give at least 2"),
        ({"every": 0}, "every = 0"),
        ({"dim_step": -1}, "dim_step = -1"),
        ({"points_step": 0.5}, "points_step = 0.5"),
        ({"every": "2000"}, "every = '2000' is not numeric"),
    ],
)
def test_wrong_plans_are_refused(change, message):
    with pytest.raises(InvalidInput, match=message):
        Curriculum(**{"dim": 2, "points": 4, "every": 5, **change})


def test_prompts_of_few_coordinates():
    """The other coordinates are zero, the labels fit the rest, and the draws are those of the whole."""
    arrays = task_arrays(TASK)
    whole = sample_prompts(arrays, 6, 50, np.random.default_rng(1))
    X, y, query, target = sample_prompts(arrays, 6, 50, np.random.default_rng(1), 2)
    assert not X[..., 2:].any()
    assert not query[..., 2:].any()
    assert np.array_equal(X[..., :2], whole[0][..., :2])
    assert np.array_equal(query[..., :2], whole[2][..., :2])
    theta = np.linalg.lstsq(X.reshape(50, 6, 4)[0], y[0], rcond=None)[0]
    assert X[0] @ theta == pytest.approx(y[0], abs=1e-12)
    assert query[0] @ theta == pytest.approx(target[0], abs=1e-12)
    assert np.mean(y**2) < np.mean(whole[1] ** 2)
    same = sample_prompts(arrays, 6, 50, np.random.default_rng(1), 4)
    assert all(np.array_equal(a, b) for a, b in zip(same, whole, strict=True))


def test_training_sees_what_is_planned():
    seen = []

    class Spy(finite.SequenceModel):
        points = None

        def __init__(self):
            super().__init__()
            self.dim, self.a = 4, torch.nn.Parameter(torch.zeros(()))

        def predict_all(self, X, y):
            seen.append((int((X != 0).any(0).any(0).sum()), X.shape[1]))
            return self.a * y

    plan = Curriculum(dim=1, points=3, every=2, dim_step=2, points_step=3)
    finite.train(Spy(), TASK, 8, steps=7, batch_size=4, curriculum=plan, progress=False)
    assert seen == [(1, 3), (1, 3), (3, 6), (3, 6), (4, 9), (4, 9), (4, 9)]
    seen.clear()
    finite.train(Spy(), TASK, 8, steps=2, batch_size=4, progress=False)
    assert seen == [(4, 9)] * 2


def test_the_first_steps_are_those_of_a_smaller_task():
    """Coordinates that are zero do not reach the read-in: its weights for them stay."""
    model = finite.Transformer(dim=4, layers=1, width=8, heads=2, points=9)
    before = model.read_in.weight.detach().clone()
    plan = Curriculum(dim=2, points=3, every=100)
    finite.train(model, TASK, 8, steps=5, batch_size=4, curriculum=plan, progress=False)
    after = model.read_in.weight.detach()
    assert torch.equal(after[:, 2:], before[:, 2:])
    assert not torch.equal(after[:, :2], before[:, :2])
