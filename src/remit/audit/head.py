"""The signed end of the log, kept elsewhere too: without it a log that lost its tail looks like a shorter log."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from remit.audit.segments import Position

_SIGNED = ("seq", "hash", "segment", "offset", "time", "key")


class Signer:
    """Signs with the Ed25519 key in a file (0600), made on first use."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            raw = Ed25519PrivateKey.generate().private_bytes_raw()
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as out:
                out.write(raw)
        self._key = Ed25519PrivateKey.from_private_bytes(file.read_bytes())
        public = self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.public = base64.b64encode(public).decode()

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


def valid(head: dict[str, Any]) -> bool:
    """Whether the head carries the signature of the key that it names."""
    try:
        key = Ed25519PublicKey.from_public_bytes(base64.b64decode(head["key"], validate=True))
        key.verify(base64.b64decode(head["signature"], validate=True), _message({k: head[k] for k in _SIGNED}))
    except (KeyError, ValueError, TypeError, InvalidSignature):
        return False
    return True


def _message(signed: dict[str, Any]) -> bytes:
    return json.dumps({name: signed[name] for name in _SIGNED}, separators=(",", ":")).encode()
