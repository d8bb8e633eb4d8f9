"""How Envoy's HTTP checks are read: HTTP/1.1 with keep-alive over a Unix socket, one request at a time a connection.

An HTTP framework costs ten times what the decision does, so this is httptools under an asyncio protocol.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, cast

import httptools

from remit.control.decide import Denied
from remit.core.reason import Reason, Refusal

log = logging.getLogger(__name__)

HEAD_MAX = 128 << 10
"""Envoy bounds an agent's head to 60 KiB; ours and joined headers come on top."""
NO_RECORD = ""
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group of whoever connected (unix(7), SO_PEERCRED)."""
_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) (/[\x21-\x7e\x80-\xff]*) HTTP/1\.1")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\t\x20-\x7e\x80-\xff]*)")

Lines = list[tuple[bytes, bytes]]


class Refuse(Protocol):
    """`control.decide.Decider.refuse`."""

    def __call__(
        self, refusal: Refusal, *, token: bytes = b"", flow: str = "", **facts: object
    ) -> Awaitable[Denied]: ...


Answer = Callable[[bytes], bool]
"""Replies to one request; whether anybody was there to hear it."""
Met = Callable[[int], None]
"""Told with each connection which process it comes from (`control.openings.Openings.carried_by`)."""


def nobody_asks(process: int) -> None:
    """Stands for a listener that has no use for it."""


class Desk(ABC):
    """What the connections share."""

    def __init__(self, met: Met) -> None:
        self.connections: set[asyncio.Transport] = set()
        self.met = met

    @abstractmethod
    def connection(self) -> Connection: ...

    def close(self) -> None:
        for transport in list(self.connections):
            transport.abort()


async def serve(path: Path, desk: Desk) -> None:
    """Answer Envoy on Unix socket `path` (mode 0660) until cancelled; its directory says who connects."""
    path.unlink(missing_ok=True)
    server = await asyncio.get_running_loop().create_unix_server(desk.connection, str(path), backlog=4096)
    path.chmod(0o660)
    try:
        await asyncio.Event().wait()
    finally:
        server.close()
        desk.close()
        path.unlink(missing_ok=True)


def failed(message: str) -> Denied:
    """Logs the exception at hand. A fault of ours is a denial, never a hang."""
    log.exception(message)
    return unrecorded(Reason.NOT_READY, message)


def unrecorded(reason: Reason, message: str) -> Denied:
    return Denied(record=NO_RECORD, refusal=Refusal(reason, message))


def plainly(data: bytes) -> tuple[bytes, bytes, Lines] | None:
    """Method, target and headers of a request that is whole in `data`, or None where it is not exactly one.

    For what Envoy passes on and httptools does not take: methods that it has no number for, bytes beyond ASCII in a
    query. Such a request is an ordinary one to many servers, and its denial needs a reason like any other.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    first, *rest = head.split(b"\r\n")
    line, headers = _LINE.fullmatch(first), [_HEADER.fullmatch(one) for one in rest]
    if not end or line is None:
        return None
    lines: Lines = []
    for header in headers:
        if header is None:
            return None
        lines.append((header[1].lower(), header[2].strip()))
    said = [value for name, value in lines if name in (b"content-length", b"transfer-encoding")]
    whole = said in ([], [b"%d" % len(body)])
    return (line[1], line[2], lines) if whole and (said or not body) else None


class Connection(asyncio.Protocol, ABC):
    """One request at a time; what cannot be understood, or is too much, ends the connection (a denial)."""

    size_max = HEAD_MAX

    def __init__(self, desk: Desk) -> None:
        self._connections, self._met = desk.connections, desk.met
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: Lines = []
        self._size = 0
        self._busy = False

    @abstractmethod
    def asked(self, method: bytes, target: bytes, headers: Lines, answer: Answer) -> None:
        """A request is whole. `answer` is called once, now or later, with the bytes of the reply."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are not of asyncio's class
        self._connections.add(self._transport)
        peer = transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        self._met(_CREDENTIALS.unpack(peer)[0])

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._connections.discard(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._size += len(data)  # counted here: the parser keeps a header to itself until it is whole
        if self._size > self.size_max:
            self._abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # the agent asks for a WebSocket; the check changes nothing
            self._parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserError as error:
            self._parser = httptools.HttpRequestParser(self)
            request = plainly(data) if self._size == len(data) and not self._busy else None
            if request is None:
                log.warning("Envoy sent what is no request: %s", error)
                self._abort()
                return
            self._busy, self._size = True, 0
            self.asked(*request, self._answer)

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
        self.asked(self._parser.get_method(), self._target, self._headers, self._answer)

    def _answer(self, data: bytes) -> bool:
        self._busy = False
        if self._transport is None:
            return False
        self._transport.write(data)
        return True

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
