"""What the journal does to the files: write a batch, begin a segment, mend what a refusing disk left.

Every method but `keep` may block and raises `OSError`; `put` only while the kernel has no room for what is written.
The journal sees to it that only one thread at a time is in here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from remit.audit import record, retire, segments
from remit.audit.segments import Position, Segment


class Writer:
    """Owns the open segment of `directory`, and the next one where it had to be made early."""

    def __init__(
        self, directory: Path, segment_bytes: int, own: Callable[[str, Mapping[str, Any]], bytes], key: str
    ) -> None:
        """`own(kind, fields)` makes the body of a record of the journal's own; `key` signs its heads."""
        self._key = key
        self._directory, self._segment_bytes, self._own = directory, segment_bytes, own
        self._segment: Segment | None = None
        self._spare: Segment | None = None
        self._end = segments.EMPTY

    def prepare(self, acknowledged: tuple[int, str]) -> Position:
        """Open the last segment behind its last good line, or begin the first. `Unavailable`: the log is damaged."""
        first = retire.begins(self._directory, self._key)
        at, used = segments.recover(self._directory, acknowledged, first)
        retire.clear(self._directory, first)
        torn = _kept(self._directory, at, used)
        segment = Segment(self._directory, max(at.segment, 1), self._segment_bytes, at.offset)
        try:
            segment.clean(behind=used)
            middles = [] if at.offset else [self._own(segments.HEADER_KIND, segments.header(segment.number))]
            if torn:
                detail = f"{torn} bytes that were never acknowledged stood behind record {at.seq}"
                middles.append(self._own("boundary", {"detail": detail}))
            seq, prev = at.seq, at.hash
            for middle in middles:
                seq += 1
                text = record.line(seq, middle, prev)
                segment.write(text + b"\n")
                prev = record.digest(text)
        except OSError:
            segment.abandon(remove=not at.offset)
            raise
        self._segment = segment
        self._end = Position(segment=segment.number, offset=segment.offset, seq=seq, hash=prev)
        return self._end

    def write(self, data: bytes, end: Position, *, begins: bool) -> None:
        """Lines up to `end`, durable on return; `begins`: in a new segment. On an error nothing of them counts."""
        assert self._segment is not None
        if begins:
            new = self._spare = self._spare or self._begun(end.segment)
            new.write(data)
            old, self._segment, self._spare = self._segment, new, None
            with contextlib.suppress(OSError):  # the zeros at its end are harmless
                old.finish()
        else:
            self._segment.write(data)
        self._end = end

    def put(self, data: bytes) -> int:
        """Hand lines to the kernel, which has yet to be asked for their durability; the descriptor to sync."""
        assert self._segment is not None
        self._segment.put(data)
        return self._segment.descriptor

    def keep(self, size: int, end: Position) -> None:
        """The `size` bytes that were `put` are durable: the log ends at `end`."""
        assert self._segment is not None
        self._segment.keep(size)
        self._end = end

    def heal(self, acknowledged: tuple[int, str]) -> Position:
        """Remove what failed writes left; succeeds only on a disk that takes writes. Where the log goes on."""
        if self._segment is None:
            return self.prepare(acknowledged)
        self._segment.clean()
        if self._spare is not None:
            self._spare.clean()
        elif self._segment.offset + segments.MAX_WRITE > self._segment_bytes:
            self._spare = self._begun(self._segment.number + 1)
        return self._end

    def close(self) -> None:
        """Cut the segment to its length."""
        with contextlib.suppress(OSError):
            if self._spare is not None:
                self._spare.abandon(remove=True)
            if self._segment is not None:
                self._segment.finish()

    def _begun(self, number: int) -> Segment:
        return Segment(self._directory, number, self._segment_bytes)


def _kept(directory: Path, at: Position, used: int) -> int:
    """Keep what a crash left behind the log in a file of its own, for whoever wants to see it; its size."""
    if used <= at.offset or not at.segment:
        return 0
    with segments.path(directory, at.segment).open("rb") as stream:
        stream.seek(at.offset)
        left = stream.read(used - at.offset)
    (directory / f"{at.segment:08d}-{at.offset}.torn").write_bytes(left)
    return len(left)
