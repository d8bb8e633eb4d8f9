"""Budgets where decisions are made: with real decisions, a real log under them, and restarts in between."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from audit_log import content

from remit import testing
from remit.audit import head, record, replay, segments, verify
from remit.audit.journal import Journal
from remit.control import deciding
from remit.control.decide import Denied, Held, Permitted
from remit.control.knowledge import Knowledge
from remit.control.observing import UNHEARD, Observer
from remit.control.openings import Openings
from remit.control.ports import Entry
from remit.core import budget, flow
from remit.core.budget import Budget, Quantity
from remit.core.claims import Claims
from remit.core.decision import Opinion
from remit.core.ledger_log import CHECKPOINT_BYTES, MARKS
from remit.core.request import Evidence
from remit.core.snapshot import Snapshot
from remit.core.task import State, Task
from remit.policy import compile as compiler
from remit.policy import manifests

TASK = "t-aaaaaaaaaa"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOST = "api.a.com"


def knowing(
    budgets: str = "[]",
    *,
    of_capability: str = "[]",
    own: tuple[Budget, ...] = (),
    epoch: int = 1,
    approval: str = "never",
) -> Snapshot:
    text = (
        "apiVersion: remit.dev/v1alpha1\nkind: Role\nmetadata: {name: r}\n"
        f"spec: {{capabilities: [c], budgets: {budgets}}}\n---\n"
        "apiVersion: remit.dev/v1alpha1\nkind: Capability\nmetadata: {name: c}\n"
        f"spec: {{hosts: [{HOST}], budgets: {of_capability}, approval: {approval}}}\n"
    )
    task = Task(id=TASK, role="r", state=State.RUNNING, cell=1, created=NOW, budgets=own)
    rules = compiler.rules(manifests.parse(text, "m"))
    return Snapshot(version="1", epoch=epoch, rules=rules, tasks={TASK: task})


def asking(length: int | None = None, path: str = "/x") -> Evidence:
    return Evidence(
        token=b"good", peer="100.64.0.1:1024", direct_peer="100.64.0.1:1024",
        destination=f"{flow.virtual(HOST)[0]}:443", sni=HOST, tls=True, method="GET", authority=HOST,
        target=path, headers={} if length is None else {"content-length": str(length)},
    )  # fmt: skip


class World:
    """One life of a decision service. `cuts`: what was cut."""

    def __init__(
        self, snapshot: Snapshot, journal: Any, clock: testing.ManualClock, opinion: Opinion | None = None
    ) -> None:
        self.cuts: list[tuple[str, int | None]] = []
        self.clock, self.journal = clock, journal
        self.knowledge = Knowledge(lease_s=30, monotonic=lambda: 0.0)
        above = snapshot.tasks[TASK].parent
        claims = Claims(trust_domain="remit.local", role="r", task=TASK, jti="j", issued=0, expires=9, parent=above)
        made = deciding.over(
            knowledge=self.knowledge,
            clock=clock,
            monotonic=lambda: 0.0,
            journal=journal,
            openings=Openings(longest_s=3600, monotonic=lambda: 0.0),
            cut=lambda task, port: self.cuts.append((task, port)),
            verifier=testing.StaticVerifier({b"good": claims}),
            policies=testing.StaticPolicies(opinion),
            resolver=testing.StaticResolver({HOST: (ipaddress.ip_address("8.8.8.8"),)}),
            secrets=testing.MemorySecrets(),
            answer_max_s=60,
        )
        self.decider, self.budgets = made.decider, made.budgets
        self.know(snapshot)

    def know(self, snapshot: Snapshot) -> None:
        self.knowledge.replace(snapshot)
        self.knowledge.heard()

    async def ask(self, length: int | None = None, path: str = "/x") -> Permitted | Denied:
        answer = await self.decider.check(asking(length, path))
        assert not isinstance(answer, Held)
        return answer

    async def reason(self, length: int | None = None) -> str:
        answer = await self.ask(length)
        return answer.refusal.reason.value if isinstance(answer, Denied) else "permitted"

    async def end(self, record: str, out: int, into: int) -> None:
        fields = {"bytes_out": out, "bytes_in": into}
        more = self.budgets.ended(record, fields)
        entry = Entry(kind="completion", fields={"record": record, **fields, **more})
        await self.journal.append(self.journal.new_id(), entry)

    def used(self) -> dict[str, int]:
        return {str(one["budget"]): int(one["used"]) for one in self.budgets.show()}


def world(snapshot: Snapshot, opinion: Opinion | None = None) -> World:
    return World(snapshot, testing.MemoryJournal(), testing.ManualClock(NOW), opinion)


@asynccontextmanager
async def life(directory: Path, snapshot: Snapshot, clock: testing.ManualClock) -> AsyncIterator[World]:
    """From the log to a decision service and back; segments are tiny."""
    directory.mkdir(exist_ok=True)
    holder: list[World] = []
    journal = Journal(
        directory / "audit",
        segment_bytes=4096,
        signer=head.Signer(directory / "head.key"),
        now=clock.now,
        checkpoint=lambda: holder[0].budgets.checkpoint(),
    )
    try:
        holder.append(World(snapshot, journal, clock))
        holder[0].budgets.fold(replay.since_checkpoint(directory / "audit", MARKS))
        yield holder[0]
    finally:
        journal.close()


async def test_a_denial_comes_before_the_address_and_after_the_capability() -> None:
    one = world(knowing("[{requests: 0}]"))
    answer = await one.ask()
    assert isinstance(answer, Denied)
    assert (answer.refusal.reason, answer.refusal.meaning.step) == ("budget_exhausted", "budget")
    assert answer.refusal.facts["left"] == 0
    assert answer.refusal.retry_after_s is None, "nothing returns by itself"


async def test_what_a_policy_says_comes_before_a_budget() -> None:
    one = world(knowing("[{requests: 0}]"), Opinion(denials=(("p", "no"),)))
    assert await one.reason() == "policy_denied"


async def test_every_budget_that_applies_must_have_room() -> None:
    own = (Budget(quantity=Quantity.REQUESTS, limit=3),)
    one = world(knowing("[{requests: 2, each: task}]", of_capability="[{requests: 5}]", own=own))
    assert [await one.reason() for _ in range(3)] == ["permitted", "permitted", "budget_exhausted"]
    assert one.used() == {
        f"task/{TASK}/requests": 2,
        f"role/r/task/{TASK}/requests": 2,
        "capability/c/requests": 2,
    }


async def test_at_once_no_more_are_permitted_than_there_is_room_for() -> None:
    one = world(knowing("[{requests: 7}]"))
    found = await asyncio.gather(*(one.reason() for _ in range(50)))
    assert found.count("permitted") == 7


async def test_what_cannot_be_recorded_is_given_back() -> None:
    one = world(knowing("[{requests: 1}, {bytesOut: 1Mi}]"))
    one.journal.full = True
    assert await one.reason() == "audit_unavailable"
    one.journal.full = False
    assert await one.reason() == "permitted"
    assert await one.reason() == "budget_exhausted"


class Meanwhile(testing.MemoryJournal):
    """Does something while a decision is being written."""

    act: Any = None

    async def append(self, record: str, entry: Entry) -> None:
        await super().append(record, entry)
        act, self.act = self.act, None
        if act is not None:
            act()


async def test_a_request_that_is_decided_again_is_charged_once_also_in_the_log() -> None:
    journal = Meanwhile()
    one = World(knowing("[{requests: 5}, {bytesIn: 16Mi}]"), journal, testing.ManualClock(NOW))
    journal.act = lambda: one.know(knowing("[{requests: 5}, {bytesIn: 16Mi}]", epoch=2))
    assert await one.reason() == "permitted"
    assert one.used() == {"role/r/bytesIn": budget.RESERVE_BYTES, "role/r/requests": 1}
    again = world(knowing("[{requests: 5}, {bytesIn: 16Mi}]"))
    again.budgets.fold({"id": record, "kind": entry.kind, **entry.fields} for record, entry in journal.entries)
    assert again.used() == one.used()


async def test_a_request_that_is_refused_the_second_time_gets_its_charge_back() -> None:
    journal = Meanwhile()
    one = World(knowing("[{requests: 5}]"), journal, testing.ManualClock(NOW))
    ended = knowing("[{requests: 5}]", epoch=2)
    gone = dataclasses.replace(ended.tasks[TASK], state=State.REVOKED)
    journal.act = lambda: one.know(dataclasses.replace(ended, tasks={TASK: gone}))
    assert await one.reason() == "task_revoked"
    assert one.used() == {"role/r/requests": 0}
    assert "returned" in journal.entries[-1][1].fields


async def test_a_request_that_must_wait_the_second_time_gets_its_charge_back_also_in_the_log() -> None:
    journal, budgets = Meanwhile(), "[{requests: 5}, {bytesIn: 16Mi}]"
    one = World(knowing(budgets), journal, testing.ManualClock(NOW))
    journal.act = lambda: one.know(knowing(budgets, epoch=2, approval="ask"))
    assert isinstance(await one.decider.check(asking()), Held)
    assert one.used() == {"role/r/bytesIn": 0, "role/r/requests": 0}
    again = world(knowing(budgets))
    again.budgets.fold({"id": record, "kind": entry.kind, **entry.fields} for record, entry in journal.entries)
    assert again.used() == one.used()
    told = json.dumps(journal.entries[-1][1].fields, separators=(",", ":")).encode()
    assert any(mark in told for mark in MARKS), "a fold over the log reads this line"


async def test_a_clock_that_steps_back_returns_nothing() -> None:
    one = world(knowing("[{requests: 1, per: 1m}]"))
    assert await one.reason() == "permitted"
    one.clock.advance(-86400)
    assert await one.reason() == "budget_exhausted"
    one.clock.advance(86400 + 30)
    assert await one.reason() == "budget_exhausted"
    one.clock.advance(32)
    assert await one.reason() == "permitted"


@pytest.mark.parametrize("limit", ["1Mi", "100Ki"])
async def test_a_small_budget_of_bytes_has_room_for_several_requests_at_once(limit: str) -> None:
    one = world(knowing(f"[{{bytesIn: {limit}}}]"))
    answers = [await one.ask() for _ in range(3)]
    assert all(isinstance(answer, Permitted) for answer in answers)
    for answer in answers:
        assert isinstance(answer, Permitted)
        await one.end(answer.record, 0, 1)
    assert one.used() == {"role/r/bytesIn": 3}
    assert [entry for _, entry in one.journal.entries if entry.kind == "budget"] == [], "nobody is warned"


async def test_a_permit_that_nobody_heard_moved_nothing_and_its_end_is_on_record() -> None:
    """A disk that stalls for longer than Envoy waits must not use up the budget of a task that asks again."""
    one = world(knowing("[{requests: 50}, {bytesIn: 16Mi}]"))
    openings = Openings(longest_s=3600, monotonic=lambda: 0.0)
    observer = Observer(
        knowledge=one.knowledge,
        journal=one.journal,
        openings=openings,
        budgets=one.budgets,
        secrets=testing.MemorySecrets({}),
    )
    for _ in range(40):
        answer = await one.ask()
        assert isinstance(answer, Permitted), answer
        await observer.unheard(answer.record)
    assert one.used() == {"role/r/bytesIn": 0, "role/r/requests": 40}
    _, last = one.journal.entries[-1]
    assert (last.kind, last.fields["record"], last.fields["ending"]) == ("completion", answer.record, UNHEARD)


async def test_a_stream_takes_more_while_there_is_some_and_is_cut_after_that() -> None:
    one = world(knowing("[{bytesIn: 3Mi}]"))
    answer = await one.ask()
    assert isinstance(answer, Permitted)
    moved = {"bytes_out": 0, "flow": "100.64.0.1:1024"}
    first = 3 * budget.RESERVE_BYTES // budget.AT_ONCE
    await one.budgets.counted(answer.record, {**moved, "bytes_in": first})
    assert one.used() == {"role/r/bytesIn": first}
    await one.budgets.counted(answer.record, {**moved, "bytes_in": first + 1})
    assert one.used() == {"role/r/bytesIn": budget.RESERVE_BYTES + first + 1}
    assert one.cuts == []
    await one.budgets.counted(answer.record, {**moved, "bytes_in": 3 * budget.RESERVE_BYTES + 5})
    assert one.cuts == [(TASK, 1024)]
    assert await one.reason() == "budget_exhausted"
    await one.end(answer.record, 0, 3 * budget.RESERVE_BYTES + 9)
    assert one.used() == {"role/r/bytesIn": 3 * budget.RESERVE_BYTES + 9}


async def test_a_stream_is_cut_when_the_time_of_its_task_is_over_until_it_is_raised() -> None:
    one = world(knowing("[{time: 1h}]"))
    one.clock.advance(3599)
    one.budgets.sweep()
    assert (one.cuts, await one.reason()) == ([], "permitted")
    one.clock.advance(1)
    for _ in range(5):
        one.budgets.sweep()
    assert one.cuts == [(TASK, None)] * 3
    assert await one.reason() == "budget_exhausted"
    one.budgets.raised("r-1", {"budget": f"role/r/task/{TASK}/time", "by": 60})
    one.budgets.sweep()
    assert await one.reason() == "permitted"


async def test_each_time_that_is_over_cuts_on_its_own() -> None:
    one = world(knowing("[{time: 2m}]", of_capability="[{time: 1m}]"))
    for seconds, cuts in ((61, 3), (60, 6)):
        one.clock.advance(seconds)
        for _ in range(5):
            one.budgets.sweep()
        assert one.cuts == [(TASK, None)] * cuts


@pytest.mark.parametrize("own", [(), (Budget(quantity=Quantity.REQUESTS, limit=9),)], ids=["none", "some"])
async def test_a_child_spends_what_its_parents_have(own: tuple[Budget, ...]) -> None:
    parent = Task(
        id="t-bbbbbbbbbb", role="r", state=State.RUNNING, cell=2, created=NOW,
        budgets=(Budget(quantity=Quantity.REQUESTS, limit=2), Budget(quantity=Quantity.TIME, limit=60)),
    )  # fmt: skip
    known = knowing(own=own)
    child = dataclasses.replace(known.tasks[TASK], parent=parent.id)
    role = dataclasses.replace(known.rules.roles["r"], delegates=frozenset({"r"}))
    rules = dataclasses.replace(known.rules, roles={"r": role})
    one = world(dataclasses.replace(known, rules=rules, tasks={TASK: child, parent.id: parent}))
    assert [await one.reason() for _ in range(3)] == ["permitted", "permitted", "budget_exhausted"]
    assert one.used()[f"task/{parent.id}/requests"] == 2
    one.budgets.raised("r-1", {"budget": f"task/{parent.id}/requests", "by": 5})
    assert await one.reason() == "permitted"
    one.clock.advance(61)
    assert await one.reason() == "budget_exhausted"


async def test_a_raise_that_could_not_be_recorded_makes_no_room() -> None:
    one = world(knowing("[{requests: 1}]"))
    fields = {"budget": "role/r/requests", "by": 5}
    fields |= one.budgets.raised("r-1", fields)
    one.budgets.raise_failed("r-1", fields)
    assert [await one.reason() for _ in range(2)] == ["permitted", "budget_exhausted"]


async def test_a_warning_is_written_once_when_four_fifths_are_used() -> None:
    one = world(knowing("[{requests: 10}]"))
    for _ in range(10):
        await one.reason()
    warnings = [entry.fields for _, entry in one.journal.entries if entry.kind == "budget"]
    assert [(warning["event"], warning["used"]) for warning in warnings] == [("warning", 8)]


def warnings(one: World) -> list[tuple[object, ...]]:
    told = [entry.fields for _, entry in one.journal.entries if entry.kind == "budget"]
    return [(fields["task"], fields["budget"], fields["used"], fields["limit"]) for fields in told]


async def test_time_that_runs_out_is_told_once_while_nobody_asks_and_again_after_a_raise() -> None:
    one = world(knowing("[{time: 100s}]"))
    account = f"role/r/task/{TASK}/time"
    one.clock.advance(79)
    await one.budgets.warn()
    assert warnings(one) == []
    one.clock.advance(1)
    for _ in range(3):
        await one.budgets.warn()
    assert warnings(one) == [(TASK, account, 80, 100)]
    one.budgets.raised("r-1", {"budget": account, "by": 100})
    await one.budgets.warn()
    one.clock.advance(80)
    await one.budgets.warn()
    assert warnings(one)[1:] == [(TASK, account, 160, 200)]


async def test_bytes_of_a_stream_that_runs_out_are_told_once() -> None:
    one = world(knowing("[{bytesIn: 100Mi}]"))
    answer = await one.ask()
    assert isinstance(answer, Permitted)
    moved = {"bytes_out": 0, "flow": "100.64.0.1:1024"}
    for megabytes in (60, 85, 90):
        await one.budgets.counted(answer.record, {**moved, "bytes_in": megabytes << 20})
        await one.budgets.warn()
    ((task, account, used, limit),) = warnings(one)
    assert (task, account, limit) == (None, "role/r/bytesIn", 100 << 20)
    assert isinstance(used, int)
    assert used >= 85 << 20
    await one.end(answer.record, 0, 90 << 20)
    assert await one.reason() == "permitted"
    await one.budgets.warn()
    assert len(warnings(one)) == 1


async def test_lives_and_segments_add_up_to_one_ledger(tmp_path: Path) -> None:
    clock = testing.ManualClock(NOW)
    snapshot = knowing("[{requests: 100}, {bytesIn: 1Gi, per: 1h}, {requests: 90, per: 1d}]")
    permitted, open_ones = 0, list[str]()
    for number in range(8):
        async with life(tmp_path, snapshot, clock) as one:
            answers = await asyncio.gather(*(one.ask(path=f"/{number}/{n}") for n in range(15)))
            records = [answer.record for answer in answers if isinstance(answer, Permitted)]
            permitted += len(records)
            for record in open_ones:
                await one.end(record, 0, 100)
            open_ones = records
            clock.advance(60)
            last = one.used()
    assert permitted == 90
    assert last["role/r/requests"] == last["role/r/requests/1d"] == 90
    assert len(segments.numbers(tmp_path / "audit")) > 5
    assert verify.verify(tmp_path / "audit").ok
    async with life(tmp_path, snapshot, clock) as one:
        assert one.used() == last
        first = next(iter(replay.since_checkpoint(tmp_path / "audit", MARKS)))
        assert first["kind"] == "checkpoint", "the whole log was not read"


async def test_a_warning_is_not_told_again_by_the_next_life_until_there_was_room_meanwhile(tmp_path: Path) -> None:
    def told() -> list[str]:
        lines = (json.loads(line) for line in content(tmp_path).replace(b"\0", b"").splitlines())
        return [found["budget"] for found in lines if found.get("event") == "warning"]

    clock, snapshot = testing.ManualClock(NOW), knowing("[{time: 1000s}, {bytesIn: 100Mi, per: 1h}, {requests: 100}]")
    clock.advance(850)
    first = [f"role/r/task/{TASK}/time", "role/r/bytesIn/1h"]
    for number in range(6):
        async with life(tmp_path, snapshot, clock) as one:
            one.know(dataclasses.replace(snapshot, epoch=number + 1))
            if number == 0:
                answer = await one.ask()
                assert isinstance(answer, Permitted)
                moved = {"bytes_out": 0, "bytes_in": 90 << 20, "flow": "100.64.0.1:1024"}
                await one.budgets.counted(answer.record, moved)
            await asyncio.gather(*(one.ask(path=f"/{number}/{n}") for n in range(9)))
            await one.budgets.warn()
            assert sorted(told()) == sorted(first)
    assert len(segments.numbers(tmp_path / "audit")) > 3
    async with life(tmp_path, snapshot, clock) as one:
        one.budgets.raised("r-1", {"budget": first[0], "by": 1000})
        await one.budgets.warn()
        clock.advance(800)
        await one.budgets.warn()
        assert sorted(told()) == sorted([*first, first[0]])


def test_a_record_that_is_too_long_loses_none_of_its_charges() -> None:
    charges = {f"capability/{'c' * 63}/task/{TASK}/requests/{n}h/calendar": n for n in range(1, 70)}
    notes = {f"{n}-{'n' * 100}": "x" * 5000 for n in range(200)}
    fields = {"notes": notes, "charges": charges, "charged_at": 1}
    line = record.line(1, record.body("r-a", record.stamp(NOW), "decision", fields), record.GENESIS)
    assert len(line) < record.MAX_LINE
    assert json.loads(line)["charges"] == charges


async def test_a_raise_is_folded_from_its_record(tmp_path: Path) -> None:
    clock, snapshot = testing.ManualClock(NOW), knowing("[{requests: 1}]")
    async with life(tmp_path, snapshot, clock) as one:
        assert [await one.reason() for _ in range(2)] == ["permitted", "budget_exhausted"]
        fields = {"action": "budget.raise", "budget": "role/r/requests", "by": 1}
        name = one.journal.new_id()
        fields |= one.budgets.raised(name, fields)
        await one.journal.append(name, Entry(kind="operator", fields=fields))
        one.budgets.confirm(name)
    async with life(tmp_path, snapshot, clock) as one:
        assert [await one.reason() for _ in range(2)] == ["permitted", "budget_exhausted"]


async def test_a_ledger_too_large_for_a_checkpoint_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remit.control.openings.AT_ONCE", 1 << 20)  # what Envoy never said ended, of many tasks
    one = world(knowing("[{bytesIn: 1Ti}]"))
    assert len(one.budgets.checkpoint()) == 1
    for number in range(200):
        await one.ask(path=f"/{number}")
    parts = one.budgets.checkpoint()
    assert [part["part"] for part in parts] == list(range(1, len(parts) + 1))
    assert all(len(json.dumps(part)) < 30_000 for part in parts)
    for number in range(CHECKPOINT_BYTES // 80):
        await one.ask(path=f"/{number}")
    assert one.budgets.checkpoint() == []


@pytest.mark.parametrize("fields", [{}, {"budget": "role/r/requests", "by": 0}, {"budget": "nothing", "by": 1}])
async def test_what_is_no_raise_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"raise without|not the name"):
        world(knowing()).budgets.raised("r-1", fields)
