"""Results show themselves in few words: no dump of arrays, fields by their names."""

from dataclasses import dataclass

import numpy as np
import pytest

import icltheory as icl
import numeric
from numeric import finite
from numeric.decoding_display import Shown, brief

TASK, HEAD = icl.LinearRegression(dim=3), icl.SoftmaxAttention(heads=1)
DESCENT = icl.GradientDescent(0.01)
DATA = numeric.solver_prompts(3, 40, 50)


def run():
    return numeric.run_solvers(DATA.features, DATA.labels, DESCENT, range(30))


def similarity():
    errors = numeric.solver_errors(DATA.features, DATA.labels, DESCENT, [1, 2, 4]).errors
    return numeric.similarity_of_errors(errors, errors + 0.1)


def descent(X, y, query):
    return np.einsum("bnd,bn,bd->b", X, y, query) / 20


@pytest.mark.parametrize(
    "make",
    [
        lambda: DATA,
        run,
        lambda: run().spectra,
        lambda: run().risk(DATA.coefficients),
        similarity,
        lambda: numeric.best_match(similarity(), [1, 2, 4]),
        lambda: numeric.optimal_risk(TASK, HEAD, range(2, 40)),
        lambda: numeric.optimal_block_risk(TASK, 10),
        lambda: numeric.prompt_moments(range(2, 40), 1.0),
        lambda: numeric.pair_moments(range(2, 40), 0.5, -0.5),
        lambda: numeric.flow_rates(icl.LinearRegression(dim=3, coef_cov=1), 0.4, 1.0),
        lambda: numeric.solver_risk(DESCENT, range(40), n=10, d=3),
        lambda: numeric.output_moments(icl.Gaussian([0, 0], np.eye(2)), [0.3, 0.1], 50),
        lambda: numeric.simulate_output(icl.Rademacher(dim=1), [0.7], 20, 100),
    ],
)
def test_a_result_is_a_line(make):
    shown = repr(make())
    assert shown.startswith(f"{type(make()).__name__}(")
    assert "\n" not in shown
    assert "array(" not in shown
    assert len(shown) < 400


def test_results_with_a_text_form_show_it():
    found = finite.identify(descent, TASK, 10, prompts=100, progress=False)
    assert repr(found) == str(found)
    assert len(repr(found)) < 5000
    assert all(len(repr(x)) < 1000 for x in (found.layers, found.filter, *found.matches))
    compared = numeric.validate(descent, TASK, [10], icl.LinearAttention(), prompts=1000)
    assert repr(compared) == str(compared)
    model = finite.SoftmaxAttention(3, seed=1)
    trained = finite.train(model, TASK, 8, steps=20, batch_size=8, progress=False)
    assert repr(trained) == str(trained)
    assert "20 steps, loss" in repr(trained)


@dataclass(frozen=True, repr=False)
class Some(Shown):
    flags: np.ndarray
    words: tuple[str, ...]
    _hidden: int = 0


def test_fields_in_few_words():
    assert repr(Some(np.array([True, False]), ("a",) * 9)) == (
        "Some(flags=[True, False], words=9 entries)"
    )
    assert brief(np.array(["x"])) == "[x]"


def test_a_single_rate_shows_its_error():
    channel = numeric.DecodingChannel(icl.Signs(), 12, np.array(0.6), np.array(0.45))
    rate = numeric.pass_at_n(channel, icl.Logit(0.4), 3, draws=64)
    assert repr(rate) == f"PassRate({str(rate).split()[-1]})"
