"""Approvals for whoever watches them: each as it comes and as it changes, without asking again and again.

Everything that becomes of an approval is rung somewhere already: a new one is told to humans, an answer or an end wakes
the requests that are held. A watcher listens there and reads the store, which is the truth, so that a ring too many
does no harm.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from remit.control.approvals import Approvals, Ring
from remit.control.ports_approvals import Notice
from remit.control.questions import Tell
from remit.core.approval import Approval, State


class Watching:
    """`ring` is for `Approvals`, `tell` for `Questions`; both pass on to those given here."""

    def __init__(self, *, ring: Ring, tell: Tell) -> None:
        self._ring, self._tell = ring, tell
        self._watchers: set[asyncio.Event] = set()

    def ring(self, task: str) -> None:
        self._ring(task)
        self._news()

    async def tell(self, notice: Notice) -> None:
        self._news()
        await self._tell(notice)

    async def follow(self, approvals: Approvals) -> AsyncIterator[Approval]:
        """Those of the last day, oldest first, then each that comes or changes. Until closed. `Unavailable`: the store
        cannot be read."""
        news = asyncio.Event()
        self._watchers.add(news)
        told: dict[str, State] = {}
        try:
            while True:
                news.clear()
                found = approvals.all(pending_only=False)
                for one in found:
                    if told.get(one.id) is not one.state:
                        yield one
                told = {one.id: one.state for one in found}
                await news.wait()
        finally:
            self._watchers.discard(news)

    @property
    def watchers(self) -> int:
        """How many follow now."""
        return len(self._watchers)

    def _news(self) -> None:
        for news in self._watchers:
            news.set()
