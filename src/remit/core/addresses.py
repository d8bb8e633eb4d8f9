"""Which addresses the boundary may dial.

A name that is allowed can be made to resolve to a cloud's metadata service, the node itself or a neighbour (SSRF,
rebinding). Every address is screened after its decision and before it is dialled; only a capability that names an
address range reaches special-use space, and some ranges cannot be named at all.
Sources: IANA special-purpose registries (RFC 6890), RFC 6052 (NAT64), RFC 3056 (6to4), RFC 4380 (Teredo).
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from remit.core.names import Address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(n)
    for n in (
        "169.254.0.0/16",  # link-local: AWS, Azure, GCP, OpenStack metadata
        "168.63.129.16/32",  # Azure wire server
        "100.100.100.200/32",  # Alibaba metadata
        "192.0.0.192/32",  # Oracle metadata
        "fd00:ec2::/32",  # AWS metadata over IPv6
        "fd20:ce::254/128",  # GCP metadata over IPv6
        "fe80::/10",
        "0.0.0.0/8",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "ff00::/8",
        "::/128",
    )
)
"""Refused even where a capability names a range that contains them."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE = ipaddress.ip_network("::/96")
UNICAST6 = ipaddress.ip_network("2000::/3")
_SPECIAL = tuple(
    ipaddress.ip_network(n)
    for n in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")
)
"""What the registries know and `ipaddress` does not, or not in every version of Python."""


def embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address carries for a gateway or a stack that unwraps it, else `address`.

    Mapped, compatible, NAT64 (of the local-use prefix: its last 32 bits), 6to4, Teredo.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _NAT64 or address in _NAT64_LOCAL or (address in _COMPATIBLE and int(address) > 0xFFFF):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    return address


SPECIAL: tuple[Network, ...] = tuple(
    ipaddress.ip_network(n)
    for n in (
        *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24"),
        *("192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4"),
    )
)
"""Special-use IPv4 space as ranges; of IPv6, everything outside `UNICAST6` is special."""
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def on_the_wire(network: Network) -> Network:
    """The range as the kernel sees it: a socket that dials an IPv4-mapped address sends IPv4 (RFC 4291 §2.5.5.2)."""
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        low = int(network.network_address) & 0xFFFFFFFF
        return ipaddress.IPv4Network((low, network.prefixlen - 96))
    return network


@lru_cache(maxsize=4096)
def refusal(address: Address, allowed: tuple[Network, ...] = (), own: frozenset[Address] = frozenset()) -> str | None:
    """Why `address` must not be dialled, or None. `allowed`: ranges the capability names explicitly; `own`: the
    node's addresses.
    """
    real = embedded(address)
    for network in NEVER:
        if real in network or address in network:
            return f"{address} is in {network}, which is never dialled"
    for network in allowed:
        if address in network:
            return None
    if address in own or real in own:
        return f"{address} is this node's own address and the capability names no range that holds it"
    if real is not address:
        return f"{address} carries another address ({real}); dial that one"
    if _special(address):
        return f"{address} is a special-use address (RFC 6890) and the capability names no range that holds it"
    return None


def _special(address: Address) -> bool:
    if not address.is_global or address.is_multicast or address.is_reserved:
        return True
    if address.version == 6 and address not in UNICAST6:
        return True
    return any(address in network for network in _SPECIAL)
