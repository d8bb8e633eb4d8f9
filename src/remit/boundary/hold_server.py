"""Where held requests wait: Envoy's second check, on a socket and a cluster of its own.

Envoy sends only what the fast check answered with `hold`, with its body (at most `BODY_MAX_BYTES`; Envoy refuses more
by itself). One request a connection at a time, each in a task of its own, because it may wait a minute. When the agent
gives up, Envoy closes the connection, and the wait ends. However many wait here, the fast check goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

from remit.boundary import check, check_wire
from remit.boundary.check_wire import Answer, Lines, Met, Refuse
from remit.control.decide import Denied, Permitted
from remit.core import flow, grant
from remit.core.grant import Body
from remit.core.reason import Reason
from remit.core.request import Evidence

BODY_MAX_BYTES = 256 << 10
"""What Envoy keeps of a held request: 1,024 of them are 256 MiB of its heap."""
PENDING_MAX = 1024
SHARE = 16
"""A quarter of all places is for cells that have fewer waiting: one whose secret's service is slow may have many."""

Hold = Callable[[Evidence, Body], Awaitable[Permitted | Denied]]


async def serve_hold(
    path: Path, hold: Hold, refuse: Refuse, pending_max: int = PENDING_MAX, met: Met = check_wire.nobody_asks
) -> None:
    """Answer Envoy on Unix socket `path` until cancelled. At most `pending_max` requests wait at once."""
    await check_wire.serve(path, _Desk(hold, refuse, pending_max, met))


class _Desk(check_wire.Desk):
    def __init__(self, hold: Hold, refuse: Refuse, pending_max: int, met: Met) -> None:
        super().__init__(met)
        self._hold = hold
        self._refuse = refuse
        self._pending_max = pending_max
        self._waiting: set[asyncio.Task[None]] = set()
        self._of: dict[int | None, int] = {}
        """How many wait, by the cell that asks, over whichever family of addresses."""

    def connection(self) -> _Connection:
        return _Connection(self)

    def ask(self, method: bytes, target: bytes, raw: Lines, body: Body, answer: Answer) -> asyncio.Task[None] | None:
        if len(self._waiting) >= self._pending_max:
            answer(check.render(self._overloaded()))
            return None
        task = asyncio.ensure_future(self._answer(method, target, raw, body, answer))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task

    def close(self) -> None:
        for task in list(self._waiting):
            task.cancel()
        super().close()

    async def _answer(self, method: bytes, target: bytes, raw: Lines, body: Body, answer: Answer) -> None:
        try:
            said = check.render(await self._decided(method, target, raw, body))
        except Exception:
            said = check.render(check_wire.failed("the check failed"))
        answer(said)

    async def _decided(self, method: bytes, target: bytes, raw: Lines, body: Body) -> Permitted | Denied:
        read = check.parse(method, target, raw)
        if not isinstance(read, Evidence):
            return await self._refuse(read.refusal, token=read.token, flow=read.flow, **read.facts)
        cell = flow.cell_at(read.peer)
        mine = self._of.get(cell, 0)
        if mine >= SHARE and len(self._waiting) > self._pending_max * 3 // 4:
            return self._overloaded()
        self._of[cell] = mine + 1
        try:
            return await self._hold(read, body)
        finally:
            self._of[cell] -= 1
            if not self._of[cell]:
                del self._of[cell]

    def _overloaded(self) -> Denied:
        return check_wire.unrecorded(
            Reason.OVERLOADED, f"{len(self._waiting)} requests wait in the second check already"
        )


class _Connection(check_wire.Connection):
    """Ends its wait with itself."""

    size_max = check_wire.HEAD_MAX + BODY_MAX_BYTES

    def __init__(self, desk: _Desk) -> None:
        super().__init__(desk)
        self._desk = desk
        self._waiting: asyncio.Task[None] | None = None
        self._begin()

    def _begin(self) -> None:
        self._digest, self._bytes, self._first = hashlib.sha256(), 0, bytearray()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._waiting is not None:
            self._waiting.cancel()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begin()

    def on_body(self, data: bytes) -> None:
        self._digest.update(data)
        self._bytes += len(data)
        self._first += data[: grant.TEXT_BYTES - len(self._first)]

    def asked(self, method: bytes, target: bytes, headers: Lines, answer: Answer) -> None:
        text = grant.beginning(bytes(self._first))
        body = Body(digest=self._digest.hexdigest(), size=self._bytes, text=text) if self._bytes else Body()
        self._waiting = self._desk.ask(method, target, headers, body, answer)
