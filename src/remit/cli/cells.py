"""The commands' end of the cells protocol: one request, frames until it is answered.

Cells are run by a process of their own that takes orders on its own socket (see `cell`), so `stop`, `logs`, `diff` and
`merge` work while the control plane is away. Frames: one byte type, four bytes length (big-endian), payload.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from remit import settings as configuration
from remit.core.errors import Conflict, Invalid, NotFound, RemitError, Unavailable

JSON, STDOUT, STDERR = b"J", b"1", b"2"
MAX_JSON = 1 << 20
MAX_DATA = 64 << 10
CONNECT_TIMEOUT_S = 5.0
_KINDS: Mapping[str, type[RemitError]] = {
    "invalid": Invalid,
    "not-found": NotFound,
    "conflict": Conflict,
    "unavailable": Unavailable,
}


def ask(request: Mapping[str, Any], *, timeout_s: float = 60.0) -> dict[str, Any]:
    """Send `request`; the event that answers it."""
    for kind, payload in exchange(request, timeout_s=timeout_s):
        if kind == JSON:
            return event(payload)
    raise Unavailable("the cells process closed the connection without an answer", hint="remit status")


def exchange(request: Mapping[str, Any], *, timeout_s: float | None) -> Iterator[tuple[bytes, bytes]]:
    """Send `request`; every (type, payload) that comes back, until the other side closes."""
    path = configuration.load().cells_socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(CONNECT_TIMEOUT_S)
        try:
            connection.connect(str(path))
            body = json.dumps(request).encode()
            connection.sendall(struct.pack(">cI", JSON, len(body)) + body)
            connection.settimeout(timeout_s)
            while header := _exactly(connection, 5):
                kind, size = struct.unpack(">cI", header)
                if size > (MAX_JSON if kind == JSON else MAX_DATA):
                    raise Unavailable("the cells process sent a frame that is too large", hint="remit doctor")
                yield kind, _exactly(connection, size) if size else b""
        except TimeoutError as error:
            raise Unavailable("the cells process did not answer in time", hint="remit status") from error
        except OSError as error:
            raise Unavailable(f"the cells process does not answer on {path}", hint="remit up --detach") from error


def event(payload: bytes) -> dict[str, Any]:
    """A JSON frame. Raises the error that it carries, if it carries one."""
    try:
        message = json.loads(payload)
    except ValueError as error:
        raise Unavailable("the cells process sent a frame that is not JSON", hint="remit doctor") from error
    if not isinstance(message, dict):
        raise Unavailable("the cells process sent a frame that is not an object", hint="remit doctor")
    if message.get("event") == "error":
        kind = _KINDS.get(str(message.get("kind")), RemitError)
        raise kind(str(message.get("detail", "")), hint=str(message.get("hint") or ""))
    return message


def _exactly(connection: socket.socket, size: int) -> bytes:
    """`size` bytes; nothing where the stream ends before the first."""
    found = bytearray()
    while len(found) < size:
        data = connection.recv(size - len(found))
        if not data:
            if found:
                raise OSError("the stream ended inside a frame")
            return b""
        found += data
    return bytes(found)
