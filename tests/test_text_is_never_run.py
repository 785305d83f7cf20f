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
    "dual point": lambda text: icl.limit_output(icl.Gaussian([0], [[1]]), [text]),
}


@pytest.mark.parametrize("name", CALLS)
def test_text_is_refused_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(icl.IclTheoryError):
        CALLS[name]("__import__('os').mkdir('made')")
    assert not list(tmp_path.iterdir())
