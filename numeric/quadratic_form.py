"""Averages of f(q) times powers of x over a Gaussian x, with q = x'Px: no sampling, no tensor grid.

In the eigenbasis of the form q = sum_i kappa_i xi_i^2 with standard normal xi_i, so that the
Laplace transform of its law is prod_i (1 + 2 kappa_i z)^{-1/2}, and every factor xi_i^2 under the
average multiplies it by (1 + 2 kappa_i z)^{-1}. The transform is inverted on a parabola around its
cut (Weideman and Trefethen, Math. Comp. 76 (2007) 1341) through the saddle point, which keeps the
*relative* accuracy in both tails and in any dimension; the average over q is a trapezoidal sum in
log q. The lattice of q does not depend on P, so that tabulated functions serve every form.
Exported: `QuadraticForm`, `lattice_step`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from icltheory.errors import OutOfDomain

# Nodes on the upper half of the parabola w (1 + iu)^2 with q w = M: half the effective number of
# degrees of freedom at the saddle point, and at least _VERTEX. There the integrand is
# exp(-M u^2) or narrower, and the trapezoidal sum in u with spacing _SPACING/sqrt(M) is off by about
# exp(-2 pi sqrt(M)/_SPACING), or by what the cut at u = i leaves of it; both below 1e-13.
_NODES = 24
_VERTEX, _SPACING = 4.2, 0.25

_BELOW = math.log(1e-19)  # weight of f near 0 that is left out, relative to f(kappa_max)
_TAIL = 1e-17
_SAME = 1e-13  # relative distance of eigenvalues that are treated as one


def lattice_step(dim: int, largest_length: float) -> float:
    """Step in log sqrt(q) at which the trapezoidal sums have converged.

    The law of log sqrt(q) has at least the width 1/sqrt(2 d), and tilts by functions that grow up
    to q = d + 2 log n narrow it to 1/sqrt(2 (d + 2 log n)).
    """
    return min(0.12, 0.5 / math.sqrt(dim + 4 + 2 * math.log(largest_length)))


class QuadraticForm:
    """The law of q = sum_i kappa_i xi_i^2 and of its products with xi_i^2 and xi_i^2 xi_j^2.

    Parameters
    ----------
    kappa: the d eigenvalues (>= 0, not all zero).
    step: spacing of the lattice sqrt(q) = exp(step j).
    tail: mass above the window, relative to 1, that may be left out.
    largest: largest sqrt(q) that the tabulated functions allow; `OutOfDomain` beyond.

    `points` are the lattice indices j that matter. The functions f are given by their values
    there, (..., points), with f(0) = 0 (take the constant out first); averages come back as
    (...), (..., d) or (d, d). Derivatives f' are in q and need no derivative of the table: they
    are moved onto the law. The relative accuracy is about 1e-12.

    >>> form = QuadraticForm(np.array([2.0, 0.5, 0.0]), step=0.1)
    >>> q = np.exp(2 * 0.1 * form.points)
    >>> [round(float(x), 10) for x in (form.mean(q), form.mean(q / (1 + q)))]
    [2.5, 0.5586272491]
    >>> form.second(q).round(10)  # sum of kappa plus 2 kappa_i
    array([6.5, 3.5, 2.5])
    """

    def __init__(
        self, kappa: np.ndarray, step: float, tail: float = 1.0, largest: float = math.inf
    ) -> None:
        values, self._index, counts = _distinct(kappa)
        top = math.sqrt(values[-1])
        reach = math.sqrt(2 * special.gammainccinv(len(kappa) / 2 + 2, max(_TAIL * tail, 1e-300)))
        if top * reach > largest:
            raise OutOfDomain(
                f"the score matrix is too large: scores with standard deviations up to "
                f"{top * reach:.4g} matter, the quadrature keeps its accuracy up to {largest:g}. "
                f"Its norm |Sigma^(1/2) A Sigma_q^(1/2)| = {top:.4g} may be at most "
                f"{largest / reach:.4g} here."
            )
        first = math.ceil(_lowest(values, counts) / step)
        last = math.floor(math.log(top * reach) / step)
        self.points = np.arange(first, last + 1)
        q = np.exp(2 * step * self.points)[:, None]
        # Shifted to the first singularity, the transform has its cut on the negative half-line.
        gap = 1 - values / values[-1]
        vertex = np.maximum(_saddle(q, values, gap, counts), _VERTEX / q)
        spacing = _SPACING / np.sqrt(q * vertex)
        u = 1 + 1j * spacing * (np.arange(_NODES) + 0.5)
        w = vertex * u * u
        self._resolvent = 1 / (gap + 2 * values * w[..., None])
        roots = np.sqrt(self._resolvent)
        several = counts > 1  # complex powers are slow
        roots[..., several] **= counts[several]
        transform = np.prod(roots, axis=-1)
        self._z = w - 0.5 / values[-1]
        # dq = 2 q d(log sqrt q); dz = 2i vertex (1 + iu) du, and the conjugate half of the contour.
        measure = 2 * step * q * (2 / math.pi) * spacing * vertex * u
        self._law = measure * np.exp(self._z * q) * transform

    def mean(self, f: np.ndarray) -> Any:
        """E f(q)."""
        return f @ self._law.sum(axis=1).real

    def second(self, f: np.ndarray) -> np.ndarray:
        """E f(q) xi_i^2 for every i."""
        density = np.einsum("pn,pnu->pu", self._law, self._resolvent).real
        return (f @ density)[..., self._index]

    def slope_second(self, f: np.ndarray) -> np.ndarray:
        """E f'(q) xi_i^2 for every i."""
        density = -np.einsum("pn,pnu->pu", self._law * self._z, self._resolvent).real
        return (f @ density)[..., self._index]

    def slope_fourth(self, f: np.ndarray) -> np.ndarray:
        """E f'(q) xi_i^2 xi_j^2 without the factor 3 at i = j, d x d; f of shape (points,)."""
        weight = (f[:, None] * self._law * self._z).ravel()
        factors = self._resolvent.reshape(weight.size, -1)
        left = weight[:, None] * factors
        matrix = left.imag.T @ factors.imag - left.real.T @ factors.real
        return matrix[np.ix_(self._index, self._index)]


def _lowest(values: np.ndarray, counts: np.ndarray) -> float:
    """Lower end of log sqrt(q): f is of order q there, and P(q < x) <= prod sqrt(x/kappa_i)."""
    logs = np.log(values[values > 0]) / 2
    weights = np.append(counts[values > 0], 2)[::-1]
    # Sum of weights * min(0, x - logs), piecewise linear in x, from the largest eigenvalue down.
    bends = np.append(logs, logs[-1])[::-1]
    slopes = np.cumsum(weights)
    at_bends = np.append(0.0, np.cumsum(slopes[:-1] * np.diff(bends)))
    piece = int(np.flatnonzero(at_bends > _BELOW)[-1])
    return float(bends[piece] + (_BELOW - at_bends[piece]) / slopes[piece])


def _saddle(q: np.ndarray, values: np.ndarray, gap: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Where exp(q w) prod (gap + 2 kappa w)^{-counts/2} is stationary, to a few per cent; like q.

    The equation q = sum counts kappa/(gap + 2 kappa w) has a concave right side: Newton's method
    rises to the root from any lower bound.
    """
    w = counts[-1] / (2 * q)
    for _ in range(4 + math.ceil(math.log2(counts.sum()))):
        terms = values / (gap + 2 * values * w)
        excess = q - np.sum(counts * terms, axis=-1, keepdims=True)
        w = w - excess / np.sum(2 * counts * terms**2, axis=-1, keepdims=True)
    return w


def _distinct(kappa: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sorted distinct values, the index of each entry among them, and their multiplicities."""
    order = np.argsort(kappa)
    jump = np.diff(kappa[order], prepend=-math.inf) > _SAME * kappa[order[-1]]
    group = np.cumsum(jump) - 1
    counts = np.bincount(group)
    values = np.bincount(group, weights=kappa[order]) / counts
    index = np.empty(len(kappa), dtype=int)
    index[order] = group
    return values, index, counts
