"""The files of the log: numbered segments of fixed size, allocated before they are written.

Writing into allocated space needs no metadata update at each sync (0.11 ms instead of 0.17 ms), so an open segment
ends in zeros; a closed one is cut to its length. Only the last segment may end in zeros or in half a line: that is
what a crash leaves, and since nobody was told that half a line is durable, it is dropped on opening.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from remit.audit import record

_NAME = re.compile(r"([0-9]{8})\.log")
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """The end of the log: where the next line goes, and what it continues. `seq` is that of the last line."""

    segment: int
    offset: int
    seq: int
    hash: str


EMPTY = Position(segment=0, offset=0, seq=0, hash=record.GENESIS)


def path(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}.log"


def numbers(directory: Path) -> list[int]:
    """The numbers of the segments in a directory, ascending."""
    found = (_NAME.fullmatch(file.name) for file in directory.iterdir())
    return sorted(int(match[1]) for match in found if match)


def lines(file: Path, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """(offset, line without newline) of every whole line from `offset` on; stops at zeros or at half a line."""
    with file.open("rb") as stream:
        stream.seek(offset)
        rest = b""
        while chunk := stream.read(_CHUNK):
            parts = (rest + chunk).split(b"\n")
            rest = parts.pop()
            for part in parts:
                if part.startswith(b"\0"):
                    return
                yield offset, part
                offset += len(part) + 1
            if rest.startswith(b"\0"):
                return


def end(directory: Path) -> Position:
    """Where the log ends: after the last whole line of the last segment. The lines before it are not verified here."""
    for number in reversed(numbers(directory)):
        last: tuple[int, bytes] | None = None
        for last in lines(path(directory, number)):  # noqa: B007
            pass
        if last is not None:
            offset, text = last
            return Position(
                segment=number, offset=offset + len(text) + 1, seq=record.seq_of(text), hash=record.digest(text)
            )
    return EMPTY


class Writer:
    """Appends bytes at a position, durably. One writer a directory (the journal holds the lock)."""

    def __init__(self, directory: Path, segment_bytes: int, at: Position) -> None:
        """Open (or begin) the segment of `at`, dropping what stands behind it. Raises `OSError`."""
        self._directory = directory
        self._segment_bytes = segment_bytes
        self.segment = max(at.segment, 1)
        self.offset = at.offset
        self._descriptor = self._open(self.segment, self.offset)

    def room(self, size: int) -> bool:
        return self.offset == 0 or self.offset + size <= self._segment_bytes

    def rotate(self) -> None:
        """Cut the current segment to its length and begin the next."""
        os.ftruncate(self._descriptor, self.offset)
        os.fsync(self._descriptor)
        os.close(self._descriptor)
        self.segment, self.offset = self.segment + 1, 0
        self._descriptor = self._open(self.segment, 0)

    def write(self, data: bytes) -> None:
        """Write and sync. Raises `OSError`; then nothing of `data` counts as written."""
        view = memoryview(data)
        at = self.offset
        while view:
            done = os.pwrite(self._descriptor, view, at)
            view, at = view[done:], at + done
        os.fdatasync(self._descriptor)
        self.offset = at

    def close(self) -> None:
        """Cut to length and close."""
        try:
            os.ftruncate(self._descriptor, self.offset)
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def abandon(self) -> None:
        """Close without touching the file: the disk is not to be trusted right now."""
        os.close(self._descriptor)

    def _open(self, number: int, offset: int) -> int:
        descriptor = os.open(path(self._directory, number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.ftruncate(descriptor, offset)
            os.posix_fallocate(descriptor, 0, max(self._segment_bytes, offset + 1))
            os.fsync(descriptor)
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError:
            os.close(descriptor)
            raise
        return descriptor
