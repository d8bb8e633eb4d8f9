"""The link between control plane and node, both ends real, and a far end that misbehaves."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from remit import testing
from remit.api import link as module
from remit.api.link import NodeLink
from remit.control.budgets import Budgets
from remit.control.catalog import Catalog
from remit.control.knowledge import Knowledge
from remit.control.pending import Pending
from remit.control.ports_control import Known, RevocationKind
from remit.control.publish import Publisher
from remit.control.reaching import Reaching
from remit.control.recording import Recorder
from remit.core import frame
from remit.core.budget import Budget, Quantity
from remit.core.errors import Unavailable
from remit.core.names import Address
from remit.core.snapshot import Role, Rules, Snapshot
from remit.core.task import State, Task
from remit.node import link as node_link
from remit.node.link import Link

HEAD = {"seq": 3, "hash": "abc", "signature": "…"}


class Bench:
    """A control end listening, over an in-memory store."""

    def __init__(self, tmp_path: Path) -> None:
        self.socket = tmp_path / "node.sock"
        self.cache = tmp_path / "snapshot.json"
        self.store, self.clock = testing.MemoryStore(), testing.ManualClock()
        self.link = NodeLink(store=self.store, clock=self.clock, cells=testing.MemoryCells())
        pending = Pending(testing.MemoryReserve(), self.clock.now())
        self.publisher = Publisher(
            store=self.store,
            node=self.link,
            issuer=testing.MemoryIssuer(),
            clock=self.clock,
            pending=pending,
            reaching=Reaching(store=self.store, cells=testing.MemoryCells(), catalog=Catalog(), pending=pending),
        )
        self.knowledge = Knowledge(lease_s=30, monotonic=lambda: 0.0)
        self.journal = testing.MemoryJournal()
        self.publisher.begin()
        self.far_ends = list[Rough]()

    def node(self) -> Link:
        return Link(
            socket=self.socket,
            cache=self.cache,
            knowledge=self.knowledge,
            journal=self.journal,
            head=lambda: HEAD,
            using=lambda kind, name: {"t-aaaaaaaaaa": frozenset({1025, 1024}), f"{kind}-{name}": frozenset()},
        )

    def change(self) -> int:
        with self.store.unit() as unit:
            return unit.advance_epoch(self.clock.now())


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    async with made.link.listening(made.socket, made.publisher.current):
        yield made
        for end in made.far_ends:
            end.writer.close()
            with contextlib.suppress(OSError):
                await end.writer.wait_closed()


@contextlib.asynccontextmanager
async def running(node: Link) -> AsyncIterator[None]:
    task = asyncio.ensure_future(node.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


class Rough:
    """A far end that says what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._decoder, self._waiting = frame.Decoder(), list[dict[str, Any]]()

    async def say(self, message: dict[str, Any]) -> None:
        self.writer.write(frame.encode(message))
        await self.writer.drain()

    async def hear(self) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while not self._waiting:
                data = await self.reader.read(1 << 16)
                if not data:
                    raise EOFError
                self._waiting += self._decoder.feed(data)
        return self._waiting.pop(0)


async def rough(bench: Bench) -> Rough:
    end = Rough(*await asyncio.open_unix_connection(str(bench.socket)))
    bench.far_ends.append(end)
    await end.say({"type": "hello", "node": "local"})
    assert (await end.hear())["type"] == "snapshot"
    return end


def test_constants_stay_below_the_lease() -> None:
    assert module.PING_S < module.SILENCE_S < 30


async def test_only_the_owner_reaches_the_socket(bench: Bench) -> None:
    assert stat.S_IMODE(bench.socket.stat().st_mode) == 0o660


async def test_a_node_gets_the_whole_snapshot_when_it_connects(bench: Bench) -> None:
    assert not bench.link.connected
    async with running(bench.node()):
        await until(lambda: bench.link.acked_epoch > 0)
        assert bench.link.connected
        assert bench.knowledge.snapshot.epoch == bench.link.acked_epoch
        assert bench.knowledge.refusal() is None


async def test_publish_returns_when_the_change_is_in_force(bench: Bench) -> None:
    async with running(bench.node()):
        await until(lambda: bench.link.acked_epoch)
        epoch = bench.change()
        await bench.publisher.publish()
        assert bench.knowledge.snapshot.epoch == epoch


async def test_an_operator_record_is_durable_when_its_id_comes_back(bench: Bench) -> None:
    async with running(bench.node()):
        await until(lambda: bench.link.connected)
        record = await bench.link.record("operator", {"action": "x"})
        assert [(r, e.kind, dict(e.fields)) for r, e in bench.journal.entries] == [
            (record, "operator", {"action": "x"})
        ]
        bench.journal.full = True
        with pytest.raises(Unavailable, match="full"):
            await bench.link.record("operator", {"action": "y"})


async def test_audit_heads_are_kept_as_they_came(bench: Bench) -> None:
    def latest() -> Any:
        with bench.store.unit() as unit:
            return unit.heads.latest()

    async with running(bench.node()):
        await until(latest)
    assert (latest().seq, latest().hash, latest().fields) == (3, "abc", HEAD)


async def test_without_a_node_nothing_is_promised(bench: Bench) -> None:
    bench.change()
    with pytest.raises(Unavailable, match="no node is connected"):
        await bench.publisher.publish()
    with pytest.raises(Unavailable, match="no node is connected"):
        await bench.link.record("operator", {})


async def test_an_action_waits_for_a_node_that_is_starting_again(bench: Bench) -> None:
    acting = asyncio.ensure_future(Recorder(bench.link).before("x", "root", "y"))
    await asyncio.sleep(0)
    assert not acting.done()
    async with running(bench.node()):
        assert (await acting).startswith("r-")


async def test_an_action_is_refused_where_no_node_comes_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETURN_S", 0.01)
    with pytest.raises(Unavailable, match=r"nothing was changed.*no node is connected"):
        await Recorder(bench.link).before("x", "root", "y")


async def test_an_ack_of_an_older_epoch_is_not_enough(bench: Bench) -> None:
    end = await rough(bench)
    epoch = bench.change()
    publishing = asyncio.ensure_future(bench.publisher.publish())
    assert (await end.hear())["snapshot"]["epoch"] == epoch
    await end.say({"type": "ack", "epoch": epoch - 1, "version": ""})
    await until(lambda: bench.link.acked_epoch == epoch - 1)
    assert not publishing.done()
    await end.say({"type": "ack", "epoch": epoch, "version": ""})
    await publishing


async def test_whoever_waits_is_told_when_the_node_goes(bench: Bench) -> None:
    end = await rough(bench)
    bench.change()
    publishing = asyncio.ensure_future(bench.publisher.publish())
    recording = asyncio.ensure_future(bench.link.record("operator", {}))
    await end.hear()
    await end.hear()
    end.writer.close()
    for waiting in (publishing, recording):
        with pytest.raises(Unavailable, match="broke"):
            await waiting
    await until(lambda: not bench.link.connected)


async def test_the_newest_connection_is_the_node(bench: Bench) -> None:
    old = await rough(bench)
    new = await rough(bench)
    with pytest.raises(EOFError):
        await old.hear()
    assert bench.link.connected
    assert bench.link.acked_epoch == 0, "what the old one acknowledged says nothing of the new one"
    new.writer.close()


@pytest.mark.parametrize(
    "message",
    [
        {"type": "unheard"},
        {"type": "ack", "epoch": "1"},
        {"type": "ack"},
        {"type": "head", "seq": "x", "hash": 1},
        {"type": None},
        {},
        {"type": ["hello"]},
    ],
)
async def test_a_far_end_that_talks_nonsense_is_dropped_and_the_next_one_served(
    bench: Bench, message: dict[str, Any]
) -> None:
    end = await rough(bench)
    await end.say(message)
    with pytest.raises(EOFError):
        await end.hear()
    async with running(bench.node()):
        await until(lambda: bench.link.acked_epoch)


async def test_bytes_that_are_no_frames_end_the_connection(bench: Bench) -> None:
    end = await rough(bench)
    end.writer.write(b"\xff" * 64)
    with pytest.raises(EOFError):
        await end.hear()


async def test_a_record_answer_that_nobody_asked_for_is_ignored(bench: Bench) -> None:
    end = await rough(bench)
    await end.say({"type": "recorded", "id": 99, "record": "r-1"})
    await end.say({"type": "pong"})
    epoch = bench.change()
    publishing = asyncio.ensure_future(bench.publisher.publish())
    await end.hear()
    await end.say({"type": "ack", "epoch": epoch, "version": ""})
    await publishing
    end.writer.close()


async def test_a_node_that_falls_silent_is_taken_for_gone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.5)
    end = await rough(bench)
    with pytest.raises(EOFError):
        await end.hear()
    await until(lambda: not bench.link.connected)


async def test_the_node_is_pinged(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PING_S", 0.01)
    end = await rough(bench)
    assert await end.hear() == {"type": "ping"}
    end.writer.close()


async def test_the_node_says_which_flows_are_open(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    running = asyncio.ensure_future(bench.node().run())
    try:
        while not bench.link.connected:
            await asyncio.sleep(0)
        found = await bench.link.using(RevocationKind.CREDENTIAL, "k")
        assert found == {"t-aaaaaaaaaa": [1024, 1025], "credential-k": []}
        monkeypatch.setattr(node_link, "FLOWS_MAX", 1)
        found = await bench.link.using(RevocationKind.CREDENTIAL, "k")
        assert found == {"t-aaaaaaaaaa": None, "credential-k": None}, "more than a message tells: every one"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_node_that_is_away_says_nothing_of_flows(bench: Bench) -> None:
    with pytest.raises(Unavailable):
        await bench.link.using(RevocationKind.CREDENTIAL, "k")


class Asked:
    """What a cut asks of `cells`."""

    def __init__(self) -> None:
        self.cuts: list[tuple[str, list[int] | None]] = []

    async def cut(self, task: str, ports: Sequence[int] | None = None) -> int:
        self.cuts.append((task, None if ports is None else list(ports)))
        return 1

    async def cut_everything(self) -> int:
        return 0

    async def running(self) -> frozenset[str]:
        return frozenset()


async def test_what_the_node_may_not_let_go_on_is_cut_and_what_is_used_is_told(tmp_path: Path) -> None:
    bench, cells = Bench(tmp_path), Asked()
    bench.link = NodeLink(store=bench.store, clock=bench.clock, cells=cells)
    node = bench.node()
    budgets = Budgets(clock=bench.clock, journal=bench.journal, cut=node.cut)
    node.keeps(budgets)
    node.cut("t-aaaaaaaaaa", 1)
    async with bench.link.listening(bench.socket, bench.publisher.current), running(node):
        await until(lambda: bench.link.connected)
        assert await bench.link.usage() == []
        node.cut("t-aaaaaaaaaa", 1024)
        node.cut("t-aaaaaaaaaa", None)
        await until(lambda: len(cells.cuts) == 2)
        assert cells.cuts == [("t-aaaaaaaaaa", [1024]), ("t-aaaaaaaaaa", None)], "the first was not heard"
        fields = {"action": "budget.raise", "budget": "role/r/requests", "by": 5}
        await bench.link.record("operator", fields)
        assert bench.journal.entries[-1][1].fields["charged_at"] > 0
        with pytest.raises(Unavailable, match="without a budget"):
            await bench.link.record("operator", {**fields, "by": "many"})
        bench.journal.full = True
        with pytest.raises(Unavailable, match="full"):
            await bench.link.record("operator", fields)


async def test_a_budget_is_told_by_its_name_however_many_there_are(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    node = bench.node()
    budgets = Budgets(clock=bench.clock, journal=bench.journal, cut=node.cut)
    node.keeps(budgets)
    own = tuple(Budget(quantity=Quantity.REQUESTS, limit=9, per_s=hours * 3600) for hours in range(1, 6))
    now = bench.clock.now()
    tasks = [
        Task(id=f"t-{number:010d}", role="r", state=State.RUNNING, cell=number, created=now, budgets=own)
        for number in range(1, 501)
    ]
    async with bench.link.listening(bench.socket, bench.publisher.current), running(node):
        await until(lambda: bench.link.connected)
        budgets.update(
            Snapshot(version="1", rules=Rules(roles={"r": Role(name="r")}), tasks={task.id: task for task in tasks})
        )
        last = f"task/{tasks[-1].id}/requests/5h"
        every = [one["budget"] for one in await bench.link.usage()]
        assert len(every) == 2500 > node_link.MAX_SHOWN, "all of them are told at once: the test shows nothing"
        assert every == sorted(set(every))
        assert [one["budget"] for one in await bench.link.usage([last])] == [last]
        assert len(await bench.link.usage([tasks[-1].id])) == len(await bench.link.usage([f"task/{tasks[-1].id}"])) == 5
        assert await bench.link.usage(["task/t-000000050/", "nothing"]) == []


async def test_the_node_tells_what_it_would_dial_and_its_own_addresses(tmp_path: Path) -> None:
    bench, own = Bench(tmp_path), ipaddress.ip_address("2001:db8::1")
    node = bench.node()
    far = {"db.internal": (ipaddress.ip_address("10.0.0.9"),)}
    with pytest.raises(Unavailable):
        await bench.link.addresses("db.internal")

    def unknown() -> frozenset[Address]:
        raise Unavailable("the kernel does not say")

    async with bench.link.listening(bench.socket, bench.publisher.current), running(node):
        await until(lambda: bench.link.connected)
        assert await bench.link.addresses("db.internal") == Known()
        node.dials(lambda host: far.get(host, ()), lambda: frozenset({own}))
        assert await bench.link.addresses("db.internal") == Known(fixed=far["db.internal"], own=frozenset({own}))
        assert await bench.link.addresses("a.com") == Known(own=frozenset({own}))
        node.dials(lambda host: (), unknown)
        assert await bench.link.addresses("a.com") == Known(own=None)


async def test_a_node_that_is_away_says_nothing_of_budgets(bench: Bench) -> None:
    with pytest.raises(Unavailable):
        await bench.link.usage()
