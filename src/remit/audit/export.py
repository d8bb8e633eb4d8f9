"""The log, carried out of Remit: every record that matches, oldest first, and a last word that says what was given.

Two forms. Records as they are listed, joined with their completions; or the whole log, every line byte for byte, in one
unbroken piece: its chain is checked while it is given, and whoever has the lines can check it again.
What is written after the export began is not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from remit.audit import record, segments
from remit.audit.index import MAX_LIMIT, Index
from remit.core.errors import Conflict

BROKEN = "the audit log is not what was written: record {seq} does not continue the one before"


def joined(
    index: Index, *, filters: Mapping[str, str], since: datetime | None, until: datetime | None
) -> Iterator[list[bytes]]:
    """Pages of records as JSON, as `Index.query` gives them; then one with the last word."""
    through, after, told = index.last(), 0, _Told()
    yield [_through(through)]
    while page := index.query(
        filters=filters, since=since, until=until, before=through + 1, after=after, limit=MAX_LIMIT
    ):
        rows = [json.dumps(one, ensure_ascii=True, separators=(",", ":")).encode() for one in page]
        told.add(rows, page[0]["seq"], str(page[0]["hash"]), page[-1]["seq"], str(page[-1]["hash"]))
        yield rows
        after = page[-1]["seq"]
    yield [told.word(unbroken=None)]


def whole(index: Index, directory: Path, *, since: datetime | None, until: datetime | None) -> Iterator[list[bytes]]:
    """Pages of lines from the first record at or after `since` to the last one before `until`, and all between them.

    `Conflict`, in the middle: a line does not continue the one before it.
    """
    first, last = index.span(since, until)
    told, prev = _Told(), b""
    yield [_through(last)]
    for lines in _lines(directory, index.segment_of(first), first, last) if first <= last else ():
        for line in lines:
            if prev and not line.endswith(record.ending(prev)):
                raise Conflict(BROKEN.format(seq=record.seq_of(line)), hint="remit audit verify")
            prev = hashlib.sha256(line).hexdigest().encode()
        told.add(lines, record.seq_of(lines[0]), record.digest(lines[0]), record.seq_of(lines[-1]), prev.decode())
        yield lines
    if first <= last and told.last["seq"] != last:
        raise Conflict(f"the audit log ends at record {told.last['seq']}, not {last}", hint="remit audit verify")
    yield [told.word(unbroken=True)]


class _Told:
    """What was given so far. `digest` is over the rows, each with its newline."""

    def __init__(self) -> None:
        self.records = 0
        self.first: dict[str, Any] = {"seq": None, "hash": None}
        self.last = self.first
        self._digest = hashlib.sha256()

    def add(self, rows: list[bytes], seq: int | None, digest: str, last_seq: int | None, last_digest: str) -> None:
        if not self.records:
            self.first = {"seq": seq, "hash": digest}
        self.last = {"seq": last_seq, "hash": last_digest}
        self.records += len(rows)
        self._digest.update(b"\n".join([*rows, b""]))

    def word(self, *, unbroken: bool | None) -> bytes:
        said = {"records": self.records, "first": self.first, "last": self.last, "unbroken": unbroken}
        return json.dumps({"export": {**said, "sha256": self._digest.hexdigest()}}).encode()


def _through(seq: int) -> bytes:
    return json.dumps({"export": {"through": seq}}).encode()


def _lines(directory: Path, segment: int, first: int, last: int) -> Iterator[list[bytes]]:
    """Lines `first` to `last`; a line that is no record is given like any other: its neighbours will not have it."""
    begun = False
    for number in segments.numbers(directory):
        if number < segment:
            continue
        for _, lines in segments.blocks(segments.path(directory, number)):
            if not begun:
                start = next((at for at, line in enumerate(lines) if (record.seq_of(line) or 0) >= first), None)
                if start is None:
                    continue
                lines, begun = lines[start:], True
            if (record.seq_of(lines[-1]) or last) >= last:
                end = next((at for at, line in enumerate(lines) if (record.seq_of(line) or 0) > last), len(lines))
                if lines[:end]:
                    yield lines[:end]
                return
            yield lines
