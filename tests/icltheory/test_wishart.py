"""Wishart trace moments: the reference values, two derivations, Isserlis by brute force, sampling."""

import itertools
import math
from typing import Any, cast

import numpy as np
import pytest
import sympy as sp

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.laws.wishart import _isotropic
from icltheory.laws.zonal import zonal_trace_moment
from icltheory.symbols import d, n


def test_reference_values():
    moment = icl.wishart_trace_moment
    expected = {
        1: n * d,
        2: n * d * (n + d + 1),
        3: n * d * (n**2 + d**2 + 3 * n * d + 3 * n + 3 * d + 4),
        4: n * d * (n**3 + 6 * n**2 * d + 6 * n * d**2 + d**3)
        + n * d * (6 * n**2 + 17 * n * d + 6 * d**2 + 21 * n + 21 * d + 20),
        (1, 1): n * d * (n * d + 2),
    }
    for power, value in expected.items():
        assert sp.expand(moment(power) - value) == 0
        assert sp.expand(moment(power) - value - n) != 0
    assert moment(4, 40, 20) == 309504000
    assert moment(5, 5, 5) == 1296825
    assert moment(0, 7, 3) == 3


@pytest.mark.parametrize("power", range(1, 13))
def test_stein_recursion_and_zonal_polynomials_agree(power):
    domain, recursion = _isotropic(n, d)
    stein = sp.expand(domain.to_sympy(recursion((power,))))
    assert sp.expand(stein - zonal_trace_moment(power, n, d)) == 0
    # Symmetric in n and d: XX' and X'X share the nonzero eigenvalues.
    assert sp.expand(stein - stein.subs({n: d, d: n}, simultaneous=True)) == 0


def test_the_two_routes_agree_where_the_fast_one_takes_over():
    domain, recursion = _isotropic(sp.Integer(9), sp.Integer(7))
    for power in (16, 17, 20, 24):
        assert icl.wishart_trace_moment(power, 9, 7) == domain.to_sympy(recursion((power,)))
    assert icl.wishart_trace_moment(18).subs({n: 9, d: 7}) == icl.wishart_trace_moment(18, 9, 7)


@pytest.mark.parametrize("power", [1, 5, 20, 60])
def test_one_row_or_one_dimension_is_a_chi_square(power):
    # E (chi^2_m)^p = m (m + 2) ... (m + 2 p - 2).
    for m in (1, 4, 11):
        exact = math.prod(range(m, m + 2 * power, 2))
        assert icl.wishart_trace_moment(power, m, 1) == exact
        assert icl.wishart_trace_moment(power, 1, m) == exact


def test_products_of_traces():
    # tr S is a chi^2 of n d degrees; in one dimension all traces are powers of one chi^2.
    for count in (2, 3, 5):
        expected = sp.prod(n * d + 2 * j for j in range(count))
        assert sp.expand(icl.wishart_trace_moment((1,) * count) - expected) == 0
    for powers in itertools.combinations_with_replacement((1, 2, 3), 3):
        total = icl.wishart_trace_moment(sum(powers), n, 1)
        assert sp.expand(icl.wishart_trace_moment(powers, n, 1) - total) == 0


def _isserlis(power, length, eigenvalues, weight):
    """E tr(Sigma^weight S^power) over all pairings of the 2 power factors X_ia, by brute force."""
    dim, total = len(eigenvalues), 0
    pairings = _pairings(list(range(2 * power)))
    for rows in itertools.product(range(length), repeat=power):
        for columns in itertools.product(range(dim), repeat=power):
            # S^power has the factors X_{i_k a_k} X_{i_k a_{k+1}}.
            factors = []
            for k in range(power):
                factors += [(rows[k], columns[k]), (rows[k], columns[(k + 1) % power])]
            value = sum(
                math.prod(
                    eigenvalues[factors[a][1]] if factors[a] == factors[b] else 0 for a, b in pairs
                )
                for pairs in pairings
            )
            total += eigenvalues[columns[0]] ** weight * value
    return total


def _pairings(items):
    if not items:
        return [[]]
    first, rest = items[0], items[1:]
    return [
        [(first, other), *tail]
        for i, other in enumerate(rest)
        for tail in _pairings(rest[:i] + rest[i + 1 :])
    ]


@pytest.mark.parametrize(("power", "weight"), [(1, 0), (2, 0), (2, 1), (3, 0), (3, 1), (3, 2)])
def test_general_covariance_against_isserlis(power, weight):
    exact = _isserlis(power, 2, [2, 5], weight)
    assert icl.wishart_covariance_moment(power, 2, cov=[2, 5], weight=weight) == exact
    assert icl.wishart_covariance_moment(power, 2, cov=[2, 6], weight=weight) != exact


def test_general_covariance_reduces_to_the_identity():
    for power in range(7):
        value = icl.wishart_covariance_moment(power, n, cov=3, dim=d, weight=2)
        expected = 3 ** (power + 2) * icl.wishart_trace_moment(power)
        assert sp.expand(value - expected) == 0
    rotated = [[2, 1], [1, 2]]  # eigenvalues 1 and 3
    assert icl.wishart_covariance_moment(5, 4, cov=rotated) == icl.wishart_covariance_moment(
        5, 4, cov=[1, 3]
    )


def test_covariance_symbols():
    s1, s2, s3 = (sp.Symbol(f"s_{j}", positive=True) for j in (1, 2, 3))
    # E[S Sigma S] = n (n + 1) Sigma^3 + n tr(Sigma^2) Sigma.
    expected = n * (n + 1) * s3 + n * s1 * s2
    assert sp.expand(icl.wishart_covariance_moment(2, weight=1) - expected) == 0
    explicit = icl.wishart_covariance_moment(4, 6, cov=[1, 2, 4], weight=1)
    table = {sp.Symbol(f"s_{j}", positive=True): 1 + 2**j + 4**j for j in range(1, 6)}
    assert icl.wishart_covariance_moment(4, 6, weight=1).subs(table) == explicit


def test_against_sampling():
    rng = np.random.default_rng(0)
    root = np.sqrt([0.5, 1.0, 2.0])
    x = rng.standard_normal((200_000, 6, 3)) * root
    gram = np.swapaxes(x, 1, 2) @ x
    sample = np.einsum("bij,bji,i->b", gram, gram, root**2)
    exact = float(icl.wishart_covariance_moment(2, 6, cov=[0.5, 1, 2], weight=1))
    error = sample.std() / math.sqrt(len(sample))
    assert abs(sample.mean() - exact) < 5 * error < 0.02 * exact
    assert abs(sample.mean() - 1.03 * exact) > 5 * error


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: icl.wishart_trace_moment(-1), "inverse_wishart_moment"),
        (lambda: icl.wishart_trace_moment(2.5), "no power"),
        (lambda: icl.wishart_trace_moment(cast(Any, "2")), "no power"),
        (lambda: icl.wishart_trace_moment(True), "no power"),
        (lambda: icl.wishart_trace_moment((2, 0)), "no product of traces"),
        (lambda: icl.wishart_trace_moment((30, 30)), "up to a sum of 40"),
        (lambda: icl.wishart_trace_moment(401), "from 0 to 400"),
        (lambda: icl.wishart_trace_moment(2, n=0), "n = 0 is not a positive integer"),
        (lambda: icl.wishart_trace_moment(2, d=1.5), "not a positive integer"),
        (lambda: icl.wishart_covariance_moment(2, cov=[[1, 2]]), "shape 1 x 2"),
        (lambda: icl.wishart_covariance_moment(2, cov="[1, 2]"), "text is never parsed"),
        (lambda: icl.wishart_covariance_moment(2, weight=-1), "weight = -1"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(InvalidInput, match=words):
        call()
