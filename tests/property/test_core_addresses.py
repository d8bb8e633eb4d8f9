"""No spelling of an address that is never dialled gets past the screen, whatever carries it."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.core import addresses
from remit.core.names import Address

V4 = st.ip_addresses(v=4)
SPECIAL4 = st.one_of(
    *(st.ip_addresses(network=ipaddress.ip_network(n)) for n in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24",
        "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
    ))
)  # fmt: skip
SPECIAL6 = st.one_of(
    *(st.ip_addresses(network=ipaddress.ip_network(n)) for n in (
        "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
        "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "4000::/3", "8000::/3", "e000::/4", "200::/7", "0:1::/32",
    ))
)  # fmt: skip
EVERYTHING = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def carried(inner: ipaddress.IPv4Address) -> list[Address]:
    """Every way in which an IPv6 address carries an IPv4 address to a gateway or a stack that unwraps it."""
    value = int(inner)
    word = f"{value >> 16:x}:{value & 0xFFFF:x}"
    flipped = value ^ 0xFFFFFFFF
    return [
        ipaddress.ip_address(text)
        for text in (
            f"::ffff:{word}",  # mapped, RFC 4291 §2.5.5.2
            f"::{word}",  # compatible, §2.5.5.1
            f"64:ff9b::{word}",  # NAT64, RFC 6052
            f"64:ff9b:1::{word}",  # local-use NAT64, RFC 8215
            f"2002:{word}::",  # 6to4, RFC 3056
            f"2001:0:808:808:0:0:{flipped >> 16:x}:{flipped & 0xFFFF:x}",  # Teredo, RFC 4380
        )
    ]


@given(SPECIAL4 | SPECIAL6)
def test_special_use_space_is_refused_without_a_range(address: Address) -> None:
    assert addresses.refusal(address)


@given(V4)
def test_an_address_inside_another_is_never_dialled_by_default(inner: ipaddress.IPv4Address) -> None:
    for address in carried(inner):
        assert addresses.refusal(address), address


@given(st.sampled_from(addresses.NEVER).flatmap(lambda network: st.ip_addresses(network=network)))
def test_what_is_never_dialled_is_refused_whatever_a_range_says_and_whatever_carries_it(address: Address) -> None:
    assert "never dialled" in (addresses.refusal(address, EVERYTHING) or "")
    if isinstance(address, ipaddress.IPv4Address):
        for outer in carried(address):
            if int(outer) > 0xFFFF:  # `::1` is loopback, not 0.0.0.1
                assert addresses.refusal(outer, EVERYTHING), outer


@given(V4 | st.ip_addresses(network="2000::/3"))
def test_ordinary_global_addresses_are_dialled(address: Address) -> None:
    special = addresses.refusal(address) is not None
    if not special:
        assert address.is_global
        assert not address.is_multicast


@pytest.mark.parametrize(
    "text", ["1.1.1.1", "8.8.8.8", "140.82.121.6", "192.0.1.1", "2606:4700::1111", "2a00:1450::1", "2400::1"]
)
def test_well_known_public_addresses_are_dialled(text: str) -> None:
    assert addresses.refusal(ipaddress.ip_address(text)) is None


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6), st.integers(0, 128), st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_a_named_range_opens_itself_and_nothing_else(base: Address, bits: int, other: Address) -> None:
    network = ipaddress.ip_network(f"{base}/{min(bits, base.max_prefixlen)}", strict=False)
    with_range = addresses.refusal(other, (network,))
    if other in network:
        never = any(other in never or addresses.embedded(other) in never for never in addresses.NEVER)
        assert (with_range is None) is not never
    else:
        assert with_range == addresses.refusal(other)
