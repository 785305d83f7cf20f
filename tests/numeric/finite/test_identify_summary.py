"""The summary of identify: a verdict, its evidence and a hint, in few words; the rest in explain()."""

import numpy as np
import pytest
import torch
from identify_cases import DIM, found_in, least_squares

import icltheory as icl
from icltheory.symbols import frobenius, trace
from numeric import finite

NEWTON = finite.SolverModel(icl.IterativeNewton(1 / frobenius), DIM, 5)


def far(X, y, query):
    """A term that no solver has, beside Newton's."""
    with torch.no_grad():
        first = NEWTON(*(torch.from_numpy(a) for a in (X, y, query))).numpy()
    return first + 0.4 * np.sin(3 * X[:, 0].sum(axis=1) + y[:, 0]) * query[:, 0]


class Predictions(finite.SequenceModel):
    """Descent whose states are its predictions: one number."""

    dim, points = DIM, None

    def __init__(self):
        super().__init__()
        self.inner = finite.SolverModel(icl.GradientDescent(1 / trace), DIM, 3)

    def hidden_states(self, X, y):
        return self.inner.read_out(self.inner.hidden_states(X, y))[..., None]

    def read_out(self, states):
        return states[..., 0]


GD = icl.GradientDescent(0.02)
SHORT = {"short": (GD, range(5)), "newton": (icl.IterativeNewton(1 / frobenius), range(6))}


@pytest.mark.parametrize(
    ("model", "options", "hint"),
    [
        (finite.SolverModel(GD, DIM, 3), {}, "explain() tells"),
        (
            finite.SolverModel(icl.IterativeNewton(1 / trace, start="I"), DIM, 3),
            {},
            "the same iterates",
        ),
        (least_squares, {}, "pass smaller prefixes"),
        (far, {}, "compare its filter with theirs"),
        (lambda *p: np.tanh(2 * least_squares(*p)), {}, "hold its risk against numeric.validate"),
        (lambda X, y, query: 0 * y[:, 0], {}, "in eval mode?"),
        (finite.SolverModel(GD, DIM, 6), {"families": SHORT}, "pass families= with more steps"),
        (Predictions(), {"readout": "fitted"}, 'pass readout="own"'),
    ],
)
def test_three_sentences_and_a_hint(model, options, hint):
    found = found_in(model, **options)
    assert hint in found.verdict.summary[-1]
    assert len(found.verdict.summary) <= 3
    assert len(str(found.verdict).split()) < 90
    assert str(found.verdict) in str(found)
    assert found.verdict.sentences[0] == found.verdict.summary[0]
    assert found.verdict.explain() in found.explain()


def test_the_evidence_names_what_is_excluded_with_its_number():
    found = found_in(finite.SolverModel(GD, DIM, 3))
    evidence = found.verdict.summary[1]
    assert evidence.startswith("The similarity to gradient descent is 1 of weights and 1 of errors")
    assert "which is excluded" in evidence
    assert "R^2 of at least 1.0000" in evidence


def test_states_of_one_number_are_read_by_the_model_itself():
    torch.manual_seed(0)
    found = found_in(Predictions())
    assert found.readout == "every layer read by the model's own read-out"
    assert found.steps.tolist() == [1, 2, 3]
    fitted = found_in(Predictions(), readout="fitted")
    match = fitted.match("gradient descent")
    assert match.weights.best_similarity.min() < 0.999  # the constant of the fit spoils it
