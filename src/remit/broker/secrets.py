"""The secret for a permit: no permit, no secret.

Opened values live in memory only, and only while the blob they came from is the current one. The credential's pins and
its revocation are looked at here once more, next to the secret: a mistake elsewhere must not hand it out.
"""

from __future__ import annotations

from collections.abc import Mapping

from remit.broker.sealed import Opener
from remit.control.ports import Secrets
from remit.core import credential
from remit.core.credential import Credential, Injection
from remit.core.decision import Permit
from remit.core.errors import Unavailable
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Snapshot


class Broker:
    """`control.ports.Secrets` over the sealed blobs of the snapshot. For one event loop."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._blobs: Mapping[str, bytes] = {}
        self._revoked: frozenset[str] = frozenset()
        self._opened: dict[str, tuple[bytes, Secret | Refusal]] = {}
        self._fit: dict[tuple[str, Injection], Refusal | None] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Use the blobs of `snapshot` from now on; forget what was opened from others."""
        self._blobs, self._revoked = snapshot.sealed, snapshot.revoked.credentials
        self._opened = {name: kept for name, kept in self._opened.items() if self._blobs.get(name) == kept[0]}
        self._fit = {}

    def lease(self, permit: Permit) -> Secret | Refusal:
        wanted = permit.credential
        if wanted is None:
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, "this permit carries no credential")
        if wanted.name in self._revoked:
            return Refusal(Reason.CREDENTIAL_REVOKED, f"credential {wanted.name} was revoked")
        host = permit.candidate.request.host
        if not wanted.pinned_to(host):
            return Refusal(Reason.CREDENTIAL_NOT_PINNED, f"credential {wanted.name} is not pinned to {host}")
        found = self._found(wanted.secret)
        if isinstance(found, Refusal):
            return found
        return self._unfit(wanted, found, permit) or found

    def _found(self, name: str) -> Secret | Refusal:
        blob = self._blobs.get(name)
        if blob is None:
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, f"no secret {name} is stored")
        kept = self._opened.get(name)
        if kept is None or kept[0] != blob:
            kept = self._opened[name] = (blob, self._open(name, blob))
        return kept[1]

    def _open(self, name: str, blob: bytes) -> Secret | Refusal:
        try:
            return self._opener.open(name, blob)
        except Unavailable as error:
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, error.detail)

    def _unfit(self, wanted: Credential, secret: Secret, permit: Permit) -> Refusal | None:
        key = (wanted.secret, wanted.injection)
        if key not in self._fit:
            why = credential.unfit(secret.reveal(permit), wanted.injection)
            said = f"secret {wanted.secret}: {why}"
            self._fit[key] = Refusal(Reason.CREDENTIAL_UNAVAILABLE, said) if why is not None else None
        return self._fit[key]


_: type[Secrets] = Broker
