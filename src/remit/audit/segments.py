"""The files of the log: numbered segments of fixed size, allocated before they are written.

Writing into allocated space needs little metadata at each sync, so an open segment ends in zeros; a closed one is cut
to its length. No record holds a zero byte, so the first one is the end. What a crash leaves behind the last whole line
of the last segment was never acknowledged (`recover` checks that it can be no more than one write).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from remit.audit import record
from remit.core.errors import Unavailable

MAX_WRITE = 1 << 20
"""Most bytes that are written before a sync."""
HEADER_KIND = "segment"
"""Kind of the record that begins every segment; its `prev` ties the segment to the one before."""
_NAME = re.compile(r"([0-9]{8})\.log")
_CHUNK = 4 << 20


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


def header(number: int) -> dict[str, object]:
    """The fields of the record that begins segment `number`."""
    return {"segment": number, "format": "remit-audit-1"}


def numbers(directory: Path) -> list[int]:
    """The numbers of the segments in a directory, ascending."""
    found = (_NAME.fullmatch(file.name) for file in directory.iterdir())
    return sorted(int(match[1]) for match in found if match)


def blocks(file: Path, offset: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """(offset, whole lines without newline) from `offset` on, a few megabytes at a time, up to the first zero byte."""
    with file.open("rb") as stream:
        stream.seek(offset)
        rest, ended = b"", False
        while not ended and (chunk := stream.read(_CHUNK)):
            zero = chunk.find(b"\0")
            if zero >= 0:
                chunk, ended = chunk[:zero], True
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            if lines:
                yield offset, lines
                offset += sum(map(len, lines)) + len(lines)


def tail(file: Path, end: int) -> tuple[bytes, int]:
    """(bytes from `end`, after the last whole line, to the first zero; offset behind the last non-zero byte)."""
    with file.open("rb") as stream:
        stream.seek(end)
        half, last, at, ended = b"", end, end, False
        while chunk := stream.read(_CHUNK):
            if not ended:
                before, zero, _ = chunk.partition(b"\0")
                half, ended = half + before, bool(zero)
            used = len(chunk.rstrip(b"\0"))
            last = at + used if used else last
            at += len(chunk)
    return half, last


def recover(directory: Path, acknowledged: tuple[int, str], begins: int) -> tuple[Position, int]:
    """Where the log goes on, and up to which offset a crash left unacknowledged bytes behind that.

    `acknowledged`: (seq, hash) that was durable at some time; `begins`: the first segment there has to be. Raises
    `Unavailable` where more is wrong than a crash can leave: nothing may be written behind a log that was tampered
    with, or the damage would look like ours.
    """
    present = numbers(directory)
    if not present and begins == 1:
        return EMPTY, 0
    if not present or present[0] > begins or present != list(range(present[0], present[0] + len(present))):
        raise _damaged(directory, "a segment is missing")
    at = _end(directory, present[-1], acknowledged)
    used = tail(path(directory, present[-1]), at.offset)[1]
    if at.offset == 0 and len(present) > 1:
        # A rotation that did not come to its end: nothing in the new segment was acknowledged.
        if used > MAX_WRITE:
            raise _damaged(directory, f"segment {present[-1]} does not begin with its header")
        path(directory, present[-1]).unlink()
        return recover(directory, acknowledged, begins)
    if used - at.offset > MAX_WRITE:
        raise _damaged(directory, f"segment {at.segment} is altered at byte {at.offset}")
    if at.seq < acknowledged[0]:
        raise _damaged(directory, f"record {acknowledged[0]} was durable and is gone; the log ends at record {at.seq}")
    return at, used


def _end(directory: Path, number: int, acknowledged: tuple[int, str]) -> Position:
    """After the last line of a segment that continues the one before it."""
    seq, prev, end = 0, b"", 0
    for offset, lines in blocks(path(directory, number)):
        end = offset
        for text in lines:
            if not seq:
                claimed = record.seq_of(text)
                if claimed is None or json.loads(text).get("kind") != HEADER_KIND:
                    return EMPTY
                seq = claimed - 1
            elif not text.endswith(record.ending(prev)):
                return Position(segment=number, offset=end, seq=seq, hash=prev.decode())
            seq, end = seq + 1, end + len(text) + 1
            prev = record.digest(text).encode()
            if seq == acknowledged[0] and prev.decode() != acknowledged[1]:
                raise _damaged(directory, f"record {seq} is not the one that was written")
    return Position(segment=number, offset=end, seq=seq, hash=prev.decode()) if seq else EMPTY


def _damaged(directory: Path, detail: str) -> Unavailable:
    hint = "`remit audit verify` locates it; move the directory aside to begin a new log"
    return Unavailable(f"the audit log in {directory} is damaged: {detail}", hint=hint)


class Segment:
    """One segment, open for writing. Every method may block, and raises `OSError`."""

    def __init__(self, directory: Path, number: int, size: int, offset: int = 0) -> None:
        """Open (offset 0: begin) segment `number`, with `size` bytes allocated. `Segment.offset`: where lines go."""
        self.number = number
        self.offset = offset
        self._file = path(directory, number)
        self._dirty = offset
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self._file, flags | (0 if offset else os.O_CREAT | os.O_TRUNC), 0o640)
        try:
            os.posix_fallocate(self._descriptor, 0, max(size, offset))
            os.fsync(self._descriptor)
            sync_directory(directory)
        except OSError:
            self.abandon(remove=not offset)
            raise

    @property
    def descriptor(self) -> int:
        return self._descriptor

    def put(self, data: bytes) -> None:
        """Hand `data` to the kernel, which does not make it durable: sync `descriptor`, then say so to `keep`. After an
        `OSError`, here or from the sync, nothing of it counts, and `clean` must succeed before the next one.
        """
        if os.fstat(self._descriptor).st_nlink == 0:
            raise OSError(errno.ENOENT, "the open segment was removed")
        self._dirty = max(self._dirty, self.offset + len(data))
        self._put(data, self.offset)

    def keep(self, size: int) -> None:
        """The last `size` bytes that were `put` are durable."""
        self.offset += size
        self._dirty = self.offset

    def write(self, data: bytes) -> None:
        """`put`, durable on return."""
        self.put(data)
        os.fdatasync(self._descriptor)
        self.keep(len(data))

    def clean(self, behind: int = 0) -> None:
        """Make zeros of what failed writes (or a crash, up to offset `behind`) left; proves that writes work."""
        until = max(self._dirty, behind, self.offset + 1)
        self._put(bytes(until - self.offset), self.offset)
        os.fdatasync(self._descriptor)
        self._dirty = self.offset

    def finish(self) -> None:
        """Cut to length and close."""
        try:
            os.ftruncate(self._descriptor, self.offset)
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def abandon(self, *, remove: bool) -> None:
        """Close; `remove`: it never held an acknowledged record."""
        os.close(self._descriptor)
        if remove:
            with contextlib.suppress(OSError):
                self._file.unlink()

    def _put(self, data: bytes, at: int) -> None:
        view = memoryview(data)
        while view:
            done = os.pwrite(self._descriptor, view, at)
            view, at = view[done:], at + done


def sync_directory(directory: Path) -> None:
    """Make durable which files there are."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
