"""Whether the log is what was written: every line continues the one before it, and the end is the end that was signed.

The chain alone shows any change but a cut tail; the signed heads that the control plane keeps show that. A line is
hashed as it stands, without parsing it as JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from remit.audit import head as heads_of
from remit.audit import record, segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`kind`: altered, missing, truncated, garbage, head. `line` counts from 1 within the segment."""

    kind: str
    segment: int
    line: int
    seq: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    ok: bool
    records: int
    segments: int
    problem: Problem | None = None


def verify(directory: Path, heads: Iterable[dict[str, Any]] = ()) -> Report:
    """Read the whole log. `heads`: signed heads that were kept elsewhere; the first problem found is reported."""
    expected: dict[int, dict[str, Any]] = {}
    for signed in heads:
        if not heads_of.valid(signed):
            detail = f"a kept head (record {signed.get('seq')}) is not signed by the key that it names"
            return Report(ok=False, records=0, segments=0, problem=_at("head", 0, 0, 0, detail))
        expected[int(signed["seq"])] = signed
    present = segments.numbers(directory) if directory.exists() else []
    seq, prev, last = 0, record.GENESIS, present[-1] if present else 0
    for count, number in enumerate(present, start=1):
        if number != count:
            detail = f"segment {count} is not there"
            return _failed(seq, count, _at("missing", count, 1, seq + 1, detail))
        file, line, end = segments.path(directory, number), 0, 0
        for line, (offset, text) in enumerate(segments.lines(file), start=1):
            problem = _broken(text, seq, prev, number, line)
            if problem is not None:
                return _failed(seq, count, problem)
            seq += 1
            prev = hashlib.sha256(text).hexdigest()
            end = offset + len(text) + 1
            if expected and seq in expected and expected[seq]["hash"] != prev:
                return _failed(seq, count, _at("head", number, line, seq, "differs from the head that was signed"))
        rest = _rest(file, end)
        if rest == "text" or (rest and number != last):
            return _failed(seq, count, _at("garbage", number, line + 1, seq + 1, "the segment goes on with no record"))
    newest = max(expected, default=0)
    if newest > seq:
        detail = f"the log ends at record {seq}, but the head of record {newest} was signed: {newest - seq} are gone"
        return _failed(seq, len(present), _at("truncated", last, 0, seq + 1, detail))
    return Report(ok=True, records=seq, segments=len(present))


def _broken(text: bytes, seq: int, prev: str, segment: int, line: int) -> Problem | None:
    try:
        claimed, continues = record.seq_of(text), record.prev_of(text)
    except ValueError:
        return _at("altered", segment, line, seq + 1, "this line is no record")
    if claimed > seq + 1:
        detail = f"records {seq + 1} to {claimed - 1} are not there"
        return _at("missing", segment, line, seq + 1, detail)
    if claimed != seq + 1:
        return _at("altered", segment, line, seq + 1, f"this line claims to be record {claimed}")
    if continues != prev:
        return _at(
            "altered",
            segment,
            max(line - 1, 1),
            seq,
            "this record, or the hash that the next one keeps of it, was changed",
        )
    return None


def _rest(file: Path, end: int) -> str:
    """What stands behind the last whole line: nothing, zeros, torn (half a line, then zeros) or text."""
    with file.open("rb") as stream:
        stream.seek(end)
        first = stream.read(record.MAX_LINE)
        half, _, behind = first.partition(b"\0")
        clean = not behind.strip(b"\0") and b"\n" not in half
        while clean and (chunk := stream.read(1 << 20)):
            clean = not chunk.strip(b"\0")
    if not clean:
        return "text"
    return "torn" if half else "zeros" if first else ""


def _failed(seq: int, count: int, problem: Problem) -> Report:
    return Report(ok=False, records=seq, segments=count, problem=problem)


def _at(kind: str, segment: int, line: int, seq: int, detail: str) -> Problem:
    return Problem(kind=kind, segment=segment, line=line, seq=seq, detail=detail)
