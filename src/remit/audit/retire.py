"""What was carried elsewhere may go: whole segments from the beginning of the log, on an operator's recorded word.

The record of it names the last line that goes and its hash. It stands in the chain that remains, so that a verifier
knows that nothing else is missing, and whoever takes segments away without such a record is found. A signed mark beside
the log says where it begins now; it is written before anything is removed, and what a crash left is removed at the next
start. What budgets are added up from never goes: a segment behind it must begin with a whole checkpoint.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from remit.audit import head, record, replay, segments
from remit.audit.segments import Position
from remit.control.ports_audit import Retirable
from remit.core.errors import Conflict, NotFound

ACTION = "audit.retire"
MARK = "retired.json"
_WHOLE = "remit audit export --whole --out FILE"


def begins(directory: Path, key: str) -> int:
    """The number of the segment that the log has to begin with. A mark counts only under `key`."""
    try:
        kept = json.loads((directory / MARK).read_bytes())
    except (OSError, ValueError):
        return 1
    ours = isinstance(kept, dict) and head.valid(kept) and kept["key"] == key and type(kept.get("segment")) is int
    return int(kept["segment"]) + 1 if ours else 1


def plan(
    directory: Path, signer: head.Signer, now: Callable[[], datetime], fields: Mapping[str, Any]
) -> Callable[[], None]:
    """What removes the segments that `fields` (of the record) name. `ValueError`: they may not go. `OSError` passes."""
    segment, seq, digest = fields.get("segment"), fields.get("through"), fields.get("through_hash")
    if type(segment) is not int or type(seq) is not int or not isinstance(digest, str):
        raise ValueError("a retirement names a segment, a sequence number and a hash")
    present = segments.numbers(directory)
    if segment not in present:
        raise ValueError(f"segment {segment} is not there")
    needed = replay.begins(directory)
    if needed is None or needed <= segment:
        raise ValueError(f"budgets are added up from segment {needed or present[0]} on: it cannot go yet")
    last = b""
    for _, lines in segments.blocks(segments.path(directory, segment)):
        last = lines[-1]
    if (record.seq_of(last), record.digest(last)) != (seq, digest):
        raise ValueError(f"segment {segment} does not end with record {seq} of this hash")
    end = Position(segment=segment, offset=segments.path(directory, segment).stat().st_size, seq=seq, hash=digest)

    def remove() -> None:
        temporary = directory / f"{MARK}.new"
        temporary.write_text(json.dumps(signer.sign(end, record.stamp(now()))))
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(directory / MARK)
        segments.sync_directory(directory)
        clear(directory, segment + 1)

    return remove


def clear(directory: Path, first: int) -> None:
    """Remove what stands before segment `first`, the oldest first, so that what is left is always one piece."""
    for number in segments.numbers(directory):
        if number < first:
            with contextlib.suppress(FileNotFoundError):
                segments.path(directory, number).unlink()
    segments.sync_directory(directory)


def covered(directory: Path, *, first: int, last: int, digest: str, before: datetime | None) -> Retirable:
    """Closed segments that an export of records `first` to `last` (of hash `digest`) has whole, older than a time.

    `Conflict`: it is not an export of this log from its beginning. `NotFound`: no whole segment is in it.
    """
    ends: Retirable | None = None
    seen, young = 0, False
    late = None if before is None else record.stamp(before.astimezone(UTC))
    present = segments.numbers(directory)
    for number in present:
        for _, lines in segments.blocks(segments.path(directory, number)):
            begins_at = record.seq_of(lines[0]) or 0
            if not seen and begins_at < first:
                raise Conflict(f"the export begins with record {first}, the log with {begins_at}", hint=_WHOLE)
            seen = begins_at + len(lines) - 1
            if begins_at <= last <= seen and record.digest(lines[last - begins_at]) != digest:
                raise Conflict(f"record {last} of the export is not the one in the log", hint=_WHOLE)
            end = lines[-1]
        if seen > last or number == present[-1]:
            break
        young = young or (late is not None and str(json.loads(end)["time"]) >= late)
        if not young:
            ends = Retirable(segment=number, seq=seen, hash=record.digest(end))
    if seen < last:
        raise Conflict(f"the export ends with record {last}, the log with {seen}", hint=_WHOLE)
    if ends is None:
        raise NotFound("no whole segment of the log is in the export and old enough", hint=_WHOLE)
    return ends


def continues(directory: Path, *, first: int, last: int, digest: str, since: int) -> None:
    """Nothing, where an export of records `first` to `last` has all that comes behind `since`, or all there is.

    `Conflict`: there is a gap, or the record `last` (of hash `digest`) is not the one in the log.
    """
    begins_at = _firsts(directory)
    oldest = min(begins_at.values(), default=1)
    if first > max(oldest, since + 1):
        gap = f"the export begins with record {first}: records {max(oldest, since + 1)} to {first - 1} are in none"
        raise Conflict(gap, hint=_WHOLE)
    _stands(directory, begins_at, last, digest)


def expendable(
    directory: Path, *, through: int, digest: str, before: datetime | None, keep_bytes: int | None
) -> Retirable | None:
    """See `control.ports_audit.Audit.expendable`. Reads whole only the segment that ends it. `OSError` passes.

    A segment has ended when the next one has begun, so the time of its last record is at most that of the next one's
    first.
    """
    begins_at = _firsts(directory)
    numbers = sorted(begins_at)
    needed = replay.begins(directory) if numbers else None
    late = None if before is None else record.stamp(before.astimezone(UTC))
    left = sum(segments.path(directory, number).stat().st_size for number in numbers)
    going = 0
    for number, following in itertools.pairwise(numbers):
        old = late is not None and _time(directory, following) < late
        large = keep_bytes is not None and left > keep_bytes
        if needed is None or number >= needed or begins_at[following] - 1 > through or not (old or large):
            break
        left -= segments.path(directory, number).stat().st_size
        going = number
    if not going:
        return None
    _stands(directory, begins_at, through, digest)
    last = b""
    for _, lines in segments.blocks(segments.path(directory, going)):
        last = lines[-1]
    return Retirable(segment=going, seq=record.seq_of(last) or 0, hash=record.digest(last))


def _stands(directory: Path, begins_at: Mapping[int, int], seq: int, digest: str) -> None:
    """`Conflict`: record `seq` of the log has another hash, or is not there."""
    number = max((number for number, first in begins_at.items() if first <= seq), default=None)
    for _, lines in segments.blocks(segments.path(directory, number)) if number is not None else ():
        first = record.seq_of(lines[0]) or 0
        if first <= seq < first + len(lines):
            if record.digest(lines[seq - first]) == digest:
                return
            break
    raise Conflict(f"record {seq} of the export is not the one in the log", hint=_WHOLE)


def _firsts(directory: Path) -> dict[int, int]:
    """The sequence number of its first record, by segment; one that is being begun is left out."""
    found = {number: record.seq_of(_first(directory, number)) for number in segments.numbers(directory)}
    return {number: seq for number, seq in found.items() if seq is not None}


def _first(directory: Path, number: int) -> bytes:
    with segments.path(directory, number).open("rb") as stream:
        return stream.read(record.MAX_LINE + 1).partition(b"\n")[0]


def _time(directory: Path, number: int) -> str:
    return str(json.loads(_first(directory, number))["time"])


def vouches(line: bytes) -> tuple[int, int, str] | None:
    """(segment, sequence number, hash) of the last line that went, where this is the record of a retirement."""
    if b'"action":"audit.retire"' not in line:
        return None
    try:
        found = json.loads(line)
        if found["kind"] != "operator" or found["action"] != ACTION:
            return None
        return int(found["segment"]), int(found["through"]), str(found["through_hash"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
