import asyncio
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from remit.core.errors import Invalid, Unavailable
from remit.core.names import Address
from remit.node import resolver
from remit.node.resolver import Resolver, Server, System

ONE = ipaddress.ip_address("192.0.2.1")
TWO = ipaddress.ip_address("192.0.2.2")


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Script:
    """A source that says what `answers` holds, counts how often it was asked, and waits for `gate`."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[tuple[Address, ...], float] | Exception] = {}
        self.asked: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def look_up(self, name: str) -> tuple[tuple[Address, ...], float]:
        self.asked.append(name)
        await self.gate.wait()
        answer = self.answers.get(name, ((), 0.0))
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def source() -> Script:
    return Script()


@pytest.fixture
def subject(source: Script, clock: Clock) -> Resolver:
    return Resolver(source, {"fixed.test": "192.0.2.9", "six.test": "2001:db8::9"}, clock)


async def test_static_hosts_and_literals_are_never_asked_for(subject: Resolver, source: Script) -> None:
    assert await subject.addresses("fixed.test") == (ipaddress.ip_address("192.0.2.9"),)
    assert await subject.addresses("six.test") == (ipaddress.ip_address("2001:db8::9"),)
    assert await subject.addresses("192.0.2.7") == (ipaddress.ip_address("192.0.2.7"),)
    assert await subject.addresses("2001:db8::7") == (ipaddress.ip_address("2001:db8::7"),)
    assert source.asked == []


@pytest.mark.parametrize(("ttl_s", "kept_s"), [(3600.0, 30.0), (10.0, 10.0), (0.0, 1.0)])
async def test_an_answer_is_kept_for_its_ttl_within_bounds(
    subject: Resolver, source: Script, clock: Clock, ttl_s: float, kept_s: float
) -> None:
    source.answers["a.test"] = ((ONE, TWO), ttl_s)
    assert await subject.addresses("a.test") == (ONE, TWO)
    clock.now_s = kept_s - 0.1
    await subject.addresses("a.test")
    assert len(source.asked) == 1
    clock.now_s = kept_s
    source.answers["a.test"] = ((TWO,), ttl_s)
    assert await subject.addresses("a.test") == (TWO,)


async def test_a_name_that_does_not_exist_is_remembered_for_a_short_while(
    subject: Resolver, source: Script, clock: Clock
) -> None:
    assert await subject.addresses("none.test") == ()
    clock.now_s = 4.9
    assert await subject.addresses("none.test") == ()
    assert len(source.asked) == 1
    clock.now_s = 5.0
    await subject.addresses("none.test")
    assert len(source.asked) == 2


async def test_a_failure_is_told_to_all_who_wait_and_not_kept(subject: Resolver, source: Script) -> None:
    source.answers["a.test"] = Unavailable("no")
    source.gate.clear()
    waiting = [asyncio.ensure_future(subject.addresses("a.test")) for _ in range(5)]
    await asyncio.sleep(0)
    source.gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, Unavailable) for outcome in outcomes) and len(source.asked) == 1
    source.answers["a.test"] = ((ONE,), 30.0)
    assert await subject.addresses("a.test") == (ONE,)


async def test_one_who_gives_up_takes_nothing_from_the_others(subject: Resolver, source: Script) -> None:
    source.answers["a.test"] = ((ONE,), 30.0)
    source.gate.clear()
    first, second = (asyncio.ensure_future(subject.addresses("a.test")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.gate.set()
    assert await second == (ONE,)


async def test_a_source_that_never_answers_is_unavailable_in_time(
    subject: Resolver, source: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "TIMEOUT_S", 0.02)
    source.gate.clear()
    with pytest.raises(Unavailable, match="took longer"):
        await subject.addresses("a.test")


async def test_only_so_many_names_are_kept(subject: Resolver, source: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "CACHE_MAX", 2)
    for name in ("a.test", "b.test", "c.test", "a.test"):
        await subject.addresses(name)
    assert source.asked == ["a.test", "b.test", "c.test", "a.test"]


@pytest.mark.parametrize("static", [{"a.test": "1.2.3"}, {"a.test": "b.test"}, {"A B": "1.2.3.4"}])
def test_static_hosts_that_are_none_are_invalid(source: Script, clock: Clock, static: dict[str, str]) -> None:
    with pytest.raises(Invalid):
        Resolver(source, static, clock)


@pytest.mark.parametrize("where", ["", "dns.example", "10.0.0.1:0", "10.0.0.1:99999", "tls://1.1.1.1"])
def test_a_dns_server_is_named_by_its_address(where: str) -> None:
    with pytest.raises(Invalid):
        Server(where)


class Wire(asyncio.DatagramProtocol):
    """A DNS server of one zone: `four.test` has an A record, `both.test` two, `odd.test` fails for AAAA."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        query = dns.message.from_wire(data)
        response = dns.message.make_response(query)
        name, kind = query.question[0].name, query.question[0].rdtype
        found = {
            ("four.test.", dns.rdatatype.A): "192.0.2.1",
            ("both.test.", dns.rdatatype.A): "192.0.2.1",
            ("both.test.", dns.rdatatype.AAAA): "2001:db8::1",
            ("odd.test.", dns.rdatatype.A): "192.0.2.1",
        }.get((name.to_text(), kind))
        if found:
            response.answer.append(dns.rrset.from_text(name, 20, "IN", dns.rdatatype.to_text(kind), found))
        elif name.to_text() == "odd.test.":
            response.set_rcode(dns.rcode.SERVFAIL)
        elif name.to_text() == "none.test.":
            response.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(response.to_wire(), address)  # type: ignore[attr-defined]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Wire, local_addr=("127.0.0.1", 0))
    yield Server(f"127.0.0.1:{transport.get_extra_info('sockname')[1]}")
    transport.close()


async def test_a_dns_server_is_asked_for_both_families(server: Server) -> None:
    assert await server.look_up("four.test") == ((ONE,), 20.0)
    assert (await server.look_up("both.test"))[0] == (ONE, ipaddress.ip_address("2001:db8::1"))
    assert (await server.look_up("none.test"))[0] == ()
    assert (await server.look_up("empty.test"))[0] == ()


async def test_half_an_answer_is_none_so_that_no_address_goes_unscreened(server: Server) -> None:
    with pytest.raises(Unavailable):
        await server.look_up("odd.test")


async def test_a_dns_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(Unavailable):
        await Server(f"127.0.0.1:{port}").look_up("four.test")


HOSTS = """
127.0.0.1 localhost
192.0.2.1 A.test alias.test # note a.other
fe80::1%eth0 scoped.test
0192.0.2.1 octal.test
2001:db8::1 a.test
# 192.0.2.3 off.test
"""


def test_a_hosts_file_is_read_as_it_is_meant() -> None:
    assert resolver.hosts_file("a.test", HOSTS) == (ONE, ipaddress.ip_address("2001:db8::1"))
    assert resolver.hosts_file("alias.test", HOSTS) == (ONE,)
    for name in ("a.other", "off.test", "octal.test", "scoped.test", "none.test"):
        assert resolver.hosts_file(name, HOSTS) == ()


async def test_the_system_finds_what_its_hosts_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(HOSTS)
    monkeypatch.setattr(resolver, "HOSTS_FILE", hosts)
    system = System()
    assert (await system.look_up("alias.test"))[0] == (ONE,)
    system.close()


async def test_the_system_asks_for_whole_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def getaddrinfo(name: str, *_: object, **__: object) -> list[object]:
        asked.append(name)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    system = System()
    assert (await system.look_up("no-such-name.test"))[0] == ()
    system.close()
    assert asked == ["no-such-name.test."]


async def test_names_whose_servers_do_not_answer_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def asked(name: str) -> tuple[Address, ...]:
        if name.endswith(".dead.test"):
            released.wait(60)
        return (ONE,)

    monkeypatch.setattr(resolver, "_getaddrinfo", asked)
    monkeypatch.setattr(resolver, "TIMEOUT_S", 0.02)
    system = System()
    subject = Resolver(system, {}, lambda: 0.0)
    for n in range(resolver.THREADS + 1):
        with pytest.raises(Unavailable, match="took longer"):
            await subject.addresses(f"n{n}.dead.test")
    monkeypatch.setattr(resolver, "TIMEOUT_S", 60)
    assert await subject.addresses("alive.test") == (ONE,)
    later = asyncio.ensure_future(subject.addresses("later.dead.test"))
    released.set()
    assert await later == (ONE,)
    system.close()
