"""Tokens that tasks hold at a secret store, written down before they are used.

After kill -9 the file says what was open, and a restart takes it back. Lines are JSON: `open` (with the token, sealed
to this node's own key) and `closed`. A line counts once it is on disk (fdatasync); a torn last line was never used.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import threading
from pathlib import Path

from remit.broker import sealed, whole
from remit.broker.sealed import Opener
from remit.core.errors import Unavailable

REWRITE = 1000
"""Lines after which the file is written anew with what is open."""


class Ledger:
    """For several threads, not for several processes. Every method that writes returns when it is durable;
    `Unavailable` where it cannot."""

    def __init__(self, file: Path, opener: Opener) -> None:
        self._file = file
        self._opener = opener
        self._open = _read(file)
        self._lines = 0
        self._torn = False
        """Whether a write may have stopped in the middle of a line."""
        self._writing = threading.Lock()
        """Held until what is written counts here: a rewrite in between would leave it out."""
        self._rewrite()

    def left(self) -> dict[str, str]:
        """Entries that are open, with their tokens. One that cannot be opened any more ends by itself."""
        found: dict[str, str] = {}
        for entry, blob in self._open.items():
            with contextlib.suppress(Unavailable, ValueError):
                found[entry] = self._opener.own(sealed.OWN + entry, base64.b64decode(blob)).decode()
        return found

    def open(self, token: str) -> str:
        """Write down that `token` is held; the entry's id."""
        entry = secrets.token_hex(12)
        with self._writing:
            blob = base64.b64encode(sealed.seal(self._opener.public, sealed.OWN + entry, token.encode())).decode()
            self._append({"open": entry, "token": blob})
            self._open[entry] = blob
        return entry

    def closed(self, entry: str) -> None:
        """The token of `entry` exists no more."""
        with self._writing:
            if self._open.pop(entry, None) is not None:
                self._append({"closed": entry})
                if self._lines > REWRITE + 2 * len(self._open):
                    self._rewrite()

    def reseal(self) -> None:
        """`broker.rekeying.Own`."""
        with self._writing:
            for entry, blob in self._open.items():
                anew = self._opener.reseal_own(_decoded(blob))
                if anew is not None:
                    self._open[entry] = base64.b64encode(anew).decode()
            self._rewrite()

    def _append(self, line: dict[str, str]) -> None:
        try:
            descriptor = os.open(self._file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write((b"\n" if self._torn else b"") + json.dumps(line).encode() + b"\n")
                self._torn = True
                out.flush()
                os.fdatasync(descriptor)
                self._torn = False
        except OSError as error:
            raise Unavailable(f"the list of leases cannot be written: {error.strerror}", hint="remit doctor") from error
        self._lines += 1

    def _rewrite(self) -> None:
        lines = [json.dumps({"open": entry, "token": blob}) + "\n" for entry, blob in self._open.items()]
        try:
            whole.replace(self._file, "".join(lines).encode())
        except OSError as error:
            raise Unavailable(f"the list of leases cannot be written: {error.strerror}", hint="remit doctor") from error
        self._lines, self._torn = len(self._open), False


def _decoded(blob: str) -> bytes:
    try:
        return base64.b64decode(blob)
    except ValueError:
        return b""


def _read(file: Path) -> dict[str, str]:
    try:
        lines = file.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Unavailable(f"the list of leases cannot be read: {error.strerror}", hint="remit doctor") from error
    found: dict[str, str] = {}
    for line in lines:
        with contextlib.suppress(ValueError):
            said = json.loads(line)
            if "open" in said:
                found[said["open"]] = said["token"]
            else:
                found.pop(said.get("closed"), None)
    return found
