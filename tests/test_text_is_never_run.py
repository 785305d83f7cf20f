"""No public function of the symbolic side runs text that a user passes."""

import pytest
import sympy as sp

import icltheory as icl

X = sp.Symbol("x", real=True)
CALLS = {
    "wick polynomial": lambda text: icl.wick_moment(text, [X], [0], [[1]]),
    "wick mean": lambda text: icl.wick_moment(X, [X], [text], [[1]]),
    "wick means": lambda text: icl.wick_moment(X, [X], text, [[1]]),
    "wick cov": lambda text: icl.wick_moment(X, [X], [0], [[text]]),
    "tilted polynomial": lambda text: icl.tilted_moment(text, [X], [0], [[1]], [1]),
    "tilted tilt": lambda text: icl.tilted_moment(X, [X], [0], [[1]], [text]),
    "expectation polynomial": lambda text: icl.gaussian_expectation(text, [X], cov=1),
    "expectation cov": lambda text: icl.gaussian_expectation(X, [X], cov=text),
    "expectation linear": lambda text: icl.gaussian_expectation(X, [X], cov=1, linear=[text]),
    "isotropic polynomial": lambda text: icl.isotropic_expectation(text, X, dim=3),
    "isotropic dim": lambda text: icl.isotropic_expectation(X, X, dim=text),
    "formula limit": lambda text: icl.isotropic_expectation(X, X, dim=icl.symbols.d).limit(
        icl.symbols.d, text
    ),
    "formula subs": lambda text: icl.isotropic_expectation(X, X, dim=icl.symbols.d).subs(d=text),
    "task dim": lambda text: icl.LinearRegression(dim=text),
    "task noise": lambda text: icl.LinearRegression(dim=2, noise_var=text),
    "task cov": lambda text: icl.LinearRegression(dim=2, feature_cov=text),
    "task coefficients": lambda text: icl.LinearRegression(dim=2, coef_cov=[1, text]),
    "scores": lambda text: icl.SoftmaxAttention(scores=[text]),
    "values": lambda text: icl.SoftmaxAttention(scores=[1], values=[text]),
    "law": lambda text: icl.Gaussian([text], [[1]]),
    "wishart power": lambda text: icl.wishart_trace_moment(text),
    "wishart length": lambda text: icl.wishart_trace_moment(2, n=text),
    "wishart covariance": lambda text: icl.wishart_covariance_moment(2, cov=[text, 1]),
    "limit moment": lambda text: icl.limit_trace_moment(2, gamma=text),
    "limit resolvent": lambda text: icl.marchenko_pastur_resolvent(text),
    "edge density": lambda text: icl.edge_density(n=text),
    "solver risk": lambda text: icl.solver_risk(icl.GradientDescent(0.1), text),
    "solver risk noise": lambda text: icl.solver_risk(icl.GradientDescent(0.1), 1, noise_var=text),
    "solver risk limit": lambda text: icl.solver_risk_limit(icl.GradientDescent(0.1), 1, text),
    "late solver risk": lambda text: icl.late_solver_risk(icl.GradientDescent(0.1), text),
    "best polynomial": lambda text: icl.best_polynomial_risk(2, n=text),
    "optimal ridge": lambda text: icl.optimal_ridge(5, text),
    "dual point": lambda text: icl.limit_output(icl.Gaussian([0], [[1]]), [text]),
}


@pytest.mark.parametrize("name", CALLS)
def test_text_is_refused_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(icl.IclTheoryError):
        CALLS[name]("__import__('os').mkdir('made')")
    assert not list(tmp_path.iterdir())
