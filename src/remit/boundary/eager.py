"""A coroutine run at once, and without a task of its own.

Nearly every decision has everything at hand and waits for one thing only, its record. A task costs two turns of the
event loop and as much time as a third of the decision; so a coroutine is run here where it is made, until it waits for
a future, and goes on when that is done. What is lost: there is no current task inside, so `asyncio.timeout` and
cancellation do not work in what runs here. Code that may take long makes a task of itself and is waited for. A
`CancelledError` in here says that what was waited for was cancelled, and is an error like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Steps:
    """Runs `coroutine`, which handles its own exceptions, and stands in `under_way` while it waits for something."""

    __slots__ = ("_coroutine", "_under_way")

    def __init__(self, coroutine: Coroutine[Any, Any, None], under_way: set[Steps]) -> None:
        self._coroutine = coroutine
        self._under_way = under_way

    def start(self) -> None:
        if self._waits():
            self._under_way.add(self)

    def close(self) -> None:
        """End it where it stands; what it waits for goes on."""
        self._under_way.discard(self)
        self._coroutine.close()

    def _resume(self, _: asyncio.Future[Any]) -> None:
        if self not in self._under_way:
            return
        waits = False
        try:
            waits = self._waits()
        finally:  # whatever comes out of it, its place is free again
            if not waits:
                self._under_way.discard(self)

    def _waits(self) -> bool:
        """Run up to the next thing that is not there yet; whether there was one."""
        try:
            future = self._coroutine.send(None)
        except StopIteration:
            return False
        future._asyncio_future_blocking = False  # the handshake between `await` and whoever runs it (asyncio.Task)
        future.add_done_callback(self._resume)
        return True
