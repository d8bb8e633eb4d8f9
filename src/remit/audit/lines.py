"""Lines of the log as the index sees them: what can be asked of one, and how it is listed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

from remit.audit import record, replay, segments
from remit.audit.postings import Term
from remit.control.ports_audit import AUDIT_FILTERS
from remit.core.task import TASK_ID

FIELDS = (
    *("id", "time", "task", "role", "decision", "reason", "capability", "credential", "method", "scheme", "host"),
    *("port", "path", "status", "bytes_out", "bytes_in", "duration_ms", "prev", "hash"),
)
"""What every listed record has, in this order; others follow."""
UNLISTED = frozenset({"completion", segments.HEADER_KIND, replay.CHECKPOINT, "reservation"})
"""Kinds that are only listed when asked for: a completion is part of its decision."""
ANY: Term = ("", "any")
LISTED: Term = ("", "listed")
"""Values that all records, and all listed ones, have."""
VALUE_MAX = 253
"""Longer values are found by none; nothing that can be asked for is longer."""
CHANGED = "the log no longer says here what it said: remit audit verify"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """`time`: microseconds since 1970. `completes`: the id of a decision."""

    seq: int
    id: str
    time: int
    kind: str
    terms: list[Term]
    completes: str | None
    above: tuple[str, ...] = ()
    """Tasks above the one that it is of."""
    task: str = ""


def read(raw: bytes) -> Entry | None:
    """None where the line is no record."""
    try:
        values = json.loads(raw)
        seq, identity, kind = values["seq"], values["id"], values["kind"]
        if type(seq) is not int or not 0 < seq < 1 << 53 or not isinstance(identity, str) or not isinstance(kind, str):
            return None
        terms = [
            (name, value if value.isascii() else _storable(value))
            for name in AUDIT_FILTERS
            if isinstance(value := values.get(name), str) and len(value) <= VALUE_MAX
        ]
        terms.append(ANY)
        if kind not in UNLISTED:
            terms.append(LISTED)
        completes = values.get("record") if kind == "completion" else None
        return Entry(
            seq=seq,
            id=identity if identity.isascii() else _storable(identity),
            time=_time(values["time"]),
            kind=kind,
            terms=terms,
            completes=_storable(completes) if isinstance(completes, str) else None,
            **_kin(kind, values),
        )
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def _kin(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The task of a record and those above it, where the node says so: in a decision, or when it was created."""
    if "parent" not in values or not (kind == "decision" or values.get("action") == "task.create"):
        return {}
    chain = values.get("chain")
    task, *above = [values.get("task"), values["parent"]] + (chain if isinstance(chain, list) else [])
    if not all(isinstance(one, str) and TASK_ID.fullmatch(one) for one in (task, *above)):
        return {}
    return {"task": task, "above": tuple(above)}


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware time."""
    return (moment - _EPOCH) // _MICROSECOND


def stamp(time: int) -> str:
    return record.stamp(_EPOCH + time * _MICROSECOND)


def listed(line: bytes, completing: Callable[[str], bytes | None]) -> dict[str, Any]:
    """A record joined with its completion (asked for by its id), whose fields never replace the record's own."""
    values: dict[str, Any] = json.loads(line)
    values["hash"] = record.digest(line)
    completion = completing(_storable(values["id"])) if values["kind"] == "decision" else None
    if completion is not None:
        done: dict[str, Any] = json.loads(completion)
        done["completed"] = done["time"]
        for name, value in done.items():
            if name not in record.OWN and name != "record":
                values.setdefault(name, value)
    return _ordered(values)


def changed(seq: int) -> dict[str, Any]:
    """Stands for a record that is not where it was."""
    return _ordered({"seq": seq, "kind": "changed", "detail": CHANGED})


class Lines:
    """Reads lines by their place (`segment << 40 | offset`); segments stay open until `close`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[int, int] = {}

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()

    def at(self, place: int, seq: int) -> bytes | None:
        """Record `seq`, or None where it is not there any more."""
        segment, offset = place >> 40, place & ((1 << 40) - 1)
        try:
            if segment not in self._open:
                self._open[segment] = os.open(segments.path(self._directory, segment), os.O_RDONLY | os.O_CLOEXEC)
            found, newline, _ = os.pread(self._open[segment], 1024, offset).partition(b"\n")
            if not newline:
                found, newline, _ = os.pread(self._open[segment], record.MAX_LINE + 1, offset).partition(b"\n")
        except OSError:
            return None
        return found if newline and found.startswith(b'{"seq":%d,' % seq) else None


def _time(text: str) -> int:
    """`micros` of a record's own stamp."""
    if len(text) != 27 or text[19] != "." or text[26] != "Z":
        raise ValueError(text)
    return _second(text[:19]) + int(text[20:26])


@lru_cache(maxsize=64)
def _second(text: str) -> int:
    """Most records share their second with the one before."""
    return micros(datetime.fromisoformat(text + "Z"))


def _storable(text: str) -> str:
    """A lone surrogate, which SQLite cannot store, becomes its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def _ordered(values: Mapping[str, Any]) -> dict[str, Any]:
    first = {name: values.get(name) for name in FIELDS}
    return {**first, **{name: value for name, value in values.items() if name not in first}}
