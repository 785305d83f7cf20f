"""The lower bound for every number of heads: the first order of a positive kernel.

The influence kernel of a pair of heads is a positive combination of powers of Gram matrices, so the
loss constant is at least its part of first order, and consistency pins that part. Stands between
`expansion`, which has the kernel, and `risk`, which minimises the constant.
"""

from __future__ import annotations

import sympy as sp

from icltheory.attention import on_specifications
from icltheory.expansion import (
    NOISE,
    SIGNAL,
    C,
    Kernel,
    U,
    influence_kernel,
    kernel_step,
    query_average,
)
from icltheory.formula import CUI, DERIVED_HERE, Formula, Step
from icltheory.limit import consistent_scores
from icltheory.symbols import noise_var
from icltheory.task import LinearRegression


@on_specifications(supports=("coef_mean",))
def lower_bound(task: LinearRegression) -> Formula:
    """A bound that lim n * risk of consistent softmax heads exceeds, whatever their number.

    With K(u, c) = (R + noise + c) e^u for a pair, u = q_h'Sigma q_l and c = q_h'Sigma M Sigma q_l,
    every order u^m and c u^m is a Gram matrix of tensors with a positive coefficient: the constant
    sum_{h,l} v_h v_l E K is at least the sum of its terms of first order, and these depend on
    sum_h v_h A_h = Sigma^{-1} alone. Two heads come arbitrarily close (small opposite scores), none
    attain it: `attained` is False. For parameters fixed as n grows and values that read the labels;
    with coefficients of mean zero the bound also holds for scores that read labels, values that
    read features, and a skip path. A `coef_mean` counts with its second moment. Source: derived
    here.

    >>> from icltheory.symbols import d, noise_var
    >>> lower_bound(LinearRegression(dim=d, noise_var=noise_var)).expr
    d*noise_var + d + 1
    """
    kernel = influence_kernel("softmax")
    _require_positive(kernel)
    eps = sp.Symbol("epsilon")
    scaled = (kernel.polynomial * sp.exp(kernel.rate * U)).subs({U: eps * U, C: eps * C})
    first_order = Kernel(sp.expand(sp.diff(scaled, eps).subs(eps, 0)), sp.S.Zero)
    matrix = consistent_scores(task)
    bound = sp.expand(query_average(task, first_order, matrix, matrix).bracket)
    return Formula(
        "lower bound of the loss constant, any softmax heads",
        bound,
        validity=task.validity,
        references=(CUI.at("the question; the bound is derived here"), DERIVED_HERE),
        steps=(
            kernel_step(kernel, "kernel K of a pair of heads"),
            Step(
                "its first order K_1 in u and c, all orders being positive",
                sp.Eq(sp.Symbol("K_1"), first_order.polynomial.subs(NOISE, noise_var)),
            ),
            Step(
                "loss constant V, summed over pairs and averaged over the query",
                sp.Ge(sp.Symbol("V"), bound, evaluate=False),
            ),
        ),
        attained=False,
    )


def second_moment_task(task: LinearRegression) -> LinearRegression:
    """The task of mean zero with the same E theta theta', all that linear read-outs depend on."""
    if task.coef_mean is None:
        return task
    return task.replaced(coef_cov=task.coef_moment, coef_mean=None)


def _require_positive(kernel: Kernel) -> None:
    """Schur's product theorem needs positive coefficients in u, c and the variances."""
    coefficients = sp.Poly(kernel.polynomial, U, C, SIGNAL, NOISE).coeffs()
    assert all(x.is_positive for x in coefficients)
    assert sp.sympify(kernel.rate).is_positive
