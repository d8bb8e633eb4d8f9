"""Sealed secrets: whoever stores one cannot read it back; only the node that uses it can.

The control plane holds the node's public key and seals (X25519 + XSalsa20-Poly1305, libsodium's sealed box); the node's
private key is a file (0600) of the decision service. The name is inside the seal, so that one blob cannot be put in
another's place. The control plane does see a secret at the moment it is put; it keeps nothing of it. A seal says who
can open it, not who made it: whoever may write the store can replace a secret, but learns nothing.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from remit.broker import whole
from remit.core.errors import Conflict, Invalid, Unavailable
from remit.core.secret import Secret
from remit.core.source import MAX_KEPT_BYTES

MAX_NAME = 253
OWN = "own:"
_KEY_BYTES = 32
_MAGIC = b"remit-sealed-1"


def seal(public_key: bytes, name: str, value: bytes) -> bytes:
    """`value` sealed under `name`. `Invalid`: empty or over `MAX_KEPT_BYTES`, or a key or name is none."""
    if not 0 < len(value) <= MAX_KEPT_BYTES:
        raise Invalid(f"a secret has 1 to {MAX_KEPT_BYTES} bytes, this one has {len(value)}")
    if not 0 < len(name) <= MAX_NAME or "\0" in name:
        raise Invalid(f"{name[:64]!a} is not a name of a secret")
    if len(public_key) != _KEY_BYTES:
        raise Invalid(f"a sealing key has {_KEY_BYTES} bytes, this one has {len(public_key)}")
    return SealedBox(PublicKey(public_key)).encrypt(b"\0".join((_MAGIC, name.encode(), value)))


class Opener:
    """Opens with the private key in `file`; the public key stands beside it in `file`.pub for those who seal.

    Rotation: `rotate` makes a new key and keeps the one before in `file`.old, every blob is sealed anew (`reseal`),
    then `retire` forgets the old key (`broker.rekeying`).
    """

    def __init__(self, file: Path) -> None:
        """Make the key on first use. `Unavailable` where it is no key, others could read it, or it cannot be read."""
        self._file, self._old = file, file.with_suffix(".old")
        try:
            if not os.path.lexists(file):
                whole.replace(file, bytes(PrivateKey.generate()))
            self._load()
        except OSError as error:
            raise Unavailable(
                f"the sealing key {file} cannot be used: {error.strerror}", hint="remit doctor"
            ) from error

    def open(self, name: str, blob: bytes) -> Secret:
        """What is sealed under `name`. `Unavailable` where the blob was sealed for another key or another name."""
        for box in self._boxes:
            with contextlib.suppress(CryptoError, ValueError, TypeError):
                found = _named(name, box.decrypt(blob))
                if found is not None:
                    return found
                raise Unavailable(f"the blob of secret {name} belongs to another name", hint=f"remit secret put {name}")
        raise Unavailable(f"secret {name} was not sealed for this node", hint=f"remit secret put {name}")

    def own(self, name: str, blob: bytes) -> bytes:
        """What this node sealed for itself under `name`, which begins with `OWN`: no credential has such a name.

        `Unavailable` where the blob was sealed for another key or another name.
        """
        if name.startswith(OWN):
            for box in self._boxes:
                with contextlib.suppress(CryptoError, ValueError, TypeError):
                    prefix, plain = b"\0".join((_MAGIC, name.encode(), b"")), box.decrypt(blob)
                    if plain.startswith(prefix):
                        return plain[len(prefix) :]
        raise Unavailable("what this node sealed for itself cannot be opened", hint="remit doctor")

    def reseal(self, name: str, blob: bytes) -> bytes:
        """The same secret, sealed for the current key. `Unavailable` as in `open`."""
        for box in self._boxes:
            with contextlib.suppress(CryptoError, ValueError, TypeError):
                found = _resealed(name, box.decrypt(blob), self.public)
                if found is not None:
                    return found
        raise Unavailable(f"secret {name} was not sealed for this node", hint=f"remit secret put {name}")

    def reseal_own(self, blob: bytes) -> bytes | None:
        """What this node sealed for itself, for the current key; None where it cannot be opened (any more)."""
        for box in self._boxes:
            with contextlib.suppress(CryptoError, ValueError, TypeError):
                plain = box.decrypt(blob)
                if plain.startswith(b"\0".join((_MAGIC, OWN.encode()))):
                    return SealedBox(PublicKey(self.public)).encrypt(plain)
        return None

    def outdated(self, blob: bytes) -> bool:
        """Whether it opens with the key before the current one, and so would be lost with it."""
        for box in self._boxes[1:]:
            with contextlib.suppress(CryptoError, ValueError, TypeError):
                box.decrypt(blob)
                return True
        return False

    @property
    def changing(self) -> bool:
        """Whether there is an older key still."""
        return len(self._boxes) > 1

    def rotate(self) -> None:
        """Seal for a new key from now on. `Conflict` while an older one still waits to be retired. `Unavailable`:
        it could not be written; both keys open what they opened."""
        if self.changing:
            raise Conflict(
                "the sealing key before this one is still in use", hint="seal every secret anew, then retire it"
            )
        try:
            whole.replace(self._old, _private(self._file))
            whole.replace(self._file, bytes(PrivateKey.generate()))
            self._load()
        except OSError as error:
            raise Unavailable(f"the new sealing key cannot be written: {error.strerror}") from error

    def retire(self) -> None:
        """Forget the key before the current one: what is still sealed for it is lost. `Unavailable`: it is there."""
        try:
            self._old.unlink(missing_ok=True)
            self._load()
        except OSError as error:
            raise Unavailable(f"the sealing key before cannot be removed: {error.strerror}") from error

    def _load(self) -> None:
        current = PrivateKey(_private(self._file))
        old = [PrivateKey(_private(self._old))] if self._old.exists() else []
        keys = [current, *(key for key in old if key != current)]  # equal: a rotation ended before it made a new one
        self._boxes = [SealedBox(key) for key in keys]
        self.public = bytes(current.public_key)
        public = self._file.with_suffix(".pub")
        if not public.exists() or public.read_bytes() != self.public:
            whole.replace(public, self.public, 0o644)


def _named(name: str, plain: bytes) -> Secret | None:
    """A function of its own, so that no frame of a traceback holds an opened secret."""
    prefix = b"\0".join((_MAGIC, name.encode(), b""))
    return Secret(plain[len(prefix) :]) if plain.startswith(prefix) else None


def _resealed(name: str, plain: bytes, public: bytes) -> bytes | None:
    return SealedBox(PublicKey(public)).encrypt(plain) if _named(name, plain) is not None else None


def _private(file: Path) -> bytes:
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            raise Unavailable(
                f"{file} can be read by others (mode {stat.S_IMODE(status.st_mode):o})", hint=f"chmod 600 {file}"
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise Unavailable(f"{file} belongs to another user (uid {status.st_uid})", hint=f"chown it, or move {file}")
        key = opened.read(_KEY_BYTES + 1)
    if len(key) != _KEY_BYTES:
        raise Unavailable(f"{file} is not a sealing key", hint="move it aside; secrets sealed for it must be put again")
    return key
