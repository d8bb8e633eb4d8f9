"""Two halves of a flow over real socket pairs, on both event loops that may run them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from remit.cell.splice import Half

Body = Callable[["_Joined"], Coroutine[Any, Any, None]]


class _Joined:
    """An agent and an upstream, joined. `lost` counts the ends that are gone."""

    def __init__(self) -> None:
        self.lost = 0
        self.near, self.far = Half(self._count), Half(self._count)
        self.near.join(self.far)
        self.agent, self._near = _tcp_pair()
        self.upstream, self._far = socket.socketpair()
        for sock in (self.agent, self.upstream, self._near, self._far):
            sock.setblocking(False)

    def _count(self) -> None:
        self.lost += 1

    async def dial(self) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: self.far, sock=self._far)

    async def accept(self) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: self.near, self._near)

    async def ended(self) -> None:
        async with asyncio.timeout(60):
            while self.lost < 2:
                await asyncio.sleep(0.005)

    def close(self) -> None:
        self.near.abort()
        self.far.abort()
        for sock in (self.agent, self.upstream, self._near, self._far):
            sock.close()


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        return one, server.accept()[0]


async def _received(sock: socket.socket, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    async with asyncio.timeout(60):
        while len(data) < size:
            part = await loop.sock_recv(sock, 1 << 16)
            if not part:
                break
            data += part
    return data


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def joined(request: pytest.FixtureRequest) -> Callable[[Body], None]:
    """Runs a test's body with both ends dialled."""

    def run(body: Body) -> None:
        async def whole() -> None:
            pair = _Joined()
            try:
                await body(pair)
            finally:
                pair.close()
                await asyncio.sleep(0.01)

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(whole())

    return run


def test_bytes_go_both_ways(joined: Callable[[Body], None]) -> None:
    async def body(pair: _Joined) -> None:
        await pair.dial()
        await pair.accept()
        pair.agent.send(b"question")
        assert await _received(pair.upstream, 8) == b"question"
        pair.upstream.send(b"answer")
        assert await _received(pair.agent, 6) == b"answer"

    joined(body)


def test_what_the_upstream_says_before_the_agent_stands_is_kept(joined: Callable[[Body], None]) -> None:
    async def body(pair: _Joined) -> None:
        pair.upstream.send(b"220 ready\r\n")
        await pair.dial()
        await asyncio.sleep(0.02)
        await pair.accept()
        assert await _received(pair.agent, 11) == b"220 ready\r\n"

    joined(body)


def test_an_upstream_that_answered_and_closed_before_the_agent_stands_is_still_heard(
    joined: Callable[[Body], None],
) -> None:
    async def body(pair: _Joined) -> None:
        pair.upstream.send(b"busy")
        pair.upstream.shutdown(socket.SHUT_WR)
        await pair.dial()
        await asyncio.sleep(0.02)
        await pair.accept()
        assert await _received(pair.agent, 100) == b"busy"

    joined(body)


def test_an_agent_that_has_said_all_still_gets_its_answer(joined: Callable[[Body], None]) -> None:
    async def body(pair: _Joined) -> None:
        await pair.dial()
        await pair.accept()
        pair.agent.send(b"all")
        pair.agent.shutdown(socket.SHUT_WR)
        assert await _received(pair.upstream, 100) == b"all"
        pair.upstream.send(b"answer")
        pair.upstream.close()
        assert await _received(pair.agent, 100) == b"answer"
        await pair.ended()

    joined(body)


def test_an_upstream_that_ends_first_ends_the_agents_side_too(joined: Callable[[Body], None]) -> None:
    async def body(pair: _Joined) -> None:
        await pair.dial()
        await pair.accept()
        pair.upstream.shutdown(socket.SHUT_WR)
        assert await _received(pair.agent, 1) == b""
        pair.agent.close()
        await pair.ended()

    joined(body)


def test_an_agent_that_is_reset_takes_the_upstream_along(joined: Callable[[Body], None]) -> None:
    async def body(pair: _Joined) -> None:
        await pair.dial()
        await pair.accept()
        pair.agent.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        pair.agent.close()
        assert await _received(pair.upstream, 1) == b""
        await pair.ended()

    joined(body)


def test_an_abort_reaches_the_agent_as_a_reset_never_as_an_end(joined: Callable[[Body], None]) -> None:
    async def body(pair: _Joined) -> None:
        await pair.dial()
        await pair.accept()
        pair.upstream.send(b"half an ans")
        assert await _received(pair.agent, 11) == b"half an ans"
        pair.near.abort()
        pair.far.abort()
        with pytest.raises(ConnectionResetError):
            await _received(pair.agent, 1)
        await pair.ended()

    joined(body)


def test_a_side_that_does_not_read_stops_the_other_from_being_read(joined: Callable[[Body], None]) -> None:
    async def body(pair: _Joined) -> None:
        await pair.dial()
        await pair.accept()
        sent, idle = 0, 0
        while idle < 20 and sent < 256 << 20:
            try:
                sent += pair.upstream.send(bytes(1 << 16))
                idle = 0
            except BlockingIOError:
                idle += 1
                await asyncio.sleep(0.01)
        # What fits is socket buffers (the agent's grow to some megabytes) and one transport's, not all that is offered.
        assert sent < 64 << 20
        assert len(await _received(pair.agent, sent)) == sent

    joined(body)
