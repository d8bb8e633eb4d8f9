"""DNS out of the cells: queries over UDP and TCP go, as they are, to the decision service, and its answers back.

No query of an agent may leave the node, so nothing here resolves. Framing on the one pipelined connection, both ways:
4 bytes length of what follows, 4 bytes cell, 4 bytes query id, the DNS message (RFC 1035 §4.1); an empty answer means
drop. Without the decision service a query is answered SERVFAIL. Each cell has a bounded number of queries in flight;
what it sends beyond that over UDP stays in the buffer of its own socket, and the kernel drops what does not fit there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

log = logging.getLogger(__name__)

MAX_QUERY = 4096
"""Larger ones are dropped: EDNS payload sizes end here in practice (DNS flag day 2020 uses 1232)."""
MAX_PENDING = 256
"""Queries in flight of one cell."""
MAX_TCP = 64
"""Open TCP connections of one cell."""
MAX_UNSENT_BYTES = 1 << 20
ANSWER_TIMEOUT_S = 5.0
"""Less than resolvers in a cell wait in all (`machine`), so that they are told and do not only give up."""
SWEEP_S = 1.0
TCP_IDLE_S = 10.0
DOOR = 1 << 31
"""In the place of the cell's number: a question for a door, not for a name (`node.dns_server`)."""
_BATCH = 64
_BACKOFF_S = (0.05, 0.1, 0.2, 0.5, 1.0)

Reply = Callable[[bytes], None]


def _failure(cell: int, query: bytes) -> bytes:
    """SERVFAIL for `query` (RFC 1035 §4.1.1): its own bytes with QR set and RCODE 2. No door for whoever asked that."""
    if cell & DOOR:
        return b""
    return query[:2] + bytes((query[2] | 0x80, (query[3] & 0xF0) | 2)) + query[4:]


class Relay:
    """The connection to the decision service. `run` keeps it up until cancelled; `ask` never blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: asyncio.StreamWriter | None = None
        self._pending: dict[int, tuple[float, int, bytes, Reply]] = {}
        self._load: dict[int, int] = {}
        self._full: dict[int, set[Callable[[], None]]] = {}
        self._next = 0

    async def run(self) -> None:
        failures = 0
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                reader, self._writer = await asyncio.open_unix_connection(str(self._path))
                failures = 0
                sweeping = asyncio.ensure_future(self._sweep())
                try:
                    await self._read(reader)
                finally:
                    sweeping.cancel()
                    self._writer.close()
                    self._writer = None
                    self._expire(everything=True)
            await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
            failures += 1

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while True:
            head = await reader.readexactly(12)
            size = int.from_bytes(head[:4], "big")
            if not 8 <= size <= 8 + 65535:
                log.error("the DNS service sent a frame of %d bytes", size)
                return
            answer = await reader.readexactly(size - 8)
            entry = self._take(int.from_bytes(head[8:], "big"))
            if entry is not None and entry[1] == int.from_bytes(head[4:8], "big") and (answer or entry[1] & DOOR):
                entry[3](answer)

    async def _sweep(self) -> None:
        """Nobody may ask anything more, and what waits is told all the same."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._expire()

    def full(self, cell: int, room: Callable[[], None]) -> bool:
        """Whether `cell` has as many queries in flight as it may; if so, `room` is called when it has fewer."""
        if self._writer is None or self._load.get(cell, 0) < MAX_PENDING:
            return False
        self._full.setdefault(cell, set()).add(room)
        return True

    def ask(self, cell: int, query: bytes, reply: Reply) -> None:
        """Send `query`; `reply` is called at most once, with the answer."""
        if not 12 <= len(query) <= MAX_QUERY or query[2] & 0x80:
            return
        self._expire()
        self._send(cell, query, reply)

    def door(self, cell: int, address: str, port: int, reply: Reply) -> None:
        """Ask by which door a connection of `cell` should go; empty: where Envoy looks for itself."""
        self._expire()
        self._send(cell | DOOR, port.to_bytes(2, "big") + ipaddress.ip_address(address).packed, reply)

    def _send(self, cell: int, query: bytes, reply: Reply) -> None:
        writer = self._usable()
        if writer is None or self._load.get(cell, 0) >= MAX_PENDING:
            reply(_failure(cell, query))
            return
        self._next = (self._next + 1) & 0xFFFFFFFF
        self._pending[self._next] = (time.monotonic(), cell, query, reply)
        self._load[cell] = self._load.get(cell, 0) + 1
        frame = (8 + len(query)).to_bytes(4, "big") + cell.to_bytes(4, "big") + self._next.to_bytes(4, "big") + query
        writer.write(frame)

    def _usable(self) -> asyncio.StreamWriter | None:
        """The connection, unless the decision service is away, or does not read: then what is sent piles up here."""
        writer = self._writer
        return writer if writer and writer.transport.get_write_buffer_size() <= MAX_UNSENT_BYTES else None

    def _take(self, number: int) -> tuple[float, int, bytes, Reply] | None:
        entry = self._pending.pop(number, None)
        if entry is not None:
            left = self._load[entry[1]] - 1
            if left:
                self._load[entry[1]] = left
            else:
                del self._load[entry[1]]
            for room in self._full.pop(entry[1], ()):
                asyncio.get_running_loop().call_soon(room)
        return entry

    def _expire(self, *, everything: bool = False) -> None:
        """Answer SERVFAIL to what waited too long, or to all of it: the other side is gone."""
        limit = time.monotonic() - (0.0 if everything else ANSWER_TIMEOUT_S)
        while self._pending:
            number = next(iter(self._pending))
            if self._pending[number][0] > limit:
                return
            entry = self._take(number)
            if entry is not None:
                entry[3](_failure(entry[1], entry[2]))


class UdpPort:
    """One UDP socket of a cell's namespace, relayed."""

    def __init__(self, cell: int, sock: socket.socket, relay: Relay) -> None:
        self._cell, self._sock, self._relay = cell, sock, relay
        sock.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        if self._sock.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        for _ in range(_BATCH):
            if self._relay.full(self._cell, self._listen):
                asyncio.get_running_loop().remove_reader(self._sock.fileno())
                return
            try:
                query, peer = self._sock.recvfrom(MAX_QUERY + 1)
            except OSError:
                return
            self._relay.ask(self._cell, query, lambda answer, peer=peer: self._send(answer, peer))  # type: ignore[misc]

    def _send(self, answer: bytes, peer: Any) -> None:
        with contextlib.suppress(OSError):
            self._sock.sendto(answer, peer)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._sock.fileno())
            self._sock.close()


class TcpConnection(asyncio.Protocol):
    """One DNS connection of a cell: messages with a two-byte length (RFC 7766 §8), several at once."""

    def __init__(self, cell: int, relay: Relay, lost: Callable[[TcpConnection], None]) -> None:
        self._cell, self._relay, self._lost = cell, relay, lost
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass of it
        self._touch()

    def _touch(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(TCP_IDLE_S, self.abort)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._touch()
        while len(self._buffer) >= 2:
            size = int.from_bytes(self._buffer[:2], "big")
            if not 12 <= size <= MAX_QUERY:
                self.abort()
                return
            if len(self._buffer) < 2 + size:
                return
            query = bytes(self._buffer[2 : 2 + size])
            del self._buffer[: 2 + size]
            self._relay.ask(self._cell, query, self._send)

    def pause_writing(self) -> None:
        """A client that asks and does not read the answers is of no use to anybody."""
        self.abort()

    def eof_received(self) -> bool:
        return True

    def _send(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(len(answer).to_bytes(2, "big") + answer)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._lost(self)
