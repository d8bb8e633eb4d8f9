"""Where Envoy sends the answers to requests that carried a credential: side streams over HTTP/2, on a Unix socket.

Whatever goes wrong with one resets its stream, and Envoy refuses or cuts that answer (`failure_mode_allow` is false);
so does the end of this process. What could begin a secret is held back; when nothing follows for `IDLE_S`, its first
few bytes pass (`core.scrubber.Scrubber.idle`), so that an event that ends like that does not wait for the next.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import cast

from remit.boundary.scrub import Answers, Exchange
from remit.boundary.streams import Broken, Stream, Wire

log = logging.getLogger(__name__)

IDLE_S = 0.02


async def serve_scrub(path: Path, answers: Answers) -> None:
    """Scrub for Envoy on Unix socket `path` (mode 0660: its directory says who connects) until cancelled."""
    path.unlink(missing_ok=True)
    connections: set[asyncio.Transport] = set()
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: _Connection(answers, connections), str(path), backlog=4096
    )
    path.chmod(0o660)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        for transport in list(connections):
            transport.abort()
        path.unlink(missing_ok=True)


class _Connection(asyncio.Protocol):
    def __init__(self, answers: Answers, connections: set[asyncio.Transport]) -> None:
        self._answers = answers
        self._connections = connections
        self._transport: asyncio.Transport | None = None
        self._wire = Wire(self._accept)
        self._pauses: dict[int, asyncio.TimerHandle] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self._transport)
        self._write()

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._connections.discard(self._transport)
        self._transport = None
        for pause in self._pauses.values():
            pause.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._wire.feed(data)
        except Broken as error:
            log.warning("a side stream of Envoy's is none: %s", error)
            if self._transport is not None:
                self._transport.abort()
            return
        self._write()

    def _accept(self, stream: Stream) -> None:
        stream.receive = partial(self._received, stream, Exchange(self._answers))

    def _received(self, stream: Stream, exchange: Exchange, message: bytes) -> None:
        if self._pauses and (pause := self._pauses.pop(stream.id, None)) is not None:
            pause.cancel()
        try:
            for said in exchange.receive(message):
                self._wire.send(stream, said)
        except Exception:  # a fault of ours is a refused or a cut answer, never one that passes
            log.exception("an answer could not be scrubbed")
            self._wire.reset(stream)
            return
        if exchange.done:
            self._wire.finish(stream)
        elif exchange.waits:
            self._pauses[stream.id] = asyncio.get_running_loop().call_later(IDLE_S, self._paused, stream, exchange)

    def _paused(self, stream: Stream, exchange: Exchange) -> None:
        self._pauses.pop(stream.id, None)
        for said in exchange.idle():
            self._wire.send(stream, said)
        self._write()

    def _write(self) -> None:
        out = self._wire.take()
        if out and self._transport is not None:
            self._transport.write(out)
