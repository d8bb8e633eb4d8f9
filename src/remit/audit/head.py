"""The signed end of the log, kept elsewhere too: without it a log that lost its tail looks like a shorter log."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from remit.audit.segments import Position, sync_directory
from remit.core.errors import Unavailable

_SIGNED = ("seq", "hash", "segment", "offset", "time", "key")
_KEY_BYTES = 32


class Signer:
    """Signs with the Ed25519 key in a file (0600), made on first use. `public`: its public key, base64."""

    def __init__(self, file: Path) -> None:
        """`Unavailable`: the file is not a key, cannot be read or made, or others can read it."""
        try:
            raw = _read(file) if file.exists() else _made(file)
        except OSError as error:
            raise Unavailable(f"the audit key {file} cannot be used: {error.strerror}", hint="remit doctor") from error
        self._key = Ed25519PrivateKey.from_private_bytes(raw)
        self.public = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def sign(self, at: Position, time: str) -> dict[str, Any]:
        """The head as JSON values, with `signature` over all the others."""
        signed: dict[str, Any] = {
            "seq": at.seq,
            "hash": at.hash,
            "segment": at.segment,
            "offset": at.offset,
            "time": time,
            "key": self.public,
        }
        return {**signed, "signature": base64.b64encode(self._key.sign(_message(signed))).decode()}


def valid(head: Mapping[str, Any]) -> bool:
    """Whether the head carries the signature of the key that it names."""
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(head["key"], validate=True))
        key.verify(base64.b64decode(head["signature"], validate=True), _message(head))
    except (KeyError, ValueError, TypeError, InvalidSignature):
        return False
    return type(head["seq"]) is int and type(head["hash"]) is str


def _message(signed: Mapping[str, Any]) -> bytes:
    return json.dumps({name: signed[name] for name in _SIGNED}, separators=(",", ":")).encode()


def _read(file: Path) -> bytes:
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise Unavailable(f"the audit key {file} can be read by others", hint=f"chmod 600 {file}")
    raw = file.read_bytes()
    if len(raw) != _KEY_BYTES:
        raise Unavailable(f"{file} is not an Ed25519 key", hint="move it aside; a new one is made")
    return raw


def _made(file: Path) -> bytes:
    """A new key, whole in the file or not there at all; durable before it signs anything."""
    raw = Ed25519PrivateKey.generate().private_bytes_raw()
    temporary = file.with_name(file.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(raw)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)
    sync_directory(file.parent)
    return raw
