"""By which of the boundary's doors a connection goes: the one where it is read, or one where it is carried unread.

A server that speaks first would wait for ever behind a door that waits for the client, and a client that pins
certificates must not be intercepted; which destinations these are, the decision service knows. The forwarder asks and
believes, because nothing depends on it: behind every door stands the same check. Answers are kept for a moment.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from remit.cell.dns_relay import Relay

ANSWER_TIMEOUT_S = 1.0
KEPT_S = 1.0
KEPT_MAX = 512
DOORS = frozenset({b"tcp", b"tls"})


class Doors:
    """Of one cell. `proxy`: the socket of the door where connections are read; the others stand beside it."""

    def __init__(self, cell: int, proxy: Path, relay: Relay) -> None:
        self._cell, self._proxy, self._relay = cell, proxy, relay
        self._kept: dict[tuple[str, int], tuple[float, Path]] = {}

    async def entrance(self, address: str, port: int) -> Path:
        """The socket to connect to. Without an answer in time, the door where connections are read."""
        loop = asyncio.get_running_loop()
        kept = self._kept.get((address, port))
        if kept is not None and loop.time() - kept[0] < KEPT_S:
            return kept[1]
        answer: asyncio.Future[bytes] = loop.create_future()
        self._relay.door(self._cell, address, port, lambda said: None if answer.done() else answer.set_result(said))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                said = await answer
        except TimeoutError:
            return self._proxy
        found = self._proxy.with_name(f"{said.decode()}.sock") if said in DOORS else self._proxy
        if len(self._kept) >= KEPT_MAX:
            self._kept.clear()
        self._kept[address, port] = (loop.time(), found)
        return found
