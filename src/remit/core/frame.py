"""Length-prefixed JSON objects: 4 bytes big-endian length, then one UTF-8 JSON object. Sans-io, bounded."""

from __future__ import annotations

import json
from typing import Any

from remit.core.errors import Invalid

MAX_FRAME_BYTES = 16 << 20


def encode(message: dict[str, Any]) -> bytes:
    """One frame. Raises `Invalid` where the message is over the limit."""
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise Invalid(f"a message of {len(body)} bytes does not fit a frame of {MAX_FRAME_BYTES}")
    return len(body).to_bytes(4, "big") + body


class Decoder:
    """Feed bytes as they come; get whole messages. After `Invalid` the stream cannot be read further."""

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """The messages completed by `data`. Raises `Invalid` for an oversized frame or one that is no JSON object."""
        self._buffer += data
        found: list[dict[str, Any]] = []
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > self._limit:
                raise Invalid(f"a frame of {size} bytes is over the limit of {self._limit}")
            if len(self._buffer) < 4 + size:
                break
            body = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            try:
                message = json.loads(body)
            except (ValueError, RecursionError) as error:
                raise Invalid("a frame is not JSON") from error
            if not isinstance(message, dict):
                raise Invalid("a frame is not a JSON object")
            found.append(message)
        return found
