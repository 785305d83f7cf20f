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
    "formula": lambda text: icl.Formula("name", text),
    "formula validity": lambda text: icl.Formula("name", X, text),
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
    "contraction power": lambda text: icl.contraction_moment(text),
    "contraction step": lambda text: icl.contraction_moment(2, step_size=text),
    "contraction ratio": lambda text: icl.contraction_moment_limit(2, text),
    "best contraction": lambda text: icl.best_contraction(text),
    "noise gain": lambda text: icl.noise_gain_limit(text),
    "chain step": lambda text: icl.NoisyDecoding(text, 0, 1),
    "chain noise": lambda text: icl.NoisyDecoding(1, 0, 1, noise_where=text),
    "chain factors": lambda text: icl.NoisyDecoding(1, 0, 1, noise_where=[text]),
    "split budget": lambda text: icl.split_risk(1, 1, text),
    "bits": lambda text: icl.Bits(text),
    "sparse bits": lambda text: icl.SparseBits(text),
    "binary temperature": lambda text: icl.Logit(text),
    "binary margin": lambda text: icl.Round().probability(text),
    "binary prior": lambda text: icl.recovery_snr(text),
    "binary sampler": lambda text: icl.vote_constant(text),
    "binary gain": lambda text: icl.BinaryChannel(text),
    "binary start": lambda text: icl.channel(icl.NoisyDecoding(1, 0, 1), icl.Signs(), start=text),
    "candidates": lambda text: icl.Candidates(text, [1], [1]),
    "candidate bias": lambda text: icl.Candidates([1], [text], [1]),
    "chain spectrum": lambda text: icl.chain_candidates(icl.NoisyDecoding(1, 0, 1), [text], [1]),
    "maximum of normals": lambda text: icl.normal_maximum_mean(text),
    "oracle risk": lambda text: icl.oracle_selection_risk(2, 3, text),
    "equivocation": lambda text: icl.equivocation(text),
    "verified success": lambda text: icl.verified_success(text, 2),
    "competitor": lambda text: icl.competitor_error(text, icl.Signs()),
    "competitor form": lambda text: icl.competitor_error(1, icl.Signs(), form=text),
    "plurality": lambda text: icl.plurality_samples(text, 0.1),
    "state evolution": lambda text: icl.state_evolution_map(icl.Round(), text),
    "lock-in digits": lambda text: icl.lock_in_threshold(text),
    "trained length": lambda text: icl.trained_risk(icl.LinearRegression(2), text),
    "one-step weights": lambda text: icl.one_step_risk(icl.LinearRegression(2), text),
    "outcome steps": lambda text: icl.outcome_risk(text),
    "dual point": lambda text: icl.limit_output(icl.Gaussian([0], [[1]]), [text]),
}


@pytest.mark.parametrize("name", CALLS)
def test_text_is_refused_and_not_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(icl.IclTheoryError):
        CALLS[name]("__import__('os').mkdir('made')")
    assert not list(tmp_path.iterdir())
