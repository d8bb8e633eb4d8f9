"""The control plane as a client of `cells`: to cut the connections of a task, and to learn which tasks still run.

One short connection an operation, bounded in time. Frames: 1 byte type, 4 bytes big-endian length, payload; JSON
payloads have type `J`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remit.control.ports_control import Reach
from remit.core.errors import Unavailable

TIMEOUT_S = 5.0
MAX_ANSWER_BYTES = 1 << 20


class CellsClient:
    """Implements `control.ports_control.Cells`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def cut(self, task: str, ports: Sequence[int] | None = None) -> int:
        only = {} if ports is None else {"ports": list(ports)}
        answer = await self._ask({"op": "cut", "task": task, **only})
        if answer.get("event") == "error" and answer.get("kind") == "not-found":
            return 0
        return self._closed(answer)

    async def cut_everything(self) -> int:
        return self._closed(await self._ask({"op": "cut-everything"}))

    def _closed(self, answer: dict[str, Any]) -> int:
        closed = answer.get("closed")
        if answer.get("event") != "done" or not isinstance(closed, int):
            raise _unexpected(answer)
        return closed

    async def reach(self, opened: Reach) -> None:
        answer = await self._ask({"op": "reach", "open": sorted(opened)})
        if answer.get("event") != "done":
            raise _unexpected(answer)

    async def running(self) -> frozenset[str]:
        answer = await self._ask({"op": "list"})
        cells = answer.get("cells")
        if answer.get("event") != "list" or not isinstance(cells, list):
            raise _unexpected(answer)
        return frozenset(str(cell["task"]) for cell in cells if isinstance(cell, dict) and "task" in cell)

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(str(self._socket))
                try:
                    body = json.dumps(request).encode()
                    writer.write(b"J" + len(body).to_bytes(4, "big") + body)
                    await writer.drain()
                    header = await reader.readexactly(5)
                    size = int.from_bytes(header[1:], "big")
                    if header[:1] != b"J" or size > MAX_ANSWER_BYTES:
                        raise Unavailable("the cells process answered in another language", hint="remit doctor")
                    answer = json.loads(await reader.readexactly(size))
                finally:
                    writer.close()
        except TimeoutError as error:
            raise Unavailable(f"the cells process did not answer in {TIMEOUT_S:g} s", hint="remit status") from error
        except (OSError, EOFError, ValueError) as error:
            raise Unavailable(f"the cells process does not answer: {error}", hint="remit status") from error
        return answer if isinstance(answer, dict) else {}


def _unexpected(answer: dict[str, Any]) -> Unavailable:
    detail = answer.get("detail") or f"an answer it was not asked for ({ascii(answer.get('event'))[:40]})"
    return Unavailable(f"the cells process says: {detail}", hint="remit status")
