"""What the kernel is told to open: the ranges of capabilities in force, before anybody may rely on them."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path

import control_plane
import pytest
from control_plane import API

from remit.control.catalog import Catalog
from remit.control.pending import Pending
from remit.control.ports_control import RevocationKind
from remit.control.reaching import Reaching
from remit.core.addresses import on_the_wire
from remit.core.errors import Invalid, Unavailable
from remit.node import fence, own_addresses

MANIFEST = {
    "apiVersion": "remit.dev/v1alpha1",
    "kind": "Capability",
    "metadata": {"name": "inner"},
    "spec": {"hosts": ["a.example"], "ports": [443, 8443], "addresses": ["10.1.0.0/16"]},
}
FIB = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 10.0.0.0
        /24 link UNICAST
     |-- 10.0.0.7
        /32 host LOCAL
     |-- 10.0.0.255
        /32 link BROADCAST
"""


def subject(tmp_path: Path) -> tuple[control_plane.Plane, Reaching]:
    plane = control_plane.build(tmp_path)
    with plane.store.unit() as unit:
        unit.documents.put(MANIFEST, plane.clock.now())
    pending = Pending(plane.reserve, plane.clock.now())
    return plane, Reaching(store=plane.store, cells=plane.cells, catalog=Catalog(), pending=pending)


async def test_ranges_are_opened_for_their_ports(tmp_path: Path) -> None:
    plane, reaching = subject(tmp_path)
    await reaching.keep()
    assert plane.cells.reached == {("10.1.0.0/16", 443), ("10.1.0.0/16", 8443)}


async def test_what_could_not_be_told_is_told_again(tmp_path: Path) -> None:
    plane, reaching = subject(tmp_path)
    plane.cells.available = False
    await reaching.keep()
    plane.cells.available = True
    await reaching.keep()
    assert len(plane.cells.reached) == 2


async def told(plane: control_plane.Plane, count: int) -> None:
    async with asyncio.timeout(10):
        while len(plane.cells.reached) != count:
            await asyncio.sleep(0)


@pytest.mark.parametrize("connected", [True, False])
async def test_what_closes_waits_for_no_kernel_and_is_told_whatever_the_node_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, connected: bool
) -> None:
    plane = control_plane.build(tmp_path)
    role = {"apiVersion": API, "kind": "Role", "metadata": {"name": "r"}, "spec": {"capabilities": ["inner"]}}
    await plane.services.manifests.apply([MANIFEST, role], operator="bob", dry_run=False)
    assert len(plane.cells.reached) == 2, "opened before the node may permit it"
    await told(plane, 2)
    answering, kernel = asyncio.Event(), plane.cells.reach

    async def slow(opened: frozenset[tuple[str, int]]) -> None:
        await answering.wait()
        await kernel(opened)

    monkeypatch.setattr(plane.cells, "reach", slow)
    plane.node.connected = connected
    try:
        await plane.services.revoking.revoke(RevocationKind.CAPABILITY, "inner", operator="bob")
    except Unavailable:
        assert not connected
    assert len(plane.cells.reached) == 2
    answering.set()
    await told(plane, 0)


@pytest.mark.parametrize("ranges", [[("10.0.0.1/8", 1)], [("x", 1)], [("10.0.0.0/8", 0)], [("10.0.0.0/8", 65536)]])
def test_what_is_no_range_or_port_is_refused(ranges: list[tuple[str, int]]) -> None:
    with pytest.raises(Invalid):
        fence.opened("remit_none", ranges)


def test_a_mapped_range_is_the_ipv4_range_on_the_wire() -> None:
    network = ipaddress.ip_network
    assert on_the_wire(network("::ffff:10.0.0.0/104")) == network("10.0.0.0/8")
    assert on_the_wire(network("fd00::/8")) == network("fd00::/8")


def test_the_nodes_addresses_are_read_from_the_kernel() -> None:
    found = own_addresses.read(FIB, "00000000000000000000000000000001 01 80 10 80       lo\n")
    assert {str(address) for address in found} == {"127.0.0.1", "10.0.0.7", "::1"}
