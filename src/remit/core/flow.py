"""Flows: how a connection is named, and the addresses that exist only between a cell and the boundary.

A cell has no network. The forwarder gives every cell a source address of its own and every connection a port, so
that "address:port" names one connection for audit and revocation. Names are answered with virtual addresses that are
a hash of the name: stable across restarts, without a table, checkable by anyone who knows the name.
Two names can share a virtual address (17 bits for IPv4): harmless for HTTP, which carries its name itself.
"""

from __future__ import annotations

import hashlib
import ipaddress
from functools import lru_cache

from remit.core.names import Address

SOURCE4 = ipaddress.IPv4Network("100.64.0.0/10")
SOURCE6 = ipaddress.IPv6Network("fd00:201:2::/96")
VIRTUAL4 = ipaddress.IPv4Network("198.18.0.0/15")
VIRTUAL6 = ipaddress.IPv6Network("fd00:201:1::/64")
MAX_CELL = (1 << 22) - 2
PROXY_NAME, PROXY_PORT = "proxy.remit.alt", 3128
"""Where a client that wants to be told of a proxy finds one. A connection to there does not say where it leads."""


def source(cell: int) -> tuple[str, str]:
    """The synthetic (IPv4, IPv6) source address of a cell's flows. Cells are numbered from 1."""
    if not 0 < cell <= MAX_CELL:
        raise ValueError(f"cell number {cell} is out of range")
    return str(SOURCE4[cell]), str(SOURCE6[cell])


@lru_cache(maxsize=65536)
def cell_of(address: str) -> int | None:
    """The number of the cell whose synthetic source address this is, or None."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    network = SOURCE4 if parsed.version == 4 else SOURCE6
    number = int(parsed) - int(network.network_address)
    return number if parsed in network and 0 < number <= MAX_CELL else None


def cell_at(peer: str) -> int | None:
    """The cell that a flow's "address:port" comes from, or None."""
    return cell_of(peer.rpartition(":")[0].strip("[]"))


def is_virtual(address: Address) -> bool:
    """Whether the address stands for a name, and is nobody's."""
    return address in VIRTUAL4 or address in VIRTUAL6


def is_proxy(address: str, port: int) -> bool:
    """Whether a connection to there is one to the cell's own proxy."""
    return port == PROXY_PORT and address in virtual(PROXY_NAME)


def port_of(peer: str) -> int:
    """The port of a flow's "address:port": unique among the open flows of its cell, whichever the family."""
    return int(peer.rpartition(":")[2])


@lru_cache(maxsize=65536)
def virtual(name: str) -> tuple[str, str]:
    """The (IPv4, IPv6) virtual addresses under which a cell knows a canonical `name`."""
    digest = int.from_bytes(hashlib.blake2s(name.encode(), person=b"remitdns").digest()[:8], "big")
    return str(VIRTUAL4[1 + digest % (VIRTUAL4.num_addresses - 2)]), str(VIRTUAL6[digest])
