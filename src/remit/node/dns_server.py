"""The DNS of the cells, on a Unix socket: `dns` on the wire of the forwarder.

A frame is 4 bytes length of what follows, 4 bytes cell, 4 bytes query id, the DNS message; answers have the same shape,
an empty message means that nothing is answered. The cell's number comes from the forwarder, never from the message.
A frame whose cell has its highest bit set asks for a door instead: 2 bytes port, then the address (4 or 16 bytes); the
answer is its name (`destinations.Destinations.door`).

Cells are answered in turns, and answering takes no more than a part of the event loop's time, on which decisions are
made as well: an agent that asks without end makes neither another's names nor another's requests wait.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import cast

from remit.core import flow
from remit.core.reason import Reason
from remit.node import dns
from remit.node.dns_ledger import Ledger, Refused
from remit.node.dns_memory import Memory
from remit.node.dns_turns import Turns

log = logging.getLogger(__name__)

FRAME_MAX = 8 + 65535
SWEEP_S = 1.0
SLICE_S = 0.002
PAUSE_S = 0.004
"""After a slice that did not answer all. A name is answered in some 0.1 ms, so no more than a third of a second's time
goes into some 3,000 names."""
DOOR = 1 << 31
_SIZE = 4

Knows = Callable[[int, str], bool]
"""Whether the role of the task in a cell has a capability for a host of that canonical name."""
Record = Callable[[Refused], Awaitable[None]]
"""Write a record of kind `dns`."""


Door = Callable[[int, str, int], bytes]
"""`destinations.Destinations.door`."""


async def serve_dns(
    path: Path,
    knows: Knows,
    record: Record,
    *,
    quota: dns.Quota,
    door: Door,
    search: Sequence[str] = (),
    mode: int = 0o660,
) -> None:
    """Answer the forwarder on Unix socket `path` until cancelled. `mode`: the forwarder is another uid.

    `search`: domains with which resolvers in cells complete short names.
    """
    path.unlink(missing_ok=True)
    desk = Desk(knows, quota, door, search)
    open_now: set[Conversation] = set()
    server = await asyncio.get_running_loop().create_unix_server(lambda: Conversation(desk, open_now), str(path))
    path.chmod(mode)
    try:
        await _write_down(desk.ledger, record)
    finally:
        server.close()
        for conversation in list(open_now):
            conversation.end()
        path.unlink(missing_ok=True)


class Desk:
    """What a question is answered, and which refused names are to be written down."""

    def __init__(self, knows: Knows, quota: dns.Quota, door: Door, search: Sequence[str]) -> None:
        self._memory = Memory()
        self._search = tuple(f".{domain}" for domain in search)
        self._door = door
        self._knows = knows
        self._quota = quota
        self.ledger = Ledger()

    def door(self, cell: int, asked: bytes) -> bytes:
        try:
            address = ipaddress.ip_address(asked[2:])
        except ValueError:
            log.error("the forwarder asked for a door to what is no address")
            return b""
        return self._door(cell, str(address), int.from_bytes(asked[:2], "big"))

    def reply(self, frame: bytes, now: float) -> bytes:
        """To a frame without its length."""
        cell = int.from_bytes(frame[:4], "big")
        return self.door(cell ^ DOOR, frame[8:]) if cell & DOOR else self.answer(cell, frame[8:], now)

    def answer(self, cell: int, query: bytes, now: float) -> bytes:
        reply = self._memory.answer(
            cell,
            query,
            lambda name: self._quota.admit(cell, name),
            lambda name: name.endswith(self._search) and not self._knows(cell, name),
        )
        if reply.fate is dns.Fate.REFUSED:
            self.ledger.note(cell, reply.name, reply.kind, Reason.OVERLOADED, now)
        elif reply.name and not (
            dns.is_local(reply.name) or reply.name == flow.PROXY_NAME or self._knows(cell, reply.name)
        ):
            self.ledger.note(cell, reply.name, reply.kind, Reason.NO_CAPABILITY, now)
        return reply.message


class Conversation(asyncio.Protocol):
    """One connection of the forwarder."""

    def __init__(self, desk: Desk, open_now: set[Conversation]) -> None:
        self._desk, self._open = desk, open_now
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._turns = Turns()
        self._next: asyncio.TimerHandle | None = None
        self._held_back = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass of it
        self._open.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= _SIZE:
            size = int.from_bytes(self._buffer[at : at + _SIZE], "big")
            if not 8 <= size <= FRAME_MAX:
                log.error("the forwarder sent a DNS frame of %d bytes", size)
                self.end()
                return
            if len(self._buffer) - at < _SIZE + size:
                break
            self._put(bytes(self._buffer[at + _SIZE : at + _SIZE + size]))
            at += _SIZE + size
        del self._buffer[:at]
        if self._next is None:
            self._answer()

    def _put(self, frame: bytes) -> None:
        if self._transport is not None and not self._turns.put(int.from_bytes(frame[:4], "big") & ~DOOR, frame):
            self._transport.write(_framed(frame[:8], b""))

    def _answer(self) -> None:
        """Answer what waits until the slice is over; the rest after a pause."""
        self._next = None
        if self._transport is None or self._held_back:
            return
        now = self._loop.time()
        end, answers = now + SLICE_S, []
        try:
            while self._turns:
                frame = self._turns.take()
                answers.append(_framed(frame[:8], self._desk.reply(frame, now)))
                now = self._loop.time()
                if now >= end:
                    break
        except Exception:  # the forwarder connects again, and cells ask again
            log.exception("a question could not be answered")
            self.end()
            return
        self._transport.write(b"".join(answers))
        if self._turns:
            self._next = self._loop.call_later(PAUSE_S, self._answer)

    def pause_writing(self) -> None:
        """The forwarder does not read: nothing more is answered, nor read, until it does."""
        self._held_back = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._held_back = False
        if self._transport is not None:
            self._transport.resume_reading()
        if self._next is None:
            self._answer()

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._open.discard(self)
        if self._next is not None:
            self._next.cancel()


def _framed(head: bytes, message: bytes) -> bytes:
    return (8 + len(message)).to_bytes(_SIZE, "big") + head + message


async def _write_down(ledger: Ledger, record: Record) -> None:
    loop = asyncio.get_running_loop()
    while True:
        for refused in ledger.due(loop.time()):
            try:
                await record(refused)
            except Exception:  # the name was refused either way; the next one may be recorded again
                log.exception("a refused name could not be recorded")
        await asyncio.sleep(SWEEP_S)
