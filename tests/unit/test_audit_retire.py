"""Old records leave the log only when an export has them, on record, and what remains still proves that it is whole."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from audit_log import DECISION, journal

from remit.audit import export, head, record, retire, segments, verify
from remit.audit.blocks import Blocks, Mark
from remit.audit.index import Index
from remit.audit.postings import BLOCK, Block
from remit.audit.verify import Kind
from remit.control.ports import Entry
from remit.core.errors import Conflict, NotFound, Unavailable


async def written(directory: Path, count: int = 60, *, checkpoints: bool = True, **fields: Any) -> dict[str, Any]:
    with journal(directory, checkpoint=lambda: [{"part": 1, "parts": 1}] if checkpoints else []) as log:
        for number in range(count):
            await log.append(log.new_id(), Entry(kind="decision", fields={**DECISION, "number": number}))
        if fields:
            await log.append(log.new_id(), Entry(kind="operator", fields=fields))
        signed = log.head()
        assert signed is not None
        return signed


def ending(directory: Path, segment: int) -> dict[str, Any]:
    last = segments.path(directory / "audit", segment).read_bytes().rstrip(b"\0\n").rpartition(b"\n")[2]
    return {
        "action": retire.ACTION,
        "segment": segment,
        "through": record.seq_of(last),
        "through_hash": record.digest(last),
    }


def planned(directory: Path, fields: Mapping[str, Any]) -> Any:
    return retire.plan(directory / "audit", head.Signer(directory / "head.key"), lambda: datetime.now(UTC), fields)


async def retired(directory: Path, segment: int) -> dict[str, Any]:
    """As the node does it: planned, recorded, removed. The head after that."""
    fields = ending(directory, segment)
    remove = planned(directory, fields)
    signed = await written(directory, 1, **fields)
    remove()
    return signed


async def test_what_went_is_vouched_for_by_what_stays(tmp_path: Path) -> None:
    early = await written(tmp_path)
    before = verify.verify(tmp_path / "audit", [early])
    last = segments.numbers(tmp_path / "audit")[-1]
    signed = await retired(tmp_path, 3)
    report = verify.verify(tmp_path / "audit", [early, signed])
    assert report.ok, report
    assert (report.segments, report.retired) == (last - 3, ending_seq(before.records, report))
    signed = await written(tmp_path, 30)
    assert verify.verify(tmp_path / "audit", [early, signed]).ok, "it is written on, and opened again"
    signed = await retired(tmp_path, 5)
    assert verify.verify(tmp_path / "audit", [early, signed]).ok, "and again"


def ending_seq(before: int, report: verify.Report) -> int:
    return before + 2 - report.records


async def test_segments_that_are_taken_away_without_a_record_are_found(tmp_path: Path) -> None:
    signed = await written(tmp_path)
    for number in (1, 2):
        segments.path(tmp_path / "audit", number).unlink()
    problem = verify.verify(tmp_path / "audit", [signed]).problem
    assert problem is not None
    assert (problem.kind, "no record says" in problem.detail) == (Kind.MISSING, True)
    with pytest.raises(Unavailable, match="a segment is missing"):
        await written(tmp_path, 1)


async def test_one_more_than_the_record_says_is_found(tmp_path: Path) -> None:
    await written(tmp_path)
    signed = await retired(tmp_path, 2)
    segments.path(tmp_path / "audit", 3).unlink()
    problem = verify.verify(tmp_path / "audit", [signed]).problem
    assert problem is not None
    assert problem.kind is Kind.MISSING
    with pytest.raises(Unavailable, match="a segment is missing"):
        await written(tmp_path, 1)


@pytest.mark.parametrize("kind", ["decision", "completion"])
async def test_no_agent_can_vouch(tmp_path: Path, kind: str) -> None:
    await written(tmp_path)
    fields = ending(tmp_path, 2)
    with journal(tmp_path) as log:
        await log.append(log.new_id(), Entry(kind=kind, fields={**DECISION, **fields, "notes": {"a": fields}}))
    for number in (1, 2):
        segments.path(tmp_path / "audit", number).unlink()
    problem = verify.verify(tmp_path / "audit").problem
    assert problem is not None
    assert problem.kind is Kind.MISSING


async def test_a_mark_of_another_key_counts_for_nothing(tmp_path: Path) -> None:
    await written(tmp_path)
    await retired(tmp_path, 2)
    mark = tmp_path / "audit" / retire.MARK
    other = head.Signer(tmp_path / "other.key")
    assert retire.begins(tmp_path / "audit", head.Signer(tmp_path / "head.key").public) == 3
    assert retire.begins(tmp_path / "audit", other.public) == 1
    mark.write_text(json.dumps({**json.loads(mark.read_text()), "segment": 9}))
    assert retire.begins(tmp_path / "audit", head.Signer(tmp_path / "head.key").public) == 1


async def test_what_a_crash_left_goes_at_the_next_start(tmp_path: Path) -> None:
    await written(tmp_path)
    kept = {number: segments.path(tmp_path / "audit", number).read_bytes() for number in (2, 3)}
    signed = await retired(tmp_path, 3)
    for number, data in kept.items():
        segments.path(tmp_path / "audit", number).write_bytes(data)
    assert verify.verify(tmp_path / "audit", [signed]).ok
    signed = await written(tmp_path, 1)
    assert segments.numbers(tmp_path / "audit")[0] == 4
    assert verify.verify(tmp_path / "audit", [signed]).ok


async def test_what_budgets_are_added_up_from_stays(tmp_path: Path) -> None:
    await written(tmp_path, checkpoints=False)
    with pytest.raises(ValueError, match="budgets are added up"):
        planned(tmp_path, ending(tmp_path, 2))
    (tmp_path / "b").mkdir()
    await written(tmp_path / "b")
    last = segments.numbers(tmp_path / "b" / "audit")[-1]
    with pytest.raises(ValueError, match="budgets are added up"):
        planned(tmp_path / "b", ending(tmp_path / "b", last))


@pytest.mark.parametrize(
    "changes", [{"through": 3}, {"through_hash": "0" * 64}, {"segment": 99}, {"segment": "1"}, {"through": None}]
)
async def test_what_does_not_name_the_end_of_a_segment_removes_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    await written(tmp_path)
    with pytest.raises(ValueError):
        planned(tmp_path, {**ending(tmp_path, 2), **changes})


async def test_only_what_an_export_has_whole_is_covered(tmp_path: Path) -> None:
    await written(tmp_path)
    audit = tmp_path / "audit"
    index = Index(tmp_path / "index.db", audit)
    index.ingest()
    rows = [row for page in export.whole(index, audit, since=None, until=None) for row in page][1:-1]
    third = ending(tmp_path, 3)

    def covered(count: int, **changes: Any) -> Any:
        wanted = {"first": 1, "last": count, "digest": record.digest(rows[count - 1]), "before": None}
        return retire.covered(audit, **{**wanted, **changes})

    assert (covered(third["through"]).segment, covered(third["through"]).hash) == (3, third["through_hash"])
    assert covered(third["through"] + 2).segment == 3
    assert covered(third["through"] - 1).segment == 2
    assert covered(len(rows)).segment == segments.numbers(audit)[-1] - 1, "never the one that is written to"
    with pytest.raises(Conflict, match="begins with record 5"):
        covered(third["through"], first=5)
    with pytest.raises(Conflict, match="is not the one in the log"):
        covered(third["through"], digest="0" * 64)
    with pytest.raises(Conflict, match="the log with"):
        covered(third["through"], last=10_000)
    with pytest.raises(NotFound):
        covered(third["through"], before=datetime(2000, 1, 1, tzinfo=UTC))
    with pytest.raises(NotFound):
        covered(3)
    index.close()


async def test_the_index_forgets_what_went_and_finds_what_stays(tmp_path: Path) -> None:
    await written(tmp_path)
    index = Index(tmp_path / "index.db", tmp_path / "audit")
    index.ingest()
    whole = index.query(limit=1000)
    await retired(tmp_path, 3)
    index.ingest()
    found = index.query(limit=1000)
    assert [one["id"] for one in found[2:]] == [one["id"] for one in whole if one["seq"] >= found[-1]["seq"]]
    assert index.query(after=0, limit=1)[0]["id"] == found[-1]["id"]
    with pytest.raises(NotFound):
        index.get(whole[-1]["id"])
    index.close()
    again = Index(tmp_path / "index.db", tmp_path / "audit")
    again.ingest()
    assert again.query(limit=1000) == found
    rows = [row for page in export.whole(again, tmp_path / "audit", since=None, until=None) for row in page][1:-1]
    assert record.seq_of(rows[0]) == verify.verify(tmp_path / "audit").retired + 1
    again.close()


def test_who_stands_above_is_known_for_as_long_as_there_are_records_of_a_task(tmp_path: Path) -> None:
    top, child, gone, fresh = (f"t-{letter * 10}" for letter in "abcd")
    blocks = Blocks(tmp_path / "index.db")
    first, second = Block(number=0), Block(number=1)
    for block, tasks in ((first, (child, gone)), (second, (child,))):
        for at, task in enumerate(tasks):
            block.add(block.number * BLOCK + at, 1, 1, "r-1")
            block.terms["task", task] = [at]
        blocks.add(block, Mark(seq=1))
    first.kinship.update({(top, child), (top, gone), (top, fresh)})
    blocks.add(first, Mark(seq=1))
    assert blocks.below(top, ()) == {top, child, gone, fresh}
    blocks.forget(1, {fresh})
    assert blocks.below(top, ()) == {top, child, fresh}
    assert blocks.below(top, {(child, "t-eeeeeeeeee")}) == {top, child, fresh, "t-eeeeeeeeee"}
    blocks.close()


class Log:
    """A log in segments, each with a checkpoint, and what an export of its first records would say."""

    def __init__(self, directory: Path) -> None:
        self.audit = directory / "audit"
        self.numbers = segments.numbers(self.audit)

    def lines(self) -> list[bytes]:
        return [
            line
            for number in self.numbers
            for _, found in segments.blocks(segments.path(self.audit, number))
            for line in found
        ]

    def end(self, segment: int) -> dict[str, Any]:
        return ending(self.audit.parent, segment)

    def expendable(self, through: int, **bounds: Any) -> Any:
        wanted = {"before": None, "keep_bytes": None, **bounds}
        if "digest" not in bounds:
            wanted["digest"] = record.digest(self.lines()[through - 1])
        return retire.expendable(self.audit, through=through, **wanted)

    def size(self, first: int) -> int:
        return sum(segments.path(self.audit, number).stat().st_size for number in self.numbers if number >= first)


TOMORROW, LONG_AGO = datetime(2100, 1, 1, tzinfo=UTC), datetime(2000, 1, 1, tzinfo=UTC)


async def test_what_was_acknowledged_and_is_old_or_too_much_is_expendable_and_nothing_else(tmp_path: Path) -> None:
    await written(tmp_path)
    log = Log(tmp_path)
    third, every = log.end(3), len(log.lines())
    last = log.numbers[-1]
    assert log.expendable(every) is None, "no bound"
    assert log.expendable(every, before=LONG_AGO, keep_bytes=1 << 30) is None, "within both"
    assert log.expendable(third["through"], before=TOMORROW).segment == 3
    assert log.expendable(third["through"], before=TOMORROW).hash == third["through_hash"]
    assert log.expendable(third["through"], keep_bytes=1).seq == third["through"], "however large what is left"
    assert log.expendable(third["through"] - 1, before=TOMORROW).segment == 2, "never what was not acknowledged"
    assert log.expendable(3, before=TOMORROW, keep_bytes=0) is None
    assert log.expendable(every, keep_bytes=log.size(3)).segment == 2, "as much as is needed"
    assert log.expendable(every, keep_bytes=log.size(1)) is None
    assert log.expendable(every, before=TOMORROW).segment == last - 1, "never the one that is written to"
    with pytest.raises(Conflict, match="is not the one in the log"):
        log.expendable(third["through"], before=TOMORROW, digest="0" * 64)
    with pytest.raises(Conflict, match="is not the one in the log"):
        log.expendable(every + 7, before=TOMORROW, digest="0" * 64)


async def test_what_budgets_are_added_up_from_is_not_expendable(tmp_path: Path) -> None:
    await written(tmp_path, checkpoints=False)
    log = Log(tmp_path)
    assert log.expendable(len(log.lines()), before=TOMORROW, keep_bytes=0) is None


async def test_the_node_agrees_to_what_is_expendable(tmp_path: Path) -> None:
    await written(tmp_path)
    log = Log(tmp_path)
    going = log.expendable(len(log.lines()), keep_bytes=log.size(4))
    fields = {"segment": going.segment, "through": going.seq, "through_hash": going.hash}
    remove = planned(tmp_path, fields)
    signed = await written(tmp_path, 1, action=retire.ACTION, **fields)
    remove()
    assert segments.numbers(tmp_path / "audit")[0] == 4
    assert verify.verify(tmp_path / "audit", [signed]).ok


async def test_an_empty_log_has_nothing_to_give(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()
    assert retire.expendable(tmp_path / "audit", through=5, digest="0" * 64, before=TOMORROW, keep_bytes=0) is None


async def test_an_export_leaves_no_gap_behind_what_was_acknowledged(tmp_path: Path) -> None:
    await written(tmp_path)
    log = Log(tmp_path)
    lines = log.lines()

    def continues(first: int, last: int, since: int, digest: str = "") -> None:
        found = digest or record.digest(lines[last - 1])
        retire.continues(log.audit, first=first, last=last, digest=found, since=since)

    continues(1, 9, 0)
    continues(10, 20, 9)
    continues(5, 20, 9)
    with pytest.raises(Conflict, match="records 10 to 10 are in none"):
        continues(11, 20, 9)
    with pytest.raises(Conflict, match="records 1 to 1 are in none"):
        continues(2, 20, 0)
    with pytest.raises(Conflict, match="is not the one in the log"):
        continues(1, 20, 0, digest="0" * 64)
    end = log.end(2)["through"]
    await retired(tmp_path, 2)
    continues(end + 1, end + 5, 0)
    with pytest.raises(Conflict, match="are in none"):
        continues(end + 2, end + 5, 0)
