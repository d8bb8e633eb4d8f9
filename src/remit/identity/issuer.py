"""The issuer: Ed25519 keys on disk, and the tokens they sign.

Whoever holds a signing key can be any task, so keys never leave this directory (files 0600) and nodes get public
halves only. A token travels in a PROXY v2 TLV, where some parsers cap the whole block at 512 bytes: a token over 400
bytes is never made. A rotated-out key verifies for `retain_s` more (tokens live on in open connections), then its
file is deleted; `activate(compromised=True)` deletes at once, and every connection under the old keys ends.
A new key signs only after nodes have learned of it: first `prepare`, then publish, then `activate`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from remit.control.ports import Clock
from remit.core.claims import MAX_TOKEN_BYTES, Claims
from remit.core.errors import Invalid, Unavailable

ALGORITHM = "EdDSA"
KID_LENGTH = 8
_FILE = re.compile(r"(?P<created>[0-9]{13,16})-(?P<kid>[0-9a-f]{8})\.pem")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    """`created` in Unix milliseconds: it orders keys, and says when the one before it was retired."""

    kid: str
    created: int
    private: Ed25519PrivateKey
    path: Path

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes_raw()


class Issuer:
    """Implements `control.ports_control.Issuer`. At the start the newest key signs; one is made where there is none."""

    def __init__(self, *, directory: Path, clock: Clock, retain_s: float) -> None:
        self._directory = directory
        self._clock = clock
        self._retain_ms = int(retain_s * 1000)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._keys = self._load()
        if not self._keys:
            self._add()
        self._signing = self._keys[-1]
        self._purge()

    def mint(self, claims: Claims) -> str:
        """A compact JWS (RFC 7515) with header {alg, kid} and claims sub, jti, exp, iat and, for a child, act."""
        payload: dict[str, object] = {
            "sub": claims.subject,
            "jti": claims.jti,
            "exp": claims.expires,
            "iat": claims.issued,
        }
        if claims.parent is not None:
            payload["act"] = claims.parent
        key = self._signing
        token = jwt.encode(payload, key.private, algorithm=ALGORITHM, headers={"kid": key.kid, "typ": None})
        if len(token) > MAX_TOKEN_BYTES:
            raise Invalid(
                f"the token of role {claims.role} would take {len(token)} bytes; at most {MAX_TOKEN_BYTES} fit",
                hint="shorten the role's name or the setting trust_domain",
            )
        return token

    def public_keys(self) -> Mapping[str, bytes]:
        self._purge()
        return {key.kid: key.public for key in self._keys}

    def prepare(self) -> str:
        """See `control.ports_control.Issuer.prepare`."""
        if self._keys[-1] is self._signing:
            self._add()
        else:
            self._begin_anew()
        return self._keys[-1].kid

    def activate(self, *, compromised: bool) -> None:
        """See `control.ports_control.Issuer.activate`."""
        self._signing = self._keys[-1]
        if compromised:
            for key in self._keys[:-1]:
                key.path.unlink(missing_ok=True)
            self._keys = self._keys[-1:]
            self._sync()
        self._purge()

    def _load(self) -> list[_Key]:
        found: list[_Key] = []
        for path in sorted(self._directory.iterdir()):
            match = _FILE.fullmatch(path.name)
            if match is None:
                continue
            try:
                private = serialization.load_pem_private_key(path.read_bytes(), password=None)
            except (OSError, ValueError) as error:
                raise Unavailable(
                    f"issuer key {path} cannot be read: {error}", hint="restore it, or delete it to rotate"
                ) from error
            if not isinstance(private, Ed25519PrivateKey):
                raise Unavailable(f"issuer key {path} is not an Ed25519 key", hint="restore it, or delete it to rotate")
            found.append(_Key(kid=_kid(private), created=int(match["created"]), private=private, path=path))
        return sorted(found, key=lambda key: key.created)

    def _add(self) -> None:
        private = Ed25519PrivateKey.generate()
        created = self._after(self._keys)
        path = self._directory / f"{created}-{_kid(private)}.pem"
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        temporary = path.with_suffix(".new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        self._sync()
        self._keys = [*self._keys, _Key(kid=_kid(private), created=created, private=private, path=path)]

    def _begin_anew(self) -> None:
        """A rotation that nodes did not hear of left this key: what it retires was in use until now."""
        *older, key = self._keys
        created = self._after(older)
        path = key.path.with_name(f"{created}-{key.kid}.pem")
        key.path.rename(path)
        self._sync()
        self._keys = [*older, replace(key, created=created, path=path)]

    def _sync(self) -> None:
        """A power cut must not take back which keys there are: nodes are told of them next."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _after(self, older: Sequence[_Key]) -> int:
        """Now, but later than all of them."""
        return max(int(self._clock.now().timestamp() * 1000), older[-1].created + 1 if older else 0)

    def _purge(self) -> None:
        now = int(self._clock.now().timestamp() * 1000)
        kept: list[_Key] = []
        for key, successor in zip(self._keys, [*self._keys[1:], None], strict=True):
            retired = successor.created if successor is not None and key is not self._signing else now
            if retired + self._retain_ms < now:
                key.path.unlink(missing_ok=True)
            else:
                kept.append(key)
        self._keys = kept


def _kid(private: Ed25519PrivateKey) -> str:
    return hashlib.sha256(private.public_key().public_bytes_raw()).hexdigest()[:KID_LENGTH]
