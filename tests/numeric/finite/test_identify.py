"""identify: names and steps of models that run a known solver, what stays open, and refusals."""

import math

import numpy as np
import pytest
import torch
from identify_cases import DIM, LENGTH, QUICK, TASK, found_in, least_squares

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.symbols import frobenius, lam_max, trace
from numeric import finite
from numeric.families import given_families
from numeric.finite.verdict import remaining, shown
from numeric.solvers import run_solvers


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
    assert "layers 4, 5 are least squares" in late.explain()


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
    assert "farther from its nearest family" in found.explain()
    assert "where every solver from 0 has none" in found.explain()
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
    assert "No better than zero on average over prefixes 1 to 20, but better at n = 20" in text
    assert f"the risk {risk:.3g}, predicting zero has" in text
    assert "X'X/n" in text
    assert "nothing to identify" not in text
    assert "gradient descent" in at_the_end.verdict.families
    assert at_the_end.match("gradient descent").steps == 3


def test_the_bayes_ridge_is_ridge_and_not_newton_that_ended_there():
    noisy = icl.LinearRegression(dim=DIM, noise_var=0.1)
    found = found_in(ridge(0.4), noisy)  # noise_var times d
    assert (found.solver, found.steps) == ("ridge", pytest.approx([2.5]))
    assert "Newton on ridge ends there" in found.explain()

    def three_steps(X, y, query):
        run = run_solvers(X, y, icl.RidgeNewton(0.4), 3, prefixes=[X.shape[1]])
        return np.einsum("bd,bd->b", run.weights[:, 0, 0], query)

    early = found_in(three_steps, noisy)
    assert (early.solver, early.steps) == ("Newton on ridge", pytest.approx([3]))
    assert "ends there" not in early.explain()


def test_least_squares_that_noise_makes_worse_than_zero():
    noisy = icl.LinearRegression(dim=DIM, noise_var=0.5)
    text = str(found_in(least_squares, noisy, length=16).verdict)
    assert "better at n = 16" in text
    assert "X'X/n" not in text


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
    assert "Not all predictions are linear in the query" in found.explain()


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
