"""`python -m bench.adapter SOCKET PORT`: lets mitmproxy stand behind the forwarder.

mitmproxy cannot listen on a Unix socket, nor read PROXY v2. This takes the forwarder's connections, drops the
header, and passes the bytes on to a TCP port of loopback. The little that it costs is borne by mitmproxy's figures.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import cast

import uvloop

HEADER_BYTES = 16


class Inward(asyncio.Protocol):
    """A connection of the forwarder."""

    def __init__(self, port: int) -> None:
        self._port, self._buffer, self._headed = port, bytearray(), False
        self._outward: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        loop = asyncio.get_running_loop()
        self._dialling = loop.create_task(loop.create_connection(lambda: Outward(self), "127.0.0.1", self._port))

    def dialled(self, transport: asyncio.Transport) -> None:
        self._outward = transport
        self.data_received(b"")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._headed and len(self._buffer) >= HEADER_BYTES:
            size = HEADER_BYTES + int.from_bytes(self._buffer[14:16], "big")
            if len(self._buffer) >= size:
                del self._buffer[:size]
                self._headed = True
        if self._outward is not None and self._headed and self._buffer:
            self._outward.write(bytes(self._buffer))
            self._buffer.clear()

    def connection_lost(self, error: Exception | None) -> None:
        self._dialling.cancel()
        if self._outward is not None:
            self._outward.close()


class Outward(asyncio.Protocol):
    """The connection to mitmproxy that belongs to one of the forwarder."""

    def __init__(self, inward: Inward) -> None:
        self._inward = inward

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._inward.dialled(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        self._inward.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._inward.transport.close()


async def main(socket: Path, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: Inward(port), str(socket))
    socket.chmod(0o666)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), int(sys.argv[2])))
