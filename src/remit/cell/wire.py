"""The cells protocol: frames of one byte type, four bytes length, payload, on a Unix stream socket.

`J` is JSON; `0`, `1`, `2` are stdin, stdout, stderr. Whoever may connect is the operator (the kernel says who:
SO_PEERCRED), but what comes is still bounded and checked, because a broken client must not take the daemon with it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from typing import Any

from remit.core.errors import Invalid

JSON, STDIN, STDOUT, STDERR = b"J", b"0", b"1", b"2"
MAX_DATA, MAX_JSON = 64 << 10, 1 << 20
_HEAD = struct.Struct(">cI")
_KINDS = frozenset((JSON, STDIN))


class Gone(Exception):
    """The client has closed its end."""


class Connection:
    """One client. `send` waits while the client does not read; `Gone` is raised where it has hung up."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._sending = asyncio.Lock()

    @property
    def user(self) -> int:
        """The uid of the process that connected."""
        sock = self._writer.get_extra_info("socket")
        raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int(struct.unpack("iII", raw)[1])

    async def receive(self) -> tuple[bytes, bytes]:
        """The next (type, payload). `Invalid` for what is no frame."""
        try:
            kind, size = _HEAD.unpack(await self._reader.readexactly(_HEAD.size))
            if kind not in _KINDS or size > (MAX_JSON if kind == JSON else MAX_DATA):
                raise Invalid("the client sent something that is no frame of this protocol")
            return kind, await self._reader.readexactly(size)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Gone from error

    async def message(self) -> dict[str, Any]:
        """The next JSON object. `Invalid` for anything else."""
        kind, payload = await self.receive()
        return parsed(payload) if kind == JSON else {}

    async def send(self, kind: bytes, payload: bytes) -> None:
        try:
            async with self._sending:
                self._writer.write(_HEAD.pack(kind, len(payload)) + payload)
                await self._writer.drain()
        except OSError as error:
            raise Gone from error

    async def tell(self, **message: Any) -> None:
        """Send a JSON object (`event` says which)."""
        await self.send(JSON, json.dumps(message).encode())

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError:
            return


def parsed(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise Invalid("the client sent a frame that is not JSON") from error
    if not isinstance(message, dict):
        raise Invalid("the client sent a frame that is not a JSON object")
    return message
