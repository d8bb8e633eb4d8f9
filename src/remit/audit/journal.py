"""The only writer of the log: nothing is permitted before its record is on the disk.

Records that arrive together, or while one sync runs, share a write (group commit). The event loop hands their lines to
the kernel and hears when they are durable (`audit.syncs`); what takes longer (a new segment, a disk that is slow or
refused) is a thread's work. Even a write to the page cache stands still on a disk that stalls (a frozen file system, a
journal that cannot commit): the first one, if nothing was under way when the stall began, holds up the loop.
A disk that refuses makes every waiting record `Unavailable`, which denies the requests they stand for; the journal then
refuses at once until a probe of the disk succeeds. What was acknowledged is never touched by that. A record that was
refused may still be in the log after a crash: the log can hold more than was acknowledged, never less.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import json
import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from remit.audit import head, record, replay, segments
from remit.audit.segments import Position
from remit.audit.syncs import Syncs
from remit.audit.writer import Writer
from remit.control import ports
from remit.core.errors import Conflict, Unavailable

log = logging.getLogger(__name__)

MAX_BATCH = 1024
MAX_WAITING = 32768
"""Records that may wait for the disk; more are refused, or a stalled disk would eat the memory."""
PROBE_S = 0.25
SLOW_S = 0.1
"""After a batch that took longer, the next one is the thread's."""
CHECKPOINT_BYTES = 320 << 10
CLOSE_S = 10.0
HINT = "remit doctor; check the disk that holds the audit log"
_Waiter = tuple[bytes, "asyncio.Future[None]"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    data: bytes
    begins: bool
    """Whether it begins a segment."""
    end: Position
    waiters: list[_Waiter]


class Journal:
    """`control.ports.Journal` on files below `directory`. Made inside the event loop that it is used from."""

    def __init__(
        self,
        directory: Path,
        *,
        segment_bytes: int,
        signer: head.Signer,
        now: Callable[[], datetime],
        checkpoint: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        """Take the lock, find the end of the log, start the writer. A write never spans two segments, so one that is
        larger than `segment_bytes` makes a larger segment. `checkpoint` gives what is written at the head of each one,
        at most `CHECKPOINT_BYTES` of it.

        `Conflict` where another process writes; `Unavailable` where the log is damaged. A disk that refuses is not an
        error here: the journal then begins as unavailable and heals by itself.
        """
        self._directory, self._segment_bytes = directory, segment_bytes
        self._signer, self._now, self._checkpoint = signer, now, checkpoint
        self._loop = asyncio.get_running_loop()
        self._lock = _locked(directory)
        self._writer = Writer(directory, segment_bytes, self._own, signer.public)
        self._end = segments.EMPTY
        self._waiting: list[_Waiter] = []
        self._flying: list[_Waiter] = []
        self._busy = self._scheduled = self._closing = self._slow = False
        self._began = 0.0
        self._head: dict[str, Any] | None = None
        self._failed: str | None = None
        self._last_us = 0
        try:
            self._end = self._writer.prepare(self._acknowledged())
        except OSError as error:
            self._refuse(error)
        except BaseException:
            os.close(self._lock)
            raise
        self._syncs = Syncs.offered(self._loop)
        self._jobs: queue.SimpleQueue[_Batch | tuple[int, str] | dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="audit", daemon=True)
        self._thread.start()

    def new_id(self) -> str:
        self._last_us = max(self._last_us + 1, time.time_ns() // 1000)
        return record.record_id(self._last_us, secrets.randbits(55))

    async def append(self, record: str, entry: ports.Entry) -> None:
        written = self._enqueue(record, entry)
        await written

    def head(self) -> dict[str, Any] | None:
        """The signed end of what is durable, or None where nothing was ever written. Soon also kept beside the log."""
        if self._end.seq and (self._head is None or self._head["seq"] != self._end.seq):
            self._head = self._signer.sign(self._end, record.stamp(self._now()))
            self._jobs.put(self._head)
        return self._head

    def close(self) -> None:
        """Refuse what still waits, finish the write under way, cut the segment to its length, release the lock."""
        if self._closing:
            return
        self._closing = True
        self._failed = self._failed or "the audit log is closed"
        if self._syncs is not None:
            self._syncs.close()
        self._settle(self._flying + self._waiting)
        self._flying = self._waiting = []
        self._jobs.put(None)
        self._thread.join(CLOSE_S)
        if not self._thread.is_alive():  # else it may still write: the lock goes with the process
            os.close(self._lock)

    def _enqueue(self, record_id: str, entry: ports.Entry) -> asyncio.Future[None]:
        if self._failed is not None:
            raise Unavailable(self._failed, hint=HINT)
        if len(self._waiting) >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} records wait for the disk", hint=HINT)
        written: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((record.body(record_id, record.stamp(self._now()), entry.kind, entry.fields), written))
        self._schedule()
        return written

    def _schedule(self) -> None:
        """Write soon: after everything that this turn of the loop still appends."""
        if not self._busy and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        """Write the next batch: all that waits, bounded."""
        self._scheduled = False
        if self._busy or self._failed is not None or not self._waiting:
            return
        self._busy = True
        batch = self._batch(self._take(MAX_BATCH))
        self._began = self._loop.time()
        if batch.begins or self._slow or self._syncs is None:
            self._jobs.put(batch)
            return
        self._flying = batch.waiters
        try:
            descriptor = self._writer.put(batch.data)
            self._syncs.start(descriptor, functools.partial(self._synced, batch))
        except OSError as error:
            self._synced(batch, error)

    def _synced(self, batch: _Batch, error: OSError | None) -> None:
        self._flying = []
        if error is None:
            self._writer.keep(len(batch.data), batch.end)
        self._done(batch, error)

    def _take(self, most: int) -> list[_Waiter]:
        size = count = 0
        for middle, _ in self._waiting[:most]:
            size += len(middle) + 160
            if size > segments.MAX_WRITE - record.MAX_LINE - CHECKPOINT_BYTES:
                break
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def _batch(self, waiters: list[_Waiter]) -> _Batch:
        """The lines of a batch behind the last durable one. Nothing changes before it is written."""
        number, start = self._end.segment, self._end.offset
        seq, prev, middles = self._end.seq, self._end.hash, [middle for middle, _ in waiters]
        begins = start + sum(map(len, middles)) + 160 * len(middles) > self._segment_bytes
        if begins:
            number, start = number + 1, 0
            heads = [(segments.HEADER_KIND, segments.header(number))]
            heads += [(replay.CHECKPOINT, dict(part)) for part in self._parts()]
            middles[:0] = [self._own(kind, fields) for kind, fields in heads]
        lines: list[bytes] = []
        for middle in middles:
            seq += 1
            text = record.line(seq, middle, prev)
            prev = record.digest(text)
            lines.append(text)
        lines.append(b"")
        data = b"\n".join(lines)
        end = Position(segment=number, offset=start + len(data), seq=seq, hash=prev)
        return _Batch(data=data, begins=begins, end=end, waiters=waiters)

    def _parts(self) -> Sequence[Mapping[str, Any]]:
        """A segment is good without a checkpoint; without the segment there would be no permit any more."""
        try:
            return self._checkpoint()
        except Exception:
            log.exception("a segment of the audit log begins without a checkpoint")
            return ()

    def _own(self, kind: str, fields: Mapping[str, Any]) -> bytes:
        """A record that the journal makes itself."""
        return record.body(self.new_id(), record.stamp(self._now()), kind, fields)

    def _done(self, batch: _Batch, error: Exception | None) -> None:
        """In the loop: `batch` is written, or could not be."""
        self._busy = False
        self._slow = self._loop.time() - self._began > SLOW_S
        if error is None:
            self._end = batch.end
            for _, written in batch.waiters:
                if not written.done():
                    written.set_result(None)
            self._send()
            return
        self._refuse(error)
        self._settle(batch.waiters + self._waiting)
        self._waiting = []

    def _refuse(self, error: Exception) -> None:
        if self._failed is None:
            log.error("the audit log cannot be written: %s", error)
        why = error.strerror if isinstance(error, OSError) else str(error)
        self._failed = f"the audit log cannot be written: {why}"
        self._loop.call_later(PROBE_S, self._probe)

    def _settle(self, waiters: list[_Waiter]) -> None:
        for _, written in waiters:
            if not written.done():
                written.set_exception(Unavailable(self._failed or "", hint=HINT))

    def _probe(self) -> None:
        if not self._closing:
            self._busy = True
            self._jobs.put(self._acknowledged())

    def _probed(self, end: Position, error: Exception | None) -> None:
        self._busy = False
        if error is not None:
            self._refuse(error)
        elif not self._closing:
            self._failed, self._end = None, end
            log.warning("the audit log can be written again")

    def _work(self) -> None:
        """The thread: writes batches, and probes a disk that refused; somebody waits for the answer. Keeps heads."""
        while (job := self._jobs.get()) is not None:
            if isinstance(job, dict):
                self._keep_head(job)
                continue
            error: Exception | None = None
            end = segments.EMPTY
            try:
                if isinstance(job, _Batch):
                    self._writer.write(job.data, job.end, begins=job.begins)
                else:
                    end = self._writer.heal(job)
            except Exception as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                if isinstance(job, _Batch):
                    self._loop.call_soon_threadsafe(self._done, job, error)
                else:
                    self._loop.call_soon_threadsafe(self._probed, end, error)
        self._writer.close()

    def _keep_head(self, signed: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            temporary = self._directory / "head.new"
            temporary.write_text(json.dumps(signed))
            temporary.replace(self._directory / "head.json")

    def _acknowledged(self) -> tuple[int, str]:
        try:
            kept = json.loads((self._directory / "head.json").read_bytes())
        except (OSError, ValueError):
            return 0, ""
        ours = isinstance(kept, dict) and head.valid(kept) and kept["key"] == self._signer.public
        return (int(kept["seq"]), str(kept["hash"])) if ours else (0, "")


def _locked(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Unavailable(f"the audit directory {directory} cannot be used: {error.strerror}", hint=HINT) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise Conflict(f"another process writes the audit log in {directory}", hint="remit status") from error
    return descriptor


_: type[ports.Journal] = Journal
