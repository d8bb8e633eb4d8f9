"""The file that Envoy writes its access log to, read line by line, across restarts and rotations of either side.

Envoy only appends, so the file would fill the disk: once large, it is renamed and Envoy told to open it anew, while
what it still writes to the old one is read to its end. Where reading stands is kept in a file of its own, by inode.
Guaranteed: a line that was written is handed over at least once, unless the machine or Envoy died before it was on
disk. Not guaranteed: once only (a crash between handing over and `save` repeats lines).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

READ_BYTES = 256 << 10
LINE_MAX = 128 << 10
"""Twice what Envoy takes as a request head; a longer line is dropped."""
ROTATE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    inode: int
    offset: int


class Spool:
    """One call at a time. `read` takes what is in memory already; `save` may wait for the disk."""

    def __init__(self, path: Path, mark_path: Path) -> None:
        self._path = path
        self._old = path.with_name(path.name + ".old")
        self._mark_path = mark_path
        self._descriptor = -1
        self._inode = 0
        self._offset = 0
        self._partial = b""
        self._saved: _Mark | None = None
        self._resume(self._load())

    def read(self) -> list[bytes]:
        """The next whole lines, without their ends; empty where there is nothing new."""
        if self._descriptor < 0 and not self._open(self._path, 0):
            return []
        if os.fstat(self._descriptor).st_size < self._offset:
            log.warning("%s was cut; reading it from its start", self._path)
            self._offset, self._partial = 0, b""
        data = os.pread(self._descriptor, READ_BYTES, self._offset)
        if not data:
            self._advance()
            return []
        self._offset += len(data)
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LINE_MAX:
            log.error("a line over %d bytes in %s was dropped", LINE_MAX, self._path)
            self._partial = b""
        return [line for line in lines if line]

    def save(self) -> None:
        """Note that every line that `read` returned is dealt with; on a full disk, the next time."""
        mark = _Mark(inode=self._inode, offset=self._offset - len(self._partial))
        if mark == self._saved:
            return
        temporary = self._mark_path.with_name(f".{self._mark_path.name}.new")
        try:
            temporary.touch(mode=0o600)
            temporary.write_text(json.dumps({"inode": mark.inode, "offset": mark.offset}))
            temporary.replace(self._mark_path)
        except OSError as error:
            log.error("where reading stands in %s was not kept: %s", self._path, error)
            return
        self._saved = mark

    def rotate(self) -> bool:
        """Rename the file where it has grown large; True as long as Envoy must be told to open it anew."""
        if self._descriptor < 0 or self._offset < ROTATE_BYTES:
            return False
        if not self._old.exists():
            with contextlib.suppress(FileNotFoundError):  # removed by somebody else
                self._path.rename(self._old)
        return not self._path.exists()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _advance(self) -> None:
        """At the end of a file that is not the current one any more: go on with the current one."""
        try:
            current = self._path.stat().st_ino
        except FileNotFoundError:
            return  # renamed, not opened anew yet: Envoy still writes to the one that is open here
        if os.fstat(self._descriptor).st_size > self._offset:
            return  # written since it was read; nothing more comes once there is another file
        if current != self._inode and self._open(self._path, 0):
            self._old.unlink(missing_ok=True)

    def _open(self, path: Path, offset: int) -> bool:
        try:
            # Envoy owns the directory: no link of its making is followed, no pipe waited for.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return False
        except OSError as error:
            log.error("%s cannot be read: %s", path, error)
            return False
        self.close()
        self._descriptor, self._inode = descriptor, os.fstat(descriptor).st_ino
        self._offset, self._partial = offset, b""
        return True

    def _resume(self, mark: _Mark | None) -> None:
        for path in (self._old, self._path):
            try:
                inode = path.stat().st_ino
            except FileNotFoundError:
                continue
            if mark is not None and inode == mark.inode:
                self._open(path, mark.offset)
                return
        if self._old.exists():
            self._open(self._old, 0)

    def _load(self) -> _Mark | None:
        try:
            values = json.loads(self._mark_path.read_bytes())
            return _Mark(inode=int(values["inode"]), offset=max(int(values["offset"]), 0))
        except (OSError, ValueError, KeyError, TypeError):
            return None
