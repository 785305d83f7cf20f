"""One point of a sweep, computed anywhere: the function as bytes, its fingerprint, its record.

Exported: `compute`, `compute_sent`, `pack`, `fingerprint`, `Stop`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import marshal
import pickle
import re
import socket
import time
import traceback
from collections.abc import Callable
from functools import cache, partial
from typing import Any

from icltheory import checks
from icltheory.errors import IclTheoryError, InvalidInput
from numeric.sweep_points import Setting, plain_result
from numeric.workers import code_digest

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


class Stop(Exception):
    """A sweep cannot go on, for a reason that is no point's own."""


def compute(function: Callable[..., Any], setting: Setting, options: dict[str, Any]) -> dict:
    """The record of one point: its `result` or its `error`, and the seconds it took.

    A record with `stop` says why no point at all can be computed in this way.
    """
    start = time.perf_counter()
    try:
        value = function(**setting, **options)
    except (Exception, SystemExit) as error:  # a point that fails must not take the others with it
        # The toolkit's refusals speak for themselves; other errors need their type.
        name = "" if isinstance(error, IclTheoryError) else f"{type(error).__name__}: "
        record = {"error": f"{name}{error}", "details": traceback.format_exc()}
    else:
        try:
            record = {"result": plain_result(value, setting)}
        except InvalidInput as error:
            return {"stop": str(error)}
    return {**record, "seconds": time.perf_counter() - start}


def compute_sent(sent: bytes, code: str, setting: Setting, options: dict[str, Any]) -> dict:
    """`compute` in another process, perhaps on another machine, which must run the same code."""
    if code != code_digest():
        return {
            "stop": f"a worker on {socket.gethostname()} has another version of icltheory, or "
            f"its code was edited meanwhile; install the same everywhere, and start again."
        }
    try:
        function = _unpack(sent)
    except Exception as error:
        return {
            "stop": f"a worker cannot load the function ({type(error).__name__}: {error}); define "
            f"it in a module that the workers can import, or install cloudpickle (it comes with "
            f"icltheory[distributed]), or pass executor='serial'."
        }
    return compute(function, setting, options)


@cache
def _unpack(sent: bytes) -> Callable[..., Any]:
    return pickle.loads(sent)


def pack(function: Callable[..., Any]) -> bytes:
    """A function as bytes: by name if a worker can import it, else by value, with cloudpickle."""
    try:
        from cloudpickle import dumps
    except ImportError:
        dumps = pickle.dumps
    try:
        return dumps(function)
    except Exception as error:
        raise InvalidInput(
            f"the function cannot be sent to worker processes ({error}); define it at the top of a "
            f"module, or install cloudpickle (it comes with icltheory[distributed]), or pass "
            f"executor='serial'."
        ) from error


def fingerprint(function: Callable[..., Any]) -> dict[str, str]:
    """Name and digest of a function: its source, and what it has bound, in `partial` or a closure."""
    bound: list[Any] = []
    while isinstance(function, partial):
        bound.append([_described(function.args), _described(function.keywords)])
        function = function.func
    bound.extend(
        _described(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()
    )
    named = function if hasattr(function, "__qualname__") else type(function)
    if named is not function:
        bound.append(_described(function))
    text = json.dumps([_source(named), bound], sort_keys=True)
    return {
        "function": f"{named.__module__}.{named.__qualname__}",
        "source": hashlib.sha256(text.encode()).hexdigest(),
    }


def _source(function: Any) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt, or built in
        code = getattr(function, "__code__", None)
        return marshal.dumps(code).hex() if code is not None else ""


def _described(value: Any) -> Any:
    """What identifies a bound value in another process: plain data, or its text without addresses."""
    value = checks.plain(value)
    if isinstance(value, (list, tuple)):
        return [_described(entry) for entry in value]
    if isinstance(value, dict):
        return {str(name): _described(entry) for name, entry in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return _ADDRESS.sub("", repr(value))
