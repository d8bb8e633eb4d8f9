"""What the kernel is told to open: the ranges of capabilities in force, before anybody may rely on them."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import control_plane
import pytest

from remit.control.catalog import Catalog
from remit.control.reaching import Reaching
from remit.core.addresses import on_the_wire
from remit.core.errors import Invalid
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
    return plane, Reaching(store=plane.store, cells=plane.cells, catalog=Catalog())


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
