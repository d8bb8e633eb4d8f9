"""Decisions that an Open Policy Agent uploaded, in two files of bounded size: the older goes when the newer is full.

They are what OPA says of itself, not an audit log: nobody signs them and nothing depends on them.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remit.control.ports_decisions import Decisions
from remit.core.errors import Unavailable

FILE_BYTES = 16 << 20


class DecisionFiles:
    """In `file` and `file`.1, mode 0600. For threads: to read both takes longer than a loop may wait."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._older = file.with_name(f"{file.name}.1")
        self._lock = threading.Lock()

    def add(self, events: Sequence[Mapping[str, Any]]) -> None:
        data = b"".join(json.dumps(event).encode() + b"\n" for event in events)
        try:
            with self._lock:
                self._append(data)
        except OSError as error:
            raise Unavailable(f"decisions cannot be kept: {error.strerror}", hint="remit doctor") from error

    def _append(self, data: bytes) -> None:
        if self._file.exists() and self._file.stat().st_size + len(data) > FILE_BYTES:
            self._file.replace(self._older)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(self._file, flags, 0o600), "ab") as stream:
            stream.write(data)

    def latest(self, limit: int) -> Sequence[Mapping[str, Any]]:
        try:
            with self._lock:
                newer, older = _latest(self._file, limit), _latest(self._older, limit)
        except OSError as error:
            raise Unavailable(f"decisions cannot be read: {error.strerror}", hint="remit doctor") from error
        return [*older, *newer][-limit:]


def _latest(file: Path, limit: int) -> list[Mapping[str, Any]]:
    try:
        lines = file.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found: list[Mapping[str, Any]] = []
    for line in lines[-limit - 1 :]:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # the end of the file, or what a crash left
    return found


_: type[Decisions] = DecisionFiles
