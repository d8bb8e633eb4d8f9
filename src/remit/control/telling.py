"""Notices to people, sent beside everything else: a slow or dead receiver delays no question and no answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from remit.control.ports_approvals import Notice, Notifier
from remit.core.errors import Unavailable

log = logging.getLogger(__name__)

UNDER_WAY_MAX = 64
"""More are dropped: whoever looks sees them in the list."""


class Telling:
    """Gives every notice to every notifier, once."""

    def __init__(self, notifiers: Sequence[Notifier]) -> None:
        self._notifiers = tuple(notifiers)
        self._under_way: set[asyncio.Task[None]] = set()

    async def tell(self, notice: Notice) -> None:
        """Returns at once."""
        for notifier in self._notifiers:
            if len(self._under_way) >= UNDER_WAY_MAX:
                log.warning("a notice of %s is dropped: too many are under way", notice.approval.id)
                return
            task = asyncio.ensure_future(_send(notifier, notice))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def idle(self) -> None:
        """Returns when nothing is under way."""
        await asyncio.gather(*self._under_way)


async def _send(notifier: Notifier, notice: Notice) -> None:
    try:
        await notifier.notify(notice)
    except Unavailable as error:
        log.warning("approval %s: %s", notice.approval.id, error.detail)
