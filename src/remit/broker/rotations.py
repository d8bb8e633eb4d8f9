"""Secrets that were replaced by the service they belong to: refresh tokens that are good for one use.

The one before has ended when the next one is known, so the next is on disk, sealed to this node's own key, before
anything that came with it is used. It counts only as the successor of the very secret that an operator stored: whoever
stores another one begins anew. What cannot be written is kept, and written before that service is asked again.
Not covered: a crash or a lost connection between the service's answer and the write (services that allow the one before
for a few seconds cover that themselves).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from remit.broker import sealed, whole
from remit.broker.sealed import Opener
from remit.core.errors import Unavailable


class Rotations:
    """Files in `directory`, one a secret. Not for several processes."""

    def __init__(self, directory: Path, opener: Opener) -> None:
        self._directory = directory
        self._opener = opener
        self._unwritten: dict[str, tuple[bytes, bytes]] = {}

    def current(self, name: str, stored: bytes) -> bytes:
        """What has taken the place of `stored`, or `stored` itself. `Unavailable` where that cannot be known, or where
        an earlier one is still not written."""
        if name in self._unwritten:
            self._write(name, *self._unwritten[name])
        try:
            blob = self._file(name).read_bytes()
        except FileNotFoundError:
            return stored
        except OSError as error:
            raise Unavailable(f"the successor of secret {name} cannot be read: {error.strerror}") from error
        try:
            kept = json.loads(self._opener.own(sealed.OWN + "rotated:" + name, blob))
            origin, value = kept["origin"], kept["value"].encode()
        except (Unavailable, ValueError, KeyError, TypeError) as error:
            why = f"the successor of secret {name} cannot be opened"
            raise Unavailable(why, hint=f"log in anew and store it: remit secret put {name}") from error
        return value if origin == _digest(stored) else stored

    def replace(self, name: str, stored: bytes, value: bytes) -> None:
        """`value` takes the place of `stored`; durable on return. `Unavailable`: it is kept, but not written."""
        self._unwritten[name] = stored, value
        self._write(name, stored, value)

    def reseal(self) -> None:
        """`broker.rekeying.Own`. What cannot be opened is left: it could not be before."""
        for name in list(self._unwritten):
            self._write(name, *self._unwritten[name])
        try:
            found = [(file, file.read_bytes()) for file in self._directory.glob("*.sealed")]
        except OSError as error:
            raise Unavailable(f"the successors of secrets cannot be read: {error.strerror}") from error
        for file, blob in found:
            anew = self._opener.reseal_own(blob)
            if anew is not None:
                self._put(file, anew, "a secret")

    def _write(self, name: str, stored: bytes, value: bytes) -> None:
        plain = json.dumps({"origin": _digest(stored), "value": value.decode()}).encode()
        blob = sealed.seal(self._opener.public, sealed.OWN + "rotated:" + name, plain)
        self._put(self._file(name), blob, f"secret {name}")
        del self._unwritten[name]

    def _put(self, file: Path, blob: bytes, shown: str) -> None:
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            whole.replace(file, blob)
        except OSError as error:
            raise Unavailable(f"the successor of {shown} cannot be written: {error.strerror}") from error

    def _file(self, name: str) -> Path:
        return self._directory / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.sealed"


def _digest(value: bytes) -> str:
    """Only ever inside the seal."""
    return hashlib.sha256(value).hexdigest()
