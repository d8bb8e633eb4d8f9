"""Two connections joined into one: bytes both ways, back-pressure, half-close.

A peer that stops reading must stop the other from being read, or a slow upstream fills the forwarder's memory; and a
client that has said all it wants (shutdown(2)) still waits for its answer. Guarantees both; looks at no byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Half(asyncio.Protocol):
    """One of the two ends. Nothing is read from it until `join` has given it its other half."""

    __slots__ = ("_eof", "_lost", "_other", "_transport", "lost")

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._other: Half | None = None
        self._transport: asyncio.Transport | None = None
        self._eof = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.pause_reading()

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        if self._other is not None:
            self._other.write(data)

    def eof_received(self) -> bool:
        """Pass the end on; keep writing until the other end has ended as well."""
        self._eof = True
        other = self._other
        if other is None or other._transport is None or other.lost:
            return False
        if other._eof:
            other._transport.close()
            return False
        other._transport.write_eof()
        return True

    def pause_writing(self) -> None:
        if self._other is not None and self._other._transport is not None and not self._other.lost:
            self._other._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._other is not None and self._other._transport is not None and not self._other.lost:
            self._other._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        other = self._other
        if other is not None and other._transport is not None and not other.lost:
            # An error is passed on as one (reset), so that a cut-off answer is not taken for a whole one.
            if exc is None:
                other._transport.close()
            else:
                other._transport.abort()
        self._lost()

    def abort(self) -> None:
        if self._transport is not None and not self.lost:
            self._transport.abort()

    def join(self, other: Half) -> None:
        """Begin to copy both ways. Where one end is gone already, the other is closed."""
        self._other, other._other = other, self
        for one, two in ((self, other), (other, self)):
            if one.lost:
                two.abort()
            elif one._transport is not None:
                one._transport.resume_reading()
