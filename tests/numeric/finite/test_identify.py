"""identify: names and steps of models that run a known solver, what stays open, and refusals."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.symbols import frobenius, lam_max, trace
from numeric import finite
from numeric.eigenbasis import prompt_spectra
from numeric.families import best_variant, given_families, solver_families
from numeric.finite import make_checkpoints
from numeric.finite.shipping import RECIPES
from numeric.finite.verdict import remaining, shown
from numeric.plot_style import COLORS
from numeric.regression_prompts import solver_prompts
from numeric.solvers import run_solvers

DIM, LENGTH = 4, 8
TASK = icl.LinearRegression(dim=DIM)
QUICK = {"prompts": 50, "bootstrap": 100}


@pytest.fixture(autouse=True)
def one_thread():
    """The models are too small for more; the number is restored."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def found_in(model, task=TASK, length=LENGTH, **options):
    return finite.identify(model, task, length, **{**QUICK, **options})


def least_squares(X, y, query):
    return np.einsum("bd,bd->b", (np.linalg.pinv(X) @ y[..., None])[..., 0], query)


def ridge(penalty):
    def model(X, y, query):
        S = np.einsum("bni,bnj->bij", X, X) + penalty * np.eye(X.shape[2])
        b = np.einsum("bni,bn->bi", X, y)
        return np.einsum("bd,bd->b", np.linalg.solve(S, b[..., None])[..., 0], query)

    return model


# -- models that run a known solver --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "family", "variant"),
    [
        (icl.GradientDescent(0.031), "gradient descent", "step size 0.031, fitted"),
        (icl.GradientDescent(1 / lam_max), "gradient descent", "1/lam_max"),
        (icl.IterativeNewton(1 / frobenius), "Newton from S", "1/frobenius"),
        (icl.IterativeNewton(0.00037), "Newton from S", "scale 0.00037, fitted"),
        (icl.ConjugateGradient(), "conjugate gradients", ""),
    ],
)
def test_solvers_are_named_with_the_right_step(solver, family, variant):
    found = found_in(finite.SolverModel(solver, DIM, 3))
    assert found.solver == family
    assert found.match(family).variant == variant
    assert found.steps is not None
    assert found.steps.tolist() == [1, 2, 3]
    match = found.match(family)
    assert match.errors is not None
    assert match.errors.best.tolist() == [1, 2, 3]
    assert match.weights.tie_set(2).tolist() == [3]
    assert not match.weights.censored.any()
    assert match.weights.step_interval[2].tolist() == [3, 3]
    # The effective filter, which knows no family, is the one of this family at these steps.
    assert found.filter.gain == pytest.approx(match.filter.gain, abs=1e-6)
    assert found.layers.r_squared.min() > 1 - 1e-9
    assert found.layers.off_span.max() < 1e-20
    text = str(found.verdict)
    assert text.startswith(f"The model runs {family}: layers 1, 2, 3 are at steps 1, 2, 3")
    # Negative control: no other family is at these steps within its ties.
    for other in found.matches:
        if other is not match:
            assert other.weights.best_similarity[2] < match.weights.best_similarity[2] - 1e-7


@pytest.mark.parametrize(
    ("network", "family", "step", "number"),
    [
        (finite.gradient_transformer(DIM, LENGTH, 7, 0.025), "gradient descent", 7, 0.025),
        (finite.newton_transformer(DIM, LENGTH, 4, 0.0003), "Newton from S", 4, 0.0003),
        (
            finite.newton_transformer(DIM, LENGTH, 3, 0.0003, layout="published"),
            "Newton from S",
            3,
            0.0003,
        ),
    ],
)
def test_networks_with_written_weights(network, family, step, number):
    """They take one prompt length only: one prefix, one layer, and no similarity of errors."""
    found = found_in(network)
    assert found.solver == family
    assert found.steps.tolist() == [step]
    assert found.match(family).fitted == pytest.approx(number, rel=1e-6)
    assert found.prefixes.tolist() == [LENGTH]
    assert found.match(family).errors is None


def test_several_steps_a_layer():
    found = found_in(finite.SolverModel(icl.GradientDescent(1 / trace), DIM, 3, steps_per_layer=5))
    assert found.solver == "gradient descent"
    assert found.steps.tolist() == [5, 10, 15]


def test_fitted_read_outs_find_the_same_steps():
    """Read-outs rescale the predictions, which the similarity of weights does not see; what it sees is
    the error of the fit."""
    model = finite.SolverModel(icl.GradientDescent(1 / trace), DIM, 3)
    found = found_in(
        model, readout="fitted", families={"gd": (icl.GradientDescent(1 / trace), range(20))}
    )
    assert found.match("gd").steps.tolist() == [1, 2, 3]
    assert found.match("gd").weights.best_similarity.min() > 0.98
    assert "least squares on" in found.readout
    assert found.layers.r_squared.min() > 0.98


def test_ridge_is_named_on_noisy_labels():
    task = icl.LinearRegression(dim=DIM, noise_var=0.25)
    found = found_in(ridge(1.0), task)
    assert found.verdict.families[0] == "ridge"
    assert found.match("ridge").steps == pytest.approx([1.0])
    assert found.match("Newton on ridge").weights.best_similarity[0] > 0.9999
    assert found.layers.half_point[0] == pytest.approx(1.0, rel=0.4)


# -- what the data cannot decide ---------------------------------------------------------------------


def test_newton_from_the_identity_is_descent_as_well():
    found = found_in(finite.SolverModel(icl.IterativeNewton(1 / trace, start="I"), DIM, 3))
    assert found.solver is None
    assert found.steps is None
    assert set(found.verdict.families) == {"gradient descent", "Newton from the identity"}
    assert found.match("gradient descent").steps.tolist() == [2, 4, 8]
    assert found.match("Newton from the identity").steps.tolist() == [1, 2, 3]
    assert "the same iterates" in str(found.verdict)


def test_what_has_converged_is_least_squares():
    found = found_in(least_squares)
    assert found.verdict.families == ("least squares",)
    assert found.steps is None
    assert "undecided which of them reached it" in str(found.verdict)
    late = found_in(finite.SolverModel(icl.ConjugateGradient(), DIM, DIM + 1))
    assert late.solver == "conjugate gradients"
    assert late.layers.converged.tolist() == [False] * (DIM - 1) + [True] * 2
    assert "layers 4, 5 are least squares" in str(late.verdict)


def test_a_model_between_families_is_undecided():
    """Half Newton, half ridge: farther from the families than these are from each other."""
    newton = finite.SolverModel(icl.IterativeNewton(1 / frobenius), DIM, 5)

    def model(X, y, query):
        with torch.no_grad():
            first = newton(*(torch.from_numpy(a) for a in (X, y, query))).numpy()
        scatter = np.sin(3 * X[:, 0].sum(axis=1) + y[:, 0])
        return first + 0.4 * scatter * query[:, 0]

    found = found_in(model)
    assert found.solver is None
    assert {"gradient descent", "Newton from S"} <= set(found.verdict.families)
    assert "farther from its nearest family" in str(found.verdict)
    assert "where every solver from 0 has none" in str(found.verdict)
    assert found.layers.off_span[0] > 0.01


def test_nothing_to_identify():
    found = found_in(lambda X, y, query: np.zeros(len(X)))
    assert found.verdict.families == ()
    assert "nothing to identify" in str(found)


def mean_descent(step, steps):
    """Descent with a step on X'X/n, as a function of prompts."""

    def model(X, y, query):
        w = np.zeros_like(query)
        for _ in range(steps):
            residual = y - np.einsum("bni,bi->bn", X, w)
            w = w + step * np.einsum("bni,bn->bi", X, residual) / X.shape[1]
        return np.einsum("bd,bd->b", w, query)

    return model


def test_zero_on_average_is_not_zero_everywhere():
    model = mean_descent(0.5, 3)
    text = str(found_in(model, length=20).verdict)
    at_the_end = found_in(model, length=20, prefixes=[20])
    risk = at_the_end.layers.risk[0, 0]
    assert "Not better than zero on average over prefixes 1 to 20, but not at n = 20" in text
    assert f"risk {risk:.3g} against" in text
    assert "nothing to identify" not in text
    assert "gradient descent" in at_the_end.verdict.families
    assert at_the_end.match("gradient descent").steps == 3


def test_steps_on_the_mean_are_hinted_at():
    hint = "steps are on the mean over the examples"
    model = mean_descent(0.5, 1)
    assert f"{hint}, X'X/n" in str(found_in(model, length=20).verdict)
    assert hint not in str(found_in(model, length=20, prefixes=[20]).verdict)
    on_s = finite.SolverModel(icl.GradientDescent(0.02), DIM, 2)
    assert hint not in str(found_in(on_s).verdict)
    assert hint not in str(found_in(lambda X, y, query: np.zeros(len(X))).verdict)


def test_a_step_beyond_the_grid_is_censored():
    model = finite.SolverModel(icl.GradientDescent(0.02), DIM, 6)
    found = found_in(
        model,
        families={
            "short": (icl.GradientDescent(0.02), range(5)),
            "newton": (icl.IterativeNewton(1 / frobenius), range(6)),
        },
    )
    assert found.match("short").weights.censored.tolist() == [False] * 3 + [True] * 3
    assert "4*" in found.match_table()


def test_nonlinear_models_are_told():
    found = found_in(lambda X, y, query: np.tanh(2 * least_squares(X, y, query)))
    assert found.layers.r_squared.min() < 0.99
    assert "Not all predictions are linear in the query" in str(found.verdict)


def test_families_are_compared_on_the_same_prompts():
    rng = np.random.default_rng(0)
    common = 0.05 * rng.standard_normal(100)
    cosines = np.array([0.95 + common, 0.949 + common, 0.95 + common[::-1]])
    far = remaining("weights", cosines, np.full((3, 3), 0.9), bootstrap=200)
    # 0.001 with the same scatter is seen; the same mean with another scatter is not.
    assert far.left.tolist() == [True, False, True]
    near = remaining("weights", cosines, np.full((3, 3), 0.96), bootstrap=200)
    assert near.left.all()
    assert shown(1.0) == "1"
    assert shown(1 - 2e-6) == "1 - 2e-06"


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
    assert "SolverModel: 3 layer(s) on 60 prompts, prefixes 1, ..., 8" in text
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


# -- refusals -----------------------------------------------------------------------------------------


class Restless(finite.LSTM):
    """Predicts something else at every call."""

    def read_out(self, states):
        return super().read_out(states) + torch.randn(states.shape[:-1])


class NotCausal(finite.LSTM):
    """Sees the labels behind."""

    def hidden_states(self, X, y):
        return super().hidden_states(X, y) + y.float().sum(1)[None, :, None, None]


GD = icl.GradientDescent(0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "text"}, "model has type str"),
        ({"model": lambda X, y, query: query}, r"returned shape \(200, 4\)|returned shape"),
        ({"model": lambda X, y, query: np.full(len(X), math.nan)}, "NaN"),
        ({"model": lambda X, y, query: np.random.rand(len(X))}, "not deterministic"),  # noqa: NPY002
        ({"model": Restless(DIM, 1, 8)}, "evaluation mode"),
        ({"model": NotCausal(DIM, 1, 8)}, "must be causal"),
        ({"model": finite.Transformer(DIM, 1, 8, 1, 8)}, "9 x tokens"),
        ({"model": finite.Transformer(3, 1, 8, 1, 9)}, "dim = 4, the model 3"),
        ({"model": finite.gradient_transformer(DIM, 5, 2, 0.1)}, "prompts of 5 examples"),
        ({"task": icl.LinearRegression(dim=DIM, local=(0.5, 1))}, "local"),
        ({"task": "text"}, "task has type str"),
        ({"prompt_length": 0}, "prompt_length = 0"),
        ({"prompts": 19}, "prompts = 19"),
        ({"bootstrap": 10}, "bootstrap = 10"),
        ({"seed": -1}, "seed = -1"),
        ({"bins": 1}, "bins = 1"),
        ({"prefixes": [0, 2]}, "prefixes = 0"),
        ({"prefixes": [2, 9]}, "increasing integers from 1 to prompt_length = 8"),
        ({"prefixes": [3, 2]}, "increasing integers"),
        ({"filter_prefix": 3, "prefixes": [2, 4]}, "filter_prefix = 3 is not among"),
        ({"readout": "linear"}, "readout = 'linear' is not one of fitted, own"),
        ({"families": []}, "families is no mapping"),
        ({"families": {"a": GD}}, "no pair"),
        ({"families": {"a": (icl.Ridge(1), range(4))}}, "a solver with steps"),
        ({"families": {"a": (GD, [3, 2, 1])}}, "at least 3 increasing"),
        ({"families": {"a": (icl.GradientDescent(5), range(4))}}, "diverges"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    model = finite.SolverModel(GD, DIM, 2)
    arguments = {"model": model, "task": TASK, "prompt_length": LENGTH, **QUICK, **options}
    with pytest.raises(InvalidInput if "diverges" not in message else Exception, match=message):
        finite.identify(**arguments)


def test_families_refuse_text():
    with pytest.raises(InvalidInput, match="no mapping"):
        given_families("gradient descent")


# -- the shipped models ---------------------------------------------------------------------------------


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
