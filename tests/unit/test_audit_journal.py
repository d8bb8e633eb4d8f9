"""The log against everything that happens to files: changes, cuts, crashes, full disks."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remit.audit import head, record, segments, verify
from remit.audit.index import FIELDS, Index
from remit.audit.journal import Journal
from remit.control.ports import Entry
from remit.core.errors import Conflict, NotFound, Unavailable

DECISION = {"task": "t-aaaaaaaaaa", "role": "devops", "decision": "permit", "reason": "permitted", "host": "a.com"}


def opened(directory: Path, segment_bytes: int = 1 << 16) -> Journal:
    signer = head.Signer(directory / "head.key")
    return Journal(directory / "audit", segment_bytes=segment_bytes, signer=signer, now=lambda: datetime.now(UTC))


async def filled(directory: Path, count: int = 40, segment_bytes: int = 4096) -> dict[str, object]:
    journal = opened(directory, segment_bytes)
    try:
        for number in range(count):
            await journal.append(journal.new_id(), Entry(kind="decision", fields={**DECISION, "number": number}))
        signed = journal.head()
        assert signed is not None
        return signed
    finally:
        journal.close()


async def test_what_was_written_verifies_across_segments_and_restarts(tmp_path: Path) -> None:
    await filled(tmp_path)
    signed = await filled(tmp_path)
    report = verify.verify(tmp_path / "audit", [signed])
    assert report.ok, report.problem
    assert report.segments > 2
    assert report.records == signed["seq"]


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        (lambda d: d.replace(b"devops", b"devoqs", 1), "altered"),
        (lambda d: b"\n".join([*d.split(b"\n")[:2], *d.split(b"\n")[3:]]), "missing"),
        (lambda d: b"\n".join([*d.split(b"\n")[:2], d.split(b"\n")[3], d.split(b"\n")[2], *d.split(b"\n")[4:]]), "missing"),
        (lambda d: d + b'{"seq":9}\n', "altered"),
    ],
)  # fmt: skip
async def test_damage_is_found_and_located(tmp_path: Path, damage: Callable[[bytes], bytes], kind: str) -> None:
    signed = await filled(tmp_path)
    file = segments.path(tmp_path / "audit", 2)
    file.write_bytes(damage(file.read_bytes()))
    report = verify.verify(tmp_path / "audit", [signed])
    assert report.problem is not None
    assert (report.problem.kind, report.problem.segment) == (kind, 2) or report.problem.segment == 3


async def test_a_cut_tail_is_found_by_the_head_that_was_kept_elsewhere(tmp_path: Path) -> None:
    signed = await filled(tmp_path)
    last = segments.path(tmp_path / "audit", segments.numbers(tmp_path / "audit")[-1])
    lines = last.read_bytes().splitlines(keepends=True)
    last.write_bytes(b"".join(lines[:-1]))
    assert verify.verify(tmp_path / "audit").ok
    report = verify.verify(tmp_path / "audit", [signed])
    assert report.problem is not None
    assert report.problem.kind == "truncated"


async def test_a_head_that_was_forged_is_not_believed(tmp_path: Path) -> None:
    signed = await filled(tmp_path)
    report = verify.verify(tmp_path / "audit", [{**signed, "seq": 1}])
    assert report.problem is not None
    assert report.problem.kind == "head"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_changed_byte_goes_unseen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("log")
    signed = asyncio.run(filled(directory, count=12))
    number = data.draw(st.sampled_from(segments.numbers(directory / "audit")))
    file = segments.path(directory / "audit", number)
    content = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content)
    assert not verify.verify(directory / "audit", [signed]).ok


WRITER = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from remit.audit import head
from remit.audit.journal import Journal
from remit.control.ports import Entry

async def main():
    d = Path(sys.argv[1])
    j = Journal(d / "audit", segment_bytes=8192, signer=head.Signer(d / "head.key"), now=lambda: datetime.now(UTC))
    async def one(n):
        while True:
            r = j.new_id()
            await j.append(r, Entry(kind="decision", fields={"n": n}))
            sys.stdout.write(r + "\\n"); sys.stdout.flush()
    await asyncio.gather(*(one(n) for n in range(8)))

asyncio.run(main())
"""


def test_every_acknowledged_record_survives_kill_9(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        acknowledged += [child.stdout.readline().strip() for _ in range(150)]
        os.kill(child.pid, signal.SIGKILL)
        acknowledged += [line.strip() for line in child.stdout if len(line) > 20]
        child.wait()
        child.stdout.close()
    asyncio.run(filled(tmp_path, count=1))
    report = verify.verify(tmp_path / "audit")
    assert report.ok, report.problem
    numbers = segments.numbers(tmp_path / "audit")
    written = b"".join(segments.path(tmp_path / "audit", number).read_bytes() for number in numbers)
    assert all(f'"id":"{one}"'.encode() in written for one in acknowledged)


async def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    try:
        with pytest.raises(Conflict, match="another process writes"):
            opened(tmp_path)
    finally:
        journal.close()


async def test_a_disk_that_refuses_makes_records_unavailable_and_heals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = opened(tmp_path)
    real = os.fdatasync

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    try:
        await journal.append(journal.new_id(), Entry(kind="decision", fields=DECISION))
        monkeypatch.setattr(os, "fdatasync", full)
        with pytest.raises(Unavailable, match="No space left"):
            await journal.append(journal.new_id(), Entry(kind="decision", fields=DECISION))
        monkeypatch.setattr(os, "fdatasync", real)
        async with asyncio.timeout(5):
            while True:
                try:
                    await journal.append(journal.new_id(), Entry(kind="decision", fields=DECISION))
                    break
                except Unavailable:
                    await asyncio.sleep(0.02)
    finally:
        journal.close()
    report = verify.verify(tmp_path / "audit")
    assert report.ok, report.problem
    assert report.records == 3


async def test_hostile_text_cannot_break_a_line(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    try:
        hostile = {"path": 'a\n{"seq":1}\r\x00\x1b[2J\u2028\ud800"', "host": "x" * 100_000}
        await journal.append("r-x", Entry(kind="decision", fields=hostile))
    finally:
        journal.close()
    index = Index(tmp_path / "index.db")
    assert index.ingest(tmp_path / "audit") == 2
    found = index.get("r-x")
    assert found["path"] == hostile["path"]
    assert found["host"].endswith("[cut]")
    assert verify.verify(tmp_path / "audit").ok
    index.close()


async def test_a_completion_joins_its_decision(tmp_path: Path) -> None:
    journal = opened(tmp_path)
    decided = journal.new_id()
    try:
        await journal.append(decided, Entry(kind="decision", fields=DECISION))
        done = {"record": decided, "status": 200, "bytes_in": 5, "bytes_out": 0, "duration_ms": 3}
        await journal.append(journal.new_id(), Entry(kind="completion", fields=done))
    finally:
        journal.close()
    index = Index(tmp_path / "index.db")
    index.ingest(tmp_path / "audit")
    assert index.ingest(tmp_path / "audit") == 0
    (listed,) = index.query(filters={"kind": "decision"})
    assert tuple(listed)[: len(FIELDS)] == FIELDS
    assert (listed["status"], listed["bytes_in"], listed["duration_ms"]) == (200, 5, 3)
    line = segments.path(tmp_path / "audit", 1).read_bytes().splitlines()[1]
    assert listed["hash"] == record.digest(line)
    assert index.query(filters={"host": "b.com"}) == []
    with pytest.raises(NotFound):
        index.get("r-nothing")
    index.close()
