"""Notices to people, sent beside everything else: a slow or dead receiver delays no question and no answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any

from remit.control.ports_approvals import Ending, Notice, Notifier
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
            self._send(f"approval {notice.approval.id}", notifier.notify(notice))

    async def warn(self, ending: Ending) -> None:
        """Returns at once."""
        for notifier in self._notifiers:
            self._send(f"secret {ending.secret}", notifier.warn(ending))

    async def idle(self) -> None:
        """Returns when nothing is under way."""
        await asyncio.gather(*self._under_way)

    def _send(self, about: str, sending: Coroutine[Any, Any, None]) -> None:
        if len(self._under_way) >= UNDER_WAY_MAX:
            sending.close()
            log.warning("a notice of %s is dropped: too many are under way", about)
            return
        task = asyncio.ensure_future(_sent(about, sending))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)


async def _sent(about: str, sending: Coroutine[Any, Any, None]) -> None:
    try:
        await sending
    except Unavailable as error:
        log.warning("%s: %s", about, error.detail)
