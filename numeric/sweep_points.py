"""The points of a sweep: settings, seeds, and results as plain data that a file can hold.

A point's seed follows from the sweep's seed and the point's setting alone, so it is the same on
every executor, in every order, and in every larger grid. Exported: `grid_settings`, `point_seed`,
`plain_result`, `setting_key`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from icltheory import checks
from icltheory.errors import InvalidInput
from numeric.compare import Row, row_record

Setting = dict[str, Any]


def grid_settings(grid: Any) -> list[Setting]:
    """The settings of a grid, in order: the last name of a mapping varies fastest.

    Errors: `InvalidInput` for an empty grid, repeated settings, and values that are not plain data.
    """
    if isinstance(grid, Mapping):
        names = [_name(name) for name in grid]
        axes = [_axis(name, grid[name]) for name in names]
        settings = [
            dict(zip(names, values, strict=True)) for values in itertools.product(*axes) if names
        ]
    elif isinstance(grid, Iterable) and not isinstance(grid, (str, bytes, set, frozenset)):
        settings = [_setting(entry) for entry in grid]
    else:
        raise InvalidInput(
            f"grid has type {type(grid).__name__}; pass {{'prompt_length': [20, 40], 'dim': [2, 5]}} "
            f"for all combinations, or a list of such settings, each with one value a name."
        )
    if not settings:
        raise InvalidInput("the grid has no points; give every name at least one value.")
    seen: dict[str, Setting] = {}
    for setting in settings:
        if seen.setdefault(setting_key(setting), setting) is not setting:
            raise InvalidInput(
                f"the setting {setting} is twice in the grid, and would be computed with the same "
                f"seed; for repetitions add a name, such as 'repetition': range(10)."
            )
    return settings


def setting_key(setting: Setting) -> str:
    """One text for equal settings: names sorted, 40.0 as 40."""
    return json.dumps(_canonical(setting), sort_keys=True)


def point_seed(seed: int, setting: Setting) -> int:
    """The seed of a point, below 2^53: what a float64 and JSON hold exactly."""
    digest = hashlib.sha256(setting_key(setting).encode()).digest()
    words = np.frombuffer(digest, dtype="<u4").tolist()
    sequence = np.random.SeedSequence([seed, *words])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(11))


def plain_result(value: Any, setting: Setting) -> dict[str, Any]:
    """What a function returned, as named plain data.

    A number becomes {"value": number}; a mapping, a dataclass such as `Estimate`, and a `Row` of a
    comparison (without its setting) keep their names. Errors: `InvalidInput` for anything else, and
    for a name that is in the setting too.
    """
    value = checks.plain(value)
    if isinstance(value, Row):
        record = row_record(value)
        del record["setting"]
    elif isinstance(value, Mapping):
        record = dict(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        record = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif isinstance(value, (bool, int, float)):
        record = {"value": value}
    else:
        raise InvalidInput(
            f"the function returned a {type(value).__name__} at {setting}; return a number, an "
            f"Estimate, a row of compare(...), or a dict of numbers such as {{'risk': 0.25}}."
        )
    result = {_name(name): _data(entry, f"the result {name!r}") for name, entry in record.items()}
    both = sorted(set(result) & set(setting))
    if both:
        raise InvalidInput(
            f"the function returned the name {both[0]!r}, which is in the setting too; return it "
            f"under another name, or leave it out."
        )
    return result


def _axis(name: str, values: Any) -> list[Any]:
    values = checks.plain(values)
    if isinstance(values, (set, frozenset, Mapping)):
        raise InvalidInput(
            f"grid[{name!r}] has type {type(values).__name__}, without an order; pass a list."
        )
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        values = [values]  # the same value at every point
    return [_finite(value, f"grid[{name!r}]") for value in values]


def _setting(entry: Any) -> Setting:
    if not isinstance(entry, Mapping):
        raise InvalidInput(
            f"a setting of the grid has type {type(entry).__name__}; pass a dict such as "
            f"{{'prompt_length': 20}}."
        )
    return {_name(name): _finite(value, f"the setting {name!r}") for name, value in entry.items()}


def _name(name: Any) -> str:
    if not (isinstance(name, str) and name):
        raise InvalidInput(f"{name!r} is not a name; settings and results have names (text).")
    return name


def _finite(value: Any, what: str) -> Any:
    value = _data(value, what)
    for number in _numbers(value):
        if not math.isfinite(number):
            raise InvalidInput(f"{what} has the value {number}; pass finite numbers.")
    return value


def _numbers(value: Any) -> list[float]:
    if isinstance(value, (list, tuple)):
        return [number for entry in value for number in _numbers(entry)]
    return [value] if isinstance(value, float) else []


def _data(value: Any, what: str) -> Any:
    """Plain data: None, booleans, numbers, text, and lists or tuples of these."""
    value = checks.plain(value)
    if isinstance(value, (list, tuple)):
        return type(value)(_data(entry, what) for entry in value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InvalidInput(
        f"{what} has type {type(value).__name__}; a sweep holds numbers, text, and lists of them. "
        f"Build objects such as a task inside the function, from numbers."
    )


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _canonical(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(entry) for entry in value]
    whole = isinstance(value, float) and math.isfinite(value) and value == int(value)
    return int(value) if whole else value
