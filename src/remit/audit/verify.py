"""Whether the log is what was written: every line continues the one before it, and the end is the end that was signed.

The chain shows any change but one of the tail; the signed heads that the control plane keeps show that (what was
written after the last head, a second's worth, can be cut unseen). A line is hashed as it stands; it is parsed only
where the chain breaks, to say what happened there. A log that is being written can be verified.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from typing import Any

from remit.audit import head as heads_of
from remit.audit import record, retire, segments

TAIL_READS = 3
"""A tail that is being written can look torn; it is read this often before it is believed to be."""


class Kind(StrEnum):
    ALTERED = "altered"
    MISSING = "missing"
    TRUNCATED = "truncated"
    REORDERED = "reordered"
    HEAD_MISMATCH = "head-mismatch"
    KEY_CHANGED = "key-changed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The first thing that is wrong. `line` counts from 1 within the segment, `offset` is where it begins in bytes."""

    kind: Kind
    segment: int
    line: int
    offset: int
    seq: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """`records` are the lines that hold together, up to the problem where there is one; `retired` those that stood
    before them and went on an operator's word."""

    ok: bool
    records: int
    segments: int
    retired: int = 0
    problem: Problem | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Public keys of heads (base64): those that are pinned, and those whose heads were refused."""

    trusted: frozenset[str]
    refused: tuple[str, ...] = ()


def verify(directory: Path, heads: Iterable[dict[str, Any]] = (), keys: Trust | None = None) -> Report:
    """Read the whole log and hold it against `heads`, signed ones that were kept elsewhere. `OSError` passes.

    `keys`: whose heads count; None takes each head at its word (a log without its control plane).
    """
    walking = steps(directory, heads, keys)
    while True:
        try:
            next(walking)
        except StopIteration as done:
            report: Report = done.value
            return report


def steps(
    directory: Path, heads: Iterable[dict[str, Any]] = (), keys: Trust | None = None
) -> Generator[int, None, Report]:
    """`verify`, a few megabytes at a time: yields how many records hold together so far, and returns the report."""
    if keys is not None and keys.refused:
        detail = f"the node signs with key {keys.refused[-1]}, which is not trusted here: its heads were refused"
        return Report(ok=False, records=0, segments=0, problem=_problem(Kind.KEY_CHANGED, 0, 0, 0, 0, detail))
    expected: dict[int, str] = {}
    for signed in heads:
        if keys is not None and signed.get("key") not in keys.trusted:
            detail = f"a kept head (record {signed.get('seq')}) names a key that is not trusted here"
            return Report(ok=False, records=0, segments=0, problem=_problem(Kind.KEY_CHANGED, 0, 0, 0, 0, detail))
        if not heads_of.valid(signed):
            detail = f"a kept head (record {signed.get('seq')}) is not signed by the key that it names"
            return Report(ok=False, records=0, segments=0, problem=_problem(Kind.HEAD_MISMATCH, 0, 0, 0, 0, detail))
        seq, digest = int(signed["seq"]), str(signed["hash"])
        if expected.setdefault(seq, digest) != digest:
            detail = f"two kept heads differ about record {seq}: the log was written anew"
            return Report(ok=False, records=0, segments=0, problem=_problem(Kind.HEAD_MISMATCH, 0, 0, 0, seq, detail))
    present = segments.numbers(directory) if directory.exists() else []
    walk = _Walk(directory, expected)
    problem = yield from walk.all(present)
    retired = walk.retired
    return Report(
        ok=problem is None, records=walk.seq - retired, segments=len(present), problem=problem, retired=retired
    )


class _Walk:
    """Goes through the lines in order: `seq` and `prev` are those of the last good one, `last` is where it stands."""

    def __init__(self, directory: Path, expected: dict[int, str]) -> None:
        self.seq = self.retired = 0
        self._unvouched: tuple[int, int, str] | None = None
        self._directory, self._expected = directory, expected
        self._marks = deque(sorted(expected))
        self._prev = record.GENESIS.encode()
        self._line = 0
        self._last = (1, 1, 0)

    def all(self, present: list[int]) -> Generator[int, None, Problem | None]:
        """Yields how many lines were good, at each block of them; returns the first thing that is wrong."""
        first = present[0] if present else 1
        if first > 1:
            self._begin(first)
        for count, number in enumerate(present, start=first):
            if number != count:
                return self._at(Kind.MISSING, count, 1, 0, f"segment {count} is not there")
            problem = yield from self._segment(number, final=number == present[-1])
            if problem is not None:
                return problem
        if self._unvouched is not None:
            detail = f"no record says that what stood before segment {first} was retired"
            return self._at(Kind.MISSING, 1, 1, 0, detail, seq=1)
        newest = self._marks[-1] if self._marks else 0
        if newest > self.seq:
            segment, line, offset = self._last
            detail = f"the log ends at record {self.seq}, but the head of record {newest} was signed"
            return self._at(Kind.TRUNCATED, segment, line + 1 if self.seq else 1, offset, detail)
        return None

    def _begin(self, number: int) -> None:
        """Behind segments that are not there: believed, until the log itself has not said so at its end."""
        with segments.path(self._directory, number).open("rb") as stream:
            text = stream.read(record.MAX_LINE + 1).partition(b"\n")[0]
        claimed = record.seq_of(text)
        if claimed is None or len(text) < 75:
            return  # the walk finds that
        self.seq = self.retired = claimed - 1
        self._prev = text[-66:-2]
        self._unvouched = (number - 1, self.seq, self._prev.decode("ascii", "replace"))
        while self._marks and self._marks[0] <= self.seq:
            mark = self._marks.popleft()
            if mark == self.seq and self._expected[mark] != self._prev.decode("ascii", "replace"):
                self._prev = b""  # nothing continues that: the walk finds it

    def _vouched(self, lines: list[bytes]) -> None:
        """Where a crash left segments that were to go, the record names a later end than what is not there."""
        assert self._unvouched is not None
        for said in filter(None, map(retire.vouches, lines)):
            if said == self._unvouched or said[0] > self._unvouched[0]:
                self._unvouched = None
                return

    def _segment(self, number: int, *, final: bool) -> Generator[int, None, Problem | None]:
        file, end = segments.path(self._directory, number), 0
        self._line = 0
        for _ in range(TAIL_READS if final else 1):
            for offset, lines in segments.blocks(file, end):
                problem = self._block(lines, number, offset)
                if problem is not None:
                    return problem
                end = offset + sum(map(len, lines)) + len(lines)
                yield self.seq - self.retired
            half, used = segments.tail(file, end)
            if not used and not final:
                return self._at(Kind.TRUNCATED, number, 1, 0, "the segment is empty")
            if used == end or (final and used == end + len(half)):
                return None
        if used == end + len(half):
            return self._at(Kind.TRUNCATED, number, self._line + 1, end, "the segment ends within a record")
        return self._at(Kind.ALTERED, number, self._line + 1, end, "something that is no record stands here")

    def _block(self, lines: list[bytes], number: int, offset: int) -> Problem | None:
        done = 0
        while done < len(lines):
            while self._marks and self._marks[0] <= self.seq:
                self._marks.popleft()
            mark = self._marks[0] if self._marks else 0
            stop = min(len(lines), done + mark - self.seq) if mark else len(lines)
            good = self._run(lines[done:stop]) + done
            if self._unvouched is not None:
                self._vouched(lines[done:good])
            offset += sum(map(len, lines[done:good])) + good - done
            if good < stop:
                return self._diagnosed(lines[good], number, offset)
            done = good
            if self.seq == mark and self._prev.decode() != self._expected[mark]:
                _, line, at = self._last = (number, self._line, offset - len(lines[done - 1]) - 1)
                detail = f"record {mark} is not the one that was signed as the head: the log was written anew"
                return self._at(Kind.HEAD_MISMATCH, number, line, at, detail, seq=mark)
        if lines:
            self._last = (number, self._line, offset - len(lines[-1]) - 1)
        return None

    def _run(self, lines: list[bytes]) -> int:
        """How many of `lines` continue the chain. The hot loop: about a microsecond a line."""
        sha256, prev = hashlib.sha256, self._prev
        good = 0
        for text in lines:
            if text[-66:-2] != prev or not text.endswith(b'"}') or text[-75:-66] != b',"prev":"':
                break
            prev = sha256(text).hexdigest().encode()
            good += 1
        self._prev = prev
        self.seq += good
        self._line += good
        return good

    def _diagnosed(self, text: bytes, number: int, offset: int) -> Problem:
        """What is wrong with a line that does not continue the chain."""
        expected, line = self.seq + 1, self._line + 1
        claimed = record.seq_of(text)
        if claimed is None:
            return self._at(Kind.ALTERED, number, line, offset, "this line is no record")
        if claimed < expected:
            detail = f"this line claims to be record {claimed}, which stands before it"
            return self._at(Kind.REORDERED, number, line, offset, detail)
        if claimed > expected:
            if any(record.seq_of(other) == expected for other in self._behind(number, offset, len(text))):
                detail = f"record {claimed} stands before record {expected}"
                return self._at(Kind.REORDERED, number, line, offset, detail)
            detail = f"records {expected} to {claimed - 1} are not there"
            if line == 1 and number > 1:
                segment, before, at = self._last
                return self._at(Kind.TRUNCATED, segment, before + 1, at, f"the segment lost its end: {detail}")
            return self._at(Kind.MISSING, number, line, offset, detail)
        following = next(self._behind(number, offset, len(text)), b"")
        digest = record.digest(text)
        genuine = following.endswith(record.ending(digest.encode())) or self._expected.get(claimed) == digest
        if genuine and self.seq:
            segment, before, at = self._before(number, offset)
            return self._at(Kind.ALTERED, segment, before, at, "the next record keeps another hash of it", seq=self.seq)
        return self._at(Kind.ALTERED, number, line, offset, "its link to the record before it was changed")

    def _before(self, number: int, offset: int) -> tuple[int, int, int]:
        """Where the line before the one at `offset` stands."""
        if self._line == 0:
            return self._last
        with segments.path(self._directory, number).open("rb") as stream:
            stream.seek(max(0, offset - record.MAX_LINE - 1))
            back = stream.read(offset - stream.tell())
        return number, self._line, offset - len(back.removesuffix(b"\n").rpartition(b"\n")[2]) - 1

    def _behind(self, number: int, offset: int, size: int) -> chain[bytes]:
        """The lines behind the one at `offset`, into the next segment."""
        here = segments.blocks(segments.path(self._directory, number), offset + size + 1)
        after = segments.path(self._directory, number + 1)
        there = segments.blocks(after) if after.exists() else iter(())
        return chain.from_iterable(lines for _, lines in chain(here, there))

    def _at(self, kind: Kind, segment: int, line: int, offset: int, detail: str, seq: int | None = None) -> Problem:
        return _problem(kind, segment, line, offset, self.seq + 1 if seq is None else seq, detail)


def _problem(kind: Kind, segment: int, line: int, offset: int, seq: int, detail: str) -> Problem:
    return Problem(kind=kind, segment=segment, line=line, offset=offset, seq=seq, detail=detail)
