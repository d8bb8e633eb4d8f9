"""The secret for a permit: no permit, no secret.

Opened values live in memory only, and only while the blob they came from is the current one.
"""

from __future__ import annotations

from collections.abc import Mapping

from remit.broker.sealed import Opener
from remit.control.ports import Secrets
from remit.core import credential
from remit.core.decision import Permit
from remit.core.errors import Unavailable
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Snapshot


class Broker:
    """`control.ports.Secrets` over the sealed blobs of the snapshot."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._blobs: Mapping[str, bytes] = {}
        self._open: dict[str, tuple[bytes, Secret]] = {}

    def update(self, snapshot: Snapshot) -> None:
        """Use the blobs of `snapshot` from now on; forget what was opened from others."""
        self._blobs = snapshot.sealed
        self._open = {name: kept for name, kept in self._open.items() if snapshot.sealed.get(name) == kept[0]}

    def lease(self, permit: Permit) -> Secret | Refusal:
        wanted = permit.credential
        if wanted is None:
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, "this permit carries no credential")
        blob = self._blobs.get(wanted.secret)
        if blob is None:
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, f"no secret {wanted.secret} is stored")
        kept = self._open.get(wanted.secret)
        if kept is None:
            try:
                kept = (blob, Secret(self._opener.open(wanted.secret, blob)))
            except Unavailable as error:
                return Refusal(Reason.CREDENTIAL_UNAVAILABLE, error.detail)
            self._open[wanted.secret] = kept
        secret = kept[1]
        why = credential.unfit(secret.reveal(permit), wanted.injection)
        if why is not None:
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, f"secret {wanted.secret}: {why}")
        return secret


_: type[Secrets] = Broker
