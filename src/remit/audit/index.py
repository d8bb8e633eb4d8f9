"""The query index over the log: a copy that can be thrown away and built again.

It follows the segments by position and keeps of each record where its line stands, when it was, and (`audit.postings`)
what can be asked of it; the text of an answer is read from the log itself, which is the truth: `hash` and `prev` are
those of the decision's own line. A block of records is written when it is full; the newest, open one is kept in memory
and read again after a start. Lines that are no records, or stand out of order, are counted and passed over: `verify` is
who judges them.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from remit.audit import lines, postings, record, segments
from remit.audit.blocks import Blocks, Mark
from remit.audit.lines import Lines
from remit.audit.postings import BLOCK, Block
from remit.control.ports_audit import AUDIT_FILTERS, TREE
from remit.core.errors import Conflict, Invalid, NotFound

FIELDS = lines.FIELDS
MAX_LIMIT = 1000
MAX_JUMP = 1 << 20
"""Sequence numbers that may be missing within a segment: more lines than one holds. A lie about them hides nothing."""


class Index:
    """Thread-safe; every call may block on the disk, so call it from a thread. `Unavailable`: the disk refuses."""

    def __init__(self, file: Path, directory: Path) -> None:
        """Over the log in `directory`. Opens `file`, or makes it anew where it is of another version or no database."""
        self._lock = threading.Lock()
        self._directory = directory
        self._blocks = Blocks(file)
        self._at, self._tail, self._open = Mark(), b"", Block(number=0)
        self._first = self._floor = 1
        self._begin(self._blocks.mark())

    def close(self) -> None:
        with self._lock:
            self._blocks.close()

    def ingest(self) -> int:
        """Take in all that was written since the last time; how many lines that were. The log may be written on."""
        taken = 0
        while found := self.take():
            taken += found
        return taken

    def take(self) -> int:
        """Take in some of what was written since the last time; how many lines, 0 where there are no more."""
        with self._lock:
            if not self._directory.exists():
                return 0
            present = segments.numbers(self._directory)
            if not self._same(present):
                self._blocks.clear()
                self._begin(Mark())
            elif not self._stands():
                self._begin(self._blocks.mark())
            self._retire(present)
            for number in present:
                if number < self._at.segment:
                    continue
                if number > self._at.segment:
                    self._at = Mark(segment=number, seq=self._at.seq, unreadable=self._at.unreadable)
                for _, found in segments.blocks(segments.path(self._directory, number), self._at.offset):
                    return self._take(found)
            return 0

    def query(
        self,
        *,
        filters: Mapping[str, str] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        before: int | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        """Records, newest first (oldest first where `after`, a sequence number, is given). Filters are equalities, but
        for `tree`: records of that task and of all below it.

        `since` (inclusive) and `until` (exclusive) are aware times. `Invalid`: there is no such filter.
        """
        most = max(1, min(limit, MAX_LIMIT))
        found: list[dict[str, Any]] = []
        early = None if since is None else lines.micros(since)
        late = None if until is None else lines.micros(until)
        with self._lock, Lines(self._directory) as read:
            for block, bits in self._matching(filters or {}, early, late, before, after):
                order = postings.upwards if after is not None else postings.downwards
                for at in order(bits):
                    found.append(self._listed(read, block, at))
                    if len(found) == most:
                        return found
        return found

    def get(self, prefix: str) -> dict[str, Any]:
        """The one record whose id begins with `prefix` (with or without `r-`). `NotFound`, or `Conflict`."""
        start = prefix if prefix.startswith("r-") else f"r-{prefix}"
        found: list[dict[str, Any]] = []
        usable = prefix.isascii() and prefix.isprintable() and len(start) > 2
        with self._lock, Lines(self._directory) as read:
            for block in self._blocks.holding(start) if usable else ():
                found += self._beginning(read, self._blocks.block(block), start)
                if len(found) > 1:
                    break
            if usable and len(found) < 2:
                found += self._beginning(read, self._open, start)
        exact = [one for one in found if one["id"] == start]
        if not found:
            raise NotFound(f"there is no record {prefix[:64]!a}", hint="remit audit list")
        if len(found) > 1 and not exact:
            raise Conflict(f"several records begin with {prefix[:64]!a}", hint="give more of the id")
        return (exact or found)[0]

    def last(self) -> int:
        """The sequence number of the newest record taken in; 0 where there is none."""
        return self._at.seq

    def count(self) -> int:
        """How many records the log has, as far as it was taken in; those that were retired not among them."""
        return max(0, self._at.seq - self._floor + 1) if self._at.seq else 0

    def span(self, since: datetime | None, until: datetime | None) -> tuple[int, int]:
        """Sequence numbers of the first record at or after `since` and the last before `until`, of any kind; what lies
        between them may be of other times where the clock was set. (1, 0) where there is none."""
        found = []
        early = None if since is None else lines.micros(since)
        late = None if until is None else lines.micros(until)
        with self._lock:
            for after in (0, None):
                block, bits = next(self._matching({}, early, late, None, after, listed=False), (self._open, 0))
                at = next(postings.upwards(bits) if after == 0 else postings.downwards(bits), None)
                if at is None:
                    return 1, 0
                found.append(block.number * BLOCK + at)
        return found[0], found[1]

    def segment_of(self, seq: int) -> int:
        """The segment that record `seq` stands in; 0 where there is no such record."""
        with self._lock:
            number = seq // BLOCK
            block = self._open if number == self._open.number else self._blocks.block(number)
            return block.places[seq % BLOCK] >> 40 if block is not None else 0

    def stats(self) -> dict[str, Any]:
        """Counts: {"records", "unreadable", "kinds": {…}, "decisions": {…}, "reasons": {…}, "first", "last"}."""
        with self._lock:
            counts: dict[str, dict[str, int]] = {}
            for name in ("kind", "decision", "reason"):
                counts[f"{name}s"] = count = self._blocks.counts(name)
                for (field, value), at in self._open.terms.items():
                    if field == name:
                        count[value] = count.get(value, 0) + len(at)
            records, unreadable, since, until = self._blocks.totals()
            records += self._open.records
            since, until = min(since, self._open.since), max(until, self._open.until)
            bounds = (
                {"first": lines.stamp(since), "last": lines.stamp(until)} if records else {"first": None, "last": None}
            )
            return {"records": records, "unreadable": unreadable + self._at.unreadable, **counts, **bounds}

    # -- taking in -----------------------------------------------------------------------------------------------

    def _retire(self, present: list[int]) -> None:
        """Forget what was taken out of the log at its beginning."""
        if not present or present[0] == self._first:
            return
        with segments.path(self._directory, present[0]).open("rb") as stream:
            first = record.seq_of(stream.read(record.MAX_LINE + 1).partition(b"\n")[0])
        if first is not None:
            self._first, self._floor = present[0], first
            self._blocks.forget(first // BLOCK, {value for name, value in self._open.terms if name == "task"})

    def _begin(self, mark: Mark) -> None:
        """Go on behind the last block that was written."""
        self._at, self._tail = mark, b""
        self._open = Block(number=mark.seq // BLOCK + 1 if mark.seq else 0)

    def _same(self, present: list[int]) -> bool:
        """Whether the log is the one that was taken in so far."""
        return not self._at.opening or (
            self._at.segment in present and self._opening(self._at.segment) == self._at.opening
        )

    def _stands(self) -> bool:
        """Whether the last line is still there: one that was never acknowledged goes when the disk refuses its sync."""
        if not self._tail:
            return True
        with segments.path(self._directory, self._at.segment).open("rb") as stream:
            stream.seek(self._at.offset - len(self._tail))
            return stream.read(len(self._tail)) == self._tail

    def _opening(self, number: int) -> str:
        """The hash of a segment's first line, which no other log has; nothing where there is none yet."""
        with contextlib.suppress(OSError), segments.path(self._directory, number).open("rb") as stream:
            first, newline, _ = stream.read(record.MAX_LINE + 1).partition(b"\n")
            return record.digest(first) if newline else ""
        return ""

    def _take(self, found: list[bytes]) -> int:
        at = self._at
        segment, offset, seq, unreadable = at.segment, at.offset, at.seq, at.unreadable
        opening = at.opening or self._opening(segment)
        try:
            for raw in found:
                entry = lines.read(raw)
                if entry is None or not (seq < entry.seq and (not offset or entry.seq - seq <= MAX_JUMP)):
                    unreadable += 1
                else:
                    if entry.seq // BLOCK != self._open.number:
                        if self._open.records:
                            end = Mark(segment=segment, offset=offset, seq=seq, opening=opening, unreadable=unreadable)
                            self._blocks.add(self._open, end)
                            unreadable = 0
                        self._open = Block(number=entry.seq // BLOCK)
                    self._add(entry, segment << 40 | offset)
                    seq = entry.seq
                offset += len(raw) + 1
        finally:
            self._at = Mark(segment=segment, offset=offset, seq=seq, opening=opening, unreadable=unreadable)
        self._tail = found[-1] + b"\n"
        return len(found)

    def _add(self, entry: lines.Entry, place: int) -> None:
        block = self._open
        at = block.add(entry.seq, place, entry.time, entry.id)
        for term in entry.terms:
            positions = block.terms.get(term)
            if positions is None:
                block.terms[term] = [at]
            else:
                positions.append(at)
        for one in entry.above:
            block.kinship.add((one, entry.task))
        if entry.completes is not None:
            block.completions.setdefault(entry.completes, entry.seq)

    # -- answering -----------------------------------------------------------------------------------------------

    def _matching(
        self,
        filters: Mapping[str, str],
        since: int | None,
        until: int | None,
        before: int | None,
        after: int | None,
        *,
        listed: bool = True,
    ) -> Iterator[tuple[Block, int]]:
        """Blocks and which of their records match: from the newest down, or from `after` up."""
        unknown = [name for name in filters if name not in (*AUDIT_FILTERS, TREE)]
        if unknown:
            raise Invalid(
                f"records cannot be filtered by {unknown[0][:40]!a}", hint=f"known: {', '.join(AUDIT_FILTERS)}"
            )
        terms: list[tuple[str, Collection[str]]] = [(name, (value,)) for name, value in filters.items() if name != TREE]
        if TREE in filters:
            terms.append(("task", self._blocks.below(filters[TREE], self._open.kinship)))
        if not listed or "kind" not in filters:
            name, value = lines.LISTED if listed else lines.ANY
            terms.append((name, (value,)))
        lowest = max(self._floor, 0 if after is None else after + 1)
        highest = self._at.seq if before is None else before - 1
        first, last, number = lowest // BLOCK, highest // BLOCK, self._open.number

        def bounded(block: Block, bits: int) -> Iterator[tuple[Block, int]]:
            if block.number == first:
                bits &= postings.EVERY << lowest % BLOCK
            if block.number == last:
                bits &= (1 << highest % BLOCK + 1) - 1
            if (since is not None and block.since < since) or (until is not None and block.until >= until):
                bits = postings.within(block.times, bits, since, until)
            if bits:
                yield block, bits

        def newest() -> Iterator[tuple[Block, int]]:
            if first <= number <= last:
                bits = postings.EVERY
                for name, values in terms:
                    bits &= self._open.having(name, values)
                yield from bounded(self._open, bits)

        if after is None:
            yield from newest()
        for stored, bits in self._blocks.matching(terms, first, last, since, until, upwards=after is not None):
            yield from bounded(stored, bits)
        if after is not None:
            yield from newest()

    def _listed(self, read: Lines, block: Block, at: int) -> dict[str, Any]:
        seq = block.number * BLOCK + at
        line = read.at(block.places[at], seq)
        if line is None:
            return lines.changed(seq)
        return lines.listed(line, partial(self._completion, read))

    def _completion(self, read: Lines, identity: str) -> bytes | None:
        seq = self._blocks.completion(identity) or self._open.completions.get(identity)
        if seq is None:
            return None
        block = self._open if seq // BLOCK == self._open.number else self._blocks.block(seq // BLOCK)
        return read.at(block.places[seq % BLOCK], seq)

    def _beginning(self, read: Lines, block: Block, start: str) -> list[dict[str, Any]]:
        """Up to three records of a block whose id begins so: one that is the very id is among them."""
        if block.first_id > start + "\x7f" or block.last_id < start:
            return []
        found: list[dict[str, Any]] = []
        mark = f'"id":"{start}'.encode()
        for at, place in enumerate(block.places):
            line = read.at(place, block.number * BLOCK + at) if place else None
            if line is not None and mark in line[:80]:
                found.append(lines.listed(line, partial(self._completion, read)))
                if len(found) == 3:
                    break
        return found
