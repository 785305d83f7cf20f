"""Exceptions of icltheory. Every message says what is wrong and what would be right.

All of them derive from `IclTheoryError`, so that a program can catch the toolkit's own refusals
(and the command line can print them as one line) without hiding programming errors.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class IclTheoryError(Exception):
    """Base class of all refusals of this toolkit."""


class InvalidInput(IclTheoryError, ValueError):
    """An argument that has no meaning here: wrong type, shape, sign or name."""


class OutOfDomain(IclTheoryError, ValueError):
    """A value outside the condition under which a formula holds; names the bound and the value."""


class InfiniteVariance(IclTheoryError, ArithmeticError):
    """A sampling estimate was asked for whose variance is infinite; use quadrature instead."""


class TrainingDiverged(IclTheoryError, ArithmeticError):
    """The training loss left the range in which the run can recover."""


class CheckpointError(IclTheoryError, ValueError):
    """A saved model that cannot be used: truncated, of another model, or not only weights."""


class DivergingMoments(UserWarning):
    """An expectation that rare prompts carry: right, but far from what a typical prompt shows."""


def unknown_name(package: str, name: str, known: Iterable[str]) -> AttributeError:
    """The error for a name that a package lacks, with the nearest one that it has.

    >>> unknown_name("icltheory", "SoftMaxAttention", ["SoftmaxAttention"])
    AttributeError("module 'icltheory' has no attribute 'SoftMaxAttention'; meant SoftmaxAttention?")
    """
    near = [] if name.startswith("_") else get_close_matches(name, known, 1, 0.8)
    meant = f"; meant {near[0]}?" if near else ""
    # With `obj` given, Python does not look for a name itself and say it twice.
    return AttributeError(f"module {package!r} has no attribute {name!r}{meant}", obj=package)
