"""The index: a copy of the log that answers questions, catches up, and can be built again."""

import asyncio
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from audit_log import DECISION, content, filled, journal

from remit.audit import lines, record, segments
from remit.audit import reader as reading
from remit.audit.index import FIELDS, Index
from remit.audit.reader import Reader
from remit.control import budgets, ports_audit, shown
from remit.control.ports import Entry
from remit.control.ports_audit import AuditFilter
from remit.core import ledger_log
from remit.core.errors import Conflict, Invalid, NotFound, Unavailable
from remit.node import link


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index.db", tmp_path / "audit")
    yield opened
    opened.close()


async def appended(directory: Path, *entries: tuple[str, dict[str, Any]]) -> list[str]:
    with journal(directory, 1 << 16) as log:
        ids = [log.new_id() for _ in entries]
        for one, (kind, fields) in zip(ids, entries, strict=True):
            await log.append(one, Entry(kind=kind, fields=fields))
    return ids


async def test_it_takes_in_each_line_once_and_goes_on_where_it_was(tmp_path: Path, index: Index) -> None:
    await filled(tmp_path, 40, 4096)
    total = content(tmp_path).count(b"\n")
    assert index.ingest() == total
    assert index.ingest() == 0
    await filled(tmp_path, 3, 4096)
    assert index.ingest() == content(tmp_path).count(b"\n") - total
    assert index.last() == content(tmp_path).count(b"\n")
    assert len(index.query(limit=1000)) == 43


async def test_a_log_that_is_being_written_can_be_followed(tmp_path: Path, index: Index) -> None:
    with journal(tmp_path, 2048) as log:
        for number in range(30):
            await log.append(log.new_id(), Entry(kind="decision", fields={**DECISION, "number": number}))
            index.ingest()
            (newest,) = index.query(limit=1)
            assert newest["number"] == number


async def test_a_completion_joins_its_decision(tmp_path: Path, index: Index) -> None:
    (decided,) = await appended(tmp_path, ("decision", DECISION))
    done = {"record": decided, "status": 200, "bytes_in": 5, "bytes_out": 0, "duration_ms": 3, "reason": "x", "id": "y"}
    await appended(tmp_path, ("completion", done), ("completion", {"record": "r-none"}), ("completion", {"record": 5}))
    index.ingest()
    (listed,) = index.query()
    assert tuple(listed)[: len(FIELDS)] == FIELDS
    assert (listed["status"], listed["bytes_in"], listed["duration_ms"]) == (200, 5, 3)
    assert (listed["id"], listed["reason"], listed["kind"]) == (decided, "permitted", "decision")
    assert listed["completed"] > listed["time"]
    line = next(one for one in content(tmp_path).splitlines() if b'"decision"' in one)
    assert listed["hash"] == record.digest(line)
    assert len(index.query(filters={"kind": "completion"})) == 3
    assert len(index.query(filters={"kind": "segment"})) == 1


async def test_every_filter_narrows(tmp_path: Path, index: Index) -> None:
    other = {**DECISION, "task": "t-bbbbbbbbbb", "role": "finops", "decision": "deny", "reason": "no_capability",
             "host": "b.com", "capability": "c", "credential": "k"}  # fmt: skip
    await appended(tmp_path, ("decision", DECISION), ("decision", other), ("operator", {"actor": "root"}))
    index.ingest()
    for name in ("task", "role", "decision", "reason", "host", "capability", "credential"):
        (found,) = index.query(filters={name: other[name]})
        assert found["reason"] == "no_capability"
        assert index.query(filters={name: "' OR 1 --"}) == []
    assert [one["kind"] for one in index.query()] == ["operator", "decision", "decision"]
    first, _, last = (datetime.fromisoformat(one["time"]) for one in index.query(after=0))
    assert len(index.query(since=last)) == 1
    assert len(index.query(until=last)) == 2
    assert len(index.query(since=first, until=last)) == 2
    with pytest.raises(Invalid):
        index.query(filters={"line": "x"})


async def test_pages_meet_without_gap_or_overlap(tmp_path: Path, index: Index) -> None:
    await filled(tmp_path, 25)
    index.ingest()
    seen: list[int] = []
    after = 0
    while page := index.query(after=after, limit=7):
        seen += [one["number"] for one in page]
        after = page[-1]["seq"]
    assert seen == list(range(25))
    before = index.query(limit=7)
    assert [one["number"] for one in index.query(before=before[-1]["seq"], limit=3)] == [17, 16, 15]
    assert len(index.query(limit=10**9)) == 25


async def test_a_record_is_found_by_the_start_of_its_id(tmp_path: Path, index: Index) -> None:
    one, two = await appended(tmp_path, ("decision", DECISION), ("decision", {**DECISION, "host": "b.com"}))
    index.ingest()
    assert index.get(one)["id"] == one
    assert index.get(one[:-1])["id"] == one
    assert index.get(two[2:])["host"] == "b.com"
    with pytest.raises(Conflict):
        index.get(one[:8])
    for none in ("r-nothing", "", "r-", "%", "é", "r-\x00", one + "a"):
        with pytest.raises(NotFound):
            index.get(none)


async def test_hostile_fields_are_listed_as_they_were_written(tmp_path: Path, index: Index) -> None:
    hostile: dict[str, Any] = {"path": 'a\n{"seq":1}\r\x00\x1b[2J\u2028\ud800"', "host": "x" * 100_000,
                               "task": "\ud800", "role": 1 << 70, "decision": ["x"], "reason": {"a": 1}}  # fmt: skip
    (one,) = await appended(tmp_path, ("decision", hostile))
    index.ingest()
    found = index.get(one)
    assert found["path"] == hostile["path"]
    assert found["host"].endswith(record.CUT)
    json.dumps(index.stats())


async def test_lines_that_are_no_records_are_counted_and_passed_over(tmp_path: Path, index: Index) -> None:
    await filled(tmp_path, 3, 1 << 16)
    file = segments.path(tmp_path / "audit", 1)
    bad = b'garbage\n{"seq":"x"}\n{"seq":-1,"id":"r-x","time":"t","kind":"k"}\n[]\n\xff\n'
    file.write_bytes(file.read_bytes() + bad)
    index.ingest()
    stats = index.stats()
    assert (stats["unreadable"], stats["records"]) == (5, 4)
    assert stats["kinds"] == {"decision": 3, "segment": 1}
    assert stats["decisions"] == {"permit": 3}


async def test_another_log_in_its_place_is_taken_in_from_the_start(tmp_path: Path, index: Index) -> None:
    await filled(tmp_path, 5)
    index.ingest()
    (tmp_path / "audit").rename(tmp_path / "former")
    await filled(tmp_path, 3)
    index.ingest()
    assert [one["number"] for one in index.query()] == [2, 1, 0]


async def test_a_file_that_is_no_index_is_built_anew(tmp_path: Path) -> None:
    await filled(tmp_path, 5)
    file = tmp_path / "broken.db"
    file.write_bytes(b"not a database, not at all" * 100)
    index = Index(file, tmp_path / "audit")
    index.ingest()
    assert len(index.query()) == 5
    assert file.stat().st_mode & 0o077 == 0
    index.close()


async def test_threads_may_ask_while_it_takes_in(tmp_path: Path, index: Index) -> None:
    await filled(tmp_path, 200, 8192)
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(20):
                index.ingest()
                index.query(filters={"host": "a.com"})
                index.stats()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(index.query(limit=1000)) == 200


async def test_the_reader_gives_pages_oldest_first_and_follows(tmp_path: Path) -> None:
    await filled(tmp_path, 10, 1 << 16)
    reader = Reader(directory=tmp_path / "audit", file=tmp_path / "index.db")
    latest = await reader.query(AuditFilter(limit=4))
    assert [one["number"] for one in latest.records] == [6, 7, 8, 9]
    first = await reader.query(AuditFilter(limit=4, after="0"))
    assert [one["number"] for one in first.records] == [0, 1, 2, 3]
    second = await reader.query(AuditFilter(limit=4, after=first.next))
    assert [one["number"] for one in second.records] == [4, 5, 6, 7]
    with pytest.raises(Invalid):
        await reader.query(AuditFilter(after="x"))
    old = datetime.now(UTC) - timedelta(hours=1)
    assert len((await reader.query(AuditFilter(since=old))).records) == 10
    assert [one async for one in reader.verify([], [])] == [{"ok": True, "records": 11, "segments": 1}]
    following = reader.follow(AuditFilter(after=str(await reader.last())))
    upcoming = asyncio.ensure_future(anext(following))
    await filled(tmp_path, 1, 1 << 16)
    async with asyncio.timeout(60):
        assert (await upcoming)["number"] == 0
    await following.aclose()
    reader.close()


async def test_a_verification_tells_how_far_it_is_and_what_is_wrong_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PROGRESS_S", 0.0)
    await filled(tmp_path, 300, 1 << 16)
    present = segments.numbers(tmp_path / "audit")
    assert len(present) > 1
    reader = Reader(directory=tmp_path / "audit", file=tmp_path / "index.db")
    await reader.query(AuditFilter(limit=1))
    *told, report = [one async for one in reader.verify([], [])]
    assert len(told) >= len(present)
    assert [one["checked"] for one in told] == sorted(one["checked"] for one in told)
    assert told[-1] == {"checked": report["records"], "of": report["records"]}
    file = segments.path(tmp_path / "audit", present[-1])
    file.write_bytes(file.read_bytes().replace(b'"kind":"decision"', b'"kind":"operator"', 1))
    *told, report = [one async for one in reader.verify([], [])]
    assert (report["ok"], report["problem"]["segment"], len(told) >= len(present) - 1) == (False, present[-1], True)
    segments.path(tmp_path / "audit", 1).unlink()
    segments.path(tmp_path / "audit", 1).mkdir()
    with pytest.raises(Unavailable, match="cannot be read"):
        [one async for one in reader.verify([], [])]
    reader.close()


async def test_a_changed_line_is_shown_as_such_and_hides_no_other(tmp_path: Path, index: Index) -> None:
    await filled(tmp_path, 3, 1 << 16)
    index.ingest()
    file = segments.path(tmp_path / "audit", 1)
    file.write_bytes(file.read_bytes().replace(b'{"seq":3,', b'{"seq":7,'))
    assert [(one["seq"], one["kind"]) for one in index.query()] == [(4, "decision"), (3, "changed"), (2, "decision")]


async def test_a_line_that_lies_about_its_number_hides_no_later_one(tmp_path: Path, index: Index) -> None:
    await filled(tmp_path, 3, 1 << 16)
    file = segments.path(tmp_path / "audit", 1)
    file.write_bytes(file.read_bytes().replace(b'{"seq":3,', b'{"seq":900000000000,'))
    index.ingest()
    assert [one["seq"] for one in index.query()] == [4, 2]
    assert index.stats()["unreadable"] == 1


async def test_lines_that_a_refusing_disk_took_back_are_forgotten(tmp_path: Path, index: Index) -> None:
    await filled(tmp_path, 3, 1 << 16)
    file = segments.path(tmp_path / "audit", 1)
    whole = file.read_bytes()
    index.ingest()
    shorter = whole[: whole.rindex(b"\n", 0, -1) + 1]
    file.write_bytes(shorter + bytes(100))
    index.ingest()
    assert [one["number"] for one in index.query()] == [1, 0]
    other = record.body("r-other", "2026-11-24T12:00:00.000000Z", "decision", {**DECISION, "number": 7})
    file.write_bytes(shorter + record.line(4, other, record.digest(shorter.splitlines()[-1])) + b"\n")
    index.ingest()
    assert [one["number"] for one in index.query()] == [7, 1, 0]


CHILD = {**DECISION, "task": "t-bbbbbbbbbb", "parent": "t-aaaaaaaaaa", "chain": ["t-aaaaaaaaaa"]}
CREATED = {
    "action": "task.create", "operator": "", "task": "t-cccccccccc", "role": "notifier", "parent": "t-bbbbbbbbbb",
    "chain": ["t-aaaaaaaaaa", "t-bbbbbbbbbb"],
}  # fmt: skip


async def test_a_tree_is_a_task_and_every_task_below_it(tmp_path: Path, index: Index) -> None:
    ids = await appended(
        tmp_path,
        ("decision", DECISION),
        ("decision", {**DECISION, "task": "t-other22222"}),
        ("decision", CHILD),
        ("operator", CREATED),
        ("dns", {"task": "t-cccccccccc", "host": "x.com"}),
        ("operator", {"action": "apply", "operator": "bob"}),
        ("decision", {**DECISION, "task": "t-dddddddddd", "parent": "t-cccccccccc", "decision": "deny"}),
    )
    index.ingest()

    def below(task: str, **more: str) -> list[str]:
        return [one["id"] for one in index.query(filters={"tree": task, **more}, after=0)]

    assert below("t-aaaaaaaaaa") == [ids[0], *ids[2:5], ids[6]]
    assert below("t-bbbbbbbbbb") == [*ids[2:5], ids[6]]
    assert below("t-cccccccccc", kind="dns") == [ids[4]]
    assert below("t-dddddddddd", decision="deny") == [ids[6]]
    assert index.query(filters={"tree": "t-aaaaaaaaaa", "task": "t-other22222"}) == []
    assert below("t-zzzzzzzzzz") == []


@pytest.mark.parametrize(
    "lie",
    [
        {"kind": "dns", "task": "t-eeeeeeeeee", "parent": "t-aaaaaaaaaa"},
        {"kind": "operator", "action": "apply", "task": "t-eeeeeeeeee", "parent": "t-aaaaaaaaaa"},
        {"kind": "decision", "task": "t-eeeeeeeeee", "parent": "t-aaaaaaaaaa", "chain": ["'; DROP TABLE kinship"]},
        {"kind": "decision", "task": "t-eeeeeeeeee", "parent": "t-aaaaaaaaaa", "chain": [["x"]]},
        {"kind": "decision", "task": None, "parent": "t-aaaaaaaaaa"},
        {"kind": "decision", "task": "t-eeeeeeeeee", "parent": 7},
    ],
)
async def test_only_a_decision_or_a_creation_says_who_stands_above(
    tmp_path: Path, index: Index, lie: dict[str, Any]
) -> None:
    kind = lie.pop("kind")
    ids = await appended(tmp_path, ("decision", DECISION), (kind, lie))
    index.ingest()
    assert [one["id"] for one in index.query(filters={"tree": "t-aaaaaaaaaa"})] == ids[:1]
    assert index.last() == 3


async def test_a_tree_is_followed_with_children_that_come(tmp_path: Path) -> None:
    await filled(tmp_path, 1, 1 << 16)
    reader = Reader(directory=tmp_path / "audit", file=tmp_path / "index.db")
    now = str(await reader.last())
    following = reader.follow(AuditFilter(tree="t-aaaaaaaaaa", decision="permit", after=now))
    upcoming = asyncio.ensure_future(anext(following))
    other = {**DECISION, "task": "t-other22222"}
    entries = [("operator", CREATED), ("decision", other), ("decision", {**DECISION, "task": "t-cccccccccc"})]
    ids = await appended(tmp_path, *entries)
    async with asyncio.timeout(60):
        assert (await upcoming)["id"] == ids[2]
        upcoming = asyncio.ensure_future(anext(following))
        later = await appended(tmp_path, ("decision", other), ("decision", DECISION))
        assert (await upcoming)["id"] == later[1]
    await following.aclose()
    reader.close()


def test_every_kind_that_is_written_can_be_asked_for() -> None:
    written = {budgets.KIND, shown.KIND, ledger_log.RESERVATION, ledger_log.CHECKPOINT, *lines.UNLISTED}
    assert {"decision", "dns", "boundary", *link.ACCEPTED_KINDS, *written} == set(ports_audit.KINDS)
