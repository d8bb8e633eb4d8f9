"""The control plane as a client of `cells` for tasks that tasks ask for: started, listened to, ended.

The connection is the child's life: `cells` ends it when this end goes. Frames as in `api.cells`; `0` carries standard
input, `1` and `2` come back. Input is at most what `cells` takes without being read (`cell.session`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from remit.control.ports_delegates import Ended, Said, Wanted
from remit.core.errors import Conflict, Invalid, NotFound, RemitError, Unavailable

START_TIMEOUT_S = 45.0
"""Longer than `cells` waits for the control plane and for a sandbox."""
MAX_FRAME_BYTES = 1 << 20
PART_BYTES = 32 << 10
_STREAMS: Mapping[bytes, str] = {b"1": "stdout", b"2": "stderr"}
_KINDS: Mapping[str, type[RemitError]] = {kind.kind: kind for kind in (Conflict, Invalid, NotFound, Unavailable)}


class RunningChild:
    """Implements `control.ports_delegates.Child`."""

    def __init__(self, task: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.task = task
        self._reader, self._writer = reader, writer

    async def said(self) -> AsyncIterator[Said | Ended]:
        while True:
            kind, payload = await _frame(self._reader)
            if kind in _STREAMS:
                yield Said(stream=_STREAMS[kind], data=payload)
                continue
            message = _object(payload)
            if message.get("event") == "exit":
                code = message.get("code")
                yield Ended(code=code if isinstance(code, int) else None, detail=str(message.get("detail") or ""))
                return
            if message.get("event") == "error":
                raise _error(message)

    async def end(self) -> None:
        await _hang_up(self._writer)


class CellsChildren:
    """Implements `control.ports_delegates.Children`."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def start(self, parent: str, request: str, wanted: Wanted) -> RunningChild:
        asked: dict[str, Any] = {"op": "delegate", "parent": parent, "request": request, "role": wanted.role}
        asked |= {"argv": list(wanted.command), "budgets": list(wanted.budgets)}
        asked["capabilities"] = list(wanted.capabilities)
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._socket))
        except OSError as error:
            raise Unavailable(f"the cells process does not answer: {error}", hint="remit status") from error
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                _put(writer, b"J", json.dumps(asked).encode())
                await writer.drain()
                kind, payload = await _frame(reader)
                message = _object(payload) if kind == b"J" else {}
                if message.get("event") != "started":
                    raise _error(message)
                for start in range(0, len(wanted.stdin), PART_BYTES):
                    _put(writer, b"0", wanted.stdin[start : start + PART_BYTES])
                _put(writer, b"0", b"")
                await writer.drain()
        except TimeoutError as error:
            await _hang_up(writer)
            raise Unavailable(f"no cell was ready in {START_TIMEOUT_S:g} s", hint="remit status") from error
        except OSError as error:
            await _hang_up(writer)
            raise Unavailable(f"the cells process does not answer: {error}", hint="remit status") from error
        except BaseException:
            await _hang_up(writer)
            raise
        return RunningChild(str(message.get("task")), reader, writer)


def _put(writer: asyncio.StreamWriter, kind: bytes, payload: bytes) -> None:
    writer.write(kind + len(payload).to_bytes(4, "big") + payload)


async def _frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    try:
        head = await reader.readexactly(5)
        size = int.from_bytes(head[1:], "big")
        if size > MAX_FRAME_BYTES:
            raise Unavailable("the cells process answered in another language", hint="remit doctor")
        return head[:1], await reader.readexactly(size)
    except (OSError, EOFError) as error:
        raise Unavailable("the cells process has gone", hint="remit status") from error


def _object(payload: bytes) -> dict[str, Any]:
    try:
        message = json.loads(payload)
    except ValueError as error:
        raise Unavailable("the cells process answered in another language", hint="remit doctor") from error
    return message if isinstance(message, dict) else {}


def _error(message: Mapping[str, Any]) -> RemitError:
    kind = _KINDS.get(str(message.get("kind")), Unavailable)
    return kind(str(message.get("detail") or "the cells process gave no answer"), hint=str(message.get("hint") or ""))


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
