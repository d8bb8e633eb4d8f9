"""Token endpoints are others' servers: what a hostile one can do to the node that asks it. Real TLS, no cell."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from boundary_upstreams import TestAuthority

from remit.broker.dialler import ANSWER_MAX, Dialler
from remit.core.errors import Unavailable
from remit.core.exchange import Call, Endpoint
from remit.testing import StaticResolver

SECRET = "client-secret-4711"
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
Serve = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Hostile:
    """`heads`: what was sent here. `answer`: what is written back."""

    def __init__(self, directory: Path) -> None:
        self.authority = TestAuthority(directory)
        self.heads: list[bytes] = []
        self.names: list[str | None] = []
        self.answer: Serve = self.fine
        self.resolver = StaticResolver({"auth.test": (ipaddress.ip_address("127.0.0.1"),)})
        self.port = 0

    async def fine(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 2\r\n\r\n{}")

    def says(self, *pieces: bytes) -> None:
        async def answer(head: bytes, writer: asyncio.StreamWriter) -> None:
            for piece in pieces:
                writer.write(piece)

        self.answer = answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            await self.answer(head, writer)
            await writer.drain()
        writer.close()

    def endpoint(self, host: str = "auth.test", port: int | None = None) -> Endpoint:
        return Endpoint(host=host, port=port or self.port, target="/token", addresses=LOOPBACK)

    async def ask(self, to: Endpoint | None = None) -> bytes:
        call = Call(
            method="POST", endpoint=to or self.endpoint(), headers={"authorization": SECRET}, body=SECRET.encode()
        )
        return (await Dialler(self.resolver, self.authority.file)(call)).body


@pytest.fixture
async def hostile(tmp_path: Path) -> AsyncIterator[Hostile]:
    made = Hostile(tmp_path)
    context = made.authority.server_context("auth.test")
    context.sni_callback = lambda connection, name, _: made.names.append(name)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


async def refused(hostile: Hostile, to: Endpoint | None = None) -> str:
    with pytest.raises(Unavailable) as caught:
        await hostile.ask(to)
    assert SECRET not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.detail}"
    return caught.value.detail


async def test_an_honest_one_sees_its_own_name_and_nothing_of_the_environment(
    hostile: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    assert await hostile.ask() == b"{}"
    assert hostile.names == ["auth.test"]
    (head,) = hostile.heads
    assert f"host: auth.test:{hostile.port}\r\n".encode() in head.lower()
    assert b"accept-encoding: identity" in head.lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_never_followed(hostile: Hostile, status: int) -> None:
    location = f"https://auth.test:{hostile.port}/elsewhere".encode()
    hostile.says(b"HTTP/1.1 %d Go\r\nlocation: %b\r\ncontent-length: 0\r\n\r\n" % (status, location))
    answer = await Dialler(hostile.resolver, hostile.authority.file)(Call(method="POST", endpoint=hostile.endpoint()))
    assert answer.status == status
    assert len(hostile.heads) == 1


@pytest.mark.parametrize(
    "pieces",
    [
        (OK + b"content-length: 1000000000\r\n\r\n", b"x" * (ANSWER_MAX + 1)),
        (OK + b"\r\n", *[b"x" * 8192] * 9),
        (OK + b"transfer-encoding: chunked\r\n\r\n", *[b"2000\r\n" + b"x" * 8192 + b"\r\n"] * 9),
    ],
)
async def test_a_huge_answer_is_not_read_to_its_end(hostile: Hostile, pieces: tuple[bytes, ...]) -> None:
    hostile.says(*pieces)
    assert "answers with more than 64 KiB" in await refused(hostile)


async def test_a_compressed_answer_is_not_opened(hostile: Hostile) -> None:
    hostile.says(OK + b"content-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc")
    assert "in an encoding that was not asked for" in await refused(hostile)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/0.9\r\n\r\n",
        b"garbage\r\n\r\n",
        OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"",
        OK + b"x" * 200_000,
    ],
)
async def test_what_is_no_http_is_refused(hostile: Hostile, said: bytes) -> None:
    hostile.says(said)
    assert "speaks no HTTP" in await refused(hostile)


async def test_a_slow_answer_ends_with_whoever_waits_for_it(hostile: Hostile) -> None:
    begun = asyncio.Event()

    async def drip(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"content-length: 100\r\n\r\n{")
        begun.set()
        await asyncio.Event().wait()

    hostile.answer = drip
    asking = asyncio.ensure_future(hostile.ask())
    await begun.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("169.254.169.254", "never dialled"),
        ("10.1.2.3", "special-use"),
        ("::1", ""),
        ("::ffff:169.254.169.254", "never dialled"),
        ("64:ff9b::a9fe:a9fe", "never dialled"),
        ("100.64.0.1", ""),
    ],
)
async def test_an_address_that_is_not_for_it_is_not_dialled(hostile: Hostile, address: str, why: str) -> None:
    for found in ((address,), ("127.0.0.1", address)):
        hostile.resolver.table["auth.test"] = tuple(map(ipaddress.ip_address, found))
        assert why in await refused(hostile)
    assert not hostile.heads


async def test_an_address_of_the_node_is_not_dialled_unless_it_is_named(hostile: Hostile) -> None:
    hostile.resolver.table["auth.test"] = (ipaddress.ip_address("1.1.1.1"),)
    hostile.resolver.nodes_own = frozenset({ipaddress.ip_address("1.1.1.1")})
    assert "1.1.1.1" in await refused(hostile)


async def test_one_that_cannot_prove_its_name_gets_nothing(hostile: Hostile) -> None:
    hostile.resolver.table["other.test"] = (ipaddress.ip_address("127.0.0.1"),)
    assert "its certificate is not good" in await refused(hostile, hostile.endpoint("other.test"))
    assert not hostile.heads


async def test_one_of_an_authority_that_nobody_trusts_gets_nothing(hostile: Hostile, tmp_path: Path) -> None:
    stranger = TestAuthority(tmp_path, "Stranger CA")
    with pytest.raises(Unavailable, match="its certificate is not good"):
        await Dialler(hostile.resolver, stranger.file)(Call(method="POST", endpoint=hostile.endpoint()))
    assert not hostile.heads


async def test_one_that_is_gone_is_a_reason(hostile: Hostile) -> None:
    assert "refuses connections" in await refused(hostile, hostile.endpoint(port=1))
    hostile.resolver.table.clear()
    assert "has no address" in await refused(hostile)
