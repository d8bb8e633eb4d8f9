"""What every end of the link keeps to: the one with a node behind it, and the one in memory."""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from remit.api.link import NodeLink
from remit.control.knowledge import Knowledge
from remit.control.ports_control import Known, Node
from remit.core.errors import Unavailable
from remit.core.snapshot import Revoked
from remit.node.link import Link
from remit.policy import snapshot as snapshots
from remit.testing import ManualClock, MemoryCells, MemoryJournal, MemoryNode, MemoryStore

OPENED, OPEN = ("capability", "c"), {"t-aaaaaaaaaa": [1024, 1025]}
HOST, FIXED, OWN = "fixed.test", ipaddress.ip_address("10.0.0.7"), ipaddress.ip_address("192.0.2.1")


def snapshot(epoch: int) -> dict[str, Any]:
    return snapshots.dump(epoch=epoch, documents=[], tasks=[], revoked=Revoked(), keys={}, sealed={})


class Keys:
    def begin(self) -> None: ...

    def reseal(self, name: str, blob: bytes) -> bytes:
        return blob[::-1]

    def end(self) -> None: ...


async def probe(name: str) -> Mapping[str, Any]:
    return {"credential": name, "ok": True, "detail": ""}


@dataclass
class Ends:
    here: Node
    away: Node


@pytest.fixture(params=["link", "memory"])
async def ends(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ends]:
    if request.param == "memory":
        here, gone = MemoryNode(), MemoryNode()
        here.open, here.own, here.fixed = {OPENED: OPEN}, frozenset({OWN}), {HOST: (FIXED,)}
        gone.connected = False
        yield Ends(here, gone)
        return
    links = [NodeLink(store=MemoryStore(), clock=ManualClock(), cells=MemoryCells()) for _ in range(2)]
    far = Link(
        socket=tmp_path / "node.sock",
        cache=tmp_path / "snapshot.json",
        knowledge=Knowledge(lease_s=30, monotonic=lambda: 0.0),
        journal=MemoryJournal(),
        head=lambda: None,
        using=lambda kind, name: {task: frozenset(ports) for task, ports in OPEN.items() if (kind, name) == OPENED},
    )
    far.probes(probe)
    far.rekeys(Keys())
    far.dials(lambda host: (FIXED,) if host == HOST else (), lambda: frozenset({OWN}))
    async with links[0].listening(tmp_path / "node.sock", lambda: snapshot(1)):
        running = asyncio.ensure_future(far.run())
        await links[0].returned()
        yield Ends(links[0], links[1])
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_away_it_promises_nothing(ends: Ends) -> None:
    away = ends.away
    assert not away.connected
    for asked in (
        away.publish(snapshot(2)), away.using("capability", "c"), away.record("operator", {}), away.probe(["k"]),
        away.rekey("begin"), away.usage(), away.addresses(HOST),
    ):  # fmt: skip
        with pytest.raises(Unavailable):
            await asked


async def test_what_is_published_is_in_force_when_it_returns(ends: Ends) -> None:
    assert ends.here.connected
    await ends.here.publish(snapshot(7))
    assert ends.here.acked_epoch == 7


async def test_a_record_has_an_id_of_its_own(ends: Ends) -> None:
    ids = [await ends.here.record("operator", {"action": "x"}) for _ in range(2)]
    assert len(set(ids)) == 2
    assert all(one.startswith("r-") for one in ids)


async def test_it_says_what_is_open_and_of_the_rest_nothing(ends: Ends) -> None:
    assert await ends.here.using("capability", "c") == OPEN
    assert await ends.here.using("capability", "d") == {}


async def test_each_credential_is_tried(ends: Ends) -> None:
    assert [one["credential"] for one in await ends.here.probe(["a", "b"])] == ["a", "b"]


async def test_a_secret_is_sealed_anew_and_the_other_steps_give_nothing(ends: Ends) -> None:
    assert await ends.here.rekey("begin") == b""
    assert await ends.here.rekey("reseal", "a", b"abc") == b"cba"
    assert await ends.here.rekey("end") == b""


async def test_it_says_what_it_knows_of_a_host(ends: Ends) -> None:
    assert await ends.here.addresses(HOST) == Known(fixed=(FIXED,), own=frozenset({OWN}))
    assert await ends.here.addresses("other.test") == Known(fixed=(), own=frozenset({OWN}))


async def test_without_budgets_none_are_used(ends: Ends) -> None:
    assert list(await ends.here.usage()) == []
