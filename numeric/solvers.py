"""Every step of every solver on real prompts, from one eigendecomposition a prompt and prefix.

w_hat = q(S) X'y + r(S) w_0 with S = X'X of the prefix, not divided by n. All spectral solvers of
`icltheory` share the decomposition; conjugate gradients run in the eigenbasis; online descent, which
reads one example after the other, runs beside it. Source: derived here.
Exported: `run_solvers`, `solver_errors`, `SolverRun`, `SolverErrors`, `PrefixRisk`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icltheory.errors import InvalidInput
from icltheory.online_descent import OnlineGradientDescent
from icltheory.solvers import GradientFlow, Solver
from numeric.arrays import finite, positive_integers
from numeric.decoding_display import Shown
from numeric.eigenbasis import (
    PromptSpectra,
    checked_dtype,
    checked_prompts,
    prompt_spectra,
    query_covariance,
)
from numeric.online import online_weights
from numeric.progress import progress_bar
from numeric.solver_filters import coordinates, require_convergence

_LARGEST = 2**32  # bytes of weights that are returned at once
_CHUNK = 2**24  # bytes of weights in the eigenbasis that are made at once

Method = Solver | OnlineGradientDescent
Column = tuple[Method, float | None]


@dataclass(frozen=True, repr=False)
class _Columns(Shown):
    """What stands in the columns of a result: a solver after a number of steps (None if direct)."""

    columns: tuple[Column, ...]
    prefixes: np.ndarray
    dtype: np.dtype

    @property
    def solvers(self) -> tuple[Method, ...]:
        """The solvers, in the order in which they were given."""
        return tuple(dict.fromkeys(solver for solver, _ in self.columns))

    def positions(self, solver: Method) -> slice:
        """The columns of a solver."""
        found = [i for i, (each, _) in enumerate(self.columns) if each == solver]
        if not found:
            raise InvalidInput(f"{solver!r} is not among the solvers of this run: {self.solvers}.")
        return slice(found[0], found[-1] + 1)

    def steps(self, solver: Method) -> np.ndarray:
        """The numbers of steps of a solver, (K,); NaN for a direct method."""
        numbers = [step for _, step in self.columns[self.positions(solver)]]
        return np.array([np.nan if step is None else step for step in numbers])


@dataclass(frozen=True, repr=False)
class PrefixRisk(_Columns):
    """Mean squared error of every solver and step on every prefix, with its standard error, (P, K)."""

    value: np.ndarray
    standard_error: np.ndarray

    def of(self, solver: Method) -> PrefixRisk:
        """The columns of one solver."""
        part = self.positions(solver)
        return PrefixRisk(
            self.columns[part],
            self.prefixes,
            self.dtype,
            self.value[:, part],
            self.standard_error[:, part],
        )


@dataclass(frozen=True, repr=False)
class SolverRun(_Columns):
    """Weights of every solver and step on every prefix.

    weights: (B, P, K, d), K running over all steps of the first solver, then of the second, ...
    columns: (solver, step) of each of the K. spectra: the decompositions that were used.
    """

    weights: np.ndarray
    spectra: PromptSpectra

    def of(self, solver: Method) -> np.ndarray:
        """The weights of one solver, (B, P, steps, d), a view."""
        return self.weights[:, :, self.positions(solver)]

    def risk(self, coefficients: Any, cov: Any = None) -> PrefixRisk:
        """E (w_hat.x - w*.x)^2 of a fresh query at every prefix, averaged over the prompts.

        coefficients: w* of every prompt, (B, d). cov: covariance of the query, (d, d) or (B, d, d);
        `None` is the identity. The query is averaged exactly, which leaves less scatter than the
        errors on single examples. Errors: `InvalidInput`.

        >>> import icltheory as icl
        >>> from numeric.regression_prompts import solver_prompts
        >>> data = solver_prompts(5, 10, 2000)
        >>> ridge = icl.Ridge(0.1)
        >>> risk = run_solvers(data.features, data.labels, ridge).risk(data.coefficients)
        >>> bool(abs(risk.value[0, 0] - 1) < 5 * risk.standard_error[0, 0]), risk.value.shape
        (True, (11, 1))
        """
        target = finite(coefficients, "coefficients")
        prompts, _, _, dim = self.weights.shape
        if target.shape != (prompts, dim):
            raise InvalidInput(
                f"coefficients have shape {target.shape}; pass (B, d) = ({prompts}, {dim})."
            )
        gap = self.weights - target[:, None, None, :]
        seen = gap if cov is None else np.matmul(gap, query_covariance(cov, prompts, dim))
        return _averaged(self, np.einsum("bpkd,bpkd->bpk", seen, gap))


@dataclass(frozen=True, repr=False)
class SolverErrors(_Columns):
    """Errors w_hat.x_{n+1} - y_{n+1} of every solver and step on every prefix, (B, P, K)."""

    errors: np.ndarray

    def of(self, solver: Method) -> np.ndarray:
        """The errors of one solver, (B, P, steps), a view."""
        return self.errors[:, :, self.positions(solver)]

    def mean_square(self) -> PrefixRisk:
        """E error^2 at every prefix, averaged over the prompts; the noise of the next label is in it.

        >>> import icltheory as icl
        >>> from numeric.regression_prompts import solver_prompts
        >>> data = solver_prompts(5, 10, 4000)
        >>> zero = solver_errors(data.features, data.labels, icl.GradientDescent(0.01), [0])
        >>> error = zero.mean_square()
        >>> bool(np.all(np.abs(error.value - 1) < 5 * error.standard_error)), error.value.shape
        (True, (10, 1))
        """
        return _averaged(self, self.errors**2)


def run_solvers(
    X: Any,
    y: Any,
    solvers: Method | Sequence[Method] | Mapping[Method, Any],
    steps: Any = None,
    prefixes: Any = None,
    w0: Any = None,
    dtype: Any = np.float64,
    *,
    spectra: PromptSpectra | None = None,
) -> SolverRun:
    """Weights of every solver and number of steps on every prefix of every prompt.

    Parameters
    ----------
    X: features (B, N, d). y: labels (B, N).
    solvers: specifications of `icltheory`, one or a sequence, without symbols other than the rules
        lam_min, lam_max, trace and frobenius, which take every prefix's own values; or a mapping
        from solvers to their own steps.
    steps: integers >= 0 for all solvers, (K,); times for `GradientFlow`. Direct methods, and online
        descent, which makes one step an example, have one column.
    prefixes: numbers of examples from 0 to N; `None` is all of 0, ..., N. (`solver_errors` ends at
        N - 1, which has an example to predict; the similarities leave 0 out unless asked.)
    w0: start, (d,), (B, d) or (B, P, d); `None` is 0. Ridge shrinks towards it, and what the
        examples do not determine keeps it.
    dtype: float64, or float32 of decomposition and filters. It does not imitate a recursion run in
        single precision (`numeric.step_solver` does).
    spectra: `numeric.prompt_spectra` of the same prompts and prefixes, to be used again.

    On an empty prefix, and in the null space of any prefix, the weights are w0. A prefix whose
    examples repeat has the minimum-norm solution. Ctrl-C raises `Interrupted` with the prompts that
    are finished in `partial`. Errors: `OutOfDomain` if a step size lies outside
    the stable range on a prompt; `InvalidInput` for shapes and symbols. Source: derived here.

    >>> import icltheory as icl
    >>> from numeric.regression_prompts import solver_prompts
    >>> data = solver_prompts(dim=3, points=8, prompts=2)
    >>> newton = icl.IterativeNewton(1 / icl.symbols.frobenius)
    >>> run = run_solvers(data.features, data.labels, [newton, icl.OrdinaryLeastSquares()], [4, 30])
    >>> run.weights.shape, run.of(newton).shape
    ((2, 9, 3, 3), (2, 9, 2, 3))
    >>> bool(np.allclose(run.weights[:, 8, 1], data.coefficients))
    True
    """
    X, y, counts = checked_prompts(X, y, prefixes)
    plan, columns = _plan(solvers, steps)
    size = X.shape[0] * len(counts) * len(columns) * X.shape[2] * checked_dtype(dtype).itemsize
    if size > _LARGEST:
        raise InvalidInput(
            f"the weights of {len(X)} prompts, {len(counts)} prefixes and {len(columns)} steps take "
            f"{size / 2**30:.3g} GiB; pass fewer, or use solver_errors, which does not keep them."
        )
    finished: list[SolverRun] = []

    # Bars inside count too: every prompt is decomposed, then all solvers are run on it.
    total = len(X) * (2 if spectra is None else 1)
    options = {"partial": lambda: finished[-1] if finished else None, "inner": True}
    with progress_bar(total, 0, None, "solvers", unit=" prompts", **options) as bar:
        found = _spectra(spectra, X, y, counts, dtype)
        weights = np.empty((*found.values.shape[:2], len(columns), found.dim), found.values.dtype)
        for part, z in _sweep(plan, found, X, y, w0):
            np.matmul(z, np.swapaxes(found.vectors[part], 2, 3), out=weights[part])
            kept = slice(part.stop)
            run = (found.prefixes, weights.dtype, weights[kept], found.restricted(kept))
            finished[:] = [SolverRun(columns, *run)]
            bar.update(part.stop - part.start)
    return finished[-1]


def solver_errors(
    X: Any,
    y: Any,
    solvers: Method | Sequence[Method] | Mapping[Method, Any],
    steps: Any = None,
    prefixes: Any = None,
    w0: Any = None,
    dtype: Any = np.float64,
    *,
    spectra: PromptSpectra | None = None,
) -> SolverErrors:
    """Errors of every solver, step and prefix on the example that follows the prefix.

    Arguments as in `run_solvers`; prefixes lie between 0 and N - 1, which is the default. The
    weights are never formed and the memory beside the result is bounded.

    >>> import icltheory as icl
    >>> from numeric.regression_prompts import solver_prompts
    >>> data = solver_prompts(dim=3, points=8, prompts=2)
    >>> table = solver_errors(data.features, data.labels, icl.GradientDescent(0.05), [0, 5])
    >>> table.errors.shape, bool(np.all(table.errors[:, :, 0] == -data.labels))
    ((2, 8, 2), True)
    """
    X = np.asarray(X)
    if prefixes is None and X.ndim == 3 and X.shape[1]:
        prefixes = np.arange(X.shape[1])
    X, y, counts = checked_prompts(X, y, prefixes)
    if counts.max() >= X.shape[1]:
        raise InvalidInput(
            f"prefix {counts.max()} has no example after it; errors need prefixes below "
            f"{X.shape[1]}, the number of examples in a prompt."
        )
    plan, columns = _plan(solvers, steps)
    finished: list[SolverErrors] = []
    total = len(X) * (2 if spectra is None else 1)
    options = {"partial": lambda: finished[-1] if finished else None, "inner": True}
    with progress_bar(total, 0, None, "solvers", unit=" prompts", **options) as bar:
        spectra = _spectra(spectra, X, y, counts, dtype)
        query = np.matmul(X[:, counts, None, :].astype(spectra.values.dtype), spectra.vectors)
        errors = np.empty((*spectra.values.shape[:2], len(columns)), spectra.values.dtype)
        for part, z in _sweep(plan, spectra, X, y, w0):
            errors[part] = np.matmul(z, np.swapaxes(query[part], 2, 3))[..., 0]
            errors[part] -= y[part, counts, None]
            run = (spectra.prefixes, errors.dtype, errors[: part.stop])
            finished[:] = [SolverErrors(columns, *run)]
            bar.update(part.stop - part.start)
    return finished[-1]


def _sweep(
    plan: list[tuple[Method, np.ndarray]], spectra: PromptSpectra, X: Any, y: Any, w0: Any
) -> Iterator[tuple[slice, np.ndarray]]:
    """Prompts, and all weights there in the eigenbasis (b, P, K, d), in pieces that fit a cache."""
    start = _start(w0, spectra)
    online = {
        solver: _online(solver, spectra, X, y, w0)
        for solver, _ in plan
        if isinstance(solver, OnlineGradientDescent)
    }
    for solver, _ in plan:
        require_convergence(solver, spectra)
    prompts, prefixes, dim = spectra.values.shape
    total = sum(len(numbers) for _, numbers in plan)
    chunk = min(prompts, max(1, _CHUNK // (8 * prefixes * total * dim)))
    buffer = np.empty((chunk, prefixes, total, dim), spectra.values.dtype)
    for low in range(0, prompts, chunk):
        part = slice(low, min(low + chunk, prompts))
        view, z, first = spectra.restricted(part), buffer[: part.stop - low], 0
        begin = None if start is None else start[part]
        for solver, numbers in plan:
            columns = slice(first, first + len(numbers))
            if isinstance(solver, OnlineGradientDescent):
                z[:, :, columns] = online[solver][part, :, None]
            else:
                z[:, :, columns] = coordinates(solver, view, numbers, begin)
            first = columns.stop
        yield part, z


def _online(
    solver: OnlineGradientDescent, spectra: PromptSpectra, X: np.ndarray, y: np.ndarray, w0: Any
) -> np.ndarray:
    """The weights of one pass over the examples, in the eigenbasis of every prefix, (B, P, d)."""
    step = solver.step_size
    if step is not None and step.free_symbols:
        raise InvalidInput(f"{solver!r} still contains symbols; pass a number as step_size.")
    weights = online_weights(
        X, y, None if step is None else float(step), prefixes=spectra.prefixes, w0=w0
    )
    return np.matmul(weights[:, :, None, :], spectra.vectors)[:, :, 0]


def _averaged(table: _Columns, squares: np.ndarray) -> PrefixRisk:
    """Mean over prompts with its standard error; NaN standard error for a single prompt."""
    count = len(squares)
    error = (
        squares.std(axis=0, ddof=1) / np.sqrt(count)
        if count > 1
        else np.full(squares.shape[1:], np.nan)
    )
    return PrefixRisk(table.columns, table.prefixes, table.dtype, squares.mean(axis=0), error)


# -- arguments -----------------------------------------------------------------------------------------


def _spectra(
    given: PromptSpectra | None, X: np.ndarray, y: np.ndarray, counts: np.ndarray, dtype: Any
) -> PromptSpectra:
    if given is None:
        return prompt_spectra(X, y, counts, dtype)
    shape = (len(X), len(counts), X.shape[2])
    if given.values.shape != shape or not np.array_equal(given.prefixes, counts):
        raise InvalidInput(
            f"spectra are of shape {given.values.shape} on prefixes {given.prefixes}; these prompts "
            f"have {shape} on {counts}."
        )
    return given


def _plan(solvers: Any, steps: Any) -> tuple[list[tuple[Method, np.ndarray]], tuple[Column, ...]]:
    """The numbers of steps of every solver, and the columns that they fill."""
    if isinstance(solvers, Mapping):
        if steps is not None:
            raise InvalidInput("solvers is a mapping to steps; leave the argument steps out.")
        pairs = list(solvers.items())
    else:
        listed = [solvers] if isinstance(solvers, Method) else solvers
        if not isinstance(listed, Iterable):
            raise InvalidInput(_wrong(listed))
        pairs = [(solver, steps) for solver in listed]
    if not pairs:
        raise InvalidInput("no solver is given; pass for example [icl.GradientDescent(0.01)].")
    plan, columns = [], []
    for solver, numbers in pairs:
        if not isinstance(solver, Method):
            raise InvalidInput(_wrong(solver))
        if isinstance(solver, OnlineGradientDescent) or solver.is_direct:
            plan.append((solver, np.zeros(1)))
            columns.append((solver, None))
            continue
        counts = _steps(solver, numbers)
        plan.append((solver, counts))
        columns += [(solver, float(c) if c % 1 else int(c)) for c in counts]
    if len({solver for solver, _ in plan}) < len(plan):
        raise InvalidInput("a solver is given twice; give all its steps at once.")
    return plan, tuple(columns)


def _steps(solver: Solver, steps: Any) -> np.ndarray:
    if steps is None:
        raise InvalidInput(f"{solver!r} needs steps, integers >= 0 such as range(40).")
    if isinstance(steps, range):
        steps = list(steps)
    if isinstance(solver, GradientFlow):
        counts = np.atleast_1d(finite(steps, "steps"))
        if counts.size and counts.min() < 0:
            raise InvalidInput(f"steps = {counts.min():g}: the time of a flow is at least 0.")
    else:
        counts = np.atleast_1d(positive_integers(steps, "steps", 0))
    if counts.ndim != 1 or not counts.size:
        raise InvalidInput(f"steps has shape {counts.shape}; pass a sequence of integers.")
    return counts


def _wrong(value: Any) -> str:
    return (
        f"a solver has type {type(value).__name__}; pass specifications such as "
        f"icl.GradientDescent(0.01) or icl.IterativeNewton(1 / icl.symbols.frobenius)."
    )


def _start(w0: Any, spectra: PromptSpectra) -> np.ndarray | None:
    """U'w0, (B, P, d), or None for 0."""
    if w0 is None:
        return None
    start = finite(w0, "w0").astype(spectra.values.dtype)
    prompts, prefixes, dim = spectra.values.shape
    allowed = {(dim,): (1, 1), (prompts, dim): (prompts, 1), (prompts, prefixes, dim): None}
    if start.shape not in allowed:
        raise InvalidInput(
            f"w0 has shape {start.shape}; pass (d,) = ({dim},), (B, d) = ({prompts}, {dim}) or "
            f"(B, P, d) = ({prompts}, {prefixes}, {dim})."
        )
    if (lead := allowed[start.shape]) is not None:
        start = start.reshape(*lead, dim)
    rows = np.broadcast_to(start, spectra.values.shape)[:, :, None, :]
    return np.matmul(rows, spectra.vectors)[:, :, 0]
