"""Where Envoy asks: HTTP/1.1 with keep-alive over a Unix socket, one request at a time a connection.

An HTTP framework costs ten times what the decision does, so this is httptools under an asyncio protocol. It gives each
request to the decision, bounds how many wait, and answers a denial for everything that goes wrong on the way: silence
would be one too (Envoy's time-out), but without a reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, cast

import httptools

from remit.boundary import check, eager
from remit.control.decide import Denied, Held, Permitted
from remit.core.reason import Reason, Refusal
from remit.core.request import Evidence

log = logging.getLogger(__name__)

HEAD_MAX = 128 << 10
"""Envoy bounds an agent's head to 60 KiB; ours and joined headers come on top."""
NO_RECORD = ""

Lines = list[tuple[bytes, bytes]]
Decide = Callable[[Evidence], Awaitable[Permitted | Denied | Held]]
Render = Callable[[Permitted | Denied | Held], bytes]


class Refuse(Protocol):
    """`control.decide.Decider.refuse`."""

    def __call__(
        self, refusal: Refusal, *, token: bytes = b"", flow: str = "", **facts: object
    ) -> Awaitable[Denied]: ...


async def serve_check(
    path: Path, decide: Decide, refuse: Refuse, pending_max: int, render: Render = check.render
) -> None:
    """Answer Envoy on Unix socket `path` until cancelled; its directory says who connects.

    At most `pending_max` decisions wait at once.
    """
    path.unlink(missing_ok=True)
    desk = Desk(decide, refuse, pending_max, render)
    server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(desk), str(path), backlog=4096)
    path.chmod(0o660)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        desk.close()
        path.unlink(missing_ok=True)


class Desk:
    """What the connections share. `pending` counts decisions that have not been answered."""

    def __init__(self, decide: Decide, refuse: Refuse, pending_max: int, render: Render = check.render) -> None:
        self._render = render
        self._decide = decide
        self._refuse = refuse
        self._pending_max = pending_max
        self._under_way: set[eager.Steps] = set()
        self.connections: set[asyncio.Transport] = set()

    @property
    def pending(self) -> int:
        return len(self._under_way)

    def ask(self, method: bytes, target: bytes, raw: Lines, answer: Callable[[bytes], None]) -> None:
        """Decide, then call `answer` with the bytes. Where too many wait, answer at once and keep no record."""
        if len(self._under_way) >= self._pending_max:
            refusal = Refusal(Reason.OVERLOADED, f"{self._pending_max} requests wait for a decision already")
            answer(self._render(Denied(record=NO_RECORD, refusal=refusal)))
            return
        eager.Steps(self._answer(method, target, raw, answer), self._under_way).start()

    def close(self) -> None:
        for steps in list(self._under_way):
            steps.close()
        for transport in list(self.connections):
            transport.abort()

    async def _answer(self, method: bytes, target: bytes, raw: Lines, answer: Callable[[bytes], None]) -> None:
        try:
            said = self._render(await self._decided(method, target, raw))
        except Exception:  # a fault of ours is a denial, never a hang
            log.exception("a check failed")
            said = self._render(Denied(record=NO_RECORD, refusal=Refusal(Reason.NOT_READY, "the check failed")))
        answer(said)

    async def _decided(self, method: bytes, target: bytes, raw: Lines) -> Permitted | Denied | Held:
        read = check.parse(method, target, raw)
        if isinstance(read, Evidence):
            return await self._decide(read)
        return await self._refuse(read.refusal, token=read.token, flow=read.flow, **read.facts)


class _Connection(asyncio.Protocol):
    """Reads one request at a time; whatever httptools does not understand ends the connection (a denial)."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: Lines = []
        self._size = 0
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not of asyncio's class
        self._desk.connections.add(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._desk.connections.discard(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._size += len(data)  # counted here: the parser keeps a header to itself until it is whole
        if self._size > HEAD_MAX:
            self._abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # the agent asks for a WebSocket; the check changes nothing
            self._parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserError as error:
            log.warning("Envoy sent what is no request: %s", error)
            self._abort()

    def on_message_begin(self) -> None:
        if self._busy:
            self._abort()
        self._target, self._headers = b"", []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_message_complete(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._busy, self._size = True, 0
        self._desk.ask(self._parser.get_method(), self._target, self._headers, self._answer)

    def _answer(self, data: bytes) -> None:
        self._busy = False
        if self._transport is not None:
            self._transport.write(data)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
