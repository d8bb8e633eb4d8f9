"""fdatasync(2) without a thread: Linux does it on its own time and tells an event loop (io_submit(2)).

A thread of Python's needs the interpreter lock twice for each sync, while the event loop wants it for decisions: that
was a fifth of a check's processor time, and milliseconds of its worst latency. Only syncs are asked for this way: a
write to a file in the page cache would stand still in io_submit itself. Not every system offers it (gVisor, or one
whose `fs.aio-max-nr` is used up): `offered` is then None, and the journal's thread syncs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from caio import linux_aio

log = logging.getLogger(__name__)

AT_ONCE = 4


class Syncs:
    """Of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """`OSError`: this system offers none."""
        self._context = linux_aio.Context(max_requests=AT_ONCE)
        self._loop = loop
        self._under_way: set[linux_aio.Operation] = set()
        loop.add_reader(self._context.fileno, self._ready)

    @classmethod
    def offered(cls, loop: asyncio.AbstractEventLoop) -> Syncs | None:
        try:
            return cls(loop)
        except (OSError, SystemError) as error:
            log.warning("the kernel offers no asynchronous syncs (%s); a thread does them", error)
            return None

    def start(self, descriptor: int, done: Callable[[OSError | None], None]) -> None:
        """Sync; `done` is called in the event loop, with what went wrong. `OSError`: it was not begun."""
        operation = linux_aio.Operation.fdsync(descriptor)

        def finished(_: object) -> None:
            self._under_way.discard(operation)
            done(_error(operation))

        operation.set_callback(finished)
        self._under_way.add(operation)
        try:
            if self._context.submit(operation) != 1:
                raise OSError("the sync was not begun")
        except BaseException:
            self._under_way.discard(operation)
            raise

    def close(self) -> None:
        """Hear of nothing more. What was begun is done by the kernel all the same."""
        self._loop.remove_reader(self._context.fileno)

    def _ready(self) -> None:
        with contextlib.suppress(BlockingIOError):  # woken for one that was taken already
            self._context.poll()
        while self._context.process_events():
            pass


def _error(operation: linux_aio.Operation) -> OSError | None:
    try:
        operation.get_value()
    except OSError as error:
        return error
    except SystemError as error:
        return OSError(str(error))
    return None
