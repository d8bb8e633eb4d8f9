"""Two connections joined into one: bytes both ways, back-pressure, half-close, reset.

A peer that stops reading must stop the other from being read, or a slow upstream fills the forwarder's memory; a client
that has said all it wants (shutdown(2)) still waits for its answer; and an answer that was cut off must not look whole.
Guarantees all three; looks at no byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import cast

HALF_CLOSED_S = 300.0
"""How long a connection may stay open one way only."""
PROMPT_READS = 6
"""The first reads of a TCP connection that are acknowledged at once. A client without TCP_NODELAY sends its first
request only when its last handshake message was acknowledged; a delayed ACK makes every new connection 40 ms slower."""
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero: close(2) sends a reset and forgets what was not delivered."""


class Half(asyncio.Protocol):
    """One of the two ends, joined to the other before it has a transport.

    Reading cannot be held back until both stand (uvloop reads on after `pause_reading` in `connection_made`), so what
    comes early waits in `_early`; it is at most what one read gives, since the end that answers is dialled first.
    """

    __slots__ = ("_early", "_ended", "_idle", "_lost", "_other", "_prompt", "_transport", "lost")

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._other: Half | None = None
        self._early = bytearray()
        self._transport: asyncio.Transport | None = None
        self._ended = False
        """Nothing more comes from this end."""
        self._idle: asyncio.TimerHandle | None = None
        self._prompt = PROMPT_READS
        self.lost = False

    def _tcp(self) -> socket.socket | None:
        """The socket, if this end is a TCP connection."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        return sock if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6) else None

    def join(self, other: Half) -> None:
        """Copy both ways from now on. Called before either end is connected."""
        self._other, other._other = other, self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass of it
        if self._early:
            self._transport.write(bytes(self._early))
            self._early.clear()
        if self._other is not None and self._other.lost:
            self.abort()
        elif self._other is not None and self._other._ended:
            self._transport.write_eof()

    def _open(self) -> asyncio.Transport | None:
        """The transport, where it can still be used."""
        found = self._transport
        return found if found is not None and not self.lost and not found.is_closing() else None

    def write(self, data: bytes) -> None:
        if self._transport is None:
            self._early += data
            return
        transport = self._open()
        if transport is not None:
            transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)
        if self._prompt:
            self._prompt -= 1
            sock = self._tcp()
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # holds for a moment: tcp(7)

    def eof_received(self) -> bool:
        """Pass the end on; keep writing until the other end has ended as well."""
        self._ended = True
        other = self._other
        if other is None or other.lost:
            return False
        if other._transport is None:
            return True
        transport = other._open()
        if transport is None:
            return False
        if other._ended:
            transport.close()
            return False
        transport.write_eof()
        self._idle = asyncio.get_running_loop().call_later(HALF_CLOSED_S, self._forget)
        return True

    def _forget(self) -> None:
        """Half closed for too long: whoever is left has forgotten it."""
        self.abort()
        if self._other is not None:
            self._other.abort()

    def pause_writing(self) -> None:
        transport = self._other._open() if self._other is not None else None
        if transport is not None:
            transport.pause_reading()

    def resume_writing(self) -> None:
        transport = self._other._open() if self._other is not None else None
        if transport is not None:
            transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if self._idle is not None:
            self._idle.cancel()
        other = self._other
        if other is not None and other._transport is not None and not other.lost:
            if exc is None and self._ended:
                other._transport.close()
            else:
                other.abort()
        self._lost()

    def abort(self) -> None:
        """Close at once. What was not delivered yet never is: the peer of a TCP connection gets a reset, not an end."""
        if self._transport is None or self.lost:
            return
        sock = self._tcp()
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._transport.abort()
