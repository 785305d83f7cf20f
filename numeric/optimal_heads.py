"""Best values of given heads, and best scores and values of 1, 2 and 4 heads, at prompt length n.

To order 1/n nothing is gained beyond two opposite heads. What a second pair adds is of order
log(n)/n^2: a pair of vanishing scores does the regression, and one of large scores and values of
order 1/n corrects it. The question is that of Cui et al. (arXiv 2401.17426); the risks are derived
here, the scores are numerical optima. Exported: `optimal_heads`, `OptimalHeads`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from icltheory.attention import Attention, SoftmaxAttention
from icltheory.errors import InvalidInput
from icltheory.task import LinearRegression
from numeric.arrays import task_arrays
from numeric.decoding_display import Tabled
from numeric.pair_moments import LARGEST_SCALE
from numeric.progress import progress_bar
from numeric.prompt_moments import checked_lengths
from numeric.query_lattice import QueryLattice
from numeric.risk import given_heads, optimal_risk
from numeric.several_heads import Setting, minimum_on_lattice
from numeric.tables import cell_text

# (S, a) of a pair of vanishing scores and a pair of scores +-k, in terms of sum v k of the pairs.
_TWO_PAIRS = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 0.5], [0.0, 0.5]])


_VANISHING = (
    "scores 0 with infinite values are the limit of small opposite scores, where the products v k "
    "stay finite"
)


@dataclass(frozen=True, eq=False, repr=False)
class OptimalHeads(Tabled):
    """Best heads: `prompt_length` and `risk` of one shape, `scores`, `values`, `products` with (H,) more.

    `products` are v_h k_h. Opposite heads in the limit of small scores have the scores 0 and finite
    products; their values are infinite.

    >>> import icltheory as icl
    >>> print(optimal_heads(icl.LinearRegression(dim=3), icl.SoftmaxAttention(heads=2), [9, 81]))
     n       risk  head     score    value  product
     9   0.319139     1    0.6115   0.7657  0.4683
     9   0.319139     2   -0.6115  -0.7657  0.4683
    81  0.0476134     1   0.06352    7.592  0.4823
    81  0.0476134     2  -0.06352   -7.592  0.4823
    """

    prompt_length: Any
    risk: Any
    scores: np.ndarray
    values: np.ndarray
    products: np.ndarray

    def __repr__(self) -> str:
        note = f" ({_VANISHING})" if self._vanish else ""
        return super().__repr__() + note

    def __str__(self) -> str:
        return super().__str__() + (f"\n{_VANISHING}" if self._vanish else "")

    def _repr_html_(self) -> str:
        return super()._repr_html_() + (f"<p>{_VANISHING}</p>" if self._vanish else "")

    @property
    def _vanish(self) -> bool:
        return bool(np.isinf(self.values).any())

    def _table(self) -> tuple[list[str], list[list[str]]]:
        columns = (self.prompt_length, self.risk, self.scores, self.values, self.products)
        lengths, risks, *heads = map(np.asarray, columns)
        body = [
            [
                *(cell_text(float(x[index])) for x in (lengths, risks)),
                str(h + 1),
                *(f"{x[*index, h]:.4g}" for x in heads),
            ]
            for index in np.ndindex(risks.shape)
            for h in range(heads[0].shape[-1])
        ]
        return ["n", "risk", "head", "score", "value", "product"], body


def optimal_heads(task: LinearRegression, attention: Attention, prompt_length: Any) -> OptimalHeads:
    """Smallest risk of softmax heads at prompt length n, with every score and value.

    Parameters
    ----------
    attention: scalar heads with scores inside and no values: the best values for these scores (any
        number of heads, `include_query`, a prior mean or local examples allowed). Or
        `SoftmaxAttention(heads=H)` without scores: one head, the pair +-k, or, for four heads, the
        pairs +-k_1, +-k_2 with values of opposite signs. There k_1 -> 0, which was the best in all
        cases examined; this is no theorem. Other numbers of heads: `InvalidInput`.
    prompt_length: integers n from 1 (2 for two and four heads) to 1e100. Four heads take seconds a
        length; Ctrl-C raises `Interrupted` with the lengths that are finished in `partial`.

    Errors: `InvalidInput`, `OutOfDomain`. Source: derived here.

    >>> import icltheory as icl
    >>> task = icl.LinearRegression(dim=1)
    >>> best = optimal_heads(task, icl.SoftmaxAttention(scores=[0.8, -0.8]), 10)
    >>> round(best.risk, 4), best.values.round(3)
    (0.1628, array([ 0.7, -0.7]))
    """
    if not isinstance(attention, SoftmaxAttention):
        raise InvalidInput(
            f"attention has type {type(attention).__name__}; pass icl.SoftmaxAttention(...)."
        )
    lengths = checked_lengths(prompt_length)
    if attention.scores is not None:
        if attention.values is not None:
            raise InvalidInput(
                "the attention has scores and values already; evaluate it with numeric.exact_risk."
            )
        risk, values = given_heads(task, attention, prompt_length)
        scores = np.broadcast_to([float(k) for k in attention.scores], values.shape)
        return OptimalHeads(_plain(lengths), risk, scores, values, scores * values)
    if attention.heads in (1, 2):
        best = optimal_risk(task, attention, prompt_length)
        signs = np.array([1.0, -1.0][: attention.heads])
        scores, values = (np.multiply.outer(x, signs) for x in (best.score_scale, best.value_scale))
        if attention.heads == 1:
            return OptimalHeads(_plain(lengths), best.risk, scores, values, scores * values)
        return _with_products(lengths, best.risk, scores, _pair_products(best)[..., None] / 2)
    if attention.heads != 4:
        raise InvalidInput(
            f"best scores are known for 1, 2 and 4 heads; for {attention.heads} give the scores, "
            f"icl.SoftmaxAttention(scores=[...]), and minimise numeric.exact_risk over them."
        )
    arrays = task_arrays(task, ("coef_mean",))
    if attention.options:
        raise InvalidInput("the best four heads are known without options of the attention only.")
    setting = Setting.of(arrays, False)
    lengths = checked_lengths(prompt_length, 2)
    found: list[tuple[float, float, float, float]] = []

    def finished() -> OptimalHeads | None:
        done = lengths.ravel()[: len(found)]
        return _two_pairs(arrays.signal, done, np.array(found)) if found else None

    options = {"partial": finished, "unit": " lengths"}
    with progress_bar(lengths.size, 0, None, "four heads", **options) as bar:
        for n in lengths.ravel():
            found.append(_best_two_pairs(setting, float(n)))
            bar.update()
    return _two_pairs(arrays.signal, lengths, np.array(found))


def _two_pairs(signal: float, lengths: np.ndarray, found: np.ndarray) -> OptimalHeads:
    """The result from the rows of `_best_two_pairs`, one a length."""
    risk, k, small, large = found.T.reshape(4, *lengths.shape)
    zero = np.zeros_like(k)
    scores = np.stack([zero, zero, k, -k], axis=-1)
    products = np.stack([small, small, large, large], axis=-1) / 2
    risk = signal * risk
    return _with_products(lengths, risk if risk.ndim else float(risk), scores, products)


def _pair_products(best: Any) -> np.ndarray:
    """sum_h v_h k_h of the pair; its value scale is that already where the score scale is 0."""
    k, v = np.asarray(best.score_scale), np.asarray(best.value_scale)
    return np.where(k == 0, v, 2 * k * v)


def _with_products(
    lengths: np.ndarray, risk: Any, scores: np.ndarray, products: np.ndarray
) -> OptimalHeads:
    products = np.broadcast_to(products, scores.shape)
    signs = np.resize([1.0, -1.0], scores.shape[-1])
    values = np.divide(
        products, scores, out=signs * np.full(scores.shape, np.inf), where=scores != 0
    )
    return OptimalHeads(_plain(lengths), risk, scores, values, products)


def _plain(lengths: np.ndarray) -> Any:
    """One length as a number of Python."""
    if lengths.ndim:
        return lengths
    n = float(lengths)
    return int(n) if n < 2**53 else n


@lru_cache(maxsize=1024)
def _best_two_pairs(setting: Setting, n: float) -> tuple[float, float, float, float]:
    """Risk, k_2, and sum v k of the vanishing pair and of the pair +-k_2."""

    def solved(k: float) -> tuple[float, np.ndarray]:
        return setting.form(n, (0.0, k, -k)).best(_TWO_PAIRS)

    lattice = QueryLattice(setting.dim, n)
    largest = LARGEST_SCALE / lattice.window[1]
    # The best k |x_q| grows slowly from about 1.7.
    k = minimum_on_lattice(
        lambda k: solved(k)[0], 1 / math.sqrt(setting.dim), lattice.step, largest
    )
    risk, c = solved(k)
    return risk, k, float(c[1]), float(2 * c[2])
