"""What `cells` may tell the forwarder, what comes back, and how a cell's flows are named and counted."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remit.cell import flows, proxy, proxy_header
from remit.cell.dns_relay import Relay
from remit.cell.forward import Forwarder
from remit.core import flow

OPEN = {"id": 1, "op": "open", "cell": 5, "token": "the-token"}
OPEN |= dict(zip(("source4", "source6"), flow.source(5), strict=True))


class _Boundary:
    """Records each connection's header and keeps it open."""

    def __init__(self) -> None:
        self.headers: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        head = await reader.readexactly(16)
        self.headers.append(head + await reader.readexactly(int.from_bytes(head[14:], "big")))


@pytest.fixture
def boundary() -> _Boundary:
    return _Boundary()


@pytest.fixture
async def forwarder(boundary: _Boundary, tmp_path: Path) -> AsyncIterator[Forwarder]:
    server = await asyncio.start_unix_server(boundary, str(tmp_path / "proxy.sock"))
    made = Forwarder(proxy_socket=tmp_path / "proxy.sock", relay=Relay(tmp_path / "dns.sock"))
    yield made
    made.close()
    server.close()
    for writer in boundary.writers:
        writer.close()
    await asyncio.sleep(0.02)


@pytest.fixture
def listeners() -> Iterator[list[socket.socket]]:
    """Stand-ins for what comes out of a cell's namespace, in the order of the protocol."""
    kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_STREAM)
    made = [socket.socket(family, kind) for kind in kinds for family in (socket.AF_INET, socket.AF_INET6)]
    for sock in made:
        sock.bind(("127.0.0.1" if sock.family == socket.AF_INET else "::1", 0))
        if sock.type == socket.SOCK_STREAM:
            sock.listen()
    yield made
    for sock in made:
        sock.close()


@pytest.fixture
def redirected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside a cell there is no nftables to have redirected anything."""
    monkeypatch.setattr(flows, "original_destination", lambda _: ("93.184.216.34", 443))


async def _until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


async def _reset(sock: socket.socket) -> None:
    sock.setblocking(False)
    with sock, pytest.raises(ConnectionResetError):
        async with asyncio.timeout(60):
            await asyncio.get_running_loop().sock_recv(sock, 1)


@pytest.mark.usefixtures("redirected")
async def test_a_connection_begins_with_its_name_and_token(
    forwarder: Forwarder, boundary: _Boundary, listeners: list[socket.socket]
) -> None:
    address = listeners[0].getsockname()
    assert forwarder.handle(OPEN, listeners) == {"id": 1, "ok": True, "closed": 0}
    with socket.create_connection(address):
        await _until(lambda: boundary.headers)
        forwarder.handle({"id": 2, "op": "token", "cell": 5, "token": "renewed"}, [])
        with socket.create_connection(address):
            await _until(lambda: len(boundary.headers) == 2)
    expected = [
        proxy_header.encode(source=(flow.source(5)[0], port), destination=("93.184.216.34", 443), token=token)
        for port, token in ((1024, b"the-token"), (1025, b"renewed"))
    ]
    assert boundary.headers == expected


@pytest.mark.usefixtures("redirected")
async def test_a_cut_counts_and_closes_every_flow_and_leaves_the_listeners(
    forwarder: Forwarder, boundary: _Boundary, listeners: list[socket.socket]
) -> None:
    address = listeners[0].getsockname()
    forwarder.handle(OPEN, listeners)
    held = [socket.create_connection(address) for _ in range(5)]
    await _until(lambda: len(boundary.headers) == 5)
    assert forwarder.handle({"id": 3, "op": "cut", "cell": 5}, [])["closed"] == 5
    assert forwarder.handle({"id": 4, "op": "cut", "cell": 5}, [])["closed"] == 0
    for sock in held:
        await _reset(sock)
    with socket.create_connection(address):
        await _until(lambda: len(boundary.headers) == 6)


@pytest.mark.usefixtures("redirected")
async def test_a_connection_that_is_cut_as_soon_as_it_is_accepted_is_reset(
    forwarder: Forwarder, boundary: _Boundary, listeners: list[socket.socket]
) -> None:
    forwarder.handle(OPEN, listeners)
    sock = socket.create_connection(listeners[0].getsockname())
    forwarder._cells[5]._accept(listeners[0], False)
    assert forwarder.handle({"id": 3, "op": "cut", "cell": 5}, [])["closed"] == 1
    await _reset(sock)
    assert boundary.headers == []


@pytest.mark.usefixtures("redirected")
async def test_a_cell_has_a_limit_of_flows_and_gets_them_back(
    forwarder: Forwarder, boundary: _Boundary, listeners: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "MAX_FLOWS", 2)
    address = listeners[0].getsockname()
    forwarder.handle(OPEN, listeners)
    held = [socket.create_connection(address) for _ in range(2)]
    await _until(lambda: len(boundary.headers) == 2)
    await _reset(socket.create_connection(address))
    for sock in held:
        sock.close()
    for writer in boundary.writers:
        writer.close()
    await _until(lambda: not forwarder._cells[5]._flows)
    with socket.create_connection(address):
        await _until(lambda: len(boundary.headers) == 3)


async def test_a_connection_that_nobody_redirected_is_reset(
    forwarder: Forwarder, boundary: _Boundary, listeners: list[socket.socket]
) -> None:
    address = listeners[0].getsockname()
    forwarder.handle(OPEN, listeners)
    await _reset(socket.create_connection(address))
    assert boundary.headers == []


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"op": "open", "cell": 5, "token": "x"}, "ValueError: open needs 6 descriptors, 0 came"),
        ({"op": "cut", "cell": 9}, "ValueError: cell 9 is not open"),
        ({"op": "token", "cell": 9, "token": "x"}, "ValueError: cell 9 is not open"),
        ({"op": "dance", "cell": 9}, "ValueError: cell 9 is not open"),
        ({"op": "cut"}, "KeyError: 'cell'"),
        ({"cell": 9}, "KeyError: 'op'"),
        ({"op": "cut", "cell": None}, "TypeError"),
    ],
)
async def test_a_message_that_cannot_be_obeyed_is_answered(
    forwarder: Forwarder, message: dict[str, Any], why: str
) -> None:
    answer = forwarder.handle(message | {"id": 8}, [])
    assert (answer["id"], answer["ok"], answer["closed"]) == (8, False, 0)
    assert answer["error"].startswith(why)


async def test_descriptors_that_belong_to_no_open_are_closed(
    forwarder: Forwarder, listeners: list[socket.socket]
) -> None:
    forwarder.handle({"op": "close", "cell": 5}, listeners[:2])
    forwarder.handle({"op": "open", "cell": 5}, listeners[2:])
    assert [sock.fileno() for sock in listeners] == [-1] * 6


async def test_a_cell_that_is_closed_stops_listening(forwarder: Forwarder, listeners: list[socket.socket]) -> None:
    address = listeners[0].getsockname()
    forwarder.handle(OPEN, listeners)
    assert forwarder.handle({"op": "close", "cell": 5}, [])["ok"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


@pytest.mark.parametrize(
    ("source", "destination", "token"),
    [
        (("100.64.0.1", 1024), ("::1", 80), b"x"),
        (("100.64.0.1", 1024), ("1.1.1.1", 80), b""),
        (("100.64.0.1", 1024), ("1.1.1.1", 80), b"x" * 401),
        (("100.64.0.1", 1024), ("1.1.1.1", 80), b"a\r\nb"),
        (("100.64.0.1", 1024), ("1.1.1.1", 80), "ä".encode()),
    ],
)
def test_a_header_that_would_not_be_read_as_meant_is_not_written(
    source: tuple[str, int], destination: tuple[str, int], token: bytes
) -> None:
    with pytest.raises(ValueError, match=r"token|families"):
        proxy_header.encode(source=source, destination=destination, token=token)


def test_an_ipv6_header_carries_both_addresses_and_one_tlv() -> None:
    made = proxy_header.encode(source=("fd00::1", 1024), destination=("2606::2", 443), token=b"tok")
    assert made[:16] == proxy_header.SIGNATURE + b"\x21\x21" + (36 + 6).to_bytes(2, "big")
    assert made[16:48] == ipaddress.ip_address("fd00::1").packed + ipaddress.ip_address("2606::2").packed
    assert made[48:] == b"\x04\x00\x01\xbb\xe0\x00\x03tok"


# -- the cell's proxy ----------------------------------------------------------------------------------------------------

PROXY = (flow.virtual(flow.PROXY_NAME)[0], flow.PROXY_PORT)


class _Names:
    """The decision service's end: answers questions with `code`, doors with nothing, and writes down what was asked."""

    def __init__(self) -> None:
        self.code, self.asked = 0, []  # type: ignore[var-annotated]

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readexactly(12)
                asked = await reader.readexactly(int.from_bytes(head[:4], "big") - 8)
                door = bool(head[4] & 0x80)
                said = b"" if door else asked[:2] + bytes((0x81, 0x80 | self.code)) + asked[4:]
                if not door:
                    self.asked.append(asked)
                writer.write((8 + len(said)).to_bytes(4, "big") + head[4:] + said)
        except asyncio.IncompleteReadError:
            writer.close()


@pytest.fixture
async def naming(tmp_path: Path) -> AsyncIterator[_Names]:
    made = _Names()
    server = await asyncio.start_unix_server(made, str(tmp_path / "dns.sock"))
    yield made
    server.close()


@pytest.fixture
async def proxied(
    boundary: _Boundary,
    naming: _Names,
    listeners: list[socket.socket],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Forwarder, Any]]:
    """A forwarder with a DNS, whose cell dialled its proxy; and where to connect."""
    monkeypatch.setattr(flows, "original_destination", lambda _: PROXY)
    server = await asyncio.start_unix_server(boundary, str(tmp_path / "proxy.sock"))
    relay = Relay(tmp_path / "dns.sock")
    running = asyncio.ensure_future(relay.run())
    await _until(lambda: relay._writer is not None)
    forwarder = Forwarder(proxy_socket=tmp_path / "proxy.sock", relay=relay)
    address = listeners[0].getsockname()
    forwarder.handle(OPEN, listeners)
    yield forwarder, address
    forwarder.close()
    running.cancel()
    server.close()
    for writer in boundary.writers:
        writer.close()
    await asyncio.sleep(0.02)


def _header(destination: tuple[str, int], port: int = 1024) -> bytes:
    source = flow.source(5)[":" in destination[0]]
    return proxy_header.encode(source=(source, port), destination=destination, token=b"the-token")


async def test_a_connect_gets_the_destination_that_its_name_has(
    proxied: tuple[Forwarder, Any], boundary: _Boundary, naming: _Names
) -> None:
    reader, writer = await asyncio.open_connection(*proxied[1])
    for piece in (b"CONN", b"ECT api.example:443 HTTP/1.1\r\nproxy-authorization: x\r\n", b"\r\n"):
        writer.write(piece)
        await asyncio.sleep(0.01)
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
    await _until(lambda: boundary.headers)
    assert boundary.headers == [_header((flow.virtual("api.example")[0], 443))]
    assert [asked[12:] for asked in naming.asked] == [b"\3api\7example\0\0\1\0\1"]
    writer.close()


@pytest.mark.parametrize("literal", ["192.0.2.7", "2001:db8::7"])
async def test_a_connect_to_an_address_asks_nobody(
    proxied: tuple[Forwarder, Any], boundary: _Boundary, naming: _Names, literal: str
) -> None:
    reader, writer = await asyncio.open_connection(*proxied[1])
    host = f"[{literal}]" if ":" in literal else literal
    writer.write(f"CONNECT {host}:80 HTTP/1.1\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    await _until(lambda: boundary.headers)
    assert boundary.headers == [_header((literal, 80))]
    assert naming.asked == []
    writer.close()


@pytest.mark.parametrize("code", [2, 3])
async def test_a_name_that_the_cell_may_not_know_opens_no_tunnel(
    proxied: tuple[Forwarder, Any], boundary: _Boundary, naming: _Names, code: int
) -> None:
    naming.code = code
    _, writer = await asyncio.open_connection(*proxied[1])
    writer.write(b"CONNECT api.example:443 HTTP/1.1\r\n\r\n")
    await _until(lambda: boundary.headers)
    assert boundary.headers == [_header(PROXY)]
    writer.close()


@pytest.mark.parametrize("ended", [True, False])
async def test_what_never_becomes_a_connect_goes_on_as_it_came(
    proxied: tuple[Forwarder, Any], boundary: _Boundary, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    monkeypatch.setattr(proxy, "HEAD_TIMEOUT_S", 0.1)
    _, writer = await asyncio.open_connection(*proxied[1])
    writer.write(b"CONNECT api.exa")
    if ended:
        writer.write_eof()
    await _until(lambda: boundary.headers)
    assert boundary.headers == [_header(PROXY)]
    writer.close()


async def test_a_flow_that_is_cut_while_it_says_where_to_reaches_nobody(
    proxied: tuple[Forwarder, Any], boundary: _Boundary
) -> None:
    forwarder, address = proxied
    for message in ({"op": "cut", "cell": 5, "ports": [1024]}, {"op": "cut", "cell": 5}):
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"CONNECT api.example:443 HTTP/1.1\r\n")
        await _until(lambda message=message: forwarder.handle({"id": 9, **message}, [])["closed"] == 1)
        writer.write(b"\r\n")
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
    assert boundary.headers == []
