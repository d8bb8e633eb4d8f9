"""What every resolver keeps to: the node's, and the table."""

import ipaddress
from collections.abc import AsyncIterator

import pytest

from remit.control.ports import Resolver
from remit.core.errors import Unavailable
from remit.core.names import Address
from remit.node import resolver as node
from remit.testing import StaticResolver

ONE, SIX = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("2001:db8::1")
TABLE: dict[str, tuple[Address, ...]] = {"both.test": (ONE, SIX)}


class Source:
    async def look_up(self, name: str) -> tuple[tuple[Address, ...], float]:
        if name == "lost.test":
            raise Unavailable("the DNS server did not answer")
        return TABLE.get(name, ()), 5.0


@pytest.fixture(params=["node", "static"])
async def resolver(request: pytest.FixtureRequest) -> AsyncIterator[Resolver]:
    if request.param == "node":
        yield node.Resolver(Source(), {}, lambda: 0.0)
    else:
        yield StaticResolver(TABLE, lost=frozenset({"lost.test"}))


async def test_every_address_comes_in_order(resolver: Resolver) -> None:
    assert await resolver.addresses("both.test") == (ONE, SIX)


async def test_a_name_that_does_not_exist_has_none(resolver: Resolver) -> None:
    assert await resolver.addresses("none.test") == ()


@pytest.mark.parametrize("literal", ["203.0.113.9", "2001:db8::9"])
async def test_a_literal_is_its_own(resolver: Resolver, literal: str) -> None:
    assert await resolver.addresses(literal) == (ipaddress.ip_address(literal),)


async def test_what_nobody_can_say_is_unavailable(resolver: Resolver) -> None:
    with pytest.raises(Unavailable):
        await resolver.addresses("lost.test")


async def test_the_nodes_own_addresses_are_a_set(resolver: Resolver) -> None:
    own = resolver.own()
    assert isinstance(own, frozenset)
    assert all(isinstance(each, ipaddress.IPv4Address | ipaddress.IPv6Address) for each in own)
