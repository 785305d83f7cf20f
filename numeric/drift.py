"""Training at a finite prompt length: the exact gradient flow, and its slow drift along the valley.

Both descend half the exact risk of `numeric.finite_prompt` in the score matrix A and the value b of
one softmax head (time = step size x number of steps). The flow first falls to the valley
b Sigma A = I of the infinite prompt, then moves along it in times of order n to the best head of
this prompt length (Boursier and Boyer, arXiv 2512.11784, have the first phase; derived here).
Exported: `finite_prompt_flow`, `valley_drift`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.polynomial import chebyshev
from scipy import integrate

from icltheory.errors import InvalidInput, OutOfDomain
from icltheory.finite_prompt import valley_drift as leading_drift
from icltheory.symbols import b as label_weight
from icltheory.task import LinearRegression
from numeric.arrays import finite, positive, task_arrays
from numeric.block_optimum import (
    Coordinates,
    differences,
    invariant_coordinates,
    minimise,
    optimal_block_risk,
    whitened_coordinates,
)
from numeric.compile import compile
from numeric.finite_prompt import FiniteRisk, score_matrix
from numeric.flow import FlowSolution, sorted_times, tolerance
from numeric.prompt_moments import checked_lengths


def finite_prompt_flow(
    task: LinearRegression,
    prompt_length: int,
    *,
    initial: Mapping[str, Any],
    times: Any,
    query_cov: Any = None,
    rtol: float = 1e-9,
    atol: float = 1e-12,
) -> FlowSolution:
    """Exact gradient flow of half the risk at prompt length n, in A and b from any start.

    Parameters
    ----------
    initial: {"A": d x d or one number a (a I), "b": number}, the state at time 0. A as in
        `numeric.block_risk`. The blocks u and v of a full attention layer stay 0 if they start there.
    times: increasing times >= 0, where the trajectory is recorded.
    query_cov: as in `numeric.block_risk`.
    rtol, atol: tolerances of the integrator (BDF: the flow along the valley is stiff).

    Families that the flow does not leave are used: multiples of I for isotropic covariances and
    start (a flow in two dimensions), matrices diagonal in the common eigenbasis for commuting
    ones; otherwise all d^2 + 1 variables. A = 0, b = 0 is a stationary point. The result is that of
    `numeric.integrate`, with result["balance"] = b^2 - |A|^2 (Frobenius norm), which an infinite
    prompt conserves and a finite one does not. Errors:
    `InvalidInput`; `OutOfDomain` if the scores become too large for the exact risk. Source: derived
    here.

    >>> import icltheory as icl
    >>> task = icl.LinearRegression(dim=5, coef_cov=1)
    >>> path = finite_prompt_flow(task, 100, initial={"A": 0.134, "b": 0.3}, times=[0, 2, 2000])
    >>> path["b"].round(3), path["risk"].round(3)
    (array([0.3  , 1.493, 2.059]), array([4.615, 0.804, 0.739]))
    """
    arrays = task_arrays(task)
    risk, recorded = _risk(task, prompt_length, query_cov), sorted_times(times)
    matrix, value = _start(initial, arrays.dim)
    family = invariant_coordinates(arrays, risk.query, matrix)
    squares = family.squares

    def velocity(_: float, state: np.ndarray) -> np.ndarray:
        slope, slope_b = risk.gradient(family.matrix(state[:-1]), float(state[-1]))
        return -0.5 * np.append(family.derivative(slope) / squares, slope_b)

    def state(flat: np.ndarray) -> dict[str, np.ndarray]:
        return _record(risk, family, flat[:, :-1], flat[:, -1])

    start = np.append(family.of(matrix), value)
    return _integrate(velocity, start, recorded, rtol, atol, state)


def valley_drift(
    task: LinearRegression,
    prompt_length: int,
    b0: float,
    times: Any,
    *,
    method: str = "exact",
    query_cov: Any = None,
    rtol: float = 1e-7,
) -> FlowSolution:
    """Slow training along the valley of good heads, starting there at the value b0 > 0.

    At every b the score matrix is the best one, A(b), and b descends half the risk along this
    curve: b' = -(1/2) d risk(A(b), b)/db / (1 + |dA/db|^2). `method`:

    "exact": A(b) and the risk from `numeric.block_risk`, dA/db by implicit differentiation.
    "leading": A(b) = Sigma^{-1}/b and the risk F(b)/n, the formula `icl.valley_drift`; needs b0 in
        its validity (b0^2 > 2 for query_cov = Sigma), and large n with b^2 well above 2.

    Describes `finite_prompt_flow` after its fast phase, with an error of order 1/n. Errors:
    `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> import icltheory as icl
    >>> path = valley_drift(icl.LinearRegression(dim=5, coef_cov=1), 1000, 1.5, [0, 100, 1e5])
    >>> (path["b"] ** 2).round(3)
    array([2.25 , 6.991, 7.314])
    """
    arrays = task_arrays(task)
    risk, recorded = _risk(task, prompt_length, query_cov), sorted_times(times)
    start = positive(b0, "b0", "1.5")
    if method not in ("exact", "leading"):
        raise InvalidInput(f"method = {method!r} is unknown; pass 'exact' or 'leading'.")
    if risk.lengths[0] == 1:
        raise InvalidInput("prompt_length = 1 has no valley: A has no effect on the risk there.")
    family = whitened_coordinates(arrays, risk.query)
    valley = (_ExactValley if method == "exact" else _LeadingValley)(
        task, risk, family, float(start), query_cov
    )

    def state(flat: np.ndarray) -> dict[str, np.ndarray]:
        places = np.array([valley.place(float(b)) for b in flat[:, 0]])
        return _record(risk, family, places, flat[:, 0])

    return _integrate(
        lambda _, flat: np.array([valley.speed(float(flat[0]))]),
        np.array([float(start)]),
        recorded,
        rtol,
        1e-12,
        state,
    )


class _LeadingValley:
    """A = Sigma^{-1}/b and the derived drift."""

    def __init__(
        self,
        task: LinearRegression,
        risk: FiniteRisk,
        family: Coordinates,
        b: float,
        query_cov: Any,
    ) -> None:
        formula = leading_drift(task, query_cov)
        if formula.validity.subs(label_weight, b) == False:  # noqa: E712
            raise OutOfDomain(
                f"b0 = {b:g} is outside {formula.validity}, where the risk has a 1/n law; use "
                f"method='exact' or a larger b0."
            )
        self._speed = compile(formula)
        self._length = float(risk.lengths[0])
        self._inverse = family.of(np.linalg.inv(task_arrays(task).feature_cov))

    def speed(self, b: float) -> float:
        return float(self._speed(b=b, n=self._length))

    def place(self, b: float) -> np.ndarray:
        return self._inverse / b


class _ExactValley:
    """The best A at fixed b, and the drift, as Chebyshev series in log b from b0 to the best b.

    Followed from the best head by predictor and corrector steps along dA/db.
    """

    def __init__(
        self,
        task: LinearRegression,
        risk: FiniteRisk,
        family: Coordinates,
        b: float,
        query_cov: Any,
    ) -> None:
        self._risk, self._family = risk, family
        best = optimal_block_risk(task, float(risk.lengths[0]), query_cov)
        self._unit = float(np.abs(family.of(best.A)).max())
        origin = (float(best.b), family.of(best.A))
        ends = sorted(math.log(x) for x in (b, origin[0]))
        if ends[1] - ends[0] < 1e-3:
            ends = [ends[0] - 1e-3, ends[1] + 1e-3]
        for size in (16, 32, 64):
            table = self._follow(chebyshev.chebpts1(size), ends, *origin)
            coefficients = chebyshev.chebfit(chebyshev.chebpts1(size), table, size - 1)
            tail = np.abs(coefficients[-3:]).max(axis=0)
            if np.all(tail <= 1e-8 * np.abs(coefficients).max(axis=0)):
                break
        self._coefficients, self._ends = coefficients, ends

    def speed(self, b: float) -> float:
        return float(self._at(b)[0])

    def place(self, b: float) -> np.ndarray:
        return self._at(b)[1:]

    def _at(self, b: float) -> np.ndarray:
        low, high = self._ends
        position = 2 * (math.log(b) - low) / (high - low) - 1
        return np.asarray(chebyshev.chebval(position, self._coefficients))

    def _follow(self, nodes: np.ndarray, ends: list, b: float, place: np.ndarray) -> np.ndarray:
        """Rows (speed, place) at the nodes, walked from the end where the best head is."""
        values = np.exp(ends[0] + (nodes + 1) / 2 * (ends[1] - ends[0]))
        table = np.empty((nodes.size, 1 + place.size))
        hessian = self._hessian(place, b)
        tangent = self._tangent(place, b, hessian)
        for j in np.argsort(np.abs(values - b)):
            target = float(values[j])
            place = self._correct(place + (target - b) * tangent, target, hessian)
            b, hessian = target, self._hessian(place, target)
            tangent = self._tangent(place, b, hessian)
            slope_b = self._risk.gradient(self._family.matrix(place), b)[1]
            table[j, 0] = -0.5 * slope_b / (1 + np.sum(self._family.matrix(tangent) ** 2))
            table[j, 1:] = place
        return table

    def _correct(self, place: np.ndarray, b: float, hessian: np.ndarray) -> np.ndarray:
        """The minimum at fixed b, by Newton steps with the Hessian of the last place."""
        step, last = np.full(place.size, np.inf), np.inf
        for _ in range(30):
            step = _solve(hessian, self._slope(place, b))
            size = float(np.abs(step).max()) / self._unit
            if size > 0.5 * last:
                break
            place, last = place - step, size
            if size < 1e-11:
                return place
        if last < 1e-9:
            return place  # the rounding of the gradient
        return self._minimum(place, b)

    def _minimum(self, place: np.ndarray, b: float) -> np.ndarray:
        scale, signal = self._unit, self._risk.arrays.signal

        def value(y: np.ndarray) -> tuple[float, np.ndarray]:
            here = place + scale * y
            risk = self._risk.coefficients(self._family.matrix(here)).at(np.asarray(b))[0]
            return float(risk) / signal, scale * self._slope(here, b) / signal

        return place + scale * minimise(value, np.zeros(place.size))

    def _slope(self, place: np.ndarray, b: float) -> np.ndarray:
        return self._family.derivative(self._risk.gradient(self._family.matrix(place), b)[0])

    def _hessian(self, place: np.ndarray, b: float) -> np.ndarray:
        scale = float(np.abs(place).max())
        return (
            differences(lambda y: self._slope(place + scale * y, b), np.zeros(place.size)) / scale
        )

    def _tangent(self, place: np.ndarray, b: float, hessian: np.ndarray) -> np.ndarray:
        """dA/db: the derivative of the risk in A stays 0, H A' + d(slope)/db = 0."""
        step = 1e-4 * b
        mixed = (self._slope(place, b + step) - self._slope(place, b - step)) / (2 * step)
        return -_solve(hessian, mixed)


def _solve(hessian: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The shortest solution: directions that do not change the risk stay as they are."""
    return np.linalg.lstsq(hessian, right, rcond=1e-13)[0]


# -- shared ----------------------------------------------------------------------------------------


def _record(
    risk: FiniteRisk, family: Coordinates, places: np.ndarray, values: np.ndarray
) -> dict[str, np.ndarray]:
    """Blocks, exact risk and balance of a batch of states."""
    matrices = np.array([family.matrix(place) for place in places])
    risks = [
        float(risk.coefficients(m).at(np.asarray(b))[0])
        for m, b in zip(matrices, values, strict=True)
    ]
    balance = values**2 - np.sum(matrices**2, axis=(1, 2))
    return {"A": matrices, "b": values, "risk": np.array(risks), "balance": balance}


def _integrate(
    velocity: Any, start: np.ndarray, times: np.ndarray, rtol: float, atol: float, state: Any
) -> FlowSolution:
    """The solution as a `FlowSolution`; `state` makes a dictionary of rows of the flat variables."""
    last = float(times[-1])
    if last == 0:
        nodes, evaluations = np.zeros(1), 0

        def path(points: np.ndarray) -> np.ndarray:
            return np.repeat(start[:, None], len(points), axis=1)
    else:
        result = integrate.solve_ivp(
            velocity,
            (0.0, last),
            start,
            method="BDF",
            dense_output=True,
            rtol=tolerance(rtol, "rtol"),
            atol=tolerance(atol, "atol"),
        )
        if not result.success:
            raise OutOfDomain(f"the integration stopped at t = {result.t[-1]:g}: {result.message}")
        nodes, evaluations, path = result.t, int(result.nfev), result.sol

    def dense(points: np.ndarray) -> dict[str, np.ndarray]:
        return state(path(points).T)

    def decay(points: np.ndarray) -> np.ndarray:
        log_risk = np.log(dense(points)["risk"])
        # A risk that changes by rounding only does not decay.
        still = np.ptp(log_risk) < 1e-12
        return np.full(len(points), np.nan) if still else -np.gradient(log_risk, points)

    return FlowSolution(
        times=times,
        values=dense(times),
        conserved={},
        events={},
        method="BDF",
        evaluations=evaluations,
        _state=dense,
        _decay=decay,
        _nodes=nodes,
    )


def _risk(task: LinearRegression, prompt_length: Any, query_cov: Any) -> FiniteRisk:
    lengths = checked_lengths(prompt_length)
    if lengths.size != 1:
        raise InvalidInput("training has one prompt length; pass one integer, and loop over more.")
    return FiniteRisk(task, lengths.ravel(), query_cov)


def _start(initial: Any, dim: int) -> tuple[np.ndarray, float]:
    if not isinstance(initial, Mapping) or set(initial) != {"A", "b"}:
        given = (
            sorted(map(str, initial)) if isinstance(initial, Mapping) else type(initial).__name__
        )
        raise InvalidInput(f'initial = {given}; pass {{"A": matrix or number, "b": number}}.')
    value = finite(initial["b"], 'initial["b"]')
    if value.size != 1:
        raise InvalidInput(f'initial["b"] has shape {value.shape}; pass one number.')
    return score_matrix(initial["A"], dim), float(value.ravel()[0])
