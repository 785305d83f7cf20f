"""identify: its parts against plain NumPy, and what its result shows."""

import pickle

import numpy as np
import pytest
import torch
from identify_cases import DIM, LENGTH, TASK, found_in, least_squares

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.symbols import trace
from numeric import finite
from numeric.eigenbasis import prompt_spectra
from numeric.families import best_variant, solver_families
from numeric.plot_style import COLORS
from numeric.regression_prompts import solver_prompts
from numeric.solvers import run_solvers

# -- parts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 5])
def test_queries_at_once_are_queries_one_by_one(n):
    model = finite.Transformer(3, 2, 16, 2, 6).double().eval()
    generator = torch.Generator().manual_seed(0)
    shapes = ((4, n, 3), (4, n), (4, 7, 3))
    X, y, queries = (torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes)
    with torch.no_grad():
        found = model.query_states(X, y, queries)
        plain = finite.SequenceModel.query_states(model, X, y, queries)
        direct = torch.stack([model(X, y, queries[:, i]) for i in range(7)], dim=1)
        assert torch.allclose(found, plain, atol=1e-12)
        assert torch.allclose(model.read_out(found[-1]), direct, atol=1e-12)
        other = model.query_states(X, y, queries.flip(1)).flip(2)
        assert torch.allclose(found, other, atol=1e-12)
    solver = finite.SolverModel(icl.ConjugateGradient(), 3, 2)
    found = solver.query_states(X, y, queries)
    assert torch.allclose(
        found, finite.SequenceModel.query_states(solver, X, y, queries), atol=1e-12
    )
    with pytest.raises(InvalidInput, match="7 x tokens"):
        model.query_states(torch.zeros(1, 6, 3), torch.zeros(1, 6), torch.zeros(1, 2, 3))


def test_weights_of_layers_are_those_of_the_solver():
    """Two routes to the weights: answers to queries, and the eigenbasis."""
    from numeric.arrays import task_arrays
    from numeric.finite.layer_readers import reader_of

    data = solver_prompts(DIM, LENGTH + 1, 6)
    X, y, counts = data.features, data.labels, np.array([2, 7])
    reader = reader_of(
        finite.SolverModel(icl.ConjugateGradient(), DIM, 2), TASK, LENGTH, None, False, 0
    )
    weights, _ = reader.weights(X, y, counts, task_arrays(TASK), np.random.SeedSequence(0))
    direct = run_solvers(X, y, icl.ConjugateGradient(), [1, 2], prefixes=counts).weights
    assert weights == pytest.approx(direct, abs=1e-10)
    predictions = reader.predictions(X, y, counts)
    assert predictions == pytest.approx(np.einsum("bpld,bpd->lbp", direct, X[:, counts]), abs=1e-10)


@pytest.mark.parametrize("scale", [0.0123, 0.03])
def test_a_fit_finds_its_number(scale):
    data = solver_prompts(DIM, LENGTH, 30)
    spectra = prompt_spectra(data.features, data.labels, [2, 5, 8])
    descent = solver_families(DIM, LENGTH)[0]
    largest = float(spectra.values.max())

    def nearest(solver, steps):
        weights = run_solvers(
            data.features, data.labels, solver, steps, prefixes=[2, 5, 8], spectra=spectra
        ).weights
        targets = np.einsum("bpkd,bpde->kbpe", weights, spectra.vectors)
        return best_variant(descent, spectra, targets, largest)

    assert nearest(icl.GradientDescent(scale), [3, 8, 17]).fitted == pytest.approx(scale, rel=1e-7)
    rule = nearest(icl.GradientDescent(1 / trace), [3, 8])
    assert (rule.label, rule.fitted) == ("1/trace", None)


def test_families_of_the_reference():
    families = solver_families(5, 15, penalty=1.25)
    assert [f.name for f in families] == [
        *("gradient descent", "Newton from S", "Newton from the identity", "conjugate gradients"),
        *("Chebyshev", "GD++", "ridge", "online descent", "Newton on ridge"),
    ]
    descent = families[0].variants[0].grid
    assert {2.0**k for k in range(14)} <= set(descent)
    assert 1 / 1.25 in families[6].variants[0].grid
    data = solver_prompts(5, 15, 3)
    spectra = prompt_spectra(data.features, data.labels, [1, 4, 15])
    for family in families:
        for variant in family.variants:
            weights = variant.weights(data.features, data.labels, spectra)
            assert weights.shape == (3, 3, len(variant.grid), 5)
            assert np.isfinite(weights).all()


# -- the result ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def result():
    model = finite.SolverModel(icl.GradientDescent(0.02), DIM, 3)
    return finite.identify(model, TASK, LENGTH, prompts=60, bootstrap=100, seed=3)


def test_tables_and_figures(result):
    text = str(result)
    assert "SolverModel: 3 layers on 60 prompts, prefixes 1, ..., 8" in text
    assert len(result.layer_table().splitlines()) == 4
    assert len(result.match_table().splitlines()) == 1 + 3 * len(result.matches)
    page = result._repr_html_()
    assert page.count("<svg") == 2
    assert page.count("<table>") == 2
    assert "<b>The model runs gradient descent" in page
    figure = result.figure
    assert [s.color for s in figure.points] == [s.color for s in figure.lines] == [0, 1, 2]
    assert figure.lines[2].label == "layer 3: steps 3"
    # The true filter lies on the points: 1 - (1 - eta lam)^t at the mean of each bin, nearly.
    x, y = (np.array(v) for v in (figure.points[1].x, figure.points[1].y))
    assert y == pytest.approx(1 - (1 - 0.02 * x) ** 2, abs=0.02)
    assert len(result.family_figure(2).lines) == len(result.matches)
    assert result.family_figure().title == "Layer 3 beside the families"
    assert result.step_figure().points[0].y == (1, 2, 3)
    assert result.figures._repr_png_()[0].startswith(b"\x89PNG")
    assert result.plot().get_title(loc="left") == figure.title
    # A family has one colour, which is neither the model's nor another's.
    hues = {line.label.split(",")[0]: line.color for line in result.family_figure().lines}
    assert len(set(hues.values())) == len(hues)
    assert result.family_figure().points[0].color % len(COLORS) not in {
        hue % len(COLORS) for hue in hues.values()
    }
    assert all(hues[s.label] == s.color for s in result.step_figure().points)
    with pytest.raises(InvalidInput, match=r"layer = 4 is not one of 1, \.\.\., 3"):
        result.family_figure(4)
    with pytest.raises(InvalidInput, match="'descent' is not one of gradient descent"):
        result.match("descent")


def test_a_seed_gives_one_result(result):
    model = finite.SolverModel(icl.GradientDescent(0.02), DIM, 3)
    again = finite.identify(model, TASK, LENGTH, prompts=60, bootstrap=100, seed=3)
    assert str(again) == str(result)
    assert str(pickle.loads(pickle.dumps(result))) == str(result)
    other = finite.identify(model, TASK, LENGTH, prompts=60, bootstrap=100, seed=4)
    assert str(other) != str(result)


def test_risks_are_those_of_the_prompts(result):
    """Against the exact risk of descent."""
    for layer in range(3):
        exact = float(icl.solver_risk(icl.GradientDescent(0.02), layer + 1, LENGTH, DIM))
        gap = result.layers.risk[layer, -1] - exact
        assert abs(gap) < 5 * result.layers.risk_error[layer, -1]
    zero = result.layers.zero_risk[-1]
    assert result.layers.risk[2, -1] + 5 * result.layers.risk_error[2, -1] < zero


def test_fewer_examples_than_dimensions():
    found = found_in(finite.SolverModel(icl.GradientDescent(0.03), DIM, 3), length=2)
    assert found.solver == "gradient descent"
    assert found.filter.null_gain == pytest.approx(0, abs=1e-12)
    only = found_in(least_squares, prefixes=[5, 8])
    assert only.match("ridge").errors is None  # rounding beyond n = d
    correlated = icl.LinearRegression(dim=2, feature_cov=[[2, 0.5], [0.5, 1]])
    found = found_in(finite.SolverModel(icl.GradientDescent(0.03), 2, 3), correlated, 5)
    assert found.solver == "gradient descent"
