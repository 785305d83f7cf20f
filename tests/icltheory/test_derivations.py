"""Every formula that a reader can ask for says in steps where it comes from."""

import dataclasses
import warnings

import pytest
import sympy as sp
from test_readable_formulas import strangers

import icltheory as icl
from icltheory.formula import Formula
from icltheory.symbols import a0, b0, d, eta, gamma, n, noise_std, noise_var, steps, t, temperature
from numeric import cli, derive_command
from numeric.derive_formulas import FORMULAS, NEEDS

TASK = icl.LinearRegression(dim=d, noise_var=noise_var)
LAW = icl.Gaussian([0, 0], [[1, 0], [0, 2]])
DESCENT = icl.GradientDescent(eta / n)
CHAIN = icl.NoisyDecoding(eta, noise_std, 2, label_noise_var=icl.symbols.label_noise_var)
TWO = icl.Candidates(loss_weights=[1, 0], bias=[1, 2], noise_var=[1, 1])
SIGNS, LOGIT = icl.Signs(), icl.Logit(temperature)

CALLS = {
    "threshold": lambda: icl.overthinking_threshold(),
    "threshold at a step": lambda: icl.overthinking_threshold(0.5, 0.4),
    "threshold above 1": lambda: icl.overthinking_threshold(2),
    "split": lambda: icl.split_risk(3),
    "split law": lambda: [icl.split_law(g) for g in (0.5, 1, 2)],
    "late": lambda: icl.late_contraction(),
    "late at 1": lambda: icl.late_contraction(1, 0.25),
    "noise gain": lambda: [icl.noise_gain_limit(x, g) for x, g in ((2, gamma), (steps, 1))],
    "noise gain of many": lambda: icl.noise_gain_limit(steps, 0.5),
    "long chain": lambda: icl.long_chain_channel(SIGNS),
    "sparse": lambda: icl.sparse_channel_variances(icl.NoisyDecoding(eta, 0, 1), 3, n, 9),
    "channel": lambda: icl.BinaryChannel().log_loss(LOGIT),
    "prompt loss": lambda: CHAIN.prompt_loss(),
    "trained": lambda: icl.trained_risk(TASK),
    "one step": lambda: icl.one_step_risk(TASK, eta),
    "pass": lambda: icl.pass_at_n(),
    "verified": lambda: icl.verified_log_samples(),
    "equivocation": lambda: icl.equivocation(0),
    "competitor": lambda: [icl.competitor_error(1, SIGNS, form=x) for x in ("student", "chernoff")],
    "exhaustive": lambda: icl.exhaustive_error(SIGNS, n, 5),
    "vote excess": lambda: icl.vote_excess(),
    "averaging": lambda: icl.averaging_excess(temperature),
    "votes": lambda: icl.vote_samples(0.75),
    "Jacobian": lambda: icl.leading_jacobian_error(LAW, [1, 2]),
    "gradient": lambda: icl.leading_gradient_error(LAW, [0, 1], [1, 0]),
    "weights": lambda: icl.weight_moment(LAW, [0, 1]),
    "fourth": lambda: icl.fourth_moment(LAW, [0, 1]),
    "limit Jacobian": lambda: icl.limit_jacobian(LAW, [0, 1]),
    "sub-Gaussian": lambda: icl.subgaussian_bound(1, 1, 3),
    "edge": lambda: icl.edge_cosine(),
    "constants": lambda: [icl.matching_constant(x, 1) for x in ("half", "risk", "cosine")],
    "rates": lambda: icl.convergence_rates(TASK),
    "prior": lambda: icl.prior_risk(icl.LinearRegression(dim=2, coef_mean=[1, 2])),
    "solver limit": lambda: [
        icl.solver_risk_limit(DESCENT, 2),
        icl.solver_risk_limit(icl.Ridge(n)),
    ],
    "least squares limit": lambda: icl.solver_risk_limit(icl.OrdinaryLeastSquares()),
    "solver limit, Sigma": lambda: icl.solver_risk_limit(DESCENT, 1, cov_moments=[1, 2, 5]),
    "output gradients": lambda: [icl.output_gradients(), icl.output_gradients(LAW)],
    "floor": lambda: icl.sampling_floor(LOGIT),
    "Onsager": lambda: icl.onsager_coefficient(icl.Clip()),
    "maximum": lambda: icl.normal_maximum_mean(1),
    "candidates": lambda: [
        *(TWO.risk(), TWO.many_samples_risk(), TWO.tilted_risk(), TWO.loss_distribution()),
        *(*TWO.selected_shift(4), TWO.softmax_mean_risk(), TWO.loss_cumulant(1)),
    ],
    "derivative": lambda: icl.loss_constant(TASK, icl.SoftmaxAttention(heads=1)).diff(t),
}


def formulas(found):
    """The formulas in a result."""
    if isinstance(found, Formula):
        return [found]
    if dataclasses.is_dataclass(found):
        return [x for x in vars(found).values() if isinstance(x, Formula)]
    if isinstance(found, dict):
        found = list(found.values())
    parts = found if isinstance(found, (list, tuple)) else []
    return [formula for part in parts for formula in formulas(part)]


@pytest.mark.parametrize("name", CALLS)
def test_formulas_have_steps(name):
    found = formulas(CALLS[name]())
    assert found
    for formula in found:
        assert formula.steps, formula.name
        assert strangers(formula) == []
        assert formula.explain()
        assert formula.explain()._repr_markdown_()


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_of_the_command_line_have_steps(monkeypatch, capsys, name):
    found = []
    monkeypatch.setattr(derive_command, "_shown", lambda result, *_: found.append(result) or "")
    options = [x for k, v in NEEDS.get(name, {}).items() for x in (f"--{k}", v)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", icl.DivergingMoments)
        cli.main(["derive", name, *options])
    capsys.readouterr()
    for formula in formulas(found):
        assert formula.steps, formula.name
        assert strangers(formula) == []


def test_steps_are_true():
    """The quantities of a few steps give the result."""
    law = icl.split_risk(3)
    bias, gain = (step.equation.rhs for step in law.steps)
    budget = icl.symbols.budget
    assert sp.cancel(law.expr - bias - 3 * noise_std**2 * gain / budget) == 0
    loss = CHAIN.prompt_loss()
    assert sp.expand(loss.expr - sum(step.equation.rhs for step in loss.steps)) == 0
    added, slope = (step.equation.rhs for step in icl.averaging_excess(temperature).steps)
    assert icl.averaging_excess(temperature).expr == added * slope
    balance, *_ = icl.convergence_rates(TASK)["local"].steps
    assert balance.equation.rhs == b0**2 - d * a0**2
    overlap, norms = (step.equation.rhs for step in icl.edge_cosine(3).steps)
    at = {icl.symbols.ratio: sp.Rational(7, 5)}
    cosine = (overlap / sp.sqrt(norms)).subs(at).evalf(20)
    assert abs(cosine - icl.edge_cosine(3).expr.subs(at).evalf(20)) < 1e-18
    rho = icl.solver_risk_limit(DESCENT, 1, 0.5).steps[0].equation.rhs
    x = sp.Symbol("x", positive=True)
    low, high = ((1 + s * sp.sqrt(0.5)) ** 2 for s in (-1, 1))
    mean = sp.Integral(rho * (1 - eta * x) ** 2, (x, low, high)).subs(eta, 0.3).evalf()
    assert float(abs(mean)) == pytest.approx(
        float(icl.solver_risk_limit(DESCENT, 1, 0.5).subs(eta=0.3)), rel=1e-8
    )


def test_dir_lists_public_names_only():
    shown = dir(icl)
    assert {"Any", "import_module", "sys"}.isdisjoint(shown)
    assert not [x for x in shown if x.startswith("_") and not x.startswith("__")]
    assert {"Formula", "loss_constant", "symbols", "__name__"} <= set(shown)
