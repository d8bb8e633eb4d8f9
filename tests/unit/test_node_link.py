"""The node's end of the link where the disk is full or the other end does not hold: it goes on, and it ends when told."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from remit import testing
from remit.api.link import NodeLink
from remit.control.catalog import Catalog
from remit.control.knowledge import Knowledge
from remit.control.pending import Pending
from remit.control.publish import Publisher
from remit.control.reaching import Reaching
from remit.core.errors import Unavailable
from remit.node import link


class Head:
    """A head that is new each time it is asked for."""

    def __init__(self) -> None:
        self.seq = 0

    def __call__(self) -> dict[str, Any]:
        self.seq += 1
        return {"seq": self.seq, "hash": "abc", "signature": "…"}


def node(tmp_path: Path, knowledge: Knowledge) -> link.Link:
    return link.Link(
        socket=tmp_path / "node.sock",
        cache=tmp_path / "snapshot.json",
        knowledge=knowledge,
        journal=testing.MemoryJournal(),
        head=Head(),
        using=lambda kind, name: {},
    )


@contextlib.asynccontextmanager
async def control(tmp_path: Path) -> AsyncIterator[tuple[NodeLink, testing.MemoryStore]]:
    store, clock = testing.MemoryStore(), testing.ManualClock()
    far = NodeLink(store=store, clock=clock, cells=testing.MemoryCells())
    pending = Pending(testing.MemoryReserve(), clock.now())
    publisher = Publisher(
        store=store,
        node=far,
        issuer=testing.MemoryIssuer(),
        clock=clock,
        pending=pending,
        reaching=Reaching(store=store, cells=testing.MemoryCells(), catalog=Catalog(), pending=pending),
    )
    publisher.begin()
    async with far.listening(tmp_path / "node.sock", publisher.current):
        yield far, store


async def test_a_snapshot_that_cannot_be_kept_is_in_force_and_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(link, "_keep_private", full)
    knowledge = Knowledge(lease_s=30, monotonic=lambda: 0.0)
    async with control(tmp_path) as (far, _):
        running = asyncio.ensure_future(node(tmp_path, knowledge).run())
        async with asyncio.timeout(60):
            await knowledge.informed()
            while not far.acked_epoch:
                await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.wait([running])
    assert not (tmp_path / "snapshot.json").exists()


async def test_a_snapshot_is_acknowledged_while_the_disk_stalls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, released = link._keep_private, threading.Event()

    def stalled(*arguments: Any) -> None:
        released.wait(60)
        keep(*arguments)

    monkeypatch.setattr(link, "_keep_private", stalled)
    knowledge = Knowledge(lease_s=30, monotonic=lambda: 0.0)
    async with control(tmp_path) as (far, _):
        running = asyncio.ensure_future(node(tmp_path, knowledge).run())
        async with asyncio.timeout(60):
            while not far.acked_epoch:
                await asyncio.sleep(0.005)
            assert not (tmp_path / "snapshot.json").exists()
            released.set()
            while not (tmp_path / "snapshot.json").exists():
                await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.wait([running])
    kept = link.cached(tmp_path / "snapshot.json")
    assert kept is not None
    assert kept.version == knowledge.snapshot.version


async def test_a_head_that_cannot_be_kept_does_not_break_the_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HEAD_INTERVAL_S", 0.01)
    knowledge = Knowledge(lease_s=30, monotonic=lambda: 0.0)
    async with control(tmp_path) as (far, store):
        refused = 0

        def full() -> Any:
            nonlocal refused
            refused += 1
            raise Unavailable("database or disk is full")

        running = asyncio.ensure_future(node(tmp_path, knowledge).run())
        async with asyncio.timeout(60):
            await knowledge.informed()
            monkeypatch.setattr(store, "unit", full)
            while refused < 3:
                assert far.connected
                await asyncio.sleep(0.005)
        monkeypatch.undo()
        running.cancel()
        await asyncio.wait([running])


async def test_it_ends_when_told_whatever_it_does_at_that_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It once swallowed its own end while a connection broke, and the decision service stayed, half dead."""
    monkeypatch.setattr(link, "RECONNECT_S", (0.0,))

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_unix_server(hang_up, str(tmp_path / "node.sock"))
    async with server:
        for turns in range(40):
            running = asyncio.ensure_future(node(tmp_path, Knowledge(lease_s=30, monotonic=lambda: 0.0)).run())
            for _ in range(turns):
                await asyncio.sleep(0)
            running.cancel()
            done, _ = await asyncio.wait([running], timeout=5)
            assert done, f"still running after {turns} turns"
            assert running.cancelled()
