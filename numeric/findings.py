"""Audit findings: where what we derive and measure differs from what a paper says, or says more.

Each names the claim whose experiments show it. Exported: `Finding`, `FINDINGS`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """claim: id of the claim that shows it. published: what the paper says, in our words. found: what
    comes out here."""

    claim: str
    published: str
    found: str


FINDINGS = (
    Finding(
        "multihead-exceptions",
        "Several heads are preferred to one.",
        "In general; not where the embedding is narrower than the features, where their values have "
        "one sign on blocks, for local examples in high dimension, or where a tight prior is better "
        "alone.",
    ),
    Finding(
        "multihead-conventions",
        "An approximate loss of a softmax head (He et al.).",
        "Right for large dimension only: in low dimension it is too small by a known factor.",
    ),
    Finding(
        "multihead-product-features",
        "Both losses are of order 1/n.",
        "For Gaussian features; on other features with independent symmetric coordinates the best "
        "single head falls like n^(-2/3) only.",
    ),
    Finding(
        "multihead-embedding-dimension",
        "A substantial embedding dimension is needed.",
        "Width d is enough with opposite signs; below it the risk stays above zero, and blocks of "
        "equal signs are worse than one head.",
    ),
    Finding(
        "largeprompt-output-concentration",
        "Proposition 3.1: an error of at most c1 sigma^6 ln(n) n^(-c2/sigma^2).",
        "As printed the bound is 0 at n = 1, where the error is not: read 1 + ln n. The exponent is "
        "-1 for tau^2 < 1/2, and slower beyond.",
    ),
    Finding(
        "largeprompt-bayes",
        "A range of sizes of the start from which training converges.",
        "Sufficient, not necessary: larger starts converge too.",
    ),
    Finding(
        "solvers-audit",
        "Newton starts from 2/|S S'| times S, and gradient descent from 0.",
        "The printed tables come out for 2 S/|S^2|_F with the empty prefix, and for descent from a "
        "random start; the starts of the text are rejected (inferred from the numbers).",
    ),
    Finding(
        "solvers-audit",
        "The last layers match 21 Newton steps, for both condition numbers.",
        "A ceiling of float32 arithmetic, where Newton's recursion loses its digits; in float64 it is "
        "gone (inferred from the numbers).",
    ),
    Finding(
        "solvers-audit",
        "BFGS matches Newton, conjugate gradients and L-BFGS are slower.",
        "With exact line search all three are the same iterates; the printed differences are those "
        "of line searches or stopping rules.",
    ),
    Finding(
        "solvers-rates",
        "Newton is superlinear, gradient descent sublinear, on averaged curves.",
        "Averaged over prompts Newton is geometric; it is superlinear on one prompt only, and late.",
    ),
    Finding(
        "solvers-equivalences",
        "A linear match of layers with Newton steps shows a second-order method.",
        "Conjugate gradients are matched linearly too, and the match with descent steps follows from "
        "the match with Newton: neither decides.",
    ),
    Finding(
        "solvers-construction",
        "Weights that run k steps of Newton in k + 8 layers.",
        "The statement holds with opposite values in each pair of heads; with the printed signs it "
        "fails. k + 1 or k + 2 layers are enough.",
    ),
    Finding(
        "decoding-overthinking",
        "More thoughts help.",
        "Not without end: with noise at every thought the risk rises again beyond a finite length, "
        "except for small noise and d < n.",
    ),
    Finding(
        "decoding-selection",
        "Sampling several candidates helps.",
        "Choosing among them helps without label noise; with it selection by the prompt loss ends at least squares and can lose to "
        "averaging.",
    ),
)
