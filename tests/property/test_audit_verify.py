"""Every change of a log is found, and located where it was made."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from audit_log import filled
from hypothesis import given, settings
from hypothesis import strategies as st

from remit.audit import segments, verify
from remit.audit.verify import Kind, Problem, Report

COUNT = 24


@dataclass(repr=False)
class Log:
    """`lines`: every line with its newline, by segment."""

    directory: Path
    head: dict[str, Any]
    lines: dict[int, list[bytes]]

    def verify(self) -> Report:
        return verify.verify(self.directory / "audit", [self.head])

    def put(self, number: int, data: bytes) -> Report:
        """The report on the log with `data` as segment `number`; the log is whole again afterwards."""
        file = segments.path(self.directory / "audit", number)
        kept = file.read_bytes()
        try:
            file.write_bytes(data)
            return self.verify()
        finally:
            file.write_bytes(kept)

    def whole(self, number: int) -> bytes:
        return b"".join(self.lines[number])

    def line_at(self, number: int, offset: int) -> int:
        """The line (from 1) that holds the byte at `offset`."""
        return self.whole(number)[: offset + 1].removesuffix(b"\n").count(b"\n") + 1


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Log:
    directory = tmp_path_factory.mktemp("log")
    head = asyncio.run(filled(directory, COUNT, 2048))
    audit = directory / "audit"
    lines = {n: segments.path(audit, n).read_bytes().splitlines(keepends=True) for n in segments.numbers(audit)}
    assert len(lines) > 3
    return Log(directory, head, lines)


def places(log: Log) -> st.SearchStrategy[tuple[int, int]]:
    """(segment, offset) of any byte."""
    return st.sampled_from(sorted(log.lines)).flatmap(
        lambda number: st.tuples(st.just(number), st.integers(0, len(log.whole(number)) - 1))
    )


def found(report: Report) -> Problem:
    assert not report.ok
    assert report.problem is not None
    return report.problem


def test_an_untouched_log_is_whole(log: Log) -> None:
    assert log.verify() == Report(ok=True, records=COUNT + len(log.lines), segments=len(log.lines))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_changed_byte_is_found_and_located(log: Log, data: st.DataObject) -> None:
    number, at = data.draw(places(log))
    changed = bytearray(log.whole(number))
    changed[at] ^= data.draw(st.integers(1, 255))
    problem = found(log.put(number, bytes(changed)))
    assert problem.segment == number
    assert abs(problem.line - log.line_at(number, at)) <= 1


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_every_deleted_byte_is_found_and_located(log: Log, data: st.DataObject) -> None:
    number, at = data.draw(places(log))
    whole = log.whole(number)
    size = data.draw(st.integers(1, 30))
    problem = found(log.put(number, whole[:at] + whole[at + size :]))
    assert problem.segment in (number, number + 1)
    if problem.segment == number:
        assert abs(problem.line - log.line_at(number, at)) <= 1


@settings(max_examples=200, deadline=None)
@given(data=st.data(), more=st.binary(min_size=1, max_size=40))
def test_every_inserted_byte_is_found_and_located(log: Log, data: st.DataObject, more: bytes) -> None:
    number, at = data.draw(places(log))
    whole = log.whole(number)
    problem = found(log.put(number, whole[:at] + more + whole[at:]))
    assert problem.segment == number
    assert abs(problem.line - log.line_at(number, at)) <= 1


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_cut_is_found(log: Log, data: st.DataObject) -> None:
    number, at = data.draw(places(log))
    problem = found(log.put(number, log.whole(number)[:at]))
    assert problem.kind is Kind.TRUNCATED
    gone = number == max(log.lines) and at < len(log.lines[number][0])
    assert problem.segment == (number - 1 if gone else number)


def test_a_cut_at_each_line_is_located(log: Log) -> None:
    for number, lines in log.lines.items():
        for kept in range(1, len(lines)):
            problem = found(log.put(number, b"".join(lines[:kept])))
            assert (problem.kind, problem.segment, problem.line) == (Kind.TRUNCATED, number, kept + 1)


def test_a_deleted_line_is_missing_and_located(log: Log) -> None:
    for number, lines in log.lines.items():
        for gone in range(1, len(lines) - 1):
            problem = found(log.put(number, b"".join(lines[:gone] + lines[gone + 1 :])))
            assert (problem.kind, problem.segment, problem.line) == (Kind.MISSING, number, gone + 1)


def test_two_lines_that_changed_places_are_reordered_and_located(log: Log) -> None:
    for number, lines in log.lines.items():
        for first in range(len(lines) - 1):
            swapped = [*lines[:first], lines[first + 1], lines[first], *lines[first + 2 :]]
            problem = found(log.put(number, b"".join(swapped)))
            assert (problem.kind, problem.segment, problem.line) == (Kind.REORDERED, number, first + 1)


def test_a_repeated_line_is_reordered_and_located(log: Log) -> None:
    for number, lines in log.lines.items():
        for at in range(len(lines)):
            problem = found(log.put(number, b"".join([*lines[: at + 1], lines[at], *lines[at + 1 :]])))
            assert (problem.kind, problem.segment, problem.line) == (Kind.REORDERED, number, at + 2)


def test_an_altered_record_is_named_itself_and_not_the_one_after_it(log: Log) -> None:
    for number, lines in log.lines.items():
        for at, line in enumerate(lines):
            changed = line.replace(b"permitted", b"permitteD").replace(b"remit-audit", b"remit-audiT")
            problem = found(log.put(number, b"".join([*lines[:at], changed, *lines[at + 1 :]])))
            last = number == max(log.lines) and at == len(lines) - 1
            kind = Kind.HEAD_MISMATCH if last else Kind.ALTERED
            assert (problem.kind, problem.segment, problem.line) == (kind, number, at + 1)
            assert problem.offset == sum(map(len, lines[:at]))


def elsewhere(log: Log, tmp_path: Path, change: Callable[[Path], object]) -> Problem:
    shutil.copytree(log.directory / "audit", tmp_path / "audit")
    change(tmp_path / "audit")
    return found(verify.verify(tmp_path / "audit", [log.head]))


def test_segments_that_changed_places_are_found(log: Log, tmp_path: Path) -> None:
    def swap(audit: Path) -> None:
        one, two = segments.path(audit, 2), segments.path(audit, 3)
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)

    problem = elsewhere(log, tmp_path, swap)
    assert problem.segment in (1, 2)


def test_a_missing_segment_is_found(log: Log, tmp_path: Path) -> None:
    problem = elsewhere(log, tmp_path, lambda audit: segments.path(audit, 2).unlink())
    assert (problem.kind, problem.segment) == (Kind.MISSING, 2)


def test_missing_last_segments_are_found_by_the_head(log: Log, tmp_path: Path) -> None:
    problem = elsewhere(log, tmp_path, lambda audit: segments.path(audit, max(log.lines)).unlink())
    assert (problem.kind, problem.segment) == (Kind.TRUNCATED, max(log.lines) - 1)


def test_a_log_that_is_gone_altogether_is_found_by_the_head(log: Log, tmp_path: Path) -> None:
    assert found(verify.verify(tmp_path / "none", [log.head])).kind is Kind.TRUNCATED


def test_a_log_that_was_written_anew_is_found_by_the_head(log: Log, tmp_path: Path) -> None:
    forged = asyncio.run(filled(tmp_path, COUNT, 2048))
    assert verify.verify(tmp_path / "audit", [forged]).ok
    problem = found(verify.verify(tmp_path / "audit", [log.head]))
    assert (problem.kind, problem.seq) == (Kind.HEAD_MISMATCH, log.head["seq"])


def test_a_head_that_was_forged_is_not_believed(log: Log) -> None:
    problem = found(verify.verify(log.directory / "audit", [{**log.head, "seq": 1}]))
    assert problem.kind is Kind.HEAD_MISMATCH


def test_bytes_behind_the_end_are_found_but_zeros_and_half_a_line_are_not_damage(log: Log) -> None:
    last = max(log.lines)
    whole = log.whole(last)
    assert log.put(last, whole + bytes(10_000)).ok
    assert log.put(last, whole + b'{"seq":99,' + bytes(10_000)).ok
    problem = found(log.put(last, whole + bytes(10_000) + b"x" + bytes(10)))
    assert (problem.kind, problem.segment, problem.line) == (Kind.ALTERED, last, len(log.lines[last]) + 1)
    assert found(log.put(1, log.whole(1) + b'{"seq":99,')).kind is Kind.TRUNCATED
