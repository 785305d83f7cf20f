"""Integrates a `Flow`: compiled velocities, adaptive SciPy steps, dense output, events.

Half the risk decreases along the flow and the risk is at least zero, so |theta(t) - theta(0)|^2 is
at most t times half the risk at the start: nothing blows up in finite time. Exported: `integrate`,
`FlowSolution`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import sympy as sp
from scipy import integrate as scipy_integrate

from icltheory.checks import plain
from icltheory.errors import InvalidInput, TrainingDiverged
from icltheory.flow import Flow
from numeric.arrays import finite, number
from numeric.compile import compile
from numeric.plot import Figure, Series

METHODS = ("auto", "DOP853", "RK45", "LSODA", "Radau", "BDF")
_BUDGET = 40_000  # velocity evaluations of an explicit method before "auto" turns to LSODA
_VECTORS = ("u", "v", "k")
_NOISE = 1e-24  # relative risk below which its logarithmic slope is rounding
_INSTANT = 1e-9  # integrated for the start alone


@dataclass(frozen=True, eq=False)
class FlowSolution:
    """A trajectory: `result["A"]`, `result["b"]`, .., `result["risk"]`, with times along axis 0.

    Attributes
    ----------
    times: where it was asked for.
    values: variable -> array (times, ..); "risk" is the mean squared error (no factor 1/2).
    conserved: name -> array (times, ..) of every conserved quantity.
    events: name -> time of the first crossing, or `None` if it does not happen before the last time.
    method, evaluations: integrator, and the number of velocity evaluations.
    """

    times: np.ndarray
    values: Mapping[str, np.ndarray]
    conserved: Mapping[str, np.ndarray]
    events: Mapping[str, float | None]
    method: str
    evaluations: int
    _state: Callable[[np.ndarray], dict[str, np.ndarray]]
    _decay: Callable[[np.ndarray], np.ndarray]
    _nodes: np.ndarray

    def __getstate__(self) -> dict[str, Any]:
        # The integrator's interpolation is a closure; what was recorded goes into the pickle.
        return {**self.__dict__, "_state": _recorded_only, "_decay": _recorded_only}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.values:
            raise InvalidInput(f"{name!r} is not recorded; there are {', '.join(self.values)}.")
        return self.values[name]

    @property
    def drift(self) -> dict[str, float]:
        """Largest change of every conserved quantity: the error the integrator made in it."""
        return {name: float(np.abs(x - x[0]).max()) for name, x in self.conserved.items()}

    def at(self, times: Any) -> dict[str, np.ndarray]:
        """All variables and the risk at any times within the range (dense output)."""
        points = finite(times, "times")
        if np.any(points < 0) or np.any(points > self._nodes[-1]):
            raise InvalidInput(
                f"the trajectory covers times from 0 to {self._nodes[-1]:g}; integrate further, or "
                f"ask within this range."
            )
        values = self._state(points.ravel())
        return {name: x.reshape(points.shape + x.shape[1:]) for name, x in values.items()}

    def plateaus(self, slowness: float = 0.1) -> list[tuple[float, float]]:
        """Intervals where the risk decays slower than `slowness` times its fastest rate.

        The rate is -d log(risk)/dt = 2 |theta'|^2/risk, sampled eight times a step. A risk that has
        reached rounding is left out. An interval that goes on at the last time ends there.
        """
        if not 0 < number(slowness, "slowness") < 1:
            raise InvalidInput(f"slowness = {slowness} must lie between 0 and 1.")
        grid = np.unique(np.concatenate([np.linspace(a, b, 9) for a, b in pairwise(self._nodes)]))
        rate = self._decay(grid)
        grid, rate = grid[np.isfinite(rate)], rate[np.isfinite(rate)]
        if rate.size == 0:
            return []
        slow = rate < slowness * rate.max()
        edges = np.flatnonzero(np.diff(np.concatenate([[False], slow, [False]]).astype(int)))
        return [(float(grid[a]), float(grid[b - 1])) for a, b in edges.reshape(-1, 2)]

    @property
    def figure(self) -> Figure:
        """The risk against the time."""
        risk = self.values["risk"]
        line = Series("risk", self.times, risk)
        caption = f"Gradient flow, integrated by {self.method}."
        log = bool(risk.min() > 0)
        return Figure("Gradient flow", "time t", "risk", caption, (line,), (), False, log)

    def plot(self, ax: Any = None) -> Any:
        """The risk against the time (`figure`); returns the axes. `ax`: as in `numeric.draw`."""
        return self.figure.draw(ax)

    def __repr__(self) -> str:
        risk = self.values["risk"]
        return (
            f"FlowSolution({self.times.size} times up to {self.times[-1]:g}, {self.method}; "
            f"risk {risk[0]:.6g} -> {risk[-1]:.6g})"
        )


def _recorded_only(points: np.ndarray) -> Any:
    raise InvalidInput(
        "a trajectory that was pickled keeps its recorded times only; integrate again for others."
    )


def integrate(
    flow: Flow,
    *,
    initial: Mapping[str, Any],
    times: Any,
    events: Mapping[str, Any] | None = None,
    rtol: float = 1e-10,
    atol: float = 1e-12,
    method: str = "auto",
) -> FlowSolution:
    """Integrate a gradient flow from `initial` and record it at `times`.

    Parameters
    ----------
    flow: from `icl.gradient_flow`, without symbols other than its variables.
    initial: the value of every variable at time 0: matrices d x d (for A also a number a, meaning
        a I, when the dimension is a number), vectors of length d, numbers.
    times: increasing times >= 0; time = step size times number of steps on half the risk.
    events: name -> a number in (0, 1), the time at which the risk first falls to this fraction of
        its start; or a function of the state (a dict like `initial`, with "risk"), its first zero.
        Default {"escape": 0.5}.
    rtol, atol: tolerances of the integrator for every entry.
    method: a SciPy integrator, or "auto": DOP853, and LSODA if that needs too many steps.

    Any start works: at a stationary point (A = 0 and b = 0) nothing moves, and a start on the
    stable manifold of that saddle goes there until rounding drives it away. Errors: `InvalidInput`;
    `TrainingDiverged` if the integrator fails, which means scales out of the range of floats.

    >>> import icltheory as icl
    >>> flow = icl.gradient_flow(icl.LinearRegression(dim=4, coef_cov=1))
    >>> result = integrate(flow, initial=flow.initial(0.1), times=[0, 1, 2, 10])
    >>> result["b"].round(6), round(result.events["escape"], 4)
    (array([0.1     , 0.656192, 1.369248, 1.414214]), 1.1072)
    """
    if not isinstance(flow, Flow):
        raise InvalidInput(f"flow has type {type(flow).__name__}; pass icl.gradient_flow(task).")
    if method not in METHODS:
        raise InvalidInput(f"method = {method!r} is not one of {', '.join(METHODS)}.")
    points = sorted_times(times)
    system = _System(flow, _start(flow, initial))
    if events is not None and not isinstance(events, Mapping):
        raise InvalidInput(
            f'events has type {type(events).__name__}; pass a dict such as {{"escape": 0.5}}.'
        )
    named = {"escape": 0.5} if events is None else dict(events)
    crossings = [system.event(name, value) for name, value in named.items()]
    tolerances = {"rtol": tolerance(rtol, "rtol"), "atol": tolerance(atol, "atol")}
    solution, used = system.solve(float(points[-1]) or _INSTANT, crossings, method, tolerances)
    state = system.path(solution.sol)
    values = state(points)
    hits = zip(named, solution.t_events or [], strict=True)
    return FlowSolution(
        points,
        values,
        system.conserved({name: values[name] for name in flow.variables}),
        {name: float(found[0]) if len(found) else None for name, found in hits},
        used,
        int(solution.nfev),
        state,
        system.decay(solution.sol),
        np.asarray(solution.t),
    )


@lru_cache(maxsize=64)
def _compiled(flow: Flow) -> tuple[Any, Any, Any]:
    conserved = {f"{c.name}: {c.expr}": c for c in flow.conserved}
    evaluators = (compile(flow.velocities), compile(flow.risk), compile(conserved))
    left = {name for e in evaluators for name in e.arguments} - set(flow.variables)
    if left:
        raise InvalidInput(
            f"the flow still contains {', '.join(sorted(left))}; derive it for a task with numbers."
        )
    return evaluators


class _System:
    """A flow as a first-order system for one flat vector."""

    def __init__(self, flow: Flow, start: dict[str, np.ndarray]) -> None:
        self._velocity, self._risk, self._conserved = _compiled(flow)
        self._shapes = {name: value.shape for name, value in start.items()}
        sizes = [int(np.prod(shape)) for shape in self._shapes.values()]
        ends = np.cumsum(sizes)
        self._slices = dict(
            zip(start, (slice(e - s, e) for s, e in zip(sizes, ends, strict=True)), strict=True)
        )
        self._start = np.concatenate([value.ravel() for value in start.values()])
        try:
            with np.errstate(over="raise", invalid="raise"):
                self._first_risk = float(self._risk(**self._only(self._risk, start)))
        except FloatingPointError as error:
            raise TrainingDiverged(
                f"the risk of the start is out of the range of floats ({error}); start with "
                f"smaller entries."
            ) from error

    @staticmethod
    def _only(evaluator: Any, state: Mapping[str, Any]) -> dict[str, Any]:
        return {name: state[name] for name in evaluator.arguments}

    def _unpack(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """Variables of a state (size,) or of several, (times, size)."""
        return {
            name: flat[..., part].reshape(flat.shape[:-1] + self._shapes[name])
            for name, part in self._slices.items()
        }

    def _pack(self, values: Mapping[str, Any], batch: tuple[int, ...] = ()) -> np.ndarray:
        return np.concatenate(
            [np.reshape(values[name], (*batch, -1)) for name in self._slices], axis=-1
        )

    def _rate(self, flat: np.ndarray) -> np.ndarray:
        state = self._unpack(flat)
        return self._pack(self._velocity(**self._only(self._velocity, state)), flat.shape[:-1])

    def _with_risk(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        state = self._unpack(flat)
        return {**state, "risk": np.asarray(self._risk(**self._only(self._risk, state)))}

    def conserved(self, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The conserved quantities of a batch of states."""
        return self._conserved(**self._only(self._conserved, state))

    def event(self, name: str, value: Any) -> Callable[[float, np.ndarray], float]:
        """A SciPy event function for a level of the risk or a function of the state."""
        if callable(value):
            function: Any = value

            def crossing(_: float, flat: np.ndarray) -> float:
                return float(function(self._with_risk(flat)))

            return crossing
        level = float(finite(value, f"events[{name!r}]"))
        if not 0 < level < 1:
            raise InvalidInput(
                f"events[{name!r}] = {value} is a fraction of the first risk, between 0 and 1."
            )

        def falls(_: float, flat: np.ndarray) -> float:
            return float(self._with_risk(flat)["risk"]) - level * self._first_risk

        return falls

    def solve(
        self, end: float, events: list[Any], method: str, tolerances: dict[str, float]
    ) -> tuple[Any, str]:
        """Dense solution on [0, end] and the integrator that found it."""
        count = 0
        budget = math.inf

        def velocity(_: float, flat: np.ndarray) -> np.ndarray:
            nonlocal count
            count += 1
            if count > budget:
                raise _TooManySteps
            return self._rate(flat)

        def run(integrator: str) -> Any:
            with np.errstate(over="raise", invalid="raise", under="ignore"):
                return scipy_integrate.solve_ivp(
                    velocity,
                    (0.0, end),
                    self._start,
                    method=integrator,
                    dense_output=True,
                    events=events or None,
                    **tolerances,
                )

        chosen = "DOP853" if method == "auto" else method
        try:
            budget = _BUDGET if method == "auto" else math.inf
            try:
                solution = run(chosen)
            except _TooManySteps:
                chosen, budget = "LSODA", math.inf
                solution = run(chosen)
        except FloatingPointError as error:
            raise TrainingDiverged(
                f"{chosen} left the range of floats ({error}); start with smaller entries."
            ) from error
        if solution.status < 0:
            raise TrainingDiverged(
                f"{chosen} stopped at time {solution.t[-1]:g} of {end:g}: {solution.message} "
                f"Try method='LSODA', a larger rtol, or smaller entries."
            )
        return solution, chosen

    def path(self, dense: Any) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """times -> variables and risk."""
        return lambda points: self._with_risk(np.ascontiguousarray(dense(points).T))

    def decay(self, dense: Any) -> Callable[[np.ndarray], np.ndarray]:
        """times -> -d log(risk)/dt, NaN where the risk is rounding."""

        def rate(points: np.ndarray) -> np.ndarray:
            flat = np.ascontiguousarray(dense(points).T)
            risk = self._with_risk(flat)["risk"]
            speed = np.sum(self._rate(flat) ** 2, axis=-1)
            kept = risk > _NOISE * max(self._first_risk, 1e-300)
            return np.where(kept, 2 * speed / np.where(kept, risk, 1.0), np.nan)

        return rate


class _TooManySteps(Exception):
    """The explicit integrator used up its budget."""


# -- arguments -------------------------------------------------------------------------------------


def sorted_times(times: Any) -> np.ndarray:
    """Recording times of a trajectory from time 0."""
    points = np.atleast_1d(finite(times, "times"))
    if points.ndim != 1 or points.size == 0:
        raise InvalidInput(f"times has shape {points.shape}; pass a non-empty list of times.")
    if points[0] < 0 or np.any(np.diff(points) < 0):
        raise InvalidInput("times must be sorted and non-negative, for example [0, 1, 2].")
    return points


def tolerance(value: Any, name: str) -> float:
    """A tolerance of the integrator."""
    size = number(value, name)
    if not 0 < size < 1:
        raise InvalidInput(f"{name} = {value} must lie between 0 and 1.")
    # SciPy warns below this and raises rtol to it.
    return max(size, 3e-14) if name == "rtol" else size


def _start(flow: Flow, initial: Any) -> dict[str, np.ndarray]:
    """The start of every variable as an array of its shape."""
    if not isinstance(initial, Mapping):
        raise InvalidInput(f'initial has type {type(initial).__name__}; pass {{"A": .., "b": ..}}.')
    wanted, given = set(flow.variables), set(initial)
    if wanted != given:
        missing = f" missing {', '.join(sorted(wanted - given))};" if wanted - given else ""
        unknown = f" unknown {', '.join(map(str, given - wanted))};" if given - wanted else ""
        raise InvalidInput(
            f"initial:{missing}{unknown} this flow moves {', '.join(flow.variables)}."
        )
    sizes: dict[Any, int] = {}
    return {
        name: _value(initial[name], name, getattr(formula.expr, "shape", ()), sizes)
        for name, formula in flow.velocity
    }


def _value(value: Any, name: str, shape: tuple, sizes: dict[Any, int]) -> np.ndarray:
    value = plain(value)
    if isinstance(value, sp.MatrixBase):
        value = value.evalf(17).tolist()
    elif isinstance(value, sp.Expr):
        value = value.evalf(17)
    array = finite(value, f"initial[{name!r}]")
    column = name in _VECTORS
    if name == "A" and array.ndim == 0 and shape[0].is_Integer:
        array = array * np.eye(int(shape[0]))
    if column and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    needed = tuple(shape[:1]) if column else tuple(shape)
    fits = array.ndim == len(needed) and all(
        length == (int(size) if size.is_Integer else sizes.setdefault(size, length))
        for size, length in zip(needed, array.shape, strict=True)
    )
    if not fits:
        shown = ", ".join(str(sizes.get(size, size)) for size in needed)
        raise InvalidInput(
            f"initial[{name!r}] has shape {array.shape}; "
            + (f"({shown}) is needed." if needed else "it is one number.")
        )
    return array
