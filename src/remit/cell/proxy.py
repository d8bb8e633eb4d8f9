"""The proxy of a cell: `flow.PROXY_NAME`, for clients that want to be told of one.

It is no place but a way to say where to: a CONNECT names what the client would have dialled by itself, so the name is
looked up as the client would have looked it up, and the connection gets that destination. Nothing is decided here,
nothing is kept, no second connection is made. What is no CONNECT that can be read in one way keeps the proxy as its
destination: the boundary reads a request to a proxy (absolute form) like any other, and refuses the rest.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass

from remit.cell import connect
from remit.cell.dns_relay import Relay
from remit.core import flow, names

HEAD_TIMEOUT_S = 5.0
"""For the whole head; what has not said by then what it wants is sorted by the boundary, which waits as long again."""
LOOKUP_TIMEOUT_S = 1.0
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
_READ_BYTES = 4096
_QUERY_HEAD = bytes((0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0))
"""RFC 1035 §4.1.1: one question, recursion desired."""
_QUERY_TAIL = bytes((0, 1, 0, 1))
"""A, IN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """`destination`: where the client wants to go. `early`: what it has said to there. `answer`: what it is told."""

    destination: tuple[str, int]
    early: bytes
    answer: bytes = b""


async def hear(sock: socket.socket, destination: tuple[str, int], cell: int, relay: Relay) -> Heard:
    """Read from `sock`, which was connected to the proxy at `destination`, until it is clear what it wants."""
    received = b""
    found: connect.Asked | connect.Verdict = connect.Verdict.MORE
    try:
        async with asyncio.timeout(HEAD_TIMEOUT_S):
            while found is connect.Verdict.MORE:
                data = await asyncio.get_running_loop().sock_recv(sock, _READ_BYTES)
                if not data:
                    break
                received += data
                found = connect.read(received)
    except TimeoutError:
        pass
    if isinstance(found, connect.Asked):
        address = await _address(found.host, cell, relay)
        if address is not None:
            return Heard(destination=(address, found.port), early=found.rest, answer=ESTABLISHED)
    return Heard(destination=destination, early=received)


async def _address(host: str, cell: int, relay: Relay) -> str | None:
    """What the cell's DNS gives for `host`, or None where it gives nothing; the cell has then asked for that name."""
    if names.address_literal(host) is not None:
        return host
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes] = loop.create_future()
    relay.ask(cell, query(host), lambda said: None if answer.done() else answer.set_result(said))
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S):
            said = await answer
    except TimeoutError:
        return None
    return flow.virtual(host)[0] if len(said) >= 4 and said[3] & 0x0F == 0 else None


def query(host: str) -> bytes:
    """A DNS question for the IPv4 address of a canonical name."""
    labels = b"".join(bytes((len(label),)) + label.encode("ascii") for label in host.split("."))
    return _QUERY_HEAD + labels + b"\0" + _QUERY_TAIL
