"""What leaves Remit as a file is all of what was asked for, to the byte, or nothing."""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import control_plane
import pytest
from audit_log import DECISION, content, filled, journal
from command_line import Remit, calling
from control_plane import Plane

from remit.audit import record, segments
from remit.audit.reader import Reader
from remit.cli import parquet
from remit.control.ports import Entry
from remit.control.ports_audit import AuditFilter
from remit.core.errors import Conflict, Invalid

HOSTILE: dict[str, Any] = {
    **DECISION, "path": 'a\n{"export":1}\r\x00\x1b[2J\u2028\ud800"', "role": 1 << 70, "port": "x", "status": 1 << 40,
    "method": ["x"], "completed": "never", "notes": {"a": None},
}  # fmt: skip


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Reader]:
    """Over a log of several segments: decisions, one of them completed, an operator's action, hostile fields."""
    await filled(tmp_path, 30)
    with journal(tmp_path) as log:
        decided = log.new_id()
        await log.append(decided, Entry(kind="decision", fields={**DECISION, "role": "finops"}))
        await log.append(log.new_id(), Entry(kind="completion", fields={"record": decided, "status": 200}))
        await log.append(log.new_id(), Entry(kind="operator", fields={"actor": "root", "action": "apply"}))
        await log.append(log.new_id(), Entry(kind="decision", fields=HOSTILE))
    opened = Reader(directory=tmp_path / "audit", file=tmp_path / "index.db")
    yield opened
    opened.close()


async def exported(reader: Reader, *, whole: bool = False, **filters: Any) -> tuple[list[bytes], dict[str, Any]]:
    texts = [text async for page in reader.export(AuditFilter(**filters), whole=whole) for text in page]
    first, *rows, last = texts
    assert json.loads(first)["export"].keys() == {"through"}
    return rows, json.loads(last)["export"]


async def test_an_export_is_what_a_list_shows(reader: Reader) -> None:
    for filters in ({}, {"role": "finops"}, {"kind": "completion"}, {"host": "a.com"}, {"task": "none"}):
        rows, told = await exported(reader, **filters)
        listed = (await reader.query(AuditFilter(after="0", limit=1000, **filters))).records
        assert [json.loads(row) for row in rows] == listed
        assert told["records"] == len(listed)
        assert told["sha256"] == hashlib.sha256(b"".join(row + b"\n" for row in rows)).hexdigest()
        ends = [{"seq": one["seq"], "hash": one["hash"]} for one in (listed[0], listed[-1])] if listed else []
        assert ends in ([], [told["first"], told["last"]])
    (finops,), _ = await exported(reader, role="finops")
    assert json.loads(finops)["status"] == 200


async def test_the_whole_log_is_every_line_of_it(reader: Reader, tmp_path: Path) -> None:
    rows, told = await exported(reader, whole=True)
    assert b"".join(row + b"\n" for row in rows) == content(tmp_path).rstrip(b"\0")
    assert (told["records"], told["unbroken"]) == (len(rows), True)
    assert told["last"] == {"seq": len(rows), "hash": record.digest(rows[-1])}
    with pytest.raises(Invalid, match="role"):
        await exported(reader, whole=True, role="finops")


async def test_a_time_cuts_one_piece_out_of_the_whole_log(reader: Reader) -> None:
    every, _ = await exported(reader, whole=True)
    times = [json.loads(row)["time"] for row in every]
    page = await reader.query(AuditFilter(after="0", limit=1000))
    since, until = (record_time(page.records[at]["time"]) for at in (5, 20))
    rows, told = await exported(reader, whole=True, since=since, until=until)
    expected = [
        row for row, time in zip(every, times, strict=True) if record.stamp(since) <= time < record.stamp(until)
    ]
    assert (rows, told["unbroken"]) == (expected, True)
    late, told = await exported(reader, whole=True, since=record_time("2099-01-01T00:00:00Z"))
    assert (late, told["records"], told["first"]["seq"]) == ([], 0, None)


def record_time(text: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text)


async def test_a_log_that_was_changed_is_not_exported_as_if_it_were_whole(reader: Reader, tmp_path: Path) -> None:
    await exported(reader)
    for number in segments.numbers(tmp_path / "audit"):
        file = segments.path(tmp_path / "audit", number)
        file.write_bytes(file.read_bytes().replace(b'"number":12,', b'"number":13,'))
    with pytest.raises(Conflict, match="does not continue"):
        await exported(reader, whole=True)


@pytest.mark.parametrize("whole", [False, True])
async def test_a_parquet_file_says_everything_that_the_log_says(reader: Reader, tmp_path: Path, whole: bool) -> None:
    arrow = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
    rows, told = await exported(reader, whole=whole)
    file = tmp_path / "out.parquet"
    with file.open("wb") as stream, parquet.Writer(stream) as writer:
        for row in rows:
            writer.write(row)
    table = arrow.read_table(file)
    assert [(field.name, str(field.type)) for field in table.schema] == [
        (name, "timestamp[us, tz=UTC]" if kind == "timestamp" else kind) for name, kind in parquet.SCHEMA
    ]
    assert table.schema.metadata[b"format"] == parquet.VERSION.encode()
    found = table.to_pylist()
    assert [one["record"].encode() for one in found] == rows
    assert [one["seq"] for one in found] == [json.loads(row)["seq"] for row in rows]
    assert (found[0]["hash"], found[-1]["hash"]) == (told["first"]["hash"], told["last"]["hash"])
    assert found[0]["time"] == record_time(json.loads(rows[0])["time"])
    if whole:
        chain = [record.digest(one["record"].encode()) for one in found]
        assert [one["prev"] for one in found] == [record.GENESIS, *chain[:-1]]
        assert [one["hash"] for one in found] == chain
    hostile = found[-1]
    assert [hostile[name] for name in ("role", "port", "status", "method", "completed")] == [None] * 5


@pytest.fixture
def plane(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plane]:
    with tempfile.TemporaryDirectory(prefix=f"remit-export-{os.getpid()}-") as name:
        monkeypatch.setenv("REMIT_RUN_DIR", name)
        monkeypatch.setenv("REMIT_STATE_DIR", f"{name}/state")
        plane = control_plane.build(Path(name))
        plane.audit.records += [{"id": f"r-{n}", "seq": n, "kind": "decision", "role": "devops"} for n in range(1, 4)]
        with control_plane.served(plane, Path(name) / "control/control.sock"):
            yield plane


@pytest.fixture
def remit(plane: Plane, capsys: pytest.CaptureFixture[str]) -> Remit:
    return calling(capsys)


def test_a_file_is_written_and_said_to_be_whole(remit: Remit, plane: Plane, tmp_path: Path) -> None:
    out = tmp_path / "audit.jsonl"
    code, said, err = remit("audit", "export", "--out", str(out), "--role", "devops", "--json")
    assert (code, err) == (0, "")
    told = json.loads(said)
    assert [json.loads(row) for row in out.read_text().splitlines()] == plane.audit.records
    assert (told["records"], told["bytes"]) == (3, out.stat().st_size)
    assert told["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert out.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [out]
    code, _, err = remit("audit", "export", "--out", str(out))
    assert (code, "is there already" in err) == (5, True)


def test_a_parquet_file_is_written_by_the_command(remit: Remit, plane: Plane, tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow.parquet", reason="the extra `parquet` is not installed")
    out = tmp_path / "audit.parquet"
    assert remit("audit", "export", "--format", "parquet", "--out", str(out))[0] == 0
    assert [json.loads(one) for one in arrow.read_table(out)["record"].to_pylist()] == plane.audit.records


BROKEN: dict[str, tuple[list[bytes], int, str]] = {
    "it breaks off": ([b'{"export":{"through":3}}', b'{"seq":1}'], 6, "broke off"),
    "a row is missing": ([b'{"seq":1}', b'{"export":{"records":2,"sha256":"x"}}'], 5, "what arrived"),
    "the log was changed": (
        [b'{"export":{"problem":{"detail":"not what was written","hint":"h"}}}'],
        5,
        "not what was",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_an_export_that_is_not_whole_leaves_no_file(
    remit: Remit, plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    texts, code, words = BROKEN[how]

    async def export(wanted: AuditFilter, *, whole: bool) -> AsyncIterator[Sequence[bytes]]:
        yield texts

    monkeypatch.setattr(plane.audit, "export", export)
    for form in ("jsonl", "parquet"):
        found, _, err = remit("audit", "export", "--format", form, "--out", str(tmp_path / "out"))
        assert (found, words in err) == (code, True), err
        assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_the_command_says_how_to_get_it(
    remit: Remit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = remit("audit", "export", "--format", "parquet", "--out", str(tmp_path / "out"))
    assert (code, "hint: pip install 'remit[parquet]'" in err) == (6, True)
    assert list(tmp_path.iterdir()) == []
    code, _, err = remit("audit", "export", "--format", "parquet")
    assert (code, "--out" in err) == (2, True)


def test_a_path_that_cannot_be_written_is_told(remit: Remit, tmp_path: Path) -> None:
    code, _, err = remit("audit", "export", "--out", str(tmp_path / "none" / "out"))
    assert (code, "cannot be written" in err) == (2, True)
