"""Published similarities of Fu, Chen, Jia and Sharan (arXiv 2310.17086), d = 20, 41 points.

Three printed digits; similarities of errors unless noted. Layers are those
of the trained Transformers. Exported: `Column`, the tables below, and `DIGITS`, the standard error
of rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

PROMPTS = 320  # of one unseeded draw behind every printed number
DIM, LENGTH = 20, 41
DIGITS = 0.0005 / 3**0.5


@dataclass(frozen=True)
class Column:
    """Printed values over numbers of steps."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


def _column(steps: Iterable[int], digits: str) -> Column:
    values, steps = tuple(float(x) for x in digits.split()), tuple(steps)
    assert len(steps) == len(values)
    return Column(steps, values)


NEWTON_FIRST = _column(
    range(1, 24),
    ".920 .876 .829 .781 .734 .691 .652 .619 .591 .569 .552 .539 .530 .524 .520 .517 .515 .513 .512 "
    ".511 .511 .510 .508",
)
NEWTON_LAST = _column(
    range(1, 24),
    ".616 .652 .692 .733 .774 .815 .852 .885 .913 .934 .950 .962 .971 .978 .983 .987 .989 .991 .993 "
    ".993 .994 .993 .990",
)
NEWTON_FIRST_KAPPA = _column(
    range(1, 24),
    ".885 .814 .736 .661 .593 .536 .493 .464 .444 .431 .422 .416 .411 .407 .404 .400 .397 .394 .392 "
    ".390 .389 .387 .384",
)
NEWTON_LAST_KAPPA = _column(range(17, 24), ".980 .984 .986 .988 .988 .986 .975")
DESCENT_FIRST = _column(
    (2**j for j in range(13)),
    ".953 .910 .842 .759 .678 .610 .563 .536 .521 .513 .509 .507 .506",
)
DESCENT_LAST = _column(
    (2**j for j in range(13)),
    ".602 .657 .725 .799 .865 .916 .947 .966 .977 .983 .986 .987 .988",
)
DESCENT_FIRST_KAPPA = _column(
    (1, 100, 200, 300, 500, 1000, 2000, 3000), ".990 .502 .451 .433 .417 .404 .395 .391"
)
CONJUGATE_FIRST = _column(
    (1, 2, 3, 4, 6, 8, 10, 12, 15, 20, 30, 40),
    ".841 .731 .665 .618 .565 .544 .534 .527 .520 .513 .508 .505",
)
BFGS_FIRST = _column((1, 2, 3, 4, 5, 6, 7, 12, 25), ".977 .911 .801 .687 .585 .505 .467 .532 .500")
LBFGS_FIRST = _column((1, 2, 3), ".979 .783 .722")
NEWTON_AGAINST_DESCENT = _column(  # 50 steps of gradient descent
    range(1, 13), ".697 .738 .782 .828 .873 .915 .948 .971 .984 .987 .985 .979"
)
NEWTON_CEILING = 0.990  # of Newton against 1000 to 1300 steps of gradient descent
NEWTON_NEIGHBOURS = _column(  # k against k + 1
    range(1, 15), ".991 .990 .989 .989 .990 .990 .992 .993 .995 .996 .997 .998 .998 .999"
)

# Best-matching steps of layers 1, ..., 12: tie sets (first, last) at three digits.
NEWTON_MATCHES = (
    *((1, 1), (1, 1), (2, 2), (5, 5), (8, 8), (10, 10), (14, 14)),
    *((16, 19), (20, 20), (20, 22), (21, 21), (21, 21)),
)
DESCENT_MATCHES = (  # layers 10 to 12 at the edge of the grid
    *((1, 1), (1, 1), (4, 4), (8, 8), (32, 32), (64, 64), (256, 256)),
    *((512, 1024), (1024, 2048), (4096, 4096), (4096, 4096), (4096, 4096)),
)
NEWTON_MATCHES_KAPPA = (
    *((1, 1), (1, 1), (2, 2), (5, 5), (9, 9), (13, 13), (18, 18)),
    *((19, 21), (20, 21), (20, 21), (20, 21), (20, 21)),
)

# Best similarities of errors with Newton, gradient descent and online descent.
BEST_OF_MODELS = {"Transformer": (0.991, 0.957, 0.806), "LSTM": (0.920, 0.916, 0.954)}
