"""Revocations on a disk that cannot be written: in force, kept, told, and made durable when it heals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import control_plane
import pytest
from control_plane import API, MANIFESTS, Plane

from remit import testing
from remit.control.catalog import Catalog
from remit.control.pending import Pending
from remit.control.ports_control import RevocationKind
from remit.control.publish import Publisher
from remit.control.reaching import Reaching
from remit.core.errors import Conflict, Unavailable
from remit.core.task import State


class FullDisk(testing.MemoryStore):
    """Reads as always; while `full`, nothing that was changed can be committed."""

    full = False

    @contextlib.contextmanager
    def unit(self) -> Iterator[testing.MemoryUnit]:
        with super().unit() as unit:
            before = unit.epoch()
            yield unit
            if self.full and unit.epoch() != before:
                raise Unavailable("the database cannot be used: database or disk is full")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


@pytest.fixture
async def full(tmp_path: Path) -> Plane:
    """A control plane with a running task, on a disk that has just become full."""
    plane = control_plane.build(tmp_path, FullDisk())
    await plane.services.manifests.apply(MANIFESTS, operator="ann")
    task = (await plane.services.tasks.create("devops", ["sh"], operator="ann")).task
    plane.services.tasks.started(task.id)
    plane.store.full = True  # type: ignore[attr-defined]
    return plane


async def test_a_full_disk_does_not_stop_a_revocation(full: Plane) -> None:
    task = full.services.tasks.all(alive_only=True)[0]
    full.cells.flows[task.id] = 3
    for kind, name in ((RevocationKind.CAPABILITY, "github"), (RevocationKind.TASK, task.id)):
        done = await full.services.revoking.revoke(kind, name, operator="ann")
        assert done.record is None
        assert "disk is full" in str(done.pending)
    sent = full.node.snapshots[-1]
    assert sent["revoked"]["capabilities"] == ["github"]
    assert [one["state"] for one in sent["tasks"]] == ["revoked"]
    assert full.node.acked_epoch == sent["epoch"]
    assert full.cells.flows.get(task.id, 0) == 0
    assert len(full.reserve.load()) == 2, "they survive a restart"
    assert [(r.name, full.services.revoking.is_pending(r)) for r in full.services.revoking.all()] == [
        ("github", True),
        (task.id, True),
    ]


async def test_what_is_pending_counts_for_whoever_asks_and_for_what_would_begin(full: Plane) -> None:
    task, revoking = full.services.tasks.all(alive_only=True)[0], full.services.revoking
    await revoking.revoke(RevocationKind.TASK, task.id, operator="ann")
    assert [one.state for one in full.services.tasks.all(alive_only=True)] == [State.REVOKED]
    with pytest.raises(Conflict, match="is revoked: it gets no token"):
        full.services.tasks.renew(task.id)
    await revoking.revoke(RevocationKind.ROLE, "devops", operator="ann")
    with pytest.raises(Conflict, match="role devops is revoked"):
        await full.services.tasks.create("devops", ["sh"], operator="ann")
    await revoking.panic("somebody is in", operator="ann")
    with pytest.raises(Conflict, match="everything is revoked"):
        await full.services.tasks.create("devops", ["sh"], operator="ann")
    status = full.services.status.read()
    assert (status["ok"], status["panic"], status["revocations"]) == (True, True, 3)
    assert (status["epoch"], status["tasks"]) == (full.node.acked_epoch, {"revoked": 1})


async def test_what_is_pending_is_closed_in_the_kernel_too(full: Plane) -> None:
    inner = {"apiVersion": API, "kind": "Capability", "metadata": {"name": "inner"}}
    full.store.full = False  # type: ignore[attr-defined]
    manifest = {**inner, "spec": {"hosts": ["a.com"], "addresses": ["10.1.0.0/16"]}}
    await full.services.manifests.apply([manifest], operator="ann")
    await until(lambda: full.cells.reached == {("10.1.0.0/16", 443)})
    full.store.full = True  # type: ignore[attr-defined]
    await full.services.revoking.revoke(RevocationKind.CAPABILITY, "inner", operator="ann")
    await until(lambda: not full.cells.reached)


async def test_what_is_pending_is_stored_and_recorded_when_the_disk_heals(full: Plane) -> None:
    done = await full.services.revoking.revoke(RevocationKind.CAPABILITY, "github", operator="ann")
    assert done.pending
    with pytest.raises(Unavailable):
        await full.services.revoking.settle()
    recorded = len(full.node.records)
    full.store.full = False  # type: ignore[attr-defined]
    await full.services.revoking.settle()
    assert not full.reserve.load()
    with full.store.unit() as unit:
        assert [r.name for r in unit.revocations.all()] == ["github"]
        assert unit.epoch() > full.node.acked_epoch, "the node takes what comes next for newer"
    (record,) = full.node.records[recorded:]
    assert record[1]["capability"] == "github"
    assert "when the database could not be written" in record[1]["detail"]
    assert not full.services.revoking.is_pending(full.services.revoking.all()[0])
    await full.services.revoking.restore(RevocationKind.CAPABILITY, "github", operator="ann")
    assert full.node.snapshots[-1]["revoked"]["capabilities"] == []


async def test_a_restart_on_a_full_disk_still_knows_what_was_revoked(full: Plane, tmp_path: Path) -> None:
    await full.services.revoking.revoke(RevocationKind.CAPABILITY, "github", operator="ann")
    again = Pending(full.reserve, full.clock.now())
    full.store.full = False  # type: ignore[attr-defined]
    reaching = Reaching(store=full.store, cells=testing.MemoryCells(), catalog=Catalog(), pending=again)
    publisher = Publisher(
        store=full.store, node=full.node, issuer=full.issuer, clock=full.clock, pending=again, reaching=reaching
    )
    publisher.begin()
    assert publisher.current()["revoked"]["capabilities"] == ["github"]
    assert publisher.current()["epoch"] >= full.node.acked_epoch


async def test_a_revocation_that_nothing_can_keep_is_in_force_and_says_so(full: Plane) -> None:
    full.reserve.full = True
    with pytest.raises(Unavailable, match="in memory only, and a restart of the control plane would forget it"):
        await full.services.revoking.revoke(RevocationKind.CAPABILITY, "github", operator="ann")
    assert full.node.snapshots[-1]["revoked"]["capabilities"] == ["github"]


async def test_what_is_pending_cannot_be_restored_before_it_is_stored(full: Plane) -> None:
    await full.services.revoking.panic("an intrusion", operator="ann")
    assert full.node.snapshots[-1]["revoked"]["everything"] is True
    with pytest.raises(Unavailable):
        await full.services.revoking.lift("a false alarm", operator="ann")
    assert full.node.snapshots[-1]["revoked"]["everything"] is True
