"""The bench's own upstream for revocation: endless answers, and when each of them was cut."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import time

from bench.certificates import Files

EVERY_S = 0.05
FLOOD = b"x" * 16384
FLOOD_EVERY_S = 0.005
FLOOD_LIMIT = 2 << 20
"""What a stream whose name begins with `flood-` writes at a time, how often, and the budget that is held against it."""


class Streams:
    """An HTTPS server in a thread of its own, and one for bare TCP. `ended`: when each stream was cut, by its name
    (monotonic seconds)."""

    def __init__(self) -> None:
        self.ended: dict[str, float] = {}
        self.open: set[str] = set()
        self._loop = asyncio.new_event_loop()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls))
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._tcp = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.tcp_port = int(self._tcp.sockets[0].getsockname()[1])
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def use(self, files: Files) -> None:
        """The port is known before the certificate is; connections made before this fail."""
        self._tls.load_cert_chain(files.certificate, files.key)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        name = head.split(b" ", 2)[1].rpartition(b"/")[2].decode()
        gone = asyncio.ensure_future(reader.read())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        self.open.add(name)
        with contextlib.suppress(OSError):
            flood = name.startswith("flood-")
            while not gone.done():
                writer.write(FLOOD if flood else b"data: x\n\n")
                await asyncio.wait([gone], timeout=FLOOD_EVERY_S if flood else EVERY_S)
        self.ended[name] = time.monotonic()
        gone.cancel()
        writer.close()
