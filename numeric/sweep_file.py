"""The file of a sweep: JSON lines, a header and then one line a point, written as they finish.

Every line is on the disk before the next point is taken up, so a crash can tear the last line only;
it is recognised, cut off, and computed again. Exported: `SweepFile`, `read_sweep_file`.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from icltheory.errors import InvalidInput

try:
    import fcntl
except ImportError:  # Windows: two sweeps into one file are not noticed there
    fcntl = None

_FORMAT = "icltheory_sweep"
_START = f'{{"{_FORMAT}": '.encode()
_REMEDY = "give another path, or resume=False to start again in this file"
# What must be the same for a sweep to go on, with the words for it.
_PARTS = {
    "function": "function",
    "source": "version of the function",
    "settings": "grid",
    "seed": "seed",
    "code": "version of icltheory",
}


class SweepFile:
    """An open file of a sweep, of this process alone; `records` are those found in it, by index.

    header: everything in `_PARTS`. With `resume` an existing sweep goes on if its header is the same;
    else it is overwritten.

    Errors: `InvalidInput` if the file cannot be written, is in use, is no sweep, is damaged before
    its last line, or holds another sweep; it is then left as it was. A file that is no sweep is
    refused even where `resume` is false.
    """

    def __init__(self, path: str | os.PathLike[str], header: dict[str, Any], resume: bool) -> None:
        self.path = Path(path)
        try:
            self._file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        except OSError as error:
            raise InvalidInput(
                f"{self.path} cannot be written ({error.strerror}); give a place in an existing "
                f"folder that you may write to."
            ) from error
        try:
            self._lock()
            self.records = self._go_on(json.loads(json.dumps(header)), resume)
            if not self._file.seek(0, os.SEEK_END):
                self._write({_FORMAT: 1, **header})
        except BaseException:
            self.close()
            raise

    def append(self, record: dict[str, Any]) -> None:
        """Write the record of one point, and wait until it is on the disk."""
        self._write(record)

    def close(self) -> None:
        """Close the file; another process may then go on."""
        self._file.close()

    def _lock(self) -> None:
        if fcntl is not None:
            try:
                # Of the process, not of the open file: a forked worker that outlives us has none.
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise InvalidInput(
                    f"{self.path} is in use by another sweep; wait for it, or give another path."
                ) from error

    def _go_on(self, header: dict[str, Any], resume: bool) -> dict[int, dict[str, Any]]:
        content = self._file.read()
        if _line({_FORMAT: 1, **header}).startswith(content.rstrip(b"\n")) or (
            not resume and content.startswith(_START)
        ):
            self._file.truncate(0)  # new, torn in its first line, or no longer wanted
            return {}
        found, records, length = _parse(content, self.path)
        for part, words in _PARTS.items():
            if found.get(part) != header[part]:
                raise InvalidInput(
                    f"{self.path} holds a sweep with another {words}"
                    f"{_difference(found.get(part), header[part])}; {_REMEDY}."
                )
        self._file.truncate(length)
        return records

    def _write(self, record: dict[str, Any]) -> None:
        try:
            self._file.write(_line(record))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InvalidInput(
                f"{self.path} cannot be written any more ({error.strerror}); make room, and the same "
                f"call goes on."
            ) from error


def read_sweep_file(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """Header and records of a file, finished or not."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error.strerror}).") from error
    return _parse(content, path)[:2]


def _parse(content: bytes, path: Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]], int]:
    """Header, the last record of every point, and the length of what is whole."""
    lines = content.splitlines(keepends=True)
    header = _object(lines[0]) if lines else None
    if header is None or header.get(_FORMAT) != 1 or not isinstance(header.get("settings"), list):
        raise InvalidInput(f"{path} is not the file of a sweep; give another path.")
    records, length = {}, len(lines[0])
    for number, line in enumerate(lines[1:], 2):
        record = _object(line) if line.endswith(b"\n") else None
        if record is None or not _sound(record, len(header["settings"])):
            if number == len(lines):
                break  # torn by a crash
            raise InvalidInput(
                f"line {number} of {path} is damaged; remove the line, or {_REMEDY}."
            )
        if "result" in record:
            record["result"] = _decode(record["result"])
        records[record["index"]] = record
        length += len(line)
    return header, records, length


def _sound(record: dict[str, Any], points: int) -> bool:
    index = record.get("index")
    whole = isinstance(index, int) and 0 <= index < points
    return whole and (
        isinstance(record.get("result"), dict) or isinstance(record.get("error"), str)
    )


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(_encode(record), allow_nan=False).encode() + b"\n"


def _encode(value: Any) -> Any:
    """Strict JSON: NaN and infinities are the text "nan", "inf", "-inf"."""
    if isinstance(value, dict):
        return {name: _encode(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(entry) for entry in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _decode(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_decode(entry) for entry in value]
    return float(value) if value in ("nan", "inf", "-inf") else value


def _difference(old: Any, new: Any) -> str:
    if isinstance(old, list) and isinstance(new, list):
        return f" ({len(old)} points there, {len(new)} here)" if len(old) != len(new) else ""
    if isinstance(old, (str, int)) and isinstance(new, (str, int)) and len(f"{old}{new}") < 100:
        return f" ({old} there, {new} here)"
    return ""
