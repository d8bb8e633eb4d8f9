"""Where Envoy sends every opaque connection that the decision refused: it is told why, where it can be, and closed.

The decision stands and is recorded; this server is only its voice. It is reached by hostile bytes, so it reads little,
for a short time, and never holds more than a bounded number of connections: when there are as many, the oldest of the
cell that has most of them makes room, so no cell takes the words from another. A connection arrives as the body of a
POST (RFC 9112 §7.1, chunked) whose headers are Envoy's: its flow, its port, and the refusal as `tunnel_check` wrote it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

import httptools

from remit.boundary import farewells, opaque, tunnel_check
from remit.boundary.opaque import Opening, Recognised
from remit.boundary.tunnels import REFUSED
from remit.core import flow
from remit.core.errors import Invalid

log = logging.getLogger(__name__)

HEAD_TIMEOUT_S = 2.0
OPENING_TIMEOUT_S = 2.0
"""How long a client may take to say what it speaks."""
WAITING_TIMEOUT_S = 0.2
"""The same on ports whose clients wait for the server to speak first: nothing will come."""
READ_BYTES = 4096
CONNECTIONS_MAX = 1024
_BEGIN = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"


async def serve_refuse(path: Path) -> None:
    """Answer refused connections on Unix socket `path` (mode 0660: its directory says who connects) until cancelled."""
    path.unlink(missing_ok=True)
    desk = _Desk()
    server = await asyncio.start_unix_server(desk.accept, str(path), limit=READ_BYTES)
    path.chmod(0o660)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        desk.close()
        path.unlink(missing_ok=True)


class _Desk:
    def __init__(self) -> None:
        self._open: dict[int | None, dict[asyncio.StreamWriter, None]] = {None: {}}
        """By cell, oldest first; of None are those whose head is still to come."""
        self._count = 0

    def close(self) -> None:
        for writer in [writer for held in self._open.values() for writer in held]:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._count >= CONNECTIONS_MAX:
            self._make_room()
        self._put(writer, None)
        post, cell = _Post(reader), None
        try:
            await asyncio.wait_for(post.head(), HEAD_TIMEOUT_S)
            if self._taken(writer, None):
                cell = flow.cell_at(post.headers.get("x-remit-flow", ""))
                self._put(writer, cell)
                await self._serve(post, writer)
        except (OSError, Invalid, TimeoutError, EOFError, httptools.HttpParserError) as error:
            log.info("a refused connection was closed: %s", error)
        finally:
            self._taken(writer, cell)
            writer.close()

    def _make_room(self) -> None:
        cell = max(self._open, key=lambda one: len(self._open[one]))
        oldest = next(iter(self._open[cell]))
        self._taken(oldest, cell)
        oldest.transport.abort()

    def _put(self, writer: asyncio.StreamWriter, cell: int | None) -> None:
        self._open.setdefault(cell, {})[writer] = None
        self._count += 1

    def _taken(self, writer: asyncio.StreamWriter, cell: int | None) -> bool:
        """Whether it was there; it no longer is."""
        held = self._open.get(cell, {})
        if writer not in held:
            return False
        del held[writer]
        self._count -= 1
        if not held and cell is not None:
            del self._open[cell]
        return True

    async def _serve(self, post: _Post, writer: asyncio.StreamWriter) -> None:
        refused = tunnel_check.read_refusal(post.headers.get(REFUSED, ""))
        said = post.headers.get("x-remit-to", "").rpartition(":")[2]
        port = int(said) if said.isdecimal() else 0  # where nobody came through the forwarder, it is a socket's path
        writer.write(_BEGIN)
        waits = port in opaque.SERVER_FIRST_PORTS
        found = await _recognised(Opening(port), post, writer, WAITING_TIMEOUT_S if waits else OPENING_TIMEOUT_S)
        words = farewells.explained(found, refused)
        writer.write((_chunk(words) if words else b"") + b"0\r\n\r\n")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(writer.drain(), OPENING_TIMEOUT_S)


class _Post:
    """The request and its body, as far as they have come."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._parser = httptools.HttpRequestParser(self)
        self._body = bytearray()
        self._began = self._ended = False
        self.headers: dict[str, str] = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._began = True

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        self._ended = True

    async def head(self) -> None:
        while not self._began:
            await self._feed()

    async def read(self) -> bytes:
        """What the client says next; empty at its end."""
        while not (self._body or self._ended):
            await self._feed()
        said, self._body = bytes(self._body), bytearray()
        return said

    async def _feed(self) -> None:
        data = await self._reader.read(READ_BYTES)
        if not data:
            raise EOFError("closed by Envoy")
        self._parser.feed_data(data)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _recognised(opening: Opening, post: _Post, writer: asyncio.StreamWriter, timeout_s: float) -> Recognised:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                data = await post.read()
        except TimeoutError:
            return opening.given_up()
        if not data:
            return opening.given_up()
        found = opening.feed(data)
        if opening.to_send:
            writer.write(_chunk(bytes(opening.to_send)))
            opening.to_send.clear()
        if found is not None:
            return found
