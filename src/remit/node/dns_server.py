"""The DNS of the cells, on a Unix socket: `dns` on the wire of the forwarder.

A frame is 4 bytes length of what follows, 4 bytes cell, 4 bytes query id, the DNS message; answers have the same shape,
an empty message means that nothing is answered. The cell's number comes from the forwarder, never from the message.
A frame whose cell has its highest bit set asks for a door instead: 2 bytes port, then the address (4 or 16 bytes); the
answer is its name (`destinations.Destinations.door`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from remit.core import flow
from remit.core.reason import Reason
from remit.node import dns
from remit.node.dns_ledger import Ledger, Refused

log = logging.getLogger(__name__)

FRAME_MAX = 8 + 65535
SWEEP_S = 1.0
DOOR = 1 << 31

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
    desk = _Desk(knows, quota, door, search)
    open_now: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            await _converse(reader, writer, desk)
        except asyncio.CancelledError:
            return  # our own end; asyncio 3.11 would log it as an error
        finally:
            open_now.discard(task)
            writer.close()

    server = await asyncio.start_unix_server(connected, str(path))
    path.chmod(mode)
    try:
        await _write_down(desk.ledger, record)
    finally:
        server.close()
        for task in list(open_now):
            task.cancel()
        path.unlink(missing_ok=True)


class _Desk:
    def __init__(self, knows: Knows, quota: dns.Quota, door: Door, search: Sequence[str]) -> None:
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

    def answer(self, cell: int, query: bytes, now: float) -> bytes:
        reply = dns.answer(
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


async def _converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, desk: _Desk) -> None:
    loop = asyncio.get_running_loop()
    try:
        while True:
            size = int.from_bytes(await reader.readexactly(4), "big")
            if not 8 <= size <= FRAME_MAX:
                log.error("the forwarder sent a DNS frame of %d bytes", size)
                return
            frame = await reader.readexactly(size)
            cell = int.from_bytes(frame[:4], "big")
            message = desk.door(cell ^ DOOR, frame[8:]) if cell & DOOR else desk.answer(cell, frame[8:], loop.time())
            writer.write((8 + len(message)).to_bytes(4, "big") + frame[:8] + message)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        return


async def _write_down(ledger: Ledger, record: Record) -> None:
    loop = asyncio.get_running_loop()
    while True:
        for refused in ledger.due(loop.time()):
            try:
                await record(refused)
            except Exception:  # the name was refused either way; the next one may be recorded again
                log.exception("a refused name could not be recorded")
        await asyncio.sleep(SWEEP_S)
