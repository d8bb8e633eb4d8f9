"""Where Envoy sends every connection that is neither TLS nor HTTP: it is recorded, told why where it can be, closed.

Nothing is dialled for such a connection (law 1); this server is its end. It is reached by hostile bytes before any
decision, so it reads little, for a short time, and never holds more than a bounded number of connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from remit.boundary import opaque, proxy_header
from remit.boundary.check_server import Refuse
from remit.boundary.opaque import Opening, Recognised
from remit.boundary.proxy_header import Header
from remit.boundary.resources import SERVER_FIRST_PORTS
from remit.core.errors import Invalid
from remit.core.reason import Reason, Refusal

log = logging.getLogger(__name__)

HEADER_TIMEOUT_S = 2.0
OPENING_TIMEOUT_S = 2.0
"""How long a client may take to say what it speaks."""
WAITING_TIMEOUT_S = 0.2
"""The same on ports whose clients wait for the server to speak first: nothing will come."""
READ_BYTES = 4096
CONNECTIONS_MAX = 1024


async def serve_refuse(path: Path, refuse: Refuse) -> None:
    """Refuse every connection on Unix socket `path` (mode 0660: its directory says who connects) until cancelled."""
    path.unlink(missing_ok=True)
    desk = _Desk(refuse)
    server = await asyncio.start_unix_server(desk.accept, str(path), limit=READ_BYTES)
    path.chmod(0o660)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        desk.close()
        path.unlink(missing_ok=True)


class _Desk:
    def __init__(self, refuse: Refuse) -> None:
        self._refuse = refuse
        self._open: set[asyncio.StreamWriter] = set()

    def close(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, Invalid, TimeoutError, EOFError) as error:
            log.info("an opaque connection was closed: %s", error)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        header, rest = await asyncio.wait_for(_header(reader), HEADER_TIMEOUT_S)
        host, _, port = header.destination.rpartition(":")
        waits = int(port) in SERVER_FIRST_PORTS
        found = await _recognised(
            Opening(int(port)), rest, reader, writer, WAITING_TIMEOUT_S if waits else OPENING_TIMEOUT_S
        )
        refusal = Refusal(
            Reason.PROTOCOL_UNSUPPORTED, f"the connection to port {port} speaks {found.protocol}, not HTTP or TLS"
        )
        denied = await self._refuse(
            refusal,
            token=header.token,
            flow=header.flow,
            method=None,
            scheme=found.protocol,
            host=host.strip("[]"),
            port=int(port),
            path=None,
            destination=header.destination,
        )
        if found.postgresql:
            meaning = denied.refusal.meaning
            writer.write(
                opaque.postgresql_error(
                    f"remit: {meaning.title}",
                    f"{denied.refusal.detail} (reason {denied.refusal.reason.value}, record {denied.record})",
                    meaning.next,
                )
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(writer.drain(), OPENING_TIMEOUT_S)


async def _header(reader: asyncio.StreamReader) -> tuple[Header, bytes]:
    data = bytearray()
    while (parsed := proxy_header.parse(data)) is None:
        piece = await reader.read(READ_BYTES)
        if not piece:
            raise EOFError("closed within its PROXY header")
        data += piece
    header, size = parsed
    return header, bytes(data[size:])


async def _recognised(
    opening: Opening, data: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout_s: float
) -> Recognised:
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = opening.feed(data)
        if opening.to_send:
            writer.write(bytes(opening.to_send))
            opening.to_send.clear()
        if found is not None:
            return found
        try:
            async with asyncio.timeout_at(deadline):
                data = await reader.read(READ_BYTES)
        except TimeoutError:
            return opening.given_up()
        if not data:
            return opening.given_up()
