"""The only writer of the log: nothing is permitted before its record is on the disk.

Records that arrive while one sync runs go into the next (group commit), so many requests share the cost of a sync. A
disk that refuses makes every waiting record `Unavailable`, which denies the requests they stand for; the journal then
tries again by itself, from the last position that was synced.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from remit.audit import head, record, segments
from remit.control.ports import Entry
from remit.core.errors import Conflict, Unavailable

log = logging.getLogger(__name__)

MAX_BATCH = 1024
RETRY_S = 0.25
_Item = tuple[str, str, str, bytes, "asyncio.Future[None]"]


class Journal:
    """`control.ports.Journal` on files below `directory`. Open it inside a running event loop."""

    def __init__(
        self, directory: Path, *, segment_bytes: int, signer: head.Signer, now: Callable[[], datetime]
    ) -> None:
        """Take the lock, find the end of the log, start the writer. `Conflict` where another one writes."""
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._signer = signer
        self._now = now
        self._loop = asyncio.get_running_loop()
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise Conflict(f"another process writes the audit log in {directory}", hint="remit status") from error
        self._end = segments.end(directory)
        self._writer: segments.Writer | None = None
        self._broken_until = 0.0
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def new_id(self) -> str:
        return record.record_id(time.time_ns() // 1_000_000, secrets.randbits(52))

    async def append(self, record_id: str, entry: Entry) -> None:
        written: asyncio.Future[None] = self._loop.create_future()
        middle = record.body(entry.fields)
        self._queue.put((record_id, record.stamp(self._now()), entry.kind, middle, written))
        await written

    def head(self) -> dict[str, Any] | None:
        """The signed end of the log, or None where nothing was written yet."""
        at = self._end
        return self._signer.sign(at, record.stamp(self._now())) if at.seq else None

    def close(self) -> None:
        """Write what waits, cut the segment to its length, release the lock."""
        self._queue.put(None)
        self._thread.join()
        os.close(self._lock)

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            batch: list[_Item] = []
            while item is not None:
                batch.append(item)
                if len(batch) == MAX_BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._commit(batch)
            if item is None:
                if self._writer is not None:
                    self._writer.close()
                return

    def _commit(self, batch: list[_Item]) -> None:
        if time.monotonic() < self._broken_until:
            self._settle(batch, Unavailable("the audit log could not be written a moment ago"))
            return
        try:
            self._write(batch)
        except OSError as error:
            log.error("the audit log cannot be written: %s", error)
            self._broken_until = time.monotonic() + RETRY_S
            if self._writer is not None:
                self._writer.abandon()
                self._writer = None
            self._settle(batch, Unavailable(f"the audit log cannot be written: {os.strerror(error.errno or 0)}"))
        else:
            self._settle(batch, None)

    def _write(self, batch: list[_Item]) -> None:
        if self._writer is None:
            self._writer = segments.Writer(self._directory, self._segment_bytes, self._end)
        writer, seq, prev, out = self._writer, self._end.seq, self._end.hash, bytearray()
        if not writer.room(len(batch) * 1024):
            writer.rotate()
        if writer.offset == 0:
            seq += 1
            middle = record.body({"segment": writer.segment})
            text = record.line(seq, self.new_id(), batch[0][1], "segment", middle, prev)
            out += text + b"\n"
            prev = record.digest(text)
        for record_id, stamp, kind, middle, _ in batch:
            seq += 1
            text = record.line(seq, record_id, stamp, kind, middle, prev)
            prev = record.digest(text)
            out += text + b"\n"
        writer.write(bytes(out))
        self._end = segments.Position(segment=writer.segment, offset=writer.offset, seq=seq, hash=prev)

    def _settle(self, batch: list[_Item], error: Exception | None) -> None:
        futures = [item[4] for item in batch]
        try:
            self._loop.call_soon_threadsafe(_resolve, futures, error)
        except RuntimeError:
            log.warning("the event loop closed before %d records were answered", len(futures))


def _resolve(futures: list[asyncio.Future[None]], error: Exception | None) -> None:
    for future in futures:
        if not future.done():
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
