"""The relay of queries: whole messages there and back, and what it does when the other side is slow, gone or hostile."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from remit.cell import dns_relay
from remit.cell.dns_relay import Relay, TcpConnection

QUERY = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x00\x00\x01\x00\x01"
SERVFAIL = 2


class _Service:
    """The decision service's side: what came, as (cell, id, message), and the means to answer it."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[tuple[int, int, bytes]] = asyncio.Queue()
        self._writer: asyncio.StreamWriter | None = None

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                body = await reader.readexactly(size)
                head = int.from_bytes(body[:4], "big"), int.from_bytes(body[4:8], "big")
                await self.asked.put((*head, body[8:]))

    def answer(self, cell: int, number: int, message: bytes) -> None:
        assert self._writer is not None
        self._writer.write(b"".join(n.to_bytes(4, "big") for n in (8 + len(message), cell, number)) + message)

    def hang_up(self) -> None:
        assert self._writer is not None
        self._writer.close()


@pytest.fixture
def service() -> _Service:
    return _Service()


@pytest.fixture
async def relay(service: _Service, tmp_path: Path) -> AsyncIterator[Relay]:
    server = await asyncio.start_unix_server(service, str(tmp_path / "dns.sock"))
    made = Relay(tmp_path / "dns.sock")
    running = asyncio.ensure_future(made.run())
    async with asyncio.timeout(60):
        while made._usable() is None:
            await asyncio.sleep(0.005)
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    with contextlib.suppress(AssertionError):
        service.hang_up()
    server.close()


def _ask(relay: Relay, cell: int = 7, query: bytes = QUERY) -> asyncio.Future[bytes]:
    answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    relay.ask(cell, query, answered.set_result)
    return answered


async def _now(answered: asyncio.Future[bytes]) -> bytes:
    return await asyncio.wait_for(answered, 60)


async def test_a_query_goes_out_whole_with_its_cell_and_its_answer_comes_back(relay: Relay, service: _Service) -> None:
    answered = _ask(relay)
    cell, number, message = await service.asked.get()
    assert (cell, message) == (7, QUERY)
    service.answer(cell, number, b"the answer")
    assert await _now(answered) == b"the answer"


async def test_answers_out_of_order_find_their_queries(relay: Relay, service: _Service) -> None:
    first, second = _ask(relay, 1), _ask(relay, 2)
    (cell1, number1, _), (cell2, number2, _) = await service.asked.get(), await service.asked.get()
    service.answer(cell2, number2, b"second")
    service.answer(cell1, number1, b"first")
    assert (await _now(first), await _now(second)) == (b"first", b"second")


async def test_an_answer_under_another_cells_number_is_nobodys(relay: Relay, service: _Service) -> None:
    answered, marker = _ask(relay, 1), _ask(relay, 2)
    _, number, _ = await service.asked.get()
    service.answer(2, number, b"another cell's")
    cell, number, _ = await service.asked.get()
    service.answer(cell, number, b"mark")
    assert await _now(marker) == b"mark"
    assert not answered.done()


async def test_an_empty_answer_drops_the_query(relay: Relay, service: _Service) -> None:
    dropped, marker = _ask(relay), _ask(relay)
    service.answer(*(await service.asked.get())[:2], b"")
    service.answer(*(await service.asked.get())[:2], b"mark")
    assert await _now(marker) == b"mark"
    assert not dropped.done()


async def test_a_service_that_goes_away_fails_what_waits_at_once(relay: Relay, service: _Service) -> None:
    answered = _ask(relay)
    await service.asked.get()
    service.hang_up()
    answer = await _now(answered)
    assert answer[:2] == QUERY[:2]
    assert (answer[2] & 0x80, answer[3] & 0xF) == (0x80, SERVFAIL)
    assert answer[4:] == QUERY[4:]


async def test_a_service_that_is_away_fails_a_query_at_once(tmp_path: Path) -> None:
    answer = await _now(_ask(Relay(tmp_path / "nobody.sock")))
    assert answer[3] & 0xF == SERVFAIL


async def test_a_cell_that_floods_fails_itself_and_nobody_else(relay: Relay, service: _Service) -> None:
    flood = [_ask(relay, 1) for _ in range(dns_relay.MAX_PENDING + 1)]
    assert [answered.done() for answered in flood] == [False] * dns_relay.MAX_PENDING + [True]
    other = _ask(relay, 2)
    while True:
        cell, number, _ = await service.asked.get()
        service.answer(cell, number, b"fine")
        if cell == 2:
            break
    assert await _now(other) == b"fine"
    assert await _now(flood[0]) == b"fine"


async def test_a_service_that_does_not_answer_fails_the_query_in_time(
    relay: Relay, service: _Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_relay, "ANSWER_TIMEOUT_S", 0.0)
    silent = _ask(relay)
    await service.asked.get()
    _ask(relay)
    assert (await _now(silent))[3] & 0xF == SERVFAIL


async def test_a_query_that_nobody_answers_fails_though_nothing_more_is_asked(
    relay: Relay, service: _Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_relay, "ANSWER_TIMEOUT_S", 0.0)
    assert (await _now(_ask(relay)))[3] & 0xF == SERVFAIL


async def test_what_a_cell_sends_beyond_its_number_is_not_read_until_there_is_room(
    relay: Relay, service: _Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns_relay, "MAX_PENDING", 2)
    kind = socket.AF_INET, socket.SOCK_DGRAM
    with socket.socket(*kind) as theirs, socket.socket(*kind) as ours:
        ours.bind(("127.0.0.1", 0))
        theirs.connect(ours.getsockname())
        theirs.setblocking(False)
        port = dns_relay.UdpPort(7, ours, relay)
        for _ in range(5):
            theirs.send(QUERY)
        waiting = [await asyncio.wait_for(service.asked.get(), 60) for _ in range(2)]
        marker = _ask(relay, 8)
        assert (await asyncio.wait_for(service.asked.get(), 60))[0] == 8, "no third one of cell 7 stands before it"
        marker.cancel()
        for more in (True, True, True, False, False):
            cell, number, _ = waiting.pop(0)
            service.answer(cell, number, b"fine")
            assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(theirs, 100), 60) == b"fine"
            waiting += [await asyncio.wait_for(service.asked.get(), 60)] if more else []
        port.close()


@pytest.mark.parametrize(
    "query",
    [b"", QUERY[:11], QUERY + bytes(4096), QUERY[:2] + b"\x81" + QUERY[3:]],
    ids=["empty", "short", "long", "answer"],
)
async def test_what_is_no_query_is_dropped(relay: Relay, service: _Service, query: bytes) -> None:
    dropped, marker = _ask(relay, 1, query), _ask(relay, 2)
    assert (await service.asked.get())[0] == 2
    assert not dropped.done()
    marker.cancel()


@contextlib.asynccontextmanager
async def _tcp(relay: Relay) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    lost = asyncio.Event()
    made = TcpConnection(7, relay, lambda _: lost.set())
    server = await asyncio.get_running_loop().create_server(lambda: made, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
    try:
        yield reader, writer
    finally:
        writer.close()
        made.abort()
        await asyncio.wait_for(lost.wait(), 5)
        server.close()


async def test_tcp_carries_several_queries_in_pieces(relay: Relay, service: _Service) -> None:
    framed = len(QUERY).to_bytes(2, "big") + QUERY
    async with _tcp(relay) as (reader, writer):
        for byte in framed + framed[:5]:
            writer.write(bytes((byte,)))
            await writer.drain()
        writer.write(framed[5:])
        for _ in range(2):
            cell, number, message = await asyncio.wait_for(service.asked.get(), 5)
            assert message == QUERY
            service.answer(cell, number, b"answered")
            assert await asyncio.wait_for(reader.readexactly(10), 5) == b"\x00\x08answered"


@pytest.mark.parametrize("length", [0, 11, 4097, 65535])
async def test_a_tcp_length_that_no_query_has_ends_the_connection(relay: Relay, length: int) -> None:
    async with _tcp(relay) as (reader, writer):
        writer.write(length.to_bytes(2, "big") + b"x")
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(1), 5) == b""
