"""`cells` as a client of the control plane: HTTP/1.1 over its Unix socket, one short connection a call.

An HTTP library would cost the privileged process 15 MB and its bugs; what is needed is one POST and its JSON answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remit.core.errors import Conflict, Invalid, NotFound, RemitError, Unavailable

TIMEOUT_S = 15.0
"""Longer than control waits for its node (5 s) and its cells (5 s)."""
MAX_ANSWER_BYTES = 1 << 20
_STATUS: Mapping[int, type[RemitError]] = {404: NotFound, 409: Conflict, 422: Invalid, 503: Unavailable}


class ControlClient:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def post(self, target: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The answer's object. Raises the error that the problem in the answer stands for, or `Unavailable`."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, content = await self._exchange(target, json.dumps(body or {}).encode())
        except TimeoutError as error:
            raise Unavailable(f"the control plane did not answer in {TIMEOUT_S:g} s", hint="remit status") from error
        except (OSError, EOFError, ValueError, IndexError, asyncio.LimitOverrunError) as error:
            raise Unavailable(f"the control plane does not answer: {error}", hint="remit status") from error
        try:
            answer = json.loads(content) if content else {}
        except (ValueError, RecursionError) as error:
            raise Unavailable(f"the control plane answered {status} without JSON", hint="remit status") from error
        if not isinstance(answer, dict):
            raise Unavailable("the control plane's answer is not an object", hint="remit status")
        if status >= 300:
            kind = _STATUS.get(status, Unavailable)
            detail = str(answer.get("detail") or f"the control plane answered {status}")
            raise kind(detail, hint=str(answer.get("hint") or ""))
        return answer

    async def _exchange(self, target: str, body: bytes) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_unix_connection(str(self._path))
        try:
            head = (
                f"POST {target} HTTP/1.1\r\nHost: control\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ", 2)[1])
            fields = {
                name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
            }
            size = int(fields.get("content-length", "0" if status == 204 else "-1"))
            if not 0 <= size <= MAX_ANSWER_BYTES:
                raise ValueError(f"an answer of {size} bytes")
            return status, await reader.readexactly(size)
        finally:
            writer.close()
