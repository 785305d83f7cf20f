"""Audit: the published similarity tables of arXiv 2310.17086, computed without any trained model.

A first layer has learned nothing, so its similarity to a solver is that of the zero predictor; other
columns hold two solvers against each other. Each audit states the conventions under which the printed
column comes out (inferred from the numbers), and names other conventions,
among them those of the paper's text, that the same column rejects. Not decided by any single row: the
empty prefix (leaving it out lowers late rows by 3 to 4 standard errors). A start drawn once for a whole
table fits rows 8 to 12 of Newton against 50 gradient steps, which a start for every prompt and prefix
misses by 3 to 5 standard errors. Exported: `Audit`, `AUDITS`, `audit_table`.
"""

from __future__ import annotations

from dataclasses import dataclass

import icltheory as icl
from icltheory.errors import InvalidInput
from icltheory.symbols import trace
from numeric import published
from numeric.audit_columns import (
    DESCENT,
    NEWTON,
    SLOW_DESCENT,
    Rows,
    conjugate,
    count,
    descent,
    first_layer,
    last_layer,
    matches,
    neighbours,
    newton_against_descent,
    other_against_descent,
    other_newton,
    other_step_sizes,
    quasi_newton,
    zero_start,
)
from numeric.compare import Comparison
from numeric.montecarlo import Seed, seed_sequence
from numeric.progress import progress_bar


@dataclass(frozen=True)
class Audit:
    """One published column: what reproduces it, and what does not.

    table: label in `numeric.published` (P1, ...). claim: label of the finding (A3, ...).
    assumptions: the conventions under which it comes out. other: conventions that it rejects.
    """

    table: str
    claim: str
    title: str
    assumptions: str
    other: str
    _reproduced: Rows
    _rejected: Rows

    def reproduced(self, prompts: int = 640, seed: Seed = 0) -> Comparison:
        """Rows of our value (prediction) against the printed one (estimate); all should agree."""
        return self._reproduced(count(prompts), seed_sequence(seed))

    def rejected(self, prompts: int = 640, seed: Seed = 0) -> Comparison:
        """The same under the other conventions; every row should deviate."""
        return self._rejected(count(prompts), seed_sequence(seed))


def audit_table(table: str, *, prompts: int = 640, seed: Seed = 0) -> Comparison:
    """Our values of one published column against the printed ones.

    Parameters
    ----------
    table: a key of `AUDITS`. prompts: sampled here, at least 100; the printed column has 320.
    seed: integer >= 0 or `numpy.random.SeedSequence`.

    Errors: `InvalidInput`.

    >>> table = audit_table("newton-first-layer", prompts=200)
    >>> table.passed, len(table)
    (True, 23)
    """
    if table not in AUDITS:
        raise InvalidInput(f"table = {table!r} is not one of {', '.join(AUDITS)}.")
    with progress_bar(1, 0, None, f"audit {table}", partial=lambda: None, unit=" tables"):
        return AUDITS[table].reproduced(prompts, seed)


# name -> audit
AUDITS: dict[str, Audit] = {
    "newton-first-layer": Audit(
        "P1",
        "A3",
        "Layer 1 against Newton, isotropic prompts",
        "M_0 = 2 S/||S^2||_F (the first public code), empty prefix included",
        "M_0 = S/||S^2||_F (the later public code)",
        first_layer(published.NEWTON_FIRST, 1),
        other_newton(published.NEWTON_FIRST, 1),
    ),
    "newton-first-layer-conditioned": Audit(
        "P2",
        "A3",
        "Layer 1 against Newton, kappa = 100",
        "as for isotropic prompts; covariance with eigenvalues 1.98 and 0.0198",
        "M_0 = S/||S^2||_F (the later public code)",
        first_layer(published.NEWTON_FIRST_KAPPA, 100),
        other_newton(published.NEWTON_FIRST_KAPPA, 100),
    ),
    "descent-first-layer": Audit(
        "P3",
        "A4",
        "Layer 1 against gradient descent, isotropic prompts",
        "step 0.01 on S w - X'y from a start drawn uniformly from [0, 1)^d / sqrt(d)",
        "start 0 (the text and the released code)",
        descent(published.DESCENT_FIRST, 1, DESCENT),
        zero_start,
    ),
    "descent-first-layer-conditioned": Audit(
        "P3",
        "A8",
        "Layer 1 against gradient descent, kappa = 100",
        "step 0.002, start as for isotropic prompts",
        "steps 0.0014 and 0.0028",
        descent(published.DESCENT_FIRST_KAPPA, 100, SLOW_DESCENT),
        other_step_sizes,
    ),
    "conjugate-gradients-first-layer": Audit(
        "P5",
        "A11",
        "Layer 1 against conjugate gradients",
        "exact line search",
        "BFGS and L-BFGS with exact line search, which are the same iterates; constant beyond n = d",
        conjugate,
        quasi_newton,
    ),
    "newton-against-descent": Audit(
        "P7",
        "A4",
        "Newton against 50 steps of gradient descent, and the ceiling at 1300",
        "as in the two tables of layer 1",
        "gradient descent from 0, which has a higher ceiling; M_0 = 2 S/lam_max^2 (the text)",
        newton_against_descent,
        other_against_descent,
    ),
    "newton-neighbours": Audit(
        "P7",
        "A3",
        "Newton k against k + 1 steps",
        "M_0 = 2 S/||S^2||_F, empty prefix included",
        "M_0 = identity/tr S",
        neighbours(NEWTON),
        neighbours(icl.IterativeNewton(1 / trace, start="I"), 3, 4, convention="1/tr S"),
    ),
    "descent-matches": Audit(
        "P4",
        "A9",
        "Gradient steps of layers 4 to 9, from their Newton steps alone",
        "Newton from 2 S/||S^2||_F doubles the gradient steps every two of its own",
        "Newton from the identity/tr S, which doubles them with every step",
        matches(NEWTON, slice(3, 9)),
        matches(icl.IterativeNewton(1 / trace, start="I"), slice(6, 7), convention="1/tr S"),
    ),
    "newton-last-layer": Audit(
        "P1, P2",
        "A6",
        "The fall beyond 21 Newton steps at the last layer",
        "Newton's recursion in float32, against least squares in place of layer 12",
        "the same in float64",
        last_layer("float32"),
        last_layer("float64", convention="float64"),
    ),
}
