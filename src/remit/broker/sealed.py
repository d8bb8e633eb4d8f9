"""Sealed secrets: whoever stores one cannot read it back; only the node that uses it can.

The control plane holds the node's public key and seals (X25519 + XSalsa20-Poly1305, libsodium's sealed box); the node's
private key is a file (0600) of the decision service. The name is inside the seal, so that one blob cannot be put in
another's place. The control plane does see a secret at the moment it is put; it keeps nothing of it.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from remit.core.errors import Invalid, Unavailable

MAX_SECRET = 32 << 10
_MAGIC = b"remit-sealed-1"


def seal(public_key: bytes, name: str, value: bytes) -> bytes:
    """`value` sealed under `name`. `Invalid` where it is empty or over `MAX_SECRET` bytes."""
    if not 0 < len(value) <= MAX_SECRET:
        raise Invalid(f"a secret has 1 to {MAX_SECRET} bytes, this one has {len(value)}")
    return SealedBox(PublicKey(public_key)).encrypt(b"\0".join((_MAGIC, name.encode(), value)))


class Opener:
    """Opens with the private key in `file`; the public key stands beside it in `file`.pub for those who seal."""

    def __init__(self, file: Path) -> None:
        """Make the key on first use. `Unavailable` where others could read it."""
        if not file.exists():
            key = PrivateKey.generate()
            _write(file, bytes(key), 0o600)
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & 0o077:
            raise Unavailable(f"{file} can be read by others (mode {mode:o})", hint=f"chmod 600 {file}")
        key = PrivateKey(file.read_bytes())
        self._box = SealedBox(key)
        self.public = bytes(key.public_key)
        _write(file.with_suffix(".pub"), self.public, 0o644)

    def open(self, name: str, blob: bytes) -> bytes:
        """The value sealed under `name`. `Unavailable` where the blob was sealed for another key or another name."""
        try:
            magic, inner, value = self._box.decrypt(blob).split(b"\0", 2)
        except (CryptoError, ValueError, TypeError) as error:
            raise Unavailable(f"secret {name} was not sealed for this node", hint=f"remit secret put {name}") from error
        if magic != _MAGIC or inner != name.encode():
            raise Unavailable(f"the blob of secret {name} belongs to another name", hint=f"remit secret put {name}")
        return value


def _write(file: Path, data: bytes, mode: int) -> None:
    temporary = file.with_name(file.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as out:
        out.write(data)
    temporary.replace(file)
