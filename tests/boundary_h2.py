"""HTTP/2 by hand (RFC 9113), to send what no library would: header blocks without compression, frames in any order."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4

Pairs = Sequence[tuple[bytes, bytes]]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + payload


def block(headers: Pairs) -> bytes:
    """HPACK: each header a literal without indexing, without Huffman (RFC 7541 §6.2.2)."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in headers)


def _text(data: bytes) -> bytes:
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, length = b"", len(data) - 127
    while length >= 128:
        rest += bytes([length % 128 + 128])
        length //= 128
    return b"\x7f" + rest + bytes([length]) + data


def request(
    path: bytes = b"/", authority: bytes = b"api.test", *more: tuple[bytes, bytes]
) -> list[tuple[bytes, bytes]]:
    return [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", authority), (b":path", path), *more]


class Streams:
    """What came back: `bodies` by stream; `reset` streams; whether the connection was given up (`gone`)."""

    def __init__(self) -> None:
        self.bodies: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.gone = False


def talk(sock: socket.socket, requests: Iterable[Pairs | bytes]) -> Streams:
    """Send each request on a stream of its own (bytes are sent as they are); read until all have ended."""
    found, expected, number = Streams(), set(), 1
    out = PREFACE + frame(SETTINGS, 0, 0)
    for headers in requests:
        if isinstance(headers, bytes):
            out += headers
            continue
        out += frame(HEADERS, END_HEADERS | END_STREAM, number, block(headers))
        expected.add(number)
        number += 2
    sock.sendall(out)
    data = b""
    try:
        while expected - found.ended - found.reset and not found.gone:
            more = sock.recv(65536)
            if not more:
                found.gone = True
            data = taken(sock, data + more, found)
    except OSError:
        found.gone = True
    return found


def taken(sock: socket.socket, data: bytes, found: Streams) -> bytes:
    while len(data) >= 9:
        length, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
        stream = int.from_bytes(data[5:9], "big") & 0x7FFFFFFF
        if len(data) < 9 + length:
            break
        payload, data = data[9 : 9 + length], data[9 + length :]
        if kind == SETTINGS and not flags & ACK:
            sock.sendall(frame(SETTINGS, ACK, 0))
        elif kind == DATA:
            found.bodies[stream] = found.bodies.get(stream, b"") + payload
        elif kind == RESET:
            found.reset.add(stream)
        elif kind == GOAWAY:
            found.gone = True
        if kind in (DATA, HEADERS) and flags & END_STREAM:
            found.ended.add(stream)
    return data
