"""Room on the disk that is taken beforehand, so that revocations can be written when there is no other room.

A file of fixed size, written once in full. What it holds is overwritten in place, which needs no new blocks on ext4,
xfs and tmpfs (a copy-on-write file system, such as btrfs, may refuse; then `save` says so). Two slots are used in turn,
each with a digest, so that a write that is cut off leaves the one before it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import struct
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from remit.control.ports_control import Revocation, RevocationKind
from remit.core.errors import Unavailable

log = logging.getLogger(__name__)

SLOT_BYTES = 64 << 10
"""Some 400 revocations."""
_HEAD = struct.Struct(">QI32s")
_EMPTY = bytes(SLOT_BYTES)


class FileReserve:
    """Implements `control.ports_control.Reserve` on the file `path`."""

    def __init__(self, path: Path) -> None:
        """Takes the room if it is not taken yet; where that fails, `save` fails."""
        self._path = path
        self._turn = 0
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with contextlib.closing(os.fdopen(descriptor, "wb", buffering=0)) as file:
                while (size := os.fstat(descriptor).st_size) < 2 * SLOT_BYTES:
                    os.pwrite(descriptor, _EMPTY[: 2 * SLOT_BYTES - size], size)
                os.fsync(file.fileno())
        except OSError as error:
            log.error("no room is reserved for revocations on a full disk: %s: %s", path, error.strerror)

    def load(self) -> Sequence[Revocation]:
        """What was saved last. `Unavailable`: it cannot be read, or neither slot is whole."""
        try:
            content = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be read: {error.strerror}", hint="remit doctor") from error
        slots = [content[start : start + SLOT_BYTES] for start in (0, SLOT_BYTES)]
        used = [slot for slot in slots if slot.strip(b"\0")]
        whole = [found for slot in used if (found := _whole(slot)) is not None]
        if used and not whole:
            raise Unavailable(
                f"{self._path} is damaged: what was revoked while the disk was full cannot be told",
                hint=f"see `remit audit list --kind operator` of a copy, revoke it again, then remove {self._path}",
            )
        if not whole:
            return ()
        self._turn, said = max(whole, key=lambda found: found[0])
        return [
            Revocation(
                kind=RevocationKind(one["kind"]),
                name=one["name"],
                time=datetime.fromisoformat(one["time"]),
                operator=one["operator"],
            )
            for one in said
        ]

    def save(self, revocations: Sequence[Revocation]) -> None:
        """Durable when it returns. `Unavailable`: it is not."""
        body = json.dumps(
            [{"kind": r.kind, "name": r.name, "time": r.time.isoformat(), "operator": r.operator} for r in revocations]
        ).encode()
        if len(body) > SLOT_BYTES - _HEAD.size:
            raise Unavailable("too many revocations for the room that is reserved", hint="free some disk")
        turn = self._turn + 1
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                head = _HEAD.pack(turn, len(body), hashlib.sha256(struct.pack(">Q", turn) + body).digest())
                if os.pwrite(descriptor, head + body, turn % 2 * SLOT_BYTES) < len(head) + len(body):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be written: {error.strerror}", hint="remit doctor") from error
        self._turn = turn


def _whole(slot: bytes) -> tuple[int, list[dict[str, str]]] | None:
    turn, size, digest = _HEAD.unpack_from(slot)
    body = slot[_HEAD.size : _HEAD.size + size]
    if hashlib.sha256(struct.pack(">Q", turn) + body).digest() != digest:
        return None
    found: list[dict[str, str]] = json.loads(body)
    return turn, found
