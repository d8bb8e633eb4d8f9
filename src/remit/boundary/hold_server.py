"""Where held requests wait: Envoy's second check, on a socket and a cluster of its own.

Envoy sends only what the fast check answered with `hold`, with its body (at most `BODY_MAX_BYTES`; Envoy refuses more
by itself). One request a connection at a time, each in a task of its own, because it may wait a minute. When the agent
gives up, Envoy closes the connection, and the wait ends. However many wait here, the fast check goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import httptools

from remit.boundary import check
from remit.boundary.check_server import HEAD_MAX, NO_RECORD, Lines, Refuse
from remit.control.decide import Denied, Permitted
from remit.control.holding import Body
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence

log = logging.getLogger(__name__)

BODY_MAX_BYTES = 256 << 10
"""What Envoy keeps of a held request: 1,024 of them are 256 MiB of its heap."""
PENDING_MAX = 1024

Hold = Callable[[Evidence, Body], Awaitable[Permitted | Denied]]


async def serve_hold(path: Path, hold: Hold, refuse: Refuse, pending_max: int = PENDING_MAX) -> None:
    """Answer Envoy on Unix socket `path` (mode 0660) until cancelled. At most `pending_max` requests wait at once."""
    path.unlink(missing_ok=True)
    desk = _Desk(hold, refuse, pending_max)
    server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(desk), str(path), backlog=4096)
    path.chmod(0o660)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        desk.close()
        path.unlink(missing_ok=True)


class _Desk:
    """What the connections share."""

    def __init__(self, hold: Hold, refuse: Refuse, pending_max: int) -> None:
        self._hold = hold
        self._refuse = refuse
        self._pending_max = pending_max
        self.waiting: set[asyncio.Task[None]] = set()
        self.connections: set[asyncio.Transport] = set()

    def ask(
        self, method: bytes, target: bytes, raw: Lines, body: Body, answer: Callable[[bytes], None]
    ) -> asyncio.Task[None] | None:
        if len(self.waiting) >= self._pending_max:
            refusal = Refusal(Reason.OVERLOADED, f"{self._pending_max} requests wait for a human already")
            answer(check.render(Denied(record=NO_RECORD, refusal=refusal)))
            return None
        task = asyncio.ensure_future(self._answer(method, target, raw, body, answer))
        self.waiting.add(task)
        task.add_done_callback(self.waiting.discard)
        return task

    def close(self) -> None:
        for task in list(self.waiting):
            task.cancel()
        for transport in list(self.connections):
            transport.abort()

    async def _answer(
        self, method: bytes, target: bytes, raw: Lines, body: Body, answer: Callable[[bytes], None]
    ) -> None:
        try:
            read = check.parse(method, target, raw)
            if isinstance(read, Evidence):
                said = check.render(await self._hold(read, body))
            else:
                denied = await self._refuse(read.refusal, token=read.token, flow=read.flow, **read.facts)
                said = check.render(denied)
        except Exception:  # a fault of ours is a denial, never a hang
            log.exception("a held check failed")
            said = check.render(Denied(record=NO_RECORD, refusal=Refusal(Reason.NOT_READY, "the check failed")))
        answer(said)


class _Connection(asyncio.Protocol):
    """One request at a time; what httptools does not understand, or is too much, ends the connection (a denial)."""

    def __init__(self, desk: _Desk) -> None:
        self._desk = desk
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._waiting: asyncio.Task[None] | None = None
        self._busy = False
        self._begin()

    def _begin(self) -> None:
        self._target, self._headers = b"", list[tuple[bytes, bytes]]()
        self._digest, self._bytes, self._size = hashlib.sha256(), 0, 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._desk.connections.add(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._desk.connections.discard(self._transport)
        self._transport = None
        if self._waiting is not None:
            self._waiting.cancel()

    def data_received(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > HEAD_MAX + BODY_MAX_BYTES:
            self._abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserError as error:
            log.warning("Envoy sent what is no request: %s", error)
            self._abort()

    def on_message_begin(self) -> None:
        if self._busy:
            self._abort()
        self._begin()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, data: bytes) -> None:
        self._digest.update(data)
        self._bytes += len(data)

    def on_message_complete(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._busy = True
        body = Body(digest=self._digest.hexdigest(), size=self._bytes) if self._bytes else Body()
        method = self._parser.get_method()
        self._waiting = self._desk.ask(method, self._target, self._headers, body, self._answer)

    def _answer(self, data: bytes) -> None:
        self._busy, self._size, self._waiting = False, 0, None
        if self._transport is not None:
            self._transport.write(data)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
