"""Where Envoy asks: each request is decided at once, or as soon as what it waits for is there.

Bounds how many wait, and answers a denial for everything that goes wrong on the way: silence would be one too (Envoy's
time-out), but without a reason. A cell whose decisions take long (a name whose server does not answer) may fill the
bound; above it there is as much room again, of which each cell has a share, so that another cell's are decided.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from remit.boundary import check, check_wire, eager
from remit.boundary.check_wire import Answer, Lines, Met, Refuse
from remit.control.decide import Denied, Held, Permitted
from remit.core import flow
from remit.core.reason import Reason
from remit.core.request import Evidence

SHARE = 32
"""Decisions that any cell may have waiting when others have filled the bound."""
Decide = Callable[[Evidence], Awaitable[Permitted | Denied | Held]]
Render = Callable[[Permitted | Denied | Held], bytes]
Unheard = Callable[[str], Awaitable[None]]
"""Told the record of a permit that nobody was there to hear: its request is over, and Envoy will not say so."""


async def untold(record: str) -> None:
    """Stands for whoever has no use for it."""


async def serve_check(
    path: Path,
    decide: Decide,
    refuse: Refuse,
    pending_max: int,
    render: Render = check.render,
    met: Met = check_wire.nobody_asks,
    unheard: Unheard = untold,
) -> None:
    """Answer Envoy on Unix socket `path` until cancelled. At most `pending_max` decisions wait at once; of cells that
    have fewer than `SHARE` waiting, as many again."""
    await check_wire.serve(path, _Desk(decide, refuse, pending_max, render, met, unheard))


class _Desk(check_wire.Desk):
    def __init__(
        self, decide: Decide, refuse: Refuse, pending_max: int, render: Render, met: Met, unheard: Unheard
    ) -> None:
        super().__init__(met)
        self._unheard = unheard
        self._render = render
        self._decide = decide
        self._refuse = refuse
        self._pending_max, self._share = pending_max, min(SHARE, pending_max)
        self._under_way: set[eager.Steps] = set()
        self._waiting: dict[int | None, int] = {}
        """Decisions under way, by the cell that asks, over whichever family of addresses."""

    def connection(self) -> _Connection:
        return _Connection(self)

    def ask(self, method: bytes, target: bytes, raw: Lines, answer: Answer) -> None:
        """Decide, then call `answer` with the bytes. Where too many wait, answer at once and keep no record."""
        if len(self._under_way) >= 2 * self._pending_max:
            answer(self._render(self._overloaded()))
            return
        eager.Steps(self._answer(method, target, raw, answer), self._under_way).start()

    def close(self) -> None:
        for steps in list(self._under_way):
            steps.close()
        super().close()

    async def _answer(self, method: bytes, target: bytes, raw: Lines, answer: Answer) -> None:
        try:
            decision = await self._decided(method, target, raw)
            said = self._render(decision)
        except (Exception, asyncio.CancelledError):  # nobody cancels a decision: what it waits for was (`eager`)
            decision = check_wire.failed("the check failed")
            said = self._render(decision)
        if not answer(said) and isinstance(decision, Permitted):
            await self._unheard(decision.record)

    async def _decided(self, method: bytes, target: bytes, raw: Lines) -> Permitted | Denied | Held:
        read = check.parse(method, target, raw)
        cell = flow.cell_at(read.peer if isinstance(read, Evidence) else read.flow)
        waiting = self._waiting.get(cell, 0)
        if waiting >= self._share and len(self._under_way) >= self._pending_max:
            return self._overloaded()
        self._waiting[cell] = waiting + 1
        try:
            if isinstance(read, Evidence):
                return await self._decide(read)
            return await self._refuse(read.refusal, token=read.token, flow=read.flow, **read.facts)
        finally:
            self._waiting[cell] -= 1
            if not self._waiting[cell]:
                del self._waiting[cell]

    def _overloaded(self) -> Denied:
        return check_wire.unrecorded(Reason.OVERLOADED, f"{len(self._under_way)} requests wait for a decision already")


class _Connection(check_wire.Connection):
    def __init__(self, desk: _Desk) -> None:
        super().__init__(desk)
        self._desk = desk

    def asked(self, method: bytes, target: bytes, headers: Lines, answer: Answer) -> None:
        self._desk.ask(method, target, headers, answer)
