"""Numbers from the text of a command line; nothing is evaluated.

Each function raises `argparse.ArgumentTypeError`, which argparse shows with the option's name.
Exported: `positive`, `seed`, `number`, `prompt_lengths`, and `LENGTHS`, the form of lengths in words.
"""

from __future__ import annotations

import argparse
import re
from fractions import Fraction
from typing import Any

LENGTHS = "FIRST:LAST:COUNT (logarithmic), or a list such as 20,40,80"


def positive(text: str) -> int:
    """A positive integer.

    >>> positive("40")
    40
    """
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def seed(text: str) -> int:
    """An integer of at least 0."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 0")
    return int(text)


def number(text: str) -> Any:
    """An exact rational from a decimal or a fraction.

    >>> number("0.25"), number("-1/3")
    (1/4, -1/3)
    """
    import sympy

    # The exponent is bounded, so that no text makes a number with millions of digits.
    form = (
        r"[+-]?([0-9]{1,40}(\.[0-9]{0,40})?|\.[0-9]{1,40})(e[+-]?[0-9]{1,2})?"
        r"|[+-]?[0-9]{1,40}/[0-9]{1,40}"
    )
    try:
        if re.fullmatch(form, text, flags=re.IGNORECASE):
            value = Fraction(text)
            return sympy.Rational(value.numerator, value.denominator)
    except ZeroDivisionError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a number such as 0.25 or 1/4")


def prompt_lengths(text: str) -> list[int]:
    """Prompt lengths in the form `LENGTHS`, rising and without repetition.

    >>> prompt_lengths("10:1000:5"), prompt_lengths("20,40")
    ([10, 32, 100, 316, 1000], [20, 40])
    """
    first, *rest = text.split(":")
    if not rest:
        return [positive(part) for part in first.split(",")]
    if len(rest) != 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not {LENGTHS}")
    low, high, count = positive(first), positive(rest[0]), positive(rest[1])
    if low > high or count > 100_000:
        raise argparse.ArgumentTypeError(
            f"{text!r} must rise from FIRST to LAST in at most 100000 lengths"
        )
    ratio = (high / low) ** (1 / max(count - 1, 1))
    # Rounding makes neighbours coincide at short lengths; each is kept once.
    found = [round(low * ratio**i) for i in range(count - 1)]
    return list(dict.fromkeys([*found, high if count > 1 else low]))
