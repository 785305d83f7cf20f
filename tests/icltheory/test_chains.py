"""Risk of noisy chains: reference values, options, identities, warnings and refusals."""

import warnings

import pytest
import sympy as sp

import icltheory as icl
from icltheory.symbols import (
    d,
    eta,
    gamma,
    label_noise_ratio,
    label_noise_var,
    n,
    noise_std,
    samples,
)

R = sp.Rational


def chain(*args, **options):
    return icl.NoisyDecoding(*args, **options)


@pytest.mark.parametrize(("count", "value"), [(1, 0.3798099414), (8, 0.2517119922)])
def test_risks_are_the_reference_values(count, value):
    decoding = chain(0.5, 0.3, 3, count, label_noise_var=2.25)
    assert float(decoding.risk(20, 10)) == pytest.approx(value, abs=1e-10, rel=0)
    assert float(decoding.risk(20, 11)) != pytest.approx(value, rel=0.01)


def test_risk_and_prompt_loss_are_the_reference_values():
    decoding = chain(R(2, 5), 0.35, 3, label_noise_var=1.69)
    assert float(decoding.risk(14, 9)) == pytest.approx(0.5275183141, abs=1e-10, rel=0)
    assert float(decoding.prompt_loss(14, 9)) == pytest.approx(2.9375457617, abs=1e-10, rel=0)
    assert float(chain(0.412, 0.35, 3, label_noise_var=1.69).risk(14, 9)) != pytest.approx(
        0.5275183141, rel=1e-3
    )


def test_symbols_and_numbers_agree():
    general = chain(eta, noise_std, 2, samples, label_noise_var)
    values = {"eta": R(1, 3), "noise_std": R(1, 5), "samples": 4, "label_noise_var": R(3, 2)}
    special = chain(*(values[k] for k in ("eta", "noise_std")), 2, 4, R(3, 2))
    assert general.risk().subs(n=7, d=5, **values).expr == special.risk(7, 5).expr
    assert general.prompt_loss().subs(n=7, d=5, **values).expr == special.prompt_loss(7, 5).expr


def test_the_limit_is_the_limit_of_the_exact_risk():
    decoding = chain(eta, noise_std, 2, samples, label_noise_var)
    exact = decoding.risk().expr.subs({d: gamma * n, label_noise_var: label_noise_ratio * n})
    limit = sp.limit(sp.expand(exact), n, sp.oo)
    assert sp.expand(limit - decoding.limit_risk().expr) == 0
    assert sp.expand(1.03 * limit - decoding.limit_risk().expr) != 0
    assert label_noise_ratio not in chain(eta, noise_std, 2).limit_risk().free_symbols
    given = decoding.limit_risk(0.5, label_noise_ratio=0.1)
    assert given.expr == decoding.limit_risk().subs(gamma=0.5, label_noise_ratio=0.1).expr


def conditional(decoding, lam, rows, noise):
    """Risk and prompt loss of one coordinate of the eigenbasis, by running its moments.

    The error e = bias w* + labels h + noise: second moments step by step, the labels' part of
    b having variance noise lam/rows.
    """
    w, label, spread = -sp.S.One, sp.S.Zero, sp.S.Zero
    a = 1 - decoding.step_size * lam
    for factor in decoding.noise_factors():
        w, label = a * w, a * label + decoding.step_size
        spread = a**2 * spread + factor**2 * decoding.noise_var
    return sp.expand(w**2 + label**2 * noise * lam / rows + spread / decoding.samples)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"noise_where": "output"},
        {"noise_where": (1, 0, R(1, 2))},
        {"scaled_noise": True},
        {"samples": 5, "noise_where": "output", "scaled_noise": True},
    ],
)
def test_the_recursion_per_eigenvalue_averaged_over_the_spectrum(options):
    """An independent route: moments of the recursion in one eigendirection, then Wishart moments."""
    lam = sp.Symbol("lam")
    decoding = chain(R(2, 5), R(1, 3), 3, label_noise_var=R(7, 4), **options)
    rows, dim = 8, 5
    polynomial = sp.Poly(conditional(decoding, lam, rows, R(7, 4)), lam)

    def average(p):
        terms = p.terms()
        return sum(
            c * icl.wishart_trace_moment(int(k), rows, dim) / (dim * sp.Integer(rows) ** k)
            for (k,), c in terms
        )

    assert decoding.risk(rows, dim).expr == average(polynomial)
    assert decoding.risk(rows, dim).expr != average(
        sp.Poly(R(103, 100) * polynomial.as_expr(), lam)
    )


def test_places_of_the_noise():
    def risk(where):
        return chain(0.4, 0.3, 3, noise_where=where).risk(9, 6).expr

    assert risk("steps") == risk((1, 1, 1))
    assert risk("output") == risk([0, 0, 1])
    assert risk("output") == risk((0, 0, 0)) + R(9, 100)
    assert risk("output") < risk("steps")
    scaled = chain(R(1, 4), 0.6, 3, scaled_noise=True).risk(9, 6)
    assert scaled.expr == chain(R(1, 4), 0.3, 3).risk(9, 6).expr


def test_averaging_removes_sampling_noise_only():
    one, many = (
        chain(0.4, 0.3, 3, count, label_noise_var=2).risk(9, 6).expr for count in (1, 10**6)
    )
    silent = chain(0.4, 0, 3, label_noise_var=2).risk(9, 6).expr
    assert silent < many < one
    assert (one - silent) == 10**6 * (many - silent)


def test_no_thought_gives_the_start():
    for where in ("steps", "output", ()):
        decoding = chain(0.4, 0.3, 0, label_noise_var=2, noise_where=where)
        assert decoding.risk().expr == 1
        assert decoding.limit_risk().expr == 1
        # The residual of w = 0: labels' noise and a signal of d.
        assert sp.expand(decoding.prompt_loss().expr) == d + 2


def test_long_chains_of_which_rare_prompts_carry_the_mean_warn():
    step = R(20, 31)
    assert float(icl.contraction_moment(10, 20, 10, step).expr) == pytest.approx(0.114, abs=5e-4)
    assert float(icl.contraction_moment(20, 20, 10, step).expr) == pytest.approx(7.1, abs=0.05)
    assert float(icl.contraction_moment(8, 5, 2, R(5, 8)).expr) == pytest.approx(1.237, abs=5e-4)
    with pytest.warns(icl.DivergingMoments, match="the limit of large n and d is 0.01722"):
        chain(step, 0, 10).risk(20, 10)
    with pytest.warns(icl.DivergingMoments, match="rare prompts"):
        chain(step, 0, 10).prompt_loss(20, 10)
    with pytest.warns(icl.DivergingMoments, match="not below"):
        chain(0.7, 0, 3).limit_risk(0.5)
    with pytest.warns(icl.DivergingMoments, match="diverges too"):
        chain(2, 0, 3).risk(20, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chain(step, 0, 3).risk(20, 10)
        chain(eta, 0, 6).risk()
        chain(0.3, 0, 10).risk(20, 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chain(0, 0.1, 3), "step_size = 0 is not positive"),
        (lambda: chain(0.5, -0.1, 3), "noise_std = -0.1 is negative"),
        (lambda: chain(0.5, 0.1, -1), "steps = -1 is no number of steps"),
        (lambda: chain(0.5, 0.1, 1.5), "steps = 1.5 is no number of steps"),
        (lambda: chain(0.5, 0.1, 3, 0), "samples = 0 is not a positive integer"),
        (lambda: chain(0.5, 0.1, 3, label_noise_var=-1), "label_noise_var = -1 is negative"),
        (lambda: chain(0.5, 0.1, 3, noise_where="middle"), "noise_where = 'middle'"),
        (lambda: chain(0.5, 0.1, 3, noise_where=(1, 1)), "2 factors for 3 steps"),
        (lambda: chain(0.5, 0.1, 2, noise_where=(1, -1)), r"noise_where\[1\] = -1 is negative"),
        (lambda: chain(0.5, 0.1, 3, scaled_noise=1), "pass True or False"),
        (lambda: chain("0.5", 0.1, 3), "text is never parsed"),
        (
            lambda: chain(0.5, 0.1, icl.symbols.steps).risk(),
            "the number of steps is the symbol steps",
        ),
        (lambda: chain(0.5, 0.1, 30).risk(), "steps = 30: exact risks have at most 19"),
        (lambda: chain(0.5, 0.1, 3).risk(0, 3), "n = 0 is not a positive integer"),
        (lambda: chain(0.5, 0.1, 3).limit_risk(0), "gamma = 0 is not positive"),
        (lambda: chain(0.5, 0.1, 61).risk(20, 10), "steps = 61: exact risks have at most 60"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(icl.InvalidInput, match=message):
        call()
