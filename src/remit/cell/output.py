"""What a command writes: into the task's log, and to every client that watches.

The log is on disk and bounded (two files of half the limit: the older half goes when it is full), so `remit logs` has
the end of it after everyone has left. A client that does not read makes the command wait, as a pipe would, if it is
the one that runs it; one that merely watches is let go.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

MAX_LOG_BYTES = 64 << 20
DELEGATED_LOG_BYTES = 1 << 20
"""Of a task that a task asked for: that one was told what it says, and can ask for a thousand of them."""
READ_BYTES = 64 << 10
WATCHER_PATIENCE_S = 10.0

Sink = Callable[[bytes, bytes], Awaitable[None]]


class Log:
    """`output.log` and `output.log.1` in `directory`, together of `most` bytes at most."""

    def __init__(self, directory: Path, most: int) -> None:
        self._most = most
        self._path, self._older = directory / "output.log", directory / "output.log.1"
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
        self._turns = 0
        self._news = asyncio.Event()
        self.ended = False

    def write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            # A full disk loses the log, not the task.
            if self._size + len(data) > self._most // 2:
                self._turn()
            self._size += os.write(self._file, data)
        self._tell()

    def _turn(self) -> None:
        """Begin a new half. `OSError`: there is no room for one, and the old one is as it was."""
        coming = self._path.with_name("output.log.new")
        fresh = os.open(coming, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.replace(self._path, self._older)
        os.replace(coming, self._path)
        os.close(self._file)
        self._file, self._size, self._turns = fresh, 0, self._turns + 1

    def _tell(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    def close(self) -> None:
        if not self.ended:
            self.ended = True
            os.close(self._file)
            self._tell()

    async def follow(self) -> AsyncIterator[bytes]:
        """Everything from the oldest byte kept to the end of the task."""
        turns, position = self._turns, 0
        for data in stored(self._older.parent, whole=False):
            yield data
        while True:
            news, ended = self._news, self.ended
            if turns != self._turns:
                for data in _pieces(self._older, position):
                    yield data
                turns, position = self._turns, 0
            for data in _pieces(self._path, position):
                position += len(data)
                yield data
            if ended:
                return
            await news.wait()


def stored(directory: Path, *, whole: bool = True) -> Iterator[bytes]:
    """The kept output of a task that is not running (`whole`), or just its older half."""
    for name in ("output.log.1", "output.log") if whole else ("output.log.1",):
        yield from _pieces(directory / name, 0)


def _pieces(path: Path, position: int) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(position)
            yield from iter(lambda: file.read(READ_BYTES), b"")
    except FileNotFoundError:
        return


class Hub:
    """Fans out. `owner` makes the command wait; watchers have `WATCHER_PATIENCE_S` for each piece."""

    def __init__(self, log: Log | None) -> None:
        self._log = log
        self.owner: Sink | None = None
        self.watchers: dict[object, Sink] = {}

    async def put(self, kind: bytes, data: bytes) -> None:
        if self._log is not None:
            self._log.write(data)
        if self.owner is not None:
            try:
                await self.owner(kind, data)
            except Exception as error:
                log.info("who started the task hears no more of it: %r", error)
                self.owner = None
        for key, sink in list(self.watchers.items()):
            try:
                async with asyncio.timeout(WATCHER_PATIENCE_S):
                    await sink(kind, data)
            except Exception as error:
                log.info("a watcher is dropped: %r", error)
                self.watchers.pop(key, None)


async def chunks(descriptor: int) -> AsyncIterator[bytes]:
    """What can be read from a non-blocking pipe or terminal until its end."""
    while True:
        await readable(descriptor)
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            continue
        except OSError:
            # EIO: every process has closed the terminal.
            return
        if not data:
            return
        yield data


async def readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(descriptor, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(descriptor)


async def write_all(descriptor: int, data: bytes) -> None:
    """Write to a non-blocking pipe or terminal, waiting as long as it takes. `OSError`: nobody reads any more."""
    loop = asyncio.get_running_loop()
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_writer(descriptor, lambda ready=ready: None if ready.done() else ready.set_result(None))  # type: ignore[misc]
            try:
                await ready
            finally:
                loop.remove_writer(descriptor)
