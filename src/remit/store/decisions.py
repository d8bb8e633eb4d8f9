"""Decisions that an Open Policy Agent uploaded, in two files of bounded size: the older goes when the newer is full.

They are what OPA says of itself, not an audit log: nobody signs them and nothing depends on them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from remit.control.ports_decisions import Decisions
from remit.core.errors import Unavailable

FILE_BYTES = 16 << 20


class DecisionFiles:
    """In `file` and `file`.1, mode 0600. Used from one event loop; an upload is at most a few megabytes."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._older = file.with_name(f"{file.name}.1")

    def add(self, events: Sequence[Mapping[str, Any]]) -> None:
        data = b"".join(json.dumps(event).encode() + b"\n" for event in events)
        try:
            if self._file.exists() and self._file.stat().st_size + len(data) > FILE_BYTES:
                self._file.replace(self._older)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(self._file, flags, 0o600), "ab") as stream:
                stream.write(data)
        except OSError as error:
            raise Unavailable(f"decisions cannot be kept: {error.strerror}", hint="remit doctor") from error

    def latest(self, limit: int) -> Sequence[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = []
        for file in (self._older, self._file):
            try:
                lines = file.read_bytes().split(b"\n")
            except FileNotFoundError:
                continue
            except OSError as error:
                raise Unavailable(f"decisions cannot be read: {error.strerror}", hint="remit doctor") from error
            for line in lines[-limit - 1 :]:
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue  # the end of the file, or what a crash left
        return found[-limit:]


_: type[Decisions] = DecisionFiles
