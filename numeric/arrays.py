"""From exact specifications to float64 arrays, and the checks of numeric arguments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from icltheory.matrices import Square
from icltheory.task import LinearRegression, refuse_options


def matrix_array(matrix: Square) -> np.ndarray:
    """A numeric `Square` as a float64 array."""
    if matrix.is_isotropic:
        return float(matrix.scale) * np.eye(int(matrix.dim))
    return np.array(matrix.to_matrix().evalf(17).tolist(), dtype=float)


@dataclass(frozen=True)
class TaskArrays:
    """A task with numbers everywhere: covariances, their square roots, and the signal tr(Sigma M).

    `feature_root` and `coef_root` are symmetric square roots, so `z @ feature_root` of a standard
    normal row z has covariance Sigma. Matrices are made when they are asked for.
    """

    task: LinearRegression
    dim: int
    noise_var: float
    signal: float

    @cached_property
    def feature_cov(self) -> np.ndarray:
        """Sigma, (d, d)."""
        return matrix_array(self.task.feature_cov)

    @cached_property
    def coef_cov(self) -> np.ndarray:
        """M, (d, d): the covariance around `coef_mean`."""
        return matrix_array(self.task.coef_cov)

    @cached_property
    def coef_moment(self) -> np.ndarray:
        """E theta theta', (d, d)."""
        return matrix_array(self.task.coef_moment)

    @cached_property
    def coef_mean(self) -> np.ndarray:
        """theta_0, (d,)."""
        mean = self.task.coef_mean
        return np.zeros(self.dim) if mean is None else np.array([float(x) for x in mean])

    @cached_property
    def local(self) -> tuple[float, float]:
        """(rho, tau) of x_i | x_q ~ N(rho x_q, tau^2 Sigma)."""
        rho, tau = self.task.local or (0, 1)
        return float(rho), float(tau)

    @cached_property
    def feature_root(self) -> np.ndarray:
        """Sigma^{1/2}, (d, d)."""
        return _root(self.task.feature_cov)

    @cached_property
    def coef_root(self) -> np.ndarray:
        """M^{1/2}, (d, d)."""
        return _root(self.task.coef_cov)


# What `task_arrays` lets through where a function knows every scenario of a task.
SCENARIOS = ("coef_mean", "local")


@lru_cache(maxsize=256)
def task_arrays(task: LinearRegression, supports: tuple[str, ...] = ()) -> TaskArrays:
    """`task` as arrays; `InvalidInput` if it is no task, still contains symbols, or has an option
    ("coef_mean", "local") that is not among `supports`."""
    if not isinstance(task, LinearRegression):
        raise InvalidInput(
            f"task has type {type(task).__name__}; pass icl.LinearRegression(dim=5)."
        )
    refuse_options(task.scenario, supports)
    free = task.dim.free_symbols | task.noise_var.free_symbols
    free |= task.feature_cov.free_symbols() | task.coef_cov.free_symbols()
    free = free.union(*(x.free_symbols for x in (task.coef_mean, *(task.local or ())) if x))
    if free:
        names = ", ".join(sorted(str(s) for s in free))
        raise InvalidInput(f"the task still contains {names}; numbers are needed here, e.g. dim=5.")
    return TaskArrays(task, int(task.dim), float(task.noise_var), float(task.signal))


def _root(matrix: Square) -> np.ndarray:
    if matrix.is_isotropic:
        return float(matrix.scale) ** 0.5 * np.eye(int(matrix.dim))
    values, vectors = np.linalg.eigh(matrix_array(matrix))
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def positive_integers(value: Any, name: str, minimum: int = 1, reason: str = "") -> np.ndarray:
    """Integers of at least `minimum` as float64 (exact up to 2^53, and large values allowed).

    `reason` tells, after a semicolon, why smaller ones are refused.
    """
    array = real(value, name)
    if array.size == 0 or not np.all(np.isfinite(array)):
        raise InvalidInput(
            f"{name} contains empty, NaN or infinite entries; pass integers >= {minimum}."
        )
    wrong = (array != np.floor(array)) | (array < minimum)
    if np.any(wrong):
        first = np.atleast_1d(array)[np.atleast_1d(wrong)][0]
        because = f"; {reason}" if reason else ""
        raise InvalidInput(f"{name} = {first:g} is not an integer of at least {minimum}{because}.")
    return array


def integer(value: Any, name: str, minimum: int = 1) -> int:
    """One integer of at least `minimum`."""
    array = positive_integers(value, name, minimum)
    if array.ndim:
        raise InvalidInput(f"{name} has shape {array.shape}; pass one integer >= {minimum}.")
    return int(array)


def finite(value: Any, name: str) -> np.ndarray:
    """A float64 array without NaN or infinities."""
    array = real(value, name)
    if not np.all(np.isfinite(array)):
        raise InvalidInput(f"{name} contains NaN or infinite entries; pass finite numbers.")
    return array


def number(value: Any, name: str) -> float:
    """One finite number."""
    array = finite(value, name)
    if array.ndim:
        raise InvalidInput(f"{name} has shape {array.shape}; pass one number.")
    return float(array)


def positive(value: Any, name: str, example: str) -> float:
    """One finite number > 0; `example` shows a right value."""
    given = number(value, name)
    if given <= 0:
        raise InvalidInput(
            f"{name} = {given:g} is not positive; pass for example {name}={example}."
        )
    return given


def nonnegative(value: Any, name: str) -> float:
    """One finite number >= 0, a variance or a standard deviation."""
    given = number(value, name)
    if given < 0:
        raise InvalidInput(f"{name} = {given:g} is negative; pass 0 or more.")
    return given


def require_memory(numbers: int, what: str) -> None:
    """`InvalidInput` if so many float64 numbers take more than 16 GiB."""
    if 8 * numbers > 2**34:
        raise InvalidInput(
            f"{what} takes {8 * numbers / 2**30:.3g} GiB, more than 16; pass smaller sizes."
        )


def broadcast(**arrays: Any) -> list[np.ndarray]:
    """Arrays broadcast against each other; `InvalidInput` names their shapes if they do not fit."""
    try:
        return list(np.broadcast_arrays(*arrays.values()))
    except ValueError as error:
        shapes = ", ".join(f"{name}: {np.shape(array)}" for name, array in arrays.items())
        raise InvalidInput(
            f"the shapes do not broadcast ({shapes}); add axes so that they do."
        ) from error


def real(value: Any, name: str) -> np.ndarray:
    """Real numbers as float64; text, booleans and None are no numbers here."""
    try:
        array = np.asarray(value)
        # Python integers beyond 64 bits, and SymPy numbers, arrive as objects.
        if array.dtype.kind in "iuf" or (
            array.dtype.kind == "O" and not any(x is None for x in array.ravel())
        ):
            return array.astype(float, copy=False)
    except (TypeError, ValueError):
        pass
    raise InvalidInput(f"{name} = {value!r} is not numeric; pass numbers.")
