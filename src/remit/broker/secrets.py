"""The secret for a permit: no permit, no secret.

Opened values live in memory only: sealed ones while the blob they came from is the current one, others until the end
that their source gave them (`cache`). The credential's pins and its revocation are looked at here once more, next to
the secret: a mistake elsewhere must not hand it out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from remit.broker.cache import NEVER, Cache, Key, Material
from remit.broker.exchanger import Exchanger
from remit.broker.sealed import Opener
from remit.control.ports import Secrets
from remit.core import credential
from remit.core.credential import Credential, Injection
from remit.core.decision import Permit
from remit.core.errors import Unavailable
from remit.core.reason import Reason, Refusal
from remit.core.secret import Secret
from remit.core.snapshot import Snapshot
from remit.core.source import Lease, Source
from remit.core.task import ALIVE

NO_STORE = "this node has no OpenBao (setting openbao_file)"


class Remote(Protocol):
    """A store beside the node (`openbao.source.OpenBao`)."""

    async def obtain(self, source: Source, task: str, credential: str) -> Material:
        """What `source` holds, or makes for `task`. Raises `Unavailable` with the reason."""
        ...

    def keep(self, wanted: Callable[[str, str], bool], alive: frozenset[str]) -> None:
        """Take back what tasks not in `alive` hold, and every lease that is not `wanted` (task, credential)."""
        ...


class Broker:
    """`control.ports.Secrets` over the sealed blobs of the snapshot and a store. For one event loop.

    `monotonic`: seconds that go on while the machine sleeps.
    """

    def __init__(self, opener: Opener, monotonic: Callable[[], float]) -> None:
        self._opener = opener
        self._remote: Remote | None = None
        self._exchanger: Exchanger | None = None
        self._cache = Cache(self._obtained, monotonic)
        self._blobs: Mapping[str, bytes] = {}
        self._revoked: frozenset[str] = frozenset()
        self._opened: dict[str, tuple[bytes, Secret | Refusal]] = {}
        self._fit: dict[tuple[str, Injection, bool], Refusal | None] = {}

    def attach(self, remote: Remote) -> None:
        """Use `remote` for what is not sealed."""
        self._remote = remote

    def exchange_with(self, exchanger: Exchanger) -> None:
        """Use `exchanger` for what is not presented as it is stored."""
        self._exchanger = exchanger

    def rejected(self, name: str) -> None:
        """A server answered 401 to what was presented for credential `name`."""
        self._cache.doubt(lambda key, by: key[0] == name and (by.exchange is not None or by.source is not None))

    def renewed(self, task: str, name: str, until: float, soon: bool) -> None:
        """The lease of credential `name` that `task` holds lasts until then; `soon`: another one is wanted."""
        self._cache.prolong((name, task), until=until, again=0.0 if soon else NEVER)

    def update(self, snapshot: Snapshot) -> None:
        """Use the blobs of `snapshot` from now on; forget what was opened from others."""
        before = self._blobs
        self._blobs, self._revoked = snapshot.sealed, snapshot.revoked.credentials
        self._opened = {name: kept for name, kept in self._opened.items() if self._blobs.get(name) == kept[0]}
        self._fit = {}
        rules, revoked = snapshot.rules, self._revoked
        replaced = {name for name in {*before, *self._blobs} if before.get(name) != self._blobs.get(name)}
        alive = frozenset(task.id for task in snapshot.tasks.values() if task.state in ALIVE)

        def stale(key: Key, by: Credential) -> bool:
            _, task = key
            if by.exchange is not None and by.secret in replaced:
                return True
            return by.name in revoked or rules.credentials.get(by.name) != by or bool(task and task not in alive)

        self._cache.forget(stale)
        if self._remote is not None:
            self._remote.keep(lambda task, name: name in rules.credentials and name not in revoked, alive)

    def lease(self, permit: Permit) -> Secret | Refusal | None:
        wanted = self._usable(permit)
        if isinstance(wanted, Refusal):
            return wanted
        if wanted.source is not None or wanted.exchange is not None:
            return self._cache.get(_key(wanted, permit), wanted, permit)
        found = self._found(wanted.secret)
        if isinstance(found, Refusal):
            return found
        return self._unfit(wanted, found, permit) or found

    async def obtain(self, permit: Permit) -> Secret | Refusal:
        found = self.lease(permit)
        if found is not None:
            return found
        wanted = self._usable(permit)
        if isinstance(wanted, Refusal):
            return wanted
        found = await self._cache.obtain(_key(wanted, permit), wanted, permit)
        again = self._usable(permit)  # it may have been revoked meanwhile
        return again if isinstance(again, Refusal) else found

    async def close(self) -> None:
        await self._cache.close()

    async def _obtained(self, permit: Permit) -> Material:
        wanted = permit.credential
        assert wanted is not None
        if wanted.source is None:
            found = self._found(wanted.secret)
            if isinstance(found, Refusal):
                raise Unavailable(found.detail)
            material = Material(value=found, until=NEVER, again=NEVER)
        elif self._remote is None:
            raise Unavailable(NO_STORE, hint="docs/guide, OpenBao")
        else:
            material = await self._remote.obtain(wanted.source, permit.candidate.task.id, wanted.name)
        if wanted.exchange is not None:
            if self._exchanger is None:
                raise Unavailable(f"credential {wanted.name}: this node exchanges no secrets")
            material = await self._exchanger.obtain(wanted, wanted.exchange, material.value.reveal(permit))
        value = material.value.reveal(permit)
        why = wanted.injection.unfit(value) or credential.unhideable(wanted, value)
        if why is not None:
            raise Unavailable(f"credential {wanted.name}: {why}")
        return material

    def _usable(self, permit: Permit) -> Credential | Refusal:
        wanted = permit.credential
        if wanted is None:
            return Refusal(Reason.CREDENTIAL_UNAVAILABLE, "this permit carries no credential")
        if wanted.name in self._revoked:
            return Refusal(Reason.CREDENTIAL_REVOKED, f"credential {wanted.name} was revoked")
        host = permit.candidate.request.host
        if not wanted.pinned_to(host):
            return Refusal(Reason.CREDENTIAL_NOT_PINNED, f"credential {wanted.name} is not pinned to {host}")
        return wanted

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
        key = (wanted.secret, wanted.injection, wanted.scrub)
        if key not in self._fit:
            value = secret.reveal(permit)
            why = wanted.injection.unfit(value) or credential.unhideable(wanted, value)
            said = f"secret {wanted.secret}: {why}"
            self._fit[key] = Refusal(Reason.CREDENTIAL_UNAVAILABLE, said) if why is not None else None
        return self._fit[key]


def _key(wanted: Credential, permit: Permit) -> Key:
    """What is stored is the same for every task; what is made is made for one."""
    return wanted.name, permit.candidate.task.id if isinstance(wanted.source, Lease) else ""


_: type[Secrets] = Broker
