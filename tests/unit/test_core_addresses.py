import ipaddress

import pytest

from remit.core import addresses


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "10.0.0.1", "192.168.1.1", "172.16.0.1", "169.254.169.254", "168.63.129.16", "100.64.0.1", "0.0.0.0",
     "100.100.100.200", "255.255.255.255", "224.0.0.1", "240.0.0.1", "198.18.0.1", "192.0.2.1", "::1", "::",
     "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1",
     "64:ff9b:1::1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1"],
)  # fmt: skip
def test_special_use_addresses_are_never_dialled_by_default(text: str) -> None:
    assert addresses.refusal(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", ["8.8.8.8", "140.82.121.6", "2606:4700::1111"])
def test_global_addresses_are_dialled(text: str) -> None:
    assert addresses.refusal(ipaddress.ip_address(text)) is None


def test_a_named_range_is_dialled_and_no_other() -> None:
    allowed = (ipaddress.ip_network("10.1.0.0/16"),)
    assert addresses.refusal(ipaddress.ip_address("10.1.2.3"), allowed) is None
    assert addresses.refusal(ipaddress.ip_address("10.2.2.3"), allowed)


@pytest.mark.parametrize("text", ["169.254.169.254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "fd00:ec2::254"])
def test_metadata_is_refused_even_where_a_range_names_it(text: str) -> None:
    everything = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    assert "never dialled" in (addresses.refusal(ipaddress.ip_address(text), everything) or "")


@pytest.mark.parametrize("text", ["11.0.0.1", "::ffff:11.0.0.1", "2a00::1"])
def test_the_nodes_own_addresses_want_a_range_however_public(text: str) -> None:
    own = frozenset({ipaddress.ip_address("11.0.0.1"), ipaddress.ip_address("2a00::1")})
    address = ipaddress.ip_address(text)
    said = addresses.refusal(address, (), own)
    assert said is not None and "this node's own address" in said
    assert addresses.refusal(address, (ipaddress.ip_network(text),), own) is None


def test_special_ranges_are_what_the_registries_say() -> None:
    for network in addresses.SPECIAL:
        assert all(addresses.refusal(address) for address in (network[0], network[-1])), network
