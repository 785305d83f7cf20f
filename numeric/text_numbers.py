"""Numbers from the text of a command line; nothing of it is run as code.

Each function raises `argparse.ArgumentTypeError`, which argparse shows with the option's name.
Exported: `positive`, `seed`, `number`, `arithmetic`, `prompt_lengths`, and `LENGTHS`, the form of
lengths in words.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
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
    """An exact rational from a decimal, a fraction or arithmetic.

    >>> number("0.25"), number("-1/3"), number("2*(0.1 + 1)^2")
    (1/4, -1/3, 121/50)
    """
    return arithmetic(text, {})


def arithmetic(text: str, words: Mapping[str, Any]) -> Any:
    """The exact value of + - * / ^ and brackets on numbers and on the `words`, which stand for symbols.

    A decimal is the rational number that it denotes, and `2k` is a product. Exponents are numbers.

    >>> from icltheory.symbols import k
    >>> arithmetic("1/(2k)", {"k": k}), arithmetic("0.1*-k^2", {"k": k})
    (1/(2*k), -k**2/10)
    """
    try:
        return _Arithmetic(text, words).value()
    except ValueError as error:
        allowed = "a number such as 0.25 or 1/4, or arithmetic of numbers"
        known = f" and {', '.join(words)}" if words else ""
        reason = f" ({error})" if str(error) else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}{known}{reason}") from None


class _Arithmetic:
    """A sum of products of powers, read from left to right; refusals are `ValueError`."""

    # The exponent of a decimal is bounded, so that no text makes a number with millions of digits.
    _TOKEN = re.compile(
        r"\s*(?:(?P<number>(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:e[+-]?[0-9]{1,2}(?![0-9]))?)"
        r"|(?P<word>[a-z]\w*)|(?P<sign>\*\*|[-+*/^()]))\s*",
        re.IGNORECASE | re.ASCII,
    )
    _LENGTH, _BITS, _EXPONENT = 120, 400, 20

    def __init__(self, text: str, words: Mapping[str, Any]) -> None:
        self.words, self.at = words, 0
        self.tokens: list[tuple[str, str]] = []
        end = 0
        while end < len(text):
            found = self._TOKEN.match(text, end)
            if found is None or len(text) > self._LENGTH:
                raise ValueError
            kind = found.lastgroup or ""
            self.tokens.append((kind, found.group(kind)))
            end = found.end()
        self.tokens.append(("end", ""))

    def value(self) -> Any:
        value = self._sum()
        if self._kind() != "end":
            raise ValueError
        return value

    def _kind(self) -> str:
        kind, text = self.tokens[self.at]
        return text if kind == "sign" else kind

    def _take(self, *kinds: str) -> str:
        """The kind of the next token if it is one of these, which is then read, else nothing."""
        kind = self._kind()
        self.at += kind in kinds
        return kind if kind in kinds else ""

    def _sum(self) -> Any:
        value = self._product()
        while sign := self._take("+", "-"):
            term = self._product()
            value = value + term if sign == "+" else value - term
        return self._bounded(value)

    def _product(self) -> Any:
        value, sign = self._signed(), "*"
        while True:
            if self._kind() in ("word", "("):  # 2k
                if sign == "/":
                    raise ValueError("write / (2*k) or / 2 * k")
                sign = "*"
            elif not (sign := self._take("*", "/")):
                return self._bounded(value)
            factor = self._signed()
            if sign == "/" and factor == 0:
                raise ValueError("division by zero")
            value = value * factor if sign == "*" else value / factor

    def _signed(self) -> Any:
        if sign := self._take("+", "-"):
            value = self._signed()
            return -value if sign == "-" else value
        base = self._atom()
        return self._power(base, self._signed()) if self._take("^", "**") else base

    def _power(self, base: Any, exponent: Any) -> Any:
        if not exponent.is_Rational or max(abs(exponent.p), exponent.q) > self._EXPONENT:
            raise ValueError(f"an exponent is a number of at most {self._EXPONENT}")
        if (base.is_zero and exponent < 0) or (base.is_negative and not exponent.is_Integer):
            raise ValueError("this power is no real number")
        return self._bounded(base**exponent)

    def _atom(self) -> Any:
        import sympy

        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            value = Fraction(text)
            return sympy.Rational(value.numerator, value.denominator)
        if kind == "word" and text in self.words:
            return self.words[text]
        if text == "(":
            value = self._sum()
            if self._take(")"):
                return value
        raise ValueError

    def _bounded(self, value: Any) -> Any:
        if value.is_Rational and max(abs(value.p), value.q).bit_length() > self._BITS:
            raise ValueError("too many digits")
        return value


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
