"""Self-consistency over whole binary answers: the most frequent of N sampled answers.

Given a state the coordinates of an answer are independent, but an answer repeats only with probability
exp(-O(d)): the vote over whole answers needs exponentially many samples, the vote over coordinates few.
Source: derived here. Exported: `plurality_success`, `plurality_bound`, `samples_for_plurality`,
`samples_for_majority`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from icltheory.errors import InvalidInput, OutOfDomain
from numeric.arrays import finite, integer, number, positive_integers

_LARGEST_EXACT = 12  # bits: 2^12 answers
_LARGEST_SAMPLES = 256
_MOST_WORK = 3e9  # numbers of the product over all answers: about 30 s
_LARGEST_BOUND = 20


_INSTEAD = (
    "use numeric.plurality_bound, or sample: numeric.sample_bits, then numeric.plurality_vote"
)


def plurality_success(probability: Any, samples: int, answer: Any = None) -> float:
    """P(the most frequent of N sampled answers is `answer`), ties by a coin, exactly.

    Parameters
    ----------
    probability: of the higher value of every bit given the state, (d,), d <= 12.
    samples: N from 1 to 256.
    answer: booleans (d,), e.g. w*; `None` is the most likely answer.

    The counts are Poisson variables given their sum: a sum over the winner's count of products over all
    2^d answers, whose coefficient is read off by a discrete Fourier transform; a uniform variable breaks
    the ties. Absolute error about 1e-13. About 2^d N^2 (2 ln N + 4) operations: 0.1 s for (d, N) = (8, 64),
    2 s for (12, 64), 1 s for (8, 256); what would take more than 30 s is refused: sample answers and take
    `numeric.plurality_vote`. Errors: `InvalidInput`, `OutOfDomain`.
    Source: derived here.

    >>> round(plurality_success([0.8], 3), 12)  # a majority of three
    0.896
    """
    p, count = _bits(probability, _LARGEST_EXACT), integer(samples, "samples")
    if count > _LARGEST_SAMPLES:
        raise OutOfDomain(f"samples = {count} is beyond {_LARGEST_SAMPLES}; {_INSTEAD}.")
    if answer is None:
        right = p >= 0.5
    else:
        right = np.asarray(answer, dtype=bool)
        if right.shape != p.shape:
            raise InvalidInput(f"answer has shape {right.shape} for {len(p)} bits.")
    chances, points = _answers(p, right), 4 * count + 64
    ties = np.minimum(count // np.arange(1, count + 1), len(chances) - 1)
    if len(chances) * points * (ties // 2 + 1).sum() > _MOST_WORK:
        raise OutOfDomain(f"{len(p)} bits and {count} samples take more than 30 s; {_INSTEAD}.")
    phase = np.exp(2j * math.pi * np.arange(points) / points)
    powers = np.exp(
        2j * math.pi * (np.outer(np.arange(count + 1), np.arange(points)) % points) / points
    )
    weights = stats.poisson.pmf(np.arange(count + 1), count * chances[:, None])
    below = np.zeros((len(chances) - 1, points), dtype=complex)  # counts below the winner's
    total = 0.0
    for c in range(1, count + 1):
        below += weights[1:, c - 1, None] * powers[c - 1]
        tie = weights[1:, c, None] * powers[c]
        nodes, node_weights = _unit_nodes(int(ties[c - 1]))
        product = sum(
            w * np.prod(below + x * tie, axis=0) for x, w in zip(nodes, node_weights, strict=True)
        )
        rest = count - c
        total += weights[0, c] * float(np.mean(product * phase ** (-rest)).real)
    return float(total / stats.poisson.pmf(count, count))


def _unit_nodes(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on (0, 1), exact for polynomials of this degree."""
    x, w = np.polynomial.legendre.leggauss(degree // 2 + 1)
    return (x + 1) / 2, w / 2


def _bits(probability: Any, largest: int) -> np.ndarray:
    p = finite(probability, "probability")
    if p.ndim != 1 or not len(p) or np.any((p < 0) | (p > 1)):
        raise InvalidInput("probability must be numbers from 0 to 1, one for every bit.")
    if len(p) > largest:
        raise OutOfDomain(f"{len(p)} bits have too many answers to enumerate; at most {largest}.")
    return p


def _answers(p: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Probabilities of all 2^d answers, that of `first` in front."""
    out = np.ones(1)
    for chance in np.where(first, p, 1 - p):
        out = np.concatenate([out * chance, out * (1 - chance)])
    return out


def plurality_bound(probability: Any, samples: Any) -> np.ndarray:
    """A bound on P(the plurality of N answers is not the most likely one), at every N; at most 1.

    sum over the other answers v of exp(-N (sqrt(p_1) - sqrt(p_v))^2): Chernoff for two counts of a
    multinomial. At most 20 bits. Errors: `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> plurality_bound([0.9, 0.9], [10, 100]).round(6)
    array([0.056309, 0.      ])
    """
    p, votes = _bits(probability, _LARGEST_BOUND), positive_integers(samples, "samples")
    roots = np.sqrt(_answers(p, p >= 0.5))
    gaps = np.square(roots[0] - roots[1:])
    out = np.array([np.exp(-n * gaps).sum() for n in votes.ravel()]).reshape(votes.shape)
    return np.minimum(out, 1.0)[()]


def samples_for_plurality(probability: Any, failure: float) -> float:
    """N ~ ln(1/failure)/(sqrt(p_1) - sqrt(p_2))^2 for the vote over whole answers; infinite at a tie.

    p_1 is the product of the larger chances m_j, the runner-up flips the least certain bit; any d.

    Errors: `InvalidInput`. Source: derived here.

    >>> round(samples_for_plurality([0.8] * 20, 0.05), 1)
    1039.4
    """
    log_first, worst, failure = *_certainty(probability), _failure(failure)
    runner_up = math.sqrt(1 / worst - 1)
    if runner_up == 1:
        return math.inf
    return -math.log(failure) * math.exp(min(-log_first, 700.0)) / (1 - runner_up) ** 2


def samples_for_majority(probability: Any, failure: float) -> float:
    """N = ln(d/failure)/(2 min_j (m_j - 1/2)^2) for the vote coordinate by coordinate to find the mode.

    Errors: `InvalidInput`. Source: derived here.

    >>> round(samples_for_majority([0.8] * 20, 0.05), 1)
    33.3
    """
    (_, worst), failure = _certainty(probability), _failure(failure)
    if worst == 0.5:
        return math.inf
    return math.log(np.size(probability) / failure) / (2 * (worst - 0.5) ** 2)


def _certainty(probability: Any) -> tuple[float, float]:
    """ln of the mode's probability and the least certain bit's larger chance."""
    p = _bits(probability, 10**9)
    larger = np.maximum(p, 1 - p)
    return float(np.log(larger).sum()), float(larger.min())


def _failure(value: Any) -> float:
    failure = number(value, "failure")
    if not 0 < failure < 1:
        raise InvalidInput(f"failure = {failure:g} must lie strictly between 0 and 1.")
    return failure
