"""Formulas of decoding as a reader sees them: no hidden powers, no unnamed roots, no lost brackets."""

import pytest
import sympy as sp

import icltheory as icl
from icltheory.laws.normal import G, normal_mean
from icltheory.symbols import (
    TABLE,
    d,
    delta,
    eta,
    gamma,
    label_noise_var,
    n,
    noise_std,
    samples,
    temperature,
)


def test_a_power_of_a_gaussian_mean_has_brackets():
    mean = normal_mean(sp.cos(G))
    assert sp.latex(mean**2) == rf"\left({sp.latex(mean)}\right)^{{2}}"
    assert sp.latex(mean + 1) == sp.latex(mean) + " + 1"
    shown = icl.BinaryChannel().log_loss_var(icl.Logit(temperature)).latex()
    assert r"dG^{2}" not in shown
    assert shown.startswith(r"- \left(\int")


def test_log_loss_variance_is_the_second_moment_less_the_square():
    seen, sampler = icl.BinaryChannel(0.6, 0.2), icl.Logit(0.4)
    square = normal_mean(sp.log(1 + sp.exp(-(0.6 + sp.sqrt(0.2) * G) / 0.4)) ** 2).evalf(12)
    expected = square - seen.log_loss(sampler).evalf(12) ** 2
    assert float(seen.log_loss_var(sampler)) == pytest.approx(float(expected), rel=1e-9)


def test_prompt_lengths_for_recovery_are_products():
    snr = icl.recovery_snr(icl.Signs()).expr
    assert icl.recovery_length(icl.Signs()).expr == sp.Mul(2, d + 1, sp.log(d / (2 * delta)))
    long = icl.recovery_length(icl.Signs(), chain="long").expr
    assert sp.cancel(long / (d - long) / snr) == 1  # n/(d - n) is the ratio that is needed
    assert float(icl.recovery_length(icl.Signs(), 20, 0.01)) == pytest.approx(290.12572, rel=1e-7)


def test_the_noise_of_an_endless_chain_has_no_signs():
    formula = icl.noise_gain_limit()
    assert formula.expr == 1 / (1 - gamma)
    assert [str(step.equation.rhs) for step in formula.steps] == ["1/(1 - gamma)", "1/(gamma + 1)"]


def test_a_best_step_that_is_a_root_is_named():
    trained = icl.outcome_risk(3, 16, 4)
    assert trained.minimizer is not None
    assert dict(trained.abbreviations) == {eta: trained.minimizer[eta]}
    assert "CRootOf" not in str(trained).partition("with eta")[0]
    assert float(trained) == pytest.approx(0.1070231995 / 2, rel=1e-9)
    assert not icl.outcome_risk(1).abbreviations


def test_the_majority_of_symbolically_many_votes():
    law = icl.BinaryChannel(0.625, 0.425**2).majority_error(icl.Logit(0.6))
    assert law.free_symbols == {samples}
    assert float(law.subs(samples=25)) == pytest.approx(0.1001075121, rel=1e-9)


def test_symbols_explain_themselves():
    assert "variance" in TABLE[label_noise_var].meaning
    chain = icl.NoisyDecoding(eta, noise_std, 2, label_noise_var=label_noise_var)
    shown = chain.risk().latex()
    assert all(word in shown for word in (r"\sigma_y^{2}", r"\sigma^{2}", r"\eta"))
    assert {info.symbol for info in chain.risk().symbols} == {d, eta, label_noise_var, n, noise_std}
